"""Reads one frame of a NIfTI file, and turns every kind of damage into one kind of error."""

from __future__ import annotations

import gzip
import io
import logging
import math
import os
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from isal import isal_zlib

from ..runtime.messages import without_folder
from ..schema import DataError
from .spacing import UNITS_MM, refuse_spacing, unit_of

if TYPE_CHECKING:
    import nibabel

MOST_VOXELS = 2**26
"""Voxels that a frame may have: a short-axis stack has some millions. A header of a few bytes may
claim any number."""
MOST_CINE = 2**29
"""Voxels that all frames together may have."""
MOST_REST = 2**26
"""Bytes that may follow the voxels in an unpacked file: a few bytes of gzip unpack to gigabytes."""
MOST_SIGNAL = 1e30
"""Accepted magnitude of a voxel: the difference of two such values is still a float32."""
LEAST_STEPS = 2**8
"""Steps of float32 at its largest value that a picture must span; in fewer its contrast is lost."""
NEAR = 1e-3
"""Largest distance from a whole number of a label that was stored as a fraction."""

HEADER_BYTES, NIFTI_1 = 348, b"n+1\0"  # length and end of the header of a NIfTI-1 file
GZIP = b"\x1f\x8b"  # first bytes of a gzip file


class Volume(NamedTuple):
    """One frame as stored: ``voxels`` (I, J, S) in file order, with the header's geometry in mm."""

    voxels: np.ndarray
    spacing_mm: tuple[float, float, float]
    affine: np.ndarray


@contextmanager
def quiet_nibabel() -> Iterator[None]:
    """Silences nibabel's remarks about headers; the check reports what matters of them.

    Example:
        >>> with quiet_nibabel():
        ...     warnings.warn("sform_code 99 not valid; setting to 0")
    """
    log = logging.getLogger("nibabel.global")
    disabled, log.disabled = log.disabled, True  # setLevel would empty the caches of all loggers
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.disabled = disabled


def read_volume(file: Path, frame: int) -> Volume:
    """Reads one frame of a NIfTI file.

    Spacing is the header's pixdim: the affine of some data sets (ACDC) is a placeholder of 1 mm.
    A header that counts in metres or micrometres is converted to mm.

    Args:
        file: 3-D, or 4-D with time last. Of a 4-D file only this frame is decoded.
        frame: 0-based; a 3-D file is this frame already.

    Raises:
        DataError: If the file cannot be read to the end of the frame, has no such frame, is not
            3-D or 4-D, is far larger than a heart, or states an impossible spacing.

    Example:
        >>> import nibabel
        >>> cine = np.zeros((64, 64, 9, 25), np.int16)
        >>> nibabel.save(nibabel.Nifti1Image(cine, np.diag([1.5, 1.5, 8, 1])), "cine.nii.gz")
        >>> volume = read_volume(Path("cine.nii.gz"), frame=24)
        >>> volume.voxels.shape, volume.spacing_mm
        ((64, 64, 9), (1.5, 1.5, 8.0))
        >>> read_volume(Path("cine.nii.gz"), frame=25)
        Traceback (most recent call last):
        cardiac_attrivae.schema.DataError: cine.nii.gz has 25 frames and no frame 25 ...
    """
    return _decoded(file, frame)


def read_cine(file: Path) -> Volume:
    """Reads all frames of a NIfTI file as `read_volume` does, voxels (I, J, S, T); a 3-D file is
    one frame.

    Example:
        >>> import nibabel
        >>> nibabel.save(nibabel.Nifti1Image(np.ones((8, 6, 4)), np.eye(4)), "frame.nii")
        >>> read_cine(Path("frame.nii")).voxels.shape
        (8, 6, 4, 1)
    """
    volume = _decoded(file, None)
    return volume._replace(voxels=volume.voxels.reshape(*volume.voxels.shape[:3], -1))


def _decoded(file: Path, frame: int | None) -> Volume:
    """Reads one frame, or all of them as they are stored."""
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError, ImageDataError
    from nibabel.wrapstruct import WrapStructError

    damage = (ImageFileError, ImageDataError, HeaderDataError, WrapStructError, zlib.error)
    try:
        with quiet_nibabel():
            stored = _open(file)
            shape, dtype = stored.header.get_data_shape(), stored.header.get_data_dtype()
            if len(shape) not in (3, 4) or 0 in shape:
                raise DataError(
                    f"{file.name} has shape {shape}; expected 3-D, or 4-D with time last"
                )
            if len(shape) == 4 and frame is not None and not 0 <= frame < shape[3]:
                raise DataError(
                    f"{file.name} has {shape[3]} frames and no frame {frame} (counted from 0)"
                )
            if dtype.kind not in "iuf":
                kind = "colours (RGB)" if dtype.names else dtype
                raise DataError(f"{file.name} holds {kind}; expected numbers")
            refuse_huge(file, shape)
            if frame is None and math.prod(shape) > MOST_CINE:
                raise DataError(
                    f"{file.name} has shape {shape}; expected at most {MOST_CINE} voxels"
                )
            one = len(shape) == 4 and frame is not None
            voxels = np.asarray(stored.voxels[..., frame] if one else stored.voxels)
            unit = unit_of(stored.header)
            zooms = [float(zoom) for zoom in stored.header.get_zooms()[:3]]
            affine = np.array([*[UNITS_MM[unit]] * 3, 1.0])[:, None] * stored.affine
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{file.name} is missing") from None
    # Damage shows as any of these, wherever in gzip, header or voxels it sits.
    except (OSError, EOFError, ValueError, OverflowError, MemoryError, *damage) as error:
        raise DataError(f"{file.name} cannot be read: {_reason(error, file)}") from None
    refuse_spacing(file, zooms, unit)
    x, y, z = (zoom * UNITS_MM[unit] for zoom in zooms)
    return Volume(voxels, (x, y, z), affine)


def read_mask(file: Path, frame: int) -> Volume:
    """Reads one frame of labels, see `read_volume`; 2.9999 in a mask stored as fractions becomes 3.

    Example:
        >>> import nibabel
        >>> stored = np.full((4, 4, 2), 2.9999, np.float32)
        >>> nibabel.save(nibabel.Nifti1Image(stored, np.eye(4)), "mask.nii.gz")
        >>> np.unique(read_mask(Path("mask.nii.gz"), 0).voxels).tolist()
        [3.0]
    """
    volume = read_volume(file, frame)
    if volume.voxels.dtype.kind != "f":
        return volume
    whole = np.rint(volume.voxels)
    with np.errstate(invalid="ignore"):  # infinity minus itself
        near = np.abs(volume.voxels - whole) <= NEAR
    return volume._replace(voxels=np.where(near, whole, volume.voxels))


class _Stored(NamedTuple):
    """Content of a file: ``voxels`` are an array, or nibabel's proxy that decodes on demand."""

    header: nibabel.spatialimages.SpatialHeader
    affine: np.ndarray
    voxels: Any


def _open(file: Path) -> _Stored:
    """Opens a file. A 3-D ``.nii.gz`` is unpacked at once: nibabel's stream takes 1.5 times as
    long."""
    import nibabel

    if file.name.endswith(".nii.gz"):
        with open(file, "rb") as stream:
            packed = stream.read(4096)
            if packed and not packed.startswith(GZIP):
                raise ValueError("it is not packed although its name ends in .gz: rename it")
            start = zlib.decompressobj(wbits=31).decompress(packed, HEADER_BYTES)
            if len(start) == HEADER_BYTES and start.endswith(NIFTI_1):
                header = nibabel.Nifti1Header(start, check=False)
                refuse_spacing(file, header["pixdim"][1:4].tolist(), unit_of(header))
                header.check_fix()
                _refuse_overlap(header)
                if len(header.get_data_shape()) == 3:
                    refuse_huge(file, header.get_data_shape())
                    size = _size(header)
                    packed_size = os.fstat(stream.fileno()).st_size
                    if packed_size > len(packed) + size + MOST_REST:
                        _refuse_rest(file, size)
                    stream.seek(0)
                    packed = stream.read(packed_size)
                    voxels = _voxels(_unpacked(file, packed, size), header)
                    return _Stored(header, header.get_best_affine(), voxels)
    image = nibabel.load(file)
    if not isinstance(image, nibabel.spatialimages.SpatialImage):
        raise ValueError("it holds no voxels")
    if isinstance(image, nibabel.AnalyzeImage):  # and NIfTI, which inherits from it
        holder = image.file_map.get("header", image.file_map["image"])
        with holder.get_prepare_fileobj("rb") as stream:
            raw = image.header_class.from_fileobj(stream, check=False)
            refuse_spacing(file, raw["pixdim"][1:4].tolist(), unit_of(raw))
        _refuse_overlap(raw)
    return _Stored(image.header, np.asarray(image.affine), image.dataobj)


def _refuse_overlap(header: nibabel.AnalyzeHeader) -> None:
    """Refuses voxels that begin inside the header: nibabel takes an offset of 0 as it is."""
    single = "magic" in header and header["magic"].item().startswith(b"n+")
    if single and header.get_data_offset() < header.sizeof_hdr:
        raise ValueError(
            f"its voxels begin at byte {header.get_data_offset()}, inside its header; save it anew"
        )


def refuse_huge(file: Path, shape: tuple[int, ...]) -> None:
    """Refuses a frame of more than `MOST_VOXELS`, before memory is asked for.

    Example:
        >>> refuse_huge(Path("a.nii"), (512, 512, 20))
        >>> refuse_huge(Path("a.nii"), (32767, 32767, 32767))
        Traceback (most recent call last):
        cardiac_attrivae.schema.DataError: a.nii has shape (32767, 32767, 32767); expected at ...
    """
    if math.prod(shape[:3]) > MOST_VOXELS:
        raise DataError(f"{file.name} has shape {shape}; expected at most {MOST_VOXELS} voxels")


def _refuse_rest(file: Path, size: int) -> None:
    raise DataError(
        f"{file.name} unpacks to far more than its header states; expected {size} bytes, and at "
        f"most {MOST_REST} after them"
    )


def _size(header: nibabel.spatialimages.SpatialHeader) -> int:
    """Bytes of an unpacked file up to its last voxel."""
    voxels = math.prod(header.get_data_shape()) * header.get_data_dtype().itemsize
    return max(getattr(header, "get_data_offset", int)() + voxels, 0)


def _unpacked(file: Path, packed: bytes, size: int) -> bytes:
    """Unpacks a gzip file up to the last voxel and compares its checksum."""
    limit = size + 1  # room to come to the checksum
    try:  # in half the time that zlib takes
        fast = isal_zlib.decompressobj(wbits=31)
        unpacked, ended, rest = fast.decompress(packed, limit), fast.eof, fast.unused_data
    except isal_zlib.error:  # type: ignore[misc]  # its stub has no class; zlib says what is wrong
        slow = zlib.decompressobj(wbits=31)
        unpacked, ended, rest = slow.decompress(packed, limit), slow.eof, slow.unused_data
    if ended and len(unpacked) == size and not rest:
        return unpacked
    # Several parts, of which zlib unpacks the first; or more than the header says, or less. Zeros
    # after the last part are allowed, but gzip takes them one by one.
    packed = packed[: len(packed.rstrip(b"\0")) + 16]
    with gzip.open(io.BytesIO(packed)) as parts:
        unpacked = parts.read(size)
        _to_the_end(parts, file, size)
    return unpacked


def _voxels(unpacked: bytes, header: nibabel.Nifti1Header) -> np.ndarray:
    """Views the voxels in an unpacked file, or applies the header's scaling to them."""
    from nibabel.volumeutils import apply_read_scaling

    shape, dtype = header.get_data_shape(), header.get_data_dtype()
    if len(unpacked) < _size(header):
        raise ValueError(f"it ends before its last voxel; expected {_size(header)} bytes")
    voxels = np.frombuffer(unpacked, dtype, math.prod(shape), header.get_data_offset())
    return apply_read_scaling(voxels.reshape(shape, order="F"), *header.get_slope_inter())


def are_finite(voxels: np.ndarray) -> bool:
    """Tells whether no voxel is NaN, infinite, or too large for float32.

    Example:
        >>> are_finite(np.array([0.0, -1e6])), are_finite(np.array([0.0, np.nan]))
        (True, False)
    """
    if voxels.dtype.kind != "f":
        return True
    return bool(voxels.max(initial=0) < MOST_SIGNAL and voxels.min(initial=0) > -MOST_SIGNAL)


def lost_contrast(voxels: np.ndarray) -> str:
    """Says that float32 rounds most of a picture's contrast away; empty if it does not.

    Example:
        >>> lost_contrast(np.array([2**63, 2**63 + 4000], np.uint64))[:60]
        'holds values of up to 9.22e+18 that lie within 4e+03, which '
        >>> lost_contrast(np.array([-2000.0, 65000.0]))
        ''
    """
    if voxels.dtype.kind in "iu" and voxels.dtype.itemsize < 4:
        return ""
    low, high = voxels.min().item(), voxels.max().item()  # whole numbers stay exact
    largest = max(abs(low), abs(high))
    if not 0 < high - low < largest * LEAST_STEPS / 2**24:
        return ""
    return (
        f"holds values of up to {float(largest):.3g} that lie within {float(high - low):.3g}, "
        "which float32 hardly tells apart: subtract the smallest value, and save it again"
    )


def read_to_the_end(file: Path) -> None:
    """Reads a gzip file to its end, where gzip compares the checksum; refuses a damaged one, and
    one that unpacks to far more than its header states.

    Example:
        >>> import nibabel
        >>> voxels = np.random.default_rng(0).random((16, 16, 4))
        >>> nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), "image.nii.gz")
        >>> file = Path("image.nii.gz")
        >>> read_to_the_end(file)
        >>> _ = file.write_bytes(file.read_bytes()[:-1])
        >>> read_to_the_end(file)
        Traceback (most recent call last):
        cardiac_attrivae.schema.DataError: image.nii.gz cannot be read: Compressed file ended ...
    """
    import nibabel

    try:
        with quiet_nibabel():
            header = nibabel.load(file).header
    except Exception:  # `read_volume` says what is wrong with it
        return
    size = _size(header) if isinstance(header, nibabel.spatialimages.SpatialHeader) else 0
    if file.stat().st_size > size + MOST_REST:
        _refuse_rest(file, size)
    try:
        with gzip.open(file) as stream:
            _to_the_end(stream, file, size)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file.name} cannot be read: {_reason(error, file)}") from None


def _reason(error: BaseException, file: Path) -> str:
    """What damage was found, without the two checksums."""
    reason = without_folder(error, file).partition(" 0x")[0]
    if reason.startswith("Not a gzipped file"):  # the start was, see `_open`
        return "other bytes follow the packed ones; unpack it, and pack it again"
    if reason.startswith("Cannot work out file type"):
        return (
            "it is no NIfTI file (.nii, .nii.gz); of scans, .nrrd, .mha and .mhd are read as well, "
            "and of DICOM the folder of a cine"
        )
    return reason


def _to_the_end(stream: gzip.GzipFile, file: Path, size: int) -> None:
    while stream.read(1 << 22):
        if stream.tell() > size + MOST_REST:
            _refuse_rest(file, size)
