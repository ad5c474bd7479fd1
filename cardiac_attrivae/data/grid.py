"""Brings the slices of a scan to the grid that the network sees, and what it says back to the scan.

The centre of a slice stays the centre; pixels of the grid are square and of one size for all scans.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

STEP = 16
"""Sides of the grid are multiples of it, because the network halves them four times."""
WINDOW = (1.0, 99.0)
"""Percentiles of a stack that become 0 and 1."""


def windowed(image: np.ndarray, percentiles: tuple[float, float] = WINDOW) -> np.ndarray:
    """Scales a stack (X, Y, Z) in any unit to [0, 1] between two percentiles of all its voxels,
    float32.

    Example:
        >>> windowed(np.arange(101.0).reshape(101, 1, 1))[[0, 50, 100], 0, 0].tolist()
        [0.0, 0.5, 1.0]
    """
    image = np.asarray(image, dtype=np.float32)
    low, high = np.percentile(image, percentiles)
    return np.clip((image - low) / max(high - low, 1e-6), 0, 1).astype(np.float32)


def grid_size(shape: tuple[int, ...], spacing_mm: tuple[float, ...], grid_mm: float) -> int:
    """Computes the pixels of ``grid_mm`` along a side of the grid that holds whole slices of a
    scan.

    Example:
        >>> grid_size((256, 216), (1.56, 1.56), grid_mm=1.5)
        272
    """
    field_mm = max(shape[0] * spacing_mm[0], shape[1] * spacing_mm[1])
    return STEP * math.ceil(field_mm / grid_mm / STEP)


def to_grid(
    stack: np.ndarray,
    spacing_mm: tuple[float, ...],
    grid_mm: float,
    size: int,
    mode: str = "bilinear",
) -> Tensor:
    """Samples each slice of a stack (X, Y, Z) on the grid, zero outside it.

    Args:
        stack: Signal or labels.
        spacing_mm: Spacing along X, Y (and Z).
        grid_mm: Side of a pixel of the grid.
        size: Pixels along a side of the grid.
        mode: ``bilinear`` for signal, ``nearest`` for labels.

    Returns:
        Slices, (Z, size, size) float32.

    Example:
        >>> to_grid(np.ones((20, 20, 2)), (3.0, 3.0, 8.0), 1.5, size=32)[:, 16, 16].tolist()
        [1.0, 1.0]
    """
    values = torch.from_numpy(np.ascontiguousarray(stack, dtype=np.float32)).permute(2, 0, 1)
    sides = [n * mm / grid_mm for n, mm in zip(stack.shape[:2], spacing_mm[:2], strict=True)]
    return _sampled(values[:, None], [size / s for s in sides], (size, size), mode, "zeros")[:, 0]


def from_grid(
    fields: Tensor, shape: tuple[int, ...], spacing_mm: tuple[float, ...], grid_mm: float
) -> Tensor:
    """Samples fields on the grid, (Z, C, H, W), at the pixels of a scan, (Z, C, X, Y): the way back
    of `to_grid`.

    Example:
        >>> there = to_grid(np.ones((20, 20, 2)), (3.0, 3.0, 8.0), 1.5, size=48)
        >>> from_grid(there[:, None], (20, 20), (3.0, 3.0), 1.5)[0, 0, 10, 10].item()
        1.0
    """
    sides = [n * mm / grid_mm for n, mm in zip(shape[:2], spacing_mm[:2], strict=True)]
    scales = [side / n for side, n in zip(sides, fields.shape[2:], strict=True)]
    return _sampled(fields, scales, (shape[0], shape[1]), "bilinear", "border")


def _sampled(
    fields: Tensor, scales: list[float], shape: tuple[int, int], mode: str, padding: str
) -> Tensor:
    """Samples fields (N, C, H, W) about their centre, ``scales`` of their height and width."""
    theta = torch.tensor([[scales[1], 0.0, 0.0], [0.0, scales[0], 0.0]])
    count = len(fields)
    grid = affine_grid(theta.expand(count, 2, 3), [count, 1, *shape], align_corners=False)
    return grid_sample(fields, grid, mode, padding, align_corners=False)
