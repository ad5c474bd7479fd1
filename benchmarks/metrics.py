"""How much faster the information matrix is than scikit-learn asked pair by pair.

Prints both times and their ratio, from one run on one machine, after checking that the numbers are
the same. n = 136, D = 256, K = 3 is the paper's M&Ms test set and latent size.

    python benchmarks/metrics.py [--n 136] [--dimensions 256] [--attributes 3] [--repeats 5]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
from sklearn.feature_selection import mutual_info_regression

from cardiac_attrivae.metrics import mutual_information


def per_pair(codes: np.ndarray, attributes: np.ndarray) -> np.ndarray:
    """One call per (dimension, attribute) pair."""
    return np.array(
        [
            [mutual_info_regression(c[:, None], a, random_state=0)[0] for a in attributes.T]
            for c in codes.T
        ]
    )


def per_attribute(codes: np.ndarray, attributes: np.ndarray) -> np.ndarray:
    """One call per attribute: the fewest that scikit-learn allows."""
    columns = [mutual_info_regression(codes, a, random_state=0) for a in attributes.T]
    return np.column_stack(columns)


def fastest(compute: Callable, repeats: int, *args: np.ndarray) -> tuple[float, np.ndarray]:
    """Seconds of the fastest of some runs, and the result."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = compute(*args)
        seconds.append(time.perf_counter() - start)
    return min(seconds), result


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=136)
    parser.add_argument("--dimensions", type=int, default=256)
    parser.add_argument("--attributes", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()

    rng = np.random.default_rng(0)
    codes = rng.normal(size=(options.n, options.dimensions))
    attributes = rng.normal(size=(options.n, options.attributes))
    ours, information = fastest(mutual_information, options.repeats, codes, attributes)
    print(f"n {options.n}, D {options.dimensions}, K {options.attributes}")
    print(f"cardiac_attrivae.metrics    {ours:8.3f} s")
    for compute in (per_attribute, per_pair):
        theirs, expected = fastest(compute, min(2, options.repeats), codes, attributes)
        difference = np.abs(information - expected).max()
        if difference > 1e-10:
            raise SystemExit(f"not the same numbers: they differ by {difference:.1e}")
        name = f"scikit-learn, {compute.__name__.replace('_', ' ')}"
        print(
            f"{name:27s} {theirs:8.3f} s   {theirs / ours:5.1f} x   (difference {difference:.0e})"
        )


if __name__ == "__main__":
    main()
