"""What an evaluation opens: models that differ, patients that are unseen, names that differ."""

import json
import shutil

import pytest
import torch
from conftest import trained

from cardiac_attrivae.data.preprocess import preprocess
from cardiac_attrivae.data.recipe import Recipe
from cardiac_attrivae.data.store import SliceDataset
from cardiac_attrivae.evaluation.diagnosis_samples import gather
from cardiac_attrivae.evaluation.opening import open_all, open_trained
from cardiac_attrivae.runtime.weights import read_weights, write_weights
from cardiac_attrivae.schema import DataError
from cardiac_attrivae.training.run import load_run


@pytest.fixture(scope="module")
def run(acdc_store_all, tmp_path_factory):
    return trained(acdc_store_all, tmp_path_factory.mktemp("runs") / "mine")


def variant(run, folder, scale=1.0, without=(), pipeline=(), **facts):
    """A copy of a run with other weights and other facts."""
    shutil.copytree(run, folder)
    weights, about = read_weights(folder / "model.safetensors")
    weights = {name: values * scale for name, values in weights.items()}
    for section, name, value in pipeline:
        (about["pipeline"][section] if section else about["pipeline"])[name] = value
    about = {key: value for key, value in (about | facts).items() if key not in without}
    write_weights(folder / "model.safetensors", weights, about)
    return folder


def test_a_run_records_its_training_patients_with_digests_of_their_slices(run, acdc_store_all):
    store = SliceDataset.open(acdc_store_all)
    known = load_run(run).about["train_cases"]
    assert set(known) == set(store.split("train").cases["case"])
    assert len({mark for marks in known.values() for mark in marks.split()}) == 2 * len(known)
    assert not set(known.values()) & set(store.split("test").fingerprints().values())


@pytest.mark.parametrize(("runs", "stores"), [(["run"], []), ([], ["store"])])
def test_without_a_model_or_a_store_nothing_begins(runs, stores):
    with pytest.raises(ValueError, match="no (model|store) is given; expected one or more"):
        open_all(runs, stores, "test")


def test_a_model_that_is_given_twice_is_refused(run, acdc_store_all, tmp_path):
    twin = variant(run, tmp_path / "twin")
    other = variant(run, tmp_path / "other", seed=1)  # says another seed, but has these weights
    for again in (run, twin, other):
        with pytest.raises(DataError, match="hold the same model: all weights are equal"):
            open_all([run, again], [acdc_store_all], "test")


def test_one_seed_that_is_trained_twice_is_no_second_seed(run, acdc_store_all, tmp_path):
    again = variant(run, tmp_path / "again", scale=1.001)  # on another machine
    with pytest.raises(DataError, match=r"the same configuration, data and seed 0"):
        open_all([run, again], [acdc_store_all], "test")


def test_models_that_differ_in_their_seed_alone_are_of_one_method(run, acdc_store_all, tmp_path):
    other = variant(run, tmp_path / "mine", scale=2, seed=1)
    opened = open_all([run, other], [acdc_store_all], "test")
    assert opened.methods == {"mine": "attri_vae_unguided", "mine-2": "attri_vae_unguided"}


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (("objective", "gamma", 3.0), ["gamma=1000.0", "gamma=3.0"]),
        (
            ("", "attributes", ["LVEDV", "MEDV", "RVEDV"]),
            ["attributes=LVEDA+MEDA+RVEDA", "attributes=LVEDV+MEDV+RVEDV"],
        ),
    ],
)
def test_models_that_differ_in_more_than_the_seed_are_of_two_methods(
    run, acdc_store_all, tmp_path, change, names
):
    other = variant(run, tmp_path / "other", scale=2, seed=1, pipeline=[change])
    third = variant(run, tmp_path / "third", scale=3, seed=1)
    opened = open_all([run, other, third], [acdc_store_all], "test")
    first, second = (f"attri_vae_unguided ({name})" for name in names)
    assert opened.methods == {"mine": first, "other": second, "third": first}


def test_models_of_other_training_slices_are_of_two_methods(run, acdc_store_all, tmp_path):
    other = variant(run, tmp_path / "other", scale=2, seed=1, content_hash="0" * 64, train_cases={})
    methods = open_all([run, other], [acdc_store_all], "test").methods
    assert methods["mine"] != methods["other"] == "attri_vae_unguided (data=00000000)"


def test_patients_that_were_trained_on_are_not_scored_as_unseen(run, acdc_store_all, tmp_path):
    store = SliceDataset.open(acdc_store_all)
    test = store.split("test").fingerprints()
    drawn_anew = {"content_hash": "0" * 64}  # another draw of the split
    case = next(iter(test))
    for name, known in {"by id": {case: "another slice"}, "by slice": {"x": test[case]}}.items():
        other = variant(run, tmp_path / name, train_cases=known, **drawn_anew)
        with pytest.raises(DataError, match=rf"trained on 1 of the \d+ test patients .*\({case}\)"):
            open_all([other], [acdc_store_all], "test")
        assert open_all([other], [acdc_store_all], "train").notes == []
    (note,) = open_all([run], [acdc_store_all], "train").notes
    count = len(store.split("train").fingerprints())
    assert f"was trained on {count} of the {count} train patients" in note
    elsewhere = variant(
        run, tmp_path / "renamed", train_dataset="mine", train_cases={"x": test[case]}, **drawn_anew
    )
    with pytest.raises(DataError, match=rf"\({case}\): they are not unseen"):
        open_all([elsewhere], [acdc_store_all], "test")
    mine = {"train_dataset": "mine", "train_sources": ["mine"], "train_cases": {case: "other"}}
    namesake = variant(run, tmp_path / "namesake", **mine, **drawn_anew)
    assert open_all([namesake], [acdc_store_all], "test").notes == []  # ids of two data sets


def test_patients_are_recognised_in_a_store_of_other_slices_under_other_ids(
    run, acdc_tree, acdc_store_all, tmp_path
):
    store, moved = SliceDataset.open(acdc_store_all), tmp_path / "source" / "testing"
    for case in store.split("train").cases["case"].unique()[:2]:
        shutil.copytree(acdc_tree / "training" / case, moved / case)
    recipe = Recipe(slice="mid", size=store.image_size)
    preprocess("acdc", moved.parent, tmp_path / "mid", recipe, key=bytes(32))
    with pytest.raises(DataError, match="trained on 2 of the 2 test patients of .*mid"):
        open_all([run], [tmp_path / "mid"], "test")


def test_a_shipped_model_has_seen_all_of_its_data_set_but_the_test_patients(
    acdc_store_all, mnms_store_all
):
    with pytest.raises(
        DataError, match=r"^acdc was trained on (\d) of the \1 val .* M&Ms or your own"
    ):
        open_all(["acdc"], [acdc_store_all], "val")
    assert open_all(["acdc"], [acdc_store_all, mnms_store_all], ["test", "val"]).notes == []
    places = [(acdc_store_all, "train"), (acdc_store_all, "val")]
    with pytest.raises(
        DataError, match=r"^acdc was trained on all patients of .* M&Ms or your own"
    ):
        gather(load_run("acdc"), places, "pathology", False, torch.device("cpu"))


def test_a_scan_in_two_splits_of_one_store_is_not_scored(run, acdc_store_all, tmp_path):
    test = SliceDataset.open(acdc_store_all).split("test").fingerprints()
    case = next(iter(test))
    other = variant(run, tmp_path / "other", train_cases={"x": test[case]})
    with pytest.raises(DataError, match=rf"\({case}\).*list them under 'duplicates'"):
        open_all([other], [acdc_store_all], "test")


def test_ids_that_cannot_be_compared_are_noted(run, acdc_store_all, tmp_path):
    known = {"case-0123456789ab": "another slice"}
    other = variant(run, tmp_path / "other", train_cases=known, content_hash="0" * 64)
    (note,) = open_all([other], [acdc_store_all], "test").notes
    assert "other was trained on patients of acdc under other ids" in note


def test_a_run_that_does_not_know_its_patients_is_noted(run, acdc_store_all, tmp_path):
    old = variant(run, tmp_path / "old", without=["train_cases"])
    assert open_all([old], [acdc_store_all], "test").notes == []  # it is the very same store
    older = variant(run, tmp_path / "older", without=["train_cases"], content_hash="0" * 64)
    (note,) = open_all([older], [acdc_store_all], "test").notes
    assert "older was trained on another store of acdc and does not say on which patients" in note


def test_too_few_training_patients_for_lines_are_told(run, acdc_store_all, monkeypatch):
    monkeypatch.setattr("cardiac_attrivae.evaluation.opening.LEAST", 90)
    with pytest.raises(DataError, match=r"has \d training patients; .* need 90: train on more"):
        open_trained(run, acdc_store_all, "cpu")


def test_a_name_too_long_for_files_is_refused_before_anything_is_computed(
    run, acdc_store_all, tmp_path
):
    (tmp_path / ("L" * 121)).symlink_to(run)  # a link has the name of its run
    open_all([tmp_path / ("L" * 121)], [acdc_store_all], "test")
    long = variant(run, tmp_path / ("ü" * 61))
    with pytest.raises(DataError, match="has a name of 122 bytes, .* at most 120: rename it"):
        open_all([long], [acdc_store_all], "test")


def test_an_exported_model_does_not_hold_the_training_patients(run, tmp_path):
    from cardiac_attrivae.export.formats import write_safetensors

    write_safetensors(load_run(run), tmp_path)
    about = read_weights(tmp_path / "model.safetensors")[1]
    assert "code_mean" in about
    assert "train_cases" not in about
    assert "patient" not in json.dumps(about)
