"""The table of attributes: name, unit, and what each one measures on a canonical mask.

To add an attribute, add an entry to `ATTRIBUTES`; stores, pipelines and scores know it by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from .schema import HEART, Structure

Spacing = tuple[float, float, float]

SECOND = 0.25
"""Share of the largest part of an LV above which another part is another LV."""


def pixel_counts(mask: np.ndarray) -> np.ndarray:
    """Pixels of each structure in each slice of a canonical mask (I, J, S), (S, 4)."""
    slices, labels = mask.shape[-1], len(Structure)
    cells = mask + labels * np.arange(slices)  # a cell of the table for each voxel
    return np.bincount(cells.ravel(), minlength=slices * labels).reshape(slices, labels)


def is_one_heart(cavity: np.ndarray) -> bool:
    """Whether the LV, a truth value for each voxel (I, J, S), is seen once when looking along S.

    A second LV is a part that lies apart and is `SECOND` of the first or more. None of the 102
    patients of ACDC and M&Ms at hand has any.
    """
    from scipy.ndimage import label

    parts, _ = label(cavity.any(axis=2), np.ones((3, 3)))
    sizes = np.sort(np.bincount(parts.ravel())[1:])
    return len(sizes) < 2 or sizes[-2] < SECOND * sizes[-1]


def volume_ml(counts: np.ndarray, spacing: Spacing, structure: Structure) -> float:
    """Volume over all slices in mL: voxels times voxel volume, no interpolation between slices."""
    return float(counts[:, structure].sum() * np.prod(spacing) / 1000)


def area_cm2(counts: np.ndarray, spacing: Spacing, structure: Structure, index: int) -> float:
    """Area in one slice in cm^2: pixels times pixel area."""
    return float(counts[index, structure] * spacing[0] * spacing[1] / 100)


class Attribute(NamedTuple):
    """One attribute of a slice.

    ``measure`` takes pixel counts (S, 4), spacing in mm and the index of the slice. Every attribute
    so far is proportional to the area of ``structure`` when the slice is stretched in its plane.
    """

    name: str
    unit: str
    structure: Structure
    measure: Callable[[np.ndarray, Spacing, int], float]


def _volume(prefix: str, structure: Structure) -> Attribute:
    return Attribute(f"{prefix}EDV", "mL", structure, lambda c, s, _: volume_ml(c, s, structure))


def _area(prefix: str, structure: Structure) -> Attribute:
    return Attribute(f"{prefix}EDA", "cm2", structure, lambda c, s, i: area_cm2(c, s, structure, i))


# The paper writes MEDV for the myocardium.
_PREFIX = {Structure.LV: "LV", Structure.MYO: "M", Structure.RV: "RV"}

ATTRIBUTES: dict[str, Attribute] = {
    attribute.name: attribute
    for make in (_volume, _area)
    for attribute in (make(_PREFIX[structure], structure) for structure in HEART)
}

AREAS = tuple(_area(_PREFIX[structure], structure).name for structure in HEART)
"""The areas of all structures in a slice, in the order of `HEART`."""


def measure(counts: np.ndarray, spacing: Spacing, index: int) -> dict[str, float]:
    """Every attribute of one slice.

    Args:
        counts: `pixel_counts` of the mask of the whole heart on the native grid, (S, 4).
        spacing: mm along i, j and between slices, from pixdim.
        index: The slice that areas are taken in.
    """
    return {name: a.measure(counts, spacing, index) for name, a in ATTRIBUTES.items()}


def check_names(names: Iterable[str]) -> tuple[str, ...]:
    """The names as a tuple, or an error that names the first unknown one."""
    names = tuple(names)
    for name in names:
        if name not in ATTRIBUTES:
            known = ", ".join(ATTRIBUTES)
            raise ValueError(f"unknown attribute {name!r}; expected some of {known}")
    if not names or len(set(names)) < len(names):
        raise ValueError(f"attributes are {names}; expected one or more, each once")
    return names
