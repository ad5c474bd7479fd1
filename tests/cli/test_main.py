"""The commands as a user types them: what they print, what they write, how they fail."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from cardiac_attrivae.cli.main import main
from cardiac_attrivae.data.phantom import write_phantoms


def call(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


COMMANDS = (
    "preprocess", "train", "verify", "tune", "cross-domain-eval", "report", "generate", "traverse",
    "explore", "export", "phantom", "check", "demo", "reproduce",
)  # fmt: skip


def test_every_command_stands_in_the_help_and_has_one():
    text = call("--help").stdout
    assert "..." not in text.replace("[ARGS]...", "")  # no sentence is cut off
    for command in COMMANDS:
        assert command in text
        result = call(command, "--help")
        assert result.exit_code == 0
        assert "Usage:" in result.stdout


def test_help_loads_nothing_heavy():
    program = (
        "import sys; from click.testing import CliRunner\n"
        "from cardiac_attrivae.cli.main import main\n"
        f"for command in {COMMANDS!r}: CliRunner().invoke(main, [command, '--help'])\n"
        "heavy = {'torch', 'monai', 'pandas', 'numpy', 'nibabel', 'tqdm'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.usefixtures("hasty_segmenters")
def test_the_three_commands_lead_from_files_to_a_table(acdc_tree, tmp_path):
    store, run, evaluation = (tmp_path / name for name in ("store", "run", "evaluation"))
    made = call(
        "preprocess", "--dataset", "acdc", "--source", acdc_tree, "--output", store,
        "--slice", "all",
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    assert "9 cases (5 train, 1 val, 3 test)" in made.stdout
    assert "contact_sheet.png" in made.stdout
    trained = call(
        "train", "--pipeline", "attri_vae_unguided", "--data", store, "--output", run,
        "--device", "cpu", "--set", "schedule.epochs=1", "--set", "schedule.steps_per_epoch=2",
        "--set", "data.batch_size=4", "--seed", 3,
    )  # fmt: skip
    assert trained.exit_code == 0, trained.output
    assert "epoch 1/1  loss" in trained.stderr
    again = call("train", "--pipeline", "attri_vae_unguided", "--data", store, "--output", run)
    assert again.exit_code == 2
    assert "holds a run; add --resume" in again.stderr
    scored = call(
        "cross-domain-eval", "--model", run, "--data", f"{store}:train", "--output", evaluation,
        "--attributes", "LVEDV,RVEDV", "--device", "cpu",
    )  # fmt: skip
    assert scored.exit_code == 0, scored.output
    assert "Table 1" in scored.stdout
    assert "cut out by the expert mask whose areas they are" in scored.stdout
    assert set(pd.read_csv(evaluation / "metrics.csv")["split"]) == {"train"}
    for done, command in ((made, "train --pipeline"), (trained, "cross-domain-eval --model"),
                          (scored, "report --evaluation")):  # fmt: skip
        assert f"Next: cardiac-attrivae {command} " in done.stdout
    assert "LVEDV" in scored.stdout
    assert (evaluation / "metrics.csv").is_file()


MISTAKES = (
    (("preprocess", "--dataset", "acdx", "--source", ".", "--output", "o"), "did you mean 'acdc'"),
    (("preprocess", "--dataset", "acdc", "--source", ".", "--output", "../elsewhere"), "acdc"),
    (("preprocess", "--dataset", "acdc", "--source", ".", "--output", "o"), "lie in one another"),
    (("preprocess", "--dataset", "acdc", "--source", "nowhere", "--output", "o"), "nowhere"),
    (
        ("train", "--pipeline", "atri_vae", "--data", ".", "--output", "o"),
        "did you mean 'attri_vae",
    ),
    (("train", "--pipeline", "attri_vae", "--data", ".", "--output", "o"), "no slice store in"),
    (
        ("train", "--pipeline", "attri_vae", "--data", ".", "--output", "o", "--set", "lr=1"),
        "unknown key lr",
    ),
    (
        ("cross-domain-eval", "--model", "x", "--data", ".", "--output", "o"),
        "no trained model in x",
    ),
    (
        ("phantom", "--dataset", "acdc", "--output", "o", "--cases", "0"),
        "cases is 0; expected 1 to 150",
    ),
    (("check", "--dataset", "mnms", "--source", "."), "mnms"),
)


def test_whole_slices_lead_to_a_segmenter_and_on_to_scans(acdc_tree, tmp_path):
    store, run = tmp_path / "store", tmp_path / "run"
    made = call(
        "preprocess", "--dataset", "acdc", "--source", acdc_tree, "--output", store,
        "--slice", "whole", "--spacing", "4", "--size", "32",
    )  # fmt: skip
    assert "Next: cardiac-attrivae train --pipeline segment_scans --data" in made.stdout
    changes = (
        "network.arguments.filters=[4, 8, 8]", "objective.window=32", "data.batch_size=4",
        "schedule.epochs=1", "schedule.steps_per_epoch=1", "precision=float32",
    )  # fmt: skip
    pairs = [word for change in changes for word in ("--set", change)]
    trained = call("train", "--pipeline", "segment_scans", "--data", store, "--output", run, *pairs)
    assert trained.exit_code == 0, trained.output
    assert f"Next: cardiac-attrivae segment --model {run} --source SCANS" in trained.stdout


@pytest.mark.parametrize(("words", "told"), MISTAKES)
def test_a_mistake_ends_with_2_and_one_message(words, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call(*words)
    assert result.exit_code == 2
    assert told in result.stderr
    assert "Traceback" not in result.output
    assert not (tmp_path / "o").exists()


def test_check_ends_with_0_on_sound_data_and_2_on_damaged(acdc_tree, tmp_path):
    import shutil

    assert call("check", "--dataset", "acdc", "--source", acdc_tree).exit_code == 0
    copy = tmp_path / "acdc"
    shutil.copytree(acdc_tree, copy)
    mask = next(copy.glob("training/*/*01_gt.nii.gz"))
    mask.write_bytes(mask.read_bytes()[:50])
    result = call("check", "--dataset", "acdc", "--source", copy)
    assert result.exit_code == 2
    assert mask.parent.name in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= max(80, len(str(copy)))


def test_phantom_refuses_a_folder_that_is_not_empty(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    result = call("phantom", "--dataset", "acdc", "--output", tmp_path, "--cases", 1)
    assert result.exit_code == 2
    assert "is not empty" in result.stderr
    assert os.listdir(tmp_path) == ["mine.txt"]


def test_demo_refuses_a_folder_that_is_not_empty_or_in_use(tmp_path):
    from cardiac_attrivae.runtime.folders import locked

    with locked(tmp_path):
        used = call("demo", "--output", tmp_path)
    (tmp_path / "mine.txt").write_text("keep")
    full = call("demo", "--output", tmp_path)
    assert (used.exit_code, full.exit_code) == (2, 2)
    assert "is being worked on by another process" in used.stderr
    assert "is not empty and was not written by cardiac-attrivae demo" in full.stderr
    assert os.listdir(tmp_path) == ["mine.txt"]


@pytest.mark.slow
def test_the_demo_runs_and_its_attributes_beat_the_model_without_them(tmp_path):
    result = call("demo", "--output", tmp_path / "demo", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "about three minutes" in result.stderr
    assert f"Open {tmp_path / 'demo' / 'report' / 'index.html'} in a browser." in result.stdout
    metrics = pd.read_csv(tmp_path / "demo" / "evaluation" / "metrics.csv")
    means = metrics.query("attribute == 'mean'")
    scores = means.groupby(["model", "metric"])["value"].mean()  # over both data sets
    with_term, without = scores["attri_vae_acdc"], scores["beta_vae_acdc"]
    assert with_term["Interpretability"] > max(0.9, without["Interpretability"] + 0.05)
    assert with_term["SAP"] > without["SAP"] + 0.05
    fixed = means.query("model == 'attri_vae_acdc' and metric == 'Interpretability_fixed'")
    assert (fixed["value"] > fixed["null_95"] + 0.3).all()  # far above what chance reaches
    assert with_term["Control"] > without["Control"] + 0.3  # the dimension turns the structure
    assert with_term["SSIM_in_mask"] > 0.3  # a black image has 0


@pytest.mark.slow
def test_two_processes_under_torchrun_train_as_one(acdc_store_all, tmp_path):
    words = [
        "-m", "cardiac_attrivae", "train", "--pipeline", "attri_sivae_unguided", "--data",
        acdc_store_all, "--device", "cpu", "--set", "network.arguments.filters=[2,4,4,4,4]",
        "--set", "schedule.epochs=2", "--set", "schedule.steps_per_epoch=1", "--set",
        "objective.vae_epochs=1", "--set", "data.batch_size=5", "--set", "precision=float32",
        "--set", "optimiser.lr=1e-6",  # Adam makes large steps of rounding errors
    ]  # fmt: skip
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    histories, texts = [], []
    for name, before in (("one", []), ("two", launch)):
        done = subprocess.run(
            [sys.executable, *before, *map(str, words), "--output", tmp_path / name],
            env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        texts.append(done.stdout)
        histories.append(pd.read_csv(tmp_path / name / "history.csv").filter(regex="^train_"))
    assert [text.count("Trained.") for text in texts] == [1, 1]
    one, two = histories
    assert {"train_attribute", "train_exp_elbo_generated"} <= {*one}
    pd.testing.assert_frame_equal(one, two, rtol=1e-4)
    assert json.loads((tmp_path / "two" / "summary.json").read_text())["processes"] == 2


def test_the_printed_configuration_is_a_pipeline_of_the_same_values(tmp_path):
    from cardiac_attrivae.training.config import load_pipeline

    changes = ("--set", "schedule.epochs=3")
    done = call("train", "--pipeline", "attri_sivae_unguided", *changes, "--print-config")
    assert done.exit_code == 0, done.output
    (tmp_path / "mine.yaml").write_text(done.stdout)
    printed = load_pipeline(tmp_path / "mine.yaml")
    assert printed == load_pipeline("attri_sivae_unguided", ["schedule.epochs=3"])
    assert "Missing option '--data'" in call("train", "--pipeline", "attri_vae").stderr


@pytest.mark.parametrize(
    ("splits", "texts"),
    [
        ({"train": 5, "val": 1, "test": 3}, []),
        ({"train": 85, "val": 15, "test": 0}, ["0 test", "--data stores/a:val"]),
        ({"train": 0, "val": 0, "test": 9}, ["0 train", "0 val"]),
        ({"train": 9, "val": 0, "test": 0}, ["0 val", "0 test", "--data stores/a:train"]),
    ],
)
def test_preprocess_says_what_to_do_about_an_empty_split(splits, texts):
    from pathlib import Path

    from cardiac_attrivae.cli.data import _empty_splits

    warnings = "\n".join(_empty_splits(splits, Path("stores/a")))
    assert bool(warnings) == bool(texts)
    for text in texts:
        assert text in warnings


@pytest.mark.skipif(sys.platform != "linux", reason="other systems forbid such names")
def test_an_output_whose_name_is_not_utf8_is_refused_and_such_data_are_read(tmp_path):
    latin = os.path.join(tmp_path, os.fsdecode(b"Universit\xe4t"))
    write_phantoms("acdc", Path(latin), cases=1, cine=False)
    command = ["preprocess", "--dataset", "acdc", "--source", latin, "--output"]
    done = call(*command, os.path.join(latin, "store"))
    assert done.exit_code == 2
    assert "Universit\\xe4t/store is not UTF-8" in done.output
    done = call(*command, tmp_path / "store")
    assert done.exit_code == 0, done.output


def test_of_many_skipped_cases_five_are_named_and_the_rest_is_counted(tmp_path):
    source, store = tmp_path / "acdc", tmp_path / "store"
    write_phantoms("acdc", source, cases=8, cine=False)
    for mask in sorted(source.rglob("*frame01_gt.nii.gz"))[:7]:
        mask.unlink()
    made = call("preprocess", "--dataset", "acdc", "--source", source, "--output", store)
    lines = made.stdout.splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("7 cases skipped"))
    assert all("no mask" in line for line in lines[at + 1 : at + 6])
    assert lines[at + 6] == "  and 2 more"
    checked = call("check", "--dataset", "acdc", "--source", source)
    assert checked.stdout.splitlines()[-1] == "1 usable case, 1 problem"
