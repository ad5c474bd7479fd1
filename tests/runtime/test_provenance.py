"""What a message tells a user to install works before the package is in any index."""

import pytest

from cardiac_attrivae.runtime import provenance


def test_the_packages_of_an_extra_are_named_and_nothing_else(monkeypatch):
    listed = [
        "click>=8.1", "onnx>=1.18; extra == 'onnx'", 'optuna>=5; extra == "tune"',
        'filelock; extra == "tune"', 'onnxruntime>=1.20 ; extra == "onnx"', "a; extra == 'onnx2'",
    ]  # fmt: skip
    monkeypatch.setattr(provenance, "requires", lambda name: listed)
    assert provenance.install_line("onnx") == "pip install 'onnx>=1.18' 'onnxruntime>=1.20'"
    assert provenance.install_line("tune") == "pip install 'optuna>=5' filelock"


@pytest.mark.parametrize("extra", ["tune", "onnx", "dask"])
def test_from_its_sources_without_an_installation_the_extra_is_named(monkeypatch, extra):
    def absent(name):
        raise provenance.PackageNotFoundError(name)

    monkeypatch.setattr(provenance, "requires", absent)
    assert f"'.[{extra}]'" in provenance.install_line(extra)
