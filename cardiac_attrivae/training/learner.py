"""What learns: a network with its loss, targets and slices, and the engines that work on it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from ignite.engine import Events
from ignite.handlers import EarlyStopping
from monai.engines import SupervisedEvaluator
from monai.handlers import ValidationHandler
from torch import Tensor, nn

from ..data.loader import DeviceLoader, Readable, read_ahead
from ..data.store import SliceDataset
from ..metrics.calibration import calibration_lines
from ..metrics.population import population_facts
from ..models.conditional import told
from ..models.independence import code_layers, decorrelate, fixed_of
from ..models.networks import build_network, recalibrate
from ..models.vae import VAE
from ..runtime.distributed import barrier, from_first, is_first, share, synchronise
from ..schema import Keys, LatentTable
from .augmentation import AttributeTargets, Augmenter, prepared
from .batches import conditions
from .config import Augmentation, Pipeline
from .engines import Augment, NetworkTrainer, VAEEvaluator
from .guidance import Guidance, Guide
from .objectives import AttributeObjective
from .optimisation import average_of, compile_passes, scheduler_of
from .pictures import draw_run
from .run import Run, encode, memory_format, place
from .scores import LossTerms, make_evaluator
from .shape_fit import begin_with_shapes


class Learner:
    """A network in training; what is trained on which slices, a subclass says.

    Args:
        pipeline: What to train; it says nothing that contradicts the slices, see `fitted`.
        train: Slices to train on.
        device: Where to train.
        seed: Seed of the initial weights, the order of slices, noise and augmentation.

    Attributes:
        network: Whose weights the steps change.
        averaged: Running average of its weights; None without one.
        model: What is evaluated and saved: the average if there is one, else the network.
        loss: The loss function.
        generator: The run's only source of randomness after the initial weights.
        known: Slices that the statistics of batch norm are estimated on.
        guide: What is looked through at drawn slices, if the objective is guided; set before the
            trainer is made.
        base: The run whose pictures are painted over, if the objective does that; set before, too.

    Raises:
        ValueError: If network, objective and attributes do not fit together.
    """

    known: Readable
    loss: nn.Module
    guide: Guide | None = None
    base: Run | None = None
    SUMMARISED: tuple[str, ...] = ()
    """Which of the `findings` summary.json has, too."""

    def __init__(
        self, pipeline: Pipeline, train: SliceDataset, device: torch.device, seed: int
    ) -> None:
        torch.manual_seed(seed)
        self.pipeline, self.train, self.device = pipeline, train, device
        network = _network_for(pipeline, train)
        place(network, device, pipeline)
        synchronise(network)
        self.network, self.averaged = network, average_of(network, pipeline.optimiser.average)
        self.model = cast(VAE, self.averaged.module) if self.averaged else network
        if pipeline.speed.compile:
            compile_passes(network)
        self.generator = torch.Generator(device).manual_seed(seed + 1)

    def make_loss(self) -> nn.Module:
        """Builds the loss; the first process may have to download a perceptual network."""
        if not is_first():
            barrier()
        loss = self.pipeline.objective.make_loss().to(self.device)
        if is_first():
            barrier()
        return loss

    def training_loader(self) -> DeviceLoader:
        """Makes the batches of an epoch."""
        raise NotImplementedError

    def augmenter(self) -> Augment | None:
        """Changes batches; None leaves them as they are."""
        raise NotImplementedError

    def begin(self) -> None:
        """Does what is done once to a new network, before its trainer is made."""

    def make_trainer(self, handlers: Sequence[Any] = ()) -> NetworkTrainer:
        """Builds the engine that trains the network.

        Args:
            handlers: Attached to it besides `LossTerms`.
        """
        pipeline, loader = self.pipeline, self.training_loader()
        self._hold_guide()
        trainer = pipeline.objective.make_trainer(
            pipeline,
            self.network,
            device=self.device,
            max_epochs=pipeline.schedule.epochs,
            train_data_loader=loader,
            epoch_length=len(loader),
            loss_function=self.loss,
            generator=self.generator,
            augment=self.augmenter(),
            averaged=self.averaged,
            precision=getattr(torch, pipeline.precision),
            memory_format=memory_format(pipeline),
            train_handlers=[LossTerms(), *handlers],
            **self.trainer_options(),
        )
        trainer.schedulers = tuple(
            scheduler_of(optimiser, len(loader), pipeline)
            for optimiser in trainer.optimisers.values()
        )
        return trainer

    def _hold_guide(self) -> None:
        """Fills the guide into a network that has a place for it, where it stays frozen."""
        if self.guide is None:
            return
        for network in (self.network, self.model):
            place = getattr(network, "guide", None)
            if place is not None:
                place.load_state_dict(self.guide.network.state_dict())

    def trainer_options(self) -> dict[str, Any]:
        """Arguments of the trainer that not every trainer takes."""
        return {}

    def make_evaluator(self, val: SliceDataset) -> SupervisedEvaluator:
        """Builds the engine that scores the model on slices."""
        raise NotImplementedError

    def parts(self, trainer: NetworkTrainer) -> dict[str, Any]:
        """All that a step changes, by its name in a checkpoint."""
        parts: dict[str, Any] = {"network": self.network, "averaged": self.averaged}
        parts["guide"] = self.guide
        parts |= trainer.targets
        for (name, optimiser), scheduler in zip(
            trainer.optimisers.items(), trainer.schedulers, strict=True
        ):
            parts |= {name: optimiser, name.replace("optimiser", "scheduler"): scheduler}
        return {name: part for name, part in parts.items() if part is not None}

    def recalibrate(self) -> None:
        """Estimates batch norm's running statistics on the `known` slices."""
        if self.pipeline.bn_recalibrate:
            count = len(self.known)
            batches = torch.arange(count).tensor_split(math.ceil(count / 64))
            mine = (rows[share(len(rows))] for rows in batches)
            recalibrate(self.model, self._known_images(mine))

    def complete(self) -> None:
        """Does what is done once to the weights that are kept, in every process."""
        self.recalibrate()

    def _known_images(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """Known slices (n, C, H, W) on the device, for each batch of rows (n,)."""
        for slices in read_ahead(self.known, batches, self.device):
            yield slices[Keys.IMAGE]

    def facts(self) -> dict[str, Any]:
        """What the model says of its training, but for what depends on its weights."""
        return {}

    def findings(self) -> dict[str, Any]:
        """What the model says of itself, that depends on its weights."""
        return {}

    def draw(
        self, folder: Path, history: Sequence[Mapping[str, float]], val: SliceDataset
    ) -> list[Path]:
        """Draws the pictures of a run; returns their paths."""
        raise NotImplementedError


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
            "shapes": getattr(self.network, "shapes", 0),
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
        names = self.pipeline.attributes
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


def _network_for(pipeline: Pipeline, train: SliceDataset) -> VAE:
    try:
        return build_network(pipeline.network.name, **pipeline.network.arguments)
    except ValueError as error:
        if "image_size" not in str(error):
            raise
        size = train.image_size
        raise ValueError(
            f"{train.folder} has slices of {size} x {size} pixels, but {error}. Preprocess with "
            "another --size"
        ) from None


def attach_validation(
    trainer: NetworkTrainer, evaluator: SupervisedEvaluator, pipeline: Pipeline
) -> EarlyStopping | None:
    """Validates every few epochs and after the last one.

    Returns:
        What stops the training after ``schedule.patience`` epochs without a better loss; None if
        the pipeline asks for no patience.
    """
    schedule, interval = pipeline.schedule, pipeline.schedule.evaluate_every
    ValidationHandler(interval, evaluator, True).attach(trainer)
    if schedule.epochs % interval:
        ValidationHandler(schedule.epochs, evaluator, True).attach(trainer)
    if not schedule.patience:
        return None
    stopping = EarlyStopping(
        max(1, schedule.patience // interval),
        lambda engine: -from_first(validation_loss(evaluator), trainer.state.device),
        trainer,
    )
    evaluator.add_event_handler(Events.COMPLETED, stopping)
    return stopping


def validation_loss(evaluator: SupervisedEvaluator) -> float:
    """The loss of the last validation."""
    return evaluator.state.metrics["loss"]
