"""The segmenter that comes with the package: its card belongs to it, and it outlines hearts."""

from dataclasses import replace

import numpy as np
import pytest

from cardiac_attrivae.data.cases import find_cases
from cardiac_attrivae.data.images import read_image
from cardiac_attrivae.data.manifest import load_manifest
from cardiac_attrivae.data.nifti import read_mask
from cardiac_attrivae.data.scanner import ACDC_SCANNER, draw_scan, pictures
from cardiac_attrivae.metrics.images import dice
from cardiac_attrivae.runtime.provenance import digest
from cardiac_attrivae.runtime.shipped_models import PRETRAINED
from cardiac_attrivae.runtime.weights import read_weights
from cardiac_attrivae.segmentation.scans import load_segmenter, shipped_segmenters


@pytest.mark.parametrize("name", shipped_segmenters())
def test_card_and_weights_belong_together(name):
    folder = PRETRAINED / name / "segmenter"
    card = (folder / "README.md").read_text(encoding="utf-8")
    file = folder / "model.safetensors"
    weights, about = read_weights(file)
    assert f"SHA-256 `{digest(file)}`" in card
    assert load_manifest(name).licence in card
    assert about["citation"] in card
    assert about["citation"] == load_manifest(name).citation
    count = sum(values.numel() for values in weights.values() if values.is_floating_point())
    assert f"{count:,} weights in float16" in card
    assert file.stat().st_size < 4e6
    assert {path.name for path in folder.iterdir()} == {"README.md", "model.safetensors"}


def test_it_outlines_a_phantom_that_has_no_mask():
    scan = draw_scan("acdc", "patient001", "NOR", ACDC_SCANNER, frames=12, seed=0)
    scan = replace(scan, z_mm=scan.z_mm[1:7:2])
    found = load_segmenter("acdc").segment(pictures(scan, [0])[..., 0], scan.spacing_mm)
    assert dice(found.labels[None], scan.mask(0)[None]).min() > 0.8
    assert set(found.predicted_dice) == {1, 2, 3}


@pytest.mark.realdata
@pytest.mark.parametrize(("dataset", "trained"), [("acdc", True), ("mnms", False)])
def test_it_says_which_patients_it_was_trained_on(dataset, trained, real_data):
    (known,) = load_segmenter("acdc").known
    for phase in ("ED", "ES"):
        for record in find_cases(load_manifest(dataset), real_data / dataset, phase).records[:2]:
            image = read_image(record.image, record.frame)
            assert known.holds(image.voxels, image.spacing_mm) == trained


@pytest.mark.realdata
def test_it_outlines_a_patient_of_scanners_it_has_never_seen(real_data):
    record = find_cases(load_manifest("mnms"), real_data / "mnms").records[0]
    image, mask = read_image(record.image, record.frame), read_mask(record.mask, record.frame)
    found = load_segmenter("acdc").segment(np.float32(image.voxels), image.spacing_mm)
    lv, myo, rv = dice(found.labels[None], mask.voxels[None])[0]  # M&Ms has canonical numbers
    assert lv > 0.9
    assert myo > 0.75
    assert rv > 0.8
