"""Search: values of a pipeline that score best on the validation patients. Optuna proposes them.

Any number of processes may work on one study: each runs the same command with the same output. What
a killed one leaves undone is tried once more by the others, or when the command is run again.
"""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib
import numpy as np
import yaml
from filelock import FileLock
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from ..data.store import SliceDataset
from ..report.style import LINES, plain, save
from ..runtime.files import write
from ..runtime.yaml_files import read_yaml
from ..schema import DataError
from .config import Pipeline, load_pipeline
from .workflow import train

if TYPE_CHECKING:
    from optuna import Study, Trial

SCORES = ("Interpretability", "SSIM_in_mask")
"""What is made as high as possible: their mean over the validation patients. A code that carries
its attributes and draws no heart is of no use, nor the reverse."""

HEARTBEAT = 60
"""Seconds between signs of life of a process; after three without one, its trial is given up."""


class Range(NamedTuple):
    """Numbers from ``low`` to ``high``, whole ones if both are, drawn by their logarithm or not."""

    low: float
    high: float
    log: bool = False


Space = Mapping[str, Range | Sequence[Any]]
"""Dotted key of a pipeline -> where it may lie: a range, or choices."""


def parse_search(text: str) -> tuple[str, Range | list[Any]]:
    """``KEY=LOW:HIGH``, ``KEY=LOW:HIGH:log`` or ``KEY=CHOICE,CHOICE``; choices are YAML.

    Raises:
        ValueError: If it is none of them, or a range is empty.
    """
    key, _, wanted = text.partition("=")
    number = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?"
    match = re.fullmatch(rf"({number}):({number})(:log)?", wanted, re.IGNORECASE)
    if match and key:
        whole = all(re.fullmatch(r"[-+]?\d+", end) for end in match.groups()[:2])
        low, high = (int(end) if whole else float(end) for end in match.groups()[:2])
        if low < high and (low > 0 or not match[3]):
            return key, Range(low, high, bool(match[3]))
    elif key and "," in wanted and ":" not in wanted:
        return key, [read_yaml(choice) for choice in wanted.split(",")]
    raise ValueError(
        f"--search {text!r}; expected KEY=LOW:HIGH, KEY=LOW:HIGH:log (both above 0) or "
        "KEY=CHOICE,CHOICE, such as optimiser.lr=1e-4:1e-2:log"
    )


def default_space(pipeline: Pipeline) -> dict[str, Range]:
    """A tenth to ten times each value above 0 whose option is marked as searched."""
    return {
        f"{section}.{f.name}": Range(value / 10, value * 10, log=True)
        for section in ("optimiser", "objective")
        for f in fields(getattr(pipeline, section))
        if f.metadata.get("searched") and (value := getattr(getattr(pipeline, section), f.name))
    }


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
) -> Study:
    """Trains with values that Optuna proposes until the study has its trials.

    Writes study.db (sqlite, the study), trials.csv, best.yaml (a pipeline), study.png, and a run
    per finished trial in ``trials/``. A trial whose scores are below the median of the others at
    the same epoch is broken off.

    Args:
        pipeline: Name or YAML file.
        store: Trained on its train split, scored on its val split.
        output: Folder to write; that of a study goes on.
        trials: Trials that the study shall have, finished and broken off ones of all processes.
        space: What is searched; None is `default_space`.
        changes: ``KEY=VALUE`` laid over the pipeline in all trials.
        scores: Columns of history.csv without ``val_``; their mean is made as high as possible.
        seed: Of each training.
        device: See `find_device`.
        tell: Called with a line per trial.

    Raises:
        ValueError: If a key or value of the space is not accepted by the pipeline, or Optuna is not
            installed.
        DataError: If the folder holds another study, or there are no patients to score on.
    """
    optuna = _optuna()
    output = Path(output)
    space = dict(space or default_space(load_pipeline(pipeline, changes)))
    for values in _corners(space):
        load_pipeline(pipeline, [*changes, *values])  # before hours are spent
    val = store.split("val")
    if val.cases["case"].nunique() < 5:
        raise DataError(f"{store.folder} has fewer than 5 val patients; nothing can be scored")
    output.mkdir(parents=True, exist_ok=True)
    with FileLock(output / ".study.lock"):  # of several processes one makes the tables
        study = optuna.create_study(
            storage=_storage(output / "study.db"),
            study_name="study",
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=5),
        )
        _same_study(study, pipeline, store, space, changes, scores, output)

    def objective(trial: Trial) -> float:
        return _train(trial, pipeline, store, output, space, changes, scores, seed, device)

    def report(study: Study, trial: Any) -> None:
        write_study(study, pipeline, output)
        told = "broken off" if trial.state.name == "PRUNED" else f"{trial.value:.3f}"
        done = [t for t in study.trials if t.state.is_finished()]
        if _has_best(study):
            told += f"  best {study.best_value:.3f} (trial {study.best_trial.number})"
        tell(f"trial {trial.number}, {len(done)} of {trials}: {told}")
        if trial.state.name == "PRUNED":
            shutil.rmtree(_folder(output, trial), ignore_errors=True)

    states = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    enough = optuna.study.MaxTrialsCallback(trials, states=states)
    if len(study.get_trials(deepcopy=False, states=states)) < trials:
        study.optimize(objective, callbacks=[report, enough])
    write_study(study, pipeline, output)
    return study


def write_study(study: Study, pipeline: str | Path, output: Path) -> None:
    """trials.csv, best.yaml and study.png of the trials so far."""
    write(output / "trials.csv", study.trials_dataframe().to_csv(index=False))
    if not _has_best(study):
        return
    best: dict[str, Any] = {"base": str(pipeline)}
    for key, value in study.best_params.items():
        section, _, name = key.rpartition(".")
        place = best
        for part in section.split(".") if section else ():
            place = place.setdefault(part, {})
        place[name] = value
    changes = study.user_attrs["study"]["changes"]
    told = f"# Trial {study.best_trial.number} of {len(study.trials)}: {study.best_value:.4f}\n"
    told += "".join(f"# train it with --set {change}\n" for change in changes)
    write(output / "best.yaml", told + yaml.safe_dump(best, sort_keys=False))
    draw_study(study, output / "study.png")


def draw_study(study: Study, path: Path) -> None:
    """Score of each trial in the order of their start, and against each value that was searched."""
    done = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    values = np.array([trial.value for trial in done])
    keys = list(study.best_params)
    importance = _importance(study)
    with matplotlib.rc_context({"font.size": 8}):
        figure = Figure(figsize=(2.2 * (len(keys) + 1), 2.4), layout="constrained")
        axes = figure.subplots(1, len(keys) + 1, sharey=True, squeeze=False)[0]
        numbers, scores = [trial.number for trial in done], study.user_attrs["study"]["scores"]
        axes[0].plot(numbers, values, "o", color=LINES[2], markersize=3)
        axes[0].step(numbers, np.maximum.accumulate(values), where="post", color=LINES[1])
        axes[0].set(xlabel="trial", ylabel=",\n".join(scores))
        axes[0].xaxis.set_major_locator(MaxNLocator(4, integer=True))
        for axis, key in zip(axes[1:], keys, strict=True):
            where = study.best_trial.distributions[key]
            shown = [trial.params[key] for trial in (*done, study.best_trial)]
            if hasattr(where, "choices"):
                shown = [str(value) for value in shown]
            else:
                axis.set(xlim=(where.low, where.high), xscale="log" if where.log else "linear")
                axis.xaxis.set_minor_formatter(NullFormatter())
            axis.plot(shown[:-1], values, "o", color=LINES[2], markersize=3)
            axis.plot(shown[-1], study.best_value, "o", color=LINES[1], markersize=6, clip_on=False)
            share = f"\nexplains {importance[key]:.0%}" if key in importance else ""
            axis.set_xlabel(key + share)
        for axis in axes:
            plain(axis)
        save(figure, path)


def _importance(study: Study) -> dict[str, float]:
    """Share of the variance of the score that each value explains, with ten trials or more."""
    from optuna.importance import get_param_importances

    done = [trial.value for trial in study.trials if trial.state.name == "COMPLETE"]
    return get_param_importances(study) if len(done) >= 10 and np.ptp(done) > 0 else {}


def _train(
    trial: Trial,
    pipeline: str | Path,
    store: SliceDataset,
    output: Path,
    space: Space,
    changes: Sequence[str],
    scores: Sequence[str],
    seed: int,
    device: str,
) -> float:
    """Trains with proposed values; the mean of the scores at the last validation.

    Raises:
        TrialPruned: If the scores fall behind, or the training diverges.
    """
    from optuna import TrialPruned

    proposed = [f"{key}={json.dumps(_propose(trial, key, space[key]))}" for key in space]
    last = float("nan")

    def watch(row: dict[str, float]) -> None:
        nonlocal last
        missing = [name for name in scores if f"val_{name}" not in row]
        if missing and any(name.startswith("val_") for name in row):
            known = sorted(name[4:] for name in row if name.startswith("val_"))
            raise ValueError(f"score is {missing[0]!r}; expected one of {', '.join(known)}")
        if missing:
            return
        last = float(np.mean([row[f"val_{name}"] for name in scores]))
        trial.report(last, int(row["epoch"]))
        if trial.should_prune():
            raise TrialPruned

    try:
        train(
            load_pipeline(pipeline, [*changes, *proposed]),
            store,
            _folder(output, trial),
            device=device,
            seed=seed,
            tell=watch,
        )
    except FloatingPointError as error:
        raise TrialPruned(str(error)) from None
    for checkpoint in ("last.pt", "best.pt"):  # of a hundred trials they would fill the disk
        (_folder(output, trial) / checkpoint).unlink(missing_ok=True)
    return last


def _propose(trial: Trial, key: str, where: Range | Sequence[Any]) -> Any:
    if not isinstance(where, Range):
        return trial.suggest_categorical(key, where)
    if isinstance(where.low, int) and isinstance(where.high, int):
        return trial.suggest_int(key, where.low, where.high, log=where.log)
    return trial.suggest_float(key, where.low, where.high, log=where.log)


def _corners(space: Space) -> list[list[str]]:
    """Changes of a pipeline to the ends of the space, and to each choice."""
    ends = {k: list(v[:2]) if isinstance(v, Range) else list(v) for k, v in space.items()}
    most = max(map(len, ends.values()), default=0)
    return [
        [f"{k}={json.dumps(v[min(i, len(v) - 1)])}" for k, v in ends.items()] for i in range(most)
    ]


def _same_study(
    study: Study,
    pipeline: str | Path,
    store: SliceDataset,
    space: Space,
    changes: Sequence[str],
    scores: Sequence[str],
    output: Path,
) -> None:
    """Notes what is searched in a new study; refuses to go on with another one."""
    about = {
        "pipeline": load_pipeline(pipeline, changes).to_dict(),
        "space": {key: list(where) for key, where in space.items()},
        "changes": list(changes),
        "scores": list(scores),
        "content_hash": store.info["content_hash"],
    }
    about = json.loads(json.dumps(about))
    known = study.user_attrs.get("study")
    if known is None:
        study.set_user_attr("study", about)
    elif known != about:
        differs = ", ".join(key for key in about if known.get(key) != about[key])
        raise DataError(
            f"{output} holds a study with another {differs}; go on with the same, or choose "
            "another folder"
        )


def _has_best(study: Study) -> bool:
    return any(trial.state.name == "COMPLETE" for trial in study.trials)


def _folder(output: Path, trial: Any) -> Path:
    return output / "trials" / f"{trial.number:04d}"


def _storage(file: Path) -> Any:
    """A study on disk that several processes may share; they notice when one of them died."""
    from optuna import storages
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # of signs of life and of trying again
        return storages.RDBStorage(
            f"sqlite:///{file.resolve()}",
            engine_kwargs={"connect_args": {"timeout": 60}},
            heartbeat_interval=HEARTBEAT,
            grace_period=3 * HEARTBEAT,
            heartbeat_stale_trial_callback=storages.RetryHeartbeatStaleTrialCallback(max_retry=1),
        )


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise ValueError("tune needs Optuna: pip install 'cardiac-attrivae[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
