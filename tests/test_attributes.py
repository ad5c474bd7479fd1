"""Attributes measure what their names and units say."""

from itertools import pairwise

import numpy as np
import pytest

from cardiac_attrivae.attributes import (
    AREAS,
    ATTRIBUTES,
    Kind,
    check_names,
    is_area,
    measure,
    pixel_counts,
)
from cardiac_attrivae.data.hearts import POPULATIONS, draw_heart
from cardiac_attrivae.schema import HEART, Phase, Structure

SPACING = (1.25, 1.25, 8.0)


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
    values = measure(pixel_counts(disc_in_ring(radius, radius + 9)), SPACING, 1)
    disc, ring = np.pi * radius**2 / 100, np.pi * ((radius + 9) ** 2 - radius**2) / 100
    assert abs(values["LVEDA"] - disc) < bound_cm2(radius)
    assert abs(values["MEDA"] - ring) < bound_cm2(radius, radius + 9)
    # and on average over shifts the error is far below its bound
    shifts = [
        disc_in_ring(radius, radius + 9, centre=(a, b))
        for a in np.arange(0, 1, 0.2)
        for b in np.arange(0, 1, 0.2)
    ]
    mean = np.mean([measure(pixel_counts(m), SPACING, 0)["LVEDA"] for m in shifts])
    assert mean == pytest.approx(disc, rel=5e-3)


def test_volume_is_area_times_thickness_summed_over_slices():
    counts = pixel_counts(disc_in_ring(20, 28))
    values = measure(counts, SPACING, 0)
    for prefix in ("LV", "M", "RV"):
        area_cm2 = values[f"{prefix}EDA"]
        assert values[f"{prefix}EDV"] == pytest.approx(3 * area_cm2 * SPACING[2] / 10)


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_areas_scale_with_the_square_of_spacing_and_volumes_with_its_cube(name):
    counts = pixel_counts(disc_in_ring(20, 28))
    power = {"cm2": 2, "mL": 3}[ATTRIBUTES[name].unit]
    once = measure(counts, SPACING, 2)[name]
    assert once > 0
    doubled = measure(counts, tuple(2 * s for s in SPACING), 2)[name]
    assert doubled == pytest.approx(2**power * once)


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_an_attribute_sees_its_own_structure_alone(name):
    counts = pixel_counts(disc_in_ring(20, 28))
    others = [s for s in Structure if s != ATTRIBUTES[name].structure]
    changed = counts.copy()
    changed[:, others] += 7
    assert measure(changed, SPACING, 1)[name] == measure(counts, SPACING, 1)[name]
    changed[:, ATTRIBUTES[name].structure] += 7
    assert measure(changed, SPACING, 1)[name] > measure(counts, SPACING, 1)[name]


def test_an_area_is_that_of_its_slice_and_a_volume_that_of_all():
    counts = np.array([[90, 5, 6, 7], [80, 50, 60, 70]])
    spacing = (2.0, 5.0, 10.0)  # a pixel of 0.1 cm2, a voxel of 0.1 mL
    first, second = measure(counts, spacing, 0), measure(counts, spacing, 1)
    names = ("LVEDV", "MEDV", "RVEDV", "LVEDA", "MEDA", "RVEDA")
    assert tuple(ATTRIBUTES) == names
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
    values = measure(counts, spacing, 3)
    volumes = [values[name] for name in ("LVEDV", "MEDV", "RVEDV")]
    areas = [values[name] for name in ("LVEDA", "MEDA", "RVEDA")]
    # half a per cent: the thin wall on a grid of .5 mm, and the midpoint rule along the axis
    assert volumes == pytest.approx(heart.volumes().tolist(), rel=5e-3)
    assert areas == pytest.approx(heart.areas(depths[3]).tolist(), rel=5e-3)
    assert (counts[:, HEART].sum(axis=1) > 0).sum() == (depths < max(heart.lengths_mm)).sum()
    assert all(a >= b for a, b in pairwise(counts[:, HEART].sum(axis=1)))


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
    assert attribute.unit == {Kind.AREA: "cm2", Kind.VOLUME: "mL", Kind.RATIO: ""}[attribute.kind]
    assert is_area(name) == (name in AREAS)


def test_labels_name_structure_kind_and_phase():
    assert [ATTRIBUTES[name].label for name in ("LVEDA", "MEDA", "RVEDV")] == [
        "LV area at ED", "Myocardial area at ED", "RV volume at ED",
    ]  # fmt: skip
