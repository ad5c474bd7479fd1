"""Devices by their names, and what they are asked."""

import numpy as np
import pytest
import torch

from cardiac_attrivae.runtime import device as devices
from cardiac_attrivae.runtime.device import (
    describe_device,
    find_device,
    idle_cores,
    peak_memory_mib,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "meta", ""])
def test_an_unknown_device_is_refused_with_what_is_accepted(name):
    with pytest.raises(ValueError, match=f"device is '{name}'.*; ?.*expected auto"):
        find_device(name)


def test_auto_prefers_a_gpu_of_nvidia_then_one_of_apple_then_the_cpu(monkeypatch):
    """No Apple GPU was at hand: only the choice is tested."""
    found = {"cuda": False, "mps": False}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: found["cuda"])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: int(found["cuda"]))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: found["mps"])
    assert find_device("auto") == CPU
    with pytest.raises(ValueError, match="device is 'mps' but torch finds no GPU of Apple"):
        find_device("mps")
    found["mps"] = True
    assert find_device("auto") == find_device("mps") == torch.device("mps")
    found["cuda"] = True
    assert find_device("auto") == torch.device("cuda")


@pytest.mark.parametrize(
    ("given", "threads", "busy", "inside"),
    [(False, 4, 0, 4), (False, 4, 75, 1), (True, 4, 75, 4), (False, 1, 0, 1)],
)
def test_busy_cores_are_left_to_others_unless_the_user_says_otherwise(
    monkeypatch, given, threads, busy, inside
):
    now = [threads]
    monkeypatch.setattr(torch, "get_num_threads", lambda: now[-1])
    monkeypatch.setattr(torch, "set_num_threads", now.append)
    monkeypatch.setattr(devices, "GIVEN", given)
    monkeypatch.setattr(devices.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(devices.psutil, "cpu_percent", lambda seconds: busy)
    with idle_cores():
        assert now[-1] == inside
    assert now[-1] == threads


def test_the_cpu_is_described_by_its_threads(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert describe_device(CPU) == "cpu, 1 thread"
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert describe_device(CPU) == "cpu, 4 threads"


@pytest.mark.slow
def test_the_peak_counts_memory_that_was_given_back():
    before = peak_memory_mib(CPU)
    assert 20 < before < 1e5
    np.ones(2**25 + int(before * 2**17))  # 256 MiB more than ever, and gone at once
    assert peak_memory_mib(CPU) > before + 128
    assert peak_memory_mib(CPU) >= before


def test_windows_knows_the_peak_itself(monkeypatch):
    class Process:
        def memory_info(self):
            return type("Info", (), {"peak_wset": 3 * 2**20})

    monkeypatch.setattr(devices.psutil, "Process", Process)
    assert peak_memory_mib(CPU) == 3
