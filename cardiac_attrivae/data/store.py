"""The slice store, on disk and on the device.

On disk slices are mapped into memory and read when they are needed. A store that fits lies on the
device as one tensor per field, and a batch is an index; of a larger one batches are read ahead.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from reprlib import repr as short
from typing import Any
from zipfile import ZipFile

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..attributes import AREAS, ATTRIBUTES, check_names, measure, pixel_counts
from ..runtime.files import read_json
from ..schema import SPLITS, DataError, Keys, Structure
from .manifest import NAME
from .nifti import MOST_VOXELS

FORMAT = 2
FILES = ("cases.csv", "images.npy", "labels.npy", "masks.npz")
"""What the content hash in dataset.json covers."""

SPACING = ["spacing_x_mm", "spacing_y_mm", "spacing_z_mm"]
TEXT = ["case", "dataset", "split", "domain", "vendor", "centre", "pathology", "phase"]


Slices = dict[str, Tensor]
"""Fields by their key, the rows of each along axis 0."""


def content_hash(folder: Path) -> str:
    """SHA-256 over the data files of a store."""
    with ThreadPoolExecutor() as pool:
        return hashlib.sha256(b"".join(pool.map(_digest, (folder / n for n in FILES)))).hexdigest()


def _digest(path: Path) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def seal(info: dict[str, Any]) -> str:
    """SHA-256 of what dataset.json says, but for its key ``sha256``, which holds this.

    Raises:
        DataError: If that cannot be written as JSON, though perhaps read.
    """
    said = {key: value for key, value in info.items() if key != "sha256"}
    try:
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
    except RecursionError:
        raise DataError("values of dataset.json lie too deep in one another") from None


def _cases(file: Path) -> pd.DataFrame:
    """The table of a store, its columns and values checked."""
    numbers = [*SPACING, *ATTRIBUTES]
    types = {**dict.fromkeys(TEXT, str), **dict.fromkeys(numbers, float), "slice_index": int}
    try:
        cases = pd.read_csv(file, dtype=types, keep_default_na=False)
    except (ValueError, OverflowError) as error:
        raise DataError(f"{file} cannot be read: {error}") from None
    missing = [name for name in types if name not in cases]
    if missing:
        raise DataError(f"{file} lacks the columns {', '.join(missing)}")
    if not np.isfinite(cases[numbers].to_numpy()).all():
        raise DataError(f"{file} holds NaN or infinite values; expected numbers")
    unknown = set(cases["split"]) - set(SPLITS)
    if unknown:
        raise DataError(f"{file} has the splits {unknown}; expected {', '.join(SPLITS)}")
    if (cases.groupby("case")["split"].nunique() > 1).any():
        raise DataError(f"{file} has a case in several splits; expected each in one")
    return cases


def _array(file: Path, dtype: type) -> np.ndarray:
    """Slices (N, 1, H, W), mapped: read when they are indexed, and changed by nobody."""
    try:
        mapped = np.lib.format.open_memmap(file, mode="r")
    except Exception as error:  # a header is parsed by what numpy calls, which raises what it will
        raise DataError(f"{file} cannot be read: {error}") from None
    if mapped.dtype != dtype or mapped.ndim != 4 or mapped.shape[1] != 1:
        raise DataError(
            f"{file} holds {mapped.dtype} of shape {mapped.shape}; expected {np.dtype(dtype)} "
            "(N, 1, H, W)"
        )
    return mapped


def _check_facts(file: Path, info: dict[str, Any], cases: pd.DataFrame) -> None:
    """Whether dataset.json says what is needed, and what the table says as well."""
    name, recipe = info.get("dataset"), info.get("recipe")
    if not (isinstance(name, str) and re.fullmatch(NAME, name)):  # files are named after it
        raise DataError(f"{file}: dataset is {short(name)}; expected letters, digits, '_' and '-'")
    spacing = recipe.get("spacing") if isinstance(recipe, dict) else None
    if not (isinstance(spacing, (int, float)) and 0.1 <= spacing <= 10):
        raise DataError(f"{file}: recipe.spacing is {short(spacing)}; expected 0.1 to 10 mm")
    counts = cases.drop_duplicates("case")["split"].value_counts()
    splits = {split: int(counts.get(split, 0)) for split in SPLITS}
    if info.get("splits") != splits:
        raise DataError(f"{file}: splits is {short(info.get('splits'))}; cases.csv has {splits}")
    for key in ("title", "citation"):
        if not isinstance(info.get(key), str):
            raise DataError(f"{file}: {key} is {short(info.get(key))}; expected text")


def _masks(file: Path, cases: Iterable[str]) -> Iterator[np.ndarray]:
    """The native mask of each case, (I, J, S)."""
    try:
        archive = ZipFile(file)
    except Exception as error:  # of many kinds, see `_array`
        raise DataError(f"{file} cannot be read: {error}") from None
    with archive:
        for case in cases:
            yield _mask(archive, case, file)


def _mask(archive: ZipFile, case: str, file: Path) -> np.ndarray:
    try:
        if archive.getinfo(f"{case}.npy").file_size > MOST_VOXELS:
            raise ValueError(f"it has more than {MOST_VOXELS} voxels")
        with archive.open(f"{case}.npy") as stream:
            mask = np.lib.format.read_array(stream, allow_pickle=False)
    except Exception as error:
        raise DataError(f"{file}: no mask of {case} can be read: {error}") from None
    if mask.dtype != np.uint8 or mask.ndim != 3 or mask.max(initial=0) >= len(Structure):
        raise DataError(
            f"{file}: the mask of {case} holds {mask.dtype} of shape {mask.shape}; expected uint8 "
            f"(I, J, S), 0 to {len(Structure) - 1}"
        )
    return mask


class SliceDataset(Dataset):
    """Slices of one data set: rows of arrays that may be larger than memory.

    To take rows, of rows taken before too, copies no slice. Slices are copied when they are asked
    for: a few with `read`, every one of a small part with `images` and `labels`.

    Args:
        images: All slices of the store, mapped or in memory, (M, 1, H, W) float32 in [0, 1], 0
            outside the mask.
        labels: Their masks, (M, 1, H, W) uint8, canonical.
        cases: One row per slice of this part, the columns of cases.csv.
        info: What dataset.json says.
        folder: Of the store.
        rows: Which slices are this part's, (N,); None is all, in order.
    """

    def __init__(
        self,
        images: np.ndarray | Tensor,
        labels: np.ndarray | Tensor,
        cases: pd.DataFrame,
        info: dict[str, Any],
        folder: Path,
        rows: np.ndarray | None = None,
    ) -> None:
        self._images, self._labels = np.asanyarray(images), np.asanyarray(labels)
        self._rows = np.arange(len(images)) if rows is None else rows
        self.cases, self.info, self.folder = cases.reset_index(drop=True), info, folder

    @classmethod
    def open(cls, folder: str | Path) -> SliceDataset:
        """Reads a store that ``preprocess`` wrote.

        Raises:
            DataError: If the folder is no store, or a file of it is missing or was changed.
        """
        folder = Path(folder)
        if not (folder / "dataset.json").is_file():
            raise DataError(
                f"no slice store in {folder}: dataset.json is missing. Write one with "
                f"cardiac-attrivae preprocess --dataset acdc --source DIR --output {folder}"
            )
        info = read_json(folder / "dataset.json")
        if info.get("format") != FORMAT:
            raise DataError(
                f"{folder} has format {info.get('format')}; expected {FORMAT}. Run preprocess "
                f"again, or use the version that wrote it: {info.get('versions')}"
            )
        if info.get("sha256") != seal(info):
            raise DataError(
                f"{folder / 'dataset.json'} was changed after preprocess wrote it: its sha256 "
                "differs. Run preprocess again with --overwrite"
            )
        for name in FILES:
            if not (folder / name).is_file():
                raise DataError(f"{name} is missing from {folder}; run preprocess again")
        if content_hash(folder) != info.get("content_hash"):
            raise DataError(
                f"{folder} was changed after preprocess wrote it: the content hash differs. "
                "Run preprocess again with --overwrite"
            )
        cases = _cases(folder / "cases.csv")
        images = _array(folder / "images.npy", np.float32)
        labels = _array(folder / "labels.npy", np.uint8)
        if not (len(images) == len(cases) and images.shape == labels.shape):
            raise DataError(
                f"{folder} has images {images.shape}, labels {labels.shape} and {len(cases)} rows "
                "in cases.csv; expected one of each for each slice"
            )
        _check_facts(folder / "dataset.json", info, cases)
        return cls(images, labels, cases, info, folder)

    @property
    def name(self) -> str:
        return self.info["dataset"]

    @property
    def pixel_cm2(self) -> float:
        """Area of a pixel of the crop."""
        return self.info["recipe"]["spacing"] ** 2 / 100

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {key: field[0] for key, field in self.read([row]).items()} | {Keys.ROW: row}

    def read(self, rows: Sequence[int] | np.ndarray) -> Slices:
        """Copies of the given rows: IMAGE, (n, 1, H, W) float32, and LABEL, (n, 1, H, W) uint8."""
        index = self._rows[np.asarray(rows, dtype=int)]
        fields = {Keys.IMAGE: self._images, Keys.LABEL: self._labels}
        return {key: torch.from_numpy(field.take(index, axis=0)) for key, field in fields.items()}

    @property
    def images(self) -> Tensor:
        """A copy of every slice, (N, 1, H, W) float32."""
        return self.read(range(len(self)))[Keys.IMAGE]

    @property
    def labels(self) -> Tensor:
        """A copy of every mask, (N, 1, H, W) uint8."""
        return self.read(range(len(self)))[Keys.LABEL]

    @property
    def nbytes(self) -> int:
        """What `images` and `labels` would take in memory together."""
        fields = self._images, self._labels
        return len(self) * sum(field.itemsize * math.prod(field.shape[1:]) for field in fields)

    def take(self, rows: Sequence[int] | np.ndarray) -> SliceDataset:
        """The given rows, in that order."""
        rows = np.asarray(rows, dtype=int)
        arrays = self._images, self._labels
        return SliceDataset(
            *arrays, self.cases.iloc[rows], self.info, self.folder, self._rows[rows]
        )

    def split(self, split: str) -> SliceDataset:
        """The rows of ``train``, ``val`` or ``test``."""
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}; expected one of {', '.join(SPLITS)}")
        return self.take(np.flatnonzero(self.cases["split"] == split))

    def basal(self) -> SliceDataset:
        """The most basal row of each patient; all rows of a store that holds one per patient."""
        return self.take(np.flatnonzero(self.is_basal))

    @property
    def is_basal(self) -> np.ndarray:
        """Whether a row is the most basal of its patient, (N,): the end that shows more heart."""
        heart = self.cases[list(AREAS)].sum(axis=1)
        flags = np.zeros(len(self), dtype=bool)
        for rows in self.cases.groupby("case").indices.values():
            ends = self.cases["slice_index"].iloc[rows].to_numpy().argsort()[[0, -1]]
            flags[rows[max(ends, key=lambda end: heart.iloc[rows[end]])]] = True
        return flags

    def attributes(self, names: Sequence[str]) -> np.ndarray:
        """Values of cases.csv, (N, K)."""
        return self.cases[list(check_names(names))].to_numpy(dtype=np.float64, copy=True)

    def measured(self, names: Sequence[str]) -> np.ndarray:
        """Values measured anew from the native masks, (N, K)."""
        names = check_names(names)
        out = np.empty((len(self), len(names)))
        masks = _masks(self.folder / "masks.npz", self.cases["case"])
        for (row, case), mask in zip(self.cases.iterrows(), masks, strict=True):
            values = measure(pixel_counts(mask), tuple(case[SPACING]), case["slice_index"])
            out[row] = [values[name] for name in names]
        return out

    def units(self, names: Sequence[str]) -> list[str]:
        return [ATTRIBUTES[name].unit for name in names]
