"""The paper's table in one command: stores, runs, evaluation and report, each made only once.

Every job is a command that a user could type, run in a process of its own. Finished jobs are not
repeated, so the same call continues an interrupted reproduction.
"""

from __future__ import annotations

import csv
import io
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from textwrap import indent
from typing import Any

from .metrics.patients import LEAST
from .runtime.device import find_device
from .runtime.environment import usable_cores
from .runtime.files import write
from .runtime.folders import locked
from .runtime.jobs import FAILED, LEFT_OUT, Job, Outcome, Runner, run_command, run_jobs
from .runtime.outputs import require_free
from .runtime.spreadsheet import quoted
from .schema import DataError
from .training.config import load_pipeline

METHODS = {
    "fast": ("beta_vae_fast", "attri_vae_fast", "soft_intro_vae_fast", "attri_sivae_fast"),
    "paper": ("beta_vae", "attri_vae", "soft_intro_vae_{dataset}", "attri_sivae_{dataset}"),
}
"""Pipelines of the four methods of Table 1 in arXiv 2307.12618; some differ between data sets."""

SPLITS = ("test", "val")
"""Splits that may be scored, in order of preference."""


def plan(
    datasets: Mapping[str, Path],
    seeds: int,
    pipelines: str,
    output: Path,
    *,
    device: str = "auto",
    workers: int = 1,
    changes: Sequence[str] = (),
) -> list[Job]:
    """Lists the jobs up to the last trained model; the first seed of every method comes first.

    Arguments are those of `reproduce`. Data sets that are preprocessed share the workers.
    """
    stores = {name: output / "stores" / name for name in datasets}
    share = max(1, workers // len(datasets))
    jobs = [
        Job(
            f"preprocess_{name}",
            ("preprocess", "--dataset", name, "--source", str(source), "--output",
             str(stores[name]), "--slice", "all", "--drop-duplicates", "--workers", str(share)),
            (),
            stores[name] / "dataset.json",
        )
        for name, source in datasets.items()
    ]  # fmt: skip
    for seed, (dataset, store), method in product(range(seeds), stores.items(), METHODS[pipelines]):
        name = f"{method.removesuffix('_{dataset}')}_{dataset}_seed{seed}"
        run = output / "runs" / name
        sets = (word for change in changes for word in ("--set", change))
        jobs.append(
            Job(
                f"train_{name}",
                ("train", "--pipeline", method.format(dataset=dataset), "--data", str(store),
                 "--output", str(run), "--seed", str(seed), "--device", device, "--resume", *sets),
                (f"preprocess_{dataset}",),
                run / "summary.json",  # written after the model: both are there
                unless=partial(_too_few_to_train, dataset, store),
            )
        )  # fmt: skip
    return jobs


def scoring(
    runs: Sequence[Path],
    stores: Sequence[Path],
    split: str,
    output: Path,
    *,
    device: str = "auto",
    workers: int = 1,
    rounds: int = 1000,
) -> list[Job]:
    """Lists the jobs after training, evaluation and report; they are repeated if an input changed.

    Runs and stores are finished, and the stores have patients in the split; the rest is as for
    `reproduce`.
    """
    inputs = [run / "summary.json" for run in runs] + [store / "dataset.json" for store in stores]
    stats = {str(file.relative_to(output)): file.stat() for file in inputs}
    files = {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}
    made_from = json.dumps({"split": split, "rounds": rounds, "files": files}, indent=2)
    evaluation, report = output / "evaluation", output / "report"
    pairs: list[tuple[str, object]] = [("model", run) for run in runs]
    pairs += [("data", store) for store in stores]
    pairs += [("output", evaluation), ("split", split), ("device", device)]
    pairs += [("rounds", rounds), ("workers", workers)]
    words = (word for name, value in pairs for word in (f"--{name}", str(value)))
    evaluate = ("cross-domain-eval", *words)
    describe = ("report", "--evaluation", str(evaluation), "--output", str(report))
    return [
        Job("evaluate", evaluate, (), evaluation / "made_from.json", made_from),
        Job("report", describe, ("evaluate",), report / "made_from.json", made_from),
    ]


def choose_split(counts: Iterable[Mapping[str, int]]) -> str:
    """Returns the split in which most data sets can be scored; of equal ones ``test``.

    ``counts`` hold, for each data set, split -> number of patients.

    Example:
        >>> choose_split([{"test": 0, "val": 15}])
        'val'
    """
    counts = list(counts)

    def scored(split: str) -> tuple[int, int]:
        patients = [count[split] for count in counts]
        return sum(n >= LEAST for n in patients), sum(n > 0 for n in patients)

    return max(SPLITS, key=scored)


@contextmanager
def claimed(output: Path, wanted: Mapping[str, Any]) -> Iterator[int]:
    """Reserves a folder for one reproduction, described in plan.json, and yields its lock, see
    `locked`.

    The folder is absent, empty, or of the same reproduction with perhaps fewer ``seeds`` and
    ``datasets``; ``wanted`` describes it, as JSON holds it.

    Raises:
        DataError: If the folder holds something else, or another process writes into it.
    """
    file = output / "plan.json"
    with locked(output) as lock:
        require_free(output, "reproduce")
        if file.exists():
            _check_same(file, wanted)
        write(file, json.dumps(wanted, indent=2) + "\n")
        yield lock


def reproduce(
    datasets: Mapping[str, Path],
    output: Path,
    *,
    seeds: int = 5,
    pipelines: str = "fast",
    device: str = "auto",
    workers: int | None = None,
    rounds: int = 1000,
    changes: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> bool:
    """Does everything from files to the report, but for what is finished already.

    Writes stores/, runs/, evaluation/, report/ and logs/ into ``output``, and failures.csv if a
    job failed.

    Args:
        datasets: ``acdc`` or ``mnms`` -> folder that holds it.
        output: Folder to write, see `claimed`.
        seeds: Runs of each method on each data set.
        pipelines: A key of `METHODS`.
        device: See `find_device`.
        workers: Commands at once; None is one on a GPU, else the number of cores.
        rounds: Draws behind each interval and null distribution.
        changes: ``key=value``, laid over every pipeline.
        say: Called with each line of text to print.

    Returns:
        Whether no job failed.

    Raises:
        DataError: If the folder cannot be claimed.
        ValueError: If a pipeline or the device is not accepted.
        KeyboardInterrupt: On Ctrl-C and SIGTERM.
    """
    start = time.perf_counter()
    for method, dataset in product(METHODS[pipelines], datasets):
        load_pipeline(method.format(dataset=dataset), changes)  # fails here, not in forty logs
    workers = workers or (usable_cores() if find_device(device).type == "cpu" else 1)
    # absolute, so that no path reads as an option and plan.json means the same from anywhere
    output = Path(output).resolve()
    datasets = {name: Path(source).resolve() for name, source in datasets.items()}
    wanted = {
        "datasets": {name: str(source) for name, source in datasets.items()},
        "pipelines": pipelines,
        "seeds": seeds,
        "changes": list(changes),
    }
    with claimed(output, wanted) as lock:
        logs = output / "logs"
        logs.mkdir(exist_ok=True)
        jobs = plan(
            datasets, seeds, pipelines, output, device=device, workers=workers, changes=changes
        )
        threads = max(1, usable_cores() // workers)
        runner = partial(run_command, logs=logs, threads=threads, lock=lock)
        try:
            outcomes = _carry_on(jobs, workers, runner, "stores and models", say)
            last = _scoring_of(jobs, output, device, workers, rounds, say)
            if last:
                outcomes += _carry_on(last, workers, runner, "evaluation and report", say)
        except KeyboardInterrupt:
            say("Stopped. Finished jobs are kept; the same command continues from here.")
            raise
        failed = _report_failures(outcomes, output / "failures.csv", say)
    if last and last[-1].is_done:
        say(f"Report: {output / 'report'}")
    say(f"{(time.perf_counter() - start) / 60:.1f} min, logs in {logs}")
    return not failed


def _carry_on(
    jobs: Sequence[Job], workers: int, runner: Runner, what: str, say: Callable[[str], None]
) -> list[Outcome]:
    """Runs the jobs that are not done, if there are any, and prints how many."""
    to_do = sum(not job.is_done for job in jobs)
    if not to_do:
        say(f"{what}: nothing has changed since they were made")
        return []
    say(f"{what}: {len(jobs)} jobs, {len(jobs) - to_do} done already, {to_do} to do")
    return run_jobs(jobs, workers, runner)


def _scoring_of(
    jobs: Sequence[Job],
    output: Path,
    device: str,
    workers: int,
    rounds: int,
    say: Callable[[str], None],
) -> list[Job]:
    """Lists the jobs after training for what is finished; none if that is too little."""
    finished = [job.done.parent for job in jobs if job.is_done]
    runs = [folder for folder in finished if folder.parent.name == "runs"]
    counts = {folder: _splits(folder) for folder in finished if folder not in runs}
    split = choose_split(counts.values())
    stores = [store for store, count in counts.items() if count[split]]
    if not runs or not stores:
        say(f"Nothing to evaluate: {len(runs)} models, {len(stores)} data sets with patients")
        return []
    if split != SPLITS[0]:
        say(f"Scored on {split} patients, on which training may have chosen its best epoch")
    for store, count in counts.items():
        if count[split] < LEAST:
            few = "too few to score codes" if count[split] else "not evaluated on"
            say(f"{store.name} has {count[split]} {split} patients: {few}")
    return scoring(runs, stores, split, output, device=device, workers=workers, rounds=rounds)


def _report_failures(outcomes: Sequence[Outcome], file: Path, say: Callable[[str], None]) -> bool:
    """Prints what failed or was left out, writes failures.csv; returns whether anything failed."""
    left_out = Counter(outcome.why for outcome in outcomes if outcome.state == LEFT_OUT)
    for why, count in left_out.items():
        say(f"Left out {count} x: {why}")
    failed = [outcome for outcome in outcomes if outcome.state == FAILED]
    if not failed:
        file.unlink(missing_ok=True)
        return False
    stream = io.StringIO(newline="")
    rows = ([*map(quoted, (outcome.job, outcome.why, outcome.log))] for outcome in failed)
    csv.writer(stream).writerows([("step", "why", "log"), *rows])
    write(file, stream.getvalue().encode(errors="backslashreplace"))
    for outcome in failed:
        say("\n".join((str(outcome), indent(outcome.log, "    "))))
    say(
        f"{len(failed)} of {len(outcomes)} jobs failed, see {file}; "
        "the same command tries them again"
    )
    return True


def _too_few_to_train(dataset: str, store: Path) -> str:
    patients = _splits(store)["train"]
    few = f"{dataset} has {patients} training patients; training needs {LEAST}"
    return few if patients < LEAST else ""


def _splits(store: Path) -> dict[str, int]:
    return json.loads((store / "dataset.json").read_text("utf-8"))["splits"]


def _check_same(file: Path, wanted: Mapping[str, Any]) -> None:
    """Raises a DataError if plan.json describes a reproduction that this one does not extend."""
    try:
        held = json.loads(file.read_text("utf-8"))
        fits = {key: held[key] == value for key, value in wanted.items()}
        fits["seeds"] = held["seeds"] <= wanted["seeds"]
        fits["datasets"] = held["datasets"].items() <= wanted["datasets"].items()
    except (ValueError, TypeError, KeyError, AttributeError):
        raise DataError(
            f"{file} is not the plan of a reproduction; choose another --output"
        ) from None
    for key in wanted:
        if not fits[key]:
            raise DataError(
                f"{file.parent} holds a reproduction with {key} {held[key]!r}, but this call has "
                f"{wanted[key]!r}; seeds and data sets may only be added. Choose another --output"
            )
