"""What learns to paint: a refiner, slices, and the run whose pictures it paints over."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from torch import Generator, nn

from ..data.loader import DeviceLoader
from ..data.store import SliceDataset, Slices
from ..models.refiner import Refiner
from ..report.curves import training_curves
from ..report.slices import methods_side_by_side
from ..report.style import stacked
from ..runtime.weights import weights_digest
from ..schema import DataError, Keys
from .config import Augmentation, Pipeline
from .engines import Augment
from .learner import Learner
from .objectives import RefinerObjective
from .pictures import SHOWN
from .refiner_engines import FlowLoss, RefinerEvaluator
from .run import Run, reconstruct
from .scores import ImageFidelity, LossTerms

VALIDATED = 16
"""Slices in a batch of validation: on a CPU their layers stay in its cache."""


class RefinerLearner(Learner):
    """A refiner in training; see `Learner`."""

    loss: FlowLoss

    def __init__(
        self, pipeline: Pipeline, train: SliceDataset, device: torch.device, seed: int
    ) -> None:
        super().__init__(pipeline, train, device, seed)
        if pipeline.augmentation != Augmentation():
            raise ValueError(
                "a refiner learns the texture of slices, which augmentation blurs; leave it out, "
                "objective.shift and objective.mirrored move slices by whole pixels"
            )
        self.known = train
        self.loss = cast(FlowLoss, self.make_loss())

    @property
    def run(self) -> Run:
        """The run whose pictures are painted over."""
        assert self.base is not None
        return self.base

    def training_loader(self) -> DeviceLoader:
        data, steps = self.pipeline.data, self.pipeline.schedule.steps_per_epoch
        weights = None
        if data.basal_weight or steps:
            weights = np.where(self.train.is_basal, data.basal_weight or 1.0, 1.0)
        return DeviceLoader(
            self.train,
            np.zeros((len(self.train), 0)),
            data.batch_size,
            self.device,
            self.generator,
            weights,
            steps or None,
        )

    def augmenter(self) -> Augment:
        objective = cast(RefinerObjective, self.pipeline.objective)

        def moved(batch: Slices, generator: Generator) -> Slices:
            return moved_by_pixels(batch, objective.shift, objective.mirrored, generator)

        return moved

    def trainer_options(self) -> dict[str, Any]:
        return {"base": self.run.network}

    def make_evaluator(self, val: SliceDataset) -> RefinerEvaluator:
        values = np.zeros((len(val), 0))
        return RefinerEvaluator(
            device=self.device,
            val_data_loader=DeviceLoader(val, values, VALIDATED, self.device, resident=False),
            epoch_length=math.ceil(len(val) / VALIDATED),
            network=cast(nn.Module, self.model),
            base=self.run.network,
            loss_function=self.loss,
            val_handlers=[LossTerms(), ImageFidelity()],
        )

    def facts(self) -> dict[str, Any]:
        return {"base": about_base(self.run)} | (self.guide.facts() if self.guide else {})

    def draw(
        self, folder: Path, history: Sequence[Mapping[str, float]], val: SliceDataset
    ) -> list[Path]:
        """Draws training_curves.png, and painted.png: slices above what the VAE and the refiner
        make of them."""
        folder.mkdir(exist_ok=True)
        if history:
            training_curves(pd.DataFrame(history), folder / "training_curves.png")
        slices = val if len(val) else self.train.basal()
        slices = slices.take(range(min(SHOWN, len(slices))))
        refiner = cast(Refiner, self.model).eval()
        drawn = {
            method: stacked(reconstruct(network, slices.images).numpy())
            for method, network in (
                (self.run.pipeline.method, self.run.network),
                ("painted", self.run.painted(refiner)),
            )
        }
        captions = slices.cases["case"].tolist()
        originals = stacked(slices.images.numpy())
        methods_side_by_side(originals, drawn, captions, folder / "painted.png")
        return sorted(folder.glob("*.png"))


def moved_by_pixels(batch: Slices, shift: int, mirrored: float, generator: Generator) -> Slices:
    """Moves slices by whole pixels and turns a share of them upside down; nothing is interpolated.

    IMAGE is (N, C, H, W). What leaves on one side comes back on the other.

    Example:
        >>> row = {Keys.IMAGE: torch.arange(4.0).reshape(1, 1, 4, 1)}
        >>> moved = moved_by_pixels(row, 0, 1.0, Generator().manual_seed(0))
        >>> moved[Keys.IMAGE].ravel().tolist()
        [3.0, 2.0, 1.0, 0.0]
    """
    image = batch[Keys.IMAGE]
    n, device = len(image), image.device
    turned = torch.rand(n, generator=generator, device=device) < mirrored
    places = torch.randint(-shift, shift + 1, (n, 2), generator=generator, device=device)
    image = torch.where(turned[:, None, None, None], image.flip(2), image)
    moved = [
        one.roll((int(down), int(right)), (1, 2))
        for one, (down, right) in zip(image, places.tolist(), strict=True)
    ]
    return batch | {Keys.IMAGE: torch.stack(moved)}


def about_base(base: Run) -> dict[str, str]:
    """What names the run that a refiner belongs to: its method, and the hash of its weights."""
    weights = base.network.state_dict()
    return {"method": base.pipeline.method, "sha256": weights_digest(weights)}


def check_base(base: Run, train: SliceDataset) -> None:
    """Refuses training slices with patients that the run of a refiner was not trained on: they
    would count as unseen."""
    known = base.about.get("train_cases")
    if not isinstance(known, dict):
        raise DataError(f"{base.folder} does not say which patients it was trained on; train again")
    if not train.fingerprints().items() <= known.items():
        raise DataError(
            f"{base.folder} was trained on other patients or slices than the train split of "
            f"{train.folder}; give the store that it was trained on"
        )
