"""Measures a segmenter of whole pictures on patients with masks that it was not trained on.

    python benchmarks/segmentation.py --model MODEL --source ACDC --output OUT.csv --patients FILE

FILE lists the ids of the patients, one a line; all are taken without it. Several --model vote.
Prints Dice per phase, volumes, ejection fractions, and how well the predicted Dice tracks the real
one. OUT.csv has a row per frame.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch

from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cardiac_attrivae.data.cases import find_cases
from cardiac_attrivae.data.manifest import load_manifest
from cardiac_attrivae.data.transforms import ReadPhased, ToCanonicalLabelsd
from cardiac_attrivae.heart import ventricle
from cardiac_attrivae.metrics.images import dice
from cardiac_attrivae.report.style import looks, plain, save
from cardiac_attrivae.schema import HEART, STRUCTURES, CaseRecord, Keys
from cardiac_attrivae.segmentation.scans import ScanSegmenter, load_segmenter

READ = ReadPhased((Keys.IMAGE, Keys.LABEL)), ToCanonicalLabelsd(Keys.LABEL)


def frame_row(segmenter: ScanSegmenter, record: CaseRecord) -> dict[str, Any]:
    """Segments a frame and compares it with its mask."""
    data: Any = {"record": record}
    for step in READ:
        data = step(data)
    image, truth, spacing = data[Keys.IMAGE], np.asarray(data[Keys.LABEL]), data["spacing"]
    found = segmenter.segment(np.asarray(image, dtype=np.float32), spacing)
    row: dict[str, Any] = {"case": record.case, "group": record.pathology, "phase": record.phase}
    voxel = float(np.prod(spacing)) / 1000
    for k, (structure, name) in enumerate(zip(HEART, STRUCTURES, strict=True)):
        row[f"Dice_{name}"] = float(dice(found.labels[None], truth[None])[0, k])
        row[f"agreement_{name}"] = found.predicted_dice[structure]
        row[f"found_{name}_mL"] = float((found.labels == structure).sum()) * voxel
        row[f"true_{name}_mL"] = float((truth == structure).sum()) * voxel
    return row | {"warnings": "; ".join(found.warnings)}


def report(table: pd.DataFrame) -> None:
    """Prints what the rows say."""
    names = [f"Dice_{name}" for name in STRUCTURES]
    click.echo(table.groupby("phase")[names].mean().round(3).to_string())
    for name in STRUCTURES:
        found, true = table[f"found_{name}_mL"], table[f"true_{name}_mL"]
        apart = found - true
        spearman = table[f"agreement_{name}"].corr(table[f"Dice_{name}"], "spearman")
        click.echo(
            f"{name}: volume r {np.corrcoef(found, true)[0, 1]:.3f}, bias {apart.mean():.1f} mL, "
            f"SD {apart.std():.1f} mL; predicted against real Dice: Spearman {spearman:.2f}"
        )
    at = table.pivot(index="case", columns="phase")
    for name in ("LV", "RV"):
        ef = {
            kind: np.array([
                ventricle(ed, es).ef_percent
                for ed, es in at[f"{kind}_{name}_mL"][["ED", "ES"]].to_numpy()
            ])
            for kind in ("found", "true")
        }  # fmt: skip
        apart = ef["found"] - ef["true"]
        click.echo(
            f"{name}EF: r {np.corrcoef(ef['found'], ef['true'])[0, 1]:.3f}, mean absolute error "
            f"{np.abs(apart).mean():.1f}, bias {apart.mean():.1f} points"
        )


def bland_altman(table: pd.DataFrame, path: Path) -> None:
    """Draws the differences of volumes against their means, with bias and limits of agreement."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    for axis, name in zip(figure.subplots(1, 3), STRUCTURES, strict=True):
        for look, (phase, rows) in zip(looks(["ED", "ES"]).values(), table.groupby("phase"),
                                       strict=True):  # fmt: skip
            found, true = rows[f"found_{name}_mL"], rows[f"true_{name}_mL"]
            axis.plot((found + true) / 2, found - true, look.marker, ms=4, color=look.colour,
                      label=phase)  # fmt: skip
        apart = table[f"found_{name}_mL"] - table[f"true_{name}_mL"]
        for k in (-1.96, 0, 1.96):
            axis.axhline(apart.mean() + k * apart.std(), color="0.5", lw=0.8, ls="--" if k else "-")
        axis.set(title=name, xlabel="mean of both (mL)", ylabel="predicted - manual (mL)")
        plain(axis)
    axis.legend(fontsize=8, frameon=False)
    save(figure, path)


@click.command()
@click.option("--model", "models", required=True, multiple=True)
@click.option("--dataset", default="acdc", show_default=True)
@click.option("--source", required=True, type=click.Path(path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path))
@click.option("--picture", type=click.Path(path_type=Path), help="Bland-Altman plot to write.")
@click.option("--patients", type=click.Path(path_type=Path))
def main(
    models: tuple[str, ...],
    dataset: str,
    source: Path,
    output: Path,
    picture: Path | None,
    patients: Path | None,
) -> None:
    """Measures a segmenter."""
    segmenter = replace(load_segmenter(list(models)), dice_lines={})  # the agreement itself
    wanted = patients.read_text().split() if patients else None
    rows = []
    for phase in ("ED", "ES"):
        for record in find_cases(load_manifest(dataset), source, phase).records:
            if wanted is None or record.case in wanted:
                rows.append(frame_row(segmenter, record))
    table = pd.DataFrame(rows)
    table.to_csv(output, index=False, float_format="%.6g")
    report(table)
    if picture:
        bland_altman(table, picture)


if __name__ == "__main__":
    main()
