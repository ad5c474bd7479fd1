"""What learns: a network with its loss, targets and slices, and the engines that work on it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from ignite.engine import Events
from ignite.handlers import EarlyStopping
from monai.handlers import ValidationHandler
from torch import Tensor, nn

from ..data.loader import DeviceLoader, read_ahead
from ..data.store import SliceDataset
from ..models.networks import build_network, network_class, recalibrate
from ..models.vae import VAE
from ..runtime.distributed import barrier, from_first, is_first, share, synchronise
from ..schema import Keys
from .augmentation import AttributeTargets, Augmenter, prepared
from .config import Augmentation, Pipeline
from .engines import NetworkTrainer, VAEEvaluator
from .optimisation import average_of, compile_passes, scheduler_of
from .run import encode, memory_format, place
from .scores import LossTerms, make_evaluator


class Learner:
    """A network in training.

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
        targets: Standardised attributes of the slices.
        generator: The run's only source of randomness after the initial weights.

    Raises:
        ValueError: If network, objective and attributes do not fit together.
    """

    def __init__(
        self, pipeline: Pipeline, train: SliceDataset, device: torch.device, seed: int
    ) -> None:
        torch.manual_seed(seed)
        self.pipeline, self.train, self.basal, self.device = pipeline, train, train.basal(), device
        network = _network_for(pipeline, train)
        place(network, device, pipeline)
        synchronise(network)
        if network.latent_size < len(pipeline.attributes):
            raise ValueError(
                f"{len(pipeline.attributes)} attributes for {network.latent_size} latent dimensions"
            )
        self.network, self.averaged = network, average_of(network, pipeline.optimiser.average)
        self.model = cast(VAE, self.averaged.module) if self.averaged else network
        if pipeline.speed.compile:
            compile_passes(network)
        self.generator = torch.Generator(device).manual_seed(seed + 1)
        self.targets = AttributeTargets(train, pipeline.attributes, pipeline.data.residual)
        self.loss = self._loss()

    def _loss(self) -> nn.Module:
        if not is_first():
            barrier()  # the first process may have to download the weights of a perceptual network
        loss = self.pipeline.objective.make_loss().to(self.device)
        if is_first():
            barrier()
        return loss

    def make_trainer(self, handlers: Sequence[Any] = ()) -> NetworkTrainer:
        """Builds the engine that trains the network.

        Args:
            handlers: Attached to it besides `LossTerms`.
        """
        pipeline, data, steps = self.pipeline, self.pipeline.data, self.pipeline.schedule
        augmented = pipeline.augmentation != Augmentation()
        weights = None
        if data.basal_weight or steps.steps_per_epoch:
            weights = np.where(self.train.is_basal, data.basal_weight or 1.0, 1.0)
        loader = DeviceLoader(
            self.train,
            self.targets.values,
            data.batch_size,
            self.device,
            self.generator,
            weights,
            steps.steps_per_epoch or None,
            prepared if augmented else dict,
        )
        trainer = pipeline.objective.make_trainer(
            pipeline,
            self.network,
            device=self.device,
            max_epochs=steps.epochs,
            train_data_loader=loader,
            epoch_length=len(loader),
            loss_function=self.loss,
            generator=self.generator,
            augment=Augmenter(self.train, self.targets, pipeline.augmentation, self.device)
            if augmented
            else None,
            averaged=self.averaged,
            precision=getattr(torch, pipeline.precision),
            memory_format=memory_format(pipeline),
            train_handlers=[LossTerms(), *handlers],
        )
        trainer.schedulers = tuple(
            scheduler_of(optimiser, len(loader), pipeline)
            for optimiser in trainer.optimisers.values()
        )
        return trainer

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
        )
        evaluator.add_event_handler(Events.STARTED, self.recalibrate)
        return evaluator

    def parts(self, trainer: NetworkTrainer) -> dict[str, Any]:
        """All that a step changes, by its name in a checkpoint."""
        parts: dict[str, Any] = {"network": self.network, "averaged": self.averaged}
        for (name, optimiser), scheduler in zip(
            trainer.optimisers.items(), trainer.schedulers, strict=True
        ):
            parts |= {name: optimiser, name.replace("optimiser", "scheduler"): scheduler}
        return {name: part for name, part in parts.items() if part is not None}

    def recalibrate(self) -> None:
        """Estimates batch norm's running statistics on the training patients' basal slices."""
        if self.pipeline.bn_recalibrate:
            count = len(self.basal)
            batches = torch.arange(count).tensor_split(math.ceil(count / 64))
            mine = (rows[share(len(rows))] for rows in batches)
            recalibrate(self.model, self._basal_images(mine))

    def code_statistics(self) -> dict[str, np.ndarray]:
        """Mean and standard deviation of the codes of the training patients' basal slices, (D,)."""
        codes = self.basal_codes()
        return {"code_mean": codes.mean(axis=0), "code_deviation": codes.std(axis=0)}

    def basal_codes(self) -> np.ndarray:
        """Codes of the training patients' basal slices, (N, D)."""
        batches = self._basal_images(torch.arange(len(self.basal)).split(64))
        return np.concatenate([encode(self.model, images)[0] for images in batches])

    def _basal_images(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """Basal slices (n, C, H, W) on the device, for each batch of rows (n,)."""
        read = read_ahead(self.basal, batches, self.device)
        return (slices[Keys.IMAGE] for slices in read)


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


def fitted(pipeline: Pipeline, store: SliceDataset) -> Pipeline:
    """A pipeline whose network is of the size and channels of a store's slices.

    Args:
        pipeline: It need not name them; where it does, they must be those of the store.
        store: Slices to train on.

    Raises:
        ValueError: If the pipeline names other ones, or there is no such network.
    """
    name, arguments = pipeline.network.name, dict(pipeline.network.arguments)
    for key, found in (("image_size", store.image_size), ("channels", store.channels)):
        if arguments.get(key, found) != found:
            raise ValueError(
                f"network.arguments.{key} is {arguments[key]}, but {store.folder} has {found}; "
                f"leave {key} out of the pipeline, the store says it"
            )
        parameter = inspect.signature(network_class(name)).parameters.get(key)
        # one channel, which networks expect unless told otherwise, is not written down
        if parameter is not None and (key == "image_size" or parameter.default != found):
            arguments[key] = found
    return replace(pipeline, network=replace(pipeline.network, arguments=arguments))


def attach_validation(
    trainer: NetworkTrainer, evaluator: VAEEvaluator, pipeline: Pipeline
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


def validation_loss(evaluator: VAEEvaluator) -> float:
    """The loss of the last validation."""
    return evaluator.state.metrics["loss"]
