"""What an entry of a table of metrics says, and the record of one number that was measured."""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Generic, NamedTuple, ParamSpec, TypeVar

from .scales import PLAIN, SHARE, Scale

MEAN = "mean"
"""Name of the mean over all attributes, where the name of an attribute stands otherwise."""
FIXED = "_fixed"
"""Ending of a metric that reads each attribute from the dimension that was trained on it."""

Inputs = ParamSpec("Inputs")
Output = TypeVar("Output")


class Good(StrEnum):
    """Which values of a metric are good."""

    HIGH = "high"
    LOW = "low"
    ONE = "nearest to 1"
    NONE = "none"


class Section(StrEnum):
    """Part of the report in which a metric is shown."""

    CODE = "code"  # Table 1 of the paper
    FURTHER = "further"  # other scores of the code
    ATTRIBUTES = "attributes"  # the dimension that was trained on each attribute
    READING = "reading"  # attributes read in new patients
    CONTROL = "control"
    ANATOMY = "anatomy"
    PICTURES = "pictures"
    REALISM = "realism"  # drawn hearts among real ones
    DIAGNOSIS = "diagnosis"  # of diagnose, whose page it is


@dataclass(frozen=True)
class Metric(Generic[Inputs, Output]):
    """An entry of a table of metrics: all that scores, tables, report and docs need to know.

    Example:
        >>> spread = Metric("Spread", "Spread", "Largest less smallest value.",
        ...                 Section.FURTHER, lambda values: max(values) - min(values), digits=1)
        >>> spread([1, 4, 2])
        3
        >>> spread.good.value
        'high'
    """

    name: str  # as in the column ``metric`` of metrics.csv
    label: str  # head of its column in tables
    meaning: str  # one sentence that says what the number is
    section: Section  # part of the report that shows it
    # the function; its inputs and output are those of all entries of the same table
    measure: Callable[Inputs, Output]
    digits: int = 2  # decimals in tables
    good: Good = Good.HIGH  # which values are good; a table marks no best value where none is
    # scale on which its intervals are computed; it has the least and the largest value
    scale: Scale = SHARE
    unit: str = ""  # unit of the number, such as ``dB``; empty without one
    in_unit: bool = False  # whether the number is in the unit of its attribute
    # whether methods are compared by it on the page, and drawn with intervals
    headline: bool = False
    question: str = ""  # what it answers in the summary of the report; empty if it is not in there

    def __call__(self, *args: Inputs.args, **kwargs: Inputs.kwargs) -> Output:
        return self.measure(*args, **kwargs)

    def fixed(self, measure: Callable[Inputs, Output], **changes: object) -> Metric[Inputs, Output]:
        """The same metric of the dimensions that were trained on the attributes."""
        entry = replace(
            self,
            name=self.name + FIXED,
            label=f"{self.label}, trained",
            meaning=f"{self.name} of the dimension that was trained on the attribute.",
            measure=measure,
            question="",
        )
        return replace(entry, **changes)  # type: ignore[arg-type]  # keywords of any field

    def rank(self, value: float) -> float:
        """A number that is the smaller, the better the value is.

        >>> Metric("A", "A", "", Section.CODE, abs).rank(0.9)
        -0.9
        """
        if self.good is Good.ONE:
            return abs(value - 1)
        return value if self.good is Good.LOW else -value


class Score(NamedTuple):
    """One number that was measured, and what is known about it; nan or None is not known.

    Example:
        >>> score = Score("SCC", "LVEDA", 0.8, low=0.7, high=0.9)
        >>> score.value, score.attribute, score.null
        (0.8, 'LVEDA', nan)
    """

    metric: str
    attribute: str  # a name, or "mean"
    value: float
    low: float = math.nan  # 95 % interval over patients
    high: float = math.nan
    null: float = math.nan  # mean of the null distribution
    null_95: float = math.nan  # its 95th centile
    p: float = math.nan  # its share at or above the value, one-sided
    corrected: float = math.nan  # (value - null) / (1 - null): 0 is chance, 1 is perfect
    corrected_low: float = math.nan
    corrected_high: float = math.nan
    n: int | None = None  # rows that were scored
    patients: int | None = None
    dimension: int | None = None  # the latent dimension that was read
    unit: str = ""
    sd: float = math.nan  # over models that differ in their seed alone
    sd_patients: float = math.nan  # over patients
    models: int = 1  # of which the value is the mean


def table_of(*entries: Metric[Inputs, Output]) -> dict[str, Metric[Inputs, Output]]:
    """Entries by their names, in order.

    Example:
        >>> least = Metric("Least", "Least", "Smallest value.", Section.FURTHER, min)
        >>> table_of(least)["Least"]([3, 2])
        2
    """
    table = {entry.name: entry for entry in entries}
    KNOWN.maps.append(table)
    return table


KNOWN: ChainMap[str, Metric[Any, Any]] = ChainMap()
"""Entries of all tables by their names; an entry that is added to a table is here."""


def find(name: str) -> Metric[Any, Any]:
    """Finds the entry of a metric, as in the column ``metric`` of metrics.csv.

    ``R2_fixed`` is the R2 of trained dimensions. A name of no table, as an older evaluation may
    have, gets an entry that says nothing about it.

    Example:
        >>> find("mine").label, find("mine").good.value
        ('mine', 'none')
    """
    if name in KNOWN:
        return KNOWN[name]
    base = name.removesuffix(FIXED)
    if base in KNOWN:
        return KNOWN[base].fixed(KNOWN[base].measure)
    return Metric(name, name, "", Section.FURTHER, lambda: None, good=Good.NONE, scale=PLAIN)
