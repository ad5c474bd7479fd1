"""Files of drawn hearts: a requested slice, a traversal of every attribute, a grid of hearts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Unpack

import nibabel as nib
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..attributes import label_of
from ..report.animation import traversal_gif
from ..report.style import SYMBOLS, stacked
from ..runtime.files import atomic_file, write
from ..runtime.outputs import Claim, claimed
from ..runtime.spreadsheet import csv_text
from .control import traversed
from .grids import Grid, between, surface
from .studio import Opening, Studio
from .turns import STEPS, TURN, check_steps

LABELS = "labels.nii.gz"
"""Masks of a heart on request, beside its slice."""

FRAMES = 21
"""Frames of the animation in one direction."""


def generate(
    run: str | Path,
    request: Mapping[str, float],
    output: str | Path,
    *,
    case: str | None = None,
    condition: str | None = None,
    **opened: Unpack[Opening],
) -> tuple[pd.DataFrame, list[str]]:
    """Draws one heart as asked for.

    Writes slice.nii.gz, labels.nii.gz, slice.png (before, after, difference) and measured.csv. Of
    two phases the NIfTI files hold ED, then ES, as slices.

    Args:
        run: Folder that ``train`` wrote.
        request: Attribute -> value in its unit.
        output: Folder to write into.
        case: Patient to start from; None is the mean code of the training patients.
        condition: See `Studio.telling`.
        opened: ``store``, ``device``, ``tell`` and ``plain`` of `Studio.open`.

    Returns:
        See `compared`; and `Heart.warnings`.
    """
    output = Path(output)
    with claimed(output, "generate") as claim:
        studio = Studio.open(run, **opened).telling(condition, case)
        heart, spacing = studio.heart(request, case), studio.spacing_mm
        files = ("measured.csv", "slice.nii.gz", LABELS, "slice.png")
        claim.plan(files)
        write(output / "measured.csv", csv_text(heart.table))
        save_nifti(heart.after.slices[0], output / "slice.nii.gz", spacing)
        save_nifti(heart.after.labels[0], output / LABELS, spacing)
        heart.draw(output / "slice.png")
        claim.keep(files)
    return heart.table, heart.warnings


def traverse(
    run: str | Path,
    output: str | Path,
    *,
    case: str | None = None,
    condition: str | None = None,
    reach: float = TURN,
    steps: int = STEPS,
    **opened: Unpack[Opening],
) -> pd.DataFrame:
    """Turns every attribute of one heart.

    Writes traversal.png (measured areas below each picture), traversal.gif, a stack NAME.nii.gz per
    attribute with the steps as slices (of two phases ED and ES in turn), and traversal.csv.

    Args:
        run, output, case, condition, opened: As in `generate`.
        reach: Standard deviations of the training codes to either side.
        steps: Pictures per attribute.

    Returns:
        traversal.csv: attribute, dimension, step, requested, unit, and measured LV, MYO, RV
        (cm^2), of a second phase LV_ES, MYO_ES, RV_ES.
    """
    check_steps(steps, reach)
    output = Path(output)
    with claimed(output, "traverse") as claim:
        studio = Studio.open(run, **opened).telling(condition, case)
        turned = studio.turned(case, reach, steps)
        code, names = studio.start(case)[0], turned.calibration.names
        stacks = [f"{name}.nii.gz" for name in names]
        claim.plan(["traversal.png", "traversal.gif", "traversal.csv", *stacks])
        turned.draw(output / "traversal.png")
        smooth, asked = traversed(
            studio.run.painter, code[0], turned.calibration, np.linspace(-reach, reach, FRAMES)
        )
        captions = [
            [
                f"{value:.0f} {SYMBOLS.get(unit, unit)}" if np.isfinite(value) else "below 0"
                for value in values
            ]
            for values, unit in zip(asked, turned.units, strict=True)
        ]
        traversal_gif(
            stacked(smooth.numpy()), [*map(label_of, names)], output / "traversal.gif", captions
        )
        for name, slices in zip(names, turned.slices, strict=True):
            save_nifti(slices.flatten(0, 1), output / f"{name}.nii.gz", studio.spacing_mm)
        write(output / "traversal.csv", csv_text(turned.table))
    return turned.table


def traverse_between(
    run: str | Path,
    output: str | Path,
    start: str,
    end: str,
    *,
    condition: str | None = None,
    steps: int = STEPS,
    **opened: Unpack[Opening],
) -> pd.DataFrame:
    """Draws hearts between two patients, along a line and along the sphere, see `between`.

    Writes traversal.png (measured areas below each picture), traversal.nii.gz with the slices in
    the order of the table (of two phases ED and ES in turn), and traversal.csv.

    Args:
        run, output, opened: As in `generate`.
        start, end: Patients.
        condition: What a conditional network is told, see `Run.telling`; None is nothing.
        steps: Pictures per path.

    Returns:
        traversal.csv: path, share of the way, what the code says of each attribute of the model in
        its unit, and measured LV, MYO, RV (cm^2), of a second phase LV_ES, MYO_ES, RV_ES.
    """
    check_steps(steps)
    with claimed(Path(output), "traverse") as claim:
        studio = Studio.open(run, **opened).telling(condition)
        return _written(between(studio, start, end, steps), claim, studio.spacing_mm)


def traverse_surface(
    run: str | Path,
    output: str | Path,
    names: Sequence[str],
    *,
    case: str | None = None,
    condition: str | None = None,
    reach: float = TURN,
    steps: int = STEPS,
    **opened: Unpack[Opening],
) -> pd.DataFrame:
    """Turns two attributes of one heart at once, see `surface`.

    Writes what `traverse_between` writes.

    Args:
        run, output, case, condition, opened: As in `generate`.
        names: The attribute that changes from row to row, and the one from column to column.
        reach: Standard deviations of the training codes to either side.
        steps: Rows, and columns.

    Returns:
        traversal.csv: what the code says of each attribute of the model in its unit, and measured
        LV, MYO, RV (cm^2), of a second phase LV_ES, MYO_ES, RV_ES; row by row.
    """
    check_steps(steps, reach)
    with claimed(Path(output), "traverse") as claim:
        studio = Studio.open(run, **opened).telling(condition, case)
        return _written(surface(studio, names, case, reach, steps), claim, studio.spacing_mm)


def _written(grid: Grid, claim: Claim, spacing: float) -> pd.DataFrame:
    """Writes picture, slices and table of a grid; returns the table."""
    output = claim.folder
    claim.plan(["traversal.png", "traversal.nii.gz", "traversal.csv"])
    grid.draw(output / "traversal.png")
    save_nifti(grid.slices.flatten(0, 2), output / "traversal.nii.gz", spacing)
    write(output / "traversal.csv", csv_text(grid.table))
    return grid.table


def save_nifti(slices: Tensor, path: Path, spacing: float) -> None:
    """Slices (S, H, W) as a stack of voxels in mm, or frames of them, (T, S, H, W), as a cine;
    viewers show it upright, RV on the left."""
    # columns run to the patient's left and rows to the back, both negative in RAS coordinates
    affine = np.diag([-spacing, -spacing, 1.0, 1.0])
    voxels = torch.permute(slices, [*range(slices.ndim)][::-1]).numpy()
    image = nib.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units("mm")
    with atomic_file(path) as beside:
        nib.save(image, beside)
