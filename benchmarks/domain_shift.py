"""What helps a model on pictures of other scanners than it was trained on?

    python benchmarks/domain_shift.py phantoms --output DIR
    python benchmarks/domain_shift.py patients --acdc STORE --mnms STORE --output DIR
    python benchmarks/domain_shift.py shipped --mnms STORE

Every entry of `CANDIDATES` is trained on one domain and reads areas in the others, by the lines
that were fitted on its training patients: nothing is fitted again.

``phantoms``: the same hearts are taken by each vendor's scanner. Trained on some hearts of one
vendor, scored on other hearts at all four. ``patients``: trained on ACDC without the first of five
folds; scored on that fold, on the same fold with its pictures changed (`CHANGES`), and on patients
of M&Ms, each by its name. ``shipped``: errors of the shipped models on patients of M&Ms, as they
are and with the statistics of batch norm estimated again on the slices of these patients.

Every finished training is kept in OUTPUT and not done again. One process, one core.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: one process, one core

import copy
import json
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import torch
from cross_validation import folds_of
from monai.transforms import (
    AdjustContrast,
    Compose,
    GibbsNoise,
    RandBiasField,
    RandGaussianNoise,
    RandHistogramShift,
    Resize,
    Transform,
)
from torch import Tensor

from cardiac_attrivae.data.manifest import load_manifest
from cardiac_attrivae.data.phantom import write_phantoms
from cardiac_attrivae.data.preprocess import preprocess
from cardiac_attrivae.data.recipe import Recipe
from cardiac_attrivae.data.scanner import SCANNERS
from cardiac_attrivae.data.store import SliceDataset
from cardiac_attrivae.data.transforms import ScaleIntensityInMaskd
from cardiac_attrivae.metrics.codes import score
from cardiac_attrivae.metrics.prediction import mean_absolute_error, r2
from cardiac_attrivae.models.networks import recalibrate
from cardiac_attrivae.models.vae import VAE
from cardiac_attrivae.schema import Keys, LatentTable
from cardiac_attrivae.segmentation.guide import train_guide
from cardiac_attrivae.training.config import Pipeline, load_pipeline
from cardiac_attrivae.training.run import encode, load_run
from cardiac_attrivae.training.workflow import TrainingWorkflow

PERCENTS = (1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 99)


@dataclass(frozen=True)
class Candidate:
    """One thing to try.

    Attributes:
        options: What it changes in the pipeline.
        standardise: Whether the brightness of every slice gets the histogram of the training
            slices.
        adapt: Whether batch norm's statistics are estimated again on the pictures to be read.
        like: Candidate whose training is used, if it differs in ``adapt`` alone.
    """

    options: tuple[str, ...] = ()
    standardise: bool = False
    adapt: bool = False
    like: str = ""


LIGHT = ("blood", "muscle", "contrast", "bias", "blur", "noise")
NAMES = ("LVEDA", "MEDA", "RVEDA")
PIPELINE = "attri_vae_unguided"
"""What candidates are changes of; attri_vae_fast adds guidance of its drawings to it."""
USUAL = load_pipeline(PIPELINE).augmentation

CANDIDATES = {
    "default": Candidate(),
    "no intensity": Candidate(tuple(f"augmentation.{name}=0" for name in LIGHT)),
    "double intensity": Candidate(
        tuple(f"augmentation.{name}={2 * getattr(USUAL, name)}" for name in LIGHT)
    ),
    "style": Candidate(("augmentation.style=1",)),
    "instance": Candidate(("network.arguments.normalisation=instance",)),
    "batch": Candidate(("network.arguments.normalisation=batch",)),
    "batch adapted": Candidate(adapt=True, like="batch"),
    "histogram": Candidate(standardise=True),
}


class Histogram:
    """Maps percentiles inside the mask of a slice to their means over the training slices.

    References:
        | New variants of a method of MRI scale standardization (Nyul, Udupa & Zhang, 2000)
        | https://doi.org/10.1109/42.836373
    """

    def __init__(self, train: SliceDataset) -> None:
        pairs = zip(train.images.numpy(), train.labels.numpy() > 0, strict=True)
        self.landmarks = np.mean([np.percentile(i[m], PERCENTS) for i, m in pairs], axis=0)

    def __call__(self, image: np.ndarray, inside: np.ndarray) -> np.ndarray:
        own = np.percentile(image[inside], PERCENTS)
        own += np.arange(len(own)) * 1e-6  # equal percentiles would have no order
        new = np.interp(image, own, self.landmarks)  # beyond these lie 0 and 1 already
        return np.where(inside, new, 0).astype(np.float32)


Change = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""A slice (C, H, W) and its mask to another slice."""


def changed(dataset: SliceDataset, change: Change) -> SliceDataset:
    """A dataset in memory with changed pictures."""
    labels = dataset.labels.numpy()
    pairs = zip(dataset.images.numpy(), labels > 0, strict=True)
    images = np.stack([change(*pair) for pair in pairs])
    return SliceDataset(images, labels, dataset.cases, dataset.info, dataset.folder)


def by(*steps: Transform) -> Change:
    """Changes pictures by transforms of MONAI, and scales them again as preprocessing does."""
    scale = ScaleIntensityInMaskd(Keys.IMAGE, Keys.LABEL, (1, 99))
    transform = Compose(steps).set_random_state(0)

    def change(image: np.ndarray, inside: np.ndarray) -> np.ndarray:
        new = np.asarray(transform(torch.from_numpy(image)), dtype=np.float32)
        return scale({Keys.IMAGE: new, Keys.LABEL: inside})[Keys.IMAGE].astype(np.float32)

    return change


CHANGES = {
    "gamma 2": by(AdjustContrast(2.0)),
    "gamma 1/2": by(AdjustContrast(0.5)),
    "curves": by(RandHistogramShift(8, prob=1)),
    "bias field": by(RandBiasField(3, (0.2, 0.5), prob=1)),
    "half resolution": by(Resize((64, 64), mode="area"), Resize((128, 128), mode="bilinear")),
    "ringing": by(GibbsNoise(0.75)),
    "noise": by(RandGaussianNoise(1, std=0.15, sample_std=False)),
}


def adapted(network: VAE, images: Tensor) -> VAE:
    """A copy whose batch norm knows these pictures alone. No mask of theirs is used."""
    network = copy.deepcopy(network)
    recalibrate(network, images.split(64))
    return network


def train(pipeline: Pipeline, slices: SliceDataset, run: Path, seed: int) -> VAE:
    """Trains on slices; or goes on, if that was interrupted."""
    workflow = TrainingWorkflow(
        pipeline, slices, slices.take([]), run, device="cpu", seed=seed, resume=True,
        guide=train_guide,
    )  # fmt: skip
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    return workflow.learner.model


def read(network: VAE, source: SliceDataset, target: SliceDataset, adapt: bool) -> dict[str, Any]:
    """Reads the areas of patients by lines that were fitted on others.

    Args:
        network: Trained on ``source``.
        source: The training patients, one slice each.
        target: The patients to read, one slice each or more.
        adapt: See `Candidate`.
    """
    known, values = encode(network, source.images)[0], source.measured(NAMES)
    if adapt:
        network = adapted(network, target.images)
    codes = encode(network, target.images)[0]
    lines = [np.polyfit(known[:, k], values[:, k], 1) for k in range(len(NAMES))]
    predicted = np.stack([np.polyval(line, codes[:, k]) for k, line in enumerate(lines)], axis=1)
    return {
        "cases": list(target.cases["case"]), "measured": target.measured(NAMES).tolist(),
        "predicted": predicted.tolist(), "codes": codes[:, : len(NAMES)].tolist(),
    }  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """What candidates are trained on and read.

    Attributes:
        output: Where each leaves a file of what it read, and its run.
        label: Name of the domain that is trained on.
        pipeline: What candidates are changes of.
        length: Options that say how long to train.
        source: Slices to train on.
        targets: Slices of patients to read, by name.
    """

    output: Path
    label: str
    pipeline: str
    length: tuple[str, ...]
    source: SliceDataset
    targets: Mapping[str, SliceDataset]

    def run(self, name: str, seed: int) -> None:
        """Trains a candidate and keeps what it reads, unless that is there."""
        file = self.output / f"{name} {self.label} {seed}.json"
        if file.is_file():
            return
        candidate = CANDIDATES[name]
        start, trained = time.process_time(), candidate.like or name
        options = (*self.length, *CANDIDATES[trained].options)
        source, targets = self.source, self.targets
        if candidate.standardise:
            histogram = Histogram(source)
            source = changed(source, histogram)
            targets = {key: changed(target, histogram) for key, target in targets.items()}
        network = train(
            load_pipeline(self.pipeline, options), source,
            self.output / "runs" / f"{trained} {self.label} {seed}", seed,
        )  # fmt: skip
        found = {
            key: read(network, source.basal(), target, candidate.adapt)
            for key, target in targets.items()
        }
        about = {"candidate": name, "source": self.label, "seed": seed}
        about |= {"seconds": time.process_time() - start, "targets": found}
        file.write_text(json.dumps(about))
        click.echo(f"{name}, {self.label}, seed {seed}: {about['seconds']:.0f} s")


def rows_of(output: Path) -> pd.DataFrame:
    """A row per training and target with its scores."""
    rows = []
    for file in sorted(output.glob("*.json")):
        about = json.loads(file.read_text())
        for target, found in about.pop("targets").items():
            measured, predicted = np.array(found["measured"]), np.array(found["predicted"])
            row = {**about, "target": target, "n": len(set(found["cases"]))}
            row |= {"MAE": mean_absolute_error(predicted, measured).mean()}
            row |= dict(zip(NAMES, mean_absolute_error(predicted, measured), strict=True))
            if row["n"] > 4:
                table = LatentTable(
                    tuple(found["cases"]), np.array(found["codes"]), measured, NAMES, (0, 1, 2)
                )
                scores = {s.metric: s.value for s in score(table) if s.attribute == "mean"}
                row["R2"] = r2(predicted, measured).mean()
                row |= {key: scores[key] for key in ("Interpretability_fixed", "SCC")}
            rows.append(row)
    return pd.DataFrame(rows)


def against_default(output: Path, targets: Iterable[str]) -> pd.DataFrame:
    """Errors less those of ``default`` on the same patients, with 95 % intervals over patients.

    ``mean of changes`` is over all targets but the first.
    """
    errors: dict[str, Any] = {}
    for file in output.glob("*.json"):
        about, found = json.loads(file.read_text()), {}
        for target in targets:
            read = about["targets"][target]
            found[target] = np.abs(np.subtract(read["predicted"], read["measured"])).mean(axis=1)
        found["mean of changes"] = np.mean([*found.values()][1:], axis=0)
        errors.setdefault(about["candidate"], []).append(found)
    mean = {name: pd.DataFrame(sum(map(pd.DataFrame, e)) / len(e)) for name, e in errors.items()}
    cells = {}
    for name, table in mean.items():
        gain = (table - mean["default"]).to_numpy()
        drawn = gain[np.random.default_rng(0).integers(0, len(gain), (4000, len(gain)))].mean(
            axis=1
        )
        ends = np.quantile(drawn, (0.025, 0.975), axis=0)
        rows = zip(gain.mean(axis=0), *ends, strict=True)
        cells[name] = [f"{value:+.2f} [{low:+.2f}, {high:+.2f}]" for value, low, high in rows]
    return pd.DataFrame(cells, index=mean["default"].columns)


only = click.option(
    "--only", multiple=True, type=click.Choice([*CANDIDATES]), default=[*CANDIDATES]
)


@click.group()
def main() -> None:
    """Measure candidates."""


@main.command()
@click.option("--output", type=Path, required=True)
@click.option("--cases", default=100, show_default=True, help="Hearts; half are trained on.")
@click.option("--steps", default=300, show_default=True)
@click.option("--seeds", default=1, show_default=True)
@only
def phantoms(output: Path, cases: int, steps: int, seeds: int, only: list[str]) -> None:
    """Train on the phantoms of one vendor, score on all."""
    output.mkdir(parents=True, exist_ok=True)
    stores = {}
    for vendor in SCANNERS:
        folder = output / "stores" / vendor
        if not folder.is_dir():
            scans = output / "scans" / vendor
            write_phantoms("mnms", scans, cases, quirks=False, cine=False, vendor=vendor)
            preprocess(load_manifest("mnms"), scans, folder, Recipe(slice="all"))
        stores[vendor] = SliceDataset.open(folder)
    tests = {vendor: store.split("test").basal() for vendor, store in stores.items()}
    length = ("data.batch_size=16", "schedule.epochs=1", f"schedule.steps_per_epoch={steps}")
    trials = [
        Trial(output, vendor, PIPELINE, length, store.split("train"), tests)
        for vendor, store in stores.items()
    ]
    for seed, trial, name in product(range(seeds), trials, only):
        trial.run(name, seed)
    table = rows_of(output)
    table["home"] = table["source"] == table["target"]
    scores = ["MAE", "R2", "Interpretability_fixed", "SCC"]
    click.echo(table.groupby(["candidate", "home"])[scores].mean().unstack().round(3).to_string())
    away = table[~table["home"]].pivot_table("MAE", "candidate", ["source", "target"])
    click.echo(away.round(2).to_string())


@main.command()
@click.option("--acdc", type=Path, required=True, help="Store of ACDC, --slice all.")
@click.option("--mnms", type=Path, required=True, help="Store of M&Ms, --slice all.")
@click.option("--output", type=Path, required=True)
@click.option("--pipeline", default=PIPELINE, show_default=True)
@click.option("--epochs", default=8, show_default=True, help="Of 50 steps.")
@click.option("--seeds", default=1, show_default=True)
@only
def patients(
    acdc: Path, mnms: Path, output: Path, pipeline: str, epochs: int, seeds: int, only: list[str]
) -> None:
    """Train on patients of ACDC, score on others and on those of M&Ms."""
    output.mkdir(parents=True, exist_ok=True)
    store, other = SliceDataset.open(acdc), SliceDataset.open(mnms)
    held_out = store.cases["case"].isin(folds_of(store, 5)[0])
    source = store.take(np.flatnonzero(~held_out))
    unseen = store.take(np.flatnonzero(held_out)).basal()
    targets = {"ACDC": unseen} | {name: changed(unseen, how) for name, how in CHANGES.items()}
    for case, rows in other.cases.groupby("case").indices.items():
        mine = other.take(rows)
        vendor = mine.cases["domain"].iloc[0]
        targets |= {f"{case} ({vendor})": mine.basal(), f"{case}, every slice": mine}
    trial = Trial(output, "ACDC", pipeline, (f"schedule.epochs={epochs}",), source, targets)
    for seed, name in product(range(seeds), only):
        trial.run(name, seed)
    table = rows_of(output)
    for metric in ("MAE", "R2", "Interpretability_fixed", "SCC", *NAMES):
        click.echo(f"\n{metric}")
        click.echo(table.pivot_table(metric, "target", "candidate").round(3).to_string())
    click.echo("\nerrors less those of default")
    click.echo(against_default(output, ["ACDC", *CHANGES]).to_string())


@main.command()
@click.option("--mnms", type=Path, required=True, help="Store of M&Ms, --slice all.")
def shipped(mnms: Path) -> None:
    """Read patients of M&Ms with the shipped models."""
    everything = SliceDataset.open(mnms)
    basal, rows = everything.basal(), []
    for model, (how, seen) in product(
        ("acdc/attri_vae_fast", "acdc/attri_sivae_fast"),
        {"as it is": None, "adapted, basal": basal, "adapted, all": everything}.items(),
    ):
        run = load_run(model)
        network = run.network if seen is None else adapted(run.network, seen.images)
        codes, lines = encode(network, basal.images)[0], run.about["calibration"]
        for k, name in enumerate(NAMES):
            line = lines[name]
            predicted = line["slope"] * codes[:, line["dimension"]] + line["intercept"]
            error = predicted - basal.measured(NAMES)[:, k]
            found = zip(basal.cases["case"], error, strict=True)
            rows += [(model, how, case, name, value) for case, value in found]
    table = pd.DataFrame(rows, columns=["model", "statistics", "case", "attribute", "error_cm2"])
    errors = table.pivot_table("error_cm2", ["model", "statistics"], ["case", "attribute"])
    click.echo(errors.assign(MAE=errors.abs().mean(axis=1)).round(2).to_string())


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
