"""Replaces case ids by a keyed hash: only the owner of the key can find a patient again."""

from __future__ import annotations

import hmac
import re
from dataclasses import replace
from pathlib import Path

from ..schema import DataError
from .cases import Cases, Skipped
from .manifest import Manifest

LEAST_BYTES = 16
"""Length of a key that cannot be guessed: 128 bits."""
DIGITS = 12
"""Length of a pseudonym. Two of 100,000 cases get the same one with one key in 50,000, which is
refused."""


def read_key(file: str | Path, output: str | Path) -> bytes:
    """Reads all bytes of a key file, including an end of line.

    Args:
        file: Key file, made once and kept apart from the data and the stores.
        output: Store to write; the key must not be in it.

    Raises:
        ValueError: If it is no file, too short to be a secret, or in the store.

    Example:
        >>> _ = Path("key").write_bytes(bytes(range(32)))
        >>> len(read_key("key", "stores/acdc"))
        32
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
    """Makes the pseudonym of a case: ``case-`` and 12 hexadecimal digits of an HMAC-SHA256.

    It is the same on every machine and in every store of a data set, whose manifest's name counts.
    Without the key, see `read_key`, nobody can tell whose it is, nor test a guess.

    Example:
        >>> pseudonym(bytes(range(32)), "acdc", "patient001")
        'case-9b0dc2b9ee4a'
    """
    digest = hmac.digest(key, f"{dataset}\0{case}".encode(), "sha256").hex()
    return f"case-{digest[:DIGITS]}"


def pseudonymised(found: Cases, manifest: Manifest, key: bytes) -> Cases:
    """Renames cases to their pseudonyms and sorts by them, so that the order reveals nothing.

    Splits and duplicates must have been decided before, by the ids of the source. Refuses a key by
    which two cases would have the same pseudonym.

    Example:
        >>> from .manifest import load_manifest
        >>> found = Cases([], [Skipped("Jane", "no mask: Jane_frame01_gt.nii.gz is missing")])
        >>> pseudonymised(found, load_manifest("acdc"), bytes(range(32))).skipped
        [Skipped(case='case-f71ae5f949c7', reason='no mask, or an empty one')]
    """
    cases = {record.case for record in found.records} | {case for case, _ in found.skipped}
    names = {case: pseudonym(key, manifest.name, case) for case in cases}
    if len(set(names.values())) < len(names):
        raise DataError("two cases have the same pseudonym; use another key")
    records = [replace(r, case=names[r.case], source_case=r.case) for r in found.records]
    skipped = []
    for case, reason in found.skipped:
        twin = TWIN.fullmatch(reason)
        if twin and any({case, twin["case"]} <= set(group) for group in manifest.duplicates):
            other = pseudonym(key, manifest.name, twin["case"])
            reason = f"same scan as {other} ({twin['split']}), kept there"
        else:
            reason = fixed_reason(reason)
        skipped.append(Skipped(names[case], reason))
    return Cases(sorted(records, key=lambda record: record.case), sorted(skipped))


TWIN = re.compile(r"same scan as (?P<case>.+) \((?P<split>\w+)\), kept there", re.DOTALL)

REASONS = {
    r"^(at ES: )?no mask\b|is empty at E[DS]\b": "no mask, or an empty one",
    r"\bpointer\b|\blink\b": "a file is only a link or a pointer, its content is not there",
    r" is missing$": "a file is missing",
    r"unpacks to|expected .*at most \d+ (voxels|MiB)": "a file is far too large",
    r"states a spacing": "the header states an impossible spacing",
    r"and no frame \d": "the cine has no such frame",
    r"holds label": "the mask holds a label that the manifest does not name",
    r"LV in two places": "the mask shows the LV in two places",
    r"no slice shows more": "no slice shows enough of LV, MYO and RV",
    r"same barycentre": "the RV lies around the LV",
    r"slices .*axis": "the slices are not along the last axis",
    r"throughout the mask": "the image has no contrast in the mask",
    r"NaN or infinite": "the image holds NaN or infinite values",
    r"float32 hardly": "the image has values that float32 hardly tells apart",
    r"and mask \(|voxels off|along the axes": "image and mask do not fit each other",
    r"affine that leads": "the affine of image or mask is unusable",
    r"no NIfTI file": "a file cannot be read",
    r"DICOM|slice position|MONOCHROME|images of another": "the DICOM files are no complete cine",
    r"the table has": "the table has no row for it, or several that differ",
    r"^(at ES: )?E[DS] is|of its frames": "its frame of ED or ES is not given, or impossible",
    r"^its split is": "its split is none of train, val, test",
    r"^its (image|mask|id|name) ": "its id or its path in the table is unusable",
    r"^the id occurs again": "its id occurs again",
    r"worker was killed": "its worker was killed, and once more when it ran alone",
    r"cannot be read|has shape|; expected numbers": "a file cannot be read",
}
"""Patterns of the reasons for which a case is skipped, and the sentences that replace them."""


def fixed_reason(reason: str) -> str:
    """Replaces a reason by a fixed sentence, in which no id, name or cell of a table can stand.

    Example:
        >>> fixed_reason("Jane_Doe_gt.nii.gz holds label 7; expected 0 BACKGROUND, 1 LV, ...")
        'the mask holds a label that the manifest does not name'
        >>> fixed_reason("KeyError: 'Jane Doe'")
        'it cannot be used; the command check says why'
    """
    for pattern, sentence in REASONS.items():
        if re.search(pattern, reason):
            return sentence
    return "it cannot be used; the command check says why"
