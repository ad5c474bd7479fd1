"""The report: one page and its tables, of whole evaluations; computes nothing but means over seeds.

What is said is in templates/index.html, how it looks in templates/style.css.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import yaml
from PIL import Image

from ..metrics.catalogue import EVERY, headlines, names_in
from ..metrics.metric import FIXED, MEAN, Score, Section
from ..runtime.files import write
from ..runtime.folders import locked
from ..schema import STRUCTURES, DataError
from .published import SOURCE, TABLE_1
from .render import render
from .scores import PLACE, Place, Scores, places, rank, summarise, variants
from .tables import Grid, attribute_names, grid, means, per_attribute, table_1
from .text_tables import latex, markdown, tidy


class Finding(NamedTuple):
    """The best method at one place, and the next: what a sentence of the summary is made of.

    ``floor`` holds what a black image scores there, by metric; ``rest`` all other scores of the
    best method there, by metric and attribute.
    """

    question: str
    place: Place
    method: str
    score: Score
    next: str  # empty if there is no other
    second: Score | None  # of the next
    p_holm: float | None  # of the difference of the two
    floor: dict[str, Score]
    rest: dict[tuple[str, str], Score]

    @property
    def errors(self) -> list[Score]:
        """MAE of each attribute, read from the trained dimensions if there are any."""
        found = [score for score in self.rest.values() if score.unit]
        trained = [score for score in found if score.metric == "MAE_fixed"]
        return trained or [score for score in found if score.metric == "MAE"]


class Picture(NamedTuple):
    """A PNG as a data URI, and what it is of; names are empty where it is of all."""

    source: str
    method: str
    train_dataset: str
    test_dataset: str


@dataclass(frozen=True)
class Evaluations:
    """What one or more folders of ``cross-domain-eval`` hold, put together.

    Attributes:
        metrics, comparisons, spread: The files of that name; no rows if missing.
        models: Name and facts of each model, as in evaluation.json.
        datasets: Facts of each data set by its name, as in evaluation.json.
        facts: evaluation.json of each folder.
        pictures: By kind, in the order of evaluation.json.
    """

    metrics: pd.DataFrame
    comparisons: pd.DataFrame
    spread: pd.DataFrame
    models: list[dict[str, Any]]
    datasets: dict[str, dict[str, Any]]
    facts: list[dict[str, Any]]
    pictures: dict[str, list[Picture]]


def write_report(
    evaluations: Sequence[Path], output: Path, *, title: str = "Attributes of the heart in a code"
) -> Path:
    """Writes index.html, table.md, table.tex and scores.csv.

    The page is one file that needs nothing else: pictures are inside, no script, no network.

    Args:
        evaluations: Folders that ``cross-domain-eval`` wrote; what two of them share counts once.
        output: Folder to write into.
        title: Of the page.

    Returns:
        index.html.

    Raises:
        DataError: If a folder holds no metrics.csv or is unfinished, or there is no folder.
    """
    found = _read(evaluations)
    scores = summarise(found.metrics, found.spread)
    notes = list(dict.fromkeys(note for about in found.facts for note in about.get("notes", ())))
    page = render(
        "index.html",
        title=title,
        found=found,
        facts=[about for about in found.facts if about],
        notes=notes,
        segmenters={
            name: about["segmenter"]
            for name, about in found.datasets.items()
            if about.get("segmenter")
        },
        methods=list(dict.fromkeys(method for method, place, *_ in scores if place.trained)),
        places=places(scores),
        spreads=any(score.models > 1 for score in scores.values()),
        findings=_findings(scores, found.comparisons),
        training=_training(found.models),
        paired=table_1(scores),
        grids=_grids(scores),
        comparisons=_by_place(found.comparisons, "first", "second"),
        spread=_by_place(found.spread, "method"),
        source=SOURCE,
        table_1_metrics=TABLE_1,
        picture_metrics=names_in(Section.PICTURES),
    )
    output = Path(output)
    with locked(output):
        write(output / "table.md", markdown(found.metrics, notes))
        write(output / "table.tex", latex(found.metrics))
        write(output / "scores.csv", tidy(scores).to_csv(index=False))
        write(output / "index.html", page)
    return output / "index.html"


def _read(folders: Sequence[Path]) -> Evaluations:
    folders = [Path(folder) for folder in folders]
    if not folders:
        raise DataError("no evaluation to report on; give a folder that cross-domain-eval wrote")
    facts, models, datasets, pictures = [], [], {}, {}
    for folder in folders:
        if not (folder / "metrics.csv").is_file():
            raise DataError(f"{folder} holds no metrics.csv; cross-domain-eval writes one")
        file = folder / "evaluation.json"
        if not file.is_file():
            raise DataError(
                f"{folder} is unfinished: evaluation.json is missing; run the same "
                "cross-domain-eval again"
            )
        about = json.loads(file.read_text(encoding="utf-8"))
        facts.append(about)
        new = [{"name": name, **model} for name, model in about.get("models", {}).items()]
        models += [model for model in new if model not in models]
        datasets = about.get("datasets", {}) | datasets
        for kind, picture in _pictures(folder, about):
            shown = pictures.setdefault(kind, [])
            if picture not in shown:
                shown.append(picture)
    read = [_together(folders, f"{name}.csv") for name in ("metrics", "comparisons", "spread")]
    return Evaluations(*read, models, datasets, facts, pictures)


def _together(folders: Sequence[Path], name: str) -> pd.DataFrame:
    """A table of all folders, rows that are the same once; names stay text, whatever they are."""
    names = dict.fromkeys(("model", "method", "first", "second", *PLACE, "attribute", "case"), str)
    files = [folder / name for folder in folders if (folder / name).is_file()]
    tables = [
        pd.read_csv(file, dtype=names, keep_default_na=False, na_values=[""]) for file in files
    ]
    tables = [table for table in tables if len(table)]
    return pd.concat(tables, ignore_index=True).drop_duplicates() if tables else pd.DataFrame()


def _pictures(folder: Path, about: dict[str, Any]) -> Iterable[tuple[str, Picture]]:
    """Kind and picture; where evaluation.json lists none, every file under its own name."""
    listed = about.get("figures") or [
        {"file": f"figures/{file.name}", "kind": file.stem}
        for file in sorted((folder / "figures").glob("*.png"))
    ]
    for row in listed:
        file = folder / row["file"]
        if file.is_file():
            source = "data:image/webp;base64," + base64.b64encode(_webp(file)).decode()
            model = about.get("models", {}).get(row.get("model"), {})
            places = (row.get("train_dataset", ""), row.get("test_dataset", ""))
            yield row["kind"], Picture(source, model.get("method", ""), *places)


def _webp(file: Path) -> bytes:
    """A picture as WebP, a fifth of its PNG: a page of forty stays small enough to send."""
    with Image.open(file) as picture, io.BytesIO() as packed:
        picture.convert("RGB").save(packed, "WEBP", quality=88, method=4)
        return packed.getvalue()


def _grids(scores: Scores) -> dict[str, Grid | None]:
    """The tables of the page, by name; None where nothing was measured."""
    held = dict.fromkeys(attribute_names(scores, "R2_fixed") + attribute_names(scores, "R2"))
    rows = {
        "scores": means(names_in(Section.CODE)),
        "best": per_attribute(scores, "Interpretability"),
        "trained": per_attribute(scores, f"Interpretability{FIXED}"),
        "agreement": {
            name: [(f"{m}{FIXED}|{m}", name) for m in names_in(Section.READING)] for name in held
        },
        "control": {
            name: [(m, name) for m in names_in(Section.CONTROL)]
            for name in attribute_names(scores, "Control")
        },
        "dice": {"": [("Dice", name) for name in (*STRUCTURES, MEAN)]},
        "pictures": means(names_in(Section.PICTURES)),
        "further": means(names_in(Section.FURTHER)),
    }
    return {name: grid(scores, wanted) if wanted else None for name, wanted in rows.items()}


def _findings(scores: Scores, comparisons: pd.DataFrame) -> list[list[Finding]]:
    """Lists the best method at each place, question by question; codes alone across domains."""
    questions = []
    for metric in EVERY.values():
        found = []
        for place in places(scores) if metric.question else ():
            there = {
                method: score
                for (method, at, *about), score in scores.items()
                if at == place and about == [metric.name, MEAN]
            }
            if not there or not (place.at_home or metric.section is Section.CODE):
                continue
            first, *others = sorted(there, key=lambda method: rank(there[method]))
            second = others[0] if others else ""
            floors = Place("", place.tested, place.split)
            found.append(
                Finding(
                    metric.question,
                    place,
                    first,
                    there[first],
                    second,
                    there.get(second),
                    _test(comparisons, place, metric.name, {first, second}),
                    {key[2]: score for key, score in scores.items() if key[1] == floors},
                    {key[2:]: score for key, score in scores.items() if key[:2] == (first, place)},
                )
            )
        questions += [found] if found else []
    return questions


def _test(comparisons: pd.DataFrame, place: Place, metric: str, pair: set[str]) -> float | None:
    """Holm-adjusted p of the difference of two methods; None if they were not compared."""
    rows = _by_place(comparisons, "first", "second").get(place, [])
    same = (
        row for row in rows if row["metric"] == metric and {row["first"], row["second"]} == pair
    )
    return next((row["p_holm"] for row in same), None)


def _by_place(frame: pd.DataFrame, *methods: str) -> dict[Place, list[dict[str, Any]]]:
    """Rows of means over attributes of headline metrics; ``methods`` are columns that name one."""
    if frame.empty:
        return {}
    compared = headlines()
    chosen = frame[frame["metric"].isin(compared) & (frame["attribute"] == MEAN)]
    chosen = chosen.dropna(subset="low")  # where one of the two has no trained dimension
    chosen = variants(chosen, *methods)
    order = chosen["metric"].map(compared.index).argsort(kind="stable")
    places: dict[Place, list[dict[str, Any]]] = {}
    for row in chosen.iloc[order].to_dict("records"):
        places.setdefault(Place(*(row[name] for name in PLACE)), []).append(row)
    return dict(sorted(places.items(), key=lambda item: not item[0].at_home))


class Training(NamedTuple):
    """Models that differ in their seed alone: facts of each, and the configuration of the first."""

    method: str
    train_dataset: str
    seeds: list[Any]
    summaries: list[dict[str, Any]]
    configuration: str


def _training(models: list[dict[str, Any]]) -> list[Training]:
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for model in models:
        groups.setdefault((model["method"], model["train_dataset"]), []).append(model)
    return [
        Training(
            *about,
            [model["seed"] for model in group],
            [model.get("summary") or {} for model in group],
            yaml.safe_dump(group[0].get("pipeline", {}), sort_keys=False, allow_unicode=True),
        )
        for about, group in groups.items()
    ]
