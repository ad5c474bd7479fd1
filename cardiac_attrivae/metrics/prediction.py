"""Attributes read from codes of patients that no line was fitted to: held-out scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from ..schema import LatentTable
from .disentanglement import pick
from .information import mutual_information
from .intervals import with_mean
from .metric import FIXED, Good, Metric, Score, Section, table_of
from .patients import checked, draw_patients, drawn_rows
from .scales import EXPLAINED, PLAIN, POSITIVE
from .uncertainty import draw_information


def r2(predicted: ArrayLike, measured: ArrayLike) -> np.ndarray:
    r"""Computes R^2 of predictions (N, K) of measurements (N, K), (K,).

    .. math:: R^2 = 1 - \frac{\sum (p - a)^2}{\sum (a - \bar a)^2}

    It is below 0 if the mean of the measurements predicts better, and nan if all are equal.

    Example:
        >>> r2([[1.0], [2.0], [4.0]], [[1.0], [2.0], [3.0]])
        array([0.5])
    """
    measured = np.asarray(measured, dtype=float)
    total = np.where(np.ptp(measured, axis=0) > 0, measured.var(axis=0), np.nan)
    return 1 - (_error(predicted, measured) ** 2).mean(axis=0) / total


def bias(predicted: ArrayLike, measured: ArrayLike) -> np.ndarray:
    """Computes the mean of predicted less measured (N, K), (K,), in the unit of the attribute.

    Example:
        >>> bias([[1.0], [3.0]], [[1.0], [2.0]])
        array([0.5])
    """
    return _error(predicted, measured).mean(axis=0)


def mean_absolute_error(predicted: ArrayLike, measured: ArrayLike) -> np.ndarray:
    """Computes the mean of |predicted - measured| (N, K), (K,), in the unit of the attribute.

    Example:
        >>> mean_absolute_error([[1.0], [3.0]], [[2.0], [2.0]])
        array([1.])
    """
    return np.abs(_error(predicted, measured)).mean(axis=0)


def limit_of_agreement(predicted: ArrayLike, measured: ArrayLike, side: float) -> np.ndarray:
    """Computes a limit between which 95 % of errors (N, K) lie, (K,): bias + side 1.96 sd.

    ``side`` is -1 for the lower and 1 for the upper limit. Rows count as independent.

    References:
        | Statistical methods for assessing agreement (Bland & Altman, 1986)
        | https://doi.org/10.1016/S0140-6736(86)90837-8

    Example:
        >>> limit_of_agreement([[1.0], [3.0], [5.0]], [[2.0], [3.0], [4.0]], side=1)
        array([1.96])
    """
    error = _error(predicted, measured)
    return error.mean(axis=0) + side * (1.96 * error.std(axis=0, ddof=1))


AGREEMENT: dict[str, Metric[[ArrayLike, ArrayLike], np.ndarray]] = table_of(
    Metric(
        "R2", "R²",
        "1 if every new patient is read exactly, below 0 if the mean would do better.",
        Section.READING, r2, scale=EXPLAINED, headline=True,
    ),
    Metric(
        "bias", "Bias", "Mean of read less measured, in the unit of the attribute.",
        Section.READING, bias, good=Good.NONE, scale=PLAIN, in_unit=True,
    ),
    Metric(
        "MAE", "MAE", "Mean absolute error, in the unit of the attribute.",
        Section.READING, mean_absolute_error, good=Good.LOW, scale=POSITIVE, in_unit=True,
    ),
    Metric(
        "lower_limit", "Lower limit",
        "Lower end of the range that holds 95 % of errors (Bland-Altman).",
        Section.READING, lambda predicted, measured: limit_of_agreement(predicted, measured, -1),
        good=Good.NONE, scale=PLAIN, in_unit=True,
    ),
    Metric(
        "upper_limit", "Upper limit",
        "Upper end of the range that holds 95 % of errors (Bland-Altman).",
        Section.READING, lambda predicted, measured: limit_of_agreement(predicted, measured, 1),
        good=Good.NONE, scale=PLAIN, in_unit=True,
    ),
)  # fmt: skip
"""How well predictions agree with measurements (N, K) of the same rows, a value per attribute."""


def agreement(predicted: ArrayLike, measured: ArrayLike) -> np.ndarray:
    """Computes every entry of `AGREEMENT` of predictions and measurements (N, K), (5, K).

    Example:
        >>> agreement([[1.0], [3.0]], [[1.0], [2.0]])[:3, 0]  # R2, bias, MAE
        array([-1. ,  0.5,  0.5])
    """
    return np.array([measure(predicted, measured) for measure in AGREEMENT.values()])


def held_out(
    source: LatentTable, target: LatentTable, rounds: int = 1000, seed: int = 0
) -> list[Score]:
    """Reads each attribute by a line from one dimension, fitted on the source, on the target.

    With training and test codes it is the held-out Interpretability, with two domains the fit
    across them. It is done with the dimension that has the largest information on the source, and,
    under ``_fixed``, with the trained one. Intervals draw the patients of both tables, and choose
    and fit anew. Codes without information have an R^2 of 0 or below, so no null is needed.

    Args:
        source: Codes (N, D) and attributes (N, K) to choose and fit on.
        target: Codes (M, D) and attributes (M, K) to score, in the same units.
        rounds: Draws of patients.
        seed: Seed of the draws, and of the jitter that breaks ties.

    Returns:
        A score per entry of `AGREEMENT` and attribute; and for R^2, which has no unit, their mean.

    Raises:
        ValueError: If the tables differ in names, trained dimensions or D; as `estimate`.

    Example:
        >>> from .patients import as_table
        >>> volume = np.arange(50.0, 90.0, 2.0)
        >>> source = as_table(volume[:10, None] / 10, volume[:10])
        >>> target = as_table(volume[10:, None] / 10 + 0.1, volume[10:])  # codes are shifted
        >>> found = held_out(source, target, rounds=10)
        >>> [(score.metric, round(score.value, 2)) for score in found[:4]]
        [('R2', 0.97), ('R2', 0.97), ('bias', 1.0), ('MAE', 1.0)]
    """
    _same("names", source.names, target.names)
    _same("dimensions", source.dimensions, target.dimensions)
    _same("number of latent dimensions", source.codes.shape[1], target.codes.shape[1])
    x, y = checked(source.codes, source.attributes, source.names)
    new, measured = checked(target.codes, target.attributes, target.names)
    information = mutual_information(x, y, seed=seed)
    pick(information, source.dimensions)  # raises if one is out of range
    best = [int(dim) for dim in information.argmax(axis=0)]
    # the tables are drawn independently
    streams = np.random.SeedSequence(seed).generate_state(2).tolist()
    of_source = draw_patients(source.cases, rounds, streams[0])
    of_target = draw_patients(target.cases, rounds, streams[1])
    chosen = draw_information(x, y, source.cases, of_source, seed).argmax(axis=1)  # (rounds, K)
    rows = []
    for suffix, dimensions, of_draws in (
        ("", best, chosen),
        (FIXED, source.dimensions, [source.dimensions] * rounds),
    ):
        values = _carried(x, y, new, measured, dimensions)
        drawn = np.array(
            [
                _carried(x[s], y[s], new[t], measured[t], dims)
                for s, t, dims in zip(
                    drawn_rows(of_source), drawn_rows(of_target), of_draws, strict=True
                )
            ]
        )
        for i, metric in enumerate(AGREEMENT.values()):
            found = with_mean(
                metric.name + suffix, target.names, target.cases, values[i], drawn[:, i], dimensions
            )
            rows += found[:-1] if metric.in_unit else found  # a mean of units means nothing
    return rows


def _carried(
    codes: np.ndarray,
    attributes: np.ndarray,
    new: np.ndarray,
    measured: np.ndarray,
    dimensions: Sequence[int | None] | np.ndarray,
) -> np.ndarray:
    """Computes `agreement` (5, K) of new patients with lines fitted on codes and attributes;
    attribute k is read from its dimension, and nan where that is None."""
    pairs = [(k, dim) for k, dim in enumerate(dimensions) if dim is not None]
    known, used = [k for k, _ in pairs], [dim for _, dim in pairs]
    x, y, new = codes[:, used], attributes[:, known], new[:, used]
    centred = x - x.mean(axis=0)
    variance = (centred**2).sum(axis=0)
    slope = np.divide((centred * y).sum(axis=0), variance, out=variance * 0, where=variance > 0)
    predicted = y.mean(axis=0) + slope * (new - x.mean(axis=0))
    carried = np.full((len(AGREEMENT), len(dimensions)), np.nan)
    carried[:, known] = agreement(predicted, measured[:, known])
    return carried


def _error(predicted: ArrayLike, measured: ArrayLike) -> np.ndarray:
    return np.asarray(predicted, dtype=float) - np.asarray(measured, dtype=float)


def _same(what: str, first: object, second: object) -> None:
    if first != second:
        raise ValueError(f"{what} differ: {first} and {second}; expected the same in both tables")
