"""The table of attributes: what each one is called, is, needs and measures on a canonical mask.

To add an attribute, add an entry to `ATTRIBUTES`: stores, pipelines, scores, pictures, the explorer
and the messages that list attributes read the entry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from enum import StrEnum
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from .heart import Outlines, eccentricity, mass_g, shows, ventricle
from .schema import HEART, Phase, Structure, structures_at

Hearts = Mapping[Phase, Outlines]
"""The heart of a patient at the phases that are known."""

ED, ES = Phase.ED, Phase.ES


class Kind(StrEnum):
    """Physical kind of an attribute."""

    AREA = "area"  # in the chosen slice
    VOLUME = "volume"  # of the whole heart: one slice cannot show it
    RATIO = "ratio"
    MASS = "mass"
    LENGTH = "length"
    SHAPE = "shape"  # areas say nothing of it


class Attribute(NamedTuple):
    """One attribute of a slice."""

    name: str  # name in pipelines, stores and tables
    label: str  # name for readers
    unit: str  # ``cm2``, ``mL``, ``%``, ...; empty for a plain number
    kind: Kind  # what it is physically
    structure: Structure  # structure whose size it follows
    phases: tuple[Phase, ...]  # phases whose masks it needs
    measure: Callable[[Hearts], float]  # function of the outlined heart at these phases
    # what the areas of a drawn slice say of it, see `drawn`; None takes the area of its structure
    drawn: Callable[[Any], Any] | None = None
    digits: int = 1  # digits after the point, where it is printed
    below: float = np.inf  # what no heart has of it, however large
    # what a drawn heart may miss of a small request, in its unit, and count as it; None where what
    # is seen in a slice is too far from it to tell
    near: float | None = 1.0
    # whether a store of ED has its column. The others are measured on the masks when they are asked
    # for, so that such a store stays the same byte for byte.
    in_every_store: bool = True


def column(phase: Phase, structure: Structure) -> int:
    """Returns where an area stands among those of all phases: LV, MYO, RV at ED, then at ES.

    Example:
        >>> column(Phase.ES, Structure.MYO)
        4
    """
    return len(HEART) * list(Phase).index(phase) + HEART.index(structure)


def column_of(name: str) -> int:
    """Returns where the area of an attribute's structure stands, at its last phase, see `column`.

    Example:
        >>> column_of("RVEDV"), column_of("LVESA")
        (2, 3)
    """
    return column(ATTRIBUTES[name].phases[-1], ATTRIBUTES[name].structure)


def structures_of(name: str) -> tuple[str, ...]:
    """Names the structure of an attribute at each of its phases, see `structures_at`.

    Example:
        >>> structures_of("MEDA"), structures_of("LVEF")
        (('MYO',), ('LV', 'LV_ES'))
    """
    about = ATTRIBUTES[name]
    return tuple(structures_at(Phase)[column(phase, about.structure)] for phase in about.phases)


# The paper writes MEDV for the volume of the myocardium.
_NAMES = {
    Structure.LV: ("LV", "LV"),
    Structure.MYO: ("M", "Myocardial"),
    Structure.RV: ("RV", "RV"),
}


def _area_of(areas: Any, phase: Phase, structure: Structure) -> Any:
    return areas[..., column(phase, structure)]


def _volume(phase: Phase, structure: Structure) -> Attribute:
    prefix, word = _NAMES[structure]
    return Attribute(
        f"{prefix}{phase}V", f"{word} volume at {phase}", "mL", Kind.VOLUME, structure, (phase,),
        lambda at: at[phase].volume(structure), in_every_store=phase == ED,
    )  # fmt: skip


def _area(phase: Phase, structure: Structure) -> Attribute:
    prefix, word = _NAMES[structure]
    return Attribute(
        f"{prefix}{phase}A", f"{word} area at {phase}", "cm2", Kind.AREA, structure, (phase,),
        lambda at: at[phase].area(structure), in_every_store=phase == ED,
    )  # fmt: skip


def _pumped(at: Hearts, structure: Structure) -> Any:
    return ventricle(at[ED].volume(structure), at[ES].volume(structure))


def _ejection_fraction(structure: Structure, near: float | None) -> Attribute:
    prefix, word = _NAMES[structure]

    def area_change(areas: Any) -> Any:
        """Fractional area change: what is seen of an ejection fraction in a slice."""
        before, after = (_area_of(areas, phase, structure) for phase in (ED, ES))
        return 100 * (1 - after / (before + TINY))

    return Attribute(
        f"{prefix}EF", f"{word} ejection fraction", "%", Kind.RATIO, structure, (ED, ES),
        lambda at: _pumped(at, structure).ef_percent, area_change, below=100, near=near,
        in_every_store=False,
    )  # fmt: skip


TINY = 1e-6
"""cm2 that keep a ratio of drawn areas finite where nothing is drawn."""


def _ring_mm(areas: Any, phase: Phase) -> Any:
    """Thickness of a ring of the areas of cavity and wall, in mm."""
    cavity, wall = (_area_of(areas, phase, s) for s in (Structure.LV, Structure.MYO))
    return 10 * (((cavity + wall) / np.pi) ** 0.5 - (cavity / np.pi) ** 0.5)


def _wall(
    phase: Phase, name: str, word: str, summary: Callable[[Any], Any], near: float | None
) -> Attribute:
    return Attribute(
        f"{name}_{phase}", f"{word} wall thickness at {phase}", "mm", Kind.LENGTH, Structure.MYO,
        (phase,), lambda at: _thickness(at[phase], summary), partial(_ring_mm, phase=phase),
        near=near, in_every_store=False,
    )  # fmt: skip


def _thickness(heart: Outlines, summary: Callable[[Any], Any]) -> float:
    return float(summary(heart.wall)) if len(heart.wall) else float("nan")


def _thickening(before: Any, after: Any) -> Any:
    """Growth of the wall from ED to ES in percent."""
    return 100 * (after / (before + TINY) - 1)


_SINGLE = (
    Attribute(
        "LVSV", "LV stroke volume", "mL", Kind.VOLUME, Structure.LV, (ED, ES),
        lambda at: _pumped(at, Structure.LV).sv_ml,
        lambda areas: areas[..., column(ED, Structure.LV)] - areas[..., column(ES, Structure.LV)],
        in_every_store=False,
    ),
    Attribute(
        "LVM", "LV mass", "g", Kind.MASS, Structure.MYO, (ED,),
        lambda at: mass_g(at[ED].volume(Structure.MYO)), in_every_store=False,
    ),
    Attribute(
        "thickening", "Wall thickening", "%", Kind.RATIO, Structure.MYO, (ED, ES),
        lambda at: _thickening(*(_thickness(at[phase], np.mean) for phase in (ED, ES))),
        lambda areas: _thickening(_ring_mm(areas, ED), _ring_mm(areas, ES)), near=10,
        in_every_store=False,
    ),
    Attribute(
        "LV_eccentricity", "LV eccentricity at ED", "", Kind.SHAPE, Structure.LV, (ED,),
        lambda at: eccentricity(shows(at[ED].plane, Structure.LV), at[ED].spacing[:2]),
        digits=2, below=1, in_every_store=False,
    ),
)  # fmt: skip

ATTRIBUTES: dict[str, Attribute] = {
    attribute.name: attribute
    for attribute in (
        *(_volume(ED, structure) for structure in HEART),
        *(_area(ED, structure) for structure in HEART),
        *(_volume(ES, structure) for structure in (Structure.LV, Structure.RV)),
        *(_area(ES, structure) for structure in HEART),
        # of ACDC's 100 training patients, what the areas of a slice say of LVEF is within 10 points
        # of it in 72, of RVEF in 19; of thickening in 99; of the mean wall within 1 mm in 94
        _ejection_fraction(Structure.LV, near=10),
        _ejection_fraction(Structure.RV, near=None),
        *(_wall(phase, "WT_mean", "Mean", np.mean, near=1) for phase in (ED, ES)),
        *(_wall(phase, "WT_max", "Largest", np.max, near=None) for phase in (ED, ES)),
        *_SINGLE,
    )
}


def drawn(name: str, areas: Any, unit: str = "cm2") -> Any:
    """Returns what the areas of drawn slices say of an attribute.

    An area is the area of its structure. Of a volume or a mass that area is what a slice shows, of
    an ejection fraction the fractional area change, of a wall the ring of the same areas. A stack
    shows volumes, and the mass of the wall.

    Args:
        name: Attribute.
        areas: Areas of LV, MYO and RV at ED, then at ES, in cm^2, (..., 3 C): array or tensor.
        unit: Theirs; in ``mL`` they are the volumes that a stack shows, which tell no length.

    Returns:
        (...), NaN of a shape, and of a length in a stack.

    Example:
        >>> drawn("LVEF", np.array([20.0, 15, 30, 8, 16, 20])).round(3).item()  # from 20 to 8 cm2
        60.0
        >>> drawn("LVM", np.array([120.0, 100, 150]), "mL").round(3).item()  # g
        105.0
    """
    entry = ATTRIBUTES[name]
    if is_own_area(name):
        size = _area_of(areas, entry.phases[-1], entry.structure)
        return mass_g(size) if entry.kind is Kind.MASS and unit == "mL" else size
    if entry.drawn is None or (entry.kind is Kind.LENGTH and unit != "cm2"):
        return areas[..., 0] * float("nan")
    return entry.drawn(areas)


def is_own_area(name: str) -> bool:
    """Tells whether a slice shows of an attribute the area of its structure, see `drawn`.

    Example:
        >>> [name for name in ("MEDA", "LVEDV", "LVEF", "LV_eccentricity") if is_own_area(name)]
        ['MEDA', 'LVEDV']
    """
    return ATTRIBUTES[name].drawn is None and ATTRIBUTES[name].kind is not Kind.SHAPE


VOLUMES = tuple(_volume(ED, structure).name for structure in HEART)
"""The volumes of all structures at ED, in the order of `HEART`."""

AREAS = tuple(_area(ED, structure).name for structure in HEART)
"""The areas of all structures in a slice at ED, in the order of `HEART`."""


def areas_at(phases: Iterable[Phase]) -> tuple[str, ...]:
    """Returns the areas of all structures at some phases, in the order of `column`.

    Example:
        >>> areas_at([Phase.ED, Phase.ES])
        ('LVEDA', 'MEDA', 'RVEDA', 'LVESA', 'MESA', 'RVESA')
    """
    return tuple(_area(phase, structure).name for phase in phases for structure in HEART)


def names_at(phases: Sequence[Phase]) -> tuple[str, ...]:
    """Returns the attributes that stores with the masks of these phases have columns of.

    Example:
        >>> names_at([Phase.ED])
        ('LVEDV', 'MEDV', 'RVEDV', 'LVEDA', 'MEDA', 'RVEDA')
        >>> names_at([Phase.ED, Phase.ES])[-3:]
        ('LVM', 'thickening', 'LV_eccentricity')
    """
    return tuple(
        name
        for name, a in ATTRIBUTES.items()
        if (a.in_every_store if len(phases) == 1 else set(a.phases) <= set(phases))
    )


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


def is_size(name: str, unit: str) -> bool:
    """Tells whether slices show an attribute as the size of its structure: one slice an area, a
    stack a volume, within the few percent that lie between and beyond its slices.

    Args:
        name: Attribute, or another name.
        unit: Unit of what is measured, ``cm2`` or in stacks ``mL``, see `Scale`.

    Example:
        >>> [name for name in ("LVEDV", "LVEDA", "LVSV", "age") if is_size(name, "mL")]
        ['LVEDV']
    """
    return name in ATTRIBUTES and is_own_area(name) and ATTRIBUTES[name].unit == unit


def drawn_by(names: Sequence[str], unit: str) -> dict[int, int]:
    """Tells which attribute decides how large a structure is drawn: the one that is named first, of
    its size and of ratios that end with it, as an ejection fraction does with the LV at ES.

    Args:
        names: Attributes.
        unit: Unit of what is measured, see `is_size`.

    Returns:
        Column of the size, see `column_of` -> number of the attribute.

    Example:
        >>> drawn_by(["LVEDA", "LVEF", "LVESA", "LVEDV"], "cm2")  # LVEF is drawn by the area at ES
        {0: 0, 3: 1}
    """
    found: dict[int, int] = {}
    for number, name in enumerate(names):
        if is_size(name, unit) or (name in ATTRIBUTES and ATTRIBUTES[name].kind is Kind.RATIO):
            found.setdefault(column_of(name), number)
    return found


def is_area(name: str) -> bool:
    """Tells whether a slice shows an attribute completely, as the area of its structure.

    Example:
        >>> [name for name in ("LVEDV", "LVEDA", "no such name") if is_area(name)]
        ['LVEDA']
    """
    return name in ATTRIBUTES and ATTRIBUTES[name].kind is Kind.AREA


def measure(hearts: Hearts, names: Iterable[str] | None = None) -> dict[str, float]:
    """Measures attributes of one slice; NaN where the mask of a phase is missing.

    Args:
        hearts: The heart at each known phase, all at the same slice.
        names: Which attributes; None measures all of them.

    Example:
        >>> mask = np.zeros((20, 20, 2), np.uint8)
        >>> mask[2:12, 2:10, 1], mask[2:10, 10:18, 1] = Structure.LV, Structure.MYO
        >>> found = measure({Phase.ED: Outlines(mask, (1.25, 1.25, 8.0), index=1)})
        >>> found["LVEDA"], found["MEDA"], round(found["LVEDV"], 3), found["LVEF"]
        (1.25, 1.0, 1.0, nan)
    """
    return {
        name: a.measure(hearts) if set(a.phases) <= hearts.keys() else float("nan")
        for name, a in ATTRIBUTES.items()
        if names is None or name in names
    }


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
        raise ValueError(
            f"attributes are {', '.join(names) or 'none'}; expected one or more, each once"
        )
    return names


def check_values(values: Mapping[str, float]) -> None:
    """Refuses values of attributes, in their units, that no heart can have.

    Raises:
        ValueError: If a name is unknown, or a value is no number that a heart can have.

    Example:
        >>> check_values({"LVEDA": 28})
        >>> check_values({"LVEF": 150})
        Traceback (most recent call last):
        ValueError: LVEF is 150 %; expected a number above 0 and below 100
    """
    for name in check_names(values):
        value: Any = values[name]
        about = ATTRIBUTES[name]
        is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
        if not (is_number and 0 < value < about.below):
            found = f"{value:g} {about.unit}".rstrip() if is_number else repr(value)
            most = f" and below {about.below:g}" if about.below < np.inf else ""
            raise ValueError(f"{name} is {found}; expected a number above 0{most}")
