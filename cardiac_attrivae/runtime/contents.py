"""What a folder holds: a slice store, a trained run, an evaluation, or images.

Reads names of files and small tables alone, so that a wrong folder or patient is reported before
large libraries are imported and anything is computed.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from ..schema import DataError
from .files import read_json
from .messages import counted, shell_word
from .shipped_models import OTHERS, model_folder, shipped_models, trained_on
from .yaml_files import nearest

IMAGES = (".nii", ".nii.gz", ".dcm")
MOST_CLASSES = 50
"""Different texts in a column of cases.csv that may still be classes of patients."""
LOOKED_AT = 2000
"""Files and folders that are looked at to find out whether a folder holds images."""


def describe(folder: Path) -> str:
    """Returns in words what a folder holds; empty where nothing is recognised.

    Example:
        >>> describe(Path("nowhere"))
        'it does not exist'
    """
    if not folder.is_dir():
        return "it is a file" if folder.exists() else "it does not exist"
    if (folder / "evaluation.json").is_file():
        return "it holds an evaluation that cross-domain-eval wrote"
    if (folder / "config.yaml").is_file() and not (folder / "model.safetensors").is_file():
        return "it holds an unfinished run"
    if (folder / "model.safetensors").is_file():
        return "it holds a run that train wrote"
    if (folder / "cases.csv").is_file() and (folder / "images.npy").is_file():
        return "it holds a store that preprocess wrote"
    if _holds_images(folder):
        return "it holds images, which preprocess reads"
    return "it is empty" if not any(folder.iterdir()) else ""


def require_store(folder: str | Path) -> dict[str, Any]:
    """Returns dataset.json of a store that ``preprocess`` wrote; its values are not checked."""
    folder = Path(folder)
    file = folder / "dataset.json"
    if file.is_file() and (folder / "cases.csv").is_file():
        return read_json(file)
    images = folder.is_dir() and _holds_images(folder)
    filled = folder.is_dir() and any(folder.iterdir())
    named = shell_word(folder)
    source = f"--source {named if images else 'DIR'} --output {'STORE' if filled else named}"
    lacking = "cases.csv" if file.is_file() else "dataset.json"
    raise DataError(
        f"no slice store in {folder}: {lacking} is missing{_found(folder)}. Write one with "
        f"cardiac-attrivae preprocess --dataset acdc {source}"
    )


def require_run(folder: str | Path) -> None:
    """Refuses a folder that holds no finished run."""
    folder = model_folder(folder)
    if (folder / "model.safetensors").is_file():
        return
    if (folder / "last.pt").is_file():
        told = "; it is unfinished: train again with --resume"
    else:
        shipped = ", ".join(shipped_models()[:1])
        told = f"{_found(folder)}; train one first, or give the folder that train wrote"
        told += shipped and f", or {shipped}, which is shipped"
    raise DataError(f"no trained model in {folder}: model.safetensors is missing{told}")


def require_evaluation(folder: str | Path) -> None:
    """Refuses a folder that holds no finished evaluation."""
    folder = Path(folder)
    for name in ("metrics.csv", "evaluation.json"):
        if not (folder / name).is_file():
            raise DataError(
                f"no finished evaluation in {folder}: {name} is missing{_found(folder)}. Write one "
                "with cardiac-attrivae cross-domain-eval --model RUN --data STORE --output DIR"
            )


def store_of(run: Path, store: Path | None) -> Path:
    """Returns the store to use with a run: the given one, or the one it was trained on."""
    summary = run / "summary.json"
    known = store or (read_json(summary).get("store") if summary.is_file() else None)
    if not isinstance(known, (str, Path)):
        raise DataError(
            f"{run} does not say where the store is that it was trained on, as weights that were "
            "exported; give it: --data (store=)"
        )
    if not Path(known).is_dir():
        raise DataError(f"the store that {run} was trained on is gone; give it: --data (store=)")
    require_store(known)
    return Path(known)


def require_case(store: Path, case: str) -> None:
    """Refuses a patient that a store does not hold; names similar ones."""
    with open(store / "cases.csv", newline="", encoding="utf-8") as file:
        cases = sorted({row.get("case") or "" for row in csv.DictReader(file)})
    if case not in cases:
        raise DataError(
            f"{store} has no case {case!r}{nearest(case, cases)}; expected one of "
            f"{', '.join(cases[:3])}, ..."
        )


def require_column(store: Path, column: str) -> None:
    """Refuses a column of cases.csv that is missing, or does not sort patients into classes: all
    have the same text in it, or too many have a text of their own."""
    with open(store / "cases.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = {name: _cases_by_text(rows, name) for name in (rows[:1] or [{}])[0]}
    shared = {name: sum(len(some) > 1 for some in texts.values()) for name, texts in found.items()}
    classes = [n for n, texts in found.items() if 1 < len(texts) <= MOST_CLASSES and shared[n] > 1]
    fit = [
        name
        for name in classes
        if name != "case" and not any(text[-1].isdigit() for text in found[name])
    ]  # shown as examples: no numbers
    named = f"--column {' or '.join(fit)}"
    give = f"give {named}" if fit else "none here does: name one in the manifest, and preprocess"
    if column not in found:
        raise DataError(
            f"cases.csv of {store} has no column {column!r}{nearest(column, found)}; expected one "
            f"that sorts patients into classes: {give}"
        )
    if column not in classes:
        texts = len(found[column])
        several = f", {shared[column]} of them in several patients"
        told = counted(texts, "text") + (several if 1 < texts <= MOST_CLASSES else "")
        raise DataError(
            f"column {column!r} of cases.csv in {store} has {told}; expected 2 to {MOST_CLASSES} "
            f"classes: {give}"
        )


def _cases_by_text(rows: Sequence[Mapping[str, str]], column: str) -> dict[str, set[str]]:
    """Returns the patients with each text in a column of cases.csv."""
    found: dict[str, set[str]] = {}
    for row in rows:
        if text := row.get(column):
            found.setdefault(text, set()).add(row.get("case") or "")
    return found


def patients(info: Mapping[str, Any], split: str) -> int:
    """Returns the number of patients that dataset.json gives for a split, 0 if it gives none."""
    splits = info.get("splits")
    count = splits.get(split) if isinstance(splits, dict) else None
    return count if isinstance(count, int) else 0


def part_to_score(folder: Path, info: Mapping[str, Any]) -> str:
    """Returns what ``--data`` takes to score a store: its test patients, or what it has instead.

    Example:
        >>> part_to_score(Path("acdc"), {"splits": {"train": 9, "val": 1, "test": 0}})
        'acdc:val'
        >>> part_to_score(Path("acdc"), {"splits": {"train": 9, "val": 1, "test": 5}})
        'acdc'
    """
    if patients(info, "test"):
        return str(folder)
    return f"{folder}:{'val' if patients(info, 'val') else 'train'}"


def require_patients(
    folder: Path, info: Mapping[str, Any], split: str, models: Iterable[Path] = ()
) -> None:
    """Refuses a split without patients; lists those that have some. A shipped model among those
    that are to be scored has seen the patients of the other splits of its data set."""
    if patients(info, split):
        return
    filled = [name for name in ("train", "val", "test") if patients(info, name)]
    there = ", ".join(f"{name} {patients(info, name)}" for name in filled)
    other = filled[-1] if filled else "SPLIT"
    seen = [model for model in models if trained_on(model_folder(model)) == info.get("dataset")]
    advice = (
        f"{seen[0]} was trained on them: {OTHERS}"
        if seen
        else f"choose another split: --data {shell_word(f'{folder}:{other}')} (split={other!r})"
    )
    raise DataError(f"{folder} has no {split} patients (it has {there or 'none at all'}); {advice}")


def _found(folder: Path) -> str:
    words = describe(folder)
    return f" ({words})" if words else ""


def _holds_images(folder: Path) -> bool:
    """Whether one of the first files, four levels deep, is an image."""
    levels: Sequence[str] = ("*", "*/*", "*/*/*", "*/*/*/*")
    entries = chain.from_iterable(folder.glob(level) for level in levels)
    return any(entry.name.endswith(IMAGES) for entry in islice(entries, LOOKED_AT))
