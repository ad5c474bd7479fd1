"""Transforms that MONAI lacks, and `preprocessing`, which composes them.

A case goes in as ``{"record": CaseRecord}`` and comes out as a list of dictionaries, one per chosen
slice, with a crop of image and mask and all measurements on the native grid.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, MapTransform, Transform
from torch import Tensor

from ..attributes import is_one_heart, measure, pixel_counts
from ..schema import HEART, CaseRecord, DataError, Keys, Structure
from .anatomy import heart_box, oddities
from .crop import crop_points, cut_off, heart_axes, sample, usable_slices
from .grid import to_grid, windowed
from .images import laid_on, read_image
from .nifti import are_finite, read_mask
from .recipe import WHOLE, Recipe

Case = Mapping[Hashable, Any]


def preprocessing(recipe: Recipe) -> Compose:
    """Composes the transforms from ``{"record": CaseRecord}`` to a list of slices.

    There is one interpolation from native voxels to the crop. The mask is applied after it, so that
    no background leaks into the heart: intensities are scaled inside it, and 0 outside.

    Example:
        >>> transform = preprocessing(Recipe(slice="all", size=96))
        >>> [type(step).__name__ for step in transform.transforms][3:6]
        ['MeasureHeart', 'SelectSlices', 'AlignHeartd']
    """
    read = ReadPhased((Keys.IMAGE, Keys.LABEL)), ToCanonicalLabelsd(Keys.LABEL), NoteOddities()
    return Compose([*read, *_cropping(recipe)])


def _cropping(recipe: Recipe) -> list[Transform]:
    """Lists the transforms from a stack with its canonical mask to slices."""
    both = (Keys.IMAGE, Keys.LABEL)
    if recipe.slice == WHOLE:
        return [MeasureHeart(), WholePicturesd(both, recipe)]
    return [
        MeasureHeart(),
        SelectSlices(recipe.slice, recipe.least_pixels),
        AlignHeartd(both, recipe.spacing, recipe.size),
        ScaleIntensityInMaskd(Keys.IMAGE, Keys.LABEL, recipe.percentiles),
    ]


def crop_heart(
    image: np.ndarray, label: np.ndarray, spacing_mm: tuple[float, ...], recipe: Recipe
) -> dict[Hashable, Any]:
    """Cuts the first chosen slice out of a stack that is in memory, as `preprocessing` does.

    Args:
        image: Signal in any unit, (I, J, S).
        label: Its canonical labels, (I, J, S).
        spacing_mm: Along I, J and S.
        recipe: How to choose and crop.

    Returns:
        ``image`` and ``label`` (1, size, size), ``slice_index``, ``attributes`` and the rest.

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
    data = {Keys.IMAGE: image, Keys.LABEL: label, "spacing": spacing_mm}
    try:
        return Compose(_cropping(recipe))(data)[0]
    except RuntimeError as error:
        raise innermost(error) from error


def innermost(error: BaseException) -> BaseException:
    """Returns what a transform raised: MONAI wraps it, per slice once more.

    Example:
        >>> innermost(KeyError("unwrapped"))
        KeyError('unwrapped')
    """
    while error.__cause__:
        error = error.__cause__
    return error


class ReadPhased(MapTransform):
    """Reads image and mask at the frame of the record; adds ``spacing`` (mm along i, j, slices) and
    ``stored``, both volumes as they are in the files.

    MONAI's LoadImage decodes a whole cine and takes the spacing from the affine, which in ACDC is a
    placeholder.

    Raises:
        DataError: If a file is damaged, image and mask do not fit, or the image is not finite.
    """

    def __call__(self, data: Case) -> dict[Hashable, Any]:
        record: CaseRecord = data["record"]
        image = read_image(record.image, record.frame)
        stored = read_mask(record.mask, record.frame)
        mask = laid_on(image, stored, record)
        if image.voxels.shape != mask.voxels.shape:
            raise DataError(
                f"image has shape {image.voxels.shape} and mask {mask.voxels.shape}; expected equal"
            )
        if not are_finite(image.voxels):
            raise DataError(f"{record.image.name} holds NaN or infinite values, or beyond float32")
        values = dict(zip(self.keys, (image.voxels, mask.voxels), strict=True))
        return {**data, **values, "spacing": image.spacing_mm, "stored": (image, stored)}


def _stack(voxels: Any) -> np.ndarray:
    """Returns a stack (I, J, S) of an array or tensor, without its channel."""
    stack = np.asarray(voxels)
    return stack[0] if stack.ndim == 4 and stack.shape[0] == 1 else stack


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


def _name(data: Case, key: Hashable) -> str:
    return data["record"].mask.name if "record" in data else str(key)


class ToCanonicalLabelsd(MapTransform):
    """Renumbers a raw mask; after it LV is 1, MYO 2, RV 3.

    Args:
        keys: Masks, of any shape.
        numbers: Raw label number -> structure; None takes those of the ``record``.

    Raises:
        DataError: If the mask holds a number that is not named, or no label at all.
    """

    def __init__(
        self, keys: KeysCollection, numbers: Mapping[int, Structure] | None = None
    ) -> None:
        super().__init__(keys)
        self.numbers = numbers

    def __call__(self, data: Case) -> dict[Hashable, Any]:
        numbers = data["record"].label_numbers if self.numbers is None else self.numbers
        out = dict(data)
        for key in self.keys:
            raw, name = np.asarray(data[key]), _name(data, key)
            canonical, known = np.zeros_like(raw, dtype=np.uint8), np.zeros_like(raw, dtype=bool)
            for number, structure in numbers.items():
                here = raw == number
                known |= here
                canonical += here * np.uint8(structure)
            if not known.all():
                unknown = ", ".join(f"{n:.6g}" for n in np.unique(raw[~known])[:5])
                accepted = ", ".join(f"{n} {Structure(s).name}" for n, s in numbers.items())
                raise DataError(f"{name} holds label {unknown}; expected {accepted}")
            if not canonical.any():
                phase = f" at {data['record'].phase}" if "record" in data else ""
                raise DataError(f"{name} is empty{phase}: no mask to use")
            out[key] = canonical
            if isinstance(data[key], MetaTensor):
                out[key] = MetaTensor(torch.from_numpy(canonical), meta=data[key].meta)
            elif isinstance(data[key], Tensor):
                out[key] = torch.from_numpy(canonical)
        return out


class NoteOddities(Transform):
    """Adds ``remarks``, statements of what is probably wrong with a case; removes ``stored``."""

    def __call__(self, data: Case) -> dict[Hashable, Any]:
        if "stored" not in data:
            return dict(data)
        image, mask = data["stored"]
        found = oddities(image, mask, data[Keys.LABEL], data["record"].match == "affine")
        rest = {key: value for key, value in data.items() if key != "stored"}
        return {**rest, "remarks": [oddity.what for oddity in found]}


class MeasureHeart(Transform):
    """Adds ``mask``, the native mask cut to the box around the heart, and its pixel ``counts``.

    The mask is ``label``, canonical, (I, J, S) or (1, I, J, S).

    Raises:
        DataError: If there is no LV, or a second one: volumes would be those of two hearts.
    """

    def __call__(self, data: Case) -> dict[Hashable, Any]:
        mask, name = _stack(data[Keys.LABEL]), _name(data, Keys.LABEL)
        if mask.ndim != 3:
            raise DataError(f"{name} has shape {mask.shape}; expected (I, J, S) or (1, I, J, S)")
        if not mask.any():
            raise DataError(f"{name} is empty: no mask to use")
        box = mask[heart_box(mask)]
        if not is_one_heart(box == Structure.LV):
            raise DataError(f"{name} shows the LV in two places; expected one")
        return {**data, "mask": box, "counts": pixel_counts(box)}


class SelectSlices(Transform):
    """Chooses slices and makes a dictionary for each of them, with its ``slice_index`` and
    ``attributes``, name -> value.

    Args:
        slice: See `Recipe`.
        least_pixels: See `Recipe`.
    """

    def __init__(self, slice: str = "basal", least_pixels: int = 10) -> None:
        self.slice, self.least_pixels = slice, least_pixels

    def __call__(self, data: Case) -> list[dict[Hashable, Any]]:
        counts, (x, y, z) = data["counts"], _spacing(data, Keys.LABEL)
        usable = usable_slices(counts, self.least_pixels)
        if self.slice == "basal":
            usable = usable[:1]
        elif self.slice == "mid":
            usable = [usable[len(usable) // 2]]
        elif self.slice == "max-area":
            usable = [max(usable, key=lambda index: counts[index, HEART].sum())]
        return [
            {**data, "slice_index": i, "attributes": measure(counts, (x, y, z), i)}
            for i in sorted(usable)
        ]


class AlignHeartd(MapTransform):
    """Cuts an upright crop around the heart out of one slice, in one interpolation.

    The barycentre of LV and myocardium together becomes the centre of the crop; the barycentre of
    the RV lies straight to the viewer's left of it. With rows along j and columns along i, a
    rotation is enough to put the anterior wall up in ACDC and M&Ms: nothing is mirrored. Pixels
    outside the native image become 0.

    The first key is the image (linear), the second the canonical mask (nearest): stacks (I, J, S)
    or (1, I, J, S), of which ``slice_index`` is taken, or a slice (1, I, J). Both become
    (1, size, size). Adds ``rotation_deg``, by which the patient was turned, counter-clockwise as
    seen; ``cut``, the share of the heart's pixels outside the crop; and ``field_mm``, the side of a
    crop that holds all of them.

    Args:
        keys: Image and mask.
        spacing: Pixel size of the crop in mm.
        size: Pixels along each side of the crop.

    Raises:
        DataError: If the slice does not show LV, MYO and RV, or its spacing is unknown.
    """

    def __init__(self, keys: KeysCollection, spacing: float, size: int) -> None:
        super().__init__(keys)
        self.spacing, self.size = spacing, size

    def __call__(self, data: Case) -> dict[Hashable, Any]:
        image, label = (self._slice(data, key) for key in self.keys)
        x, y, *_ = _spacing(data, self.keys[1])
        axes, centre = heart_axes(label, (x, y))
        points = crop_points(axes, centre, (x, y), self.spacing, self.size)
        crops = (sample(image, points, "bilinear"), sample(label, points, "nearest"))
        out = {key: _like(c[None], data[key]) for key, c in zip(self.keys, crops, strict=True)}
        cut, field_mm = cut_off(label, axes, centre, (x, y), self.size * self.spacing)
        turned = float(np.degrees(np.arctan2(*axes[::-1, 0])))
        return {**data, **out, "rotation_deg": turned, "cut": cut, "field_mm": field_mm}

    def _slice(self, data: Case, key: Hashable) -> np.ndarray:
        """Returns the slice (I, J) to crop."""
        voxels = _stack(data[key])
        if "slice_index" in data:
            return voxels[..., data["slice_index"]]
        if voxels.ndim != 3 or voxels.shape[0] != 1:
            raise DataError(
                f"{key} has shape {np.shape(data[key])}; expected a slice (1, I, J), or a stack "
                "and 'slice_index', which SelectSlices adds"
            )
        return voxels[0]


class WholePicturesd(MapTransform):
    """Makes a dictionary for each slice of a stack, with whole pictures on a grid of square pixels.

    The first key is the image (linear), the second the canonical mask (nearest), (I, J, S). Both
    become (1, size, size) about the centre of the slice; the image is scaled to [0, 1] between
    two percentiles of its stack. Adds what `SelectSlices` and `AlignHeartd` add.

    Args:
        keys: Image and mask.
        recipe: Pixels of the grid, and percentiles.
    """

    def __init__(self, keys: KeysCollection, recipe: Recipe) -> None:
        super().__init__(keys)
        self.recipe = recipe

    def __call__(self, data: Case) -> list[dict[Hashable, Any]]:
        (i, j, k), recipe = _spacing(data, self.keys[1]), self.recipe
        image, label = (_stack(data[key]) for key in self.keys)
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
            found.append(
                {
                    **data, self.keys[0]: images[z], self.keys[1]: labels[z], "slice_index": z,
                    "attributes": measure(data["counts"], (i, j, k), z),
                    "cut": cut, "field_mm": needed, "rotation_deg": 0.0,
                }
            )  # fmt: skip
        return found


class ScaleIntensityInMaskd(MapTransform):
    """Maps two percentiles of the intensities inside the mask to 0 and 1, and clips.

    With percentiles a single bright voxel does not set the scale; ``(0, 100)`` is min-max.

    Raises:
        DataError: If the mask is empty, or the image has one value throughout it.
    """

    def __init__(
        self, keys: KeysCollection, mask_key: str, percentiles: tuple[float, float]
    ) -> None:
        super().__init__(keys)
        self.mask_key, self.percentiles = mask_key, percentiles

    def __call__(self, data: Case) -> dict[Hashable, Any]:
        out = dict(data)
        inside = np.asarray(data[self.mask_key]) > 0
        for key in self.keys:
            image = np.asarray(data[key])
            if not inside.any():
                raise DataError(f"{self.mask_key} is empty; expected pixels of the heart")
            low, high = np.percentile(image[inside], self.percentiles)
            if not high > low:
                raise DataError(f"the image is {low:g} throughout the mask; expected contrast")
            scaled = np.where(inside, np.clip((image - low) / (high - low), 0, 1), 0)
            out[key] = _like(scaled, data[key])
        return out
