"""Animates traversals of latent dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ..runtime.files import atomic_file
from .style import INK, PAPER, font, grey, shorten

MILLISECONDS = 80
"""Time of a picture."""


def traversal_gif(
    images: np.ndarray,
    names: Sequence[str],
    path: str | Path,
    captions: Sequence[str] | Sequence[Sequence[str]] | None = None,
) -> None:
    """Moves latent dimensions forth and back, without end, in an animated GIF: twice as large, but
    for pictures of stacks.

    Args:
        images: Decoded slices in [0, 1] of one traversal, (S, H, W), or of several side by side,
            (K, S, H, W).
        names: Title of each, length K (1 for one traversal).
        path: GIF to write.
        captions: Text below each picture, for example its value; as the images, (S,) or
            (K, S).
    """
    images = np.asarray(images)
    texts = np.full(images.shape[:-2], "") if captions is None else np.asarray(captions)
    if images.ndim not in (3, 4) or not images.size or texts.shape != images.shape[:-2]:
        raise ValueError(
            f"images {images.shape} and captions {texts.shape} do not fit; "
            "expected (S, H, W) and (S,), or (K, S, H, W) and (K, S)"
        )
    count, height, width = images.shape[-3:]
    greys, texts = grey(images).reshape(-1, count, height, width), texts.reshape(-1, count)
    if len(names) != len(greys):
        raise ValueError(f"{len(names)} names for {len(greys)} traversals")

    letters, gap = font(14), 8
    line = sum(letters.getmetrics()) + 4
    larger = 2 if height <= 2 * width else 1
    width, height = larger * width, larger * height
    size = (gap + len(greys) * (width + gap), height + line * (1 + (captions is not None)) + gap)
    frames = []
    for s in [*range(count), *range(count - 2, 0, -1)]:
        frame = Image.new("L", size, PAPER[0])
        draw = ImageDraw.Draw(frame)
        for k, name in enumerate(names):
            x = gap + k * (width + gap)
            slice_ = Image.fromarray(greys[k, s]).resize((width, height), Image.Resampling.BICUBIC)
            frame.paste(slice_, (x, line))
            draw.text((x, 2), shorten(name, letters, width), INK[0], letters)
            draw.text(
                (x, line + height + 2), shorten(str(texts[k, s]), letters, width), INK[0], letters
            )
        frames.append(frame)
    with atomic_file(path) as beside:
        frames[0].save(
            beside, format="GIF", save_all=True, append_images=frames[1:], duration=MILLISECONDS,
            loop=0,
        )  # fmt: skip
