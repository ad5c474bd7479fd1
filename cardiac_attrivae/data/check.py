"""Compares a data set with its manifest.

Reads each mask and image once, at the frames that matter. Whatever makes a case unusable or wrong
is a problem; other facts that a reader should know, expected ones included, are notes.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..heart import count_true, is_one_heart, shows
from ..schema import HEART, CaseRecord, DataError, Structure
from .anatomy import PHASES_EXCHANGED, oddities
from .case_table import match_rows
from .cases import NO_MASK, Cases, find_cases, find_root, list_cases, read_table
from .check_report import Findings, Report
from .images import laid_on, read_image
from .manifest import Manifest, load_manifest
from .masks import Masks
from .nifti import Volume, are_finite, lost_contrast, read_mask, read_to_the_end
from .spacing import spelled_spacing

_SIZES = {
    "pixel spacing (mm)": (0.5, 2.5),
    "slice spacing (mm)": (3.0, 15.0),
    "voxels along i": (64, 1024),
    "voxels along j": (64, 1024),
    "slices": (3, 40),
}
"""Usual ranges of short-axis cine MRI. A case beyond them, or more than a factor of two away from
the median of its data set, is noted: its header may be wrong."""

_MOMENT = re.compile(r"[_-]((frame|phase|time)[_-]?\d+|ED|ES)$", re.IGNORECASE)
"""Ends of ids that name a frame of a patient and not the patient."""

ORTHONORMAL = 1e-4
"""Deviation of the direction cosines from orthonormal above which a header is noted."""


def check_dataset(
    manifest: Manifest | str,
    source: str | Path,
    progress: Callable[[list[CaseRecord]], Iterable[CaseRecord]] = iter,
    masks: Masks | str | Path | None = None,
) -> Report:
    """Reads every case of a data set at ED and ES and compares it with the manifest.

    Args:
        manifest: What to expect, or what `load_manifest` takes.
        source: Folder with the data, as for ``find_cases``.
        progress: Wraps the list of ED records while they are read, for example ``tqdm.tqdm``.
        masks: Masks that lie elsewhere, or their folder; None takes those that the manifest names.

    Raises:
        DataError: If there is no case at all, or no table where one is needed.
        ManifestError: If the table lacks the columns that the manifest names.

    Example:
        >>> from .manifest import load_manifest
        >>> from .phantom import write_phantoms
        >>> _ = write_phantoms("acdc", Path("hearts"), cases=2, cine=False)
        >>> report = check_dataset(load_manifest("acdc"), "hearts")
        >>> report.problems, sum(report.usable.values())
        ((), 2)
        >>> [finding.what for finding in report.notes][-1]
        'partial copy: 150 cases expected, 2 found'
    """
    manifest = load_manifest(manifest) if isinstance(manifest, str) else manifest
    root = find_root(manifest, source)
    if masks is not None:
        masks = (masks if isinstance(masks, Masks) else Masks(Path(masks))).named()
    cases = find_cases(manifest, source, masks=masks)
    has_es = "ES" in manifest.columns or "ES" in manifest.constants
    later = find_cases(manifest, source, "ES", masks) if has_es else Cases([], [])
    at_es = {record.case: record for record in later.records}
    findings = Findings()
    scans, both = [], set()
    for record in progress(cases.records):
        scan = _examine(record, findings)
        es = at_es.get(record.case)
        if es:
            later_scan = _examine(es, findings, whole=es.image != record.image)
            _note_phases(scan, later_scan, findings)
            if later_scan and later_scan.labelled and later_scan.sound:
                both.add(record.case)
        if scan:
            scans.append(scan)
    usable = [scan for scan in scans if scan.labelled and scan.sound]
    counts = {folder: len(list_cases(manifest, root, folder)) for folder in manifest.folders}
    _note_skipped(manifest, cases, later, scans, findings)
    _note_duplicates(manifest, scans, findings)
    _note_patients(cases.records, findings)
    _note_completeness(manifest, root, counts, cases.records, findings)
    return Report(
        manifest=manifest,
        root=root,
        found=counts,
        usable=Counter((scan.record.domain, scan.record.split) for scan in usable),
        at_es=sum(scan.record.case in both for scan in usable),
        geometry=_geometry(usable, findings),
        problems=findings.all(problem=True),
        notes=findings.all(problem=False),
    )


class _Scan(NamedTuple):
    """Facts of one case at ED that are kept after its voxels are released."""

    record: CaseRecord
    digest: str
    sizes: tuple[float, ...]  # as in _SIZES
    labelled: bool
    sound: bool
    lv_voxels: int


def _examine(record: CaseRecord, found: Findings, whole: bool = True) -> _Scan | None:
    """Examines one case at one phase; returns None where a file cannot be read."""
    at, faults, volumes = f"at {record.phase}", [], []
    for read, file in ((read_image, record.image), (read_mask, record.mask)):
        try:
            if whole and file.suffix == ".gz" and file.is_file():
                read_to_the_end(file)
            volumes.append(read(file, record.frame))
        except DataError as error:
            found.problem("damaged or unusable file", record.case, str(error))
    if len(volumes) < 2:
        return None
    image, stored = volumes
    try:
        mask = laid_on(image, stored, record)
    except DataError as error:
        found.problem("mask that does not fit its image", record.case, f"{error} {at}")
        return None
    if image.voxels.shape != mask.voxels.shape:
        shapes = f"{image.voxels.shape} and {mask.voxels.shape} {at}"
        faults.append(("image and mask differ in shape", shapes))
    if not are_finite(image.voxels):
        faults.append(("NaN or infinite values in the image", at))
    elif np.ptp(image.voxels) == 0:
        faults.append(("image with one value throughout", at))
    elif lost_contrast(image.voxels):
        faults.append(("values that float32 hardly tells apart", at))
    numbers = np.unique(mask.voxels).tolist()
    unknown = [number for number in numbers if number not in record.label_numbers]
    if unknown:
        accepted = ", ".join(map(str, sorted(record.label_numbers)))
        what = f"label numbers beside those of the manifest ({accepted})"
        faults.append((what, f"{', '.join(f'{n:g}' for n in unknown[:5])} {at}"))
    labels = np.zeros(mask.voxels.shape, np.uint8)
    for number, structure in record.label_numbers.items():
        labels[mask.voxels == number] = structure
    if not is_one_heart(shows(labels, Structure.LV)):
        faults.append(("the LV in two places of the mask", at))
    if labels.shape == image.voxels.shape:
        for oddity in oddities(image, stored, labels, matched=record.match == "affine"):
            detail = f"{oddity.detail} {at}".strip()
            if oddity.problem:
                faults.append((oddity.what, detail))
            else:
                found.note(oddity.what, record.case, detail)
    for what, detail in faults:
        found.problem(what, record.case, detail)

    shown = {record.label_numbers[number] for number in numbers if number not in unknown}
    missing = [structure.name for structure in HEART if structure not in shown]
    labelled = bool(unknown) or len(missing) < len(HEART)
    if labelled and missing:
        found.note("structure absent from the mask", record.case, f"{', '.join(missing)} {at}")
    if record.phase == "ED":
        _note_header(record.case, image, mask, found)
    across, down, through = image.spacing_mm
    with np.errstate(over="ignore"):  # reported above
        values = np.ascontiguousarray(image.voxels, dtype=np.float32)
    return _Scan(
        record,
        hashlib.sha256(values.data).hexdigest(),
        (max(across, down), through, *map(float, image.voxels.shape)),
        labelled,
        sound=not faults,
        lv_voxels=count_true(shows(labels, Structure.LV)),
    )


def _note_phases(ed: _Scan | None, es: _Scan | None, found: Findings) -> None:
    """Notes an LV that is larger at ES: in the 102 real patients ES has at most .895 of ED."""
    if ed and es and 0 < ed.lv_voxels < es.lv_voxels:
        detail = f"{es.lv_voxels} voxels at ES and {ed.lv_voxels} at ED"
        found.note(PHASES_EXCHANGED, ed.record.case, detail)


def _note_header(case: str, image: Volume, mask: Volume, found: Findings) -> None:
    across, down, _ = image.spacing_mm
    if not np.allclose(image.affine, mask.affine, atol=across / 10):
        found.note("image and mask lie apart by their affines; voxels are matched as stored", case)
    if not np.isclose(across, down, rtol=1e-3):
        found.note("pixels that are not square", case, spelled_spacing(image.spacing_mm))
    lengths = np.linalg.norm(image.affine[:3, :3], axis=0)
    if not np.allclose(lengths, image.spacing_mm, rtol=1e-2):
        found.note("affine contradicts pixdim, a placeholder; pixdim is used", case)
    directions = image.affine[:3, :3] / np.where(lengths > 0, lengths, 1.0)
    if np.abs(directions.T @ directions - np.eye(3)).max() > ORTHONORMAL:
        found.note("directions that are not orthonormal; ITK may refuse the file", case)


def _note_skipped(
    manifest: Manifest, cases: Cases, later: Cases, scans: list[_Scan], found: Findings
) -> None:
    unlabelled = [scan.record.case for scan in scans if not scan.labelled]
    for case, reason in cases.skipped:
        if reason.startswith(NO_MASK):
            unlabelled.append(case)
        else:
            found.problem("cannot be used", case, reason)
    for case, reason in later.skipped:
        if case not in dict(cases.skipped):
            found.note("cannot be used at ES", case, reason)
    within = len(unlabelled) <= manifest.unlabelled
    for case in sorted(unlabelled):
        what = f"no mask, or an empty one at ED; at most {manifest.unlabelled} expected"
        (found.note if within else found.problem)(what, case)


def _note_duplicates(manifest: Manifest, scans: list[_Scan], found: Findings) -> None:
    groups: dict[str, list[CaseRecord]] = {}
    for scan in scans:
        groups.setdefault(scan.digest, []).append(scan.record)
    for same in groups.values():
        cases, splits = {record.case for record in same}, {record.split for record in same}
        ids = " = ".join(sorted(cases))
        if len(cases) == 1:
            continue
        if any(cases <= set(group) for group in manifest.duplicates):
            what = "the same scan twice, as the manifest says; --drop-duplicates keeps one"
            found.note(what, ids)
        elif len(splits) == 1:
            found.note("the same scan twice: list it in 'duplicates' of the manifest", ids)
        else:
            what = "the same scan in two splits: list it in 'duplicates' of the manifest"
            found.problem(what, ids, " and ".join(record.split for record in same))


def _note_patients(records: list[CaseRecord], found: Findings) -> None:
    """Finds frames that are listed as cases (by nnU-Net and others): one patient, two splits."""
    patients: dict[str, list[str]] = {}
    for record in records:
        patients.setdefault(_MOMENT.sub("", record.case), []).append(record.case)
    for patient, cases in patients.items():
        if len(cases) > 1:
            what = "one patient as several cases: put {frame} or {phase} where their ids differ"
            found.problem(what, patient, ", ".join(cases))


def _geometry(usable: list[_Scan], found: Findings) -> tuple[tuple[str, float, float, float], ...]:
    """Summarises each size, and notes the cases that are far from the rest."""
    rows = []
    for i, (name, (low, high)) in enumerate(_SIZES.items() if usable else ()):
        lowest, median, highest = np.percentile([scan.sizes[i] for scan in usable], (0, 50, 100))
        rows.append((name, float(lowest), float(median), float(highest)))
        for scan in usable:
            size = scan.sizes[i]
            if not max(low, median / 2) <= round(size, 4) <= min(high, median * 2):
                detail = f"{size:.4g}, median {median:.4g}"
                found.note(f"unusual {name}", scan.record.case, detail)
    return tuple(rows)


def _note_completeness(
    manifest: Manifest,
    root: Path,
    counts: Mapping[str, int],
    records: list[CaseRecord],
    found: Findings,
) -> None:
    expected = sum(manifest.expected.get(folder, 0) for folder in counts)
    present = sum(counts[folder] for folder in counts if folder in manifest.expected)
    if expected > present:
        found.note(f"partial copy: {expected} cases expected, {present} found")
    for folder, count in manifest.expected.items():
        if counts[folder] > count:
            found.note(f"{folder} holds {counts[folder]} cases, {count} expected")
    for fact in ("vendor", "centre", "pathology"):
        column = manifest.columns.get(fact)
        if column and records and not any(getattr(record, fact) for record in records):
            found.note(f"{fact} is blank for every case (column {column!r})")
    if manifest.table:
        here = {case for folder in counts for case in list_cases(manifest, root, folder)}
        rows = read_table(manifest, root)
        for case in rows.keys() - match_rows(rows, here).values():
            found.note("rows of the table without files", case)
