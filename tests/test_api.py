"""The Python interface: a trained model asked for codes, slices, hearts and scores."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import cardiac_attrivae as ca
from cardiac_attrivae.attributes import AREAS
from cardiac_attrivae.schema import DataError

CHANGES = ("schedule.epochs=2", "schedule.steps_per_epoch=8")


@pytest.fixture(scope="module")
def store(acdc_store_all):
    return ca.open_store(acdc_store_all)


@pytest.fixture(scope="module")
def model(store, tmp_path_factory, hasty_segmenters):
    folder = tmp_path_factory.mktemp("runs") / "run"
    return ca.train("attri_vae_unguided", store, folder, CHANGES, device="cpu")


def test_importing_the_package_loads_nothing_heavy():
    program = "import sys, cardiac_attrivae as ca; dir(ca); print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", program], text=True).split()
    assert not {"torch", "numpy", "monai", "pandas"} & set(loaded)


def test_every_public_name_is_there_and_others_are_not():
    for name in ca.__all__:
        assert getattr(ca, name)
    with pytest.raises(AttributeError, match="'nothing'"):
        _ = ca.nothing


def test_a_slice_has_the_same_code_from_a_store_and_from_an_array(model, store):
    patients = store.split("test").basal()
    codes = model.encode(patients)
    again = model.encode(patients.images[:, 0].numpy())
    assert codes.shape == (len(patients), model.run.network.latent_size)
    assert (codes == again).all()
    assert (model.encode(patients.images) == codes).all()
    known = model.encode(store.folder)[store.is_basal & (store.cases["split"] == "test")]
    assert known == pytest.approx(codes, abs=1e-5)  # of other batches


def test_decoded_slices_are_those_of_the_network(model, store):
    patients = store.split("test").basal()
    slices = model.decode(model.encode(patients))
    assert slices.shape == (len(patients), 128, 128)
    assert slices.min() >= 0
    assert slices.max() <= 1


MISUSES = {
    "one slice": (lambda m, s: m.encode(s.images[0, 0]), r"shape \(128, 128\); expected \(N, 128"),
    "another size": (lambda m, s: m.encode(np.zeros((2, 64, 64))), r"expected \(N, 128, 128\)"),
    "raw values": (lambda m, s: m.encode(s.images * 4000), "from 0 to 4000; expected 0 to 1"),
    "NaN": (lambda m, s: m.encode(s.images * np.nan), "from nan to nan; expected 0 to 1"),
    "one code": (lambda m, s: m.decode(np.zeros(32)), r"one code; .* such as codes\[None\]"),
    "other codes": (lambda m, s: m.decode(np.zeros((2, 5))), r"\(2, 5\); expected \(N, 32\)"),
    "no numbers": (lambda m, s: m.decode(np.full((1, 32), np.inf)), "NaN or infinite"),
    "a folder that is none": (lambda m, s: m.encode("nowhere"), "no slice store in nowhere"),
    "a level of 95": (lambda m, s: m.read(s, level=95), "between 0 and 1"),
    "a level in words": (lambda m, s: m.read(s, level="95%"), "level is '95%'; expected a number"),
    "nothing": (lambda m, s: m.encode(None), "slices are None; expected a store, its folder or an"),
    "a dictionary": (lambda m, s: m.read({"a": 1}), "slices are {'a': 1}; expected a store"),
    "words": (lambda m, s: m.decode([["a"]]), r"codes are \[\['a'\]\]; expected an array"),
    "codes of two lengths": (lambda m, s: m.decode([[1, 2], [3]]), "expected an array of numbers"),
    "complex codes": (lambda m, s: m.decode(np.zeros((1, 32), complex)), "an array of numbers"),
    "a million steps": (lambda m, s: m.traverse(steps=10**6), "steps is 1000000; expected 2 to 51"),
    "half a step": (lambda m, s: m.surface(AREAS[:2], steps=2.5), "steps is 2.5; expected 2 to 51"),
    "no way": (lambda m, s: m.between(*s.cases["case"][:2], steps=1), "steps is 1; expected 2 to"),
    "a value in words": (lambda m, s: m.generate({"LVEDA": "28"}), "LVEDA is '28'; expected a num"),
    "two values": (lambda m, s: m.generate({"LVEDA": [9, 9]}), r"is \[9, 9\]; expected a number"),
    "a value of yes": (
        lambda m, s: m.generate({"LVEDA": True}),
        "LVEDA is True; expected a number",
    ),
    "a list of requests": (
        lambda m, s: m.generate([("LVEDA", 28)]),
        r"request is \[\('LVEDA', 28\)\]; expected values by attribute, such as {'LVEDA': 28}",
    ),
    "no request": (lambda m, s: m.generate(None), "request is None; expected values by attribute"),
    "two names in one text": (
        lambda m, s: m.surface("LVEDA,RVEDA"),
        r"names is 'LVEDA,RVEDA'; expected a list of two",
    ),
    "no names": (lambda m, s: m.surface(None), "names is None; expected a list of two attributes"),
    "out of reach": (
        lambda m, s: m.traverse(reach=-1),
        r"reach \(--range\) is -1; expected standard deviations",
    ),
}


@pytest.mark.parametrize("misuse", MISUSES)
def test_a_misuse_is_explained_in_a_sentence(model, store, misuse):
    call, message = MISUSES[misuse]
    with pytest.raises(ValueError, match=message):
        call(model, store)


def test_tensors_with_a_gradient_are_taken_as_numbers(model, store):
    slices = store.images[:2].clone().requires_grad_()
    codes = model.encode(slices)
    assert (codes == model.encode(store.images[:2])).all()
    assert (model.decode(torch.tensor(codes, requires_grad=True)) == model.decode(codes)).all()


def test_attributes_are_read_in_their_units_with_intervals(model, store):
    patients = store.split("train").basal()
    table = model.read(patients)
    assert list(table.columns) == ["case", "attribute", "value", "unit", "low", "high", "outside"]
    assert set(table["unit"]) == {"cm2"}
    assert list(table["case"][:3]) == [patients.cases["case"][0]] * 3
    true = patients.measured(AREAS).ravel()
    inside = (table["low"] <= true) & (true <= table["high"])
    assert inside.mean() > 0.8  # of 95 %: the five patients that the lines were fitted on
    assert table["value"].to_numpy() == pytest.approx(true, rel=0.6)
    narrow = model.read(patients.images, level=0.5)
    assert (narrow["value"] == table["value"]).all()
    assert (narrow["high"] - narrow["low"] < table["high"] - table["low"]).all()


def test_a_run_without_lines_says_so(model, store):
    from dataclasses import replace

    about = {key: value for key, value in model.run.about.items() if key != "calibration"}
    old = replace(model, run=replace(model.run, about=about))
    with pytest.raises(DataError, match="holds no lines from codes to attributes"):
        old.read(store)


def test_turning_starts_from_the_patient_and_is_measured(model, store):
    case = store.cases["case"].iloc[0]
    turned = model.traverse(case, steps=3)
    code = model.encode(store.basal().take([0]))
    still = model.decode(code)
    k = turned.calibration.dimensions[0]
    at = code.copy()
    at[0, k] = turned.calibration.positions(turned.places)[0, 1]
    assert turned.slices.shape[:2] == (len(AREAS), 3)
    assert turned.slices[0, 1, 0].numpy() == pytest.approx(model.decode(at)[0], abs=1e-5)
    assert np.abs(turned.slices[0, 1, 0].numpy() - still[0]).max() >= 0
    assert list(turned.table.columns) == [
        "attribute", "dimension", "step", "requested", "unit", "LV", "MYO", "RV",
    ]  # fmt: skip
    assert "<img" in turned._repr_html_()
    assert turned.title == case
    assert repr(turned) == "<Turned LVEDA, MEDA, RVEDA, 3 pictures each: see table, slices>"


def test_a_heart_on_request_says_what_was_asked_and_measured(model):
    heart = model.generate({"LVEDA": 20.0})
    row = heart.table.set_index("attribute").loc["LVEDA"]
    assert row["requested"] == 20
    assert row["measured_cm2"] == pytest.approx(heart.after.areas[0, 0])
    assert heart.slice.shape == (128, 128)
    shown = heart._repr_html_()
    assert "<img" in shown
    assert "LVEDA" in shown
    assert repr(heart).startswith("<Heart of LVEDA 20 cm2, from mean of the training patients")


def test_scores_show_as_a_table(model, store):
    scores = model.evaluate(store, "train", rounds=20)
    shown = scores._repr_html_()
    assert "SSIM_in_mask" in shown
    assert repr(scores).startswith("<Scored on 5 patients")
    with pytest.raises(ValueError, match="split"):
        model.evaluate(store, "all")


def test_a_model_shows_itself(model):
    assert "attri_vae_unguided, trained on acdc, seed 0: LVEDA, MEDA, RVEDA" in repr(model)
    assert "<img" in model._repr_html_()


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(DataError, match="no trained model"):
        ca.load_model(tmp_path)


def test_names_and_folders_may_be_given_as_text(acdc_tree, tmp_path):
    from cardiac_attrivae.data.check import check_dataset
    from cardiac_attrivae.data.preprocess import preprocess

    assert preprocess("acdc", str(acdc_tree), str(tmp_path / "store")).cases == 9
    assert sum(check_dataset("acdc", str(acdc_tree)).usable.values()) == 9
    with pytest.raises(DataError, match="no manifest 'ACDC', did you mean 'acdc'"):
        preprocess("ACDC", str(acdc_tree), str(tmp_path / "other"))
    with pytest.raises(DataError, match="no trained model in nowhere"):
        ca.cross_domain_eval("nowhere", str(tmp_path / "store"), tmp_path / "evaluation")
