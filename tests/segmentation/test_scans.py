"""Segmenting whole pictures: the geometry comes back, views agree, one heart is left."""

import numpy as np
import pytest
import torch
from scans import by_brightness, heart

from cardiac_attrivae.metrics.images import dice
from cardiac_attrivae.runtime.shipped_models import PRETRAINED
from cardiac_attrivae.runtime.weights import read_weights, write_weights
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


def test_a_stack_with_a_black_slice_is_not_trusted():
    labels, image = heart()
    image[..., 2] = 0
    found = ScanSegmenter("fake", by_brightness).segment(image, (1.5, 1.5, 8.0))
    assert (found.labels == 1).sum() < 0.8 * (labels == 1).sum()
    (told,) = [said for said in found.warnings if "left out" in said]
    assert told.startswith("a second part that looks like the LV was left out, ")


def test_a_scan_that_lost_its_spacing_is_not_trusted():
    _, image = heart((120, 100, 6), (1.5, 1.5, 8.0))
    wide = np.kron(image, np.ones((2, 2, 1)))
    found = ScanSegmenter("fake", by_brightness).segment(wide, (1.0, 1.0, 1.0))
    assert (
        "an LV of 6 mm length in a heart of 92.6 mm width: is the spacing that of the scan?"
        in " ".join(found.warnings)
    )


def test_a_missing_segmenter_is_named():
    with pytest.raises(DataError, match="no segmenter 'not/there'"):
        load_segmenter("not/there")


CRAFTED = {
    "code of another package": (
        lambda about: about["pipeline"].update(network={"name": "harm.Net", "arguments": {}}),
        "its network is harm.Net, which outlines no hearts",
    ),
    "a network that fills the memory": (
        lambda about: about["pipeline"]["network"]["arguments"].update(filters=[1200] * 5),
        "network.arguments ask for",
    ),
    "pixels of a micrometre": (
        lambda about: about["recipe"].update(spacing=0.001),
        "spacing is 0.001 mm; expected 0.1 to 10",
    ),
    "a Dice that is no number": (
        lambda about: about["dice_lines"].update(LV=[float("nan"), 1.0]),
        "dice_lines holds what is no number",
    ),
}


@pytest.mark.parametrize("harm", CRAFTED)
def test_a_crafted_segmenter_runs_no_code_and_takes_no_memory(harm, tmp_path, monkeypatch):
    change, said = CRAFTED[harm]
    weights, about = read_weights(PRETRAINED / "acdc" / "segmenter" / "model.safetensors")
    change(about)
    write_weights(tmp_path / "model.safetensors", weights, about)
    (tmp_path / "harm.py").write_text("open('pwned', 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=said):
        load_segmenter(tmp_path)
    assert not (tmp_path / "pwned").exists()


def test_a_field_that_no_scanner_has_is_refused_before_memory_is_taken():
    image = np.zeros((400, 400, 2), np.float32)
    with pytest.raises(DataError, match="2 slices over 40008 mm are 26672 x 26672 pixels"):
        ScanSegmenter("fake", by_brightness).segment(image, (100.0, 100.0, 8.0))
