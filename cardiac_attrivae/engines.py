"""The engines: what one iteration of training and of evaluation does, and nothing around it.

They know images, attributes and rows, and no data set. Handlers read ``engine.state.output`` by the
keys that each ``_iteration`` lists.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from torch import Generator, Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from .schema import Keys, VAEOutput

Batch = dict[str, Tensor]
Augment = Callable[[Batch, Generator], Batch]


class VAETrainer(SupervisedTrainer):
    """Trains a network with one optimiser: beta-VAE and Attri-VAE.

    Args:
        generator: Of the noise and of what ``augment`` draws, on the training device.
        augment: Batch to batch, see `Augmenter`; None is none.
        scheduler: Of the learning rate, stepped after each iteration.
        averaged: Running average of the weights, updated after each iteration.
        precision: dtype that the network computes in under autocast; losses stay in float32.
        kwargs: See `monai.engines.SupervisedTrainer`. ``loss_function`` takes
            (VAEOutput, image, attributes) and returns named terms whose sum is minimised.
    """

    def __init__(
        self,
        *,
        generator: Generator,
        augment: Augment | None = None,
        scheduler: LRScheduler | None = None,
        averaged: AveragedModel | None = None,
        precision: torch.dtype = torch.float32,
        **kwargs: Any,
    ) -> None:
        # decollate would split every batch into dictionaries of single slices
        super().__init__(decollate=False, **kwargs)
        self.generator, self.augment, self.precision = generator, augment, precision
        self.scheduler, self.averaged = scheduler, averaged

    def _iteration(self, engine: VAETrainer, batchdata: Batch) -> Batch:
        """One step. Leaves IMAGE, ATTRIBUTES, ROW, RECONSTRUCTION, MU, LOGVAR, LATENT, TERMS and
        LOSS, all detached.
        """
        if self.augment is not None:
            with torch.no_grad():
                batchdata = self.augment(batchdata, self.generator)
        self.network.train()
        image = batchdata[Keys.IMAGE].contiguous(memory_format=torch.channels_last)
        output = self.predict(image, draw_noise(self.network, image, self.generator))
        terms = self.loss_function(output, image, batchdata[Keys.ATTRIBUTES])
        loss = torch.stack(list(terms.values())).sum()

        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.network)
        return iteration_output(batchdata, output, terms) | {Keys.LOSS: loss.detach()}

    def predict(self, image: Tensor, noise: Tensor) -> VAEOutput:
        """The network's output, computed in ``precision``."""
        with torch.autocast(
            image.device.type, self.precision, enabled=self.precision != torch.float32
        ):
            return self.network(image, noise)


class VAEEvaluator(SupervisedEvaluator):
    """Encodes and decodes. The code of a slice is its posterior mean, unless a generator is given.

    Args:
        generator: Of the noise of sampled codes, as the published evaluations have it.
        loss_function: As in `VAETrainer`; None leaves TERMS empty.
        kwargs: See `monai.engines.SupervisedEvaluator`.
    """

    def __init__(
        self,
        *,
        loss_function: nn.Module | None = None,
        generator: Generator | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(decollate=False, **kwargs)
        self.loss_function, self.generator = loss_function, generator

    def _iteration(self, engine: VAEEvaluator, batchdata: Batch) -> Batch:
        """One batch. Leaves IMAGE, LABEL, ATTRIBUTES, ROW, RECONSTRUCTION, MU, LOGVAR, LATENT (the
        code) and TERMS.
        """
        self.network.eval()
        image, noise = batchdata[Keys.IMAGE], None
        if self.generator is not None:
            noise = draw_noise(self.network, image, self.generator)
        with torch.no_grad():
            output = self.network(image, noise)
            terms = {}
            if self.loss_function is not None:
                terms = self.loss_function(output, image, batchdata[Keys.ATTRIBUTES])
        return iteration_output(batchdata, output, terms) | {Keys.LABEL: batchdata[Keys.LABEL]}


def draw_noise(network: nn.Module, image: Tensor, generator: Generator) -> Tensor:
    """Standard normal draws for the codes of a batch, (N, D)."""
    shape = (len(image), network.latent_size)
    return torch.randn(shape, generator=generator, device=image.device)


def iteration_output(batch: Batch, output: VAEOutput, terms: dict[str, Tensor]) -> Batch:
    """What both engines leave for handlers, detached from the graph."""
    return {
        Keys.IMAGE: batch[Keys.IMAGE],
        Keys.ATTRIBUTES: batch[Keys.ATTRIBUTES],
        Keys.ROW: batch[Keys.ROW],
        Keys.RECONSTRUCTION: output.reconstruction.detach(),
        Keys.MU: output.mu.detach(),
        Keys.LOGVAR: output.logvar.detach(),
        Keys.LATENT: output.z.detach(),
        Keys.TERMS: {name: term.detach() for name, term in terms.items()},
    }
