"""Scores as people read them."""

from __future__ import annotations

import math
import re

from ..metrics.metric import Good, Score, find

DIGITS = {"mL": 1}
"""Decimals of numbers in a unit; all others have those of their metric."""


def text(score: Score) -> str:
    """Prints the value as the paper prints scores; a number with a unit keeps its zero.

    Example:
        >>> text(Score("SCC", "mean", 0.944)), text(Score("MAE", "LVEDA", 0.944, unit="cm2"))
        ('.94', '0.94')
    """
    return _like(score, score.value)


def spread_of(score: Score) -> str:
    """Prints ``+- sd`` over seeds, empty for one model.

    Example:
        >>> spread_of(Score("SCC", "mean", 0.9, sd=0.02, models=3))
        '+- .02'
    """
    return f"+- {_like(score, score.sd)}" if score.models > 1 else ""


def interval_of(score: Score) -> str:
    """Prints ``[low, high]``, empty where there is none.

    Example:
        >>> interval_of(Score("SCC", "mean", 0.9, low=0.85, high=0.93))
        '[.85, .93]'
    """
    known = math.isfinite(score.low)
    return f"[{_like(score, score.low)}, {_like(score, score.high)}]" if known else ""


def above_chance(score: Score) -> bool | None:
    """Tells whether fewer than 5 % of permutations score as high; None where that is unknown.

    Example:
        >>> above_chance(Score("SCC", "mean", 0.9, null_95=0.4))
        True
    """
    return score.value > score.null_95 if math.isfinite(score.null_95) else None


def rank(score: Score) -> float:
    """Ranks a score among those of the same metric: the least is best.

    Example:
        >>> rank(Score("SCC", "mean", 0.9)), rank(Score("MSE", "mean", 0.01))
        (-0.9, 0.01)
    """
    return find(score.metric).rank(score.value)


def is_ranked(score: Score) -> bool:
    """Tells whether one value of the metric is better than another.

    Example:
        >>> is_ranked(Score("SCC", "mean", 0.9)), is_ranked(Score("Modularity", "mean", 0.8))
        (True, False)
    """
    return find(score.metric).good is not Good.NONE


def number(value: float, digits: int = 2, zero: bool = False) -> str:
    """Prints a number without its leading zero, or with it; empty if it is not finite.

    Example:
        >>> number(0.944), number(-0.1), number(0.944, 1, zero=True), number(float("nan"))
        ('.94', '-.10', '0.9', '')
    """
    if not math.isfinite(value):
        return ""
    printed = f"{value:.{digits}f}"
    if not float(printed):
        printed = printed.removeprefix("-")
    return printed if zero else re.sub(r"^(-?)0\.", r"\1.", printed)


def _like(score: Score, value: float) -> str:
    """Prints a number with the decimals of a score."""
    digits = DIGITS.get(score.unit, find(score.metric).digits)
    return number(value, digits, zero=bool(score.unit))
