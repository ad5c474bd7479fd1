"""Evaluations as ``cross-domain-eval`` wrote them, read and checked."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from reprlib import repr as short
from typing import Any, NamedTuple

import pandas as pd
from PIL import Image

from ..metrics.pooling import KEY, NUMBERS
from ..runtime.contents import require_evaluation
from ..runtime.files import read_json
from ..runtime.spreadsheet import unquoted
from ..schema import DataError
from .methods import Configuration, method_names

COLUMNS = {
    "metrics": (KEY, ["value", "n"], [*NUMBERS, "patients"]),
    "comparisons": (
        ["first", "second", *KEY[1:]],
        ["first_value", "second_value", "difference", "low", "high", "p", "p_holm"],
        [],
    ),
    "spread": (KEY, ["value", "seeds", "patients", "low", "high", "models"], []),
    "realism": (
        ["method", "train_dataset", "test_dataset", "split", "drawn", "metric", "features"],
        ["value", "n"],
        ["low", "high"],
    ),
}
"""Table -> its columns of text, and of numbers that it must and that it may have."""

FACTS = {
    "models": {
        "*": {
            "method": str, "seed": Real, "train_dataset": str, "pipeline?": {},
            "summary?": {
                "wall_time_s?": Real, "train_cases?": Real, "parameters?": Real, "epochs?": Real,
                "device?": str,
            },
        },
    },
    "datasets": {
        "*": {
            "splits?": {"*": Real}, "segmenter?": {"Dice": {"*": Real}},
            "mask_sources?": {"*": Real},
        },
    },
    "rounds": Real, "seconds": Real, "versions": {}, "notes": [str],
    "figures": [{"file": str, "kind": str, "model?": str}],
}  # fmt: skip
"""What evaluation.json may hold: types by key; ``*`` is any key, and one with ``?`` may lack."""


class Picture(NamedTuple):
    """A picture as a data URI, and what it shows; names are empty where it shows all."""

    source: str
    method: str
    train_dataset: str
    test_dataset: str


@dataclass(frozen=True)
class Evaluations:
    """What one or more folders of ``cross-domain-eval`` hold, put together."""

    metrics: pd.DataFrame  # the file of that name, as the next three; no rows if it is missing
    comparisons: pd.DataFrame
    spread: pd.DataFrame
    realism: pd.DataFrame
    models: list[dict[str, Any]]  # name and facts of each model, as in evaluation.json
    datasets: dict[str, dict[str, Any]]  # facts of each data set by its name, as in evaluation.json
    facts: list[dict[str, Any]]  # evaluation.json of each folder, equal ones once
    pictures: dict[str, list[Picture]]  # by kind, in the order of evaluation.json

    @property
    def notes(self) -> list[str]:
        """What a reader must know, each note once."""
        return list(dict.fromkeys(note for about in self.facts for note in about.get("notes", ())))

    @property
    def synthetic(self) -> frozenset[str]:
        """Data sets whose hearts are phantoms."""
        return frozenset(n for n, about in self.datasets.items() if about.get("synthetic"))


def read_evaluations(folders: Sequence[Path]) -> Evaluations:
    """Reads folders that ``cross-domain-eval`` wrote; what two of them share counts once.

    Refuses an unfinished one, a file that is not what it should be, and a listed picture that is
    not inside its evaluation.
    """
    folders = [Path(folder) for folder in folders]
    if not folders:
        raise DataError("no evaluation to report on; give a folder that cross-domain-eval wrote")
    facts: list[dict[str, Any]] = []
    models: list[dict[str, Any]] = []
    datasets: dict[str, dict[str, Any]] = {}
    pictures: dict[str, list[Picture]] = {}
    for folder in folders:
        about = _read_facts(folder)
        facts.append(about)
        new = [{"name": name, **model} for name, model in about.get("models", {}).items()]
        models += [model for model in new if model not in models]
        datasets = about.get("datasets", {}) | datasets
        for kind, picture in _pictures(folder, about):
            shown = pictures.setdefault(kind, [])
            if picture not in shown:
                shown.append(picture)
    renamed = _renamed(facts)
    metrics, comparisons, spread, realism = (_together(folders, name, renamed) for name in COLUMNS)
    if metrics.empty:
        raise DataError(f"{folders[0] / 'metrics.csv'} holds no score; nothing can be reported")
    once = [about for at, about in enumerate(facts) if about not in facts[:at]]
    return Evaluations(metrics, comparisons, spread, realism, models, datasets, once, pictures)


def _read_facts(folder: Path) -> dict[str, Any]:
    require_evaluation(folder)
    file = folder / "evaluation.json"
    about = read_json(file)
    for key, shape in FACTS.items():
        if key in about:
            _check(about[key], shape, key, file)
    return about


def _check(value: object, shape: object, name: str, file: Path) -> None:
    """Raises a DataError unless a value has the types of a shape, see `FACTS`."""
    if isinstance(shape, dict) and isinstance(value, dict):
        for key, inner in shape.items():
            required = key != "*" and not key.endswith("?")
            known = value if key == "*" else [key.removesuffix("?")]
            for part in known:
                if part in value and (required or value[part] is not None or key == "*"):
                    _check(value[part], inner, f"{name}.{part}", file)
                elif required:
                    raise DataError(f"{file}: {name} has no {part}; {_AGAIN}")
    elif isinstance(shape, list) and isinstance(value, list):
        for k, part in enumerate(value):
            _check(part, shape[0], f"{name}[{k}]", file)
    elif isinstance(shape, (dict, list)) or not isinstance(value, shape):  # type: ignore[arg-type]  # a type by now
        kinds = {dict: "names with values", list: "a list", str: "text", Real: "a number"}
        expected = kinds[type(shape) if isinstance(shape, (dict, list)) else shape]  # type: ignore[index]  # as above
        raise DataError(f"{file}: {name} is {short(value)}; expected {expected}; {_AGAIN}")


_AGAIN = "write the evaluation again with cross-domain-eval"


Methods = dict[tuple[str, str], str | None]
"""Method in an evaluation, training set -> name among all; None if it pools what differs."""


def _renamed(facts: Sequence[dict[str, Any]]) -> list[Methods]:
    """Names methods so that models of two evaluations are pooled only if just their seeds differ.

    The facts of the models are given the new names.
    """
    known = {
        (at, name): model
        for at, about in enumerate(facts)
        for name, model in about.get("models", {}).items()
        if model.get("pipeline")
    }
    names = method_names(
        {
            key: Configuration(
                str(model["pipeline"].get("method", model["method"])),
                model["train_dataset"],
                (model.get("summary") or {}).get("content_hash"),
                model["pipeline"],
            )
            for key, model in known.items()
        }
    )
    renamed: list[Methods] = [{} for _ in facts]
    for (at, name), model in known.items():
        there, method = (model["method"], model["train_dataset"]), names[at, name]
        same = renamed[at].get(there, method) == method
        renamed[at][there] = method if same else None
    for key, model in known.items():
        model["method"] = names[key]
    return renamed


def _together(folders: Sequence[Path], name: str, renamed: Sequence[Methods]) -> pd.DataFrame:
    """A table of all folders, equal rows once; names stay text, whatever they are."""
    columns = ["first", "second"] if name == "comparisons" else ["method"]
    tables = []
    for folder, methods in zip(folders, renamed, strict=True):
        if not (folder / f"{name}.csv").is_file():
            continue
        table = _read_table(folder / f"{name}.csv", name)
        for column in columns:
            pairs = zip(table[column], table["train_dataset"], strict=True)
            table[column] = [methods.get(pair, pair[0]) for pair in pairs]
        table = table.dropna(subset=columns)
        if len(table):
            tables.append(table)
    return pd.concat(tables, ignore_index=True).drop_duplicates() if tables else pd.DataFrame()


def _read_table(file: Path, name: str) -> pd.DataFrame:
    texts, required, optional = COLUMNS[name]
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False, na_values=[""])
    except (ValueError, OSError) as error:  # of which pandas' errors are kinds
        raise DataError(f"{file} is no table: {str(error).strip()}; {_AGAIN}") from None
    for column in (*texts, *required):
        if column not in table:
            raise DataError(f"{file} has no column {column}; {_AGAIN}")
    for column in texts:
        table[column] = table[column].map(unquoted, na_action="ignore").astype(object)
    for column in {*required, *optional} & set(table):
        numbers = pd.to_numeric(table[column], errors="coerce")
        wrong = numbers.isna() & table[column].notna() & (table[column].str.lower() != "nan")
        if wrong.any():
            row = int(wrong.to_numpy().argmax())
            raise DataError(
                f"{file}: column {column} holds {short(table[column].iloc[row])} in row {row + 1}; "
                f"expected a number; {_AGAIN}"
            )
        table[column] = numbers
    return table.fillna(dict.fromkeys(set(texts) - {"train_dataset"}, ""))


def _pictures(folder: Path, about: Mapping[str, Any]) -> Iterator[tuple[str, Picture]]:
    """Kind and picture; where evaluation.json lists none, every file under its own name."""
    listed = about.get("figures") or [
        {"file": f"figures/{file.name}", "kind": file.stem}
        for file in sorted((folder / "figures").glob("*.png"))
    ]
    for row in listed:
        file = folder / row["file"]
        if "\0" in row["file"] or not file.resolve().is_relative_to(folder.resolve()):
            raise DataError(
                f"{folder / 'evaluation.json'} lists the picture {ascii(row['file'])[1:-1]}, which "
                f"is not inside the evaluation; {_AGAIN}"
            )
        if file.is_file():
            model = about.get("models", {}).get(row.get("model"), {})
            places = (str(row.get("train_dataset", "")), str(row.get("test_dataset", "")))
            yield row["kind"], Picture(packed_picture(file), model.get("method", ""), *places)


def packed_picture(file: Path) -> str:
    """Packs a picture as WebP, a fifth of its PNG, so that a page of forty is small to send."""
    try:
        # of any other format, Pillow hands PostScript to Ghostscript, which runs it
        with Image.open(file, formats=("PNG",)) as picture, io.BytesIO() as packed:
            picture.convert("RGB").save(packed, "WEBP", quality=88, method=4)
            return "data:image/webp;base64," + base64.b64encode(packed.getvalue()).decode()
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{file} is no picture: {error}; {_AGAIN}") from None
