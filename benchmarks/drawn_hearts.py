"""Draws what a model with a refiner draws: the gallery's hearts that look like MRI.

    python benchmarks/drawn_hearts.py --model RUN|acdc --output FOLDER [--data STORE --split SPLIT]

Writes painted.png (slices of patients, the VAE's picture of each, the refiner's), turned.png (every
attribute turned, with outlines and measured areas) and requested_hearts.png (eight hearts on
request). Without a store nothing of a patient is shown: codes are drawn from the distribution of
the training codes.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: one process, one core

from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image

from cardiac_attrivae.data.store import SliceDataset
from cardiac_attrivae.evaluation.studio import Studio
from cardiac_attrivae.metrics.population import Population
from cardiac_attrivae.report.slices import drawn_slices
from cardiac_attrivae.schema import DataError
from cardiac_attrivae.training.run import Run, decode, encode

HEARTS = {
    "average": (22, 16, 35),
    "dilated LV": (36, 19, 38),
    "thick wall": (18, 25, 32),
    "thin wall": (24, 12, 34),
    "large RV": (19, 13, 46),
    "small RV": (24, 17, 20),
    "small heart": (14, 11, 24),
    "large heart": (34, 24, 48),
}
"""Areas of LV, myocardium and RV in cm2; most are means of ACDC's groups."""
ATTRIBUTES = ("LVEDA", "MEDA", "RVEDA")


def draw_painted(run: Run, codes: np.ndarray, slices: torch.Tensor | None, path: Path) -> None:
    """Draws a column per code (N, D): the slice if there is one, the VAE's picture, the painted."""
    rows = {} if slices is None else {"slices of patients": slices}
    rows |= {"the VAE": decode(run.network, codes), "with the refiner": decode(run.painter, codes)}
    images = torch.stack([*rows.values()])[:, :, 0].numpy()
    drawn_slices(images, [*rows], [[""] * len(codes)] * len(rows), path)


def draw_requested(studio: Studio, codes: np.ndarray, path: Path) -> None:
    """Draws `HEARTS`, each from a code of its own, with outlines and measured areas."""
    wanted = np.array([*HEARTS.values()], dtype=float)
    drawn = studio.generate(codes, dict(zip(ATTRIBUTES, wanted.T, strict=True)))
    heads = [f"{name}\n{' / '.join(map(str, areas))} cm²" for name, areas in HEARTS.items()]
    drawn_slices(
        drawn.slices[None, :, 0].numpy(), [""], [heads], path,
        labels=drawn.labels[None, :, 0].numpy(), areas=drawn.areas[None],
        note="above: requested LV / MYO / RV, below: measured",
    )  # fmt: skip


@click.command()
@click.option("--model", required=True)
@click.option("--output", required=True, type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(exists=True, path_type=Path))
@click.option("--split", default="test", show_default=True)
def main(model: str, output: Path, data: Path | None, split: str) -> None:
    studio = Studio.open(model, data, "cpu", click.echo, plain=False)
    known = Population.of_facts(studio.run.about)
    if known is None:
        raise DataError(f"{model} does not say where its training codes lie; train it again")
    codes, slices = known.draw(len(HEARTS), np.random.default_rng(0)), None
    if data is not None:
        slices = SliceDataset.open(data).split(split).basal().images[: len(HEARTS)].float()
    shown = codes if slices is None else encode(studio.run.network, slices)[0]
    files = [output / f"{name}.png" for name in ("painted", "turned", "requested_hearts")]
    draw_painted(studio.run, shown, slices, files[0])
    studio.turned(reach=2, steps=5).draw(files[1])
    draw_requested(studio, codes, files[2])
    for file in files:
        Image.open(file).convert("RGB").quantize(256).save(file, optimize=True)  # half the bytes
        click.echo(f"{file}: {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
