"""Pictures of a run: curves, reconstructions and traversals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ..data.store import SliceDataset
from ..models.vae import VAE
from ..report.curves import training_curves
from ..report.slices import methods_side_by_side, traversals
from ..report.style import stacked
from .run import TRAVERSAL, reconstruct, traverse

SHOWN = 8
"""Slices that are shown beside their reconstructions."""


def draw_run(
    folder: Path,
    history: Sequence[Mapping[str, float]],
    network: VAE,
    slices: SliceDataset,
    names: Sequence[str],
    statistics: Mapping[str, np.ndarray],
) -> list[Path]:
    """Draws training_curves.png, reconstructions.png (of the first `SHOWN` slices) and
    traversals.png into a folder; returns their paths.

    Args:
        folder: Where to.
        history: Rows of history.csv.
        network: The network to show.
        slices: Some of them are reconstructed.
        names: Attributes on the first latent dimensions.
        statistics: ``code_mean`` and ``code_deviation``, (D,).
    """
    if history:
        few = pd.DataFrame(history).filter(regex=r"^(?!.*(/|_fixed|_MSE))")
        training_curves(few, folder / "training_curves.png")  # the rest is in history.csv
    shown = slices.take(range(min(SHOWN, len(slices))))
    draw_reconstructions(network, shown, folder / "reconstructions.png")
    draw_traversals(network, names, statistics, folder / "traversals.png")
    return sorted(folder.glob("*.png"))


def draw_traversals(
    network: VAE, names: Sequence[str], statistics: Mapping[str, np.ndarray], path: Path
) -> None:
    """Draws a row of slices for each attribute, its dimension changed step by step."""
    images = stacked(traverse(network, len(names), statistics))
    traversals(images, tuple(names), TRAVERSAL.tolist(), path)


def draw_reconstructions(network: VAE, dataset: SliceDataset, path: Path) -> None:
    """Draws slices above what the network makes of them."""
    originals = stacked(dataset.images.numpy())
    decoded = stacked(reconstruct(network, dataset.images).numpy())
    captions = dataset.cases["case"].tolist()
    methods_side_by_side(originals, {"reconstruction": decoded}, captions, path)
