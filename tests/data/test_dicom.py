"""A folder of DICOM files is read as the stack that it is, or refused; no text leaves it."""

import faults
import numpy as np
import pytest
import torch
from dicoms import LPS, OBLIQUE, SECRET, affine_of, save_cine
from faults import ACCEPTED

from cardiac_attrivae.data.check import check_dataset
from cardiac_attrivae.data.dicom import read_dicom
from cardiac_attrivae.data.manifest import parse_manifest
from cardiac_attrivae.data.preprocess import preprocess
from cardiac_attrivae.data.store import SliceDataset
from cardiac_attrivae.schema import DataError

SPACING_MM = (1.5, 1.25, 8.0)
CINE = np.random.default_rng(0).integers(-50, 3000, (20, 16, 5, 3)).astype(np.int16)


@pytest.mark.parametrize("directions", [LPS, OBLIQUE], ids=["upright", "oblique"])
def test_every_frame_is_read_as_it_was_drawn(tmp_path, directions):
    save_cine(tmp_path / "cine", CINE, SPACING_MM, directions, (10, -20, 30))
    for frame in range(3):
        volume = read_dicom(tmp_path / "cine", frame)
        assert volume.voxels.dtype == np.int16
        assert (volume.voxels == CINE[..., frame]).all()
        assert volume.spacing_mm == SPACING_MM
        expected = affine_of(SPACING_MM, directions, (10, -20, 30))
        np.testing.assert_allclose(volume.affine, expected, atol=1e-6)  # written in nine decimals
    for frame in (-1, 3):
        with pytest.raises(DataError, match=f"cine has 3 frames and no frame {frame} .counted"):
            read_dicom(tmp_path / "cine", frame)


def test_a_stack_of_one_frame_is_that_frame_already(tmp_path):
    save_cine(tmp_path / "stack", CINE[..., 2:], SPACING_MM)
    assert (read_dicom(tmp_path / "stack", 11).voxels == CINE[..., 2]).all()


def test_a_slice_runs_along_the_normal_though_the_scanner_went_the_other_way(tmp_path):
    def backwards(header, s, t):
        header.InstanceNumber = 100 - header.InstanceNumber
        header.TriggerTime = 31.25 * t

    save_cine(tmp_path / "cine", CINE, SPACING_MM, change=backwards)
    assert (read_dicom(tmp_path / "cine", 0).voxels == CINE[..., 0]).all()


def test_rescaling_is_applied_slice_by_slice(tmp_path):
    def rescaled(header, s, t):
        header.RescaleSlope, header.RescaleIntercept = 0.5 * (1 + s), -s

    save_cine(tmp_path / "cine", CINE, SPACING_MM, change=rescaled)
    s = np.arange(5)
    expected = CINE[..., 0] * (0.5 * (1 + s)) - s
    np.testing.assert_allclose(read_dicom(tmp_path / "cine", 0).voxels, expected, rtol=1e-12)


# Faults -------------------------------------------------------------------------------------------

OWN = faults.OWN | {"image": "dicom/{case}/", "mask": "masks/{case}.nii.gz"}
FOLDERS = {name: f"p{n:02d}" for n, name in enumerate(faults.DICOM)}


@pytest.fixture(scope="module")
def ward(tmp_path_factory):
    """One sound case and one of each fault, preprocessed and checked in one go."""
    root = tmp_path_factory.mktemp("ward") / "own"
    cine = np.stack([faults.picture(), faults.picture()[::-1]], axis=-1)
    for case in ("sound", *FOLDERS.values()):
        save_cine(root / "a" / "dicom" / case, cine, faults.SPACING_MM)
        faults.save(root / "a" / "masks" / f"{case}.nii.gz", faults.heart())
        faults.edit(
            root / "a" / "masks" / f"{case}.nii.gz", lambda v: v, spacing_mm=(-1.5, -1.5, 10)
        )
    for name, (damage, _) in faults.DICOM.items():
        damage(root / "a" / "dicom" / FOLDERS[name])
    manifest = parse_manifest(OWN, "own")
    summary = preprocess(manifest, root, root.parent / "store")
    return summary, SliceDataset.open(root.parent / "store"), check_dataset(manifest, root)


@pytest.mark.parametrize("name", faults.DICOM)
def test_a_damaged_cine_is_skipped_with_a_reason_or_equal_to_the_sound_one(ward, name):
    summary, store, report = ward
    case, outcome = FOLDERS[name], faults.DICOM[name][1]
    problems = {c for finding in report.problems for c, _ in finding.cases}
    if outcome is not ACCEPTED:
        reason = dict(summary.skipped)[case].removeprefix(f"{case} ").replace(case, "mask")
        assert reason.startswith(outcome)
        assert not {"/", "\n"} & set(reason)
        assert case in problems
        return
    assert case not in problems
    sound, own = (store.cases["case"].tolist().index(c) for c in ("sound", case))
    assert torch.equal(store.images[own], store.images[sound])
    assert torch.equal(store.labels[own], store.labels[sound])


def test_no_text_of_a_header_leaves_the_folder(ward, capfd):
    summary, _, report = ward
    told = repr(summary) + repr(report) + report.render()
    assert "SECRET" not in told
    assert summary.cases + len(summary.skipped) == 1 + len(faults.DICOM)
    for file in summary.output.rglob("*"):
        assert file.is_dir() or SECRET.encode() not in file.read_bytes()


def test_nothing_that_is_read_makes_itk_speak(tmp_path, capfd):
    for number, name in enumerate(("cut off in the pixels", "JPEG 2000 that is none")):
        folder = tmp_path / "own" / "dicom" / f"p{number}"
        save_cine(folder, CINE, SPACING_MM)
        faults.DICOM[name][0](folder)
        with pytest.raises(DataError):
            read_dicom(folder, 1)
    assert capfd.readouterr() == ("", "")
