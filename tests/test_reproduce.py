"""Everything in one command: the order of the jobs, what is repeated, what a failure stops."""

import asyncio
import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from runtime.test_jobs import wait_for

from cardiac_attrivae import reproduce as module
from cardiac_attrivae.cli.main import main
from cardiac_attrivae.data.phantom import write_phantoms
from cardiac_attrivae.data.store import SliceDataset
from cardiac_attrivae.reproduce import METHODS, choose_split, claimed, plan
from cardiac_attrivae.runtime.folders import LOCK
from cardiac_attrivae.schema import DataError
from cardiac_attrivae.segmentation import judge
from cardiac_attrivae.segmentation.judge_training import build
from cardiac_attrivae.training.config import load_pipeline

PATIENTS = {"train": 60, "val": 20, "test": 20}
NAMES = ("beta_vae_fast", "attri_vae_fast", "soft_intro_vae_fast", "attri_sivae_fast")


class World:
    """Replaces the commands: writes what they write, and remembers what was called.

    Attributes:
        calls: Jobs in the order in which they were run.
        fails: Names of jobs that fail.
        interrupts: Name of a job during which the command is told to end.
        patients: Data set -> patients of each split.
    """

    def __init__(self):
        self.calls, self.fails, self.interrupts = [], set(), None
        self.patients = {"acdc": PATIENTS, "mnms": PATIENTS}

    async def __call__(self, job, logs=None, threads=1, lock=0):
        self.calls.append(job)
        await asyncio.sleep(0)
        if job.name == self.interrupts:
            signal.raise_signal(signal.SIGTERM)  # SIGINT is ignored in the background
            await asyncio.sleep(60)  # it is cancelled
        if job.name in self.fails:
            return "exit code 2", "=1+1\nthe disk has a hole"
        command, name = job.arguments[0], job.done.parent.name
        if command in ("preprocess", "train"):
            job.done.parent.mkdir(parents=True)
            known = {"splits": self.patients[name]} if command == "preprocess" else {}
            job.done.write_text(json.dumps(known))
        return "", ""

    def called(self):
        """Returns the names of the jobs run since the last call."""
        names = [job.name for job in self.calls]
        self.calls.clear()
        return names


@pytest.fixture
def world(monkeypatch):
    world = World()
    monkeypatch.setattr(module, "run_command", world)
    return world


@pytest.fixture
def sources(tmp_path):
    folders = {name: tmp_path / "my data; rm -rf *" / f"--{name}\n'" for name in ("acdc", "mnms")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    return folders


def call(output, sources, *words):
    given = [word for name, source in sources.items() for word in (f"--{name}", source)]
    words = ("reproduce", *given, "--output", output, "--device", "cpu", *words)
    return CliRunner().invoke(main, [str(word) for word in words])


def files_below(folder):
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


# plan --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pipelines", sorted(METHODS))
def test_every_planned_pipeline_is_shipped_and_belongs_to_its_method(pipelines, tmp_path):
    jobs = plan({"acdc": Path("a"), "mnms": Path("m")}, 2, pipelines, tmp_path)
    trained = [job for job in jobs if job.arguments[0] == "train"]
    assert len(trained) == 4 * 2 * 2
    assert len({job.name for job in jobs}) == len({job.done for job in jobs}) == 18
    for job in trained:
        options = dict(zip(job.arguments[1:-1:2], job.arguments[2::2], strict=True))
        pipeline = load_pipeline(options["--pipeline"])
        method = pipeline.method.removesuffix("_acdc").removesuffix("_mnms")
        dataset = Path(options["--data"]).name
        assert job.needs == (f"preprocess_{dataset}",)
        assert pipeline.method in (method, f"{method}_{dataset}")
        assert job.done.parent.name == f"{method}_{dataset}_seed{options['--seed']}"
        attribute_term = method.startswith("attri")
        assert (pipeline.objective.gamma > 0) == attribute_term


def test_the_first_seed_of_everything_comes_first(tmp_path):
    jobs = plan({"acdc": Path("a"), "mnms": Path("m")}, 3, "fast", tmp_path)
    seeds = [job.name[-1] for job in jobs if job.arguments[0] == "train"]
    assert seeds == sorted(seeds)


def test_the_split_is_the_one_that_most_data_sets_can_be_scored_on():
    full, real = PATIENTS, {"train": 85, "val": 15, "test": 0}
    two = {"train": 0, "val": 0, "test": 2}
    assert choose_split([full, full]) == "test"
    assert choose_split([real]) == "val"
    assert choose_split([real, two]) == "val"
    assert choose_split([two]) == "test"
    assert choose_split([real, full]) == "val"  # both have it


# reproduce ---------------------------------------------------------------------------------------


def test_everything_is_done_once_and_in_order(world, sources, tmp_path):
    output = tmp_path / "o"
    result = call(output, sources, "--seeds", 2, "--rounds", 7, "--workers", 3)
    assert result.exit_code == 0, result.output
    evaluate, report = (job.arguments for job in world.calls[-2:])
    names = world.called()
    assert len(names) == len(set(names)) == 2 + 16 + 2
    for dataset in ("acdc", "mnms"):
        for method in NAMES:
            for seed in (0, 1):
                train = names.index(f"train_{method}_{dataset}_seed{seed}")
                assert names.index(f"preprocess_{dataset}") < train
    assert names[-2:] == ["evaluate", "report"]
    runs = sorted(str(folder) for folder in (output / "runs").iterdir())
    assert sorted(b for a, b in zip(evaluate, evaluate[1:], strict=False) if a == "--model") == runs
    assert evaluate.count("--data") == 2
    assert evaluate[-10:] == (
        "--output", str(output / "evaluation"), "--split", "test", "--device", "cpu",
        "--rounds", "7", "--workers", "3",
    )  # fmt: skip
    assert report == (
        "report", "--evaluation", str(output / "evaluation"), "--output", str(output / "report"),
    )  # fmt: skip
    assert "18 jobs, 0 done already, 18 to do" in result.stdout
    assert f"Report: {output / 'report'}" in result.stdout
    assert result.stderr.count(" done after ") == 20

    again = call(output, sources, "--seeds", 2, "--rounds", 7)
    assert again.exit_code == 0
    assert world.called() == []
    assert again.stdout.count("nothing has changed") == 2

    call(output, sources, "--seeds", 2, "--rounds", 8)
    assert world.called() == ["evaluate", "report"]
    call(output, sources, "--seeds", 3, "--rounds", 8)
    added = {f"train_{method}_{dataset}_seed2" for method in NAMES for dataset in sources}
    assert set(world.called()) == added | {"evaluate", "report"}


def test_a_store_or_run_that_was_removed_is_made_again(world, sources, tmp_path):
    output = tmp_path / "o"
    call(output, sources, "--seeds", 1)
    world.called()
    (output / "runs" / "attri_vae_fast_mnms_seed0" / "summary.json").unlink()
    (output / "runs" / "attri_vae_fast_mnms_seed0").rmdir()
    call(output, sources, "--seeds", 1)
    assert world.called() == ["train_attri_vae_fast_mnms_seed0", "evaluate", "report"]
    (output / "report" / "made_from.json").unlink()
    call(output, sources, "--seeds", 1)
    assert world.called() == ["report"]


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("where", ["preprocess_mnms", "train_attri_vae_fast_acdc_seed0", "report"])
def test_interrupted_anywhere_and_repeated_it_ends_with_the_same_files(
    world, sources, tmp_path, where, workers
):
    complete, interrupted = tmp_path / "complete", tmp_path / "interrupted"
    assert call(complete, sources, "--seeds", 1).exit_code == 0
    world.called()
    world.interrupts = where
    stopped = call(interrupted, sources, "--seeds", 1, "--workers", workers)
    assert stopped.exit_code == 130
    assert "the same command continues" in stopped.stdout
    first, world.interrupts = world.called(), None
    assert call(interrupted, sources, "--seeds", 1, "--workers", workers).exit_code == 0
    second = world.called()
    assert files_below(interrupted) == files_below(complete)
    assert where in second
    if workers == 1:
        assert set(first) & set(second) == {where}


def test_a_failed_run_is_reported_stops_nothing_and_is_tried_again(world, sources, tmp_path):
    output, bad = tmp_path / "o", "train_attri_sivae_fast_acdc_seed0"
    world.fails = {bad}
    result = call(output, sources, "--seeds", 1)
    assert result.exit_code == 1
    evaluated = world.calls[-2].arguments
    names = world.called()
    assert names[-2:] == ["evaluate", "report"]
    assert len(names) == 2 + 8 + 2
    assert evaluated.count("--model") == 7
    assert not [word for word in evaluated if "attri_sivae_fast_acdc" in word]
    with open(output / "failures.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == [{"step": bad, "why": "exit code 2", "log": "'=1+1\nthe disk has a hole"}]
    assert f"{bad} failed (exit code 2)" in result.stdout
    assert "    =1+1\n    the disk has a hole" in result.stdout
    assert f"Report: {output / 'report'}" in result.stdout

    world.fails = set()
    result = call(output, sources, "--seeds", 1)
    assert result.exit_code == 0
    assert world.called() == [bad, "evaluate", "report"]
    assert not (output / "failures.csv").exists()


def test_a_failed_store_stops_what_needs_it_alone(world, sources, tmp_path):
    world.fails = {"preprocess_mnms"}
    result = call(tmp_path / "o", sources, "--seeds", 1)
    assert result.exit_code == 1
    evaluated = world.calls[-2].arguments
    trained = {f"train_{method}_acdc_seed0" for method in NAMES}
    expected = trained | {"preprocess_acdc", "preprocess_mnms", "evaluate", "report"}
    assert set(world.called()) == expected
    assert evaluated.count("--data") == 1
    assert "Left out 4 x: it needs preprocess_mnms" in result.stdout


def test_a_failed_evaluation_leaves_the_report_out_and_is_tried_again(world, sources, tmp_path):
    world.fails = {"evaluate"}
    result = call(tmp_path / "o", sources, "--seeds", 1)
    assert result.exit_code == 1
    assert "Report:" not in result.stdout
    assert world.called()[-1] == "evaluate"
    world.fails = set()
    assert call(tmp_path / "o", sources, "--seeds", 1).exit_code == 0
    assert world.called() == ["evaluate", "report"]


def test_nothing_is_evaluated_if_no_model_is_finished(world, sources, tmp_path):
    world.fails = {f"train_{method}_acdc_seed0" for method in NAMES}
    result = call(tmp_path / "o", {"acdc": sources["acdc"]}, "--seeds", 1)
    assert result.exit_code == 1
    assert "Nothing to evaluate: 0 models" in result.stdout
    assert "evaluate" not in world.called()


def test_few_patients_are_reported_not_trained_on_but_scored(world, sources, tmp_path):
    world.patients["mnms"] = {"train": 0, "val": 0, "test": 2}
    result = call(tmp_path / "o", sources, "--seeds", 1)
    assert result.exit_code == 0
    evaluated = world.calls[-2].arguments
    assert not [name for name in world.called() if name.startswith("train") and "mnms" in name]
    assert evaluated.count("--data") == 2
    assert "Left out 4 x: mnms has 0 training patients" in result.stdout
    assert "mnms has 2 test patients: too few to score codes" in result.stdout


def test_without_test_patients_validation_patients_are_scored_with_a_note(world, sources, tmp_path):
    world.patients["acdc"] = {"train": 85, "val": 15, "test": 0}
    world.patients["mnms"] = {"train": 0, "val": 0, "test": 2}
    result = call(tmp_path / "o", sources, "--seeds", 1)
    assert result.exit_code == 0
    evaluated = world.calls[-2].arguments
    assert evaluated[evaluated.index("--split") + 1] == "val"
    assert [Path(b).name for a, b in zip(evaluated, evaluated[1:], strict=False)
            if a == "--data"] == ["acdc"]  # fmt: skip
    assert "Scored on val patients" in result.stdout
    assert "mnms has 0 val patients: not evaluated on" in result.stdout


def test_one_data_set_does_what_can_be_done_and_the_other_may_follow(world, sources, tmp_path):
    output = tmp_path / "o"
    assert call(output, {"acdc": sources["acdc"]}, "--seeds", 1).exit_code == 0
    assert len(world.called()) == 1 + 4 + 2
    assert call(output, sources, "--seeds", 1).exit_code == 0
    names = world.called()
    assert len(names) == 1 + 4 + 2
    assert not [name for name in names if "acdc" in name]


def test_neither_data_set_is_a_mistake(tmp_path):
    result = CliRunner().invoke(main, ["reproduce", "--output", str(tmp_path / "o")])
    assert result.exit_code == 2
    assert "--acdc DIR, --mnms DIR, or both" in result.stderr
    assert not (tmp_path / "o").exists()


def test_another_reproduction_is_refused(world, sources, tmp_path):
    output, elsewhere = tmp_path / "o", tmp_path / "elsewhere"
    elsewhere.mkdir()
    call(output, sources, "--seeds", 2)
    before = (output / "plan.json").read_text()
    world.called()
    other = {"acdc": elsewhere, "mnms": sources["mnms"]}
    for given, words, key in (
        (sources, ("--pipelines", "paper"), "pipelines 'fast'"),
        (sources, ("--seeds", 1), "seeds 2"),
        (sources, ("--set", "schedule.epochs=1"), "changes []"),
        ({"acdc": sources["acdc"]}, (), "datasets"),
        (other, (), "datasets"),
    ):
        result = call(output, given, "--seeds", 2, *words)
        assert result.exit_code == 2
        assert f"holds a reproduction with {key}" in result.stderr
    assert world.called() == []
    assert (output / "plan.json").read_text() == before


@pytest.mark.parametrize("text", ["", "[]", '{"seeds": "two"}', "\x00", "null"])
def test_a_file_that_is_not_a_plan_is_refused(world, sources, tmp_path, text):
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "plan.json").write_text(text)
    result = call(tmp_path / "o", sources)
    assert result.exit_code == 2
    assert "is not the plan of a reproduction" in result.stderr
    assert (tmp_path / "o" / "plan.json").read_text() == text


def test_a_folder_that_holds_something_else_is_left_alone(world, sources, tmp_path):
    result = call(sources["acdc"].parent, sources)
    assert result.exit_code == 2
    assert "was not written by cardiac-attrivae reproduce" in result.stderr
    assert files_below(tmp_path) == set()
    (tmp_path / "file").write_text("keep")
    assert "is a file" in call(tmp_path / "file", sources).stderr
    assert world.called() == []


def test_an_interrupted_start_leaves_an_empty_folder(world, sources, tmp_path):
    (tmp_path / "o").mkdir()
    for name in (LOCK, ".part-1234-plan.json"):
        (tmp_path / "o" / name).write_text("{")
    assert call(tmp_path / "o", sources, "--seeds", 1).exit_code == 0


def test_a_wrong_change_or_device_is_told_before_anything_is_written(world, sources, tmp_path):
    for words, message in (
        (("--set", "schedule.epoch=1"), "did you mean 'epochs'"),
        (("--device", "cuda:99"), "cuda:99"),
    ):
        result = call(tmp_path / "o", sources, *words)
        assert result.exit_code == 2
        assert message in result.stderr
    assert not (tmp_path / "o").exists()


def test_relative_paths_are_those_of_the_folder_it_was_called_from(
    world, sources, tmp_path, monkeypatch
):
    monkeypatch.chdir(sources["acdc"].parent)
    short = {name: Path(source.name) for name, source in sources.items()}
    output = Path("..") / "--out put"
    assert call(output, short, "--seeds", 1).exit_code == 0
    for job in world.calls:
        paths = [word for word in job.arguments if "/" in word]
        assert paths
        assert all(Path(word).is_absolute() for word in paths)
    world.called()
    monkeypatch.chdir("/")
    assert call(tmp_path / "--out put", sources, "--seeds", 1).exit_code == 0
    assert world.called() == []


def test_two_do_not_work_in_one_folder_nor_beside_what_a_killed_one_left(tmp_path):
    wanted = {"datasets": {}, "seeds": 1}
    with claimed(tmp_path / "o", wanted) as lock:
        left = subprocess.Popen(["sleep", "60"], pass_fds=(lock,))
        with pytest.raises(DataError, match="is being worked on"), claimed(tmp_path / "o", wanted):
            pass
    try:
        with pytest.raises(DataError, match="is being worked on"), claimed(tmp_path / "o", wanted):
            pass
    finally:
        left.kill()
        left.wait()
    with claimed(tmp_path / "o", wanted):
        pass


@pytest.mark.slow
def test_from_files_to_the_report_with_a_kill_in_between(tmp_path, monkeypatch):
    """Without guide, and with a segmenter that has learnt nothing: minutes that prove nothing."""
    tree, output = tmp_path / "acdc", tmp_path / "o"
    write_phantoms("acdc", tree, cases=18, cine=False)
    short = (
        "schedule.epochs=1", "schedule.steps_per_epoch=2", "data.batch_size=4",
        "objective.control=0", "objective.anatomy=0", "network.arguments.outlines=false",
        "network.arguments.shapes=0", "network.arguments.brightness=0",
    )  # fmt: skip
    command = [
        sys.executable, "-m", "cardiac_attrivae", "reproduce", "--acdc", tree, "--output", output,
        "--seeds", "1", "--device", "cpu", "--workers", "2", "--rounds", "10",
        *(word for change in short for word in ("--set", change)),
    ]  # fmt: skip
    first = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        wait_for(lambda: len(list(output.glob("runs/*/summary.json"))) >= 2, 300)
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    early = {file: file.stat().st_mtime_ns for file in output.glob("runs/*/summary.json")}
    store = SliceDataset.open(output / "stores" / "acdc")
    monkeypatch.setattr(judge, "train_network", lambda *_, **__: build(0).eval())
    judge.segmenters_for(store, judge.cache_of(store, output))  # kept as if it had been trained
    second = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert second.returncode == 0, second.stdout + second.stderr
    assert len(list(output.glob("runs/*/model.safetensors"))) == 4
    assert {file: file.stat().st_mtime_ns for file in early} == early
    models = json.loads((output / "evaluation" / "evaluation.json").read_text())["models"]
    assert len(models) == 4
    assert any(file.stat().st_size > 10_000 for file in (output / "report").glob("*.html"))
    third = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert third.returncode == 0
    assert third.stdout.count("nothing has changed") == 2
