"""Masks and stacks that contradict the anatomy are recognised, and those of real data are not."""

import gzip
import shutil
from dataclasses import replace

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from click.testing import CliRunner
from faults import OWN, SPACING_MM, heart, picture, save

from cardiac_attrivae.cli.main import main
from cardiac_attrivae.data.anatomy import (
    APART,
    CUT,
    DARKER,
    EXCHANGED,
    FLIPPED,
    GAP,
    ISLAND,
    MIRROR_IMAGE,
    MIRRORED,
    MISPLACED,
    PHASES_EXCHANGED,
    SIZE,
    SURE,
    UNIT,
    base_first,
    border_share,
    darker_wall,
    handedness,
    is_mirrored,
    oddities,
)
from cardiac_attrivae.data.cases import find_cases
from cardiac_attrivae.data.check import check_dataset
from cardiac_attrivae.data.images import laid_on, read_image
from cardiac_attrivae.data.manifest import load_manifest, parse_manifest
from cardiac_attrivae.data.nifti import Volume, read_mask
from cardiac_attrivae.data.phantom import write_phantoms
from cardiac_attrivae.data.preprocess import preprocess
from cardiac_attrivae.data.recipe import Recipe
from cardiac_attrivae.data.store import SliceDataset
from cardiac_attrivae.data.transforms import ToCanonicalLabelsd
from cardiac_attrivae.heart import pixel_counts
from cardiac_attrivae.schema import DataError, Keys, Structure

MANIFEST = parse_manifest(OWN, "own")
TURNED = np.diag([-1.5, -1.5, -10, 1.0])
"""Affine of a true stack: rows from top to bottom, base first."""


@pytest.fixture
def own(tmp_path):
    """Three sound patients of different images."""
    for n, case in enumerate(("p1", "p2", "p3")):
        save(tmp_path / "own/a" / case / "image.nii.gz", np.roll(picture(), n, axis=0))
        save(tmp_path / "own/a" / case / "mask.nii.gz", heart())
    return tmp_path / "own"


def change(source, function, names=("image", "mask"), affine=None):
    """Changes the voxels of the named files of every patient, and their affine."""
    for name in names:
        for file in source.glob(f"a/*/{name}.nii.gz"):
            image = nibabel.load(file)
            voxels = np.ascontiguousarray(function(np.asarray(image.dataobj)))
            new = nibabel.Nifti1Image(voxels, image.affine if affine is None else affine)
            nibabel.save(new, file)


def flip(file):
    """Stores a stack as its mirror image, with its header: nibabel's slicer loses ACDC's pixdim."""
    image = nibabel.load(file)
    voxels = np.asarray(image.dataobj)[:, ::-1]
    nibabel.save(nibabel.Nifti1Image(voxels, None, image.header), file)


def notes_and_problems(source):
    report = check_dataset(MANIFEST, source)
    return {f.what: dict(f.cases) for f in report.notes}, {
        f.what: dict(f.cases) for f in report.problems
    }


def test_labels_at_the_edge_of_the_heart_are_seen_with_what_lies_beyond_it():
    labels = np.zeros((12, 12, 1), np.uint8)
    labels[1:4, 1:4], labels[2, 2] = Structure.MYO, Structure.RV
    labels[7:10, 5:8], labels[6, 5:8], labels[7:10, 4] = Structure.LV, Structure.MYO, Structure.MYO
    volume = Volume(labels, (1.5, 1.5, 8.0), np.diag([1.5, 1.5, 8, 1]))
    # half of the LV's neighbours are background, all of it just outside the box around the heart
    assert border_share(labels, Structure.LV, Structure.MYO) == 0.5
    assert oddities(volume, volume, labels, matched=False)[0].what == EXCHANGED


def test_sound_patients_have_neither_notes_nor_warnings(own, tmp_path):
    assert notes_and_problems(own) == ({}, {})
    summary = preprocess(MANIFEST, own, tmp_path / "s", Recipe(size=160))
    assert (summary.remarks, summary.observations) == ({}, [])


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ([0, 3, 2, 1], "RV looks like LV, LV looks like RV"),
        ([0, 2, 1, 3], "MYO looks like LV, LV looks like MYO"),
        ([0, 2, 3, 1], "MYO looks like LV, RV looks like MYO, LV looks like RV"),
    ],
)
def test_exchanged_labels_are_a_problem_and_a_warning(own, tmp_path, table, told):
    change(own, lambda v: np.choose(v, table).astype(np.uint8), ["mask"])
    _, problems = notes_and_problems(own)
    assert problems == {EXCHANGED: dict.fromkeys(("p1", "p2", "p3"), f"{told} at ED")}
    if table != [0, 2, 3, 1]:
        summary = preprocess(MANIFEST, own, tmp_path / "s")
        assert summary.remarks == {EXCHANGED: 3}
        assert summary.observations[0].startswith(f"Warning: 3 of 3 cases: {EXCHANGED}")


def test_a_myocardium_with_a_gap_is_no_exchange(own):
    change(own, lambda v: np.where((v == 2) & (np.indices(v.shape)[0] > 40), 0, v), ["mask"])
    assert notes_and_problems(own)[1] == {}


def test_a_mask_that_is_flipped_by_its_affine_is_noted_with_the_mend(own, tmp_path):
    flipped = np.diag([-1.5, 1.5, 10, 1])
    flipped[0, 3] = 71 * 1.5
    change(own, lambda v: v[::-1], ["mask"], flipped)
    notes, problems = notes_and_problems(own)
    assert problems == {}
    assert set(notes[FLIPPED]) == {"p1", "p2", "p3"}
    assert preprocess(MANIFEST, own, tmp_path / "s").remarks == {FLIPPED: 3, MISPLACED: 3}
    mended = replace(MANIFEST, match="affine")
    assert preprocess(mended, own, tmp_path / "mended").remarks == {}
    notes = {finding.what for finding in check_dataset(mended, own).notes}
    assert FLIPPED not in notes


def test_a_mirrored_stack_is_noted_with_the_mend(own, tmp_path):
    change(own, lambda v: v, affine=TURNED)
    assert notes_and_problems(own)[0] == {}
    mirrored = np.diag([-1.5, 1.5, -10, 1])
    change(own, lambda v: v[:, ::-1], affine=mirrored)
    notes, problems = notes_and_problems(own)
    assert set(notes[MIRRORED]) == {"p1", "p2", "p3"}
    assert problems == {}
    assert preprocess(MANIFEST, own, tmp_path / "s").remarks == {MIRRORED: 3}
    for file in own.rglob("*.nii.gz"):  # the mend that the note names
        nibabel.load(file).slicer[:, ::-1].to_filename(file)
    assert MIRRORED not in notes_and_problems(own)[0]


@pytest.mark.parametrize("phases", [("ED",), ("ED", "ES")])
def test_mirrored_stacks_are_turned_round_on_request(tmp_path, phases):
    recipe, stores = Recipe("all", size=64, spacing=2.6, phases=phases), {}
    write_phantoms("acdc", tmp_path / "raw", cases=2, cine=False)
    preprocess("acdc", tmp_path / "raw", tmp_path / "right", recipe)
    for file in (tmp_path / "raw").rglob("*.nii.gz"):
        flip(file)
    turned = preprocess("acdc", tmp_path / "raw", tmp_path / "turned", recipe, mirror=True)
    kept = preprocess("acdc", tmp_path / "raw", tmp_path / "kept", recipe)
    for name in ("right", "turned", "kept"):
        stores[name] = SliceDataset.open(tmp_path / name)
    right, mended = stores["right"], stores["turned"]
    assert torch.equal(right.images, mended.images)
    assert torch.equal(right.labels, mended.labels)
    pd.testing.assert_frame_equal(right.cases, mended.cases)
    assert not torch.equal(right.images, stores["kept"].images)
    cases = sorted(set(right.cases["case"]))
    assert mended.info["mirrored"] == cases
    assert "mirrored" not in stores["kept"].info
    assert turned.observations[0].startswith(f"{len(cases)} cases turned round")
    assert kept.observations[:1] != turned.observations[:1]


def test_some_cases_are_turned_round_alone(own, tmp_path):
    change(own, lambda v: v, affine=TURNED)
    words = ["preprocess", "--dataset", own / "own.yaml", "--source", own, "--output"]
    (own / "own.yaml").write_text(yaml.safe_dump(OWN))
    for given, told in (("--mirror", "3 cases turned round"), ("--mirror=p2", "1 case turned")):
        place = tmp_path / given
        result = CliRunner().invoke(main, [*map(str, words), str(place), given])
        assert result.exit_code == 0, result.output
        assert told in result.output
    result = CliRunner().invoke(main, [*map(str, words), "out", "--mirror", "p1,p7"])
    assert result.exit_code == 2
    assert "no case 'p7' to turn round; expected ids such as 'p1'" in result.stderr


@pytest.mark.parametrize("base_first", [True, False])
@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, 1), (1, 1, -1), (-1, -1, -1), (1, -1, -1)])
def test_a_stack_is_mirrored_if_its_affine_and_its_base_disagree(base_first, flips):
    angle = np.radians(30)
    turn = [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    affine = np.eye(4)
    affine[:3, :3] = np.array(turn) * flips * SPACING_MM
    counts = np.array([[0, 9 - s, 9 - s, 9 - s] for s in range(6)])
    counts = counts if base_first else counts[::-1]
    volume = Volume(np.zeros((4, 4, 6)), SPACING_MM, affine)
    assert is_mirrored(volume, counts) == ((np.prod(flips) > 0) == base_first)


def test_slices_along_another_axis_are_refused_in_words(own, tmp_path):
    for file in own.rglob("*.nii.gz"):
        voxels = np.moveaxis(np.asarray(nibabel.load(file).dataobj), 2, 0)
        save(file, np.ascontiguousarray(voxels), (10, 1.5, 1.5))
    message = r"3 x|1 x image.nii.gz has slices of 6 x 72 pixels of 10 x 1.5 mm: .* along axis 1"
    with pytest.raises(DataError, match=message):
        preprocess(MANIFEST, own, tmp_path / "s")
    _, problems = notes_and_problems(own)
    assert set(problems["damaged or unusable file"]) == {"p1", "p2", "p3"}


def test_a_heart_at_the_border_of_its_image_is_noted_by_check_and_told_by_preprocess(own, tmp_path):
    change(own, lambda voxels: np.pad(voxels[18:], ((0, 18), (0, 0), (0, 0))))
    notes, problems = notes_and_problems(own)
    assert (set(notes), problems) == ({CUT}, {})
    assert set(preprocess(MANIFEST, own, tmp_path / "s").remarks) == {CUT}


def test_an_island_apart_from_the_heart_is_noted_by_check_and_told_by_preprocess(own, tmp_path):
    def with_island(voxels):
        voxels = voxels.copy()
        voxels[1:4, 1:4, 1] = 1
        return voxels

    change(own, with_island, names=("mask",))
    notes, problems = notes_and_problems(own)
    assert notes == {ISLAND: dict.fromkeys(("p1", "p2", "p3"), "9 voxels at ED")}
    assert problems == {}
    assert set(preprocess(MANIFEST, own, tmp_path / "s").remarks) == {ISLAND}


def test_a_pixdim_of_1_beside_an_affine_that_knows_better_is_a_problem(own, tmp_path):
    for file in own.glob("a/*/*.nii.gz"):
        image = nibabel.load(file)
        image.set_sform(image.affine, 1)
        content = bytearray(image.to_bytes())
        content[80:92] = np.ones(3, "<f4").tobytes()
        file.write_bytes(gzip.compress(content))
    _, problems = notes_and_problems(own)
    assert problems[UNIT] == dict.fromkeys(("p1", "p2", "p3"), "1.5 x 1.5 x 10 mm at ED")
    assert set(preprocess(MANIFEST, own, tmp_path / "s").remarks) == {UNIT}


def without_slice(mask):
    mask = mask.copy()
    mask[..., 2] = 0
    return mask


@pytest.mark.parametrize(
    ("what", "detail", "damage"),
    [
        (GAP, "LV in 1 slice, MYO in 1 slice, RV in 1 slice at ED",
         lambda own: change(own, without_slice, ["mask"])),
        (SIZE, "an LV of 20 mm length in a heart of 38.6 mm width at ED",
         lambda own: change(own, lambda voxels: voxels[..., 1:3])),
        (APART, "1.5 x 1.5 x 10 mm and 1 x 1 x 1 mm at ED",
         lambda own: change(own, lambda voxels: voxels, ["mask"], np.eye(4))),
    ],
)  # fmt: skip
def test_what_makes_volumes_wrong_is_noted_by_check_and_told_by_preprocess(
    own, tmp_path, what, detail, damage
):
    damage(own)
    notes, problems = notes_and_problems(own)
    assert problems == {}
    assert notes[what] == dict.fromkeys(("p1", "p2", "p3"), detail)
    summary = preprocess(MANIFEST, own, tmp_path / "s", Recipe(size=160))
    assert set(summary.remarks) == {what}


def test_a_single_slice_tells_how_wide_a_heart_is_and_not_how_long(own):
    change(own, lambda voxels: voxels[..., 1:2])
    assert SIZE not in notes_and_problems(own)[0]
    change(own, lambda voxels: voxels, affine=np.diag([0.5, 0.5, 10, 1]))
    notes, _ = notes_and_problems(own)
    assert notes[SIZE] == dict.fromkeys(("p1", "p2", "p3"), "a heart of 12.9 mm width at ED")


def test_a_stack_that_lost_its_spacing_has_not_the_size_of_a_heart(own):
    change(own, lambda voxels: voxels, affine=np.eye(4))
    notes, _ = notes_and_problems(own)
    assert set(notes[SIZE]) == {"p1", "p2", "p3"}


def test_an_lv_that_is_larger_at_es_is_noted_by_check_and_told_by_preprocess(own, tmp_path):
    small = heart()
    small[(small == 1) & (np.indices(small.shape)[0] > 40)] = 2
    for case in ("p1", "p2"):
        cine = np.stack([np.roll(picture(), len(case), 1), picture()], -1)
        save(own / "a" / case / "image.nii.gz", cine)
        masks = [small, heart()] if case == "p1" else [heart(), small]
        save(own / "a" / case / "mask.nii.gz", np.stack(masks, -1))
    shutil.rmtree(own / "a/p3")
    manifest = parse_manifest({**OWN, "constants": {"ED": 0, "ES": 1}}, "own")
    notes = {f.what: dict(f.cases) for f in check_dataset(manifest, own).notes}
    (told,) = [cases for what, cases in notes.items() if "larger at ES than at ED" in what]
    assert set(told) == {"p1"}
    for name, recipe in {
        "both": Recipe(phases=("ED", "ES")),
        "ED": Recipe(),
        "all": Recipe(slice="all"),
        "stack": Recipe(stack=2),
    }.items():
        summary = preprocess(manifest, own, tmp_path / name, recipe)
        assert summary.remarks == {PHASES_EXCHANGED: 1}, name
    (own / "a/p1/mask.nii.gz").unlink()  # a case without a mask at ES is used at ED
    assert preprocess(manifest, own, tmp_path / "one").cases == 1


@pytest.mark.realdata
@pytest.mark.parametrize(("dataset", "count"), [("acdc", 100), ("mnms", 2)])
def test_no_real_patient_looks_wrong(real_data, dataset, count):
    manifest = load_manifest(dataset)
    records = find_cases(manifest, real_data / dataset).records
    assert len(records) == count
    told = 0  # masks that are moved by 20 mm
    for record in records:
        image, mask = read_image(record.image, record.frame), read_mask(record.mask, record.frame)
        raw = laid_on(image, mask, record).voxels
        labels = ToCanonicalLabelsd(Keys.LABEL)({"record": record, Keys.LABEL: raw})[Keys.LABEL]
        assert oddities(image, mask, labels, matched=False) == [], record.case
        exchanged = np.choose(labels, [0, 3, 2, 1]).astype(np.uint8)
        assert oddities(image, mask, exchanged, matched=False)[0].what == EXCHANGED
        share = darker_wall(image.voxels, labels)
        turned = darker_wall(500 - 2.0 * image.voxels[::-1], labels[::-1])
        assert turned == pytest.approx(1 - share, abs=0.01)  # by the order of brightness alone
        told += (
            darker_wall(image.voxels, np.roll(labels, round(20 / image.spacing_mm[0]), 0)) < DARKER
        )
    assert told >= 0.95 * count


def real_masks(data):
    """Masks of ten ACDC patients at ED and of both M&Ms patients, with their spacing."""
    for name in ("acdc", "mnms"):
        for record in find_cases(load_manifest(name), data / name).records[:10]:
            stored = read_mask(record.mask, record.frame)
            labels = ToCanonicalLabelsd("label")({"record": record, "label": stored.voxels})
            yield labels["label"], stored.spacing_mm


@pytest.mark.realdata
def test_no_real_heart_is_taken_for_a_mirror_image_and_most_mirror_images_are_noticed(real_data):
    odds = np.array([handedness(labels, spacing) for labels, spacing in real_masks(real_data)])
    assert (odds > -SURE).all()
    assert (odds > SURE).mean() >= 0.75
    first = find_cases(load_manifest("acdc"), real_data / "acdc").records[0]
    image, stored = read_image(first.image, first.frame), read_mask(first.mask, first.frame)
    labels = ToCanonicalLabelsd("label")({"record": first, "label": stored.voxels})["label"]
    flipped = labels[:, ::-1]
    found = {oddity.what for oddity in oddities(image, stored, flipped, matched=False)}
    assert MIRROR_IMAGE in found


@pytest.mark.realdata
def test_handedness_changes_its_sign_in_a_mirror_and_with_nothing_else(real_data):
    for labels, spacing in real_masks(real_data):
        odds = handedness(labels, spacing)
        assert handedness(labels[:, ::-1], spacing) == pytest.approx(-odds)
        assert handedness(labels[::-1], spacing) == pytest.approx(-odds)
        assert handedness(labels[..., ::-1], spacing) == pytest.approx(odds)
        turned = labels.transpose(1, 0, 2)[::-1]
        assert handedness(turned, (spacing[1], spacing[0])) == pytest.approx(odds)


def test_the_base_is_the_end_with_more_heart():
    labels = np.zeros((20, 20, 4), np.uint8)
    for z, side in enumerate((18, 15, 9, 5)):
        labels[:side, :side, z] = Structure.LV
    counts = pixel_counts(labels)
    assert base_first(counts) is True
    assert base_first(counts[::-1]) is False
    assert base_first(counts[:1]) is None
    assert handedness(labels, (1.5, 1.5)) == 0
