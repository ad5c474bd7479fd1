"""A call per item in workers that may die: processes of this machine, or a Dask cluster.

A worker that is killed, for want of memory or with its machine, costs what it had in hand one more
try, and the others nothing. As many items are in hand as keep the workers busy, however many there
are.
"""

from __future__ import annotations

import json
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
from typing import Any, TypeVar

from joblib.externals.loky import ProcessPoolExecutor
from joblib.externals.loky.process_executor import BrokenProcessPool

from ..schema import DataError
from .provenance import __version__

Item, Result = TypeVar("Item"), TypeVar("Result")


class Fate(Enum):
    """What stands in place of a result that will never come."""

    KILLED = "its worker was killed, and once more when it ran alone"


@dataclass(frozen=True)
class Crew:
    """Workers, and how they are told from the call that killed them.

    Attributes:
        submit: Hands out a call as ``Executor.submit`` does.
        window: Calls that are in hand at once, those that wait for a worker included.
        died: Error of each call that was in hand when a worker died; the culprit is among them.
    """

    submit: Callable[..., Future]
    window: int
    died: type[Exception]


WINDOW = 1000
"""Calls that a cluster has in hand; its scheduler knows of no more."""
PATIENCE_S = 20
"""How long a scheduler, its file and its first worker are waited for."""
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def each(
    crew: Crew, work: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[tuple[Item, Result | Fate]]:
    """Every item with its result, as they come; with KILLED where its worker died twice.

    What was in hand when a worker died is run again in the end, one at a time: so a second death
    convicts one item, and an innocent one has no neighbour that could take its memory.

    Args:
        crew: Of `processes` or `cluster`.
        work: Must bear being run twice on an item: its worker may die after the work was done.
        items: Drawn as workers need them.
    """
    suspects = []
    for item, result in _once(crew, work, items):
        if result is Fate.KILLED:
            suspects.append(item)
        else:
            yield item, result
    for item in suspects:
        yield from _once(crew, work, [item])


def _once(
    crew: Crew, work: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[tuple[Item, Result | Fate]]:
    """Every item with its result, with KILLED if it was in hand when a worker died."""
    todo, in_hand = iter(items), {}
    while True:
        for item in islice(todo, crew.window - len(in_hand)):
            in_hand[crew.submit(work, item)] = item
        if not in_hand:
            return
        for future in wait(in_hand, return_when=FIRST_COMPLETED).done:
            item = in_hand.pop(future)
            try:
                result = future.result()
            except crew.died:
                result = Fate.KILLED
            yield item, result


@contextmanager
def processes(number: int) -> Iterator[Crew]:
    """Processes of this machine, one thread each; one is this process itself.

    What they have in hand when an error ends the block is not finished.
    """
    if number == 1:
        yield Crew(_here, 1, BrokenProcessPool)
        return
    # joblib's pool, and not its Parallel, which at a death does not say what was in hand
    new = partial(ProcessPoolExecutor, number, env=dict.fromkeys(THREADS, "1"))
    pool = new()

    def submit(work: Callable, item: Item) -> Future:
        nonlocal pool
        try:
            return pool.submit(work, item)
        except BrokenProcessPool:
            pool.shutdown(kill_workers=True)
            pool = new()
            return submit(work, item)

    try:
        yield Crew(submit, 2 * number, BrokenProcessPool)
    except BaseException:
        pool.shutdown(kill_workers=True)
        raise
    pool.shutdown()


def _here(work: Callable[[Item], Result], item: Item) -> Future:
    future: Future = Future()
    future.set_result(work(item))
    return future


@contextmanager
def cluster(address: str, folders: Iterable[Path]) -> Iterator[Crew]:
    """Workers of a Dask cluster that runs already.

    Dask itself gives an item whose worker dies to another one, three times by default
    (``distributed.scheduler.allowed-failures``), and waits for workers that come and go.

    Args:
        address: ``tcp://HOST:PORT`` of its scheduler, or the file in which that wrote it.
        folders: What every worker must see under the same path, absolute.

    Raises:
        DataError: If Dask is not installed, or nobody answers, or a worker cannot take part.
    """
    try:
        from distributed import Client, KilledWorker
    except ImportError as error:
        raise DataError(
            f"a Dask cluster needs the package distributed ({error}); "
            "pip install 'cardiac-attrivae[dask]'"
        ) from None
    asked = __version__, tuple(folders)
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
            client.run(_check_worker, *asked)
        except ImportError as error:
            raise DataError(
                f"a worker at {address} lacks this package ({error}); install cardiac-attrivae "
                f"{__version__} where the workers run"
            ) from None

        # as its own executor does, which takes a result that is lost with its worker for an error
        def submit(work: Callable, item: Item) -> Future:
            called: Future = Future()
            future = client.submit(_take_part, *asked, work, item, pure=False)
            future.add_done_callback(partial(_pass_on, called))
            return called

        try:
            yield Crew(submit, WINDOW, KilledWorker)
        except CancelledError:
            raise DataError(
                f"the Dask scheduler at {address} is gone; what is done is kept: start the cluster "
                "again, and the same command goes on"
            ) from None


def _pass_on(called: Future, future: Any) -> None:
    """What became of a call on the cluster, to whom waits for it."""
    try:
        called.set_result(future.result())
    except Exception as error:
        called.set_exception(error)


def _address(told: str) -> str:
    """Of a scheduler, as it is told or as it stands in the scheduler's file, which may be late."""
    end = time.monotonic() + PATIENCE_S
    while "://" not in told:
        with suppress(OSError, ValueError, KeyError, TypeError):
            return json.loads(Path(told).read_bytes())["address"]
        if time.monotonic() > end:
            raise DataError(
                f"{told!r} is neither tcp://HOST:PORT nor the file of a scheduler; expected the "
                "address of a Dask scheduler, or what dask scheduler --scheduler-file FILE writes"
            )
        time.sleep(0.2)
    return told


def _take_part(
    version: str, folders: tuple[Path, ...], work: Callable[[Item], Result], item: Item
) -> Result:
    """One call on a worker, which may have joined after the others were asked."""
    _check_worker(version, folders)
    return work(item)


def _check_worker(version: str, folders: tuple[Path, ...]) -> None:
    """Whether this process can do the work as the one that hands it out would do it.

    Raises:
        DataError: If it is of another version, or does not see a folder.
    """
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
