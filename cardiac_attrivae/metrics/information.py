"""Mutual information of latent dimensions and attributes, estimated from nearest neighbours."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial import KDTree
from scipy.special import digamma

from .patients import checked

FEW = 1000
"""Samples up to which neighbours are found by brute force over all columns at once."""
RARE = 0.01
"""Share of samples that may be left to a full comparison, which is cheaper than to go on."""


def mutual_information(
    codes: ArrayLike,
    attributes: ArrayLike,
    neighbours: int = 3,
    seed: int = 0,
    floor: float = 0.0,
) -> np.ndarray:
    r"""Estimates the mutual information of every dimension with every attribute.

    .. math:: I = \psi(N) + \psi(k) - \langle\psi(n_x) + \psi(n_y)\rangle, \quad I \ge 0

    where n_x and n_y count the samples, itself included, that are nearer in one coordinate than the
    k-th neighbour is in the plane (Chebyshev distance). The numbers equal scikit-learn's
    ``mutual_info_regression(codes, attributes[:, j], random_state=seed)``, ties included. Memory
    is a few times that of the codes.

    Args:
        codes: Latent codes, (N, D).
        attributes: Attribute values, (N, K).
        neighbours: k, at least 1 and below N.
        seed: Seed of the jitter (1e-10 of the scale) that breaks ties; no effect without ties.
        floor: Least value. Estimates of no information scatter about 0; ``-inf`` shows them.

    Returns:
        Information in nats, (D, K), each at least ``floor``.

    Raises:
        ValueError: If the shapes do not fit, N < 5, a column is not finite, or k is out of range.

    References:
        | Estimating mutual information (Kraskov, Stoegbauer & Grassberger, 2004), first estimator
        | https://arxiv.org/abs/cond-mat/0305641

    Example:
        >>> rng = np.random.default_rng(0)
        >>> codes = rng.normal(size=(50, 2))
        >>> mutual_information(codes, codes[:, :1] ** 3).round(1)  # dimension 0 alone knows it
        array([[1.4],
               [0. ]])
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
    """Estimates the information of each attribute with itself, in nats, (K,).

    It is the entropy that `mig` divides by. Without ties it is psi(N) - psi(4), the most that N
    samples can show. A constant has 0.

    Example:
        >>> self_information([[1, 7], [2, 7], [4, 7], [7, 7], [12, 7]]).round(3)
        array([0.25, 0.  ])
    """
    columns = np.asarray(attributes, dtype=float).T[:, :, None]
    return np.array([mutual_information(a, a, seed=seed)[0, 0] * (np.ptp(a) > 0) for a in columns])


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
