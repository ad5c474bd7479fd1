"""Reads a case: image and mask of a patient at one phase or two, with canonical labels."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, MapTransform, Transform
from torch import Tensor

from ..heart import count_true, is_one_heart, pixel_counts, shows
from ..schema import MANUAL, CaseRecord, DataError, Keys, Structure
from .anatomy import PHASES_EXCHANGED, heart_box, oddities
from .images import laid_on, read_image, turned_round
from .nifti import are_finite, lost_contrast, read_mask

Case = Mapping[Hashable, Any]


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
    """Reads image and mask at the frame of the record; adds ``spacing`` (mm along i, j, slices),
    ``stored``, both volumes as they are in the files, and whether the mask was ``predicted``.

    MONAI's LoadImage decodes a whole cine and takes the spacing from the affine, which in ACDC is a
    placeholder.

    Raises:
        DataError: If a file is damaged, image and mask do not fit, or the image is not finite
            or has no contrast in float32.
    """

    def __call__(self, data: Case) -> dict[Hashable, Any]:
        record: CaseRecord = data["record"]
        image = read_image(record.image, record.frame)
        stored = read_mask(record.mask, record.frame)
        mask = laid_on(image, stored, record)
        if record.mirror:
            image, stored, mask = map(turned_round, (image, stored, mask))
        if image.voxels.shape != mask.voxels.shape:
            raise DataError(
                f"image has shape {image.voxels.shape} and mask {mask.voxels.shape}; expected equal"
            )
        if not are_finite(image.voxels):
            raise DataError(f"{record.image.name} holds NaN or infinite values, or beyond float32")
        if lost := lost_contrast(image.voxels):
            raise DataError(f"{record.image.name} {lost}")
        values = dict(zip(self.keys, (image.voxels, mask.voxels), strict=True))
        found = {**data, **values, "spacing": image.spacing_mm, "stored": (image, stored)}
        return {**found, "predicted": record.mask_source != MANUAL}


def stack_of(voxels: Any) -> np.ndarray:
    """Returns a stack (I, J, S) of an array or tensor, without its channel.

    Example:
        >>> stack_of(np.zeros((1, 8, 8, 3))).shape
        (8, 8, 3)
    """
    stack = np.asarray(voxels)
    return stack[0] if stack.ndim == 4 and stack.shape[0] == 1 else stack


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
            # around the heart is background, which needs no renumbering
            around = raw.ndim == 3 and numbers.get(0) == Structure.BACKGROUND
            box = heart_box(raw != 0) if around else ...
            part = raw[box].copy(order="K")  # in one piece, which numpy is fast with
            found, known = np.zeros_like(part, dtype=np.uint8), 0
            for number, structure in numbers.items():
                here = part == number
                known += count_true(here)
                if structure != Structure.BACKGROUND:
                    found += here.view(np.uint8) * np.uint8(structure)
            canonical = np.zeros_like(raw, dtype=np.uint8)
            canonical[box] = found
            if known < part.size:
                others = np.unique(part[~np.isin(part, [*numbers])])
                unknown = ", ".join(f"{n:.6g}" for n in others[:5])
                accepted = ", ".join(f"{n} {Structure(s).name}" for n, s in numbers.items())
                raise DataError(f"{name} holds label {unknown}; expected {accepted}")
            if not found.any():
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
        (image, mask), matched = data["stored"], data["record"].match == "affine"
        found = oddities(image, mask, data[Keys.LABEL], matched, data["box"], data["counts"])
        rest = {key: value for key, value in data.items() if key != "stored"}
        return {**rest, "remarks": [oddity.what for oddity in found]}


class MeasureHeart(Transform):
    """Adds ``mask``, the native mask cut to the ``box`` around the heart, and its pixel ``counts``.

    The mask is ``label``, canonical, (I, J, S) or (1, I, J, S).

    Raises:
        DataError: If there is no LV, or a second one: volumes would be those of two hearts.
    """

    def __call__(self, data: Case) -> dict[Hashable, Any]:
        mask, name = stack_of(data[Keys.LABEL]), _name(data, Keys.LABEL)
        if mask.ndim != 3:
            raise DataError(f"{name} has shape {mask.shape}; expected (I, J, S) or (1, I, J, S)")
        box = heart_box(mask)
        heart = mask[box]
        if not heart.size:
            raise DataError(f"{name} is empty: no mask to use")
        if not is_one_heart(shows(heart, Structure.LV)):
            raise DataError(f"{name} shows the LV in two places; expected one")
        return {**data, "box": box, "mask": heart, "counts": pixel_counts(heart)}


def _lv_voxels(measured: Mapping[Hashable, Any]) -> int:
    return int(measured["counts"][:, Structure.LV].sum())


class NotePhases(Transform):
    """Adds a remark where the LV is larger at ES, of which nothing but the mask is read, if the
    ``record`` says where it is."""

    def __call__(self, data: Case) -> dict[Hashable, Any]:
        later: CaseRecord | None = data["record"].later
        try:
            mask = read_mask(later.mask, later.frame).voxels if later else None
        except DataError:  # `check` says what is wrong at ES
            mask = None
        remarks = list(data.get("remarks", ()))
        if later and mask is not None and sorted(mask.shape) == sorted(data[Keys.LABEL].shape):
            numbers = [n for n, found in later.label_numbers.items() if found == Structure.LV]
            if sum(count_true(mask == n) for n in numbers) > _lv_voxels(data):
                remarks.append(PHASES_EXCHANGED)
        return {**data, "remarks": remarks}


LATER_MISSING = "no usable mask at ES: attributes that need it are blank, pictures at ES are black"


class AddLaterd(MapTransform):
    """Reads a case at ES, too, and makes ED and ES the channels of image and mask, (2, I, J, S).

    Adds ``later``, what `MeasureHeart` returns of ES, or None.

    Args:
        keys: Image and mask.
        read: The transforms from a record to its measured heart.
        optional: Whether a case without a usable mask at ES is kept: with black channels, and a
            remark. Otherwise it is refused.

    Raises:
        DataError: If ES cannot be used, or has another grid than ED.
    """

    def __init__(self, keys: KeysCollection, read: list[Any], optional: bool) -> None:
        super().__init__(keys)
        self.read, self.optional = Compose(read), optional

    def __call__(self, data: Case) -> dict[Hashable, Any]:
        try:
            later = self._later(data)
        except DataError:
            if not self.optional:
                raise
            blank = {key: np.zeros_like(data[key]) for key in self.keys}
            later = {**blank, "remarks": [LATER_MISSING]}
        channels = {key: np.stack([data[key], later[key]]) for key in self.keys}
        remarks = [*dict.fromkeys([*data["remarks"], *later["remarks"]])]
        found = later if "counts" in later else None
        if found and _lv_voxels(found) > _lv_voxels(data):
            remarks.append(PHASES_EXCHANGED)
        return {**data, **channels, "remarks": remarks, "later": found}

    def _later(self, data: Case) -> dict[Hashable, Any]:
        record = data["record"].later
        if record is None:
            raise DataError("no mask at ES")
        try:
            later = self.read({"record": record})
        except RuntimeError as error:  # MONAI wraps what a transform raises
            raise innermost(error) from error
        found, wanted = ((d[self.keys[0]].shape, d["spacing"]) for d in (later, data))
        if found[0] != wanted[0] or not np.allclose(found[1], wanted[1], rtol=1e-3):
            raise DataError(f"ES has shape {found[0]} and ED {wanted[0]}; expected the same grid")
        return later
