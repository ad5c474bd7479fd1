"""What a score is worth: its spread over patients and seeds, its floor of chance, held-out fits.

A patient is one draw: the rows of one patient are drawn, moved and left out together.

**Intervals** are of the bootstrap: patients are drawn with replacement and everything is computed
anew, the choice of dimensions included. Two things are not by the book.

Drawing doubles rows, and a doubled row is its own neighbour at distance 0, which ruins an estimate
of information. So the information of a draw is that of m = (1 - 1/e) P of its P patients, each
once, and its deviation from the mean of such subsamples is scaled by sqrt(m / (P - m)), the factor
by which subsamples spread less (Politis & Romano, 1994; Shao & Wu, 1989, delete-d jackknife).

The best of D dimensions is too good in a draw, for chance is drawn twice. So an interval is the
spread of the draws about *their mean*, laid about the score: it covers what the score would be on
average over other patients, as many as these, and is not cut at the ends of a score's range.
`corrected` takes the chance off both. As with any percentile bootstrap, the 95 % are a little less:
on simulated data an R^2 was covered in 92 to 95 % with 60 patients or more, in 91 % with 30.

References:
    | Bootstrap methods: another look at the jackknife (Efron, 1979)
    | A general theory for jackknife variance estimation (Shao & Wu, 1989)
    | Large sample confidence regions based on subsamples (Politis & Romano, 1994)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from sklearn.linear_model import Lasso, LassoCV, RidgeCV

from .metrics import (
    LEAST,
    METRICS,
    Dependence,
    Score,
    ScoreRow,
    checked,
    determination,
    modularity,
    mutual_information,
    pick,
    rank_correlation,
    self_information,
    tabulate,
)
from .schema import LatentTable

LEVEL = 0.95
"""Of every interval, and of the quantile of chance."""
FEWEST = 8
"""Patients below which nothing can be said of other patients."""
LASSO_STEPS = 10_000
"""Most steps of coordinate descent; it stops earlier."""


# Scores ------------------------------------------------------------------------------------------


def fixed_gap(matrix: np.ndarray, dimensions: Sequence[int | None]) -> np.ndarray:
    """Entry of each attribute's dimension in a matrix (D, K) less the best of the others, (K,).

    Below 0 if another dimension is better; nan without a dimension, or if D = 1.
    """
    own = pick(matrix, dimensions)
    if len(matrix) < 2:
        return np.full(len(own), np.nan)
    others = [
        0 if dim is None else np.delete(matrix[:, k], dim).max() for k, dim in enumerate(dimensions)
    ]
    return own - others


def fixed_modularity(information: np.ndarray, dimensions: Sequence[int | None]) -> float:
    """`modularity` of the trained dimensions alone; nan if there are none, or K = 1."""
    trained = sorted({dim for dim in dimensions if dim is not None})
    return modularity(information[trained]) if trained else float("nan")


SCORES: dict[str, Callable[[Dependence], Score]] = METRICS | {
    "Modularity_fixed": lambda m: (fixed_modularity(m.information, m.dimensions), None),
    "SAP_fixed": lambda m: (fixed_gap(m.separable, m.dimensions), m.dimensions),
    "MIG_fixed": lambda m: (
        fixed_gap(m.information, m.dimensions)
        * np.divide(1, m.entropy, out=np.zeros(len(m.entropy)), where=m.entropy > 0),
        m.dimensions,
    ),
}
"""Those of `METRICS`, and the others where the attributes were trained to be."""


# Spread over patients, and chance ----------------------------------------------------------------


class Estimate(NamedTuple):
    """One score with all that is needed to read it."""

    metric: str
    attribute: str  # a name, or "mean"
    value: float
    low: float  # 95 % interval over patients
    high: float
    null: float  # mean of chance
    null_95: float  # 95th centile of chance
    p: float  # share of chance at or above the value, one-sided
    corrected: float  # (value - null) / (1 - null): 0 is chance, 1 is perfect
    corrected_low: float
    corrected_high: float
    n: int  # rows
    patients: int
    dimension: int | None  # the latent dimension looked at; None where there is not one


def estimate(table: LatentTable, rounds: int = 1000, seed: int = 0) -> list[Estimate]:
    """Every entry of `SCORES` with its interval over patients and its floor of chance.

    Args:
        table: Codes (N, D) and attributes (N, K) of the same slices, with their names.
        rounds: Draws of patients, and as many permutations.
        seed: Of both, and of the jitter that breaks ties.

    Returns:
        Rows in the order of `SCORES` and of the table's columns, as `metrics.score`.

    Raises:
        ValueError: As `metrics.score`; if there are fewer than 8 patients; if rounds < 1.
    """
    found = scores(table, seed)
    draws = bootstrap(table, rounds, seed)
    chances = permutation_null(table, rounds, seed)
    patients = len(set(table.cases))
    rows = []
    for row, drawn, chance in zip(found, draws.T, chances.T, strict=True):
        ends = interval(row.value, drawn)
        null = chance.mean()
        rows.append(
            Estimate(
                row.metric,
                row.attribute,
                row.value,
                *ends,
                float(null),
                float(np.quantile(chance, LEVEL)),
                _share_above(chance, row.value),
                *(corrected(value, null) for value in (row.value, *ends)),
                row.n,
                patients,
                row.dimension,
            )
        )
    return rows


def scores(table: LatentTable, seed: int = 0) -> list[ScoreRow]:
    """`metrics.score` of every entry of `SCORES`."""
    measured = Dependence.between(table.codes, table.attributes, table.dimensions, seed)
    return tabulate(measured, table.names, len(table.codes), SCORES)


def bootstrap(table: LatentTable, rounds: int = 1000, seed: int = 0) -> np.ndarray:
    """`scores` of patients drawn with replacement, (rounds, S) in the order of `scores`.

    Information is that of subsamples, see the top of this file. Tables of the same patients and the
    same seed share the draws, so differences are paired. Raises as `estimate`.
    """
    codes, attributes = table.codes, table.attributes
    counts = draw_patients(table.cases, rounds, seed)
    information, entropy = _draw_information(table, counts, seed)
    values = []
    for r, rows in enumerate(_rows(counts)):
        x, y = codes[rows], attributes[rows]
        measured = Dependence(
            information=information[r],
            entropy=entropy[r],
            fit=determination(x, y),
            separable=determination(x, y, least_variance=1e-12),
            correlation=rank_correlation(x, y),
            dimensions=table.dimensions,
        )
        values.append([row.value for row in tabulate(measured, table.names, len(rows), SCORES)])
    return np.array(values)


def permutation_null(
    table: LatentTable,
    rounds: int = 1000,
    seed: int = 0,
    measure: Callable[[LatentTable], Sequence[ScoreRow | Interval]] = scores,
) -> np.ndarray:
    """Scores if attributes belonged to other patients, (rounds, S) in the order of ``measure``.

    ``measure`` may be `dci` or `leakage` as well, which take longer. Raises as `permuted`.
    """
    _check_rounds(rounds)
    rng = np.random.default_rng(seed)
    tables = (permuted(table, rng) for _ in range(rounds))
    return np.array([[row.value for row in measure(shuffled)] for shuffled in tables])


def permuted(table: LatentTable, rng: np.random.Generator) -> LatentTable:
    """The table with the attributes of whole patients dealt out anew.

    All attributes move together, and the rows of a patient keep their order. Patients swap with
    patients of as many rows, for nothing else keeps the dependence within a patient (Winkler et
    al., 2015); one whose number of rows is unique stays, which makes the null stricter.

    Raises:
        ValueError: If fewer than 5 patients have another one with as many rows.

    References:
        | Multi-level block permutation (Winkler et al., 2015), whole-block exchangeability
        | https://doi.org/10.1016/j.neuroimage.2015.05.092
    """
    patients = _patients(table.cases)
    sizes = np.array([len(rows) for rows in patients])
    alike = [np.flatnonzero(sizes == size) for size in np.unique(sizes)]
    movable = sum(len(group) for group in alike if len(group) > 1)
    if movable < LEAST:
        raise ValueError(
            f"{movable} of {len(patients)} patients have a partner with as many rows; expected at "
            f"least {LEAST} to permute (rows per patient: {sorted(set(sizes.tolist()))})"
        )
    origin = np.empty(len(table.cases), dtype=int)
    for group in alike:
        for patient, other in zip(group, rng.permutation(group), strict=True):
            origin[patients[patient]] = patients[other]
    return replace(table, attributes=table.attributes[origin])


def draw_patients(cases: Sequence[str], rounds: int, seed: int = 0) -> np.ndarray:
    """How often each row is drawn, (rounds, N), if patients are drawn with replacement.

    Which patients are drawn depends on their names and not on the order of rows.
    """
    _check_rounds(rounds)
    patients = _patients(cases)
    p = len(patients)
    drawn = np.random.default_rng(seed).integers(p, size=(rounds, p))
    drawn = np.array([np.bincount(row, minlength=p) for row in drawn])
    counts = np.empty((rounds, len(cases)), dtype=int)
    for patient, rows in enumerate(patients):
        counts[:, rows] = drawn[:, [patient]]
    return counts


def interval(value: float, drawn: np.ndarray) -> tuple[float, float]:
    """Ends of the 95 % interval of a value: quantiles of its draws about their mean, (rounds,)."""
    ends = value + np.quantile(drawn - drawn.mean(), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(ends[0]), float(ends[1])


def corrected(value: float, null: float) -> float:
    r"""What is left of a score above chance, (s - s_0) / (1 - s_0): 0 is chance, 1 is perfect.

    nan if chance is perfect. As Cohen's kappa corrects an agreement (Cohen, 1960).
    """
    return float((value - null) / (1 - null)) if null < 1 else float("nan")


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
    for table in (source, target):
        checked(table.codes, table.attributes, table.names)
    information = mutual_information(source.codes, source.attributes, seed=seed)
    pick(information, source.dimensions)  # raises if one is out of range
    streams = np.random.SeedSequence(seed).generate_state(2)  # the tables are drawn independently
    of_source = draw_patients(source.cases, rounds, streams[0])
    of_target = draw_patients(target.cases, rounds, streams[1])
    chosen = _draw_information(source, of_source, seed)[0].argmax(axis=1)  # (rounds, K)
    best = tuple(int(dim) for dim in information.argmax(axis=0))
    rows = []
    for suffix, dimensions in (("", best), ("_fixed", source.dimensions)):
        values = _carried(source, target, dimensions)
        drawn = np.array(
            [
                _carried(_take(source, s), _take(target, t), dimensions if suffix else tuple(dims))
                for s, t, dims in zip(_rows(of_source), _rows(of_target), chosen, strict=True)
            ]
        )
        for i, metric in enumerate(AGREEMENT):
            found = _with_mean(metric + suffix, target, values[i], drawn[:, i], dimensions)
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


def dci(table: LatentTable, folds: int = 5, rounds: int = 1000, seed: int = 0) -> list[Interval]:
    """Disentanglement, completeness and informativeness by lasso regressions of all dimensions.

    As the paper's linear variant: importance is the absolute coefficient of a lasso on standardised
    columns, its penalty chosen by cross-validation over patients. Informativeness is the R^2 on
    patients left out, with the penalty chosen among the others; the paper reports an error.

    Args:
        table: Codes (N, D) and attributes (N, K).
        folds: Parts that the patients are dealt to, 2 or more.
        rounds: Draws of patients: for importance with the penalty held, and for Informativeness
            after prediction, as in `leakage`.
        seed: Of the folds and the draws.

    Returns:
        Disentanglement (one number), Completeness and Informativeness (per attribute, and mean).
        The few dimensions that a lasso picks from noise look disentangled and complete: read the
        first two beside their chance, ``permutation_null(table, measure=dci)``.

    Raises:
        ValueError: As `leakage`, but for D.
    """
    codes, attributes = checked(table.codes, table.attributes, table.names)
    k = len(table.names)
    counts = draw_patients(table.cases, rounds, seed)
    cases = np.asarray(table.cases)
    fitted = [_lasso(codes, attributes[:, j], cases, folds, seed)[0] for j in range(k)]
    importance = np.abs([model.coef_ for model in fitted]).T
    drawn = np.empty((rounds, *importance.shape))
    squared, total = np.empty_like(attributes), np.empty_like(attributes)
    for r, rows in enumerate(_rows(counts)):
        for j, model in enumerate(fitted):
            x, y = (_standardised(v[rows])[0] for v in (codes, attributes[:, j]))
            again = Lasso(alpha=model.alpha_, max_iter=LASSO_STEPS).fit(x, y)
            drawn[r, :, j] = np.abs(again.coef_)
    for held in _folds(table.cases, folds, seed):
        for j in range(k):
            y = attributes[~held, j]
            _, predict = _lasso(codes[~held], y, cases[~held], folds, seed)
            squared[held, j] = (attributes[held, j] - predict(codes[held])) ** 2
            total[held, j] = (attributes[held, j] - y.mean()) ** 2
    whole = np.array([disentanglement(matrix) for matrix in drawn])
    complete = np.array([completeness(matrix) for matrix in drawn])
    return [
        *_with_mean("Disentanglement", table, disentanglement(importance), whole, ()),
        *_with_mean(
            "Completeness", table, completeness(importance), complete, importance.argmax(axis=0)
        ),
        *_explained("Informativeness", table, squared, total, counts, [None] * k),
    ]


# Between models ----------------------------------------------------------------------------------


class Spread(NamedTuple):
    """One score of models that differ in their seed alone."""

    metric: str
    attribute: str
    value: float  # mean over models
    seeds: float  # standard deviation over models, of the same patients
    patients: float  # standard deviation over patients, of one model: root mean square over models
    low: float  # 95 % interval of the mean over models, over patients
    high: float


def spread(tables: Sequence[LatentTable], rounds: int = 1000, seed: int = 0) -> list[Spread]:
    """Spread over training seeds apart from the spread over patients, a row as in `scores`.

    Args:
        tables: Codes of the same patients by at least 2 models.
        rounds, seed: As in `bootstrap`; every model is given the same draws.

    Raises:
        ValueError: If there are fewer than 2 tables, or their rows differ.
    """
    if len(tables) < 2:
        raise ValueError(f"tables are {len(tables)}; expected at least 2 models to spread over")
    for table in tables[1:]:
        _same_rows(tables[0], table)
    found = [scores(table, seed) for table in tables]
    values = np.array([[row.value for row in rows] for rows in found])
    drawn = np.array([bootstrap(table, rounds, seed) for table in tables])  # (models, rounds, S)
    over_patients = np.sqrt(drawn.var(axis=1, ddof=1 if rounds > 1 else 0).mean(axis=0))
    over_seeds, mean, means = values.std(axis=0, ddof=1), values.mean(axis=0), drawn.mean(axis=0)
    return [
        Spread(
            row.metric,
            row.attribute,
            float(mean[s]),
            float(over_seeds[s]),
            float(over_patients[s]),
            *interval(mean[s], means[:, s]),
        )
        for s, row in enumerate(found[0])
    ]


class Comparison(NamedTuple):
    """The difference of two models on the same patients."""

    metric: str
    attribute: str
    first: float
    second: float
    difference: float  # first - second
    low: float  # 95 % interval over patients
    high: float
    p: float  # two-sided
    patients: int


def compare(
    first: LatentTable, second: LatentTable, rounds: int = 1000, seed: int = 0
) -> list[Comparison]:
    """Difference of every score between two models, by paired draws of patients.

    p is the share of draws whose difference lies as far from the mean of draws as the difference
    lies from 0. Rows of two models can not be exchanged, as their dimensions mean different things;
    for numbers per patient there is `compare_paired`.

    Raises:
        ValueError: If the rows of the tables differ; as `estimate`.
    """
    _same_rows(first, second)
    drawn = bootstrap(first, rounds, seed) - bootstrap(second, rounds, seed)
    patients = len(set(first.cases))
    return [
        Comparison(
            a.metric,
            a.attribute,
            a.value,
            b.value,
            a.value - b.value,
            *interval(a.value - b.value, d),
            _share_above(np.abs(d - d.mean()), abs(a.value - b.value)),
            patients,
        )
        for a, b, d in zip(scores(first, seed), scores(second, seed), drawn.T, strict=True)
    ]


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
    patients = _patients(cases)
    means = np.array([(first[rows].mean(), second[rows].mean()) for rows in patients])
    difference = means[:, 0] - means[:, 1]
    names = [str(i) for i in range(len(patients))]
    drawn = draw_patients(names, rounds, seed) @ difference / len(patients)
    signs = np.random.default_rng(seed).choice([-1, 1], size=(rounds, len(patients)))
    value = difference.mean()
    return Comparison(
        metric,
        "mean",
        *(float(m) for m in means.mean(axis=0)),
        float(value),
        *interval(value, drawn),
        _share_above(np.abs(signs @ difference / len(patients)), abs(value)),
        len(patients),
    )


# Shared ------------------------------------------------------------------------------------------


def _patients(cases: Sequence[str], fewest: int = FEWEST) -> list[np.ndarray]:
    """Rows of each patient, in the order of names; an error if there are too few."""
    names, patient = np.unique(np.asarray(cases, dtype=str), return_inverse=True)
    if len(names) < fewest:
        raise ValueError(
            f"cases name {len(names)} patients in {len(cases)} rows; expected at least {fewest}"
        )
    return [np.flatnonzero(patient == i) for i in range(len(names))]


def _rows(counts: np.ndarray) -> Iterator[np.ndarray]:
    """The rows of each draw, each as often as it was drawn."""
    return (np.repeat(np.arange(counts.shape[1]), row) for row in counts)


def _draw_information(
    table: LatentTable, counts: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Information (rounds, D, K) and entropy (rounds, K) of draws (rounds, N), as the module says.

    Patients that were drawn come first; the last places, if any are left, are filled with others.
    """
    patients, rng = _patients(table.cases), np.random.default_rng([seed, 1])
    p = len(patients)
    m = round((1 - np.exp(-1)) * p)
    drawn = counts[:, [rows[0] for rows in patients]] > 0
    first = np.argsort(rng.random(drawn.shape) - drawn, axis=1)[:, :m]

    def information(codes: np.ndarray, attributes: np.ndarray) -> np.ndarray:
        matrix = mutual_information(codes, attributes, seed=seed, floor=-np.inf)
        return np.vstack([matrix, self_information(attributes, seed)])

    whole = information(table.codes, table.attributes)
    parts = np.empty((len(counts), *whole.shape))
    for r, chosen in enumerate(first):
        rows = np.sort(np.concatenate([patients[i] for i in chosen]))
        parts[r] = information(table.codes[rows], table.attributes[rows])
    spread = whole + np.sqrt(m / (p - m)) * (parts - parts.mean(axis=0))
    spread = np.maximum(spread, 0)
    return spread[:, :-1], spread[:, -1]


def _take(table: LatentTable, rows: np.ndarray) -> LatentTable:
    cases = tuple(table.cases[row] for row in rows)
    return replace(table, cases=cases, codes=table.codes[rows], attributes=table.attributes[rows])


def _carried(
    source: LatentTable, target: LatentTable, dimensions: Sequence[int | None]
) -> np.ndarray:
    """`agreement` (5, K) on the target of lines that were fitted on the source; nan without one."""
    known = [k for k, dim in enumerate(dimensions) if dim is not None]
    used = [dimensions[k] for k in known]
    x, y, new = source.codes[:, used], source.attributes[:, known], target.codes[:, used]
    centred = x - x.mean(axis=0)
    variance = (centred**2).sum(axis=0)
    slope = np.divide((centred * y).sum(axis=0), variance, out=variance * 0, where=variance > 0)
    predicted = y.mean(axis=0) + slope * (new - x.mean(axis=0))
    carried = np.full((len(AGREEMENT), len(dimensions)), np.nan)
    carried[:, known] = agreement(predicted, target.attributes[:, known])
    return carried


def _folds(cases: Sequence[str], folds: int, seed: int) -> list[np.ndarray]:
    """Rows that each fold holds out, (N,) booleans; a patient is in one fold."""
    patients = _patients(cases, fewest=1)
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
    model.fit(scaled, _standardised(y)[0])
    return model, lambda new: y.mean() + y.std() * model.predict(scale(new))


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
    return _with_mean(metric, table, values, drawn, dimensions)


def _with_mean(
    metric: str,
    table: LatentTable,
    values: np.ndarray | float,
    drawn: np.ndarray,
    dimensions: Sequence[int | None] | np.ndarray,
) -> list[Interval]:
    """A row per attribute, of values (K,) and draws (rounds, K), and one for their mean.

    One number for the whole code, with draws (rounds,), has the ``mean`` row alone.
    """
    columns = []
    if np.ndim(values):
        columns = [*zip(table.names, values, drawn.T, dimensions, strict=True)]
        drawn = drawn.mean(axis=1)
    columns.append(("mean", np.mean(values), drawn, None))
    n, patients = len(table.cases), len(set(table.cases))
    return [
        Interval(
            metric,
            name,
            float(value),
            *interval(value, spread),
            n,
            patients,
            None if dim is None else int(dim),
        )
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


def _share_above(drawn: np.ndarray, value: float) -> float:
    """p of a value among draws, itself counted, so never 0 (Phipson & Smyth, 2010)."""
    # a draw that is the same but for rounding is as large
    above = int(np.count_nonzero(drawn >= value - 1e-12 * max(1.0, abs(value))))
    return float("nan") if np.isnan(value) else (1 + above) / (1 + len(drawn))


def _check_rounds(rounds: int) -> None:
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; expected at least 1")


def _same(what: str, first: object, second: object) -> None:
    if first != second:
        raise ValueError(f"{what} differ: {first} and {second}; expected the same in both tables")


def _same_rows(first: LatentTable, second: LatentTable) -> None:
    """Raises unless two tables have the same patients and attributes, row by row."""
    _same("names", first.names, second.names)
    if first.cases != second.cases or not np.array_equal(first.attributes, second.attributes):
        raise ValueError(
            "cases or attributes differ between the tables; expected codes of the same rows"
        )
