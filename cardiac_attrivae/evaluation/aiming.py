"""Sets latent dimensions so that a decoder draws the requested areas."""

from __future__ import annotations

from collections.abc import Mapping
from reprlib import repr as short
from typing import Any

import numpy as np

from ..attributes import ATTRIBUTES, check_values, column_of, is_area, is_size
from ..metrics.calibration import Calibration
from ..models.vae import VAE
from ..schema import Scale
from ..segmentation.judge import Segmenter
from .control import measured_areas

REACH = 4.0
"""How far a dimension may be set from its mean, in standard deviations of the training codes."""


def check_request(request: Mapping[str, float], field_cm2: float) -> None:
    """Refuses what is no mapping, what `check_values` refuses, and areas that do not fit in a slice
    of ``field_cm2``.

    Example:
        >>> check_request({"LVEDA": 300}, field_cm2=277)
        Traceback (most recent call last):
        ValueError: LVEDA is 300 cm2; expected an area that fits in a slice of 277 cm2
    """
    given: Any = request
    if not isinstance(given, Mapping):
        raise ValueError(
            f"request is {short(given)}; expected values by attribute, such as {{'LVEDA': 28}}"
        )
    check_values(request)
    for name, value in request.items():
        if is_area(name) and value > field_cm2:
            unit = ATTRIBUTES[name].unit
            raise ValueError(
                f"{name} is {value:g} {unit}; expected an area that fits in a slice of "
                f"{field_cm2:.0f} {unit}"
            )


def aimed(
    network: VAE,
    segmenter: Segmenter,
    calibration: Calibration,
    codes: np.ndarray,
    request: Mapping[str, float | np.ndarray],
    scale: Scale,
    rounds: int = 12,
) -> np.ndarray:
    """Sets the dimensions of the requested attributes so that they are drawn.

    Starts from the lines of the calibration, then moves each dimension by what is still missing
    divided by its slope, up to `REACH` from the mean; of all rounds, the nearest one is kept. One
    slice does not show a volume, so dimensions of volumes stay on their lines; in stacks, those of
    areas do.

    Args:
        network: Decoder.
        segmenter: Measures what is drawn in each round.
        calibration: Lines of the network.
        codes: Codes to start from, (N, D).
        request: Attribute -> one value, or one for each code, (N,).
        scale: What a pixel of the slices counts for.
        rounds: How often the dimensions are moved.

    Returns:
        The new codes, (N, D).
    """
    codes = calibration.set(codes, request)
    shown = [
        k
        for k, name in enumerate(calibration.names)
        if name in request and is_size(name, scale.unit)
    ]
    if not shown:
        return codes
    columns = [calibration.dimensions[k] for k in shown]
    own = [column_of(calibration.names[k]) for k in shown]
    values = [request[calibration.names[k]] for k in shown]
    wanted = np.stack([np.broadcast_to(value, len(codes)) for value in values], axis=1)
    reach = REACH * calibration.code_deviation[shown]
    low, high = calibration.code_mean[shown] - reach, calibration.code_mean[shown] + reach
    codes[:, columns] = codes[:, columns].clip(low, high)
    best, least = codes.copy(), np.full(len(codes), np.inf)
    for _ in range(rounds):
        missing = wanted - measured_areas(network, segmenter, codes, scale)[:, own]
        error = np.abs(missing).max(axis=1)
        best[error < least] = codes[error < least]
        least = np.minimum(error, least)
        codes[:, columns] = (codes[:, columns] + missing / calibration.slope[shown]).clip(low, high)
    return best
