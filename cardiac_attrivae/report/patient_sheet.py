"""A picture per patient: outlines on all slices at ED and ES, and volumes over the heart beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ..schema import HEART, STRUCTURES
from .style import COLOURS, fitted, outlined, plain, save

SIDE = 1.3  # inches of a slice
MARGIN_MM = 25
"""Shown around the heart."""


def patient_sheet(
    frames: Mapping[str, tuple[np.ndarray, np.ndarray]],
    spacing_mm: Sequence[float],
    volumes_ml: np.ndarray,
    phases: Mapping[str, int],
    title: str,
    remarks: Sequence[str],
    path: str | Path,
) -> None:
    """Draws what was segmented in a patient.

    Args:
        frames: Name of a frame, ``ED`` for example -> signal and canonical labels, (X, Y, Z).
        spacing_mm: Spacing along X, Y, Z.
        volumes_ml: Volumes of LV, MYO and RV in each frame of the cine, (T, 3).
        phases: ``ED`` and ``ES`` -> their frames.
        title: Printed above.
        remarks: Warnings, printed below the title.
        path: PNG to write.
    """
    if not frames:
        raise ValueError("no frame; expected one or more, with its labels")
    box = _around([labels for _, labels in frames.values()], spacing_mm)
    columns = max(image.shape[2] for image, _ in frames.values())
    curve = len(volumes_ml) > 1
    rows = len(frames)
    text = "\n".join(fitted(line, columns * SIDE, 8) for line in (title, *remarks))
    heights = [*[SIDE] * rows, *[1.8] * curve]
    top = 0.16 * (1 + text.count("\n")) + 0.1
    figure = Figure(figsize=(columns * SIDE + 0.6, sum(heights) + top), layout="constrained")
    figure.suptitle(text, fontsize=8, x=0.01, ha="left")
    grid = figure.add_gridspec(rows + curve, columns, height_ratios=heights)
    for row, (name, (image, labels)) in enumerate(frames.items()):
        low, high = np.percentile(image, (1, 99))
        for z in range(image.shape[2]):
            axis = figure.add_subplot(grid[row, z])
            plane = np.clip((image[(*box, z)] - low) / max(high - low, 1e-6), 0, 1)
            axis.imshow(
                outlined(plane.T, labels[(*box, z)].T), aspect=spacing_mm[1] / spacing_mm[0]
            )
            axis.set(xticks=[], yticks=[])
            if z == 0:
                axis.set_ylabel(name, fontsize=9)
            if row == 0:
                axis.set_title(f"slice {z + 1}", fontsize=7, pad=2)
    if curve:
        axis = figure.add_subplot(grid[rows, :])
        for k, structure in enumerate(HEART):
            colour = [part / 255 for part in COLOURS[structure]]
            axis.plot(volumes_ml[:, k], color=colour, lw=1.6, label=STRUCTURES[k])
        for name, frame in phases.items():
            axis.axvline(frame, color="0.6", lw=0.8)
            axis.annotate(name, (frame, axis.get_ylim()[1]), fontsize=7, va="top")
        axis.set(xlabel="frame, from 0", ylabel="volume (mL)")
        axis.legend(fontsize=7, frameon=False, ncols=3)
        plain(axis)
    save(figure, path)


def _around(labels: Sequence[np.ndarray], spacing_mm: Sequence[float]) -> tuple[slice, slice]:
    """Finds the box around the hearts, with a margin; the whole slice where there is none."""
    shown = np.any([(stack > 0).any(axis=2) for stack in labels], axis=0)
    if not shown.any():
        return slice(None), slice(None)
    box = []
    for axis in (0, 1):
        places = np.flatnonzero(shown.any(axis=1 - axis))
        margin = round(MARGIN_MM / spacing_mm[axis])
        box.append(slice(max(0, places[0] - margin), places[-1] + margin + 1))
    return box[0], box[1]
