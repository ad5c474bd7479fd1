"""Case records become a slice store: workers, resume, contact sheet, skipped cases.

Each finished case is kept in ``.NAME.partial`` beside the output until all are done; the store is
assembled there and renamed as a whole, so that it is complete or absent, and a run that was broken
off goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from monai.transforms import Compose

from . import __version__
from .attributes import ATTRIBUTES
from .cases import Cases, Skipped, drop_duplicates, find_cases
from .files import empty, enough_space, locked, put_in_place, whole, write
from .manifest import Manifest
from .schema import SPLITS, SYNTHETIC, CaseRecord, DataError, Keys
from .sheet import contact_sheet
from .slices import FORMAT, SPACING, content_hash
from .transforms import Recipe, preprocessing

PACKAGES = ("monai", "nibabel", "numpy", "pandas", "torch")
FACTS = ("case", "dataset", "split", "domain", "vendor", "centre", "pathology", "phase", "frame")
ARRAYS = ("images", "labels", "mask", "rows")
"""What a case file holds, one after another: a zip around them costs more than they do."""
SLICES, MASK = 12, 12 * 256 * 256
"""Of a case, about: slices of its stack, and bytes of its native mask."""

Progress = Callable[[Iterable, int], Iterable]
"""Wraps an iterable of known length; the command line shows a bar."""


@dataclass(frozen=True)
class Summary:
    """What became of the cases."""

    output: Path
    cases: int
    slices: int
    skipped: list[Skipped]
    splits: dict[str, int]


def preprocess(
    manifest: Manifest,
    source: Path,
    output: Path,
    recipe: Recipe | None = None,
    *,
    workers: int = 1,
    overwrite: bool = False,
    without_duplicates: bool = False,
    progress: Progress = lambda items, _: items,
) -> Summary:
    """Writes a slice store.

    Args:
        manifest: What the data set looks like.
        source: Where it is.
        output: Folder to write, as a whole or not at all.
        recipe: How slices are chosen and cropped.
        workers: Processes. Results do not depend on it.
        overwrite: Whether a folder that is there already may be replaced.
        without_duplicates: Whether one of each known pair of duplicate scans is left out.
        progress: Called with the cases and their number.

    Raises:
        DataError: If the output exists, another run writes it, there is too little room, or no case
            is usable.
    """
    recipe, output = recipe or Recipe(), Path(output)
    partial = output.parent / f".{output.name}.partial"
    with locked(partial, output):
        if output.exists() and not overwrite:
            raise DataError(f"{output} exists already; choose another folder or add --overwrite")
        found = find_cases(manifest, source)
        if without_duplicates:
            kept = drop_duplicates(found.records, manifest)
            found = Cases(kept.records, [*found.skipped, *kept.skipped])

        # what a run with another recipe, source or version left has another name
        cases = partial / _fingerprint(recipe, manifest, found.records)[:16]
        empty(partial, cases.name)
        transform = preprocessing(recipe)
        todo = [record for record in found.records if not _case_file(cases, record).is_file()]
        enough_space(partial, _room(recipe, len(todo), len(found.records)))
        jobs = (delayed(_process)(record, transform, cases) for record in todo)
        results = Parallel(n_jobs=workers, return_as="generator_unordered")(jobs)
        skipped = found.skipped + [s for s in progress(results, len(todo)) if s is not None]
        skipped.sort()

        lost = {case for case, _ in skipped}
        records = [record for record in found.records if record.case not in lost]
        if not records:
            empty(partial)
            reasons = Counter(reason for _, reason in skipped).most_common(3)
            told = "; ".join(f"{count} x {reason}" for reason, count in reasons)
            raise DataError(f"none of {len(skipped)} cases in {source} is usable: {told}")
        store = partial / "store"
        store.mkdir()
        synthetic = (Path(source) / SYNTHETIC).is_file()
        info = _assemble(cases, store, records, skipped, manifest, recipe, synthetic)
        put_in_place(store, output)
        empty(partial)
    with suppress(OSError):  # it was there before, or another run has begun
        partial.rmdir()
    return Summary(output, len(records), info["slices"], skipped, info["splits"])


def process_case(record: CaseRecord, transform: Compose) -> dict[str, np.ndarray]:
    """Slices of one case as arrays: ``images`` and ``labels`` (n, 1, H, W), ``mask`` (I, J, S), and
    ``rows`` (n,), one JSON object each with the case's columns of cases.csv.

    Raises:
        DataError: If the case cannot be used.
    """
    items = transform({"record": record})
    facts = {name: getattr(record, name) for name in FACTS}
    rows = []
    for item in items:
        spacing = dict(zip(SPACING, item["spacing"], strict=True))
        where = {"slice_index": item["slice_index"], **spacing}
        rows.append({**facts, **where, "rotation_deg": item["rotation_deg"], **item["attributes"]})
    return {
        "images": np.stack([item[Keys.IMAGE] for item in items]).astype(np.float32),
        "labels": np.stack([item[Keys.LABEL] for item in items]).astype(np.uint8),
        "mask": items[0]["mask"],
        "rows": np.array([json.dumps(row) for row in rows]),
    }


def _process(record: CaseRecord, transform: Compose, cases: Path) -> Skipped | None:
    """Writes one case, or says why not. Whatever a case does, the others go on."""
    try:
        arrays = process_case(record, transform)
    except Exception as error:  # a fault of one case must not stop a night's work
        cause: BaseException = error
        while cause.__cause__:  # MONAI wraps what a transform raises, per slice once more
            cause = cause.__cause__
        known = isinstance(cause, DataError)
        return Skipped(record.case, str(cause) if known else f"{type(cause).__name__}: {cause}")
    stream = io.BytesIO()
    for name in ARRAYS:
        np.save(stream, arrays[name])
    write(_case_file(cases, record), stream.getbuffer())
    return None


def _assemble(
    cases: Path,
    store: Path,
    records: list[CaseRecord],
    skipped: list[Skipped],
    manifest: Manifest,
    recipe: Recipe,
    synthetic: bool,
) -> dict[str, Any]:
    """Joins the finished cases into the files of a store; returns what its dataset.json holds."""
    parts = {}
    for record in records:
        stream = io.BytesIO(_case_file(cases, record).read_bytes())
        parts[record.case] = {name: np.load(stream) for name in ARRAYS}
    rows = pd.DataFrame([json.loads(row) for part in parts.values() for row in part["rows"]])
    images, labels = (
        np.concatenate([part[name] for part in parts.values()]) for name in ("images", "labels")
    )
    write(store / "cases.csv", rows.to_csv(index=False))
    for name, array in (("images", images), ("labels", labels)):
        with whole(store / f"{name}.npy") as beside:
            np.save(beside, array)
    # as np.savez_compressed does it, for any case id and in a third of the time
    with (
        whole(store / "masks.npz") as beside,
        ZipFile(beside, "w", ZIP_DEFLATED, compresslevel=1) as archive,
    ):
        for case, part in parts.items():
            with archive.open(f"{case}.npy", "w") as stream:
                np.lib.format.write_array(stream, part["mask"])
    reasons = pd.DataFrame(skipped, columns=["case", "reason"])
    write(store / "skipped.csv", reasons.to_csv(index=False))
    captions = [f"{row.case}  z {row.slice_index}" for row in rows.itertuples()]
    contact_sheet(images[:, 0], labels[:, 0], captions, store / "contact_sheet.png")
    splits = rows.drop_duplicates("case")["split"].value_counts()
    info = {
        "format": FORMAT,
        "dataset": manifest.name,
        "title": manifest.title,
        "citation": manifest.citation,
        "synthetic": synthetic,
        "recipe": asdict(recipe),
        "cases": len(parts),
        "slices": len(rows),
        "skipped": len(skipped),
        "splits": {split: int(splits.get(split, 0)) for split in SPLITS},
        "attributes": {name: attribute.unit for name, attribute in ATTRIBUTES.items()},
        "versions": versions(PACKAGES),
        "content_hash": content_hash(store),
    }
    write(store / "dataset.json", json.dumps(info, indent=2) + "\n")
    return info


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of this package, of Python and of the named packages."""
    own = {"cardiac-attrivae": __version__, "python": platform.python_version()}
    return own | {name: version(name) for name in packages}


def _case_file(cases: Path, record: CaseRecord) -> Path:
    # a case id may hold anything a folder name may, so the file is called by its digest
    return cases / f"case-{hashlib.sha256(record.case.encode()).hexdigest()[:16]}.npy"


def _fingerprint(recipe: Recipe, manifest: Manifest, records: list[CaseRecord]) -> str:
    """Changes with whatever would change a finished case."""
    known = [str(getattr(record, f.name)) for record in records for f in fields(CaseRecord)]
    parts = (__version__, str(recipe), manifest.name, *known)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _room(recipe: Recipe, to_do: int, cases: int) -> int:
    """Bytes that finished cases and the store made of them take, about: both are there at once."""
    slices = (SLICES if recipe.slice == "all" else 1) * recipe.size**2 * (4 + 1)
    return to_do * (slices + MASK) + cases * slices
