"""Commands about images of patients: check, preprocess, phantom."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from ..runtime.contents import part_to_score, require_store
from ..runtime.messages import counted, shell_word
from ..runtime.outputs import check_apart
from . import options
from .console import columns, explained, is_terminal, progress, quick_imports, say, suggest, warn

EVERY = "*"
"""What ``--mirror`` without cases stands for."""


@click.command()
@options.dataset
@options.source
@options.masks
@options.only_missing
@options.labels
@explained
def check(dataset: str, source: Path, masks: Path | None, only_missing: bool, labels: str) -> None:
    """List what a data set holds and lacks."""
    from ..data.manifest import load_manifest

    manifest = load_manifest(dataset)
    elsewhere = options.masks_elsewhere(masks, only_missing, labels)
    from ..data.check import check_dataset

    bar = progress("check")
    report = check_dataset(manifest, source, lambda items: bar(items, len(items)), elsewhere)
    say(report.render(min(100, columns()) if is_terminal() else 80))
    if report.problems:
        sys.exit(2)
    named = ("--dataset", dataset, "--source", source, "--output", "STORE", "--slice", "all")
    beside: tuple[str | Path, ...] = ("--masks", masks) if masks else ()
    beside += ("--only-missing",) if only_missing else ()
    beside += ("--mask-labels", labels) if labels != options.LABELS else ()
    suggest("preprocess", *named, *beside)


@click.command()
@options.dataset
@options.source
@options.output
@click.option(
    "--slice", "slices", default="basal", show_default=True,
    type=click.Choice(["basal", "mid", "max-area", "all", "whole"]),
    help="Which slices of a patient to keep; whole: all, uncropped, at ED and ES, for a segmenter.",
)  # fmt: skip
@click.option(
    "--phases", default="ED", show_default=True, type=click.Choice(["ED", "ED,ES"]),
    help="Channels of a slice; ES lies in the geometry of ED.",
)  # fmt: skip
@click.option(
    "--stack", default=1, show_default=True, metavar="N", type=click.IntRange(1),
    help="Slices at each phase as channels, from the basal one on.",
)  # fmt: skip
@click.option("--spacing", type=float, help="Pixel size in mm.  [default: 1.3]")
@click.option(
    "--size", default=128, show_default=True, type=click.IntRange(1),
    help="Pixels along a side.",
)  # fmt: skip
@click.option(
    "--field", type=float, metavar="MM",
    help="Side of the crop in mm, instead of --spacing: the pixel size becomes MM / --size.",
)  # fmt: skip
@options.workers
@click.option(
    "--dask", metavar="ADDRESS", help="Dask cluster to run on: tcp://HOST:PORT or scheduler file."
)
@click.option(
    "--drop-duplicates", "without_duplicates", is_flag=True,
    help="Keep one of each known duplicate scan.",
)  # fmt: skip
@click.option(
    "--pseudonymise", metavar="KEYFILE", type=options.PLACE,
    help="Replace case ids by a hash with the secret in this file.",
)  # fmt: skip
@options.masks
@options.only_missing
@click.option(
    "--mirror", is_flag=False, flag_value=EVERY, metavar="[CASE,CASE]",
    help="The scans, or these, are mirror images: turn them round.",
)  # fmt: skip
@options.labels
@click.option("--mask-source", metavar="NAME", default="", help="Who made --masks, for cases.csv.")
@options.overwrite
@explained
def preprocess(
    dataset: str,
    source: Path,
    output: Path,
    slices: str,
    phases: str,
    stack: int,
    spacing: float | None,
    size: int,
    field: float | None,
    pseudonymise: Path | None,
    masks: Path | None,
    only_missing: bool,
    mirror: str | None,
    labels: str,
    mask_source: str,
    **given: Any,
) -> None:
    """Cut aligned slices out of images.

    A case that cannot be used is skipped and listed with a reason in skipped.csv.
    """
    if spacing is not None and field is not None:
        raise click.UsageError("--spacing and --field exclude each other; leave one of them out")
    named = [case.strip() for case in mirror.split(",")] if mirror is not None else []
    if "" in named:
        raise click.UsageError("--mirror names an empty case; without names it turns all of them")
    from ..data.manifest import load_manifest
    from ..data.recipe import PIXELS_MM, Recipe

    manifest = load_manifest(dataset)
    grid = field / size if field is not None else Recipe.spacing if spacing is None else spacing
    if field is not None and not PIXELS_MM[0] <= grid <= PIXELS_MM[1]:
        raise click.UsageError(
            f"--field {field:g} over {size} pixels makes pixels of {grid:.3g} mm; expected "
            f"{PIXELS_MM[0]} to {PIXELS_MM[1]}, as --field {Recipe.spacing * size:.0f}"
        )
    from ..data.pseudonyms import read_key
    from ..data.store_place import check_replaceable

    check_apart(source, output)
    check_replaceable(output, given["overwrite"])
    elsewhere = options.masks_elsewhere(masks, only_missing, labels, mask_source)
    recipe = Recipe(slices, grid, size, phases=tuple(phases.split(",")), stack=stack)
    key = read_key(pseudonymise, output) if pseudonymise else None
    with quick_imports():
        from ..data.preprocess import preprocess as run

    bar = progress("preprocess")
    turned: bool | list[str] = mirror == EVERY or named or False
    summary = run(
        manifest, source, output, recipe, key=key, masks=elsewhere, mirror=turned, progress=bar,
        **given,
    )  # fmt: skip
    splits = ", ".join(f"{count} {name}" for name, count in summary.splits.items())
    say(
        f"{counted(summary.cases, 'case')} ({splits}), {counted(summary.slices, 'slice')} "
        f"in {summary.output}"
    )
    if summary.skipped:
        say(f"{counted(len(summary.skipped), 'case')} skipped, see {output / 'skipped.csv'}:")
        for case, reason in summary.skipped[:5]:
            say(f"  {case}: {reason}")
        if more := summary.skipped[5:]:
            say(f"  and {len(more):,} more")
    for line in summary.observations:
        say(line)
    for warning in _empty_splits(summary.splits, output):
        warn(warning)
    say(f"Look at {output / 'contact_sheet.png'} before you trust it.")
    if summary.splits.get("train"):
        fitting = _fitting(asdict(recipe))
        suggest("train", "--pipeline", fitting, "--data", output, "--output", "RUN")


def _fitting(recipe: Mapping[str, Any]) -> str:
    """Names the pipeline to begin with on a store of a full recipe."""
    from ..data.recipe import WHOLE

    if recipe["slice"] == WHOLE:
        return "segment_scans"
    if len(recipe["phases"]) == 1:
        return "attri_vae_fast"
    return "attri_vae_stack" if recipe["stack"] > 1 else "attri_sivae_phases"


def _empty_splits(splits: Mapping[str, int], output: Path) -> Iterator[str]:
    """Yields what to do about each split without patients."""
    if not splits.get("train"):
        yield (
            "0 train patients: no model can be trained on this store, but models of other data "
            "sets can be scored on it"
        )
    if not splits.get("val"):
        yield (
            "0 val patients: training shows no scores and cannot keep its best epoch; "
            "attri_vae_fast, which keeps its last, is not affected"
        )
    if not splits.get("test"):
        part = shell_word(part_to_score(output, {"splits": splits}))
        yield (
            f"0 test patients: score another split of this store, with cross-domain-eval --data "
            f"{part}, or add the folder of the test patients and preprocess again"
        )


@click.command(short_help="Join stores of several data sets.")
@click.argument("stores", nargs=-1, required=True, type=options.FOLDER)
@options.output
@click.option("--name", default="", help="Name of the new data set; default: theirs, joined.")
@options.overwrite
@explained
def join(stores: tuple[Path, ...], output: Path, name: str, overwrite: bool) -> None:
    """Join stores of several data sets, to train on all of them."""
    if len(stores) < 2:
        raise click.UsageError(f"got {counted(len(stores), 'store')}; expected two or more")
    for store in stores:
        require_store(store)
    from ..data.store_place import check_replaceable

    check_replaceable(output, overwrite)
    from ..data.join import join_stores
    from ..data.recipe import full_recipe

    joined = join_stores(stores, output, name=name, overwrite=overwrite)
    say(f"Joined {len(stores)} stores: {joined!r}")
    fitting = _fitting(full_recipe(joined.info["recipe"]))
    suggest("train", "--pipeline", fitting, "--data", output, "--output", "runs/joined")


@click.command()
@click.option("--dataset", required=True, type=click.Choice(["acdc", "mnms"]))
@options.output
@click.option("--cases", default=20, show_default=True, help="Synthetic patients.")
@click.option(
    "--vendor", type=click.Choice(["A", "B", "C", "D"]),
    help="Scanner of all pictures (mnms); default: several, as in the challenge.",
)  # fmt: skip
@options.seed
@explained
def phantom(dataset: str, output: Path, cases: int, vendor: str | None, seed: int) -> None:
    """Write synthetic hearts of known volumes.

    Files and folders have the names and the peculiarities of the real ACDC or M&Ms.
    """
    from ..data.phantom import write_phantoms

    truths = write_phantoms(
        dataset, output, cases, seed, vendor=vendor, progress=progress("patients")
    )
    say(f"{counted(len(truths), 'case')} in {output}")
