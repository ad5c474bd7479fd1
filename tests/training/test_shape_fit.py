"""Shapes in training: filled in before the first step, kept, and judged as any other network."""

import copy

import numpy as np
import pytest
import torch
from conftest import heart, quick_guide, slices_of

from cardiac_attrivae.models.brightness import brightness_of
from cardiac_attrivae.models.independence import fixed_of
from cardiac_attrivae.models.shapes import LAYERS, fit_shapes, signed_distances
from cardiac_attrivae.training import shape_fit
from cardiac_attrivae.training.config import load_pipeline
from cardiac_attrivae.training.run import encode, load_run
from cardiac_attrivae.training.vae_learner import VAELearner
from cardiac_attrivae.training.workflow import TrainingWorkflow

SHAPES = (
    "network.arguments.outlines=true",
    "network.arguments.shapes=8",
    "network.arguments.brightness=2",
    "network.arguments.latent_size=16",
    "network.arguments.image_size=32",
)
QUICK = ("schedule.epochs=2", "schedule.steps_per_epoch=2", "schedule.evaluate_every=2")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def learner(drawn_slices):
    pipeline = load_pipeline("attri_vae_unguided", SHAPES)
    learner = VAELearner(pipeline, drawn_slices, CPU, seed=0)
    shape_fit.begin_with_shapes(learner.network, drawn_slices, learner.targets)
    return learner


def test_shapes_are_fitted_to_all_slices_and_the_targets_of_the_basal_ones(learner, drawn_slices):
    distances = signed_distances(drawn_slices.labels).flatten(1).numpy()
    fitted = fit_shapes(distances, learner.targets.values, drawn_slices.is_basal, 8)
    model = learner.network.shape_model
    np.testing.assert_allclose(model.basis[:3].flatten(1), fitted.along, atol=1e-4)
    np.testing.assert_allclose(model.basis[-8:].flatten(1), fitted.shapes, atol=1e-4)
    np.testing.assert_allclose(model.read[:3].flatten(1), fitted.read, atol=1e-4)
    assert fixed_of(learner.network) == [*range(6, 16)]


def test_brightness_is_fitted_as_shapes_are_and_slices_that_lack_a_structure_are_left_out(
    learner, drawn_slices
):
    network, values = copy.deepcopy(learner.network), learner.targets.values
    model = network.brightness_model
    logits = brightness_of(drawn_slices.images, drawn_slices.labels).numpy()
    fitted = fit_shapes(logits, values, drawn_slices.is_basal, 2)
    np.testing.assert_allclose(model.mean, fitted.mean, atol=1e-4)
    np.testing.assert_allclose(model.basis[:3], fitted.along, atol=1e-4)
    np.testing.assert_allclose(model.basis[6:8], fitted.shapes, atol=1e-4)
    assert not model.basis[8:].any()
    logits[0, 2] = np.nan
    shape_fit._know_brightness(network, logits, values, drawn_slices.is_basal)
    fitted = fit_shapes(logits[1:], values[1:], drawn_slices.is_basal[1:], 2)
    np.testing.assert_allclose(model.mean, fitted.mean, atol=1e-4)


@torch.no_grad()
def test_a_new_network_draws_each_part_as_bright_as_it_is_on_average(learner, drawn_slices):
    network, labels, images = learner.network.eval(), drawn_slices.labels, drawn_slices.images
    codes = network.shape_model.codes(labels)
    drawn, layers = network.decode(codes), network.shape_model.layers(codes)[:, 0]
    assert not images[labels == 0].any()
    assert drawn[:, 0][layers[:, 0] > 0.99].max() < 5e-3
    lv = layers[:, 1] > 0.99
    expected = images[labels == 1].mean()
    torch.testing.assert_close(drawn[:, 0][lv].mean(), expected, atol=0.02, rtol=0)


def test_a_unit_of_a_code_draws_a_deviation_of_its_area_and_nothing_of_the_others(tmp_path):
    random, hearts = np.random.default_rng(2), []
    for _ in range(40):
        cavity, wall, right = random.uniform((8, 5, 8), (13, 8, 13))
        hearts.append([heart(64, cavity, wall, right, (8 + random.normal(), random.normal()))])
    slices = slices_of(hearts, tmp_path)
    arguments = [*SHAPES, "network.arguments.image_size=64", "data.residual=1"]
    learner = VAELearner(load_pipeline("attri_vae_unguided", arguments), slices, CPU, seed=0)
    shape_fit.begin_with_shapes(learner.network, slices, learner.targets)
    model = learner.network.shape_model
    codes = model.codes(slices.labels)

    def drawn(turn):
        areas = model.layers(codes + torch.as_tensor(turn))[:, 0, 1:].sum((2, 3)) * 0.01  # cm2
        return areas.numpy() / learner.targets.deviation

    for k, unit in enumerate(np.eye(16, dtype=np.float32)[:3]):
        change = (drawn(1.5 * unit) - drawn(-1.5 * unit)) / 3
        np.testing.assert_allclose(change.mean(0), np.eye(3)[k], atol=0.05)
        assert change.std(0).max() < 0.05  # in every heart


def test_the_first_textures_are_as_bright_as_the_slices(learner, drawn_slices):
    with torch.no_grad():
        textures = torch.sigmoid(learner.network.eval().decoder(torch.randn(2, 16)))
    for part in range(1, LAYERS):
        bright = drawn_slices.images[drawn_slices.labels == part].mean()
        torch.testing.assert_close(textures[:, part], bright.expand(2, 8, 8), atol=1e-5, rtol=0)


def test_of_many_slices_some_are_taken_and_every_basal_one(learner, drawn_slices, monkeypatch):
    monkeypatch.setattr(shape_fit, "MOST", 15)
    asked = []
    monkeypatch.setattr(
        shape_fit, "fit_shapes", lambda *given: asked.append(given[2]) or fit_shapes(*given)
    )
    shape_fit.begin_with_shapes(learner.network, drawn_slices, learner.targets)
    assert (len(asked[0]), asked[0].sum()) == (15, 12)


@pytest.mark.parametrize("name", ["attri_vae_fast", "attri_sivae_fast"])
def test_a_trained_run_keeps_its_shapes_and_reads_codes_in_their_units(
    name, drawn_slices, tmp_path
):
    pipeline = load_pipeline(name, [*SHAPES, *QUICK])
    workflow = TrainingWorkflow(
        pipeline, drawn_slices, drawn_slices.take([]), tmp_path, device="cpu", guide=quick_guide
    )
    workflow.initialize()
    before = workflow.learner.network.shape_model.basis.clone()
    workflow.run()
    workflow.finalize()
    run = load_run(tmp_path, "cpu")
    assert torch.equal(run.network.shape_model.basis, before)
    assert fixed_of(run.network) == fixed_of(workflow.learner.network) != []
    codes = encode(run.network, drawn_slices.images)[0]
    assert np.isfinite(codes).all()


def test_a_resumed_run_takes_its_shapes_from_the_checkpoint(drawn_slices, tmp_path, monkeypatch):
    pipeline, found = load_pipeline("attri_vae_fast", [*SHAPES, *QUICK]), []
    for resume in (False, True):
        workflow = TrainingWorkflow(
            pipeline, drawn_slices, drawn_slices.take([]), tmp_path, device="cpu", resume=resume,
            guide=quick_guide,
        )  # fmt: skip
        workflow.initialize()
        found.append(workflow.learner.network.shape_model.basis.clone())
        workflow.run()
        workflow.finalize()
        monkeypatch.delattr(shape_fit, "fit_shapes", raising=False)
    assert found[0].any()
    assert torch.equal(*found)


def test_more_shapes_than_dimensions_are_refused(drawn_slices):
    pipeline = load_pipeline("attri_vae_unguided", [*SHAPES, "network.arguments.shapes=12"])
    message = "3 attributes and 14 shapes and brightness for 16 latent dimensions"
    with pytest.raises(ValueError, match=message):
        VAELearner(pipeline, drawn_slices, CPU, seed=0)
