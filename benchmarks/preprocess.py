"""What preprocessing a case costs, beside what nibabel needs to read its two files.

A round reads image and mask of every case with nibabel, then runs `preprocess` on one worker into
a fresh folder, assembly of the store and contact sheet included. Rounds alternate within one run,
after one that is not counted (imports, disk cache); the ratio is that of the medians. Processor
time is what to compare on a machine that does other work too.

    python benchmarks/preprocess.py --source DIR [--dataset acdc] [--slice basal] [--repeats 5]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import nibabel
import numpy as np

from cardiac_attrivae.data.cases import find_cases
from cardiac_attrivae.data.manifest import load_manifest
from cardiac_attrivae.data.nifti import quiet_nibabel
from cardiac_attrivae.data.preprocess import preprocess
from cardiac_attrivae.data.recipe import SLICES, Recipe
from cardiac_attrivae.schema import CaseRecord


def read_with_nibabel(records: list[CaseRecord]) -> None:
    """All voxels of image and mask of each case, as anyone would read them."""
    with quiet_nibabel():
        for record in records:
            for file in (record.image, record.mask):
                np.asarray(nibabel.load(file).dataobj)


def spent(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of processor and of clock that ``work`` takes."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--dataset", default="acdc")
    parser.add_argument("--slice", choices=SLICES, default="basal")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()

    manifest, recipe = load_manifest(options.dataset), Recipe(slice=options.slice)
    records = find_cases(manifest, options.source).records
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        for n in range(options.repeats + 1):
            output = Path(folder) / str(n)
            theirs = spent(lambda: read_with_nibabel(records))
            ours = spent(lambda to=output: preprocess(manifest, options.source, to, recipe))
            rounds.append((*theirs, *ours))

    columns = np.array(rounds[1:]).T * 1000 / len(records)
    cpu, wall, our_cpu, our_wall = map(median, columns)
    print(f"{options.dataset}, {options.slice}: {len(records)} cases, {options.repeats} rounds")
    print(f"{'ms per case':<20}{'processor':>10}{'clock':>8}")
    print(f"{'nibabel reads both':<20}{cpu:>10.1f}{wall:>8.1f}")
    print(f"{'preprocess':<20}{our_cpu:>10.1f}{our_wall:>8.1f}")
    print(f"{'ratio':<20}{our_cpu / cpu:>10.2f}{our_wall / wall:>8.2f}")
    ratios = columns[2] / columns[0]
    print(f"ratios of processor time, round by round: {ratios.min():.2f} to {ratios.max():.2f}")


if __name__ == "__main__":
    main()
