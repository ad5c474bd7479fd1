"""The convolutional network of beta-VAE and Attri-VAE."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..runtime.validation import one_of, require
from .vae import VAE, widths

FILTERS, FEATURES = 32, 256
NORMALISATIONS: dict[str, tuple[Callable[[int], nn.Module], ...]] = {
    "none": (), "instance": (partial(nn.InstanceNorm2d, affine=True),), "batch": (nn.BatchNorm2d,),
}  # fmt: skip
"""What follows a convolution: layers for a number of filters."""
DARK = -2.5  # logit of .08; the mean pixel of ACDC, 0 outside the mask, is .09 over all slices


class BetaVAE(VAE):
    r"""Encodes and decodes slices with plain convolutions: beta-VAE and Attri-VAE of the paper.

    The encoder halves the image down to 4 x 4 (log2(image_size / 4) convolutions of 32 filters,
    five at 128), one more convolution makes 256 features of it, a linear layer the posterior. The
    decoder is its mirror. At 128 x 128 and with 32 latent dimensions it has 419,713 parameters.

    Two initialisations:

    * ``published``: He-normal with zero bias on linear layers and convolutions; transposed
      convolutions have PyTorch's default.
    * ``he``: ours, for learning rates around 1e-3, at which decoders with the published one may
      end with black images (ACDC, Adam at 2e-3, gamma 1000: 3 seeds of 4). He-normal everywhere,
      with the true number of inputs of an output pixel of a transposed convolution, Cin
      (kernel / stride)^2 (Cin for the first, whose input is 1 x 1); a posterior head that starts
      smaller (Xavier); a last layer that starts near the mean pixel of a masked slice.

    Args:
        latent_size: D.
        image_size: H = W, a power of two of at least 16.
        channels: C.
        output: ``sigmoid`` for pixels in [0, 1], or ``linear``.
        init: ``published`` or ``he``.
        condition, categories, classifier, outlines, shapes, brightness: See `VAE`.
        normalisation: What follows a convolution of the encoder, a key of `NORMALISATIONS`; not
            the last one, of whose single pixel there are no statistics.
        decoder_normalisation: The same of the decoder's convolutions; not the last one, which makes
            the image. With it a decoder changes the contrast of a heart as a whole.
        per_channel: Filters of the encoder's first convolutions, which see each channel by itself,
            all with the same weights, see `EachChannel`: what a slice of a stack shows is learnt
            of all slices. At most those of all but the last one; none see the channels together.

    Raises:
        ValueError: If an argument is not among the accepted ones.

    References:
        | beta-VAE (Higgins et al., 2017), https://openreview.net/forum?id=Sy2fzU9gl
        | Attribute Regularized Soft Introspective VAE (Di Folco et al., 2023)
        | https://arxiv.org/abs/2307.12618

    Example:
        >>> import torch
        >>> network = BetaVAE(latent_size=8, image_size=64, channels=2)  # ED and ES
        >>> output = network(torch.zeros(5, 2, 64, 64))
        >>> output.reconstruction.shape, output.mu.shape
        (torch.Size([5, 2, 64, 64]), torch.Size([5, 8]))
    """

    def __init__(
        self,
        latent_size: int = 32,
        image_size: int = 128,
        channels: int = 1,
        output: str = "sigmoid",
        init: str = "published",
        condition: str = "",
        categories: Sequence[str] = (),
        classifier: Mapping[str, Any] | None = None,
        normalisation: str = "none",
        decoder_normalisation: str = "none",
        per_channel: Sequence[int] = (),
        outlines: bool = False,
        shapes: int = 0,
        brightness: int = 0,
    ) -> None:
        super().__init__(
            latent_size,
            image_size,
            channels,
            output,
            16,
            condition,
            categories,
            classifier,
            outlines,
            shapes,
            brightness,
        )
        require("init", init, one_of("published", "he"))
        require("normalisation", normalisation, one_of(*NORMALISATIONS))
        require("decoder_normalisation", decoder_normalisation, one_of(*NORMALISATIONS))
        halvings = int(math.log2(image_size // 4))
        between = halvings - 1 - self.halvings  # the outermost one makes the image
        require("per_channel", per_channel, widths(0, halvings))
        after, behind = (NORMALISATIONS[kind] for kind in (normalisation, decoder_normalisation))
        told, alone = len(categories), len(per_channel)
        filters = [*per_channel, *[FILTERS] * (halvings - alone)]
        seen = [channels * self.shown + told, *filters]  # channels that each convolution takes
        if alone:
            seen[0], seen[alone] = self.shown + told, channels * seen[alone]
        halve = [nn.Conv2d(*pair, 4, 2, 1) for pair in zip(seen[:-1], filters, strict=True)]
        each = _relu(*halve[:alone], after=after)

        self.encoder = nn.Sequential(
            *([EachChannel(channels, self.shown, *each)] if each else []),
            *_relu(*halve[alone:], after=after),
            *_relu(nn.Conv2d(seen[-1], FEATURES, 4)),
            nn.Flatten(),
        )
        self.posterior = nn.Linear(FEATURES, 2 * latent_size)  # mu, then log of the variance
        self.decoder = nn.Sequential(
            *_relu(nn.Linear(latent_size + len(categories), FEATURES)),
            nn.Unflatten(1, (FEATURES, 1, 1)),
            *_relu(
                nn.ConvTranspose2d(FEATURES, FILTERS, 4),
                *(
                    nn.ConvTranspose2d(FILTERS, FILTERS, 4, stride=2, padding=1)
                    for _ in range(between)
                ),
                after=behind,
            ),
            nn.ConvTranspose2d(FILTERS, self.drawn, 4, stride=2, padding=1),
        )
        if not self.posterior.weight.is_meta:  # there, random numbers import half a second of torch
            self._initialise(init)
        self._begin_untold(halve[0], self.decoder[0])
        self._begin_shapes()

    def _initialise(self, init: str) -> None:
        for layer in self.modules():
            if isinstance(layer, (nn.Linear, nn.Conv2d)):
                nn.init.kaiming_normal_(layer.weight)
                nn.init.zeros_(layer.get_parameter("bias"))
        if init == "published":
            return
        nn.init.xavier_uniform_(self.posterior.weight)
        for layer in self.decoder.modules():
            if isinstance(layer, nn.ConvTranspose2d):
                reach = 1 if layer.stride[0] == 1 else (4 / 2) ** 2  # input pixels per output pixel
                nn.init.normal_(layer.weight, 0, math.sqrt(2 / (layer.in_channels * reach)))
                nn.init.zeros_(layer.get_parameter("bias"))
        start, slope = DARK, 1.0
        if self.output == "linear":  # the same picture: the tangent of the sigmoid at DARK
            start = 1 / (1 + math.exp(-DARK))
            slope = start * (1 - start)
        *_, last = self.decoder.children()
        deviation = 0.3 * slope * math.sqrt(1 / (FILTERS * 4))
        nn.init.normal_(last.get_parameter("weight"), 0, deviation)
        nn.init.constant_(last.get_parameter("bias"), start)

    @property
    def code_layers(self) -> tuple[nn.Module, ...]:
        return self.posterior, next(self.decoder.children())

    def posterior_of(self, image: Tensor) -> Tensor:
        return self.posterior(self.encoder(image))


class EachChannel(nn.Sequential):
    """Passes each channel of slices by itself through the same layers, and joins what they make.

    Args:
        channels: C; what the network is told, M channels behind them, goes with each.
        shown: How many channels of the input belong to each: 4 with outlines, else 1.
        layers: They take as many and M more, and make F.

    Example:
        >>> layer = EachChannel(10, 1, nn.Conv2d(1, 8, 3))
        >>> layer(torch.zeros(2, 10, 16, 16)).shape  # 8 of the first slice, 8 of the second...
        torch.Size([2, 80, 14, 14])
    """

    def __init__(self, channels: int, shown: int, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.channels, self.shown = channels, shown

    def forward(self, image: Tensor) -> Tensor:
        own = self.channels * self.shown
        each = image[:, :own].unflatten(1, (self.channels, self.shown))
        if image.shape[1] > own:
            told = image[:, None, own:].expand(-1, self.channels, -1, -1, -1)
            each = torch.cat([each, told], dim=2)
        joined = super().forward(each.flatten(0, 1))
        return joined.unflatten(0, (-1, self.channels)).flatten(1, 2)


def _relu(*layers: nn.Module, after: Sequence[Callable[[int], nn.Module]] = ()) -> list[nn.Module]:
    """Each layer followed by a ReLU, with normalisation between them."""
    return [
        part
        for layer in layers
        for part in (layer, *(normal(_filters(layer)) for normal in after), nn.ReLU())
    ]


def _filters(layer: nn.Module) -> int:
    """How many channels a layer makes."""
    return layer.get_parameter("bias").numel()
