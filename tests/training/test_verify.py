"""A run of which nothing was changed passes; otherwise each change is named, and nothing else."""

import json
import shutil
from importlib import metadata
from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import trained

from cardiac_attrivae.cli.main import main
from cardiac_attrivae.data.manifest import load_manifest
from cardiac_attrivae.data.preprocess import preprocess
from cardiac_attrivae.data.recipe import Recipe
from cardiac_attrivae.runtime.provenance import seal
from cardiac_attrivae.runtime.weights import read_weights, write_weights
from cardiac_attrivae.schema import DataError
from cardiac_attrivae.training import verify
from cardiac_attrivae.training.records import Records
from cardiac_attrivae.training.verify import verify_run

WHAT = [
    "weights", "configuration", "summary", "history", "checkpoints", "data", "segmenters",
    "conditions", "versions", "parameters",
]  # fmt: skip


@pytest.fixture(scope="module")
def made(acdc_store, tmp_path_factory):
    """A store and a run of three steps on it."""
    folder = tmp_path_factory.mktemp("made")
    store = shutil.copytree(acdc_store, folder / "store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Records, "draw", lambda self: None)
        trained(store, folder / "run")
    return folder


@pytest.fixture
def run(made, tmp_path):
    """A copy of the two; the run is told that its store is the copy."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    say(tmp_path / "run", store=str(tmp_path / "store"))
    return tmp_path / "run"


def say(run, **facts):
    """Changes summary.json; None takes a fact away."""
    said = json.loads((run / "summary.json").read_text()) | facts
    said = {key: fact for key, fact in said.items() if fact is not None}
    (run / "summary.json").write_text(json.dumps(said))


def replace(file, old, new):
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))


def flip(file, place):
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)


def found(run, store=None):
    """Findings that do not hold, by what was compared."""
    findings = verify_run(run, store)
    assert [finding.what for finding in findings] == WHAT
    assert all(finding.text.isprintable() for finding in findings)
    return {f.what: (f.holds, f.text) for f in findings if not f.holds}


def test_of_an_untouched_run_everything_holds(run):
    assert found(run) == {}
    told = {finding.what: finding.text for finding in verify_run(run)}
    assert told["versions"] == "the same are installed"
    assert told["checkpoints"] == "last.pt as written; best.pt as written"
    parameters = json.loads((run / "summary.json").read_text())["parameters"]
    assert told["parameters"].startswith(f"{parameters:,},")


def again(run):
    """The store once more, of the same cases with another crop."""
    source = run.parent / "tree"
    preprocess(load_manifest("acdc"), source, run.parent / "store", Recipe(spacing=1.5),
               overwrite=True)  # fmt: skip


def resealed(store, **recipe):
    """Changes the recipe that dataset.json names, and its seal with it."""
    info = json.loads((store / "dataset.json").read_text())
    info["recipe"] |= recipe
    (store / "dataset.json").write_text(json.dumps(info | {"sha256": seal(info)}))


def segmenter(store, name, **facts):
    (store / "segmenters").mkdir()
    file = store / "segmenters" / f"{name}.safetensors"
    write_weights(file, {"weight": torch.ones(2)}, facts)
    return file


CHANGES = {
    "one bit of the weights": (
        lambda r: flip(r / "model.safetensors", -1),
        "weights", "model.safetensors was changed after it was written",
    ),
    "one value of the configuration": (
        lambda r: replace(r / "config.yaml", "batch_size: 8", "batch_size: 9"),
        "configuration", "pipeline.data.batch_size is 9 in config.yaml, 8 in the model",
    ),
    "the seed of the configuration": (
        lambda r: replace(r / "config.yaml", "\nseed: 0", "\nseed: 1"),
        "configuration", "seed is 1 in config.yaml, 0 in the model",
    ),
    "a key more in the configuration": (
        lambda r: replace(r / "config.yaml", "\nseed: 0", "\nseed: 0\nluck: 7"),
        "configuration", "luck is 7 in config.yaml, missing in the model",
    ),
    "a damaged configuration": (
        lambda r: (r / "config.yaml").write_bytes(b"pipeline: *x"),
        "configuration", "config.yaml: aliases (*name) are not accepted",
    ),
    "a configuration that is a list": (
        lambda r: (r / "config.yaml").write_text("[1]"),
        "configuration", "config.yaml: holds [1]; expected keys and values",
    ),
    "a key that would clear the terminal": (
        lambda r: replace(r / "config.yaml", "\nseed: 0", '\nseed: 0\n"\\e[2J": 7'),
        "configuration", "?[2J is 7 in config.yaml, missing in the model",
    ),
    "another seed in the summary": (
        lambda r: say(r, seed=1),
        "summary", "seed is 1 in summary.json, 0 in the model",
    ),
    "another method in the summary": (
        lambda r: say(r, method="beta_vae"),
        "summary", "method is 'beta_vae' in summary.json, 'attri_vae_unguided' in the model",
    ),
    "another number of epochs in the summary": (
        lambda r: say(r, epochs=500), "summary", "epochs is 500 in summary.json, 1 in the model",
    ),
    "another epoch of the kept weights": (
        lambda r: say(r, epoch_kept=7), "summary", "epoch_kept is 7 in summary.json, 1 in the",
    ),
    "another line of the calibration": (
        lambda r: say(r, calibration={}), "summary", "calibration.LVEDA is missing in summary.json",
    ),
    "other versions in the summary": (
        lambda r: say(r, versions={"python": "3.9"}), "summary", "versions.",
    ),
    "a forged history": (
        lambda r: (r / "history.csv").write_text("epoch,val_SSIM\n1,0.99\n"),
        "history", "history.csv was changed after the model was written",
    ),
    "a checkpoint of another run": (
        lambda r: (r / "last.pt").write_bytes((r / "best.pt").read_bytes())
        if (r / "best.pt").exists() else flip(r / "last.pt", 100),
        "checkpoints", "last.pt was changed after the model was written",
    ),
    "a resealed dataset.json": (
        lambda r: resealed(r.parent / "store", spacing=2.6),
        "data", "store is another store: recipe.spacing is 2.6 and was 1.3",
    ),
    "a segmenter of another store": (
        lambda r: segmenter(r.parent / "store", "segmenter_a", fingerprint="segmenter_b"),
        "segmenters", "segmenter_a.safetensors is the segmenter segmenter_b under another name",
    ),
    "one bit of a segmenter": (
        lambda r: flip(segmenter(r.parent / "store", "segmenter_a", fingerprint="segmenter_a"), -1),
        "segmenters", "segmenter_a.safetensors was changed after it was written",
    ),
    "one bit of the images": (
        lambda r: flip(r.parent / "store" / "images.npy", -1),
        "data", "store was changed after preprocess wrote it",
    ),
    "one fact of the store": (
        lambda r: replace(r.parent / "store" / "dataset.json", '"skipped": 0', '"skipped": 1'),
        "data", "store was changed after preprocess wrote it",
    ),
    "a file of the store is gone": (
        lambda r: (r.parent / "store" / "masks.npz").unlink(),
        "data", "store cannot be read",
    ),
    "a store of another recipe": (
        again, "data", "store is another store: recipe.spacing is 1.5 and was 1.3",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_named_and_nothing_else(run, acdc_tree, name):
    change, what, told = CHANGES[name]
    (run.parent / "tree").symlink_to(acdc_tree)
    change(run)
    assert [*found(run)] == [what]
    assert found(run)[what][0] is False
    assert told in found(run)[what][1]


def test_another_number_of_parameters_is_named_twice(run):
    say(run, parameters=5)
    assert [*found(run)] == ["summary", "parameters"]
    assert "5 in summary.json, " in found(run)["parameters"][1]


def test_versions_that_were_removed_are_named_twice(run):
    say(run, versions=None)
    assert [*found(run)] == ["summary", "versions"]
    assert found(run)["versions"] == (None, "summary.json does not record them")


ABSENCES = {
    "the store": (
        lambda r: shutil.rmtree(r.parent / "store"),
        {"data": "the store was moved (--data, store=): none in"},
    ),
    "its place": (
        lambda r: say(r, store=None),
        {"data": "the run does not say where its store is; pass it: --data (store=)"},
    ),
    "config.yaml": (
        lambda r: (r / "config.yaml").unlink(),
        {"configuration": "config.yaml is missing"},
    ),
    "summary.json": (
        lambda r: (r / "summary.json").unlink(),
        {
            "summary": "summary.json is missing",
            "data": "pass it: --data",
            "versions": "not record them",
        },
    ),
    "the model": (
        lambda r: (r / "model.safetensors").unlink(),
        {
            "weights": "model.safetensors cannot be read",
            "configuration": "the model does not record what config.yaml",
            "summary": "the model does not record what summary.json",
            "history": "the model does not record history.csv",
            "checkpoints": "the model does not record last.pt and best.pt",
            "conditions": "the model does not record them",
            "parameters": "there are no weights",
        },
    ),
}


@pytest.mark.parametrize("name", ABSENCES)
def test_what_is_gone_cannot_be_told(run, name):
    remove, told = ABSENCES[name]
    remove(run)
    assert found(run).keys() == told.keys()
    for what, (holds, said) in found(run).items():
        assert holds is None
        assert told[what] in said


def test_a_store_that_was_moved_is_found_where_the_user_says(run):
    moved = run.parent / "elsewhere"
    (run.parent / "store").rename(moved)
    assert [*found(run)] == ["data"]
    assert found(run, moved) == {}
    assert "there is no store in" in found(run, run.parent)["data"][1]


def test_other_versions_are_named_and_hold(run, monkeypatch):
    def version(package):
        if package == "monai":
            raise PackageNotFoundError
        return "0.4.1" if package == "torch" else metadata.version(package)

    monkeypatch.setattr(verify, "version", version)
    assert found(run) == {}
    text = {finding.what: finding.text for finding in verify_run(run)}["versions"]
    known = json.loads((run / "summary.json").read_text())["versions"]
    assert f"torch {known['torch']}, now 0.4.1" in text
    assert f"monai {known['monai']}, now not installed" in text
    assert "numpy" not in text


def test_a_run_that_changed_its_conditions_says_so(run):
    weights, facts = read_weights(run / "model.safetensors")
    parts = [[1, "cpu, 1 thread"], [8, "cpu, 2 threads"]]
    write_weights(
        run / "model.safetensors", weights,
        facts | {"summary": facts["summary"] | {"conditions": parts}},
    )  # fmt: skip
    say(run, conditions=parts)
    assert found(run) == {}
    text = {finding.what: finding.text for finding in verify_run(run)}["conditions"]
    assert text == (
        "from epoch 1 on cpu, 1 thread; from epoch 8 on cpu, 2 threads: the last digits are not "
        "those of an uninterrupted run"
    )


def test_a_run_of_an_earlier_version_says_what_it_does_not_record(run):
    weights, facts = read_weights(run / "model.safetensors")
    old = {key: v for key, v in facts.items() if key not in ("summary", "sha256_of", "calibration")}
    write_weights(run / "model.safetensors", weights, old)
    assert [*found(run)] == ["history", "checkpoints", "conditions"]
    assert {holds for holds, _ in found(run).values()} == {None}


def test_a_folder_without_anything_of_a_run_is_none(tmp_path):
    with pytest.raises(
        DataError, match=r"no run in .*: it has none of .*\(it is empty\); give the"
    ):
        verify_run(tmp_path)


def test_every_run_records_versions_configuration_data_and_seed(made):
    from cardiac_attrivae.runtime.yaml_files import read_yaml

    summary = json.loads((made / "run" / "summary.json").read_text())
    configuration = read_yaml((made / "run" / "config.yaml").read_bytes())
    stored = json.loads((made / "store" / "dataset.json").read_text())["content_hash"]
    assert summary["content_hash"] == configuration["content_hash"] == stored
    assert summary["seed"] == configuration["seed"] == 0
    assert {"cardiac-attrivae", "python", "torch", "numpy", "monai"} <= summary["versions"].keys()


def test_the_command_ends_with_0_if_all_holds_1_if_something_differs_and_3_if_that_is_unknown(run):
    def call(*words):
        return CliRunner().invoke(main, ["verify", *map(str, words)])

    sound = call(run)
    assert (sound.exit_code, sound.output.count("\n")) == (0, len(WHAT) + 1)
    *lines, last = sound.output.splitlines()
    assert [line.split()[:2] for line in lines] == [[what, "holds"] for what in WHAT]
    assert last.startswith("not covered")
    assert "trackers.json" in last
    assert call("--model", run).output == sound.output
    for words in ((), (run, "--model", run)):
        refused = call(*words)
        assert (refused.exit_code, "expected one run: --model RUN" in refused.stderr) == (2, True)
    np.save(run.parent / "store" / "images.npy", np.zeros(3))
    changed = call(run)
    assert (changed.exit_code, changed.output.count("\n")) == (1, len(WHAT) + 1)
    assert changed.output.splitlines()[5].split()[:2] == ["data", "DIFFERS"]
    (run.parent / "store").rename(run.parent / "x")
    unknown = call(run)
    assert unknown.exit_code == 3
    assert unknown.stderr.startswith("Nothing differs. What is unknown ")
    (run / "config.yaml").write_text("seed: 5\n")
    assert call(run).exit_code == 1  # a difference counts, whatever else is unknown
    assert call(run.parent / "nowhere").exit_code == 2
    none = call(run.parent)
    assert (none.exit_code, none.stderr.splitlines()[0][:6]) == (2, "Error:")


def test_on_a_terminal_lines_have_eighty_columns(run, monkeypatch):
    from cardiac_attrivae.cli import console as cli

    monkeypatch.setattr(cli, "columns", lambda: 80)
    monkeypatch.setattr(cli.sys.stdout, "isatty", lambda: True, raising=False)
    lines = cli.row("data           DIFFERS  ", "a long story " * 20).splitlines()
    assert len(lines) > 1
    assert max(map(len, lines)) <= 80
    assert all(line.startswith(" " * 24) for line in lines[1:])
