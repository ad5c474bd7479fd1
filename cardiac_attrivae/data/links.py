"""Files whose content is elsewhere: broken links, and pointers of git-annex and Git LFS."""

from __future__ import annotations

from pathlib import Path

from ..schema import DataError

POINTERS = {b"/annex/objects/": "git annex get", b"version https://git-lfs": "git lfs pull"}
"""Beginning of a pointer file -> the command that fetches the file itself."""


def check_content(file: Path) -> None:
    """Refuses a broken link, and a pointer to a file that is kept elsewhere.

    Links themselves are followed: git-annex and DataLad make them, and so do people.

    Raises:
        DataError: Says how to fetch the file.

    Example:
        >>> file = Path("scan.nii.gz")
        >>> _ = file.write_text("version https://git-lfs.github.com/spec/v1\\noid sha256:00\\n")
        >>> check_content(file)
        Traceback (most recent call last):
        cardiac_attrivae.schema.DataError: scan.nii.gz is only a pointer ... with: git lfs pull
    """
    if not file.exists():
        for way in (file, *file.parents):
            if way.is_symlink() and not way.exists():
                raise DataError(
                    f"{way.name} is a link to a file that is not there; if git-annex or DataLad "
                    "keeps it, fetch it with: git annex get"
                )
    elif 0 < file.stat().st_size < 1024 and file.is_file():
        with file.open("rb") as stream:
            beginning = stream.read(64)
        for pointer, command in POINTERS.items():
            if beginning.startswith(pointer):
                raise DataError(
                    f"{file.name} is only a pointer to a file kept elsewhere; fetch it with: "
                    f"{command}"
                )
