"""Cuts slices out of hearts: transforms that MONAI lacks, and `preprocessing`, which composes them.

A case goes in as ``{"record": CaseRecord}`` and comes out as a list of dictionaries, one per chosen
slice, with a crop of image and mask and all measurements on the native grid.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, MapTransform, Transform
from torch import Tensor

from ..attributes import measure, names_at
from ..heart import Outlines
from ..schema import HEART, DataError, Keys, Phase
from .crop import crop_points, cut_off, heart_axes, relative, sample, stack_planes, usable_slices
from .grid import to_grid, windowed
from .reading import (
    AddLaterd,
    Case,
    MeasureHeart,
    NoteOddities,
    NotePhases,
    ReadPhased,
    ToCanonicalLabelsd,
    innermost,
    stack_of,
)
from .recipe import WHOLE, Recipe


def preprocessing(recipe: Recipe) -> Compose:
    """Composes the transforms from ``{"record": CaseRecord}`` to a list of slices.

    There is one interpolation from native voxels to the crop. The mask is applied after it, so that
    no background leaks into the heart: intensities are scaled inside it, and 0 outside.

    Example:
        >>> transform = preprocessing(Recipe(slice="all", size=96))
        >>> [type(step).__name__ for step in transform.transforms][3:6]
        ['NoteOddities', 'NotePhases', 'SelectSlices']
    """
    both = (Keys.IMAGE, Keys.LABEL)
    read = [ReadPhased(both), ToCanonicalLabelsd(Keys.LABEL), MeasureHeart(), NoteOddities()]
    two = recipe.phases[1:]
    later = AddLaterd(both, read, optional=recipe.slice == "all") if two else NotePhases()
    return Compose([*read, later, *_cropping(recipe, names_at([*map(Phase, recipe.phases)]))])


def _cropping(recipe: Recipe, names: Sequence[str] | None = None) -> list[Transform]:
    """Lists the transforms from a stack with its measured mask to slices with some attributes, or
    with all of them."""
    both = (Keys.IMAGE, Keys.LABEL)
    if recipe.slice == WHOLE:
        return [WholePicturesd(both, recipe, names)]
    return [
        SelectSlices(recipe.slice, recipe.least_pixels, recipe.stack, names),
        AlignHeartd(both, recipe.spacing, recipe.size),
        ScaleIntensityInMaskd(Keys.IMAGE, Keys.LABEL, recipe.percentiles, recipe.stack),
    ]


def crop_heart(
    image: np.ndarray,
    label: np.ndarray,
    spacing_mm: tuple[float, ...],
    recipe: Recipe,
    predicted: bool = False,
) -> dict[Hashable, Any]:
    """Cuts the first chosen slice out of a stack that is in memory, as `preprocessing` does.

    Args:
        image: Signal in any unit, (I, J, S), or of ED and ES, (2, I, J, S).
        label: Its canonical labels, of the same shape.
        spacing_mm: Along I, J and S.
        recipe: How to choose and crop.
        predicted: Whether a segmenter drew the labels, see `usable_slices`.

    Returns:
        ``image`` and ``label`` (C, size, size), ``slice_index``, ``attributes`` and the rest.

    Raises:
        DataError: If the mask shows no heart, or no slice is usable.

    Example:
        >>> label = np.zeros((60, 60, 1), np.uint8)
        >>> label[20:40, 20:40], label[25:35, 25:35], label[20:40, 10:20] = 2, 1, 3
        >>> image = np.random.default_rng(0).random(label.shape)
        >>> crop = crop_heart(image, label, (1.3, 1.3, 8.0), Recipe())
        >>> tuple(crop["image"].shape), crop["slice_index"], round(crop["attributes"]["LVEDA"], 2)
        ((1, 128, 128), 0, 1.69)
    """
    data: dict[Hashable, Any] = {Keys.IMAGE: image, Keys.LABEL: label, "spacing": spacing_mm}
    data["predicted"] = predicted
    measure_one, labels = MeasureHeart(), label if label.ndim == 4 else label[None]
    first, *later = (measure_one({Keys.LABEL: one}) for one in labels)
    data = first | data | {"later": later[0] if later else None}
    try:
        return Compose(_cropping(recipe))(data)[0]
    except RuntimeError as error:
        raise innermost(error) from error


def _like(voxels: np.ndarray, model: Any) -> Any:
    """Returns a tensor where the model is one, with its device."""
    return torch.from_numpy(voxels).to(model.device) if isinstance(model, Tensor) else voxels


def _spacing(data: Case, key: Hashable) -> tuple[float, ...]:
    """Returns ``spacing``, or that of a tensor which MONAI has read, in mm."""
    if "spacing" in data:
        return tuple(data["spacing"])
    if isinstance(data[key], MetaTensor):
        return tuple(float(step) for step in data[key].pixdim)
    raise DataError(
        f"the spacing of {key} is unknown; expected 'spacing' (mm along i, j, slices) in the "
        "dictionary, or a MetaTensor"
    )


class SelectSlices(Transform):
    """Chooses slices and makes a dictionary for each of them, with its ``slice_index`` and
    ``attributes``, name -> value.

    A slice must be usable at ES, too, if that was read; of ``all`` and of a stack it need not. For
    a stack ``planes`` is added, see `stack_planes`. The first arguments are explained in `Recipe`;
    ``names`` are the attributes to measure, None all of them.
    """

    def __init__(
        self,
        slice: str = "basal",
        least_pixels: int = 10,
        stack: int = 1,
        names: Sequence[str] | None = None,
    ) -> None:
        self.slice, self.least_pixels, self.stack, self.names = slice, least_pixels, stack, names

    def __call__(self, data: Case) -> list[dict[Hashable, Any]]:
        counts, (x, y, z), later = data["counts"], _spacing(data, Keys.LABEL), data.get("later")
        usable = usable_slices(counts, self.least_pixels, data.get("predicted", False))
        if later is not None and self.slice != "all" and self.stack == 1:
            enough = (later["counts"][:, HEART] > self.least_pixels).all(axis=1)
            usable = [index for index in usable if enough[index]]
            if not usable:
                raise DataError(
                    f"no slice shows more than {self.least_pixels} pixels each of LV, MYO and RV "
                    "both at ED and at ES"
                )
        if self.stack > 1:
            data = {**data, "planes": stack_planes(counts, usable, z, self.stack)}
        if self.slice == "basal":
            usable = usable[:1]
        elif self.slice == "mid":
            usable = [usable[len(usable) // 2]]
        elif self.slice == "max-area":
            usable = [max(usable, key=lambda index: counts[index, HEART].sum())]
        hearts = {Phase.ED: data} | ({Phase.ES: later} if later else {})

        def measured(index: int) -> dict[str, float]:
            return measure(
                {
                    phase: Outlines(heart["mask"], (x, y, z), index, heart["counts"])
                    for phase, heart in hearts.items()
                },
                self.names,
            )

        return [{**data, "slice_index": i, "attributes": measured(i)} for i in sorted(usable)]


class AlignHeartd(MapTransform):
    """Cuts an upright crop around the heart out of one slice, in one interpolation.

    The barycentre of LV and myocardium together becomes the centre of the crop; the barycentre of
    the RV lies straight to the viewer's left of it. With rows along j and columns along i, a
    rotation is enough to put the anterior wall up in ACDC and M&Ms: nothing is mirrored. Pixels
    outside the native image become 0. Of several channels the first, ED, says where the crop lies.

    The first key is the image (linear), the second the canonical mask (nearest): stacks (I, J, S)
    or (C, I, J, S), of which ``slice_index`` is taken, or ``planes`` where they are given, or a
    slice (1, I, J). Both become (C, size, size) of pixels of ``spacing`` mm, of P planes (C P,
    size, size), those of the first channel before those of the next. Adds ``rotation_deg``, by
    which the patient was turned, counter-clockwise as seen; ``cut``, the share of the heart's
    pixels outside the crop; and ``field_mm``, the side of a crop that holds all of them.

    Raises:
        DataError: If the slice does not show LV, MYO and RV, or its spacing is unknown.
    """

    def __init__(self, keys: KeysCollection, spacing: float, size: int) -> None:
        super().__init__(keys)
        self.spacing, self.size = spacing, size

    def __call__(self, data: Case) -> dict[Hashable, Any]:
        images, labels = (self._slices(data, key) for key in self.keys)
        x, y, *_ = _spacing(data, self.keys[1])
        axes, centre = heart_axes(labels[0], (x, y))
        points = crop_points(axes, centre, (x, y), self.spacing, self.size)
        grid = relative(points, labels.shape[1:])
        out = {
            key: _like(sample(planes, grid, mode), data[key])
            for key, planes, mode in zip(
                self.keys, (images, labels), ("bilinear", "nearest"), strict=True
            )
        }
        cut, field_mm = cut_off(labels[0], axes, centre, (x, y), self.size * self.spacing)
        turned = float(np.degrees(np.arctan2(*axes[::-1, 0])))
        return {**data, **out, "rotation_deg": turned, "cut": cut, "field_mm": field_mm}

    def _slices(self, data: Case, key: Hashable) -> np.ndarray:
        """Returns the slice to crop of each channel, (C, I, J)."""
        voxels = np.asarray(data[key])
        if "slice_index" in data:
            stacks = voxels if voxels.ndim == 4 else voxels[None]
            if "planes" in data:
                return _planes(stacks, data["planes"])
            return stacks[..., data["slice_index"]]
        if voxels.ndim != 3 or voxels.shape[0] != 1:
            raise DataError(
                f"{key} has shape {np.shape(data[key])}; expected a slice (1, I, J), or a stack "
                "and 'slice_index', which SelectSlices adds"
            )
        return voxels


def _planes(stacks: np.ndarray, planes: np.ndarray) -> np.ndarray:
    """Takes planes of stacks (C, I, J, S), (C P, I, J); those outside of them are 0."""
    within = (planes >= 0) & (planes < stacks.shape[-1])
    found = np.where(within, stacks[..., planes.clip(0, stacks.shape[-1] - 1)], 0)
    return np.moveaxis(found, -1, 1).reshape(-1, *stacks.shape[1:3])


class WholePicturesd(MapTransform):
    """Makes a dictionary for each slice of a stack, with whole pictures on a grid of square pixels.

    The first key is the image (linear), the second the canonical mask (nearest), (I, J, S). Both
    become (1, size, size) about the centre of the slice; the image is scaled to [0, 1] between two
    percentiles of its stack. Adds what `SelectSlices` and `AlignHeartd` add.
    """

    def __init__(
        self, keys: KeysCollection, recipe: Recipe, names: Sequence[str] | None = None
    ) -> None:
        super().__init__(keys)
        self.recipe, self.names = recipe, names

    def __call__(self, data: Case) -> list[dict[Hashable, Any]]:
        (i, j, k), recipe = _spacing(data, self.keys[1]), self.recipe
        image, label = (stack_of(data[key]) for key in self.keys)
        images, labels = (
            to_grid(stack, (i, j, k), recipe.spacing, recipe.size, mode).numpy()[:, None]
            for stack, mode in ((windowed(image, recipe.percentiles), "bilinear"),
                                (label, "nearest"))
        )  # fmt: skip
        middle = (np.array(label.shape[:2]) - 1) / 2 * (i, j)
        field = recipe.size * recipe.spacing
        found = []
        for z in range(label.shape[2]):
            cut, needed = 0.0, field
            if label[..., z].any():
                cut, needed = cut_off(label[..., z], np.eye(2), middle, (i, j), field)
            outlined = {Phase.ED: Outlines(data["mask"], (i, j, k), z, data["counts"])}
            found.append(
                {
                    **data, self.keys[0]: images[z], self.keys[1]: labels[z], "slice_index": z,
                    "attributes": measure(outlined, self.names),
                    "cut": cut, "field_mm": needed, "rotation_deg": 0.0,
                }
            )  # fmt: skip
        return found


class ScaleIntensityInMaskd(MapTransform):
    """Maps two percentiles of the intensities inside the mask to 0 and 1, and clips.

    With percentiles a single bright voxel does not set the scale; ``(0, 100)`` is min-max. Images
    are (C, H, W), each channel with its own scale, the slices of a stack with one for each phase; a
    channel after the first may be without a mask, and is black. Refuses an empty mask, and an image
    with one value throughout it.
    """

    def __init__(
        self,
        keys: KeysCollection,
        mask_key: str,
        percentiles: tuple[float, float],
        stack: int = 1,
    ) -> None:
        super().__init__(keys)
        self.mask_key, self.percentiles, self.stack = mask_key, percentiles, stack

    def __call__(self, data: Case) -> dict[Hashable, Any]:
        out = dict(data)
        inside = np.asarray(data[self.mask_key]) > 0
        if not inside[0].any():
            raise DataError(f"{self.mask_key} is empty; expected pixels of the heart")
        for key in self.keys:
            image = np.asarray(data[key])
            parts = (np.reshape(x, (-1, self.stack, *x.shape[1:])) for x in (image, inside))
            scaled = [self._scaled(*both) for both in zip(*parts, strict=True)]
            out[key] = _like(np.concatenate(scaled), data[key])
        return out

    def _scaled(self, image: np.ndarray, inside: np.ndarray) -> np.ndarray:
        if not inside.any():
            return np.zeros_like(image)
        shown = image[inside]
        low, high = np.percentile(shown, self.percentiles)
        if not high > low:
            raise DataError(f"the image is {low:g} throughout the mask; expected contrast")
        scaled = np.zeros(image.shape)
        scaled[inside] = np.clip((shown - low) / (high - low), 0, 1)
        return scaled
