"""Reads one frame of a short-axis cine from a folder of DICOM files, one image in each file.

Only pixels, spacing and geometry leave this module. No text of a header, which may name the
patient, gets into a message, an array or a file.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from statistics import mode
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..schema import DataError
from .links import check_content
from .nifti import Volume, refuse_huge
from .spacing import refuse_spacing

if TYPE_CHECKING:
    import SimpleITK

SAME_MM = 0.1
"""Images that are nearer to each other along the normal show one slice at several times."""
UNEVEN = 0.05
"""Accepted variation of the distance between slices, as a share of it."""
COSINE, RATIO = 1e-3, 1e-3
"""Accepted differences of directions and pixel spacings, written in decimals, within a stack."""

NO_IMAGES = ("dicomdir", "thumbs.db", "desktop.ini")
"""Files that discs and Windows put beside the images."""

BESIDE = (".txt", ".csv", ".tsv", ".json", ".xml", ".html", ".pdf", ".md", ".log", ".png", ".jpg")
"""How files end that people put beside them; no scanner names an image so."""

MOST = 1e10
"""Accepted magnitude of any number that is read from a header: mm, ms, or a count."""

# DICOM's own names, so that a message can be looked up in its standard (PS3.6).
TAGS = {
    "ImagePositionPatient": "0020|0032",
    "ImageOrientationPatient": "0020|0037",
    "PixelSpacing": "0028|0030",
    "TriggerTime": "0018|1060",
    "InstanceNumber": "0020|0013",
    "SeriesInstanceUID": "0020|000e",
    "FrameOfReferenceUID": "0020|0052",
    "PhotometricInterpretation": "0028|0004",
    "BitsAllocated": "0028|0100",
}
PIXELS = b"\xe0\x7f\x10\x00"
"""Tag of the pixels, 7fe0|0010, as most files spell it."""


class Header(NamedTuple):
    """Place and time of the image in one file."""

    file: Path  # path of the file
    size: tuple[int, int]  # columns and rows
    # between columns and between rows; DICOM stores them in the other order
    spacing_mm: tuple[float, float]
    directions: np.ndarray  # unit vectors along which columns and rows are counted, in LPS, (2, 3)
    position_mm: np.ndarray  # centre of the first pixel, in LPS, (3,)
    trigger_ms: float | None  # order of the frames, where it is given
    number: float | None  # order of the frames, where there are no trigger times
    series: str  # only compared with that of other files, as is the next
    frame_of_reference: str


def read_dicom(folder: Path, frame: int) -> Volume:
    """Reads one frame of a cine: i counts columns, j rows, s slices along the normal.

    The normal is that of the right-handed axes (columns, rows, slices), so that a slice (I, J) is
    seen as on the scanner's screen. Rescale slope and intercept are applied. The distance of slices
    is that of their positions: SliceThickness leaves out the gap between them.

    Args:
        folder: Folder of the files of the cine, and of no other images; may have subfolders.
        frame: 0-based, by trigger time or else by instance number; a stack of one frame is that
            frame already.

    Raises:
        DataError: If a file cannot be read, there is no such frame, or the files are not the images
            of one complete stack.

    Example:
        >>> import SimpleITK
        >>> writer = SimpleITK.ImageFileWriter()
        >>> writer.KeepOriginalImageUIDOn()
        >>> Path("cine").mkdir()
        >>> for number in range(3):
        ...     image = SimpleITK.GetImageFromArray(np.full((1, 4, 6), number, np.int16))
        ...     image.SetSpacing((1.25, 1.5, 8)), image.SetOrigin((0, 0, 8 * number))
        ...     image.SetMetaData("0008|0060", "MR"), image.SetMetaData("0020|0052", "1.2")
        ...     image.SetMetaData("0020|000e", "1.3")
        ...     writer.SetFileName(f"cine/{number}.dcm"), writer.Execute(image)
        (...
        >>> volume = read_dicom(Path("cine"), frame=0)
        >>> volume.voxels.shape, volume.spacing_mm, volume.voxels[0, 0].tolist()
        ((6, 4, 3), (1.25, 1.5, 8.0), [0, 1, 2])
    """
    return _stacked(folder, frame)


def read_dicom_cine(folder: Path) -> Volume:
    """Reads all frames of a cine, voxels (I, J, S, T); see `read_dicom`.

    Raises:
        DataError: See `read_dicom`.

    Example:
        >>> Path("empty").mkdir()
        >>> read_dicom_cine(Path("empty"))
        Traceback (most recent call last):
        cardiac_attrivae.schema.DataError: empty holds no files; expected those of a DICOM cine
    """
    return _stacked(folder, None)


def _stacked(folder: Path, frame: int | None) -> Volume:
    """Reads one frame, or all of them along a fourth axis."""
    with quiet_itk():
        headers = [read_header(file) for file in _files(folder)]
        try:
            slices, step_mm = arranged(headers)
        except DataError as error:
            raise DataError(f"{folder.name} {error}") from None
        frames = len(slices[0])
        if frame is not None and frames > 1 and not 0 <= frame < frames:
            raise DataError(
                f"{folder.name} has {frames} frames and no frame {frame} (counted from 0)"
            )
        first = slices[0][0]
        spacing = (*first.spacing_mm, step_mm)
        refuse_spacing(folder, spacing)
        refuse_huge(folder, (*first.size, len(slices)))
        chosen = range(frames) if frame is None else [frame if frames > 1 else 0]
        stacks = [np.stack([_pixels(times[t]) for times in slices], axis=-1) for t in chosen]
        voxels = stacks[0] if frame is not None else np.stack(stacks, axis=-1)
    affine = np.eye(4)
    axes = np.vstack([first.directions, np.cross(*first.directions)])
    affine[:3, :3], affine[:3, 3] = axes.T * spacing, slices[0][chosen[0]].position_mm
    return Volume(voxels, spacing, np.diag([-1.0, -1, 1, 1]) @ affine)  # LPS to NIfTI's RAS


@contextmanager
def quiet_itk() -> Iterator[None]:
    """Silences ITK and the decoders in it; files with faults that matter are refused.

    ITK has an option for this, its decoders have none: they print past Python.

    Example:
        >>> with quiet_itk():
        ...     _ = os.write(2, b"this is not shown")
    """
    sys.stderr.flush()
    shown = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(shown, 2)
        os.close(shown)


def may_be_image(path: Path) -> bool:
    """Tells whether a name may be that of an image: it is not hidden, and neither one of
    `NO_IMAGES` nor ends as those in `BESIDE`.

    Example:
        >>> [may_be_image(Path(name)) for name in ("IM_0001", "DICOMDIR", ".DS_Store", "notes.txt")]
        [True, False, False, False]
    """
    name = path.name.lower()
    return name[0] != "." and name not in NO_IMAGES and not name.endswith(BESIDE)


def _files(folder: Path) -> list[Path]:
    """Lists the files in a folder and below that may be images, by `may_be_image`."""
    files = []
    for path in sorted(folder.rglob("*")):
        if may_be_image(path):
            check_content(path)
            files += [path] if path.is_file() else []
    if not files:
        raise DataError(f"{folder.name} holds no files; expected those of a DICOM cine")
    return files


def read_header(file: Path) -> Header:
    """Reads the place and time of the image in a DICOM file.

    Raises:
        DataError: If the file is not DICOM, holds several images or one in colour, or lacks an
            element.

    Example:
        >>> _ = Path("notes.txt").write_text("not an image")
        >>> with quiet_itk():
        ...     read_header(Path("notes.txt"))
        Traceback (most recent call last):
        cardiac_attrivae.schema.DataError: notes.txt is no DICOM image, or a damaged one; ...
    """
    reader = _reader(file)
    try:
        reader.ReadImageInformation()
        size = reader.GetSize()
        colours = reader.GetNumberOfComponents()
    except RuntimeError:  # its text holds the whole path
        raise DataError(
            f"{file.name} is no DICOM image, or a damaged one; expected those of the cine alone"
        ) from None
    if len(size) > 2 and size[2] > 1:
        raise DataError(
            f"{file.name} holds {size[2]} images (multi-frame DICOM); expected one in each file: "
            "convert it to NIfTI"
        )
    if colours != 1 or _text(reader, "PhotometricInterpretation") != "MONOCHROME2":
        raise DataError(f"{file.name} is not in MONOCHROME2; expected grey values, 0 for dark")
    rows_mm, columns_mm = _numbers(file, reader, "PixelSpacing", 2)
    refuse_spacing(file, (columns_mm, rows_mm))
    directions = np.reshape(_numbers(file, reader, "ImageOrientationPatient", 6), (2, 3))
    if np.abs(directions @ directions.T - np.eye(2)).max() > COSINE:
        skewed = "has an ImageOrientationPatient whose directions are not at right angles"
        raise DataError(f"{file.name} {skewed}")
    trigger, number = (
        _numbers(file, reader, tag, 1)[0] if _text(reader, tag) else None
        for tag in ("TriggerTime", "InstanceNumber")
    )
    return Header(
        file,
        (int(size[0]), int(size[1])),
        (columns_mm, rows_mm),
        directions,
        np.array(_numbers(file, reader, "ImagePositionPatient", 3)),
        trigger,
        number,
        _text(reader, "SeriesInstanceUID"),
        _text(reader, "FrameOfReferenceUID"),
    )


def _reader(file: Path) -> SimpleITK.ImageFileReader:
    import SimpleITK

    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")  # or a file of another kind would be read as that
    reader.SetFileName(str(file))
    return reader


def _text(reader: SimpleITK.ImageFileReader, tag: str) -> str:
    try:
        return reader.GetMetaData(TAGS[tag]).strip(" \0")
    except (RuntimeError, UnicodeDecodeError):  # absent, or bytes that are no text
        return ""


def _numbers(file: Path, reader: SimpleITK.ImageFileReader, tag: str, count: int) -> list[float]:
    try:
        numbers = [float(part) for part in _text(reader, tag).split("\\")]
    except ValueError:
        numbers = []
    if len(numbers) != count or not all(abs(number) < MOST for number in numbers):
        raise DataError(f"{file.name} has no {tag} that can be read; expected {count} numbers")
    return numbers


def arranged(headers: Sequence[Header]) -> tuple[list[list[Header]], float]:
    """Sorts the images of a cine by slice and by time.

    Args:
        headers: Headers of one or more images, in any order.

    Returns:
        The frames of each slice in time, slices along the normal; and the distance of slices in mm.

    Raises:
        DataError: If they are not one stack with equal steps and as many frames in each slice. The
            message continues after the name of the folder.

    Example:
        >>> def header(name, z_mm, time_ms):
        ...     axes, position = np.eye(3)[:2], np.array([0, 0, z_mm])
        ...     spacing = (1.5, 1.5)
        ...     return Header(Path(name), (64, 64), spacing, axes, position, time_ms, None, "", "")
        >>> cine = [header("d", 8, 30), header("a", 0, 0), header("c", 8, 0), header("b", 0, 30)]
        >>> slices, step_mm = arranged(cine)
        >>> [[frame.file.name for frame in times] for times in slices], step_mm
        ([['a', 'b'], ['c', 'd']], 8.0)
    """
    first = headers[0]
    others = sum(not _like(first, header) for header in headers)
    if others:
        raise DataError(
            f"holds {others} images of another size, spacing, orientation or frame of reference "
            f"than {first.file.name}; expected one short-axis cine, in a folder of its own"
        )
    places = np.array([header.position_mm for header in headers])
    depth = places @ np.cross(*first.directions)
    order = np.argsort(depth, kind="stable")
    starts = np.flatnonzero(np.diff(depth[order]) > SAME_MM) + 1
    slices = [[headers[i] for i in group] for group in np.split(order, starts)]
    if len(slices) < 2:
        raise DataError("holds a single slice position; expected a stack")
    if any(len({header.series for header in times}) > 1 for times in slices):
        raise DataError("shows a slice position in two series; expected one")
    usual = mode(len(times) for times in slices)
    for place, times in enumerate(slices, 1):
        if len(times) == usual:
            continue
        raise DataError(
            f"has {len(times)} images at slice position {place} of {len(slices)}, "
            f"{times[0].file.name} for example, and {usual} at others; expected as many frames in "
            "each: remove copies, or add the missing files"
        )
    shifts = np.abs((places - first.position_mm) @ first.directions.T) / first.spacing_mm
    if shifts.max() > 0.5:
        raise DataError(
            f"has slices that are shifted in their plane by up to {shifts.max():.3g} pixels; "
            "expected them in line"
        )
    depths = [depth[group].mean() for group in np.split(order, starts)]
    steps = np.diff(depths)
    step = float(np.median(steps))
    if np.abs(steps - step).max() > UNEVEN * step:
        raise DataError(
            f"has slices that lie {steps.min():.4g} to {steps.max():.4g} mm apart; expected equal "
            "steps: one may be missing"
        )
    return [_in_time(times) for times in slices], round(step, 4)  # positions are decimals


def _like(one: Header, other: Header) -> bool:
    """Tells whether two images may be of one stack."""
    return (
        one.size == other.size
        and one.frame_of_reference == other.frame_of_reference
        and np.allclose(one.spacing_mm, other.spacing_mm, rtol=RATIO, atol=0)
        and np.allclose(one.directions, other.directions, rtol=0, atol=COSINE)
    )


def _in_time(times: list[Header]) -> list[Header]:
    """Sorts frames of a slice by trigger time, or by number where trigger times are equal."""
    for moment in (attrgetter("trigger_ms"), attrgetter("number")):
        moments = {*map(moment, times)}
        if None not in moments and len(moments) == len(times):
            return sorted(times, key=moment)
    if len(times) == 1:
        return times
    raise DataError(
        "has frames of one slice position with equal TriggerTime and InstanceNumber; "
        "expected each image once"
    )


def _pixels(header: Header) -> np.ndarray:
    """Reads the values of an image, (I, J)."""
    import SimpleITK

    reader, (columns, rows) = _reader(header.file), header.size
    try:
        pixels = SimpleITK.GetArrayFromImage(reader.Execute())[0].T
    except RuntimeError:
        raise DataError(
            f"{header.file.name} holds pixels that cannot be read: damaged, or compressed in a way "
            "that GDCM does not know. Decompress it, or convert it to NIfTI"
        ) from None
    (bits,) = _numbers(header.file, reader, "BitsAllocated", 1)
    if not _holds(header.file.read_bytes(), int(columns * rows * bits / 8)):
        raise DataError(
            f"{header.file.name} holds fewer pixels than the {columns} x {rows} of its header: it "
            "is damaged; export it again"
        )
    return pixels


def _holds(file: bytes, size: int) -> bool:
    """Tells whether some element of pixels in a file is as long as this: to a shorter one GDCM adds
    what happens to be in memory.

    Compressed pixels have no length, a preview has pixels of its own, and a file that is compressed
    as a whole shows none.

    Example:
        >>> _holds(PIXELS + b"OW" + bytes([0, 0, 4, 0, 0, 0, 1, 2, 3, 4]), 6)
        False
    """
    lengths = []
    for tag in re.finditer(re.escape(PIXELS), file):
        start = tag.end() + 4 * (file[tag.end() : tag.end() + 2] in (b"OB", b"OW"))
        lengths.append(int.from_bytes(file[start : start + 4], "little"))
    return not lengths or max(lengths) >= size
