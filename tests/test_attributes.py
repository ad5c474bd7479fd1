"""Attributes measure what their names and units say."""

from itertools import pairwise

import numpy as np
import pytest

from cardiac_attrivae.attributes import (
    AREAS,
    ATTRIBUTES,
    Kind,
    areas_at,
    check_names,
    drawn,
    is_area,
    measure,
    names_at,
)
from cardiac_attrivae.data.hearts import POPULATIONS, draw_heart
from cardiac_attrivae.heart import Outlines, eccentricity, pixel_counts, wall_thickness
from cardiac_attrivae.schema import HEART, Phase, Structure

SPACING = (1.25, 1.25, 8.0)
OF_ONE = [name for name, a in ATTRIBUTES.items() if a.kind in (Kind.AREA, Kind.VOLUME)
          and len(a.phases) == 1]  # fmt: skip


def measured(at_ed, at_es=None, spacing=SPACING, index=1):
    masks = {Phase.ED: at_ed} | ({} if at_es is None else {Phase.ES: at_es})
    return measure({phase: Outlines(mask, spacing, index) for phase, mask in masks.items()})


def lined(counts):
    """A mask with these counts: a line of pixels in each slice."""
    counts = np.asarray(counts)
    width = counts.sum(axis=1).max()
    rows = [np.pad(np.repeat(list(Structure), row), (0, width - row.sum())) for row in counts]
    return np.stack(rows, axis=-1)[None]


def disc_in_ring(cavity_mm, wall_mm, spacing=SPACING, shape=(128, 120), centre=(0.3, -0.2)):
    """LV, a disc, in MYO, a ring around it; RV, another disc. (I, J, 3), the same in each slice."""
    i, j = np.indices(shape)
    x = (i - shape[0] / 2 - centre[0]) * spacing[0]
    y = (j - shape[1] / 2 - centre[1]) * spacing[1]
    mask, r = np.zeros(shape, np.uint8), np.hypot(x, y)
    mask[np.hypot(x + 55, y) < 12] = Structure.RV
    mask[r < wall_mm] = Structure.MYO
    mask[r < cavity_mm] = Structure.LV
    return np.repeat(mask[..., None], 3, axis=2)


def bound_cm2(*radii_mm):
    """Pixels that a circle can cut: those whose centre is within half a diagonal of it."""
    return sum(2 * np.pi * r * np.sqrt(2) * SPACING[0] / 2 for r in radii_mm) / 100


@pytest.mark.parametrize("radius", [8.0, 21.7, 30.0])
def test_areas_of_disc_and_ring_equal_the_formula(radius):
    values = measured(disc_in_ring(radius, radius + 9))
    disc, ring = np.pi * radius**2 / 100, np.pi * ((radius + 9) ** 2 - radius**2) / 100
    assert abs(values["LVEDA"] - disc) < bound_cm2(radius)
    assert abs(values["MEDA"] - ring) < bound_cm2(radius, radius + 9)
    # and on average over shifts the error is far below its bound
    shifts = [
        disc_in_ring(radius, radius + 9, centre=(a, b))
        for a in np.arange(0, 1, 0.2)
        for b in np.arange(0, 1, 0.2)
    ]
    mean = np.mean([measured(m, index=0)["LVEDA"] for m in shifts])
    assert mean == pytest.approx(disc, rel=5e-3)


def test_volume_is_area_times_thickness_summed_over_slices():
    values = measured(disc_in_ring(20, 28))
    for prefix in ("LV", "M", "RV"):
        area_cm2 = values[f"{prefix}EDA"]
        assert values[f"{prefix}EDV"] == pytest.approx(3 * area_cm2 * SPACING[2] / 10)


POWER = {"cm2": 2, "mL": 3, "g": 3, "mm": 1, "%": 0, "": 0}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_attributes_scale_with_spacing_as_their_units_do(name):
    masks = disc_in_ring(20, 28), disc_in_ring(13, 25)
    masks[1][..., 2][masks[1][..., 2] == Structure.RV] = 0
    once = measured(*masks)[name]
    assert once > 0
    doubled = measured(*masks, tuple(2 * s for s in SPACING))[name]
    assert doubled == pytest.approx(2 ** POWER[ATTRIBUTES[name].unit] * once)


@pytest.mark.parametrize("name", OF_ONE)
def test_an_area_or_a_volume_sees_its_own_structure_alone(name):
    counts = pixel_counts(disc_in_ring(20, 28))
    others = [s for s in Structure if s != ATTRIBUTES[name].structure]
    changed = counts.copy()
    changed[:, others] += 7
    once = measured(*[lined(counts)] * 2)[name]
    assert measured(*[lined(changed)] * 2)[name] == once
    changed[:, ATTRIBUTES[name].structure] += 7
    assert measured(*[lined(changed)] * 2)[name] > once


def test_an_area_is_that_of_its_slice_and_a_volume_that_of_all():
    mask = lined([[90, 5, 6, 7], [80, 50, 60, 70]])
    spacing = (2.0, 5.0, 10.0)  # a pixel of 0.1 cm2, a voxel of 0.1 mL
    first, second = (measured(mask, None, spacing, index) for index in (0, 1))
    names = ("LVEDV", "MEDV", "RVEDV", "LVEDA", "MEDA", "RVEDA")
    assert names_at([Phase.ED]) == names
    assert [first[name] for name in names] == pytest.approx([5.5, 6.6, 7.7, 0.5, 0.6, 0.7])
    assert [second[name] for name in names] == pytest.approx([5.5, 6.6, 7.7, 5, 6, 7])


@pytest.mark.parametrize("order", ["C", "F"])
def test_counts_equal_a_slow_count(order):
    mask = np.asarray(np.random.default_rng(0).integers(0, 4, (9, 7, 5)), np.uint8, order=order)
    slow = [[int((mask[:, :, s] == label).sum()) for label in Structure] for s in range(5)]
    assert pixel_counts(mask).tolist() == slow
    assert pixel_counts(mask[2:6, 1:4]).sum() == 4 * 3 * 5


@pytest.mark.parametrize("pathology", POPULATIONS)
def test_a_heart_on_a_fine_grid_measures_what_its_formulas_state(pathology):
    heart = draw_heart(pathology, np.random.default_rng(1))
    spacing = (0.5, 0.5, 2.0)
    i, j = np.indices((360, 360))
    x, y = (i - 215.5) * 0.5, (j - 179.5) * 0.5
    depths = np.arange(0.5, 70) * spacing[2]
    mask = np.stack([heart.labels(x, y, z) for z in depths], axis=-1)
    counts = pixel_counts(mask)
    values = measured(mask, None, spacing, 3)
    volumes = [values[name] for name in ("LVEDV", "MEDV", "RVEDV")]
    areas = [values[name] for name in ("LVEDA", "MEDA", "RVEDA")]
    # half a per cent: the thin wall on a grid of .5 mm, and the midpoint rule along the axis
    assert volumes == pytest.approx(heart.volumes().tolist(), rel=5e-3)
    assert areas == pytest.approx(heart.areas(depths[3]).tolist(), rel=5e-3)
    assert (counts[:, HEART].sum(axis=1) > 0).sum() == (depths < max(heart.lengths_mm)).sum()
    assert all(a >= b for a, b in pairwise(counts[:, HEART].sum(axis=1)))


def test_volumes_of_a_stack_tell_a_fraction_and_no_length():
    sizes = np.array([200.0, 150, 300, 80, 160, 200])
    assert drawn("LVEF", sizes, "mL") == pytest.approx(60)
    assert np.isnan(drawn("WT_mean_ED", sizes, "mL"))
    assert drawn("WT_mean_ED", sizes) > 0


def test_unknown_repeated_and_missing_names_are_refused():
    assert check_names(["RVEDV", "LVEDA"]) == ("RVEDV", "LVEDA")
    with pytest.raises(ValueError, match="unknown attribute 'LVEDVI', did you mean 'LVEDV'"):
        check_names(["LVEDV", "LVEDVI"])
    for names in ([], ["LVEDV", "LVEDV"]):
        with pytest.raises(ValueError, match="expected one or more, each once"):
            check_names(names)


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_every_attribute_is_described(name):
    attribute = ATTRIBUTES[name]
    assert attribute.name == name
    assert attribute.label
    assert attribute.phases
    assert set(attribute.phases) <= set(Phase)
    units = {Kind.AREA: ["cm2"], Kind.VOLUME: ["mL"], Kind.MASS: ["g"], Kind.LENGTH: ["mm"],
             Kind.RATIO: ["%"], Kind.SHAPE: [""]}  # fmt: skip
    assert attribute.unit in units[attribute.kind]
    assert is_area(name) == (name in areas_at(Phase))
    assert set(AREAS) < set(areas_at(Phase))


def test_labels_name_structure_kind_and_phase():
    assert [ATTRIBUTES[name].label for name in ("LVEDA", "MESA", "RVEDV", "WT_max_ES")] == [
        "LV area at ED", "Myocardial area at ES", "RV volume at ED",
        "Largest wall thickness at ES",
    ]  # fmt: skip


def test_what_needs_a_mask_at_es_is_blank_without_one():
    values = measured(disc_in_ring(20, 28))
    blank = {name for name, value in values.items() if np.isnan(value)}
    assert blank == {name for name, a in ATTRIBUTES.items() if Phase.ES in a.phases}


def test_an_ejection_fraction_is_the_share_of_the_volume_that_leaves():
    values = measured(lined([[0, 100, 40, 50], [0, 60, 40, 30]]), lined([[0, 40, 44, 20]] * 2))
    assert values["LVEF"] == pytest.approx(50)
    assert values["RVEF"] == pytest.approx(50)
    assert values["LVSV"] == pytest.approx(80 * np.prod(SPACING) / 1000)
    assert values["LVM"] == pytest.approx(1.05 * values["MEDV"])


# Walls and shapes -------------------------------------------------------------------------


@pytest.mark.parametrize("pixel", [0.7, 1.25, 1.56, 1.95])
@pytest.mark.parametrize("cavity", [12.0, 30.0])
@pytest.mark.parametrize("wall", [5.0, 8.0, 13.0])
def test_the_thickness_of_a_ring_is_right_within_a_pixel(pixel, cavity, wall):
    spacing = (pixel, pixel, 8.0)
    ring = disc_in_ring(cavity, cavity + wall, spacing, shape=(160, 160))
    values = measured(ring, spacing=spacing)
    assert values["WT_mean_ED"] == pytest.approx(wall, abs=0.6 * pixel)
    assert values["WT_max_ED"] == pytest.approx(wall, abs=pixel)


def test_a_wall_is_thick_where_it_is_drawn_thick():
    mask = disc_in_ring(20, 26)[..., 0]
    thick = disc_in_ring(20, 34)[..., 0]
    mask[64:] = thick[64:]
    found = measured(np.repeat(mask[..., None], 3, axis=2))
    assert found["WT_max_ED"] == pytest.approx(14, abs=SPACING[0])
    assert 6 < found["WT_mean_ED"] < 14


def test_thickening_is_the_growth_of_the_mean_wall():
    values = measured(disc_in_ring(24, 32), disc_in_ring(16, 28))
    growth = values["WT_mean_ES"] / values["WT_mean_ED"]
    assert values["thickening"] == pytest.approx(100 * (growth - 1), abs=1e-3)
    assert values["thickening"] == pytest.approx(50, abs=10)  # from 8 to 12 mm


def test_a_slice_without_wall_or_cavity_has_no_thickness():
    for mask in (np.zeros((9, 9)), np.full((9, 9), 2), np.full((9, 9), 1)):
        assert not len(wall_thickness(mask, (1.0, 1.0)))
    empty = np.zeros((9, 9, 2), np.uint8)
    values = measured(disc_in_ring(20, 28), empty)
    assert np.isnan(values["WT_mean_ES"])
    assert np.isnan(values["thickening"])
    assert values["LVESA"] == 0


@pytest.mark.parametrize("ratio", [1.0, 0.9, 0.6])
@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.8, 1.6)])
def test_the_eccentricity_of_an_ellipse_is_that_of_its_axes(ratio, spacing):
    i, j = np.indices((121, 121)) - 60
    turn = np.array([[np.cos(0.6), -np.sin(0.6)], [np.sin(0.6), np.cos(0.6)]])
    x, y = np.tensordot(turn, np.stack([i * spacing[0], j * spacing[1]]), 1)
    ellipse = (x / 30) ** 2 + (y / (30 * ratio)) ** 2 < 1
    assert 1 - eccentricity(ellipse, spacing) ** 2 == pytest.approx(ratio**2, abs=0.01)
    assert np.isnan(eccentricity(np.zeros((3, 3), bool), spacing))


def test_areas_say_of_drawn_hearts_what_is_measured_in_them():
    masks = disc_in_ring(24, 32), disc_in_ring(16, 28)
    values = measured(*masks)
    areas = np.array([values[name] for name in areas_at(Phase)])
    for name in ("LVESA", "LVEF", "WT_mean_ED", "WT_mean_ES", "thickening"):
        # a stack of equal slices: volumes change as areas do
        assert drawn(name, areas) == pytest.approx(values[name], rel=0.09)
    assert drawn("LVEDV", areas) == values["LVEDA"]
    assert drawn("LVM", areas) == values["MEDA"]
    assert np.isnan(drawn("LV_eccentricity", areas))
