"""Networks: an image in, a `VAEOutput` out. They know no loss and no data set.

To add one, write a class with ``encode``, ``decode`` and ``forward`` as in `BetaVAE`, and enter it
in `NETWORKS`; a class in a package of its own needs no entry, only its dotted path in the YAML.
"""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .schema import VAEOutput

FILTERS, FEATURES = 32, 256
DARK = -2.5  # logit of .08; the mean pixel of ACDC, 0 outside the mask, is .09 over all slices


class BetaVAE(nn.Module):
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
        super().__init__()
        if image_size < 16 or image_size & (image_size - 1):
            raise ValueError(
                f"image_size is {image_size}; expected a power of two of at least 16: 16, 32, 64..."
            )
        for name, size in (("latent_size", latent_size), ("channels", channels)):
            if size < 1:
                raise ValueError(f"{name} is {size}; expected at least 1")
        _check_choice("output", output, ("sigmoid", "linear"))
        _check_choice("init", init, ("published", "he"))

        self.latent_size, self.image_size, self.channels = latent_size, image_size, channels
        self.output = output
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
        mu, logvar = _at_least_float32(self.posterior(self.encoder(image))).chunk(2, dim=1)
        return mu, logvar

    def decode(self, z: Tensor) -> Tensor:
        """Images (N, C, H, W) of the codes (N, D), in float32 also under autocast."""
        image = _at_least_float32(self.decoder(z))
        return torch.sigmoid(image) if self.output == "sigmoid" else image

    def forward(self, image: Tensor, noise: Tensor | None = None) -> VAEOutput:
        """Encodes, samples z = mu + exp(logvar / 2) * noise, decodes.

        The caller brings the noise. With a sample that depends on train() or eval() nobody sees
        what was decoded: MONAI's VAE returned mu + sigma in eval mode for years.

        Args:
            image: Slices, (N, C, H, W).
            noise: Standard normal draws, (N, D). Without it, z is mu.

        Raises:
            ValueError: If image or noise have another shape.
        """
        mu, logvar = self.encode(image)
        if noise is not None and noise.shape != mu.shape:
            raise ValueError(f"noise is {tuple(noise.shape)}; expected (N, D) = {tuple(mu.shape)}")
        z = mu if noise is None else mu + torch.exp(logvar / 2) * noise
        return VAEOutput(self.decode(z), mu, logvar, z)


NETWORKS: dict[str, Callable[..., nn.Module]] = {"BetaVAE": BetaVAE}
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
    return network(**arguments)


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
