"""The command about classes of patients: diagnose."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from ..runtime.contents import require_column, require_patients, require_run, require_store
from . import options
from .console import explained, progress, quick_imports, say


@click.command(short_help="Predict the diagnosis of unseen patients.")
@options.run
@click.option(
    "--data", "stores", multiple=True, required=True, type=options.PLACE,
    metavar="STORE[:SPLIT]",
    help="Store of the patients to score; may be given several times. With :test one split of it.",
)  # fmt: skip
@click.option(
    "--column", default="pathology", show_default=True,
    help="Column of cases.csv that holds the class.",
)  # fmt: skip
@click.option(
    "--within", is_flag=True,
    help="Fit classifiers within the unseen patients, by nested cross-validation.",
)  # fmt: skip
@click.option(
    "--folds", default=5, show_default=True, type=click.IntRange(2), help="Folds of --within."
)
@options.output
@options.rounds
@click.option(
    "--permutations", default=100, show_default=True, type=click.IntRange(0),
    help="Draws of the null distribution; each fits all classifiers again.",
)  # fmt: skip
@options.seed
@options.workers
@options.device
@explained
def diagnose(
    run: Path, stores: tuple[Path, ...], column: str, output: Path, **given: Any
) -> None:  # fmt: skip
    """Predict the diagnosis of unseen patients from their codes.

    Fitted on the patients that the model was trained on; they are never scored. With measured
    attributes as the baseline, intervals, null distributions, calibration, and explanations.
    """
    require_run(run)
    pairs = [options.store_and_split(store, "") for store in stores]
    for folder, split in pairs:
        info = require_store(folder)
        if split:
            require_patients(folder, info, split, [run])
        require_column(folder, column)
    with quick_imports():
        from ..evaluation.diagnosis import diagnose as predict

    places = [(folder, split or None) for folder, split in pairs]
    found = predict(run, places, output, column=column, progress=progress("diagnose"), **given)
    for row in found[(found["class"] == "mean")].to_dict("records"):
        if row["metric"] == "Balanced_accuracy":
            told = []
            if not math.isnan(row["low"]):  # blank where the patients are too few
                told.append(f"{row['low']:.2f} to {row['high']:.2f}")
            if not math.isnan(row["null"]):
                told.append(f"by chance {row['null']:.2f}")
            beside = f" ({', '.join(told)})" if told else ""
            say(
                f"{row['dataset']}, {row['features']}, {row['classifier']}: balanced accuracy "
                f"{row['value']:.2f}{beside}"
            )
    say(f"Scores: {output / 'scores.csv'}; open {output / 'report.html'} in a browser.")
