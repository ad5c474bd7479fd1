"""Rows of patients: checked, drawn with replacement, and permuted, whole patients at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike

from ..schema import LatentTable

LEAST = 5
"""Samples below which no score means anything."""
FEWEST = 8
"""Patients below which nothing can be said about other patients."""


def as_table(
    codes: LatentTable | ArrayLike,
    attributes: ArrayLike | None = None,
    dimensions: Sequence[int | None] | None = None,
) -> LatentTable:
    """Gives arrays the names of a `LatentTable`; a table passes unchanged.

    Args:
        codes: A table, or codes (N, D), where each row is another patient.
        attributes: Attribute values (N, K) or (N,); None with a table. Columns of a data frame keep
            their names.
        dimensions: Dimension that was trained on each attribute, length K; None without one.

    Raises:
        ValueError: If the shapes do not fit, or attributes are missing.

    Example:
        >>> table = as_table([[0.1, 2.0], [0.3, 1.0]], [30.0, 40.0])
        >>> table.names, table.attributes.shape, table.dimensions
        (('attribute 0',), (2, 1), (None,))
    """
    if isinstance(codes, LatentTable):
        if attributes is not None or dimensions is not None:
            raise ValueError("a LatentTable has attributes already; pass the table alone")
        return codes
    if attributes is None:
        raise ValueError(
            "attributes are missing; pass codes (N, D) and attributes (N, K), or a LatentTable"
        )
    named = getattr(attributes, "columns", None)
    codes, attributes = np.asarray(codes), np.asarray(attributes)
    attributes = attributes[:, None] if attributes.ndim == 1 else attributes
    if codes.ndim != 2 or attributes.ndim != 2 or len(codes) != len(attributes):
        raise ValueError(
            f"codes {codes.shape} and attributes {attributes.shape} do not fit; "
            "expected (N, D) and (N, K)"
        )
    k, digits = attributes.shape[1], len(str(len(codes)))
    return LatentTable(
        tuple(f"row {n:0{digits}d}" for n in range(len(codes))),
        codes,
        attributes,
        tuple(f"attribute {j}" for j in range(k)) if named is None else tuple(map(str, named)),
        (None,) * k if dimensions is None else tuple(dimensions),
    )


def checked(
    codes: ArrayLike, attributes: ArrayLike, names: Sequence[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns codes (N, D) and attributes (N, K) as float64; names, length K, are for messages.

    Raises:
        ValueError: If the shapes do not fit, N < 5, or a column is not finite.

    Example:
        >>> codes, attributes = checked(np.zeros((5, 2)), np.ones((5, 1), int))
        >>> attributes.dtype
        dtype('float64')
        >>> checked(np.zeros((5, 2)), np.full((5, 1), np.nan), ["LVEDA"])
        Traceback (most recent call last):
        ValueError: attribute column LVEDA is NaN or infinite in 5 of 5 rows; expected ...
    """
    codes, attributes = (np.asarray(v, dtype=float, order="C") for v in (codes, attributes))
    fits = codes.ndim == attributes.ndim == 2 and len(codes) == len(attributes)
    if not fits or not codes.shape[1] or not attributes.shape[1]:
        raise ValueError(
            f"codes {codes.shape} and attributes {attributes.shape} do not fit; "
            "expected (N, D) and (N, K)"
        )
    if len(codes) < LEAST:
        raise ValueError(f"N = {len(codes)} samples are too few to score; expected N >= {LEAST}")
    for kind, values, labels in (("code", codes, None), ("attribute", attributes, names)):
        bad = ~np.isfinite(values)
        if bad.any():
            j = int(bad.any(axis=0).argmax())
            raise ValueError(
                f"{kind} column {j if labels is None else labels[j]} is NaN or infinite in "
                f"{bad[:, j].sum()} of {len(values)} rows; expected finite numbers"
            )
    return codes, attributes


def rows_of_patients(cases: Sequence[str], fewest: int = FEWEST) -> list[np.ndarray]:
    """Lists the rows of each patient, in the order of their names.

    Raises:
        ValueError: If there are fewer than ``fewest`` patients.

    Example:
        >>> rows_of_patients(["b", "a", "b"], fewest=2)
        [array([1]), array([0, 2])]
    """
    names, patient = np.unique(np.asarray(cases, dtype=str), return_inverse=True)
    if len(names) < fewest:
        raise ValueError(
            f"cases name {len(names)} patients in {len(cases)} rows; expected at least {fewest}"
        )
    return [np.flatnonzero(patient == i) for i in range(len(names))]


def draw_patients(cases: Sequence[str], rounds: int, seed: int = 0) -> np.ndarray:
    """Counts how often each row is drawn, (rounds, N), if patients are drawn with replacement.

    Which patients are drawn depends on their names and not on the order of rows.

    Raises:
        ValueError: If there are fewer than 8 patients, or rounds < 1.

    Example:
        >>> counts = draw_patients(["a", "a", *"bcdefgh"], rounds=2)
        >>> (counts[:, 0] - counts[:, 1]).tolist()  # rows of one patient are drawn together
        [0, 0]
        >>> counts[:, 1:].sum(axis=1)
        array([8, 8])
    """
    _check_rounds(rounds)
    patients = rows_of_patients(cases)
    p = len(patients)
    rng = np.random.default_rng(seed)
    owner = np.empty(len(cases), dtype=int)
    for patient, rows in enumerate(patients):
        owner[rows] = patient
    counts = np.empty((rounds, len(cases)), dtype=np.int32)  # of 45,000 patients they are large
    for row in counts:
        row[:] = np.bincount(rng.integers(p, size=p), minlength=p)[owner]
    return counts


def drawn_rows(counts: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the rows of each draw (rounds, N), each as often as it was drawn.

    Example:
        >>> [rows.tolist() for rows in drawn_rows(np.array([[0, 2, 1], [1, 1, 1]]))]
        [[1, 1, 2], [0, 1, 2]]
    """
    return (np.repeat(np.arange(counts.shape[1]), row) for row in counts)


def permute_patients(cases: Sequence[str], rounds: int, seed: int = 0) -> np.ndarray:
    """Draws the rows whose attributes each row receives, (rounds, N), when patients are permuted.

    All attributes move together, and the rows of a patient keep their order. Patients swap with
    patients that have as many rows, because nothing else keeps the dependence within a patient
    (Winkler et al., 2015). A patient whose number of rows is unique stays in place, which makes
    the null distribution stricter.

    Raises:
        ValueError: If fewer than 5 patients have another one with as many rows, there are fewer
            than 8 patients, or rounds < 1.

    References:
        | Multi-level block permutation (Winkler et al., 2015), whole-block exchangeability
        | https://doi.org/10.1016/j.neuroimage.2015.05.092

    Example:
        >>> origin = permute_patients([*"aabbccddeeffgghh"], rounds=1)[0]
        >>> (origin[1::2] - origin[::2]).tolist()  # both rows come from one patient, in order
        [1, 1, 1, 1, 1, 1, 1, 1]
    """
    _check_rounds(rounds)
    patients = rows_of_patients(cases)
    sizes = np.array([len(rows) for rows in patients])
    alike = [np.flatnonzero(sizes == size) for size in np.unique(sizes)]
    movable = sum(len(group) for group in alike if len(group) > 1)
    if movable < LEAST:
        raise ValueError(
            f"{movable} of {len(patients)} patients have a partner with as many rows; expected at "
            f"least {LEAST} to permute (rows per patient: {sorted(set(sizes.tolist()))})"
        )
    blocks = [np.array([patients[i] for i in group]) for group in alike]  # (patients, rows) each
    rng = np.random.default_rng(seed)
    origin = np.empty((rounds, len(cases)), dtype=np.int32)
    for row in origin:
        for block in blocks:
            row[block] = rng.permutation(block)
    return origin


def _check_rounds(rounds: int) -> None:
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; expected at least 1")
