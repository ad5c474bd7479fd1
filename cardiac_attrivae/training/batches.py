"""Batches: how engines take them, and what they leave of them for handlers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Generator, Tensor

from ..data.categories import one_hot
from ..models.vae import VAE
from ..schema import Keys, VAEOutput

Batch = dict[str, Tensor]
Terms = dict[str, Tensor]


def as_batch(data: Any, device: torch.device | str | None) -> Batch:
    """Names the fields of a batch, and moves them to the device.

    Args:
        data: Tensors by their key, or (image,) or (image, attributes), (N, ...) each.
        device: Where the network is.

    Returns:
        The fields that there are, and ROW, which is -1 where it is unknown.

    Raises:
        ValueError: If it is neither, or there are no images.

    Example:
        >>> batch = as_batch([torch.zeros(8, 2)], "cpu")
        >>> {key.name: tuple(field.shape) for key, field in batch.items()}
        {'IMAGE': (8, 2), 'ROW': (8,)}
    """
    if isinstance(data, (list, tuple)) and len(data) in (1, 2):
        data = dict(zip((Keys.IMAGE, Keys.ATTRIBUTES), data, strict=False))
    if not (isinstance(data, Mapping) and isinstance(data.get(Keys.IMAGE), Tensor)):
        raise ValueError(
            f"a batch is {type(data).__name__}; expected a dictionary with '{Keys.IMAGE}', "
            "(image,) or (image, attributes), all tensors"
        )
    batch = {key: field.to(device) for key, field in data.items()}
    image = batch[Keys.IMAGE]
    batch.setdefault(Keys.ROW, torch.full((len(image),), -1, device=image.device))
    return batch


def conditions(network: VAE, cases: pd.DataFrame) -> dict[str, np.ndarray]:
    """What a conditional network is told of patients, by its key in a batch, see `one_hot`.

    Args:
        network: The network; of one without a condition nothing comes.
        cases: N rows of cases.csv.
    """
    categories = getattr(network, "categories", ())  # that of another package may not know any
    return {Keys.CONDITION: one_hot(cases, network.condition, categories)} if categories else {}


def draw_noise(network: VAE, image: Tensor, generator: Generator, draws: int = 1) -> Tensor:
    """Standard normal draws for the codes of a batch, (draws, N, D)."""
    shape = (draws, len(image), network.latent_size)
    return torch.randn(shape, generator=generator, device=image.device, dtype=image.dtype)


def iteration_output(batch: Batch, output: VAEOutput, terms: Terms) -> dict[str, Any]:
    """Collects what both engines leave for handlers, detached from the graph."""
    return {
        Keys.IMAGE: batch[Keys.IMAGE],
        Keys.ATTRIBUTES: batch.get(Keys.ATTRIBUTES),
        Keys.ROW: batch[Keys.ROW],
        Keys.RECONSTRUCTION: output.reconstruction.detach(),
        Keys.MU: output.mu.detach(),
        Keys.LOGVAR: output.logvar.detach(),
        Keys.LATENT: output.z.detach(),
        Keys.TERMS: {name: term.detach() for name, term in terms.items()},
    }
