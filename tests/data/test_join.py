"""Stores of several data sets as one: every slice, mask and patient of each, once."""

import json
import shutil
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import store_of, trained

from cardiac_attrivae.cli.main import main
from cardiac_attrivae.data import join
from cardiac_attrivae.data.join import join_stores
from cardiac_attrivae.data.phantom import write_phantoms
from cardiac_attrivae.data.preprocess import preprocess
from cardiac_attrivae.data.recipe import Recipe
from cardiac_attrivae.data.store import SliceDataset, content_hash
from cardiac_attrivae.evaluation.opening import seen_cases
from cardiac_attrivae.runtime.provenance import seal
from cardiac_attrivae.schema import DataError
from cardiac_attrivae.training.run import load_run

NAMES = ("LVEDV", "LVEDA", "RVEDA")


@pytest.fixture(scope="module")
def joined(acdc_store_all, mnms_store_all, tmp_path_factory):
    parts = [SliceDataset.open(folder) for folder in (acdc_store_all, mnms_store_all)]
    both = tmp_path_factory.mktemp("joined") / "both"
    return parts, join_stores([acdc_store_all, mnms_store_all], both)


def test_every_slice_of_each_is_there_in_order(joined):
    parts, both = joined
    assert both.name == "acdc_mnms"
    start = 0
    for part in parts:
        rows = both.take(range(start, start := start + len(part)))
        assert (rows.images == part.images).all()
        assert (rows.labels == part.labels).all()
        assert list(rows.cases["case"]) == list(part.cases["case"])
        np.testing.assert_array_equal(rows.attributes(NAMES), part.attributes(NAMES))
        np.testing.assert_allclose(rows.measured(NAMES), part.measured(NAMES))
        assert rows.fingerprints() == part.fingerprints()
    assert start == len(both)
    for split in ("train", "val", "test"):
        assert len(both.split(split)) == sum(len(part.split(split)) for part in parts)


def test_a_model_is_trained_on_all_and_knows_the_patients_of_each(joined, tmp_path):
    parts, both = joined
    run = trained(both.folder, tmp_path / "run")
    assert json.loads((run / "summary.json").read_text())["train_cases"] == sum(
        part.split("train").cases["case"].nunique() for part in parts
    )


def test_stores_that_do_not_fit_are_refused(acdc_store_all, tmp_path):
    with pytest.raises(DataError, match=r"is in .* and in"):
        join_stores([acdc_store_all, acdc_store_all], tmp_path / "twice")
    with pytest.raises(DataError, match="expected two or more"):
        join_stores([acdc_store_all], tmp_path / "one")
    write_phantoms("mnms", tmp_path / "hearts", cases=3, cine=False)
    preprocess("mnms", tmp_path / "hearts", tmp_path / "small", Recipe("all", size=96))
    with pytest.raises(DataError, match="has size 96 and .* 128; preprocess them alike"):
        join_stores([acdc_store_all, tmp_path / "small"], tmp_path / "out")
    with pytest.raises(DataError, match="lie in one another"):
        join_stores([acdc_store_all, tmp_path / "small"], tmp_path / "small" / "out")
    assert not any((tmp_path / name).exists() for name in ("twice", "one", "out"))


@pytest.mark.parametrize("name", ["../up", "two words", "x" * 65, "=1"])
def test_a_name_that_no_data_set_may_have_is_refused_before_anything_is_written(
    name, acdc_store_all, mnms_store_all, tmp_path, monkeypatch
):
    monkeypatch.setattr(join, "_write", lambda *_: pytest.fail("work was begun"))
    with pytest.raises(DataError, match="expected 1 to 64 letters, digits, _ and -"):
        join_stores([acdc_store_all, mnms_store_all], tmp_path / "out", name=name)
    assert not any(tmp_path.iterdir())


def test_a_model_of_joined_stores_does_not_count_its_patients_as_unseen(
    joined, acdc_store_all, tmp_path
):
    parts, both = joined
    run = trained(both.folder, tmp_path / "run")
    case = parts[0].split("train").cases["case"].iloc[0]
    other = {case: "another slice", "new": "a slice of somebody else"}  # as with other masks
    assert seen_cases(load_run(run), parts[0].sources, other) == [case]
    assert seen_cases(load_run(run), {"mine"}, other) == []
    known = load_run(trained(acdc_store_all, tmp_path / "acdc"))
    assert seen_cases(known, both.sources, other) == [case]


def test_masks_are_those_of_the_patients_and_of_the_stores_that_were_opened(
    joined, acdc_store_all, mnms_store_all, tmp_path, monkeypatch
):
    copy = shutil.copytree(acdc_store_all, tmp_path / "copy")
    with ZipFile(copy / "masks.npz", "a", ZIP_DEFLATED) as archive:
        archive.writestr("bomb.npy", bytes(2**22))  # of nobody
    info = json.loads((copy / "dataset.json").read_text()) | {"content_hash": content_hash(copy)}
    (copy / "dataset.json").write_text(json.dumps(info | {"sha256": seal(info)}))

    def replaced(stores, check=join._check):
        check(stores)
        shutil.copytree(mnms_store_all, tmp_path / "other")
        (tmp_path / "other" / "masks.npz").replace(copy / "masks.npz")

    monkeypatch.setattr(join, "_check", replaced)
    both = join_stores([copy, mnms_store_all], tmp_path / "both")
    parts, other = joined
    with ZipFile(both.folder / "masks.npz") as masks:
        assert set(masks.namelist()) == {f"{case}.npy" for case in both.cases["case"]}
    np.testing.assert_array_equal(both.measured(NAMES), other.measured(NAMES))
    assert (both.folder / "masks.npz").stat().st_size < 2**20


def test_one_patient_under_two_ids_is_refused(acdc_store_all, tmp_path):
    source = tmp_path / "hearts"
    write_phantoms("acdc", source, cases=2, cine=False)
    store = store_of("acdc", source, tmp_path / "a", "basal")
    other = store_of("acdc", source, tmp_path / "b", "basal")
    table = other / "cases.csv"
    table.write_text(table.read_text().replace("patient00", "other00"))
    info = json.loads((other / "dataset.json").read_text()) | {"content_hash": content_hash(other)}
    (other / "dataset.json").write_text(json.dumps(info | {"sha256": seal(info)}))
    with pytest.raises(DataError, match="the same slice and mask"):
        join_stores([store, other], tmp_path / "both")


def test_a_store_that_is_older_than_an_option_is_joined(acdc_store_all, mnms_store_all, tmp_path):
    old = shutil.copytree(acdc_store_all, tmp_path / "old")
    info = json.loads((old / "dataset.json").read_text())
    info["recipe"] = {k: v for k, v in info["recipe"].items() if k not in ("phases", "stack")}
    info.pop("sha256")
    (old / "dataset.json").write_text(json.dumps(info | {"sha256": seal(info)}))
    for k, stores in enumerate(([old, mnms_store_all], [mnms_store_all, old])):
        join_stores(stores, tmp_path / f"both{k}")


def test_the_command_says_what_it_joined(acdc_store_all, mnms_store_all, tmp_path):
    place = tmp_path / "both"
    command = ["join", str(acdc_store_all), str(mnms_store_all), "--output", str(place)]
    result = CliRunner().invoke(main, command, catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    assert "Joined 2 stores" in result.stdout
    again = CliRunner().invoke(main, command)
    assert again.exit_code == 2
    assert "exists already" in again.stderr
    assert CliRunner().invoke(main, [*command, "--overwrite"]).exit_code == 0
    assert not (tmp_path / ".both.partial").exists()
