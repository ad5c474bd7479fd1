"""Finds end-diastole and end-systole in the volumes of a cine."""

from __future__ import annotations

import numpy as np

SMOOTHED = 8
"""Frames from which a curve is smoothed over time; fewer are too far apart."""


def find_phases(volumes_ml: np.ndarray) -> tuple[int, int]:
    """Finds ED and ES, the largest and the smallest LV of a cine, from its volume in each frame.

    Volumes are (T,). The cine is a circle: the first frame follows the last one. Its curve is
    smoothed by 1, 2, 1 over time, so that the noise of a single frame decides nothing. Frames are
    counted from 0, those of a single frame are (0, 0). One without an LV is passed over: it is
    blank.

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
    shown = np.flatnonzero(volumes) if volumes.any() else np.arange(len(volumes))
    volumes = volumes[shown]
    if len(volumes) >= SMOOTHED:
        middle = np.median([np.roll(volumes, k) for k in (-1, 0, 1)], axis=0)
        volumes = (np.roll(middle, 1) + 2 * middle + np.roll(middle, -1)) / 4
    return int(shown[volumes.argmax()]), int(shown[volumes.argmin()])
