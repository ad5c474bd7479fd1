"""A refiner is trained by the workflow of all trainings, and is found and used by its run."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from conftest import quick_guide, trained

from cardiac_attrivae.cli.main import main
from cardiac_attrivae.data.store import SliceDataset
from cardiac_attrivae.export.bundle import export
from cardiac_attrivae.models.refiner import Painted
from cardiac_attrivae.runtime.folders import locked
from cardiac_attrivae.runtime.weights import read_weights, weights_digest, write_weights
from cardiac_attrivae.schema import DataError, Keys
from cardiac_attrivae.segmentation.guide import refuse_guide
from cardiac_attrivae.segmentation.judge import Segmenter
from cardiac_attrivae.training.config import load_pipeline
from cardiac_attrivae.training.folder import RUN
from cardiac_attrivae.training.refiner_learner import moved_by_pixels
from cardiac_attrivae.training.run import decode, load_run
from cardiac_attrivae.training.verify import NOT_COVERED, verify_run
from cardiac_attrivae.training.workflow import train

TINY = load_pipeline(
    "refiner",
    ["network.arguments.filters=[8, 8, 8]", "network.arguments.steps=2", "data.batch_size=4",
     "schedule.epochs=2", "schedule.steps_per_epoch=2", "schedule.evaluate_every=1",
     "objective.anatomy=0.1", "precision=float32"],
)  # fmt: skip


def refined(data, run, output, **options):
    return train(TINY, data, output, device="cpu", guide=quick_guide, on=run, **options)


@pytest.fixture(scope="module")
def data(acdc_store_all):
    return SliceDataset.open(acdc_store_all)


@pytest.fixture(scope="module")
def run(acdc_store_all, data, tmp_path_factory):
    """A run and its refiner, which leaves the run as it was."""
    folder = trained(acdc_store_all, tmp_path_factory.mktemp("runs") / "run")
    before = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    refined(data, folder, folder / "refiner")
    assert {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()} == before
    return folder


def test_a_refiner_is_trained_by_the_workflow_of_all_trainings(run, data):
    history = pd.read_csv(run / "refiner" / "history.csv")
    assert history["epoch"].tolist() == [1, 2]
    assert {"train_flow", "train_anatomy", "val_loss", "val_Sharpness"} <= {*history}
    assert np.isfinite(history[["train_flow", "val_Sharpness"]]).all(axis=None)
    weights, about = read_weights(run / "refiner" / "model.safetensors")
    network = load_run(run, plain=True).network.state_dict()
    assert about["base"] == {"method": "attri_vae_unguided", "sha256": weights_digest(network)}
    assert about["train_cases"] == data.split("train").fingerprints()
    guide = quick_guide(data.split("train"), None, "cpu").network.state_dict()
    for name, value in guide.items():  # it is part of the refiner, and was not trained
        assert torch.equal(weights[f"guide.{name}"], value), name


def test_a_run_draws_with_its_refiner_unless_it_is_asked_not_to(run):
    model, plain = load_run(run), load_run(run, plain=True)
    codes = np.zeros((1, model.network.latent_size))
    assert isinstance(model.painter, Painted)
    assert plain.painter is plain.network
    assert not torch.equal(decode(model.painter, codes), decode(plain.painter, codes))
    assert torch.equal(decode(model.network, codes), decode(plain.network, codes))


def test_a_refiner_that_is_asked_for_must_be_there(run, tmp_path):
    shutil.copy(run / "model.safetensors", tmp_path)
    with pytest.raises(DataError, match="has no refiner to draw with: leave out --refined"):
        load_run(tmp_path, plain=False)


def test_an_interrupted_training_ends_with_the_same_weights(run, data, tmp_path):
    class Interruption(Exception):
        pass

    def stop(row):
        raise Interruption

    with pytest.raises(Interruption):
        refined(data, run, tmp_path / "again", tell=stop)
    refined(data, run, tmp_path / "again", resume=True)
    files = (folder / "model.safetensors" for folder in (run / "refiner", tmp_path / "again"))
    expected, found = (read_weights(file)[0] for file in files)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_refiner_of_another_run_or_a_damaged_one_is_refused(run, acdc_store_all, data, tmp_path):
    other = trained(acdc_store_all, tmp_path / "other", seed=1)
    shutil.copytree(run / "refiner", other / "refiner")
    with pytest.raises(DataError, match="was trained for other weights than those of"):
        load_run(other)
    assert load_run(other, plain=True).refiner is None
    with pytest.raises(DataError, match="another configuration, seed or data"):
        refined(data, other, other / "refiner", resume=True)
    file = other / "refiner" / "model.safetensors"
    weights, about = read_weights(file)
    network = load_run(other, plain=True).network.state_dict()
    about["base"] = about["base"] | {"sha256": weights_digest(network)}
    about["pipeline"]["network"] = {"name": "ScanUNet", "arguments": {}}
    write_weights(file, weights, about)
    with pytest.raises(DataError, match="ScanUNet, which is no refiner"):
        load_run(other)
    file.write_bytes(b"damaged")
    with pytest.raises(DataError, match="cannot be read"):
        load_run(other)


def test_a_run_says_nothing_of_a_refiner_that_is_not_there(run, tmp_path):
    weights, about = read_weights(run / "model.safetensors")
    write_weights(tmp_path / "model.safetensors", weights, about | {"refiner": "a text"})
    assert "refiner" not in load_run(tmp_path).about


def test_a_refiner_learns_from_no_patient_that_its_run_did_not(run, data, tmp_path):
    everybody = SliceDataset(
        data.images, data.labels, data.cases.assign(split="train"), data.info, data.folder
    )
    with pytest.raises(DataError, match="was trained on other patients or slices"):
        refined(everybody, run, tmp_path / "refiner")
    assert not (tmp_path / "refiner").exists()


def test_what_is_missing_or_too_much_is_named(run, data, tmp_path):
    with pytest.raises(ValueError, match="Refiner paints over .* give it with --on RUN"):
        refined(data, None, tmp_path / "one")
    with pytest.raises(ValueError, match="objective AttriVAE takes no --on RUN"):
        train(load_pipeline("attri_vae_unguided"), data, tmp_path / "two", device="cpu", on=run)
    with pytest.raises(DataError, match="it is a refiner and has no codes"):
        load_run(run / "refiner")
    blurred = load_pipeline("refiner", ["augmentation.zoom=0.1"])
    with pytest.raises(ValueError, match="texture of slices, which augmentation blurs"):
        train(blurred, data, tmp_path / "three", device="cpu", guide=quick_guide, on=run)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "Missing option '--output'"),
        (["--output", "refiner"], "give it with --on RUN"),
        (["--on", "nowhere"], "no trained model in nowhere"),
    ],
)
def test_the_command_says_what_a_refiner_needs(given, said, acdc_store_all, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["train", "--pipeline", "refiner", "--data", str(acdc_store_all), *given]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 2
    assert said in result.output


def test_a_new_training_of_the_run_removes_its_refiner(acdc_store_all, run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    pipeline = load_pipeline(
        "attri_vae_unguided", ["schedule.epochs=1", "schedule.steps_per_epoch=1"]
    )
    train(pipeline, SliceDataset.open(acdc_store_all), folder, device="cpu", overwrite=True)
    assert not (folder / "refiner").exists()
    assert load_run(folder).refiner is None


@pytest.mark.parametrize("place", ["run/refiner", "elsewhere"])
def test_a_run_is_not_replaced_while_a_refiner_of_it_is_trained(run, data, tmp_path, place):
    folder = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("refiner"))
    before, told = {path.name for path in folder.iterdir()}, []

    short = ["schedule.epochs=1", "schedule.steps_per_epoch=1"]
    other = load_pipeline("attri_vae_unguided", short)

    def replace(row):
        with pytest.raises(DataError, match="would be replaced, but another process works") as one:
            train(other, data, folder, device="cpu", overwrite=True)
        told.append(one)

    refined(data, folder, tmp_path / place, tell=replace)
    assert len(told) == 2  # once an epoch
    assert {path.name for path in folder.iterdir()} == before | {"refiner"} & {*place.split("/")}
    load_run(folder)


def test_no_refiner_begins_while_its_run_is_being_worked_on(run, data, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("refiner"))
    with locked(folder), pytest.raises(DataError, match=f"{folder} is being worked on by another"):
        refined(data, folder, tmp_path / "elsewhere")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_refiner_can_be_verified(run, acdc_store_all):
    assert "verify RUN/refiner" in NOT_COVERED
    findings = {finding.what: finding for finding in verify_run(run / "refiner", acdc_store_all)}
    assert all(findings[what].holds for what in ("weights", "configuration", "parameters"))
    assert not any(finding.holds is False for finding in findings.values())
    assert "refiner/*" not in RUN


def test_an_exported_run_keeps_its_refiner_and_says_nothing_of_patients(run, tmp_path):
    export(run, "safetensors", tmp_path / "one")
    file = tmp_path / "one" / "refiner" / "model.safetensors"
    assert read_weights(file)[1].keys() == {"pipeline", "base"}
    expected, found = load_run(run), load_run(tmp_path / "one")
    codes = np.ones((2, expected.network.latent_size))
    before, after = (decode(model.painter, codes) for model in (expected, found))
    torch.testing.assert_close(before, after, atol=1e-5, rtol=0)
    export(run, "torchscript", tmp_path / "two")  # it compares what is drawn
    written = torch.jit.load(tmp_path / "two" / "model.ts")
    again = written.decode(torch.ones(2, expected.network.latent_size))
    torch.testing.assert_close(before, again, atol=1e-5, rtol=0)


def test_no_segmenter_measures_what_it_outlined(run):
    model = load_run(run)
    with pytest.raises(DataError, match="is the guide that it was trained through"):
        refuse_guide(model.about, Segmenter(model.refiner.guide, {}, 0))


def test_slices_are_moved_by_whole_pixels(data):
    batch, random = {Keys.IMAGE: data.images[:4]}, torch.Generator().manual_seed(0)
    moved = moved_by_pixels(batch, 5, 0.5, random)[Keys.IMAGE]
    for before, after in zip(batch[Keys.IMAGE], moved, strict=True):
        assert not torch.equal(before, after)
        assert torch.equal(before.flatten().sort()[0], after.flatten().sort()[0])
