"""Opens the models and stores of an evaluation, and refuses what does not fit before it begins."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ..data.store import SliceDataset
from ..metrics.patients import LEAST
from ..report.methods import Configuration, method_names
from ..runtime.contents import require_patients, store_of
from ..runtime.device import find_device
from ..runtime.file_names import told_apart
from ..runtime.shipped_models import OTHERS, is_shipped
from ..runtime.weights import weights_digest
from ..schema import DataError, LatentTable
from ..training.config import Pipeline
from ..training.run import Run, load_run
from .passes import codes_of
from .score import check_fit

LONGEST = 120
"""Bytes that the name of a run may have: file systems allow 255, of which others need some."""


@dataclass(frozen=True)
class Opened:
    """Models and stores by the names that tables and pictures call them."""

    models: dict[str, Run]  # name -> run
    # name of a model -> name of its method. Models of one method differ in their seed and in
    # nothing else.
    methods: dict[str, str]
    datasets: dict[str, SliceDataset]  # name of a data set -> store
    splits: dict[str, str]  # name of a data set -> split whose patients are scored
    notes: list[str]  # what could not be checked

    @property
    def synthetic(self) -> frozenset[str]:
        """Data sets whose hearts are phantoms."""
        return frozenset(n for n, data in self.datasets.items() if data.info.get("synthetic"))

    def patients(self, dataset: str) -> int:
        """Number of patients of a data set that are scored."""
        return self.datasets[dataset].split(self.splits[dataset]).cases["case"].nunique()


def open_all(
    runs: Sequence[str | Path],
    stores: Sequence[str | Path],
    split: str | Sequence[str],
    plain: bool | None = None,
) -> Opened:
    """Opens everything that is evaluated.

    Args:
        runs: Folders that ``train`` wrote.
        stores: Folders that ``preprocess`` wrote, each of another data set.
        split: Which patients are scored: one split for all stores, or one for each.
        plain: Whether the refiners of runs are left out, see `load_run`.

    Raises:
        ValueError: If there is no run or store, or there are more or fewer splits than stores.
        DataError: If a run or store cannot be read, they do not fit, a split is empty, a model is
            given twice, or was trained on patients that would be scored as unseen.
    """
    for what, given in (("model", runs), ("store", stores)):
        if not len(given):
            raise ValueError(f"no {what} is given; expected one or more")
    models = {name: load_run(run, plain=plain) for name, run in _named(runs).items()}
    wanted = [split] * len(stores) if isinstance(split, str) else list(split)
    if len(wanted) != len(stores):
        raise ValueError(f"{len(wanted)} splits for {len(stores)} stores; expected one for each")
    datasets = _open_stores(stores, wanted, runs)
    splits = dict(zip(datasets, wanted, strict=True))
    notes: list[str] = []
    for run in models.values():
        for dataset in datasets.values():
            check_fit(run, dataset)
    for name, dataset in datasets.items():
        notes += check_unseen(list(models.values()), dataset, splits[name])
    return Opened(models, _methods(models), datasets, splits, notes)


def open_trained(
    run: str | Path,
    store: str | Path | None = None,
    device: str = "auto",
    plain: bool | None = None,
    telling: bool = True,
) -> tuple[Run, SliceDataset, LatentTable]:
    """Opens a run, the store that it was trained on, and the codes of its training patients.

    Arguments and errors are those of `Studio.open`; for ``telling`` see `codes_of`.
    """
    model = load_run(run, device, plain=plain)
    store = store_of(model.folder, Path(store) if store else None)
    opened = SliceDataset.open(store)
    if opened.name != model.about["train_dataset"]:
        raise DataError(
            f"{run} was trained on {model.about['train_dataset']} and {store} holds "
            f"{opened.name}; give the store that it was trained on"
        )
    check_fit(model, opened)
    names = model.pipeline.attributes
    known = opened.split("train").basal().complete(names)
    if names and len(known) < LEAST:
        raise DataError(
            f"{store} has {len(known)} training patients; attributes are drawn and read along "
            f"lines, which need {LEAST}: train on more patients"
        )
    return model, opened, codes_of(model, known, names, find_device(device), telling)


def configuration_of(run: Run) -> Configuration:
    """Returns what a run is, but for its seed."""
    about = run.about
    content = about.get("content_hash") or run.summary.get("content_hash")
    pipeline = shareable(run.pipeline)
    return Configuration(run.pipeline.method, about["train_dataset"], content, pipeline)


def shareable(pipeline: Pipeline) -> dict[str, Any]:
    """Returns the values of a pipeline without folders, which are private."""
    values = pipeline.to_dict()
    if file := values["objective"].get("perceptual_weights"):
        values["objective"]["perceptual_weights"] = Path(file).name
    return values


def _methods(models: Mapping[str, Run]) -> dict[str, str]:
    """Names the method of each model, and refuses models that are the same."""
    names = method_names({name: configuration_of(run) for name, run in models.items()})
    weights: dict[str, Run] = {}
    seeds: dict[tuple[str, str, Any], Run] = {}
    for name, run in models.items():
        same = weights.setdefault(weights_digest(run.network.state_dict()), run)
        if same is not run:
            raise DataError(
                f"{same.folder} and {run.folder} hold the same model: all weights are equal. It "
                "would count as two seeds; give it once"
            )
        one = names[name], run.about["train_dataset"], run.about["seed"]
        same = seeds.setdefault(one, run)
        if same is not run:
            raise DataError(
                f"{same.folder} and {run.folder} were trained with the same configuration, data "
                f"and seed {run.about['seed']}. They would count as two seeds; give one of them, "
                "or train one again with another seed"
            )
    return names


def check_unseen(runs: Sequence[Run], dataset: SliceDataset, split: str) -> list[str]:
    """Refuses models that were trained on a patient of the split that is scored; returns what could
    not be checked. Those of ``train`` are scored, and it is noted whether they were trained on.

    Patients are compared by their ids within one data set, and by the digests of `fingerprints`
    everywhere: the same patient under another id or split is found, if cropped in the same way or
    with the same mask. See `seen_patients`.
    """
    notes: list[str] = []
    part = dataset.split(split)
    scored = part.fingerprints()
    for run in runs:
        known, name = run.about.get("train_cases"), run.about["train_dataset"]
        other = run.about.get("content_hash") != dataset.info["content_hash"]
        seen = seen_patients(run, part, scored)
        if split == "train":
            if seen:
                notes.append(
                    f"{run.name} was trained on {len(seen)} of the {len(scored)} train patients of "
                    f"{dataset.folder.name}: their scores say how well it remembers, not what it "
                    "makes of new ones"
                )
            continue
        if seen is None:
            if other and name == dataset.name:
                notes.append(
                    f"{run.name} was trained on another store of {name} and does not say on "
                    f"which patients: some of the {split} patients of {dataset.folder.name} may be "
                    "among them"
                )
            continue
        if seen:
            some = ", ".join(seen[:3]) + (", ..." if len(seen) > 3 else "")
            advice = (
                f"It is shipped, trained on all training patients of {name}: {OTHERS}"
                if is_shipped(run.folder)
                else "Give the store that it was trained on, or train it again on this one"
                if other
                else "The same scans are in two splits: list them under 'duplicates' in the "
                "manifest, preprocess with --drop-duplicates (without_duplicates=True), and "
                "train again"
            )
            raise DataError(
                f"{run.given} was trained on {len(seen)} of the {len(scored)} {split} patients of "
                f"{dataset.folder} ({some}): they are not unseen. {advice}"
            )
        if known and name == dataset.name and not set(known) & set(dataset.cases["case"]):
            notes.append(
                f"{run.name} was trained on patients of {name} under other ids than those "
                f"of {dataset.folder.name}, such as pseudonyms: only slices and volumes could be "
                "compared"
            )
    return notes


def seen_patients(
    run: Run, dataset: SliceDataset, fingerprints: Mapping[str, str] | None = None
) -> list[str] | None:
    """Lists the patients of a data set that a model was trained on; None if it does not say on whom
    it was.

    A shipped model keeps no list of them: it was trained on all of its data set but those of the
    split test. Of other models see `seen_cases`.

    Args:
        run: The model.
        dataset: The patients, of one split or several.
        fingerprints: Theirs, where they are known already.
    """
    if not is_shipped(run.folder):
        known = dataset.fingerprints() if fingerprints is None else fingerprints
        return seen_cases(run, dataset.sources, known)
    cases = dataset.cases
    own = cases.get("dataset", pd.Series(dataset.name, cases.index)).isin(_trained_on(run))
    return [*cases["case"][own & (cases["split"] != "test")].unique()]


def _trained_on(run: Run) -> set[str]:
    """Names of the data sets that a model was trained on."""
    return {run.about["train_dataset"], *run.about.get("train_sources", ())}


def seen_cases(
    run: Run, datasets: Collection[str], fingerprints: Mapping[str, str]
) -> list[str] | None:
    """Lists the patients that a model was trained on; None if it does not say on which it was.

    Args:
        run: The model.
        datasets: Names of the data sets that the patients are of: within one, ids tell.
        fingerprints: Case -> digests, see `SliceDataset.fingerprints`.
    """
    known = run.about.get("train_cases")
    if not isinstance(known, dict):
        return None
    marks = {digest for digests in known.values() for digest in digests.split()}
    ids = set(known) if _trained_on(run) & {*datasets} else set()
    return [case for case, own in fingerprints.items() if case in ids or marks & {*own.split()}]


def can_teach(dataset: SliceDataset) -> bool:
    """Tells whether there are enough training patients to fit lines and train segmenters on."""
    return dataset.info["splits"]["train"] >= LEAST


def _open_stores(
    stores: Sequence[str | Path], splits: Sequence[str], runs: Sequence[str | Path]
) -> dict[str, SliceDataset]:
    datasets: dict[str, SliceDataset] = {}
    for folder, split in zip(map(Path, stores), splits, strict=True):
        dataset = SliceDataset.open(folder)
        if not len(dataset.split(split)):
            require_patients(folder, dataset.info, split, map(Path, runs))
        if dataset.name in datasets:
            raise DataError(
                f"{folder} and {datasets[dataset.name].folder} both hold {dataset.name}; "
                "give each data set once"
            )
        datasets[dataset.name] = dataset
    return datasets


def _named(folders: Sequence[str | Path]) -> dict[str, Path]:
    """Names folders by their last part; a number tells two of the same name apart. Refuses names
    that are too long for the files that are called after them."""
    paths = [Path(folder) for folder in folders]
    names = [path.resolve().name for path in paths]
    for name in names:
        if (size := len(os.fsencode(name))) > LONGEST:
            raise DataError(
                f"the folder {name[:20]}... has a name of {size} bytes, and files are called after "
                f"it; expected at most {LONGEST}: rename it"
            )
    return dict(zip(told_apart(names), paths, strict=True))
