"""The package as a whole: imports run one way, and the wheel works where there is no checkout."""

import ast
import shutil
import subprocess
import sys
import sysconfig
import venv
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import cardiac_attrivae

PACKAGE = Path(cardiac_attrivae.__file__).parent
CHECKOUT = Path(__file__).parent.parent
ROOMS = {file.stem: file for file in sorted(PACKAGE.glob("*.py"))}

LAYERS = (
    ("__main__",),
    ("cli",),
    ("demo", "reproduce", "model", "tune"),
    ("workflow", "cross_domain", "generation", "preprocess", "check", "phantom", "verify",
     "codes", "card", "bundle", "explorer"),
    ("gallery",),
    ("evaluation",),
    ("control", "exchange"),
    ("inference", "segmenter"),
    ("engines", "handlers", "report", "tables", "figures", "charts", "curves", "sheet",
     "statistics", "prediction", "comparison", "calibration", "trackers"),
    (
        "config", "networks", "losses", "perceptual", "augmentation", "transforms", "slices",
        "metrics", "fidelity", "attributes", "cases", "nifti", "dicom", "volumes",
        "published", "pseudonyms",
    ),
    ("manifest", "hearts", "parallel", "style", "steps", "files", "weights", "workers"),
    ("schema",),
    ("__init__",),
)  # fmt: skip
"""From top to bottom: a room imports from the layers below its own, and from neighbours in its own
as long as no circle forms. Rooms that are planned but not built yet may stand here."""

RANK = {room: rank for rank, layer in enumerate(LAYERS) for room in layer}

# What a room must not import, of the package and of the world: each keeps one kind of knowledge.
FORBIDDEN = {
    "metrics": {"torch", "monai"},
    "losses": {"networks", "perceptual", "engines"},
    "engines": {"manifest", "slices", "transforms", "preprocess", "phantom", "nifti"},
    "figures": {"torch", "monai"},
    "charts": {"torch", "monai"},
    "curves": {"torch", "monai"},
    "sheet": {"torch", "monai"},
    "report": {"torch", "monai"},
    "tables": {"torch", "monai"},
    "steps": {"torch", "monai", "numpy", "pandas"},
    "schema": {"torch", "monai", "numpy", "pandas"},
    "__init__": {"torch", "monai", "numpy", "pandas"},
}


class Imports(ast.NodeVisitor):
    """Collects what a module imports when it runs: rooms by name, others by their top name."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def visit_If(self, node: ast.If) -> None:
        annotations_only = "TYPE_CHECKING" in ast.unparse(node.test)
        for child in node.orelse if annotations_only else node.body + node.orelse:
            self.visit(child)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.add(alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = "cardiac_attrivae" if node.level else ""
        module = ".".join(filter(None, (base, node.module)))
        if module == "cardiac_attrivae":
            for alias in node.names:
                room = alias.name in ROOMS or alias.name in RANK
                self.add(f"{module}.{alias.name}" if room else module)
        else:
            self.add(module)

    def add(self, name: str) -> None:
        top, *rest = name.split(".")
        if top == "cardiac_attrivae":
            top = rest[0] if rest else "__init__"
        self.names.add(top)


def imports_of(source: str) -> set[str]:
    visitor = Imports()
    visitor.visit(ast.parse(source))
    return visitor.names


IMPORTS = {room: imports_of(file.read_text(encoding="utf-8")) for room, file in ROOMS.items()}


def test_the_import_reader_sees_every_form():
    source = """
import torch.nn as nn
from . import __version__, figures
from .schema import Keys
from cardiac_attrivae.metrics import score
import cardiac_attrivae.slices
from cardiac_attrivae import networks
if TYPE_CHECKING:
    import pandas
else:
    import scipy
if True:
    import yaml
def lazily():
    from monai.transforms import Compose
"""
    assert imports_of(source) == {
        "torch", "__init__", "figures", "schema", "metrics", "slices", "networks", "scipy",
        "yaml", "monai",
    }  # fmt: skip


def test_every_room_has_its_place_in_the_table():
    assert "schema" in ROOMS
    missing = sorted(ROOMS.keys() - RANK.keys())
    assert not missing, f"rooms without a layer: {missing}; add them to LAYERS in {__file__}"
    assert not [path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()]


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_imports_run_downwards(room):
    inside = IMPORTS[room] & (ROOMS.keys() | RANK.keys())
    upwards = sorted(other for other in inside if RANK.get(other, 0) < RANK.get(room, 0))
    assert not upwards, f"{room} imports {upwards}, which stand above it"
    broken = sorted(inside - ROOMS.keys())
    assert not broken, f"{room} imports {broken}, which do not exist"


def test_imports_form_no_circle():
    graph = {room: (names & ROOMS.keys()) - {room} for room, names in IMPORTS.items()}
    list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


@pytest.mark.parametrize("room", sorted(FORBIDDEN.keys() & ROOMS.keys()))
def test_a_room_does_not_know_what_is_not_its_business(room):
    rooms = FORBIDDEN[room] & RANK.keys()
    assert not IMPORTS[room] & rooms
    # Libraries neither through a neighbour: torch behind metrics would be torch in metrics.
    reached, queue = set(), [room]
    while queue:
        for name in IMPORTS[queue.pop()] - reached:
            reached.add(name)
            if name in ROOMS:
                queue.append(name)
    assert not reached & (FORBIDDEN[room] - rooms)


def run(*command, cwd, check=True):
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(cwd), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    assert not check or done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_command_line_starts_without_the_heavy_libraries():
    heavy = {"torch", "monai", "pandas", "numpy", "matplotlib", "scipy", "sklearn", "ignite"}
    program = "import sys, cardiac_attrivae.cli; print(*{m.split('.')[0] for m in sys.modules})"
    loaded = run(sys.executable, "-c", program, cwd=PACKAGE.parent).split()
    assert "click" in loaded
    assert not heavy & set(loaded)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """The wheel in an environment of its own that borrows the libraries of this one."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # built from a copy, so that no build/ is left in the checkout
    for name in ("cardiac_attrivae", "pipelines", "data_manifests"):
        shutil.copytree(
            CHECKOUT / name, source / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, source)
    (source / "stray.yaml").write_text("not: part of the package")
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    offline = ("--no-index", "--no-deps")
    run(*pip, "wheel", *offline, "--no-build-isolation", "--wheel-dir", folder, source, cwd=folder)
    (wheel,) = folder.glob("*.whl")

    venv.create(folder / "venv", with_pip=False, symlinks=True)
    python = folder / "venv" / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig as s; print(s.get_path('purelib'))",
                    cwd=folder).strip())  # fmt: skip
    # The wheel lies in the new site-packages, which come first, so they hide a copy installed here.
    run(*pip[:3], "--python", python, *pip[3:], "install", *offline, wheel, cwd=folder)
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "venv" / "bin", wheel


def test_wheel_holds_every_room_and_every_yaml(elsewhere):
    import zipfile

    names = set(zipfile.ZipFile(elsewhere[1]).namelist())
    expected = {f"cardiac_attrivae/{f.name}" for f in (CHECKOUT / "cardiac_attrivae").glob("*.py")}
    for folder in ("pipelines", "data_manifests"):
        expected |= {f"cardiac_attrivae/{folder}/{f.name}" for f in CHECKOUT.glob(f"{folder}/*")
                     if f.suffix == ".yaml"}  # fmt: skip
    templates = {
        f.relative_to(CHECKOUT).as_posix()
        for f in (CHECKOUT / "cardiac_attrivae/templates").rglob("*")
        if f.is_file()
    }
    assert "cardiac_attrivae/templates/index.html" in templates
    expected |= templates
    assert "cardiac_attrivae/data_manifests/acdc.yaml" in expected
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_wheel_reads_its_manifests_from_another_folder(elsewhere, tmp_path):
    program = (
        "import cardiac_attrivae, sys; from cardiac_attrivae.manifest import load_manifest;"
        "print(cardiac_attrivae.__file__); print(load_manifest('acdc').name)"
    )
    file, name = run(elsewhere[0] / "python", "-c", program, cwd=tmp_path).split()
    assert Path(file).is_relative_to(elsewhere[0].parent)
    assert name == "acdc"


def test_wheel_answers_help_from_another_folder(elsewhere, tmp_path):
    text = run(elsewhere[0] / "cardiac-attrivae", "--help", cwd=tmp_path)
    for command in ("preprocess", "train", "cross-domain-eval", "phantom", "check", "demo"):
        assert command in text
