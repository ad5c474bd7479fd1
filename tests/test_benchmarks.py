"""The benchmarks are run by hand and rarely: what they import must not rot meanwhile."""

import importlib.util
from pathlib import Path

import pytest

FILES = sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py"))


def test_there_are_benchmarks():
    assert len(FILES) > 5


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_benchmark_can_be_imported(file, monkeypatch):
    monkeypatch.syspath_prepend(file.parent)  # as for a script, whose folder is searched first
    specification = importlib.util.spec_from_file_location(f"benchmark_{file.stem}", file)
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(importlib.sys.modules, specification.name, module)  # for its dataclasses
    specification.loader.exec_module(module)
    assert module.__doc__
