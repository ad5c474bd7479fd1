"""Models compared: spread over training seeds, and differences on the same patients.

Scores of models are compared by draws of patients that all of them share, see `bootstrap`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .intervals import interval, patient_means, per_patient, share_above
from .metric import MEAN, Score, find

Names = Sequence[tuple[str, str]]
"""Metric and attribute of each score, (S)."""


def spread(names: Names, values: np.ndarray, drawn: np.ndarray) -> list[Score]:
    """Separates the spread over training seeds from the spread over patients.

    ``values`` are scores of at least 2 models on the same patients, (M, S), ``drawn`` the same of
    shared draws of patients, (M, rounds, S), see `bootstrap`.

    Returns:
        Means over models, with ``sd`` over models of the same patients, ``sd_patients`` over
        patients of one model (root mean square over models), and the 95 % interval of the mean
        over models, over patients.

    Raises:
        ValueError: If there are fewer than 2 models.

    Example:
        >>> drawn = np.array([[[0.5], [0.7]], [[0.7], [0.9]]])
        >>> (found,) = spread([("SCC", "mean")], drawn.mean(axis=1), drawn)
        >>> round(found.value, 2), round(found.sd, 2), round(found.sd_patients, 2), found.models
        (0.7, 0.14, 0.14, 2)
    """
    if len(values) < 2:
        raise ValueError(f"values are of {len(values)} models; expected at least 2 to spread over")
    over_patients = np.sqrt(drawn.var(axis=1, ddof=min(1, drawn.shape[1] - 1)).mean(axis=0))
    over_seeds, mean, means = values.std(axis=0, ddof=1), values.mean(axis=0), drawn.mean(axis=0)
    return [
        Score(
            *name,
            float(mean[s]),
            *interval(mean[s], means[:, s], find(name[0]).scale),
            sd=float(over_seeds[s]),
            sd_patients=float(over_patients[s]),
            models=len(values),
        )
        for s, name in enumerate(names)
    ]


class Comparison(NamedTuple):
    """Two methods on the same patients.

    Example:
        >>> Comparison(0.9, 0.7, Score("SCC", "mean", 0.2, p=0.03)).difference.p
        0.03
    """

    first: float
    second: float
    difference: Score  # first - second, with a two-sided p


def differences(
    names: Names,
    first: np.ndarray,
    first_drawn: np.ndarray,
    second: np.ndarray,
    second_drawn: np.ndarray,
    patients: int,
) -> list[Comparison]:
    """Computes the difference of every score between two methods, each the mean of its models.

    p is the share of draws whose difference is as far from the mean of draws as the difference is
    from 0. Rows of two models cannot be exchanged, because their dimensions mean different things;
    for numbers per patient there is `compare_paired`. Scores of the models are (M, S), M may
    differ, those of shared draws (M, rounds, S).

    Example:
        >>> drawn = np.array([[[0.5], [0.7]]])
        >>> names, value = [("SCC", "mean")], drawn.mean(axis=1)
        >>> (found,) = differences(names, value, drawn, value - 0.1, drawn - 0.1, patients=8)
        >>> round(found.difference.value, 2), round(found.difference.p, 2)
        (0.1, 0.33)
    """
    a, b = first.mean(axis=0), second.mean(axis=0)
    drawn = first_drawn.mean(axis=0) - second_drawn.mean(axis=0)
    found = []
    for s, name in enumerate(names):
        value, draws = float(a[s] - b[s]), drawn[:, s]
        p = share_above(np.abs(draws - draws.mean()), abs(value))
        difference = Score(*name, value, *interval(value, draws), p=p, patients=patients)
        found.append(Comparison(float(a[s]), float(b[s]), difference))
    return found


def compare_paired(
    first: ArrayLike,
    second: ArrayLike,
    cases: Sequence[str],
    metric: str = "",
    rounds: int = 1000,
) -> Comparison:
    """Compares what two models have per row, (N,), such as an error or a structural similarity.

    Each patient counts once, with the mean of its rows. p comes from a permutation test: under the
    null hypothesis the two models could be swapped in any patient. The interval comes from a
    bootstrap over patients. There are as many permutations as draws, ``rounds``.

    Raises:
        ValueError: If lengths differ, a number is not finite, or there are fewer than 8 patients.

    Example:
        >>> ssim, cases = np.linspace(0.5, 0.7, 8), [*"abcdefgh"]
        >>> found = compare_paired(ssim, ssim - 0.1, cases, "SSIM")
        >>> round(found.difference.value, 2), found.difference.p < 0.05
        (0.1, True)
    """
    first, second = (np.asarray(v, dtype=float) for v in (first, second))
    for name, values in (("first", first), ("second", second)):
        if values.shape != (len(cases),) or not np.isfinite(values).all():
            raise ValueError(
                f"{name} is {values.shape} with {np.count_nonzero(~np.isfinite(values))} NaN or "
                f"infinite for {len(cases)} cases; expected one finite number per row"
            )
    difference = first - second
    each = per_patient(difference, cases)
    columns = {("first", MEAN): first, ("second", MEAN): second, (metric, MEAN): difference}
    a, b, found = patient_means(columns, cases, rounds)
    signs = np.random.default_rng(0).choice([-1, 1], size=(rounds, len(each)))
    p = share_above(np.abs(signs @ each / len(each)), abs(found.value))
    return Comparison(a.value, b.value, found._replace(p=p, n=None))
