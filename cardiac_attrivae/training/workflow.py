"""A pipeline and a slice store become a trained run: `train` is the one function that does it."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from ignite.handlers import EarlyStopping
from monai.bundle import PythonicWorkflow
from monai.engines import SupervisedEvaluator

from ..data.store import SliceDataset
from ..runtime.device import deterministic, find_device, idle_cores
from ..runtime.distributed import barrier, from_first, is_first, processes
from ..runtime.folders import in_use
from ..schema import LARGEST_SEED, DataError
from .config import AUTO, PRECISIONS, Pipeline
from .engines import NetworkTrainer
from .fitted import fitted
from .folder import LAST, claimed, kept_precision
from .guidance import Guide, MakeGuide
from .learner import Learner, attach_validation
from .precision import precision_for
from .records import Records
from .refiner_learner import about_base, check_base
from .run import Run, load_run
from .trackers import parse_trackers

Row = dict[str, float]
"""A row of history.csv: column -> value."""


def train(
    pipeline: Pipeline,
    store: SliceDataset,
    output: str | Path,
    *,
    device: str = "auto",
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    trackers: Sequence[str] = (),
    tell: Callable[[Row], None] = lambda row: None,
    handlers: Sequence[Any] = (),
    guide: MakeGuide | None = None,
    on: str | Path | None = None,
) -> TrainingWorkflow:
    """Trains one model on a store, as the command ``train`` does; under torchrun in all processes.

    Args:
        pipeline: What to train, see `load_pipeline`.
        store: Slices; the model is trained on the train split and validated on the val split.
        output: Folder of the run.
        device, seed, resume, overwrite, trackers: See `TrainingWorkflow`.
        tell: Called with the row of history.csv after each validation, in the first process.
        handlers: Attached to the trainer of the first process, a progress bar for example.
        guide, on: See `TrainingWorkflow`.

    Returns:
        The finished workflow; ``writes`` says whether this process is the one that wrote the run.

    Raises:
        DataError, ValueError: See `TrainingWorkflow`.
        FloatingPointError: If the training diverges.
    """
    with processes(find_device(device)) as place, idle_cores():
        workflow = TrainingWorkflow(
            pipeline,
            store.split("train"),
            store.split("val"),
            output,
            device=str(place),
            seed=seed,
            resume=resume,
            overwrite=overwrite,
            tell=tell if is_first() else lambda row: None,
            handlers=tuple(handlers) if is_first() else (),
            trackers=trackers,
            guide=guide,
            on=on,
        )
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    return workflow


def _complete(slices: SliceDataset, names: Sequence[str]) -> SliceDataset:
    """Leaves out slices of which an attribute is not known, and says how many."""
    known = slices.complete(names)
    if len(known) < len(slices):
        warnings.warn(
            f"{len(slices) - len(known)} of {len(slices)} slices of {slices.folder} are left out: "
            f"one of {', '.join(names)} is blank, because no mask shows it",
            stacklevel=3,
        )
    return known


class TrainingWorkflow(PythonicWorkflow):
    """Trains one pipeline on one store: initialize, run, finalize, as MONAI's bundles call them.

    From ``initialize`` until ``finalize`` returns, or one of the three fails, the folder is locked
    and, if the pipeline asks for it, torch computes deterministically.

    Args:
        pipeline: What to train.
        train: Slices to train on.
        val: Slices to validate on; may be empty, then nothing is scored.
        output: Folder of the run.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        seed: Seed of the initial weights, the order of slices, noise and augmentation.
        resume: Whether to go on from the folder's last.pt, if there is one.
        overwrite: Whether a run in the folder may be replaced.
        tell: Called with the row of history.csv after each validation.
        handlers: Attached to the trainer besides its own, a progress bar for example.
        trackers: Where else the run is recorded: ``mlflow``, ``mlflow:URI``, ``wandb``,
            ``wandb:PROJECT``, see `parse_trackers`.
        guide: Makes the guide, `segmentation.guide.train_guide`; called if the objective asks for
            one, with the training slices of all levels.
        on: Folder of the run whose pictures a refiner paints over; None for any other objective.

    Raises:
        DataError: If there are too few slices, the folder holds another run, another process has
            locked it, or there is too little space.
        ValueError: If the pipeline does not fit network, store or device.
    """

    learner: Learner  # network, loss and targets; there after ``initialize``
    _trainer: NetworkTrainer  # MONAI uses trainer, evaluator and device itself
    _evaluator: SupervisedEvaluator | None
    stopping: EarlyStopping | None
    records: Records  # what is written into the folder; there after ``initialize``

    def __init__(
        self,
        pipeline: Pipeline,
        train: SliceDataset,
        val: SliceDataset,
        output: str | Path,
        *,
        device: str = "auto",
        seed: int = 0,
        resume: bool = False,
        overwrite: bool = False,
        tell: Callable[[Row], None] = lambda row: None,
        handlers: Sequence[Any] = (),
        trackers: Sequence[str] = (),
        guide: MakeGuide | None = None,
        on: str | Path | None = None,
    ) -> None:
        super().__init__(workflow_type="train", meta_file=[])
        if not 0 <= seed <= LARGEST_SEED:
            raise ValueError(f"seed is {seed}; expected a whole number from 0 to {LARGEST_SEED}")
        self.pipeline, self.output, self.seed = fitted(pipeline, train), Path(output), seed
        self.resume, self.overwrite, self.tell, self.handlers = resume, overwrite, tell, handlers
        self.trackers = parse_trackers(trackers)
        train, val = (_complete(slices, pipeline.attributes) for slices in (train, val))
        basal = pipeline.data.slices == "basal"
        whole = pipeline.objective.whole
        self.train = train.basal() if basal else train
        objective = self.pipeline.objective.fitted(len(self.train))
        self.pipeline = replace(self.pipeline, objective=objective)
        self._slices, self._make_guide = train, guide
        self.val = val if whole else val.basal()
        self._device, self.writes, self.seconds = find_device(device), is_first(), 0.0
        self._resources = ExitStack()
        if len(self.train) < 2:
            raise DataError(f"{len(self.train)} slices in the train split; expected at least 2")
        if pipeline.is_guided and guide is None:
            raise ValueError(
                "objective.control or objective.anatomy is above 0, or network.arguments.outlines "
                "is true, but no guide was given; pass guide=train_guide of "
                "cardiac_attrivae.segmentation.guide, or set both to 0 and outlines to false"
            )
        self.base = self._opened(on)

    def initialize(self) -> None:
        """Builds network and engines, claims the folder, and goes on from its checkpoint."""
        super().initialize()
        with self._released_on_error():
            if self.pipeline.deterministic:
                self._resources.enter_context(deterministic())
            if self.pipeline.precision == AUTO:
                self.pipeline = replace(self.pipeline, precision=self._precision())
            self.learner = self._learner(self.pipeline)
            config = self._configuration()
            if is_first():  # not earlier: a wrong configuration has been refused above
                if self.base:
                    self._resources.enter_context(in_use(self.base.folder))
                self._claim(config)
            barrier()
            self.learner.guide = self._guide()
            resumed = self.resume and (self.output / LAST).is_file()
            if not resumed:
                self.learner.begin()
            self._trainer = self.learner.make_trainer(self.handlers)
            self._evaluator = self.learner.make_evaluator(self.val) if len(self.val) else None
            self.stopping = None
            if self._evaluator is not None:
                self.stopping = attach_validation(self._trainer, self._evaluator, self.pipeline)
            self.records = Records(
                self.output,
                self.learner,
                self._trainer,
                self._evaluator,
                self.stopping,
                self.val,
                config=config,
                tell=self.tell,
                trackers=self.trackers,
            )
            self._resources.enter_context(self.records)
            self.records.attach()
            if resumed:
                self.records.resume()

    def _opened(self, on: str | Path | None) -> Run | None:
        """Opens the run that is painted over, if the objective does that."""
        name, paints = self.pipeline.objective.name, self.pipeline.objective.paints
        if paints != (on is not None):
            wanted = "paints over the pictures of a run: give it with" if paints else "takes no"
            raise ValueError(f"objective {name} {wanted} --on RUN (on=)")
        if on is None:
            return None
        base = load_run(on, str(self._device), plain=True)
        check_base(base, self.train)
        return base

    def _learner(self, pipeline: Pipeline) -> Learner:
        learner = pipeline.objective.make_learner(pipeline, self.train, self._device, self.seed)
        learner.base = self.base
        return learner

    def _guide(self) -> Guide | None:
        """Makes the guide, if one is asked for: the first process trains it, the others read it."""
        if self._make_guide is None or not self.pipeline.is_guided:
            return None
        if not is_first():
            barrier()
        guide = self._make_guide(self._slices, self.output, self._device)
        if is_first():
            barrier()
        return guide

    def run(self) -> None:
        """Trains until the last epoch, or until early stopping (``patience``) ends it."""
        with self._released_on_error():
            start, stopping = time.perf_counter(), self.stopping
            stopped = stopping is not None and stopping.counter >= stopping.patience
            if self.records.start_epoch < self.pipeline.schedule.epochs and not stopped:
                try:
                    self._trainer.run()
                except FloatingPointError as error:
                    raise FloatingPointError(f"{error}. {self._advice()}") from error
            self.seconds = time.perf_counter() - start

    def finalize(self) -> None:
        """Writes model.safetensors and summary.json: with them the run is complete."""
        with self._resources:
            epoch_kept = self.records.load_kept()
            self.learner.complete()  # in every process: statistics are gathered from all
            if is_first():
                self.records.finish(epoch_kept, self.seconds)
            barrier()

    @contextmanager
    def _released_on_error(self) -> Iterator[None]:
        """Unlocks the folder, and releases everything else, if the block fails."""
        try:
            yield
        except BaseException:
            self._resources.__exit__(*sys.exc_info())
            raise

    def _advice(self) -> str:
        """What to do about a training that has diverged."""
        change = "Lower optimiser.lr, or the weight of the term"
        if not (self.output / LAST).is_file():
            return f"{change}, and run the same command again: {self.output} has no checkpoint yet"
        return (
            f"{change}, and train into another folder: {self.output} keeps its last checkpoint, "
            "but can go on only with the same configuration"
        )

    def _precision(self) -> str:
        """The number format of the run to be resumed, else the faster one; in all processes."""
        place = self._device
        choice = kept_precision(self.output) if self.resume else None
        if choice not in PRECISIONS:
            trial = replace(self.pipeline, precision=PRECISIONS[0])
            choice = precision_for(place, lambda: self._learner(trial).make_trainer())
        return PRECISIONS[int(from_first(PRECISIONS.index(choice), place))]

    def _claim(self, config: Mapping[str, Any]) -> None:
        size = sum(part.nbytes for part in self.learner.model.state_dict().values())
        self._resources.enter_context(
            claimed(self.output, config, size, resume=self.resume, overwrite=self.overwrite)
        )

    def _configuration(self) -> dict[str, Any]:
        """What config.yaml holds."""
        return {
            "pipeline": self.pipeline.to_dict(),
            "seed": self.seed,
            "data": self.train.name,
            "content_hash": self.train.info["content_hash"],
            **({"base": about_base(self.base)} if self.base else {}),
        }

    # what MONAI asks a training workflow for

    def get_bundle_root(self) -> str:
        return str(self.output)

    def get_dataset_dir(self) -> str:
        return str(self.train.folder)

    def get_device(self) -> torch.device:
        return self._device

    def get_trainer(self) -> NetworkTrainer:
        return self._trainer

    def get_evaluator(self) -> SupervisedEvaluator | None:
        return self._evaluator

    def get_max_epochs(self) -> int:
        return self.pipeline.schedule.epochs

    def get_train_dataset(self) -> SliceDataset:
        return self.train

    def get_val_dataset(self) -> SliceDataset:
        return self.val

    def get_train_inferer(self) -> Callable:
        return self._trainer.inferer
