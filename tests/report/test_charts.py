"""Facts about drawn numbers: every number is there, each method looks the same throughout."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from cardiac_attrivae.report import charts
from cardiac_attrivae.report.style import LINES, MARKERS
from report.test_slices import blank, keep_figures, pixels, words

METHODS = ("attri_sivae", "attri_vae", "beta_vae")
LABELS = ["Attri-SIVAE", "Attri-VAE", "β-VAE"]


@pytest.fixture
def drawn(monkeypatch):
    return keep_figures(monkeypatch, charts)


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def seen_looks(figure):
    """Label, colour and marker of each method in the legend, in its order."""
    return [
        (handle.get_label(), handle.get_color(), handle.get_marker())
        for handle in figure.legends[0].legend_handles
        if handle.get_label() in LABELS
    ]


def test_long_names_of_methods_stay_within_the_picture_and_differ(drawn):
    few, all_ = ("LVEDA+MEDA+RVEDA", "LVEDA+MEDA+RVEDA+LVEDV+MEDV+RVEDV")
    long = [f"attri_vae_unguided (attributes={names})" for names in (few, all_)]
    table = patients().replace(dict(zip(METHODS, (*long, "beta_vae"), strict=True)))
    charts.distributions(table, "d.png", "SSIM", {"acdc → acdc": 0.5})
    (figure,) = drawn
    figure.draw_without_rendering()
    assert figure.legends[0].get_window_extent().x1 <= figure.bbox.x1
    names = ["".join(text.split()) for text in legend(figure)]
    assert names[0] != names[1]
    assert names[1].endswith("MEDV+RVEDV)")


# ------------------------------------------------------------------------ scores


def patients(count=12):
    random = np.random.default_rng(0)
    rows = [
        (method, group, random.normal(k, 0.1))
        for k, method in enumerate(METHODS)
        for group, n in (("acdc → acdc", count), ("acdc → mnms", 3))
        for _ in range(n)
    ]
    return pd.DataFrame(rows, columns=["method", "group", "value"])


@pytest.mark.parametrize("ascending", [True, False])
def test_every_patient_is_a_point_of_its_method_and_group(drawn, ascending):
    table = patients().sort_values("method", ascending=ascending, kind="stable")
    charts.distributions(table, "d.png", "SSIM")
    (axis,) = drawn[0].axes
    points = [part for part in axis.collections if len(part.get_offsets()) > 1]
    assert len(points) == 6
    for part, (k, group) in zip(points, [(k, g) for g in (0, 1) for k in range(3)], strict=True):
        x, y = part.get_offsets().T
        name = ("acdc → acdc", "acdc → mnms")[group]
        wanted = table[(table["method"] == METHODS[k]) & (table["group"] == name)]["value"]
        assert np.allclose(y, np.sort(wanted))
        assert (np.round(x) == group).all()
        assert to_hex(part.get_facecolor()[0]) == LINES[k]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["acdc → acdc", "acdc → mnms"]
    assert axis.get_ylabel() == "SSIM"


@pytest.mark.parametrize(("count", "boxes", "violins"), [(4, 0, 0), (9, 3, 0), (10, 3, 3)])
def test_few_patients_get_no_box_and_no_violin(drawn, count, boxes, violins):
    charts.distributions(patients(count), "d.png", "SSIM")
    (axis,) = drawn[0].axes
    assert len(axis.patches) == boxes
    assert len(axis.collections) == 6 + violins


def test_no_point_hides_behind_a_box(drawn):
    charts.distributions(patients(40), "d.png", "SSIM")
    (axis,) = drawn[0].axes
    boxes = [patch.get_path().get_extents() for patch in axis.patches]
    points = np.concatenate([p.get_offsets() for p in axis.collections if len(p.get_offsets()) > 1])
    assert not any(box.contains(*point) for box in boxes for point in points)


def test_the_floor_of_each_group_is_a_dashed_line(drawn):
    charts.distributions(patients(), "d.png", "SSIM", {"acdc → mnms": -0.7, "unknown": 5})
    (axis,) = drawn[0].axes
    (line,) = [line for line in axis.lines if line.get_linestyle() == "--"]
    assert set(line.get_ydata()) == {-0.7}
    assert (np.round(line.get_xdata()) == 1).all()
    assert legend(drawn[0]) == [*LABELS, "black image"]


def test_constant_scores_are_no_error(tmp_path):
    charts.distributions(patients().assign(value=0.5), tmp_path / "d.png", "SSIM")
    assert blank(tmp_path / "d.png")


def scores():
    rows = [
        ("SCC", "beta_vae", 0.5, 0.4, 0.7, 0.3, 0.35),
        ("SCC", "attri_vae", 0.9, 0.8, 0.95, 0.2, 0.25),
        ("Control", "attri_vae", 0.8, 0.85, 0.9, np.nan, np.nan),  # outside of its interval
        ("Control", "beta_vae", np.nan, np.nan, np.nan, np.nan, np.nan),
        ("MIG", "beta_vae", -0.1, np.nan, np.nan, 0, 0.1),
    ]
    return pd.DataFrame(
        rows, columns=["row", "method", "value", "low", "high", "null", "null_95"]
    )  # fmt: skip


def test_intervals_hold_every_number(drawn):
    charts.intervals(scores(), "i.png", "score")
    (axis,) = drawn[0].axes
    dots = [line for line in axis.lines if line.get_marker() in MARKERS]
    assert [dot.get_xdata()[0] for dot in dots] == [0.5, 0.9, 0.8, -0.1]
    rows = [round(float(dot.get_ydata()[0])) for dot in dots]
    assert [axis.get_yticklabels()[row].get_text() for row in rows] == ["SCC"] * 2 + [
        "Control", "MIG",
    ]  # fmt: skip
    ends = [tuple(line.get_xdata()) for line in axis.lines]
    assert {(0.4, 0.7), (0.8, 0.95), (0.85, 0.9)} < set(ends)
    assert {(0.3, 0.3), (0.2, 0.2), (0, 0)} < set(ends)  # the means without information
    bands = [patch.get_x() + patch.get_width() for patch in axis.patches]
    assert np.allclose(bands, [0.35, 0.25, 0.1])
    assert {patch.get_x() for patch in axis.patches} == {axis.get_xlim()[0]}
    # A method has one look in all rows, and the other another one.
    looks = [(dot.get_color(), dot.get_marker()) for dot in dots]
    assert looks[0] == looks[3] != looks[1] == looks[2]
    assert looks[1] == (LINES[0], MARKERS[0])  # the first by name, not by row


def test_intervals_without_a_null_have_no_word_of_it(tmp_path, drawn):
    charts.intervals(scores().assign(null=np.nan, null_95=np.nan), "i.png", "score")
    assert legend(drawn[0]) == ["Attri-VAE", "β-VAE"]


def test_intervals_are_not_clipped(tmp_path):
    table = scores().assign(row=lambda t: "a rather long name of a score: " + t["row"])
    charts.intervals(table, tmp_path / "i.png", "score")
    assert blank(tmp_path / "i.png")


# ------------------------------------------------------------------------ control


def pictures(steps=5, models=1):
    """Ten patients per step: LV as asked for and 0 to 9 more, RV always 30."""
    rows = [
        ("attri_vae", attribute, structure, step + model / 100,
         30 if structure == "RV" else step + patient)
        for model in range(models)
        for attribute in ("LVEDA", "RVEDV")
        for structure in ("RV", "LV")
        for step in range(steps)
        for patient in range(10)
    ]  # fmt: skip
    columns = ["method", "attribute", "structure", "requested", "measured"]
    return pd.DataFrame(rows, columns=columns)


UNITS = {"LVEDA": "cm2", "RVEDV": "mL"}


def test_control_draws_medians_in_the_panel_of_their_structure(drawn):
    charts.control(pictures(), "c.png", UNITS)
    axes = drawn[0].axes
    assert [axis.get_ylabel() for axis in axes[::2]] == ["LV measured (cm²)", "RV measured (cm²)"]
    assert [axis.get_xlabel() for axis in axes[2:]] == [
        "LV area at ED\nrequested (cm²)", "RV volume at ED\nrequested (mL)",
    ]  # fmt: skip
    assert np.allclose(axes[0].lines[-1].get_xydata(), [(s, s + 4.5) for s in range(5)])
    assert np.allclose(axes[2].lines[-1].get_ydata(), 30)
    band = axes[0].collections[0].get_paths()[0].get_extents()
    assert np.isclose(band.y0, 0.9)  # 10th centile of 0 to 9
    assert np.isclose(band.y1, 4 + 8.1)


def test_only_the_own_structure_in_the_same_unit_has_a_line_of_requests(drawn):
    charts.control(pictures(), "c.png", UNITS)
    axes = drawn[0].axes
    dotted = [[line for line in axis.lines if line.get_linestyle() == ":"] for axis in axes]
    assert [len(lines) for lines in dotted] == [1, 0, 0, 0]
    assert dotted[0][0].get_xydata().tolist() == [[0, 0], [4, 4]]
    tinted = [axis.get_facecolor() != (1, 1, 1, 1) for axis in axes]
    assert tinted == [True, False, False, True]


def test_of_stacks_volumes_are_measured_and_have_the_line_of_requests(drawn):
    charts.control(pictures(), "c.png", UNITS, "mL")
    axes = drawn[0].axes
    assert [axis.get_ylabel() for axis in axes[::2]] == ["LV measured (mL)", "RV measured (mL)"]
    dotted = [[line for line in axis.lines if line.get_linestyle() == ":"] for axis in axes]
    assert [len(lines) for lines in dotted] == [0, 0, 0, 1]


def test_a_second_phase_has_panels_of_its_own(drawn):
    both = [pictures(), pictures().replace({"LV": "LV_ES", "RV": "RV_ES", "LVEDA": "LVEF"})]
    charts.control(pd.concat(both), "c.png", UNITS | {"LVEF": "%"})
    axes = np.reshape(drawn[0].axes, (4, 3))
    found = [axis.get_ylabel().partition(" measured")[0] for axis in axes[:, 0]]
    assert found == ["LV", "RV", "LV at ES", "RV at ES"]
    tinted = [[axis.get_facecolor() != (1, 1, 1, 1) for axis in row] for row in axes]
    assert [row[2] for row in tinted] == [True, False, True, False]  # LVEF is of LV at both


def test_requests_of_many_models_are_gathered(drawn):
    charts.control(pictures(steps=6, models=7), "c.png", UNITS)
    assert len(drawn[0].axes[0].lines[-1].get_xdata()) == 9


def test_control_is_not_clipped(tmp_path):
    charts.control(pictures(), tmp_path / "c.png", UNITS)
    assert blank(tmp_path / "c.png")


def test_control_needs_the_unit_of_every_attribute():
    with pytest.raises(ValueError, match="no unit for RVEDV; units are of LVEDA"):
        charts.control(pictures(), "c.png", {"LVEDA": "cm2"})


@pytest.mark.parametrize(
    ("draw", "table", "value"),
    [
        (lambda table: charts.distributions(table, "x.png", "SSIM"), patients(), "value"),
        (lambda table: charts.intervals(table, "x.png", "score"), scores(), "value"),
        (lambda table: charts.control(table, "x.png", UNITS), pictures(), "measured"),
    ],
)
def test_tables_name_what_is_missing(draw, table, value):
    with pytest.raises(ValueError, match="no column method among"):
        draw(table.drop(columns="method"))
    with pytest.raises(ValueError, match=f"no row has a finite {value}"):
        draw(table.assign(**{value: np.nan}))


def test_a_method_looks_the_same_in_every_chart_and_in_every_order_of_rows(drawn):
    both = pd.concat([pictures().assign(method=name) for name in ("beta_vae", "attri_vae")])
    few = patients()[lambda table: table["method"] != "attri_sivae"]
    for ascending in (True, False):
        tables = (t.sort_values("method", ascending=ascending) for t in (few, scores(), both))
        charts.distributions(next(tables), "d.png", "SSIM")
        charts.intervals(next(tables), "i.png", "score")
        charts.control(next(tables), "c.png", UNITS)
    looks = [seen_looks(figure) for figure in drawn]
    assert looks == [[(LABELS[k + 1], LINES[k], MARKERS[k]) for k in (0, 1)]] * 6
    for control in (drawn[2], drawn[5]):
        assert [line.get_color() for line in control.axes[0].lines[-2:]] == list(LINES[:2])


# ------------------------------------------------------------------------ codes


@pytest.mark.parametrize("k", [1, 3, 4])
def test_scatter(tmp_path, k):
    codes = np.random.default_rng(0).normal(size=(20, k))
    codes[:, 0] = 0  # a collapsed dimension has no line, and is no error
    path = tmp_path / "s.png"
    groups = ["acdc"] * 15 + ["mnms"] * 5
    charts.scatter(
        codes, 100 + codes, ["LVEDV"] * k, ["mL"] * k, path,
        dimensions=range(k), groups=groups, scores=[0.5] * k,
    )  # fmt: skip
    assert blank(path)


def test_scatter_tells_groups_apart_by_colour_and_marker(drawn):
    x = np.arange(8.0)[:, None]
    groups = list("aabbbaba")
    charts.scatter(x, 2 * x, ["LVEDA"], ["cm2"], "s.png", dimensions=[0], groups=groups)
    (axis,) = drawn[0].axes
    first, second = axis.collections
    assert first.get_offsets()[:, 0].tolist() == [0, 1, 5, 7]
    assert second.get_offsets()[:, 1].tolist() == [4, 6, 8, 12]
    assert to_hex(first.get_facecolor()[0]) != to_hex(second.get_facecolor()[0])
    assert not np.array_equal(first.get_paths()[0].vertices, second.get_paths()[0].vertices)
    assert legend(drawn[0]) == ["a", "b"]
    assert np.allclose(axis.lines[0].get_xydata(), [(0, 0), (7, 14)])  # through all points
    assert axis.get_ylabel() == "LV area at ED (cm²)"


def test_scatter_names_data_sets_as_people_do(drawn):
    x = np.arange(3.0)[:, None]
    groups = ("mnms", "acdc", "phantom")
    charts.scatter(x, x, ["LVEDA"], ["cm2"], "s.png", dimensions=[0], groups=groups)
    assert legend(drawn[0]) == ["M&Ms", "ACDC", "phantom"]


def test_scatter_names_what_does_not_fit():
    points, units = (np.eye(2), np.eye(2)), ("", "")
    with pytest.raises(ValueError, match="3 groups for 2 points"):
        charts.scatter(*points, "ab", units, "s.png", dimensions=(0, 1), groups="xyz")
    with pytest.raises(ValueError, match="and 1 names do not fit"):
        charts.scatter(*points, "a", units, "s.png", dimensions=(0, 1), groups="xy")


def test_correlations_put_trained_dimensions_first_and_say_what_is_left_out(drawn):
    matrix = np.linspace(0, 0.9, 40)[:, None] * [1, -0.5]  # strongest last, and some negative
    charts.correlations(matrix, ("LVEDA", "MEDA"), "c.png", (5, None))
    axis = drawn[0].axes[0]
    rows = [int(label.get_text()) for label in axis.get_yticklabels()]
    assert rows == [5, *range(39, 8, -1)]
    assert len(rows) == charts.MOST_DIMENSIONS
    assert np.allclose(axis.get_images()[0].get_array(), abs(matrix[rows]))
    assert axis.get_xlabel() == "and 8 more, all at most 0.18"
    heads = [" ".join(label.get_text().split()) for label in axis.get_xticklabels()]
    assert heads == ["LV area at ED", "Myocardial area at ED"]
    (frame,) = axis.patches
    assert (frame.get_x(), frame.get_y()) == (-0.5, -0.5)
    assert [text for text in words(drawn[0]) if text == "0.90"] == ["0.90"]


def test_correlations_leave_nothing_out_of_a_small_code(drawn):
    charts.correlations([[0.2, np.nan], [0.8, 0.1]], ("LVEDA", "MEDA"), "c.png", (None, None))
    axis = drawn[0].axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["1", "0"]
    assert axis.get_xlabel() == ""
    assert [text.get_text() for text in axis.texts] == ["0.80", "0.10", "0.20", "–"]


def test_correlations_darken_in_grey_print(tmp_path):
    greys = []
    for value in (0, 0.25, 0.5, 0.75, 1):
        charts.correlations([[value]], ("LVEDA",), tmp_path / "c.png", (None,))
        picture = pixels(tmp_path / "c.png") @ [0.299, 0.587, 0.114]
        greys.append(np.median(picture[70:90, 80:200]))  # within the only cell
    assert (np.diff(greys) < -20).all()


def test_correlations_are_not_clipped(tmp_path):
    matrix = np.random.default_rng(0).random((256, 3))
    charts.correlations(matrix, ("LVEDV", "MEDV", "RVEDV"), tmp_path / "c.png", (0, 1, 2))
    assert blank(tmp_path / "c.png")


def test_correlations_name_what_does_not_fit():
    with pytest.raises(ValueError, match=r"matrix \(4, 2\) does not fit 1 names and 2 trained"):
        charts.correlations(np.zeros((4, 2)), ("LVEDA",), "c.png", (0, 1))


# ------------------------------------------------------------------------ all


def test_pictures_leave_the_global_state_of_matplotlib_alone(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    charts.correlations(np.zeros((40, 3)), ("a", "b", "c"), tmp_path / "c.png", (0, 1, 2))
    assert dict(matplotlib.rcParams) == before


def test_no_letter_is_smaller_than_seven_points(drawn):
    from matplotlib.text import Text

    charts.distributions(patients(), "x.png", "SSIM", {"acdc → acdc": 0.5})
    charts.intervals(scores(), "x.png", "score")
    charts.control(pictures(), "x.png", UNITS)
    charts.correlations(np.zeros((40, 3)), ("a", "b", "c"), "x.png", (0, 1, 2))
    pair = ("x", "y")
    charts.scatter(np.eye(2), np.eye(2), pair, ("", ""), "x.png", dimensions=(0, 1), groups=pair)
    sizes = [text.get_fontsize() for figure in drawn for text in figure.findobj(Text)]
    assert len(drawn) == 5
    assert min(sizes) >= 7
