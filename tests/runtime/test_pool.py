"""Workers that die cost a retry: on this machine, and on a Dask cluster."""

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import dask
import psutil
import pytest
from distributed import LocalCluster

from cardiac_attrivae.data import preprocess as preprocessing
from cardiac_attrivae.data.manifest import load_manifest
from cardiac_attrivae.data.preprocess import preprocess
from cardiac_attrivae.data.recipe import Recipe
from cardiac_attrivae.data.store import content_hash
from cardiac_attrivae.runtime import pool as workers
from cardiac_attrivae.runtime.pool import Failure, cluster, processes, run_each
from cardiac_attrivae.schema import DataError

KILLED = "its worker was killed, and once more when it ran alone"


def local_cluster(number):
    return LocalCluster(
        n_workers=number, threads_per_worker=1, dashboard_address=":0", silence_logs=50
    )


@pytest.fixture(scope="module")
def dask_address():
    """A cluster that gives an item up at the first death: the default of three takes long."""
    settings = {
        "distributed.scheduler.allowed-failures": 0,
        # else it ends a worker that is just being started again, 15 s after the one before was lost
        "distributed.deploy.lost-worker-timeout": "1h",
    }
    with dask.config.set(settings), local_cluster(2) as running:
        yield running.scheduler_address


@pytest.fixture(params=["processes", "cluster"])
def pool(request):
    """Two workers of each kind."""
    with ExitStack() as stack:
        if request.param == "processes":
            yield stack.enter_context(processes(2))
        else:
            address = request.getfixturevalue("dask_address")
            yield stack.enter_context(cluster(address, []))


def deadly(folder, item, times):
    """Work that squares, and kills its worker at one item so many times."""
    folder, sigkill = str(folder), signal.SIGKILL

    def square(n):
        import os
        from pathlib import Path

        Path(folder, f"{n}-{len(os.listdir(folder))}").touch()
        if n == item and len(list(Path(folder).glob(f"{n}-*"))) <= times:
            os.kill(os.getpid(), sigkill)
        return n * n

    return square  # not of a module: workers need not import this one


def loky_workers():
    """Workers of joblib that this process has."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if "popen_loky_posix" in " ".join(child.cmdline())]


# Deaths -------------------------------------------------------------------------------------------


def test_every_item_gets_its_result_once(pool, tmp_path):
    results = sorted(run_each(pool, deadly(tmp_path, -1, 0), range(30)))
    assert results == [(n, n * n) for n in range(30)]


def test_a_worker_that_dies_once_costs_one_retry(pool, tmp_path):
    results = sorted(run_each(pool, deadly(tmp_path, 7, 1), range(30)))
    assert results == [(n, n * n) for n in range(30)]
    assert len(list(tmp_path.glob("7-*"))) == 2


def test_an_item_that_kills_every_worker_is_told_and_the_others_go_on(pool, tmp_path):
    results = dict(run_each(pool, deadly(tmp_path, 7, 99), range(30)))
    assert results == {n: Failure.KILLED if n == 7 else n * n for n in range(30)}
    assert len(list(tmp_path.glob("7-*"))) == 2


def test_items_are_drawn_as_workers_need_them(pool):
    drawn, ahead = [], []
    for count, _ in enumerate(run_each(replace(pool, window=4), id, map(drawn.append, range(40)))):
        ahead.append(len(drawn) - count)
    assert len(drawn) == 40
    assert max(ahead) == 4


class KillsOnce:
    """Kills its worker before it cuts the slices of one case, the first time."""

    def __init__(self, transform, case, marker):
        self.transform, self.case, self.marker = transform, case, marker

    def __call__(self, data):
        if data["record"].case == self.case and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.transform(data)


@pytest.mark.slow
def test_a_store_is_the_same_though_a_worker_was_shot(acdc_tree, acdc_store, tmp_path):
    def shot(items, _):
        for count, item in enumerate(items):
            if not count:
                os.kill(loky_workers()[0].pid, signal.SIGKILL)
            yield item

    summary = preprocess(load_manifest("acdc"), acdc_tree, tmp_path / "s", workers=2, progress=shot)
    assert (summary.cases, summary.skipped) == (9, [])
    assert content_hash(tmp_path / "s") == content_hash(acdc_store)


def test_a_case_that_kills_every_worker_is_skipped(acdc_tree, tmp_path, monkeypatch):
    def killed(pool, work, records):
        for job in records:
            yield job, Failure.KILLED if job.record.case == "patient003" else work(job)

    monkeypatch.setattr(preprocessing, "run_each", killed)
    summary = preprocess(load_manifest("acdc"), acdc_tree, tmp_path / "s")
    assert summary.cases == 8
    assert summary.skipped == [("patient003", f"{KILLED}; it may need more memory than there is")]


@pytest.mark.slow
def test_a_store_is_the_same_from_a_cluster(
    acdc_tree, acdc_store, dask_address, tmp_path, monkeypatch
):
    transform = KillsOnce(preprocessing.preprocessing(Recipe()), "patient003", tmp_path / "killed")
    monkeypatch.setattr(preprocessing, "preprocessing", lambda recipe: transform)
    monkeypatch.chdir(acdc_tree.parent)  # workers have another working folder
    source, output = Path(acdc_tree.name), tmp_path / "s"
    summary = preprocess(load_manifest("acdc"), source, output, dask=dask_address)
    assert (tmp_path / "killed").exists()
    assert (summary.cases, summary.skipped) == (9, [])
    assert content_hash(output) == content_hash(acdc_store)


# What a cluster must have -------------------------------------------------------------------------


def opened(address, *folders):
    with cluster(address, folders):
        pass


def test_a_cluster_needs_dask(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(DataError, match=r"pip install .*(distributed|dask)"):
        opened("tcp://127.0.0.1:8786")


def test_a_cluster_needs_a_scheduler(monkeypatch, tmp_path):
    monkeypatch.setattr(workers, "PATIENCE_S", 0.5)
    with pytest.raises(DataError, match="no Dask scheduler answers at tcp://127.0.0.1:9"):
        opened("tcp://127.0.0.1:9")
    for content in (None, b"{}", b"[]", b"\xff"):
        if content:
            (tmp_path / "scheduler.json").write_bytes(content)
        with pytest.raises(DataError, match="nor the file of a scheduler; expected the address"):
            opened(str(tmp_path / "scheduler.json"))


def test_a_cluster_needs_workers(monkeypatch):
    monkeypatch.setattr(workers, "PATIENCE_S", 0.5)
    with (
        local_cluster(0) as running,
        pytest.raises(DataError, match="no worker after 0.5 s; start some with dask worker tcp"),
    ):
        opened(running.scheduler_address)


def test_workers_need_the_same_version(monkeypatch, dask_address):
    monkeypatch.setattr(workers, "__version__", "0.0.7")
    with pytest.raises(DataError, match=r"has cardiac-attrivae .*, this is 0\.0\.7; results must"):
        opened(dask_address)


def test_workers_need_to_see_the_folders(dask_address, tmp_path):
    opened(dask_address, tmp_path)
    with pytest.raises(DataError, match="does not see .*elsewhere; source and output must be on"):
        opened(dask_address, tmp_path, tmp_path / "elsewhere")


def test_a_case_that_is_done_must_be_seen_here(acdc_tree, tmp_path, monkeypatch):
    monkeypatch.setattr(preprocessing, "_process", lambda record, **_: None)  # it went elsewhere
    with pytest.raises(DataError, match="must be on a file system that all workers share"):
        preprocess(load_manifest("acdc"), acdc_tree, tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_a_scheduler_file_tells_the_address(dask_address, tmp_path):
    (tmp_path / "scheduler.json").write_text(f'{{"address": "{dask_address}"}}')
    with cluster(str(tmp_path / "scheduler.json"), []) as pool:
        assert sorted(run_each(pool, abs, range(3))) == [(0, 0), (1, 1), (2, 2)]


@pytest.mark.slow
def test_a_scheduler_that_goes_is_told():
    def go_on(running):
        with cluster(running.scheduler_address, []) as pool:
            for _ in run_each(pool, time.sleep, [0, *[20] * 5]):
                running.close()

    with (
        local_cluster(1) as running,
        pytest.raises(DataError, match="is gone; what is done is kept"),
    ):
        go_on(running)


def test_processes_and_a_cluster_are_not_both(acdc_tree, tmp_path):
    with pytest.raises(ValueError, match="got 2 workers and the cluster tcp://host:1; expected on"):
        preprocess(load_manifest("acdc"), acdc_tree, tmp_path / "s", workers=2, dask="tcp://host:1")


def test_processes_are_as_many_as_asked_for():
    with processes(2) as pool:
        pids = {
            pid for _, pid in run_each(pool, lambda _: time.sleep(0.05) or os.getpid(), range(20))
        }
    assert len(pids) == 2
    assert os.getpid() not in pids
    with processes(1) as pool:
        assert dict(run_each(pool, lambda _: os.getpid(), range(2))) == dict.fromkeys(
            (0, 1), os.getpid()
        )


PARENT = """
import signal, sys, time
from cardiac_attrivae.runtime.pool import processes, run_each
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored
with processes(2) as pool:
    for item, pid in run_each(pool, lambda n: __import__("os").getpid(), range(20)):
        print(pid, flush=True)
    for _ in run_each(pool, time.sleep, [0, 600, 600] if sys.argv[1] == "busy" else [0]):
        print("ready", flush=True)
        if sys.argv[1] == "idle":
            time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.parametrize("work", ["busy", "idle"])
def test_workers_end_when_their_parent_is_killed(work):
    command = [sys.executable, "-c", PARENT, work]
    with ExitStack() as stack:
        parents = {  # started together, as each imports for seconds
            how: stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            for how in (signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)
        }
        for how, parent in parents.items():
            pids = set(iter(lambda parent=parent: parent.stdout.readline().strip(), "ready"))
            workers = [psutil.Process(int(pid)) for pid in pids]
            assert workers, how
            parent.send_signal(how)
            _, alive = psutil.wait_procs(workers, timeout=15)
            for worker in alive:
                worker.kill()
            assert not alive, how
