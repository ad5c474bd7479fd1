"""How close a reconstruction comes to its image: pure functions, and the table that names them.

Arrays are (N, H, W) or (N, C, H, W), intensities in [0, 1] (data range 1); every score is (N,),
computed in float64. To add one, add an entry to `FIDELITY`.

Read SSIM with care. It is high wherever both images are empty, and a slice masked to the heart is
mostly empty: an image that is black throughout scores .64 on basal slices of ACDC and .73 on all of
them. `ssim_in_mask` looks at the heart, where black scores .002.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.ndimage import binary_erosion, convolve, gaussian_filter, uniform_filter

from ..heart import shows
from ..schema import HEART
from .metric import Good, Metric, Section, table_of
from .scales import CORRELATION, PLAIN, POSITIVE

WINDOW = 7  # pixels, side of the uniform window
SMOOTH, RIM = 1.5, 3  # pixels
CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]])  # a pixel and its four neighbours
C1, C2 = 0.01**2, 0.03**2  # (K1 L)^2 and (K2 L)^2 at data range L = 1


def ssim_map(image: ArrayLike, reconstruction: ArrayLike) -> np.ndarray:
    r"""Computes the structural similarity of the 7 x 7 window around every pixel.

    .. math:: \frac{(2 \mu_x \mu_y + C_1)(2 \sigma_{xy} + C_2)}
        {(\mu_x^2 + \mu_y^2 + C_1)(\sigma_x^2 + \sigma_y^2 + C_2)}

    Uniform windows, sample covariance (divided by 48), K1 = .01, K2 = .03: the defaults of
    scikit-image. Windows that reach over the border see the image reflected. Each channel is
    compared on its own.

    Args:
        image: (N, H, W) or (N, C, H, W) with H, W >= 7.
        reconstruction: Same shape.

    Returns:
        Similarity of each window, in [-1, 1], shape of the image.

    Raises:
        ValueError: If the shapes differ or are no batch of images, or these are under 7 pixels.

    References:
        | Image quality assessment: from error visibility to structural similarity
        | (Wang et al., 2004), https://doi.org/10.1109/TIP.2003.819861

    Example:
        >>> image = np.random.default_rng(0).random((1, 8, 8))
        >>> ssim_map(image, image).min().round(6)
        np.float64(1.0)
    """
    x, y = _checked(image, reconstruction)
    if min(x.shape[-2:]) < WINDOW:
        raise ValueError(f"images are {x.shape[-2:]}; expected at least {WINDOW} pixels a side")
    similarity = np.empty(x.shape)
    for n in np.ndindex(x.shape[:-2]):  # one image fits in the cache, a batch at once is slower
        similarity[n] = _ssim_of_one(x[n], y[n])
    return similarity


def ssim(image: ArrayLike, reconstruction: ArrayLike) -> np.ndarray:
    """Averages `ssim_map` over the windows that lie within the image, (N,).

    It equals ``skimage.metrics.structural_similarity(..., data_range=1)``, with
    ``channel_axis=0`` for (C, H, W): the published evaluation.

    Example:
        >>> ssim(np.zeros((2, 8, 8)), np.stack([np.zeros((8, 8)), np.ones((8, 8))])).round(3)
        array([1., 0.])
    """
    edge = WINDOW // 2
    inner = ssim_map(image, reconstruction)[..., edge:-edge, edge:-edge]
    return _mean_per_image(inner)


def ssim_in_mask(image: ArrayLike, reconstruction: ArrayLike, mask: ArrayLike) -> np.ndarray:
    """Averages `ssim_map` over the pixels of the mask, (N,); nan where the mask is empty.

    Args:
        image: (N, H, W) or (N, C, H, W).
        reconstruction: Same shape.
        mask: Counted where it is not 0, shape of the image; one channel serves all of them.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> image = np.random.default_rng(0).random((1, 8, 8))
        >>> ssim_in_mask(image, 0 * image, image > 0.5).round(2)
        array([0.])
    """
    similarity, mask = ssim_map(image, reconstruction), np.asarray(mask)
    one_channel = (*similarity.shape[:-3], 1, *similarity.shape[-2:])
    if mask.shape != similarity.shape and not (similarity.ndim == 4 and mask.shape == one_channel):
        raise ValueError(
            f"mask is {mask.shape}; expected the shape of the image, {similarity.shape}"
        )
    inside = np.broadcast_to(mask != 0, similarity.shape)
    axes = tuple(range(1, similarity.ndim))
    with np.errstate(invalid="ignore"):  # 0 / 0 where there is nothing to look at
        return (similarity * inside).sum(axis=axes) / inside.sum(axis=axes)


def mse(image: ArrayLike, reconstruction: ArrayLike) -> np.ndarray:
    """Averages the squared error over pixels and channels, (N,).

    Example:
        >>> mse(np.zeros((1, 2, 2)), np.full((1, 2, 2), 0.5))
        array([0.25])
    """
    x, y = _checked(image, reconstruction)
    return _mean_per_image((x - y) ** 2)


def psnr(image: ArrayLike, reconstruction: ArrayLike) -> np.ndarray:
    """Computes the peak signal-to-noise ratio in dB at a peak of 1, -10 log10(MSE), (N,).

    inf where image and reconstruction are identical, as in scikit-image: no cap is invented, and
    a mean over images shows at once that one of them was copied rather than reconstructed.

    Example:
        >>> psnr(np.zeros((1, 2, 2)), np.full((1, 2, 2), 0.1)).round(1)
        array([20.])
    """
    with np.errstate(divide="ignore"):
        return -10 * np.log10(mse(image, reconstruction))


def sharpness(image: ArrayLike, reconstruction: ArrayLike, mask: ArrayLike) -> np.ndarray:
    """Divides the variance of the reconstruction's Laplacian by that of the image, (N,).

    1 is as sharp as the image, 0 is black. Below 1 is blur, above 1 is noise or invented detail. It
    is the Laplacian of the slices smoothed by a Gaussian of 1.5 pixels (2 mm at 1.3 mm): at the
    scale of a pixel the checkerboard that transposed convolutions draw looks sharp. Counted 3
    pixels and more inside the mask, so that its edge does not count; nan where there are none.

    Args:
        image: (N, H, W) or (N, C, H, W).
        reconstruction: Same shape.
        mask: Counted where it is not 0, (N, H, W) or (N, 1, H, W).

    References:
        | Diatom autofocusing in brightfield microscopy (Pech-Pacheco et al., 2000)
        | https://doi.org/10.1109/ICPR.2000.903548

    Example:
        >>> image = np.random.default_rng(0).random((1, 32, 32))
        >>> sharpness(image, 0.5 * image, np.ones((1, 32, 32)))
        array([0.25])
    """
    x, y = _checked(image, reconstruction)
    cross = CROSS.reshape((1,) * (x.ndim - 2) + (3, 3))
    inside = binary_erosion(np.asarray(mask) != 0, cross, iterations=RIM)
    inside = np.broadcast_to(inside, x.shape)
    with np.errstate(invalid="ignore", divide="ignore"):  # 0 / 0 where there is nothing to look at
        return _bending(y, inside) / _bending(x, inside)


def dice(predicted: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """Computes the Dice overlap of LV, myocardium and RV, float32 (N, 3).

    nan where neither of the two shows a structure.

    Args:
        predicted: Canonical labels, (N, H, W) or (N, C, H, W).
        labels: What they should be, same shape.

    References:
        | Measures of the amount of ecologic association between species (Dice, 1945)
        | https://doi.org/10.2307/1932409

    Example:
        >>> dice([[[1, 1, 0, 2]]], [[[1, 0, 0, 2]]]).round(2)
        array([[0.67, 1.  ,  nan]], dtype=float32)
    """
    predicted, labels = np.asarray(predicted), np.asarray(labels)
    axes = tuple(range(1, labels.ndim))
    scores = []
    for structure in HEART:
        found, wanted = shows(predicted, structure), shows(labels, structure)
        both, total = (found & wanted).sum(axis=axes), found.sum(axis=axes) + wanted.sum(axis=axes)
        with np.errstate(invalid="ignore"):  # 0 / 0 where neither shows it
            scores.append((2 * both).astype(np.float32) / total.astype(np.float32))
    return np.stack(scores, axis=1)


FIDELITY: dict[str, Metric[[ArrayLike, ArrayLike, ArrayLike], np.ndarray]] = table_of(
    Metric(
        "SSIM", "SSIM",
        "Structural similarity over the whole slice, as published; the empty background counts.",
        Section.PICTURES, lambda image, reconstruction, mask: ssim(image, reconstruction),
        scale=CORRELATION, headline=True,
    ),
    Metric(
        "SSIM_in_mask", "SSIM in mask", "Structural similarity inside the heart alone.",
        Section.PICTURES, ssim_in_mask, scale=CORRELATION, headline=True,
        question="Are the pictures faithful?",
    ),
    Metric(
        "Sharpness", "Sharpness",
        "1 is as sharp as the slice, below is blur, above is noise or invented detail.",
        Section.PICTURES, sharpness, good=Good.ONE, scale=POSITIVE, headline=True,
    ),
    Metric(
        "PSNR", "PSNR", "Peak signal-to-noise ratio in dB, over the whole slice.",
        Section.PICTURES, lambda image, reconstruction, mask: psnr(image, reconstruction),
        digits=1, scale=PLAIN, unit="dB",
    ),
    Metric(
        "MSE", "MSE", "Mean squared error of intensities in [0, 1], over the whole slice.",
        Section.PICTURES, lambda image, reconstruction, mask: mse(image, reconstruction),
        digits=4, good=Good.LOW,
    ),
)  # fmt: skip
"""Scores of images, reconstructions and masks, a number per slice, (N,)."""

ANATOMY: dict[str, Metric[[ArrayLike, ArrayLike], np.ndarray]] = table_of(
    Metric(
        "Dice", "Dice",
        "Overlap of the expert's mask and the segmented reconstruction, 1 if the anatomy is kept.",
        Section.ANATOMY, dice, headline=True,
    ),
)  # fmt: skip
"""Scores of the labels of a reconstruction and of its slice, a number per structure, (N, 3)."""


def _ssim_of_one(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """`ssim_map` of two (H, W) images."""
    sample = WINDOW**2 / (WINDOW**2 - 1)
    # only the sum of the two variances is needed: four filters instead of five
    mean_x, mean_y, mean_xy, mean_squares = (
        uniform_filter(values, WINDOW) for values in (x, y, x * y, x * x + y * y)
    )
    product, squares = mean_x * mean_y, mean_x * mean_x + mean_y * mean_y
    covariance, variances = sample * (mean_xy - product), sample * (mean_squares - squares)
    return (2 * product + C1) * (2 * covariance + C2) / ((squares + C1) * (variances + C2))


def _bending(x: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Variance of the Laplacian over the pixels inside, (N,)."""
    kernel = CROSS.copy()
    kernel[1, 1] = -4
    smooth = gaussian_filter(x, (0,) * (x.ndim - 2) + (SMOOTH, SMOOTH))
    bends = convolve(smooth, kernel.reshape((1,) * (x.ndim - 2) + (3, 3)))
    axes = tuple(range(1, x.ndim))
    count = inside.sum(axis=axes, keepdims=True)
    mean = (bends * inside).sum(axis=axes, keepdims=True) / count
    return _mean_per_image((bends - mean) ** 2 * inside) * x[0].size / count.reshape(-1)


def _mean_per_image(values: np.ndarray) -> np.ndarray:
    return values.mean(axis=tuple(range(1, values.ndim)))


def _checked(image: ArrayLike, reconstruction: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(image, dtype=float), np.asarray(reconstruction, dtype=float)
    if x.shape != y.shape or x.ndim not in (3, 4):
        raise ValueError(
            f"image is {x.shape} and reconstruction {y.shape}; "
            "expected both (N, H, W) or both (N, C, H, W)"
        )
    return x, y
