"""Two phases: ES in the geometry of ED, its attributes, and what a case without ES becomes."""

import json
import shutil

import nibabel
import numpy as np
import pandas as pd
import pytest

from cardiac_attrivae.attributes import ATTRIBUTES
from cardiac_attrivae.data import phantom
from cardiac_attrivae.data.cases import find_cases
from cardiac_attrivae.data.manifest import load_manifest
from cardiac_attrivae.data.preprocess import preprocess
from cardiac_attrivae.data.reading import LATER_MISSING
from cardiac_attrivae.data.recipe import Recipe
from cardiac_attrivae.data.store import SliceDataset
from cardiac_attrivae.schema import DataError, Keys, Phase

pytestmark = pytest.mark.xdist_group("real_phases")  # one store of real hearts

ACDC = load_manifest("acdc")
BOTH = ("ED", "ES")


@pytest.fixture(scope="module")
def store(acdc_tree, tmp_path_factory):
    """Both phases of the phantoms, one slice each."""
    folder = tmp_path_factory.mktemp("phases") / "store"
    preprocess(ACDC, acdc_tree, folder, Recipe(phases=BOTH))
    return folder


def without_es(tree, folder, case):
    """A copy of a tree in which a case has no mask at ES."""
    tree = shutil.copytree(tree, folder / "tree")
    (record,) = [r for r in find_cases(ACDC, tree, "ES").records if r.case == case]
    record.mask.unlink()
    return tree


def test_both_channels_are_the_same_slice_in_the_geometry_of_ed(store, acdc_store_all):
    two, every = SliceDataset.open(store), SliceDataset.open(acdc_store_all)
    assert (two.channels, two.phases) == (2, (Phase.ED, Phase.ES))
    assert set(two.cases["phase"]) == {"ED,ES"}
    keys = ["case", "slice_index"]
    rows = every.cases.reset_index().merge(two.cases[keys], on=keys)["index"]
    one = every.take(rows.to_numpy())  # the same slices of a store of ED alone
    for key in (Keys.IMAGE, Keys.LABEL):
        both, alone = (data.read(range(len(data)))[key] for data in (two, one))
        assert (both[:, :1] == alone).all()
    assert (two.images[:, 1] > 0).any((1, 2)).all()
    outside = two.labels == 0
    assert (two.images[outside] == 0).all()


def test_the_slice_is_the_most_basal_that_shows_the_heart_at_both_phases(store, acdc_store):
    two, one = SliceDataset.open(store), SliceDataset.open(acdc_store)
    for labels in two.labels:
        for phase in labels:
            assert set(phase.unique().tolist()) == {0, 1, 2, 3}
    shift = (two.cases["slice_index"] - one.cases["slice_index"]).abs()
    assert (shift <= 2).all()


def test_attributes_of_phantoms_are_those_of_their_formulas(store, acdc_tree):
    """Volumes within what slices of 10 mm allow, EF within 2 points, the wall within a pixel."""
    table = pd.read_csv(store / "cases.csv").set_index("case")
    for index in range(9):
        _, scan = phantom._acdc_scan(index, 0)
        row = table.loc[scan.case]
        ed, es = scan.heart_at(scan.ed), scan.heart_at(scan.es)
        volumes = {"LVEDV": ed.volumes()[0], "LVESV": es.volumes()[0], "RVESV": es.volumes()[2]}
        for name, value in volumes.items():
            assert row[name] == pytest.approx(value, rel=0.12, abs=4), (scan.case, name)
        assert row["LVEF"] == pytest.approx(100 * scan.lvef, abs=3)
        assert row["RVEF"] == pytest.approx(100 * scan.rvef, abs=5)
        assert row["LVM"] == pytest.approx(1.05 * ed.volumes()[1], rel=0.08)
        assert row["LVSV"] == pytest.approx(row["LVEDV"] - row["LVESV"])
        z = scan.z_mm[int(row["slice_index"])]
        pixel = scan.spacing_mm[0]
        for heart, phase in ((ed, "ED"), (es, "ES")):
            areas = [row[f"{name}{phase}A"] for name in ("LV", "M", "RV")]
            assert areas == pytest.approx(heart.areas(z).tolist(), rel=0.04, abs=0.2)
            psi = np.linspace(-np.pi, np.pi, 721)
            inner, outer, _ = heart.boundaries(psi, z)
            # between the boundaries along a radius; a wall that is not round is thinner across
            wall = outer - inner
            assert row[f"WT_mean_{phase}"] == pytest.approx(wall.mean(), abs=pixel)
            assert row[f"WT_max_{phase}"] == pytest.approx(wall.max(), abs=1.2 * pixel)
        inner, _, _ = ed.boundaries(psi, z)
        places = np.stack([inner * np.cos(psi), inner * np.sin(psi)])
        weight = inner**2  # of a sector: second moments of the region about its centre of mass
        centre = (places * weight).sum(1) / weight.sum() * 2 / 3
        moments = np.einsum("ip,jp,p->ij", places, places, weight) / (2 * weight.sum())
        small, large = np.linalg.eigvalsh(moments - np.outer(centre, centre))
        squared = row["LV_eccentricity"] ** 2
        assert squared == pytest.approx(1 - small / large, abs=0.05), scan.case
        growth = row["WT_mean_ES"] / row["WT_mean_ED"] - 1
        assert row["thickening"] == pytest.approx(100 * growth, abs=1e-3)


def test_masks_of_both_phases_are_measured_again(store):
    dataset = SliceDataset.open(store)
    names = list(ATTRIBUTES)
    assert set(names) < set(dataset.cases.columns)
    assert dataset.measured(names) == pytest.approx(dataset.attributes(names), rel=1e-12)
    assert np.isfinite(dataset.areas).all()
    assert dataset.areas.shape == (len(dataset), 6)


def test_a_case_without_a_mask_at_es_is_skipped_with_the_reason(acdc_tree, tmp_path):
    tree = without_es(acdc_tree, tmp_path, "patient003")
    summary = preprocess(ACDC, tree, tmp_path / "store", Recipe(phases=BOTH))
    (skipped,) = summary.skipped
    assert skipped.case == "patient003"
    assert skipped.reason.startswith("at ES: no mask: patient003_frame")
    assert summary.cases == 8
    key = bytes(range(32))
    summary = preprocess(ACDC, tree, tmp_path / "private", Recipe(phases=BOTH), key=key)
    assert [reason for _, reason in summary.skipped] == ["no mask, or an empty one"]


def test_with_all_slices_a_case_without_a_mask_at_es_is_kept_with_blanks(acdc_tree, tmp_path):
    tree = without_es(acdc_tree, tmp_path, "patient003")
    summary = preprocess(ACDC, tree, tmp_path / "store", Recipe("all", phases=BOTH))
    assert not summary.skipped
    assert summary.remarks[LATER_MISSING] == 1
    assert any("1 of 9 cases: no usable mask at ES" in line for line in summary.observations)
    dataset = SliceDataset.open(tmp_path / "store")
    own = np.array(dataset.cases["case"] == "patient003")
    assert set(dataset.cases["phase"][own]) == {"ED"}
    assert np.isnan(dataset.attributes(["LVEF", "LVESA"])[own]).all()
    assert np.isnan(dataset.measured(["LVEF", "LVESA"])[own]).all()
    assert np.isfinite(dataset.attributes(["LVEDA", "LVM"])).all()
    assert not dataset.images[own][:, 1].any()
    assert (dataset.areas[own][:, 3:] == 0).all()
    assert set(dataset.complete(["LVEF"]).cases["case"]) == set(dataset.cases["case"][~own])
    assert "LVEF" in json.loads((tmp_path / "store" / "dataset.json").read_text())["attributes"]


def test_of_all_slices_the_one_called_basal_shows_the_heart_at_both_phases(
    store, acdc_tree, tmp_path
):
    preprocess(ACDC, acdc_tree, tmp_path / "store", Recipe("all", phases=BOTH))
    every = SliceDataset.open(tmp_path / "store")
    assert every.basal().cases.equals(SliceDataset.open(store).cases)


def test_a_store_of_ed_says_what_its_attributes_lack(acdc_store):
    dataset = SliceDataset.open(acdc_store)
    with pytest.raises(DataError, match=r"LVEF needs masks at ED and ES.*--phases ED,ES"):
        dataset.attributes(["LVEDA", "LVEF"])
    mass = dataset.attributes(["LVM"])[:, 0]
    assert mass == pytest.approx(1.05 * dataset.attributes(["MEDV"])[:, 0])


def test_phases_that_do_not_exist_are_refused():
    for phases in (("ES",), ("ES", "ED"), ()):
        with pytest.raises(ValueError, match="expected ED, or ED,ES"):
            Recipe(phases=phases)
    with pytest.raises(ValueError, match="whole keeps ED and ES as slices of their own"):
        Recipe("whole", phases=BOTH)


@pytest.fixture(scope="module")
def real(real_data, tmp_path_factory):
    """Both phases of the 100 real patients."""
    return store_both(real_data / "acdc", tmp_path_factory.mktemp("real") / "store")


def store_both(source, folder):
    preprocess(ACDC, source, folder, Recipe(phases=BOTH))
    return folder


@pytest.mark.slow
def test_every_attribute_of_real_patients_equals_an_independent_count(real, real_data):
    """nibabel and NumPy alone; raw ACDC numbers: LV 3, MYO 2, RV 1."""
    from scipy.spatial import cKDTree

    table = pd.read_csv(real / "cases.csv").set_index("case")
    assert len(table) == 100
    number = {"LV": 3, "M": 2, "RV": 1}
    for case, row in table.iterrows():
        (folder,) = real_data.glob(f"acdc/**/{case}")
        facts = dict(line.split(": ") for line in (folder / "Info.cfg").read_text().splitlines())
        z, wall = int(row["slice_index"]), {}
        for phase in BOTH:
            image = nibabel.load(folder / f"{case}_frame{int(facts[phase]):02d}_gt.nii.gz")
            mask, zooms = np.asarray(image.dataobj).round(), image.header.get_zooms()
            dx, dy, dz = map(float, zooms)
            for name, raw in number.items():
                volume = (mask == raw).sum() * dx * dy * dz / 1000
                area = (mask[..., z] == raw).sum() * dx * dy / 100
                if f"{name}{phase}V" in row:
                    assert row[f"{name}{phase}V"] == pytest.approx(volume, rel=1e-9)
                assert row[f"{name}{phase}A"] == pytest.approx(area, rel=1e-9)
            plane = np.pad(mask[..., z], 1)
            cavity, muscle = (np.argwhere(plane == n) * (dx, dy) for n in (3, 2))
            outside = np.argwhere((plane != 3) & (plane != 2)) * (dx, dy)
            inwards, outwards = (cKDTree(p).query(muscle)[0] for p in (cavity, outside))
            middle = np.abs(inwards - outwards) < 1.01 * max(dx, dy)
            wall[phase] = (inwards + outwards)[middle] - (dx + dy) / 2
            assert row[f"WT_mean_{phase}"] == pytest.approx(wall[phase].mean(), rel=1e-6)
            assert row[f"WT_max_{phase}"] == pytest.approx(wall[phase].max(), rel=1e-6)
            if phase == "ED":
                x, y = (cavity - cavity.mean(0)).T
                a, b, c = x @ x / len(x) + dx**2 / 12, y @ y / len(y) + dy**2 / 12, x @ y / len(x)
                root = np.sqrt((a - b) ** 2 + 4 * c**2)
                squared = 1 - (a + b - root) / (a + b + root)
                assert row["LV_eccentricity"] ** 2 == pytest.approx(squared, abs=1e-9)
        for name in ("LV", "RV"):
            share = 1 - row[f"{name}ESV"] / row[f"{name}EDV"]
            assert row[f"{name}EF"] == pytest.approx(100 * share)
        assert row["LVSV"] == pytest.approx(row["LVEDV"] - row["LVESV"])
        assert row["LVM"] == pytest.approx(1.05 * row["MEDV"])
        growth = wall["ES"].mean() / wall["ED"].mean() - 1
        assert row["thickening"] == pytest.approx(100 * growth, abs=1e-3)


@pytest.mark.slow
def test_ejection_fractions_of_the_groups_are_those_of_their_definition(real):
    """ACDC: normal above 50 %, DCM and MINF below 40 %, HCM above 55 %."""
    table = pd.read_csv(real / "cases.csv")
    groups = table.groupby("pathology")["LVEF"]
    assert groups.size().to_dict() == dict.fromkeys(["DCM", "HCM", "MINF", "NOR", "RV"], 20)
    mean = groups.mean()
    assert 57 < mean["NOR"] < 64
    assert mean["DCM"] < 25
    assert mean["MINF"] < 40
    assert mean["HCM"] > 60
    assert groups.min()["NOR"] > 50
    assert groups.max()[["DCM", "MINF"]].max() < 45
