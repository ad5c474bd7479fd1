"""The commands. Each is a few lines around one library call; libraries are imported inside."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import shutil
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from ..runtime.provenance import __version__

TRACEBACK = "CARDIAC_ATTRIVAE_TRACEBACK"
"""Environment variable that shows where an error came from, for those who look for a bug."""


class _Mistake(click.ClickException):
    """What a user can mend: one message on standard error, exit code 2."""

    exit_code = 2


def _explained(command: Callable) -> Callable:
    """Turns errors that carry their own explanation into a message without a traceback."""

    @functools.wraps(command)
    def wrapper(**options: Any) -> None:
        try:
            command(**options)
        except (ValueError, OSError, FloatingPointError) as error:
            if os.environ.get(TRACEBACK):
                raise
            raise _Mistake(str(error)) from None

    return wrapper


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
def main() -> None:
    """Generative models of the heart whose latent dimensions mean something.

    The usual order: check, preprocess, train, cross-domain-eval, report. Try demo first.
    """


_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


def _shipped(folder: str) -> Callable:
    """Completes the names of what comes along in a folder; where none fits, those of files."""

    def complete(context: click.Context, option: click.Parameter, incomplete: str) -> list:
        from click.shell_completion import CompletionItem

        from ..runtime.yaml_files import shipped

        names = [name for name in shipped(folder) if name.startswith(incomplete)]
        return names or [CompletionItem(incomplete, type="file")]

    return complete


_dataset = click.option(
    "--dataset", required=True, metavar="acdc|mnms|FILE.yaml", help="Which data set this is.",
    shell_complete=_shipped("data_manifests"),
)  # fmt: skip
_pipeline = click.option(
    "--pipeline", required=True, metavar="NAME|FILE.yaml", help="attri_vae_fast, for example.",
    shell_complete=_shipped("pipelines"),
)  # fmt: skip
_overrides = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one value."
)
_source = click.option("--source", required=True, type=_FOLDER, help="Folder that holds it.")
_data = click.option("--data", required=True, type=_FOLDER, help="Store that preprocess wrote.")
_store = click.option(
    "--data",
    "store",
    type=_FOLDER,
    help="Store the run was trained on; needed if it was moved.",
)
_output = click.option(
    "--output", required=True, type=click.Path(path_type=Path), help="Folder to write."
)
_workers = click.option("--workers", default=1, show_default=True, help="Processes.")
_device = click.option(
    "--device", default="auto", show_default=True, metavar="auto|cpu|cuda[:N]", help="Where to run."
)


@main.command()
@_dataset
@_source
@_output
@click.option(
    "--slice",
    default="basal",
    show_default=True,
    type=click.Choice(["basal", "mid", "max-area", "all"]),
    help="Which slices of a patient to keep.",
)
@click.option("--spacing", default=1.3, show_default=True, help="Pixel size in mm.")
@click.option("--size", default=128, show_default=True, help="Pixels along a side.")
@_workers
@click.option(
    "--dask", metavar="ADDRESS", help="Dask cluster to run on: tcp://HOST:PORT or scheduler file."
)
@click.option("--drop-duplicates", is_flag=True, help="Keep one of each known duplicate scan.")
@click.option(
    "--pseudonymise", metavar="KEYFILE", type=click.Path(path_type=Path),
    help="Replace case ids by a hash with the secret in this file.",
)  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace a store that is there already.")
@_explained
def preprocess(
    dataset: str,
    source: Path,
    output: Path,
    slice: str,
    spacing: float,
    size: int,
    workers: int,
    dask: str | None,
    drop_duplicates: bool,
    pseudonymise: Path | None,
    overwrite: bool,
) -> None:
    """Cut aligned slices out of NIfTI files.

    A case that cannot be used is skipped, counted, and told of in skipped.csv.
    """
    from ..data.manifest import load_manifest
    from ..data.preprocess import preprocess as run
    from ..data.pseudonyms import read_key
    from ..data.transforms import Recipe

    key = read_key(pseudonymise, output) if pseudonymise else None
    summary = run(
        load_manifest(dataset),
        source,
        output,
        Recipe(slice, spacing, size),
        workers=workers,
        dask=dask,
        overwrite=overwrite,
        without_duplicates=drop_duplicates,
        key=key,
        progress=_progress("preprocess"),
    )
    splits = ", ".join(f"{count} {name}" for name, count in summary.splits.items())
    click.echo(f"{summary.cases} cases ({splits}), {summary.slices} slices in {summary.output}")
    if summary.skipped:
        click.echo(f"{len(summary.skipped)} cases skipped, reasons in {output / 'skipped.csv'}:")
        for case, reason in summary.skipped[:5]:
            click.echo(f"  {case}: {reason}")
    click.echo(f"Look at {output / 'contact_sheet.png'} before you trust it.")


@main.command()
@_pipeline
@_data
@_output
@_overrides
@click.option("--seed", default=0, show_default=True)
@_device
@click.option("--resume", is_flag=True, help="Go on with a run that was broken off.")
@click.option(
    "--track", "trackers", multiple=True, metavar="mlflow[:URI]|wandb[:PROJECT]",
    help="Keep the run there, too.",
)  # fmt: skip
@_explained
def train(
    pipeline: str,
    data: Path,
    output: Path,
    overrides: tuple[str, ...],
    seed: int,
    device: str,
    **options: Any,
) -> None:
    """Train one model.

    On several GPUs: torchrun --nproc-per-node=N -m cardiac_attrivae train ...
    """
    from ..data.store import SliceDataset
    from ..training.config import load_pipeline

    configuration = load_pipeline(pipeline, overrides)
    store = SliceDataset.open(data)
    _train(configuration, store, output, seed=seed, device=device, **options)


@main.command()
@click.argument("run", type=_FOLDER)
@_store
@_explained
def verify(run: Path, store: Path | None) -> None:
    """Tell whether a run is still what it was.

    Weights, configuration, summary and data are compared with what RUN recorded of them. Ends with
    1 if one of them differs or cannot be told; other versions are told and do not count.
    """
    from ..training.verify import verify_run

    findings = verify_run(run, store)
    for what, holds, told in findings:
        label = {True: "holds", False: "DIFFERS", None: "unknown"}[holds]
        click.echo(_row(f"{what:<15}{label:<9}", told))
    if not all(finding.holds for finding in findings):
        sys.exit(1)


@main.command()
@_pipeline
@_data
@_output
@click.option(
    "--trials", default=50, show_default=True, type=click.IntRange(1),
    help="Trainings that the study shall have, of all processes together.",
)  # fmt: skip
@click.option(
    "--search", "searches", multiple=True, metavar="KEY=LOW:HIGH[:log]|KEY=A,B,C",
    help="Search this value; default: learning rate, weight decay and the weights of the loss.",
)  # fmt: skip
@_overrides
@click.option(
    "--score", "scores", multiple=True, metavar="NAME",
    help="Column of history.csv, without val_, to make high; of several the mean.  "
    "[default: Interpretability and SSIM_in_mask]",
)  # fmt: skip
@click.option("--seed", default=0, show_default=True, help="Of each training.")
@_device
@_explained
def tune(
    pipeline: str,
    data: Path,
    output: Path,
    searches: tuple[str, ...],
    overrides: tuple[str, ...],
    scores: tuple[str, ...],
    **options: Any,
) -> None:
    """Search for better values of a pipeline.

    Several processes share one study: run the same command in each. The same command goes on where
    it was broken off.
    """
    from ..data.store import SliceDataset
    from ..training.tune import SCORES, parse_search
    from ..training.tune import tune as run

    space = dict(parse_search(text) for text in searches)
    store = SliceDataset.open(data)
    run(
        pipeline, store, output, space=space, changes=overrides, scores=scores or SCORES,
        tell=_tell, **options,
    )  # fmt: skip
    if (output / "best.yaml").is_file():
        click.echo((output / "best.yaml").read_text(), nl=False)
        click.echo(f"Train it: cardiac-attrivae train --pipeline {output / 'best.yaml'} ...")


@main.command("cross-domain-eval")
@click.option(
    "--model", "models", multiple=True, required=True, type=click.Path(path_type=Path),
    help="Run that train wrote; may be given several times.",
)  # fmt: skip
@click.option(
    "--data", "stores", multiple=True, required=True, type=click.Path(path_type=Path),
    help="Store that preprocess wrote; may be given several times.",
)  # fmt: skip
@_output
@click.option(
    "--split", default="test", show_default=True, type=click.Choice(["train", "val", "test"])
)
@click.option(
    "--attributes", metavar="NAME,NAME,...", help="Score these; default: each model's own."
)
@click.option(
    "--rounds", default=1000, show_default=True, help="Draws behind every interval and floor."
)
@_workers
@_device
@_explained
def cross_domain_eval(
    models: tuple[Path, ...],
    stores: tuple[Path, ...],
    output: Path,
    attributes: str | None,
    **options: Any,
) -> None:
    """Score models on their own and on other data.

    With intervals, floors of chance, and hearts that are drawn and measured. What an earlier call
    has written into the same folder is not computed again.
    """
    from ..evaluation.cross_domain import cross_domain_eval as run

    names = attributes.split(",") if attributes else None
    bar = _progress("cross-domain-eval")
    run(models, stores, output, attributes=names, progress=bar, tell=_tell, **options)
    _show_table(output)


_run = click.option("--model", "run", required=True, type=_FOLDER, help="Run that train wrote.")
_case = click.option("--case", help="Patient to start from; default: the mean of all.")


@main.command()
@_run
@click.option(
    "--set", "request", multiple=True, required=True, metavar="ATTRIBUTE=VALUE",
    help="Wanted value, as in LVEDA=28 (cm2); may be given several times.",
)  # fmt: skip
@_case
@_output
@_store
@_device
@_explained
def generate(request: tuple[str, ...], output: Path, **options: Any) -> None:
    """Draw a heart as asked for, and measure it."""
    from ..evaluation.generation import generate as run

    wanted = dict(_assignment(text) for text in request)
    table, warned = run(request=wanted, output=output, tell=_tell, **options)
    for warning in warned:
        click.echo(f"Warning: {warning}", err=True)
    for row in table.itertuples():
        asked = "" if math.isnan(row.requested) else f"requested {row.requested:g} {row.unit}, "
        click.echo(f"{row.attribute}: {asked}measured {row.structure} {row.measured_cm2:.1f} cm2")
    click.echo(f"Slice, labels and picture are in {output}")


@main.command()
@_run
@_case
@_output
@click.option("--steps", default=7, show_default=True, help="Pictures per attribute.")
@click.option(
    "--range", "reach", default=3.0, show_default=True, help="Standard deviations to either side."
)
@_store
@_device
@_explained
def traverse(output: Path, **options: Any) -> None:
    """Turn each attribute of a heart, and measure it."""
    from ..evaluation.generation import traverse as run

    table = run(output=output, tell=_tell, **options)
    click.echo(table.to_string(index=False, float_format="{:.1f}".format))
    click.echo(f"Grid, animation and stacks are in {output}")


@main.command()
@_run
@_output
@_store
@click.option("--serve", is_flag=True, help="Open it to this machine alone, until Ctrl-C.")
@click.option(
    "--port", default=0, help="Of --serve; default: any free one.", type=click.IntRange(0, 65535)
)
@_device
@_explained
def explore(output: Path, serve: bool, port: int, **options: Any) -> None:
    """Turn a model's dimensions in the browser.

    Writes a folder that any web server can hand out and that needs no network.
    """
    from ..export.explorer import explore as run
    from ..export.explorer import server_of

    written = run(output=output, tell=_tell, **options)
    click.echo(f"Explorer: {output}, {written.size / 2**20:.0f} MiB")
    click.echo(f"It holds slices of {written.cases} patients: as private as the store.")
    if serve:
        with server_of(output, port) as server, contextlib.suppress(KeyboardInterrupt):
            click.echo(f"Open http://127.0.0.1:{server.server_port}/ (Ctrl-C ends)")
            server.serve_forever()


@main.command()
@_run
@click.option(
    "--format", "form", required=True,
    type=click.Choice(["bundle", "safetensors", "torchscript", "onnx"]),
    help="A MONAI bundle, or weights and networks alone.",
)  # fmt: skip
@_output
@click.option(
    "--evaluation", type=_FOLDER,
    help="Folder that cross-domain-eval wrote, whose scores the bundle's model card shows.",
)  # fmt: skip
@_explained
def export(run: Path, form: str, output: Path, evaluation: Path | None) -> None:
    """Write a model for other programs.

    Every file is opened again and its output compared with PyTorch's.
    """
    from ..export.bundle import export as write

    write(run, form, output, evaluation, tell=click.echo)
    click.echo(f"Exported to {output}")


@main.command()
@click.option(
    "--evaluation", "evaluations", multiple=True, required=True, type=_FOLDER,
    help="Folder that cross-domain-eval wrote; may be given several times.",
)  # fmt: skip
@_output
@_explained
def report(evaluations: tuple[Path, ...], output: Path) -> None:
    """Gather evaluations in one page, and in tables."""
    from ..report.page import write_report

    click.echo(f"Report: {write_report(evaluations, output)}")


@main.command()
@click.option("--dataset", required=True, type=click.Choice(["acdc", "mnms"]))
@_output
@click.option("--cases", default=20, show_default=True)
@click.option("--seed", default=0, show_default=True)
@_explained
def phantom(dataset: str, output: Path, cases: int, seed: int) -> None:
    """Write synthetic hearts of known volumes.

    As ACDC or M&Ms lie on disk, every quirk of theirs included.
    """
    from ..data.phantom import write_phantoms

    truths = write_phantoms(dataset, output, cases, seed)
    click.echo(f"{len(truths)} cases in {output}")


@main.command()
@_dataset
@_source
@_explained
def check(dataset: str, source: Path) -> None:
    """Tell what a data set holds and lacks."""
    from ..data.check import check_dataset
    from ..data.manifest import load_manifest

    bar = _progress("check")
    report = check_dataset(load_manifest(dataset), source, lambda items: bar(items, len(items)))
    click.echo(report.render(min(100, _columns()) if _interactive() else 80))
    if report.problems:
        sys.exit(2)


@main.command()
@click.option(
    "--output", default=Path("cardiac-attrivae-demo"), show_default=True,
    type=click.Path(path_type=Path), help="Folder to write.",
)  # fmt: skip
@click.option("--cases", default=60, show_default=True, help="Synthetic patients per data set.")
@_device
@_explained
def demo(output: Path, cases: int, device: str) -> None:
    """Everything once, on synthetic hearts.

    Two data sets, a model of each, scores both ways. Takes a few minutes on two cores.
    """
    from ..demo import run_demo

    page = run_demo(output, cases, device, _progress, _train, _tell)
    _show_table(output / "evaluation")
    click.echo(f"Report: {page}")


@main.command()
@click.option("--acdc", type=_FOLDER, help="Folder that holds ACDC.")
@click.option("--mnms", type=_FOLDER, help="Folder that holds M&Ms.")
@_output
@click.option(
    "--seeds", default=5, show_default=True, type=click.IntRange(1),
    help="Models of each method on each data set; may grow later.",
)  # fmt: skip
@click.option(
    "--pipelines", default="fast", show_default=True, type=click.Choice(["fast", "paper"]),
    help="Our recipes, or the published ones, which take days.",
)  # fmt: skip
@_device
@click.option(
    "--workers", type=click.IntRange(1),
    help="Commands at once; default: one on a GPU, else the number of cores.",
)  # fmt: skip
@click.option(
    "--rounds", default=1000, show_default=True, type=click.IntRange(1),
    help="Draws behind each interval.",
)  # fmt: skip
@click.option(
    "--set", "changes", multiple=True, metavar="KEY=VALUE",
    help="Change one value of all pipelines, to try things out: schedule.epochs=1.",
)  # fmt: skip
@_explained
def reproduce(acdc: Path | None, mnms: Path | None, output: Path, **options: Any) -> None:
    """The paper's table in one command.

    Stores, four methods x data sets x seeds, scores both ways, report. The same command goes on
    where it was broken off, and tries again what failed.
    """
    from ..reproduce import reproduce as run

    given = {"acdc": acdc, "mnms": mnms}
    datasets = {name: source for name, source in given.items() if source}
    if not datasets:
        raise click.UsageError("expected --acdc DIR, --mnms DIR, or both")
    if not run(datasets, output, say=click.echo, **options):
        sys.exit(1)


def _train(configuration: Any, store: Any, output: Path, **options: Any) -> None:
    """Trains with a progress bar on a terminal, plain lines otherwise; under torchrun as one."""
    from ..training.handlers import EpochBar
    from ..training.workflow import train as run

    total, bar = configuration.schedule.epochs, _interactive()

    def tell(row: dict[str, float]) -> None:
        scores = {name: row.get(f"val_{name}") for name in ("Interpretability", "SSIM_in_mask")}
        told = [f"{name} {value:.3f}" for name, value in scores.items() if value is not None]
        line = f"loss {row['train_loss']:.4g}", *told
        click.echo(f"epoch {row['epoch']}/{total}  {'  '.join(line)}", err=True)

    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *where: click.echo(f"Warning: {message}", err=True)
        if bar:
            options["handlers"] = (EpochBar(),)
        else:
            options["tell"] = tell
        if run(configuration, store, output, **options).writes:
            click.echo(f"Trained. Model, history and pictures are in {output}")


def _assignment(text: str) -> tuple[str, float]:
    """Name and number of NAME=NUMBER."""
    name, _, number = text.partition("=")
    try:
        return name, float(number)
    except ValueError:
        raise ValueError(f"--set {text!r}; expected ATTRIBUTE=NUMBER, such as LVEDA=28") from None


def _progress(label: str) -> Callable[[Iterable, int], Iterable]:
    """Wraps an iterable: a bar on a terminal, a line for every tenth of it otherwise."""

    def bar(items: Iterable, total: int) -> Iterable:
        from tqdm import tqdm

        return tqdm(items, label, total)

    def lines(items: Iterable, total: int) -> Iterator:
        for count, item in enumerate(items, start=1):
            yield item
            if count * 10 // total > (count - 1) * 10 // total:
                click.echo(f"{label} {count}/{total}", err=True)

    return bar if _interactive() else lines


def _tell(message: str) -> None:
    click.echo(message, err=True)


def _interactive() -> bool:
    return sys.stderr.isatty()


def _columns() -> int:
    return shutil.get_terminal_size().columns


def _row(head: str, told: str) -> str:
    """A line with a head; on a terminal what does not fit stands below, not below the head."""
    width = _columns() if sys.stdout.isatty() else sys.maxsize
    return textwrap.fill(
        told, width, initial_indent=head, subsequent_indent=" " * len(head),
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def _show_table(folder: Path) -> None:
    click.echo((folder / "table.md").read_text())
    click.echo(f"Scores: {folder / 'metrics.csv'}, table: {folder / 'table.md'}")
