"""The device to compute on: which one, what it is called, its memory, and results that repeat."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch

from .environment import GIVEN
from .messages import counted

ACCEPTED = "expected auto, cpu, cuda, cuda:N or mps"


def find_device(name: str) -> torch.device:
    """Returns the device of a name; ``auto`` is the GPU if there is one, also one of Apple's.

    Raises:
        ValueError: If the name is none of a device, or there is no such device.

    Example:
        >>> find_device("cpu")
        device(type='cpu')
    """
    if name == "auto":
        name = "mps" if torch.backends.mps.is_available() else "cpu"
        name = "cuda" if torch.cuda.is_available() else name
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device is {name!r}; {ACCEPTED}") from None
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ValueError(f"device is {name!r} but {count} GPUs are found; expected auto or cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(
            f"device is {name!r} but torch finds no GPU of Apple; expected auto or cpu"
        )
    if device.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f"device is {name!r}; {ACCEPTED}")
    return device


def describe_device(device: torch.device) -> str:
    """Names a device in the words of summary.json: the GPU's, or the number of CPU threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return "Apple GPU"
    threads = torch.get_num_threads()
    return f"cpu, {counted(threads, 'thread')}"


@contextmanager
def idle_cores(seconds: float = 0.5) -> Iterator[None]:
    """Lets torch use the idle cores alone inside, unless the user set OMP_NUM_THREADS.

    Threads that share a core wait for each other: where others kept two cores busy, a step of
    attri_vae_unguided in bfloat16 took 5 s with two threads and .4 s with one (.55 s and .76 s in
    float32). The load is measured for some ``seconds``.
    """
    before = torch.get_num_threads()
    if before > 1 and not GIVEN:
        busy = psutil.cpu_percent(seconds)
        torch.set_num_threads(idle_threads(before, os.cpu_count() or 1, busy))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def idle_threads(most: int, cores: int, busy: float) -> int:
    """Counts the threads that find an idle core, of at most so many, where ``busy`` percent work.

    Example:
        >>> [idle_threads(4, 8, busy) for busy in (3, 70, 100)]
        [4, 2, 1]
    """
    return max(1, min(most, round(cores * (1 - busy / 100))))


def peak_memory_mib(device: torch.device) -> float:
    """Returns the most memory that this process has used so far: of the GPU, if it has one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = getattr(psutil.Process().memory_info(), "peak_wset", None)
    if peak is not None:  # Windows, the only system where psutil knows the peak
        return peak / 2**20
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # bytes there, KiB elsewhere


@contextmanager
def deterministic() -> Iterator[None]:
    """Makes what is computed inside the same each time, on a GPU too; raises where it cannot.

    Unlike `monai.utils.set_determinism` it sets no seed, and restores the switches afterwards.
    cuBLAS reads its variable at the first matrix product of a process, so that a GPU must not have
    computed one before.
    """
    cudnn, variable = torch.backends.cudnn, "CUBLAS_WORKSPACE_CONFIG"
    wanted = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    before, workspace = (cudnn.deterministic, cudnn.benchmark), os.environ.get(variable)
    try:
        os.environ.setdefault(variable, ":4096:8")
        torch.use_deterministic_algorithms(True)
        cudnn.deterministic, cudnn.benchmark = True, False
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before
        torch.use_deterministic_algorithms(wanted, warn_only=warns)
        if workspace is None:
            os.environ.pop(variable, None)
