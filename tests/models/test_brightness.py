"""Brightness in closed form: what is measured, read as codes, and drawn."""

import numpy as np
import pytest
import torch
from conftest import heart

from cardiac_attrivae.models.brightness import BrightnessModel, brightness_of
from cardiac_attrivae.models.networks import build_network
from cardiac_attrivae.models.shapes import fit_shapes, signed_distances

SIZE = 32


@pytest.fixture(scope="module")
def slices():
    """Forty slices (N, 1, 32, 32) of hearts of many sizes and brightnesses, and their labels."""
    random, labels, images = np.random.default_rng(0), [], []
    for _ in range(40):
        cavity, wall, right = random.uniform((4, 2, 4), (6, 4, 6))
        label = heart(SIZE, cavity, wall, right, (4 + random.normal() / 2, random.normal() / 2))
        bright = random.normal((0, 0.7, 0.2, 0.5), (0, 0.08, 0.03, 0.1))
        noise = random.normal(0, 0.02, label.shape)
        labels.append(label)
        images.append((bright[label] + noise).clip(0, 1) * (label > 0))
    labels, images = (torch.as_tensor(np.stack(part)[:, None]) for part in (labels, images))
    return images.float(), labels


@pytest.fixture
def network(slices):
    """A new network that knows shapes and brightness of the slices, and is shown their labels."""
    images, labels = slices
    torch.manual_seed(0)
    network = build_network(
        "BetaVAE", latent_size=20, image_size=SIZE, outlines=True, shapes=12, brightness=3
    ).eval()
    areas = np.stack([(labels == part).sum((1, 2, 3)) for part in (1, 2, 3)], axis=1)
    areas = (areas - areas.mean(0)) / areas.std(0)
    every = np.full(len(areas), True)
    distances = signed_distances(labels).flatten(1).numpy()
    network.shape_model.fill(fit_shapes(distances, areas, every, 12))
    logits = brightness_of(images, labels).numpy()
    network.brightness_model.fill(fit_shapes(logits, areas, every, 3))
    network.masks = labels
    *_, last = network.decoder.children()  # flat textures, as a training begins with
    torch.nn.init.zeros_(last.weight)
    return network


def test_brightness_is_the_logit_of_the_mean_of_a_structure(slices):
    images, labels = slices
    found = brightness_of(images, labels)
    for n in (0, 17):
        for k in (1, 2, 3):
            mean = images[n].numpy()[labels[n].numpy() == k].mean()
            assert found[n, k - 1] == pytest.approx(np.log(mean / (1 - mean)), abs=1e-4)


def test_each_channel_is_measured_by_itself(slices):
    images, labels = (torch.cat([part[:5], part[5:10]], dim=1) for part in slices)
    alone = [brightness_of(*(part[:, [k]] for part in (images, labels))) for k in (0, 1)]
    torch.testing.assert_close(brightness_of(images, labels), torch.cat(alone, dim=1))


@torch.no_grad()
def test_codes_say_how_bright_a_slice_is_and_nothing_of_its_sizes(network, slices):
    """With three dimensions for three structures nothing is lost: codes draw what was read."""
    images, labels = slices
    model, codes = network.brightness_model, network.encode(images)[0]
    drawn = model.mean + model.logits(codes)[:, 1:, 0, 0]
    torch.testing.assert_close(drawn, brightness_of(images, labels), atol=1e-3, rtol=0)
    own = codes[:, 5:8].numpy()
    np.testing.assert_allclose(own.std(0), 1, atol=0.1)
    areas = np.stack([(labels == part).sum((1, 2, 3)) for part in (1, 2, 3)], axis=1)
    assert np.abs(np.corrcoef(own.T, areas.T)[:3, 3:]).max() < 0.1


@torch.no_grad()
def test_a_brighter_slice_is_drawn_brighter_and_with_the_same_outlines(network, slices):
    images, labels = slices
    codes = network.encode(images)[0]
    brighter = network.encode(torch.where(labels == 3, images * 1.2, images))[0]
    kept = [*range(5), *range(8, 20)]
    torch.testing.assert_close(brighter[:, kept], codes[:, kept], atol=1e-5, rtol=0)
    right = network.shape_model.layers(codes)[:, 0, 3]
    change = (network.decode(brighter) - network.decode(codes))[:, 0]
    assert (change[right > 0.9] > 0.01).all()
    assert change[right < 1e-3].abs().max() < 1e-3


@torch.no_grad()
def test_a_structure_that_is_nowhere_is_as_bright_as_the_other_codes_say(network, slices):
    images, labels = (part[:1] for part in slices)
    network.masks = torch.where(labels == 3, 0, labels)
    code = network.encode(images)[0]
    model = network.brightness_model
    assert code.isfinite().all()
    others = torch.cat([code[:, :5], torch.zeros(1, 15)], dim=1)
    left = model.logits(code) - model.logits(others)
    torch.testing.assert_close(left[0, 3, 0, 0], torch.tensor(0.0), atol=1e-3, rtol=0)


def test_a_slice_without_a_structure_has_gradients(network, slices):
    """Introspective training reads hearts that are drawn, and some of those lack one."""
    images = slices[0].clone().requires_grad_()
    network.masks = torch.where(slices[1] == 2, 0, slices[1])
    network.encode(images)[0].sum().backward()
    assert images.grad.isfinite().all()
    assert images.grad.any()


def test_a_model_that_is_not_fitted_reads_and_draws_nothing(slices):
    model = BrightnessModel(latent_size=6, brightness=2, shapes=3, channels=1)
    assert not model.codes(*slices, torch.ones(40, 6)).any()
    assert not model.logits(torch.ones(2, 6)).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"brightness": 3}, "brightness is 3, .*set shapes, too, or brightness to 0"),
        ({"brightness": 4, "shapes": 8}, "brightness is 4; expected a whole number from 0 to 3"),
        ({"brightness": 3, "shapes": 30}, "30 shapes and 3 dimensions of brightness.*32"),
    ],
)
def test_errors_name_what_is_accepted(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_network("BetaVAE", outlines=True, **arguments)
