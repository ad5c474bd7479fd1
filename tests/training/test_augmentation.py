"""Deformations act on image, mask and attributes alike; light acts on the image alone."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from conftest import heart, slices_of

from cardiac_attrivae.schema import HEART, Keys, Structure
from cardiac_attrivae.training.augmentation import (
    AttributeTargets,
    Augmentation,
    Augmenter,
    extend_over_edge,
    prepared,
    relight,
    restyled,
    structure_masks,
    ventricle_geometry,
)

AREAS, VOLUMES = ("LVEDA", "MEDA", "RVEDA"), ("LVEDV", "MEDV", "RVEDV")
LV, MYO, RV = range(3)
DEFORMING = ("rotation", "shift", "zoom", "stretch", "cavity", "wall", "elastic")
OF_STACKS = ("beat", "taper", "right", "length")  # see test_stack.py
LIGHT = ("blood", "muscle", "contrast", "bias", "blur", "noise", "style")


@pytest.fixture(scope="module")
def hearts(tmp_path_factory):
    """Eight round hearts at 128 x 128, small enough to stay in the crop when zoomed."""
    random = np.random.default_rng(2)
    patients = [
        [heart(128, *random.uniform((13, 5, 13), (18, 8, 17)), random.uniform(-3, 3, 2))]
        for _ in range(8)
    ]
    return slices_of(patients, tmp_path_factory.mktemp("hearts"))


def augmented(dataset, names=AREAS, residual=1.0, seed=0, **ranges):
    """The whole dataset once: before, after, and the attributes in their own units."""
    targets = AttributeTargets(dataset, names, residual)
    augmenter = Augmenter(dataset, targets, Augmentation(**ranges))
    before = {
        Keys.IMAGE: dataset.images,
        Keys.LABEL: dataset.labels,
        Keys.ATTRIBUTES: torch.as_tensor(targets.values, dtype=torch.float32),
        Keys.ROW: torch.arange(len(dataset)),
    }
    after = augmenter({**before, **prepared(before)}, torch.Generator().manual_seed(seed))
    values = after[Keys.ATTRIBUTES].numpy() * targets.deviation + targets.mean
    return before, after, values


def pixels(labels):
    return structure_masks(labels).sum((2, 3)).numpy()


def test_without_ranges_image_mask_and_targets_come_back_unchanged(hearts):
    before, after, _ = augmented(hearts)
    assert torch.equal(after[Keys.LABEL], before[Keys.LABEL].float())
    # 1e-4: relight keeps pixels of the mask at least that bright, for the power that follows
    assert torch.allclose(after[Keys.IMAGE], before[Keys.IMAGE], atol=1.1e-4)
    assert torch.allclose(after[Keys.ATTRIBUTES], before[Keys.ATTRIBUTES], atol=1e-5)
    assert torch.equal(after[Keys.ROW], before[Keys.ROW])


class Always:
    """Draws the upper end of every range, so that the expected change is known exactly."""

    def __init__(self, n, generator, device):
        self.n = n

    def uniform(self, reach):
        return torch.full((self.n, 1, 1), reach)

    def share(self):
        return torch.ones(self.n, 1, 1, 1)

    def normal(self, channels, points):
        return torch.zeros(self.n, channels, points, points)


@pytest.fixture
def full_reach(monkeypatch):
    monkeypatch.setattr("cardiac_attrivae.training.augmentation._Draw", Always)


@pytest.mark.usefixtures("full_reach")
@pytest.mark.parametrize("k", [0.05, 0.2])
def test_zoom_by_e_to_the_k_scales_areas_by_e_to_the_2k(hearts, k):
    _, _, values = augmented(hearts, zoom=k)
    # a disc of radius 13 has 531 pixels, of which about 20 are decided by rounding
    np.testing.assert_allclose(values / hearts.attributes(AREAS), np.exp(2 * k), rtol=0.05)


@pytest.mark.usefixtures("full_reach")
@pytest.mark.parametrize("ranges", [{"rotation": 25.0}, {"shift": 6.4}, {"stretch": 0.15}])
def test_rotation_shift_and_stretch_leave_areas_but_move_the_heart(hearts, ranges):
    before, after, values = augmented(hearts, **ranges)
    np.testing.assert_allclose(values, hearts.attributes(AREAS), rtol=0.03)
    moved = (before[Keys.LABEL] != after[Keys.LABEL]).float().mean((1, 2, 3))
    assert (moved > 0.005).all()


@pytest.mark.usefixtures("full_reach")
def test_shift_moves_the_centre_by_that_many_pixels(hearts):
    before, after, _ = augmented(hearts, shift=6.0)
    old, new = (ventricle_geometry(structure_masks(x[Keys.LABEL]))[0] for x in (before, after))
    assert torch.allclose(new - old, torch.tensor(6.0), atol=1e-3)


@pytest.mark.usefixtures("full_reach")
def test_cavity_warp_changes_the_cavity_and_leaves_the_wall_as_thick(hearts):
    before, after, values = augmented(hearts, cavity=0.2)
    _, radius, wall = ventricle_geometry(structure_masks(before[Keys.LABEL]))
    _, new_radius, new_wall = ventricle_geometry(structure_masks(after[Keys.LABEL]))
    assert torch.allclose(new_radius / radius, torch.tensor(0.2).exp(), rtol=0.02)
    assert torch.allclose(new_wall, wall, atol=0.5)  # pixels
    ratio = values / hearts.attributes(AREAS)
    np.testing.assert_allclose(ratio[:, LV], np.exp(0.4), rtol=0.03)


@pytest.mark.usefixtures("full_reach")
def test_wall_warp_thickens_the_wall_and_leaves_the_cavity(hearts):
    before, after, values = augmented(hearts, wall=0.3)
    wall, new_wall = (
        ventricle_geometry(structure_masks(x[Keys.LABEL]))[2] for x in (before, after)
    )
    assert torch.allclose(new_wall / wall, torch.tensor(0.3).exp(), rtol=0.05)
    # pixels of the cavity's staircase edge that lie beyond the radius of its disc move with it
    np.testing.assert_allclose(values[:, LV], hearts.attributes(("LVEDA",))[:, 0], rtol=0.03)
    assert (values[:, MYO] > 1.2 * hearts.attributes(("MEDA",))[:, 0]).all()


def test_attributes_are_those_counted_on_the_new_mask(hearts):
    _, after, values = augmented(hearts, **dict.fromkeys(DEFORMING[2:6], 0.2), elastic=2.0)
    native = hearts.attributes(AREAS) / pixels(hearts.labels)  # cm2 of a pixel
    np.testing.assert_allclose(values, pixels(after[Keys.LABEL]) * native, rtol=1e-4)


def test_labels_stay_canonical_and_the_image_is_0_outside_the_new_mask(hearts):
    _, after, _ = augmented(
        hearts, rotation=20, shift=5, zoom=0.2, elastic=3, blood=0.2, bias=0.3, noise=0.1, blur=0.5
    )
    assert set(after[Keys.LABEL].unique().tolist()) <= set(Structure)
    assert (after[Keys.IMAGE][after[Keys.LABEL] == 0] == 0).all()
    assert after[Keys.IMAGE].min() >= 0
    assert after[Keys.IMAGE].max() <= 1


@pytest.mark.parametrize("name", LIGHT)
def test_light_changes_the_image_and_no_attribute(hearts, name):
    reach = 1.0 if name == "style" else 0.3  # these hearts are much alike
    before, after, _ = augmented(hearts, **{name: reach})
    assert torch.equal(after[Keys.LABEL], before[Keys.LABEL].float())
    assert torch.allclose(after[Keys.ATTRIBUTES], before[Keys.ATTRIBUTES], atol=1e-5)
    assert (after[Keys.IMAGE] - before[Keys.IMAGE]).abs().max() > 0.01


@pytest.mark.usefixtures("full_reach")
def test_blood_brightens_the_cavities_and_muscle_the_wall(hearts):
    image, masks = hearts.images * 0.5, structure_masks(hearts.labels)
    inside = -torch.nn.functional.max_pool2d(-masks, 3, stride=1, padding=1) > 0  # off the edges
    change = relight(image, masks, Augmentation(blood=0.2), torch.Generator()) - image
    assert torch.allclose(change[:, 0][inside[:, LV]], 0.2 * image[:, 0][inside[:, LV]], atol=2e-4)
    assert (change[:, 0][inside[:, MYO]].abs() < 2e-4).all()
    change = relight(image, masks, Augmentation(muscle=0.1), torch.Generator()) - image
    assert torch.allclose(change[:, 0][inside[:, MYO]], torch.tensor(0.1), atol=2e-4)
    assert (change[:, 0][inside[:, RV]].abs() < 2e-4).all()


@pytest.fixture
def slices():
    """Five slices, of which about half of the pixels count."""
    random = torch.Generator().manual_seed(0)
    image = torch.rand(5, 1, 16, 16, generator=random)
    return image, torch.rand(5, 1, 16, 16, generator=random) > 0.5


def statistics(image, inside):
    """Mean and deviation inside, by NumPy, (2, N)."""
    values = [i.numpy()[m.numpy()] for i, m in zip(image, inside, strict=True)]
    return np.array([[v.mean() for v in values], [v.std() for v in values]])


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_mean_and_deviation_are_mixed_as_mixstyle_mixes_them(slices, share):
    image, inside = slices
    partner = torch.tensor([4, 0, 1, 2, 3])
    new = restyled(image, inside, partner, torch.full((5, 1, 1, 1), share))
    own = statistics(image, inside)
    expected = (1 - share) * own + share * own[:, partner.numpy()]
    np.testing.assert_allclose(statistics(new, inside), expected, atol=1e-6)


def test_a_slice_that_is_its_own_partner_stays_as_it_is(slices):
    image, inside = slices
    new = restyled(image, inside, torch.arange(5), torch.ones(5, 1, 1, 1))
    torch.testing.assert_close(new, image)


def test_another_gain_and_offset_end_in_the_same_style(slices):
    """With the whole share, what a slice's own scale was is forgotten."""
    image, inside = slices
    image[1] = 0.4 * image[0] + 0.3
    inside[1] = inside[0]
    new = restyled(image, inside, torch.full((5,), 3), torch.ones(5, 1, 1, 1))
    torch.testing.assert_close(new[0], new[1])


def test_an_empty_or_even_slice_stays_finite(slices):
    image, inside = slices
    inside[0], image[1] = False, 0.5
    assert restyled(image, inside, torch.arange(5).flip(0), torch.ones(5, 1, 1, 1)).isfinite().all()


def test_the_generator_decides_everything(hearts):
    ranges = {f.name: 0.2 for f in fields(Augmentation)}
    torch.manual_seed(1)
    first = augmented(hearts, seed=5, **ranges)[1]
    torch.manual_seed(2)
    again, other = (augmented(hearts, seed=s, **ranges)[1] for s in (5, 6))
    for key in first:
        assert torch.equal(first[key], again[key])
    assert not torch.equal(first[Keys.IMAGE], other[Keys.IMAGE])


def test_every_range_has_its_test():
    assert {f.name for f in fields(Augmentation)} == {*DEFORMING, *OF_STACKS, *LIGHT}


def test_slices_that_are_drawn_twice_in_a_batch_are_changed_differently(hearts):
    targets = AttributeTargets(hearts, AREAS)
    batch = {**prepared(hearts.read([3, 3])), Keys.ROW: torch.tensor([3, 3])}
    image = Augmenter(hearts, targets, Augmentation(rotation=20))(batch, torch.Generator())
    assert not torch.equal(image[Keys.IMAGE][0], image[Keys.IMAGE][1])


@pytest.mark.parametrize("bad", [-0.1, float("nan")])
def test_a_range_below_0_is_an_error_that_names_it(bad):
    with pytest.raises(ValueError, match=f"elastic is {bad}; expected a number, 0 or more"):
        Augmentation(elastic=bad)


def test_extending_over_the_edge_keeps_the_inside_and_fills_a_rim(hearts):
    inside = (hearts.labels > 0).float()
    wide = extend_over_edge(hearts.images, inside, pixels=2)
    assert torch.equal(wide * inside, hearts.images * inside)
    rim = torch.nn.functional.max_pool2d(inside, 5, stride=1, padding=2) - inside > 0
    assert (wide[rim] > 0).all()
    assert (wide[(inside == 0) & ~rim] == 0).all()


def test_what_is_prepared_of_a_slice_does_not_depend_on_its_batch(hearts):
    whole = prepared(hearts.read(range(8)))
    for rows in ([5], [7, 0, 3]):
        for key, field in prepared(hearts.read(rows)).items():
            assert torch.equal(field, whole[key][rows])


def test_geometry_of_a_drawn_ring_is_what_was_drawn():
    label = torch.as_tensor(heart(128, 20, 7, 15, centre=(6.5, -3.5)))[None, None]
    centre, radius, wall = ventricle_geometry(structure_masks(label))
    assert centre[0].tolist() == pytest.approx([6.5, -3.5], abs=0.1)
    assert (radius.item(), wall.item()) == pytest.approx((20, 7), abs=0.1)


def test_areas_are_their_own_plane_without_a_residual(drawn_slices):
    targets = AttributeTargets(drawn_slices, AREAS, residual=1.0)
    np.testing.assert_allclose(targets.rest, 0, atol=1e-9)
    np.testing.assert_allclose(targets.plane, np.eye(4, 3), atol=1e-9)
    np.testing.assert_allclose(targets.values, targets.standardise(drawn_slices.attributes(AREAS)))


def test_with_the_whole_residual_targets_are_the_standardised_attributes_of_basal_slices(
    drawn_slices,
):
    targets = AttributeTargets(drawn_slices, VOLUMES, residual=1.0)
    basal = drawn_slices.is_basal
    values = drawn_slices.attributes(VOLUMES)[basal]
    expected = (values - values.mean(axis=0)) / values.std(axis=0)
    np.testing.assert_allclose(targets.values[basal], expected, atol=1e-9)
    assert (targets.rest[~basal] == 0).all()


def test_without_residual_targets_are_the_least_squares_plane_over_the_areas(drawn_slices):
    from sklearn.linear_model import LinearRegression

    targets = AttributeTargets(drawn_slices, VOLUMES, residual=0.0)
    areas, volumes = drawn_slices.attributes(AREAS), drawn_slices.attributes(VOLUMES)
    basal = drawn_slices.is_basal
    plane = LinearRegression().fit(areas[basal], volumes[basal]).predict(areas)
    np.testing.assert_allclose(targets.values * targets.deviation + targets.mean, plane)


def test_a_deformed_heart_keeps_its_residual(drawn_slices):
    basal = drawn_slices.basal()
    _, after, values = augmented(basal, VOLUMES, residual=0.5, cavity=0.2)
    targets = AttributeTargets(basal, VOLUMES, residual=0.5)
    areas = pixels(after[Keys.LABEL]) / 100  # pixels of 1 mm
    expected = areas @ targets.plane[:-1] + targets.plane[-1] + targets.rest
    np.testing.assert_allclose(values, expected, rtol=1e-4)


def test_an_attribute_that_never_changes_is_an_error_that_names_it(drawn_slices):
    part = drawn_slices.take(range(len(drawn_slices)))
    part.cases["MEDV"] = 101.3
    with pytest.raises(ValueError, match="'MEDV' is the same in every training slice"):
        AttributeTargets(part, VOLUMES)


def test_masks_stand_in_the_order_of_the_structures():
    labels = torch.tensor(list(Structure), dtype=torch.uint8).view(1, 1, 1, 4)
    masks = structure_masks(labels)
    assert masks[0, :, 0].argmax(dim=1).tolist() == list(HEART)
