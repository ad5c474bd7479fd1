"""Baselines read what the crop gives away, and say so beside the models."""

import numpy as np
import pytest
import torch

from cardiac_attrivae.attributes import AREAS
from cardiac_attrivae.evaluation.baselines import (
    PIXELS,
    RIDGE,
    SEGMENTED,
    Features,
    features,
    readings,
    scores_of,
)
from cardiac_attrivae.metrics.prediction import AGREEMENT


class Perfect:
    """A segmenter that knows the masks of the slices that it is shown in order."""

    def __init__(self, dataset):
        self.labels = iter(dataset.labels)

    def __call__(self, images):
        return torch.stack([next(self.labels) for _ in images])


@pytest.fixture
def patients(drawn_slices):
    return drawn_slices.basal()


def test_features_are_those_of_each_slice(patients):
    seen = features(patients, Perfect(patients))
    images = patients.images.numpy()
    assert seen.pixels[:, 0].tolist() == (images > 0).sum(axis=(1, 2, 3)).tolist()
    assert seen.segmented == pytest.approx(patients.attributes(AREAS))
    assert seen.coarse.mean(axis=1) == pytest.approx(images.mean(axis=(1, 2, 3)), abs=1e-6)


def test_areas_of_a_perfect_segmenter_are_read_exactly_and_volumes_by_a_line(patients):
    seen = features(patients, Perfect(patients))
    for name, line in (("RVEDA", 2.0), ("LVEDV", 3.0)):
        truth = line * seen.segmented[:, 0] if name == "LVEDV" else seen.segmented[:, 2]
        read = readings(seen, truth, seen, name)
        assert read[SEGMENTED] == pytest.approx(truth)
        assert set(read) == {PIXELS, RIDGE, SEGMENTED}


def test_the_outline_alone_gives_an_area_away():
    """Where structures grow together, counting pixels is enough."""
    size = np.linspace(1, 2, 20)
    noise = np.random.default_rng(0).normal(size=(20, 256))
    seen = Features(100 * size[:, None], noise, np.outer(size, [20, 10, 30]))
    read = readings(seen, 20 * size, seen, "LVEDA")
    assert read[PIXELS] == pytest.approx(20 * size)


def test_pixels_that_are_black_in_all_but_few_patients_do_not_carry_the_ridge_away():
    """What standardising would make of them is seen in patients that it was not fitted on."""
    random = np.random.default_rng(0)
    size = random.normal(20, 5, 60)
    pixels = size[:, None] / 40 * random.uniform(0.8, 1.2, 256) + random.normal(0, 0.02, (60, 256))
    rim = np.zeros((60, 256))
    rim[:40, 200:] = 1e-4 * random.random((40, 56))  # almost nothing in the first 40
    rim[40:, 200:] = random.random((20, 56)) / 5
    pixels[:, 200:] = rim[:, 200:]
    seen, new = (
        Features(pixels[rows], pixels[rows], np.zeros((len(pixels[rows]), 3)))
        for rows in (slice(40), slice(40, None))
    )
    read = readings(seen, size[:40], new, "LVEDA")[RIDGE]
    assert np.mean((read - size[40:]) ** 2) < 0.05 * np.var(size[40:])


def test_readings_are_scored_like_those_of_codes_with_intervals():
    random = np.random.default_rng(0)
    measured = random.normal(20, 5, (30, 2))
    predicted = measured + random.normal(0, 1, (30, 2))
    cases = tuple(f"p{k}" for k in range(30))
    found = {(s.metric, s.attribute): s for s in scores_of(
        predicted, measured, ("LVEDA", "RVEDA"), cases, 50)}  # fmt: skip
    assert {metric for metric, _ in found} == set(AGREEMENT)
    r2 = found["R2", "LVEDA"]
    assert r2.low < r2.value < r2.high
    assert ("MAE", "mean") not in found
    few = scores_of(predicted[:6], measured[:6], ("LVEDA", "RVEDA"), cases[:6], 50)
    assert np.isnan([score.low for score in few]).all()
    assert np.isfinite([score.value for score in few]).all()
