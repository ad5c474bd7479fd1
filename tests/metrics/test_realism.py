"""Sets of drawn slices against sets of real ones: known values, limits and an independent sum."""

import numpy as np
import pytest

from cardiac_attrivae.metrics.realism import (
    REALISM,
    RINGS,
    Pictures,
    frechet_distance,
    kernel_distance,
    nearest_distance,
    radial_spectrum,
    spectrum_distance,
    told_apart,
)


@pytest.fixture
def random():
    return np.random.default_rng(0)


def test_the_kernel_distance_is_the_unbiased_sum_over_pairs(random):
    x, y = random.normal(size=(5, 3)), random.normal(size=(4, 3))

    def kernel(a, b):
        return (float(a @ b) / 3 + 1) ** 3

    expected = sum(
        sum(kernel(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j)
        / (len(z) * (len(z) - 1))
        for z in (x, y)
    ) - 2 * sum(kernel(a, b) for a in x for b in y) / (len(x) * len(y))
    assert kernel_distance(x, y) == pytest.approx(expected)


def test_the_kernel_distance_is_zero_on_average_for_sets_of_one_kind(random):
    found = [kernel_distance(*random.normal(size=(2, 20, 4))) for _ in range(200)]
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(200)


def test_the_frechet_distance_of_normal_distributions_is_known(random):
    x = random.normal(size=(4000, 2))
    scaled = (x - x.mean(axis=0)) * [2, 3] + x.mean(axis=0) + [1, -2]
    wanted = 1 + 4 + x.var(axis=0, ddof=1) @ [1, 4]  # (2 - 1)^2 and (3 - 1)^2 times the variances
    assert frechet_distance(x, scaled) == pytest.approx(wanted, rel=0.01)
    assert frechet_distance(x, scaled) == pytest.approx(frechet_distance(scaled, x), rel=1e-6)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-6)


def test_a_wave_has_its_power_in_its_own_ring():
    cycles, size = 16, 128
    wave = np.sin(2 * np.pi * cycles * np.arange(size) / size)[None, :, None]
    power = radial_spectrum(np.broadcast_to(wave, (2, size, size)))
    ring = int(cycles / size / 0.5 * RINGS)
    assert power.argmax() == ring
    assert power[ring] / power.sum() > 0.999


def test_the_spectrum_does_not_see_where_things_are(random):
    image = random.random((3, 32, 32))
    moved = np.roll(image, (5, 9), (1, 2))[:, ::-1]
    assert spectrum_distance(image, moved) == pytest.approx(0, abs=1e-9)
    assert spectrum_distance(image, image[:, ::-1] / 10) == pytest.approx(2)


def test_a_copy_is_near_however_noisy_it_is(random):
    known = random.random((20, 32, 32))
    known = known.repeat(4, axis=1).repeat(4, axis=2)
    copy, other = known[3:4] + random.normal(0, 0.05, (1, 128, 128)), random.random((1, 128, 128))
    near, far = (float(nearest_distance(image, known)[0]) for image in (copy, other))
    assert near < 0.02 < 0.2 < far


def test_scores_that_do_not_tell_sets_apart_give_a_half(random):
    real, drawn = random.normal(size=(2, 5000))
    assert told_apart(real, drawn) == pytest.approx(0.5, abs=0.02)
    assert told_apart(real, drawn + 1) == pytest.approx(0.76, abs=0.02)  # Phi(1 / sqrt 2)
    assert told_apart(-real, real) == pytest.approx(1 - told_apart(real, -real))


def test_every_entry_is_best_for_a_set_and_itself(random):
    images = random.random((12, 32, 32))
    one = Pictures(images, random.normal(size=(12, 4)), np.arange(12.0), 1 + random.random(12))
    other = Pictures(images**4, 3 * one.features, one.scores + 20, one.nearest / 10)
    for metric in REALISM.values():
        assert metric.rank(metric(one, one)) < metric.rank(metric(one, other)), metric.name
