"""Engines that train and score a network that outlines hearts, and its loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator, Trainer
from monai.losses import DiceCELoss
from torch import Tensor, nn

from ..models.most_likely import most_likely
from ..runtime.distributed import share
from ..schema import HEART, Keys
from .batches import as_batch
from .engines import NetworkTrainer


class SegmentationLoss(nn.Module):
    """Dice of all windows together, and cross-entropy, as one term.

    Example:
        >>> loss = SegmentationLoss()
        >>> certain = 99 * torch.eye(4)[None, :, :, None]
        >>> labels = torch.arange(4).reshape(1, 1, 4, 1)
        >>> round(float(loss(certain, labels)["dice_ce"]), 4)
        0.0
    """

    def __init__(self) -> None:
        super().__init__()
        self.loss = DiceCELoss(softmax=True, to_onehot_y=True, include_background=False, batch=True)

    def forward(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compares logits (N, 4, H, W) with canonical labels (N, 1, H, W)."""
        return {"dice_ce": self.loss(logits.float(), labels)}


class SegmentationTrainer(NetworkTrainer):
    """Trains a network on slices and their masks, with one optimiser. See `NetworkTrainer`."""

    def _iteration(self, engine: Trainer, batchdata: Any) -> dict[str, Any]:
        """Does one step. Leaves IMAGE, LABEL, ROW, TERMS, HEALTH and LOSS, all detached."""
        batch = as_batch(batchdata, self.state.device)
        if self.augment is not None:
            with torch.no_grad():
                batch = self.augment(batch, self.generator)
        self.network.train()
        mine = share(len(batch[Keys.IMAGE]))
        image = batch[Keys.IMAGE][mine].contiguous(memory_format=self.memory_format)
        with self.autocast():
            logits = self.network(image)
        terms = self.loss_function(logits, batch[Keys.LABEL][mine])
        return self.descended(terms) | {
            Keys.IMAGE: image,
            Keys.LABEL: batch[Keys.LABEL][mine],
            Keys.ROW: batch[Keys.ROW][mine],
        }


class SegmentationEvaluator(SupervisedEvaluator):
    """Outlines hearts in whole slices, and compares them with their masks."""

    def __init__(self, *, loss_function: nn.Module, **kwargs: Any) -> None:
        super().__init__(decollate=False, **kwargs)
        self.loss_function = loss_function

    def _iteration(self, engine: SupervisedEvaluator, batchdata: Any) -> dict[str, Any]:
        """Evaluates one batch. Leaves LABEL, ROW, PREDICTION (N, 1, H, W) and TERMS."""
        self.network.eval()
        with torch.no_grad():
            logits = self.network(batchdata[Keys.IMAGE])
            terms = self.loss_function(logits, batchdata[Keys.LABEL].long())
        return {
            Keys.LABEL: batchdata[Keys.LABEL],
            Keys.ROW: batchdata[Keys.ROW],
            Keys.PREDICTION: most_likely(logits),
            Keys.TERMS: terms,
        }


class FrameDice:
    """Dice of whole frames, whose ``case`` and ``phase`` stand in a table: leaves ``Dice_LV``,
    ``Dice_MYO`` and ``Dice_RV`` of each phase, means over patients, in ``engine.state.metrics``."""

    def __init__(self, cases: pd.DataFrame) -> None:
        self.frames = list(zip(cases["case"], cases["phase"], strict=True))
        self._rows: list[np.ndarray] = []
        self._counts: list[np.ndarray] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.update)
        engine.add_event_handler(Events.COMPLETED, self.compute)

    def reset(self, engine: Engine) -> None:
        self._rows, self._counts = [], []

    def update(self, engine: Engine) -> None:
        output: Any = engine.state.output
        label, found = output[Keys.LABEL], output[Keys.PREDICTION]
        counts = [
            torch.stack([(a & b).sum((1, 2, 3)), a.sum((1, 2, 3)) + b.sum((1, 2, 3))], 1)
            for a, b in ((label == s, found == s) for s in HEART)
        ]
        self._counts.append(torch.stack(counts, 1).cpu().numpy())
        self._rows.append(output[Keys.ROW].cpu().numpy())

    def compute(self, engine: Engine) -> None:
        counts, rows = np.concatenate(self._counts), np.concatenate(self._rows)
        frames = pd.MultiIndex.from_tuples([self.frames[row] for row in rows])
        for k, structure in enumerate(HEART):
            both = pd.DataFrame(counts[:, k], index=frames).groupby(level=[0, 1]).sum()
            dice = (2 * both[0] / both[1]).groupby(level=1).mean()
            for phase, value in dice.items():
                engine.state.metrics[f"Dice_{structure.name}/{phase}"] = float(value)
            engine.state.metrics[f"Dice_{structure.name}"] = float(dice.mean())
