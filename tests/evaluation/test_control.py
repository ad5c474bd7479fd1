"""Measured control, on decoders that draw what they are told and a segmenter that sees it."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from cardiac_attrivae.evaluation.control import (
    measure_control,
    segmented,
    traversed,
    turn,
)
from cardiac_attrivae.metrics.calibration import Calibration
from cardiac_attrivae.metrics.control import STEPS, control_scores
from cardiac_attrivae.schema import HEART, STRUCTURES, LatentTable, Scale, Structure
from cardiac_attrivae.segmentation.judge import Segmenter
from cardiac_attrivae.training.run import decode

NAMES = ("LVEDA", "MEDA", "RVEDA")
PIXEL = 0.25  # cm^2
SCALE = Scale(PIXEL)
SIZE = 64


class Drawing(nn.Module):
    """Draws bars: ``mixing @ z`` square centimetres of each structure, plus 15, in bands."""

    def __init__(self, mixing=None):
        super().__init__()
        self.mixing = nn.Parameter(torch.eye(3) if mixing is None else torch.as_tensor(mixing))

    def decode(self, z):
        pixels = ((z[:, :3] @ self.mixing.T + 15) / PIXEL).round().clamp(0, SIZE * 20)
        picture = torch.zeros(len(z), 3, SIZE * 20)
        place = torch.arange(SIZE * 20)
        for k, structure in enumerate(HEART):
            picture[:, k] = (place < pixels[:, k, None]) * (structure / 4)
        return picture.reshape(len(z), 1, 3 * SIZE, 20)


class Reading(nn.Module):
    """Logits of labels that stand in the picture as grey values."""

    def forward(self, images):
        return -torch.cat([(images - s / 4).abs() for s in (0, *HEART)], dim=1)


class Reader(Segmenter):
    def __call__(self, images):
        return (images * 4).round().to(torch.uint8)


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(12, 5))
    cases = tuple(f"patient{k:03d}" for k in range(12))
    return LatentTable(cases, codes, codes[:, :3] + 15, NAMES, (0, 1, 2))


def measured(table, mixing=None):
    network, reader = Drawing(mixing), Reader(Reading(), {}, 0)
    calibration = Calibration.fit(table)
    return measure_control(network, reader, calibration, table.codes, table.cases, SCALE)


def scores(control, rounds=50):
    rows = control_scores(control, np.ones(3), rounds)
    return {(row.metric, row.attribute): row for row in rows}


def test_turning_changes_one_dimension():
    codes = np.random.default_rng(0).normal(size=(4, 5))
    turned = turn(codes, 2, np.array([-1.0, 0.0, 7.0]))
    assert turned.shape == (4, 3, 5)
    np.testing.assert_array_equal(turned[:, :, 2], np.tile([-1.0, 0.0, 7.0], (4, 1)))
    others = [0, 1, 3, 4]
    np.testing.assert_array_equal(turned[:, 1][:, others], codes[:, others])


def test_every_attribute_patient_and_step_has_a_row_with_what_was_drawn(table):
    control = measured(table)
    assert len(control) == 3 * 12 * len(STEPS)
    assert control.groupby(["attribute", "case"])["step"].apply(list).map(len).eq(9).all()
    row = control[(control["attribute"] == "MEDA") & (control["case"] == "patient004")].iloc[-1]
    place = table.codes[:, 1].mean() + 2 * table.codes[:, 1].std()
    assert row["requested"] == pytest.approx(place + 15)
    assert row["MYO"] == pytest.approx(place + 15, abs=PIXEL)
    assert row["LV"] == pytest.approx(table.codes[4, 0] + 15, abs=PIXEL)


def test_a_perfect_decoder_is_in_control_and_leaks_nothing(table):
    found = scores(measured(table))
    for name in (*NAMES, "mean"):
        assert found["Control", name].value > 0.99
        assert found["Control_slope", name].value == pytest.approx(1, abs=0.05)
        assert found["Control_error", name].value < PIXEL
        assert found["Control_leak", name].value == pytest.approx(0, abs=0.02)
    assert found["Control_monotone", "mean"].value > 0.9  # a step may be less than a pixel
    assert found["Control", "LVEDA"].dimension == 0
    assert found["Control", "LVEDA"].patients == 12


def test_a_deaf_decoder_scores_nothing(table):
    found = scores(measured(table, np.zeros((3, 3), np.float32)))
    for name in NAMES:
        assert found["Control", name].value == 0
        assert found["Control_slope", name].value == pytest.approx(0, abs=1e-12)
        assert found["Control_monotone", name].value == 0
        assert np.isnan(found["Control_leak", name].value)


def test_a_decoder_that_turns_the_wrong_way_is_below_nothing(table):
    found = scores(measured(table, -np.eye(3, dtype=np.float32)))
    assert found["Control", "LVEDA"].value < -0.99
    assert found["Control_slope", "LVEDA"].value == pytest.approx(-1, abs=0.05)
    assert found["Control_monotone", "LVEDA"].value == 0


def test_what_leaks_is_the_share_of_movement_of_the_others(table):
    mixing = np.array([[1, 0, 0], [0.5, 1, 0], [0.5, 0, 1]], dtype=np.float32)
    found = scores(measured(table, mixing))
    assert found["Control_leak", "LVEDA"].value == pytest.approx(0.5, abs=0.02)  # .5 + .5 of 2
    assert found["Control_leak", "MEDA"].value == pytest.approx(0, abs=0.02)
    # in deviations: structures that vary much between patients leak less by the same area
    rows = control_scores(measured(table, mixing), np.array([1, 100, 100]), rounds=2)
    (leak,) = [r.value for r in rows if (r.metric, r.attribute) == ("Control_leak", "LVEDA")]
    assert leak < 0.02


def test_intervals_are_over_patients(table):
    """Noise of each patient widens the interval; the same patients again narrow it."""
    control = measured(table)
    rng = np.random.default_rng(0)
    for column in STRUCTURES:
        shift = dict(zip(table.cases, rng.normal(0, 2, 12), strict=True))
        control[column] += control["case"].map(shift)
    one = scores(control, 400)["Control_error", "LVEDA"]
    more = pd.concat(
        [
            part.assign(case=part["case"] + suffix)
            for _, part in control.groupby("attribute", sort=False)
            for suffix in "abcd"
        ]
    )
    four = scores(more, 400)["Control_error", "LVEDA"]
    assert four.value == pytest.approx(one.value)
    assert (one.high - one.low) / (four.high - four.low) == pytest.approx(2, rel=0.25)


def test_volumes_have_no_error_in_cm2(table):
    volumes = LatentTable(
        table.cases, table.codes, table.attributes, ("LVEDV", "MEDV", "RVEDV"), (0, 1, 2)
    )
    found = scores(measured(volumes))
    assert np.isnan(found["Control_error", "LVEDV"].value)
    assert found["Control", "LVEDV"].value > 0.99


def test_traversals_hold_the_pictures_of_their_steps(table):
    network, calibration = Drawing(), Calibration.fit(table)
    slices, requested = traversed(network, table.codes[3], calibration, np.array([-1.0, 1.0]))
    assert slices.shape == (3, 2, 1, 3 * SIZE, 20)
    code = table.codes[3].copy()
    code[2] = calibration.code_mean[2] + calibration.code_deviation[2]
    torch.testing.assert_close(slices[2, 1], decode(network, code[None])[0])
    labels, areas = segmented(Reader(Reading(), {}, 0), slices, SCALE)
    own = [areas[k, :, HEART.index(s)] for k, s in enumerate(HEART)]
    assert np.array(own) == pytest.approx(requested, abs=PIXEL)
    assert set(np.unique(labels)) <= {0, *map(int, Structure)}
