"""Facts about the pictures: nothing lost, nothing drawn where it should not be, nothing clipped."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation, binary_erosion

from cardiac_attrivae import figures
from cardiac_attrivae.schema import HEART, Structure


def heart(n=1, size=128):
    """Slices of a ring with a crescent on its left; slice k is as bright as k + 1 of n."""
    y, x = np.mgrid[:size, :size] - size / 2
    label = np.zeros((size, size), np.uint8)
    label[(x + size / 5) ** 2 + y**2 < (size / 5) ** 2] = Structure.RV
    label[x**2 + y**2 < (size / 6) ** 2] = Structure.MYO
    label[x**2 + y**2 < (size / 9) ** 2] = Structure.LV
    labels = np.repeat(label[None], n, axis=0)
    brightness = (np.arange(n) + 1) / n
    return (labels > 0) * brightness[:, None, None], labels


def pixels(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def blank(path):
    """Whether the outermost pixels are paper, as they are where no label is cut off."""
    p = pixels(path)
    edge = np.concatenate([p[0], p[-1], p[:, 0], p[:, -1]])
    return (edge > 250).all()


def random_labels(seed):
    return np.random.default_rng(seed).integers(0, 4, (24, 24)).astype(np.uint8)


@pytest.mark.parametrize("label", [heart()[1][0], *map(random_labels, range(3))])
def test_outline_stays_within_one_pixel_of_the_edge_it_marks(label):
    outline = figures._outline(label)
    for structure in HEART:
        mask = label == structure
        edge = mask & ~binary_erosion(mask, border_value=0)
        assert not ((outline == structure) & ~binary_dilation(edge)).any()
    assert np.array_equal(outline[outline > 0], label[outline > 0])


def test_outline_separates_all_that_touch():
    """Without the pixels of the line no structure touches another or the background."""
    label = heart()[1][0]
    rest = np.where(figures._outline(label) > 0, 255, label)
    for a, b in ((rest[1:], rest[:-1]), (rest[:, 1:], rest[:, :-1])):
        assert ((a == b) | (a == 255) | (b == 255)).all()


def test_outline_reaches_a_structure_cut_by_the_border():
    label = np.full((5, 5), Structure.RV, np.uint8)
    expected = label.copy()
    expected[1:-1, 1:-1] = 0
    assert np.array_equal(figures._outline(label), expected)


def test_tile_keeps_the_image_beside_the_outline():
    (image,), (label,) = heart()
    tile = figures._tile(image * 0.5, label, small=False)
    off = figures._outline(label) == 0
    assert (tile[off] == np.where(label[off] > 0, 128, 0)[:, None]).all()
    for structure, colour in figures.COLOURS.items():
        assert (tile == colour).all(-1).any(), structure


@pytest.mark.parametrize(("n", "columns"), [(1, None), (7, 3), (10, 50), (150, None), (301, None)])
def test_contact_sheet_shows_every_slice(tmp_path, n, columns):
    images, labels = heart(n)
    path = tmp_path / "new" / "sheet.png"
    figures.contact_sheet(images, labels, [f"case {k}" for k in range(n)], path, columns)
    sheet = pixels(path)
    side = 64 if n > 300 else 128
    # Tiles are found from the picture alone: runs of a side of black where the tiles begin.
    black = (sheet == 0).all(-1)
    corners = black & np.roll(~black, 1, 0) & np.roll(~black, 1, 1)
    found = [
        (y, x)
        for y, x in zip(*np.nonzero(corners), strict=True)
        if black[y, x : x + side].sum() == side == black[y : y + side, x].sum()
    ]
    assert len(found) == n
    # In order, left to right and top to bottom: the blood pool's brightness tells them apart.
    centre = [sheet[y + side // 2, x + side // 2] for y, x in found]
    expected = np.round(255 * (np.arange(n) + 1) / n)
    assert np.abs(np.array(centre) - expected[:, None]).max() <= 1
    if columns:
        assert sum(y == found[0][0] for y, _ in found) == min(n, columns)


def test_contact_sheet_has_a_line_of_ink_under_each_tile(tmp_path):
    images, labels = heart(4)
    figures.contact_sheet(images, labels, ["one", "", "three", "four"], tmp_path / "s.png", 4)
    figures.contact_sheet(images, labels, [""] * 4, tmp_path / "without.png", 4)
    difference = (pixels(tmp_path / "s.png") != pixels(tmp_path / "without.png")).any(-1)
    pitch = 128 + figures.GAP
    inked = [difference[:, figures.GAP + k * pitch :][:, :128].any() for k in range(4)]
    assert inked == [True, False, True, True]
    assert not difference[: 28 + 128].any()  # no caption covers a slice


def test_a_caption_too_long_is_shortened():
    font = figures._font(11)
    long = "patient001 " + "dilated cardiomyopathy " * 5
    lines = figures._wrap(long, font, 128)
    assert len(lines) == 2
    assert lines[0] == "patient001 dilated"
    assert lines[1].endswith("…")
    assert all(font.getlength(line) <= 128 for line in lines)
    assert figures._wrap("patient001 slice 3", font, 128) == ["patient001 slice 3"]
    assert figures._wrap("", font, 128) == []
    assert figures._wrap("x" * 99, font, 64)[0].endswith("x…")


def test_contact_sheet_names_what_does_not_fit(tmp_path):
    images, labels = heart(2)
    with pytest.raises(ValueError, match="1 captions do not fit"):
        figures.contact_sheet(images, labels, ["one"], tmp_path / "s.png")
    with pytest.raises(ValueError, match="nothing to show"):
        figures.contact_sheet(images[:0], labels[:0], [], tmp_path / "s.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("n", [1, 8])
def test_reconstructions(tmp_path, n):
    images, _ = heart(n, 32)
    path = tmp_path / "figures" / "r.png"
    figures.reconstructions(images, images * 0.5, ["patient001 slice 1"] * n, path)
    assert blank(path)
    height, width, _ = pixels(path).shape
    assert height == 4.5 * figures.DPI
    assert width == int((1.3 * n + 1.6) * figures.DPI)


def test_a_perfect_reconstruction_has_a_black_error_map(tmp_path):
    images, _ = heart(1, 32)
    figures.reconstructions(images, images, [""], tmp_path / "same.png")
    figures.reconstructions(images, 1 - images, [""], tmp_path / "other.png")
    # Magma is coloured except at its black end: without error, only the colour bar has colour.
    coloured = [
        (np.ptp(pixels(tmp_path / name), axis=-1) > 60).sum() for name in ("same.png", "other.png")
    ]
    assert coloured[0] < 20_000 < coloured[1]


def test_reconstructions_refuse_nine_columns(tmp_path):
    images, _ = heart(9, 16)
    with pytest.raises(ValueError, match="9 slices; expected 1 to 8"):
        figures.reconstructions(images, images, [""] * 9, tmp_path / "r.png")


@pytest.mark.parametrize("shown", [False, True])
def test_traversals_show_every_step_in_its_place(tmp_path, shown):
    greys = np.arange(1, 15).reshape(2, 7) * 10  # a plain tile per step, each of its own grey
    images = np.broadcast_to(greys[..., None, None] / 255, (2, 7, 32, 32))
    original = np.full((32, 32), 200 / 255) if shown else None
    path = tmp_path / "t.png"
    figures.traversals(images, ("LVEDA", "MEDA"), np.linspace(-3, 3, 7), path, original)
    assert blank(path)
    picture = pixels(path)
    places = {}
    for grey in [*greys.ravel(), 200]:
        y, x = np.nonzero((abs(picture - grey) <= 1).all(-1))  # resampling rounds
        if len(x) > 1000:
            places[int(grey)] = np.median(y), np.median(x)
    assert len(places) == 14 + shown
    for row in greys:
        assert np.ptp([places[grey][0] for grey in row]) <= 1  # pixel
        assert np.all(np.diff([places[grey][1] for grey in row]) > 100)
    assert places[10][0] < places[80][0]
    if shown:
        assert abs(places[200][0] - places[10][0]) <= 1
        assert places[200][1] < places[10][1]


def test_traversals_name_what_does_not_fit(tmp_path):
    with pytest.raises(ValueError, match="do not fit 1 names and 3 steps"):
        figures.traversals(np.zeros((2, 3, 4, 4)), ("LVEDA",), (-1, 0, 1), tmp_path / "t.png")


def history(epochs):
    t = np.arange(1, epochs + 1)
    columns = {"epoch": t, "seconds": 0.1, "loss": 1000 / t**2, "kl": t * 1.0, "note": "x"}
    for k, score in enumerate((*figures.SCORES, "PSNR")):
        columns[f"val_{score}"] = np.where(t % 5 == 1, k / 8, np.nan)
    return pd.DataFrame(columns)


@pytest.mark.parametrize("epochs", [1, 40])
def test_training_curves(tmp_path, epochs):
    path = tmp_path / "c.png"
    figures.training_curves(history(epochs), path)
    assert blank(path)
    three_panels = int((2.8 * 3 + 0.3) * figures.DPI)
    assert pixels(path).shape[:2] == (three_panels, 8 * figures.DPI)


def test_training_curves_need_a_curve(tmp_path):
    with pytest.raises(ValueError, match="no curve among the columns epoch, seconds"):
        figures.training_curves(history(3)[["epoch", "seconds"]], tmp_path / "c.png")


@pytest.mark.parametrize(
    ("column", "metric"),
    [
        ("val_SSIM", "SSIM"),
        ("val/SSIM_in_mask", "SSIM_in_mask"),
        ("val SCC LVEDA", "SCC"),
        ("PSNR", "PSNR"),
        ("attribute", ""),
        ("val_MSE", ""),
    ],
)
def test_a_column_knows_its_metric(column, metric):
    assert figures._metric(column) == metric


def test_no_two_of_sixteen_lines_look_the_same():
    dashes = iter(figures._dashes())
    looks = [(colour, next(dashes)) for _ in range(2) for colour in figures.LINES]
    assert len(set(looks)) == 16


@pytest.mark.parametrize("k", [1, 3, 4])
def test_scatter(tmp_path, k):
    codes = np.random.default_rng(0).normal(size=(20, k))
    codes[:, 0] = 0  # a collapsed dimension has no line, and is no error
    path = tmp_path / "s.png"
    figures.scatter(codes, 100 + codes, ["LVEDV"] * k, ["mL"] * k, path, scores=[0.5] * k)
    assert blank(path)


def test_pictures_leave_the_global_state_of_matplotlib_alone(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    figures.scatter(np.eye(2), np.eye(2), ("a", "b"), ("", ""), tmp_path / "s.png")
    assert dict(matplotlib.rcParams) == before
