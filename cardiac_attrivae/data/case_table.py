"""What a data set says about its cases in words: its table, or a small text file per case.

Tables come from spreadsheets, which change the delimiter, the encoding and the ids. What is certain
is read; everything else is an error that names the file.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
import warnings
from collections.abc import Container, Iterable
from decimal import Decimal
from pathlib import Path
from reprlib import repr as short

from ..runtime.yaml_files import nearest
from ..schema import DataError, ManifestError
from .manifest import Manifest

Rows = dict[str, list[dict[str, str]]]
"""Case id -> its rows, each column -> cell; several rows where the table repeats an id."""

LARGEST_TABLE, LARGEST_INFO = 64, 1
"""MiB of a table, and of the text file of one case."""


def normalised(text: str) -> str:
    """Writes accented letters as one character and drops those that are not seen.

    macOS writes the u-umlaut of a file name as two characters, tables as one.

    Example:
        >>> len("Mu\\u0308ller"), len(normalised("Mu\\u0308ller\\u200b"))
        (7, 6)
    """
    return unicodedata.normalize("NFC", re.sub("[\u200b-\u200d\u2060\ufeff]", "", text))


def read_text(file: Path) -> str:
    """Reads a text in UTF-8, UTF-16 or, where it is neither, Windows-1252; refuses more than
    `LARGEST_INFO`.

    Example:
        >>> file = Path("cases.csv")
        >>> _ = file.write_bytes("Müller".encode("cp1252"))
        >>> read_text(file)
        'Müller'
    """
    return _decoded(file, LARGEST_INFO)[0]


def _decoded(file: Path, largest: int) -> tuple[str, str]:
    """Text and encoding."""
    size = file.stat().st_size
    if size > largest * 2**20:
        raise DataError(
            f"{file.name} has {size / 2**20:.0f} MiB; expected a text of at most {largest} MiB"
        )
    data = file.read_bytes()
    codec = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    for encoding in (codec, "cp1252"):
        try:
            return data.decode(encoding), encoding
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1"), "latin-1"


def read_info(file: Path, keys: Container[str]) -> dict[str, str]:
    """Reads lines of ``key: value``, of some keys alone; refuses a key with two values.

    Example:
        >>> file = Path("Info.cfg")
        >>> _ = file.write_text("ED: 1\\nGroup: DCM\\nHeight: 184\\n")
        >>> read_info(file, {"ED", "Group"})
        {'ED': '1', 'Group': 'DCM'}
    """
    facts: dict[str, str] = {}
    for line in read_text(file).splitlines():
        key, text = (part.strip() for part in line.partition(":")[::2])
        if key in keys and facts.setdefault(key, text) != text:
            raise DataError(
                f"{file.name} gives {short(key)} as {short(facts[key])} and as {short(text)}"
            )
    return facts


def read_table(manifest: Manifest, file: Path) -> Rows:
    """Reads the rows of a data set's CSV by case id.

    Args:
        manifest: Names the columns.
        file: A CSV with commas, semicolons or tabs.

    Raises:
        DataError: If it is no CSV with as many values in each row as there are columns.
        ManifestError: If it lacks a column that the manifest names, or has it twice.

    Example:
        >>> from cardiac_attrivae.data.manifest import load_manifest
        >>> file = Path("info.csv")
        >>> _ = file.write_text("External code;VendorName;ED;ES\\nA1;GE;0;9\\n")
        >>> read_table(load_manifest("mnms"), file)["A1"]
        [{'External code': 'A1', 'VendorName': 'GE', 'ED': '0', 'ES': '9'}]
    """
    columns, table = _cells(file, set(manifest.columns.values()))
    # Older copies of a data set say less about a case; nothing is lost but the description.
    optional = {"vendor", "centre", "pathology"} - {manifest.domain}
    for fact, column in manifest.columns.items():
        if columns.count(column) > 1:
            raise ManifestError(f"{file.name} has several columns {column!r}; expected one")
        if column not in columns and fact not in optional:
            found = ", ".join(filter(None, columns[:20])) or "nothing"
            raise ManifestError(
                f"no column {column!r} (for {fact}) in {file.name}{nearest(column, columns)}; "
                f"found {found}"
            )
    rows: Rows = {}
    for row in table:
        rows.setdefault(row[manifest.columns["case"]], []).append(row)
    return rows


def match_rows(ids: Iterable[str], cases: Iterable[str]) -> dict[str, str]:
    """Finds the id under which each case stands in a table: case -> id, of the cases that have one.

    The same id counts first. What is left is matched as spreadsheets rewrite ids, 007 as 7 and 1E05
    as 1,00E+05, and with small letters for capitals, if just one case and one row fit.

    Example:
        >>> match_rows(["7", "10"], ["007", "10", "010"])  # 10 is the row of 10, not of 010
        {'10': '10', '007': '7'}
    """
    ids, cases = set(ids), sorted(set(cases))
    matched = {case: normalised(case) for case in cases if normalised(case) in ids}
    left_ids, left_cases = _grouped(ids - {*matched.values()}), _grouped({*cases} - {*matched})
    for key, (case, *others) in left_cases.items():
        (row, *more) = left_ids.get(key, ["", ""])
        if not (others or more):
            matched[case] = row
    return matched


def same_id(one: str, other: str) -> bool:
    """Whether a spreadsheet may write two ids alike.

    Example:
        >>> same_id("007", "7"), same_id("1E05", "1,00E+05"), same_id("p1", "p01")
        (True, True, False)
    """
    return _spreadsheet_key(one) == _spreadsheet_key(other)


def _spreadsheet_key(text: str) -> str:
    key = normalised(text).casefold().replace(",", ".")
    number = re.fullmatch(r"\d{1,15}(\.\d*)?(e[-+]?\d{1,2})?", key)
    return str(Decimal(key).normalize()) if number else key


def _grouped(ids: Iterable[str]) -> dict[str, list[str]]:
    """Ids that a spreadsheet may write alike."""
    groups: dict[str, list[str]] = {}
    for text in sorted(ids):
        groups.setdefault(_spreadsheet_key(text), []).append(text)
    return groups


def _cells(file: Path, wanted: set[str]) -> tuple[list[str], list[dict[str, str]]]:
    """Columns and rows of a CSV. A row of another length has its values under wrong names."""
    text, encoding = _decoded(file, LARGEST_TABLE)
    if "\0" in text:
        raise DataError(
            f"{file.name} is no text: it is of a spreadsheet program, say, or UTF-16 without "
            "its mark; save it as CSV UTF-8"
        )
    if not encoding.startswith("utf"):
        warnings.warn(
            f"{file.name} is not UTF-8 and was read as Windows-1252; if letters are wrong, save it "
            "as CSV UTF-8",
            stacklevel=2,
        )
    text = re.sub("\r\n?", "\n", normalised(text))  # as Excel and old Macs end lines
    text, before, delimiter = _without_preamble(text, wanted)
    stream = io.StringIO(text, newline="")
    reader = csv.reader(stream, delimiter=delimiter, strict=True)
    table = []
    try:
        columns = [column.strip() for column in next(reader, [])]
        for fields in filter(any, reader):
            row = [cell.strip() for cell in fields]
            if len(row) < len(columns) or any(row[len(columns) :]):
                raise DataError(
                    f"line {before + reader.line_num} of {file.name} has {len(row)} values; "
                    f"expected {len(columns)}, one for each column, in quotes where one holds a "
                    f"{delimiter!r}"
                )
            table.append(dict(zip(columns, row, strict=False)))
    except csv.Error as error:
        line = before + reader.line_num
        raise DataError(f"line {line} of {file.name} is no CSV: {error}") from None
    return columns, table


def _without_preamble(text: str, wanted: set[str]) -> tuple[str, int, str]:
    """The text from its header on, the number of lines before it, and the delimiter."""
    before, delimiter = 0, ""
    while True:
        line, newline, rest = text.partition("\n")
        named = re.fullmatch(r"sep=(.)\s*", line, re.IGNORECASE)  # Excel
        comment = line.startswith("#") and not any(name in line for name in wanted)
        if not newline or not (named or comment or not line.strip()):
            break
        delimiter = named[1] if named else delimiter
        text, before = rest, before + 1

    def names(delimiter: str) -> tuple[int, int]:
        cells = next(csv.reader([line], delimiter=delimiter), [])
        return len(wanted & {cell.strip() for cell in cells}), line.count(delimiter)

    # Spreadsheets write ';' where a comma separates decimals.
    return text, before, delimiter or max(",;\t", key=names)
