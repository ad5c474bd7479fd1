"""Pictures and the page of scans that were encoded: what was seen, drawn, read, and how far off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from ..runtime.files import atomic_file
from .evaluations import packed_picture
from .render import render
from .style import INK, PAPER, fitted, font, grey, outlined, plain, save

ZOOM, GAP, TOP = 2, 8, 24  # pixels
KNOWN, NEW, FAR = "#9aa5b1", "#0072b2", "#d55e00"


class Shown(NamedTuple):
    """What is shown of a scan."""

    name: str  # name of the scan
    crop: np.ndarray  # slice in [0, 1], (H, W)
    label: np.ndarray  # canonical labels, (H, W)
    reconstruction: np.ndarray  # what the model draws, (H, W)
    place: tuple[float, float]  # place on the map; NaN if unknown
    percentile: float  # per cent of the training patients that are nearer
    trust: str  # what that means, in words
    # rows with attribute, unit, measured, read, low, high, outside
    attributes: Sequence[Mapping[Any, Any]]
    mask_source: str  # who made the mask
    where: str  # frame and slice, in words
    dice: Mapping[str, float]  # structure -> expected Dice of a predicted mask
    warnings: Sequence[str]  # sentences

    @property
    def doubtful(self) -> bool:
        """Whether anything speaks against it."""
        return bool(self.warnings) or not self.percentile <= 95


def draw_patient(shown: Shown, path: str | Path) -> None:
    """Draws the slice, its outlines, and what the model makes of it, side by side."""
    tiles = {
        "slice": np.repeat(grey(shown.crop)[..., None], 3, axis=2),
        "mask": outlined(shown.crop, shown.label),
        "drawn from its code": np.repeat(grey(shown.reconstruction)[..., None], 3, axis=2),
    }
    side, letters = ZOOM * shown.crop.shape[0], font(13)
    sheet = Image.new("RGB", (3 * side + 4 * GAP, side + TOP + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    for k, (title, tile) in enumerate(tiles.items()):
        left = GAP + k * (side + GAP)
        draw.text((left, 4), title, INK, letters)
        sheet.paste(
            Image.fromarray(tile).resize((side, side), Image.Resampling.NEAREST), (left, TOP)
        )
    with atomic_file(path) as beside:
        sheet.save(beside, format="PNG")


def draw_map(points: np.ndarray, shown: Sequence[Shown], path: str | Path) -> None:
    """Draws scans that have a place on the map of the training patients, (n, 2)."""
    figure = Figure((6.2, 4.4), layout="constrained")
    axis = figure.add_subplot()
    axis.scatter(points[:, 0], points[:, 1], s=14, color=KNOWN, lw=0, label="training patients")
    placed = [one for one in shown if np.isfinite(one.place).all()]
    for usual, colour, label in ((True, NEW, "new"), (False, FAR, "new, unusual")):
        chosen = [one for one in placed if (one.percentile <= 95) == usual]
        if chosen:
            spots = np.array([one.place for one in chosen])
            axis.scatter(
                spots[:, 0], spots[:, 1], s=34, color=colour, marker="D", lw=0, label=label,
                zorder=3,
            )  # fmt: skip
    for one in placed[:20]:  # more names would cover each other
        axis.annotate(
            fitted(one.name, 1.4, 7), one.place, xytext=(5, 4), textcoords="offset points",
            fontsize=7,
        )  # fmt: skip
    axis.set(xlabel="first principal component of the codes", ylabel="second")
    axis.legend(fontsize=8, frameon=False)
    plain(axis)
    save(figure, path)


def encodings_page(
    shown: Sequence[Shown],
    folder: Path,
    pictures: Mapping[str, str],
    method: str,
    trained_on: str,
    skipped: Sequence[Any],
) -> str:
    """Writes the page of a batch of scans: a table of all, and a part for each.

    Args:
        shown: Scans.
        folder: Holds map.png, if there is a map, and the pictures.
        pictures: Name of each scan -> its picture in the folder.
        method: Name of the method.
        trained_on: Data set of the model.
        skipped: Name of each scan that cannot be encoded, and the reason.
    """
    whole = folder / "map.png"
    return render(
        "encodings.html",
        shown=shown,
        pictures={one.name: packed_picture(folder / pictures[one.name]) for one in shown},
        map=packed_picture(whole) if whole.is_file() else "",
        method=method,
        trained_on=trained_on,
        skipped=skipped,
    )
