"""Manifests and the cases they find, on small trees written here; no image is opened."""

import hashlib
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import faults
import pytest
import yaml

from cardiac_attrivae.data.cases import drop_duplicates, find_cases
from cardiac_attrivae.data.manifest import HoldOut, load_manifest, parse_manifest, shipped_manifests
from cardiac_attrivae.schema import HEART, SPLITS, DataError, ManifestError, Structure

OWN = {key: faults.OWN[key] for key in ("name", "title", "licence", "citation")} | {
    "folders": {".": "train"},
    "image": "images/{case}.nii.gz",
    "mask": "masks/{case}.nii.gz",
    "labels": {"LV": 1, "MYO": [2, 5], "RV": 3},
    "table": ["cases.csv"],
    "columns": {"case": "id", "ED": "ed", "ES": "es"},
    "frame_base": 0,
}
MNMS_HEADER = ",External code,Pathology,VendorName,Vendor,Centre,ED,ES,Age,Sex,Height,Weight\r\n"


def own(**changes):
    return parse_manifest({**OWN, **changes}, "own")


def touch(*files):
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")


def acdc(root, case, half="training", ed=1, es=12, group="NOR"):
    """One patient of ACDC, with empty files where images would be."""
    folder = root / half / case
    frames = [f"{case}_frame{n:02d}{end}.nii.gz" for n in (ed, es) for end in ("", "_gt")]
    touch(*(folder / name for name in frames))
    (folder / "Info.cfg").write_text(
        f"ED: {ed}\nES: {es}\nGroup: {group}\nHeight: 170.0\nNbFrame: 30\nWeight: 70.0\n"
    )
    return folder


def mnms(root, rows, name="211230_M&Ms_Dataset_information_diagnosis_opendataset.csv"):
    """M&Ms with rows of (code, folder, vendor, ED, ES); a folder of None is a row without files."""
    lines = [MNMS_HEADER]
    for number, (code, folder, vendor, ed, es) in enumerate(rows):
        lines.append(f"{number},{code},,{vendor},X,1,{ed},{es},,,,\r\n")
        if folder:
            touch(*(root / folder / code / f"{code}_sa{end}.nii.gz" for end in ("", "_gt")))
    (root / name).write_text("".join(lines), encoding="utf-8")


def ids(cases):
    return [record.case for record in cases.records]


# Reading a manifest


@pytest.mark.parametrize("name", shipped_manifests())
def test_every_shipped_manifest_is_complete_and_says_how_to_cite(name):
    manifest = load_manifest(name)
    assert manifest.name == name
    assert set(manifest.labels.values()) == set(Structure)
    assert set(manifest.expected) == set(manifest.folders)
    assert set(manifest.folders.values()) <= set(SPLITS)
    assert "doi 10." in manifest.citation
    assert manifest.licence
    assert manifest.oddities
    image, mask = manifest.paths("x1", 3)
    assert image != mask
    assert image.startswith("x1/x1")


def test_acdc_and_mnms_number_their_labels_in_reverse():
    assert {k: v.name for k, v in load_manifest("acdc").labels.items()} == {
        0: "BACKGROUND", 3: "LV", 2: "MYO", 1: "RV",
    }  # fmt: skip
    assert all(number == structure for number, structure in load_manifest("mnms").labels.items())


def test_frames_of_acdc_files_count_from_one_and_ours_from_zero():
    assert load_manifest("acdc").paths("patient090", 3)[0].endswith("patient090_frame04.nii.gz")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lables": {}}, "unknown key lables, did you mean 'labels'?; expected one of name,"),
        ({"title": 3}, "title is 3; expected text"),
        ({"table": ["**x.csv"]}, "inside the source folder"),
        ({"image": "a\0{case}.nii.gz"}, "inside the source folder"),
        ({"name": "a/b"}, "name is 'a/b'; expected 1 to 64 letters, digits"),
        ({"name": "a" * 65}, "expected 1 to 64 letters, digits"),
        ({"split_values": {False: "test"}}, "has the key False, which is no text; write it"),
        ({"frame_base": 2}, "frame_base is 2; expected 0 or 1"),
        ({"frame_base": True}, "frame_base is True; expected 0 or 1"),
        ({"folders": {}}, "folders is {}; expected a folder and its split"),
        ({"folders": {".": "training"}}, "folders['.'] is 'training'; expected one of train, val,"),
        ({"folders": {"../other": "train"}}, "expected folders inside the source folder"),
        ({"folders": {".": "column"}}, "expected the column 'split'"),
        ({"labels": {"LV": 1, "MYO": 2, "RV": 3, "la": 4}},
         "unknown structure 'la'; expected one of BACKGROUND, LV, MYO, RV"),
        ({"labels": {"LV": 1, "MYO": 2, "RV": 2}}, "labels.RV is 2; expected not the MYO number"),
        ({"labels": {"LV": 0, "MYO": 2, "RV": 3}}, "labels.LV is 0; expected not the BACKGROUND"),
        ({"labels": {"LV": 1, "MYO": 2}}, "expected a number for each of LV, MYO, RV"),
        ({"labels": {"LV": "1", "MYO": 2, "RV": 3}}, "LV is '1'; expected a number from 0"),
        ({"image": "/etc/{case}.nii.gz"}, "inside the source folder"),
        ({"image": "../{case}.nii.gz"}, "inside the source folder"),
        ({"image": "C:\\data\\{case}.nii.gz"}, "inside the source folder"),
        ({"image": "images/ed.nii.gz"}, "with {case}"),
        ({"image": "{case.__class__}/{case}.nii.gz"}, "with {case}"),
        ({"image": "{case}_{frame:1000d}.nii.gz"}, "with {case}"),
        ({"image": "{case}_{patient}.nii.gz"}, "with {case}"),
        ({"image": "{case"}, "with {case}"),
        ({"image": "{case}/{folder}.nii.gz"}, "{folder} in a folder before {case}"),
        ({"folders": {"{case}": "train"}}, "expected names without { and }"),
        ({"mask": "images/{case}.nii.gz"}, "expected another path than that of the image"),
        ({"mask": "masks/{case}/"}, "mask is 'masks/{case}/'; expected a file"),
        ({"match": "luck"}, "match is 'luck'; expected one of affine, order"),
        ({"columns": {**OWN["columns"], "image": "i"}}, "as paths or as columns, not both"),
        ({"constants": {"ED": "first"}}, "because the image's file name has no {frame}"),
        ({"constants": {"ED": "third"}}, "ED is 'third'; expected a whole number, 0 or more, or f"),
        ({"table": ["../../*.csv"]}, "inside the source folder"),
        ({"info": "{case}/Info.cfg"}, "either 'info' or 'table', not both"),
        ({"columns": {"ED": "ed"}}, "expected the column 'case' too"),
        ({"columns": {"case": "id"}}, "expected ED, the frame of end-diastole"),
        ({"columns": {"case": "id", "ED": "ed", "vendr": "v"}}, "did you mean 'vendor'?"),
        ({"constants": {"ES": "seven"}}, "ES is 'seven'; expected a whole number"),
        ({"domain": "scanner"}, "domain is 'scanner'; expected one of dataset, vendor"),
        ({"hold_out": {"val": 0.1}}, "salt is missing; expected text"),
        ({"hold_out": {"salt": "s", "val": 1.5}}, "val is 1.5; expected a number from 0 to 1"),
        ({"hold_out": {"salt": "s", "val": 0.5, "test": 0.5}}, "leave some cases to train"),
        ({"expected": {"train": 3}}, "expected names from 'folders'"),
        ({"duplicates": [["a", 7]]}, "ids in quotes"),
        ({"duplicates": [["a", "b"], ["b", "c"]]}, "expected each id once"),
    ],
)  # fmt: skip
def test_a_wrong_manifest_is_an_error_that_says_what_is_accepted(changes, message):
    with pytest.raises(ManifestError) as error:
        own(**changes)
    assert "manifest 'own'" in str(error.value)
    assert message in str(error.value)


def test_a_misspelt_key_is_named_before_the_one_it_leaves_missing():
    data = {("lables" if key == "labels" else key): value for key, value in OWN.items()}
    with pytest.raises(ManifestError, match="unknown key lables, did you mean 'labels'"):
        parse_manifest(data, "own")


@pytest.mark.parametrize("key", [k for k in OWN if k not in ("table", "columns")])
def test_every_required_key_is_missed(key):
    with pytest.raises(ManifestError, match=f"{key} is missing"):
        parse_manifest({k: v for k, v in OWN.items() if k != key}, "own")


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "not valid YAML"), ("- a", "expected keys and val"), ("", "expected keys and val"),
     ("!!python/object/apply:os.getcwd []", "not valid YAML")],
)  # fmt: skip
def test_a_file_that_is_no_manifest_is_refused(tmp_path, text, message):
    file = tmp_path / "own.yaml"
    file.write_text(text)
    with pytest.raises(ManifestError, match=message):
        load_manifest(file)


def test_an_unknown_data_set_is_answered_with_the_nearest_name():
    with pytest.raises(
        ManifestError, match="'acdd', did you mean 'acdc'.; expected one of acdc, m"
    ):
        load_manifest("acdd")


def test_the_manifest_on_the_documentation_page_finds_the_tree_it_describes(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "data-sets.md").read_text(encoding="utf-8")
    example = re.search(r"```yaml\n(.*?)```", page, flags=re.DOTALL)[1]  # others: test_volumes
    (tmp_path / "own.yaml").write_text(example, encoding="utf-8")
    manifest = load_manifest(tmp_path / "own.yaml")
    touch(tmp_path / "images" / "p01_00.nii.gz", tmp_path / "masks" / "p01_00.nii.gz")
    (tmp_path / "cases.csv").write_text(
        "Patient,ED frame,ES frame,Scanner,Diagnosis\np01,0,9,Siemens,HCM\n"
    )
    (record,) = find_cases(manifest, tmp_path).records
    assert (record.case, record.frame, record.domain, record.pathology) == (
        "p01", 0, "Siemens", "HCM",
    )  # fmt: skip
    assert record.label_numbers[5] is Structure.MYO
    documented = set(re.findall(r"`(\w+)`", page))
    assert set(manifest.__dataclass_fields__) <= documented


# Finding cases


def test_acdc_is_found_with_its_facts(tmp_path):
    acdc(tmp_path, "patient002", group="DCM")
    acdc(tmp_path, "patient101", "testing", ed=4, es=11)
    (tmp_path / "training" / "MANDATORY_CITATION.md").write_text("cite")
    cases = find_cases(load_manifest("acdc"), tmp_path)
    assert cases.skipped == []
    first, second = cases.records
    assert (first.case, first.dataset, first.frame, first.pathology) == (
        "patient002", "acdc", 0, "DCM",
    )  # fmt: skip
    assert first.image.name == "patient002_frame01.nii.gz"
    assert first.mask.name == "patient002_frame01_gt.nii.gz"
    assert (first.domain, first.vendor, first.phase) == ("acdc", "Siemens", "ED")
    assert (second.split, second.frame) == ("test", 3)
    (_, late) = find_cases(load_manifest("acdc"), tmp_path, "ES").records
    assert (late.frame, late.phase, late.image.name) == (10, "ES", "patient101_frame11.nii.gz")


@pytest.mark.parametrize("below", [".", "database"])
@pytest.mark.parametrize("half", ["training", "testing"])
def test_acdc_is_found_with_one_half_and_in_a_database_folder(tmp_path, below, half):
    acdc(tmp_path / below, "patient001", half)
    assert ids(find_cases(load_manifest("acdc"), tmp_path)) == ["patient001"]


def test_a_case_that_cannot_be_used_is_skipped_with_its_reason(tmp_path):
    for n in range(1, 9):
        acdc(tmp_path, f"patient00{n}")
    folder = tmp_path / "training"
    (folder / "patient001" / "Info.cfg").unlink()
    (folder / "patient002" / "patient002_frame01_gt.nii.gz").unlink()
    (folder / "patient003" / "patient003_frame01.nii.gz").unlink()
    (folder / "patient004" / "Info.cfg").write_text("ES: 12\nGroup: NOR\n")
    (folder / "patient005" / "Info.cfg").write_text("ED: 31\nNbFrame: 30\n")
    (folder / "patient006" / "Info.cfg").write_text("ED: 0\nNbFrame: 30\n")
    (folder / "patient007" / "Info.cfg").write_text("ED: first\nNbFrame: 30\n")
    cases = find_cases(load_manifest("acdc"), tmp_path)
    assert ids(cases) == ["patient008"]
    assert dict(cases.skipped) == {
        "patient001": "Info.cfg is missing",
        "patient002": "no mask: patient002_frame01_gt.nii.gz is missing",
        "patient003": "patient003_frame01.nii.gz is missing",
        "patient004": "ED is not given: ED is empty or missing",
        "patient005": "ED is frame 31; expected 1 to 30",
        "patient006": "ED is frame 0; expected 1 to 30",
        "patient007": "ED is 'first'; expected a whole number",
    }


def test_the_error_of_a_wrong_source_names_what_was_expected_and_what_was_found(tmp_path):
    manifest = load_manifest("acdc")
    acdc(tmp_path, "patient001")
    with pytest.raises(DataError, match="looked for training, testing, found patient001. Pass the"):
        find_cases(manifest, tmp_path / "training")
    with pytest.raises(DataError, match="is not a folder"):
        find_cases(manifest, tmp_path / "absent")
    (tmp_path / "empty" / "testing").mkdir(parents=True)
    with pytest.raises(DataError, match="no case of 'acdc'"):
        find_cases(manifest, tmp_path / "empty")
    with pytest.raises(
        ManifestError, match="phase is 'MD'; expected one that 'acdc' gives: ED, ES"
    ):
        find_cases(manifest, tmp_path, "MD")


def test_mnms_is_found_through_its_table(tmp_path):
    rows = [
        ("A1A1A1", "Testing", "Siemens", 24, 9),
        ("B2B2B2", "Training/Labeled", "Philips", 0, "10.0"),
        ("C3C3C3", "Validation", "", 0, 9),
        ("D4D4D4", "Training/Unlabeled", "GE", "", ""),
        ("E5E5E5", None, "Canon", 0, 9),
        ("../../up", None, "Canon", 0, 9),
    ]
    mnms(tmp_path, rows)
    touch(*(tmp_path / "Testing" / "F6F6F6" / f"F6F6F6_sa{end}.nii.gz" for end in ("", "_gt")))
    cases = find_cases(load_manifest("mnms"), tmp_path)
    assert [(r.case, r.split, r.frame, r.domain) for r in cases.records] == [
        ("A1A1A1", "test", 24, "Siemens"),
        ("B2B2B2", "train", 0, "Philips"),
        ("C3C3C3", "val", 0, "mnms"),
    ]
    assert dict(cases.skipped) == {
        "D4D4D4": "ED is not given: ED is empty or missing",
        "F6F6F6": "the table has no row for it",
    }
    es = find_cases(load_manifest("mnms"), tmp_path, "ES")
    assert [record.frame for record in es.records] == [9, 10, 9]


@pytest.mark.parametrize("name", ["201014_M&Ms_Dataset_Information_-_opendataset.csv", "info.csv"])
def test_the_table_of_mnms_may_have_another_name(tmp_path, name):
    mnms(tmp_path, [("A1A1A1", "Testing", "Siemens", 0, 9)], name)
    assert ids(find_cases(load_manifest("mnms"), tmp_path)) == ["A1A1A1"]


def test_a_table_written_by_a_spreadsheet_is_read(tmp_path):
    mnms(tmp_path, [("A1A1A1", "Testing", "GE", 3, 9)], "info.csv")
    text = (tmp_path / "info.csv").read_text().replace(",", ";")
    (tmp_path / "info.csv").write_text(text, encoding="utf-8-sig")
    (tmp_path / "._info.csv").write_bytes(b"\x00\x05")
    (record,) = find_cases(load_manifest("mnms"), tmp_path).records
    assert (record.frame, record.vendor) == (3, "GE")


def test_a_table_that_says_less_than_the_manifest_hopes_is_enough(tmp_path):
    touch(*(tmp_path / "Testing" / "A1" / f"A1_sa{end}.nii.gz" for end in ("", "_gt")))
    table = tmp_path / "old.csv"
    table.write_text("External code,VendorName,ED,ES\nA1,GE,0,9\n")
    assert find_cases(load_manifest("mnms"), tmp_path).records[0].pathology == ""
    table.write_text("External code,Vendorname,ED,ES\nA1,GE,0,9\n")
    with pytest.raises(ManifestError, match="no column 'VendorName' .for vendor. in old.csv, did"):
        find_cases(load_manifest("mnms"), tmp_path)


def test_tables_that_are_missing_or_ambiguous_are_named(tmp_path):
    manifest = load_manifest("mnms")
    mnms(tmp_path, [("A1A1A1", "Testing", "GE", 0, 9)], "a.csv")
    (tmp_path / "b.csv").write_text("x")
    with pytest.raises(DataError, match="2 tables in .*: a.csv, b.csv. Keep one of them"):
        find_cases(manifest, tmp_path)
    (tmp_path / "a.csv").unlink()
    (tmp_path / "b.csv").rename(tmp_path / "M&Ms.xlsx")
    with pytest.raises(DataError, match="Open M&Ms.xlsx and save it as CSV, there"):
        find_cases(manifest, tmp_path)


def test_rows_that_contradict_each_other_skip_the_case(tmp_path):
    touch(*(tmp_path / d / f"{c}.nii.gz" for d in ("images", "masks") for c in "ab"))
    (tmp_path / "cases.csv").write_text("id,ed,es\na,0,9\na,1,9\nb,2,9\nb,2,9\n")
    cases = find_cases(own(), tmp_path)
    assert ids(cases) == ["b"]
    assert cases.skipped == [("a", "the table has 2 rows for it, and they differ")]


def test_an_id_in_two_folders_is_used_once(tmp_path):
    acdc(tmp_path, "patient001")
    acdc(tmp_path, "patient001", "testing")
    cases = find_cases(load_manifest("acdc"), tmp_path)
    assert [(r.case, r.split) for r in cases.records] == [("patient001", "train")]
    assert cases.skipped[0].reason == "the id occurs again in testing; a case has one split"


@pytest.mark.parametrize(
    ("image", "mask", "files"),
    [
        ("{case}.nii.gz", "{case}_gt.nii.gz", ["7.nii.gz", "7_gt.nii.gz"]),
        ("{case}_im.nii.gz", "{case}.nii.gz", ["7_im.nii.gz", "7.nii.gz"]),
        ("sub-{case}/anat/sub-{case}_{phase}.nii.gz", "masks/sub-{case}_{phase}.nii.gz",
         ["sub-7/anat/sub-7_ED.nii.gz", "masks/sub-7_ED.nii.gz"]),
        ("{phase}/{case}_{frame:03d}.nii.gz", "{phase}/{case}_{frame}_m.nii.gz",
         ["ED/7_000.nii.gz", "ED/7_0_m.nii.gz"]),
    ],
)  # fmt: skip
def test_other_layouts_need_a_pattern_and_nothing_else(tmp_path, image, mask, files):
    touch(*(tmp_path / file for file in files))
    manifest = parse_manifest(
        {**{k: v for k, v in OWN.items() if k not in ("table", "columns")},
         "image": image, "mask": mask, "constants": {"ED": 0}}, "own",
    )  # fmt: skip
    cases = find_cases(manifest, tmp_path)
    assert (ids(cases), cases.skipped) == (["7"], [])
    assert cases.records[0].image == tmp_path / files[0]
    assert cases.records[0].mask == tmp_path / files[1]


def test_files_that_are_named_after_their_phase_need_no_frames(tmp_path):
    touch(*(tmp_path / f"7/{name}.nii.gz" for name in ("ED", "ED_m", "ES", "ES_m")))
    left_out = ("table", "columns", "frame_base")
    named = {k: v for k, v in OWN.items() if k not in left_out} | {
        "image": "{case}/{phase}.nii.gz", "mask": "{case}/{phase}_m.nii.gz",
    }  # fmt: skip
    both = parse_manifest(named | {"constants": {"vendor": "A"}}, "own")
    for phase in ("ED", "ES"):
        (record,) = find_cases(both, tmp_path, phase).records
        assert (record.image.name, record.vendor) == (f"{phase}.nii.gz", "A")
    assert both.constants == {"ED": 0, "ES": 1, "vendor": "A"}
    assert not parse_manifest(named | {"constants": {"ED": 0}}, "own").gives("ES")
    for other in ({"image": "{case}_{frame}_{phase}.nii.gz"}, {"image": "{case}.nii.gz"}):
        with pytest.raises(ManifestError, match="frame_base is missing"):
            parse_manifest(named | other, "own")


def test_a_spreadsheet_may_drop_the_zeros_in_front_of_an_id(tmp_path):
    touch(*(tmp_path / d / "007.nii.gz" for d in ("images", "masks")))
    (tmp_path / "cases.csv").write_text("id,ed,es\n7,5,9\n")
    (record,) = find_cases(own(), tmp_path).records
    assert (record.case, record.frame) == ("007", 5)


def test_the_split_may_be_a_column_with_words_of_its_own(tmp_path):
    touch(*(tmp_path / d / f"{c}.nii.gz" for d in ("images", "masks") for c in "abcd"))
    (tmp_path / "cases.csv").write_text("id,ed,es,set\na,0,9,dev\nb,0,9,test\nc,0,9,?\nd,0,9,\n")
    manifest = own(
        folders={".": "column"},
        columns={**OWN["columns"], "split": "set"},
        split_values={"dev": "val"},
    )
    cases = find_cases(manifest, tmp_path)
    assert [(r.case, r.split) for r in cases.records] == [("a", "val"), ("b", "test")]
    assert cases.skipped[0] == ("c", "its split is '?'; expected one of train, val, test, dev")


LISTED = {
    **{k: v for k, v in OWN.items() if k not in ("image", "mask")},
    "columns": {"case": "id", "image": "im", "mask": "ma", "ED": "ed"},
}


def listed(root, *rows):
    touch(root / "x" / "image 1.nii.gz", root / "y" / "mask.nii.gz")
    (root / "cases.csv").write_text("id,im,ma,ed\n" + "".join(f"{row}\n" for row in rows))
    return find_cases(parse_manifest(LISTED, "own"), root)


def test_a_table_may_list_the_files(tmp_path):
    cases = listed(tmp_path, "a,x/image 1.nii.gz,y/mask.nii.gz,3", "b,x,y/mask.nii.gz,3")
    assert [(r.case, r.frame, r.match) for r in cases.records] == [
        ("a", 3, "order"),
        ("b", 3, "affine"),  # a folder is one of DICOM files
    ]
    assert cases.records[0].image == tmp_path / "x" / "image 1.nii.gz"
    assert cases.records[0].mask == tmp_path / "y" / "mask.nii.gz"


@pytest.mark.parametrize("row", faults.LISTED)
def test_a_path_in_a_table_stays_in_the_source_folder(tmp_path, row):
    outcome = faults.LISTED[row]
    (tmp_path / "secret.nii.gz").touch()
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "link").symlink_to(tmp_path)
    cases = listed(tmp_path / "own", row)
    assert ids(cases) == []
    assert cases.skipped[0].reason.startswith(outcome)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"folders": {"a": "train", "b": "test"}}, "expected one, because the table lists the"),
        ({"table": None, "info": "{case}/x.cfg"}, "expected a 'table' that lists the files"),
        (
            {"columns": {"case": "id", "image": "im", "ED": "ed"}},
            "mask is missing; expected a path",
        ),
    ],
)
def test_a_manifest_that_lists_files_in_part_is_refused(change, message):
    data = {k: v for k, v in {**LISTED, **change}.items() if v is not None}
    with pytest.raises(ManifestError) as error:
        parse_manifest(data, "own")
    assert message in str(error.value)


NNUNET = {
    **{k: v for k, v in OWN.items() if k not in ("table", "columns")},
    "folders": {"Tr": "train", "Ts": "test"},
    "image": "images{folder}/{case}_frame{frame:02d}_0000.nii.gz",
    "mask": "labels{folder}/{case}_frame{frame:02d}.nii.gz",
    "constants": {"ED": "first", "ES": "last"},
    "frame_base": 1,
}


def nnunet(root, half, *names):
    for name in names:
        touch(root / f"images{half}" / f"{name}_0000.nii.gz", root / f"labels{half}/{name}.nii.gz")


def test_the_frames_of_an_nnunet_folder_are_those_of_patients(tmp_path):
    manifest = parse_manifest(NNUNET, "own")
    with pytest.raises(DataError, match="looked for imagesTr, imagesTs, found nothing. Pass the"):
        find_cases(manifest, tmp_path)
    nnunet(tmp_path, "Tr", "p1_frame01", "p1_frame12", "p2_frame04", "p2_frame11", "p3_frame01")
    nnunet(tmp_path, "Ts", "p9_frame01", "p9_frame09")
    for phase, frames in {"ED": [0, 3, 0], "ES": [11, 10, 8]}.items():
        cases = find_cases(manifest, tmp_path, phase)
        assert ids(cases) == ["p1", "p2", "p9"]
        assert [record.frame for record in cases.records] == frames
        assert [record.split for record in cases.records] == ["train", "train", "test"]
        end = NNUNET["constants"][phase]
        ((case, reason),) = cases.skipped
        assert case == "p3"
        assert reason.startswith(
            f"{phase} is the {end} of its frames, of which there is only 1; expected"
        )


# Splits and duplicates


def test_the_split_of_acdc_is_frozen():
    hold_out = load_manifest("acdc").hold_out
    patients = [f"patient{n:03d}" for n in range(1, 101)]
    lines = "\n".join(f"{case} {hold_out.split(case)}" for case in patients)
    assert [case[-3:] for case in patients if hold_out.split(case) == "val"] == [
        "003", "012", "020", "025", "026", "035", "048", "050",
        "056", "068", "073", "080", "082", "090", "093",
    ]  # fmt: skip
    assert hashlib.sha256(lines.encode()).hexdigest()[:16] == "b4879e9bb2c81cd7"


def test_no_known_duplicate_of_acdc_is_held_out():
    manifest = load_manifest("acdc")
    known = {case for group in manifest.duplicates for case in group}
    assert "val" not in {manifest.hold_out.split(case) for case in known}


def test_no_patient_changes_split_when_others_come_or_go(tmp_path):
    for n in range(1, 41):
        acdc(tmp_path, f"patient{n:03d}")
    manifest = load_manifest("acdc")
    before = {r.case: r.split for r in find_cases(manifest, tmp_path).records}
    assert set(before.values()) == {"train", "val"}
    (tmp_path / "training" / "patient012").rename(tmp_path / "training" / "patient999")
    after = {r.case: r.split for r in find_cases(manifest, tmp_path).records}
    assert all(after[case] == split for case, split in before.items() if case in after)


def test_a_hold_out_meets_its_shares_on_average():
    counts = Counter(HoldOut("s", val=0.2, test=0.1).split(str(n)) for n in range(10000))
    # four standard deviations of a binomial count: 4 sqrt(10000 * .2 * .8) = 160
    assert abs(counts["val"] - 2000) < 160
    assert abs(counts["test"] - 1000) < 160
    assert set(HoldOut("s").split(str(n)) for n in range(100)) == {"train"}


def test_the_held_out_case_of_a_duplicate_stays(tmp_path):
    for case in ("patient055", "patient074", "patient076", "patient001"):
        acdc(tmp_path, case)
    acdc(tmp_path, "patient118", "testing")
    manifest = load_manifest("acdc")
    cases = drop_duplicates(find_cases(manifest, tmp_path).records, manifest)
    assert ids(cases) == ["patient001", "patient074", "patient118"]
    assert cases.skipped == [
        ("patient055", "same scan as patient118 (test), kept there"),
        ("patient076", "same scan as patient074 (train), kept there"),
    ]


def test_a_duplicate_without_its_twin_stays(tmp_path):
    acdc(tmp_path, "patient055")
    manifest = load_manifest("acdc")
    assert drop_duplicates(find_cases(manifest, tmp_path).records, manifest).skipped == []


def test_the_room_imports_nothing_heavy():
    code = (
        "import sys, cardiac_attrivae.data.manifest as m; m.load_manifest('acdc');"
        "print({'torch', 'monai', 'pandas', 'nibabel', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# The real thing


@pytest.mark.realdata
def test_the_training_half_of_acdc_is_found_whole(real_data):
    manifest = load_manifest("acdc")
    cases = find_cases(manifest, real_data / "acdc")
    training = [r for r in cases.records if r.split != "test"]
    assert len(training) == 100
    assert cases.skipped == []
    counts = Counter((r.split, r.pathology) for r in training)
    assert counts == {
        (split, group): number
        for group in ("NOR", "MINF", "DCM", "HCM", "RV")
        for split, number in (("train", 17), ("val", 3))
    }
    assert {r.case: r.frame for r in training if r.frame} == {"patient090": 3}
    es = {r.case: r.frame for r in find_cases(manifest, real_data / "acdc", "ES").records}
    assert es["patient090"] == 10
    assert "patient076" in dict(drop_duplicates(training, manifest).skipped)


@pytest.mark.realdata
def test_the_real_table_of_mnms_is_read(real_data):
    records = {r.case: r for r in find_cases(load_manifest("mnms"), real_data / "mnms").records}
    assert (records["G1K1V3"].domain, records["H1N8S6"].domain) == ("Philips", "Siemens")
    assert {r.split for r in records.values()} >= {"test"}
    assert records["G1K1V3"].frame == 0
    assert set(HEART) <= set(records["G1K1V3"].label_numbers.values())


def test_shipped_manifests_are_plain_yaml_of_short_lines():
    for file in shipped_manifests().values():
        text = file.read_text(encoding="utf-8")
        assert isinstance(yaml.safe_load(text), dict)
        assert max(map(len, text.splitlines())) <= 110
