"""Engines: what one iteration of training and of evaluation does, and nothing around it.

They know images, attributes and rows, but no data set. Handlers read ``engine.state.output`` by the
keys that each ``_iteration`` lists.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from monai.engines import SupervisedEvaluator, SupervisedTrainer, Trainer
from torch import Generator, Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from ..models.conditional import told, withheld
from ..models.loss_terms import kl_divergence
from ..models.losses import SoftIntroLoss
from ..models.shapes import shape_model_of
from ..models.vae import VAE, outlined, reparameterise
from ..runtime.distributed import batch_mean, share
from ..schema import Keys, VAEOutput
from .batches import Batch, Terms, as_batch, draw_noise, iteration_output
from .guidance import Guidance, Look, no_guidance
from .optimisation import descend, frozen, parameters_of

Augment = Callable[[Batch, Generator], Batch]

NEGLIGIBLE = 1e-8
"""gamma_r up to which the decoder's second pass is left out, where passes are shared."""


class NetworkTrainer(SupervisedTrainer):
    """Does what all objectives have in common in a step; a subclass writes `step`.

    Batches are dictionaries with IMAGE, and ATTRIBUTES, CONDITION and ROW where they exist. Pairs,
    as a plain `torch.utils.data.TensorDataset` gives them, are read as image and attributes.

    Args:
        generator: Draws the noise and what ``augment`` draws, on the training device.
        augment: Turns a batch into another one, see `Augmenter`; None leaves batches as they are.
        schedulers: Schedulers of the learning rates, stepped after each iteration.
        averaged: Running average of the weights, updated after each iteration.
        precision: dtype that the network computes in under autocast; losses stay in float32.
        memory_format: Memory order of the images, `torch.channels_last` or
            `torch.contiguous_format`.
        guidance: Terms that look at what is drawn; None for none.
        guided_from: Share of all steps after which they begin.
        kwargs: See `monai.engines.SupervisedTrainer`. ``loss_function`` takes
            (VAEOutput, image, attributes) and returns named terms whose sum is minimised.
    """

    network: VAE
    loss_function: nn.Module

    def __init__(
        self,
        *,
        generator: Generator,
        augment: Augment | None = None,
        schedulers: Iterable[LRScheduler] = (),
        averaged: AveragedModel | None = None,
        precision: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.channels_last,
        guidance: Guidance | None = None,
        guided_from: float = 0.0,
        **kwargs: Any,
    ) -> None:
        # decollate would split every batch into dictionaries of single slices
        super().__init__(decollate=False, **kwargs)
        self.logger.setLevel(logging.CRITICAL)  # ignite would log what is raised, twice
        self.generator, self.augment, self.precision = generator, augment, precision
        self.schedulers, self.averaged = tuple(schedulers), averaged
        self.memory_format = memory_format
        self.guidance, self.guided_from = guidance, guided_from
        self.look: Look = no_guidance  # another one for each batch, once guidance has begun
        self.masks: Tensor | None = None  # of this process's share of the batch, (n, C, H, W)

    @property
    def optimisers(self) -> dict[str, Optimizer]:
        """The optimisers by the names that they have in a checkpoint."""
        return {"optimiser": self.optimizer}

    def _iteration(self, engine: Trainer, batchdata: Any) -> dict[str, Any]:
        """Does one step. Leaves IMAGE, ATTRIBUTES, ROW, RECONSTRUCTION, MU, LOGVAR, LATENT, TERMS,
        HEALTH and LOSS, all detached.

        Each of several processes is given the whole batch, draws for the whole batch, and works on
        its share of it.
        """
        batch = as_batch(batchdata, self.state.device)
        if self.augment is not None:
            with torch.no_grad():
                batch = batch | self.augment(batch, self.generator)
        self.network.train()
        n = len(batch[Keys.IMAGE])
        noise = draw_noise(self.network, batch[Keys.IMAGE], self.generator, self.draws)
        mine = share(n)
        image = batch[Keys.IMAGE][mine]
        if image.ndim == 4:
            image = image.contiguous(memory_format=self.memory_format)
        if self.guidance is not None and self.state.iteration > self.guided_from * self.steps:
            self.look = self.guidance.look(batch, self.generator)
        label, condition = batch.get(Keys.LABEL), batch.get(Keys.CONDITION)
        self.masks = None if label is None else label[mine]
        if condition is not None:
            condition = withheld(condition, self.generator)[mine]
        with told(self.network, condition):
            output, terms, health = self.step(image, batch.get(Keys.ATTRIBUTES), noise[:, mine])
        self.after_step()
        batch = batch | {Keys.IMAGE: image, Keys.ROW: batch[Keys.ROW][mine]}
        loss = torch.stack(list(terms.values())).sum()
        return iteration_output(batch, output, terms) | {
            Keys.LOSS: loss.detach(),
            Keys.HEALTH: {name: value.detach() for name, value in health.items()},
        }

    def after_step(self) -> None:
        """Moves the learning rates and the averaged weights on."""
        for scheduler in self.schedulers:
            scheduler.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.network)

    def descended(self, terms: Mapping[str, Tensor]) -> dict[str, Any]:
        """Does a step of the one optimiser; returns TERMS, HEALTH (none) and LOSS, detached."""
        descend(terms, self.optimizer)
        self.after_step()
        found = {name: term.detach() for name, term in terms.items()}
        loss = torch.stack(list(found.values())).sum()
        return {Keys.TERMS: found, Keys.HEALTH: {}, Keys.LOSS: loss}

    @property
    def steps(self) -> int:
        """Number of steps of the whole training."""
        return (self.state.max_epochs or 0) * (self.state.epoch_length or 0)

    @property
    def targets(self) -> dict[str, nn.Module]:
        """Networks beside the trained one that follow it, by their names in a checkpoint."""
        return {}

    draws = 1
    """Number of standard normal draws of the size of the codes that a step needs."""

    def step(
        self, image: Tensor, attributes: Tensor | None, noise: Tensor
    ) -> tuple[VAEOutput, Terms, Terms]:
        """Changes the weights.

        Args:
            image: This process's share of the batch, (n, C, H, W).
            attributes: Attributes of the whole batch, (N, K); None if there are none.
            noise: Draws for this process's share, (draws, n, D).

        Returns:
            The network's output for the images, terms of the loss, and signs of health.
        """
        raise NotImplementedError

    def guided(self, output: VAEOutput) -> Terms:
        """Computes the terms of what is drawn, see `Guidance`."""
        with self.autocast():
            return self.look(output, self.network.decode)

    def autocast(self) -> torch.autocast:
        """Computes in ``precision``."""
        device = torch.device(self.state.device or "cpu").type
        half = self.precision != torch.float32
        return torch.autocast(device, self.precision if half else None, enabled=half)


class VAETrainer(NetworkTrainer):
    """Trains a network with one optimiser: beta-VAE and Attri-VAE. See `NetworkTrainer`.

    A network that is shown outlines is shown the masks, see `outlined`, unless it reads shapes off
    them, and has to learn where those of the guide are wrong. (Introspective training encodes drawn
    hearts, too, of which there are no masks.)
    """

    def step(
        self, image: Tensor, attributes: Tensor | None, noise: Tensor
    ) -> tuple[VAEOutput, Terms, Terms]:
        masks = self.masks if shape_model_of(self.network) is None else None
        with self.autocast(), outlined(self.network, masks):
            output = self.network(image, noise[0])
        terms = self.loss_function(output, image, attributes) | self.guided(output)
        descend(terms, self.optimizer)
        return output, terms, {}


class SoftIntroTrainer(NetworkTrainer):
    """Trains encoder and decoder against each other: Soft-Intro VAE and Attri-SIVAE.

    The encoder learns to give real images a high ELBO and generated ones a low one; the decoder
    learns to generate images with a high one. The network needs ``encode``, ``decode`` and
    ``latent_size``; the optimisers say which parameters belong to the encoder and which to the
    decoder. Samples need not be images.

    Args:
        decoder_optimizer: Optimiser of the decoder's parameters; ``optimizer`` has the encoder's.
        vae_epochs: Epochs at the beginning in which both are trained as a plain VAE.
        shared_passes: Whether prior and posterior draws are decoded once for both steps (the
            decoder does not change in between), and the decoder's second pass is left out if its
            weight gamma_r is at most `NEGLIGIBLE`. Losses and gradients are the same up to
            rounding, but the running statistics of batch norm see fewer passes: estimate them
            again with `recalibrate`.
        kwargs: See `NetworkTrainer`; the loss function is a `SoftIntroLoss`.

    References:
        | Soft-IntroVAE (Daniel & Tamar, 2021), algorithm 1, https://arxiv.org/abs/2012.13253
    """

    draws = 6
    """Prior; posterior; reconstruction and prior draw encoded again, for encoder and decoder."""

    loss_function: SoftIntroLoss

    def __init__(
        self,
        *,
        decoder_optimizer: Optimizer,
        vae_epochs: int = 0,
        shared_passes: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.decoder_optimizer = decoder_optimizer
        self.vae_epochs, self.shared_passes = vae_epochs, shared_passes

    @property
    def optimisers(self) -> dict[str, Optimizer]:
        return super().optimisers | {"decoder_optimiser": self.decoder_optimizer}

    def step(
        self, image: Tensor, attributes: Tensor | None, noise: Tensor
    ) -> tuple[VAEOutput, Terms, Terms]:
        if self.state.epoch <= self.vae_epochs:
            return self.vae_step(image, attributes, noise)
        output, prior, terms, health = self.encoder_step(image, attributes, noise)
        error = terms["reconstruction"]
        if not self.shared_passes:
            with self.autocast():
                prior = self.network.decode(noise[0])
                output = output._replace(reconstruction=self.network.decode(output.z.detach()))
            error = self.loss_function.decoder_error(output.reconstruction, image)
        return output, terms | self.decoder_step(image, output, prior, error, noise), health

    def vae_step(
        self, image: Tensor, attributes: Tensor | None, noise: Tensor
    ) -> tuple[VAEOutput, Terms, Terms]:
        """Does one step of both optimisers on the loss of a VAE."""
        with self.autocast():
            output = self.encode_and_decode(image, noise[1])
        terms = self.loss_function(output, image, attributes) | self.guided(output)
        descend(terms, self.optimizer, self.decoder_optimizer)
        return output, terms, {}

    def encoder_step(
        self, image: Tensor, attributes: Tensor | None, noise: Tensor
    ) -> tuple[VAEOutput, Tensor, Terms, Terms]:
        """Trains the encoder to give images a high ELBO and what the decoder makes a low one.

        Returns:
            Output for the images and decoded prior draws, both still with the graph that leads to
            the decoder if passes are shared; terms; KL of real and of generated images.
        """
        decoder = parameters_of(self.decoder_optimizer)
        with self.autocast():
            with frozen(() if self.shared_passes else decoder):
                prior = self.network.decode(noise[0])
                output = self.encode_and_decode(image, noise[1])
            with frozen(decoder), self.second_pass():
                again = self.encode_and_decode(output.reconstruction.detach(), noise[2])
                prior_again = self.encode_and_decode(prior.detach(), noise[3])
        loss = self.loss_function
        terms = loss(output, image, attributes)
        # the target of the twice decoded image is not detached: published, and part of the gradient
        terms["exp_elbo_reconstructed"] = loss.exp_elbo(again, output.reconstruction)
        terms["exp_elbo_generated"] = loss.exp_elbo(prior_again, prior.detach())
        descend(terms, self.optimizer, keep_graph=self.shared_passes)
        health = {
            "kl_real": batch_mean(kl_divergence(output.mu, output.logvar)),
            "kl_generated": batch_mean(kl_divergence(prior_again.mu, prior_again.logvar)),
        }
        return output, prior, terms, health

    def decoder_step(
        self, image: Tensor, output: VAEOutput, prior: Tensor, error: Tensor, noise: Tensor
    ) -> Terms:
        """Trains the decoder to reconstruct, and to generate images of a low KL by the new encoder.

        Args:
            image: This process's share of the batch, (n, C, H, W).
            output: The network's output for it; its reconstruction has the graph of the decoder.
            prior: Decoded prior draws, with the graph of the decoder.
            error: Weighted reconstruction error, with the same graph.
            noise: Draws for this process's share, (draws, n, D).
        """
        loss, encode = self.loss_function, self.network.encode
        encoder = parameters_of(self.optimizer)
        reconstruction = output.reconstruction
        with self.autocast(), frozen(encoder):
            posterior, prior_posterior = encode(reconstruction), encode(prior)
        terms = {
            "decoder_reconstruction": error,
            "decoder_kl_reconstructed": loss.decoder_kl(*posterior, image),
            "decoder_kl_generated": loss.decoder_kl(*prior_posterior, image),
        } | self.guided(output)
        if not (self.shared_passes and loss.gamma_r <= NEGLIGIBLE):
            with self.autocast(), self.second_pass():
                codes = reparameterise(*posterior, noise[4])
                prior_codes = reparameterise(*prior_posterior, noise[5])
                again = self.network.decode(self.held(codes))
                prior_again = self.network.decode(self.held(prior_codes))
            terms["decoder_error_generated"] = loss.decoder_error(
                again, self.held(reconstruction), generated=True
            ) + loss.decoder_error(prior_again, self.held(prior), generated=True)
        descend(terms, self.decoder_optimizer)
        return terms

    def second_pass(self) -> AbstractContextManager[None]:
        """Entered while generated images that were encoded are decoded again."""
        return nullcontext()

    def held(self, values: Tensor) -> Tensor:
        """Generated images and their codes, as the decoder's R of them sees them: its gradient
        comes through the second pass alone."""
        return values.detach()

    def encode_and_decode(self, image: Tensor, noise: Tensor) -> VAEOutput:
        mu, logvar = self.network.encode(image)
        z = reparameterise(mu, logvar, noise)
        return VAEOutput(self.network.decode(z), mu, logvar, z)


class VAEEvaluator(SupervisedEvaluator):
    """Encodes and decodes. The code of a slice is its posterior mean.

    Args:
        loss_function: As in `VAETrainer`; None leaves TERMS empty.
        kwargs: See `monai.engines.SupervisedEvaluator`.
    """

    network: VAE

    def __init__(self, *, loss_function: nn.Module | None = None, **kwargs: Any) -> None:
        super().__init__(decollate=False, **kwargs)
        self.logger.setLevel(logging.CRITICAL)  # see `NetworkTrainer`
        self.loss_function = loss_function

    def _iteration(self, engine: SupervisedEvaluator, batchdata: Any) -> dict[str, Any]:
        """Evaluates one batch. Leaves IMAGE, LABEL, ATTRIBUTES, ROW, RECONSTRUCTION, MU, LOGVAR,
        LATENT (the code) and TERMS.
        """
        self.network.eval()
        image = batchdata[Keys.IMAGE]
        with torch.no_grad(), told(self.network, batchdata.get(Keys.CONDITION)):
            output = self.network(image)
            terms = {}
            if self.loss_function is not None:
                terms = self.loss_function(output, image, batchdata[Keys.ATTRIBUTES])
        return iteration_output(batchdata, output, terms) | {Keys.LABEL: batchdata[Keys.LABEL]}
