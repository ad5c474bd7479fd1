"""Does the heart that is drawn grow when its dimension is turned? Decoded, segmented, measured.

The attribute's dimension of a patient's code is set to nine places from -2 to 2 standard deviations
of the training codes, everything else is left, and the structures in the decoded slices are
measured by a segmenter. What is *requested* is read off the place by the line that `Calibration`
fitted on training patients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata
from torch import nn

from ..attributes import ATTRIBUTES, is_area
from ..metrics.calibration import CONTROL, STEPS, Calibration
from ..metrics.prediction import Interval, with_mean
from ..metrics.uncertainty import draw_patients
from ..schema import HEART, STRUCTURES
from ..segmentation.judge import Segmenter, areas
from ..training.run import decode

CHUNK = 64
"""Slices that are drawn and measured at a time: memory does not grow with the patients."""


def turn(codes: np.ndarray, dimension: int, positions: np.ndarray) -> np.ndarray:
    """Codes (N, D) with one dimension set to each of the positions (S,), (N, S, D)."""
    turned = np.repeat(codes[:, None], len(positions), axis=1)
    turned[:, :, dimension] = positions
    return turned


def traversed(
    network: nn.Module, code: np.ndarray, calibration: Calibration, steps: np.ndarray
) -> tuple[torch.Tensor, np.ndarray]:
    """A code (D,) turned along every attribute: slices (K, S, H, W) and what they stand for (K, S).

    ``steps`` (S,) are standard deviations of the training codes, rising with the attribute.
    """
    positions = calibration.positions(steps)
    codes = [
        turn(code[None], dimension, place)[0]
        for dimension, place in zip(calibration.dimensions, positions, strict=True)
    ]
    slices = decode(network, np.concatenate(codes))[:, 0]
    return slices.reshape(*positions.shape, *slices.shape[1:]), calibration.requested(positions)


def segmented(
    segmenter: Segmenter, slices: torch.Tensor, pixel_cm2: float
) -> tuple[np.ndarray, np.ndarray]:
    """Labels (K, S, H, W) and areas (K, S, 3) in cm^2 of slices (K, S, H, W)."""
    labels = segmenter(slices.flatten(0, 1)[:, None])
    measured = areas(labels, pixel_cm2).reshape(*slices.shape[:2], len(STRUCTURES))
    return labels.reshape(slices.shape).numpy(), measured


def measured_areas(
    network: nn.Module, segmenter: Segmenter, codes: np.ndarray, pixel_cm2: float
) -> np.ndarray:
    """Draws codes (N, D) and measures LV, MYO and RV in cm^2, (N, 3), a few slices at a time."""
    chunks = (codes[start : start + CHUNK] for start in range(0, len(codes), CHUNK))
    return np.concatenate([areas(segmenter(decode(network, chunk)), pixel_cm2) for chunk in chunks])


def measure_control(
    network: nn.Module,
    segmenter: Segmenter,
    calibration: Calibration,
    codes: np.ndarray,
    cases: Sequence[str],
    pixel_cm2: float,
) -> pd.DataFrame:
    """Turns every attribute of every patient and measures what is drawn.

    Args:
        network: Decodes.
        segmenter: Labels decoded slices.
        calibration: Of the network, on training patients.
        codes: A code per patient to start from, (N, D).
        cases: Names of the patients, length N.
        pixel_cm2: Area of a pixel of the slices.

    Returns:
        A row per attribute, patient and step: attribute, dimension, case, step, requested, and the
        measured areas LV, MYO and RV in cm^2.
    """
    parts = []
    positions = calibration.positions()
    requested = calibration.requested(positions)
    for k, (name, dimension) in enumerate(
        zip(calibration.names, calibration.dimensions, strict=True)
    ):
        turned = turn(codes, dimension, positions[k]).reshape(-1, codes.shape[1])
        measured = measured_areas(network, segmenter, turned, pixel_cm2)
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
        parts.append(part.join(pd.DataFrame(measured, columns=list(STRUCTURES))))
    return pd.concat(parts, ignore_index=True)


def control_scores(
    table: pd.DataFrame, deviations: np.ndarray, rounds: int = 1000, seed: int = 0
) -> list[Interval]:
    """What `measure_control` found, in five numbers per attribute, with intervals over patients.

    - Control: Spearman correlation of requested and measured, over all pictures.
    - Control_slope: cm^2 measured per unit requested, within a patient; 1 is perfect for an area.
    - Control_monotone: share of neighbouring steps at which the structure grew.
    - Control_error: mean of |measured - requested|; nan for volumes, which a slice does not hold.
    - Control_leak: share of all movement that was not the structure's own, 0 at best; a structure
      moves by its slope in units of its deviation over patients.

    Args:
        table: Of `measure_control`.
        deviations: Standard deviation of the areas of LV, MYO and RV over patients, (3,).
        rounds: Draws of patients.
        seed: Of the draws.

    Raises:
        ValueError: If there are fewer than 8 patients.
    """
    names = list(dict.fromkeys(table["attribute"]))
    parts = [table[table["attribute"] == name] for name in names]
    cases = tuple(parts[0]["case"].iloc[:: len(STEPS)])
    functions = [_control(part, name, deviations) for part, name in zip(parts, names, strict=True)]
    everyone = np.ones(len(cases), dtype=int)
    counts = draw_patients(cases, rounds, seed)
    values = np.array([score(everyone) for score in functions])  # (K, 5)
    drawn = np.array([[score(count) for score in functions] for count in counts])
    dimensions = [int(part["dimension"].iloc[0]) for part in parts]
    return [
        row
        for m, metric in enumerate(CONTROL)
        for row in with_mean(
            metric, names, tuple(parts[0]["case"]), values[:, m], drawn[:, :, m], dimensions
        )
    ]


def _control(
    part: pd.DataFrame, name: str, deviations: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:
    """The five numbers as a function of how often each patient is drawn, (P,) -> (5,)."""
    attribute = ATTRIBUTES[name]
    own = HEART.index(attribute.structure)
    requested = part["requested"].to_numpy()[: len(STEPS)]
    measured = (
        part[list(STRUCTURES)].to_numpy().reshape(-1, len(STEPS), len(STRUCTURES))
    )  # (P, S, 3)
    centred = requested - requested.mean()
    slopes = np.einsum("s,psk->pk", centred, measured) / max((centred**2).sum(), 1e-12)
    grew = (np.diff(measured[:, :, own], axis=1) > 0).mean(axis=1)
    error = np.abs(measured[:, :, own] - requested).mean(axis=1)
    if not is_area(name):
        error = error * np.nan

    def score(count: np.ndarray) -> np.ndarray:
        weight = count / count.sum()
        slope = weight @ slopes
        moved = np.abs(slope) / deviations
        leak = 1 - moved[own] / moved.sum() if moved.sum() > 1e-9 else np.nan
        drawn = np.repeat(measured[:, :, own], count, axis=0)
        wanted = np.tile(requested, len(drawn))
        flat = np.ptp(drawn) == 0 or np.ptp(requested) == 0
        rho = 0.0 if flat else np.corrcoef(rankdata(wanted), rankdata(drawn))[0, 1]
        return np.array([rho, slope[own], weight @ grew, weight @ error, leak])

    return score
