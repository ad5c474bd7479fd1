"""What happens between epochs: warnings, history, checkpoints, pictures, progress.

Each handler is a constructor, ``attach`` and one or two callbacks. `History` gathers the scores in
``engine.state.metrics`` of trainer and evaluator in one table.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from csv import DictReader
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from ignite.engine import Engine, Events
from torch import Generator, nn

from ..runtime.files import write
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

    def resume(self, epoch: int) -> None:
        """Reads the rows that were written until an epoch."""
        if self.file.is_file():
            with open(self.file, newline="") as file:  # pandas 2 may miss the last digit of a float
                known = [{k: float(v or "nan") for k, v in row.items()} for row in DictReader(file)]
            known = [row | {"epoch": int(row["epoch"])} for row in known]
            self.rows = [row for row in known if row["epoch"] <= epoch]

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
            self.write(engine)
            self.tell(row)

    def write(self, engine: Engine) -> None:
        write(self.file, pd.DataFrame(self.rows).to_csv(index=False))


class Checkpoints:
    """Writes last.pt, from which a run resumes bit for bit, and best.pt.

    Both are written atomically: a run that is killed meanwhile keeps the ones before.

    Args:
        folder: The folder of the run.
        parts: Name -> object with ``state_dict``, for everything that training changes.
        generator: The source of randomness of the run.
        every: Number of epochs between checkpoints.
        weights: The network that is evaluated.
        value: Returns what is smallest for the best weights; None keeps no best.
    """

    def __init__(
        self,
        folder: Path,
        parts: dict[str, Any],
        generator: Generator,
        every: int,
        weights: nn.Module,
        value: Callable[[], float] | None = None,
    ) -> None:
        self.folder, self.parts, self.generator = folder, parts, generator
        self.every, self.weights, self.value = every, weights, value
        self.best, self.best_epoch = float("inf"), 0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        epoch = engine.state.epoch
        if not is_due(epoch, self.every, engine.state.max_epochs):
            return
        check_finite(self.weights.state_dict(), epoch)
        if self.value is not None and self.value() < self.best:
            self.best, self.best_epoch = self.value(), epoch
            save(self.weights.state_dict(), self.folder / "best.pt")
        state = {name: part.state_dict() for name, part in self.parts.items()}
        state |= {"generator": self.generator.get_state(), "epoch": epoch}
        state |= {"best": self.best, "best_epoch": self.best_epoch}
        save(state, self.folder / "last.pt")

    def resume(self, engine: Engine, device: torch.device) -> int:
        """Restores what last.pt holds into the parts and the engine; returns its epoch."""
        state = torch.load(self.folder / "last.pt", map_location=device, weights_only=True)
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        self.generator.set_state(state["generator"].cpu())
        self.best, self.best_epoch = state["best"], state["best_epoch"]
        # ignite resumes only with the length it knew; a longer run may be asked for since
        known = {"max_epochs": engine.state.max_epochs, "epoch_length": engine.state.epoch_length}
        engine.load_state_dict({"epoch": state["epoch"], **known})
        return state["epoch"]


class Pictures:
    """Draws every few epochs.

    Args:
        draw: Draws the pictures.
        every: Number of epochs between pictures.
    """

    def __init__(self, draw: Callable[[], None], every: int) -> None:
        self.draw, self.every = draw, every

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.every), self.draw)


class EpochBar:
    """A progress bar over the epochs, for terminals."""

    def attach(self, engine: Engine) -> None:
        from ignite.handlers import ProgressBar

        ProgressBar(desc="train", persist=True).attach(
            engine,
            ["loss"],
            event_name=Events.EPOCH_COMPLETED,
            closing_event_name=Events.COMPLETED,
        )


def check_finite(weights: dict[str, torch.Tensor], epoch: int) -> None:
    """Raises FloatingPointError if a weight is not finite after the last step of an epoch."""
    for name, weight in weights.items():
        if not weight.isfinite().all():
            raise FloatingPointError(
                f"weight {name} is not finite after epoch {epoch}; training stopped. "
                "The last checkpoint is intact: lower optimiser.lr"
            )


def is_due(epoch: int, every: int, last: int | None) -> bool:
    """Whether validation, history and checkpoint happen in this epoch: the last one always."""
    return epoch % every == 0 or epoch == last


def save(state: Any, file: Path) -> None:
    """Writes what torch.save writes, atomically."""
    stream = io.BytesIO()  # torch's own message about a full disk names neither disk nor file
    torch.save(state, stream)
    write(file, stream.getbuffer())
