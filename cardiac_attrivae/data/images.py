"""Reads one frame of an image, in any known format, and puts its mask on the same grid.

To add a format, write a function like `read_volume` and call it in `read_image`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..schema import CaseRecord, DataError
from .dicom import read_dicom
from .nifti import Volume, read_volume

APART = 0.25
"""Accepted distance, in voxels, of the places that two affines give to the same voxel."""


def read_image(image: Path, frame: int) -> Volume:
    """Reads one frame of a NIfTI file, or of a folder of DICOM files.

    Args:
        image: File or folder.
        frame: 0-based.

    Raises:
        DataError: If it cannot be read; says why.

    Example:
        >>> import nibabel
        >>> nibabel.save(nibabel.Nifti1Image(np.ones((8, 6, 4)), np.eye(4)), "image.nii")
        >>> read_image(Path("image.nii"), frame=0).voxels.shape
        (8, 6, 4)
    """
    return read_dicom(image, frame) if image.is_dir() else read_volume(image, frame)


def laid_on(image: Volume, mask: Volume, record: CaseRecord) -> Volume:
    """Puts the voxels of a mask into the order of its image's, by the record's ``match``.

    Raises:
        DataError: If ``match`` is ``affine``, and by their affines the two are not the same voxels.

    Example:
        >>> image = Volume(np.zeros((3, 2, 2)), (1.0, 1.0, 8.0), np.diag([1.0, 1, 8, 1]))
        >>> mask = Volume(np.arange(12).reshape(3, 2, 2), (1.0, 1.0, 8.0), np.eye(4))
        >>> about = dict(case="p1", dataset="own", split="train", frame=0, domain="own")
        >>> files = dict(image=Path("p1.nii"), mask=Path("p1_gt.nii"), label_numbers={})
        >>> laid_on(image, mask, CaseRecord(**about, **files, match="order")) is mask
        True
        >>> laid_on(image, mask, CaseRecord(**about, **files, match="affine"))
        Traceback (most recent call last):
        cardiac_attrivae.schema.DataError: p1_gt.nii lies 0.875 voxels off its image by their ...
    """
    if record.match == "order":
        return mask
    try:
        return reordered(image, mask)
    except DataError as error:
        raise DataError(
            f"{record.mask.name} {error}. Where its affine is a placeholder, match: order in the "
            "manifest takes voxel for voxel as they are stored"
        ) from None


def reordered(image: Volume, mask: Volume) -> Volume:
    """Exchanges and flips the axes of a mask until they run as those of its image do.

    Nothing is interpolated: the two must be the same voxels of the patient, in any order.

    Raises:
        DataError: If they are not, within a quarter of a voxel.

    Example:
        >>> image = Volume(np.zeros((3, 2, 1)), (1.0, 1.0, 8.0), np.diag([1.0, 1, 8, 1]))
        >>> flipped = np.diag([-1.0, 1, 8, 1])
        >>> flipped[0, 3] = 2  # mm: where its first voxel is
        >>> mask = Volume(np.arange(6).reshape(3, 2, 1), image.spacing_mm, flipped)
        >>> reordered(image, mask).voxels[..., 0].tolist()
        [[4, 5], [2, 3], [0, 1]]
    """
    from nibabel.orientations import (
        OrientationError,
        apply_orientation,
        inv_ornt_aff,
        io_orientation,
    )

    try:
        axes = io_orientation(np.linalg.inv(image.affine) @ mask.affine)
        affine = mask.affine @ inv_ornt_aff(axes, mask.voxels.shape)
        voxels = apply_orientation(mask.voxels, axes)
    except (np.linalg.LinAlgError, OrientationError):  # an axis without length
        raise DataError("has an affine that leads nowhere, or its image has one") from None
    if voxels.shape != image.voxels.shape:
        raise DataError(
            f"has shape {voxels.shape} along the axes of its image, {image.voxels.shape}"
        )
    corners = np.indices((2, 2, 2)).reshape(3, -1) * (np.array(voxels.shape)[:, None] - 1)
    moved = np.linalg.inv(image.affine) @ affine @ np.vstack([corners, np.ones(8)])
    apart = float(np.abs(moved[:3] - corners).max())
    if not apart <= APART:
        raise DataError(
            f"lies {apart:.3g} voxels off its image by their affines; expected at most {APART}"
        )
    i, j, s = np.argsort(axes[:, 0])
    spacing = (mask.spacing_mm[i], mask.spacing_mm[j], mask.spacing_mm[s])
    return Volume(voxels, spacing, affine)
