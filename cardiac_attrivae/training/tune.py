"""Searches for values of a pipeline that score best on the validation patients, with Optuna.

Several processes may work on one study: each runs the same command with the same output. A trial
that was interrupted is tried once more by another process, or when the command is run again.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from filelock import FileLock

from ..data.store import SliceDataset
from ..metrics.catalogue import EVERY
from ..metrics.metric import Good
from ..models.networks import KNOWN, build_network, sizes_only
from ..runtime.files import atomic_file, write
from ..runtime.folders import LOCK, locked
from ..runtime.outputs import claim, require_new
from ..runtime.provenance import require_packages
from ..runtime.spreadsheet import csv_text
from ..runtime.yaml_files import nearest
from ..schema import DataError
from .config import load_pipeline, overridden, read_pipeline, shipped_pipelines
from .fitted import fitted
from .guidance import MakeGuide
from .search_space import Range, Space, default_space, propose
from .workflow import train

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

SCORES = ("Interpretability", "SSIM_in_mask")
"""Their mean over the validation patients is maximised: one says whether the codes carry the
attributes, the other whether they still draw a heart."""

WORDS = {
    "pipeline": "pipeline",
    "space": "search space",
    "changes": "--set",
    "scores": "score",
    "content_hash": "store",
}
"""How a message calls what must be the same for a study to be continued."""

HEARTBEAT = 60
"""Seconds between signs of life of a process; after three without one, its trial is given up."""


@dataclass(frozen=True)
class Search:
    """What one study does; `tune` explains the fields."""

    pipeline: str | Path
    store: SliceDataset
    output: Path
    space: Space
    changes: Sequence[str] = ()
    scores: Sequence[str] = SCORES
    seed: int = 0
    device: str = "auto"
    guide: MakeGuide | None = None

    def check(self) -> None:
        """Refuses, before hours are spent, what the pipeline or the data would refuse later."""
        for score in self.scores:
            if not _maximised(score):
                raise ValueError(
                    f"score is {score!r}, which is not the better the higher it is; expected one "
                    f"that is, such as {SCORES[-1]}"
                )
        fixed = {change.partition("=")[0] for change in self.changes}
        if both := sorted(fixed & {*self.space}):
            raise ValueError(
                f"{both[0]} is fixed and searched; leave out its --set or its --search"
            )
        ends = {k: list(v[:2]) if isinstance(v, Range) else list(v) for k, v in self.space.items()}
        for i in range(max(map(len, ends.values()), default=0)):
            values = {key: choices[min(i, len(choices) - 1)] for key, choices in ends.items()}
            pipeline = load_pipeline(self.pipeline, [*self.changes, *_overrides(values)])
            network = fitted(pipeline, self.store.split("train")).network
            if network.name in KNOWN:  # other code may need real values to be built
                with sizes_only():
                    build_network(network.name, **network.arguments)
        if self.store.split("val").cases["case"].nunique() < 5:
            raise DataError(
                f"{self.store.folder} has fewer than 5 val patients; nothing can be scored. "
                "Preprocess a data set whose manifest has a val split, or holds some cases out"
            )

    @cached_property
    def about(self) -> dict[str, Any]:
        """What must be the same for a study to be continued."""
        about = {
            "pipeline": load_pipeline(self.pipeline, self.changes).to_dict(),
            "space": {key: list(where) for key, where in self.space.items()},
            "changes": list(self.changes),
            "scores": list(self.scores),
            "content_hash": self.store.info["content_hash"],
        }
        return json.loads(json.dumps(about))

    def folder(self, trial: Trial | FrozenTrial) -> Path:
        """Folder of the run of a trial."""
        return self.output / "trials" / f"{trial.number:04d}"

    def run(self, trial: Trial) -> float:
        """Trains with proposed values; returns the mean of the scores at the last validation. A
        trial is pruned if the scores fall behind, or the training diverges."""
        from optuna import TrialPruned

        proposed = {key: propose(trial, key, where) for key, where in self.space.items()}
        last = float("nan")

        def watch(row: dict[str, float]) -> None:
            nonlocal last
            measured = [name[4:] for name in row if name.startswith("val_")]
            if measured:  # what is also measured in training is a loss, which should be small
                known = [n for n in measured if f"train_{n}" not in row and _maximised(n)]
                for name in self.scores:
                    if name not in known:
                        raise ValueError(
                            f"score is {name!r}{nearest(name, known)}; expected one of "
                            f"{', '.join(sorted(known))}"
                        )
                last = sum(row[f"val_{name}"] for name in self.scores) / len(self.scores)
                trial.report(last, int(row["epoch"]))
                if trial.should_prune():
                    raise TrialPruned

        pipeline = load_pipeline(self.pipeline, [*self.changes, *_overrides(proposed)])
        folder = self.folder(trial)
        require_new(folder)  # of a study that was removed, say
        try:
            train(
                pipeline, self.store, folder,
                device=self.device, seed=self.seed, tell=watch, guide=self.guide,
            )  # fmt: skip
        except BaseException as error:  # Ctrl-C, too: it is not continued, but tried anew
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, FloatingPointError):
                raise TrialPruned(str(error)) from None
            raise
        for checkpoint in ("last.pt", "best.pt"):  # those of a hundred trials would fill the disk
            (folder / checkpoint).unlink(missing_ok=True)
        return last

    def remove_failed(self, study: Study) -> None:
        """Removes what trials left that were killed, unless their process lives after all."""
        from optuna.trial import TrialState

        for trial in study.get_trials(deepcopy=False, states=(TrialState.FAIL,)):
            if (folder := self.folder(trial)).is_dir():
                with suppress(DataError), locked(folder):
                    shutil.rmtree(folder)

    def write(self, study: Study) -> None:
        """Writes trials.csv and, of the finished trials, best.yaml and pictures."""
        write(self.output / "trials.csv", csv_text(study.trials_dataframe()))
        if not _has_best(study):
            return
        name = str(self.pipeline)  # a file's values are copied: best.yaml may be moved and sent
        values = {"base": name} if name in shipped_pipelines() else read_pipeline(name)
        best = overridden(values, [*self.changes, *_overrides(study.best_params)])
        title = (
            f"# Trial {study.best_trial.number} of {len(study.trials)}: {study.best_value:.4f}\n"
        )
        write(self.output / "best.yaml", title + yaml.safe_dump(best, sort_keys=False))
        draw_study(study, self.output)


def tune(
    pipeline: str | Path,
    store: SliceDataset,
    output: str | Path,
    *,
    trials: int,
    space: Space | None = None,
    changes: Sequence[str] = (),
    scores: Sequence[str] = SCORES,
    seed: int = 0,
    device: str = "auto",
    tell: Callable[[str], None] = lambda message: None,
    guide: MakeGuide | None = None,
) -> Study:
    """Trains with values that Optuna proposes until the study has its trials.

    Writes study.db (the study, in sqlite), trials.csv, best.yaml (a pipeline that needs no other
    file), study.png, history.png and, in ``trials/``, a run per finished trial. A trial whose
    scores are below the median of the others at the same epoch is stopped.

    Args:
        pipeline: Name or YAML file.
        store: Slices; trained on its train split, scored on its val split.
        output: Folder to write; a study in it is continued.
        trials: Number of trials, finished or stopped, that all processes do together.
        space: What is searched; None stands for `default_space`.
        changes: ``KEY=VALUE``, applied to the pipeline in all trials.
        scores: Columns of history.csv without ``val_``; their mean is maximised.
        seed: Random seed of each training; what Optuna proposes differs from study to study.
        device: See `find_device`.
        tell: Called with a line per trial.
        guide: See `TrainingWorkflow`.

    Raises:
        ValueError: If a key or value of the space is not accepted by the pipeline, or Optuna is not
            installed.
        DataError: If the folder holds another study, or there are too few patients to score on.
    """
    _optuna()
    space = dict(space or default_space(load_pipeline(pipeline, changes)))
    search = Search(pipeline, store, Path(output), space, changes, scores, seed, device, guide)
    search.check()
    search.output.mkdir(parents=True, exist_ok=True)
    with _explained(search.output / "study.db"):
        return _carry_on(search, trials, tell)


def _carry_on(search: Search, trials: int, tell: Callable[[str], None]) -> Study:
    """Creates or opens the study of a search, and runs the trials that it lacks; see `tune`."""
    import optuna

    with FileLock(search.output / LOCK):  # one of several processes creates the tables
        claim(search.output, "tune")
        study = optuna.create_study(
            storage=_storage(search.output / "study.db"),
            study_name="study",
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=5),
        )
        _same_study(study, search)

    states = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)

    def report(study: Study, trial: FrozenTrial) -> None:
        search.write(study)
        line = "stopped" if trial.state.name == "PRUNED" else f"{trial.value:.3f}"
        done = study.get_trials(deepcopy=False, states=states)
        if _has_best(study):
            line += f"  best {study.best_value:.3f} (trial {study.best_trial.number})"
        tell(f"trial {trial.number}, {len(done)} of {trials}: {line}")

    enough = optuna.study.MaxTrialsCallback(trials, states=states)
    if len(study.get_trials(deepcopy=False, states=states)) < trials:
        study.optimize(search.run, callbacks=[report, enough])
    search.remove_failed(study)
    search.write(study)
    return study


@contextmanager
def _explained(file: Path) -> Iterator[None]:
    """Says in words what a database could not do, where it is damaged or the disk is full."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (StorageInternalError, SQLAlchemyError) as error:
        cause = error if isinstance(error, SQLAlchemyError) else error.__cause__
        raise DataError(
            f"{file}: {getattr(cause, 'orig', None) or cause or error}. If there is room on the "
            "disk, the study is damaged and cannot be continued; choose another folder"
        ) from None


def draw_study(study: Study, folder: Path) -> None:
    """Draws Optuna's pictures: the score against each value (study.png) and over the trials."""
    import matplotlib
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator
    from optuna.visualization.matplotlib import plot_optimization_history, plot_slice

    matplotlib.use("Agg")
    for name, draw in (("study", plot_slice), ("history", plot_optimization_history)):
        # they are experimental, and a single trial makes an axis of no length
        with warnings.catch_warnings(action="ignore"), matplotlib.rc_context():
            draw(study)
            figure = pyplot.gcf()
            axes = figure.axes  # the last of study.png tells colours of trials
            figure.set_size_inches(max(7, 3.5 * len(axes)), 4)
            if name == "study":
                for axis in axes[:-1]:  # numbers lie side by side in less than ten times
                    axis.tick_params(axis="x", which="both", labelrotation=45)
            else:
                axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
            with atomic_file(folder / f"{name}.png") as part:
                figure.savefig(part, format="png", bbox_inches="tight")
            pyplot.close(figure)


def _overrides(values: Mapping[str, Any]) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]


def _maximised(score: str) -> bool:
    """Tells whether high values of a score are good, as of what is no metric nobody knows."""
    entry = EVERY.get(score.partition("/")[0])  # SCC/LVEDA is the SCC of one attribute
    return entry is None or entry.good not in (Good.LOW, Good.ONE)


def _same_study(study: Study, search: Search) -> None:
    """Notes what is searched in a new study, or in one that only failed as yet, for a wrong score
    say; refuses to continue with another one."""
    known = study.user_attrs.get("study")
    failed = all(trial.state.name == "FAIL" for trial in study.trials)
    if known is None or failed and known["space"] == search.about["space"]:
        study.set_user_attr("study", search.about)
    elif known != search.about:
        differs = [key for key in search.about if known.get(key) != search.about[key]]
        if "changes" in differs:  # which say what is another in the pipeline
            differs = [key for key in differs if key != "pipeline"]
        said = "; ".join(
            f"{', '.join(known[key]) or 'none'}, here {', '.join(search.about[key]) or 'none'}"
            for key in differs
            if key in ("changes", "scores") and key in known
        )
        names = " and ".join(WORDS[key] for key in differs)
        raise DataError(
            f"{search.output} holds a study with another {names}{said and f' ({said})'}; go on "
            "with the same, or choose another folder"
        )


def _has_best(study: Study) -> bool:
    return any(trial.state.name == "COMPLETE" for trial in study.trials)


def _storage(file: Path) -> Any:
    """A study on disk that several processes may share; they notice when one of them died."""
    from optuna import storages
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # of heartbeats and of retries
        return storages.RDBStorage(
            f"sqlite:///{file.resolve()}",
            engine_kwargs={"connect_args": {"timeout": 60}},
            heartbeat_interval=HEARTBEAT,
            grace_period=3 * HEARTBEAT,
            heartbeat_stale_trial_callback=storages.RetryHeartbeatStaleTrialCallback(max_retry=1),
        )


def _optuna() -> Any:
    require_packages("tune", "tune", ["optuna"])
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # its warnings hold tracebacks
    return optuna
