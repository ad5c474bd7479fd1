"""Shapes in closed form: outlines that are a straight line in the code, and what they cut out.

A network that learns to draw from codes alone spends its training on where walls are. Masks of the
training patients say it: signed distances to their outlines give a linear model, as in active
shape models, whose first dimensions are attributes, and whose others are what attributes do not
say. One matrix reads a code off the outlines of a slice, another draws it as outlines; the decoder
makes what lies within.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..schema import HEART
from .edges import cut_out
from .precision import at_least_float32

LAYERS = 1 + len(HEART)
"""What a picture is cut into: the rest, LV, myocardium and RV."""

COARSE = 4
"""Pixels of a slice along a side of a pixel of distances and textures."""

SHARPNESS = 1.5
"""Steepness of an outline: the logit of being inside, for each pixel further inwards."""

ROUNDS = 5
"""How often a drawn size is compared with its code."""

TINY = 1e-6
"""Squared length that a shape has at least, for slices may have fewer than were asked for."""

FURTHEST = 3.0
"""Deviations that this may move a code, which asks for a size that no heart has."""


def signed_distances(labels: Tensor) -> Tensor:
    """Measures how far inside LV, epicardium (LV and myocardium together) and RV each place lies.

    A wall is thin, and coarse distances lose it; the disc that it surrounds and ends is kept.

    Args:
        labels: Canonical labels, (N, C, H, W); H = W, a multiple of 4.

    Returns:
        Pixels to the outline, below 0 outside and 0 on it, up to 5/32 of the image, of the three
        structures of each channel in turn; (N, 3 C, H / 4, W / 4). They are measured from pixel to
        pixel on blocks of 2 x 2 and averaged over 4 x 4.

    Example:
        >>> labels = torch.zeros(1, 1, 32, 32, dtype=torch.long)
        >>> labels[..., 8:24, 8:24] = 1  # LV
        >>> signed_distances(labels)[0, 0, 4, 2:6]  # 4 are the most at this size
        tensor([2., 4., 4., 2.])
    """
    n, channels, size, _ = labels.shape
    lv, myo, rv = (labels == part for part in HEART)
    discs = torch.stack([lv, lv | myo, rv], dim=2).float().flatten(0, 2)[:, None]
    inside = F.avg_pool2d(discs, 2)[:, 0] >= 0.5
    reach = size * 5 // 64
    found = _squared(inside, reach).sqrt() - _squared(~inside, reach).sqrt()
    found = 2 * (found + 0.5 - inside.float()).clamp(-reach, reach)
    found = F.avg_pool2d(found[:, None], 2)
    return found.view(n, len(HEART) * channels, size // COARSE, size // COARSE)


def _squared(inside: Tensor, reach: int) -> Tensor:
    """Squares of the distances to the nearest pixel that is not inside, (M, h, w); those further
    than ``reach`` are only known to be so. Shifted copies are faster than any sort."""
    found = torch.where(inside, torch.inf, 0.0)
    for axis, pad in ((1, (0, 0, reach, reach)), (2, (reach, reach, 0, 0))):
        wide, size = F.pad(found, pad, value=torch.inf), found.shape[axis]
        for k in range(2 * reach + 1):
            found = torch.minimum(found, wide.narrow(axis, k, size) + (k - reach) ** 2)
    return found


@dataclass(frozen=True)
class FittedShapes:
    """A linear model of P distances, whose codes are K attributes and S shapes."""

    mean: np.ndarray  # (P,)
    along: np.ndarray  # distances that a code of 1 adds, of each attribute, (K, P)
    shapes: np.ndarray  # the same of each shape, (S, P), orthogonal to one another
    read: np.ndarray  # what a distance adds to the code of each attribute, (K, P)


def fit_shapes(
    distances: np.ndarray, attributes: np.ndarray, scored: np.ndarray, count: int
) -> FittedShapes:
    r"""Fits a linear model of shapes in closed form.

    .. math:: d = \bar d + A a + V s

    A is the regression of distances on attributes; V are the principal components of what it
    leaves, so that no s says anything, in a straight line, of an attribute of the same slices.
    A code of 1 is a deviation of each. Codes are read the other way: attributes by a ridge
    regression on principal components, then

    .. math:: s = V^\top (d - \bar d - A a)

    Both maps are linear.

    Args:
        distances: Of N slices, (N, P).
        attributes: Of the same slices, standardised, (N, K); K may be 0.
        scored: Slices that means, regression and deviations are taken over, (N,) truth values: the
            basal ones, of which attributes are told. Components are of all slices.
        count: S; components that the slices do not have are 0.

    References:
        | Active shape models (Cootes et al., 1995), https://doi.org/10.1006/cviu.1995.1004
        | Of signed distances (Leventon, Grimson & Faugeras, 2000),
          https://doi.org/10.1109/CVPR.2000.855835

    Example:
        >>> area = np.linspace(-1, 1, 9)[:, None]
        >>> fitted = fit_shapes(5 + 2 * area, area, np.full(9, True), count=0)
        >>> fitted.mean.round(6), fitted.along.round(6), fitted.read.round(3)
        (array([5.]), array([[2.]]), array([[0.5]]))
    """
    from sklearn.linear_model import RidgeCV

    distances = np.asarray(distances, dtype=np.float64)
    k, pixels = attributes.shape[1], distances.shape[1]
    told = np.column_stack([np.ones(len(attributes)), attributes])
    line = np.linalg.lstsq(told[scored], distances[scored], rcond=None)[0]
    mean, along = line[0], line[1:]
    left = distances - told @ line
    components = np.zeros((count, pixels))
    found = np.linalg.svd(left, full_matrices=False)[2][:count] if count else components
    components[: len(found)] = found
    deviation = np.sqrt(np.mean((left[scored] @ components.T) ** 2, axis=0))

    reading = np.zeros((k, pixels))
    if k:
        principal = np.linalg.svd(distances - mean, full_matrices=False)[2][: 2 * (k + count)]
        seen = (distances - mean) @ principal.T
        ridge = RidgeCV(np.logspace(-4, 5, 19), fit_intercept=False).fit(seen, attributes)
        reading = ridge.coef_.reshape(k, -1) @ principal
    return FittedShapes(mean, along, components * deviation[:, None], reading)


class ShapeModel(nn.Module):
    """Reads codes off outlines, and draws codes as the layers of a picture; see `fit_shapes`.

    Areas are not linear in distances: an outline that moves by a pixel adds more to a large heart.
    So codes of sizes are not drawn as they are. What they would draw is measured, and the
    difference added, a few times: a heart is drawn as large as its code says, whatever its other
    codes are.

    The last dimensions are shapes, which an encoder leaves as they are read. The first ones are
    attributes, which it reads better than a line does, and those between have no shape.

    Nothing of it is learnt by steps: training fills in what was fitted.

    Args:
        latent_size: D.
        shapes: S, from 1 to D.
        channels: C.
        image_size: H = W.

    Attributes:
        mean: Distances of a code of 0, (3 C, H / 4, W / 4).
        basis: Distances that each dimension adds, (D, 3 C, H / 4, W / 4).
        read: What each distance adds to each dimension but shapes, (D - S, 3 C, H / 4, W / 4).
        size: What a pixel of LV, myocardium and RV in each channel adds to dimensions of sizes,
            (D, 3 C); 0 for others.
        offset: What they are without any, (D,).
        edge: Pixels from each outline inwards to where slices change their brightness, (3 C, 1, 1).
        steepness: How steep that edge is, as `SHARPNESS`, (3 C, 1, 1).
        bilinear, bicubic: Enlarge distances and textures, see `enlarged`; no weights.
    """

    mean: Tensor
    basis: Tensor
    read: Tensor
    size: Tensor
    offset: Tensor
    edge: Tensor
    steepness: Tensor
    bilinear: Tensor
    bicubic: Tensor

    def __init__(self, latent_size: int, shapes: int, channels: int, image_size: int) -> None:
        super().__init__()
        self.shapes, self.channels, self.image_size = shapes, channels, image_size
        size = (len(HEART) * channels, image_size // COARSE, image_size // COARSE)
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("basis", torch.zeros(latent_size, *size))
        self.register_buffer("read", torch.zeros(latent_size - shapes, *size))
        self.register_buffer("size", torch.zeros(latent_size, len(HEART) * channels))
        self.register_buffer("offset", torch.zeros(latent_size))
        self.register_buffer("edge", torch.zeros(size[0], 1, 1))
        self.register_buffer("steepness", torch.full((size[0], 1, 1), SHARPNESS))
        for mode in ("bilinear", "bicubic"):
            self.register_buffer(mode, enlarging(size[-1], mode), persistent=False)

    def fill(self, fitted: FittedShapes) -> None:
        """Takes over a fitted model; its attributes are the first codes."""
        known = len(fitted.read)
        for values in (self.basis, self.read, self.size, self.offset):
            values.zero_()
        for place, found in (
            (self.mean, fitted.mean),
            (self.basis[:known], fitted.along),
            (self.basis[-self.shapes :], fitted.shapes),
            (self.read[:known], fitted.read),
        ):
            place.copy_(torch.from_numpy(found).view_as(place))

    def codes(self, labels: Tensor) -> Tensor:
        """Reads codes (N, D) off canonical labels (N, C, H, W): attributes, then the shape of what
        they do not say."""
        left = (signed_distances(labels) - self.mean).flatten(1)
        others, shapes = self.basis.flatten(1).tensor_split((-self.shapes,))
        with torch.autocast(left.device.type, enabled=False):
            told = left @ self.read.flatten(1).T
            left = left - told @ others
            square = (shapes**2).sum(dim=1).clamp_min(TINY)
            return torch.cat([told, left @ shapes.T / square], dim=1)

    def distances(self, z: Tensor) -> Tensor:
        """Draws codes (N, D) as distances (N, 3 C, H / 4, W / 4), so large as they say."""
        basis, start = self.basis.flatten(1), self.mean.flatten()
        sized = (self.size != 0).any(dim=1)
        z = at_least_float32(z)
        with torch.autocast(z.device.type, enabled=False):
            code = z
            for _ in range(ROUNDS):
                drawn = (start + code @ basis).view(-1, *self.mean.shape)
                wrong = sized * (z - self.sizes(drawn))
                code = z + (code - z + wrong).clamp(-FURTHEST, FURTHEST)
            return (start + code @ basis).view(-1, *self.mean.shape)

    def sizes(self, distances: Tensor) -> Tensor:
        """Measures the codes of sizes, (N, D), in distances (N, 3 C, H / 4, W / 4): a place counts
        by the share of it that lies within the outline, were that straight."""
        inside = cut_out((distances / COARSE + 0.5).clamp(0, 1), self.channels)[:, :, 1:]
        pixels = COARSE**2 * inside.sum(dim=(3, 4)).flatten(1)
        return pixels @ self.size.T + self.offset

    def layers(self, z: Tensor) -> Tensor:
        """Draws codes (N, D) as layers, see `cut`."""
        return self.cut(self.distances(z))

    def cut(self, distances: Tensor) -> Tensor:
        """Tells from distances (N, 3 C, H / 4, W / 4) which share of each pixel is the rest, LV,
        myocardium and RV, (N, C, 4, H, W); the four are 1 together."""
        return cut_out(torch.sigmoid(SHARPNESS * enlarged(distances, self.bilinear)), self.channels)

    def painted(self, z: Tensor, textures: Tensor) -> Tensor:
        """Fills codes (N, D) with textures (N, 4 C, H, W) up to their edges: (N, C, H, W)."""
        depth = enlarged(self.distances(z), self.bilinear) - self.edge
        layers = cut_out(torch.sigmoid(self.steepness * depth), self.channels)
        return (layers * textures.unflatten(1, (self.channels, LAYERS))).sum(dim=2)


def shape_model_of(network: nn.Module) -> ShapeModel | None:
    """Returns the shape model of a network; None without one, as networks of other packages are.

    Example:
        >>> shape_model_of(nn.Linear(2, 1)) is None
        True
    """
    return getattr(network, "shape_model", None)


def enlarging(size: int, mode: str) -> Tensor:
    """Makes the matrix (4 M, M) that interpolates columns of M numbers, see `enlarged`.

    Example:
        >>> enlarging(1, "bilinear").T
        tensor([[1., 1., 1., 1.]])
    """
    return F.interpolate(torch.eye(size)[None, None], scale_factor=(COARSE, 1), mode=mode)[0, 0]


def enlarged(coarse: Tensor, matrix: Tensor) -> Tensor:
    """Brings (N, F, M, M) to the pixels of a slice, (N, F, 4 M, 4 M).

    It is what `torch.nn.functional.interpolate` does, whose gradient took a third of a training on
    a CPU; two products of matrices are the same map in a small part of the time.

    Args:
        coarse: Distances or textures.
        matrix: Made by `enlarging`.

    Example:
        >>> enlarged(torch.ones(2, 3, 8, 8), enlarging(8, "bilinear")).shape
        torch.Size([2, 3, 32, 32])
    """
    with torch.autocast(coarse.device.type, enabled=False):
        return matrix @ coarse @ matrix.mT
