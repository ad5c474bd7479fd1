"""Brightness in closed form: how bright LV, myocardium and RV are, a straight line in the code.

Slices of patients differ in brightness more than in anything else that is not a shape: distance
from the coil, contrast, blood that flows. A network that is trained for minutes draws them nearly
alike. The guide's outlines say where to measure it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..schema import HEART
from .precision import at_least_float32
from .shapes import TINY, FittedShapes

DIMMEST = 0.02
"""Brightness that a structure has at least, and 1 less it at most."""

FURTHEST = 3.0
"""Logits that a structure is from its mean, at most: a slice with less shows no heart."""


def brightness_of(images: Tensor, labels: Tensor) -> Tensor:
    """Measures how bright LV, myocardium and RV are: the logit of their mean.

    Args:
        images: Slices in [0, 1], (N, C, H, W).
        labels: Their canonical labels, (N, C, H, W).

    Returns:
        Of the three structures of each channel in turn, (N, 3 C); nan where one is nowhere.

    Example:
        >>> labels = torch.tensor([1, 1, 2, 0]).view(1, 1, 2, 2)
        >>> brightness_of(torch.tensor([0.25, 0.75, 0.5, 0.5]).view(1, 1, 2, 2), labels)
        tensor([[0., 0., nan]])
    """
    of = torch.stack([labels == part for part in HEART], dim=2).to(images)
    pixels = of.sum(dim=(3, 4))  # 0 / 0 would have no gradient, and drawn hearts are read, too
    mean = (of * images[:, :, None]).sum(dim=(3, 4)) / pixels.clamp_min(1)
    logits = mean.clamp(DIMMEST, 1 - DIMMEST).logit()
    return torch.where(pixels > 0, logits, torch.nan).flatten(1)


class BrightnessModel(nn.Module):
    r"""Reads the brightness of structures as codes, and draws codes as brightness.

    .. math:: b = \bar b + A a + V s

    as `fit_shapes` fits it: A is the regression of the logits b on attributes a, and V are the
    principal components of what it leaves. Textures become so much brighter, in logits.

    Nothing of it is learnt by steps: training fills in what was fitted.

    Args:
        latent_size: D.
        brightness: B; its dimensions are those before the ``shapes`` last ones.
        shapes: S.
        channels: C.

    Attributes:
        mean: Logits of a code of 0, (3 C,).
        basis: Logits that each dimension adds, (D, 3 C); 0 for shapes.

    Example:
        >>> model = BrightnessModel(latent_size=6, brightness=2, shapes=3, channels=1)
        >>> model.codes(torch.rand(1, 1, 8, 8), torch.ones(1, 1, 8, 8), torch.zeros(1, 6))
        tensor([[0., 0., 0., 0., 0., 0.]])
    """

    mean: Tensor
    basis: Tensor

    def __init__(self, latent_size: int, brightness: int, shapes: int, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.own = slice(latent_size - shapes - brightness, latent_size - shapes)
        self.register_buffer("mean", torch.zeros(len(HEART) * channels))
        self.register_buffer("basis", torch.zeros(latent_size, len(HEART) * channels))

    def fill(self, fitted: FittedShapes) -> None:
        """Takes over a fitted model; its attributes are the first codes."""
        self.basis.zero_()
        self.mean.copy_(torch.from_numpy(fitted.mean))
        self.basis[: len(fitted.along)] = torch.from_numpy(fitted.along)
        self.basis[self.own] = torch.from_numpy(fitted.shapes)

    def codes(self, images: Tensor, labels: Tensor, others: Tensor) -> Tensor:
        """Reads codes (N, D) off slices and their labels, (N, C, H, W), 0 but in dimensions of
        brightness: what their other codes (N, D) do not say of it. A structure that is nowhere is
        as bright as they say."""
        own = self.basis[self.own]
        with torch.autocast(images.device.type, enabled=False):
            left = brightness_of(at_least_float32(images), labels) - self.mean
            left = left - others @ self.basis
            left = torch.where(left.isnan(), 0, left).clamp(-FURTHEST, FURTHEST)
            found = left @ own.T / (own**2).sum(dim=1).clamp_min(TINY)
        return F.pad(found, (self.own.start, len(self.basis) - self.own.stop))

    def logits(self, z: Tensor) -> Tensor:
        """Tells how much brighter codes (N, D) make the textures of the rest, LV, myocardium and RV
        of each channel, (N, 4 C, 1, 1); what lies beside the heart stays as it is."""
        with torch.autocast(z.device.type, enabled=False):
            brighter = at_least_float32(z) @ self.basis
        parts = brighter.unflatten(1, (self.channels, len(HEART)))
        return F.pad(parts, (1, 0)).flatten(1)[:, :, None, None]
