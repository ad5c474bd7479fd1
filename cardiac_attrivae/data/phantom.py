"""Writes synthetic hearts to disk in the layouts of ACDC and M&Ms, with their oddities."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.linalg import polar

from ..runtime.files import atomic_file, write
from ..runtime.folders import is_empty, locked
from ..runtime.outputs import require_free
from ..runtime.progress import Progress, silent
from ..schema import SYNTHETIC, UNFINISHED, DataError, Structure
from .hearts import POPULATIONS
from .scanner import ACDC_SCANNER, SCANNERS, Scan, draw_scan, pictures, redrawn

# Written here independently of data_manifests/, so that reading a phantom checks the manifest.
RAW_LABELS = {
    "acdc": {Structure.RV: 1, Structure.MYO: 2, Structure.LV: 3},
    "mnms": {Structure.LV: 1, Structure.MYO: 2, Structure.RV: 3},
}
MAX_CASES = {"acdc": 150, "mnms": 345}  # the sizes of the real ones; ids would collide beyond
MNMS_CSV = "211230_M&Ms_Dataset_information_diagnosis_opendataset.csv"

# Columns: x, y and base in the patient (RAS); the mean of two real headers, made orthonormal.
CLINICAL_AXES, _ = polar([[-0.80, 0.33, 0.50], [-0.60, -0.54, -0.60], [0.08, -0.78, 0.62]])


@dataclass(frozen=True)
class Truth:
    """Facts that are known exactly about one written case."""

    case: str  # as on disk
    pathology: str  # as on disk
    folder: Path  # folder of its files
    vendor: str  # empty for ACDC
    labelled: bool  # False where the mask is empty or absent
    LVEDV: float  # analytic volume at end diastole, mL
    MEDV: float  # mL
    RVEDV: float  # mL
    # analytic areas (LV, MYO, RV) at end diastole per slice, in the order of the file
    areas_cm2: tuple[tuple[float, float, float], ...]


def write_phantoms(
    dataset: str,
    output: Path,
    cases: int = 20,
    seed: int = 0,
    quirks: bool = True,
    cine: bool = True,
    vendor: str | None = None,
    progress: Progress = silent,
) -> list[Truth]:
    """Writes a data set of phantoms in the layout of the real one.

    Case number i depends on (dataset, i, seed) alone, to the byte, however many cases are written.

    Args:
        dataset: ``acdc`` or ``mnms``.
        output: Folder to write into; made if absent.
        cases: Number of patients, at most those of the real data set (150 or 345).
        seed: Random seed; another one draws other patients.
        quirks: Whether to reproduce the oddities of the real data as well as their layout: an ED
            that is not the first frame, placeholder or skewed headers, duplicates, unusable masks,
            gaps in the table.
        cine: False saves time where ED and ES are enough: ACDC then lacks its 4-D files, and those
            of M&Ms are cut to these two time points.
        vendor: Of M&Ms: a key of `SCANNERS`, which then takes the pictures of every heart. Hearts
            and splits are the same whatever the vendor. None gives each heart a vendor as in the
            challenge; ACDC has one scanner.
        progress: Wraps the numbers of the cases.

    Returns:
        The known facts of each case, in order.

    Raises:
        ValueError: If there is no such data set or vendor, or it cannot have so many cases.
        DataError: If the folder is not empty, or another run writes into it.

    Example:
        >>> (truth,) = write_phantoms("acdc", Path("hearts"), cases=1, cine=False)
        >>> truth.case, truth.pathology, round(truth.LVEDV)
        ('patient001', 'NOR', 142)
        >>> sorted(file.name for file in truth.folder.glob("*_gt.nii.gz"))
        ['patient001_frame01_gt.nii.gz', 'patient001_frame07_gt.nii.gz']
    """
    if dataset not in MAX_CASES:
        raise ValueError(f"dataset is {dataset!r}; expected one of {', '.join(MAX_CASES)}")
    if not 1 <= cases <= MAX_CASES[dataset]:
        raise ValueError(
            f"cases is {cases}; expected 1 to {MAX_CASES[dataset]} patients of {dataset}"
        )
    if vendor is not None and (dataset != "mnms" or vendor not in SCANNERS):
        raise ValueError(f"vendor is {vendor!r}; expected one of {', '.join(SCANNERS)}, with mnms")
    output = Path(output)
    with locked(output):
        require_free(output, "phantom")
        if not is_empty(output):
            raise DataError(f"{output} holds phantoms already; remove it, or choose another folder")
        origin = f"Synthetic hearts in the layout of {dataset}, written by cardiac-attrivae phantom"
        write(output / SYNTHETIC, f"{origin}: {UNFINISHED}.\n")
        numbers = progress(range(cases), cases)
        if dataset == "acdc":
            truths = _write_acdc(output, numbers, seed, quirks, cine)
        else:
            truths = _write_mnms(output, numbers, seed, quirks, cine, vendor)
        write(output / SYNTHETIC, f"{origin}.\n")
        return truths


def _truth(scan: Scan, folder: Path, vendor: str = "", labelled: bool = True) -> Truth:
    areas = tuple(tuple(scan.heart.areas(z).tolist()) for z in scan.z_mm)
    lv, myo, rv = scan.heart.volumes_mL
    return Truth(scan.case, scan.pathology, folder, vendor, labelled, lv, myo, rv, areas)


def _save(image: nib.Nifti1Image, path: Path) -> None:
    with atomic_file(path) as beside:
        nib.save(image, beside)


def _raw(dataset: str, mask: np.ndarray) -> np.ndarray:
    """Replaces canonical labels by the numbers of a data set."""
    numbers = np.zeros(len(Structure), dtype=np.uint8)
    for structure, number in RAW_LABELS[dataset].items():
        numbers[structure] = number
    return numbers[mask]


# The twins have the ids of the real ones, which the manifests know.
ACDC_SWAPPED = {1: 73, 6: 75, 73: 1, 75: 6}  # patient002 and 007 change places with 074 and 076
MNMS_TWINS = {5: "K3R0Y7", 9: "A7G0P5"}


def _acdc_scan(index: int, seed: int) -> tuple[str, Scan]:
    """Returns half and scan: two of three in training from patient001, one in testing from 101."""
    half, number = ("testing", index // 3) if index % 3 == 2 else ("training", index - index // 3)
    number = number if half == "testing" else ACDC_SWAPPED.get(number, number)
    case = f"patient{number + (101 if half == 'testing' else 1):03d}"
    return half, draw_scan("acdc", case, list(POPULATIONS)[number % 5], ACDC_SCANNER, 12, seed)


def _write_acdc(
    output: Path, numbers: Iterable[int], seed: int, quirks: bool, cine: bool
) -> list[Truth]:
    if quirks:  # a file lies between the patient folders
        note = "These are phantoms: there is nothing to cite.\n"
        write(output / "training" / "MANDATORY_CITATION.md", note)
    return [_write_acdc_patient(output, i, seed, quirks, cine) for i in numbers]


def _write_acdc_patient(output: Path, index: int, seed: int, quirks: bool, cine: bool) -> Truth:
    half, scan = _acdc_scan(index, seed)
    drawn = scan
    if quirks and index == 3:  # like patient090
        drawn = scan = replace(scan, ed=3, es=10)
    if quirks and index == 9:  # the scan of index 1 again
        scan = replace(_acdc_scan(1, seed)[1], case=scan.case)
        drawn = redrawn(scan)
    folder = output / half / scan.case
    rng = np.random.default_rng([scan.key, 2])
    write(
        folder / "Info.cfg",
        f"ED: {scan.ed + 1}\nES: {scan.es + 1}\nGroup: {scan.pathology}\n"
        f"Height: {rng.normal(170, 9):.1f}\nNbFrame: {scan.frames}\n"
        f"Weight: {rng.normal(76, 13):.1f}\n",
    )
    spaced = np.diag([-1, -1, 1, 1]) * np.array([*scan.spacing_mm, 1.0])

    def save(name: str, data: np.ndarray) -> None:
        image = nib.Nifti1Image(data, np.diag([-1.0, -1, 1, 1]) if quirks else spaced)
        image.header.set_qform(spaced, code=0)  # writes pixdim, the one place with the true spacing
        _save(image, folder / f"{scan.case}_{name}.nii.gz")

    wanted = list(range(scan.frames)) if cine else [scan.ed, scan.es]
    cines = pictures(scan, wanted)
    if cine:
        save("4d", cines)
    for frame in (scan.ed, scan.es):
        save(f"frame{frame + 1:02d}", cines[..., wanted.index(frame)])
        save(f"frame{frame + 1:02d}_gt", _raw("acdc", drawn.mask(frame)))
    return _truth(drawn, folder)


MNMS_FOLDERS = {
    "L": "Training/Labeled", "U": "Training/Unlabeled", "V": "Validation", "T": "Testing",
}  # fmt: skip
# Folder and vendor, in turn: about 175 : 34 : 136. As in the challenge, labelled training comes
# from A and B alone, unlabelled training from C, and D is never seen before validation.
MNMS_SLOTS = (
    "LA", "TB", "LB", "TC", "LA", "VC", "UC", "LB", "TD", "LA",
    "LB", "TA", "LA", "TC", "VD", "LB", "UC", "TB", "TD", "TC",
)  # fmt: skip
MNMS_PATHOLOGY = {"NOR": "NOR", "MINF": "IHD", "DCM": "DCM", "HCM": "HCM", "RV": "ARV"}


def _mnms_code(index: int) -> str:
    """Makes a code such as A1B2C3; none repeats, as the step shares no factor with 260^3."""
    if index in MNMS_TWINS:
        return MNMS_TWINS[index]
    rest, code = (index + 1) * 7_368_787, ""
    for _ in range(3):
        rest, letter = divmod(rest, 26)
        rest, digit = divmod(rest, 10)
        code += f"{chr(65 + letter)}{digit}"
    return code


def _mnms_scan(index: int, seed: int, vendor: str | None) -> tuple[str, Scan]:
    """Returns slot and scan of an M&Ms phantom."""
    slot, code = MNMS_SLOTS[index % len(MNMS_SLOTS)], _mnms_code(index)
    slot = slot[0] + (vendor or slot[1])
    pathology = list(POPULATIONS)[(index + index // 20) % 5]
    return slot, draw_scan("mnms", code, pathology, SCANNERS[slot[1]], 6, seed)


def _write_mnms(
    output: Path, numbers: Iterable[int], seed: int, quirks: bool, cine: bool, vendor: str | None
) -> list[Truth]:
    truths, rows = [], []
    for index in numbers:
        slot, scan = _mnms_scan(index, seed, vendor)
        if not quirks:
            slot = slot.replace("U", "L")
        if quirks and index % 7 == 2:
            scan = replace(scan, ed=5)  # gated from the R wave: end diastole comes last
        drawn = scan
        if quirks and index == 9:  # the scan of index 5 again: another split, another vendor
            scan = replace(_mnms_scan(5, seed, vendor)[1], case=scan.case)
            drawn = redrawn(scan)
        unlabelled = slot[0] == "U"
        folder = output / MNMS_FOLDERS[slot[0]] / scan.case
        affine = _mnms_affine(scan)
        if quirks and index == 1:
            affine[:3, 0] += 0.02 * affine[:3, 1]  # skewed: ITK refuses it, nibabel reads it

        wanted = list(range(scan.frames)) if cine else sorted((scan.ed, scan.es))
        images = pictures(scan, wanted)
        if quirks and index % 4 == 3:
            images = images.astype(np.float64)
        masks = np.zeros(images.shape, dtype=np.uint8)
        ed, es = wanted.index(scan.ed), wanted.index(scan.es)
        if unlabelled:
            ed = es = 0
        else:
            masks[..., ed] = _raw("mnms", drawn.mask(scan.ed))
            masks[..., es] = _raw("mnms", drawn.mask(scan.es))
        _save(nib.Nifti1Image(images, affine), folder / f"{scan.case}_sa.nii.gz")
        if not unlabelled or index % 20 < 10:  # else the file is missing altogether
            _save(nib.Nifti1Image(masks, affine), folder / f"{scan.case}_sa_gt.nii.gz")

        scanner, rng = SCANNERS[slot[1]], np.random.default_rng([scan.key, 2])
        person = [f"{rng.normal(50, 16):.0f}", "FM"[rng.integers(2)]]
        person += [f"{rng.normal(170, 9):.1f}", f"{rng.normal(76, 13):.1f}"]
        if quirks:
            person = ["" if rng.random() < 0.15 else value for value in person]
        centre = rng.choice(scanner.centres)
        pathology = "" if unlabelled else MNMS_PATHOLOGY[scan.pathology]
        rows.append([scan.case, pathology, scanner.vendor, slot[1], centre, ed, es, *person])
        truths.append(_truth(drawn, folder, slot[1], not unlabelled))
    if quirks:  # the Canadian centre: in the table, not in the open data set
        rows += [[f"Z{n}Z0Z0", "NOR", "Siemens", "A", 6, 0, 9, "", "", "", ""] for n in range(2)]
    header = ",External code,Pathology,VendorName,Vendor,Centre,ED,ES,Age,Sex,Height,Weight"
    table, numbered = io.StringIO(newline=""), ([n, *row] for n, row in enumerate(rows))
    csv.writer(table, lineterminator="\n").writerows([header.split(","), *numbered])
    write(output / MNMS_CSV, table.getvalue())
    return truths


def _mnms_affine(scan: Scan) -> np.ndarray:
    """Returns voxel to patient (RAS, mm), (4, 4); the plane is oblique, as in real scans."""
    right, down, base = CLINICAL_AXES.T
    c, s = np.cos(scan.angle), np.sin(scan.angle)
    towards_base = np.sign(scan.z_mm[0] - scan.z_mm[1])
    directions = np.stack([c * right - s * down, s * right + c * down, towards_base * base], axis=1)
    affine = np.eye(4)
    affine[:3, :3] = directions * scan.spacing_mm
    affine[:3, 3] = -affine[:3, :3] @ (np.array([*scan.shape, len(scan.z_mm)]) - 1) / 2
    return affine
