"""What handlers measure, record and save, each on an engine that does next to nothing."""

import os
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from cardiac_attrivae.metrics.codes import score
from cardiac_attrivae.metrics.images import FIDELITY
from cardiac_attrivae.schema import Keys, LatentTable
from cardiac_attrivae.training.checkpoints import Checkpoints, save
from cardiac_attrivae.training.handlers import (
    History,
    KLBalance,
    is_due,
)
from cardiac_attrivae.training.scores import ImageFidelity, LossTerms, RegularisationMetrics

NAMES = ("LVEDV", "MEDV", "LVEDA")


def engine_of(outputs):
    """An engine that leaves the given outputs, one an iteration."""
    engine = Engine(lambda engine, output: output)
    engine.optimizer = SimpleNamespace(param_groups=[{"lr": 0.25}])
    engine.outputs = outputs
    return engine


def run(engine, epochs=1):
    return engine.run(engine.outputs, max_epochs=epochs, epoch_length=len(engine.outputs))


def attached(engine, *parts):
    for part in parts:
        part.attach(engine)
    return engine


@pytest.fixture
def editable(drawn_slices):
    """A copy whose columns may be changed."""
    return drawn_slices.take(range(len(drawn_slices)))


@pytest.fixture
def outputs(drawn_slices):
    """Codes and reconstructions of all slices, in two uneven batches of shuffled rows."""
    generator = torch.Generator().manual_seed(0)
    batches = []
    for rows in torch.randperm(len(drawn_slices), generator=generator).split(17):
        image = drawn_slices.images[rows]
        noise = torch.randn(image.shape, generator=generator)
        mu = torch.randn(len(rows), 5, generator=generator)
        batches.append(
            {
                Keys.IMAGE: image,
                Keys.RECONSTRUCTION: (image + 0.1 * noise).clamp(0, 1),
                Keys.LABEL: drawn_slices.labels[rows],
                Keys.MU: mu,
                Keys.LATENT: mu,
                Keys.ROW: rows,
            }
        )
    return batches


def scored(dataset, outputs, dimensions=(0, 1, None)):
    metrics = RegularisationMetrics(dataset, NAMES, dimensions)
    engine = attached(engine_of(outputs), metrics)
    return run(engine)


def test_attributes_are_measured_from_masks_and_not_read_from_a_column(editable, outputs):
    expected = editable.attributes(NAMES)
    rows = torch.cat([output[Keys.ROW] for output in outputs]).numpy()
    before = scored(editable, outputs)
    np.testing.assert_allclose(before.table.attributes, expected[rows])
    editable.cases["LVEDV"] = np.arange(len(editable))[::-1]
    after = scored(editable, outputs)
    np.testing.assert_array_equal(after.table.attributes, before.table.attributes)
    assert after.metrics == pytest.approx(before.metrics, nan_ok=True, rel=0)


def test_regularisation_scores_are_those_of_the_metrics_on_the_same_codes(drawn_slices, outputs):
    state = scored(drawn_slices, outputs)
    rows = torch.cat([output[Keys.ROW] for output in outputs]).numpy()
    table = LatentTable(
        tuple(drawn_slices.cases["case"].iloc[rows]),
        torch.cat([output[Keys.MU] for output in outputs]).numpy(),
        drawn_slices.attributes(NAMES)[rows],
        NAMES,
        (0, 1, None),
    )
    expected = {
        entry.metric + ("" if entry.attribute == "mean" else f"/{entry.attribute}"): entry.value
        for entry in score(table)
    }
    assert state.metrics.keys() == expected.keys()
    for name, value in expected.items():
        assert state.metrics[name] == pytest.approx(value, nan_ok=True)
    assert state.table.cases == table.cases
    assert state.table.dimensions == (0, 1, None)


def test_a_second_evaluation_starts_from_nothing(drawn_slices, outputs):
    engine = attached(
        engine_of(outputs),
        RegularisationMetrics(drawn_slices, NAMES, (0, 1, 2)),
        ImageFidelity(),
    )
    first = run(engine)
    sizes, scores = len(first.table.codes), dict(first.metrics)
    second = run(engine)
    assert len(second.table.codes) == sizes == len(drawn_slices)
    assert second.metrics == pytest.approx(scores, nan_ok=True)


def test_fewer_than_five_slices_leave_a_table_and_no_score(drawn_slices, outputs):
    few = [{key: value[:4] for key, value in outputs[0].items()}]
    state = scored(drawn_slices, few)
    assert len(state.table.codes) == 4
    assert state.metrics == {}


def test_fidelity_is_the_mean_over_slices_of_the_fidelity_functions(outputs):
    state = run(attached(engine_of(outputs), ImageFidelity()))
    image, reconstruction, label = (
        torch.cat([output[key] for output in outputs]).numpy()
        for key in (Keys.IMAGE, Keys.RECONSTRUCTION, Keys.LABEL)
    )
    assert state.metrics.keys() == FIDELITY.keys()
    for name, measure in FIDELITY.items():
        values = measure(image, reconstruction, label > 0)
        np.testing.assert_allclose(state.fidelity[name], values)
        assert state.metrics[name] == pytest.approx(values.mean())


def losses(*batches):
    return [
        {Keys.ROW: torch.arange(n), Keys.TERMS: {k: torch.tensor(v) for k, v in terms.items()}}
        for n, terms in batches
    ]


def test_loss_terms_count_each_slice_the_same_also_in_an_uneven_last_batch():
    batches = losses((8, {"kl": 1.0, "attribute": 4.0}), (2, {"kl": 6.0, "attribute": 4.0}))
    state = run(attached(engine_of(batches), LossTerms()))
    assert state.metrics == pytest.approx({"kl": 2.0, "attribute": 4.0, "loss": 6.0})


def test_loss_terms_forget_the_epoch_before():
    batches = losses((4, {"kl": 1.0}))
    engine = attached(engine_of(batches), LossTerms())

    @engine.on(Events.EPOCH_STARTED(once=2))
    def change(engine):
        batches[0][Keys.TERMS]["kl"] = torch.tensor(3.0)

    assert run(engine, epochs=2).metrics["kl"] == 3.0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_term_that_is_not_finite_stops_with_its_name(bad):
    batches = losses((4, {"kl": 1.0, "attribute": bad}), (4, {"kl": 1.0, "attribute": 1.0}))
    engine = attached(engine_of(batches), LossTerms())
    with pytest.raises(FloatingPointError, match=f"the attribute term is {bad} in epoch 1"):
        run(engine)


def healthy(kl_real=1.0, kl_generated=2.0, **terms):
    """An iteration with signs of health beside its terms."""
    (output,) = losses((4, terms or {"kl": 1.0}))
    signs = {"kl_real": kl_real, "kl_generated": kl_generated}
    return output | {Keys.HEALTH: {name: torch.tensor(value) for name, value in signs.items()}}


def test_signs_of_health_are_averaged_but_no_part_of_the_loss():
    batches = [healthy(10.0, 30.0, kl=1.0), healthy(20.0, 30.0, kl=2.0)]
    state = run(attached(engine_of(batches), LossTerms()))
    expected = {"kl": 1.5, "kl_real": 15.0, "kl_generated": 30.0, "loss": 1.5}
    assert state.metrics == pytest.approx(expected)


def test_a_sign_of_health_that_is_not_finite_stops_with_its_name():
    engine = attached(engine_of([healthy(kl_generated=float("inf"))]), LossTerms())
    with pytest.raises(FloatingPointError, match="the kl_generated term is inf in epoch 1"):
        run(engine)


def balanced(gaps, **options):
    """Runs an epoch for each gap between the KL of generated and of real images."""
    outputs = [healthy()]
    engine = attached(engine_of(outputs), LossTerms(), KLBalance(**options))

    @engine.on(Events.EPOCH_STARTED)
    def change(engine):
        outputs[0] |= healthy(50.0, 50.0 + gaps[engine.state.epoch - 1])

    run(engine, epochs=len(gaps))


def test_a_lost_balance_is_told_once_after_five_epochs_in_a_row():
    with pytest.warns(UserWarning, match=r"^epoch 7: for 5 epochs .* \(48\.5\).*\(50\.0\)") as told:
        balanced([0.0, 0.0] + [-1.5] * 20)
    assert len(told) == 1
    assert "raise objective.beta_neg" in str(told[0].message)


@pytest.mark.parametrize(
    "gaps",
    [
        [-1.5] * 4,
        ([-1.5] * 4 + [0.0]) * 3,
        [-1.0] * 9,  # at the margin, not below it
        [3.0] * 9,
    ],
)
def test_balance_is_not_lost_before_five_epochs_in_a_row_below_the_margin(gaps):
    balanced(gaps)  # a warning would be an error


def test_margin_and_number_of_epochs_of_the_balance_can_be_set():
    balanced([-1.5] * 9, margin=2.0)
    with pytest.warns(UserWarning, match="^epoch 2: for 2 epochs"):
        balanced([-2.5] * 3, margin=2.0, epochs=2)


def test_balance_says_nothing_where_nothing_is_generated():
    engine = attached(engine_of(losses((4, {"kl": 1.0}))), LossTerms(), KLBalance(epochs=1))
    assert run(engine, epochs=3).metrics["kl"] == 1.0


class Writer:
    def __init__(self):
        self.written = []

    def add_scalar(self, name, value, step):
        self.written.append((name, value, step))


def history_of(file, evaluator=None, every=2):
    told = []
    return History(file, evaluator, every, Writer(), told.append), told


def test_history_has_a_row_for_every_epoch_and_scores_where_there_was_a_validation(tmp_path):
    evaluator = engine_of([])
    history, told = history_of(tmp_path / "history.csv", evaluator)
    engine = attached(engine_of(losses((4, {"kl": 1.5}))), LossTerms())

    @engine.on(Events.EPOCH_COMPLETED)
    def validate(engine):
        evaluator.state.metrics = {"SCC": engine.state.epoch / 10}

    history.attach(engine)
    run(engine, epochs=5)
    table = pd.read_csv(tmp_path / "history.csv")
    assert table["epoch"].tolist() == [1, 2, 3, 4, 5]
    assert (table["lr"] == 0.25).all()
    assert (table["train_kl"] == 1.5).all()
    assert (table["train_loss"] == 1.5).all()
    np.testing.assert_array_equal(table["val_SCC"], [np.nan, 0.2, np.nan, 0.4, 0.5])
    assert [row["epoch"] for row in told] == [2, 4, 5]
    assert ("val/SCC", 0.4, 4) in history.writer.written
    assert ("train/kl", 1.5, 3) in history.writer.written


def test_a_resumed_history_keeps_the_rows_to_the_last_digit(tmp_path):
    first, again = (history_of(tmp_path / "history.csv")[0] for _ in range(2))
    first.rows = [{"epoch": epoch, "train_kl": np.pi * 10.0**-epoch / 3} for epoch in range(1, 7)]
    again.load_state_dict(first.state_dict())
    assert again.rows == first.rows


def test_history_is_replaced_as_a_whole(tmp_path, monkeypatch):
    history, _ = history_of(tmp_path / "history.csv")
    history.rows = [{"epoch": 1}]
    history.write()
    monkeypatch.setattr(os, "replace", interrupt)
    history.rows = [{"epoch": 1}, {"epoch": 2}]
    with pytest.raises(KeyboardInterrupt):
        history.write()
    assert len(pd.read_csv(tmp_path / "history.csv")) == 1


def interrupt(*args, **options):
    raise KeyboardInterrupt


def test_an_interrupted_save_leaves_the_file_before(tmp_path, monkeypatch):
    file, real = tmp_path / "last.pt", torch.save
    save({"epoch": 1}, file)

    def half(state, stream):
        stream.write(b"half of a che")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="no space"):
        save({"epoch": 2}, file)
    monkeypatch.setattr(torch, "save", real)
    assert torch.load(file, weights_only=True) == {"epoch": 1}


def checkpoints_of(folder, network, values, every=1):
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(network.parameters())
    parts = {"network": network, "optimiser": optimiser}
    return Checkpoints(folder, parts, generator, every, network, values)


def test_checkpoints_keep_the_weights_of_the_smallest_value(tmp_path):
    network, values = nn.Linear(2, 1), iter([3.0, 1.0, 2.0])
    engine = engine_of([None])

    @engine.on(Events.EPOCH_COMPLETED)
    def move(engine):
        engine.value = next(values)
        nn.init.constant_(network.weight, engine.state.epoch)

    checkpoints = checkpoints_of(tmp_path, network, lambda: engine.value)
    checkpoints.attach(engine)
    run(engine, epochs=3)
    best = torch.load(tmp_path / "best.pt", weights_only=True)
    last = torch.load(tmp_path / "last.pt", weights_only=True)
    assert (best["weight"] == 2).all()
    assert (last["network"]["weight"] == 3).all()
    assert (last["epoch"], last["best"], last["best_epoch"]) == (3, 1.0, 2)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_leave_the_checkpoints_as_they_were(tmp_path, bad):
    network, engine = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1)), engine_of([None])
    checkpoints = checkpoints_of(tmp_path, network, lambda: 1 / engine.state.epoch)

    @engine.on(Events.EPOCH_COMPLETED(once=3))
    def spoil(engine):
        checkpoints.wait()
        engine.before = {f.name: f.read_bytes() for f in tmp_path.iterdir()}
        with torch.no_grad():
            network[0].weight[0, 1] = bad

    checkpoints.attach(engine)
    with pytest.raises(FloatingPointError, match=r"weight 0\.weight is not finite after epoch 3"):
        run(engine, epochs=5)
    assert engine.before.keys() == {"last.pt", "best.pt"}
    assert {f.name: f.read_bytes() for f in tmp_path.iterdir()} == engine.before
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    assert state["epoch"] == state["best_epoch"] == 2
    assert all(value.isfinite().all() for value in state["network"].values())


def test_a_checkpoint_that_cannot_be_written_ends_the_run(tmp_path):
    folder = tmp_path / "file"
    folder.touch()
    with pytest.raises(OSError, match="file"):
        run(attached(engine_of([None]), checkpoints_of(folder, nn.Linear(2, 1), None)), epochs=1)


def test_without_a_value_there_is_no_best(tmp_path):
    run(attached(engine_of([None]), checkpoints_of(tmp_path, nn.Linear(2, 1), None)))
    assert {file.name for file in tmp_path.iterdir()} == {"last.pt"}


def test_resuming_restores_weights_randomness_and_epoch(tmp_path):
    network = nn.Linear(2, 1)
    checkpoints = checkpoints_of(tmp_path, network, lambda: 0.5)
    torch.rand(7, generator=checkpoints.generator)
    run(attached(engine_of([None, None]), checkpoints), epochs=3)

    other = nn.Linear(2, 1)
    again = checkpoints_of(tmp_path, other, lambda: 0.5)
    engine = engine_of([None, None])
    engine.state.max_epochs, engine.state.epoch_length = 5, 2
    assert again.resume(engine, torch.device("cpu")) == 3
    assert torch.equal(other.weight, network.weight)
    draws = [torch.rand(3, generator=c.generator) for c in (checkpoints, again)]
    assert torch.equal(*draws)
    assert (again.best, again.best_epoch) == (0.5, 1)
    assert (engine.state.epoch, engine.state.iteration) == (3, 6)
    epochs = []
    engine.add_event_handler(Events.EPOCH_STARTED, lambda e: epochs.append(e.state.epoch))
    engine.run(engine.outputs)
    assert epochs == [4, 5]


@pytest.mark.parametrize(
    ("epoch", "every", "last", "due"),
    [(4, 2, 9, True), (5, 2, 9, False), (9, 2, 9, True), (1, 1, 9, True), (3, 100, 9, False)],
)
def test_every_nth_epoch_and_the_last_are_due(epoch, every, last, due):
    assert is_due(epoch, every, last) is due
