"""Training curves: losses and scores of a run by epoch, and of several runs compared."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from ..metrics.catalogue import EVERY, label
from ..metrics.metric import find
from .published import dataset_label, method_label
from .style import DASHES, LINES, Look, legend, looks, plain, save

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

ALIKE = 30
"""Largest factor between losses that share an axis."""
NOT_A_CURVE = re.compile(r"epoch|iteration|step|second|time|memory|seed|\blr\b|learning", re.I)


def training_curves(history: pd.DataFrame, path: str | Path) -> None:
    """Draws loss terms and validation scores by epoch.

    Losses of similar size share a panel, which is logarithmic where the values are positive and
    span more than two decades. Scores from 0 to 1 share one; every other metric has its own. Empty
    cells, where a score was not taken in that epoch, are bridged.

    Args:
        history: A row per epoch, a column per loss term and score; ``epoch`` is the axis if there.
        path: PNG to write.
    """
    epochs = _epochs(history)
    numeric = history.select_dtypes("number")
    curves = {
        str(name): numeric[name].to_numpy(float)
        for name in numeric
        if not NOT_A_CURVE.search(str(name)) and np.isfinite(numeric[name].to_numpy(float)).any()
    }
    if not curves:
        raise ValueError(f"no curve among the columns {', '.join(map(str, history.columns))}")

    panels = _panels(curves)
    figure, axes = _stack(len(panels))
    for axis, (title, names) in zip(axes, panels, strict=True):
        for name, look in looks(names).items():
            _curve(axis, epochs, curves[name], look, name)
        axis.set_ylabel(title)
        axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
        if not _metric(names[0]):
            _scale(axis, np.concatenate([curves[name] for name in names]))
        elif _is_share(names[0]):
            low = min(float(np.nanmin(curves[name])) for name in names)
            axis.set_ylim(min(0.0, 1.1 * low), 1.02)
    _end_stack(axes, epochs)
    save(figure, path)


def compare_curves(
    histories: dict[str, pd.DataFrame], columns: Sequence[str], path: str | Path
) -> None:
    """Draws the same curves of several runs on top of each other, a panel per column.

    Losses of different size, as different objectives have, are in panels of their own.

    Args:
        histories: Run -> a row per epoch, as for `training_curves`. A run's name is its method,
            `` · `` and its data set. Runs of one method share a colour and a marker, runs on one
            data set a dash.
        columns: What to draw; columns that no run has are left out.
        path: PNG to write.
    """
    drawn = {
        column: {
            run: history[column].to_numpy(float)
            for run, history in histories.items()
            if column in history and np.isfinite(history[column].to_numpy(float)).any()
        }
        for column in columns
    }
    drawn = {column: curves for column, curves in drawn.items() if curves}
    if not drawn:
        raise ValueError(f"none of the {len(histories)} runs has a curve {', '.join(columns)}")
    look = _looks_of_runs(histories)
    epochs = {run: _epochs(history) for run, history in histories.items()}
    panels = [
        (column, {run: curves[run] for run in runs})
        for column, curves in drawn.items()
        for runs in ([list(curves)] if _metric(column) else _by_size(curves))
    ]

    figure, axes = _stack(len(panels))
    for axis, (column, curves) in zip(axes, panels, strict=True):
        for run, curve in curves.items():
            _curve(axis, epochs[run], curve, look[run], run)
        axis.set_ylabel(_readable(column))
        if not _metric(column):
            _scale(axis, np.concatenate(list(curves.values())))
    _end_stack(axes, np.concatenate(list(epochs.values())))
    several = len({run.partition(" · ")[2] for run in histories}) > 1
    legend(figure, look, lambda run: _run_label(run, several), lines=True)
    save(figure, path)


def _looks_of_runs(runs: Iterable[str]) -> dict[str, Look]:
    """Gives each run a look of its own: colour and marker of its method, dash of its data set."""
    pairs = {run: run.partition(" · ")[::2] for run in runs}
    methods = looks(sorted({method for method, _ in pairs.values()}))
    datasets = sorted({dataset for _, dataset in pairs.values()})
    found = {}
    for run, (method, dataset) in sorted(pairs.items()):
        first = DASHES.index(methods[method].dash)
        dash = DASHES[(first + datasets.index(dataset)) % len(DASHES)]
        found[run] = methods[method]._replace(dash=dash)
    return found


def _run_label(run: str, several: bool) -> str:
    method, _, dataset = run.partition(" · ")
    return f"{method_label(method)}, {dataset_label(dataset)}" if several else method_label(method)


def _readable(column: str) -> str:
    """Names a column of history.csv: ``val_SCC`` is the SCC in validation."""
    when, _, name = column.partition("_")
    word = {"train": "training", "val": "validation"}.get(when)
    return f"{label(name) if name in EVERY else name}, {word}" if word and name else column


def _by_size(curves: Mapping[str, np.ndarray]) -> list[list[str]]:
    """Groups curves whose sizes differ by at most `ALIKE`, largest first."""
    sizes = {name: float(np.nanmedian(np.abs(curve))) for name, curve in curves.items()}
    groups: list[list[str]] = []
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        if not groups or sizes[groups[-1][0]] > ALIKE * sizes[name] > 0:
            groups.append([])
        groups[-1].append(name)
    return [[name for name in curves if name in group] for group in groups]


def _panels(curves: dict[str, np.ndarray]) -> list[tuple[str, list[str]]]:
    """Title and columns of each panel: losses by size, shares together, other metrics apart."""
    losses = {name: curve for name, curve in curves.items() if not _metric(name)}
    panels = [("loss terms", names) for names in _by_size(losses)]

    metrics: dict[str, list[str]] = {}
    for name in (name for name in curves if name not in losses):
        metrics.setdefault(_metric(name), []).append(name)
    shares = [name for names in metrics.values() for name in names if _is_share(name)]
    if len(shares) <= len(LINES):
        panels += [("scores", shares)] if shares else []
        metrics = {m: names for m, names in metrics.items() if not _is_share(m)}
    # more curves, as of every attribute, have a panel per metric
    for metric, names in metrics.items():
        unit = find(metric).unit
        panels.append((f"{metric} ({unit})" if unit else metric, names))
    return panels


def _is_share(column: str) -> bool:
    """Whether a column holds a score from 0 (or -1) to 1 whose differences show on that scale."""
    metric = find(_metric(column))
    return metric.scale.limits in ((0.0, 1.0), (-1.0, 1.0)) and metric.digits == 2


def _epochs(history: pd.DataFrame) -> np.ndarray:
    return np.asarray(history.get("epoch", history.index), dtype=float)


def _stack(panels: int) -> tuple[Figure, np.ndarray]:
    figure = Figure((8, 2.8 * panels + 0.3), layout="constrained")
    return figure, figure.subplots(panels, 1, squeeze=False, sharex=True)[:, 0]


def _end_stack(axes: np.ndarray, epochs: np.ndarray) -> None:
    for axis in axes:
        axis.set_xlim(epochs.min() - 0.5, epochs.max() + 0.5)
        plain(axis)
    axes[-1].set_xlabel("epoch")
    axes[-1].xaxis.get_major_locator().set_params(integer=True)


def _curve(axis: Axes, epochs: np.ndarray, curve: np.ndarray, look: Look, label: str) -> None:
    taken = np.isfinite(curve)
    axis.plot(
        epochs[taken], curve[taken], look.dash, color=look.colour, lw=1.4, label=label,
        marker=look.marker, ms=4, markevery=max(1, taken.sum() // 12),
    )  # fmt: skip


def _scale(axis: Axes, values: np.ndarray) -> None:
    """Logarithmic where the values are positive and span more than two decades."""
    values = values[np.isfinite(values)]
    if values.min() > 0 and values.max() > 100 * values.min():
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(LogFormatter())  # no formulas, see `style.save`
        axis.yaxis.set_minor_formatter(LogFormatter())


def _metric(column: str) -> str:
    """Finds the metric that a column holds (``val/SSIM``, ``val_SCC_LVEDA``); empty for a loss."""
    for name in sorted(EVERY, key=len, reverse=True):
        if re.search(rf"(^|[^A-Za-z]){name}([^A-Za-z]|$)", column):
            return name
    return ""
