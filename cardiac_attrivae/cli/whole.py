"""Commands that do everything from files to the report: demo, reproduce."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from ..runtime.outputs import check_apart
from . import options
from .console import explained, progress, quick_imports, say, tell


@click.command()
@click.option(
    "--output", default=Path("cardiac-attrivae-demo"), show_default=True, type=options.PLACE,
    callback=options.free,
    help="Folder to write.",
)  # fmt: skip
@click.option("--cases", default=42, show_default=True, help="Synthetic patients per data set.")
@options.device
@explained
def demo(output: Path, cases: int, device: str) -> None:
    """Do everything once, on synthetic hearts.

    Two data sets, three small models, scores on both, a report. About three minutes on two cores.
    """
    with quick_imports():
        from ..demo import run_demo
        from .training import train_and_show

    tell("From images to a report on synthetic hearts: about three minutes on two CPU cores.")
    tell(f"Everything is written into {output}; nothing is downloaded.")
    page = run_demo(output, cases, device, progress, train_and_show, tell)
    say(f"\nDone. Open {page} in a browser.")


@click.command()
@click.option("--acdc", type=options.SOURCE, help="Folder that holds ACDC.")
@click.option("--mnms", type=options.SOURCE, help="Folder that holds M&Ms.")
@options.output
@click.option(
    "--seeds", default=5, show_default=True, type=click.IntRange(1),
    help="Models of each method on each data set; may grow later.",
)  # fmt: skip
@click.option(
    "--pipelines", default="fast", show_default=True, type=click.Choice(["fast", "paper"]),
    help="Our recipes, or the published ones, which take days.",
)  # fmt: skip
@options.device
@click.option(
    "--workers", type=click.IntRange(1),
    help="Commands at once; default: one on a GPU, else the number of cores.",
)  # fmt: skip
@options.rounds
@click.option(
    "--set", "changes", multiple=True, metavar="KEY=VALUE",
    help="Change one value of all pipelines, to try things out: schedule.epochs=1.",
)  # fmt: skip
@explained
def reproduce(acdc: Path | None, mnms: Path | None, output: Path, **given: Any) -> None:
    """Make the paper's table in one command.

    Stores, four methods x data sets x seeds, scores both ways, report. The same command continues a
    reproduction that was interrupted, and tries again what failed.
    """
    folders = {"acdc": acdc, "mnms": mnms}
    datasets = {name: source for name, source in folders.items() if source}
    if not datasets:
        raise click.UsageError("expected --acdc DIR, --mnms DIR, or both")
    for source in datasets.values():
        check_apart(source, output)
    from ..reproduce import reproduce as run

    if not run(datasets, output, say=say, **given):
        sys.exit(1)
