"""The picture of where an encoder looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from .style import fitted, outlined, save

WORDS = (
    "Grad-CAM of the mean of each attribute's dimension: bright is where the slice speaks for a "
    "larger value. Each map is scaled by its own maximum and is as coarse as the last map of the "
    "encoder; without any, nothing speaks for a larger value. Outlines are those of the mask."
)


def draw_attention(
    maps: Mapping[str, np.ndarray],
    images: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    path: str | Path,
) -> None:
    """Draws a row for each attribute: its attention, maps (n, H, W), over the slices of n patients,
    whose names stand above."""
    figure = Figure((1.5 * len(images) + 0.4, 1.55 * len(maps) + 0.3), layout="constrained")
    axes = figure.subplots(len(maps), len(images), squeeze=False)
    for line, (attribute, found) in zip(axes, maps.items(), strict=True):
        for axis, heat, image, label in zip(line, found, images, labels, strict=True):
            axis.imshow(outlined(image, label))
            strength = heat / max(float(heat.max()), 1e-12)
            axis.imshow(strength, cmap="inferno", alpha=0.65 * strength, vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
        line[0].set_ylabel(attribute, fontsize=8)
    for axis, name in zip(axes[0], names, strict=True):
        axis.set_title(fitted(name, 1.3, 8, lines=1), fontsize=8)
    save(figure, path)
