"""Models x data sets: what metrics.csv, codes and table.md hold, and what is refused."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from cardiac_attrivae.config import load_pipeline
from cardiac_attrivae.evaluation import COLUMNS, FLOOR, cross_domain_eval
from cardiac_attrivae.fidelity import FIDELITY
from cardiac_attrivae.inference import encode, load_run
from cardiac_attrivae.metrics import METRICS, score
from cardiac_attrivae.schema import DataError, LatentTable
from cardiac_attrivae.slices import SliceDataset
from cardiac_attrivae.workflow import TrainingWorkflow


@pytest.fixture(scope="module")
def run(acdc_store_all, tmp_path_factory):
    """A run of the fast pipeline, three steps long."""
    store = SliceDataset.open(acdc_store_all)
    short = ("schedule.epochs=1", "schedule.steps_per_epoch=3", "data.batch_size=8")
    pipeline = load_pipeline("attri_vae_fast", short)
    folder = tmp_path_factory.mktemp("runs") / "mine"
    workflow = TrainingWorkflow(
        pipeline, store.split("train"), store.split("val"), folder, device="cpu"
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    return folder


@pytest.fixture(scope="module")
def evaluation(run, acdc_store_all, mnms_store_all, tmp_path_factory):
    output = tmp_path_factory.mktemp("evaluation") / "out"
    metrics = cross_domain_eval(
        [run], [acdc_store_all, mnms_store_all], output, split="train", device="cpu"
    )
    return output, metrics


def test_metrics_csv_is_tidy_and_names_every_score_of_every_attribute(evaluation):
    output, metrics = evaluation
    assert tuple(metrics.columns) == COLUMNS
    assert len(pd.read_csv(output / "metrics.csv")) == len(metrics)
    home = metrics[(metrics["model"] == "mine") & (metrics["test_dataset"] == "acdc")]
    assert set(home["metric"]) == set(METRICS) | set(FIDELITY)
    assert not home.duplicated(["metric", "attribute"]).any()
    for metric in METRICS.keys() - {"Modularity"}:
        rows = home[home["metric"] == metric].set_index("attribute")["value"]
        assert set(rows.index) == {"LVEDA", "MEDA", "RVEDA", "mean"}
        assert rows["mean"] == pytest.approx(rows.drop("mean").mean())
    assert set(home["train_dataset"]) == {"acdc"}
    assert set(home["method"]) == {"attri_vae_fast"}


def test_scores_are_those_of_codes_and_masks(evaluation, run, acdc_store_all):
    _, metrics = evaluation
    patients = SliceDataset.open(acdc_store_all).split("train").basal()
    names = ("LVEDA", "MEDA", "RVEDA")
    codes = encode(load_run(run).network, patients.images)[0]
    table = LatentTable(
        tuple(patients.cases["case"]), codes, patients.measured(names), names, (0, 1, 2)
    )
    mine = metrics[(metrics["model"] == "mine") & (metrics["test_dataset"] == "acdc")]
    found = mine.set_index(["metric", "attribute"])["value"]
    for row in score(table):
        assert found[row.metric, row.attribute] == pytest.approx(row.value, abs=1e-5)
    assert set(mine["n"]) == {len(patients)}


def test_codes_hold_a_row_per_patient_with_names(evaluation, acdc_store_all):
    codes = pd.read_csv(evaluation[0] / "codes_mine_acdc.csv", dtype={"case": str})
    patients = SliceDataset.open(acdc_store_all).split("train").basal()
    assert codes["case"].tolist() == patients.cases["case"].tolist()
    assert {"LVEDA", "MEDA", "RVEDA", "z0", "z31", "domain"} <= set(codes)
    assert codes["LVEDA"].to_numpy() == pytest.approx(patients.attributes(["LVEDA"])[:, 0])


def test_a_black_image_stands_beside_the_models(evaluation):
    _, metrics = evaluation
    floor = metrics[metrics["model"] == FLOOR].set_index(["test_dataset", "metric"])["value"]
    for dataset in ("acdc", "mnms"):
        assert floor[dataset, "SSIM"] > 0.3  # the background alone
        assert floor[dataset, "SSIM_in_mask"] < 0.1


def test_table_and_pictures_are_written(evaluation):
    output, metrics = evaluation
    text = (output / "table.md").read_text()
    assert "| attri_vae_fast | acdc " in text
    value = metrics.query("model == 'mine' and test_dataset == 'acdc' and metric == 'SAP'")
    mean = value.set_index("attribute")["value"]["mean"]
    row = next(line for line in text.splitlines() if line.startswith("| attri_vae_fast"))
    assert row.split("|")[6].split("/")[0].strip() == f"{mean:.2f}"
    pictures = {file.name for file in (output / "figures").iterdir()}
    assert pictures == {
        "mine_traversals.png",
        "mine_acdc_reconstructions.png",
        "mine_acdc_scatter.png",
        "mine_mnms_reconstructions.png",  # and no scatter: it has too few patients
    }


def test_the_order_of_attributes_changes_no_score(run, acdc_store_all, tmp_path):
    def scores(names, folder):
        metrics = cross_domain_eval(
            [run], [acdc_store_all], folder, split="train", attributes=names, device="cpu"
        )
        return metrics.set_index(["model", "metric", "attribute"])["value"].sort_index()

    one = scores(["LVEDA", "MEDA", "RVEDA"], tmp_path / "one")
    other = scores(["RVEDA", "LVEDA", "MEDA"], tmp_path / "other")
    pd.testing.assert_series_equal(one, other)


def test_attributes_that_were_not_trained_have_no_fixed_score(run, acdc_store_all, tmp_path):
    metrics = cross_domain_eval(
        [run], [acdc_store_all], tmp_path, split="train", attributes=["LVEDV"], device="cpu"
    )
    values = metrics.set_index(["metric", "attribute"])["value"]
    assert np.isnan(values["Interpretability_fixed", "LVEDV"])
    assert np.isfinite(values["Interpretability", "LVEDV"])


def test_two_runs_of_one_name_are_told_apart(run, acdc_store_all, tmp_path):
    twin = tmp_path / "elsewhere" / "mine"
    shutil.copytree(run, twin)
    metrics = cross_domain_eval(
        [run, twin], [acdc_store_all], tmp_path / "out", split="train", device="cpu"
    )
    assert set(metrics["model"]) == {"mine", "mine-2", FLOOR}


def test_an_empty_split_is_refused_with_those_there_are(run, mnms_store_all, tmp_path):
    info = json.loads((mnms_store_all / "dataset.json").read_text())
    empty = [split for split, count in info["splits"].items() if not count]
    if not empty:
        empty, store = ["val"], tmp_path / "store"
        shutil.copytree(mnms_store_all, store)
        cases = pd.read_csv(store / "cases.csv")
        cases["split"] = "train"
        cases.to_csv(store / "cases.csv", index=False)
        from cardiac_attrivae.slices import content_hash

        info |= {"content_hash": content_hash(store), "splits": {"train": 7, "val": 0, "test": 0}}
        (store / "dataset.json").write_text(json.dumps(info))
        mnms_store_all = store
    with pytest.raises(DataError, match=rf"no {empty[0]} patients .*--split"):
        cross_domain_eval([run], [mnms_store_all], tmp_path / "o", split=empty[0], device="cpu")
    assert not (tmp_path / "o").exists()


def test_slices_cropped_otherwise_are_refused(run, acdc_tree, tmp_path):
    from cardiac_attrivae.manifest import load_manifest
    from cardiac_attrivae.preprocess import preprocess
    from cardiac_attrivae.transforms import Recipe

    preprocess(load_manifest("acdc"), acdc_tree, tmp_path / "coarse", Recipe(spacing=1.5))
    with pytest.raises(DataError, match=r"spacing 1\.3 and .* has 1\.5"):
        cross_domain_eval([run], [tmp_path / "coarse"], tmp_path / "o", split="train", device="cpu")


def test_a_folder_without_a_model_is_refused(acdc_store_all, tmp_path):
    with pytest.raises(DataError, match="no trained model"):
        cross_domain_eval([tmp_path], [acdc_store_all], tmp_path / "o", device="cpu")
