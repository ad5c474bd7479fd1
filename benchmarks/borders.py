"""Measures how bright pictures are on either side of the outlines of both ventricles.

    python benchmarks/borders.py --dataset acdc --source ACDC

0 is the median of the wall and 1 the third quartile of the ventricle, in each slice of the two
thirds nearest the base; distances in mm from the outline, negative inside. Prints the median over
patients of their mean over slices, for patients and phantoms alike.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
from scipy.ndimage import distance_transform_edt

from cardiac_attrivae.data.cases import find_cases
from cardiac_attrivae.data.manifest import load_manifest
from cardiac_attrivae.data.transforms import ReadPhased, ToCanonicalLabelsd
from cardiac_attrivae.schema import Keys, Structure

READ = ReadPhased((Keys.IMAGE, Keys.LABEL)), ToCanonicalLabelsd(Keys.LABEL)
EDGES_MM = np.arange(-6.0, 5.0)
LEAST = {"mm2": 150, "wall": 5, "bin": 8}  # of a ventricle, in pixels of the wall and of a bin


def signed_mm(inside: np.ndarray, spacing_mm: float) -> np.ndarray:
    """Distance of pixels from the border of a region, negative inside."""
    away = np.where(inside, -distance_transform_edt(inside), distance_transform_edt(~inside))
    return (away - np.sign(away) / 2) * spacing_mm


def profile(values: np.ndarray, away_mm: np.ndarray) -> np.ndarray:
    """Mean of values at the distances between `EDGES_MM`; NaN where there are too few."""
    place = np.digitize(away_mm, EDGES_MM) - 1
    parts = [values[place == k] for k in range(len(EDGES_MM) - 1)]
    return np.array([part.mean() if len(part) >= LEAST["bin"] else np.nan for part in parts])


def slice_profiles(image: np.ndarray, labels: np.ndarray, mm: float) -> dict[str, np.ndarray]:
    """Profiles across the LV's endocardium and the RV's septum and free wall in a slice (X, Y)."""
    lv, wall, rv = (labels == s for s in (Structure.LV, Structure.MYO, Structure.RV))
    if lv.sum() * mm**2 < LEAST["mm2"] or not wall.any():
        return {}
    heart, in_lv = signed_mm(lv | wall, mm), signed_mm(lv, mm)
    core = image[wall & (in_lv > 2) & (heart < -2)]
    if len(core) < LEAST["wall"]:
        return {}
    dark = float(np.median(core))

    def across(cavity: np.ndarray, at: np.ndarray) -> np.ndarray:
        bright = max(float(np.percentile(image[cavity], 75)) - dark, 1)
        return profile((image[at] - dark) / bright, signed_mm(cavity, mm)[at])

    found = {"LV": across(lv, lv | wall)}
    if rv.sum() * mm**2 >= LEAST["mm2"]:
        from_wall = distance_transform_edt(~wall) * mm
        found["RV septum"] = across(rv, wall | (rv & (from_wall < 8)))
        found["RV free wall"] = across(rv, ~(lv | wall) & (from_wall > 6))
    return found


def frame_profiles(image: np.ndarray, labels: np.ndarray, mm: float) -> dict[str, np.ndarray]:
    """Means over the slices of a frame (X, Y, Z), but for the third at the apex."""
    areas = (labels == Structure.LV).sum((0, 1))
    slices = np.flatnonzero(areas)
    if not len(slices):
        return {}
    if areas[slices[0]] < areas[slices[-1]]:
        slices = slices[::-1]
    upper = slices[: int(np.ceil(2 * len(slices) / 3))]
    table = pd.DataFrame([slice_profiles(image[..., k], labels[..., k], mm) for k in upper])
    means = {str(name): pd.DataFrame(table[name].dropna().tolist()).mean() for name in table}
    return {name: mean.to_numpy() for name, mean in means.items()}


@click.command()
@click.option("--dataset", default="acdc", show_default=True)
@click.option("--source", required=True, type=click.Path(path_type=Path))
def main(dataset: str, source: Path) -> None:
    """Measures the borders of a data set."""
    middle = (EDGES_MM[:-1] + EDGES_MM[1:]) / 2
    click.echo(f"{'mm':16s}" + "".join(f"{d:6.1f}" for d in middle))
    for phase in ("ED", "ES"):
        rows = []
        for record in find_cases(load_manifest(dataset), source, phase).records:
            data: Any = {"record": record}
            for step in READ:
                data = step(data)
            image = np.asarray(data[Keys.IMAGE], dtype=float)
            labels = np.asarray(data[Keys.LABEL])
            rows.append(frame_profiles(image, labels, float(data["spacing"][0])))
        table = pd.DataFrame(rows)
        for name in table:
            values = np.stack(table[name].dropna())
            for share, kind in ((50, "median"), (25, "q1"), (75, "q3")):
                line = np.nanpercentile(values, share, axis=0)
                about = f"{name} {phase}" if share == 50 else f"  {kind}"
                click.echo(f"{about:16s}" + "".join(f"{v:6.2f}" for v in line))


if __name__ == "__main__":
    main()
