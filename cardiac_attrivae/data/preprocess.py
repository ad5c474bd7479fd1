"""Case records become a slice store: workers, resume, contact sheet, skipped cases.

Each finished case is kept in ``.NAME.partial`` beside the output until all are done; the store is
assembled there and renamed as a whole, so that it is complete or absent, and a run that was broken
off goes on where it stopped.
"""

from __future__ import annotations

import csv
import hashlib
import hmac
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pandas as pd
from monai.transforms import Compose

from ..attributes import ATTRIBUTES
from ..report.contact_sheet import chosen, contact_sheet
from ..runtime.files import atomic_file, enough_space, replace_folder, write
from ..runtime.folders import empty, is_empty, locked
from ..runtime.messages import without_folder
from ..runtime.pool import Failure, Pool, cluster, processes, run_each
from ..runtime.provenance import __version__, seal, versions
from ..schema import SPLITS, SYNTHETIC, CaseRecord, DataError, Keys
from .cases import Cases, Skipped, drop_duplicates, find_cases
from .manifest import Manifest
from .pseudonyms import fixed_reason, pseudonymised
from .store import FILES, FORMAT, SPACING, content_hash
from .transforms import Recipe, preprocessing

PACKAGES = ("monai", "nibabel", "numpy", "pandas", "torch")
FACTS = ("case", "dataset", "split", "domain", "vendor", "centre", "pathology", "phase", "frame")
ARRAYS = ("images", "labels", "mask", "rows")
"""What a case file holds, one after another: a zip around them costs more than they do."""
SLICES, MASK = 12, 12 * 256 * 256
"""Of a case, about: slices of its stack, and bytes of its native mask."""


def columns() -> tuple[str, ...]:
    """Returns the columns of cases.csv: one for each attribute, those added at run time too."""
    return (*FACTS, "slice_index", *SPACING, "rotation_deg", *ATTRIBUTES)


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
    dask: str | None = None,
    overwrite: bool = False,
    without_duplicates: bool = False,
    key: bytes | None = None,
    progress: Progress = lambda items, _: items,
) -> Summary:
    """Writes a slice store.

    Args:
        manifest: What the data set looks like.
        source: Where it is.
        output: Folder to write, as a whole or not at all.
        recipe: How slices are chosen and cropped.
        workers: Processes on this machine. Results do not depend on it.
        dask: Instead, the cluster whose scheduler has this address (``tcp://HOST:PORT``), or wrote
            it into this file. Its workers must see source and output under the same path.
        overwrite: Whether a store that is there already may be replaced.
        without_duplicates: Whether one of each known pair of duplicate scans is left out.
        key: Replaces case ids by pseudonyms, see `pseudonym`; None keeps the ids of the source.
        progress: Called with the cases and their number.

    Raises:
        DataError: If the output exists, another run writes it, there is too little room, the
            cluster cannot do the work, or no case is usable.
        ValueError: If there are workers and a cluster.
    """
    if dask is not None and workers != 1:
        raise ValueError(f"got {workers} workers and the cluster {dask}; expected one of the two")
    recipe, output = recipe or Recipe(), Path(output)
    partial = output.parent / f".{output.name}.partial"
    with locked(partial, output):
        if output.exists() and not overwrite:
            raise DataError(f"{output} exists already; choose another folder or add --overwrite")
        if output.exists() and not (
            (output / "dataset.json").is_file() or output.is_dir() and is_empty(output)
        ):
            raise DataError(f"{output} is no store, so it is not replaced; choose another folder")
        found = find_cases(manifest, source)
        if without_duplicates:
            kept = drop_duplicates(found.records, manifest)
            found = Cases(kept.records, [*found.skipped, *kept.skipped])
        if key is not None:
            found = pseudonymised(found, manifest, key)

        # what a run with another recipe, source, key or version left has another name
        cases = partial / _fingerprint(recipe, manifest, found.records, key or b"")[:16]
        empty(partial, cases.name)
        done = {file.name for file in cases.glob("*")}
        todo = [record for record in found.records if _case_file(cases, record).name not in done]
        enough_space(partial, _room(recipe, len(todo), len(found.records)))
        cases.mkdir(exist_ok=True)
        folders = Path(source).absolute(), cases.absolute()
        skipped = list(found.skipped)
        with cluster(dask, folders) if dask is not None else processes(workers) as pool:
            results = _results(pool, todo, preprocessing(recipe), folders[1])
            skipped += filter(None, progress(results, len(todo)))
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
        about = {"synthetic": synthetic, "pseudonymised": key is not None}
        info = _assemble(cases, store, records, skipped, manifest, recipe, about)
        replace_folder(store, output)
        empty(partial)
    with suppress(OSError):  # it was there before, or another run has begun
        partial.rmdir()
    return Summary(output, len(records), info["slices"], skipped, info["splits"])


def _results(
    pool: Pool, records: list[CaseRecord], transform: Compose, cases: Path
) -> Iterator[Skipped | None]:
    """Has each case written into a folder; yields None, or why it is left out."""
    # a worker may have another working folder
    todo = (replace(r, image=r.image.absolute(), mask=r.mask.absolute()) for r in records)
    work = partial(_process, transform=transform, cases=cases)
    for record, result in run_each(pool, work, todo):
        file = _case_file(cases, record)
        if result is Failure.KILLED:
            yield Skipped(record.case, f"{result.value}; it may need more memory than there is")
        # to list a folder makes a network drive ask again, which may still know the file as absent
        elif result is None and not file.is_file() and file.name not in os.listdir(cases):
            raise DataError(
                f"a worker has written {record.case}, and {cases} here does not hold it; it "
                "must be on a file system that all workers share"
            )
        else:
            yield result


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
    file = _case_file(cases, record)
    if file.is_file():  # its worker died after the work was done
        return None
    try:
        arrays = process_case(record, transform)
    except Exception as error:  # a fault of one case must not stop a night's work
        cause: BaseException = error
        while cause.__cause__:  # MONAI wraps what a transform raises, per slice once more
            cause = cause.__cause__
        return Skipped(record.case, _reason(record, cause))
    stream = io.BytesIO()
    for name in ARRAYS:
        np.save(stream, arrays[name])
    write(file, stream.getbuffer())
    return None


def _reason(record: CaseRecord, error: BaseException) -> str:
    """Says why a case is skipped, without folders and, for a pseudonym, in fixed words."""
    unexpected = not isinstance(error, DataError)
    if record.source_case:
        return f"an unexpected {type(error).__name__}" if unexpected else fixed_reason(str(error))
    text = without_folder(error, record.image, record.mask)
    return f"{type(error).__name__}: {text}" if unexpected else text


def _assemble(
    cases: Path,
    store: Path,
    records: list[CaseRecord],
    skipped: list[Skipped],
    manifest: Manifest,
    recipe: Recipe,
    about: dict[str, Any],
) -> dict[str, Any]:
    """Joins the finished cases into the files of a store; returns what its dataset.json holds.

    One case is in memory at a time, and a caption of each slice.
    """
    captions, splits = [], Counter(record.split for record in records)
    with ExitStack() as files:
        beside = {name: files.enter_context(atomic_file(store / name)) for name in FILES}
        add_images = files.enter_context(_appended(beside["images.npy"]))
        add_labels = files.enter_context(_appended(beside["labels.npy"]))
        # as np.savez_compressed does it, for any case id and in a third of the time
        archive = ZipFile(beside["masks.npz"], "w", ZIP_DEFLATED, compresslevel=1)
        files.enter_context(archive)
        table = files.enter_context(open(beside["cases.csv"], "w", encoding="utf-8", newline=""))
        writer = csv.DictWriter(table, columns(), lineterminator="\n")
        writer.writeheader()
        for record in records:
            stream = io.BytesIO(_case_file(cases, record).read_bytes())
            part = {name: np.load(stream) for name in ARRAYS}
            add_images(part["images"])
            add_labels(part["labels"])
            with archive.open(f"{record.case}.npy", "w") as mask:
                np.lib.format.write_array(mask, part["mask"])
            rows = [json.loads(row) for row in part["rows"]]
            writer.writerows(rows)
            captions += [f"{row['case']}  z {row['slice_index']}" for row in rows]
    reasons = pd.DataFrame(skipped, columns=["case", "reason"])
    write(store / "skipped.csv", reasons.to_csv(index=False))
    shown = chosen(len(captions))
    images, labels = (  # mapped anew for each slice: what was read of a map stays in memory
        np.stack([np.load(store / f"{name}.npy", mmap_mode="r")[row, 0].copy() for row in shown])
        for name in ("images", "labels")
    )
    texts, sheet = [captions[row] for row in shown], store / "contact_sheet.png"
    contact_sheet(images, labels, texts, sheet, of=len(captions))
    info = {
        "format": FORMAT,
        "dataset": manifest.name,
        "title": manifest.title,
        "citation": manifest.citation,
        **about,
        "recipe": asdict(recipe),
        "cases": len(records),
        "slices": len(captions),
        "skipped": len(skipped),
        "splits": {split: splits[split] for split in SPLITS},
        "attributes": {name: attribute.unit for name, attribute in ATTRIBUTES.items()},
        "versions": versions(PACKAGES),
        "content_hash": content_hash(store),
    }
    info["sha256"] = seal(info)
    write(store / "dataset.json", json.dumps(info, indent=2) + "\n")
    return info


@contextmanager
def _appended(beside: Path) -> Iterator[Callable[[np.ndarray], None]]:
    """Writes a .npy file, byte by byte as np.save does, of arrays that are joined along axis 0.

    The header has room for any length, so that it is written again when that is known.
    """
    length, header = 0, {}
    with open(beside, "wb") as file:

        def add(array: np.ndarray) -> None:
            nonlocal length, header
            if not length:
                header = np.lib.format.header_data_from_array_1_0(array)
                np.lib.format.write_array_header_1_0(file, header)
            length += len(array)
            file.write(np.ascontiguousarray(array).data)

        yield add
        file.seek(0)
        header["shape"] = (length, *header["shape"][1:])
        np.lib.format.write_array_header_1_0(file, header)


def _case_file(cases: Path, record: CaseRecord) -> Path:
    # a case id may hold anything a folder name may, so the file is called by its digest
    return cases / f"case-{hashlib.sha256(record.case.encode()).hexdigest()[:16]}.npy"


def _fingerprint(recipe: Recipe, manifest: Manifest, records: list[CaseRecord], key: bytes) -> str:
    """Changes with whatever would change a finished case. Keyed, so that nobody can try out with it
    whose pseudonym is whose."""
    known = [str(getattr(record, f.name)) for record in records for f in fields(CaseRecord)]
    parts = (__version__, str(recipe), manifest.name, *known)
    return hmac.digest(key, "\n".join(parts).encode(), "sha256").hex()


def _room(recipe: Recipe, to_do: int, cases: int) -> int:
    """Bytes that finished cases and the store made of them take, about: both are there at once."""
    slices = (SLICES if recipe.slice == "all" else 1) * recipe.size**2 * (4 + 1)
    return to_do * (slices + MASK) + cases * slices
