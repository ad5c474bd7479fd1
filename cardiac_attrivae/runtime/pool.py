"""A pool of workers that may die: processes of this machine, or a Dask cluster.

Work is one call per item. When a worker is killed, because memory ran out or its machine went down,
the items that were submitted at that time are run once more; the others lose nothing. Only as many
items are submitted at once as keep the workers busy, however many there are.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from functools import partial
from itertools import islice
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

import psutil
from joblib.externals.loky import ProcessPoolExecutor
from joblib.externals.loky.process_executor import BrokenProcessPool

from ..schema import DataError
from .environment import WINDOWS
from .provenance import __version__, install_line

Item = TypeVar("Item")
Result = TypeVar("Result")


class Failure(Enum):
    """Stands in place of a result that could not be computed."""

    KILLED = "its worker was killed, and once more when it ran alone"


@dataclass(frozen=True)
class Pool:
    """Workers that take calls."""

    submit: Callable[..., Future]  # submits a call as ``Executor.submit`` does
    # number of calls that are submitted at once, including those that wait for a worker
    window: int
    # error that each submitted call raises when a worker dies. One of them killed it.
    died: type[Exception]


WINDOW = 1000
"""Number of calls that are submitted to a cluster at once."""
PATIENCE_S = 20
"""Longest time to wait for a scheduler, for its file and for its first worker."""
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def run_each(
    pool: Pool, work: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[tuple[Item, Result | Failure]]:
    """Yields every item with its result as they come; KILLED if its worker died twice.

    Items are drawn as workers become free. Those that were submitted when a worker died are retried
    at the end, one at a time: a second death then shows which item is the cause, and no other item
    can take the memory that it needs. ``work`` must tolerate a second call with the same item,
    since a worker may die after the work was done.
    """
    retried = []
    for item, result in _once(pool, work, items):
        if result is Failure.KILLED:
            retried.append(item)
        else:
            yield item, result
    for item in retried:
        yield from _once(pool, work, [item])


def _once(
    pool: Pool, work: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[tuple[Item, Result | Failure]]:
    """Every item with its result, or KILLED if it was submitted when a worker died."""
    todo, submitted = iter(items), dict[Future, Item]()
    while True:
        for item in islice(todo, pool.window - len(submitted)):
            submitted[pool.submit(work, item)] = item
        if not submitted:
            return
        for future in wait(submitted, return_when=FIRST_COMPLETED).done:
            item = submitted.pop(future)
            try:
                result = future.result()
            except pool.died:
                result = Failure.KILLED
            yield item, result


@contextmanager
def processes(number: int) -> Iterator[Pool]:
    """Starts processes of this machine, one thread each; a single one is this process itself.

    They end with the block, at once if it raises, and also when this process is killed.
    """
    if number == 1:
        yield Pool(_here, 1, BrokenProcessPool)
        return
    # joblib's executor, and not its Parallel, which does not say which calls a death cost
    new = partial(
        ProcessPoolExecutor,
        number,
        env=dict.fromkeys(THREADS, "1"),
        initializer=_end_with,
        initargs=(os.getpid(),),
    )
    executor = new()

    def submit(work: Callable, item: Item) -> Future:
        nonlocal executor
        try:
            return executor.submit(work, item)
        except BrokenProcessPool:
            executor.shutdown(kill_workers=True)
            executor = new()
            return submit(work, item)

    try:
        yield Pool(submit, 2 * number, BrokenProcessPool)
    except BaseException:
        executor.shutdown(kill_workers=True)
        raise
    executor.shutdown()


def _end_with(parent: int) -> None:
    """Has this worker end soon after its parent, which cannot tell it so when it is killed."""

    def watch() -> None:
        while _is_alive(parent):
            time.sleep(1)
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def _is_alive(parent: int) -> bool:
    # elsewhere than on Windows, a parent that was killed may stay as a zombie
    return psutil.pid_exists(parent) if WINDOWS else os.getppid() == parent


def _here(work: Callable[[Item], Result], item: Item) -> Future:
    future: Future = Future()
    future.set_result(work(item))
    return future


@contextmanager
def cluster(address: str, folders: Iterable[Path]) -> Iterator[Pool]:
    """Connects to the workers of a running Dask cluster.

    Dask itself gives an item whose worker died to another worker, three times by default
    (``distributed.scheduler.allowed-failures``), and copes with workers that join and leave.

    Args:
        address: ``tcp://HOST:PORT`` of the scheduler, or the file to which it wrote its address.
        folders: Absolute paths that every worker must see.

    Raises:
        DataError: If Dask is not installed, no scheduler answers, or a worker cannot do the work.
    """
    try:
        from distributed import Client, KilledWorker
    except ImportError as error:
        raise DataError(
            f"a Dask cluster needs the package distributed ({error}); {install_line('dask')}"
        ) from None
    expected = __version__, tuple(folders)
    address = _address(address)
    try:
        connected = Client(address, timeout=PATIENCE_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise DataError(
            f"no Dask scheduler answers at {address}: {error}; start one with dask scheduler"
        ) from None
    with connected as client:
        try:
            client.wait_for_workers(1, timeout=PATIENCE_S)
        except TimeoutError:
            raise DataError(
                f"the scheduler at {address} has no worker after {PATIENCE_S} s; start some with "
                f"dask worker {address} --nthreads 1"
            ) from None
        try:
            client.run(_check_worker, *expected)
        except ImportError as error:
            raise DataError(
                f"a worker at {address} lacks this package ({error}); install cardiac-attrivae "
                f"{__version__} where the workers run"
            ) from None

        # not Dask's own executor, which reports a result that was lost with its worker as an error
        def submit(work: Callable, item: Item) -> Future:
            promised: Future = Future()
            future = client.submit(_checked, *expected, work, item, pure=False)
            future.add_done_callback(partial(_copy_result, promised))
            return promised

        try:
            yield Pool(submit, WINDOW, KilledWorker)
        except CancelledError:
            raise DataError(
                f"the Dask scheduler at {address} is gone; what is done is kept: start the cluster "
                "again, and the same command goes on"
            ) from None


def _copy_result(promised: Future, future: Any) -> None:
    """Gives the result or the error of one future to another."""
    try:
        promised.set_result(future.result())
    except Exception as error:
        promised.set_exception(error)


def _address(given: str) -> str:
    """Returns the address of a scheduler: as given, or from the scheduler's file once it exists."""
    end = time.monotonic() + PATIENCE_S
    while "://" not in given:
        with suppress(OSError, ValueError, KeyError, TypeError):
            return json.loads(Path(given).read_bytes())["address"]
        if time.monotonic() > end:
            raise DataError(
                f"{given!r} is neither tcp://HOST:PORT nor the file of a scheduler; expected the "
                "address of a Dask scheduler, or what dask scheduler --scheduler-file FILE writes"
            )
        time.sleep(0.2)
    return given


def _checked(
    version: str, folders: tuple[Path, ...], work: Callable[[Item], Result], item: Item
) -> Result:
    """One call on a worker, which may have joined after the others were checked."""
    _check_worker(version, folders)
    return work(item)


def _check_worker(version: str, folders: tuple[Path, ...]) -> None:
    """Refuses a worker with another version of the package, or one that does not see a folder."""
    host = socket.gethostname()
    if version != __version__:
        raise DataError(
            f"a worker on {host} has cardiac-attrivae {__version__}, this is {version}; "
            "results must not depend on who works: install the same version"
        )
    for folder in folders:
        if not folder.is_dir():
            raise DataError(
                f"a worker on {host} does not see {folder}; source and output must be on a file "
                "system that all workers share, under the same path"
            )
