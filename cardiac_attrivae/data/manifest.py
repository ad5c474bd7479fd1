"""Manifests: one YAML file per data set that describes how it is stored.

No other file knows the raw label numbers, file names and frame numbering of a data set. Every key
of a manifest is explained in ``docs/data-sets.md``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from string import Formatter
from typing import Any

from ..runtime.validation import TEXT, Rule, build, check_mapping, number, one_of, option, refuse
from ..runtime.yaml_files import nearest, read_yaml, shipped
from ..schema import HEART, MATCHES, SPLITS, ManifestError, Structure

PHASES = ("ED", "ES")
ENDS = ("first", "last")
"""What a phase may be instead of a number: the first or last frame that is a file on disk."""
NAME = r"[\w-]{1,64}"
"""Names that a data set may have: files are named after it."""
DOMAINS = ("dataset", "vendor", "centre", "pathology")


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(re.fullmatch(NAME, value))


def is_inside(value: Any) -> bool:
    """Whether a text is a path that cannot lead out of the folder it starts from.

    Example:
        >>> [is_inside(path) for path in ("a/b.nii", "../a", "/etc", "C:/a", "a//b")]
        [True, False, False, False, True]
    """
    if not TEXT.fits(value) or "\\" in value or "**" in value or not value.isprintable():
        return False
    path = PureWindowsPath(value)  # knows '/' and drive letters, on every system
    return not path.anchor and ".." not in path.parts


def _is_pattern(value: Any) -> bool:
    if not is_inside(value) or "{{" in value or "}}" in value:
        return False
    try:
        parts = [part[1:] for part in Formatter().parse(value) if part[1] is not None]
    except ValueError:
        return False
    folders_before = value.partition("{case}")[0].rpartition("/")[0]
    return (
        "{case}" in value
        and "{frame" not in folders_before
        and value.count("{folder}") == folders_before.count("{folder}")
        and all(
            re.fullmatch(r"(case|phase|folder):|frame:(0?\dd)?", f"{name}:{spec}")
            and not conversion
            for name, spec, conversion in parts
        )
    )


INSIDE = "inside the source folder: relative, with '/', without '..'"
FOLDER = Rule(f"folders {INSIDE}", is_inside)
PATTERN = Rule(
    f"a path {INSIDE}, with {{case}} and, if need be, {{frame}}, {{frame:02d}}, {{phase}}, and "
    "{folder} in a folder before {case}",
    _is_pattern,
)
COUNT = number(whole=True)
FRAME = Rule(f"{COUNT.expected}, or {' or '.join(ENDS)}", lambda v: v in ENDS or COUNT.fits(v))
FACTS = dict.fromkeys(("ED", "ES", "vendor", "centre", "pathology"), TEXT)
COLUMNS = dict.fromkeys(("case", *FACTS, "frames", "split", "image", "mask"), TEXT)
LABEL = Rule(
    "a number from 0 to 65535, or a list of such numbers",
    lambda value: value != [] and all(map(number(0, 65535, whole=True).fits, _listed(value))),
)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _labels(values: Any, key: str) -> dict[int, Structure]:
    """Raw label number -> structure, of structure -> its number or numbers."""
    check_mapping(values, key)
    labels: dict[int, Structure] = {}
    for structure, numbers in {"BACKGROUND": 0, **values}.items():
        if structure not in Structure.__members__:
            known = ", ".join(Structure.__members__)
            hint = nearest(structure, Structure.__members__)
            raise ValueError(f"unknown structure {structure!r}{hint}; expected one of {known}")
        if not LABEL.fits(numbers):
            refuse(f"{key}.{structure}", numbers, LABEL.expected)
        for label in _listed(numbers):
            if label in labels:
                refuse(f"{key}.{structure}", label, f"not the {labels[label].name} number")
            labels[label] = Structure[structure]
    return labels


@dataclass(frozen=True)
class HoldOut:
    """Shares of the training cases that move to ``val`` and ``test``, by a hash of the id alone."""

    salt: str = option(rule=TEXT)
    val: float = option(0.0, number(0, 1))
    test: float = option(0.0, number(0, 1))

    def split(self, case: str) -> str:
        """Returns ``val``, ``test`` or ``train``, whichever other cases there are."""
        digest = hashlib.sha256(f"{self.salt}/{case}".encode()).digest()
        u = int.from_bytes(digest[:8], "big") / 2**64  # uniform in [0, 1)
        return "val" if u < self.val else "test" if u < self.val + self.test else "train"


@dataclass(frozen=True)
class Manifest:
    """Describes how a data set is stored, and what is known about it.

    Attributes:
        labels: Raw label number -> structure, every accepted number included.
        roots: Where below ``--source`` the folders may be, tried in order.
        folders: Folder -> ``train``, ``val``, ``test``, or ``column`` (the table says).
        image, mask, info: Paths below a folder, or below the root where they hold ``{folder}``,
            with ``{case}``, ``{frame}`` and ``{phase}``. An image that ends with ``/`` is a folder
            of DICOM files. Empty where a column gives the path.
        match: ``affine`` or ``order``, by which voxels of image and mask belong together; empty:
            ``affine`` for DICOM, ``order`` for NIfTI.
        table: Names (globs) of the CSV with one row per case, tried in order.
        columns: Fact -> its column in ``table``, or its key in ``info``.
        constants: Fact -> value, where no column says.
        frame_base: Number that the data set gives to the first frame of the cine.
        domain: Which fact a domain shift is measured across.
        split_values: Value of the split column -> ``train``, ``val`` or ``test``.
        expected: Folder -> number of cases in the complete data set.
        unlabelled: How many cases of the complete data set have no usable mask.
        duplicates: Groups of ids whose images are the same scan.
        oddities: What a reader should know before trusting the data, in words.
    """

    name: str = option(rule=Rule("1 to 64 letters, digits, '_' and '-'", _is_name))
    title: str = option(rule=TEXT)
    licence: str = option(rule=TEXT)
    citation: str = option(rule=TEXT)
    frame_base: int = option(rule=Rule("0 or 1", number(0, 1, whole=True).fits))
    labels: Mapping[int, Structure] = option(read=_labels, hash=False)
    folders: Mapping[str, str] = option(rule=one_of(*SPLITS, "column"), hash=False)
    image: str = option("", PATTERN)
    mask: str = option("", PATTERN)
    match: str = option("", one_of(*MATCHES))
    roots: tuple[str, ...] = option((".",), FOLDER)
    url: str = option("", TEXT)
    info: str = option("", PATTERN)
    table: tuple[str, ...] = option((), Rule(f"file names {INSIDE}", is_inside))
    columns: Mapping[str, str] = option(factory=dict, rule=COLUMNS, hash=False)
    constants: Mapping[str, str | int] = option(
        factory=dict, rule=FACTS | dict.fromkeys(PHASES, FRAME), hash=False
    )
    domain: str = option("dataset", one_of(*DOMAINS))
    split_values: Mapping[str, str] = option(factory=dict, rule=one_of(*SPLITS), hash=False)
    hold_out: HoldOut | None = None
    expected: Mapping[str, int] = option(factory=dict, hash=False)
    unlabelled: int = 0
    duplicates: tuple[tuple[str, ...], ...] = option((), Rule("ids in quotes", TEXT.fits))
    oddities: tuple[str, ...] = option((), TEXT)

    def gives(self, fact: str) -> bool:
        return fact in self.columns or fact in self.constants

    @property
    def lists_files(self) -> bool:
        """Whether the table says where the files of a case are, and so which cases there are."""
        return not {"image", "mask"}.isdisjoint(self.columns)

    def paths(self, case: str, frame: int, phase: str = "ED", folder: str = ".") -> tuple[str, str]:
        """Returns image and mask of a case below the root; ``frame`` counts from 0."""
        values = {"case": case, "frame": frame + self.frame_base, "phase": phase}
        image, mask = (below(folder, path).format(**values) for path in (self.image, self.mask))
        return image, mask


def below(folder: str, path: str) -> str:
    """Joins a folder and a path of a manifest: the folder replaces ``{folder}``, or comes first.

    Example:
        >>> below("Tr", "images{folder}/{case}.nii.gz"), below("a", "{case}.nii.gz")
        ('imagesTr/{case}.nii.gz', 'a/{case}.nii.gz')
    """
    if "{folder}" in path:
        return path.replace("{folder}", folder)
    return path if folder == "." else f"{folder}/{path}"


def shipped_manifests() -> dict[str, Any]:
    """Returns name -> YAML file of the data sets that the package knows.

    Example:
        >>> list(shipped_manifests())
        ['acdc', 'mnms']
    """
    return shipped("data_manifests")


def load_manifest(name_or_path: str | Path) -> Manifest:
    """Reads a manifest.

    Args:
        name_or_path: ``acdc``, ``mnms``, or the path of a YAML file of the same form.

    Raises:
        ManifestError: If there is no such manifest, or it has an unknown key, a value of the wrong
            type or an impossible value; the message names the key, the value and what is accepted.

    Example:
        >>> load_manifest("acdc").labels[3].name
        'LV'
    """
    name, shipped = str(name_or_path), shipped_manifests()
    file = shipped.get(name, Path(name))
    if not file.is_file():
        raise ManifestError(
            f"no manifest {name!r}{nearest(name, shipped)}; expected one of {', '.join(shipped)}, "
            "or the path of a YAML file (docs/data-sets.md says how to write one)"
        )
    try:
        data = read_yaml(file.read_bytes())
    except ValueError as error:
        raise ManifestError(f"manifest {name!r} is not valid YAML: {error}") from None
    return parse_manifest(data, name)


def parse_manifest(data: Any, name: str) -> Manifest:
    """Turns the content of a YAML file into a manifest.

    Args:
        data: Keys and values, see ``docs/data-sets.md``.
        name: How errors name the file.

    Raises:
        ManifestError: See `load_manifest`.

    Example:
        >>> parse_manifest({"name": "own", "frame_base": 2}, "own.yaml")
        Traceback (most recent call last):
        cardiac_attrivae.schema.ManifestError: manifest 'own.yaml': title is missing; expected text
    """
    try:
        manifest = build(Manifest, _with_frames(data))
        for kind in ("image", "mask"):
            if not (kind in data or kind in manifest.columns):
                raise ValueError(
                    f"{kind} is missing; expected {PATTERN.expected}, or its column in 'columns'"
                )
        for key, wrong, accepted in _contradictions(manifest):
            if wrong:
                refuse(key, data.get(key), accepted)
    except ValueError as error:
        raise ManifestError(f"manifest {name!r}: {error}") from None
    return manifest


def _with_frames(data: Any) -> Any:
    """Adds the frames of files that are named after their phase: the numbers tell ED and ES apart
    and mean nothing else, so they need not be given."""
    if not isinstance(data, Mapping):
        return data
    image, columns, constants = (data.get(key) or {} for key in ("image", "columns", "constants"))
    named = isinstance(image, str) and "{phase}" in image and "{frame" not in image
    readable = isinstance(columns, Mapping) and isinstance(constants, Mapping)
    if not named or not readable or not {*PHASES}.isdisjoint(columns):
        return data
    frames = {"ED": 0, "ES": 1} if {*PHASES}.isdisjoint(constants) else {}
    return {"frame_base": 0, **data, "constants": {**frames, **constants}}


def _contradictions(manifest: Manifest) -> list[tuple[str, Any, str]]:
    """Key, whether it disagrees with the others, and what is accepted."""
    m, columns, listed = manifest, manifest.columns, manifest.lists_files
    ids = [case for group in m.duplicates for case in group]
    return [
        ("roots", not m.roots, "one folder or more, such as ['.']"),
        ("labels", not set(HEART) <= {*m.labels.values()}, "a number for each of LV, MYO, RV"),
        ("folders", not m.folders, "a folder and its split, for example {'.': train}"),
        ("folders", not all(map(is_inside, m.folders)), FOLDER.expected),
        ("folders", re.search("[{}]", "".join(m.folders)), "names without { and }"),
        ("folders", listed and len(m.folders) > 1, "one, because the table lists the files"),
        ("mask", m.mask and m.image == m.mask, "another path than that of the image"),
        ("mask", m.mask.endswith("/"), "a file"),
        ("info", m.info and m.table, "either 'info' or 'table', not both"),
        ("info", re.search("{frame|{phase", m.info), "one file per case, with {case} alone"),
        ("columns", m.table and "case" not in columns, "the column 'case' too"),
        ("columns", columns and not (m.table or m.info), "a 'table'"),
        ("columns", listed and not m.table, "a 'table' that lists the files"),
        ("columns", m.image and "image" in columns or m.mask and "mask" in columns,
         "'image' and 'mask' as paths or as columns, not both"),
        ("constants", not set(ENDS).isdisjoint(m.constants.values())
         and "{frame" not in m.image.rpartition("/")[2],
         "a number, because the image's file name has no {frame}"),
        ("columns", not m.gives("ED"), "ED, the frame of end-diastole (or in constants)"),
        ("columns", "column" in m.folders.values() and "split" not in columns,
         "the column 'split', because a folder is mapped to 'column'"),
        ("expected", not set(m.expected) <= set(m.folders), "names from 'folders'"),
        ("hold_out", m.hold_out and m.hold_out.val + m.hold_out.test >= 1,
         "shares that leave some cases to train"),
        ("duplicates", len(set(ids)) < len(ids), "each id once"),
    ]  # fmt: skip
