"""The slice store, on disk and on the device: one tensor per field, and a batch is an index."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from reprlib import repr as short
from typing import Any
from zipfile import ZipFile

import numpy as np
import pandas as pd
import torch
from torch import Generator, Tensor
from torch.utils.data import Dataset

from .attributes import AREAS, ATTRIBUTES, check_names, measure, pixel_counts
from .manifest import NAME
from .nifti import MOST_VOXELS
from .schema import SPLITS, DataError, Keys, Structure

FORMAT = 1
FILES = ("cases.csv", "images.npy", "labels.npy", "masks.npz")
"""What the content hash in dataset.json covers."""

SPACING = ["spacing_x_mm", "spacing_y_mm", "spacing_z_mm"]
TEXT = ["case", "dataset", "split", "domain", "vendor", "centre", "pathology", "phase"]
NUMBERS = [*SPACING, *ATTRIBUTES]


def content_hash(folder: Path) -> str:
    """SHA-256 over the data files of a store."""
    digest = hashlib.sha256()
    for name in FILES:
        with open(folder / name, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def read_json(file: Path) -> dict[str, Any]:
    """What a JSON file of a store or a run says.

    Raises:
        DataError: If it is missing, or holds no names with values: it was cut off, say.
    """
    if not file.is_file():
        raise DataError(f"{file} is missing")
    try:
        said = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is no JSON: {error}") from None
    if not isinstance(said, dict):
        raise DataError(f"{file} holds {short(said)}; expected names with values")
    return said


def _cases(file: Path) -> pd.DataFrame:
    """The table of a store, its columns and values checked."""
    types = {**dict.fromkeys(TEXT, str), **dict.fromkeys(NUMBERS, float), "slice_index": int}
    try:
        cases = pd.read_csv(file, dtype=types, keep_default_na=False)
    except (ValueError, OverflowError) as error:
        raise DataError(f"{file} cannot be read: {error}") from None
    missing = [name for name in types if name not in cases]
    if missing:
        raise DataError(f"{file} lacks the columns {', '.join(missing)}")
    if not np.isfinite(cases[NUMBERS].to_numpy()).all():
        raise DataError(f"{file} holds NaN or infinite values; expected numbers")
    unknown = set(cases["split"]) - set(SPLITS)
    if unknown:
        raise DataError(f"{file} has the splits {unknown}; expected {', '.join(SPLITS)}")
    if (cases.groupby("case")["split"].nunique() > 1).any():
        raise DataError(f"{file} has a case in several splits; expected each in one")
    return cases


def _array(file: Path, dtype: type) -> np.ndarray:
    """Slices (N, 1, H, W). Mapped first: so a header cannot claim more than the file holds."""
    try:
        mapped = np.lib.format.open_memmap(file, mode="r")
    except Exception as error:  # a header is parsed by what numpy calls, which raises what it will
        raise DataError(f"{file} cannot be read: {error}") from None
    if mapped.dtype != dtype or mapped.ndim != 4 or mapped.shape[1] != 1:
        raise DataError(
            f"{file} holds {mapped.dtype} of shape {mapped.shape}; expected {np.dtype(dtype)} "
            "(N, 1, H, W)"
        )
    return np.array(mapped)


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
    """Slices of one data set.

    Attributes:
        images: (N, 1, H, W) float32 in [0, 1], 0 outside the mask.
        labels: (N, 1, H, W) uint8, canonical.
        cases: One row per slice, the columns of cases.csv.
        info: What dataset.json says.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        cases: pd.DataFrame,
        info: dict[str, Any],
        folder: Path,
    ) -> None:
        self.images, self.labels, self.cases = images, labels, cases.reset_index(drop=True)
        self.info, self.folder = info, folder

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
        return cls(torch.from_numpy(images), torch.from_numpy(labels), cases, info, folder)

    @property
    def name(self) -> str:
        return self.info["dataset"]

    @property
    def pixel_cm2(self) -> float:
        """Area of a pixel of the crop."""
        return self.info["recipe"]["spacing"] ** 2 / 100

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {Keys.IMAGE: self.images[row], Keys.LABEL: self.labels[row], Keys.ROW: row}

    def take(self, rows: Sequence[int] | np.ndarray) -> SliceDataset:
        """The given rows, in that order."""
        index = torch.as_tensor(np.asarray(rows), dtype=torch.long)
        part = self.images[index], self.labels[index], self.cases.iloc[np.asarray(rows)]
        return SliceDataset(*part, self.info, self.folder)

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


class DeviceLoader:
    """Batches of a dataset that lives on the device as a block: a batch is an index.

    Each pass draws its order from ``generator`` when it begins. A last batch of one is left out in
    training: it would break batch norm and make the attribute term zero.

    Args:
        dataset: What to draw from; moved to ``device`` once.
        attributes: (N, K), in training the standardised values.
        batch_size: Rows of a batch; the last one may be smaller.
        device: Where the tensors live.
        generator: Shuffles, on the device. None keeps the order and every row.
        weights: How often each row is drawn relative to the others, (N,); draws with replacement.
            None is each row once.
        batches: Batches of a pass, if rows are drawn by weight; None is as many as rows fill.
    """

    def __init__(
        self,
        dataset: SliceDataset,
        attributes: np.ndarray,
        batch_size: int,
        device: torch.device | str = "cpu",
        generator: Generator | None = None,
        weights: np.ndarray | None = None,
        batches: int | None = None,
    ) -> None:
        if batch_size < 2 and generator is not None:
            raise ValueError(f"batch_size is {batch_size}; expected at least 2 for training")
        if generator is not None and len(dataset) < 2:
            raise DataError(f"{len(dataset)} slices to train on; expected at least 2")
        self.fields = {
            Keys.IMAGE: dataset.images.to(device),
            Keys.LABEL: dataset.labels.to(device),
            Keys.ATTRIBUTES: torch.as_tensor(attributes, dtype=torch.float32, device=device),
            Keys.ROW: torch.arange(len(dataset), device=device),
        }
        self.batch_size, self.generator, self.device = batch_size, generator, device
        self.weights = None if weights is None else torch.as_tensor(weights, device=device)
        self.batches = batches

    def __len__(self) -> int:
        if self.batches is not None:
            return self.batches
        rows = len(self.fields[Keys.ROW])
        whole, rest = divmod(rows, self.batch_size)
        return whole + (rest > 1 or (rest == 1 and self.generator is None))

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        rows = len(self.fields[Keys.ROW])
        if self.generator is None:
            order = self.fields[Keys.ROW]
        elif self.weights is None:
            order = torch.randperm(rows, generator=self.generator, device=self.device)
        else:
            draws = rows if self.batches is None else self.batches * self.batch_size
            order = self.weights.multinomial(draws, replacement=True, generator=self.generator)
        for chunk in order.split(self.batch_size)[: len(self)]:
            yield {key: field[chunk] for key, field in self.fields.items()}
