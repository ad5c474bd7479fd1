"""Commands that draw hearts with a model: generate, traverse, explore."""

from __future__ import annotations

import contextlib
import math
import socket
from pathlib import Path
from typing import Any

import click

from ..evaluation.turns import STEPS, TURN
from ..runtime.contents import require_case, require_run, require_store, store_of
from ..runtime.messages import counted
from ..runtime.provenance import ONNX, require_packages
from ..runtime.shipped_models import judges_of, model_folder
from ..schema import SIZES, STRUCTURES
from . import options
from .console import explained, progress, quick_imports, say, suggest, tell, warn


@click.command(short_help="Draw a heart with requested values, or a set of hearts.")
@options.run
@click.option(
    "--set", "request", multiple=True, metavar="ATTRIBUTE=VALUE",
    help="Wanted value, as in LVEDA=28 (cm2); may be given several times. With --count also a "
    "range, LVEDA=15:35.",
)  # fmt: skip
@options.case
@options.condition
@options.output
@click.option(
    "--count", type=click.IntRange(1, 99_999), help="Draw so many hearts, as a labelled data set."
)
@click.option(
    "--like", metavar="STORE[:SPLIT]", type=options.PLACE,
    help="With --count: areas distributed as in the patients of this store.",
)  # fmt: skip
@options.seed
@options.store
@options.plain
@options.device
@explained
def generate(
    run: Path, request: tuple[str, ...], case: str | None, output: Path, count: int | None,
    like: Path | None, seed: int, store: Path | None, **given: Any,
) -> None:  # fmt: skip
    """Draw a heart with requested values, and measure it; or with --count a data set of hearts.

    A value is reached if it is measured within what is printed beside it: a tenth of the request,
    or a fixed distance where that is more, such as 10 points of LVEF. The data set, images and
    masks in NIfTI with a manifest, is what preprocess reads.
    """
    ranges = options.named_once("--set", [_range(text) for text in request])
    from ..attributes import check_values, label_of

    if ranges:
        for end in (0, 1):
            check_values({name: limits[end] for name, limits in ranges.items()})
    if count is not None:
        if case is not None:
            raise ValueError(f"--case {case} and --count {count} exclude each other")
        _check_inputs(run, store)
        _generate_data_set(run, count, output, ranges, like, seed, store=store, **given)
        return
    if like is not None:
        raise ValueError(f"--like {like} needs --count")
    if seed:
        raise ValueError(f"--seed {seed} needs --count: nothing is random in one heart")
    if not ranges:
        raise ValueError("give --set ATTRIBUTE=VALUE, for one heart, or --count N, for a data set")
    for name, (low, high) in ranges.items():
        if low != high:
            raise ValueError(f"--set {name}={low:g}:{high:g} is a range, which needs --count")
    values = {name: low for name, (low, _) in ranges.items()}
    _check_inputs(run, store, case)
    with quick_imports():
        from ..evaluation.generation import generate as draw

    table, warnings = draw(run, values, output, store=store, case=case, tell=tell, **given)
    for warning in warnings:
        warn(warning)
    for row in table.to_dict("records"):
        name, asked, unit = row["attribute"], row["requested"], row["unit"]
        near = "" if math.isnan(row["tolerance"]) else f" within {row['tolerance']:g}"
        wanted = "" if math.isnan(asked) else f"requested {asked:g} {unit}{near}, "
        missed = "not reached: " if row["reached"] is False else ""
        size, what = next((row[f"measured_{u}"], u) for u in SIZES if f"measured_{u}" in row)
        said, structure = row.get("measured", math.nan), row["structure"]
        by_size = f"{said:.1f} {unit} by the size of the drawn {structure}"
        found = f"{structure} {size:.1f} {what}" if math.isnan(said) else by_size
        say(f"{label_of(name)} ({name}): {wanted}{missed}measured {found}")
    say(f"Slice, labels and picture are in {output}; look at {output / 'slice.png'}")
    suggest("traverse", "--model", run, "--output", "turned")


@click.command(short_help="Turn attributes of a heart, and measure it.")
@options.run
@options.case
@options.condition
@options.output
@click.option(
    "--steps", default=STEPS, show_default=True, type=click.IntRange(2),
    help="Pictures per attribute.",
)  # fmt: skip
@click.option(
    "--range", "reach", default=TURN, show_default=True, help="Standard deviations to either side."
)
@click.option(
    "--surface", metavar="ATTRIBUTE,ATTRIBUTE", help="Turn these two at once: a grid of hearts."
)
@click.option("--from", "start", metavar="CASE", help="Instead walk from this patient ...")
@click.option("--to", "end", metavar="CASE", help="... to this one, on a line and on the sphere.")
@options.store
@options.plain
@options.device
@explained
def traverse(
    run: Path, case: str | None, output: Path, steps: int, reach: float, surface: str | None,
    start: str | None, end: str | None, store: Path | None, **given: Any,
) -> None:  # fmt: skip
    """Turn each attribute of a heart, and measure it; or two at once, or walk between patients."""
    if (start is None) != (end is None):
        raise ValueError("--from and --to need each other; give --from CASE --to CASE")
    other = "--case" if case is not None else "--surface" if surface is not None else ""
    if start is not None and other:
        raise ValueError(f"{other} and --from with --to exclude each other; leave one of them out")
    for option, patient in {"--case": case, "--from": start, "--to": end}.items():
        _check_inputs(run, store, patient, option)
    from ..attributes import spelled

    with quick_imports():
        from ..evaluation import generation

    given |= {"store": store, "steps": steps, "tell": tell}
    if start is not None and end is not None:
        table = generation.traverse_between(run, output, start, end, **given)
    elif surface is not None:
        names = [name.strip() for name in surface.split(",")]
        table = generation.traverse_surface(run, output, names, case=case, reach=reach, **given)
    else:
        table = generation.traverse(run, output, case=case, reach=reach, **given)
    digits = {"share": "{:.2f}".format}  # all other columns have one
    shown = table.to_string(
        index=False, float_format="{:.1f}".format, formatters=digits, na_rep="below 0"
    )
    say(shown)
    grid = "attribute" not in table
    say(f"{spelled(table.columns if grid else dict.fromkeys(table['attribute']))}.")
    written = "Grid and slices" if grid else "Grid, animation and stacks"
    say(f"{written} are in {output}; look at {output / 'traversal.png'}")
    suggest("explore", "--model", run, "--output", "explorer", "--serve")


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
def explore(
    run: Path, output: Path, store: Path | None, serve: bool, port: int, device: str
) -> None:
    """Turn a model's dimensions in the browser.

    Writes a folder that any web server can hand out and that needs no network.
    """
    _check_inputs(run, store)
    require_packages(*ONNX)
    if port:
        if not serve:
            raise ValueError(f"--port {port} needs --serve")
        _check_port(port)
    with quick_imports():
        from ..export.explorer import explore as write
        from ..export.explorer_server import Server

    bar = progress("segmenter")
    written = write(run, output, store=store, device=device, tell=tell, progress=bar)
    say(f"Explorer: {output}, {written.size / 2**20:.0f} MiB")
    if written.generated:
        say(f"It holds {written.cases} generated hearts to start from, and nothing of a patient.")
    else:
        say(f"It holds slices of {counted(written.cases, 'patient')}: as private as the store.")
    if not serve:
        say(
            "To open it, repeat the command with --serve, or put the folder on a web server. "
            "Opened from the disk it shows nothing: browsers run no networks there."
        )
        return
    with Server(output, port) as server, contextlib.suppress(KeyboardInterrupt):
        say(f"Open {server.address} (Ctrl-C ends)")
        server.serve_forever()


def _generate_data_set(
    run: Path, count: int, output: Path, ranges: dict[str, tuple[float, float]],
    like: Path | None, seed: int, **given: Any,
) -> None:  # fmt: skip
    if like is not None:
        folder, split = options.store_and_split(like, "train")
        require_store(folder)
    from ..data.store import SliceDataset
    from ..evaluation.drawn_data import draw_data_set

    patients = SliceDataset.open(folder).split(split) if like is not None else None
    bar = progress("hearts")
    table = draw_data_set(
        run, count, output, request=ranges, like=patients, seed=seed, tell=tell, progress=bar,
        **given,
    )  # fmt: skip
    for name in ranges:
        say(f"{name}: requested {table[f'requested_{name}'].mean():.1f} on average")
    measured = ", ".join(f"{name} {table[name].mean():.1f}" for name in STRUCTURES)
    say(f"Drew {counted(len(table), 'heart')}; measured on average {measured} cm2")
    say(f"Images, masks, table and manifest are in {output}; see {output / 'README.md'}")
    suggest(
        "preprocess", "--dataset", output / "dataset.yaml", "--source", output,
        "--output", "stores/drawn",
    )  # fmt: skip


def _range(text: str) -> tuple[str, tuple[float, float]]:
    """Returns name and bounds of NAME=NUMBER or NAME=LOW:HIGH.

    Example:
        >>> _range("LVEDA=28"), _range("LVEDA=15:35")
        (('LVEDA', (28.0, 28.0)), ('LVEDA', (15.0, 35.0)))
    """
    name, _, value = text.partition("=")
    low, colon, high = value.partition(":")
    try:
        bounds = float(low), float(high if colon else low)
    except ValueError:
        bounds = math.nan, math.nan
    if not (math.isfinite(bounds[0]) and bounds[0] <= bounds[1] < math.inf):
        raise ValueError(
            f"--set {text!r}; expected ATTRIBUTE=NUMBER, such as LVEDA=28, or ATTRIBUTE=LOW:HIGH"
        )
    return name, bounds


def _check_port(port: int) -> None:
    """Reports a port that cannot be opened before minutes are spent on the explorer."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ValueError(
                f"--port {port} cannot be opened: {error.strerror}; choose another one above 1023, "
                "or leave --port out"
            ) from None


def _check_inputs(
    run: Path, store: Path | None, case: str | None = None, option: str = "--case"
) -> None:
    """Reports a missing run, store or patient, which an option names, before anything is imported
    or computed."""
    require_run(run)
    if store is None and judges_of(model_folder(run)):  # a shipped model needs no store
        if case is not None:
            raise ValueError(
                f"{option} {case}: {run} is shipped without patients; give --data STORE"
            )
        return
    known = store_of(run, store)
    if case is not None:
        require_case(known, case)
