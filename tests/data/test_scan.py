"""A scan is the same scan in every format, and folders are searched without their masks."""

import nibabel
import numpy as np
import pytest
import SimpleITK
from dicoms import affine_of, save_cine

from cardiac_attrivae.data.nifti import read_volume
from cardiac_attrivae.data.scan import find_scans, read_scan
from cardiac_attrivae.schema import DataError

SPACING = (1.25, 1.5, 8.0)


@pytest.fixture(scope="module")
def cine():
    return np.random.default_rng(0).integers(0, 900, (32, 28, 3, 4)).astype(np.int16)


def written(cine, folder, form):
    """Path of the cine in one format, all with the affine of `affine_of`."""
    if form == "dicom":
        save_cine(folder / "p1", cine, SPACING)
        return folder / "p1"
    if form.startswith("nii"):
        nibabel.save(nibabel.Nifti1Image(cine, affine_of(SPACING)), folder / f"p1.{form}")
    else:
        image = SimpleITK.GetImageFromArray(cine.T, isVector=False)
        image.SetSpacing((*SPACING, 1.0)[: cine.ndim])
        SimpleITK.WriteImage(image, str(folder / f"p1.{form}"))
    return folder / f"p1.{form}"


@pytest.mark.parametrize("form", ["nii", "nii.gz", "nrrd", "mha", "dicom"])
def test_a_cine_is_the_same_in_every_format(cine, tmp_path, form):
    scan = read_scan(written(cine, tmp_path, form))
    assert scan.name == "p1"
    assert (scan.frames == cine).all()
    assert scan.spacing_mm == pytest.approx(SPACING)
    np.testing.assert_allclose(scan.affine, affine_of(SPACING), atol=1e-5)


def test_a_frame_of_a_cine_is_that_frame_alone(cine, tmp_path):
    file = written(cine, tmp_path, "nii.gz")
    for frame in range(4):
        assert (read_scan(file).frames[..., frame] == read_volume(file, frame).voxels).all()


def test_a_stack_has_one_frame(cine, tmp_path):
    for form in ("nii.gz", "mha"):
        assert read_scan(written(cine[..., 0], tmp_path, form)).frames.shape == (32, 28, 3, 1)


def test_what_is_no_scan_is_refused(tmp_path):
    (tmp_path / "a.mha").write_text("no image")
    nibabel.save(nibabel.Nifti1Image(np.full((9, 9, 3), np.nan), np.eye(4)), tmp_path / "b.nii")
    far = np.arange(2**63, 2**63 + 243, dtype=np.uint64).reshape(9, 9, 3)
    nibabel.save(nibabel.Nifti1Image(far, np.eye(4), dtype=np.uint64), tmp_path / "d.nii")
    wrong = {"a.mha": "damaged", "b.nii": "NaN", "c.nii": "no scan", "d.nii": "float32 hardly"}
    for name, message in wrong.items():
        with pytest.raises(DataError, match=message):
            read_scan(tmp_path / name)


def test_folders_are_searched_for_scans(cine, tmp_path):
    for name in ("x/p1_sa.nii.gz", "x/p1_sa_gt.nii.gz", "y/p1_sa.nii.gz", "y/.hidden.nii"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list(find_scans([tmp_path])) == ["x_p1_sa", "y_p1_sa"]
    assert list(find_scans([tmp_path / "x"])) == ["p1_sa"]
    save_cine(tmp_path / "cines" / "p1", cine, SPACING)
    save_cine(tmp_path / "cines" / "p2", cine, SPACING)
    for name in ("Thumbs.db", "DICOMDIR", ".DS_Store"):  # what discs and file managers leave
        (tmp_path / "cines" / name).touch()
    assert list(find_scans([tmp_path / "cines"])) == ["p1", "p2"]
    assert list(find_scans([tmp_path / "cines" / "p2"])) == ["p2"]
    for place in ("cines", "cines/p2"):
        (tmp_path / place / "notes.txt").touch()
    with pytest.warns(
        UserWarning, match="2 files in .*cines passed over, .*: notes.txt, notes.txt"
    ):
        found = find_scans([tmp_path / "cines"])
    assert list(found) == ["p1", "p2"]
    assert (read_scan(found["p2"]).frames == cine).all()
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "link").symlink_to(tmp_path / "x")
    with pytest.raises(DataError, match="links to folders are not followed"):
        find_scans([tmp_path / "empty"])
    for source in ("empty", "absent"):
        with pytest.raises(DataError, match="expected"):
            find_scans([tmp_path / source])


META = """ObjectType = Image
NDims = 3
DimSize = 8 8 4
ElementSpacing = 1.5 1.5 8
ElementType = MET_SHORT
ElementDataFile = {}
"""
NRRD = """NRRD0004
type: short
dimension: 3
sizes: 8 8 4
encoding: raw
endian: little
data file: {}
"""


@pytest.mark.parametrize(
    ("header", "ending"), [(META, "mhd"), (META, "mha"), (NRRD, "nrrd")], ids=lambda x: x[:4]
)
def test_a_header_names_voxels_in_its_own_folder_alone(header, ending, tmp_path):
    (tmp_path / "in").mkdir()
    voxels = np.arange(256, dtype="<i2")
    for place in ("secret.raw", "in/own.raw"):
        voxels.tofile(tmp_path / place)
    file = tmp_path / "in" / f"p1.{ending}"
    file.write_text(header.format("own.raw"))
    assert (read_scan(file).frames.ravel("F") == voxels).all()
    secret = tmp_path / "secret.raw"
    for place in ("../secret.raw", secret, "own%d.raw 1 1 1", f"LIST\n{secret}", "..\\secret.raw"):
        file.write_text(header.format(place))
        with pytest.raises(DataError, match=rf"p1.{ending} .*expected them in the file itself"):
            read_scan(file)
    file.write_text("# " + "long " * 300_000 + "\n" + header.format(secret))
    with pytest.raises(DataError, match="header"):
        read_scan(file)


def test_a_folder_that_is_named_by_dots_has_its_own_name(cine, tmp_path, monkeypatch):
    save_cine(tmp_path / "p1" / "x", cine, SPACING)
    for file in (tmp_path / "p1" / "x").iterdir():
        file.rename(tmp_path / "p1" / file.name)
    (tmp_path / "p1" / "x").rmdir()
    for here, name in (("p1", "."), (".", "p1/.")):
        monkeypatch.chdir(tmp_path / here)
        assert list(find_scans([name])) == ["p1"]
        assert read_scan(name).name == "p1"


@pytest.mark.parametrize("name", ["a.nhdr", "00_00.dcm", "slice.png"])
def test_a_file_of_another_kind_is_told_what_is_read(tmp_path, name):
    (tmp_path / name).write_bytes(b"NRRD0004")
    with pytest.raises(DataError, match=f"{name} cannot be read: it is no NIfTI file .*the folder"):
        read_scan(tmp_path / name)
