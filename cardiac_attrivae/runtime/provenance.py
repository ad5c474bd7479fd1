"""What made a result: the versions of this package and of those below it."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib.metadata import version

__version__ = "0.1.0"


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of this package, of Python and of the named packages."""
    own = {"cardiac-attrivae": __version__, "python": platform.python_version()}
    return own | {name: version(name) for name in packages}
