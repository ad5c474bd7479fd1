"""The parts of an evaluation, each one model on one data set.

A part is computed on its own, several at a time, and kept in a folder that is called after the
content it depends on: weights, slices, options and versions. An evaluation that was interrupted, or
is given one more model, goes on from there, and two parts can never share a folder.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..data.store import SliceDataset
from ..runtime.device import find_device
from ..runtime.files import atomic_file, atomic_folder, write
from ..runtime.pool import Failure, processes, run_each
from ..runtime.progress import Progress
from ..runtime.provenance import versions
from ..runtime.spreadsheet import csv_text, read_csv
from ..runtime.weights import weights_digest
from ..schema import DataError, LatentTable
from ..segmentation.judge import Segmenter
from ..training.run import load_run
from .passes import codes_of
from .score import Known, Scored, score_model

FORMAT = 4
"""Format of a part; raised when what is measured changes."""
PACKAGES = ("monai", "numpy", "scikit-learn", "scipy", "torch")

SHOWN = 6
"""Patients of a data set whose reconstructions are kept for a picture."""


class Patients(NamedTuple):
    """The patients of one split of a store, one slice each: the most basal one."""

    folder: Path  # the store
    content: str  # its content hash
    split: str  # ``train``, ``val`` or ``test``
    names: tuple[str, ...] = ()  # attributes that must be known of them; others are left out

    @classmethod
    def of(cls, store: SliceDataset, split: str, names: Sequence[str] = ()) -> Patients:
        """Names the patients of an opened store."""
        return cls(store.folder, store.info["content_hash"], split, tuple(names))

    def open(self) -> SliceDataset:
        """Opens the store, once per process; refuses another one that has taken its place since."""
        return _opened(self)


@lru_cache(maxsize=8)
def _opened(patients: Patients) -> SliceDataset:
    store = SliceDataset.open(patients.folder)
    if store.info["content_hash"] != patients.content:
        raise DataError(
            f"{patients.folder} was replaced while it was evaluated; run the same command again"
        )
    return store.split(patients.split).basal().complete(patients.names)


class Job(ABC):
    """Something that is computed on its own and kept in a folder."""

    about: dict[str, Any]  # values of the columns that say what it is of

    @property
    @abstractmethod
    def folder(self) -> Path:
        """Where it is kept."""

    @abstractmethod
    def write(self, folder: Path) -> None:
        """Computes it and writes its files."""

    def compute(self) -> None:
        """Writes its folder, unless it is there."""
        if not self.folder.is_dir():
            with atomic_folder(self.folder) as folder:
                self.write(folder)

    def read(self, name: str) -> pd.DataFrame:
        """Reads one of its tables, with the columns of ``about`` in front; empty if it has none."""
        file = self.folder / name
        if not file.is_file():
            return pd.DataFrame()
        table = read_csv(file)
        return pd.DataFrame(self.about, index=table.index).join(table)


@dataclass(frozen=True)
class TrainingCodes(Job):
    """Codes of the training patients of a model, which lines are fitted on."""

    parts: Path  # folder that keeps all parts
    run: Path  # folder of the model
    model: str  # digest of its weights and facts
    names: tuple[str, ...]  # attributes of the table
    patients: Patients  # who they are
    device: str  # where to compute

    @cached_property
    def folder(self) -> Path:
        facts = [self.model, *self.patients[1:], self.names]
        return self.parts / fingerprint("codes", facts)

    def write(self, folder: Path) -> None:
        run, dataset = load_run(self.run, self.device, plain=True), self.patients.open()
        table = codes_of(run, dataset, self.names, find_device(self.device))
        write_table(folder / "table.npz", table, areas=dataset.areas)

    def codes(self) -> Known:
        table, more = read_table(self.folder / "table.npz")
        return Known(table, more["areas"])


@dataclass(frozen=True)
class Part(Job):
    """One model on one data set, and the folder that holds what came out."""

    parts: Path  # folder that keeps all parts
    about: dict[str, Any]  # values of the columns that say which model and data set it is
    run: Path  # folder of the model
    model: str  # digest of its weights and facts
    known: TrainingCodes | None  # codes of its training patients, if their store was given
    patients: Patients  # who is scored
    names: tuple[str, ...]  # attributes
    rounds: int  # draws behind each interval and null distribution
    device: str  # where to compute
    # measures what the model draws; trained on the store of the training patients, or else on the
    # scored one
    segmenter: Segmenter | None
    plain: bool = False  # whether the refiner of the model is left out

    @cached_property
    def folder(self) -> Path:
        known = self.known and self.known.folder.name
        judge = self.segmenter and weights_digest(self.segmenter.network.state_dict())
        facts = [self.model, *self.patients[1:], self.names, known, judge, self.rounds]
        return self.parts / fingerprint("scores", facts)

    def write(self, folder: Path) -> None:
        target = self.patients.open()
        scored = score_model(
            load_run(self.run, self.device, plain=self.plain),
            self.known.codes() if self.known else None,
            target,
            self.names,
            self.segmenter,
            find_device(self.device),
            self.rounds,
            shown=shown_rows(target),
        )
        _write(scored, target, self.names, folder)
        write(folder / "about.json", json.dumps(self.about) + "\n")

    def table(self) -> LatentTable:
        """Reads its codes, with the asked attributes and those the model was trained on."""
        return read_table(self.folder / "table.npz")[0]

    def shown(self) -> np.ndarray:
        """Reads the reconstructions of `shown_rows`, (n, C, H, W)."""
        return read_table(self.folder / "table.npz")[1]["shown"]

    @property
    def draws(self) -> np.ndarray:
        return np.load(self.folder / "draws.npy")


def compute(parts: Sequence[Part], others: Sequence[Job], workers: int, progress: Progress) -> None:
    """Computes what is not there yet: first the codes that several parts share."""
    known = {part.known.folder: part.known for part in parts if part.known is not None}
    with processes(workers) as pool:
        done = itertools.chain(
            run_each(pool, Job.compute, known.values()),
            run_each(pool, Job.compute, (*parts, *others)),
        )
        for job, result in progress(done, len(known) + len(parts) + len(others)):
            if isinstance(result, Failure):
                raise DataError(f"{job.folder.name}: {result.value}; try fewer workers")


def fingerprint(kind: str, facts: Sequence[Any]) -> str:
    """Returns a name for everything that a part depends on."""
    everything = [FORMAT, versions(PACKAGES), kind, *facts]
    return hashlib.sha256(json.dumps(everything).encode()).hexdigest()[:32]


def shown_rows(target: SliceDataset) -> np.ndarray:
    """Chooses the patients in a picture of reconstructions: some of every pathology, in order."""
    groups = target.cases["pathology"].argsort(kind="stable").to_numpy()
    return groups[np.unique(np.linspace(0, len(target) - 1, SHOWN).round().astype(int))]


def _write(scored: Scored, target: SliceDataset, names: Sequence[str], folder: Path) -> None:
    write(folder / "metrics.csv", csv_text(scored.metrics))
    write(folder / "patients.csv", csv_text(scored.patients))
    if len(scored.control):
        write(folder / "control.csv", csv_text(scored.control))
    with atomic_file(folder / "draws.npy") as beside:
        np.save(beside, scored.draws)
    write_table(folder / "table.npz", scored.table, shown=scored.shown)
    table = scored.table.select(names)
    codes = {f"z{d}": table.codes[:, d] for d in range(table.codes.shape[1])}
    values = {name: table.attributes[:, k] for k, name in enumerate(table.names)}
    facts = target.cases.drop_duplicates("case").set_index("case").loc[list(table.cases)]
    columns: dict[Any, Any] = {"case": table.cases}
    columns |= facts[["dataset", "split", "domain", "pathology"]].to_dict("list")
    rows = pd.DataFrame(columns | values | codes)
    write(folder / "codes.csv", csv_text(rows))


def write_table(file: Path, table: LatentTable, **more: np.ndarray) -> None:
    """Writes codes and attributes, and more arrays, as one NPZ file."""
    fields: dict[str, Any] = {"cases": table.cases, "names": table.names, "codes": table.codes}
    fields["dimensions"] = [-1 if d is None else d for d in table.dimensions]
    fields |= {"attributes": table.attributes} | more
    with atomic_file(file) as beside, open(beside, "wb") as stream:
        np.savez(stream, **fields)


def read_table(file: Path) -> tuple[LatentTable, dict[str, np.ndarray]]:
    """Reads what `write_table` wrote."""
    with np.load(file) as arrays:
        fields = {name: arrays[name] for name in arrays.files}
    cases, names = (tuple(map(str, fields.pop(name))) for name in ("cases", "names"))
    dimensions = tuple(None if d < 0 else int(d) for d in fields.pop("dimensions"))
    codes, attributes = fields.pop("codes"), fields.pop("attributes")
    return LatentTable(cases, codes, attributes, names, dimensions), fields
