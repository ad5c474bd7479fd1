"""What happens between epochs: warnings and history.

Each handler is a constructor, ``attach`` and one or two callbacks. `History` gathers the scores in
``engine.state.metrics`` of trainer and evaluator in one table.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from csv import DictReader
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
from ignite.engine import Engine, Events

from ..runtime.files import write
from ..runtime.spreadsheet import csv_text
from .engines import NetworkTrainer


class KLBalance:
    """Warns if introspective training has lost its balance: generated images must look unlikelier.

    Soft-Intro VAE is healthy while the KL of generated images is at least that of real ones. Needs
    `LossTerms` on the same engine, attached before.

    Args:
        margin: Difference in nats by which it may stay below.
        epochs: Number of epochs in a row after which a warning is given.

    References:
        | Soft-IntroVAE (Daniel & Tamar, 2021), https://arxiv.org/abs/2012.13253
    """

    def __init__(self, margin: float = 1.0, epochs: int = 5) -> None:
        self.margin, self.epochs = margin, epochs
        self._count = 0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        metrics = engine.state.metrics
        if "kl_real" not in metrics:
            return
        lost = metrics["kl_generated"] < metrics["kl_real"] - self.margin
        self._count = self._count + 1 if lost else 0
        if self._count == self.epochs:
            warnings.warn(
                f"epoch {engine.state.epoch}: for {self.epochs} epochs the KL of generated images "
                f"({metrics['kl_generated']:.1f}) has been below that of real ones "
                f"({metrics['kl_real']:.1f}). The encoder no longer tells them apart: raise "
                "objective.beta_neg, lower optimiser.lr, or train longer as a plain VAE "
                "(objective.vae_epochs)",
                stacklevel=2,
            )


class History:
    """One row per epoch: learning rate, training terms, and the scores of a validation.

    Attach after the validation, so that its scores are there.

    Args:
        file: history.csv; rewritten atomically when there are new scores.
        evaluator: The engine whose ``state.metrics`` are the scores; None without validation.
        every: Number of epochs between validations.
        writer: TensorBoard's SummaryWriter; None where nothing is written.
        tell: Called with the row after each validation.
    """

    def __init__(
        self,
        file: Path,
        evaluator: Engine | None,
        every: int,
        writer: Any,
        tell: Callable[[dict[str, float]], None],
    ) -> None:
        self.file, self.evaluator, self.every = file, evaluator, every
        self.writer, self.tell = writer, tell
        self.rows: list[dict[str, float]] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def state_dict(self) -> dict[str, str]:
        """Makes the text of the file part of a checkpoint: a resumed run does not rely on it."""
        return {"csv": csv_text(pd.DataFrame(self.rows))}

    def load_state_dict(self, state: Mapping[str, str]) -> None:
        """Restores the rows of a checkpoint, to the last digit, which pandas 2 may miss."""
        table = DictReader(StringIO(state["csv"]))
        rows = [{name: float(value or "nan") for name, value in row.items()} for row in table]
        self.rows = [row | {"epoch": int(row["epoch"])} for row in rows]

    def __call__(self, engine: NetworkTrainer) -> None:
        epoch = engine.state.epoch
        row: dict[str, float] = {"epoch": epoch, "lr": engine.optimizer.param_groups[0]["lr"]}
        row |= {f"train_{name}": value for name, value in engine.state.metrics.items()}
        last = is_due(epoch, self.every, engine.state.max_epochs)
        if last and self.evaluator is not None:
            row |= {f"val_{name}": v for name, v in self.evaluator.state.metrics.items()}
        self.rows.append(row)
        for name, value in row.items():
            if name != "epoch" and self.writer is not None:
                self.writer.add_scalar(name.replace("_", "/", 1), value, epoch)
        if last:
            self.write()
            self.tell(row)

    def write(self) -> None:
        """Writes history.csv."""
        write(self.file, self.state_dict()["csv"])


def is_due(epoch: int, every: int, last: int | None) -> bool:
    """Whether validation, history and checkpoint happen in this epoch: the last one always."""
    return epoch % every == 0 or epoch == last
