"""Soft-Intro VAE whose generated images are judged through a decoder that lags behind."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ignite.engine import Events
from torch import Tensor, nn

from .engines import SoftIntroTrainer


class BootstrapTrainer(SoftIntroTrainer):
    """Trains encoder and decoder against each other with a target decoder.

    The target is a copy of the decoder, made again at the end of every few epochs, and not trained.
    It decodes what was encoded of generated images, in both steps: R of generated images is an
    error of the target. In the decoder's step the gradient of that R comes through the generated
    images, which the target and the frozen encoder judge, so gamma_r can be 1.

    Args:
        target_epochs: Number of epochs between two copies.
        kwargs: See `SoftIntroTrainer`.

    References:
        | Soft-IntroVAE (Daniel & Tamar, 2021), https://arxiv.org/abs/2012.13253; the authors' code
        | has this variant, which the paper did not use, as soft_intro_vae_bootstrap
    """

    def __init__(self, *, target_epochs: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.target = copy.deepcopy(self.network.decoder).requires_grad_(False)
        self.add_event_handler(Events.EPOCH_COMPLETED(every=target_epochs), self.copy_decoder)

    @property
    def targets(self) -> dict[str, nn.Module]:
        return {"target_decoder": self.target}

    def copy_decoder(self) -> None:
        """Makes the target equal to the decoder, its running statistics too."""
        self.target.load_state_dict(self.network.decoder.state_dict())

    @contextmanager
    def second_pass(self) -> Iterator[None]:
        own, self.network.decoder = self.network.decoder, self.target
        try:
            yield
        finally:
            self.network.decoder = own

    def held(self, values: Tensor) -> Tensor:
        return values
