"""What happens around an iteration: measuring, scoring, recording, saving.

Each handler is a constructor, ``attach`` and one or two callbacks. Scores go to
``engine.state.metrics`` by name; `History` gathers those of trainer and evaluator in one table.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from csv import DictReader
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from ignite.engine import Engine, Events
from torch import Generator, nn

from ..data.store import SliceDataset
from ..metrics.codes import score
from ..metrics.images import FIDELITY
from ..metrics.patients import LEAST
from ..runtime.files import write
from ..schema import Keys, LatentTable


class VolumeAttributes:
    """Measures the attributes from the native masks when an evaluation begins.

    Leaves ``engine.state.attributes``, (N, K) by row of the dataset. Scores read these, so that
    they never rest on a column of cases.csv that somebody edited.
    """

    def __init__(self, dataset: SliceDataset, names: Sequence[str]) -> None:
        self.dataset, self.names = dataset, tuple(names)
        self._values: np.ndarray | None = None

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        if self._values is None:  # masks do not change while a run holds them
            self._values = self.dataset.measured(self.names)
        engine.state.attributes = self._values


class RegularisationMetrics:
    """Scores how far the codes speak of the attributes, see `metrics.score`.

    Needs `VolumeAttributes` on the same engine. Leaves ``engine.state.table``, a `LatentTable`, and
    in ``engine.state.metrics`` each score as ``Metric`` (the mean) and ``Metric/attribute``.

    Args:
        dataset: What the engine evaluates.
        names: Attributes.
        dimensions: Latent dimension that each attribute was trained on; None for those without.
    """

    def __init__(
        self,
        dataset: SliceDataset,
        names: Sequence[str],
        dimensions: Sequence[int | None],
    ) -> None:
        self.dataset, self.names = dataset, tuple(names)
        self.dimensions = tuple(dimensions)
        self._codes: list[np.ndarray] = []
        self._rows: list[np.ndarray] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.update)
        engine.add_event_handler(Events.COMPLETED, self.compute)

    def reset(self, engine: Engine) -> None:
        self._codes, self._rows = [], []

    def update(self, engine: Engine) -> None:
        self._codes.append(engine.state.output[Keys.LATENT].float().cpu().numpy())
        self._rows.append(engine.state.output[Keys.ROW].cpu().numpy())

    def compute(self, engine: Engine) -> None:
        rows = np.concatenate(self._rows)
        engine.state.table = LatentTable(
            tuple(self.dataset.cases["case"].iloc[rows]),
            np.concatenate(self._codes),
            engine.state.attributes[rows],
            self.names,
            self.dimensions,
        )
        if len(rows) < LEAST:
            return
        for entry in score(engine.state.table):
            suffix = "" if entry.attribute == "mean" else f"/{entry.attribute}"
            engine.state.metrics[entry.metric + suffix] = entry.value


class ImageFidelity:
    """How well slices are reconstructed, see `FIDELITY`.

    Leaves ``engine.state.fidelity``, name -> one value per slice, and the means in
    ``engine.state.metrics``.
    """

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.update)
        engine.add_event_handler(Events.COMPLETED, self.compute)

    def reset(self, engine: Engine) -> None:
        self._values: dict[str, list[np.ndarray]] = {name: [] for name in FIDELITY}

    def update(self, engine: Engine) -> None:
        output = engine.state.output
        image, reconstruction, label = (
            output[key].float().cpu().numpy()
            for key in (Keys.IMAGE, Keys.RECONSTRUCTION, Keys.LABEL)
        )
        for name, measure in FIDELITY.items():
            self._values[name].append(measure(image, reconstruction, label > 0))

    def compute(self, engine: Engine) -> None:
        engine.state.fidelity = {n: np.concatenate(v) for n, v in self._values.items()}
        for name, values in engine.state.fidelity.items():
            engine.state.metrics[name] = float(np.mean(values))


class LossTerms:
    """Averages the terms of the loss, and signs of health, over an epoch, each slice the same.

    On the device: nothing waits for it before the epoch ends.

    Raises:
        FloatingPointError: At the end of an epoch in which a term was not finite, with its name.
    """

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self.reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.update)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.compute)

    def reset(self, engine: Engine) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._parts: set[str] = set()
        self._count = 0

    def update(self, engine: Engine) -> None:
        output = engine.state.output
        n = len(output[Keys.ROW])
        for name, term in (output[Keys.TERMS] | output.get(Keys.HEALTH, {})).items():
            self._sums[name] = self._sums.get(name, 0) + term * n
        self._parts |= output[Keys.TERMS].keys()
        self._count += n

    def compute(self, engine: Engine) -> None:
        means = {name: float(total) / self._count for name, total in self._sums.items()}
        for name, value in means.items():
            if not np.isfinite(value):
                raise FloatingPointError(
                    f"the {name} term is {value} in epoch {engine.state.epoch}; training stopped. "
                    "The last checkpoint is intact: lower optimiser.lr, or the weight of the term"
                )
        if means:
            loss = sum(value for name, value in means.items() if name in self._parts)
            engine.state.metrics |= means | {"loss": loss}


class KLBalance:
    """Warns if introspective training has lost its balance: generated images must look unlikelier.

    Soft-Intro VAE is healthy while the KL of generated images is at least that of real ones. Needs
    `LossTerms` on the same engine, attached before.

    Args:
        margin: nats by which it may stay below.
        epochs: For how many epochs in a row, before a warning is given.

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
        file: history.csv; rewritten as a whole when there are new scores.
        evaluator: Whose ``state.metrics`` are the scores; None without validation.
        every: Epochs between validations.
        writer: TensorBoard's SummaryWriter.
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
        """Takes up the rows written until an epoch."""
        if self.file.is_file():
            with open(self.file, newline="") as file:  # pandas 2 may miss the last digit of a float
                known = [{k: float(v or "nan") for k, v in row.items()} for row in DictReader(file)]
            known = [row | {"epoch": int(row["epoch"])} for row in known]
            self.rows = [row for row in known if row["epoch"] <= epoch]

    def __call__(self, engine: Engine) -> None:
        epoch = engine.state.epoch
        row = {"epoch": epoch, "lr": engine.optimizer.param_groups[0]["lr"]}
        row |= {f"train_{name}": value for name, value in engine.state.metrics.items()}
        last = is_due(epoch, self.every, engine.state.max_epochs)
        if last and self.evaluator is not None:
            row |= {f"val_{name}": v for name, v in self.evaluator.state.metrics.items()}
        self.rows.append(row)
        for name, value in row.items():
            if name != "epoch":
                self.writer.add_scalar(name.replace("_", "/", 1), value, epoch)
        if last:
            self.write(engine)
            self.tell(row)

    def write(self, engine: Engine) -> None:
        write(self.file, pd.DataFrame(self.rows).to_csv(index=False))


class Checkpoints:
    """Writes last.pt, from which a run resumes bit for bit, and best.pt.

    Both are written as a whole, so that a kill leaves the one before.

    Args:
        folder: Of the run.
        parts: Name -> object with ``state_dict``, everything that training changes.
        generator: The source of randomness of the run.
        every: Epochs between them.
        value: What is smallest for the best weights; None keeps no best.
        weights: The network that is evaluated.
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
        draw: What draws.
        every: Epochs between pictures.
    """

    def __init__(self, draw: Callable[[], None], every: int) -> None:
        self.draw, self.every = draw, every

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.every), self.draw)


class EpochBar:
    """A progress bar over the epochs, for terminals."""

    def attach(self, engine: Engine) -> None:
        from ignite.handlers import ProgressBar

        over = {"event_name": Events.EPOCH_COMPLETED, "closing_event_name": Events.COMPLETED}
        ProgressBar(desc="train", persist=True).attach(engine, ["loss"], **over)


def check_finite(weights: dict[str, torch.Tensor], epoch: int) -> None:
    """Raises FloatingPointError if a weight is not finite: the last step of an epoch broke it."""
    for name, weight in weights.items():
        if not weight.isfinite().all():
            raise FloatingPointError(
                f"weight {name} is not finite after epoch {epoch}; training stopped. "
                "The last checkpoint is intact: lower optimiser.lr"
            )


def is_due(epoch: int, every: int, last: int) -> bool:
    """Whether validation, history and checkpoint happen in this epoch: the last one always."""
    return epoch % every == 0 or epoch == last


def save(state: Any, file: Path) -> None:
    """torch.save, whole or not at all."""
    stream = io.BytesIO()  # torch tells of a full disk in words that nobody understands
    torch.save(state, stream)
    write(file, stream.getbuffer())
