"""What made a result: versions of this package and those below it, and seals over what it says."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..schema import DataError
from .messages import shell_word

__version__ = "0.1.0"

SEAL = "sha256"
"""Key under which facts hold their own seal."""


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Returns the versions of this package, of Python and of the named packages."""
    own = {"cardiac-attrivae": __version__, "python": platform.python_version()}
    return own | {name: version(name) for name in packages}


def seal(facts: Mapping[str, Any], content: str = "") -> str:
    """Returns the SHA-256 of facts, as JSON without their own seal, and of what they describe.

    Args:
        facts: Values that JSON can hold, by name. The order of the names does not matter.
        content: Digest of the arrays or weights that the facts describe, unless it is one of them.

    Raises:
        DataError: If the facts cannot be written as JSON, though perhaps read.

    Example:
        >>> seal({"cases": 3}) == seal({"cases": 3, "sha256": "of an earlier version"})
        True
        >>> seal({"cases": 3}) == seal({"cases": 4})
        False
    """
    values = {key: value for key, value in facts.items() if key != SEAL}
    try:
        text = json.dumps(values, sort_keys=True)
    except RecursionError:
        raise DataError("values are nested too deeply") from None
    return hashlib.sha256((content + text).encode()).hexdigest()


def digest(file: Path) -> str:
    """Returns the SHA-256 of a file."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


ONNX = ("ONNX", "onnx", ("onnx", "onnxruntime", "onnxscript"))
"""What `require_packages` takes before a network is written as ONNX."""


def require_packages(purpose: str, extra: str, modules: Iterable[str]) -> None:
    """Refuses what needs packages of an extra that are not installed, without importing them.

    Example:
        >>> require_packages("It", "tune", ["csv", "no_such"])
        Traceback (most recent call last):
        cardiac_attrivae.schema.DataError: It needs a package that is missing (no_such); pip ...
    """
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise DataError(
            f"{purpose} needs a package that is missing ({missing[0]}); {install_line(extra)}"
        )


def install_line(extra: str) -> str:
    """Returns a command that installs the packages of an extra, by their names.

    It works for a package that is in no index yet, as one that was installed from its sources.

    Example:
        >>> install_line("tune").startswith("pip install ")
        True
    """
    try:
        listed = requires("cardiac-attrivae") or []
    except PackageNotFoundError:  # run from its sources, without an installation
        listed = []
    parts = (text.partition(";") for text in listed)
    names = [
        name.strip() for name, _, marker in parts if re.search(rf"extra == .{extra}\b", marker)
    ]
    if names:
        return f"pip install {' '.join(map(shell_word, names))}"
    return f"pip install {shell_word(f'.[{extra}]')} in the folder that holds setup.cfg"
