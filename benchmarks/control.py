"""Measures what cross-validated models draw: turned dimensions, reconstructions, hearts on request.

    python benchmarks/control.py --data STORE --output FILE.csv CV_FOLDER...

A CV_FOLDER is what `cross_validation.py` wrote. In every fold the lines from dimensions to
attributes are fitted, and the U-Net that measures is taught, on the patients that the models of
this fold were trained on; turned, reconstructed and measured are those left out. Prints, per
method, the mean over seeds and its standard deviation: measured control over all patients, Dice of
reconstructions, and the median absolute error of 30 random requests per fold, of one attribute and
of all areas at once (volumes of stacks), uniform between the smallest and the largest heart of the
training patients. Of an ejection fraction the fractional area change of the slice is measured. What
one U-Net aimed at is measured by another one; each was taught by half of the training patients.
Models that were trained through a guide are measured by the U-Net of the half that it never saw.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: one process, one core

from pathlib import Path

import click
import numpy as np
import pandas as pd
from cross_validation import folds_of
from joblib import Parallel, delayed
from torch import Tensor

from cardiac_attrivae.attributes import ATTRIBUTES, drawn, is_size
from cardiac_attrivae.data.store import SliceDataset, areas
from cardiac_attrivae.evaluation.aiming import aimed
from cardiac_attrivae.evaluation.control import measure_control
from cardiac_attrivae.evaluation.passes import codes_of
from cardiac_attrivae.metrics.calibration import Calibration
from cardiac_attrivae.metrics.control import control_scores
from cardiac_attrivae.metrics.images import dice
from cardiac_attrivae.runtime.device import find_device
from cardiac_attrivae.schema import Scale, structures_at
from cardiac_attrivae.segmentation.guide import refuse_guide
from cardiac_attrivae.segmentation.judge import Segmenter, scored
from cardiac_attrivae.segmentation.judge_training import train_network
from cardiac_attrivae.training.run import Run, decode, load_run, reconstruct

REQUESTS = 30


def measure_fold(
    data: Path, folders: tuple[Path, ...], fold: int, folds: int
) -> dict[str, pd.DataFrame]:
    """Control, Dice and requests of all models of a fold, with the method and seed of each."""
    dataset, cpu = SliceDataset.open(data), find_device("cpu")
    left_out = dataset.cases["case"].isin(folds_of(dataset, folds)[fold])
    train, unseen = (dataset.take(np.flatnonzero(rows)) for rows in (~left_out, left_out))
    names = sorted(train.cases["case"].unique())
    segmenter, aim, judge = (
        scored(
            train_network(train.take(train.cases["case"].isin(part).to_numpy().nonzero()[0])),
            unseen.basal(),
        )
        for part in (names, names[::2], names[1::2])
    )
    known, target = train.basal(), unseen.basal()
    own = dice_of(segmenter(target.images), target)
    tables = {"control": [], "dice": [], "requests": []}
    tables["segmenter"] = [own.mean().to_frame().T]
    for folder in folders:
        for file in sorted(folder.glob(f"run_seed*_fold{fold}/model.safetensors")):
            run = load_run(file.parent)
            names = run.pipeline.attributes
            about = {"method": run.pipeline.method, "seed": run.about["seed"], "fold": fold}
            calibration = Calibration.fit(codes_of(run, known, names, cpu))
            table = codes_of(run, target, names, cpu)
            scale = target.scale
            # a guide is trained on names[::2]: the judge has neither patients nor weights of it
            measuring = judge if "guide" in run.about else segmenter
            refuse_guide(run.about, measuring)
            found = {
                "control": measure_control(
                    run.network, measuring, calibration, table.codes, table.cases, scale
                ),
                "dice": dice_of(measuring(reconstruct(run.network, target.images)), target),
                "requests": requests(run, calibration, aim, judge, table.codes, scale, fold),
            }
            for name, part in found.items():
                tables[name].append(part.assign(**about))
    return {name: pd.concat(parts, ignore_index=True) for name, parts in tables.items()}


def dice_of(labels: Tensor, target: SliceDataset) -> pd.DataFrame:
    """Dice of each structure at each phase, over all slices of a stack."""
    phases = zip(
        *(some.cpu().chunk(len(target.phases), dim=1) for some in (labels, target.labels)),
        strict=True,
    )
    found = np.concatenate([dice(*both) for both in phases], axis=1)
    return pd.DataFrame(found, columns=list(structures_at(target.phases)))


def requests(
    run: Run,
    calibration: Calibration,
    aim: Segmenter,
    judge: Segmenter,
    codes: np.ndarray,
    scale: Scale,
    seed: int,
) -> pd.DataFrame:
    """Errors of random requests in the unit of each, from the codes of random patients."""
    rng = np.random.default_rng(seed)
    values = rng.uniform(calibration.low, calibration.high, (REQUESTS, len(calibration.names)))
    wanted = dict(zip(calibration.names, values.T, strict=True))
    start = codes[rng.integers(len(codes), size=REQUESTS)]
    asked = [(name,) for name in calibration.names]
    if len(set(calibration.dimensions)) == len(asked):  # else they cannot all be asked at once
        asked.append(tuple(name for name in calibration.names if is_size(name, scale.unit)))
    rows = []
    for names in asked:
        request = {name: wanted[name] for name in names}
        ways = {
            "by the line": calibration.set(start, request),
            "aimed": aimed(run.network, aim, calibration, start, request, scale),
        }
        for way, places in ways.items():
            measured = areas(judge(decode(run.network, places)), scale)
            how = f"{'alone' if len(names) == 1 else 'together'}, {way}"
            for name in names:
                error = drawn(name, measured, scale.unit) - wanted[name]
                rows.append(pd.DataFrame({"attribute": name, "how": how, "error": error}))
    return pd.concat(rows, ignore_index=True)


@click.command()
@click.option("--data", type=Path, required=True)
@click.option("--output", type=Path, required=True)
@click.option("--folds", default=5, show_default=True, help="As cross_validation.py was told.")
@click.option("--jobs", default=1, show_default=True)
@click.argument("folders", type=Path, nargs=-1, required=True)
def main(data: Path, output: Path, folds: int, jobs: int, folders: tuple[Path, ...]) -> None:
    parts = Parallel(n_jobs=jobs)(
        delayed(measure_fold)(data, folders, fold, folds) for fold in range(folds)
    )
    tables = {name: pd.concat([part[name] for part in parts]) for name in parts[0]}
    known = SliceDataset.open(data).basal()
    deviations, unit = known.areas.std(axis=0), known.scale.unit
    rows = []
    for (method, seed), group in tables["control"].groupby(["method", "seed"]):
        scores = control_scores(group, deviations, rounds=1, unit=unit)
        rows += [(method, seed, score.metric, score.attribute, score.value) for score in scores]
    for (method, seed), group in tables["dice"].groupby(["method", "seed"]):
        rows += [
            (method, seed, "Dice", name, group[name].mean()) for name in structures_at(known.phases)
        ]
    grouped = tables["requests"].groupby(["method", "seed", "how", "attribute"])
    for (method, seed, how, attribute), group in grouped:
        error = group["error"].abs().median()
        unit = ATTRIBUTES[attribute].unit
        rows.append((method, seed, f"request {how}: median error, {unit}", attribute, error))
    table = pd.DataFrame(rows, columns=["method", "seed", "metric", "attribute", "value"])
    table.to_csv(output, index=False)
    seeds = table.groupby(["metric", "attribute", "method"], sort=False)["value"]
    shown = seeds.mean().map("{:.3f}".format) + seeds.std(ddof=1).map(
        lambda spread: "" if np.isnan(spread) else f" +- {spread:.3f}"
    )
    click.echo("Segmenter on slices of patients left out, Dice:")
    click.echo(tables["segmenter"].describe().loc[["mean", "min", "max"]].to_string())
    click.echo(shown.unstack("method").to_string())


if __name__ == "__main__":
    main()
