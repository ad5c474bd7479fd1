"""Reads one frame of a NIfTI file, and turns every kind of damage into one kind of error."""

from __future__ import annotations

import gzip
import io
import logging
import math
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..runtime.messages import without_folder
from ..schema import DataError

if TYPE_CHECKING:
    import nibabel

LEAST_MM, MOST_MM = 0.05, 100.0
"""Spacing that a header may state: beyond it, it counts in other units, metres or micrometres."""
MOST_VOXELS = 2**28
"""Of a frame; a heart has some millions. A header of a few bytes may claim any number."""
MOST_SIGNAL = 1e30
"""Of a voxel: the difference of two such values is still a float32."""
NEAR = 1e-3
"""How far from a whole number a label may lie that was stored as a fraction."""

HEADER_BYTES, NIFTI_1 = 348, b"n+1\0"  # of a NIfTI-1 file, and how its header ends


class Volume(NamedTuple):
    """One frame as stored: ``voxels`` (I, J, S) in file order, and what the header says of it."""

    voxels: np.ndarray
    spacing_mm: tuple[float, float, float]
    affine: np.ndarray


@contextmanager
def quiet_nibabel() -> Iterator[None]:
    """Keeps nibabel's remarks about headers away from the user; they are counted, not shouted."""
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

    Args:
        file: 3-D, or 4-D with time last. Of a 4-D file only this frame is decoded.
        frame: 0-based; a 3-D file is this frame already.

    Raises:
        DataError: If the file cannot be read to the end of the frame, has no such frame, is not
            3-D or 4-D, or states a spacing that is none or that no scanner has.
    """
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
            if len(shape) == 4 and not 0 <= frame < shape[3]:
                raise DataError(
                    f"{file.name} has {shape[3]} frames and no frame {frame} (counted from 0)"
                )
            if dtype.kind not in "iuf":
                raise DataError(f"{file.name} holds {dtype}; expected numbers")
            refuse_huge(file, shape)
            voxels = np.asarray(stored.voxels[..., frame] if len(shape) == 4 else stored.voxels)
            spacing = tuple(float(zoom) for zoom in stored.header.get_zooms()[:3])
            affine = np.asarray(stored.affine)
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{file.name} is missing") from None
    # Damage shows as any of these, wherever in gzip, header or voxels it sits.
    except (OSError, EOFError, ValueError, OverflowError, MemoryError, *damage) as error:
        told = without_folder(error, file).partition(" 0x")[0]
        raise DataError(f"{file.name} cannot be read: {told}") from None
    refuse_spacing(file, spacing)
    return Volume(voxels, spacing, affine)


def read_mask(file: Path, frame: int) -> Volume:
    """Reads one frame of labels: `read_volume`, and 2.9999 of a mask stored as fractions is 3."""
    volume = read_volume(file, frame)
    if volume.voxels.dtype.kind != "f":
        return volume
    whole = np.rint(volume.voxels)
    with np.errstate(invalid="ignore"):  # infinity less itself
        near = np.abs(volume.voxels - whole) <= NEAR
    return volume._replace(voxels=np.where(near, whole, volume.voxels))


class _Stored(NamedTuple):
    """What a file holds: ``voxels`` are an array, or nibabel's proxy that decodes on demand."""

    header: nibabel.spatialimages.SpatialHeader
    affine: np.ndarray
    voxels: Any


def _open(file: Path) -> _Stored:
    """A 3-D ``.nii.gz`` is unpacked in one go: its stream takes half as long again."""
    import nibabel

    if file.name.endswith(".nii.gz"):
        with open(file, "rb") as stream:
            packed = stream.read(4096)
            start = zlib.decompressobj(wbits=31).decompress(packed, HEADER_BYTES)
            if len(start) == HEADER_BYTES and start.endswith(NIFTI_1):
                header = nibabel.Nifti1Header(start, check=False)
                refuse_spacing(file, header["pixdim"][1:4].tolist())
                header.check_fix()
                if len(header.get_data_shape()) == 3:
                    refuse_huge(file, header.get_data_shape())
                    voxels = _voxels(_unpacked(packed + stream.read(), header), header)
                    return _Stored(header, header.get_best_affine(), voxels)
    image = nibabel.load(file)
    if isinstance(image, nibabel.AnalyzeImage):  # and NIfTI, which comes after it
        holder = image.file_map.get("header", image.file_map["image"])
        with holder.get_prepare_fileobj("rb") as stream:
            header = image.header_class.from_fileobj(stream, check=False)
            refuse_spacing(file, header["pixdim"][1:4].tolist())
    return _Stored(image.header, image.affine, image.dataobj)


def refuse_spacing(file: Path, spacing: Sequence[float]) -> None:
    """Asked of the raw header too: nibabel's check of it makes 0 into 1 mm and -2 into 2 mm."""
    if not all(LEAST_MM <= step <= MOST_MM for step in spacing):
        raise DataError(
            f"{file.name} states a spacing of {tuple(spacing)} mm; expected positive numbers, "
            f"{LEAST_MM:g} to {MOST_MM:g}"
        )


def refuse_huge(file: Path, shape: tuple[int, ...]) -> None:
    if math.prod(shape[:3]) > MOST_VOXELS:
        raise DataError(f"{file.name} has shape {shape}; expected at most {MOST_VOXELS} voxels")


def _unpacked(packed: bytes, header: nibabel.Nifti1Header) -> bytes:
    """What a gzip file holds up to the last voxel, its checksum compared; no more is kept."""
    voxels = math.prod(header.get_data_shape()) * header.get_data_dtype().itemsize
    size = header.get_data_offset() + voxels
    stream = zlib.decompressobj(wbits=31)
    unpacked = stream.decompress(packed, max(size, 0) + 1)  # room to come to the checksum
    if stream.eof and len(unpacked) == size and not stream.unused_data:
        return unpacked
    # several parts, of which zlib unpacks the first; or more than the header says, or less
    with gzip.open(io.BytesIO(packed)) as parts:
        unpacked = parts.read(max(size, 0))
        _to_the_end(parts)
    return unpacked


def _voxels(unpacked: bytes, header: nibabel.Nifti1Header) -> np.ndarray:
    """A view of the voxels in an unpacked file, or what the header's scaling makes of them."""
    from nibabel.volumeutils import apply_read_scaling

    shape, dtype = header.get_data_shape(), header.get_data_dtype()
    voxels = np.frombuffer(unpacked, dtype, math.prod(shape), header.get_data_offset())
    return apply_read_scaling(voxels.reshape(shape, order="F"), *header.get_slope_inter())


def are_finite(voxels: np.ndarray) -> bool:
    """Whether there is neither NaN nor infinity, nor what float32 would make into infinity."""
    return voxels.dtype.kind != "f" or bool((np.abs(voxels) < MOST_SIGNAL).all())


def read_to_the_end(file: Path) -> None:
    """Lets gzip compare its checksum, which it does at the end alone: one frame gets no so far."""
    try:
        with gzip.open(file) as stream:
            _to_the_end(stream)
    except (OSError, EOFError, zlib.error) as error:
        told = without_folder(error).partition(" 0x")[0]  # without the two checksums
        raise DataError(f"{file.name} cannot be read: {told}") from None


def _to_the_end(stream: gzip.GzipFile) -> None:
    while stream.read(1 << 22):
        pass
