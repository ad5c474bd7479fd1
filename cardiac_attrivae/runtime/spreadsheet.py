"""Writes and reads CSV; quotes texts that spreadsheets would otherwise execute as formulas."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

FORMULA = re.compile(r"'*[=+\-@\t\r]")
"""Start of a text that a spreadsheet executes, or that already was quoted."""


def quoted(text: str) -> str:
    """Puts an apostrophe before a text that a spreadsheet would execute.

    Example:
        >>> quoted("=1+1"), quoted("patient001")
        ("'=1+1", 'patient001')
    """
    return f"'{text}" if FORMULA.match(text) else text


def unquoted(cell: str) -> str:
    """Returns the text that `quoted` made a cell of.

    Example:
        >>> unquoted(quoted("=1+1")), unquoted(quoted("'=1")), unquoted("'s-Hertogenbosch")
        ('=1+1', "'=1", "'s-Hertogenbosch")
    """
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell


def csv_text(table: pd.DataFrame, float_format: str | None = None) -> str:
    """Returns a table as CSV, with its texts `quoted` and no index; columns are not quoted.

    ``float_format`` says how to write numbers, such as ``%.6g``; None gives all digits.

    Example:
        >>> import pandas as pd
        >>> print(csv_text(pd.DataFrame({"case": ["p1", "=1+1"], "SSIM": [-0.5, 0.5]})), end="")
        case,SSIM
        p1,-0.5
        '=1+1,0.5
    """
    return _each_text(table, quoted).to_csv(
        index=False, float_format=float_format, lineterminator="\n"
    )


def read_csv(file: Path) -> pd.DataFrame:
    """Reads a table that `csv_text` wrote; empty cells are missing, a case is a text.

    Example:
        >>> import pandas as pd
        >>> file = Path("metrics.csv")
        >>> _ = file.write_text(csv_text(pd.DataFrame({"case": ["007", "=1+1"]})))
        >>> read_csv(file)["case"].tolist()
        ['007', '=1+1']
    """
    import pandas as pd

    table = pd.read_csv(file, dtype={"case": str}, keep_default_na=False, na_values=[""])
    return _each_text(table, unquoted)


def _each_text(table: pd.DataFrame, change: Callable[[str], str]) -> pd.DataFrame:
    """Changes the texts of a table."""
    texts = {
        str(name): table[name].map(lambda cell: change(cell) if isinstance(cell, str) else cell)
        for name in table.select_dtypes(["object", "string"])
    }
    return table.assign(**texts)
