"""Commands that need each other's files, carried out several at once.

A step whose file is there is not done again, so that what was broken off goes on with the same
call.
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
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from .files import write

DONE, FAILED, LEFT_OUT = "done", "failed", "left out"


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        name: Unique; also that of its log.
        arguments: What follows ``python -m cardiac_attrivae``.
        needs: Names of the steps that must be done before it can start.
        done: File that exists when it is finished.
        made_from: What ``done`` holds if it was made of the same; `carry_out` writes it. Empty if
            the command writes ``done``, and its being there says enough.
        unless: Asked when it could start: why it is left out, or nothing.
    """

    name: str
    arguments: tuple[str, ...]
    needs: tuple[str, ...]
    done: Path
    made_from: str = ""
    unless: Callable[[], str] = str

    @property
    def is_done(self) -> bool:
        return self.done.is_file() and self.made_from in ("", self.done.read_text())


@dataclass(frozen=True)
class Outcome:
    """What became of a step.

    Attributes:
        state: ``done``, ``failed`` or ``left out``.
        why: Exit code or signal of a failure, or why it was left out.
        log: Last lines of the log of a failure.
        seconds: How long it ran.
    """

    step: str
    state: str = DONE
    why: str = ""
    log: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        why = f" ({self.why})" if self.why else ""
        return f"{self.step} {self.state}{why} after {self.seconds / 60:.1f} min"


Runner = Callable[[Step], Awaitable[tuple[str, str]]]
"""Runs a step. Returns why it failed and the last lines of its log, or two empty texts."""


def carry_out(steps: Sequence[Step], workers: int, runner: Runner) -> list[Outcome]:
    """Runs the steps that are not done, each when those that it needs are; a failure stops only
    what needs it.

    A terminal shows a bar and what failed; elsewhere each step that ends is a line on stderr.

    Args:
        steps: In the order in which they start if nothing else decides.
        workers: How many may run at once.
        runner: Runs one; cancelled if the whole is broken off.

    Returns:
        What became of each, in the order of ``steps``.

    Raises:
        KeyboardInterrupt: On Ctrl-C and SIGTERM, when what ran has ended.
    """
    try:
        return asyncio.run(_carry_out(steps, workers, runner))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


async def _carry_out(steps: Sequence[Step], workers: int, runner: Runner) -> list[Outcome]:
    whole = asyncio.current_task()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, whole.cancel)
    slots, running = asyncio.Semaphore(workers), []

    def show_running() -> None:
        more = f" and {len(running) - 1} more" if len(running) > 1 else ""
        bar.set_postfix_str(f"{running[0]}{more}" if running else "")

    async def outcome_of(step: Step) -> Outcome:
        if step.is_done:
            return Outcome(step.name)
        lacking = [name for name in step.needs if (await tasks[name]).state != DONE]
        if why := f"it needs {lacking[0]}" if lacking else step.unless():
            bar.update()
            return Outcome(step.name, LEFT_OUT, why)
        async with slots:
            running.append(step.name)
            show_running()
            outcome = await _run(step, runner)
            running.remove(step.name)
        show_running()
        bar.update()
        if outcome.state == FAILED or bar.disable:
            tqdm.write(str(outcome), file=sys.stderr)
        return outcome

    to_do = sum(not step.is_done for step in steps)
    with tqdm(total=to_do, unit="step", dynamic_ncols=True, disable=None) as bar:
        async with asyncio.TaskGroup() as group:
            tasks = {step.name: group.create_task(outcome_of(step)) for step in steps}
    return [task.result() for task in tasks.values()]


async def _run(step: Step, runner: Runner) -> Outcome:
    start = time.perf_counter()
    try:
        why, log = await runner(step)
        if not why and step.made_from:
            write(step.done, step.made_from)
    except OSError as error:  # a full disk, or no more processes
        why, log = str(error), ""
    if not why and not step.is_done:
        why = f"it did not write {step.done}"
    return Outcome(step.name, FAILED if why else DONE, why, log, time.perf_counter() - start)


async def run_command(step: Step, logs: Path, threads: int, lock: int) -> tuple[str, str]:
    """Runs a step as a process; see `Runner`.

    Args:
        step: What to run.
        logs: Folder of the log, which is appended to.
        threads: OMP_NUM_THREADS, unless the user set it.
        lock: File descriptor that the process holds open, and with it the lock.
    """
    log = logs / f"{step.name}.log"
    command = [sys.executable, "-m", "cardiac_attrivae", *step.arguments]
    environment = {"OMP_NUM_THREADS": str(threads)} | os.environ
    with open(log, "ab", buffering=0) as stream:
        stream.write(os.fsencode(f"$ {shlex.join(command)}\n"))
        child = await asyncio.create_subprocess_exec(
            *command,
            stdin=DEVNULL,
            stdout=stream,
            stderr=STDOUT,
            env=environment,
            pass_fds=(lock,),
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
    """The end of a text file, whatever bytes it holds, without empty lines."""
    with open(log, "rb") as stream:
        stream.seek(max(0, log.stat().st_size - 4000))
        text = stream.read().decode(errors="replace")
    return "\n".join([line for line in text.splitlines() if line.strip()][-count:])
