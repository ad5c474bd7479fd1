"""Every YAML in pipelines/ runs: two iterations on phantoms, and the run is whole."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import quick_guide

from cardiac_attrivae.data.preprocess import preprocess
from cardiac_attrivae.data.recipe import Recipe
from cardiac_attrivae.data.store import SliceDataset
from cardiac_attrivae.models.networks import build_network
from cardiac_attrivae.training.config import load_pipeline, parse_pipeline, shipped_pipelines
from cardiac_attrivae.training.objectives import SoftIntroObjective
from cardiac_attrivae.training.records import Records
from cardiac_attrivae.training.run import encode, load_run
from cardiac_attrivae.training.workflow import TrainingWorkflow

SHORT = (
    "schedule.epochs=2",
    "schedule.steps_per_epoch=1",
    "schedule.evaluate_every=1",
    "data.batch_size=4",
)
SMALL = {
    "SoftIntroVAE": (
        "objective.vae_epochs=0",
        "network.arguments.filters=[2, 4, 4, 8, 8]",
        "objective.perceptual=none",
        "objective.w_perceptual=0",
    ),
    "BetaVAE": (),
}
INTROSPECTIVE = [
    "exp_elbo_reconstructed", "exp_elbo_generated", "decoder_reconstruction",
    "decoder_kl_reconstructed", "decoder_kl_generated",
]  # fmt: skip
HEALTH = ["kl_real", "kl_generated"]
KL_TERMS = {
    "BetaTCVAE": ["mutual_information", "total_correlation", "dimension_kl"],
    "Capacity": ["capacity_gap"],
}
"""What stands in the place of beta times KL."""
LAYERS = {
    "BetaVAE": ("posterior.weight", "decoder.0.weight"),
    "SoftIntroVAE": ("encoder.fc.weight", "decoder.fc.0.weight", "decoder.main.predict.weight"),
}
"""Some besides the first one, which sees the slice."""


BEATING = {"attri_vae_stack": Recipe(phases=("ED", "ES"), stack=5),
           "attri_sivae_phases": Recipe("all", phases=("ED", "ES"))}  # fmt: skip
"""Stores of the pipelines of two phases; all others are given single slices at ED."""


@pytest.fixture(scope="module")
def stores(acdc_store_all, acdc_tree, tmp_path_factory):
    """Stores of the same phantoms, by pipeline; that of the others under an empty name."""
    folder, found = tmp_path_factory.mktemp("stores"), {"": SliceDataset.open(acdc_store_all)}
    for name, recipe in BEATING.items():
        preprocess("acdc", acdc_tree, folder / name, recipe)
        found[name] = SliceDataset.open(folder / name)
    return found


DRAWN = {"attri_sivae_fast", *BEATING}
"""Pictures take longer than the training, and depend on the channels, not on the pipeline."""
AUTOENCODERS = [n for n in sorted(shipped_pipelines()) if load_pipeline(n).objective.has_codes]
"""`test_scan_learner.py` and `test_refiner_learner.py` run the others."""


@pytest.fixture(scope="module", params=AUTOENCODERS)
def workflow(request, stores, tmp_path_factory):
    """A run of a shipped pipeline, two steps long."""
    folder = tmp_path_factory.mktemp("runs") / request.param
    small = SMALL[load_pipeline(request.param).network.name]
    pipeline = load_pipeline(request.param, (*SHORT, *small))
    store = stores.get(request.param, stores[""])
    data = store.split("train"), store.split("val")
    workflow = TrainingWorkflow(pipeline, *data, folder, device="cpu", guide=quick_guide)
    with pytest.MonkeyPatch.context() as patch:
        if request.param not in DRAWN:
            patch.setattr(Records, "draw", lambda self: None)
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    return workflow


def test_a_run_holds_all_its_files(workflow):
    names = {file.name for file in workflow.output.iterdir()}
    assert names - {"figures"} == {
        "config.yaml", "history.csv", "last.pt", "best.pt", "model.safetensors", "summary.json",
        "tensorboard",
    }  # fmt: skip
    assert list((workflow.output / "tensorboard").iterdir())
    if workflow.output.name in DRAWN:
        sizes = {file.name: file.stat().st_size for file in (workflow.output / "figures").iterdir()}
        assert sizes.keys() == {"training_curves.png", "reconstructions.png", "traversals.png"}
        assert min(sizes.values()) > 5000  # bytes; an empty canvas has about 2000


def test_history_and_summary_tell_what_was_done(workflow):
    history = pd.read_csv(workflow.output / "history.csv")
    assert history["epoch"].tolist() == [1, 2]
    objective = workflow.pipeline.objective
    terms = ["reconstruction", *KL_TERMS.get(objective.name, ["kl"])]
    terms += ["attribute"] * (objective.gamma > 0)
    terms += ["classification"] * (objective.name == "AttriVAEClassifier")
    introspective = isinstance(objective, SoftIntroObjective)
    terms += INTROSPECTIVE * introspective
    terms += ["decoder_error_generated"] * (objective.name == "SoftIntroBootstrap")
    terms += [name for name in ("anatomy", "control") if getattr(objective, name) > 0]
    trained = {name for name in history if name.startswith("train_")}
    health = HEALTH if introspective else ["kl"] * (objective.name == "Capacity")
    assert trained == {f"train_{term}" for term in (*terms, "loss", *health)}
    assert np.isfinite(history[sorted(trained)]).all(axis=None)
    total = history[[f"train_{term}" for term in terms]].sum(axis=1)
    np.testing.assert_allclose(history["train_loss"], total, rtol=1e-5)
    assert {"val_loss", "val_SSIM", "val_SSIM_in_mask", "val_PSNR", "val_MSE"} <= {*history}
    summary = json.loads((workflow.output / "summary.json").read_text())
    assert summary["method"] == workflow.pipeline.method
    assert summary["epochs"] == 2
    kept = {"last": 2, "best": int(history["val_loss"].idxmin()) + 1}
    assert summary["epoch_kept"] == kept[workflow.pipeline.schedule.keep]


def test_the_configuration_that_is_left_is_whole_and_runs_again(workflow):
    config = yaml.safe_load((workflow.output / "config.yaml").read_text())
    assert parse_pipeline(config["pipeline"]) == workflow.pipeline
    assert config["pipeline"] == workflow.pipeline.to_dict()
    assert config["content_hash"] == workflow.get_train_dataset().info["content_hash"]


def test_two_steps_change_the_weights_of_encoder_and_decoder(workflow):
    torch.manual_seed(workflow.seed)
    pipeline = workflow.pipeline
    start = build_network(pipeline.network.name, **pipeline.network.arguments).state_dict()
    end = workflow.learner.network.state_dict()
    trained = (name for name in start if not name.startswith(("guide.", "shape_model.")))
    for name in (next(trained), *LAYERS[pipeline.network.name]):
        assert not torch.equal(start[name], end[name]), name


def test_the_saved_model_encodes_slices_of_the_store(workflow):
    run, store = load_run(workflow.output), workflow.get_train_dataset()
    mu, logvar = encode(run.network, store.images)
    assert mu.shape == logvar.shape == (len(store), run.network.latent_size)
    assert np.isfinite(mu).all()
    assert np.isfinite(logvar).all()
    assert run.about["recipe"] == store.info["recipe"]


# beta_neg, weight of the perceptual loss (the paper's delta), gamma
TABLE_2 = {
    "soft_intro_vae_acdc": (1024, 50, 0),
    "attri_sivae_acdc": (1024, 100, 0.1),
    "soft_intro_vae_mnms": (512, 100, 0),
    "attri_sivae_mnms": (512, 100, 0.1),
}


def test_every_introspective_pipeline_is_in_the_table_below():
    pipelines = {name: load_pipeline(name) for name in shipped_pipelines()}
    introspective = {n for n, p in pipelines.items() if p.objective.name == "SoftIntro"}
    ours = {f"attri_sivae_{kind}" for kind in ("unguided", "fast", "phases")}
    assert introspective == {*TABLE_2, *ours, "soft_intro_vae_fast"}


@pytest.mark.parametrize(("name", "numbers"), TABLE_2.items())
def test_introspective_pipelines_have_the_numbers_of_the_paper(name, numbers):
    """Di Folco et al. (2023), Table 2 and appendix A; gamma of the authors' code."""
    pipeline = load_pipeline(name)
    objective, schedule = pipeline.objective, pipeline.schedule
    assert (objective.beta_neg, objective.w_perceptual, objective.gamma) == numbers
    assert (objective.beta_rec, objective.beta_kl, objective.gamma_r) == (0.8, 1, 1e-8)
    assert (objective.perceptual, objective.w_mse, objective.vae_epochs) == ("vgg19", 1, 0)
    assert (pipeline.optimiser.lr, pipeline.optimiser.schedule) == (2e-4, "constant")
    assert (schedule.epochs, schedule.patience) == (750, 300)
    assert (pipeline.data.batch_size, pipeline.data.slices) == (16, "basal")
    assert pipeline.attributes == ("LVEDV", "MEDV", "RVEDV")
    assert pipeline.network.arguments["latent_size"] == 256
    assert pipeline.network.arguments["bn"] == "train"
    if objective.gamma:
        assert (objective.delta, objective.attribute_target) == (10, "sign")
        assert (objective.attribute_codes, objective.attribute_scaled) == ("sampled", False)


@pytest.mark.parametrize("name", TABLE_2)
def test_introspective_pipelines_build_the_network_of_the_paper(name):
    network = load_pipeline(name).network
    with torch.device("meta"):  # shapes without memory
        built = build_network(network.name, **network.arguments)
    assert sum(p.numel() for p in built.parameters()) == 32_576_769
    assert built.image_size == 128
