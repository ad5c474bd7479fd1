"""The table of attributes: what each one is called, is, needs and measures on a canonical mask.

To add an attribute, add an entry to `ATTRIBUTES`: stores, pipelines, scores, pictures, the explorer
and the messages that list attributes read the entry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from enum import StrEnum
from typing import NamedTuple

import numpy as np

from .schema import HEART, Phase, Structure

Spacing = tuple[float, float, float]

SECOND = 0.25
"""Share of the largest part of an LV above which another part is another LV."""


def pixel_counts(mask: np.ndarray) -> np.ndarray:
    """Counts the pixels of each structure in each slice of a canonical mask (I, J, S), (S, 4).

    Example:
        >>> mask = np.array([[[0, 1], [2, 1]], [[3, 0], [2, 1]]])  # two slices of 2 x 2 pixels
        >>> pixel_counts(mask).tolist()
        [[1, 0, 2, 1], [1, 3, 0, 0]]
    """
    slices, labels = mask.shape[-1], len(Structure)
    cells = mask + labels * np.arange(slices)  # a cell of the table for each voxel
    return np.bincount(cells.ravel(order="K"), minlength=slices * labels).reshape(slices, labels)


def is_one_heart(cavity: np.ndarray) -> bool:
    """Tells whether the LV, a truth value for each voxel (I, J, S), looks like one part along S.

    A second LV is a part that lies apart and is `SECOND` of the first or more. None of the 102
    patients of ACDC and M&Ms at hand has any.
    """
    from scipy.ndimage import label

    parts, _ = label(cavity.any(axis=2), np.ones((3, 3)))
    sizes = np.sort(np.bincount(parts.ravel())[1:])
    return len(sizes) < 2 or sizes[-2] < SECOND * sizes[-1]


def volume_ml(counts: np.ndarray, spacing: Spacing, structure: Structure) -> float:
    """Measures the volume over all slices in mL: voxels times voxel volume, nothing interpolated.

    Example:
        >>> counts = np.array([[0, 90, 0, 0], [0, 80, 0, 0]])
        >>> round(volume_ml(counts, (1.25, 1.25, 8.0), Structure.LV), 3)
        2.125
    """
    return float(counts[:, structure].sum() * np.prod(spacing) / 1000)


def area_cm2(counts: np.ndarray, spacing: Spacing, structure: Structure, index: int) -> float:
    """Measures the area in one slice in cm^2: pixels times pixel area.

    Example:
        >>> counts = np.array([[0, 90, 0, 0], [0, 80, 0, 0]])
        >>> area_cm2(counts, (1.25, 1.25, 8.0), Structure.LV, 1)
        1.25
    """
    return float(counts[index, structure] * spacing[0] * spacing[1] / 100)


class Kind(StrEnum):
    """Physical kind of an attribute."""

    AREA = "area"  # in the chosen slice
    VOLUME = "volume"  # of the whole heart: one slice cannot show it
    RATIO = "ratio"
    MASS = "mass"
    LENGTH = "length"


class Attribute(NamedTuple):
    """One attribute of a slice.

    Attributes:
        name: Name in pipelines, stores and tables.
        label: Name for readers.
        unit: ``cm2``, ``mL``, ...; empty for a plain number.
        kind: What it is physically.
        structure: Structure whose size it follows.
        phases: Phases whose masks it needs.
        measure: Function of the pixel counts (S, 4), the spacing in mm and the index of the slice.
    """

    name: str
    label: str
    unit: str
    kind: Kind
    structure: Structure
    phases: tuple[Phase, ...]
    measure: Callable[[np.ndarray, Spacing, int], float]


# The paper writes MEDV for the volume of the myocardium.
_NAMES = {
    Structure.LV: ("LV", "LV"),
    Structure.MYO: ("M", "Myocardial"),
    Structure.RV: ("RV", "RV"),
}


def _volume(structure: Structure) -> Attribute:
    prefix, word = _NAMES[structure]
    return Attribute(
        f"{prefix}EDV", f"{word} volume at ED", "mL", Kind.VOLUME, structure, (Phase.ED,),
        lambda counts, spacing, index: volume_ml(counts, spacing, structure),
    )  # fmt: skip


def _area(structure: Structure) -> Attribute:
    prefix, word = _NAMES[structure]
    return Attribute(
        f"{prefix}EDA", f"{word} area at ED", "cm2", Kind.AREA, structure, (Phase.ED,),
        lambda counts, spacing, index: area_cm2(counts, spacing, structure, index),
    )  # fmt: skip


ATTRIBUTES: dict[str, Attribute] = {
    attribute.name: attribute for make in (_volume, _area) for attribute in map(make, HEART)
}

VOLUMES = tuple(_volume(structure).name for structure in HEART)
"""The volumes of all structures, in the order of `HEART`."""

AREAS = tuple(_area(structure).name for structure in HEART)
"""The areas of all structures in a slice, in the order of `HEART`."""


def label_of(name: str) -> str:
    """Returns the label of an attribute; another name as it is.

    Example:
        >>> [label_of(name) for name in ("MEDA", "stiffness")]
        ['Myocardial area at ED', 'stiffness']
    """
    return ATTRIBUTES[name].label if name in ATTRIBUTES else name


def spelled(names: Iterable[str]) -> str:
    """Explains names that stand in a table.

    Example:
        >>> spelled(["LVEDA", "RVEDV"])
        'LVEDA is LV area at ED, RVEDV is RV volume at ED'
    """
    return ", ".join(f"{name} is {label_of(name)}" for name in names if name in ATTRIBUTES)


def is_area(name: str) -> bool:
    """Tells whether a slice shows an attribute completely, as the area of its structure.

    Example:
        >>> [name for name in ("LVEDV", "LVEDA", "no such name") if is_area(name)]
        ['LVEDA']
    """
    return name in ATTRIBUTES and ATTRIBUTES[name].kind is Kind.AREA


def measure(counts: np.ndarray, spacing: Spacing, index: int) -> dict[str, float]:
    """Measures every attribute of one slice.

    Args:
        counts: `pixel_counts` of the mask of the whole heart on the native grid, (S, 4).
        spacing: mm along i, j and between slices, from pixdim.
        index: The slice that areas are taken in.

    Example:
        >>> counts = np.array([[0, 90, 5, 0], [0, 80, 64, 0]])
        >>> found = measure(counts, (1.25, 1.25, 8.0), index=1)
        >>> found["LVEDA"], found["MEDA"], round(found["LVEDV"], 3)
        (1.25, 1.0, 2.125)
    """
    return {name: a.measure(counts, spacing, index) for name, a in ATTRIBUTES.items()}


def check_names(names: Iterable[str]) -> tuple[str, ...]:
    """Returns the names as a tuple.

    Raises:
        ValueError: If a name is unknown or given twice, or there is none.
    """
    names = tuple(names)
    for name in names:
        if name not in ATTRIBUTES:
            near = get_close_matches(str(name).upper(), ATTRIBUTES, n=1)
            hint = f", did you mean {near[0]!r}?" if near else ""
            known = ", ".join(ATTRIBUTES)
            raise ValueError(f"unknown attribute {name!r}{hint}; expected some of {known}")
    if not names or len(set(names)) < len(names):
        raise ValueError(f"attributes are {names}; expected one or more, each once")
    return names
