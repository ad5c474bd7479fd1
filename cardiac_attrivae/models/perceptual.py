r"""Perceptual term: the distance of two images between their features in a frozen network.

The published one compares VGG19, trained on ImageNet, after relu1_1, relu2_1, relu3_1 and relu4_1.
`perceptual_loss` builds a loss from a name in `PERCEPTUAL`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from inspect import signature
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..runtime.weights import weights_digest
from ..runtime.yaml_files import nearest
from ..schema import DataError
from .feature_networks import StructuralDistance, efficientnet_lite0, random_vgg19, vgg19
from .precision import at_least_float32

PERCEPTUAL: dict[str, Callable[..., Any]] = {
    "vgg19": vgg19,
    "efficientnet_lite0": efficientnet_lite0,
    "random_vgg19": random_vgg19,
    "ssim": StructuralDistance,
    "none": lambda: None,
}
"""Name of a pipeline -> what builds its network; given the file if it takes ``weights``."""


class PerceptualLoss(nn.Module):
    r"""Compares two images by squared differences between their features in a frozen network.

    .. math:: \mathrm{PL}_n = \sum_t \frac{1}{C_t H_t W_t} \lVert f_t(u_n) - f_t(v_n) \rVert^2

    It is a mean, where the reconstruction error is a sum: benchmarks/perceptual.py compares how
    strongly the two pull. A single channel is repeated to three, and three channels are passed
    unchanged; with any other number, each channel is compared alone and the distances are added, as
    published for pairs. Pixels stay in [0, 1] and are not normalised with the mean and deviation of
    ImageNet, as published.

    The network always stays frozen and in eval mode. It is computed in float32 also under
    autocast; float64 stays float64.

    Args:
        features: Network from (N, 3, H, W) to a list of features (N, C_t, H_t, W_t).
        name: Name of the network, recorded with a run, as is its ``digest``, a SHA-256 over names,
            shapes and values of its weights.
        colours: Number of channels that the network takes.

    References:
        | Perceptual losses for real-time style transfer (Johnson et al., 2016)
        | https://arxiv.org/abs/1603.08155
        | Attribute Regularized Soft Introspective VAE (Di Folco et al., 2023)
        | https://arxiv.org/abs/2307.12618

    Example:
        >>> loss = perceptual_loss("random_vgg19")
        >>> image = torch.linspace(0, 1, 256).reshape(1, 1, 16, 16)
        >>> loss(image, image)
        tensor([0.])
        >>> loss(image.flip(3), image) < loss(image.flip(2), image)  # the smaller change
        tensor([True])
    """

    def __init__(self, features: nn.Module, name: str, colours: int = 3) -> None:
        super().__init__()
        self.features, self.name, self.colours = features, name, colours
        self.digest = weights_digest(features.state_dict())
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> PerceptualLoss:
        """Does nothing: the network stays in eval mode."""
        return super().train(False)

    def forward(self, reconstruction: Tensor, image: Tensor) -> Tensor:
        """Computes the distance of each pair (N, C, H, W), (N,); its batch mean is the published
        term.

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
        u, v = (at_least_float32(x.to(dtype)) for x in (reconstruction, image))
        if channels != self.colours:
            single = (x.reshape(n * channels, 1, *size) for x in (u, v))
            u, v = (x.expand(-1, self.colours, -1, -1) for x in single)
        with torch.autocast(image.device.type, enabled=False):
            return self._distance(u, v).reshape(n, -1).sum(dim=1)

    def _distance(self, u: Tensor, v: Tensor) -> Tensor:
        """Computes the distance of each pair of colour images (M, 3, H, W), (M,)."""
        taps = zip(self._run(u), self._run(v), strict=True)
        return torch.stack([((a - b) ** 2).flatten(1).mean(dim=1) for a, b in taps]).sum(dim=0)

    def _run(self, *images: Tensor) -> Any:
        """Calls the network with weights in the precision of the images and without gradients."""
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
    """Wraps a distance instead of features: ``features`` takes both images, returns (M, ...)."""

    def _distance(self, u: Tensor, v: Tensor) -> Tensor:
        # copies, because MONAI's ResNet50 normalises three channels in place
        return self._run(u.clone(), v.clone()).reshape(len(u), -1).mean(dim=1)


def perceptual_loss(name: str, weights: Path | str | None = None) -> PerceptualLoss | None:
    """Builds the perceptual loss that a pipeline asks for; None for ``none``.

    Args:
        name: A name in `PERCEPTUAL`, or ``monai:<type>`` for a network of MONAI's PerceptualLoss,
            which downloads its weights.
        weights: File with the weights of ``vgg19``, .pth or .safetensors; see `find_vgg19_weights`.

    Raises:
        ValueError: If there is no such network, or it takes no file.
        DataError: If its weights or its package are missing; the message says what to do.

    Example:
        >>> perceptual_loss("none") is None
        True
        >>> perceptual_loss("vgg91")
        Traceback (most recent call last):
        ValueError: unknown perceptual network 'vgg91', did you mean 'vgg19'?; expected one of ...
    """
    if name.startswith("monai:"):
        return _DistanceLoss(_monai(name), name)
    if name not in PERCEPTUAL:
        accepted = ", ".join((*PERCEPTUAL, "monai:<type>"))
        hint = nearest(name, PERCEPTUAL)
        raise ValueError(f"unknown perceptual network {name!r}{hint}; expected one of {accepted}")
    if name == "none":
        return None
    build = PERCEPTUAL[name]
    takes_file = "weights" in signature(build).parameters
    if weights and not takes_file:
        raise ValueError(f"perceptual weights are {weights}, but {name!r} takes none: only vgg19")
    features = build(weights) if takes_file else build()
    kind = _DistanceLoss if getattr(features, "compares_pairs", False) else PerceptualLoss
    return kind(features, name, colours=getattr(features, "colours", 3))


def _monai(name: str) -> nn.Module:
    from monai.losses import PerceptualLoss as MonaiPerceptualLoss

    try:
        with warnings.catch_warnings(action="ignore"):
            built = MonaiPerceptualLoss(spatial_dims=2, network_type=name.removeprefix("monai:"))
    except Exception as error:  # no package, no internet, no such type: each its own exception
        reason = str(error).partition("\n")[0]
        raise DataError(f"perceptual network {name!r} cannot be built: {reason}") from error
    return built.perceptual_function
