"""Opens the models and stores of an evaluation, and refuses what does not fit before it begins."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..data.store import SliceDataset
from ..metrics.patients import LEAST
from ..schema import SPLITS, DataError
from ..training.run import Run, load_run
from .score import check_fit


@dataclass(frozen=True)
class Opened:
    """Models and stores by the names that tables and pictures call them.

    Attributes:
        models: Name -> run.
        datasets: Name of a data set -> store.
        split: Which patients are scored.
    """

    models: dict[str, Run]
    datasets: dict[str, SliceDataset]
    split: str

    def patients(self, dataset: str) -> int:
        """Number of patients of a data set that are scored."""
        return self.datasets[dataset].split(self.split).cases["case"].nunique()


def open_all(runs: Sequence[str | Path], stores: Sequence[str | Path], split: str) -> Opened:
    """Opens everything that is evaluated.

    Args:
        runs: Folders that ``train`` wrote.
        stores: Folders that ``preprocess`` wrote, each of another data set.
        split: Which patients are scored.

    Raises:
        DataError: If a run or store cannot be read, they do not fit, or a split is empty.
    """
    models = {name: load_run(run) for name, run in _named(runs).items()}
    opened = Opened(models, _open_stores(stores, split), split)
    for run in models.values():
        for dataset in opened.datasets.values():
            check_fit(run, dataset)
    return opened


def can_teach(dataset: SliceDataset) -> bool:
    """Tells whether there are enough training patients to fit lines and train segmenters on."""
    return dataset.info["splits"]["train"] >= LEAST


def _open_stores(stores: Sequence[str | Path], split: str) -> dict[str, SliceDataset]:
    datasets: dict[str, SliceDataset] = {}
    for folder in map(Path, stores):
        dataset = SliceDataset.open(folder)
        if not len(dataset.split(split)):
            there = ", ".join(f"{s} {n}" for s, n in dataset.info["splits"].items() if n)
            raise DataError(
                f"{folder} has no {split} patients (it has {there}); "
                f"choose another split with --split {'|'.join(SPLITS)}"
            )
        if dataset.name in datasets:
            raise DataError(
                f"{folder} and {datasets[dataset.name].folder} both hold {dataset.name}; "
                "give each data set once"
            )
        datasets[dataset.name] = dataset
    return datasets


def _named(folders: Iterable[str | Path]) -> dict[str, Path]:
    """Names folders by their last part; a number tells two of the same name apart."""
    named: dict[str, Path] = {}
    for folder in map(Path, folders):
        stem = name = folder.resolve().name
        count = 1
        while name in named:
            count += 1
            name = f"{stem}-{count}"
        named[name] = folder
    return named
