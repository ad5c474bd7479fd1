"""The slice store as it is read: whole, unchanged, and in batches that lose no row."""

import json
import shutil
from collections import Counter

import numpy as np
import pytest
import torch

from cardiac_attrivae.attributes import ATTRIBUTES
from cardiac_attrivae.schema import SPLITS, DataError, Keys
from cardiac_attrivae.slices import FILES, DeviceLoader, SliceDataset


@pytest.fixture
def store(acdc_store, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(acdc_store, tmp_path / "store")


@pytest.fixture(scope="module", params=["acdc_store", "acdc_store_all", "mnms_store_all"])
def dataset(request):
    return SliceDataset.open(request.getfixturevalue(request.param))


def test_what_is_measured_anew_equals_the_columns(dataset):
    names = list(ATTRIBUTES)
    measured = dataset.measured(names)
    assert measured == pytest.approx(dataset.attributes(names), rel=1e-12)
    assert (dataset.measured(names[::-1]) == measured[:, ::-1]).all()
    assert dataset.units(["MEDA", "LVEDV"]) == ["cm2", "mL"]


def test_the_rows_called_basal_are_those_that_slice_basal_picks(acdc_store, acdc_store_all):
    one, every = SliceDataset.open(acdc_store), SliceDataset.open(acdc_store_all)
    basal = every.basal()
    assert basal.cases.equals(one.cases)
    assert torch.equal(basal.images, one.images)
    assert torch.equal(basal.labels, one.labels)
    assert one.is_basal.all()


def test_each_patient_has_one_basal_row_at_an_end_of_its_stack(dataset):
    rows = dataset.cases.assign(basal=dataset.is_basal)
    assert (rows.groupby("case")["basal"].sum() == 1).all()
    for _, own in rows.groupby("case"):
        index = own.loc[own["basal"], "slice_index"].item()
        assert index in (own["slice_index"].min(), own["slice_index"].max())


def test_in_mnms_the_base_is_the_last_slice_of_most_stacks(mnms_store_all):
    dataset = SliceDataset.open(mnms_store_all)
    basal = dataset.basal().cases.set_index("case")["slice_index"]
    last = dataset.cases.groupby("case")["slice_index"].max()
    assert len(set((basal == last).to_list())) == 2  # both orders occur
    assert (basal == last).mean() > 0.5


def test_splits_share_no_patient_and_together_hold_every_row(dataset):
    parts = [dataset.split(split) for split in SPLITS]
    assert sum(map(len, parts)) == len(dataset)
    cases = [set(part.cases["case"]) for part in parts]
    assert sum(map(len, cases)) == len(set.union(*cases))
    with pytest.raises(ValueError, match="split is 'valid'; expected one of train, val, test"):
        dataset.split("valid")


def test_rows_taken_carry_their_image_mask_and_facts(dataset):
    rows = [4, 0, 2]
    part = dataset.take(rows)
    assert list(part.cases["case"]) == [dataset.cases["case"][r] for r in rows]
    for n, row in enumerate(rows):
        item, original = part[n], dataset[row]
        assert torch.equal(item[Keys.IMAGE], original[Keys.IMAGE])
        assert torch.equal(item[Keys.LABEL], original[Keys.LABEL])
        assert item[Keys.ROW] == n
    assert part.measured(["LVEDA"]) == pytest.approx(part.attributes(["LVEDA"]))
    assert len(dataset.take([])) == 0


# A store that was spoilt --------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_was_changed_is_refused(store, name):
    data = bytearray((store / name).read_bytes())
    data[len(data) // 2] ^= 1
    (store / name).write_bytes(bytes(data))
    with pytest.raises(DataError, match="was changed after preprocess wrote it"):
        SliceDataset.open(store)


@pytest.mark.parametrize("name", [*FILES, "dataset.json"])
def test_a_file_that_is_missing_is_named(store, name):
    (store / name).unlink()
    with pytest.raises(DataError, match=f"{name} is missing"):
        SliceDataset.open(store)


def test_a_row_edited_in_the_table_is_refused(store):
    text = (store / "cases.csv").read_text().replace("train", "test", 1)
    (store / "cases.csv").write_text(text)
    with pytest.raises(DataError, match="content hash differs"):
        SliceDataset.open(store)


def test_another_format_is_refused(store):
    info = json.loads((store / "dataset.json").read_text())
    (store / "dataset.json").write_text(json.dumps(info | {"format": 99}))
    with pytest.raises(DataError, match="has format 99; expected 1"):
        SliceDataset.open(store)


def test_a_folder_that_is_no_store_is_told_how_to_become_one(tmp_path):
    with pytest.raises(DataError, match="Write one with cardiac-attrivae preprocess"):
        SliceDataset.open(tmp_path / "nowhere")


# Batches ------------------------------------------------------------------------------------------


def numbered(rows):
    """Slices whose every field tells the row."""
    import pandas as pd

    values = torch.arange(rows).reshape(-1, 1, 1, 1)
    images = values.float().expand(-1, 1, 4, 4).contiguous()
    labels = values.to(torch.uint8).expand(-1, 1, 4, 4).contiguous()
    cases = pd.DataFrame({"case": [f"p{n}" for n in range(rows)]})
    return SliceDataset(images, labels, cases, {}, None)


def loader(rows, size, seed=None, **kwargs):
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    attributes = np.arange(rows)[:, None] * [1.0, 10.0]
    return DeviceLoader(numbered(rows), attributes, size, generator=generator, **kwargs)


def order(batches):
    return [row for batch in batches for row in batch[Keys.ROW].tolist()]


@pytest.mark.parametrize(("rows", "size"), [(12, 4), (11, 4), (5, 16), (2, 2), (30, 7)])
def test_a_pass_covers_each_row_once_and_fields_stay_together(rows, size):
    batches = list(loader(rows, size, seed=1))
    assert sorted(order(batches)) == list(range(rows))
    assert len(batches) == len(loader(rows, size, seed=1))
    for batch in batches:
        row = batch[Keys.ROW].double()
        assert torch.equal(batch[Keys.IMAGE][:, 0, 0, 0].double(), row)
        assert torch.equal(batch[Keys.LABEL][:, 0, 3, 3].double(), row)
        assert torch.equal(batch[Keys.ATTRIBUTES].double(), row[:, None] * torch.tensor([1, 10]))


@pytest.mark.parametrize(("rows", "size"), [(13, 4), (9, 2), (17, 16)])
def test_training_has_no_last_batch_of_one(rows, size):
    batches = list(loader(rows, size, seed=0))
    assert min(len(batch[Keys.ROW]) for batch in batches) > 1
    assert len(order(batches)) == len(set(order(batches))) == rows - 1
    assert len(batches) == len(loader(rows, size, seed=0))


def test_no_row_is_left_out_for_good():
    batches, seen = loader(13, 4, seed=0), Counter()
    for _ in range(40):
        seen.update(order(batches))
    assert set(seen) == set(range(13))


@pytest.mark.parametrize("rows", [12, 13, 1])
def test_evaluation_keeps_the_order_and_every_row(rows):
    batches = list(loader(rows, 4))
    assert order(batches) == list(range(rows))
    assert len(batches) == len(loader(rows, 4)) == -(-rows // 4)


def test_the_order_follows_from_the_seed_and_changes_with_each_pass():
    one, other, another = (loader(40, 8, seed=seed) for seed in (3, 3, 4))
    first, second = order(one), order(one)
    assert first != second
    assert [order(other), order(other)] == [first, second]
    assert order(another) != first


def test_rows_are_drawn_in_proportion_to_their_weights():
    weights = np.array([0.0, 1.0, 2.0, 5.0])
    batches = loader(4, 50, seed=0, weights=weights, batches=200)
    seen = Counter(order(batches))
    draws = 200 * 50
    assert sum(seen.values()) == draws
    assert len(batches) == len(list(batches)) == 200
    for row, p in enumerate(weights / weights.sum()):
        sd = np.sqrt(draws * p * (1 - p))
        assert abs(seen[row] - draws * p) <= 4 * sd
    again = loader(4, 50, seed=0, weights=weights, batches=200)
    assert Counter(order(again)) == seen


def test_weights_without_a_number_of_batches_fill_as_many_as_the_rows():
    batches = list(loader(12, 4, seed=0, weights=np.ones(12)))
    assert [len(batch[Keys.ROW]) for batch in batches] == [4, 4, 4]


def test_training_on_less_than_two_is_refused():
    with pytest.raises(ValueError, match="batch_size is 1; expected at least 2"):
        loader(8, 1, seed=0)
    with pytest.raises(DataError, match="1 slices to train on; expected at least 2"):
        loader(1, 4, seed=0)
