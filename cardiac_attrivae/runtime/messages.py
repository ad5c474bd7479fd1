"""Messages without what is private, and commands that can be typed as they are printed."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path, PurePath

from .environment import WINDOWS

SEPARATOR = r"[\\/]+"
ABSOLUTE = re.compile(rf"(?<![\w.])(?:/|[A-Za-z]:{SEPARATOR}|\\\\)(?:[^\s\\/'\"]+{SEPARATOR})+")
"""Folders of an absolute path, of Windows too."""


def without_folder(error: BaseException, *files: Path) -> str:
    """Returns the message of an error with its paths reduced to the names of the files.

    Folders often hold the name of a patient or a user.

    Args:
        error: Any error. An ``OSError`` gives the file and the words of the operating system.
        files: Files that it may name. Their folders are removed as given, as absolute paths, and
            with links followed. Of any other absolute path, only the last part stays.

    Example:
        >>> without_folder(ValueError("/data/Doe_John/scan.nii is empty"))
        'scan.nii is empty'
    """
    if isinstance(error, OSError) and error.strerror:
        return ": ".join((*filter(None, [Path(error.filename or "").name]), error.strerror))
    text = str(error)
    ways = {way for file in files for way in (file, file.absolute(), file.resolve())}
    return _without(text, {folder for way in ways for folder in way.parents if folder.name})


def _without(text: str, folders: set[PurePath]) -> str:
    for folder in sorted(folders, key=lambda folder: len(str(folder)), reverse=True):
        spelled = SEPARATOR.join(re.escape(part.strip("\\/")) for part in folder.parts)
        text = re.sub(f"{spelled}{SEPARATOR}", "", text)
        if len(folder.parts) > 1:  # a bare name may be any word
            text = re.sub(rf"{spelled}(?![\w.-])", "...", text)
    return ABSOLUTE.sub("", text)


def counted(number: int, noun: str) -> str:
    """Returns a number and its noun, in the plural where there is not one.

    Example:
        >>> counted(1, "case"), counted(1200, "case")
        ('1 case', '1,200 cases')
    """
    return f"{number:,} {noun}{'s' * (number != 1)}"


def printable(text: str) -> str:
    r"""Returns a text with control characters and undecodable bytes spelled out.

    File names, case ids and weights of others may hold what a terminal would obey.

    Example:
        >>> print(printable("patient\x1b[2J"))
        patient\x1b[2J
    """
    spelled = "".join(
        character if character.isprintable() or character in "\n\t" else repr(character)[1:-1]
        for character in text
    )
    return spelled.encode("utf-8", "backslashreplace").decode("utf-8")


def shell_word(text: str | Path) -> str:
    r"""Quotes a text for a shell; bytes that are not UTF-8 become numbers between ``$'`` and ``'``.

    Example:
        >>> print(shell_word("Universität Ulm"), shell_word(os.fsdecode(b"Universit\xe4t")))
        'Universität Ulm' $'Universit\344t'
    """
    text = str(text)
    if WINDOWS:  # of its shells, PowerShell alone knows single quotes
        return f'"{text}"' if shlex.quote(text) != text else text
    if text.isprintable():
        return shlex.quote(text)
    return "$'" + "".join(map(_shell_letter, text)) + "'"


def _shell_letter(letter: str) -> str:
    if letter.isprintable() and letter not in "\\'":
        return letter
    return "".join(f"\\{byte:03o}" for byte in os.fsencode(letter))
