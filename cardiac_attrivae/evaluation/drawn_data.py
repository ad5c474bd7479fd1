"""A labelled data set of drawn hearts: images, masks and a manifest, as `preprocess` reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from scipy.stats import gaussian_kde

from ..attributes import is_area
from ..data.recipe import full_recipe
from ..data.store import SliceDataset
from ..metrics.population import Population
from ..runtime.files import write
from ..runtime.outputs import claimed
from ..runtime.progress import Progress, silent
from ..runtime.spreadsheet import csv_text
from ..schema import DataError, Phase, Structure, structures_at
from .aiming import check_request
from .generation import save_nifti
from .studio import Studio

BATCH = 16
"""Hearts that are drawn at once."""
FEWEST = 5
"""Patients that a distribution of attributes can be taken from."""

Range = tuple[float, float]

ABOUT = """\
# Drawn hearts: {count} slices of nobody

Drawn by a model of {method} trained on {dataset}. Codes: normally distributed, as those of its
training patients. Attributes: {how}.

`images/` holds slices and `masks/` their labels (LV 1, MYO 2, RV 3), as a segmenter sees them in
the slice; `hearts.csv` the requested and the measured areas in cm2. The files say 1 mm for the
thickness of a slice, which it does not have: volumes mean nothing here.

A model can draw what it was trained on. The terms of {dataset} apply to what is drawn from it.

    cardiac-attrivae preprocess --dataset dataset.yaml --source . --output STORE
"""


def wanted_like(slices: SliceDataset, names: Sequence[str], count: int, seed: int) -> np.ndarray:
    """Draws attributes as those of a store's most basal slices are distributed together.

    The K attributes of ``count`` hearts, (count, K), come from a kernel density estimate (Scott's
    bandwidth), kept between half of the least and one and a half times the largest value of the
    patients. Refuses fewer than 5 patients, and an attribute that is the same in all.
    """
    values = slices.basal().attributes(names)
    if len(values) < FEWEST or not values.std(axis=0).all():
        raise DataError(
            f"{slices.folder} has {len(values)} patients; expected {FEWEST} or more whose "
            f"{', '.join(names)} differ"
        )
    drawn = gaussian_kde(values.T).resample(count, seed).T
    return drawn.clip(values.min(axis=0) / 2, values.max(axis=0) * 1.5)


def draw_data_set(
    run: str | Path,
    count: int,
    output: str | Path,
    *,
    request: Mapping[str, Range] | None = None,
    like: SliceDataset | None = None,
    store: str | Path | None = None,
    condition: str | None = None,
    seed: int = 0,
    device: str = "auto",
    plain: bool | None = None,
    tell: Callable[[str], None] = lambda message: None,
    progress: Progress = silent,
) -> pd.DataFrame:
    """Draws hearts of patients that do not exist, and labels them.

    Writes images/ and masks/ (NIfTI), hearts.csv, dataset.yaml (a manifest) and README.md.

    Args:
        run, store, device, plain, tell: See `Studio.open`.
        count: Number of hearts.
        output: Folder to write into.
        request: Attribute -> least and largest value, between which it is drawn uniformly.
        like: Slices of patients whose areas are distributed as those of the hearts shall be; an
            attribute in ``request`` is taken from there.
        condition: What a conditional network is told, see `Run.telling`; None is nothing.
        seed: Of all draws.
        progress: Called with the batches and their number.

    Returns:
        hearts.csv: case, requested_NAME, and measured LV, MYO and RV in cm2, of a second phase
        LV_ES, MYO_ES and RV_ES; files then hold two frames.

    Raises:
        DataError: If the run says nothing of its training patients' codes (fewer than 10, or an old
            version), or as `Studio.open` and `wanted_like`.
        ValueError: If a value cannot be requested.
    """
    output, request = Path(output), request or {}
    with claimed(output, "generate") as claim:
        studio = Studio.open(run, store, device, tell, plain=plain).telling(condition)
        if studio.scale.slices > 1:
            raise DataError(
                f"{run} draws stacks, and a data set of drawn hearts holds one slice of each; draw "
                "single hearts, or use a model of single slices"
            )
        for name, limits in request.items():
            for value in limits:
                check_request({name: value}, studio.field_cm2)
        wanted = _wanted(studio, count, request, like, seed)
        codes = _population(studio).draw(count, np.random.default_rng(seed))
        studio.calibration.set(codes, wanted)  # refused before minutes are spent on segmenters
        about, folders = ["hearts.csv", "dataset.yaml", "README.md"], ("images", "masks")
        cases = [f"heart{number:05d}" for number in range(1, count + 1)]
        files = [f"{folder}/{case}.nii.gz" for case in cases for folder in folders]
        claim.plan([*files, *about], last=about)
        rows = list[dict[str, object]]()
        starts = range(0, count, BATCH)
        for part in progress((range(k, min(k + BATCH, count)) for k in starts), len(starts)):
            asked = {name: values[part] for name, values in wanted.items()}
            drawn = studio.generate(codes[part], asked)
            for k, case in enumerate(cases[number] for number in part):
                for folder, slices in zip(folders, (drawn.slices, drawn.labels), strict=True):
                    one = slices[k] if slices.shape[1] == 1 else slices[k][:, None]  # or frames
                    save_nifti(one, output / folder / f"{case}.nii.gz", studio.spacing_mm)
                requested = {f"requested_{name}": float(v[k]) for name, v in asked.items()}
                areas = dict(zip(structures_at(Phase), map(float, drawn.areas[k]), strict=False))
                rows.append({"case": case, **requested, **areas})
        table = pd.DataFrame(rows)
        write(output / "hearts.csv", csv_text(table.round(3)))
        _describe(studio, count, request, like, output)
        claim.keep([*files, *about])
    return table


def _population(studio: Studio) -> Population:
    known = Population.of_facts(studio.run.about)
    if known is None:
        raise DataError(
            f"{studio.run.folder} does not say how the codes of its training patients are "
            "distributed: it has fewer than 10, or was trained by an older version; train it again"
        )
    return known


def _wanted(
    studio: Studio, count: int, request: Mapping[str, Range], like: SliceDataset | None, seed: int
) -> dict[str, np.ndarray]:
    found = dict[str, np.ndarray]()
    if like is not None:
        names = [name for name in studio.calibration.names if is_area(name)]
        found |= zip(names, wanted_like(like, names, count, seed).T, strict=True)
    random = np.random.default_rng([seed, 1])
    return found | {name: random.uniform(*limits, count) for name, limits in request.items()}


def _describe(
    studio: Studio,
    count: int,
    request: Mapping[str, Range],
    like: SliceDataset | None,
    output: Path,
) -> None:
    how = [f"{name} uniform from {low:g} to {high:g}" for name, (low, high) in request.items()]
    if like is not None:
        how.append(f"{'others ' if how else ''}as in the patients of {like.name}, smoothed")
    dataset = studio.run.about["train_dataset"]
    phases = full_recipe(studio.run.about["recipe"])["phases"]
    facts = {
        "count": count,
        "method": studio.run.pipeline.method,
        "dataset": dataset,
        "how": "; ".join(how) or "those of the codes",
    }
    write(output / "README.md", ABOUT.format(**facts))
    manifest = {
        "name": "drawn",
        "title": f"Hearts drawn by a model of {dataset}",
        "licence": f"Derived from {dataset}: its terms apply",
        "citation": f"Drawn by cardiac-attrivae; cite {dataset} too",
        "folders": {".": "train"},
        "image": "images/{case}.nii.gz",
        "mask": "masks/{case}.nii.gz",
        "labels": {s.name: s.value for s in Structure if s.value},
        "constants": {name: frame for frame, name in enumerate(phases)},
        "frame_base": 0,
    }
    write(output / "dataset.yaml", yaml.safe_dump(manifest, sort_keys=False))
