"""Case ids replaced by a keyed hash: who holds the key finds a patient again, and nobody else."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from ..schema import DataError
from .cases import Cases, Skipped
from .manifest import Manifest

LEAST_BYTES = 16
"""Of a key: what cannot be guessed, 128 bits."""
DIGITS = 12
"""Of a pseudonym: with one key in 50,000 two of 100,000 cases share one, which is refused."""


def read_key(file: str | Path, output: str | Path) -> bytes:
    """All bytes of a key file, an end of line included.

    Args:
        file: Made once, kept apart from the data and the stores.
        output: Store to write; the key must not lie in it.

    Raises:
        ValueError: If it is no file, too short to be a secret, or lies in the store.
    """
    file = Path(file)
    made = (
        f"make one with: head -c 32 /dev/urandom > {file.name}, or: python -c "
        f"\"import pathlib, secrets; pathlib.Path('{file.name}').write_bytes("
        'secrets.token_bytes(32))"'
    )
    if not file.is_file():
        raise ValueError(f"the key {file} is no file; {made}")
    if file.resolve().is_relative_to(Path(output).resolve()):
        raise ValueError(f"the key {file} lies in {output}, which it protects; keep it elsewhere")
    key = file.read_bytes()
    if len(key) < LEAST_BYTES:
        raise ValueError(
            f"the key {file} has {len(key)} bytes; expected {LEAST_BYTES} or more; {made}"
        )
    return key


def pseudonym(key: bytes, dataset: str, case: str) -> str:
    """What a case is called instead: ``case-`` and 12 hexadecimal digits of an HMAC-SHA256.

    The same on every machine and in every store of a data set; without the key nobody can tell
    whose it is, or try out whose it might be.

    Args:
        key: What `read_key` returns.
        dataset: Name of the manifest.
        case: Id in the source.
    """
    digest = hmac.digest(key, f"{dataset}\0{case}".encode(), "sha256").hex()
    return f"case-{digest[:DIGITS]}"


def pseudonymised(found: Cases, manifest: Manifest, key: bytes) -> Cases:
    """The same cases under their pseudonyms, sorted by them: the order tells nothing either.

    Splits and duplicates must have been decided, they go by the ids of the source.

    Raises:
        DataError: If two cases would have the same pseudonym.
    """
    cases = {record.case for record in found.records} | {case for case, _ in found.skipped}
    names = {case: pseudonym(key, manifest.name, case) for case in cases}
    if len(set(names.values())) < len(names):
        raise DataError("two cases have the same pseudonym; use another key")
    records = [replace(r, case=names[r.case], source_case=r.case) for r in found.records]
    skipped = []
    for case, reason in found.skipped:
        twins = [twin for group in manifest.duplicates if case in group for twin in group]
        for known in {case, *twins}:
            reason = hidden(reason, known, pseudonym(key, manifest.name, known))
        skipped.append(Skipped(names[case], reason))
    return Cases(sorted(records, key=lambda record: record.case), sorted(skipped))


def hidden(text: str, case: str, pseudonym: str, files: Iterable[tuple[Path, str]] = ()) -> str:
    """What is told about a case, without its id.

    Names of its files, other file names that hold the id, and the id where it stands as a word are
    replaced: a number in a message is no id because it holds one.

    Args:
        text: What is told.
        case: Id in the source.
        pseudonym: What stands there instead.
        files: Its files, and what to call them.
    """
    for file, role in sorted(files, key=lambda known: -len(known[0].name)):
        text = text.replace(file.name, role)
    own, rest = re.escape(case), r"[^\s'\",:;()\[\]]*"
    name, word = rf"{rest}{own}{rest}\.[A-Za-z]{rest}", rf"(?<![^\W_]){own}(?![^\W_])"
    return re.sub(f"{name}|{word}", pseudonym, text)
