"""How often do 95 % intervals hold what they should? Every score, on simulated patients.

Each simulation is another draw of patients from the same population. An interval should hold the
mean of the score over such draws. The standard error of a share of .95 is .024 in 80 simulations,
and .011 in 400.

    python benchmarks/coverage.py --patients 20 50 136 --simulations 400
"""

import argparse
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from cardiac_attrivae.metrics.codes import SCORES, score
from cardiac_attrivae.metrics.control import STEPS, control_scores
from cardiac_attrivae.metrics.intervals import interval, patient_means
from cardiac_attrivae.metrics.metric import KNOWN, Score, find
from cardiac_attrivae.metrics.patients import as_table
from cardiac_attrivae.metrics.prediction import held_out
from cardiac_attrivae.metrics.regression import dci, leakage
from cardiac_attrivae.metrics.scales import PLAIN
from cardiac_attrivae.metrics.uncertainty import bootstrap

NOISE = (0.3, 1.0)
"""Standard deviation of the noise in the dimensions of the two attributes: R^2 of .92 and .5."""
DIMENSIONS = 8


def codes_of(n: int, rng: np.random.Generator):  # noqa: ANN201
    """Two attributes, the dimensions that were trained on them, and dimensions of noise."""
    attributes, codes = rng.normal(size=(n, 2)), rng.normal(size=(n, DIMENSIONS))
    codes[:, :2] = attributes + NOISE * codes[:, :2]
    return as_table(codes, attributes + [30, 20], dimensions=(0, 1))


def images_of(n: int, rng: np.random.Generator) -> dict[tuple[str, str], np.ndarray]:
    """Scores of pictures of each patient, as skewed as those of real slices."""
    error = 0.008 * np.exp(0.6 * rng.normal(size=n))
    return {
        ("SSIM", "mean"): np.tanh(1 + 0.3 * rng.normal(size=n)),
        ("SSIM_in_mask", "mean"): np.tanh(0.4 + 0.25 * rng.normal(size=n)),
        ("Sharpness", "mean"): 0.15 * np.exp(0.7 * rng.normal(size=n)),
        ("PSNR", "mean"): -10 * np.log10(error),
        ("MSE", "mean"): error,
        ("Dice", "mean"): rng.beta(18, 2, size=n),
    }


def drawn_hearts(n: int, rng: np.random.Generator) -> pd.DataFrame:
    """Areas in pictures whose dimension was moved: follows well, leaks a little."""
    case, step = np.repeat(np.arange(n), len(STEPS)), np.tile(STEPS, n)
    slope, leak = (1 + 0.3 * rng.normal(size=n))[case], (0.2 + 0.2 * rng.normal(size=n))[case]
    noise = rng.normal(size=(3, len(case)))
    return pd.DataFrame(
        {"attribute": "LVEDA", "dimension": 0, "case": case, "requested": 20 + 4 * step,
         "LV": 20 + 4 * slope * step + 2 * noise[0], "MYO": 15 + 3 * leak * step + noise[1],
         "RV": 25 + noise[2]}
    )  # fmt: skip


def simulate(n: int, seed: int, rounds: int, refitted: bool = False) -> list[Score]:
    """Every score of n patients, with its interval; or Leakage and DCI alone."""
    rng = np.random.default_rng(seed)
    table, source = codes_of(n, rng), codes_of(n, rng)
    if refitted:
        return [*leakage(table, seed=seed), *dci(table, rounds=rounds, seed=seed)]
    found = score(table, metrics=SCORES)
    drawn = bootstrap(table, rounds, seed)
    ends = [
        interval(row.value, d, find(row.metric).scale)
        for row, d in zip(found, drawn.T, strict=True)
    ]
    return [
        *(row._replace(low=low, high=high) for row, (low, high) in zip(found, ends, strict=True)),
        *held_out(source, table, rounds, seed),
        *leakage(table, seed=seed),
        *dci(table, rounds=rounds, seed=seed),
        *control_scores(drawn_hearts(n, rng), np.array([5.0, 3.0, 6.0]), rounds, seed),
        *patient_means(images_of(n, rng), table.cases, rounds, seed),
    ]


def coverage(
    n: int, simulations: int, rounds: int, jobs: int = 1, refitted: bool = False
) -> dict[tuple[str, str], float]:
    """Share of intervals that hold the mean over all simulations, by metric and attribute."""
    tasks = (delayed(simulate)(n, seed, rounds, refitted) for seed in range(simulations))
    rows = defaultdict(list)
    for found in Parallel(n_jobs=jobs, return_as="generator")(tasks):
        for row in found:
            rows[row.metric, row.attribute].append((row.value, row.low, row.high))
    shares = {}
    for name, numbers in rows.items():
        value, low, high = np.transpose(numbers)
        ends = find(name[0]).scale.limits
        outside = (low < ends[0] - 1e-12) | (high > ends[1] + 1e-12)  # more than rounding
        assert not outside.any(), name
        truth, known = value.mean(), np.isfinite(low)
        shares[name] = float(np.mean((low <= truth)[known] & (truth <= high)[known]))
    return shares


def main() -> None:
    """Simulates and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patients", type=int, nargs="+", default=[20, 50, 136])
    parser.add_argument("--simulations", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--plain", action="store_true", help="no scales, as before: for comparison")
    parser.add_argument(
        "--refitted", action="store_true", help="Leakage and DCI alone, which take the longest"
    )
    options = parser.parse_args()
    if options.plain:
        for table in KNOWN.maps:
            table.update({name: replace(entry, scale=PLAIN) for name, entry in table.items()})
    how = (options.simulations, options.rounds, options.jobs, options.refitted)
    columns = [coverage(n, *how) for n in options.patients]
    print("| score | attribute |", " | ".join(f"{n} patients" for n in options.patients), "|")
    print("| --- | --- |", " | ".join("---" for _ in columns), "|")
    for name in columns[0]:
        print("|", " | ".join([*name, *(f"{shares[name]:.3f}" for shares in columns)]), "|")


if __name__ == "__main__":
    main()
