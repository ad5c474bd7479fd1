"""Spacings of voxels: the unit in which a header counts, and what no scanner has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..schema import DataError

if TYPE_CHECKING:
    import nibabel

LEAST_MM, MOST_MM = 0.05, 100.0
"""Accepted spacings in mm. A header with a spacing beyond them states none, or not its unit."""
UNITS_MM = {"mm": 1.0, "m": 1e3, "um": 1e-3}
"""Units in which a header may count -> mm."""
UNITS = {1: "m", 3: "um"}
"""Code of a unit in NIfTI's xyzt_units; all else is taken for mm, which most headers mean that do
not say so."""


def unit_of(header: nibabel.spatialimages.SpatialHeader) -> str:
    """Returns the unit in which a header counts, of `UNITS_MM`.

    Example:
        >>> import nibabel
        >>> header = nibabel.Nifti1Header()
        >>> header.set_xyzt_units("micron", "sec")
        >>> unit_of(header), unit_of(nibabel.AnalyzeHeader())
        ('um', 'mm')
    """
    import nibabel

    if not isinstance(header, nibabel.Nifti1Header):  # from which NIfTI-2 inherits
        return "mm"
    return UNITS.get(int(header["xyzt_units"]) % 8, "mm")


def spelled_spacing(spacing: Iterable[float], unit: str = "mm") -> str:
    """Spells a spacing.

    Example:
        >>> spelled_spacing((1.5, 1.5, 0.008000000379))
        '1.5 x 1.5 x 0.008 mm'
    """
    return f"{' x '.join(f'{step:.5g}' for step in spacing)} {unit}"


def refuse_spacing(file: Path, spacing: Sequence[float], unit: str = "mm") -> None:
    """Refuses a spacing that is not positive, or that no scanner has; ``unit`` is that of the
    header, one of `UNITS_MM`.

    The raw header has to pass too: nibabel's check of it turns 0 into 1 mm and -2 into 2 mm.

    Example:
        >>> refuse_spacing(Path("a.nii"), (1.5, 1.5, 0))
        Traceback (most recent call last):
        cardiac_attrivae.schema.DataError: a.nii states a spacing of 1.5 x 1.5 x 0 mm; expected ...
        >>> refuse_spacing(Path("a.nii"), (0.0015, 0.0015, 0.008), "m")
    """
    if not all(LEAST_MM <= step * UNITS_MM[unit] <= MOST_MM for step in spacing):
        mend = f"; if {unit} is wrong, correct its xyzt_units: header.set_xyzt_units('mm')"
        raise DataError(
            f"{file.name} states a spacing of {spelled_spacing(spacing, unit)}; expected positive "
            f"numbers, {LEAST_MM:g} to {MOST_MM:g} mm{mend if unit != 'mm' else ''}"
        )
