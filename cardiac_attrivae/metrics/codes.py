"""How well a code represents the attributes: pure functions, and the table that names them.

A few (D, K) matrices relate every latent dimension to every attribute. `Dependence.between`
computes them once, and every score is arithmetic on them. To add a metric, add an entry to
`METRICS`.

A constant column correlates with nothing: its R^2, SCC and SAP are 0, as is the MIG of a constant
attribute. A constant dimension has the information of its jitter, as in the published numbers: it
counts as one more unrelated dimension. What is undefined is nan and is never dropped: SAP and MIG
if D = 1, Modularity if K = 1, a fixed score without a trained dimension, and means of these.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike

from ..schema import LatentTable
from .dependence import Dependence
from .disentanglement import (
    best_dimensions,
    fixed_gap,
    fixed_modularity,
    interpretability,
    inverse,
    mig,
    modularity,
    sap,
    scc,
)
from .metric import MEAN, Good, Metric, Score, Section, table_of
from .patients import as_table, checked
from .scales import CORRELATION, PLAIN, SQUARE, STRENGTH

Measured = TypeVar("Measured")

Dimensions = Sequence[int | None] | np.ndarray
Values = tuple[np.ndarray | float, Dimensions | None]
"""Values (K,), or one number for the whole code; and the dimension of each value, if any."""
Entry = Metric[[Dependence], Values]
"""An entry of a table of code scores."""

_INTERPRETABILITY: Entry = Metric(
    "Interpretability", "Interp",
    "How much of an attribute a straight line through its best dimension explains (R²).",
    Section.CODE,
    lambda m: (interpretability(m.information, m.fit), best_dimensions(m.information)),
    scale=SQUARE, headline=True, question="Does the code carry the attributes?",
)  # fmt: skip
_SCC: Entry = Metric(
    "SCC", "SCC",
    "How well the best dimension ranks the patients by an attribute (Spearman correlation).",
    Section.CODE, lambda m: (scc(m.correlation), best_dimensions(m.correlation)),
    scale=STRENGTH, headline=True,
)  # fmt: skip
_MODULARITY: Entry = Metric(
    "Modularity", "Mod",
    "Whether each dimension depends on one attribute only; noise and a perfect code have the same.",
    Section.CODE, lambda m: (modularity(m.information), None), good=Good.NONE,
)  # fmt: skip
_SAP: Entry = Metric(
    "SAP", "SAP", "R² of the best dimension of an attribute less R² of the second best.",
    Section.CODE, lambda m: (sap(m.separable), best_dimensions(m.separable)), headline=True,
)  # fmt: skip
_MIG: Entry = Metric(
    "MIG", "MIG",
    "Information of the best dimension of an attribute less that of the second best, over its "
    "entropy.",
    Section.FURTHER, lambda m: (mig(m.information, m.entropy), best_dimensions(m.information)),
)  # fmt: skip

METRICS: dict[str, Entry] = table_of(
    _INTERPRETABILITY,
    _SCC,
    _MODULARITY,
    _SAP,
    _MIG,
    _INTERPRETABILITY.fixed(
        lambda m: (interpretability(m.information, m.fit, m.dimensions), m.dimensions),
        section=Section.ATTRIBUTES,
    ),
    _SCC.fixed(
        lambda m: (scc(m.correlation, m.dimensions), m.dimensions),
        section=Section.FURTHER, headline=False,
    ),
)  # fmt: skip
"""Scores of a code, which validation during training computes."""

TRAINED: dict[str, Entry] = table_of(
    _MODULARITY.fixed(
        lambda m: (fixed_modularity(m.information, m.dimensions), None),
        section=Section.FURTHER, good=Good.HIGH,
        meaning="Modularity of trained dimensions alone, which tells noise from a perfect code.",
    ),
    _SAP.fixed(
        lambda m: (fixed_gap(m.separable, m.dimensions), m.dimensions),
        section=Section.FURTHER, headline=False, scale=CORRELATION,
    ),
    _MIG.fixed(
        lambda m: (
            fixed_gap(m.information, m.dimensions) * inverse(m.entropy),
            m.dimensions,
        ),
        scale=PLAIN,
    ),
)  # fmt: skip
"""Those of `METRICS` that an evaluation alone computes of trained dimensions."""

SCORES = ChainMap(TRAINED, METRICS)
"""All of them; those of `METRICS` come first."""


def score(
    codes: LatentTable | ArrayLike,
    attributes: ArrayLike | None = None,
    *,
    dimensions: Sequence[int | None] | None = None,
    seed: int = 0,
    metrics: Mapping[str, Entry] = METRICS,
) -> list[Score]:
    """Computes every entry of a table of metrics: a score per attribute, and their plain mean.

    Args:
        codes: A table with names, or codes (N, D).
        attributes: Attribute values (N, K) or (N,), if codes are an array.
        dimensions: Dimension that was trained on each attribute, length K, if codes are an array.
        seed: Seed of the jitter in `mutual_information`; no effect without ties.
        metrics: `METRICS`, or `SCORES` with more scores of trained dimensions.

    Returns:
        Scores in the order of the metrics and of the table's columns. A metric that is one number
        for the whole code (Modularity) has the ``mean`` row alone.

    Raises:
        ValueError: If N < 5, a column is not finite, or a trained dimension is outside 0 to D - 1.

    Example:
        >>> attribute = np.arange(20.0)
        >>> codes = np.column_stack([2 * attribute, np.cos(attribute)])
        >>> for found in score(codes, attribute)[:4]:
        ...     print(found.metric, found.attribute, round(found.value, 2), found.dimension)
        Interpretability attribute 0 1.0 0
        Interpretability mean 1.0 None
        SCC attribute 0 1.0 0
        SCC mean 1.0 None
    """
    table = as_table(codes, attributes, dimensions)
    x, y = checked(table.codes, table.attributes, table.names)
    return tabulate(Dependence.between(x, y, table.dimensions, seed), table.names, len(x), metrics)


def tabulate(
    measured: Measured,
    names: Sequence[str],
    n: int,
    metrics: Mapping[str, Metric[[Measured], Values]],
) -> list[Score]:
    """Computes every entry of ``metrics`` on what was measured in n rows, as `score` returns them.

    Example:
        >>> least = Metric("Least", "Least", "", Section.FURTHER, lambda m: (m.min(axis=0), None))
        >>> for found in tabulate(np.eye(2), ("a", "b"), 9, {"Least": least}):
        ...     print(found.metric, found.attribute, found.value, found.n)
        Least a 0.0 9
        Least b 0.0 9
        Least mean 0.0 9
    """
    rows = []
    for metric, measure in metrics.items():
        values, found = measure(measured)
        if isinstance(values, np.ndarray):
            found = [None] * len(values) if found is None else found
            rows += [
                Score(metric, name, float(value), n=n, dimension=None if dim is None else int(dim))
                for name, value, dim in zip(names, values, found, strict=True)
            ]
        rows.append(Score(metric, MEAN, float(np.mean(values)), n=n))
    return rows
