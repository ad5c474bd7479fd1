"""Encodes scans, and writes their table, pictures and page: what the command ``encode`` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import pandas as pd

from ..data.masks import CANONICAL, Masks
from ..data.scan import find_scans
from ..report.encodings import draw_map, draw_patient, encodings_page
from ..runtime.file_names import file_names
from ..runtime.files import write
from ..runtime.messages import without_folder
from ..runtime.outputs import check_apart, claimed
from ..runtime.progress import Progress, silent
from ..runtime.spreadsheet import csv_text
from ..schema import DataError, Structure
from ..segmentation.scans import load_segmenter
from ..training.run import load_run
from .encoding import Encoded, encode_scan, population_of


def encode_scans(
    run: str | Path,
    sources: Sequence[str | Path],
    output: str | Path,
    *,
    mask: str | Path | None = None,
    segmenter: str | Path | Sequence[str | Path] = "acdc",
    labels: Mapping[int, Structure] = CANONICAL,
    mirror: bool = False,
    condition: str | None = None,
    device: str = "auto",
    progress: Progress = silent,
) -> tuple[list[Encoded], list[tuple[str, str]]]:
    """Writes codes.csv, skipped.csv, pictures/NAME.png, map.png and index.html.

    Args:
        run: Folder that ``train`` wrote, or the name of a shipped model.
        sources: Files and folders, see `find_scans`.
        output: Folder to write into.
        mask: Mask of the only scan; or a folder with a mask for each, named as its scan.
        segmenter: What `load_segmenter` takes; opened only if a mask is needed.
        labels: Raw label number -> structure in given masks.
        mirror: Whether the scans are stored as mirror images, and are turned round.
        condition: What a conditional network is told of every scan, see `Run.telling`; None is
            nothing.
        device: See `find_device`.
        progress: Wraps the names of the scans and their number.

    Returns:
        What was encoded; and the name of each other scan with the reason.
    """
    model = load_run(run, device)
    model = model if condition is None else model.telling(condition)
    scans = find_scans(sources)
    output = Path(output)
    for source in sources:
        check_apart(Path(source), output)
    # named() refuses other label numbers than segment noted
    masks = Masks(Path(mask), labels=labels).named() if mask and Path(mask).is_dir() else None
    if mask and masks is None and len(scans) > 1:
        raise DataError(
            f"{mask} is one mask for {len(scans)} scans; give a folder of masks, each named as its "
            "scan, or one scan"
        )
    open_once = cache(lambda: load_segmenter(segmenter))
    if not mask:
        open_once()  # a wrong name is reported before anything is read
    known, found, skipped = population_of(model), list[Encoded](), list[tuple[str, str]]()
    pictures = {name: f"pictures/{file}.png" for name, file in file_names(scans).items()}
    with claimed(output, "encode") as claim:
        claim.plan(pictures.values(), last=("index.html", "codes.csv", "skipped.csv"))
        for name in progress(scans, len(scans)):
            path = scans[name]
            try:
                own = masks.find(path, name) if masks else mask
                one = encode_scan(
                    model, path, own, segmenter=open_once, labels=labels, known=known,
                    mirror=mirror, name=name,
                )  # fmt: skip
            except DataError as error:
                skipped.append((name, without_folder(error, path)))
                continue
            draw_patient(one.shown, output / pictures[name])
            found.append(one)
        if not found:
            raise DataError(f"none of {len(scans)} scans can be encoded: {skipped[0][1]}")
        shown = [one.shown for one in found]
        files = [
            "codes.csv",
            "skipped.csv",
            "index.html",
            *(pictures[one.name] for one in shown),
        ]
        if known is not None:
            draw_map(known.points, shown, output / "map.png")
            files.append("map.png")
        claim.keep(files)
        table = pd.DataFrame([one.row for one in found])
        write(output / "codes.csv", csv_text(table, "%.6g"))
        missed = pd.DataFrame(skipped, columns=["scan", "reason"])
        write(output / "skipped.csv", csv_text(missed))
        page = encodings_page(
            shown, output, pictures, model.pipeline.method, model.about["train_dataset"], skipped
        )
        write(output / "index.html", page)
    return found, skipped
