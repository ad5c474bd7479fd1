"""Reads whole scans that no manifest describes, all frames of each, and finds them in folders."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as short

import numpy as np

from ..runtime.messages import counted
from ..schema import DataError
from .dicom import BESIDE, may_be_image, quiet_itk, read_dicom_cine
from .images import refuse_turned
from .links import check_content
from .masks import ENDS, scan_name, stem
from .nifti import (
    MOST_CINE,
    Volume,
    are_finite,
    lost_contrast,
    read_cine,
    refuse_huge,
)
from .spacing import refuse_spacing

BY_ITK = {".nrrd": "NrrdImageIO", ".mha": "MetaImageIO", ".mhd": "MetaImageIO"}
"""Endings of files that SimpleITK reads -> what reads them there."""
HEADER = 2**20
"""Bytes in which their header must end."""
MASKS = ("_gt", "_seg", "_mask")
"""How the names of masks end that lie beside their scans."""


@dataclass(frozen=True)
class Scan:
    """A short-axis scan as it is stored."""

    name: str  # name of the file or folder, without ending
    frames: np.ndarray  # signal, (X, Y, Z, T); slices along Z
    spacing_mm: tuple[float, float, float]  # along X, Y and Z
    affine: np.ndarray  # from voxels to mm in the patient (RAS), (4, 4)


def read_scan(path: str | Path) -> Scan:
    """Reads all frames of a scan.

    Args:
        path: NIfTI file (3-D, or 4-D with time last), .nrrd, .mha, or a folder with the DICOM files
            of one cine.

    Raises:
        DataError: If it cannot be read, is not finite, or its slices are not along the third axis.

    Example:
        >>> import nibabel
        >>> cine = np.zeros((64, 64, 9, 25), np.int16)
        >>> nibabel.save(nibabel.Nifti1Image(cine, np.diag([1.5, 1.5, 8, 1])), "p1_sa.nii.gz")
        >>> scan = read_scan("p1_sa.nii.gz")
        >>> scan.name, scan.frames.shape, scan.spacing_mm
        ('p1_sa', (64, 64, 9, 25), (1.5, 1.5, 8.0))
    """
    path = Path(path)
    check_content(path)
    if not path.exists():
        raise DataError(f"no scan {path}; expected a file or a folder of DICOM files")
    if path.is_dir():
        volume = read_dicom_cine(path)
    else:
        volume = _read_itk(path) if path.suffix.lower() in BY_ITK else read_cine(path)
    refuse_turned(path.name, volume.voxels.shape[:3], volume.spacing_mm)
    if not are_finite(volume.voxels):
        raise DataError(
            f"{path.name} holds NaN or infinite values, or beyond float32; expected numbers: where "
            "NaN stands for outside of the picture, write 0 there (numpy.nan_to_num)"
        )
    if lost := lost_contrast(volume.voxels):
        raise DataError(f"{path.name} {lost}")
    return Scan(scan_name(path), *volume)


def _read_itk(path: Path) -> Volume:
    """Reads a file by SimpleITK, all frames."""
    import SimpleITK

    _check_place_of_voxels(path)
    try:
        with quiet_itk():
            reader = SimpleITK.ImageFileReader()
            reader.SetImageIO(BY_ITK[path.suffix.lower()])
            reader.SetFileName(str(path))
            reader.ReadImageInformation()
            shape = tuple(int(n) for n in reader.GetSize())
            if len(shape) not in (3, 4) or reader.GetNumberOfComponents() != 1:
                raise DataError(
                    f"{path.name} has shape {shape} with {reader.GetNumberOfComponents()} values "
                    "each; expected 3-D, or 4-D with time last, of single numbers"
                )
            refuse_huge(path, shape)
            if np.prod(shape, dtype=float) > MOST_CINE:
                raise DataError(f"{path.name} has shape {shape}; expected at most {MOST_CINE}")
            image = reader.Execute()
    except RuntimeError:  # its text holds the whole path
        raise DataError(f"{path.name} cannot be read: it is damaged, or of another kind") from None
    x, y, z = (float(step) for step in image.GetSpacing()[:3])
    refuse_spacing(path, (x, y, z))
    voxels = SimpleITK.GetArrayFromImage(image).T
    affine, size = np.eye(4), len(shape)
    directions = np.reshape(image.GetDirection(), (size, size))[:3, :3]
    affine[:3, :3], affine[:3, 3] = directions * (x, y, z), image.GetOrigin()[:3]
    return Volume(
        voxels.reshape(*shape[:3], -1), (x, y, z), np.diag([-1.0, -1, 1, 1]) @ affine
    )  # LPS to RAS


def _check_place_of_voxels(path: Path) -> None:
    """Refuses a header that takes the voxels from another folder, or from several files, or does
    not end."""
    with path.open("rb") as stream:
        header = stream.read(HEADER)
    ends = len(header) < HEADER
    if path.suffix.lower() == ".nrrd":
        header, blank, _ = re.sub(rb"\r\n?", b"\n", header).partition(b"\n\n")
        ends = ends or bool(blank)
    for line in re.split(rb"[\r\n]", header):
        key, _, place = re.sub(rb"[:=]+", b"=", line, count=1).partition(b"=")
        if key.replace(b" ", b"").strip().lower() in (b"elementdatafile", b"datafile"):
            ends, name = True, place.strip()
            if not re.fullmatch(rb"(?!LIST)[^/\\%:\0]+", name) or name in (b".", b".."):
                raise DataError(
                    f"{path.name} takes its voxels from {short(os.fsdecode(name))}; expected them "
                    "in the file itself, or in one file beside it"
                )
    if not ends:
        raise DataError(f"{path.name} has a header of over {HEADER // 2**20} MiB")


def find_scans(sources: Iterable[str | Path]) -> dict[str, Path]:
    """Finds scans in files and folders, each under a name of its own: name -> file or DICOM folder.

    Of a folder all image files at any depth are taken, but not masks (``_gt``, ``_seg``,
    ``_mask``); if there is none, each of its folders that holds files is a DICOM cine, or itself if
    it does. Where names are the same, that of the folder comes before; two with the same folder
    name are refused.

    Example:
        >>> for file in ("a/sax.nii.gz", "a/sax_gt.nii.gz", "b/sax.nii.gz"):
        ...     Path(file).parent.mkdir(exist_ok=True), Path(file).touch()
        (None, None)
        (None, None)
        (None, None)
        >>> [path.as_posix() for path in find_scans(["a"]).values()]
        ['a/sax.nii.gz']
        >>> list(find_scans(["a", "b"]))
        ['a_sax', 'b_sax']
    """
    paths = [path for source in sources for path in _scans_in(Path(source))]
    if not paths:
        raise DataError(
            f"no scan was found; expected files that end with {', '.join(ENDS)}, or folders of "
            "DICOM files; links to folders are not followed"
        )
    found: dict[str, Path] = {}
    names = [scan_name(path) for path in paths]
    for path, name in zip(paths, names, strict=True):
        if names.count(name) > 1:
            name = f"{path.absolute().parent.name}_{name}"
        if name in found:
            raise DataError(f"{found[name]} and {path} would both be called {name}; rename one")
        found[name] = path
    return found


def _scans_in(source: Path) -> list[Path]:
    if not source.exists():
        raise DataError(f"no file or folder {source}; expected scans")
    if source.is_file():
        return [source]
    found = [file for file in sorted(source.rglob("*")) if file.is_file()]
    files = [file for file in found if may_be_image(file)]
    images = [file for file in files if file.name.lower().endswith(ENDS)]
    if images:
        return [file for file in images if not stem(file).endswith(MASKS)]
    if beside := [file.name for file in found if file.name.lower().endswith(BESIDE)]:
        warnings.warn(
            f"{counted(len(beside), 'file')} in {source} passed over, no DICOM by the name: "
            f"{', '.join(beside[:3])}{', ...' * (len(beside) > 3)}",
            stacklevel=2,
        )
    if any(file.parent == source for file in files):
        return [source]
    return [
        folder for folder in sorted(source.iterdir()) if any(folder in f.parents for f in files)
    ]
