"""The check of a data set finds what is wrong, in small trees written here."""

import gzip
import logging
import zlib

import faults
import nibabel
import numpy as np
import pytest

from cardiac_attrivae.data.check import check_dataset
from cardiac_attrivae.data.manifest import load_manifest, parse_manifest, shipped_manifests
from cardiac_attrivae.data.nifti import read_volume

SHAPE = (64, 72, 5)
SPACING_MM = (1.5, 1.5, 10.0)
ACDC_LABELS = {"RV": 1, "MYO": 2, "LV": 3}
MANIFEST = faults.OWN | {
    "folders": {"a": "train", "b": "test"}, "constants": {"ED": 0, "ES": 1},
}  # fmt: skip


def write(file, voxels, spacing_mm=SPACING_MM, affine=None):
    """A NIfTI file with an orthonormal affine of the true spacing, unless it is given."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(voxels, np.diag([*spacing_mm, 1.0]) if affine is None else affine)
    image.header.set_zooms((*spacing_mm, 1.0)[: voxels.ndim])
    nibabel.save(image, file)


def picture(seed, frames=2):
    """Noise, in which the wall of `mask` is dark."""
    noise = np.random.default_rng(seed).integers(20, 255, (*SHAPE, frames)).astype(np.int16)
    noise[mask(frames=frames) == 2] //= 20
    return noise[..., 0] if frames == 1 else noise


def mask(lv=1, myo=2, rv=3, frames=2):
    """Labels in a few voxels of every frame."""
    voxels = np.zeros((*SHAPE, frames), np.uint8)
    voxels[20:24, 20, 2], voxels[24:28, 20, 2], voxels[28:32, 20, 2] = lv, myo, rv
    return voxels[..., 0] if frames == 1 else voxels


def case(root, name, seed=None, folder="a", image=None, labels=None, **header):
    seed = zlib.crc32(name.encode()) if seed is None else seed
    write(
        root / folder / name / "image.nii.gz", picture(seed) if image is None else image, **header
    )
    write(root / folder / name / "mask.nii.gz", mask() if labels is None else labels, **header)


def check(root, **changes):
    return check_dataset(parse_manifest({**MANIFEST, **changes}, "own"), root)


def by_statement(findings):
    return {finding.what: dict(finding.cases) for finding in findings}


@pytest.fixture
def good(tmp_path):
    for name in ("p1", "p2", "p3"):
        case(tmp_path, name)
    return tmp_path


def test_a_sound_data_set_has_no_problems_and_no_notes(good):
    report = check(good)
    assert (report.problems, report.notes) == ((), ())
    assert report.usable == {("own", "train"): 3}
    assert report.found == {"a": 3, "b": 0}
    assert ("pixel spacing (mm)", 1.5, 1.5, 1.5) in report.geometry


def test_the_report_is_aligned_and_complete(good):
    case(good, "q1", folder="b", labels=mask(rv=9))
    text = check(good, expected={"a": 3, "b": 2}, oddities=["Made up."]).render()
    assert (
        text
        == f"""\
own: Own data
{good}

Licence: Internal
Cite: Unpublished

folder  expected  found
a              3      3
b              2      1

usable cases  train  all
own               3    3

at ED               lowest  median  highest
pixel spacing (mm)     1.5     1.5      1.5
slice spacing (mm)      10      10       10
voxels along i          64      64       64
voxels along j          72      72       72
slices                   5       5        5

3 of 3 usable cases have a mask at ES, too, and with it, by preprocess --phases
  ED,ES: LVESV, RVESV, LVESA, MESA, RVESA, LVEF, RVEF, WT_mean_ES, WT_max_ES,
  LVSV, thickening

Known of this data set
- Made up.

Notes
- structure absent from the mask: 1 case
    q1  RV at ED; RV at ES
- partial copy: 5 cases expected, 4 found

Problems
- label numbers beside those of the manifest (0, 1, 2, 3): 1 case
    q1  9 at ED; 9 at ES

3 usable cases, 1 problem"""
    )


def test_a_long_report_keeps_to_its_width(good):
    for n in range(12):
        case(good, f"broken_{n:02d}", labels=mask(myo=200 + n, rv=100 + n))
    for width in (60, 80):
        lines = check(good, title="word " * 40).render(width).splitlines()
        assert max(len(line) for line in lines if line != str(good)) <= width
        assert "    and 7 more" in lines


@pytest.mark.parametrize("file", ["image.nii.gz", "mask.nii.gz"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "no gzip", "no nifti", "empty"])
def test_a_damaged_file_is_one_problem_and_stops_no_other(good, file, damage):
    path = good / "a" / "p2" / file
    whole = path.read_bytes()
    body = bytearray(whole)
    body[len(body) // 2] ^= 0xFF
    path.write_bytes(
        {
            "truncated": whole[: len(whole) // 2],
            "flipped": bytes(body),
            "no gzip": b"this is no gzip file" * 40,
            "no nifti": gzip.compress(b"\x00" * 4000),
            "empty": b"",
        }[damage]
    )
    report = check(good)
    (problem,) = report.problems
    assert problem.what == "damaged or unusable file"
    assert [name for name, _ in problem.cases] == ["p2"]
    assert file in problem.cases[0][1]
    assert report.usable == {("own", "train"): 2}


def test_a_shape_that_differs_is_a_problem(good):
    write(good / "a" / "p2" / "mask.nii.gz", mask()[:, :, :4])
    problems = by_statement(check(good).problems)
    assert problems["image and mask differ in shape"]["p2"].startswith(
        "(64, 72, 5) and (64, 72, 4)"
    )


def test_a_frame_beyond_the_cine_is_a_problem(good):
    problems = by_statement(check(good, constants={"ED": 2}).problems)
    assert problems["damaged or unusable file"]["p1"] == (
        "image.nii.gz has 2 frames and no frame 2 (counted from 0); "
        "mask.nii.gz has 2 frames and no frame 2 (counted from 0)"
    )


def test_a_mask_that_is_zero_at_ed_is_unlabelled(good):
    labels = mask()
    labels[..., 0] = 0
    case(good, "p4", labels=labels)
    (good / "a" / "p3" / "mask.nii.gz").unlink()
    what = "no mask, or an empty one at ED; at most 0 expected"
    assert set(by_statement(check(good).problems)[what]) == {"p3", "p4"}
    report = check(good, unlabelled=2)
    assert report.problems == ()
    assert set(
        by_statement(report.notes)["no mask, or an empty one at ED; at most 2 expected"]
    ) == {
        "p3",
        "p4",
    }
    assert report.usable == {("own", "train"): 2}


def test_without_a_usable_case_there_are_no_tables_of_them(good):
    for path in good.rglob("mask.nii.gz"):
        path.unlink()
    text = check(good).render()
    assert "median" not in text
    assert "preprocess" not in text
    assert text.endswith("0 usable cases, 1 problem")


def test_nan_constant_and_far_values_are_problems(good):
    image = picture(0).astype(np.float32)
    image[0, 0, 0, 0] = np.nan
    case(good, "p4", image=image)
    case(good, "p5", image=np.ones((*SHAPE, 2), np.int16))
    case(good, "p6", image=picture(0) + 1e12)
    problems = by_statement(check(good).problems)
    assert problems["NaN or infinite values in the image"] == {"p4": "at ED"}
    assert problems["image with one value throughout"] == {"p5": "at ED; at ES"}
    assert problems["values that float32 hardly tells apart"] == {"p6": "at ED; at ES"}


def test_fractions_are_no_labels(good):
    case(good, "p4", labels=mask().astype(np.float32) * 1.5)
    problems = by_statement(check(good).problems)
    assert problems["label numbers beside those of the manifest (0, 1, 2, 3)"]["p4"].startswith(
        "1.5, 4.5 at"
    )


def test_spacing_is_judged_and_headers_are_noted(good):
    skewed = np.diag([*SPACING_MM, 1.0])
    skewed[0, 1] = 0.01
    case(good, "skewed", affine=skewed)
    case(good, "far", spacing_mm=(3.2, 3.2, 30.0))
    case(good, "oblong", spacing_mm=(1.5, 1.6, 10.0))
    report = check(good)
    notes = by_statement(report.notes)
    assert report.problems == ()
    assert list(notes["directions that are not orthonormal; ITK may refuse the file"]) == ["skewed"]
    assert notes["unusual pixel spacing (mm)"] == {"far": "3.2, median 1.5"}
    assert notes["unusual slice spacing (mm)"] == {"far": "30, median 10"}
    assert notes["pixels that are not square"] == {"oblong": "1.5 x 1.6 x 10 mm"}


def test_a_placeholder_affine_is_noted_and_pixdim_believed(tmp_path):
    for number in (1, 2):
        folder = tmp_path / "training" / f"patient{number:03d}"
        for frame in (1, 9):
            for end, voxels in (
                ("", picture(10 * number + frame, 1)),
                ("_gt", mask(3, 2, 1, frames=1)),
            ):
                write(folder / f"{folder.name}_frame{frame:02d}{end}.nii.gz", voxels)
                file = folder / f"{folder.name}_frame{frame:02d}{end}.nii.gz"
                image = nibabel.load(file)
                image.header.set_sform(np.eye(4), code=2)
                image = nibabel.Nifti1Image(voxels, None, image.header)
                nibabel.save(image, file)
        (folder / "Info.cfg").write_text("ED: 1\nES: 9\nGroup: NOR\nNbFrame: 9\n")
    volume = read_volume(file, 0)
    assert volume.spacing_mm == SPACING_MM
    assert np.abs(volume.affine[0, 0]) == 1.0
    report = check_dataset(load_manifest("acdc"), tmp_path)
    assert report.problems == ()
    assert set(by_statement(report.notes)) == {
        "affine contradicts pixdim, a placeholder; pixdim is used",
        "partial copy: 150 cases expected, 2 found",
    }


def test_the_same_scan_in_two_splits_is_a_problem_unless_it_is_known(good):
    case(good, "q1", seed=99, folder="b")
    case(good, "p9", seed=99)
    case(good, "p8", seed=99 + 1)
    case(good, "p7", seed=99 + 1)
    report = check(good)
    assert by_statement(report.problems) == {
        "the same scan in two splits: list it in 'duplicates' of the manifest": {
            "p9 = q1": "train and test"
        }
    }
    assert "p7 = p8" in by_statement(report.notes)[
        "the same scan twice: list it in 'duplicates' of the manifest"
    ]  # fmt: skip
    report = check(good, duplicates=[["p9", "q1"], ["p8", "p7"]])
    assert report.problems == ()
    known = "the same scan twice, as the manifest says; --drop-duplicates keeps one"
    assert set(by_statement(report.notes)[known]) == {"p7 = p8", "p9 = q1"}


def test_a_table_with_more_rows_than_files_is_noted(good):
    (good / "cases.csv").write_text("id,ED,vendor\np1,0,\np2,0,\np3,7,\np4,0,\n")
    changes = {
        "table": ["*.csv"],
        "columns": {"case": "id", "ED": "ED", "vendor": "vendor"},
        "constants": {"ES": 1},
    }
    report = check(good, **changes)
    notes = by_statement(report.notes)
    assert list(notes["rows of the table without files"]) == ["p4"]
    assert "vendor is blank for every case (column 'vendor')" in notes
    assert list(by_statement(report.problems)["damaged or unusable file"]) == ["p3"]


def test_facts_that_cannot_be_used_are_problems_at_ed_and_notes_at_es(good):
    (good / "cases.csv").write_text("id,ED,ES\np1,?,1\np2,0,?\n")
    report = check(
        good, table=["*.csv"], columns={"case": "id", "ED": "ED", "ES": "ES"}, constants={}
    )
    assert by_statement(report.problems)["cannot be used"] == {
        "p1": "ED is '?'; expected a whole number",
        "p3": "the table has no row for it",
    }
    assert by_statement(report.notes)["cannot be used at ES"] == {
        "p2": "ES is '?'; expected a whole number"
    }


def test_progress_sees_every_case(good):
    seen = []

    def progress(records):
        seen.append([record.case for record in records])
        return records

    check_dataset(parse_manifest(MANIFEST, "own"), good, progress)
    assert seen == [["p1", "p2", "p3"]]


def test_nibabel_keeps_its_remarks_to_itself(good):
    file = good / "a" / "p1" / "image.nii.gz"
    header = bytearray(gzip.decompress(file.read_bytes()))
    header[254:256] = np.int16(99).tobytes()  # an sform_code that does not exist
    file.write_bytes(gzip.compress(bytes(header)))
    said = []
    log, ear = logging.getLogger("nibabel.global"), logging.Handler()
    ear.emit = said.append
    log.addHandler(ear)
    level = log.level
    try:
        nibabel.load(file)
        assert [record.getMessage() for record in said] == ["sform_code 99 not valid; setting to 0"]
        assert check(good).problems == ()
    finally:
        log.removeHandler(ear)
    assert len(said) == 1
    assert log.level == level


@pytest.mark.realdata
@pytest.mark.parametrize("name", shipped_manifests())
def test_the_real_data_have_no_problems(name, real_data):
    report = check_dataset(load_manifest(name), real_data / name)
    assert report.problems == ()
    if name == "acdc":
        assert report.usable["acdc", "train"] == 85
        assert report.usable["acdc", "val"] == 15
        notes = by_statement(report.notes)
        same = notes["the same scan twice, as the manifest says; --drop-duplicates keeps one"]
        assert "patient074 = patient076" in same
        assert len(notes["affine contradicts pixdim, a placeholder; pixdim is used"]) >= 100
