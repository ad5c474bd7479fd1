"""Tables for people, made of the tidy metrics.csv; computes nothing but means over seeds."""

from __future__ import annotations

import pandas as pd

from .metrics import LEAST

PAPER = ("Interpretability", "SCC", "Modularity", "SAP")
"""The columns of Table 1 in arXiv 2307.12618."""

NOTES = """\
Codes are posterior means of one slice per patient, the most basal one. Interpretability, SCC, SAP
and MIG take the best latent dimension for each attribute; those on fixed dimensions take the one
that the model was trained to use. Modularity of pure noise is .77 to .80. SSIM counts the empty
background; SSIM_in_mask does not. Sharpness 1 is as sharp as the slice, below is blur. With several
seeds: mean +- standard deviation over seeds.
"""


def markdown(metrics: pd.DataFrame) -> str:
    """table.md: the paper's Table 1, then scores per attribute, then image fidelity.

    Args:
        metrics: Columns of metrics.csv.
    """
    datasets = list(dict.fromkeys(metrics["test_dataset"]))
    means = metrics[metrics["attribute"] == "mean"]
    models = means[means["train_dataset"] != ""]
    attributes = metrics[metrics["attribute"] != "mean"]
    counts = metrics.drop_duplicates("test_dataset").set_index("test_dataset")
    tested = ", ".join(
        f"{name} ({counts.loc[name, 'n']} {counts.loc[name, 'split']} patients)"
        for name in datasets
    )
    more = [m for m in models["metric"].unique() if m not in PAPER]
    scores = [m for m in more if m in set(attributes["metric"]) or m == "MIG"]
    images = [m for m in more if m not in scores]
    parts = [
        "# Scores across domains",
        f"Tested on: {tested}. A cell holds {' / '.join(datasets)}.",
        "## Table 1: mean over the attributes",
        _grid(models, "metric", PAPER, datasets),
    ]
    for metric in ("Interpretability_fixed", "Interpretability", "SCC_fixed", "SCC", "SAP"):
        part = attributes[attributes["metric"] == metric]
        if len(part) and part["value"].notna().any():
            names = tuple(dict.fromkeys(part["attribute"]))
            parts += [f"## {metric} per attribute", _grid(part, "attribute", names, datasets)]
    parts += ["## Reconstruction", _grid(means, "metric", images, datasets)]
    few = [f"{d} ({counts.loc[d, 'n']})" for d in datasets if counts.loc[d, "n"] < LEAST]
    if few:
        parts.append(f"Too few patients for scores, which need {LEAST}: {', '.join(few)}.")
    return "\n\n".join([*parts, NOTES])


def _grid(part: pd.DataFrame, column: str, heads: tuple[str, ...], datasets: list[str]) -> str:
    """A row per method and training set, a column per head, ``a / b`` for two test sets."""
    rows = []
    for (method, trained), group in part.groupby(["method", "train_dataset"], sort=False):
        cells = [
            " / ".join(_cell(group, column, head, dataset) for dataset in datasets)
            for head in heads
        ]
        rows.append([method, trained or "-", *cells])
    return table(["model", "trained on", *heads], rows)


def _cell(group: pd.DataFrame, column: str, head: str, dataset: str) -> str:
    values = group[(group[column] == head) & (group["test_dataset"] == dataset)]["value"]
    if values.isna().all():
        return "-"
    spread = f" +- {values.std(ddof=1):.2f}" if len(values) > 1 else ""
    digits = 1 if head == "PSNR" else 4 if head == "MSE" else 2
    return f"{values.mean():.{digits}f}{spread}"


def table(heads: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, padded so that it also reads well as plain text."""
    widths = [max(len(line[k]) for line in [heads, *rows]) for k in range(len(heads))]
    lines = [heads, ["-" * width for width in widths], *rows]
    padded = ([cell.ljust(w) for cell, w in zip(line, widths, strict=True)] for line in lines)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in padded)
