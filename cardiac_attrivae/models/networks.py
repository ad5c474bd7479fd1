"""Networks: an image in, a `VAEOutput` out. They know no loss and no data set.

To add one, subclass `VAE` and enter it in `NETWORKS`; a class in a package of its own needs no
entry, only its dotted path in the YAML.
"""

from __future__ import annotations

import importlib
import inspect
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from ..schema import VAEOutput

FILTERS, FEATURES = 32, 256
DARK = -2.5  # logit of .08; the mean pixel of ACDC, 0 outside the mask, is .09 over all slices


class VAE(nn.Module):
    """What every network here has: posterior and decoder of square images.

    A subclass sets ``decoder``, whose parameters are the decoder's (all others are the encoder's),
    and writes `posterior_of`.

    Args:
        latent_size: D.
        image_size: H = W, a power of two of at least ``smallest``.
        channels: C.
        output: ``sigmoid`` for pixels in [0, 1], or ``linear``.
        smallest: Smallest image that the network can halve its way down from.

    Raises:
        ValueError: If an argument is not among the accepted ones.
    """

    decoder: nn.Module

    def __init__(
        self, latent_size: int, image_size: int, channels: int, output: str, smallest: int
    ) -> None:
        super().__init__()
        if image_size < smallest or image_size & (image_size - 1):
            raise ValueError(
                f"image_size is {image_size}; expected a power of two of at least {smallest}: "
                f"{smallest}, {2 * smallest}, {4 * smallest}..."
            )
        for name, size in (("latent_size", latent_size), ("channels", channels)):
            if size < 1:
                raise ValueError(f"{name} is {size}; expected at least 1")
        _check_choice("output", output, ("sigmoid", "linear"))
        self.latent_size, self.image_size, self.channels = latent_size, image_size, channels
        self.output = output

    def posterior_of(self, image: Tensor) -> Tensor:
        """Mean, then log of the variance, (N, 2 D)."""
        raise NotImplementedError

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior of each image.

        Args:
            image: Slices, (N, C, H, W).

        Returns:
            Mean and log of the variance, (N, D) each, in float32 also under autocast.

        Raises:
            ValueError: If the images are not of the size that the network was built for.
        """
        expected = (self.channels, self.image_size, self.image_size)
        if image.ndim != 4 or image.shape[1:] != expected:  # would give several codes per image
            raise ValueError(
                f"image is {tuple(image.shape)}; expected (N, C, H, W) = (N, *{expected})"
            )
        mu, logvar = _at_least_float32(self.posterior_of(image)).chunk(2, dim=1)
        return mu, logvar

    def decode(self, z: Tensor) -> Tensor:
        """Images (N, C, H, W) of the codes (N, D), in float32 also under autocast."""
        image = _at_least_float32(self.decoder(z))
        return torch.sigmoid(image) if self.output == "sigmoid" else image

    def forward(self, image: Tensor, noise: Tensor | None = None) -> VAEOutput:
        """Encodes, samples, decodes.

        The caller brings the noise. With a sample that depends on train() or eval() nobody sees
        what was decoded: MONAI's VAE returned mu + sigma in eval mode for years.

        Args:
            image: Slices, (N, C, H, W).
            noise: Standard normal draws, (N, D). Without it, z is mu.

        Raises:
            ValueError: If image or noise have another shape.
        """
        mu, logvar = self.encode(image)
        z = mu if noise is None else reparameterise(mu, logvar, noise)
        return VAEOutput(self.decode(z), mu, logvar, z)


def reparameterise(mu: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    """Samples z = mu + exp(logvar / 2) * noise; everything is (N, D).

    Raises:
        ValueError: If the noise has another shape.
    """
    if noise.shape != mu.shape:
        raise ValueError(f"noise is {tuple(noise.shape)}; expected (N, D) = {tuple(mu.shape)}")
    return mu + torch.exp(logvar / 2) * noise


class BetaVAE(VAE):
    r"""Convolutional VAE of one slice: the network of beta-VAE and Attri-VAE in the paper.

    The encoder halves the image down to 4 x 4 (log2(image_size / 4) convolutions of 32 filters,
    five at 128), one more convolution makes 256 features of it, a linear layer the posterior. The
    decoder is its mirror. At 128 x 128 that is 419,713 parameters with 32 latent dimensions.

    Two initialisations:

    * ``published``: He-normal with zero bias on linear layers and convolutions, transposed
      convolutions as PyTorch leaves them.
    * ``he``: ours, for learning rates around 1e-3, at which the published one may let the decoder
      die to a black image (ACDC, Adam at 2e-3, gamma 1000: 3 seeds of 4). He-normal everywhere,
      with the fan-in that an output pixel of a transposed convolution really has, Cin
      (kernel / stride)^2 (Cin for the first: its input is 1 x 1); a posterior head that starts
      smaller (Xavier); a last layer that starts near the mean pixel of a masked slice.

    Args:
        latent_size: D.
        image_size: H = W, a power of two of at least 16.
        channels: C.
        output: ``sigmoid`` for pixels in [0, 1], or ``linear``.
        init: ``published`` or ``he``.

    Raises:
        ValueError: If an argument is not among the accepted ones.

    References:
        | beta-VAE (Higgins et al., 2017), https://openreview.net/forum?id=Sy2fzU9gl
        | Attribute Regularized Soft Introspective VAE (Di Folco et al., 2023)
        | https://arxiv.org/abs/2307.12618
    """

    def __init__(
        self,
        latent_size: int = 32,
        image_size: int = 128,
        channels: int = 1,
        output: str = "sigmoid",
        init: str = "published",
    ) -> None:
        super().__init__(latent_size, image_size, channels, output, smallest=16)
        _check_choice("init", init, ("published", "he"))
        between = int(math.log2(image_size // 4)) - 1  # the outermost one sees the image

        self.encoder = nn.Sequential(
            *_relu(nn.Conv2d(channels, FILTERS, 4, stride=2, padding=1)),
            *_relu(*(nn.Conv2d(FILTERS, FILTERS, 4, stride=2, padding=1) for _ in range(between))),
            *_relu(nn.Conv2d(FILTERS, FEATURES, 4)),
            nn.Flatten(),
        )
        self.posterior = nn.Linear(FEATURES, 2 * latent_size)  # mu, then log of the variance
        self.decoder = nn.Sequential(
            *_relu(nn.Linear(latent_size, FEATURES)),
            nn.Unflatten(1, (FEATURES, 1, 1)),
            *_relu(nn.ConvTranspose2d(FEATURES, FILTERS, 4)),
            *_relu(
                *(
                    nn.ConvTranspose2d(FILTERS, FILTERS, 4, stride=2, padding=1)
                    for _ in range(between)
                )
            ),
            nn.ConvTranspose2d(FILTERS, channels, 4, stride=2, padding=1),
        )
        self._initialise(init)

    def _initialise(self, init: str) -> None:
        for layer in self.modules():
            if isinstance(layer, (nn.Linear, nn.Conv2d)):
                nn.init.kaiming_normal_(layer.weight)
                nn.init.zeros_(layer.bias)
        if init == "published":
            return
        nn.init.xavier_uniform_(self.posterior.weight)
        for layer in self.decoder.modules():
            if isinstance(layer, nn.ConvTranspose2d):
                reach = 1 if layer.stride[0] == 1 else (4 / 2) ** 2  # input pixels per output pixel
                nn.init.normal_(layer.weight, 0, math.sqrt(2 / (layer.in_channels * reach)))
                nn.init.zeros_(layer.bias)
        start, slope = DARK, 1.0
        if self.output == "linear":  # the same picture: the tangent of the sigmoid at DARK
            start = 1 / (1 + math.exp(-DARK))
            slope = start * (1 - start)
        last = self.decoder[-1]
        nn.init.normal_(last.weight, 0, 0.3 * slope * math.sqrt(1 / (FILTERS * 4)))
        nn.init.constant_(last.bias, start)

    def posterior_of(self, image: Tensor) -> Tensor:
        return self.posterior(self.encoder(image))


class SoftIntroVAE(VAE):
    """Residual VAE with batch norm: the network of Soft-Intro VAE and Attri-SIVAE in the paper.

    The encoder halves the image with each number of filters down to 4 x 4 (five times at 128 x
    128), a linear layer makes the posterior of it; the decoder is its mirror. With the paper's
    filters and 256 latent dimensions that is 32,576,769 parameters. Modules are named as in the
    published code, whose weights can be loaded.

    Args:
        latent_size: D.
        image_size: H = W, a power of two of at least 8, and 2 to the number of filters.
        channels: C.
        filters: Filters of each resolution, from the image inwards.
        output: ``sigmoid`` for pixels in [0, 1], or ``linear``.
        bn: ``train``, or ``frozen``: never out of eval mode, as batch norm was in the published
            training by accident. It is then a fixed scaling.
        shortcut: ``changed``: a 1 x 1 convolution beside a residual block that changes the number
            of filters. ``published``: also beside one block of 512 filters in encoder and decoder,
            where the published code compares two equal numbers with ``is`` (33,101,057 parameters).

    Raises:
        ValueError: If an argument is not among the accepted ones.

    References:
        | Soft-IntroVAE (Daniel & Tamar, 2021), https://arxiv.org/abs/2012.13253
        | Attribute Regularized Soft Introspective VAE (Di Folco et al., 2023)
        | https://arxiv.org/abs/2307.12618
    """

    def __init__(
        self,
        latent_size: int = 256,
        image_size: int = 128,
        channels: int = 1,
        filters: Sequence[int] = (64, 128, 256, 512, 512),
        output: str = "sigmoid",
        bn: str = "train",
        shortcut: str = "changed",
    ) -> None:
        filters = tuple(filters)
        if not filters or not all(type(f) is int and f >= 1 for f in filters):
            raise ValueError(f"filters is {filters}; expected one or more whole numbers from 1 up")
        smallest = max(8, 2 ** len(filters))
        super().__init__(latent_size, image_size, channels, output, smallest)
        _check_choice("bn", bn, ("train", "frozen"))
        _check_choice("shortcut", shortcut, ("changed", "published"))
        self.bn = bn
        twice = 512 if shortcut == "published" else 0  # Python keeps one object per number to 256

        size = image_size // 2
        main = OrderedDict(
            {"0": _conv(channels, filters[0], 5), "1": nn.BatchNorm2d(filters[0])}
            | {"2": nn.LeakyReLU(0.2), "3": nn.AvgPool2d(2)}
        )
        for before, after in zip(filters, filters[1:], strict=False):
            main[f"res_in_{size}"] = _Residual(before, after, before == after == twice)
            main[f"down_to_{size // 2}"] = nn.AvgPool2d(2)
            size //= 2
        main[f"res_in_{size}"] = _Residual(filters[-1], filters[-1])
        start, inner = size, filters[-1] * size * size
        self.encoder = nn.Sequential(OrderedDict(
            main=nn.Sequential(main), flatten=nn.Flatten(), fc=nn.Linear(inner, 2 * latent_size)
        ))  # fmt: skip

        main = OrderedDict()
        outwards = (filters[-1], *reversed(filters))
        for k, (before, after) in enumerate(zip(outwards, outwards[1:], strict=False)):
            main[f"res_in_{size}"] = _Residual(before, after, before == after == twice and k > 0)
            main[f"up_to_{size * 2}"] = nn.Upsample(scale_factor=2, mode="nearest")
            size *= 2
        main[f"res_in_{size}"] = _Residual(filters[0], filters[0])
        main["predict"] = nn.Conv2d(filters[0], channels, 5, padding=2)
        self.decoder = nn.Sequential(OrderedDict(
            fc=nn.Sequential(nn.Linear(latent_size, inner), nn.ReLU()),
            unflatten=nn.Unflatten(1, (filters[-1], start, start)),
            main=nn.Sequential(main),
        ))  # fmt: skip
        if bn == "frozen":  # the one forward pass, of a black image, that the published code does
            for layer in self.encoder.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.running_var.fill_(0.9)
        self.train()

    def posterior_of(self, image: Tensor) -> Tensor:
        return self.encoder(image)

    def train(self, mode: bool = True) -> SoftIntroVAE:
        super().train(mode)
        if self.bn == "frozen":
            for layer in self.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.eval()
        return self


class _Residual(nn.Module):
    """Two 3 x 3 convolutions with batch norm, beside a shortcut."""

    def __init__(self, before: int, after: int, widen: bool = False) -> None:
        super().__init__()
        self.conv_expand = _conv(before, after, 1) if widen or before != after else nn.Identity()
        self.conv1, self.bn1 = _conv(before, after, 3), nn.BatchNorm2d(after)
        self.conv2, self.bn2 = _conv(after, after, 3), nn.BatchNorm2d(after)
        self.act = nn.LeakyReLU(0.2)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.act(self.bn1(self.conv1(x)))
        return self.act(self.bn2(self.conv2(inner)) + self.conv_expand(x))


def _conv(before: int, after: int, kernel: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False)


def recalibrate(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Estimates the running statistics of batch norm anew, on the images given.

    Introspective training fills them with generated images as much as with real ones. Does nothing
    to a network without batch norm, or with frozen batch norm.

    Args:
        network: Left in the mode it was in.
        batches: Images, (N, C, H, W) each; every batch counts the same.
    """
    was_training = network.training
    network.train()
    counts = any(isinstance(m, _BatchNorm) and m.training for m in network.modules())
    network.train(was_training)
    if counts:
        update_bn(batches, network)


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "BetaVAE": BetaVAE,
    "SoftIntroVAE": SoftIntroVAE,
}
"""Networks that a pipeline names by one word."""


def build_network(name: str, /, **arguments: Any) -> nn.Module:
    """Builds the network that a pipeline asks for.

    Args:
        name: A name in `NETWORKS`, or the dotted path of a class, ``package.module.Class``.
        arguments: Of its constructor.

    Raises:
        ValueError: If there is no such network, or it does not take these arguments.
    """
    network = NETWORKS.get(name) or _imported(name)
    try:
        inspect.signature(network).bind(**arguments)
    except TypeError as error:
        accepted = ", ".join(inspect.signature(network).parameters)
        raise ValueError(f"network {name!r}: {error}; it takes {accepted}") from None
    try:
        return network(**arguments)
    except TypeError as error:  # a list where a number belongs, say
        raise ValueError(f"network {name!r} does not take {arguments}: {error}") from error


def _imported(path: str) -> type[nn.Module]:
    module, _, name = path.rpartition(".")
    accepted = (
        f"expected one of {', '.join(NETWORKS)}, or the path of a class: package.module.Class"
    )
    if not module:
        raise ValueError(f"unknown network {path!r}; {accepted}")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"network {path!r} cannot be imported: {error}; {accepted}") from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ValueError(f"network {path!r} is {found!r}, no subclass of torch.nn.Module")
    return found


def _relu(*layers: nn.Module) -> list[nn.Module]:
    """Each layer followed by a ReLU."""
    return [part for layer in layers for part in (layer, nn.ReLU())]


def _at_least_float32(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _check_choice(name: str, value: str, accepted: tuple[str, ...]) -> None:
    if value not in accepted:
        raise ValueError(f"unknown {name} {value!r}; expected one of {', '.join(accepted)}")
