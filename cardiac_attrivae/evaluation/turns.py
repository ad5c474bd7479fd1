"""How often and how far attributes are turned; imports nothing, so that ``--help`` can name it."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

STEPS, TURN = 5, 2.0
"""Pictures of an attribute, and standard deviations to either side, unless told: beyond two there
are few patients, and beyond three none to learn from."""
MOST_STEPS, MOST_REACH = 51, 10
"""Pictures of an attribute, and standard deviations to either side, at most."""


def check_steps(steps: Any, reach: Any = 1.0) -> None:
    """Refuses numbers of pictures, and of standard deviations, that show nothing.

    Example:
        >>> check_steps(1)
        Traceback (most recent call last):
        ValueError: steps is 1; expected 2 to 51 pictures of an attribute
    """
    if not (isinstance(steps, Integral) and 2 <= int(steps) <= MOST_STEPS):
        raise ValueError(f"steps is {steps}; expected 2 to {MOST_STEPS} pictures of an attribute")
    is_number = isinstance(reach, Real)
    if not (is_number and 0 < reach <= MOST_REACH):
        found = f"{reach:g}" if is_number else repr(reach)
        raise ValueError(
            f"reach (--range) is {found}; expected standard deviations above 0, up to "
            f"{MOST_REACH}: beyond them, pictures are no hearts"
        )
