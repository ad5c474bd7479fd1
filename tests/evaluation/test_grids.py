"""Hearts between two patients and over two attributes: where codes lie, and what is measured."""

import re

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from conftest import trained
from PIL import Image

from cardiac_attrivae import api
from cardiac_attrivae.cli.main import main
from cardiac_attrivae.data.store import areas
from cardiac_attrivae.evaluation import studio as studio_module
from cardiac_attrivae.evaluation.generation import traverse_between, traverse_surface
from cardiac_attrivae.evaluation.grids import PATHS, between, on_line, on_sphere, surface
from cardiac_attrivae.evaluation.studio import Studio
from cardiac_attrivae.runtime.folders import MARKER
from cardiac_attrivae.schema import DataError
from cardiac_attrivae.training.run import decode

NAMES = ("LVEDA", "MEDA", "RVEDA")
STRUCTURES = ["LV", "MYO", "RV"]

pytestmark = pytest.mark.usefixtures("hasty_segmenters")


@pytest.fixture(scope="module")
def run(acdc_store_all, tmp_path_factory):
    return trained(acdc_store_all, tmp_path_factory.mktemp("runs") / "mine")


@pytest.fixture
def studio(run):
    return Studio.open(run, device="cpu")


@pytest.fixture
def cases(studio):
    return list(studio.store.cases["case"].unique()[:2])


@pytest.mark.parametrize("way", PATHS.values(), ids=PATHS)
def test_a_path_begins_at_one_code_and_ends_at_the_other(way):
    start, end = np.random.default_rng(0).normal(size=(2, 32))
    path = way(start, end, np.linspace(0, 1, 9))
    np.testing.assert_allclose(path[[0, -1]], [start, end], atol=1e-12)
    back = way(end, start, np.linspace(0, 1, 9))
    np.testing.assert_allclose(back, path[::-1], atol=1e-12)


def test_on_the_sphere_length_stays_and_the_angle_grows_steadily():
    start, end = np.random.default_rng(0).normal(size=(2, 32))
    end *= np.linalg.norm(start) / np.linalg.norm(end)
    path = on_sphere(start, end, np.linspace(0, 1, 9))
    lengths = np.linalg.norm(path, axis=1)
    np.testing.assert_allclose(lengths, lengths[0], rtol=1e-12)
    steps = [np.arccos(a @ b / lengths[0] ** 2) for a, b in zip(path, path[1:], strict=False)]
    np.testing.assert_allclose(steps, np.arccos(start @ end / lengths[0] ** 2) / 8, rtol=1e-6)
    inside = np.linalg.norm(on_line(start, end, np.array([0.5])))
    assert inside < 0.8 * lengths[0]


@pytest.mark.parametrize("end", [[3.0, 0, 0], [-2.0, 0, 0], [0.0, 0, 0], [1.0, 0, 0]])
def test_codes_without_an_angle_between_them_are_joined_by_a_line(end):
    start, shares = np.array([1.0, 0, 0]), np.linspace(0, 1, 5)
    path = on_sphere(start, np.array(end), shares)
    np.testing.assert_allclose(path, on_line(start, np.array(end), shares), atol=1e-12)


def test_between_two_patients_every_heart_is_drawn_and_measured(studio, cases):
    grid = between(studio, *cases, steps=5)
    table = grid.table
    assert list(table) == ["path", "share", *NAMES, *STRUCTURES]
    assert table.groupby("path", sort=False)["share"].apply(list).to_dict() == {
        path: [0, 0.25, 0.5, 0.75, 1] for path in PATHS
    }
    ends = np.concatenate([studio.start(case)[0] for case in cases])
    drawn = decode(studio.run.painter, ends)
    for row in range(2):
        np.testing.assert_allclose(grid.slices[row, [0, -1]], drawn, atol=1e-6)
    found = areas(studio.judge(drawn), studio.scale)
    np.testing.assert_allclose(table[STRUCTURES].iloc[[0, 4]], found)
    said = studio.calibration.read(ends)
    np.testing.assert_allclose(table[[*NAMES]].iloc[[0, 4]], np.where(said > 0, said, np.nan))


def test_over_a_surface_two_attributes_change_and_the_third_stays(studio):
    grid = surface(studio, ("RVEDA", "LVEDA"), reach=1, steps=3)
    table = grid.table
    assert list(table) == [*NAMES, *STRUCTURES]
    by_place = {name: table[name].to_numpy().reshape(3, 3) for name in NAMES}
    assert (np.diff(by_place["RVEDA"], axis=0) > 0).all()
    assert (np.ptp(by_place["RVEDA"], axis=1) < 1e-9).all()
    assert (np.diff(by_place["LVEDA"], axis=1) > 0).all()
    assert np.ptp(by_place["MEDA"]) < 1e-9
    turned = studio.turned(reach=1, steps=3)  # attributes one at a time
    code = studio.start(None)[0]
    lines = studio.calibration
    at = code.copy()
    at[0, lines.dimensions[2]] = lines.positions(np.array([1.0]))[2, 0]
    at[0, lines.dimensions[0]] = lines.positions(np.array([-1.0]))[0, 0]
    corner = decode(studio.run.painter, at)[0]
    np.testing.assert_allclose(grid.slices[2, 0], corner, atol=1e-6)
    np.testing.assert_allclose(by_place["LVEDA"][0], turned.requested[0])


def test_files_are_a_picture_a_stack_and_the_table(run, cases, tmp_path):
    for name, table in {
        "between": traverse_between(run, tmp_path / "between", *cases, steps=3, device="cpu"),
        "surface": traverse_surface(run, tmp_path / "surface", NAMES[:2], steps=3, device="cpu"),
    }.items():
        folder = tmp_path / name
        assert {file.name for file in folder.iterdir()} == {
            MARKER, "traversal.csv", "traversal.png", "traversal.nii.gz",
        }  # fmt: skip
        pd.testing.assert_frame_equal(pd.read_csv(folder / "traversal.csv"), table)
        assert nib.load(folder / "traversal.nii.gz").shape == (128, 128, len(table))
        with Image.open(folder / "traversal.png") as picture:
            assert picture.width > 400


def test_the_command_walks_turns_and_prints(run, cases, tmp_path):
    def call(*words):
        words = ("traverse", "--model", run, "--device", "cpu", "--steps", 3, *words)
        return CliRunner().invoke(main, [str(word) for word in words])

    walked = call("--from", cases[0], "--to", cases[1], "--output", tmp_path / "w")
    assert walked.exit_code == 0, walked.output
    lines = walked.stdout.splitlines()
    assert [len([x for x in lines if x.split()[:1] == [path]]) for path in PATHS] == [3, 3]
    turned = call("--surface", "LVEDA, RVEDA", "--output", tmp_path / "t")
    assert turned.exit_code == 0, turned.output
    assert "MEDA is Myocardial area at ED" in turned.stdout
    wrong = {
        ("--from", cases[0]): "--from and --to need each other",
        ("--to", cases[0]): "--from and --to need each other",
        ("--from", cases[0], "--to", "nobody"): "has no case 'nobody'",
        ("--from", cases[0], "--to", cases[1], "--case", cases[0]): "--case and --from with --to",
        ("--from", cases[0], "--to", cases[1], "--surface", "LVEDA,MEDA"): "--surface and --from",
        ("--from", cases[0], "--to", cases[0]): f"{cases[0]} is both ends of the way",
        ("--surface", "LVEDA"): "the attributes are LVEDA; expected two of LVEDA, MEDA, RVEDA",
        ("--surface", "LVEDA,LVEDA"): "the attributes are LVEDA, LVEDA; expected two of",
        ("--surface", "LVEDA,LVEF"): "the model has no attribute 'LVEF'",
    }
    for words, message in wrong.items():
        done = call(*words, "--output", tmp_path / "wrong")
        assert done.exit_code == 2, words
        assert message in done.stderr
    assert not (tmp_path / "wrong").exists()


def test_what_is_wrong_is_refused_before_any_segmenter_is_trained(
    run, cases, tmp_path, monkeypatch
):
    monkeypatch.setattr(studio_module, "segmenters_for", None)
    wrong = [(1, 1.0, "steps is 1"), (100_000, 1.0, "steps is 100000; expected 2 to 51")]
    for reach in (0.0, float("nan"), 1e9):
        wrong += [(3, reach, f"reach (--range) is {reach:g}; expected")]
    for steps, reach, told in wrong:
        with pytest.raises(ValueError, match=re.escape(told)):
            traverse_surface(run, tmp_path / "o", NAMES[:2], steps=steps, reach=reach)
    with pytest.raises(DataError, match="no case 'nobody'"):
        traverse_between(run, tmp_path / "o", "nobody", "nobody", device="cpu")
    with pytest.raises(ValueError, match="is both ends of the way; expected two patients"):
        traverse_between(run, tmp_path / "o", *cases[:1] * 2, device="cpu")
    with pytest.raises(ValueError, match="the model has no attribute 'LVEDV'"):
        traverse_surface(run, tmp_path / "o", ("LVEDA", "LVEDV"), device="cpu")


def test_in_python_a_grid_shows_itself(run, cases):
    model = api.load_model(run, device="cpu")
    assert len(model.between(*cases, steps=3).table) == 6
    shown = model.surface(NAMES[:2], case=cases[0], steps=2)
    assert "<img" in shown._repr_html_()
    assert shown.title == cases[0]
    assert model.surface(NAMES[:2], steps=2).title == "mean of the training patients"
    assert repr(shown).startswith("<Grid of 2 x 2 drawn hearts")
    np.testing.assert_array_equal(shown.original, model.studio.start(cases[0])[1][0].numpy())
