"""Which folder belongs to which command: nothing is replaced or removed that the command did not
write itself.

A command that works in a folder leaves the marker `MARKER` there. It refuses any other folder that
is not empty. A command that replaces a whole folder refuses one with files of somebody else in it,
and no command writes into such a folder of another: see `KINDS`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ..schema import SYNTHETIC, DataError
from .files import PART, read_json, write
from .folders import LOCK, MARKER, is_empty, locked, refuse_file
from .messages import shell_word
from .provenance import digest
from .yaml_files import read_yaml

FORMAT = 1
"""Of the marker."""
UNOWNED = (LOCK, MARKER, ".DS_Store", "Thumbs.db")
"""Names that do not count: those of locks and markers, and what file managers leave."""


MOST_BYTES = 2**24
"""Of a file by which a folder is known; a larger one is of another program."""
REFINER = "refiner"
"""Folder of a run that holds its refiner, which is a run by itself."""


class Kind(NamedTuple):
    """Folders that are replaced as a whole, so that nothing of another command belongs there."""

    name: str  # in errors: "a store"
    commands: tuple[str, ...]  # that write such a folder
    file: str  # tells it, ...
    keys: frozenset[str]  # ... with these keys: other programs write files of that name, too
    inner: tuple[str, ...] = ()  # folders in it for which the command is called again

    def is_at(self, folder: Path) -> bool:
        """Returns whether a folder is of this kind, perhaps of another version or damaged."""
        file = folder / self.file
        try:
            if not file.is_file() or file.stat().st_size > MOST_BYTES:
                return False
            json = file.suffix == ".json"
            content = read_json(file) if json else read_yaml(file.read_bytes())
        except (ValueError, OSError):
            return False
        return isinstance(content, Mapping) and self.keys <= content.keys()


A_STORE = Kind(
    "a store", ("preprocess", "join"), "dataset.json", frozenset({"format", "content_hash"})
)
A_RUN = Kind(
    "a run", ("train",), "config.yaml", frozenset({"pipeline", "content_hash"}), (REFINER,)
)
AN_EXPLORER = Kind("an explorer", ("explore",), "data.json", frozenset({"patients", "code"}))
KINDS = (A_STORE, A_RUN, AN_EXPLORER)

KNOWN_BY = {command: (kind.file,) for kind in KINDS for command in kind.commands} | {
    "phantom": (SYNTHETIC,),
    "export": ("configs", "model.safetensors", "model.ts", "encoder.onnx", "decoder.onnx"),
    "reproduce": ("plan.json",),
}
"""Command -> files by which it knows a folder of its own that has no marker."""


class Claim(NamedTuple):
    """A folder in which a command works."""

    folder: Path
    command: str
    lock: int  # file descriptor of the lock, see `locked`

    def plan(self, files: Iterable[str], last: Iterable[str] | None = None) -> None:
        """Lists files before they are written, so that the next call removes what a kill leaves.

        Args:
            files: Paths relative to the folder, with ``/``.
            last: Files of earlier calls that say what is in the folder: they are removed, so that a
                kill leaves none that describe the files of two calls. None removes all that an
                earlier call listed or that are listed here.

        Raises:
            DataError: If somebody changed a file that an earlier call sealed.
        """
        sealed = _marker(self.folder).get("sealed")
        sealed = sealed if isinstance(sealed, dict) else {}
        for name in sorted({*sealed} & {*_listed(self.folder)}):
            if (self.folder / name).is_file() and digest(self.folder / name) != sealed[name]:
                raise DataError(
                    f"{self.folder / name} was changed after cardiac-attrivae {self.command} wrote "
                    "it, and would be replaced; move it away, or choose another folder"
                )
        _mark(self.folder, self.command, sorted({*_listed(self.folder), *files}), sealed)
        for name in {*_listed(self.folder)} & {*(_listed(self.folder) if last is None else last)}:
            (self.folder / name).unlink(missing_ok=True)

    def keep(self, files: Iterable[str], sealed: Iterable[str] = ()) -> None:
        """Removes the files that an earlier call listed and this one does not, with the folders
        that they leave empty, and lists these.

        Args:
            files: Paths of files that this call wrote, relative to the folder, with ``/``.
            sealed: Those that people correct by hand: `plan` of a later call does not replace them.
        """
        now = sorted(set(files))
        for name in set(_listed(self.folder)) - set(now):
            (self.folder / name).unlink(missing_ok=True)
            for above in PurePosixPath(name).parents[:-1]:
                with suppress(OSError):  # it is not empty
                    (self.folder / above).rmdir()
        seals = {name: digest(self.folder / name) for name in sealed}
        _mark(self.folder, self.command, now, seals)


@contextmanager
def claimed(folder: str | Path, command: str) -> Iterator[Claim]:
    """Locks a folder for a command, see `locked` and `claim`; an empty one loses its marker."""
    folder = Path(folder)
    with locked(folder) as lock:
        claim(folder, command)
        try:
            yield Claim(folder, command, lock)
        finally:
            if is_empty(folder):
                (folder / MARKER).unlink(missing_ok=True)


@contextmanager
def added(folder: Path, command: str, files: Sequence[str]) -> Iterator[None]:
    """Adds files to a folder for other programs, all of them or none, and leaves no marker there.

    If the block raises, the files are removed; what a kill leaves, the next call removes.

    Args:
        folder: See `claimed`.
        command: Command that writes the files.
        files: Paths relative to the folder, with ``/``.

    Raises:
        DataError: If one of the files is there already.
    """
    with claimed(folder, command) as claim:
        claim.plan(())  # removes what a killed call listed
        try:
            for name in files:
                if (folder / name).exists():
                    raise DataError(f"{folder / name} is there already; choose another folder")
            claim.plan(files)
            yield
        except BaseException:
            claim.plan(())
            raise
        finally:
            (folder / MARKER).unlink(missing_ok=True)


def claim(folder: Path, command: str) -> None:
    """Marks an existing folder as one of a command.

    Refuses a folder that is not empty and was not written by the same command, or contains a link
    to a folder.
    """
    refuse_links(folder)
    require_free(folder, command)
    _mark(folder, command, _listed(folder), _marker(folder).get("sealed") or {})


def require_free(folder: Path, command: str) -> None:
    """Refuses a folder into which a command may not write: it lies in one of `KINDS`, or is not
    empty and was not written by the command, as its marker says, or a file of `KNOWN_BY`."""
    refuse_file(folder)
    _refuse_within(folder, command)
    if not folder.is_dir() or is_empty(folder):
        return
    marked = command_of(folder)
    known_by = KNOWN_BY.get(command, ())
    if marked is None and not any((folder / name).exists() for name in known_by):
        found = _some(path.name for path in folder.iterdir() if path.name not in UNOWNED)
        raise DataError(
            f"{folder} is not empty and was not written by cardiac-attrivae {command}: it "
            f"holds {found}; choose another folder"
        )
    if marked not in (None, command):
        raise DataError(
            f"{folder} was written by cardiac-attrivae {marked}, not by {command}; choose "
            "another folder"
        )


def _refuse_within(folder: Path, command: str) -> None:
    """Refuses a folder that is one of `KINDS` of another command, or lies in one."""
    real = Path(os.path.realpath(folder))
    for above in (real, *real.parents):
        for kind in KINDS:
            own = command in kind.commands
            inner = real in [above / name for name in kind.inner]
            if not (own and (above == real or inner)) and kind.is_at(above):
                where = "is" if above == real else f"lies in {above},"
                beside = above.with_name(f"{above.name}-{command}")
                raise DataError(
                    f"{folder} {where} {kind.name}, which is replaced as a whole, so that nothing "
                    f"else is written there; choose a folder beside it: --output "
                    f"{shell_word(beside)}"
                )


def require_new(folder: Path) -> None:
    """Refuses a folder that is there already, unless it is empty."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise DataError(f"{folder} is there already; choose another folder")


def refuse_links(folder: Path) -> None:
    """Refuses a folder that contains links to folders: files would be written elsewhere."""
    for root, folders, _ in os.walk(folder):
        for path in (Path(root, name) for name in folders):
            if path.is_symlink():
                raise DataError(
                    f"{path} is a link to a folder, and nothing is written through it; remove it, "
                    "or choose another folder"
                )


def check_own(folder: Path, names: Sequence[str], what: str) -> None:
    """Refuses to replace a folder that holds what its writer did not put there, or links to
    folders.

    Args:
        folder: Existing folder.
        names: Patterns of the paths of its files, see `foreign`.
        what: What the folder is, for the error: "a store".
    """
    if others := foreign(folder, names):
        raise DataError(
            f"{folder} would be replaced as a whole, and holds what is not of {what}: "
            f"{_some(others)}; move it away, or choose another folder"
        )


def foreign(folder: Path, names: Sequence[str]) -> list[str]:
    """Lists the files below a folder, and links to folders, that match none of the patterns: paths
    relative to it, with ``/``, as `fnmatch` reads them; ``*`` also matches ``/``."""
    found = []
    for root, folders, files in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(root, name))]
        for name in (*files, *links):
            path = Path(root, name).relative_to(folder).as_posix()
            own = name not in links and any(fnmatchcase(path, pattern) for pattern in names)
            if not (own or name in UNOWNED or PART.fullmatch(name)):
                found.append(path)
        folders[:] = [name for name in folders if not PART.fullmatch(name)]
    return sorted(found)


def check_apart(source: Path, output: Path) -> None:
    """Refuses an output that is the source, holds it or lies in it."""
    one, other = (Path(os.path.realpath(path)) for path in (source, output))
    if one == other or one in other.parents or other in one.parents:
        raise DataError(
            f"output {output} and source {source} lie in one another; results never go where the "
            "raw data are: choose a folder elsewhere"
        )


def command_of(folder: Path) -> str | None:
    """Returns the command that wrote a folder, or writes there; None if no marker says it."""
    return _marker(folder).get("command")


def _marker(folder: Path) -> dict:
    """Content of the marker of a folder; empty if it has none that can be read."""
    file = folder / MARKER
    try:
        return {} if file.is_symlink() else read_json(file)
    except DataError:
        return {}


def _listed(folder: Path) -> list[str]:
    """The files that the marker lists, but for paths that lead out of the folder."""
    names = _marker(folder).get("files")
    return [name for name in names if _is_inside(folder, name)] if isinstance(names, list) else []


def _is_inside(folder: Path, name: object) -> bool:
    if not isinstance(name, str) or "\0" in name:
        return False
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        return False
    parent, real = Path(os.path.realpath((folder / name).parent)), Path(os.path.realpath(folder))
    return (parent == real or real in parent.parents) and not (folder / name).is_dir()


def _mark(folder: Path, command: str, files: Sequence[str], sealed: Mapping[str, str] = {}) -> None:
    marker = {"format": FORMAT, "command": command, "files": list(files)}
    write(folder / MARKER, json.dumps(marker | ({"sealed": sealed} if sealed else {})) + "\n")


def _some(names: Iterable[str], most: int = 3) -> str:
    shown = sorted(names)
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    return f"{', '.join(shown[:most])}{more}"
