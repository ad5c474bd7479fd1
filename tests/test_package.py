"""The package as a whole: imports run one way, and the wheel works where there is no checkout."""

import ast
import shutil
import subprocess
import sys
import sysconfig
import venv
from configparser import ConfigParser
from pathlib import Path

import pytest
from packaging.version import Version

import cardiac_attrivae

PACKAGE = Path(cardiac_attrivae.__file__).parent
CHECKOUT = Path(__file__).parent.parent

FLOORS = (
    ("schema",),
    ("heart",),
    ("attributes",),
    ("metrics", "runtime"),
    ("report", "models"),
    ("data",),
    ("training",),
    ("segmentation",),
    ("evaluation",),
    ("export",),
    ("api", "demo", "reproduce"),
    ("cli",),
)
"""From the ground up: a folder imports itself and what stands on floors below its own."""

FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}
ENTRANCES = {"__init__", "__main__"}  # the doors: they look at what they open


def imports_of(file):
    """First names, below the package, of what a file imports from it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == len(file.relative_to(PACKAGE).parts):
            yield from [node.module] if node.module else (alias.name for alias in node.names)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            yield from (n.partition(".")[2] or n for n in names if n.startswith("cardiac_attrivae"))


@pytest.mark.parametrize(
    "file", sorted(PACKAGE.rglob("*.py")), ids=lambda f: f.relative_to(PACKAGE).as_posix()
)
def test_imports_run_downwards(file):
    own = file.relative_to(PACKAGE).with_suffix("").parts[0]
    if own in ENTRANCES:
        return
    reached = {name.partition(".")[0] for name in imports_of(file)} - {own}
    upwards = sorted(name for name in reached if FLOOR.get(name, len(FLOORS)) >= FLOOR[own])
    assert not upwards, f"{own} imports {upwards}, which stand on its own floor or above"


def test_the_oldest_versions_are_the_bounds_of_setup_cfg():
    config = ConfigParser()
    config.read(CHECKOUT / "setup.cfg", encoding="utf-8")
    needed = (line.split(">=") for line in config["options"]["install_requires"].split())
    bounds = {name.lower(): Version(bound) for name, bound in needed}
    text = (CHECKOUT / "constraints-oldest.txt").read_text(encoding="utf-8")
    pins = (line.split("==") for line in text.splitlines() if not line.startswith("#"))
    oldest = {name.lower(): Version(pin) for name, pin in pins}
    assert {name: oldest[name] for name in bounds} == bounds


def test_only_the_pool_starts_processes():
    """Its workers end with their parent; those of joblib's Parallel outlive one that is killed."""
    starters = {"joblib", "multiprocessing", "concurrent.futures.process"}
    found = {
        file.relative_to(PACKAGE).as_posix()
        for file in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
        and any(f"{node.module}.".startswith(f"{name}.") for name in starters)
    }
    assert found == {"runtime/pool.py"}


def test_tables_are_written_by_the_function_that_keeps_spreadsheets_from_executing_them():
    found = {
        file.relative_to(PACKAGE).as_posix()
        for file in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr == "to_csv"
    }
    assert found == {"runtime/spreadsheet.py"}


@pytest.mark.parametrize("folder", ["metrics", "report"])
def test_scores_and_reports_need_no_torch(folder):
    files = (PACKAGE / folder).glob("*.py")
    names = ", ".join(f"cardiac_attrivae.{folder}.{f.stem}" for f in files if f.stem != "__init__")
    program = f"import sys, {names}; print(*{{'torch', 'monai', 'ignite'}} & set(sys.modules))"
    assert run(sys.executable, "-c", program, cwd=PACKAGE.parent).strip() == ""


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
    program = (
        "import sys, cardiac_attrivae.cli.main; print(*{m.split('.')[0] for m in sys.modules})"
    )
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
    expected = {
        f.relative_to(CHECKOUT).as_posix()
        for f in (CHECKOUT / "cardiac_attrivae").rglob("*")
        if f.is_file() and "__pycache__" not in f.parts
    }
    for folder in ("pipelines", "data_manifests"):
        expected |= {f"cardiac_attrivae/{folder}/{f.name}" for f in CHECKOUT.glob(f"{folder}/*")
                     if f.suffix == ".yaml"}  # fmt: skip
    assert "cardiac_attrivae/report/templates/index.html" in expected
    assert "cardiac_attrivae/data_manifests/acdc.yaml" in expected
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_wheel_reads_its_manifests_from_another_folder(elsewhere, tmp_path):
    program = (
        "import cardiac_attrivae, sys; from cardiac_attrivae.data.manifest import load_manifest;"
        "print(cardiac_attrivae.__file__); print(load_manifest('acdc').name)"
    )
    file, name = run(elsewhere[0] / "python", "-c", program, cwd=tmp_path).split()
    assert Path(file).is_relative_to(elsewhere[0].parent)
    assert name == "acdc"


def test_wheel_answers_help_from_another_folder(elsewhere, tmp_path):
    text = run(elsewhere[0] / "cardiac-attrivae", "--help", cwd=tmp_path)
    for command in ("preprocess", "train", "cross-domain-eval", "phantom", "check", "demo"):
        assert command in text


@pytest.mark.slow
@pytest.mark.xdist_group("one")
def test_xdist_knows_the_group_of_a_test(request):
    """xdist 3.8 groups nothing under pytest 9.2, and does not say so: fixtures are made twice."""
    grouped = request.config.getoption("loadgroup", False)
    assert request.node.nodeid.endswith("@one") == grouped
