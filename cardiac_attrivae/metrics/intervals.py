"""Intervals over patients, p values, and means over patients.

References:
    | Bootstrap methods: another look at the jackknife (Efron, 1979)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from .metric import MEAN, Score, find
from .patients import FEWEST, draw_patients, rows_of_patients
from .scales import PLAIN, Scale

LEVEL = 0.95
"""Coverage of every interval, and quantile of the null distribution."""

Ends = Callable[[float, np.ndarray, Scale], tuple[float, float]]
"""`interval` or `jackknife`."""


def interval(value: float, drawn: np.ndarray, scale: Scale = PLAIN) -> tuple[float, float]:
    """Computes the ends of the 95 % interval of a score: quantiles of its draws about their mean.

    Both are taken on the scale of the score, so that the interval stays within its range and is
    longer on the side that is farther from its end. Draws are (rounds,).

    Example:
        >>> from .scales import CORRELATION
        >>> low, high = interval(0.75, np.array([0.0, 0.5, 1.0]))
        >>> round(low, 3), round(high, 3)
        (0.275, 1.225)
        >>> low, high = interval(0.9, np.array([0.8, 0.9, 0.95]), CORRELATION)
        >>> round(low, 2), round(high, 2)
        (0.81, 0.95)
    """
    spread = scale.to(drawn)
    quantiles = np.quantile(spread - spread.mean(), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return _ends(value, quantiles, scale)


def jackknife(value: float, left_out: np.ndarray, scale: Scale = PLAIN) -> tuple[float, float]:
    r"""Computes the ends of the 95 % interval of a score that draws with replacement would spoil.

    .. math:: s^2 = \frac{G - 1}{G} \sum_g (\theta_g - \bar\theta)^2

    on the scale of the score, without each of G groups of patients in turn, (G,); an end is
    Student's t of G - 1 degrees of freedom times s away.

    References:
        | A general theory for jackknife variance estimation (Shao & Wu, 1989)

    Example:
        >>> mean_without_each_patient = (10 - np.arange(5.0)) / 4
        >>> low, high = jackknife(2.0, mean_without_each_patient)  # 2 -+ 2.78 sqrt(2.5 / 5)
        >>> round(low, 2), round(high, 2)
        (0.04, 3.96)
    """
    spread, g = scale.to(left_out), len(left_out)
    error = np.sqrt((g - 1) / g * ((spread - spread.mean()) ** 2).sum())
    reach = stdtrit(g - 1, (1 + LEVEL) / 2) * error
    return _ends(value, np.array([-reach, reach]), scale)


def _ends(value: float, steps: np.ndarray, scale: Scale) -> tuple[float, float]:
    """Steps away from a score on its scale, and stays in its range."""
    place = scale.to(np.asarray(value))
    ends = value + scale.back(place + steps) - scale.back(place)  # exact at the end of a range
    low, high = np.clip(ends, *scale.limits)
    # rounding on the scale may put an end on the wrong side of a value that never varies
    return float(np.minimum(low, value)), float(np.maximum(high, value))


def corrected(value: float, null: float) -> float:
    r"""Computes what is left of a score above chance, (s - s_0) / (1 - s_0).

    0 is the mean of the null distribution and 1 is perfect; nan if that mean is perfect. Cohen's
    kappa corrects an agreement in the same way (Cohen, 1960).

    Example:
        >>> corrected(0.75, null=0.5)
        0.5
    """
    return float((value - null) / (1 - null)) if null < 1 else float("nan")


def share_above(drawn: np.ndarray, value: float) -> float:
    """Computes p of a value among draws, itself counted, so never 0 (Phipson & Smyth, 2010).

    Example:
        >>> share_above(np.array([0.1, 0.2, 0.3]), 0.25)
        0.5
    """
    # a draw that is the same but for rounding is as large
    above = int(np.count_nonzero(drawn >= value - 1e-12 * max(1.0, abs(value))))
    return float("nan") if np.isnan(value) else (1 + above) / (1 + len(drawn))


def holm(p: ArrayLike) -> np.ndarray:
    """Adjusts the p values of a family of tests so that all may be read at one level, (M,).

    Sorted upwards, the i-th of M is multiplied by M - i + 1, and none is below the one before it.
    nan stays nan and does not count.

    Raises:
        ValueError: If one is outside 0 to 1.

    References:
        | A simple sequentially rejective multiple test procedure (Holm, 1979)
        | https://www.jstor.org/stable/4615733

    Example:
        >>> holm([0.01, 0.5, 0.02])
        array([0.03, 0.5 , 0.04])
    """
    p = np.asarray(p, dtype=float)
    if ((p < 0) | (p > 1)).any():
        raise ValueError(f"p is {p.min()} to {p.max()}; expected 0 to 1, or nan")
    order = np.argsort(p)[: np.count_nonzero(~np.isnan(p))]  # nan comes last
    adjusted = np.full(p.shape, np.nan)
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * p[order]), 1)
    return adjusted


def per_patient(values: ArrayLike, cases: Sequence[str], fewest: int = FEWEST) -> np.ndarray:
    """Averages the rows of each patient, (N, M) to (P, M), patients in the order of their names.

    Raises:
        ValueError: If there are fewer than ``fewest`` patients.

    Example:
        >>> per_patient([[1.0], [5.0], [3.0]], ["b", "a", "b"], fewest=2)
        array([[5.],
               [2.]])
    """
    values = np.asarray(values, dtype=float)
    return np.array([values[rows].mean(axis=0) for rows in rows_of_patients(cases, fewest)])


def patient_means(
    values: Mapping[tuple[str, str], ArrayLike],
    cases: Sequence[str],
    rounds: int = 1000,
    seed: int = 0,
) -> list[Score]:
    """Averages over patients what is known per row, such as SSIM; each patient counts once.

    Args:
        values: Metric and attribute -> a number per row, (N,).
        cases: Patient of each row, length N.
        rounds: Draws of patients: those of `bootstrap`, if patients and seed are the same.
        seed: Seed of the draws.

    Returns:
        A score for each, in order; with an interval over patients if there are 8 or more.

    Example:
        >>> ssim = np.linspace(0.5, 0.7, 8)
        >>> (found,) = patient_means({("SSIM", "mean"): ssim}, tuple("abcdefgh"))
        >>> round(found.value, 2), round(found.low, 2), round(found.high, 2), found.patients
        (0.6, 0.56, 0.64, 8)
    """
    names = sorted(set(cases))
    each = per_patient(np.column_stack([*values.values()]), cases, fewest=1)
    means = each.mean(axis=0)
    known = [(float("nan"), float("nan"))] * len(means)
    if len(names) >= FEWEST:
        drawn = draw_patients(names, rounds, seed) @ each / len(names)
        known = [
            interval(value, draws, find(metric).scale)
            for (metric, _), value, draws in zip(values, means, drawn.T, strict=True)
        ]
    return [
        Score(*name, float(value), *ends, n=len(cases), patients=len(names))
        for name, value, ends in zip(values, means, known, strict=True)
    ]


def with_mean(
    metric: str,
    names: Sequence[str],
    cases: Sequence[str],
    values: np.ndarray,
    drawn: np.ndarray,
    dimensions: Sequence[int | None],
    ends: Ends = interval,
) -> list[Score]:
    """Makes a score of each attribute, and one of their mean, with intervals over patients.

    Args:
        metric: Name of the metric.
        names: Attributes, length K.
        cases: Patient of each row that was scored, length N.
        values: The metric of each attribute, (K,).
        drawn: The same of each draw of patients, (rounds, K).
        dimensions: Latent dimension that each attribute was read from, length K.
        ends: `interval`, or `jackknife` if ``drawn`` leaves out groups of patients.

    Example:
        >>> drawn = np.array([[0.7, 0.5], [0.9, 0.7]])
        >>> values, names = drawn.mean(axis=0), ["LVEDA", "RVEDA"]
        >>> found = with_mean("R2", names, ["a", "b"], values, drawn, [0, 1])
        >>> [(score.attribute, round(score.value, 2)) for score in found]
        [('LVEDA', 0.8), ('RVEDA', 0.6), ('mean', 0.7)]
    """
    columns = [*zip(names, values, drawn.T, dimensions, strict=True)]
    columns.append((MEAN, values.mean(), drawn.mean(axis=1), None))
    n, patients = len(cases), len(set(cases))
    return [
        Score(
            metric, name, float(value), *ends(value, spread, find(metric).scale),
            n=n, patients=patients, dimension=dim,
        )
        for name, value, spread, dim in columns
    ]  # fmt: skip
