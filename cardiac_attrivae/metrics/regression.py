"""Attributes predicted from many dimensions by ridge and lasso regressions: leakage and DCI."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LassoCV, RidgeCV, lasso_path
from sklearn.model_selection import PredefinedSplit
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from ..schema import LatentTable
from .codes import Values, tabulate
from .disentanglement import completeness, disentanglement, pick
from .information import mutual_information
from .intervals import with_mean
from .metric import Good, Metric, Score, Section, table_of
from .patients import (
    as_table,
    checked,
    draw_patients,
    drawn_rows,
    permute_patients,
    rows_of_patients,
)
from .scales import EXPLAINED
from .uncertainty import estimates

MOST_STEPS = 10_000
"""Most steps of a lasso's coordinate descent; it stops earlier."""


def explained(measured: np.ndarray, predicted: np.ndarray, means: np.ndarray) -> np.ndarray:
    r"""Computes the share of squares that predictions of left-out patients explain, (K,).

    .. math:: 1 - \frac{\sum_n (a_n - \hat a_n)^2}{\sum_n (a_n - \bar a_{-n})^2}

    The prediction and the mean come from the folds without patient n: 0 is a prediction no better
    than the mean. All arrays are (N, K); nan for a constant attribute.

    Example:
        >>> explained(np.array([[1.0], [3.0]]), np.array([[2.0], [3.0]]), np.array([[2.0], [1.0]]))
        array([0.8])
    """
    squared, total = _squares(measured, predicted, means)
    return 1 - squared.sum(axis=0) / total.sum(axis=0)


PREDICTED: dict[str, Metric[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = table_of(
    Metric(
        "Leakage", "Leakage",
        "R² of an attribute from all dimensions but its own, in patients left out of the fit.",
        Section.FURTHER, explained, good=Good.LOW, scale=EXPLAINED,
    ),
    Metric(
        "Informativeness", "Informativeness",
        "R² of an attribute from all dimensions, by a lasso, in patients left out of the fit.",
        Section.FURTHER, explained, scale=EXPLAINED,
    ),
)  # fmt: skip
"""How well left-out patients are predicted: functions of measured, predicted, means (N, K)."""

DCI: dict[str, Metric[[np.ndarray], Values]] = table_of(
    Metric(
        "Disentanglement", "Disentanglement",
        "Whether a dimension matters to one attribute only, by the coefficients of a lasso.",
        Section.FURTHER, lambda importance: (disentanglement(importance), None),
    ),
    Metric(
        "Completeness", "Completeness",
        "Whether one dimension alone matters to an attribute, by the coefficients of a lasso.",
        Section.FURTHER,
        lambda importance: (completeness(importance), importance.argmax(axis=0)),
    ),
)  # fmt: skip
"""Scores of the importance (D, K) of each dimension to each attribute."""


def leakage(
    codes: LatentTable | ArrayLike,
    attributes: ArrayLike | None = None,
    *,
    folds: int = 5,
    rounds: int = 1000,
    seed: int = 0,
) -> list[Score]:
    """Predicts each attribute from all dimensions but its own, in patients left out of the fit.

    The score is `explained`. The fit is a ridge regression, because D may exceed N; its penalty is
    chosen by leave-one-out within the fitted folds. The dimension left out is the trained one, or
    else that of the largest information in the fitted folds.

    Args:
        codes: A table with names, or codes (N, D) of as many patients, D >= 2.
        attributes: Attribute values (N, K) or (N,), if codes are an array.
        folds: Parts that the patients are divided into, 2 or more.
        rounds: Draws of patients, after prediction: intervals ignore the spread of the fits, so
            they are too short (docs/evidence/coverage.md).
        seed: Seed of the folds, the draws and the jitter that breaks ties.

    Returns:
        A score per attribute and their mean, metric ``Leakage``; nan for a constant attribute.

    Raises:
        ValueError: If D < 2, or folds is below 2 or above the number of patients; as `estimate`.

    Example:
        >>> attribute = np.arange(20.0)
        >>> alone = np.column_stack([attribute, np.cos(attribute)])
        >>> twice = np.column_stack([attribute, attribute])
        >>> [round(leakage(codes, attribute, rounds=9)[0].value, 1) for codes in (alone, twice)]
        [-0.0, 1.0]
    """
    table = as_table(codes, attributes)
    x, y = checked(table.codes, table.attributes, table.names)
    d = x.shape[1]
    if d < 2:
        raise ValueError(f"codes have D = {d} dimensions; expected D >= 2: one and the others")
    pick(np.zeros((d, len(table.names))), table.dimensions)  # raises if one is out of range
    counts = draw_patients(table.cases, rounds, seed)
    split, predicted = _folds(table.cases, folds, seed), np.empty_like(y)
    for train, test in split.split():
        best = mutual_information(x[train], y[train], seed=seed).argmax(axis=0)
        ridge = RidgeCV(alphas=len(train) * np.logspace(-4, 4, 17))  # penalties in units of N
        for k, dim in enumerate(table.dimensions):
            others = np.delete(x, best[k] if dim is None else dim, axis=1)
            fitted = make_pipeline(StandardScaler(), ridge).fit(others[train], y[train, k])
            predicted[test, k] = fitted.predict(others[test])
    return _left_out("Leakage", table, predicted, split, counts, table.dimensions)


def dci(
    codes: LatentTable | ArrayLike,
    attributes: ArrayLike | None = None,
    *,
    folds: int = 5,
    rounds: int = 1000,
    seed: int = 0,
) -> list[Score]:
    """Measures disentanglement, completeness and informativeness by lassos of all dimensions.

    As the paper's linear variant: importance is the absolute coefficient of a lasso on standardised
    columns, its penalty chosen by cross-validation over patients. Informativeness is the R^2 on
    patients left out, with the penalty chosen among the others; the paper reports an error.

    The few dimensions that a lasso picks from noise look disentangled and complete, so the first
    two have a null distribution: attributes of other patients, with the penalty held as in the
    draws.

    Args:
        codes: A table with names, or codes (N, D) of as many patients.
        attributes: Attribute values (N, K) or (N,), if codes are an array.
        folds: Parts that the patients are divided into, 2 or more.
        rounds: Draws of patients, and as many permutations: for importance with the penalty held,
            and for Informativeness after prediction, as in `leakage`.
        seed: Seed of the folds, the draws and the permutations.

    Returns:
        Disentanglement (one number) and Completeness (per attribute, and mean), with a null
        distribution; Informativeness (per attribute, and mean), without.

    Raises:
        ValueError: As `leakage`, but for D; as `permute_patients`.

    Example:
        >>> codes = np.random.default_rng(0).normal(size=(20, 3))
        >>> for found in dci(codes, codes[:, :2], rounds=9):
        ...     if found.attribute == "mean":
        ...         print(found.metric, round(found.value, 1))
        Disentanglement 1.0
        Completeness 1.0
        Informativeness 1.0
    """
    table = as_table(codes, attributes)
    x, y = checked(table.codes, table.attributes, table.names)
    n, cases = len(x), table.cases

    def measure(rows: np.ndarray, origin: np.ndarray, penalties: Sequence[float]) -> list[Score]:
        return tabulate(_importance(x[rows], y[origin], penalties), table.names, n, DCI)

    counts, everyone = draw_patients(table.cases, rounds, seed), np.arange(n)
    permuted = permute_patients(table.cases, rounds, seed)
    split, predicted = _folds(table.cases, folds, seed), np.empty_like(y)
    # a lasso may stop a little early where D > N
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        lassos = [_lasso(cases, folds, seed).fit(x, column)[-1] for column in y.T]
        penalties = [lasso.regressor_.alpha_ for lasso in lassos]
        found = measure(everyone, everyone, penalties)
        drawn = [measure(rows, rows, penalties) for rows in drawn_rows(counts)]
        null = [measure(everyone, origin, penalties) for origin in permuted]
        for train, test in split.split():
            for k, column in enumerate(y.T):
                fitted = _lasso([cases[row] for row in train], folds, seed).fit(
                    x[train], column[train]
                )
                predicted[test, k] = fitted.predict(x[test])
    of_draws, of_null = (np.array([[s.value for s in r] for r in rows]) for rows in (drawn, null))
    return [
        *estimates(found, of_draws, of_null, len(set(table.cases))),
        *_left_out("Informativeness", table, predicted, split, counts, [None] * len(table.names)),
    ]


def _folds(cases: Sequence[str], folds: int, seed: int) -> PredefinedSplit:
    """Divides patients into folds at random; the rows of a patient are in one fold."""
    patients = rows_of_patients(cases, fewest=1)
    if not 2 <= folds <= len(patients):
        raise ValueError(f"folds is {folds}; expected 2 to {len(patients)}, the number of patients")
    fold = np.empty(len(cases), dtype=int)
    for place, patient in enumerate(np.random.default_rng(seed).permutation(len(patients))):
        fold[patients[patient]] = place % folds
    return PredefinedSplit(fold)


def _lasso(cases: Sequence[str], folds: int, seed: int) -> Pipeline:
    """A lasso on standardised columns, its penalty chosen by cross-validation over patients."""
    split = _folds(cases, min(folds, len(set(cases))), seed)
    # 1 is the largest correlation there can be, so the grid starts at a fit of nothing
    lasso = LassoCV(alphas=np.logspace(0, -2, 20), cv=split, max_iter=MOST_STEPS)
    return make_pipeline(
        StandardScaler(), TransformedTargetRegressor(lasso, transformer=StandardScaler())
    )


def _importance(
    codes: np.ndarray, attributes: np.ndarray, penalties: Sequence[float]
) -> np.ndarray:
    """Computes absolute coefficients (D, K) of a lasso per attribute, with known penalties (K,)."""
    # columns in a row of memory, as the solver wants them if nothing is to be checked or copied
    x, y = (
        np.asfortranarray(StandardScaler().fit_transform(values)) for values in (codes, attributes)
    )
    options = {"max_iter": MOST_STEPS, "precompute": False, "check_input": False}
    paths = [lasso_path(x, y[:, j], alphas=[a], **options) for j, a in enumerate(penalties)]
    return np.abs([coefficients[:, 0] for _, coefficients, _ in paths]).T


def _left_out(
    metric: str,
    table: LatentTable,
    predicted: np.ndarray,
    split: PredefinedSplit,
    counts: np.ndarray,
    dimensions: Sequence[int | None],
) -> list[Score]:
    """Scores predictions (N, K) of left-out patients, with intervals over draws (rounds, N)."""
    measured = np.asarray(table.attributes, dtype=float)
    means = np.empty_like(measured)
    for train, test in split.split():
        means[test] = [column[train].mean() for column in measured.T]
    squared, total = _squares(measured, predicted, means)
    drawn = 1 - (counts @ squared) / (counts @ total)
    values = PREDICTED[metric](measured, predicted, means)
    return with_mean(metric, table.names, table.cases, values, drawn, dimensions)


def _squares(
    measured: np.ndarray, predicted: np.ndarray, means: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Squared errors of predictions and of means (N, K); the latter nan for a constant."""
    total = np.where(np.ptp(measured, axis=0) > 0, (measured - means) ** 2, np.nan)
    return (measured - predicted) ** 2, total
