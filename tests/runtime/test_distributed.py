"""Two processes give what one gives. This file is also the program that the two run."""

import os
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import cardiac_attrivae
from cardiac_attrivae.models.classifier_loss import ClassifierLoss
from cardiac_attrivae.models.kl_losses import BetaTCVAELoss, CapacityLoss
from cardiac_attrivae.models.loss_terms import attribute_distance
from cardiac_attrivae.models.losses import AttriVAELoss, SoftIntroLoss
from cardiac_attrivae.models.networks import SoftIntroVAE
from cardiac_attrivae.models.perceptual import perceptual_loss
from cardiac_attrivae.runtime import distributed as parallel
from cardiac_attrivae.runtime.distributed import (
    GlobalBatchNorm2d,
    gather_rows,
    processes,
    split,
    synchronise,
)
from cardiac_attrivae.schema import Keys
from cardiac_attrivae.training.bootstrap_engine import BootstrapTrainer
from cardiac_attrivae.training.classifier_engine import ClassifierTrainer
from cardiac_attrivae.training.engines import SoftIntroTrainer, VAETrainer
from cardiac_attrivae.training.optimisation import split_parameters

pytestmark = pytest.mark.xdist_group("distributed")  # two processes serve all tests

ROWS = 7  # shares of 4 and 3
TIMEOUT = 240  # two interpreters on a busy machine
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 2e-2}

NORMS = {
    "plain": {},
    "cumulative": {"momentum": None},
    "no_weights": {"affine": False},
    "no_statistics": {"track_running_stats": False},
}
SPLITS = {"shares": ROWS - 3, "almost_all": ROWS - 1, "all": ROWS}  # rows of the first process


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# -- what each process does, and one process alone -------------------------------------------------


def build(dtype):
    torch.manual_seed(0)
    return synchronise(nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.LeakyReLU(0.2),
        nn.Conv2d(4, 6, 3, stride=2), nn.BatchNorm2d(6, momentum=None), nn.LeakyReLU(0.2),
        nn.Flatten(), nn.Linear(54, 5),
    ).to(dtype, memory_format=torch.channels_last))  # fmt: skip


def step(dtype):
    """Two passes of the network on this process's share, and an objective of the whole batch."""
    network, own = build(dtype), parallel.share(ROWS)
    image = normal(ROWS, 1, 9, 9, seed=1, dtype=dtype)
    attributes = normal(ROWS, 2, seed=2, dtype=dtype)
    codes = network(image[own])
    again = network(codes.detach()[:, :1, None, None] * image[own].sin())  # as introspection does
    loss = parallel.batch_mean((codes**2).sum(dim=1)).log()
    loss = loss + torch.exp(-parallel.batch_mean(again).abs()).prod()
    loss = loss + attribute_distance(gather_rows(codes, ROWS), attributes, 3.0, "graded").sum()
    everywhere = gather_rows(again, ROWS) @ network[-1].weight  # every process uses it on all rows
    loss = loss + everywhere.tanh().mean()
    loss.backward()
    gradients = {name: p.grad for name, p in network.named_parameters()}
    parallel.average_gradients(list(gradients.values()))
    return {"loss": loss.detach(), "buffers": dict(network.named_buffers())} | gradients


def train(dtype, objective):
    """One step of a trainer on a batch that every process is given whole."""
    torch.manual_seed(0)
    classifies = isinstance(objective, ClassifierLoss)
    head = {"classes": ["DCM", "NOR"]} if classifies else None
    told = {"condition": "vendor", "categories": ["A", "B"]} if classifies else {}
    network = synchronise(SoftIntroVAE(5, 16, 1, (3, 4), classifier=head, **told).to(dtype))
    encoder, decoder = split_parameters(network)
    common = {
        "device": "cpu", "max_epochs": 1, "train_data_loader": [None], "epoch_length": 1,
        "network": network, "generator": torch.Generator().manual_seed(0),
    }  # fmt: skip
    if isinstance(objective, SoftIntroLoss):
        optimisers = {
            "optimizer": torch.optim.SGD(encoder, 1e-2),
            "decoder_optimizer": torch.optim.SGD(decoder, 1e-2),
        }
        kind = BootstrapTrainer if objective.gamma_r == 1 else SoftIntroTrainer
        trainer = kind(loss_function=objective, **optimisers, **common)
    else:
        optimiser = torch.optim.SGD(network.parameters(), 1e-5)
        kind = ClassifierTrainer if classifies else VAETrainer
        trainer = kind(loss_function=objective, optimizer=optimiser, **common)
    trainer.state.epoch = 1
    batch = {
        Keys.IMAGE: normal(ROWS, 1, 16, 16, seed=1, dtype=dtype).sigmoid(),
        Keys.ATTRIBUTES: normal(ROWS, 3, seed=2, dtype=dtype),
        Keys.CONDITION: torch.eye(2)[torch.arange(ROWS) % 2],
        Keys.CLASS: torch.eye(3)[torch.arange(ROWS) % 3, :2],  # the third class is not known
        Keys.ROW: torch.arange(ROWS),
    }
    output = trainer._iteration(trainer, batch)
    return {
        "terms": output[Keys.TERMS],
        "gradient": torch.cat([p.grad.flatten() for p in network.parameters()]),
        "weights": network.state_dict(),
    }


OBJECTIVES = {
    "soft_intro": SoftIntroLoss(
        0.8, 1, 64, w_mse=0.5, w_perceptual=10, perceptual=perceptual_loss("ssim"), gamma=0.1
    ),
    "soft_intro_bootstrap": SoftIntroLoss(beta_neg=64, gamma=0.1, gamma_r=1),
    "attri_vae": AttriVAELoss(beta=2.0, gamma=10.0),
    "classifier": ClassifierLoss(beta=2.0, alpha=50.0, gamma=10.0),
    "beta_tcvae": BetaTCVAELoss(64, gamma=10.0),
    "capacity": CapacityLoss(beta=2.0, gamma=10.0),
}


def norm_pass(options, own, dtype=torch.float64, offset=0.0):
    """Three passes of one batch norm, a backward pass of each, and what eval mode then gives."""
    norm = synchronise(nn.Sequential(nn.BatchNorm2d(3, **options)))[0]
    norm.to(dtype if dtype != torch.bfloat16 else torch.float32)
    if norm.affine:
        with torch.no_grad():
            norm.weight.copy_(normal(3, seed=1)), norm.bias.copy_(normal(3, seed=2))
    found = {"outs": [], "grads": []}
    for seed in (3, 4, 5):
        x = (2 * normal(ROWS, 3, 4, 5, seed=seed) + offset).to(dtype)[own].requires_grad_()
        out = norm(x)
        out.backward(normal(ROWS, 3, 4, 5, seed=9).to(dtype)[own])
        found["outs"].append(out.detach()), found["grads"].append(x.grad)
    found["weights"] = [p.grad for p in norm.parameters()]
    found["buffers"] = list(norm.buffers())
    found["eval"] = norm.eval()(x).detach()
    return found


def norm_cases(first, rank=None):
    own = slice(None) if rank is None else (slice(0, first), slice(first, None))[rank]
    return {
        **{name: norm_pass(options, own) for name, options in NORMS.items()},
        "offset": norm_pass({}, own, torch.float32, offset=1e3),
        "bfloat16": norm_pass({}, own, torch.bfloat16),
    }


def refusal(function, *arguments):
    try:
        function(*arguments)
    except ValueError as error:
        return str(error)


def facts():
    """What only several processes show."""
    rank, rows = parallel.rank(), torch.arange(ROWS)
    uneven = torch.full((3 * rank, 2), 5.0, requires_grad=True)  # no rows in the first process
    mean = parallel.batch_mean(uneven)
    mean.sum().backward()
    network = nn.Sequential(nn.BatchNorm2d(2), nn.Dropout()).eval()
    before, keys = list(network.parameters()), list(network.state_dict())
    synchronise(network)
    parallel.barrier()
    return {
        "agreed": parallel.from_first(float(10 + rank), torch.device("cpu")),
        "place": (rank, parallel.world_size(), parallel.is_first()),
        "gathered": gather_rows(rows[parallel.share(ROWS)], ROWS),
        "one_dimension_and_half": gather_rows(rows.bfloat16()[parallel.share(ROWS)], ROWS),
        "whole": gather_rows(rows, ROWS) is rows,
        "wrong": refusal(gather_rows, rows[:2], ROWS),
        "single": gather_rows(rows[:1], 1),
        "uneven": (mean.detach(), uneven.grad),
        "synchronised": type(network[0]) is GlobalBatchNorm2d and not network[0].training,
        "kept": keys == list(network.state_dict())
        and all(a is b for a, b in zip(before, network.parameters(), strict=True)),
        "one_dimensional": refusal(synchronise, nn.Sequential(nn.BatchNorm1d(2))),
        "explicit": refusal(processes("cuda:1").__enter__),
    }


def work(folder):
    with processes("cpu") as device:
        rank = parallel.rank()
        found = {
            "device": device,
            "step": {dtype: step(dtype) for dtype in (torch.float64, torch.float32)},
            "train": {
                (name, dtype): train(dtype, objective)
                for name, objective in OBJECTIVES.items()
                for dtype in (torch.float64, torch.float32)
            },
            "norms": {name: norm_cases(first, rank) for name, first in SPLITS.items()},
            "facts": facts(),
        }
        torch.save(found, folder / f"{rank}.pt")
        parallel.barrier()
        if rank == 1:
            raise RuntimeError("one process fails")
        parallel.barrier()


# -- two processes against one ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """What two processes found, and how they ended; started as torchrun starts them."""
    folder = tmp_path_factory.mktemp("together")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "PYTHONPATH": str(Path(cardiac_attrivae.__file__).parent.parent), "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2",
    }  # fmt: skip
    running = [
        subprocess.Popen(
            [sys.executable, __file__, folder],
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        texts = [process.communicate(timeout=TIMEOUT)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    for rank, text in enumerate(texts):
        assert (folder / f"{rank}.pt").exists(), text
    found = [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]
    return found, texts, [process.returncode for process in running]


def close(found, expected, tolerance):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_loss_gradients_and_statistics_are_those_of_one_process(together, dtype):
    alone = step(dtype)
    assert len(alone) == 12  # ten parameters
    for found in together[0]:
        close(found["step"][dtype], alone, TOLERANCE[dtype])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_training_step_is_that_of_one_process(together, name, dtype):
    """Attribute pairs, batch norm and perceptual loss of the batch, noise: 4 rows here, 3 there."""
    alone = train(dtype, OBJECTIVES[name])
    assert ("exp_elbo_generated" in alone["terms"]) == name.startswith("soft_intro")
    for found in (one["train"][name, dtype] for one in together[0]):
        for key in ("terms", "weights"):
            close(found[key], alone[key], TOLERANCE[dtype])
        gap = (found["gradient"] - alone["gradient"]).norm() / alone["gradient"].norm()
        assert gap < TOLERANCE[dtype]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_processes_agree_to_the_last_bit(together, dtype):  # else their weights drift apart
    first, second = (found["step"][dtype] for found in together[0])
    close(first, second, 0)


@pytest.mark.slow
@pytest.mark.parametrize("case", [*NORMS, "offset", "bfloat16"])
@pytest.mark.parametrize("where", SPLITS)
def test_batch_norm_is_that_of_the_whole_batch(together, where, case):
    first, second = (found["norms"][where][case] for found in together[0])
    alone = norm_cases(SPLITS[where])[case]
    # float32 at an offset of 1e3 has the variance to 1e3 * 6e-8 of the deviation at best
    tolerance = 1e-3 if case == "offset" else TOLERANCE[alone["outs"][0].dtype]
    for key in ("outs", "grads"):
        joined = [torch.cat(pair) for pair in zip(first[key], second[key], strict=True)]
        close(joined, alone[key], tolerance)
    added = [a + b for a, b in zip(first["weights"], second["weights"], strict=True)]
    for found, expected in zip(added, alone["weights"], strict=True):
        close(found, expected, tolerance * expected.abs().max().item())
    close(first["buffers"], second["buffers"], 0)
    close(first["buffers"], alone["buffers"], min(tolerance, 1e-5))
    if case != "no_statistics":  # whose eval mode normalises by what it is given, here a share
        close(torch.cat([first["eval"], second["eval"]]), alone["eval"], tolerance)


@pytest.mark.slow
def test_what_each_process_sees(together):
    for rank, found in enumerate(together[0]):
        facts = found["facts"]
        assert found["device"] == torch.device("cpu")
        assert facts["place"] == (rank, 2, rank == 0)
        assert facts["agreed"] == 10
        assert torch.equal(facts["gathered"], torch.arange(ROWS))
        assert torch.equal(facts["one_dimension_and_half"], torch.arange(ROWS).bfloat16())
        assert facts["whole"]
        assert facts["wrong"].startswith(f"2 rows of n = {ROWS} in process {rank} of 2; expected")
        assert torch.equal(facts["single"], torch.zeros(1))
        mean, gradient = facts["uneven"]
        assert torch.equal(mean, torch.full((2,), 5.0))
        close(gradient, torch.full((3 * rank, 2), 2 / 3), 1e-6)  # the sum of two losses
        assert facts["synchronised"]
        assert facts["kept"]
        assert facts["one_dimensional"] == "layer 0 is BatchNorm1d; expected BatchNorm2d"
        assert facts["explicit"].startswith("device is 'cuda:1' under torchrun; expected auto")


@pytest.mark.slow
def test_no_process_outlives_one_that_fails(together):
    _, texts, codes = together
    assert codes == [1, 1]
    assert "one process fails" in texts[1]


# -- one process -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["2", "many", ""])
def test_a_number_of_processes_that_torchrun_did_not_set_is_named(monkeypatch, size):
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", size)
    message = f"WORLD_SIZE is '{size}' .* torchrun .* unset WORLD_SIZE"
    with pytest.raises(ValueError, match=message), processes("cpu"):
        pass


def test_alone_everything_returns_what_it_was_given(monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    values, gradient = normal(5, 3), normal(4)
    before = gradient.clone()
    with processes("cuda:1") as device:
        assert device == torch.device("cuda:1")
        assert (parallel.rank(), parallel.world_size(), parallel.is_first()) == (0, 1, True)
    assert parallel.share(5) == slice(0, 5)
    assert parallel.from_first(0.1, torch.device("cpu")) == 0.1
    assert gather_rows(values, 5) is values
    assert torch.equal(parallel.batch_mean(values), values.mean(dim=0))
    parallel.average_gradients([gradient])
    assert torch.equal(gradient, before)
    network = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm1d(3))
    assert synchronise(network) is network
    assert type(network[0]) is nn.BatchNorm2d
    parallel.barrier()


def test_alone_batch_norm_is_its_parent():
    x, norm, parent = normal(4, 3, 5, 5), GlobalBatchNorm2d(3).double(), nn.BatchNorm2d(3).double()
    assert torch.equal(norm(x), parent(x))
    close(norm.state_dict(), parent.state_dict(), 0)


def test_torchrun_with_one_process_starts_no_group(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    with processes(torch.device("cpu")) as device:
        assert device == torch.device("cpu")
        assert not torch.distributed.is_initialized()


@given(st.integers(0, 300), st.integers(1, 40))
def test_parts_cover_the_rows_once_and_differ_by_at_most_one(n, world):
    rows = list(range(n))
    parts = [rows[split(n, rank, world)] for rank in range(world)]
    assert sum(parts, []) == rows
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert [len(part) for part in parts] == [len(p) for p in torch.arange(n).tensor_split(world)]


if __name__ == "__main__":
    warnings.simplefilter("error")
    work(Path(sys.argv[1]))
