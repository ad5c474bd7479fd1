"""Facts about the contact sheet: nothing lost, nothing covered."""

import numpy as np
import pytest
from conftest import heart

from cardiac_attrivae.report import contact_sheet as sheet
from report.test_slices import pixels


def hearts(n):
    """Slices of one heart; slice k is as bright as k + 1 of n."""
    labels = np.repeat(heart(128, 14, 7, 25)[None], n, axis=0)
    brightness = (np.arange(n) + 1) / n
    return (labels > 0) * brightness[:, None, None], labels


@pytest.mark.parametrize(("n", "columns"), [(1, None), (7, 3), (10, 50), (150, None), (301, None)])
def test_contact_sheet_shows_every_slice(tmp_path, n, columns):
    images, labels = hearts(n)
    path = tmp_path / "new" / "sheet.png"
    sheet.contact_sheet(images, labels, [f"case {k}" for k in range(n)], path, columns)
    picture = pixels(path)
    side = 64 if n > 300 else 128
    # Tiles are found from the picture alone: runs of a side of black where the tiles begin.
    black = (picture == 0).all(-1)
    corners = black & np.roll(~black, 1, 0) & np.roll(~black, 1, 1)
    found = [
        (y, x)
        for y, x in zip(*np.nonzero(corners), strict=True)
        if black[y, x : x + side].sum() == side == black[y : y + side, x].sum()
    ]
    assert len(found) == n
    # In order, left to right and top to bottom: the blood pool's brightness tells them apart.
    centre = [picture[y + side // 2, x + side // 2] for y, x in found]
    expected = np.round(255 * (np.arange(n) + 1) / n)
    assert np.abs(np.array(centre) - expected[:, None]).max() <= 1
    if columns:
        assert sum(y == found[0][0] for y, _ in found) == min(n, columns)


@pytest.mark.parametrize("slices", [1, 842, 1000, 1001, 450_000])
def test_of_too_many_slices_some_are_chosen_from_the_first_to_the_last(slices):
    rows = sheet.chosen(slices)
    assert len(rows) == min(slices, sheet.MOST)
    assert (rows[0], rows[-1]) == (0, slices - 1)
    gaps = np.diff(rows)
    assert slices == 1 or 1 <= gaps.min() <= gaps.max() <= gaps.min() + 1


def test_a_contact_sheet_tells_of_how_many_it_shows_some(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(sheet, "_legend", lambda draw, title: told.append(title))
    images, labels = hearts(3)
    for total in (None, 3, 5012):
        sheet.contact_sheet(images, labels, [""] * 3, tmp_path / "s.png", of=total)
    assert told == ["3 slices", "3 slices", "3 of 5,012 slices"]


def test_contact_sheet_has_a_line_of_ink_under_each_tile(tmp_path):
    images, labels = hearts(4)
    captions = ["one", "", "three", "four"]
    sheet.contact_sheet(images, labels, captions, tmp_path / "s.png", 4)
    sheet.contact_sheet(images, labels, [""] * 4, tmp_path / "without.png", 4)
    difference = (pixels(tmp_path / "s.png") != pixels(tmp_path / "without.png")).any(-1)
    pitch = 128 + sheet.GAP
    inked = [difference[:, sheet.GAP + k * pitch :][:, :128].any() for k in range(4)]
    assert inked == [True, False, True, True]
    assert not difference[: 28 + 128].any()  # no caption covers a slice


def test_contact_sheet_names_what_does_not_fit(tmp_path):
    images, labels = hearts(2)
    with pytest.raises(ValueError, match="1 captions do not fit"):
        sheet.contact_sheet(images, labels, ["one"], tmp_path / "s.png")
    with pytest.raises(ValueError, match="nothing to show"):
        sheet.contact_sheet(images[:0], labels[:0], [], tmp_path / "s.png")
    assert not list(tmp_path.iterdir())
