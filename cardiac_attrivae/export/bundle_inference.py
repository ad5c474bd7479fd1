"""What the configurations of a bundle build: the network, slices in, codes out, and training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from reprlib import repr as short
from typing import Any

import numpy as np
import pandas as pd
import torch
from ignite.engine import Events
from monai.engines import SupervisedEvaluator
from torch import Tensor

from ..data.nifti import read_volume
from ..data.recipe import full_recipe
from ..data.store import SliceDataset
from ..evaluation.generation import LABELS, save_nifti
from ..evaluation.score import check_crop
from ..models.networks import build_network
from ..runtime.files import write
from ..runtime.spreadsheet import csv_text
from ..schema import DataError, Keys
from ..segmentation.guide import train_guide
from ..training.config import load_pipeline, parse_pipeline
from ..training.workflow import TrainingWorkflow
from .formats import Autoencoder, Part

FORMAT = 2
"""Format of bundles; counted up when this version cannot read earlier ones."""


def bundled_network(name: str, arguments: Mapping[str, Any], format: int) -> Autoencoder:
    """Builds the network of a bundle, without its weights.

    Args:
        name: A name in `NETWORKS`, or the dotted path of a class.
        arguments: Arguments of its constructor.
        format: Format of the bundle; another one than `FORMAT` is refused.
    """
    if format != FORMAT:
        raise DataError(
            f"the bundle has format {short(format)}; this version of cardiac-attrivae reads "
            f"{FORMAT}. Export the run again with cardiac-attrivae export --format bundle, or use "
            "the version that configs/metadata.json names"
        )
    return Autoencoder(build_network(name, **arguments))


def training_workflow(
    pipeline: str | Mapping[str, Any],
    data: str | Path,
    output: str | Path,
    changes: Sequence[str] = (),
    **options: Any,
) -> TrainingWorkflow:
    """Makes a training from names, as a bundle's train.json or ``monai.bundle run_workflow`` gives.

    Args:
        pipeline: Name of a shipped pipeline, a YAML file, or all its values.
        data: Folder that ``preprocess`` wrote; its train split is learnt, its val split watched.
        output: Folder of the run.
        changes: ``key=value``, see `load_pipeline`.
        options: Device, seed, resume and the other options of `TrainingWorkflow`.
    """
    if isinstance(pipeline, Mapping):
        wanted = parse_pipeline(pipeline)
    else:
        wanted = load_pipeline(pipeline, changes)
    store, options = SliceDataset.open(data), {"guide": train_guide} | options
    return TrainingWorkflow(wanted, store.split("train"), store.split("val"), output, **options)


def read_slices(folder: str | Path, recipe: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Reads the slices of a store, or of the NIfTI files in a folder.

    A NIfTI file holds one slice or a stack of them, cropped and scaled as ``preprocess`` does it,
    in the orientation in which ``generate`` and ``traverse`` write them: columns run to the
    patient's left, rows to the back. The labels that ``generate`` writes beside its slice are
    passed over. For a model of two phases ED and ES are in turn, for one of
    stacks the slices of each phase from base to apex.

    Args:
        folder: The store, or the folder of NIfTI files.
        recipe: ``size`` (pixels), ``spacing`` (mm) and ``percentiles`` of the training slices, and
            ``phases`` where they are two, ``stack`` where slices are stacked.

    Returns:
        An item per slice: ``image`` (C, H, W), ``name`` (case, or file) and ``slice_index``.
    """
    folder = Path(folder)
    if (folder / "dataset.json").is_file():
        store = SliceDataset.open(folder)
        check_crop(recipe, store, "the model")
        rows = zip(store.images, store.cases["case"], store.cases["slice_index"], strict=True)
        return [_item(image, case, index) for image, case, index in rows]
    files = sorted((*folder.glob("*.nii"), *folder.glob("*.nii.gz")))
    files = [file for file in files if file.name != LABELS]
    if not files:
        raise DataError(
            f"{folder} is neither a store that preprocess wrote nor a folder of NIfTI files"
        )
    return [
        _item(image, file.name, index)
        for file in files
        for index, image in enumerate(_read_stack(file, recipe))
    ]


def _item(image: Tensor, name: str, index: int) -> dict[str, Any]:
    return {str(Keys.IMAGE): image, "name": name, "slice_index": int(index)}


def _read_stack(file: Path, recipe: Mapping[str, Any]) -> Tensor:
    """Reads slices (N, C, H, W) of a NIfTI file, see `read_slices`."""
    recipe = full_recipe(recipe)
    size, spacing = recipe["size"], recipe["spacing"]
    channels = len(recipe["phases"]) * recipe["stack"]
    volume = read_volume(file, 0)
    voxels = torch.from_numpy(volume.voxels.astype(np.float32)).permute(2, 1, 0)
    if voxels.shape[1:] != (size, size):
        found = f"{voxels.shape[2]} x {voxels.shape[1]} pixels"
    elif not all(math.isclose(step, spacing, rel_tol=1e-3) for step in volume.spacing_mm[:2]):
        found = f"pixels of {volume.spacing_mm[0]:g} x {volume.spacing_mm[1]:g} mm"
    elif not (voxels.isfinite().all() and voxels.min() >= 0 and voxels.max() <= 1):
        found = f"values from {float(voxels.min()):g} to {float(voxels.max()):g}"
    elif len(voxels) % channels:
        found = f"{len(voxels)} slices, not {channels} channels in turn"
    else:
        return voxels.unflatten(0, (-1, channels))
    raise DataError(
        f"{file.name} has {found}; the model was trained on cropped slices of {size} x {size} "
        f"pixels of {spacing:g} mm, values 0 to 1. Raw scans: write a store of them with "
        "cardiac-attrivae preprocess"
    )


class CodeWriter:
    """Handler that writes codes.csv and reconstructions.nii.gz into a folder when inference is
    complete.

    codes.csv has a row per slice: ``name``, ``slice_index``, and the posterior mean as ``z0``,
    ``z1``...; reconstructions.nii.gz is one stack in the same order, of pixels of ``spacing`` mm,
    of a model of two phases with ED and ES in turn.
    """

    def __init__(self, folder: str | Path, spacing: float) -> None:
        self.folder, self.spacing = Path(folder), spacing

    def attach(self, engine: SupervisedEvaluator) -> None:
        engine.add_event_handler(Events.STARTED, self.begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.gather)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def begin(self, engine: SupervisedEvaluator) -> None:
        self.rows: list[pd.DataFrame] = []
        self.slices: list[Tensor] = []

    def gather(self, engine: SupervisedEvaluator) -> None:
        batch, output = engine.state.batch, engine.state.output
        with torch.no_grad():
            codes = Part(engine.network, "encode")(output[Keys.IMAGE])[0].cpu().numpy()
        about = {name: batch[name] for name in ("name", "slice_index")}
        named = {f"z{d}": codes[:, d] for d in range(codes.shape[1])}
        self.rows.append(pd.DataFrame(about | named))
        self.slices.append(output["pred"].flatten(0, 1).float().cpu())

    def write(self, engine: SupervisedEvaluator) -> None:
        write(self.folder / "codes.csv", csv_text(pd.concat(self.rows)))
        save_nifti(torch.cat(self.slices), self.folder / "reconstructions.nii.gz", self.spacing)
