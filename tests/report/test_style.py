"""Facts about what all pictures share: outlines, captions, looks."""

import numpy as np
import pytest
from conftest import heart
from scipy.ndimage import binary_dilation, binary_erosion

from cardiac_attrivae.report import style
from cardiac_attrivae.schema import HEART, Structure

RING = heart(128, 14, 7, 25)


def random_labels(seed):
    return np.random.default_rng(seed).integers(0, 4, (24, 24)).astype(np.uint8)


@pytest.mark.parametrize("label", [RING, *map(random_labels, range(3))])
def test_outline_stays_within_one_pixel_of_the_edge_it_marks(label):
    outline = style.outline(label)
    for structure in HEART:
        mask = label == structure
        edge = mask & ~binary_erosion(mask, border_value=0)
        assert not ((outline == structure) & ~binary_dilation(edge)).any()
    assert np.array_equal(outline[outline > 0], label[outline > 0])


def test_outline_separates_all_that_touch():
    """Without the pixels of the line no structure touches another or the background."""
    rest = np.where(style.outline(RING) > 0, 255, RING)
    for a, b in ((rest[1:], rest[:-1]), (rest[:, 1:], rest[:, :-1])):
        assert ((a == b) | (a == 255) | (b == 255)).all()


def test_outlines_of_slices_together_are_those_of_each():
    labels = np.stack([*map(random_labels, range(3))])
    assert np.array_equal(style.outline(labels), np.stack([*map(style.outline, labels)]))


def test_outline_reaches_a_structure_cut_by_the_border():
    label = np.full((5, 5), Structure.RV, np.uint8)
    expected = label.copy()
    expected[1:-1, 1:-1] = 0
    assert np.array_equal(style.outline(label), expected)


def test_a_slice_stays_as_it_is_beside_its_outlines():
    tile = style.outlined((RING > 0) * 0.5, RING)
    off = style.outline(RING) == 0
    assert (tile[off] == np.where(RING[off] > 0, 128, 0)[:, None]).all()
    for structure, colour in style.COLOURS.items():
        assert (tile == colour).all(-1).any(), structure


def test_greys_end_at_black_and_white():
    image = np.array([[-1, 0, 0.5, 1, 2, np.nan]])
    assert style.grey(image).tolist() == [[0, 0, 128, 255, 255, 0]]


def test_a_caption_too_long_is_shortened():
    font = style.font(11)
    long = "patient001 " + "dilated cardiomyopathy " * 5
    lines = style.wrap(long, font, 128)
    assert len(lines) == 2
    assert lines[0] == "patient001 dilated"
    assert lines[1].endswith("…")
    assert all(font.getlength(line) <= 128 for line in lines)
    assert style.wrap("patient001 slice 3", font, 128) == ["patient001 slice 3"]
    assert style.wrap("", font, 128) == []
    assert style.wrap("x" * 99, font, 64)[0].endswith("x…")


def test_text_fits_the_inches_that_matplotlib_gives_it():
    from matplotlib.figure import Figure

    figure = Figure(dpi=style.DPI)
    text = style.fitted("patient001 hypertrophic cardiomyopathy with infarction", 1.2, 8)
    assert text.count("\n") == 1
    width = figure.text(0, 0, text, fontsize=8).get_window_extent().width
    assert 0.5 < width / style.DPI / 1.2 < 1.02  # hinting


def test_no_two_of_32_names_look_the_same():
    looks = style.looks(range(32))
    assert len(set(looks.values())) == 32
    # Also in grey print: among eight no two share a marker, and neighbours differ in their dash.
    first = list(looks.values())[:8]
    assert len({look.marker for look in first}) == 8
    assert all(a.dash != b.dash for a, b in zip(first, first[1:], strict=False))


def test_a_look_depends_on_the_order_of_names_alone():
    names = ("b", "a", "b", "c")
    assert style.looks(names) == dict(zip("bac", style.looks(range(3)).values(), strict=True))
