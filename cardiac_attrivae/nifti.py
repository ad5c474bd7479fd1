"""Reads one frame of a NIfTI file, and turns every kind of damage into one kind of error."""

from __future__ import annotations

import gzip
import logging
import math
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .schema import DataError

if TYPE_CHECKING:
    import nibabel

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
            3-D or 4-D, or states a spacing that is none.
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
            voxels = np.asarray(stored.voxels[..., frame] if len(shape) == 4 else stored.voxels)
            spacing = tuple(float(zoom) for zoom in stored.header.get_zooms()[:3])
            affine = np.asarray(stored.affine)
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{file.name} is missing") from None
    # Damage shows as any of these, wherever in gzip, header or voxels it sits.
    except (OSError, EOFError, ValueError, OverflowError, MemoryError, *damage) as error:
        raise DataError(f"{file.name} cannot be read: {error}") from None
    if not all(np.isfinite(spacing)) or min(spacing) <= 0:
        raise DataError(f"{file.name} states a spacing of {spacing} mm; expected positive numbers")
    return Volume(voxels, spacing, affine)


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
                _refuse_zero(file, header)
                header.check_fix()
                if len(header.get_data_shape()) == 3:
                    voxels = _voxels(_unpacked(packed + stream.read(), header), header)
                    return _Stored(header, header.get_best_affine(), voxels)
    image = nibabel.load(file)
    if isinstance(image, nibabel.Nifti1Pair):
        holder = image.file_map.get("header", image.file_map["image"])
        with holder.get_prepare_fileobj("rb") as stream:
            _refuse_zero(file, image.header_class.from_fileobj(stream, check=False))
    return _Stored(image.header, image.affine, image.dataobj)


def _refuse_zero(file: Path, header: nibabel.Nifti1Header) -> None:
    """A spacing of 0 is none; nibabel's check of a header would make it 1 mm without a word."""
    spacing = tuple(header["pixdim"][1:4].tolist())
    if 0 in spacing:
        raise DataError(f"{file.name} states a spacing of {spacing} mm; expected positive numbers")


def _unpacked(packed: bytes, header: nibabel.Nifti1Header) -> bytes:
    """What is in a gzip file, its checksum compared, in one buffer of the size to be expected."""
    voxels = math.prod(header.get_data_shape()) * header.get_data_dtype().itemsize
    size = header.get_data_offset() + voxels
    if not 0 < size < 1032 * len(packed):  # deflate packs no denser: the header is wrong
        return gzip.decompress(packed)
    unpacked = zlib.decompress(packed, wbits=31, bufsize=size)
    # a gzip file may have several parts, of which zlib unpacks the first
    return unpacked if len(unpacked) == size else gzip.decompress(packed)


def _voxels(unpacked: bytes, header: nibabel.Nifti1Header) -> np.ndarray:
    """A view of the voxels in an unpacked file, or what the header's scaling makes of them."""
    from nibabel.volumeutils import apply_read_scaling

    shape, dtype = header.get_data_shape(), header.get_data_dtype()
    voxels = np.frombuffer(unpacked, dtype, math.prod(shape), header.get_data_offset())
    return apply_read_scaling(voxels.reshape(shape, order="F"), *header.get_slope_inter())


def read_to_the_end(file: Path) -> None:
    """Lets gzip compare its checksum, which it does at the end alone: one frame gets no so far."""
    try:
        with gzip.open(file) as stream:
            while stream.read(1 << 22):
                pass
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file.name} cannot be read: {error}") from None
