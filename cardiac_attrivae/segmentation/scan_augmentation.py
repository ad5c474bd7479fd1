"""Windows on whole pictures for training: placed, turned, deformed and made to look different.

Headers lie and scanners differ: any in-plane orientation, mirror image and order of slices occurs,
and the contrast, brightness, sharpness, noise, ghosts and field of view of each window are drawn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor


@dataclass(frozen=True)
class ScanAugmentation:
    """How far random changes may go.

    Attributes:
        off_heart: Share of windows that are placed anywhere; the others lie about the heart.
        shift: Largest distance of the heart from the centre of a window, as share of half a side.
        zoom: Log of the zoom, uniform between minus and plus this.
        stretch: Standard deviation of the log of the ratio of width and height.
        elastic: Standard deviation of smooth displacements, in pixels.
        gamma: Standard deviation of the log of the exponent of the contrast.
        bias: Standard deviation of the log of a smooth bias field.
        blur: Largest share of a 3 x 3 mean, in half of the windows; negative shares sharpen.
        noise: Largest standard deviation of the noise.
        ghost: Largest strength of a shifted copy, in a fifth of the windows.
        cut: Largest share of the window beyond a border that becomes 0, in a fifth of the windows.
    """

    off_heart: float = 0.2
    shift: float = 0.35
    zoom: float = 0.25
    stretch: float = 0.06
    elastic: float = 1.5
    gamma: float = 0.35
    bias: float = 0.25
    blur: float = 1.0
    noise: float = 0.08
    ghost: float = 0.25
    cut: float = 0.35


def augmented(
    images: Tensor, labels: Tensor, size: int, how: ScanAugmentation, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Draws a changed window of each picture.

    Args:
        images: Slices with their neighbours in [0, 1], (N, C, H, W).
        labels: Canonical masks of the slices, (N, 1, H, W).
        size: Pixels along a side of a window.
        how: How far changes may go.
        generator: Draws them, on the device of the pictures.

    Returns:
        Windows (N, C, size, size), and their masks (N, 1, size, size) int64.

    Example:
        >>> images, labels = torch.rand(2, 3, 64, 64), torch.zeros(2, 1, 64, 64)
        >>> made = augmented(images, labels, 32, ScanAugmentation(), Generator())
        >>> [tuple(field.shape) for field in made]
        [(2, 3, 32, 32), (2, 1, 32, 32)]
    """
    draw = _Draw(len(images), images.device, generator)
    images = torch.where(draw.chance(0.5), images.flip(1), images)
    grid = _window(labels, size, how, draw)
    images = F.grid_sample(images, grid, "bilinear", "zeros", align_corners=False)
    labels = F.grid_sample(labels.float(), grid, "nearest", "zeros", align_corners=False)
    return _other_scanner(images, how, draw), labels.long()


class _Draw:
    """Random numbers of shape (N, 1, 1, 1), one for each window."""

    def __init__(self, count: int, device: torch.device, generator: Generator) -> None:
        self.count, self.options = count, {"device": device, "generator": generator}

    def uniform(self, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(self.count, 1, 1, 1, **self.options)

    def normal(self, deviation: float) -> Tensor:
        return deviation * torch.randn(self.count, 1, 1, 1, **self.options)

    def chance(self, share: float) -> Tensor:
        return torch.rand(self.count, 1, 1, 1, **self.options) < share

    def smooth(self, channels: int, points: int, deviation: float, size: int) -> Tensor:
        """Fields (N, channels, size, size) that are drawn on a coarse lattice."""
        coarse = torch.randn(self.count, channels, points, points, **self.options)
        return F.interpolate(
            deviation * coarse, size=(size, size), mode="bicubic", align_corners=False
        )

    def white(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, **self.options)


def _window(labels: Tensor, size: int, how: ScanAugmentation, draw: _Draw) -> Tensor:
    """Computes where the pixels of the windows lie in the pictures, (N, size, size, 2)."""
    side = labels.shape[-1]
    angle, share = draw.uniform(-math.pi, math.pi), size / side
    zoom = torch.exp(draw.uniform(-how.zoom, how.zoom)) * share
    ratio, mirror = torch.exp(draw.normal(how.stretch)), 1 - 2 * draw.chance(0.5).float()
    rows = (angle.cos() * zoom * ratio * mirror, -angle.sin() * zoom / ratio)
    columns = (angle.sin() * zoom * ratio * mirror, angle.cos() * zoom / ratio)
    anywhere = torch.cat([draw.uniform(-1, 1), draw.uniform(-1, 1)], 1) * (1 - share)
    about = _centres(labels) + share * how.shift * torch.cat(
        [draw.uniform(-1, 1), draw.uniform(-1, 1)], 1
    )
    centre = torch.where(draw.chance(how.off_heart), anywhere, about)
    theta = torch.stack(
        [torch.cat([*rows, centre[:, :1]], 1), torch.cat([*columns, centre[:, 1:]], 1)], 1
    ).flatten(2)
    grid = F.affine_grid(theta, [draw.count, 1, size, size], align_corners=False)
    moved = draw.smooth(2, 8, how.elastic * 2 / side, size)
    return grid + moved.permute(0, 2, 3, 1)


def _centres(labels: Tensor) -> Tensor:
    """Barycentres (x, y) of the hearts in [-1, 1], the middle where there is none, (N, 2, 1, 1)."""
    heart = (labels > 0).float()
    places = torch.linspace(-1, 1, labels.shape[-1], device=labels.device)
    total = heart.sum((2, 3)).clamp(min=1)
    x, y = (heart.sum(axis)[:, 0] @ places for axis in (2, 3))
    return (torch.stack([x, y], 1) / total)[..., None, None]


def _other_scanner(images: Tensor, how: ScanAugmentation, draw: _Draw) -> Tensor:
    """Changes what a scanner and its settings change, (N, C, size, size)."""
    size = images.shape[-1]
    images = images.clamp(0, 1) ** torch.exp(draw.normal(how.gamma))
    images = images * torch.exp(draw.smooth(1, 4, how.bias, size))
    blurred = F.avg_pool2d(images, 3, 1, 1)
    strength = draw.uniform(-how.blur / 2, how.blur) * draw.chance(0.5)
    images = images + strength * (blurred - images)
    ghost = images.roll(int(draw.uniform(size / 4, size * 3 / 4)[0]), dims=-1)
    images = images + draw.uniform(0, how.ghost) * draw.chance(0.2) * ghost
    border = draw.uniform(0, how.cut) * draw.chance(0.2)
    images = images * (torch.linspace(0, 1, size, device=images.device) >= border)
    return images + draw.uniform(0, how.noise) * draw.white(images)
