"""What learns to outline hearts: a network, and whole pictures with their neighbours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch

from ..data.known_pictures import picture_digests
from ..data.loader import DeviceLoader
from ..data.store import SliceDataset, Slices
from ..models.scan_unet import ScanUNet
from ..report.curves import training_curves
from ..schema import Keys
from .config import Pipeline
from .engines import Augment
from .learner import Learner
from .objectives import SegmentationObjective
from .scan_augmentation import ScanAugmenter
from .scan_engines import FrameDice, SegmentationEvaluator
from .scores import LossTerms

VALIDATED = 8
"""Whole slices in a batch of validation: they are larger than the windows of training."""


class WithNeighbours:
    """Slices of a store of whole pictures, with the slices before and after as channels.

    Args:
        slices: Rows of one frame lie together, in the order of the slices.
        context: Odd number of channels; the ends of a stack are repeated.
    """

    def __init__(self, slices: SliceDataset, context: int) -> None:
        self.slices, half = slices, context // 2
        frames = slices.cases.groupby(["case", "phase"], sort=False).indices.values()
        self.rows = np.zeros((len(slices), context), dtype=int)
        for rows in frames:
            places = np.arange(len(rows))[:, None] + np.arange(-half, half + 1)
            self.rows[rows] = rows[places.clip(0, len(rows) - 1)]

    def __len__(self) -> int:
        return len(self.slices)

    @property
    def nbytes(self) -> int:
        pixels, context = self.slices.image_size**2, self.rows.shape[1]
        return len(self) * pixels * (4 * context + 1)

    def read(self, rows: np.ndarray) -> Slices:
        """Copies rows: IMAGE, (n, context, H, W), and LABEL of the slice in the middle."""
        around = self.rows[np.asarray(rows, dtype=int)]
        read = self.slices.read(around.ravel())
        images, labels = read[Keys.IMAGE], read[Keys.LABEL]
        context, side = around.shape[1], images.shape[-1]
        return {
            Keys.IMAGE: images.reshape(len(around), context, side, side),
            Keys.LABEL: labels[context // 2 :: context],
        }


class ScanLearner(Learner):
    """A network that outlines hearts, in training; see `Learner`."""

    def __init__(
        self, pipeline: Pipeline, train: SliceDataset, device: torch.device, seed: int
    ) -> None:
        super().__init__(pipeline, train, device, seed)
        self.context = cast(ScanUNet, self.network).context
        self.known = WithNeighbours(train, self.context)
        self.loss = self.make_loss()

    def training_loader(self) -> DeviceLoader:
        steps, count = self.pipeline.schedule.steps_per_epoch, len(self.train)
        return DeviceLoader(
            self.known,
            np.zeros((count, 0)),
            self.pipeline.data.batch_size,
            self.device,
            self.generator,
            np.ones(count) if steps else None,
            steps or None,
        )

    def augmenter(self) -> Augment:
        objective = cast(SegmentationObjective, self.pipeline.objective)
        return ScanAugmenter(objective, self.pipeline.augmentation)

    def make_evaluator(self, val: SliceDataset) -> SegmentationEvaluator:
        slices = WithNeighbours(val, self.context)
        return SegmentationEvaluator(
            device=self.device,
            val_data_loader=DeviceLoader(
                slices, np.zeros((len(val), 0)), VALIDATED, self.device, resident=False
            ),
            epoch_length=math.ceil(len(val) / VALIDATED),
            network=self.model,
            loss_function=self.loss,
            val_handlers=[LossTerms(), FrameDice(val.cases)],
        )

    def facts(self) -> dict[str, Any]:
        frames = self.train.cases.groupby(["case", "phase"], sort=False).indices.values()
        pictures = (self.train.read(np.asarray(rows))[Keys.IMAGE][:, 0].numpy() for rows in frames)
        known = set().union(*map(picture_digests, pictures))
        return {"outlines": "whole pictures", "train_pictures": sorted(known)}

    def draw(
        self, folder: Path, history: Sequence[Mapping[str, float]], val: SliceDataset
    ) -> list[Path]:
        folder.mkdir(exist_ok=True)
        if history:
            few = pd.DataFrame(history).filter(regex=r"^[^/]*$")
            training_curves(few, folder / "training_curves.png")
        return sorted(folder.glob("*.png"))
