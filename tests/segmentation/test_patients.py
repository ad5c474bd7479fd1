"""What `segment` leaves of a patient: masks in the geometry of the scan, volumes, EF, a picture."""

import gzip
import json
import os
import re
from dataclasses import replace

import nibabel
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from scans import LEVELS, by_brightness, heart

import cardiac_attrivae as ca
from cardiac_attrivae.cli.main import main
from cardiac_attrivae.data.masks import Masks, read_labels
from cardiac_attrivae.data.nifti import read_mask
from cardiac_attrivae.data.phantom import write_phantoms
from cardiac_attrivae.data.scan import find_scans, read_scan
from cardiac_attrivae.runtime.outputs import claim
from cardiac_attrivae.runtime.spreadsheet import read_csv
from cardiac_attrivae.schema import DataError, Structure
from cardiac_attrivae.segmentation import patients as module
from cardiac_attrivae.segmentation.jobs import Job, scan_jobs
from cardiac_attrivae.segmentation.patients import (
    MIRROR_IMAGE,
    NO_PHASE,
    ONE_FRAME,
    segment_patients,
)
from cardiac_attrivae.segmentation.scans import STILL, ScanSegmenter

SPACING = (1.5, 1.5, 8.0)
FAKE = ScanSegmenter("fake", [by_brightness])
AFFINE = np.array([[0, -1.5, 0, 10], [1.5, 0, 0, -20], [0, 0, 8, 5], [0, 0, 0, 1.0]])


def beating(frames=12, ed=2):
    """A cine whose LV is largest at ``ed`` and smallest half a beat later; labels, pictures."""
    labels, _ = heart()
    x, y = (np.arange(n) * 1.5 for n in labels.shape[:2])
    far = np.hypot(x[:, None] - 90, y - 80)
    moving = []
    for t in range(frames):
        inside = 22 - 8 * np.sin(np.pi * ((t - ed) % frames) / frames)
        frame = labels.copy()
        for z in range(labels.shape[2]):
            size = 1 - 0.1 * z
            plane = frame[..., z]
            plane[(plane == Structure.LV) & (far >= inside * size)] = Structure.MYO
        moving.append(frame)
    stack = np.stack(moving, axis=-1)
    return stack, 500 * LEVELS.numpy()[stack]


@pytest.fixture(scope="module")
def segmented(tmp_path_factory):
    """A cine and a single frame of it, segmented."""
    folder = tmp_path_factory.mktemp("patients")
    labels, cine = beating()
    header = nibabel.Nifti1Image(cine.astype(np.int16), AFFINE)
    header.header.set_zooms((*SPACING, 0.04))
    nibabel.save(header, folder / "p1.nii.gz")
    nibabel.save(nibabel.Nifti1Image(cine[..., 0].astype(np.float32), AFFINE), folder / "p2.nii")
    jobs = [Job("p1", folder / "p1.nii.gz"), Job("p2", folder / "p2.nii")]
    segment_patients(jobs, folder / "out", FAKE, {Structure.LV: 3, Structure.RV: 1})
    return folder, labels


def test_masks_lie_in_the_geometry_of_their_scans(segmented):
    folder, labels = segmented
    for name, scan in (("p1", "p1.nii.gz"), ("p2", "p2.nii")):
        mask, image = nibabel.load(folder / f"out/masks/{name}.nii.gz"), nibabel.load(folder / scan)
        assert mask.shape == image.shape
        np.testing.assert_array_equal(mask.affine, image.affine)
        assert mask.header.get_zooms() == image.header.get_zooms()
    found = np.asarray(nibabel.load(folder / "out/masks/p1.nii.gz").dataobj)
    asked = np.array([0, 3, 2, 1])[labels]
    assert (found == asked).mean() > 0.99
    note = json.loads((folder / "out/segmentation.json").read_text())
    phases = {"masks/p1.nii.gz": {"ED": 2, "ES": 8}, "masks/p2.nii.gz": {}}
    assert note == {
        "segmenter": "fake", "labels": {"LV": 3, "MYO": 2, "RV": 1}, "phases": phases
    }  # fmt: skip


def test_a_mask_counts_in_the_unit_of_its_scan(tmp_path):
    image = nibabel.Nifti1Image(np.zeros((9, 9, 3), np.int16), np.diag([1e-3] * 3 + [1]) @ AFFINE)
    image.header.set_xyzt_units("meter")
    nibabel.save(image, tmp_path / "p1.nii.gz")
    scan, labels = read_scan(tmp_path / "p1.nii.gz"), np.ones((9, 9, 3, 1), np.uint8)
    module.write_mask(tmp_path / "p1.nii.gz", scan, labels, tmp_path / "mask.nii.gz")
    mask = read_mask(tmp_path / "mask.nii.gz", 0)
    assert mask.spacing_mm == scan.spacing_mm == pytest.approx(SPACING)
    np.testing.assert_allclose(mask.affine, AFFINE, rtol=1e-6)


def test_volumes_of_every_frame_are_those_of_the_mask(segmented):
    folder, labels = segmented
    table = pd.read_csv(folder / "out/volumes.csv")
    cine = table[table["patient"] == "p1"]
    assert cine["frame"].tolist() == list(range(12))
    truth = (labels == Structure.LV).sum((0, 1, 2)) * np.prod(SPACING) / 1000
    np.testing.assert_allclose(cine["LV_mL"], truth, rtol=0.06)
    assert cine["phase"].dropna().tolist() == ["ED", "ES"]
    assert cine["phase"].iloc[2] == "ED"
    assert cine["phase"].iloc[8] == "ES"


def test_ejection_fraction_follows_from_ed_and_es(segmented):
    folder, labels = segmented
    row = pd.read_csv(folder / "out/patients.csv").set_index("patient").loc["p1"]
    volumes = (labels == Structure.LV).sum((0, 1, 2))
    assert row["LVEF_percent"] == pytest.approx(100 * (1 - volumes[8] / volumes[2]), abs=3)
    assert row["LVSV_mL"] == pytest.approx(row["LVEDV_mL"] - row["LVESV_mL"], rel=1e-4)
    assert row["RVEF_percent"] == pytest.approx(0, abs=2)
    muscle = (labels[..., 2] == Structure.MYO).sum() * np.prod(SPACING) / 1000
    assert row["mass_g"] == pytest.approx(1.05 * muscle, rel=0.05)
    assert (folder / "out/pictures/p1.png").stat().st_size > 10_000


def test_a_single_frame_has_no_ejection_fraction_and_is_said_to_be_single(segmented):
    folder, _ = segmented
    row = pd.read_csv(folder / "out/patients.csv").set_index("patient").loc["p2"]
    assert np.isnan(row["LVEF_percent"])
    assert np.isnan(row["LVEDV_mL"])
    assert ONE_FRAME in row["warnings"]


def test_a_cine_in_which_nothing_moves_has_ed_and_no_es(tmp_path):
    still = np.stack([heart()[1]] * 3, axis=-1).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(still, AFFINE), tmp_path / "p1.nii")
    found, _ = segment_patients([Job("p1", tmp_path / "p1.nii")], tmp_path / "out", FAKE)
    row = found.iloc[0]
    assert row["LVEDV_mL"] > 40
    assert np.isnan(row["LVEF_percent"])
    assert row["trusted"] == "no"
    assert row["warnings"] == f"{NO_PHASE.format('ES')}; at ED: {STILL}"
    volumes = pd.read_csv(tmp_path / "out/volumes.csv")
    assert volumes["phase"].fillna("").tolist() == ["ED", "", ""]
    assert volumes["views"].tolist() == [8, 2, 2]


def test_an_lv_that_lies_elsewhere_at_es_is_reported(tmp_path):
    _, cine = beating(2, 0)
    jobs = []
    for name, es in (("p1", cine[..., 1]), ("p2", np.roll(cine[..., 1], 25, axis=1))):
        both = np.stack([cine[..., 0], es], axis=-1).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(both, AFFINE), tmp_path / f"{name}.nii.gz")
        jobs.append(Job(name, tmp_path / f"{name}.nii.gz", {0: "ED", 1: "ES"}))
    found, _ = segment_patients(jobs, tmp_path / "out", FAKE)
    assert found.trusted.tolist() == ["yes", "no"]
    said = r"\d+% of the LV at ES lies within that at ED: one of both is outlined in a wrong place"
    assert re.search(said, found.warnings[1])


@pytest.mark.parametrize(
    ("ed", "es", "trusted"), [(100.0, 60.0, "yes"), (100.0, 100.2, "yes"), (5.0, 40.0, "no")]
)
def test_an_rv_that_is_larger_at_es_than_at_ed_is_reported(ed, es, trusted):
    same = {"scan": "p1", "MYO_mL": 90.0, "warnings": "", "Dice_LV": 0.9, "Dice_MYO": 0.9}
    phases = (("ED", 0, 120.0, ed), ("ES", 8, 50.0, es))
    rows = [
        {**same, "phase": name, "frame": frame, "LV_mL": lv, "RV_mL": rv, "Dice_RV": 0.9}
        for name, frame, lv, rv in phases
    ]
    row = module.measured(module.Patient("p1", rows))
    assert row["trusted"] == trusted
    assert ("an RVEF of -700 % is impossible" in row["warnings"]) == (trusted == "no")


def test_scans_with_names_as_long_as_a_disk_takes_have_masks_that_are_found_again(tmp_path):
    _, image = heart()
    long = ["x" * 244 + end for end in ("1.nii.gz", "2.nii.gz", "2.nii")] + ["ü" * 125 + ".nii"]
    for name in long:
        nibabel.save(nibabel.Nifti1Image(image, AFFINE), tmp_path / "scan.nii.gz")
        (tmp_path / "in" / str(long.index(name))).mkdir(parents=True)
        os.replace(tmp_path / "scan.nii.gz", tmp_path / "in" / str(long.index(name)) / name)
    scans = [next(folder.iterdir()) for folder in sorted((tmp_path / "in").iterdir())]
    for path in scans:
        if path.suffix == ".nii":
            path.write_bytes(gzip.decompress(path.read_bytes()))
    jobs = [Job(f"{path.parent.name}{'y' * 250}", path) for path in scans]
    assert len(segment_patients(jobs, tmp_path / "out", FAKE)[0]) == len(scans)
    masks = Masks(tmp_path / "out" / "masks")
    found = {masks.find(job.path, job.patient) for job in jobs}
    assert len(found) == len([*(tmp_path / "out" / "pictures").iterdir()]) == len(scans)
    assert all(len(os.fsencode(path.name)) < 230 for path in (tmp_path / "out").rglob("*"))


def test_a_mirror_image_is_noticed(tmp_path, monkeypatch):
    _, image = heart()
    nibabel.save(nibabel.Nifti1Image(image, AFFINE), tmp_path / "p.nii")
    monkeypatch.setattr(module, "handedness", lambda labels, spacing: -3.0)
    found, _ = segment_patients([Job("p", tmp_path / "p.nii")], tmp_path / "out", FAKE)
    assert MIRROR_IMAGE in found["warnings"].item()
    assert found["trusted"].item() == "no"


def test_scans_that_cannot_be_read_are_told_and_the_others_continue(tmp_path, monkeypatch):
    _, image = heart()
    nibabel.save(nibabel.Nifti1Image(image, AFFINE), tmp_path / "good.nii")
    (tmp_path / "bad.nii").write_bytes(b"no image")
    jobs = [Job("bad", tmp_path / "bad.nii"), Job("good", tmp_path / "good.nii")]
    found, left_out = segment_patients(jobs, tmp_path / "out", FAKE)
    assert found["patient"].tolist() == ["good"]
    assert pd.read_csv(tmp_path / "out/skipped.csv")["patient"].tolist() == ["bad"]
    assert [patient for patient, _ in left_out] == ["bad"]
    with pytest.raises(DataError, match="none of 1 scans can be used"):
        segment_patients(jobs[:1], tmp_path / "out2", FAKE)
    monkeypatch.setattr(module, "load_segmenter", lambda model: FAKE)
    words = [word for job in jobs for word in ("--source", job.path)]
    result = CliRunner().invoke(main, ["segment", *map(str, words), "--output", f"{tmp_path}/out"])
    assert "a scan of bad is left out: " in result.stderr
    assert "; 1 scan left out, see " in result.stdout


def test_a_data_set_is_segmented_at_ed_and_es_without_its_masks(tmp_path, monkeypatch):
    write_phantoms("acdc", tmp_path / "raw", cases=2, cine=False)
    for mask in (tmp_path / "raw").rglob("*_gt.nii.gz"):
        mask.unlink()
    monkeypatch.setattr(module, "load_segmenter", lambda model: FAKE)
    words = ["segment", "--dataset", "acdc", "--source", tmp_path / "raw", "--output",
             tmp_path / "out"]  # fmt: skip
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    table = pd.read_csv(tmp_path / "out/volumes.csv")
    assert table.groupby("patient")["phase"].agg(list).tolist() == [["ED", "ES"]] * 2
    assert len(list((tmp_path / "out/masks").glob("patient*_frame*.nii.gz"))) == 4


def test_a_scan_below_the_output_is_refused(tmp_path):
    claim(tmp_path, "segment")  # as an earlier call did
    (job,) = scans(tmp_path, "p1")
    words = ["segment", "--source", str(job.path), "--output", str(tmp_path)]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    assert "lie in one another" in result.stderr


def test_wrong_label_numbers_are_refused(tmp_path):
    words = [
        "segment",
        "--source",
        ".",
        "--output",
        tmp_path / "out",
        "--labels",
        "LV=1,MYO=1,RV=3",
    ]
    result = CliRunner().invoke(main, [*map(str, words)])
    assert result.exit_code == 2
    assert "expected a number of its own, not 0, for each structure" in result.output


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_a_mask_holds_no_text_of_its_scan(tmp_path, kind):
    image = kind(heart()[1].astype(np.float32), AFFINE)
    for key in {"descrip", "aux_file", "db_name", "data_type", "intent_name"} & {*image.header}:
        image.header[key] = b"Doe^Jane"
    for code in (2, 4, 6):  # DICOM, AFNI, comment
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension(code, b"Doe^Jane 1970"))
    nibabel.save(image, tmp_path / "p1.nii")
    segment_patients([Job("p1", tmp_path / "p1.nii")], tmp_path / "out", FAKE)
    mask = nibabel.load(tmp_path / "out/masks/p1.nii.gz")
    assert b"Doe" not in gzip.decompress((tmp_path / "out/masks/p1.nii.gz").read_bytes())
    np.testing.assert_array_equal(mask.affine, image.affine)
    assert mask.header.get_zooms() == image.header.get_zooms()
    for key in ("qform_code", "sform_code", "xyzt_units"):
        assert mask.header[key] == nibabel.load(tmp_path / "p1.nii").header[key]


def test_scans_of_one_name_have_a_mask_each(tmp_path):
    jobs = []
    for patient, shift in (("a", 0), ("B", 4)):
        image = np.roll(heart()[1], shift, axis=0)
        (tmp_path / patient).mkdir()
        name = "sax.nii" if patient == "a" else "SAX.nii"  # one name on some file systems
        nibabel.save(
            nibabel.Nifti1Image(image.astype(np.float32), AFFINE), tmp_path / patient / name
        )
        jobs.append(Job(patient, tmp_path / patient / name))
    segment_patients(jobs, tmp_path / "out", FAKE)
    one, other = (
        np.asarray(nibabel.load(tmp_path / "out/masks" / name).dataobj)
        for name in ("a/sax.nii.gz", "B/SAX.nii.gz")
    )
    assert (np.roll(one, 4, axis=0) == other).mean() > 0.999
    assert Masks(tmp_path / "out/masks").find(jobs[0].path, "a").parent.name == "a"


def test_scans_of_one_name_of_one_patient_have_a_mask_each(tmp_path):
    jobs, sizes = [], {}
    for phase, frame in (("ED", 2), ("ES", 8)):
        (tmp_path / "a" / phase).mkdir(parents=True)
        file = tmp_path / "a" / phase / "sax.nii"
        nibabel.save(nibabel.Nifti1Image(beating()[1][..., frame].astype(np.int16), AFFINE), file)
        jobs.append(Job("a", file, {0: phase}))
    volumes, _ = segment_patients(jobs, tmp_path / "out", FAKE)
    for job in jobs:
        mask = nibabel.load(Masks(tmp_path / "out/masks").find(job.path, "a"))
        sizes[job.phases[0]] = (np.asarray(mask.dataobj) == Structure.LV).sum() * 0.018
    assert sizes["ES"] < 0.6 * sizes["ED"]
    assert sizes["ED"] == pytest.approx(volumes["LVEDV_mL"].item())
    with pytest.raises(DataError, match="would have one mask"):
        segment_patients([jobs[0], jobs[0]._replace(path=jobs[0].path.parent / "sax.nrrd")],
                         tmp_path / "out2", FAKE)  # fmt: skip


def test_what_cannot_be_segmented_costs_that_scan_alone(tmp_path):
    cine = nibabel.Nifti1Image(beating(frames=3)[1].astype(np.int16), AFFINE)
    for name in ("p1", "p2"):
        nibabel.save(cine, tmp_path / f"{name}.nii")
    jobs = [Job("p1", tmp_path / "p1.nii", {0: "ED", 9: "ES"}),
            Job("p2", tmp_path / "p2.nii", {0: "ED", 2: "ES"})]  # fmt: skip
    huge = nibabel.Nifti1Image(heart()[1].astype(np.int16), np.diag([100.0, 100, 8, 1]))
    nibabel.save(huge, tmp_path / "p3.nii")
    jobs.append(Job("p3", tmp_path / "p3.nii"))
    found, _ = segment_patients(jobs, tmp_path / "out", FAKE)
    assert found["patient"].tolist() == ["p2"]
    reasons = (tmp_path / "out/skipped.csv").read_text()
    assert "p1.nii has 3 frames and no frame 9 (counted from 0)" in reasons
    assert "p3,6 slices over 12000 mm" in reasons


@pytest.mark.parametrize("name", [r"a$b_{$", r"$\frac$", "two\nlines", os.fsdecode(b"lat\xe4n")])
def test_scans_with_odd_names_are_segmented(name, tmp_path):
    scans(tmp_path, name)
    (job,) = scan_jobs(find_scans([tmp_path]))
    segment_patients([job], tmp_path / "out", FAKE)
    assert read_csv(tmp_path / "out/patients.csv")["patient"].tolist() == [job.patient]
    assert job.patient.isprintable()
    assert Masks(tmp_path / "out/masks").find(job.path, "?").is_file()


def test_reasons_name_files_and_no_folders(tmp_path):
    nibabel.save(nibabel.Nifti1Image(heart()[1].astype(np.float32), AFFINE), tmp_path / "p1.nii")
    jobs = [Job("p0", tmp_path / "Doe" / "p0.nii"), Job("p1", tmp_path / "p1.nii")]
    segment_patients(jobs, tmp_path / "out", FAKE)
    text = (tmp_path / "out/skipped.csv").read_text()
    assert "p0.nii" in text
    assert "Doe" not in text
    assert str(tmp_path) not in text


def scans(folder, *names):
    """A scan of each name, and their jobs."""
    image = nibabel.Nifti1Image(heart()[1].astype(np.float32), AFFINE)
    for name in names:
        nibabel.save(image, folder / f"{name}.nii")
    return [Job(name, folder / f"{name}.nii") for name in names]


def test_a_mask_that_was_corrected_by_hand_is_not_replaced(tmp_path):
    jobs = scans(tmp_path, "p1", "p2")
    segment_patients(jobs, tmp_path / "out", FAKE)
    segment_patients(jobs, tmp_path / "out", FAKE)
    file = tmp_path / "out/masks/p1.nii.gz"
    mask = nibabel.load(file)
    corrected = np.asarray(mask.dataobj).copy()
    corrected[0, 0] = 1
    nibabel.save(nibabel.Nifti1Image(corrected, mask.affine), file)
    for again in (jobs, jobs[1:]):
        with pytest.raises(DataError, match=r"masks/p1.nii.gz was changed after .*another folder"):
            segment_patients(again, tmp_path / "out", FAKE)
        assert np.asarray(nibabel.load(file).dataobj)[0, 0].all()


def test_masks_that_an_interrupted_call_left_are_not_mixed_with_those_of_the_next(tmp_path):
    jobs = scans(tmp_path, "p1", "p2")

    def interrupted(jobs, total):
        yield jobs[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        segment_patients(jobs, tmp_path / "out", FAKE, progress=interrupted)
    assert (tmp_path / "out/masks/p1.nii.gz").is_file()
    with pytest.raises(DataError, match="segment did not finish in .*: run it again"):
        Masks(tmp_path / "out")
    segment_patients(jobs[1:], tmp_path / "out", FAKE)
    assert [file.name for file in (tmp_path / "out/masks").iterdir()] == ["p2.nii.gz"]
    assert Masks(tmp_path / "out").named().source == "fake"
    other = replace(FAKE, name="other")
    with pytest.raises(KeyboardInterrupt):
        segment_patients(jobs, tmp_path / "out", other, progress=interrupted)
    with pytest.raises(DataError, match="segment did not finish"):  # masks of two segmenters
        Masks(tmp_path / "out")


def test_label_numbers_that_no_mask_can_hold_are_refused():
    with pytest.raises(ValueError, match="up to 65535"):
        read_labels("LV=1,MYO=2,RV=65536")


def test_python_segments_as_the_command_does(tmp_path, monkeypatch):
    write_phantoms("acdc", tmp_path / "raw", cases=2, cine=False)
    folder = next((tmp_path / "raw/training").glob("patient*"))
    (folder / "Info.cfg").unlink()
    monkeypatch.setattr(module, "load_segmenter", lambda model: FAKE)
    found = ca.segment(tmp_path / "raw", tmp_path / "out", dataset="acdc",
                       labels={"LV": 3, "MYO": 2, "RV": 1})  # fmt: skip
    assert found.patients["ED_frame"].tolist() == [""]  # each phase has a file of its own
    ((patient, reason),) = found.skipped
    assert patient == folder.name
    assert reason in (tmp_path / "out/skipped.csv").read_text()
    assert repr(found) == "<Segmented 1 patient, 1 scan left out>"
    cine = next((tmp_path / "raw/training").rglob("*frame01.nii.gz"))
    alone = ca.segment(cine, tmp_path / "alone")
    assert alone.patients["frames"].tolist() == [1]
    assert alone.skipped == []
    with pytest.raises(ValueError, match="2 sources for one data set"):
        ca.segment([cine, cine], tmp_path / "none", dataset="acdc")
    for wrong in ({"LV": 1}, "LV=3,MYO=2,RV=1"):
        with pytest.raises(ValueError, match="label numbers are"):
            ca.segment(cine, tmp_path / "none", labels=wrong)


@pytest.mark.parametrize("lost", ["ED", "ES"])
def test_a_phase_that_cannot_be_read_leaves_no_number_that_needs_it(lost, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "load_segmenter", lambda model: FAKE)
    cine = beating()[1]
    for phase, frame in (("01", 2), ("08", 8)):
        file = tmp_path / f"raw/training/patient001/patient001_frame{phase}.nii.gz"
        file.parent.mkdir(parents=True, exist_ok=True)
        if (lost == "ED") == (phase == "01"):
            file.write_bytes(b"cut off")
        else:
            nibabel.save(nibabel.Nifti1Image(cine[..., frame].astype(np.int16), AFFINE), file)
    (file.parent / "Info.cfg").write_text("ED: 1\nES: 8\nGroup: NOR\nNbFrame: 12\n")
    found = ca.segment(tmp_path / "raw", tmp_path / "out", dataset="acdc")
    (row,) = found.patients.to_dict("records")
    assert np.isnan(row["LVEF_percent"])
    assert np.isnan(row["mass_g"]) == np.isnan(row["LVEDV_mL"]) == (lost == "ED")
    assert row["warnings"] == NO_PHASE.format(lost)
    ((patient, reason),) = found.skipped
    assert (patient, "cannot be read" in reason) == ("patient001", True)


def test_a_phase_without_a_file_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "load_segmenter", lambda model: FAKE)
    write_phantoms("acdc", tmp_path / "raw", cases=1, cine=False)
    (folder,) = (tmp_path / "raw/training").glob("patient*")
    *_, es = sorted(folder.glob("*_frame*[0-9].nii.gz"))
    es.unlink()
    ((patient, reason),) = ca.segment(tmp_path / "raw", tmp_path / "out", dataset="acdc").skipped
    assert patient == folder.name
    assert reason.startswith("at ES: ")


def test_blank_frames_are_neither_ed_nor_es_and_a_blank_scan_is_left_out(tmp_path):
    cine = beating()[1].astype(np.float32)
    cine[..., 5] = 0
    for name, voxels in (("p1", cine), ("p2", np.zeros_like(cine))):
        nibabel.save(nibabel.Nifti1Image(voxels, AFFINE), tmp_path / f"{name}.nii")
    jobs = [Job(name, tmp_path / f"{name}.nii") for name in ("p1", "p2")]
    found, left_out = segment_patients(jobs, tmp_path / "out", FAKE)
    (row,) = found.to_dict("records")
    assert (row["ED_frame"], row["ES_frame"]) == (2, 8)
    assert row["warnings"] == "1 frame without an LV"
    volumes = pd.read_csv(tmp_path / "out/volumes.csv")
    assert volumes["Dice_LV"].isna().tolist() == [frame == 5 for frame in range(12)]
    assert left_out == [("p2", "no heart was found in p2.nii")]
