"""Measures hearts in pictures: a small U-Net that a store's own slices and masks teach.

A decoded slice has no mask. To know whether the heart that a model draws grows with its dimension,
LV, myocardium and RV are segmented in it and their areas counted. The U-Net is trained on slices
that are deformed, relit and then made to look decoded: blurred, with a soft rim and a faint
background. Its Dice on patients it was not trained on is kept with it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from monai.losses import DiceCELoss
from monai.metrics import compute_dice
from monai.networks.nets import UNet
from torch import Generator, Tensor, nn

from ..attributes import AREAS
from ..data.loader import DeviceLoader
from ..data.store import SliceDataset
from ..runtime.files import remove_leftovers
from ..runtime.weights import read_weights, write_weights
from ..schema import HEART, DataError, Keys
from ..training.augmentation import (
    AttributeTargets,
    Augmentation,
    Augmenter,
    prepared,
    structure_masks,
)

FORMAT = 1
"""Of the cached file; counted up when the network or its training changes."""

UNSEEN = 5
"""Patients of val and test that are enough to score on."""

AUGMENTATION = Augmentation(
    rotation=20, shift=5, zoom=0.2, stretch=0.1, cavity=0.3, wall=0.4, elastic=2,
    blood=0.2, muscle=0.1, contrast=0.4, bias=0.2, noise=0.05,
)  # fmt: skip
"""Wider than what models are trained with: what they draw at three deviations is measured too."""


@dataclass(frozen=True)
class Training:
    """How a segmenter is trained.

    Attributes:
        steps: Batches.
        batch_size: Slices of a batch.
        basal_weight: How often basal slices are drawn relative to others: models decode those.
        lr: Highest rate of one cycle: up over three tenths of the steps, then down to 0.
        blur, background, noise: Most that a decoded slice may have of each, uniform from 0:
            deviation of a Gaussian in pixels, brightness outside the heart, deviation of noise.
    """

    steps: int = 500
    batch_size: int = 16
    basal_weight: float = 3.0
    lr: float = 1e-2
    blur: float = 3.0
    background: float = 0.08
    noise: float = 0.03


@dataclass(frozen=True)
class Segmenter:
    """A trained network and what is known about it.

    Attributes:
        network: In eval mode; (N, 1, H, W) to logits of background, LV, myocardium, RV.
        dice: Mean per structure, over basal slices of patients it was not trained on.
        patients: How many those were.
    """

    network: nn.Module
    dice: dict[str, float]
    patients: int

    def __call__(self, images: Tensor) -> Tensor:
        """Canonical labels, uint8, of images in [0, 1], both (N, 1, H, W), on their device."""
        device = next(self.network.parameters()).device
        with torch.no_grad():
            logits = [self.network(chunk.float().to(device)) for chunk in images.split(64)]
        labels = torch.cat([chunk.argmax(1, keepdim=True) for chunk in logits])
        return labels.to(images.device, torch.uint8)


def areas(labels: Tensor | np.ndarray, pixel_cm2: float) -> np.ndarray:
    """Areas of LV, myocardium and RV in cm^2, (N, 3), of canonical labels (N, 1, H, W)."""
    return structure_masks(torch.as_tensor(labels)).sum((2, 3)).double().cpu().numpy() * pixel_cm2


def dice(predicted: Tensor, labels: Tensor) -> np.ndarray:
    """Dice of LV, myocardium and RV, (N, 3); nan where neither of the two shows a structure.

    Args:
        predicted: Canonical labels, (N, 1, H, W).
        labels: What they should be.
    """
    found, wanted = structure_masks(predicted), structure_masks(labels)
    scores = compute_dice(found, wanted, ignore_empty=False)
    scores[(found + wanted).sum((2, 3)) == 0] = torch.nan
    return scores.cpu().numpy()


def as_decoded(images: Tensor, training: Training, generator: Generator) -> Tensor:
    """Slices (N, 1, H, W) as a decoder would draw them: blurred, noisy, nowhere quite black."""
    n, options = len(images), {"generator": generator, "device": images.device}

    def share() -> Tensor:
        return torch.rand(n, 1, 1, 1, **options)

    def smooth() -> Tensor:
        """A smooth field in [0, 1]."""
        field = torch.rand(n, 1, 5, 5, **options)
        return F.interpolate(field, size=images.shape[2:], mode="bilinear", align_corners=True)

    reach = math.ceil(3 * training.blur)
    soft, sharp = (_blurred(images, share() * training.blur, reach) for _ in range(2))
    images = torch.lerp(sharp, soft, smooth())  # a decoder is surer of some edges than of others
    haze = smooth() * share() * training.background
    noise = torch.randn(images.shape, **options) * share() * training.noise
    return (images + haze * (1 - images) + noise).clamp(0, 1)


def _blurred(images: Tensor, sigma: Tensor, reach: int) -> Tensor:
    """Gaussian blur of images (N, 1, H, W), each by its own standard deviation (N, 1, 1, 1)."""
    offset = torch.arange(-reach, reach + 1, device=images.device)
    kernel = torch.exp(-0.5 * (offset / sigma.clamp_min(0.1)) ** 2)
    kernel = kernel / kernel.sum(-1, keepdim=True)
    flat = images.transpose(0, 1)  # a slice is a channel: each has its own kernel
    flat = F.conv2d(flat, kernel, padding=(0, reach), groups=len(images))
    flat = F.conv2d(flat, kernel.transpose(2, 3), padding=(reach, 0), groups=len(images))
    return flat.transpose(0, 1)


def train_segmenter(
    train: SliceDataset,
    unseen: SliceDataset,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    training: Training | None = None,
) -> Segmenter:
    """Trains on some patients and scores on others, with the same result each time on a CPU.

    Args:
        train: Slices to learn from.
        unseen: Slices of other patients.
        seed: Of the first weights and of all that is drawn.
        device: Where.
        training: How; None is `Training()`.
    """
    training = training or Training()
    network = _build(seed).to(device, memory_format=torch.channels_last)
    generator = Generator(device).manual_seed(seed)
    augmenter = Augmenter(train, AttributeTargets(train, AREAS), AUGMENTATION, device)
    loader = DeviceLoader(
        train, train.attributes(AREAS), training.batch_size, device, generator,
        weights=np.where(train.is_basal, training.basal_weight, 1), batches=training.steps,
        prepare=prepared,
    )  # fmt: skip
    loss_function = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False)
    optimiser = torch.optim.AdamW(network.parameters(), training.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, training.lr, training.steps)
    network.train()
    for batch in loader:
        batch = augmenter(batch, generator)
        images = as_decoded(batch[Keys.IMAGE], training, generator)
        loss = loss_function(network(images), batch[Keys.LABEL])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    basal = unseen.basal()
    segmenter = Segmenter(network.eval(), {}, len(basal))
    batches = DeviceLoader(basal, basal.attributes(AREAS), 64, device)
    scored = [dice(segmenter(batch[Keys.IMAGE]), batch[Keys.LABEL]) for batch in batches]
    scores = np.nanmean(np.concatenate(scored), axis=0).tolist()
    return replace(segmenter, dice=dict(zip([part.name for part in HEART], scores, strict=True)))


def cache_of(store: SliceDataset, otherwise: Path) -> Path:
    """Folder that keeps the segmenters of a store: its own, if that may be written to."""
    return (store.folder if os.access(store.folder, os.W_OK) else otherwise) / "segmenters"


def segmenter_for(
    store: SliceDataset,
    cache: Path,
    *,
    device: torch.device | str = "cpu",
    seed: int = 0,
    half: int | None = None,
    training: Training | None = None,
    tell: Callable[[str], None] = lambda message: None,
) -> Segmenter:
    """The segmenter of a store: read from the cache, or trained and written there.

    Trained on the patients of the train split, scored on those of val and test. If the latter are
    fewer than five, a fifth of the training patients is set aside and scored on instead.

    Args:
        store: Whose slices and masks teach it.
        cache: Folder to keep it in, see `cache_of`.
        device: Where.
        seed: Of weights, order and augmentation.
        half: 0 or 1 for one that only every second training patient teaches; the patients of the
            two halves differ, so one can judge what the other one aimed at.
        training: None is `Training` as it stands.
        tell: Called with a message before the minutes of training begin.

    Raises:
        DataError: If the store has too few patients to train on.
    """
    training = training or Training()
    content = store.info["content_hash"]
    recipe = [FORMAT, content, seed, half, asdict(training), asdict(AUGMENTATION)]
    digest = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()
    file = Path(cache) / f"segmenter_{digest[:16]}.safetensors"
    if file.is_file():
        try:
            return _read(file, device)
        except (RuntimeError, KeyError, ValueError, TypeError):
            pass  # damaged: trained anew and written over
    tell(f"teaching a segmenter of {store.name}, once; two minutes on a CPU")
    train, unseen = _patients(store, seed, half)
    segmenter = train_segmenter(train, unseen, seed=seed, device=device, training=training)
    _write(segmenter, file)
    return segmenter


def _patients(
    store: SliceDataset, seed: int, half: int | None = None
) -> tuple[SliceDataset, SliceDataset]:
    """Slices to train on, and those of other patients."""
    cases, split = store.cases["case"], store.cases["split"]
    training = sorted(cases[split == "train"].unique())
    aside = cases[split != "train"].unique()
    if len(aside) < UNSEEN:
        order = np.random.default_rng(seed).permutation(training)
        aside = order[: max(1, len(order) // 5)]
    known = (split == "train") & ~cases.isin(aside)
    if half is not None:
        known &= cases.isin(sorted(cases[known].unique())[half::2])
    if cases[known].nunique() < 2:
        raise DataError(
            f"{store.name} has {len(training)} training patients; a segmenter needs at least 3"
        )
    return store.take(np.flatnonzero(known)), store.take(np.flatnonzero(cases.isin(aside)))


def _build(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        filters = (16, 32, 64, 128, 128)
        return UNet(2, 1, len(HEART) + 1, filters, (2, 2, 2, 2), num_res_units=2, norm="batch")


def _write(segmenter: Segmenter, file: Path) -> None:
    about = {"dice": segmenter.dice, "patients": segmenter.patients}
    # others may train the same one: the last one stays, and is the same
    write_weights(file, segmenter.network.state_dict(), about)
    remove_leftovers(file.parent)


def _read(file: Path, device: torch.device | str) -> Segmenter:
    weights, about = read_weights(file)
    network = _build(0)
    network.load_state_dict(weights)
    network.to(device, memory_format=torch.channels_last)
    return Segmenter(network.eval(), about["dice"], about["patients"])
