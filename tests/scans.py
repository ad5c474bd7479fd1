"""Scans that are made up: a heart whose areas fall along Z, and a network that sees it."""

import numpy as np
import torch

from cardiac_attrivae.schema import Structure

LEVELS = torch.tensor([0.0, 1.0, 0.35, 0.7])
"""Brightness of background, LV, MYO and RV in the pictures of `heart`."""


def heart(shape=(120, 100, 6), spacing_mm=(1.5, 1.5, 8.0), centre_mm=(90.0, 80.0)):
    """Labels of a heart whose areas fall along Z, and a picture that shows them by brightness."""
    x, y = (np.arange(n) * mm for n, mm in zip(shape[:2], spacing_mm[:2], strict=True))
    labels = np.zeros(shape, np.uint8)
    for z in range(shape[2]):
        size = 1 - 0.1 * z
        far = np.hypot(x[:, None] - centre_mm[0], y - centre_mm[1])
        right = np.hypot(x[:, None] - centre_mm[0] + 35 * size, y - centre_mm[1])
        plane = labels[..., z]
        plane[right < 28 * size] = Structure.RV
        plane[far < 32 * size] = Structure.MYO
        plane[far < 22 * size] = Structure.LV
    return labels, LEVELS.numpy()[labels]


def by_brightness(images):
    """Logits of the class whose level the middle slice is next to."""
    middle = images[:, images.shape[1] // 2, None]
    return -200 * (middle - LEVELS[:, None, None]) ** 2
