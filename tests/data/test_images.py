"""Image and mask on one grid, whatever they are stored as and in whatever order."""

import re
from dataclasses import replace
from itertools import permutations, product
from pathlib import Path

import nibabel
import numpy as np
import pytest
import yaml
from dicoms import OBLIQUE, affine_of, save_cine
from nibabel.orientations import apply_orientation, inv_ornt_aff

from cardiac_attrivae.data.cases import find_cases
from cardiac_attrivae.data.check import check_dataset
from cardiac_attrivae.data.images import read_image, reordered
from cardiac_attrivae.data.manifest import load_manifest, parse_manifest
from cardiac_attrivae.data.nifti import Volume
from cardiac_attrivae.data.preprocess import preprocess
from cardiac_attrivae.data.recipe import Recipe
from cardiac_attrivae.data.scanner import ACDC_SCANNER, draw_scan, pictures
from cardiac_attrivae.data.store import SliceDataset
from cardiac_attrivae.schema import DataError

SPACING_MM = (1.5, 1.25, 8.0)
ORDERS = [
    np.column_stack([axes, flips])
    for axes in permutations(range(3))
    for flips in product((1, -1), repeat=3)
]


def stack(seed=0, spacing_mm=SPACING_MM):
    voxels = np.random.default_rng(seed).integers(0, 4, (7, 6, 5))
    return Volume(voxels, spacing_mm, affine_of(spacing_mm, OBLIQUE, (30, -50, 20)))


def stored(volume, order):
    """The same voxels of the patient in another order."""
    order = np.asarray(order, float)
    spacing = tuple(volume.spacing_mm[i] for i in np.argsort(order[:, 0]))
    affine = volume.affine @ inv_ornt_aff(order, volume.voxels.shape)
    return Volume(apply_orientation(volume.voxels, order), spacing, affine)


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: "".join(map(str, order.ravel())))
def test_a_mask_in_any_of_the_48_orders_comes_back_as_it_was(order):
    mask = stack(1)
    back = reordered(stack(), stored(mask, order))
    assert (back.voxels == mask.voxels).all()
    assert back.spacing_mm == mask.spacing_mm
    np.testing.assert_allclose(back.affine, mask.affine, atol=1e-9)


def shifted(volume, voxels):
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ voxels
    return volume._replace(affine=affine)


def test_a_mask_that_lies_elsewhere_is_refused_and_never_rounded():
    assert (reordered(stack(), shifted(stack(1), (0.2, 0, 0))).voxels == stack(1).voxels).all()
    for voxels in ((0.3, 0, 0), (0, 0, 0.5), (1, 0, 0), (0, 0, -1)):
        with pytest.raises(DataError, match=f"lies {max(map(abs, voxels))} voxels off its image"):
            reordered(stack(), shifted(stack(1), voxels))
    affine = affine_of((1.5, 1.25, 8.0 * 3.5), OBLIQUE, (30, -50, 20))  # another slice distance
    with pytest.raises(DataError, match="lies 10 voxels off"):
        reordered(stack(), stack(1)._replace(affine=affine))


@pytest.mark.parametrize("affine", [np.zeros((4, 4)), np.diag([1.0, 1, 0, 1])])
def test_an_affine_that_leads_nowhere_is_refused(affine):
    for image, mask in ((stack(), stack(1)._replace(affine=affine)),
                        (stack()._replace(affine=affine), stack(1))):  # fmt: skip
        with pytest.raises(DataError, match="has an affine that leads nowhere"):
            reordered(image, mask)


def test_a_mask_with_a_slice_less_is_refused():
    mask = stack(1)._replace(voxels=stack(1).voxels[..., :4])
    with pytest.raises(DataError, match=r"has shape \(7, 6, 4\) along the axes of its image"):
        reordered(stack(), mask)


# The same hearts in four forms --------------------------------------------------------------------

PAGE = (Path(__file__).parents[2] / "docs" / "data-sets.md").read_text(encoding="utf-8")
DOCUMENTED = {
    data["name"]: data
    for data in map(yaml.safe_load, re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL))
}
FORMS = {
    "acdc": yaml.safe_load((Path(__file__).parents[2] / "data_manifests/acdc.yaml").read_text()),
    **{name: DOCUMENTED[name] for name in ("nnunet_acdc", "listed", "dicom")},
}
ED, ES, FRAMES = 1, 2, 3
RAW = np.array([0, 3, 2, 1], np.uint8)  # labels of ACDC


def manifest_of(form):
    """As documented, but for what the forms may say differently of the same patients."""
    data = {k: v for k, v in FORMS[form].items() if k not in ("hold_out", "expected", "duplicates")}
    data |= {"name": "same", "labels": FORMS["acdc"]["labels"], "domain": "dataset"}
    constants = {"ED": ED + data["frame_base"]} if form == "dicom" else data.get("constants", {})
    data["constants"] = constants | {"vendor": "Siemens", "centre": "Dijon"}
    data["columns"] = {k: v for k, v in data.get("columns", {}).items() if k != "pathology"}
    return parse_manifest({k: v for k, v in data.items() if v != {}}, form)


def write(file, voxels, scan, order=((0, 1), (1, 1), (2, 1))):
    volume = stored(Volume(voxels, scan.spacing_mm, affine_of(scan.spacing_mm)), order)
    file.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(volume.voxels, volume.affine), file)


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    """Folder of each form, with the same three patients."""
    root = tmp_path_factory.mktemp("forms")
    rows = ["Patient,Image,Mask,ED frame,Set"]
    for number in (1, 2, 3):
        case = f"patient{number:03d}"
        scan = draw_scan("acdc", case, "NOR", ACDC_SCANNER, 12, 0)
        spacing = (1.5, 1.5, scan.spacing_mm[2])  # exact in the float32 of NIfTI
        scan = replace(scan, shape=(130, 124), spacing_mm=spacing, frames=FRAMES, ed=ED, es=ES)
        cine = pictures(scan, list(range(FRAMES)))
        folder = root / "acdc" / "training" / case
        for frame in (ED, ES):
            name, mask = f"{case}_frame{frame + 1:02d}", RAW[scan.mask(frame)]
            write(folder / f"{name}.nii.gz", cine[..., frame], scan)
            write(folder / f"{name}_gt.nii.gz", mask, scan)
            write(root / f"nnunet_acdc/imagesTr/{name}_0000.nii.gz", cine[..., frame], scan)
            write(root / f"nnunet_acdc/labelsTr/{name}.nii.gz", mask, scan)
        (folder / "Info.cfg").write_text(f"ED: {ED + 1}\nES: {ES + 1}\nNbFrame: {FRAMES}\n")
        mask = RAW[scan.mask(ED)]
        write(root / f"listed/{number}/the cine.nii.gz", cine, scan)
        write(root / f"listed/masks of {number}.nii", mask, scan)
        rows.append(f"{case},{number}/the cine.nii.gz,masks of {number}.nii,{ED},train")
        save_cine(root / "dicom" / "dicom" / case, cine, scan.spacing_mm)
        # as dcm2niix writes it, rows from bottom to top; and slices from the other end
        write(root / f"dicom/masks/{case}.nii.gz", mask, scan, ((0, 1), (1, -1), (2, -1)))
    (root / "listed" / "cases.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture(scope="module")
def stores(trees):
    for form in FORMS:
        preprocess(manifest_of(form), trees / form, trees / f"{form}_store", Recipe(slice="all"))
    return {form: SliceDataset.open(trees / f"{form}_store") for form in FORMS}


@pytest.mark.parametrize("form", FORMS)
def test_the_same_hearts_become_the_same_store_in_every_form(stores, form):
    assert len(stores[form]) > 15
    assert stores[form].cases["case"].nunique() == 3
    expected = stores["acdc"].info["content_hash"]  # masks.npz and the table included
    assert stores[form].info["content_hash"] == expected


@pytest.mark.parametrize("form", FORMS)
def test_check_finds_nothing_wrong_in_any_form(trees, form):
    report = check_dataset(manifest_of(form), trees / form)
    assert report.problems == ()
    assert sum(report.usable.values()) == 3
    assert {finding.what for finding in report.notes} <= {
        "heart cut off by the border of the image"
    }


@pytest.mark.parametrize("form", [form for form in FORMS if form != "acdc"])
def test_every_documented_manifest_finds_the_cases_as_it_stands(trees, tmp_path, form):
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(DOCUMENTED[form]))
    cases = find_cases(load_manifest(tmp_path / "own.yaml"), trees / form)
    assert [r.case for r in cases.records] == ["patient001", "patient002", "patient003"]


def test_a_placeholder_affine_is_refused_until_the_manifest_says_order(trees, tmp_path, stores):
    source = tmp_path / "source"
    source.mkdir()
    (source / "masks").mkdir()
    (trees / "dicom" / "dicom").rename(source / "dicom")  # links may not lead out
    try:
        for number in (1, 2, 3):
            case = f"patient{number:03d}"
            mask = nibabel.load(trees / "nnunet_acdc" / "labelsTr" / f"{case}_frame02.nii.gz")
            image = nibabel.Nifti1Image(np.asarray(mask.dataobj), np.eye(4))
            nibabel.save(image, source / "masks" / f"{case}.nii.gz")
        manifest = manifest_of("dicom")
        told = {f.what: f.cases for f in check_dataset(manifest, source).problems}
        ((_, detail), *_) = told["mask that does not fit its image"]
        assert re.match(r"patient001.nii.gz lies \d+ voxels off .* match: order in the", detail)
        with pytest.raises(DataError, match="none of 3 cases"):
            preprocess(manifest, source, tmp_path / "refused")
        preprocess(
            replace(manifest, match="order"), source, tmp_path / "store", Recipe(slice="all")
        )
    finally:
        (source / "dicom").rename(trees / "dicom" / "dicom")
    expected = stores["acdc"].info["content_hash"]
    assert SliceDataset.open(tmp_path / "store").info["content_hash"] == expected


def test_frames_taken_for_patients_are_a_problem(trees):
    mistaken = replace(
        manifest_of("nnunet_acdc"),
        image="imagesTr/{case}_0000.nii.gz",
        mask="labelsTr/{case}.nii.gz",
        folders={".": "train"},
        constants={"ED": 1},
    )
    told = {f.what: f.cases for f in check_dataset(mistaken, trees / "nnunet_acdc").problems}
    (what,) = told
    assert what.startswith("one patient as several cases")
    assert told[what][0] == ("patient001", "patient001_frame02, patient001_frame03")


def test_a_picture_that_is_smaller_than_a_heart_is_not_told_to_be_turned(tmp_path):
    file = tmp_path / "tiny.nii"
    nibabel.save(
        nibabel.Nifti1Image(np.ones((8, 8, 11), np.int16), np.diag([1.5, 1.5, 8, 1])), file
    )
    with pytest.raises(DataError, match="8 x 8 pixels of 1.5 x 1.5 mm, smaller than a heart; exp"):
        read_image(file, 0)
