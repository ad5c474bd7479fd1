"""Commands about scores: cross-domain-eval, report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..runtime.contents import require_evaluation, require_patients, require_run, require_store
from ..schema import SPLITS
from . import options
from .console import explained, progress, quick_imports, say, show_scores, suggest, tell


@click.command("cross-domain-eval")
@click.option(
    "--model", "models", multiple=True, required=True, type=options.FOLDER,
    help="Run that train wrote, or a shipped model: acdc; may be given several times.",
)  # fmt: skip
@click.option(
    "--data", "stores", multiple=True, required=True, type=options.PLACE,
    metavar="STORE[:SPLIT]",
    help="Store that preprocess wrote; may be given several times. With :val its own split.",
)  # fmt: skip
@options.output
@click.option(
    "--split", default="test", show_default=True, type=click.Choice(SPLITS),
    help="Patients to score, where --data names no split.",
)  # fmt: skip
@click.option(
    "--attributes", metavar="NAME,NAME,...", help="Score these; default: each model's own."
)
@options.plain
@click.option(
    "--realism", is_flag=True,
    help="Measure how well drawn hearts are told from real ones; ten minutes more.",
)  # fmt: skip
@options.rounds
@options.workers
@options.device
@explained
def cross_domain_eval(
    models: tuple[Path, ...],
    stores: tuple[Path, ...],
    output: Path,
    split: str,
    attributes: str | None,
    **given: Any,
) -> None:
    """Score models on their own and on other data.

    With intervals, null distributions, and hearts that are drawn and measured. What an earlier call
    has written into the same folder is not computed again.
    """
    from ..attributes import check_names

    names = attributes.split(",") if attributes else None
    if names:
        check_names(names)
    for model in models:
        require_run(model)
    folders, splits = zip(*(options.store_and_split(store, split) for store in stores), strict=True)
    for folder, chosen in zip(folders, splits, strict=True):
        require_patients(folder, require_store(folder), chosen, models)
    with quick_imports():
        from ..evaluation.cross_domain import cross_domain_eval as run

    run(
        models, folders, output, split=splits, attributes=names, tell=tell,
        progress=progress("cross-domain-eval"), **given,
    )  # fmt: skip
    show_scores(output)
    suggest("report", "--evaluation", output, "--output", "report")


@click.command()
@click.option(
    "--evaluation", "evaluations", multiple=True, required=True, type=options.FOLDER,
    help="Folder that cross-domain-eval wrote; may be given several times.",
)  # fmt: skip
@options.output
@explained
def report(evaluations: tuple[Path, ...], output: Path) -> None:
    """Gather evaluations in one page, and in tables."""
    for evaluation in evaluations:
        require_evaluation(evaluation)
    from ..report.page import write_report

    say(f"Report: open {write_report(evaluations, output)} in a browser.")
    suggest("generate", "--model", "RUN", "--set", "LVEDA=28", "--output", "heart")
