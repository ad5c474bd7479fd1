"""Computes which slice is cropped and where: orientation, centre, one interpolation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from ..heart import shows
from ..schema import HEART, DataError, Structure
from .recipe import STACK_MM

WHOLE_RV = 0.75
"""Share of the RV's area in the next slice that it has at least in the most basal one: in the
experts' masks of 79 of 80 patients of ACDC at ED."""


def usable_slices(counts: np.ndarray, least_pixels: int = 10, predicted: bool = False) -> list[int]:
    """Lists the slices that show every structure, the most basal one first; refuses a heart without
    any.

    The base is the end that shows more heart, because stacks come in both orders. A usable slice
    has more than ``least_pixels`` of each structure; ``counts`` are (S, 4). If a segmenter drew the
    mask (``predicted``), slices at the base are left out whose RV is far smaller than in the next
    one, because it was drawn in part.

    Example:
        >>> apex_first = np.array([[0, 0, 40, 0], [0, 60, 80, 50], [0, 150, 120, 200]])
        >>> usable_slices(apex_first)
        [2, 1]
    """
    rv, counts = counts[:, Structure.RV], counts[:, HEART]
    usable = np.flatnonzero((counts > least_pixels).all(axis=1))
    if not len(usable):
        most = ", ".join(f"{s.name} {n}" for s, n in zip(HEART, counts.max(axis=0), strict=True))
        raise DataError(
            f"no slice shows more than {least_pixels} pixels each of LV, MYO and RV (most: {most})"
        )
    apex_first = counts[usable[-1]].sum() > counts[usable[0]].sum()
    found = [int(i) for i in (usable[::-1] if apex_first else usable)]
    while predicted and len(found) > 2 and rv[found[0]] < WHOLE_RV * rv[found[1]]:
        found.pop(0)
    return found


def stack_planes(
    counts: np.ndarray, usable: Sequence[int], between_mm: float, stack: int
) -> np.ndarray:
    """Finds the slices of a stack: the native slice nearest to each of its heights.

    Heights are `STACK_MM` / stack apart, from the most basal usable slice towards the apex. Where
    native slices are farther apart than that, one stands at several heights.

    Args:
        counts: Pixels of each structure in each slice, (S, 4).
        usable: What `usable_slices` returns.
        between_mm: Distance of native slices.
        stack: Number of slices.

    Returns:
        Indices of native slices, (stack,); of a short scan some lie beyond its last slice.

    Example:
        >>> counts = np.array([[0, 60, 80, 50], [0, 90, 90, 90], [0, 40, 70, 20]])
        >>> stack_planes(counts, [1, 0], 10.0, 5).tolist()  # 18 mm apart; the base is above
        [1, -1, -3, -4, -6]
    """
    heart = np.flatnonzero(counts[:, HEART].any(axis=1))
    base = usable[0]
    if len(usable) > 1:
        towards_apex = np.sign(usable[-1] - base)
    else:  # the longer part of the heart lies below the base
        towards_apex = 1 if heart[-1] - base >= base - heart[0] else -1
    steps = np.arange(stack) * (STACK_MM / stack / between_mm)
    return base + int(towards_apex) * np.floor(steps + 0.5).astype(int)


def heart_axes(label: np.ndarray, spacing: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Finds the viewer's right and down in a canonical mask of a native slice, (I, J), and the
    point to centre on. Refuses one without a structure, or with the RV around the LV, which has no
    direction.

    Returns:
        Rotation (2, 2), columns right and down, in mm along (i, j); barycentre (2,) in mm.

    Example:
        >>> label = np.zeros((9, 9), np.uint8)
        >>> label[6, 4], label[1, 4] = Structure.LV, Structure.RV  # the RV lies towards small i
        >>> axes, centre = heart_axes(label, spacing=(1.5, 1.5))
        >>> axes.tolist(), centre.tolist()
        ([[1.0, 0.0], [-0.0, 1.0]], [9.0, 6.0])
    """
    regions = shows(label, Structure.LV, Structure.MYO), shows(label, Structure.RV)
    for name, region in zip(("LV", "RV"), regions, strict=True):
        if not region.any():
            raise DataError(f"the slice shows no {name}; expected LV, MYO and RV")
    left, right = barycentre(np.stack(regions)) * spacing
    towards_rv, distance = right - left, np.linalg.norm(right - left)
    if distance < 1e-3:
        raise DataError("LV and RV have the same barycentre; the slice has no orientation")
    x, y = -towards_rv / distance
    return np.array([[x, -y], [y, x]]), left


def barycentre(region: np.ndarray) -> np.ndarray:
    """Computes the mean index of the pixels of regions (..., I, J), (..., 2); refuses an empty one.

    Example:
        >>> region = np.zeros((5, 5), bool)
        >>> region[1, 1:4] = True
        >>> barycentre(region).tolist()
        [1.0, 2.0]
    """
    pixels = region.astype(np.float32)  # faster than truth values, and as exact
    height, width = region.shape[-2:]
    rows, columns = pixels @ np.ones(width, np.float32), np.ones(height, np.float32) @ pixels
    count = rows.sum(axis=-1, dtype=np.float64)
    if not np.all(count):
        raise DataError("the region is empty; expected pixels")
    sums = rows @ np.arange(height), columns @ np.arange(width)
    return np.stack(sums, axis=-1) / count[..., None]


def crop_points(
    axes: np.ndarray,
    centre: np.ndarray,
    native_spacing: tuple[float, float],
    spacing: float,
    size: int,
) -> np.ndarray:
    """Computes where the pixels of a crop lie in the native slice.

    Args:
        axes: Directions right and down of the crop as columns, in mm along (i, j), (2, 2).
        centre: Point in the native slice that becomes the centre of the crop, in mm, (2,).
        native_spacing: mm along i and j.
        spacing: Pixel size of the crop in mm.
        size: Pixels along each side of the crop.

    Returns:
        Places (i, j) in native pixels, (2, size, size).

    Example:
        >>> points = crop_points(np.eye(2), np.array([6.0, 6.0]), (2.0, 2.0), spacing=1.0, size=3)
        >>> points[:, 1, 1].tolist(), points[:, 1, 2].tolist()  # the centre, and right of it
        ([3.0, 3.0], [3.5, 3.0])
    """
    steps = np.arange(size) - (size - 1) / 2
    right, down = (axes * spacing / np.asarray(native_spacing)[:, None]).T
    middle = np.asarray(centre) / native_spacing
    return (
        middle[:, None, None] + down[:, None, None] * steps[:, None] + right[:, None, None] * steps
    )


def relative(points: np.ndarray, sides: tuple[int, int]) -> Tensor:
    """Turns points (2, H, W) in native pixels of slices (I, J), of these ``sides``, into what
    PyTorch samples at: (1, H, W, 2), (j, i) from -1 to 1 across a slice.

    Example:
        >>> relative(np.array([[[0.0, 0.5]], [[1.0, 0.5]]]), (2, 2)).tolist()
        [[[[0.5, -0.5], [0.0, 0.0]]]]
    """
    grid = np.empty((1, *points.shape[1:], 2))
    for axis, (side, places) in enumerate(zip(sides[::-1], points[::-1], strict=True)):
        grid[0, ..., axis] = (2 * places + 1) / side - 1
    return torch.from_numpy(grid)


def sample(planes: np.ndarray, grid: Tensor, mode: str) -> np.ndarray:
    """Samples planes (..., I, J) at what `relative` returns, (..., H, W) float32.

    Calls PyTorch's grid sampling in double precision. MONAI's Resample, which wraps it, takes four
    times as long, ITK ten times. Beyond the last pixel the values fade to 0 within a pixel
    (``bilinear``) or are 0 (``nearest``).

    Example:
        >>> plane = np.array([[0.0, 1.0], [2.0, 3.0]])
        >>> points = np.array([[[0.0, 0.5]], [[1.0, 0.5]]])  # (0, 1) and the middle
        >>> sample(plane, relative(points, plane.shape), "bilinear").tolist()
        [[1.0, 1.5]]
    """
    *before, height, width = planes.shape
    images = torch.from_numpy(planes.reshape(1, -1, height, width).astype(np.float64))
    values = grid_sample(images, grid, mode, "zeros", align_corners=False)
    return values.float().numpy().reshape(*before, *grid.shape[1:3])


def cut_off(
    label: np.ndarray,
    axes: np.ndarray,
    centre: np.ndarray,
    native_spacing: tuple[float, float],
    field_mm: float,
) -> tuple[float, float]:
    """Measures how much of a heart lies outside its crop, a square of ``field_mm`` about what
    `heart_axes` returns.

    Returns:
        Share of the heart's pixels outside; side in mm of the crop that holds all of them.

    Example:
        >>> label = np.zeros((9, 9), np.uint8)
        >>> label[4, 4], label[1, 4] = Structure.LV, Structure.RV  # the RV is 6 mm away
        >>> cut_off(label, np.eye(2), np.array([8.0, 8.0]), (2.0, 2.0), field_mm=10)
        (0.5, 14.0)
    """
    shown = label > 0

    def reach(i: np.ndarray, j: np.ndarray) -> np.ndarray:
        places = np.stack([i, j], axis=1) * native_spacing - centre
        return np.maximum(*np.abs(places @ axes).T)

    columns = np.flatnonzero(shown.any(axis=0))
    first, last = (way[:, columns].argmax(axis=0) for way in (shown, shown[::-1]))
    ends = np.concatenate([first, len(shown) - 1 - last])  # the farthest pixels are among them
    most = float(reach(ends, np.tile(columns, 2)).max())
    cut = (reach(*np.nonzero(shown)) > field_mm / 2).mean() if most > field_mm / 2 else 0.0
    return float(cut), 2 * most + max(native_spacing)
