"""Edges as slices show them: where brightness changes at an outline, and how quickly.

Experts outline a cavity where the wall has become dark, for trabeculae count as cavity. Half of the
change of brightness lies further in. A picture that is cut along the outlines themselves is read as
a larger heart.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..schema import HEART

FURTHEST = 3.0
"""Pixels between an outline and its edge, at most."""

STEEPEST = 6.0
"""Largest logit for each pixel: all within one pixel."""

SLACK = 1e-3
"""Pixels that a part of a picture is at least thought to have, for it may be missing."""


def cut_out(inside: Tensor, channels: int) -> Tensor:
    """Makes layers of what lies within outlines.

    Args:
        inside: Shares of pixels within LV, epicardium and RV of each channel, (N, 3 C, H, W).
        channels: C.

    Returns:
        Shares of the rest, LV, myocardium and RV, 1 together, (N, C, 4, H, W).

    Example:
        >>> inside = torch.tensor([1.0, 1.0, 0.0]).view(1, 3, 1, 1)
        >>> cut_out(inside, channels=1).flatten()  # within LV and epicardium: LV
        tensor([0., 1., 0., 0.])
    """
    lv, epi, rv = inside.unflatten(1, (channels, len(HEART))).unbind(dim=2)
    wall, beside = epi * (1 - lv), 1 - epi
    return torch.stack([beside * (1 - rv), epi * lv, wall, beside * rv], dim=2)


def fit_edges(distances: Tensor, images: Tensor, steepness: float) -> tuple[Tensor, Tensor]:
    r"""Fits the edge of each outline to slices.

    .. math:: \min_{e, k} \sum_n \min_b \left| x_n - \sum_l b_{nl} L_l(k (d_n - e)) \right|^2

    L are the layers that logits k (d - e) cut out, each of one brightness b in a slice.

    Args:
        distances: Pixels to the outlines of LV, epicardium and RV in each channel, above 0 inside,
            (N, 3 C, H, W).
        images: The slices, (N, C, H, W).
        steepness: k to begin with.

    Returns:
        e, pixels from the outline inwards, and k, the logit of each pixel; (3 C,) each.

    Example:
        >>> across = torch.arange(-15.5, 16.0)
        >>> depth = (9 - across.abs()).expand(1, 1, 32, 32)  # a stripe
        >>> distances = torch.cat([depth - 3, depth, torch.full_like(depth, -20)], dim=1)
        >>> lit = 0.2 * torch.sigmoid(2 * (depth - 0.5)) + 0.6 * torch.sigmoid(2 * (depth - 4))
        >>> edge, steepness = fit_edges(distances, lit, steepness=1.5)
        >>> edge.round(decimals=1), steepness.round(decimals=1)  # of the RV, which lacks, as it was
        (tensor([1.0000, 0.5000, 0.0000]), tensor([2.0000, 2.0000, 1.5000]))
    """
    channels = images.shape[1]
    edge = distances.new_zeros(distances.shape[1]).requires_grad_()
    log_steepness = torch.full_like(edge, steepness).log().requires_grad_()
    slices = images.flatten(2).flatten(0, 1)[..., None]

    def within_limits() -> tuple[Tensor, Tensor]:
        return edge.clamp(-FURTHEST, FURTHEST), log_steepness.exp().clamp(max=STEEPEST)

    def left_over() -> Tensor:
        e, k = (value[:, None, None] for value in within_limits())
        layers = cut_out(torch.sigmoid(k * (distances - e)), channels).flatten(3).flatten(0, 1)
        together = layers @ layers.mT + SLACK * torch.eye(layers.shape[1], device=layers.device)
        bright = torch.linalg.solve(together, layers @ slices)
        return (slices - layers.mT @ bright).square().mean()

    optimiser = torch.optim.LBFGS([edge, log_steepness], max_iter=20, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimiser.zero_grad()
        loss = left_over()
        loss.backward()
        return loss.item()

    optimiser.step(closure)
    found, steep = within_limits()
    return found.detach(), steep.detach()
