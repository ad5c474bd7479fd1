"""Files that are whole or absent, and folders that one run at a time works in.

Everything that the package keeps is written through here: beside its place, flushed to the disk,
then renamed. What a killed process leaves is called ``.part-PID-NAME``; the next run that locks the
folder removes it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import re
import shutil
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from reprlib import repr as short
from typing import Any

from ..schema import DataError

LOCK = ".lock"
"""In the folder that is locked, as long as it is."""
PART = re.compile(r"\.part-(\d{1,9})-")
"""How the name of a file begins that is not whole yet; the number is that of its writer."""

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)
"""What file systems answer that cannot lock, Lustre without the mount option ``flock`` for one."""

# of Linux: linux/fcntl.h and linux/fs.h
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Writes a file as a whole or not at all.

    Yields a path in the same folder, with the same ending, to write to. When the block ends, that
    file is flushed to the disk and takes its place in one step; if it ends with an error it is
    removed, and the file that was there before stays. At a kill, or when the power goes, the old
    file or the new one is there, never a part.

    Args:
        path: The place; its folders are created.

    Raises:
        OSError: If it cannot be written, with the name of the place.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = _beside(path)
    try:
        yield beside
        _flush(beside)
        os.replace(beside, path)
        _flush(path.parent)
    except BaseException as error:
        beside.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(beside)):
            why = f"cannot write {path}: {error.strerror or error}"
            raise OSError(error.errno or errno.EIO, why) from error
        raise


def write(path: str | Path, content: str | bytes | memoryview) -> None:
    """Writes text (UTF-8, line ends as they are) or bytes, see `atomic_file`."""
    with atomic_file(path) as beside:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Writes a folder as a whole or not at all: yields an empty one, which then takes its place.

    See `replace_folder` for what happens to a folder that is there already. It stays if the block
    ends with an error.
    """
    path = Path(path)
    beside = _beside(path)
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        yield beside
        replace_folder(beside, path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def replace_folder(folder: Path, place: Path) -> None:
    """Flushes a folder to the disk and renames it; what was in its place is removed.

    On Linux the two change names in one step, where the file system can do that (ext4, XFS, Btrfs,
    tmpfs): at every instant one of them is there, whole. Elsewhere (NFS, macOS) the old one is
    renamed first; a kill between two renamings then leaves nothing in the place, and both of them
    whole beside it.

    Args:
        folder: Whole, on the same file system as the place.
        place: What it shall be called.
    """
    for root, _, files in os.walk(folder):
        for name in files:
            _flush(Path(root, name))
        _flush(Path(root))
    old = _beside(folder)
    if not place.exists():
        os.rename(folder, place)
    elif _exchange(folder, place):
        os.rename(folder, old)
    else:
        os.rename(place, old)
        try:
            os.rename(folder, place)
        except OSError:
            os.rename(old, place)
            raise
    _flush(place.parent)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def locked(folder: str | Path, called: str | Path | None = None) -> Iterator[int]:
    """Keeps other runs out of a folder, and removes what killed ones left half written there.

    The lock is one of the system (``flock``) on `LOCK` in the folder: it ends with the last process
    that holds it, however that ends, so that no file left behind can keep a run from starting. It
    holds against other machines as far as the file system is shared with locks (NFS is); where it
    knows none, a warning says so.

    Args:
        folder: Created if absent, and then removed again if it is empty in the end.
        called: What a user knows it by, if not by its name.

    Yields:
        File descriptor of the lock. Processes that inherit it keep the folder locked if their
        parent is killed: two must not write one run.

    Raises:
        DataError: If it is a file, or locked by another process.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; choose another folder")
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


def remove_leftovers(folder: Path) -> None:
    """Removes what processes of this machine that are gone left half written, at any depth."""
    for root, folders, files in os.walk(folder):
        for name in filter(_is_left_over, files):
            Path(root, name).unlink(missing_ok=True)
        for name in filter(_is_left_over, folders):
            shutil.rmtree(Path(root, name), ignore_errors=True)
        folders[:] = [name for name in folders if not PART.match(name)]


def empty(folder: Path, *kept: str) -> None:
    """Removes everything in a folder but its lock, and what is called as one of ``kept``."""
    for path in folder.iterdir():
        if path.name in (LOCK, *kept):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def is_empty(folder: Path) -> bool:
    """Whether a folder holds nothing but its lock and what is not whole."""
    return all(path.name == LOCK or PART.match(path.name) for path in folder.iterdir())


def enough_space(folder: Path, needed: float) -> None:
    """Asks before a long write whether there is room for it.

    Args:
        folder: Where it goes; must be there.
        needed: Bytes.

    Raises:
        DataError: If fewer are free.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DataError(
            f"{folder} needs {needed / 2**20:,.0f} MiB and has {free / 2**20:,.0f} MiB free; "
            "make room, or choose a folder on another disk"
        )


def _beside(path: Path) -> Path:
    # the name comes last: many libraries choose the format by its ending
    return path.with_name(f".part-{os.getpid()}-{path.name}")


def _is_left_over(name: str) -> bool:
    """Whether a name is that of a part whose writer is gone."""
    writer = PART.match(name)
    if writer:
        try:
            os.kill(int(writer[1]), 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # there is such a process, of another user
            pass
    return False


def _flush(path: Path) -> None:
    """To the disk: the content of a file, or the names in a folder."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        # some network drives know no flush of a folder; they keep order themselves
        if not (path.is_dir() and error.errno == errno.EINVAL):
            raise
    finally:
        os.close(opened)


def _exchange(one: Path, other: Path) -> bool:
    """Lets two folders change names in one step; False where that cannot be done."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    names = (_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other))
    return rename is not None and rename(*names, _RENAME_EXCHANGE) == 0


def _lock(folder: Path, called: str | Path) -> int:
    """File descriptor of the locked `LOCK` of a folder, which is created."""
    file = folder / LOCK
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # its last holder removed it just now: once more
            lock = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                _take(lock, called)
                if os.path.samestat(os.fstat(lock), os.stat(file)):
                    os.truncate(lock, 0)
                    os.write(lock, f"process {os.getpid()} on {socket.gethostname()}".encode())
                    return lock
            except BaseException:
                os.close(lock)
                raise
            os.close(lock)


def _take(lock: int, called: str | Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(lock, 200).decode(errors="replace")
        raise DataError(
            f"{called} is being worked on by another process, or by one that it left"
            f"{holder and f' ({holder})'}; wait for it or end it, or choose another folder"
        ) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        warnings.warn(
            f"{called} is on a file system without locks ({error.strerror}); take care that no "
            "other run writes there",
            stacklevel=5,
        )


def _unlock(folder: Path) -> None:
    """Removes the lock file, unless a process that inherited the lock still holds it."""
    with suppress(OSError):
        lock = os.open(folder / LOCK, os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(folder / LOCK)
        finally:
            os.close(lock)


def read_json(file: Path) -> dict[str, Any]:
    """What a JSON file of a store or a run says.

    Raises:
        DataError: If it is missing, or holds no names with values: it was cut off, say.
    """
    if not file.is_file():
        raise DataError(f"{file} is missing")
    try:
        said = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is no JSON: {error}") from None
    if not isinstance(said, dict):
        raise DataError(f"{file} holds {short(said)}; expected names with values")
    return said
