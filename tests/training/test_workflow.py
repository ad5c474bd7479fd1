"""A run: what it writes, that it can be interrupted anywhere, and that it learns."""

import json
import math
import multiprocessing
import os
import shutil
import signal
import time
import warnings
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import heart, slices_of, trained
from ignite.engine import Events
from safetensors.torch import load_file

from cardiac_attrivae.data import loader
from cardiac_attrivae.data.manifest import load_manifest
from cardiac_attrivae.data.preprocess import preprocess
from cardiac_attrivae.data.recipe import Recipe
from cardiac_attrivae.data.store import SliceDataset
from cardiac_attrivae.models.losses import SoftIntroLoss
from cardiac_attrivae.models.networks import BetaVAE
from cardiac_attrivae.models.perceptual import perceptual_loss
from cardiac_attrivae.runtime.device import find_device
from cardiac_attrivae.schema import DataError, Keys
from cardiac_attrivae.segmentation import judge_training
from cardiac_attrivae.segmentation.guide import train_guide
from cardiac_attrivae.segmentation.judge_training import Training
from cardiac_attrivae.training import checkpoints, learner, records
from cardiac_attrivae.training import folder as folder_of_run
from cardiac_attrivae.training.config import (
    Optimiser,
    Pipeline,
    Schedule,
    load_pipeline,
    parse_pipeline,
)
from cardiac_attrivae.training.optimisation import average_of, rate
from cardiac_attrivae.training.records import Records
from cardiac_attrivae.training.run import TRAVERSAL, encode, load_run, traverse
from cardiac_attrivae.training.scores import make_evaluator
from cardiac_attrivae.training.workflow import TrainingWorkflow

PLAIN = {
    "method": "tiny",
    "attributes": ["LVEDV", "RVEDA"],
    "network": {"arguments": {"latent_size": 4, "image_size": 32}},
    "objective": {"gamma": 1.0},
    "data": {"batch_size": 8},
    "optimiser": {"lr": 1e-3},
    "schedule": {"epochs": 4},
    "precision": "float32",
}
# All that has a state of its own: draws by weight, augmentation, schedule, average, stopping.
EVERYTHING = PLAIN | {
    "data": {"batch_size": 8, "slices": "all", "basal_weight": 2.0, "residual": 0.5},
    "augmentation": {"rotation": 10, "zoom": 0.1, "cavity": 0.1, "elastic": 1, "noise": 0.05}
    | {"style": 1.0},
    "optimiser": {"lr": 1e-3, "warmup": 0.3, "schedule": "cosine", "average": 0.9},
    "schedule": {"epochs": 4, "steps_per_epoch": 3, "patience": 50, "keep": "last"},
    "precision": "bfloat16",
}

# Encoder and decoder against each other, after an epoch as a plain VAE.
INTRO = PLAIN | {
    "network": {
        "name": "SoftIntroVAE",
        "arguments": {"latent_size": 4, "image_size": 32, "filters": [4, 8]},
    },
    "objective": {"name": "SoftIntro", "gamma": 0.1, "beta_neg": 64, "vae_epochs": 1},
    "optimiser": {"lr": 1e-3, "milestones": [2]},
}
# A target decoder that differs from the decoder at the last checkpoint.
BOOTSTRAP = EVERYTHING | {
    "network": INTRO["network"],
    "objective": INTRO["objective"] | {"name": "SoftIntroBootstrap", "target_epochs": 3},
}
INTRO_EVERYTHING = EVERYTHING | {key: INTRO[key] for key in ("network", "objective")}
# What is told is withheld at random, and goes to networks and target alike.
CONDITIONAL = BOOTSTRAP | {
    "network": {
        "name": "SoftIntroVAE",
        "arguments": INTRO["network"]["arguments"] | {"condition": "pathology"},
    },
}
CAPACITY = {"name": "Capacity", "gamma": 1.0, "capacity": 8.0, "capacity_steps": 3}
# The slices of this data set have no class but their place.
CLASSIFIER = {"name": "AttriVAEClassifier", "gamma": 1.0, "alpha": 3.0, "column": "slice_index"}
RUNS = {
    "plain": PLAIN,
    "capacity": PLAIN | {"objective": CAPACITY},
    "everything": EVERYTHING,
    "classifier": EVERYTHING | {"objective": CLASSIFIER},
    "intro": INTRO,
    "intro_everything": INTRO_EVERYTHING,
    "bootstrap": BOOTSTRAP,
    "conditional": CONDITIONAL,
}


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch):
    """Drawing takes longer than the rest; tests/test_pipelines.py has the pictures."""
    monkeypatch.setattr(Records, "draw", lambda self: None)


def part(dataset, patients):
    return dataset.take(np.flatnonzero(dataset.cases["case"].isin(patients)))


@pytest.fixture(scope="session")
def halves(drawn_slices):
    """Seven patients to train on and five to validate on."""
    cases = drawn_slices.cases["case"].unique()
    return part(drawn_slices, cases[:7]), part(drawn_slices, cases[7:])


@pytest.fixture
def train(halves, tmp_path):
    """Trains; the folder is named by ``to``."""

    def run(values=PLAIN, to="run", val=True, **options):
        data = halves if val else (halves[0], halves[1].take([]))
        pipeline = parse_pipeline(values)
        return finished(TrainingWorkflow(pipeline, *data, tmp_path / to, device="cpu", **options))

    return run


def finished(workflow):
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    return workflow


def changed(values, section, **changes):
    return values | {section: values[section] | changes}


def weights(folder):
    return load_file(Path(folder) / "model.safetensors")


def assert_same_run(one, other):
    assert_same(weights(one), weights(other))
    for name in ("history.csv", "config.yaml"):
        assert (one / name).read_text() == (other / name).read_text()


def assert_same(one, other):
    """Equal to the last bit, however deep."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


def assert_same_checkpoint(one, other):
    assert_same(*(torch.load(folder / "last.pt", weights_only=True) for folder in (one, other)))


class On:
    """A handler that does something with the engine on an event."""

    def __init__(self, event, do):
        self.event, self.do = event, do

    def attach(self, engine):
        engine.add_event_handler(self.event, self.do)


def interrupt(epoch):
    """Ctrl-C in the middle of an epoch."""

    def stop(engine):
        first = (engine.state.iteration - 1) % engine.state.epoch_length == 0
        if engine.state.epoch == epoch and first:
            raise KeyboardInterrupt

    return On(Events.ITERATION_COMPLETED, stop)


def assert_intact(folder):
    """The checkpoint of epoch 2, all of it finite."""
    state = torch.load(folder / "last.pt", weights_only=True)
    assert state["epoch"] == 2
    assert all(value.isfinite().all() for value in state["network"].values())


@pytest.mark.parametrize("values", RUNS.values(), ids=RUNS)
@pytest.mark.parametrize("every", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_that_was_interrupted_and_resumed_is_the_uninterrupted_one_bit_for_bit(
    train, tmp_path, values, every
):
    values = changed(values, "schedule", evaluate_every=every)
    train(values, to="whole")
    with pytest.raises(KeyboardInterrupt):
        train(values, to="broken", handlers=(interrupt(3),))
    assert not (tmp_path / "broken" / "model.safetensors").exists()
    workflow = train(values, to="broken", resume=True)
    assert workflow.records.start_epoch == 2
    assert_same_run(tmp_path / "whole", tmp_path / "broken")
    assert_same_checkpoint(tmp_path / "whole", tmp_path / "broken")


def test_the_capacity_follows_the_steps_of_the_run_also_of_a_resumed_one(train, tmp_path):
    values = changed(PLAIN, "schedule", epochs=3) | {"objective": CAPACITY}
    with pytest.raises(KeyboardInterrupt):
        train(values, handlers=(interrupt(3),))
    workflow = train(values, resume=True)
    assert workflow.get_trainer().state.epoch_length == 1
    assert (workflow.records.start_epoch, workflow.learner.loss.steps_done) == (2, 2)
    history = pd.read_csv(tmp_path / "run" / "history.csv")
    gap = abs(history["train_kl"] - 8 * np.array([0, 1, 2]) / 3)  # nats at each of three steps
    np.testing.assert_allclose(history["train_capacity_gap"], 1000 * gap, rtol=1e-5)


def test_a_checkpoint_holds_the_target_decoder_of_the_last_copy(train):
    state = torch.load(train(BOOTSTRAP).output / "last.pt", weights_only=True)  # after epoch 4
    of_network = {name: state["network"][f"decoder.{name}"] for name in state["target_decoder"]}
    assert any(not torch.equal(state["target_decoder"][n], v) for n, v in of_network.items())
    assert not any(name.startswith("target") for name in state["network"])


def test_the_number_of_slices_that_are_trained_on_is_filled_in_and_recorded(train):
    workflow = train(PLAIN | {"objective": {"name": "BetaTCVAE"}, "schedule": {"epochs": 1}})
    config = yaml.safe_load((workflow.output / "config.yaml").read_text())
    slices = len(workflow.get_train_dataset())
    assert config["pipeline"]["objective"]["samples"] == workflow.learner.loss.samples == slices
    assert load_run(workflow.output).pipeline == workflow.pipeline


def test_a_checkpoint_of_an_introspective_run_holds_both_optimisers_and_batch_norm(train):
    workflow = train(INTRO)
    state = torch.load(workflow.output / "last.pt", weights_only=True)
    optimisers = {"optimiser", "scheduler", "decoder_optimiser", "decoder_scheduler"}
    assert optimisers < state.keys()
    network = workflow.learner.network
    sizes = [len(list(part.parameters())) for part in (network.encoder, network.decoder)]
    assert [len(state[n]["state"]) for n in ("optimiser", "decoder_optimiser")] == sizes
    assert state["scheduler"]["last_epoch"] == state["decoder_scheduler"]["last_epoch"] == 4
    rates = [state[n]["param_groups"][0]["lr"] for n in ("optimiser", "decoder_optimiser")]
    assert rates == pytest.approx([1e-4, 1e-4])  # after its milestone
    running = state["network"]["decoder.main.res_in_8.bn1.running_mean"]
    assert running.abs().max() > 0


def test_slices_that_are_read_ahead_give_the_same_weights_bit_for_bit(train, monkeypatch):
    block = train(EVERYTHING, to="block")
    monkeypatch.setattr(loader, "KEPT_ON_CPU", 0)
    ahead = train(EVERYTHING, to="ahead")
    loaders = [run.get_trainer().data_loader for run in (block, ahead)]
    assert [loader.block is None for loader in loaders] == [False, True]
    assert_same(weights(block.output), weights(ahead.output))
    for name in ("history.csv", "last.pt"):
        assert (block.output / name).read_bytes() == (ahead.output / name).read_bytes()


def test_resuming_a_finished_run_changes_nothing(train, tmp_path):
    train()
    before = weights(tmp_path / "run")
    history = (tmp_path / "run" / "history.csv").read_text()
    train(resume=True)
    assert_same(before, weights(tmp_path / "run"))
    assert (tmp_path / "run" / "history.csv").read_text() == history


def test_resuming_where_nothing_was_saved_starts_from_the_beginning(train, tmp_path):
    train(to="whole")
    with pytest.raises(KeyboardInterrupt):
        train(to="broken", handlers=(interrupt(1),))
    assert train(to="broken", resume=True).records.start_epoch == 0
    assert_same_run(tmp_path / "whole", tmp_path / "broken")


def test_two_runs_do_not_train_in_one_folder(train, halves, tmp_path):
    first = TrainingWorkflow(parse_pipeline(PLAIN), *halves, tmp_path / "run", device="cpu")
    first.initialize()
    with pytest.raises(DataError, match="run is being worked on by another process"):
        train(resume=True)
    first.run()
    first.finalize()
    assert train(resume=True).records.start_epoch == 4
    assert not list((tmp_path / "run").glob(".*"))


def test_too_little_space_for_checkpoints_is_reported_before_training(train, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(DataError, match="run needs .* MiB and has 0 MiB free"):
        train()
    assert not (tmp_path / "run").exists()


FORKS = multiprocessing.get_context("forkserver")  # what is killed is forked: imports take long
FORKS.set_forkserver_preload(
    ["cardiac_attrivae.segmentation.guide", "cardiac_attrivae.training.workflow", "pytest"]
)


def forked(work, *given):
    """Starts a function in a process of its own, which computes with as many threads."""
    process = FORKS.Process(target=_with_threads, args=(torch.get_num_threads(), work, *given))
    process.start()
    return process


def _with_threads(number, work, *given):
    torch.set_num_threads(number)
    Records.draw = lambda self: None
    work(*given)


def train_until_a_checkpoint_is_written(folder):
    """Ends by a kill while last.pt is still of epoch 2."""

    def save(state, stream):
        real(state, stream)
        if state.get("epoch") == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    real, checkpoints.torch.save = torch.save, save
    run = TrainingWorkflow(
        parse_pipeline(PLAIN), *small_halves(folder), folder / "killed", device="cpu"
    )
    run.initialize()
    run.run()


def small_halves(folder):
    """The same slices in this process and in one that is killed."""
    random = np.random.default_rng(4)
    patients = [
        [heart(32, *random.uniform((4, 2, 4), (6, 4, 6)), (4, random.uniform(-1, 1)))]
        for _ in range(12)
    ]
    dataset = slices_of(patients, folder)
    return dataset.take(range(7)), dataset.take(range(7, 12))


@pytest.mark.slow
def test_a_run_that_was_killed_while_it_wrote_a_checkpoint_resumes_bit_for_bit(tmp_path):
    killed = forked(train_until_a_checkpoint_is_written, tmp_path)
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    data = small_halves(tmp_path)
    for name, resume in (("killed", True), ("whole", False)):
        run = finished(
            TrainingWorkflow(
                parse_pipeline(PLAIN), *data, tmp_path / name, device="cpu", resume=resume
            )
        )
        assert run.records.start_epoch == (2 if resume else 0)
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


LONG = INTRO | {"data": {"batch_size": 4}, "schedule": {"epochs": 80, "keep": "last"}}
GUIDED = LONG | {
    "attributes": ["LVEDA", "RVEDA"],
    "network": PLAIN["network"],
    "objective": {"gamma": 1.0, "control": 1.0, "anatomy": 0.3, "guided_from": 0.1},
    "optimiser": PLAIN["optimiser"],
}
short_guide = partial(train_guide, training=Training(steps=12, batch_size=4))


def train_on(folder, pipeline, told):
    """Resumes a run, and tells when it begins, from which epoch, and of each step."""
    judge_training.CHECKPOINT_EVERY = 2
    tell = On(Events.ITERATION_COMPLETED, lambda: told.send("step"))
    run = TrainingWorkflow(
        parse_pipeline(pipeline), *small_halves(folder), folder / "killed", device="cpu",
        resume=True, handlers=(tell,), guide=short_guide,
    )  # fmt: skip
    told.send("ready")
    run.initialize()
    told.send(run.records.start_epoch)
    run.run()
    run.finalize()


def killed_after(steps, seconds, folder, pipeline):
    """Trains on in a process, and kills it some time after so many steps; its first epoch, in a
    list that is empty if it was killed before."""
    told, teller = FORKS.Pipe(duplex=False)
    process = forked(train_on, folder, pipeline, teller)
    teller.close()
    lines = []
    with told:
        with suppress(EOFError):  # it has ended, by an error or early
            lines += (told.recv() for _ in range(steps + 1))
        time.sleep(seconds)
        process.kill()
        process.join()
    assert process.exitcode == -signal.SIGKILL
    return lines[1:2]


@pytest.mark.slow
@pytest.mark.parametrize(("pipeline", "times"), [("LONG", 7), ("GUIDED", 3)])
def test_a_run_that_was_often_killed_ends_bit_for_bit_as_one_never_was(tmp_path, pipeline, times):
    """Introspective, or guided: then the guide is killed while it is trained, too."""
    random = np.random.default_rng()  # other moments each time
    steps = [0, 0, 0, *random.integers(2, 9, size=times)]
    begun = []
    for n in steps:
        seconds = random.uniform(0, 0.1 if n else 1)
        begun += killed_after(n, seconds, tmp_path, globals()[pipeline])
    assert begun == sorted(begun)
    assert 0 < begun[-1] < 80
    for name, resume, earliest in (("killed", True, begun[-1]), ("whole", False, 0)):
        if name == "whole":
            shutil.rmtree(tmp_path / "segmenters", ignore_errors=True)
        run = finished(
            TrainingWorkflow(
                parse_pipeline(globals()[pipeline]), *small_halves(tmp_path), tmp_path / name,
                device="cpu", resume=resume, guide=short_guide,
            )
        )  # fmt: skip
        assert earliest <= run.records.start_epoch < 80
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
    assert_same_checkpoint(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.parametrize("values", RUNS.values(), ids=RUNS)
def test_the_seed_decides_the_weights(train, tmp_path, values):
    for to, seed in (("one", 3), ("again", 3), ("other", 4)):
        torch.rand(seed)  # the state of the global generator is no part of it
        train(values, to=to, seed=seed)
    assert_same_run(tmp_path / "one", tmp_path / "again")
    one, other = weights(tmp_path / "one"), weights(tmp_path / "other")
    assert not any(torch.equal(one[n], other[n]) for n in one if n.endswith("weight"))


@pytest.fixture(scope="module")
def store_of_two(acdc_tree, tmp_path_factory):
    """What ``acdc_store_all`` is, written by two workers."""
    store = tmp_path_factory.mktemp("stores") / "two"
    preprocess(load_manifest("acdc"), acdc_tree, store, Recipe(slice="all"), workers=2)
    return store


@pytest.mark.slow
@pytest.mark.xdist_group("two_workers")  # one store for both
@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_a_seed_fixes_a_run_to_the_bit_however_many_workers_made_its_store(
    acdc_store_all, store_of_two, tmp_path, precision
):
    for to, store in (("one", acdc_store_all), ("two", store_of_two)):
        torch.rand(len(to))
        trained(store, tmp_path / to, f"precision={precision}", seed=3)
    assert_same_run(tmp_path / "one", tmp_path / "two")


SWITCHES = {
    "algorithms": torch.are_deterministic_algorithms_enabled,
    "warnings": torch.is_deterministic_algorithms_warn_only_enabled,
    "cudnn": lambda: torch.backends.cudnn.deterministic,
    "benchmark": lambda: torch.backends.cudnn.benchmark,
    "cublas": lambda: os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
}


class Watch:
    """Notes the switches after each step, and stops in one."""

    def __init__(self, stop=None):
        self.stop, self.seen = stop, []

    def attach(self, engine):
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine):
        self.seen.append({name: read() for name, read in SWITCHES.items()})
        if engine.state.iteration == self.stop:
            raise KeyboardInterrupt


@pytest.mark.parametrize("values", [PLAIN, INTRO_EVERYTHING], ids=["plain", "intro"])
@pytest.mark.parametrize("stop", [None, 2])
def test_deterministic_is_on_in_every_step_and_off_after_the_last_or_an_error(
    train, monkeypatch, values, stop
):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = {name: read() for name, read in SWITCHES.items()}
    watch = Watch(stop)
    with suppress(KeyboardInterrupt):
        train(values | {"deterministic": True}, handlers=(watch,))
        assert stop is None
    on = {"algorithms": True, "warnings": False, "cudnn": True, "benchmark": False}
    assert watch.seen[0] == on | {"cublas": ":4096:8"}
    assert all(seen == watch.seen[0] for seen in watch.seen)
    assert len(watch.seen) == stop or len(watch.seen) >= 4
    assert {name: read() for name, read in SWITCHES.items()} == before
    plain = Watch()
    train(values, to="plain", handlers=(plain,))
    assert all(seen == before for seen in plain.seen)


def test_deterministic_is_off_after_a_run_that_could_not_begin_and_keeps_what_was_on(
    train, tmp_path, monkeypatch
):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.docx").touch()
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    before = {name: read() for name, read in SWITCHES.items()}
    with pytest.raises(DataError, match="was not written by cardiac-attrivae train: it holds"):
        train(PLAIN | {"deterministic": True})
    assert {name: read() for name, read in SWITCHES.items()} == before
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        train(PLAIN | {"deterministic": True}, to="other")
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("values", [EVERYTHING, INTRO], ids=["everything", "intro"])
def test_on_a_cpu_deterministic_changes_no_bit(train, tmp_path, values):
    train(values, to="plain")
    train(values | {"deterministic": True}, to="switched")
    assert_same(weights(tmp_path / "plain"), weights(tmp_path / "switched"))


@pytest.mark.parametrize("values", RUNS.values(), ids=RUNS)
def test_a_loaded_run_answers_as_the_trained_network_did(train, halves, values):
    workflow = train(values, seed=7)
    run = load_run(workflow.output)
    assert run.pipeline == workflow.pipeline
    assert not run.network.training
    image = halves[1].images
    with torch.no_grad():
        expected, found = workflow.learner.model.eval()(image), run.network(image)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    known = halves[0].basal()
    told = run.by_condition(known.cases)
    codes = np.concatenate([encode(one.network, known.images[rows])[0] for one, rows in told])
    np.testing.assert_allclose(run.about["code_mean"], codes.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(run.about["code_deviation"], codes.std(axis=0), atol=1e-6)
    assert run.about["seed"] == 7
    np.testing.assert_allclose(run.about["attribute_mean"], workflow.learner.targets.mean)


def test_a_run_leaves_the_files_and_numbers_that_it_promises(train, halves):
    folder = train(seed=2).output
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["train_cases"] == 7
    assert summary["val_cases"] == 5
    assert summary["train_slices"] == 7  # basal ones
    assert (summary["seed"], summary["epochs"], summary["method"]) == (2, 4, "tiny")
    assert summary["wall_time_s"] > 0
    assert torch.__version__.startswith(summary["versions"]["torch"])
    network = BetaVAE(latent_size=4, image_size=32)
    assert summary["parameters"] == sum(p.numel() for p in network.parameters())
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert parse_pipeline(config["pipeline"]) == parse_pipeline(PLAIN)
    history = pd.read_csv(folder / "history.csv")
    terms = history[["train_reconstruction", "train_kl", "train_attribute"]].sum(axis=1)
    np.testing.assert_allclose(history["train_loss"], terms, rtol=1e-5)
    assert {"val_loss", "val_SSIM", "val_SCC", "val_Interpretability/LVEDV"} <= {*history}
    assert not list(folder.glob(".*"))


def test_validation_scores_are_those_of_the_saved_network(train, halves):
    workflow = train(changed(PLAIN, "schedule", keep="last"))
    run, names = load_run(workflow.output), workflow.pipeline.attributes
    evaluator = make_evaluator(
        run.network,
        halves[1].basal(),
        names,
        dimensions=run.pipeline.dimensions(names),
        device=torch.device("cpu"),
    )
    evaluator.run()
    last = pd.read_csv(workflow.output / "history.csv").iloc[-1]
    for name, value in evaluator.state.metrics.items():
        assert last[f"val_{name}"] == pytest.approx(value, rel=1e-5, nan_ok=True), name


@pytest.mark.parametrize(("patients", "told"), [(4, 1), (5, 0)])
def test_too_few_validation_patients_for_interpretability_are_reported_once(
    halves, tmp_path, patients, told
):
    val = part(halves[1], halves[1].cases["case"].unique()[:patients])
    workflow = TrainingWorkflow(
        parse_pipeline(PLAIN), halves[0], val, tmp_path / "run", device="cpu"
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        finished(workflow)
    lines = [str(one.message) for one in caught if "Interpretability" in str(one.message)]
    assert len(lines) == told
    history = pd.read_csv(workflow.output / "history.csv")
    assert ("val_Interpretability" in history) is not bool(told)
    if told:
        assert lines[0].startswith(f"4 validation patients of {halves[0].folder}: ")


def test_an_existing_run_is_neither_overwritten_nor_resumed_by_accident(train, tmp_path):
    train()
    before = (tmp_path / "run" / "summary.json").read_text()
    with pytest.raises(DataError, match="holds a run; add --resume .*, or choose another folder"):
        train()
    for other, told in (
        ({"seed": 1}, "seed is 0 there and 1 here"),
        (
            {"values": changed(PLAIN, "objective", gamma=2.0)},
            r"pipeline\.objective\.gamma is .* 2\.0",
        ),
    ):
        wrong = f"holds a run with another configuration, seed or data: {told}"
        with pytest.raises(DataError, match=wrong):
            train(resume=True, **other)
    assert (tmp_path / "run" / "summary.json").read_text() == before
    train(overwrite=True, seed=1)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["seed"] == 1


def test_a_run_that_was_killed_as_it_was_overwritten_is_never_half_of_one(
    train, tmp_path, monkeypatch
):
    """After each file that is removed: the old run as it was, or one that has yet to begin."""
    train(to="whole")
    unlink, files = Path.unlink, sorted((tmp_path / "whole").rglob("*"))
    for count in range(len(files)):
        left = iter(range(count))

        def killed(path, missing_ok=False, left=left):
            if path.is_file() and next(left, None) is None:
                raise KeyboardInterrupt
            unlink(path, missing_ok=missing_ok)

        to = f"run{count}"
        shutil.copytree(tmp_path / "whole", tmp_path / to)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", killed)
            patch.setattr(
                folder_of_run, "locked", lambda folder: nullcontext()
            )  # removes files, too
            with suppress(KeyboardInterrupt):
                train(to=to, overwrite=True, seed=1)
                break  # all was removed, and a new run has taken the place
        assert load_run(tmp_path / to).about["seed"] == 0 if count == 0 else (
            not (tmp_path / to / "model.safetensors").exists()
        )  # fmt: skip
        train(to=to, resume=True)
        assert_same_run(tmp_path / to, tmp_path / "whole")
    assert count > 4
    assert load_run(tmp_path / to).about["seed"] == 1


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
def test_a_folder_with_other_files_is_left_alone(train, tmp_path, options):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.docx").write_text("three years")
    with pytest.raises(DataError, match="was not written by cardiac-attrivae train: it holds"):
        train(**options)
    assert (tmp_path / "run" / "thesis.docx").read_text() == "three years"


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
@pytest.mark.parametrize("config", ["model: resnet\nlr: 0.1\n", "[]", ""])
def test_a_run_of_another_program_is_left_alone(train, tmp_path, options, config):
    """Many write such files."""
    mine = ("last.pt", "best.pt", "history.csv", "figures/loss.png", "tensorboard/events.out.x")
    for name in ("config.yaml", *mine):
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).write_text(config)
    with pytest.raises(DataError, match="choose another folder"):
        train(**options)
    assert {(tmp_path / "run" / name).read_text() for name in mine} == {config}


@pytest.mark.parametrize("name", ["figures/mine.svg", "notes.txt", "tensorboard/readme"])
def test_a_run_with_something_foreign_inside_is_not_removed(train, tmp_path, name):
    train()
    (tmp_path / "run" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "run" / name).write_text("mine")
    with pytest.raises(DataError, match=f"holds what is not of a run: {name}; move it away"):
        train(overwrite=True)
    assert (tmp_path / "run" / name).read_text() == "mine"
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_nothing_is_written_through_a_link_in_a_run(train, tmp_path):
    train()
    (tmp_path / "mine").mkdir()
    shutil.rmtree(tmp_path / "run" / "figures", ignore_errors=True)
    (tmp_path / "run" / "figures").symlink_to(tmp_path / "mine")
    for options in ({"resume": True}, {"overwrite": True}):
        with pytest.raises(DataError, match="figures is a link to a folder"):
            train(**options)
    assert not list((tmp_path / "mine").iterdir())


def test_pictures_are_drawn_every_few_epochs_and_at_the_end(train, monkeypatch):
    drawn = []
    monkeypatch.setattr(Records, "draw", lambda self: drawn.append(self.trainer.state.epoch))
    train(changed(PLAIN, "schedule", pictures_every=2))
    assert drawn == [2, 4, 4]


def test_an_empty_folder_is_as_good_as_none(train, tmp_path):
    (tmp_path / "run").mkdir()
    train()


def worsening(monkeypatch, values):
    """Makes validation losses those given, by epoch."""

    def loss(evaluator):
        return values[evaluator.state.epoch - 1]

    for module in (learner, records):
        monkeypatch.setattr(module, "validation_loss", loss)


def test_early_stopping_stops_after_patience_and_keeps_the_best(train, tmp_path, monkeypatch):
    worsening(monkeypatch, [3.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0])
    values = changed(PLAIN, "schedule", epochs=20, patience=3)
    folder = train(values, to="stopped").output
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["epochs"], summary["epoch_kept"]) == (5, 2)

    monkeypatch.undo()
    monkeypatch.setattr(Records, "draw", lambda self: None)
    kept = train(changed(PLAIN, "schedule", epochs=2, keep="last"), to="two").output
    assert_same(weights(folder), weights(kept))


def test_a_run_that_stopped_early_is_not_trained_on_when_resumed(train, monkeypatch):
    worsening(monkeypatch, [1.0] + [2.0] * 20)
    values = changed(PLAIN, "schedule", epochs=20, patience=2)
    train(values)
    again = train(values, resume=True)
    assert again.get_trainer().state.epoch == 3
    assert json.loads((again.output / "summary.json").read_text())["epochs"] == 3


def test_without_validation_nothing_is_scored_and_the_last_weights_are_kept(train):
    folder = train(changed(PLAIN, "schedule", keep="last"), val=False).output
    history = pd.read_csv(folder / "history.csv")
    assert not [name for name in history if name.startswith("val_")]
    assert json.loads((folder / "summary.json").read_text())["epoch_kept"] == 4
    assert not (folder / "best.pt").exists()
    load_run(folder)


def sized(size, folder):
    """Slices of another size, and none to validate on."""
    random = np.random.default_rng(0)
    folder.mkdir()
    cavities = random.uniform(size / 8, size / 6, 8)
    dataset = slices_of([[heart(size, cavity, 3, 4)] for cavity in cavities], folder)
    return dataset, dataset.take([])


def test_the_store_says_how_large_the_images_of_the_network_are(tmp_path):
    values = PLAIN | {"network": {"arguments": {"latent_size": 4}}}
    run = TrainingWorkflow(parse_pipeline(values), *sized(64, tmp_path / "store"), tmp_path / "run")
    assert run.pipeline.network.arguments == {"latent_size": 4, "image_size": 64}
    finished(run)
    assert load_run(tmp_path / "run").network.image_size == 64


def test_a_pipeline_that_names_another_size_than_the_store_is_refused(train, tmp_path):
    small = PLAIN | {"network": {"arguments": {"latent_size": 4, "image_size": 16}}}
    with pytest.raises(ValueError, match=r"image_size is 16, but .* has 32; leave image_size out"):
        train(small)
    many = PLAIN | {"network": {"arguments": {"latent_size": 4, "channels": 2}}}
    with pytest.raises(ValueError, match=r"channels is 2, but .* has 1; leave channels out"):
        train(many)


def test_slices_of_a_size_that_no_network_takes_are_refused_in_words(tmp_path):
    values = PLAIN | {"network": {"arguments": {"latent_size": 4}}}
    run = TrainingWorkflow(parse_pipeline(values), *sized(48, tmp_path / "store"), tmp_path / "run")
    message = "has slices of 48 x 48 pixels, but .*power of two.*Preprocess with another --size"
    with pytest.raises(ValueError, match=message):
        run.initialize()
    assert not (tmp_path / "run").exists()


def test_too_few_slices_to_train_on_are_refused(halves, tmp_path):
    with pytest.raises(DataError, match="0 slices in the train split; expected at least 2"):
        TrainingWorkflow(
            parse_pipeline(PLAIN), halves[0].take([]), halves[1], tmp_path, device="cpu"
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"latent_size": 1}, "2 attributes for 1 latent dimensions"),
        ({"latent": 4}, "network 'BetaVAE': .*'latent'; it takes latent_size"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused_before_a_folder_is_touched(
    train, tmp_path, arguments, message
):
    with pytest.raises(ValueError, match=message):
        train(PLAIN | {"network": {"arguments": arguments}})
    assert not (tmp_path / "run").exists()
    summary = train().output / "summary.json"
    with pytest.raises(ValueError, match=message):
        train(PLAIN | {"network": {"arguments": arguments}}, overwrite=True)
    assert summary.is_file()


def poison(layer):
    """Makes a layer's bias NaN as epoch 3 begins."""

    def spoil(engine):
        torch.nn.init.constant_(engine.network.get_submodule(layer).bias, float("nan"))

    return On(Events.EPOCH_STARTED(once=3), spoil)


def test_training_that_diverges_stops_with_the_name_of_a_term_and_an_intact_checkpoint(
    train, tmp_path
):
    with pytest.raises(FloatingPointError, match=r"term is nan in epoch 3"):
        train(handlers=(poison("posterior"),))
    assert_intact(tmp_path / "run")


@pytest.mark.parametrize("layer", ["encoder.fc", "decoder.main.predict"])
def test_an_introspective_run_that_diverges_stops_with_the_name_of_a_term(train, tmp_path, layer):
    with pytest.raises(FloatingPointError, match="the reconstruction term is nan in epoch 3"):
        train(INTRO, handlers=(poison(layer),))
    assert_intact(tmp_path / "run")
    train(INTRO, to="whole")
    train(INTRO, resume=True)  # from epoch 2, without the poison
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("term", ["exp_elbo_generated", "decoder_kl_reconstructed"])
def test_a_term_that_introspection_alone_has_is_named_as_well(train, tmp_path, monkeypatch, term):
    name = term.rpartition("_")[0]
    real, count = getattr(SoftIntroLoss, name), iter(range(1000))

    def broken(self, *arguments):
        # each is called for reconstructed, then for generated images, once an epoch after the first
        bad = next(count) == (3 if term.endswith("generated") else 2)
        return real(self, *arguments) * (float("nan") if bad else 1)

    monkeypatch.setattr(SoftIntroLoss, name, broken)
    with pytest.raises(FloatingPointError, match=rf"the {term} term is nan in epoch 3"):
        train(INTRO)
    assert_intact(tmp_path / "run")


def test_the_perceptual_network_is_on_record_in_the_model_and_no_part_of_it(train):
    few = {"epochs": 1, "steps_per_epoch": 1}
    values = INTRO | {"data": {"batch_size": 2}, "schedule": few}
    strong = {"perceptual": "random_vgg19", "w_perceptual": 1e4, "vae_epochs": 0}
    values = changed(values, "objective", **strong)
    seen = load_run(train(values).output)
    expected = perceptual_loss("random_vgg19")
    assert seen.about["perceptual"] == {"name": "random_vgg19", "sha256": expected.digest}
    assert len(expected.digest) == 64
    assert not [name for name in weights(seen.folder) if "features" in name]
    blind = load_run(train(changed(values, "objective", perceptual="none"), to="blind").output)
    assert "perceptual" not in blind.about
    assert not torch.equal(*(run.network.decoder.main.predict.weight for run in (seen, blind)))


def first_mean(network, images):
    """Mean of what the first batch norm is given."""
    with torch.no_grad():
        return network.encoder.main[0](images).mean(dim=(0, 2, 3))


@pytest.mark.parametrize("val", [True, False])
def test_statistics_of_batch_norm_that_are_saved_are_those_of_the_training_slices(train, val):
    workflow = train(INTRO, val=val)
    expected = first_mean(workflow.learner.model, workflow.get_train_dataset().basal().images)
    saved = weights(workflow.output)["encoder.main.1.running_mean"]
    torch.testing.assert_close(saved, expected, rtol=1e-4, atol=1e-5)


def test_without_recalibration_they_are_those_of_all_that_was_passed(train):
    workflow = train(INTRO | {"bn_recalibrate": False})
    saved = weights(workflow.output)
    expected = first_mean(workflow.learner.model, workflow.get_train_dataset().basal().images)
    assert (saved["encoder.main.1.running_mean"] - expected).abs().max() > 1e-3
    # no pass is left out, for nobody makes up for it: one in the epoch as a VAE, then eight each
    assert saved["decoder.main.res_in_8.bn1.num_batches_tracked"] == 1 + 3 * 8


@pytest.mark.parametrize("folder", ["nowhere", "unfinished", "foreign"])
def test_what_is_no_finished_run_is_refused(tmp_path, folder):
    from safetensors.torch import save_file

    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "last.pt").touch()
    (tmp_path / "foreign").mkdir()
    save_file({"weight": torch.zeros(1)}, tmp_path / "foreign" / "model.safetensors")
    hint = {
        "nowhere": "train one first",
        "unfinished": "train again with --resume",
        "foreign": "was not written by cardiac-attrivae",
    }
    with pytest.raises(DataError, match=hint[folder]):
        load_run(tmp_path / folder)


def test_a_name_that_is_no_device_is_refused():
    assert find_device("cpu") == torch.device("cpu")
    assert find_device("auto").type in ("cpu", "cuda")
    for name in ("gpu", "", "meta", "cuda:x"):
        with pytest.raises(ValueError, match="expected auto, cpu, cuda, cuda:N or mps"):
            find_device(name)
    with pytest.raises(ValueError, match="'cuda:99' but .* GPUs are found; expected auto or cpu"):
        find_device("cuda:99")


def rates(steps, optimiser, epoch_length=1):
    schedule = Schedule(epochs=steps[-1] // epoch_length)
    pipeline = Pipeline("m", ("LVEDA",), optimiser=optimiser, schedule=schedule)
    return [rate(step, epoch_length, pipeline) for step in steps]


def test_rates_without_warm_up_and_schedule_are_constant():
    assert rates(range(11), Optimiser()) == [1.0] * 11


def test_rates_fall_to_a_tenth_after_each_milestone():
    found = rates(range(9), Optimiser(milestones=(1, 3)), epoch_length=2)
    assert found == pytest.approx([1, 1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01])


def test_warm_up_rises_in_equal_steps_and_never_overshoots():
    optimiser = Optimiser(warmup=0.4)
    assert rates(range(11), optimiser)[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert max(rates(range(11), Optimiser(warmup=0.25))) == 1.0


def test_cosine_falls_from_1_over_a_half_to_0():
    optimiser = Optimiser(warmup=0.2, schedule="cosine")
    values = rates(range(101), optimiser)[20:]
    assert (values[0], values[40], values[80]) == pytest.approx((1.0, 0.5, 0.0))
    assert values[20] == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert all(a > b for a, b in zip(values, values[1:], strict=False))


def test_the_running_average_equals_a_loop_by_hand():
    torch.manual_seed(0)
    network = torch.nn.Linear(3, 2)
    averaged, expected = average_of(network, 0.8), None
    for count in range(60):
        torch.nn.init.normal_(network.weight)
        averaged.update_parameters(network)
        now = network.weight.detach().clone()
        decay = min(0.8, (1 + count) / (10 + count))  # .8 from step 35 on
        expected = now if expected is None else decay * expected + (1 - decay) * now
        assert torch.allclose(averaged.module.weight, expected, atol=1e-6)


def test_no_decay_is_no_average():
    assert average_of(torch.nn.Linear(2, 1), 0.0) is None


def test_with_an_average_the_average_is_what_is_validated_and_saved(train):
    values = changed(changed(PLAIN, "optimiser", average=0.9), "schedule", keep="last")
    workflow = train(values)
    saved = weights(workflow.output)
    averaged, last = workflow.learner.model.state_dict(), workflow.learner.network.state_dict()
    assert all(torch.equal(saved[name], averaged[name]) for name in saved)
    assert not torch.equal(saved["posterior.weight"], last["posterior.weight"])


def test_codes_do_not_depend_on_how_slices_are_cut_into_batches(drawn_slices):
    network = BetaVAE(latent_size=4, image_size=32)
    images = drawn_slices.images.repeat(4, 1, 1, 1)  # 96: a batch of 64 and one of 32
    mu, logvar = encode(network, images)
    assert mu.shape == logvar.shape == (96, 4)
    np.testing.assert_allclose(mu[:24], mu[72:], atol=1e-5)


def test_a_traversal_turns_one_dimension_at_a_time_about_the_mean_code():
    network = BetaVAE(latent_size=3, image_size=32).eval()
    mean, deviation = np.array([0.1, -0.2, 0.3]), np.array([1.0, 0.5, 2.0])
    statistics = {"code_mean": mean, "code_deviation": deviation}
    images = traverse(network, 2, statistics)
    assert images.shape == (2, len(TRAVERSAL), 1, 32, 32)
    middle = len(TRAVERSAL) // 2
    np.testing.assert_allclose(images[0, middle], images[1, middle], atol=1e-6)
    code = torch.tensor([[0.1, -0.2 + 3 * 0.5, 0.3]])
    with torch.no_grad():
        expected = network.decode(code)[0].numpy()
    np.testing.assert_allclose(images[1, -1], expected, atol=1e-5)


def test_monai_is_given_what_it_asks_a_training_workflow_for(train, halves):
    workflow = train()
    assert workflow.get_evaluator().network is workflow.learner.model
    assert workflow.get_max_epochs() == 4
    assert workflow.get_device() == torch.device("cpu")
    assert len(workflow.get_train_dataset()) == 7
    assert workflow.get_bundle_root() == str(workflow.output)
    assert Keys.TERMS in workflow.get_trainer().state.output


def test_a_trained_decoder_beats_a_black_image_and_the_mean_image(train, halves):
    """A decoder that died early answers every code with black; a trained one draws each patient.

    Threads, instruction sets and two seeds gave .30 to .34 of the error of the mean image on the
    slices of the training, and .11 to .13 of that of a black image on unseen ones.
    """
    values = EVERYTHING | {
        "network": {"arguments": {"latent_size": 4, "init": "he"}},
        "objective": {"gamma": 1.0, "beta": 0.1},
        "augmentation": {},
        "optimiser": {"lr": 4e-3, "warmup": 0.1, "schedule": "cosine"},
        "schedule": {"epochs": 2, "steps_per_epoch": 120, "keep": "last"},
        "precision": "float32",
    }
    network = train(values).learner.model.eval()
    known, unseen = (half.basal().images for half in halves)
    with torch.no_grad():
        errors = [(network(x).reconstruction - x).square().mean() for x in (known, unseen)]
    assert errors[0] < 0.6 * (known.mean(dim=0) - known).square().mean()
    assert errors[1] < 0.2 * unseen.square().mean()


@pytest.mark.slow
def test_attri_vae_fast_learns_to_draw_phantoms_in_forty_steps(acdc_store_all, tmp_path):
    store = SliceDataset.open(acdc_store_all)
    pipeline = load_pipeline(
        "attri_vae_unguided",
        ["schedule.epochs=1", "schedule.steps_per_epoch=40", "data.batch_size=16"],
    )
    train = store.split("train")
    finished(TrainingWorkflow(pipeline, train, store.split("val"), tmp_path, device="cpu"))
    basal = train.basal()
    with torch.no_grad():
        output = load_run(tmp_path).network(basal.images)
    error = (output.reconstruction - basal.images).square().mean()
    assert error < 0.5 * basal.images.square().mean()


# Checkpoints that are damaged, taken away or of another run ------------------------------------


def interrupted(train, values=PLAIN, to="run", epoch=3):
    with pytest.raises(KeyboardInterrupt):
        train(values, to=to, handlers=(interrupt(epoch),))


def without(key):
    def change(file):
        state = torch.load(file, weights_only=True)
        del state[key]
        torch.save(state, file)

    return change


DAMAGES = {
    "cut": lambda file: file.write_bytes(file.read_bytes()[:2000]),
    "empty": lambda file: file.write_bytes(b""),
    "garbage": lambda file: file.write_bytes(b"\x00garbage" * 500),
    "a list": lambda file: torch.save([1], file),
    "no network": without("network"),
    "no epoch": without("epoch"),
    "no generator": without("generator"),
    "another network": lambda file: torch.save(
        torch.load(file, weights_only=True) | {"network": {}}, file
    ),
    "an epoch in words": lambda file: torch.save(
        torch.load(file, weights_only=True) | {"epoch": "three"}, file
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_is_refused_in_one_sentence(train, tmp_path, name):
    interrupted(train)
    DAMAGES[name](tmp_path / "run" / "last.pt")
    with pytest.raises(DataError, match=r"last\.pt cannot be used: .*remove it: then --resume"):
        train(resume=True)
    (tmp_path / "run" / "last.pt").unlink()
    train(resume=True)
    train(to="whole")
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize(
    "change", [Path.unlink, lambda file: shutil.copy(file.parents[1] / "x" / "best.pt", file)]
)
def test_best_weights_that_are_gone_or_of_another_run_are_not_replaced_by_others(
    train, tmp_path, change, monkeypatch
):
    train(to="x", seed=5)
    worsening(monkeypatch, [1.0, 2.0, 3.0, 4.0])
    interrupted(train)
    change(tmp_path / "run" / "best.pt")
    with pytest.raises(DataError, match=r"best\.pt is missing or not the one .* wrote in epoch 1"):
        train(resume=True)


def test_best_weights_of_the_last_checkpoint_are_restored_from_it(train, tmp_path):
    """A run that is killed between its two files has only the first."""
    train(to="whole")
    interrupted(train)
    (tmp_path / "run" / "best.pt").unlink()
    assert train(resume=True).records.checkpoints.best_epoch
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_best_weights_that_were_exchanged_during_the_training_are_not_saved(
    train, tmp_path, monkeypatch
):
    train(to="x", seed=5)
    load = Records.load_kept

    def load_another(records):
        shutil.copy(tmp_path / "x" / "best.pt", tmp_path / "run" / "best.pt")
        return load(records)

    monkeypatch.setattr(Records, "load_kept", load_another)
    with pytest.raises(DataError, match=r"best\.pt cannot be used: it is not the one"):
        train()
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_a_forged_history_is_not_taken_over_by_a_resumed_run(train, tmp_path):
    train(to="whole")
    interrupted(train)
    history = tmp_path / "run" / "history.csv"
    history.write_text(history.read_text().replace("\n1,", "\n9,"))
    train(resume=True)
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    history.write_text("epoch\n1\n")
    train(resume=True)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_other_conditions_after_a_resume_are_reported_and_recorded(train, tmp_path, monkeypatch):
    interrupted(train)
    monkeypatch.setattr(records, "describe_device", lambda device: "cpu, 64 threads")
    with pytest.warns(UserWarning, match="resumed on cpu, 64 threads; epochs 1 to 2 were"):
        train(resume=True)
    (_, first), last = json.loads((tmp_path / "run" / "summary.json").read_text())["conditions"]
    assert first.startswith("cpu, ")
    assert last == [3, "cpu, 64 threads"]


def test_a_run_that_diverges_at_once_says_what_to_do_and_it_can_be_done(train, tmp_path):
    fast = changed(PLAIN, "optimiser", lr=10.0)
    with pytest.raises(FloatingPointError, match="run the same command again: .* no checkpoint"):
        train(fast)
    assert not (tmp_path / "run" / "last.pt").exists()
    train()


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_no_generator_takes_is_refused(train, seed):
    with pytest.raises(ValueError, match=f"seed is {seed}; expected a whole number from 0 to"):
        train(seed=seed)
