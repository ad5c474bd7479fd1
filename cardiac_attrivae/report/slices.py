"""Slices in rows: reconstructions of several methods, and traversals of latent dimensions.

Slices of two phases come as pictures (2 H, W), ED above ES, stacks as (S H, 2 W), see `stacked`.
Computes nothing beyond layout: pictures and numbers come in, a PNG goes out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..attributes import ATTRIBUTES, drawn, label_of
from ..schema import HEART, Phase, Structure
from .published import method_label
from .style import COLOURS, SYMBOLS, fitted, outlined, save, value_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIDE = 1.2  # inches of a slice
GAP = 0.05  # inches between slices
LINE = 0.15  # inches of a line of letters
MARGIN = 0.1  # inches of paper around all


def methods_side_by_side(
    originals: np.ndarray,
    rebuilt: dict[str, np.ndarray],
    captions: Sequence[str],
    path: str | Path,
    scores: dict[str, Sequence[float]] | None = None,
) -> None:
    """Shows originals and, method by method, reconstructions and absolute errors (Fig. 2a, b).

    One slice per column; all error maps share one scale.

    Args:
        originals: Slices in [0, 1], (N, H, W) with N from 1 to 8.
        rebuilt: What each method made of them, name -> (N, H, W); a row takes the
            `method_label` of the name.
        captions: A few words per slice, length N.
        path: PNG to write.
        scores: SSIM of each reconstruction, name -> length N; printed below it.
    """
    originals = np.asarray(originals)
    rebuilt = {name: np.asarray(images) for name, images in rebuilt.items()}
    n = len(originals)
    shapes = {name: images.shape for name, images in rebuilt.items()}
    if originals.ndim != 3 or set(shapes.values()) != {originals.shape} or len(captions) != n:
        raise ValueError(
            f"originals {originals.shape}, rebuilt {shapes} and {len(captions)} captions do not "
            "fit; expected (N, H, W) of each, at least one method, and N captions"
        )
    if not 1 <= n <= 8:
        raise ValueError(f"{n} slices; expected 1 to 8, one per column")
    lengths = {name: len(values) for name, values in (scores or {}).items()}
    if scores is not None and lengths != dict.fromkeys(rebuilt, n):
        raise ValueError(f"scores of {lengths}; expected {n} of each of {', '.join(rebuilt)}")

    heads = [fitted(caption, SIDE, 8) for caption in captions]
    top = LINE * max(len(head.splitlines()) for head in heads)
    names = {name: fitted(method_label(name), SIDE, 8, lines=5) for name in rebuilt}
    left = LINE * max(0, *(len(text.splitlines()) - 2 for text in names.values()))
    figure, axes = _grid(
        1 + 2 * len(rebuilt),
        n,
        left=left,
        right=0.65,
        top=top,
        below=LINE * bool(scores),
        tall=_tall(originals),
    )
    for k in range(n):
        _show(axes[0, k], originals[k])
        axes[0, k].set_title(heads[k], fontsize=8, pad=3)
    axes[0, 0].set_ylabel("original", fontsize=9)
    for m, name in enumerate(rebuilt):
        above, below = axes[1 + 2 * m], axes[2 + 2 * m]
        for k in range(n):
            _show(above[k], rebuilt[name][k])
            if scores:
                above[k].set_xlabel(f"SSIM {scores[name][k]:.2f}", fontsize=7, labelpad=1)
        above[0].set_ylabel(names[name], fontsize=8)
        below[0].set_ylabel("absolute error", fontsize=9)
    errors = [np.abs(originals.astype(float) - images) for images in rebuilt.values()]
    _show_errors(axes[2::2], np.stack(errors))
    save(figure, path)


def traversals(
    images: np.ndarray,
    names: Sequence[str],
    steps: Sequence[float],
    path: str | Path,
    original: np.ndarray | None = None,
    dimensions: Sequence[int] | None = None,
    labels: np.ndarray | None = None,
    areas: np.ndarray | None = None,
    requested: np.ndarray | None = None,
    units: Sequence[str] | None = None,
    measured_in: str = "cm2",
    title: str = "original",
) -> None:
    """Shows what is drawn when the latent dimension of one attribute is moved (Fig. 3, 4).

    Args:
        images: Decoded slices in [0, 1], (K, S, H, W).
        names: Attribute of each row, length K.
        steps: Position of each column in standard deviations, length S.
        path: PNG to write.
        original: The slice that the traversal started from, (H, W); shown on the left.
        dimensions: Latent dimension of each row, length K; 0 to K - 1 by default.
        labels: Canonical masks of the decoded slices, (K, S, H, W); outlined if given.
        areas: LV, MYO and RV measured in them, at each phase, (K, S, 3 P); printed
            below each picture, the structure that the row's attribute is about in bold.
        requested: Attribute that each picture was asked for, (K, S); printed above it, nan as
            "below 0".
        units: Units of the requested values, length K.
        measured_in: Unit of areas, mL of stacks.
        title: Title of the original.
    """
    images = np.asarray(images)
    dimensions = range(len(names)) if dimensions is None else dimensions
    units = [""] * len(names) if units is None else units
    if images.ndim != 4 or images.shape[:2] != (len(names), len(steps)):
        raise ValueError(
            f"images {images.shape} do not fit {len(names)} names and {len(steps)} steps; "
            "expected (K, S, H, W)"
        )
    rows, count = images.shape[:2]
    for what, length in (("dimensions", len(dimensions)), ("units", len(units))):
        if length != rows:
            raise ValueError(f"{length} {what} for {rows} names")
    wanted = {
        "original": (original, images.shape[2:]),
        "labels": (labels, images.shape),
        "areas": (areas, (rows, count, len(HEART) * (1 if areas is None else _phases(areas)))),
        "requested": (requested, (rows, count)),
    }
    for what, (value, shape) in wanted.items():
        if value is not None and np.shape(value) != shape:
            raise ValueError(f"{what} {np.shape(value)}; expected {shape}")

    asked = [[""] * count] * rows
    if requested is not None:
        asked = [
            [value_of(n, v, unit) if math.isfinite(v) else "below 0" for v in map(float, row)]
            for n, unit, row in zip(names, units, requested, strict=True)
        ]
    asked[0] = [
        f"{_step(step)}\n{head}".strip() for step, head in zip(steps, asked[0], strict=True)
    ]
    titles = [
        f"{label_of(name)}\n{name}, dimension {dimension}"
        for name, dimension in zip(names, dimensions, strict=True)
    ]
    note = "above: requested, below: measured"
    drawn_slices(
        images, titles, asked, path, original, labels, areas, [*map(_structure, names)],
        measured_in=measured_in, note=note if requested is not None and areas is not None else "",
        title=title,
    )  # fmt: skip


def drawn_slices(
    images: np.ndarray,
    titles: Sequence[str],
    heads: Sequence[Sequence[str]],
    path: str | Path,
    original: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    areas: np.ndarray | None = None,
    structures: Sequence[Structure | None] | None = None,
    note: str = "",
    measured_in: str = "cm2",
    title: str = "original",
) -> None:
    """Shows rows of drawn slices, with what they stand for and what was measured in them.

    Args:
        images: Decoded slices in [0, 1], (R, S, H, W).
        titles: Up to two lines beside each row, length R.
        heads: Lines above each picture, R lists of S.
        path, original, labels, areas, measured_in, title: See `traversals`.
        structures: The one whose area is in bold in each row, length R; None for none.
        note: A line below all.
    """
    rows, count = images.shape[:2]
    lines = [max(len(head.splitlines()) for head in row) for row in heads]
    title = fitted(title, SIDE, 8)
    if original is not None:
        lines[0] = max(lines[0], len(title.splitlines()))
    above = LINE * max(lines[1:], default=0)
    figure, axes = _grid(
        rows, count, left=(SIDE + GAP) * (original is not None), top=LINE * lines[0] - above,
        bottom=0.2 * (labels is not None), above=above, below=2 * LINE * _phases(areas),
        tall=_tall(images),
    )  # fmt: skip
    own = [None] * rows if structures is None else structures
    for (i, j), axis in np.ndenumerate(axes):
        _show(axis, images[i, j] if labels is None else outlined(images[i, j], labels[i][j]))
        axis.set_title(heads[i][j], fontsize=8, pad=3)
        if areas is not None:
            _print_areas(axis, own[i], areas[i][j], _tall(images), measured_in)
    for axis, beside in zip(axes[:, 0], titles, strict=True):
        axis.set_ylabel(beside, fontsize=7)
    if original is not None:
        place = axes[0, 0].get_position()
        axis = figure.add_axes(
            (MARGIN / figure.get_figwidth(), place.y0, place.width, place.height)
        )
        _show(axis, original)
        axis.set_title(title, fontsize=8, pad=3)
    if labels is not None:
        _structures(figure)
    left, bottom = MARGIN / figure.get_figwidth(), 0.08 / figure.get_figheight()
    figure.text(left, bottom, note, fontsize=8)
    save(figure, path)


def requested_slice(
    original: np.ndarray,
    images: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    areas: Sequence[np.ndarray],
    request: Mapping[str, float],
    path: str | Path,
    title: str = "original",
    missed: Sequence[str] = (),
    measured_in: str = "cm2",
) -> None:
    """Shows one slice, how a network draws it, how with other attributes, and what that changed.

    Args:
        original: Slice in [0, 1], (H, W).
        images, labels: Decoded before and after the change, and their masks, two of (H, W).
        areas: LV, MYO and RV measured in both, two of (3 P,); printed below.
        request: Attribute -> value that was asked for, in its unit.
        path: PNG to write.
        title: Title of the original.
        missed: Attributes that were not reached: their measured areas stand beside the request.
        measured_in: Unit of areas, mL of stacks.
    """
    original = np.asarray(original)
    shapes = [np.shape(part) for part in (*images, *labels, *areas)]
    count = len(HEART) * _phases(areas[0])
    if shapes != [original.shape] * 4 + [(count,)] * 2 or original.ndim != 2:
        raise ValueError(
            f"original {original.shape}; images, labels and areas {shapes} do not fit; "
            "expected (H, W), then two of (H, W), of (H, W) and of (3,)"
        )
    asked = [
        f"{fitted(label_of(name), SIDE, 8)}\n{value_of(name, value)}"
        for name, value in request.items()
    ]
    structures = [ATTRIBUTES[name].structure for name in request]
    for k, name in enumerate(request):
        if name in missed:
            asked[k] += f"\nnot reached: {value_of(name, float(drawn(name, areas[1])))}"
    heads = (fitted(title, SIDE, 8), "as drawn", "\n".join(asked), "absolute difference")
    top = LINE * max(len(head.splitlines()) for head in heads)
    figure, axes = _grid(
        1, 4, right=0.6, top=top, bottom=0.2, below=2 * LINE * _phases(areas[0]),
        tall=_tall(original),
    )  # fmt: skip
    for axis, head in zip(axes[0], heads, strict=True):
        axis.set_title(head, fontsize=8, pad=3)
    _show(axes[0, 0], original)
    for axis, image, label, area in zip(axes[0, 1:3], images, labels, areas, strict=True):
        _show(axis, outlined(np.asarray(image), np.asarray(label)))
        own = structures[0] if len(structures) == 1 else None
        _print_areas(axis, own, area, _tall(original), measured_in)
    _show_errors(axes[:, 3:], np.abs(np.subtract(*images))[None, None])
    _structures(figure)
    save(figure, path)


def _grid(
    rows: int,
    columns: int,
    *,
    left: float = 0.0,
    right: float = 0.0,
    top: float = 0.0,
    bottom: float = 0.0,
    above: float = 0.0,
    below: float = 0.0,
    tall: float = 1.0,
) -> tuple[Figure, np.ndarray]:
    """Makes panels of `SIDE` inches, (rows, columns), with space for letters, all in inches.

    Panels are ``tall`` times as high as wide: phases lie below each other, see `stacked`.
    ``above`` and ``below`` are left free at every row, the others once around all rows. Space for
    two lines of letters is always kept on the left.
    """
    left, right = MARGIN + left + 0.35, MARGIN + right
    top, bottom = MARGIN + top + above, MARGIN + bottom + below
    between = GAP + above + below
    width = left + columns * (SIDE + GAP) - GAP + right
    height = top + rows * (SIDE * tall + between) - between + bottom
    figure = Figure((width, height))
    axes = figure.subplots(
        rows, columns, squeeze=False,
        gridspec_kw={
            "left": left / width, "right": 1 - right / width,
            "top": 1 - top / height, "bottom": bottom / height,
            "wspace": GAP / SIDE, "hspace": between / (SIDE * tall),
        },
    )  # fmt: skip
    return figure, axes


def _step(step: float) -> str:
    sign = "−" if step < 0 else "+" if step > 0 else ""
    return f"{sign}{round(abs(step), 2):g} sd"


def _tall(images: np.ndarray) -> float:
    """Height over width of pictures: 2 of two phases below each other."""
    return images.shape[-2] / images.shape[-1]


def _phases(areas: np.ndarray | None) -> int:
    """Number of phases that areas (..., 3 C) are of; 0 of none."""
    return 0 if areas is None else np.shape(areas)[-1] // len(HEART)


def _structure(name: str) -> Structure | None:
    """Structure of an attribute; None if the name is no attribute."""
    return ATTRIBUTES[name].structure if name in ATTRIBUTES else None


def _print_areas(axis: Axes, own: Structure | None, areas: Any, tall: float, unit: str) -> None:
    """Prints the measured areas below a picture, that of its own structure first and in bold."""
    place: dict[str, Any] = {"transform": axis.transAxes, "ha": "center", "va": "top"}
    weight, unit = "normal" if own is None else "bold", SYMBOLS.get(unit, unit)
    parts = np.split(np.asarray(areas), _phases(areas))
    for k, (phase, found) in enumerate(zip(Phase, parts, strict=False)):
        texts = {s: f"{s.name} {area:.1f}" for s, area in zip(HEART, found, strict=True)}
        first = f"{texts.pop(own or HEART[0])} {unit}"
        at = "" if _phases(areas) == 1 else f"{phase} "
        line = -LINE / SIDE / tall
        if k == 0:
            axis.set_xlabel(f"{at}{first}", fontsize=8, fontweight=weight, labelpad=1)
        else:
            axis.text(0.5, 2 * k * line, f"{at}{first}", fontsize=8, fontweight=weight, **place)
        axis.text(0.5, (2 * k + 1) * line, "  ".join(texts.values()), fontsize=7, **place)


def _structures(figure: Figure) -> None:
    """Explains the colours of the outlines, on black because yellow is lost on white paper."""
    handles = [
        Line2D([], [], color=tuple(np.divide(COLOURS[s], 255)), lw=2, label=s.name) for s in HEART
    ]
    figure.legend(
        handles=handles, loc="lower center", ncols=len(HEART), fontsize=8, facecolor="black",
        labelcolor="white", framealpha=1, borderpad=0.3, borderaxespad=0.3,
    )  # fmt: skip


def _show_errors(axes: np.ndarray, errors: np.ndarray) -> None:
    """Fills panels (M, N) with errors (M, N, H, W) on one scale, drawn beside the last panel.

    The scale ends on a tenth, so that pictures of several runs are comparable at a glance, and
    leaves out the highest 0.5 % of pixels, so that one bright spot does not turn the rest black.
    """
    limit = max(0.1, math.ceil(round(10 * float(np.nanquantile(errors, 0.995)), 6)) / 10)
    for index, axis in np.ndenumerate(axes):
        shown = axis.imshow(errors[index], cmap="magma", vmin=0, vmax=limit)
        _bare(axis)
    last, figure = axes[-1, -1].get_position(), axes[-1, -1].figure
    width = 0.1 / figure.get_figwidth()
    bar = figure.colorbar(
        shown, cax=figure.add_axes((last.x1 + width, last.y0, width, last.height)),
        extend="max" if np.nanmax(errors) > limit else "neither",
    )  # fmt: skip
    bar.ax.tick_params(labelsize=8)
    if axes.size > 1:
        bar.set_label("all error maps", fontsize=8)


def _show(axis: Axes, image: np.ndarray) -> None:
    axis.imshow(image, cmap="gray", vmin=0, vmax=1)
    _bare(axis)


def _bare(axis: Axes) -> None:
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
