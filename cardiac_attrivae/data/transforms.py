"""Transforms that MONAI lacks, and `preprocessing`, which composes them.

A case goes in as ``{"record": CaseRecord}`` and comes out as a list of dictionaries, one per chosen
slice, with a crop of image and mask and all measurements on the native grid.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import Compose, MapTransform, MaskIntensityd, Transform
from torch.nn.functional import grid_sample

from ..attributes import is_one_heart, measure, pixel_counts
from ..schema import HEART, CaseRecord, DataError, Keys, Structure
from .images import laid_on, read_image
from .nifti import are_finite, read_mask

SLICES = ("basal", "mid", "max-area", "all")

Case = Mapping[Hashable, Any]


@dataclass(frozen=True)
class Recipe:
    """Settings that preprocessing depends on.

    Attributes:
        slice: ``basal``: the most basal usable slice; ``mid``: halfway between the most basal and
            the most apical; ``max-area``: the one that shows most of the heart; ``all`` of them.
        spacing: Pixel size of the crop in mm.
        size: Pixels along each side of the crop.
        least_pixels: A slice is usable if each structure has more pixels than this.
        percentiles: Intensities inside the mask that become 0 and 1.
    """

    slice: str = "basal"
    spacing: float = 1.3
    size: int = 128
    least_pixels: int = 10
    percentiles: tuple[float, float] = (1.0, 99.0)

    def __post_init__(self) -> None:
        if self.slice not in SLICES:
            raise ValueError(f"slice is {self.slice!r}; expected one of {', '.join(SLICES)}")
        if not 0.1 <= self.spacing <= 10:
            raise ValueError(f"spacing is {self.spacing} mm; expected 0.1 to 10")
        if not 16 <= self.size <= 1024:
            raise ValueError(f"size is {self.size} pixels; expected 16 to 1024")


def preprocessing(recipe: Recipe) -> Compose:
    """Composes the transforms from ``{"record": CaseRecord}`` to a list of slices.

    There is one interpolation from native voxels to the crop. The mask is applied after it, so that
    no background leaks into the heart. Intensities are scaled last, inside the mask.

    Example:
        >>> transform = preprocessing(Recipe(slice="all", size=96))
        >>> [type(step).__name__ for step in transform.transforms][:3]
        ['ReadPhased', 'ToCanonicalLabelsd', 'MeasureHeart']
    """
    both = (Keys.IMAGE, Keys.LABEL)
    return Compose(
        [
            ReadPhased(both),
            ToCanonicalLabelsd(Keys.LABEL),
            MeasureHeart(),
            SelectSlices(recipe.slice, recipe.least_pixels),
            AlignHeartd(both, recipe.spacing, recipe.size),
            MaskIntensityd(Keys.IMAGE, mask_key=Keys.LABEL),
            ScaleIntensityInMaskd(Keys.IMAGE, Keys.LABEL, recipe.percentiles),
        ]
    )


class ReadPhased(MapTransform):
    """Reads image and mask at the frame of the record; adds ``spacing`` (mm along i, j, slices).

    MONAI's LoadImage decodes a whole cine and takes the spacing from the affine, which in ACDC is a
    placeholder.

    Raises:
        DataError: If a file is damaged, image and mask do not fit, or the image is not finite.
    """

    def __call__(self, data: Case) -> dict[Hashable, Any]:
        record: CaseRecord = data["record"]
        image = read_image(record.image, record.frame)
        mask = laid_on(image, read_mask(record.mask, record.frame), record)
        if image.voxels.shape != mask.voxels.shape:
            raise DataError(
                f"image has shape {image.voxels.shape} and mask {mask.voxels.shape}; expected equal"
            )
        if not are_finite(image.voxels):
            raise DataError(f"{record.image.name} holds NaN or infinite values, or beyond float32")
        values = (image.voxels, mask.voxels)
        return {**data, **dict(zip(self.keys, values, strict=True)), "spacing": image.spacing_mm}


class ToCanonicalLabelsd(MapTransform):
    """Renumbers a raw mask by the record's label numbers; after it LV is 1, MYO 2, RV 3.

    Raises:
        DataError: If the mask holds a number that the manifest does not name, or no label at all.
    """

    def __call__(self, data: Case) -> dict[Hashable, Any]:
        record: CaseRecord = data["record"]
        numbers, out = record.label_numbers, dict(data)
        for key in self.keys:
            raw = data[key]
            canonical, known = np.zeros_like(raw, dtype=np.uint8), np.zeros_like(raw, dtype=bool)
            for number, structure in numbers.items():
                here = raw == number
                known |= here
                canonical += here * np.uint8(structure)
            if not known.all():
                unknown = ", ".join(f"{n:.6g}" for n in np.unique(raw[~known])[:5])
                accepted = ", ".join(f"{n} {s.name}" for n, s in numbers.items())
                raise DataError(f"{record.mask.name} holds label {unknown}; expected {accepted}")
            out[key] = canonical
            if not out[key].any():
                raise DataError(f"{record.mask.name} is empty at {record.phase}: no mask to use")
        return out


class MeasureHeart(Transform):
    """Adds ``mask``, the native mask cut to the box around the heart, and its pixel ``counts``.

    Raises:
        DataError: If there is a second LV: volumes would be those of two hearts.
    """

    def __call__(self, data: Case) -> dict[Hashable, Any]:
        mask = data[Keys.LABEL]
        if not is_one_heart(mask == Structure.LV):
            raise DataError(f"{data['record'].mask.name} shows the LV in two places; expected one")
        plane = mask.any(axis=2)
        i, j = np.flatnonzero(plane.any(axis=1)), np.flatnonzero(plane.any(axis=0))
        box = mask[i[0] : i[-1] + 1, j[0] : j[-1] + 1]
        return {**data, "mask": box, "counts": pixel_counts(box)}


def usable_slices(counts: np.ndarray, least_pixels: int = 10) -> list[int]:
    """Lists the slices that show every structure, the most basal one first.

    The base is the end that shows more heart, because stacks come in both orders.

    Args:
        counts: Pixels of each structure in each slice, (S, 4).
        least_pixels: A usable slice has more of each.

    Raises:
        DataError: If no slice shows them all.

    Example:
        >>> apex_first = np.array([[0, 0, 40, 0], [0, 60, 80, 50], [0, 150, 120, 200]])
        >>> usable_slices(apex_first)
        [2, 1]
    """
    counts = counts[:, HEART]
    usable = np.flatnonzero((counts > least_pixels).all(axis=1))
    if not len(usable):
        most = ", ".join(f"{s.name} {n}" for s, n in zip(HEART, counts.max(axis=0), strict=True))
        raise DataError(
            f"no slice shows more than {least_pixels} pixels each of LV, MYO and RV (most: {most})"
        )
    apex_first = counts[usable[-1]].sum() > counts[usable[0]].sum()
    return [int(i) for i in (usable[::-1] if apex_first else usable)]


class SelectSlices(Transform):
    """Chooses slices and makes a dictionary for each of them, with its ``slice_index`` and
    ``attributes``, name -> value.
    """

    def __init__(self, slice: str = "basal", least_pixels: int = 10) -> None:
        self.slice, self.least_pixels = slice, least_pixels

    def __call__(self, data: Case) -> list[dict[Hashable, Any]]:
        counts = data["counts"]
        usable = usable_slices(counts, self.least_pixels)
        if self.slice == "basal":
            usable = usable[:1]
        elif self.slice == "mid":
            usable = [usable[len(usable) // 2]]
        elif self.slice == "max-area":
            usable = [max(usable, key=lambda index: counts[index, HEART].sum())]
        return [
            {**data, "slice_index": i, "attributes": measure(counts, data["spacing"], i)}
            for i in sorted(usable)
        ]


class AlignHeartd(MapTransform):
    """Cuts an upright crop around the heart out of one slice, in one interpolation.

    The barycentre of LV and myocardium together becomes the centre of the crop; the barycentre of
    the RV lies straight to the viewer's left of it. With rows along j and columns along i, a
    rotation is enough to put the anterior wall up in ACDC and M&Ms: nothing is mirrored. Pixels
    outside the native image become 0.

    The first key is the image (linear), the second the mask (nearest); both become (1, size, size).
    Adds ``rotation_deg``, by which the patient was turned, counter-clockwise as seen.
    """

    def __init__(self, keys: KeysCollection, spacing: float, size: int) -> None:
        super().__init__(keys)
        self.spacing, self.size = spacing, size

    def __call__(self, data: Case) -> dict[Hashable, Any]:
        (image, label), index = (data[key] for key in self.keys), data["slice_index"]
        image, label = image[..., index], label[..., index]
        axes, centre = heart_axes(label, data["spacing"][:2])
        points = crop_points(axes, centre, data["spacing"][:2], self.spacing, self.size)
        crops = (sample(image, points, "bilinear"), sample(label, points, "nearest"))
        out = {key: crop[None] for key, crop in zip(self.keys, crops, strict=True)}
        return {**data, **out, "rotation_deg": float(np.degrees(np.arctan2(*axes[::-1, 0])))}


def heart_axes(label: np.ndarray, spacing: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Finds the viewer's right and down in a native slice, and the point to centre on.

    Args:
        label: Canonical mask, (I, J).
        spacing: mm along i and j.

    Returns:
        Rotation (2, 2), columns right and down, in mm along (i, j); barycentre (2,) in mm.

    Raises:
        DataError: If the RV lies around the LV, so that it has no direction.

    Example:
        >>> label = np.zeros((9, 9), np.uint8)
        >>> label[6, 4], label[1, 4] = Structure.LV, Structure.RV  # the RV lies towards small i
        >>> axes, centre = heart_axes(label, spacing=(1.5, 1.5))
        >>> axes.tolist(), centre.tolist()
        ([[1.0, 0.0], [-0.0, 1.0]], [9.0, 6.0])
    """
    left = barycentre((label == Structure.LV) | (label == Structure.MYO)) * spacing
    right = barycentre(label == Structure.RV) * spacing
    towards_rv, distance = right - left, np.linalg.norm(right - left)
    if distance < 1e-3:
        raise DataError("LV and RV have the same barycentre; the slice has no orientation")
    x, y = -towards_rv / distance
    return np.array([[x, -y], [y, x]]), left


def barycentre(region: np.ndarray) -> np.ndarray:
    """Computes the mean index of the pixels of a region (I, J), (2,).

    Example:
        >>> region = np.zeros((5, 5), bool)
        >>> region[1, 1:4] = True
        >>> barycentre(region).tolist()
        [1.0, 2.0]
    """
    sums = (region.sum(axis=1), region.sum(axis=0))
    return np.array([along @ np.arange(len(along)) for along in sums]) / sums[0].sum()


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


def sample(plane: np.ndarray, points: np.ndarray, mode: str) -> np.ndarray:
    """Samples a plane (I, J) at points (2, H, W) in native pixels, (H, W) float32.

    Calls PyTorch's grid sampling in double precision. MONAI's Resample, which wraps it, takes four
    times as long, ITK ten times. Beyond the last pixel the values fade to 0 within a pixel
    (``bilinear``) or are 0 (``nearest``).

    Example:
        >>> plane = np.array([[0.0, 1.0], [2.0, 3.0]])
        >>> points = np.array([[[0.0, 0.5]], [[1.0, 0.5]]])  # (0, 1) and the middle
        >>> sample(plane, points, "bilinear").tolist()
        [[1.0, 1.5]]
    """
    sides = np.array(plane.shape)[:, None, None]
    grid = np.stack(((2 * points + 1) / sides - 1)[::-1], axis=-1)  # (j, i) in [-1, 1]
    image = torch.from_numpy(plane[None, None].astype(np.float64))
    values = grid_sample(image, torch.from_numpy(grid[None]), mode, "zeros", align_corners=False)
    return values[0, 0].float().numpy()


class ScaleIntensityInMaskd(MapTransform):
    """Maps two percentiles of the intensities inside the mask to 0 and 1, and clips.

    With percentiles a single bright voxel does not set the scale; ``(0, 100)`` is min-max.

    Raises:
        DataError: If the image has one value throughout the mask.
    """

    def __init__(
        self, keys: KeysCollection, mask_key: str, percentiles: tuple[float, float]
    ) -> None:
        super().__init__(keys)
        self.mask_key, self.percentiles = mask_key, percentiles

    def __call__(self, data: Case) -> dict[Hashable, Any]:
        out = dict(data)
        inside = np.asarray(data[self.mask_key]) > 0
        for key in self.keys:
            image = np.asarray(data[key])
            low, high = np.percentile(image[inside], self.percentiles)
            if not high > low:
                raise DataError(f"the image is {low:g} throughout the mask; expected contrast")
            out[key] = np.where(inside, np.clip((image - low) / (high - low), 0, 1), 0)
        return out
