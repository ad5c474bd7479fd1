"""Where the encoder looks when it computes the dimension of an attribute (Grad-CAM).

References:
    | Grad-CAM: visual explanations from deep networks (Selvaraju et al., 2017)
    | https://arxiv.org/abs/1610.02391
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from monai.visualize import GradCAM
from torch import Tensor, nn

from ..data.store import SliceDataset
from ..models.vae import VAE
from ..schema import HEART, Keys, Structure
from ..training.run import Run
from .passes import BATCH

FINEST = 8
"""Least pixels along a side of the map that is explained: 4 x 4 would show no structure."""


class _Mean(nn.Module):
    """A network whose outputs are the latent means, as Grad-CAM takes the scores of classes."""

    def __init__(self, network: VAE) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return self.network.encode(image)[0]


def last_map(network: VAE, image: Tensor) -> str | None:
    """Finds the last convolution of an encoder whose map of a slice, (1, C, H, W), has at least
    `FINEST` pixels a side, not counting those that see channels one by one; returns its name, or
    None if there is none, as in a network of linear layers."""
    names: list[str] = []

    def note(name: str, output: Tensor) -> None:
        if len(output) == len(image) and min(output.shape[2:]) >= FINEST:
            names.append(name)

    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: note(name, output))
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    with torch.no_grad():
        network.encode(image)
    for hook in hooks:
        hook.remove()
    return names[-1] if names else None


def attention(network: VAE, images: Tensor, dimension: int) -> np.ndarray:
    """Computes where slices (N, C, H, W) speak for a larger value of a latent dimension.

    Returns:
        Maps, (N, H, W), 0 or more, in units of nothing: compare places of one slice alone.

    Raises:
        ValueError: If the encoder has no convolution with a map of at least 8 pixels a side.
    """
    layer = last_map(network, images[:1])
    if layer is None:
        raise ValueError(f"the encoder has no convolution with a map of {FINEST} pixels a side")
    # MONAI's own postprocessing scales each map to [0, 1] and turns it upside down
    explain = GradCAM(_Mean(network), f"network.{layer}", postprocessing=lambda maps: maps)
    parts = [
        explain(part.clone().requires_grad_(), class_idx=dimension)[:, 0]
        for part in images.split(BATCH)
    ]
    network.zero_grad()
    return torch.cat(parts).detach().float().cpu().numpy()


def attention_of(
    run: Run, dataset: SliceDataset, dimensions: Mapping[str, int], device: torch.device
) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """Computes the attention to every attribute, and how much of it lies in each structure.

    Args:
        run: The model.
        dataset: N slices; there must be few, because all are kept.
        dimensions: Attribute -> dimension that was trained on it.
        device: Where to compute.

    Returns:
        Attribute -> maps, (N, H, W); and a row per attribute and structure, or ``outside`` of the
        heart: mean share of the attention, and of the pixels of the slice, that lie there. Slices
        without any attention do not count.
    """
    fields = dataset.read(range(len(dataset)))
    images, labels = fields[Keys.IMAGE].to(device), fields[Keys.LABEL][:, 0].numpy()
    places = {structure.name: labels == structure for structure in HEART}
    places["outside"] = labels == Structure.BACKGROUND
    maps, rows = {}, []
    for name, dimension in dimensions.items():
        maps[name] = attention(run.network, images, dimension)
        total = maps[name].sum(axis=(1, 2))
        known = total > 0
        for place, inside in places.items():
            share = (maps[name] * inside).sum(axis=(1, 2))[known] / total[known]
            rows.append(
                {"attribute": name, "place": place,
                 "attention": float(share.mean()) if known.any() else np.nan,
                 "pixels": float(inside.mean()), "patients": int(known.sum())}
            )  # fmt: skip
    return maps, pd.DataFrame(rows)
