"""The folder of a run: one process at a time works in it, on the run that its config.yaml names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from reprlib import repr as short
from typing import Any

import yaml

from ..runtime.files import enough_space, write
from ..runtime.folders import check_unused, empty, locked
from ..runtime.outputs import A_RUN, REFINER, check_own, refuse_links, require_free
from ..runtime.yaml_files import read_yaml
from ..schema import DataError

CONFIG, LAST, BEST = "config.yaml", "last.pt", "best.pt"
MODEL, HISTORY, SUMMARY = "model.safetensors", "history.csv", "summary.json"
MEASURED = ("wall_time_s", "steps_per_second", "peak_memory_mib")
"""Keys of summary.json that differ from one run to the next: the model does not record them."""
SEGMENTERS = "segmenters"
"""Folder of the cached segmenters, which hold for any run on the same store."""
RUN = (
    CONFIG, MODEL, SUMMARY, LAST, BEST, HISTORY, "trackers.json", "tensorboard/events.out.*",
    "figures/*.png", f"{SEGMENTERS}/segmenter_*",
)  # fmt: skip
"""Every file of a run but for its refiner, as patterns."""

COPIES = 10
"""How often a run keeps the weights at most: in last.pt with their average and two moments, twice
while that is replaced, in best.pt and in the model."""


@contextmanager
def claimed(
    folder: Path, wanted: Mapping[str, Any], size: int, *, resume: bool, overwrite: bool
) -> Iterator[None]:
    """Locks a folder for a run, and leaves it with the config.yaml of that run.

    Args:
        folder: The folder; it is created if there is none.
        wanted: What config.yaml shall say.
        size: Bytes of the weights.
        resume: Whether a run of the same configuration that is in the folder goes on.
        overwrite: Whether a run in the folder is removed. One without a checkpoint always is.

    Raises:
        DataError: If the folder holds another run or other files, another process works in it or in
            its refiner, or there is too little space.
    """
    with locked(folder):
        _make_room(folder, wanted, size, resume, overwrite)
        yield


def _make_room(
    folder: Path, wanted: Mapping[str, Any], size: int, resume: bool, overwrite: bool
) -> None:
    config = folder / CONFIG
    refuse_links(folder)
    require_room(folder, resume=resume, overwrite=overwrite)
    if resume and _began(folder):
        if (held := configuration(config)) != wanted:
            told = "; ".join(islice(_differences(held, wanted), 3))
            raise DataError(
                f"{folder} holds a run with another configuration, seed or data: {told}. Resume "
                "with the same, or choose another folder"
            )
        return
    if config.is_file():
        _remove(folder)  # of a run that ended before its first checkpoint, nothing is lost
    enough_space(folder, COPIES * size)
    write(config, yaml.safe_dump(dict(wanted), sort_keys=False))


def require_room(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuses a folder with another's files, or with a run that shall neither go on nor go."""
    require_free(folder, "train")
    if _began(folder) and not (resume or overwrite):
        raise DataError(
            f"{folder} holds a run; add --resume (resume=True), or choose another folder"
        )


def _differences(held: Any, wanted: Any, key: str = "") -> Iterator[str]:
    """Says of each key whose values differ what the run in the folder has, and what is asked for.

    Example:
        >>> list(_differences({"seed": 0, "a": {"b": 1}}, {"seed": 0, "a": {"b": 2, "c": 3}}))
        ['a.b is 1 there and 2 here', 'a.c is None there and 3 here']
    """
    if isinstance(held, Mapping) and isinstance(wanted, Mapping):
        for name in dict.fromkeys([*held, *wanted]):
            yield from _differences(held.get(name), wanted.get(name), f"{key}.{name}".lstrip("."))
    elif held != wanted:
        yield f"{key} is {short(held)} there and {short(wanted)} here"


def _began(folder: Path) -> bool:
    """Whether a folder holds a run with a checkpoint."""
    return (folder / CONFIG).is_file() and any((folder / name).is_file() for name in (LAST, MODEL))


def _remove(folder: Path) -> None:
    """Removes a run but for its config.yaml; files of somebody else are an error.

    Killed in here, it leaves a run of the old configuration that has yet to begin.
    """
    config = configuration(folder / CONFIG)  # other programs write files of that name, too
    if not isinstance(config, Mapping) or not A_RUN.keys <= config.keys():
        raise DataError(
            f"{folder} was not written by cardiac-attrivae train: its {CONFIG} is of something "
            "else; choose another folder"
        )
    check_own(folder, [*RUN, *(f"{REFINER}/{pattern}" for pattern in RUN)], "a run")
    check_unused(folder)
    for name in (MODEL, LAST):
        (folder / name).unlink(missing_ok=True)
    empty(folder, CONFIG, SEGMENTERS)


def segmenters_of(run: Path, store: Path | None) -> dict[str, Path]:
    """Lists the cached segmenters of a run: those of its store, and those in its own folder, which
    holds them if the store cannot be written.

    Returns:
        Name, as a model records them -> file.
    """
    places = {"run/": run} | ({"": store} if store else {})
    return {
        f"{name}{SEGMENTERS}/{file.name}": file
        for name, folder in places.items()
        for file in sorted(folder.glob(f"{SEGMENTERS}/*.safetensors"))
    }


def kept_precision(folder: Path) -> Any:
    """Number format of the run in a folder; None if there is no run, or it names none."""
    file = folder / CONFIG
    config = configuration(file) if file.is_file() else None
    pipeline = config.get("pipeline") if isinstance(config, Mapping) else None
    return pipeline.get("precision") if isinstance(pipeline, Mapping) else None


def configuration(file: Path) -> Any:
    """Reads the config.yaml of a run."""
    try:
        return read_yaml(file.read_bytes())
    except ValueError as error:
        raise DataError(
            f"{file} cannot be read: {error}; without it a run cannot be resumed: choose another "
            "folder"
        ) from None
