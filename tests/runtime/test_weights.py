"""Weights on disk: what is read is what was written, and a changed byte is told."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from cardiac_attrivae.runtime.weights import read_weights, weights_digest, write_weights
from cardiac_attrivae.schema import DataError

FACTS = {"seed": 3, "recipe": {"size": 128}, "code_mean": [0.1, -1e-17, 2.0], "name": "Müller"}


def drawn():
    draws = torch.Generator().manual_seed(0)
    return {
        "b.weight": torch.randn(4, 3, generator=draws),
        "a.weight": torch.randn(6, 2, generator=draws).T,  # not contiguous
        "half": torch.randn(5, generator=draws).bfloat16(),
        "count": torch.tensor(7),
    }


def test_what_is_read_is_what_was_written(tmp_path):
    facts = dict(FACTS)
    write_weights(tmp_path / "x.safetensors", drawn(), facts)
    weights, read = read_weights(tmp_path / "x.safetensors")
    assert read == facts == FACTS
    assert weights.keys() == drawn().keys()
    for name, values in drawn().items():
        assert weights[name].dtype == values.dtype
        assert torch.equal(weights[name], values)


def test_any_program_that_knows_safetensors_reads_them(tmp_path):
    write_weights(tmp_path / "x.safetensors", drawn(), {})
    assert torch.equal(load_file(tmp_path / "x.safetensors")["b.weight"], drawn()["b.weight"])


def test_the_digest_depends_on_names_shapes_types_and_values_and_not_on_their_order():
    same, found = dict(reversed(drawn().items())), weights_digest(drawn())
    assert weights_digest(same) == found
    others = (
        {"c.weight": drawn()["b.weight"]},
        {"b.weight": drawn()["b.weight"].reshape(3, 4)},
        {"b.weight": drawn()["b.weight"].view(torch.int32)},
        {"b.weight": drawn()["b.weight"].nextafter(torch.tensor(9.0))},
    )
    digests = {weights_digest(same | other) for other in others}
    digests.add(weights_digest({k: v for k, v in same.items() if k != "count"}))
    assert len(digests - {found}) == 5


def test_every_changed_byte_is_told(tmp_path):
    """In the length of the header, in it, and in the weights: a bit anywhere."""
    file = tmp_path / "x.safetensors"
    write_weights(file, drawn(), FACTS)
    sound = file.read_bytes()
    told = set()
    for place in range(len(sound)):
        data = bytearray(sound)
        data[place] ^= 1
        file.write_bytes(data)
        try:
            weights, facts = read_weights(file)
        except DataError as error:
            told.add(str(error).partition(file.name)[2].split(":")[0])
        else:  # of JSON alone: an escaped ü, a blank that pads the header
            assert facts == FACTS, place
            assert weights_digest(weights) == weights_digest(drawn()), place
    assert {" was changed after it was written", " cannot be read"} <= told


def test_weights_without_a_hash_are_of_an_older_version(tmp_path):
    save_file(drawn() | {"a.weight": torch.zeros(1)}, tmp_path / "x", {"cardiac_attrivae": "{}"})
    with pytest.raises(DataError, match="written by an older version .* train again, or use that"):
        read_weights(tmp_path / "x")
    with pytest.raises(DataError, match="y cannot be read"):
        read_weights(tmp_path / "y")


def test_a_hash_of_other_weights_is_none(tmp_path):
    from safetensors import safe_open

    write_weights(tmp_path / "x", drawn(), FACTS)
    with safe_open(tmp_path / "x", "pt") as stored:
        facts = json.loads(stored.metadata()["cardiac_attrivae"])
    assert set(facts) == {*FACTS, "sha256"}
    save_file({"count": torch.tensor(7)}, tmp_path / "x", {"cardiac_attrivae": json.dumps(facts)})
    with pytest.raises(DataError, match="x was changed after it was written: its hash differs"):
        read_weights(tmp_path / "x")


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16])
def test_numbers_of_few_bits_are_checked_too(tmp_path, kind):
    write_weights(tmp_path / "x", {"a.weight": torch.tensor([0.5, 2]).to(kind)}, FACTS)
    assert read_weights(tmp_path / "x")[0]["a.weight"].dtype == kind
    write_weights(tmp_path / "x", {"a.weight": torch.tensor([1, float("nan")]).to(kind)}, FACTS)
    with pytest.raises(DataError, match="x: a.weight holds NaN or infinite values"):
        read_weights(tmp_path / "x")


def test_complex_numbers_are_refused(tmp_path):
    write_weights(tmp_path / "x", {"a.weight": torch.tensor([1j])}, FACTS)
    with pytest.raises(DataError, match="x: a.weight holds complex numbers; expected real ones"):
        read_weights(tmp_path / "x")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused_though_their_hash_fits(tmp_path, value):
    write_weights(tmp_path / "x", drawn() | {"b.weight": torch.tensor([1, value])}, FACTS)
    with pytest.raises(DataError, match="x: b.weight holds NaN or infinite values"):
        read_weights(tmp_path / "x")
