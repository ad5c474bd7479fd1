"""Segmenting whole pictures: the geometry comes back, views agree, one heart is left."""

import numpy as np
import pytest
import torch
from scans import by_brightness, heart

from cardiac_attrivae.metrics.images import dice
from cardiac_attrivae.schema import DataError
from cardiac_attrivae.segmentation.scans import (
    VIEWS,
    ScanSegmenter,
    _seen,
    _unseen,
    load_segmenter,
)


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
