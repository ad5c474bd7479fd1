"""Does the drawn heart follow its dimension? Scores of areas measured in decoded slices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from ..attributes import ATTRIBUTES, column, drawn, is_own_area, is_size
from ..schema import Phase, structures_at
from .intervals import with_mean
from .metric import Good, Metric, Score, Section, table_of
from .patients import draw_patients
from .scales import CORRELATION, PLAIN, POSITIVE

STEPS = np.linspace(-2, 2, 9)
"""Where a dimension is set when control is measured, in standard deviations of training codes."""


@dataclass(frozen=True)
class Movement:
    """What was drawn when the dimension of one attribute was moved, from each of P patients.

    Example:
        >>> requested = np.array([10.0, 20.0])
        >>> measured = np.array([[[12.0, 9.0, 9.0], [17.0, 9.0, 10.0]]])
        >>> Movement(requested, measured, [0], np.ones(3)).slopes
        array([[0.5, 0. , 0.1]])
    """

    requested: np.ndarray  # what the attribute was asked to be, (S,)
    # areas of LV, MYO and RV in the drawn slices in cm2, at each phase, (P, S, 3 C)
    measured: np.ndarray
    own: Sequence[int]  # columns of the attribute's structure, one for each of its phases
    deviations: np.ndarray  # standard deviation of the areas over patients, (3 C,)
    # whether what is measured is the attribute itself: a slice holds no volume
    is_size: bool = True
    # what these areas say of the attribute, (P, S), see `attributes.drawn`; None where that is the
    # area of its structure
    said: np.ndarray | None = None

    @cached_property
    def slopes(self) -> np.ndarray:
        """What is measured per unit requested, (P, 3 C)."""
        return self._slopes(self.measured)

    def _slopes(self, measured: np.ndarray) -> np.ndarray:
        centred = self.requested - self.requested.mean()
        return np.einsum("s,psk->pk", centred, measured) / max((centred**2).sum(), 1e-12)

    @property
    def drawn(self) -> np.ndarray:
        """What is drawn of the attribute, (P, S)."""
        return self.measured[:, :, self.own[0]] if self.said is None else self.said

    def slope(self, shares: np.ndarray) -> float:
        """What is drawn of the attribute per unit requested, with the share of each patient."""
        if self.said is None:
            return (shares @ self.slopes)[self.own[0]]
        return shares @ self._slopes(self.said[..., None])[:, 0]

    @cached_property
    def grew(self) -> np.ndarray:
        """Share of neighbouring steps at which it grew, (P,); nan of a shape."""
        steps = np.diff(self.drawn, axis=1)
        return np.where(np.isfinite(steps), steps > 0, np.nan).mean(axis=1)

    @cached_property
    def errors(self) -> np.ndarray:
        """Mean of |measured - requested|, (P,); nan where the attribute is not what is measured."""
        errors = np.abs(self.drawn - self.requested).mean(axis=1)
        return errors if self.is_size else errors * np.nan


def follows(movement: Movement, counts: np.ndarray) -> float:
    """Computes the Spearman correlation of requested and measured, over all slices; nan of a shape.

    ``counts`` says how often each of the P patients counts, (P,).

    Example:
        >>> measured = np.array([[[1.0, 5.0, 5.0], [2.0, 4.0, 5.0]]])
        >>> requested = np.array([1.0, 2.0])
        >>> movement = Movement(requested, measured, [1], np.ones(3))
        >>> round(follows(movement, np.array([1])), 3)
        -1.0
    """
    drawn = np.repeat(movement.drawn, counts, axis=0)
    wanted = np.tile(movement.requested, len(drawn))
    if np.isnan(drawn).any():
        return float("nan")
    flat = np.ptp(drawn) == 0 or np.ptp(movement.requested) == 0
    return 0.0 if flat else float(np.corrcoef(rankdata(wanted), rankdata(drawn))[0, 1])


def leak(movement: Movement, counts: np.ndarray) -> float:
    """Computes the share of all movement that is of the other structures; nan if nothing moves.

    A structure moves by its slope in units of its deviation over patients. Arguments are those of
    `follows`.

    Example:
        >>> measured = np.array([[[1.0, 5.0, 5.0], [4.0, 4.0, 5.0]]])
        >>> requested = np.array([1.0, 2.0])
        >>> movement = Movement(requested, measured, [0], np.ones(3))
        >>> leak(movement, np.array([1]))
        0.25
    """
    moved = np.abs(counts / counts.sum() @ movement.slopes) / movement.deviations
    own = moved[list(movement.own)].sum()
    return float(1 - own / moved.sum()) if moved.sum() > 1e-9 else float("nan")


CONTROL: dict[str, Metric[[Movement, np.ndarray], float]] = table_of(
    Metric(
        "Control", "Control",
        "Rank correlation of requested and measured, 1 if the heart always follows.",
        Section.CONTROL, follows, scale=CORRELATION, headline=True,
        question="Does the drawn heart follow?",
    ),
    Metric(
        "Control_slope", "Slope",
        "Measured per unit requested; of an area, 1 is perfect, in stacks of a volume.",
        Section.CONTROL, lambda m, counts: m.slope(counts / counts.sum()),
        good=Good.NONE, scale=PLAIN,
    ),
    Metric(
        "Control_monotone", "Monotone", "Share of steps at which the structure grew.",
        Section.CONTROL, lambda m, counts: counts / counts.sum() @ m.grew,
    ),
    Metric(
        "Control_error", "Error", "Mean absolute difference of measured and requested size.",
        Section.CONTROL, lambda m, counts: counts / counts.sum() @ m.errors,
        good=Good.NONE, scale=POSITIVE, in_unit=True,
    ),
    Metric(
        "Control_leak", "Leak",
        "Share of the movement that went into other structures, 0 at best.",
        Section.CONTROL, leak, good=Good.LOW,
    ),
)  # fmt: skip
"""Scores of a `Movement` and of how often each patient counts, (P,)."""


def control_scores(
    table: pd.DataFrame,
    deviations: np.ndarray,
    rounds: int = 1000,
    seed: int = 0,
    unit: str = "cm2",
) -> list[Score]:
    """Computes every entry of `CONTROL` per attribute, with intervals over patients.

    Args:
        table: A row per attribute, patient and step of `STEPS`: attribute, dimension, case, step,
            requested, and the measured areas LV, MYO and RV in cm2, of a second phase LV_ES, MYO_ES
            and RV_ES.
        deviations: Standard deviation of these areas over patients, (3 C,).
        rounds: Draws of patients.
        seed: Seed of the draws.
        unit: That of the table: ``cm2`` of areas, ``mL`` of the volumes in stacks.

    Raises:
        ValueError: If there are fewer than 8 patients.

    Example:
        >>> case, requested = np.divmod(np.arange(72), 9)  # 8 patients, 9 steps
        >>> table = pd.DataFrame({"attribute": "LVEDA", "dimension": 0, "case": case,
        ...                       "requested": requested, "LV": requested + 1.0, "MYO": 9, "RV": 9})
        >>> for found in control_scores(table, np.ones(3), rounds=9)[::2]:
        ...     print(found.metric, found.attribute, round(found.value, 2))
        Control LVEDA 1.0
        Control_slope LVEDA 1.0
        Control_monotone LVEDA 1.0
        Control_error LVEDA 1.0
        Control_leak LVEDA 0.0
    """
    parts = {str(name): part for name, part in table.groupby("attribute", sort=False)}
    movements = [_movement(part, name, deviations, unit) for name, part in parts.items()]
    dimensions = [int(part["dimension"].iloc[0]) for part in parts.values()]
    rows = next(iter(parts.values()))["case"]
    cases = tuple(rows.iloc[:: len(STEPS)])
    counts, everyone = draw_patients(cases, rounds, seed), np.ones(len(cases), dtype=int)
    found = []
    for name, metric in CONTROL.items():
        values = np.array([metric(movement, everyone) for movement in movements])
        drawn = np.array([[metric(m, count) for m in movements] for count in counts])
        found += with_mean(name, tuple(parts), tuple(rows), values, drawn, dimensions)
    return found


def _movement(part: pd.DataFrame, name: str, deviations: np.ndarray, unit: str) -> Movement:
    columns, about = [c for c in structures_at(Phase) if c in part], ATTRIBUTES[name]
    measured = part[columns].to_numpy().reshape(-1, len(STEPS), len(columns))
    own = [column(phase, about.structure) for phase in about.phases]
    said = None if is_own_area(name) else drawn(name, measured, unit)
    requested = part["requested"].to_numpy()[: len(STEPS)]
    return Movement(requested, measured, own, deviations, is_size(name, unit), said)
