"""Nothing is replaced or removed that the command did not write itself."""

import json
import os
import shutil

import pytest

from cardiac_attrivae.runtime.files import write
from cardiac_attrivae.runtime.folders import MARKER
from cardiac_attrivae.runtime.outputs import (
    check_apart,
    check_own,
    claimed,
    foreign,
    require_free,
)
from cardiac_attrivae.schema import DataError


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_of_somebody_is_refused_and_stays(tmp_path):
    for name in ("metrics.csv", "figures/fig1.svg", "codes_mine.csv", "table.md"):
        write(tmp_path / name, "mine")
    refused = "was not written by cardiac-attrivae report: it holds codes_mine.csv, figures, m"
    with pytest.raises(DataError, match=refused), claimed(tmp_path, "report"):
        pass
    assert files(tmp_path) == {"metrics.csv", "figures/fig1.svg", "codes_mine.csv", "table.md"}


def test_the_same_command_comes_back_and_another_does_not(tmp_path):
    folder = tmp_path / "new"
    with claimed(folder, "report"):
        write(folder / "index.html", "x")
    with claimed(folder, "report"):
        assert files(folder) >= {"index.html", MARKER}
    written = "was written by cardiac-attrivae report, not by generate; choose another folder"
    with pytest.raises(DataError, match=written), claimed(folder, "generate"):
        pass


def test_a_call_that_wrote_nothing_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), claimed(tmp_path / "new", "report"):
        raise ZeroDivisionError
    assert not (tmp_path / "new").exists()


def test_only_what_an_earlier_call_listed_is_removed(tmp_path):
    folder = tmp_path / "out"
    for names in (["a.csv", "figures/a.png"], ["b.csv"]):
        with claimed(folder, "x") as claim:
            for name in names:
                write(folder / name, "own")
            write(folder / "figures" / "mine.svg", "mine")
            claim.keep(names)
    assert files(folder) == {"b.csv", "figures/mine.svg", MARKER}


@pytest.mark.parametrize(
    "name", ["../thesis", "/{}/thesis", "link/thesis", 3, "\0", "..", "sub", "beside/x"]
)
def test_a_crafted_marker_removes_nothing_elsewhere(tmp_path, name):
    write(tmp_path / "thesis", "mine")
    write(tmp_path / "outside" / "x", "mine")
    folder = tmp_path / "out"
    write(folder / "sub" / "a", "mine")
    if isinstance(name, str):
        name = name.format(str(tmp_path)[1:])
    marker = {"format": 1, "command": "x", "files": [name, "own"]}
    write(folder / MARKER, json.dumps(marker))
    write(folder / "own", "own")
    with claimed(folder, "x") as claim:
        (folder / "link").symlink_to(tmp_path)
        (folder / "beside").symlink_to(tmp_path / "outside")
        claim.keep([])
    assert files(tmp_path) >= {"thesis", "outside/x", "out/sub/a"}
    assert not (folder / "own").exists()


def test_nothing_is_written_through_a_link(tmp_path):
    write(tmp_path / "mine" / "a", "mine")
    folder = tmp_path / "out"
    write(folder / MARKER, '{"format": 1, "command": "x"}')
    (folder / "figures").symlink_to(tmp_path / "mine")
    with pytest.raises(DataError, match="figures is a link to a folder"), claimed(folder, "x"):
        pass
    (folder / "figures").unlink()
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "masks").symlink_to(tmp_path / "mine")
    with pytest.raises(DataError, match="masks is a link to a folder"), claimed(folder, "x"):
        pass
    shutil.rmtree(folder / "a")
    (folder / MARKER).unlink()
    (folder / MARKER).symlink_to(tmp_path / "mine" / "a")
    with claimed(folder, "x"):
        write(folder / "b", "own")
    assert (tmp_path / "mine" / "a").read_text() == "mine"


def test_what_is_foreign_is_named_and_not_replaced(tmp_path):
    for name in ("own.csv", "figures/a.png", "run/model", "notes.txt", ".DS_Store"):
        write(tmp_path / name, "x")
    os.symlink(tmp_path, tmp_path / "figures" / "b.png")
    own = ("*.csv", "figures/*.png")
    assert foreign(tmp_path, own) == ["figures/b.png", "notes.txt", "run/model"]
    named = "holds what is not of a store: figures/b.png, notes.txt, run/model; move it away"
    with pytest.raises(DataError, match=named):
        check_own(tmp_path, own, "a store")


@pytest.mark.parametrize(
    ("source", "output"), [("a", "a"), ("a", "a/b"), ("a/b", "a"), ("a", "c/../a/d"), ("a", "link")]
)
def test_output_and_source_lie_apart(tmp_path, source, output):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "c").mkdir()
    (tmp_path / "link").symlink_to("a")
    with pytest.raises(DataError, match="lie in one another; .*choose a folder elsewhere"):
        check_apart(tmp_path / source, tmp_path / output)
    check_apart(tmp_path / "a", tmp_path / "c")
    check_apart(tmp_path / "a", tmp_path / "ab")


def test_a_run_holds_its_refiner_and_nothing_else(tmp_path):
    write(tmp_path / "run" / "config.yaml", "pipeline: {}\ncontent_hash: a\n")
    require_free(tmp_path / "run" / "refiner", "train")
    for folder, command in (("refiner", "tune"), ("other", "train"), ("refiner/new", "train")):
        with pytest.raises(DataError, match="a run, which is replaced as a whole"):
            require_free(tmp_path / "run" / folder, command)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.yaml", "model: resnet"), ("config.yaml", "[]"), ("config.yaml", "a: [\0"),
        ("dataset.json", '{"name": "Dataset001"}'), ("data.json", "[1]"), ("data.json", "{"),
    ],
)  # fmt: skip
def test_a_project_of_somebody_with_files_of_such_names_may_hold_results(tmp_path, file, content):
    (tmp_path / file).write_text(content)
    require_free(tmp_path / "results", "generate")
