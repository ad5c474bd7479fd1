"""A scan from outside gets the code that it would have in a store, with a mask or without one."""

from dataclasses import replace
from types import SimpleNamespace

import nibabel
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from conftest import masks_apart, trained

import cardiac_attrivae as ca
from cardiac_attrivae.cli.main import main
from cardiac_attrivae.data.anatomy import APART, ISLAND, MISPLACED
from cardiac_attrivae.data.cases import find_cases
from cardiac_attrivae.data.manifest import load_manifest
from cardiac_attrivae.data.preprocess import preprocess
from cardiac_attrivae.data.scan import read_scan
from cardiac_attrivae.evaluation import encoding_batch
from cardiac_attrivae.evaluation.encoding import (
    ANOTHER_ORDER,
    MIRROR_IMAGE,
    encode_scan,
    population_of,
)
from cardiac_attrivae.evaluation.encoding_batch import encode_scans
from cardiac_attrivae.metrics.population import Population
from cardiac_attrivae.schema import DataError, Structure
from cardiac_attrivae.segmentation.jobs import Job
from cardiac_attrivae.segmentation.patients import segment_patients
from cardiac_attrivae.segmentation.scans import Segmentation, SegmentedCine
from cardiac_attrivae.training.run import load_run


class Stub:
    """Knows the masks of all scans by their voxels."""

    name = "stub"

    def __init__(self, masks):
        self.masks = masks

    def segment(self, image, spacing_mm):
        dice = dict.fromkeys((Structure.LV, Structure.MYO, Structure.RV), 0.9)
        return Segmentation(self.masks[np.asarray(image).tobytes()], dice, ("made up",))

    def segment_cine(self, frames, spacing_mm):
        found = [self.segment(frames[..., t], spacing_mm) for t in range(frames.shape[3])]
        sizes = [(one.labels == Structure.LV).sum() for one in found]
        return SegmentedCine(found, int(np.argmax(sizes)), int(np.argmin(sizes)))


@pytest.fixture(scope="module", params=["acdc", "mnms"])
def world(request, tmp_path_factory):
    """Store, run on it, scans with canonical masks elsewhere, and a segmenter that knows them."""
    tree, manifest = request.getfixturevalue(f"{request.param}_tree"), load_manifest(request.param)
    folder = tmp_path_factory.mktemp("encoding")
    preprocess(manifest, tree, folder / "store")
    run = trained(folder / "store", folder / "run")
    masks_apart(tree, manifest, folder)
    records, masks = find_cases(manifest, tree).records, {}
    for record in records:
        scan, mask = (read_scan(f) for f in (record.image, folder / "masks" / record.image.name))
        for t in range(scan.frames.shape[3]):
            masks[scan.frames[..., t].tobytes()] = mask.frames[..., t].astype(np.uint8)
    store = ca.open_store(folder / "store")
    records = [record for record in records if record.case in set(store.cases["case"])]
    return load_run(run), store, folder, records, Stub(masks)


def test_codes_and_crops_are_those_of_the_store_bit_for_bit(world):
    run, store, folder, records, stub = world
    codes = ca.load_model(run.folder, device="cpu").encode(store)
    for row, record in enumerate(records[:3]):
        given = encode_scan(run, record.image, folder / "masks" / record.image.name)
        assert repr(given).startswith(f"<Encoded {given.name}, frame 0 of ")
        assert len(repr(given)) < 200
        found = encode_scan(run, record.image, segmenter=lambda: stub)
        assert (given.crop == store.images[row, 0].numpy()).all()
        assert (given.label == store.labels[row, 0].numpy()).all()
        np.testing.assert_allclose(given.code, codes[row], atol=1e-5)
        assert (found.code == given.code).all()
        assert (given.mask_source, found.mask_source) == ("manual", "stub")
        names = list(run.pipeline.attributes)
        assert given.attributes["measured"].tolist() == store.attributes(names)[row].tolist()
        assert found.predicted_dice[Structure.LV] == 0.9
        assert "made up" in found.warnings


def test_attributes_from_the_code_are_those_that_the_model_reads(world):
    run, store, _, records, stub = world
    if not run.about["calibration"]:  # four patients are too few for lines
        one = encode_scan(run, records[0].image, segmenter=lambda: stub)
        assert one.attributes["read"].isna().all()
        return
    read = ca.load_model(run.folder, device="cpu").read(store)
    for record in records[:2]:
        one = encode_scan(run, record.image, segmenter=lambda: stub)
        wanted = read[read["case"] == record.case]
        for mine, theirs in (("read", "value"), ("low", "low"), ("high", "high")):
            np.testing.assert_allclose(one.attributes[mine], wanted[theirs], rtol=1e-4, atol=1e-3)


def test_a_basal_slice_whose_rv_a_segmenter_drew_in_part_is_passed_over(world, tmp_path):
    run, _, folder, records, _ = world
    file = folder / "masks" / records[0].image.name
    scan, mask = read_scan(records[0].image), read_scan(file)
    right = encode_scan(run, records[0].image, file)
    partly = mask.frames.astype(np.uint8)
    plane = partly[:, :, right.slice_index, right.frame]
    rv = np.argwhere(plane == Structure.RV)
    plane[tuple(rv[: len(rv) // 2].T)] = Structure.BACKGROUND
    known = {scan.frames[..., t].tobytes(): partly[..., t] for t in range(partly.shape[3])}
    found = encode_scan(run, records[0].image, segmenter=lambda: Stub(known))
    assert abs(found.slice_index - right.slice_index) == 1
    nibabel.save(nibabel.Nifti1Image(partly, None, nibabel.load(file).header), tmp_path / "m.nii")
    assert encode_scan(run, records[0].image, tmp_path / "m.nii").slice_index == right.slice_index


def test_end_diastole_is_where_the_left_ventricle_is_largest(world, tmp_path):
    run, _, folder, records, stub = world
    mask = read_scan(folder / "masks" / records[0].image.name)
    scan = read_scan(records[0].image)
    one, label = scan.frames[..., 0], mask.frames[..., 0].astype(np.uint8)
    small = np.where((label == 1) & (np.indices(label.shape).sum(0) % 2 == 0), 2, label)
    small = small.astype(np.uint8)
    for name, frames in (("image", (one + 1, one + 2, one)), ("mask", (small, small, label))):
        frames = np.stack(frames, axis=-1)
        image = nibabel.Nifti1Image(frames.astype(np.float32), scan.affine)
        image.header.set_zooms((*scan.spacing_mm, 1.0))
        nibabel.save(image, tmp_path / f"{name}.nii.gz")
    cine = read_scan(tmp_path / "image.nii.gz").frames
    known = dict(
        zip((cine[..., t].tobytes() for t in range(3)), (small, small, label), strict=True)
    )
    given = encode_scan(run, tmp_path / "image.nii.gz", tmp_path / "mask.nii.gz")
    found = encode_scan(run, tmp_path / "image.nii.gz", segmenter=lambda: Stub(known))
    assert (given.frame, found.frame, given.frames) == (2, 2, 3)
    assert (given.code == found.code).all()


def test_end_diastole_of_a_mask_that_segment_wrote_is_the_frame_that_it_noted(world, tmp_path):
    run, _, folder, records, _ = world
    mask, scan = (
        read_scan(f) for f in (folder / "masks" / records[0].image.name, records[0].image)
    )
    one, label = scan.frames[..., 0], mask.frames[..., 0].astype(np.uint8)
    grown = label.copy()  # by a closer look, after ED was found
    grown[tuple(np.argwhere(label == Structure.MYO)[:20].T)] = Structure.LV
    image = nibabel.Nifti1Image(np.stack([one, one + 1], axis=-1).astype(np.float32), scan.affine)
    image.header.set_zooms((*scan.spacing_mm, 1.0))
    nibabel.save(image, tmp_path / "p1.nii.gz")
    quick = Segmentation(label, dict.fromkeys(Structure, 0.9), ())
    closer = replace(quick, labels=grown)
    stub = SimpleNamespace(
        name="stub", segment_cine=lambda *_: SegmentedCine([quick, closer], ed=0, es=1)
    )
    jobs = [Job("p1", tmp_path / "p1.nii.gz")]
    segment_patients(jobs, tmp_path / "segmented", stub)
    given = tmp_path / "segmented" / "masks" / "p1.nii.gz"
    assert encode_scan(run, tmp_path / "p1.nii.gz", given).frame == 0
    given.rename(tmp_path / "mask.nii.gz")
    assert encode_scan(run, tmp_path / "p1.nii.gz", tmp_path / "mask.nii.gz").frame == 1


def test_a_mirror_image_is_reported_and_mended(world, tmp_path):
    run, _, folder, records, _ = world
    record = records[0]
    for source, name in ((record.image, "image"), (folder / "masks" / record.image.name, "mask")):
        stored = nibabel.load(source)
        turned = nibabel.Nifti1Image(np.asarray(stored.dataobj)[:, ::-1], None, stored.header)
        nibabel.save(turned, tmp_path / f"{name}.nii.gz")
    files = tmp_path / "image.nii.gz", tmp_path / "mask.nii.gz"
    right = encode_scan(run, record.image, folder / "masks" / record.image.name)
    wrong, mended = encode_scan(run, *files), encode_scan(run, *files, mirror=True)
    np.testing.assert_allclose(mended.code, right.code, atol=1e-4)
    again = ca.load_model(run.folder, device="cpu").encode_scan(*files, mirror=True)
    assert np.array_equal(again.code, mended.code)
    assert np.abs(wrong.code - right.code).max() > 1e-3
    assert MIRROR_IMAGE not in right.warnings
    assert MIRROR_IMAGE not in mended.warnings


def test_a_code_far_off_is_said_to_be(world):
    run, _, folder, records, _ = world
    file = records[0].image
    mask = folder / "masks" / file.name
    code = encode_scan(run, file, mask).code
    around = Population.fit(code + np.random.default_rng(0).normal(size=(50, len(code))))
    near = encode_scan(run, file, mask, known=around)
    assert near.trust == "among the training patients"
    far = Population.fit(code + 99 + np.random.default_rng(0).normal(size=(50, len(code))))
    away = encode_scan(run, file, mask, known=far)
    assert away.trust.startswith("unlike every training patient")
    assert away.shown.doubtful
    assert population_of(run) is None  # nine phantoms are too few
    assert encode_scan(run, file, mask).trust.startswith("unknown")


def test_a_ventricle_that_no_training_patient_had_is_reported(world):
    run, _, folder, records, _ = world
    file = records[0].image
    about = dict(run.about)
    line = {"dimension": 0, "slope": 1.0, "intercept": 0.0, "code_mean": 0.0, "n": 20}
    line |= {"code_deviation": 1.0, "residual_sd": 1.0, "low": 90.0, "high": 99.0}
    about["calibration"] = dict.fromkeys(run.pipeline.attributes, line)
    one = encode_scan(replace(run, about=about), file, folder / "masks" / file.name)
    assert one.attributes["outside"].all()
    assert sum("outside of the range" in text for text in one.warnings) == 3
    assert one.shown.doubtful


def invoke(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


def test_the_command_writes_codes_pictures_and_a_page(world, tmp_path, monkeypatch):
    run, store, folder, records, stub = world
    monkeypatch.setattr(encoding_batch, "load_segmenter", lambda name: stub)
    (tmp_path / "scans").mkdir()
    for record in records[:2]:
        (tmp_path / "scans" / record.image.name).write_bytes(record.image.read_bytes())
    (tmp_path / "scans" / "=broken.nii.gz").write_bytes(b"no image")
    words = ("encode", "--model", run.folder, "--source", tmp_path / "scans", "--device", "cpu")
    done = invoke(*words, "--output", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "broken is left out" in done.output
    assert "\n'=broken," in (tmp_path / "out" / "skipped.csv").read_text()
    assert "Next: cardiac-attrivae explore" in done.output
    table = pd.read_csv(tmp_path / "out" / "codes.csv")
    assert len(table) == 2
    measured = table["LVEDA_measured"][0]
    assert f"LVEDA {measured:.1f} cm2, MEDA" in done.output
    assert set(table["mask_source"]) == {"stub"}
    codes = ca.load_model(run.folder, device="cpu").encode(store)[:2]
    found = table[[f"z{d}" for d in range(codes.shape[1])]].to_numpy()
    np.testing.assert_allclose(np.sort(found[:, 0]), np.sort(codes[:, 0]), rtol=1e-4)
    page = (tmp_path / "out" / "index.html").read_text()
    assert "broken" in page
    assert page.count("data:image/webp") == 2
    (tmp_path / "out" / "notes.txt").write_text("mine")
    again = invoke(*words, "--mask", folder / "masks", "--output", tmp_path / "out")
    assert again.exit_code == 0, again.output
    assert (tmp_path / "out" / "notes.txt").is_file()
    assert set(pd.read_csv(tmp_path / "out" / "codes.csv")["mask_source"]) == {"manual"}


def test_an_interrupted_call_leaves_no_page_of_two_calls(world, tmp_path):
    run, _, folder, records, _ = world
    scans = [record.image for record in records[:2]]
    given = {"mask": folder / "masks", "device": "cpu"}
    encode_scans(run.folder, scans[:1], tmp_path / "out", **given)
    assert "<title>Codes of 1 scan</title>" in (tmp_path / "out" / "index.html").read_text()

    def interrupted(names, total):
        yield next(iter(names))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_scans(run.folder, scans, tmp_path / "out", progress=interrupted, **given)
    assert not (tmp_path / "out" / "index.html").exists()
    assert not (tmp_path / "out" / "codes.csv").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--mask", "one.nii"], "one.nii is one mask for"),
        (["--mask-labels", "LV=1"], "a number of its own"),
        (["--output", "tree/out"], "lie in one another"),
    ],
)
def test_mistakes_end_in_a_sentence(world, words, message, monkeypatch, tmp_path):
    run, _, folder, _, stub = world
    monkeypatch.setattr(encoding_batch, "load_segmenter", lambda name: stub)
    monkeypatch.chdir(folder)
    base = ["encode", "--model", "run", "--source", "tree", "--output", tmp_path / "out"]
    done = invoke(*base, *words)
    assert done.exit_code == 2, done.output
    assert message in done.output
    assert "Traceback" not in done.output


def test_a_scan_without_a_heart_is_refused_in_words(world):
    run, _, _, records, stub = world
    blind = Stub({key: np.zeros_like(mask) for key, mask in stub.masks.items()})
    with pytest.raises(DataError, match="no heart was found in .*; look at it, or give its mask"):
        encode_scan(run, records[0].image, segmenter=lambda: blind)


def test_a_scan_that_lost_its_spacing_is_reported(world, tmp_path):
    run, _, folder, records, _ = world
    for file, name in (
        (records[0].image, "image"),
        (folder / "masks" / records[0].image.name, "m"),
    ):
        image = nibabel.load(file)
        voxels = np.asarray(image.dataobj)
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / f"{name}.nii.gz")
    one = encode_scan(run, tmp_path / "image.nii.gz", tmp_path / "m.nii.gz")
    assert "is the spacing that of the scan?" in " ".join(one.warnings)
    sound = encode_scan(run, records[0].image, folder / "masks" / records[0].image.name)
    assert "spacing" not in " ".join(sound.warnings)


def test_a_scan_below_the_output_is_refused(world):
    run, _, folder, records, _ = world
    place = records[0].image.parent
    with pytest.raises(DataError, match="lie in one another"):
        encode_scans(run.folder, [records[0].image], place, mask=folder / "masks", device="cpu")


def test_a_mask_of_another_shape_is_refused(world, tmp_path):
    run, _, folder, records, _ = world
    mask = nibabel.load(folder / "masks" / records[0].image.name)
    nibabel.save(mask.slicer[:, :, :-1], tmp_path / "mask.nii.gz")
    with pytest.raises(DataError, match="expected equal"):
        encode_scan(run, records[0].image, tmp_path / "mask.nii.gz")


def test_a_mask_in_another_order_than_its_scan_is_reported(world, tmp_path):
    run, _, folder, records, _ = world
    record = records[0]
    voxels = np.asarray(nibabel.load(folder / "masks" / record.image.name).dataobj)
    affine = np.diag([1.5, 1.5, 8, 1.0])
    flipped = affine @ np.diag([-1.0, 1, 1, 1])
    flipped[0, 3] = 1.5 * (len(voxels) - 1)
    image = np.asarray(nibabel.load(record.image).dataobj)
    nibabel.save(nibabel.Nifti1Image(image, affine), tmp_path / "image.nii.gz")
    for name, mask, way in (("same", voxels, affine), ("flipped", voxels[::-1], flipped)):
        nibabel.save(nibabel.Nifti1Image(mask, way), tmp_path / f"{name}.nii.gz")
        one = encode_scan(run, tmp_path / "image.nii.gz", tmp_path / f"{name}.nii.gz")
        assert (ANOTHER_ORDER in one.warnings) == (name == "flipped")


def test_a_doubtful_mask_is_told_in_the_words_of_check(world, tmp_path):
    run, _, folder, records, _ = world
    record = records[0]
    voxels = np.asarray(nibabel.load(folder / "masks" / record.image.name).dataobj).copy()
    affine = np.diag([1.5, 1.5, 8, 1.0])
    image = np.asarray(nibabel.load(record.image).dataobj)
    nibabel.save(nibabel.Nifti1Image(image, affine), tmp_path / "image.nii.gz")
    apart = np.diag([1.2, 1.2, 8, 1.0])
    islands = voxels.copy()
    islands[2:5, 2:5, 0] = 3
    for mask, way, told in (
        (voxels, affine, set()), (voxels, apart, {APART}), (islands, affine, {ISLAND}),
        (np.roll(voxels, 14, axis=0), affine, {MISPLACED}),
    ):  # fmt: skip
        nibabel.save(nibabel.Nifti1Image(mask, way), tmp_path / "mask.nii.gz")
        one = encode_scan(run, tmp_path / "image.nii.gz", tmp_path / "mask.nii.gz")
        assert told <= {*one.warnings}
        assert {APART, ISLAND, MISPLACED} & {*one.warnings} == told


@pytest.mark.realdata
def test_a_real_patient_has_the_code_of_the_store(real_data, world, tmp_path):
    run, _, _, _, stub = world
    manifest = load_manifest("acdc")
    (record,) = (r for r in find_cases(manifest, real_data / "acdc").records
                 if r.case == "patient090")  # fmt: skip
    from cardiac_attrivae.data.recipe import Recipe
    from cardiac_attrivae.data.transforms import preprocessing

    (item,) = preprocessing(Recipe())({"record": record})
    one = encode_scan(run, record.image, record.mask, labels=manifest.labels)
    assert (one.crop == np.asarray(item["image"])[0].astype(np.float32)).all()
