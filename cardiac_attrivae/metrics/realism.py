"""How far drawn hearts are from real ones, as two sets of pictures: functions and their table.

A reconstruction is compared with its own slice by `metrics.images`; here a set of drawn slices is
compared with a set of slices of patients. To add a score, add an entry to `REALISM`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_auc_score

from .metric import Good, Metric, Section, table_of
from .scales import POSITIVE, SHARE

RINGS = 24
"""Rings of spatial frequencies of the same width, from the mean of the picture to Nyquist."""
COARSE = 4
"""Pixels along a side of the blocks that `nearest_distance` compares."""


class Pictures(NamedTuple):
    """N slices of as many patients, or hearts."""

    images: np.ndarray  # intensities in [0, 1], (N, H, W)
    features: np.ndarray  # what a network sees in them, (N, F)
    # how drawn they look to a network that has seen none of these patients, (N,)
    scores: np.ndarray
    nearest: np.ndarray  # distances from the nearest training slice, see `nearest_distance`, (N,)


def kernel_distance(real: ArrayLike, drawn: ArrayLike) -> float:
    """Computes the kernel inception distance of features (N, F) and (M, F): unbiased, about 0 for
    two sets of the same kind.

    It is the squared maximum mean discrepancy with the kernel (x.y / F + 1)^3.

    References:
        | Demystifying MMD GANs (Binkowski et al., 2018), https://arxiv.org/abs/1801.01401

    Example:
        >>> random = np.random.default_rng(0)
        >>> one, other = random.normal(size=(2, 400, 4))
        >>> abs(kernel_distance(one, other)) < 0.05, kernel_distance(one, other + 1) > 1
        (True, True)
    """
    x, y = (np.asarray(values, dtype=float) for values in (real, drawn))
    same = sum(_off_diagonal(_kernel(one, one)).mean() for one in (x, y))
    return float(same - 2 * _kernel(x, y).mean())


def frechet_distance(real: ArrayLike, drawn: ArrayLike) -> float:
    """Computes the Fréchet distance of two normal distributions, fitted to features (N, F), (M, F).

    With fewer slices than features it is too large, for two sets of the same kind as well: read it
    beside theirs, of as many slices.

    References:
        | GANs trained by a two time-scale update rule (Heusel et al., 2017)
        | https://arxiv.org/abs/1706.08500

    Example:
        >>> one = np.random.default_rng(0).normal(size=(100, 3))
        >>> round(frechet_distance(one, one + [3, 0, 4]), 6)
        25.0
    """
    x, y = (np.asarray(values, dtype=float) for values in (real, drawn))
    spread, other = (np.atleast_2d(np.cov(values, rowvar=False)) for values in (x, y))
    shift = float(((x.mean(axis=0) - y.mean(axis=0)) ** 2).sum())
    cross = np.trace(np.real(sqrtm(spread @ other)))
    return shift + float(np.trace(spread) + np.trace(other) - 2 * cross)


def radial_spectrum(images: ArrayLike) -> np.ndarray:
    """Averages the power of pictures (N, H, W), H = W, over rings of spatial frequency, (RINGS,).

    Example:
        >>> flat = radial_spectrum(np.ones((1, 64, 64)))
        >>> flat[0] > 0, flat[1:].max() < 1e-9
        (np.True_, np.True_)
    """
    images = np.asarray(images, dtype=float)
    power = (np.abs(np.fft.fft2(images)) ** 2).mean(axis=0)
    frequency = np.fft.fftfreq(images.shape[-1])
    radius = np.hypot(frequency[:, None], frequency[None])
    ring = np.minimum((radius / 0.5 * RINGS).astype(int), RINGS)  # corners are left out
    counts = np.bincount(ring.ravel(), minlength=RINGS + 1)
    sums = np.bincount(ring.ravel(), power.ravel(), minlength=RINGS + 1)
    return sums[:RINGS] / np.maximum(counts[:RINGS], 1)


def spectrum_distance(real: ArrayLike, drawn: ArrayLike) -> float:
    """Averages, over rings of spatial frequency, the difference of the logs (base 10) of the power
    of two sets of pictures (N, H, W) and (M, H, W): 1 is ten times too much or too little.

    Example:
        >>> noise = np.random.default_rng(0).normal(size=(4, 64, 64))
        >>> round(spectrum_distance(noise, 10 * noise), 6)
        2.0
    """
    smallest = np.finfo(float).tiny
    one, other = (np.log10(radial_spectrum(x) + smallest) for x in (real, drawn))
    return float(np.abs(one - other).mean())


def nearest_distance(images: ArrayLike, known: ArrayLike) -> np.ndarray:
    """Computes how far each picture (N, H, W) is from the nearest of known ones (M, H, W), (N,).

    It is the root mean square difference of means over blocks of `COARSE` pixels: noise does not
    hide a copy.

    Example:
        >>> known = np.random.default_rng(0).random((5, 8, 8))
        >>> nearest_distance(known[2:3], known)
        array([0.])
    """
    x, y = _coarse(images), _coarse(known)
    return cdist(x, y).min(axis=1) / np.sqrt(x.shape[1])


def told_apart(real: ArrayLike, drawn: ArrayLike) -> float:
    """Computes the area under the ROC curve of scores that should be higher of drawn slices.

    Example:
        >>> told_apart([0.1, 0.2], [0.3, 0.4]), told_apart([0.1, 0.2], [0.1, 0.2])
        (1.0, 0.5)
    """
    real, drawn = np.asarray(real), np.asarray(drawn)
    truth = np.r_[np.zeros(len(real)), np.ones(len(drawn))]
    return float(roc_auc_score(truth, np.r_[real, drawn]))


def farther(real: ArrayLike, drawn: ArrayLike) -> float:
    """Divides the median distance of drawn slices from the nearest training slice by that of unseen
    patients; nan if these are training slices themselves.

    Example:
        >>> farther([2.0, 4.0, 6.0], [1.0, 2.0, 9.0])
        0.5
    """
    usual, found = (float(np.median(np.asarray(values))) for values in (real, drawn))
    return found / usual if usual > 0 else float("nan")


REALISM: dict[str, Metric[[Pictures, Pictures], float]] = table_of(
    Metric(
        "Told_apart", "Told apart",
        "How well a small network tells drawn slices from real ones (AUC); .5 is not at all.",
        Section.REALISM, lambda real, drawn: told_apart(real.scores, drawn.scores),
        good=Good.LOW, scale=SHARE,
    ),
    Metric(
        "KID", "KID",
        "Kernel distance of what a network sees in drawn and in real slices.",
        Section.REALISM, lambda real, drawn: kernel_distance(real.features, drawn.features),
        digits=3, good=Good.LOW, scale=POSITIVE,
    ),
    Metric(
        "Frechet", "Fréchet",
        "Fréchet distance of what a network sees in drawn and in real slices.",
        Section.REALISM, lambda real, drawn: frechet_distance(real.features, drawn.features),
        digits=1, good=Good.LOW, scale=POSITIVE,
    ),
    Metric(
        "Spectrum", "Spectrum",
        "Difference of the power at each spatial frequency: 1 is ten times too much or too little.",
        Section.REALISM, lambda real, drawn: spectrum_distance(real.images, drawn.images),
        good=Good.LOW, scale=POSITIVE,
    ),
    Metric(
        "Nearest", "Nearest",
        "Distance from the nearest training slice over that of unseen patients; 0 is a copy.",
        Section.REALISM, lambda real, drawn: farther(real.nearest, drawn.nearest),
        good=Good.ONE, scale=POSITIVE,
    ),
)  # fmt: skip
"""Scores of real and of drawn slices, one number for both sets."""


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _off_diagonal(values: np.ndarray) -> np.ndarray:
    return values[~np.eye(len(values), dtype=bool)]


def _coarse(images: ArrayLike) -> np.ndarray:
    """Means over blocks of pictures (N, H, W), as rows."""
    x = np.asarray(images, dtype=float)
    n, height, width = x.shape
    blocks = x.reshape(n, height // COARSE, COARSE, width // COARSE, COARSE)
    return blocks.mean(axis=(2, 4)).reshape(n, -1)
