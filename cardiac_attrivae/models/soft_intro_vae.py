"""The residual network of Soft-Intro VAE and Attri-SIVAE."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Self

from torch import Tensor, nn

from ..runtime.validation import one_of, require
from .vae import VAE, widths


class SoftIntroVAE(VAE):
    """Encodes and decodes slices with residual blocks: Soft-Intro VAE and Attri-SIVAE of the paper.

    The encoder halves the image with each number of filters down to 4 x 4 (five times at 128 x
    128), a linear layer makes the posterior of it; the decoder is its mirror. With the paper's
    filters and 256 latent dimensions it has 32,576,769 parameters. Modules are named as in the
    published code, so its weights can be loaded.

    Args:
        latent_size: D.
        image_size: H = W, a power of two of at least 8, and 2 to the number of filters.
        channels: C.
        filters: Filters of each resolution, from the image inwards.
        output: ``sigmoid`` for pixels in [0, 1], or ``linear``.
        bn: ``train``, or ``frozen``: batch norm always stays in eval mode, as it did by accident in
            the published training, and is then a fixed scaling.
        shortcut: ``changed``: a 1 x 1 convolution beside each residual block that changes the
            number of filters. ``published``: also beside one block of 512 filters in encoder and
            decoder, where the published code compares two equal numbers with ``is`` (33,101,057
            parameters).
        condition, categories, classifier, outlines, shapes, brightness: See `VAE`.

    Raises:
        ValueError: If an argument is not among the accepted ones.

    References:
        | Soft-IntroVAE (Daniel & Tamar, 2021), https://arxiv.org/abs/2012.13253
        | Attribute Regularized Soft Introspective VAE (Di Folco et al., 2023)
        | https://arxiv.org/abs/2307.12618

    Example:
        >>> import torch
        >>> network = SoftIntroVAE(latent_size=16, image_size=32, filters=[8, 16])
        >>> network.decode(torch.zeros(3, 16)).shape
        torch.Size([3, 1, 32, 32])
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
        condition: str = "",
        categories: Sequence[str] = (),
        classifier: Mapping[str, Any] | None = None,
        outlines: bool = False,
        shapes: int = 0,
        brightness: int = 0,
    ) -> None:
        filters = tuple(filters)
        require("filters", filters, widths(2 if shapes else 1, 12))  # the decoder needs one less
        smallest = max(8, 2 ** len(filters))
        super().__init__(
            latent_size,
            image_size,
            channels,
            output,
            smallest,
            condition,
            categories,
            classifier,
            outlines,
            shapes,
            brightness,
        )
        require("bn", bn, one_of("train", "frozen"))
        require("shortcut", shortcut, one_of("changed", "published"))
        self.bn = bn
        twice = 512 if shortcut == "published" else 0  # Python keeps one object per number to 256

        size = image_size // 2
        main = OrderedDict(
            {"0": _conv(channels * self.shown + len(categories), filters[0], 5)}
            | {"1": nn.BatchNorm2d(filters[0]), "2": nn.LeakyReLU(0.2), "3": nn.AvgPool2d(2)}
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
        outwards = (filters[-1], *reversed(filters))[: len(filters) + 1 - self.halvings]
        for k, (before, after) in enumerate(zip(outwards, outwards[1:], strict=False)):
            main[f"res_in_{size}"] = _Residual(before, after, before == after == twice and k > 0)
            main[f"up_to_{size * 2}"] = nn.Upsample(scale_factor=2, mode="nearest")
            size *= 2
        main[f"res_in_{size}"] = _Residual(outwards[-1], outwards[-1])
        main["predict"] = nn.Conv2d(outwards[-1], self.drawn, 5, padding=2)
        self.decoder = nn.Sequential(OrderedDict(
            fc=nn.Sequential(nn.Linear(latent_size + len(categories), inner), nn.ReLU()),
            unflatten=nn.Unflatten(1, (filters[-1], start, start)),
            main=nn.Sequential(main),
        ))  # fmt: skip
        if bn == "frozen":  # the one forward pass, of a black image, that the published code does
            for layer in self.encoder.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.get_buffer("running_var").fill_(0.9)
        self._begin_untold(*(part.get_submodule(name) for part, name in
                             ((self.encoder, "main.0"), (self.decoder, "fc.0"))))  # fmt: skip
        self._begin_shapes()
        self.train()

    @property
    def code_layers(self) -> tuple[nn.Module, ...]:
        return self.encoder.get_submodule("fc"), self.decoder.get_submodule("fc.0")

    def posterior_of(self, image: Tensor) -> Tensor:
        return self.encoder(image)

    def train(self, mode: bool = True) -> Self:
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
