"""Batches lose no row, follow from the seed, and are the same however they are read."""

import threading
import time
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch

import cardiac_attrivae.data.loader as loading
from cardiac_attrivae.data.loader import AHEAD, DeviceLoader, read_ahead, room
from cardiac_attrivae.data.store import SliceDataset
from cardiac_attrivae.schema import DataError, Keys


def numbered(rows):
    """Slices in which every field holds the number of the row."""
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
def test_an_interrupted_pass_ends_its_threads_and_reads_no_further():
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
