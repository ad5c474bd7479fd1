"""Joins stores of several data sets into one, to train on all of them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from reprlib import repr as short
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pandas as pd

from ..runtime.files import enough_space, real_place, replace_folder, write
from ..runtime.folders import empty, locked
from ..runtime.outputs import check_apart, check_own
from ..runtime.provenance import seal, versions
from ..runtime.spreadsheet import csv_text, read_csv
from ..schema import SPLITS, DataError
from .manifest import NAME
from .recipe import full_recipe
from .store import SliceDataset, content_hash
from .store_files import FORMAT, mask_entry
from .store_place import PARTIAL, check_replaceable, unfinished
from .store_writer import PACKAGES, appended

PIECE = 64
"""Slices that are in memory at once."""


def join_stores(
    folders: Sequence[str | Path], output: str | Path, *, name: str = "", overwrite: bool = False
) -> SliceDataset:
    """Writes a store that holds the slices of several.

    Splits, ids and all columns stay. A column that one store lacks is left out.

    Args:
        folders: Two or more stores with the same recipe: pixel size, crop, choice of slices.
        output: Folder to write, atomically.
        name: Of the new data set; by default their names joined by ``_``.
        overwrite: Whether an existing store may be replaced.

    Raises:
        DataError: If a folder is no store, the stores do not fit, they share a patient (an id, or
            the same slice and mask), or no data set may have the name.

    Example:
        >>> from .phantom import write_phantoms
        >>> from .preprocess import preprocess
        >>> for name in ("acdc", "mnms"):
        ...     _ = write_phantoms(name, Path(name), cases=3, cine=False)
        ...     _ = preprocess(name, name, f"{name}_store")
        >>> joined = join_stores(["acdc_store", "mnms_store"], "both")
        >>> joined.name, len(joined), len(joined.split("train"))
        ('acdc_mnms', 6, 4)
    """
    output, stores = Path(output), [SliceDataset.open(folder) for folder in folders]
    for store in stores:
        check_apart(store.folder, output)
    _check(stores)
    name = name or "_".join(store.name for store in stores)
    if not re.fullmatch(NAME, name):
        raise DataError(
            f"the joined data set would be called {short(name)}; expected 1 to 64 letters, digits, "
            "_ and -: --name (name=)"
        )
    place = real_place(output)
    partial = unfinished(place)
    with locked(partial, output):
        check_own(partial, PARTIAL, "an interrupted join")
        check_replaceable(output, overwrite)
        empty(partial)
        enough_space(partial, sum(store.nbytes for store in stores))
        folder = partial / "store"
        folder.mkdir()
        _write(stores, folder, name)
        check_replaceable(output, overwrite)  # somebody may have begun to work in it meanwhile
        replace_folder(folder, place)
    return SliceDataset.open(output)


def _check(stores: Sequence[SliceDataset]) -> None:
    if len(stores) < 2:
        raise DataError(f"got {len(stores)} store; expected two or more")
    first, patients = stores[0], dict[str, SliceDataset]()
    prints = dict[str, str]()
    for store in stores:
        for key, value in full_recipe(first.info["recipe"]).items():
            other = full_recipe(store.info["recipe"]).get(key)
            if other != value:
                raise DataError(
                    f"{store.folder} has {key} {other} and {first.folder} "
                    f"{value}; preprocess them alike"
                )
        for case, found in store.fingerprints().items():
            if case in patients:
                raise DataError(f"{case} is in {patients[case].folder} and in {store.folder}")
            if found in prints:
                raise DataError(
                    f"{case} of {store.folder} is {prints[found]} of "
                    f"{patients[prints[found]].folder}: the same slice and mask"
                )
            patients[case], prints[found] = store, case


def _write(stores: Sequence[SliceDataset], folder: Path, name: str) -> None:
    for file, key in (("images.npy", "image"), ("labels.npy", "label")):
        with appended(folder / file) as add:
            for store in stores:
                for rows in np.array_split(np.arange(len(store)), -(-len(store) // PIECE)):
                    add(store.read(rows)[key].numpy())
    with ZipFile(folder / "masks.npz", "w", ZIP_DEFLATED, compresslevel=1) as archive:
        for store in stores:
            for case in store.cases["case"].unique():
                for phase, mask in store.native_masks(case).items():
                    with archive.open(mask_entry(case, phase), "w") as stream:
                        np.lib.format.write_array(stream, mask)
    cases = pd.concat([store.cases for store in stores], join="inner", ignore_index=True)
    write(folder / "cases.csv", csv_text(cases))
    skipped = pd.concat([read_csv(store.folder / "skipped.csv") for store in stores])
    write(folder / "skipped.csv", csv_text(skipped))
    info = _facts([store.info for store in stores], name)
    info |= {"versions": versions(PACKAGES), "content_hash": content_hash(folder)}
    info["sha256"] = seal(info)
    write(folder / "dataset.json", json.dumps(info, indent=2) + "\n")


def _facts(infos: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """What dataset.json says of all of them together."""
    crops = [info["crop"] for info in infos]
    cut = {key: sum(crop[key] for crop in crops) for key in ("cases_cut", "slices_cut")}
    most = {key: max(crop[key] for crop in crops) for key in ("largest_share_cut", "needed_mm")}
    sources, remarks = Counter[str](), Counter[str]()
    for info in infos:
        sources.update(info.get("mask_sources", {}))
        remarks.update(info["remarks"])
    return {
        "format": FORMAT,
        "dataset": name,
        "title": "; ".join(info["title"] for info in infos),
        "citation": "; ".join(info["citation"] for info in infos),
        "synthetic": any(info["synthetic"] for info in infos),
        "pseudonymised": all(info["pseudonymised"] for info in infos),
        "recipe": infos[0]["recipe"],
        **{key: sum(info[key] for info in infos) for key in ("cases", "slices", "skipped")},
        "splits": {split: sum(info["splits"][split] for info in infos) for split in SPLITS},
        "mask_sources": dict(sorted(sources.items())),
        "attributes": {
            key: unit
            for key, unit in infos[0]["attributes"].items()
            if all(key in info["attributes"] for info in infos)
        },
        "remarks": dict(remarks),
        "crop": cut | most,
        "joined": [{key: info[key] for key in ("dataset", "content_hash")} for info in infos],
    }
