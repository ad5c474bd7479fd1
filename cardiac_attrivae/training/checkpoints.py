"""Checkpoints: last.pt, from which a run resumes bit for bit, and best.pt."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Generator, Tensor, nn

from ..runtime.files import write
from ..runtime.weights import weights_digest
from ..schema import DataError
from .folder import BEST, LAST
from .guidance import OtherGuide
from .handlers import is_due


class Checkpoints:
    """Writes last.pt and best.pt after validations.

    Both are written atomically, last.pt first: a run that is killed before best.pt is written finds
    the same weights in last.pt. A thread writes them while the training goes on, since those of
    the large networks hold 390 MB and take 2 s; `wait` waits for it.

    Args:
        folder: The folder of the run.
        parts: Name -> object with ``state_dict``, for everything that training changes.
        generator: The source of randomness of the run.
        every: Number of epochs between checkpoints.
        weights: The network that is evaluated.
        value: Returns what is smallest for the best weights; None keeps no best.
        conditions: What the last bits of the weights depend on besides seed and data: device,
            threads, processes.
    """

    def __init__(
        self,
        folder: Path,
        parts: dict[str, Any],
        generator: Generator,
        every: int,
        weights: nn.Module,
        value: Callable[[], float] | None = None,
        conditions: str = "",
    ) -> None:
        self.folder, self.parts, self.generator = folder, parts, generator
        self.every, self.weights, self.value = every, weights, value
        self.best, self.best_epoch, self.best_digest = float("inf"), 0, ""
        self.conditions: list[tuple[int, str]] = [(1, conditions)]
        self._written: Future[None] | None = None

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self.wait)

    def wait(self) -> None:
        """Waits until the files of the last validation are written; raises why, if they could not
        be."""
        written, self._written = self._written, None
        if written is not None:
            written.result()

    def __call__(self, engine: Engine) -> None:
        epoch, weights = engine.state.epoch, self.weights.state_dict()
        if not is_due(epoch, self.every, engine.state.max_epochs):
            return
        check_finite(weights, epoch)
        value = self.value() if self.value is not None else float("inf")
        better = value < self.best
        if better:
            self.best, self.best_epoch, self.best_digest = value, epoch, weights_digest(weights)
        state = {name: part.state_dict() for name, part in self.parts.items()}
        state |= {"generator": self.generator.get_state(), "epoch": epoch}
        state |= {"best": self.best, "best_epoch": self.best_epoch, "best_sha256": self.best_digest}
        state |= {"conditions": self.conditions}
        files = {self.folder / LAST: serialised(state)}
        if better:
            files[self.folder / BEST] = serialised(weights)
        self.wait()  # two checkpoints at most are held in memory
        self._written = in_background(write_each, files)

    def resume(self, engine: Engine, device: torch.device) -> int:
        """Restores what last.pt holds into the parts and the engine; returns its epoch. Warns if
        the conditions are others than those of the epochs before; refuses a last.pt that is
        damaged or of another run, and another guide."""
        state = read_checkpoint(self.folder / LAST, device)
        try:
            for name, part in self.parts.items():
                part.load_state_dict(state[name])
            self.generator.set_state(state["generator"].cpu())
            self.best, self.best_epoch = float(state["best"]), int(state["best_epoch"])
            epoch = int(state["epoch"])
            self.best_digest = str(state["best_sha256"])
            known = [(int(first), str(what)) for first, what in state["conditions"]]
            *_, (_, before) = known
        except OtherGuide:  # which is no fault of the checkpoint
            raise
        except (KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            raise DataError(_damaged(self.folder / LAST, reason)) from error
        # ignite resumes only with the length it knew; a longer run may be asked for since
        length = {"max_epochs": engine.state.max_epochs, "epoch_length": engine.state.epoch_length}
        engine.load_state_dict({"epoch": epoch, **length})
        self._compare_conditions(known, before, epoch)
        return epoch

    def _compare_conditions(self, known: list[tuple[int, str]], before: str, epoch: int) -> None:
        now = self.conditions[-1][1]
        if before != now:
            warnings.warn(
                f"resumed on {now}; epochs 1 to {epoch} were trained on {before}. The weights will "
                "differ in their last digits from those of an uninterrupted run",
                stacklevel=2,
            )
            known = [*known, (epoch + 1, now)]
        self.conditions = known

    def restore_best(self, epoch: int) -> None:
        """Makes sure, after `resume`, that best.pt holds the best weights before ``epoch`` ends;
        refuses a run where neither it nor last.pt has them."""
        if not self.best_digest or self._best_matches():
            return
        weights = self.weights.state_dict()
        if self.best_epoch != epoch or weights_digest(weights) != self.best_digest:
            raise DataError(
                f"{self.folder / BEST} is missing or not the one that this run wrote in epoch "
                f"{self.best_epoch}; put it back, or train again in another folder"
            )
        save(weights, self.folder / BEST)

    def _best_matches(self) -> bool:
        file = self.folder / BEST
        try:
            return weights_digest(read_checkpoint(file, "cpu")) == self.best_digest
        except (DataError, OSError, AttributeError):
            return False

    def load_best(self, device: torch.device) -> int:
        """Loads the best weights into the network; returns their epoch."""
        file = self.folder / BEST
        best = read_checkpoint(file, device)
        try:
            if self.best_digest and weights_digest(best) != self.best_digest:
                raise ValueError(f"it is not the one that the run wrote in epoch {self.best_epoch}")
            self.weights.load_state_dict(best)
        except (ValueError, TypeError, AttributeError, RuntimeError) as error:
            raise DataError(_damaged(file, str(error))) from error
        return self.best_epoch


def read_checkpoint(file: Path, device: torch.device | str) -> dict[str, Any]:
    """Reads what `save` wrote, or refuses it. No code of the file is executed."""
    try:
        state = torch.load(file, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise DataError(f"{file} is missing") from None
    except Exception as error:  # torch and pickle raise whatever damaged bytes lead to
        first = str(error).strip().partition("\n")[0]
        raise DataError(_damaged(file, first or type(error).__name__)) from error
    if not isinstance(state, dict):
        raise DataError(_damaged(file, f"it holds {type(state).__name__}"))
    return state


def _damaged(file: Path, reason: str) -> str:
    reason, _, _ = " ".join(reason.split()).partition(". ")
    return (
        f"{file} cannot be used: {reason[:200]}. Put back a copy, or remove it: then --resume "
        "(resume=True) starts from the beginning"
    )


def check_finite(weights: Mapping[str, Tensor], epoch: int) -> None:
    """Raises a FloatingPointError if weights are not finite after the last step of an epoch."""
    for name, weight in weights.items():
        if not weight.isfinite().all():
            raise FloatingPointError(f"weight {name} is not finite after epoch {epoch}")


def save(state: Any, file: Path) -> None:
    """Writes what torch.save writes, atomically."""
    write(file, serialised(state))


def serialised(state: Any) -> memoryview:
    """What torch.save writes; its own message about a full disk names neither disk nor file."""
    stream = io.BytesIO()
    torch.save(state, stream)
    return stream.getbuffer()


def in_background(work: Callable[..., None], *arguments: Any) -> Future[None]:
    """Starts work in a thread of its own, which ends with it."""
    thread = ThreadPoolExecutor(max_workers=1)
    started = thread.submit(work, *arguments)
    thread.shutdown(wait=False)
    return started


def write_each(files: Mapping[Path, memoryview]) -> None:
    """Writes files one after the other, each atomically."""
    for file, content in files.items():
        write(file, content)
