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
from ignite.handlers import EarlyStopping
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from ..data.store import SliceDataset
from ..runtime.device import describe_device, peak_memory_mib
from ..runtime.distributed import is_first, world_size
from ..runtime.files import write
from ..runtime.provenance import versions
from ..runtime.weights import write_weights
from .engines import NetworkTrainer, VAEEvaluator
from .folder import BEST, HISTORY, LAST, MODEL, SUMMARY
from .handlers import Checkpoints, History, KLBalance, Pictures
from .learner import Learner, validation_loss
from .pictures import draw_run
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
        evaluator: VAEEvaluator | None,
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
            learner.parts(trainer) | ({"stopping": stopping} if stopping else {}),
            learner.generator,
            every,
            learner.model,
            (lambda: validation_loss(evaluator)) if evaluator else None,
        )
        self.tracking = Tracking(
            trackers,
            folder,
            {**config, "versions": versions(PACKAGES)},
            lambda: self.history.rows,
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
            Pictures(lambda: self.draw(self.learner.code_statistics()), every).attach(self.trainer)
        self.tracking.attach(self.trainer)

    def resume(self) -> None:
        """Goes on from the checkpoint, if there is one."""
        if (self.folder / LAST).is_file():
            self.start_epoch = self.checkpoints.resume(self.trainer, self.learner.device)
            self.history.resume(self.start_epoch)

    def __enter__(self) -> Records:
        self.tracking.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self.writer is not None:
            self.writer.close()
        self.tracking.__exit__(*error)

    def draw(self, statistics: Mapping[str, np.ndarray]) -> None:
        """Draws the pictures, and hands them to TensorBoard."""
        slices = self.val if len(self.val) else self.learner.basal
        names, folder = self.learner.pipeline.attributes, self.folder / "figures"
        rows, model = self.history.rows, self.learner.model
        for file in draw_run(folder, rows, model, slices, names, statistics):
            pixels, step = np.asarray(Image.open(file).convert("RGB")), self.trainer.state.epoch
            if self.writer is not None:
                self.writer.add_image(f"figures/{file.stem}", pixels, step, dataformats="HWC")

    def load_kept(self) -> int:
        """Loads the weights that the pipeline keeps into the model; returns their epoch."""
        if self.learner.pipeline.schedule.keep == "best" and (self.folder / BEST).is_file():
            best = torch.load(self.folder / BEST, self.learner.device, weights_only=True)
            self.learner.model.load_state_dict(best)
            return self.checkpoints.best_epoch
        return self.trainer.state.epoch

    def finish(self, epoch_kept: int, seconds: float) -> None:
        """Writes pictures, model.safetensors and summary.json: with them the run is complete.

        Args:
            epoch_kept: Epoch of the weights in the model.
            seconds: Time that the training took since it was started or resumed.
        """
        learner, train = self.learner, self.learner.train
        statistics = learner.code_statistics()
        self.draw(statistics)
        known = {"seed": self.config["seed"], "train_dataset": train.name}
        known |= {"content_hash": train.info["content_hash"]}
        facts = {
            "pipeline": learner.pipeline.to_dict(),
            **known,
            **{key: train.info.get(key) for key in ("title", "citation", "synthetic")},
            "recipe": train.info["recipe"],
            "train_cases": train.fingerprints(),
            "attribute_mean": learner.targets.mean.tolist(),
            "attribute_deviation": learner.targets.deviation.tolist(),
            **{name: values.tolist() for name, values in statistics.items()},
        }
        perceptual = getattr(learner.loss, "perceptual", None)
        if perceptual is not None:
            facts["perceptual"] = {"name": perceptual.name, "sha256": perceptual.digest}
        write_weights(self.folder / MODEL, learner.model.state_dict(), facts)
        state = self.trainer.state
        steps = (state.epoch - self.start_epoch) * (state.epoch_length or 0)
        summary = {
            "method": learner.pipeline.method,
            **known,
            "store": str(train.folder.resolve()),
            "train_slices": len(train),
            "train_cases": int(train.cases["case"].nunique()),
            "val_cases": int(self.val.cases["case"].nunique()),
            "epochs": state.epoch,
            "epoch_kept": epoch_kept,
            "wall_time_s": round(seconds, 2),
            "steps_per_second": round(steps / seconds, 2) if seconds else 0.0,
            "peak_memory_mib": round(peak_memory_mib(learner.device)),
            "device": describe_device(learner.device),
            "processes": world_size(),
            "parameters": sum(p.numel() for p in learner.model.parameters()),
            "versions": versions(PACKAGES),
        }
        write(self.folder / SUMMARY, json.dumps(summary, indent=2) + "\n")
        self.tracking.keep()


def _tensorboard(folder: Path, config: Mapping[str, Any]) -> SummaryWriter:
    writer = SummaryWriter(folder / "tensorboard", purge_step=None)
    text = yaml.safe_dump(dict(config), sort_keys=False)
    writer.add_text("configuration", indent(text, "    "))  # as a block of Markdown
    return writer
