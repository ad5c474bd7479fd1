"""Measures a segmenter of whole pictures on cines of phantoms, whose volumes and phases are known.

    python benchmarks/cines.py --model acdc --seed 7 --output OUT.csv

A seed draws four cines of 20, 25, 30 and 25 frames that begin at any moment of the beat: a normal,
a dilated, a hypertrophic and an infarcted heart. Prints, and writes with a row per cine, how many
frames ED and ES are off, and volumes and ejection fractions beside those of the true masks.
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

from cardiac_attrivae.data.scanner import ACDC_SCANNER, Scan, draw_scan, pictures
from cardiac_attrivae.heart import pixel_counts, ventricle, volume_ml
from cardiac_attrivae.runtime.files import write
from cardiac_attrivae.runtime.spreadsheet import csv_text
from cardiac_attrivae.schema import Structure
from cardiac_attrivae.segmentation.scans import ScanSegmenter, load_segmenter

CINES = {"NOR": 20, "DCM": 25, "HCM": 30, "MINF": 25}
"""Diagnosis -> frames."""

CAVITIES = {"LV": Structure.LV, "RV": Structure.RV}


def draw_cine(diagnosis: str, seed: int) -> Scan:
    """Draws a cine of a diagnosis of `CINES` that begins at any moment of the beat."""
    frames = CINES[diagnosis]
    scan = draw_scan("acdc", "cine", diagnosis, ACDC_SCANNER, frames, seed)
    ed = int(np.random.default_rng(scan.key).integers(frames))
    return replace(scan, ed=ed, es=(ed + scan.es) % frames)


def volumes_of(labels: np.ndarray, scan: Scan) -> dict[str, float]:
    """Returns the volumes of both cavities, in mL."""
    counts = pixel_counts(labels)
    return {name: volume_ml(counts, scan.spacing_mm, part) for name, part in CAVITIES.items()}


def cine_row(segmenter: ScanSegmenter, scan: Scan, given: bool = False) -> dict[str, Any]:
    """Segments a cine, or ED and ES alone where they are given, and compares with the truth."""
    times = [scan.ed, scan.es] if given else list(range(scan.frames))
    cine = segmenter.segment_cine(pictures(scan, times), scan.spacing_mm)
    curve = [volumes_of(one.labels, scan) for one in cine.frames]
    phases = (0, 1) if given else (cine.ed, cine.es)
    row: dict[str, Any] = {"diagnosis": scan.pathology, "frames": scan.frames}
    true: dict[str, dict[str, float]] = {}
    for phase, at, place in zip(("ED", "ES"), (scan.ed, scan.es), phases, strict=True):
        apart = abs(times[place] - at)
        row[f"{phase}_off"] = min(apart, scan.frames - apart)
        true[phase] = volumes_of(scan.mask(at), scan)
    for name in CAVITIES:
        for kind, ed, es in (
            ("true", true["ED"], true["ES"]),
            ("found", curve[phases[0]], curve[phases[1]]),
        ):
            row[f"{kind}_{name}EDV"], row[f"{kind}_{name}ESV"] = ed[name], es[name]
            row[f"{kind}_{name}EF"] = ventricle(ed[name], es[name]).ef_percent
    return row


@click.command()
@click.option("--model", "models", required=True, multiple=True)
@click.option("--seed", "seeds", type=int, multiple=True, default=(7,), show_default=True)
@click.option("--given", is_flag=True, help="ED and ES are given: a tenth of the time.")
@click.option("--output", required=True, type=click.Path(path_type=Path))
def main(models: tuple[str, ...], seeds: tuple[int, ...], given: bool, output: Path) -> None:
    """Measures a segmenter on four cines of each seed."""
    segmenter = load_segmenter(list(models))
    rows = []
    for seed in seeds:
        for diagnosis in CINES:
            row = cine_row(segmenter, draw_cine(diagnosis, seed), given)
            rows.append({"seed": seed, **row})
            click.echo(
                f"{seed} {diagnosis}: ED, ES off {row['ED_off']}, {row['ES_off']}"
                + "".join(
                    f"; {name} {row[f'found_{name}']:.1f} of {row[f'true_{name}']:.1f}"
                    for name in ("LVEF", "RVEF", "LVEDV", "LVESV", "RVEDV", "RVESV")
                )
            )
    table = pd.DataFrame(rows)
    for name in ("LVEF", "RVEF"):
        apart = table[f"found_{name}"] - table[f"true_{name}"]
        click.echo(
            f"{name}: bias {apart.mean():.1f}, mean error {apart.abs().mean():.1f}, largest "
            f"{apart.abs().max():.1f} points; within 3 points {(apart.abs() <= 3).sum()} of "
            f"{len(table)}"
        )
    write(output, csv_text(table, "%.4g"))


if __name__ == "__main__":
    main()
