"""Uncertainty of code scores: their spread over patients, and their null distribution.

The rows of one patient are drawn, permuted and left out together.

**Intervals** come from the bootstrap: patients are drawn with replacement and everything is
computed anew, the choice of dimensions included. Two things differ from the textbook.

Drawing doubles rows, and a doubled row is its own neighbour at distance 0, which spoils an estimate
of information. So the information of a draw is that of m = (1 - 1/e) P of its P patients, each
once, and its deviation from the mean of such subsamples is scaled by sqrt(m / (P - m)), the factor
by which subsamples spread less (Politis & Romano, 1994; Shao & Wu, 1989, delete-d jackknife).

The best of D dimensions is too good in a draw, because noise enters twice. So an interval is the
spread of the draws about *their mean*, laid about the score: it covers what the score would be on
average over other patients, as many as these. Spread and score are taken on the scale of the metric
(Fisher's z for correlations, the logarithm of 1 - R^2, ...), so an interval stays in the range of
its score. `corrected` takes the mean of the null distribution off both. How often intervals cover
is measured by benchmarks/coverage.py.

References:
    | A general theory for jackknife variance estimation (Shao & Wu, 1989)
    | Large sample confidence regions based on subsamples (Politis & Romano, 1994)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from ..schema import LatentTable
from .codes import SCORES, score, tabulate
from .dependence import Dependence
from .information import mutual_information, self_information
from .intervals import LEVEL, Ends, corrected, interval, share_above
from .metric import Score, find
from .patients import (
    as_table,
    checked,
    draw_patients,
    drawn_rows,
    permute_patients,
    rows_of_patients,
)

BLOCK = 2**18
"""Numbers of permuted attributes that are measured at a time: memory does not grow with rounds."""


def estimate(
    codes: LatentTable | ArrayLike,
    attributes: ArrayLike | None = None,
    *,
    rounds: int = 1000,
    seed: int = 0,
    drawn: np.ndarray | None = None,
) -> list[Score]:
    """Computes every entry of `SCORES` with its interval over patients and its null distribution.

    Args:
        codes: A table with names, or codes (N, D) of as many patients.
        attributes: Attribute values (N, K) or (N,), if codes are an array.
        rounds: Draws of patients, and as many permutations.
        seed: Seed of both, and of the jitter that breaks ties.
        drawn: `bootstrap` of this table, (rounds, S), if it is known already.

    Returns:
        Scores in the order of `SCORES` and of the table's columns, as `score` returns them.

    Raises:
        ValueError: As `score`; if there are fewer than 8 patients; if rounds < 1.

    Example:
        >>> attribute = np.arange(20.0)
        >>> codes = np.column_stack([attribute, np.cos(attribute)])
        >>> found = estimate(codes, attribute, rounds=50)[0]
        >>> found.metric, round(found.value, 2), found.null < 0.2, round(found.p, 2)
        ('Interpretability', 1.0, True, 0.02)
    """
    table = as_table(codes, attributes)
    found = score(table, seed=seed, metrics=SCORES)
    drawn = bootstrap(table, rounds, seed) if drawn is None else drawn
    return estimates(found, drawn, permutation_null(table, rounds, seed), len(set(table.cases)))


def estimates(
    scores: Sequence[Score],
    drawn: np.ndarray,
    null: np.ndarray,
    patients: int,
    ends: Ends = interval,
) -> list[Score]:
    """Adds to scores (S) what their draws (rounds, S) and permutations (rounds, S) say.

    ``ends`` is `jackknife` if ``drawn`` are the scores without groups of patients.

    Example:
        >>> drawn, null = np.array([[0.6], [0.8]]), np.array([[0.1], [0.3]])
        >>> (found,) = estimates([Score("SCC", "mean", 0.6)], drawn, null, patients=9)
        >>> round(found.null, 1), round(found.corrected, 1), round(found.p, 2), found.patients
        (0.2, 0.5, 0.33, 9)
    """
    found = []
    for row, draws, permuted in zip(scores, drawn.T, null.T, strict=True):
        low, high = ends(row.value, draws, find(row.metric).scale)
        mean = permuted.mean()
        found.append(
            row._replace(
                low=low,
                high=high,
                null=float(mean),
                null_95=float(np.quantile(permuted, LEVEL)),
                p=share_above(permuted, row.value),
                corrected=corrected(row.value, mean),
                corrected_low=corrected(low, mean),
                corrected_high=corrected(high, mean),
                patients=patients,
            )
        )
    return found


def bootstrap(table: LatentTable, rounds: int = 1000, seed: int = 0) -> np.ndarray:
    """Computes `SCORES` of patients drawn with replacement, (rounds, S).

    Information is that of subsamples, see the top of this file. Tables of the same patients and the
    same seed share the draws, so differences are paired. Raises as `estimate`.

    Example:
        >>> table = as_table(np.random.default_rng(0).normal(size=(10, 2)), np.arange(10))
        >>> bootstrap(table, rounds=3).shape  # 9 scores with a mean each, and Modularity twice
        (3, 18)
    """
    codes, attributes = checked(table.codes, table.attributes, table.names)
    counts = draw_patients(table.cases, rounds, seed)
    # an attribute's information with itself, the entropy, is that of K more dimensions
    both = np.hstack([codes, attributes])
    information = draw_information(both, attributes, table.cases, counts, seed)
    information, own = np.split(information, [codes.shape[1]], axis=1)
    entropy = np.diagonal(own, axis1=1, axis2=2) * (np.ptp(attributes, axis=0) > 0)
    return np.array(
        [
            _values(
                Dependence.between(
                    codes[rows], attributes[rows], table.dimensions, seed,
                    information=information[r], entropy=entropy[r],
                ),
                table,
            )
            for r, rows in enumerate(drawn_rows(counts))
        ]
    )  # fmt: skip


def permutation_null(table: LatentTable, rounds: int = 1000, seed: int = 0) -> np.ndarray:
    """Computes `SCORES` with the attributes of other patients, (rounds, S).

    Raises as `permute_patients`.

    Example:
        >>> table = as_table(np.random.default_rng(0).normal(size=(10, 2)), np.arange(10))
        >>> permutation_null(table, rounds=3).shape
        (3, 18)
    """
    codes, attributes = checked(table.codes, table.attributes, table.names)
    origins, k = permute_patients(table.cases, rounds, seed), len(table.names)
    entropy = self_information(attributes, seed)  # does not depend on the order
    # the rounds of a block are columns of one table, so that the codes are sorted once for them
    # of two columns at least: of a single one, numpy adds up the rows in another order
    blocks, null = max(1, rounds // max(2, BLOCK // attributes.size)), []
    for origin in np.array_split(origins, blocks):
        permuted = np.hstack(attributes[origin])
        known = np.tile(entropy, len(origin))
        measured = Dependence.between(codes, permuted, seed=seed, entropy=known)
        null += [
            _values(measured.of_attributes(slice(first, first + k), table.dimensions), table)
            for first in range(0, permuted.shape[1], k)
        ]
    return np.array(null)


def draw_information(
    codes: np.ndarray, attributes: np.ndarray, cases: Sequence[str], counts: np.ndarray, seed: int
) -> np.ndarray:
    """Estimates information (rounds, D, K) of draws of patients (rounds, N), see above.

    Patients that were drawn come first; the last places, if any are left, are filled with others.

    Example:
        >>> x, cases = np.random.default_rng(0).normal(size=(10, 2)), [*"abcdefghij"]
        >>> draw_information(x, x[:, :1], cases, draw_patients(cases, rounds=3), seed=0).shape
        (3, 2, 1)
    """
    patients, rng = rows_of_patients(cases), np.random.default_rng([seed, 1])
    p = len(patients)
    m = round((1 - np.exp(-1)) * p)
    drawn = counts[:, [rows[0] for rows in patients]] > 0
    whole = mutual_information(codes, attributes, seed=seed, floor=-np.inf)
    parts = np.empty((len(counts), *whole.shape))
    for r, row in enumerate(drawn):
        chosen = np.argsort(rng.random(p) - row)[:m]
        rows = np.sort(np.concatenate([patients[i] for i in chosen]))
        parts[r] = mutual_information(codes[rows], attributes[rows], seed=seed, floor=-np.inf)
    return np.maximum(whole + np.sqrt(m / (p - m)) * (parts - parts.mean(axis=0)), 0)


def _values(measured: Dependence, table: LatentTable) -> list[float]:
    return [row.value for row in tabulate(measured, table.names, len(table.cases), SCORES)]
