"""The benchmarks are run by hand and rarely: what they import must not rot meanwhile."""

import importlib.util
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cardiac_attrivae.models.perceptual import PerceptualLoss
from cardiac_attrivae.schema import LatentTable

FILES = sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py"))


def test_there_are_benchmarks():
    assert len(FILES) > 5


def imported(file, monkeypatch):
    monkeypatch.syspath_prepend(file.parent)  # as for a script, whose folder is searched first
    specification = importlib.util.spec_from_file_location(f"benchmark_{file.stem}", file)
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(importlib.sys.modules, specification.name, module)  # for its dataclasses
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_benchmark_can_be_imported(file, monkeypatch):
    assert imported(file, monkeypatch).__doc__


def test_every_row_of_what_was_tried_has_tests(monkeypatch):
    """Its patterns name tests; renamed ones would be left out without a word."""
    (file,) = (file for file in FILES if file.stem == "reliability")
    reliability, tests = imported(file, monkeypatch), Path(__file__).parent
    names = [
        f"{module.relative_to(tests)}::{name}"
        for module in tests.rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", module.read_text(encoding="utf-8"), re.M)
    ]
    rows = {kind: pattern for kind, (pattern, _) in reliability.KINDS.items()}
    for row, pattern in (rows | reliability.MISHAPS).items():
        pattern = re.sub(
            r"\.\*\\\[\w+: ", "", pattern
        )  # what stands in the brackets is a parameter
        assert any(re.search(pattern, name) for name in names), row


def test_the_pull_of_pixels_as_features_is_one_over_their_number(monkeypatch):
    class Pixels(nn.Module):
        def forward(self, image):
            return [image]

    (file,) = (file for file in FILES if file.stem == "perceptual")
    ratio, loss = imported(file, monkeypatch).gradient_ratio, PerceptualLoss(Pixels(), "pixels")
    image = torch.linspace(0, 1, 256).reshape(1, 1, 16, 16).double()
    assert ratio(loss, image, image.flip(2)) == pytest.approx(1 / 16**2)  # a mean beside a sum
    with pytest.raises(ValueError, match="a reconstruction equals its image"):
        ratio(loss, image, image)


def test_codes_that_are_the_same_correlate_fully(monkeypatch):
    (file,) = (file for file in FILES if file.stem == "predicted_masks")
    codes = np.random.default_rng(0).normal(size=(20, 4))
    values = codes[:, :2] * (3, -2) + (50, 9)  # linear in the first two codes
    cases = tuple(f"p{i}" for i in range(20))
    expert = LatentTable(cases, codes, values, ("LVEDA", "MEDA"), (0, 1))
    same = imported(file, monkeypatch).compared(expert, expert)
    np.testing.assert_allclose(same, 1)
    # another first code: what belongs to the second attribute stays
    codes = np.column_stack([np.random.default_rng(1).normal(size=20), codes[:, 1:]])
    other = imported(file, monkeypatch).compared(expert, replace(expert, codes=codes))
    assert other["codes r"]["LVEDA"] < 0.7
    assert other["against expert"]["LVEDA"] < 0.5
    np.testing.assert_allclose(other.loc["MEDA"], 1)
