"""All tables of metrics as one, for those who list, print or draw what was measured."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping
from typing import Any

from ..attributes import ATTRIBUTES
from .codes import METRICS, TRAINED
from .control import CONTROL
from .diagnosis import DIAGNOSIS
from .images import ANATOMY, FIDELITY
from .metric import FIXED, MEAN, Metric, Section, find
from .prediction import AGREEMENT
from .realism import REALISM
from .regression import DCI, PREDICTED

TABLES: tuple[dict[str, Metric[Any, Any]], ...] = (
    METRICS, TRAINED, DCI, PREDICTED, AGREEMENT, CONTROL, ANATOMY, FIDELITY, REALISM,
    DIAGNOSIS,
)  # fmt: skip
EVERY: Mapping[str, Metric[Any, Any]] = ChainMap(*reversed(TABLES))
"""Every entry by its name, in the order of the tables; an entry that is added to one is here."""


def label(name: str) -> str:
    """Names a metric, or the mean over attributes, as the head of a column.

    Example:
        >>> label("Interpretability"), label("R2_fixed"), label("mean")
        ('Interp', 'R², trained', 'Mean')
    """
    return "Mean" if name == MEAN else find(name).label


def names_in(*sections: Section) -> list[str]:
    """Lists the metrics that some sections of the report show, in order.

    Example:
        >>> names_in(Section.CODE)
        ['Interpretability', 'SCC', 'Modularity', 'SAP']
    """
    return [entry.name for section in sections for entry in EVERY.values()
            if entry.section is section]  # fmt: skip


def headlines(*sections: Section) -> list[str]:
    """Lists the metrics by which methods are compared, of some sections or all, in order.

    Example:
        >>> headlines(Section.READING, Section.CONTROL)
        ['R2', 'R2_fixed', 'Control']
    """
    found = [e for e in EVERY.values() if e.headline and e.section in (sections or Section)]
    names = [[e.name, e.name + FIXED] if e.section is Section.READING else [e.name] for e in found]
    return [name for pair in names for name in pair]


def unit_of(metric: str, attribute: str) -> str:
    """Says in which unit a score is; empty if it has none.

    Example:
        >>> unit_of("MAE_fixed", "LVEDA"), unit_of("SCC", "LVEDA")
        ('cm2', '')
    """
    entry = find(metric)
    known = entry.in_unit and attribute in ATTRIBUTES
    return ATTRIBUTES[attribute].unit if known else ""
