"""Every YAML in pipelines/ runs: two iterations on phantoms, and the run is whole."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml

from cardiac_attrivae.config import load_pipeline, parse_pipeline, shipped_pipelines
from cardiac_attrivae.inference import encode, load_run
from cardiac_attrivae.slices import SliceDataset
from cardiac_attrivae.workflow import TrainingWorkflow

SHORT = (
    "schedule.epochs=2",
    "schedule.steps_per_epoch=1",
    "schedule.evaluate_every=1",
    "data.batch_size=4",
)


@pytest.fixture(scope="module")
def store(acdc_store_all):
    return SliceDataset.open(acdc_store_all)


@pytest.fixture(scope="module", params=sorted(shipped_pipelines()))
def workflow(request, store, tmp_path_factory):
    """A run of a shipped pipeline, two steps long."""
    folder = tmp_path_factory.mktemp("runs") / request.param
    pipeline = load_pipeline(request.param, SHORT)
    data = store.split("train"), store.split("val")
    workflow = TrainingWorkflow(pipeline, *data, folder, device="cpu")
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    return workflow


def test_a_run_holds_all_its_files(workflow):
    names = {file.name for file in workflow.output.iterdir()}
    assert names == {
        "config.yaml", "history.csv", "last.pt", "best.pt", "model.safetensors", "summary.json",
        "tensorboard", "figures",
    }  # fmt: skip
    figures = {file.name: file.stat().st_size for file in (workflow.output / "figures").iterdir()}
    assert figures.keys() == {"training_curves.png", "reconstructions.png", "traversals.png"}
    assert min(figures.values()) > 5000  # bytes; an empty canvas has about 2000
    assert list((workflow.output / "tensorboard").iterdir())


def test_history_and_summary_tell_what_was_done(workflow):
    history = pd.read_csv(workflow.output / "history.csv")
    assert history["epoch"].tolist() == [1, 2]
    terms = ["reconstruction", "kl", *["attribute"] * (workflow.pipeline.objective.gamma > 0)]
    trained = {name for name in history if name.startswith("train_")}
    assert trained == {f"train_{term}" for term in (*terms, "loss")}
    assert np.isfinite(history[sorted(trained)]).all(axis=None)
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
    from torch import equal, manual_seed

    from cardiac_attrivae.networks import build_network

    manual_seed(workflow.seed)
    pipeline = workflow.pipeline
    start = build_network(pipeline.network.name, **pipeline.network.arguments).state_dict()
    end = workflow.network.state_dict()
    for name in ("encoder.0.weight", "posterior.weight", "decoder.0.weight"):
        assert not equal(start[name], end[name]), name


def test_the_saved_model_encodes_slices_of_the_store(workflow, store):
    run = load_run(workflow.output)
    mu, logvar = encode(run.network, store.images)
    assert mu.shape == logvar.shape == (len(store), run.network.latent_size)
    assert np.isfinite(mu).all()
    assert np.isfinite(logvar).all()
    assert run.about["recipe"] == store.info["recipe"]
