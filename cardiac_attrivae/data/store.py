"""Reads a slice store: the folder that ``preprocess`` wrote, as a dataset of PyTorch.

Slices are mapped into memory and read from the disk when they are asked for, so that a store may be
larger than memory. `loader.py` makes batches of them.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from reprlib import repr as short
from typing import Any, TypeVar
from zipfile import ZipFile

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..attributes import AREAS, ATTRIBUTES, VOLUMES, check_names, measure, pixel_counts
from ..runtime.contents import require_store
from ..runtime.files import read_json
from ..runtime.provenance import digest, seal
from ..runtime.spreadsheet import unquoted
from ..schema import MANUAL, SPLITS, DataError, Keys, Structure
from .manifest import NAME
from .nifti import MOST_VOXELS

FORMAT = 2
FILES = ("cases.csv", "images.npy", "labels.npy", "masks.npz")
"""What the content hash in dataset.json covers."""
STORE = (*FILES, "dataset.json", "skipped.csv", "contact_sheet.png", "segmenters/segmenter_*")
"""Every file of a store."""

SPACING = ["spacing_x_mm", "spacing_y_mm", "spacing_z_mm"]
CHANNELS = (1, 2)
"""Accepted numbers of channels: ED, or ED and ES."""
TEXT = ["case", "dataset", "split", "domain", "vendor", "centre", "pathology", "phase"]

T = TypeVar("T")
Slices = dict[str, Tensor]
"""Fields by their key, the rows of each along axis 0."""


def is_store(folder: Path) -> bool:
    """Returns whether a folder holds a store, perhaps of another version or a damaged one.

    Its dataset.json tells, which has a format number; other programs write files of that name, too.

    Example:
        >>> is_store(Path("not/here"))
        False
    """
    try:
        info = read_json(folder / "dataset.json")
    except DataError:
        return False
    return isinstance(info.get("format"), int) and "content_hash" in info and "recipe" in info


def content_hash(folder: Path) -> str:
    """Computes the SHA-256 over the data files of a store, `FILES`.

    Example:
        >>> for name in FILES:
        ...     _ = Path(name).write_text(f"content of {name}")
        >>> content_hash(Path("."))[:16]
        '542c1773142e71bb'
    """
    with ThreadPoolExecutor() as pool:
        digests = pool.map(digest, (folder / name for name in FILES))
        return hashlib.sha256(b"".join(map(bytes.fromhex, digests))).hexdigest()


def _files(folder: Path) -> tuple[np.ndarray, np.ndarray, ZipFile, pd.DataFrame]:
    """Opens images, labels, masks and cases of a store together.

    They stay readable when the store is replaced: all of them belong to the same version of it.
    """
    for name in FILES:
        if not (folder / name).is_file():
            raise DataError(f"{name} is missing from {folder}; run preprocess again")
    images = _array(folder / "images.npy", np.float32)
    labels = _array(folder / "labels.npy", np.uint8)
    return images, labels, _opened(folder / "masks.npz", ZipFile), _cases(folder / "cases.csv")


def _cases(file: Path) -> pd.DataFrame:
    """Reads the table of a store and checks its columns and values."""
    numbers = [*SPACING, *ATTRIBUTES]
    types = {**dict.fromkeys(TEXT, str), **dict.fromkeys(numbers, float), "slice_index": int}
    try:
        cases = pd.read_csv(file, dtype={**types, "mask_source": str}, keep_default_na=False)
    except (ValueError, OverflowError) as error:
        raise DataError(f"{file} cannot be read: {error}") from None
    if "mask_source" not in cases:  # versions that knew no other masks
        cases["mask_source"] = MANUAL
    for name in cases.columns.intersection(TEXT):
        cases[name] = cases[name].map(unquoted)
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
    """Maps slices (N, C, H, W) into memory: they are read when they are indexed, never written."""
    mapped = _opened(file, partial(np.lib.format.open_memmap, mode="r"))
    if mapped.dtype != dtype or mapped.ndim != 4 or mapped.shape[1] not in CHANNELS:
        raise DataError(
            f"{file} holds {mapped.dtype} of shape {mapped.shape}; expected {np.dtype(dtype)} "
            "(N, C, H, W), C 1 or 2"
        )
    return mapped


def _opened(file: Path, opened: Callable[[Path], T]) -> T:
    try:
        return opened(file)
    except Exception as error:  # numpy evaluates a header, so any kind of error can occur
        raise DataError(f"{file} cannot be read: {error}") from None


def _mask(archive: ZipFile, case: str) -> np.ndarray:
    """Reads the native mask of a case, (I, J, S)."""
    file = archive.filename
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


def _check_facts(file: Path, info: dict[str, Any], cases: pd.DataFrame) -> None:
    """Checks that dataset.json says what is needed and agrees with the table."""
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


def _info(folder: Path) -> dict[str, Any]:
    """Reads dataset.json and checks its format and its seal."""
    info = require_store(folder)
    if info.get("format") != FORMAT:
        raise DataError(
            f"{folder} has format {info.get('format')}; expected {FORMAT}. Run preprocess "
            f"again, or use the version that wrote it: {info.get('versions')}"
        )
    if info.get("sha256") != seal(info):
        raise _changed(folder / "dataset.json", "its sha256")
    return info


def _check_content(folder: Path, info: dict[str, Any]) -> bool:
    """Compares the content hash; returns False if another store has taken its place meanwhile."""
    if content_hash(folder) == info.get("content_hash"):
        return True
    if _info(folder) != info:
        return False
    raise _changed(folder, "the content hash")


def _changed(place: Path, what: str) -> DataError:
    return DataError(
        f"{place} was changed after preprocess wrote it: {what} differs. Run preprocess again "
        "with --overwrite"
    )


class SliceDataset(Dataset[dict[str, Any]]):
    """Slices of one data set: rows of arrays that may be larger than memory.

    Taking rows copies no slice, and neither does taking rows of rows. Slices are copied when they
    are read: a few with `read`, all slices of a small dataset with `images` and `labels`.

    Args:
        images: All slices of the store, mapped or in memory, (M, C, H, W) float32 in [0, 1], 0
            outside the mask.
        labels: Their masks, (M, C, H, W) uint8, canonical.
        cases: One row per slice of this dataset, with the columns of cases.csv.
        info: Content of dataset.json.
        folder: Folder of the store.
        rows: Rows of the arrays that belong to this dataset, (N,); None takes all, in order.
        masks: Opened masks.npz; None opens the one in the folder when it is needed.
    """

    def __init__(
        self,
        images: np.ndarray | Tensor,
        labels: np.ndarray | Tensor,
        cases: pd.DataFrame,
        info: dict[str, Any],
        folder: Path,
        rows: np.ndarray | None = None,
        masks: ZipFile | None = None,
    ) -> None:
        self._images, self._labels = np.asanyarray(images), np.asanyarray(labels)
        self._rows = np.arange(len(images)) if rows is None else rows
        self.cases, self.info, self.folder = cases.reset_index(drop=True), info, folder
        self._masks = masks

    @classmethod
    def open(cls, folder: str | Path) -> SliceDataset:
        """Opens a store that ``preprocess`` wrote.

        What is read later belongs to the store as it was at this moment, even if it is replaced.

        Raises:
            DataError: If the folder is no store, or a file of it is missing or was changed.
        """
        folder = Path(folder)
        info = _info(folder)
        try:
            images, labels, masks, cases = _files(folder)
        except DataError:
            if all((folder / name).is_file() for name in FILES):
                _check_content(folder, info)  # the likelier reason
            raise
        # Hashed after they were opened: what was opened is what is hashed, or older and refused.
        if not _check_content(folder, info):
            return cls.open(folder)
        if not (len(images) == len(cases) and images.shape == labels.shape):
            raise DataError(
                f"{folder} has images {images.shape}, labels {labels.shape} and {len(cases)} rows "
                "in cases.csv; expected one of each for each slice"
            )
        if images.shape[2] != images.shape[3]:
            raise DataError(f"{folder} holds slices of {images.shape[2:]}; expected squares")
        _check_facts(folder / "dataset.json", info, cases)
        return cls(images, labels, cases, info, folder, masks=masks)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_masks": None}  # an open file cannot be pickled

    def __repr__(self) -> str:
        counts = self.cases.drop_duplicates("case")["split"].value_counts()
        splits = ", ".join(f"{counts[split]} {split}" for split in SPLITS if split in counts)
        size = f"{self.channels} x {self.image_size} x {self.image_size}"
        return (
            f"SliceDataset({self.name}: {len(self)} slices ({size} pixels) of {counts.sum()} cases"
            f"{splits and f' ({splits})'}, from {self.folder})"
        )

    @property
    def name(self) -> str:
        return self.info["dataset"]

    @property
    def channels(self) -> int:
        """Number of channels C: 1 (ED), or 2 (ED and ES)."""
        return self._images.shape[1]

    @property
    def image_size(self) -> int:
        """Pixels along each side of a slice, H = W."""
        return self._images.shape[-1]

    @property
    def pixel_cm2(self) -> float:
        """Area of a pixel of the crop in cm^2."""
        return self.info["recipe"]["spacing"] ** 2 / 100

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {key: field[0] for key, field in self.read([row]).items()} | {Keys.ROW: row}

    def read(self, rows: Sequence[int] | np.ndarray) -> Slices:
        """Copies the given rows: IMAGE, (n, C, H, W) float32, and LABEL, (n, C, H, W) uint8."""
        index = self._rows[np.asarray(rows, dtype=int)]
        fields = {Keys.IMAGE: self._images, Keys.LABEL: self._labels}
        return {key: torch.from_numpy(field.take(index, axis=0)) for key, field in fields.items()}

    @property
    def images(self) -> Tensor:
        """A copy of every slice, (N, C, H, W) float32."""
        return self.read(range(len(self)))[Keys.IMAGE]

    @property
    def labels(self) -> Tensor:
        """A copy of every mask, (N, C, H, W) uint8."""
        return self.read(range(len(self)))[Keys.LABEL]

    @property
    def nbytes(self) -> int:
        """Bytes that `images` and `labels` would take in memory together."""
        fields = self._images, self._labels
        return len(self) * sum(field.itemsize * math.prod(field.shape[1:]) for field in fields)

    @property
    def mask_sources(self) -> dict[str, int]:
        """Who made the masks, ``manual`` or a segmenter, and of how many patients."""
        patients = self.cases.drop_duplicates("case")
        if "mask_source" not in patients:
            return {MANUAL: len(patients)}
        return {str(name): int(n) for name, n in patients.groupby("mask_source").size().items()}

    def take(self, rows: Sequence[int] | np.ndarray) -> SliceDataset:
        """Takes the given rows, in that order."""
        rows = np.asarray(rows, dtype=int)
        cases, arrays = self.cases.iloc[rows], (self._images, self._labels)
        return SliceDataset(
            *arrays, cases, self.info, self.folder, self._rows[rows], masks=self._masks
        )

    def split(self, split: str) -> SliceDataset:
        """Takes the rows of ``train``, ``val`` or ``test``."""
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}; expected one of {', '.join(SPLITS)}")
        return self.take(np.flatnonzero(self.cases["split"] == split))

    def basal(self) -> SliceDataset:
        """Takes the most basal row of each patient: all rows of a store that holds one of each."""
        return self.take(np.flatnonzero(self.is_basal))

    def fingerprints(self) -> dict[str, str]:
        """Returns two digests of each case: of its most basal slice and mask, and of its volumes.

        Neither depends on id and split, nor the second, of spacing and volumes, on the crop.
        """
        found, basal = {}, self.basal()
        volumes = basal.cases[[*SPACING, *VOLUMES]].to_numpy(np.float64)
        for row, case in enumerate(basal.cases["case"]):
            slices = b"".join(field.numpy().tobytes() for field in basal.read([row]).values())
            parts = (slices, volumes[row].tobytes())
            found[case] = " ".join(hashlib.sha256(part).hexdigest()[:16] for part in parts)
        return found

    @property
    def is_basal(self) -> np.ndarray:
        """Whether a row is the most basal of its patient, (N,). The base shows more heart."""
        heart = self.cases[list(AREAS)].sum(axis=1)
        flags = np.zeros(len(self), dtype=bool)
        for rows in self.cases.groupby("case").indices.values():
            ends = self.cases["slice_index"].iloc[rows].to_numpy().argsort()[[0, -1]]
            flags[rows[max(ends, key=lambda end: heart.iloc[rows[end]])]] = True
        return flags

    def attributes(self, names: Sequence[str]) -> np.ndarray:
        """Returns values of cases.csv, (N, K)."""
        return self.cases[list(check_names(names))].to_numpy(dtype=np.float64, copy=True)

    def measured(self, names: Sequence[str]) -> np.ndarray:
        """Measures attributes again, on the native masks, (N, K).

        Raises:
            DataError: If the masks cannot be read, or belong to a store that replaced this one.
        """
        names, masks = check_names(names), self._opened_masks()
        rows = []
        for case in self.cases.to_dict("records"):
            spacing = tuple(case[name] for name in SPACING)
            counts = pixel_counts(_mask(masks, case["case"]))
            values = measure(counts, spacing, case["slice_index"])
            rows.append([values[name] for name in names])
        return np.array(rows, dtype=float).reshape(len(self), len(names))

    def _opened_masks(self) -> ZipFile:
        """Opens the masks of a copy that came from another process, if the store is the same."""
        if self._masks is None:
            masks, file = _opened(self.folder / "masks.npz", ZipFile), self.folder / "dataset.json"
            if file.is_file() and read_json(file).get("sha256") != self.info.get("sha256"):
                raise DataError(f"{self.folder} was replaced after it was opened; open it again")
            self._masks = masks
        return self._masks
