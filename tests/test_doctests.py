"""Examples in docstrings run, and every public function of the core folders shows one."""

import ast
import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import cardiac_attrivae

PACKAGE = Path(cardiac_attrivae.__file__).parent
MODULES = [
    module.name
    for module in pkgutil.walk_packages([str(PACKAGE)], "cardiac_attrivae.")
    if not module.name.endswith("__main__")
]
SHOWN = ("metrics", "models", "data")
"""Folders whose public functions each have an example."""


@pytest.mark.parametrize("name", MODULES)
def test_examples_say_what_happens(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    failed, _ = doctest.testmod(importlib.import_module(name), optionflags=flags)
    assert not failed


@pytest.mark.parametrize("folder", SHOWN)
def test_every_public_function_shows_an_example(folder):
    silent = []
    for file in sorted((PACKAGE / folder).glob("*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            public = isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
            if public and ">>>" not in (ast.get_docstring(node) or ""):
                silent.append(f"{file.stem}.{node.name}")
    assert not silent
