"""Every command works on a store of stacks: five slices at two phases, from end to end."""

import json

import nibabel
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from conftest import quick_guide, trained

from cardiac_attrivae.cli.main import main
from cardiac_attrivae.data.phantom import write_phantoms
from cardiac_attrivae.data.preprocess import preprocess
from cardiac_attrivae.data.recipe import Recipe
from cardiac_attrivae.data.store import SliceDataset, areas
from cardiac_attrivae.evaluation.cross_domain import cross_domain_eval
from cardiac_attrivae.evaluation.generation import generate, traverse, traverse_between
from cardiac_attrivae.export.bundle import export
from cardiac_attrivae.export.bundle_inference import read_slices
from cardiac_attrivae.export.explorer import explore
from cardiac_attrivae.report.page import write_report
from cardiac_attrivae.runtime.files import read_json

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("stack")]  # one fixture for all
NAMES = ("LVEDV", "LVESV", "LVEF", "LVM")
SIX = ["LV", "MYO", "RV", "LV_ES", "MYO_ES", "RV_ES"]
STACK = Recipe(phases=("ED", "ES"), stack=5)


@pytest.fixture(scope="module")
def place(hasty_segmenters, tmp_path_factory):
    """Phantoms, their store of stacks, a run of three steps, and its evaluation."""
    folder = tmp_path_factory.mktemp("stack")
    write_phantoms("acdc", folder / "scans", cases=16, cine=False)
    preprocess("acdc", folder / "scans", folder / "store", STACK)
    trained(folder / "store", folder / "run", f"attributes=[{','.join(NAMES)}]")
    cross_domain_eval([folder / "run"], [folder / "store"], folder / "evaluation", split="train",
                      device="cpu", rounds=5)  # fmt: skip
    return folder


def test_the_command_line_writes_stacks(place, tmp_path):
    arguments = ["preprocess", "--dataset", "acdc", "--source", str(place / "scans")]
    arguments += ["--phases", "ED,ES", "--stack", "5", "--output", str(tmp_path / "store")]
    result = CliRunner().invoke(main, arguments)
    assert "train --pipeline attri_vae_stack" in result.output
    assert result.exit_code == 0, result.output
    hashes = [
        read_json(f / "dataset.json")["content_hash"] for f in (tmp_path / "store", place / "store")
    ]
    assert hashes[0] == hashes[1]


def test_control_is_measured_on_the_volumes_that_are_drawn(place):
    metrics = pd.read_csv(place / "evaluation" / "metrics.csv")
    mine = metrics[metrics["model"] == "run"].set_index(["metric", "attribute"])
    assert {("Dice", name) for name in SIX} <= set(mine.index)
    assert pd.notna(mine.loc[("Control_error", "LVESV"), "value"])
    assert pd.isna(mine.loc[("Control_error", "LVM"), "value"])  # a mass is no volume
    assert set(SIX) < set(pd.read_csv(place / "evaluation" / "control.csv"))
    page = write_report([place / "evaluation"], place / "report").read_text(encoding="utf-8")
    assert "LVEF" in page


def test_a_requested_heart_is_drawn_and_measured_in_millilitres(place):
    table, _ = generate(
        place / "run", {"LVEF": 35.0, "LVEDV": 180.0}, place / "heart", device="cpu"
    )
    rows = table.set_index("attribute")
    labels = nibabel.load(place / "heart" / "labels.nii.gz").get_fdata()
    assert labels.shape == (128, 128, 10)
    channels = labels.transpose(2, 1, 0)[None]
    (found,) = areas(channels, SliceDataset.open(place / "store").scale)
    assert rows.loc["LVEDV", "measured_mL"] == pytest.approx(found[0])
    assert rows.loc["LVESV", "measured_mL"] == pytest.approx(found[3])
    assert rows.loc["LVEF", "measured"] == pytest.approx(100 * (1 - found[3] / (found[0] + 1e-6)))


def test_traversals_hold_all_channels(place):
    table = traverse(place / "run", place / "turned", steps=3, device="cpu")
    assert set(SIX) < set(table.columns)
    assert nibabel.load(place / "turned" / "LVEF.nii.gz").shape == (128, 128, 30)
    first, last = SliceDataset.open(place / "store").cases["case"][:2]
    between = traverse_between(place / "run", place / "way", first, last, steps=3, device="cpu")
    assert set(SIX) < set(between.columns)


def test_the_explorer_knows_all_channels(place):
    pytest.importorskip("onnxruntime")
    explore(place / "run", place / "explorer", device="cpu")
    data = json.loads((place / "explorer" / "data.json").read_text())
    assert len(data["channels"]) == 10
    assert (data["channels"][0], data["channels"][-1]) == ("ED 1 of 5", "ES 5 of 5")
    assert (data["slices"], data["unit"]) == (5, "mL")
    assert all(len(case["areas"]) == 6 for case in data["cases"])


@pytest.mark.parametrize("form", ["onnx", "torchscript"])
def test_files_for_other_programs_take_all_channels(place, tmp_path, form):
    if form == "onnx":
        pytest.importorskip("onnxruntime")
    export(place / "run", form, tmp_path)
    assert list(tmp_path.iterdir())


def test_a_bundle_says_what_its_channels_are_and_reads_stacks(place, tmp_path):
    export(place / "run", "bundle", tmp_path / "bundle")
    about = read_json(tmp_path / "bundle" / "configs" / "metadata.json")
    image = about["network_data_format"]["inputs"]["image"]
    assert image["num_channels"] == 10
    assert image["channel_def"]["9"].endswith("at end-systole, 5 of 5 from base to apex")
    card = (tmp_path / "bundle" / "docs" / "README.md").read_text("utf-8")
    assert "# (N, 10, 128, 128) to (N, " in card
    recipe = read_json(tmp_path / "bundle" / "configs" / "inference.json")["recipe"]
    assert recipe["stack"] == 5
    assert read_slices(place / "store", recipe)[0]["image"].shape == (10, 128, 128)


def test_guidance_looks_at_stacks_channel_by_channel(place, tmp_path):
    changes = (f"attributes=[{','.join(NAMES)}]", "objective.guided_from=0")
    options = {"pipeline": "attri_vae_fast", "guide": quick_guide}
    run = trained(place / "store", tmp_path / "run", *changes, **options)
    history = pd.read_csv(run / "history.csv")
    assert np.isfinite(history["train_loss"]).all()
    assert {"train_control", "train_anatomy"} <= set(history.columns)


def test_other_stacks_are_refused_in_a_sentence(place, tmp_path):
    preprocess("acdc", place / "scans", tmp_path / "store", Recipe(phases=("ED", "ES")))
    arguments = [
        "cross-domain-eval",
        "--model",
        str(place / "run"),
        "--output",
        str(tmp_path / "e"),
    ]
    result = CliRunner().invoke(main, [*arguments, "--data", f"{tmp_path / 'store'}:val"])
    assert result.exit_code == 2
    assert "preprocess it with --stack 5" in " ".join(result.output.split())
    arguments = ["generate", "--model", str(place / "run"), "--count", "3", "--output"]
    result = CliRunner().invoke(main, [*arguments, str(tmp_path / "drawn")])
    assert result.exit_code == 2
    assert "draws stacks" in " ".join(result.output.split())
