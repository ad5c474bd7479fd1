"""Shapes in closed form: distances, the linear model that is fitted to them, and what it draws."""

import numpy as np
import pytest
import torch
from conftest import heart
from scipy.ndimage import distance_transform_edt

from cardiac_attrivae.models.independence import decorrelate, fixed_of
from cardiac_attrivae.models.networks import build_network
from cardiac_attrivae.models.shapes import (
    ShapeModel,
    enlarged,
    enlarging,
    fit_shapes,
    signed_distances,
)

SIZE = 64


@pytest.fixture(scope="module")
def hearts():
    """Sixty labels (N, 1, 64, 64) of many sizes and places, and their standardised areas."""
    random, found = np.random.default_rng(0), []
    for _ in range(60):
        cavity, wall, right = random.uniform((7, 4, 7), (12, 7, 12))
        found.append(heart(SIZE, cavity, wall, right, (8 + random.normal(), random.normal())))
    labels = torch.as_tensor(np.stack(found)[:, None])
    areas = np.stack([(labels == part).sum((1, 2, 3)) for part in (1, 2, 3)], axis=1)
    return labels, (areas - areas.mean(0)) / areas.std(0)


@pytest.fixture(scope="module")
def fitted(hearts):
    labels, areas = hearts
    distances = signed_distances(labels).flatten(1).numpy()
    return distances, fit_shapes(distances, areas, np.full(len(areas), True), count=12)


def read_by(fitted, distances):
    """Codes of attributes, and those of shapes in what they leave."""
    left = distances - fitted.mean
    told = left @ fitted.read.T
    left = left - told @ fitted.along
    return told, left @ fitted.shapes.T / (fitted.shapes**2).sum(1)


def test_distances_are_those_of_scipy():
    """On blocks of 2 x 2, from pixel centre to pixel centre, less half a block."""
    labels = np.repeat(np.repeat(heart(SIZE // 2, 6, 3, 5), 2, axis=0), 2, axis=1)
    found = signed_distances(torch.as_tensor(labels)[None, None])[0]
    small, expected = labels[::2, ::2], []
    for inside in (small == 1, (small == 1) | (small == 2), small == 3):
        away = distance_transform_edt(inside) - distance_transform_edt(~inside) + 0.5 - inside
        expected.append(2 * away.clip(-5, 5))
    pooled = np.stack(expected).reshape(3, SIZE // 4, 2, SIZE // 4, 2).mean((2, 4))
    np.testing.assert_allclose(found, pooled, atol=1e-5)


def test_each_channel_is_measured_by_itself():
    first, second = (torch.as_tensor(heart(SIZE, *radii)) for radii in ((9, 4, 8), (5, 6, 9)))
    both = signed_distances(torch.stack([first, second])[None])
    alone = [signed_distances(label[None, None]) for label in (first, second)]
    torch.testing.assert_close(both, torch.cat(alone, dim=1))


def test_a_structure_that_is_nowhere_is_as_far_outside_as_can_be():
    found = signed_distances(torch.zeros(1, 1, SIZE, SIZE))
    assert (found == -SIZE * 5 // 32).all()


def test_shapes_say_nothing_of_attributes_and_have_a_deviation_of_1(hearts, fitted):
    distances, model = fitted
    left = distances - model.mean - hearts[1] @ model.along
    scores = left @ model.shapes.T / (model.shapes**2).sum(1)
    np.testing.assert_allclose(scores.std(0), 1, rtol=1e-6)
    assert np.abs(np.corrcoef(scores.T, hearts[1].T)[:12, 12:]).max() < 1e-8


def test_codes_that_are_read_are_the_attributes_and_draw_the_same_hearts(hearts, fitted):
    labels, areas = hearts
    distances, fitted = fitted
    told, shapes = read_by(fitted, distances)
    assert 1 - ((told - areas) ** 2).mean() > 0.99
    model = ShapeModel(16, 12, 1, SIZE)
    model.fill(fitted)
    codes = model.codes(labels)
    np.testing.assert_allclose(codes[:, :3], told, atol=1e-3)
    assert not codes[:, 3].any()
    np.testing.assert_allclose(codes[:, 4:], shapes, atol=1e-3)
    layers = model.layers(codes)
    drawn = layers.argmax(dim=2)
    for part in (1, 2, 3):
        both = ((drawn == part) & (labels == part)).sum((1, 2, 3))
        dice = 2 * both / ((drawn == part).sum((1, 2, 3)) + (labels == part).sum((1, 2, 3)))
        assert dice.mean() > 0.93, part
    torch.testing.assert_close(layers.sum(dim=2), torch.ones(60, 1, SIZE, SIZE))
    assert (layers >= 0).all()


def test_a_turned_attribute_changes_its_area_and_no_other(hearts, fitted):
    labels, areas = hearts
    model = ShapeModel(15, 12, 1, SIZE)
    model.fill(fitted[1])
    codes, pixels = model.codes(labels), np.stack([(labels == k).sum((1, 2, 3)) for k in (1, 2, 3)])

    def drawn(turn):
        seen = model.layers(codes + turn).argmax(dim=2)
        return np.stack([(seen == part).sum((1, 2, 3)) for part in (1, 2, 3)], axis=1)

    for k, unit in enumerate(np.eye(15, dtype=np.float32)[:3]):
        change = (drawn(torch.as_tensor(unit)) - drawn(torch.as_tensor(-unit))) / 2
        change = (change / pixels.std(1)).mean(0)
        assert change[k] == pytest.approx(1, abs=0.1)
        assert np.abs(np.delete(change, k)).max() < 0.15


def test_an_exactly_linear_model_is_found_and_inverted():
    random = np.random.default_rng(0)
    attributes, scores = random.normal(size=(200, 2)), random.normal(size=(200, 3))
    basis = np.linalg.qr(random.normal(size=(40, 5)))[0].T * 20
    distances = 7 + attributes @ basis[:2] + scores @ basis[2:]
    model = fit_shapes(distances, attributes, np.arange(200) < 120, count=3)
    told, shapes = read_by(model, distances)
    np.testing.assert_allclose(told, attributes, atol=1e-3)
    found = model.mean + told @ model.along + shapes @ model.shapes
    np.testing.assert_allclose(found, distances, atol=1e-2)


def test_components_that_the_slices_lack_are_nothing():
    found = fit_shapes(np.eye(48)[[0, 1, 0, 1]], np.zeros((4, 0)), np.full(4, True), count=3)
    assert np.abs(found.shapes[1:]).max() < 1e-6
    model = ShapeModel(3, 3, 1, 16)
    model.fill(found)
    assert not model.codes(torch.ones(1, 1, 16, 16))[:, 1:].round(decimals=2).any()


@pytest.mark.parametrize("name", ["BetaVAE", "SoftIntroVAE"])
@torch.no_grad()
def test_a_new_network_reads_and_draws_shapes_before_its_first_step(name, hearts, fitted):
    labels = hearts[0]
    sizes = {"filters": [4, 8, 8]} if name == "SoftIntroVAE" else {}
    torch.manual_seed(0)
    network = build_network(
        name, latent_size=18, image_size=SIZE, outlines=True, shapes=12, **sizes
    ).eval()
    network.shape_model.fill(fitted[1])
    network.masks = labels
    output = network(torch.rand(60, 1, SIZE, SIZE))
    torch.testing.assert_close(output.mu, network.shape_model.codes(labels))
    assert output.reconstruction.shape == (60, 1, SIZE, SIZE)
    assert fixed_of(network) == [*range(6, 18)]

    for values in network.code_layers[0].parameters():  # as after steps
        values.add_(torch.randn_like(values) * 0.05)
    before = network(torch.rand(60, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(1)))
    torch.testing.assert_close(before.mu[:, 6:], output.mu[:, 6:])
    decorrelate(network, before.mu.numpy(), [0, 1, 2])
    after = network(torch.rand(60, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(1)))
    torch.testing.assert_close(after.reconstruction, before.reconstruction, atol=1e-4, rtol=0)
    kept = [0, 1, 2, *range(6, 18)]
    torch.testing.assert_close(after.mu[:, kept], before.mu[:, kept], atol=1e-4, rtol=0)
    assert np.abs(np.corrcoef(after.mu.T)[:3, 3:6]).max() < 1e-3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shapes": 8}, "shapes is 8, and they are read off outlines; set outlines to true"),
        ({"shapes": -1, "outlines": True}, "shapes is -1; expected a whole number"),
    ],
)
def test_errors_name_what_is_accepted(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_network("BetaVAE", **arguments)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_pictures_and_their_gradients_are_enlarged_as_torch_does(mode):
    coarse = torch.randn(2, 5, 8, 8, generator=torch.Generator().manual_seed(0))
    ours, theirs = (coarse.clone().requires_grad_() for _ in range(2))
    ours_large = enlarged(ours, enlarging(8, mode))
    theirs_large = torch.nn.functional.interpolate(theirs, scale_factor=4, mode=mode)
    torch.testing.assert_close(ours_large, theirs_large)
    weights = torch.rand(2, 5, 32, 32, generator=torch.Generator().manual_seed(1))
    for large in (ours_large, theirs_large):
        (large * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
