"""The pictures of an evaluation, drawn from what its parts kept.

Only the first of several seeds is shown. Each picture is listed with what it shows (kind, model,
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
from ..report.methods import is_baseline
from ..report.published import dataset_label
from ..report.style import stacked
from ..runtime.file_names import told_apart
from ..runtime.shipped_models import is_shipped
from ..schema import LatentTable, Phase, structures_at
from ..segmentation.judge import Segmenter
from ..training.run import TRAVERSAL, Run
from .control import segmented, traversed
from .opening import Opened
from .parts import Part, shown_rows
from .studio import Turned


def draw_gallery(
    opened: Opened,
    parts: Sequence[Part],
    judges: Mapping[str, Segmenter],
    tables: Mapping[str, pd.DataFrame],
    folder: Path,
) -> list[dict[str, str]]:
    """Draws everything into a folder and lists what there is.

    Args:
        opened: Models and stores.
        parts: Each model on each data set, computed.
        judges: Name of a data set -> segmenter that was trained on it.
        tables: metrics, patients and control of the evaluation.
        folder: Where the PNG files go.

    Returns:
        A row per picture: file (relative to the evaluation), kind, model, train_dataset,
        test_dataset.
    """
    drawn: list[dict[str, str]] = []
    stems: list[str] = []

    def file(kind: str, model: str = "", train: str = "", test: str = "") -> Path:
        names = "_".join(part for part in (kind, model or train, test) if part)
        stem = told_apart([*stems, names])[-1]
        stems.append(stem)
        about = {"kind": kind, "model": model, "train_dataset": train, "test_dataset": test}
        drawn.append({"file": f"figures/{stem}.png", **about})
        return folder / f"{stem}.png"

    models = _first_seeds(opened)
    shown = [part for part in parts if part.about["model"] in models]
    places = dict.fromkeys((p.about["train_dataset"], p.about["test_dataset"]) for p in shown)
    for train, test in places:
        group = [part for part in shown if _place(part) == (train, test)]
        draw_methods(group, file("reconstructions", "", train, test))
    for metric in ("SSIM", "SSIM_in_mask"):
        draw_distributions(tables, metric, file(f"distributions_{metric}"))
    for train, test in places:
        scores, turned = (_of(tables[name], train, test) for name in ("metrics", "control"))
        if scores["low"].notna().any():
            draw_forest(scores, file("intervals", "", train, test))
        if len(turned):
            first = next(part for part in shown if _place(part) == (train, test))
            unit = first.patients.open().scale.unit
            draw_control(turned, file("control", "", train, test), unit)
    for name, run in models.items():
        train, names = run.about["train_dataset"], run.pipeline.attributes
        own = {_place(part)[1]: part for part in shown if part.about["model"] == name}
        codes = {test: part.table().select(names) for test, part in own.items()}
        home = codes.get(train) or next(iter(codes.values()))
        training = next(iter(own.values())).known
        known = training.codes().table.select(names) if training is not None else home
        if len(known.cases) < LEAST:
            continue
        calibration = Calibration.fit(known)
        judge = judges.get(train) or next(iter(judges.values()), None)
        for test, table in codes.items():
            row, path = middle_row(table), file("traversals", name, train, test)
            patient = own[test].patients.open().take([row])
            draw_traversal(run, table.codes[row], patient, calibration, judge, path)
        draw_scatter(codes, calibration, file("scatter", name, train))
        if len(home.cases) >= LEAST:
            draw_correlations(home, file("correlations", name, train))
    trained = [(opened.methods[n], run) for n, run in models.items() if not is_shipped(run.folder)]
    if trained:  # a shipped model has no curves
        draw_curves(trained, file("curves"))
    return drawn


def draw_methods(parts: Sequence[Part], path: Path) -> None:
    """Draws originals, reconstructions and error maps of every method."""
    target = parts[0].patients.open()
    few = target.take(shown_rows(target))
    images = few.images.numpy()
    originals = stacked(images)
    shown = {part.about["method"]: part.shown() for part in parts}
    rebuilt = {method: stacked(slices) for method, slices in shown.items()}
    captions = [
        " ".join(filter(None, facts))
        for facts in few.cases[["case", "pathology"]].itertuples(index=False)
    ]
    scores = {method: ssim(images, slices).tolist() for method, slices in shown.items()}
    figures.methods_side_by_side(originals, rebuilt, captions, path, scores)


def draw_distributions(tables: Mapping[str, pd.DataFrame], metric: str, path: Path) -> None:
    """Draws how a score is distributed over patients, with the score of a black image."""
    patients, metrics = tables["patients"], tables["metrics"]
    train, test = (patients[f"{name}_dataset"].map(dataset_label) for name in ("train", "test"))
    group = train + " → " + test
    black = metrics[(metrics["train_dataset"] == "") & (metrics["metric"] == metric)]
    floor = dict(zip(black["test_dataset"].map(dataset_label), black["value"], strict=True))
    floors = {name: float(floor[name.rpartition(" → ")[2]]) for name in group.unique()}
    table = patients[["method"]].assign(group=group, value=patients[metric])
    charts.distributions(table, path, metric, floors)


def draw_forest(scores: pd.DataFrame, path: Path) -> None:
    """Draws means over attributes of the first seed of each method."""
    scores = scores[~scores["method"].map(is_baseline)]
    first = scores[scores["model"].isin(scores.groupby("method", sort=False)["model"].first())]
    drawn = headlines(Section.CODE, Section.ATTRIBUTES, Section.READING, Section.CONTROL)
    rows = first[first["metric"].isin(drawn) & (first["attribute"] == MEAN)]
    order = rows["metric"].map(drawn.index).argsort(kind="stable")
    charts.intervals(rows.iloc[order].rename(columns={"metric": "row"}), path, "score")


def draw_control(turned: pd.DataFrame, path: Path, measured_in: str) -> None:
    """Draws requested against measured areas, or volumes in mL, all seeds of a method together."""
    table = turned.melt(
        ["method", "attribute", "requested"],
        [c for c in structures_at(Phase) if c in turned],
        "structure",
        "measured",
    )
    units = {name: ATTRIBUTES[name].unit for name in table["attribute"].unique()}
    charts.control(table, path, units, measured_in)


def middle_row(table: LatentTable) -> int:
    """Returns the row of the patient whose code is nearest to the mean, in standard deviations."""
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
    """Draws each attribute from -3 to 3 standard deviations, with measured areas below."""
    ((told, _),) = run.by_condition(patient.cases)
    slices, requested = traversed(told.painter, code, calibration, TRAVERSAL)
    labels = measured = None
    if segmenter is not None:
        labels, measured = segmented(segmenter, slices, patient.scale)
    original = patient.images[0].numpy()
    Turned(
        calibration, original, TRAVERSAL, slices, labels, measured, requested, patient.scale.unit
    ).draw(path)


def draw_scatter(codes: Mapping[str, LatentTable], calibration: Calibration, path: Path) -> None:
    """Draws attributes of all test sets against their dimensions."""
    tables = list(codes.values())
    x = np.concatenate([table.codes[:, calibration.dimensions] for table in tables])
    y = np.concatenate([table.attributes for table in tables])
    groups = [name for name, table in codes.items() for _ in table.cases]
    units = [ATTRIBUTES[name].unit for name in calibration.names]
    charts.scatter(
        x,
        y,
        calibration.names,
        units,
        path,
        scores=determination(x, y).diagonal().tolist() if len(y) >= LEAST else None,
        dimensions=calibration.dimensions,
        groups=groups,
    )


def draw_correlations(table: LatentTable, path: Path) -> None:
    """Draws rank correlations of all dimensions and attributes."""
    matrix = rank_correlation(table.codes, table.attributes, significance=1)
    charts.correlations(matrix, table.names, path, table.dimensions)


def draw_curves(runs: Sequence[tuple[str, Run]], path: Path) -> None:
    """Draws how the scores of runs, each with the name of its method, rose during training."""
    histories = {
        f"{method} · {run.about['train_dataset']}": pd.read_csv(run.folder / "history.csv")
        for method, run in runs
    }
    columns = ["train_loss", *(f"val_{name}" for name in headlines())]
    curves.compare_curves(histories, columns, path)


def _first_seeds(opened: Opened) -> dict[str, Run]:
    """Returns the run of the lowest seed of each method and training set."""
    first: dict[tuple[str, str], str] = {}
    for name in sorted(opened.models, key=lambda name: opened.models[name].about["seed"]):
        train = opened.models[name].about["train_dataset"]
        first.setdefault((opened.methods[name], train), name)
    return {name: run for name, run in opened.models.items() if name in first.values()}


def _place(part: Part) -> tuple[str, str]:
    """Training and test set of a part."""
    return part.about["train_dataset"], part.about["test_dataset"]


def _of(table: pd.DataFrame, train: str, test: str) -> pd.DataFrame:
    """Returns the rows of a training and a test set."""
    return table[(table["train_dataset"] == train) & (table["test_dataset"] == test)]
