"""A second stage that paints: a conditional flow adds to a VAE's picture what a code cannot hold.

The VAE draws a smooth heart. A frozen segmenter, the *guide*, outlines it, and a rectified flow
turns noise into the detail that real slices have inside such an outline: trabeculae, papillary
muscles, noise, crisp walls. Because the outline is a condition, the painted heart keeps its areas.
A heart whose attribute is turned keeps its noise, and so its texture.

References:
    | Flow straight and fast: learning to generate and transfer data with rectified flow
    | (Liu et al., 2023), https://arxiv.org/abs/2209.03003
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..runtime.validation import number, require
from ..schema import HEART
from .guide_network import guide_network
from .most_likely import most_likely
from .precision import at_least_float32
from .vae import VAE

BLOCK = 2
"""Pixels along a side that become channels: the network computes at half the resolution."""

SCALE = 6.0
"""What differences of intensity are multiplied by, so that the flow ends at values of about 1."""

FREQUENCIES = 16
"""Frequencies that a time is written in."""


class Residual(nn.Module):
    """Two convolutions beside a shortcut; the time shifts what lies between them."""

    def __init__(self, channels: int, features: int, times: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.GroupNorm(8, channels), nn.SiLU(), nn.Conv2d(channels, features, 3, padding=1)
        )
        self.second = nn.Sequential(
            nn.GroupNorm(8, features), nn.SiLU(), nn.Conv2d(features, features, 3, padding=1)
        )
        self.time = nn.Linear(times, features)
        self.shortcut = nn.Identity() if channels == features else nn.Conv2d(channels, features, 1)

    def forward(self, field: Tensor, time: Tensor) -> Tensor:
        inner = self.first(field) + self.time(time)[:, :, None, None]
        return self.shortcut(field) + self.second(inner)


class FlowUNet(nn.Module):
    """Says in which direction a noisy detail moves, given the picture and its outline.

    A U-Net of three levels over blocks of 2 x 2 pixels.

    Args:
        filters: Channels of the three levels, multiples of 8.

    Example:
        >>> network, picture = FlowUNet((8, 8, 16)), torch.zeros(2, 1, 32, 32)
        >>> network(picture, picture, torch.zeros(2, 3, 32, 32), torch.zeros(2)).shape
        torch.Size([2, 1, 32, 32])
    """

    frequencies: Tensor

    def __init__(self, filters: Sequence[int] = (32, 64, 96)) -> None:
        super().__init__()
        if len(filters) != 3:
            raise ValueError(f"filters is {list(filters)}; expected three numbers")
        for count in filters:
            require("filters", count, number(8, 1024, whole=True))
            if count % 8:
                raise ValueError(f"filters holds {count}; expected multiples of 8")
        one, two, three = filters
        times, block = 4 * FREQUENCIES, BLOCK**2
        self.clock = nn.Sequential(
            nn.Linear(2 * FREQUENCIES, times), nn.SiLU(), nn.Linear(times, times), nn.SiLU()
        )
        self.enter = nn.Conv2d((2 + len(HEART)) * block, one, 3, padding=1)
        self.down = nn.ModuleList(
            [Residual(one, one, times), Residual(one, two, times), Residual(two, three, times)]
        )
        self.middle = Residual(three, three, times)
        self.up = nn.ModuleList(
            [
                Residual(2 * three, two, times),
                Residual(2 * two, one, times),
                Residual(2 * one, one, times),
            ]
        )
        self.leave = nn.Conv2d(one, block, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        self.register_buffer("frequencies", torch.linspace(0, 6, FREQUENCIES).exp())

    def forward(self, noisy: Tensor, picture: Tensor, outline: Tensor, time: Tensor) -> Tensor:
        """Computes the direction, (N, 1, H, W), in float32 also under autocast.

        Args:
            noisy: Detail on its way from noise, (N, 1, H, W), H and W multiples of 8.
            picture: What the VAE drew, (N, 1, H, W) in [0, 1].
            outline: LV, myocardium and RV, 1 inside and 0 outside, (N, 3, H, W).
            time: How far the detail has come, from 0 (noise) to 1, (N,), or (1,) for all.
        """
        angles = time[:, None] * self.frequencies
        clock = self.clock(torch.cat([angles.sin(), angles.cos()], dim=1))
        field = torch.cat([noisy, 2 * picture - 1, 2 * outline - 1], dim=1)
        field = self.enter(F.pixel_unshuffle(field, BLOCK))
        kept = []
        for level, block in enumerate(self.down):
            field = block(F.avg_pool2d(field, 2) if level else field, clock)
            kept.append(field)
        field = self.middle(field, clock)
        for level, block in enumerate(self.up):
            if level:
                field = F.interpolate(field, scale_factor=2.0)
            field = block(torch.cat([field, kept.pop()], dim=1), clock)
        return at_least_float32(F.pixel_shuffle(self.leave(field), BLOCK))


def on_the_way(noise: Tensor, end: Tensor, time: Tensor) -> Tensor:
    """Mixes noise and the end of its path, both (N, C, H, W), at times (N,): a straight line.

    Example:
        >>> on_the_way(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1), torch.tensor([0.25])).item()
        0.25
    """
    time = time[:, None, None, None]
    return (1 - time) * noise + time * end


def follow(direction: Callable[[Tensor, Tensor], Tensor], noise: Tensor, steps: int) -> Tensor:
    """Follows a flow from noise to its end, in Euler steps of the same length.

    Args:
        direction: Detail (N, C, H, W) and time (1,) to the change of the detail per unit of time.
        noise: Where the path begins, (N, C, H, W).
        steps: Number of steps.

    Example:
        >>> follow(lambda detail, time: torch.ones_like(detail), torch.zeros(1, 1, 1, 1), 4).item()
        1.0
    """
    detail = noise
    for step in range(steps):
        time = torch.full((1,), step / steps, device=noise.device)
        detail = detail + direction(detail, time) / steps
    return detail


class Refiner(nn.Module):
    """Paints over the pictures of a VAE; see the module.

    Args:
        filters: See `FlowUNet`.
        steps: Euler steps of a painting.

    Attributes:
        flow: The network that is trained.
        guide: The frozen segmenter that outlines hearts; it stays in eval mode.

    Example:
        >>> refiner, picture = Refiner((8, 8, 16), steps=2), torch.rand(2, 1, 32, 32)
        >>> refiner(picture, torch.zeros(1, 1, 32, 32)).shape
        torch.Size([2, 1, 32, 32])
    """

    def __init__(self, filters: Sequence[int] = (32, 64, 96), steps: int = 6) -> None:
        super().__init__()
        require("steps", steps, number(1, 100, whole=True))
        self.flow, self.steps = FlowUNet(filters), steps
        self.guide = guide_network().requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> Refiner:
        super().train(mode)
        self.guide.eval()
        return self

    def outline(self, picture: Tensor) -> Tensor:
        """Outlines LV, myocardium and RV in pictures (N, 1, H, W): 1 inside, 0 outside,
        (N, 3, H, W). A smooth picture has outlines as sharp as those of a slice."""
        found = most_likely(self.guide(picture))
        return torch.cat([found == structure for structure in (1, 2, 3)], dim=1).float()

    def forward(self, picture: Tensor, noise: Tensor) -> Tensor:
        """Paints pictures, each channel by itself: 0 outside the heart, as the slices of a store.

        Args:
            picture: What the VAE drew, (N, C, H, W).
            noise: Standard normal draws, (N, C, H, W), or one for all, (1, C, H, W).

        Returns:
            (N, C, H, W) in [0, 1].
        """
        drawn = picture.flatten(0, 1)[:, None].clamp(0, 1)
        outline = self.outline(drawn)
        detail = follow(
            lambda detail, time: self.flow(detail, drawn, outline, time),
            noise.expand_as(picture).flatten(0, 1)[:, None],
            self.steps,
        )
        heart = outline.sum(dim=1, keepdim=True)
        return ((drawn + detail / SCALE).clamp(0, 1) * heart).view_as(picture)


class Painted(VAE):
    """A VAE whose pictures a refiner paints over: it has the same codes, and draws otherwise.

    Each heart has a noise of its own, which its free dimensions choose: a mixture of as many noises
    as there are dimensions, and one more. A heart whose attributes are turned keeps its texture; it
    changes steadily with free dimensions, and differs between patients.

    Args:
        network: The VAE.
        refiner: Its refiner.
        middle: Mean code of patients, (D,).
        scale: What differences from it are multiplied by to choose the noise, (D,): one over the
            deviations among patients, and 0 for dimensions that carry an attribute.
        seed: Seed of the noises.
    """

    noises: Tensor
    middle: Tensor
    scale: Tensor

    def __init__(
        self, network: VAE, refiner: Refiner, middle: Tensor, scale: Tensor, seed: int = 0
    ) -> None:
        device, dimensions = next(network.parameters()).device, network.latent_size
        with torch.no_grad():
            one = network.decode(torch.zeros(1, dimensions, device=device))
        channels, size = one.shape[1:3]
        super().__init__(dimensions, size, channels, "linear", BLOCK)
        self.network, self.refiner = network, refiner
        random = torch.Generator().manual_seed(seed)
        noises = torch.randn(dimensions + 1, channels, size, size, generator=random)
        self.register_buffer("noises", noises.to(device))
        self.register_buffer("middle", middle.to(device, torch.float32))
        self.register_buffer("scale", scale.to(device, torch.float32))

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return self.network.encode(image)

    def decode(self, z: Tensor) -> Tensor:
        """Decodes codes (N, D) into painted images (N, C, H, W), 0 outside the heart."""
        return self.refiner(self.network.decode(z), self.noise(z))

    def noise(self, z: Tensor) -> Tensor:
        """Mixes the noise of each heart, standard normal, (N, C, H, W) of codes (N, D)."""
        share = torch.cat([torch.ones_like(z[:, :1]), (z - self.middle) * self.scale], dim=1)
        share = share / share.norm(dim=1, keepdim=True)
        return (share @ self.noises.flatten(1)).unflatten(1, self.noises.shape[1:])
