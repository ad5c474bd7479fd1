"""What this process tells the libraries below it, before any of them is imported.

Each value is set in the environment, and only where the user has not set it.
"""

from __future__ import annotations

import getpass
import os
from math import ceil
from pathlib import Path

WINDOWS = os.name == "nt"

CGROUPS = Path("/sys/fs/cgroup")
CORES = Path("/sys/devices/system/cpu")
THREADS = "OMP_NUM_THREADS"
GIVEN = THREADS in os.environ
"""Whether the user, or the process that started this one, set the number of threads."""


def prepare() -> None:
    """Sets the user's name, the number of threads, and how threads wait for each other.

    MONAI asks for the name of the user when it is imported, which raises in a container that runs
    under a number without a name (``docker run --user``). Threads that spin while they wait take
    the cores from those that could work: where other programs kept two cores busy, 8 steps of
    attri_vae_unguided took 78 to 93 s and 14 s of the processor; 31 to 36 s and 5 s without
    spinning. On two idle cores a step of attri_sivae_unguided takes 302 ms without spinning, 239 ms
    if threads spin for some 10 us before they sleep, and 221 ms if they never sleep.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):
        os.environ["USER"] = "unknown"
    if os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE").upper() == "PASSIVE":
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    # what an Apple GPU cannot do is done by the CPU
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
    cores = usable_cores()
    if cores < (os.cpu_count() or 1):
        os.environ.setdefault(THREADS, str(cores))


def usable_cores() -> int:
    """Counts the physical cores that this process may use, by its affinity and its cgroup's quota.

    Hyper-threads of one core count once. Where the system does not say, they are counted as cores.
    """
    if hasattr(os, "sched_getaffinity"):
        allowed = os.sched_getaffinity(0)
    else:
        allowed = set(range(os.cpu_count() or 1))
    cores = {_text(CORES / f"cpu{n}" / "topology" / "thread_siblings_list") or n for n in allowed}
    return max(1, min(len(cores), *_quotas()))


def _quotas() -> list[int]:
    """Cores that the quotas of the cgroup allow, rounded up; a large number if there are none."""
    own = _text(Path("/proc/self/cgroup")).rpartition("0::/")[2].strip()
    quotas = [_text(folder / "cpu.max").split() for folder in (CGROUPS, CGROUPS / own)]
    first = CGROUPS / "cpu"  # version 1
    quotas.append([_text(first / f"cpu.cfs_{name}_us") for name in ("quota", "period")])
    cores = [
        ceil(int(quota[0]) / int(quota[1]))
        for quota in quotas
        if len(quota) == 2 and all(part.isdigit() and int(part) for part in quota)
    ]
    return cores or [10**6]


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""
