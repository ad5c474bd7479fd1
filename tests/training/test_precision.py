"""The number format that ``precision: auto`` stands for."""

import json
import platform

import pytest
import torch
import yaml

from cardiac_attrivae.training import precision
from cardiac_attrivae.training.config import (
    AUTO,
    PRECISIONS,
    load_pipeline,
    parse_pipeline,
    shipped_pipelines,
)  # fmt: skip
from cardiac_attrivae.training.precision import known_precision, precision_for
from cardiac_attrivae.training.run import load_run
from cardiac_attrivae.training.workflow import TrainingWorkflow

CPU = torch.device("cpu")
TINY = {
    "method": "tiny",
    "attributes": ["LVEDA"],
    "network": {"arguments": {"latent_size": 2, "image_size": 32}},
    "data": {"batch_size": 4},
    "schedule": {"epochs": 1},
}


@pytest.fixture
def processor(monkeypatch):
    """Says what torch reports, and what oneDNN is limited to."""

    def fake(*, onednn=True, native=True, limit="", machine="x86_64"):
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
        monkeypatch.setattr(platform, "machine", lambda: machine)
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)

    return fake


@pytest.mark.parametrize(
    ("reported", "expected"),
    [
        ({}, "bfloat16"),
        ({"limit": "AVX512_CORE_AMX"}, "bfloat16"),
        ({"limit": "AVX512_CORE_BF16", "machine": "AMD64"}, "bfloat16"),  # as Windows says it
        ({"limit": "AVX512_CORE"}, "float32"),
        ({"limit": "avx2"}, "float32"),
        ({"native": False}, "float32"),
        ({"onednn": False}, "float32"),
        ({"onednn": False, "machine": "arm64"}, "float32"),
        ({"machine": "aarch64"}, None),
    ],
)
def test_a_cpu_computes_in_bfloat16_if_it_multiplies_it(processor, reported, expected):
    processor(**reported)
    assert known_precision(CPU) == expected


def test_a_build_of_torch_without_onednn_computes_in_float32(monkeypatch):
    """Those for Apple's processors have neither the library nor the function that asks it."""
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert known_precision(CPU) == "float32"


@pytest.mark.parametrize("native", [True, False])
def test_a_gpu_computes_in_bfloat16_unless_it_would_emulate_it(monkeypatch, native):
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation=True: including_emulation or native,
    )
    assert known_precision(torch.device("cuda")) == ("bfloat16" if native else "float32")


@pytest.mark.parametrize("name", shipped_pipelines())
def test_every_shipped_pipeline_leaves_the_choice_to_the_machine(name):
    assert load_pipeline(name).precision == AUTO


@pytest.fixture
def run(drawn_slices, tmp_path):
    def train(precision, **options):
        tiny = parse_pipeline(TINY | {"precision": precision})
        flow = TrainingWorkflow(
            tiny, drawn_slices, drawn_slices.take([]), tmp_path / "run", device="cpu", **options
        )
        flow.initialize()
        flow.run()
        flow.finalize()
        return flow

    return train


def weights(flow):
    return {name: w.clone() for name, w in flow.learner.model.state_dict().items()}


@pytest.mark.parametrize("choice", PRECISIONS)
def test_a_run_says_what_it_used_and_keeps_it_when_resumed(run, monkeypatch, tmp_path, choice):
    monkeypatch.setattr(precision, "known_precision", lambda device: choice)
    flow = run(AUTO)
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert config["pipeline"]["precision"] == choice
    assert load_run(tmp_path / "run").pipeline.precision == choice
    assert json.loads((tmp_path / "run/summary.json").read_text())["precision"] == choice
    assert flow.get_trainer().precision == getattr(torch, choice)

    monkeypatch.setattr(
        precision, "known_precision", lambda device: PRECISIONS[choice == "float32"]
    )
    again = run(AUTO, resume=True)  # on a machine that would choose the other one
    assert again.pipeline.precision == choice


def test_a_timing_leaves_no_trace_in_the_training(run, monkeypatch):
    """Where no rule decides, a copy is trained; the run is the one that names its format."""
    monkeypatch.setattr(precision, "known_precision", lambda device: None)
    timed, measure = [], precision.faster_precision

    def watch(trainer):
        timed.append(measure(trainer))
        return "float32"

    monkeypatch.setattr(precision, "faster_precision", watch)
    chosen = weights(run(AUTO))
    assert len(timed) == 1
    named = weights(run("float32", overwrite=True))
    assert all(torch.equal(chosen[name], named[name]) for name in named)


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.5, "bfloat16"), (0.97, "float32"), (2.0, "float32")]
)
def test_the_faster_format_is_taken_if_it_is_faster_by_more_than_noise(
    run, monkeypatch, seconds, expected
):
    trainer, now = run("float32").get_trainer(), [0.0]

    def iteration(engine, batch):
        now.append(now[-1] + (seconds if engine.precision == torch.bfloat16 else 1.0))

    monkeypatch.setattr(precision.time, "process_time", lambda: now[-1])
    monkeypatch.setattr(trainer, "_iteration", iteration)
    assert precision.faster_precision(trainer) == expected
    assert len(now) == 5


def test_timing_draws_nothing_from_the_global_generator(monkeypatch):
    monkeypatch.setattr(precision, "known_precision", lambda device: None)
    monkeypatch.setattr(precision, "faster_precision", lambda trainer: "bfloat16")
    before = torch.get_rng_state()
    assert precision_for(CPU, lambda: torch.manual_seed(7)) == "bfloat16"
    assert torch.equal(torch.get_rng_state(), before)
