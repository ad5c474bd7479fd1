"""Slices in, codes out: what inference by a bundle's configuration is made of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from ignite.engine import Engine, Events
from torch import Tensor

from ..data.nifti import read_volume
from ..data.store import SliceDataset
from ..evaluation.generation import save_nifti
from ..evaluation.score import check_crop
from ..runtime.files import write
from ..schema import DataError, Keys


def read_slices(folder: str | Path, recipe: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Slices of a store, or of the NIfTI files of a folder, as a bundle's inference reads them.

    A NIfTI file is one slice or a stack of them, cropped and scaled as ``preprocess`` does it and
    lying as ``generate`` and ``traverse`` write them: columns to the patient's left, rows to the
    back.

    Args:
        folder: Either of the two.
        recipe: ``size`` (pixels), ``spacing`` (mm) and ``percentiles`` of the training slices.

    Returns:
        An item per slice: ``image`` (1, H, W), ``name`` (case, or file) and ``slice_index``.

    Raises:
        DataError: If there are none, or they were cropped otherwise.
    """
    folder = Path(folder)
    if (folder / "dataset.json").is_file():
        store = SliceDataset.open(folder)
        check_crop(recipe, store, "the model")
        rows = zip(store.images, store.cases["case"], store.cases["slice_index"], strict=True)
        return [_item(image, case, index) for image, case, index in rows]
    files = sorted((*folder.glob("*.nii"), *folder.glob("*.nii.gz")))
    if not files:
        raise DataError(
            f"{folder} is neither a store that preprocess wrote nor a folder of NIfTI files"
        )
    return [
        _item(image[None], file.name, index)
        for file in files
        for index, image in enumerate(_read_stack(file, recipe["size"], recipe["spacing"]))
    ]


def _item(image: Tensor, name: str, index: int) -> dict[str, Any]:
    return {str(Keys.IMAGE): image, "name": name, "slice_index": int(index)}


def _read_stack(file: Path, size: int, spacing: float) -> Tensor:
    """Slices (S, H, W) of a NIfTI file, see `read_slices`."""
    volume = read_volume(file, 0)
    voxels = torch.from_numpy(volume.voxels.astype(np.float32)).permute(2, 1, 0)
    if voxels.shape[1:] != (size, size):
        found = f"{voxels.shape[2]} x {voxels.shape[1]} pixels"
    elif not all(math.isclose(step, spacing, rel_tol=1e-3) for step in volume.spacing_mm[:2]):
        found = f"pixels of {volume.spacing_mm[0]:g} x {volume.spacing_mm[1]:g} mm"
    elif not (voxels.isfinite().all() and voxels.min() >= 0 and voxels.max() <= 1):
        found = f"values from {float(voxels.min()):g} to {float(voxels.max()):g}"
    else:
        return voxels
    raise DataError(
        f"{file.name} has {found}; the model was trained on cropped slices of {size} x {size} "
        f"pixels of {spacing:g} mm, values 0 to 1. Raw scans: write a store of them with "
        "cardiac-attrivae preprocess"
    )


class Codes:
    """Handler: writes codes.csv and reconstructions.nii.gz when inference is complete.

    codes.csv has a row per slice: ``name``, ``slice_index``, and the posterior mean as ``z0``,
    ``z1``...; reconstructions.nii.gz is one stack in the same order.

    Args:
        folder: Where.
        spacing: Pixel size in mm.
    """

    def __init__(self, folder: str | Path, spacing: float) -> None:
        self.folder, self.spacing = Path(folder), spacing

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.gather)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def begin(self, engine: Engine) -> None:
        self.rows: list[pd.DataFrame] = []
        self.slices: list[Tensor] = []

    def gather(self, engine: Engine) -> None:
        batch, output = engine.state.batch, engine.state.output
        with torch.no_grad():
            codes = engine.network.encode(output[Keys.IMAGE])[0].cpu().numpy()
        about = {name: batch[name] for name in ("name", "slice_index")}
        named = {f"z{d}": codes[:, d] for d in range(codes.shape[1])}
        self.rows.append(pd.DataFrame(about | named))
        self.slices.append(output["pred"][:, 0].float().cpu())

    def write(self, engine: Engine) -> None:
        write(self.folder / "codes.csv", pd.concat(self.rows).to_csv(index=False))
        save_nifti(torch.cat(self.slices), self.folder / "reconstructions.nii.gz", self.spacing)
