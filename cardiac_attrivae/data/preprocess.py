"""Turns the cases of a data set into a slice store: workers, skipped cases, interruptions.

Each finished case is kept in ``.NAME.partial`` beside the output until all are done. The store is
assembled there and renamed in one step, so that it is complete or absent, and an interrupted run
continues where it stopped.
"""

from __future__ import annotations

import hmac
import json
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from reprlib import repr as short
from typing import Any, NamedTuple

import numpy as np
from monai.transforms import Compose

from ..runtime.files import enough_space, real_place, replace_folder
from ..runtime.folders import empty, locked
from ..runtime.messages import counted, without_folder
from ..runtime.outputs import check_apart, check_own
from ..runtime.pool import Failure, Pool, cluster, processes, run_each
from ..runtime.progress import Progress, silent
from ..runtime.provenance import __version__
from ..schema import SYNTHETIC, CaseRecord, DataError, Keys
from .cases import Cases, Skipped, across_splits, drop_duplicates, find_cases, find_root
from .manifest import Manifest, load_manifest
from .masks import Masks, predicted_masks
from .pseudonyms import fixed_reason, pseudonymised
from .recipe import WHOLE, Recipe
from .store_files import SPACING
from .store_place import PARTIAL, check_replaceable, unfinished
from .store_writer import FACTS, assemble, case_file, is_finished, save_case
from .transforms import innermost, preprocessing

SLICES, MASK = 12, 12 * 256 * 256
"""Estimates for a case: slices of its stack, and bytes of its native mask."""

ACROSS = (
    "the same scan is in another split, so that a model would be tested on what it was trained on; "
    "add --drop-duplicates (without_duplicates=True)"
)


@dataclass(frozen=True)
class Summary:
    """Result of preprocessing."""

    output: Path  # folder of the store
    cases: int  # number of cases in the store
    slices: int  # number of slices in the store
    skipped: list[Skipped]  # cases that are left out, with the reasons
    splits: dict[str, int]  # split -> number of cases
    kept: int  # cases that were taken from an earlier, interrupted call
    remarks: dict[str, int]  # what is probably wrong -> number of cases
    crop: dict[str, float]  # see `crop_facts`
    mask_sources: dict[str, int]  # who made the masks -> number of cases
    mirrored: int = 0  # cases that were turned round because they are stored as mirror images

    @property
    def observations(self) -> list[str]:
        """Sentences that a user should read before the store is used."""
        lines, crop = [], self.crop
        if self.kept:
            lines.append(
                f"{counted(self.kept, 'case')} taken from an earlier call that was interrupted."
            )
        if self.mirrored:
            lines.append(
                f"{counted(self.mirrored, 'case')} turned round, as stored as a mirror image."
            )
        if told := predicted_masks(self.mask_sources):
            lines.append(f"{told[0].upper()}{told[1:]}.")
        for what, count in self.remarks.items():
            lines.append(f"Warning: {count} of {self.cases} cases: {what}; run check for details.")
        if crop["slices_cut"]:
            lines.append(
                f"In {crop['slices_cut']} of {self.slices} slices up to "
                f"{100 * crop['largest_share_cut']:.3g}% of the heart is outside the crop. --field "
                f"{crop['needed_mm']} would hold all of it, in as many but larger pixels."
            )
        return lines


def preprocess(
    manifest: Manifest | str,
    source: str | Path,
    output: str | Path,
    recipe: Recipe | None = None,
    *,
    workers: int = 1,
    dask: str | None = None,
    overwrite: bool = False,
    without_duplicates: bool = False,
    key: bytes | None = None,
    masks: Masks | str | Path | None = None,
    mirror: bool | Collection[str] = False,
    progress: Progress = silent,
) -> Summary:
    """Writes a slice store.

    Args:
        manifest: Description of the data set, or what `load_manifest` takes.
        source: Folder of the data set.
        output: Folder to write, atomically.
        recipe: How slices are chosen and cropped.
        workers: Processes on this machine. Results do not depend on their number.
        dask: Runs on a Dask cluster instead: the address of its scheduler (``tcp://HOST:PORT``), or
            the scheduler's file. Its workers must see source and output under the same path.
        overwrite: Whether an existing store may be replaced.
        without_duplicates: Whether one of each known pair of duplicate scans is left out.
        key: Replaces case ids by pseudonyms, see `pseudonym`; None keeps the ids of the source.
        masks: Masks that lie elsewhere, or their folder; None takes those that the manifest names.
        mirror: Whether the cases are stored as mirror images, and are turned round; or which are.
        progress: Called with the cases and their number.

    Raises:
        DataError: If the output exists, another run writes it, there is too little space, the
            cluster cannot do the work, or no case is usable.
        ValueError: If both workers and a cluster are given.

    Example:
        >>> from .manifest import load_manifest
        >>> from .phantom import write_phantoms
        >>> _ = write_phantoms("acdc", Path("hearts"), cases=2, cine=False)
        >>> summary = preprocess(load_manifest("acdc"), Path("hearts"), Path("store"))
        >>> summary.cases, summary.slices, summary.skipped
        (2, 2, [])
    """
    if dask is not None and workers != 1:
        raise ValueError(f"got {workers} workers and the cluster {dask}; expected one of the two")
    manifest = load_manifest(manifest) if isinstance(manifest, str) else manifest
    recipe, source, output = recipe or Recipe(), Path(source), Path(output)
    if masks is not None:
        masks = masks if isinstance(masks, Masks) else Masks(Path(masks))
        check_apart(masks.folder, output)
        masks = masks.named(private=key is not None)
    check_apart(source, output)
    partial = unfinished(place := real_place(output))
    with locked(partial, output):
        check_own(partial, PARTIAL, "an interrupted preprocess")
        check_replaceable(output, overwrite)
        found = _found(manifest, source, recipe, without_duplicates, key, masks, mirror)
        # the name depends on recipe, source, key and version: files of another run are not reused
        cases = partial / _fingerprint(recipe, manifest, found.records, key or b"")[:16]
        empty(partial, cases.name)
        jobs = [Job(record, case_file(cases.absolute(), record)) for record in found.records]
        done = {file.name for file in cases.glob("case-*") if is_finished(file)}
        todo = [job for job in jobs if job.file.name not in done]
        enough_space(partial, _space(recipe, len(todo), len(jobs)))
        cases.mkdir(exist_ok=True)
        folders = source.absolute(), cases.absolute()
        with cluster(dask, folders) if dask is not None else processes(workers) as pool:
            results = _results(pool, todo, preprocessing(recipe))
            skipped = sorted([*found.skipped, *filter(None, progress(results, len(todo)))])

        lost = {case for case, _ in skipped}
        finished = [job.file for job in jobs if job.record.case not in lost]
        if not finished:
            empty(partial)
            common = Counter(reason for _, reason in skipped).most_common(3)
            reasons = "; ".join(f"{count} x {reason}" for reason, count in common)
            raise DataError(f"none of {len(skipped)} cases in {source} is usable: {reasons}")
        store = partial / "store"
        store.mkdir()
        about = {
            "dataset": manifest.name,
            "title": manifest.title,
            "citation": manifest.citation,
            "synthetic": (find_root(manifest, source) / SYNTHETIC).is_file(),
            "pseudonymised": key is not None,
            "recipe": asdict(recipe),
        }
        turned = {r.case for r in found.records if r.mirror and r.case not in lost}
        if turned:
            about["mirrored"] = sorted(turned)
        info = assemble(store, finished, skipped, about, recipe.phases)
        check_replaceable(output, overwrite)  # somebody may have begun to work in it meanwhile
        replace_folder(store, place)
        empty(partial)
    with suppress(OSError):  # it was there before, or another run has begun
        partial.rmdir()
    kept = len(finished) - sum(job.record.case not in lost for job in todo)
    remarks, twins = dict(info["remarks"]), across_splits(found.records, manifest)
    remarks |= {ACROSS: twins} if twins else {}
    return Summary(
        output, info["cases"], info["slices"], skipped, info["splits"], kept, remarks,
        info["crop"], info["mask_sources"], len(turned),
    )  # fmt: skip


def _found(
    manifest: Manifest,
    source: Path,
    recipe: Recipe,
    without_duplicates: bool,
    key: bytes | None,
    masks: Masks | None,
    mirror: bool | Collection[str],
) -> Cases:
    found = find_cases(manifest, source, masks=masks)
    if without_duplicates:
        kept = drop_duplicates(found.records, manifest)
        found = Cases(kept.records, [*found.skipped, *kept.skipped])
    if recipe.phases[1:] or manifest.gives("ES"):
        found = _with_later(found, manifest, source, recipe, masks)
    if mirror:
        found = _mirrored(found, mirror)
    return found if key is None else pseudonymised(found, manifest, key)


def _mirrored(found: Cases, mirror: bool | Collection[str]) -> Cases:
    """Marks cases that are stored as mirror images."""
    known = {record.case for record in found.records} | {case for case, _ in found.skipped}
    wanted = known if isinstance(mirror, bool) else {*mirror}
    if unknown := sorted(wanted - known):
        raise DataError(
            f"no case {short(unknown[0])} to turn round; expected ids such as {min(known)!r}"
        )
    records = []
    for record in found.records:
        here = record.case in wanted
        later = record.later and replace(record.later, mirror=here)
        records.append(replace(record, mirror=here, later=later))
    return Cases(records, found.skipped)


def _with_later(
    found: Cases, manifest: Manifest, source: Path, recipe: Recipe, masks: Masks | None
) -> Cases:
    """Joins each case with itself at ES; where it has no mask there, it is left out, unless all
    slices, or ED alone, are kept with what there is. Whole pictures become cases of their own."""
    try:
        later = find_cases(manifest, source, "ES", masks)
    except DataError:
        if recipe.phases[1:]:
            raise
        return found
    at_es = {record.case: record for record in later.records}
    if recipe.slice == WHOLE:
        own = (at_es[r.case] for r in found.records if r.case in at_es)
        return Cases(sorted([*found.records, *own], key=lambda r: (r.case, r.phase)), found.skipped)
    records = [replace(record, later=at_es.get(record.case)) for record in found.records]
    if recipe.slice == "all" or not recipe.phases[1:]:
        return Cases(records, found.skipped)
    why = dict(later.skipped)
    lost = [Skipped(r.case, f"at ES: {why[r.case]}") for r in records if not r.later]
    return Cases([r for r in records if r.later], sorted([*found.skipped, *lost]))


class Job(NamedTuple):
    """A case, and the file in which its result is saved."""

    record: CaseRecord
    file: Path


def _results(pool: Pool, jobs: Iterable[Job], transform: Compose) -> Iterator[Skipped | None]:
    """Runs every job; yields None for a case that was written, or why it was skipped."""
    todo = (Job(_absolute(record), file) for record, file in jobs)
    for job, result in run_each(pool, partial(_process, transform=transform), todo):
        case, file = job.record.case, job.file
        if isinstance(result, Failure):
            yield Skipped(case, f"{result.value}; it may need more memory than there is")
        # a network drive may remember that the file was absent; listing the folder asks it again
        elif result is None and not file.is_file() and file.name not in os.listdir(file.parent):
            raise DataError(
                f"a worker has written {case}, but it is not in {file.parent}; the folder "
                "must be on a file system that all workers share"
            )
        else:
            yield result


def _absolute(record: CaseRecord) -> CaseRecord:
    """Writes whole paths: a worker may have another working folder."""
    later = record.later and _absolute(record.later)
    return replace(record, image=record.image.absolute(), mask=record.mask.absolute(), later=later)


def process_case(record: CaseRecord, transform: Compose) -> dict[str, Any]:
    """Processes one case.

    Args:
        record: Case.
        transform: What `preprocessing` returns.

    Returns:
        ``images`` and ``labels`` (n, C, H, W), ``mask`` (I, J, S), ``later_mask``, that at ES, or
        nothing (0, 0, 0), ``crop`` (n, 2), the share of the heart outside the crop and the field
        that would hold it; ``rows``, a JSON object each with the case's columns of cases.csv, and
        ``remarks``, what is probably wrong with it.

    Raises:
        RuntimeError: If the case cannot be used; its innermost ``__cause__`` is the DataError.

    Example:
        >>> from .manifest import load_manifest
        >>> from .phantom import write_phantoms
        >>> _ = write_phantoms("acdc", Path("heart"), cases=1, cine=False)
        >>> (record,) = find_cases(load_manifest("acdc"), "heart").records
        >>> arrays = process_case(record, preprocessing(Recipe(slice="mid")))
        >>> arrays["images"].shape, json.loads(arrays["rows"][0])["case"]
        ((1, 1, 128, 128), 'patient001')
    """
    items = transform({"record": record})
    facts = {name: getattr(record, name) for name in FACTS}
    later = items[0].get("later")
    if later is not None:
        facts["phase"] = f"{record.phase},{later['record'].phase}"
    rows = []
    for item in items:
        spacing = dict(zip(SPACING, item["spacing"], strict=True))
        where = {"slice_index": item["slice_index"], **spacing}
        how = {"rotation_deg": item["rotation_deg"], "mask_source": record.mask_source}
        rows.append({**facts, **where, **how, **item["attributes"]})
    return {
        "images": np.stack([item[Keys.IMAGE] for item in items]).astype(np.float32),
        "labels": np.stack([item[Keys.LABEL] for item in items]).astype(np.uint8),
        "mask": items[0]["mask"],
        "later_mask": np.empty((0, 0, 0), np.uint8) if later is None else later["mask"],
        "rows": [json.dumps(row) for row in rows],
        "remarks": items[0]["remarks"],
        "crop": np.array([(item["cut"], item["field_mm"]) for item in items]),
    }


def _process(job: Job, transform: Compose) -> Skipped | None:
    """Writes one case, or says why not. Whatever a case does, the others continue."""
    if is_finished(job.file):  # its worker died after the work was done
        return None
    try:
        arrays = process_case(job.record, transform)
    except Exception as error:  # a fault of one case must not stop a night's work
        return Skipped(job.record.case, _reason(job.record, innermost(error)))
    save_case(job.file, arrays)
    return None


def _reason(record: CaseRecord, error: BaseException) -> str:
    """Says why a case is skipped, without folders and, for a pseudonym, in fixed words."""
    unexpected = not isinstance(error, DataError)
    if record.source_case:
        return f"an unexpected {type(error).__name__}" if unexpected else fixed_reason(str(error))
    text = without_folder(error, *record.files)
    return f"{type(error).__name__}: {text}" if unexpected else text


def _fingerprint(recipe: Recipe, manifest: Manifest, records: list[CaseRecord], key: bytes) -> str:
    """Changes with everything that affects a finished case, except the content of its files.

    It is an HMAC, so that it cannot be used to find out which patient has which pseudonym.
    """
    values = (getattr(record, f.name) for record in records for f in fields(CaseRecord))
    known = [str(value.absolute() if isinstance(value, Path) else value) for value in values]
    parts = (__version__, str(recipe), manifest.name, *known)
    text = "\n".join(parts).encode(errors="surrogateescape")  # paths may be in Latin-1
    return hmac.digest(key, text, "sha256").hex()


def _space(recipe: Recipe, to_do: int, cases: int) -> int:
    """Estimates the bytes of finished cases and of the store, which are there at once."""
    slices = SLICES if recipe.slice in ("all", WHOLE) else 1
    pixels = slices * recipe.channels * recipe.size**2 * (4 + 1)
    return to_do * (pixels + MASK * len(recipe.phases)) + cases * pixels
