"""Folders in which one run at a time works."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import lock_descriptor

from ..schema import DataError
from .environment import WINDOWS
from .files import (
    NO_LINK,
    NO_LOCKS,
    PART,
    errors_name,
    hold,
    remove_leftovers,
    temporary,
)

LOCK = ".cardiac-attrivae.lock"
"""Name of the lock file in a locked folder."""
MARKER = ".cardiac-attrivae.json"
"""Name of the file that says which command writes a folder, see `outputs.claim`."""
IN_USE = "in-use"
"""End of the name of the temporary files that `in_use` makes."""


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
    refuse_file(folder)
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


@contextmanager
def in_use(
    folder: Path, writer: Path | None = None, called: str | Path | None = None
) -> Iterator[None]:
    """Keeps a folder from being replaced or emptied while the block runs, see `check_unused`.

    Any number of processes may use a folder at once. One that cannot be written is not marked.

    Args:
        folder: Existing folder.
        writer: Folder that is locked by who replaces this one; None is the folder itself.
        called: The name by which the user knows what is replaced, if it is another one.

    Raises:
        DataError: If another process has locked ``writer``.
    """
    writer = writer or folder
    with ExitStack() as marked:
        with suppress(OSError):
            marked.enter_context(temporary(folder / IN_USE, _mark))
        # marked first: of two that begin at once, at least one sees the other
        _refuse_locked(writer, called or writer)
        yield


def check_unused(folder: Path) -> None:
    """Refuses to replace or empty a folder in which another process works: it trains a run inside,
    say, or prepares a segmenter. The lock of the folder itself does not count.

    Raises:
        DataError: If there is such a process.
    """
    for root, folders, files in os.walk(folder):
        for name in (*files, *folders):
            lock = name == LOCK and Path(root) != folder
            if (lock or PART.fullmatch(name)) and _is_held(path := Path(root, name)):
                told = lock or name.endswith(f"-{IN_USE}")
                holder = f" ({path.read_text('utf-8', 'replace')[:200]})" if told else ""
                raise DataError(
                    f"{folder} would be replaced, but another process works in {root}{holder}; "
                    "wait for it or end it, or choose another folder"
                )


def refuse_file(folder: Path) -> None:
    """Refuses a file, or a link to what is not there, where a folder is to be written."""
    if os.path.lexists(folder) and not folder.is_dir():
        what = "a file" if folder.exists() else "a link to what is not there"
        raise DataError(f"{folder} is {what}; choose another folder")


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
                        os.write(lock, _this_process().encode())
                    return lock
            except BaseException:
                os.close(lock)
                raise
            os.close(lock)


def _this_process() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _mark(path: Path) -> None:
    mark = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        os.write(mark, _this_process().encode())
    finally:
        os.close(mark)


def _refuse_locked(folder: Path, called: str | Path) -> None:
    """Raises what `locked` does if another process has locked a folder."""
    with suppress(OSError):  # there is no lock
        lock = os.open(folder / LOCK, os.O_RDWR | NO_LINK)
        try:
            _take(lock, folder / LOCK, called)
        finally:
            os.close(lock)


def _is_held(path: Path) -> bool:
    """Whether another process has locked a lock or a temporary file."""
    try:
        holder = hold(path)
    except BlockingIOError:
        return True
    except OSError:  # it was removed meanwhile, say
        return False
    if holder is not None:
        os.close(holder)
    return False


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
