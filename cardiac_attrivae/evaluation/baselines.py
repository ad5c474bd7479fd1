"""Trivial baselines: how well attributes are read without any model of the heart.

A slice is cut out by the mask whose areas are read, so its outline alone says much about them.
Three readings show how much: the number of pixels in the crop, a ridge regression on a coarse
picture, and areas that a segmenter measures. A code that reads no better has learned little.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from sklearn.linear_model import LinearRegression, RidgeCV
from torch import Tensor

from ..attributes import drawn, is_area
from ..data.store import SliceDataset, areas
from ..metrics.catalogue import unit_of
from ..metrics.intervals import with_mean
from ..metrics.metric import Score
from ..metrics.patients import FEWEST, LEAST, draw_patients, drawn_rows
from ..metrics.prediction import AGREEMENT, agreement
from ..report.methods import BASELINE
from ..runtime.files import write
from ..runtime.spreadsheet import csv_text
from ..schema import HEART, Keys
from ..segmentation.judge import Segmenter
from .parts import Job, Patients, fingerprint

COARSE = 16
"""Pixels along a side of the coarse picture."""
CHUNK = 64

PIXELS = f"{BASELINE}pixel count"
RIDGE = f"{BASELINE}ridge on {COARSE} x {COARSE} pixels"
SEGMENTED = f"{BASELINE}areas by U-Net"


class Features(NamedTuple):
    """What baselines see of N slices, one per patient."""

    pixels: np.ndarray  # number of pixels that are not black, of each channel, (N, C)
    coarse: np.ndarray  # the picture at `COARSE` x `COARSE` pixels, (N, C COARSE^2)
    # areas of LV, MYO and RV in cm2 that a segmenter measures, at each phase, (N, 3 C)
    segmented: np.ndarray


def features(dataset: SliceDataset, segmenter: Segmenter) -> Features:
    """Computes what baselines see, a few slices at a time."""
    parts = []
    for rows in torch.arange(len(dataset)).split(CHUNK):
        images = dataset.read(rows.numpy())[Keys.IMAGE]
        pixels = (images > 0).sum((2, 3)).double()
        segmented = areas(segmenter(images), dataset.scale)
        parts.append(Features(pixels.numpy(), coarse(images), segmented))
    return Features(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def coarse(images: Tensor) -> np.ndarray:
    """Averages slices (N, C, H, W) to `COARSE` x `COARSE` pixels of each channel, as rows."""
    return F.adaptive_avg_pool2d(images, COARSE).flatten(1).double().numpy()


def ridge() -> RidgeCV:
    """Makes the regression on coarse pictures; it chooses its penalty on those it is fitted on.

    Pixels stay in [0, 1], their common unit: standardising would blow up those at the border of the
    heart, which are black in most patients. `benchmarks/baselines.py` measures both.
    """
    return RidgeCV(alphas=np.logspace(-4, 4, 17))


def readings(source: Features, known: np.ndarray, target: Features, name: str) -> dict[str, Any]:
    """Reads one attribute of the target with every baseline, fitted on the source.

    Areas by the segmenter in single slices are taken as they are, other attributes are read off
    what it measures by a linear regression.

    Args:
        source: What is seen of training patients.
        known: Their attribute, (N,).
        target: What is seen of the patients to read.
        name: Attribute.

    Returns:
        Name of the baseline -> attribute of the target patients, (M,).
    """
    single = target.segmented.shape[1] == len(HEART) * target.pixels.shape[1]
    if is_area(name) and single:
        own = drawn(name, target.segmented)
    else:
        own = LinearRegression().fit(source.segmented, known).predict(target.segmented)
    return {
        PIXELS: LinearRegression().fit(source.pixels, known).predict(target.pixels),
        RIDGE: ridge().fit(source.coarse, known).predict(target.coarse),
        SEGMENTED: own,
    }


def scores_of(
    predicted: np.ndarray, measured: np.ndarray, names: tuple[str, ...], cases: tuple[str, ...],
    rounds: int,
) -> list[Score]:  # fmt: skip
    """Scores readings (M, K) of M patients by `AGREEMENT`, with intervals if there are 8."""
    values = agreement(predicted, measured)
    drawn = np.full((1, *values.shape), np.nan)
    if len(cases) >= FEWEST:
        rows = drawn_rows(draw_patients(cases, rounds))
        drawn = np.array([agreement(predicted[row], measured[row]) for row in rows])
    found = []
    for k, metric in enumerate(AGREEMENT):
        scores = with_mean(metric, names, cases, values[k], drawn[:, k], [None] * len(names))
        found += scores if metric == "R2" else scores[:-1]  # a mean of units means nothing
    return found


@dataclass(frozen=True)
class Baselines(Job):
    """All baselines of one data set, fitted on the training patients of another or the same."""

    parts: Path  # folder that keeps all parts
    about: dict[str, Any]  # values of the columns that say where it was fitted and scored
    source: Patients  # patients to fit on
    target: Patients  # patients to score
    names: tuple[str, ...]  # attributes
    rounds: int  # draws of patients behind each interval
    segmenter: Segmenter  # trained on the store of the source
    judge: str  # digest of its weights

    @cached_property
    def folder(self) -> Path:
        facts = [*self.source[1:], *self.target[1:], self.names, self.rounds, self.judge]
        return self.parts / fingerprint("baselines", facts)

    def write(self, folder: Path) -> None:
        source, target = self.source.open(), self.target.open()
        seen, new = (features(dataset, self.segmenter) for dataset in (source, target))
        known, measured = (dataset.measured(self.names) for dataset in (source, target))
        read = [readings(seen, known[:, k], new, name) for k, name in enumerate(self.names)]
        cases, tables = tuple(target.cases["case"]), []
        for baseline in read[0] if len(cases) >= LEAST else ():
            predicted = np.column_stack([values[baseline] for values in read])
            rows = scores_of(predicted, measured, self.names, cases, self.rounds)
            table = pd.DataFrame([row._asdict() for row in rows])
            table["unit"] = [unit_of(row.metric, row.attribute) for row in rows]
            tables.append(table.assign(model=baseline, method=baseline))
        metrics = pd.concat(tables) if tables else pd.DataFrame(columns=["model", "metric"])
        write(folder / "metrics.csv", csv_text(metrics))
