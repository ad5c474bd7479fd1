"""Finished cases are joined one at a time into files as NumPy and a spreadsheet read them."""

import csv
import json
import os
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from faults import OWN, heart, save

from cardiac_attrivae.data import store_writer
from cardiac_attrivae.data.manifest import parse_manifest
from cardiac_attrivae.data.preprocess import preprocess
from cardiac_attrivae.data.store import SliceDataset
from cardiac_attrivae.data.store_writer import appended, assemble, case_file, columns
from cardiac_attrivae.runtime.spreadsheet import quoted, unquoted
from cardiac_attrivae.schema import CaseRecord


def test_arrays_are_appended_as_numpy_saves_them(tmp_path):
    random = np.random.default_rng(0)
    for dtype in (np.float32, np.uint8):
        parts = [random.integers(0, 9, (n, 1, 6, 5)).astype(dtype) for n in (3, 1, 8)]
        with appended(tmp_path / "appended.npy") as add:
            for part in parts:
                add(part)
        np.save(tmp_path / "saved.npy", np.concatenate(parts))
        assert (tmp_path / "appended.npy").read_bytes() == (tmp_path / "saved.npy").read_bytes()


def test_a_store_of_many_cases_is_joined_one_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(store_writer, "contact_sheet", lambda *_, **__: None)
    monkeypatch.setattr(store_writer, "chosen", lambda slices: range(1))
    shape = (10, 1, 64, 64)
    arrays = {
        "images": np.zeros(shape, np.float32),
        "labels": np.zeros(shape),
        "mask": np.zeros((64, 64, 12), np.uint8),
        "later_mask": np.empty((0, 0, 0), np.uint8),
        "remarks": [],
        "crop": np.zeros((10, 2)),
    }
    peaks = []
    for number in (4, 24):
        cases, store = (tmp_path / f"{number}{name}" for name in ("cases", "store"))
        cases.mkdir(), store.mkdir()
        for n in range(number):
            row = dict.fromkeys(columns(), 1.0) | {"case": str(n), "split": "train"}
            store_writer.save_case(cases / str(n), {**arrays, "rows": [json.dumps(row)] * 10})
        tracemalloc.start()
        info = assemble(store, sorted(cases.iterdir()), [], {})
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert (info["cases"], info["slices"]) == (number, 10 * number)
    # an eighth of what the slices of twenty further cases would take
    assert peaks[1] - peaks[0] < 20 * arrays["images"].nbytes / 8, peaks


def test_the_file_of_a_case_is_another_when_one_of_its_files_is_written_again(tmp_path):
    files = [tmp_path / name for name in ("image.nii", "mask.nii")]
    for file in files:
        file.write_bytes(b"1234")
    record = CaseRecord("p1", "own", "train", *files, 0, {}, "own")
    before = case_file(tmp_path, record)
    assert before == case_file(tmp_path, record)
    assert before != case_file(tmp_path, replace(record, case="p2"))
    for file in files:
        status = file.stat()
        file.write_bytes(b"1235")  # as long, and with the old time of change
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert before != (before := case_file(tmp_path, record))


def test_a_slice_of_a_dicom_folder_that_is_written_again_makes_another_file(tmp_path):
    (tmp_path / "cine").mkdir()
    (tmp_path / "cine/1.dcm").write_bytes(b"12")
    (tmp_path / "mask.nii").write_bytes(b"1234")
    record = CaseRecord("p", "o", "train", tmp_path / "cine", tmp_path / "mask.nii", 0, {}, "o")
    before = case_file(tmp_path, record)
    (tmp_path / "cine/1.dcm").write_bytes(b"123")
    assert before != case_file(tmp_path, record)


# Spreadsheets -------------------------------------------------------------------------------------

TEXTS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "'=1", "''@x", "'s-Hertogenbosch", "p1", "", "a=b"]


@pytest.mark.parametrize("text", TEXTS)
def test_a_quoted_text_is_no_formula_and_reads_as_before(text):
    assert quoted(text)[:1] not in ("=", "+", "-", "@", "\t")
    assert unquoted(quoted(text)) == text


def test_no_text_of_a_store_is_a_formula_and_every_id_is_found_again(tmp_path):
    ids = ("=1+1", "@case", "-p3", "'=quoted")
    for n, case in enumerate(ids):
        voxels = np.random.default_rng(n).integers(20, 900, heart().shape).astype(np.int16)
        save(tmp_path / "own/a" / case / "image.nii.gz", voxels)
        save(tmp_path / "own/a" / case / "mask.nii.gz", heart())
    (tmp_path / "own/a/-p3/mask.nii.gz").unlink()
    constants = {**OWN["constants"], "vendor": "=HYPERLINK(1)", "pathology": "-"}
    preprocess(parse_manifest({**OWN, "constants": constants}, "own"), tmp_path / "own",
               tmp_path / "s")  # fmt: skip
    for name in ("cases.csv", "skipped.csv"):
        with open(tmp_path / "s" / name, newline="") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        numbers = [cell for cell in cells if cell.lstrip("-").replace(".", "").isdigit()]
        formulas = [cell for cell in cells if cell[:1] in tuple("=+-@") and cell not in numbers]
        assert formulas == []
    store = SliceDataset.open(tmp_path / "s")
    assert set(store.cases["case"]) == {"=1+1", "@case", "'=quoted"}
    assert set(store.cases["vendor"]) == {"=HYPERLINK(1)"}
    assert np.allclose(store.measured(["LVEDV"]), store.attributes(["LVEDV"]))
