"""Trains on a store that is larger than the memory that the process may have.

    python benchmarks/streaming.py --work DIR

Writes a store of repeated phantom slices and trains ``attri_vae_unguided`` on it with the memory of
the process capped (RLIMIT_DATA: what it allocates, without the mapped files, which the system drops
when it needs room). Prints the peak of anonymous memory, and how long the steps take beside those
of a small part of the store that lies in memory as a block: both in turns, in one process.
"""

from __future__ import annotations

import json
import resource
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pandas as pd
import torch

from cardiac_attrivae.data.loader import DeviceLoader
from cardiac_attrivae.data.manifest import load_manifest
from cardiac_attrivae.data.phantom import write_phantoms
from cardiac_attrivae.data.preprocess import preprocess
from cardiac_attrivae.data.recipe import Recipe
from cardiac_attrivae.data.store import SliceDataset, content_hash
from cardiac_attrivae.runtime.provenance import seal
from cardiac_attrivae.training.augmentation import prepared
from cardiac_attrivae.training.config import load_pipeline
from cardiac_attrivae.training.workflow import TrainingWorkflow


def repeated(small: Path, large: Path, gigabytes: float) -> None:
    """Writes the slices of a store over and over, as those of other patients."""
    dataset = SliceDataset.open(small)
    times = int(gigabytes * 1e9 / dataset.nbytes) + 1
    large.mkdir()
    parts = []
    for number in range(times):
        case = dataset.cases["case"] + f"-{number:05d}"
        parts.append(dataset.cases.assign(case=case))
    pd.concat(parts).to_csv(large / "cases.csv", index=False)
    for name, field in (("images", dataset.images), ("labels", dataset.labels)):
        values = field.numpy()
        shape = (times * len(values), *values.shape[1:])
        array = np.lib.format.open_memmap(large / f"{name}.npy", "w+", values.dtype, shape)
        for number in range(times):
            array[number * len(values) : (number + 1) * len(values)] = values
        array.flush()
    (large / "masks.npz").write_bytes((small / "masks.npz").read_bytes())  # nothing is measured
    splits = {split: count * times for split, count in dataset.info["splits"].items()}
    info = dataset.info | {"splits": splits, "content_hash": content_hash(large)}
    (large / "dataset.json").write_text(json.dumps(info | {"sha256": seal(info)}))


def anonymous_mib() -> float:
    """Memory of this process that belongs to no file."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status has no RssAnon")


def endless(loader: DeviceLoader) -> Iterator[dict[str, torch.Tensor]]:
    while True:
        yield from loader


@click.command()
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Empty folder.")
@click.option("--gigabytes", default=4.0, show_default=True, help="Of the store.")
@click.option("--memory", default=2.0, show_default=True, help="GB that the process may allocate.")
@click.option("--pipeline", default="attri_vae_unguided", show_default=True)
@click.option("--steps", default=10, show_default=True, help="Of a round.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--device", default="cpu", show_default=True)
def main(
    work: Path, gigabytes: float, memory: float, pipeline: str, steps: int, rounds: int, device: str
) -> None:
    work.mkdir(parents=True, exist_ok=True)
    store = work / "large"
    if not store.is_dir():
        write_phantoms("acdc", work / "source", cases=12, cine=False)
        preprocess(load_manifest("acdc"), work / "source", work / "small", Recipe(slice="all"))
        repeated(work / "small", store, gigabytes)
    if device == "cpu":  # CUDA itself reserves more than the slices take
        limit = int(memory * 1e9)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    def workflow(rows: int | None, name: str) -> TrainingWorkflow:
        dataset = SliceDataset.open(store)
        train, val = dataset.split("train"), dataset.split("val").take([])
        part = train if rows is None else train.take(range(rows))
        run = TrainingWorkflow(
            load_pipeline(pipeline), part, val, work / name, device=device, overwrite=True
        )
        run.initialize()
        return run

    start = time.perf_counter()
    runs = {"streamed": workflow(None, "streamed"), "block": workflow(640, "block")}
    trainers = {name: run.get_trainer() for name, run in runs.items()}
    for name, run in runs.items():
        loader, dataset = run.get_trainer().data_loader, run.get_train_dataset()
        if (loader.block is None) != (name == "streamed"):
            raise click.ClickException(f"the slices of {name} are not; choose --gigabytes larger")
        click.echo(f"{name}: {len(dataset)} slices, {dataset.nbytes / 1e9:.2f} GB")
    click.echo(f"opened, hashed and built in {time.perf_counter() - start:.0f} s")
    batches = {name: endless(trainer.data_loader) for name, trainer in trainers.items()}

    peak, spent = 0.0, {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, trainer in trainers.items():
            trainer.state.epoch = 1
            start = time.perf_counter()
            for _ in range(steps):
                output = trainer._iteration(trainer, next(batches[name]))
                peak = max(peak, anonymous_mib())
            float(output["loss"])  # waits for the device
            if number:  # the first round warms up
                spent[name].append((time.perf_counter() - start) / steps)
    for iterator in batches.values():
        iterator.close()
    capped = f", capped at {memory:.1f} GB" if device == "cpu" else ""
    click.echo(f"peak of anonymous memory {peak / 1024 * 1.073741824:.2f} GB{capped}")
    for name, values in spent.items():
        click.echo(f"{name}: {1 / statistics.median(values):.2f} steps per second")
    ratios = sorted(a / b for a, b in zip(spent["streamed"], spent["block"], strict=True))
    click.echo(
        f"a streamed step takes {statistics.median(ratios):.2f} times as long "
        f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
    )

    loader = trainers["streamed"].data_loader
    rows = torch.randperm(len(loader.dataset))[: steps * loader.batch_size]
    chunks = rows.split(loader.batch_size)
    start = time.perf_counter()
    for chunk in chunks:
        loader.dataset.read(chunk)
    read = (time.perf_counter() - start) / len(chunks)
    start = time.perf_counter()
    for chunk in chunks:
        prepared(loader.dataset.read(chunk))
    prepare = (time.perf_counter() - start) / len(chunks) - read
    click.echo(f"of a batch of {loader.batch_size}: read {1e3 * read:.1f} ms (ahead, in threads), "
               f"prepared {1e3 * prepare:.1f} ms")  # fmt: skip


if __name__ == "__main__":
    main()
