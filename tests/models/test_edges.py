"""Edges: those that slices were drawn with are found, and what is not seen stays as it was."""

import pytest
import torch

from cardiac_attrivae.models.edges import FURTHEST, STEEPEST, cut_out, fit_edges
from cardiac_attrivae.models.shapes import SHARPNESS, ShapeModel

SIZE = 48


def discs(count, channels=1):
    """Distances of hearts of several sizes: a cavity in a wall, and an RV beside it."""
    y, x = torch.meshgrid(*[torch.arange(SIZE) - SIZE / 2 + 0.5] * 2, indexing="ij")
    grow = torch.linspace(0, 3, count * channels)[:, None, None]
    left, right = (torch.hypot(y, x - at) for at in (-6, 10))
    found = torch.stack([7 + grow - left, 11 + grow - left, 8 + grow - right], dim=1)
    return found.unflatten(0, (count, channels)).flatten(1, 2)


def drawn(distances, edge, steepness, seed=0):
    """Slices whose structures are of other brightness in each."""
    channels = distances.shape[1] // 3
    depth = distances - edge[:, None, None]
    layers = cut_out(torch.sigmoid(steepness[:, None, None] * depth), channels)
    bright = torch.rand(layers.shape[:3], generator=torch.Generator().manual_seed(seed)) + 0.2
    bright[:, :, 0] = 0
    bright[:, :, 2] *= 0.3  # the wall is darker than blood
    return (layers * bright[..., None, None]).sum(dim=2)


@pytest.mark.parametrize("channels", [1, 2])
def test_edges_of_every_outline_are_found_whatever_its_slices_brightness(channels):
    distances = discs(6, channels)
    edge = torch.tensor([0.9, 0.3, -0.6, 1.4, 0.0, 0.5])[: 3 * channels]
    steepness = torch.tensor([1.2, 3.0, 1.8, 0.9, 1.5, 2.2])[: 3 * channels]
    slices = drawn(distances, edge, steepness)
    found = fit_edges(distances, slices, SHARPNESS)
    torch.testing.assert_close(found[0], edge, atol=0.05, rtol=0)
    torch.testing.assert_close(found[1], steepness, atol=0.1, rtol=0)


def test_edges_stay_on_outlines_where_slices_show_nothing_and_within_limits_where_they_are_absurd():
    distances = discs(4)
    edge, steepness = fit_edges(distances, torch.zeros(4, 1, SIZE, SIZE), SHARPNESS)
    torch.testing.assert_close(edge, torch.zeros(3))
    torch.testing.assert_close(steepness, torch.full((3,), SHARPNESS))
    far = drawn(distances, torch.full((3,), 5.0), torch.full((3,), 20.0))
    edge, steepness = fit_edges(distances, far, SHARPNESS)
    assert edge.abs().max() <= FURTHEST
    assert steepness.max() <= STEEPEST


def test_a_picture_ends_at_its_edges_and_a_heart_at_its_outlines():
    model = ShapeModel(latent_size=1, shapes=1, channels=1, image_size=SIZE)
    model.mean.copy_(torch.nn.functional.avg_pool2d(discs(1), 4)[0])
    code, white = torch.zeros(1, 1), torch.zeros(1, 4, SIZE, SIZE)
    white[:, 1] = 1  # the cavity alone is seen
    on_outlines, layers = model.painted(code, white), model.layers(code)
    torch.testing.assert_close(on_outlines, layers[:, :, 1])
    model.edge[0] = 1
    within = model.painted(code, white)
    assert torch.equal(model.layers(code), layers)
    radius = [(area.sum() / torch.pi).sqrt() for area in (on_outlines, within)]
    assert radius[0] - radius[1] == pytest.approx(1, abs=0.1)
