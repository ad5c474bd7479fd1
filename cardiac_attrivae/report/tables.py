"""Scores lined up for people: tables of metrics.csv; computes nothing but means over seeds.

`summarise` makes a `Score` of each number, `grid` lines them up, `markdown` and `latex` print them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from ..attributes import ATTRIBUTES
from ..metrics.codes import LEAST
from .published import PUBLISHED, SOURCE, dataset_label, method_label, method_of
from .published import SCORES as PAPER

PLACE = ["train_dataset", "test_dataset", "split"]
KEY = ["method", *PLACE, "metric", "attribute"]
NUMBERS = ["value", "low", "high", "null", "null_95", "corrected", "n"]
WHOLE = "mean"
"""Of all attributes."""

DIGITS = {"PSNR": 1, "MSE": 4, "mL": 1}
"""Decimals of a metric or unit; all others have two."""
HEADS = {
    "Interpretability": "Interp", "Interpretability_fixed": "Interp, trained",
    "Modularity": "Mod", "SSIM_in_mask": "SSIM in mask", "R2": "R²", "R2_fixed": "R², trained",
    "bias": "Bias", "lower_limit": "Lower limit", "upper_limit": "Upper limit",
    "Control_slope": "Slope", "Control_monotone": "Monotone", "Control_error": "Error",
    "Control_leak": "Leak", WHOLE: "Mean",
}  # fmt: skip
"""How a column is headed; all others as they are called."""
LOW_IS_GOOD = ("MSE", "MAE", "Control_leak", "Leakage")
UNRANKED = ("Modularity", "bias", "lower_limit", "upper_limit", "Control_slope", "Control_error")
"""No value of these is best: noise has the Modularity of a perfect code, what says nothing has no
bias, and what asks for little errs little."""

NOTES = """\
Codes are posterior means of one slice per patient, the most basal one. Interp, SCC and SAP take
the best latent dimension for each attribute; fixed ones take the one that was trained. Mod
(Modularity) of pure noise is .77 to .80. SSIM counts the empty background, SSIM_in_mask does not.
Sharpness 1 is as sharp as the slice, below is blur. Brackets: 95 % interval over patients. With
several seeds: mean +- standard deviation over seeds.
"""


# Scores ------------------------------------------------------------------------------------------


class Place(NamedTuple):
    """Where a score was taken."""

    trained: str
    tested: str
    split: str

    @property
    def at_home(self) -> bool:
        """Whether training and test patients come from the same data set."""
        return self.trained == self.tested


@dataclass(frozen=True)
class Score:
    """One metric of one attribute, the mean over models that differ in their seed alone.

    ``low``, ``high``: 95 % interval over patients; ``null``, ``null_95``: mean and 95th centile of
    chance. What was not measured is nan.
    """

    metric: str
    attribute: str
    value: float
    sd: float = math.nan  # over seeds
    models: int = 1
    low: float = math.nan
    high: float = math.nan
    null: float = math.nan
    null_95: float = math.nan
    corrected: float = math.nan
    n: float = math.nan  # patients
    unit: str = ""
    best: bool = False  # of its column

    @property
    def text(self) -> str:
        """The value, as printed."""
        return self.format(self.value)

    @property
    def spread(self) -> str:
        """``+- sd`` over seeds, empty for one model."""
        return f"+- {self.format(self.sd)}" if self.models > 1 else ""

    @property
    def interval(self) -> str:
        """``[low, high]``, empty where there is none."""
        known = math.isfinite(self.low)
        return f"[{self.format(self.low)}, {self.format(self.high)}]" if known else ""

    @property
    def above_chance(self) -> bool | None:
        """Whether fewer than 5 % of permutations score as high; None where that is unknown."""
        return self.value > self.null_95 if math.isfinite(self.null_95) else None

    def format(self, value: float) -> str:
        """``.94``, as the paper prints scores; quantities with a unit keep their zero."""
        digits = DIGITS.get(self.metric.removesuffix("_fixed"), DIGITS.get(self.unit, 2))
        return number(value, digits, zero=bool(self.unit))


def number(value: float, digits: int = 2, zero: bool = False) -> str:
    """``.94``, ``-.10``, ``1.00``; with ``zero`` ``0.94``; empty if it is not a number."""
    if not math.isfinite(value):
        return ""
    text = f"{value:.{digits}f}"
    if not float(text):
        text = text.removeprefix("-")
    return text if zero else re.sub(r"^(-?)0\.", r"\1.", text)


Scores = dict[tuple[str, Place, str, str], Score]  # method, place, metric, attribute


def summarise(metrics: pd.DataFrame, spread: pd.DataFrame | None = None) -> Scores:
    """Every score, the mean over models of the same method, training set and test set.

    Args:
        metrics: metrics.csv; columns that say how sure a value is may be missing.
        spread: spread.csv, whose intervals replace the means of those of single models.
    """
    metrics = variants(metrics, "method")
    metrics["unit"] = metrics["unit"].astype(object).fillna("") if "unit" in metrics else ""
    if "patients" in metrics:
        metrics["n"] = metrics["patients"].fillna(metrics["n"])
    metrics = metrics.reindex(columns=[*KEY, "unit", *NUMBERS]).dropna(subset="value")
    groups = metrics.groupby(KEY, sort=False)
    table = groups[NUMBERS].mean()
    table["unit"] = groups["unit"].first()
    table["sd"] = groups["value"].std(ddof=1)
    table["models"] = groups["value"].count()
    if spread is not None and len(spread):
        known = variants(spread, "method").drop_duplicates(KEY).set_index(KEY)
        same = known["models"] == table["models"].reindex(known.index)  # not of some of them
        table.update(known.loc[same, ["low", "high"]])
    return {
        (key[0], Place(*key[1:4]), *key[4:]): Score(*key[4:], **numbers)
        for key, numbers in zip(table.index, table.to_dict("records"), strict=True)
    }


def variants(frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Methods by one name: ``attri_sivae_acdc`` trained on acdc is ``attri_sivae``."""
    frame = frame.assign(train_dataset=frame["train_dataset"].fillna(""))
    for column in columns:
        pairs = zip(frame[column], frame["train_dataset"], strict=True)
        frame[column] = [name.removesuffix(f"_{trained}") for name, trained in pairs]
    return frame


def places(scores: Scores) -> list[Place]:
    """At home first, then across domains."""
    found = dict.fromkeys(place for _, place, *_ in scores if place.trained)
    return sorted(found, key=lambda place: not place.at_home)


def _published(method: str, place: Place) -> dict[tuple[str, str], Score]:
    """What the paper prints of a method there, by metric and attribute."""
    about = (method_of(method), place.trained, place.tested)
    return {
        (row.metric, row.attribute): Score(row.metric, row.attribute, row.value)
        for row in PUBLISHED
        if (row.method, row.train_dataset, row.test_dataset) == about
    }


# Tables ------------------------------------------------------------------------------------------


class Line(NamedTuple):
    """A row of a grid: ``kind`` is ours, published or floor; ``name`` an attribute, or empty."""

    method: str
    name: str
    cells: tuple[Score | None, ...]
    kind: str = "ours"


class Group(NamedTuple):
    """Rows of models that were trained and tested on the same data sets."""

    place: Place
    patients: int
    lines: list[Line]


@dataclass(frozen=True)
class Grid:
    """Groups of rows under the same columns."""

    heads: tuple[str, ...]
    groups: list[Group]


Columns = Sequence[tuple[str, str]]  # metric and attribute


def means(metrics: Iterable[str]) -> dict[str, Columns]:
    """Rows of a grid with a column per metric, for its mean over the attributes."""
    return {"": [(metric, WHOLE) for metric in metrics]}


def grid(scores: Scores, rows: Mapping[str, Columns]) -> Grid | None:
    """Lines up scores, printed ones below ours; what nobody has is left out, None if all is.

    Args:
        scores: Of `summarise`.
        rows: Row name -> metric and attribute of each column. A metric ``X_fixed`` may be given as
            ``X_fixed|X``: the second where the first was not measured.
    """
    groups = []
    for place in places(scores):
        floors = Place("", place.tested, place.split)
        lines, patients = [], 0
        methods = dict.fromkeys(method for method, there, *_ in scores if there == place)
        for name, columns in rows.items():
            named = {attribute for _, attribute in columns} - {WHOLE} or {WHOLE}
            for method in methods:
                ours = tuple(_find(scores, method, place, *column) for column in columns)
                if not any(ours):
                    continue
                lines.append(Line(method, name, ours))
                patients = max(patients, *(int(cell.n) for cell in ours if cell))
                printed = _published(method, place)
                theirs = tuple(printed.get((m, _structure(a))) for m, a in columns)
                line = Line(method_of(method) or "", name, theirs, "published")
                # A mean alone stands in Table 1 already.
                new = [x for (_, a), x in zip(columns, theirs, strict=True) if x and a in named]
                if new and line not in lines:
                    lines.append(line)
            for method in dict.fromkeys(who for who, there, *_ in scores if there == floors):
                cells = tuple(_find(scores, method, floors, *column) for column in columns)
                if lines and any(cells):
                    lines.append(Line(method, name, cells, "floor"))
        if lines:
            groups.append(Group(place, patients, _mark_best(lines)))
    if not groups:
        return None
    lines = [line for group in groups for line in group.lines if line.kind != "published"]
    used = [k for k in range(len(lines[0].cells)) if any(line.cells[k] for line in lines)]
    columns = next(iter(rows.values()))
    heads = tuple(_head(columns, k) for k in used)
    for group in groups:
        group.lines[:] = [x._replace(cells=tuple(x.cells[k] for k in used)) for x in group.lines]
    return Grid(heads, groups)


def _find(scores: Scores, method: str, place: Place, metric: str, attribute: str) -> Score | None:
    found = (scores.get((method, place, m, attribute)) for m in metric.split("|"))
    return next((score for score in found if score), None)


def _structure(attribute: str) -> str:
    """The paper's column of an attribute: LVEDV and LVEDA are LV."""
    known = ATTRIBUTES.get(attribute)
    return known.structure.name if known else attribute


def _head(columns: Columns, k: int) -> str:
    """A column is called after what tells it from the others: its attribute, or its metric."""
    if len({metric for metric, _ in columns}) == 1:
        return HEADS.get(columns[k][1], columns[k][1])
    metric = columns[k][0].split("|")[-1]
    return HEADS.get(metric, metric)


def _mark_best(lines: list[Line]) -> list[Line]:
    """Marks the best of our methods in each column, all that print the same; none if all do."""
    marked = []
    for line in lines:
        rivals = [x for x in lines if x.kind == "ours" and x.name == line.name]
        cells = []
        for k, cell in enumerate(line.cells):
            if cell and line.kind == "ours" and cell.metric.removesuffix("_fixed") not in UNRANKED:
                others = [x.cells[k] for x in rivals if x.cells[k]]
                differ = len({other.text for other in others}) > 1
                cell = replace(cell, best=differ and cell.text == min(others, key=rank).text)
            cells.append(cell)
        marked.append(line._replace(cells=tuple(cells)))
    return marked


def rank(score: Score) -> float:
    """Least in the best: of most metrics the highest is, of Sharpness the nearest to 1."""
    metric = score.metric.removesuffix("_fixed")
    if metric == "Sharpness":
        return abs(score.value - 1)
    return score.value if metric in LOW_IS_GOOD else -score.value


def attribute_names(scores: Scores, metric: str) -> list[str]:
    """Attributes that a metric was measured of, without their mean."""
    names = (attribute for *_, m, attribute in scores if m == metric)
    return [name for name in dict.fromkeys(names) if name != WHOLE]


def wide(metrics: pd.DataFrame) -> pd.DataFrame:
    """Scores of one model on one data set as people read them: ``value [low, high]``.

    Args:
        metrics: A row per metric and attribute, as in metrics.csv.

    Returns:
        A row per metric, a column per attribute, ``mean`` last; empty where there is no score.
    """
    texts: dict[str, dict[str, str]] = {}
    for row in metrics.itertuples():
        known = {name: getattr(row, name) for name in ("value", "low", "high", "unit")}
        score = Score(row.metric, row.attribute, **known)
        texts.setdefault(row.metric, {})[row.attribute] = f"{score.text} {score.interval}".strip()
    columns = sorted(metrics["attribute"].unique(), key=lambda name: name == WHOLE)
    return pd.DataFrame.from_dict(texts, orient="index").reindex(columns=columns).fillna("")


def per_attribute(scores: Scores, metric: str) -> dict[str, Columns]:
    """One row with a column per attribute, then their mean."""
    names = dict.fromkeys(name for m in metric.split("|") for name in attribute_names(scores, m))
    return {"": [(metric, name) for name in (*names, WHOLE)]} if names else {}


class Paired(NamedTuple):
    """Table 1 as the paper prints it: a cell holds one score per data set, trained and tested."""

    places: list[Place]
    lines: list[tuple[str, str, list[list[Score | None]]]]  # method, kind, a list per metric


def table_1(scores: Scores) -> Paired:
    """Scores at home, ours and printed ones; no lines if no model was tested at home."""
    homes = [place for place in places(scores) if place.at_home]
    lines = []
    for method in dict.fromkeys(method for method, *_ in scores):
        ours = [[scores.get((method, p, m, WHOLE)) for p in homes] for m in PAPER]
        if not any(cell for cells in ours for cell in cells):
            continue
        lines.append((method, "ours", ours))
        printed = [_published(method, place) for place in homes]
        theirs = [[table.get((m, WHOLE)) for table in printed] for m in PAPER]
        line = (method_of(method) or "", "published", theirs)
        if any(cell for cells in theirs for cell in cells) and line not in lines:
            lines.append(line)
    return Paired(homes, lines)


def markdown(metrics: pd.DataFrame, notes: Sequence[str] = ()) -> str:
    """table.md: Table 1, then what was read from and drawn by the trained dimensions, and pictures.

    Args:
        metrics: Columns of metrics.csv.
        notes: What a reader must know before the numbers.
    """
    scores = summarise(metrics)
    counts = metrics.drop_duplicates("test_dataset").set_index("test_dataset")["n"]
    tested = ", ".join(
        f"{escape_markdown(row.test_dataset)} ({row.n} {row.split} patients)"
        for row in metrics.drop_duplicates(["test_dataset", "split"]).itertuples()
    )
    parts = ["# Scores at home and across domains", f"Tested on: {tested}."]
    parts += ["\n".join(f"- {escape_markdown(note)}" for note in notes)] if notes else []
    read = per_attribute(scores, "Interpretability_fixed|Interpretability")
    follows = per_attribute(scores, "Control")
    for title, rows in (
        ("Table 1: mean over the attributes", means(PAPER)),
        ("Interpretability of the trained dimension, or else of the best one", read),
        (
            "Held out: R2 of a line fitted on training patients",
            per_attribute(scores, "R2_fixed|R2"),
        ),
        ("Control: rank correlation of requested and measured", follows),
        ("Reconstruction", means(("SSIM", "SSIM_in_mask", "Sharpness", "Dice"))),
    ):
        found = grid(scores, rows) if rows else None
        if found:
            parts += [f"## {title}", _plain(found)]
    few = [f"{escape_markdown(name)} ({count})" for name, count in counts.items() if count < LEAST]
    if few:
        parts.append(f"Too few patients for scores, which need {LEAST}: {', '.join(few)}.")
    return "\n\n".join([*parts, NOTES])


def _plain(found: Grid) -> str:
    """A grid as a Markdown table, where a group is a row of its own."""
    rows = []
    for place, _, lines in found.groups:
        where = place.tested if place.at_home else f"{place.trained} -> {place.tested}"
        rows.append([f"*{escape_markdown(where)}, {place.split}*", *[""] * len(found.heads)])
        for line in lines:
            published = line.kind == "published"
            name = "- published" if published else escape_markdown(line.method)
            cells = [
                f"{cell.text} {cell.spread or cell.interval}".strip() if cell else "-"
                for cell in line.cells
            ]
            rows.append([name, *cells])
    return table(["model", *found.heads], rows)


def table(heads: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, padded so that it also reads well as plain text."""
    widths = [max(len(line[k]) for line in [heads, *rows]) for k in range(len(heads))]
    lines = [heads, ["-" * width for width in widths], *rows]
    padded = ([cell.ljust(w) for cell, w in zip(line, widths, strict=True)] for line in lines)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in padded)


def latex(metrics: pd.DataFrame) -> str:
    """table.tex: Table 1 as the paper prints it, for booktabs; ours and the printed numbers.

    Args:
        metrics: Columns of metrics.csv.
    """
    heads = [HEADS.get(metric, metric) for metric in PAPER]
    return render("table.tex", paired=table_1(summarise(metrics)), heads=heads)


def tidy(scores: Scores) -> pd.DataFrame:
    """scores.csv: the numbers of Table 1 and of its counterpart across domains, a row per number.

    Columns: source (``ours`` or the paper), method, train_dataset, test_dataset, split, metric,
    value, sd (over seeds), models, low, high, null, null_95, corrected.
    """
    shown = ["value", "sd", "models", "low", "high", "null", "null_95", "corrected"]
    found = grid(scores, means(PAPER))
    rows = [
        {"source": "ours" if line.kind == "ours" else SOURCE, "method": line.method}
        | dict(zip(PLACE, group.place, strict=True))
        | {"metric": cell.metric}
        | {name: getattr(cell, name) for name in shown}
        for group in (found.groups if found else ())
        for line in group.lines
        for cell in line.cells
        if cell
    ]
    return pd.DataFrame(rows, columns=["source", "method", *PLACE, "metric", *shown])


# Templates ---------------------------------------------------------------------------------------

TEX = {
    "\\": r"\textbackslash{}",
    "β": r"$\beta$",
    "±": r"$\pm$",
    "−": "$-$",
    "~": r"\textasciitilde{}",
}
TEX |= {"^": r"\textasciicircum{}"} | {sign: f"\\{sign}" for sign in "&%$#_{}"}


def escape_tex(text: str) -> str:
    """Text as LaTeX prints it: ``_ % & # $ { } ~ ^ \\`` are characters, not commands."""
    return "".join(TEX.get(sign, sign) for sign in text)


def escape_markdown(text: str) -> str:
    """Text as Markdown shows it, on one line: no cell, tag, link or emphasis begins in it."""
    return re.sub(r"([\\`*\[|<])", r"\\\1", " ".join(text.split()))


def _typeset(text: str) -> str:
    """Minus, plus-minus and unit as a printer sets them."""
    return text.replace("+-", "±").replace("-", "−").replace("cm2", "cm²")


def render(template: str, package: str = "cardiac_attrivae.report", **values: object) -> str:
    """Fills a template; what stands in HTML is escaped, LaTeX escapes by its own filter."""
    environment = Environment(
        loader=PackageLoader(package),
        autoescape=template.endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "tex": escape_tex, "typeset": _typeset, "number": number, "method": method_label,
        "dataset": dataset_label,
    }  # fmt: skip
    return environment.get_template(template).render(**values)
