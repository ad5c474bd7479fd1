"""The search over values of a pipeline: what is proposed, shared, stopped and written."""

import json
import math
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from cardiac_attrivae.cli.main import main
from cardiac_attrivae.data.store import SliceDataset
from cardiac_attrivae.schema import DataError
from cardiac_attrivae.training import tune as tuning
from cardiac_attrivae.training.config import load_pipeline
from cardiac_attrivae.training.search_space import Range, default_space, parse_search
from cardiac_attrivae.training.tune import tune

SHORT = (
    "schedule.epochs=2", "schedule.steps_per_epoch=2", "schedule.evaluate_every=1",
    "data.batch_size=4",
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "key", "where"),
    [
        ("optimiser.lr=1e-4:1e-2:log", "optimiser.lr", Range(1e-4, 1e-2, True)),
        ("data.batch_size=8:64", "data.batch_size", Range(8, 64)),
        ("objective.gamma=.5:2.", "objective.gamma", Range(0.5, 2.0)),
        ("data.slices=basal,all", "data.slices", ["basal", "all"]),
        ("data.batch_size=16,32", "data.batch_size", [16, 32]),
    ],
)
def test_what_is_searched_can_be_written_in_a_line(text, key, where):
    assert parse_search(text) == (key, where)


@pytest.mark.parametrize("text", ["lr", "lr=3", "lr=2:1", "lr=0:1:log", "=1:2", "lr=1:2:lin", ""])
def test_a_search_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="expected KEY=LOW:HIGH"):
        parse_search(text)


def test_by_default_what_the_pipeline_uses_is_searched_around_its_value():
    pipeline = load_pipeline("attri_vae_unguided")
    space = default_space(pipeline)
    assert space["objective.gamma"] == Range(100, 10000, True)
    assert "objective.beta_kl" not in space
    for where in space.values():
        assert math.sqrt(where.low * where.high) == pytest.approx(where.low * 10)
    floor = default_space(load_pipeline("beta_vae_fast"))
    assert "objective.gamma" not in floor
    assert "objective.beta_neg" in default_space(load_pipeline("attri_sivae_unguided"))


PREPARE = """
store = SliceDataset.open({folder!r})
patients = store.cases["case"].unique()
store.cases["split"] = store.cases["case"].isin(patients[:5]).map({{True: "val", False: "train"}})
"""


@pytest.fixture
def store(acdc_store):
    """Nine phantoms, five of them to validate on."""
    names = {"SliceDataset": SliceDataset}
    exec(PREPARE.format(folder=str(acdc_store)), names)
    return names["store"]


@pytest.fixture
def scripted(monkeypatch):
    """Trials without training: a known score of the learning rate."""

    def run(self, trial):
        rate = trial.suggest_float("optimiser.lr", *self.space["optimiser.lr"][:2], log=True)
        return -(math.log10(rate / 1e-3) ** 2)

    monkeypatch.setattr(tuning.Search, "run", run)
    monkeypatch.setattr(tuning, "draw_study", lambda study, folder: None)


SPACE = {"optimiser.lr": Range(1e-5, 1e-1, True)}


def test_the_best_value_of_a_known_function_is_found(scripted, store, tmp_path):
    study = tune("attri_vae_unguided", store, tmp_path / "s", trials=25, space=SPACE)
    assert abs(math.log10(study.best_params["optimiser.lr"] / 1e-3)) < 0.3
    best = load_pipeline(tmp_path / "s" / "best.yaml")
    assert best.optimiser.lr == study.best_params["optimiser.lr"]
    assert best.objective == load_pipeline("attri_vae_unguided").objective


@pytest.mark.parametrize("own", [True, False])
def test_the_best_pipeline_needs_no_other_file_and_holds_the_changes(
    scripted, store, tmp_path, monkeypatch, own
):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("base: attri_vae_unguided\nmethod: mine\n")
    pipeline, changes = "mine.yaml" if own else "attri_vae_unguided", ["objective.beta=2"]
    study = tune(pipeline, store, "s", trials=1, space=SPACE, changes=changes)
    expected = load_pipeline(
        pipeline, [*changes, f"optimiser.lr={study.best_params['optimiser.lr']}"]
    )
    Path("mine.yaml").unlink()
    (tmp_path / "s" / "best.yaml").rename(tmp_path / "moved.yaml")
    assert load_pipeline(tmp_path / "moved.yaml") == expected


def test_a_choice_that_a_spreadsheet_would_execute_is_quoted(store, tmp_path, monkeypatch):
    choices = ["=HYPERLINK(1)", "=HYPERLINK(2)"]
    monkeypatch.setattr(tuning, "draw_study", lambda study, folder: None)
    monkeypatch.setattr(
        tuning.Search, "run", lambda self, trial: len(trial.suggest_categorical("method", choices))
    )
    tune("attri_vae_unguided", store, tmp_path, trials=1, space={"method": choices})
    assert ",'=HYPERLINK(" in (tmp_path / "trials.csv").read_text()


def test_a_study_goes_on_and_no_other_takes_its_folder(scripted, store, tmp_path):
    first = tune("attri_vae_unguided", store, tmp_path, trials=3, space=SPACE)
    values = [trial.value for trial in first.trials]
    again = tune("attri_vae_unguided", store, tmp_path, trials=5, space=SPACE)
    assert [trial.value for trial in again.trials][:3] == values
    assert len(again.trials) == 5
    assert len(tune("attri_vae_unguided", store, tmp_path, trials=5, space=SPACE).trials) == 5
    with pytest.raises(DataError, match="another search space"):
        tune(
            "attri_vae_unguided", store, tmp_path, trials=6, space={"optimiser.lr": Range(1e-6, 1)}
        )
    with pytest.raises(DataError, match="another pipeline"):
        tune("attri_sivae_unguided", store, tmp_path, trials=6, space=SPACE)


def test_a_folder_of_somebody_is_refused_and_stays(scripted, store, tmp_path):
    for name in ("trials.csv", "best.yaml", "study.db"):
        (tmp_path / name).write_text("mine")
    with pytest.raises(DataError, match="was not written by cardiac-attrivae tune: it holds best"):
        tune("attri_vae_unguided", store, tmp_path, trials=1)
    assert {(tmp_path / name).read_text() for name in ("trials.csv", "best.yaml")} == {"mine"}


def test_values_that_the_pipeline_refuses_are_reported_before_training(store, tmp_path):
    with pytest.raises(ValueError, match=r"unknown key optimiser\.rate"):
        tune(
            "attri_vae_unguided", store, tmp_path / "a", trials=1, space={"optimiser.rate": [1, 2]}
        )
    with pytest.raises(ValueError, match=r"optimiser\.lr is 100"):
        tune(
            "attri_vae_unguided",
            store,
            tmp_path / "a",
            trials=1,
            space={"optimiser.lr": Range(1, 100)},
        )
    size = {"network.arguments.latent_size": Range(4, 99_999_999)}
    with pytest.raises(ValueError, match="latent_size is 99999999; expected a whole number from 1"):
        tune("attri_vae_unguided", store, tmp_path / "a", trials=1, space=size)
    assert not (tmp_path / "a").exists()


def test_trials_are_runs_and_the_best_can_be_trained(store, tmp_path):
    lines = []
    study = tune(
        "attri_vae_unguided", store, tmp_path, trials=2, space={"objective.beta": [1.0, 2.0]},
        changes=SHORT, tell=lines.append, device="cpu",
    )  # fmt: skip
    assert [line.split(":")[0] for line in lines] == ["trial 0, 1 of 2", "trial 1, 2 of 2"]
    for trial in study.trials:
        folder = tmp_path / "trials" / f"{trial.number:04d}"
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["epochs"] == 2
        assert not (folder / "last.pt").exists()
        config = yaml.safe_load((folder / "config.yaml").read_text())
        assert config["pipeline"]["objective"]["beta"] == trial.params["objective.beta"]
        assert 0 < trial.value < 1
    for name in ("study.png", "history.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_a_trial_that_was_killed_leaves_no_folder_and_one_at_work_keeps_its(
    scripted, store, tmp_path
):
    study = tune("attri_vae_unguided", store, tmp_path, trials=1, space=SPACE)
    trial = tuning._optuna().trial
    for number, state in (("0001", trial.TrialState.FAIL), ("0002", trial.TrialState.RUNNING)):
        study.add_trial(trial.create_trial(state=state))
        (tmp_path / "trials" / number).mkdir(parents=True)
        (tmp_path / "trials" / number / "last.pt").write_bytes(b"100 MB")
    lines: list[str] = []
    tune("attri_vae_unguided", store, tmp_path, trials=2, space=SPACE, tell=lines.append)
    assert [line.split(":")[0] for line in lines] == ["trial 3, 2 of 2"]
    assert [path.name for path in (tmp_path / "trials").iterdir()] == ["0002"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, FloatingPointError])
def test_a_trial_that_did_not_end_leaves_no_folder(store, tmp_path, monkeypatch, error):
    def broken(pipeline, store, folder, **_):
        folder.mkdir(parents=True)
        (folder / "last.pt").write_bytes(b"100 MB")
        raise error

    monkeypatch.setattr(tuning, "train", broken)
    search = tuning.Search("attri_vae_unguided", store, tmp_path, SPACE)
    study = tuning._optuna().create_study()
    with pytest.raises((error, tuning._optuna().TrialPruned)):
        search.run(study.ask())
    assert not list((tmp_path / "trials").iterdir())
    mine = tmp_path / "trials" / "0001" / "mine.txt"
    mine.parent.mkdir()
    mine.touch()
    with pytest.raises(DataError, match="is there already; choose another folder"):
        search.run(study.ask())
    assert mine.exists()


def test_an_unknown_score_is_reported_with_the_known_ones_and_can_be_mended(
    store, tmp_path, monkeypatch, caplog
):
    given = {"trials": 1, "space": {"objective.beta": [1.0, 2.0]}, "changes": SHORT}
    with pytest.raises(ValueError, match=r"score is 'Beauty'; expected one of .*SSIM_in_mask"):
        tune("attri_vae_unguided", store, tmp_path, scores=["Beauty"], device="cpu", **given)
    assert not caplog.records, "optuna would log a traceback"
    monkeypatch.setattr(tuning.Search, "run", lambda self, trial: 0.5)
    monkeypatch.setattr(tuning, "draw_study", lambda study, folder: None)
    tune("attri_vae_unguided", store, tmp_path, scores=["SSIM_in_mask"], **given)
    with pytest.raises(DataError, match=r"another score \(SSIM_in_mask, here SCC\)"):
        tune("attri_vae_unguided", store, tmp_path, scores=["SCC"], **given)


@pytest.mark.parametrize("score", ["MSE", "Sharpness"])
def test_a_score_that_should_be_low_is_refused_before_training(store, tmp_path, score):
    with pytest.raises(ValueError, match=f"score is '{score}', which is not the better the higher"):
        tune("attri_vae_unguided", store, tmp_path / "a", trials=1, space=SPACE, scores=[score])
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("score", "said"), [("loss", "expected one of"), ("val_SCC", "did you mean 'SCC'")]
)
def test_a_loss_is_not_maximised_and_val_is_left_out(store, tmp_path, monkeypatch, score, said):
    def trained(*_, tell, **__):
        tell({"epoch": 1, "train_loss": 2.0, "val_loss": 2.0, "val_SCC": 0.5, "val_MSE": 0.1})

    monkeypatch.setattr(tuning, "train", trained)
    search = tuning.Search("attri_vae_unguided", store, tmp_path, SPACE, scores=[score])
    with pytest.raises(ValueError, match=f"score is '{score}'.*{said}.* SCC$"):
        search.run(tuning._optuna().create_study().ask())


def test_a_damaged_study_is_reported_in_words(store, tmp_path):
    (tmp_path / "study.db").write_text("no database, but this is longer than a header" * 9)
    (tmp_path / ".cardiac-attrivae.json").write_text('{"command": "tune"}')
    with pytest.raises(DataError, match=r"study\.db: file is not a database\. If there is room"):
        tune("attri_vae_unguided", store, tmp_path, trials=1, space=SPACE)


def test_a_value_that_is_fixed_is_not_searched(store, tmp_path):
    with pytest.raises(ValueError, match=r"optimiser\.lr is fixed and searched; leave out its --s"):
        tune("attri_vae_unguided", store, tmp_path, trials=1, space=SPACE,
             changes=["optimiser.lr=1e-3"])  # fmt: skip


@pytest.mark.slow
def test_two_processes_share_one_study(store, tmp_path):
    program = f"""
import time
from cardiac_attrivae.training import tune as tuning
from cardiac_attrivae.data.store import SliceDataset
{PREPARE.format(folder=str(store.folder))}
def run(self, trial):
    time.sleep(0.2)
    return trial.suggest_float("optimiser.lr", 1e-5, 1e-1, log=True)
tuning.Search.run = run
tuning.draw_study = lambda study, folder: None
tuning.tune("attri_vae_unguided", store, {str(tmp_path)!r}, trials=12,
          space={{"optimiser.lr": tuning.Range(1e-5, 1e-1, True)}})
"""
    both = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(2)]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    study = tuning._optuna().load_study(
        study_name="study", storage=tuning._storage(tmp_path / "study.db")
    )
    done = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    assert 12 <= len(done) <= 13
    assert len({trial.number for trial in done}) == len(done)


def test_the_command_says_what_it_found(scripted, store, tmp_path, monkeypatch):
    monkeypatch.setattr(SliceDataset, "open", lambda folder: store)
    output = tmp_path / "study"
    result = CliRunner().invoke(main, [
        "tune", "--pipeline", "attri_vae_unguided", "--data", str(store.folder),
        "--output", str(output), "--trials", "2", "--search", "optimiser.lr=1e-5:1e-1:log",
    ])  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "trial 1, 2 of 2" in result.output
    assert "base: attri_vae_unguided" in result.output
    line = next(line for line in result.output.splitlines() if line.startswith("Next: "))
    words = shlex.split(line)
    monkeypatch.chdir("/")
    assert load_pipeline(words[words.index("--pipeline") + 1]).method == "attri_vae_unguided"
    assert Path(words[words.index("--data") + 1]) == store.folder
