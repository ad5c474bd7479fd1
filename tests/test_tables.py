"""The tables of the package grow by one entry: it arrives wherever their entries are listed."""

import json
from dataclasses import dataclass

import pandas as pd
import pytest
import torch
from conftest import store_of, trained
from torch import nn

from cardiac_attrivae.attributes import ATTRIBUTES, Attribute, Kind, check_names
from cardiac_attrivae.data.phantom import write_phantoms
from cardiac_attrivae.evaluation.cross_domain import cross_domain_eval
from cardiac_attrivae.evaluation.generation import generate
from cardiac_attrivae.export.explorer import explore
from cardiac_attrivae.metrics.codes import METRICS
from cardiac_attrivae.metrics.images import FIDELITY
from cardiac_attrivae.metrics.metric import Good, Metric, Section
from cardiac_attrivae.models.losses import AttriVAELoss
from cardiac_attrivae.models.networks import NETWORKS, build_network
from cardiac_attrivae.models.vae import VAE
from cardiac_attrivae.report.page import write_report
from cardiac_attrivae.runtime.validation import number, option
from cardiac_attrivae.schema import Phase, Structure
from cardiac_attrivae.training.config import parse_pipeline
from cardiac_attrivae.training.objectives import OBJECTIVES, AttriVAEObjective
from cardiac_attrivae.training.run import load_run
from cardiac_attrivae.training.search_space import Range, default_space
from cardiac_attrivae.training.workflow import train


@pytest.fixture(scope="module")
def diameter():
    """A new attribute: the diameter of a disc that has the area of the LV."""
    attribute = Attribute(
        "LVDIAM", "LV diameter at ED", "cm", Kind.LENGTH, Structure.LV, (Phase.ED,),
        lambda at: ATTRIBUTES["LVEDA"].measure(at) ** 0.5,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ATTRIBUTES, attribute.name, attribute)
        yield attribute


@pytest.fixture(scope="module")
def metrics():
    """A new score of codes, and a new score of images."""
    fit = Metric(
        "BestFit", "Best fit", "Largest R² over all dimensions.", Section.CODE,
        lambda m: (m.fit.max(axis=0), m.fit.argmax(axis=0)), digits=3, headline=True,
    )  # fmt: skip
    worst = Metric(
        "WorstPixel", "Worst pixel", "Largest absolute error of a pixel.", Section.PICTURES,
        lambda image, drawn, mask: abs(image - drawn).reshape(len(image), -1).max(axis=1),
        good=Good.LOW, headline=True,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METRICS, fit.name, fit)
        patch.setitem(FIDELITY, worst.name, worst)
        yield fit, worst


@pytest.fixture(scope="module")
def evaluated(diameter, metrics, hasty_segmenters, tmp_path_factory):
    """A store, a run that is trained on the new attribute, and its evaluation."""
    folder = tmp_path_factory.mktemp("new attribute")
    write_phantoms("acdc", folder / "scans", cases=20, cine=False)
    store = store_of("acdc", folder / "scans", folder / "store", "basal")
    run = trained(store, folder / "run", f"attributes=[{diameter.name},RVEDA]")
    cross_domain_eval([run], [store], folder / "evaluation", split="train", device="cpu", rounds=5)
    return folder


def test_a_new_attribute_is_a_column_of_cases_csv(evaluated, diameter):
    cases = pd.read_csv(evaluated / "store" / "cases.csv")
    assert (cases[diameter.name] ** 2).to_numpy() == pytest.approx(cases["LVEDA"].to_numpy())
    about = json.loads((evaluated / "store" / "dataset.json").read_text())
    assert about["attributes"][diameter.name] == diameter.unit


def test_a_new_attribute_is_scored_in_its_unit(evaluated, diameter):
    metrics = pd.read_csv(evaluated / "evaluation" / "metrics.csv")
    mine = (metrics["attribute"] == diameter.name) & (metrics["model"] == "run")
    rows = metrics[mine].set_index("metric")
    assert {"Interpretability_fixed", "SCC", "Control", "R2", "MAE"} <= set(rows.index)
    assert rows.loc["MAE", "unit"] == diameter.unit
    assert pd.isna(rows.loc["Control_error", "value"])  # areas are measured, it is none


def test_a_new_attribute_is_in_the_report(evaluated, diameter):
    page = write_report([evaluated / "evaluation"], evaluated / "report")
    assert diameter.name in page.read_text(encoding="utf-8")
    assert diameter.name in (evaluated / "report" / "table.md").read_text(encoding="utf-8")


def test_a_new_attribute_is_a_slider_of_the_explorer(evaluated, diameter):
    explore(evaluated / "run", evaluated / "explorer", device="cpu")
    sliders = json.loads((evaluated / "explorer" / "data.json").read_text())["attributes"]
    assert [slider["name"] for slider in sliders] == [diameter.name, "RVEDA"]
    assert (sliders[0]["long"], sliders[0]["unit"]) == (diameter.label, diameter.unit)


def test_a_new_attribute_can_be_requested(evaluated, diameter):
    table, _ = generate(evaluated / "run", {diameter.name: 4.0}, evaluated / "heart", device="cpu")
    row = table.set_index("attribute").loc[diameter.name]
    assert (row["requested"], row["unit"], row["structure"]) == (4.0, "cm", "LV")
    assert pd.isna(row["error_cm2"])


def test_a_new_attribute_is_named_where_a_wrong_one_is_refused(diameter):
    with pytest.raises(
        ValueError, match=rf"unknown attribute 'LVGLS'.*; expected .*{diameter.name}"
    ):
        check_names(["LVGLS"])


def test_a_new_metric_is_scored_and_compared_with_its_null_distribution(evaluated, metrics):
    fit, worst = metrics
    table = pd.read_csv(evaluated / "evaluation" / "metrics.csv")
    rows = table[table["metric"] == fit.name].set_index("attribute")
    assert set(rows.index) == {"LVDIAM", "RVEDA", "mean"}
    assert (rows["low"] < rows["value"]).all()
    assert rows["null_95"].notna().all()
    means = table[table["attribute"] == "mean"].set_index("metric")["value"]
    assert means[fit.name] >= means["Interpretability"]
    rows = table[table["metric"] == worst.name].set_index("model")["value"]
    assert rows["black image"] == pytest.approx(1, abs=0.01)
    assert worst.name in pd.read_csv(evaluated / "evaluation" / "patients.csv")


def test_a_new_metric_is_in_the_report_as_its_entry_says(evaluated, metrics):
    page = write_report([evaluated / "evaluation"], evaluated / "report").read_text("utf-8")
    for metric in metrics:
        assert f'<th scope="col">{metric.label}</th>' in page
        assert f"{metric.label}: {metric.meaning}" in page
    table = pd.read_csv(evaluated / "evaluation" / "metrics.csv").set_index("attribute")
    value = table[table["metric"] == "BestFit"]["value"]["mean"]
    assert f"{value:.3f}".removeprefix("0") in page
    assert "Best fit" in (evaluated / "report" / "table.md").read_text("utf-8")
    assert "Worst pixel" in (evaluated / "report" / "table.md").read_text("utf-8")
    assert "BestFit" in set(pd.read_csv(evaluated / "report" / "scores.csv")["metric"])


def test_a_new_metric_is_a_curve_of_training(evaluated, metrics):
    history = pd.read_csv(evaluated / "run" / "history.csv")
    assert f"val_{metrics[1].name}" in history  # code scores need 5 patients of validation


@dataclass(frozen=True)
class Robust(AttriVAEObjective):
    """A new objective: Attri-VAE, whose terms are divided by one plus a share of themselves."""

    name: str = "Robust"
    bend: float = option(0.1, number(0.01, 10), searched=True)

    def make_loss(self):
        plain = AttriVAELoss(**self.values("bend"))

        class Bent(torch.nn.Module):
            def forward(loss, *arguments):
                return {name: t / (1 + self.bend * t) for name, t in plain(*arguments).items()}

        return Bent()


@pytest.fixture
def objective(monkeypatch):
    monkeypatch.setitem(OBJECTIVES, Robust.name, Robust)
    return {"name": Robust.name, "bend": 0.5}


def test_a_new_objective_trains(objective, drawn_slices, tmp_path):
    values = {"method": "robust", "attributes": ["LVEDA"], "objective": objective | {"gamma": 1}}
    values |= {"network": {"arguments": {"latent_size": 4}}, "schedule": {"epochs": 1}}
    run = train(parse_pipeline(values), drawn_slices, tmp_path / "run", device="cpu")
    assert run.records.history.rows[0]["train_loss"] < 3 / 0.5  # three terms below 1 / bend each
    assert load_run(tmp_path / "run").pipeline.objective == Robust(gamma=1.0, bend=0.5)


def test_a_new_objective_is_named_where_a_wrong_one_is_refused(objective):
    values = {"method": "robust", "attributes": ["LVEDA"]}
    with pytest.raises(ValueError, match=r"'Robst'; expected one of AttriVAE, .*, Refiner, Robust"):
        parse_pipeline(values | {"objective": {"name": "Robst"}})
    with pytest.raises(ValueError, match=r"unknown key objective.bnd, did you mean 'bend'"):
        parse_pipeline(values | {"objective": {"name": "Robust", "bnd": 1}})
    with pytest.raises(ValueError, match="objective.bend is 11; expected a number from 0.01 to"):
        parse_pipeline(values | {"objective": objective | {"bend": 11}})


def test_a_new_objective_is_searched_as_its_entry_says(objective):
    pipeline = parse_pipeline({"method": "m", "attributes": ["LVEDA"], "objective": objective})
    assert default_space(pipeline)["objective.bend"] == Range(0.05, 5.0, True)


@pytest.fixture
def linear():
    """A new network: one linear layer each way."""

    class Linear(VAE):
        def __init__(self, latent_size=4, image_size=128, channels=1):
            super().__init__(latent_size, image_size, channels, "sigmoid", smallest=16)
            pixels = channels * image_size**2
            shape = (channels, image_size, image_size)
            self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 2 * latent_size))
            self.decoder = nn.Sequential(nn.Linear(latent_size, pixels), nn.Unflatten(1, shape))

        def posterior_of(self, image):
            return self.encoder(image)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NETWORKS, "Linear", Linear)
        yield Linear


@pytest.mark.parametrize("pipeline", ["attri_vae_unguided", "attri_sivae_unguided"])
def test_a_new_network_is_trained_by_every_objective_and_read_again(
    linear, evaluated, tmp_path, pipeline
):
    run = trained(evaluated / "store", tmp_path / "run", "network.name=Linear", pipeline=pipeline)
    network = load_run(run).network
    assert type(network) is linear
    history = pd.read_csv(run / "history.csv")
    assert history["train_reconstruction"].notna().all()


def test_a_new_network_is_named_where_a_wrong_one_is_refused(linear):
    with pytest.raises(ValueError, match="unknown network 'Lnear', did you mean 'Linear'"):
        build_network("Lnear")
