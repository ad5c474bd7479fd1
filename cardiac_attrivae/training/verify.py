"""Whether what a run was made from is still what it was: weights, configuration, data, versions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from reprlib import repr as short
from typing import Any, NamedTuple

from ..data.store import content_hash
from ..runtime.files import read_json
from ..runtime.provenance import seal, versions
from ..runtime.weights import Weights, open_weights
from ..runtime.yaml_files import read_yaml
from ..schema import DataError
from .config import parse_pipeline
from .run import trusted_network

CONFIGURATION = {
    "pipeline": "pipeline",
    "seed": "seed",
    "data": "train_dataset",
    "content_hash": "content_hash",
}
"""Key of config.yaml -> that of the facts in the model which says the same."""
SUMMARY = ("seed", "train_dataset", "content_hash")
"""Keys of summary.json which the facts in the model have, too."""


class Finding(NamedTuple):
    """What was compared, whether it holds (None: it cannot be told), and in words."""

    what: str
    holds: bool | None
    told: str


def verify_run(run: str | Path, store: str | Path | None = None) -> list[Finding]:
    """Compares what is left of a run, and its store, with what they were when it was trained.

    Args:
        run: Folder that ``train`` wrote.
        store: What it was trained on; None looks where it was then.

    Returns:
        Findings on ``weights``, ``configuration``, ``summary``, ``data``, ``versions`` and
        ``parameters``, in this order. Other versions are told and hold nevertheless.

    Raises:
        DataError: If the folder holds nothing of a run.
    """
    run = Path(run)
    files = [run / name for name in ("model.safetensors", "config.yaml", "summary.json")]
    if not any(file.is_file() for file in files):
        raise DataError(f"no run in {run}: it has none of {', '.join(f.name for f in files)}")
    weights, model, sealed = _model(files[0])
    configuration, unread = _said("configuration", files[1], _mapping)
    summary, unread_too = _said("summary", files[2], read_json)
    findings = (
        sealed,
        unread or _configuration(configuration, model),
        unread_too or _summary(summary, model),
        _data(store, summary, model or configuration),
        _versions(summary),
        _parameters(weights, model, summary),
    )
    return [Finding(what, holds, _in_one_line(told)) for what, holds, told in findings]


def _in_one_line(told: str) -> str:
    """What a file holds may steer a terminal: nothing of it does that here."""
    return "".join(sign if sign.isprintable() else "?" for sign in " ".join(told.split()))


def _model(file: Path) -> tuple[Weights, dict[str, Any], Finding]:
    """Weights and facts, both empty if the file cannot be read."""
    try:
        weights, facts, sealed = open_weights(file)
    except DataError as error:
        return {}, {}, Finding("weights", False if file.is_file() else None, str(error))
    told = "as written, by their hash" if sealed else f"{file} was changed after it was written"
    return weights, facts, Finding("weights", sealed, told)


def _mapping(file: Path) -> dict[str, Any]:
    said = read_yaml(file.read_bytes())
    if not isinstance(said, dict):
        raise ValueError(f"holds {short(said)}; expected keys and values")
    return said


def _said(
    what: str, file: Path, read: Callable[[Path], dict[str, Any]]
) -> tuple[dict[str, Any], Finding | None]:
    """What a file of a run says; where it cannot be read, nothing and why."""
    if not file.is_file():
        return {}, Finding(what, None, f"{file} is missing")
    try:
        return read(file), None
    except (ValueError, OSError) as error:
        told = str(error)
        return {}, Finding(what, False, told if str(file) in told else f"{file}: {told}")


def _configuration(said: dict[str, Any], model: dict[str, Any]) -> Finding:
    known = {key: model.get(fact) for key, fact in CONFIGURATION.items()}
    return _compared("configuration", "config.yaml", said, known if model else {})


def _summary(said: dict[str, Any], model: dict[str, Any]) -> Finding:
    known = {key: model.get(key) for key in SUMMARY}
    if isinstance(model.get("pipeline"), dict):
        known["method"] = model["pipeline"].get("method")
    said = {key: said.get(key) for key in known}
    return _compared("summary", "summary.json", said, known if model else {})


def _compared(what: str, file: str, said: dict[str, Any], known: dict[str, Any]) -> Finding:
    if not known:
        return Finding(what, None, f"the model does not tell what {file} should say")
    differences = list(_differences(said, known))
    told = f"{file} says what the model says"
    if differences:
        told = "; ".join(f"{key} is {a} in {file}, {b} in the model" for key, a, b in differences)
    return Finding(what, not differences, told)


def _differences(one: Any, other: Any, key: str = "") -> Iterator[tuple[str, str, str]]:
    """Dotted key and both values, shortened, wherever two mappings differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        for name in dict.fromkeys([*other, *one]):
            yield from _differences(one.get(name), other.get(name), f"{key}.{name}".strip("."))
    elif one != other:
        found, known = ("missing" if value is None else short(value) for value in (one, other))
        yield key, found, known


def _data(store: str | Path | None, summary: dict[str, Any], model: dict[str, Any]) -> Finding:
    """Of the store: its files hashed anew, its own record, and what the run says of it."""
    known = model.get("content_hash") or summary.get("content_hash")
    place = store or summary.get("store")
    if not isinstance(known, str):
        return Finding("data", None, "the run does not tell the content hash of its store")
    if not isinstance(place, (str, Path)):
        return Finding("data", None, "the run does not tell where its store is; pass --data STORE")
    folder = Path(place)
    if not (folder / "dataset.json").is_file():
        moved = "there is no store" if store else "the store was moved, pass --data STORE: none"
        return Finding("data", None, f"{moved} in {folder}")
    try:
        found, info = content_hash(folder), read_json(folder / "dataset.json")
    except (DataError, OSError) as error:
        return Finding("data", False, f"{folder} cannot be read: {error}")
    if found != info.get("content_hash") or info.get("sha256") != seal(info):
        return Finding("data", False, f"{folder} was changed after preprocess wrote it")
    if found != known:
        recipes = _differences(info.get("recipe"), model.get("recipe"), "recipe")
        told = [f"{key} is {a} and was {b}" for key, a, b in recipes if "recipe" in model]
        return Finding(
            "data", False, f"{folder} is another store: {'; '.join(told) or 'its content differs'}"
        )
    return Finding("data", True, f"{folder} holds what it held, by its hash")


def _versions(summary: dict[str, Any]) -> Finding:
    recorded = summary.get("versions")
    if not isinstance(recorded, dict):
        return Finding("versions", None, "summary.json does not tell them")
    now = versions(())
    for name in recorded.keys() - now.keys():
        try:
            now[name] = version(name)
        except (PackageNotFoundError, ValueError):
            now[name] = "not installed"
    changed = [
        f"{name} {was}, now {now[name]}" for name, was in recorded.items() if was != now[name]
    ]
    return Finding("versions", True, "; ".join(changed) or "the same are installed")


def _parameters(weights: Weights, model: dict[str, Any], summary: dict[str, Any]) -> Finding:
    """Of the network that the model's facts describe, filled with the weights."""
    if not weights:
        return Finding("parameters", None, "there are no weights")
    try:
        network = trusted_network(parse_pipeline(model.get("pipeline")))
    except (ValueError, RuntimeError, MemoryError) as error:
        return Finding("parameters", None, str(error))
    count = sum(p.numel() for p in network.parameters())
    shapes = {name: values.shape for name, values in network.state_dict().items()}
    if shapes != {name: values.shape for name, values in weights.items()}:
        return Finding("parameters", False, "the weights are not those of the network")
    recorded = summary.get("parameters", count)
    if recorded != count:
        told = f"{short(recorded)} in summary.json, {count:,} in the network"
        return Finding("parameters", False, told)
    return Finding("parameters", True, f"{count:,}, and weights for each")
