"""Folders in which one run at a time works."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import lock_descriptor

from ..schema import DataError
from .environment import WINDOWS
from .files import NO_LINK, NO_LOCKS, PART, errors_name, remove_leftovers

LOCK = ".cardiac-attrivae.lock"
"""Name of the lock file in a locked folder."""
MARKER = ".cardiac-attrivae.json"
"""Name of the file that says which command writes a folder, see `outputs.claim`."""


@contextmanager
def locked(folder: str | Path, called: str | Path | None = None) -> Iterator[int]:
    """Keeps other runs out of a folder, and removes what killed runs left half written there.

    The lock is one of the operating system (through filelock) on the file `LOCK` in the folder: it
    ends with the last process that holds it, however that process ends, so that a file left behind
    never keeps a run from starting. It works between containers, and between machines as far as the
    shared file system has locks (NFS has); where there are none, a warning says so.

    Args:
        folder: Created if absent, and then removed again if it is empty in the end.
        called: The name by which the user knows the folder, if it is another one.

    Yields:
        File descriptor of the lock. Processes that inherit it keep the folder locked if their
        parent is killed, since two must not write one run.

    Raises:
        DataError: If the folder is a file, is locked by another process, or its lock file is a link
            or a file of somebody else.
    """
    folder = Path(folder)
    if os.path.lexists(folder) and not folder.is_dir():
        raise DataError(f"{folder} is a file or a broken link; choose another folder")
    made = not folder.exists()
    lock = _lock(folder, called or folder)
    try:
        remove_leftovers(folder)
        yield lock
    finally:
        os.close(lock)
        _unlock(folder)
        if made:
            with suppress(OSError):
                folder.rmdir()


def empty(folder: Path, *kept: str) -> None:
    """Removes everything in a folder but its lock and the names in ``kept``."""
    for path in folder.iterdir():
        if path.name in (LOCK, *kept):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def is_empty(folder: Path) -> bool:
    """Returns whether a folder holds nothing but its lock, its marker and temporary files."""
    names = (path.name for path in folder.iterdir())
    return all(name in (LOCK, MARKER) or PART.fullmatch(name) for name in names)


def _lock(folder: Path, called: str | Path) -> int:
    """Descriptor of the locked `LOCK` of a folder, which is created."""
    file = folder / LOCK
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        if file.is_symlink():
            raise DataError(f"{file} is a link; remove it, it is no lock of cardiac-attrivae")
        with suppress(FileNotFoundError):  # its last holder removed it just now: once more
            lock = os.open(file, os.O_RDWR | os.O_CREAT | NO_LINK, 0o666)
            try:
                _take(lock, file, called)
                if os.path.samestat(os.fstat(lock), os.lstat(file)):
                    with errors_name(file):
                        os.ftruncate(lock, 0)
                        os.lseek(lock, 0, os.SEEK_SET)
                        os.write(lock, f"process {os.getpid()} on {socket.gethostname()}".encode())
                    return lock
            except BaseException:
                os.close(lock)
                raise
            os.close(lock)


def _take(lock: int, file: Path, called: str | Path) -> None:
    """Locks an open lock file, or says who holds it."""
    try:
        free = lock_descriptor(lock, blocking=False)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        free = True
        warnings.warn(
            f"{called} is on a file system without locks ({error.strerror}); take care that no "
            "other run writes there",
            stacklevel=5,
        )
    holder = ""
    with suppress(OSError):  # Windows lets nobody else read what is locked
        holder = os.read(lock, 200).decode(errors="replace")
    if not free:
        raise DataError(
            f"{called} is being worked on by another process, or by one that it left"
            f"{holder and f' ({holder})'}; wait for it or end it, or choose another folder"
        )
    found = os.fstat(lock)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        raise DataError(
            f"{file} is no lock of cardiac-attrivae; remove it or choose another folder"
        )


def _unlock(folder: Path) -> None:
    """Removes the lock file, unless a process that inherited the lock still holds it."""
    file = folder / LOCK
    with suppress(OSError):
        lock = os.open(file, os.O_RDWR | NO_LINK)
        try:
            free = lock_descriptor(lock, blocking=False)
            if free and not WINDOWS:
                file.unlink()
        finally:
            os.close(lock)
        if free and WINDOWS:  # where an open file cannot be removed
            file.unlink()
