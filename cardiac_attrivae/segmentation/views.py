"""Ways to look at a stack, and how what is seen in them is averaged and compared."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..models.most_likely import most_likely
from ..schema import HEART, Structure


class View(NamedTuple):
    """One way to look at a stack: turned by quarters, mirrored, its slices in reverse order."""

    quarters: int
    mirrored: bool
    reverse: bool


VIEWS = tuple(View(k, bool(k % 2) ^ mirror, mirror) for mirror in (False, True) for k in range(4))
"""All quarter turns, half of them mirrored, half of them in the other order."""


def seen_in(fields: Tensor, view: View) -> Tensor:
    """Turns and mirrors the last two axes."""
    fields = fields.rot90(view.quarters, (-2, -1))
    return fields.flip(-1) if view.mirrored else fields


def put_back(fields: Tensor, view: View) -> Tensor:
    """Undoes `seen_in`."""
    return (fields.flip(-1) if view.mirrored else fields).rot90(-view.quarters, (-2, -1))


def joint(fields: Sequence[Tensor]) -> Tensor:
    """Averages the probabilities of several networks, bit for bit the same in any order of them.

    Args:
        fields: Those of each network, (Z, 4, H, W) float32.

    Example:
        >>> one, other = torch.rand(2, 3, 4, 5, 5)
        >>> bool((joint([one, one, one]) == one).all()), bool((joint([other]) == other).all())
        (True, True)
        >>> bool((joint([one, other, one]) == joint([other, one, one])).all())
        True
    """
    if len(fields) == 1:
        return fields[0]
    return torch.stack(list(fields)).double().sort(0).values.mean(0).float()


def average(values: Iterable[float]) -> float:
    """Averages numbers, bit for bit the same in any order of them.

    Example:
        >>> average([0.1, 0.7, 0.4]) == average([0.7, 0.4, 0.1])
        True
    """
    values = list(values)
    return math.fsum(values) / len(values)


def agreement(seen: Sequence[Tensor], mean: Tensor) -> dict[Structure, float]:
    """Computes the mean Dice of the views with their average.

    Args:
        seen: Probabilities of each view, (Z, 4, H, W).
        mean: Their average.

    Example:
        >>> fields = torch.eye(4)[[0, 1, 2, 3]].T.reshape(1, 4, 2, 2)
        >>> agreement([fields, fields], fields)[Structure.LV]
        1.0
    """
    labels, found = most_likely(mean), {}
    labels_seen = [most_likely(fields) for fields in seen]
    for structure in HEART:
        own = labels == structure
        shares = []
        for each in labels_seen:
            other = each == structure
            total = own.sum() + other.sum()
            shares.append(float(2 * (own & other).sum() / total) if total else 1.0)
        found[structure] = float(np.mean(shares))
    return found
