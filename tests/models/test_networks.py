"""Networks: the published sizes, nothing hidden between image, code and image."""

import copy
import re
import tracemalloc
from pathlib import Path

import pytest
import torch
from torch import nn

from cardiac_attrivae.models.networks import (
    NETWORKS,
    BetaVAE,
    SoftIntroVAE,
    build_network,
    parameter_count,
    recalibrate,
)
from cardiac_attrivae.schema import VAEOutput
from cardiac_attrivae.training.optimisation import split_parameters


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


@pytest.mark.parametrize(("normalisation", "same"), [("instance", True), ("none", False)])
def test_instance_normalisation_takes_the_gain_of_an_image_out_of_its_code(normalisation, same):
    network = BetaVAE(image_size=16, init="he", normalisation=normalisation)
    image = images(4, size=16)
    codes = [network.encode(gain * image)[0] for gain in (1, 3)]
    assert torch.allclose(*codes, atol=1e-3) == same  # 1e-5 is added to each variance


def test_normalisation_follows_every_convolution_of_the_encoder_but_the_last():
    network = BetaVAE(normalisation="batch")
    kinds = [type(layer) for layer in network.encoder]
    convolutions = kinds.count(nn.Conv2d)
    assert kinds[: 3 * convolutions - 3] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * (
        convolutions - 1
    )
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in network.decoder)


def test_normalisation_follows_every_convolution_of_the_decoder_but_the_one_of_the_image():
    network = BetaVAE(decoder_normalisation="batch")
    kinds = [type(layer) for layer in network.decoder][3:]  # linear, ReLU, unflattened
    convolutions = kinds.count(nn.ConvTranspose2d)
    expected = [nn.ConvTranspose2d, nn.BatchNorm2d, nn.ReLU] * (convolutions - 1)
    assert kinds == [*expected, nn.ConvTranspose2d]
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in network.encoder)


@pytest.mark.parametrize("per_channel", [[8], [8, 16], (4, 4, 4)])
def test_channels_that_change_places_change_those_of_their_features(per_channel):
    network, image = BetaVAE(image_size=32, channels=4, per_channel=per_channel), images(2, 4, 32)
    order = [2, 0, 3, 1]
    each = network.encoder[0]
    found = each(image).unflatten(1, (4, -1))
    torch.testing.assert_close(each(image[:, order]).unflatten(1, (4, -1)), found[:, order])
    for channel in range(4):
        alone = nn.Sequential(*each)(image[:, channel : channel + 1])
        torch.testing.assert_close(found[:, channel], alone, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("per_channel", [[32], [32, 32, 32]])
def test_of_a_single_channel_per_channel_changes_nothing(per_channel):
    plain, each = (BetaVAE(image_size=32, per_channel=f) for f in ((), per_channel))
    weights = zip(each.state_dict(), plain.state_dict().values(), strict=True)
    each.load_state_dict(dict(weights))
    noise, image = torch.randn(3, 32), images(size=32)
    for a, b in zip(plain(image, noise), each(image, noise), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_a_network_per_channel_has_weights_for_one_channel_and_all_learn():
    network = BetaVAE(image_size=32, channels=10, per_channel=[8, 16], init="he")
    assert network.encoder[0][0].weight.shape[1] == 1
    output = network(images(2, 10, 32), torch.randn(2, 32))
    sum((torch.randn_like(part) * part).sum() for part in output).backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


@pytest.mark.parametrize("size", [0, 8, 24, 100, -16])
def test_a_size_that_is_no_power_of_two_is_refused(size):
    with pytest.raises(ValueError, match=f"image_size is {size}; expected a power of two"):
        BetaVAE(image_size=size)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"output": "tanh"}, "output is 'tanh'; expected one of sigmoid, linear"),
        ({"init": "best"}, "init is 'best'; expected one of published, he"),
        ({"per_channel": 6}, "per_channel is 6; expected 0 to 5 whole numbers from 1 to 4096"),
        ({"per_channel": [8] * 6}, "expected 0 to 5 whole numbers"),
        ({"per_channel": [0]}, "expected 0 to 5 whole numbers"),
        ({"normalisation": "group"}, "is 'group'; expected one of none, instance, batch"),
        ({"decoder_normalisation": 1}, "is 1; expected one of none, instance, batch"),
        ({"latent_size": 0}, "latent_size is 0; expected a whole number from 1"),
        ({"channels": 0}, "channels is 0; expected a whole number from 1"),
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
    network = build_network("cardiac_attrivae.models.networks.BetaVAE", image_size=16)
    assert type(network) is BetaVAE
    assert build_network("torch.nn.Linear", in_features=2, out_features=3).out_features == 3


def test_the_network_of_the_page_on_extending_is_complete(tmp_path, monkeypatch):
    text = (Path(__file__).parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"```python\n(from torch import nn\n.*?)```", text, re.DOTALL)
    (tmp_path / "package_of_the_page.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    network = build_network("package_of_the_page.MyVAE", latent_size=5)
    output = network(torch.rand(2, 1, 128, 128))
    assert output.mu.shape == (2, 5)
    assert output.reconstruction.shape == (2, 1, 128, 128)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("BetaVEA", "unknown network 'BetaVEA', did you mean 'BetaVAE'.; expected one of BetaVAE"),
        (
            "no_such_package.Net",
            "'no_such_package.Net' cannot be imported: .* folder of PYTHONPATH",
        ),
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


# -- Soft-Intro VAE ------------------------------------------------------------------------------


def without_memory(**arguments):
    """A network that has shapes and no values."""
    with torch.device("meta"):
        return SoftIntroVAE(**arguments)


def tiny(size=16, filters=(4, 8), **arguments):
    return SoftIntroVAE(latent_size=5, image_size=size, filters=filters, **arguments)


def count(parameters):
    return sum(p.numel() for p in parameters)


def batch_norms(network):
    return {n: m for n, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)}


def copied_state(network):
    return copy.deepcopy(network.state_dict())


def same_state(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("latent_size", "shortcut", "expected"),
    [
        (256, "changed", 32_576_769),
        (128, "changed", 29_430_785),
        (64, "changed", 27_857_793),
        (32, "changed", 27_071_297),
        (256, "published", 33_101_057),
        (128, "published", 29_955_073),
        (64, "published", 28_382_081),
        (32, "published", 27_595_585),
    ],
)
def test_soft_intro_vae_has_the_published_number_of_parameters(latent_size, shortcut, expected):
    network = without_memory(latent_size=latent_size, shortcut=shortcut)
    assert count(network.parameters()) == expected


@pytest.mark.parametrize(
    ("shortcut", "encoder", "decoder"),
    [("changed", 18_458_304, 14_118_465), ("published", 18_720_448, 14_380_609)],
)
def test_encoder_and_decoder_of_soft_intro_vae_have_the_published_shares(
    shortcut, encoder, decoder
):
    network = without_memory(shortcut=shortcut)
    assert count(network.encoder.parameters()) == encoder
    assert count(network.decoder.parameters()) == decoder


def test_the_published_shortcut_widens_one_block_of_512_filters_on_either_side():
    kinds = ("changed", "published")
    changed, published = (set(without_memory(shortcut=kind).state_dict()) for kind in kinds)
    extra = {f"{part}.main.res_in_8.conv_expand.weight" for part in ("encoder", "decoder")}
    assert published - changed == extra
    assert changed < published
    fewer = {"filters": (64, 128, 256, 256), "image_size": 64}  # one object per number to 256
    one, other = (without_memory(shortcut=kind, **fewer) for kind in kinds)
    assert count(one.parameters()) == count(other.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_encoder_and_decoder_share_no_parameter_and_leave_none_out(name):
    with torch.device("meta"):
        network = build_network(name)
    names = {id(p): n for n, p in network.named_parameters()}
    encoder, decoder = ([names[id(p)] for p in part] for part in split_parameters(network))
    assert sorted(encoder + decoder) == sorted(names.values())
    assert decoder == [n for n in names.values() if n.startswith("decoder.")]


@pytest.mark.parametrize("shortcut", ["changed", "published"])
@pytest.mark.parametrize(
    ("size", "filters"),
    [(8, [4]), (8, [2, 3, 4]), (16, (4, 8)), (32, (4,)), (32, (3, 3, 2)), (64, [2] * 6)],
)
def test_soft_intro_vae_is_built_of_any_filters_that_the_image_can_be_halved_for(
    size, filters, shortcut
):
    network, image = tiny(size, filters, shortcut=shortcut), images(3, size=size)
    output = network(image, torch.randn(3, 5))
    assert output.reconstruction.shape == image.shape
    assert output.mu.shape == (3, 5)
    inner = []
    network.encoder.flatten.register_forward_hook(lambda m, i, out: inner.append(i[0].shape))
    network(image)
    assert inner == [(3, filters[-1], size // 2 ** len(filters), size // 2 ** len(filters))]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 4, "filters": [4]}, "image_size is 4; .* of at least 8: 8, 16, 32"),
        ({"image_size": 96}, "image_size is 96; expected a power of two of at least 32"),
        ({"image_size": 16}, "image_size is 16; expected a power of two of at least 32"),
        ({"filters": []}, r"filters is \(\); expected 1 to 12 whole numbers from 1 to 4096"),
        ({"filters": [4, 0]}, r"filters is \(4, 0\); expected 1 to 12 whole numbers"),
        ({"filters": [4.5]}, r"filters is \(4.5,\); expected 1 to 12 whole numbers"),
        ({"bn": "eval"}, "bn is 'eval'; expected one of train, frozen"),
        ({"shortcut": "is"}, "shortcut is 'is'; expected one of changed, published"),
        ({"output": "tanh"}, "output is 'tanh'; expected one of sigmoid, linear"),
        ({"latent_size": 0}, "latent_size is 0; expected a whole number from 1"),
        ({"channels": 0}, "channels is 0; expected a whole number from 1"),
        ({"init": "he"}, "it takes latent_size, image_size, channels, filters, output, bn"),
    ],
)
def test_errors_of_soft_intro_vae_name_what_is_accepted(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_network("SoftIntroVAE", **arguments)


def test_soft_intro_vae_has_sigmoid_or_linear_output_of_the_same_weights():
    linear, sigmoid = tiny(output="linear").eval(), tiny().eval()
    sigmoid.load_state_dict(linear.state_dict())
    z = 30 * torch.randn(4, 5)
    torch.testing.assert_close(sigmoid.decode(z), linear.decode(z).sigmoid())
    assert linear.decode(z).min() < 0


def test_soft_intro_vae_keeps_float64_and_gives_float32_under_autocast():
    network = tiny()
    with torch.autocast("cpu", torch.bfloat16):
        output = network(images(3, size=16), torch.randn(3, 5))
    assert {part.dtype for part in output} == {torch.float32}
    output = network.double()(images(3, size=16).double(), torch.randn(3, 5).double())
    assert {part.dtype for part in output} == {torch.float64}


@pytest.mark.parametrize("bn", ["train", "frozen"])
def test_one_slice_looks_at_the_others_only_where_batch_norm_is_trained(bn):
    network, image = tiny(bn=bn).double(), images(4, size=16).double()
    gap = (network(image).mu[:2] - network(image[:2]).mu).abs().max()
    assert (gap > 1e-3) == (bn == "train")
    network.eval()
    assert (network(image).mu[:2] - network(image[:2]).mu).abs().max() < 1e-12


def test_frozen_batch_norm_never_leaves_eval_and_never_changes():
    network = tiny(bn="frozen")
    norms, before = batch_norms(network), copied_state(network)
    assert norms
    for training in (True, False, True):
        network.train(training)
        assert network.training == network.encoder.main.training == training
        assert not any(norm.training for norm in norms.values())
        network(images(3, size=16), torch.randn(3, 5))
    assert not any(norm.training for norm in batch_norms(tiny(bn="frozen")).values())
    assert same_state(before, network.state_dict())
    assert all(norm.weight.requires_grad for norm in norms.values())  # the scaling itself learns


def test_frozen_statistics_are_those_that_one_pass_of_a_black_image_leaves():
    """Which the published constructor does, to learn the size of its features."""
    passed, network = tiny(), tiny(bn="frozen")
    passed.encode(torch.zeros(1, 1, 16, 16))
    found, expected = batch_norms(network), batch_norms(passed)
    for name, norm in expected.items():
        torch.testing.assert_close(found[name].running_mean, norm.running_mean)
        torch.testing.assert_close(found[name].running_var, norm.running_var)
        encoder = name.startswith("encoder.")
        assert found[name].running_var.unique().tolist() == pytest.approx([0.9 if encoder else 1.0])


def test_the_frozen_network_has_the_weights_of_the_other():
    names = tiny().state_dict().keys()
    assert tiny(bn="frozen").state_dict().keys() == names
    torch.manual_seed(1)
    one = tiny()
    torch.manual_seed(1)
    other = tiny(bn="frozen")
    assert all(map(torch.equal, one.parameters(), other.parameters()))


def moments(network, batches):
    """Mean and unbiased variance of what each batch norm is given, averaged over the batches."""
    seen = {name: [] for name in batch_norms(network)}

    def listen(name):
        def keep(layer, inputs):
            x = inputs[0].detach().transpose(0, 1).flatten(1)
            seen[name].append(torch.stack([x.mean(dim=1), x.var(dim=1)]))

        return keep

    handles = [m.register_forward_pre_hook(listen(n)) for n, m in batch_norms(network).items()]
    was_training = network.training
    network.train()
    for batch in batches:
        network(batch)
    network.train(was_training)
    for handle in handles:
        handle.remove()
    return {name: torch.stack(parts).mean(dim=0) for name, parts in seen.items()}


@pytest.mark.parametrize("training", [True, False])
def test_recalibration_leaves_the_moments_of_the_batches_and_the_mode(training):
    network = tiny().double().train(training)
    weights = [p.clone() for p in network.parameters()]
    batches = [images(n, size=16).double() for n in (4, 4, 2)]
    expected = moments(copy.deepcopy(network), batches)
    recalibrate(network, iter(batches))
    for name, norm in batch_norms(network).items():
        mean, variance = expected[name]
        torch.testing.assert_close(norm.running_mean, mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(norm.running_var, variance, rtol=1e-12, atol=1e-12)
        assert norm.momentum == 0.1
    assert {m.training for m in network.modules()} == {training}
    assert all(map(torch.equal, weights, network.parameters()))
    assert all(p.grad is None for p in network.parameters())


def test_recalibrated_on_one_batch_eval_is_train_but_for_the_unbiased_variance():
    network, image = tiny().double(), images(4, size=16).double()
    recalibrate(network, [image])
    sizes = {}
    for name, norm in batch_norms(network).items():
        norm.register_forward_pre_hook(
            lambda m, inputs, name=name: sizes.update({name: inputs[0][:, 0].numel()})
        )
    trained = network(image)
    recalibrate(network, [image])
    for name, norm in batch_norms(network).items():
        norm.running_var *= (sizes[name] - 1) / sizes[name]
    for a, b in zip(trained, network.eval()(image), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_recalibration_undoes_what_generated_images_did_to_the_statistics():
    network, batches = tiny(), [images(4, size=16) for _ in range(3)]
    recalibrate(network, batches)
    clean = copied_state(network)
    for _ in range(20):
        with torch.no_grad():
            network(network.decode(torch.randn(4, 5)))
    polluted = copied_state(network)
    name = "encoder.main.1.running_mean"
    assert (polluted[name] - clean[name]).abs().max() > 0.01
    recalibrate(network, batches)
    assert same_state(clean, network.state_dict())


def never():
    raise AssertionError("a batch was asked for")
    yield


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("norm", ["none", "frozen"])
def test_recalibration_passes_over_what_has_no_batch_norm_or_frozen_one(norm, training):
    network = tiny(bn="frozen") if norm == "frozen" else BetaVAE(latent_size=4, image_size=16)
    network.train(training)
    before = copied_state(network)
    recalibrate(network, never())
    assert same_state(before, network.state_dict())
    assert network.training == training
    assert not any(norm.training for norm in batch_norms(network).values())


@pytest.mark.parametrize("name", NETWORKS)
def test_values_are_counted_before_a_network_is_built_and_no_draw_is_used_up(name):
    torch.manual_seed(7)
    built = build_network(name, image_size=32, **({"filters": [4]} if "Soft" in name else {}))
    torch.manual_seed(7)
    plain = type(built)(image_size=32, **({"filters": [4]} if "Soft" in name else {}))
    weights = built.state_dict()
    assert all(torch.equal(weights[key], value) for key, value in plain.state_dict().items())
    arguments = {"image_size": 32} | ({"filters": [4]} if "Soft" in name else {})
    assert parameter_count(name, **arguments) == sum(v.numel() for v in weights.values())


@pytest.mark.parametrize(
    "arguments",
    [
        {"name": "BetaVAE", "latent_size": 1_600_000},
        {"name": "BetaVAE", "image_size": 2**20},
        {"name": "SoftIntroVAE", "filters": [4096] * 5},
        {"name": "SoftIntroVAE", "filters": [1] * 100_000},
        {"name": "SoftIntroVAE", "image_size": 4096, "latent_size": 4096},
    ],
)
def test_a_network_beyond_all_reason_is_refused_before_it_takes_memory(arguments):
    tracemalloc.start()
    with pytest.raises(ValueError, match="expected"):
        build_network(arguments.pop("name"), **arguments)
    assert tracemalloc.get_traced_memory()[1] < 2**26
    tracemalloc.stop()
