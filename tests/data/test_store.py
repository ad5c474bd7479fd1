"""A slice store is read as it was written, or refused."""

import json
import pickle
import shutil
import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from cardiac_attrivae.attributes import ATTRIBUTES, names_at
from cardiac_attrivae.data import store as store_module
from cardiac_attrivae.data import store_files
from cardiac_attrivae.data.store import FILES, SliceDataset, content_hash
from cardiac_attrivae.runtime.files import replace_folder
from cardiac_attrivae.runtime.provenance import seal
from cardiac_attrivae.schema import SPLITS, DataError, Keys, Phase


@pytest.fixture
def store(acdc_store, tmp_path):
    """A copy to damage."""
    return shutil.copytree(acdc_store, tmp_path / "store")


@pytest.fixture(scope="module", params=["acdc_store", "acdc_store_all", "mnms_store_all"])
def dataset(request):
    return SliceDataset.open(request.getfixturevalue(request.param))


def test_what_is_measured_anew_equals_the_columns(dataset):
    names = [n for n, a in ATTRIBUTES.items() if a.phases == (Phase.ED,)]
    assert set(names) > set(names_at([Phase.ED]))  # the others are measured when asked for
    measured = dataset.measured(names)
    assert measured == pytest.approx(dataset.attributes(names), rel=1e-12)
    assert (dataset.measured(names[::-1]) == measured[:, ::-1]).all()


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


def test_a_truth_value_for_each_row_takes_those_where_it_holds(dataset):
    """As numbers they would be rows 1 and 0, again and again."""
    wanted = dataset.cases["LVEDA"] > dataset.cases["LVEDA"].median()
    expected = dataset.take(np.flatnonzero(wanted))
    for mask in (wanted, wanted.to_numpy(), wanted.tolist()):
        assert dataset.take(mask).cases.equals(expected.cases)
        assert torch.equal(dataset.read(mask)[Keys.IMAGE], expected.images)


@pytest.mark.parametrize(
    "rows", [[True, False], [1.5], ["patient001"], "patient001", [[0, 1]], [10**9], [None], 3]
)
def test_what_is_no_row_is_refused(dataset, rows):
    for take in (dataset.take, dataset.read):
        with pytest.raises(
            (ValueError, IndexError), match=f"expected row numbers .*0 to {len(dataset) - 1}"
        ):
            take(rows)
    with pytest.raises(ValueError, match="expected row numbers"):
        dataset[1:3]
    assert len(list(dataset)) == len(dataset)


def test_rows_taken_of_rows_taken_are_those_of_the_whole(dataset):
    first, second = [6, 1, 1, 4, 0], [4, 2, 0]
    part, direct = dataset.take(first).take(second), dataset.take([0, 1, 6])
    assert part.cases.equals(direct.cases)
    assert torch.equal(part.images, direct.images)
    assert torch.equal(part.labels, direct.labels)
    basal = dataset.split("train").basal()
    one = dataset.cases.index[dataset.is_basal & (dataset.cases["split"] == "train")]
    assert torch.equal(basal.images, dataset.take(one).images)


def test_the_file_is_mapped_and_nothing_can_change_it(store):
    dataset = SliceDataset.open(store)
    before = dataset.images
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of arrays that must not be written
        for images in (dataset.images, dataset.take([0, 1]).images, dataset[0][Keys.IMAGE]):
            images.fill_(9)
    assert torch.equal(dataset.images, before)
    assert content_hash(store) == dataset.info["content_hash"]
    for array in (dataset._images, dataset.take([2]).take([0])._images):
        assert isinstance(array, np.memmap)
        assert not array.flags.writeable


def test_a_store_that_is_replaced_stays_readable(store, mnms_store_all, tmp_path):
    dataset = SliceDataset.open(store)
    before, sent = dataset.images, pickle.dumps(dataset)
    replace_folder(shutil.copytree(mnms_store_all, tmp_path / "new"), store)
    assert SliceDataset.open(store).name == "mnms"
    assert torch.equal(dataset.images, before)
    measured = dataset.take([1, 0]).measured(["LVEDV", "RVEDA"])
    assert measured == pytest.approx(dataset.take([1, 0]).attributes(["LVEDV", "RVEDA"]))
    copy = pickle.loads(sent)
    assert torch.equal(copy.images, before)
    with pytest.raises(DataError, match="was replaced after it was opened; open it again"):
        copy.measured(["LVEDV"])


def test_a_copy_from_another_process_measures_the_same(store):
    dataset = SliceDataset.open(store)
    copy = pickle.loads(pickle.dumps(dataset))
    assert (copy.measured(["LVEDV"]) == dataset.measured(["LVEDV"])).all()


def _module_of(moment):
    return store_module if moment == "content_hash" else store_files


@pytest.mark.parametrize("moment", ["_array", "ZipFile", "_cases", "content_hash"])
def test_a_store_replaced_while_it_is_opened_is_one_or_the_other(
    store, mnms_store_all, tmp_path, monkeypatch, moment
):
    new, real = (
        shutil.copytree(mnms_store_all, tmp_path / "new"),
        getattr(_module_of(moment), moment),
    )

    def replaced(folder, *rest):
        if new.exists():
            replace_folder(new, store)
        return real(folder, *rest)

    monkeypatch.setattr(_module_of(moment), moment, replaced)
    dataset = SliceDataset.open(store)
    assert dataset.name == "mnms"
    names = ["LVEDV", "LVEDA"]
    assert dataset.measured(names) == pytest.approx(dataset.attributes(names))


def test_channels_and_size_are_those_of_the_images(dataset):
    assert (dataset.channels, dataset.image_size) == (1, 128)
    two = np.zeros((3, 2, 48, 48), np.float32)
    cases = pd.DataFrame({"case": list("abc"), "split": "train"})
    made = SliceDataset(two, two.astype(np.uint8), cases, {"dataset": "own"}, "here")
    assert (made.channels, made.image_size) == (2, 48)
    assert repr(made) == (
        "SliceDataset(own: 3 slices (2 x 48 x 48 pixels) of 3 cases (3 train), from here)"
    )


def test_bytes_of_a_part_are_those_of_its_tensors(dataset):
    part = dataset.take([3, 3, 1])
    assert part.nbytes == part.images.nbytes + part.labels.nbytes
    assert dataset.take([]).nbytes == 0


# A damaged store --------------------------------------------------------------------------


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
    with pytest.raises(DataError, match="has format 99; expected 2"):
        SliceDataset.open(store)


def test_the_seal_does_not_depend_on_the_order_of_the_keys_nor_on_itself():
    info = {"b": [1, 2.5, None], "a": {"x": "ä"}}
    assert seal(info) == seal({"a": {"x": "ä"}, "sha256": "?", "b": [1, 2.5, None]})
    assert seal(info) != seal(info | {"c": 0})
    deep = []
    for _ in range(10**5):
        deep = [deep]
    with pytest.raises(DataError, match="nested too deeply"):
        seal({"a": deep})


def test_the_error_of_a_folder_without_a_store_says_how_to_write_one(tmp_path):
    with pytest.raises(DataError, match="Write one with cardiac-attrivae preprocess"):
        SliceDataset.open(tmp_path / "nowhere")
