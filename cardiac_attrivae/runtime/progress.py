"""How far a loop of known length is: a bar on a terminal, a line for every tenth elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
Progress = Callable[[Iterable[Item], int], Iterable[Item]]
"""Wraps an iterable of known length and shows how far it is."""


def silent(items: Iterable[Item], total: int) -> Iterable[Item]:
    """Wraps an iterable, and shows nothing.

    Example:
        >>> [*silent(["a", "b"], 2)]
        ['a', 'b']
    """
    return items


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def progress(label: str, say: Callable[[str], None] = _print) -> Progress:
    """Makes what wraps an iterable and its length.

    Args:
        label: What is counted.
        say: Prints a line, where nobody watches standard error.

    Example:
        >>> lines = progress("scans", print)(["a", "b", "c"], 3)
        >>> [*lines]
        scans 1/3
        scans 2/3
        scans 3/3
        ['a', 'b', 'c']
    """

    def shown(items: Iterable[Item], total: int) -> Iterable[Item]:
        return (
            _bar(items, label, total) if sys.stderr.isatty() else _lines(items, label, total, say)
        )

    return shown


def _bar(items: Iterable[Item], label: str, total: int) -> Iterable[Item]:
    from tqdm import tqdm

    return tqdm(items, label, total)


def _lines(
    items: Iterable[Item], label: str, total: int, say: Callable[[str], None]
) -> Iterator[Item]:
    for count, item in enumerate(items, start=1):
        yield item
        if count * 10 // total > (count - 1) * 10 // total:
            say(f"{label} {count}/{total}")
