"""Training on stacks: one deformation for all channels, and volumes that follow it."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import heart, quick_guide

from cardiac_attrivae.attributes import measure
from cardiac_attrivae.data.store import SliceDataset, areas
from cardiac_attrivae.heart import Outlines
from cardiac_attrivae.schema import Keys, Phase
from cardiac_attrivae.training.augmentation import (
    AttributeTargets,
    Augmentation,
    Augmenter,
    prepared,
    structure_masks,
)
from cardiac_attrivae.training.config import load_pipeline
from cardiac_attrivae.training.guidance import Guidance
from cardiac_attrivae.training.workflow import TrainingWorkflow
from training.test_augmentation import Always
from training.test_workflow import (
    assert_same_checkpoint,
    assert_same_run,
    finished,
    interrupt,
    without_pictures,  # noqa: F401
)

NAMES = ("LVEDV", "LVESV", "RVEDV", "LVEF", "LVM")
SHARES = (1.0, 0.9, 0.7)
"""Size of the slices of a heart, from base to apex."""


@pytest.fixture(scope="module")
def stacks():
    """Sixteen patients of three slices 30 mm apart at ED and ES, of 1 mm pixels."""
    random = np.random.default_rng(0)
    rows, labels = [], []
    for number in range(16):
        cavity, wall, right = random.uniform((9, 4, 9), (13, 7, 12))
        beat = random.uniform(0.5, 0.85)
        sizes = {Phase.ED: (cavity, wall, right), Phase.ES: (cavity * beat, wall * 1.3, right)}
        masks = {
            phase: np.stack([heart(64, *(share * r for r in radii), (6, 0)) for share in SHARES])
            for phase, radii in sizes.items()
        }
        hearts = {p: Outlines(np.moveaxis(m, 0, 2), (1.0, 1.0, 30.0), 0) for p, m in masks.items()}
        facts = {"case": f"p{number:02d}", "dataset": "drawn", "split": "train", "slice_index": 0}
        spacing = {"spacing_x_mm": 1.0, "spacing_y_mm": 1.0, "spacing_z_mm": 30.0}
        rows.append(facts | spacing | measure(hearts))
        labels.append(np.concatenate([*masks.values()]))
    recipe = {"size": 64, "spacing": 1.0, "percentiles": [1, 99], "phases": ["ED", "ES"]}
    info = {"dataset": "drawn", "recipe": recipe | {"stack": 3}, "content_hash": "none"}
    grey = np.array([0, 0.8, 0.3, 0.7], np.float32)
    stack = np.stack(labels)
    return SliceDataset(
        torch.as_tensor(grey[stack]), stack, pd.DataFrame(rows), info, Path("drawn")
    )


def augmented(dataset, **ranges):
    targets = AttributeTargets(dataset, NAMES)
    batch = prepared(dataset.read(range(len(dataset)))) | {Keys.ROW: torch.arange(len(dataset))}
    augmenter = Augmenter(dataset, targets, Augmentation(**ranges))
    after = augmenter(batch, torch.Generator().manual_seed(0))
    values = after[Keys.ATTRIBUTES].double().numpy() * targets.deviation + targets.mean
    return after, dict(zip(NAMES, values.T, strict=True))


def test_a_stack_shows_its_volumes(stacks):
    assert (stacks.channels, stacks.phases) == (6, (Phase.ED, Phase.ES))
    volumes = stacks.attributes(["LVEDV", "MEDV", "RVEDV", "LVESV"])
    assert stacks.areas[:, :4] == pytest.approx(volumes, rel=1e-9)  # nothing between the slices


def test_without_augmentation_every_target_is_what_was_measured(stacks):
    _, values = augmented(stacks)
    for k, name in enumerate(NAMES):
        assert values[name] == pytest.approx(stacks.attributes(NAMES)[:, k], rel=1e-4)


def test_volumes_are_counted_again_after_a_deformation(stacks):
    after, values = augmented(stacks, zoom=0.2, cavity=0.2, wall=0.2, elastic=1)
    counted = areas(after[Keys.LABEL], stacks.scale)
    for name, column in (("LVEDV", 0), ("LVESV", 3), ("RVEDV", 2)):
        assert values[name] == pytest.approx(counted[:, column], rel=1e-3)
        assert not np.allclose(counted[:, column], stacks.areas[:, column], rtol=0.05)
    assert values["LVM"] == pytest.approx(1.05 * counted[:, 1], rel=1e-3)


def test_a_zoom_leaves_the_ejection_fraction(stacks):
    _, values = augmented(stacks, zoom=0.25)
    assert values["LVEF"] == pytest.approx(stacks.attributes(["LVEF"])[:, 0], abs=3)


def test_all_channels_are_deformed_alike(stacks):
    labels = stacks.labels[:, :1].repeat(1, 6, 1, 1)
    images = stacks.images[:, :1].repeat(1, 6, 1, 1)
    twin = SliceDataset(images, labels, stacks.cases, stacks.info, None)
    batch = prepared(twin.read(range(16))) | {Keys.ROW: torch.arange(16)}
    targets = SimpleNamespace(
        features=lambda areas: areas, plane=np.zeros((7, 1)), rest=np.zeros((16, 1)), mean=0.0,
        deviation=1.0,
    )  # fmt: skip
    ranges = Augmentation(rotation=20, shift=4, elastic=2, cavity=0.2, wall=0.2, zoom=0.1)
    after = Augmenter(twin, targets, ranges)(batch, torch.Generator().manual_seed(0))
    assert not torch.equal(after[Keys.LABEL][:, 0], labels[:, 0].float())
    for channel in range(1, 6):
        assert torch.equal(after[Keys.LABEL][:, channel], after[Keys.LABEL][:, 0])


def test_guidance_turns_volumes_of_stacks(stacks):
    """The control term sees volumes: a decoder whose hearts do not change misses what is asked."""

    class Bright(torch.nn.Module):
        def forward(self, image):
            return torch.cat([0.5 - image, image - 0.5, *[-torch.ones_like(image)] * 2], 1) * 50

    guide = SimpleNamespace(network=Bright())
    weights = SimpleNamespace(control=1.0, anatomy=1.0)
    of = partial(Guidance, guide, weights, train=stacks, device=torch.device("cpu"))
    assert of(names=("LVEF", "LVESV")).ratios.keys() == {0}  # the one that is named first
    guidance = of(names=("LVEDV", "LVESV", "LVEF"))
    assert (guidance.dimensions.tolist(), guidance.ratios) == ([0, 1], {})
    assert guidance.structures.tolist() == [0, 3]
    slices = stacks.read(range(4))
    output = SimpleNamespace(reconstruction=slices[Keys.IMAGE], z=torch.zeros(4, 8))
    look = guidance.look(slices, torch.Generator().manual_seed(0))
    still = look(output, lambda z: slices[Keys.IMAGE])
    assert still["control"] > 0.01
    assert 0 < still["anatomy"] < 1


def counted(labels):
    """Areas of the LV, myocardium and RV, (N, phase, slice, structure)."""
    return structure_masks(labels).sum((2, 3)).view(len(labels), 2, 3, 3).numpy()


@pytest.fixture
def full_reach(monkeypatch):
    monkeypatch.setattr("cardiac_attrivae.training.augmentation._Draw", Always)


@pytest.mark.usefixtures("full_reach")
def test_another_beat_changes_the_cavity_at_es_alone(stacks):
    after, values = augmented(stacks, beat=0.2)
    before, found = counted(stacks.labels), counted(after[Keys.LABEL])
    assert (found[:, 0] == before[:, 0]).all()
    cavity, larger = before[:, 1, :, 0].sum(1), found[:, 1, :, 0].sum(1)
    assert larger == pytest.approx(cavity * np.exp(0.4), rel=0.08)
    change = 100 - stacks.attributes(["LVEF"])[:, 0]
    assert 100 - values["LVEF"] == pytest.approx(change * np.exp(0.4), rel=0.08)


@pytest.mark.usefixtures("full_reach")
def test_a_taper_changes_the_cavity_towards_the_apex(stacks):
    after, _ = augmented(stacks, taper=0.3)
    share = counted(after[Keys.LABEL])[..., 0] / counted(stacks.labels)[..., 0]
    assert (share[:, :, 0] == 1).all()
    assert share[:, 0].mean(0) == pytest.approx([1, np.exp(0.3), np.exp(0.6)], rel=0.05)


@pytest.mark.usefixtures("full_reach")
def test_the_right_ventricle_grows_alone(stacks):
    after, values = augmented(stacks, right=0.2)
    before, found = counted(stacks.labels), counted(after[Keys.LABEL])
    assert found[..., :2] == pytest.approx(before[..., :2], rel=0.05)
    assert (found[..., 2] > 1.15 * before[..., 2]).all()
    assert (values["RVEDV"] > 1.15 * stacks.attributes(["RVEDV"])[:, 0]).all()


@pytest.mark.usefixtures("full_reach")
def test_a_zoom_along_the_stack_takes_other_slices(stacks):
    after, values = augmented(stacks, length=float(np.log(2)))
    before, found = (x.float().unflatten(1, (2, 3)) for x in (stacks.labels, after[Keys.LABEL]))
    assert torch.equal(found[:, :, 0], before[:, :, 0])
    assert torch.equal(found[:, :, 1], before[:, :, 2])
    assert not found[:, :, 2].any()
    assert values["LVEDV"] == pytest.approx(areas(after[Keys.LABEL], stacks.scale)[:, 0], rel=1e-3)


def test_a_run_of_stacks_that_was_interrupted_ends_as_if_it_had_not_been(stacks, tmp_path):
    changes = ("schedule.steps_per_epoch=2", "schedule.evaluate_every=1", "schedule.epochs=3")
    pipeline = load_pipeline("attri_vae_stack", changes)
    pipeline = replace(pipeline, attributes=NAMES)

    def run(folder, *handlers, **options):
        work = TrainingWorkflow(pipeline, stacks, stacks.take([]), tmp_path / folder, device="cpu",
                                handlers=handlers, guide=quick_guide, **options)  # fmt: skip
        return finished(work)

    run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("broken", interrupt(2))
    assert run("broken", resume=True).records.start_epoch == 1
    assert_same_run(tmp_path / "whole", tmp_path / "broken")
    assert_same_checkpoint(tmp_path / "whole", tmp_path / "broken")
