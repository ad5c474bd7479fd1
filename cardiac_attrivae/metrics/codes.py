"""How far a code speaks of the attributes: pure functions, and one table that names them.

A few (D, K) matrices relate every latent dimension to every attribute. `Dependence.between`
computes them once, every score is arithmetic on them. To add a metric, add an entry to `METRICS`.

A constant column correlates with nothing: its R^2, SCC and SAP are 0, as is the MIG of a constant
attribute. A constant dimension has the information of its jitter, as in the published numbers: it
counts as one more unrelated dimension. What is undefined is nan, never dropped: SAP and MIG if
D = 1, Modularity if K = 1, a fixed score without a trained dimension, a mean with one of these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial import KDTree
from scipy.special import digamma, stdtr
from scipy.stats import rankdata

from ..schema import LatentTable

LEAST = 5
"""Samples below which no score means anything."""
FEW = 1000
"""Samples up to which neighbours are found by brute force over all columns at once."""
RARE = 0.01
"""Share of samples that may be left to a full comparison: cheaper than to go on for all."""


def mutual_information(
    codes: ArrayLike,
    attributes: ArrayLike,
    neighbours: int = 3,
    seed: int = 0,
    floor: float = 0.0,
) -> np.ndarray:
    r"""Mutual information of every dimension with every attribute, from nearest neighbours.

    .. math:: I = \psi(N) + \psi(k) - \langle\psi(n_x) + \psi(n_y)\rangle, \quad I \ge 0

    where n_x and n_y count the samples, itself included, that lie nearer in one coordinate than the
    k-th neighbour lies in the plane (Chebyshev distance). The same numbers as scikit-learn's
    ``mutual_info_regression(codes, attributes[:, j], random_state=seed)``, ties included. Memory
    is a few times that of the codes.

    Args:
        codes: Latent codes, (N, D).
        attributes: Attribute values, (N, K).
        neighbours: k, at least 1 and below N.
        seed: Of the jitter (1e-10 of the scale) that breaks ties. Without ties it changes nothing.
        floor: Least value. Estimates of no information scatter about 0; ``-inf`` shows them.

    Returns:
        Information in nats, (D, K), each at least ``floor``.

    Raises:
        ValueError: If the shapes do not fit, N < 5, a column is not finite, or k is out of range.

    References:
        | Estimating mutual information (Kraskov, Stoegbauer & Grassberger, 2004), first estimator
        | https://arxiv.org/abs/cond-mat/0305641
    """
    codes, attributes = checked(codes, attributes)
    (n, d), k = codes.shape, attributes.shape[1]
    if not 1 <= neighbours < n:
        raise ValueError(f"neighbours is {neighbours}; expected 1 to N - 1 = {n - 1}")

    # scikit-learn's order of draws: features, then target. Every attribute has the same draw, as
    # it would in a call of its own with this seed, so the order of attributes changes no number.
    draw = np.random.RandomState(seed).standard_normal
    x, y = _jittered(codes, draw((n, d))), _jittered(attributes, draw((n, 1)))
    psi = digamma(np.arange(n + 1))
    order = np.argsort(x, axis=0)  # once for all attributes
    x = np.take_along_axis(x, order, 0)
    information = np.empty((d, k))
    for j in range(k):
        rank = np.argsort(y[:, j])
        if n <= FEW:
            radius, count = _radius(x, y[order, j], neighbours), _count_near
        else:
            radius, count = _radius_by_tree(x, y[order, j], neighbours), _count_by_bisection
        by_row = np.empty((n, d))
        np.put_along_axis(by_row, order, radius, 0)
        near = np.empty((n, d))
        np.put_along_axis(near, order, psi[count(x, radius)], 0)
        near[rank] += psi[count(y[rank, j, None], by_row[rank])]
        information[:, j] = psi[n] + psi[neighbours] - near.mean(axis=0)
    return np.maximum(information, floor)


def self_information(attributes: ArrayLike, seed: int = 0) -> np.ndarray:
    """Information of each attribute with itself, in nats, (K,): the entropy that `mig` divides by.

    Without ties it is psi(N) - psi(4), the most that N samples can show. A constant has 0.
    """
    columns = np.asarray(attributes, dtype=float).T[:, :, None]
    return np.array([mutual_information(a, a, seed=seed)[0, 0] * (np.ptp(a) > 0) for a in columns])


def determination(
    codes: ArrayLike, attributes: ArrayLike, least_variance: float = 0.0
) -> np.ndarray:
    """R^2 of the least-squares line of each (dimension, attribute) pair, (D, K).

    The squared Pearson correlation; 0 for dimensions whose variance is at most ``least_variance``.
    """
    codes, attributes = checked(codes, attributes)
    alive = codes.var(axis=0, ddof=1) > least_variance
    return np.minimum(_correlation(codes, attributes) ** 2, 1.0) * alive[:, None]


def rank_correlation(
    codes: ArrayLike, attributes: ArrayLike, significance: float = 0.05
) -> np.ndarray:
    """|Spearman rho| of each (dimension, attribute) pair, 0 where p > significance, (D, K).

    p is two-sided, of Student's t with N - 2 degrees of freedom, uncorrected for the D K looks.
    """
    codes, attributes = checked(codes, attributes)
    rho = np.abs(_correlation(rankdata(codes, axis=0), rankdata(attributes, axis=0)))
    rho = np.minimum(rho, 1.0)
    freedom = len(codes) - 2
    with np.errstate(divide="ignore"):  # rho = 1 is t = inf is p = 0
        p = 2 * stdtr(freedom, -rho * np.sqrt(freedom / ((1 - rho) * (1 + rho))))
    return np.where(p <= significance, rho, 0.0)


def interpretability(
    information: np.ndarray,
    fit: np.ndarray,
    dimensions: Sequence[int | None] | None = None,
) -> np.ndarray:
    r"""R^2 of reading each attribute off one dimension by a line, fitted on the scored samples.

    .. math:: R^2_{d^* k}, \quad d^* = \arg\max_d I_{dk}

    Args:
        information: `mutual_information`, (D, K).
        fit: `determination`, (D, K).
        dimensions: Dimension to read each attribute from, length K; without it, d*.

    Returns:
        One R^2 per attribute, (K,), in [0, 1]; nan for an attribute whose dimension is None.

    Raises:
        ValueError: If dimensions are not K, or one is outside 0 to D - 1.

    References:
        | Discovering interpretable representations (Adel, Ghahramani & Weller, 2018)
        | Attribute-based regularization of latent spaces (Pati & Lerch, 2021)
        | https://arxiv.org/abs/2004.05485
    """
    return pick(fit, _top(information) if dimensions is None else dimensions)


def scc(correlation: np.ndarray, dimensions: Sequence[int | None] | None = None) -> np.ndarray:
    """Spearman correlation score: the largest significant |rho| of each attribute, (K,), in [0, 1].

    ``correlation`` is `rank_correlation`, (D, K); ``dimensions`` are those of `interpretability`.
    """
    return pick(correlation, _top(correlation) if dimensions is None else dimensions)


def pick(matrix: np.ndarray, dimensions: Sequence[int | None] | np.ndarray) -> np.ndarray:
    """Entry of each attribute's dimension in a matrix (D, K), (K,); nan where that is None."""
    d, k = matrix.shape
    wrong = [dim for dim in dimensions if dim is not None and not 0 <= dim < d]
    if len(dimensions) != k or wrong:
        raise ValueError(
            f"dimensions are {list(dimensions)}; expected one per attribute, {k} in all, "
            f"each None or 0 to {d - 1}"
        )
    picked = [np.nan if dim is None else matrix[dim, j] for j, dim in enumerate(dimensions)]
    return np.array(picked)


def modularity(information: np.ndarray) -> float:
    r"""Whether each dimension speaks of one attribute only: one number, the mean over all D.

    .. math:: 1 - \frac{\sum_k I_{dk}^2 - \max_k I_{dk}^2}{(K - 1) \max_k I_{dk}^2}

    A dimension without any information scores 0, but one with a trace of noise about 0.8: the
    published values can not be told from chance (docs/metrics.md).

    Args:
        information: `mutual_information`, (D, K).

    Returns:
        A number in [0, 1]; nan if K = 1.

    References:
        | Learning deep disentangled embeddings with the F-statistic loss (Ridgeway & Mozer, 2018)
        | https://arxiv.org/abs/1802.05312
    """
    if information.shape[1] < 2:
        return float("nan")
    squared = information**2
    top = squared.max(axis=1)
    spilt = np.divide(squared.sum(axis=1) - top, top, out=np.zeros(len(top)), where=top > 0)
    return float(np.mean((top > 0) - spilt / (information.shape[1] - 1)))


def sap(fit: np.ndarray) -> np.ndarray:
    """Separated attribute predictability: R^2 of the best dimension less the second, (K,).

    Args:
        fit: `determination` with a least variance of 1e-12, as published, (D, K).

    Returns:
        One gap per attribute, (K,), in [0, 1]; nan if D = 1.

    References:
        | Variational inference of disentangled latent concepts (Kumar et al., 2018)
        | https://arxiv.org/abs/1711.00848
    """
    return _gap(fit)


def mig(information: np.ndarray, entropy: np.ndarray) -> np.ndarray:
    """Mutual information gap: information of the best dimension less the second, over the entropy.

    Args:
        information: `mutual_information`, (D, K).
        entropy: `self_information`, (K,). An attribute without entropy scores 0.

    Returns:
        One gap per attribute, (K,), about [0, 1]; nan if D = 1.

    References:
        | Isolating sources of disentanglement in variational autoencoders (Chen et al., 2018)
        | https://arxiv.org/abs/1802.04942
    """
    return _gap(information) * np.divide(1, entropy, out=np.zeros(len(entropy)), where=entropy > 0)


class Dependence(NamedTuple):
    """All that the scores read, computed once."""

    information: np.ndarray  # (D, K), nats
    entropy: np.ndarray  # (K,), nats
    fit: np.ndarray  # (D, K), R^2
    separable: np.ndarray  # (D, K), the fit, 0 for dimensions of variance up to 1e-12, for SAP
    correlation: np.ndarray  # (D, K), significant |Spearman rho|
    dimensions: tuple[int | None, ...]  # (K,), what each attribute was trained on, or None

    @classmethod
    def between(
        cls,
        codes: ArrayLike,
        attributes: ArrayLike,
        dimensions: Sequence[int | None] | None = None,
        seed: int = 0,
    ) -> Dependence:
        """Measures codes (N, D) against attributes (N, K); raises like `mutual_information`."""
        return cls(
            information=mutual_information(codes, attributes, seed=seed),
            entropy=self_information(attributes, seed=seed),
            fit=determination(codes, attributes),
            separable=determination(codes, attributes, least_variance=1e-12),
            correlation=rank_correlation(codes, attributes),
            dimensions=tuple(
                [None] * np.shape(attributes)[1] if dimensions is None else dimensions
            ),
        )


Score = tuple["np.ndarray | float", "Sequence[int | None] | np.ndarray | None"]
"""Values (K,), or one number for the whole code; and the dimension each was found in, if any."""

METRICS: dict[str, Callable[[Dependence], Score]] = {
    "Interpretability": lambda m: (
        interpretability(m.information, m.fit),
        _top(m.information),
    ),
    "SCC": lambda m: (scc(m.correlation), _top(m.correlation)),
    "Modularity": lambda m: (modularity(m.information), None),
    "SAP": lambda m: (sap(m.separable), _top(m.separable)),
    "MIG": lambda m: (mig(m.information, m.entropy), _top(m.information)),
    "Interpretability_fixed": lambda m: (
        interpretability(m.information, m.fit, m.dimensions),
        m.dimensions,
    ),
    "SCC_fixed": lambda m: (scc(m.correlation, m.dimensions), m.dimensions),
}


class ScoreRow(NamedTuple):
    """One line of a tidy table."""

    metric: str
    attribute: str  # a name, or "mean"
    value: float
    n: int  # rows of the table that was scored
    dimension: int | None  # the latent dimension looked at; None where there is not one


def score(table: LatentTable, seed: int = 0) -> list[ScoreRow]:
    """Every entry of `METRICS` on one table: a row per attribute and one for their plain mean.

    Args:
        table: Codes (N, D) and attributes (N, K) of the same slices, with their names.
        seed: Of the jitter in `mutual_information`. Without ties it changes nothing.

    Returns:
        Rows in the order of `METRICS` and of the table's columns. A metric that is one number for
        the whole code (Modularity) has the ``mean`` row alone.

    Raises:
        ValueError: If N < 5, a column is not finite, or a trained dimension is outside 0 to D - 1.
    """
    codes, attributes = checked(table.codes, table.attributes, table.names)
    measured = Dependence.between(codes, attributes, table.dimensions, seed)
    return tabulate(measured, table.names, len(codes))


def tabulate(
    measured: Dependence,
    names: Sequence[str],
    n: int,
    scores: Mapping[str, Callable[[Dependence], Score]] = METRICS,
) -> list[ScoreRow]:
    """Every entry of ``scores`` on what was measured on n rows, as `score` returns them."""
    rows = []
    for metric, measure in scores.items():
        values, found = measure(measured)
        if np.ndim(values):
            found = [None] * len(values) if found is None else found
            rows += [
                ScoreRow(metric, name, float(value), n, None if dim is None else int(dim))
                for name, value, dim in zip(names, values, found, strict=True)
            ]
        rows.append(ScoreRow(metric, "mean", float(np.mean(values)), n, None))
    return rows


def checked(
    codes: ArrayLike, attributes: ArrayLike, names: Sequence[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64, (N, D) and (N, K), or an error that names what is wrong."""
    codes, attributes = (np.asarray(v, dtype=float, order="C") for v in (codes, attributes))
    fits = codes.ndim == attributes.ndim == 2 and len(codes) == len(attributes)
    if not fits or not codes.shape[1] or not attributes.shape[1]:
        raise ValueError(
            f"codes {codes.shape} and attributes {attributes.shape} do not fit; "
            "expected (N, D) and (N, K)"
        )
    if len(codes) < LEAST:
        raise ValueError(f"N = {len(codes)} samples are too few to score; expected N >= {LEAST}")
    for kind, values, labels in (("code", codes, None), ("attribute", attributes, names)):
        bad = ~np.isfinite(values)
        if bad.any():
            j = int(bad.any(axis=0).argmax())
            raise ValueError(
                f"{kind} column {j if labels is None else labels[j]} is NaN or infinite in "
                f"{bad[:, j].sum()} of {len(values)} rows; expected finite numbers"
            )
    return codes, attributes


def _jittered(values: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Columns over their standard deviation, plus noise far below it, as scikit-learn does it."""
    deviation = values.std(axis=0)
    # the rounding of a constant's mean leaves a deviation that is no scale
    flat = (np.ptp(values, axis=0) == 0) | (deviation < 10 * np.finfo(float).eps)
    scaled = values / np.where(flat, 1, deviation)
    return scaled + 1e-10 * np.maximum(1, np.abs(scaled).mean(axis=0)) * noise


def _radius(x: np.ndarray, y: np.ndarray, neighbours: int) -> np.ndarray:
    """Chebyshev distance to each one's k-th neighbour in the plane of two columns, (N, D).

    x ascends, so partners are tried by growing difference of rank until x alone is too far for
    nearly all; the few that are left, in the tails, are compared with everyone.
    """
    n = len(x)
    nearest = np.full((neighbours, *x.shape), np.inf)  # ascending
    room, spare = np.empty_like(x), np.empty_like(x)
    for step in range(1, n):
        distance, other = room[step:], spare[step:]
        np.abs(np.subtract(y[step:], y[:-step], out=distance), out=distance)
        np.subtract(x[step:], x[:-step], out=other)
        np.maximum(distance, other, out=distance)
        for side in (nearest[:, step:], nearest[:, :-step]):
            for m in range(neighbours - 1, 0, -1):
                np.maximum(side[m - 1], distance, out=other)
                np.minimum(side[m], other, out=side[m])
            np.minimum(side[0], distance, out=side[0])
        if step % 8 == 0:
            unfinished = _within_steps(x, nearest[-1], step)
            if np.count_nonzero(unfinished) < RARE * x.size:
                row, column = np.nonzero(unfinished)
                across, along = (_differences(v, row, column) for v in (x, y))
                distance = np.partition(np.maximum(across, along), neighbours, axis=1)
                nearest[-1][row, column] = distance[:, neighbours]  # the first is itself
                break
    return nearest[-1]


def _radius_by_tree(x: np.ndarray, y: np.ndarray, neighbours: int) -> np.ndarray:
    """The same as `_radius`; faster for many samples."""
    radius = np.empty_like(x)
    for i in range(x.shape[1]):  # a tree that is built fast: it answers N questions only
        plane = np.column_stack((x[:, i], y[:, i]))
        tree = KDTree(plane, balanced_tree=False, compact_nodes=False)
        radius[:, i] = tree.query(plane, [neighbours + 1], p=np.inf)[0][:, 0]  # nearest: itself
    return radius


def _count_near(values: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """How many of ascending values (N, D or 1) lie nearer than the radius of each one (N, D).

    Itself counts. A radius is compared with computed differences, as the distances were:
    `searchsorted` of value + radius rounds otherwise, and would count the k-th neighbour itself.
    """
    n = len(values)
    count = np.ones(radius.shape, np.uint8 if n < 256 else np.uint16)
    for step in range(1, n):
        gap = values[step:] - values[:-step]
        count[:-step] += (gap < radius[:-step]).view(np.uint8)
        count[step:] += (gap < radius[step:]).view(np.uint8)
        if step % 8 == 0:
            unfinished = _within_steps(values, radius, step)
            if np.count_nonzero(unfinished) < RARE * radius.size:
                row, column = np.nonzero(unfinished)
                values = np.broadcast_to(values, radius.shape)
                near = _differences(values, row, column) < radius[row, column, None]
                count[row, column] = np.count_nonzero(near, axis=1)
                break
    return count


def _within_steps(values: np.ndarray, radius: np.ndarray, step: int) -> np.ndarray:
    """Whether ascending values more than ``step`` ranks away may still lie within the radius."""
    reach = step + 1
    gap = values[reach:] - values[:-reach]
    within = np.zeros(radius.shape, bool)
    within[:-reach] = gap < radius[:-reach]
    within[reach:] |= gap < radius[reach:]
    return within


def _differences(values: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """|Difference| of some entries (M,) of values (N, D) from all of their column, (M, N)."""
    columns = np.ascontiguousarray(values.T)[column]
    return np.abs(columns - values[row, column][:, None])


def _count_by_bisection(values: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """The same as `_count_near`; faster for many samples."""
    values, n = np.broadcast_to(values, radius.shape), len(values)
    columns = np.arange(radius.shape[1])

    def bisect(is_left: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        low, high = np.zeros(radius.shape, int), np.full(radius.shape, n)
        for _ in range(n.bit_length()):
            middle = (low + high) // 2
            left = is_left(values[np.minimum(middle, n - 1), columns]) & (middle < high)
            low, high = np.where(left, middle + 1, low), np.where(left, high, middle)
        return low

    return bisect(lambda v: v - values < radius) - bisect(lambda v: values - v >= radius)


def _correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson correlation of columns (N, D) and (N, K), (D, K); 0 where one is constant."""
    x, y = (np.where(np.ptp(v, axis=0) > 0, v - v.mean(axis=0), 0.0) for v in (x, y))
    norms = np.outer(np.linalg.norm(x, axis=0), np.linalg.norm(y, axis=0))
    # einsum and C order: else the order of attributes would show in the last bit
    products = np.einsum("nd,nk->dk", x, y)
    return np.divide(products, norms, out=np.zeros(norms.shape), where=norms > 0)


def _top(matrix: np.ndarray) -> np.ndarray:
    """The dimension with the largest entry for each attribute, the first of equals, (K,)."""
    return matrix.argmax(axis=0)


def _gap(matrix: np.ndarray) -> np.ndarray:
    """Largest less second largest over the dimensions, (K,); nan if there is no second."""
    if len(matrix) < 2:
        return np.full(matrix.shape[1], np.nan)
    ordered = np.sort(matrix, axis=0)
    return ordered[-1] - ordered[-2]
