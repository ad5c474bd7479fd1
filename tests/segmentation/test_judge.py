"""The segmenter: known masks and hearts, and a cache that is read only if it is undamaged."""

import dataclasses
import io
import os
import shutil
import sys

import numpy as np
import pytest
import torch
from conftest import heart
from scipy.ndimage import gaussian_filter

from cardiac_attrivae.data.preprocess import preprocess
from cardiac_attrivae.data.store import SliceDataset, areas
from cardiac_attrivae.runtime.folders import locked
from cardiac_attrivae.schema import DataError, Scale
from cardiac_attrivae.segmentation import judge, judge_training
from cardiac_attrivae.segmentation.guide import train_guide
from cardiac_attrivae.segmentation.judge import (
    Training,
    cache_of,
    dice,
    patients_of,
    scored,
    segmenters_for,
)
from cardiac_attrivae.segmentation.judge_training import as_decoded, train_network

SHORT = Training(steps=4, batch_size=8)


@pytest.fixture(scope="module")
def phantoms(acdc_store_all):
    return SliceDataset.open(acdc_store_all)


@pytest.fixture(scope="module")
def learned(phantoms):
    train, unseen = patients_of(phantoms, seed=0)
    network = train_network(train, training=Training(steps=40, batch_size=8))
    return scored(network, unseen.basal()), unseen


def weights(network):
    return torch.cat([value.flatten().double() for value in network.state_dict().values()])


def segmenter_for(store, cache, **options):
    return segmenters_for(store, cache, **options)[0]


def drawn(*labels):
    return torch.as_tensor(np.stack(labels)[:, None])


def test_areas_count_pixels_in_the_order_of_the_heart():
    label = np.zeros((1, 1, 8, 8), np.uint8)
    label[0, 0, :2, :2], label[0, 0, 4, :3], label[0, 0, 7, 7] = 1, 2, 3
    np.testing.assert_allclose(areas(label, Scale(0.5)), [[2.0, 1.5, 0.5]])
    np.testing.assert_allclose(areas(torch.as_tensor(label), Scale(0.5)), [[2.0, 1.5, 0.5]])


def test_dice_is_one_on_itself_zero_apart_and_two_thirds_when_half_is_missing():
    label = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    label[0, 0, :4], label[0, 0, 4:6], label[0, 0, 6:] = 1, 2, 3
    half = label.clone()
    half[0, 0, :4, 4:] = 0
    half[0, 0, 4:6] = 0
    np.testing.assert_allclose(dice(label, label), [[1, 1, 1]])
    np.testing.assert_allclose(dice(half, label), [[2 / 3, 0, 1]])
    np.testing.assert_allclose(dice(half, label), dice(label, half))


def test_dice_of_a_structure_that_is_in_neither_is_unknown_and_in_one_of_them_is_zero():
    empty = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    label = empty.clone()
    label[1, 0, 0] = 2
    np.testing.assert_array_equal(dice(empty, label), [[np.nan] * 3, [np.nan, 0, np.nan]])
    np.testing.assert_array_equal(dice(label, empty), dice(empty, label))


def test_it_learns_phantoms_it_has_not_seen(learned):
    segmenter, unseen = learned
    everything_lv = dice(torch.ones_like(unseen.labels), unseen.labels)[:, 0].mean()
    assert everything_lv < 0.3
    assert min(segmenter.dice.values()) > 0.6
    assert list(segmenter.dice) == ["LV", "MYO", "RV"]
    assert segmenter.patients == unseen.cases["case"].nunique()
    basal = unseen.basal()
    measured = dice(segmenter(basal.images), basal.labels).mean(axis=0)
    np.testing.assert_allclose(measured, list(segmenter.dice.values()))


@pytest.mark.parametrize("sigma", [1, 2])
def test_blur_moves_areas_little(learned, sigma):
    segmenter, unseen = learned
    blurred = torch.as_tensor(gaussian_filter(unseen.images.numpy(), (0, 0, sigma, sigma)))
    assert np.nanmean(dice(segmenter(blurred), unseen.labels)) > 0.75


def test_labels_are_bytes_and_do_not_depend_on_the_batch(learned):
    segmenter, unseen = learned
    images = unseen.images[:7].repeat(10, 1, 1, 1)  # more than a chunk
    labels = segmenter(images)
    assert labels.dtype == torch.uint8
    assert labels.shape == images.shape
    assert set(labels.unique().tolist()) <= {0, 1, 2, 3}
    assert (labels[:7] == labels[63:70]).all()


def test_the_same_seed_trains_the_same_network_whatever_was_drawn_before(drawn_slices):
    train, unseen = patients_of(drawn_slices, seed=0)
    first = weights(train_network(train, training=SHORT))
    torch.rand(3)
    second = weights(train_network(train, training=SHORT))
    other = weights(train_network(train, seed=1, training=SHORT))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_training_leaves_the_global_generator_alone(drawn_slices):
    train, unseen = patients_of(drawn_slices, seed=0)
    state = torch.get_rng_state()
    train_network(train, training=SHORT)
    assert torch.equal(state, torch.get_rng_state())


def test_a_cached_segmenter_is_read_and_labels_the_same(drawn_slices, tmp_path, monkeypatch):
    trained = segmenter_for(drawn_slices, tmp_path, training=SHORT)
    assert [file.suffix for file in tmp_path.iterdir()] == [".safetensors"]
    monkeypatch.setattr(judge, "train_network", None)  # a second training would fail
    read = segmenter_for(drawn_slices, tmp_path, training=SHORT)
    assert torch.equal(read(drawn_slices.images), trained(drawn_slices.images))
    assert (read.dice, read.patients) == (trained.dice, trained.patients)


def test_another_store_seed_or_training_has_a_file_of_its_own(drawn_slices, tmp_path):
    other = drawn_slices.take(range(20))
    other.info = {**drawn_slices.info, "content_hash": "other"}
    segmenter_for(drawn_slices, tmp_path, training=SHORT)
    segmenter_for(other, tmp_path, training=SHORT)
    segmenter_for(drawn_slices, tmp_path, training=SHORT, seed=1)
    segmenter_for(drawn_slices, tmp_path, training=dataclasses.replace(SHORT, blur=1))
    assert len(list(tmp_path.iterdir())) == 4


def interrupted_after(batches):
    """A progress bar that a user interrupts."""

    def bar(items, total):
        for count, item in enumerate(items):
            if count == batches:
                raise KeyboardInterrupt
            yield item

    return bar


@pytest.fixture
def often_kept(monkeypatch):
    monkeypatch.setattr(judge_training, "CHECKPOINT_EVERY", 2)


@pytest.mark.parametrize("batches", [1, 2, 3])
def test_an_interrupted_training_goes_on_to_the_same_weights(
    drawn_slices, tmp_path, often_kept, monkeypatch, batches
):
    expected = segmenter_for(drawn_slices, tmp_path / "straight", training=SHORT)
    cache = tmp_path / "interrupted"
    with pytest.raises(KeyboardInterrupt):
        segmenter_for(drawn_slices, cache, training=SHORT, progress=interrupted_after(batches))
    trained = []
    look = judge_training.as_decoded
    monkeypatch.setattr(
        judge_training, "as_decoded", lambda *given: trained.append(1) or look(*given)
    )
    found = segmenter_for(drawn_slices, cache, training=SHORT)
    assert torch.equal(weights(found.network), weights(expected.network))
    assert len(trained) == SHORT.steps - batches // 2 * 2
    assert [file.suffix for file in cache.iterdir()] == [".safetensors"]


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", "another network", "no generator"])
def test_a_damaged_checkpoint_is_not_taken_up(drawn_slices, tmp_path, often_kept, damage):
    expected = segmenter_for(drawn_slices, tmp_path / "straight", training=SHORT)
    cache = tmp_path / "interrupted"
    with pytest.raises(KeyboardInterrupt):
        segmenter_for(drawn_slices, cache, training=SHORT, progress=interrupted_after(3))
    (checkpoint,) = cache.glob("*.checkpoint")
    if isinstance(damage, bytes):
        checkpoint.write_bytes(damage)
    else:
        states = torch.load(checkpoint, weights_only=True)
        states.pop("generator" if damage == "no generator" else "network")
        torch.save(states, checkpoint)
    found = segmenter_for(drawn_slices, cache, training=SHORT)
    assert torch.equal(weights(found.network), weights(expected.network))


def test_all_that_are_missing_are_announced_at_once_and_shown(drawn_slices, tmp_path):
    told, shown = [], []

    def bar(batches, total):
        shown.append(total)
        return batches

    options = {"training": SHORT, "tell": told.append, "progress": bar}
    first, second = segmenters_for(drawn_slices, tmp_path, (0, 1), **options)
    assert len(told) == 1
    assert "training 2 segmenters of drawn" in told[0]
    assert shown == [2 * SHORT.steps]
    assert not torch.equal(weights(first.network), weights(second.network))
    segmenters_for(drawn_slices, tmp_path, (1, 0), **options)
    assert len(told) == len(shown) == 1


def test_where_store_and_run_may_only_be_read_the_cache_is_that_of_the_user(
    drawn_slices, tmp_path, monkeypatch
):
    read_only, run = [drawn_slices.folder], tmp_path / "run"
    monkeypatch.setattr(os, "access", lambda folder, mode: folder not in read_only)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cache_of(drawn_slices, run) == run / "segmenters"
    read_only.append(run)
    cache = cache_of(drawn_slices, run)
    assert cache == tmp_path / "cache/cardiac-attrivae/segmenters"
    segmenters_for(drawn_slices, cache, training=SHORT)
    assert len([*cache.iterdir()]) == 1
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # no home, as in a container
    assert cache_of(drawn_slices, run) == run / "segmenters"


def test_one_preparation_serves_every_later_call(drawn_slices, tmp_path, monkeypatch):
    told = []
    segmenters_for(drawn_slices, tmp_path, (None, 0, 1), training=SHORT, tell=told.append)
    assert "training 3 segmenters of drawn" in told[0]
    monkeypatch.setattr(judge, "train_network", None)  # a second training would fail
    for half in (None, 0, 1):
        segmenters_for(drawn_slices, tmp_path, (half,), training=SHORT)


def test_no_store_is_replaced_while_segmenters_are_prepared_in_it(
    acdc_tree, acdc_store_all, tmp_path
):
    store = shutil.copytree(acdc_store_all, tmp_path / "s", ignore=lambda *_: ["segmenters"])
    slices, tried = SliceDataset.open(store), []

    def replace(batches, total):
        with pytest.raises(DataError, match="would be replaced, but another process works in"):
            preprocess("acdc", acdc_tree, store, overwrite=True)
        tried.append(total)
        return batches

    segmenters_for(slices, cache_of(slices, tmp_path), training=SHORT, progress=replace)
    train_guide(
        slices.split("train"), tmp_path, torch.device("cpu"), training=SHORT, progress=replace
    )
    assert len(tried) == 2
    assert len([*(store / "segmenters").iterdir()]) == 2


def test_no_segmenter_is_prepared_in_a_store_that_is_being_replaced(acdc_store_all, tmp_path):
    store = shutil.copytree(acdc_store_all, tmp_path / "s", ignore=lambda *_: ["segmenters"])
    slices = SliceDataset.open(store)
    with locked(tmp_path / ".s.partial"):
        for prepare in (
            lambda: segmenters_for(slices, cache_of(slices, tmp_path), training=SHORT),
            lambda: train_guide(slices.split("train"), tmp_path, torch.device("cpu")),
        ):
            with pytest.raises(DataError, match=f"{store} is being worked on by another process"):
                prepare()
        segmenters_for(slices, tmp_path / "segmenters", training=SHORT)  # elsewhere
    assert not (store / "segmenters").exists()


def test_an_interrupted_preparation_keeps_what_is_finished(drawn_slices, tmp_path, often_kept):
    options = {"training": SHORT, "halves": (None, 0, 1)}
    with pytest.raises(KeyboardInterrupt):
        segmenters_for(drawn_slices, tmp_path, progress=interrupted_after(7), **options)
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".checkpoint", ".safetensors"]
    told = []
    segmenters_for(drawn_slices, tmp_path, tell=told.append, **options)
    assert "training 2 segmenters of drawn" in told[0]
    assert [file.suffix for file in tmp_path.iterdir()] == [".safetensors"] * 3


def test_only_what_was_asked_for_must_have_enough_patients(drawn_slices, tmp_path):
    store = drawn_slices.take(range(6))  # three patients: a half has one
    segmenters_for(store, tmp_path, training=SHORT)
    with pytest.raises(DataError, match="needs at least 3"):
        segmenters_for(store, tmp_path, (0,), training=SHORT)


def test_a_training_shows_a_bar_on_a_terminal_and_lines_elsewhere(drawn_slices, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for output, shown in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", output)
        train_network(drawn_slices, training=SHORT)
        assert ("segmenters:" in output.getvalue()) is shown
        assert (f"segmenters {SHORT.steps}/{SHORT.steps}\n" in output.getvalue()) is not shown


DAMAGES = {
    "cut": "cannot be read",
    "empty": "cannot be read",
    "without what is known": "was not written by cardiac-attrivae",
    "another network": "was not written by cardiac-attrivae|was written by an older",
    "renamed": "is a segmenter of another store or recipe",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_and_trained_anew(drawn_slices, tmp_path, damage):
    from safetensors.torch import save_file

    trained = segmenter_for(drawn_slices, tmp_path, training=SHORT)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    if damage == "cut":
        file.write_bytes(whole[: len(whole) // 2])
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "without what is known":
        state = trained.network.state_dict()
        save_file({name: value.contiguous() for name, value in state.items()}, file)
    elif damage == "renamed":
        other = Training(steps=2, batch_size=4)
        segmenter_for(drawn_slices, tmp_path / "other", training=other)
        next((tmp_path / "other").iterdir()).replace(file)
    else:
        save_file({"weight": torch.zeros(1)}, file, metadata={"cardiac_attrivae": "{}"})
    with pytest.warns(UserWarning, match=rf"{file} ({DAMAGES[damage]}).*; it is not used"):
        again = segmenter_for(drawn_slices, tmp_path, training=SHORT)
    assert torch.equal(weights(again.network), weights(trained.network))
    assert file.read_bytes() == whole


def test_scored_patients_are_never_trained_on(phantoms, drawn_slices):
    for store in (phantoms, drawn_slices, drawn_slices.basal()):
        train, unseen = patients_of(store, seed=0)
        assert not set(train.cases["case"]) & set(unseen.cases["case"])
        assert set(train.cases["split"]) == {"train"}


def test_five_patients_of_val_and_test_are_scored_and_fewer_are_not(drawn_slices):
    store = drawn_slices.take(range(24))
    patients = store.cases["case"].unique()
    store.cases.loc[store.cases["case"].isin(patients[:5]), "split"] = "test"
    train, unseen = patients_of(store, seed=0)
    assert set(unseen.cases["case"]) == set(patients[:5])
    assert len(train) == 2 * 7
    store.cases.loc[store.cases["case"] == patients[0], "split"] = "train"
    train, unseen = patients_of(store, seed=0)
    assert set(unseen.cases["split"]) == {"train"}
    assert unseen.cases["case"].nunique() == 1


def test_one_slice_per_patient_is_enough(drawn_slices, tmp_path):
    segmenter = segmenter_for(drawn_slices.basal(), tmp_path, training=SHORT)
    assert segmenter.patients == 2


def test_too_few_patients_are_an_error(drawn_slices, tmp_path):
    store = drawn_slices.take(range(4))
    with pytest.raises(DataError, match="drawn has 2 training patients.*at least 3"):
        segmenter_for(store, tmp_path, training=SHORT)


def test_what_looks_decoded_keeps_its_range_and_its_light():
    images = drawn(heart(64, 12, 6, 14)).float() / 3
    images = images.repeat(32, 1, 1, 1)
    training = Training(background=0, noise=0)
    made = as_decoded(images, training, torch.Generator().manual_seed(0))
    assert made.min() >= 0
    assert made.max() <= 1
    torch.testing.assert_close(made.mean((2, 3)), images.mean((2, 3)), rtol=0.03, atol=0)
    assert made.std((2, 3)).std() > 0  # each slice has its own blur
    still = as_decoded(images, Training(blur=0, background=0, noise=0), torch.Generator())
    torch.testing.assert_close(still, images)
