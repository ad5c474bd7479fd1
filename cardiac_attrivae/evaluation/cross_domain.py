"""Models x data sets: the tables, pictures and notes of ``cross-domain-eval``."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..attributes import check_names
from ..data.masks import predicted_masks
from ..data.store import SliceDataset
from ..metrics.patients import FEWEST, LEAST
from ..report.text_tables import latex, markdown
from ..runtime.device import find_device
from ..runtime.file_names import told_apart
from ..runtime.files import write
from ..runtime.messages import counted
from ..runtime.outputs import REFINER, claimed
from ..runtime.progress import Progress, silent
from ..runtime.provenance import digest, versions
from ..runtime.shipped_models import is_shipped
from ..runtime.spreadsheet import csv_text
from ..runtime.weights import weights_digest
from ..schema import Keys
from ..segmentation.judge import KIND, Segmenter, Training, cache_of, segmenters_for
from ..training.batches import conditions
from ..training.run import Run
from .baselines import Baselines
from .gallery import draw_gallery
from .opening import Opened, can_teach, open_all, shareable
from .parts import PACKAGES, Part, Patients, TrainingCodes, compute
from .realism import WANTED, Realism
from .tables import PLACE, Tables, gather, joined


def cross_domain_eval(
    runs: Sequence[str | Path] | str | Path,
    stores: Sequence[str | Path] | str | Path,
    output: str | Path,
    *,
    split: str | Sequence[str] = "test",
    attributes: Sequence[str] | None = None,
    device: str = "auto",
    rounds: int = 1000,
    workers: int = 1,
    training: Training | None = None,
    plain: bool | None = None,
    realism: bool = False,
    progress: Progress = silent,
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
        split: Which patients are scored: one split for all stores, or one for each.
        attributes: What codes are scored against; None is what each model was trained with.
        device: See `find_device`.
        rounds: Draws of patients, and permutations.
        workers: Processes.
        training: How segmenters are trained; None is `Training` as it stands.
        plain: Whether the refiners of runs are left out, see `load_run`.
        realism: Whether drawn hearts are compared with real ones, see `measure_realism`; then
            realism.csv is written, too.
        progress: Wraps the finished jobs and their number.
        tell: Called with a message before something takes minutes.

    Returns:
        metrics.csv: one row per model, data set, metric and attribute (or ``mean``).

    Raises:
        DataError: If a run or store cannot be read, they do not fit, or a split is empty.
    """
    start, output = time.perf_counter(), Path(output)
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; expected at least 1")
    where = find_device(device)  # a wrong name is refused before anything is computed
    runs, stores = ([x] if isinstance(x, (str, Path)) else x for x in (runs, stores))
    opened = open_all(runs, stores, split, plain)
    with claimed(output, "cross-domain-eval") as claim:
        judges = {
            name: segmenters_for(
                dataset, cache_of(dataset, output), device=where, training=training, tell=tell
            )[0]
            for name, dataset in opened.datasets.items()
            if can_teach(dataset)
        }
        parts = _plan(opened, judges, output / "parts", attributes, rounds, device)
        trivial = _plan_baselines(opened, judges, parts)
        looked = _plan_realism(opened, parts) if realism else []
        compute(parts, [*trivial, *looked], workers, progress)
        tables = gather(parts, trivial, opened.datasets, opened.splits, rounds)
        if looked:
            tables["realism"] = joined(looked, "realism.csv")
        codes = _files_of_codes(parts)
        texts = [f"{name}.csv" for name in tables] + [*codes, "table.md", "table.tex"]
        # evaluation.json is written last: without it the folder is unfinished
        claim.plan([*texts, "evaluation.json"])
        figures = draw_gallery(opened, parts, judges, tables, output / "figures")
        notes = _notes(opened, needed_by(opened, attributes))
        if realism and not looked:
            notes.append(
                f"realism was not measured: it takes {WANTED} scored patients, and the store that "
                "the models were trained on"
            )
        _write_tables(tables, notes, opened.synthetic, output)
        for file, part in zip(codes, parts, strict=True):
            write(output / file, (part.folder / "codes.csv").read_bytes())
        claim.keep([*texts, "evaluation.json", *(figure["file"] for figure in figures)])
        about = _about(opened, judges) | {
            "rounds": rounds,
            "versions": versions(PACKAGES),
            "seconds": round(time.perf_counter() - start, 1),
            "notes": notes,
            "figures": figures,
        }
        write(output / "evaluation.json", json.dumps(about, indent=2) + "\n")
    return tables["metrics"]


def _plan(
    opened: Opened,
    judges: Mapping[str, Segmenter],
    folder: Path,
    attributes: Sequence[str] | None,
    rounds: int,
    device: str,
) -> list[Part]:
    """Lists the parts: every model on every data set, of patients whose attributes are known."""
    parts, needed = [], needed_by(opened, attributes)
    for model, run in opened.models.items():
        train, content = run.about["train_dataset"], _digest(run)
        names = check_names(attributes or run.pipeline.attributes)
        about = {"model": model, "method": opened.methods[model], "seed": run.about["seed"]}
        known = None
        if train in judges:
            everything = tuple(dict.fromkeys([*names, *run.pipeline.attributes]))
            source = Patients.of(opened.datasets[train], "train", needed)
            known = TrainingCodes(folder, run.folder, content, everything, source, device)
        for test, dataset in opened.datasets.items():
            where = {"train_dataset": train, "test_dataset": test, "split": opened.splits[test]}
            judge = judges.get(train) or judges.get(test)
            patients = Patients.of(dataset, opened.splits[test], needed)
            part = Part(
                folder, about | where, run.folder, content, known, patients, names, rounds, device,
                judge, run.refiner is None,
            )  # fmt: skip
            parts.append(part)
    return parts


def needed_by(opened: Opened, attributes: Sequence[str] | None) -> tuple[str, ...]:
    """Lists the attributes that are asked for or that a model was trained on."""
    own = (name for run in opened.models.values() for name in run.pipeline.attributes)
    return tuple(dict.fromkeys([*(attributes or ()), *own]))


def _digest(run: Run) -> str:
    """Names weights and facts of a run, and of its refiner if it has one."""
    model = Path("model.safetensors")
    files = [model] if run.refiner is None else [model, Path(REFINER) / model]
    return " ".join(digest(run.folder / file) for file in files)


def _plan_baselines(
    opened: Opened, judges: Mapping[str, Segmenter], parts: Sequence[Part]
) -> list[Baselines]:
    """Lists the baselines: for every training set of a model, on every data set."""
    names = tuple(dict.fromkeys(name for part in parts for name in part.names))
    places = {
        (part.about["train_dataset"], part.about["test_dataset"]): part
        for part in reversed(parts)
        if part.about["train_dataset"] in judges
    }
    return [
        Baselines(
            parts=part.parts,
            about={key: part.about[key] for key in PLACE},
            source=Patients.of(opened.datasets[train], "train", part.patients.names),
            target=part.patients,
            names=names,
            rounds=part.rounds,
            segmenter=judges[train],
            judge=weights_digest(judges[train].network.state_dict()),
        )
        for (train, _), part in reversed(places.items())
    ]


def _plan_realism(opened: Opened, parts: Sequence[Part]) -> list[Realism]:
    """Lists the comparisons of drawn with real hearts: where training patients were given, and
    enough patients are scored."""
    return [
        Realism(part.about, part, part.known.patients)
        for part in parts
        if part.known and part.segmenter and opened.patients(part.about["test_dataset"]) >= WANTED
    ]


CAVEAT = (
    "slices are cut out by the masks whose areas and volumes are read, so their outline alone says "
    "much about them: R² means little without the baselines beside it"
)


def _files_of_codes(parts: Sequence[Part]) -> list[str]:
    """Names the table of codes of each part."""
    stems = [f"codes_{part.about['model']}_{part.about['test_dataset']}" for part in parts]
    return [f"{stem}.csv" for stem in told_apart(stems)]


def _write_tables(
    tables: Tables, notes: Sequence[str], synthetic: Collection[str], output: Path
) -> None:
    # baselines have no seed and no dimension: pandas would write those of the models as 0.0
    whole = dict.fromkeys(("seed", "patients", "dimension"), "Int64")
    written = {**tables, "metrics": tables["metrics"].astype(whole)}
    for name, table in written.items():
        write(output / f"{name}.csv", csv_text(table))
    write(output / "table.md", markdown(tables["metrics"], notes, synthetic))
    write(output / "table.tex", latex(tables["metrics"], synthetic))


def _about(opened: Opened, judges: Mapping[str, Segmenter]) -> dict[str, Any]:
    """Describes models and data sets for evaluation.json."""
    return {
        "models": {
            name: _about_model(run, opened.methods[name]) for name, run in opened.models.items()
        },
        "datasets": {
            name: _about_dataset(dataset, judges.get(name))
            | {
                "split": opened.splits[name],
                "patients": opened.patients(name),
                "mask_sources": dataset.split(opened.splits[name]).mask_sources,
            }
            for name, dataset in opened.datasets.items()
        },
    }


def _about_model(run: Run, method: str) -> dict[str, Any]:
    summary = {} if is_shipped(run.folder) else run.summary
    return {
        "method": method,
        "seed": run.about["seed"],
        "train_dataset": run.about["train_dataset"],
        "pipeline": shareable(run.pipeline),
        "summary": {key: value for key, value in summary.items() if key != "store"},
    } | {key: run.about[key] for key in ("guide", "refiner") if key in run.about}


def _about_dataset(dataset: SliceDataset, judge: Segmenter | None) -> dict[str, Any]:
    info = dataset.info
    about = {key: info[key] for key in ("title", "citation", "content_hash", "splits", "skipped")}
    about["synthetic"] = info.get("synthetic", False)
    if judge is not None:
        digest = weights_digest(judge.network.state_dict())
        about["segmenter"] = {"Dice": judge.dice, "patients": judge.patients}
        about["segmenter"] |= {"network": KIND, "sha256": digest}
    return about


def _told(name: str, run: Run, opened: Opened) -> list[str]:
    """Says of how many patients a conditional network is told a category."""
    found = []
    for dataset, data in opened.datasets.items() if run.condition else ():
        split = opened.splits[dataset]
        known = conditions(run.network, data.split(split).basal().cases)[Keys.CONDITION].sum(axis=1)
        found.append(
            f"{name} is told the {run.condition} of {int(known.sum())} of {len(known)} {split} "
            f"patients of {dataset}: all its scores are those of a model that knows it"
        )
    return found


def _notes(opened: Opened, needed: Sequence[str]) -> list[str]:
    """Says what could not be done, and why."""
    notes = [CAVEAT, *opened.notes]
    for name, run in opened.models.items():
        if guide := run.about.get("guide"):
            notes.append(
                f"{name} was trained through a segmenter ({guide['network']}, sha256 "
                f"{guide['sha256'][:16]}), which took no part in measuring it: {KIND} did"
            )
        if run.refiner is not None:
            notes.append(
                f"{name} has a refiner: pictures, Dice and control are those of what it painted; "
                "--plain (plain=True) leaves it out"
            )
        notes += _told(name, run, opened)
    for name, dataset in opened.datasets.items():
        if dataset.info.get("synthetic"):
            notes.append(
                f"{name} holds synthetic hearts: its scores say nothing about patients, so "
                "published numbers are not shown beside them"
            )
        n, split = opened.patients(name), opened.splits[name]
        for part in dict.fromkeys((split, "train")):
            if told := predicted_masks(dataset.split(part).mask_sources):
                notes.append(f"{name}, {part} patients: {told}")
        scored = dataset.split(split).basal()
        whole = scored.complete(needed)
        notes += [
            f"{attribute} is the same in all {split} patients of {name}: it scores 0, which "
            "lowers the means"
            for attribute, values in zip(needed, whole.attributes(needed).T, strict=True)
            if len(values) > 1 and np.ptp(values) == 0
        ]
        if blank := len(scored) - len(whole):
            notes.append(
                f"{blank} of {len(scored)} {split} patients of {name} are left out: one of "
                f"{', '.join(needed)} is blank, because no mask shows it"
            )
        if n < LEAST:
            notes.append(
                f"{name} has {counted(n, f'{split} patient')}: scores of codes need {LEAST}"
            )
        elif n < FEWEST:
            notes.append(f"{name} has {counted(n, f'{split} patient')}: intervals need {FEWEST}")
        if not can_teach(dataset):
            notes.append(
                f"{name} has fewer than {LEAST} training patients: too few to train a segmenter or "
                "to fit lines on"
            )
    for source in dict.fromkeys(run.about["train_dataset"] for run in opened.models.values()):
        if source not in opened.datasets:
            notes.append(
                f"the store of {source}, which models were trained on, was not given: no held-out "
                "scores of these models"
            )
    return notes
