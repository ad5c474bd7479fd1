"""Where a store is written: the names of its files, and which folders it may replace."""

from __future__ import annotations

from pathlib import Path

from ..runtime.folders import check_unused, is_empty
from ..runtime.outputs import A_STORE, check_own, require_free
from ..schema import DataError

FILES = ("cases.csv", "images.npy", "labels.npy", "masks.npz")
"""What the content hash in dataset.json covers."""
STORE = (*FILES, "dataset.json", "skipped.csv", "contact_sheet.png", "segmenters/segmenter_*")
"""Every file of a store."""
PARTIAL = ("*/case-*", "store/*")
"""Patterns of the files in `unfinished`, which holds finished cases until all are done."""


def unfinished(store: Path) -> Path:
    """Returns the folder beside a store in which it is written, and which its writer locks.

    Example:
        >>> unfinished(Path("stores/acdc")).as_posix()
        'stores/.acdc.partial'
    """
    return store.parent / f".{store.name}.partial"


def check_replaceable(output: Path, overwrite: bool) -> None:
    """Refuses an output folder that holds anything but a store.

    Raises:
        DataError: If it does, exists and may not be replaced, or another process works in it.

    Example:
        >>> check_replaceable(Path("absent"), overwrite=False)
        >>> _ = Path("notes.txt").write_text("not a store")
        >>> check_replaceable(Path("."), overwrite=False)
        Traceback (most recent call last):
        cardiac_attrivae.schema.DataError: . is not empty and was not written by ... preprocess: ...
    """
    require_free(output, "preprocess")
    if not output.exists() or overwrite and is_empty(output):
        return
    if not (A_STORE.is_at(output) or is_empty(output)):
        raise DataError(f"{output} is no store, so it is not replaced; choose another folder")
    if not overwrite:
        raise DataError(
            f"{output} exists already; choose another folder or add --overwrite (overwrite=True)"
        )
    check_own(output, STORE, "a store")
    check_unused(output)
