"""Phantoms are what they say they are: volumes, areas, layouts, quirks and a domain shift."""

import csv
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from cardiac_attrivae.data import phantom
from cardiac_attrivae.data.check import check_dataset
from cardiac_attrivae.data.hearts import POPULATIONS, Heart, draw_heart
from cardiac_attrivae.data.manifest import load_manifest
from cardiac_attrivae.data.phantom import RAW_LABELS, write_phantoms
from cardiac_attrivae.data.preprocess import preprocess
from cardiac_attrivae.data.scanner import pictures
from cardiac_attrivae.data.store import SliceDataset
from cardiac_attrivae.runtime.folders import LOCK, locked
from cardiac_attrivae.schema import HEART, DataError, Structure

DATASETS = ("acdc", "mnms")


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    """Ten ACDC patients and twenty M&Ms patients: enough for every quirk."""
    root = tmp_path_factory.mktemp("phantoms")
    return {
        "acdc": (root / "acdc", write_phantoms("acdc", root / "acdc", cases=10, cine=False)),
        "mnms": (root / "mnms", write_phantoms("mnms", root / "mnms", cases=20, cine=False)),
    }


def read(path):
    image = nib.load(path)
    return np.asarray(image.dataobj), np.array(image.header.get_zooms()[:3], dtype=float)


def info(folder):
    lines = (folder / "Info.cfg").read_text().splitlines()
    return dict(line.split(": ") for line in lines)


def table(root):
    with (root / phantom.MNMS_CSV).open(newline="", encoding="utf-8") as file:
        return {row["External code"]: row for row in csv.DictReader(file)}


def at_end_diastole(dataset, root, truth):
    """Image and raw mask at end diastole and the spacing in mm, read as any reader would."""
    if dataset == "acdc":
        stem = truth.folder / f"{truth.case}_frame{int(info(truth.folder)['ED']):02d}"
        image, spacing = read(f"{stem}.nii.gz")
        return image, read(f"{stem}_gt.nii.gz")[0], spacing
    frame = int(table(root)[truth.case]["ED"])
    image, spacing = read(truth.folder / f"{truth.case}_sa.nii.gz")
    return (
        image[..., frame],
        read(truth.folder / f"{truth.case}_sa_gt.nii.gz")[0][..., frame],
        spacing,
    )


def labelled(trees):
    for dataset, (root, truths) in trees.items():
        for truth in truths:
            if truth.labelled:
                yield dataset, truth, *at_end_diastole(dataset, root, truth)


def counts(dataset, mask):
    """Pixels of LV, MYO and RV per slice, (slices, 3)."""
    numbers = [RAW_LABELS[dataset][structure] for structure in HEART]
    return np.stack([(mask == number).sum((0, 1)) for number in numbers], axis=-1)


def test_boundaries_enclose_exactly_the_stated_areas():
    psi = np.linspace(-np.pi, np.pi, 200_001)[:-1]
    for pathology in POPULATIONS:
        heart = draw_heart(pathology, np.random.default_rng(3))
        for z in (0.0, 20.0, 45.0, 70.0):
            enclosed = [np.pi * np.mean(radius**2) / 100 for radius in heart.boundaries(psi, z)]
            # The profile of the RV has an infinite slope at its ends: sums converge as h^1.5.
            assert np.diff([0, *enclosed]) == pytest.approx(heart.areas(z), rel=1e-6)


def test_areas_integrate_exactly_to_the_stated_volumes():
    for pathology in POPULATIONS:
        heart = draw_heart(pathology, np.random.default_rng(4))
        z = (np.arange(20_000) + 0.5) / 100  # mm, to 200 mm
        mL = sum(heart.areas(height) for height in z) * 0.001
        assert mL == pytest.approx(heart.volumes(), rel=1e-5)


def test_areas_of_voxel_masks_agree_with_the_analytic_ones(trees):
    """A pixel is counted by its centre, so only pixels cut by a boundary can err.

    Each errs like a uniform variable, of either sign: one sd of the sum over n cut pixels is
    sqrt(n / 12) pixels. Five of them are allowed, and 2 pixels where a region is a handful.
    """
    for dataset, truth, _, mask, spacing in labelled(trees):
        pixel_cm2 = spacing[0] * spacing[1] / 100
        exact = np.array(truth.areas_cm2) / pixel_cm2
        measured = counts(dataset, mask)
        perimeter = 4 * np.sqrt(np.pi * np.cumsum(exact, axis=1))  # of both sides, generous
        assert (np.abs(measured - exact) <= 2 + 5 * np.sqrt(perimeter / 12)).all(), truth.case


def test_volumes_of_voxel_masks_agree_with_the_analytic_ones(trees):
    """Slices add the midpoint rule, whose error at the tip is at most (q+1)/8 (thickness/length)^2.

    For 10 mm and the shortest RV (47 mm) that is 1.4 %; pixels add less than .6 %.
    """
    for dataset, truth, _, mask, spacing in labelled(trees):
        mL = counts(dataset, mask).sum(0) * spacing.prod() / 1000
        assert mL == pytest.approx([truth.LVEDV, truth.MEDV, truth.RVEDV], rel=0.02), truth.case


def test_every_heart_of_a_full_data_set_is_within_its_picture():
    psi = np.linspace(-np.pi, np.pi, 60)
    scans = [phantom._acdc_scan(index, 0)[1] for index in range(150)]
    scans += [phantom._mnms_scan(index, 0, None)[1] for index in range(345)]
    for scan in scans:
        radius = scan.heart.boundaries(psi, 0.0)[2]
        x, y = -radius * np.cos(psi) - scan.centre_mm[0], -radius * np.sin(psi) - scan.centre_mm[1]
        c, s = np.cos(scan.angle), np.sin(scan.angle)
        position_mm = np.stack([c * x - s * y, s * x + c * y])  # from the centre of the picture
        half_mm = (np.array(scan.shape) - 4) / 2 * scan.spacing_mm[0]
        assert (np.abs(position_mm).max(axis=1) < half_mm).all(), scan.case


@pytest.mark.parametrize("pathology", POPULATIONS)
def test_groups_follow_the_population_statistics(pathology):
    population, rng = POPULATIONS[pathology], np.random.default_rng(0)
    hearts = [draw_heart(pathology, rng) for _ in range(400)]
    volumes = np.array([heart.volumes() for heart in hearts])
    # Four standard errors of a mean of 400; cutting the tails costs some sd.
    tolerance = 4 * np.array(population.sd_mL) / np.sqrt(len(hearts))
    assert (np.abs(volumes.mean(0) - population.mean_mL) < tolerance).all()
    assert volumes.std(0) == pytest.approx(population.sd_mL, rel=0.2)
    assert volumes.min() > 25
    basal = np.mean([heart.areas(5.0) for heart in hearts], axis=0)
    assert basal == pytest.approx(population.basal_cm2, rel=0.08)


def test_no_wall_is_ever_missing():
    psi, rng = np.linspace(-np.pi, np.pi, 60), np.random.default_rng(1)
    for pathology in POPULATIONS:
        for _ in range(40):
            heart = draw_heart(pathology, rng)
            for contraction in (0, 1):
                now = heart.contracted(contraction, POPULATIONS[pathology].lvef, 0.5)
                for s in (0, 0.3, 0.6, 0.9):
                    endo, epi, free_wall = now.boundaries(psi, s * now.lengths_mm[0])
                    assert (epi - endo).min() > 1.5  # mm
                    assert (free_wall >= epi).all()


def test_contraction_ejects_the_stated_fractions_and_keeps_the_wall():
    heart = Heart(volumes_mL=(130, 95, 149), lengths_mm=(86, 94, 70))
    assert heart.contracted(0, 0.6, 0.5) == heart
    assert heart.contracted(1, 0.6, 0.5).volumes() == pytest.approx([52, 95, 74.5])


@pytest.mark.parametrize("dataset", DATASETS)
def test_a_case_is_the_same_to_the_byte_however_many_are_written(dataset, trees, tmp_path):
    root, _ = trees[dataset]
    few = write_phantoms(dataset, tmp_path, cases=2, cine=False)
    files = [path for truth in few for path in truth.folder.iterdir()]
    assert len(files) == 2 * {"acdc": 5, "mnms": 2}[dataset]
    for path in files:
        assert path.read_bytes() == (root / path.relative_to(tmp_path)).read_bytes(), path.name


def test_another_seed_draws_other_hearts(tmp_path, trees):
    (other,) = write_phantoms("acdc", tmp_path, cases=1, seed=1, cine=False)
    assert other.case == trees["acdc"][1][0].case
    assert other.LVEDV != trees["acdc"][1][0].LVEDV


def test_acdc_has_the_layout_of_the_real_one(trees):
    root, truths = trees["acdc"]
    assert [truth.case for truth in truths[:4]] == [
        f"patient{n}" for n in ("001", "074", "101", "003")
    ]
    assert (root / "training" / "MANDATORY_CITATION.md").is_file()
    assert {truth.folder.parent.name for truth in truths} == {"training", "testing"}
    for truth in truths:
        keys = info(truth.folder)
        assert list(keys) == ["ED", "ES", "Group", "Height", "NbFrame", "Weight"]
        for phase in ("ED", "ES"):
            stem = truth.folder / f"{truth.case}_frame{int(keys[phase]):02d}"
            assert Path(f"{stem}.nii.gz").is_file()
            assert Path(f"{stem}_gt.nii.gz").is_file()


def test_exactly_one_acdc_patient_has_its_end_diastole_elsewhere_than_in_frame_one(trees):
    elsewhere = [keys for t in trees["acdc"][1] if (keys := info(t.folder))["ED"] != "1"]
    assert [(keys["ED"], keys["ES"]) for keys in elsewhere] == [("4", "11")]


def test_the_cine_of_acdc_holds_the_frames_that_are_stored_beside_it(tmp_path, trees):
    (truth,) = write_phantoms("acdc", tmp_path, cases=1)
    cine, keys = read(truth.folder / f"{truth.case}_4d.nii.gz")[0], info(truth.folder)
    assert cine.shape[3] == int(keys["NbFrame"])
    for frame in (int(keys["ED"]), int(keys["ES"])):
        name = f"{truth.case}_frame{frame:02d}.nii.gz"
        assert (cine[..., frame - 1] == read(truth.folder / name)[0]).all()
        assert (truth.folder / name).read_bytes() == (
            trees["acdc"][1][0].folder / name
        ).read_bytes()


def test_the_affine_of_acdc_is_a_placeholder_and_pixdim_is_not(trees):
    for truth in trees["acdc"][1]:
        image = nib.load(
            truth.folder / f"{truth.case}_frame{int(info(truth.folder)['ED']):02d}.nii.gz"
        )
        assert np.abs(np.diag(image.affine)).tolist() == [1, 1, 1, 1]
        spacing = image.header.get_zooms()
        assert 0.7 <= spacing[0] <= 1.95
        assert spacing[2] in (5, 10)
        assert np.abs(np.diag(image.header.get_qform()))[:3] == pytest.approx(spacing)


def test_the_base_comes_first_in_acdc_and_mostly_last_in_mnms(trees):
    first = {"acdc": [], "mnms": []}
    for dataset, truth, *_ in labelled(trees):
        lv = np.array(truth.areas_cm2)[:, 0]
        first[dataset].append(np.argmax(lv) < len(lv) / 2)
    assert all(first["acdc"])
    assert 0 < np.mean(first["mnms"]) < 0.5


def test_labels_of_mnms_are_those_of_acdc_reversed():
    for structure in HEART:
        assert RAW_LABELS["mnms"][structure] == structure
        assert RAW_LABELS["acdc"][structure] == 4 - structure


def test_mnms_has_the_layout_of_the_real_one(trees):
    root, truths = trees["mnms"]
    rows = table(root)
    assert (
        (root / phantom.MNMS_CSV)
        .read_text()
        .startswith(",External code,Pathology,VendorName,Vendor,")
    )
    assert len(rows) > len(truths)  # more rows than folders
    assert any(row["Age"] == "" for row in rows.values())
    folders = [truth.folder.parent.relative_to(root).as_posix() for truth in truths]
    assert {name: folders.count(name) for name in folders} == {
        "Training/Labeled": 8,
        "Training/Unlabeled": 2,
        "Validation": 2,
        "Testing": 8,
    }
    dtypes, codes = set(), set()
    for truth in truths:
        row = rows[truth.case]
        image = nib.load(truth.folder / f"{truth.case}_sa.nii.gz")
        dtypes.add(image.get_data_dtype().name)
        codes.add("".join(nib.aff2axcodes(image.affine)))
        if truth.labelled:
            mask = read(truth.folder / f"{truth.case}_sa_gt.nii.gz")[0]
            shown = np.flatnonzero(mask.any((0, 1, 2))).tolist()
            assert shown == sorted([int(row["ED"]), int(row["ES"])])
        else:
            assert (row["ED"], row["ES"]) == ("0", "0")
    assert dtypes == {"int16", "float64"}
    assert len(codes) > 3


def test_an_unlabelled_case_has_an_empty_mask_or_none(trees):
    masks = [t.folder / f"{t.case}_sa_gt.nii.gz" for t in trees["mnms"][1] if not t.labelled]
    present = [path.is_file() for path in masks]
    assert sorted(present) == [False, True]
    assert not read(masks[present.index(True)])[0].any()


def test_one_header_of_mnms_is_not_orthonormal(trees):
    skew = []
    for truth in trees["mnms"][1]:
        matrix = nib.load(truth.folder / f"{truth.case}_sa.nii.gz").affine[:3, :3]
        columns = matrix / np.linalg.norm(matrix, axis=0)
        skew.append(np.abs(columns.T @ columns - np.eye(3)).max())
    assert sum(value > 1e-3 for value in skew) == 1
    assert np.median(skew) < 1e-6


def test_itk_refuses_the_skewed_header_and_no_other(trees):
    sitk = pytest.importorskip("SimpleITK")
    refused = []
    for index, truth in enumerate(trees["mnms"][1]):
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(truth.folder / f"{truth.case}_sa.nii.gz"))
        try:
            reader.ReadImageInformation()
        except RuntimeError:
            refused.append(index)
    assert refused == [1]


@pytest.mark.parametrize(("dataset", "original", "copy"), [("acdc", 1, 9), ("mnms", 5, 9)])
def test_a_scan_occurs_twice_with_a_mask_drawn_anew(dataset, original, copy, trees):
    root, truths = trees[dataset]
    first, second = (at_end_diastole(dataset, root, truths[n]) for n in (original, copy))
    assert (first[0] == second[0]).all()
    assert (first[1] != second[1]).any()
    assert (first[1] != second[1]).sum() < 0.1 * (first[1] > 0).sum()
    if dataset == "mnms":
        assert truths[original].vendor != truths[copy].vendor
        assert truths[original].folder.parent != truths[copy].folder.parent


def test_the_same_hearts_are_in_every_vendors_scanner(tmp_path):
    found = {v: write_phantoms("mnms", tmp_path / v, 2, cine=False, vendor=v) for v in "AD"}
    for one, other in zip(*found.values(), strict=True):
        assert (one.vendor, other.vendor) == ("A", "D")
        assert one.folder.relative_to(tmp_path / "A") == other.folder.relative_to(tmp_path / "D")
        assert (one.LVEDV, one.MEDV, one.RVEDV) == (other.LVEDV, other.MEDV, other.RVEDV)
        (_, mask_a, a), (_, mask_d, d) = (
            at_end_diastole("mnms", tmp_path / truth.vendor, truth) for truth in (one, other)
        )
        areas = counts("mnms", mask_a) * a[:2].prod(), counts("mnms", mask_d) * d[:2].prod()
        np.testing.assert_allclose(*areas, atol=60)  # mm2: pixels at the edges


def test_without_quirks_nothing_is_odd(tmp_path):
    for dataset, cases in (("acdc", 4), ("mnms", 7)):
        truths = write_phantoms(dataset, tmp_path / dataset, cases, quirks=False, cine=False)
        assert all(truth.labelled for truth in truths)
        for truth in truths:
            path = next(truth.folder.glob("*.nii.gz"))
            zooms = nib.affines.voxel_sizes(nib.load(path).affine)
            assert zooms == pytest.approx(read(path)[1], rel=1e-5)
            assert dataset == "mnms" or info(truth.folder)["ED"] == "1"


def test_no_case_is_a_mirror_image_of_another(trees):
    """After a rotation that brings the RV to the left, the bright diaphragm lies below, not above.

    Handedness shows in the mask too: the RV leans to the diaphragm, clockwise of its centre line.
    """
    for dataset, truth, image, mask, spacing in labelled(trees):
        numbers = RAW_LABELS[dataset]
        k = int(np.argmax(counts(dataset, mask)[:, 0]))
        lv = np.argwhere(mask[..., k] == numbers[HEART[0]]).mean(0)
        rv = np.argwhere(mask[..., k] == numbers[HEART[2]]).mean(0)
        right = (lv - rv) / np.linalg.norm(lv - rv)  # (i, j) are (x, y) of the viewer
        down = np.array([-right[1], right[0]])
        points = np.argwhere(np.ones(mask.shape[:2])) - lv
        x, y = points @ right * spacing[0], points @ down * spacing[0]
        value = image[..., k].astype(float).ravel()
        below = value[(np.abs(x) < 15) & (y > 50) & (y < 70)].mean()
        lung = value[(x > 50) & (x < 70) & (y < -10) & (y > -30)].mean()
        assert below > 1.3 * lung, truth.case


# Brightness 3.5, 2.5, 1.5, .5 mm inside experts' endocardium and .5, 1.5 mm outside: medians of the
# 100 patients of ACDC by benchmarks/borders.py, with 0 for the wall and 1 for blood.
PATIENTS = {"ED": (0.68, 0.60, 0.49, 0.31, 0.10, 0.02), "ES": (0.66, 0.56, 0.45, 0.27, 0.08, 0.02)}


@pytest.mark.parametrize("phase", PATIENTS)
def test_the_endocardium_lies_where_it_does_in_patients_pictures(phase):
    """Trabeculae belong to the cavity and are dark; without them ED has .52 half a mm inside."""
    found = []
    for index in range(6):
        scan = phantom._acdc_scan(index, 0)[1]
        frame = {"ED": scan.ed, "ES": scan.es}[phase]
        slices = np.argsort(np.abs(np.array(scan.z_mm) - 0.35 * scan.heart.lengths_mm[0]))[:2]
        scan = replace(scan, z_mm=tuple(scan.z_mm[k] for k in slices))
        image, mask = pictures(scan, [frame])[..., 0].astype(float), scan.mask(frame)
        for k in range(2):
            picture, lv = image[..., k], mask[..., k] == Structure.LV
            wall = mask[..., k] == Structure.MYO
            into, out = distance_transform_edt(lv), distance_transform_edt(~lv)
            away = (np.where(lv, 0.5 - into, out - 0.5)) * scan.spacing_mm[0]
            deep = distance_transform_edt(lv | wall) * scan.spacing_mm[0]
            dark = np.median(picture[wall & (away > 2) & (deep > 2)])
            value = (picture - dark) / (np.percentile(picture[lv], 75) - dark)
            near = [(lv | wall) & (np.abs(away - d) <= 0.5) for d in np.arange(-3.5, 2)]
            found.append([value[at].mean() for at in near])
    assert np.median(found, axis=0) == pytest.approx(PATIENTS[phase], abs=0.08)


def test_vendors_differ_in_contrast_and_noise(trees):
    root, truths = trees["mnms"]
    contrast, noise = {}, {}
    for truth in truths:
        if not truth.labelled or truth is truths[9]:  # its vendor is contradicted by its scan
            continue
        image, mask, _ = at_end_diastole("mnms", root, truth)
        k = int(np.argmax(counts("mnms", mask)[:, 0]))
        blood, muscle = (image[..., k][mask[..., k] == HEART[n]] for n in (0, 1))
        contrast.setdefault(truth.vendor, []).append(np.median(blood) / np.median(muscle))
        # Anatomy varies slowly along a column of blood: differences of neighbours are noise.
        column = [np.diff(image[..., k].astype(float), axis=0)[mask[1:, :, k] == HEART[0]]]
        noise.setdefault(truth.vendor, []).append(np.median(np.abs(column)) / blood.mean())
    contrast = {vendor: np.mean(values) for vendor, values in contrast.items()}
    noise = {vendor: np.mean(values) for vendor, values in noise.items()}
    assert set(contrast) == set("ABCD")
    assert contrast["A"] > 1.2 * contrast["B"] > contrast["D"]
    assert min(noise["C"], noise["D"]) > max(noise["A"], noise["B"])


@pytest.mark.parametrize(
    ("dataset", "cases", "message"),
    [
        ("ukbb", 5, "dataset is 'ukbb'; expected one of acdc, mnms"),
        ("acdc", 151, "cases is 151; expected 1 to 150 patients of acdc"),
        ("mnms", 0, "cases is 0; expected 1 to 345 patients of mnms"),
    ],
)
def test_impossible_requests_say_what_is_accepted(dataset, cases, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        write_phantoms(dataset, tmp_path, cases)


@pytest.mark.parametrize(("dataset", "vendor"), [("acdc", "A"), ("mnms", "E")])
def test_a_vendor_that_a_data_set_lacks_is_an_error(dataset, vendor, tmp_path):
    with pytest.raises(ValueError, match=f"vendor is '{vendor}'; expected one of A, B, C, D, with"):
        write_phantoms(dataset, tmp_path, 1, vendor=vendor)


@pytest.mark.parametrize("dataset", ["acdc", "mnms"])
def test_two_runs_do_not_write_into_one_folder(dataset, tmp_path):
    with locked(tmp_path / "tree"):
        with pytest.raises(DataError, match="tree is being worked on by another process"):
            write_phantoms(dataset, tmp_path / "tree", cases=1)
        assert [file.name for file in (tmp_path / "tree").iterdir()] == [LOCK]
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "mine.txt").touch()
    with pytest.raises(DataError, match="tree is not empty and was not written by"):
        write_phantoms(dataset, tmp_path / "tree", cases=1)


def test_codes_never_repeat():
    """Checked over a data set of full size, without drawing its hearts."""
    codes = {phantom._mnms_code(index) for index in range(phantom.MAX_CASES["mnms"])}
    assert len(codes) == phantom.MAX_CASES["mnms"]


@pytest.mark.parametrize(
    ("dataset", "killed"), [("acdc", "_write_acdc_patient"), ("mnms", "_save")]
)
def test_a_set_that_is_half_written_is_not_taken_for_a_whole_one(
    dataset, killed, tmp_path, monkeypatch
):
    def stop(*given):
        if len(list(tmp_path.rglob("*.nii.gz"))) > 3:
            raise KeyboardInterrupt
        return real(*given)

    real, manifest = getattr(phantom, killed), load_manifest(dataset)
    folder = tmp_path / "download" / manifest.roots[-1]
    monkeypatch.setattr(phantom, killed, stop)
    with pytest.raises(KeyboardInterrupt):
        write_phantoms(dataset, folder, cases=4, cine=False)
    for source in (folder, tmp_path / "download"):
        for reader in (check_dataset, partial(preprocess, output=tmp_path / "store")):
            with pytest.raises(DataError, match=r"of phantoms is not finished: .* remove the fold"):
                reader(manifest, source)
    with pytest.raises(DataError, match="holds phantoms already; remove it, or choose another"):
        write_phantoms(dataset, folder, cases=4)
    monkeypatch.undo()
    shutil.rmtree(folder)
    write_phantoms(dataset, folder, cases=4, cine=False)
    preprocess(manifest, tmp_path / "download", tmp_path / "store")
    assert SliceDataset.open(tmp_path / "store").info["synthetic"]
