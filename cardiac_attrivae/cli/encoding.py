"""The command about new patients: encode."""

from __future__ import annotations

from pathlib import Path

import click

from ..runtime.contents import require_run
from ..runtime.outputs import check_apart
from . import options
from .console import explained, progress, quick_imports, say, suggest, warn


@click.command()
@options.run
@options.scans
@click.option(
    "--mask", type=options.PLACE,
    help="Mask of the scan, or a folder of masks named as their scans; default: segment it.",
)  # fmt: skip
@options.labels
@options.segmenters("--segmenter", "What outlines hearts where there is no mask.")
@click.option("--mirror", is_flag=True, help="The scans are mirror images: turn them round.")
@click.option(
    "--condition", metavar="COLUMN=CATEGORY",
    help="What a conditional model is told of the scans, as in pathology=DCM; default: nothing.",
)  # fmt: skip
@options.output
@options.device
@explained
def encode(
    run: Path,
    sources: tuple[Path, ...],
    mask: Path | None,
    labels: str,
    segmenters: tuple[str, ...],
    mirror: bool,
    condition: str | None,
    output: Path,
    device: str,
) -> None:
    """Encode new scans, with or without masks.

    Segments, finds end-diastole and the slice, aligns and encodes; says what is in the code, where
    it lies among the training patients, and when not to trust it.
    """
    require_run(run)
    for source in sources:
        check_apart(source, output)
    from ..data.masks import read_labels

    numbers = read_labels(labels)
    if mask is None and labels != options.LABELS:
        raise click.UsageError("--mask-labels needs --mask FILE or DIR")
    with quick_imports():
        from ..evaluation.encoding_batch import encode_scans

    found, skipped = encode_scans(
        run, sources, output, mask=mask, segmenter=segmenters, labels=numbers, mirror=mirror,
        condition=condition, device=device, progress=progress("encode"),
    )  # fmt: skip
    for one in found:
        rows = one.attributes.to_dict("records")
        say(f"{one.name}: {', '.join(_measured(row) for row in rows)}")
        say(f"  read from the code: {', '.join(_read(row) for row in rows)}")
        say(f"  the code is {one.trust}")
        for text in one.warnings:
            say(f"  {text}")
    for name, reason in skipped:
        warn(f"{name} is left out: {reason}")
    say(f"Codes are in {output / 'codes.csv'}; open {output / 'index.html'} in a browser.")
    suggest("explore", "--model", run, "--output", "explorer", "--serve")


def _measured(row: dict) -> str:
    """Prints what was measured on the mask."""
    return f"{row['attribute']} {row['measured']:.1f} {row['unit']}".rstrip()


def _read(row: dict) -> str:
    """Prints a value with its interval."""
    return f"{row['read']:.1f} ({row['low']:.1f} to {row['high']:.1f})"
