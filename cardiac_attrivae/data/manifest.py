"""Data sets: a manifest (one YAML per data set) and a folder become case records with splits.

The only room that knows the raw label numbers, file names and frame numbering of a data set. Every
key of a manifest is explained in ``docs/data-sets.md``. Nothing here opens an image: empty masks
and damaged files are found by ``check.py`` and by preprocessing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from reprlib import repr as short
from string import Formatter
from typing import Any

from ..runtime.yaml_files import nearest, read_yaml, shipped
from ..schema import HEART, MATCHES, SPLITS, ManifestError, Structure

PHASES = ("ED", "ES")
ENDS = ("first", "last")
"""What a phase may be instead of a number: an end of the frames that are on disk as files."""
NAME = r"[\w-]+"
"""What a data set may be called: files are named after it."""
DOMAINS = ("dataset", "vendor", "centre", "pathology")


@dataclass(frozen=True)
class HoldOut:
    """Shares of the training cases that a hash of the id alone moves to ``val`` and ``test``."""

    salt: str
    val: float = 0.0
    test: float = 0.0

    def split(self, case: str) -> str:
        """``val``, ``test`` or ``train``; never depends on which other cases there are."""
        digest = hashlib.sha256(f"{self.salt}/{case}".encode()).digest()
        u = int.from_bytes(digest[:8], "big") / 2**64  # uniform in [0, 1)
        return "val" if u < self.val else "test" if u < self.val + self.test else "train"


@dataclass(frozen=True)
class Manifest:
    """What a data set looks like on disk, and what is known about it.

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

    name: str
    title: str
    licence: str
    citation: str
    frame_base: int
    labels: Mapping[int, Structure] = field(hash=False)
    folders: Mapping[str, str] = field(hash=False)
    image: str = ""
    mask: str = ""
    match: str = ""
    roots: tuple[str, ...] = (".",)
    url: str = ""
    info: str = ""
    table: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict, hash=False)
    constants: Mapping[str, str | int] = field(default_factory=dict, hash=False)
    domain: str = "dataset"
    split_values: Mapping[str, str] = field(default_factory=dict, hash=False)
    hold_out: HoldOut | None = None
    expected: Mapping[str, int] = field(default_factory=dict, hash=False)
    unlabelled: int = 0
    duplicates: tuple[tuple[str, ...], ...] = ()
    oddities: tuple[str, ...] = ()

    def gives(self, fact: str) -> bool:
        return fact in self.columns or fact in self.constants

    @property
    def lists_files(self) -> bool:
        """Whether the table says where the files of a case are, and so which cases there are."""
        return not {"image", "mask"}.isdisjoint(self.columns)

    def paths(self, case: str, frame: int, phase: str = "ED", folder: str = ".") -> tuple[str, str]:
        """Image and mask of a case below the root; ``frame`` is 0-based, as everywhere."""
        values = {"case": case, "frame": frame + self.frame_base, "phase": phase}
        image, mask = (below(folder, path).format(**values) for path in (self.image, self.mask))
        return image, mask


def below(folder: str, path: str) -> str:
    """A path of a manifest from the root: the folder where ``{folder}`` stands, or in front."""
    if "{folder}" in path:
        return path.replace("{folder}", folder)
    return path if folder == "." else f"{folder}/{path}"


def shipped_manifests() -> dict[str, Any]:
    """Name -> YAML file of the data sets that the package knows."""
    return shipped("data_manifests")


def load_manifest(name_or_path: str | Path) -> Manifest:
    """Reads a manifest.

    Args:
        name_or_path: ``acdc``, ``mnms``, or the path of a YAML file of the same form.

    Raises:
        ManifestError: If there is no such manifest, or it has an unknown key, a value of the wrong
            type or an impossible value; the message names the key, the value and what is accepted.
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
    """Turns what a YAML file says into a manifest; ``name`` is how errors speak of it."""
    where = f"manifest {name!r}"
    values = _checked(where, data, _KEYS)
    labels: dict[int, Structure] = {}
    for structure, numbers in {"BACKGROUND": 0, **values["labels"]}.items():
        if structure not in Structure.__members__:
            raise ManifestError(
                f"unknown structure {structure!r} in {where}; expected one of "
                f"{', '.join(Structure.__members__)}"
            )
        for number in numbers if isinstance(numbers, list) else [numbers]:
            if number in labels:
                _fail(where, f"labels.{structure}", number, f"not the {labels[number].name} number")
            labels[number] = Structure[structure]
    hold_out = values.pop("hold_out", None)
    for key, value in values.items():
        if isinstance(value, list):
            values[key] = tuple(tuple(v) if isinstance(v, list) else v for v in value)
    manifest = Manifest(
        **{**values, "labels": labels, "hold_out": HoldOut(**hold_out) if hold_out else None}
    )
    for kind in ("image", "mask"):
        if not (kind in data or kind in manifest.columns):
            raise ManifestError(
                f"{where}: {kind} is missing; expected {_PATTERN}, or its column in 'columns'"
            )
    ids = [case for group in manifest.duplicates for case in group]
    held = manifest.hold_out.val + manifest.hold_out.test if manifest.hold_out else 0
    for key, wrong, accepted in (
        ("labels", not set(HEART) <= set(labels.values()), "a number for each of LV, MYO, RV"),
        ("folders", not manifest.folders, "a folder and its split, for example {'.': train}"),
        ("folders", not all(map(is_inside, manifest.folders)), f"folders {INSIDE}"),
        ("folders", re.search("[{}]", "".join(manifest.folders)), "names without { and }"),
        ("folders", manifest.lists_files and len(manifest.folders) > 1,
         "one, because the table lists the files"),
        ("mask", "mask" in data and manifest.image == manifest.mask,
         "another path than that of the image"),
        ("mask", manifest.mask.endswith("/"), "a file"),
        ("info", manifest.info and manifest.table, "either 'info' or 'table', not both"),
        ("info", re.search("{frame|{phase", manifest.info), "one file per case, with {case} alone"),
        ("columns", manifest.table and "case" not in manifest.columns, "the column 'case' too"),
        ("columns", manifest.columns and not (manifest.table or manifest.info), "a 'table'"),
        ("columns", manifest.lists_files and not manifest.table, "a 'table' that lists the files"),
        ("columns", not {"image", "mask"}.isdisjoint(set(data) & set(manifest.columns)),
         "'image' and 'mask' as paths or as columns, not both"),
        ("constants", not set(ENDS).isdisjoint(manifest.constants.values())
         and "{frame" not in manifest.image.rpartition("/")[2],
         "a number, because the image's file name has no {frame}"),
        ("columns", not manifest.gives("ED"), "ED, the frame of end-diastole (or in constants)"),
        ("columns", "column" in manifest.folders.values() and "split" not in manifest.columns,
         "the column 'split', because a folder is mapped to 'column'"),
        ("expected", not set(manifest.expected) <= set(manifest.folders), "names from 'folders'"),
        ("hold_out", held >= 1, "shares that leave some cases to train"),
        ("duplicates", len(set(ids)) < len(ids), "each id once"),
    ):  # fmt: skip
        if wrong:
            _fail(where, key, data.get(key), accepted)
    return manifest


def _fail(where: str, key: str, value: Any, accepted: str) -> None:
    raise ManifestError(f"{where}: {key} is {short(value)}; expected {accepted}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(re.fullmatch(NAME, value))


def is_inside(value: Any) -> bool:
    """Whether a text is a path that, by itself, cannot lead out of the folder it starts from."""
    if not _is_text(value) or "\\" in value or "**" in value or not value.isprintable():
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


def _is_label(value: Any) -> bool:
    numbers = value if isinstance(value, list) else [value]
    return bool(numbers) and all(type(n) is int and 0 <= n <= 65535 for n in numbers)


def _is_list_of(ok: Any) -> Any:
    return lambda value: isinstance(value, list) and bool(value) and all(ok(v) for v in value)


def _is_number(low: float, high: float, *kinds: type) -> Any:
    return lambda value: type(value) in kinds and low <= value <= high


def _is_one_of(choices: Iterable[str]) -> Any:
    return lambda value: isinstance(value, str) and value in choices


_REQUIRED = True
INSIDE = "inside the source folder: relative, with '/', without '..'"
_PATTERN = (
    f"a path {INSIDE}, with {{case}} and, if need be, {{frame}}, {{frame:02d}}, {{phase}}, and "
    "{folder} in a folder before {case}"
)
_TEXT = ("text", _is_text)
_SPLIT = (f"one of {', '.join(SPLITS)}", _is_one_of(SPLITS))
_FOLDER_SPLIT = (f"{_SPLIT[0]}, column", _is_one_of((*SPLITS, "column")))
_COUNT = ("a whole number, 0 or more", _is_number(0, 10**9, int))
_FRAME = (f"{_COUNT[0]}, or {' or '.join(ENDS)}", lambda v: v in ENDS or _COUNT[1](v))
_SHARE = ("a number from 0 to 1", _is_number(0, 1, int, float))
_FACTS = ("ED", "ES", "vendor", "centre", "pathology")
_COLUMNS = ("case", *_FACTS, "frames", "split", "image", "mask")

# Key -> (what is accepted, how to tell, required?). A mapping in second place is a section of its
# own; the key "*" in it stands for any name.
_KEYS: dict[str, tuple] = {
    "name": ("letters, digits, '_' and '-'", _is_name, _REQUIRED),
    "title": (*_TEXT, _REQUIRED),
    "licence": (*_TEXT, _REQUIRED),
    "citation": (*_TEXT, _REQUIRED),
    "url": _TEXT,
    "roots": (f"a list of folders {INSIDE}", _is_list_of(is_inside)),
    "folders": ("folders with their splits", {"*": _FOLDER_SPLIT}, _REQUIRED),
    "image": (_PATTERN, _is_pattern),
    "mask": (_PATTERN, _is_pattern),
    "match": (f"one of {', '.join(MATCHES)}", _is_one_of(MATCHES)),
    "labels": ("structures", {"*": ("a number from 0 to 65535, or a list", _is_label)}, _REQUIRED),
    "info": (_PATTERN, _is_pattern),
    "table": (f"a list of file names {INSIDE}", _is_list_of(is_inside)),
    "columns": ("names of columns", dict.fromkeys(_COLUMNS, _TEXT)),
    "constants": ("facts", {fact: _FRAME if fact in PHASES else _TEXT for fact in _FACTS}),
    "frame_base": ("0 or 1", _is_number(0, 1, int), _REQUIRED),
    "domain": (f"one of {', '.join(DOMAINS)}", _is_one_of(DOMAINS)),
    "split_values": ("values", {"*": _SPLIT}),
    "hold_out": ("shares", {"salt": (*_TEXT, _REQUIRED), "val": _SHARE, "test": _SHARE}),
    "expected": ("counts", {"*": _COUNT}),
    "unlabelled": _COUNT,
    "duplicates": ("a list of lists of ids in quotes", _is_list_of(_is_list_of(_is_text))),
    "oddities": ("a list of texts", _is_list_of(_is_text)),
}


def _checked(where: str, data: Any, keys: Mapping[str, tuple]) -> dict[str, Any]:
    """The values of one mapping of the YAML, or an error that names what is wrong in it."""
    if not isinstance(data, Mapping) or not all(isinstance(key, str) for key in data):
        raise ManifestError(f"{where}: got {short(data)}; expected names (in quotes) with values")
    values = {}
    for key, value in data.items():
        if key not in keys and "*" not in keys:
            raise ManifestError(
                f"{where}: unknown key {key!r}{nearest(key, keys)}; expected one of "
                f"{', '.join(keys)}"
            )
        accepted, rule = keys.get(key, keys.get("*"))[:2]
        if isinstance(rule, dict):
            value = _checked(f"{where}, {key}", value, rule)
        elif not rule(value):
            _fail(where, key, value, accepted)
        values[key] = value
    for key, (accepted, _, *required) in keys.items():
        if required and key not in data:
            raise ManifestError(f"{where}: {key} is missing; expected {accepted}")
    return values
