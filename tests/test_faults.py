"""No file that the package reads, however damaged, ends in a traceback or a wrong number.

The table is in faults.py. ``CARDIAC_ATTRIVAE_FUZZ=20`` tries twenty times as many random damages.
"""

import gzip
import os
import shutil
import sys
from contextlib import suppress

import faults
import numpy as np
import pandas as pd
import pytest
import torch
from faults import ACCEPTED
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cardiac_attrivae.data.cases import find_cases
from cardiac_attrivae.data.check import check_dataset
from cardiac_attrivae.data.manifest import load_manifest, parse_manifest
from cardiac_attrivae.data.nifti import read_mask, read_volume
from cardiac_attrivae.data.preprocess import preprocess
from cardiac_attrivae.data.store import SliceDataset, content_hash
from cardiac_attrivae.models.networks import build_network
from cardiac_attrivae.runtime.files import read_json
from cardiac_attrivae.runtime.weights import write_weights
from cardiac_attrivae.schema import DataError
from cardiac_attrivae.training.config import load_pipeline, parse_pipeline
from cardiac_attrivae.training.run import load_run
from cardiac_attrivae.training.verify import verify_run
from cardiac_attrivae.training.workflow import TrainingWorkflow

MORE = int(os.environ.get("CARDIAC_ATTRIVAE_FUZZ", 1))
OWN = parse_manifest(faults.OWN, "own")
PIPELINE = {"method": "mine", "attributes": ["LVEDV"]}


# Files of a case ----------------------------------------------------------------------------------

CASES = {
    f"{kind}: {name}": (f"{kind}.nii.gz", *fault)
    for kind, table in (("image", faults.IMAGE), ("mask", faults.MASK))
    for name, fault in table.items()
}
FOLDERS = {name: f"p{n:02d}" for n, name in enumerate([*CASES, *faults.NOTED])}


@pytest.fixture(scope="module")
def ward(tmp_path_factory):
    """One sound case and one of each fault, preprocessed and checked in one go."""
    root = tmp_path_factory.mktemp("ward") / "own"
    for folder in ("sound", *FOLDERS.values()):
        faults.save(root / "a" / folder / "image.nii.gz", faults.picture())
        faults.save(root / "a" / folder / "mask.nii.gz", faults.heart())
    for name, (file, damage, _) in CASES.items():
        damage(root / "a" / FOLDERS[name] / file)
    for name, (damage, _) in faults.NOTED.items():
        damage(root / "a" / FOLDERS[name] / "mask.nii.gz")
    summary = preprocess(OWN, root, root.parent / "store")
    report = check_dataset(OWN, root)
    return summary, SliceDataset.open(root.parent / "store"), report


def told(findings):
    return {(finding.what, case): detail for finding in findings for case, detail in finding.cases}


@pytest.mark.parametrize("name", CASES)
def test_a_damaged_case_is_skipped_with_a_reason_or_equal_to_the_sound_one(ward, name):
    summary, store, report = ward
    case, outcome = FOLDERS[name], CASES[name][2]
    problems = {c: f"{what}: {detail}" for (what, c), detail in told(report.problems).items()}
    if outcome is not ACCEPTED:
        reason = dict(summary.skipped)[case]
        assert reason.startswith(outcome)
        assert not {"/", "\n"} & set(reason.replace("gzip/", ""))  # no path of this machine
        unlabelled = any(c == case and "no mask" in what for what, c in told(report.problems))
        assert case in problems or unlabelled or "no slice shows" in reason
        return
    assert case not in problems
    sound, own = (store.cases["case"].tolist().index(c) for c in ("sound", case))
    torch.testing.assert_close(store.images[own], store.images[sound], rtol=0, atol=1e-6)
    assert torch.equal(store.labels[own], store.labels[sound])
    names = ["LVEDV", "MEDV", "RVEDV", "LVEDA"]
    values = store.attributes(names)
    assert (values[own] == values[sound]).all()


@pytest.mark.parametrize("name", faults.NOTED)
def test_what_makes_a_mask_doubtful_is_noted_by_check(ward, name):
    _, store, report = ward
    case, note = FOLDERS[name], faults.NOTED[name][1]
    assert case in set(store.cases["case"])
    doubts = {what for what, c in told(report.notes) if c == case} - {
        "the same scan twice: list it in 'duplicates' of the manifest"
    }
    assert doubts == ({note} if note else set())


def test_no_case_is_lost(ward):
    summary, store, _ = ward
    assert summary.cases + len(summary.skipped) == 1 + len(FOLDERS)
    assert set(store.cases["case"]) | set(dict(summary.skipped)) == {"sound", *FOLDERS.values()}


def test_a_file_that_may_not_be_read_is_told_without_its_path(tmp_path, monkeypatch):
    file = tmp_path / "x.nii.gz"

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr("cardiac_attrivae.data.nifti._open", denied)  # root may read everything
    with pytest.raises(DataError) as error:
        read_volume(file, 0)
    assert str(error.value) == "x.nii.gz cannot be read: x.nii.gz: Permission denied"


def test_links_of_the_data_set_are_followed(tmp_path):
    inside, outside = tmp_path / "source", tmp_path / "outside"
    for case in ("p1", "p2"):
        faults.save(outside / "a" / case / "image.nii.gz", faults.picture())
        faults.save(outside / "a" / case / "mask.nii.gz", faults.heart())
    inside.mkdir()
    (inside / "a").symlink_to(outside / "a")  # the folder of all cases
    assert [record.case for record in find_cases(OWN, inside).records] == ["p1", "p2"]
    (inside / "a").unlink()
    (inside / "a").mkdir()
    (inside / "a" / "p2").symlink_to(outside / "a" / "p2")  # the folder of one case
    assert [record.case for record in find_cases(OWN, inside).records] == ["p2"]
    (tmp_path / "by_link").symlink_to(inside)  # the source itself
    assert len(find_cases(OWN, tmp_path / "by_link").records) == 1
    (inside / "a" / "p3").symlink_to(outside / "nowhere")  # a case that was not fetched
    ((case, reason),) = find_cases(OWN, inside).skipped
    assert case == "p3"
    assert reason.startswith("p3 is a link to a file that is not there")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems forbid such names")
@pytest.mark.parametrize("name", [b"p\xff", b"p\n", b"p\x1b[31m"])
def test_a_case_whose_name_cannot_be_written_is_skipped_and_the_store_is_whole(tmp_path, name):
    for case in (b"ok", name):
        folder = tmp_path / "own" / "a" / os.fsdecode(case)
        faults.save(folder / "image.nii.gz", faults.picture())
        faults.save(folder / "mask.nii.gz", faults.heart())
    summary = preprocess(OWN, tmp_path / "own", tmp_path / "s")
    ((case, reason),) = summary.skipped
    assert reason == "its name holds characters that cannot be printed"
    assert case.isprintable()
    assert len(SliceDataset.open(tmp_path / "s")) == 1


# Facts of cases -----------------------------------------------------------------------------------


def outcome_of(manifest, root):
    """What is told, or the record of the one case."""
    try:
        cases = find_cases(manifest, root)
    except DataError as error:
        return str(error)
    return cases.records[0] if cases.records else cases.skipped[0].reason


@pytest.mark.parametrize("name", faults.INFO)
def test_every_info_cfg_is_read_or_its_case_skipped(tmp_path, name):
    data, outcome = faults.INFO[name]
    folder = tmp_path / "training" / "patient001"
    folder.mkdir(parents=True)
    for end in ("", "_gt"):
        (folder / f"patient001_frame01{end}.nii.gz").touch()
    (folder / "Info.cfg").write_bytes(data)
    found = outcome_of(load_manifest("acdc"), tmp_path)
    if outcome is ACCEPTED:
        assert (found.frame, found.pathology) == (0, "NOR")
    else:
        assert found.startswith(outcome)


@pytest.mark.parametrize("name", faults.TABLE)
def test_every_table_is_read_or_told_of(tmp_path, name):
    text, outcome = faults.TABLE[name]
    (tmp_path / "Testing" / "A1").mkdir(parents=True)
    for end in ("", "_gt"):
        (tmp_path / "Testing" / "A1" / f"A1_sa{end}.nii.gz").touch()
    (tmp_path / "info.csv").write_bytes(text.encode())
    found = outcome_of(load_manifest("mnms"), tmp_path)
    if outcome is ACCEPTED:
        assert (found.frame, found.vendor, found.centre, found.pathology) == (0, "GE", "1", "HCM")
    else:
        assert outcome in found


# YAML ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", [load_manifest, load_pipeline])
@pytest.mark.parametrize("name", faults.YAML)
def test_yaml_that_is_not_plain_is_refused(tmp_path, monkeypatch, name, read):
    data, outcome = faults.YAML[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.yaml").write_bytes(data)
    with pytest.raises(ValueError, match="p.yaml|unknown key") as error:
        read("p.yaml")
    assert outcome in str(error.value)
    assert len(str(error.value)) < 2000
    assert os.listdir() == ["p.yaml"]  # no code was run


@pytest.mark.parametrize("name", faults.MANIFEST)
def test_a_manifest_of_wrong_values_is_refused(tmp_path, name):
    changes, outcome = faults.MANIFEST[name]
    (tmp_path / "own.yaml").write_bytes(faults.as_yaml(faults.OWN | changes))
    with pytest.raises(DataError) as error:
        load_manifest(tmp_path / "own.yaml")
    assert outcome in str(error.value)


@pytest.mark.parametrize("name", faults.PIPELINE)
def test_a_pipeline_of_wrong_values_is_refused(tmp_path, monkeypatch, name):
    changes, outcome = faults.PIPELINE[name]
    (tmp_path / "x").mkdir()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.yaml").write_bytes(faults.as_yaml(PIPELINE | changes))
    with pytest.raises(ValueError, match=".") as error:
        load_pipeline("p.yaml")
    assert outcome in str(error.value)


# Slice stores -------------------------------------------------------------------------------------


@pytest.fixture
def store(acdc_store, tmp_path):
    return shutil.copytree(acdc_store, tmp_path / "store")


@pytest.mark.parametrize("name", faults.UNSEALED)
def test_a_store_that_was_changed_is_refused(store, name):
    damage, outcome = faults.UNSEALED[name]
    damage(store)
    with pytest.raises(DataError) as error:
        SliceDataset.open(store)
    assert outcome in str(error.value)


@pytest.mark.parametrize("name", faults.SEALED)
def test_a_store_of_another_form_is_refused_though_its_hash_fits(store, name):
    damage, outcome = faults.SEALED[name]
    damage(store)
    faults.say(store, content_hash=content_hash(store))
    with pytest.raises(DataError) as error:
        SliceDataset.open(store)
    assert outcome in str(error.value)


@pytest.mark.parametrize("name", faults.MASKS)
def test_masks_of_another_form_are_refused_when_something_is_measured(store, name):
    damage, outcome = faults.MASKS[name]
    damage(store)
    faults.say(store, content_hash=content_hash(store))
    with pytest.raises(DataError) as error:
        SliceDataset.open(store).measured(["LVEDV"])
    assert outcome in str(error.value)


# Runs ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that was never trained."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    folder.mkdir()
    network = {"name": "BetaVAE", "arguments": {"image_size": 16, "latent_size": 4}}
    pipeline = parse_pipeline(PIPELINE | {"network": network})
    about = {
        "pipeline": pipeline.to_dict(),
        "seed": 0,
        "train_dataset": "acdc",
        "recipe": {"size": 16, "spacing": 1.3, "percentiles": [1, 99]},
        "code_mean": [0.0] * 4,
        "code_deviation": [1.0] * 4,
    }
    weights = build_network("BetaVAE", **network["arguments"]).state_dict()
    write_weights(folder / "model.safetensors", weights, about)
    return folder


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def test_a_sound_run_is_loaded(run):
    assert load_run(run).about["seed"] == 0


@pytest.mark.parametrize("name", faults.RUN)
def test_a_damaged_or_crafted_run_is_refused_and_runs_no_code(run, name):
    damage, outcome = faults.RUN[name]
    damage(run)
    with pytest.raises(DataError) as error:
        load_run(run)
    assert "model.safetensors" in str(error.value)
    assert outcome in str(error.value)
    assert not (run / "pwned").exists()
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("name", faults.RECIPE)
def test_a_run_that_does_not_say_how_its_slices_were_cropped_is_not_loaded(run, name):
    recipe, outcome = faults.RECIPE[name]
    faults.model(lambda weights, about: about.update(recipe=recipe))(run)
    with pytest.raises(DataError) as error:
        load_run(run)
    assert outcome in str(error.value)


@pytest.mark.parametrize("name", faults.CONFIGURATION)
def test_a_run_whose_config_is_damaged_is_neither_resumed_nor_held_true(run, acdc_store, name):
    data, outcome = faults.CONFIGURATION[name]
    (run / "config.yaml").write_bytes(data)
    store = SliceDataset.open(acdc_store)
    network = {"arguments": {"latent_size": 4}}
    workflow = TrainingWorkflow(
        parse_pipeline(PIPELINE | {"network": network}), store, store, run, device="cpu",
        resume=True,
    )  # fmt: skip
    with pytest.raises(DataError, match="config.yaml cannot be read") as error:
        workflow.initialize()
    assert outcome in str(error.value)
    found = {finding.what: finding for finding in verify_run(run)}["configuration"]
    assert found.holds is False
    assert outcome in found.text


@pytest.mark.parametrize("text", [None, "", '{"method": "attri', "[1]", "\xff"])
def test_a_summary_that_is_missing_or_cut_off_is_told(run, text):
    if text is not None:
        (run / "summary.json").write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match="summary.json (is missing|is no JSON|holds)"):
        _ = load_run(run).summary


NETWORK = """
from cardiac_attrivae.models.networks import BetaVAE

class Mine(BetaVAE):
    def __init__(self):
        super().__init__(image_size=16, latent_size=4)
"""


def test_a_network_of_ones_own_loads_where_its_module_is_trusted(run, tmp_path, monkeypatch):
    (tmp_path / "lab_networks.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(tmp_path)
    faults.foreign("lab_networks.Mine")(run)
    for trusted in ("", ",", "lab", "lab_networks.Other", "networks", "lab_networks.Mine.Inner"):
        monkeypatch.setenv("CARDIAC_ATTRIVAE_NETWORKS", trusted)
        with pytest.raises(DataError, match="If you trust it: export CARDIAC_ATTRIVAE_NETWORKS="):
            load_run(run)
        assert "lab_networks" not in sys.modules
    for trusted in ("lab_networks", "torch, lab_networks.Mine"):
        monkeypatch.setenv("CARDIAC_ATTRIVAE_NETWORKS", trusted)
        assert type(load_run(run).network).__name__ == "Mine"


@pytest.mark.parametrize("path", [".os.Net", "..os.Net", ".Net", "os.Net", "", "."])
@pytest.mark.parametrize("trusted", [None, "", " ", ",", "."])
def test_no_odd_path_of_a_network_is_imported_unless_it_is_trusted(run, path, trusted, monkeypatch):
    monkeypatch.delenv("CARDIAC_ATTRIVAE_NETWORKS", raising=False)
    if trusted is not None:
        monkeypatch.setenv("CARDIAC_ATTRIVAE_NETWORKS", trusted)
    monkeypatch.setattr("importlib.import_module", lambda name: pytest.fail(f"imported {name!r}"))
    faults.foreign(path)(run)
    with pytest.raises(DataError, match="cannot be used"):
        load_run(run)


# Random damage ------------------------------------------------------------------------------------

fuzzed = settings(
    max_examples=100 * MORE,
    deadline=None,
    derandomize=MORE == 1,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@st.composite
def damages(draw, size):
    """Places of a file with what happens there: bytes are changed, lost or put in."""
    places = st.integers(0, size - 1)
    edits = st.tuples(places, st.sampled_from(["change", "lose", "insert"]), st.binary(max_size=8))
    return draw(st.lists(edits, min_size=1, max_size=4))


def damaged(data, edits):
    for place, what, new in edits:
        place = min(place, len(data))
        end = place if what == "insert" else place + len(new)
        data = data[:place] + (b"" if what == "lose" else new) + data[end:]
    return data


def read_or_told(read, *arguments):
    """What is read, or None where the file was refused with a message."""
    try:
        return read(*arguments)
    except (DataError, ValueError, OSError) as error:
        return None if str(error) else pytest.fail(f"{error!r} says nothing")


@pytest.fixture(scope="module")
def small_nifti(tmp_path_factory):
    file = tmp_path_factory.mktemp("fuzz") / "x.nii"
    faults.save(file, faults.heart()[::4, ::4])
    return file.read_bytes()


@pytest.mark.parametrize("form", ["x.nii", "x.nii.gz", "inside the gzip"])
def test_a_nifti_damaged_at_random_is_read_or_refused(small_nifti, tmp_path, form):
    data = gzip.compress(small_nifti) if form == "x.nii.gz" else small_nifti
    file = tmp_path / ("x.nii" if form == "x.nii" else "x.nii.gz")

    @fuzzed
    @given(damages(352 if form == "inside the gzip" else len(data)))
    def fuzz(edits):
        raw = damaged(data, edits)
        file.write_bytes(gzip.compress(raw, 1) if form == "inside the gzip" else raw)
        for read in (read_volume, read_mask):
            volume = read_or_told(read, file, 0)
            if volume is not None:
                assert volume.voxels.ndim == 3
                assert 0.05 <= min(volume.spacing_mm) <= max(volume.spacing_mm) <= 100

    fuzz()


@pytest.mark.filterwarnings("ignore:.* is not UTF-8:UserWarning")
@pytest.mark.parametrize("kind", ["Info.cfg", "CSV", "manifest", "pipeline", "JSON"])
def test_a_text_damaged_at_random_is_read_or_refused(tmp_path, kind):
    from cardiac_attrivae.data.manifest import shipped_manifests

    sound, file, read = {
        "Info.cfg": (faults.INFO["sound"][0], tmp_path / "training/patient001/Info.cfg", None),
        "CSV": (faults.TABLE["quoted"][0].encode(), tmp_path / "info.csv", None),
        "manifest": (shipped_manifests()["acdc"].read_bytes(), tmp_path / "m.yaml", load_manifest),
        "pipeline": (faults.as_yaml(PIPELINE), tmp_path / "p.yaml", load_pipeline),
        "JSON": (b'{"format": 1, "splits": {"train": 3}}', tmp_path / "d.json", read_json),
    }[kind]
    file.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "Testing" / "A1").mkdir(parents=True)
    manifest = load_manifest("acdc" if kind == "Info.cfg" else "mnms")

    @fuzzed
    @given(damages(len(sound)))
    def fuzz(edits):
        file.write_bytes(damaged(sound, edits))
        if read:
            read_or_told(read, file)
        else:
            read_or_told(find_cases, manifest, tmp_path)

    fuzz()


@pytest.mark.parametrize("name", ["cases.csv", "dataset.json", "images.npy", "masks.npz"])
def test_a_store_damaged_at_random_is_opened_or_refused(acdc_store, tmp_path, name):
    store = shutil.copytree(acdc_store, tmp_path / "store")
    small = pd.read_csv(store / "cases.csv", dtype=str, keep_default_na=False).head(2)
    small.to_csv(store / "cases.csv", index=False)
    for array in ("images", "labels"):
        np.save(store / f"{array}.npy", np.load(store / f"{array}.npy")[:2, :, ::16, ::16])
    counts = small["split"].value_counts()
    splits = {split: int(counts.get(split, 0)) for split in ("train", "val", "test")}
    sound = (store / name).read_bytes()
    faults.say(store, splits=splits, content_hash=content_hash(store))
    assert len(SliceDataset.open(store).measured(["LVEDV"])) == 2
    sound = (store / name).read_bytes()

    @settings(fuzzed, max_examples=40 * MORE)
    @given(damages(min(len(sound), 4000)))
    def fuzz(edits):
        (store / name).write_bytes(damaged(sound, edits))
        if name != "dataset.json":
            faults.say(store, content_hash=content_hash(store))
        else:
            read_or_told(SliceDataset.open, store)
            with suppress(ValueError, TypeError, RecursionError):  # past the seal, if it is JSON
                faults.say(store)
        dataset = read_or_told(SliceDataset.open, store)
        if dataset is not None:
            read_or_told(dataset.measured, ["LVEDV"])

    fuzz()


def test_weights_damaged_at_random_are_loaded_or_refused(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    sound = (run / "model.safetensors").read_bytes()

    @settings(fuzzed, max_examples=40 * MORE)
    @given(damages(6000))
    def fuzz(edits):
        (run / "model.safetensors").write_bytes(damaged(sound, edits))
        read_or_told(load_run, run)

    fuzz()
