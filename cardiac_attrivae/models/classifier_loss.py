"""The objective of Attri-VAE with a classifier that is trained together with the codes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..runtime.distributed import gather_rows
from ..runtime.validation import require
from ..schema import Keys, VAEOutput
from .classifier import ClassifierHead, cross_entropy
from .losses import WEIGHT, AttriVAELoss


class ClassifierLoss(AttriVAELoss):
    r"""Computes the objective of Attri-VAE with the classifier that it is trained with.

    .. math:: L_\mathrm{AttriVAE} + \alpha \, \mathrm{CE}(h(z), c)

    where h is the network's `ClassifierHead`, z the sampled codes, and c the classes, see
    `cross_entropy`.

    Args:
        alpha: Weight of the cross-entropy; alpha_MLP of Attri-VAE.
        rest: See `AttriVAELoss`.

    References:
        | Attri-VAE (Cetin et al., 2023), https://arxiv.org/abs/2203.10417

    Example:
        >>> import torch
        >>> from .beta_vae import BetaVAE
        >>> network = BetaVAE(4, 16, classifier={"classes": ["DCM", "NOR"], "inputs": 4})
        >>> image, loss = torch.zeros(2, 1, 16, 16), ClassifierLoss(beta=1.0, alpha=10.0)
        >>> loss.see(network, {Keys.CLASS: torch.eye(2)})
        >>> list(loss(network(image), image))
        ['reconstruction', 'kl', 'classification']
    """

    def __init__(self, beta: float, alpha: float = 1.0, **rest: Any) -> None:
        super().__init__(beta, **rest)
        require("alpha", alpha, WEIGHT)
        self.alpha = alpha
        self.seen: tuple[ClassifierHead, Tensor] | None = None

    def see(self, network: nn.Module, batch: Mapping[Any, Tensor]) -> None:
        """Says who classifies the slices that come next, and of which class they are.

        Args:
            network: The network, with its ``classifier``.
            batch: The whole batch, with CLASS.
        """
        head: Any = network.classifier
        self.seen = head, batch[Keys.CLASS]

    def forward(
        self, output: VAEOutput, image: Tensor, attributes: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Computes the terms of `AttriVAELoss`, and ``classification``.

        Raises:
            ValueError: As `AttriVAELoss`, and if `see` was not called.
        """
        if self.seen is None:
            raise ValueError("no classes came with the images; call see(network, batch) before")
        head, classes = self.seen
        logits = head(gather_rows(output.z, len(classes)))
        found = {"classification": self.alpha * cross_entropy(logits, classes.to(logits))}
        return super().forward(output, image, attributes) | found
