"""Pictures and the page of classes that were predicted from codes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..metrics.catalogue import names_in
from ..metrics.metric import MEAN, Score, Section
from ..runtime.files import write
from .evaluations import packed_picture
from .render import render
from .style import fitted, looks, plain, save

METRICS = names_in(Section.DIAGNOSIS)
WAY = ["features", "classifier"]
POINTS, CHANCE = "#0072b2", "#9aa5b1"
PER_ROW, MOST_BARS = 4, 8
FEATURES_WORDS = {
    "codes": "all dimensions of the code",
    "attribute dimensions": "the dimensions that were trained on attributes",
    "free dimensions": "all other dimensions",
    "classifier of the model": "what the model was trained to say of the class itself",
    "measured attributes": "attributes measured on the masks, without any code: the baseline",
    "nothing": "how frequent each class is",
}


class Diagnosis(NamedTuple):
    """What ``diagnose`` found."""

    about: dict[str, Any]  # content of diagnosis.json
    tables: dict[str, pd.DataFrame]  # name of a CSV file, without its ending -> table
    # further pictures in the folder: file -> what it shows, in words
    pictures: Mapping[str, str] = {}


def draw_diagnosis(found: Diagnosis, output: Path) -> list[str]:
    """Writes pictures and report.html into a folder; returns the names of the files."""
    pictures: dict[str, dict[str, str]] = {}
    for dataset in found.about["classes"]:
        for kind, (draw, words) in PICTURES.items():
            table = found.tables[kind]
            file = f"figures/{kind}_{dataset}.png"
            draw(table[table["dataset"] == dataset], output / file)
            pictures.setdefault(dataset, {})[file] = words
    page = render(
        "diagnosis.html",
        about=found.about,
        metrics=METRICS,
        tables={name: [*_rows(found.tables["scores"], name)] for name in pictures},
        words=FEATURES_WORDS,
        pictures=pictures,
        more=found.pictures,
        packed=lambda file: packed_picture(output / file),
    )
    write(output / "report.html", page)
    return [
        "report.html",
        *found.pictures,
        *(file for files in pictures.values() for file in files),
    ]


class Row(NamedTuple):
    """A way to predict, and its scores: metric -> class, or ``mean`` -> score."""

    features: str
    classifier: str
    scores: dict[str, dict[str, Score]]


def _rows(table: pd.DataFrame, dataset: str) -> Iterator[Row]:
    for way, group in _ways(table[table["dataset"] == dataset]):
        scores: dict[str, dict[str, Score]] = {}
        for row in group.to_dict("records"):
            numbers = {key: row[key] for key in ("value", "low", "high", "null", "null_95", "p")}
            score = Score(row["metric"], row["class"], **numbers)
            scores.setdefault(score.metric, {})[score.attribute] = score
        yield Row(*way, scores)


def _ways(table: pd.DataFrame) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    """Yields features and classifier with their rows, in the order of the table."""
    for (features, classifier), group in table.groupby(WAY, sort=False):
        yield (str(features), str(classifier)), group


def draw_scores(table: pd.DataFrame, path: Path) -> None:
    """Draws balanced accuracy and AUROC with their intervals, and what chance reaches."""
    metrics = METRICS[:2]
    means = table[table["class"] == MEAN]
    names = [way for way, _ in _ways(means)]
    figure = Figure((8.6, 0.9 + 0.36 * len(names)), layout="constrained")
    for axis, metric in zip(figure.subplots(1, 2, sharey=True), metrics, strict=True):
        rows = means[means["metric"] == metric].set_index(WAY).loc[names]
        places = np.arange(len(rows))[::-1]
        for place, (_, row) in zip(places, rows.iterrows(), strict=True):
            if math.isfinite(row["null_95"]):
                axis.plot([0, row["null_95"]], [place, place], lw=7, color=CHANCE, alpha=0.35)
            if math.isfinite(row["low"]):
                axis.plot([row["low"], row["high"]], [place, place], color=POINTS, lw=1.6)
        axis.plot(rows["value"], places, "o", color=POINTS, ms=5)
        axis.set(xlim=(0, 1), xlabel=metric.replace("_", " "))
        axis.set_yticks(places, [f"{features}, {name}" for features, name in names], fontsize=8)
        plain(axis, "x")
    save(figure, path)


def draw_confusion(table: pd.DataFrame, path: Path) -> None:
    """Draws the confusion matrix of each way; a row is a true class, shades are shares of it."""

    def one(axis: Axes, rows: pd.DataFrame) -> None:
        counts = rows.pivot(index="truth", columns="predicted", values="patients")
        shares = counts.to_numpy() / counts.sum(axis=1).clip(lower=1).to_numpy()[:, None]
        axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (i, j), count in np.ndenumerate(counts.to_numpy()):
            colour = "white" if shares[i, j] > 0.6 else "black"
            axis.text(j, i, str(count), ha="center", va="center", fontsize=8, color=colour)
        names = [fitted(name, 0.7, 7) for name in counts.columns]
        axis.set_xticks(range(len(names)), names, fontsize=7, rotation=90)
        axis.set_yticks(range(len(names)), names, fontsize=7)

    _panels(table, path, one, 2.5, "predicted", "true")


def draw_reliability(table: pd.DataFrame, path: Path) -> None:
    """Draws the share that is right against the confidence, a point per bin, large if of many."""

    def one(axis: Axes, rows: pd.DataFrame) -> None:
        filled = rows[rows["patients"] > 0]
        axis.plot([0, 1], [0, 1], "--", color=CHANCE, lw=1)
        axis.plot(filled["confidence"], filled["accuracy"], color=POINTS, lw=1, alpha=0.6)
        sizes = 12 + 240 * filled["patients"] / filled["patients"].sum()
        axis.scatter(
            filled["confidence"], filled["accuracy"], s=sizes, color=POINTS, lw=0, clip_on=False
        )
        axis.set(xlim=(0, 1.03), ylim=(-0.03, 1.03), aspect="equal")
        axis.tick_params(labelsize=7)
        plain(axis)

    _panels(table, path, one, 2.3, "confidence", "share right")


def draw_importance(table: pd.DataFrame, path: Path) -> None:
    """Draws how much columns matter, the largest above; of linear classifiers a part per class."""
    look = looks(sorted(set(table["class"]) - {""}))

    def one(axis: Axes, rows: pd.DataFrame) -> None:
        values = rows.pivot(index="column", columns="class", values="value")
        order = values.sum(axis=1).sort_values(ascending=False).index[:MOST_BARS]
        values, left = values.loc[order], np.zeros(len(order))
        places = np.arange(len(order))[::-1]
        for name in values.columns:
            colour = look[name].colour if name else POINTS
            axis.barh(places, values[name], left=left, color=colour, label=name or None, height=0.7)
            left = left + values[name].to_numpy()
        axis.set_yticks(places, [fitted(name, 1.1, 7) for name in order], fontsize=7)
        axis.tick_params(axis="x", labelsize=7)
        axis.locator_params(axis="x", nbins=5)
        axis.set_xlabel(str(rows["kind"].iloc[0]), fontsize=7)
        if len(values.columns) > 1:
            axis.legend(fontsize=6, frameon=False, loc="lower right")
        plain(axis, "x")

    _panels(table, path, one, 2.9)


PICTURES: dict[str, tuple[Callable[[pd.DataFrame, Path], None], str]] = {
    "scores": (
        draw_scores,
        "A point is a score, a line its 95 % interval over patients, a grey bar what 95 % of "
        "permutations stay below.",
    ),
    "confusion": (
        draw_confusion,
        "Patients by true class (rows) and predicted class (columns); shades are shares of a row.",
    ),
    "reliability": (
        draw_reliability,
        "How often a prediction is right against how sure it is. On the dashed line probabilities "
        "mean what they say; points above it are too modest, points below it too sure. A large "
        "point stands for many patients.",
    ),
    "importance": (
        draw_importance,
        "What the prediction rests on. Logistic regression: mean absolute SHAP values on the logit "
        "of each class, which are exact. Others: by how much the balanced accuracy falls when a "
        "column is shuffled over patients; that may be below 0 by chance.",
    ),
}
"""Table -> its picture, and what the page says about it."""


def _panels(
    table: pd.DataFrame,
    path: Path,
    draw: Callable[[Axes, pd.DataFrame], None],
    inches: float,
    x: str = "",
    y: str = "",
) -> None:
    """Draws a panel for each way to predict, at most four in a row."""
    ways: Sequence[Any] = [*_ways(table)]
    columns = min(PER_ROW, len(ways))
    rows = math.ceil(len(ways) / columns)
    figure = Figure((inches * columns, (inches + 0.2) * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, (way, group) in zip(axes, ways, strict=False):
        axis.set_title("\n".join(way), fontsize=8)
        draw(axis, group)
    for axis in axes[len(ways) :]:
        axis.set_visible(False)
    figure.supxlabel(x, fontsize=8)
    figure.supylabel(y, fontsize=8)
    save(figure, path)
