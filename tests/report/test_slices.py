"""Facts about slices in rows: each in its place, with its numbers, nothing clipped."""

import numpy as np
import pytest
from conftest import heart
from PIL import Image

from cardiac_attrivae.report import slices as figures
from cardiac_attrivae.report.animation import traversal_gif
from cardiac_attrivae.report.style import COLOURS, DPI
from cardiac_attrivae.schema import HEART


def pixels(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def blank(path):
    """Whether the outermost pixels are paper, as they are where no label is cut off."""
    p = pixels(path)
    edge = np.concatenate([p[0], p[-1], p[:, 0], p[:, -1]])
    return (edge > 250).all()


def words(figure):
    """Every text in a figure that is not empty, wherever it hangs."""
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def keep_figures(monkeypatch, room):
    """The figures that a room would save, as it draws them."""
    kept = []
    monkeypatch.setattr(room, "save", lambda figure, path: kept.append(figure))
    return kept


@pytest.fixture
def drawn(monkeypatch):
    return keep_figures(monkeypatch, figures)


def plain(*greys, size=32):
    """A slice of one grey for each."""
    return np.broadcast_to(np.array(greys)[..., None, None], (*np.shape(greys), size, size)) / 255


def shown(figure):
    """Images by their panel, in reading order, without the colour bar."""
    return [image for axis in figure.axes for image in axis.get_images()]


# ------------------------------------------------------------------------ methods side by side


@pytest.mark.parametrize("n", [1, 8])
@pytest.mark.parametrize("methods", [("reconstruction",), ("a rather long name of a method", "b")])
def test_methods_fill_two_rows_each(tmp_path, n, methods):
    slices = np.random.default_rng(0).random((n, 16, 16))
    path = tmp_path / "new" / "m.png"
    captions = ["patient001 dilated cardiomyopathy"] * n
    scores = {method: [0.5] * n for method in methods}
    rebuilt = dict.fromkeys(methods, slices * 0.5)
    figures.methods_side_by_side(slices, rebuilt, captions, path, scores)
    assert blank(path)
    height, width, _ = pixels(path).shape
    rows = 1 + 2 * len(methods)
    assert rows * figures.SIDE * DPI < height < (rows * (figures.SIDE + 0.2) + 0.6) * DPI
    assert n * figures.SIDE * DPI < width < (n * (figures.SIDE + 0.05) + 1.3) * DPI


def test_rows_name_methods_as_the_paper_does(drawn):
    slices = plain(100)
    figures.methods_side_by_side(
        slices, {"attri_vae_unguided": slices, "mine": slices}, [""], "m.png"
    )
    rows = [axis.get_ylabel().split() for axis in drawn[0].axes[:5]]
    error = ["absolute", "error"]
    assert rows == [["original"], ["Attri-VAE", "unguided"], error, ["mine"], error]


def test_all_error_maps_share_one_scale_and_hold_the_errors(drawn):
    original = plain(100, 200)
    rebuilt = {"good": original + 0.02, "bad": original - 0.33}
    figures.methods_side_by_side(original, rebuilt, ["", ""], "m.png")
    images = shown(drawn[0])
    assert np.allclose([image.get_array()[0, 0] for image in images[2:4]], original[:, 0, 0] + 0.02)
    for k, error in ((4, 0.02), (5, 0.02), (8, 0.33), (9, 0.33)):
        assert np.allclose(images[k].get_array(), error)
        assert images[k].get_clim() == (0, 0.4)  # the next tenth above the largest error


def test_one_bright_spot_does_not_turn_the_error_maps_black(drawn):
    original = plain(100)
    spotted = original + 0.05
    spotted[0, :2, :2] += 0.8  # 0.4 % of the pixels
    figures.methods_side_by_side(original, {"a": spotted}, [""], "m.png")
    assert shown(drawn[0])[2].get_clim() == (0, 0.1)


def test_scores_stand_below_their_reconstructions(drawn):
    original = plain(100, 200)
    rebuilt = {"a": original, "b": original}
    scores = {"a": (0.912, 0.5), "b": (0.25, np.nan)}
    figures.methods_side_by_side(original, rebuilt, ["x", "y"], "m.png", scores)
    labels = [axis.get_xlabel() for axis in drawn[0].axes[:10]]
    assert labels[2:4] == ["SSIM 0.91", "SSIM 0.50"]
    assert labels[6:8] == ["SSIM 0.25", "SSIM nan"]
    assert not any(labels[:2] + labels[4:6] + labels[8:])
    assert [axis.get_title() for axis in drawn[0].axes[:2]] == ["x", "y"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"originals": plain(*range(9))}, r"9 slices; expected 1 to 8"),
        ({"rebuilt": {"a": plain(1)}}, r"rebuilt \{'a': \(1, 32, 32\)\} and 2 captions do not fit"),
        ({"rebuilt": {}}, "at least one method"),
        ({"captions": [""]}, "1 captions do not fit"),
        ({"scores": {"b": (1, 2)}}, r"scores of \{'b': 2\}; expected 2 of each of a"),
        ({"scores": {"a": (1,)}}, r"scores of \{'a': 1\}; expected 2 of each of a"),
    ],
)
def test_methods_name_what_does_not_fit(tmp_path, change, message):
    arguments = {"originals": plain(1, 2), "rebuilt": {"a": plain(1, 2)}, "captions": ["", ""]}
    arguments |= change
    if len(arguments["originals"]) == 9:
        arguments |= {"rebuilt": {"a": arguments["originals"]}, "captions": [""] * 9}
    with pytest.raises(ValueError, match=message):
        figures.methods_side_by_side(**arguments, path=tmp_path / "m.png")
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------ traversals


@pytest.mark.parametrize(
    ("count", "shown", "measured"), [(7, False, False), (7, True, False), (9, True, True)]
)
def test_traversals_show_every_step_in_its_place(tmp_path, count, shown, measured):
    greys = np.arange(1, 2 * count + 1).reshape(2, count) * 10  # a plain tile per step
    images, original = plain(*greys), plain(215)[0] if shown else None
    more = {}
    if measured:
        more["labels"] = np.zeros(images.shape, np.uint8)
        more["areas"], more["requested"] = np.full((2, count, 3), 34.5), np.full((2, count), 123.4)
        more["units"] = ("cm2", "mL")
    path = tmp_path / "t.png"
    steps = np.linspace(-3, 3, count)
    figures.traversals(images, ("LVEDA", "MEDV"), steps, path, original, **more)
    assert blank(path)
    picture = pixels(path)
    places = {}
    for grey in [*greys.ravel(), 215]:
        y, x = np.nonzero((abs(picture - grey) <= 1).all(-1))  # resampling rounds
        if len(x) > 10_000:  # letters and frames have fewer pixels
            places[int(grey)] = np.median(y), np.median(x)
    assert len(places) == 2 * count + shown
    for row in greys:
        assert np.ptp([places[grey][0] for grey in row]) <= 1  # pixel
        assert np.all(np.diff([places[grey][1] for grey in row]) > 100)
    assert places[10][0] < places[10 * count + 10][0]
    if shown:
        assert abs(places[215][0] - places[10][0]) <= 1
        assert places[215][1] < places[10][1]


def test_traversals_print_what_was_asked_for_and_measured(drawn):
    areas = np.arange(12.0).reshape(2, 2, 3)
    requested = [[-1.25, 20], [30, 40]]
    figures.traversals(
        plain((1, 2), (3, 4)), ("MEDV", "RVEDA"), (-4 / 3, 0), "t.png", dimensions=(3, 12),
        areas=areas, requested=requested, units=("mL", "cm2"),
    )  # fmt: skip
    axes = drawn[0].axes
    assert [axis.get_title() for axis in axes] == [
        "−1.33 sd\n−1.2 mL", "0 sd\n20.0 mL", "30.0 cm²", "40.0 cm²",
    ]  # fmt: skip
    own = [axis.xaxis.label for axis in axes]
    assert [label.get_text() for label in own] == [
        "MYO 1.0 cm²", "MYO 4.0 cm²", "RV 8.0 cm²", "RV 11.0 cm²",
    ]  # fmt: skip
    assert {label.get_fontweight() for label in own} == {"bold"}
    others = [axis.texts[0].get_text() for axis in axes]
    assert others[0] == "LV 0.0  RV 2.0"
    assert others[3] == "LV 9.0  MYO 10.0"
    assert [axes[k].get_ylabel() for k in (0, 2)] == [
        "Myocardial volume at ED\nMEDV, dimension 3", "RV area at ED\nRVEDA, dimension 12",
    ]  # fmt: skip


def test_a_row_without_an_attribute_has_no_structure_of_its_own(drawn):
    figures.traversals(plain((1,)), ("z7",), (0,), "t.png", areas=[[[1, 2, 3]]])
    (axis,) = drawn[0].axes
    assert axis.get_xlabel() == "LV 1.0 cm²"
    assert axis.xaxis.label.get_fontweight() == "normal"


def test_traversals_draw_the_outlines_of_the_contact_sheet(tmp_path):
    label = heart(32, 6, 3, 8)
    for name, labels in (("with.png", label[None, None]), ("without.png", None)):
        figures.traversals(plain((90,)), ("LVEDA",), (0,), tmp_path / name, labels=labels)
    for structure in HEART:
        count = [
            (np.abs(pixels(tmp_path / name) - COLOURS[structure]).max(-1) < 25).sum()
            for name in ("with.png", "without.png")
        ]
        assert count[0] > 100, structure
        assert count[1] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ("LVEDA",)}, "do not fit 1 names and 3 steps"),
        ({"steps": (0, 1)}, "do not fit 2 names and 2 steps"),
        ({"dimensions": (0,)}, "1 dimensions for 2 names"),
        ({"units": ("mL",)}, "1 units for 2 names"),
        ({"original": np.zeros((1, 4, 4))}, r"original \(1, 4, 4\); expected \(4, 4\)"),
        ({"labels": np.zeros((2, 3, 4, 5))}, r"labels \(2, 3, 4, 5\); expected \(2, 3, 4, 4\)"),
        ({"areas": np.zeros((2, 3, 4))}, r"areas \(2, 3, 4\); expected \(2, 3, 3\)"),
        ({"requested": np.zeros((3, 2))}, r"requested \(3, 2\); expected \(2, 3\)"),
    ],
)
def test_traversals_name_what_does_not_fit(tmp_path, change, message):
    arguments = {"names": ("LVEDA", "MEDA"), "steps": (-1, 0, 1)} | change
    with pytest.raises(ValueError, match=message):
        figures.traversals(np.zeros((2, 3, 4, 4)), path=tmp_path / "t.png", **arguments)
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------ what was requested


def request(path="r.png", **change):
    label = heart(32, 6, 3, 8)
    arguments = {
        "original": plain(90)[0], "images": plain(100, 151), "labels": (label, label),
        "areas": ((1, 2, 3), (4, 5, 6)), "request": {"MEDA": 5.0},
    } | change  # fmt: skip
    figures.requested_slice(**arguments, path=path)


def test_a_requested_slice_stands_beside_what_it_was(drawn):
    request(title="patient001")
    axes = drawn[0].axes[:4]
    heads = ["patient001", "as drawn", "Myocardial area at\nED\n5.0 cm²", "absolute difference"]
    assert [axis.get_title() for axis in axes] == heads
    assert [axis.get_xlabel() for axis in axes] == ["", "MYO 2.0 cm²", "MYO 5.0 cm²", ""]
    assert np.allclose(shown(drawn[0])[3].get_array(), 0.2)


def test_several_requests_favour_no_structure(tmp_path, drawn):
    request(request={"RVEDA": 6, "LVEDV": 120})
    axis = drawn[0].axes[2]
    assert axis.get_title() == "RV area at ED\n6.0 cm²\nLV volume at ED\n120.0 mL"
    assert axis.get_xlabel() == "LV 4.0 cm²"
    assert axis.xaxis.label.get_fontweight() == "normal"


def test_a_requested_slice_is_not_clipped(tmp_path):
    request(tmp_path / "r.png", title="the mean code of all training patients and more")
    assert blank(tmp_path / "r.png")


@pytest.mark.parametrize("change", [{"original": plain(1, 2)}, {"images": plain(1)},
                                    {"areas": ((1, 2, 3), (4, 5))}])  # fmt: skip
def test_a_requested_slice_names_what_does_not_fit(change):
    with pytest.raises(ValueError, match="do not fit"):
        request(**change)


# ------------------------------------------------------------------------ animation


def frames(path):
    with Image.open(path) as image:
        assert image.format == "GIF"
        assert image.info["loop"] == 0  # without end
        found = []
        for k in range(image.n_frames):
            image.seek(k)
            found.append((np.asarray(image.convert("L")).astype(int), image.info["duration"]))
    return found


def test_a_gif_goes_forth_and_back(tmp_path):
    path = tmp_path / "new" / "t.gif"
    traversal_gif(plain(0, 60, 120, 180), ["LVEDA"], path)
    found = frames(path)
    assert [duration for _, duration in found] == [80] * 6
    middle = [picture[picture.shape[0] // 2, picture.shape[1] // 2] for picture, _ in found]
    assert middle == [0, 60, 120, 180, 120, 60]  # neither end is shown twice


def test_a_gif_shows_traversals_side_by_side_twice_as_large(tmp_path):
    images = plain((10, 20), (110, 120))
    traversal_gif(images, ["LVEDA", "MEDA"], tmp_path / "t.gif")
    found = frames(tmp_path / "t.gif")
    assert len(found) == 2
    for k, (picture, _) in enumerate(found):
        for grey in images[:, k, 0, 0] * 255:
            assert (picture == round(grey)).sum() >= 64 * 64
    # LVEDA left of MEDA.
    columns = [np.nonzero(found[0][0] == grey)[1].mean() for grey in (10, 110)]
    assert columns[0] < columns[1]


def test_a_gif_has_its_values_below(tmp_path):
    pictures = []
    for name, captions in (("a", ["1 mL", "2 mL"]), ("b", ["1 mL", "9 mL"]), ("c", None)):
        traversal_gif(plain(10, 20), ["LVEDV"], tmp_path / name, captions)
        pictures.append([picture for picture, _ in frames(tmp_path / name)])
    assert np.array_equal(pictures[0][0], pictures[1][0])
    rows = np.nonzero((pictures[0][1] != pictures[1][1]).any(1))[0]
    assert len(rows)
    assert rows.min() > 64  # below the slice
    assert pictures[2][0].shape[0] < pictures[0][0].shape[0]  # no room for what is not there


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((32, 32))}, r"images \(32, 32\) and captions \(\) do not fit"),
        ({"names": ["a", "b"]}, "2 names for 1 traversals"),
        ({"captions": ["1"]}, r"captions \(1,\) do not fit"),
    ],
)
def test_a_gif_names_what_does_not_fit(tmp_path, change, message):
    arguments = {"images": plain(1, 2), "names": ["a"]} | change
    with pytest.raises(ValueError, match=message):
        traversal_gif(**arguments, path=tmp_path / "t.gif")
    assert not list(tmp_path.iterdir())
