"""Trackers: what they are told is what the run wrote, and the run does not depend on them."""

import hashlib
import io
import json
import os
import socket
import struct
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import yaml
from click.testing import CliRunner
from ignite.engine import Engine, Events
from PIL import Image
from safetensors.torch import load_file

from cardiac_attrivae.cli.main import main
from cardiac_attrivae.schema import DataError
from cardiac_attrivae.training import trackers
from cardiac_attrivae.training.config import parse_pipeline
from cardiac_attrivae.training.records import Records
from cardiac_attrivae.training.trackers import TRACKERS, parse_trackers, tracked
from cardiac_attrivae.training.verify import verify_run
from cardiac_attrivae.training.workflow import TrainingWorkflow

TINY = parse_pipeline(
    {
        "method": "tiny",
        "attributes": ["LVEDV", "RVEDA"],
        "network": {"arguments": {"latent_size": 4, "image_size": 32}},
        "data": {"batch_size": 8},
        "schedule": {"epochs": 4, "evaluate_every": 2},
    }
)
# SQLAlchemy 2.1 and opentelemetry say to MLflow and wandb what they should not use any more
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path_factory):
    """No network, and nothing written outside of the temporary folder."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    for name, value in {"MODE": "offline", "SILENT": "true", "ERROR_REPORTING": "false"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    for name in ("DIR", "CACHE_DIR", "DATA_DIR", "CONFIG_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path_factory.mktemp("wandb")))


def workflow_of(data, folder, **options):
    return TrainingWorkflow(TINY, data, data, folder, device="cpu", **options)


def run(workflow):
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    return workflow.output


class Interrupt:
    """Ctrl-C after the second of four epochs."""

    def attach(self, engine):
        engine.add_event_handler(Events.EPOCH_STARTED(once=3), self)

    def __call__(self, engine):
        raise KeyboardInterrupt


def break_off(data, folder, **options):
    with pytest.raises(KeyboardInterrupt):
        run(workflow_of(data, folder, handlers=(Interrupt(),), **options))


@pytest.fixture(scope="module")
def untracked(drawn_slices, tmp_path_factory):
    """A run that nobody is told of."""
    folder = run(workflow_of(drawn_slices, tmp_path_factory.mktemp("untracked") / "run"))
    assert not (folder / trackers.FILE).exists()
    return folder


def same(one, other):
    one, other = (load_file(folder / "model.safetensors") for folder in (one, other))
    return all(one[name].equal(other[name]) for name in one.keys() | other.keys())


def rows_of(folder):
    """Of history.csv, without the scores that an epoch does not have."""
    table = pd.read_csv(folder / "history.csv", float_precision="round_trip")
    return [row.dropna().to_dict() for _, row in table.iterrows()]


def left_by(folder):
    """What a tracker is given as it is."""
    figures = sorted((folder / "figures").iterdir())
    assert [f.stem for f in figures] == ["reconstructions", "training_curves", "traversals"]
    return [*figures, folder / "model.safetensors", folder / "config.yaml"]


def digests(files):
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def without_store(folder):
    summary = json.loads((folder / "summary.json").read_text())
    assert summary.pop("store")
    return summary


# TensorBoard --------------------------------------------------------------------------------------


def test_tensorboard_shows_configuration_rows_and_figures(untracked):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(untracked / "tensorboard"))
    board.Reload()
    tags = board.Tags()
    (text,) = board.Tensors("configuration/text_summary")
    shown = text.tensor_proto.string_val[0].decode()
    assert textwrap.dedent(shown) == (untracked / "config.yaml").read_text()
    columns = {name.replace("_", "/", 1) for row in rows_of(untracked) for name in row}
    assert columns - {"epoch"} <= set(tags["scalars"])
    assert sorted(tags["images"]) == [f"figures/{f.stem}" for f in left_by(untracked)[:3]]
    for name in tags["images"]:
        (picture,) = board.Images(name)
        drawn = Image.open(untracked / f"{name}.png").convert("RGB")
        assert picture.step == 4
        assert Image.open(io.BytesIO(picture.encoded_image_string)).tobytes() == drawn.tobytes()


# MLflow -------------------------------------------------------------------------------------------


def test_mlflow_goes_on_with_a_broken_off_run_and_holds_all_of_it(
    drawn_slices, untracked, tmp_path
):
    mlflow = pytest.importorskip("mlflow")
    uri, folder = f"sqlite:///{tmp_path / 'runs.db'}", tmp_path / "run"
    options = {"trackers": [f"mlflow:{uri}"]}
    break_off(drawn_slices, folder, **options)
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("cardiac-attrivae").experiment_id
    (broken,) = client.search_runs([experiment])
    assert broken.info.status == "FAILED"

    run(workflow_of(drawn_slices, folder, resume=True, **options))
    (kept,) = client.search_runs([experiment])
    assert (kept.info.run_id, kept.info.status) == (broken.info.run_id, "FINISHED")
    assert same(untracked, folder)

    told = yaml.safe_load((folder / "config.yaml").read_text())
    for key, value in {
        "pipeline.network.arguments.latent_size": 4,
        "pipeline.attributes": ["LVEDV", "RVEDA"],
        "pipeline.schedule.epochs": 4,
        "seed": 0,
        "data": "drawn",
        "content_hash": told["content_hash"],
        "versions.torch": json.loads((folder / "summary.json").read_text())["versions"]["torch"],
        "max_epochs": 4,
    }.items():
        assert kept.data.params[key] == str(value)

    rows = rows_of(folder)
    assert ["val_loss" in row for row in rows] == [False, True, False, True]
    columns = set().union(*rows)
    assert {"lr", "train_loss", "val_Interpretability/LVEDV"} <= columns
    for column in columns:
        history = client.get_metric_history(kept.info.run_id, column)
        sent = sorted((entry.step, entry.value) for entry in history)
        assert sent == [(row["epoch"], row[column]) for row in rows if column in row]
    assert columns == kept.data.metrics.keys()

    artifacts = tmp_path / "mlruns" / kept.info.run_id / "artifacts"
    assert json.loads((artifacts / "summary.json").read_text()) == without_store(folder)
    (artifacts / "summary.json").unlink()
    assert digests(artifacts.iterdir()) == digests(left_by(folder))

    assert kept.data.tags.keys() == {"mlflow.runName"}
    assert str(drawn_slices.folder).encode() not in (tmp_path / "runs.db").read_bytes()
    assert all(finding.holds for finding in verify_run(folder) if finding.what != "data")


# Weights & Biases ---------------------------------------------------------------------------------


def records(file):
    """Of a .wandb file: a header of 7 bytes, then blocks of 32 KiB as in LevelDB's log."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, parts = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, size, kind = struct.unpack_from("<IHB", data, place)
        parts += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(parts)
            parts = b""


def values_of(items):
    return {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}


def test_wandb_holds_configuration_rows_and_files_and_no_machine(drawn_slices, untracked, tmp_path):
    pytest.importorskip("wandb")
    folder = tmp_path / "run"
    run(workflow_of(drawn_slices, folder, trackers=["wandb:hearts"]))
    assert same(untracked, folder)

    (file,) = Path(os.environ["WANDB_DIR"]).glob("wandb/offline-run-*/*.wandb")
    found = list(records(file))
    (begun,) = (record.run for record in found if record.WhichOneof("record_type") == "run")
    id = json.loads((folder / "trackers.json").read_text())["id"]
    assert (begun.run_id, begun.project) == (id, "hearts")
    configuration = values_of(begun.config.update)
    assert configuration["pipeline.attributes"] == ["LVEDV", "RVEDA"]
    assert configuration["pipeline.network.arguments.latent_size"] == 4
    assert (configuration["seed"], configuration["data"]) == (0, "drawn")
    assert {"versions.torch", "content_hash"} <= configuration.keys()

    history = [values_of(r.history.item) for r in found if r.WhichOneof("record_type") == "history"]
    rows = rows_of(folder)
    for sent, row in zip(history, rows, strict=True):
        assert row == {name: sent[name] for name in row}
    for figure in (folder / "figures").iterdir():
        shown = file.parent / "files" / history[-1][f"figures/{figure.stem}/path"]
        assert shown.read_bytes() == figure.read_bytes()

    (artifact,) = (
        r.request.log_artifact.artifact if r.HasField("request") else r.artifact
        for r in found
        if r.WhichOneof("record_type") == "artifact"
    )
    entries = {entry.path: Path(entry.local_path) for entry in artifact.manifest.contents}
    sent = entries.pop("summary.json")
    assert json.loads(sent.read_text()) == without_store(folder)
    assert digests(left_by(folder)) == {
        name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in entries.items()
    }

    told = "".join(map(str, found))
    for text in (str(drawn_slices.folder), f'"{socket.gethostname()}"', str(Path(__file__).parent)):
        assert text not in told


# Neither ------------------------------------------------------------------------------------------


class Recorder:
    """A tracker that may fail in one of its methods."""

    fails = None
    told = []

    def __init__(self, target, run, engine):
        self.tell("start", target, run.id)

    def tell(self, *what):
        self.told.append(what)
        if what[0] == self.fails:
            raise ConnectionError("the server\nis down")

    def log(self, row):
        self.tell("log", row["epoch"])

    def keep(self, figures, files, summary):
        self.tell("keep", *(file.name for file in (*figures, *files)))

    def close(self, failed):
        self.tell("close", failed)


@pytest.fixture
def recorder(monkeypatch):
    """Stands for MLflow, whether that is installed or not; runs draw nothing."""
    monkeypatch.setattr(Records, "draw", lambda self: None)
    monkeypatch.setitem(TRACKERS, "mlflow", Recorder)
    monkeypatch.setattr(trackers, "find_spec", {"mlflow": SimpleNamespace(origin="installed")}.get)
    monkeypatch.setattr(Recorder, "told", [])
    return Recorder


@pytest.mark.parametrize(
    ("fails", "told"),
    [
        ("start", ["start"]),
        ("log", ["start", "log"]),
        ("keep", ["start", *4 * ["log"], "keep"]),
        ("close", ["start", *4 * ["log"], "keep", "close"]),
    ],
)
def test_a_tracker_that_fails_costs_a_warning(
    drawn_slices, untracked, recorder, monkeypatch, tmp_path, fails, told
):
    monkeypatch.setattr(recorder, "fails", fails)
    said = "mlflow failed; the training goes on without it: ConnectionError: the server is down"
    with pytest.warns(UserWarning, match=said) as warned:
        folder = run(workflow_of(drawn_slices, tmp_path / "run", trackers=["mlflow"]))
    assert len(warned) == 1
    assert [what for what, *_ in recorder.told] == told
    assert same(untracked, folder)


def test_a_server_that_is_not_there_is_noticed_before_mlflow_asks_for_minutes(
    monkeypatch, tmp_path
):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("monai.handlers.MLFlowHandler", lambda *_, **__: pytest.fail("was asked"))
    with socket.socket() as free:  # bound, and listening to nobody
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(ConnectionError, match=f"^{address}: Connection refused"):
            trackers.MLflow(address, tracked(tmp_path, {}), Engine(lambda engine, batch: None))


def test_a_broken_off_run_is_closed_as_failed_and_keeps_its_id(drawn_slices, recorder, tmp_path):
    target, folder = "https://server", tmp_path / "run"
    options = {"trackers": [f"mlflow:{target}"]}
    break_off(drawn_slices, folder, **options)
    run(workflow_of(drawn_slices, folder, resume=True, **options))
    begun = recorder.told[0]
    assert begun[:2] == ("start", target)
    epochs = [("log", epoch) for epoch in (1, 2, 3, 4)]
    kept = ("keep", "model.safetensors", "config.yaml")
    assert recorder.told == [
        begun, *epochs[:2], ("close", True), begun, *epochs[2:], kept, ("close", False)
    ]  # fmt: skip

    recorder.told.clear()
    run(workflow_of(drawn_slices, folder, overwrite=True, **options))
    assert recorder.told[0] != begun  # another run under the same name


def test_only_the_first_process_tracks(drawn_slices, recorder, monkeypatch, tmp_path):
    monkeypatch.setattr("cardiac_attrivae.training.records.is_first", lambda: False)
    workflow = workflow_of(drawn_slices, tmp_path / "run", trackers=["mlflow"])
    workflow.initialize()
    workflow.run()
    assert recorder.told == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["neptune"], "unknown tracker 'neptune'; expected mlflow, mlflow:URI, wandb or wandb:P"),
        ([""], "unknown tracker ''"),
        (["mlflow", "mlflow:https://server"], "mlflow is named twice"),
        (["wandb:hearts"], "wandb is not installed: pip install .*wandb"),
        (["mlflow:runs.db"], "no address of MLflow; expected sqlite:///FILE.db"),
        (["mlflow:file:///runs"], "no address of MLflow"),
    ],
)
def test_what_cannot_be_tracked_is_refused(recorder, given, message):
    with pytest.raises(ValueError, match=message):
        parse_trackers(given)


def test_the_folder_that_wandb_writes_is_not_taken_for_the_package(monkeypatch, tmp_path):
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(ValueError, match="tracker wandb is not installed"):
        parse_trackers(["wandb"])


def test_an_address_is_not_silently_replaced_by_that_of_the_environment(recorder, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://elsewhere")
    assert parse_trackers(["mlflow"]) == {"mlflow": ""}
    assert parse_trackers(["mlflow:https://elsewhere"]) == {"mlflow": "https://elsewhere"}
    with pytest.raises(ValueError, match="MLFLOW_TRACKING_URI names another place"):
        parse_trackers(["mlflow:https://server"])


def test_a_run_has_one_id_and_flat_parameters(tmp_path):
    one = tracked(tmp_path, {"pipeline": {"data": {"batch_size": 8}, "attributes": ["LVEDV"]}})
    assert one.parameters == {"pipeline.data.batch_size": 8, "pipeline.attributes": ["LVEDV"]}
    assert tracked(tmp_path, {}).id == one.id
    assert one.name == f"{tmp_path.name} {one.id}"


@pytest.mark.parametrize(
    "damage", [b"", b"[]", b"{}", b'{"id": 5}', b'{"id": "%\' OR 1"}', b"\xff"]
)
def test_a_damaged_id_is_refused(tmp_path, damage):
    (tmp_path / "trackers.json").write_bytes(damage)
    with pytest.raises(DataError, match="holds no id of a run; remove it"):
        tracked(tmp_path, {})


def test_the_command_hands_trackers_on(acdc_store, tmp_path):
    words = [
        "train",
        "--pipeline",
        "attri_vae_unguided",
        "--data",
        acdc_store,
        "--output",
        tmp_path,
    ]
    done = CliRunner().invoke(main, [*map(str, words), "--track", "neptune:hearts"])
    assert done.exit_code == 2
    assert "unknown tracker 'neptune:hearts'; expected mlflow" in done.stderr
