"""The network of guides: frozen segmenters that look at drawn slices while models are trained."""

from __future__ import annotations

import torch
from monai.networks.nets import BasicUNet
from torch import nn

from ..schema import HEART

SMALLEST = 32
"""Smallest image, in pixels, that the network can halve often enough."""


def build_guide(seed: int, device: torch.device | str = "cpu") -> nn.Module:
    """Builds the network of a guide with random weights.

    Blocks of 2 x 2 pixels become channels and come apart again at the end: the network computes at
    half the resolution, in a quarter of the time, and still labels every pixel. Its levels are
    joined by max pooling and have no residual units, unlike the segmenters that measure.

    Args:
        seed: Seed of the weights; the global random state stays as it was.
        device: Where it is wanted.

    Returns:
        (N, 1, H, W) to logits of background, LV, myocardium and RV, (N, 4, H, W).

    Example:
        >>> build_guide(0)(torch.zeros(2, 1, 32, 32)).shape
        torch.Size([2, 4, 32, 32])
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = guide_network()
    # torch's stub of this overload lacks memory_format
    return network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def guide_network() -> nn.Sequential:
    """Makes the network of `build_guide` on whichever device torch makes its tensors.

    Example:
        >>> sum(weights.numel() for weights in guide_network().parameters())
        496592
    """
    features, block = (16, 16, 32, 64, 128, 16), 2 * 2
    inner = BasicUNet(2, block, (len(HEART) + 1) * block, features, norm="batch")
    return nn.Sequential(nn.PixelUnshuffle(2), inner, nn.PixelShuffle(2))
