"""Fills shapes and brightness of a network from masks, before the first step."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ..attributes import drawn_by, is_size
from ..data.store import Scale, SliceDataset, over_slices
from ..models.brightness import brightness_of
from ..models.edges import fit_edges
from ..models.shapes import (
    LAYERS,
    SHARPNESS,
    ShapeModel,
    enlarged,
    fit_shapes,
    shape_model_of,
    signed_distances,
)
from ..models.vae import VAE
from ..schema import Keys
from .augmentation import AttributeTargets

MOST = 2000
"""Slices that shapes are fitted to, basal ones before others."""

EDGES = 48
"""Basal slices that edges are fitted to, fewer of stacks: six numbers need no more."""

DARKEST = 1e-4
"""Brightness that a texture begins with at least: hardly any step makes it brighter, as nothing is
beside a masked heart, where .005 costs a fifth of SSIM."""

AT_ONCE = 64


def begin_with_shapes(network: VAE, train: SliceDataset, targets: AttributeTargets) -> None:
    """Fits shapes and brightness, and begins with flat layers, as bright as they are on average.

    Args:
        network: Changed in place; one without shapes stays as it is.
        train: Training slices with masks.
        targets: Their attributes, which the first codes are trained on.
    """
    model = shape_model_of(network)
    if model is None:
        return
    basal = train.is_basal
    rows = np.sort(np.argsort(~basal, kind="stable")[:MOST])
    found, logits = [], []
    bright, pixels = torch.zeros(network.drawn), torch.zeros(network.drawn)
    for some in np.array_split(rows, -(-len(rows) // AT_ONCE)):
        batch = train.read(some)
        image, label = batch[Keys.IMAGE], batch[Keys.LABEL]
        found.append(signed_distances(label).flatten(1))
        logits.append(brightness_of(image.float(), label))
        of = torch.stack([label == part for part in range(LAYERS)], dim=2).float()
        bright += (of * image[:, :, None]).sum(dim=(0, 3, 4)).flatten()
        pixels += of.sum(dim=(0, 3, 4)).flatten()
    distances, attributes = torch.cat(found), targets.values[rows]
    fitted = fit_shapes(distances.numpy(), attributes, basal[rows], network.shapes)
    model.fill(fitted)
    known = distances[basal[rows]].view(-1, *model.mean.shape).to(model.mean)
    _know_sizes(model, known, train.scale, targets)
    _know_edges(model, known, train, rows[basal[rows]])
    _know_brightness(network, torch.cat(logits).numpy(), attributes, basal[rows])
    _begin_flat(network, bright / pixels.clamp_min(1))


def _know_sizes(
    model: ShapeModel, distances: Tensor, scale: Scale, targets: AttributeTargets
) -> None:
    """Tells the model which codes are sizes, and how those that it measures quickly, in distances
    (N, 3 C, H / 4, W / 4), go along with those of the layers that it cuts out, in units of the
    code. A size that a ratio decides about, see `drawn_by`, is left to the line."""
    summed = over_slices(torch.eye(len(distances[0])), scale)  # of each channel at each phase
    parts = [model.cut(some)[:, :, 1:].sum(dim=(3, 4)).flatten(1) for some in distances.split(8)]
    drawn = over_slices(torch.cat(parts), scale).cpu().double().numpy() * scale.pixel
    for column, k in drawn_by(targets.names, scale.unit).items():
        if not is_size(targets.names[k], scale.unit):
            continue
        model.size[k] = summed[:, column]
        seen = model.sizes(distances)[:, k].cpu().double().numpy()
        codes = (drawn[:, column] - targets.mean[k]) / targets.deviation[k]
        slope, start = np.polyfit(codes, seen, 1)
        model.size[k] /= slope
        model.offset[k] = -start / slope


def _know_edges(
    model: ShapeModel, distances: Tensor, train: SliceDataset, rows: np.ndarray
) -> None:
    """Tells the model where, beside outlines, slices change their brightness, from the distances of
    some rows (N, 3 C, H / 4, W / 4)."""
    count = max(4, EDGES // model.channels)
    some = np.unique(np.linspace(0, len(rows) - 1, count).astype(int))
    images = train.read(rows[some])[Keys.IMAGE].to(distances)
    edge, steepness = fit_edges(enlarged(distances[some], model.bilinear), images, SHARPNESS)
    model.edge.copy_(edge[:, None, None])
    model.steepness.copy_(steepness[:, None, None])


def _know_brightness(
    network: VAE, logits: np.ndarray, attributes: np.ndarray, scored: np.ndarray
) -> None:
    """Fits the brightness of structures, (N, 3 C), as shapes are; slices that lack one are left out
    of it."""
    if (model := network.brightness_model) is None:
        return
    whole = np.isfinite(logits).all(axis=1)
    count = model.own.stop - model.own.start
    model.fill(fit_shapes(logits[whole], attributes[whole], scored[whole], count))


def _begin_flat(network: VAE, brightness: Tensor) -> None:
    """Sets the last layer of the decoder so that each texture is of one brightness."""
    kinds = (nn.Conv2d, nn.ConvTranspose2d)
    *_, last = (layer for layer in network.decoder.modules() if isinstance(layer, kinds))
    level = brightness.clamp(DARKEST, 1 - DARKEST)
    with torch.no_grad():
        last.get_parameter("weight").zero_()
        last.get_parameter("bias").copy_(level.logit() if network.output == "sigmoid" else level)
