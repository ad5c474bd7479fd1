"""What preprocessing depends on, without the libraries that carry it out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..schema import Phase, Scale

WHOLE = "whole"
SLICES = ("basal", "mid", "max-area", "all", WHOLE)
"""Which slices of a patient may be kept."""
PHASES = ((Phase.ED,), (Phase.ED, Phase.ES))
"""Which phases may be the channels of a slice."""
STACK_MM = 90.0
"""What the slices of a stack cover from the most basal one on. Their distance is the same in every
patient, so that a long heart fills more of them: spread over the length of each heart, they would
hide it, and with it the volume."""
MOST_SLICES = 32
PIXELS_MM = (0.1, 10)
"""Least and largest spacing of the pixels of a crop."""


@dataclass(frozen=True)
class Recipe:
    """Settings that preprocessing depends on.

    Attributes:
        slice: ``basal``: the most basal usable slice; ``mid``: halfway between the most basal and
            the most apical; ``max-area``: the one that shows most of the heart; ``all`` of them.
            ``whole``: every slice of the stack at ED and ES, usable or not, as a whole picture that
            is neither turned nor masked, to train a segmenter on.
        spacing: Pixel size of the crop in mm.
        size: Pixels along each side of the crop.
        least_pixels: A slice is usable if each structure has more pixels than this.
        percentiles: Intensities inside the mask that become 0 and 1.
        phases: Channels of a slice: ``("ED",)``, or ``("ED", "ES")``, both in the geometry of ED.
            The slice chosen is then usable at both; with ``all``, every slice usable at ED is kept,
            with what there is at ES.
        stack: Slices at each phase that are channels together, `STACK_MM` / stack apart. The first
            is the most basal one that is usable at ED, whatever it shows at ES; those beyond the
            heart are black.
    """

    slice: str = "basal"
    spacing: float = 1.3
    size: int = 128
    least_pixels: int = 10
    percentiles: tuple[float, float] = (1.0, 99.0)
    phases: tuple[str, ...] = (Phase.ED,)
    stack: int = 1

    def __post_init__(self) -> None:
        if self.slice not in SLICES:
            raise ValueError(f"slice is {self.slice!r}; expected one of {', '.join(SLICES)}")
        if self.phases not in PHASES:
            raise ValueError(f"phases is {', '.join(self.phases)}; expected ED, or ED,ES")
        if self.slice == WHOLE and len(self.phases) > 1:
            raise ValueError(
                "slice whole keeps ED and ES as slices of their own; leave phases out, or choose "
                "another slice"
            )
        if not 1 <= self.stack <= MOST_SLICES:
            raise ValueError(f"stack is {self.stack} slices; expected 1 to {MOST_SLICES}")
        if self.stack > 1 and self.slice != "basal":
            raise ValueError(
                f"a stack begins at the most basal slice, and slice is {self.slice!r}; leave it out"
            )
        least, most = PIXELS_MM
        if not least <= self.spacing <= most:
            raise ValueError(f"spacing is {self.spacing} mm; expected {least} to {most}")
        if not 16 <= self.size <= 1024:
            raise ValueError(f"size is {self.size} pixels; expected 16 to 1024")

    @property
    def channels(self) -> int:
        """Channels of a row of the store: those of ED from base to apex, then those of ES."""
        return len(self.phases) * self.stack


def full_recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Adds to a recipe what those of earlier versions do not say.

    Example:
        >>> full_recipe({"slice": "mid"})
        {'phases': ['ED'], 'stack': 1, 'slice': 'mid'}
    """
    return {"phases": ["ED"], "stack": 1, **recipe}


def scale_of(recipe: Mapping[str, Any]) -> Scale:
    """Returns what the pixels of a store count for, by the recipe in its dataset.json.

    Example:
        >>> scale_of({"spacing": 2.0}), scale_of({"spacing": 2.0, "stack": 5})
        (Scale(pixel=0.04, slices=1), Scale(pixel=0.072, slices=5))
    """
    slices, pixel = int(full_recipe(recipe)["stack"]), recipe["spacing"] ** 2 / 100
    return Scale(pixel if slices == 1 else pixel * STACK_MM / slices / 10, slices)
