"""An autoencoder in training with the classifier that reads its codes."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch

from ..data.categories import one_hot
from ..data.store import SliceDataset
from ..models.classifier_loss import ClassifierLoss
from ..runtime.messages import counted
from ..schema import Keys
from .classifier_engine import Accuracy
from .config import Pipeline
from .engines import VAEEvaluator
from .objectives import ClassifierObjective
from .vae_learner import VAELearner


class ClassifierLearner(VAELearner):
    """See `VAELearner`. Slices of patients whose class is not known are learnt from otherwise.

    Raises:
        ValueError: If free codes would be moved after the training, of which the classifier reads
            more than the attributes.
    """

    SUMMARISED = ("calibration", "classifier")
    loss: ClassifierLoss

    def __init__(
        self, pipeline: Pipeline, train: SliceDataset, device: torch.device, seed: int
    ) -> None:
        super().__init__(pipeline, train, device, seed)
        objective = pipeline.objective
        assert isinstance(objective, ClassifierObjective)
        self.column = objective.column
        if pipeline.decorrelate and objective.reads == "codes":
            raise ValueError(
                "decorrelate is true, which moves free codes at the end, and objective.reads is "
                "'codes'; expected decorrelate: false, or reads: attributes"
            )
        rows = np.flatnonzero(self.columns(train)[Keys.CLASS].any(axis=1))
        known = train.cases["case"].iloc[rows].nunique()
        without = train.cases["case"].nunique() - known
        self.known_classes = {"column": self.column, "patients": known, "without": without}
        if without:
            warnings.warn(
                f"{counted(without, 'training patient')} of {train.folder} without "
                f"{self.column}: the classifier does not learn from them",
                stacklevel=2,
            )

    def columns(self, slices: SliceDataset) -> dict[str, np.ndarray]:
        assert self.network.classifier is not None
        classes = one_hot(slices.cases, self.column, self.network.classifier.classes)
        return super().columns(slices) | {Keys.CLASS: classes}

    def make_evaluator(self, val: SliceDataset) -> VAEEvaluator:
        evaluator = super().make_evaluator(val)
        Accuracy(self.loss).attach(evaluator)
        return evaluator

    def findings(self) -> dict[str, Any]:
        """See `VAELearner`; and of how many training patients the class is known."""
        return super().findings() | {"classifier": self.known_classes}
