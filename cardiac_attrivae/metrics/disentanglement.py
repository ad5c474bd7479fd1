"""The scores of a code as formulas on (D, K) matrices of latent dimensions and attributes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def interpretability(
    information: np.ndarray, fit: np.ndarray, dimensions: Sequence[int | None] | None = None
) -> np.ndarray:
    r"""Computes R^2 of the line from one dimension to each attribute, on the samples of the fit.

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

    Example:
        >>> information = np.array([[0.5, 0.1], [0.2, 0.9]])
        >>> fit = np.array([[0.6, 0.0], [0.1, 0.8]])
        >>> interpretability(information, fit)
        array([0.6, 0.8])
        >>> interpretability(information, fit, dimensions=(1, None))
        array([0.1, nan])
    """
    return pick(fit, best_dimensions(information) if dimensions is None else dimensions)


def scc(correlation: np.ndarray, dimensions: Sequence[int | None] | None = None) -> np.ndarray:
    """Takes the largest significant |rho| of each attribute, the SCC, (K,), in [0, 1].

    ``correlation`` is `rank_correlation`, (D, K); ``dimensions`` are those of `interpretability`.

    Example:
        >>> scc(np.array([[0.3, 0.0], [0.7, 0.4]]))
        array([0.7, 0.4])
    """
    return pick(correlation, best_dimensions(correlation) if dimensions is None else dimensions)


def pick(matrix: np.ndarray, dimensions: Sequence[int | None] | np.ndarray) -> np.ndarray:
    """Takes the entry of each attribute's dimension from a matrix (D, K), (K,).

    It is nan where the dimension is None.

    Raises:
        ValueError: If dimensions are not K, or one is outside 0 to D - 1.

    Example:
        >>> pick(np.array([[1.0, 2.0], [3.0, 4.0]]), (1, None))
        array([ 3., nan])
    """
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
    r"""Measures whether each dimension depends on one attribute only: the mean over all D.

    .. math:: 1 - \frac{\sum_k I_{dk}^2 - \max_k I_{dk}^2}{(K - 1) \max_k I_{dk}^2}

    with the `mutual_information` I, (D, K). It is in [0, 1], or nan if K = 1. A dimension without
    any information scores 0, but one of noise scores about 0.8: the published values cannot be told
    from the null distribution (docs/metrics.md).

    References:
        | Learning deep disentangled embeddings with the F-statistic loss (Ridgeway & Mozer, 2018)
        | https://arxiv.org/abs/1802.05312

    Example:
        >>> modularity(np.array([[1.0, 0.0], [1.0, 1.0]]))
        0.5
    """
    if information.shape[1] < 2:
        return float("nan")
    squared = information**2
    top = squared.max(axis=1)
    spilt = np.divide(squared.sum(axis=1) - top, top, out=np.zeros(len(top)), where=top > 0)
    return float(np.mean((top > 0) - spilt / (information.shape[1] - 1)))


def sap(fit: np.ndarray) -> np.ndarray:
    """Subtracts R^2 of the second best dimension from that of the best, (K,).

    Known as separated attribute predictability; in [0, 1], nan if D = 1. ``fit`` is `determination`
    with a least variance of 1e-12, as published, (D, K).

    References:
        | Variational inference of disentangled latent concepts (Kumar et al., 2018)
        | https://arxiv.org/abs/1711.00848

    Example:
        >>> sap(np.array([[0.9], [0.4], [0.0]]))
        array([0.5])
    """
    return _gap(fit)


def mig(information: np.ndarray, entropy: np.ndarray) -> np.ndarray:
    """Subtracts information of the second best dimension from that of the best, over the entropy,
    (K,).

    Known as mutual information gap; about [0, 1], nan if D = 1. ``information`` is
    `mutual_information`, (D, K), ``entropy`` is `self_information`, (K,): an attribute without
    entropy scores 0.

    References:
        | Isolating sources of disentanglement in variational autoencoders (Chen et al., 2018)
        | https://arxiv.org/abs/1802.04942

    Example:
        >>> mig(np.array([[1.5], [0.5]]), np.array([2.0]))
        array([0.5])
    """
    return _gap(information) * inverse(entropy)


def fixed_gap(matrix: np.ndarray, dimensions: Sequence[int | None]) -> np.ndarray:
    """Subtracts the best of the other dimensions from each attribute's own, (K,).

    The matrix is (D, K). A gap is below 0 if another dimension is better; nan without a dimension,
    or if D = 1.

    Example:
        >>> fixed_gap(np.array([[0.9, 0.2], [0.1, 0.5], [0.4, 0.6]]), (0, 1)).round(1)
        array([ 0.5, -0.1])
    """
    own = pick(matrix, dimensions)
    if len(matrix) < 2:
        return np.full(len(own), np.nan)
    others = [
        0 if dim is None else np.delete(matrix[:, k], dim).max() for k, dim in enumerate(dimensions)
    ]
    return own - others


def fixed_modularity(information: np.ndarray, dimensions: Sequence[int | None]) -> float:
    """Computes `modularity` of the trained dimensions alone; nan if there are none, or K = 1.

    Example:
        >>> information = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> fixed_modularity(information, (0, 1)), modularity(information).__round__(2)
        (1.0, 0.67)
    """
    trained = sorted({dim for dim in dimensions if dim is not None})
    return modularity(information[trained]) if trained else float("nan")


def disentanglement(importance: np.ndarray) -> float:
    r"""Measures whether each dimension matters to one attribute only, in a weighted mean.

    .. math:: \sum_d \rho_d\,(1 - H_K(P_{d\cdot})), \quad P_{dk} = \frac{R_{dk}}{\sum_k R_{dk}},
              \quad \rho_d = \frac{\sum_k R_{dk}}{\sum_{dk} R_{dk}}

    with the importance R, at least 0, (D, K). It is in [0, 1]; 0 if nothing matters, nan if K = 1.

    References:
        | A framework for the quantitative evaluation of disentangled representations
        | (Eastwood & Williams, 2018), section 2; https://openreview.net/forum?id=By-7dz-AZ

    Example:
        >>> disentanglement(np.array([[2.0, 0.0], [0.0, 1.0]]))
        1.0
        >>> disentanglement(np.array([[1.0, 1.0], [0.0, 0.0]]))
        0.0
    """
    share = importance.sum(axis=1)
    weights = np.divide(share, share.sum(), out=np.zeros(len(share)), where=share > 0)
    return float(weights @ _concentration(importance.T))


def completeness(importance: np.ndarray) -> np.ndarray:
    r"""Measures whether one dimension alone matters to each attribute, (K,).

    It is 1 - H_D of R_dk / sum_d R_dk. ``importance`` and source are those of `disentanglement`;
    0 if nothing matters, nan if D = 1.

    Example:
        >>> completeness(np.array([[2.0, 1.0], [0.0, 1.0]]))
        array([1., 0.])
    """
    return _concentration(importance)


def best_dimensions(matrix: np.ndarray) -> np.ndarray:
    """Finds the dimension with the largest entry for each attribute, the first of equals, (K,).

    Example:
        >>> best_dimensions(np.array([[0.1, 0.5], [0.3, 0.5]]))
        array([1, 0])
    """
    return matrix.argmax(axis=0)


def inverse(values: np.ndarray) -> np.ndarray:
    """Computes 1 / values where they are above 0, else 0.

    Example:
        >>> inverse(np.array([4.0, 0.0]))
        array([0.25, 0.  ])
    """
    return np.divide(1, values, out=np.zeros(len(values)), where=values > 0)


def _gap(matrix: np.ndarray) -> np.ndarray:
    """Largest less second largest over the dimensions, (K,); nan if there is no second."""
    if len(matrix) < 2:
        return np.full(matrix.shape[1], np.nan)
    ordered = np.sort(matrix, axis=0)
    return ordered[-1] - ordered[-2]


def _concentration(importance: np.ndarray) -> np.ndarray:
    """1 - entropy of each column (A, B) of shares, in units of its most, (B,); 0 if all are 0."""
    if len(importance) < 2:
        return np.full(importance.shape[1], np.nan)
    total = importance.sum(axis=0)
    shares = np.divide(importance, total, out=np.zeros(importance.shape), where=total > 0)
    entropy = -(shares * np.log(np.where(shares > 0, shares, 1))).sum(axis=0)
    return (1 - entropy / np.log(len(importance))) * (total > 0)
