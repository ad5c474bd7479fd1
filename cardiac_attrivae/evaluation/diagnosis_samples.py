"""Whose class is predicted, from what: patients that a model knows apart from those it does not.

The classifier is fitted on patients that the model was trained on, or within unseen ones. It is
scored on unseen patients alone, one slice of each: the most basal one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ..attributes import ATTRIBUTES, check_names
from ..data.manifest import load_manifest
from ..data.store import SliceDataset
from ..metrics.classifiers import Sample
from ..metrics.patients import LEAST
from ..models.classifier import ClassifierHead
from ..runtime.contents import require_column, store_of
from ..runtime.shipped_models import OTHERS, is_shipped
from ..runtime.yaml_files import shipped
from ..schema import DataError
from ..training.run import Run
from .opening import seen_patients, told_apart
from .passes import codes_of
from .score import check_fit

CODES, TRAINED, FREE = "codes", "attribute dimensions", "free dimensions"
MEASURED, NOTHING, OWN = "measured attributes", "nothing", "classifier of the model"
FEATURES = (CODES, TRAINED, FREE, OWN, MEASURED, NOTHING)
"""What a class is predicted from, as tables and files call it."""


@dataclass(frozen=True)
class Patients:
    """Patients whose class is known, one slice each."""

    slices: SliceDataset  # the N slices
    codes: np.ndarray  # codes, (N, D)
    classes: np.ndarray  # class of each, (N,)
    said: np.ndarray  # probabilities by the model's own classifier, (N, M); (N, 0) without one

    def of(self, classes: Sequence[str]) -> Patients:
        """Takes the patients of some classes."""
        rows = np.flatnonzero(np.isin(self.classes, classes))
        fields = (field[rows] for field in (self.codes, self.classes, self.said))
        return Patients(self.slices.take(rows), *fields)


@dataclass(frozen=True)
class Cohort:
    """Everything that classifiers are fitted and scored on."""

    # patients to fit on; None if classifiers are fitted within each data set
    known: Patients | None
    new: dict[str, Patients]  # data set -> unseen patients
    classes: dict[str, list[str]]  # data set -> names of its classes, sorted
    columns: dict[str, list[str]]  # features -> names of its columns, length D each
    notes: list[str]  # who was left out, and why

    def samples(self, features: str) -> tuple[Sample | None, dict[str, Sample]]:
        """Returns what classifiers are fitted on, and what is predicted, from some features."""
        of_known = next(iter(self.classes.values()))  # the same of all data sets, if there is any
        known = None if self.known is None else self._sample(self.known, features, of_known)
        new = {
            name: self._sample(patients, features, self.classes[name])
            for name, patients in self.new.items()
        }
        return known, new

    def _sample(self, patients: Patients, features: str, classes: Sequence[str]) -> Sample:
        if features == MEASURED:
            values = patients.slices.attributes(self.columns[MEASURED])
        elif features == OWN:
            values = patients.said[:, [self.columns[OWN].index(name) for name in classes]]
        elif features == NOTHING:
            values = np.zeros((len(patients.classes), 1))
        else:
            every = self.columns[CODES]
            values = patients.codes[:, [every.index(name) for name in self.columns[features]]]
        cases = [f"{patients.slices.name}/{case}" for case in patients.slices.cases["case"]]
        labels = np.array([classes.index(name) for name in patients.classes])
        return Sample(np.asarray(values, dtype=float), labels, np.array(cases))


def gather(
    run: Run,
    stores: Sequence[tuple[Path, str | None]],
    column: str,
    within: bool,
    device: torch.device,
) -> Cohort:
    """Opens stores, sets the patients apart that the model was trained on, and encodes all.

    Refuses stores that do not fit the model or lack the column, a model that does not say on whom
    it was trained, and too few patients or classes.

    Args:
        run: The model.
        stores: Folders that ``preprocess`` wrote, each with a split, or None for all patients.
        column: Column of cases.csv that holds the class.
        within: Whether classifiers are fitted within the unseen patients of each data set.
        device: Where to encode.
    """
    notes: list[str] = []
    opened = [(SliceDataset.open(folder), split) for folder, split in stores]
    names = told_apart([data.name for data, _ in opened])
    for data, _ in opened:
        check_fit(run, data)
    new = {}
    for name, (data, split) in zip(names, opened, strict=True):
        some = data if split is None else data.split(split)
        seen = _seen(run, some, notes)
        again = _scanned_again(some, seen)
        unseen = ~some.cases["case"].isin(seen | again)
        if unseen.any():
            new[name] = _labelled(some, unseen, column, name, notes)
        if seen:
            notes.append(
                f"{name}: {len(seen)} patients that the model was trained on are not scored."
            )
        if again:
            notes.append(
                f"{name}: scans of the manifest's duplicates count once; left out are "
                f"{', '.join(sorted(again))}."
            )
    if not new:
        advice = OTHERS if is_shipped(run.folder) else "give patients that it was not trained on"
        raise DataError(f"{run.given} was trained on all patients of {', '.join(names)}: {advice}")
    known = None if within else _known(run, [data for data, _ in opened], column, notes)
    encoded = {name: _encoded(run, data, column, device) for name, data in new.items()}
    fitted = None if known is None else _encoded(run, known, column, device)
    if fitted is not None:
        kept = _frequent(fitted, "the patients to fit on", notes)
        fitted, classes = fitted.of(kept), dict.fromkeys(encoded, kept)
    else:
        classes = {name: _frequent(some, name, notes) for name, some in encoded.items()}
    encoded = {name: _of(some, classes[name], name, notes) for name, some in encoded.items()}
    measured = _measured([*encoded.values(), *([fitted] if fitted else [])])
    columns = _columns(run) | _own_classes(run, column, classes) | measured
    return Cohort(fitted, encoded, classes, columns, notes)


def _seen(run: Run, data: SliceDataset, notes: list[str]) -> set[str]:
    """Patients of a store that the model was trained on.

    A run of an older version does not say on whom it was trained; then its own store tells.
    """
    seen = seen_patients(run, data)
    if seen is not None:
        return set(seen)
    if run.about.get("content_hash") == data.info["content_hash"]:
        cases = data.cases
        return set(cases["case"][cases["split"] == "train"])
    if run.about["train_dataset"] == data.name:
        raise DataError(
            f"{run.given} was trained on another store of {data.name} and does not say on which "
            "patients: some of them could be scored as unseen. Give the store that it was trained "
            "on, or a run of this version, which knows its patients"
        )
    notes.append(
        f"{run.name} does not say on which patients it was trained; those of {data.name} "
        "are taken as unseen."
    )
    return set()


def _scanned_again(data: SliceDataset, seen: set[str]) -> set[str]:
    """Patients whose scan is known under another id: of a patient that was seen, or counted once.

    Their masks were drawn anew, so that fingerprints do not tell.
    """
    if data.name not in shipped("data_manifests"):
        return set()
    unseen, again = set(data.cases["case"]) - seen, set[str]()
    for group in load_manifest(data.name).duplicates:
        here = [case for case in group if case in unseen]
        again |= set(here if seen & set(group) else here[1:])
    return again


def _known(run: Run, given: Sequence[SliceDataset], column: str, notes: list[str]) -> SliceDataset:
    """Finds the patients that the model was trained on: in its own store, or in those given."""
    found = []
    for data in (*_own(run), *given):
        seen = _seen(run, data, [])
        found.append((len(seen), data, seen))
    count, data, seen = max(found, key=lambda one: one[0])
    if not count:
        raise DataError(
            f"no patient that {run.given} was trained on is in its own store or in those "
            f"given; give a store of {run.about['train_dataset']} with them as a further one, or "
            "fit within the unseen patients: --within (within=True)"
        )
    return _labelled(data, data.cases["case"].isin(seen), column, "training patients", notes)


def _own(run: Run) -> Iterator[SliceDataset]:
    """The store that a run was trained on, if it is still there."""
    try:
        yield SliceDataset.open(store_of(run.folder, None))
    except DataError:
        return


def _labelled(
    data: SliceDataset, chosen: pd.Series, column: str, name: str, notes: list[str]
) -> SliceDataset:
    """Takes the most basal slice of each chosen patient whose class is known."""
    if column not in data.cases:
        require_column(data.folder, column)
    some = data.take(np.flatnonzero(chosen)).basal()
    known = some.cases[column].astype(str).str.strip() != ""
    if lacking := int((~known).sum()):
        notes.append(f"{name}: {lacking} patients without {column} are left out.")
    return some.take(np.flatnonzero(known))


def _encoded(run: Run, data: SliceDataset, column: str, device: torch.device) -> Patients:
    names = run.pipeline.attributes
    codes = np.empty((0, 0))
    if len(data):  # what is to be predicted must not be told
        codes = codes_of(run, data, names, device, telling=run.condition != column).codes
    classes, head = data.cases[column].to_numpy(dtype=str), _classifier(run, column)
    if head is None or not len(data):
        return Patients(data, codes, classes, np.empty((len(data), 0)))
    with torch.no_grad():
        said = head(torch.as_tensor(codes, device=device)).softmax(dim=1).cpu().numpy()
    return Patients(data, codes, classes, said)


def _classifier(run: Run, column: str) -> ClassifierHead | None:
    """The classifier that the model was trained with, if it is one of this column."""
    own = getattr(run.pipeline.objective, "column", None) == column
    return run.network.classifier if own else None


def _own_classes(
    run: Run, column: str, classes: Mapping[str, Sequence[str]]
) -> dict[str, list[str]]:
    """Names what the model's own classifier tells apart, if it knows all these classes."""
    head = _classifier(run, column)
    if head is None or not {c for some in classes.values() for c in some} <= set(head.classes):
        return {}
    return {OWN: list(head.classes)}


def _frequent(patients: Patients, name: str, notes: list[str]) -> list[str]:
    """Names the classes with enough patients to fit and choose on."""
    found, counts = np.unique(patients.classes, return_counts=True)
    rare = [f"{c} ({n})" for c, n in zip(found, counts, strict=True) if n < LEAST]
    if rare:
        notes.append(
            f"{name}: classes with fewer than {LEAST} patients are left out: {', '.join(rare)}."
        )
    kept = [str(c) for c, n in zip(found, counts, strict=True) if n >= LEAST]
    if len(kept) < 2:
        told = ", ".join(f"{c} {n}" for c, n in zip(found, counts, strict=True)) or "none"
        raise DataError(
            f"{name}: {len(kept)} classes with at least {LEAST} patients (found {told}); expected "
            "2 or more to tell apart: give more patients in a further store, or another column"
        )
    return kept


def _of(patients: Patients, classes: list[str], name: str, notes: list[str]) -> Patients:
    """Takes the patients of classes that the classifier knows."""
    other = sorted(set(patients.classes) - set(classes))
    kept = patients.of(classes)
    if other and len(kept.classes) < len(patients.classes):
        notes.append(
            f"{name}: {len(patients.classes) - len(kept.classes)} patients of classes that no "
            f"classifier was fitted on are left out: {', '.join(other)}."
        )
    if not len(kept.classes):
        raise DataError(
            f"{name} has no unseen patient of the classes {', '.join(classes)}; give a store of "
            "patients that the model was not trained on"
        )
    return kept


def trained_dimensions(run: Run) -> dict[str, int]:
    """Returns attribute -> dimension that was trained on it; empty if none was."""
    names = run.pipeline.attributes
    pairs = zip(names, run.pipeline.dimensions(names), strict=True)
    return {name: dimension for name, dimension in pairs if dimension is not None}


def _columns(run: Run) -> dict[str, list[str]]:
    """Names the dimensions; those that an attribute was trained on carry its name."""
    trained = {dimension: name for name, dimension in trained_dimensions(run).items()}
    every = [
        f"z{d} ({trained[d]})" if d in trained else f"z{d}" for d in range(run.network.latent_size)
    ]
    free = [name for d, name in enumerate(every) if d not in trained]
    parts: Mapping[str, list[str]] = {
        CODES: every, TRAINED: [every[d] for d in sorted(trained)], FREE: free, NOTHING: ["none"],
    }  # fmt: skip
    return {name: columns for name, columns in parts.items() if columns}


def _measured(groups: Sequence[Patients]) -> dict[str, list[str]]:
    """Names the attributes that every patient has."""
    names = [
        name
        for name in ATTRIBUTES
        if all(name in g.slices.cases and np.isfinite(g.slices.cases[name]).all() for g in groups)
    ]
    return {MEASURED: list(check_names(names))} if names else {}
