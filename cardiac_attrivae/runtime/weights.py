"""Weights on disk: safetensors with facts about them, and a hash that shows every changed byte."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..schema import DataError
from .files import write
from .provenance import SEAL, seal

FACTS = "cardiac_attrivae"
"""Key of the metadata: the facts, as JSON."""

Weights = dict[str, Tensor]
Facts = dict[str, Any]


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """Returns the SHA-256 of names, shapes, types and bytes of weights, sorted by name."""
    found = hashlib.sha256()
    for name, values in sorted(weights.items()):
        found.update(f"{name} {tuple(values.shape)} {values.dtype}".encode())
        found.update(values.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def write_weights(file: str | Path, weights: Mapping[str, Tensor], facts: Facts) -> None:
    """Writes weights by their names, with facts about them that JSON can hold, and seals both by a
    hash; see `files.write`."""
    weights = {name: values.detach().cpu().contiguous() for name, values in weights.items()}
    sealed = facts | {SEAL: seal(facts, weights_digest(weights))}
    write(file, save(weights, {FACTS: json.dumps(sealed)}))


def read_weights(file: str | Path) -> tuple[Weights, Facts]:
    """Reads weights, onto the CPU, and facts that `write_weights` wrote. Runs no code of the file.

    Raises:
        DataError: If the file cannot be read, was written by something else or by an older version,
            was changed, or holds NaN or infinite values.
    """
    weights, facts, sealed = open_weights(file)
    if not sealed:
        raise DataError(
            f"{file} was changed after it was written: its hash differs; use a copy of it that was "
            "not, or train again"
        )
    for name, values in weights.items():
        if values.is_complex():
            raise DataError(f"{file}: {name} holds complex numbers; expected real ones")
        if not values.float().isfinite().all():  # 8-bit floats know no isfinite
            raise DataError(f"{file}: {name} holds NaN or infinite values; expected numbers")
    return weights, facts


def open_weights(file: str | Path) -> tuple[Weights, Facts, bool]:
    """Reads as `read_weights` does, but returns whether the hash fits instead of refusing what was
    changed."""
    try:
        with safe_open(file, "pt") as stored:
            facts = json.loads((stored.metadata() or {}).get(FACTS, "null"))
            weights = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        found = expected = None
        if isinstance(facts, dict):
            found, expected = facts.pop(SEAL, None), seal(facts, weights_digest(weights))
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file} cannot be read: {error}") from None
    if expected is None:
        raise DataError(f"{file} was not written by cardiac-attrivae: it has no configuration")
    if found is None:
        raise DataError(
            f"{file} was written by an older version of cardiac-attrivae: it has no hash; train "
            "again, or use that version"
        )
    return weights, facts, found == expected
