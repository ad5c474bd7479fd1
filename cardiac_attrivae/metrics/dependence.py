"""How every latent dimension depends on every attribute: the matrices that scores are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtr
from scipy.stats import rankdata

from .information import mutual_information, self_information
from .patients import checked


@dataclass(frozen=True)
class Dependence:
    """All that the scores of a code are computed from.

    Example:
        >>> codes = np.random.default_rng(0).normal(size=(20, 4))
        >>> Dependence.between(codes, codes[:, :2]).fit.shape
        (4, 2)
    """

    information: np.ndarray  # (D, K), nats
    entropy: np.ndarray  # (K,), nats
    fit: np.ndarray  # (D, K), R^2
    separable: np.ndarray  # (D, K), the fit, 0 for dimensions of variance up to 1e-12, for SAP
    correlation: np.ndarray  # (D, K), significant |Spearman rho|
    dimensions: tuple[int | None, ...]  # (K,), dimension trained on each attribute, or None

    @classmethod
    def between(
        cls,
        codes: ArrayLike,
        attributes: ArrayLike,
        dimensions: Sequence[int | None] | None = None,
        seed: int = 0,
        information: np.ndarray | None = None,
        entropy: np.ndarray | None = None,
    ) -> Dependence:
        """Measures codes (N, D) against attributes (N, K); raises as `mutual_information`.

        Information (D, K) and entropy (K,) are estimated unless they are given.
        """
        if information is None:
            information = mutual_information(codes, attributes, seed=seed)
        if entropy is None:
            entropy = self_information(attributes, seed=seed)
        if dimensions is None:
            dimensions = [None] * information.shape[1]
        return cls(
            information,
            entropy,
            determination(codes, attributes),
            determination(codes, attributes, least_variance=1e-12),
            rank_correlation(codes, attributes),
            tuple(dimensions),
        )

    def of_attributes(self, part: slice, dimensions: tuple[int | None, ...]) -> Dependence:
        """Takes the columns of some attributes, which were trained on these dimensions."""
        matrices = {f.name: getattr(self, f.name)[..., part] for f in fields(self)[:-1]}
        return Dependence(**matrices, dimensions=dimensions)


def determination(
    codes: ArrayLike, attributes: ArrayLike, least_variance: float = 0.0
) -> np.ndarray:
    """Computes R^2 of the least-squares line of each pair of dimension and attribute, (D, K).

    It is the squared Pearson correlation; 0 for dimensions whose variance is at most
    ``least_variance``. Codes are (N, D), attributes (N, K).

    Example:
        >>> attribute = np.arange(5.0)[:, None]
        >>> determination(np.hstack([3 - attribute, attribute**2]), attribute).round(2)
        array([[1.  ],
               [0.92]])
    """
    codes, attributes = checked(codes, attributes)
    alive = codes.var(axis=0, ddof=1) > least_variance
    return np.minimum(_correlation(codes, attributes) ** 2, 1.0) * alive[:, None]


def rank_correlation(
    codes: ArrayLike, attributes: ArrayLike, significance: float = 0.05
) -> np.ndarray:
    """Computes |Spearman rho| of each pair of dimension and attribute, (D, K).

    It is 0 where p > significance. p is two-sided, of Student's t with N - 2 degrees of freedom,
    not corrected for the number of pairs. Codes are (N, D), attributes (N, K).

    Example:
        >>> attribute = np.arange(5.0)[:, None]
        >>> rank_correlation(np.hstack([-np.exp(attribute), attribute % 2]), attribute)
        array([[1.],
               [0.]])
    """
    codes, attributes = checked(codes, attributes)
    rho = np.abs(_correlation(rankdata(codes, axis=0), rankdata(attributes, axis=0)))
    rho = np.minimum(rho, 1.0)
    freedom = len(codes) - 2
    with np.errstate(divide="ignore"):  # rho = 1 is t = inf is p = 0
        p = 2 * stdtr(freedom, -rho * np.sqrt(freedom / ((1 - rho) * (1 + rho))))
    return np.where(p <= significance, rho, 0.0)


def _correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson correlation of columns (N, D) and (N, K), (D, K); 0 where one is constant."""
    x, y = (np.where(np.ptp(v, axis=0) > 0, v - v.mean(axis=0), 0.0) for v in (x, y))
    norms = np.outer(np.linalg.norm(x, axis=0), np.linalg.norm(y, axis=0))
    # einsum and C order: else the order of attributes would show in the last bit
    products = np.einsum("nd,nk->dk", x, y)
    return np.divide(products, norms, out=np.zeros(norms.shape), where=norms > 0)
