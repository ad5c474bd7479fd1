"""What a search tries: ranges and choices of the values of a pipeline."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NamedTuple

from ..runtime.yaml_files import read_yaml
from .config import Pipeline

if TYPE_CHECKING:
    from optuna import Trial


class Range(NamedTuple):
    """Numbers from ``low`` to ``high``; whole ones if both are; drawn by their logarithm or not."""

    low: float
    high: float
    log: bool = False


Space = Mapping[str, Range | Sequence[Any]]
"""Dotted key of a pipeline -> the range or the choices that are searched."""


def parse_search(text: str) -> tuple[str, Range | list[Any]]:
    """Reads ``KEY=LOW:HIGH``, ``KEY=LOW:HIGH:log`` or ``KEY=CHOICE,CHOICE``; choices are YAML.

    Raises:
        ValueError: If it is none of them, or a range is empty.

    Example:
        >>> parse_search("optimiser.lr=1e-4:1e-2:log")
        ('optimiser.lr', Range(low=0.0001, high=0.01, log=True))
        >>> parse_search("network.arguments.init=he,published")
        ('network.arguments.init', ['he', 'published'])
    """
    key, _, wanted = text.partition("=")
    number = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?"
    match = re.fullmatch(rf"({number}):({number})(:log)?", wanted, re.IGNORECASE)
    if match and key:
        whole = all(re.fullmatch(r"[-+]?\d+", end) for end in match.groups()[:2])
        low, high = (int(end) if whole else float(end) for end in match.groups()[:2])
        if low < high and (low > 0 or not match[3]):
            return key, Range(low, high, bool(match[3]))
    elif key and "," in wanted and ":" not in wanted:
        return key, [read_yaml(choice) for choice in wanted.split(",")]
    raise ValueError(
        f"--search {text!r}; expected KEY=LOW:HIGH, KEY=LOW:HIGH:log (both above 0) or "
        "KEY=CHOICE,CHOICE, such as optimiser.lr=1e-4:1e-2:log"
    )


def default_space(pipeline: Pipeline) -> dict[str, Range]:
    """Ranges from a tenth to ten times each value above 0 whose option is marked as searched."""
    return {
        f"{section}.{f.name}": Range(value / 10, value * 10, log=True)
        for section in ("optimiser", "objective")
        for f in fields(getattr(pipeline, section))
        if f.metadata.get("searched") and (value := getattr(getattr(pipeline, section), f.name))
    }


def propose(trial: Trial, key: str, where: Range | Sequence[Any]) -> Any:
    """Returns the value of a key that Optuna tries next."""
    if not isinstance(where, Range):
        return trial.suggest_categorical(key, where)
    if isinstance(where.low, int) and isinstance(where.high, int):
        return trial.suggest_int(key, where.low, where.high, log=where.log)
    return trial.suggest_float(key, where.low, where.high, log=where.log)
