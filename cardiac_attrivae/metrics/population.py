"""Where the codes of the training patients lie, so that a new code can be told from them.

Holds no patient's code: a mean, a covariance, percentiles of distances, and a map of points that
belong to nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.covariance import LedoitWolf

FOLDS = 10
"""Parts of the training patients, each of which is measured by the covariance of the others."""
FEWEST = 10
"""Patients below which no covariance is estimated."""
MOST_POINTS = 400
"""Points on the map; of more patients every n-th is shown."""
UNUSUAL = 95.0
"""Percentile of the training patients' distances above which a code is unusual."""


@dataclass(frozen=True)
class Population:
    """Codes of N training patients, summarised.

    References:
        | A well-conditioned estimator for large-dimensional covariance matrices (Ledoit & Wolf,
        | 2004), J. Multivariate Analysis 88

    Example:
        >>> codes = np.random.default_rng(0).normal(size=(200, 3))
        >>> known = Population.fit(codes)
        >>> known.percentile(known.distance(np.array([[0.0, 0, 0], [9, 9, 9]]))).round().tolist()
        [0.0, 100.0]
        >>> known.words(100.0)
        'unlike every training patient: do not trust the code'
    """

    mean: np.ndarray  # of the codes, (D,)
    deviation: np.ndarray  # of the codes, (D,); all else is in units of it
    precision: np.ndarray  # inverse of the covariance, shrunk (Ledoit-Wolf), (D, D)
    # percentiles 0 to 100 of the patients' Mahalanobis distances, each from the mean and covariance
    # of others, (101,)
    distances: np.ndarray
    axes: np.ndarray  # directions of the map, the first two principal components, (2, D)
    points: np.ndarray  # patients on the map, sorted by their place, (n, 2)

    @classmethod
    def fit(cls, codes: np.ndarray) -> Population:
        """Summarises codes of patients, one each, (N, D).

        Raises:
            ValueError: If there are fewer than 10.
        """
        codes = np.asarray(codes, dtype=float)
        if len(codes) < FEWEST:
            raise ValueError(f"{len(codes)} patients; expected {FEWEST} or more")
        mean, deviation = codes.mean(axis=0), codes.std(axis=0)
        scaled = _scaled(codes, mean, deviation)
        precision = LedoitWolf().fit(scaled).precision_
        part, left_out = np.arange(len(codes)) % FOLDS, np.empty(len(codes))
        for fold in range(FOLDS):
            others = codes[part != fold]
            centre, spread = others.mean(axis=0), others.std(axis=0)
            shrunk = LedoitWolf().fit(_scaled(others, centre, spread)).precision_
            rows = part == fold
            left_out[rows] = _mahalanobis(_scaled(codes[rows], centre, spread), shrunk)
        axes = np.linalg.svd(scaled, full_matrices=False)[2][:2]
        axes = axes * np.where(axes[:, np.abs(axes).argmax(axis=1)].diagonal() < 0, -1, 1)[:, None]
        axes = np.pad(axes, ((0, 2 - len(axes)), (0, 0)))
        points = (scaled @ axes.T)[:: -(-len(codes) // MOST_POINTS)].round(3)
        order = np.lexsort(points.T[::-1])  # whose they are is not told
        distances = np.percentile(left_out, np.arange(101))
        return cls(mean, deviation, precision, distances, axes, points[order])

    def distance(self, codes: np.ndarray) -> np.ndarray:
        """Computes Mahalanobis distances of codes (N, D) from the training patients, (N,)."""
        return _mahalanobis(_scaled(codes, self.mean, self.deviation), self.precision)

    def percentile(self, distances: np.ndarray) -> np.ndarray:
        """Computes which per cent of the training patients are nearer, for distances (N,)."""
        return np.interp(distances, self.distances, np.arange(101.0))

    def place(self, codes: np.ndarray) -> np.ndarray:
        """Puts codes (N, D) on the map, (N, 2)."""
        return _scaled(codes, self.mean, self.deviation) @ self.axes.T

    def draw(self, count: int, random: np.random.Generator) -> np.ndarray:
        """Draws codes (count, D) of patients that do not exist, normally distributed."""
        spread = np.linalg.inv(self.precision)
        scaled = random.multivariate_normal(np.zeros(len(spread)), spread, count, method="cholesky")
        return self.mean + scaled * self.deviation

    @staticmethod
    def words(percentile: float) -> str:
        """Says what a percentile means."""
        if percentile >= 100:
            return "unlike every training patient: do not trust the code"
        if percentile > UNUSUAL:
            return f"unusual: farther off than {percentile:.0f} % of the training patients"
        return "among the training patients"

    def facts(self) -> dict[str, Any]:
        """Returns plain values, rounded, as a run keeps them."""
        return {
            "precision": self.precision.round(5).tolist(),
            "distances": self.distances.round(4).tolist(),
            "axes": self.axes.round(5).tolist(),
            "points": self.points.tolist(),
        }

    @classmethod
    def of_facts(cls, facts: Mapping[str, Any]) -> Population | None:
        """Reads what `facts` returned out of all that a run says; None if it says nothing of it."""
        told = facts.get("population")
        if not told:
            return None
        arrays = {name: np.asarray(values, dtype=float) for name, values in told.items()}
        mean, deviation = (np.asarray(facts[key]) for key in ("code_mean", "code_deviation"))
        return cls(mean, deviation, **arrays)


def population_facts(codes: np.ndarray) -> dict[str, Any]:
    """Returns the facts of a population; empty of fewer patients than it needs.

    Example:
        >>> population_facts(np.zeros((3, 2)))
        {}
    """
    return Population.fit(codes).facts() if len(codes) >= FEWEST else {}


def _scaled(codes: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    return (codes - mean) / np.where(deviation > 0, deviation, 1)


def _mahalanobis(scaled: np.ndarray, precision: np.ndarray) -> np.ndarray:
    return np.sqrt(np.einsum("nd,de,ne->n", scaled, precision, scaled))
