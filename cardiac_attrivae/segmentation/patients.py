"""Segments patients: masks in the geometry of their scans, volumes, ejection fraction, pictures."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import pandas as pd

from ..data.anatomy import SURE, base_first, handedness
from ..data.manifest import load_manifest
from ..data.masks import NOTE, label_numbers, scan_name
from ..data.nifti import quiet_nibabel
from ..data.scan import Scan, find_scans, read_scan
from ..heart import mass_g, pixel_counts, ventricle, volume_ml
from ..report.patient_sheet import patient_sheet
from ..runtime.file_names import file_names
from ..runtime.files import write
from ..runtime.messages import counted, without_folder
from ..runtime.outputs import check_apart, claimed
from ..runtime.progress import Progress, silent
from ..runtime.spreadsheet import csv_text
from ..schema import HEART, STRUCTURES, DataError, Structure
from .jobs import Job, jobs_of, scan_jobs
from .plausible import phase_faults
from .scans import ScanSegmenter, load_segmenter

if TYPE_CHECKING:
    from nibabel import Nifti1Header, Nifti1Image

USUAL_EF = (5.0, 85.0)
"""Ejection fractions in percent beyond which the masks, or ED and ES, are probably wrong."""

MIRROR_IMAGE = (
    "the pictures show a mirror image of a heart: encode and preprocess turn it round with --mirror"
)
ONE_FRAME = (
    "a single frame came: it is not known whether it is ED, and there is no ejection fraction"
)
NO_PHASE = "there is no {}, so there is no ejection fraction"


@dataclass
class Patient:
    """What was found in the scans of a patient."""

    name: str  # id of the patient
    rows: list[dict[str, Any]] = field(default_factory=list)  # a row of volumes.csv for each frame
    # phase, or name of the frame -> signal and labels of the frame for the picture
    shown: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    spacing_mm: tuple[float, ...] = (1.0, 1.0, 1.0)  # of the scan
    # why the numbers should not be trusted, in words
    warnings: list[str] = field(default_factory=list)


class Segmented(NamedTuple):
    """What `segment` found.

    Attributes:
        patients: What patients.csv holds: ED, ES, volumes, ejection fractions, mass, warnings.
        skipped: The patient of each scan that was left out, with the reason.
    """

    patients: pd.DataFrame
    skipped: list[tuple[str, str]]

    def __repr__(self) -> str:
        left_out = counted(len(self.skipped), "scan")
        return f"<Segmented {counted(len(self.patients), 'patient')}, {left_out} left out>"


def segment(
    sources: str | Path | Sequence[str | Path],
    output: str | Path,
    model: str | Path | Sequence[str | Path] = "acdc",
    *,
    dataset: str | Path | None = None,
    labels: Mapping[str, int] | None = None,
    progress: Progress = silent,
) -> Segmented:
    """Outlines hearts in scans that have no masks, as the command ``segment`` does.

    Args:
        sources: Files and folders, see `find_scans`; of a data set its folder.
        output: Folder to write: masks/ in the geometry of the scans, volumes.csv of every frame,
            patients.csv, skipped.csv, pictures/.
        model: What `load_segmenter` takes: ``acdc`` is shipped; several vote.
        dataset: Data set whose ED and ES are taken: a name, or its YAML; None finds them in cines.
        labels: Structure (LV, MYO, RV) -> its number in the masks; None numbers them so, from 1.
        progress: Wraps the scans and their number.

    Raises:
        DataError: If no scan can be used.
        ValueError: If an argument is wrong.

    Example:
        >>> segment("scans", "segmented").patients["LVEF_percent"]  # doctest: +SKIP
    """
    given = [sources] if isinstance(sources, (str, Path)) else list(sources)
    for source in given:
        check_apart(Path(source), Path(output))
    numbers = {s: number for number, s in label_numbers(labels).items()} if labels else None
    lost: list[tuple[str, str]] = []
    if dataset is None:
        jobs = scan_jobs(find_scans(given))
    elif len(given) > 1:
        raise ValueError(f"{len(given)} sources for one data set; expected its folder")
    else:
        jobs, lost = jobs_of(load_manifest(dataset), Path(given[0]))
    return segment_patients(jobs, output, load_segmenter(model), numbers, progress, lost)


def segment_patients(
    jobs: Sequence[Job],
    output: str | Path,
    segmenter: ScanSegmenter,
    numbers: Mapping[Structure, int] | None = None,
    progress: Progress = silent,
    lost: Sequence[tuple[str, str]] = (),
) -> Segmented:
    """Segments scans, and writes masks/, pictures/, volumes.csv, patients.csv, segmentation.json.

    Args:
        jobs: Scans; those of a patient lie together.
        output: Folder to write.
        segmenter: What outlines hearts.
        numbers: Structure -> its number in the masks; None writes canonical labels.
        progress: Wraps the jobs.
        lost: Patients that have no job, with the reason.
    """
    patients: dict[str, Patient] = {}
    skipped, output = [*lost], Path(output)
    with claimed(output, "segment") as claim:
        tables = ["volumes.csv", "patients.csv", NOTE, "skipped.csv"]
        written, masks, phases = [*tables], list[str](), dict[str, dict[str, int]]()
        names = file_names(job.patient for job in jobs)
        places = _places(jobs, names)
        claim.plan([*places.values(), *map(_picture, names.values())], last=tables)
        for job in progress(jobs, len(jobs)):
            try:
                scan = read_scan(job.path)
                count = scan.frames.shape[3]
                if job.phases and 1 < count <= (last := max(job.phases)):
                    raise DataError(
                        f"{job.path.name} has {count} frames and no frame {last} (counted from 0)"
                    )
                patient, place = patients.get(job.patient, Patient(job.patient)), places[job[:2]]
                found = _segment(job, scan, patient, output / place, segmenter, numbers or {})
            except DataError as error:
                skipped.append((job.patient, without_folder(error, job.path)))
                continue
            patients[job.patient], phases[place] = patient, found
            masks.append(place)
        if not patients:
            raise DataError(f"none of {len(jobs)} scans can be used: {skipped[0][1]}")
        table = []
        for patient in patients.values():
            table.append(measured(patient))
            written.append(_picture(names[patient.name]))
            _draw(patient, table[-1], output / written[-1])
        frames = pd.DataFrame([row for patient in patients.values() for row in patient.rows])
        people = pd.DataFrame(table)
        for name, content in (("volumes", frames), ("patients", people)):
            write(output / f"{name}.csv", csv_text(content, "%.6g"))
        missed = pd.DataFrame(skipped, columns=["patient", "reason"])
        write(output / "skipped.csv", csv_text(missed))
        note = {
            "segmenter": segmenter.name, "labels": _numbers(numbers or {}), "phases": phases
        }  # fmt: skip
        if moved := {patient: name for patient, name in names.items() if name != patient}:
            note["folders"] = moved
        write(output / NOTE, json.dumps(note, indent=2) + "\n")
        claim.keep([*written, *masks], sealed=masks)
    return Segmented(people, skipped)


def _places(jobs: Sequence[Job], names: Mapping[str, str]) -> dict[tuple[str, Path], str]:
    """Names the mask of each scan: in a folder of the patient where scans have the same name, and
    below it in one called as that of the scan, where those of one patient have."""
    shared, own = Counter[str](), Counter[tuple[str, str]]()  # some file systems know no case
    for patient, path, _ in jobs:
        shared[scan_name(path).casefold()] += 1
        own[patient, scan_name(path).casefold()] += 1
    places = {}
    for patient, path, _ in jobs:
        name = scan_name(path)
        folders = [names[patient]] if shared[name.casefold()] > 1 else []
        folders += [path.parent.name] if own[patient, name.casefold()] > 1 else []
        places[patient, path] = "/".join(["masks", *folders, f"{name}.nii.gz"])
    count = Counter(place.casefold() for place in places.values())
    for (patient, path), place in places.items():
        if count[place.casefold()] > 1:
            raise DataError(
                f"{path.name} of {patient} and another scan would have one mask, {place}; rename "
                "one of them"
            )
    return places


def _picture(name: str) -> str:
    return f"pictures/{name}.png"


def _numbers(numbers: Mapping[Structure, int]) -> dict[str, int]:
    return {structure.name: numbers.get(structure, int(structure)) for structure in HEART}


def _segment(
    job: Job,
    scan: Scan,
    patient: Patient,
    place: Path,
    segmenter: ScanSegmenter,
    numbers: Mapping[Structure, int],
) -> dict[str, int]:
    """Segments one scan, writes its mask, and notes what was found with the patient. Returns phase
    -> its frame."""
    count = scan.frames.shape[3]
    known = (
        dict(job.phases) if count > 1 else dict.fromkeys([0], next(iter(job.phases.values()), ""))
    )
    frames = sorted(known) if job.phases else list(range(count))
    cine = segmenter.segment_cine(scan.frames[..., frames], scan.spacing_mm)
    if not job.phases and count > 1:
        known = {cine.es: "ES", cine.ed: "ED"}  # one frame, if nothing moves: ED
    if not any(one.labels.any() for one in cine.frames):
        raise DataError(f"no heart was found in {job.path.name}")
    labels = np.zeros(scan.frames.shape, np.uint8)
    first = len(patient.rows)
    for frame, one in zip(frames, cine.frames, strict=True):
        labels[..., frame] = one.labels
        counts = pixel_counts(one.labels)
        volumes = [volume_ml(counts, scan.spacing_mm, structure) for structure in HEART]
        patient.rows.append(
            {"patient": patient.name, "scan": scan.name, "frame": frame,
             "phase": known.get(frame, ""),
             **{f"{name}_mL": v for name, v in zip(STRUCTURES, volumes, strict=True)},
             **{f"Dice_{s.name}": round(d, 3) for s, d in one.predicted_dice.items()},
             "views": one.views,
             "warnings": "; ".join(one.warnings)}
        )  # fmt: skip
    for row, one in zip(patient.rows[first:], cine.frames, strict=True):
        if row["phase"] or count == 1:
            image = scan.frames[..., row["frame"]]
            patient.shown[row["phase"] or "frame"] = (image, one.labels)
    patient.spacing_mm = scan.spacing_mm
    familiar = (one.familiar for one in cine.frames if one.familiar)
    patient.warnings = [*dict.fromkeys([*patient.warnings, *familiar])]
    write_mask(job.path, scan, renumbered(labels, numbers), place)
    return {phase: frame for frame, phase in known.items() if phase}


def renumbered(labels: np.ndarray, numbers: Mapping[Structure, int]) -> np.ndarray:
    """Gives canonical labels, of any shape, other numbers: structure -> its number.

    Example:
        >>> renumbered(np.array([0, 1, 2, 3]), {Structure.LV: 3, Structure.RV: 1}).tolist()
        [0, 3, 2, 1]
    """
    table = np.zeros(
        len(Structure), np.uint16 if max(numbers.values(), default=0) > 255 else np.uint8
    )
    for structure in HEART:
        table[structure] = numbers.get(structure, int(structure))
    return table[labels]


def write_mask(path: Path, scan: Scan, labels: np.ndarray, file: Path) -> None:
    """Writes labels (X, Y, Z, T) in the geometry of their scan: header of a NIfTI file, or else its
    affine.

    No text of a header is written. The file is 3-D if the scan's is.
    """
    import nibabel

    with quiet_nibabel():
        header: Nifti1Header | None = None
        affine: np.ndarray | None = scan.affine
        stored = labels[..., 0] if labels.shape[3] == 1 else labels
        if path.is_file() and path.name.lower().endswith((".nii", ".nii.gz")):
            original = cast("Nifti1Image", nibabel.load(path))
            header, affine = _without_texts(original.header), None
            stored = labels.reshape(original.shape)
            header.set_data_dtype(labels.dtype)
            header.set_slope_inter(1, 0)
            header["cal_min"], header["cal_max"] = 0, 0
        image = nibabel.Nifti1Image(stored, affine, header)
        if header is None:
            image.header.set_zooms((*scan.spacing_mm, 1.0)[: stored.ndim])
        write(file, gzip.compress(image.to_bytes(), mtime=0))


def _without_texts(header: Nifti1Header) -> Nifti1Header:
    """Copies a header, but for texts and extensions, which often hold a name or a date."""
    kept = header.copy()
    kept.extensions.clear()
    for key in ("data_type", "db_name", "descrip", "aux_file", "intent_name"):
        if key in kept:  # NIfTI-2 lacks two
            kept[key] = b""
    return kept


def measured(patient: Patient) -> dict[str, Any]:
    """Returns the row of patients.csv, and adds to the patient's warnings.

    Volumes are those at ED and ES; without them there is neither an ESV nor an ejection fraction.
    """
    at = {row["phase"]: row for row in patient.rows if row["phase"]}
    ed, es = at.get("ED"), at.get("ES")
    seen = [phase for phase in (ed, es) if phase] or patient.rows[:1]
    row: dict[str, Any] = {"patient": patient.name, "frames": len(patient.rows)}
    one_scan = len({phase["scan"] for phase in seen}) == 1  # of two, frames say nothing
    for name, phase in (("ED", ed), ("ES", es)):
        row[f"{name}_frame"] = phase["frame"] if phase and one_scan else ""
    for name in ("LV", "RV"):
        edv, esv = (phase[f"{name}_mL"] if phase else float("nan") for phase in (ed, es))
        pumps = ventricle(edv, esv)
        values = zip(("EDV_mL", "ESV_mL", "SV_mL", "EF_percent"), pumps, strict=True)
        row |= {f"{name}{key}": value for key, value in values}
    row["mass_g"] = float("nan") if es and not ed else mass_g(seen[0]["MYO_mL"])
    row |= {f"Dice_{name}": min(r[f"Dice_{name}"] for r in seen) for name in STRUCTURES}
    said = [f"at {r['phase'] or 'the frame'}: {r['warnings']}" for r in seen if r["warnings"]]
    if blank := sum(not phase["LV_mL"] for phase in patient.rows):
        said.append(f"{counted(blank, 'frame')} without an LV")
    lacking = [name for name in ("ED", "ES") if name not in at]
    if lacking:
        one_frame = len(lacking) == 2
        patient.warnings.append(ONE_FRAME if one_frame else NO_PHASE.format(lacking[0]))
    elif not USUAL_EF[0] <= row["LVEF_percent"] <= USUAL_EF[1]:
        said.append(f"an LVEF of {row['LVEF_percent']:.0f} % is unlikely")
    if row["RVEF_percent"] < -0.5:  # in which nothing moves, a voxel decides
        said.append(f"an RVEF of {row['RVEF_percent']:.0f} % is impossible")
    if {"ED", "ES"} <= patient.shown.keys():
        said += phase_faults(*(patient.shown[phase][1] for phase in ("ED", "ES")))
    odds = sum(handedness(labels, patient.spacing_mm) for _, labels in patient.shown.values())
    if odds < -SURE:
        said.append(MIRROR_IMAGE)
    shown = next(iter(patient.shown.values()))[1] if patient.shown else None
    first = None if shown is None else base_first(pixel_counts(shown))
    row["first_slice"] = {True: "base", False: "apex", None: "unclear"}[first]
    row["trusted"] = "no" if said else "yes"
    patient.warnings += said
    return row | {"warnings": "; ".join(patient.warnings)}


def in_words(row: Mapping[Any, Any]) -> str:
    """Says in a line what patients.csv holds of a patient; what is not known is left out.

    Example:
        >>> in_words({"LVEDV_mL": 150.2, "LVEF_percent": 60.0, "mass_g": 105.0})
        'LVEDV 150 mL, LVEF 60 %, mass 105 g'
    """
    units = {"LVEDV_mL": "mL", "LVEF_percent": "%", "RVEDV_mL": "mL", "RVEF_percent": "%",
             "mass_g": "g"}  # fmt: skip
    known = {key: row[key] for key in units if key in row and np.isfinite(row[key])}
    return ", ".join(f"{key.split('_')[0]} {v:.0f} {units[key]}" for key, v in known.items())


def _draw(patient: Patient, row: Mapping[str, Any], file: Path) -> None:
    curve = np.array([[r[f"{name}_mL"] for name in STRUCTURES] for r in patient.rows])
    phases = {r["phase"]: k for k, r in enumerate(patient.rows) if r["phase"]}
    one_scan = len({r["scan"] for r in patient.rows}) == 1
    title = f"{patient.name}: {in_words(row)}"
    shown = dict(sorted(patient.shown.items()))
    volumes = curve if one_scan else curve[:0]
    patient_sheet(shown, patient.spacing_mm, volumes, phases, title, patient.warnings, file)
