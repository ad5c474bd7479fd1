"""The command about scans without masks: segment."""

from __future__ import annotations

from pathlib import Path

import click

from ..runtime.messages import counted
from ..runtime.outputs import check_apart
from . import options
from .console import explained, progress, quick_imports, say, suggest, warn


@click.command()
@options.scans
@click.option(
    "--dataset", metavar="acdc|mnms|FILE.yaml",
    help="Take ED and ES of this data set; --source is then its folder.",
)  # fmt: skip
@options.segmenters("--model", "What outlines the hearts.")
@options.output
@click.option(
    "--labels", metavar="LV=1,MYO=2,RV=3", help="Numbers in the masks; default: as shown."
)
@explained
def segment(
    sources: tuple[Path, ...],
    dataset: str | None,
    segmenters: tuple[str, ...],
    output: Path,
    labels: str | None,
) -> None:
    """Outline hearts in scans that have no masks.

    Writes masks in the geometry of the scans, volumes of every frame, ejection fractions, a picture
    of each patient, and warnings where the result should not be trusted.
    """
    for source in sources:
        check_apart(source, output)
    from ..data.masks import read_labels

    numbers = {s.name: n for n, s in read_labels(labels).items() if s} if labels else None
    with quick_imports():
        from ..segmentation.patients import in_words
        from ..segmentation.patients import segment as run

    found, skipped = run(
        sources, output, segmenters, dataset=dataset, labels=numbers, progress=progress("segment")
    )
    for row in found.to_dict("records"):
        say(f"{row['patient']}: {in_words(row)}")
        if row["warnings"]:
            say(f"  {row['warnings']}")
    for patient, reason in skipped:
        warn(f"a scan of {patient} is left out: {reason}")
    doubtful = int((found["trusted"] == "no").sum())
    left_out = f"; {counted(len(skipped), 'scan')} left out, see {output / 'skipped.csv'}"
    say(
        f"{counted(len(found), 'patient')} in {output}"
        + (f", {doubtful} not to be trusted without a look" if doubtful else "")
        + (left_out if skipped else "")
    )
    folder = sources[0] if sources[0].is_dir() else sources[0].absolute().parent
    suggest("preprocess", "--dataset", dataset or "FILE.yaml", "--source", folder,
            "--masks", output, *(("--mask-labels", labels) if labels else ()),
            "--output", "STORE")  # fmt: skip
