"""Pictures of a search: the score of each trial by its number, and by each value searched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from .style import LINES, fitted, plain, save

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

ACROSS = 3
"""Panels in a row."""
DOT, BEST = LINES[6], LINES[1]


def draw_values(
    trials: pd.DataFrame, space: Mapping[str, Sequence[Any]], score: str, path: str | Path
) -> None:
    """Draws the score against each value that was searched, a panel for each.

    A panel is as wide as what was searched, so that a best value at its edge shows.

    Args:
        trials: A row per finished trial: ``score``, and a column for each key of the space.
        space: Key -> what was searched, as `training.tune.Range` (low, high, whether by its
            logarithm), or the choices.
        score: Name of what was maximised.
        path: PNG to write.
    """
    columns = min(ACROSS, len(space))
    rows = -(-len(space) // columns)
    figure = Figure((3 * columns + 0.5, 2.6 * rows + 0.3), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axis, (key, searched) in zip(grid.flat, space.items(), strict=False):
        values = trials[key].tolist()
        if isinstance(searched, tuple):
            _numbers(axis, *searched)
        else:
            values = [searched.index(value) for value in values]
            axis.set_xticks(range(len(searched)), [fitted(str(v), 0.9, 8) for v in searched])
            axis.set_xlim(-0.5, len(searched) - 0.5)
        _dots(axis, values, trials["score"].to_numpy())
        axis.set_xlabel(key, fontsize=9)
    for axis in grid.flat[len(space) :]:
        axis.set_visible(False)
    for axis in grid[:, 0]:
        axis.set_ylabel(fitted(score, 2.2, 9, lines=3), fontsize=9)
    save(figure, path)


def draw_history(trials: pd.DataFrame, score: str, path: str | Path) -> None:
    """Draws the score of each trial, and the best until then.

    Args:
        trials: A row per finished trial: ``number`` and ``score``.
        score: Name of what was maximised.
        path: PNG to write.
    """
    figure = Figure((6, 3.2), layout="constrained")
    axis = figure.subplots()
    numbers, scores = trials["number"].to_numpy(), trials["score"].to_numpy()
    axis.step(numbers, np.maximum.accumulate(scores), where="post", color=BEST, lw=1.4,
              label="best until then")  # fmt: skip
    _dots(axis, numbers, scores)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlim(numbers.min() - 0.5, numbers.max() + 0.5)
    axis.set_xlabel("trial")
    axis.set_ylabel(fitted(score, 2.6, 9, lines=3), fontsize=9)
    axis.legend(frameon=False, fontsize=8)
    save(figure, path)


def _numbers(axis: Axes, low: float, high: float, log: bool) -> None:
    """Gives an axis the ends of a range, and ticks that can be read there."""
    if log and high > 4 * low:  # in less, a logarithmic axis has no tick
        axis.set_xscale("log")
        wide = high > 30 * low
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
        margin = (high / low) ** 0.05
        axis.set_xlim(low / margin, high * margin)
    else:
        axis.xaxis.set_major_locator(MaxNLocator(4, integer=isinstance(low, int)))
        margin = (high - low) * 0.05
        axis.set_xlim(low - margin, high + margin)


def _dots(axis: Axes, values: Sequence[float] | np.ndarray, scores: np.ndarray) -> None:
    """Draws a dot per trial; the best is larger, and of another colour."""
    best = int(scores.argmax())
    axis.plot(values, scores, "o", color=DOT, ms=4)
    axis.plot(values[best], scores[best], "D", color=BEST, ms=6)
    axis.ticklabel_format(axis="y", useOffset=False)
    axis.tick_params(labelsize=8)
    plain(axis)
