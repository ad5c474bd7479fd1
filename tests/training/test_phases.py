"""Training on two phases: one deformation for both, and attributes that follow it."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import heart, trained

from cardiac_attrivae.attributes import areas_at, drawn, measure
from cardiac_attrivae.data.store import SliceDataset, areas
from cardiac_attrivae.heart import Outlines
from cardiac_attrivae.schema import Keys, Phase, Scale, VAEOutput
from cardiac_attrivae.segmentation.judge import Segmenter
from cardiac_attrivae.training.augmentation import (
    AttributeTargets,
    Augmentation,
    Augmenter,
    prepared,
    structure_masks,
)
from cardiac_attrivae.training.guidance import Guidance, Guide
from cardiac_attrivae.training.objectives import AttriVAEObjective

NAMES = ("LVEDA", "LVESA", "RVESA", "LVEF", "WT_mean_ED", "LV_eccentricity")


@pytest.fixture(scope="module")
def beating():
    """Twelve patients of one slice at ED and ES, in memory, of 1 mm pixels."""
    random = np.random.default_rng(0)
    rows, images, labels = [], [], []
    for number in range(12):
        cavity, wall, right = random.uniform((9, 4, 9), (13, 7, 12))
        share = random.uniform(0.5, 0.85)
        masks = {
            Phase.ED: heart(64, cavity, wall, right, (6, 0)),
            Phase.ES: heart(64, cavity * share, wall * 1.3, right * share, (6, 0)),
        }
        hearts = {phase: Outlines(m[..., None], (1.0, 1.0, 8.0), 0) for phase, m in masks.items()}
        facts = {"case": f"p{number:02d}", "dataset": "drawn", "split": "train", "slice_index": 0}
        spacing = {"spacing_x_mm": 1.0, "spacing_y_mm": 1.0, "spacing_z_mm": 8.0}
        shape = {"LV_eccentricity": random.uniform(0.2, 0.6)}  # these cavities are round
        rows.append(facts | spacing | measure(hearts) | shape)
        labels.append(np.stack([*masks.values()]))
        images.append(np.array([0, 0.8, 0.3, 0.7])[labels[-1]])
    recipe = {"size": 64, "spacing": 1.0, "percentiles": [1, 99], "phases": ["ED", "ES"]}
    info = {"dataset": "drawn", "recipe": recipe, "content_hash": "none"}
    images = torch.as_tensor(np.stack(images), dtype=torch.float32)
    return SliceDataset(images, np.stack(labels), pd.DataFrame(rows), info, None)


def augmented(dataset, names, seed=0, **ranges):
    targets = AttributeTargets(dataset, names)
    batch = prepared(dataset.read(range(len(dataset)))) | {Keys.ROW: torch.arange(len(dataset))}
    augmenter = Augmenter(dataset, targets, Augmentation(**ranges))
    after = augmenter(batch, torch.Generator().manual_seed(seed))
    values = after[Keys.ATTRIBUTES].double().numpy() * targets.deviation + targets.mean
    return after, dict(zip(names, values.T, strict=True))


def test_masks_of_phases_follow_each_other():
    labels = torch.tensor([[[[1, 2]], [[3, 3]]]])
    assert structure_masks(labels)[0, :, 0].tolist() == [
        [1, 0], [0, 1], [0, 0], [0, 0], [0, 0], [1, 1],
    ]  # fmt: skip
    assert areas(labels, Scale(0.5)).tolist() == [[0.5, 0.5, 0, 0, 0, 1]]


def test_without_augmentation_every_target_is_what_was_measured(beating):
    _, values = augmented(beating, NAMES)
    for k, name in enumerate(NAMES):
        assert values[name] == pytest.approx(beating.attributes(NAMES)[:, k], rel=1e-4)


def test_slices_below_the_base_keep_their_shape_and_the_ejection_fraction(beating):
    """They once had what the areas say alone, of a shape the mean, while their volumes still do."""
    below = beating.cases.assign(slice_index=1)
    for name in areas_at(Phase):
        below[name] *= 0.8
    below["LV_eccentricity"] += 0.1
    cases = pd.concat([beating.cases, below], ignore_index=True)
    images, labels = beating.images.repeat(2, 1, 1, 1), beating.labels.repeat(2, 1, 1, 1)
    both = SliceDataset(images, labels, cases, beating.info, None)
    names = ("LVEF", "WT_mean_ED", "LV_eccentricity", "LVEDV")
    targets = AttributeTargets(both, names)
    found = targets.values * targets.deviation + targets.mean
    wanted = both.attributes(names)
    assert found[:, :3] == pytest.approx(wanted[:, :3])
    assert found[:12, 3] == pytest.approx(wanted[:12, 3])
    assert not np.isclose(found[12:, 3], wanted[12:, 3], rtol=1e-3).any()
    assert (targets.rest[12:, 3] == 0).all()


def test_areas_of_both_phases_are_counted_again_after_a_deformation(beating):
    after, values = augmented(beating, NAMES, zoom=0.2, cavity=0.3, wall=0.3, elastic=1)
    counted = areas(after[Keys.LABEL], beating.scale)
    for name in ("LVEDA", "LVESA", "RVESA"):
        column = areas_at(Phase).index(name)
        # RV of the crop may be cut: in these hearts it is not
        assert values[name] == pytest.approx(counted[:, column], rel=1e-3)
        assert not np.allclose(counted[:, column], beating.areas[:, column], rtol=0.05)


def test_a_zoom_changes_areas_and_leaves_the_ejection_fraction(beating):
    _, values = augmented(beating, NAMES, zoom=0.25)
    before = dict(zip(NAMES, beating.attributes(NAMES).T, strict=True))
    assert np.abs(values["LVEDA"] / before["LVEDA"] - 1).max() > 0.2
    assert values["LVEF"] == pytest.approx(before["LVEF"], abs=3)  # cavities of 5 pixels
    assert values["LV_eccentricity"] == pytest.approx(before["LV_eccentricity"], abs=1e-4)
    ratio = np.sqrt(values["LVEDA"] / before["LVEDA"])  # a wall grows as a length does
    assert values["WT_mean_ED"] == pytest.approx(before["WT_mean_ED"] * ratio, rel=0.12)


def test_both_phases_are_deformed_alike(beating):
    """A phase that equals the other before the deformation equals it after."""
    labels = beating.labels[:, :1].repeat(1, 2, 1, 1)
    images = beating.images[:, :1].repeat(1, 2, 1, 1)
    cases = beating.cases.copy()
    for name in ("LV", "M", "RV"):
        cases[f"{name}ESA"] = cases[f"{name}EDA"]
    twin = SliceDataset(images, labels, cases, beating.info, None)
    after, _ = augmented(twin, ("LVEDA",), rotation=20, shift=4, elastic=2, cavity=0.2)
    first, second = after[Keys.LABEL].unbind(1)
    assert torch.equal(first, second)


class Count(torch.nn.Module):
    """Sees of a picture of 2 x 2 the shares of LV, myocardium and RV in three of its pixels."""

    def forward(self, image):
        share = image.flatten(1)[:, 1:]
        share = torch.cat([1 - share.sum(1, keepdim=True), share], dim=1)
        return share.log()[:, :, None, None].expand(-1, -1, 2, 2)


@pytest.mark.parametrize(("share", "obeys"), [(1.0, True), (0.5, False)])
def test_a_turned_ejection_fraction_is_seen_in_the_cavity_at_es_alone(beating, share, obeys):
    deviation = drawn("LVEF", beating.areas).std() / 100

    def decode(z):
        """LV of .2 at ED, and of what the ejection fraction leaves at ES; all else stays."""
        pixels = torch.full((len(z), 2, 4), 0.1)
        pixels[:, 0, 1] = 0.2
        pixels[:, 1, 1] = 0.2 * (0.5 - share * deviation * z[:, 0])
        return pixels.view(-1, 2, 2, 2)

    guide, objective = Guide(Count(), "count", {}), AttriVAEObjective(control=2.0)
    guidance = Guidance(guide, objective, ("LVEF", "LVEDV"), beating, torch.device("cpu"))
    assert guidance.structures.tolist() == [3]
    random = torch.Generator().manual_seed(0)
    z = torch.zeros(6, 2)
    output = VAEOutput(decode(z), z, z, z)
    found = guidance.look({Keys.IMAGE: output.reconstruction}, random)(output, decode)
    assert (float(found["control"]) < 1e-6) == obeys


def test_of_an_ejection_fraction_and_the_area_that_it_changes_the_first_is_turned(beating):
    guide, weights = Guide(Count(), "count", {}), AttriVAEObjective(control=1.0)
    for names, turned in (
        (("LVEDA", "LVESA", "LVEF"), [0, 1]),
        (("LVEDA", "LVEF", "LVESA"), [0, 1]),
        (("LVEF", "MESA", "LVESA", "RVESA", "RVEF"), [1, 3, 0]),
        (("LVEDA", "LVEF", "RVEF", "MESA"), [0, 3, 1, 2]),
    ):
        guidance = Guidance(guide, weights, names, beating, torch.device("cpu"))
        assert guidance.dimensions.tolist() == turned


def test_a_segmenter_labels_each_phase_on_its_own(beating):
    class Bright(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, image):
            return torch.cat([0.5 - image, image - 0.5, *[-torch.ones_like(image)] * 2], dim=1)

    labels = Segmenter(Bright(), {}, 0)(beating.images)
    assert torch.equal(labels, (beating.images > 0.5).to(torch.uint8))
    assert drawn("LVEF", areas(labels, Scale(1.0))).shape == (12,)


@pytest.mark.slow
@pytest.mark.parametrize(
    "pipeline", ["attri_vae_unguided", "attri_sivae_unguided", "attri_vae_fast"]
)
def test_fast_pipelines_train_on_two_phases(pipeline, acdc_tree, tmp_path):
    from conftest import quick_guide

    from cardiac_attrivae.data.preprocess import preprocess
    from cardiac_attrivae.data.recipe import Recipe
    from cardiac_attrivae.training.run import load_run

    preprocess("acdc", acdc_tree, tmp_path / "store", Recipe("all", phases=("ED", "ES")))
    run = trained(tmp_path / "store", tmp_path / "run", "attributes=[LVEDA,LVESA,LVEF]",
                  pipeline=pipeline, guide=quick_guide)  # fmt: skip
    network = load_run(run).network
    assert network.channels == 2
    assert network(torch.rand(2, 2, 128, 128)).reconstruction.shape == (2, 2, 128, 128)
    assert pd.read_csv(run / "history.csv")["train_loss"].notna().all()
