"""Networks: the published sizes, nothing hidden between image, code and image."""

import pytest
import torch
from torch import nn

from cardiac_attrivae.networks import NETWORKS, BetaVAE, build_network
from cardiac_attrivae.schema import VAEOutput


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def images(n=3, channels=1, size=128):
    return torch.rand(n, channels, size, size)


@pytest.mark.parametrize(("latent_size", "count"), [(32, 419_713), (128, 493_633), (256, 592_193)])
def test_parameter_counts_are_the_published_ones(latent_size, count):
    network = BetaVAE(latent_size=latent_size, image_size=128)
    assert sum(p.numel() for p in network.parameters()) == count


def test_encoder_and_decoder_have_the_published_shares():
    network = BetaVAE()
    decoder = sum(p.numel() for p in network.decoder.parameters())
    assert decoder == 205_729


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("size", [32, 64, 128, 256])
@pytest.mark.parametrize("channels", [1, 2])
def test_every_network_gives_back_the_shape_that_it_got(name, size, channels):
    network = build_network(name, latent_size=5, image_size=size, channels=channels)
    assert (network.latent_size, network.image_size, network.channels) == (5, size, channels)
    image = images(2, channels, size)
    output = network(image, torch.randn(2, 5))
    assert isinstance(output, VAEOutput)
    assert output.reconstruction.shape == image.shape
    assert output.mu.shape == output.logvar.shape == output.z.shape == (2, 5)


@pytest.mark.parametrize("training", [True, False])
def test_without_noise_z_is_mu_in_either_mode(training):
    network = BetaVAE(image_size=32).train(training)
    output = network(images(size=32))
    assert torch.equal(output.z, output.mu)
    assert torch.equal(output.reconstruction, network.decode(output.mu))


def test_noise_is_scaled_by_the_standard_deviation():
    network = BetaVAE(image_size=32)
    noise = torch.randn(3, 32)
    output = network(images(size=32), noise)
    sigma = output.logvar.exp().sqrt()
    torch.testing.assert_close((output.z - output.mu) / sigma, noise, rtol=1e-4, atol=1e-5)
    assert torch.equal(output.reconstruction, network.decode(output.z))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_receives_a_gradient(name):
    network = build_network(name)
    output = network(images(4), torch.randn(4, network.latent_size))
    # weighed at random: a plain sum of logvar could cancel
    sum((torch.randn_like(part) * part).sum() for part in output).backward()
    silent = [
        key for key, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0
    ]
    assert silent == []


@pytest.mark.parametrize("name", NETWORKS)
def test_a_state_dict_round_trip_changes_no_bit(name):
    first, second = build_network(name, image_size=32), build_network(name, image_size=32)
    image, noise = images(size=32), torch.randn(3, first.latent_size)
    assert not torch.equal(first(image).mu, second(image).mu)
    second.load_state_dict(first.state_dict())
    for a, b in zip(first(image, noise), second(image, noise), strict=True):
        assert torch.equal(a, b)


def test_one_slice_does_not_look_at_the_others():
    network, image = BetaVAE(image_size=32), images(4, size=32)
    together, alone = network(image), network(image[2:3])
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a[2:3], b, rtol=1e-4, atol=1e-5)


def test_output_is_sigmoid_or_linear():
    state = BetaVAE(image_size=32).state_dict()
    results = {}
    for output in ("sigmoid", "linear"):
        network = BetaVAE(image_size=32, output=output)
        network.load_state_dict(state)
        results[output] = network.decode(torch.linspace(-9, 9, 96).reshape(3, 32))
    torch.testing.assert_close(results["sigmoid"], results["linear"].sigmoid())
    assert results["linear"].min() < 0 or results["linear"].max() > 1


def test_autocast_gives_float32_to_the_losses():
    network = BetaVAE(image_size=32, init="he")
    image, noise = images(size=32), torch.randn(3, 32)
    exact = network(image, noise)
    with torch.autocast("cpu", torch.bfloat16):
        output = network(image, noise)
    assert {part.dtype for part in output} == {torch.float32}
    # bfloat16 has 8 bits: 1/256 per operation, a dozen operations
    torch.testing.assert_close(output.reconstruction, exact.reconstruction, rtol=0.05, atol=0.01)


def test_float64_stays_float64():
    network = BetaVAE(image_size=16).double()
    output = network(images(2, size=16).double(), torch.randn(2, 32, dtype=torch.float64))
    assert {part.dtype for part in output} == {torch.float64}


def test_published_init_is_he_normal_on_linear_and_convolution_only():
    network = BetaVAE()
    for layer in network.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            fan_in = layer.weight[0].numel()
            n = layer.weight.numel()  # the sd of n draws scatters by 1 / sqrt(2 n): 5 sigma
            expected = pytest.approx((2 / fan_in) ** 0.5, rel=5 / (2 * n) ** 0.5)
            assert layer.weight.std().item() == expected
            assert not layer.bias.any()
        if isinstance(layer, nn.ConvTranspose2d):  # PyTorch: uniform within 1 / sqrt(Cout k k)
            bound = layer.weight[0].numel() ** -0.5
            assert 0.95 * bound < layer.weight.abs().max() <= bound
            assert layer.bias.any()


@pytest.mark.parametrize("output", ["sigmoid", "linear"])
@pytest.mark.parametrize("size", [16, 64, 128, 256])
def test_he_starts_at_the_mean_of_a_masked_slice(output, size):
    network = BetaVAE(image_size=size, output=output, init="he")
    picture = network.decode(torch.randn(16, 32))
    assert picture.mean().item() == pytest.approx(0.08, abs=0.03)


def test_he_keeps_the_size_of_the_signal_through_the_decoder():
    decoder = BetaVAE(init="he").decoder
    signal = torch.randn(64, 32)
    sizes = []
    for layer in decoder[:-1]:
        signal = layer(signal)
        if isinstance(layer, nn.ReLU):
            sizes.append(signal.square().mean().item())
    # He: E[relu(y)^2] is that of the input, 1; borders lose a little, few filters scatter
    assert all(0.3 < size < 3 for size in sizes), sizes


def test_he_and_published_have_the_same_parameters():
    he, published = BetaVAE(init="he").state_dict(), BetaVAE().state_dict()
    assert {k: v.shape for k, v in he.items()} == {k: v.shape for k, v in published.items()}


@pytest.mark.parametrize("size", [0, 8, 24, 100, -16])
def test_a_size_that_is_no_power_of_two_is_refused(size):
    with pytest.raises(ValueError, match=f"image_size is {size}; expected a power of two"):
        BetaVAE(image_size=size)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"output": "tanh"}, "unknown output 'tanh'; expected one of sigmoid, linear"),
        ({"init": "best"}, "unknown init 'best'; expected one of published, he"),
        ({"latent_size": 0}, "latent_size is 0; expected at least 1"),
        ({"channels": 0}, "channels is 0; expected at least 1"),
        ({"depth": 3}, "it takes latent_size, image_size, channels, output, init"),
    ],
)
def test_errors_name_what_is_accepted(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_network("BetaVAE", **arguments)


@pytest.mark.parametrize("shape", [(2, 1, 64, 64), (2, 3, 32, 32), (1, 32, 32)])
def test_an_image_of_another_size_is_refused(shape):
    with pytest.raises(ValueError, match="expected \\(N, C, H, W\\)"):
        BetaVAE(image_size=32)(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(32,), (1, 32), (2, 31)])
def test_noise_is_never_broadcast(shape):
    with pytest.raises(ValueError, match="noise is"):
        BetaVAE(image_size=32)(images(2, size=32), torch.zeros(shape))


def test_a_network_may_be_named_by_its_dotted_path():
    network = build_network("cardiac_attrivae.networks.BetaVAE", image_size=16)
    assert type(network) is BetaVAE
    assert build_network("torch.nn.Linear", in_features=2, out_features=3).out_features == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("BetaVEA", "unknown network 'BetaVEA'; expected one of BetaVAE"),
        ("no_such_package.Net", "'no_such_package.Net' cannot be imported"),
        ("torch.nn.NoSuchLayer", "'torch.nn.NoSuchLayer' cannot be imported"),
        ("math.sqrt", "no subclass of torch.nn.Module"),
        ("torch.nn.Linear", "missing a required argument: 'in_features'"),
    ],
)
def test_an_unknown_network_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        build_network(name)


def test_he_starts_with_a_small_posterior():
    posterior = BetaVAE(init="he").posterior
    bound = (6 / (256 + 64)) ** 0.5  # Xavier-uniform
    assert 0.99 * bound < posterior.weight.abs().max() <= bound
    assert not posterior.bias.any()
