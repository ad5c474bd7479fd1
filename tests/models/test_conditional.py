"""What a network is told changes what it encodes and draws; nothing told is zeros."""

import numpy as np
import pytest
import torch
from torch import nn

from cardiac_attrivae.models.conditional import told, withheld
from cardiac_attrivae.models.independence import decorrelate
from cardiac_attrivae.models.networks import NETWORKS, build_network
from cardiac_attrivae.models.refiner import Painted

KNOWN = ["DCM", "HCM", "NOR"]
IMAGES = torch.rand(5, 2, 32, 32, generator=torch.Generator().manual_seed(0))
CATEGORIES = torch.eye(3)[[0, 1, 2, 0, 1]]
TOLD = [*NETWORKS, "BetaVAE per_channel"]
"""Networks, and options that are [8, 8]."""


def new(name, categories=KNOWN):
    torch.manual_seed(0)
    sizes = {"latent_size": 6, "image_size": 32, "channels": 2}
    name, *options = name.split()
    sizes |= dict.fromkeys(options, [8, 8])
    return build_network(name, condition="pathology", categories=categories, **sizes).eval()


def built(name):
    """A network that heeds what it is told, which a new one ignores."""
    network = new(name)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1 and not parameter[:, -len(KNOWN) :].any():
                parameter[:, -len(KNOWN) :].normal_(0, 0.3)
    return network


def passed(network, categories=None, images=IMAGES):
    with torch.no_grad(), told(network, categories):
        return network(images)


@pytest.mark.parametrize("name", TOLD)
def test_each_row_has_the_code_and_the_picture_of_its_own_category(name):
    network = built(name)
    nothing, output = passed(network), passed(network, CATEGORIES)
    for both in zip(nothing, output, strict=True):
        assert not torch.isclose(*both).all()
    for row in range(5):
        alone = passed(network, CATEGORIES[row : row + 1], IMAGES[row : row + 1])
        torch.testing.assert_close(alone.mu[0], output.mu[row], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            alone.reconstruction[0], output.reconstruction[row], rtol=1e-4, atol=1e-5
        )
    with torch.no_grad(), told(network, CATEGORIES[:1]):
        one, other = network.encode(IMAGES), network.encode(IMAGES.flip(0))
    torch.testing.assert_close(one[0], other[0].flip(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", TOLD)
def test_nothing_told_is_zeros_and_is_forgotten_afterwards(name):
    network = built(name)
    nothing = passed(network)
    for output in (passed(network, torch.zeros(5, 3)), passed(network, torch.zeros(1, 3))):
        assert all(torch.equal(*both) for both in zip(nothing, output, strict=True))
    with pytest.raises(RuntimeError), told(network, CATEGORIES):
        network.encode(IMAGES[:2])  # five categories of two slices
    assert network.told is None
    assert torch.equal(passed(network).mu, nothing.mu)


@pytest.mark.parametrize("name", TOLD)
def test_a_new_network_ignores_what_it_is_told_and_learns_to_heed_it(name):
    network = new(name)
    assert torch.equal(passed(network, CATEGORIES).reconstruction, passed(network).reconstruction)
    plain = new(name, ()).state_dict()
    for key, parameter in network.state_dict().items():
        if parameter.shape != plain[key].shape:
            own = parameter[:, : plain[key].shape[1]]
            assert float(own.std() / plain[key].std()) == pytest.approx(1, abs=0.15)
            assert not parameter[:, plain[key].shape[1] :].any()
    with told(network, CATEGORIES):
        network(IMAGES).reconstruction.square().sum().backward()
    for key, parameter in network.named_parameters():
        if parameter.shape != plain[key].shape:
            assert parameter.grad[:, plain[key].shape[1] :].any()


@pytest.mark.parametrize("name", NETWORKS)
def test_without_categories_a_network_is_the_unconditional_one(name):
    torch.manual_seed(0)
    plain = build_network(name, latent_size=6, image_size=32, channels=2).eval()
    network = new(name, ())
    assert network.state_dict().keys() == plain.state_dict().keys()
    assert torch.equal(passed(network, CATEGORIES).mu, passed(plain).mu)


@pytest.mark.parametrize("name", NETWORKS)
def test_decorrelated_codes_draw_the_same_pictures_of_every_category(name):
    network = built(name)
    before = passed(network, CATEGORIES)
    decorrelate(network, before.mu.numpy(), [0, 1])
    after = passed(network, CATEGORIES)
    torch.testing.assert_close(after.reconstruction, before.reconstruction, rtol=1e-3, atol=1e-4)
    assert not torch.isclose(after.mu, before.mu).all()


def test_a_network_that_a_refiner_paints_over_is_told_too():
    class Silent(nn.Module):
        def forward(self, picture, noise):
            return picture

    network = built("BetaVAE")
    painted = Painted(network, Silent(), torch.zeros(6), torch.zeros(6))
    code = torch.zeros(2, 6)
    with torch.no_grad(), told(painted, CATEGORIES[:2]):
        drawn = painted.decode(code)
        assert torch.equal(drawn, network.decode(code))
    assert not torch.isclose(drawn[0], drawn[1]).all()


def test_training_tells_nothing_of_a_tenth_of_the_rows():
    every = torch.eye(3).repeat(2000, 1)
    kept = withheld(every, torch.Generator().manual_seed(0))
    assert torch.equal(kept.sum(1) * kept.argmax(1), kept.sum(1) * every.argmax(1))
    assert kept.sum(1).unique().tolist() == [0, 1]
    assert float(kept.sum(1).mean()) == pytest.approx(0.9, abs=4 * np.sqrt(0.09 / 6000))


@pytest.mark.parametrize("names", [["DCM", "DCM"], ["DCM", ""], ["a\nb"], ["x" * 65], [1], "DCM"])
def test_names_that_no_page_could_show_are_refused(names):
    with pytest.raises(ValueError, match=r"categories is .*; expected texts of 1 to 64 printable"):
        new("BetaVAE", names)
