"""Which number format a network is trained in, where its pipeline leaves that open (``auto``).

bfloat16 is faster where the processor multiplies it, and 2 to 10 times slower than float32 where it
is emulated, see benchmarks/precision.py. On a GPU and on x86, what torch and oneDNN report decides;
elsewhere, one step in each format is timed. One machine therefore gives one answer, as long as its
instruction sets are not limited (``ONEDNN_MAX_CPU_ISA``, ``ATEN_CPU_CAPABILITY``).
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable

import torch

from .config import PRECISIONS
from .engines import NetworkTrainer

FLOAT32, BFLOAT16 = PRECISIONS
NATIVE = ("BF16", "FP16", "AMX", "AVX10")
"""Parts of the names of oneDNN's instruction sets that multiply bfloat16."""
GAIN = 1.1
"""How many times as fast a step in bfloat16 must be: noise of a timing must not decide."""


def known_precision(device: torch.device) -> str | None:
    """Returns the faster number format, or None where only a timing can tell.

    Example:
        >>> known_precision(torch.device("mps"))
        'float32'
    """
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type != "cpu" or not (
        torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    ):  # a build of torch without oneDNN, as for Apple's processors, has no such function
        fast = False
    elif platform.machine().lower() in ("x86_64", "amd64"):
        fast = torch.cpu._is_avx512_bf16_supported() and allows_bfloat16(
            os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA", "")
        )
    else:
        return None
    return BFLOAT16 if fast else FLOAT32


def allows_bfloat16(limit: str) -> bool:
    """Says whether oneDNN may multiply bfloat16 under a limit of its instruction sets.

    Example:
        >>> [allows_bfloat16(limit) for limit in ("", "AVX2", "avx512_core", "AVX512_CORE_BF16")]
        [True, False, False, True]
    """
    limit = limit.upper()
    return limit in ("", "ALL", "DEFAULT") or any(part in limit for part in NATIVE)


def faster_precision(trainer: NetworkTrainer) -> str:
    """Times one step in each format, after one that warms up. It changes what it trains, so the
    network is thrown away afterwards."""
    batch, spent = next(iter(trainer.data_loader)), {}
    trainer.state.epoch = trainer.state.max_epochs  # the last one has all terms
    for name in PRECISIONS * 2:
        trainer.precision = getattr(torch, name)
        start = time.process_time()  # time of other programs does not count
        trainer._iteration(trainer, batch)
        spent[name] = time.process_time() - start
    return BFLOAT16 if GAIN * spent[BFLOAT16] < spent[FLOAT32] else FLOAT32


def precision_for(device: torch.device, trainer: Callable[[], NetworkTrainer]) -> str:
    """Chooses the number format for ``precision: auto`` on a device.

    ``trainer`` makes a trainer for `faster_precision`; it is called only where a timing must tell.
    The global state of torch's random numbers stays as it is.
    """
    known = known_precision(device)
    if known is not None:
        return known
    with torch.random.fork_rng(devices=[]):
        return faster_precision(trainer())
