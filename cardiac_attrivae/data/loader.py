"""Makes batches of a slice store on the device, and reads ahead where it does not fit there."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import MappingProxyType
from typing import Protocol

import numpy as np
import torch
from torch import Generator, Tensor

from ..schema import DataError, Keys
from .store import Slices

AHEAD = 4
"""Batches that are read at the same time, ahead of the one that is in use."""

KEPT = 0.5
"""Share of a GPU's free memory that slices may fill; the rest is left to the training step."""

KEPT_ON_CPU = 2**30
"""Bytes that slices may fill in main memory. Free memory is no guide there: a batch system grants a
job less than the machine has, and ends a job that takes more."""


class Readable(Protocol):
    """Slices that batches are made of: `SliceDataset`, or a view of one."""

    @property
    def nbytes(self) -> int: ...
    def __len__(self) -> int: ...
    def read(self, rows: np.ndarray, /) -> Slices: ...


def room(device: torch.device) -> float:
    """Returns how many bytes slices may fill on a device.

    Example:
        >>> room(torch.device("cpu")) == KEPT_ON_CPU
        True
    """
    if device.type != "cuda":
        return KEPT_ON_CPU
    free, _ = torch.cuda.mem_get_info(device)
    return KEPT * free


def read_ahead(
    dataset: Readable, chunks: Iterable[Tensor], device: torch.device
) -> Iterator[Slices]:
    """Yields the slices of each chunk of rows on the device, while threads read the next ones.

    An error in a thread is raised here. The threads end after the last chunk, or when the iterator
    is closed.

    Args:
        dataset: Slices to read.
        chunks: Rows, (n,) on the CPU.
        device: Where the slices are wanted.

    Yields:
        What `SliceDataset.read` returns.

    Example:
        >>> images = np.arange(4, dtype=np.float32).reshape(4, 1, 1, 1)
        >>> import pandas as pd
        >>> from .store import SliceDataset
        >>> cases = pd.DataFrame({"case": list("abcd")})
        >>> dataset = SliceDataset(images, images.astype(np.uint8), cases, {}, None)
        >>> chunks = torch.tensor([3, 0, 2]).split(2)
        >>> for slices in read_ahead(dataset, chunks, torch.device("cpu")):
        ...     print(slices[Keys.IMAGE].ravel().tolist())
        [3.0, 0.0]
        [2.0]
    """

    def read(rows: Tensor) -> Slices:
        fields = dataset.read(rows.numpy())
        if device.type == "cuda":  # from other memory the host would wait for the copy
            fields = {key: field.pin_memory() for key, field in fields.items()}
        return fields

    def moved(fields: Future[Slices]) -> Slices:
        return {k: field.to(device, non_blocking=True) for k, field in fields.result().items()}

    pool = ThreadPoolExecutor(AHEAD)
    waiting: deque[Future[Slices]] = deque()
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
    """Makes batches on the device.

    If the slices fit on the device, see `room`, they are kept there as a block, and a batch is an
    index into it. Otherwise batches are read ahead, see `read_ahead`. Both give the same batches,
    bit for bit.

    Each pass draws its order from ``generator`` when it begins. In training a last batch of a
    single slice is left out: it would break batch norm and make the attribute term zero.

    Args:
        dataset: Slices to draw from.
        attributes: Attribute values, (N, K); in training the standardised ones.
        batch_size: Rows of a batch; the last batch may be smaller.
        device: Where the batches are wanted.
        generator: Shuffles the rows, on the device. None keeps their order and every row.
        weights: How often each row is drawn relative to the others, (N,); draws with replacement.
            None draws each row once.
        batches: Batches of a pass, if rows are drawn by weight; None is as many as the rows fill.
        prepare: What is done to slices on the device, independent of the other slices of a batch:
            once to each slice of a block, and to each batch that is read ahead.
        resident: Whether slices are kept on the device as a block; None decides by `room`.
        more: Further values of each row, (N, ...) by their key in a batch: categories of cases.csv
            as `one_hot` gives them, for example.
    """

    def __init__(
        self,
        dataset: Readable,
        attributes: np.ndarray,
        batch_size: int,
        device: torch.device | str = "cpu",
        generator: Generator | None = None,
        weights: np.ndarray | None = None,
        batches: int | None = None,
        prepare: Callable[[Slices], Slices] = dict,
        resident: bool | None = None,
        more: Mapping[str, np.ndarray] = MappingProxyType({}),
    ) -> None:
        if batch_size < 2 and generator is not None:
            raise ValueError(f"batch_size is {batch_size}; expected at least 2 for training")
        if generator is not None and len(dataset) < 2:
            raise DataError(f"{len(dataset)} slices to train on; expected at least 2")
        self.dataset, self.device, self.prepare = dataset, torch.device(device), prepare
        self.values = {
            key: torch.as_tensor(values, dtype=torch.float32, device=device)
            for key, values in {Keys.ATTRIBUTES: attributes, **more}.items()
        }
        self.batch_size, self.generator, self.batches = batch_size, generator, batches
        # where each row's share of [0, 1] ends; multinomial has no fixed order on a GPU
        self.ends: Tensor | None = None
        if weights is not None:
            sums = np.cumsum(weights, dtype=np.float64)
            ends = torch.from_numpy(sums / sums[-1])
            self.ends = (ends.float() if self.device.type == "mps" else ends).to(device)
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
        batches: Iterable[Slices]
        if self.block is None:
            on_host = order.cpu().split(self.batch_size)[: len(self)]
            batches = map(self.prepare, read_ahead(self.dataset, on_host, self.device))
        else:
            block = self.block
            batches = ({key: field[rows] for key, field in block.items()} for rows in chunks)
        for rows, slices in zip(chunks, batches, strict=True):
            values = {key: of_all[rows] for key, of_all in self.values.items()}
            yield {**slices, **values, Keys.ROW: rows}

    def _order(self) -> Tensor:
        """Draws the rows of a pass, on the device."""
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
        """Prepares all slices; at most a few batches of them are in main memory at a time."""
        count = len(self.dataset)
        block: Slices = {}
        chunks = torch.arange(count).split(64)
        batches = read_ahead(self.dataset, chunks, self.device)
        for rows, slices in zip(chunks, map(self.prepare, batches), strict=True):
            for key, field in slices.items():
                if key not in block:
                    block[key] = field.new_empty((count, *field.shape[1:]))
                block[key][rows] = field
        return block
