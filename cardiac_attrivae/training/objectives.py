"""What can be minimised: the options of each objective and their limits, without torch.

An objective is one dataclass here, entered in `OBJECTIVES`; pipelines, their errors and the search
read its fields.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..runtime.validation import number, one_of, option


@dataclass(frozen=True)
class Objective:
    """The attribute term, which all objectives have; see `AttributeLoss`."""

    gamma: float = option(0.0, searched=True)
    delta: float = option(10.0, number(1e-6, 1e6))
    attribute_target: str = option("sign", one_of("sign", "graded"))
    attribute_codes: str = option("sampled", one_of("sampled", "mean"))
    name: str = ""


@dataclass(frozen=True)
class AttriVAEObjective(Objective):
    """beta-VAE and Attri-VAE; see `AttriVAELoss`."""

    name: str = "AttriVAE"
    beta: float = option(1.0, searched=True)


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


OBJECTIVES: dict[str, type[Objective]] = {
    kind.name: kind for kind in (AttriVAEObjective, SoftIntroObjective)
}
"""What ``objective.name`` may be; it decides which keys ``objective`` has, and who trains."""

DEFAULT = AttriVAEObjective()
"""The objective of a pipeline that names none."""
