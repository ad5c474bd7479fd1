"""ED, ES and ejection fraction from known curves."""

import numpy as np
import pytest

from cardiac_attrivae.heart import mass_g, ventricle
from cardiac_attrivae.metrics.cardiac_function import find_phases


def beat(frames, ed, systole=0.35):
    """LV volumes over a circular heart beat that is fullest at ``ed`` and empties fast."""
    t = ((np.arange(frames) - ed) % frames) / frames
    share = np.where(t < systole, np.sin(np.pi / 2 * t / systole) ** 2,
                     np.cos(np.pi / 2 * (t - systole) / (1 - systole)) ** 2)  # fmt: skip
    return 150 - 90 * share


@pytest.mark.parametrize("frames", [8, 20, 25, 30])
@pytest.mark.parametrize("ed", [0, 1, 7])
def test_ed_and_es_are_found_within_one_frame_wherever_the_cine_begins(frames, ed):
    found, es = find_phases(beat(frames, ed))
    curve = beat(frames, ed)
    assert min(abs(found - ed), frames - abs(found - ed)) <= 1
    assert abs(es - int(curve.argmin())) <= 1


def test_noise_of_a_few_ml_moves_them_by_no_more_than_a_frame_or_two():
    rng = np.random.default_rng(0)
    apart = []
    for _ in range(50):
        ed, es = find_phases(beat(25, 4) + rng.normal(0, 2, 25))
        apart.append(max(abs(ed - 4), abs(es - int(beat(25, 4).argmin()))))
    assert np.mean(np.array(apart) <= 2) > 0.9


def test_a_curve_turned_in_time_turns_what_is_found():
    curve = beat(24, 3)
    for shift in range(24):
        ed, es = find_phases(np.roll(curve, shift))
        first = find_phases(curve)
        assert (ed, es) == ((first[0] + shift) % 24, (first[1] + shift) % 24)


def test_few_frames_are_taken_as_they_are():
    assert find_phases(np.array([90.0, 150, 60])) == (1, 2)
    assert find_phases(np.array([90.0])) == (0, 0)
    with pytest.raises(ValueError, match="expected one for each frame"):
        find_phases(np.array([]))


def test_ejection_fraction_is_the_share_that_leaves():
    assert ventricle(120.0, 48.0).ef_percent == pytest.approx(60)
    assert ventricle(120.0, 48.0).sv_ml == 72
    assert np.isnan(ventricle(0.0, 0.0).ef_percent)
    assert mass_g(120.0) == pytest.approx(126)
