"""A classifier is trained with the codes that it reads, and scored on other patients."""

import numpy as np
import pandas as pd
import pytest
import torch

from cardiac_attrivae.runtime.files import read_json
from cardiac_attrivae.schema import DataError
from cardiac_attrivae.training.config import parse_pipeline
from cardiac_attrivae.training.records import Records
from cardiac_attrivae.training.run import encode, load_run
from cardiac_attrivae.training.workflow import TrainingWorkflow

OBJECTIVE = {"name": "AttriVAEClassifier", "alpha": 1000.0, "gamma": 1.0}
VALUES = {
    "method": "classifier",
    "attributes": ["LVEDA", "RVEDA"],
    "network": {"arguments": {"latent_size": 4, "image_size": 32, "init": "he"}},
    "objective": OBJECTIVE,
    "data": {"batch_size": 8},
    "optimiser": {"lr": 2e-3},
    "schedule": {"epochs": 30, "evaluate_every": 30},
    "precision": "float32",
}


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch):
    monkeypatch.setattr(Records, "draw", lambda self: None)


@pytest.fixture
def slices(drawn_slices):
    """Basal slices of twelve patients: those with a large LV have DCM."""
    basal = drawn_slices.take(range(len(drawn_slices))).basal()
    area = basal.cases["LVEDA"]
    basal.cases["pathology"] = np.where(area > area.median(), "DCM", "NOR")
    return basal


def train(slices, folder, values=VALUES):
    pipeline = parse_pipeline(values)
    workflow = TrainingWorkflow(pipeline, slices, slices, folder, device="cpu")
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    return workflow


def test_a_class_that_the_lv_shows_is_learnt_and_kept_with_the_model(slices, tmp_path):
    slices.cases.loc[slices.cases.index[3], "pathology"] = ""
    with pytest.warns(UserWarning, match="1 training patient of .* without pathology"):
        train(slices, tmp_path / "run")
    history = pd.read_csv(tmp_path / "run" / "history.csv")
    assert history["train_classification"].iloc[-1] < 0.7 * history["train_classification"].iloc[0]
    assert history["val_Accuracy"].iloc[-1] > 0.8
    assert history["val_classification"].notna().iloc[-1]
    known = {"column": "pathology", "patients": 11, "without": 1}
    assert read_json(tmp_path / "run" / "summary.json")["classifier"] == known
    network = load_run(tmp_path / "run").network
    assert network.classifier.classes == ("DCM", "NOR")
    codes, _ = encode(network, slices.images)
    found = np.array(network.classifier.classes)[network.classifier(torch.tensor(codes)).argmax(1)]
    right = (found == slices.cases["pathology"])[slices.cases["pathology"] != ""].mean()
    assert right == pytest.approx(history["val_Accuracy"].iloc[-1])


def test_a_classifier_may_read_the_attributes_alone(slices, tmp_path):
    short = VALUES | {"schedule": {"epochs": 1}, "decorrelate": True}
    workflow = train(
        slices, tmp_path / "run", short | {"objective": OBJECTIVE | {"reads": "attributes"}}
    )
    assert workflow.learner.network.classifier.inputs == 2


def test_codes_that_will_be_moved_are_not_read(slices, tmp_path):
    with pytest.raises(ValueError, match="decorrelate: false, or reads: attributes"):
        train(slices, tmp_path / "run", VALUES | {"decorrelate": True})


def test_a_column_that_is_not_there_is_refused(slices, tmp_path):
    values = VALUES | {"objective": OBJECTIVE | {"column": "vendor"}}
    with pytest.raises(DataError, match="no column 'vendor'"):
        train(slices, tmp_path / "run", values)


@pytest.mark.parametrize("name", ["AttriVAE", "AttriVAEClassifier"])
def test_classes_are_filled_in_and_not_given(slices, tmp_path, name):
    arguments = VALUES["network"]["arguments"] | {"classifier": {"classes": ["A", "B"]}}
    values = VALUES | {"network": {"arguments": arguments}, "objective": {"name": name}}
    with pytest.raises(ValueError, match="leave it out, training fills it in"):
        train(slices, tmp_path / "run", values)


def test_validation_patients_without_a_class_have_no_accuracy(slices, tmp_path):
    unknown = slices.take(range(6))
    unknown.cases["pathology"] = ""
    pipeline = parse_pipeline(VALUES | {"schedule": {"epochs": 1}})
    workflow = TrainingWorkflow(pipeline, slices, unknown, tmp_path / "run", device="cpu")
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    history = pd.read_csv(tmp_path / "run" / "history.csv")
    assert "val_Accuracy" not in history
    assert history["val_classification"].iloc[0] == 0
