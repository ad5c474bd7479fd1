"""The command that hands a model to other programs: export."""

from __future__ import annotations

from pathlib import Path

import click

from ..runtime.contents import require_evaluation, require_run
from ..runtime.outputs import require_new
from ..runtime.provenance import ONNX, require_packages
from . import options
from .console import explained, quick_imports, say


@click.command()
@options.run
@click.option(
    "--format", "form", required=True,
    type=click.Choice(["bundle", "safetensors", "torchscript", "onnx"]),
    help="A MONAI bundle, or weights and networks alone.",
)  # fmt: skip
@options.output
@click.option(
    "--evaluation", type=options.FOLDER,
    help="Folder that cross-domain-eval wrote, whose scores the bundle's model card shows.",
)  # fmt: skip
@options.plain
@explained
def export(run: Path, form: str, output: Path, evaluation: Path | None, plain: bool | None) -> None:
    """Write a model for other programs.

    Every file is opened again and its output compared with PyTorch's.
    """
    require_run(run)
    if form == "onnx":
        require_packages(*ONNX)
    if form == "bundle":
        require_new(output)
    if evaluation:
        require_evaluation(evaluation)
    with quick_imports():
        from ..export.bundle import export as write

    write(run, form, output, evaluation, tell=say, plain=plain)
    say(f"Exported to {output}")
