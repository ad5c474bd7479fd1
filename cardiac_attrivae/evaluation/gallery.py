"""The pictures of an evaluation: networks draw, `figures`, `charts` and `curves` lay out.

Of several seeds the first one is shown. A picture is listed with what it shows (kind, model,
train_dataset, test_dataset), in the order in which a reader wants them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ..attributes import ATTRIBUTES
from ..data.store import SliceDataset
from ..metrics.calibration import Calibration
from ..metrics.catalogue import headlines
from ..metrics.dependence import determination, rank_correlation
from ..metrics.images import ssim
from ..metrics.metric import MEAN, Section
from ..metrics.patients import LEAST
from ..report import charts, curves
from ..report import slices as figures
from ..report.published import dataset_label
from ..runtime.device import find_device
from ..schema import STRUCTURES, LatentTable
from ..segmentation.judge import Segmenter
from ..training.run import TRAVERSAL, Run, reconstruct
from .control import segmented, traversed
from .score import evaluate

SHOWN = 6
"""Patients in a picture of reconstructions."""


def draw_gallery(
    models: Mapping[str, Run],
    datasets: Mapping[str, SliceDataset],
    segmenters: Mapping[str, Segmenter],
    tables: Mapping[str, pd.DataFrame],
    folder: Path,
    device: str,
    split: str,
) -> list[dict[str, str]]:
    """Draws everything and tells what there is.

    Args:
        models: Name -> trained run.
        datasets: Name -> store.
        segmenters: Name of a data set -> what measures pictures of models trained on it.
        tables: metrics, patients and control of the evaluation.
        folder: Where the PNG files go.
        device: See `find_device`.
        split: Which patients were scored.

    Returns:
        A row per picture: file (relative to the evaluation), kind, model, train_dataset,
        test_dataset.
    """
    where = find_device(device)
    patients = {name: dataset.split(split).basal() for name, dataset in datasets.items()}
    shown = _first_seeds(models)
    drawn: list[dict[str, str]] = []

    def file(kind: str, model: str = "", train: str = "", test: str = "") -> Path:
        stem = "_".join(part for part in (kind, model or train, test) if part)
        about = {"kind": kind, "model": model, "train_dataset": train, "test_dataset": test}
        drawn.append({"file": f"figures/{stem}.png", **about})
        return folder / f"{stem}.png"

    trained = list(dict.fromkeys(run.about["train_dataset"] for run in shown.values()))
    for train in trained:
        group = [run for run in shown.values() if run.about["train_dataset"] == train]
        for test, target in patients.items():
            draw_methods(group, target, file("reconstructions", "", train, test))
    for metric in ("SSIM", "SSIM_in_mask"):
        draw_distributions(tables, metric, file(f"distributions_{metric}"))
    for train in trained:
        for test in patients:
            scores, turned = (_of(tables[name], train, test) for name in ("metrics", "control"))
            if scores["low"].notna().any():
                draw_forest(scores, file("intervals", "", train, test))
            if len(turned):
                draw_control(turned, file("control", "", train, test))
    for name, run in shown.items():
        train, names = run.about["train_dataset"], run.pipeline.attributes
        codes = {
            test: evaluate(run, target, names, where).table for test, target in patients.items()
        }
        home = codes.get(train) or next(iter(codes.values()))
        known = home
        if train in segmenters:
            source = datasets[train].split("train").basal()
            known = evaluate(run, source, names, where).table
        if len(known.cases) < LEAST:
            continue
        calibration = Calibration.fit(known)
        segmenter = segmenters.get(train) or next(iter(segmenters.values()), None)
        for test, table in codes.items():
            row, path = middle_row(table), file("traversals", name, train, test)
            patient = patients[test].take([row])
            draw_traversal(run, table.codes[row], patient, calibration, segmenter, path)
        draw_scatter(codes, calibration, file("scatter", name, train))
        if len(home.cases) >= LEAST:
            draw_correlations(home, file("correlations", name, train))
    draw_curves(list(shown.values()), file("curves"))
    return drawn


def draw_methods(runs: Sequence[Run], target: SliceDataset, path: Path) -> None:
    """Originals, reconstructions and error maps of every method, for patients of all groups."""
    groups = target.cases["pathology"].argsort(kind="stable").to_numpy()
    few = target.take(groups[np.unique(np.linspace(0, len(target) - 1, SHOWN).round().astype(int))])
    originals = few.images[:, 0].numpy()
    rebuilt = {
        run.pipeline.method: reconstruct(run.network, few.images)[:, 0].numpy() for run in runs
    }
    captions = [
        " ".join(filter(None, facts))
        for facts in few.cases[["case", "pathology"]].itertuples(index=False)
    ]
    scores = {method: ssim(originals, images) for method, images in rebuilt.items()}
    figures.methods_side_by_side(originals, rebuilt, captions, path, scores)


def draw_distributions(tables: Mapping[str, pd.DataFrame], metric: str, path: Path) -> None:
    patients, metrics = tables["patients"], tables["metrics"]
    train, test = (patients[f"{name}_dataset"].map(dataset_label) for name in ("train", "test"))
    group = train + " → " + test
    floor = metrics[(metrics["train_dataset"] == "") & (metrics["metric"] == metric)]
    floor = floor.set_index(floor["test_dataset"].map(dataset_label))["value"]
    floors = {name: float(floor[name.rpartition(" → ")[2]]) for name in group.unique()}
    table = patients[["method"]].assign(group=group, value=patients[metric])
    charts.distributions(table, path, metric, floors)


def draw_forest(scores: pd.DataFrame, path: Path) -> None:
    """Means over attributes of the first seed of each method."""
    first = scores[scores["model"].isin(scores.groupby("method", sort=False)["model"].first())]
    drawn = headlines(Section.CODE, Section.ATTRIBUTES, Section.READING, Section.CONTROL)
    rows = first[first["metric"].isin(drawn) & (first["attribute"] == MEAN)]
    order = rows["metric"].map(drawn.index).argsort(kind="stable")
    charts.intervals(rows.iloc[order].rename(columns={"metric": "row"}), path, "score")


def draw_control(turned: pd.DataFrame, path: Path) -> None:
    """Requested against measured areas, all seeds of a method together."""
    table = turned.melt(
        ["method", "attribute", "requested"], list(STRUCTURES), "structure", "measured"
    )
    units = {name: ATTRIBUTES[name].unit for name in table["attribute"].unique()}
    charts.control(table, path, units)


def middle_row(table: LatentTable) -> int:
    """Row of the patient whose code is nearest to the mean, in standard deviations."""
    deviation = table.codes.std(axis=0)
    distance = (table.codes - table.codes.mean(axis=0)) / np.where(deviation > 0, deviation, 1)
    return int((distance**2).sum(axis=1).argmin())


def draw_traversal(
    run: Run,
    code: np.ndarray,
    patient: SliceDataset,
    calibration: Calibration,
    segmenter: Segmenter | None,
    path: Path,
) -> None:
    """Each attribute turned from -3 to 3 standard deviations, with what is measured below."""
    slices, requested = traversed(run.network, code, calibration, TRAVERSAL)
    labels = measured = None
    if segmenter is not None:
        labels, measured = segmented(segmenter, slices, patient.pixel_cm2)
    figures.traversals(
        slices.numpy(),
        calibration.names,
        TRAVERSAL,
        path,
        original=patient.images[0, 0].numpy(),
        dimensions=calibration.dimensions,
        labels=labels,
        areas=measured,
        requested=requested,
        units=[ATTRIBUTES[name].unit for name in calibration.names],
    )


def draw_scatter(codes: Mapping[str, LatentTable], calibration: Calibration, path: Path) -> None:
    """Attributes of all test sets against their dimensions."""
    tables = list(codes.values())
    x = np.concatenate([table.codes[:, calibration.dimensions] for table in tables])
    y = np.concatenate([table.attributes for table in tables])
    groups = np.concatenate([[name] * len(table.cases) for name, table in codes.items()])
    units = [ATTRIBUTES[name].unit for name in calibration.names]
    charts.scatter(
        x,
        y,
        calibration.names,
        units,
        path,
        scores=determination(x, y).diagonal() if len(y) >= LEAST else None,
        dimensions=calibration.dimensions,
        groups=groups,
    )


def draw_correlations(table: LatentTable, path: Path) -> None:
    matrix = rank_correlation(table.codes, table.attributes, significance=1)
    charts.correlations(matrix, table.names, path, table.dimensions)


def draw_curves(runs: Sequence[Run], path: Path) -> None:
    histories = {
        f"{run.pipeline.method} · {run.about['train_dataset']}": pd.read_csv(
            run.folder / "history.csv"
        )
        for run in runs
    }
    columns = ["train_loss", *(f"val_{name}" for name in headlines())]
    curves.compare_curves(histories, columns, path)


def _first_seeds(models: Mapping[str, Run]) -> dict[str, Run]:
    """The run of the lowest seed of each method and training set."""
    first: dict[tuple[str, str], str] = {}
    for name in sorted(models, key=lambda name: models[name].about["seed"]):
        run = models[name]
        first.setdefault((run.pipeline.method, run.about["train_dataset"]), name)
    return {name: run for name, run in models.items() if name in first.values()}


def _of(table: pd.DataFrame, train: str, test: str) -> pd.DataFrame:
    """Rows of a training and a test set."""
    return table[(table["train_dataset"] == train) & (table["test_dataset"] == test)]
