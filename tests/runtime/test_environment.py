"""What the process tells the libraries below it."""

import os
import subprocess
import sys

import pytest

from cardiac_attrivae.runtime import environment
from cardiac_attrivae.runtime.environment import usable_cores

NAMES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "USER", "GOMP_SPINCOUNT")


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Eight hyper-threads of four cores, all allowed, without a quota."""
    for n in range(8):
        folder = tmp_path / "cores" / f"cpu{n}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{n % 4},{n % 4 + 4}\n")
    (tmp_path / "cgroups").mkdir()
    monkeypatch.setattr(environment, "CORES", tmp_path / "cores")
    monkeypatch.setattr(environment, "CGROUPS", tmp_path / "cgroups")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    return tmp_path / "cgroups"


def test_hyper_threads_of_a_core_count_once(machine, monkeypatch):
    assert usable_cores() == 4
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 4, 5})
    assert usable_cores() == 2


def test_without_a_word_from_the_system_all_count(machine, monkeypatch):
    monkeypatch.setattr(environment, "CORES", machine / "absent")
    monkeypatch.delattr(os, "sched_getaffinity")
    assert usable_cores() == 8


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("150000 100000", 2), ("max 100000", 4), ("50000 100000", 1), ("garbage", 4), ("0 0", 4)],
)
def test_the_quota_of_the_container_counts(machine, quota, cores):
    (machine / "cpu.max").write_text(f"{quota}\n")
    assert usable_cores() == cores


@pytest.mark.parametrize(("quota", "cores"), [("300000", 3), ("-1", 4)])
def test_the_quota_of_an_older_system_counts(machine, quota, cores):
    (machine / "cpu").mkdir()
    (machine / "cpu" / "cpu.cfs_quota_us").write_text(quota)
    (machine / "cpu" / "cpu.cfs_period_us").write_text("100000")
    assert usable_cores() == cores


def told(**given):
    program = f"import os, cardiac_attrivae; print([os.environ.get(n) for n in {NAMES}])"
    kept = {name: value for name, value in os.environ.items() if name not in (*NAMES, "LOGNAME")}
    command, environ = [sys.executable, "-c", program], kept | given
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    return eval(done.stdout)


def test_threads_sleep_while_they_wait_unless_the_user_says_otherwise():
    assert told()[1::2] == ["PASSIVE", "1000"]
    given = {"OMP_NUM_THREADS": "7", "OMP_WAIT_POLICY": "ACTIVE", "USER": "me"}
    assert told(**given) == [*given.values(), None]
    assert told(GOMP_SPINCOUNT="5")[3] == "5"


def test_as_many_threads_as_cores_are_set_where_the_library_would_take_more(machine, monkeypatch):
    for name in NAMES:
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    environment.prepare()
    assert os.environ["OMP_NUM_THREADS"] == "4"
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    environment.prepare()
    assert "OMP_NUM_THREADS" not in os.environ


def test_a_user_without_a_name_gets_one(monkeypatch):
    """As under ``docker run --user 54321``."""

    def nobody(_):
        raise KeyError("getpwuid(): uid not found: 54321")

    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    with pytest.raises(KeyError):
        environment.getpass.getuser()
    environment.prepare()
    assert environment.getpass.getuser() == "unknown"
