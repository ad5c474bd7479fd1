"""Colours, markers, letters, outlines and files that all pictures share.

Colours are those of Okabe and Ito (2008), chosen so that they also differ in lightness. Each line
has its own dash and marker, too, so pictures can be read in a grey print and by colour-blind eyes.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import matplotlib
import numpy as np
from matplotlib.lines import Line2D
from matplotlib.text import Text
from PIL import ImageFont

from ..attributes import ATTRIBUTES
from ..heart import shows
from ..runtime.files import atomic_file
from ..runtime.messages import printable
from ..schema import HEART, Structure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

COLOURS = {Structure.LV: (213, 94, 0), Structure.MYO: (240, 228, 66), Structure.RV: (86, 180, 233)}
"""Outline of each structure: dark on the bright blood pool, bright on the dark myocardium."""

LINES = ("#000000", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
SYMBOLS = {"cm2": "cm²"}
"""How a unit is written for people; all others are written as they are."""

PAPER, INK = (255, 255, 255), (20, 20, 20)
DPI = 150
BESIDE = 0.75
"""Inches that a name of a legend needs besides its letters: the marker, and space."""

Name = TypeVar("Name", bound=Hashable)


class Look(NamedTuple):
    """How one method, run or group is drawn, everywhere in a picture."""

    colour: str
    dash: str
    marker: str


def looks(names: Iterable[Name]) -> dict[Name, Look]:
    """Gives each different name a look, in order; no two of the first 32 are the same.

    From the ninth name on colours are repeated, with another dash and another marker.

    Example:
        >>> looks(["a", "b", "a"])
        {'a': Look(colour='#000000', dash='-', marker='o'),
         'b': Look(colour='#d55e00', dash='--', marker='s')}
    """
    size = len(LINES)
    return {
        name: Look(
            LINES[k % size], DASHES[(k + k // size) % len(DASHES)], MARKERS[(k + k // size) % size]
        )
        for k, name in enumerate(dict.fromkeys(names))
    }


def legend(
    figure: Figure,
    look: Mapping[str, Look],
    label: Callable[[str], str],
    more: Sequence[Patch | Line2D] = (),
    *,
    lines: bool = False,
) -> None:
    """Puts names above the figure, with their markers, on lines or not; long ones are wrapped."""
    width = figure.get_figwidth()
    handles = [
        Line2D([], [], color=drawn.colour, marker=drawn.marker, ms=5, lw=1.4,
               ls=drawn.dash if lines else "",
               label=fitted(label(name), width - BESIDE, 8, lines=4))
        for name, drawn in look.items()
    ]  # fmt: skip
    rows = [row for handle in (*handles, *more) for row in str(handle.get_label()).splitlines()]
    longest = max((font(4 * 8).getlength(row) / (4 * 72) for row in rows), default=0)
    figure.legend(
        handles=[*handles, *more], loc="outside upper left", fontsize=8, frameon=False,
        handlelength=3 if lines else 1.5,
        ncols=max(1, int(width / max(1.9, longest + BESIDE))),
    )  # fmt: skip


def plain(axis: Axes, grid: Literal["both", "x", "y"] = "both") -> None:
    """Draws faint grid lines below everything else, and no frame but the two axes."""
    axis.grid(axis=grid, alpha=0.3)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def value_of(name: str, value: float, unit: str | None = None) -> str:
    """Writes a value of an attribute with its unit, with the digits that its entry says.

    Example:
        >>> value_of("LVEDA", 28.04), value_of("LVEF", 35), value_of("LV_eccentricity", 0.456)
        ('28.0 cm²', '35.0 %', '0.46')
    """
    entry = ATTRIBUTES.get(name)
    if unit is None:
        unit = entry.unit if entry else ""
    number = f"{value:.{entry.digits if entry else 1}f}"
    return f"{number} {SYMBOLS.get(unit, unit)}".replace("-", "−").rstrip()


def stacked(images: Any) -> Any:
    """Puts the channels of slices into one picture, (..., C, H, W) -> (..., rows H, columns W).

    One or two are below each other: ED, ES. More, those of a stack, are in two columns from base to
    apex: ED, ES. An odd number of one phase ends with a black one.

    Example:
        >>> stacked(np.zeros((5, 2, 64, 64))).shape, stacked(np.zeros((10, 64, 64))).shape
        ((5, 128, 64), (320, 128))
    """
    *before, count, height, width = images.shape
    if count > 2:
        rows = (count + 1) // 2
        order = [k if k < count else -1 for k in np.arange(2 * rows).reshape(2, rows).T.ravel()]
        pairs = images[..., order, :, :].reshape(*before, rows, 2, height, width)
        images = pairs.swapaxes(-2, -3).reshape(*before, rows, height, 2 * width)
        if count % 2:
            images[..., -1, :, width:] = 0
    return images.reshape(*before, -1, images.shape[-1])


def outline(label: np.ndarray) -> np.ndarray:
    """Finds the structure whose outline passes through each pixel, 0 elsewhere, (..., H, W), same
    shape.

    A pixel of a structure is on the line where a 4-neighbour is background or a higher label, so
    two touching structures share one line, one pixel wide: LV | MYO is drawn in the LV.
    """
    padded = np.pad(label, [*[(0, 0)] * (label.ndim - 2), (1, 1), (1, 1)])
    tall, wide = padded[..., 1:-1], padded[..., 1:-1, :]
    edge = np.zeros(label.shape, bool)
    for other in (tall[..., :-2, :], tall[..., 2:, :], wide[..., :-2], wide[..., 2:]):
        edge |= shows(other, Structure.BACKGROUND) | (other > label)
    return np.where(edge, label, 0)


def outlined(image: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Draws the outlines of structures on slices in grey, (..., H, W) -> (..., H, W, 3) uint8."""
    picture = np.repeat(grey(image)[..., None], 3, axis=-1)
    line = outline(label)
    for structure in HEART:
        picture[shows(line, structure)] = COLOURS[structure]
    return picture


def grey(image: np.ndarray) -> np.ndarray:
    """Turns slices in [0, 1] into 8-bit greys, same shape; NaN is black.

    Example:
        >>> grey(np.array([0.0, 0.5, 2.0, np.nan]))
        array([  0, 128, 255,   0], dtype=uint8)
    """
    return (np.nan_to_num(image).clip(0, 1) * 255).round().astype(np.uint8)


def font(size: int) -> ImageFont.FreeTypeFont:
    """Loads the letters of all pictures, which come with Matplotlib."""
    return ImageFont.truetype(
        str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size
    )


def wrap(caption: str, font: ImageFont.FreeTypeFont, width: float, lines: int = 2) -> list[str]:
    """Wraps a caption to at most ``lines`` lines of ``width`` pixels, the last one shortened.

    Lines end at spaces, or after a plus: names of methods list attributes so.
    """
    words = caption.replace("+", "+ ").split()
    wrapped: list[str] = []
    while words and len(wrapped) < lines - 1:
        count = len(words)
        while count > 1 and font.getlength(_joined(words[:count])) > width:
            count -= 1
        wrapped.append(shorten(_joined(words[:count]), font, width))
        words = words[count:]
    return [*wrapped, shorten(_joined(words), font, width)] if words else wrapped


def _joined(words: Sequence[str]) -> str:
    return " ".join(words).replace("+ ", "+")


def shorten(line: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Shortens a line to ``width`` pixels; an ellipsis shows that something is missing."""
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(line + "…") > width:
        line = line[:-1].rstrip()
    return line + "…"


def fitted(text: str, inches: float, points: int, lines: int = 2) -> str:
    """Wraps a text to lines of ``inches``, in letters of ``points``, for an axis."""
    fine = 4  # letters are measured larger, as widths are rounded to pixels
    return "\n".join(wrap(text, font(fine * points), fine * 72 * inches, lines))


def save(figure: Figure, path: str | Path) -> None:
    """Writes a PNG; its folders are created. Names with a $ are no formulas, and what cannot be
    printed is spelled out."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)
        text.set_text(printable(text.get_text()))
    with matplotlib.rc_context({"text.parse_math": False}), atomic_file(path) as beside:
        figure.savefig(beside, dpi=DPI, format="png")


def picture(draw: Callable[[Path], None]) -> str:
    """Makes an HTML image of the PNG that ``draw`` writes to a path, for notebooks."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "picture.png"
        draw(file)
        data = base64.b64encode(file.read_bytes()).decode()
    return f'<img src="data:image/png;base64,{data}">'
