"""What a run leaves in its folder: history, checkpoints, pictures, at last model and summary.

Only the first of several processes writes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from textwrap import indent
from typing import Any

import numpy as np
import torch
import yaml
from ignite.engine import Events
from ignite.handlers import EarlyStopping
from monai.engines import SupervisedEvaluator
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from ..data.store import SliceDataset
from ..runtime.device import describe_device, peak_memory_mib
from ..runtime.distributed import is_first, world_size
from ..runtime.files import write
from ..runtime.provenance import digest, versions
from ..runtime.weights import write_weights
from .checkpoints import Checkpoints
from .engines import NetworkTrainer
from .folder import BEST, HISTORY, LAST, MEASURED, MODEL, SUMMARY, segmenters_of
from .handlers import History, KLBalance
from .learner import Learner, validation_loss
from .trackers import Tracking

PACKAGES = ("monai", "numpy", "pytorch-ignite", "scikit-learn", "torch")


class Records:
    """The records of one run, kept from the time it is entered until it is left.

    Args:
        folder: The folder of the run.
        learner: What is trained.
        trainer: The engine that trains it, with the validation attached, whose scores are read.
        evaluator: The engine that validates; None without validation.
        stopping: What stops the training early; None if nothing does.
        val: Slices to validate on; may be empty.
        config: What config.yaml holds.
        tell: Called with the row of history.csv after each validation.
        trackers: Name of each tracker -> where it keeps runs, see `parse_trackers`.
    """

    def __init__(
        self,
        folder: Path,
        learner: Learner,
        trainer: NetworkTrainer,
        evaluator: SupervisedEvaluator | None,
        stopping: EarlyStopping | None,
        val: SliceDataset,
        *,
        config: Mapping[str, Any],
        tell: Callable[[dict[str, float]], None],
        trackers: Mapping[str, str],
    ) -> None:
        self.folder, self.learner, self.trainer, self.val = folder, learner, trainer, val
        self.config, self.start_epoch = config, 0
        every = learner.pipeline.schedule.evaluate_every
        self.writer = _tensorboard(folder, config) if is_first() else None
        self.history = History(folder / HISTORY, evaluator, every, self.writer, tell)
        self.checkpoints = Checkpoints(
            folder,
            learner.parts(trainer)
            | {"history": self.history}
            | ({"stopping": stopping} if stopping else {}),
            learner.generator,
            every,
            learner.model,
            (lambda: validation_loss(evaluator)) if evaluator else None,
            _conditions(learner.device),
        )
        self.tracking = Tracking(
            trackers, folder, {**config, "versions": versions(PACKAGES)}, lambda: self.history.rows
        )

    def attach(self) -> None:
        """Attaches all handlers to the trainer; in the first process alone."""
        if not is_first():
            return
        KLBalance().attach(self.trainer)
        self.history.attach(self.trainer)
        self.checkpoints.attach(self.trainer)
        every = self.learner.pipeline.schedule.pictures_every
        if every:
            self.trainer.add_event_handler(Events.EPOCH_COMPLETED(every=every), self.draw)
        self.tracking.attach(self.trainer)

    def resume(self) -> None:
        """Goes on from the checkpoint."""
        self.start_epoch = self.checkpoints.resume(self.trainer, self.learner.device)
        if self.learner.pipeline.schedule.keep == "best" and is_first():
            self.checkpoints.restore_best(self.start_epoch)

    def __enter__(self) -> Records:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.checkpoints.wait()
        finally:
            if self.writer is not None:
                self.writer.close()
            self.tracking.close(failed=kind is not None)

    def draw(self) -> None:
        """Draws the pictures, and hands them to TensorBoard."""
        for file in self.learner.draw(self.folder / "figures", self.history.rows, self.val):
            pixels, step = np.asarray(Image.open(file).convert("RGB")), self.trainer.state.epoch
            if self.writer is not None:
                self.writer.add_image(f"figures/{file.stem}", pixels, step, dataformats="HWC")

    def load_kept(self) -> int:
        """Loads the weights that the pipeline keeps into the model; returns their epoch."""
        if self.learner.pipeline.schedule.keep == "best" and (self.folder / BEST).is_file():
            return self.checkpoints.load_best(self.learner.device)
        return self.trainer.state.epoch

    def finish(self, epoch_kept: int, seconds: float) -> None:
        """Writes pictures, model.safetensors and summary.json: with them the run is complete.

        The model holds what the other files of the run and its store should say, see `verify`. Its
        weights are those of ``epoch_kept``; the training took so many seconds since it was started
        or resumed.
        """
        found = self.learner.findings()
        self.history.write()
        self.draw()
        summary = self._summary(epoch_kept, seconds)
        summary |= {key: found[key] for key in self.learner.SUMMARISED}
        lasting = {key: value for key, value in summary.items() if key not in MEASURED}
        facts = self._facts() | found | {"summary": lasting}
        facts |= {"sha256_of": seals(self.folder, self.learner.train.folder)}
        write_weights(self.folder / MODEL, self.learner.model.state_dict(), facts)
        place = {"store": str(self.learner.train.folder.resolve())}
        write(self.folder / SUMMARY, json.dumps(summary | place, indent=2) + "\n")
        self.tracking.keep()

    def _known(self) -> dict[str, Any]:
        config = self.config
        return {key: config[key] for key in ("seed", "content_hash")} | {
            "train_dataset": config["data"]
        }

    def _facts(self) -> dict[str, Any]:
        """What model.safetensors says of the run, but for what depends on its weights."""
        learner, info = self.learner, self.learner.train.info
        return self._known() | {
            "pipeline": learner.pipeline.to_dict(),
            **{key: info.get(key) for key in ("title", "citation", "synthetic", "recipe")},
            "train_cases": learner.train.fingerprints(),
            "train_sources": sorted(learner.train.sources),
            **learner.facts(),
        }

    def _summary(self, epoch_kept: int, seconds: float) -> dict[str, Any]:
        """What summary.json says, but for the place of the store and the calibration."""
        learner, train, state = self.learner, self.learner.train, self.trainer.state
        steps = (state.epoch - self.start_epoch) * (state.epoch_length or 0)
        return {
            "method": learner.pipeline.method,
            **self._known(),
            "train_slices": len(train),
            "train_cases": int(train.cases["case"].nunique()),
            "val_cases": int(self.val.cases["case"].nunique()),
            "epochs": state.epoch,
            "epoch_kept": epoch_kept,
            "wall_time_s": round(seconds, 2),
            "steps_per_second": round(steps / seconds, 2) if seconds else 0.0,
            "peak_memory_mib": round(peak_memory_mib(learner.device)),
            "device": describe_device(learner.device),
            "precision": learner.pipeline.precision,
            "processes": world_size(),
            "conditions": [list(part) for part in self.checkpoints.conditions],
            "parameters": sum(p.numel() for p in learner.model.parameters()),
            "versions": versions(PACKAGES),
        }


def seals(run: Path, store: Path) -> dict[str, str]:
    """Computes the SHA-256 of each file, as far as it is there, that a run and its store can be
    checked by."""
    files = {name: run / name for name in (HISTORY, LAST, BEST)}
    files |= {"dataset.json": store / "dataset.json"}
    files |= segmenters_of(run, store)
    return {name: digest(file) for name, file in files.items() if file.is_file()}


def _conditions(device: torch.device) -> str:
    count = world_size()
    return describe_device(device) + (f", {count} processes" if count > 1 else "")


def _tensorboard(folder: Path, config: Mapping[str, Any]) -> SummaryWriter:
    writer = SummaryWriter(folder / "tensorboard", purge_step=None)
    text = yaml.safe_dump(dict(config), sort_keys=False)
    writer.add_text("configuration", indent(text, "    "))  # as a block of Markdown
    return writer
