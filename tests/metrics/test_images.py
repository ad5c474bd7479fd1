"""Fidelity of reconstructions: scikit-image's numbers, and what they do to masked slices."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from cardiac_attrivae.metrics.images import (
    FIDELITY,
    mse,
    psnr,
    sharpness,
    ssim,
    ssim_in_mask,
    ssim_map,
)

REFERENCE = Path(__file__).parents[1] / "reference"
EXACT = 1e-10  # means of float64 numbers of at most one


def draw(*shape, seed=0):
    return np.random.default_rng(seed).random(shape)


def disc(size=64, radius=12):
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return (x**2 + y**2 <= radius**2).astype(np.uint8)


@pytest.mark.parametrize("case", ["blur", "noise", "same", "zeros"])
def test_scores_equal_the_golden_numbers(case):
    expected = json.loads((REFERENCE / "ssim.json").read_text())[case]
    with np.load(REFERENCE / "ssim.npz") as arrays:
        x = arrays["x"]
        y = {"same": x, "zeros": np.zeros_like(x)}.get(case)
        y = arrays[case] if y is None else y
    found = ssim(x[None], y[None])
    golden = expected["authors_call_channel_axis0_data_range1"]
    np.testing.assert_allclose(found, [golden], rtol=0, atol=EXACT)
    np.testing.assert_allclose(mse(x[None], y[None]), [expected["mse"]], rtol=EXACT)
    decibel = np.inf if expected["psnr"] is None else expected["psnr"]
    np.testing.assert_allclose(psnr(x[None], y[None]), [decibel], rtol=EXACT)


@pytest.mark.parametrize("shape", [(5, 32, 48), (4, 1, 31, 17), (3, 2, 24, 24), (2, 7, 7)])
def test_ssim_equals_scikit_image(shape):
    x, y = draw(*shape), draw(*shape, seed=1)
    y = 0.7 * x + 0.3 * y
    axis = 0 if x.ndim == 4 else None
    expected = [
        structural_similarity(a, b, channel_axis=axis, data_range=1.0)
        for a, b in zip(x, y, strict=True)
    ]
    np.testing.assert_allclose(ssim(x, y), expected, rtol=0, atol=EXACT)


def test_the_map_equals_that_of_scikit_image_up_to_the_border():
    x, y = draw(2, 20, 30), draw(2, 20, 30, seed=1)
    for n, found in enumerate(ssim_map(x, y)):
        _, expected = structural_similarity(x[n], y[n], data_range=1.0, full=True)
        np.testing.assert_allclose(found, expected, rtol=0, atol=EXACT)


def test_the_map_equals_a_loop_over_windows():
    x, y = draw(1, 12, 10), draw(1, 12, 10, seed=1)
    found = ssim_map(x, y)[0]
    for r in range(3, 9):
        for c in range(3, 7):
            a, b = (v[0, r - 3 : r + 4, c - 3 : c + 4].ravel() for v in (x, y))
            ((va, cov), (_, vb)) = np.cov(a, b)
            luminance = (2 * a.mean() * b.mean() + 1e-4) / (a.mean() ** 2 + b.mean() ** 2 + 1e-4)
            expected = luminance * (2 * cov + 9e-4) / (va + vb + 9e-4)
            assert found[r, c] == pytest.approx(expected, abs=EXACT)


def test_psnr_equals_scikit_image():
    x, y = draw(4, 1, 16, 16), draw(4, 1, 16, 16, seed=1)
    expected = [peak_signal_noise_ratio(a, b, data_range=1.0) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(psnr(x, y), expected, rtol=EXACT)


def test_mse_is_a_mean_over_pixels_and_channels():
    x = np.zeros((3, 2, 8, 8))
    np.testing.assert_array_equal(mse(x, x + 0.5), np.full(3, 0.25))
    np.testing.assert_allclose(psnr(x, x + 0.1), np.full(3, 20.0), rtol=EXACT)


def test_the_mask_selects_windows_of_the_map():
    x, y = draw(3, 1, 20, 20), draw(3, 1, 20, 20, seed=1)
    mask = np.random.default_rng(2).integers(0, 4, x.shape)  # labels, not only 0 and 1
    similarity = ssim_map(x, y)
    expected = [s[m > 0].mean() for s, m in zip(similarity, mask, strict=True)]
    np.testing.assert_allclose(ssim_in_mask(x, y, mask), expected, rtol=0, atol=EXACT)


def test_a_mask_of_the_interior_is_plain_ssim():
    x, y = draw(2, 20, 20), draw(2, 20, 20, seed=1)
    mask = np.zeros(x.shape, bool)
    mask[:, 3:-3, 3:-3] = True
    np.testing.assert_allclose(ssim_in_mask(x, y, mask), ssim(x, y), rtol=0, atol=EXACT)


def test_one_channel_of_mask_serves_all_channels():
    x, y, mask = draw(2, 3, 16, 16), draw(2, 3, 16, 16, seed=1), np.zeros((2, 1, 16, 16))
    mask[..., 4:9, 5:11] = 1
    expected = ssim_in_mask(x, y, np.repeat(mask, 3, axis=1))
    np.testing.assert_allclose(ssim_in_mask(x, y, mask), expected, rtol=0, atol=EXACT)


def test_an_empty_mask_has_no_score():
    x, mask = draw(2, 16, 16), np.zeros((2, 16, 16))
    mask[0, 8, 8] = 1
    found = ssim_in_mask(x, x, mask)
    assert found[0] == pytest.approx(1)
    assert np.isnan(found[1])


def test_black_scores_high_on_masked_slices_and_low_inside_the_mask():
    mask = np.stack([disc(), disc(radius=16)])
    x = mask * (0.3 + 0.4 * draw(2, 64, 64))
    black = np.zeros_like(x)
    outside = 1 - np.array([(ssim_map(m, black[:1]) < 1).mean() for m in mask[:, None]])
    assert (ssim(x, black) > 0.5).all()  # the floor of a score that looks at the background
    assert (ssim_in_mask(x, black, mask) < 0.1).all()
    assert (outside > 0.5).all()


@pytest.mark.parametrize("name", FIDELITY)
def test_every_score_knows_the_identical_and_rates_more_noise_worse(name):
    x = np.stack([disc() * 0.7, disc(radius=20) * 0.4])[:, None]
    x *= 0.8 + 0.2 * draw(*x.shape, seed=2)
    noise, mask = draw(*x.shape) - 0.5, (x > 0).astype(np.uint8)
    score = FIDELITY[name]
    best = {"SSIM": 1, "SSIM_in_mask": 1, "Sharpness": 1, "PSNR": np.inf, "MSE": 0}[name]
    np.testing.assert_allclose(score(x, x, mask), np.full(2, best))
    little, much = score(x, x + 0.05 * noise, mask), score(x, x + 0.4 * noise, mask)
    assert little.shape == (2,)
    assert ((much > little) if name in ("MSE", "Sharpness") else (much < little)).all()


@pytest.mark.parametrize("name", FIDELITY)
def test_every_score_is_of_one_image_alone(name):
    x, y, mask = draw(4, 1, 16, 16), draw(4, 1, 16, 16, seed=1), np.ones((4, 1, 16, 16))
    score = FIDELITY[name]
    together = score(x, y, mask)
    for n in range(4):
        part = slice(n, n + 1)
        np.testing.assert_allclose(score(x[part], y[part], mask[part]), together[part], rtol=EXACT)
    flat = score(x[:, 0], y[:, 0], mask[:, 0])
    np.testing.assert_allclose(flat, together, rtol=EXACT)


@pytest.mark.parametrize("name", FIDELITY)
def test_single_precision_images_are_scored_in_double(name):
    x, y = draw(2, 16, 16).astype(np.float32), draw(2, 16, 16, seed=1).astype(np.float32)
    mask = np.ones(x.shape, np.uint8)
    found = FIDELITY[name](x, y, mask)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, FIDELITY[name](x.astype(float), y.astype(float), mask))


@pytest.mark.parametrize("score", [ssim_map, ssim, mse, psnr])
@pytest.mark.parametrize(
    ("x", "y"), [((2, 16, 16), (3, 16, 16)), ((16, 16), (16, 16)), ((2, 16, 16), (2, 1, 16, 16))]
)
def test_shapes_that_do_not_fit_are_refused(score, x, y):
    with pytest.raises(ValueError, match=r"expected both \(N, H, W\)"):
        score(np.zeros(x), np.zeros(y))


def test_a_mask_that_does_not_fit_is_refused():
    x = np.zeros((2, 1, 16, 16))
    for shape in [(2, 16, 16), (1, 1, 16, 16), (2, 2, 16, 16)]:
        with pytest.raises(ValueError, match="expected the shape of the image"):
            ssim_in_mask(x, x, np.ones(shape))


def test_images_smaller_than_the_window_are_refused():
    with pytest.raises(ValueError, match="expected at least 7 pixels a side"):
        ssim(np.zeros((1, 6, 16)), np.zeros((1, 6, 16)))


def test_sharpness_is_the_variance_of_the_laplacian_of_smoothed_slices_within_the_mask():
    x, y, mask = draw(2, 1, 32, 32), draw(2, 1, 32, 32, seed=1), np.zeros((2, 1, 32, 32))
    mask[..., 4:20, 6:30] = 1

    def variance(v):  # by slices of arrays
        v = np.stack([gaussian_filter(w, 1.5) for w in v[:, 0]])
        bends = v[:, :-2, 1:-1] + v[:, 2:, 1:-1] + v[:, 1:-1, :-2] + v[:, 1:-1, 2:]
        bends = bends - 4 * v[:, 1:-1, 1:-1]
        return bends[:, 6:16, 8:26].reshape(2, -1).var(axis=1)  # three pixels in from the edge

    np.testing.assert_allclose(sharpness(x, y, mask), variance(y) / variance(x), rtol=1e-10)


def test_sharpness_falls_with_blur_and_does_not_rise_with_a_checkerboard():
    mask = np.stack([disc(radius=30), disc(radius=24)])[:, None]
    texture = np.stack([gaussian_filter(t, 1) for t in draw(2, 64, 64)])[:, None]
    blurred = [np.stack([gaussian_filter(t, s) for t in texture[:, 0]])[:, None] for s in (1, 2)]
    x, little, much = texture * mask, blurred[0] * mask, blurred[1] * mask
    assert (sharpness(x, much, mask) < sharpness(x, little, mask)).all()
    assert (sharpness(x, much, mask) < 0.3).all()
    np.testing.assert_array_equal(sharpness(x, 0 * x, mask), 0)
    rows, columns = np.indices((64, 64))
    checked = much + 0.1 * (-1.0) ** (rows + columns) * mask
    np.testing.assert_allclose(sharpness(x, checked, mask), sharpness(x, much, mask), rtol=0.02)
