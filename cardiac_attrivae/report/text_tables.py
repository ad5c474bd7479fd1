"""Tables as text: Markdown, LaTeX and CSV."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Sequence

import pandas as pd

from ..attributes import spelled
from ..metrics.catalogue import headlines, label, names_in
from ..metrics.metric import FIXED, Section
from ..metrics.patients import LEAST
from ..metrics.pooling import PLACE, Scores, summarise
from .published import SOURCE, TABLE_1
from .render import escape_markdown, render
from .scores import interval_of, spread_of, text
from .tables import Grid, grid, means, per_attribute, table_1

NOTES = """\
Codes are posterior means of one slice per patient, the most basal one. Interp, SCC and SAP are of
the best latent dimension for each attribute, chosen on these patients. The next two tables are of
the dimension that was trained on the attribute; * marks methods without one, which are read from
their best dimension. Mod (Modularity) of pure noise is .77 to .80. SSIM counts the empty
background, SSIM in mask does not. Sharpness 1 is as sharp as the slice, below is blur. Brackets:
95 % interval over patients. With several seeds: mean +- standard deviation over seeds.
"""


def markdown(
    metrics: pd.DataFrame, notes: Sequence[str] = (), synthetic: Collection[str] = ()
) -> str:
    """Writes table.md of metrics.csv: Table 1, what was read from the trained dimensions and drawn,
    pictures. The notes say what a reader must know before the numbers."""
    scores = summarise(metrics)
    counts = metrics.drop_duplicates("test_dataset").set_index("test_dataset")["n"]
    tested = ", ".join(
        f"{escape_markdown(name)} ({n:.0f} {split} patients)"
        for name, n, split in metrics.drop_duplicates(["test_dataset", "split"])[
            ["test_dataset", "n", "split"]
        ].to_numpy()
    )
    parts = ["# Scores at home and across domains", f"Tested on: {tested}."]
    parts += ["\n".join(f"- {escape_markdown(note)}" for note in notes)] if notes else []
    read = per_attribute(scores, f"Interpretability{FIXED}|Interpretability")
    follows = per_attribute(scores, "Control")
    for title, rows in (
        ("Table 1: mean over the attributes", means(names_in(Section.CODE))),
        ("Interpretability of the trained dimension, or else of the best one", read),
        (
            "Held out: R2 of a line fitted on training patients",
            per_attribute(scores, f"R2{FIXED}|R2"),
        ),
        ("Control: rank correlation of requested and measured", follows),
        ("Reconstruction", means(headlines(Section.PICTURES, Section.ANATOMY))),
    ):
        found = grid(scores, rows, synthetic) if rows else None
        if found:
            parts += [f"## {title}", _plain(found)]
    few = [f"{escape_markdown(str(name))} ({n:.0f})" for name, n in counts.items() if n < LEAST]
    if few:
        parts.append(f"Too few patients for scores, which need {LEAST}: {', '.join(few)}.")
    explained = spelled(dict.fromkeys(metrics["attribute"]))
    parts += [textwrap.fill(f"{explained}.", 100)] if explained else []
    return "\n\n".join([*parts, NOTES])


def _plain(found: Grid) -> str:
    """Prints a grid as a Markdown table, where a group is a row of its own."""
    rows = []
    mixed = any(metric.endswith(FIXED) for metric in found.metrics)
    for place, _, lines in found.groups:
        where = place.tested if place.at_home else f"{place.trained} -> {place.tested}"
        rows.append([f"*{escape_markdown(where)}, {place.split}*", *[""] * len(found.heads)])
        for line in lines:
            published = line.kind == "published"
            name = "- published" if published else escape_markdown(line.method)
            name += " *" if mixed and line.of_best_dimension else ""
            cells = [
                f"{text(cell)} {spread_of(cell) or interval_of(cell)}".strip() if cell else "-"
                for cell in line.cells
            ]
            rows.append([name, *cells])
    return table(["model", *found.heads], rows)


def table(heads: list[str], rows: list[list[str]]) -> str:
    """Prints a Markdown table, padded so that it also reads well as plain text."""
    widths = [max(len(line[k]) for line in [heads, *rows]) for k in range(len(heads))]
    lines = [heads, ["-" * width for width in widths], *rows]
    padded = ([cell.ljust(w) for cell, w in zip(line, widths, strict=True)] for line in lines)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in padded)


def latex(metrics: pd.DataFrame, synthetic: Collection[str] = ()) -> str:
    """Writes table.tex of metrics.csv: Table 1 as the paper prints it, for booktabs; ours and the
    published."""
    heads = [label(metric) for metric in TABLE_1]
    return render("table.tex", paired=table_1(summarise(metrics), synthetic), heads=heads)


def tidy(scores: Scores, synthetic: Collection[str] = ()) -> pd.DataFrame:
    """Writes scores.csv: Table 1 and its counterpart across domains, a row per number.

    Columns: source (``ours`` or the paper), method, train_dataset, test_dataset, split, metric,
    value, sd (over seeds), models, low, high, null, null_95, corrected.
    """
    shown = ["value", "sd", "models", "low", "high", "null", "null_95", "corrected"]
    found = grid(scores, means(names_in(Section.CODE)), synthetic)
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
