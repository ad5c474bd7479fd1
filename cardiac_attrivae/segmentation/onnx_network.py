"""Segmenters of other programs, nnU-Net for example: an ONNX file with a small YAML beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..runtime.provenance import require_packages
from ..runtime.validation import Rule, build, number, one_of, option, refuse
from ..runtime.yaml_files import read_yaml
from ..schema import HEART, STRUCTURES, DataError


def _labels(values: Any, key: str) -> dict[str, int]:
    channels = list(values.values()) if isinstance(values, dict) else []
    whole = all(type(channel) is int and channel >= 0 for channel in channels)
    if not (whole and set(values or ()) == {*STRUCTURES} and len(set(channels)) == len(HEART)):
        refuse(
            key, values, "a channel of its own for each of LV, MYO, RV, as {LV: 3, MYO: 2, RV: 1}"
        )
    return dict(values)


CONTEXTS = tuple(range(1, 16, 2))
"""Slices that a network may see at once: as many on either side."""


@dataclass(frozen=True)
class OnnxSettings:
    """What FILE.yaml says of FILE.onnx."""

    spacing_mm: float = option(rule=number(0.1, 10))  # side of a pixel that the network expects
    # pixels along a side of its input, a multiple of 16
    size: int = option(rule=number(32, 1024, whole=True))
    # structure -> its channel in the output; all other channels are background
    labels: dict[str, int] = option(read=_labels)
    # slices in the channels of the input, the one to outline in the middle
    context: int = option(1, Rule("an odd number from 1 to 15", lambda value: value in CONTEXTS))
    # ``unit``: percentiles 1 and 99 of the stack are 0 and 1; ``zscore``: mean 0 and deviation 1 in
    # each input
    normalisation: str = option("unit", one_of("unit", "zscore"))


class OnnxNetwork:
    """Runs an ONNX file as a network of `ScanSegmenter`: from (N, context, size, size) float32 to
    logits or probabilities, (N, channels, size, size), as the YAML beside it says."""

    def __init__(self, file: Path, settings: OnnxSettings) -> None:
        require_packages("an ONNX segmenter", "onnx", ["onnxruntime"])
        import onnxruntime

        try:
            self.session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises errors of its own kinds
            raise DataError(
                f"{file} cannot be used: {str(error)[:200]}. Export the network again, with an "
                "opset that onnxruntime knows"
            ) from None
        self.settings, self.file, self.beside = settings, file, file.with_suffix(".yaml").name
        self.input = self.session.get_inputs()[0].name

    def __call__(self, images: Tensor) -> Tensor:
        """Turns slices in [0, 1], (N, context, H, W), into log probabilities, (N, 4, H, W)."""
        if self.settings.normalisation == "zscore":
            deviation, mean = torch.std_mean(images, dim=(1, 2, 3), keepdim=True)
            images = (images - mean) / (deviation + 1e-5)
        try:
            (found, *_) = self.session.run(None, {self.input: images.numpy().astype(np.float32)})
        except Exception as error:  # as above: another size or number of channels
            raise DataError(
                f"{self.file} refuses its input {tuple(images.shape)}: {str(error)[:200]}. Set "
                f"size and context in {self.beside} to what it was trained with"
            ) from None
        fields = torch.from_numpy(np.asarray(found, dtype=np.float32))
        most = max(self.settings.labels.values())
        if fields.ndim != 4 or fields.shape[2:] != images.shape[2:] or fields.shape[1] <= most:
            raise DataError(
                f"{self.file} gives {tuple(fields.shape)}; expected (N, {most + 1} or more, "
                f"{images.shape[2]}, {images.shape[3]}), as size and labels in "
                f"{self.beside} say"
            )
        if not fields.isfinite().all():
            raise DataError(
                f"{self.file} gives NaN or infinite values; export it in float32, and set the "
                f"normalisation in {self.beside}: unit or zscore"
            )
        shares = fields if _are_shares(fields) else fields.softmax(1)
        heart = shares[:, [self.settings.labels[structure.name] for structure in HEART]]
        return torch.cat([1 - heart.sum(1, keepdim=True), heart], 1).clamp(min=1e-6).log()


def _are_shares(fields: Tensor) -> bool:
    """Tells probabilities from logits: they are positive and their sum is 1."""
    return bool((fields >= 0).all()) and torch.allclose(fields.sum(1), torch.ones(()), atol=1e-3)


def read_onnx(file: Path) -> OnnxNetwork:
    """Opens FILE.onnx with FILE.yaml beside it."""
    beside = file.with_suffix(".yaml")
    for path in (file, beside):
        if not path.is_file():
            raise DataError(
                f"{path} is missing; expected a network and, beside it, {beside.name} with "
                "spacing_mm, size and labels (docs/evidence/segmentation.md)"
            )
    try:
        settings = build(OnnxSettings, read_yaml(beside.read_bytes()))
    except ValueError as error:
        raise DataError(f"{beside}: {error}") from None
    return OnnxNetwork(file, settings)
