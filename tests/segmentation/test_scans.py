"""Segmenting whole pictures: the geometry comes back, views agree, one heart is left."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from scans import LEVELS, by_brightness, heart
from scipy.ndimage import binary_dilation

from cardiac_attrivae.data.cases import find_cases
from cardiac_attrivae.data.grid import to_grid, windowed
from cardiac_attrivae.data.known_pictures import KnownPictures, picture_digests
from cardiac_attrivae.data.manifest import load_manifest
from cardiac_attrivae.data.nifti import read_mask
from cardiac_attrivae.data.recipe import Recipe
from cardiac_attrivae.metrics.images import dice
from cardiac_attrivae.runtime.shipped_models import PRETRAINED
from cardiac_attrivae.runtime.weights import read_weights, write_weights
from cardiac_attrivae.schema import HEART, DataError, Structure
from cardiac_attrivae.segmentation.cleaning import (
    ATRIUM,
    SLIVER,
    UNSURE,
    below_base,
    cleaned,
    one_cavity,
    unbroken,
    without_atrium,
    without_doubtful_rv,
    without_false_apex,
    without_slivers,
)
from cardiac_attrivae.segmentation.plausible import base_faults, left_out
from cardiac_attrivae.segmentation.scans import STILL, ScanSegmenter, load_segmenter, vote
from cardiac_attrivae.segmentation.views import VIEWS, put_back, seen_in


def test_views_are_all_eight_orientations_and_both_orders():
    corner = torch.arange(6.0).reshape(2, 3)
    seen = {tuple(seen_in(corner, view).flatten().tolist()) for view in VIEWS}
    assert len(seen) == 8
    assert {view.reverse for view in VIEWS} == {True, False}
    for view in VIEWS:
        assert torch.equal(put_back(seen_in(corner, view), view), corner)


@pytest.mark.parametrize(
    ("shape", "spacing_mm"),
    [((120, 100, 6), (1.5, 1.5, 8.0)), ((200, 260, 5), (0.8, 0.8, 10.0)),
     ((110, 100, 5), (1.9, 1.7, 9.0))],
)  # fmt: skip
def test_labels_come_back_in_the_geometry_of_the_scan(shape, spacing_mm):
    labels, image = heart(shape, spacing_mm)
    found = ScanSegmenter("fake", [by_brightness]).segment(image * 700 + 30, spacing_mm)
    assert found.labels.shape == shape
    assert found.labels.dtype == np.uint8
    scores = dice(found.labels[None], labels[None])
    assert scores.min() > 0.93
    assert min(found.predicted_dice.values()) > 0.99
    assert found.warnings == ()


def test_a_picture_without_a_heart_is_said_to_have_none():
    found = ScanSegmenter("fake", [by_brightness]).segment(np.zeros((90, 90, 3)), (1.5, 1.5, 8.0))
    assert not found.labels.any()
    assert "no heart was found" in found.warnings


def test_a_stack_with_a_black_slice_is_not_trusted():
    labels, image = heart()
    image[..., 2] = 0
    found = ScanSegmenter("fake", [by_brightness]).segment(image, (1.5, 1.5, 8.0))
    assert (found.labels == 1).sum() < 0.8 * (labels == 1).sum()
    (told,) = [said for said in found.warnings if "left out" in said]
    assert told.startswith("a second part that looks like the LV was left out, ")


def test_a_scan_that_lost_its_spacing_is_not_trusted():
    _, image = heart((120, 100, 6), (1.5, 1.5, 8.0))
    wide = np.kron(image, np.ones((2, 2, 1)))
    found = ScanSegmenter("fake", [by_brightness]).segment(wide, (1.0, 1.0, 1.0))
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
        ScanSegmenter("fake", [by_brightness]).segment(image, (100.0, 100.0, 8.0))


def dimmed(images):
    """Sees hearts as `by_brightness` does, but takes the RV for background where it is large."""
    logits = by_brightness(images).clone()
    logits[:, 3] -= 40.0 * (torch.arange(images.shape[-1]) % 3 == 0)
    return logits


def same(one, other):
    return np.array_equal(one.labels, other.labels) and (
        (one.predicted_dice, one.warnings) == (other.predicted_dice, other.warnings)
    )


def test_two_equal_segmenters_are_one_and_their_order_does_not_matter():
    _, image = heart((120, 100, 3))
    image += np.random.default_rng(0).normal(0, 0.15, image.shape)
    lines, spacing = {Structure.LV: (-0.3, 1.2)}, (1.5, 1.5, 8.0)
    one = ScanSegmenter("one", [by_brightness], dice_lines=lines, views=VIEWS[::3])
    other = replace(one, name="other", networks=[dimmed], dice_lines={})
    third = replace(other, name="third", networks=[lambda images: dimmed(images.flip(-1)).flip(-1)])
    alone = one.segment(image, spacing)
    for count in (2, 3):
        assert same(vote([one] * count).segment(image, spacing), alone)
    votes = [vote(order) for order in permutations((one, other, third))]
    found = [both.segment(image, spacing) for both in votes]
    assert all(same(found[0], again) for again in found[1:])
    assert {both.name for both in votes} == {"one+other+third"}
    assert votes[0].dice_lines == lines  # those that were measured
    assert not same(found[0], alone)


def test_where_segmenters_disagree_a_lower_dice_is_expected():
    def coarse(images):
        return by_brightness(torch.nn.functional.avg_pool2d(images, 9, 1, 4))

    _, image = heart()
    one, other = ScanSegmenter("one", [by_brightness]), ScanSegmenter("other", [coarse])
    alone = [each.segment(image, (1.5, 1.5, 8.0)).predicted_dice for each in (one, other)]
    both = vote([one, other]).segment(image, (1.5, 1.5, 8.0)).predicted_dice
    for structure in HEART:
        assert both[structure] < min(dice[structure] for dice in alone) - 0.02


def test_segmenters_that_see_different_things_do_not_vote():
    one = ScanSegmenter("one", [by_brightness])
    with pytest.raises(DataError, match="one sees 3 slices of 128 x 128 pixels of 1.5 mm about "
                       "the heart, and two sees .* of 1.25 mm .*must see the same"):  # fmt: skip
        vote([one, replace(one, name="two", grid_mm=1.25)])
    with pytest.raises(DataError, match="expected one or more"):
        load_segmenter([])


def test_whoever_of_the_voters_was_trained_on_a_picture_is_told():
    _, image = heart()
    image += np.random.default_rng(0).normal(0, 0.05, image.shape)
    how, spacing = Recipe("whole", 1.5, 96), (1.5, 1.5, 8.0)
    digests = picture_digests(to_grid(windowed(image), spacing, 1.5, 96).numpy())
    one, other = (
        ScanSegmenter(name, [by_brightness], known=[KnownPictures(name, how, frozenset(known))])
        for name, known in (("one", digests), ("other", ()))
    )
    both = vote([other, one])
    found = both.segment_cine(np.stack([np.roll(image, 9, 0), 4 * image + 8], -1), spacing)
    assert [frame.trained_by for frame in found.frames] == [(), ("one",)]
    assert found.frames[1].familiar.startswith("one was trained on this scan")
    assert found.frames[0].familiar == ""


def upright(images):
    """Takes the LV for wall where the RV lies beside it along the last axis."""
    logits = by_brightness(images).clone()
    for one in logits:
        places = [
            (one.argmax(0) == part).nonzero().float() for part in (Structure.LV, Structure.RV)
        ]
        if all(map(len, places)):
            down, right = (places[0].mean(0) - places[1].mean(0)).abs()
            cavity = one.argmax(0) == Structure.LV
            one[Structure.MYO, cavity] = one[Structure.LV, cavity] + (9 if right > down else -2)
    return logits


def test_ed_and_es_are_found_where_all_frames_were_seen_alike():
    _, image = heart()
    still = np.stack([image] * 4, axis=-1)
    frames = still.copy()
    frames[66:75, 45:61, :, 1] = LEVELS[Structure.MYO]  # less of a cavity
    alone = ScanSegmenter("fake", [upright])
    cine = alone.segment_cine(frames, (1.5, 1.5, 8.0))
    assert (cine.ed, cine.es) == (0, 1)
    assert [frame.views for frame in cine.frames] == [8, 8, 2, 2]
    sizes = [int((frame.labels == Structure.LV).sum()) for frame in cine.frames]
    assert sizes[0] < sizes[2] == sizes[3]  # and yet frame 0 is ED: frame 2 was not looked at
    cine = alone.segment_cine(still, (1.5, 1.5, 8.0))
    assert cine.ed == cine.es == 0
    assert STILL in cine.frames[0].warnings


@pytest.mark.parametrize("order", [1, -1])
def test_an_atrium_at_the_base_is_no_right_ventricle(order):
    labels, image = heart((120, 100, 6))
    stolen = labels[..., 0].copy()
    stolen[:38][stolen[:38] == Structure.RV] = Structure.BACKGROUND  # a part of the RV is left
    kept = (stolen == Structure.RV).sum() / (labels[..., 1] == Structure.RV).sum()
    assert 0.2 < kept < ATRIUM
    stack = np.dstack([stolen[..., None], labels[..., 1:]])[..., ::order]
    found = without_atrium(stack)[..., ::order]
    assert not (found[..., 0] == Structure.RV).any()
    assert np.array_equal(found[..., 1:], labels[..., 1:])
    assert np.array_equal(found[..., 0] * (stolen != Structure.RV), found[..., 0])
    assert np.array_equal(without_atrium(labels[..., ::order]), labels[..., ::order])
    unclear = np.dstack([stolen, *[labels[..., 1]] * 4, stolen])
    assert np.array_equal(without_atrium(unclear), unclear)


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(("lv", "kept"), [
    ([22, 20, 17, 12, 8, 11], 5), ([22, 20, 17, 12, 8, 7], 6),  # larger again, or not
    ([22, 20, 17, 16, 17], 5),  # no apex in it: as wide as ever
    ([22, 20, 17, 9, 11, 12], 5), ([22, 20, 17, 9, 17, 18], 6),  # one slice at the most
])  # fmt: skip
def test_an_apex_that_is_larger_than_the_slice_before_it_is_muscle(order, lv, kept):
    labels, _ = heart((120, 100, len(lv)))
    x, y = np.indices(labels.shape[:2])
    for z, radius in enumerate(lv):
        plane = labels[..., z]
        plane[plane == Structure.LV] = Structure.MYO
        plane[(np.hypot(x - 60, y - 53.3) * 1.5 < radius) & (plane == Structure.MYO)] = Structure.LV
    found = without_false_apex(labels[..., ::order])[..., ::order]
    cavity = labels == Structure.LV
    assert np.array_equal(found[~cavity], labels[~cavity])
    assert (found[..., :kept][cavity[..., :kept]] == Structure.LV).all()
    assert (found[..., kept:][cavity[..., kept:]] == Structure.MYO).all()


@pytest.mark.realdata
def test_no_expert_outlines_an_apex_that_is_none_in_whole_or_cut_off_stacks(real_data):
    for record in find_cases(load_manifest("acdc"), real_data / "acdc").records[:20]:
        raw = read_mask(record.mask, record.frame).voxels
        labels = np.choose(raw, [0, 3, 2, 1]).astype(np.uint8)
        for missing in range(4):  # base first
            stack = labels[..., : labels.shape[2] - missing]
            assert np.array_equal(without_false_apex(stack), stack)


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("unsure", [0, 1, 2])
def test_an_rv_at_the_base_that_is_not_sure_is_removed(order, unsure):
    labels, _ = heart((120, 100, 6))
    rv = (labels == Structure.RV) * np.full(labels.shape[2], 0.99)
    rv[..., :unsure] *= (UNSURE - 0.01) / 0.99
    rv[..., 4] *= 0.5  # towards the apex it is kept
    found = without_doubtful_rv(labels[..., ::order], rv[..., ::order])[..., ::order]
    assert not (found[..., :unsure] == Structure.RV).any()
    assert np.array_equal(found[..., unsure:], labels[..., unsure:])
    assert np.array_equal(found == Structure.LV, labels == Structure.LV)
    everywhere = without_doubtful_rv(labels[..., ::order], 0 * rv)[..., ::order]
    assert ((everywhere == Structure.RV).any((0, 1))).sum() == 2  # a heart keeps some
    unclear = labels[..., [0, 1, 1, 0]]
    assert np.array_equal(without_doubtful_rv(unclear, np.zeros(unclear.shape)), unclear)


def test_a_segmenter_leaves_out_an_rv_at_the_base_that_it_is_not_sure_of():
    labels, image = heart()
    image[..., 0][labels[..., 0] == Structure.RV] = 0.53  # a little nearer to RV than to muscle
    found = ScanSegmenter("fake", [by_brightness]).segment(image, (1.5, 1.5, 8.0)).labels
    assert not (found[..., 0] == Structure.RV).any()
    for structure, shown in ((Structure.LV, found[..., 0]), (Structure.RV, found[..., 1])):
        assert (shown == structure).any()


@pytest.mark.parametrize("order", [1, -1])
def test_a_sliver_of_wall_lies_beyond_the_ventricles(order):
    labels, _ = heart((120, 100, 6))
    wall = (labels[..., 1] == Structure.MYO).sum()
    for column, kept in ((55, True), (70, False)):
        opened = labels[..., 0].copy()
        opened[:, :column][opened[:, :column] == Structure.MYO] = Structure.BACKGROUND
        assert ((opened == Structure.MYO).sum() > SLIVER * wall) == kept
        stack = np.dstack([opened[..., None], labels[..., 1:]])[..., ::order]
        found = below_base(stack)[..., ::order]
        assert found[..., 0].any() == kept
        assert np.array_equal(found[..., 1:], labels[..., 1:])
    assert np.array_equal(below_base(labels[..., ::order]), labels[..., ::order])


def taken_for_lv(labels, slices):
    """Labels in which the RV and a wall of two pixels about it are labelled as LV and its wall."""
    wrong = labels.copy()
    for z in slices:
        plane = wrong[..., z]
        right = plane == Structure.RV
        plane[binary_dilation(right, iterations=2) & (plane == 0)] = Structure.MYO
        plane[right] = Structure.LV
    return wrong


@pytest.mark.parametrize("order", [1, -1])
def test_half_a_wall_at_the_base_is_reported_with_what_hangs_on_it(order):
    labels, _ = heart((120, 100, 6))
    plane = labels[..., 0]
    plane[:, :60][plane[:, :60] == Structure.MYO] = Structure.BACKGROUND
    assert np.array_equal(below_base(labels[..., ::order]), labels[..., ::order])
    share = (plane == Structure.LV).sum() / (labels == Structure.LV).sum()
    assert 0.2 < share < 0.4
    said = f"the wall is thin at the base: {share:.0%} of the LV lies there and may be atrium"
    assert base_faults(labels[..., ::order]) == [said]
    assert base_faults(heart()[0]) == []


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("slices", [[1], [2, 3], [5]])
def test_a_right_ventricle_that_was_taken_for_the_left_one_is_one_again(slices, order):
    labels = heart()[0][..., ::order]
    wrong = taken_for_lv(labels[..., ::order], slices)[..., ::order]
    assert not np.array_equal(wrong, labels)
    found = cleaned(wrong)
    scores = dice(found[None], labels[None])[0]
    assert scores.tolist() == pytest.approx([1, 1, 1], abs=0.02)
    assert np.array_equal(found == Structure.LV, labels == Structure.LV)
    (told,) = left_out(wrong, found)
    assert told.startswith("a second part that looks like the LV was left out, ")


def test_a_second_lv_is_taken_back_where_the_base_is_unclear():
    labels = heart()[0][..., [2, 1, 0, 0, 1, 2]]
    found = cleaned(taken_for_lv(labels, [2, 3]))
    assert np.array_equal(found == Structure.LV, labels == Structure.LV)
    assert dice(found[None], labels[None]).min() > 0.98


@pytest.mark.parametrize("order", [1, -1])
def test_an_outflow_tract_that_was_taken_for_the_lv_is_removed(order):
    labels, _ = heart()
    found = one_cavity(taken_for_lv(labels, [0])[..., ::order])[..., ::order]
    assert not (found[..., 0] == Structure.RV).any()
    assert np.array_equal(found == Structure.LV, labels == Structure.LV)
    assert np.array_equal(found[..., 1:], labels[..., 1:])
    assert one_cavity(labels) is labels


RULES = one_cavity, without_slivers, without_atrium


@pytest.mark.realdata
def test_experts_masks_are_hardly_ever_changed(real_data):
    records = find_cases(load_manifest("acdc"), real_data / "acdc", "ES").records[::5]
    table, changed = np.array([0, 3, 2, 1], np.uint8), dict.fromkeys(RULES, 0)
    for record in records:
        labels = table[read_mask(record.mask, record.frame).voxels.astype(int)]
        for rule in changed:
            changed[rule] += not np.array_equal(rule(labels), labels)
    assert changed[without_slivers] == changed[one_cavity] == 0
    assert changed[without_atrium] <= 1 < len(records)


@pytest.mark.parametrize(
    ("slices", "said"),
    [([2], "the stack covers 8 mm, less than a heart: volumes are those of a part"),
     ([0, 0, 1, 1, 0], "all slices show nearly as much heart: they are a part of it, or moments")],
)  # fmt: skip
def test_slices_that_are_no_stack_of_a_heart_are_not_trusted(slices, said):
    _, image = heart()
    segmenter = ScanSegmenter("fake", [by_brightness], views=VIEWS[:1])
    found = segmenter.segment(image[..., slices], (1.5, 1.5, 8.0))
    assert said in "; ".join(found.warnings)
    assert "is the spacing that of the scan?" not in "; ".join(found.warnings)
    assert segmenter.segment(image, (1.5, 1.5, 8.0)).warnings == ()


def test_a_cavity_below_the_apex_is_removed():
    labels, _ = heart()
    broken = labels.copy()
    broken[..., 4][broken[..., 4] == Structure.LV] = Structure.MYO
    found = unbroken(broken)
    assert np.array_equal(found[..., :5], broken[..., :5])
    assert set(np.unique(found[..., 5])) == {Structure.BACKGROUND, Structure.RV}
    assert np.array_equal(unbroken(labels), labels)
    assert not unbroken(np.zeros_like(labels)).any()


def test_an_onnx_segmenter_needs_a_file():
    with pytest.raises(DataError, match="onnx: names no file; expected onnx:FILE"):
        load_segmenter("onnx:")


def test_a_segmenter_has_one_vote():
    with pytest.raises(DataError, match="acdc is given twice"):
        load_segmenter(["acdc", "acdc"])
