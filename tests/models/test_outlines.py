"""Encoders that see more than a slice: outlines of the guide, and what the code draws."""

import pytest
import torch
from torch import nn

from cardiac_attrivae.models.guide_network import build_guide
from cardiac_attrivae.models.independence import decorrelate
from cardiac_attrivae.models.networks import NETWORKS, build_network, recalibrate
from cardiac_attrivae.models.vae import outlined

SIZE = 32
KINDS = {
    "BetaVAE": {},
    "BetaVAE each channel": {"per_channel": [8]},
    "SoftIntroVAE": {"filters": [4, 8]},
    "BetaVAE told": {"condition": "vendor", "categories": ["GE", "Siemens"], "per_channel": [8]},
    "BetaVAE twice": {"per_channel": [8], "second_look": True},
    "SoftIntroVAE twice": {"filters": [4, 8], "second_look": True},
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


def seen_by(encoder, network, image):
    first, found = next(encoder.children()), []
    hook = first.register_forward_pre_hook(lambda _, values: found.append(values[0]))
    network.encode(image)
    hook.remove()
    return found[0]


def test_the_encoder_is_shown_each_channel_and_what_the_guide_sees_in_it(network, image):
    shown = seen_by(network.encoder, network.train(), image)
    for channel in range(2):
        own = image[:, channel : channel + 1]
        heart = network.guide(own).softmax(dim=1)[:, 1:]
        expected = torch.cat([own, heart], dim=1)
        torch.testing.assert_close(shown[:, 4 * channel : 4 * channel + 4], expected)
    assert not shown[:, 8:].any()  # it is told nothing


def test_masks_are_shown_instead_of_what_the_guide_sees(network, image):
    seen, label = seen_by(network.encoder, network, image), torch.randint(4, (3, 2, SIZE, SIZE))
    with outlined(network, label):
        shown = seen_by(network.encoder, network, image)
    for channel in range(2):
        own = label[:, channel : channel + 1]
        expected = torch.cat([image[:, channel : channel + 1], own == 1, own == 2, own == 3], dim=1)
        assert torch.equal(shown[:, 4 * channel : 4 * channel + 4], expected)
    assert torch.equal(seen_by(network.encoder, network, image), seen)


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
        each(seen_by(network.encoder, network, given)).unflatten(1, (2, -1))
        for given in (image, image.flip(1))
    )
    torch.testing.assert_close(back.flip(1), there, rtol=1e-4, atol=1e-6)


@pytest.fixture(params=["BetaVAE", "SoftIntroVAE"])
def looks_twice(request):
    """Its second encoder has learnt something."""
    torch.manual_seed(0)
    network = build_network(
        request.param, latent_size=4, image_size=SIZE, channels=2, outlines=True, second_look=True
    )
    torch.nn.init.normal_(network.second[-1].weight, 0, 0.1)
    torch.nn.init.normal_(network.second[-1].bias)
    return network.eval()


def test_the_second_encoder_sees_what_the_first_code_draws_and_corrects_it(looks_twice, image):
    found = seen_by(looks_twice.second, looks_twice, image)
    posterior = looks_twice.posterior_of(looks_twice._with_outlines(image))
    drawn = looks_twice.decode(posterior[:, :4])
    for channel in range(2):
        for begin, picture in ((0, image), (4, drawn)):
            own = picture[:, channel : channel + 1]
            heart = looks_twice.guide(own).softmax(dim=1)[:, 1:]
            place = 8 * channel + begin
            expected = torch.cat([own, heart], dim=1)
            torch.testing.assert_close(found[:, place : place + 4], expected)
    expected = posterior + looks_twice.second(found)
    torch.testing.assert_close(torch.cat(looks_twice.encode(image), dim=1), expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_new_network_corrects_nothing(name):
    torch.manual_seed(0)
    network = build_network(name, latent_size=4, image_size=SIZE, second_look=True).eval()
    image = torch.rand(3, 1, SIZE, SIZE)
    found = torch.cat(network.encode(image), dim=1)
    torch.testing.assert_close(found, network.posterior_of(image))


def test_corrected_codes_can_be_decorrelated(looks_twice):
    images = torch.rand(40, 2, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = looks_twice(images)
        decorrelate(looks_twice, before.mu.numpy(), [0])
        after = looks_twice(images)
    torch.testing.assert_close(after.reconstruction, before.reconstruction, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(after.mu[:, 0], before.mu[:, 0])
    assert (
        abs(torch.corrcoef(after.mu.T)[0, 1:]).max()
        < 1e-3
        < abs(torch.corrcoef(before.mu.T)[0, 1:]).max()
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_without_outlines_there_is_no_guide(name):
    network = build_network(name)
    assert network.guide is None
    assert not any("guide" in key for key in network.state_dict())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"outlines": 1}, "outlines is 1; expected true or false"),
        ({"second_look": "yes"}, "second_look is 'yes'; expected true or false"),
        ({"outlines": True, "image_size": 16}, "image_size is 16; expected .* at least 32"),
    ],
)
def test_errors_name_what_is_accepted(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_network("BetaVAE", **arguments)
