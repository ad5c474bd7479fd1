"""Segmenting whole pictures: the geometry comes back, views agree, one heart is left."""

import numpy as np
import pytest
import torch

from cardiac_attrivae.metrics.images import dice
from cardiac_attrivae.schema import DataError, Structure
from cardiac_attrivae.segmentation.scans import (
    VIEWS,
    ScanSegmenter,
    _seen,
    _unseen,
    load_segmenter,
)

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


def test_views_are_all_eight_orientations_and_both_orders():
    corner = torch.arange(6.0).reshape(2, 3)
    seen = {tuple(_seen(corner, view).flatten().tolist()) for view in VIEWS}
    assert len(seen) == 8
    assert {view.reverse for view in VIEWS} == {True, False}
    for view in VIEWS:
        assert torch.equal(_unseen(_seen(corner, view), view), corner)


@pytest.mark.parametrize(
    ("shape", "spacing_mm"),
    [((120, 100, 6), (1.5, 1.5, 8.0)), ((200, 260, 5), (0.8, 0.8, 10.0)),
     ((110, 100, 4), (1.9, 1.7, 9.0))],
)  # fmt: skip
def test_labels_come_back_in_the_geometry_of_the_scan(shape, spacing_mm):
    labels, image = heart(shape, spacing_mm)
    found = ScanSegmenter("fake", by_brightness).segment(image * 700 + 30, spacing_mm)
    assert found.labels.shape == shape
    assert found.labels.dtype == np.uint8
    scores = dice(found.labels[None], labels[None])
    assert scores.min() > 0.93
    assert min(found.predicted_dice.values()) > 0.99
    assert found.warnings == ()


def test_a_picture_without_a_heart_is_said_to_have_none():
    found = ScanSegmenter("fake", by_brightness).segment(np.zeros((90, 90, 3)), (1.5, 1.5, 8.0))
    assert not found.labels.any()
    assert "no heart was found" in found.warnings


def test_a_missing_segmenter_is_named():
    with pytest.raises(DataError, match="no segmenter 'not/there'"):
        load_segmenter("not/there")
