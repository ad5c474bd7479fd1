"""From native voxels to the crop: labels, slices, one alignment, one interpolation, intensities."""

import warnings
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.data import NibabelReader
from monai.transforms import Compose, LoadImaged
from scipy.ndimage import affine_transform

from cardiac_attrivae.attributes import ATTRIBUTES, names_at
from cardiac_attrivae.data import transforms
from cardiac_attrivae.data.cases import find_cases
from cardiac_attrivae.data.manifest import load_manifest
from cardiac_attrivae.data.phantom import RAW_LABELS
from cardiac_attrivae.data.recipe import SLICES, Recipe
from cardiac_attrivae.data.scanner import ACDC_SCANNER, draw_scan
from cardiac_attrivae.data.transforms import (
    AlignHeartd,
    MeasureHeart,
    ReadPhased,
    ScaleIntensityInMaskd,
    SelectSlices,
    ToCanonicalLabelsd,
    crop_points,
    cut_off,
    heart_axes,
    preprocessing,
    relative,
    sample,
    usable_slices,
)
from cardiac_attrivae.heart import pixel_counts
from cardiac_attrivae.schema import HEART, CaseRecord, DataError, Keys, Phase, Structure

BOTH = (Keys.IMAGE, Keys.LABEL)
RECORD = CaseRecord(
    case="p1",
    dataset="own",
    split="train",
    image=Path("p1.nii.gz"),
    mask=Path("p1_gt.nii.gz"),
    frame=0,
    label_numbers={s.value: s for s in Structure},
    domain="own",
)


def scan(angle=0.0, shift_mm=(0.0, 0.0), **changes):
    """A phantom heart, turned in its native voxels; every picture of it is analytic."""
    one = draw_scan("acdc", "patient001", "NOR", ACDC_SCANNER, 12, 0)
    one = replace(one, shape=(200, 210), spacing_mm=(1.5, 1.5, 10.0), **changes)
    shifted = tuple(np.add((-20.0, 0.0), shift_mm).tolist())
    return replace(one, angle=angle, centre_mm=shifted)


def native(one, mark=True):
    """A smooth signal with a bright mark in the anterior wall, and the mask, both (I, J, S)."""
    x, y = one.grid()
    image = 300 + 60 * np.sin(x / 9) + 60 * np.cos(y / 11) + x
    if mark:
        image = image + 900 * np.exp(-((x - 6) ** 2 + (y + 31) ** 2) / 80)
    mask = one.mask(0)
    return np.repeat(image[..., None], mask.shape[-1], axis=2).astype(np.float32), mask


def crops(image, mask, spacing=(1.5, 1.5, 10.0), recipe=None, **changes):
    """Everything of `preprocessing` that follows the reading of the files."""
    recipe = recipe or Recipe(**changes)
    after = Compose(preprocessing(recipe).transforms[1:])
    case = {"record": RECORD, Keys.IMAGE: image, Keys.LABEL: mask, "spacing": spacing}
    return after(case)


def crop(*args, **kwargs):
    (item,) = crops(*args, **kwargs)
    return np.asarray(item[Keys.IMAGE])[0], np.asarray(item[Keys.LABEL])[0], item


def dice(one, other):
    """The lowest Dice of the three structures."""
    pairs = [(one == s, other == s) for s in HEART]
    return min(2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in pairs)


# Alignment ----------------------------------------------------------------------------------------

UPRIGHT = crop(*native(scan()))
ANGLES = np.radians([7, 30, 45, 61, 90, 117, 163, 180, 200, 251, 270, 299, 340])


@pytest.mark.parametrize("angle", ANGLES)
def test_alignment_undoes_any_rotation_and_translation(angle):
    rng = np.random.default_rng(int(1000 * angle))
    image, label, item = crop(*native(scan(angle, rng.uniform(-12, 12, 2))))
    # Native pixels of 1.5 mm are cut anew in each pose: up to .4 mm at both edges of a 9 mm wall.
    assert dice(label, UPRIGHT[1]) > 0.92
    inside = (label > 0) & (UPRIGHT[1] > 0)
    differences = np.abs(image - UPRIGHT[0])[inside]
    assert np.mean(differences) < 0.01
    assert np.quantile(differences, 0.99) < 0.05
    turned = item["rotation_deg"] - UPRIGHT[2]["rotation_deg"] - np.degrees(angle)
    assert abs((turned + 180) % 360 - 180) < 1


@pytest.mark.parametrize("angle", [0, *ANGLES])
@pytest.mark.parametrize("native_mm", [0.7, 1.3, 1.95])
def test_the_left_heart_is_at_the_centre_and_the_rv_straight_to_its_left(angle, native_mm):
    one = scan(angle)
    side = round(300 / native_mm)
    one = replace(one, shape=(side, side + 6), spacing_mm=(native_mm, native_mm, 10.0))
    _, label, _ = crop(*native(one), one.spacing_mm)
    left = np.argwhere((label == Structure.LV) | (label == Structure.MYO)).mean(axis=0)
    right = np.argwhere(label == Structure.RV).mean(axis=0)
    assert np.abs(left - 63.5).max() < 0.5
    assert abs(right[0] - 63.5) < 0.5
    assert right[1] < left[1] - 15


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_a_quarter_turn_or_a_shift_by_pixels_changes_nothing(turns):
    image, mask = native(scan(0.4))
    image, mask = (np.roll(np.rot90(a, turns), (5, -9), axis=(0, 1)) for a in (image, mask))
    expected, turned = crop(*native(scan(0.4))), crop(image, mask)
    assert (turned[1] == expected[1]).mean() > 0.9999  # but for points on the edge of a pixel
    inside = (turned[1] > 0) & (expected[1] > 0)
    assert np.abs(turned[0] - expected[0])[inside].max() < 1e-4


@pytest.mark.parametrize("axis", [0, 1])
def test_a_mirrored_patient_comes_out_mirrored(axis):
    image, mask = native(scan(0.8))
    one, label, _ = crop(image, mask)
    mirrored, mirrored_label, _ = crop(np.flip(image, axis), np.flip(mask, axis))
    assert dice(mirrored_label[::-1], label) > 0.999
    inside = (label > 0) & (mirrored_label[::-1] > 0)
    assert np.abs(mirrored[::-1] - one)[inside].max() < 1e-4
    assert np.abs(mirrored - one).max() > 0.5


@pytest.mark.parametrize("angle", [0, *ANGLES])
def test_the_anterior_wall_is_up_whatever_the_rotation(angle):
    image, _, _ = crop(*native(scan(angle)))
    row, column = np.unravel_index(image.argmax(), image.shape)
    assert row < 63.5 - 15
    assert abs(column - 63.5) < 20


def test_pixels_that_are_not_square_do_not_shear_the_heart():
    one = replace(scan(0.9), shape=(300, 190), spacing_mm=(1.0, 1.6, 10.0))
    _, label, _ = crop(*native(one), one.spacing_mm)
    assert dice(label, UPRIGHT[1]) > 0.92


@pytest.mark.parametrize("spacing", [1.0, 1.3, 2.0])
def test_the_area_of_the_crop_is_that_of_the_native_mask(spacing):
    recipe = Recipe(spacing=spacing, size=round(128 * 1.3 / spacing))
    _, label, item = crop(*native(scan(0.5)), recipe=recipe)
    for name in ("LVEDA", "MEDA", "RVEDA"):
        area = (label == ATTRIBUTES[name].structure).sum() * spacing**2 / 100
        # nearest neighbour keeps areas but for pixels on the boundary
        assert area == pytest.approx(item["attributes"][name], rel=0.03)


def test_a_heart_without_direction_is_refused():
    label = np.zeros((40, 40), np.uint8)
    label[18:23, 18:23] = Structure.LV
    label[[10, 30], 20] = label[20, [10, 30]] = Structure.RV
    with pytest.raises(DataError, match="the same barycentre; the slice has no orientation"):
        heart_axes(label, (1.0, 1.0))


# One interpolation --------------------------------------------------------------------------------


def poses(number):
    """Poses that keep the crop inside a native slice of 90 x 80 pixels."""
    rng = np.random.default_rng(5)
    for _ in range(number):
        angle = rng.uniform(-np.pi, np.pi)
        axes = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        native_mm = tuple(rng.uniform(0.9, 1.6, 2))
        yield axes, np.multiply((44.5, 39.5), native_mm), native_mm, rng.uniform(0.5, 1.0), 40


@pytest.mark.parametrize(("order", "how"), [(1, "bilinear"), (0, "nearest")])
def test_sampling_equals_that_of_scipy(order, how):
    plane = np.random.default_rng(0).uniform(0, 1, (90, 80))
    for axes, centre, native_mm, spacing, size in poses(20):
        matrix = (axes * spacing / np.array(native_mm)[:, None])[:, ::-1]  # (row, column) -> (i, j)
        offset = centre / native_mm - matrix @ np.full(2, (size - 1) / 2)
        expected = affine_transform(plane, matrix, offset, (size, size), order=order)
        points = crop_points(axes, centre, native_mm, spacing, size)
        assert sample(plane, relative(points, plane.shape), how) == pytest.approx(
            expected, abs=1e-4
        )


def test_sampling_equals_that_of_itk_up_to_the_border():
    sitk = pytest.importorskip("SimpleITK")
    plane = np.random.default_rng(1).integers(1, 200, (30, 24)).astype(np.float32)
    methods = ((sitk.sitkLinear, "bilinear"), (sitk.sitkNearestNeighbor, "nearest"))
    for axes, _, native_mm, spacing, size in poses(20):
        centre, spacing = np.multiply((14.5, 11.5), native_mm), 2 * spacing
        matrix = axes * spacing / np.array(native_mm)[:, None]
        offset = centre / native_mm - matrix @ np.full(2, (size - 1) / 2)
        transform = sitk.AffineTransform(matrix.ravel().tolist(), offset.tolist())
        image = sitk.GetImageFromArray(np.ascontiguousarray(plane.T))
        for itk, how in methods:
            expected = sitk.Resample(image, (size, size), transform, itk)
            points = crop_points(axes, centre, native_mm, spacing, size)
            sampled, (i, j) = sample(plane, relative(points, plane.shape), how), points
            fades = (np.minimum(i, j) < 0) | (i > 29) | (j > 23)  # ITK repeats half a pixel there
            fades &= (np.minimum(i, j) > -1) & (i < 30) & (j < 24)
            error = np.abs(sampled - sitk.GetArrayFromImage(expected))
            assert error[~fades].max() < 1e-3
            assert (sampled == 0).any()
            assert (sampled > 0).any()


def test_the_identity_pose_returns_the_pixels_of_the_input():
    plane = np.random.default_rng(2).uniform(0, 1, (16, 16)).astype(np.float32)
    points = crop_points(np.eye(2), np.full(2, 7.5 * 1.3), (1.3, 1.3), 1.3, 16)
    assert points == pytest.approx(np.indices((16, 16))[::-1], abs=1e-12)
    points = points.round()
    for how in ("bilinear", "nearest"):
        assert (
            sample(plane, relative(points, plane.shape), how) == plane.T
        ).all()  # rows of a crop run along j


def test_image_and_mask_are_each_interpolated_once(monkeypatch):
    calls = []
    monkeypatch.setattr(transforms, "sample", lambda *a: calls.append(a[2]) or sample(*a))
    crop(*native(scan(0.3)))
    assert calls == ["bilinear", "nearest"]


def test_what_lies_outside_the_crop_is_counted_pixel_by_pixel():
    rng = np.random.default_rng(6)
    for axes, centre, native_mm, _, _ in poses(20):
        label = (rng.random((90, 80)) < 0.01).astype(np.uint8)
        places = np.abs((np.argwhere(label) * native_mm - centre) @ axes).max(axis=1)
        share, needed = cut_off(label, axes, centre, native_mm, field_mm := rng.uniform(60, 160))
        assert share == (places > field_mm / 2).mean()
        assert needed == pytest.approx(2 * places.max() + max(native_mm))


def test_nearest_neighbour_makes_no_new_labels():
    _, mask = native(scan())
    labels = {int(v) for angle in ANGLES for v in np.unique(crop(*native(scan(angle)))[1])}
    assert labels == set(np.unique(mask).tolist()) == {s.value for s in Structure}


# Labels -------------------------------------------------------------------------------------------


def canonical(raw, numbers):
    record = replace(RECORD, label_numbers=numbers)
    return ToCanonicalLabelsd(Keys.LABEL)({"record": record, Keys.LABEL: raw})[Keys.LABEL]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32, np.float64])
def test_acdc_and_mnms_masks_of_one_heart_become_the_same(dtype):
    mask, read = scan(0.7).mask(0), {}
    for name, raw in RAW_LABELS.items():
        numbers = np.array([raw.get(s, 0) for s in Structure])
        read[name] = canonical(numbers[mask].astype(dtype), load_manifest(name).labels)
        assert read[name].dtype == np.uint8
        assert (read[name] == mask).all()
    assert (numbers[mask] == mask).all()  # the package's numbers are those of M&Ms


def test_numbers_above_a_byte_and_several_for_one_structure_are_accepted():
    raw = np.array([[[0, 500, 205, 600, 420]]], np.int16)
    numbers = {0: 0, 500: 1, 205: 2, 600: 3, 420: 0}
    assert canonical(raw, {n: Structure(s) for n, s in numbers.items()}).tolist() == [
        [[0, 1, 2, 3, 0]]
    ]


@pytest.mark.parametrize(
    ("value", "dtype", "told"),
    [
        (4, np.uint8, "4"),
        (-1, np.int16, "-1"),
        (257, np.int16, "257"),
        (2.5, np.float32, "2.5"),
        (2.9999, np.float32, "2.9999"),
        (np.nan, np.float64, "nan"),
    ],
)
def test_an_unknown_label_is_refused_by_value_and_file(value, dtype, told):
    raw = scan().mask(0).astype(dtype)
    raw[3, 4, 1] = value
    message = f"^p1_gt.nii.gz holds label {told}; expected 0 BACKGROUND, 1 LV, 2 MYO, 3 RV$"
    with pytest.raises(DataError, match=message):
        canonical(raw, RECORD.label_numbers)


def test_zero_may_be_the_number_of_a_structure():
    numbers = {0: Structure.RV, 1: Structure.BACKGROUND, 2: Structure.MYO, 3: Structure.LV}
    raw = np.array([[[0, 1, 2, 3], [1, 1, 1, 0]]], np.uint8)
    assert canonical(raw, numbers).tolist() == [[[3, 0, 2, 1], [0, 0, 0, 3]]]


def test_an_empty_mask_is_refused():
    with pytest.raises(DataError, match=r"p1_gt.nii.gz is empty at ED: no mask to use"):
        canonical(np.zeros((4, 4, 2), np.uint8), RECORD.label_numbers)


# Slices -------------------------------------------------------------------------------------------

COUNTS = np.array(
    [
        [0, 0, 0, 90],
        [0, 300, 200, 10],  # not more than ten pixels of the RV
        [0, 290, 210, 400],
        [0, 280, 260, 420],
        [0, 150, 120, 200],
        [0, 60, 80, 50],
        [0, 12, 40, 0],
    ]
)


def counted(counts):
    """What `MeasureHeart` adds of a mask, a line of pixels in each slice, with these counts."""
    width = int(counts.sum(axis=1).max())
    rows = [np.pad(np.repeat(list(Structure), row), (0, width - row.sum())) for row in counts]
    return {"counts": counts, "mask": np.stack(rows, axis=-1)[None]}


@pytest.mark.parametrize("base_first", [True, False])
@pytest.mark.parametrize(
    ("slice", "chosen"), [("basal", [2]), ("mid", [4]), ("max-area", [3]), ("all", [2, 3, 4, 5])]
)
def test_slices_are_chosen_alike_in_both_orders(slice, chosen, base_first):
    counts = COUNTS if base_first else COUNTS[::-1]
    where = chosen if base_first else sorted(len(COUNTS) - 1 - i for i in chosen)
    items = SelectSlices(slice)(counted(counts) | {"spacing": (1.0, 1.0, 5.0)})
    assert [item["slice_index"] for item in items] == where
    for item, index in zip(items, where, strict=True):
        assert item["attributes"]["LVEDA"] == pytest.approx(counts[index, Structure.LV] / 100)
        assert item["attributes"]["RVEDV"] == pytest.approx(COUNTS[:, Structure.RV].sum() / 200)


def test_every_choice_is_one_of_the_usable_slices():
    assert usable_slices(COUNTS) == [2, 3, 4, 5]
    assert usable_slices(COUNTS[::-1]) == [4, 3, 2, 1]
    partly = COUNTS.copy()
    partly[2, Structure.RV] = 0.7 * partly[3, Structure.RV]
    for counts, slices in ((partly, [2, 3, 4, 5]), (partly[::-1], [4, 3, 2, 1])):
        assert usable_slices(counts) == slices
        assert usable_slices(counts, predicted=True) == slices[1:]
    assert usable_slices(COUNTS, predicted=True) == [2, 3, 4, 5]
    assert usable_slices(COUNTS, least_pixels=9) == [1, 2, 3, 4, 5]
    for slice in SLICES:
        items = SelectSlices(slice)(counted(COUNTS) | {"spacing": (1, 1, 1)})
        assert {item["slice_index"] for item in items} <= {2, 3, 4, 5}


def test_a_heart_without_a_usable_slice_is_refused_with_what_it_shows():
    counts = COUNTS.copy()
    counts[:, Structure.RV] = 0
    with pytest.raises(DataError, match=r"more than 10 pixels each.*most: LV 300, MYO 260, RV 0"):
        usable_slices(counts)


def test_the_box_around_the_heart_loses_no_voxel_of_it():
    mask = scan(0.4).mask(0)
    out = MeasureHeart()({Keys.LABEL: mask})
    assert (out["counts"] == pixel_counts(out["mask"])).all()
    assert (out["counts"][:, HEART] == pixel_counts(mask)[:, HEART]).all()
    edges = out["mask"][0], out["mask"][-1], out["mask"][:, 0], out["mask"][:, -1]
    assert all(edge.any() for edge in edges)


# Intensities --------------------------------------------------------------------------------------


def test_the_crop_is_zero_outside_the_mask_and_between_zero_and_one_inside():
    for item in crops(*native(scan(0.2)), slice="all"):
        image, label = np.asarray(item[Keys.IMAGE]), np.asarray(item[Keys.LABEL])
        assert (image[label == 0] == 0).all()
        assert image.min() == 0
        assert image.max() == 1
        assert image.shape == label.shape == (1, 128, 128)


@pytest.mark.parametrize("percentiles", [(1.0, 99.0), (0.0, 100.0), (5.0, 80.0)])
def test_the_percentiles_inside_the_mask_become_zero_and_one(percentiles):
    rng = np.random.default_rng(3)
    image, label = rng.normal(500, 80, (1, 50, 50)), rng.integers(0, 2, (1, 50, 50))
    data = {Keys.IMAGE: image, Keys.LABEL: label}
    scaled = ScaleIntensityInMaskd(Keys.IMAGE, Keys.LABEL, percentiles)(data)[Keys.IMAGE]
    inside = label > 0
    low, high = np.percentile(image[inside], percentiles)
    within = inside & (image >= low) & (image <= high)
    assert scaled[within] == pytest.approx((image[within] - low) / (high - low))
    assert (scaled[inside & (image <= low)] == 0).all()
    assert (scaled[inside & (image >= high)] == 1).all()
    count = inside.sum()
    assert (scaled[inside] == 0).sum() == pytest.approx(percentiles[0] / 100 * count, abs=1.5)


@pytest.mark.parametrize(("gain", "offset"), [(3.0, 0.0), (0.01, 5.0), (1.0, -2000.0)])
def test_gain_and_offset_of_the_scanner_do_not_show_in_the_crop(gain, offset):
    image, mask = native(scan(0.6))
    assert crop(gain * image + offset, mask)[0] == pytest.approx(crop(image, mask)[0], abs=1e-4)


def test_what_lies_outside_the_mask_does_not_show_in_the_crop():
    image, mask = native(scan(0.6))
    _, label, _ = crop(image, mask)
    bright = image.copy()
    # Linear interpolation reaches one native pixel over the edge of the mask, no further.
    reached = np.zeros(mask.shape, bool)
    for i in range(-2, 3):
        for j in range(-2, 3):
            reached |= np.roll(mask > 0, (i, j), axis=(0, 1))
    bright[~reached] = 30_000
    assert (crop(bright, mask)[0] == crop(image, mask)[0]).all()


def test_an_image_without_contrast_in_the_mask_is_refused():
    image, mask = native(scan())
    image[mask > 0] = 7
    for i in range(-2, 3):
        for j in range(-2, 3):
            image[np.roll(mask > 0, (i, j), axis=(0, 1))] = 7
    with pytest.raises(RuntimeError) as error:  # MONAI's Compose wraps what a transform raises
        crop(image, mask)
    cause = error.value
    while cause.__cause__:
        cause = cause.__cause__
    assert str(cause) == "the image is 7 throughout the mask; expected contrast"


def test_attributes_do_not_depend_on_the_crop():
    _, _, one = crop(*native(scan(0.6)))
    _, _, other = crop(
        *native(scan(0.6)), spacing=(1.5, 1.5, 10.0), recipe=Recipe("basal", 2.0, 64)
    )
    assert one["attributes"] == pytest.approx(other["attributes"], rel=0, abs=0, nan_ok=True)


# Reading ------------------------------------------------------------------------------------------


def write(file, voxels, spacing_mm=(1.5, 1.5, 10.0)):
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([*spacing_mm, 1.0])), file)
    return file


def read(image, mask, frame=0):
    record = replace(RECORD, image=image, mask=mask, frame=frame)
    return ReadPhased(BOTH)({"record": record})


def test_a_cine_is_read_at_its_frame_alone(tmp_path):
    image, mask = native(scan())
    cine = np.full((*image.shape, 4), np.nan, np.float32)
    labels = np.full((*mask.shape, 4), 99, np.uint8)
    cine[..., 2], labels[..., 2] = image, mask
    files = write(tmp_path / "x.nii.gz", cine), write(tmp_path / "y.nii.gz", labels)
    out = read(*files, frame=2)
    assert (out[Keys.IMAGE] == image).all()
    assert (out[Keys.LABEL] == mask).all()
    assert out["spacing"] == (1.5, 1.5, 10.0)
    with pytest.raises(DataError, match=r"x.nii.gz holds NaN or infinite values"):
        read(*files, frame=1)


def test_the_frame_of_acdc_is_the_one_that_info_cfg_states(acdc_tree):
    frames = {}
    for record in find_cases(load_manifest("acdc"), acdc_tree).records:
        frames[record.case] = record.frame
        assert f"frame{record.frame + 1:02d}" in record.image.name
        text = (record.image.parent / "Info.cfg").read_text()
        assert f"ED: {record.frame + 1}\n" in text
        assert read(record.image, record.mask)[Keys.LABEL].any()
    assert sorted(set(frames.values())) == [0, 3]


def test_shapes_that_differ_are_refused(tmp_path):
    image, mask = native(scan())
    files = write(tmp_path / "x.nii.gz", image), write(tmp_path / "y.nii.gz", mask[:, :, 1:])
    with pytest.raises(DataError, match=r"image has shape \(200, 210, \d+\) and mask \(200"):
        read(*files)


# The recipe ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"slice": "apical"}, "slice is 'apical'; expected one of basal, mid, max-area, all"),
        ({"spacing": 0}, "spacing is 0 mm; expected 0.1 to 10"),
        ({"spacing": float("nan")}, "spacing is nan mm"),
        ({"size": 8}, "size is 8 pixels; expected 16 to 1024"),
    ],
)
def test_an_impossible_recipe_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**changes)


def test_a_crop_of_another_size_has_the_same_centre():
    _, label, _ = crop(*native(scan(0.3)), size=100)
    _, whole, _ = crop(*native(scan(0.3)), size=128)
    assert (label == whole[14:-14, 14:-14]).all()


# Alone, in a Compose of MONAI ---------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    """Image, and mask with the labels of ACDC, as MONAI's LoadImaged takes them."""
    image, mask = native(scan(0.4))
    raw = np.array([0, 3, 2, 1], np.uint8)[mask]
    return {
        Keys.IMAGE.value: write(tmp_path / "image.nii.gz", image),
        Keys.LABEL.value: write(tmp_path / "mask.nii.gz", raw),
    }


def test_the_transforms_work_in_a_plain_compose_on_channel_first_tensors(files):
    numbers = {0: Structure.BACKGROUND, 1: Structure.RV, 2: Structure.MYO, 3: Structure.LV}
    warnings.filterwarnings("ignore", "NvImgCodec")  # MONAI tries every reader that it has
    plain = Compose(
        [
            LoadImaged(BOTH, reader=NibabelReader, ensure_channel_first=True),
            ToCanonicalLabelsd(Keys.LABEL, numbers),
            MeasureHeart(),
            SelectSlices("basal"),
            AlignHeartd(BOTH, 1.3, 128),
            ScaleIntensityInMaskd(Keys.IMAGE, Keys.LABEL, (1.0, 99.0)),
        ]
    )
    (item,) = plain(files)
    image, label, expected = crop(*native(scan(0.4)))
    assert all(isinstance(item[key], torch.Tensor) for key in BOTH)
    assert item[Keys.IMAGE].shape == (1, 128, 128)
    assert (item[Keys.LABEL][0].numpy() == label).all()
    assert item[Keys.IMAGE][0].numpy() == pytest.approx(image, abs=1e-6)
    assert item["attributes"].keys() == ATTRIBUTES.keys()  # a store has those of its columns
    stored = {name: item["attributes"][name] for name in names_at([Phase.ED])}
    assert expected["attributes"] == pytest.approx(stored)


def test_a_slice_alone_is_aligned_as_its_stack_is(files):
    image, mask = native(scan(0.4))
    index = int(pixel_counts(mask)[:, HEART].sum(axis=1).argmax())
    data = {"spacing": (1.5, 1.5)} | {
        key: torch.from_numpy(voxels[..., index][None])
        for key, voxels in zip(BOTH, (image, mask), strict=True)
    }
    one = AlignHeartd(BOTH, 1.3, 96)(data)
    other = AlignHeartd(BOTH, 1.3, 96)(
        {Keys.IMAGE: image, Keys.LABEL: mask, "slice_index": index, "spacing": (1.5, 1.5, 10)}
    )
    for key in BOTH:
        assert (one[key].numpy() == other[key]).all()
    assert one["rotation_deg"] == other["rotation_deg"]


MISUSE = {
    "an empty mask": ({Keys.LABEL: torch.zeros(1, 9, 9)}, "the slice shows no LV; expected LV"),
    "no RV": ({Keys.LABEL: torch.ones(1, 9, 9)}, "the slice shows no RV; expected LV, MYO and RV"),
    "a stack without an index": ({Keys.LABEL: torch.ones(1, 9, 9, 4)}, r"label has shape .*, 4"),
    "no spacing": ({"spacing": None}, "the spacing of label is unknown; expected 'spacing'"),
}


@pytest.mark.parametrize("name", MISUSE)
def test_misuse_of_the_alignment_is_said_in_a_sentence(name):
    changes, message = MISUSE[name]
    data = {"spacing": (1.5, 1.5), **{key: torch.ones(1, 9, 9) for key in BOTH}, **changes}
    data = {key: value for key, value in data.items() if value is not None}
    with pytest.raises(DataError, match=message):
        AlignHeartd(BOTH, 1.3, 32)(data)


def test_an_empty_mask_gives_no_picture_of_nan():
    data = {Keys.IMAGE: torch.rand(1, 8, 8), Keys.LABEL: torch.zeros(1, 8, 8)}
    with pytest.raises(DataError, match="label is empty; expected pixels of the heart"):
        ScaleIntensityInMaskd(Keys.IMAGE, Keys.LABEL, (1.0, 99.0))(data)
    with pytest.raises(DataError, match="label is empty: no mask to use"):
        MeasureHeart()({Keys.LABEL: torch.zeros(1, 8, 8, 3)})
    with pytest.raises(DataError, match="label is empty: no mask to use"):
        ToCanonicalLabelsd(Keys.LABEL, {0: Structure.BACKGROUND})(data)
