"""Commands that draw hearts with a model: generate, traverse, explore."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

import click

from . import options
from .console import explained, progress, say, tell, warn


@click.command()
@options.run
@click.option(
    "--set", "request", multiple=True, required=True, metavar="ATTRIBUTE=VALUE",
    help="Wanted value, as in LVEDA=28 (cm2); may be given several times.",
)  # fmt: skip
@options.case
@options.output
@options.store
@options.device
@explained
def generate(request: tuple[str, ...], output: Path, **given: Any) -> None:
    """Draw a heart with requested values, and measure it."""
    from ..evaluation.generation import generate as run

    values = dict(_assignment(text) for text in request)
    table, warnings = run(request=values, output=output, tell=tell, **given)
    for warning in warnings:
        warn(warning)
    for row in table.to_dict("records"):
        asked, unit = row["requested"], row["unit"]
        wanted = "" if math.isnan(asked) else f"requested {asked:g} {unit}, "
        found = f"measured {row['structure']} {row['measured_cm2']:.1f} cm2"
        say(f"{row['attribute']}: {wanted}{found}")
    say(f"Slice, labels and picture are in {output}")


@click.command()
@options.run
@options.case
@options.output
@click.option("--steps", default=7, show_default=True, help="Pictures per attribute.")
@click.option(
    "--range", "reach", default=3.0, show_default=True, help="Standard deviations to either side."
)
@options.store
@options.device
@explained
def traverse(output: Path, **given: Any) -> None:
    """Turn each attribute of a heart, and measure it."""
    from ..evaluation.generation import traverse as run

    table = run(output=output, tell=tell, **given)
    say(table.to_string(index=False, float_format="{:.1f}".format))
    say(f"Grid, animation and stacks are in {output}")


@click.command()
@options.run
@options.output
@options.store
@click.option("--serve", is_flag=True, help="Open it to this machine alone, until Ctrl-C.")
@click.option(
    "--port", default=0, type=click.IntRange(0, 65535), help="Of --serve; default: any free one."
)
@options.device
@explained
def explore(output: Path, serve: bool, port: int, **given: Any) -> None:
    """Turn a model's dimensions in the browser.

    Writes a folder that any web server can hand out and that needs no network.
    """
    from ..export.explorer import explore as run
    from ..export.explorer_server import Server

    written = run(output=output, tell=tell, progress=progress("segmenter"), **given)
    say(f"Explorer: {output}, {written.size / 2**20:.0f} MiB")
    say(f"It holds slices of {written.cases} patients: as private as the store.")
    if not serve:
        say(
            "To open it, repeat the command with --serve, or put the folder on a web server; a file"
        )
        say("that is opened from the disk shows nothing, as browsers run no networks there.")
        return
    with Server(output, port) as server, contextlib.suppress(KeyboardInterrupt):
        say(f"Open {server.address} (Ctrl-C ends)")
        server.serve_forever()


def _assignment(text: str) -> tuple[str, float]:
    """Returns name and number of NAME=NUMBER."""
    name, _, number = text.partition("=")
    try:
        return name, float(number)
    except ValueError:
        raise ValueError(f"--set {text!r}; expected ATTRIBUTE=NUMBER, such as LVEDA=28") from None
