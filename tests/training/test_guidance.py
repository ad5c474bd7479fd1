"""Guidance: what is drawn is compared with what was asked, through a segmenter that is frozen."""

import copy
import os
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from conftest import quick_guide, trained
from torch import nn

from cardiac_attrivae.data.store import SliceDataset
from cardiac_attrivae.models.anatomy_terms import (
    control_distance,
    mask_distance,
    soft_areas,
    turned,
)
from cardiac_attrivae.models.networks import BetaVAE
from cardiac_attrivae.runtime.weights import read_weights, write_weights
from cardiac_attrivae.schema import DataError, Keys, VAEOutput
from cardiac_attrivae.segmentation.guide import KIND, build_guide, refuse_guide, train_guide
from cardiac_attrivae.segmentation.judge import Segmenter
from cardiac_attrivae.segmentation.judge_training import Training
from cardiac_attrivae.training.config import load_pipeline
from cardiac_attrivae.training.guidance import Guidance, Guide
from cardiac_attrivae.training.objectives import AttriVAEObjective
from cardiac_attrivae.training.run import load_run
from cardiac_attrivae.training.verify import verify_run
from cardiac_attrivae.training.workflow import TrainingWorkflow, train

NAMES = ("LVEDA", "MEDA", "RVEDA")
OFF = ("objective.control=0", "objective.anatomy=0")
ON = ("objective.control=1", "objective.anatomy=0.3", "objective.guided_from=0")
OUTLINES = ("network.arguments.outlines=true",)


@pytest.fixture
def random():
    return torch.Generator().manual_seed(0)


def test_soft_areas_are_sums_of_probabilities(random):
    logits = torch.randn(3, 4, 5, 5, generator=random, dtype=torch.float64)
    odds = np.exp(logits.numpy())
    expected = (odds / odds.sum(1, keepdims=True)).sum((2, 3))[:, 1:]
    np.testing.assert_allclose(soft_areas(logits), expected, rtol=1e-12)


def test_mask_distance_is_one_minus_the_mean_soft_dice(random):
    logits = torch.randn(3, 4, 6, 6, generator=random)
    label = torch.randint(4, (3, 1, 6, 6), generator=random)
    expected = []
    for seen, mask in zip(logits.softmax(1), label[:, 0], strict=True):
        parts = [
            (2 * seen[s][mask == s].sum() + 1) / (seen[s].sum() + (mask == s).sum() + 1)
            for s in (1, 2, 3)
        ]
        expected.append(1 - sum(parts) / 3)
    np.testing.assert_allclose(mask_distance(logits, label), torch.stack(expected), atol=1e-6)


def test_control_distance_is_the_smooth_l1_of_what_was_asked(random):
    before, after = torch.randn(2, 5, 3, generator=random)
    structure, amount = torch.tensor([0, 1, 2, 0, 1]), torch.tensor([2.0, -1, 0.5, 0, 1])
    found = control_distance(before, after, structure, amount)
    for n in range(5):
        total = 0.0
        for s in range(3):
            error = abs(
                float(after[n, s] - before[n, s]) - float(amount[n]) * (s == int(structure[n]))
            )
            total += error**2 / 0.6 if error < 0.3 else error - 0.15
        assert float(found[n]) == pytest.approx(total / 3, abs=1e-6)


def test_turning_changes_one_dimension_of_each_code(random):
    z = torch.randn(4, 6, generator=random)
    which, amount = torch.tensor([0, 5, 2, 2]), torch.tensor([1.0, -2, 0.5, 3])
    change = turned(z, which, amount) - z
    np.testing.assert_allclose(change[range(4), which], amount, atol=1e-6)
    assert (change != 0).sum() == 4


class Reader(nn.Module):
    """Gives each structure, everywhere, the probability that one of four pixels says."""

    def forward(self, image):
        share = image.flatten(1)[:, 1:]
        share = torch.cat([1 - share.sum(1, keepdim=True), share], dim=1)
        return share.log()[:, :, None, None].expand(-1, -1, 2, 2)


@pytest.mark.parametrize(("obedience", "obeys"), [(1.0, True), (0.5, False), (0.0, False)])
def test_control_is_zero_where_the_drawing_obeys(drawn_slices, random, obedience, obeys):
    def decode(z):
        pixels = 0.1 + 0.01 * obedience * z
        return pixels.view(-1, 1, 2, 2)

    guide, objective = Guide(Reader(), "reader", {}), AttriVAEObjective(control=2.0)
    names = ("RVEDV", *NAMES)  # the first dimension is not turned
    guidance = Guidance(guide, objective, names, drawn_slices, torch.device("cpu"))
    guidance.deviation = torch.full((3,), 4 * 0.01)  # four pixels hold a structure's share
    z = torch.randn(6, 4, generator=random)
    output = VAEOutput(decode(z), z, z, z)
    found = guidance.look({Keys.IMAGE: output.reconstruction}, random)(output, decode)
    assert found.keys() == {"control"}
    assert (float(found["control"]) < 1e-6) == obeys


def test_gradients_reach_the_decoder_and_never_the_guide(drawn_slices, random):
    vae = BetaVAE(latent_size=8, image_size=32)
    objective = AttriVAEObjective(control=1.0, anatomy=1.0)
    guide = Guide(build_guide(0), "guide", {})
    before = copy.deepcopy(guide.network.state_dict())
    guidance = Guidance(guide, objective, NAMES, drawn_slices, torch.device("cpu"))
    batch = {Keys.IMAGE: drawn_slices.images[:6], Keys.LABEL: drawn_slices.labels[:6]}
    output = vae(batch[Keys.IMAGE], torch.zeros(6, 8))
    sum(guidance.look(batch, random)(output, vae.decode).values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in vae.decoder.parameters())
    assert all(p.grad is None for p in guide.network.parameters())
    for name, value in guide.network.state_dict().items():
        assert torch.equal(value, before[name]), name  # batch norm counts nothing either


def test_volumes_are_not_turned(drawn_slices, random):
    for names, turns in ((("LVEDV", "RVEDA"), {1}), (("LVEDV",), set())):
        guidance = Guidance(
            Guide(build_guide(0), "guide", {}), AttriVAEObjective(control=1.0), names,
            drawn_slices, torch.device("cpu"),
        )  # fmt: skip
        assert set(guidance.dimensions.tolist()) == turns
        assert (guidance.control > 0) == bool(turns)


def digest(folder):
    return {
        name: value.numpy().tobytes()
        for name, value in load_run(folder).network.state_dict().items()
    }


def test_weights_of_zero_ask_for_no_guide_and_change_no_bit(acdc_store_all, tmp_path):
    """`guided_from` is the only other option; without weights it says nothing."""
    plain = trained(acdc_store_all, tmp_path / "a", *OFF)
    other = trained(acdc_store_all, tmp_path / "b", *OFF, "objective.guided_from=0.5")
    assert digest(plain) == digest(other)
    assert "guide" not in load_run(plain).about


def test_a_network_that_is_shown_outlines_holds_the_guide_of_its_run(acdc_store_all, tmp_path):
    """Also where nothing looks at what is drawn, and in the average of the weights."""
    changes = (*OFF, *OUTLINES, "optimiser.average=0.5")
    made = trained(acdc_store_all, tmp_path / "run", *changes, seed=1, guide=quick_guide)
    run, known = load_run(made), SliceDataset.open(acdc_store_all).split("train")
    guide = quick_guide(known, tmp_path, torch.device("cpu"))
    assert run.about["guide"] == guide.facts()["guide"]
    assert run.about["guide_cases"].items() <= run.about["train_cases"].items()
    for name, value in guide.network.state_dict().items():
        assert torch.equal(run.network.guide.state_dict()[name], value), name


@pytest.mark.parametrize(
    ("pipeline", "more"),
    [
        pytest.param("attri_vae_unguided", (), marks=pytest.mark.slow),
        ("attri_vae_unguided", OUTLINES),
        pytest.param("attri_sivae_unguided", OUTLINES, marks=pytest.mark.slow),
    ],
)
def test_a_guided_run_resumes_as_if_it_had_not_been_interrupted(
    pipeline, more, acdc_store_all, tmp_path
):
    data = SliceDataset.open(acdc_store_all)
    small = ("network.arguments.filters=[4,4,4,8,8]", "objective.vae_epochs=1") * (
        "sivae" in pipeline
    )
    changes = (*ON, *small, *more, "schedule.steps_per_epoch=2", "data.batch_size=6",
               "objective.guided_from=0.2", "decorrelate=true")  # fmt: skip

    def run(folder, stop=None, **options):
        workflow = TrainingWorkflow(
            load_pipeline(pipeline, (*changes, "schedule.epochs=2", "schedule.evaluate_every=1")),
            data.split("train"), data.split("val"), folder, device="cpu", guide=quick_guide,
            **options,
        )  # fmt: skip
        workflow.initialize()
        if stop:
            from ignite.engine import Events

            def interrupt(engine):
                raise KeyboardInterrupt

            workflow.get_trainer().add_event_handler(Events.EPOCH_COMPLETED(once=stop), interrupt)
            with pytest.raises(KeyboardInterrupt):
                workflow.run()
            return
        workflow.run()
        workflow.finalize()

    run(tmp_path / "whole")
    run(tmp_path / "parts", stop=1)
    run(tmp_path / "parts", resume=True)
    assert digest(tmp_path / "whole") == digest(tmp_path / "parts")


def test_another_guide_than_that_of_the_checkpoint_is_refused():
    first, second = (Guide(build_guide(seed), KIND, {}) for seed in (0, 1))
    first.load_state_dict(first.state_dict())
    with pytest.raises(DataError, match="began with guide"):
        first.load_state_dict(second.state_dict())


def test_a_guide_is_made_of_half_the_patients_kept_recorded_and_never_measures(
    acdc_store_all, tmp_path
):
    """The run opens without it; `verify` does not know what is no longer there."""
    store = tmp_path / "store"
    shutil.copytree(acdc_store_all, store, ignore=shutil.ignore_patterns("segmenters"))
    make = partial(train_guide, training=Training(steps=2, batch_size=4))
    made = trained(store, tmp_path / "run", *ON, guide=make)
    known = SliceDataset.open(store).split("train")
    guide = make(known, tmp_path, torch.device("cpu"))
    (file,) = (store / "segmenters").iterdir()
    about = load_run(made).about
    patients = sorted(known.cases["case"].unique())
    assert sorted(about["guide_cases"]) == sorted(guide.cases) == patients[::2]
    assert about["guide_cases"].items() < about["train_cases"].items()
    assert about["guide"] == guide.facts()["guide"]

    refuse_guide(about, Segmenter(build_guide(1), {}, 0))
    with pytest.raises(DataError, match="is the guide"):
        refuse_guide(about, Segmenter(guide.network, {}, 0))

    findings = {finding.what: finding for finding in verify_run(made, store)}
    assert findings["segmenters"].holds
    file.write_bytes(b"damaged")
    findings = {finding.what: finding for finding in verify_run(made, store)}
    assert findings["segmenters"].holds is False
    assert f"{file} cannot be read" in findings["segmenters"].text
    with pytest.warns(UserWarning, match=f"{file} cannot be read.*; it is not used"):
        anew = make(known, tmp_path, torch.device("cpu"))
    assert anew.state_dict() == guide.state_dict()
    assert make(known, tmp_path, torch.device("cpu")).state_dict() == guide.state_dict()
    file.unlink()
    findings = {finding.what: finding for finding in verify_run(made, store)}
    assert findings["segmenters"].holds is None
    assert "guide" in findings["segmenters"].text


def exchanged(file):
    """Puts other weights into a segmenter, and seals it anew."""
    weights, facts = read_weights(file)
    write_weights(file, {name: values + 1 for name, values in weights.items()}, facts)


@pytest.mark.parametrize("writable", [True, False])
def test_a_guide_that_was_exchanged_under_its_own_seal_is_told(
    acdc_store_all, tmp_path, monkeypatch, writable
):
    """It lies in the store, or in the run if the store cannot be written."""
    store = shutil.copytree(acdc_store_all, tmp_path / "store", ignore=lambda *_: ["segmenters"])
    if not writable:
        access = os.access
        monkeypatch.setattr(os, "access", lambda p, mode: p != store and access(p, mode))
    data, run = SliceDataset.open(store), tmp_path / "run"
    make = partial(train_guide, training=Training(steps=2, batch_size=4))
    short = ("schedule.epochs=1", "schedule.steps_per_epoch=1", "data.batch_size=4")
    begin = partial(
        train, load_pipeline("attri_vae_unguided", (*ON, *short)), data, run, device="cpu",
        guide=make,
    )  # fmt: skip
    begin()
    (file,) = ((store if writable else run) / "segmenters").iterdir()
    findings = {finding.what: finding for finding in verify_run(run, store)}
    assert findings["segmenters"] == ("segmenters", True, "1, as written")
    exchanged(file)
    findings = {finding.what: finding for finding in verify_run(run, store)}
    told = f"{file} was changed after it was written"
    assert findings["segmenters"] == ("segmenters", False, told)
    told = "began with guide .*: its file was exchanged, .*Put back the file, or train into another"
    with pytest.raises(DataError, match=told):
        begin(resume=True)


def test_a_guide_needs_three_patients(drawn_slices, tmp_path):
    with pytest.raises(DataError, match="too few training patients for a guide"):
        train_guide(drawn_slices.take([0, 2]), tmp_path, torch.device("cpu"))


@pytest.mark.parametrize("changes", [ON, (*OFF, *OUTLINES)])
def test_a_training_that_needs_a_guide_is_refused_without_before_anything_is_written(
    acdc_store_all, tmp_path, changes
):
    with pytest.raises(ValueError, match="no guide was given"):
        trained(acdc_store_all, tmp_path / "run", *changes, guide=None)
    assert not (tmp_path / "run").exists()
