"""Attributes predicted from many dimensions by ridge and lasso regressions: leakage and DCI."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
from numpy.typing import ArrayLike
from sklearn import config_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import RidgeCV, lasso_path
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ..schema import LatentTable
from .codes import Values, tabulate
from .disentanglement import completeness, disentanglement, pick
from .information import mutual_information
from .intervals import jackknife, with_mean
from .metric import Good, Metric, Score, Section, table_of
from .patients import (
    as_table,
    checked,
    permute_patients,
    rows_of_patients,
)
from .scales import EXPLAINED
from .uncertainty import estimates

MOST_STEPS = 10_000
"""Most steps of a lasso's coordinate descent; it stops earlier."""
PENALTIES = np.logspace(0, -2, 20)
"""Penalties of a lasso to choose from; 1, the largest correlation there can be, fits nothing."""
GROUPS = 10
"""Groups of patients that are left out in turn for an interval; fewer where patients are fewer."""


def explained(measured: np.ndarray, predicted: np.ndarray, means: np.ndarray) -> np.ndarray:
    r"""Computes the share of squares that predictions of left-out patients explain, (K,).

    .. math:: 1 - \frac{\sum_n (a_n - \hat a_n)^2}{\sum_n (a_n - \bar a_{-n})^2}

    The prediction and the mean come from the folds without patient n: 0 is a prediction no better
    than the mean. All arrays are (N, K); nan for a constant attribute.

    Example:
        >>> explained(np.array([[1.0], [3.0]]), np.array([[2.0], [3.0]]), np.array([[2.0], [1.0]]))
        array([0.8])
    """
    total = np.where(np.ptp(measured, axis=0) > 0, (measured - means) ** 2, np.nan)
    return 1 - ((measured - predicted) ** 2).sum(axis=0) / total.sum(axis=0)


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
        "Whether a dimension matters to one attribute only (lasso). "
        "Its interval holds 83 %, not 95 %.",
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
    seed: int = 0,
) -> list[Score]:
    """Predicts each attribute from all dimensions but its own, in patients left out of the fit.

    The score is `explained`. The fit is a ridge regression, because D may exceed N; its penalty is
    chosen by leave-one-out within the fitted folds. The dimension left out is the trained one, or
    else that of the largest information in the fitted folds. For the interval everything is fitted
    again without each tenth of the patients, see `jackknife`.

    Args:
        codes: A table with names, or codes (N, D) of as many patients, D >= 2.
        attributes: Attribute values (N, K) or (N,), if codes are an array.
        folds: Parts that the patients are divided into, 2 or more.
        seed: Seed of the folds, and of the jitter that breaks ties.

    Returns:
        A score per attribute and their mean, metric ``Leakage``; nan for a constant attribute.

    Raises:
        ValueError: If D < 2, or folds is below 2 or above the number of patients; as `estimate`.

    Example:
        >>> attribute = np.arange(20.0)
        >>> alone = np.column_stack([attribute, np.cos(attribute)])
        >>> twice = np.column_stack([attribute, attribute])
        >>> [round(leakage(codes, attribute)[0].value, 1) for codes in (alone, twice)]
        [-0.0, 1.0]
    """
    table = as_table(codes, attributes)
    x, y = checked(table.codes, table.attributes, table.names)
    d = x.shape[1]
    if d < 2:
        raise ValueError(f"codes have D = {d} dimensions; expected D >= 2: one and the others")
    pick(np.zeros((d, len(table.names))), table.dimensions)  # raises if one is out of range

    def predict(train: np.ndarray, test: np.ndarray) -> np.ndarray:
        best = mutual_information(x[train], y[train], seed=seed).argmax(axis=0)
        ridge = RidgeCV(alphas=len(train) * np.logspace(-4, 4, 17))  # penalties in units of N
        predicted = np.empty((len(test), y.shape[1]))
        for k, dim in enumerate(table.dimensions):
            others = np.delete(x, best[k] if dim is None else dim, axis=1)
            fitted = make_pipeline(StandardScaler(), ridge).fit(others[train], y[train, k])
            predicted[:, k] = fitted.predict(others[test])
        return predicted

    fold = _folds(table.cases, folds, seed)
    return _left_out("Leakage", table, fold, predict, table.dimensions)


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
    two have a null distribution: attributes of other patients, with the penalty held. For intervals
    all is fitted again, penalty included, without each tenth of the patients, see `jackknife`.

    Args:
        codes: A table with names, or codes (N, D) of as many patients.
        attributes: Attribute values (N, K) or (N,), if codes are an array.
        folds: Parts that the patients are divided into, 2 or more.
        rounds: Permutations.
        seed: Seed of the folds and the permutations.

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
    n, everyone, fold = len(x), np.arange(len(x)), _folds(table.cases, folds, seed)

    def measure(codes: np.ndarray, a: np.ndarray, penalties: Sequence[float]) -> list[Score]:
        return tabulate(_importance(codes, a, penalties), table.names, n, DCI)

    @cache
    def inner(left_out: int) -> np.ndarray:
        """Folds (N,) of the patients outside one fold, within which a penalty is chosen."""
        rows, within = np.flatnonzero(fold != left_out), np.empty(n, dtype=int)
        cases = [table.cases[row] for row in rows]
        within[rows] = _folds(cases, min(folds, len(set(cases))), seed)
        return within

    def predict(train: np.ndarray, test: np.ndarray) -> np.ndarray:
        of_codes, of_attributes = StandardScaler().fit(x[train]), StandardScaler().fit(y[train])
        known, a = of_codes.transform(x[train]), of_attributes.transform(y[train])
        lines = _lassos(known, a, _chosen_penalties(known, a, inner(int(fold[test[0]]))[train]))
        return of_attributes.inverse_transform(of_codes.transform(x[test]) @ lines)

    def fitted(rows: np.ndarray) -> tuple[np.ndarray, list[float]]:
        """Standardised codes of some rows, and the penalty of each attribute there."""
        codes = _standardised(x[rows])
        return codes, _chosen_penalties(codes, _standardised(y[rows]), fold[rows])

    # inputs were checked; a lasso may stop a little early where D > N
    with (
        config_context(assume_finite=True, skip_parameter_validation=True),
        warnings.catch_warnings(action="ignore", category=ConvergenceWarning),
    ):
        codes, penalties = fitted(everyone)
        found = measure(codes, y, penalties)
        without = []
        for rows in _without_groups(table.cases):
            fewer, chosen = fitted(rows)
            without.append(measure(fewer, y[rows], chosen))
        permuted = permute_patients(table.cases, rounds, seed)
        null = [measure(codes, y[origin], penalties) for origin in permuted]
        informed = _left_out("Informativeness", table, fold, predict, [None] * len(table.names))
    left_out, of_null = (np.array([[s.value for s in r] for r in rows]) for rows in (without, null))
    return [*estimates(found, left_out, of_null, len(set(table.cases)), jackknife), *informed]


def _folds(cases: Sequence[str], folds: int, seed: int) -> np.ndarray:
    """Divides patients into folds at random, (N,); the rows of a patient are in one fold."""
    patients = rows_of_patients(cases, fewest=1)
    if not 2 <= folds <= len(patients):
        raise ValueError(f"folds is {folds}; expected 2 to {len(patients)}, the number of patients")
    fold = np.empty(len(cases), dtype=int)
    for place, patient in enumerate(np.random.default_rng(seed).permutation(len(patients))):
        fold[patients[patient]] = place % folds
    return fold


def _without_groups(cases: Sequence[str]) -> list[np.ndarray]:
    """Lists the rows that are left without each of `GROUPS` groups of patients. Their seed is not
    that of the folds: a group that is a fold would leave a fit as it was."""
    group = _folds(cases, min(GROUPS, len(rows_of_patients(cases))), seed=GROUPS)
    return [np.flatnonzero(group != g) for g in np.unique(group)]


def _standardised(values: np.ndarray) -> np.ndarray:
    """Standardises columns, in a row of memory each, so that the solver copies nothing."""
    return np.asfortranarray(StandardScaler().fit_transform(values))


def _importance(
    standardised: np.ndarray, attributes: np.ndarray, penalties: Sequence[float]
) -> np.ndarray:
    """Computes absolute coefficients (D, K) of a lasso per attribute, with known penalties (K,)."""
    return np.abs(_lassos(standardised, _standardised(attributes), penalties))


def _chosen_penalties(x: np.ndarray, y: np.ndarray, fold: np.ndarray) -> list[float]:
    """Chooses a penalty for each attribute (N, K) by cross-validation over folds (N,): the numbers
    of scikit-learn's `LassoCV`, without its checks of every fold."""
    errors = []
    for left_out in np.unique(fold):
        away = fold == left_out
        mean, level = x[~away].mean(axis=0), y[~away].mean(axis=0)
        lines = (_paths(x[~away] - mean, column, PENALTIES) for column in (y[~away] - level).T)
        missed = ((x[away] - mean) @ line - wanted[:, None]
                  for line, wanted in zip(lines, (y[away] - level).T, strict=True))  # fmt: skip
        errors.append([(miss**2).mean(axis=0) for miss in missed])
    return PENALTIES[np.mean(errors, axis=0).argmin(axis=1)].tolist()


def _lassos(x: np.ndarray, y: np.ndarray, penalties: Sequence[float]) -> np.ndarray:
    """Fits a lasso with its penalty to each column of attributes (N, K); coefficients (D, K)."""
    pairs = zip(y.T, penalties, strict=True)
    return np.hstack([_paths(x, column, [a], products=False) for column, a in pairs])


def _paths(
    x: np.ndarray, y: np.ndarray, penalties: Sequence[float] | np.ndarray, products: bool = True
) -> np.ndarray:
    """Fits lassos of an attribute (N,), one per penalty; coefficients (D, P). Codes (N, D) and
    attribute are centred. ``products`` are used where N > D, which is faster if there are many
    penalties."""
    x, y = np.asfortranarray(x), np.ascontiguousarray(y)
    return lasso_path(
        x, y, alphas=penalties, max_iter=MOST_STEPS, check_input=False,
        precompute=products and x.shape[0] > x.shape[1],
    )[1]  # fmt: skip


def _left_out(
    metric: str,
    table: LatentTable,
    fold: np.ndarray,
    predict: Callable[[np.ndarray, np.ndarray], np.ndarray],
    dimensions: Sequence[int | None],
) -> list[Score]:
    """Scores predictions of left-out patients, an entry of `PREDICTED`, with `jackknife` intervals;
    ``predict`` takes the rows to fit on and the rows (M,) to predict, and returns attributes (M,
    K)."""
    y = np.asarray(table.attributes, dtype=float)

    def measure(rows: np.ndarray) -> np.ndarray:
        predicted, means = np.empty_like(y), np.empty_like(y)
        for left_out in np.unique(fold[rows]):
            away = fold[rows] == left_out
            train, test = rows[~away], rows[away]
            predicted[test] = predict(train, test)
            means[test] = [column[train].mean() for column in y.T]
        return PREDICTED[metric](y[rows], predicted[rows], means[rows])

    values = measure(np.arange(len(y)))
    without = np.array([measure(rows) for rows in _without_groups(table.cases)])
    return with_mean(metric, table.names, table.cases, values, without, dimensions, jackknife)
