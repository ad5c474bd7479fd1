"""Commands that need each other: in which order they run, and what a failure or a signal ends."""

import asyncio
import os
import signal
import sys
import threading
import time

import pytest

from cardiac_attrivae.runtime.jobs import (
    DONE,
    FAILED,
    LEFT_OUT,
    Job,
    last_lines,
    run_command,
    run_jobs,
)


def job_of(folder, name, *needs, **options):
    return Job(name, (name,), needs, folder / name, **options)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_a_job_starts_when_those_it_needs_have_ended_and_no_more_run_than_may(tmp_path, workers):
    needs = {"a": (), "b": ("a",), "c": (), "d": ("b", "c"), "e": ("a",), "f": ()}
    jobs = [job_of(tmp_path, name, *others) for name, others in needs.items()]
    events, running, most = [], 0, 0

    async def runner(job):
        nonlocal running, most
        running += 1
        most = max(most, running)
        events.append(("start", job.name))
        await asyncio.sleep(0.001 * (ord(job.name) % 3))
        running -= 1
        events.append(("end", job.name))
        job.done.touch()
        return "", ""

    outcomes = run_jobs(jobs, workers, runner)
    assert [(outcome.job, outcome.state) for outcome in outcomes] == [(n, DONE) for n in needs]
    assert most == min(workers, 3)  # of a, c and f, then b, e and what is left: never more than 3
    for name, others in needs.items():
        for other in others:
            assert events.index(("end", other)) < events.index(("start", name))


def test_one_worker_keeps_the_order_of_jobs_that_need_nothing(tmp_path):
    order = []

    async def runner(job):
        order.append(job.name)
        job.done.touch()
        return "", ""

    run_jobs([job_of(tmp_path, name) for name in "dbca"], 1, runner)
    assert order == list("dbca")


def test_a_failure_stops_what_needs_it_and_nothing_else(tmp_path):
    needs = {"a": (), "b": ("a",), "c": ("b",), "d": (), "e": ("d",)}
    jobs = [job_of(tmp_path, name, *others) for name, others in needs.items()]

    async def runner(job):
        if job.name == "a":
            return "signal 9, Killed", "last words"
        job.done.touch()
        return "", ""

    outcomes = {outcome.job: outcome for outcome in run_jobs(jobs, 2, runner)}
    states = [outcome.state for outcome in outcomes.values()]
    assert states == [FAILED, LEFT_OUT, LEFT_OUT, DONE, DONE]
    assert outcomes["a"].why == "signal 9, Killed"
    assert outcomes["a"].log == "last words"
    assert (outcomes["b"].why, outcomes["c"].why) == ("it needs a", "it needs b")


def test_a_job_that_ends_well_without_its_file_has_failed(tmp_path):
    async def runner(job):
        return "", ""

    (outcome,) = run_jobs([job_of(tmp_path, "a")], 1, runner)
    assert outcome.state == FAILED
    assert str(tmp_path / "a") in outcome.why


def test_a_full_disk_fails_one_job(tmp_path):
    async def runner(job):
        if job.name == "a":
            raise OSError("No space left on device")
        job.done.touch()
        return "", ""

    outcomes = run_jobs([job_of(tmp_path, name) for name in "ab"], 1, runner)
    assert [outcome.state for outcome in outcomes] == [FAILED, DONE]
    assert outcomes[0].why == "No space left on device"


def test_a_job_made_from_something_is_done_until_that_changes(tmp_path):
    ran = []

    async def runner(job):
        ran.append(job.made_from)
        return "", ""

    for made_from in ("one", "one", "two", "one"):
        run_jobs([job_of(tmp_path, "a", made_from=made_from)], 1, runner)
    assert ran == ["one", "two", "one"]


@pytest.fixture
def sleeper(tmp_path, monkeypatch):
    """A command that writes its process id to the file ``pid`` and sleeps."""
    script = tmp_path / "sleeper"
    script.write_text(f"#!/bin/sh\necho $$ > {tmp_path / 'pid.tmp'}\n"
                      f"mv {tmp_path / 'pid.tmp'} {tmp_path / 'pid'}\nexec sleep 60\n")  # fmt: skip
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    return tmp_path / "pid"


def wait_for(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_sigterm_ends_the_running_commands_first(tmp_path, sleeper):
    async def runner(job):
        with open(tmp_path / "lock", "w") as lock:
            return await run_command(job, tmp_path, 1, lock.fileno())

    def end():
        wait_for(sleeper.exists)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=end)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run_jobs([job_of(tmp_path, "a"), job_of(tmp_path, "b")], 1, runner)
    thread.join()
    with pytest.raises(ProcessLookupError):
        os.kill(int(sleeper.read_text()), 0)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert not (tmp_path / "b.log").exists()


def test_a_command_tells_its_exit_code_or_signal_and_its_last_lines(tmp_path, monkeypatch):
    script = tmp_path / "script"
    script.write_text('#!/bin/sh\necho "$@" $OMP_NUM_THREADS >&2\nprintf "\\377\\n\\n"\n$3\n')
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def ran(*words):
        job = Job("s", words, (), tmp_path / "s")
        with open(tmp_path / "lock", "w") as lock:
            return asyncio.run(run_command(job, tmp_path, 3, lock.fileno()))

    assert ran("true") == ("", "")
    why, log = ran("exit 7")
    assert why == "exit code 7"
    assert log.splitlines()[-2:] == ["-m cardiac_attrivae exit 7 3", "\ufffd"]
    script.write_text("#!/bin/sh\nkill -9 $$\n")
    assert ran("x")[0] == "signal 9, Killed"
    script.write_text("#!/bin/sh\necho held > /dev/fd/$3\n")
    with open(tmp_path / "held", "w") as lock:
        job = Job("s", (str(lock.fileno()),), (), tmp_path / "s")
        assert asyncio.run(run_command(job, tmp_path, 3, lock.fileno())) == ("", "")
    assert (tmp_path / "held").read_text() == "held\n"
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    script.write_text("#!/bin/sh\necho $OMP_NUM_THREADS; exit 1\n")
    assert ran("x")[1].endswith("\n8")  # the user's own stays


def test_last_lines_of_a_long_log_are_read_from_its_end(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"\xff" * 10_000 + b"\n" + b"".join(b"line %d\n\n" % i for i in range(1000)))
    assert last_lines(log, 2) == "line 998\nline 999"
