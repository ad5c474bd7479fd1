"""Free dimensions lose what a line on the trained ones says, and the pictures stay."""

import copy

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression
from torch import nn

from cardiac_attrivae.models.anatomy_terms import turned
from cardiac_attrivae.models.independence import code_layers, decorrelate, predicting
from cardiac_attrivae.models.networks import NETWORKS
from cardiac_attrivae.models.vae import VAE

SIZES = {"BetaVAE": {}, "SoftIntroVAE": {"filters": [4, 8]}}


@pytest.fixture(params=sorted(NETWORKS))
def network(request):
    torch.manual_seed(0)
    made = NETWORKS[request.param](latent_size=6, image_size=16, **SIZES[request.param]).eval()
    return made.double()


@pytest.fixture
def images():
    random = torch.Generator().manual_seed(1)
    brightness = torch.rand(40, 1, 1, 1, generator=random)
    return (brightness * torch.rand(40, 1, 16, 16, generator=random)).double()


def test_slopes_are_those_of_a_linear_regression():
    codes = np.random.default_rng(0).normal(size=(30, 5)) @ np.tri(5)
    mean, slopes = predicting(codes, [0, 3])
    line = LinearRegression().fit(codes[:, [0, 3]], codes)
    np.testing.assert_allclose(mean, codes[:, [0, 3]].mean(0))
    np.testing.assert_allclose(slopes[[1, 2, 4]][:, [0, 3]], line.coef_[[1, 2, 4]], atol=1e-10)
    assert not slopes[[0, 3]].any()
    assert not slopes[:, [1, 2, 4]].any()


@torch.no_grad()
def test_free_codes_become_uncorrelated_and_trained_ones_and_pictures_stay(network, images):
    before, trained = network(images), [0, 4]
    decorrelate(network, before.mu.numpy(), trained)
    after = network(images)
    np.testing.assert_allclose(after.reconstruction, before.reconstruction, atol=1e-12)
    np.testing.assert_allclose(after.mu[:, trained], before.mu[:, trained], atol=1e-12)
    np.testing.assert_allclose(after.logvar, before.logvar, atol=1e-12)
    np.testing.assert_allclose(after.mu.mean(0), before.mu.mean(0), atol=1e-12)
    was, now = (np.corrcoef(codes.T)[trained][:, [1, 2, 3, 5]] for codes in (before.mu, after.mu))
    assert np.abs(was).max() > 0.3
    np.testing.assert_allclose(now, 0, atol=1e-6)


@torch.no_grad()
def test_any_code_is_drawn_as_the_old_code_that_it_stands_for(network, images):
    old, trained = copy.deepcopy(network), [1]
    mu = network.encode(images)[0].numpy()
    mean, slopes = predicting(mu, trained)
    decorrelate(network, mu, trained)
    z = torch.randn(7, 6, generator=torch.Generator().manual_seed(2)).double()
    same = z + (z[:, trained] - torch.as_tensor(mean)) @ torch.as_tensor(slopes[:, trained]).T
    np.testing.assert_allclose(network.decode(z), old.decode(same), atol=1e-12)


@torch.no_grad()
def test_a_turn_along_the_slopes_is_the_turn_of_the_decorrelated_code(network, images):
    """Training turns codes as they will be: what it learns to draw is what is drawn in the end."""
    old, mu = copy.deepcopy(network), network.encode(images)[0]
    slopes = torch.as_tensor(predicting(mu.numpy(), [0, 2])[1])
    decorrelate(network, mu.numpy(), [0, 2])
    which, amount = torch.tensor([0, 2] * 20), torch.linspace(-2, 2, 40).double()
    before = old.decode(turned(mu, which, amount, slopes))
    after = network.decode(turned(network.encode(images)[0], which, amount))
    np.testing.assert_allclose(after, before, atol=1e-12)


@torch.no_grad()
def test_it_changes_nothing_the_second_time_or_without_trained_dimensions(network, images):
    decorrelate(network, network(images).mu.numpy(), [0])
    once = copy.deepcopy(network.state_dict())
    for trained in ([0], []):
        decorrelate(network, network(images).mu.numpy(), trained)
        for name, value in network.state_dict().items():
            np.testing.assert_allclose(value, once[name], atol=1e-12)


@pytest.mark.parametrize("network", [nn.Identity(), VAE(4, 16, 1, "linear", 8)])
def test_a_network_that_does_not_show_its_layers_is_refused(network):
    with pytest.raises(ValueError, match="has no code_layers"):
        code_layers(network)
