"""Charts of scores with their intervals and null distributions, of codes and measured control.

Nothing is computed beyond layout (medians and ranges of what is drawn): numbers come in, a PNG goes
out. A method has one colour, dash and marker in all charts of the same methods, in any order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from ..attributes import ATTRIBUTES, is_size, label_of, structures_of
from ..schema import Phase, structures_at
from .published import dataset_label, method_label
from .style import SYMBOLS, Look, fitted, legend, looks, plain, save

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

FIT, FRAME = "#000000", "#009e73"
MOST_DIMENSIONS = 32
"""Rows of a correlation map; the paper's networks have up to 256 dimensions."""


# ---------------------------------------------------------------------------- scores


def distributions(
    table: pd.DataFrame, path: str | Path, label: str, floor: Mapping[str, float] | None = None
) -> None:
    """Draws how a score is distributed over patients, by method and domain (Fig. 2c).

    A point per patient, from five patients on a box of their quartiles, and from ten on a violin.

    Args:
        table: A row per patient: ``method``, ``group`` (for example ``acdc → mnms``), ``value``.
        path: PNG to write.
        label: The score, and its unit if it has one.
        floor: Group -> what a black image scores; a dashed line.
    """
    table = _checked(table, ("method", "group", "value"), "value")
    look, groups = looks(sorted(set(table["method"]))), list(dict.fromkeys(table["group"]))
    floor = floor or {}
    width = 0.84 / len(look)
    figure = Figure(
        (max(4.0, 0.9 + len(groups) * (0.55 * len(look) + 0.3)), 3.6), layout="constrained"
    )
    axis = figure.subplots()
    for g, group in enumerate(groups):
        for m, (method, drawn) in enumerate(look.items()):
            rows = (table["group"] == group) & (table["method"] == method)
            values = np.sort(table.loc[rows, "value"].to_numpy(float))
            if len(values):
                _violin(axis, values, g + (m - (len(look) - 1) / 2) * width, width, drawn)
        if group in floor:
            axis.plot(
                [g - 0.46, g + 0.46], [floor[group]] * 2, "--", color="black", lw=1.2,
                label="black image",
            )  # fmt: skip
    axis.set_xticks(range(len(groups)), groups, fontsize=9)
    axis.set_xlim(-0.5, len(groups) - 0.5)
    axis.set_ylabel(label)
    axis.tick_params(axis="x", length=0)
    plain(axis, "y")
    more = [Line2D([], [], color="black", ls="--", lw=1.2, label="black image")] if floor else []
    legend(figure, look, method_label, more)
    save(figure, path)


def _violin(axis: Axes, values: np.ndarray, x: float, width: float, look: Look) -> None:
    if len(values) >= 10 and np.ptp(values) > 0:
        drawn = axis.violinplot([values], [x], widths=0.95 * width, showextrema=False)
        for body in drawn["bodies"]:  # type: ignore[attr-defined]  # a list, by matplotlib's docs
            body.set(facecolor=look.colour, edgecolor=look.colour, alpha=0.3)
    # Beside the box, left and right in turn; multiples of the golden ratio spread neighbours.
    turn = np.arange(len(values))
    shift = np.where(turn % 2, 1, -1) * (0.16 + 0.24 * (turn * 0.618034 % 1)) * width
    axis.scatter(
        x + shift, values, s=9, marker=look.marker, color=look.colour, linewidths=0, alpha=0.8
    )
    if len(values) >= 5:
        axis.boxplot(
            [values], positions=[x], widths=0.2 * width, showfliers=False, manage_ticks=False,
            patch_artist=True, boxprops={"facecolor": "white", "linewidth": 0.8},
            whiskerprops={"linewidth": 0.8}, capprops={"linewidth": 0.8},
            medianprops={"color": "black", "linewidth": 1.6},
        )  # fmt: skip


def intervals(table: pd.DataFrame, path: str | Path, label: str) -> None:
    """Draws scores with their 95 % intervals and null distributions (forest plot).

    Args:
        table: ``row`` (what is scored), ``method``, ``value``, ``low``, ``high``; ``null`` and
            ``null_95``, mean and 95th centile of the null distribution. The last four
            may be NaN.
        path: PNG to write.
        label: What the axis is.
    """
    columns = ["value", "low", "high", "null", "null_95"]
    table = _checked(table, ("row", "method", *columns), "value")
    look, rows = looks(sorted(set(table["method"]))), list(dict.fromkeys(table["row"]))
    lane = 0.8 / len(look)
    spread = table[columns].to_numpy(float)
    left, right = min(0.0, np.nanmin(spread)), np.nanmax(spread)
    left, right = left - 0.02 * (right - left), right + 0.04 * (right - left)
    height = 0.9 + len(rows) * (0.17 * len(look) + 0.12) + 0.2 * math.ceil(len(look) / 3)
    figure = Figure((7, height), layout="constrained")
    axis = figure.subplots()
    for row, method, numbers in zip(table["row"], table["method"], spread, strict=True):
        value, low, high, null, null_95 = numbers.tolist()
        drawn = look[method]
        y = rows.index(row) + (list(look).index(method) - (len(look) - 1) / 2) * lane
        if np.isfinite(null_95):
            axis.barh(y, null_95 - left, lane, left, color="0.87", zorder=1)
        if np.isfinite(null):
            axis.plot([null] * 2, [y - lane / 2, y + lane / 2], color="0.55", lw=1, zorder=2)
        axis.plot([low, high], [y, y], color=drawn.colour, lw=1.5, zorder=3)
        axis.plot(
            value, y, drawn.marker, color=drawn.colour, ms=5.5, mec="white", mew=0.5, zorder=4
        )
    for border in range(1, len(rows)):
        axis.axhline(border - 0.5, color="0.8", lw=0.6, zorder=0)
    axis.set_yticks(range(len(rows)), rows, fontsize=9)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_xlim(left, right)
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel(label)
    plain(axis, "x")
    more: list[Patch | Line2D] = []
    if table["null_95"].notna().any():
        more.append(Patch(color="0.87", label="permuted patients, 95th centile"))
    if table["null"].notna().any():
        more.append(
            Line2D([], [], color="0.55", ls="", marker="|", ms=9, label="permuted patients, mean")
        )
    legend(figure, look, method_label, more)
    save(figure, path)


# ---------------------------------------------------------------------------- control


def control(
    table: pd.DataFrame, path: str | Path, units: Mapping[str, str], measured_in: str = "cm2"
) -> None:
    """Draws what is measured in decoded pictures against what they were asked for.

    A column of panels per attribute that was moved, a row per structure that was measured: the
    tinted panels show control, all others leakage, flat where there is none. Lines are medians over
    patients, bands their 10th to 90th centile.

    Args:
        table: A row per picture and structure: ``method``, ``attribute`` (that was moved),
            ``structure`` (LV, MYO or RV, of a second phase LV_ES, MYO_ES or RV_ES), ``requested``
            in the attribute's unit, ``measured`` area or volume.
        path: PNG to write.
        units: Attribute -> unit of its requested values; where that is what is measured, a dotted
            line shows what was asked for.
        measured_in: ``cm2`` of areas, ``mL`` of the volumes in stacks.
    """
    columns = ("method", "attribute", "structure", "requested", "measured")
    table = _checked(table, columns, "measured", "requested")
    look, attributes = looks(sorted(set(table["method"]))), list(dict.fromkeys(table["attribute"]))
    missing = [name for name in attributes if name not in units]
    if missing:
        raise ValueError(f"no unit for {', '.join(missing)}; units are of {', '.join(units)}")
    structures = [name for name in structures_at(Phase) if name in set(table["structure"])]
    sizes = {name for name in attributes if is_size(name, measured_in)}
    figure = Figure(
        (2.3 * len(attributes) + 0.5, 2.1 * len(structures) + 0.5), layout="constrained"
    )
    axes = figure.subplots(
        len(structures), len(attributes), squeeze=False, sharex="col", sharey="row"
    )
    for r, structure in enumerate(structures):
        for c, name in enumerate(attributes):
            axis = axes[r, c]
            part = table[(table["structure"] == structure) & (table["attribute"] == name)]
            own = name in ATTRIBUTES and structure in structures_of(name)
            if own:
                axis.set_facecolor("0.95")
            if own and name in sizes and len(part):
                ends = part["requested"].min(), part["requested"].max()
                axis.plot(ends, ends, ":", color="0.4", lw=1.2, zorder=1)
            for method, drawn in look.items():
                pairs = part[part["method"] == method]
                if len(pairs):
                    requested, measured = (
                        pairs[column].to_numpy(float) for column in ("requested", "measured")
                    )
                    _band(axis, requested, measured, drawn)
            plain(axis)
            axis.tick_params(labelsize=8)
    for axis, name in zip(axes[-1], attributes, strict=True):
        axis.set_xlabel(f"{label_of(name)}\n{_with_unit('requested', units[name])}", fontsize=8)
    for axis, structure in zip(axes[:, 0], structures, strict=True):
        what = f"{structure.replace('_', ' at ')} measured"
        axis.set_ylabel(_with_unit(what, measured_in), fontsize=8)
    more: list[Patch | Line2D] = [Patch(color="0.85", label="10th to 90th centile")]
    if sizes:
        more.append(Line2D([], [], color="0.4", ls=":", lw=1.2, label="as requested"))
    legend(figure, look, method_label, more, lines=True)
    save(figure, path)


def _band(axis: Axes, requested: np.ndarray, measured: np.ndarray, look: Look) -> None:
    """Draws median and 10th to 90th centile of what was measured, in at most nine steps."""
    order = np.argsort(requested, kind="stable")
    steps = np.unique(requested)
    if len(steps) > 9:  # several models, each with requests of its own
        parts = np.array_split(order, 9)
    else:
        parts = [np.flatnonzero(requested == step) for step in steps]
    x = [np.median(requested[part]) for part in parts]
    low, middle, high = np.transpose(
        [np.quantile(measured[part], (0.1, 0.5, 0.9)) for part in parts]
    )
    axis.fill_between(x, low, high, color=look.colour, alpha=0.15, linewidth=0)
    axis.plot(x, middle, look.dash, color=look.colour, marker=look.marker, ms=3.5, lw=1.4)


# ---------------------------------------------------------------------------- codes


def scatter(
    codes: np.ndarray,
    attributes: np.ndarray,
    names: Sequence[str],
    units: Sequence[str],
    path: str | Path,
    *,
    dimensions: Sequence[int],
    groups: Sequence[str],
    scores: Sequence[float] | None = None,
) -> None:
    """Draws each attribute against the latent dimension that was trained on it, with a fitted line.

    Args:
        codes: Column k is the code of attribute k, (N, K).
        attributes: Attribute values in their own units, (N, K).
        names: Attributes, length K.
        units: Their units, length K.
        path: PNG to write; its folders are created.
        dimensions: Latent dimension of each column, length K.
        groups: Test set or domain of each point, length N; each has its own colour and marker.
        scores: R^2 of each attribute, printed above its panel, length K.

    Raises:
        ValueError: If the lengths differ.
    """
    codes, attributes = np.asarray(codes, float), np.asarray(attributes, float)
    k = len(names)
    lengths = {len(units), len(dimensions), k if scores is None else len(scores)}
    if codes.ndim != 2 or codes.shape != attributes.shape or codes.shape[1] != k or lengths != {k}:
        raise ValueError(
            f"codes {codes.shape}, attributes {attributes.shape} and {k} names do not fit; "
            "expected (N, K) twice, and K names, units, scores and dimensions"
        )
    if len(groups) != len(codes):
        raise ValueError(f"{len(groups)} groups for {len(codes)} points")
    group, look = np.asarray(groups), looks(list(groups))

    columns = min(k, 3)
    rows = math.ceil(k / columns)
    figure = Figure((3.0 * columns, 2.9 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[k:]:
        axis.set_axis_off()
    for i, axis in enumerate(axes[:k]):
        seen = np.isfinite(codes[:, i]) & np.isfinite(attributes[:, i])
        x, y = codes[seen, i], attributes[seen, i]
        for name, drawn in look.items():
            here = group[seen] == name
            axis.scatter(
                x[here], y[here], s=14, marker=drawn.marker, color=drawn.colour, alpha=0.6,
                linewidths=0,
            )  # fmt: skip
        if len(x) > 1 and np.ptp(x) > 0:
            ends = np.array([x.min(), x.max()])
            axis.plot(ends, np.polyval(np.polyfit(x, y, 1), ends), color=FIT, lw=1.8)
        axis.set_xlabel(f"dimension {dimensions[i]}")
        axis.set_ylabel(_with_unit(label_of(names[i]), units[i]))
        axis.set_title(names[i] if scores is None else f"{names[i]}, R² {scores[i]:.2f}", size=10)
        axis.spines[["top", "right"]].set_visible(False)
    legend(figure, look, dataset_label)
    save(figure, path)


def correlations(
    matrix: np.ndarray, names: Sequence[str], path: str | Path, trained: Sequence[int | None]
) -> None:
    """Draws how strongly each latent dimension goes with each attribute.

    The dimensions that were trained on an attribute stand first, framed at it; the others follow by
    their largest value, `MOST_DIMENSIONS` in all, and a line says what was left out.

    Args:
        matrix: Absolute rank correlation of dimension and attribute in [0, 1], (D, K).
        names: Attributes, length K.
        path: PNG to write.
        trained: Dimension that was trained on each attribute, length K; None where there is none.
    """
    matrix = np.abs(np.asarray(matrix, float))
    if matrix.ndim != 2 or not len(matrix) or not matrix.shape[1] == len(names) == len(trained):
        raise ValueError(
            f"matrix {matrix.shape} does not fit {len(names)} names and {len(trained)} trained "
            "dimensions; expected (D, K) and K of each"
        )
    first = list(dict.fromkeys(d for d in trained if d is not None))
    largest = np.nan_to_num(matrix).max(axis=1)
    others = [d for d in np.argsort(-largest, kind="stable").tolist() if d not in first]
    order = [*first, *others]
    order, rest = order[:MOST_DIMENSIONS], order[MOST_DIMENSIONS:]

    figure = Figure((0.8 * len(names) + 1.7, 0.2 * len(order) + 1.1), layout="constrained")
    axis = figure.subplots()
    shown = axis.imshow(matrix[order], cmap="magma_r", vmin=0, vmax=1, aspect="auto")
    for (y, x), value in np.ndenumerate(matrix[order]):
        axis.text(
            x, y, "–" if np.isnan(value) else f"{value:.2f}", ha="center", va="center", fontsize=7,
            color="white" if value > 0.5 else "black",
        )  # fmt: skip
    for k, dimension in enumerate(trained):
        if dimension is not None:
            corner = k - 0.5, order.index(dimension) - 0.5
            axis.add_patch(
                Rectangle(corner, 1, 1, fill=False, edgecolor=FRAME, lw=2, clip_on=False)
            )
    heads = [fitted(label_of(name), 0.75, 7, lines=3) for name in names]
    axis.set_xticks(range(len(names)), heads, fontsize=7)
    axis.set_yticks(range(len(order)), order, fontsize=7)
    axis.tick_params(length=0, top=True, bottom=False, labeltop=True, labelbottom=False)
    axis.set_ylabel("latent dimension", fontsize=8)
    axis.spines[:].set_visible(False)
    if rest:
        axis.set_xlabel(f"and {len(rest)} more, all at most {largest[rest].max():.2f}", fontsize=8)
    bar = figure.colorbar(shown, ax=axis, aspect=30, pad=0.02)
    bar.set_label("|rank correlation|", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    save(figure, path)


# ---------------------------------------------------------------------------- shared


def _checked(table: pd.DataFrame, columns: Sequence[str], *finite: str) -> pd.DataFrame:
    """Selects the rows whose numbers in the ``finite`` columns are finite."""
    missing = [column for column in columns if column not in table]
    if missing:
        raise ValueError(
            f"no column {', '.join(missing)} among {', '.join(map(str, table))}; "
            f"expected {', '.join(columns)}"
        )
    table = table[np.isfinite(table[list(finite)].to_numpy(float)).all(axis=1)]
    if not len(table):
        raise ValueError(f"nothing to draw: no row has a finite {' and '.join(finite)}")
    return table


def _with_unit(name: str, unit: str) -> str:
    return f"{name} ({SYMBOLS.get(unit, unit)})" if unit else name
