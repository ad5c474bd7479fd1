"""Preprocessing: a store that is complete or absent, cases that fail are counted, truth is kept."""

import csv
import gzip
import json
import shutil
from contextlib import ExitStack
from pathlib import Path

import faults
import nibabel
import numpy as np
import pandas as pd
import pytest
from faults import SHAPE, heart, picture, save

from cardiac_attrivae.attributes import ATTRIBUTES
from cardiac_attrivae.data import preprocess as module
from cardiac_attrivae.data import store_writer
from cardiac_attrivae.data.cases import find_cases
from cardiac_attrivae.data.manifest import load_manifest, parse_manifest
from cardiac_attrivae.data.phantom import write_phantoms
from cardiac_attrivae.data.preprocess import preprocess
from cardiac_attrivae.data.recipe import Recipe
from cardiac_attrivae.data.store import FILES, SliceDataset, content_hash
from cardiac_attrivae.runtime.folders import locked
from cardiac_attrivae.schema import DataError

OWN = parse_manifest(faults.OWN | {"folders": {"a": "train", "b": "test"}}, "own")


@pytest.fixture
def own(tmp_path):
    """Three good cases of a data set of one's own."""
    for n, name in enumerate(("p1", "p2", "p3")):
        save(tmp_path / "own/a" / name / "image.nii.gz", picture(n))
        save(tmp_path / "own/a" / name / "mask.nii.gz", heart())
    return tmp_path / "own"


def table(store, name="cases.csv"):
    return pd.read_csv(store / name, keep_default_na=False, dtype={"case": str})


def skipped(store):
    return dict(table(store, "skipped.csv").itertuples(index=False))


# Truth through the whole chain --------------------------------------------------------------------


@pytest.mark.parametrize("dataset", ["acdc", "mnms"])
def test_the_columns_of_a_store_are_the_truth_of_the_phantoms(dataset, tmp_path):
    truths = write_phantoms(dataset, tmp_path / "tree", cases=4, cine=False, seed=3)
    preprocess(load_manifest(dataset), tmp_path / "tree", tmp_path / "s", Recipe(slice="all"))
    rows = table(tmp_path / "s")
    assert set(rows["case"]) == {truth.case for truth in truths if truth.labelled}
    for truth in truths:
        if not truth.labelled:
            continue
        own = rows[rows["case"] == truth.case]
        assert list(own["slice_index"]) == sorted(own["slice_index"])
        areas = np.array(truth.areas_cm2)
        # A pixel that a boundary cuts is in or out by its centre: the errors of its about
        # perimeter / pixel cut pixels are independent, so the sum grows with their root.
        pixel_cm2 = own[["spacing_x_mm", "spacing_y_mm"]].prod(axis=1).to_numpy() / 100
        for k, name in enumerate(("LVEDA", "MEDA", "RVEDA")):
            error = np.abs(own[name].to_numpy() - areas[own["slice_index"], k])
            assert (error < 25 * pixel_cm2).all()
        # Volumes add slices, each thick: the sum over slice centres misses less than a slice of
        # the apex, some per cent.
        volumes = areas.sum(axis=0) * own["spacing_z_mm"].iloc[0] / 10
        for k, name in enumerate(("LVEDV", "MEDV", "RVEDV")):
            assert own[name].nunique() == 1
            assert own[name].iloc[0] == pytest.approx(volumes[k], rel=0.02)
            assert own[name].iloc[0] == pytest.approx(getattr(truth, name), rel=0.06)


def test_the_facts_of_a_case_are_those_of_its_record(mnms_store_all, mnms_tree):
    records = {r.case: r for r in find_cases(load_manifest("mnms"), mnms_tree).records}
    with open(next(mnms_tree.glob("*.csv")), newline="") as file:
        said = {row["External code"]: row for row in csv.DictReader(file)}
    rows = pd.read_csv(mnms_store_all / "cases.csv", dtype=str, keep_default_na=False)
    assert len(rows)
    for row in rows.itertuples():
        record, told = records[row.case], said[row.case]
        assert (row.split, row.domain, row.pathology) == (
            record.split, record.domain, told["Pathology"],
        )  # fmt: skip
        assert (row.centre, row.frame) == (told["Centre"], told["ED"])
        assert row.vendor == told["VendorName"]


# What a store is ----------------------------------------------------------------------------------


def test_a_store_holds_its_files_and_no_more(acdc_store):
    names = {path.name for path in acdc_store.iterdir()}
    assert names == {*FILES, "skipped.csv", "dataset.json", "contact_sheet.png"}
    info = json.loads((acdc_store / "dataset.json").read_text())
    assert info["content_hash"] == content_hash(acdc_store)
    assert info["recipe"] == {
        "slice": "basal",
        "spacing": 1.3,
        "size": 128,
        "least_pixels": 10,
        "percentiles": [1.0, 99.0],
        "phases": ["ED"],
        "stack": 1,
    }
    assert info["cases"] == info["slices"] == 9
    assert info["attributes"] == {n: a.unit for n, a in ATTRIBUTES.items() if a.in_every_store}
    assert sum(info["splits"].values()) == 9
    assert "Bernard" in info["citation"]
    assert not list(acdc_store.parent.glob(".*"))


def test_rows_are_sorted_and_images_fit_their_masks(acdc_store_all):
    rows = table(acdc_store_all)
    assert rows.equals(rows.sort_values(["case", "slice_index"], ignore_index=True))
    assert (rows.groupby("case")["split"].nunique() == 1).all()
    assert (rows.groupby("case")["slice_index"].nunique() == rows.groupby("case").size()).all()
    images, labels = (np.load(acdc_store_all / f"{name}.npy") for name in ("images", "labels"))
    assert images.shape == labels.shape == (len(rows), 1, 128, 128)
    assert (images.dtype, labels.dtype) == (np.float32, np.uint8)
    assert (images[labels == 0] == 0).all()
    assert images.min() >= 0
    assert (images.max(axis=(1, 2, 3)) == 1).all()
    assert set(np.unique(labels)) == {0, 1, 2, 3}


@pytest.mark.parametrize("slice", ["mid", "max-area"])
def test_one_slice_per_case_is_one_of_all(acdc_tree, acdc_store_all, tmp_path, slice):
    preprocess(load_manifest("acdc"), acdc_tree, tmp_path / "s", Recipe(slice=slice))
    rows, every = table(tmp_path / "s"), table(acdc_store_all)
    assert len(rows) == rows["case"].nunique() == 9
    assert len(rows.merge(every, on=["case", "slice_index"])) == 9
    if slice == "max-area":
        area = every[["LVEDA", "MEDA", "RVEDA"]].sum(axis=1)
        largest = every.loc[area.groupby(every["case"]).idxmax(), "slice_index"]
        assert list(rows["slice_index"]) == list(largest)


def test_the_spacing_and_size_asked_for_are_those_of_the_crop(own, tmp_path):
    preprocess(OWN, own, tmp_path / "s", Recipe(spacing=2.0, size=48))
    assert np.load(tmp_path / "s/images.npy").shape == (3, 1, 48, 48)
    dataset = SliceDataset.open(tmp_path / "s")
    assert dataset.scale.pixel == pytest.approx(0.04)
    areas = (dataset.labels == 1).sum(dim=(1, 2, 3)).numpy() * dataset.scale.pixel
    assert areas == pytest.approx(dataset.attributes(["LVEDA"])[:, 0], rel=0.05)


@pytest.mark.slow
def test_two_workers_write_what_one_writes(acdc_tree, acdc_store, tmp_path):
    preprocess(load_manifest("acdc"), acdc_tree, tmp_path / "s", workers=2)
    for name in FILES:
        assert (tmp_path / "s" / name).read_bytes() == (acdc_store / name).read_bytes()
    assert content_hash(tmp_path / "s") == content_hash(acdc_store)


def test_progress_sees_every_case_and_the_summary_tells_what_became_of_them(own, tmp_path):
    (own / "a/p2/mask.nii.gz").unlink()
    (own / "b").mkdir()
    shutil.copytree(own / "a/p1", own / "b/q1")
    seen = []

    def progress(items, number):
        for item in items:
            seen.append(number)
            yield item

    summary = preprocess(OWN, own, tmp_path / "s", progress=progress)
    assert seen == [3, 3, 3]
    assert (summary.cases, summary.slices, len(summary.skipped)) == (3, 3, 1)
    assert summary.splits == {"train": 2, "val": 0, "test": 1}
    assert summary.output == tmp_path / "s"


def test_one_of_each_pair_of_duplicates_is_left_out_on_request(own, tmp_path):
    (own / "b").mkdir()
    shutil.copytree(own / "a/p1", own / "b/q1")
    manifest = parse_manifest(
        {
            **{k: getattr(OWN, k) for k in ("name", "title", "licence", "citation", "image")},
            "mask": OWN.mask,
            "folders": dict(OWN.folders),
            "labels": {"LV": 1, "MYO": 2, "RV": 3},
            "constants": {"ED": 0},
            "frame_base": 0,
            "duplicates": [["p1", "q1"]],
        },
        "own",
    )
    told = preprocess(manifest, own, tmp_path / "with").observations
    assert list(table(tmp_path / "with")["case"]) == ["p1", "p2", "p3", "q1"]
    assert any("1 of 4 cases: the same scan is in another split" in line for line in told)
    keyed = preprocess(manifest, own, tmp_path / "keyed", key=bytes(32)).observations
    assert any("the same scan is in another split" in line for line in keyed)
    told = preprocess(manifest, own, tmp_path / "without", without_duplicates=True).observations
    assert not any("another split" in line for line in told)
    assert list(table(tmp_path / "without")["case"]) == ["p2", "p3", "q1"]
    assert skipped(tmp_path / "without") == {"p1": "same scan as q1 (test), kept there"}


# Complete or absent -------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["after two cases", "in the assembly"])
def test_an_interrupted_run_leaves_no_store_and_the_next_goes_on(own, tmp_path, monkeypatch, when):
    whole, output, done = tmp_path / "whole", tmp_path / "s", []
    preprocess(OWN, own, whole)
    process = module.process_case

    def watched(record, transform):
        if when == "after two cases" and len(done) == 2:
            raise KeyboardInterrupt
        done.append(record.case)
        return process(record, transform)

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "process_case", watched)
        if when == "in the assembly":
            patch.setattr(store_writer, "contact_sheet", killed)
        with pytest.raises(KeyboardInterrupt):
            preprocess(OWN, own, output)
    assert not output.exists()
    assert len(list((tmp_path / ".s.partial").glob("*/case-*"))) == len(done) > 0
    with pytest.raises(DataError, match="no slice store"):
        SliceDataset.open(output)

    before, again = set(done), []
    monkeypatch.setattr(module, "process_case", lambda r, t: again.append(r.case) or process(r, t))
    preprocess(OWN, own, output)
    assert set(again) == {"p1", "p2", "p3"} - before
    assert content_hash(output) == content_hash(whole)
    assert not (tmp_path / ".s.partial").exists()
    assert {p.name for p in output.iterdir()} == {p.name for p in whole.iterdir()}


def test_finished_cases_that_a_power_cut_damaged_are_repeated(own, tmp_path, monkeypatch):
    preprocess(OWN, own, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(store_writer, "contact_sheet", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            preprocess(OWN, own, tmp_path / "s")
    cut, empty, zeros = sorted((tmp_path / ".s.partial").glob("*/case-*"))
    cut.write_bytes(cut.read_bytes()[:-4096])
    empty.write_bytes(b"")
    zeros.write_bytes(bytes(zeros.stat().st_size))
    assert preprocess(OWN, own, tmp_path / "s").kept == 0
    assert content_hash(tmp_path / "s") == content_hash(tmp_path / "whole")


def test_too_little_space_for_a_store_is_an_error_before_a_case_is_read(own, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    monkeypatch.setattr(module, "process_case", lambda *_: 1 / 0)
    with pytest.raises(DataError, match="needs .* MiB and has 0 MiB free"):
        preprocess(OWN, own, tmp_path / "s")
    assert {path.name for path in tmp_path.iterdir()} == {own.name}


def test_what_another_recipe_left_behind_is_not_taken_over(own, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(store_writer, "contact_sheet", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            preprocess(OWN, own, tmp_path / "s", Recipe(slice="mid"))
    preprocess(OWN, own, tmp_path / "s")
    preprocess(OWN, own, tmp_path / "whole")
    assert content_hash(tmp_path / "s") == content_hash(tmp_path / "whole")


def test_an_output_that_exists_is_kept_unless_overwrite_is_asked_for(own, tmp_path):
    output = tmp_path / "s"
    output.mkdir()
    (output / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(DataError, match="was not written by cardiac-attrivae preprocess: it"):
            preprocess(OWN, own, output, overwrite=overwrite)
    assert (output / "thesis.txt").read_text() == "years of work"
    shutil.rmtree(output)
    preprocess(OWN, own, output, Recipe(slice="mid"))
    with pytest.raises(DataError, match="exists already; choose another folder or add --overwrite"):
        preprocess(OWN, own, output)
    preprocess(OWN, own, output, overwrite=True)
    assert SliceDataset.open(output).info["recipe"]["slice"] == "basal"


# Faults -------------------------------------------------------------------------------------------


def edit(file, change):
    image = nibabel.load(file)
    save(file, change(np.asarray(image.dataobj).copy()))


def put(voxels, value, where=(0, 0, 0)):
    voxels[where] = value
    return voxels


def header_edit(file, at, value):
    data = bytearray(gzip.decompress(file.read_bytes()))
    data[at : at + len(value)] = value
    file.write_bytes(gzip.compress(bytes(data)))


def flip_bytes(file, at):
    data = bytearray(file.read_bytes())
    data[at] ^= 0xFF
    file.write_bytes(bytes(data))


FAULTS = {
    "no mask": (lambda i, m: m.unlink(), "no mask: mask.nii.gz is missing"),
    "no image": (lambda i, m: i.unlink(), "image.nii.gz is missing"),
    "empty mask": (lambda i, m: edit(m, lambda v: 0 * v), "mask.nii.gz is empty at ED"),
    "no RV": (lambda i, m: edit(m, lambda v: np.where(v == 3, 0, v)), "no slice shows more than"),
    "one slice each": (
        lambda i, m: edit(m, lambda v: np.where((v == 3) == (np.arange(6) % 2 == 0), v, 0)),
        "no slice shows more than 10 pixels each of LV, MYO and RV",
    ),
    "unknown label": (
        lambda i, m: edit(m, lambda v: put(v, 7)),
        "mask.nii.gz holds label 7; expected 0 BACKGROUND, 1 LV, 2 MYO, 3 RV",
    ),
    "a label and a bit": (
        lambda i, m: edit(m, lambda v: put(v.astype(np.float32), 2.99)),
        "mask.nii.gz holds label 2.99",
    ),
    "shapes differ": (lambda i, m: edit(m, lambda v: v[:-1]), "image has shape (72, 64, 6) and"),
    "NaN": (
        lambda i, m: edit(i, lambda v: put(v.astype(np.float32), np.nan)),
        "image.nii.gz holds NaN or infinite values",
    ),
    "infinite": (
        lambda i, m: edit(i, lambda v: put(v.astype(np.float64), np.inf)),
        "image.nii.gz holds NaN or infinite values",
    ),
    "truncated": (
        lambda i, m: i.write_bytes(i.read_bytes()[: i.stat().st_size // 2]),
        "image.nii.gz cannot be read",
    ),
    "wrong CRC": (lambda i, m: flip_bytes(m, -8), "mask.nii.gz cannot be read: "),
    "damaged voxels": (
        lambda i, m: flip_bytes(i, i.stat().st_size // 2),
        "image.nii.gz cannot be read",
    ),
    "empty file": (lambda i, m: i.write_bytes(b""), "image.nii.gz cannot be read"),
    "zero pixel size": (
        lambda i, m: header_edit(i, 80, np.float32(0).tobytes()),  # pixdim[1]
        "image.nii.gz states a spacing of 0 x 1.5 x 10 mm; expected positive",
    ),
    "zero spacing": (
        lambda i, m: header_edit(i, 88, np.float32(0).tobytes()),  # pixdim[3]
        "image.nii.gz states a spacing of 1.5 x 1.5 x 0 mm; expected positive",
    ),
    "no contrast": (
        lambda i, m: edit(i, lambda v: 0 * v + 5),
        "the image is 5 throughout the mask; expected contrast",
    ),
    "RV around the LV": (
        lambda i, m: edit(m, lambda v: concentric()),
        "LV and RV have the same barycentre",
    ),
    "2-D": (lambda i, m: save(i, picture(0)[..., 0]), "image.nii.gz has shape (72, 64); expected"),
}


def concentric():
    i, j = np.indices(SHAPE[:2])
    r = np.hypot(i - 30, j - 30)
    ring = np.select([r < 8, r < 12, r < 16], [1, 2, 3], 0).astype(np.uint8)
    return np.repeat(ring[..., None], SHAPE[2], axis=2)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_skipped_case_with_its_reason_and_stops_no_other(own, tmp_path, fault):
    damage, reason = FAULTS[fault]
    damage(own / "a/p2/image.nii.gz", own / "a/p2/mask.nii.gz")
    summary = preprocess(OWN, own, tmp_path / "s")
    assert [case for case, _ in summary.skipped] == ["p2"]
    told = skipped(tmp_path / "s")
    assert list(told) == ["p2"]
    assert told["p2"].startswith(reason)
    assert "0x" not in told["p2"]
    assert "\n" not in told["p2"]
    assert list(table(tmp_path / "s")["case"]) == ["p1", "p3"]
    info = json.loads((tmp_path / "s/dataset.json").read_text())
    assert (info["cases"], info["skipped"]) == (2, 1)


def test_what_nobody_foresaw_is_a_skipped_case_too(own, tmp_path, monkeypatch):
    process = module.process_case

    def surprised(record, transform):
        if record.case == "p1":
            raise ZeroDivisionError("division by zero")
        return process(record, transform)

    monkeypatch.setattr(module, "process_case", surprised)
    preprocess(OWN, own, tmp_path / "s")
    assert skipped(tmp_path / "s") == {"p1": "ZeroDivisionError: division by zero"}


def test_if_every_case_fails_there_is_an_error_with_reasons_and_no_store(own, tmp_path):
    for mask in own.glob("a/*/mask.nii.gz"):
        mask.unlink()
    with pytest.raises(DataError, match=r"none of 3 cases in .* is usable: 3 x no mask: mask.nii"):
        preprocess(OWN, own, tmp_path / "s")
    assert not (tmp_path / "s").exists()
    assert not (tmp_path / ".s.partial").exists()


@pytest.mark.parametrize("folders", [(), ("a",)])
def test_an_empty_folder_is_an_error(tmp_path, folders):
    source = tmp_path / "own"
    source.mkdir()
    for folder in folders:
        (source / folder).mkdir()
    with pytest.raises(DataError, match="no .*'own'"):
        preprocess(OWN, source, tmp_path / "s")
    assert [path.name for path in tmp_path.iterdir()] == ["own"]


# Real data ----------------------------------------------------------------------------------------

PUBLISHED = Path(__file__).parents[1] / "reference" / "acdc_published_attributes_training.csv"
# Means over all 150 ACDC patients at ED with their standard deviations: LV, MYO, RV in mL, then
# the area of the basal slice in cm2.
GROUPS = {
    "NOR": ((130, 28), (95, 24), (149, 37), (21, 4), (15, 3), (35, 6)),
    "MINF": ((181, 45), (127, 30), (125, 40), (26, 6), (19, 3), (30, 8)),
    "DCM": ((283, 52), (158, 29), (182, 63), (36, 6), (19, 3), (38, 10)),
    "HCM": ((132, 34), (167, 57), (123, 33), (18, 5), (24, 6), (32, 6)),
    "RV": ((117, 38), (78, 23), (217, 63), (19, 6), (13, 3), (41, 12)),
}


@pytest.fixture(scope="module")
def real_acdc(real_data, tmp_path_factory):
    output = tmp_path_factory.mktemp("real") / "acdc"
    preprocess(load_manifest("acdc"), real_data / "acdc", output)
    return output


@pytest.mark.realdata
def test_every_training_patient_of_acdc_is_kept(real_acdc):
    info = json.loads((real_acdc / "dataset.json").read_text())
    assert (info["cases"], info["skipped"]) == (100, 0)
    assert info["splits"] == {"train": 85, "val": 15, "test": 0}
    rows = table(real_acdc)
    assert dict(zip(rows["case"], rows["frame"], strict=True)) == {
        f"patient{n:03d}": 3 if n == 90 else 0 for n in range(1, 101)
    }
    assert (rows["slice_index"] <= 5).all()  # the base comes first in every stack


@pytest.mark.realdata
def test_areas_of_acdc_are_the_published_ones_with_lv_and_rv_exchanged(real_acdc):
    published = pd.read_csv(PUBLISHED, index_col="pid")
    rows = table(real_acdc).set_index("case").loc[published.index]
    # The table gives 10^3 mm2 under the names of volumes, and takes the RV for the LV.
    for name, column in (("LVEDA", "RVEDV"), ("MEDA", "MYOEDV"), ("RVEDA", "LVEDV")):
        ratio = rows[name] / (10 * published[f"published_{column}"])
        assert ((ratio - 1).abs() < 0.01).sum() == 100, ratio[(ratio - 1).abs() >= 0.01]


@pytest.mark.realdata
@pytest.mark.parametrize("group", GROUPS)
def test_groups_of_acdc_have_the_known_means(real_acdc, group):
    rows = table(real_acdc)
    rows = rows[rows["pathology"] == group]
    assert len(rows) == 20
    names = ("LVEDV", "MEDV", "RVEDV", "LVEDA", "MEDA", "RVEDA")
    for name, (mean, sd) in zip(names, GROUPS[group], strict=True):
        # The mean of 20 of the 30 patients of a group has a standard error of
        # sd sqrt(1/20 - 1/30) = .13 sd; three of them, and half a unit of rounding.
        assert abs(rows[name].mean() - mean) < 3 * 0.13 * sd + 0.5, name


@pytest.mark.realdata
def test_the_anatomy_of_acdc_is_upright_and_centred(real_acdc):
    dataset = SliceDataset.open(real_acdc)
    for label in dataset.labels[:, 0].numpy():
        left = np.argwhere((label == 1) | (label == 2)).mean(axis=0)
        right = np.argwhere(label == 3).mean(axis=0)
        assert np.abs(left - 63.5).max() < 0.5
        if not label[:, 0].any():  # 166 mm are too few for the RV of every fourth patient
            assert abs(right[0] - 63.5) < 0.5
        assert right[1] < 63.5


@pytest.mark.realdata
def test_mnms_patients_are_kept_with_what_the_table_says(real_data, tmp_path):
    summary = preprocess(
        load_manifest("mnms"), real_data / "mnms", tmp_path / "s", Recipe(slice="all")
    )
    assert (summary.cases, summary.skipped) == (2, [])
    with open(next((real_data / "mnms").glob("*.csv")), newline="", encoding="utf-8-sig") as file:
        said = {row["External code"]: row for row in csv.DictReader(file)}
    rows = pd.read_csv(tmp_path / "s/cases.csv", dtype=str, keep_default_na=False)
    assert set(rows["case"]) == {"G1K1V3", "H1N8S6"}
    for row in rows.itertuples():
        told = said[row.case]
        assert (row.vendor, row.centre) == (told["VendorName"], told["Centre"])
        assert (row.pathology, row.frame) == (told["Pathology"], told["ED"])
        assert row.domain == row.vendor


# Whose folder it is -------------------------------------------------------------------------------


def _tree(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.mark.parametrize("content", ["{}", '{"name": "Dataset001", "channel_names": {}}', "[", ""])
def test_a_raw_folder_with_a_dataset_json_of_its_own_is_not_replaced(acdc_tree, tmp_path, content):
    """As that of nnU-Net has."""
    raw = tmp_path / "Dataset001"
    (raw / "imagesTr").mkdir(parents=True)
    (raw / "dataset.json").write_text(content)
    (raw / "imagesTr" / "case_0000.nii.gz").write_bytes(b"years of work")
    before = _tree(raw)
    with pytest.raises(DataError, match="Dataset001 is no store, so it is not replaced"):
        preprocess(load_manifest("acdc"), acdc_tree, raw, overwrite=True)
    assert _tree(raw) == before


@pytest.mark.parametrize("output", ["", "store", "patient001/store", ".."])
def test_output_and_source_are_never_in_one_another(acdc_tree, output):
    before = _tree(acdc_tree)
    for overwrite in (False, True):
        with pytest.raises(DataError, match="lie in one another; results never go where the raw"):
            preprocess(load_manifest("acdc"), acdc_tree, acdc_tree / output, overwrite=overwrite)
    assert _tree(acdc_tree) == before


@pytest.mark.parametrize("name", ["run/model.safetensors", "notes.txt", "segmenters/thesis.tex"])
def test_a_store_with_something_foreign_inside_is_not_replaced(
    acdc_tree, acdc_store, tmp_path, name
):
    store = shutil.copytree(acdc_store, tmp_path / "s")
    (store / name).parent.mkdir(exist_ok=True)
    (store / name).write_text("mine")
    with pytest.raises(DataError, match=f"holds what is not of a store: {name}; move it away"):
        preprocess(load_manifest("acdc"), acdc_tree, store, overwrite=True)
    assert (store / name).read_text() == "mine"


def test_what_somebody_puts_into_a_store_while_it_is_rewritten_stays(
    acdc_tree, acdc_store, tmp_path
):
    store = shutil.copytree(acdc_store, tmp_path / "s")
    before = _tree(store)

    def begun_inside(jobs, total):
        yield from jobs
        stack.enter_context(locked(store / "run"))  # as `train --output s/run` does

    with ExitStack() as stack, pytest.raises(DataError, match="another process works in .*s/run"):
        preprocess("acdc", acdc_tree, store, overwrite=True, progress=begun_inside)
    assert _tree(store) == before
    summary = preprocess("acdc", acdc_tree, store, overwrite=True)
    assert summary.kept == summary.cases


def test_what_is_foreign_beside_the_output_stays(acdc_tree, tmp_path):
    (tmp_path / ".s.partial").mkdir()
    (tmp_path / ".s.partial" / "thesis.tex").write_text("mine")
    with pytest.raises(DataError, match="not of an interrupted preprocess: thesis.tex"):
        preprocess(load_manifest("acdc"), acdc_tree, tmp_path / "s")
    assert (tmp_path / ".s.partial" / "thesis.tex").read_text() == "mine"


def test_the_current_folder_is_no_output(acdc_tree, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="is the current folder .*name a new folder"):
        preprocess(load_manifest("acdc"), acdc_tree, ".")
    assert not list(tmp_path.iterdir())


# An earlier call, and the field of the crop -------------------------------------------------------


def interrupted_after(count):
    def progress(items, _):
        for done, item in enumerate(items):
            if done == count:
                raise KeyboardInterrupt
            yield item

    return progress


def test_a_mask_corrected_after_an_interruption_is_read_again(own, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        preprocess(OWN, own, tmp_path / "s", progress=interrupted_after(2))
    file = own / "a/p1/mask.nii.gz"
    edit(file, lambda v: np.where((v == 1) & (np.indices(v.shape)[2] < 3), 2, v))
    summary = preprocess(OWN, own, tmp_path / "s")
    volume = (np.asarray(nibabel.load(file).dataobj) == 1).sum() * 1.5 * 1.5 * 10 / 1000
    assert table(tmp_path / "s").set_index("case").loc["p1", "LVEDV"] == pytest.approx(volume)
    assert 1 <= summary.kept < 3
    assert summary.observations[0].startswith(f"{summary.kept} cases taken from an earlier call")
    preprocess(OWN, own, tmp_path / "whole")
    assert content_hash(tmp_path / "s") == content_hash(tmp_path / "whole")


def test_a_heart_that_leaves_the_crop_is_reported_and_a_larger_field_keeps_it(own, tmp_path):
    summary = preprocess(OWN, own, tmp_path / "small", Recipe(size=32))
    info = json.loads((tmp_path / "small/dataset.json").read_text())
    assert summary.crop == info["crop"]
    assert (summary.crop["cases_cut"], summary.crop["slices_cut"]) == (3, 3)
    assert 0 < summary.crop["largest_share_cut"] < 1
    needed = summary.crop["needed_mm"]
    (line,) = summary.observations
    assert line.startswith("In 3 of 3 slices up to ")
    assert f"--field {needed} would hold all of it" in line
    larger = preprocess(OWN, own, tmp_path / "large", Recipe(size=32, spacing=needed / 32))
    assert (larger.crop["slices_cut"], larger.observations) == (0, [])
    store = SliceDataset.open(tmp_path / "large")
    areas = (store.labels == 3).sum(dim=(1, 2, 3)).numpy() * store.scale.pixel
    assert areas == pytest.approx(store.attributes(["RVEDA"])[:, 0], rel=0.1)


def test_a_small_share_outside_the_crop_is_not_called_none(tmp_path):
    crop = {"slices_cut": 2, "largest_share_cut": 0.0041, "needed_mm": 175}
    (line,) = module.Summary(tmp_path, 1, 9, [], {}, 0, {}, crop, {}).observations
    assert line.startswith("In 2 of 9 slices up to 0.41% of the heart is outside the crop.")
