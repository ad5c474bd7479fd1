"""Tables as spreadsheets write them: every row is read under its own id, or the fault is named."""

import unicodedata

import pytest

from cardiac_attrivae.data.case_table import match_rows, read_info, read_text
from cardiac_attrivae.data.cases import find_cases
from cardiac_attrivae.data.manifest import parse_manifest
from cardiac_attrivae.schema import DataError, ManifestError

OWN = parse_manifest(
    {
        "name": "own",
        "title": "Own",
        "licence": "none",
        "citation": "none",
        "frame_base": 0,
        "folders": {".": "train"},
        "image": "images/{case}.nii.gz",
        "mask": "masks/{case}.nii.gz",
        "labels": {"LV": 1, "MYO": 2, "RV": 3},
        "table": ["cases.csv"],
        "columns": {"case": "Id", "ED": "ED", "vendor": "Vendor"},
    },
    "own",
)
PLAIN = "Id,ED,Vendor\n001,0,GE\n1E05,0,Siemens\n"


def found(folder, table, ids=("001", "1E05"), encoding="utf-8"):
    """Vendor of each case, and the reason of each that is skipped."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir()
        for case in ids:
            (folder / kind / f"{case}.nii.gz").touch()
    (folder / "cases.csv").write_bytes(table.encode(encoding))
    cases = find_cases(OWN, folder)
    return {record.case: record.vendor for record in cases.records}, dict(cases.skipped)


@pytest.mark.parametrize(
    ("table", "encoding"),
    [
        (PLAIN, "utf-8"),
        ("\ufeff" + PLAIN.replace(",", ";").replace("\n", "\r\n"), "utf-8"),
        (PLAIN.replace(",", "\t"), "utf-16"),
        (PLAIN.replace(",", "\t"), "utf-8"),
        ("sep=;\r\n" + PLAIN.replace(",", ";"), "utf-8"),
        ("# exported in 2024\n\n" + PLAIN, "utf-8"),
        ("Id;ED;Vendor;Remarks (age, sex, height)\n001;0;GE;\n1E05;0;Siemens;\n", "utf-8"),
        ("Id;ED;Vendor\n001;0,0;GE\n1E05;0,0;Siemens\n", "utf-8"),
        ("Id;ED;Vendor\n1;0;GE\n1,00E+05;0;Siemens\n", "utf-8"),
        ("Id,ED,Vendor\n1.0,0.0,GE\n100000.0,0.0,Siemens\n", "utf-8"),
        (PLAIN.replace("001", "\u200b001").replace("1E05", "1E05\u00a0"), "utf-8"),
        (PLAIN.replace("1E05", "1e05"), "utf-8"),
        (PLAIN.replace("\n", "\r"), "utf-8"),
    ],
    ids=[
        "plain", "BOM", "UTF-16", "tabs", "sep=", "comment", "commas in a column's name",
        "decimal commas", "ids as Excel's numbers", "ids as floats", "unseen characters",
        "capitals", "lines of old Macs",
    ],
)  # fmt: skip
def test_a_table_of_a_spreadsheet_is_read(tmp_path, table, encoding):
    assert found(tmp_path, table, encoding=encoding) == ({"001": "GE", "1E05": "Siemens"}, {})


def test_a_row_belongs_to_one_case_alone(tmp_path):
    vendors, skipped = found(tmp_path, "Id,ED,Vendor\n10,0,GE\n", ids=("10", "010"))
    assert vendors == {"10": "GE"}
    assert skipped == {"010": "the table has no row for it, only for 10"}


@pytest.mark.parametrize(
    ("ids", "cases", "expected"),
    [
        (["7"], ["007"], {"007": "7"}),
        (["7"], ["007", "07"], {}),
        (["7", "007"], ["07"], {}),
        (["7", "007"], ["007", "07"], {"007": "007", "07": "7"}),
        (["p1"], ["p01"], {}),
        (["12345678901234567890"], ["12345678901234567891"], {}),
    ],
)
def test_an_id_that_may_be_of_several_is_of_none(ids, cases, expected):
    assert match_rows(ids, cases) == expected


def test_letters_of_windows_are_read_and_reported(tmp_path):
    table = "Id,ED,Vendor\nMüller,0,Hôpital\n"
    with pytest.warns(UserWarning, match=r"cases\.csv is not UTF-8 and was read as Windows-1252"):
        assert found(tmp_path, table, ["Müller"], "cp1252") == ({"Müller": "Hôpital"}, {})


def test_a_decomposed_name_is_the_same_as_a_composed_one(tmp_path):
    name = unicodedata.normalize("NFD", "Müller")
    assert found(tmp_path, "Id,ED,Vendor\nMüller,0,GE\n", [name]) == ({"Müller": "GE"}, {})


def test_another_spelling_of_a_column_is_named(tmp_path):
    with pytest.raises(ManifestError, match="no column 'Id' .for case. .*, did you mean 'ID'"):
        found(tmp_path, PLAIN.replace("Id,ED", "ID,ED"))


def test_a_huge_text_is_refused_before_it_is_read(tmp_path):
    with open(tmp_path / "Info.cfg", "wb") as stream:
        stream.truncate(3 * 2**30)
    with pytest.raises(DataError, match=r"Info\.cfg has 3072 MiB; expected a text of at most 1"):
        read_info(tmp_path / "Info.cfg", {"ED"})


def test_bytes_that_are_no_text_do_not_stop_anything(tmp_path):
    (tmp_path / "x").write_bytes(bytes(range(256)))
    assert len(read_text(tmp_path / "x")) == 256
