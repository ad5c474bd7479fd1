"""Files and folders that are written atomically.

Everything that the package writes is written through here; what it keeps, to a temporary name
beside its place, flushed to the disk, then renamed. What a killed process leaves is called
``.part-TOKEN-NAME`` or ``.old-TOKEN-NAME``; the next run that locks the folder removes it.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from reprlib import repr as short
from typing import Any

from filelock import lock_descriptor
from isal.isal_zlib import crc32

from ..schema import DataError
from .environment import WINDOWS

PART = re.compile(r"\.(part|old)-(?:[0-9a-f]{16}|\d{1,9})-(.+)")
"""Temporary names: ``part`` is being written, ``old`` is being replaced. Earlier versions put the
number of the process where a random token stands now."""
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF)
"""What file systems without locks answer, for example Lustre without the mount option ``flock``."""
DAY_S = 86_400
"""Age of a leftover, where no lock can tell whether its writer is alive."""

NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


WAITS_S = (0.05, 0.1, 0.2, 0.4, 0.8)
"""How long Windows is waited for, where it does not rename what a reader or a scanner has open."""


def _patiently(rename: Callable[[Path, Path], None], source: Path, target: Path) -> None:
    for wait in WAITS_S if WINDOWS else ():
        with suppress(PermissionError):
            return rename(source, target)
        time.sleep(wait)
    try:
        rename(source, target)
    except PermissionError as error:
        if not WINDOWS:
            raise
        kept = source if PART.fullmatch(target.name) else target
        why = f"{error.strerror}; if another program shows it, close it there and try again"
        raise PermissionError(error.errno, why, str(kept)) from error


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Writes a file atomically; its folders are created.

    Yields a temporary path in the same folder, with the same ending, to write to. When the block
    ends, that file is flushed to the disk and renamed; if the block raises, it is removed and the
    file that was there before stays. A kill or a power cut leaves the old file or the new one,
    never a part. A link at ``path`` is replaced, not followed. An OSError names ``path``.
    """
    path = Path(path)
    if not path.parent.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
    with errors_name(path), temporary(path, _create_file) as beside:
        yield beside
        _flush(beside)
        _patiently(os.replace, beside, path)
        _flush(path.parent)


def write(path: str | Path, content: str | bytes | memoryview) -> None:
    """Writes text (as UTF-8, line ends unchanged) or bytes, see `atomic_file`."""
    with atomic_file(path) as beside:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)


def write_checked(path: Path, content: bytes) -> None:
    """Writes bytes and their checksum, without a temporary name and without waiting for the disk,
    which take longer than some work does. `read_checked` recognises what a kill or a power cut
    leaves of them."""
    with errors_name(path):
        path.write_bytes(content + crc32(content).to_bytes(4))


def read_checked(path: Path) -> bytes | None:
    """Reads what `write_checked` wrote; None if it is damaged."""
    content = path.read_bytes()
    content, checksum = content[:-4], content[-4:]
    return content if crc32(content).to_bytes(4) == checksum else None


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Writes a folder atomically: yields an empty one, which takes its place when the block ends.

    See `replace_folder` for what happens to a folder that is there already. It stays if the block
    raises.
    """
    place = real_place(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    with errors_name(place), temporary(place, os.mkdir) as beside:
        yield beside
        replace_folder(beside, place)


def replace_folder(folder: Path, place: Path) -> None:
    """Flushes a complete folder to the disk and gives it another name on the same file system; what
    had that name is removed.

    The old folder is renamed, then the new one, then the old one is removed. A kill between the two
    renames leaves no folder of that name: the next call, or the next run that locks the folder
    around it, brings the old one back. What other killed calls left for this place is removed.
    """
    for root, _, files in os.walk(folder):
        for name in files:
            _flush(Path(root, name))
        _flush(Path(root))
    for left in place.parent.glob(".*-*"):
        if (named := PART.fullmatch(left.name)) and named[2] == place.name:
            _remove_leftover(left)
    old = _beside(place, "old")
    if place.exists():
        _patiently(os.rename, place, old)
    try:
        _patiently(os.rename, folder, place)
    except OSError:
        with suppress(OSError):
            os.rename(old, place)
        raise
    _flush(place.parent)
    shutil.rmtree(old, ignore_errors=True)


def real_place(path: str | Path) -> Path:
    """Returns where a folder that replaces another one goes: absolute, the user's own links
    followed. Refuses the current folder and those that hold it."""
    place, here = Path(os.path.realpath(path)), Path.cwd()
    if place == here or place in here.parents:
        raise DataError(
            f"{path} is the current folder or holds it, and would be replaced as a whole; "
            f"name a new folder, such as {Path(path) / 'output'}"
        )
    return place


def remove_leftovers(folder: Path) -> None:
    """Removes what killed processes left half written, at any depth, and brings back a folder that
    one of them was about to replace. What a living process is writing stays."""
    for root, folders, files in os.walk(folder):
        for name in (*files, *folders):
            if PART.fullmatch(name):
                _remove_leftover(Path(root, name))
        folders[:] = [name for name in folders if not PART.fullmatch(name)]


def enough_space(folder: Path, needed: float) -> None:
    """Raises a DataError if fewer bytes are free than a long write needs."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DataError(
            f"{folder} needs {needed / 2**20:,.0f} MiB and has {free / 2**20:,.0f} MiB free; "
            "make room, or choose a folder on another disk"
        )


def read_json(file: Path) -> dict[str, Any]:
    """Reads a JSON file of a store or a run; a DataError if it is missing, or holds no names with
    values (it was cut off, say)."""
    if not file.is_file():
        raise DataError(f"{file} is missing")
    try:
        values = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is no JSON: {error}") from None
    if not isinstance(values, dict):
        raise DataError(f"{file} holds {short(values)}; expected names with values")
    return values


# Temporary names ----------------------------------------------------------------------------------


def _beside(path: Path, kind: str = "part") -> Path:
    # random, so that nobody can put a link there beforehand: containers share process numbers.
    # The name comes last, since many libraries choose the format by its ending.
    return path.with_name(f".{kind}-{secrets.token_hex(8)}-{path.name}")


def _create_file(path: Path) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))


@contextmanager
def temporary(path: Path, create: Callable[[Path], None]) -> Iterator[Path]:
    """A new file or folder beside its place: locked while the block runs, absent afterwards."""
    while True:
        beside = _beside(path)
        create(beside)
        with suppress(BlockingIOError, FileNotFoundError):  # taken for a leftover: once more
            holder = hold(beside)
            break
    try:
        yield beside
    finally:
        if holder is not None:
            os.close(holder)
        if beside.is_dir():
            shutil.rmtree(beside, ignore_errors=True)
        else:
            beside.unlink(missing_ok=True)


def hold(path: Path) -> int | None:
    """Locks a temporary file or folder; returns the descriptor that holds the lock, or None where
    there are no such locks. Raises a BlockingIOError if another process holds it, a
    FileNotFoundError if one removed it."""
    if WINDOWS:  # a folder cannot be opened there, nor an open file be renamed
        return None
    opened = os.open(path, (os.O_RDONLY if path.is_dir() else os.O_RDWR) | NO_LINK)
    try:
        if not lock_descriptor(opened, blocking=False):
            raise BlockingIOError(errno.EAGAIN, "another process is writing it", str(path))
        path.lstat()
    except OSError as error:
        os.close(opened)
        if error.errno not in NO_LOCKS:
            raise
        return None
    return opened


def _remove_leftover(path: Path) -> None:
    """Removes what bears a temporary name, or renames it back, unless its writer is alive."""
    named = PART.fullmatch(path.name)
    if not named or path.is_symlink():
        return
    try:
        holder = hold(path)
    except OSError:  # it is being written, or was removed meanwhile, or belongs to another user
        return
    try:
        kind, place = named[1], path.with_name(named[2])
        if holder is None and time.time() - path.lstat().st_mtime < DAY_S:
            return
        if kind == "old" and not place.exists():
            os.rename(path, place)
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    finally:
        if holder is not None:
            os.close(holder)


def _flush(path: Path) -> None:
    """Flushes the content of a file, or the names in a folder, to the disk."""
    folder = path.is_dir()
    if folder and WINDOWS:
        return
    opened = os.open(path, os.O_RDONLY if folder else os.O_RDWR)  # Windows flushes no reader
    try:
        os.fsync(opened)
    except OSError as error:
        # some network drives cannot flush a folder; they keep the order themselves
        if not (folder and error.errno == errno.EINVAL):
            raise
    finally:
        os.close(opened)


@contextmanager
def errors_name(path: Path) -> Iterator[None]:
    """Has an error name a path, if it names no file or a temporary one."""
    try:
        yield
    except OSError as error:
        named = error.filename
        if named is not None and not PART.fullmatch(Path(os.fsdecode(named)).name):
            raise
        why = f"cannot write {path}: {error.strerror or error}"
        raise OSError(error.errno or errno.EIO, why) from error
