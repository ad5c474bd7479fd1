"""The slice store as it is read: whole, unchanged, and in batches that lose no row."""

import json
import shutil
import threading
import time
import warnings
from collections import Counter

import numpy as np
import pytest
import torch

import cardiac_attrivae.data.loader as loading
from cardiac_attrivae.attributes import ATTRIBUTES
from cardiac_attrivae.data.loader import AHEAD, DeviceLoader, read_ahead, room
from cardiac_attrivae.data.store import FILES, SliceDataset, content_hash, seal
from cardiac_attrivae.runtime.files import replace_folder
from cardiac_attrivae.schema import SPLITS, DataError, Keys


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
    before = dataset.images
    replace_folder(shutil.copytree(mnms_store_all, tmp_path / "new"), store)
    assert SliceDataset.open(store).name == "mnms"
    assert torch.equal(dataset.images, before)


def test_bytes_of_a_part_are_those_of_its_tensors(dataset):
    part = dataset.take([3, 3, 1])
    assert part.nbytes == part.images.nbytes + part.labels.nbytes
    assert dataset.take([]).nbytes == 0


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
    with pytest.raises(DataError, match="has format 99; expected 2"):
        SliceDataset.open(store)


def test_the_seal_does_not_depend_on_the_order_of_the_keys_nor_on_itself():
    info = {"b": [1, 2.5, None], "a": {"x": "ä"}}
    assert seal(info) == seal({"a": {"x": "ä"}, "sha256": "?", "b": [1, 2.5, None]})
    assert seal(info) != seal(info | {"c": 0})
    deep = []
    for _ in range(10**5):
        deep = [deep]
    with pytest.raises(DataError, match="too deep in one another"):
        seal({"a": deep})


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


DRAWN = {
    "once each": {"seed": 3},
    "by weight": {"seed": 3, "weights": np.arange(29.0), "batches": 7},
    "in order": {},
}


@pytest.mark.parametrize("drawn", DRAWN)
@pytest.mark.parametrize(
    "prepare", [dict, lambda fields: {**fields, "sum": fields["image"].sum(3)}]
)
def test_batches_that_are_read_ahead_are_those_of_a_block_bit_for_bit(drawn, prepare):
    options = DRAWN[drawn] | {"prepare": prepare}
    block, ahead = (loader(29, 4, resident=resident, **options) for resident in (True, False))
    assert (block.block is None, ahead.block is None) == (False, True)
    for _ in range(2):  # passes
        pairs = list(zip(block, ahead, strict=True))
        assert len(pairs) == len(block) == len(ahead)
        for one, other in pairs:
            assert list(one) == list(other)
            assert all(torch.equal(one[key], other[key]) for key in one)


class Watched(SliceDataset):
    """Counts reads; the one of row ``bad`` fails, every one takes ``seconds``."""

    def __init__(self, rows, bad=None, seconds=0.0):
        dataset = numbered(rows)
        super().__init__(dataset.images, dataset.labels, dataset.cases, {}, None)
        self.bad, self.seconds, self.reads = bad, seconds, []

    def read(self, rows):
        rows = list(map(int, rows))
        self.reads.append(rows)
        time.sleep(self.seconds)
        if self.bad in rows:
            raise OSError("the drive is gone")
        return super().read(rows)


def ahead(dataset, size=1):
    return read_ahead(dataset, torch.arange(len(dataset)).split(size), torch.device("cpu"))


@pytest.fixture
def no_thread_left():
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(0.2)  # it ends by itself
    assert set(threading.enumerate()) <= before


@pytest.mark.usefixtures("no_thread_left")
def test_a_pass_that_is_broken_off_ends_its_threads_and_reads_no_further():
    dataset = Watched(100)
    batches = ahead(dataset)
    next(batches), next(batches)
    batches.close()
    assert len(dataset.reads) <= 2 + AHEAD
    for _ in loader(100, 4, seed=0, resident=False):
        break


@pytest.mark.usefixtures("no_thread_left")
def test_after_the_last_batch_no_thread_waits_for_another():
    batches = ahead(Watched(9))
    for _ in range(9):  # as ignite does, which asks for no batch beyond
        next(batches)
    for thread in threading.enumerate():
        if thread.name.startswith("ThreadPoolExecutor"):
            thread.join(1)
            assert not thread.is_alive()
    assert next(batches, None) is None


@pytest.mark.usefixtures("no_thread_left")
def test_an_error_of_a_reader_reaches_the_caller_at_its_batch():
    batches = ahead(Watched(20, bad=7))
    assert [next(batches)[Keys.IMAGE][0, 0, 0, 0].item() for _ in range(7)] == list(range(7))
    with pytest.raises(OSError, match="the drive is gone"):
        next(batches)


def test_batches_are_read_while_others_are_worked_on():
    dataset, start = Watched(16, seconds=0.03), time.perf_counter()
    for _ in ahead(dataset):
        time.sleep(0.03)
    assert sorted(dataset.reads) == [[row] for row in range(16)]
    # one after the other would take 0.96 s
    assert time.perf_counter() - start < 0.8


def test_there_is_room_for_half_of_what_is_free_on_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (8 * 2**30, 80 * 2**30))
    assert room(torch.device("cuda", 0)) == 4 * 2**30


@pytest.mark.parametrize("spare", [-1, 0])
def test_slices_lie_on_the_device_if_there_is_room_for_them(monkeypatch, spare):
    needed = 12 * 4 * 4 * 5
    assert numbered(12).nbytes == needed
    monkeypatch.setattr(loading, "KEPT_ON_CPU", needed + spare)
    assert room(torch.device("cpu")) == needed + spare
    assert (loader(12, 4).block is None) == (spare < 0)


def test_training_on_less_than_two_is_refused():
    with pytest.raises(ValueError, match="batch_size is 1; expected at least 2"):
        loader(8, 1, seed=0)
    with pytest.raises(DataError, match="1 slices to train on; expected at least 2"):
        loader(1, 4, seed=0)
