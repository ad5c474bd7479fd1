"""Reads one frame of an image, in any known format, and puts its mask on the same grid.

To add a format, write a function like `read_volume` and call it in `read_image`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..heart import Spacing
from ..schema import CaseRecord, DataError
from .dicom import read_dicom
from .nifti import Volume, read_volume

APART = 0.25
"""Accepted distance, in voxels, of the places that two affines give to the same voxel."""
NARROW_MM = 30
"""No picture of a heart is as narrow as this."""
OBLONG = 2
"""No pixel is as oblong as this."""


def read_image(image: Path, frame: int) -> Volume:
    """Reads one frame, counted from 0, of a NIfTI file, or of a folder of DICOM files; refuses
    slices that are not along the last axis.

    Example:
        >>> import nibabel
        >>> nibabel.save(nibabel.Nifti1Image(np.ones((8, 6, 4)), np.eye(4)), "image.nii")
        >>> read_image(Path("image.nii"), frame=0).voxels.shape
        (8, 6, 4)
    """
    volume = read_dicom(image, frame) if image.is_dir() else read_volume(image, frame)
    refuse_turned(image.name, volume.voxels.shape, volume.spacing_mm)
    return volume


def refuse_turned(name: str, shape: tuple[int, ...], spacing_mm: Spacing) -> None:
    """Refuses a stack whose slices are not along the last axis: its pixels are far from square, or
    its slices narrower than a heart.

    Example:
        >>> refuse_turned("a.nii", (96, 88, 10), (1.5, 1.5, 8.0))
        >>> refuse_turned("a.nii", (10, 88, 96), (8.0, 1.5, 1.5))
        Traceback (most recent call last):
        cardiac_attrivae.schema.DataError: a.nii has slices of 10 x 88 pixels of 8 x 1.5 mm: its ...
    """
    pixels = f"{shape[0]} x {shape[1]} pixels of {spacing_mm[0]:.4g} x {spacing_mm[1]:.4g} mm"
    narrow = [shape[a] * spacing_mm[a] < NARROW_MM and shape[a] < shape[2] for a in (0, 1)]
    if all(narrow):
        raise DataError(
            f"{name} has slices of {pixels}, smaller than a heart; expected whole pictures, and "
            "their true spacing"
        )
    for axis in (0, 1):
        if narrow[axis] or spacing_mm[axis] > OBLONG * max(spacing_mm[1 - axis], spacing_mm[2]):
            raise DataError(
                f"{name} has slices of {pixels}: its slices seem to lie along the "
                f"{('first', 'second')[axis]} axis; expected them along the last. Save image and "
                f"mask with numpy.moveaxis(voxels, {axis}, 2), and the spacing in that order"
            )


def turned_round(volume: Volume) -> Volume:
    """Reverses the rows, along j, of a stack: each voxel stays where its affine puts it.

    Example:
        >>> stack = Volume(np.arange(6).reshape(2, 3, 1), (1.0, 1.0, 8.0), np.diag([1.0, 1, 8, 1]))
        >>> round = turned_round(stack)
        >>> round.voxels[0, :, 0].tolist(), (round.affine @ [0, 0, 0, 1]).tolist()
        ([2, 1, 0], [0.0, 2.0, 0.0, 1.0])
    """
    reverse = np.diag([1.0, -1, 1, 1])
    reverse[1, 3] = volume.voxels.shape[1] - 1
    return volume._replace(voxels=volume.voxels[:, ::-1], affine=volume.affine @ reverse)


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
