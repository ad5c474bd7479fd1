"""Pictures: what the slices, the reconstructions, the latent dimensions and the training look like.

Computes nothing beyond layout: numbers come in, a PNG goes out. Colours are those of Okabe and Ito
(2008), chosen so that they also differ in lightness: the pictures survive a grey print.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from .schema import HEART, Structure

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

COLOURS = {Structure.LV: (213, 94, 0), Structure.MYO: (240, 228, 66), Structure.RV: (86, 180, 233)}
"""Outline of each structure: dark on the bright blood pool, bright on the dark myocardium."""

LINES = ("#000000", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
DASHES = ("-", "--", "-.", ":")
SCORES = ("Interpretability", "SCC", "Modularity", "SAP", "MIG", "SSIM", "SSIM_in_mask")
"""Scores in [0, 1] that share an axis; PSNR (dB) gets its own, everything else is a loss."""

NOT_A_CURVE = re.compile(r"epoch|iteration|step|second|time|memory|seed|\blr\b|learning", re.I)
PAPER, INK = (255, 255, 255), (20, 20, 20)
GAP = 4  # pixels between tiles
DPI = 150


# ------------------------------------------------------------------------------ contact sheet


def contact_sheet(
    images: np.ndarray,
    labels: np.ndarray,
    captions: Sequence[str],
    path: str | Path,
    columns: int | None = None,
) -> None:
    """Shows every slice with the outlines of its structures and a caption below.

    One pixel of a slice is one pixel of the sheet; above 300 slices the tiles are half as large.

    Args:
        images: Slices in [0, 1], (N, H, W).
        labels: Canonical masks, (N, H, W).
        captions: A few words per slice, length N; what does not fit in two lines is shortened.
        path: PNG to write; its folders are created.
        columns: Tiles per row; by default the sheet is about three units wide to two high.

    Raises:
        ValueError: If there is no slice, or the three lengths differ.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    if images.ndim != 3 or images.shape != labels.shape or len(captions) != len(images):
        raise ValueError(
            f"images {images.shape}, labels {labels.shape} and {len(captions)} captions "
            "do not fit; expected (N, H, W) twice and N captions"
        )
    if not len(images) or columns is not None and columns < 1:
        raise ValueError(f"nothing to show: {len(images)} slices in {columns} columns")

    small = len(images) > 300
    tiles = np.stack([_tile(i, m, small) for i, m in zip(images, labels, strict=True)])
    n, height, width, _ = tiles.shape
    font = _font(9 if small else 11)
    texts = [_wrap(caption, font, width) for caption in captions]
    pitch = sum(font.getmetrics())
    line = pitch * max(1, *map(len, texts)) + 2
    columns = min(n, columns or math.ceil(math.sqrt(1.5 * n * (height + line) / width)))
    rows = math.ceil(n / columns)
    top = 28

    mosaic = np.full((rows * columns, height + line + GAP, width + GAP, 3), PAPER, np.uint8)
    mosaic[:n, :height, :width] = tiles
    mosaic = mosaic.reshape(rows, columns, height + line + GAP, width + GAP, 3).swapaxes(1, 2)
    mosaic = mosaic.reshape(rows * (height + line + GAP), columns * (width + GAP), 3)
    sheet = Image.new("RGB", (max(320, mosaic.shape[1]) + GAP, mosaic.shape[0] + top), PAPER)
    sheet.paste(Image.fromarray(mosaic), (GAP, top))

    draw = ImageDraw.Draw(sheet)
    _legend(draw, f"{n} slices" if n > 1 else "1 slice")
    for k, text in enumerate(texts):
        row, column = divmod(k, columns)
        x, y = GAP + column * (width + GAP), top + row * (height + line + GAP) + height
        for i, words in enumerate(text):
            draw.text((x, y + i * pitch), words, INK, font)
    sheet.save(_parent(path), format="PNG", compress_level=1)


def _outline(label: np.ndarray) -> np.ndarray:
    """Structure whose outline passes through each pixel, 0 elsewhere, (H, W) -> (H, W).

    A pixel of a structure is on the line where a 4-neighbour is background or a higher label, so
    two touching structures share one line, one pixel wide: LV | MYO is drawn in the LV.
    """
    padded = np.pad(label, 1)
    edge = np.zeros(label.shape, bool)
    for other in (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]):
        edge |= (other == Structure.BACKGROUND) | (other > label)
    return np.where(edge, label, Structure.BACKGROUND)


def _tile(image: np.ndarray, label: np.ndarray, small: bool) -> np.ndarray:
    """One slice in grey with its outlines in colour, (H, W) -> (H, W, 3) or half as large."""
    if small:
        height, width = (2 * (size // 2) for size in image.shape)
        image = image[:height, :width].reshape(height // 2, 2, width // 2, 2).mean((1, 3))
        label = label[:height:2, :width:2]
    grey = (np.nan_to_num(image).clip(0, 1) * 255).round().astype(np.uint8)
    tile = np.repeat(grey[..., None], 3, axis=2)
    outline = _outline(label)
    for structure in HEART:
        tile[outline == structure] = COLOURS[structure]
    return tile


def _legend(draw: ImageDraw.ImageDraw, title: str) -> None:
    font = _font(13)
    x, y = GAP, 6
    draw.text((x, y), title, INK, font)
    x += math.ceil(font.getlength(title)) + 24
    for structure in HEART:
        # A dark block behind the line: yellow is lost on white paper and clear on the black tiles.
        draw.rectangle((x, y, x + 24, y + 14), (0, 0, 0))
        draw.line((x + 4, y + 7, x + 20, y + 7), COLOURS[structure], 2)
        draw.text((x + 29, y), structure.name, INK, font)
        x += 29 + math.ceil(font.getlength(structure.name)) + 18


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(
        str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size
    )


def _wrap(caption: str, font: ImageFont.FreeTypeFont, width: int, lines: int = 2) -> list[str]:
    """The caption on at most ``lines`` lines of ``width`` pixels, the last one shortened to fit."""
    words = caption.split()
    wrapped = []
    while words and len(wrapped) < lines - 1:
        count = len(words)
        while count > 1 and font.getlength(" ".join(words[:count])) > width:
            count -= 1
        wrapped.append(_shorten(" ".join(words[:count]), font, width))
        words = words[count:]
    return [*wrapped, _shorten(" ".join(words), font, width)] if words else wrapped


def _shorten(line: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The line, or as much of its beginning as fits ``width`` pixels and an ellipsis."""
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(line + "…") > width:
        line = line[:-1].rstrip()
    return line + "…"


# ------------------------------------------------------------------------ slices in rows


def reconstructions(
    originals: np.ndarray,
    reconstructions: np.ndarray,
    captions: Sequence[str],
    path: str | Path,
) -> None:
    """Shows originals, reconstructions and the absolute difference, one slice per column.

    Args:
        originals: Slices in [0, 1], (N, H, W) with N from 1 to 8.
        reconstructions: What the network made of them, (N, H, W).
        captions: A few words per slice, length N.
        path: PNG to write; its folders are created.

    Raises:
        ValueError: If there are no or more than eight slices, or the lengths differ.
    """
    originals, reconstructions = np.asarray(originals), np.asarray(reconstructions)
    n = len(originals)
    if originals.shape != reconstructions.shape or originals.ndim != 3 or len(captions) != n:
        raise ValueError(
            f"originals {originals.shape}, reconstructions {reconstructions.shape} and "
            f"{len(captions)} captions do not fit; expected (N, H, W) twice and N captions"
        )
    if not 1 <= n <= 8:
        raise ValueError(f"{n} slices; expected 1 to 8, one per column")

    error = np.abs(originals.astype(float) - reconstructions)
    # The scale ends on a tenth, so that pictures of one run are comparable at a glance, and leaves
    # out the highest 0.5 % of pixels, so that one bright spot does not turn the rest black.
    limit = max(0.1, math.ceil(round(10 * float(np.nanquantile(error, 0.995)), 6)) / 10)
    figure = Figure((1.3 * n + 1.6, 4.5), layout="constrained")
    axes = figure.subplots(3, n, squeeze=False)
    font, width = _font(16), round(1.2 * 72 * 2)  # twice the 8 points that captions have
    for k in range(n):
        _show(axes[0, k], originals[k])
        _show(axes[1, k], reconstructions[k])
        shown = axes[2, k].imshow(error[k], cmap="magma", vmin=0, vmax=limit)
        _bare(axes[2, k])
        axes[0, k].set_title("\n".join(_wrap(captions[k], font, width)), fontsize=8)
    for axis, name in zip(
        axes[:, 0], ("original", "reconstruction", "absolute error"), strict=True
    ):
        axis.set_ylabel(name, fontsize=9)
    bar = figure.colorbar(
        shown, ax=axes.ravel().tolist(), shrink=0.3, anchor=(0, 0), pad=0.02, aspect=10,
        extend="max" if np.nanmax(error) > limit else "neither",
    )  # fmt: skip
    bar.ax.tick_params(labelsize=8)
    _save(figure, path)


def traversals(
    images: np.ndarray,
    names: Sequence[str],
    steps: Sequence[float],
    path: str | Path,
    original: np.ndarray | None = None,
    dimensions: Sequence[int] | None = None,
) -> None:
    """Shows what each attribute's latent dimension draws when it alone is moved.

    Args:
        images: Decoded slices in [0, 1], (K, S, H, W).
        names: Attribute of each row, length K.
        steps: Position of each column in standard deviations, length S.
        path: PNG to write; its folders are created.
        original: The slice that the traversal started from, (H, W); shown on the left.
        dimensions: Latent dimension of each row, length K; 0 to K - 1 by default.

    Raises:
        ValueError: If the lengths differ.
    """
    images = np.asarray(images)
    dimensions = range(len(names)) if dimensions is None else dimensions
    if images.ndim != 4 or images.shape[:2] != (len(names), len(steps)):
        raise ValueError(
            f"images {images.shape} do not fit {len(names)} names and {len(steps)} steps; "
            "expected (K, S, H, W)"
        )
    if len(dimensions) != len(names):
        raise ValueError(f"{len(dimensions)} dimensions for {len(names)} names")

    rows, count = images.shape[:2]
    extra = original is not None
    figure = Figure((1.2 * (count + extra) + 1.0, 1.2 * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, count + extra, squeeze=False)
    for i in range(rows):
        for j in range(count):
            _show(axes[i, j + extra], images[i, j])
        axes[i, int(extra)].set_ylabel(f"{names[i]}\ndimension {dimensions[i]}", fontsize=9)
        if extra:
            axes[i, 0].set_axis_off()
    for j, step in enumerate(steps):
        sign = "-" if step < 0 else "+" if step > 0 else ""
        axes[-1, j + extra].set_xlabel(f"{sign}{abs(step):g} sd", fontsize=9)
    if extra:
        _show(axes[0, 0], original)
        axes[0, 0].set_axis_on()
        axes[0, 0].set_ylabel("original", fontsize=9)
    _save(figure, path)


# ------------------------------------------------------------------------------ curves


def training_curves(history: pd.DataFrame, path: str | Path) -> None:
    """Draws loss terms and validation scores by epoch.

    A panel of losses, logarithmic where the values span more than two decades and are positive;
    panels of scores from 0 to 1; PSNR in decibels on its own. Empty cells, where a score was not
    taken in that epoch, are bridged.

    Args:
        history: A row per epoch, a column per loss term and score; ``epoch`` is the axis if there.
        path: PNG to write; its folders are created.

    Raises:
        ValueError: If no column is a curve.
    """
    epochs = np.asarray(history.get("epoch", history.index), dtype=float)
    numeric = history.select_dtypes("number")
    curves = {
        str(name): numeric[name].to_numpy(float)
        for name in numeric
        if not NOT_A_CURVE.search(str(name)) and np.isfinite(numeric[name].to_numpy(float)).any()
    }
    if not curves:
        raise ValueError(f"no curve among the columns {', '.join(map(str, history.columns))}")

    groups: dict[str, list[str]] = {}
    for name in curves:
        groups.setdefault(_metric(name), []).append(name)
    losses, decibels = groups.pop("", []), groups.pop("PSNR", [])
    panels = [("loss terms", losses)]
    if sum(map(len, groups.values())) > len(LINES):  # a value per attribute: a panel per metric
        panels += groups.items()
    else:
        panels.append(("scores", [name for names in groups.values() for name in names]))
    panels = [(title, names) for title, names in [*panels, ("PSNR (dB)", decibels)] if names]

    figure = Figure((8, 2.8 * len(panels) + 0.3), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0]
    for axis, (title, names) in zip(axes, panels, strict=True):
        for name, colour, dash in zip(names, cycle(LINES), _dashes(), strict=False):
            taken = np.isfinite(curves[name])
            marker = "o" if taken.sum() < 30 else None
            axis.plot(
                epochs[taken], curves[name][taken], dash, color=colour, marker=marker, ms=3, lw=1.4,
                label=name,
            )  # fmt: skip
        axis.set_ylabel(title)
        axis.set_xlim(epochs.min() - 0.5, epochs.max() + 0.5)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
        if title == "loss terms":
            values = np.concatenate([curves[name] for name in names])
            values = values[np.isfinite(values)]
            if values.min() > 0 and values.max() > 100 * values.min():
                axis.set_yscale("log")
        elif title != "PSNR (dB)":
            low = min(float(np.nanmin(curves[name])) for name in names)
            axis.set_ylim(min(0.0, 1.1 * low), 1.02)
    axes[-1].set_xlabel("epoch")
    axes[-1].xaxis.get_major_locator().set_params(integer=True)
    _save(figure, path)


def _metric(column: str) -> str:
    """Which score a column holds (``val/SSIM``, ``val_SCC_LVEDA``, ...); empty for a loss."""
    for score in sorted((*SCORES, "PSNR"), key=len, reverse=True):
        if re.search(rf"(^|[^A-Za-z]){score}([^A-Za-z]|$)", column):
            return score
    return ""


def _dashes() -> Iterable[str]:
    """Line styles: a new one each line, so that no two lines differ by colour alone."""
    for shift in cycle(range(len(DASHES))):
        # Eight colours use the four styles twice; the shift changes the pairing the next time.
        yield from islice(cycle(DASHES), shift, shift + len(LINES))


def scatter(
    codes: np.ndarray,
    attributes: np.ndarray,
    names: Sequence[str],
    units: Sequence[str],
    path: str | Path,
    scores: Sequence[float] | None = None,
    dimensions: Sequence[int] | None = None,
) -> None:
    """Draws each attribute against the latent dimension that was trained on it.

    Args:
        codes: Column k is the code of attribute k, (N, K).
        attributes: Attribute values in their own units, (N, K).
        names: Attributes, length K.
        units: Their units, length K.
        path: PNG to write; its folders are created.
        scores: R^2 of each attribute, printed above its panel, length K.
        dimensions: Latent dimension of each column, length K; 0 to K - 1 by default.

    Raises:
        ValueError: If the lengths differ.
    """
    codes, attributes = np.asarray(codes, float), np.asarray(attributes, float)
    k = len(names)
    dimensions = range(k) if dimensions is None else dimensions
    lengths = {len(units), len(dimensions), k if scores is None else len(scores)}
    if codes.ndim != 2 or codes.shape != attributes.shape or codes.shape[1] != k or lengths != {k}:
        raise ValueError(
            f"codes {codes.shape}, attributes {attributes.shape} and {k} names do not fit; "
            "expected (N, K) twice, and K names, units, scores and dimensions"
        )

    columns = min(k, 3)
    rows = math.ceil(k / columns)
    figure = Figure((3.0 * columns, 2.9 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[k:]:
        axis.set_axis_off()
    for i, axis in enumerate(axes[:k]):
        seen = np.isfinite(codes[:, i]) & np.isfinite(attributes[:, i])
        x, y = codes[seen, i], attributes[seen, i]
        axis.scatter(x, y, s=12, color="#0072b2", alpha=0.6, linewidths=0)
        if len(x) > 1 and np.ptp(x) > 0:
            ends = np.array([x.min(), x.max()])
            axis.plot(ends, np.polyval(np.polyfit(x, y, 1), ends), color="#d55e00", lw=1.8)
        axis.set_xlabel(f"dimension {dimensions[i]}")
        axis.set_ylabel(f"{names[i]} ({units[i]})" if units[i] else names[i])
        axis.set_title(names[i] if scores is None else f"{names[i]}, R² {scores[i]:.2f}", size=10)
        axis.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


# ------------------------------------------------------------------------------ shared


def _show(axis: Axes, image: np.ndarray) -> None:
    axis.imshow(image, cmap="gray", vmin=0, vmax=1)
    _bare(axis)


def _bare(axis: Axes) -> None:
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)


def _parent(path: str | Path) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _save(figure: Figure, path: str | Path) -> None:
    figure.savefig(_parent(path), dpi=DPI, format="png")
