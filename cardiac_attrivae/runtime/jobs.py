"""Jobs: commands that need each other's files, several of which run at once.

A job whose file exists is not run again, so that the same call continues what was interrupted.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, STDOUT
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from .environment import WINDOWS
from .files import write

DONE, FAILED, LEFT_OUT = "done", "failed", "left out"


@dataclass(frozen=True)
class Job:
    """One command."""

    name: str  # unique name, also of its log
    arguments: tuple[str, ...]  # what follows ``python -m cardiac_attrivae``
    needs: tuple[str, ...]  # names of the jobs that must be done before it can start
    done: Path  # file that exists when the job is done
    # content of ``done`` if the job was run on the same inputs; `run_jobs` writes it. Empty if the
    # command itself writes ``done``, whose existence then is enough.
    made_from: str = ""
    # called when the job could start; returns why it is left out, or an empty text
    unless: Callable[[], str] = str

    @property
    def is_done(self) -> bool:
        return self.done.is_file() and self.made_from in ("", self.done.read_text("utf-8"))


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    job: str  # name of the job
    state: str = DONE  # ``done``, ``failed`` or ``left out``
    why: str = ""  # exit code or signal of a failure, or why the job was left out
    log: str = ""  # last lines of the log of a failed job
    seconds: float = 0.0  # run time

    def __str__(self) -> str:
        why = f" ({self.why})" if self.why else ""
        return f"{self.job} {self.state}{why} after {self.seconds / 60:.1f} min"


Runner = Callable[[Job], Awaitable[tuple[str, str]]]
"""Runs a job. Returns why it failed and the last lines of its log, or two empty texts."""


def run_jobs(jobs: Sequence[Job], workers: int, runner: Runner) -> list[Outcome]:
    """Runs the jobs that are not done, each as soon as the jobs that it needs are done.

    A job that fails stops only the jobs that need it. A terminal shows a progress bar and the
    failures; elsewhere each job that ends prints a line on standard error.

    Args:
        jobs: Started in this order if nothing else decides.
        workers: Number of jobs that may run at once.
        runner: Runs one job; cancelled on an interruption.

    Returns:
        Outcome of each job, in the order of ``jobs``.

    Raises:
        KeyboardInterrupt: On Ctrl-C and SIGTERM, after the running jobs have ended.
    """
    try:
        return asyncio.run(_run_jobs(jobs, workers, runner))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


async def _run_jobs(jobs: Sequence[Job], workers: int, runner: Runner) -> list[Outcome]:
    everything = asyncio.current_task()
    assert everything is not None
    with suppress(NotImplementedError):  # Windows
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, everything.cancel)
    slots, running = asyncio.Semaphore(workers), list[str]()

    def show_running() -> None:
        more = f" and {len(running) - 1} more" if len(running) > 1 else ""
        bar.set_postfix_str(f"{running[0]}{more}" if running else "")

    async def outcome_of(job: Job) -> Outcome:
        if job.is_done:
            return Outcome(job.name)
        missing = [name for name in job.needs if (await tasks[name]).state != DONE]
        if why := f"it needs {missing[0]}" if missing else job.unless():
            bar.update()
            return Outcome(job.name, LEFT_OUT, why)
        async with slots:
            running.append(job.name)
            show_running()
            outcome = await _run(job, runner)
            running.remove(job.name)
        show_running()
        bar.update()
        if outcome.state == FAILED or bar.disable:
            tqdm.write(str(outcome), file=sys.stderr)
        return outcome

    to_do = sum(not job.is_done for job in jobs)
    with tqdm(total=to_do, unit="job", dynamic_ncols=True, disable=None) as bar:
        async with asyncio.TaskGroup() as group:
            tasks = {job.name: group.create_task(outcome_of(job)) for job in jobs}
    return [task.result() for task in tasks.values()]


async def _run(job: Job, runner: Runner) -> Outcome:
    start = time.perf_counter()
    try:
        why, log = await runner(job)
        if not why and job.made_from:
            write(job.done, job.made_from)
    except OSError as error:  # a full disk, or no more processes
        why, log = str(error), ""
    if not why and not job.is_done:
        why = f"it did not write {job.done}"
    return Outcome(job.name, FAILED if why else DONE, why, log, time.perf_counter() - start)


async def run_command(job: Job, logs: Path, threads: int, lock: int) -> tuple[str, str]:
    """Runs a job as a process of its own; see `Runner`.

    Args:
        job: Job to run.
        logs: Folder of the log, to which the output is appended.
        threads: OMP_NUM_THREADS, unless the user set it.
        lock: File descriptor of a lock that the process inherits, and so keeps if this one dies.
    """
    log = logs / f"{job.name}.log"
    command = [sys.executable, "-m", "cardiac_attrivae", *job.arguments]
    environment = {"OMP_NUM_THREADS": str(threads)} | os.environ
    with open(log, "ab", buffering=0) as stream:
        stream.write(os.fsencode(f"$ {shlex.join(command)}\n"))
        child = await asyncio.create_subprocess_exec(
            *command,
            stdin=DEVNULL,
            stdout=stream,
            stderr=STDOUT,
            env=environment,
            pass_fds=() if WINDOWS else (lock,),
        )
        try:
            status = await child.wait()
        finally:
            if child.returncode is None:
                child.terminate()
                await child.wait()
    if status == 0:
        return "", ""
    ended = f"signal {-status}, {signal.strsignal(-status)}" if status < 0 else ""
    return ended or f"exit code {status}", last_lines(log)


def last_lines(log: Path, count: int = 5) -> str:
    """Returns the end of a text file, whatever bytes it holds, without empty lines."""
    with open(log, "rb") as stream:
        stream.seek(max(0, log.stat().st_size - 4000))
        text = stream.read().decode(errors="replace")
    return "\n".join([line for line in text.splitlines() if line.strip()][-count:])
