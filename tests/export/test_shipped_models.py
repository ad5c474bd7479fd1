"""Shipped models: cards and weights belong together, nothing of a patient, no data needed."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from cardiac_attrivae.cli.main import main
from cardiac_attrivae.data.phantom import write_phantoms
from cardiac_attrivae.runtime import shipped_models as shipped
from cardiac_attrivae.runtime.provenance import digest
from cardiac_attrivae.runtime.shipped_models import model_folder, shipped_models
from cardiac_attrivae.runtime.weights import read_weights, weights_digest
from cardiac_attrivae.schema import DataError
from cardiac_attrivae.training.facts import PRIVATE
from cardiac_attrivae.training.run import decode, load_run, shared_weights

pytestmark = pytest.mark.xdist_group("shipped")  # one shipped model for all

BUNDLES = sorted(folder.parent for folder in shipped.PRETRAINED.glob("*/*/models"))
BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "pretrained.py"
MOST_BYTES = 12_000_000


def check_bundle(folder):
    """Fails unless card, licence and weights of a shipped model belong together."""
    file = folder / "models" / "model.safetensors"
    card = (folder / "docs" / "README.md").read_text()
    metadata = json.loads((folder / "configs" / "metadata.json").read_text())
    assert metadata["weights_sha256"] == digest(file)
    assert digest(file) in card
    licence = (folder / "LICENSE").read_text()
    for text in (card, licence):
        assert "CC BY-NC-SA 4.0" in text
        assert "Apache" in text
    assert "10.1109/TMI.2018.2837502" in card
    weights, about = read_weights(file)
    assert not {*PRIVATE, "summary", "sha256_of"} & about.keys()
    assert "patient0" not in json.dumps(about)
    painting = folder / "models" / "refiner" / "model.safetensors"
    if painting.is_file():
        assert digest(painting) in card
        _, about = read_weights(painting)
        assert about.keys() == {"pipeline", "base"}
        whole = weights | shared_weights(folder / "models")
        assert about["base"]["sha256"] == weights_digest(whole)


def check_drawn(name):
    """Fails unless a shipped model draws smoothly by itself, and with its refiner if asked."""
    plain, refined = load_run(name), load_run(name, plain=False)
    assert plain.refiner is None
    code = np.array(plain.about["code_mean"])[None]
    smooth, painted = (decode(run.painter, code).numpy() for run in (plain, refined))
    roughness = [np.abs(np.diff(drawn[..., 40:88, 40:88])).mean() for drawn in (smooth, painted)]
    assert roughness[1] > 1.4 * roughness[0]  # outlines are crisp in both


def test_a_shipped_model_draws_with_its_refiner_if_it_is_asked_to():
    check_drawn("acdc")
    with pytest.raises(DataError, match="^acdc/attri_vae_fast has no refiner"):
        load_run("acdc/attri_vae_fast", plain=False)


def test_shipped_models_share_one_guide():
    files = [*shipped.PRETRAINED.glob("*/*/models/**/model.safetensors")]
    assert len(files) == 3
    assert not any(name.startswith("guide.") for file in files for name in read_weights(file)[0])
    guides = [load_run(name).network.guide for name in ("acdc/attri_vae_fast", "acdc")]
    guides.append(load_run("acdc", plain=False).refiner.guide)
    assert len({weights_digest(guide.state_dict()) for guide in guides}) == 1


def test_all_shipped_models_together_are_small():
    size = sum(f.stat().st_size for f in shipped.PRETRAINED.rglob("*") if f.is_file())
    assert size < MOST_BYTES


@pytest.mark.parametrize("folder", BUNDLES, ids=lambda folder: folder.name)
def test_card_and_weights_belong_together(folder):
    check_bundle(folder)


def test_the_name_of_a_data_set_stands_for_its_default_or_its_first_model(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "PRETRAINED", tmp_path)
    for name, first in (("attri_vae_fast", "attri_vae_fast"), ("attri_sivae_fast",) * 2):
        (tmp_path / "acdc" / name / "models").mkdir(parents=True)
        (tmp_path / "acdc" / name / "models" / "model.safetensors").touch()
        assert shipped_models()[0] == "acdc"
        assert model_folder("acdc") == tmp_path / "acdc" / first / "models"
    assert model_folder("acdc/attri_vae_fast").parent.name == "attri_vae_fast"


def test_a_folder_of_the_users_comes_before_a_shipped_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("acdc").mkdir()
    assert model_folder("acdc") == Path("acdc")
    assert model_folder("runs/mine") == Path("runs/mine")


def invoke(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def made(tmp_path_factory, hasty_segmenters):
    """What the script ships, of twelve phantoms and short trainings, in the place of the real."""
    folder = tmp_path_factory.mktemp("shipped")
    write_phantoms("acdc", folder / "ACDC", 18, cine=False)
    specification = importlib.util.spec_from_file_location("benchmark_pretrained", BENCHMARK)
    script = importlib.util.module_from_spec(specification)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, specification.name, script)
        specification.loader.exec_module(script)
        short = ["schedule.epochs=1", "schedule.steps_per_epoch=3", "data.batch_size=4"]
        short += ["objective.control=0", "objective.anatomy=0"]
        words = ["--source", folder / "ACDC", "--work", folder / "work"]
        words += ["--output", folder / "pretrained" / "acdc"]
        words += [
            word for change in (*short, "objective.vae_epochs=0") for word in ("--set", change)
        ]
        tiny = ["network.arguments.filters=[8, 8, 8]", "network.arguments.steps=2"]
        words += [word for change in (*short[:3], *tiny) for word in ("--set-refiner", change)]
        patch.setattr(script, "PIPELINES", ("attri_sivae_fast",))
        done = CliRunner().invoke(script.main, [str(word) for word in words])
        assert done.exit_code == 0, (done.output, done.exception)
        patch.setattr(shipped, "PRETRAINED", folder / "pretrained")
        yield folder


@pytest.mark.slow
def test_the_script_ships_a_model_whose_card_belongs_to_it(made):
    folder = made / "pretrained" / "acdc" / "attri_sivae_fast"
    file = folder / "models" / "model.safetensors"
    metadata = json.loads((folder / "configs" / "metadata.json").read_text())
    card = (folder / "docs" / "README.md").read_text()
    assert metadata["weights_sha256"] == digest(file)
    assert digest(file) in card
    assert "--model acdc/attri_sivae_fast" in card
    assert digest(folder / "models" / "refiner" / "model.safetensors") in card
    assert load_run("acdc", plain=False).refiner is not None
    run, other = load_run("acdc"), load_run(made / "work" / "attri_sivae_fast")
    assert run.about["population"] == other.about["population"]
    assert not {*PRIVATE, "summary"} & run.about.keys()


@pytest.mark.slow
def test_every_command_works_by_the_name_alone(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shipped_models() == ["acdc", "acdc/attri_sivae_fast"]
    for words in (
        ("generate", "--model", "acdc", "--set", "LVEDA=20", "--output", "heart"),
        ("traverse", "--model", "acdc", "--output", "turned", "--steps", "2"),
        ("generate", "--model", "acdc", "--set", "LVEDA=20", "--refined", "--output", "painted"),
        ("explore", "--model", "acdc/attri_sivae_fast", "--output", "explorer"),
        ("export", "--model", "acdc", "--format", "bundle", "--output", "bundle"),
    ):
        done = invoke(*words)
        assert done.exit_code == 0, done.output
    data = json.loads(Path("explorer/data.json").read_text())
    assert data["generated"]
    assert data["cases"][0]["case"] == "generated 01"
    assert "generated hearts" in invoke(
        "explore", "--model", "acdc", "--output", "explorer"
    ).output  # fmt: skip
    assert Path("bundle/configs/inference.json").is_file()
    scan = next((made / "ACDC" / "training").rglob("*frame01.nii.gz"))
    mask = scan.with_name(scan.name.replace(".nii.gz", "_gt.nii.gz"))
    done = invoke(
        "encode", "--model", "acdc", "--source", scan, "--mask", mask, "--mask-labels",
        "LV=3,MYO=2,RV=1", "--output", "codes",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    table = pd.read_csv("codes/codes.csv")
    assert table["percentile"].between(0, 100).all()
    done = invoke(
        "generate", "--model", "acdc", "--set", "LVEDA=20", "--case", "p", "--output", "x"
    )
    assert done.exit_code == 2
    assert "shipped without patients" in done.output
