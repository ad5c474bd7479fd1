"""Mistakes that cost nothing to find are reported before large libraries are imported."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from cardiac_attrivae.cli.data import _empty_splits, _fitting
from cardiac_attrivae.cli.main import main
from cardiac_attrivae.data.recipe import Recipe
from cardiac_attrivae.runtime import contents
from cardiac_attrivae.schema import DataError

PROGRAM = """
import sys
from pathlib import Path
from cardiac_attrivae.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    print("large:", *{"torch", "monai", "pandas", "matplotlib"} & set(sys.modules))
    sys.exit(end.code)
"""


@pytest.fixture(scope="module")
def world(acdc_tree, acdc_store, tmp_path_factory):
    """A folder with a run and an evaluation, as far as their files are looked at, and images."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "store").symlink_to(acdc_store)
    (folder / "images").symlink_to(acdc_tree)
    for name in ("run", "unfinished", "evaluation", "empty", "lonely"):
        (folder / name).mkdir()
    (folder / "run" / "model.safetensors").touch()
    (folder / "run" / "summary.json").write_text(json.dumps({"store": str(acdc_store)}))
    (folder / "run" / "config.yaml").touch()
    (folder / "notes").mkdir()
    (folder / "notes" / "a.txt").touch()
    (folder / "lonely" / "model.safetensors").touch()
    (folder / "unfinished" / "last.pt").touch()
    (folder / "evaluation" / "evaluation.json").touch()
    return folder


MISTAKES = {
    "generate --model run --set LVEDA=20 --case patient999 --output o":
        "has no case 'patient999', did you mean",
    "generate --model nowhere --set LVEDA=20 --output o": "no trained model in nowhere",
    "generate --model unfinished --set LVEDA=20 --output o": "train again with --resume",
    "generate --model run --set lveda=20 --output o": "did you mean 'LVEDA'",
    "generate --model run --set LVEDA=20 --set LVEDA=30 --output o":
        "--set LVEDA is given 2 times; expected one value",
    "generate --model run --count 2 --set LVEDA=20: --output o": "'LVEDA=20:'; expected ATTRI",
    "generate --model run --set LVEDA=-5 --output o": "LVEDA is -5 cm2; expected a number above 0",
    "generate --model run --count 2 --set LVEF=0:60 --output o":
        "LVEF is 0 %; expected a number above 0",
    "generate --model run --set LVEF=150 --output o":
        "LVEF is 150 %; expected a number above 0 and below 100",
    "generate --model run --count 2 --set LV_eccentricity=0.2:1 --output o":
        "LV_eccentricity is 1; expected a number above 0 and below 1",
    "generate --model run --set LVEDA=nan --output o": "'LVEDA=nan'; expected ATTRIBUTE=NUMBER",
    "generate --model lonely --set LVEDA=20 --output o": "lonely does not say where the store is",
    "traverse --model run --case nobody --output o": "has no case 'nobody'",
    "traverse --model acdc --from p1 --to p2 --output o":
        "--from p1: acdc is shipped without patients; give --data STORE",
    "traverse --model run --data images --output o": "it holds images, which preprocess reads",
    "explore --model empty --output o": "(it is empty); train one first",
    "export --model store --format onnx --output o": "it holds a store that preprocess wrote",
    "train --pipeline attri_vae_fast --data images --output o": "--source images --output STORE",
    "train --pipeline attri_vae_fast --data run --output o": "it holds a run that train wrote",
    "train --pipeline attri_vae_fast --data store --data images --output o":
        "--data is given 2 times; expected one: Store that preprocess wrote; join makes one",
    "encode --model run --source images --model unfinished --output o":
        "--model is given 2 times; expected one: Run that train wrote",
    "train --pipeline attri_vae_fast --data store --output o --set epochs=3":
        "did you mean 'schedule.epochs'",
    "tune --pipeline attri_vae_fst --data store --output o": "did you mean 'attri_vae_fast'",
    "tune --pipeline attri_vae_fast --data empty --output o": "no slice store in empty",
    "preprocess --dataset ACDC --source images --output o": "did you mean 'acdc'",
    "check --dataset ACDC --source images": "did you mean 'acdc'",
    "cross-domain-eval --model run --data nowhere --output o": "it does not exist",
    "cross-domain-eval --model run --data store:valid --output o":
        "'valid' is no split of the store in store; expected store:train, store:val or store:test",
    "generate --model run --count 2 --like store:tset --output o":
        "'tset' is no split of the store",
    "cross-domain-eval --model run --data nothing:valid --output o":
        "no slice store in nothing:valid",
    "cross-domain-eval --model run --data store --attributes lveda --output o":
        "did you mean 'LVEDA'",
    "diagnose --model nowhere --data store --output o": "no trained model in nowhere",
    "diagnose --model run --data images --output o": "it holds images, which preprocess reads",
    "diagnose --model run --data store --column patholgy --output o": "did you mean 'pathology'",
    "diagnose --model run --data store --column dataset --output o":
        "has 1 text; expected 2 to 50 classes: give --column split or pathology",
    "diagnose --model run --data store --column LVEDA --output o":
        "has 9 texts, 0 of them in several patients; expected 2 to 50 classes: give --column split",
    "report --evaluation run --output o": "no finished evaluation in run: metrics.csv is missing",
    "report --evaluation evaluation --output o": "metrics.csv is missing",
    "generate --model run --set LVEDA=20 --output notes":
        "notes is not empty and was not written by cardiac-attrivae generate: it holds a.txt",
    "explore --model run --output o --port 8000": "--port 8000 needs --serve",
    "explore --model run --output run": "was not written by cardiac-attrivae explore",
    "generate --model run --set LVEDA=20 --output notes/a.txt": "notes/a.txt is a file",
    "encode --model run --source images --output o --mask-labels LV=3,MYO=2,RV=1":
        "--mask-labels needs --mask",
    "preprocess --dataset acdc --source images --output o --mirror=": "names an empty case",
    "preprocess --dataset acdc --source images --output o --size 0 --field 100":
        "0 is not in the range x>=1",
    "preprocess --dataset acdc --source images --output o --spacing 1.3 --field 100":
        "--spacing and --field exclude each other",
    "preprocess --dataset acdc --source images --output o --field 5":
        "--field 5 over 128 pixels makes pixels of 0.0391 mm; expected 0.1 to 10, as --field 166",

    "export --model run --format onnx --output notes": "was not written by cardiac-attrivae export",
    "export --model run --format bundle --output run": "run is there already",
    "preprocess --dataset acdc --source images --output run": "not written by cardiac-attrivae",
    "preprocess --dataset acdc --source images --output store": "store exists already",
    "preprocess --dataset acdc --source images --output images/new":
        "lie in one another",
    "preprocess --dataset acdc --source images --output o --masks nowhere": "no folder nowhere",
    "preprocess --dataset acdc --source images --output o --mask-source me": "need --masks DIR",
    "preprocess --dataset acdc --source images --output o --spacing 100": "spacing is 100.0 mm",
    "preprocess --dataset acdc --source images --output o --pseudonymise nowhere": "is no file",
    "join store store --output store": "store exists already",
    "join store --output o": "got 1 store; expected two or more",
    "reproduce --acdc images --output images/new": "lie in one another",
    "segment --source nowhere --output o": "'nowhere' does not exist",
    "segment --source images --output images/new": "lie in one another",
    "encode --model run --source images --output images/new": "lie in one another",
    "encode --model run --source nowhere --output o": "'nowhere' does not exist",
    "join store store --output store/new --overwrite": "is replaced as a whole",
    "demo --output notes": "was not written by cardiac-attrivae demo",
    "train --pipeline attri_vae_fast --data store --output run": "holds a run; add --resume",
    "preprocess --dataset acdc --source images --output o --workers 0": "is not in the range x>=1",
    "train --pipeline attri_vae_fast --data store --output o --seed 99999999999999999999":
        "is not in the range 0<=x<=4294967295",
}  # fmt: skip


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_reported_before_anything_large_is_imported(world, words):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words.split()], cwd=world, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert MISTAKES[words] in done.stderr
    assert done.stdout == "large:\n"
    assert "Traceback" not in done.stderr
    assert not (world / "o").exists()


WRITERS = sorted(
    name
    for name, command in main.commands.items()
    if any("--output" in parameter.opts for parameter in command.params)
)
WHOLE = {
    "store": ("preprocess", "dataset.json", '{"format": 2, "content_hash": "", "recipe": {}}'),
    "run": ("train", "config.yaml", "pipeline: {}\ncontent_hash: a\n"),
    "explorer": ("explore", "data.json", '{"patients": 3, "code": {}}'),
}
"""Folders that are replaced as a whole: command that writes one, and the file that tells it."""


@pytest.mark.parametrize("command", WRITERS)
@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("below", ["figures", "a/b", ""])
def test_nothing_is_written_into_a_store_a_run_or_an_explorer(tmp_path, kind, command, below):
    """It would keep its own command from replacing the folder later."""
    writer, file, content = WHOLE[kind]
    (tmp_path / kind).mkdir()
    (tmp_path / kind / file).write_text(content)
    if not below and (command == writer or {command, writer} == {"join", "preprocess"}):
        return
    for output in (tmp_path / kind / below, tmp_path / "link" / below):
        if output.parts[-1 - below.count("/") - bool(below)] == "link":
            (tmp_path / "link").symlink_to(kind)
        done = CliRunner().invoke(main, [command, "--output", str(output)])
        assert done.exit_code == 2
        beside = tmp_path / f"{kind}-{command}"
        assert f"{kind}, which is replaced as a whole" in done.stderr
        assert f"choose a folder beside it: --output {beside}\n" in done.stderr
    assert [path.name for path in (tmp_path / kind).iterdir()] == [file]


def test_a_split_without_patients_is_named_with_those_that_have_some(tmp_path):
    info = {"splits": {"train": 85, "val": 15, "test": 0}}
    contents.require_patients(tmp_path, info, "val")
    with pytest.raises(DataError, match=r"has no test patients \(it has train 85, val 15\)") as e:
        contents.require_patients(tmp_path, info, "test")
    assert f"--data {tmp_path}:val" in str(e.value)


def test_a_store_that_was_moved_is_told_from_one_that_a_model_does_not_name(tmp_path):
    for said, message in (({}, "does not say where the store is"), ({"store": "x"}, "is gone")):
        (tmp_path / "summary.json").write_text(json.dumps(said))
        with pytest.raises(DataError, match=message):
            contents.store_of(tmp_path, None)


def test_patients_that_a_shipped_model_was_trained_on_are_not_proposed_for_scoring(tmp_path):
    info = {"dataset": "acdc", "splits": {"train": 85, "val": 15, "test": 0}}
    with pytest.raises(DataError, match="acdc was trained on them: give patients of another"):
        contents.require_patients(tmp_path, info, "test", [Path("acdc")])
    with pytest.raises(DataError, match=":val"):
        contents.require_patients(tmp_path, info | {"dataset": "mine"}, "test", [Path("acdc")])


def test_a_column_that_is_refused_is_not_proposed(tmp_path):
    rows = ["case,vendor,pathology", "p1,A,DCM", "p2,B,NOR", "p3,A,HCM", "p4,B,MINF"]
    (tmp_path / "cases.csv").write_text("\n".join(rows))
    with pytest.raises(DataError, match=r"'pathology' .* 0 of them .*: give --column vendor$"):
        contents.require_column(tmp_path, "pathology")
    (tmp_path / "cases.csv").write_text("\n".join(rows[:3]))
    with pytest.raises(DataError, match="none here does: name one in the manifest"):
        contents.require_column(tmp_path, "pathology")


def test_a_store_that_cannot_be_written_where_it_is_gets_another_place_in_the_hint(tmp_path):
    with pytest.raises(DataError, match=f"--source DIR --output {tmp_path / 'new'}"):
        contents.require_store(tmp_path / "new")
    (tmp_path / "mine.txt").touch()
    with pytest.raises(DataError, match="--source DIR --output STORE"):
        contents.require_store(tmp_path)


def test_a_folder_with_spaces_is_quoted_where_a_command_is_advised(tmp_path):
    with pytest.raises(DataError, match="--source DIR --output '.*/a b'"):
        contents.require_store(tmp_path / "a b")
    (advice,) = _empty_splits({"train": 3, "val": 2, "test": 0}, Path("a b"))
    assert "--data 'a b:val'" in advice


@pytest.mark.parametrize(
    ("recipe", "pipeline"),
    [
        (Recipe("whole"), "segment_scans"),
        (Recipe(phases=("ED", "ES"), stack=5), "attri_vae_stack"),
        (Recipe("all", phases=("ED", "ES")), "attri_sivae_phases"),
        (Recipe(stack=5), "attri_vae_fast"),  # volumes at ES are not in it
        (Recipe("all"), "attri_vae_fast"),
    ],
)
def test_the_pipeline_that_is_advised_fits_the_store(recipe, pipeline):
    assert _fitting(asdict(recipe)) == pipeline


def test_a_folder_given_twice_does_not_stop_a_shell_that_completes_words():
    words = ["train", "--data", "a", "--data", "b"]
    found = ShellComplete(main, {}, "cardiac-attrivae", "").get_completions(words, "--pip")
    assert [item.value for item in found] == ["--pipeline"]
