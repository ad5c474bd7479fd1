"""What volumes over a heart beat say: end-diastole, end-systole, ejection fraction, mass."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

MUSCLE_G_PER_ML = 1.05
"""Density of myocardium."""
SMOOTHED = 8
"""Frames from which a curve is smoothed over time; fewer are too far apart."""


class Function(NamedTuple):
    """How a ventricle pumps.

    Attributes:
        edv_ml, esv_ml: Volume at end-diastole and at end-systole.
        sv_ml: Stroke volume.
        ef_percent: Ejection fraction; NaN for an empty ventricle.
    """

    edv_ml: float
    esv_ml: float
    sv_ml: float
    ef_percent: float


def find_phases(volumes_ml: np.ndarray) -> tuple[int, int]:
    """Finds ED and ES, the largest and the smallest LV of a cine.

    The cine is a circle: the first frame follows the last one. Its curve is smoothed by 1, 2, 1
    over time, so that the noise of a single frame decides nothing.

    Args:
        volumes_ml: Volume of the LV in each frame, (T,).

    Returns:
        Frames of ED and ES, from 0; (0, 0) of a single frame.

    Raises:
        ValueError: If there is no frame.

    Example:
        >>> beat = 100 + 40 * np.cos(2 * np.pi * np.arange(20) / 20)
        >>> beat[5] = 150  # one bad frame
        >>> find_phases(beat)
        (0, 10)
    """
    volumes = np.asarray(volumes_ml, dtype=float)
    if volumes.ndim != 1 or not len(volumes):
        raise ValueError(f"volumes have shape {volumes.shape}; expected one for each frame")
    if len(volumes) >= SMOOTHED:
        middle = np.median([np.roll(volumes, k) for k in (-1, 0, 1)], axis=0)
        volumes = (np.roll(middle, 1) + 2 * middle + np.roll(middle, -1)) / 4
    return int(volumes.argmax()), int(volumes.argmin())


def ventricle(edv_ml: float, esv_ml: float) -> Function:
    """Computes stroke volume and ejection fraction.

    Args:
        edv_ml: Volume at end-diastole.
        esv_ml: Volume at end-systole.

    Example:
        >>> ventricle(150.0, 60.0)
        Function(edv_ml=150.0, esv_ml=60.0, sv_ml=90.0, ef_percent=60.0)
    """
    stroke = edv_ml - esv_ml
    return Function(edv_ml, esv_ml, stroke, 100 * stroke / edv_ml if edv_ml > 0 else float("nan"))


def mass_g(myocardium_ml: float) -> float:
    """Computes the mass of the myocardium from its volume.

    Example:
        >>> mass_g(100.0)
        105.0
    """
    return MUSCLE_G_PER_ML * myocardium_ml
