"""The progress of a training, on a terminal and elsewhere."""

import pytest
import torch
from ignite.engine import Engine
from torch import tensor

from cardiac_attrivae.runtime.device import describe_device
from cardiac_attrivae.schema import Keys
from cardiac_attrivae.training.progress import Lines, StepBar, duration, show_progress

CPU = torch.device("cpu")
WHERE = f", in bfloat16 on {describe_device(CPU)}"
ROW = {"epoch": 1, "train_loss": 3.25, "val_Interpretability": 0.9, "val_SSIM_in_mask": 0.5}


def run(shown, epochs=2, steps=12, start=0, fail=False):
    """Two epochs, with a validation after each."""

    def step(engine, batch):
        if fail and engine.state.iteration == 5:
            raise FloatingPointError("the kl term is nan")
        return {Keys.LOSS: tensor(3.25)}

    engine = Engine(step)
    engine.precision, engine.state.device = torch.bfloat16, CPU
    shown.attach(engine)

    @engine.on("EPOCH_COMPLETED")
    def validate(engine):
        shown(ROW | {"epoch": engine.state.epoch})

    known = {"max_epochs": epochs, "epoch_length": steps}
    if start:
        engine.load_state_dict({"epoch": start, **known})
        engine.run([0] * steps)
    else:
        engine.run([0] * steps, **known)


def test_lines_say_what_begins_how_long_it_takes_and_the_scores():
    lines = []
    run(Lines(lines.append))
    assert lines == [
        f"training epochs 1 to 2, 12 steps each{WHERE}",
        "10 steps done, about 0 s left",
        "epoch 1/2  loss 3.25  Interpretability 0.900  SSIM_in_mask 0.500  about 0 s left",
        "epoch 2/2  loss 3.25  Interpretability 0.900  SSIM_in_mask 0.500",
    ]


def test_lines_of_a_resumed_run_begin_where_it_goes_on():
    lines = []
    run(Lines(lines.append), epochs=3, start=2)
    assert lines[0] == f"training epochs 3 to 3, 12 steps each{WHERE}"
    assert lines[1:2] == ["10 steps done, about 0 s left"]


def test_the_bar_counts_steps_and_shows_loss_and_scores(capsys):
    run(StepBar(interval=0))
    text = capsys.readouterr().err
    assert text.startswith(f"training epochs 1 to 2, 12 steps each{WHERE}\n")
    assert "epoch 1/2" in text
    assert "loss 3.25" in text
    assert "24/24" in text
    assert text.endswith("\n")


def test_the_bar_of_a_resumed_run_does_not_begin_at_zero(capsys):
    run(StepBar(interval=0), epochs=3, start=2)
    assert "24/36" in capsys.readouterr().err


def test_a_training_that_fails_leaves_the_bar_and_raises_its_error(capsys):
    with pytest.raises(FloatingPointError, match="the kl term is nan"):
        run(StepBar(interval=0), fail=True)
    assert capsys.readouterr().err.endswith("\n")


def test_lines_are_printed_where_nobody_watches(monkeypatch, capsys):
    assert isinstance(show_progress(terminal=True), StepBar)
    run(show_progress(terminal=False))
    assert capsys.readouterr().err.startswith("training epochs 1 to 2")


@pytest.mark.parametrize(("seconds", "text"), [(0, "0 s"), (99, "99 s"), (101, "2 min")])
def test_durations_are_rough(seconds, text):
    assert duration(seconds) == f"about {text}"
