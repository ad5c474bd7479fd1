"""Reads a slice store: the folder that ``preprocess`` wrote, as a dataset of PyTorch.

Slices are mapped into memory and read from the disk when they are asked for, so that a store may be
larger than memory. `loader.py` makes batches of them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
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

from ..attributes import AREAS, ATTRIBUTES, VOLUMES, areas_at, check_names, measure
from ..heart import Outlines
from ..runtime.contents import require_store
from ..runtime.files import read_json
from ..runtime.provenance import digest, seal
from ..schema import HEART, MANUAL, SPLITS, DataError, Keys, Phase, Scale
from .recipe import full_recipe, scale_of
from .store_files import (
    FORMAT,
    SPACING,
    check_channels,
    check_facts,
    open_files,
    opened,
    read_masks,
)
from .store_place import FILES

Slices = dict[str, Tensor]
"""Fields by their key, the rows of each along axis 0."""


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
        "with --overwrite (overwrite=True)"
    )


def over_slices(counts: Tensor, scale: Scale) -> Tensor:
    """Sums the slices of a stack: pixels of LV, MYO and RV in C channels (N, 3 C), at P phases
    (N, 3 P).

    Example:
        >>> counts = torch.arange(12)[None]  # two slices at ED, then two at ES
        >>> over_slices(counts, Scale(1.0, slices=2)).tolist()
        [[3, 5, 7, 15, 17, 19]]
    """
    return counts.unflatten(1, (-1, scale.slices, len(HEART))).sum(2).flatten(1)


def areas(labels: Tensor | np.ndarray, scale: Scale) -> np.ndarray:
    """Measures LV, MYO and RV at each of P phases in canonical labels (N, C, H, W): areas in cm2,
    or in stacks the volumes that their slices show, in mL, (N, 3 P).

    Example:
        >>> areas(np.array([[[[1, 1], [2, 0]]]]), Scale(0.5))
        array([[1. , 0.5, 0. ]])
    """
    masks = torch.as_tensor(labels)
    counts = torch.stack([(masks == s).sum((2, 3)) for s in HEART], dim=2).flatten(1)
    return over_slices(counts, scale).cpu().double().numpy() * scale.pixel


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
            images, labels, masks, cases = open_files(folder)
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
        check_facts(folder / "dataset.json", info, cases)
        check_channels(folder, info, images.shape[1])
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
        """Number of channels C: 1 (ED), or 2 (ED and ES), times the slices of a stack."""
        return self._images.shape[1]

    @property
    def phases(self) -> tuple[Phase, ...]:
        """What the channels show: ED, or ED and ES."""
        slices = full_recipe(self.info.get("recipe", {}))["stack"]
        return tuple(Phase)[: self.channels // slices]

    @property
    def image_size(self) -> int:
        """Pixels along each side of a slice, H = W."""
        return self._images.shape[-1]

    @property
    def scale(self) -> Scale:
        """What its pixels count for, and the slices of a stack."""
        return scale_of(self.info["recipe"])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {key: field[0] for key, field in self.read([row]).items()} | {Keys.ROW: row}

    def read(self, rows: Sequence[int] | np.ndarray) -> Slices:
        """Copies the given rows: IMAGE, (n, C, H, W) float32, and LABEL, (n, C, H, W) uint8."""
        index = self._rows[self._numbers(rows)]
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
        """Takes the given rows, in that order, or those where a truth value for each row holds."""
        rows = self._numbers(rows)
        cases, arrays = self.cases.iloc[rows], (self._images, self._labels)
        return SliceDataset(
            *arrays, cases, self.info, self.folder, self._rows[rows], masks=self._masks
        )

    def _numbers(self, rows: Any) -> np.ndarray:
        """Returns numbers of rows, from 0 on; -1 is the last."""
        count, given = len(self), np.asarray(rows)
        if given.shape == (count,) and given.dtype == bool:
            return np.flatnonzero(given)
        if given.ndim != 1 or given.size and given.dtype.kind not in "iu":
            wrong: type[Exception] = ValueError
        elif given.size and not -count <= given.min() <= given.max() < count:
            wrong = IndexError  # which ends a loop over the slices
        else:
            return given.astype(int)
        raise wrong(
            f"rows are {short(rows)}; expected row numbers from 0 to {count - 1}, or a truth value "
            "for each row"
        )

    def split(self, split: str) -> SliceDataset:
        """Takes the rows of ``train``, ``val`` or ``test``."""
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}; expected one of {', '.join(SPLITS)}")
        return self.take(np.flatnonzero(self.cases["split"] == split))

    def basal(self) -> SliceDataset:
        """Takes the most basal row of each patient: all rows of a store that holds one of each."""
        return self.take(np.flatnonzero(self.is_basal))

    @property
    def sources(self) -> set[str]:
        """Names of the data sets that the patients are of: several, if stores were joined."""
        return {self.name, *self.cases.get("dataset", ())}

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
        """Whether a row is the most basal of its patient, (N,). The base shows more heart.

        Of rows of two phases, it is the most basal one with enough of each structure at ES, too.
        """
        heart, flags = self.cases[list(AREAS)].sum(axis=1), np.zeros(len(self), dtype=bool)
        enough = self._shows_all()
        for own in self.cases.groupby("case").indices.values():
            rows = np.asarray(own)
            rows = rows[enough[rows]] if enough[rows].any() else rows
            ends = self.cases["slice_index"].iloc[rows].to_numpy().argsort()[[0, -1]]
            flags[rows[max(ends, key=lambda end: heart.iloc[rows[end]])]] = True
        return flags

    def _shows_all(self) -> np.ndarray:
        """Whether a row shows each structure at ES, (N,); always, if ED is the only phase."""
        if not self.phases[1:]:
            return np.ones(len(self), dtype=bool)
        pixels_cm2 = self.cases[SPACING[:2]].prod(axis=1).to_numpy() / 100
        least = self.info["recipe"].get("least_pixels", 0) * pixels_cm2
        areas = self.attributes(areas_at(self.phases[1:]))
        return (areas > least[:, None]).all(axis=1)

    def attributes(self, names: Sequence[str]) -> np.ndarray:
        """Returns values of cases.csv, (N, K), NaN where one is blank.

        Attributes without a column, as of an older store, are measured on the masks.

        Raises:
            DataError: If an attribute needs a phase that the store does not hold.
        """
        absent = [name for name in check_names(names) if name not in self.cases]
        measured = dict(zip(absent, self.measured(absent).T, strict=True)) if absent else {}
        columns = [measured.get(name, self.cases.get(name)) for name in names]
        return np.stack([np.asarray(column, dtype=np.float64) for column in columns], axis=1)

    @property
    def areas(self) -> np.ndarray:
        """Areas of LV, MYO and RV at each of P phases, (N, 3 P), 0 where no mask outlines them.

        Of stacks, the volumes that their slices show, in mL, counted in the crops.
        """
        if self.scale.slices > 1:
            chunks = np.array_split(np.arange(len(self)), len(self) // 256 + 1)
            parts = [areas(self.read(rows)[Keys.LABEL], self.scale) for rows in chunks]
            return np.concatenate(parts)
        return np.nan_to_num(self.attributes(areas_at(self.phases)))

    def complete(self, names: Sequence[str]) -> SliceDataset:
        """Takes the rows of which all these attributes are known; itself where all rows are."""
        known = np.isfinite(self.attributes(names)).all(axis=1) if names else np.array([True])
        return self if known.all() else self.take(np.flatnonzero(known))

    def measured(self, names: Sequence[str]) -> np.ndarray:
        """Measures attributes again, on the native masks, (N, K).

        Raises:
            DataError: If the masks cannot be read, belong to a store that replaced this one, or
                lack a phase.
        """
        names = check_names(names)
        for name in names:
            if not set(ATTRIBUTES[name].phases) <= set(self.phases):
                raise DataError(
                    f"{name} needs masks at ED and ES, and {self.folder} holds ED alone; "
                    "preprocess again with --phases ED,ES (phases=('ED', 'ES'))"
                )
        values = np.empty((len(self), len(names)))
        spacings, indices = self.cases[SPACING].to_numpy(), self.cases["slice_index"].to_numpy()
        for case, rows in self.cases.groupby("case").indices.items():
            at = self.native_masks(str(case))
            for row in rows:
                spacing, index = tuple(spacings[row].tolist()), int(indices[row])
                hearts = {phase: Outlines(mask, spacing, index) for phase, mask in at.items()}
                found = measure(hearts, names)
                values[row] = [found[name] for name in names]
        return values

    def native_masks(self, case: str) -> dict[Phase, np.ndarray]:
        """Reads the whole masks of a patient, (I, J, S) at each phase; of ES there may be none.

        Raises:
            DataError: If they cannot be read, or belong to a store that replaced this one.
        """
        return read_masks(self._opened_masks(), case, self.phases)

    def _opened_masks(self) -> ZipFile:
        """Opens the masks of a copy that came from another process, if the store is the same."""
        if self._masks is None:
            masks, file = opened(self.folder / "masks.npz", ZipFile), self.folder / "dataset.json"
            if file.is_file() and read_json(file).get("sha256") != self.info.get("sha256"):
                raise DataError(f"{self.folder} was replaced after it was opened; open it again")
            self._masks = masks
        return self._masks
