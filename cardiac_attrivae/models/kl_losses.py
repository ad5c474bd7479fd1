"""Losses of autoencoders that have something else in the place of beta times KL."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..runtime.distributed import batch_mean, gather_rows
from ..runtime.validation import number, require
from ..schema import VAEOutput
from .loss_terms import capacity_gap, kl_divergence, kl_parts
from .losses import WEIGHT, AttriVAELoss


class BetaTCVAELoss(AttriVAELoss):
    r"""Computes the objective of beta-TC-VAE, with attributes if gamma is above 0.

    .. math:: \frac1N \sum_n \mathrm{SSE}_n + \alpha \mathrm{MI} + \beta \mathrm{TC}
        + \beta_\mathrm{kl} \mathrm{DKL} + \gamma \sum_k L_k

    with the parts of `kl_parts`. With equal weights it is `AttriVAELoss` whose KL is estimated from
    the drawn codes.

    Args:
        samples: Number of samples that are trained on, see `kl_parts`.
        alpha: Weight of the mutual information; 0 lets codes hold as much as they can.
        beta: Weight of the total correlation.
        beta_kl: Weight of the dimension-wise KL; gamma in the paper.
        rest: gamma, delta and so on, see `AttributeLoss`.

    Raises:
        ValueError: If a weight is negative, or there are no samples.

    References:
        | Isolating sources of disentanglement in VAEs (Chen et al., 2018)
        | https://arxiv.org/abs/1802.04942

    Example:
        >>> import torch
        >>> image, code = torch.ones(2, 1, 4, 4), torch.tensor([[-1.0], [1.0]])
        >>> output = VAEOutput(image, mu=code, logvar=torch.zeros(2, 1), z=code)
        >>> list(BetaTCVAELoss(samples=2)(output, image))
        ['reconstruction', 'mutual_information', 'total_correlation', 'dimension_kl']
    """

    def __init__(
        self,
        samples: int,
        alpha: float = 1.0,
        beta: float = 6.0,
        beta_kl: float = 1.0,
        **rest: Any,
    ) -> None:
        super().__init__(beta, **rest)
        require("samples", samples, number(1, whole=True))
        require("alpha", alpha, WEIGHT)
        require("beta_kl", beta_kl, WEIGHT)
        self.samples, self.alpha, self.beta_kl = samples, alpha, beta_kl

    def kl_terms(self, output: VAEOutput, rows: int) -> dict[str, Tensor]:
        z, mu, logvar = (gather_rows(part, rows) for part in (output.z, output.mu, output.logvar))
        information, correlation, dimensions = kl_parts(z, mu, logvar, self.samples)
        return {
            "mutual_information": self.alpha * information,
            "total_correlation": self.beta * correlation,
            "dimension_kl": self.beta_kl * dimensions,
        }


class CapacityLoss(AttriVAELoss):
    r"""Computes the capacity objective, with attributes if gamma is above 0.

    .. math:: \frac1N \sum_n \mathrm{SSE}_n + \beta |\mathrm{KL} - C| + \gamma \sum_k L_k

    with `capacity_gap`: the codes may hold C nats, and are held to them.

    Args:
        beta: Weight of the gap; gamma in the paper.
        capacity: Final C in nats.
        capacity_steps: Number of optimiser steps in which C grows from 0.
        rest: gamma, delta and so on, see `AttributeLoss`.

    Attributes:
        steps_done: Number of optimiser steps done; who trains sets it before each step.

    Raises:
        ValueError: If a weight or the capacity is negative, or there are no steps.

    References:
        | Understanding disentangling in beta-VAE (Burgess et al., 2018)
        | https://arxiv.org/abs/1804.03599

    Example:
        >>> import torch
        >>> image, code = torch.ones(2, 1, 4, 4), torch.tensor([[-1.0], [1.0]])
        >>> output = VAEOutput(image, mu=code, logvar=torch.zeros(2, 1), z=code)  # KL .5
        >>> loss = CapacityLoss(beta=100, capacity=2, capacity_steps=10)
        >>> loss.steps_done = 5  # C 1
        >>> loss(output, image)
        {'reconstruction': tensor(0.), 'capacity_gap': tensor(50.)}
    """

    def __init__(
        self,
        beta: float = 1000.0,
        capacity: float = 25.0,
        capacity_steps: int = 100_000,
        **rest: Any,
    ) -> None:
        super().__init__(beta, **rest)
        require("capacity", capacity, WEIGHT)
        require("capacity_steps", capacity_steps, number(1, whole=True))
        self.capacity, self.capacity_steps, self.steps_done = capacity, capacity_steps, 0

    def kl_terms(self, output: VAEOutput, rows: int) -> dict[str, Tensor]:
        kl = batch_mean(kl_divergence(output.mu, output.logvar))
        gap = capacity_gap(kl, self.steps_done, self.capacity, self.capacity_steps)
        return {"capacity_gap": self.beta * gap}
