"""The report: one page and its tables from evaluations.

The words are in templates/index.html, the looks in templates/style.css.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import yaml

from ..metrics.catalogue import EVERY, headlines, names_in
from ..metrics.metric import FIXED, MEAN, Score, Section
from ..metrics.pooling import PLACE, Place, Scores, places, summarise, variants
from ..runtime.files import write
from ..runtime.outputs import claimed
from ..runtime.spreadsheet import csv_text
from ..schema import STRUCTURES, Phase, structures_at
from .evaluations import Picture, read_evaluations
from .methods import is_baseline
from .published import SOURCE, TABLE_1
from .render import render
from .scores import rank
from .tables import Columns, Grid, attribute_names, grid, means, per_attribute, table_1
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


def write_report(
    evaluations: Sequence[str | Path] | str | Path,
    output: str | Path,
    *,
    title: str = "Attributes of the heart in a code",
) -> Path:
    """Writes index.html, table.md, table.tex and scores.csv.

    The page is one file that needs nothing else: pictures are inside, no script, no network.

    Args:
        evaluations: One folder that ``cross-domain-eval`` wrote, or several; what two of them share
            counts once.
        output: Folder to write into.
        title: Title of the page.

    Returns:
        index.html.

    Raises:
        DataError: As `read_evaluations`.
    """
    given = [evaluations] if isinstance(evaluations, (str, Path)) else evaluations
    found = read_evaluations([Path(folder) for folder in given])
    scores = summarise(found.metrics, found.spread)
    findings = _findings(scores, found.comparisons)
    lead, pictures = _lead(found.pictures, findings)
    page = render(
        "index.html",
        title=title,
        found=found,
        facts=[about for about in found.facts if about],
        segmenters={
            name: about["segmenter"]
            for name, about in found.datasets.items()
            if about.get("segmenter")
        },
        methods=[
            method
            for method in dict.fromkeys(m for m, place, *_ in scores if place.trained)
            if not is_baseline(method)
        ],
        places=places(scores),
        spreads=any(score.models > 1 for score in scores.values()),
        findings=findings,
        lead=lead,
        pictures=pictures,
        training=_training(found.models),
        paired=table_1(scores, found.synthetic),
        grids=_grids(scores, found.synthetic),
        comparisons=_by_place(found.comparisons, "first", "second"),
        spread=_by_place(found.spread, "method"),
        realism=_realism(found.realism),
        source=SOURCE,
        table_1_metrics=TABLE_1,
        picture_metrics=names_in(Section.PICTURES),
        realism_metrics=names_in(Section.REALISM),
    )
    output = Path(output)
    with claimed(output, "report") as claim:
        claim.plan(["table.md", "table.tex", "scores.csv", "index.html"])
        write(output / "table.md", markdown(found.metrics, found.notes, found.synthetic))
        write(output / "table.tex", latex(found.metrics, found.synthetic))
        write(output / "scores.csv", csv_text(tidy(scores, found.synthetic)))
        write(output / "index.html", page)
    return output / "index.html"


def _grids(scores: Scores, synthetic: Collection[str]) -> dict[str, Grid | None]:
    """The tables of the page, by name; None where nothing was measured."""
    held = dict.fromkeys(attribute_names(scores, "R2_fixed") + attribute_names(scores, "R2"))
    found = attribute_names(scores, "Dice")
    outlined = [name for name in structures_at(Phase) if name in (*STRUCTURES, *found)]
    rows: dict[str, Mapping[str, Columns]] = {
        "scores": means(names_in(Section.CODE)),
        "best": per_attribute(scores, "Interpretability"),
        "trained": per_attribute(scores, f"Interpretability{FIXED}|Interpretability"),
        "agreement": {
            name: [(f"{m}{FIXED}|{m}", name) for m in names_in(Section.READING)] for name in held
        },
        "control": {
            name: [(m, name) for m in names_in(Section.CONTROL)]
            for name in attribute_names(scores, "Control")
        },
        "dice": {"": [("Dice", name) for name in (*outlined, MEAN)]},
        "pictures": means(names_in(Section.PICTURES)),
        "further": means(names_in(Section.FURTHER)),
    }
    return {name: grid(scores, r, synthetic) if r else None for name, r in rows.items()}


def _lead(
    pictures: Mapping[str, list[Picture]], findings: Sequence[Sequence[Finding]]
) -> tuple[Picture | None, dict[str, list[Picture]]]:
    """Takes the traversal of the method whose heart follows best, for the top, and all others."""
    traversals = pictures.get("traversals", [])
    wanted = [(f.method, f.place) for found in findings for f in found
              if f.score.metric == "Control"]  # fmt: skip
    best = [picture for method, place in wanted for picture in traversals
            if (picture.method, picture.train_dataset, picture.test_dataset)
            == (method, place.trained, place.tested)]  # fmt: skip
    lead = next(iter([*best, *traversals]), None)
    rest = {kind: [p for p in shown if p is not lead] for kind, shown in pictures.items()}
    return lead, {kind: shown for kind, shown in rest.items() if shown}


def _findings(scores: Scores, comparisons: pd.DataFrame) -> list[list[Finding]]:
    """Lists the best method at each place, question by question; codes alone across domains."""
    questions = []
    for metric in EVERY.values():
        found = []
        for place in places(scores) if metric.question else ():
            there = {
                method: score
                for (method, at, *about), score in scores.items()
                if at == place and about == [metric.name, MEAN] and not is_baseline(method)
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
        named = {str(name): value for name, value in row.items()}
        places.setdefault(Place(*(row[name] for name in PLACE)), []).append(named)
    return dict(sorted(places.items(), key=lambda item: not item[0].at_home))


def _realism(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of the table of realism: method, place and drawn set, with a mean over seeds, and the
    interval of a single one, per metric."""
    if frame.empty:
        return []
    keys = ["method", *PLACE, "drawn"]
    return [
        dict(zip(keys, key, strict=True))
        | {"place": Place(*map(str, key[1:4])), "features": ", ".join(rows["features"].unique())}
        | {
            "scores": {
                metric: (seeds["value"].mean(), *seeds.iloc[0][["low", "high"]], len(seeds))
                for metric, seeds in rows.groupby("metric", sort=False)
            }
        }
        for key, rows in frame.groupby(keys, sort=False)
    ]


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
