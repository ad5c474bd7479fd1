"""Fills the shape model of a network from masks of training patients, before the first step."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ..attributes import column_of, is_size
from ..data.store import Scale, SliceDataset, over_slices
from ..models.shapes import LAYERS, ShapeModel, fit_shapes, signed_distances
from ..models.vae import VAE
from ..schema import Keys
from .augmentation import AttributeTargets

MOST = 2000
"""Slices that shapes are fitted to, if there are not more basal ones, which come first."""

AT_ONCE = 64

TURNS = (1.0, 2.0)
"""Deviations by which attributes are turned either way, to see what is drawn."""

MOST_TURNED = 256
"""Hearts that are turned."""


def begin_with_shapes(network: VAE, train: SliceDataset, targets: AttributeTargets) -> None:
    """Fits the shape model and begins with flat layers, each as bright as it is on average.

    Args:
        network: Changed in place; one without shapes stays as it is.
        train: Training slices with masks.
        targets: Their attributes, which the first codes are trained on.
    """
    model = getattr(network, "shape_model", None)  # networks of other packages have none
    if model is None:
        return
    basal = train.is_basal
    first = np.argsort(~basal, kind="stable")  # basal ones before others
    rows = np.sort(first[: max(MOST, basal.sum())])
    found, bright, pixels = [], torch.zeros(network.drawn), torch.zeros(network.drawn)
    for some in np.array_split(rows, -(-len(rows) // AT_ONCE)):
        batch = train.read(some)
        image, label = batch[Keys.IMAGE], batch[Keys.LABEL]
        found.append(signed_distances(label).flatten(1))
        of = torch.stack([label == part for part in range(LAYERS)], dim=2).float()
        bright += (of * image[:, :, None]).sum(dim=(0, 3, 4)).flatten()
        pixels += of.sum(dim=(0, 3, 4)).flatten()
    attributes = targets.values[rows]
    fitted = fit_shapes(torch.cat(found).numpy(), attributes, basal[rows], network.shapes)
    model.fill(fitted, attributes.shape[1])
    distances = torch.cat(found)[basal[rows]][:MOST_TURNED]
    _straighten(model, model.read_off(distances.to(model.mean)), train.scale, targets)
    _begin_flat(network, bright / pixels.clamp_min(1))


def _straighten(model: ShapeModel, codes: Tensor, scale: Scale, targets: AttributeTargets) -> None:
    """Lets a unit of each attribute that is a size draw a unit of it and nothing of the others.

    Areas are not quite linear in distances. So each such dimension is turned about codes (N, D),
    and the inverse of what is drawn, (K, K), is put before the dimensions.
    """
    sizes = {
        k: column_of(name) for k, name in enumerate(targets.names) if is_size(name, scale.unit)
    }
    if not sizes:
        return
    dimensions, columns = [*sizes], [*sizes.values()]
    unit = torch.as_tensor(targets.deviation[dimensions] / scale.pixel).to(codes)
    turns = torch.eye(codes.shape[1]).to(codes)[dimensions]

    def drawn(turn: Tensor) -> Tensor:
        pixels = model.layers(codes + turn)[:, :, 1:].sum(dim=(3, 4)).flatten(1)
        return (over_slices(pixels, scale)[:, columns] / unit).mean(dim=0)

    effect = torch.stack(
        [sum((drawn(k * turn) - drawn(-k * turn)) / (2 * k) for k in TURNS) for turn in turns]
    ) / len(TURNS)
    held = model.basis[dimensions].flatten(1)
    model.basis[dimensions] = torch.linalg.solve(effect, held).view(len(sizes), *model.mean.shape)


def _begin_flat(network: VAE, brightness: Tensor) -> None:
    """Sets the last layer of the decoder so that each texture is of one brightness."""
    layers = [
        m for m in network.decoder.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))
    ]
    level = brightness.clamp(0.005, 0.995)
    with torch.no_grad():
        nn.init.zeros_(layers[-1].weight)
        layers[-1].get_parameter("bias").copy_(
            torch.logit(level) if network.output == "sigmoid" else level
        )
