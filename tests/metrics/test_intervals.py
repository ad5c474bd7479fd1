"""Intervals stay in the range of their score, hold it, and are exact where nothing varies."""

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cardiac_attrivae.metrics import catalogue, scales
from cardiac_attrivae.metrics.intervals import interval, jackknife
from cardiac_attrivae.metrics.metric import find

SCALES = [name for name, scale in vars(scales).items() if isinstance(scale, scales.Scale)]


def inside(scale):
    """Values that a score on this scale may have, ends included."""
    low, high = (np.clip(end, -1e3, 1e3) for end in scale.limits)
    return st.floats(float(low), float(high))


@pytest.mark.parametrize("name", SCALES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_an_interval_stays_in_the_range_of_its_score(name, data):
    scale = getattr(scales, name)
    value = data.draw(inside(scale))
    drawn = np.array(data.draw(st.lists(inside(scale), min_size=2, max_size=30)))
    for ends in (interval, jackknife):
        low, high = ends(value, drawn, scale)
        assert scale.limits[0] <= low <= value <= high <= scale.limits[1]


def test_the_jackknife_of_a_mean_is_students_interval():
    values = np.random.default_rng(0).normal(size=12)
    without = (values.sum() - values) / 11
    expected = stats.t.interval(0.95, 11, values.mean(), stats.sem(values))
    np.testing.assert_allclose(jackknife(values.mean(), without), expected, rtol=1e-9)


@pytest.mark.parametrize("name", SCALES)
def test_a_scale_rises_and_has_an_inverse(name):
    scale = getattr(scales, name)
    values = np.linspace(max(-0.9, scale.limits[0]) + 0.01, 0.95, 9)
    assert (np.diff(scale.to(values)) > 0).all()
    np.testing.assert_allclose(scale.back(scale.to(values)), values, atol=1e-12)


@pytest.mark.parametrize("name", SCALES)
def test_where_draws_do_not_vary_the_interval_is_the_value(name):
    scale = getattr(scales, name)
    for value in {0.5, *scale.limits} - {math.inf, -math.inf}:
        ends = interval(value, np.full(9, value), scale)
        assert ends == pytest.approx((value, value), abs=1e-12)


def test_an_r2_near_1_has_no_interval_beyond_1():
    drawn = np.array([0.2, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98])
    plain = interval(0.9, drawn)
    assert plain[1] > 1
    low, high = interval(0.9, drawn, find("R2").scale)
    assert plain[0] < low < 0.9 < high < 1


def test_a_score_that_is_not_known_has_no_interval():
    for name in SCALES:
        assert np.isnan(interval(math.nan, np.full(3, math.nan), getattr(scales, name))).all()


def test_every_metric_has_a_scale():
    for metric in catalogue.EVERY.values():
        assert isinstance(metric.scale, scales.Scale)


@pytest.mark.slow
@pytest.mark.parametrize("patients", [20, 136])  # benchmarks/coverage.py has 50, too
def test_intervals_cover_the_mean_over_other_patients(patients):
    """A share of .9 in 40 simulations has a standard error of .05; .75 is three below."""
    file = Path(__file__).parents[2] / "benchmarks" / "coverage.py"
    spec = importlib.util.spec_from_file_location("coverage_benchmark", file)
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    shares = bench.coverage(patients, simulations=40, rounds=100)
    assert not {name: share for name, share in shares.items() if share < 0.75}
    assert np.mean([*shares.values()]) > 0.88
