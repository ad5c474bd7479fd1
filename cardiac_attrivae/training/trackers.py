"""MLflow and Weights & Biases record a run while it trains, through handlers of MONAI and Ignite.

A tracker that fails never stops a training: it is left out with a warning. Nothing is sent that
describes the machine, such as the path of the store.
"""

from __future__ import annotations

import json
import os
import socket
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from math import isnan
from pathlib import Path
from secrets import token_hex
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit
from urllib.request import getproxies

import pandas as pd
from ignite.engine import Engine, Events, State

from ..runtime.files import write
from ..runtime.provenance import install_line
from ..schema import DataError

ACCEPTED = "expected mlflow, mlflow:URI, wandb or wandb:PROJECT"
NAME = "cardiac-attrivae"
"""Experiment of MLflow, unless MLFLOW_EXPERIMENT_NAME names another."""
FILE = "trackers.json"
"""File in the folder of a tracked run with its id, so that a resumed run is the same one there."""
SUMMARY = "summary.json"
UNSENT = ("store",)
"""Keys of summary.json that are not sent."""
PRIVATE = {
    "console": "off",  # what is printed names folders
    "disable_code": True,
    "disable_git": True,
    "host": "",
    "x_disable_machine_info": True,
    "x_disable_meta": True,  # the command with its paths, the host, the user
    "x_disable_stats": True,
}
"""Settings of Weights & Biases."""


class Tracked(NamedTuple):
    """What a tracker knows about a run from the start."""

    id: str  # id of this run alone; the same when it is resumed
    name: str  # name that is shown; it contains the id
    parameters: dict[str, Any]  # dotted key -> value, everything that is known before training


class Tracker(Protocol):
    """A place that records runs. Its methods may raise any exception.

    It is made from the text after the colon (may be empty), a `Tracked` and the trainer.
    """

    def log(self, row: Mapping[str, float]) -> None:
        """Takes a row of history.csv, without what is empty there."""

    def keep(self, figures: Sequence[Path], files: Sequence[Path], summary: dict) -> None:
        """Takes what a run leaves."""

    def close(self, failed: bool) -> None:
        """Ends the run."""


class MLflow:
    """A `Tracker` around `monai.handlers.MLFlowHandler`."""

    def __init__(self, target: str, run: Tracked, engine: Engine) -> None:
        from monai.handlers import MLFlowHandler

        _require_server(target or os.environ.get("MLFLOW_TRACKING_URI", ""))
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or NAME
        self.handler = MLFlowHandler(
            target or None,
            experiment_name=experiment,
            run_name=run.name,
            experiment_param=run.parameters,
        )
        self._take_up(experiment, run)
        self.handler.start(engine)

    def _take_up(self, experiment: str, run: Tracked) -> None:
        """Goes on with a run of this id; the handler would not with one that was finished."""
        known = self.handler.client.get_experiment_by_name(experiment)
        filter_by_name = f"attributes.run_name LIKE '%{run.id}'"
        runs = known and self.handler.client.search_runs([known.experiment_id], filter_by_name)
        if runs:
            self.handler.cur_run = runs[0]
            self.handler.experiment_param = None  # cannot be changed there
            self.handler.client.update_run(runs[0].info.run_id, status="RUNNING")

    def log(self, row: Mapping[str, float]) -> None:
        engine = Engine(lambda engine, batch: None)  # the handler logs what an engine's state holds
        engine.state = State(metrics=dict(row), epoch=row["epoch"])
        self.handler.epoch_completed(engine)

    def keep(self, figures: Sequence[Path], files: Sequence[Path], summary: dict) -> None:
        self.handler.artifacts = (*figures, *files)
        self.handler.complete()
        run: Any = self.handler.cur_run  # MONAI declares it as None
        self.handler.client.log_dict(run.info.run_id, summary, SUMMARY)

    def close(self, failed: bool) -> None:
        if failed:
            self.handler.run_finish_status = "FAILED"
        self.handler.close()


class WandB:
    """A `Tracker` around `ignite.handlers.wandb_logger.WandBLogger`."""

    def __init__(self, target: str, run: Tracked, engine: Engine) -> None:
        from ignite.handlers.wandb_logger import WandBLogger

        self.logger = WandBLogger(
            project=target or None,
            id=run.id,
            name=run.name,
            resume="allow",
            config=run.parameters,
            settings=PRIVATE,
        )
        self.id = run.id

    def log(self, row: Mapping[str, float]) -> None:
        self.logger.log(dict(row), step=row["epoch"])

    def keep(self, figures: Sequence[Path], files: Sequence[Path], summary: dict) -> None:
        self.logger.log({f"figures/{f.stem}": self.logger.Image(str(f)) for f in figures})
        artifact = self.logger.Artifact(f"run-{self.id}", type="run")
        for file in (*figures, *files):
            artifact.add_file(str(file))
        with artifact.new_file(SUMMARY) as stream:
            stream.write(json.dumps(summary, indent=2))
        self.logger.log_artifact(artifact)

    def close(self, failed: bool) -> None:
        if failed:
            self.logger.finish(exit_code=1)
        else:
            self.logger.close()


TRACKERS: dict[str, Callable[[str, Tracked, Engine], Tracker]] = {"mlflow": MLflow, "wandb": WandB}
"""By the name of the package, which is that of the extra, too."""


def parse_trackers(specifications: Iterable[str]) -> dict[str, str]:
    """Reads texts such as ``mlflow:sqlite:///runs.db``: name of a tracker -> where it keeps runs.
    Refuses one that is unknown, named twice, not installed, or whose address is of no use."""
    targets: dict[str, str] = {}
    for text in specifications:
        name, _, target = text.partition(":")
        if name not in TRACKERS:
            raise ValueError(f"unknown tracker {text!r}; {ACCEPTED}")
        if name in targets:
            raise ValueError(f"tracker {name} is named twice; name each at most once")
        package = find_spec(name)
        if package is None or package.origin is None:  # W&B's own folder is called wandb, too
            raise ValueError(f"tracker {name} is not installed: {install_line(name)}")
        if name == "mlflow" and target:
            _check_address(target)
        targets[name] = target
    return targets


def _check_address(target: str) -> None:
    if "://" not in target or target.startswith("file:"):
        raise ValueError(
            f"tracker mlflow:{target} is no address of MLflow; expected sqlite:///FILE.db, the "
            "address of another data base, or http(s)://SERVER"
        )
    if os.environ.get("MLFLOW_TRACKING_URI", target) != target:  # the handler would prefer it
        raise ValueError(
            f"tracker mlflow:{target}, but MLFLOW_TRACKING_URI names another place; "
            "unset it, or give --track mlflow alone"
        )


def _require_server(address: str, seconds: float = 10) -> None:
    """Raises a ConnectionError if no server answers at an address of HTTP. MLflow itself would ask
    for minutes, without a word, while the training waits. Behind a proxy nobody can tell."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or parts.scheme in getproxies():
        return
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    try:
        socket.create_connection((parts.hostname or "", port), seconds).close()
    except OSError as error:
        why = error.strerror or error
        raise ConnectionError(f"{parts.scheme}://{parts.hostname}:{port}: {why}") from None


class Tracking:
    """Passes a run on to trackers from the time it is entered until it is left.

    Args:
        targets: See `parse_trackers`.
        folder: The folder of the run.
        configuration: Nested values that are known before training.
        rows: Returns the rows of history.csv; the last one is of the epoch just completed.
    """

    def __init__(
        self,
        targets: Mapping[str, str],
        folder: Path,
        configuration: Mapping[str, Any],
        rows: Callable[[], Sequence[Mapping[str, float]]],
    ) -> None:
        self.targets, self.folder, self.rows = targets, folder, rows
        self.configuration = configuration
        self.trackers: dict[str, Tracker] = {}

    def attach(self, engine: Engine) -> None:
        """Begins; after `handlers.History`, which adds the rows."""
        if not self.targets:
            return
        run = tracked(self.folder, self.configuration)
        for name, target in self.targets.items():
            with self._harmless(name):
                self.trackers[name] = TRACKERS[name](target, run, engine)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        row = {name: value for name, value in self.rows()[-1].items() if not isnan(value)}
        for name, tracker in list(self.trackers.items()):
            with self._harmless(name):
                tracker.log(row)

    def keep(self) -> None:
        """Hands over the files of a run that is complete."""
        figures = sorted((self.folder / "figures").glob("*.png"))
        files = [self.folder / name for name in ("model.safetensors", "config.yaml")]
        summary = json.loads((self.folder / SUMMARY).read_text(encoding="utf-8"))
        sent = {key: value for key, value in summary.items() if key not in UNSENT}
        for name, tracker in list(self.trackers.items()):
            with self._harmless(name):
                tracker.keep(figures, files, sent)

    def close(self, failed: bool) -> None:
        """Ends the run at all trackers."""
        for name, tracker in list(self.trackers.items()):
            with self._harmless(name):
                tracker.close(failed)

    @contextmanager
    def _harmless(self, name: str) -> Any:
        try:
            yield
        except Exception as error:  # anything: it is another's code, and perhaps a network
            self.trackers.pop(name, None)
            why = " ".join(str(error).split())[:300]
            warnings.warn(
                f"tracker {name} failed; the training goes on without it: "
                f"{type(error).__name__}: {why}",
                stacklevel=4,
            )


def tracked(folder: Path, configuration: Mapping[str, Any]) -> Tracked:
    """Returns a run under the id in its folder; without one it is given one, which is written
    there."""
    file = folder / FILE
    if not file.is_file():
        write(file, json.dumps({"id": token_hex(8)}) + "\n")
    try:
        id = json.loads(file.read_bytes())["id"]
        int(id, 16)  # it becomes part of a query
    except (ValueError, TypeError, KeyError):
        raise DataError(f"{file} holds no id of a run; remove it to track a new one") from None
    (flat,) = pd.json_normalize(dict(configuration), sep=".").to_dict("records")
    parameters = {str(key): value for key, value in flat.items()}
    return Tracked(id, f"{folder.resolve().name} {id}", parameters)
