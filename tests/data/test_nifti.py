"""One frame of a NIfTI file is read as it is stored, and damage never passes for data."""

import contextlib
import gzip
import io
import logging
import time
import tracemalloc
import zlib
from functools import partial

import nibabel
import numpy as np
import pytest
from isal import isal_zlib

from cardiac_attrivae.data import nifti
from cardiac_attrivae.data.nifti import quiet_nibabel, read_cine, read_to_the_end, read_volume
from cardiac_attrivae.schema import DataError

SHAPE = (64, 72, 5)
SPACING_MM = (1.5, 1.25, 10.0)


def write(file, voxels, spacing_mm=SPACING_MM, kind=nibabel.Nifti1Image, **header):
    """A file with an orthonormal affine of the true spacing, and what else is set in the header."""
    image = kind(voxels, np.diag([*spacing_mm, 1.0]))
    image.header.set_zooms((*spacing_mm, 1.0)[: voxels.ndim])
    for name, value in header.items():
        image.header[name] = value
    nibabel.save(image, file)
    return file


def picture(seed, frames=1):
    shape = SHAPE if frames == 1 else (*SHAPE, frames)
    return np.random.default_rng(seed).integers(-50, 3000, shape).astype(np.int16)


@pytest.mark.parametrize(
    ("voxels", "message"),
    [
        (np.zeros((8, 8), np.uint8), "has shape .8, 8.; expected 3-D, or 4-D"),
        (np.zeros((8, 8, 3), np.complex64), "holds complex64; expected numbers"),
    ],
)
def test_a_volume_that_is_none_is_refused(tmp_path, voxels, message):
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / "x.nii.gz")
    with pytest.raises(DataError, match=message):
        read_volume(tmp_path / "x.nii.gz", 0)
    with pytest.raises(DataError, match="y.nii.gz is missing"):
        read_volume(tmp_path / "y.nii.gz", 0)


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("none", [np.nan, np.inf, 0])
@pytest.mark.parametrize("frames", [1, 2])
def test_a_volume_without_a_spacing_is_refused(tmp_path, name, axis, none, frames):
    write(tmp_path / "x.nii", picture(1, frames))
    data = bytearray((tmp_path / "x.nii").read_bytes())
    data[80 + 4 * axis : 84 + 4 * axis] = np.float32(none).tobytes()  # pixdim[1] to [3]
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    with pytest.raises(DataError, match="states a spacing of"):
        read_volume(tmp_path / name, 0)


def test_one_frame_is_read_and_a_stack_is_that_frame_already(tmp_path):
    cine = picture(3, 4)
    write(tmp_path / "cine.nii.gz", cine)
    write(tmp_path / "stack.nii.gz", cine[..., 2])
    for name in ("cine", "stack"):
        assert (read_volume(tmp_path / f"{name}.nii.gz", 2).voxels == cine[..., 2]).all()
    for frame in (-1, 4):
        with pytest.raises(DataError, match=f"has 4 frames and no frame {frame}"):
            read_volume(tmp_path / "cine.nii.gz", frame)


def test_the_frames_after_the_one_asked_for_are_not_decoded(tmp_path):
    cine = picture(4, 6)
    packed = write(tmp_path / "cine.nii.gz", cine).read_bytes()
    (tmp_path / "cine.nii.gz").write_bytes(packed[: len(packed) // 2])
    assert (read_volume(tmp_path / "cine.nii.gz", 1).voxels == cine[..., 1]).all()
    with pytest.raises(DataError, match="cannot be read"):
        read_volume(tmp_path / "cine.nii.gz", 5)
    with pytest.raises(DataError, match="cannot be read"):
        read_to_the_end(tmp_path / "cine.nii.gz")


STORED = {
    "int16": (picture(5), {}),
    "uint8": (picture(5).astype(np.uint8), {}),
    "float64": (picture(5) / 7, {}),
    "big-endian": (picture(5).astype(">i2"), {}),
    "scaled": (picture(5), {"scl_slope": 0.5, "scl_inter": -3}),
    "slope 0, which means none": (picture(5), {"scl_slope": 0, "scl_inter": 9}),
    "one slice": (picture(5)[..., :1], {}),
    "cine": (picture(5, 3), {}),
}
FORMS = {
    "x.nii.gz": nibabel.Nifti1Image,
    "x.nii": nibabel.Nifti1Image,
    "y.nii.gz": nibabel.Nifti2Image,
    "z.img.gz": nibabel.Nifti1Pair,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stored", STORED)
def test_voxels_spacing_and_affine_are_those_that_nibabel_reads(tmp_path, stored, form):
    voxels, header = STORED[stored]
    file = tmp_path / form
    image = FORMS[form](voxels, np.diag([*SPACING_MM, 1.0]))
    if stored == "big-endian":
        image = FORMS[form](voxels, None, image.header.as_byteswapped(">"))
        image.header.set_zooms((*SPACING_MM, 1.0)[: voxels.ndim])
    nibabel.save(image, file)
    if header and file.suffix == ".gz" and "img" not in form:  # saving resets what a file says
        bytes_ = bytearray(gzip.decompress(file.read_bytes()))
        at = 112 if FORMS[form] is nibabel.Nifti1Image else 176
        kind = np.float32 if at == 112 else np.float64
        bytes_[at : at + 2 * kind().itemsize] = np.array(list(header.values()), kind).tobytes()
        file.write_bytes(gzip.compress(bytes(bytes_)))
    reference = nibabel.load(file)
    expected = np.asarray(reference.dataobj)
    volume = read_volume(file, 1)
    assert (volume.voxels == (expected[..., 1] if expected.ndim == 4 else expected)).all()
    assert volume.voxels.dtype == expected.dtype
    assert volume.spacing_mm == reference.header.get_zooms()[:3]
    assert (volume.affine == reference.affine).all()


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
@pytest.mark.parametrize(
    ("unit", "mm"), [("unknown", 1), ("mm", 1), ("meter", 1e3), ("micron", 1e-3)]
)
def test_a_header_in_another_unit_gives_the_same_volume_in_mm(tmp_path, kind, name, unit, mm):
    affine = np.array([[-1.5, 0, 0, 90], [0, -1.25, 0, 80], [0, 0, 10, -20], [0, 0, 0, 1]])
    image = kind(picture(6), np.diag([1 / mm, 1 / mm, 1 / mm, 1]) @ affine)
    image.header.set_xyzt_units(unit, "sec")
    nibabel.save(image, tmp_path / name)
    for volume in (read_volume(tmp_path / name, 0), read_cine(tmp_path / name)):
        assert volume.spacing_mm == pytest.approx(SPACING_MM, rel=1e-6)
        np.testing.assert_allclose(volume.affine, affine, rtol=1e-6)


def test_pixels_of_metres_are_refused_with_their_unit_and_what_to_correct(tmp_path):
    file = write(tmp_path / "x.nii.gz", picture(6), xyzt_units=1)
    refused = "1.5 x 1.25 x 10 m; expected .* 0.05 to 100 mm; if m is wrong, correct its xyzt_units"
    with pytest.raises(DataError, match=refused):
        read_volume(file, 0)


def test_spacing_is_that_of_pixdim_where_the_affine_is_a_placeholder(tmp_path):
    image = nibabel.Nifti1Image(picture(6), np.diag([-1.0, -1, 1, 1]))
    image.header.set_qform(np.diag([-1.5, -1.25, 10, 1]), code=0)
    nibabel.save(image, tmp_path / "x.nii.gz")
    volume = read_volume(tmp_path / "x.nii.gz", 0)
    assert volume.spacing_mm == SPACING_MM
    assert np.abs(np.diag(volume.affine)).tolist() == [1, 1, 1, 1]


def flipped(packed, at):
    return packed[:at] + bytes([packed[at] ^ 0xFF]) + packed[at + 1 :]


DAMAGE = {
    "truncated": lambda packed: packed[: len(packed) // 2],
    "last byte lost": lambda packed: packed[:-1],
    "a bit of a voxel flipped": lambda packed: flipped(packed, len(packed) // 2),
    "wrong checksum": lambda packed: flipped(packed, -8 + len(packed)),
    "wrong length": lambda packed: flipped(packed, -4 + len(packed)),
    "no gzip": lambda packed: b"this is no gzip file" * 40,
    "gzip of nothing": lambda packed: gzip.compress(b""),
    "gzip of no NIfTI": lambda packed: gzip.compress(b"\x00" * 4000),
    "header alone": lambda packed: gzip.compress(gzip.decompress(packed)[:348]),
    "half the voxels": lambda packed: gzip.compress(gzip.decompress(packed)[:20_000]),
    "header cut in two": lambda packed: gzip.compress(gzip.decompress(packed)[:200]),
    "empty": lambda packed: b"",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_every_damage_is_a_data_error_that_names_the_file(tmp_path, damage):
    file = write(tmp_path / "x.nii.gz", picture(7))
    file.write_bytes(DAMAGE[damage](file.read_bytes()))
    with pytest.raises(DataError, match=r"^x.nii.gz cannot be read: .+"):
        read_volume(file, 0)


def test_isal_changes_no_voxel_and_no_sentence(tmp_path, monkeypatch):
    packed = write(tmp_path / "sound.nii.gz", picture(7)).read_bytes()
    bits = {f"byte {at}": partial(flipped, at=at) for at in range(3, len(packed), 997)}
    for damage in (lambda packed: packed, *DAMAGE.values(), *bits.values()):
        (tmp_path / "x.nii.gz").write_bytes(damage(packed))
        found = []
        for module in (zlib, isal_zlib):
            monkeypatch.setattr(nifti, "isal_zlib", module)
            try:
                found.append(read_volume(tmp_path / "x.nii.gz", 0).voxels.tobytes())
            except DataError as error:
                found.append(str(error))
        assert found[0] == found[1]


@pytest.mark.parametrize("form", list(FORMS)[:3])
@pytest.mark.parametrize("frames", [1, 2])
def test_a_header_is_never_read_as_voxels(tmp_path, form, frames):
    """nibabel takes an offset of 0 as it is; the picture would be shifted by 352 bytes."""
    file = tmp_path / form
    write(file, picture(1, frames), kind=FORMS[form])
    content = bytearray(gzip.decompress(file.read_bytes()) if "gz" in form else file.read_bytes())
    place, size = (108, 4) if FORMS[form] is nibabel.Nifti1Image else (168, 8)
    content[place : place + size] = bytes(size)
    file.write_bytes(gzip.compress(bytes(content)) if "gz" in form else bytes(content))
    with pytest.raises(DataError, match="its voxels begin at byte 0, inside its header"):
        read_volume(file, 0)


def test_a_gzip_of_several_members_is_read_whole(tmp_path):
    file = write(tmp_path / "x.nii.gz", picture(8))
    plain = gzip.decompress(file.read_bytes())
    for cut in (100, 348, 30_000):
        file.write_bytes(gzip.compress(plain[:cut]) + gzip.compress(plain[cut:]))
        assert (read_volume(file, 0).voxels == picture(8)).all()


def test_a_long_name_in_the_gzip_header_does_no_harm(tmp_path):
    file = write(tmp_path / "x.nii.gz", picture(9))
    plain, packed = gzip.decompress(file.read_bytes()), io.BytesIO()
    with gzip.GzipFile("n" * 6000, "wb", fileobj=packed) as stream:
        stream.write(plain)
    file.write_bytes(packed.getvalue())
    assert (read_volume(file, 0).voxels == picture(9)).all()


def test_nibabel_is_quiet_inside_and_as_before_outside():
    log, said = logging.getLogger("nibabel.global"), []
    ear = logging.Handler()
    ear.emit = lambda record: said.append(record.getMessage())
    log.addHandler(ear)
    try:
        with contextlib.suppress(RuntimeError), quiet_nibabel():
            log.warning("inside")
            raise RuntimeError
        log.warning("outside")
    finally:
        log.removeHandler(ear)
    assert said == ["outside"]


# More than a heart --------------------------------------------------------------------------------


def bomb(file, size):
    """Appends zeros to what a gzip file unpacks to."""
    plain, packer = gzip.decompress(file.read_bytes()), zlib.compressobj(9, wbits=31)
    with open(file, "wb") as packed:
        packed.write(packer.compress(plain))
        for _ in range(size >> 24):
            packed.write(packer.compress(bytes(1 << 24)))
        packed.write(packer.flush())


def sparse(file, size):
    """Makes a file long without writing it."""
    with open(file, "r+b") as stream:
        stream.truncate(size)


@pytest.mark.parametrize(("make", "size"), [(bomb, 1 << 28), (sparse, 3 << 30)])
@pytest.mark.parametrize("frames", [1, 2])
def test_a_file_that_unpacks_beyond_its_header_is_refused_at_once(tmp_path, make, size, frames):
    file = write(tmp_path / "x.nii.gz", picture(1, frames))
    make(file, size)
    tracemalloc.start()
    start = time.perf_counter()
    for read in (read_to_the_end, lambda file: read_volume(file, 0))[: 3 - frames]:
        with pytest.raises(DataError, match="x.nii.gz unpacks to far more than its header states"):
            read(file)
    assert time.perf_counter() - start < 20
    assert tracemalloc.get_traced_memory()[1] < 2**29
    tracemalloc.stop()


def test_zeros_after_the_gzip_do_no_harm(tmp_path):
    file = write(tmp_path / "x.nii.gz", picture(1))
    sparse(file, 1 << 20)
    assert (read_volume(file, 0).voxels == picture(1)).all()
    read_to_the_end(file)
