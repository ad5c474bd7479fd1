"""One frame of an image, whatever it is stored as, and its mask on the same grid.

A further format is one function like `read_volume`, and its line in `read_image`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..schema import CaseRecord, DataError
from .dicom import read_dicom
from .nifti import Volume, read_volume

APART = 0.25
"""Of a voxel: how far the affines of image and mask may put the same voxel apart."""


def read_image(image: Path, frame: int) -> Volume:
    """One frame of a NIfTI file, or of a folder of DICOM files.

    Raises:
        DataError: If it cannot be read; says why.
    """
    return read_dicom(image, frame) if image.is_dir() else read_volume(image, frame)


def laid_on(image: Volume, mask: Volume, record: CaseRecord) -> Volume:
    """The mask with its voxels in the order of the image's, as the record's ``match`` wants it.

    Raises:
        DataError: If that is ``affine``, and by the affines the two are not the same voxels.
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

    Never interpolates: the two must be the same voxels of the patient, in whatever order.

    Raises:
        DataError: If they are not, within a quarter of a voxel.
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
    spacing = tuple(mask.spacing_mm[i] for i in np.argsort(axes[:, 0]))
    return Volume(voxels, spacing, affine)
