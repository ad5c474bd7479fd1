"""Scores lined up for people: rows of models, columns of metrics or attributes.

`grid` lines up what `summarise` gathered; nothing is computed here.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

from ..attributes import ATTRIBUTES
from ..metrics.catalogue import label
from ..metrics.metric import FIXED, MEAN, Score
from ..metrics.pooling import Place, Scores, places
from .methods import is_baseline
from .published import PUBLISHED, TABLE_1, method_of
from .scores import interval_of, is_ranked, rank, text


class Line(NamedTuple):
    """A row of a grid: ``kind`` is ours, published or floor; ``name`` an attribute, or empty."""

    method: str
    name: str
    cells: tuple[Score | None, ...]
    kind: str = "ours"
    best: frozenset[int] = frozenset()
    """Columns in which it is the best of our methods."""

    @property
    def of_best_dimension(self) -> bool:
        """Whether no dimension was trained, so that scores are of the best dimension."""
        return self.kind == "ours" and not any(c.metric.endswith(FIXED) for c in self.cells if c)


class Group(NamedTuple):
    """Rows of models that were trained and tested on the same data sets."""

    place: Place
    patients: int
    lines: list[Line]


@dataclass(frozen=True)
class Grid:
    """Groups of rows under the same columns; ``metrics`` are those that the columns show."""

    heads: tuple[str, ...]
    groups: list[Group]
    metrics: tuple[str, ...] = ()


Columns = Sequence[tuple[str, str]]  # metric and attribute


def means(metrics: Iterable[str]) -> dict[str, Columns]:
    """Makes one row of a grid with a column per metric, for its mean over the attributes."""
    return {"": [(metric, MEAN) for metric in metrics]}


def grid(
    scores: Scores, rows: Mapping[str, Columns], synthetic: Collection[str] = ()
) -> Grid | None:
    """Lines up scores, published ones below ours; columns without any score are left out.

    Args:
        scores: Scores from `summarise`.
        rows: Row name -> metric and attribute of each column. A metric ``X_fixed`` may be given as
            ``X_fixed|X``: the second where the first was not measured.
        synthetic: Data sets of phantoms, beside which no published score is shown.

    Returns:
        The grid, or None if there is no score.
    """
    groups = []
    for place in places(scores):
        floors = Place("", place.tested, place.split)
        lines, patients = [], 0
        methods = dict.fromkeys(method for method, there, *_ in scores if there == place)
        for name, columns in rows.items():
            trivial = []
            named = {attribute for _, attribute in columns} - {MEAN} or {MEAN}
            for method in methods:
                ours = tuple(_find(scores, method, place, *column) for column in columns)
                if not any(ours):
                    continue
                if is_baseline(method):
                    trivial.append(Line(method, name, ours, "floor"))
                    continue
                lines.append(Line(method, name, ours))
                known = [int(cell.n) for cell in ours if cell and cell.n and math.isfinite(cell.n)]
                patients = max([patients, *known])
                printed = published(method, place, synthetic)
                theirs = tuple(printed.get((m, _structure(a))) for m, a in columns)
                line = Line(method_of(method) or "", name, theirs, "published")
                # a mean alone is in Table 1 already
                new = [x for (_, a), x in zip(columns, theirs, strict=True) if x and a in named]
                if new and line not in lines:
                    lines.append(line)
            lines += trivial
            for method in dict.fromkeys(who for who, there, *_ in scores if there == floors):
                cells = tuple(_find(scores, method, floors, *column) for column in columns)
                if lines and any(cells):
                    lines.append(Line(method, name, cells, "floor"))
        if lines:
            groups.append(Group(place, patients, lines))
    if not groups:
        return None
    lines = [line for group in groups for line in group.lines if line.kind != "published"]
    used = [k for k in range(len(lines[0].cells)) if any(line.cells[k] for line in lines)]
    columns = next(iter(rows.values()))
    heads = tuple(_head(columns, k) for k in used)
    for group in groups:
        lines = [line._replace(cells=tuple(line.cells[k] for k in used)) for line in group.lines]
        group.lines[:] = _mark_best(lines)
    shown = dict.fromkeys(columns[k][0].split("|")[0] for k in used)
    return Grid(heads, groups, tuple(shown))


def published(
    method: str, place: Place, synthetic: Collection[str] = ()
) -> dict[tuple[str, str], Score]:
    """Finds what the paper prints of a method there, by metric and attribute; none of phantoms."""
    if {place.trained, place.tested} & {*synthetic}:
        return {}
    return PUBLISHED.get((method_of(method), place.trained, place.tested), {})


def _find(scores: Scores, method: str, place: Place, metric: str, attribute: str) -> Score | None:
    found = (scores.get((method, place, m, attribute)) for m in metric.split("|"))
    return next((score for score in found if score), None)


def _structure(attribute: str) -> str:
    """The paper's column of an attribute: LVEDV and LVEDA are LV."""
    known = ATTRIBUTES.get(attribute)
    return known.structure.name if known else attribute


def _head(columns: Columns, k: int) -> str:
    """A column is called after what tells it from the others: its attribute, or its metric."""
    one = len({metric for metric, _ in columns}) == 1
    return label(columns[k][1] if one else columns[k][0].split("|")[-1])


def _mark_best(lines: list[Line]) -> list[Line]:
    """Marks the best of our methods in each column, all that print the same; none if all do."""
    marked = []
    for line in lines:
        rivals = [x for x in lines if x.kind == "ours" and x.name == line.name]
        best = set()
        for k, cell in enumerate(line.cells):
            if cell and line.kind == "ours" and is_ranked(cell):
                others = [other for x in rivals if (other := x.cells[k])]
                differ = len({text(other) for other in others}) > 1
                if differ and text(cell) == text(min(others, key=rank)):
                    best.add(k)
        marked.append(line._replace(best=frozenset(best)))
    return marked


def attribute_names(scores: Scores, metric: str) -> list[str]:
    """Lists the attributes for which a metric was measured, without their mean."""
    names = (attribute for *_, m, attribute in scores if m == metric)
    return [name for name in dict.fromkeys(names) if name != MEAN]


def wide(metrics: pd.DataFrame) -> pd.DataFrame:
    """Lines up scores of one model on one data set as ``value [low, high]``.

    Args:
        metrics: A row per metric and attribute, as in metrics.csv.

    Returns:
        A row per metric, a column per attribute, ``mean`` last; empty where there is no score.
    """
    texts: dict[str, dict[str, str]] = {}
    for row in metrics[["metric", "attribute", "value", "low", "high", "unit"]].to_dict("records"):
        score = Score(**{str(name): value for name, value in row.items()})
        printed = f"{text(score)} {interval_of(score)}".strip()
        texts.setdefault(score.metric, {})[score.attribute] = printed
    columns = sorted(metrics["attribute"].unique(), key=lambda name: name == MEAN)
    return pd.DataFrame.from_dict(texts, orient="index").reindex(columns=columns).fillna("")


def per_attribute(scores: Scores, metric: str) -> dict[str, Columns]:
    """Makes one row of a grid with a column per attribute, then their mean."""
    names = dict.fromkeys(name for m in metric.split("|") for name in attribute_names(scores, m))
    return {"": [(metric, name) for name in (*names, MEAN)]} if names else {}


class Paired(NamedTuple):
    """Table 1 as the paper prints it: a cell holds one score per data set."""

    places: list[Place]
    lines: list[tuple[str, str, list[list[Score | None]]]]  # method, kind, a list per metric


def table_1(scores: Scores, synthetic: Collection[str] = ()) -> Paired:
    """Lines up scores at home, ours and published; no lines if no model was tested at home."""
    homes = [place for place in places(scores) if place.at_home]
    lines = []
    for method in dict.fromkeys(method for method, *_ in scores):
        ours = [[scores.get((method, p, m, MEAN)) for p in homes] for m in TABLE_1]
        if not any(cell for cells in ours for cell in cells):
            continue
        lines.append((method, "ours", ours))
        printed = [published(method, place, synthetic) for place in homes]
        theirs = [[table.get((m, MEAN)) for table in printed] for m in TABLE_1]
        line = (method_of(method) or "", "published", theirs)
        if any(cell for cells in theirs for cell in cells) and line not in lines:
            lines.append(line)
    return Paired(homes, lines)
