"""Plain YAML: which texts are numbers, and that no text takes long."""

import time

import pytest

from cardiac_attrivae.runtime.yaml_files import read_yaml


@pytest.mark.parametrize("text", ["1e5_hospital", "1e4-abc", "2.5e3x", "1E05/a", "1e5e5"])
def test_a_text_that_begins_like_a_number_stays_text(text):
    assert read_yaml(f"salt: {text}") == {"salt": text}


@pytest.mark.parametrize("text", ["1e-4", "+1E5", "1.e3", ".5e1", "12.5e+2"])
def test_a_number_with_an_exponent_is_a_number(text):
    assert read_yaml(text) == float(text)


def test_many_digits_are_read_in_linear_time():
    start = time.process_time()
    text = "1" * 40_000 + "x"
    assert read_yaml(f"name: {text}") == {"name": text}
    assert time.process_time() - start < 5  # it took a minute
