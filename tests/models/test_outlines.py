"""An encoder that is shown outlines: what it sees, and that the guide stays as it is."""

import pytest
import torch
from torch import nn

from cardiac_attrivae.models.guide_network import build_guide
from cardiac_attrivae.models.networks import NETWORKS, build_network, recalibrate
from cardiac_attrivae.models.vae import outlined

SIZE = 32
KINDS = {
    "BetaVAE": {},
    "BetaVAE each channel": {"per_channel": [8]},
    "SoftIntroVAE": {"filters": [4, 8]},
    "BetaVAE told": {"condition": "vendor", "categories": ["GE", "Siemens"], "per_channel": [8]},
}


@pytest.fixture(params=KINDS)
def network(request):
    """Two channels, weights of a guide that has learnt nothing, but that is not like new."""
    torch.manual_seed(0)
    name, *_ = request.param.split()
    network = build_network(
        name, latent_size=4, image_size=SIZE, channels=2, outlines=True, **KINDS[request.param]
    )
    network.guide.load_state_dict(build_guide(3).state_dict())
    for layer in network.guide.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.add_(0.1)
    return network


@pytest.fixture
def image():
    return torch.rand(3, 2, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def seen_by_encoder(network, image):
    first, found = next(network.encoder.children()), []
    hook = first.register_forward_pre_hook(lambda _, values: found.append(values[0]))
    network.encode(image)
    hook.remove()
    return found[0]


def test_the_encoder_is_shown_each_channel_and_what_the_guide_sees_in_it(network, image):
    shown = seen_by_encoder(network.train(), image)
    for channel in range(2):
        own = image[:, channel : channel + 1]
        heart = network.guide(own).softmax(dim=1)[:, 1:]
        expected = torch.cat([own, heart], dim=1)
        torch.testing.assert_close(shown[:, 4 * channel : 4 * channel + 4], expected)
    assert not shown[:, 8:].any()  # it is told nothing


def test_masks_are_shown_instead_of_what_the_guide_sees(network, image):
    seen, label = seen_by_encoder(network, image), torch.randint(4, (3, 2, SIZE, SIZE))
    with outlined(network, label):
        shown = seen_by_encoder(network, image)
    for channel in range(2):
        own = label[:, channel : channel + 1]
        expected = torch.cat([image[:, channel : channel + 1], own == 1, own == 2, own == 3], dim=1)
        assert torch.equal(shown[:, 4 * channel : 4 * channel + 4], expected)
    assert torch.equal(seen_by_encoder(network, image), seen)


def test_all_learn_but_the_guide_which_stays_as_it_is(network, image):
    before = {name: value.clone() for name, value in network.guide.state_dict().items()}
    network.train()
    output = network(image.requires_grad_(), torch.randn(3, 4))
    sum((torch.randn_like(part) * part).sum() for part in output).backward()
    recalibrate(network, [image.detach()])
    for name, parameter in network.named_parameters():
        assert (parameter.grad is None) == name.startswith("guide."), name
    assert image.grad.any()
    for name, value in network.guide.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_channels_that_change_places_change_those_of_their_features(image):
    network = build_network("BetaVAE", image_size=SIZE, channels=2, per_channel=[8], outlines=True)
    each = network.encoder[0]
    there, back = (
        each(seen_by_encoder(network, given)).unflatten(1, (2, -1))
        for given in (image, image.flip(1))
    )
    torch.testing.assert_close(back.flip(1), there, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_without_outlines_there_is_no_guide(name):
    network = build_network(name)
    assert network.guide is None
    assert not any("guide" in key for key in network.state_dict())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"outlines": 1}, "outlines is 1; expected true or false"),
        ({"outlines": True, "image_size": 16}, "image_size is 16; expected .* at least 32"),
    ],
)
def test_errors_name_what_is_accepted(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_network("BetaVAE", **arguments)
