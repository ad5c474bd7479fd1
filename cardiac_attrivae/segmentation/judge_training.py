"""Trains the network of a segmenter on slices that look as if a decoder had drawn them.

Each slice is deformed, its contrast is changed, and it is made to look decoded: blurred, with a
soft rim and a faint background. A training that was interrupted goes on from its checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from torch import Generator, Tensor, nn

from ..attributes import AREAS
from ..data.loader import DeviceLoader
from ..data.store import SliceDataset
from ..runtime.files import atomic_file
from ..runtime.progress import Progress, progress
from ..schema import HEART, Keys
from ..training.augmentation import AttributeTargets, Augmentation, Augmenter, each_phase, prepared

AUGMENTATION = Augmentation(
    rotation=20, shift=5, zoom=0.2, stretch=0.1, cavity=0.3, wall=0.4, elastic=2,
    blood=0.2, muscle=0.1, contrast=0.4, bias=0.2, noise=0.05,
)  # fmt: skip
"""Wider than what models are trained with: what they draw at three deviations is measured too."""

LATER = ("beat", "taper", "right", "length", "style")
"""Later options of `AUGMENTATION`: while 0, fingerprints of segmenters stay without them."""

CHECKPOINT_EVERY = 50
"""Batches between two checkpoints: about a tenth of a training."""

bar: Progress = progress("segmenters")
"""Shows how far a training of guides and segmenters is."""


class Stateful(Protocol):
    """What a checkpoint keeps: networks, optimisers, schedules."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: Any, /) -> Any: ...


@dataclass(frozen=True)
class Training:
    """How a segmenter is trained."""

    steps: int = 500  # number of batches
    batch_size: int = 16  # slices in a batch
    # how often a basal slice is drawn, against 1 for any other slice: models are asked for basal
    # slices
    basal_weight: float = 3.0
    # highest learning rate of one cycle: it rises over three tenths of the steps, then falls to 0
    lr: float = 1e-2
    # largest standard deviation of the Gaussian blur, in pixels. Each slice draws its own from 0 to
    # this, as for the next two.
    blur: float = 3.0
    background: float = 0.08  # largest brightness outside the heart
    noise: float = 0.03  # largest standard deviation of the noise


def build(seed: int, device: torch.device | str = "cpu") -> nn.Module:
    """Builds a U-Net with random weights: (N, 1, H, W) to logits of background, LV, MYO and RV.

    The global random state stays as it was.
    """
    filters = (16, 32, 64, 128, 128)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = UNet(2, 1, len(HEART) + 1, filters, (2, 2, 2, 2), num_res_units=2, norm="batch")
    # torch's stub of this overload lacks memory_format
    return network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def augmentation_facts() -> dict[str, float]:
    """Returns what the fingerprint of a segmenter holds of `AUGMENTATION`."""
    return {k: v for k, v in asdict(AUGMENTATION).items() if v or k not in LATER}


def _rows(train: SliceDataset, training: Training) -> int:
    """Rows of a batch: fewer of stacks, which hold many slices each."""
    return max(2, training.batch_size // train.scale.slices)


def train_network(
    train: SliceDataset,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    training: Training | None = None,
    checkpoint: Path | None = None,
    progress: Progress = bar,
    build: Callable[..., nn.Module] = build,
) -> nn.Module:
    """Trains a network on slices and masks; on a CPU one seed gives the same weights each time.

    Args:
        train: Slices to learn from.
        seed: Seed of the first weights, the order of slices and the augmentation.
        device: Where to train.
        training: How to train; None is `Training()`.
        checkpoint: File that keeps an interrupted training; what it holds is taken up. None keeps
            nothing.
        progress: See `Progress`.
        build: Makes the network of a seed and a device, see `build`.

    Returns:
        The network in eval mode.
    """
    training = training or Training()
    network = build(seed, device)
    generator = Generator(device).manual_seed(seed)
    augmenter = Augmenter(train, AttributeTargets(train, AREAS), AUGMENTATION, device)
    loader = DeviceLoader(
        train, train.attributes(AREAS), _rows(train, training), device, generator,
        weights=np.where(train.is_basal, training.basal_weight, 1), batches=training.steps,
        prepare=prepared,
    )  # fmt: skip
    loss_function = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False)
    optimiser = torch.optim.AdamW(network.parameters(), training.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, training.lr, training.steps)
    parts: dict[str, Stateful] = {"network": network, "optimiser": optimiser, "schedule": schedule}
    done = 0
    if checkpoint and checkpoint.is_file():
        try:
            done, generator = _restore(checkpoint, parts, device)
        except Exception:  # a damaged file raises errors of many kinds
            checkpoint.unlink()
            return train_network(
                train, seed=seed, device=device, training=training, checkpoint=checkpoint,
                progress=progress, build=build,
            )  # fmt: skip
    network.train()
    for step, batch in enumerate(progress(loader, training.steps), start=1):
        if step <= done:
            continue
        batch = augmenter(batch, generator)
        images = as_decoded(each_phase(batch[Keys.IMAGE]), training, generator)
        loss = loss_function(network(images), each_phase(batch[Keys.LABEL]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if checkpoint and step % CHECKPOINT_EVERY == 0:
            states = {name: part.state_dict() for name, part in parts.items()}
            with atomic_file(checkpoint) as beside:
                torch.save(states | {"step": step, "generator": generator.get_state()}, beside)
    return network.eval()


def _restore(
    checkpoint: Path, parts: dict[str, Stateful], device: torch.device | str
) -> tuple[int, Generator]:
    """Loads the states of a checkpoint; returns its number of steps and the random state there."""
    states = torch.load(checkpoint, device, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(states[name])
    return int(states["step"]), Generator(device).set_state(states["generator"].cpu())


def as_decoded(images: Tensor, training: Training, generator: Generator) -> Tensor:
    """Makes slices look decoded: blurred, noisy, and nowhere completely black.

    Args:
        images: Slices in [0, 1], (N, 1, H, W).
        training: Gives the largest blur, background and noise.
        generator: Draws them, on the device of the images.
    """
    rand = partial(torch.rand, generator=generator, device=images.device)

    def share() -> Tensor:
        """One number in [0, 1] for each slice."""
        return rand((len(images), 1, 1, 1))

    def smooth() -> Tensor:
        """One smooth field in [0, 1] for each slice."""
        field = rand((len(images), 1, 5, 5))
        return F.interpolate(field, size=images.shape[2:], mode="bilinear", align_corners=True)

    reach = math.ceil(3 * training.blur)
    soft, sharp = (_blurred(images, share() * training.blur, reach) for _ in range(2))
    images = torch.lerp(sharp, soft, smooth())  # a decoder is surer of some edges than of others
    haze = smooth() * share() * training.background
    noise = torch.randn(images.shape, generator=generator, device=images.device)
    noise = noise * share() * training.noise
    return (images + haze * (1 - images) + noise).clamp(0, 1)


def _blurred(images: Tensor, sigma: Tensor, reach: int) -> Tensor:
    """Blurs images (N, 1, H, W), each by a Gaussian with its own standard deviation (N, 1, 1, 1).

    MONAI's Gaussian filters take one standard deviation for a whole batch.
    """
    offset = torch.arange(-reach, reach + 1, device=images.device)
    kernel = torch.exp(-0.5 * (offset / sigma.clamp_min(0.1)) ** 2)
    kernel = kernel / kernel.sum(-1, keepdim=True)
    flat = images.transpose(0, 1)  # each slice becomes a channel with a kernel of its own
    flat = F.conv2d(flat, kernel, padding=(0, reach), groups=len(images))
    flat = F.conv2d(flat, kernel.transpose(2, 3), padding=(reach, 0), groups=len(images))
    return flat.transpose(0, 1)
