"""What learns: a network with its loss, targets and slices, and the engines that work on it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from ignite.engine import Events
from ignite.handlers import EarlyStopping
from monai.engines import SupervisedEvaluator
from monai.handlers import ValidationHandler
from torch import Tensor, nn

from ..data.loader import DeviceLoader, Readable, read_ahead
from ..data.store import SliceDataset
from ..models.networks import build_network, recalibrate
from ..models.vae import VAE
from ..runtime.distributed import barrier, from_first, is_first, share, synchronise
from ..schema import Keys
from .config import Pipeline
from .engines import Augment, NetworkTrainer
from .guidance import Guide
from .optimisation import average_of, compile_passes, scheduler_of
from .run import Run, memory_format, place
from .scores import LossTerms


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


def _network_for(pipeline: Pipeline, train: SliceDataset) -> VAE:
    try:
        return build_network(pipeline.network.name, **pipeline.network.arguments)
    except ValueError as error:
        if "image_size" not in str(error):
            raise
        size = train.image_size
        raise ValueError(
            f"{train.folder} has slices of {size} x {size} pixels, but {error}. Preprocess with "
            "another --size (size=)"
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
