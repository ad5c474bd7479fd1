"""What every score gets on noise and on a perfect code: the tables of docs/evidence/floors.md.

Noise: no dimension knows of an attribute. Perfect: the first three dimensions are the attributes,
the others noise. Prints means over draws, [2.5 %, 97.5 %] for noise, and in how many draws the
interval of the corrected score holds 0 for noise and 1 for a perfect code.

    python benchmarks/floors.py [--draws 60] [--rounds 100] [--shapes 50,85,32 136,160,256]
"""

from __future__ import annotations

import argparse

import numpy as np

from cardiac_attrivae.metrics.prediction import held_out
from cardiac_attrivae.metrics.regression import dci, leakage
from cardiac_attrivae.metrics.uncertainty import estimate
from cardiac_attrivae.schema import LatentTable

NAMES = ("LVEDA", "MEDA", "RVEDA")


def draw(n: int, d: int, perfect: bool, rng: np.random.Generator) -> LatentTable:
    """Codes and attributes of n patients."""
    codes, attributes = rng.normal(size=(n, d)), rng.normal(size=(n, len(NAMES)))
    if perfect:
        codes[:, : len(NAMES)] = attributes
    return LatentTable(tuple(map(str, range(n))), codes, attributes, NAMES, (0, 1, 2))


def measure(n: int, train: int, d: int, perfect: bool, rounds: int, seed: int) -> dict:
    """Scores a random table: means over the attributes, by the name of the metric."""
    rng = np.random.default_rng(seed)
    test, source = (draw(m, d, perfect, rng) for m in (n, train))
    rows = [
        *estimate(test, rounds=rounds),
        *held_out(source, test, rounds=1),
        *leakage(test),
        *dci(test, rounds=rounds),
    ]
    return {row.metric: row for row in rows if row.attribute == "mean"}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=100)
    shapes = ["50,85,32", "136,160,256"]
    parser.add_argument("--shapes", nargs="+", default=shapes, help="test patients, training, D")
    options = parser.parse_args()
    for shape in options.shapes:
        n, train, d = map(int, shape.split(","))
        noise, perfect = (
            [measure(n, train, d, kind, options.rounds, s) for s in range(options.draws)]
            for kind in (False, True)
        )
        print(f"\n{options.draws} draws of {n} patients (training: {train}), D = {d}\n")
        print("| score | noise | perfect | noise corrected to 0 | perfect to 1 |")
        print("| --- | --- | --- | --- | --- |")
        for metric in noise[0]:
            floor, ceiling = ([row[metric] for row in rows] for rows in (noise, perfect))
            values = np.array([row.value for row in floor])
            low, high = np.quantile(values, [0.025, 0.975])
            cells = [
                f"{values.mean():.3f} [{low:.2f}, {high:.2f}]",
                f"{np.mean([row.value for row in ceiling]):.3f}",
            ]
            for rows, ideal in ((floor, 0), (ceiling, 1)):
                if rows[0].p == rows[0].p:  # has a null distribution; nan where its mean is perfect
                    known = [row for row in rows if not np.isnan(row.corrected)]
                    held = [
                        row.corrected_low - 1e-9 <= ideal <= row.corrected_high + 1e-9
                        for row in known
                    ]
                    mean = np.mean([row.corrected for row in known])
                    cells.append(f"{sum(held)} of {len(held)}, mean {mean:.3f}")
                else:
                    cells.append("")
            print("|", " | ".join([metric, *cells]), "|", flush=True)


if __name__ == "__main__":
    main()
