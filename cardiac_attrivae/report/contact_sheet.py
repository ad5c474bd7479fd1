"""The contact sheet: slices of a store with their outlines, to check before training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ..runtime.files import atomic_file
from ..runtime.messages import counted
from ..schema import HEART
from .style import COLOURS, INK, PAPER, font, outlined, wrap

GAP = 4  # pixels between tiles
MOST = 1000
"""Most slices on a sheet."""


def chosen(slices: int) -> np.ndarray:
    """Chooses the slices of a sheet: all, or `MOST` of them from the first to the last.

    Example:
        >>> chosen(3)
        array([0, 1, 2])
        >>> len(chosen(45_000))
        1000
    """
    return np.linspace(0, slices - 1, min(slices, MOST)).round().astype(int)


def contact_sheet(
    images: np.ndarray,
    labels: np.ndarray,
    captions: Sequence[str],
    path: str | Path,
    columns: int | None = None,
    of: int | None = None,
) -> None:
    """Shows slices with the outlines of their structures and a caption below.

    One pixel of a slice is one pixel of the sheet; above 300 slices the tiles are half as large.
    Captions that do not fit in two lines are shortened.

    Args:
        images, labels, captions: N slices, their masks, and a few words for each.
        path: PNG to write.
        columns: Tiles per row; by default the sheet is about three units wide to two high.
        of: Number of slices from which these were `chosen`; None if these are all.
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
    if small:
        images, labels = _halved(images, labels)
    n, height, width = images.shape
    letters = font(9 if small else 11)
    texts = [wrap(caption, letters, width) for caption in captions]
    pitch = sum(letters.getmetrics())
    line = pitch * max(1, *map(len, texts)) + 2
    columns = min(n, columns or math.ceil(math.sqrt(1.5 * n * (height + line) / width)))
    rows = math.ceil(n / columns)
    top = 28

    across, down = width + GAP, height + line + GAP
    sheet = Image.new("RGB", (max(320, columns * across) + GAP, rows * down + top), PAPER)
    draw = ImageDraw.Draw(sheet)
    total = of or n
    count = counted(total, "slice")
    _legend(draw, count if total == n else f"{n:,} of {count}")
    for row in range(rows):
        shown = slice(row * columns, (row + 1) * columns)
        tiles = outlined(images[shown], labels[shown])
        for column, (tile, text) in enumerate(zip(tiles, texts[shown], strict=True)):
            x, y = GAP + column * across, top + row * down
            sheet.paste(Image.fromarray(tile), (x, y))
            for i, words in enumerate(text):
                draw.text((x, y + height + i * pitch), words, INK, letters)
    with atomic_file(path) as beside:
        sheet.save(beside, format="PNG", compress_level=1)


def _halved(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Halves slices and masks: the mean of four pixels, the label of the first."""
    n, height, width = images.shape
    height, width = height // 2, width // 2
    images = images[:, : 2 * height, : 2 * width].reshape(n, height, 2, width, 2).mean((2, 4))
    return images, labels[:, : 2 * height : 2, : 2 * width : 2]


def _legend(draw: ImageDraw.ImageDraw, title: str) -> None:
    letters = font(13)
    x, y = GAP, 6
    draw.text((x, y), title, INK, letters)
    x += math.ceil(letters.getlength(title)) + 24
    for structure in HEART:
        # A dark block behind the line: yellow is lost on white paper and clear on the black tiles.
        draw.rectangle((x, y, x + 24, y + 14), (0, 0, 0))
        draw.line((x + 4, y + 7, x + 20, y + 7), COLOURS[structure], 2)
        draw.text((x + 29, y), structure.name, INK, letters)
        x += 29 + math.ceil(letters.getlength(structure.name)) + 18
