"""Drawn hearts as a data set: read like any other, as many and as large as was asked."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from scipy.stats import spearmanr

from cardiac_attrivae.cli.main import main
from cardiac_attrivae.data.manifest import load_manifest
from cardiac_attrivae.data.preprocess import preprocess
from cardiac_attrivae.data.recipe import Recipe
from cardiac_attrivae.data.store import SliceDataset
from cardiac_attrivae.evaluation import drawn_data
from cardiac_attrivae.evaluation.drawn_data import draw_data_set, wanted_like
from cardiac_attrivae.evaluation.generation import generate
from cardiac_attrivae.metrics.population import Population
from cardiac_attrivae.runtime.folders import MARKER
from cardiac_attrivae.runtime.shipped_models import model_folder
from cardiac_attrivae.schema import DataError

NAMES = ("LVEDA", "MEDA", "RVEDA")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Eight hearts of the shipped model, LV from 15 to 35 cm2."""
    folder = tmp_path_factory.mktemp("drawn") / "hearts"
    return folder, draw_data_set(model_folder("acdc"), 8, folder, request={"LVEDA": (15, 35)})


def test_hearts_have_the_requested_areas(drawn):
    _, table = drawn
    assert table["requested_LVEDA"].between(15, 35).all()
    assert spearmanr(table["requested_LVEDA"], table["LV"]).statistic > 0.9
    assert (table["LV"] - table["requested_LVEDA"]).abs().median() < 1


def test_files_hold_what_the_table_says(drawn):
    folder, table = drawn
    listed = pd.read_csv(folder / "hearts.csv")
    for row in listed.to_dict("records"):
        mask = nib.load(folder / "masks" / f"{row['case']}.nii.gz")
        pixel = np.prod(mask.header.get_zooms()[:2]) / 100
        counts = [(np.asarray(mask.dataobj) == label).sum() for label in (1, 2, 3)]
        assert np.multiply(counts, pixel) == pytest.approx(
            [row["LV"], row["MYO"], row["RV"]], abs=1e-3
        )
    assert len(listed) == len(table) == 8


def test_the_manifest_leads_to_a_store_with_the_same_areas(drawn, tmp_path):
    folder, table = drawn
    manifest = load_manifest(str(folder / "dataset.yaml"))
    preprocess(manifest, folder, tmp_path / "store", Recipe())
    store = SliceDataset.open(tmp_path / "store")
    assert len(store) == 8
    areas = store.attributes(NAMES)
    expected = table.set_index("case").loc[store.cases["case"], ["LV", "MYO", "RV"]]
    np.testing.assert_allclose(areas, expected, rtol=1e-3)


def test_a_seed_fixes_the_hearts_and_a_smaller_call_leaves_no_old_ones(drawn, tmp_path):
    _, table = drawn
    again = draw_data_set(model_folder("acdc"), 8, tmp_path, request={"LVEDA": (15, 35)})
    pd.testing.assert_frame_equal(again, table)
    draw_data_set(model_folder("acdc"), 3, tmp_path, seed=1)
    assert len(list((tmp_path / "images").iterdir())) == 3


def test_an_interrupted_call_leaves_no_data_set_of_two_calls(tmp_path, monkeypatch):
    monkeypatch.setattr(drawn_data, "BATCH", 1)

    def interrupted(batches, total):
        yield next(iter(batches))
        raise KeyboardInterrupt

    draw_data_set(model_folder("acdc"), 2, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        draw_data_set(model_folder("acdc"), 3, tmp_path, seed=1, progress=interrupted)
    assert not (tmp_path / "dataset.yaml").exists()
    assert not (tmp_path / "hearts.csv").exists()
    draw_data_set(model_folder("acdc"), 1, tmp_path)
    for folder in ("images", "masks"):
        assert [file.name for file in (tmp_path / folder).iterdir()] == ["heart00001.nii.gz"]


def test_a_single_heart_takes_the_place_of_a_data_set_and_a_data_set_that_of_a_heart(tmp_path):
    model, request = model_folder("acdc"), {"LVEDA": 25.0}
    draw_data_set(model, 2, tmp_path)
    generate(model, request, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        MARKER, "measured.csv", "slice.nii.gz", "labels.nii.gz", "slice.png"
    }  # fmt: skip
    draw_data_set(model, 1, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        MARKER, "hearts.csv", "dataset.yaml", "README.md", "images", "masks"
    }  # fmt: skip


def test_areas_like_those_of_patients(acdc_store_all):
    patients = SliceDataset.open(acdc_store_all)
    real = patients.basal().attributes(NAMES)
    drawn = wanted_like(patients, NAMES, 4000, seed=0)
    np.testing.assert_allclose(drawn.mean(0), real.mean(0), rtol=0.05)
    np.testing.assert_allclose(np.corrcoef(drawn.T), np.corrcoef(real.T), atol=0.15)
    assert (drawn >= real.min(0) / 2).all()
    few = patients.take(np.flatnonzero(patients.cases["case"].isin(patients.cases["case"][:1])))
    with pytest.raises(DataError, match="expected 5 or more"):
        wanted_like(few, NAMES, 3, seed=0)


def test_a_model_that_does_not_know_its_patients_is_refused(drawn, monkeypatch, tmp_path):
    monkeypatch.setattr(Population, "of_facts", lambda facts: None)
    with pytest.raises(DataError, match="does not say how the codes .* train it again"):
        draw_data_set(model_folder("acdc"), 3, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_draws_a_data_set_and_says_how_to_go_on(tmp_path):
    place = tmp_path / "drawn"
    words = ["generate", "--model", "acdc", "--count", "2", "--set", "LVEDA=20:30", "--plain"]
    done = CliRunner().invoke(main, [*words, "--output", str(place)], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    assert "Drew 2 hearts" in done.stdout
    assert f"preprocess --dataset {place / 'dataset.yaml'}" in done.stderr + done.stdout
    assert len(list((place / "masks").iterdir())) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "LVEDA=20:30"], "is a range, which needs --count"),
        (["--like", "stores/acdc"], "needs --count"),
        (["--set", "LVEDA=20", "--seed", "5"], "--seed 5 needs --count"),
        ([], "give --set ATTRIBUTE=VALUE, for one heart, or --count N"),
        (["--count", "3", "--case", "p1"], "exclude each other"),
        (["--count", "3", "--set", "LVEDA=30:20"], "expected ATTRIBUTE=NUMBER"),
        (["--count", "3", "--like", "absent"], "absent"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_a_sentence(options, message, tmp_path):
    result = CliRunner().invoke(
        main, ["generate", "--model", "acdc", "--output", str(tmp_path / "out"), *options]
    )
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "out").exists()
