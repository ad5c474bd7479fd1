"""Names of files that every system takes, and keeps apart: ids of patients may be anything."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable

REFUSED = re.compile(r'[<>:"/\\|?*\x00-\x1f]')
RESERVED = re.compile(r"(con|prn|aux|nul|(com|lpt)[\d¹²³])\s*(\..*)?", re.IGNORECASE)
"""Names of devices: Windows takes them for no file, whatever ending follows."""


MOST_BYTES = 200
"""Of a name, so that there is room for an ending and for the token of a temporary file: file
systems take 255."""


def shortened(name: str) -> str:
    """Cuts a name that would be too long for a file, and ends it with a digest of the whole.

    Example:
        >>> shortened("p1"), len(shortened("long" * 60)), shortened("long" * 60)[-17:]
        ('p1', 200, 'glon-521181365bba')
    """
    whole = name.encode(errors="surrogateescape")
    if len(whole) <= MOST_BYTES:
        return name
    end = f"-{hashlib.sha256(whole).hexdigest()[:12]}"
    return whole[: MOST_BYTES - len(end)].decode(errors="ignore") + end


def file_names(names: Iterable[str]) -> dict[str, str]:
    """Gives each name one that Windows, macOS and Linux take, and that no other has.

    What Windows refuses becomes ``_`` or is left out at the end; a number tells names apart that
    differ in capitals alone; long ones are `shortened`. Any other name stays as it is.

    Args:
        names: Ids of patients, say; without the ending that files get.

    Returns:
        Name -> name of its file.

    Example:
        >>> file_names(["p1", "P1", "a:b", "a_b", "aux", "end. "])
        {'p1': 'p1', 'P1': 'P1-2', 'a_b': 'a_b', 'a:b': 'a_b-2', 'aux': '_aux', 'end. ': 'end'}
    """
    taken = {name: _portable(name) for name in names}
    first = sorted(taken, key=lambda name: taken[name] != name)  # those that stay
    return dict(zip(first, told_apart(taken[name] for name in first), strict=True))


def told_apart(names: Iterable[str]) -> list[str]:
    """Adds a number to each name that an earlier one has, so that files can be called after them;
    long ones are `shortened`.

    Example:
        >>> told_apart(["a", "b", "A", "a"])
        ['a', 'b', 'A-2', 'a-3']
    """
    taken: set[str] = set()
    found = []
    for name in map(shortened, names):
        count, free = 1, name
        while _as_the_disk(free) in taken:
            count += 1
            free = f"{name}-{count}"
        taken.add(_as_the_disk(free))
        found.append(free)
    return found


def _as_the_disk(name: str) -> str:
    """What a file system compares that knows neither capitals nor how an accent is written."""
    return unicodedata.normalize("NFC", name).casefold()


def _portable(name: str) -> str:
    safe = REFUSED.sub("_", name).rstrip(" .") or "_"
    return f"_{safe}" if RESERVED.fullmatch(safe) else safe
