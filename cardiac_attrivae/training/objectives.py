"""What can be minimised: options with their limits, loss and trainer of each objective.

An objective is one dataclass here, entered in `OBJECTIVES`; pipelines, their errors and the search
read its fields. torch is imported only when a loss or a trainer is made.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from ..runtime.validation import TEXT, number, one_of, option

if TYPE_CHECKING:
    from torch import nn

    from ..models.losses import AttributeLoss
    from ..models.vae import VAE
    from .config import Pipeline
    from .engines import NetworkTrainer
    from .learner import Learner


class Objective:
    """What all objectives have in common."""

    name: str  # its name in pipelines
    # whether it is trained on whole pictures (``preprocess --slice whole``), else on crops
    whole: ClassVar[bool] = False
    kind: ClassVar[str] = "codes"  # what its network does, see `KINDS`
    gamma: float = 0.0  # weight of the attribute term, 0 where there is none

    @property
    def has_codes(self) -> bool:
        """Whether its network has codes, on which attributes are trained."""
        return self.kind == "codes"

    @property
    def paints(self) -> bool:
        """Whether it paints over the pictures of a trained run, which is then needed."""
        return self.kind == "paints"

    @property
    def is_guided(self) -> bool:
        """Whether a guide is needed, see `Guidance`."""
        return False

    def fitted(self, slices: int) -> Objective:
        """Fills in what follows from the number of slices that are trained on."""
        return self

    def make_learner(self, *arguments: Any) -> Learner:
        """Builds what learns, see `Learner` for the arguments."""
        raise NotImplementedError

    def make_loss(self) -> nn.Module:
        """Builds the loss that is minimised."""
        raise NotImplementedError

    def make_trainer(self, pipeline: Pipeline, network: Any, **options: Any) -> NetworkTrainer:
        """Builds the engine that minimises it, with its optimisers.

        Args:
            pipeline: The pipeline that has this objective.
            network: The network to train.
            options: Further arguments of `NetworkTrainer`.
        """
        raise NotImplementedError

    def values(self, *left_out: str) -> dict[str, Any]:
        """Returns option -> value of the loss, without the name and those left out."""
        return {key: value for key, value in vars(self).items() if key not in ("name", *left_out)}


GUIDANCE = ("control", "anatomy", "guided_from")
"""Options that the loss does not see, because what is drawn takes a guide and a decoder."""


@dataclass(frozen=True)
class AttributeObjective(Objective):
    """What the objectives of autoencoders have: attributes, see `AttributeLoss`, and guidance.

    Guidance needs a guide, a frozen segmenter that looks at what is drawn, see `Guidance`; both
    weights are 0 as published.
    """

    gamma: float = option(0.0, searched=True)
    delta: float = option(10.0, number(1e-6, 1e6))
    attribute_target: str = option("sign", one_of("sign", "graded", "value"))
    attribute_codes: str = option("sampled", one_of("sampled", "mean"))
    # weight of the distance between the areas that are drawn when a dimension is turned and those
    # that were asked for, see `control_distance`. Turned are the dimensions of attributes that are
    # areas; without one there is no such term.
    control: float = 0.0
    # weight of one minus the soft Dice of reconstructions, see `mask_distance`
    anatomy: float = 0.0
    # share of all steps after which both begin: before, there is nothing to look at
    guided_from: float = option(0.0, number(0, 1))
    name: str = ""

    @property
    def is_guided(self) -> bool:
        return self.control > 0 or self.anatomy > 0

    def values(self, *left_out: str) -> dict[str, Any]:
        return super().values(*GUIDANCE, *left_out)

    def make_learner(self, *arguments: Any) -> Learner:
        from .vae_learner import VAELearner

        return VAELearner(*arguments)


@dataclass(frozen=True)
class AttriVAEObjective(AttributeObjective):
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
class ClassifierObjective(AttriVAEObjective):
    """Attri-VAE with a classifier that is trained together with the codes; see `ClassifierLoss`.

    Attributes:
        column: Column of cases.csv that holds the classes. Slices of patients who have none do not
            count in this term.
        reads: Whether the classifier sees all ``codes``, or those of the ``attributes`` alone.
    """

    name: str = "AttriVAEClassifier"
    alpha: float = option(1.0, searched=True)
    column: str = option("pathology", TEXT)
    reads: str = option("codes", one_of("codes", "attributes"))

    def make_learner(self, *arguments: Any) -> Learner:
        from .classifier_learner import ClassifierLearner

        return ClassifierLearner(*arguments)

    def make_loss(self) -> AttributeLoss:
        from ..models.classifier_loss import ClassifierLoss

        return ClassifierLoss(**self.values("column", "reads"))

    def make_trainer(self, pipeline: Pipeline, network: VAE, **options: Any) -> NetworkTrainer:
        from .classifier_engine import ClassifierTrainer
        from .optimisation import adam

        optimiser = adam(network.parameters(), pipeline)
        return ClassifierTrainer(network=network, optimizer=optimiser, **options)


@dataclass(frozen=True)
class BetaTCVAEObjective(AttriVAEObjective):
    """beta-TC-VAE, with attributes too; see `BetaTCVAELoss`."""

    name: str = "BetaTCVAE"
    alpha: float = option(1.0, searched=True)
    beta: float = option(6.0, searched=True)
    beta_kl: float = option(1.0, searched=True)
    samples: int = 0  # N of its estimates; 0 stands for the number of slices that are trained on

    def fitted(self, slices: int) -> BetaTCVAEObjective:
        return replace(self, samples=self.samples or slices)

    def make_loss(self) -> AttributeLoss:
        from ..models.kl_losses import BetaTCVAELoss

        return BetaTCVAELoss(**self.values())


@dataclass(frozen=True)
class CapacityObjective(AttriVAEObjective):
    """The capacity objective of beta-VAE, with attributes too; see `CapacityLoss`."""

    name: str = "Capacity"
    beta: float = option(1000.0, searched=True)
    capacity: float = option(25.0, searched=True)
    capacity_steps: int = option(100_000, number(1, whole=True))

    def make_loss(self) -> AttributeLoss:
        from ..models.kl_losses import CapacityLoss

        return CapacityLoss(**self.values())

    def make_trainer(self, pipeline: Pipeline, network: VAE, **options: Any) -> NetworkTrainer:
        from .capacity_engine import CapacityTrainer
        from .optimisation import adam

        optimiser = adam(network.parameters(), pipeline)
        return CapacityTrainer(network=network, optimizer=optimiser, **options)


@dataclass(frozen=True)
class SoftIntroObjective(AttributeObjective):
    """Soft-Intro VAE and Attri-SIVAE; see `SoftIntroLoss`."""

    name: str = "SoftIntro"
    beta_rec: float = option(1.0, searched=True)
    beta_kl: float = option(1.0, searched=True)
    beta_neg: float = option(256.0, searched=True)
    gamma_r: float = 1e-8
    w_mse: float = 1.0
    w_perceptual: float = 0.0
    perceptual: str = "none"  # feature network of the perceptual loss, see `perceptual_loss`
    perceptual_weights: str = ""  # file of its weights; empty looks in the usual places
    attribute_scaled: bool = False
    vae_epochs: int = 0  # epochs as a plain VAE before introspection begins

    def make_loss(self) -> AttributeLoss:
        from ..models.losses import SoftIntroLoss
        from ..models.perceptual import perceptual_loss

        perceptual = perceptual_loss(self.perceptual, self.perceptual_weights or None)
        rest = self.values("vae_epochs", "target_epochs", "perceptual", "perceptual_weights")
        return SoftIntroLoss(**rest, perceptual=perceptual)

    def make_trainer(self, pipeline: Pipeline, network: VAE, **options: Any) -> NetworkTrainer:
        from .engines import SoftIntroTrainer

        return SoftIntroTrainer(**self.trainer_arguments(pipeline, network), **options)

    def trainer_arguments(self, pipeline: Pipeline, network: VAE) -> dict[str, Any]:
        """Returns what `SoftIntroTrainer` takes besides the options of `make_trainer`."""
        from .optimisation import adam, split_parameters

        encoder, decoder = split_parameters(network)
        return {
            "network": network,
            "optimizer": adam(encoder, pipeline),
            "decoder_optimizer": adam(decoder, pipeline),
            "vae_epochs": self.vae_epochs,
            # running statistics that are not estimated again must see every pass
            "shared_passes": pipeline.speed.shared_passes and pipeline.bn_recalibrate,
        }


@dataclass(frozen=True)
class BootstrapObjective(SoftIntroObjective):
    """Soft-Intro VAE with a target decoder, and attributes too; see `BootstrapTrainer`."""

    name: str = "SoftIntroBootstrap"
    gamma_r: float = 1.0
    # number of epochs between two copies of the decoder into the target
    target_epochs: int = option(1, number(1, whole=True))

    def make_trainer(self, pipeline: Pipeline, network: VAE, **options: Any) -> NetworkTrainer:
        from .bootstrap_engine import BootstrapTrainer

        arguments = self.trainer_arguments(pipeline, network)
        return BootstrapTrainer(target_epochs=self.target_epochs, **arguments, **options)


@dataclass(frozen=True)
class SegmentationObjective(Objective):
    """Outlines hearts in whole pictures: Dice and cross-entropy of windows, see `ScanAugmenter`."""

    whole: ClassVar[bool] = True
    kind: ClassVar[str] = "outlines"
    name: str = "Segmentation"
    # pixels along a side of a window, a multiple of 16
    window: int = option(128, number(32, 1024, whole=True))
    # share of windows that are placed anywhere; the others lie about the heart
    off_heart: float = option(0.2, number(0, 1))
    # largest strength of a shifted copy, in a fifth of the windows
    ghost: float = option(0.25, number(0, 1))
    # largest share of a window that lies outside the field of view, in a fifth of them
    cut: float = option(0.35, number(0, 1))

    def make_learner(self, *arguments: Any) -> Learner:
        from .scan_learner import ScanLearner

        return ScanLearner(*arguments)

    def make_loss(self) -> nn.Module:
        from .scan_engines import SegmentationLoss

        return SegmentationLoss()

    def make_trainer(self, pipeline: Pipeline, network: Any, **options: Any) -> NetworkTrainer:
        from .optimisation import adam
        from .scan_engines import SegmentationTrainer

        optimiser = adam(network.parameters(), pipeline)
        return SegmentationTrainer(network=network, optimizer=optimiser, **options)


@dataclass(frozen=True)
class RefinerObjective(Objective):
    """Paints over the pictures of a trained run, see `models.refiner` and `FlowLoss`.

    Its slices are moved and mirrored by whole pixels: anything else would blur their texture.
    """

    kind: ClassVar[str] = "paints"
    name: str = "Refiner"
    # weight of one minus the soft Dice between the outlines of what is painted and of what was to
    # be painted, as the guide sees them
    anatomy: float = 0.0
    # weight of a pixel far from the heart, compared with 1 in it
    background: float = option(0.1, number(0, 1))
    shift: int = option(6, number(0, 64, whole=True))  # largest displacement in pixels
    mirrored: float = option(0.5, number(0, 1))  # share of slices that are turned upside down

    @property
    def is_guided(self) -> bool:
        return True

    def make_learner(self, *arguments: Any) -> Learner:
        from .refiner_learner import RefinerLearner

        return RefinerLearner(*arguments)

    def make_loss(self) -> nn.Module:
        from .refiner_engines import FlowLoss

        return FlowLoss(self.anatomy, self.background)

    def make_trainer(self, pipeline: Pipeline, network: Any, **options: Any) -> NetworkTrainer:
        from .optimisation import adam
        from .refiner_engines import RefinerTrainer

        optimiser = adam(network.flow.parameters(), pipeline)
        return RefinerTrainer(network=network, optimizer=optimiser, **options)


OBJECTIVES: dict[str, type[Objective]] = {
    kind.name: kind
    for kind in (
        AttriVAEObjective,
        BetaTCVAEObjective,
        CapacityObjective,
        SoftIntroObjective,
        BootstrapObjective,
        ClassifierObjective,
        SegmentationObjective,
        RefinerObjective,
    )
}
"""What ``objective.name`` may be; it decides which keys ``objective`` has, and who trains."""

DEFAULT = AttriVAEObjective()
"""The objective of a pipeline that names none."""
