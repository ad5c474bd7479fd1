"""Checks whether a run and its store are still what they were when the model was written.

The facts in model.safetensors, which are sealed together with the weights, say what the other files
should hold. Somebody who computes that seal anew can forge everything: keep a copy of it elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from reprlib import repr as short
from typing import Any, NamedTuple

from ..data.store import content_hash
from ..models.networks import KNOWN, sizes_only
from ..runtime.contents import describe
from ..runtime.files import read_json
from ..runtime.provenance import digest, seal, versions
from ..runtime.weights import Facts, Weights, open_weights, weights_digest
from ..runtime.yaml_files import read_yaml
from ..schema import DataError
from .config import parse_pipeline
from .folder import (
    BEST,
    CONFIG,
    HISTORY,
    LAST,
    MEASURED,
    MODEL,
    REFINER,
    SUMMARY,
    segmenters_of,
)
from .run import trusted_network

CONFIGURATION = ("pipeline", "seed", "content_hash")
"""Keys of config.yaml that the model records, too; ``data`` is ``train_dataset`` there."""

OLD_SUMMARY = ("seed", "train_dataset", "content_hash")
"""Keys of summary.json that models of earlier versions record."""

NOT_COVERED = (
    f"{', '.join(MEASURED)} and store in {SUMMARY}; figures, tensorboard, trackers.json; "
    f"the refiner, which is a run by itself (verify RUN/{REFINER}); "
    "skipped.csv and contact_sheet.png of the store; the scans that it was made from"
)
"""What `verify_run` does not check."""


class Finding(NamedTuple):
    """One thing that was checked."""

    what: str  # what was compared
    holds: bool | None  # whether it is unchanged; None if that cannot be found out
    text: str  # the result in words


Answer = tuple[bool | None, str]
"""What a `Finding` says of one thing: whether it holds, and the words."""


def verify_run(run: str | Path, store: str | Path | None = None) -> list[Finding]:
    """Compares the files of a run, and its store, with what the model recorded of them.

    Args:
        run: Folder that ``train`` wrote.
        store: The store that it was trained on; None looks where it was during training.

    Returns:
        Findings on ``weights``, ``configuration``, ``summary``, ``history``, ``checkpoints``,
        ``data``, ``segmenters``, ``conditions``, ``versions`` and ``parameters``, in this order.
        Other versions and conditions are described, but count as unchanged. See `NOT_COVERED`.

    Raises:
        DataError: If the folder holds no file of a run.
    """
    run = Path(run)
    files = [run / name for name in (MODEL, CONFIG, SUMMARY)]
    if not any(file.is_file() for file in files):
        held = describe(run)
        raise DataError(
            f"no run in {run}: it has none of {', '.join(f.name for f in files)}"
            f"{held and f' ({held})'}; give the folder that train wrote"
        )
    weights, model, sealed = _model(files[0])
    configuration, unread = _read(files[1], _mapping)
    summary, unread_too = _read(files[2], read_json)
    place = store or summary.get("store")
    folder = Path(place) if isinstance(place, (str, Path)) else None
    answers = {
        "weights": sealed,
        "configuration": unread or _configuration(configuration, model),
        "summary": unread_too or _summary(summary, model),
        "history": _files(run, (HISTORY,), model),
        "checkpoints": _files(run, (LAST, BEST), model),
        "data": _data(folder, store is not None, summary, model or configuration),
        "segmenters": _segmenters(run, folder, model),
        "conditions": _conditions(model),
        "versions": _versions(summary),
        "parameters": _parameters(weights, model, summary),
    }
    return [Finding(what, holds, _in_one_line(text)) for what, (holds, text) in answers.items()]


def _in_one_line(text: str) -> str:
    """Replaces characters of a file's content that could control a terminal."""
    return "".join(sign if sign.isprintable() else "?" for sign in " ".join(text.split()))


def _model(file: Path) -> tuple[Weights, Facts, Answer]:
    """Weights and facts, both empty if the file cannot be read."""
    try:
        weights, facts, sealed = open_weights(file)
    except DataError as error:
        return {}, {}, (False if file.is_file() else None, str(error))
    text = "as written, by their hash" if sealed else f"{file} was changed after it was written"
    return weights, facts, (sealed, text)


def _mapping(file: Path) -> dict[str, Any]:
    content = read_yaml(file.read_bytes())
    if not isinstance(content, dict):
        raise ValueError(f"holds {short(content)}; expected keys and values")
    return content


def _read(
    file: Path, read: Callable[[Path], dict[str, Any]]
) -> tuple[dict[str, Any], Answer | None]:
    """The content of a file; where it cannot be read, nothing and the reason."""
    if not file.is_file():
        return {}, (None, f"{file} is missing")
    try:
        return read(file), None
    except (ValueError, OSError) as error:
        text = str(error)
        return {}, (False, text if str(file) in text else f"{file}: {text}")


def _configuration(found: dict[str, Any], model: Facts) -> Answer:
    known = {key: model.get(key) for key in CONFIGURATION} | {"data": model.get("train_dataset")}
    known |= {"base": model["base"]} if "base" in model else {}  # of a refiner
    return _compared(CONFIG, found, known if model else {})


def _summary(found: dict[str, Any], model: Facts) -> Answer:
    known = model.get("summary")
    if isinstance(known, dict):
        found = {key: value for key, value in found.items() if key not in (*MEASURED, "store")}
    else:
        known = {key: model.get(key) for key in OLD_SUMMARY} if model else {}
        if isinstance(model.get("pipeline"), dict):
            known["method"] = model["pipeline"].get("method")
        found = {key: found.get(key) for key in known}
    return _compared(SUMMARY, found, known)


def _compared(file: str, found: dict[str, Any], known: dict[str, Any]) -> Answer:
    if not known:
        return None, f"the model does not record what {file} should say"
    differences = _differences(found, known)
    text = "; ".join(f"{key} is {a} in {file}, {b} in the model" for key, a, b in differences)
    return not text, text or f"{file} says what the model says"


def _differences(one: Any, other: Any, key: str = "") -> Iterator[tuple[str, str, str]]:
    """Dotted key and both values, shortened, wherever two mappings differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        for name in dict.fromkeys([*other, *one]):
            yield from _differences(one.get(name), other.get(name), f"{key}.{name}".strip("."))
    elif one != other:
        first, second = ("missing" if value is None else short(value) for value in (one, other))
        yield key, first, second


def _recorded(model: Facts) -> dict[str, str]:
    """File -> hash, as the model records them; empty for models of earlier versions."""
    known = model.get("sha256_of")
    return known if isinstance(known, dict) else {}


def _files(folder: Path, names: tuple[str, ...], model: Facts) -> Answer:
    """Hashes files, and compares them with those that the model records."""
    recorded = _recorded(model)
    if not recorded:
        return None, f"the model does not record {' and '.join(names)}"
    states = {}
    for name in (name for name in names if name in recorded or (folder / name).exists()):
        try:
            same = digest(folder / name) == recorded.get(name)
            states[name] = "as written" if same else "was changed after the model was written"
        except FileNotFoundError:
            states[name] = "is missing"
        except OSError as error:
            states[name] = f"cannot be read: {error}"
    text = "; ".join(f"{name} {state}" for name, state in states.items())
    unsound = [state for state in states.values() if state != "as written"]
    holds = None if unsound and set(unsound) == {"is missing"} else not unsound
    return holds, text or "there were none"


def _data(folder: Path | None, given: bool, summary: dict[str, Any], model: Facts) -> Answer:
    """Hashes the store again, and compares it with its own record and with the run's."""
    known = model.get("content_hash") or summary.get("content_hash")
    if not isinstance(known, str):
        return None, "the run does not record the content hash of its store"
    if folder is None:
        return None, "the run does not say where its store is; pass it: --data (store=)"
    file = folder / "dataset.json"
    if not file.is_file():
        moved = "there is no store" if given else "the store was moved (--data, store=): none"
        return None, f"{moved} in {folder}"
    try:
        found, info = content_hash(folder), read_json(file)
        resealed = _recorded(model).get("dataset.json") not in (None, digest(file))
    except (DataError, OSError) as error:
        return False, f"{folder} cannot be read: {error}"
    if found != info.get("content_hash") or info.get("sha256") != seal(info):
        return False, f"{folder} was changed after preprocess wrote it"
    if found != known or resealed:
        recipes = _differences(info.get("recipe"), model.get("recipe"), "recipe")
        text = [f"{key} is {a} and was {b}" for key, a, b in recipes if "recipe" in model]
        otherwise = "its content differs" if found != known else "its dataset.json differs"
        return False, f"{folder} is another store: {'; '.join(text) or otherwise}"
    return True, f"{folder} holds what it held, by its hash"


def _segmenters(run: Path, store: Path | None, model: Facts) -> Answer:
    """Checks the segmenters of store and run: their seals, their names, and the model's record.
    Whether the guide of the run is among them is unknown where it is not: a model works without."""
    about = model.get("guide")
    guide = about.get("sha256") if isinstance(about, dict) else None
    problems, files = [], segmenters_of(run, store)
    for name, file in files.items():
        try:
            weights, facts, sealed = open_weights(file)
        except DataError as error:
            problems.append(str(error))
            continue
        if guide == weights_digest(weights):
            guide = None
        before = _recorded(model).get(name)
        if not sealed or (before is not None and before != digest(file)):
            problems.append(f"{file} was changed after it was written")
        elif facts.get("fingerprint", file.stem) != file.stem:
            problems.append(f"{file} is the segmenter {facts['fingerprint']} under another name")
    if guide and not problems:
        return None, f"the guide that the run was trained through, {short(guide)}, is not there"
    sound = f"{len(files)}, as written" if files else "none"
    return not problems, "; ".join(problems) or sound


def _conditions(model: Facts) -> Answer:
    """Describes on what the run was trained: a run that changed it can only be repeated roughly."""
    summary = model.get("summary")
    parts = summary.get("conditions") if isinstance(summary, dict) else None
    if not (isinstance(parts, list) and all(isinstance(p, list) and len(p) == 2 for p in parts)):
        return None, "the model does not record them"
    text = "; ".join(f"from epoch {epoch} on {device}" for epoch, device in parts)
    if len(parts) > 1:
        text += ": the last digits are not those of an uninterrupted run"
    return True, text


def _versions(summary: dict[str, Any]) -> Answer:
    recorded = summary.get("versions")
    if not isinstance(recorded, dict):
        return None, f"{SUMMARY} does not record them"
    now = versions(())
    for name in recorded.keys() - now.keys():
        try:
            now[name] = version(name)
        except (PackageNotFoundError, ValueError):
            now[name] = "not installed"
    changed = [f"{name} {was}, now {now[name]}" for name, was in recorded.items()
               if was != now[name]]  # fmt: skip
    return True, "; ".join(changed) or "the same are installed"


def _parameters(weights: Weights, model: Facts, summary: dict[str, Any]) -> Answer:
    """Builds the network that the model describes, and compares its weights and their number."""
    if not weights:
        return None, "there are no weights"
    try:
        pipeline = parse_pipeline(model.get("pipeline"))
        with sizes_only() if pipeline.network.name in KNOWN else nullcontext():
            network = trusted_network(pipeline)
    except (ValueError, RuntimeError, MemoryError) as error:
        return None, str(error)
    count = sum(p.numel() for p in network.parameters())
    shapes = {name: values.shape for name, values in network.state_dict().items()}
    if shapes != {name: values.shape for name, values in weights.items()}:
        return False, "the weights are not those of the network"
    recorded = summary.get("parameters", count)
    if recorded != count:
        return False, f"{short(recorded)} in {SUMMARY}, {count:,} in the network"
    return True, f"{count:,}, and weights for each"
