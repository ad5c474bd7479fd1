"""Quotes text cells of a CSV that spreadsheets would otherwise execute as formulas."""

from __future__ import annotations

import re

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
