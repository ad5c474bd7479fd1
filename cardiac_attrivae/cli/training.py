"""Commands about models: train, verify, tune."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..runtime.contents import part_to_score, require_run, require_store
from ..runtime.outputs import REFINER
from . import options
from .console import explained, is_terminal, quick_imports, row, say, suggest, tell

if TYPE_CHECKING:
    from ..data.store import SliceDataset
    from ..training.config import Pipeline


@click.command()
@options.pipeline
@options.data
@click.option(
    "--output",
    type=options.PLACE,
    callback=options.free,
    help="Folder to write; default for a refiner: RUN/refiner.",
)
@click.option(
    "--on", "base", type=options.FOLDER, metavar="RUN",
    help="Run whose pictures a refiner paints over.",
)  # fmt: skip
@options.changes
@options.seed
@options.device
@click.option("--resume", is_flag=True, help="Continue a run that was interrupted.")
@click.option(
    "--track", "trackers", multiple=True, metavar="mlflow[:URI]|wandb[:PROJECT]",
    help="Record the run there as well.",
)  # fmt: skip
@click.option(
    "--print-config",
    is_flag=True,
    help="Print every value of the pipeline as YAML, with its source, and stop.",
)
@explained
def train(
    pipeline: str,
    changes: tuple[str, ...],
    print_config: bool,
    output: Path | None,
    base: Path | None,
    data: Path = Path(),
    **given: Any,
) -> None:
    """Train one model, or with --on the refiner of one.

    On several GPUs: torchrun --nproc-per-node=N -m cardiac_attrivae train ...
    """
    from ..training.config import load_pipeline

    if print_config:
        from ..training.config_text import render_pipeline

        say(render_pipeline(pipeline, changes).rstrip())
        return
    if not (output or base):
        raise click.MissingParameter(param_hint="'--output'", param_type="option")
    configuration = load_pipeline(pipeline, changes)
    require_store(data)
    if base:
        require_run(base)
    from ..training.folder import require_room

    place = output or (base or Path()) / REFINER
    require_room(place, resume=given["resume"], overwrite=False)
    from ..data.store import SliceDataset

    store = SliceDataset.open(data)
    train_and_show(configuration, store, place, on=base, **given)
    if base and place.resolve() != (base / REFINER).resolve():
        say(f"The run uses this refiner once it is moved to {base / REFINER}")
    if configuration.objective.whole:
        suggest("segment", "--model", place, "--source", "SCANS", "--output", "masks")
    else:
        run, part = base or place, part_to_score(data, store.info)
        suggest("cross-domain-eval", "--model", run, "--data", part, "--output", "evaluation")


@click.command()
@click.argument("run", type=options.SOURCE, required=False)
@click.option("--model", type=options.SOURCE, metavar="RUN", help="The run; RUN alone does, too.")
@options.store
@explained
def verify(run: Path | None, model: Path | None, store: Path | None) -> None:
    """Check whether a run is unchanged since training.

    The files of the run, its store and the store's segmenters are compared with what the model
    recorded of them. Ends with 1 if one of them differs, and with 3 if none does but some could not
    be compared, as in a run of an older version. Other versions of libraries and a change of device
    or threads are listed and do not count.
    """
    place = run or model
    if place is None or (run and model):
        raise click.UsageError("expected one run: --model RUN")
    with quick_imports():
        from ..training.verify import NOT_COVERED, verify_run

    findings = verify_run(place, store)
    for what, holds, text in findings:
        label = {True: "holds", False: "DIFFERS", None: "unknown"}[holds]
        say(row(f"{what:<15}{label:<9}", text))
    say(row(f"{'not covered':<24}", NOT_COVERED))
    states = {finding.holds for finding in findings}
    if False in states:
        sys.exit(1)
    if None in states:
        tell(
            "Nothing differs. What is unknown is missing, or was not recorded by the version that "
            "wrote the run"
        )
        sys.exit(3)


@click.command()
@options.pipeline
@options.data
@options.output
@click.option(
    "--trials", default=50, show_default=True, type=click.IntRange(1),
    help="Trainings of the study, of all its processes together.",
)  # fmt: skip
@click.option(
    "--search", "searches", multiple=True, metavar="KEY=LOW:HIGH[:log]|KEY=A,B,C",
    help="Search this value; default: learning rate, weight decay and the weights of the loss.",
)  # fmt: skip
@options.changes
@click.option(
    "--score", "scores", multiple=True, metavar="NAME",
    help="Column of history.csv, without val_, to maximise; of several the mean.  "
    "[default: Interpretability and SSIM_in_mask]",
)  # fmt: skip
@options.seed
@options.device
@explained
def tune(
    pipeline: str,
    data: Path,
    output: Path,
    searches: tuple[str, ...],
    scores: tuple[str, ...],
    **given: Any,
) -> None:
    """Search for better values of a pipeline.

    Several processes share one study: run the same command in each. The same command continues a
    study that was interrupted. --seed is that of each training: what is proposed differs from study
    to study.
    """
    from ..training.config import load_pipeline

    load_pipeline(pipeline, given["changes"])
    require_store(data)
    with quick_imports():
        from ..data.store import SliceDataset
        from ..segmentation.guide import train_guide
        from ..training.search_space import parse_search
        from ..training.tune import SCORES
        from ..training.tune import tune as run

    space = options.named_once("--search", [parse_search(text) for text in searches])
    store = SliceDataset.open(data)
    guide = partial(train_guide, tell=tell)
    scores = scores or SCORES
    try:
        run(pipeline, store, output, space=space, scores=scores, tell=tell, guide=guide, **given)
    except KeyboardInterrupt:
        tell("Stopped. Finished trials are kept; the same command continues from here.")
        raise
    if (output / "best.yaml").is_file():
        say((output / "best.yaml").read_text("utf-8").rstrip())
        best, slices = (path.resolve() for path in (output / "best.yaml", data))
        suggest("train", "--pipeline", best, "--data", slices, "--output", "runs/best")


def train_and_show(pipeline: Pipeline, store: SliceDataset, output: Path, **given: Any) -> None:
    """Trains with a progress bar on a terminal, plain lines otherwise; under torchrun as one."""
    with quick_imports():
        from ..segmentation.guide import train_guide
        from ..training.progress import show_progress
        from ..training.workflow import train as run

    shown, guide = show_progress(tell, is_terminal()), partial(train_guide, tell=tell)
    if run(pipeline, store, output, tell=shown, handlers=[shown], guide=guide, **given).writes:
        say(f"Trained. Model, history and pictures are in {output}")
