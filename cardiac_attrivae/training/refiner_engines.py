"""Engines that train and score a refiner, and its loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from monai.engines import SupervisedEvaluator, Trainer
from torch import Generator, Tensor, nn

from ..models.precision import at_least_float32
from ..models.refiner import SCALE, Refiner, on_the_way
from ..models.vae import VAE, reparameterise
from ..runtime.distributed import batch_mean, share
from ..schema import Keys
from .batches import Terms, as_batch
from .engines import NetworkTrainer

NEAR = 7
"""Pixels along a side of the window in which a heart makes its surroundings count."""


class FlowLoss(nn.Module):
    """Squared error of the direction of a flow, near the heart above all, and the anatomy term.

    ``anatomy`` and ``background`` are those of `RefinerObjective`.

    Example:
        >>> loss, zero, heart = FlowLoss(), torch.zeros(1, 1, 8, 8), torch.ones(1, 3, 8, 8) / 3
        >>> round(loss(zero, zero + 2, heart)["flow"].item(), 3)
        4.4
    """

    def __init__(self, anatomy: float = 0.0, background: float = 0.1) -> None:
        super().__init__()
        self.anatomy, self.background = anatomy, background

    def forward(self, found: Tensor, wanted: Tensor, outline: Tensor) -> Terms:
        """Compares directions (N, 1, H, W), given the outlines of the structures (N, 3, H, W)."""
        heart = outline.sum(dim=1, keepdim=True)
        near = self.background + F.max_pool2d(heart, NEAR, stride=1, padding=NEAR // 2)
        return {"flow": batch_mean((near * (found - wanted) ** 2).mean(dim=(1, 2, 3)))}

    def outlined(self, found: Tensor, outline: Tensor) -> Terms:
        """Compares what the guide sees in what is painted, shares (N, 3, H, W), with outlines."""
        both, total = (found * outline).sum((2, 3)), (found + outline).sum((2, 3))
        overlap = (2 * both + 1) / (total + 1)
        return {"anatomy": self.anatomy * batch_mean(1 - overlap.mean(dim=1))}


class RefinerTrainer(NetworkTrainer):
    """Trains the flow of a refiner on slices and what a VAE makes of them. See `NetworkTrainer`.

    The VAE, ``base``, is not changed. It decodes codes that are drawn from the posterior: what it
    draws on request is no better reconstruction.
    """

    loss_function: FlowLoss

    def __init__(self, *, base: VAE, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.base = base

    def _iteration(self, engine: Trainer, batchdata: Any) -> dict[str, Any]:
        """Does one step. Leaves IMAGE, RECONSTRUCTION (of the VAE), ROW, TERMS, HEALTH and LOSS,
        all detached.

        Each of several processes draws for the whole batch, and works on its share of it.
        """
        refiner = cast(Refiner, self.network)
        batch = as_batch(batchdata, self.state.device)
        image, mine = batch[Keys.IMAGE], share(len(batch[Keys.IMAGE]))
        with torch.no_grad():
            drawn = sampled(self.base, image, self.generator)
            both = torch.cat([image, drawn], dim=1)
            if self.augment is not None:
                both = self.augment({Keys.IMAGE: both}, self.generator)[Keys.IMAGE]
            noise, time = draws(image, self.generator)
            image, drawn = (part.flatten(0, 1)[:, None] for part in both[mine].chunk(2, dim=1))
            noise, time = noise[mine].flatten(0, 1)[:, None], time[mine].flatten()
            outline = refiner.outline(image)
        self.network.train()
        with self.autocast():
            terms = flow_terms(refiner, self.loss_function, image, drawn, outline, noise, time)
        return self.descended(terms) | {
            Keys.IMAGE: image,
            Keys.RECONSTRUCTION: drawn,
            Keys.ROW: batch[Keys.ROW][mine],
        }


def sampled(base: VAE, image: Tensor, generator: Generator) -> Tensor:
    """Decodes codes drawn from the posterior of slices (N, C, H, W)."""
    mu, logvar = base.encode(image)
    noise = torch.randn(mu.shape, generator=generator, device=mu.device)
    return base.decode(reparameterise(mu, logvar, noise))


def draws(image: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Draws noise, (N, C, H, W), and times in (0, 1), (N, C), those in the middle more often."""
    noise = torch.randn(image.shape, generator=generator, device=image.device)
    time = torch.randn(image.shape[:2], generator=generator, device=image.device).sigmoid()
    return noise, time


def flow_terms(
    refiner: Refiner,
    loss: FlowLoss,
    image: Tensor,
    drawn: Tensor,
    outline: Tensor,
    noise: Tensor,
    time: Tensor,
) -> Terms:
    """Computes the terms of the loss, of slices (N, 1, H, W), what the VAE makes of them
    (``drawn``), the outlines of their structures (N, 3, H, W), and `draws`."""
    end = SCALE * (image - drawn)
    detail = on_the_way(noise, end, time)
    found = refiner.flow(detail, drawn, outline, time)
    terms = loss(found, end - noise, outline)
    if loss.anatomy:
        painted = drawn + (detail + (1 - time)[:, None, None, None] * found) / SCALE
        shares = at_least_float32(refiner.guide(painted)).softmax(dim=1)[:, 1:]
        terms |= loss.outlined(shares, outline)
    return terms


class RefinerEvaluator(SupervisedEvaluator):
    """Paints over reconstructions of slices by the VAE (``base``), and compares them with these."""

    def __init__(self, *, base: VAE, loss_function: FlowLoss, **kwargs: Any) -> None:
        super().__init__(decollate=False, **kwargs)
        self.base, self.loss_function = base, loss_function

    def _iteration(
        self, engine: SupervisedEvaluator, batchdata: Mapping[Any, Tensor]
    ) -> dict[str, Any]:
        """Evaluates one batch, always with the same draws. Leaves IMAGE, LABEL, ROW,
        RECONSTRUCTION (painted) and TERMS."""
        refiner = cast(Refiner, self.network)
        refiner.eval()
        image = batchdata[Keys.IMAGE]
        with torch.no_grad():
            drawn = self.base(image).reconstruction
            noise, time = draws(image, Generator(image.device).manual_seed(0))
            parts = (part.flatten(0, 1)[:, None] for part in (image, drawn, noise))
            one, other, detail = parts
            outline = refiner.outline(one)
            terms = flow_terms(
                refiner, self.loss_function, one, other, outline, detail, time.flatten()
            )
            painted = refiner(drawn, noise)
        return {
            Keys.IMAGE: image,
            Keys.LABEL: batchdata[Keys.LABEL],
            Keys.ROW: batchdata[Keys.ROW],
            Keys.RECONSTRUCTION: painted,
            Keys.TERMS: terms,
        }
