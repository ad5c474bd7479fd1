"""Batches of a slice store, on the device, read ahead where they do not fit."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Generator, Tensor

from ..schema import DataError, Keys
from .store import SliceDataset, Slices

AHEAD = 4
"""Batches that are read ahead of the one that is worked on, at the same time."""


KEPT = 0.5
"""Share of a GPU's free memory that slices may fill; the rest is for what a step needs."""


KEPT_ON_CPU = 2**30
"""Bytes that they may fill otherwise. What the system calls free says little there: a batch system
grants a job less, and kills one that takes more."""


def room(device: torch.device) -> float:
    """Bytes that slices may fill on a device."""
    if device.type != "cuda":
        return KEPT_ON_CPU
    free, _ = torch.cuda.mem_get_info(device)
    return KEPT * free


def read_ahead(
    dataset: SliceDataset, chunks: Iterable[Tensor], device: torch.device
) -> Iterator[Slices]:
    """Slices of each chunk of rows on the device; the next few are read in threads meanwhile.

    An error of a thread is raised here. No thread is left when the last chunk is there, or when it
    is broken off.

    Args:
        dataset: What to read from.
        chunks: Rows, (n,) on the CPU.
        device: Where to.

    Yields:
        See `SliceDataset.read`.
    """

    def read(rows: Tensor) -> Slices:
        fields = dataset.read(rows)
        if device.type == "cuda":  # from other memory the host would wait for the copy
            fields = {key: field.pin_memory() for key, field in fields.items()}
        return fields

    def moved(fields: Future) -> Slices:
        return {k: field.to(device, non_blocking=True) for k, field in fields.result().items()}

    pool, waiting = ThreadPoolExecutor(AHEAD), deque()
    try:
        for rows in chunks:
            waiting.append(pool.submit(read, rows))
            if len(waiting) > AHEAD:
                yield moved(waiting.popleft())
        pool.shutdown(wait=False)
        while waiting:
            yield moved(waiting.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


class DeviceLoader:
    """Batches on the device.

    Slices for which there is room, see `room`, lie there as a block, and a batch is an index. Of
    others batches are read ahead from where the dataset has them, see `read_ahead`: the same
    batches, bit for bit.

    Each pass draws its order from ``generator`` when it begins. A last batch of one is left out in
    training: it would break batch norm and make the attribute term zero.

    Args:
        dataset: What to draw from.
        attributes: (N, K), in training the standardised values.
        batch_size: Rows of a batch; the last one may be smaller.
        device: Where batches are.
        generator: Shuffles, on the device. None keeps the order and every row.
        weights: How often each row is drawn relative to the others, (N,); draws with replacement.
            None is each row once.
        batches: Batches of a pass, if rows are drawn by weight; None is as many as rows fill.
        prepare: What is done to slices on the device, whatever others are in the batch: once to
            each of a block, to each batch of others.
        resident: Whether slices lie there as a block; None is if there is room.
    """

    def __init__(
        self,
        dataset: SliceDataset,
        attributes: np.ndarray,
        batch_size: int,
        device: torch.device | str = "cpu",
        generator: Generator | None = None,
        weights: np.ndarray | None = None,
        batches: int | None = None,
        prepare: Callable[[Slices], Slices] = dict,
        resident: bool | None = None,
    ) -> None:
        if batch_size < 2 and generator is not None:
            raise ValueError(f"batch_size is {batch_size}; expected at least 2 for training")
        if generator is not None and len(dataset) < 2:
            raise DataError(f"{len(dataset)} slices to train on; expected at least 2")
        self.dataset, self.device, self.prepare = dataset, torch.device(device), prepare
        self.attributes = torch.as_tensor(attributes, dtype=torch.float32, device=device)
        self.batch_size, self.generator, self.batches = batch_size, generator, batches
        self.ends = None  # of each row's share of [0, 1]; multinomial has no fixed order on a GPU
        if weights is not None:
            ends = np.cumsum(weights, dtype=np.float64)
            self.ends = torch.as_tensor(ends / ends[-1], device=device)
        if resident is None:
            resident = dataset.nbytes <= room(self.device)
        self.block = self._block() if resident else None

    def __len__(self) -> int:
        if self.batches is not None:
            return self.batches
        whole, rest = divmod(len(self.dataset), self.batch_size)
        return whole + (rest > 1 or (rest == 1 and self.generator is None))

    def __iter__(self) -> Iterator[Slices]:
        order = self._order()
        chunks = order.split(self.batch_size)[: len(self)]
        if self.block is None:
            on_host = order.cpu().split(self.batch_size)[: len(self)]
            batches = map(self.prepare, read_ahead(self.dataset, on_host, self.device))
        else:
            batches = ({key: field[rows] for key, field in self.block.items()} for rows in chunks)
        for rows, slices in zip(chunks, batches, strict=True):
            yield {**slices, Keys.ATTRIBUTES: self.attributes[rows], Keys.ROW: rows}

    def _order(self) -> Tensor:
        """Rows of a pass, on the device."""
        rows = len(self.dataset)
        if self.generator is None:
            return torch.arange(rows, device=self.device)
        if self.ends is None:
            return torch.randperm(rows, generator=self.generator, device=self.device)
        draws = rows if self.batches is None else self.batches * self.batch_size
        shares = torch.rand(
            draws, dtype=self.ends.dtype, generator=self.generator, device=self.device
        )
        return torch.searchsorted(self.ends, shares)

    def _block(self) -> Slices:
        """All slices, prepared; never more than a few batches of them are in the host's memory."""
        count, block = len(self.dataset), {}
        chunks = torch.arange(count).split(64)
        batches = read_ahead(self.dataset, chunks, self.device)
        for rows, slices in zip(chunks, map(self.prepare, batches), strict=True):
            for key, field in slices.items():
                if key not in block:
                    block[key] = field.new_empty((count, *field.shape[1:]))
                block[key][rows] = field
        return block
