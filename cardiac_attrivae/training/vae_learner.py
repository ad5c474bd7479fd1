"""What learns to encode and draw: an autoencoder, its first codes on attributes, and slices."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from torch import Tensor

from ..data.loader import DeviceLoader
from ..data.store import SliceDataset
from ..metrics.calibration import calibration_lines
from ..metrics.patients import LEAST
from ..metrics.population import population_facts
from ..models.conditional import told
from ..models.independence import code_layers, decorrelate, fixed_of
from ..models.vae import VAE
from ..runtime.messages import counted
from ..schema import Keys, LatentTable
from .augmentation import AttributeTargets, Augmenter, prepared
from .batches import conditions
from .config import Augmentation, Pipeline
from .engines import Augment, NetworkTrainer, VAEEvaluator
from .guidance import Guidance
from .learner import Learner
from .objectives import AttributeObjective
from .pictures import draw_run
from .run import encode
from .scores import make_evaluator
from .shape_fit import begin_with_shapes


class VAELearner(Learner):
    """An autoencoder in training, its first codes on attributes; see `Learner`.

    Attributes:
        known: The most basal slice of each training patient.
        targets: Standardised attributes of the slices.
    """

    known: SliceDataset
    SUMMARISED: tuple[str, ...] = ("calibration",)

    def __init__(
        self, pipeline: Pipeline, train: SliceDataset, device: torch.device, seed: int
    ) -> None:
        super().__init__(pipeline, train, device, seed)
        self.known = train.basal()
        count = {
            "attributes": len(pipeline.attributes),
            "shapes and brightness": getattr(self.network, "fixed", 0),
        }
        if self.network.latent_size < sum(count.values()):
            asked = " and ".join(f"{number} {what}" for what, number in count.items() if number)
            raise ValueError(
                f"{asked} for {self.network.latent_size} latent dimensions; expected at least one "
                "for each: raise network.arguments.latent_size or name fewer"
            )
        if pipeline.decorrelate:
            code_layers(self.network)  # refused now, not after the training
        self.targets = AttributeTargets(train, pipeline.attributes, pipeline.data.residual)
        self.loss = self.make_loss()

    def training_loader(self) -> DeviceLoader:
        data, steps = self.pipeline.data, self.pipeline.schedule
        weights = None
        if data.basal_weight or steps.steps_per_epoch:
            weights = np.where(self.train.is_basal, data.basal_weight or 1.0, 1.0)
        return DeviceLoader(
            self.train,
            self.targets.values,
            data.batch_size,
            self.device,
            self.generator,
            weights,
            steps.steps_per_epoch or None,
            prepared if self._augments else dict,
            more=self.columns(self.train),
        )

    def columns(self, slices: SliceDataset) -> dict[str, np.ndarray]:
        """Values of cases.csv that are learnt from, (N, ...) by their key in a batch."""
        return conditions(self.network, slices.cases)

    def _known_images(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """See `Learner`; the networks are told the categories of the slices meanwhile."""
        batches = [*batches]
        columns = self.columns(self.known)
        for rows, images in zip(batches, super()._known_images(batches), strict=True):
            condition = None
            if Keys.CONDITION in columns:
                condition = torch.from_numpy(columns[Keys.CONDITION])[rows]
            with told(self.network, condition), told(self.model, condition):
                yield images

    @property
    def _augments(self) -> bool:
        return self.pipeline.augmentation != Augmentation()

    def augmenter(self) -> Augment | None:
        if not self._augments:
            return None
        return Augmenter(self.train, self.targets, self.pipeline.augmentation, self.device)

    def make_evaluator(self, val: SliceDataset) -> VAEEvaluator:
        """Builds the engine that scores the model on slices."""
        names, patients = self.pipeline.attributes, val.cases["case"].nunique()
        if names and patients < LEAST:
            warnings.warn(
                f"{counted(patients, 'validation patient')} of {val.folder}: training shows no "
                f"Interpretability, which needs {LEAST}",
                stacklevel=2,
            )
        evaluator = make_evaluator(
            self.model,
            val,
            names,
            dimensions=self.pipeline.dimensions(names),
            device=self.device,
            standardised=self.targets.standardise(val.attributes(names)),
            loss_function=self.loss,
            more=self.columns(val),
        )
        evaluator.add_event_handler(Events.STARTED, self.recalibrate)
        return evaluator

    def trainer_options(self) -> dict[str, Any]:
        objective = self.pipeline.objective
        if self.guide is None or not isinstance(objective, AttributeObjective):
            return {}
        if not objective.is_guided:  # the guide is there for the network alone
            return {}
        names = self.pipeline.attributes
        terms = Guidance(self.guide, objective, names, self.known, self.device)
        return {"guidance": terms, "guided_from": objective.guided_from}

    def begin(self) -> None:
        begin_with_shapes(self.network, self.train, self.targets)

    def make_trainer(self, handlers: Sequence[Any] = ()) -> NetworkTrainer:
        trainer = super().make_trainer(handlers)
        if trainer.guidance is not None and self.pipeline.decorrelate and self._trained:
            trainer.add_event_handler(Events.EPOCH_STARTED, self._follow_codes, trainer.guidance)
        return trainer

    def _follow_codes(self, guidance: Guidance) -> None:
        codes = self._basal_codes(self.network)
        guidance.follow(codes, self._trained, fixed_of(self.network))

    @property
    def _trained(self) -> list[int]:
        """Dimensions that attributes are trained on."""
        names = self.pipeline.attributes
        return [d for d in self.pipeline.dimensions(names) if d is not None]

    def complete(self) -> None:
        super().complete()
        if self.pipeline.decorrelate:
            decorrelate(self.model, self.basal_codes(), self._trained)

    def basal_codes(self) -> np.ndarray:
        """Codes of the training patients' basal slices, (N, D)."""
        return self._basal_codes(self.model)

    def _basal_codes(self, network: VAE) -> np.ndarray:
        batches = self._known_images(torch.arange(len(self.known)).split(64))
        return np.concatenate([encode(network, images)[0] for images in batches])

    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "attribute_mean": self.targets.mean.tolist(),
            "attribute_deviation": self.targets.deviation.tolist(),
        }
        perceptual = getattr(self.loss, "perceptual", None)
        if perceptual is not None:
            facts["perceptual"] = {"name": perceptual.name, "sha256": perceptual.digest}
        return facts | (self.guide.facts() if self.guide else {})

    def findings(self) -> dict[str, Any]:
        """Mean and deviation of the codes of the `known` slices, (D,), and what codes mean."""
        codes, names = self.basal_codes(), self.pipeline.attributes
        table = LatentTable(
            tuple(self.known.cases["case"]),
            codes,
            self.known.attributes(names),
            names,
            self.pipeline.dimensions(names),
        )
        return {
            "code_mean": codes.mean(axis=0).tolist(),
            "code_deviation": codes.std(axis=0).tolist(),
            "calibration": calibration_lines(table),
            "population": population_facts(codes),
        }

    def draw(
        self, folder: Path, history: Sequence[Mapping[str, float]], val: SliceDataset
    ) -> list[Path]:
        codes = self.basal_codes()
        statistics = {"code_mean": codes.mean(axis=0), "code_deviation": codes.std(axis=0)}
        slices, names = val if len(val) else self.known, self.pipeline.attributes
        return draw_run(folder, history, self.model, slices, names, statistics)
