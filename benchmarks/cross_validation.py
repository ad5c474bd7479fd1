"""Scores a pipeline on unseen patients: k-fold cross-validation over a store, for several seeds.

    python benchmarks/cross_validation.py --pipeline attri_vae_fast --data STORE --output DIR

Folds are stratified by pathology and the same for every seed; known duplicate scans share a fold.
A pipeline that keeps its best epoch chooses it on 15 % of the training patients, never on the fold
that is scored. Every finished (seed, fold) is kept in OUTPUT and not done again. Prints a table:
mean over folds, then mean and standard deviation over seeds, of scores on basal slices. ``pooled``
is R^2 over all patients at once, each predicted by a line fitted on its fold's training patients.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: one process, one core

import json
import time
from pathlib import Path
from typing import cast

import click
import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

from cardiac_attrivae.data.manifest import load_manifest
from cardiac_attrivae.data.store import SliceDataset
from cardiac_attrivae.segmentation.guide import train_guide
from cardiac_attrivae.training.config import Pipeline, load_pipeline
from cardiac_attrivae.training.scores import make_evaluator
from cardiac_attrivae.training.vae_learner import VAELearner
from cardiac_attrivae.training.workflow import TrainingWorkflow


def folds_of(dataset: SliceDataset, folds: int) -> list[np.ndarray]:
    """Patients held out in each fold."""
    patients = dataset.cases.drop_duplicates("case")
    twin = {case: min(group) for group in _duplicates(dataset.name) for case in group}
    groups = [twin.get(case, case) for case in patients["case"]]
    split = StratifiedGroupKFold(folds, shuffle=True, random_state=0)
    parts = split.split(patients["case"], patients["pathology"], groups)
    return [patients["case"].to_numpy()[held_out] for _, held_out in parts]


def _duplicates(dataset: str) -> tuple[tuple[str, ...], ...]:
    return load_manifest(dataset).duplicates


def run_fold(
    pipeline: Pipeline, data: Path, output: Path, seed: int, fold: int, folds: int, device: str
) -> None:
    """Trains without one fold and writes what the model scores on it."""
    file = output / f"seed{seed}_fold{fold}.json"
    if file.is_file():
        return
    dataset = SliceDataset.open(data)
    cases = dataset.cases["case"]
    held_out = folds_of(dataset, folds)[fold]
    train = dataset.take(np.flatnonzero(~cases.isin(held_out)))
    unseen = dataset.take(np.flatnonzero(cases.isin(held_out))).basal()
    val = train.take([])
    if pipeline.schedule.keep == "best":
        patients = train.cases.drop_duplicates("case")
        _, chosen = train_test_split(
            patients["case"], test_size=0.15, stratify=patients["pathology"], random_state=0
        )
        inside = train.cases["case"].isin(chosen)
        train, val = (train.take(np.flatnonzero(rows)) for rows in (~inside, inside))

    run = output / f"run_seed{seed}_fold{fold}"
    workflow = TrainingWorkflow(
        pipeline, train, val, run, device=device, seed=seed, resume=True, guide=train_guide
    )
    workflow.initialize()
    start = time.process_time()
    workflow.run()
    workflow.finalize()
    seconds = time.process_time() - start

    names = pipeline.attributes
    learner = cast(VAELearner, workflow.learner)
    evaluator = make_evaluator(
        learner.model, unseen, names, dimensions=pipeline.dimensions(names), device=device,
        more=learner.columns(unseen),
    )  # fmt: skip
    evaluator.run()
    codes, values = learner.basal_codes(), learner.known.measured(names)
    table = evaluator.state.table
    lines = [np.polyfit(codes[:, k], values[:, k], 1) for k in range(len(names))]
    predicted = np.stack([np.polyval(line, table.codes[:, k]) for k, line in enumerate(lines)], 1)
    file.write_text(
        json.dumps(
            {
                "seconds": seconds,
                "metrics": evaluator.state.metrics,
                "cases": table.cases,
                "true": table.attributes.tolist(),
                "predicted": predicted.tolist(),
            }
        )
    )


def summarise(output: Path, names: tuple[str, ...], work: list[tuple[int, int]]) -> pd.DataFrame:
    """Rows are metrics, columns mean and sd over seeds of each attribute and of the mean."""
    per_seed = []
    for seed in sorted({seed for seed, _ in work}):
        files = [output / f"seed{seed}_fold{fold}.json" for s, fold in work if s == seed]
        parts = [json.loads(file.read_text()) for file in files]
        row = pd.DataFrame([part["metrics"] for part in parts]).mean().to_dict()
        true, predicted = (np.concatenate([p[k] for p in parts]) for k in ("true", "predicted"))
        pooled = [np.corrcoef(true[:, k], predicted[:, k])[0, 1] ** 2 for k in range(len(names))]
        row |= {f"pooled/{name}": value for name, value in zip(names, pooled, strict=True)}
        row |= {"pooled": float(np.mean(pooled))}
        row |= {"core-minutes": np.mean([part["seconds"] for part in parts]) / 60}
        per_seed.append(row)
    frame = pd.DataFrame(per_seed)
    columns = {name: f"/{name}" for name in names} | {"mean": ""}
    metrics = [column for column in frame if "/" not in column]
    cells = {
        metric: {
            head: f"{frame[metric + tail].mean():.3f} +- {frame[metric + tail].std(ddof=1):.3f}"
            for head, tail in columns.items()
            if metric + tail in frame
        }
        for metric in metrics
    }
    return pd.DataFrame(cells).T.reindex(columns=list(columns)).fillna("")


@click.command()
@click.option("--pipeline", "name", default="attri_vae_fast", show_default=True)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE")
@click.option("--data", type=Path, required=True)
@click.option("--output", type=Path, required=True)
@click.option("--seeds", default=5, show_default=True)
@click.option("--folds", default=5, show_default=True)
@click.option("--first-folds", type=int, help="Train these alone; the table says how many.")
@click.option("--jobs", default=2, show_default=True, help="Processes, one core each.")
@click.option("--device", default="cpu", show_default=True)
def main(
    name: str,
    overrides: tuple[str, ...],
    data: Path,
    output: Path,
    seeds: int,
    folds: int,
    first_folds: int | None,
    jobs: int,
    device: str,
) -> None:
    pipeline = load_pipeline(name, overrides)
    output.mkdir(parents=True, exist_ok=True)
    work = [(seed, fold) for seed in range(seeds) for fold in range(first_folds or folds)]
    Parallel(n_jobs=jobs)(
        delayed(run_fold)(pipeline, data, output, seed, fold, folds, device) for seed, fold in work
    )
    table = summarise(output, pipeline.attributes, work)
    table.to_csv(output / "table.csv")
    click.echo(f"{seeds} seeds, {first_folds or folds} of {folds} folds")
    click.echo(table.to_string())


if __name__ == "__main__":
    main()
