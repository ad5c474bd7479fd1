"""Trains and scores a classifier together with the codes that it reads."""

from __future__ import annotations

from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from monai.engines import Trainer

from ..models.classifier_loss import ClassifierLoss
from ..schema import Keys
from .engines import VAETrainer
from .scores import output_of


class ClassifierTrainer(VAETrainer):
    """Trains a network with one optimiser on a `ClassifierLoss`. Batches hold CLASS, too."""

    loss_function: ClassifierLoss

    def _iteration(self, engine: Trainer, batchdata: Any) -> dict[str, Any]:
        self.loss_function.see(self.network, batchdata)
        return super()._iteration(engine, batchdata)


class Accuracy:
    """Scores the classifier of a network, and shows its loss the classes of each batch.

    Leaves the share of slices whose class is found, of those whose class is known, in
    ``engine.state.metrics`` as ``Accuracy``; nothing where none is known.

    Args:
        loss: The loss of the evaluator.
    """

    def __init__(self, loss: ClassifierLoss) -> None:
        self.loss = loss
        self._right: list[np.ndarray] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._right.clear)
        engine.add_event_handler(Events.ITERATION_STARTED, self.show)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.update)
        engine.add_event_handler(Events.COMPLETED, self.compute)

    def show(self, engine: Any) -> None:
        self.loss.see(engine.network, engine.state.batch)

    def update(self, engine: Any) -> None:
        classes = engine.state.batch[Keys.CLASS]
        found = engine.network.classifier(output_of(engine)[Keys.LATENT]).argmax(dim=1)
        right = found == classes.argmax(dim=1)
        self._right.append(right[classes.any(dim=1)].cpu().numpy())

    def compute(self, engine: Any) -> None:
        right = np.concatenate(self._right)
        if len(right):
            engine.state.metrics["Accuracy"] = float(right.mean())
