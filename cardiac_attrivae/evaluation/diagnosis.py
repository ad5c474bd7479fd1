"""What codes say about the diagnosis: what the command ``diagnose`` does.

Classes are predicted from codes, from parts of them, and from measured attributes as the baseline,
of patients that neither the model nor the classifier has seen.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from ..metrics.classifiers import (
    CLASSIFIERS,
    FOLDS,
    Predicted,
    Sample,
    cross_validated,
    transferred,
)
from ..metrics.diagnosis import BINS, confusion, diagnosis_scores, reliability
from ..metrics.metric import Score
from ..report.attention import WORDS, draw_attention
from ..report.diagnosis import PICTURES, Diagnosis, draw_diagnosis
from ..runtime.device import find_device
from ..runtime.files import write
from ..runtime.outputs import claimed
from ..runtime.pool import Failure, processes, run_each
from ..runtime.progress import Progress, silent
from ..runtime.provenance import versions
from ..runtime.spreadsheet import csv_text
from ..schema import DataError, Keys
from ..training.run import Run, load_run
from .attention import attention_of, last_map
from .diagnosis_samples import (
    CODES,
    FREE,
    MEASURED,
    NOTHING,
    OWN,
    TRAINED,
    Cohort,
    gather,
    trained_dimensions,
)
from .parts import PACKAGES

WAYS = (
    (CODES, "logistic regression"),
    (CODES, "MLP"),
    (TRAINED, "logistic regression"),
    (FREE, "logistic regression"),
    (OWN, "trained with the model"),
    (MEASURED, "logistic regression"),
    (MEASURED, "MLP"),
    (MEASURED, "random forest"),
    (NOTHING, "majority class"),
)
"""What is predicted from, and by which classifier."""
UNFITTED = (OWN, NOTHING)
"""What is not explained, and has no null distribution: nothing is fitted to the classes."""
SHOWN = 8
"""Patients whose attention is drawn, of every class."""
BEFORE = ["dataset", "features", "classifier"]
SHAP, SHUFFLED = "mean |SHAP|, logit", "fall of balanced accuracy"
"""Kinds of importance, see `importance_of`."""


class Way(NamedTuple):
    """One way to predict, and its patients: a job that another process can do."""

    features: str  # what classes are predicted from
    classifier: str  # name of an entry of `CLASSIFIERS`
    # patients to fit on; None for nested cross-validation within each data set
    known: Sample | None
    new: dict[str, Sample]  # data set -> patients to predict
    classes: dict[str, list[str]]  # data set -> names of the classes
    folds: int  # outer folds, without known patients
    rounds: int  # draws of patients behind intervals
    permutations: int  # draws of the null distribution
    seed: int  # seed of everything


class Found(NamedTuple):
    """Predictions of one way on one data set, and their scores."""

    dataset: str
    way: Way
    predicted: Predicted
    scores: list[Score]


def diagnose(
    run: str | Path,
    stores: Sequence[str | Path | tuple[Path, str | None]],
    output: str | Path,
    *,
    column: str = "pathology",
    within: bool = False,
    folds: int = FOLDS,
    rounds: int = 1000,
    permutations: int = 100,
    seed: int = 0,
    workers: int = 1,
    device: str = "auto",
    progress: Progress = silent,
) -> pd.DataFrame:
    """Predicts the class of unseen patients from their codes, and scores and explains it.

    Classifiers are fitted on the patients that the model was trained on, or ``within`` the unseen
    patients of each data set by nested cross-validation. Writes scores.csv, predictions.csv,
    confusion.csv, reliability.csv, importance.csv, attention.csv, diagnosis.json, figures/ and
    report.html.

    Args:
        run: Folder that ``train`` wrote, or the name of a shipped model.
        stores: Folders that ``preprocess`` wrote, or pairs of folder and split; patients that the
            model was trained on are left out.
        output: Folder to write into.
        column: Column of cases.csv that holds the class.
        within: Whether classifiers are fitted within the unseen patients of each data set.
        folds: Outer folds of the nested cross-validation.
        rounds: Draws of patients.
        permutations: Draws of the null distribution: classes are permuted over patients, and
            everything is done again.
        seed: Seed of folds, estimators and draws.
        workers: Processes.
        device: See `find_device`.
        progress: Wraps the finished ways and their number.

    Returns:
        scores.csv: a row per data set, features, classifier, score and class (or ``mean``).

    Raises:
        DataError: If a run or store cannot be read, they do not fit, or there are too few patients.
    """
    where, model, output = find_device(device), load_run(run, device), Path(output)
    pairs = [one if isinstance(one, tuple) else (Path(one), None) for one in stores]
    cohort = gather(model, pairs, column, within, where)
    ways = _ways(cohort, folds, rounds, permutations, seed)
    with claimed(output, "diagnose") as claim:
        found: list[Found] = []
        with processes(workers) as pool:
            for way, result in progress(run_each(pool, compute, ways), len(ways)):
                if isinstance(result, Failure):
                    raise DataError(f"{way.features}: {result.value}; try fewer workers")
                found += result
        found.sort(key=lambda one: ([*cohort.new].index(one.dataset), _place(one.way)))
        tables = {
            "scores": _table(_scores(one) for one in found),
            "predictions": _table(_predictions(one) for one in found),
            "confusion": _table(_confusion(one) for one in found),
            "reliability": _table(_reliability(one) for one in found),
            "importance": _table(_importance(one, cohort) for one in found),
        }
        about = {
            "run": model.name,
            "method": model.pipeline.method,
            "train_dataset": model.about["train_dataset"],
            "column": column,
            "within": within,
            "fitted_on": None if cohort.known is None else len(cohort.known.classes),
            "classes": cohort.classes,
            "patients": {name: len(some.classes) for name, some in cohort.new.items()},
            "seed": seed,
            "folds": folds,
            "rounds": rounds,
            "permutations": permutations,
            "notes": cohort.notes,
            "chosen": [
                {"dataset": one.dataset, "features": one.way.features,
                 "classifier": one.way.classifier, "options": one.predicted.chosen}
                for one in found
            ],
            "versions": versions(PACKAGES),
        }  # fmt: skip
        texts = [*(f"{name}.csv" for name in (*tables, "attention")), "diagnosis.json"]
        kinds = (*PICTURES, "attention")
        figures = [f"figures/{kind}_{name}.png" for name in cohort.new for kind in kinds]
        claim.plan([*texts, *figures, "report.html"])
        pictures, tables["attention"] = _attention(model, cohort, where, output)
        for name, table in tables.items():
            write(output / f"{name}.csv", csv_text(table, "%.6g"))
        write(output / "diagnosis.json", json.dumps(about, indent=2) + "\n")
        files = draw_diagnosis(Diagnosis(about, tables, pictures), output)
        claim.keep([*texts, *files])
    return tables["scores"]


def _attention(
    run: Run, cohort: Cohort, device: torch.device, output: Path
) -> tuple[dict[str, str], pd.DataFrame]:
    """Draws where the encoder looks in some unseen patients of each data set, of every class."""
    dimensions, pictures, tables = trained_dimensions(run), dict[str, str](), []
    for name, patients in cohort.new.items() if dimensions else ():
        order = patients.classes.argsort(kind="stable")
        rows = order[np.unique(np.linspace(0, len(order) - 1, SHOWN).round().astype(int))]
        some = patients.slices.take(rows)
        if last_map(run.network, some.read([0])[Keys.IMAGE].to(device)) is None:
            continue
        maps, table = attention_of(run, some, dimensions, device)
        file = f"figures/attention_{name}.png"
        images, labels = some.images[:, 0].numpy(), some.labels[:, 0].numpy()
        draw_attention(maps, images, labels, patients.classes[rows].tolist(), output / file)
        pictures[file] = f"{name}. {WORDS}"
        tables.append(table.assign(dataset=name))
    return pictures, pd.concat(tables) if tables else pd.DataFrame()


def _place(way: Way) -> int:
    return WAYS.index((way.features, way.classifier))


def _ways(cohort: Cohort, folds: int, rounds: int, permutations: int, seed: int) -> list[Way]:
    """Lists the ways whose features are there: a beta-VAE has no attribute dimensions."""
    return [
        Way(features, classifier, *cohort.samples(features), cohort.classes, folds, rounds,
            permutations, seed)
        for features, classifier in WAYS if features in cohort.columns
    ]  # fmt: skip


def compute(way: Way) -> list[Found]:
    """Predicts and scores each data set, and does the same with permuted classes."""
    predicted = _predict(way, way.known, way.new, explained=way.features not in UNFITTED)
    null: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in way.new}
    for draw in range(way.permutations if way.features not in UNFITTED else 0):
        for name, one in _permuted(way, way.seed + draw).items():
            null[name].append((one.truth, one.probability))
    return [
        Found(name, way, one, diagnosis_scores(
            one.truth, one.probability, one.cases, way.classes[name], null[name], way.rounds,
            way.seed,
        ))
        for name, one in predicted.items()
    ]  # fmt: skip


def _permuted(way: Way, seed: int) -> dict[str, Predicted]:
    """Permutes the classes that classifiers are fitted on, and does everything again."""
    if way.known is not None:
        return _predict(way, way.known.permuted(seed), way.new)
    return _predict(way, None, {name: one.permuted(seed) for name, one in way.new.items()})


def _predict(
    way: Way, known: Sample | None, new: Mapping[str, Sample], explained: bool = False
) -> dict[str, Predicted]:
    classifier = CLASSIFIERS[way.classifier]
    if known is not None:
        return transferred(classifier, known, new, way.seed, explained)
    return {
        name: cross_validated(classifier, sample, way.folds, way.seed, explained)
        for name, sample in new.items()
    }


Rows = Iterator[dict[str, Any]]


def _table(rows: Iterator[Rows]) -> pd.DataFrame:
    return pd.DataFrame([row for part in rows for row in part])


def _about(found: Found) -> dict[str, Any]:
    values = found.dataset, found.way.features, found.way.classifier
    return dict(zip(BEFORE, values, strict=True))


def _scores(found: Found) -> Rows:
    for score in found.scores:
        names = ("value", "low", "high", "null", "null_95", "p", "patients")
        numbers = {name: getattr(score, name) for name in names}
        yield _about(found) | {"metric": score.metric, "class": score.attribute} | numbers


def _predictions(found: Found) -> Rows:
    classes, one = found.way.classes[found.dataset], found.predicted
    for case, truth, probability in zip(one.cases, one.truth, one.probability, strict=True):
        said = {"truth": classes[truth], "predicted": classes[probability.argmax()]}
        each = {f"p({name})": p for name, p in zip(classes, probability, strict=True)}
        yield _about(found) | {"case": case.partition("/")[2]} | said | each


def _confusion(found: Found) -> Rows:
    classes, one = found.way.classes[found.dataset], found.predicted
    counts = confusion(one.truth, one.probability)
    for truth, row in zip(classes, counts, strict=True):
        for predicted, count in zip(classes, row, strict=True):
            yield _about(found) | {"truth": truth, "predicted": predicted, "patients": int(count)}


def _reliability(found: Found) -> Rows:
    bins = zip(*reliability(found.predicted.truth, found.predicted.probability), strict=True)
    for place, (count, confidence, accuracy) in enumerate(bins):
        ends = {"from": place / BINS, "to": (place + 1) / BINS}
        values = {"patients": int(count), "confidence": confidence, "accuracy": accuracy}
        yield _about(found) | ends | values


def _importance(found: Found, cohort: Cohort) -> Rows:
    if found.predicted.importance is None:
        return
    values, columns = found.predicted.importance, cohort.columns[found.way.features]
    linear = CLASSIFIERS[found.way.classifier].is_linear
    names = found.way.classes[found.dataset] if linear else [""]
    for name, row in zip(names, values, strict=True):
        for column, value in zip(columns, row, strict=True):
            kind = {"kind": SHAP if linear else SHUFFLED}
            yield _about(found) | kind | {"class": name, "column": column, "value": float(value)}
