"""From a run and a store to predicted classes: who is scored, what is written, what is refused."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import check_one_call_at_a_time, heart, slices_of

from cardiac_attrivae.evaluation import diagnosis_samples
from cardiac_attrivae.evaluation.attention import attention, last_map
from cardiac_attrivae.evaluation.diagnosis import diagnose
from cardiac_attrivae.evaluation.diagnosis_samples import gather
from cardiac_attrivae.metrics.diagnosis import DIAGNOSIS
from cardiac_attrivae.models.beta_vae import BetaVAE
from cardiac_attrivae.models.vae import VAE
from cardiac_attrivae.runtime.device import find_device
from cardiac_attrivae.schema import DataError
from cardiac_attrivae.training.config import parse_pipeline
from cardiac_attrivae.training.run import encode, load_run
from cardiac_attrivae.training.workflow import train

SEEN, ALL = 12, 24
PIPELINE = {
    "method": "attri_vae", "attributes": ["LVEDA"], "objective": {"name": "AttriVAE", "gamma": 1.0},
    "network": {"arguments": {"latent_size": 4}}, "schedule": {"epochs": 1, "steps_per_epoch": 3},
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Hearts with a large or a small LV, and a model that was trained on half of them."""
    folder, random = tmp_path_factory.mktemp("diagnosis"), np.random.default_rng(0)
    wide = np.arange(ALL) % 2
    data = slices_of([[heart(32, 4 + 3 * w + random.uniform(0, 0.5), 3, 5)] for w in wide], folder)
    data.cases["pathology"] = np.where(wide == 1, "DCM", "NOR")
    data.cases["vendor"] = "Siemens"
    data.cases["side"] = np.where(np.arange(ALL) % 4 < 2, "left", "right")
    data.cases["spacing_z_mm"] += np.arange(ALL) / 100  # small hearts may have equal volumes
    train(parse_pipeline(PIPELINE), data.take(range(SEEN)), folder / "run", device="cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diagnosis_samples.SliceDataset, "open", lambda folder: data)
        yield folder, data


def gathered(world, column="pathology", within=False, data=None):
    with pytest.MonkeyPatch.context() as patch:
        if data is not None:
            patch.setattr(diagnosis_samples.SliceDataset, "open", lambda folder: data)
        run = load_run(world[0] / "run")
        return gather(run, [(world[0], None)], column, within, find_device("cpu"))


@pytest.fixture(scope="module")
def found(world):
    output = world[0] / "out"
    diagnose(world[0] / "run", [world[0]], output, rounds=20, permutations=1, device="cpu")
    return output


def test_patients_that_the_model_was_trained_on_are_never_scored(world, found):
    unseen = set(world[1].cases["case"][SEEN:])
    assert set(pd.read_csv(found / "predictions.csv")["case"]) == unseen
    about = json.loads((found / "diagnosis.json").read_text())
    assert (about["fitted_on"], about["patients"]) == (SEEN, {"drawn": ALL - SEEN})
    assert f"drawn: {SEEN} patients that the model was trained on are not scored." in about["notes"]


@pytest.mark.slow
def test_a_kill_between_two_files_leaves_those_of_one_call(world, tmp_path, monkeypatch):
    calls = [
        partial(diagnose, world[0] / "run", [world[0]], rounds=r, permutations=0, device="cpu")
        for r in (4, 5)
    ]
    check_one_call_at_a_time(*calls, tmp_path / "out", monkeypatch)


def test_classes_that_differ_in_size_are_read_from_measured_attributes(found):
    scores = pd.read_csv(found / "scores.csv")
    rows = scores[(scores["metric"] == "Balanced_accuracy") & (scores["class"] == "mean")]
    rows = rows.set_index(["features", "classifier"])["value"]
    assert rows["measured attributes", "logistic regression"] == 1
    assert rows["nothing", "majority class"] == 0.5
    assert set(scores["metric"]) == set(DIAGNOSIS)


@pytest.mark.slow
def test_the_classifier_of_a_model_is_scored_on_patients_that_it_has_not_seen(world, tmp_path):
    objective = {"name": "AttriVAEClassifier", "gamma": 1.0, "alpha": 1000.0}
    schedule = {"epochs": 3, "steps_per_epoch": 10}
    pipeline = parse_pipeline(PIPELINE | {"objective": objective, "schedule": schedule})
    data = world[1]
    train(pipeline, data.take(range(SEEN)), tmp_path / "run", device="cpu")
    diagnose(
        tmp_path / "run", [world[0]], tmp_path / "out", rounds=20, permutations=1, device="cpu"
    )
    said = pd.read_csv(tmp_path / "out" / "predictions.csv")
    said = said[said["features"] == "classifier of the model"]
    assert set(said["case"]) == set(data.cases["case"][SEEN:])
    run = load_run(tmp_path / "run")
    unseen = data.take(range(SEEN, ALL))
    codes = torch.as_tensor(encode(run.network, unseen.images)[0])
    expected = run.network.classifier(codes).softmax(dim=1).detach().numpy()
    columns = [f"p({name})" for name in run.network.classifier.classes]
    found = said.set_index("case").loc[unseen.cases["case"], columns]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    scores = pd.read_csv(tmp_path / "out" / "scores.csv")
    own = scores[scores["features"] == "classifier of the model"]
    assert own["p"].isna().all()
    assert "classifier of the model" in (tmp_path / "out" / "report.html").read_text("utf-8")


def test_a_classifier_of_another_column_has_no_row(world, tmp_path):
    objective = {"name": "AttriVAEClassifier", "gamma": 1.0, "column": "side"}
    data = world[1]
    pipeline = parse_pipeline(PIPELINE | {"objective": objective})
    train(pipeline, data.take(range(SEEN)), tmp_path / "run", device="cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diagnosis_samples.SliceDataset, "open", lambda folder: data)
        run = load_run(tmp_path / "run")
        for column, there in (("pathology", False), ("side", True)):
            cohort = gather(run, [(world[0], None)], column, False, find_device("cpu"))
            assert ("classifier of the model" in cohort.columns) == there


def test_importances_name_their_columns(found):
    table = pd.read_csv(found / "importance.csv")
    rows = table[table["features"] == "codes"]
    assert set(rows["column"]) == {"z0 (LVEDA)", "z1", "z2", "z3"}
    free = table[table["features"] == "free dimensions"]
    assert set(free["column"]) == {"z1", "z2", "z3"}


def test_pictures_and_page_are_written(found):
    page = (found / "report.html").read_text("utf-8")
    for metric in DIAGNOSIS.values():
        assert metric.label in page
        assert metric.meaning in page
    names = {file.name for file in (found / "figures").iterdir()}
    kinds = ("scores", "confusion", "reliability", "importance")
    assert {f"{kind}_drawn.png" for kind in (*kinds, "attention")} <= names


def test_attention_is_shared_out_among_the_structures_and_the_background(found):
    table = pd.read_csv(found / "attention.csv")
    assert table["place"].tolist() == ["LV", "MYO", "RV", "outside"]
    assert set(table["attribute"]) == {"LVEDA"}
    assert table["attention"].sum() == pytest.approx(1, abs=1e-5)
    assert table["pixels"].sum() == pytest.approx(1, abs=1e-5)


class Sum(VAE):
    """A dimension that is the sum of the left half of a map, which is the image itself."""

    def __init__(self):
        super().__init__(1, 16, 1, "linear", smallest=16)
        self.map = torch.nn.Conv2d(1, 1, 1, bias=False)
        self.map.weight.data.fill_(1)

    def posterior_of(self, image):
        left = self.map(image)[..., :8].sum((1, 2, 3))
        return torch.stack([left, left * 0], dim=1)


def test_attention_is_the_map_times_its_mean_gradient():
    image = torch.rand(2, 1, 16, 16)
    found = attention(Sum().eval(), image, 0)
    # the gradient is 1 on the left half and 0 on the right one: 1/2 in the mean
    assert found == pytest.approx(image[:, 0].numpy() / 2, abs=1e-5)


def test_a_network_without_a_map_has_no_attention():
    network = Sum()
    network.map.register_forward_hook(lambda _, __, output: output[..., :1, :1])
    assert last_map(network, torch.zeros(1, 1, 16, 16)) is None
    with pytest.raises(ValueError, match="no convolution with a map of 8 pixels a side"):
        attention(network, torch.zeros(1, 1, 16, 16), 0)


def test_attention_passes_over_convolutions_that_see_channels_one_by_one():
    network, image = (
        BetaVAE(image_size=64, channels=4, per_channel=[8, 8]).eval(),
        torch.rand(2, 4, 64, 64),
    )
    assert last_map(network, image) == "encoder.1"  # 8 x 8 of all channels
    assert attention(network, image, 0).shape == (2, 64, 64)


def test_within_unseen_patients_no_seen_one_is_used(world):
    cohort = gathered(world, within=True)
    known, new = cohort.samples("codes")
    assert known is None
    assert len(new["drawn"].labels) == ALL - SEEN


def test_a_seen_patient_is_known_under_another_id(world):
    other = world[1].take(range(ALL))
    other.cases["case"] = [f"other{n:02d}" for n in range(ALL)]
    other._masks = None
    seen = set(other.cases["case"][:SEEN])
    run = load_run(world[0] / "run")
    assert diagnosis_samples._seen(run, other, []) == seen


def test_rare_classes_are_left_out_and_named(world):
    data = world[1].take(range(ALL))
    data.cases.loc[[0, 20], "pathology"] = "HCM"
    cohort = gathered(world, data=data)
    assert cohort.classes == {"drawn": ["DCM", "NOR"]}
    assert "classes with fewer than 5 patients are left out: HCM (1)." in " ".join(cohort.notes)
    assert "1 patients of classes that no classifier was fitted on" in " ".join(cohort.notes)


def test_one_class_alone_is_refused(world):
    with pytest.raises(DataError, match=r"1 classes with at least 5 .*Siemens 12.*2 or more"):
        gathered(world, column="vendor")


def test_a_store_whose_patients_were_all_seen_is_refused(world):
    with pytest.raises(
        DataError, match=r"/run was trained on all patients of drawn: give patients"
    ):
        gathered(world, data=world[1].take(range(SEEN)))


def test_a_further_store_of_seen_patients_is_fitted_on_and_not_scored(world, monkeypatch):
    stores = {Path("seen"): range(SEEN), Path("new"): range(SEEN, ALL)}
    monkeypatch.setattr(
        diagnosis_samples.SliceDataset, "open", lambda folder: world[1].take(stores[folder])
    )
    run = load_run(world[0] / "run")
    cohort = gather(
        run, [(place, None) for place in stores], "pathology", False, torch.device("cpu")
    )
    assert {name: len(new.classes) for name, new in cohort.new.items()} == {"drawn-2": ALL - SEEN}
    assert len(cohort.known.classes) == SEEN


def test_a_store_without_seen_patients_needs_within(world):
    with pytest.raises(DataError, match="fit within the unseen patients: --within"):
        gathered(world, data=world[1].take(range(SEEN, ALL)))


def test_the_known_second_scan_of_a_seen_patient_is_not_scored(world):
    data = world[1].take(range(3))
    data.cases["case"], data.info = ["patient074", "patient076", "x"], {"dataset": "acdc"}
    assert diagnosis_samples._scanned_again(data, {"patient074"}) == {"patient076"}
    assert diagnosis_samples._scanned_again(data, set()) == {"patient076"}
