"""Devices by their names, and what they are asked."""

import numpy as np
import pytest
import torch

from cardiac_attrivae.runtime import device as devices
from cardiac_attrivae.runtime.device import describe_device, find_device, peak_memory_mib

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "meta", ""])
def test_an_unknown_device_is_refused_with_what_is_accepted(name):
    with pytest.raises(ValueError, match=f"device is '{name}'.*; ?.*expected auto"):
        find_device(name)


def test_the_cpu_is_described_by_its_threads(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert describe_device(CPU) == "cpu, 1 thread"
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert describe_device(CPU) == "cpu, 4 threads"


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
