"""What a small task imports: nobody waits for PyTorch to hear of a typing error."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import cardiac_attrivae

POSIX_ONLY = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
UNIX_CALLS = [
    "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "fchmod", "fork", "geteuid", "getuid", "killpg",
    "sched_getaffinity", "setsid", "statvfs",
]  # fmt: skip
MODULES = sorted(Path(cardiac_attrivae.__file__).parent.rglob("*.py"))


@pytest.mark.parametrize(
    ("task", "without"),
    [
        ("from cardiac_attrivae.runtime.yaml_files import read_yaml; read_yaml('a: 1')",
         ("torch", "monai", "pandas", "scipy")),
        ("from cardiac_attrivae.data.manifest import load_manifest; load_manifest('acdc')",
         ("torch", "monai", "pandas", "scipy")),
        ("from cardiac_attrivae.training.config import load_pipeline; load_pipeline('attri_vae')",
         ("torch", "monai", "pandas", "scipy")),
        ("import cardiac_attrivae.cli.main",
         ("torch", "monai", "pandas", "scipy", "numpy", "matplotlib", "cardiac_attrivae.data")),
        ("import cardiac_attrivae.reproduce", ("monai", "ignite", "pandas", "matplotlib")),
        ("import cardiac_attrivae.training.verify",
         ("cardiac_attrivae.data.preprocess", "cardiac_attrivae.data.transforms")),
        ("import cardiac_attrivae.report.page", ("torch", "monai")),
        ("import cardiac_attrivae.runtime.folders", ("torch", "numpy")),
    ],
)  # fmt: skip
def test_a_small_task_imports_nothing_large(task, without):
    program = f"{task}\nimport json, sys; print(json.dumps(list(sys.modules)))"
    command = [sys.executable, "-c", program]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert not set(without) & set(json.loads(found.stdout.splitlines()[-1]))


@pytest.mark.parametrize("file", MODULES, ids=lambda file: file.stem)
def test_no_module_needs_at_its_import_what_only_unix_has(file):
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        module = node.module if isinstance(node, ast.ImportFrom) else ""
        assert not {module, *names} & POSIX_ONLY


@pytest.mark.slow
def test_every_module_can_be_imported_where_unix_is_missing():
    """The libraries below come first: what they need on this system is their own affair."""
    program = f"""
import os, pkgutil, signal, sys
import click, filelock, ignite, jinja2, joblib, matplotlib.pyplot, monai.bundle, monai.engines
import monai.handlers, nibabel, pandas, psutil, safetensors.torch, scipy.stats, SimpleITK
import sklearn.linear_model, torch.utils.tensorboard, tqdm
for name in {sorted(POSIX_ONLY - {"posix"})}:
    sys.modules[name] = None
for name in {UNIX_CALLS}:
    if hasattr(os, name):
        delattr(os, name)
del signal.SIGKILL, signal.SIGHUP
import cardiac_attrivae
for module in pkgutil.walk_packages(cardiac_attrivae.__path__, "cardiac_attrivae."):
    if not module.name.endswith("__main__"):
        __import__(module.name)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)
