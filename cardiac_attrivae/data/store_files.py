"""Opens the files of a slice store, and checks that they are what they must be."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from reprlib import repr as short
from typing import Any, TypeVar
from zipfile import ZipFile

import numpy as np
import pandas as pd

from ..attributes import ATTRIBUTES, names_at
from ..runtime.spreadsheet import unquoted
from ..schema import MANUAL, SPLITS, DataError, Phase, Structure
from .manifest import NAME
from .nifti import MOST_VOXELS
from .recipe import PIXELS_MM, full_recipe
from .store_place import FILES

FORMAT = 2
SPACING = ["spacing_x_mm", "spacing_y_mm", "spacing_z_mm"]
TEXT = ["case", "dataset", "split", "domain", "vendor", "centre", "pathology", "phase"]

T = TypeVar("T")


def open_files(folder: Path) -> tuple[np.ndarray, np.ndarray, ZipFile, pd.DataFrame]:
    """Opens images, labels, masks and cases of a store together.

    They stay readable when the store is replaced: all of them belong to the same version of it.

    Example:
        >>> open_files(Path("nothing"))
        Traceback (most recent call last):
        cardiac_attrivae.schema.DataError: cases.csv is missing from nothing; run preprocess again
    """
    for name in FILES:
        if not (folder / name).is_file():
            raise DataError(f"{name} is missing from {folder}; run preprocess again")
    images = _array(folder / "images.npy", np.float32)
    labels = _array(folder / "labels.npy", np.uint8)
    return images, labels, opened(folder / "masks.npz", ZipFile), _cases(folder / "cases.csv")


def _cases(file: Path) -> pd.DataFrame:
    """Reads the table of a store and checks its columns and values.

    A blank attribute is NaN: a mask of it is missing. Columns of attributes that came later may be
    absent.
    """
    required = [*SPACING, *names_at([Phase.ED])]
    numbers = [*SPACING, *ATTRIBUTES]
    types = {**dict.fromkeys(TEXT, str), "slice_index": int, "mask_source": str}
    blank = dict.fromkeys(numbers, [""])
    try:
        cases = pd.read_csv(
            file, dtype=types | dict.fromkeys(numbers, float), keep_default_na=False,
            na_values=blank,
        )  # fmt: skip
    except (ValueError, OverflowError) as error:
        raise DataError(f"{file} cannot be read: {error}") from None
    if "mask_source" not in cases:  # versions that knew no other masks
        cases["mask_source"] = MANUAL
    for name in cases.columns.intersection(TEXT):
        cases[name] = cases[name].map(unquoted)
    missing = [name for name in (*types, *required) if name not in cases]
    if missing:
        raise DataError(f"{file} lacks the columns {', '.join(missing)}")
    known = cases[required].to_numpy(), cases[cases.columns.intersection(numbers)].to_numpy()
    if not np.isfinite(known[0]).all() or np.isinf(known[1]).any():
        raise DataError(f"{file} holds NaN or infinite values; expected numbers")
    unknown = set(cases["split"]) - set(SPLITS)
    if unknown:
        raise DataError(f"{file} has the splits {unknown}; expected {', '.join(SPLITS)}")
    if (cases.groupby("case")["split"].nunique() > 1).any():
        raise DataError(f"{file} has a case in several splits; expected each in one")
    return cases


def _array(file: Path, dtype: type) -> np.ndarray:
    """Maps slices (N, C, H, W) into memory: they are read when they are indexed, never written."""
    mapped = opened(file, partial(np.lib.format.open_memmap, mode="r"))
    if mapped.dtype != dtype or mapped.ndim != 4 or not mapped.shape[1]:
        raise DataError(
            f"{file} holds {mapped.dtype} of shape {mapped.shape}; expected {np.dtype(dtype)} "
            "(N, C, H, W)"
        )
    return mapped


def opened(file: Path, read: Callable[[Path], T]) -> T:
    """Opens a file; whatever is wrong with it is a `DataError`.

    Example:
        >>> _ = Path("masks.npz").write_text("no archive")
        >>> opened(Path("masks.npz"), ZipFile)
        Traceback (most recent call last):
        cardiac_attrivae.schema.DataError: masks.npz cannot be read: File is not a zip file
    """
    try:
        return read(file)
    except Exception as error:  # numpy evaluates a header, so any kind of error can occur
        raise DataError(f"{file} cannot be read: {error}") from None


def mask_entry(case: str, phase: Phase) -> str:
    """Names a mask in masks.npz; no case has a ``/`` in its name.

    Example:
        >>> mask_entry("p1", Phase.ED), mask_entry("p1", Phase.ES)
        ('p1.npy', 'ES/p1.npy')
    """
    return f"{case}.npy" if phase == Phase.ED else f"{phase}/{case}.npy"


def read_masks(archive: ZipFile, case: str, phases: Iterable[Phase]) -> dict[Phase, np.ndarray]:
    """Reads the native masks of a case, (I, J, S) at each phase; of ES there may be none.

    Example:
        >>> np.savez("masks.npz", p1=np.zeros((2, 2, 1), np.uint8))
        >>> with ZipFile("masks.npz") as archive:
        ...     list(read_masks(archive, "p1", Phase))
        [<Phase.ED: 'ED'>]
    """
    found, names = {}, set(archive.namelist())
    for phase in phases:
        if phase == Phase.ED or mask_entry(case, phase) in names:
            found[phase] = _mask(archive, mask_entry(case, phase), case)
    return found


def _mask(archive: ZipFile, entry: str, case: str) -> np.ndarray:
    file = archive.filename
    try:
        if archive.getinfo(entry).file_size > MOST_VOXELS:
            raise ValueError(f"it has more than {MOST_VOXELS} voxels")
        with archive.open(entry) as stream:
            mask = np.lib.format.read_array(stream, allow_pickle=False)
    except Exception as error:
        raise DataError(f"{file}: no mask of {case} can be read: {error}") from None
    if mask.dtype != np.uint8 or mask.ndim != 3 or mask.max(initial=0) >= len(Structure):
        raise DataError(
            f"{file}: the mask of {case} holds {mask.dtype} of shape {mask.shape}; expected uint8 "
            f"(I, J, S), 0 to {len(Structure) - 1}"
        )
    return mask


def check_facts(file: Path, info: dict[str, Any], cases: pd.DataFrame) -> None:
    """Checks that dataset.json says what is needed and agrees with the table.

    Example:
        >>> check_facts(Path("dataset.json"), {"dataset": "../x"}, pd.DataFrame())
        Traceback (most recent call last):
        cardiac_attrivae.schema.DataError: dataset.json: dataset is '../x'; expected letters, ...
    """
    name, recipe = info.get("dataset"), info.get("recipe")
    if not (isinstance(name, str) and re.fullmatch(NAME, name)):  # files are named after it
        raise DataError(f"{file}: dataset is {short(name)}; expected letters, digits, '_' and '-'")
    spacing = recipe.get("spacing") if isinstance(recipe, dict) else None
    if not (isinstance(spacing, (int, float)) and PIXELS_MM[0] <= spacing <= PIXELS_MM[1]):
        limits = f"{PIXELS_MM[0]} to {PIXELS_MM[1]} mm"
        raise DataError(f"{file}: recipe.spacing is {short(spacing)}; expected {limits}")
    counts = cases.drop_duplicates("case")["split"].value_counts()
    splits = {split: int(counts.get(split, 0)) for split in SPLITS}
    if info.get("splits") != splits:
        raise DataError(f"{file}: splits is {short(info.get('splits'))}; cases.csv has {splits}")
    for key in ("title", "citation"):
        if not isinstance(info.get(key), str):
            raise DataError(f"{file}: {key} is {short(info.get(key))}; expected text")


def check_channels(folder: Path, info: dict[str, Any], channels: int) -> None:
    """Checks that slices have the channels that dataset.json says: phases times slices of a stack.

    Example:
        >>> check_channels(Path("store"), {"recipe": {"stack": 5}}, 12)
        Traceback (most recent call last):
        cardiac_attrivae.schema.DataError: store has 12 channels; expected 1 or 2 phases of 5 ...
    """
    slices = full_recipe(info["recipe"])["stack"]
    whole = isinstance(slices, int) and slices > 0
    if not whole or channels not in (slices, 2 * slices):
        raise DataError(
            f"{folder} has {channels} channels; expected 1 or 2 phases of {slices} each"
        )
