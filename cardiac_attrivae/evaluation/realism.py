"""Are drawn hearts told from real ones? Realism scores of a model, beside a floor and ceilings.

Compared with the slices of unseen patients are the reconstructions of these, and hearts whose codes
are drawn from the distribution of the training codes. The floor compares two halves of the
patients; the ceilings are the same slices blurred, and with noise.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from sklearn.model_selection import KFold
from torch import Tensor, nn

from ..data.store import SliceDataset
from ..metrics.intervals import interval
from ..metrics.metric import Metric
from ..metrics.patients import FEWEST, draw_patients, drawn_rows
from ..metrics.population import Population
from ..metrics.realism import REALISM, Pictures, nearest_distance, told_apart
from ..models.perceptual import PERCEPTUAL
from ..runtime.files import write
from ..runtime.spreadsheet import csv_text
from ..schema import DataError
from ..segmentation.judge import CHUNK, KIND, Segmenter
from ..training.run import Run, decode, load_run, reconstruct
from .parts import Job, Part, Patients, fingerprint

FOLDS, STEPS, BATCH, RATE = 5, 600, 32, 2e-3
"""How the network that tells slices apart is cross-validated over patients, and trained."""
BLUR, NOISE = 1.5, 0.1
"""Standard deviations of the ceilings, in pixels and in intensity."""
RECONSTRUCTIONS, PRIOR, REAL = "reconstructions", "prior", "real"
WANTED = 2 * FEWEST
"""Patients that are needed: their halves are compared, too."""
ROUNDS = 200
"""Draws of patients behind the interval of `told_apart`."""


def measure_realism(
    run: Run, known: SliceDataset, target: SliceDataset, segmenter: Segmenter
) -> pd.DataFrame:
    """Measures `REALISM` of a model, and whether it copies training slices.

    Args:
        run: The model, with its refiner if it has one.
        known: Training patients, one slice each.
        target: Patients that the model has not seen, one slice each, `WANTED` or more.
        segmenter: Its features are used where efficientnet_lite0 is not installed.

    Returns:
        A row per set of slices (``drawn``: reconstructions, prior, real, blur, noise) and metric:
        value, low, high (of ``Told_apart``), n, and the network that gave the features.
    """
    if len(target) < WANTED:
        raise DataError(f"{len(target)} patients to compare with drawn hearts; expected {WANTED}")
    real = target.images[:, 0].float()  # of two phases the first
    name, see = _features(segmenter)
    seen = see(known.images[:, :1].float())
    middle, deviation = seen.mean(axis=0), seen.std(axis=0)
    deviation = np.where(deviation > 0, deviation, 1)
    rows = []
    for drawn, images in _sets(run, target.images.float()):
        first, second = real, images
        if drawn == REAL:  # two halves of the patients
            first, second = real[::2], real[1::2]
        scores = cross_validated(first, second)
        one, other = (
            Pictures(
                part.numpy(),
                (see(part[:, None]) - middle) / deviation,
                score,
                nearest_distance(part.numpy(), known.images[:, 0].numpy()),
            )
            for part, score in zip((first, second), scores, strict=True)
        )
        about = {"drawn": drawn, "features": name, "n": len(second)}
        rows += [about | _scored(metric, one, other) for metric in REALISM.values()]
    columns = ["drawn", "metric", "value", "low", "high", "n", "features"]
    return pd.DataFrame(rows).reindex(columns=columns)


def _sets(run: Run, slices: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yields the sets of slices (N, H, W) that are compared with those of patients (N, C, H, W)."""
    real = slices[:, 0]
    yield RECONSTRUCTIONS, reconstruct(run.painter, slices)[:, 0].clamp(0, 1)
    population = Population.of_facts(run.about)
    if population is not None:
        codes = population.draw(len(real), np.random.default_rng(0))
        yield PRIOR, decode(run.painter, codes)[:, 0].clamp(0, 1)
    yield REAL, real
    random = torch.Generator().manual_seed(0)
    yield "blur", torch.from_numpy(gaussian_filter(real.numpy(), (0, BLUR, BLUR)))
    noise = NOISE * torch.randn(real.shape, generator=random)
    yield "noise", (real + noise).clamp(0, 1) * (real > 0)


def _scored(
    metric: Metric[[Pictures, Pictures], float], real: Pictures, drawn: Pictures
) -> dict[str, object]:
    value = metric(real, drawn)
    row: dict[str, object] = {"metric": metric.name, "value": value}
    if metric.name != "Told_apart":
        return row
    samples = (
        [*drawn_rows(draw_patients([str(n) for n in range(len(part.scores))], ROUNDS, seed))]
        for seed, part in enumerate((real, drawn))
    )
    spread = [
        told_apart(real.scores[one], drawn.scores[other])
        for one, other in zip(*samples, strict=True)
    ]
    row["low"], row["high"] = interval(value, np.array(spread), metric.scale)
    return row


def cross_validated(real: Tensor, drawn: Tensor, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores slices by networks that were trained on others to tell drawn from real ones.

    Args:
        real: Slices of patients, (N, H, W).
        drawn: Drawn slices, (M, H, W). Of as many, each lies in the fold of the patient in the same
            place: a reconstruction is never scored by a network that has seen its slice.
        seed: Seed of folds, weights and batches.

    Returns:
        How drawn each slice looks: (N,) and (M,).
    """
    scores = np.zeros(len(real)), np.zeros(len(drawn))
    folds = zip(*(_folds(len(part), seed) for part in (real, drawn)), strict=True)
    for (known, rows), (others, places) in folds:
        network = _trained(real[known], drawn[others], seed)
        for found, part, chosen in zip(scores, (real, drawn), (rows, places), strict=True):
            with torch.no_grad():
                found[chosen] = network(part[chosen, None])[:, 0].numpy()
    return scores


def _folds(count: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    return KFold(min(FOLDS, count), shuffle=True, random_state=seed).split(np.zeros(count))


def _trained(real: Tensor, drawn: Tensor, seed: int) -> nn.Module:
    """Trains a small network on slices (N, H, W) and (M, H, W), moved and turned upside down."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _classifier()
    random = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(network.parameters(), RATE, weight_decay=1e-2)
    network.train()
    for _ in range(STEPS):
        parts = [
            part[torch.randint(len(part), (BATCH // 2,), generator=random)]
            for part in (real, drawn)
        ]
        images = torch.cat(parts)[:, None]
        shift = torch.randint(-6, 7, (2,), generator=random).tolist()
        images = images.roll(shift, (2, 3))
        if torch.rand((), generator=random) < 0.5:
            images = images.flip(2)
        truth = torch.arange(2.0).repeat_interleave(BATCH // 2)
        loss = F.binary_cross_entropy_with_logits(network(images)[:, 0], truth)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.eval()


def _classifier() -> nn.Module:
    layers: list[nn.Module] = []
    for channels, filters in ((1, 16), (16, 32), (32, 64), (64, 64)):
        layers += [nn.Conv2d(channels, filters, 3, stride=2, padding=1)]
        layers += [nn.GroupNorm(8, filters), nn.SiLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 1))


class _Features:
    """Averages the outputs of some layers of a network over the picture, (N, F)."""

    def __init__(
        self, network: nn.Module, layers: Sequence[nn.Module] = (), colours: int = 1
    ) -> None:
        self.network, self.colours = network.eval(), colours
        self.kept: list[Tensor] = []
        for layer in layers:
            layer.register_forward_hook(lambda layer, given, output: self.kept.append(output))

    def __call__(self, images: Tensor) -> np.ndarray:
        found = []
        for chunk in images.split(CHUNK):
            self.kept = []
            with torch.no_grad():
                output = self.network(chunk.expand(-1, self.colours, -1, -1))
            parts = self.kept or output
            found.append(torch.cat([part.mean((2, 3)) for part in parts], dim=1))
        return torch.cat(found).double().numpy()


def _features(segmenter: Segmenter) -> tuple[str, _Features]:
    """Returns the name of a network and what it sees: efficientnet_lite0, or the widest layers of
    the segmenter where its package is not installed."""
    try:
        return "efficientnet_lite0", _Features(PERCEPTUAL["efficientnet_lite0"](), colours=3)
    except DataError:
        network = copy.deepcopy(segmenter.network)  # with hooks of its own
        layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
        widest = max(layer.out_channels for layer in layers)
        return KIND, _Features(network, [x for x in layers if x.out_channels == widest])


@dataclass(frozen=True)
class Realism(Job):
    """The realism of one model on one data set, computed on its own and kept in a folder."""

    about: dict[str, Any]
    part: Part  # the model and the data set
    source: Patients  # its training patients

    @cached_property
    def folder(self) -> Path:
        about = [self.part.folder.name, *self.source[1:]]
        return self.part.parts / fingerprint("realism", about)

    def write(self, folder: Path) -> None:
        part = self.part
        assert part.segmenter is not None
        run = load_run(part.run, part.device, plain=part.plain)
        target, known = part.patients.open(), self.source.open()
        table = measure_realism(run, known, target, part.segmenter)
        write(folder / "realism.csv", csv_text(table))
