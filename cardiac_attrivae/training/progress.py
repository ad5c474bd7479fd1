"""How far a training is: a bar over its steps on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from ignite.engine import Engine, Events
from tqdm import tqdm

from ..runtime.device import describe_device
from ..schema import Keys
from .scores import output_of

SHOWN = ("Interpretability", "SSIM_in_mask", "Dice_LV", "Dice_MYO", "Dice_RV")
"""Scores of the validation that are shown."""

FIRST = 10
"""Steps after which lines estimate how long the training will take."""


def show_progress(
    say: Callable[[str], None] | None = None, terminal: bool | None = None
) -> StepBar | Lines:
    """Makes what `training.workflow.train` takes as a handler and, at the same time, as ``tell``: a
    bar on a terminal (None: if standard error is one), else lines, which ``say`` prints."""
    if sys.stderr.isatty() if terminal is None else terminal:
        return StepBar()
    return Lines(say or (lambda line: print(line, file=sys.stderr, flush=True)))


class StepBar:
    """Shows a bar with all steps, the time left, the loss and the latest scores.

    Args:
        interval: Seconds between two changes of what is shown.
    """

    def __init__(self, interval: float = 0.1) -> None:
        self.interval = interval
        self.bar: tqdm | None = None
        self.scores = ""

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.open)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.step)
        engine.add_event_handler(Events.COMPLETED, self.close)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self.fail)

    def open(self, engine: Engine) -> None:
        state = engine.state
        total = (state.max_epochs or 0) * (state.epoch_length or 0)
        tqdm.write(_opening(engine), file=sys.stderr)
        self.bar = tqdm(
            total=total,
            initial=state.iteration,
            unit="step",
            dynamic_ncols=True,
            mininterval=self.interval,
        )

    def step(self, engine: Engine) -> None:
        if self.bar is None:
            return
        self.bar.set_description_str(_epoch(engine), refresh=False)
        if self.bar.update():  # only what is displayed is read from the device
            loss = f"loss {float(output_of(engine)[Keys.LOSS]):.4g}"
            self.bar.set_postfix_str(f"{loss}  {self.scores}".rstrip(), refresh=False)

    def __call__(self, row: Mapping[str, float]) -> None:
        self.scores = _scores(row)

    def close(self, engine: Engine) -> None:
        if self.bar is not None:
            self.bar.close()

    def fail(self, engine: Engine, error: Exception) -> None:
        self.close(engine)
        raise error  # with a handler for exceptions ignite raises nothing itself


class Lines:
    """Prints a line at the start, one with an estimate of the time, and one per validation."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.engine: Engine | None = None
        self.start, self.first = 0.0, 0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.open)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.estimate)

    def open(self, engine: Engine) -> None:
        state = engine.state
        self.engine, self.start, self.first = engine, time.perf_counter(), state.iteration
        self.say(_opening(engine))

    def estimate(self, engine: Engine) -> None:
        if engine.state.iteration == self.first + FIRST:
            self.say(f"{FIRST} steps done, {duration(self._left(engine))} left")

    def __call__(self, row: Mapping[str, float]) -> None:
        if self.engine is None:
            return
        parts = [_epoch(self.engine), f"loss {row['train_loss']:.4g}", _scores(row)]
        if row["epoch"] != self.engine.state.max_epochs:
            parts.append(f"{duration(self._left(self.engine))} left")
        self.say("  ".join(part for part in parts if part))

    def _left(self, engine: Engine) -> float:
        state = engine.state
        done = state.iteration - self.first
        steps = (state.max_epochs or 0) * (state.epoch_length or 0) - state.iteration
        return (time.perf_counter() - self.start) / done * steps


def duration(seconds: float) -> str:
    """Says a time roughly.

    Example:
        >>> [duration(seconds) for seconds in (4, 200, 10_000)]
        ['about 4 s', 'about 3 min', 'about 2.8 h']
    """
    if seconds < 100:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 6000 else f"about {seconds / 3600:.1f} h"


def _opening(engine: Engine) -> str:
    """What will be done, in which number format, and where."""
    state: Any = engine.state  # of a `NetworkTrainer`
    precision = str(getattr(engine, "precision", "")).removeprefix("torch.")
    epochs = f"epochs {state.epoch + 1} to {state.max_epochs}"
    place = describe_device(state.device)
    return f"training {epochs}, {state.epoch_length} steps each, in {precision} on {place}"


def _epoch(engine: Engine) -> str:
    return f"epoch {engine.state.epoch}/{engine.state.max_epochs}"


def _scores(row: Mapping[str, float]) -> str:
    values = ((name, row.get(f"val_{name}")) for name in SHOWN)
    return "  ".join(f"{name} {value:.3f}" for name, value in values if value is not None)
