"""Windows on whole pictures for training: placed, turned, deformed and made to look different.

Headers lie and scanners differ: any in-plane orientation, mirror image and order of slices occurs,
and the contrast, brightness, sharpness, noise, ghosts and field of view of each window are drawn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ..schema import Keys
from .config import Augmentation
from .objectives import SegmentationObjective


@dataclass(frozen=True)
class ScanAugmenter:
    """Draws a changed window of each picture of a batch.

    Example:
        >>> from .objectives import SegmentationObjective
        >>> augment = ScanAugmenter(SegmentationObjective(window=32), Augmentation(rotation=180))
        >>> batch = {Keys.IMAGE: torch.rand(2, 3, 64, 64), Keys.LABEL: torch.zeros(2, 1, 64, 64)}
        >>> made = augment(batch, Generator())
        >>> tuple(made[Keys.IMAGE].shape), tuple(made[Keys.LABEL].shape)
        ((2, 3, 32, 32), (2, 1, 32, 32))
    """

    objective: SegmentationObjective  # size and place of the windows, ghosts and cuts
    # the other changes. Each window is mirrored, and its slices reversed, with a chance of a half;
    # contrast, stretch and elastic are standard deviations here.
    how: Augmentation

    def __call__(self, batch: dict[str, Tensor], generator: Generator) -> dict[str, Tensor]:
        """Changes slices with their neighbours in [0, 1], (N, C, H, W), and masks (N, 1, H, W)."""
        images, labels = batch[Keys.IMAGE], batch[Keys.LABEL]
        draw = _Draw(len(images), images.device, generator)
        images = torch.where(draw.chance(0.5), images.flip(1), images)
        grid = _window(labels, self.objective, self.how, draw)
        images = F.grid_sample(images, grid, "bilinear", "zeros", align_corners=False)
        labels = F.grid_sample(labels.float(), grid, "nearest", "zeros", align_corners=False)
        images = _other_scanner(images, self.how, draw)
        images = _artefacts(images, self.objective, draw)
        images = images + draw.uniform(0, self.how.noise) * draw.white(images)
        return batch | {Keys.IMAGE: images, Keys.LABEL: labels.long()}


class _Draw:
    """Random numbers of shape (N, 1, 1, 1), one for each window."""

    def __init__(self, count: int, device: torch.device, generator: Generator) -> None:
        self.count = count
        self.options: dict[str, Any] = {"device": device, "generator": generator}

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


def _window(
    labels: Tensor, objective: SegmentationObjective, how: Augmentation, draw: _Draw
) -> Tensor:
    """Computes where the pixels of the windows lie in the pictures, (N, size, size, 2)."""
    side, size = labels.shape[-1], objective.window
    turn, share = math.radians(how.rotation), size / side
    angle = draw.uniform(-turn, turn)
    zoom = torch.exp(draw.uniform(-how.zoom, how.zoom)) * share
    ratio, mirror = torch.exp(draw.normal(how.stretch)), 1 - 2 * draw.chance(0.5).float()
    rows = (angle.cos() * zoom * ratio * mirror, -angle.sin() * zoom / ratio)
    columns = (angle.sin() * zoom * ratio * mirror, angle.cos() * zoom / ratio)
    anywhere = torch.cat([draw.uniform(-1, 1), draw.uniform(-1, 1)], 1) * (1 - share)
    shift = 2 * how.shift / side
    about = _centres(labels) + shift * torch.cat([draw.uniform(-1, 1), draw.uniform(-1, 1)], 1)
    centre = torch.where(draw.chance(objective.off_heart), anywhere, about)
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


def _other_scanner(images: Tensor, how: Augmentation, draw: _Draw) -> Tensor:
    """Changes what a scanner and its settings change, (N, C, size, size)."""
    images = images.clamp(0, 1) ** torch.exp(draw.normal(how.contrast))
    images = images * torch.exp(draw.smooth(1, 4, how.bias, images.shape[-1]))
    blurred = F.avg_pool2d(images, 3, 1, 1)  # a negative share of it sharpens
    return images + draw.uniform(-how.blur / 2, how.blur) * draw.chance(0.5) * (blurred - images)


def _artefacts(images: Tensor, objective: SegmentationObjective, draw: _Draw) -> Tensor:
    """Adds a shifted copy, and cuts the field of view off, in a fifth of the windows each."""
    size = images.shape[-1]
    ghost = images.roll(int(draw.uniform(size / 4, size * 3 / 4)[0]), dims=-1)
    images = images + draw.uniform(0, objective.ghost) * draw.chance(0.2) * ghost
    border = draw.uniform(0, objective.cut) * draw.chance(0.2)
    return images * (torch.linspace(0, 1, size, device=images.device) >= border)
