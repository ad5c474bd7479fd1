"""Scales on which the spread of a score is about symmetric, so that intervals stay in its range."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

TINY = 1e-6
"""Values nearer to an end of the range, where a scale has no number, count as this far from it."""


class Scale(NamedTuple):
    """A rising function of a score, its inverse, and the range of the score.

    Example:
        >>> low, high = CORRELATION.back(CORRELATION.to(np.array([0.2, 0.9])) + 0.5)
        >>> round(float(low), 2), round(float(high), 2)  # a step near the end is small
        (0.61, 0.96)
    """

    to: Callable[[np.ndarray], np.ndarray]
    back: Callable[[np.ndarray], np.ndarray]
    limits: tuple[float, float]


def _least(values: np.ndarray) -> np.ndarray:
    return np.maximum(values, TINY)


PLAIN = Scale(lambda x: x, lambda y: y, (-np.inf, np.inf))
"""Any number."""
POSITIVE = Scale(lambda x: np.log(_least(x)), np.exp, (0.0, np.inf))
"""Errors and ratios: logarithm."""
CORRELATION = Scale(lambda x: np.arctanh(np.clip(x, TINY - 1, 1 - TINY)), np.tanh, (-1.0, 1.0))
"""Correlations from -1 to 1: Fisher's z."""
STRENGTH = Scale(
    lambda x: np.arctanh(np.clip(x, 0, 1 - TINY)), lambda y: np.tanh(np.maximum(y, 0)), (0.0, 1.0)
)
"""Absolute correlations: Fisher's z, from 0 on."""
SQUARE = Scale(
    lambda x: np.arctanh(np.sqrt(np.clip(x, 0, 1 - TINY))),
    lambda y: np.tanh(np.maximum(y, 0)) ** 2,
    (0.0, 1.0),
)
"""Squared correlations: Fisher's z of their root, from 0 on."""
EXPLAINED = Scale(lambda x: -np.log(_least(1 - x)), lambda y: 1 - np.exp(-y), (-np.inf, 1.0))
"""R^2 of predictions, which may be below 0: logarithm of what is left unexplained."""
SHARE = Scale(
    lambda x: np.arcsin(np.sqrt(np.clip(x, 0, 1))),
    lambda y: np.sin(np.clip(y, 0, np.pi / 2)) ** 2,
    (0.0, 1.0),
)
"""Shares from 0 to 1, ends included: arc sine of their root."""
