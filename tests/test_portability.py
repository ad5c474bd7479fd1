"""Windows and macOS, as far as Linux can tell: names, open files, encodings, processes."""

import ast
import os
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path, PureWindowsPath
from zipfile import ZipFile

import nibabel
import numpy as np
import pytest
import torch
import windows
from conftest import trained
from faults import OWN, picture, save
from faults import heart as ring
from scans import by_brightness, heart
from torch.overrides import TorchFunctionMode

import cardiac_attrivae
from cardiac_attrivae.cli.options import store_and_split
from cardiac_attrivae.data.manifest import parse_manifest
from cardiac_attrivae.data.masks import Masks
from cardiac_attrivae.data.preprocess import preprocess
from cardiac_attrivae.data.store import SliceDataset, areas, content_hash
from cardiac_attrivae.evaluation.encoding_batch import encode_scans
from cardiac_attrivae.models.beta_vae import BetaVAE
from cardiac_attrivae.models.independence import decorrelate
from cardiac_attrivae.runtime import messages
from cardiac_attrivae.runtime.file_names import file_names, told_apart
from cardiac_attrivae.runtime.messages import shell_word
from cardiac_attrivae.runtime.shipped_models import model_folder, shipped_models
from cardiac_attrivae.schema import Scale, Structure
from cardiac_attrivae.segmentation.jobs import Job
from cardiac_attrivae.segmentation.patients import segment_patients
from cardiac_attrivae.segmentation.scans import ScanSegmenter

MODULES = sorted(Path(cardiac_attrivae.__file__).parent.rglob("*.py"))


@pytest.mark.parametrize("file", MODULES, ids=lambda file: file.stem)
def test_no_module_needs_at_its_import_what_only_unix_has(file):
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        module = node.module if isinstance(node, ast.ImportFrom) else ""
        assert not {module, *names} & {*windows.MODULES, "posix"}


@pytest.mark.parametrize("file", MODULES, ids=lambda file: file.stem)
def test_every_text_is_read_in_an_encoding_that_is_named(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            named = {keyword.arg for keyword in node.keywords}
            assert node.func.attr != "read_text" or node.args or "encoding" in named, node.lineno


@pytest.mark.slow
def test_every_command_runs_where_windows_would_refuse(acdc_tree, tmp_path):
    """See windows.py; output goes to a pipe in the encoding of a western Windows."""
    command = [sys.executable, "-X", "warn_default_encoding", windows.__file__]
    subprocess.run(
        [*command, acdc_tree, tmp_path],
        env=os.environ | {"PYTHONIOENCODING": "cp1252"},
        check=True,
        timeout=900,
    )


@pytest.mark.slow
def test_preprocess_gives_the_same_store_where_processes_are_spawned(acdc_tree, tmp_path):
    """Windows and macOS start workers anew, from the file that holds the main program."""
    program = tmp_path / "program.py"
    program.write_text(
        "import multiprocessing, sys\n"
        "from joblib.externals.loky.backend.context import set_start_method\n"
        "from cardiac_attrivae.data.preprocess import preprocess\n"
        "if __name__ == '__main__':\n"
        "    multiprocessing.set_start_method('spawn'); set_start_method('spawn')\n"
        "    print(preprocess('acdc', *sys.argv[1:], workers=2).cases)\n",
        encoding="utf-8",
    )
    spawned, here = tmp_path / "spawned", tmp_path / "here"
    command = [sys.executable, program, acdc_tree, spawned]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.strip() == "9"
    preprocess("acdc", acdc_tree, here)
    assert content_hash(spawned) == content_hash(here)


# Names --------------------------------------------------------------------------------------------

HARD = [
    "p1",
    "P1",
    "aux",
    "NUL.1",
    "a:b",
    "a?b",
    "a/b",
    "end.",
    "end ",
    "M\u00fc",
    "Mu\u0308",
    "..",
    "?",
]


def test_every_name_becomes_one_that_all_systems_take_and_keep_apart():
    found = file_names(HARD)
    assert set(found) == set(HARD)
    for name in found.values():
        assert windows.TAKEN.fullmatch(f"{name}.png")
        assert windows.TAKEN.fullmatch(name)
        assert name.split(".")[0].strip().casefold() not in windows.DEVICES
    alike = {unicodedata.normalize("NFC", name).casefold() for name in found.values()}
    assert len(alike) == len(HARD)
    assert file_names(["b_2", "a-1", "p 3", "x.y"]) == {n: n for n in ("b_2", "a-1", "p 3", "x.y")}


def test_a_number_that_tells_apart_is_not_taken_either():
    assert told_apart(["a_b_c", "a_B_c", "x", "a_b_c-2"]) == ["a_b_c", "a_B_c-2", "x", "a_b_c-2-2"]


def test_patients_that_some_systems_take_for_one_have_a_picture_and_a_mask_each(tmp_path):
    jobs = []
    for n, patient in enumerate(["aux", "AUX"]):
        image = np.roll(heart()[1], n, axis=0).astype(np.float32)
        (tmp_path / str(n)).mkdir()
        nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), tmp_path / str(n) / "sax.nii")
        jobs.append(Job(patient, tmp_path / str(n) / "sax.nii"))
    out = tmp_path / "out"
    segment_patients(jobs, out, ScanSegmenter("fake", [by_brightness]))
    names = [path.stem for path in (out / "pictures").iterdir()]
    assert sorted(names) == ["_AUX-2", "_aux"]
    masks = Masks(out)
    found = [masks.find(job.path, job.patient).parent.name for job in jobs]
    assert found == ["_aux", "_AUX-2"]
    again, _ = segment_patients(jobs[:1], out, ScanSegmenter("fake", [by_brightness]))
    assert list(again["patient"]) == ["aux"]
    assert [path.stem for path in (out / "pictures").iterdir()] == ["_aux"]


@pytest.mark.slow
def test_scans_that_some_systems_take_for_one_have_a_picture_each(acdc_store, acdc_tree, tmp_path):
    run = trained(acdc_store, tmp_path / "run")
    scans = sorted(acdc_tree.glob("training/*/*_frame*[0-9].nii.gz"))[:2]
    places = [tmp_path / "scans" / name for name in ("p1.nii.gz", "P1.nii.gz", "aux.nii.gz")]
    (tmp_path / "masks").mkdir()
    for scan, place in zip([*scans, scans[0]], places, strict=True):
        place.parent.mkdir(exist_ok=True)
        shutil.copyfile(scan, place)
        mask = scan.with_name(scan.name.replace(".nii", "_gt.nii"))
        shutil.copyfile(mask, tmp_path / "masks" / place.name)
    labels = {0: Structure.BACKGROUND, 3: Structure.LV, 2: Structure.MYO, 1: Structure.RV}
    encode_scans(
        run, [tmp_path / "scans"], tmp_path / "out", mask=tmp_path / "masks", labels=labels
    )
    pictures = sorted(path.stem for path in (tmp_path / "out/pictures").iterdir())
    assert pictures == ["P1", "_aux", "p1-2"]
    page = (tmp_path / "out/index.html").read_text(encoding="utf-8")
    assert page.count("data:image/webp") == 3


def test_cases_that_differ_in_capitals_alone_are_both_in_the_store(tmp_path):
    for case in ("p1", "P1", "nul"):
        save(tmp_path / "data/a" / case / "image.nii.gz", picture())
        save(tmp_path / "data/a" / case / "mask.nii.gz", ring())
    preprocess(parse_manifest(OWN, "own"), tmp_path / "data", tmp_path / "store")
    store = SliceDataset.open(tmp_path / "store")
    assert sorted(store.cases["case"]) == ["P1", "nul", "p1"]
    with ZipFile(tmp_path / "store/masks.npz") as masks:
        assert sorted(masks.namelist()) == ["P1.npy", "nul.npy", "p1.npy"]


@pytest.mark.parametrize("folder", ["", "cli", "export", "pretrained"])
def test_the_package_has_no_file_that_some_system_does_not_take(folder):
    for place, _, files in os.walk(Path(cardiac_attrivae.__file__).parent / folder):
        names = [file for file in files if not file.endswith(".pyc")]
        assert file_names(names) == {name: name for name in names}, place


# Paths of Windows ---------------------------------------------------------------------------------


class Absent(PureWindowsPath):
    """A path of Windows where nothing is."""

    def exists(self):
        return False


@pytest.mark.parametrize(
    ("given", "folder", "split"),
    [
        (r"C:\data\acdc:val", r"C:\data\acdc", "val"),
        (r"C:\data\acdc", r"C:\data\acdc", "test"),
        (r"C:val", "C:val", "test"),  # the folder val, of drive C
        (r"C:val:train", "C:val", "train"),
        (r"\\server\share\acdc:train", r"\\server\share\acdc", "train"),
    ],
)
def test_the_drive_letter_of_a_store_is_no_folder(given, folder, split):
    assert store_and_split(Absent(given), "test") == (Absent(folder), split)


@pytest.mark.parametrize("name", [name for name in shipped_models() if "/" in name][:1])
def test_a_shipped_model_is_found_where_the_slash_of_its_name_is_turned(name):
    assert model_folder(PureWindowsPath(name)) == model_folder(name)
    assert model_folder(name).is_dir()


@pytest.mark.parametrize(
    "path",
    [r"C:\Users\Doe_John\scan.nii", r"C:\\Users\\Doe_John\\scan.nii", "C:/Doe_John/scan.nii",
     r"\\server\Doe_John\scan.nii", r"Doe_John\scan.nii", "Doe_John/scan.nii"],
)  # fmt: skip
def test_messages_give_no_folder_of_windows_either(path):
    own = set() if PureWindowsPath(path).anchor else {PureWindowsPath("Doe_John")}
    assert messages._without(f"cannot read '{path}' at 1/2", own) == "cannot read 'scan.nii' at 1/2"


def test_commands_are_quoted_for_the_shell_of_the_system(monkeypatch):
    words = ("report", "--output", r"C:\my data\x", "a:val", "torch>=2")
    quoted = [shell_word(word) for word in words]
    assert quoted == [*words[:2], r"'C:\my data\x'", "a:val", "'torch>=2'"]
    monkeypatch.setattr(messages, "WINDOWS", True)
    quoted = [shell_word(word) for word in words]
    assert quoted == [*words[:2], r'"C:\my data\x"', "a:val", '"torch>=2"']


# GPUs of Apple ------------------------------------------------------------------------------------


class WithoutFloat64(TorchFunctionMode):
    """Refuses float64 to tensors that may be on a GPU of Apple, which knows none."""

    before = None

    def __torch_function__(self, function, types, given=(), named=None):
        assert function is not torch.Tensor.double or self.before is torch.Tensor.cpu
        self.before = function
        return function(*given, **(named or {}))


def test_a_trained_network_and_measured_areas_need_no_float64_on_the_gpu():
    network = BetaVAE(latent_size=4, image_size=16)
    codes = np.random.default_rng(0).normal(size=(9, 4))
    with WithoutFloat64():
        decorrelate(network, codes, [0, 2])
        areas(torch.ones(2, 1, 16, 16, dtype=torch.uint8), Scale(0.5))
