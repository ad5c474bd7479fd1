"""Every command works on a store of two phases: a model of ED and ES, from end to end."""

import json
import zlib

import nibabel
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from conftest import trained

from cardiac_attrivae.api import load_model
from cardiac_attrivae.cli.main import main
from cardiac_attrivae.data.phantom import write_phantoms
from cardiac_attrivae.data.preprocess import preprocess
from cardiac_attrivae.data.recipe import Recipe
from cardiac_attrivae.evaluation.cross_domain import cross_domain_eval
from cardiac_attrivae.evaluation.encoding import encode_scan
from cardiac_attrivae.evaluation.generation import (
    generate,
    save_nifti,
    traverse,
    traverse_surface,
)
from cardiac_attrivae.export.bundle import export
from cardiac_attrivae.export.bundle_inference import read_slices
from cardiac_attrivae.export.explorer import explore
from cardiac_attrivae.report.page import write_report
from cardiac_attrivae.runtime.files import read_json
from cardiac_attrivae.training.run import load_run

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("two_phases")]  # one fixture for all
NAMES = ("LVEDA", "LVESA", "LVEF", "LVEDV")
SIX = ["LV", "MYO", "RV", "LV_ES", "MYO_ES", "RV_ES"]


@pytest.fixture(scope="module")
def place(hasty_segmenters, tmp_path_factory):
    """Phantoms, their store of both phases, a run of three steps, and its evaluation."""
    folder = tmp_path_factory.mktemp("two")
    write_phantoms("acdc", folder / "scans", cases=16, cine=False)
    preprocess("acdc", folder / "scans", folder / "store", Recipe(phases=("ED", "ES")))
    trained(folder / "store", folder / "run", f"attributes=[{','.join(NAMES)}]")
    cross_domain_eval([folder / "run"], [folder / "store"], folder / "evaluation", split="train",
                      device="cpu", rounds=5)  # fmt: skip
    return folder


def test_the_command_line_writes_both_phases(place, tmp_path):
    arguments = ["preprocess", "--dataset", "acdc", "--source", str(place / "scans")]
    arguments += ["--phases", "ED,ES", "--output", str(tmp_path / "store")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "train --pipeline attri_sivae_phases" in result.output
    hashes = [
        read_json(f / "dataset.json")["content_hash"] for f in (tmp_path / "store", place / "store")
    ]
    assert hashes[0] == hashes[1]


def test_scores_and_control_are_of_both_phases(place):
    metrics = pd.read_csv(place / "evaluation" / "metrics.csv")
    mine = metrics[metrics["model"] == "run"].set_index(["metric", "attribute"])
    assert {("Dice", name) for name in SIX} <= set(mine.index)
    assert {("Control", name) for name in NAMES} <= set(mine.index)
    assert mine.loc[("MAE", "LVEF"), "unit"] == "%"
    assert pd.isna(mine.loc[("Control_error", "LVEF"), "value"])
    assert pd.notna(mine.loc[("Control_error", "LVESA"), "value"])
    assert set(SIX) < set(pd.read_csv(place / "evaluation" / "control.csv"))


def test_the_report_shows_the_new_attributes(place):
    page = write_report([place / "evaluation"], place / "report").read_text(encoding="utf-8")
    assert "LVEF" in page
    assert "LV_ES" in page


def test_a_heart_with_a_requested_ejection_fraction_is_drawn_and_measured(place):
    request = {"LVEF": 35.0, "LVEDV": 180.0}
    table, _ = generate(place / "run", request, place / "heart", device="cpu")
    rows = table.set_index("attribute")
    assert rows.loc["LVEF", ["requested", "unit"]].tolist() == [35, "%"]
    assert rows.loc["LVEDV", ["requested", "unit"]].tolist() == [180, "mL"]
    drawn, labels = (nibabel.load(place / "heart" / f"{name}.nii.gz").get_fdata()
                     for name in ("slice", "labels"))  # fmt: skip
    assert drawn.shape == labels.shape == (128, 128, 2)
    pixel = read_json(place / "store" / "dataset.json")["recipe"]["spacing"] ** 2 / 100
    before, after = ((labels[..., k] == 1).sum() * pixel for k in (0, 1))
    assert rows.loc["LVEDA", "measured_cm2"] == pytest.approx(before)
    assert rows.loc["LVESA", "measured_cm2"] == pytest.approx(after)
    assert rows.loc["LVEF", "measured"] == pytest.approx(100 * (1 - after / (before + 1e-6)))


def test_a_traversal_holds_both_phases(place):
    table = traverse(place / "run", place / "turned", steps=3, device="cpu")
    assert set(SIX) < set(table.columns)
    assert nibabel.load(place / "turned" / "LVEF.nii.gz").shape == (128, 128, 6)
    assert (place / "turned" / "traversal.gif").is_file()
    names = ("LVEDV", "LVEF")
    table = traverse_surface(place / "run", place / "surface", names, steps=2, device="cpu")
    assert set(SIX) < set(table.columns)
    assert nibabel.load(place / "surface" / "traversal.nii.gz").shape == (128, 128, 8)


def test_the_explorer_knows_both_phases(place):
    pytest.importorskip("onnxruntime")
    explore(place / "run", place / "explorer", device="cpu")
    data = json.loads((place / "explorer" / "data.json").read_text())
    assert data["channels"] == ["ED", "ES"]
    assert [a["column"] for a in data["attributes"]] == [0, 3, 3, 0]
    assert all(len(case["areas"]) == 6 for case in data["cases"])
    packed = zlib.decompress((place / "explorer" / "cases.bin").read_bytes())
    assert len(packed) == len(data["cases"]) * 2 * 2 * 128**2


@pytest.mark.parametrize("form", ["onnx", "torchscript"])
def test_files_for_other_programs_take_both_phases(place, tmp_path, form):
    if form == "onnx":
        pytest.importorskip("onnxruntime")
    export(place / "run", form, tmp_path)
    assert list(tmp_path.iterdir())


def test_a_bundle_says_what_its_channels_are_and_reads_both(place, tmp_path):
    export(place / "run", "bundle", tmp_path / "bundle")
    about = read_json(tmp_path / "bundle" / "configs" / "metadata.json")
    image = about["network_data_format"]["inputs"]["image"]
    assert image["num_channels"] == 2
    assert image["channel_def"]["1"].endswith("at end-systole")
    recipe = read_json(tmp_path / "bundle" / "configs" / "inference.json")["recipe"]
    assert recipe["phases"] == ["ED", "ES"]
    items = read_slices(place / "store", recipe)
    assert items[0]["image"].shape == (2, 128, 128)
    (tmp_path / "hearts").mkdir()
    save_nifti(items[0]["image"], tmp_path / "hearts" / "slice.nii.gz", 1.3)
    (item,) = read_slices(tmp_path / "hearts", recipe)
    assert (item["image"] == items[0]["image"]).all()


def test_a_cine_is_encoded_at_both_phases(place):
    folder = place / "scans/training/patient001"
    files = sorted(folder.glob("*frame*.nii.gz"))  # ED, its mask, ES, its mask
    scan, mask = place / "scan.nii.gz", place / "mask.nii.gz"
    for target, pair in ((scan, files[::2]), (mask, files[1::2])):
        frames = [nibabel.load(file) for file in pair]
        voxels = np.stack([np.asarray(frame.dataobj) for frame in frames], axis=-1)
        if target == mask:
            voxels = np.array([0, 3, 2, 1], np.uint8)[voxels.astype(int)]
        image = nibabel.Nifti1Image(voxels, frames[0].affine)
        image.header.set_zooms((*frames[0].header.get_zooms(), 1.0))
        nibabel.save(image, target)
    found = encode_scan(load_run(place / "run"), scan, mask)
    assert found.crop.shape == found.label.shape == found.reconstruction.shape == (256, 128)
    row = pd.read_csv(place / "store" / "cases.csv").set_index("case").loc["patient001"]
    values = found.attributes.set_index("attribute")["measured"]
    for name in NAMES:
        assert values[name] == pytest.approx(row[name], rel=1e-6)
    store_codes = load_model(place / "run", place / "store", "cpu").encode(place / "store")
    table = pd.read_csv(place / "store" / "cases.csv")
    own = store_codes[table.index[table["case"] == "patient001"][0]]
    assert found.code == pytest.approx(own, abs=1e-3)


def test_a_store_of_ed_alone_is_refused_by_a_model_of_both(place, tmp_path):
    preprocess("acdc", place / "scans", tmp_path / "store", Recipe())
    arguments = [
        "cross-domain-eval",
        "--model",
        str(place / "run"),
        "--output",
        str(tmp_path / "e"),
    ]
    result = CliRunner().invoke(main, [*arguments, "--data", f"{tmp_path / 'store'}:val"])
    assert result.exit_code == 2
    assert "preprocess it with --phases ED,ES" in " ".join(result.output.split())


def test_a_drawn_data_set_is_one_of_two_phases(place, tmp_path):
    from cardiac_attrivae.data.store import SliceDataset
    from cardiac_attrivae.evaluation.drawn_data import draw_data_set

    store = SliceDataset.open(place / "store")
    table = draw_data_set(place / "run", 3, tmp_path / "drawn", like=store, device="cpu")
    assert set(SIX) < set(table.columns)
    assert nibabel.load(tmp_path / "drawn/images/heart00001.nii.gz").shape == (128, 128, 1, 2)
    assert "ES: 1" in (tmp_path / "drawn/dataset.yaml").read_text()
