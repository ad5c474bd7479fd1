"""Sixty trainings and evaluations in one process leave nothing behind in it."""

import ctypes
import gc
import os
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from cardiac_attrivae.attributes import AREAS
from cardiac_attrivae.data.manifest import load_manifest
from cardiac_attrivae.data.preprocess import preprocess
from cardiac_attrivae.data.recipe import Recipe
from cardiac_attrivae.data.store import SliceDataset
from cardiac_attrivae.evaluation.cross_domain import cross_domain_eval
from cardiac_attrivae.evaluation.passes import codes_of
from cardiac_attrivae.evaluation.score import Known, score_model
from cardiac_attrivae.runtime.device import find_device
from cardiac_attrivae.segmentation.judge import Training
from cardiac_attrivae.training.config import parse_pipeline
from cardiac_attrivae.training.records import Records
from cardiac_attrivae.training.run import load_run
from cardiac_attrivae.training.workflow import TrainingWorkflow

CYCLES, WARM_UP, EVERY = 60, 20, 10
"""Cycles in all, those before anything is measured, and how often all is evaluated and drawn."""
GROWTH_KIB = 32
"""Most that a cycle may add, by a line through all cycles. Pages that the allocator takes and gives
back, and two numbers per tensor that safetensors 0.8.0 never frees (4 KiB a model read), make it 0
to 9; a network that is kept makes it 1,300, a workflow 7,500."""

PIPELINE = {
    "method": "tiny",
    "attributes": ["LVEDA", "RVEDA"],
    "network": {"arguments": {"latent_size": 4, "image_size": 32}},
    "objective": {"gamma": 1.0},
    "data": {"batch_size": 8, "slices": "all"},
    "augmentation": {"rotation": 10, "zoom": 0.1, "cavity": 0.1, "elastic": 1, "noise": 0.05},
    "optimiser": {"lr": 1e-3, "average": 0.9},
    "schedule": {"epochs": 2, "steps_per_epoch": 2, "keep": "best"},
}


class Held(NamedTuple):
    """What a process holds: what its open files are, the names of its threads, its own memory."""

    files: list[str]
    threads: list[str]
    memory_kib: int

    @classmethod
    def now(cls):
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what is free goes back to the system, and is not counted
        process = Path("/proc/self")
        with os.scandir(process / "fd") as opened:  # itself among them
            files = sorted(os.readlink(file.path) for file in opened)
        threads = sorted(file.read_text() for file in process.glob("task/*/comm"))
        own = next(
            line for line in (process / "status").read_text().splitlines() if "RssAnon" in line
        )
        return cls(files, threads, int(own.split()[1]))


@pytest.fixture(scope="module")
def store(acdc_tree, tmp_path_factory):
    """Slices of few pixels of the ACDC phantoms."""
    folder = tmp_path_factory.mktemp("soak") / "store"
    recipe = Recipe(slice="all", spacing=5.2, size=32)
    preprocess(load_manifest("acdc"), acdc_tree, folder, recipe)
    return folder


def cycle(store, folder, monkeypatch, *, pictures):
    """A training and an evaluation, as the commands make them."""
    data = SliceDataset.open(store)
    with monkeypatch.context() as patch:
        if not pictures:  # they take longer than all the rest
            patch.setattr(Records, "draw", lambda self: None)
        workflow = TrainingWorkflow(
            parse_pipeline(PIPELINE), data.split("train"), data.split("val"), folder / "run",
            device="cpu", overwrite=True,
        )  # fmt: skip
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    if pictures:
        cross_domain_eval(
            [folder / "run"], [store], folder / "evaluation", device="cpu", split="train",
            rounds=2, training=Training(steps=4, batch_size=4),
        )  # fmt: skip
    else:
        run, train = load_run(folder / "run"), data.split("train").basal()
        names, device = run.pipeline.attributes, find_device("cpu")
        known = Known(codes_of(run, train, names, device), train.attributes(AREAS))
        score_model(run, known, train, names, None, device, rounds=2)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc what the process holds")
def test_sixty_trainings_and_evaluations_leave_nothing_behind(store, tmp_path, monkeypatch):
    held = []
    for number in range(1, CYCLES + 1):
        cycle(store, tmp_path, monkeypatch, pictures=number % EVERY == 0)
        if number >= WARM_UP:
            held.append(Held.now())
    first, last = held[0], held[-1]
    memory = [each.memory_kib for each in held]
    growth = np.polyfit(range(len(memory)), memory, 1)[0]
    print(f"{growth:.1f} KiB a cycle, {len(last.files)} files, {len(last.threads)} threads")
    assert last.files == first.files
    assert last.threads == first.threads
    assert growth < GROWTH_KIB, memory
