"""Hearts on a grid of codes: from one patient to another, and over two attributes at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as short
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from ..attributes import ATTRIBUTES, label_of
from ..report.slices import drawn_slices
from ..report.style import picture, stacked, value_of
from ..schema import Phase, Structure, structures_at
from ..training.run import decode
from .control import segmented
from .studio import MEAN_HEART, Studio
from .turns import STEPS, TURN, check_steps


@dataclass(frozen=True)
class Grid:
    """Drawn hearts in R rows and S columns, measured by the judge."""

    # a row per heart, row by row: its place, and what its code says of each attribute
    about: pd.DataFrame
    titles: Sequence[str]  # beside each row, length R
    heads: Sequence[Sequence[str]]  # above each picture, R lists of S
    # the one that each row is about, length R; None for none
    structures: Sequence[Structure | None]
    # slice that it starts from, (C, H, W); None if there is not one alone
    original: np.ndarray | None
    slices: Tensor  # drawn slices, (R, S, C, H, W)
    labels: np.ndarray  # how the judge labels them, same shape
    measured: np.ndarray  # areas of LV, MYO and RV at each phase, or volumes, (R, S, 3 P)
    unit: str  # theirs, mL of stacks
    title: str = "original"  # above the slice that it starts from

    @property
    def table(self) -> pd.DataFrame:
        """`about`, and measured LV, MYO and RV in cm^2, of a second phase LV_ES and so on."""
        flat = self.measured.reshape(-1, self.measured.shape[-1])
        columns = list(structures_at(Phase)[: flat.shape[1]])
        return self.about.join(pd.DataFrame(flat, columns=columns))

    def draw(self, path: Path) -> None:
        """Draws the slices, with measured areas below each, as PNG."""
        original = None if self.original is None else stacked(self.original)
        drawn_slices(
            stacked(self.slices.numpy()), self.titles, self.heads, path, original,
            stacked(self.labels), self.measured, self.structures, "below: measured", self.unit,
            self.title,
        )  # fmt: skip

    def __repr__(self) -> str:
        rows, columns = self.slices.shape[:2]
        return f"<Grid of {rows} x {columns} drawn hearts: see table, slices>"

    def _repr_html_(self) -> str:
        return picture(self.draw)


def on_line(start: np.ndarray, end: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Walks from a code to another along a line.

    Args:
        start, end: Codes, (D,).
        shares: Shares of the way, (S,); 0 is the start, 1 the end.

    Returns:
        Codes, (S, D).

    Example:
        >>> on_line(np.array([2.0, 0.0]), np.array([0.0, 2.0]), np.array([0.0, 0.5])).tolist()
        [[2.0, 0.0], [1.0, 1.0]]
    """
    return start + shares[:, None] * (end - start)


def on_sphere(start: np.ndarray, end: np.ndarray, shares: np.ndarray) -> np.ndarray:
    r"""Walks from a code to another around the mean of the prior, at a steady angle.

    .. math:: \frac{\sin((1 - t) \omega)}{\sin \omega} a + \frac{\sin(t \omega)}{\sin \omega} b

    with the angle omega between a and b. Most of a normal prior in many dimensions lies near a
    sphere: the line between two codes leaves it, this path stays. Codes in one direction, or in
    opposite ones, have no such path, and are joined by a line.

    Arguments and result are those of `on_line`.

    References:
        | Sampling generative networks (White, 2016), https://arxiv.org/abs/1609.04468

    Example:
        >>> path = on_sphere(np.array([2.0, 0.0]), np.array([0.0, 2.0]), np.array([0.0, 0.5]))
        >>> path.round(4).tolist()
        [[2.0, 0.0], [1.4142, 1.4142]]
    """
    lengths = np.linalg.norm(start) * np.linalg.norm(end)
    angle = np.arccos(np.clip(start @ end / lengths, -1, 1)) if lengths else 0.0
    if np.sin(angle) < 1e-6:
        return on_line(start, end, shares)
    of_start, of_end = np.sin((1 - shares) * angle), np.sin(shares * angle)
    return (of_start[:, None] * start + of_end[:, None] * end) / np.sin(angle)


PATHS = {"line": on_line, "sphere": on_sphere}
"""Ways between two codes, each a row of `between`."""


def between(studio: Studio, start: str, end: str, steps: int = STEPS) -> Grid:
    """Draws hearts between two patients of the studio's store, along each of `PATHS`, in ``steps``
    pictures with both patients among them."""
    check_steps(steps)
    first, last = (studio.start(case)[0][0] for case in (start, end))
    if start == end:
        raise ValueError(f"{start} is both ends of the way; expected two patients")
    shares = np.linspace(0, 1, steps)
    ways = np.stack([way(first, last, shares) for way in PATHS.values()])
    about = pd.DataFrame({"path": np.repeat([*PATHS], steps), "share": np.tile(shares, len(PATHS))})
    heads = [[start, *(f"{share:.0%}" for share in shares[1:-1]), end], [""] * steps]
    return _drawn(studio, ways, about, [*PATHS], heads, [None] * len(PATHS))


def surface(
    studio: Studio,
    names: Sequence[str],
    case: str | None = None,
    reach: float = TURN,
    steps: int = STEPS,
) -> Grid:
    """Turns two attributes of one heart at once.

    Args:
        studio: Model and patients.
        names: The attribute that changes from row to row, and the one from column to column.
        case: Patient to start from; None is the mean code of the training patients.
        reach: Standard deviations of the training codes to either side.
        steps: Rows, and columns.

    Raises:
        ValueError: If it is not two attributes of the model, on two dimensions.

    References:
        | Attribute-based regularization of latent spaces (Pati & Lerch, 2021)
        | https://arxiv.org/abs/2004.05485
    """
    check_steps(steps, reach)
    lines = studio.calibration
    given: Any = names
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ValueError(
            f"names is {short(given)}; expected a list of two attributes, such as "
            "['LVEDA', 'RVEDA']"
        )
    names = [str(name) for name in names]
    if len(set(names)) != 2 or len(names) != 2:
        raise ValueError(
            f"the attributes are {', '.join(names)}; expected two of {', '.join(lines.names)}"
        )
    code, original = studio.start(case)
    lines.set(code, dict.fromkeys(names, 1.0))  # refuses unknown ones, and two on one dimension
    positions = lines.positions(np.linspace(-reach, reach, steps))
    wanted = lines.requested(positions)
    first, second = (lines.names.index(name) for name in names)
    codes = np.tile(code[0], (steps, steps, 1))
    codes[:, :, lines.dimensions[first]] = positions[first][:, None]
    codes[:, :, lines.dimensions[second]] = positions[second][None]
    of_rows, of_columns = _asked(names, wanted[[first, second]])
    titles = [f"{label_of(names[0])}\n{names[0]} {value}" for value in of_rows]
    heads = [[f"{names[1]}\n{value}" for value in of_columns], *[[""] * steps] * (steps - 1)]
    about = pd.DataFrame(index=range(steps * steps))
    structure = ATTRIBUTES[names[0]].structure
    return _drawn(
        studio,
        codes,
        about,
        titles,
        heads,
        [structure] * steps,
        original[0].numpy(),
        case or MEAN_HEART,
    )


def _asked(names: Sequence[str], values: np.ndarray) -> list[list[str]]:
    """Writes each value (2, S) of each name with its unit."""
    return [
        [value_of(name, value) if value > 0 else "below 0" for value in row]
        for name, row in zip(names, values, strict=True)
    ]


def _drawn(
    studio: Studio,
    codes: np.ndarray,
    about: pd.DataFrame,
    titles: Sequence[str],
    heads: Sequence[Sequence[str]],
    structures: Sequence[Structure | None],
    original: np.ndarray | None = None,
    title: str = "original",
) -> Grid:
    """Draws and measures codes (R, S, D)."""
    flat = codes.reshape(-1, codes.shape[-1])
    slices = decode(studio.run.painter, flat)
    slices = slices.reshape(*codes.shape[:2], *slices.shape[1:])
    labels, measured = segmented(studio.judge, slices, studio.scale)
    said = studio.calibration.read(flat)
    said[said <= 0] = np.nan  # no heart has it
    about = about.join(pd.DataFrame(said, columns=list(studio.calibration.names)))
    return Grid(
        about,
        titles,
        heads,
        structures,
        original,
        slices,
        labels,
        measured,
        studio.scale.unit,
        title,
    )
