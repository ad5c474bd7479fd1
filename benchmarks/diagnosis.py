"""Diagnosis over all patients: pooled over folds, and the baseline by nested cross-validation.

    python benchmarks/diagnosis.py --data STORE FOLDER...

A FOLDER is what ``diagnose`` wrote for the model of one fold of a cross-validation; each patient is
scored in one of them. Prints balanced accuracy, AUROC, Brier score and calibration error of all
patients together, with 95 % intervals. With --data also those of the attributes in cases.csv of
STORE, without any model: nested cross-validation over its patients. The null distribution permutes
the classes and does everything again.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy: one process, one core

from pathlib import Path

import click
import numpy as np
import pandas as pd

from cardiac_attrivae.attributes import ATTRIBUTES
from cardiac_attrivae.data.manifest import load_manifest
from cardiac_attrivae.data.store import SliceDataset
from cardiac_attrivae.metrics.classifiers import CLASSIFIERS, Sample, cross_validated
from cardiac_attrivae.metrics.diagnosis import diagnosis_scores
from cardiac_attrivae.metrics.metric import Score
from cardiac_attrivae.runtime.spreadsheet import read_csv


def pooled(folders: tuple[Path, ...]) -> dict[str, list[Score]]:
    """Scores of each way to predict, over the patients of all folders."""
    table = pd.concat([read_csv(folder / "predictions.csv") for folder in folders])
    classes = sorted(set(table["truth"]))
    scores = {}
    for way, rows in table.groupby(["features", "classifier"], sort=False):
        if rows["case"].duplicated().any():
            raise click.UsageError("a patient is scored in several folders; give those of one run")
        truth = np.array([classes.index(name) for name in rows["truth"]])
        probability = rows[[f"p({name})" for name in classes]].to_numpy(float)
        scores[", ".join(way)] = diagnosis_scores(truth, probability, [*rows["case"]], classes)
    return scores


def measured(data: Path, permutations: int) -> dict[str, list[Score]]:
    """Scores of the measured attributes of a store by nested cross-validation."""
    dataset = SliceDataset.open(data)
    again = {case for group in load_manifest(dataset.name).duplicates for case in group[1:]}
    cases = dataset.basal().cases
    cases = cases[~cases["case"].isin(again)]
    names = [name for name in ATTRIBUTES if name in cases and np.isfinite(cases[name]).all()]
    classes = sorted(set(cases["pathology"]))
    labels = np.array([classes.index(name) for name in cases["pathology"]])
    sample = Sample(cases[names].to_numpy(float), labels, cases["case"].to_numpy(str))
    scores = {}
    for name in ("logistic regression", "random forest"):
        found, *null = (
            cross_validated(CLASSIFIERS[name], one)
            for one in (sample, *map(sample.permuted, range(permutations)))
        )
        chance = [(one.truth, one.probability) for one in null]
        scores[f"{len(names)} measured attributes, {name}"] = diagnosis_scores(
            found.truth, found.probability, found.cases, classes, chance
        )
    return scores


def show(scores: dict[str, list[Score]]) -> None:
    for way, found in scores.items():
        cells = [
            f"{s.metric} {s.value:.2f} [{s.low:.2f}, {s.high:.2f}]"
            + (f" chance {s.null:.2f}, p {s.p:.3f}" if np.isfinite(s.p) else "")
            for s in found if s.attribute == "mean"
        ]  # fmt: skip
        each = [f"{s.attribute} {s.value:.2f}" for s in found
                if s.metric == "AUROC" and s.attribute != "mean"]  # fmt: skip
        click.echo(f"{way} ({found[0].patients} patients): {'; '.join(cells)}; {', '.join(each)}")


@click.command()
@click.option("--data", type=Path, help="Store whose measured attributes are read as well.")
@click.option("--permutations", default=20, show_default=True)
@click.argument("folders", type=Path, nargs=-1)
def main(data: Path | None, permutations: int, folders: tuple[Path, ...]) -> None:
    if folders:
        show(pooled(folders))
    if data:
        show(measured(data, permutations))


if __name__ == "__main__":
    main()
