"""Measures what only a GPU shows, part by part, and keeps the results in OUTPUT/gpu.json.

Started by `gpu.sh`, which says how. The parts, in this order:

- ``steps``: time of a step of both published networks against an eager float32 reference
  (`train_step.py`), and the share of the card's own rate;
- ``compiled``: the steps again, with compiled passes and CUDA graphs;
- ``repeats``: two deterministic runs, whose weights must be equal bit for bit;
- ``resume``: a run that is killed and resumed, against one that is not;
- ``trainings``: the published Attri-SIVAE alone on the card, since its time is a goal, then the
  other published pipelines and the two guided ones, all at once;
- ``segmenter``: 400 batches of the segmenter of scans, with ``--scans`` alone;
- ``refiner``: the second stage of the guided Attri-SIVAE;
- ``evaluation``: all of them on the test patients, which no part of them was trained on.

The file is written after each part. A part that fails says why and the next one begins.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from configparser import ConfigParser
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click
import pandas as pd

HERE = Path(__file__).parent
WITHOUT_DOWNLOAD = "objective.perceptual=efficientnet_lite0"
"""VGG19's weights must be fetched from elsewhere; these come as a Python package."""
WHOLE = "schedule.patience=0"
"""All 750 epochs: what is timed, not what early stopping leaves of them."""
TRAININGS: dict[str, tuple[str, ...]] = {
    "attri_sivae_acdc": (WITHOUT_DOWNLOAD, WHOLE),
    "soft_intro_vae_acdc": (WITHOUT_DOWNLOAD, WHOLE),
    "attri_vae": (),
    "beta_vae": (),
    "attri_vae_fast": (),
    "attri_sivae_fast": (),
}
REFINED = "attri_sivae_fast"
TINY = {
    "attri_sivae_acdc": ("network.arguments.filters=[4, 8, 8]",),
    "soft_intro_vae_acdc": ("network.arguments.filters=[4, 8, 8]",),
    "refiner": ("schedule.steps_per_epoch=2",),
    "segment_scans": ("schedule.steps_per_epoch=2",),
}
"""What a rehearsal changes besides the number of epochs."""


@dataclass(frozen=True)
class Plan:
    """Where to run, for how long, and how much."""

    data: Path
    output: Path
    rehearse: bool
    ends: float
    scans: Path | None = None
    pipelines: tuple[str, ...] = tuple(TRAININGS)

    @property
    def device(self) -> str:
        return "cpu" if self.rehearse else "cuda"

    def seconds_left(self, reserve: float = 0) -> float:
        return max(1.0, self.ends - reserve - time.monotonic())

    def start(self, *arguments: object, log: str) -> subprocess.Popen[bytes]:
        """Starts Python with these arguments; what it prints goes to a file."""
        file = (self.output / f"{log}.log").open("wb")
        command = [sys.executable, *map(str, arguments)]
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)

    def train(
        self,
        pipeline: str,
        run: str,
        *more: str,
        changes: tuple[str, ...] = (),
        data: Path | None = None,
    ) -> Any:
        """Starts a training in OUTPUT/RUN."""
        small = (*TINY.get(pipeline, ()), "schedule.epochs=3") if self.rehearse else ()
        pairs = [part for change in (*changes, *small) for part in ("--set", change)]
        return self.start(
            "-m", "cardiac_attrivae", "train", "--pipeline", pipeline, "--data", data or self.data,
            "--output", self.output / run, "--device", self.device, *pairs, *more,
            log=run.replace("/", "_"),
        )  # fmt: skip


def missing() -> list[str]:
    """Names the packages that setup.cfg asks for, those of `perceptual` too, and Python lacks."""
    config, lacking = ConfigParser(), []
    config.read(HERE.parent / "setup.cfg")
    needed = config["options"]["install_requires"] + config["options.extras_require"]["perceptual"]
    for name in re.findall(r"^[\w-]+", needed, re.MULTILINE):
        try:
            version(name)
        except PackageNotFoundError:
            lacking.append(name)
    return lacking


def finish(process: subprocess.Popen[bytes], seconds: float, what: str) -> None:
    """Waits; a process that fails or takes longer ends the part."""
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise RuntimeError(f"{what} was stopped after {seconds:.0f} s") from None
    if code:
        raise RuntimeError(f"{what} ended with exit code {code}, see its log")


def weights_hash(run: Path) -> str:
    return hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()


def time_steps(plan: Plan, *more: str) -> dict[str, Any]:
    """Times a step of both published networks, one after the other."""
    size = ("--batch-size", "2", "--rounds", "1", "--filters", "4,8,8") if plan.rehearse else ()
    found = {}
    for model in ("attri_vae", "attri_sivae"):
        log = "_".join(("step", model, *(option.strip("-") for option in more[:1])))
        file = plan.output / f"{log}.json"
        process = plan.start(
            HERE / "train_step.py", "--model", model, "--device", plan.device, "--json", file,
            *(size or ("--steps", "10")), *more, log=log,
        )  # fmt: skip
        try:
            finish(process, min(90, plan.seconds_left()), f"timing of {model}")
        except (
            RuntimeError
        ) as error:  # times are written first, and the other model is worth having
            found[model] = {"error": str(error)}
        if file.is_file():
            found[model] = json.loads(file.read_text())
    return found


def steps(plan: Plan) -> dict[str, Any]:
    """Times a step as it is written, and without each of the options that make it faster."""
    return time_steps(plan)


def compiled(plan: Plan) -> dict[str, Any]:
    """Times a compiled step too."""
    return time_steps(plan, "--compile")


def repeats(plan: Plan) -> dict[str, Any]:
    """Trains twice with deterministic operations, at the same time."""
    runs = ("repeat_1", "repeat_2")
    changes = (WITHOUT_DOWNLOAD, "deterministic=true", "schedule.epochs=5")
    started = [plan.train("attri_sivae_acdc", run, changes=changes) for run in runs]
    for run, process in zip(runs, started, strict=True):
        finish(process, plan.seconds_left(), run)
    hashes = [weights_hash(plan.output / run) for run in runs]
    return {"weights": hashes, "equal": hashes[0] == hashes[1]}


def resume(plan: Plan) -> dict[str, Any]:
    """Kills a training that has a checkpoint, resumes it, and compares with an undisturbed one."""
    changes = ("deterministic=true", "schedule.evaluate_every=1", "schedule.epochs=40")
    undisturbed = plan.train("attri_vae", "undisturbed", changes=changes)
    killed = plan.train("attri_vae", "killed", changes=changes)
    while not (plan.output / "killed" / "last.pt").exists() and killed.poll() is None:
        time.sleep(0.05)
    was_running = killed.poll() is None
    killed.kill()
    killed.wait()
    finish(
        plan.train("attri_vae", "killed", "--resume", changes=changes),
        plan.seconds_left(), "the resumed run",
    )  # fmt: skip
    finish(undisturbed, plan.seconds_left(), "the undisturbed run")
    hashes = [weights_hash(plan.output / run) for run in ("undisturbed", "killed")]
    return {"killed_while_running": was_running, "equal": hashes[0] == hashes[1]}


def trainings(plan: Plan) -> dict[str, Any]:
    """Trains the first pipeline, then all others at once; those not ended in time say how far."""
    first, *others = plan.pipelines
    return train_at_once(plan, [first]) | (train_at_once(plan, others) if others else {})


def train_at_once(plan: Plan, pipelines: list[str]) -> dict[str, Any]:
    begun = time.monotonic()
    running = {name: plan.train(name, name, changes=TRAININGS[name]) for name in pipelines}
    found = {}
    for name, process in running.items():
        row: dict[str, Any] = {"finished": True}
        try:
            finish(process, plan.seconds_left(reserve=0 if plan.rehearse else 75), name)
        except RuntimeError as error:
            elapsed = time.monotonic() - begun
            row = {"finished": False, "reason": str(error), "seconds": elapsed}
        history = plan.output / name / "history.csv"
        row["epochs"] = int(pd.read_csv(history)["epoch"].max()) if history.is_file() else 0
        found[name] = row | seconds_of(plan.output / name)
    return found


def seconds_of(run: Path) -> dict[str, float]:
    """Returns how long a finished run took by its own record."""
    summary = run / "summary.json"
    return {"seconds": json.loads(summary.read_text())["wall_time_s"]} if summary.is_file() else {}


def segmenter(plan: Plan) -> dict[str, Any]:
    """Trains the segmenter of scans for 400 batches, of the 4,000 that its pipeline asks for."""
    if plan.scans is None:
        raise RuntimeError("no store of whole slices was given")
    changes = ("schedule.epochs=2", "schedule.evaluate_every=2")
    finish(
        plan.train("segment_scans", "segmenter", changes=changes, data=plan.scans),
        plan.seconds_left(), "the segmenter",
    )  # fmt: skip
    return {"batches": 400} | seconds_of(plan.output / "segmenter")


def refiner(plan: Plan) -> dict[str, Any]:
    """Trains the refiner of a finished run, which is then drawn and scored with it."""
    process = plan.train("refiner", f"{REFINED}/refiner", "--on", str(plan.output / REFINED))
    finish(process, plan.seconds_left(), "the refiner")
    return {"on": REFINED} | seconds_of(plan.output / REFINED / "refiner")


def evaluation(plan: Plan) -> dict[str, Any]:
    """Scores every finished model on the test patients."""
    done = [name for name in plan.pipelines if (plan.output / name / "model.safetensors").is_file()]
    models = [part for name in done for part in ("--model", plan.output / name)]
    process = plan.start(
        "-m", "cardiac_attrivae", "cross-domain-eval", *models, "--data", f"{plan.data}:test",
        "--output", plan.output / "evaluation", "--device", plan.device,
        "--rounds", 20 if plan.rehearse else 200, log="evaluation",
    )  # fmt: skip
    finish(process, plan.seconds_left(), "the evaluation")
    metrics = pd.read_csv(plan.output / "evaluation" / "metrics.csv")
    return {"models": done, "metrics": json.loads(metrics.to_json(orient="records"))}


PARTS: tuple[Callable[[Plan], dict[str, Any]], ...] = (
    steps, compiled, repeats, resume, trainings, segmenter, refiner, evaluation,
)  # fmt: skip


@click.command()
@click.option("--data", type=Path, required=True, help="Slice store with test patients.")
@click.option("--output", type=Path, required=True)
@click.option("--scans", type=Path, help="Store of whole slices, for the segmenter of scans.")
@click.option("--minutes", default=9.0, show_default=True, help="For all parts together.")
@click.option("--rehearse", is_flag=True, help="On a CPU, with tiny networks and two epochs.")
@click.option(
    "--part", "parts", type=click.Choice([part.__name__ for part in PARTS]), multiple=True,
    help="Only these parts; may be given again.",
)  # fmt: skip
@click.option(
    "--pipeline", "pipelines", type=click.Choice(list(TRAININGS)), multiple=True,
    help="Train and score only these; may be given again.",
)  # fmt: skip
def main(
    data: Path, output: Path, scans: Path | None, minutes: float, rehearse: bool,
    parts: tuple[str, ...], pipelines: tuple[str, ...],
) -> None:  # fmt: skip
    if not json.loads((data / "dataset.json").read_text())["splits"]["test"]:
        raise click.UsageError(f"{data} has no test patients to score; gpu.sh says how to make it")
    output.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + 60 * minutes
    plan = Plan(data, output, rehearse, ends, scans, pipelines or tuple(TRAININGS))
    if lacking := missing():
        click.echo(f"not installed: {', '.join(lacking)}; gpu.sh says how to bring packages along")
    found: dict[str, Any] = {"rehearsal": rehearse}
    for part in PARTS:
        if parts and part.__name__ not in parts:
            continue
        begun = time.monotonic()
        try:
            result = part(plan)
        except Exception as error:  # the other parts are worth having
            result = {"error": f"{type(error).__name__}: {error}"}
        found[part.__name__] = result | {"wall_seconds": round(time.monotonic() - begun, 1)}
        (output / "gpu.json").write_text(json.dumps(found, indent=1))
        click.echo(f"{part.__name__}: {found[part.__name__]['wall_seconds']} s "
                   f"{result.get('error', '')}")  # fmt: skip


if __name__ == "__main__":
    main()
