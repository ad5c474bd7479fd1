"""The tables of the package grow by one entry: it arrives wherever their entries are listed."""

import json

import pandas as pd
import pytest
from conftest import store_of, trained

from cardiac_attrivae.attributes import ATTRIBUTES, Attribute, Kind, check_names
from cardiac_attrivae.data.phantom import write_phantoms
from cardiac_attrivae.evaluation.cross_domain import cross_domain_eval
from cardiac_attrivae.evaluation.generation import generate
from cardiac_attrivae.export.explorer import explore
from cardiac_attrivae.report.page import write_report
from cardiac_attrivae.schema import Phase, Structure


@pytest.fixture(scope="module")
def diameter():
    """A new attribute: the diameter of a disc that has the area of the LV."""
    attribute = Attribute(
        "LVDIAM", "LV diameter at ED", "cm", Kind.LENGTH, Structure.LV, (Phase.ED,),
        lambda counts, spacing, index: ATTRIBUTES["LVEDA"].measure(counts, spacing, index) ** 0.5,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ATTRIBUTES, attribute.name, attribute)
        yield attribute


@pytest.fixture(scope="module")
def evaluated(diameter, hasty_segmenters, tmp_path_factory):
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
    rows = metrics[metrics["attribute"] == diameter.name].set_index("metric")
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
    with pytest.raises(ValueError, match=rf"unknown attribute 'LVEF'; .*{diameter.name}"):
        check_names(["LVEF"])
