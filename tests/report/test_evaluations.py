"""An evaluation is read whatever state it is in, or a sentence says what is wrong with it."""

import json

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image

from cardiac_attrivae.cli.main import main
from cardiac_attrivae.report.evaluations import read_evaluations
from cardiac_attrivae.report.page import write_report
from cardiac_attrivae.runtime.spreadsheet import csv_text
from cardiac_attrivae.schema import DataError
from report.test_page import write_evaluation


@pytest.fixture
def evaluation(tmp_path):
    return write_evaluation(tmp_path / "evaluation", seeds=1)


def change(evaluation, path, value):
    """Replaces what stands at a path of keys in evaluation.json."""
    about = json.loads((evaluation / "evaluation.json").read_text())
    inner = about
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    (evaluation / "evaluation.json").write_text(json.dumps(about))


def refused(evaluation, tmp_path):
    """What `report` prints, as a user sees it; it must be one sentence and exit code 2."""
    output = tmp_path / "report"
    found = CliRunner().invoke(
        main, ["report", "--evaluation", str(evaluation), "--output", str(output)]
    )
    assert found.exit_code == 2, found.output
    assert "Traceback" not in found.output
    assert not (output / "index.html").exists()
    return found.output


# Pictures ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["absolute", "above", "link"])
def test_a_picture_outside_of_the_evaluation_is_refused(evaluation, tmp_path, kind):
    secret = tmp_path / "secret.png"
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(secret)
    (evaluation / "figures" / "link.png").symlink_to(secret)
    names = {"absolute": str(secret), "above": "../secret.png", "link": "figures/link.png"}
    change(evaluation, ["figures"], [{"file": names[kind], "kind": "traversals"}])
    message = refused(evaluation, tmp_path)
    assert f"lists the picture {names[kind]}, which is not inside" in message.replace("\n", " ")


def test_a_link_among_unlisted_pictures_is_refused(evaluation, tmp_path):
    secret = tmp_path / "secret.png"
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(secret)
    (evaluation / "figures" / "link.png").symlink_to(secret)
    change(evaluation, ["figures"], [])
    assert "not inside" in refused(evaluation, tmp_path)


def test_an_evaluation_reached_by_a_link_is_read(evaluation, tmp_path):
    (tmp_path / "link").symlink_to(evaluation)
    assert write_report(str(tmp_path / "link"), str(tmp_path / "report")).is_file()


def test_what_is_no_picture_is_refused(evaluation, tmp_path):
    (evaluation / "figures" / "traversals.png").write_text("no picture")
    assert "traversals.png is no picture" in refused(evaluation, tmp_path).replace("\n", " ")


@pytest.mark.parametrize("form", ["EPS", "TIFF", "PPM"])
def test_only_png_is_opened_whatever_a_picture_is_called(evaluation, tmp_path, form):
    picture = Image.fromarray(np.zeros((4, 4), np.uint8))
    picture.save(evaluation / "figures" / "traversals.png", form)  # Ghostscript would run EPS
    message = refused(evaluation, tmp_path).replace("\n", " ")
    assert "traversals.png is no picture: cannot identify" in message


def test_names_that_a_spreadsheet_would_execute_are_read_as_they_were(evaluation):
    table = pd.read_csv(evaluation / "metrics.csv").assign(test_dataset="=1+1")
    (evaluation / "metrics.csv").write_text(csv_text(table))
    assert "'=1+1" in (evaluation / "metrics.csv").read_text()
    assert set(read_evaluations([evaluation]).metrics["test_dataset"]) == {"=1+1"}


# evaluation.json ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "null", '"text"', "[" * 10_000, "\udcff\udcfe"],
    ids=["empty", "cut", "list", "number", "null", "text", "deep", "bytes"],
)  # fmt: skip
def test_what_is_no_evaluation_json_is_refused(evaluation, tmp_path, text):
    (evaluation / "evaluation.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert "evaluation.json" in refused(evaluation, tmp_path)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["models"], ["a"]),
        (["models", "attri_vae_unguided_acdc_0"], "text"),
        (["models", "attri_vae_unguided_acdc_0"], {}),
        (["models", "attri_vae_unguided_acdc_0", "method"], 3),
        (["models", "attri_vae_unguided_acdc_0", "pipeline"], 3),
        (["models", "attri_vae_unguided_acdc_0", "summary", "wall_time_s"], "long"),
        (["models", "attri_vae_unguided_acdc_0", "seed"], {"a": 1}),
        (["models", "attri_vae_unguided_acdc_0", "summary", "epochs"], [1]),
        (["models", "attri_vae_unguided_acdc_0", "summary", "device"], {"a": 1}),
        (["datasets"], 3),
        (["datasets", "acdc"], None),
        (["datasets", "acdc", "segmenter"], {"patients": 3}),
        (["datasets", "acdc", "segmenter", "Dice"], [1, 2]),
        (["datasets", "acdc", "segmenter", "Dice", "LV"], "high"),
        (["datasets", "acdc", "splits"], "all"),
        (["rounds"], "many"),
        (["seconds"], [1]),
        (["versions"], "new"),
        (["notes"], "a note"),
        (["notes"], [3]),
        (["figures"], {"a": 1}),
        (["figures"], ["figures/a.png"]),
        (["figures"], [{"kind": "traversals"}]),
        (["figures"], [{"file": "figures/traversals.png", "kind": 3}]),
        (["figures"], [{"file": "figures/traversals.png", "kind": "a", "model": ["b"]}]),
        (["figures"], [{"file": "figures/\0.png", "kind": "a"}]),
    ],
)
def test_a_value_of_another_type_is_named(evaluation, tmp_path, path, value):
    change(evaluation, path, value)
    message = refused(evaluation, tmp_path)
    assert "evaluation.json" in message
    assert path[0] in message


def test_values_that_are_not_there_are_not_missed(evaluation, tmp_path):
    for path in (["datasets", "acdc"], ["notes"], ["versions"], ["figures"], ["models"]):
        change(evaluation, path, [] if path[0] in ("notes", "figures") else {})
    assert write_report([evaluation], tmp_path / "report").is_file()


# metrics.csv -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [b"", b"\n\n", b"\x00\xff\xfe\x01", b"a,b\n1,2,3\n4", "café".encode("latin-1"), b'"a\nb,c'],
    ids=["empty", "blank", "binary", "ragged", "latin-1", "quote"],
)
def test_what_is_no_table_is_refused(evaluation, tmp_path, data):
    (evaluation / "metrics.csv").write_bytes(data)
    assert "metrics.csv" in refused(evaluation, tmp_path)


@pytest.mark.parametrize("column", ["method", "train_dataset", "metric", "attribute", "value", "n"])
def test_a_missing_column_is_named(evaluation, tmp_path, column):
    table = pd.read_csv(evaluation / "metrics.csv").drop(columns=column)
    table.to_csv(evaluation / "metrics.csv", index=False)
    assert f"metrics.csv has no column {column}" in refused(evaluation, tmp_path).replace("\n", " ")


@pytest.mark.parametrize("column", ["value", "n", "low", "null_95"])
def test_text_among_numbers_is_named(evaluation, tmp_path, column):
    table = pd.read_csv(evaluation / "metrics.csv", dtype={column: object})
    table.loc[3, column] = "high"
    table.to_csv(evaluation / "metrics.csv", index=False)
    message = refused(evaluation, tmp_path).replace("\n", " ")
    assert f"metrics.csv: column {column} holds 'high' in row 4" in message


@pytest.mark.parametrize("name", ["comparisons", "spread"])
def test_other_tables_are_checked_as_well(tmp_path, name):
    evaluation = write_evaluation(tmp_path / "evaluation")
    (evaluation / f"{name}.csv").write_text("a,b\n1,2\n")
    assert f"{name}.csv has no column" in refused(evaluation, tmp_path).replace("\n", " ")


def test_a_table_without_rows_is_a_report_without_scores(evaluation, tmp_path):
    table = pd.read_csv(evaluation / "metrics.csv").head(0)
    table.to_csv(evaluation / "metrics.csv", index=False)
    assert "metrics.csv holds no score" in refused(evaluation, tmp_path).replace("\n", " ")


@pytest.mark.parametrize(("column", "value"), [("n", ""), ("value", "inf"), ("value", "-inf")])
def test_numbers_that_are_not_finite_are_shown_or_left_out(evaluation, tmp_path, column, value):
    table = pd.read_csv(evaluation / "metrics.csv", dtype={column: object})
    table.loc[table["metric"] == "PSNR", column] = value
    table.to_csv(evaluation / "metrics.csv", index=False)
    assert write_report([evaluation], tmp_path / "report").is_file()


def test_a_folder_is_no_table(evaluation, tmp_path):
    (evaluation / "metrics.csv").unlink()
    (evaluation / "metrics.csv").mkdir()
    with pytest.raises(DataError, match=r"no finished evaluation in .*: metrics\.csv is missing"):
        write_report([evaluation], tmp_path / "report")
