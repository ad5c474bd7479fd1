"""A run whose network is told the diagnosis: from cases.csv to what is scored and drawn."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from conftest import masks_apart, quick_guide, trained

from cardiac_attrivae.api import load_model
from cardiac_attrivae.cli.main import main
from cardiac_attrivae.data.cases import find_cases
from cardiac_attrivae.data.manifest import load_manifest
from cardiac_attrivae.data.store import SliceDataset
from cardiac_attrivae.evaluation.cross_domain import cross_domain_eval
from cardiac_attrivae.evaluation.diagnosis_samples import _encoded
from cardiac_attrivae.evaluation.encoding_batch import encode_scans
from cardiac_attrivae.evaluation.passes import codes_of
from cardiac_attrivae.evaluation.studio import Studio
from cardiac_attrivae.export.bundle import export
from cardiac_attrivae.export.bundle_inference import bundled_network
from cardiac_attrivae.metrics.control import STEPS
from cardiac_attrivae.models.networks import build_network
from cardiac_attrivae.schema import DataError
from cardiac_attrivae.training.config import load_pipeline
from cardiac_attrivae.training.fitted import fitted
from cardiac_attrivae.training.run import decode, encode, load_run

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(acdc_store, tmp_path_factory):
    """A run of three steps, long enough to heed what it is told."""
    fast = ("optimiser.lr=0.004", "optimiser.warmup=0", "optimiser.average=0")
    told = tmp_path_factory.mktemp("runs") / "told"
    return trained(acdc_store, told, *fast, pipeline="attri_vae_conditional")


@pytest.fixture(scope="module")
def store(acdc_store):
    return SliceDataset.open(acdc_store)


def test_a_run_knows_the_categories_of_its_training_patients_alone(folder, store):
    run = load_run(folder)
    known = sorted(set(store.split("train").cases["pathology"]))
    assert (run.condition, list(run.network.categories)) == ("pathology", known)
    assert set(store.cases["pathology"]) > set(known), "an unseen patient has another one"
    assert run.pipeline.network.arguments["categories"] == known


def test_a_pass_tells_the_category_of_each_patient_and_nothing_of_an_unknown_one(folder, store):
    run = load_run(folder)
    told = codes_of(run, store, ["LVEDA"], CPU).codes
    silent = codes_of(run, store, ["LVEDA"], CPU, telling=False).codes
    np.testing.assert_allclose(silent, encode(run.network, store.images)[0], atol=1e-5)
    seen = []
    for one, rows in run.by_condition(store.cases):
        codes = encode(one.network, store.images[rows])[0]
        np.testing.assert_allclose(codes, told[rows], atol=1e-5)
        seen += rows.tolist()
    assert sorted(seen) == list(range(len(store)))
    known = store.cases["pathology"].isin(run.network.categories).to_numpy()
    assert 0 < known.sum() < len(known)
    np.testing.assert_array_equal(told[~known], silent[~known])
    assert (np.abs(told - silent).max(axis=1) > 1e-4).tolist() == known.tolist()


def test_a_heart_is_drawn_as_told_and_as_its_patient_unless_told_otherwise(folder, store):
    run = load_run(folder)
    code, (first, second, *_) = np.zeros((1, 32)), run.network.categories
    drawn = {
        name: decode(run.telling(f"pathology={name}").painter, code) for name in (first, second, "")
    }
    assert not torch.isclose(drawn[first], drawn[second]).all()
    assert torch.equal(drawn[""], decode(run.painter, code)), "the run itself is told nothing"
    studio = Studio.open(folder, device="cpu")
    cases = store.split("train").cases.set_index("case")["pathology"]
    case = cases.index[cases == second][0]
    asked = {
        None: studio.telling(None, case), "": studio.telling("pathology=", case),
        first: studio.telling(f"pathology={first}", case), "mean": studio.telling(None),
    }  # fmt: skip
    drawn[None], drawn["mean"] = drawn[second], drawn[""]
    for key, told in asked.items():
        assert torch.equal(decode(told.run.painter, code), drawn[key])


@pytest.mark.parametrize("condition", ["pathology=XYZ", "vendor=GE", "DCM", "pathology"])
def test_a_category_that_the_network_does_not_know_is_refused_with_those_it_knows(
    folder, condition
):
    with pytest.raises(
        ValueError, match=r"condition is '.*'; expected one of pathology=.*, or pat"
    ):
        load_run(folder).telling(condition)


def test_a_network_that_is_told_nothing_says_so(acdc_store, tmp_path):
    model = load_model(trained(acdc_store, tmp_path / "plain"), device="cpu")
    with pytest.raises(ValueError, match="is told nothing; leave it out"):
        model.decode(np.zeros((1, 32)), "pathology=DCM")
    with pytest.raises(ValueError, match="is told nothing; leave it out"):
        model.studio.telling("pathology=DCM")


def test_the_python_face_encodes_and_draws_as_told(folder, store):
    model = load_model(folder, device="cpu")
    one, *_ = (f"pathology={name}" for name in model.run.network.categories)
    code = model.encode(store, one)
    assert np.abs(code - model.encode(store)).max() > 1e-4
    assert np.abs(model.decode(code, one) - model.decode(code)).max() > 1e-4


def test_a_new_scan_is_encoded_as_told_and_says_if_nothing_was(folder, store, acdc_tree, tmp_path):
    manifest = load_manifest("acdc")
    masks_apart(acdc_tree, manifest, tmp_path)
    ((told, rows), *_) = load_run(folder).by_condition(store.split("train").cases)
    row = store.split("train").cases.iloc[rows[0]]
    (record,) = (r for r in find_cases(manifest, acdc_tree).records if r.case == row["case"])
    given = {"mask": tmp_path / "masks" / record.image.name, "device": "cpu"}
    said = {}
    for condition in (None, "pathology=", f"pathology={row['pathology']}"):
        ((one,), _) = encode_scans(
            folder, [record.image], tmp_path / f"out{len(said)}", condition=condition, **given
        )
        said[condition] = one
    silent, nothing, known = said.values()
    image = store.split("train").images[rows[:1]]
    np.testing.assert_allclose(known.code, encode(told.network, image)[0][0], atol=1e-5)
    assert np.abs(known.code - silent.code).max() > 1e-4
    np.testing.assert_array_equal(nothing.code, silent.code)
    assert any("the network is told no pathology" in text for text in silent.warnings)
    assert not any("told" in text for one in (nothing, known) for text in one.warnings)
    typed = {"model": folder, "source": record.image, "mask": given["mask"], "device": "cpu"}
    typed |= {"condition": "pathology=X", "output": tmp_path / "no"}
    words = [str(word) for key, value in typed.items() for word in (f"--{key}", value)]
    refused = CliRunner().invoke(main, ["encode", *words])
    assert refused.exit_code == 2
    assert "expected one of pathology=" in refused.output
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("argument", "reason"),
    [
        ("condition=nobody", "cases.csv has no column 'nobody'; expected one of case"),
        ("condition=split", r"column 'split' of cases.csv has 1 category .*\(train\)"),
        ("condition=[1]", "network.arguments.condition is"),
        ("categories=[XYZ]", "has a pathology of XYZ"),
        ("categories=XYZ", "network.arguments.categories is 'XYZ'; expected texts"),
    ],
)
def test_a_condition_that_the_store_does_not_hold_is_refused(store, argument, reason):
    pipeline = load_pipeline("attri_vae_conditional", [f"network.arguments.{argument}"])
    with pytest.raises((DataError, ValueError), match=reason):
        fitted(pipeline, store.split("train"))


def test_given_categories_are_kept_and_others_are_not_told(store):
    first = sorted(set(store.split("train").cases["pathology"]))[0]
    pipeline = load_pipeline(
        "attri_vae_conditional", [f"network.arguments.categories=[{first}, ARV]"]
    )
    kept = fitted(pipeline, store.split("train")).network.arguments["categories"]
    assert kept == [first, "ARV"]


def test_an_exported_model_is_told_nothing_and_its_card_says_so(folder, store, tmp_path):
    run = load_run(folder)
    said = []
    export(folder, "bundle", tmp_path / "bundle", tell=said.append)
    assert said[0] == "the exported network is told no pathology"
    about = json.loads((tmp_path / "bundle" / "configs" / "metadata.json").read_text())
    known = ", ".join(run.network.categories)
    assert f"was told the pathology of patients ({known}); here it is told none" in str(about)
    values = json.loads((tmp_path / "bundle" / "configs" / "inference.json").read_text())
    network = bundled_network(values["network_name"], values["network_arguments"], values["format"])
    network.load_state_dict(torch.load(tmp_path / "bundle" / "models" / "model.pt"))
    script = torch.jit.load(tmp_path / "bundle" / "models" / "model.ts")
    images = store.images[:2]
    for written in (network.eval(), script):
        with torch.no_grad():
            code = written.encode(images)[0].numpy()
        np.testing.assert_allclose(code, encode(run.network, images)[0], atol=1e-4)


def test_onnx_files_take_the_condition_as_a_second_input(folder, tmp_path):
    said, known = [], ", ".join(load_run(folder).network.categories)
    export(folder, "onnx", tmp_path, tell=said.append)
    assert said[0] == f"condition has a column for each pathology: {known}; zeros tell nothing"


def test_a_classifier_is_not_given_codes_that_were_told_what_it_predicts(folder, store):
    run = load_run(folder)
    told, silent = (
        codes_of(run, store, ["LVEDA"], CPU, telling=telling).codes for telling in (True, False)
    )
    np.testing.assert_array_equal(_encoded(run, store, "pathology", CPU).codes, silent)
    np.testing.assert_array_equal(_encoded(run, store, "vendor", CPU).codes, told)


@pytest.mark.usefixtures("hasty_segmenters", "no_pictures")
def test_an_evaluation_counts_who_is_told_and_turns_every_patient(folder, acdc_store, tmp_path):
    cross_domain_eval(folder, acdc_store, tmp_path, split="train", rounds=9, device="cpu")
    notes = json.loads((tmp_path / "evaluation.json").read_text())["notes"]
    assert any("told is told the pathology of 5 of 5 train patients of acdc" in n for n in notes)
    control = pd.read_csv(tmp_path / "control.csv")
    turns = control.groupby(["case", "attribute"]).size()
    assert len(turns) == 5 * 3
    assert set(turns) == {len(STEPS)}


def test_guided_training_is_told_too(acdc_store, tmp_path):
    changes = ("network.arguments.condition=pathology", "objective.guided_from=0")
    run = load_run(
        trained(
            acdc_store, tmp_path / "run", *changes, pipeline="attri_vae_fast", guide=quick_guide
        )
    )
    assert run.condition == "pathology"


@pytest.mark.parametrize("blank", [" ", "\n", "\t"])
def test_blanks_about_a_condition_do_not_make_it_nothing(folder, blank):
    run = load_run(folder)
    wanted = f"pathology={run.network.categories[0]}"
    told = run.telling(f"{blank}{wanted}{blank}").network.told
    assert torch.equal(told, run.telling(wanted).network.told)
    assert told.sum() == 1


@pytest.mark.parametrize(
    ("pipeline", "change", "told"),
    [
        ("attri_vae_conditional", "network.arguments.categories=5", "categories is 5; expected"),
        ("attri_vae_conditional", "network.arguments.categories=[$A]", "begins with"),
        ("attri_vae_conditional", "network.arguments.condition=false", "condition is .False"),
        ("attri_vae_classifier", "network.arguments.condition=pathology", "are both 'pathology'"),
        ("attri_vae_classifier", "network.arguments.classifier=5", "classifier is 5"),
    ],
)
def test_settings_that_make_no_condition_are_refused(store, pipeline, change, told):
    with pytest.raises(ValueError, match=told):
        fitted(load_pipeline(pipeline, [change]), store)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"categories": ["A", "B"]}, "no condition says of what"),
        ({"classifier": 5}, "classifier is 5; expected a mapping"),
        ({"classifier": {"classes": ["A", "B"], "size": 9}}, "expected a mapping"),
        ({"condition": "vendor", "categories": {"A": 1, "B": 2}}, "categories is"),
    ],
)
def test_a_network_of_a_crafted_run_is_refused_in_words(arguments, told):
    with pytest.raises(ValueError, match=told):
        build_network("BetaVAE", latent_size=4, image_size=32, **arguments)
