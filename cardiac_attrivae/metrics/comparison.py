"""Models beside each other: spread over training seeds, and differences on the same patients.

Scores of models are compared by draws of patients that all of them share, see `bootstrap`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ..schema import LatentTable
from .uncertainty import bootstrap, interval, patients_mean, scores, share_above

Names = Sequence[tuple[str, str]]
"""Metric and attribute of each score, (S)."""


class Spread(NamedTuple):
    """One score of models that differ in their seed alone."""

    metric: str
    attribute: str
    value: float  # mean over models
    seeds: float  # standard deviation over models, of the same patients
    patients: float  # standard deviation over patients, of one model: root mean square over models
    low: float  # 95 % interval of the mean over models, over patients
    high: float


def spread(names: Names, values: np.ndarray, drawn: np.ndarray) -> list[Spread]:
    """Spread over training seeds apart from the spread over patients.

    Args:
        names: Metric and attribute of each score, (S).
        values: Scores of at least 2 models on the same patients, (M, S).
        drawn: The same of shared draws of patients, (M, rounds, S); all three as `drawn_scores`.

    Raises:
        ValueError: If there are fewer than 2 models.
    """
    if len(values) < 2:
        raise ValueError(f"values are of {len(values)} models; expected at least 2 to spread over")
    over_patients = np.sqrt(drawn.var(axis=1, ddof=min(1, drawn.shape[1] - 1)).mean(axis=0))
    over_seeds, mean, means = values.std(axis=0, ddof=1), values.mean(axis=0), drawn.mean(axis=0)
    return [
        Spread(
            *name,
            float(mean[s]),
            float(over_seeds[s]),
            float(over_patients[s]),
            *interval(mean[s], means[:, s]),
        )
        for s, name in enumerate(names)
    ]


class Comparison(NamedTuple):
    """The difference of two methods on the same patients."""

    metric: str
    attribute: str
    first: float
    second: float
    difference: float  # first - second
    low: float  # 95 % interval over patients
    high: float
    p: float  # two-sided
    patients: int


def differences(
    names: Names,
    first: np.ndarray,
    first_drawn: np.ndarray,
    second: np.ndarray,
    second_drawn: np.ndarray,
    patients: int,
) -> list[Comparison]:
    """Difference of every score between two methods, each the mean of its models.

    p is the share of draws whose difference lies as far from the mean of draws as the difference
    lies from 0. Rows of two models can not be exchanged, as their dimensions mean different things;
    for numbers per patient there is `compare_paired`.

    Args:
        names: Metric and attribute of each score, (S).
        first, second: Scores of the models of each method, (M, S), M may differ.
        first_drawn, second_drawn: The same of shared draws, (M, rounds, S); as `drawn_scores`.
        patients: Their number.
    """
    a, b = first.mean(axis=0), second.mean(axis=0)
    drawn = first_drawn.mean(axis=0) - second_drawn.mean(axis=0)
    return [
        Comparison(
            *name,
            float(a[s]),
            float(b[s]),
            float(a[s] - b[s]),
            *interval(a[s] - b[s], d),
            share_above(np.abs(d - d.mean()), abs(a[s] - b[s])),
            patients,
        )
        for s, (name, d) in enumerate(zip(names, drawn.T, strict=True))
    ]


def drawn_scores(
    tables: Sequence[LatentTable], rounds: int = 1000, seed: int = 0
) -> tuple[Names, np.ndarray, np.ndarray]:
    """Scores of models on the same patients, as `spread` and `differences` want them.

    Returns:
        Names (S), values (M, S) of `scores` and draws (M, rounds, S) of `bootstrap`.

    Raises:
        ValueError: If the rows of the tables differ; as `bootstrap`.
    """
    one = tables[0]
    for table in tables[1:]:
        alike = one.names == table.names and one.cases == table.cases
        if not alike or not np.array_equal(one.attributes, table.attributes):
            raise ValueError(
                "names, cases or attributes of the tables differ; expected codes of the same rows"
            )
    found = [scores(table, seed) for table in tables]
    names = [(row.metric, row.attribute) for row in found[0]]
    values = np.array([[row.value for row in rows] for rows in found])
    return names, values, np.array([bootstrap(table, rounds, seed) for table in tables])


def compare(
    first: LatentTable, second: LatentTable, rounds: int = 1000, seed: int = 0
) -> list[Comparison]:
    """`differences` of two models; raises as `drawn_scores`."""
    names, values, drawn = drawn_scores([first, second], rounds, seed)
    patients = len(set(first.cases))
    return differences(names, values[:1], drawn[:1], values[1:], drawn[1:], patients)


def compare_paired(
    first: ArrayLike,
    second: ArrayLike,
    cases: Sequence[str],
    metric: str = "",
    rounds: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Difference of what two models have per row, such as an error or a structural similarity.

    Each patient counts once, with the mean of its rows. p is of a permutation test: by chance, the
    two models could be swapped in any patient. The interval is of a bootstrap over patients.

    Args:
        first, second: One number per row and model, (N,).
        cases: Patient of each row, length N.
        metric: Its name, for the row that is returned.
        rounds: Draws of patients, and as many permutations.
        seed: Of both.

    Raises:
        ValueError: If lengths differ, a number is not finite, or there are fewer than 8 patients.
    """
    first, second = (np.asarray(v, dtype=float) for v in (first, second))
    for name, values in (("first", first), ("second", second)):
        if values.shape != (len(cases),) or not np.isfinite(values).all():
            raise ValueError(
                f"{name} is {values.shape} with {np.count_nonzero(~np.isfinite(values))} NaN or "
                f"infinite for {len(cases)} cases; expected one finite number per row"
            )
    both = np.column_stack([first, second, first - second])
    (a, b, value), (*_, low), (*_, high), each = patients_mean(both, cases, rounds, seed)
    signs = np.random.default_rng(seed).choice([-1, 1], size=(rounds, len(each)))
    p = share_above(np.abs(signs @ each[:, 2] / len(each)), abs(value))
    return Comparison(metric, "mean", *map(float, (a, b, value, low, high)), p, len(each))
