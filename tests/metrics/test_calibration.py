"""Lines between dimensions and attributes: fitted, inverted, refused."""

import numpy as np
import pytest

from cardiac_attrivae.metrics.calibration import Calibration, read_lines
from cardiac_attrivae.metrics.control import STEPS
from cardiac_attrivae.schema import LatentTable

NAMES = ("LVEDA", "MEDA", "RVEDA")


def table_of(codes, attributes, dimensions=(0, 1, 2)):
    cases = tuple(f"patient{k:03d}" for k in range(len(codes)))
    return LatentTable(cases, codes, attributes, NAMES, dimensions)


@pytest.fixture
def codes():
    return np.random.default_rng(0).normal(size=(40, 6))


@pytest.fixture
def table(codes):
    noise = np.random.default_rng(1).normal(size=(40, 3))
    return table_of(codes, codes[:, :3] * [5, -2, 3] + [20, 15, 30] + 0.3 * noise)


def test_it_is_the_least_squares_line_of_each_pair(table):
    found = Calibration.fit(table)
    for k in range(3):
        slope, intercept = np.polyfit(table.codes[:, k], table.attributes[:, k], 1)
        assert found.slope[k] == pytest.approx(slope)
        assert found.intercept[k] == pytest.approx(intercept)
    assert found.read(table.codes).mean(axis=0) == pytest.approx(table.attributes.mean(axis=0))


def test_reading_inverts_setting_and_leaves_other_dimensions_alone(table):
    found = Calibration.fit(table)
    request = {"RVEDA": 41.0, "LVEDA": 12.5}
    changed = found.set(table.codes, request)
    read = dict(zip(NAMES, found.read(changed).T, strict=True))
    assert read["RVEDA"] == pytest.approx(np.full(40, 41.0))
    assert read["LVEDA"] == pytest.approx(np.full(40, 12.5))
    np.testing.assert_array_equal(changed[:, [1, 3, 4, 5]], table.codes[:, [1, 3, 4, 5]])
    assert not np.array_equal(changed, table.codes)  # and the codes given are not changed in place


def test_steps_rise_with_the_attribute_even_where_the_slope_is_negative(table):
    found = Calibration.fit(table)
    positions = found.positions()
    assert (np.diff(found.requested(positions)) > 0).all()
    assert (np.diff(positions[1]) < 0).all()  # the slope of the second attribute is negative
    middle = positions[:, len(STEPS) // 2]
    assert middle == pytest.approx(table.codes[:, :3].mean(axis=0))
    assert np.ptp(positions, axis=1) == pytest.approx(4 * table.codes[:, :3].std(axis=0))


def test_without_a_trained_dimension_the_most_informative_one_is_taken(codes):
    attributes = codes[:, [4, 2, 5]] ** 3
    assert Calibration.fit(table_of(codes, attributes, (None, None, 5))).dimensions == (4, 2, 5)


def test_two_attributes_of_one_dimension_cannot_both_be_requested(codes):
    attributes = codes[:, [4, 4, 5]] * [1, 2, 1]
    found = Calibration.fit(table_of(codes, attributes, (None, None, None)))
    assert found.dimensions == (4, 4, 5)
    with pytest.raises(ValueError, match="MEDA and LVEDA are both read off dimension 4"):
        found.set(codes, {"LVEDA": 1.0, "MEDA": 1.0})
    found.set(codes, {"MEDA": 1.0, "RVEDA": 1.0})


def test_what_no_training_patient_had_is_told(table):
    found = Calibration.fit(table)
    most = table.attributes[:, 0].max()
    assert found.outside({"LVEDA": most, "RVEDA": table.attributes[:, 2].min()}) == []
    (warning,) = found.outside({"LVEDA": most + 1})
    assert warning.startswith("LVEDA")
    assert f"{most:.3g}" in warning


def test_unknown_attributes_and_dead_dimensions_are_refused(table, codes):
    with pytest.raises(ValueError, match="no attribute 'EF'; expected some of LVEDA, MEDA, RVEDA"):
        Calibration.fit(table).set(codes, {"EF": 60.0})
    dead = codes.copy()
    dead[:, 0] = 1.0
    with pytest.raises(ValueError, match="LVEDA does not depend on dimension 0"):
        Calibration.fit(table_of(dead, table.attributes)).set(dead, {"LVEDA": 20.0})


def test_intervals_of_a_further_patient_contain_it_as_often_as_they_say():
    random, inside, level = np.random.default_rng(0), [], 0.9
    for _ in range(300):
        code = random.normal(1, 2, 12)
        value = 50 + 7 * code + random.normal(0, 3, 12)
        slope, intercept = np.polyfit(code, value, 1)
        residual = np.sqrt(((value - intercept - slope * code) ** 2).sum() / 10)
        line = {"dimension": 1, "slope": slope, "intercept": intercept, "residual_sd": residual}
        line |= {"code_mean": code.mean(), "code_deviation": code.std(), "n": 12}
        new = random.normal(1, 2, (20, 1))
        true = 50 + 7 * new[:, 0] + random.normal(0, 3, 20)
        read, low, high = read_lines(np.hstack([new * 0, new]), {"LVEDA": line}, level)[:, 0].T
        assert read == pytest.approx(intercept + slope * new[:, 0])
        inside += ((low <= true) & (true <= high)).tolist()
    assert np.mean(inside) == pytest.approx(level, abs=0.015)  # 6000 draws in groups of 20
