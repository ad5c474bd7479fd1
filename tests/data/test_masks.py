"""Masks that lie elsewhere give the same store, which says whose they are and nothing else."""

import json
import shutil
from dataclasses import replace

import pandas as pd
import pytest
from click.testing import CliRunner
from conftest import masks_apart, trained

from cardiac_attrivae.cli.main import main
from cardiac_attrivae.data.cases import find_cases
from cardiac_attrivae.data.manifest import load_manifest
from cardiac_attrivae.data.masks import (
    Masks,
    label_numbers,
    predicted_masks,
    read_labels,
    scan_name,
)
from cardiac_attrivae.data.preprocess import preprocess
from cardiac_attrivae.data.store import SliceDataset
from cardiac_attrivae.evaluation.cross_domain import cross_domain_eval
from cardiac_attrivae.report.page import write_report
from cardiac_attrivae.schema import DataError

ACDC, MNMS = load_manifest("acdc"), load_manifest("mnms")


@pytest.mark.parametrize("dataset", ["acdc", "mnms"])
def test_masks_from_elsewhere_give_the_same_store(dataset, request, tmp_path):
    tree, manifest = request.getfixturevalue(f"{dataset}_tree"), load_manifest(dataset)
    preprocess(manifest, tree, tmp_path / "manual")
    source = masks_apart(tree, manifest, tmp_path)
    (tmp_path / "masks" / "segmentation.json").write_text(json.dumps({"segmenter": "net-1"}))
    summary = preprocess(manifest, source, tmp_path / "found", masks=tmp_path / "masks")
    manual, found = (SliceDataset.open(tmp_path / name) for name in ("manual", "found"))
    assert (found.images == manual.images).all()
    assert (found.labels == manual.labels).all()
    assert (found.measured(["LVEDV"]) == manual.measured(["LVEDV"])).all()
    pd.testing.assert_frame_equal(
        found.cases.drop(columns="mask_source"), manual.cases.drop(columns="mask_source")
    )
    cases = manual.cases["case"].nunique()
    assert manual.mask_sources == {"manual": cases}
    assert found.mask_sources == found.info["mask_sources"] == {"net-1": cases}
    assert predicted_masks(summary.mask_sources) in summary.observations[0].lower()


def test_raw_label_numbers_and_a_name_are_given_on_the_command_line(acdc_tree, tmp_path):
    (tmp_path / "masks").mkdir()
    for record in find_cases(ACDC, acdc_tree).records:
        shutil.copy(record.mask, tmp_path / "masks" / f"{record.case}.nii.gz")
    words = ["preprocess", "--dataset", "acdc", "--source", acdc_tree, "--output", tmp_path / "s"]
    words += ["--masks", tmp_path / "masks", "--mask-labels", "LV=3,MYO=2,RV=1"]
    done = CliRunner().invoke(main, [str(word) for word in (*words, "--mask-source", "nnunet-v2")])
    assert done.exit_code == 0, done.output
    assert "the masks of all 9 were predicted (9 by nnunet-v2)" in done.output.lower()
    preprocess(ACDC, acdc_tree, tmp_path / "manual")
    one, other = (SliceDataset.open(tmp_path / name) for name in ("s", "manual"))
    assert (one.labels == other.labels).all()


@pytest.mark.usefixtures("hasty_segmenters", "no_pictures")
def test_a_mixed_store_is_asked_for_and_told_of_in_every_place(acdc_tree, tmp_path):
    cases = [record.case for record in find_cases(ACDC, acdc_tree).records]
    tree = masks_apart(acdc_tree, ACDC, tmp_path, cases[1::2])
    masks = tmp_path / "masks"
    alone = preprocess(ACDC, tree, tmp_path / "alone", masks=masks)
    assert alone.cases == len(cases) // 2
    assert {reason.partition(":")[0] for _, reason in alone.skipped} == {"no mask"}
    summary = preprocess(ACDC, tree, tmp_path / "mixed", masks=Masks(masks, only_missing=True))
    assert summary.mask_sources == {"manual": 5, "predicted": 4}
    assert "every score mixes the two" in summary.observations[0]
    run = trained(tmp_path / "mixed", tmp_path / "run")
    options = {"split": "train", "device": "cpu", "rounds": 5}
    cross_domain_eval([run], [tmp_path / "mixed"], tmp_path / "evaluation", **options)
    about = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
    sources = about["datasets"]["acdc"]["mask_sources"]
    assert set(sources) == {"manual", "predicted"}
    told = "every score mixes the two"
    assert any(told in note for note in about["notes"])
    assert told in (tmp_path / "evaluation" / "table.md").read_text()
    page = write_report([tmp_path / "evaluation"], tmp_path / "report").read_text()
    assert f"{sources['predicted']} predicted by predicted" not in page
    assert f"{sources['manual']} manual, {sources['predicted']} predicted" in page
    assert "mixes them with masks drawn by hand" in page


def test_a_store_of_an_earlier_version_has_manual_masks(acdc_store):
    from cardiac_attrivae.data.store_files import _cases

    table = pd.read_csv(acdc_store / "cases.csv")
    old = acdc_store.parent / "old.csv"
    table.drop(columns="mask_source").to_csv(old, index=False)
    assert set(_cases(old)["mask_source"]) == {"manual"}


def test_a_pseudonymised_store_tells_nothing_of_the_folder_of_masks(acdc_tree, tmp_path):
    tree = masks_apart(acdc_tree, ACDC, tmp_path)
    masks = (tmp_path / "masks").rename(tmp_path / "Erika Mustermann")
    (masks / "segmentation.json").write_text(json.dumps({"segmenter": "Mustermann"}))
    summary = preprocess(ACDC, tree, tmp_path / "store", key=bytes(range(32)), masks=masks)
    assert summary.mask_sources == {"predicted": 9}
    for file in filter(lambda path: path.is_file(), (tmp_path / "store").rglob("*")):
        assert b"Mustermann" not in file.read_bytes(), file
    masks = Masks(masks, "Mustermann")  # whoever types it wants it
    assert masks.named(private=True).source == "Mustermann"


def test_other_numbers_than_segment_noted_are_refused(tmp_path):
    numbers = {"LV": 3, "MYO": 2, "RV": 1}
    (tmp_path / "segmentation.json").write_text(json.dumps({"labels": numbers}))
    with pytest.raises(DataError, match="as segment noted; give --mask-labels LV=3,MYO=2,RV=1 "):
        Masks(tmp_path).named()
    assert Masks(tmp_path, labels=label_numbers(numbers)).named().source == "predicted"


def test_scans_of_one_name_need_a_folder_each(acdc_tree, tmp_path):
    records = find_cases(ACDC, acdc_tree).records[:2]
    for record in records:
        (tmp_path / record.case).mkdir()
        (tmp_path / record.case / "sax.nii.gz").touch()
    masks = Masks(tmp_path)
    for record in records:
        assert masks.find(record.image.with_name("sax.nii.gz"), record.case).parent.name == (
            record.case
        )
    with pytest.raises(DataError, match="2 masks are called sax"):
        masks.find(records[0].image.with_name("sax.nii.gz"), "another")
    for case, names in (("another", "p1 or another"), ("p1", "p1")):
        with pytest.raises(DataError, match=f"none is called {names}$"):
            masks.find(records[0].image.with_name("p1_0000.nii.gz"), case)


def test_one_mask_for_two_scans_is_refused(tmp_path):
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "sax.nii.gz").touch()
    for case in ("a", "b"):
        (tmp_path / "own" / "training" / case).mkdir(parents=True)
        (tmp_path / "own" / "training" / case / "Info.cfg").write_text("ED: 1\nES: 9\nNbFrame: 9\n")
    data = tmp_path / "own" / "training"
    for case in ("a", "b"):
        (data / case / "sax.nii.gz").touch()
    manifest = replace(ACDC, image="{case}/sax.nii.gz", mask="{case}/gt.nii.gz")
    with pytest.raises(DataError, match="the mask of a and of b, whose scans have the same name"):
        find_cases(manifest, tmp_path / "own", masks=Masks(tmp_path / "masks").named())


@pytest.mark.parametrize("text", ["LV=1", "LV=1,MYO=1,RV=3", "LV=a,MYO=2,RV=3", "LV=1,MYO=2,XX=3"])
def test_label_numbers_name_every_structure_once(text):
    with pytest.raises(ValueError, match="a number of its own, not 0, for each"):
        read_labels(text)


def test_names_of_scans_have_no_ending_and_no_channel(tmp_path):
    assert [scan_name(tmp_path / n) for n in ("a.b.NII.GZ", "x_0000.mha", "x_0001.nii")] == [
        "a.b", "x", "x_0001",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="mask source is"):
        Masks(tmp_path, "=cmd|x")
    with pytest.raises(DataError, match="expected one with a mask for each scan"):
        Masks(tmp_path / "absent")


def test_check_finds_masks_elsewhere_and_proposes_to_preprocess_them(acdc_tree, tmp_path):
    tree, masks = masks_apart(acdc_tree, ACDC, tmp_path), tmp_path / "masks"
    words = ["check", "--dataset", "acdc", "--source", str(tree)]
    without = CliRunner().invoke(main, words)
    assert (without.exit_code, "no mask, or an empty one" in without.stdout) == (2, True)
    found = CliRunner().invoke(main, [*words, "--masks", str(masks)])
    assert found.exit_code == 0, found.output
    assert "no mask, or an empty one" not in found.stdout
    assert f"--slice all --masks {masks}" in found.stdout
    alone = CliRunner().invoke(main, [*words, "--only-missing"])
    assert "need --masks DIR" in alone.stderr
