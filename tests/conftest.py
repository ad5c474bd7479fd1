"""Phantom trees and their slice stores, made once for the whole run, and where real data are."""

import functools
import os
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores: one thread each
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest

from cardiac_attrivae.data import phantom
from cardiac_attrivae.data.manifest import load_manifest
from cardiac_attrivae.data.phantom import write_phantoms
from cardiac_attrivae.data.scanner import pictures
from cardiac_attrivae.schema import Structure


def store_of(dataset, source, output, slice):
    from cardiac_attrivae.data.preprocess import preprocess
    from cardiac_attrivae.data.recipe import Recipe

    preprocess(load_manifest(dataset), source, output, Recipe(slice=slice))
    return output


def trained(store, folder, *changes, pipeline="attri_vae_unguided", seed=0, guide=None):
    """A run of three steps without pictures, which take longer than these."""
    from cardiac_attrivae.data.store import SliceDataset
    from cardiac_attrivae.training.config import load_pipeline
    from cardiac_attrivae.training.records import Records
    from cardiac_attrivae.training.workflow import TrainingWorkflow

    data = SliceDataset.open(store)
    short = ("schedule.epochs=1", "schedule.steps_per_epoch=3", "data.batch_size=8")
    workflow = TrainingWorkflow(
        load_pipeline(pipeline, (*short, *changes)), data.split("train"), data.split("val"),
        folder, device="cpu", seed=seed, guide=guide,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Records, "draw", lambda self: None)
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    return folder


@pytest.fixture(scope="session", autouse=True)
def phantoms_are_painted_once():
    """Many modules write the same patients, and painting them takes most of that."""
    paint = functools.lru_cache(48)(lambda scan, frames: pictures(scan, [*frames]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phantom, "pictures", lambda scan, frames: paint(scan, (*frames,)))
        yield


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk():
    """No test outlives a power cut, and thousands of files would be waited for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda opened: None)
        yield


def quick_guide(train, output, device):
    """A guide that was not trained: it need not see anything, and leaves no file."""
    from cardiac_attrivae.segmentation.guide import KIND, build_guide
    from cardiac_attrivae.training.guidance import Guide

    return Guide(build_guide(0, device), KIND, train.fingerprints())


def check_one_call_at_a_time(first, second, output, monkeypatch):
    """Checks that a kill before any file of the second of two calls leaves those of one of them.

    Files with a name of their own for each content, which both may use, do not count.
    """
    import hashlib

    from cardiac_attrivae.runtime import files
    from cardiac_attrivae.runtime.folders import LOCK, MARKER

    def content():
        found = ((path, path.relative_to(output)) for path in output.rglob("*") if path.is_file())
        return {
            (name.as_posix(), hashlib.sha256(path.read_bytes()).hexdigest())
            for path, name in found
            if name.parts[0] not in ("parts", "segmenters", MARKER, LOCK)
            and not files.PART.fullmatch(name.name)
        }

    def renamed(*paths):
        seen.append(content())
        real(*paths)

    first(output=output)
    old, seen, real = content(), [], files._patiently
    monkeypatch.setattr(files, "_patiently", renamed)
    second(output=output)
    new = content()
    assert new - old
    assert len(seen) >= len(new)
    for before in seen:
        assert before <= old or before <= new


def masks_apart(tree, manifest, folder, cases=None):
    """Moves masks out of a tree, canonical and named as their scans; returns the new tree."""
    import shutil

    import nibabel

    from cardiac_attrivae.data.cases import find_cases

    tree = shutil.copytree(tree, folder / "tree")
    (folder / "masks").mkdir()
    for record in find_cases(manifest, tree).records:
        if cases is None or record.case in cases:
            stored = nibabel.load(record.mask)
            raw = np.asarray(stored.dataobj).round()
            canonical = sum((raw == n) * np.uint8(s) for n, s in record.label_numbers.items())
            image = nibabel.Nifti1Image(canonical.astype(np.uint8), stored.affine, stored.header)
            nibabel.save(image, folder / "masks" / record.image.name)
            record.mask.unlink()
    return tree


@pytest.fixture(scope="session")
def acdc_tree(tmp_path_factory):
    """Nine ACDC phantoms (train, val and test); the fourth has its ED in frame 4."""
    root = tmp_path_factory.mktemp("trees") / "acdc"
    write_phantoms("acdc", root, cases=9, cine=False)
    return root


@pytest.fixture(scope="session")
def mnms_tree(tmp_path_factory):
    """Eight M&Ms phantoms of vendors A, B and C (train, val and test), one without labels."""
    root = tmp_path_factory.mktemp("trees") / "mnms"
    write_phantoms("mnms", root, cases=8, cine=False)
    return root


@pytest.fixture(scope="session")
def acdc_store(acdc_tree, tmp_path_factory):
    """Slice store of the ACDC phantoms, the basal slice of each."""
    return store_of("acdc", acdc_tree, tmp_path_factory.mktemp("stores") / "acdc", "basal")


@pytest.fixture(scope="session")
def acdc_store_all(acdc_tree, tmp_path_factory):
    """Slice store of the ACDC phantoms, every usable slice."""
    return store_of("acdc", acdc_tree, tmp_path_factory.mktemp("stores") / "acdc_all", "all")


@pytest.fixture(scope="session")
def mnms_store_all(mnms_tree, tmp_path_factory):
    """Slice store of the M&Ms phantoms, every usable slice."""
    return store_of("mnms", mnms_tree, tmp_path_factory.mktemp("stores") / "mnms_all", "all")


@pytest.fixture
def no_pictures(monkeypatch):
    """Pictures of a run and of an evaluation take long, and are looked at elsewhere."""
    from cardiac_attrivae.evaluation import cross_domain
    from cardiac_attrivae.training.records import Records

    monkeypatch.setattr(Records, "draw", lambda self: None)
    monkeypatch.setattr(cross_domain, "draw_gallery", lambda *rest: [])


@pytest.fixture(scope="module")
def hasty_segmenters():
    """Segmenters of a few steps, where it is not asked what they see."""
    from functools import partial

    from cardiac_attrivae.segmentation import guide, judge

    hasty = partial(judge.Training, steps=2, batch_size=4)
    with pytest.MonkeyPatch.context() as patch:
        for module in (guide, judge):
            patch.setattr(module, "Training", hasty)
        yield


@pytest.fixture(scope="session")
def real_data():
    """Folder that holds the real acdc/ and mnms/."""
    folder = os.environ.get("CARDIAC_ATTRIVAE_DATA")
    if not folder:
        pytest.skip("set CARDIAC_ATTRIVAE_DATA to a folder that holds acdc/ and mnms/")
    return Path(folder)


def heart(size, cavity, wall, right, centre=(0.0, 0.0)):
    """Canonical labels (size, size) of a ring around a disc and the rest of a disc beside it.

    Radii in pixels; ``centre`` of the ring is (x, y) from the centre of the crop.
    """
    axis = np.arange(size) - (size - 1) / 2
    x, y = axis[None] - centre[0], axis[:, None] - centre[1]
    label = np.zeros((size, size), np.uint8)
    label[np.hypot(x + cavity + wall + right / 2, y) < right] = Structure.RV
    label[np.hypot(x, y) < cavity + wall] = Structure.MYO
    label[np.hypot(x, y) < cavity] = Structure.LV
    return label


def slices_of(patients, folder):
    """A dataset in memory, of 1 mm pixels and 8 mm slices; only masks.npz lies in the folder.

    Args:
        patients: Label slices (H, W) of each patient, base first.
        folder: Where masks.npz is written.
    """
    import pandas as pd
    import torch

    from cardiac_attrivae.attributes import measure, names_at
    from cardiac_attrivae.data.store import SliceDataset
    from cardiac_attrivae.heart import Outlines
    from cardiac_attrivae.schema import Phase

    random, spacing = np.random.default_rng(0), (1.0, 1.0, 8.0)
    masks, rows, images, labels = {}, [], [], []
    for number, stack in enumerate(patients):
        case = f"patient{number:03d}"
        masks[case] = np.stack(stack, axis=-1)
        for index, label in enumerate(stack):
            bright = np.array([0, 0.8, 0.3, 0.7])[label] + random.normal(0, 0.03, label.shape)
            images.append(np.clip(bright, 0, 1) * (label > 0))
            labels.append(label)
            rows.append(
                {"case": case, "dataset": "drawn", "split": "train", "slice_index": index}
                | {"pathology": ("NOR", "DCM")[number % 2]}
                | dict(zip(("spacing_x_mm", "spacing_y_mm", "spacing_z_mm"), spacing, strict=True))
                | measure({Phase.ED: Outlines(masks[case], spacing, index)}, names_at([Phase.ED]))
            )
    np.savez(folder / "masks.npz", **masks)
    recipe = {"size": len(labels[0]), "spacing": 1.0, "percentiles": [1, 99]}
    info = {"dataset": "drawn", "recipe": recipe, "content_hash": "none"}
    images = torch.as_tensor(np.stack(images)[:, None], dtype=torch.float32)
    labels = torch.as_tensor(np.stack(labels)[:, None])
    return SliceDataset(images, labels, pd.DataFrame(rows), info, folder)


@pytest.fixture(scope="session")
def drawn_slices(tmp_path_factory):
    """Twelve patients of two slices, 32 x 32; take a part of it before changing anything."""
    random = np.random.default_rng(1)
    patients = []
    for _ in range(12):
        cavity, wall, right = random.uniform((4, 2, 4), (6, 4, 6))
        centre = (4 + random.uniform(-1, 1), random.uniform(-1, 1))
        base, apex = (heart(32, cavity * part, wall, right * part, centre) for part in (1, 0.7))
        patients.append([base, apex])
    return slices_of(patients, tmp_path_factory.mktemp("drawn"))
