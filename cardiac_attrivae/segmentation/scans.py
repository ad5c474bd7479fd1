"""Outlines hearts in whole pictures: what a scan needs that has no mask.

A slice is seen with its neighbours. A first look at the whole field finds the heart; a window about
it is then looked at turned, mirrored and in the other order of slices, and the views are averaged.
Several networks may vote. How far all of them agree says how far the result may be trusted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data.grid import from_grid, grid_size, to_grid, windowed
from ..data.known_pictures import KnownPictures
from ..data.recipe import Recipe
from ..metrics.cardiac_function import find_phases
from ..models.networks import kind_of
from ..models.scan_unet import ScanUNet, with_neighbours
from ..runtime.shipped_models import PRETRAINED
from ..runtime.validation import build
from ..runtime.weights import read_weights
from ..schema import HEART, DataError, Structure
from ..training.config import parse_pipeline
from ..training.objectives import SegmentationObjective
from ..training.run import restored
from .cleaning import below_base, cleaned, without_doubtful_rv, without_false_apex
from .onnx_network import read_onnx
from .plausible import base_faults, border_faults, left_out, size_faults
from .views import VIEWS, View, agreement, average, joint, put_back, seen_in

BATCH = 16
"""Slices that pass through the network at a time."""

QUICK = 2
"""Ways to look at a frame of a cine that is neither ED nor ES."""

ONNX = "onnx:"
"""Beginning of the name of a segmenter that another program exported."""

MOST_PIXELS = 2**26
"""Pixels of all slices of a frame on the grid: a hundred times those of any scan."""

SAME = (0.0, 1.0)
"""Line from the agreement of views to the Dice of a segmenter that was not measured."""

DOUBTFUL = 0.85
"""Predicted Dice below which a structure is reported."""

STILL = "the LV is of one size in all frames that show it, so that none is ES"


@dataclass(frozen=True)
class Segmentation:
    """A segmented frame, in the geometry of its scan."""

    labels: NDArray[np.uint8]  # canonical labels, (X, Y, Z) uint8
    # structure -> Dice that an expert's mask is expected to have with it
    predicted_dice: dict[Structure, float]
    warnings: tuple[str, ...]  # why it should not be trusted, in words; empty if it may be
    views: int = 1  # ways in which it was looked at
    trained_by: tuple[str, ...] = ()  # segmenters that were trained on this very picture

    @property
    def familiar(self) -> str:
        """Says which segmenters were trained on the picture; empty if none is known to be."""
        if not self.trained_by:
            return ""
        return (
            f"{' and '.join(self.trained_by)} was trained on this scan, and its mask is better "
            "than that of a new scan would be"
        )


@dataclass(frozen=True)
class SegmentedCine:
    """All frames of a cine, and which of them are ED and ES, from 0."""

    frames: list[Segmentation]
    ed: int
    es: int  # ``ed`` in a cine whose LV does not change


@dataclass(frozen=True)
class ScanSegmenter:
    """Networks that outline hearts in whole pictures, and how they are asked."""

    name: str  # what masks that it makes are called after
    # each of (N, context, H, W) to logits of background, LV, MYO, RV, (N, 4, H, W); the
    # probabilities of several are averaged, and their order does not matter
    networks: Sequence[Callable[[Tensor], Tensor]]
    grid_mm: float = 1.5  # side of a pixel that the networks were trained on
    window: int = 128  # pixels along a side of the window about the heart, a multiple of 16
    context: int = 3  # slices that they see at once
    views: Sequence[View] = VIEWS  # ways to look at a single frame
    # whether the heart is looked for in the whole field first; else the window lies in the middle
    # of the slices
    locates: bool = True
    # structure -> (intercept, slope) from the agreement of views to Dice
    dice_lines: Mapping[Structure, tuple[float, float]] = field(default_factory=dict)
    known: Sequence[KnownPictures] = ()  # pictures they were trained on, as far as that is known

    @property
    def sees(self) -> str:
        """What the networks see of a scan, in words."""
        place = "about the heart" if self.locates else "in the middle"
        return (
            f"{self.context} slices of {self.window} x {self.window} pixels of {self.grid_mm:g} mm "
            f"{place}"
        )

    def segment(self, image: np.ndarray, spacing_mm: Sequence[float]) -> Segmentation:
        """Outlines the heart in one frame, (X, Y, Z) in any unit with slices along Z; spacing in
        mm, (3,)."""
        slices = self._slices(image, spacing_mm)
        found = self._outlined(slices, image.shape, spacing_mm, self.centre(slices), self.views)
        return self._remembered(found, image, spacing_mm)

    def segment_cine(self, frames: np.ndarray, spacing_mm: Sequence[float]) -> SegmentedCine:
        """Outlines the heart in every frame of a cine, (X, Y, Z, T), and finds ED and ES.

        The heart is looked for in two frames. All are seen in `QUICK` ways; ED and ES, which are
        found in these, are then looked at in all ways.
        """
        count, shape = frames.shape[-1], frames.shape[:3]
        stacks = [self._slices(frames[..., t], spacing_mm) for t in range(count)]
        places = [self.centre(stacks[t]) for t in {0, count // 2}]
        centre = tuple(int(np.mean(place)) for place in zip(*places, strict=True))
        quick = self.views[:: max(1, len(self.views) // QUICK)] if count > 2 else self.views
        found = [self._outlined(stack, shape, spacing_mm, centre, quick) for stack in stacks]
        # found once, where all frames were seen alike: closer looks move volumes by some per cent
        ed, es = find_phases(np.array([(one.labels == Structure.LV).sum() for one in found]))
        if len(quick) < len(self.views):
            for t in {ed, es}:
                found[t] = self._outlined(stacks[t], shape, spacing_mm, centre, self.views)
        if ed == es and count > 1:
            found[ed] = replace(found[ed], warnings=(*found[ed].warnings, STILL))
        known = [self._remembered(one, frames[..., t], spacing_mm) for t, one in enumerate(found)]
        return SegmentedCine(known, ed, es)

    def _remembered(
        self, found: Segmentation, image: np.ndarray, spacing_mm: Sequence[float]
    ) -> Segmentation:
        """Adds which segmenters were trained on the picture."""
        names = {known.name for known in self.known if known.holds(image, tuple(spacing_mm))}
        return replace(found, trained_by=tuple(sorted(names)))

    def centre(self, slices: Tensor) -> tuple[int, int]:
        """Finds the pixel in the middle of the heart in slices on the grid, (Z, H, W)."""
        if not self.locates:
            return slices.shape[1] // 2, slices.shape[2] // 2
        straight = View(0, False, False)
        fields = joint([self._fields(slices, straight, network) for network in self.networks])
        heart = 1 - fields[:, 0]
        weight = (heart * (heart > 0.5)).sum(0)
        if not weight.any():
            return slices.shape[1] // 2, slices.shape[2] // 2
        smooth = torch.nn.functional.avg_pool2d(weight[None], 33, 1, 16)[0]
        row, column = divmod(int(smooth.argmax()), smooth.shape[1])
        near = torch.zeros_like(weight)
        reach = self.window // 2
        box = (
            slice(max(0, row - reach), row + reach),
            slice(max(0, column - reach), column + reach),
        )
        near[box] = weight[box]
        rows, columns = (
            near.sum(axis) @ torch.arange(near.shape[1 - axis]).float() for axis in (1, 0)
        )
        total = near.sum()
        return int(rows / total), int(columns / total)

    def _slices(self, image: np.ndarray, spacing_mm: Sequence[float]) -> Tensor:
        if np.ndim(image) != 3 or not np.isfinite(image).all():
            raise DataError(f"a frame of shape {np.shape(image)}; expected numbers (X, Y, Z)")
        size = max(self.window, grid_size(image.shape, tuple(spacing_mm), self.grid_mm))
        if image.shape[2] * size**2 > MOST_PIXELS:
            raise DataError(
                f"{image.shape[2]} slices over {size * self.grid_mm:.0f} mm are {size} x {size} "
                f"pixels of {self.grid_mm:g} mm each; expected at most {MOST_PIXELS} in all"
            )
        return to_grid(windowed(image), tuple(spacing_mm), self.grid_mm, size)

    def _outlined(
        self,
        slices: Tensor,
        shape: tuple[int, ...],
        spacing_mm: Sequence[float],
        centre: tuple[int, ...],
        views: Sequence[View],
    ) -> Segmentation:
        """Averages the views of the window about the heart and lays the result on the scan."""
        start = [
            min(max(0, c - self.window // 2), side - self.window)
            for c, side in zip(centre, slices.shape[1:], strict=True)
        ]
        box = tuple(slice(s, s + self.window) for s in start)
        near = slices[:, box[0], box[1]]
        seen = [[self._fields(near, view, network) for view in views] for network in self.networks]
        mean = joint([torch.stack(fields).mean(0) for fields in seen])
        whole = torch.zeros(len(slices), mean.shape[1], *slices.shape[1:])
        whole[:, 0] = 1
        whole[:, :, box[0], box[1]] = mean
        native = from_grid(whole, shape, tuple(spacing_mm), self.grid_mm)
        seen_labels = native.argmax(1).permute(1, 2, 0).numpy().astype(np.uint8)
        heart = cleaned(seen_labels)
        sure = native[:, Structure.RV].permute(1, 2, 0).numpy()
        labels = without_false_apex(without_doubtful_rv(below_base(heart), sure))
        agreed = [agreement(fields, mean) for fields in seen]
        predicted = self._predicted(agreed) if labels.any() else dict.fromkeys(HEART, np.nan)
        doubts = [
            f"the {s.name} is doubtful: a Dice of {d:.2f} is expected"
            for s, d in predicted.items()
            if d < DOUBTFUL
        ]
        faults = [*border_faults(labels), *left_out(seen_labels, heart)]
        faults += [*base_faults(labels), *size_faults(labels, tuple(spacing_mm))]
        return Segmentation(labels, predicted, (*faults, *doubts), len(views))

    def _predicted(self, agreed: Sequence[Mapping[Structure, float]]) -> dict[Structure, float]:
        """Reads the Dice off what each network's views agree with what all say together."""
        found = {}
        for structure in HEART:
            intercept, slope = self.dice_lines.get(structure, SAME)
            value = average(one[structure] for one in agreed)
            found[structure] = float(np.clip(intercept + slope * value, 0, 1))
        return found

    def _fields(self, slices: Tensor, view: View, network: Callable[[Tensor], Tensor]) -> Tensor:
        """Probabilities of the classes as a network sees them in one view, (Z, 4, H, W)."""
        turned = seen_in(slices, view)
        if view.reverse:
            turned = turned.flip(0)
        stacks = with_neighbours(turned, self.context)
        with torch.inference_mode():
            parts = [network(part).float().softmax(1) for part in stacks.split(BATCH)]
        fields = torch.cat(parts)
        return put_back(fields.flip(0) if view.reverse else fields, view)


def load_segmenter(model: str | Path | Sequence[str | Path]) -> ScanSegmenter:
    """Opens a segmenter of whole pictures: ``acdc``, which is shipped; the folder of a run of
    ``segment_scans``; or ``onnx:FILE``, with FILE.yaml beside it. Several vote, see `vote`."""
    if not isinstance(model, (str, Path)):
        twice = [str(one) for one, times in Counter(map(str, model)).items() if times > 1]
        if twice:
            raise DataError(f"{twice[0]} is given twice, which is one vote; name each model once")
        return vote([load_segmenter(one) for one in model])
    if str(model).startswith(ONNX):
        file = Path(str(model).removeprefix(ONNX))
        if not file.name:
            raise DataError(f"{model} names no file; expected {ONNX}FILE, with FILE.yaml beside it")
        other = read_onnx(file)
        how = other.settings
        return ScanSegmenter(
            file.stem, [other], how.spacing_mm, how.size, how.context, locates=False
        )
    folder = Path(model)
    if str(model) in shipped_segmenters() and not folder.exists():
        folder = PRETRAINED / str(model) / "segmenter"
    file = folder / "model.safetensors"
    if not file.is_file():
        known = ", ".join(shipped_segmenters())
        raise DataError(
            f"no segmenter {str(model)!r}: {file} is missing; expected {known}, the folder of a "
            f"run of segment_scans, or {ONNX}FILE"
        )
    weights, about = read_weights(file)
    try:
        pipeline = parse_pipeline(about["pipeline"])
        if not isinstance(pipeline.objective, SegmentationObjective):
            raise ValueError("it is a model with codes; expected a run of segment_scans")
        if kind_of(pipeline.network.name) != pipeline.objective.kind:
            raise ValueError(f"its network is {pipeline.network.name}, which outlines no hearts")
        whole = {name: values.float() for name, values in weights.items()}
        network = cast(ScanUNet, restored(pipeline, whole))
        recipe, name = build(Recipe, about["recipe"], "recipe"), Path(model).name
        pictures = KnownPictures(name, recipe, frozenset(map(str, about.get("train_pictures", ()))))
        window, lines = pipeline.objective.window, about.get("dice_lines", {})
        dice_lines = {Structure[name]: (float(a), float(b)) for name, (a, b) in lines.items()}
        if not np.isfinite([*dice_lines.values()]).all():
            raise ValueError("dice_lines holds what is no number")
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise DataError(f"{file} cannot be used: {error}") from error
    network.eval()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub
    return ScanSegmenter(
        name, [network], recipe.spacing, window, network.context, dice_lines=dice_lines,
        known=[pictures],
    )  # fmt: skip


def vote(segmenters: Sequence[ScanSegmenter]) -> ScanSegmenter:
    """Makes one segmenter of several: it averages what they see, in any order of them.

    Args:
        segmenters: One or more; one is returned as it is.

    Raises:
        DataError: If there is none, or they see different things.

    Example:
        >>> first, second = (ScanSegmenter(name, [torch.zeros_like]) for name in ("a", "b"))
        >>> both = vote([second, first])
        >>> both.name, len(both.networks)
        ('a+b', 2)
    """
    if not segmenters:
        raise DataError("no segmenter is given; expected one or more")
    first, *others = segmenters
    for other in others:
        if other.sees != first.sees:
            raise DataError(
                f"{first.name} sees {first.sees}, and {other.name} sees {other.sees}; segmenters "
                "that vote must see the same"
            )
    if not others:
        return first
    lines = {  # of those that were measured
        structure: [one.dice_lines[structure] for one in segmenters if structure in one.dice_lines]
        for structure in HEART
    }
    return replace(
        first,
        name="+".join(sorted(one.name for one in segmenters)),
        networks=[network for one in segmenters for network in one.networks],
        dice_lines={
            structure: (average(a for a, _ in found), average(b for _, b in found))
            for structure, found in lines.items()
            if found
        },
        known=[known for one in segmenters for known in one.known],
    )


def shipped_segmenters() -> list[str]:
    """Lists the segmenters that come with the package.

    Example:
        >>> shipped_segmenters()
        ['acdc']
    """
    return sorted(file.parts[-3] for file in PRETRAINED.glob("*/segmenter/model.safetensors"))
