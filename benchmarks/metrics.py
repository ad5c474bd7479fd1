"""How much faster the five scores are than scikit-learn and scipy asked pair by pair.

Prints the times and their ratio, from one run on one machine, after checking that the scores are
the same; then what draws and permutations take: of the scores, and all that an evaluation asks of
one model. n = 136, D = 256, K = 3 is the paper's M&Ms test set and latent size.

Pair by pair means one call of ``mutual_info_regression``, ``spearmanr`` and ``LinearRegression``
for each (dimension, attribute), and no pair asked twice.

    python benchmarks/metrics.py [--n 136] [--dimensions 256] [--attributes 3] [--repeats 5]
                                 [--rounds 1000] [--train 160]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.stats import spearmanr
from sklearn.feature_selection import mutual_info_regression
from sklearn.linear_model import LinearRegression

from cardiac_attrivae.metrics.codes import METRICS, tabulate
from cardiac_attrivae.metrics.dependence import Dependence
from cardiac_attrivae.metrics.information import mutual_information
from cardiac_attrivae.metrics.prediction import held_out
from cardiac_attrivae.metrics.regression import dci, leakage
from cardiac_attrivae.metrics.uncertainty import bootstrap, permutation_null
from cardiac_attrivae.schema import LatentTable

FIVE = {name: METRICS[name] for name in ("Interpretability", "SCC", "Modularity", "SAP", "MIG")}


def information_per_pair(codes: np.ndarray, attributes: np.ndarray) -> np.ndarray:
    """One call of scikit-learn per (dimension, attribute) pair, (D, K)."""
    return np.array(
        [
            [mutual_info_regression(c[:, None], a, random_state=0)[0] for a in attributes.T]
            for c in codes.T
        ]
    )


def correlation_per_pair(codes: np.ndarray, attributes: np.ndarray) -> np.ndarray:
    """One call of scipy per pair, (D, K)."""
    found = [[spearmanr(c, a) for a in attributes.T] for c in codes.T]
    return np.array([[abs(r.statistic) * (r.pvalue <= 0.05) for r in row] for row in found])


def fit_per_pair(codes: np.ndarray, attributes: np.ndarray) -> np.ndarray:
    """One regression of scikit-learn per pair, (D, K)."""
    columns = [c[:, None] for c in codes.T]
    return np.array(
        [[LinearRegression().fit(c, a).score(c, a) for a in attributes.T] for c in columns]
    )


def per_pair(codes: np.ndarray, attributes: np.ndarray) -> Dependence:
    """What the scores read, pair by pair."""
    fit = fit_per_pair(codes, attributes)
    return Dependence(
        information=information_per_pair(codes, attributes),
        entropy=np.array(
            [information_per_pair(a[:, None], a[:, None])[0, 0] for a in attributes.T]
        ),
        fit=fit,
        separable=fit,
        correlation=correlation_per_pair(codes, attributes),
        dimensions=(None,) * attributes.shape[1],
    )


def five_scores(measured: Dependence, n: int) -> np.ndarray:
    """Their values, in order."""
    names = [str(k) for k in range(len(measured.dimensions))]
    return np.array([row.value for row in tabulate(measured, names, n, FIVE)])


def fastest(compute: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Seconds of the fastest of some runs, and the result."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = compute()
        seconds.append(time.perf_counter() - start)
    return min(seconds), result


def random_table(n: int, d: int, k: int, rng: np.random.Generator) -> LatentTable:
    """Codes and attributes of n patients; the first dimensions know of the attributes."""
    codes, attributes = rng.normal(size=(n, d)), rng.normal(size=(n, k))
    codes[:, :k] = attributes + 0.5 * codes[:, :k]
    names = tuple(f"attribute {j}" for j in range(k))
    return LatentTable(tuple(map(str, range(n))), codes, attributes, names, tuple(range(k)))


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=136)
    parser.add_argument("--dimensions", type=int, default=256)
    parser.add_argument("--attributes", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=1000, help="0 leaves the statistics out")
    parser.add_argument("--train", type=int, default=160, help="patients that lines are fitted on")
    options = parser.parse_args()

    n, k = options.n, options.attributes
    rng = np.random.default_rng(0)
    codes, attributes = rng.normal(size=(n, options.dimensions)), rng.normal(size=(n, k))
    print(f"n {n}, D {options.dimensions}, K {k}")
    few = min(2, options.repeats)
    for what, ours, theirs in (
        (
            "information",
            lambda: mutual_information(codes, attributes),
            lambda: information_per_pair(codes, attributes),
        ),
        (
            "all five scores",
            lambda: five_scores(Dependence.between(codes, attributes), n),
            lambda: five_scores(per_pair(codes, attributes), n),
        ),
    ):
        seconds, found = fastest(ours, options.repeats)
        slow, expected = fastest(theirs, few)
        difference = np.abs(found - expected).max()
        if difference > 1e-10:
            raise SystemExit(f"{what}: not the same numbers, they differ by {difference:.1e}")
        print(
            f"{what:16s} {seconds * 1e3:7.1f} ms   pair by pair {slow * 1e3:7.0f} ms"
            f"   {slow / seconds:5.1f} x   (difference {difference:.0e})"
        )
    if options.rounds:
        test, train = (random_table(m, options.dimensions, k, rng) for m in (n, options.train))
        spent = {}
        for name, compute in (
            ("bootstrap", lambda: bootstrap(test, options.rounds)),
            ("permutations", lambda: permutation_null(test, options.rounds)),
            ("held out", lambda: held_out(train, test, rounds=options.rounds)),
            ("leakage", lambda: leakage(test)),
            ("DCI", lambda: dci(test, rounds=options.rounds)),
        ):
            start, busy = time.perf_counter(), time.process_time()
            compute()
            spent[name] = time.perf_counter() - start, time.process_time() - busy
        spent["the first two"] = tuple(map(sum, zip(*list(spent.values())[:2], strict=True)))
        spent["all"] = tuple(map(sum, zip(*list(spent.values())[:-1], strict=True)))
        print(f"{options.rounds} rounds, one process: seconds by the clock, and of the processor")
        for name, (clock, busy) in spent.items():
            print(f"{name:16s} {clock:7.1f} {busy:7.1f}")


if __name__ == "__main__":
    main()
