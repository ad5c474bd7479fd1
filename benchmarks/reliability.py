"""What was tried against the package: the tables of docs/evidence/reliability.md.

    python benchmarks/reliability.py [--only SECTION]... [--kills 12] [--fuzz 20]
                                     [--atheris PYTHON] [--minutes 10] [--scale FILE.csv]

Sections, each of which replaces its own part of the results and leaves the others:

- ``faults``: the tests over tests/faults.py and its like, counted by the kind of file damaged.
- ``kills``: commands are killed (SIGKILL, with all their processes) at random moments and called
  again, until as many kills are made as were asked for. Each time a command ends by itself, its
  files must equal those of a call that nothing disturbed.
- ``fuzz``: random damages by hypothesis, and by atheris if a Python that has it is named.
- ``scale``: takes over what benchmarks/scale.py measured.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from cardiac_attrivae.data.cases import find_cases
from cardiac_attrivae.data.manifest import load_manifest
from cardiac_attrivae.data.phantom import write_phantoms
from cardiac_attrivae.data.preprocess import preprocess
from cardiac_attrivae.data.recipe import Recipe
from cardiac_attrivae.data.store import SliceDataset
from cardiac_attrivae.runtime.files import PART, write
from cardiac_attrivae.training.run import load_run

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = (
    ROOT / "benchmarks" / "reliability.json",
    ROOT / "docs" / "evidence" / "reliability.md",
)
BEGIN, END = "<!-- table -->", "<!-- end of table -->"


# Kills --------------------------------------------------------------------------------------------

CASES = 27
"""Phantoms of each data set: enough patients in every split to teach and to score."""
SMALL = Recipe(slice="all", spacing=5.2, size=32)
"""Slices of few pixels, where a segmenter has to be taught again after most kills."""
SHORT = ("schedule.steps_per_epoch=4", "data.batch_size=8", "schedule.evaluate_every=1")


def short(*changes: str) -> tuple[str, ...]:
    """Options of a short training."""
    return tuple(word for change in (*SHORT, *changes) for word in ("--set", change))


@dataclass(frozen=True)
class Job:
    """A command that is killed and called again.

    Attributes:
        name: Of the row of the table.
        words: What follows ``cardiac-attrivae``; called in a folder of its own.
        given: What lies in that folder at first: name there -> folder beside it.
        store: Which one it makes, if it makes one.
        once: Whether it refuses to make it again.
        taught: Whether the store gets the segmenter of the undisturbed call as soon as it is there:
            on slices of full size, teaching takes longer than all the rest.
    """

    name: str
    words: tuple[str, ...]
    given: tuple[tuple[str, str], ...] = ()
    store: str = ""
    once: bool = False
    taught: bool = False


TRAIN = ("train", "--data", "store", "--output", "run", "--seed", "3", "--device", "cpu")
PREPROCESS = ("preprocess", "--dataset", "acdc", "--source", "../acdc", "--output", "store")
JOBS = (
    Job("preprocess", (*PREPROCESS, "--slice", "all", "--workers", "2"), store="store", once=True),
    Job(
        "preprocess --overwrite",
        (*PREPROCESS, "--slice", "mid", "--workers", "2", "--overwrite"),
        (("store", "acdc_store"),),
        store="store",
    ),
    Job(
        "train attri_vae_unguided",
        (*TRAIN, "--resume", "--pipeline", "attri_vae_unguided")
        + short("schedule.epochs=25", "schedule.keep=best"),
        (("store", "acdc_store"),),
    ),
    Job(
        "train attri_sivae_unguided",
        (*TRAIN, "--resume", "--pipeline", "attri_sivae_unguided") + short("schedule.epochs=12"),
        (("store", "acdc_store"),),
    ),
    Job(
        "cross-domain-eval",
        ("cross-domain-eval", "--model", "one", "--model", "two", "--data", "acdc", "--data",
         "mnms", "--output", "evaluation", "--rounds", "50", "--workers", "2", "--device", "cpu"),
        (("one", "one"), ("two", "two"), ("acdc", "acdc_small"), ("mnms", "mnms_small")),
    ),
    Job(
        "reproduce",
        ("reproduce", "--acdc", "../acdc", "--output", "paper", "--seeds", "1", "--rounds", "10",
         "--workers", "2", "--device", "cpu", *short("schedule.epochs=1")),
        store="paper/stores/acdc",
        taught=True,
    ),
)  # fmt: skip


def prepare(work: Path) -> set[str]:
    """Writes what the jobs start from; returns the cases of ACDC."""
    for dataset in ("acdc", "mnms"):
        tree = work / dataset
        if not tree.exists():
            write_phantoms(dataset, tree, cases=CASES, cine=False)
            if dataset == "acdc":  # a file of one case that cannot be used: counted, not lost
                mask = next(tree.rglob("*_gt.nii.gz"))
                mask.write_bytes(mask.read_bytes()[:1000])
            preprocess(load_manifest(dataset), tree, work / f"{dataset}_small", SMALL)
    if not (work / "acdc_store").exists():
        recipe = Recipe(slice="all")
        preprocess(load_manifest("acdc"), work / "acdc", work / "acdc_store", recipe)
    for seed, run in enumerate(("one", "two")):
        small = short("network.arguments.image_size=32", "schedule.epochs=2")
        words = (
            "train",
            "--pipeline",
            "attri_vae_unguided",
            "--data",
            "acdc_small",
            "--output",
            run,
        )
        if not (work / run / "summary.json").exists():
            call((*words, "--seed", str(seed), "--resume", *small), work, work / "log.txt")
    found = find_cases(load_manifest("acdc"), work / "acdc")
    return {record.case for record in found.records} | {case for case, _ in found.skipped}


@dataclass
class Call:
    """How a call went: its exit code (None if it was killed), and seconds until its first file and
    until its end."""

    code: int | None
    first: float
    seconds: float


def call(
    words: tuple[str, ...],
    folder: Path,
    log: Path,
    moment: float = math.inf,
    beside: Callable[[], None] = lambda: None,
) -> Call:
    """Runs a command, and kills it and all its processes after ``moment`` seconds."""
    before, first = newest(folder), 0.0
    start = time.perf_counter()
    with open(log, "ab", buffering=0) as stream:
        stream.write(f"$ {' '.join(words)}  # {moment:.2f} s\n".encode())
        process = subprocess.Popen(
            [sys.executable, "-m", "cardiac_attrivae", *words],
            cwd=folder,
            env={"OMP_NUM_THREADS": "1"} | os.environ,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    try:
        while process.poll() is None and time.perf_counter() - start < moment:
            if not first and newest(folder) != before:
                first = time.perf_counter() - start
            beside()
            time.sleep(0.01)
    finally:
        killed = process.poll() is None
        if killed:
            end_group(process.pid)
        process.wait()
    return Call(None if killed else process.returncode, first, time.perf_counter() - start)


def newest(folder: Path) -> int:
    """When a name in a folder, or below it, last came, went or changed, in ns."""
    times = [folder.stat().st_mtime_ns]
    for root, _, _ in os.walk(folder):
        with suppress(FileNotFoundError):
            times.append(os.stat(root).st_mtime_ns)
    return max(times)


def end_group(group: int) -> None:
    """Kills every process of a group and waits until they are gone."""
    with suppress(ProcessLookupError):
        for _ in range(1000):
            os.killpg(group, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(group, os.WNOHANG)
            time.sleep(0.01)


def lay_out(job: Job, work: Path) -> Path:
    """The folder of a job, as it is at first."""
    folder = work / "job"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, source in job.given:
        shutil.copytree(work / source, folder / name)
    return folder


TIMES = {"wall_time_s", "steps_per_second", "peak_memory_mib", "seconds"}
"""Of JSON files: what differs between any two calls."""
MINUTES = re.compile(rb'[\d.,]+(?=</td><td class="text">cpu| minutes)')
"""Of the page: those of a training, and of the evaluation."""


def fingerprint(folder: Path) -> dict[str, str]:
    """What a command left: digests by the name of the file, without logs and times."""
    found = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = file.relative_to(folder)
        # TensorBoard's and the logs tell when; made_from.json holds times of files
        if {"tensorboard", "logs"} & set(name.parts) or file.name == "made_from.json":
            continue
        content = file.read_bytes()
        if file.suffix == ".json":
            with suppress(ValueError):  # one that is cut off is compared as it is
                content = json.dumps(without_times(json.loads(content))).encode()
        elif file.suffix == ".html":
            content = MINUTES.sub(b"", content)
        found[str(name)] = hashlib.sha256(content).hexdigest()
    return found


def differences(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """Files that only one of two fingerprints has, or that differ."""
    return sorted(name for name in one | other if one.get(name) != other.get(name))


def without_times(value: Any) -> Any:
    """JSON without the keys `TIMES`."""
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in TIMES}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def read_arrays(file: Path) -> None:
    """All arrays of an npy file: a case that preprocess has finished holds several."""
    with open(file, "rb") as stream:
        while stream.peek(1):
            np.load(stream)


def read_page(file: Path) -> None:
    """A page to its end."""
    if not file.read_text().rstrip().endswith("</html>"):
        raise ValueError("cut off")


READERS: dict[str, Callable[[Path], object]] = {
    ".csv": pd.read_csv,
    ".gif": lambda file: Image.open(file).load(),
    ".html": read_page,
    ".json": lambda file: json.loads(file.read_text()),
    ".npy": read_arrays,
    ".npz": lambda file: dict(np.load(file)),
    ".png": lambda file: Image.open(file).load(),
    ".pt": lambda file: torch.load(file, weights_only=True),
    ".safetensors": load_file,
    ".yaml": lambda file: yaml.safe_load(file.read_text()),
}


def unreadable(folder: Path) -> Iterator[str]:
    """Files that lie: under their own name, and not whole. Stores and runs are opened as well."""
    for file in folder.rglob("*"):
        parts = file.relative_to(folder).parts
        if any(map(PART.match, parts)) or not file.is_file():
            continue
        in_view = not any(part.startswith(".") for part in parts)
        readers = [READERS.get(file.suffix, Path.read_bytes)]
        if in_view and file.name == "images.npy":
            readers.append(lambda file: SliceDataset.open(file.parent))
        if file.name == "model.safetensors":
            readers.append(lambda file: load_run(file.parent))
        for read in readers:
            try:
                read(file)
            except Exception as error:  # whatever it is, the file is damaged
                yield f"{file.relative_to(folder)}: {error}".replace(f"{folder}/", "")


def told_of(store: Path) -> set[str]:
    """Cases that a store holds, or says why not."""
    tables = [pd.read_csv(store / name, dtype=str) for name in ("cases.csv", "skipped.csv")]
    return {case for table in tables for case in table["case"]}


def kill_often(
    job: Job, kills: int, work: Path, cases: set[str], random: np.random.Generator
) -> dict[str, Any]:
    """Kills a job as often as asked for, each time at another moment, and tells what became of it.

    One kill in five falls before the first file is written, the others between that and the end of
    an undisturbed call.
    """
    log, taught = work / "log.txt", work / "taught"

    def teach() -> None:
        store = work / "job" / job.store
        if job.taught and taught.exists() and (store / "dataset.json").exists():
            with suppress(FileExistsError):
                shutil.copytree(taught, store / "segmenters")

    def undisturbed() -> tuple[dict[str, str], Call]:
        folder = lay_out(job, work)
        whole = call(job.words, folder, log, beside=teach)
        if whole.code:
            raise RuntimeError(f"{job.name} ended with {whole.code}; see {log}")
        return fingerprint(folder), whole

    shutil.rmtree(taught, ignore_errors=True)
    reference, whole = undisturbed()
    if job.taught:  # a run records the segmenters that lie in its store when it ends
        shutil.copytree(work / "job" / job.store / "segmenters", taught)
        reference, whole = undisturbed()
    again, whole = undisturbed()
    if differ := differences(reference, again):
        raise RuntimeError(f"two undisturbed calls of {job.name} differ in {', '.join(differ)}")

    told: Counter[str] = Counter()
    faults: list[str] = []
    folder = lay_out(job, work)
    while True:
        early = random.random() < 0.2
        begin, end = (0.2, whole.first) if early else (whole.first, whole.seconds)
        moment = random.uniform(begin, end)
        ended = call(job.words, folder, log, moment if told["kills"] < kills else math.inf, teach)
        if ended.code is None:
            told["kills"] += 1
            told["begun"] += ended.first > 0
            told["half_written"] += any(PART.match(path.name) for path in folder.rglob(".part-*"))
            damaged = list(unreadable(folder))
            told["damaged"] += bool(damaged)
            faults += damaged
            if not (job.once and (folder / job.store).exists()):
                continue
        elif ended.code:
            told["refused"] += 1
            faults.append(f"exit code {ended.code}, see the log")
        told["finished"] += 1
        differ = differences(reference, fingerprint(folder))
        told["equal"] += not differ
        faults += differ
        if job.store:
            told["cases"] += len(cases)
            told["lost"] += len(cases - told_of(folder / job.store))
        print(f"{job.name}: {dict(told)} {faults}", flush=True)
        if told["kills"] >= kills:
            columns = ("kills", "begun", "half_written", "damaged", "refused", "finished", "equal")
            row = {column: told[column] for column in (*columns, "cases", "lost")}
            return {**row, "seconds": round(whole.seconds, 1), "faults": faults}
        folder = lay_out(job, work)


def kills(options: argparse.Namespace) -> dict[str, Any]:
    """Row of each job."""
    kept = read_results().get("kills", {})
    with ExitStack() as stack:
        work = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        work.mkdir(parents=True, exist_ok=True)
        cases = prepare(work)
        for number, job in enumerate(JOBS):
            if options.job and job.name not in options.job:
                continue
            random = np.random.default_rng([options.seed, number])
            kept[job.name] = kill_often(job, options.kills, work, cases, random)
            kept[job.name]["file_system"] = file_system(work)
            merge({"kills": kept})
    return kept


def file_system(folder: Path) -> str:
    """What kind a folder is on."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    above = [(place, kind) for place, kind in mounts if folder.resolve().is_relative_to(place)]
    return max(above, key=lambda mount: len(mount[0]))[1]


# Faults -------------------------------------------------------------------------------------------

KINDS = {
    "NIfTI, image": (r"test_a_damaged_case.*\[image: ", ("IMAGE",)),
    "NIfTI, mask": (r"test_a_damaged_case.*\[mask: |test_what_makes_a_mask", ("MASK", "NOTED")),
    "NIfTI, more of them": (r"test_every_damage_is_a_data_error|test_a_fault_is_one_skipped", ()),
    "DICOM": (r"test_dicom.*test_a_damaged_cine", ("DICOM",)),
    "Info.cfg": (r"test_every_info_cfg", ("INFO",)),
    "CSV of M&Ms": (r"test_faults.*test_every_table", ("TABLE",)),
    "links and names of cases": (
        r"test_a_link_that_is|test_nothing_is_written_through|test_a_case_(whose_name|called)|"
        r"test_privacy.*test_names_",
        (),
    ),
    "manifest, pipeline (YAML)": (r"test_yaml_that|test_a_(manifest|pipeline)_of_wrong", ()),
    "key of pseudonyms": (r"test_a_key_that_is_none", ()),
    "slice store": (r"test_a_store_(that_was|of_another)|test_masks_of_another", ()),
    "run": (r"test_a_damaged_or_crafted|test_a_summary_that|test_a_network_of_ones|"
            r"test_a_run_(that_does_not_say|whose_config)", ()),
    "run or its data, changed later": (r"test_verify.*(test_a_change_is|test_what_is_gone)", ()),
}  # fmt: skip
"""Row of the table -> its tests, and those tables of tests/faults.py that say what is accepted."""

MISHAPS = {
    "a disk is full": r"full_disk|too_little_room|enough_space",
    "a worker dies": r"test_pool.*(_dies_|_kills_|_goes|_is_killed)",
    "two calls into one folder": r"two_(runs_do|commands)_|two_do_not_work",
}
"""What befalls a command -> its tests."""


class Recorder:
    """A plugin of pytest: runs what a pattern finds, and keeps how each test ended.

    Attributes:
        ended: Name of the test -> its parameter ``name``, and whether it passed.
        executions: Name of the test -> examples that hypothesis ran in it.
    """

    def __init__(self, pattern: str) -> None:
        self.pattern = re.compile(pattern)
        self.ended: dict[str, tuple[str, bool]] = {}
        self.executions: Counter[str] = Counter()

    def pytest_collection_modifyitems(self, config: Any, items: list[Any]) -> None:
        chosen = [item for item in items if self.pattern.search(item.nodeid)]
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen

    def pytest_runtest_protocol(self, item: Any) -> None:
        """Counts what hypothesis tells while the test runs, inner functions included."""
        from hypothesis.statistics import collector

        def count(statistics: dict[str, Any]) -> None:
            phases = (phase for phase in statistics.values() if isinstance(phase, dict))
            cases = (case for phase in phases for case in phase["test-cases"])
            ran = sum(case["status"] in ("valid", "interesting") for case in cases)
            self.executions[item.nodeid] += ran

        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        self.ended[item.nodeid] = (str(parameters.get("name", "")), True)
        test = item.obj

        def counted(*arguments: Any, **named: Any) -> None:
            with collector.with_value(count):
                test(*arguments, **named)

        item.obj = counted

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.outcome != "passed":
            self.ended[report.nodeid] = (self.ended[report.nodeid][0], False)


def record(pattern: str) -> Recorder:
    """Runs the tests whose name a pattern finds, slow ones too."""
    import pytest

    recorder = Recorder(pattern)
    words = ["-q", "-m", "", "-p", "no:cacheprovider", "--rootdir", str(ROOT), str(ROOT / "tests")]
    # plugins of pytest that a library has imported before it, such as anyio
    words += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    pytest.main(words, plugins=[recorder])
    return recorder


def faults(options: argparse.Namespace) -> dict[str, Any]:
    """Faults by what is damaged, and mishaps by what happens: how many, and what became of them."""
    recorder = record("|".join([*(pattern for pattern, _ in KINDS.values()), *MISHAPS.values()]))
    import faults as tables  # tests/faults.py; the tests have put its folder on the path

    def ends(what: str, pattern: str) -> list[tuple[str, bool]]:
        found = [end for test, end in recorder.ended.items() if re.search(pattern, test)]
        if not found:
            raise RuntimeError(f"no test of: {what}")
        return found

    damaged, mishaps = {}, {}
    for kind, (pattern, names) in KINDS.items():
        accepted = {
            name
            for table in names
            for name, fault in getattr(tables, table).items()
            if table == "NOTED" or fault[-1] is tables.ACCEPTED
        }
        found = ends(kind, pattern)
        read = sum(passed and name.split(": ")[-1] in accepted for name, passed in found)
        failed = sum(not passed for _, passed in found)
        damaged[kind] = {"tried": len(found), "refused": len(found) - read - failed}
        damaged[kind] |= {"read": read, "failed": failed}
    for what, pattern in MISHAPS.items():
        found = ends(what, pattern)
        mishaps[what] = {"tried": len(found), "survived": sum(passed for _, passed in found)}
    return {"damaged": damaged, "mishaps": mishaps}


# Fuzz ---------------------------------------------------------------------------------------------


def fuzz(options: argparse.Namespace) -> dict[str, Any]:
    """Executions and findings, by what made them."""
    kept = read_results().get("fuzz", {})
    recorder = record("test_faults.*damaged_at_random")
    kept["hypothesis"] = {
        "executions": sum(recorder.executions.values()),
        "findings": sum(not passed for _, passed in recorder.ended.values()),
    }
    if options.atheris:
        kept["atheris"] = search(options.atheris, options.minutes)
    return kept


def search(python: Path, minutes: float) -> dict[str, int]:
    """Runs tests/fuzz_nifti.py for a while."""
    with tempfile.TemporaryDirectory() as folder:
        words = [python, ROOT / "tests" / "fuzz_nifti.py", f"-max_total_time={minutes * 60:.0f}"]
        environment = os.environ | {"TMPDIR": folder}
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
        counts = re.findall(r"^#(\d+)|^Done (\d+) runs", done.stderr, re.MULTILINE)
        if not counts:
            raise RuntimeError(f"tests/fuzz_nifti.py: {done.stderr[-500:]}")
        executions = max(int(count) for pair in counts for count in pair if count)
        found = len(list(Path(folder).glob("crash-*")) + list(Path(folder).glob("timeout-*")))
        print(done.stderr[-1500:])
        return {"executions": executions, "findings": max(found, int(done.returncode != 0))}


# Scale --------------------------------------------------------------------------------------------

COST = {
    "cases": "cases",
    "runs": "runs",
    "work_ms": "ms per case, workers",
    "join_ms": "ms per case, to join",
    "total_ms": "ms of processor",
    "x total_ms": "ratio",
    "parent_MiB": "parent, MiB",
    "worker_MiB": "worker, MiB",
}
"""Columns of benchmarks/scale.py -> those of the page."""


def scale(options: argparse.Namespace) -> list[dict[str, float]]:
    """Rows that benchmarks/scale.py wrote."""
    with open(options.scale, newline="") as file:
        return [{name: float(row[name]) for name in COST} for row in csv.DictReader(file)]


# The page -----------------------------------------------------------------------------------------


def read_results() -> dict[str, Any]:
    """What earlier calls found."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def merge(part: dict[str, Any]) -> None:
    """Keeps results of a section beside those of the others, and writes the page anew."""
    results = read_results() | part
    write(RESULTS, json.dumps(results, indent=2) + "\n")
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    write(PAGE, f"{before}{BEGIN}\n\n{tables(results)}\n{END}{after}")


def tables(results: dict[str, Any]) -> str:
    """Markdown of all results."""
    parts = []
    tried, killed = results.get("faults"), results.get("kills")
    if tried:
        rows = [{"what is damaged": kind} | row for kind, row in tried["damaged"].items()]
        parts.append(markdown([*rows, total(rows)]))
        parts.append(markdown([{"what happens": k} | row for k, row in tried["mishaps"].items()]))
    if killed:
        rows = [
            {
                "command": job,
                "kills": row["kills"],
                "at work": row["begun"],
                "left a part": row["half_written"],
                "resumed": row["kills"] - row["refused"],
                "damaged": row["damaged"],
                "ended": row["finished"],
                "equal": row["equal"],
                "cases": row["cases"],
                "lost": row["lost"],
            }
            for job, row in killed.items()
        ]
        systems = ", ".join(sorted({row["file_system"] for row in killed.values()}))
        parts.append(markdown([*rows, total(rows)]) + f"\nOn {systems}.\n")
    if "fuzz" in results:
        parts.append(markdown([{"fuzz": name} | row for name, row in results["fuzz"].items()]))
    if "scale" in results:
        rows = [{COST[name]: value for name, value in row.items()} for row in results["scale"]]
        parts.append(markdown(rows))
    return "\n".join(parts)


def total(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Sums of the columns of numbers."""
    label, *columns = rows[0]
    return {label: "**all**"} | {name: sum(row[name] for row in rows) for name in columns}


def markdown(rows: list[dict[str, Any]]) -> str:
    """A table with a header, numbers short."""
    lines = [rows[0], dict.fromkeys(rows[0], "---"), *rows]
    lines[0] = {name: name for name in rows[0]}
    cells = [[f"{v:,.4g}" if isinstance(v, float) else f"{v:,}" if isinstance(v, int) else v
              for v in line.values()] for line in lines]  # fmt: skip
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


SECTIONS = {"faults": faults, "kills": kills, "fuzz": fuzz, "scale": scale}


def main() -> None:
    """Runs the sections that were asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", choices=SECTIONS, help="default: all")
    parser.add_argument("--kills", type=int, default=12, help="of each command")
    names = [job.name for job in JOBS]
    parser.add_argument("--job", action="append", choices=names, help="default: every command")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--work", type=Path, help="folder to work in, kept; default: another one")
    parser.add_argument("--fuzz", type=int, default=20, help="times the examples of the test suite")
    parser.add_argument("--atheris", type=Path, help="a Python that has it")
    parser.add_argument("--minutes", type=float, default=10, help="of atheris")
    parser.add_argument("--scale", type=Path, help="table of benchmarks/scale.py")
    options = parser.parse_args()
    os.environ["CARDIAC_ATTRIVAE_FUZZ"] = str(options.fuzz)  # tests/test_faults.py reads it
    for section in options.only or SECTIONS:
        if section == "scale" and not options.scale:
            continue
        merge({section: SECTIONS[section](options)})


if __name__ == "__main__":
    main()
