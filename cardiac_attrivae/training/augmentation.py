"""Augmentation: slices are deformed and changed in brightness on the device, attributes follow.

The published code zooms images but keeps their attributes. Here every deformation acts on the mask
too, the areas are counted again on the deformed mask, and `AttributeTargets` says what the
attributes of such a heart are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ..attributes import ATTRIBUTES, Kind, drawn
from ..data.store import SliceDataset, Slices, over_slices
from ..schema import HEART, Keys
from .config import Augmentation

LATTICE = 33
"""Deformations are smooth: they are computed on this many points a side and interpolated."""


BENT = (Kind.RATIO, Kind.LENGTH, Kind.SHAPE)
"""Kinds of attributes that are not linear in areas."""

WHOLE = (Kind.VOLUME, Kind.MASS)
"""Kinds that measure the size of the whole heart: the more apical a slice, the less it shows."""


def structure_masks(labels: Tensor) -> Tensor:
    """Masks of LV, myocardium and RV in each channel, (N, 3 C, H, W), of labels (N, C, H, W)."""
    return torch.stack([labels == structure for structure in HEART], dim=2).float().flatten(1, 2)


def each_phase(fields: Tensor) -> Tensor:
    """Makes slices (N C, 1, H, W) of the channels of slices (N, C, H, W)."""
    return fields.flatten(0, 1)[:, None]


class AttributeTargets:
    r"""What the attributes of a slice are, given the areas of its structures.

    .. math:: t_k = E[a_k \mid A] + \rho\,(a_k - E[a_k \mid A])

    where E is the least-squares plane over the areas A of the training patients' basal slices, and
    the residual is that of the slice before it is deformed. An area is its own plane, without a
    residual. A basal slice shows a volume only in part: with rho = 1 the model is trained to
    memorise what the slice does not show, with rho = 0 to predict no more than the areas do.
    Of volumes and masses, slices other than the basal one have no residual, because they show even
    less of them. An ejection fraction is that of the patient in every slice, and wall and shape are
    measured in each.

    In stacks, the volumes that their slices show take the place of the areas.

    Of a ratio or a length, which are not linear in areas, E is a line over what the areas say of it
    (`attributes.drawn`): the fractional area change of an ejection fraction, the ring of the same
    areas of a wall. So a zoom leaves an ejection fraction as it is. Of a shape areas say nothing:
    its target stays that of the slice before it was deformed.

    Args:
        dataset: Training slices.
        names: Attributes, in the order of the latent dimensions.
        residual: rho.
    """

    def __init__(self, dataset: SliceDataset, names: Sequence[str], residual: float = 1.0) -> None:
        self.names = names = tuple(names)
        seen = self.features(torch.from_numpy(dataset.areas)).numpy()
        values, basal = dataset.attributes(names), dataset.is_basal
        design = np.column_stack([seen, np.ones(len(seen))])
        self.plane = np.zeros((design.shape[1], len(names)))
        for columns, of in self._regressions(dataset.areas.shape[1]):
            known = design[np.ix_(basal, columns)]
            found = np.linalg.lstsq(known, values[np.ix_(basal, of)], rcond=None)[0]
            self.plane[np.ix_(columns, of)] = found
        whole = np.array([ATTRIBUTES[name].kind in WHOLE for name in names])
        shown = basal[:, None] | ~whole
        self.rest = residual * np.where(shown, values - design @ self.plane, 0)
        targets = design @ self.plane + self.rest
        self.mean, self.deviation = targets[basal].mean(axis=0), targets[basal].std(axis=0)
        varies = self.deviation > 1e-9 * np.abs(self.mean)  # least squares leaves rounding errors
        if not varies.all():
            constant = names[int(np.argmin(varies))]
            raise ValueError(f"attribute {constant!r} is the same in every training slice")
        self.values = self.standardise(targets)

    def _regressions(self, areas: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Lists columns of the features, with the constant, and the attributes that they give."""
        bent = [k for k, name in enumerate(self.names) if ATTRIBUTES[name].kind in BENT]
        straight = [k for k in range(len(self.names)) if k not in bent]
        found = [([*range(areas), -1], straight)] if straight else []
        shown = iter(range(areas, areas + len(bent)))
        for k in bent:
            shape = ATTRIBUTES[self.names[k]].kind is Kind.SHAPE
            found.append(([-1] if shape else [next(shown), -1], [k]))
        return [(np.array(columns), np.array(of)) for columns, of in found]

    def features(self, areas: Tensor) -> Tensor:
        """What attributes are predicted from: areas (N, 3 P), and what is not linear in them."""
        kinds = {name: ATTRIBUTES[name].kind for name in self.names}
        bent = [n for n, kind in kinds.items() if kind in BENT and kind is not Kind.SHAPE]
        return torch.cat([areas, *(drawn(name, areas)[:, None] for name in bent)], dim=1)

    def standardise(self, values: np.ndarray) -> np.ndarray:
        """Values (N, K) in standard deviations from the mean of the basal training slices."""
        return (values - self.mean) / self.deviation


def prepared(slices: Slices) -> Slices:
    """Computes, once per slice, what all its augmented versions are made from.

    Args:
        slices: IMAGE and LABEL, see `SliceDataset.read`.

    Returns:
        LABEL; IMAGE, extended beyond the edge of the mask; ``pixels``, the numbers of pixels of LV,
        myocardium and RV in each channel, (N, 3 C); of each channel ``centre``, ``radius`` and
        ``wall``, see `ventricle_geometry`.
    """
    masks = structure_masks(slices[Keys.LABEL])
    count = slices[Keys.LABEL].shape[1]
    each = masks.unflatten(1, (count, -1)).flatten(0, 1)
    centre, radius, wall = (found.unflatten(0, (-1, count)) for found in ventricle_geometry(each))
    return {
        # the store is 0 outside the mask: without a rim, edges would darken as they are moved
        Keys.IMAGE: extend_over_edge(slices[Keys.IMAGE], (slices[Keys.LABEL] > 0).float()),
        Keys.LABEL: slices[Keys.LABEL],
        "pixels": masks.sum((2, 3)),
        "centre": centre,
        "radius": radius,
        "wall": wall,
    }


class Augmenter:
    """Draws a new version of each slice of a `prepared` batch, with its attributes.

    Args:
        dataset: Training slices.
        targets: Targets of the same slices.
        augmentation: How far changes may go.
        device: Where the batches are.
    """

    def __init__(
        self,
        dataset: SliceDataset,
        targets: AttributeTargets,
        augmentation: Augmentation,
        device: torch.device | str = "cpu",
    ) -> None:
        self.ranges = augmentation

        def tensor(values: np.ndarray) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device)

        self.areas, self.features = tensor(dataset.areas), targets.features
        self.scale = dataset.scale
        self.plane, self.rest = tensor(targets.plane), tensor(targets.rest)
        self.mean, self.deviation = tensor(targets.mean), tensor(targets.deviation)

    def __call__(self, batch: Slices, generator: Generator) -> Slices:
        """Returns IMAGE, LABEL, standardised ATTRIBUTES and ROW of the new versions."""
        if self.ranges.length:
            batch = self._lengthened(batch, generator)
        row, grid = batch[Keys.ROW], self._deformation(batch, generator)
        label = sampled(batch[Keys.LABEL].float(), grid, "nearest")
        image = sampled(batch[Keys.IMAGE], grid, "bilinear")
        masks = structure_masks(label)
        # the crop cuts off parts of a large RV: native area over area in the crop
        pixels, before = (
            over_slices(counts, self.scale) for counts in (masks.sum((2, 3)), batch["pixels"])
        )
        areas = pixels * (self.areas[row] / before.clamp_min(1))
        values = self.features(areas) @ self.plane[:-1] + self.plane[-1] + self.rest[row]
        return {
            Keys.IMAGE: self._relit(image, masks, generator) * (label > 0),
            Keys.LABEL: label,
            Keys.ATTRIBUTES: (values - self.mean) / self.deviation,
            Keys.ROW: row,
        }

    def _relit(self, image: Tensor, masks: Tensor, generator: Generator) -> Tensor:
        """Relights each phase on its own, (N, C, H, W)."""
        masks = masks.unflatten(1, (-1, len(HEART))).flatten(0, 1)
        return relight(each_phase(image), masks, self.ranges, generator).view_as(image)

    def _deformation(self, batch: Slices, generator: Generator) -> Tensor:
        """Draws where each pixel of the new slices comes from, as `grid_sample` reads it.

        Computed from the new slice back to the old one, in pixels from the centre of the crop.

        Returns:
            Positions in the old slices, (N, 1, H, W, 2) as (x, y) in [-1, 1], or for each channel
            its own, (N, C, H, W, 2).
        """
        image, r = batch[Keys.IMAGE], self.ranges
        size, device = image.shape[-1], image.device
        draw = _Draw(len(image), generator, device)
        axis = torch.linspace(-1, 1, LATTICE, device=device) * (size - 1) / 2
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        x, y = x - draw.uniform(r.shift), y - draw.uniform(r.shift)
        x, y = _turn(x, y, draw.uniform(math.radians(r.rotation)))
        zoom, stretch, along = draw.uniform(r.zoom), draw.uniform(r.stretch), draw.uniform(math.pi)
        x, y = _turn(x, y, along)
        x, y = _turn(x * (-zoom - stretch).exp(), y * (stretch - zoom).exp(), -along)

        # about the LV centre: radius and wall are zoomed apart, what lies outside moves along
        cavity, wall = (draw.uniform(reach)[:, None] for reach in (r.cavity, r.wall))
        bends = draw.normal(2, 5) * r.elastic
        right: Tensor | int = 1
        own = r.beat or r.taper or r.right  # each channel then has a map of its own
        if own:
            beat, taper, beyond = (draw.uniform(k)[:, None] for k in (r.beat, r.taper, r.right))
            at_es, depth = self._places(image.shape[1], device)
            cavity, right = cavity + beat * at_es + taper * depth, beyond.exp()
        cavity, wall = cavity.exp(), wall.exp()
        places = slice(None) if own else slice(1)
        cx, cy = batch["centre"][:, places, :, None, None].unbind(2)
        x, y = x[:, None] - cx, y[:, None] - cy
        distance = (x * x + y * y).sqrt().clamp_min(1e-3)
        old = [batch[name][:, places, None, None] for name in ("radius", "wall")]
        radius, thickness = old[0] * cavity, old[1] * wall
        source = torch.where(
            distance < radius,
            distance / cavity,
            torch.where(
                distance < radius + thickness,
                old[0] + (distance - radius) / wall,
                (distance - radius - thickness) / right + old[0] + old[1],
            ),
        )
        x, y = cx + x * source / distance, cy + y * source / distance

        bends = F.interpolate(bends, size=(LATTICE, LATTICE), mode="bicubic", align_corners=True)
        lattice = (torch.stack([x, y], dim=2) + bends[:, None]).flatten(0, 1) / (size / 2)
        full = F.interpolate(lattice, size=(size, size), mode="bilinear", align_corners=True)
        return full.permute(0, 2, 3, 1).unflatten(0, (len(image), -1))

    def _places(self, channels: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Says of each channel whether it shows ES, and its depth from 0 to 1, (C, 1, 1)."""
        channel = torch.arange(channels, device=device)[:, None, None]
        phase, place = channel // self.scale.slices, channel % self.scale.slices
        return phase.float(), place / max(self.scale.slices - 1, 1)

    def _lengthened(self, batch: Slices, generator: Generator) -> Slices:
        """Zooms stacks along the heart; slices beyond the last are black."""
        count, device = batch[Keys.LABEL].shape[1], batch[Keys.LABEL].device
        slices, channel = self.scale.slices, torch.arange(count, device=device)
        zoom = _Draw(len(batch[Keys.ROW]), generator, device).uniform(self.ranges.length)[:, 0]
        wanted = (channel % slices * zoom.exp()).round().long()
        taken = channel // slices * slices + wanted.clamp_max(slices - 1)
        rows = torch.arange(len(taken), device=device)[:, None]
        found = {key: batch[key][rows, taken] for key in ("centre", "radius", "wall")}
        for key in (Keys.IMAGE, Keys.LABEL):
            found[key] = batch[key][rows, taken] * (wanted < slices)[:, :, None, None]
        return {**batch, **found}


def sampled(fields: Tensor, grids: Tensor, mode: str) -> Tensor:
    """Samples channels (N, C, H, W) at places of all, (N, 1, H, W, 2), or of each."""
    parts = fields.unflatten(1, (grids.shape[1], -1)).flatten(0, 1)
    taken = F.grid_sample(parts, grids.flatten(0, 1), mode=mode, align_corners=False)
    return taken.view_as(fields)


def relight(image: Tensor, masks: Tensor, ranges: Augmentation, generator: Generator) -> Tensor:
    """Changes what scanners differ in: contrast between blood and muscle, gamma, bias, blur, noise.

    Args:
        image: Slices, (N, 1, H, W) in [0, 1].
        masks: Masks of LV, myocardium and RV, (N, 3, H, W).
        ranges: How far changes may go.
        generator: Draws the random numbers.
    """
    draw = _Draw(len(image), generator, image.device)
    if ranges.style:  # else nothing is drawn: other pipelines keep their random numbers
        partner = torch.randperm(len(image), generator=generator, device=image.device)
        inside = masks.sum(1, keepdim=True) > 0
        image = restyled(image, inside, partner, draw.share() * ranges.style)
    left, muscle, right = masks.split(1, dim=1)
    gain = 1 + (left + right) * draw.uniform(ranges.blood)[..., None]
    offset = muscle * draw.uniform(ranges.muscle)[..., None]
    gain, offset = _mean3(torch.cat([gain, offset], dim=1)).split(1, dim=1)  # no hard edges
    image = (image * gain + offset).clamp(1e-4, 1) ** draw.uniform(ranges.contrast)[..., None].exp()
    field = draw.normal(1, 3) * ranges.bias
    image = (
        image
        * F.interpolate(field, size=image.shape[2:], mode="bilinear", align_corners=True).exp()
    )
    image = image + draw.share() * ranges.blur * (_mean3(image) - image)
    noise = torch.randn(image.shape, generator=generator, device=image.device)
    return (image + noise * draw.share() * ranges.noise).clamp(0, 1)


def restyled(image: Tensor, inside: Tensor, partner: Tensor, share: Tensor) -> Tensor:
    r"""Moves the mean and the deviation inside each heart towards those of another one.

    .. math:: x' = \sigma' \frac{x - \mu}{\sigma} + \mu', \quad
        \mu' = (1 - s) \mu + s \mu_p, \quad \sigma' = (1 - s) \sigma + s \sigma_p

    Args:
        image: Slices, (N, 1, H, W).
        inside: Pixels that count, (N, 1, H, W).
        partner: Row p of the other slice, (N,).
        share: s in [0, 1], (N, 1, 1, 1).

    References:
        | Domain Generalization with MixStyle (Zhou et al., 2021), equations 3 to 5
        | https://arxiv.org/abs/2104.02008

    Example:
        >>> image = torch.tensor([[0.0, 2.0], [4.0, 4.0]])[:, None, None]
        >>> inside, share = torch.ones(2, 1, 1, 2), torch.ones(2, 1, 1, 1)
        >>> restyled(image, inside, torch.tensor([1, 0]), share).squeeze().tolist()
        [[4.0, 4.0], [1.0, 1.0]]
    """
    axes, count = (1, 2, 3), inside.sum((1, 2, 3), keepdim=True).clamp_min(1)
    mean = (image * inside).sum(axes, keepdim=True) / count
    deviation = (((image - mean) * inside) ** 2).sum(axes, keepdim=True).div(count).sqrt()
    new_mean, new_deviation = (torch.lerp(own, own[partner], share) for own in (mean, deviation))
    return (image - mean) * (new_deviation / deviation.clamp_min(1e-6)) + new_mean


def ventricle_geometry(masks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Measures the LV as if it were a disc inside a ring of the same areas, in pixels.

    Args:
        masks: Masks of LV, myocardium and RV, (N, 3, H, W).

    Returns:
        Centre of the LV (N, 2) as (x, y) from the centre of the crop, radius of the disc (N,), and
        thickness of the ring (N,).

    Example:
        >>> masks = torch.zeros(1, 3, 8, 8)
        >>> masks[0, 0, 2:6, 2:6] = 1
        >>> centre, radius, wall = ventricle_geometry(masks)
        >>> centre, radius * radius * math.pi
        (tensor([[0., 0.]]), tensor([16.0000]))
    """
    left, muscle = masks[:, 0], masks[:, 1]
    axis = torch.arange(masks.shape[-1], device=masks.device) - (masks.shape[-1] - 1) / 2
    area = left.sum((1, 2))
    centre = torch.stack([(left * axis).sum((1, 2)), (left * axis[:, None]).sum((1, 2))], dim=1)
    radius = (area / math.pi).sqrt()
    outer = ((area + muscle.sum((1, 2))) / math.pi).sqrt()
    return centre / area.clamp_min(1)[:, None], radius, outer - radius


def extend_over_edge(images: Tensor, inside: Tensor, pixels: int = 3) -> Tensor:
    """Fills a rim outside the mask with means of the pixels inside it, (N, C, H, W)."""
    for _ in range(pixels):
        weight = _mean3(inside)
        grown = torch.where(weight > 0, _mean3(images * inside) / weight.clamp_min(1e-6), 0)
        images = torch.where(inside > 0, images, grown)
        inside = (weight > 0).float()
    return images


class _Draw:
    """Random numbers for N slices, shaped to broadcast over what they change."""

    def __init__(self, n: int, generator: Generator, device: torch.device) -> None:
        self.n, self.generator, self.device = n, generator, device

    def uniform(self, reach: float) -> Tensor:
        """In [-reach, reach], (N, 1, 1)."""
        return (self._rand(self.n, 1, 1) * 2 - 1) * reach

    def share(self) -> Tensor:
        """In [0, 1], (N, 1, 1, 1)."""
        return self._rand(self.n, 1, 1, 1)

    def normal(self, channels: int, points: int) -> Tensor:
        """Standard normal on a coarse lattice, (N, channels, points, points)."""
        shape = (self.n, channels, points, points)
        return torch.randn(shape, generator=self.generator, device=self.device)

    def _rand(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator, device=self.device)


def _turn(x: Tensor, y: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    cosine, sine = angle.cos(), angle.sin()
    return cosine * x - sine * y, sine * x + cosine * y


def _mean3(image: Tensor) -> Tensor:
    return F.avg_pool2d(image, 3, stride=1, padding=1, count_include_pad=False)
