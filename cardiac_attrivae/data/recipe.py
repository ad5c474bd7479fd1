"""What preprocessing depends on, without the libraries that carry it out."""

from __future__ import annotations

from dataclasses import dataclass

WHOLE = "whole"
SLICES = ("basal", "mid", "max-area", "all", WHOLE)
"""Which slices of a patient may be kept."""


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
    """

    slice: str = "basal"
    spacing: float = 1.3
    size: int = 128
    least_pixels: int = 10
    percentiles: tuple[float, float] = (1.0, 99.0)

    def __post_init__(self) -> None:
        if self.slice not in SLICES:
            raise ValueError(f"slice is {self.slice!r}; expected one of {', '.join(SLICES)}")
        if not 0.1 <= self.spacing <= 10:
            raise ValueError(f"spacing is {self.spacing} mm; expected 0.1 to 10")
        if not 16 <= self.size <= 1024:
            raise ValueError(f"size is {self.size} pixels; expected 16 to 1024")
