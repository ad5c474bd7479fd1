"""What a code predicts of patients it was not fitted to: held-out lines, leakage, DCI.

Intervals are those of `statistics`, over patients.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LassoCV, RidgeCV, lasso_path

from ..schema import LatentTable
from .codes import Score, ScoreRow, checked, mutual_information, pick, tabulate
from .uncertainty import (
    Estimate,
    draw_information,
    draw_patients,
    drawn_rows,
    estimates,
    interval,
    permute_patients,
    rows_of_patients,
)

LASSO_STEPS = 10_000
"""Most steps of coordinate descent; it stops earlier."""


# Held out ----------------------------------------------------------------------------------------


class Interval(NamedTuple):
    """One number with its 95 % interval over patients."""

    metric: str
    attribute: str  # a name, or "mean"
    value: float
    low: float
    high: float
    n: int  # rows that were scored
    patients: int
    dimension: int | None


AGREEMENT = ("R2", "bias", "MAE", "lower_limit", "upper_limit")


def agreement(predicted: ArrayLike, measured: ArrayLike) -> np.ndarray:
    r"""How well predictions agree with measurements of the same rows, in the attribute's unit.

    .. math:: R^2 = 1 - \frac{\sum (p - a)^2}{\sum (a - \bar a)^2}, \quad b = \overline{p - a},
              \quad \text{limits} = b \pm 1.96\, \mathrm{sd}(p - a)

    Args:
        predicted, measured: (N, K).

    Returns:
        (5, K) in the order of `AGREEMENT`. R^2 is below 0 if the mean of the measured predicts
        better, and nan if all measured are equal. Limits take rows as independent.

    References:
        | Statistical methods for assessing agreement (Bland & Altman, 1986)
        | https://doi.org/10.1016/S0140-6736(86)90837-8
    """
    measured = np.asarray(measured, dtype=float)
    error = np.asarray(predicted, dtype=float) - measured
    total = np.where(np.ptp(measured, axis=0) > 0, measured.var(axis=0), np.nan)
    bias, width = error.mean(axis=0), 1.96 * error.std(axis=0, ddof=1)
    r2 = 1 - (error**2).mean(axis=0) / total
    return np.array([r2, bias, np.abs(error).mean(axis=0), bias - width, bias + width])


def held_out(
    source: LatentTable, target: LatentTable, rounds: int = 1000, seed: int = 0
) -> list[Interval]:
    """Reads each attribute off one dimension by a line: fitted on the source, scored on the target.

    With training and test codes it is the held-out Interpretability, with two domains the fit
    across them. Once with the dimension of the largest information on the source, and once, under
    ``_fixed``, with the trained one. Intervals draw the patients of both tables, and choose and fit
    anew. Chance has an R^2 of 0 or below, so there is no null.

    Args:
        source: Codes (N, D) and attributes (N, K) to choose and fit on.
        target: Codes (M, D) and attributes (M, K) to score, in the same units.
        rounds: Draws of patients.
        seed: Of the draws, and of the jitter that breaks ties.

    Returns:
        A row per entry of `AGREEMENT` and attribute; and for R^2, which has no unit, their mean.

    Raises:
        ValueError: If the tables differ in names, trained dimensions or D; as `estimate`.
    """
    _same("names", source.names, target.names)
    _same("dimensions", source.dimensions, target.dimensions)
    _same("number of latent dimensions", source.codes.shape[1], target.codes.shape[1])
    x, y = checked(source.codes, source.attributes, source.names)
    new, measured = checked(target.codes, target.attributes, target.names)
    information = mutual_information(x, y, seed=seed)
    pick(information, source.dimensions)  # raises if one is out of range
    best = [int(dim) for dim in information.argmax(axis=0)]
    streams = np.random.SeedSequence(seed).generate_state(2)  # the tables are drawn independently
    of_source = draw_patients(source.cases, rounds, streams[0])
    of_target = draw_patients(target.cases, rounds, streams[1])
    chosen = draw_information(x, y, source.cases, of_source, seed).argmax(axis=1)  # (rounds, K)
    rows = []
    for suffix, dimensions, of_draws in (
        ("", best, chosen),
        ("_fixed", source.dimensions, [source.dimensions] * rounds),
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
        for i, metric in enumerate(AGREEMENT):
            found = with_mean(
                metric + suffix, target.names, target.cases, values[i], drawn[:, i], dimensions
            )
            rows += found if metric == "R2" else found[:-1]  # a mean of units means nothing
    return rows


def leakage(
    table: LatentTable, folds: int = 5, rounds: int = 1000, seed: int = 0
) -> list[Interval]:
    r"""R^2 of each attribute from all dimensions but its own, on patients left out of the fit.

    .. math:: 1 - \frac{\sum_n (a_n - \hat a_n)^2}{\sum_n (a_n - \bar a_{-n})^2}

    where the prediction and the mean come from the folds without patient n: 0 is a prediction no
    better than the mean. The fit is a ridge regression, for D may exceed N; its penalty is chosen
    by leave-one-out within the fitted folds. The dimension left out is the trained one, or else
    that of the largest information in the fitted folds.

    Args:
        table: Codes (N, D) with D >= 2 and attributes (N, K).
        folds: Parts that the patients are dealt to, 2 or more.
        rounds: Draws of patients, after prediction: the spread of the fits is not in.
        seed: Of the folds, the draws and the jitter that breaks ties.

    Returns:
        A row per attribute and their mean, metric ``Leakage``; nan for a constant attribute.

    Raises:
        ValueError: If D < 2, or folds is below 2 or above the number of patients; as `estimate`.
    """
    codes, attributes = checked(table.codes, table.attributes, table.names)
    d = codes.shape[1]
    if d < 2:
        raise ValueError(f"codes have D = {d} dimensions; expected D >= 2: one and the others")
    pick(np.zeros((d, len(table.names))), table.dimensions)  # raises if one is out of range
    counts = draw_patients(table.cases, rounds, seed)
    squared, total = np.empty_like(attributes), np.empty_like(attributes)
    for held in _folds(table.cases, folds, seed):
        x, y = codes[~held], attributes[~held]
        best = mutual_information(x, y, seed=seed).argmax(axis=0)
        for k, dim in enumerate(table.dimensions):
            others = np.arange(d) != (best[k] if dim is None else dim)
            predicted = _ridge(x[:, others], y[:, k], codes[held][:, others])
            squared[held, k] = (attributes[held, k] - predicted) ** 2
            total[held, k] = (attributes[held, k] - y[:, k].mean()) ** 2
    return _explained("Leakage", table, squared, total, counts, table.dimensions)


# Disentanglement, completeness, informativeness --------------------------------------------------


def disentanglement(importance: np.ndarray) -> float:
    r"""Whether each dimension matters to one attribute only: mean weighted by how much it matters.

    .. math:: \sum_d \rho_d\,(1 - H_K(P_{d\cdot})), \quad P_{dk} = \frac{R_{dk}}{\sum_k R_{dk}},
              \quad \rho_d = \frac{\sum_k R_{dk}}{\sum_{dk} R_{dk}}

    Args:
        importance: R, at least 0, (D, K).

    Returns:
        A number in [0, 1]; 0 if nothing matters, nan if K = 1.

    References:
        | A framework for the quantitative evaluation of disentangled representations
        | (Eastwood & Williams, 2018), section 2; https://openreview.net/forum?id=By-7dz-AZ
    """
    share = importance.sum(axis=1)
    weights = np.divide(share, share.sum(), out=np.zeros(len(share)), where=share > 0)
    return float(weights @ _concentration(importance.T))


def completeness(importance: np.ndarray) -> np.ndarray:
    r"""Whether one dimension alone matters to each attribute, 1 - H_D of R_dk / sum_d R_dk, (K,).

    ``importance`` and source are those of `disentanglement`; 0 if nothing matters, nan if D = 1.
    """
    return _concentration(importance)


DCI: dict[str, Callable[[np.ndarray], Score]] = {
    "Disentanglement": lambda importance: (disentanglement(importance), None),
    "Completeness": lambda importance: (completeness(importance), importance.argmax(axis=0)),
}
"""The two that are read off importances (D, K)."""


def dci(
    table: LatentTable, folds: int = 5, rounds: int = 1000, seed: int = 0
) -> list[Estimate | Interval]:
    """Disentanglement, completeness and informativeness by lasso regressions of all dimensions.

    As the paper's linear variant: importance is the absolute coefficient of a lasso on standardised
    columns, its penalty chosen by cross-validation over patients. Informativeness is the R^2 on
    patients left out, with the penalty chosen among the others; the paper reports an error.

    The few dimensions that a lasso picks from noise look disentangled and complete, so the first
    two have a floor of chance: attributes of other patients, with the penalty held as in the draws.

    Args:
        table: Codes (N, D) and attributes (N, K).
        folds: Parts that the patients are dealt to, 2 or more.
        rounds: Draws of patients, and as many permutations: for importance with the penalty held,
            and for Informativeness after prediction, as in `leakage`.
        seed: Of the folds, the draws and the permutations.

    Returns:
        Disentanglement (one number) and Completeness (per attribute, and mean), an `Estimate` each;
        Informativeness (per attribute, and mean), an `Interval` each.

    Raises:
        ValueError: As `leakage`, but for D; as `permute_patients`.
    """
    codes, attributes = checked(table.codes, table.attributes, table.names)
    n, k = attributes.shape
    cases = np.asarray(table.cases)
    penalties = [_lasso(codes, y, cases, folds, seed)[0].alpha_ for y in attributes.T]

    def measure(codes: np.ndarray, attributes: np.ndarray) -> list[ScoreRow]:
        return tabulate(_importance(codes, attributes, penalties), table.names, n, DCI)

    counts = draw_patients(cases, rounds, seed)
    drawn = [measure(codes[rows], attributes[rows]) for rows in drawn_rows(counts)]
    chance = [measure(codes, attributes[rows]) for rows in permute_patients(cases, rounds, seed)]
    drawn, chance = (np.array([[r.value for r in rows] for rows in d]) for d in (drawn, chance))
    squared, total = np.empty_like(attributes), np.empty_like(attributes)
    for held in _folds(table.cases, folds, seed):
        for j in range(k):
            y = attributes[~held, j]
            _, predict = _lasso(codes[~held], y, cases[~held], folds, seed)
            squared[held, j] = (attributes[held, j] - predict(codes[held])) ** 2
            total[held, j] = (attributes[held, j] - y.mean()) ** 2
    return [
        *estimates(measure(codes, attributes), drawn, chance, len(set(table.cases))),
        *_explained("Informativeness", table, squared, total, counts, [None] * k),
    ]


# Fits --------------------------------------------------------------------------------------------


def _carried(
    codes: np.ndarray,
    attributes: np.ndarray,
    new: np.ndarray,
    measured: np.ndarray,
    dimensions: Sequence[int | None] | np.ndarray,
) -> np.ndarray:
    """`agreement` (5, K) of lines fitted on codes and attributes with what new codes measure.

    Attribute k is read off its dimension; nan where that is None.
    """
    known = [k for k, dim in enumerate(dimensions) if dim is not None]
    used = [dimensions[k] for k in known]
    x, y, new = codes[:, used], attributes[:, known], new[:, used]
    centred = x - x.mean(axis=0)
    variance = (centred**2).sum(axis=0)
    slope = np.divide((centred * y).sum(axis=0), variance, out=variance * 0, where=variance > 0)
    predicted = y.mean(axis=0) + slope * (new - x.mean(axis=0))
    carried = np.full((len(AGREEMENT), len(dimensions)), np.nan)
    carried[:, known] = agreement(predicted, measured[:, known])
    return carried


def _folds(cases: Sequence[str], folds: int, seed: int) -> list[np.ndarray]:
    """Rows that each fold holds out, (N,) booleans; a patient is in one fold."""
    patients = rows_of_patients(cases, fewest=1)
    if not 2 <= folds <= len(patients):
        raise ValueError(f"folds is {folds}; expected 2 to {len(patients)}, the number of patients")
    held = np.zeros((folds, len(cases)), dtype=bool)
    for place, patient in enumerate(np.random.default_rng(seed).permutation(len(patients))):
        held[place % folds, patients[patient]] = True
    return list(held)


def _standardised(
    values: np.ndarray,
) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """Columns less their mean, over their deviation (a constant is 0), and the map for new rows."""
    mean = values.mean(axis=0)
    deviation = np.where(np.ptp(values, axis=0) > 0, values.std(axis=0), np.inf)
    return (values - mean) / deviation, lambda new: (new - mean) / deviation


def _ridge(x: np.ndarray, y: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Predictions for new rows; the penalty, in units of N, is chosen by leave-one-out."""
    x, scale = _standardised(x)
    return RidgeCV(alphas=len(x) * np.logspace(-4, 4, 17)).fit(x, y).predict(scale(new))


def _lasso(
    x: np.ndarray, y: np.ndarray, cases: np.ndarray, folds: int, seed: int
) -> tuple[LassoCV, Callable[[np.ndarray], np.ndarray]]:
    """The model of standardised columns, and the function that predicts y of new rows."""
    scaled, scale = _standardised(x)
    held = _folds(cases, min(folds, len(set(cases))), seed)
    splits = [(np.flatnonzero(~h), np.flatnonzero(h)) for h in held]
    # 1 is the largest correlation there can be, so the grid starts at a fit of nothing
    model = LassoCV(alphas=np.logspace(0, -2, 20), cv=splits, max_iter=LASSO_STEPS)
    with _unfinished():
        model.fit(scaled, _standardised(y)[0])
    return model, lambda new: y.mean() + y.std() * model.predict(scale(new))


def _unfinished() -> warnings.catch_warnings:
    """No word of a lasso that stopped a little early, as it does with more columns than rows."""
    return warnings.catch_warnings(action="ignore", category=ConvergenceWarning)


def _importance(
    codes: np.ndarray, attributes: np.ndarray, penalties: Sequence[float]
) -> np.ndarray:
    """Absolute coefficients (D, K) of a lasso per attribute, with known penalties (K,)."""
    # columns in a row of memory, as the solver wants them if nothing is to be checked or copied
    x = np.asfortranarray(_standardised(codes)[0])
    y = np.asfortranarray(_standardised(attributes)[0])
    options = {"max_iter": LASSO_STEPS, "precompute": False, "check_input": False}
    with _unfinished():
        paths = [lasso_path(x, y[:, j], alphas=[a], **options) for j, a in enumerate(penalties)]
    return np.abs([coefficients[:, 0] for _, coefficients, _ in paths]).T


def _explained(
    metric: str,
    table: LatentTable,
    squared: np.ndarray,
    total: np.ndarray,
    counts: np.ndarray,
    dimensions: Sequence[int | None],
) -> list[Interval]:
    """Share of the total (N, K) that squared errors (N, K) leave out, with its interval."""
    total = np.where(np.ptp(table.attributes, axis=0) > 0, total, np.nan)
    values = 1 - squared.sum(axis=0) / total.sum(axis=0)
    drawn = 1 - (counts @ squared) / (counts @ total)
    return with_mean(metric, table.names, table.cases, values, drawn, dimensions)


def with_mean(
    metric: str,
    names: Sequence[str],
    cases: Sequence[str],
    values: np.ndarray,
    drawn: np.ndarray,
    dimensions: Sequence[int | None],
) -> list[Interval]:
    """A row per attribute, of values (K,) and draws (rounds, K), and one for their mean.

    ``cases`` holds the patient of each row that was scored.
    """
    columns = [*zip(names, values, drawn.T, dimensions, strict=True)]
    columns.append(("mean", values.mean(), drawn.mean(axis=1), None))
    n, patients = len(cases), len(set(cases))
    return [
        Interval(metric, name, float(value), *interval(value, spread), n, patients, dim)
        for name, value, spread, dim in columns
    ]


def _concentration(importance: np.ndarray) -> np.ndarray:
    """1 - entropy of each column (A, B) of shares, in units of its most, (B,); 0 if all are 0."""
    if len(importance) < 2:
        return np.full(importance.shape[1], np.nan)
    total = importance.sum(axis=0)
    shares = np.divide(importance, total, out=np.zeros(importance.shape), where=total > 0)
    entropy = -(shares * np.log(np.where(shares > 0, shares, 1))).sum(axis=0)
    return (1 - entropy / np.log(len(importance))) * (total > 0)


def _same(what: str, first: object, second: object) -> None:
    if first != second:
        raise ValueError(f"{what} differ: {first} and {second}; expected the same in both tables")
