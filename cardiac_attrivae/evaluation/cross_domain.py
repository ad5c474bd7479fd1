"""Models x data sets: the tables, pictures and notes of ``cross-domain-eval``.

A *part* is one model on one data set. Parts are computed on their own, several at once, and kept in
``parts/``: an evaluation that was broken off, or is given one more model, goes on from there.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from ..attributes import check_names
from ..data.store import SliceDataset
from ..metrics.codes import SCORES
from ..metrics.comparison import compare_paired, differences, spread
from ..metrics.images import FIDELITY
from ..metrics.intervals import holm
from ..metrics.patients import FEWEST, LEAST
from ..report.page import latex, markdown
from ..runtime.device import find_device
from ..runtime.files import atomic_file, atomic_folder, write
from ..runtime.folders import locked
from ..runtime.provenance import versions
from ..schema import SPLITS, STRUCTURES, DataError
from ..segmentation.judge import Segmenter, Training, cache_of, segmenters_for
from ..training.run import Run, load_run
from .gallery import draw_gallery
from .score import Scored, check_fit, score_model

FLOOR = "black image"
"""The row that says what an image of zeros scores: slices are zero outside the heart, so much."""

ABOUT = ("model", "method", "seed", "train_dataset", "test_dataset", "split")
COLUMNS = (*ABOUT, "metric", "attribute", "value", "n", "unit", "low", "high")
COLUMNS += ("null", "null_95", "p", "corrected", "corrected_low", "corrected_high")
COLUMNS += ("patients", "dimension")
"""Of metrics.csv."""

SPREAD = ("method", *ABOUT[3:], "metric", "attribute", "value", "seeds", "patients", "low", "high")
SPREAD += ("models",)
COMPARISONS = (*ABOUT[3:], "metric", "attribute", "first", "second", "first_value", "second_value")
COMPARISONS += ("difference", "low", "high", "p", "p_holm", "patients")

FORMAT = 1
"""Of a part; raised when what is measured changes."""
PACKAGES = ("monai", "numpy", "scikit-learn", "scipy", "torch")


@dataclass(frozen=True)
class Part:
    """One model on one data set, and the folder that holds what came out.

    Attributes:
        folder: Where its tables are; whole or absent.
        about: Values of the columns `ABOUT`.
        run: Folder of the model.
        source: Store with the patients it was trained on, if it was given.
        target: Store that it is scored on.
        names: Attributes.
        rounds: Draws behind each interval and floor.
        device: Where to compute.
        segmenter: Measures what the model draws; taught by the source, or else by the target.
    """

    folder: Path
    about: dict[str, Any]
    run: Path
    source: Path | None
    target: Path
    names: tuple[str, ...]
    rounds: int
    device: str
    segmenter: Segmenter | None

    def read(self, name: str) -> pd.DataFrame:
        """One of its tables, with the columns `ABOUT` in front; empty if it has none."""
        file = self.folder / name
        if not file.is_file():
            return pd.DataFrame()
        table = pd.read_csv(file, dtype={"case": str}, keep_default_na=False, na_values=[""])
        return pd.DataFrame(self.about, index=table.index).join(table)

    @property
    def draws(self) -> np.ndarray:
        return np.load(self.folder / "draws.npy")


def cross_domain_eval(
    runs: Sequence[str | Path],
    stores: Sequence[str | Path],
    output: str | Path,
    *,
    split: str = "test",
    attributes: Sequence[str] | None = None,
    device: str = "auto",
    rounds: int = 1000,
    workers: int = 1,
    teaching: Training | None = None,
    progress: Callable[[Iterable, int], Iterable] = lambda items, total: items,
    tell: Callable[[str], None] = lambda message: None,
) -> pd.DataFrame:
    """Scores every model on every data set, one slice per patient: the most basal one.

    Writes metrics.csv, patients.csv, control.csv, comparisons.csv, spread.csv,
    codes_MODEL_DATASET.csv, evaluation.json, table.md, table.tex and figures/ into ``output``. What
    was computed there before, of the same files and options, is not computed again.

    Args:
        runs: Folders that ``train`` wrote.
        stores: Folders that ``preprocess`` wrote, each of another data set. Lines are fitted, and
            segmenters trained, on their training patients.
        output: Folder to write into.
        split: Which patients are scored.
        attributes: What codes are scored against; None is what each model was trained with.
        device: See `find_device`.
        rounds: Draws of patients, and permutations.
        workers: Processes.
        teaching: How segmenters are trained; None is `Training` as it stands.
        progress: Wraps the finished parts and their number.
        tell: Called with a message before something takes minutes.

    Returns:
        metrics.csv: one row per model, data set, metric and attribute (or ``mean``).

    Raises:
        DataError: If a run or store cannot be read, they do not fit, or a split is empty.
    """
    start, output = time.perf_counter(), Path(output)
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; expected at least 1")
    where = find_device(device)  # a wrong name is told before anything is computed
    models = {name: load_run(run) for name, run in _names(runs).items()}
    datasets = _open_stores(stores, split)
    for run in models.values():
        for dataset in datasets.values():
            check_fit(run, dataset)
    with locked(output):
        segmenters = {
            name: segmenters_for(
                dataset, cache_of(dataset, output), device=where, training=teaching, tell=tell
            )[0]
            for name, dataset in datasets.items()
            if _teaches(dataset)
        }
        parts = []
        for name, run in models.items():
            train = run.about["train_dataset"]
            names = check_names(attributes or run.pipeline.attributes)
            about = {"model": name, "method": run.pipeline.method, "seed": run.about["seed"]}
            for test, dataset in datasets.items():
                part = Part(
                    folder=output / "parts" / f"{name}_{test}",
                    about={**about, "train_dataset": train, "test_dataset": test, "split": split},
                    run=run.folder,
                    source=datasets[train].folder if train in segmenters else None,
                    target=dataset.folder,
                    names=names,
                    rounds=rounds,
                    device=device,
                    segmenter=segmenters.get(train) or segmenters.get(test),
                )
                parts.append(part)
        pool = Parallel(n_jobs=workers, return_as="generator")
        for _ in progress(pool(delayed(_complete)(part) for part in parts), len(parts)):
            pass

        tables = _tables(parts, datasets, split, rounds)
        # written last: a folder without it is unfinished, its files may be of two evaluations
        (output / "evaluation.json").unlink(missing_ok=True)
        with atomic_folder(output / "figures") as folder:
            figures = draw_gallery(models, datasets, segmenters, tables, folder, device, split)
        _write_tables(tables, parts, output)
        notes = _notes(models, datasets, split)
        write(output / "table.md", markdown(tables["metrics"], notes))
        write(output / "table.tex", latex(tables["metrics"]))
        about = {
            "models": {name: _about_model(run) for name, run in models.items()},
            "datasets": {
                name: _about_dataset(dataset, split, segmenters.get(name))
                for name, dataset in datasets.items()
            },
            "rounds": rounds,
            "versions": versions(PACKAGES),
            "seconds": round(time.perf_counter() - start, 1),
            "notes": notes,
            "figures": figures,
        }
        write(output / "evaluation.json", json.dumps(about, indent=2) + "\n")
    return tables["metrics"]


# Parts -------------------------------------------------------------------------------------------


def _complete(part: Part) -> None:
    """Computes a part, unless its folder holds what came out of the same files and options."""
    source = _opened(part.source) if part.source else None
    target = _opened(part.target)
    facts = [
        FORMAT,
        versions(PACKAGES),
        hashlib.sha256((part.run / "model.safetensors").read_bytes()).hexdigest(),
        [store.info["content_hash"] for store in (source, target) if store],
        part.about,
        part.names,
        part.rounds,
        part.segmenter and part.segmenter.dice,
    ]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    mark = part.folder / "key"
    if mark.is_file() and mark.read_text() == key:
        return
    where = find_device(part.device)
    scored = score_model(
        load_run(part.run, part.device),
        source.split("train").basal() if source else None,
        target.split(part.about["split"]).basal(),
        part.names,
        part.segmenter,
        where,
        part.rounds,
    )
    with atomic_folder(part.folder) as folder:
        _write(scored, target, folder)
        write(folder / "key", key)


def _write(scored: Scored, target: SliceDataset, folder: Path) -> None:
    write(folder / "metrics.csv", scored.metrics.to_csv(index=False))
    write(folder / "patients.csv", scored.patients.to_csv(index=False))
    if len(scored.control):
        write(folder / "control.csv", scored.control.to_csv(index=False))
    with atomic_file(folder / "draws.npy") as beside:
        np.save(beside, scored.draws)
    table = scored.table
    codes = {f"z{d}": table.codes[:, d] for d in range(table.codes.shape[1])}
    values = {name: table.attributes[:, k] for k, name in enumerate(table.names)}
    facts = target.cases.drop_duplicates("case").set_index("case").loc[list(table.cases)]
    facts = facts[["dataset", "split", "domain", "pathology"]].to_dict("list")
    rows = pd.DataFrame({"case": table.cases, **facts, **values, **codes})
    write(folder / "codes.csv", rows.to_csv(index=False))


@lru_cache(maxsize=4)
def _opened(folder: Path) -> SliceDataset:
    return SliceDataset.open(folder)


def _teaches(dataset: SliceDataset) -> bool:
    """Whether there are enough training patients to fit lines on and to teach a segmenter."""
    return dataset.info["splits"]["train"] >= LEAST


def _open_stores(stores: Sequence[str | Path], split: str) -> dict[str, SliceDataset]:
    datasets: dict[str, SliceDataset] = {}
    for folder in map(Path, stores):
        dataset = _opened(folder)
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


def _names(folders: Sequence[str | Path]) -> dict[str, Path]:
    """Folder names, told apart by a number where two are the same."""
    named: dict[str, Path] = {}
    for folder in map(Path, folders):
        stem = name = folder.resolve().name
        count = 1
        while name in named:
            count += 1
            name = f"{stem}-{count}"
        named[name] = folder
    return named


# What all parts say together ---------------------------------------------------------------------


def _tables(
    parts: Sequence[Part], datasets: dict[str, SliceDataset], split: str, rounds: int
) -> dict[str, pd.DataFrame]:
    """The CSV files of an evaluation, by name."""
    floors = pd.DataFrame([row for dataset in datasets.values() for row in _floor(dataset, split)])
    metrics = pd.concat([_gather(parts, "metrics.csv"), floors], ignore_index=True)
    patients, groups = _gather(parts, "patients.csv"), _groups(parts)
    return {
        "metrics": metrics.reindex(columns=list(COLUMNS)),
        "patients": patients,
        "control": _gather(parts, "control.csv"),
        "spread": _spread(groups),
        "comparisons": _comparisons(groups, patients, rounds),
    }


def _write_tables(tables: dict[str, pd.DataFrame], parts: Sequence[Part], output: Path) -> None:
    """Those of `_tables`, and the codes of each part; codes of other models are removed."""
    for name, table in tables.items():
        write(output / f"{name}.csv", table.to_csv(index=False))
    codes = {output / f"codes_{part.folder.name}.csv": part.folder / "codes.csv" for part in parts}
    for file, computed in codes.items():
        write(file, computed.read_bytes())
    for old in set(output.glob("codes_*.csv")) - codes.keys():
        old.unlink()


def _gather(parts: Sequence[Part], name: str) -> pd.DataFrame:
    tables = [table for part in parts if len(table := part.read(name))]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(ABOUT))


def _floor(dataset: SliceDataset, split: str) -> Iterator[dict[str, Any]]:
    patients = dataset.split(split).basal()
    images, mask = patients.images.numpy(), patients.labels.numpy() > 0
    for metric, measure in FIDELITY.items():
        yield {
            "model": FLOOR,
            "method": FLOOR,
            "train_dataset": "",
            "test_dataset": dataset.name,
            "split": split,
            "metric": metric,
            "attribute": "mean",
            "value": float(measure(images, np.zeros_like(images), mask).mean()),
            "n": len(patients),
        }


Scores = tuple[list[tuple[str, str]], np.ndarray, np.ndarray]
"""Names, values and draws, see `_scores`."""


def _groups(parts: Sequence[Part]) -> dict[tuple[str, ...], dict[str, Scores]]:
    """(train_dataset, test_dataset, split) -> method -> scores of its parts with intervals."""
    groups: dict[tuple[str, ...], dict[str, list[Part]]] = {}
    for part in parts:
        if part.draws.size:
            place = tuple(part.about[key] for key in ABOUT[3:])
            groups.setdefault(place, {}).setdefault(part.about["method"], []).append(part)
    return {
        place: {method: _scores(group) for method, group in methods.items()}
        for place, methods in groups.items()
    }


def _scores(parts: Sequence[Part]) -> Scores:
    """Names (metric, attribute) of scores, values (M, S), draws (M, rounds, S) of parts."""
    tables = [part.read("metrics.csv") for part in parts]
    tables = [table[table["metric"].isin(SCORES)] for table in tables]
    names = list(zip(tables[0]["metric"], tables[0]["attribute"], strict=True))
    values = np.array([table["value"].to_numpy(float) for table in tables])
    return names, values, np.array([part.draws for part in parts])


def _spread(groups: dict[tuple[str, ...], dict[str, Scores]]) -> pd.DataFrame:
    """Over the seeds of a method apart from over patients: spread.csv."""
    rows = []
    for place, methods in groups.items():
        for method, (names, values, draws) in methods.items():
            if len(values) > 1:
                about = {"method": method} | dict(zip(ABOUT[3:], place, strict=True))
                found = spread(names, values, draws)
                rows += [
                    about | row._asdict() | {"seeds": row.sd, "patients": row.sd_patients}
                    for row in found
                ]
    return pd.DataFrame(rows, columns=list(SPREAD))


def _comparisons(
    groups: dict[tuple[str, ...], dict[str, Scores]], patients: pd.DataFrame, rounds: int
) -> pd.DataFrame:
    """Every two methods on the same patients, each the mean of its seeds: comparisons.csv.

    p_holm is over all pairs of methods, for one score on the same patients.
    """
    rows = []
    images = (*FIDELITY, *(f"Dice_{name}" for name in STRUCTURES))
    images = [column for column in images if column in patients]
    for place, methods in groups.items():
        here = patients[(patients[list(ABOUT[3:])] == list(place)).all(axis=1)]
        means = here.groupby(["method", "case"])[images].mean()
        for one, other in combinations(methods, 2):
            (names, *first), (same, *second) = methods[one], methods[other]
            if names != same:  # of other attributes
                continue
            found = differences(names, *first, *second, here["case"].nunique())
            cases = means.loc[one].index.tolist()
            for metric in images:
                pair = (means.loc[name, metric].loc[cases] for name in (one, other))
                found.append(compare_paired(*pair, cases, metric, rounds))
            about = dict(zip(ABOUT[3:], place, strict=True))
            for row in found:
                values = {"first": one, "second": other, "difference": row.difference.value}
                values |= {"first_value": row.first, "second_value": row.second}
                rows.append(about | row.difference._asdict() | values)
    table = pd.DataFrame(rows, columns=list(COMPARISONS))
    families = table.groupby([*ABOUT[3:], "metric", "attribute"])["p"]
    return table.assign(p_holm=families.transform(lambda p: holm(p.to_numpy())))


def _about_model(run: Run) -> dict[str, Any]:
    pipeline = run.pipeline.to_dict()
    if file := pipeline["objective"].get("perceptual_weights"):
        pipeline["objective"]["perceptual_weights"] = Path(file).name  # folders are private
    return {
        "method": run.pipeline.method,
        "seed": run.about["seed"],
        "train_dataset": run.about["train_dataset"],
        "pipeline": pipeline,
        "summary": {key: value for key, value in run.summary.items() if key != "store"},
    }


def _about_dataset(
    dataset: SliceDataset, split: str, segmenter: Segmenter | None
) -> dict[str, Any]:
    info = dataset.info
    about = {key: info[key] for key in ("title", "citation", "content_hash", "splits", "skipped")}
    about |= {"split": split, "patients": dataset.split(split).cases["case"].nunique()}
    about["synthetic"] = info.get("synthetic", False)
    if segmenter is not None:
        about["segmenter"] = {"Dice": segmenter.dice, "patients": segmenter.patients}
    return about


def _notes(models: dict[str, Run], datasets: dict[str, SliceDataset], split: str) -> list[str]:
    """What could not be done, and why."""
    notes = []
    for name, dataset in datasets.items():
        if dataset.info.get("synthetic"):
            notes.append(
                f"{name} holds synthetic hearts: its scores say nothing of patients, and published "
                "numbers are no comparison"
            )
        n = dataset.split(split).cases["case"].nunique()
        if n < LEAST:
            notes.append(f"{name} has {n} {split} patients: scores of codes need {LEAST}")
        elif n < FEWEST:
            notes.append(f"{name} has {n} {split} patients: intervals need {FEWEST}")
        if not _teaches(dataset):
            notes.append(f"{name} has no training patients to teach a segmenter or to fit lines on")
    for source in dict.fromkeys(run.about["train_dataset"] for run in models.values()):
        if source not in datasets:
            notes.append(
                f"the store of {source}, which models were trained on, was not given: no held-out "
                "scores of these models"
            )
    return notes
