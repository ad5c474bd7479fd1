"""A column of cases.csv whose values are categories, such as pathology or vendor, as numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..runtime.yaml_files import nearest
from ..schema import DataError

MOST = 32
"""Most categories of a column: more are names or numbers of single patients."""


def categories_of(cases: pd.DataFrame, column: str, key: str = "column") -> tuple[str, ...]:
    """Lists the categories of some patients, in the order of the alphabet; blanks are none.

    Args:
        cases: Their rows of cases.csv.
        column: Column with the categories.
        key: Dotted key of the pipeline that names the column, for errors.

    Raises:
        DataError: If there is no such column, or it does not hold 2 to 32 categories.

    Example:
        >>> categories_of(pd.DataFrame({"pathology": ["NOR", "DCM", "", "NOR"]}), "pathology")
        ('DCM', 'NOR')
    """
    if column not in cases:
        names = [*map(str, cases)]
        raise DataError(
            f"cases.csv has no column {column!r}{nearest(column, names)}; expected one of "
            f"{', '.join(names)}, with --set {key}=COLUMN"
        )
    found = sorted({*_texts(cases[column])} - {""})
    if not 2 <= len(found) <= MOST:
        some = ", ".join(found[:3]) + ", ..." * (len(found) > 3)
        named = "1 category" if len(found) == 1 else f"{len(found)} categories"
        raise DataError(
            f"column {column!r} of cases.csv has {named} among the training "
            f"patients ({some or 'all are blank'}); expected 2 to {MOST}: give another column "
            f"with --set {key}=COLUMN, or a store whose patients differ in it"
        )
    return tuple(found)


def one_hot(cases: pd.DataFrame, column: str, categories: Sequence[str]) -> np.ndarray:
    """Says of each row which of the categories it has.

    Args:
        cases: N rows of cases.csv; the column may be missing.
        column: Column with the categories.
        categories: M categories.

    Returns:
        1 in the column of its category and 0 elsewhere, (N, M) float32; rows whose category is
        blank, or none of these, are 0 everywhere.

    Example:
        >>> one_hot(pd.DataFrame({"vendor": ["GE", "Siemens", ""]}), "vendor", ["GE", "Philips"])
        array([[1., 0.],
               [0., 0.],
               [0., 0.]], dtype=float32)
    """
    known = _texts(cases[column]) if column in cases else [""] * len(cases)
    return np.equal.outer(np.array(known, dtype=object), np.array(categories, dtype=object)).astype(
        np.float32
    )


def _texts(values: pd.Series) -> list[str]:
    return [str(value).strip() for value in values.fillna("")]
