"""Does a drawn data set help to train a segmenter? A U-Net, with and without drawn slices.

    python benchmarks/drawn_data.py --data STORE --drawn DRAWN --model RUN

DRAWN is a store of what `generate --model RUN --count N` drew. A U-Net of slices is trained on some
of the patients that RUN was trained on, once alone, once with the drawn slices, half of each in a
batch on average; both with the same number of steps. Dice on the basal slices of the patients that
RUN has not seen: the mean over patients, then over seeds (of the choice of patients, of the weights
and of the order).
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: one process, one core

from pathlib import Path

import click
import numpy as np
import pandas as pd

from cardiac_attrivae.data.store import SliceDataset
from cardiac_attrivae.metrics.images import dice
from cardiac_attrivae.schema import STRUCTURES
from cardiac_attrivae.segmentation.judge import scored
from cardiac_attrivae.segmentation.judge_training import Training, train_network
from cardiac_attrivae.training.run import load_run

BASAL = Training().basal_weight
"""How often a drawn slice, which is the most basal of its heart, is taken, against a real one."""


def together(*parts: SliceDataset) -> SliceDataset:
    """Puts the slices of stores of one size behind one another, in memory."""
    images, labels = (
        np.concatenate([getattr(part, name).numpy() for part in parts])
        for name in ("images", "labels")
    )
    cases = pd.concat([part.cases for part in parts])
    return SliceDataset(images, labels, cases, parts[0].info, parts[0].folder)


@click.command()
@click.option("--data", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--drawn", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--model", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--patients", default=20, show_default=True)
@click.option("--seeds", default=3, show_default=True)
@click.option("--steps", default=Training().steps, show_default=True)
def main(data: Path, drawn: Path, model: Path, patients: int, seeds: int, steps: int) -> None:
    store, hearts = SliceDataset.open(data), SliceDataset.open(drawn)
    names = store.cases["case"]
    seen = sorted(load_run(model).about["train_cases"])
    unseen = store.take(np.flatnonzero(~names.isin(seen))).basal()
    click.echo(f"{len(hearts)} drawn slices; {len(unseen)} patients that {model.name} has not seen")
    rows = []
    for seed in range(seeds):
        few = np.random.default_rng(seed).choice(seen, patients, replace=False)
        real = store.take(np.flatnonzero(names.isin(few)))
        copies = max(1, int(BASAL * len(hearts) / len(real)))
        often = real.take(np.tile(np.arange(len(real)), copies))
        for what, slices in (("real", real), ("real and drawn", together(often, hearts))):
            network = train_network(slices, seed=seed, training=Training(steps=steps))
            found = dice(scored(network, unseen)(unseen.images), unseen.labels).mean(axis=0)
            rows.append(
                {"trained on": what, "seed": seed, **dict(zip(STRUCTURES, found, strict=True))}
            )
            click.echo(pd.DataFrame(rows[-1:]).to_string(index=False, float_format="{:.3f}".format))
    table = pd.DataFrame(rows).groupby("trained on")[list(STRUCTURES)].agg(["mean", "std"])
    click.echo(table.to_string(float_format="{:.3f}".format))


if __name__ == "__main__":
    main()
