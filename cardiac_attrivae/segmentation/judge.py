"""Measures hearts in pictures: a small U-Net that is trained on a store's own slices and masks.

A decoded slice has no mask. To know whether the heart that a model draws grows with its dimension,
LV, myocardium and RV are segmented in it and their areas counted. The Dice of the U-Net on patients
that it was not trained on is kept with it.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..attributes import AREAS
from ..data.loader import DeviceLoader
from ..data.store import SliceDataset
from ..data.store_place import unfinished
from ..metrics.images import dice
from ..models.most_likely import most_likely
from ..runtime.files import remove_leftovers
from ..runtime.folders import in_use
from ..runtime.progress import Progress
from ..runtime.weights import Facts, read_weights, write_weights
from ..schema import STRUCTURES, DataError, Keys
from ..training.augmentation import each_phase
from .judge_training import Training, augmentation_facts, bar, build, train_network

FORMAT = 1
"""Format of the cached file; counted up when the network or its training changes."""

KIND = "residual UNet"
"""Architecture of what measures; guides have another one, see `guide`."""

CHUNK = 16
"""Slices that are segmented at a time: on a CPU their layers stay in its cache, 64 take 1.7 times
as long. Labels do not depend on it."""

UNSEEN = 5
"""Patients of val and test that are enough to score on."""


@dataclass(frozen=True)
class Segmenter:
    """A trained network and what is known about it."""

    network: nn.Module  # in eval mode; (N, 1, H, W) to logits of background, LV, myocardium, RV
    # mean Dice of each structure, over basal slices of patients it was not trained on
    dice: dict[str, float]
    patients: int  # number of those patients

    def __call__(self, images: Tensor) -> Tensor:
        """Labels images in [0, 1], (N, C, H, W), each phase on its own: canonical labels, uint8, on
        their device."""
        device = next(self.network.parameters()).device
        with torch.no_grad():
            chunks = each_phase(images).split(CHUNK)
            logits = [self.network(chunk.float().to(device)) for chunk in chunks]
        labels = torch.cat([most_likely(chunk) for chunk in logits])
        return labels.to(images.device, torch.uint8).view_as(images)


def scored(network: nn.Module, unseen: SliceDataset) -> Segmenter:
    """Returns the segmenter of a network, with its Dice on slices that it was not trained on."""
    segmenter = Segmenter(network, {}, len(unseen))
    batches = DeviceLoader(unseen, unseen.attributes(AREAS), 64, next(network.parameters()).device)
    found = [dice(segmenter(batch[Keys.IMAGE]).cpu(), batch[Keys.LABEL].cpu()) for batch in batches]
    means = np.nanmean(np.concatenate(found), axis=0).tolist()
    return replace(segmenter, dice=dict(zip(STRUCTURES, means, strict=True)))


def cache_of(store: SliceDataset, otherwise: Path) -> Path:
    """Returns the folder that keeps the segmenters of a store: inside it, if it is writable, else
    inside another folder, or where both may only be read, as a lab shares them, in the user's own
    cache."""
    for folder in (store.folder, otherwise):
        if os.access(folder, os.W_OK):
            return folder / "segmenters"
    own = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    return (own / "cardiac-attrivae" if own.is_absolute() else otherwise) / "segmenters"


@contextmanager
def preparing(store: SliceDataset, cache: Path) -> Iterator[None]:
    """Keeps a store, or the run that holds its cache, from being replaced while the block trains.

    Raises:
        DataError: If the store is being replaced by another process.
    """
    cache.mkdir(parents=True, exist_ok=True)
    writer = unfinished(store.folder.resolve()) if cache.parent == store.folder else None
    try:
        with in_use(cache, writer, store.folder):
            yield
    finally:
        with suppress(OSError):  # nothing was kept
            cache.rmdir()


def segmenters_for(
    store: SliceDataset,
    cache: Path,
    halves: Sequence[int | None] = (None,),
    *,
    device: torch.device | str = "cpu",
    seed: int = 0,
    training: Training | None = None,
    tell: Callable[[str], None] = lambda message: None,
    progress: Progress = bar,
) -> list[Segmenter]:
    """Reads segmenters of a store from the cache; missing ones are trained and kept there.

    They are trained on the patients of the train split and scored on those of val and test. If the
    latter are fewer than five, a fifth of the training patients is set aside and scored on instead.
    A call that is interrupted goes on from where it was, see `train_network`.

    Args:
        store: Slices and masks to train on.
        cache: Folder to keep them in, see `cache_of`.
        halves: One segmenter for each entry: None trains on all training patients, 0 and 1 on
            every second one. The patients of the two halves differ, so that one segmenter can
            measure what the other one aimed at.
        device: Where to train and to segment.
        seed: Seed of weights, order and augmentation.
        training: How to train; None is `Training()`.
        tell: Called with one message before the minutes of training begin.
        progress: See `Progress`.

    Raises:
        DataError: If the store has too few patients to train on.
    """
    training = training or Training()
    files = {half: _file(store, cache, half, seed, training) for half in halves}
    ready = {file: found for file in files.values() if (found := _read(file, device))}
    missing = {}
    for half, file in files.items():
        if file not in ready:
            missing[file] = patients_of(store, seed, half)
    if missing:
        many = "a segmenter" if len(missing) == 1 else f"{len(missing)} segmenters"
        tell(
            f"training {many} of {store.name}, once for all commands, to measure drawn hearts: "
            f"about {2 * len(missing)} minutes on a CPU. If it is interrupted, the next call "
            "goes on"
        )
        with preparing(store, cache):
            ready |= _prepared(missing, seed, device, training, progress)
    return [ready[files[half]] for half in halves]


def _prepared(
    missing: Mapping[Path, tuple[SliceDataset, SliceDataset]],
    seed: int,
    device: torch.device | str,
    training: Training,
    progress: Progress,
) -> dict[Path, Segmenter]:
    """Trains segmenters and keeps them in their files; see `patients_of` for their slices."""
    ready, total = {}, len(missing) * training.steps
    steps = iter(progress(range(total), total))  # one bar for all
    for file, (train, unseen) in missing.items():
        checkpoint = file.with_suffix(".checkpoint")
        network = train_network(
            train, seed=seed, device=device, training=training, checkpoint=checkpoint,
            progress=lambda batches, _: (b for b, _ in zip(batches, steps, strict=False)),
        )  # fmt: skip
        found = ready[file] = scored(network, unseen.basal())
        # another process may train the same one: the last file stays, and has the same content
        about = {"dice": found.dice, "patients": found.patients, "fingerprint": file.stem}
        write_weights(file, network.state_dict(), about)
        checkpoint.unlink(missing_ok=True)
        remove_leftovers(file.parent)
    next(steps, None)  # a bar closes when it is asked for more
    return ready


def _file(
    store: SliceDataset, cache: Path, half: int | None, seed: int, training: Training
) -> Path:
    """Returns the file of a segmenter: its name is the fingerprint of all that it depends on."""
    content = store.info["content_hash"]
    recipe = [FORMAT, content, seed, half, asdict(training), augmentation_facts()]
    fingerprint = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()
    return Path(cache) / f"segmenter_{fingerprint[:16]}.safetensors"


def patients_of(
    store: SliceDataset, seed: int, half: int | None = None
) -> tuple[SliceDataset, SliceDataset]:
    """Returns the slices of a store to train on, and those of other patients to score on, who are
    chosen by the seed; ``half`` is as for `segmenters_for`. Refuses a store with too few patients
    to train on."""
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


def read_cached(file: Path, network: nn.Module, needed: Collection[str] = ()) -> Facts | None:
    """Reads the weights of a cached file into a network, puts it into eval mode, and returns what
    is known about it, with the ``needed`` names; None if there is no file, or one that was damaged
    or exchanged, as a warning says."""
    if not file.is_file():
        return None
    try:
        weights, about = read_weights(file)
        if about.get("fingerprint", file.stem) != file.stem or not {*needed} <= about.keys():
            raise DataError(f"{file} is a segmenter of another store or recipe")
        network.eval().load_state_dict(weights)
    except DataError as error:
        reason, _, _ = str(error).partition("; ")
    except (RuntimeError, TypeError):
        reason = f"{file} holds the weights of another network"
    else:
        return about
    warnings.warn(f"{reason}; it is not used", stacklevel=3)
    return None


def _read(file: Path, device: torch.device | str) -> Segmenter | None:
    network = build(0, device)
    about = read_cached(file, network, ("dice", "patients"))
    return None if about is None else Segmenter(network, about["dice"], about["patients"])


def read_judge(file: Path, device: torch.device | str = "cpu") -> Segmenter:
    """Reads a segmenter that is shipped with a model; refuses a file that is missing or damaged."""
    found = _read(file, device)
    if found is None:
        raise DataError(f"{file} is missing or damaged; install the package again")
    return found
