"""Compares the codes of predicted masks with those of an expert's masks of the same patients.

    python benchmarks/predicted_masks.py --model RUN --expert STORE --predicted STORE

Both stores are written by `preprocess` in the same way, the second with --masks. Compared are the
patients of both that the model was not trained on. Prints, for each attribute of the model, how the
codes and the attributes of both correlate, and Interpretability_fixed: of the expert's codes and
attributes, of those of the predicted masks, and of their codes with the expert's attributes.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch

from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pandas as pd

from cardiac_attrivae.data.store import SliceDataset
from cardiac_attrivae.evaluation.passes import codes_of
from cardiac_attrivae.metrics.codes import score
from cardiac_attrivae.runtime.device import find_device
from cardiac_attrivae.schema import LatentTable
from cardiac_attrivae.training.run import load_run


def compared(expert: LatentTable, predicted: LatentTable) -> pd.DataFrame:
    """Tabulates what the codes of the same patients have in common, a row per attribute."""
    seen = {
        "of expert": expert,
        "of predicted": predicted,
        "against expert": replace(predicted, attributes=expert.attributes),
    }
    table = pd.DataFrame(index=list(expert.names))
    for k, (name, dimension) in enumerate(zip(expert.names, expert.dimensions, strict=True)):
        pairs = {"codes r": (expert.codes[:, dimension], predicted.codes[:, dimension])}
        pairs["values r"] = expert.attributes[:, k], predicted.attributes[:, k]
        for column, pair in pairs.items():
            table.loc[name, column] = np.corrcoef(*pair)[0, 1]
    for column, codes in seen.items():
        for found in score(codes):
            if found.metric == "Interpretability_fixed" and found.attribute in table.index:
                table.loc[found.attribute, column] = found.value
    return table


@click.command()
@click.option("--model", required=True, type=click.Path(path_type=Path))
@click.option("--expert", required=True, type=click.Path(path_type=Path))
@click.option("--predicted", required=True, type=click.Path(path_type=Path))
def main(model: Path, expert: Path, predicted: Path) -> None:
    """Compares codes of predicted masks with those of an expert's."""
    run, cpu = load_run(model), find_device("cpu")
    names = run.pipeline.attributes
    stores = [SliceDataset.open(folder).basal() for folder in (expert, predicted)]
    shared = set.intersection(*({*store.cases["case"]} for store in stores))
    shared -= {*run.about["train_cases"]}
    rows = [np.flatnonzero(store.cases["case"].isin(shared)) for store in stores]
    codes = [
        codes_of(run, store.take(row), names, cpu) for store, row in zip(stores, rows, strict=True)
    ]
    click.echo(f"{len(shared)} patients that {model} was not trained on")
    click.echo(compared(*codes).round(3).to_string())


if __name__ == "__main__":
    main()
