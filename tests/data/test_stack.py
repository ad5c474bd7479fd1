"""Stacks: which slices become channels, how they are cut, and what they show of the volumes."""

import numpy as np
import pytest
from monai.transforms import Compose
from sklearn.linear_model import LinearRegression

from cardiac_attrivae.attributes import names_at
from cardiac_attrivae.data import phantom
from cardiac_attrivae.data.cases import find_cases
from cardiac_attrivae.data.crop import stack_planes
from cardiac_attrivae.data.manifest import load_manifest
from cardiac_attrivae.data.preprocess import preprocess
from cardiac_attrivae.data.reading import ReadPhased, ToCanonicalLabelsd
from cardiac_attrivae.data.recipe import STACK_MM, Recipe, scale_of
from cardiac_attrivae.data.store import SliceDataset, areas
from cardiac_attrivae.data.store_files import check_channels
from cardiac_attrivae.data.transforms import crop_heart
from cardiac_attrivae.schema import DataError, Keys, Phase, Scale

ACDC = load_manifest("acdc")
BOTH = ("ED", "ES")


@pytest.fixture(scope="module")
def store(acdc_tree, tmp_path_factory):
    """Stacks of five slices of the phantoms, at both phases."""
    folder = tmp_path_factory.mktemp("stack") / "store"
    preprocess(ACDC, acdc_tree, folder, Recipe(phases=BOTH, stack=5))
    return SliceDataset.open(folder)


@pytest.mark.parametrize("between_mm", [5.0, 6.5, 8.0, 10.0, 20.0])
@pytest.mark.parametrize("apex_first", [False, True])
def test_each_slice_of_a_stack_is_the_nearest_to_its_height(between_mm, apex_first):
    counts = np.zeros((14, 4), int)
    counts[2:12, 1:] = np.linspace(300, 40, 10)[:, None]
    usable = [*range(2, 12)]
    if apex_first:
        counts, usable = counts[::-1], [13 - k for k in usable]
    planes = stack_planes(counts, usable, between_mm, 5)
    heights = np.abs(planes - usable[0]) * between_mm
    assert np.abs(heights - np.arange(5) * 18).max() <= between_mm / 2
    assert planes[0] == usable[0]
    assert (np.diff(planes) * (-1 if apex_first else 1) >= 0).all()


def test_channels_show_the_phantoms_at_the_heights_of_the_stack(store):
    """Areas in the crop equal the closed formulas at ED and ES, from base to apex."""
    pixel, shown = store.info["recipe"]["spacing"] ** 2 / 100, 0
    for index in range(9):
        _, scan = phantom._acdc_scan(index, 0)
        row = int(np.flatnonzero(store.cases["case"] == scan.case)[0])
        labels = store.take([row]).labels[0].unflatten(0, (2, 5))
        z0 = scan.z_mm[store.cases["slice_index"][row]]
        for phase, frame in enumerate((scan.ed, scan.es)):
            heart = scan.heart_at(frame)
            for k in range(5):
                wanted = z0 + k * STACK_MM / 5  # heights grow towards the apex
                z = min(scan.z_mm, key=lambda z: abs(z - wanted))
                if abs(z - wanted) > 5.001:  # beyond the scan
                    assert not labels[phase, k].any()
                    continue
                found = [float((labels[phase, k] == s).sum()) * pixel for s in (1, 2)]
                assert found == pytest.approx(heart.areas(z)[:2].tolist(), rel=0.06, abs=0.4)
                shown += 1
    assert shown > 60


def test_a_stack_begins_with_the_slice_of_a_store_of_single_slices(store, acdc_store):
    one = SliceDataset.open(acdc_store)
    assert store.channels == 10
    assert store.phases == (Phase.ED, Phase.ES)
    assert (store.labels[:, 0] == one.labels[:, 0]).all()
    assert (store.cases["slice_index"] == one.cases["slice_index"]).all()
    names = names_at([Phase.ED])
    assert (store.attributes(names) == one.attributes(names)).all()


def test_a_stack_in_memory_is_cut_as_in_a_store(store, acdc_tree):
    ed, es = (find_cases(ACDC, acdc_tree, phase).records[0] for phase in BOTH)
    read = Compose([ReadPhased((Keys.IMAGE, Keys.LABEL)), ToCanonicalLabelsd(Keys.LABEL)])
    parts = [read({"record": record}) for record in (ed, es)]
    image, label = (np.stack([part[key] for part in parts]) for key in (Keys.IMAGE, Keys.LABEL))
    crop = crop_heart(image, label, parts[0]["spacing"], Recipe(phases=BOTH, stack=5))
    row = np.flatnonzero(store.cases["case"] == ed.case)
    stored = store.take(row)
    assert np.asarray(crop[Keys.IMAGE]) == pytest.approx(stored.images[0].numpy(), abs=1e-6)
    assert (np.asarray(crop[Keys.LABEL]) == stored.labels[0].numpy()).all()


def test_a_stack_of_one_slice_is_the_store_of_today(acdc_tree, acdc_store, tmp_path):
    preprocess(ACDC, acdc_tree, tmp_path / "store", Recipe(stack=1))
    hashes = [SliceDataset.open(f).info["content_hash"] for f in (tmp_path / "store", acdc_store)]
    assert hashes[0] == hashes[1]


def test_a_stack_of_ed_is_the_first_half_of_one_of_both_phases(store, acdc_tree, tmp_path):
    preprocess(ACDC, acdc_tree, tmp_path / "store", Recipe(stack=5))
    alone = SliceDataset.open(tmp_path / "store")
    assert (alone.channels, alone.phases) == (5, (Phase.ED,))
    assert (alone.images == store.images[:, :5]).all()
    assert alone.areas.shape == (len(alone), 3)
    assert (alone.areas == store.areas[:, :3]).all()


def test_intensities_of_a_phase_have_one_scale(store):
    inside = store.labels > 0
    assert (store.images[~inside] == 0).all()
    for phase in store.images.unflatten(1, (2, 5)).unbind(1):
        assert phase.amax((1, 2, 3)).eq(1).all()


def test_the_volumes_that_a_stack_shows_follow_those_of_the_heart(store):
    """Five slices 18 mm apart give volumes of phantoms within a few percent of a line."""
    shown = store.areas
    for column, name in enumerate(("LVEDV", "MEDV", "RVEDV", "LVESV")):
        true = store.attributes([name])[:, 0]
        line = LinearRegression().fit(shown[:, [column]], true)
        assert line.score(shown[:, [column]], true) > 0.9, name
    share = 100 * (1 - shown[:, 3] / shown[:, 0])
    assert np.corrcoef(share, store.attributes(["LVEF"])[:, 0])[0, 1] > 0.95


def test_volumes_are_summed_over_the_slices_of_a_phase():
    labels = np.zeros((1, 4, 2, 2), np.uint8)  # two slices at ED, two at ES
    labels[0, 0, 0], labels[0, 1, 0, 0], labels[0, 3, 1, 1] = 1, 1, 2
    assert areas(labels, Scale(0.5, slices=2)).tolist() == [[1.5, 0, 0, 0, 0.5, 0]]
    scale = scale_of({"spacing": 1.3, "stack": 5})
    assert scale.pixel == pytest.approx(1.3**2 * 18 / 1000)  # mL
    assert scale.unit == "mL"
    assert scale_of({"spacing": 1.3}) == Scale(1.3**2 / 100)


@pytest.mark.parametrize("slice", ["all", "mid", "max-area", "whole"])
def test_a_stack_of_other_slices_is_refused(slice):
    with pytest.raises(ValueError, match="a stack begins at the most basal slice"):
        Recipe(slice=slice, stack=3)


@pytest.mark.parametrize("stack", [0, 33])
def test_impossible_numbers_of_slices_are_refused(stack):
    with pytest.raises(ValueError, match="expected 1 to 32"):
        Recipe(stack=stack)


def test_a_store_whose_channels_contradict_its_recipe_is_refused(store, tmp_path):
    with pytest.raises(DataError, match="expected 1 or 2 phases of 3 each"):
        check_channels(tmp_path, {"recipe": {"stack": 3}}, 10)


def test_wide_gaps_between_native_slices_are_filled_by_the_nearest(store):
    counts = np.full((5, 4), 50)
    assert stack_planes(counts, [0, 1, 2, 3, 4], 20.0, 10).tolist() == [
        0,
        0,
        1,
        1,
        2,
        2,
        3,
        3,
        4,
        4,
    ]
