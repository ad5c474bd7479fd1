"""Trains with a capacity that grows by the step."""

from __future__ import annotations

from torch import Tensor

from ..models.kl_losses import CapacityLoss
from ..models.loss_terms import kl_divergence
from ..runtime.distributed import batch_mean
from ..schema import VAEOutput
from .batches import Terms
from .engines import VAETrainer


class CapacityTrainer(VAETrainer):
    """Trains a network with one optimiser on a `CapacityLoss`, and tells it how far training is.

    The number of steps is that of the engine, which a resumed run goes on from. The KL itself is
    among the signs of health, as ``kl``.
    """

    loss_function: CapacityLoss

    def step(
        self, image: Tensor, attributes: Tensor | None, noise: Tensor
    ) -> tuple[VAEOutput, Terms, Terms]:
        self.loss_function.steps_done = self.state.iteration - 1
        output, terms, _ = super().step(image, attributes, noise)
        return output, terms, {"kl": batch_mean(kl_divergence(output.mu, output.logvar))}
