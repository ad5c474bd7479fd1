"""Measured control: does the drawn heart grow when the dimension of its attribute is moved?

In the code of a patient, the dimension of one attribute is set to nine positions from -2 to 2
standard deviations of the training codes; all other dimensions stay. A segmenter measures the
structures in the decoded slices. The line that `Calibration` fitted on training patients converts
each position to a *requested* value.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from ..data.store import areas
from ..metrics.calibration import Calibration
from ..metrics.control import STEPS
from ..models.vae import VAE
from ..schema import Phase, Scale, structures_at
from ..segmentation.judge import Segmenter
from ..training.run import decode

CHUNK = 64
"""Slices that are drawn and measured at a time: memory does not grow with the patients."""


def turn(codes: np.ndarray, dimension: int, positions: np.ndarray) -> np.ndarray:
    """Sets one dimension of codes (N, D) to each of the positions (S,); returns (N, S, D).

    Example:
        >>> turn(np.zeros((1, 2)), 1, np.array([-1.0, 3.0])).tolist()
        [[[0.0, -1.0], [0.0, 3.0]]]
    """
    turned = np.repeat(codes[:, None], len(positions), axis=1)
    turned[:, :, dimension] = positions
    return turned


def traversed(
    network: VAE, code: np.ndarray, calibration: Calibration, steps: np.ndarray
) -> tuple[torch.Tensor, np.ndarray]:
    """Turns a code (D,) along every attribute, by ``steps`` (S,) deviations of the training codes;
    positive is more of the attribute.

    Returns:
        Slices (K, S, C, H, W), and the values that they stand for, (K, S); nan where the line is
        not above 0, which no heart has.
    """
    positions = calibration.positions(steps)
    codes = [
        turn(code[None], dimension, place)[0]
        for dimension, place in zip(calibration.dimensions, positions, strict=True)
    ]
    slices = decode(network, np.concatenate(codes))
    requested = calibration.requested(positions)
    requested[requested <= 0] = np.nan
    return slices.reshape(*positions.shape, *slices.shape[1:]), requested


def segmented(
    segmenter: Segmenter, slices: torch.Tensor, scale: Scale
) -> tuple[np.ndarray, np.ndarray]:
    """Segments slices (K, S, C, H, W): labels of that shape, and their `areas`, (K, S, 3 P)."""
    labels = segmenter(slices.flatten(0, 1))
    measured = areas(labels, scale).reshape(*slices.shape[:2], -1)
    return labels.reshape(slices.shape).numpy(), measured


def measured_areas(
    network: VAE, segmenter: Segmenter, codes: np.ndarray, scale: Scale
) -> np.ndarray:
    """Draws codes (N, D) and measures LV, MYO and RV at each phase, see `areas`, (N, 3 P), a few
    slices at a time."""
    chunks = (codes[start : start + CHUNK] for start in range(0, len(codes), CHUNK))
    return np.concatenate([areas(segmenter(decode(network, chunk)), scale) for chunk in chunks])


def measure_control(
    network: VAE,
    segmenter: Segmenter,
    calibration: Calibration,
    codes: np.ndarray,
    cases: Sequence[str],
    scale: Scale,
) -> pd.DataFrame:
    """Turns every attribute of every patient, whose codes are (N, D), and measures what is drawn.

    Returns:
        A row per attribute, patient and step: attribute, dimension, case, step, requested, and the
        measured areas LV, MYO and RV in cm^2, of stacks volumes in mL; of a second phase LV_ES,
        MYO_ES and RV_ES.
    """
    parts = []
    positions = calibration.positions()
    requested = calibration.requested(positions)
    for k, (name, dimension) in enumerate(
        zip(calibration.names, calibration.dimensions, strict=True)
    ):
        turned = turn(codes, dimension, positions[k]).reshape(-1, codes.shape[1])
        measured = measured_areas(network, segmenter, turned, scale)
        n = len(codes)
        part = pd.DataFrame(
            {
                "attribute": name,
                "dimension": dimension,
                "case": np.repeat(np.asarray(cases, dtype=object), len(STEPS)),
                "step": np.tile(STEPS, n),
                "requested": np.tile(requested[k], n),
            }
        )
        columns = structures_at(Phase)[: measured.shape[1]]
        parts.append(part.join(pd.DataFrame(measured, columns=list(columns))))
    return pd.concat(parts, ignore_index=True)
