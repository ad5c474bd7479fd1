"""A pipeline and a slice store become a trained run: the only place where everything meets."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from textwrap import indent
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from ignite.engine import Engine, Events
from ignite.handlers import EarlyStopping
from monai.bundle import PythonicWorkflow
from monai.handlers import ValidationHandler
from PIL import Image
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from ..data.loader import DeviceLoader, read_ahead
from ..data.store import SliceDataset, Slices
from ..models.losses import AttriVAELoss, SoftIntroLoss
from ..models.networks import build_network, recalibrate
from ..models.perceptual import perceptual_loss
from ..report.curves import training_curves
from ..runtime.device import describe_device, find_device, peak_memory_mib
from ..runtime.distributed import (
    barrier,
    from_first,
    is_first,
    processes,
    share,
    synchronise,
    world_size,
)
from ..runtime.files import enough_space, write
from ..runtime.folders import empty, is_empty, locked
from ..runtime.provenance import versions
from ..runtime.weights import write_weights
from ..runtime.yaml_files import read_yaml
from ..schema import DataError, Keys
from .augmentation import AttributeTargets, Augmenter, prepared
from .config import Augmentation, Pipeline, load_pipeline, parse_pipeline
from .engines import NetworkTrainer, SoftIntroTrainer, VAEEvaluator, VAETrainer, deterministic
from .handlers import Checkpoints, History, KLBalance, LossTerms, Pictures
from .objectives import Objective, SoftIntroObjective
from .run import draw_reconstructions, draw_traversals, encode, make_evaluator, memory_format
from .trackers import Tracking, parse_trackers

PACKAGES = ("monai", "numpy", "pytorch-ignite", "scikit-learn", "torch")

COPIES = 10
"""How often a run keeps the weights at most: in last.pt with their average and two moments, twice
while that is replaced, in best.pt and in the model."""


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
    tell: Callable[[dict[str, float]], None] = lambda row: None,
    handlers: Sequence[Any] = (),
) -> TrainingWorkflow:
    """Trains one model on a store, as the command ``train`` does; under torchrun in all processes.

    Args:
        pipeline: What to train, see `load_pipeline`.
        store: Slices; its train split is learnt, its val split watched.
        output: Folder of the run.
        device, seed, resume, overwrite, trackers: See `TrainingWorkflow`.
        tell: Called with the row of history.csv after each validation, in the first process.
        handlers: Attached to the trainer of the first process, a progress bar for example.

    Returns:
        The finished workflow; ``writes`` says whether this process is the one that wrote the run.

    Raises:
        DataError, ValueError: See `TrainingWorkflow`.
        FloatingPointError: If training diverges.
    """
    with processes(find_device(device)) as place:
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
        )
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    return workflow


class TrainingWorkflow(PythonicWorkflow):
    """Trains one pipeline on one store.

    ``initialize`` builds, ``run`` trains, ``finalize`` writes model and summary.

    Args:
        pipeline: What to train.
        train: Slices to train on.
        val: Slices to validate on; may be empty, then nothing is scored.
        output: Folder of the run.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        seed: Of the initial weights, the order of slices, noise and augmentation.
        resume: Whether to go on from the folder's last.pt, if there is one.
        overwrite: Whether a folder that holds a run may be started anew.
        tell: Called with the row of history.csv after each validation.
        handlers: Attached to the trainer besides its own, a progress bar for example.
        trackers: Where else the run is kept: ``mlflow``, ``mlflow:URI``, ``wandb``,
            ``wandb:PROJECT``, see `trackers.parse_trackers`.

    Raises:
        DataError: If there is nothing to train on, the folder holds another run or is locked by it,
            or there is too little room.
        ValueError: If the pipeline does not fit network or device.
    """

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
        tell: Callable[[dict[str, float]], None] = lambda row: None,
        handlers: tuple[Any, ...] = (),
        trackers: Sequence[str] = (),
    ) -> None:
        super().__init__(workflow_type="train", meta_file=[])
        self.pipeline, self.output = pipeline, Path(output)
        self.seed, self.resume, self.overwrite = seed, resume, overwrite
        self.tell, self.extra_handlers = tell, handlers
        self.trackers = parse_trackers(trackers)
        basal = pipeline.data.slices == "basal"
        self._train, self._val = train.basal() if basal else train, val.basal()
        self._device = find_device(device)
        self.writes = is_first()
        self._basal = self._train.basal()
        if len(self._train) < 2:
            raise DataError(f"{len(train)} slices in the train split; expected at least 2")

    @classmethod
    def from_store(
        cls,
        pipeline: str | Mapping[str, Any],
        data: str | Path,
        output: str | Path,
        changes: Sequence[str] = (),
        **options: Any,
    ) -> TrainingWorkflow:
        """A workflow from names, as ``monai.bundle run_workflow`` and a bundle's train.json give.

        Args:
            pipeline: Name of one that comes along, a YAML file, or all its values.
            data: Folder that ``preprocess`` wrote; its train split is learnt, val watched.
            output: Folder of the run.
            changes: ``key=value``, see `load_pipeline`.
            options: Device, seed, resume and the others of the class.
        """
        store = SliceDataset.open(data)
        values = isinstance(pipeline, Mapping)
        wanted = parse_pipeline(pipeline) if values else load_pipeline(pipeline, changes)
        return cls(wanted, store.split("train"), store.split("val"), output, **options)

    def initialize(self) -> None:
        """Builds network, engines and handlers, and restores them if the run is resumed.

        From here on the folder is locked, until training fails or the files of the run are written.
        So long the switches that a pipeline's ``deterministic`` asks for are on, too.
        """
        super().initialize()
        with ExitStack() as self._claim:
            if self.pipeline.deterministic:
                self._claim.enter_context(deterministic())
            self._build()
            self._claim = self._claim.pop_all()

    def _build(self) -> None:
        torch.manual_seed(self.seed)
        pipeline, device = self.pipeline, self._device
        self.network = build_network(pipeline.network.name, **pipeline.network.arguments)
        self.network.to(device, memory_format=memory_format(pipeline))
        synchronise(self.network)
        if self.network.latent_size < len(pipeline.attributes):
            raise ValueError(
                f"{len(pipeline.attributes)} attributes for {self.network.latent_size} "
                "latent dimensions"
            )
        averaged = average_of(self.network, pipeline.optimiser.average)
        self.model = averaged.module if averaged else self.network  # what is evaluated and saved
        if pipeline.speed.compile:
            compile_passes(self.network)
        self.generator = torch.Generator(device).manual_seed(self.seed + 1)
        self.targets = AttributeTargets(self._train, pipeline.attributes, pipeline.data.residual)
        if not is_first():
            barrier()  # the first one may have to download the weights of a perceptual network
        objective = make_loss(pipeline.objective).to(device)
        if is_first():
            barrier()
        self.perceptual = getattr(objective, "perceptual", None)
        if is_first():  # what can be wrong with the configuration would have shown by now
            self._claim_folder()
        barrier()

        self._trainer = self._make_trainer(objective, averaged)
        self._evaluator = self._make_evaluator(objective) if len(self._val) else None
        self._stopping = self._attach_validation() if self._evaluator else None
        parts = {
            "network": self.network,
            "averaged": averaged,
            "stopping": self._stopping,
        }
        for name, optimiser, scheduler in zip(
            ("", "decoder_"), self.optimisers, self._trainer.schedulers, strict=False
        ):
            parts |= {f"{name}optimiser": optimiser, f"{name}scheduler": scheduler}
        self._attach_records({name: part for name, part in parts.items() if part is not None})
        self.start_epoch = 0
        if self.resume and (self.output / "last.pt").is_file():
            self.start_epoch = self.checkpoints.resume(self._trainer, device)
            self.history.resume(self.start_epoch)

    def run(self) -> None:
        """Trains until the last epoch, or until validation has not improved for long."""
        with self._claim:
            self._run()
            self._claim = self._claim.pop_all()

    def _run(self) -> None:
        start = time.perf_counter()
        stopped = self._stopping is not None and self._stopping.counter >= self._stopping.patience
        if self.start_epoch < self.pipeline.schedule.epochs and not stopped:
            self._trainer.run()
        self.seconds = time.perf_counter() - start

    def finalize(self) -> None:
        """Writes model.safetensors and summary.json: with them the run is complete."""
        with self._claim:
            self._load_kept()
            self._recalibrate()  # every process: batch norm counts over all of them
            if is_first():
                self._write()
            barrier()

    def _load_kept(self) -> None:
        """Weights of the best epoch, if the pipeline keeps those."""
        self.epoch_kept = self._trainer.state.epoch
        if self.pipeline.schedule.keep == "best" and (self.output / "best.pt").is_file():
            best = torch.load(self.output / "best.pt", self._device, weights_only=True)
            self.model.load_state_dict(best)
            self.epoch_kept = self.checkpoints.best_epoch

    def _write(self) -> None:
        epochs = self._trainer.state.epoch
        statistics = self._code_statistics()
        self._draw(statistics)
        about = {
            "pipeline": self.pipeline.to_dict(),
            "seed": self.seed,
            "train_dataset": self._train.name,
            **{key: self._train.info.get(key) for key in ("title", "citation", "synthetic")},
            "recipe": self._train.info["recipe"],
            "content_hash": self._train.info["content_hash"],
            "attribute_mean": self.targets.mean.tolist(),
            "attribute_deviation": self.targets.deviation.tolist(),
            **{name: values.tolist() for name, values in statistics.items()},
        }
        if self.perceptual is not None:
            about["perceptual"] = {"name": self.perceptual.name, "sha256": self.perceptual.digest}
        write_weights(self.output / "model.safetensors", self.model.state_dict(), about)
        done = (epochs - self.start_epoch) * self._trainer.state.epoch_length
        summary = {
            "method": self.pipeline.method,
            "train_dataset": self._train.name,
            "content_hash": self._train.info["content_hash"],
            "store": str(self._train.folder.resolve()),
            "train_slices": len(self._train),
            "train_cases": int(self._train.cases["case"].nunique()),
            "val_cases": int(self._val.cases["case"].nunique()),
            "seed": self.seed,
            "epochs": epochs,
            "epoch_kept": self.epoch_kept,
            "wall_time_s": round(self.seconds, 2),
            "steps_per_second": round(done / self.seconds, 2) if self.seconds else 0.0,
            "peak_memory_mib": round(peak_memory_mib(self._device)),
            "device": describe_device(self._device),
            "processes": world_size(),
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "versions": versions(PACKAGES),
        }
        write(self.output / "summary.json", json.dumps(summary, indent=2) + "\n")
        self.history.writer.close()
        self.tracking.keep()

    # what MONAI asks a training workflow for

    def get_bundle_root(self) -> str:
        return str(self.output)

    def get_dataset_dir(self) -> str:
        return str(self._train.folder)

    def get_device(self) -> torch.device:
        return self._device

    def get_trainer(self) -> NetworkTrainer:
        return self._trainer

    def get_evaluator(self) -> VAEEvaluator | None:
        return self._evaluator

    def get_max_epochs(self) -> int:
        return self.pipeline.schedule.epochs

    def get_train_dataset(self) -> SliceDataset:
        return self._train

    def get_val_dataset(self) -> SliceDataset:
        return self._val

    def get_train_inferer(self) -> Callable:
        return self._trainer.inferer

    def _claim_folder(self) -> None:
        """Locks the folder, and leaves one whose config.yaml is this run's."""
        self._claim.enter_context(locked(self.output))
        config = self.output / "config.yaml"
        wanted = self._resolved()
        if config.is_file():
            if self.resume and _configuration(config) != wanted:
                raise DataError(
                    f"{self.output} holds a run with another configuration, seed or data; "
                    "resume with the same, or choose another folder"
                )
            if not (self.resume or self.overwrite):
                raise DataError(
                    f"{self.output} holds a run; add --resume, or choose another folder"
                )
            if not self.resume:
                # killed in here, it leaves a run of the old configuration that has yet to begin
                for name in ("model.safetensors", "summary.json", "last.pt"):
                    (self.output / name).unlink(missing_ok=True)
                empty(self.output, config.name)
        elif not is_empty(self.output):
            raise DataError(f"{self.output} is neither a run nor an empty folder; choose another")
        if not (self.resume and config.is_file()):
            weights = sum(part.nbytes for part in self.model.state_dict().values())
            enough_space(self.output, COPIES * weights)
            write(config, yaml.safe_dump(wanted, sort_keys=False))

    def _resolved(self) -> dict[str, Any]:
        """What config.yaml holds."""
        return {
            "pipeline": self.pipeline.to_dict(),
            "seed": self.seed,
            "data": self._train.name,
            "content_hash": self._train.info["content_hash"],
        }

    def _loader(self, prepare: Callable[[Slices], Slices]) -> DeviceLoader:
        data, steps = self.pipeline.data, self.pipeline.schedule.steps_per_epoch
        weights = None
        if data.basal_weight or steps:
            weights = np.where(self._train.is_basal, data.basal_weight or 1.0, 1.0)
        return DeviceLoader(
            self._train,
            self.targets.values,
            data.batch_size,
            self._device,
            self.generator,
            weights,
            steps or None,
            prepare,
        )

    def _make_trainer(self, objective: nn.Module, averaged: AveragedModel | None) -> NetworkTrainer:
        pipeline, device = self.pipeline, self._device
        augmenter, prepare = None, dict
        if pipeline.augmentation != Augmentation():
            augmenter = Augmenter(self._train, self.targets, pipeline.augmentation, device)
            prepare = prepared
        loader = self._loader(prepare)
        introspective = isinstance(pipeline.objective, SoftIntroObjective)
        parts = split_parameters(self.network) if introspective else [self.network.parameters()]
        self.optimisers = [
            torch.optim.AdamW(
                part,
                pipeline.optimiser.lr,
                betas=pipeline.optimiser.betas,
                weight_decay=pipeline.optimiser.weight_decay,
                fused=pipeline.speed.fused,
            )
            for part in parts
        ]
        common = {
            "device": device,
            "max_epochs": pipeline.schedule.epochs,
            "train_data_loader": loader,
            "epoch_length": len(loader),
            "network": self.network,
            "optimizer": self.optimisers[0],
            "loss_function": objective,
            "generator": self.generator,
            "augment": augmenter,
            "schedulers": [
                LambdaLR(optimiser, lambda step: rate(step, len(loader), pipeline))
                for optimiser in self.optimisers
            ],
            "averaged": averaged,
            "precision": getattr(torch, pipeline.precision),
            "memory_format": memory_format(pipeline),
            "train_handlers": [LossTerms(), *self.extra_handlers],
        }
        if not introspective:
            return VAETrainer(**common)
        return SoftIntroTrainer(
            decoder_optimizer=self.optimisers[1],
            vae_epochs=pipeline.objective.vae_epochs,
            # running statistics that nobody recalibrates must see every pass
            shared_passes=pipeline.speed.shared_passes and pipeline.bn_recalibrate,
            **common,
        )

    def _make_evaluator(self, objective: nn.Module) -> VAEEvaluator:
        values = self.targets.standardise(self._val.attributes(self.pipeline.attributes))
        evaluator = make_evaluator(
            self.model,
            self._val,
            self.pipeline.attributes,
            dimensions=self.pipeline.dimensions(self.pipeline.attributes),
            device=self._device,
            standardised=values,
            loss_function=objective,
        )
        evaluator.add_event_handler(Events.STARTED, self._recalibrate)
        return evaluator

    def _recalibrate(self) -> None:
        """Batch norm's running statistics, on the training patients' basal slices."""
        if self.pipeline.bn_recalibrate:
            count = len(self._basal)
            batches = torch.arange(count).tensor_split(math.ceil(count / 64))
            mine = (rows[share(len(rows))] for rows in batches)
            recalibrate(self.model, self._basal_images(mine))

    def _basal_images(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """The training patients' basal slices, (n, 1, H, W), on the device; of rows (n,)."""
        read = read_ahead(self._basal, batches, self._device)
        return (slices[Keys.IMAGE] for slices in read)

    def _attach_validation(self) -> EarlyStopping | None:
        """Validates every few epochs and after the last one; stops if patience says so."""
        schedule, interval = self.pipeline.schedule, self.pipeline.schedule.evaluate_every
        ValidationHandler(interval, self._evaluator, True).attach(self._trainer)
        if schedule.epochs % interval:
            ValidationHandler(schedule.epochs, self._evaluator, True).attach(self._trainer)
        if not schedule.patience:
            return None

        def score(engine: Engine) -> float:
            return from_first(self._score(engine), self._device)

        stopping = EarlyStopping(max(1, schedule.patience // interval), score, self._trainer)
        self._evaluator.add_event_handler(Events.COMPLETED, stopping)
        return stopping

    def _attach_records(self, parts: dict[str, Any]) -> None:
        """History, checkpoints and pictures; after the validation, whose scores they read."""
        schedule = self.pipeline.schedule
        self.history = History(
            self.output / "history.csv",
            self._evaluator,
            schedule.evaluate_every,
            self._tensorboard() if is_first() else None,
            self.tell,
        )
        self.checkpoints = Checkpoints(
            self.output,
            parts,
            self.generator,
            schedule.evaluate_every,
            self.model,
            (lambda: -self._score(None)) if self._evaluator else None,
        )
        if not is_first():
            return
        KLBalance().attach(self._trainer)
        self.history.attach(self._trainer)
        self.checkpoints.attach(self._trainer)
        if schedule.pictures_every:
            pictures = Pictures(
                lambda: self._draw(self._code_statistics()), schedule.pictures_every
            )
            pictures.attach(self._trainer)
        self.tracking = Tracking(
            self.trackers,
            self.output,
            self._resolved() | {"versions": versions(PACKAGES)},
            lambda: self.history.rows,
        )
        self._claim.enter_context(self.tracking)
        self.tracking.attach(self._trainer)

    def _score(self, engine: Any) -> float:
        """Larger is better, as ignite has it."""
        return -self._evaluator.state.metrics["loss"]

    def _tensorboard(self) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(self.output / "tensorboard", purge_step=None)
        text = yaml.safe_dump(self._resolved(), sort_keys=False)
        writer.add_text("configuration", indent(text, "    "))  # Markdown of a block as it is
        return writer

    def _code_statistics(self) -> dict[str, np.ndarray]:
        """Mean and standard deviation of the codes of the training patients' basal slices, (D,)."""
        batches = self._basal_images(torch.arange(len(self._basal)).split(64))
        codes = np.concatenate([encode(self.model, images)[0] for images in batches])
        return {"code_mean": codes.mean(axis=0), "code_deviation": codes.std(axis=0)}

    def _draw(self, statistics: dict[str, np.ndarray]) -> None:
        folder = self.output / "figures"
        if self.history.rows:
            history = pd.DataFrame(self.history.rows)
            few = history.filter(regex=r"^(?!.*(/|_fixed|_MSE))")  # the rest is in history.csv
            training_curves(few, folder / "training_curves.png")
        shown = self._val if len(self._val) else self._train.basal()
        shown = shown.take(range(min(8, len(shown))))
        draw_reconstructions(self.model, shown, folder / "reconstructions.png")
        names = self.pipeline.attributes
        draw_traversals(self.model, names, statistics, folder / "traversals.png")
        for file in sorted(folder.glob("*.png")):
            pixels = np.asarray(Image.open(file).convert("RGB"))
            step = self._trainer.state.epoch
            self.history.writer.add_image(f"figures/{file.stem}", pixels, step, dataformats="HWC")


def _configuration(file: Path) -> Any:
    """What the config.yaml of a run says."""
    try:
        return read_yaml(file.read_bytes())
    except ValueError as error:
        raise DataError(
            f"{file} cannot be read: {error}; without it a run cannot be resumed: choose another "
            "folder"
        ) from None


def make_loss(objective: Objective) -> nn.Module:
    """The loss function that a pipeline's objective describes, feature network included."""
    arguments = {name: value for name, value in vars(objective).items() if name != "name"}
    if not isinstance(objective, SoftIntroObjective):
        return AttriVAELoss(**arguments)
    del arguments["vae_epochs"]
    name, weights = arguments.pop("perceptual"), arguments.pop("perceptual_weights")
    return SoftIntroLoss(**arguments, perceptual=perceptual_loss(name, weights or None))


def compile_passes(network: nn.Module, **options: Any) -> None:
    """torch.compile with these options for encode and decode, in place."""
    # else a graph could be traversed once alone, and shared passes are traversed twice
    torch._functorch.config.donated_buffer = False
    for name in ("encode", "decode"):
        setattr(network, name, torch.compile(getattr(network, name), **options))


def split_parameters(network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The encoder's and the decoder's: what ``network.decoder`` holds is the decoder's.

    Raises:
        ValueError: If it has no ``decoder``.
    """
    if not isinstance(getattr(network, "decoder", None), nn.Module):
        raise ValueError(
            f"network {type(network).__name__} has no module called decoder; Soft-Intro training "
            "must know which parameters are the decoder's"
        )
    decoder = list(network.decoder.parameters())
    known = {id(parameter) for parameter in decoder}
    return [p for p in network.parameters() if id(p) not in known], decoder


def rate(step: int, epoch_length: int, pipeline: Pipeline) -> float:
    """Factor of the learning rate in a step: warm-up, milestones, half a cosine."""
    optimiser, steps = pipeline.optimiser, epoch_length * pipeline.schedule.epochs
    warmup = optimiser.warmup * steps
    if step < warmup:
        return min(1.0, (step + 1) / warmup)  # the warm-up may end within a step
    factor = 0.1 ** sum(step >= epoch * epoch_length for epoch in optimiser.milestones)
    if optimiser.schedule == "constant":
        return factor
    return factor * 0.5 * (1 + math.cos(math.pi * min(1, (step - warmup) / max(1, steps - warmup))))


def average_of(network: nn.Module, decay: float) -> AveragedModel | None:
    """Exponential running average of the weights, which forgets the first steps sooner."""

    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        now = min(decay, (1 + int(count)) / (10 + int(count)))
        torch._foreach_lerp_(averaged, current, 1 - now)

    return AveragedModel(network, multi_avg_fn=update) if decay else None
