"""Compares what was requested of a drawn heart with what is measured in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..attributes import ATTRIBUTES, Kind, column_of, drawn, is_size
from ..schema import Scale

NEAR = 0.1
"""A value is reached if it is measured within this share of the request, or as near as its entry in
`ATTRIBUTES` says."""


def compared(
    found: np.ndarray, request: Mapping[str, float], names: Sequence[str], scale: Scale
) -> pd.DataFrame:
    """Lists requested beside measured: a row per requested attribute and per one of the model.

    Args:
        found: Measured areas of LV, MYO and RV, see `data.store.areas`, (3 P,).
        request: Attribute -> value.
        names: Attributes of the model.
        scale: Says whether they are areas, or volumes of a stack.

    Returns:
        Columns attribute, requested, unit, structure, measured_cm2 (in stacks measured_mL),
        the size of that structure at the attribute's last phase, error_cm2 (error_mL), tolerance:
        how near counts as reached, in the attribute's unit, and reached: whether it is measured so
        near. If one is among them that is no size of a structure, also measured: what the sizes say
        of it, in its unit, see `attributes.drawn`.
    """
    told = {Kind.RATIO, Kind.LENGTH} | ({Kind.MASS} if scale.unit == "mL" else set())
    rows = []
    for name in dict.fromkeys([*request, *names]):
        attribute, wanted = ATTRIBUTES[name], request.get(name, np.nan)
        size = float(found[column_of(name)])
        seen = attribute.kind in told or attribute.unit == scale.unit
        own = is_size(name, scale.unit)
        said = float(drawn(name, found, scale.unit)) if seen and not own else np.nan
        hit = reached(name, wanted, size if own else said)
        rows.append({
            "attribute": name, "requested": wanted, "unit": attribute.unit,
            "structure": attribute.structure.name, f"measured_{scale.unit}": size,
            f"error_{scale.unit}": size - wanted if own else np.nan,
            "tolerance": np.nan if np.isnan(hit) else tolerance(name, wanted),
            "reached": hit, "measured": said,
        })  # fmt: skip
    table = pd.DataFrame(rows)
    return table if table["measured"].notna().any() else table.drop(columns="measured")


def tolerance(name: str, wanted: float) -> float:
    """Returns how near to a requested value of an attribute counts as reached, in its unit, see
    `NEAR`; NaN if nothing does.

    Example:
        >>> tolerance("LVEDA", 28), tolerance("LVEF", 35), tolerance("RVEF", 35)
        (2.8, 10, nan)
    """
    near = ATTRIBUTES[name].near
    return float("nan") if near is None or np.isnan(wanted) else max(round(NEAR * wanted, 6), near)


def reached(name: str, wanted: float, found: float) -> bool | float:
    """Tells whether a requested value of an attribute is measured within its `tolerance`; NaN if
    there is nothing to compare.

    Example:
        >>> reached("LVEDA", 28, 30), reached("LVEF", 35, 50), reached("RVEF", 35, 20)
        (True, False, nan)
    """
    error, near = abs(found - wanted), tolerance(name, wanted)
    return bool(error <= near) if np.isfinite(error) and np.isfinite(near) else np.nan


def measured_in(row: Mapping[Any, Any]) -> float:
    """Returns what a row of `compared` says was measured of its attribute, in its unit; NaN if the
    unit is another one than that of all that is measured."""
    size = row.get(f"measured_{row['unit']}", np.nan)
    said = row.get("measured", np.nan)
    return size if np.isnan(said) else said


def not_reached(table: pd.DataFrame) -> list[str]:
    """Writes a sentence for each requested value that was not drawn, see `compared`."""
    return [
        f"{row['attribute']} {row['requested']:g} {row['unit']} was not reached: "
        f"{measured_in(row):.1f} {row['unit']}, more than {row['tolerance']:g} away"
        for row in table.to_dict("records")
        if row["reached"] is False
    ]
