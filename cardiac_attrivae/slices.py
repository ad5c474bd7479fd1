"""The slice store, on disk and on the device: one tensor per field, and a batch is an index."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Generator, Tensor
from torch.utils.data import Dataset

from .attributes import ATTRIBUTES, check_names, measure, pixel_counts
from .schema import SPLITS, DataError, Keys

FORMAT = 1
FILES = ("cases.csv", "images.npy", "labels.npy", "masks.npz")
"""What the content hash in dataset.json covers."""

SPACING = ["spacing_x_mm", "spacing_y_mm", "spacing_z_mm"]


def content_hash(folder: Path) -> str:
    """SHA-256 over the data files of a store."""
    digest = hashlib.sha256()
    for name in FILES:
        with open(folder / name, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


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
        info = json.loads((folder / "dataset.json").read_text())
        if info.get("format") != FORMAT:
            raise DataError(f"{folder} has format {info.get('format')}; expected {FORMAT}")
        for name in FILES:
            if not (folder / name).is_file():
                raise DataError(f"{name} is missing from {folder}; run preprocess again")
        if content_hash(folder) != info["content_hash"]:
            raise DataError(
                f"{folder} was changed after preprocess wrote it: the content hash differs. "
                "Run preprocess again with --overwrite"
            )
        text = {"case": str, "vendor": str, "centre": str, "pathology": str}
        cases = pd.read_csv(folder / "cases.csv", dtype=text, keep_default_na=False)
        images = torch.from_numpy(np.load(folder / "images.npy"))
        labels = torch.from_numpy(np.load(folder / "labels.npy"))
        if not len(images) == len(labels) == len(cases):
            raise DataError(f"{folder} has {len(images)} images and {len(cases)} rows in cases.csv")
        return cls(images, labels, cases, info, folder)

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
        heart = self.cases[["LVEDA", "MEDA", "RVEDA"]].sum(axis=1)
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
        with np.load(self.folder / "masks.npz") as masks:
            for row, case in self.cases.iterrows():
                counts = pixel_counts(masks[case["case"]])
                values = measure(counts, tuple(case[SPACING]), case["slice_index"])
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
