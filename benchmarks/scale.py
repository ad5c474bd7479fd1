"""What a case costs as a data set grows: time of each phase, memory of parent and workers.

    python benchmarks/scale.py [--sizes 100,500,1000,2500,5000] [--folder DIR] [--csv FILE]

1,000 different phantoms (ED and ES alone, layout of ACDC) are drawn once; a data set of 5,000 has
each five times, as hard links under another id. Each measurement is `preprocess` of one data set,
every usable slice, on two workers, in a fresh process; the small sizes several times, all sizes in
turn, so that what else the machine does falls on all of them. Files are read before the first
measurement: what is measured is work, not the disk.

- start: from the start of the process to the first `WARM` cases, workers and imports included
- work: each further case, clock, and processor of parent and workers together
- join: the store made of the finished cases, contact sheet and hashes included, per case
- parent, worker: the largest resident memory of a process, MiB

Rows are medians over repeats, ratios are to the first row. Processor time is what to compare on a
machine that does other work too. Needs psutil, which comes with the extra `dask`.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy: one process, one core

import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import click
import pandas as pd
import psutil

from cardiac_attrivae.data.manifest import load_manifest
from cardiac_attrivae.data.phantom import MAX_CASES, write_phantoms
from cardiac_attrivae.runtime.files import write
from cardiac_attrivae.schema import SYNTHETIC

DIFFERENT, WARM, WORKERS = 1000, 20, 2
REPEATS = 1000
"""Cases that all repeats of a size hold together, about."""
COLUMNS = ["start_s", "work_ms", "work_cpu_ms", "join_ms", "join_cpu_ms", "total_ms"]
MEMORY = ["parent_MiB", "worker_MiB"]


def draw(folder: Path) -> list[Path]:
    """Folders of 1,000 different patients, as many as there are per seed in turn."""
    patients = []
    for seed in range(-(-DIFFERENT // MAX_CASES["acdc"])):
        done, tree = folder / f"{seed}.done", folder / str(seed)
        if not done.exists():
            shutil.rmtree(tree, ignore_errors=True)
            write_phantoms("acdc", tree, MAX_CASES["acdc"], seed, quirks=False, cine=False)
            done.touch()
        patients += sorted(path for path in tree.glob("*/*") if path.is_dir())
    return patients[:DIFFERENT]


def link(patients: list[Path], cases: int, tree: Path) -> Path:
    """A data set of so many cases, of hard links under ids of its own."""
    for number in range(cases):
        patient = patients[number % len(patients)]
        case = f"{number:05d}{patient.name}"
        to = tree / patient.parent.name / case
        to.mkdir(parents=True)
        for file in patient.iterdir():
            os.link(file, to / file.name.replace(patient.name, case))
    (tree / SYNTHETIC).touch()
    return tree


def measure(source: Path, output: Path) -> dict[str, float]:
    """One run of `preprocess` in this process, which was just started."""
    from cardiac_attrivae.data.preprocess import preprocess
    from cardiac_attrivae.data.recipe import Recipe

    me = psutil.Process()
    ticks = {}

    def tick(name: str) -> None:
        used = [process.cpu_times()[:2] for process in (me, *me.children(recursive=True))]
        ticks[name] = time.time(), sum(map(sum, used)), sum(used[0])

    def watched(items: Iterable, total: int) -> Iterator:
        for count, item in enumerate(items, start=1):
            yield item
            if count == WARM:
                tick("warm")
        tick("worked")

    recipe = Recipe(slice="all")
    summary = preprocess(
        load_manifest("acdc"), source, output, recipe, workers=WORKERS, progress=watched
    )
    tick("joined")
    parent = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    worker = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    (warm, warm_cpu, _), (worked, worked_cpu, parent_cpu), (joined, _, joined_cpu) = (
        ticks[name] for name in ("warm", "worked", "joined")
    )
    n = summary.cases
    return {
        "cases": n,
        "slices": summary.slices,
        "start_s": warm - me.create_time(),
        "work_ms": 1000 * (worked - warm) / (n - WARM),
        "work_cpu_ms": 1000 * (worked_cpu - warm_cpu) / (n - WARM),
        "join_ms": 1000 * (joined - worked) / n,
        "join_cpu_ms": 1000 * (joined_cpu - parent_cpu) / n,
        "parent_MiB": parent / 1024,
        "worker_MiB": worker / 1024,
        "store_MiB": sum(file.stat().st_size for file in output.iterdir()) / 2**20,
    }


def rounds(sizes: list[int]) -> list[int]:
    """Sizes in the order of measurement: the repeats of a size are spread over the whole time."""
    repeats = {size: max(1, min(5, REPEATS // size)) for size in sizes}
    spread = [(k / n, size) for size, n in repeats.items() for k in range(n)]
    return [size for _, size in sorted(spread)]


def table(results: list[dict[str, float]]) -> pd.DataFrame:
    """Medians per size, and the ratio of times to the first row."""
    frame = pd.DataFrame(results)
    frame["total_ms"] = frame["work_cpu_ms"] + frame["join_cpu_ms"]
    medians = frame.groupby("cases").median()
    medians.insert(0, "runs", frame.groupby("cases").size())
    ratios = medians[COLUMNS[1:]] / medians[COLUMNS[1:]].iloc[0]
    return medians.join(ratios.add_prefix("x "))


@click.command()
@click.option("--sizes", default="100,500,1000,2500,5000", show_default=True)
@click.option("--folder", type=Path, default=Path(tempfile.gettempdir(), "scale"))
@click.option("--csv", type=Path, help="Where to keep the table.")
@click.option("--one", type=Path, hidden=True)
def main(sizes: str, folder: Path, csv: Path | None, one: Path | None) -> None:
    if one:  # the fresh process
        click.echo(json.dumps(measure(one, folder)))
        return
    patients = draw(folder / "drawn")
    for patient in patients:
        for file in patient.iterdir():
            file.read_bytes()
    results = []
    for size in rounds([int(size) for size in sizes.split(",")]):
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            source = link(patients, size, Path(scratch, "source"))
            command = (sys.executable, __file__, "--one", source, "--folder", f"{scratch}/store")
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        results.append(json.loads(done.stdout.splitlines()[-1]))
        click.echo(f"{results[-1]}, load {os.getloadavg()[0]:.1f}", err=True)
    if csv:
        write(csv, table(results).to_csv())
    with pd.option_context("display.width", 250, "display.max_columns", None):
        click.echo(table(results).round(2).to_string())


if __name__ == "__main__":
    main()
