"""A bundle as MONAI's own tools use it; what it contains, and what it must not contain."""

import json
import logging
import shutil
import subprocess
import sys
import zipfile
from contextlib import contextmanager
from pathlib import Path

import faults
import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from monai import bundle as monai_bundle
from monai.data import load_net_with_metadata

import cardiac_attrivae.export
from cardiac_attrivae.cli.main import main
from cardiac_attrivae.data.nifti import read_volume
from cardiac_attrivae.data.store import SliceDataset
from cardiac_attrivae.evaluation.generation import LABELS, save_nifti
from cardiac_attrivae.export.bundle import export, write_bundle
from cardiac_attrivae.export.bundle_inference import bundled_network, read_slices
from cardiac_attrivae.export.card import Scores
from cardiac_attrivae.export.formats import FILES, FORMATS
from cardiac_attrivae.runtime import device
from cardiac_attrivae.runtime.files import write
from cardiac_attrivae.runtime.outputs import REFINER
from cardiac_attrivae.schema import DataError
from cardiac_attrivae.training.config import load_pipeline
from cardiac_attrivae.training.run import encode, load_run, reconstruct
from cardiac_attrivae.training.workflow import train
from export.test_formats import modules_in, nothing_of_the_machine

SHORT = ("schedule.epochs=1", "schedule.steps_per_epoch=2", "data.batch_size=4")


@pytest.fixture(scope="module", autouse=True)
def one_number_of_threads():
    """On a busy machine it would change from one training to the next, and with it the last bits
    of the weights."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(device, "GIVEN", True)
        yield


@pytest.fixture(scope="module")
def run(acdc_store, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "mine"
    pipeline = load_pipeline("attri_vae_unguided", SHORT)
    train(pipeline, SliceDataset.open(acdc_store), output, device="cpu", seed=5)
    return output


@pytest.fixture(scope="module")
def written(run, tmp_path_factory):
    return write_bundle(load_run(run), tmp_path_factory.mktemp("bundles") / "mine")


@pytest.fixture
def bundle(written, monkeypatch):
    """The bundle as the folder one is in, as MONAI's documentation has it."""
    monkeypatch.chdir(written)
    yield written
    for name in ("eval", "run"):
        shutil.rmtree(written / name, ignore_errors=True)


@contextmanager
def monai_at_work():
    """MONAI warns of every configuration that it may run code, and sets up logging for all."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    with pytest.warns(UserWarning, match="parsing config_file"):
        yield
    root.handlers[:], root.level = handlers, level


def read(file):
    return json.loads(Path(file).read_text())


# What it holds ------------------------------------------------------------------------------------


def test_everything_lies_where_monai_looks_for_it(written):
    files = {str(file.relative_to(written)) for file in written.rglob("*") if file.is_file()}
    assert files == {
        "LICENSE", "docs/README.md", "models/model.pt", "models/model.ts", "configs/metadata.json",
        "configs/inference.json", "configs/train.json", "configs/logging.conf",
    }  # fmt: skip


# Written down from MONAI's specification and its schema of 2024-07-25.
REQUIRED = {
    "schema": str, "version": str, "monai_version": str, "pytorch_version": str,
    "numpy_version": str, "required_packages_version": dict, "task": str, "description": str,
    "authors": str, "copyright": str, "network_data_format": dict,
}  # fmt: skip
OPTIONAL = {
    "changelog": dict, "data_source": str, "data_type": str, "image_classes": str,
    "label_classes": str, "pred_classes": str, "eval_metrics": dict, "intended_use": str,
    "references": list,
}  # fmt: skip
TENSOR = {
    "type": str, "format": str, "num_channels": int, "spatial_shape": list, "dtype": str,
    "value_range": list, "is_patch_data": bool, "channel_def": dict,
}  # fmt: skip


def test_metadata_has_what_the_schema_asks_for(written):
    about = read(written / "configs/metadata.json")
    for name, kind in (REQUIRED | OPTIONAL).items():
        assert isinstance(about[name], kind), name
    assert all(isinstance(reference, str) for reference in about["references"])
    assert about["version"] in about["changelog"]
    formats = [about[f"{name}_data_format"] for name in ("network", "encoder", "decoder")]
    for form in formats:
        for tensor in (*form["inputs"].values(), *form["outputs"].values()):
            for name, kind in TENSOR.items():
                assert isinstance(tensor[name], kind), name
    latent = about["encoder_data_format"]["outputs"]["mu"]
    assert (latent["format"], latent["num_channels"]) == ("latent", 32)
    assert latent["channel_def"] == {"0": "LVEDA (cm2)", "1": "MEDA (cm2)", "2": "RVEDA (cm2)"}
    assert about["required_packages_version"]["cardiac-attrivae"]


def test_no_patient_no_path_and_no_machine_in_it(run, written, acdc_store):
    cases = pd.read_csv(acdc_store / "cases.csv")["case"]
    words = [str(acdc_store), str(run), acdc_store.parent.name, *cases]
    for file in filter(Path.is_file, written.rglob("*")):
        parts = [file.read_bytes()]
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                parts += [archive.read(name) for name in archive.namelist()]
        for part in parts:
            assert nothing_of_the_machine(part), file
            assert not [word for word in words if word.encode() in part], file


STABLE = {"CodeWriter", "bundled_network", "read_slices", "training_workflow"}
"""Names in `cardiac_attrivae.export` that bundles of others depend on: never remove one."""


def test_only_stable_names_of_the_package_are_in_it(written):
    found = {name for file in written.rglob("*") if file.is_file() for name in modules_in(file)}
    assert found == {f"cardiac_attrivae.export.{name}" for name in STABLE}
    assert set(cardiac_attrivae.export.__all__) == STABLE


@pytest.mark.parametrize("config", ["inference", "train"])
def test_a_bundle_of_an_earlier_version_says_that_it_needs_a_new_export(
    bundle, tmp_path, config, acdc_store
):
    earlier = {
        "bundled_network": "exchange.Autoencoder", "read_slices": "codes.read_slices",
        "CodeWriter": "codes.Codes", "training_workflow": "workflow.TrainingWorkflow.from_store",
    }  # fmt: skip
    text = (bundle / f"configs/{config}.json").read_text()
    for name, former in earlier.items():
        text = text.replace(f"cardiac_attrivae.export.{name}", f"cardiac_attrivae.{former}")
    (tmp_path / "former.json").write_text(text)
    with monai_at_work(), pytest.raises(ImportError, match="must be exported again: cardiac-att"):
        monai_bundle.run(config_file=str(tmp_path / "former.json"), dataset_dir=str(acdc_store))


def test_a_bundle_of_another_format_is_refused_in_words():
    with pytest.raises(DataError, match="has format 3; this version .* reads 2. Export the run"):
        bundled_network("BetaVAE", {}, format=3)


def test_weights_load_without_running_code(run, written):
    weights = torch.load(written / "models/model.pt", weights_only=True)
    expected = load_run(run).network.state_dict()
    assert {name.removeprefix("network.") for name in weights} == set(expected)
    assert all(torch.equal(weights[f"network.{name}"], expected[name]) for name in expected)


def test_the_card_says_that_hearts_are_synthetic(written):
    for name in ("docs/README.md", "LICENSE"):
        text = (written / name).read_text()
        assert "synthetic hearts alone" in text
        assert "CC BY-NC-SA" not in text
    assert "Not measured" in (written / "docs/README.md").read_text()


def test_the_card_says_what_a_code_means_in_the_unit_of_the_attribute(run, written, acdc_store):
    lines = read(written / "configs/metadata.json")["calibration"]
    assert list(lines) == ["LVEDA", "MEDA", "RVEDA"]
    patients = SliceDataset.open(acdc_store).split("train").basal()
    z = encode(load_run(run).network, patients.images)[0]
    card = (written / "docs/README.md").read_text()
    for name, line in lines.items():
        slope, intercept = np.polyfit(z[:, line["dimension"]], patients.attributes([name])[:, 0], 1)
        assert (line["slope"], line["intercept"]) == pytest.approx((slope, intercept), rel=1e-3)
        assert line["unit"] == "cm2"
        sign, z_name = "-" if line["slope"] < 0 else "+", f"z{line['dimension']}"
        formula = f"{line['intercept']:.4g} {sign} {abs(line['slope']):.4g} {z_name} cm2"
        assert f"| {name} | {formula} |" in card


@pytest.mark.parametrize(
    ("dataset", "told"),
    [("acdc", "which is licensed CC BY-NC-SA 4.0"), ("ours", "licence of ours is not known")],
)
def test_the_terms_of_the_data_go_with_the_weights(run, tmp_path, dataset, told):
    model = load_run(run)
    known = {"synthetic": False, "title": None, "citation": None, "train_dataset": dataset}
    model.about.update(known)
    folder = write_bundle(model, tmp_path / "b")
    assert told in (folder / "LICENSE").read_text()
    assert told in (folder / "docs/README.md").read_text()


def scores(run, folder, **changes):
    """An evaluation of two models, the first of which is this run, but for the changes."""
    row = {"model": "1", "method": "attri_vae_unguided", "seed": 5, "train_dataset": "acdc",
           "test_dataset": "acdc", "split": "test", "metric": "Interpretability",
           "attribute": "mean", "value": 0.876, "low": 0.812, "high": 0.934, "n": 50}  # fmt: skip
    other = row | {"model": "2", "value": 0.1}
    pd.DataFrame([row, other]).to_csv(folder / "metrics.csv", index=False)
    summary = read(run / "summary.json") | changes
    del summary["store"]
    about = {"method": "attri_vae_unguided", "seed": 5, "train_dataset": "acdc", "summary": summary}
    models = {"1": about, "2": about | {"summary": summary | {"wall_time_s": -1}}}
    text = json.dumps({"models": models, "notes": ["a note about it"]})
    (folder / "evaluation.json").write_text(text)
    return folder


def test_scores_stand_on_the_card_with_their_intervals(run, tmp_path):
    export(run, "bundle", tmp_path / "b", scores(run, tmp_path))
    card = (tmp_path / "b/docs/README.md").read_text()
    assert ".88 [.81, .93]" in card
    assert "a note about it" in card
    entry = read(tmp_path / "b/configs/metadata.json")["eval_metrics"]
    assert entry["acdc/test/Interpretability/mean"] == {"value": 0.876, "low": 0.812, "high": 0.934}


def test_scores_of_another_run_do_not(run, tmp_path):
    with pytest.raises(DataError, match="no scores of .*mine; evaluate it first"):
        export(run, "bundle", tmp_path / "b", scores(run, tmp_path, wall_time_s=0.5))
    assert not (tmp_path / "b").exists()
    with pytest.raises(ValueError, match="no place for scores"):
        export(run, "safetensors", tmp_path / "b", tmp_path)


@pytest.mark.parametrize(
    "damage", [{"models": []}, {"models": {"1": "x"}}, {"notes": 7}, "a,b\n1,2\n", "", "\0"]
)
def test_a_damaged_evaluation_is_refused_in_words(run, tmp_path, damage):
    folder = scores(run, tmp_path)
    if isinstance(damage, dict):
        text = json.dumps(read(folder / "evaluation.json") | damage)
        (folder / "evaluation.json").write_text(text)
    else:
        (folder / "metrics.csv").write_text(damage)
    with pytest.raises(DataError, match=r"evaluation.json|metrics.csv"):
        Scores.read(folder, load_run(run))


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_that_is_there_already_is_not_replaced(run, tmp_path, form):
    for name in FILES[form]:
        write(tmp_path / form / name, "mine")
        with pytest.raises(DataError, match="is there already|not written by"):
            export(run, form, tmp_path / form)
        assert [p.read_text() for p in (tmp_path / form).rglob("*") if p.is_file()] == ["mine"]
        shutil.rmtree(tmp_path / form)


@pytest.mark.parametrize("ends", ["raises", "is killed"])
def test_half_of_an_export_does_not_stand_in_the_way_of_the_next(run, tmp_path, monkeypatch, ends):
    def half(model, folder, tell):
        write(folder / "encoder.onnx", "x")
        if ends == "is killed":
            shutil.copytree(tmp_path / "out", tmp_path / "killed")
        raise DataError("decoder.onnx: largest difference")

    def whole(model, folder, tell):
        for name in FILES["onnx"]:
            write(folder / name, "x")

    monkeypatch.setitem(FORMATS, "onnx", half)
    with pytest.raises(DataError, match="largest difference"):
        export(run, "onnx", tmp_path / "out")
    left = tmp_path / ("killed" if ends == "is killed" else "out")
    assert (left / "encoder.onnx").exists() == (ends == "is killed")
    monkeypatch.setitem(FORMATS, "onnx", whole)
    export(run, "onnx", left)
    assert {path.name for path in left.iterdir()} == {*FILES["onnx"]}


def test_the_files_of_a_format_are_those_it_writes(run, tmp_path):
    for form, writer in FORMATS.items():
        written = writer(load_run(run), tmp_path / form)
        own = {name for name in FILES[form] if not name.startswith(REFINER)}
        assert {file.name for file in written.values()} == own


def test_what_lies_there_is_not_replaced(run, tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(DataError, match="choose another folder"):
        export(run, "bundle", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("fault", sorted(faults.BUNDLED))
def test_a_crafted_run_does_not_become_a_bundle_that_runs_code(run, tmp_path, fault):
    damage, told = faults.BUNDLED[fault]
    crafted = shutil.copytree(run, tmp_path / "run")
    damage(crafted)
    with pytest.raises(DataError, match=told):
        export(crafted, "bundle", tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_the_command_tells_what_it_checked(run, tmp_path):
    words = ("export", "--model", str(run), "--output", str(tmp_path / "out"), "--format")
    done = CliRunner().invoke(main, [*words, "torchscript"])
    assert done.exit_code == 0, done.output
    assert "model.ts decode: largest difference from PyTorch" in done.stdout
    again = load_run(run)
    done = CliRunner().invoke(main, [*words, "safetensors"])
    assert done.exit_code == 0, done.output
    exported = load_run(tmp_path / "out")
    assert exported.pipeline == again.pipeline
    private = {"train_cases", "summary", "sha256_of"}
    assert exported.about == {k: v for k, v in again.about.items() if k not in private}


# MONAI's commands ---------------------------------------------------------------------------------


def test_inference_gives_the_codes_of_a_store(bundle, run, acdc_store):
    with monai_at_work():
        monai_bundle.run(config_file="configs/inference.json", dataset_dir=str(acdc_store))
    table, store = pd.read_csv("eval/codes.csv"), SliceDataset.open(acdc_store)
    assert table["name"].tolist() == store.cases["case"].tolist()
    network = load_run(run).network
    codes = encode(network, store.images)[0]
    np.testing.assert_allclose(table.filter(regex="^z").to_numpy(), codes, atol=1e-5)
    stack = read_volume(bundle / "eval/reconstructions.nii.gz", 0)
    assert stack.spacing_mm[:2] == pytest.approx((1.3, 1.3))
    expected = reconstruct(network, store.images)[:, 0].numpy()
    np.testing.assert_allclose(stack.voxels.transpose(2, 1, 0), expected, atol=1e-5)


def test_slices_in_nifti_files_are_those_of_the_store(acdc_store, tmp_path):
    store = SliceDataset.open(acdc_store)
    save_nifti(store.images[:3, 0], tmp_path / "a.nii.gz", 1.3)
    save_nifti(store.images[3:4, 0], tmp_path / "b.nii.gz", 1.3)
    save_nifti(store.labels[3:4, 0], tmp_path / LABELS, 1.3)  # as generate leaves them there
    items = read_slices(tmp_path, store.info["recipe"])
    assert [(item["name"], item["slice_index"]) for item in items] == [
        ("a.nii.gz", 0), ("a.nii.gz", 1), ("a.nii.gz", 2), ("b.nii.gz", 0),
    ]  # fmt: skip
    found = torch.stack([item["image"] for item in items])
    assert torch.equal(found, store.images[:4])


@pytest.mark.parametrize(
    ("change", "spacing", "told"),
    [
        (lambda image: image[:, :100], 1.3, "128 x 100 pixels"),
        (lambda image: image, 1.5, "pixels of 1.5 x 1.5 mm"),
        (lambda image: image * 255, 1.3, "values from 0 to"),
        (lambda image: image * torch.nan, 1.3, "values from nan to nan"),
    ],
)
def test_other_slices_are_refused(acdc_store, tmp_path, change, spacing, told):
    store = SliceDataset.open(acdc_store)
    save_nifti(change(store.images[:1, 0]), tmp_path / "a.nii.gz", spacing)
    with pytest.raises(DataError, match=f"a.nii.gz has {told}.*cardiac-attrivae preprocess"):
        read_slices(tmp_path, store.info["recipe"])


def test_other_stores_and_other_folders_are_refused(acdc_store, tmp_path):
    recipe = {"size": 128, "spacing": 1.5}
    with pytest.raises(DataError, match="spacing 1.5 and .* has 1.3"):
        read_slices(acdc_store, recipe)
    with pytest.raises(DataError, match="neither a store"):
        read_slices(tmp_path, recipe)


def test_the_checkpoint_is_exported_anew(bundle, tmp_path):
    monai_bundle.verify_net_in_out(
        "network_def", meta_file="configs/metadata.json", config_file="configs/inference.json",
        device="cpu",
    )  # fmt: skip
    ours = torch.jit.load("models/model.ts")
    file = str(tmp_path / "model.ts")
    with pytest.warns(torch.jit.TracerWarning):  # of the check of shapes; compared below
        monai_bundle.ckpt_export(
            "network_def", file, config_file="configs/inference.json", use_trace=True
        )
    theirs, about, _ = load_net_with_metadata(file)
    assert about["name"] == "attri_vae_unguided of acdc"
    image = torch.rand(4, 1, 128, 128)
    with torch.no_grad():
        torch.testing.assert_close(theirs(image), ours(image))


def test_the_bundle_repeats_its_own_training(bundle, run, acdc_store):
    with monai_at_work():
        monai_bundle.run(
            config_file="configs/train.json", dataset_dir=str(acdc_store), device="cpu"
        )
    first, second = (load_run(folder) for folder in (run, bundle / "run"))
    weights = second.network.state_dict()
    for name, expected in first.network.state_dict().items():
        assert torch.equal(weights[name], expected), name


def test_the_workflow_runs_by_its_name(acdc_store, tmp_path, run):
    monai_bundle.run_workflow(
        "cardiac_attrivae.export.training_workflow",
        pipeline="attri_vae_unguided", data=str(acdc_store), output=str(tmp_path / "run"),
        changes=list(SHORT), device="cpu", seed=5,
    )  # fmt: skip
    first, second = (load_run(folder).network.state_dict() for folder in (run, tmp_path / "run"))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_monais_commands_as_one_types_them(bundle, acdc_store, tmp_path):
    def call(*words):
        command = (sys.executable, "-m", "monai.bundle", *map(str, words))
        done = subprocess.run(command, cwd=bundle, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    inference = ("--config_file", "configs/inference.json")
    call("run", *inference, "--dataset_dir", acdc_store)
    assert (bundle / "eval/codes.csv").is_file()
    call("ckpt_export", *inference, "--use_trace", "True", "--filepath", tmp_path / "model.ts")
    assert torch.jit.load(tmp_path / "model.ts")(torch.rand(2, 1, 128, 128)).shape[0] == 2
    call(
        "run_workflow", "cardiac_attrivae.export.training_workflow",
        "--pipeline", "attri_vae_unguided", "--data", acdc_store, "--output", tmp_path / "run",
        "--changes", str(list(SHORT)), "--device", "cpu",
    )  # fmt: skip
    assert (tmp_path / "run/model.safetensors").is_file()
