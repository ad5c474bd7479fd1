"""What can be minimised: options with their limits, loss and trainer of each objective.

An objective is one dataclass here, entered in `OBJECTIVES`; pipelines, their errors and the search
read its fields. torch is imported only when a loss or a trainer is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..runtime.validation import number, one_of, option

if TYPE_CHECKING:
    from ..models.losses import AttributeLoss
    from ..models.vae import VAE
    from .config import Pipeline
    from .engines import NetworkTrainer


@dataclass(frozen=True)
class Objective:
    """The attribute term, which all objectives have; see `AttributeLoss`."""

    gamma: float = option(0.0, searched=True)
    delta: float = option(10.0, number(1e-6, 1e6))
    attribute_target: str = option("sign", one_of("sign", "graded"))
    attribute_codes: str = option("sampled", one_of("sampled", "mean"))
    name: str = ""

    def make_loss(self) -> AttributeLoss:
        """Builds the loss that is minimised."""
        raise NotImplementedError

    def make_trainer(self, pipeline: Pipeline, network: VAE, **options: Any) -> NetworkTrainer:
        """Builds the engine that minimises it, with its optimisers.

        Args:
            pipeline: The pipeline that has this objective.
            network: The network to train.
            options: Further arguments of `NetworkTrainer`.
        """
        raise NotImplementedError

    def values(self, *left_out: str) -> dict[str, Any]:
        """Returns option -> value, without the name and those left out."""
        return {key: value for key, value in vars(self).items() if key not in ("name", *left_out)}


@dataclass(frozen=True)
class AttriVAEObjective(Objective):
    """beta-VAE and Attri-VAE; see `AttriVAELoss`."""

    name: str = "AttriVAE"
    beta: float = option(1.0, searched=True)

    def make_loss(self) -> AttributeLoss:
        from ..models.losses import AttriVAELoss

        return AttriVAELoss(**self.values())

    def make_trainer(self, pipeline: Pipeline, network: VAE, **options: Any) -> NetworkTrainer:
        from .engines import VAETrainer
        from .optimisation import adam

        optimiser = adam(network.parameters(), pipeline)
        return VAETrainer(network=network, optimizer=optimiser, **options)


@dataclass(frozen=True)
class SoftIntroObjective(Objective):
    """Soft-Intro VAE and Attri-SIVAE; see `SoftIntroLoss`.

    Attributes:
        vae_epochs: Epochs as a plain VAE before introspection begins.
        perceptual: Feature network of the perceptual loss, see `perceptual_loss`.
        perceptual_weights: File of its weights; empty looks in the usual places.
    """

    name: str = "SoftIntro"
    beta_rec: float = option(1.0, searched=True)
    beta_kl: float = option(1.0, searched=True)
    beta_neg: float = option(256.0, searched=True)
    gamma_r: float = 1e-8
    w_mse: float = 1.0
    w_perceptual: float = 0.0
    perceptual: str = "none"
    perceptual_weights: str = ""
    attribute_scaled: bool = False
    vae_epochs: int = 0

    def make_loss(self) -> AttributeLoss:
        from ..models.losses import SoftIntroLoss
        from ..models.perceptual import perceptual_loss

        perceptual = perceptual_loss(self.perceptual, self.perceptual_weights or None)
        rest = self.values("vae_epochs", "perceptual", "perceptual_weights")
        return SoftIntroLoss(**rest, perceptual=perceptual)

    def make_trainer(self, pipeline: Pipeline, network: VAE, **options: Any) -> NetworkTrainer:
        from .engines import SoftIntroTrainer
        from .optimisation import adam, split_parameters

        encoder, decoder = split_parameters(network)
        return SoftIntroTrainer(
            network=network,
            optimizer=adam(encoder, pipeline),
            decoder_optimizer=adam(decoder, pipeline),
            vae_epochs=self.vae_epochs,
            # running statistics that are not estimated again must see every pass
            shared_passes=pipeline.speed.shared_passes and pipeline.bn_recalibrate,
            **options,
        )


OBJECTIVES: dict[str, type[Objective]] = {
    kind.name: kind for kind in (AttriVAEObjective, SoftIntroObjective)
}
"""What ``objective.name`` may be; it decides which keys ``objective`` has, and who trains."""

DEFAULT = AttriVAEObjective()
"""The objective of a pipeline that names none."""
