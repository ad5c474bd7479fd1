"""Recognises pictures that a segmenter was trained on, by digests that show nothing of them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from .grid import to_grid, windowed
from .recipe import Recipe

LEVELS = 15
"""Steps of brightness: another processor changes the last digit of a pixel, and few steps."""
DIGITS = 12


def picture_digests(slices: np.ndarray) -> set[str]:
    """Returns digests of three slices of a frame, of which one suffices to recognise it.

    Args:
        slices: Whole pictures from 0 to 1, (Z, H, W); slices of one value are left out.

    Example:
        >>> frame = np.random.default_rng(0).random((9, 32, 32))
        >>> len(picture_digests(frame)), picture_digests(np.zeros((9, 32, 32)))
        (3, set())
    """
    count, found = len(slices), set()
    for z in {count // 4, count // 2, 3 * count // 4}:
        steps = np.rint(LEVELS * slices[z]).astype(np.uint8)
        if np.ptp(steps):
            found.add(hashlib.sha256(steps.tobytes()).hexdigest()[:DIGITS])
    return found


@dataclass(frozen=True)
class KnownPictures:
    """The pictures that a segmenter was trained on."""

    name: str  # of the segmenter
    recipe: Recipe  # how the pictures were brought to their grid
    digests: frozenset[str]  # see `picture_digests`

    def holds(self, image: np.ndarray, spacing_mm: tuple[float, ...]) -> bool:
        """Tells whether a frame, (X, Y, Z) in any unit, is one of them.

        Example:
            >>> image, how = np.random.default_rng(0).random((40, 40, 4)), Recipe("whole", 1.5, 32)
            >>> slices = to_grid(windowed(image), (1.4, 1.4, 8.0), 1.5, 32).numpy()
            >>> known = KnownPictures("acdc", how, frozenset(picture_digests(slices)))
            >>> known.holds(700 * image + 3, (1.4, 1.4, 8.0)), known.holds(image**2, (1.4, 1.4, 8))
            (True, False)
        """
        how = self.recipe
        slices = to_grid(windowed(image, how.percentiles), spacing_mm, how.spacing, how.size)
        return not self.digests.isdisjoint(picture_digests(slices.numpy()))
