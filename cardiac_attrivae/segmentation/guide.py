"""Trains the guide: the segmenter that a training looks through at what it draws, see `Guidance`.

A guide must not measure what was optimised for it. So it differs from the segmenters that measure,
see `judge`, in architecture and weights, and it is trained on every second training patient of a
run, so that a segmenter of the others has nothing in common with it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.store import SliceDataset
from ..models.guide_network import SMALLEST, build_guide
from ..runtime.files import remove_leftovers
from ..runtime.progress import Progress
from ..runtime.weights import weights_digest, write_weights
from ..schema import DataError
from ..training.guidance import Guide
from .judge import Segmenter, cache_of, preparing, read_cached
from .judge_training import Training, augmentation_facts, bar, train_network

FORMAT = 1
"""Format of the cached file; counted up when the network or its training changes."""

KIND = "BasicUNet"
"""Architecture of guides; what measures has another one, see `judge`."""


def train_guide(
    train: SliceDataset,
    output: Path,
    device: torch.device,
    *,
    training: Training | None = None,
    tell: Callable[[str], None] = lambda message: None,
    progress: Progress = bar,
) -> Guide:
    """Reads the guide of a run from the cache of its store; a missing one is trained and kept.

    Args:
        train: Training slices of the run; the guide is trained on every second patient.
        output: Folder of the run, which keeps the guide if the store's folder cannot be written.
        device: Where to train.
        training: How to train; None is `Training()`.
        tell: Called with one message before the minutes of training begin.
        progress: See `Progress`.

    Raises:
        DataError: If there are too few training patients, or the slices are too small.
    """
    patients = sorted(train.cases["case"].unique())[::2]
    if len(patients) < 2:
        raise DataError(
            f"{train.name} has too few training patients for a guide, which is trained on every "
            "second of them: expected at least 3. Set objective.control and objective.anatomy to "
            "0, and network.arguments.outlines to false"
        )
    if train.image_size < SMALLEST:
        raise DataError(
            f"{train.name} has slices of {train.image_size} pixels; a guide needs {SMALLEST} or "
            "more. Set objective.control and objective.anatomy to 0, and "
            "network.arguments.outlines to false"
        )
    half = train.take(np.flatnonzero(train.cases["case"].isin(patients)))
    training, content = training or Training(), train.info["content_hash"]
    recipe = [FORMAT, KIND, content, patients, asdict(training), augmentation_facts()]
    name = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:16]
    file = cache_of(train, output) / f"segmenter_guide_{name}.safetensors"
    network = build_guide(0, device)
    if read_cached(file, network) is None:
        tell(
            f"training the guide of {train.name}, once: training looks at drawn hearts through "
            "it. About two minutes on a CPU. If it is interrupted, the next call goes on"
        )
        checkpoint = file.with_suffix(".checkpoint")
        with preparing(train, file.parent):
            network = train_network(
                half, device=device, training=training, checkpoint=checkpoint, progress=progress,
                build=build_guide,
            )  # fmt: skip
            write_weights(file, network.state_dict(), {"fingerprint": file.stem})
            checkpoint.unlink(missing_ok=True)
            remove_leftovers(file.parent)
    return Guide(network, KIND, half.fingerprints())


def refuse_guide(about: Mapping[str, Any], judge: Segmenter) -> None:
    """Refuses a segmenter that a model, or its refiner, was trained through: it would find what it
    asked for.

    Args:
        about: Facts of the model's run.
        judge: What shall measure the model.

    Raises:
        DataError: If they are the same, by the fingerprint of their weights.
    """
    guides = [(about.get("guide") or {}).get("sha256")]
    guides += [(about.get("refiner") or {}).get("guide_sha256")]
    if weights_digest(judge.network.state_dict()) in guides:
        raise DataError(
            "the segmenter that shall measure the model is the guide that it was trained through; "
            "measure it with another one"
        )
