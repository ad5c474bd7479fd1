"""One iteration: what it leaves behind, what it changes, and what it must not."""

import copy
import re

import pytest
import torch
from ignite.engine import Events

from cardiac_attrivae.engines import VAEEvaluator, VAETrainer
from cardiac_attrivae.losses import AttriVAELoss
from cardiac_attrivae.networks import BetaVAE
from cardiac_attrivae.schema import Keys
from cardiac_attrivae.slices import DeviceLoader

NAMES = ("LVEDA", "RVEDA")


@pytest.fixture
def trainer_of(drawn_slices):
    """Builds a trainer of a tiny network; its last output is ``trainer.state.output``."""

    def build(seed=0, gamma=1.0, epochs=1, augment=None, **options):
        torch.manual_seed(seed)
        network = BetaVAE(latent_size=4, image_size=32)
        generator = torch.Generator().manual_seed(seed)
        loader = DeviceLoader(drawn_slices, drawn_slices.attributes(NAMES), 8, "cpu", generator)
        return VAETrainer(
            device="cpu",
            max_epochs=epochs,
            train_data_loader=loader,
            epoch_length=len(loader),
            network=network,
            optimizer=torch.optim.Adam(network.parameters(), 1e-3),
            loss_function=AttriVAELoss(beta=1.0, gamma=gamma),
            generator=generator,
            augment=augment,
            **options,
        )

    return build


@pytest.fixture
def evaluator_of(drawn_slices):
    def build(network, loss_function=None, generator=None):
        loader = DeviceLoader(drawn_slices, drawn_slices.attributes(NAMES), 8)
        return VAEEvaluator(
            device="cpu",
            val_data_loader=loader,
            epoch_length=len(loader),
            network=network,
            loss_function=loss_function,
            generator=generator,
        )

    return build


def documented_keys(engine):
    return {Keys[word] for word in re.findall(r"\b[A-Z]{2,}\b", engine._iteration.__doc__)}


def weights(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def test_training_leaves_the_keys_that_it_documents(trainer_of):
    trainer = trainer_of()
    trainer.run()
    assert set(trainer.state.output) == documented_keys(VAETrainer)


def test_evaluation_leaves_the_keys_that_it_documents(trainer_of, evaluator_of):
    evaluator = evaluator_of(trainer_of().network)
    evaluator.run()
    assert set(evaluator.state.output) == documented_keys(VAEEvaluator)
    assert evaluator.state.output[Keys.TERMS] == {}


def test_nothing_that_is_left_holds_on_to_the_graph(trainer_of):
    trainer = trainer_of()
    trainer.run()
    output = trainer.state.output
    for value in (*output.values(), *output[Keys.TERMS].values()):
        assert isinstance(value, dict) or not value.requires_grad


@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_the_loss_is_the_sum_of_its_terms_and_gamma_0_leaves_the_attributes_out(trainer_of, gamma):
    trainer = trainer_of(gamma=gamma)
    trainer.run()
    terms = trainer.state.output[Keys.TERMS]
    assert trainer.state.output[Keys.LOSS] == sum(terms.values())
    assert ("attribute" in terms) == (gamma > 0)


def test_one_step_is_one_step_of_the_optimiser_on_that_loss(trainer_of):
    """The same batch and noise, by hand."""
    trainer, twin = trainer_of(), trainer_of()
    network, generator = twin.network, twin.generator
    batch = next(iter(twin.data_loader))
    noise = torch.randn(1, 8, 4, generator=generator)[0]
    output = network(batch[Keys.IMAGE], noise)
    sum(twin.loss_function(output, batch[Keys.IMAGE], batch[Keys.ATTRIBUTES]).values()).backward()
    twin.optimizer.step()

    trainer._iteration(trainer, next(iter(trainer.data_loader)))
    assert torch.allclose(weights(trainer.network), weights(network), atol=1e-7)


def test_one_seed_gives_bit_equal_weights_and_another_gives_others(trainer_of):
    trainers = [trainer_of(seed, epochs=3) for seed in (3, 3, 4)]
    for trainer in trainers:
        torch.manual_seed(torch.seed() % 2**31)  # nothing may rest on the global generator
        trainer.run()
    first, again, other = (weights(trainer.network) for trainer in trainers)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_every_row_is_seen_once_in_an_epoch(trainer_of, drawn_slices):
    trainer, rows = trainer_of(), []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED,
        lambda engine: rows.extend(engine.state.output[Keys.ROW].tolist()),
    )
    trainer.run()
    assert sorted(rows) == list(range(len(drawn_slices)))


def test_augment_is_given_batch_and_generator_and_what_it_returns_is_trained_on(trainer_of):
    seen = []

    def augment(batch, generator):
        seen.append((set(batch), generator, torch.is_grad_enabled()))
        return batch | {Keys.IMAGE: torch.zeros_like(batch[Keys.IMAGE])}

    trainer = trainer_of(augment=augment)
    trainer.run()
    assert len(seen) == trainer.state.epoch_length
    expected = {Keys.IMAGE, Keys.LABEL, Keys.ATTRIBUTES, Keys.ROW}
    assert seen[0] == (expected, trainer.generator, False)
    assert (trainer.state.output[Keys.IMAGE] == 0).all()


def test_under_bfloat16_terms_and_outputs_are_float32_and_finite(trainer_of):
    trainer = trainer_of(precision=torch.bfloat16)
    trainer.run()
    output = trainer.state.output
    for value in (*output[Keys.TERMS].values(), output[Keys.LOSS], output[Keys.RECONSTRUCTION]):
        assert value.dtype == torch.float32
        assert value.isfinite().all()
    assert {p.dtype for p in trainer.network.parameters()} == {torch.float32}


def test_bfloat16_is_really_used(trainer_of):
    kinds = []
    trainer = trainer_of(precision=torch.bfloat16)
    trainer.network.encoder[0].register_forward_hook(lambda m, i, out: kinds.append(out.dtype))
    trainer.run()
    assert set(kinds) == {torch.bfloat16}


def test_scheduler_and_running_average_move_once_a_step(trainer_of):
    from torch.optim.lr_scheduler import LambdaLR
    from torch.optim.swa_utils import AveragedModel

    trainer = trainer_of()
    trainer.schedulers = (LambdaLR(trainer.optimizer, lambda step: 1 / (1 + step)),)
    trainer.averaged = AveragedModel(trainer.network)
    trainer.run()
    steps = trainer.state.epoch_length
    assert trainer.schedulers[0].last_epoch == steps == int(trainer.averaged.n_averaged)
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 / (1 + steps))


def test_evaluation_encodes_to_the_mean_and_changes_no_weight(trainer_of, evaluator_of):
    network = trainer_of().network
    before = copy.deepcopy(network.state_dict())
    evaluator = evaluator_of(network, AttriVAELoss(beta=1.0, gamma=1.0))
    evaluator.run()
    output = evaluator.state.output
    assert not network.training
    assert torch.equal(output[Keys.LATENT], output[Keys.MU])
    assert set(output[Keys.TERMS]) == {"reconstruction", "kl", "attribute"}
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())


def test_an_evaluation_twice_is_the_same_and_keeps_the_order_of_the_rows(
    trainer_of, evaluator_of, drawn_slices
):
    rows, means = [], []
    evaluator = evaluator_of(trainer_of().network)

    @evaluator.on(Events.ITERATION_COMPLETED)
    def keep(engine):
        rows.extend(engine.state.output[Keys.ROW].tolist())
        means.append(engine.state.output[Keys.MU])

    evaluator.run()
    evaluator.run()
    assert rows == 2 * list(range(len(drawn_slices)))
    first, second = means[: len(means) // 2], means[len(means) // 2 :]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_with_a_generator_evaluation_samples_the_codes_around_the_mean(trainer_of, evaluator_of):
    network = trainer_of().network
    outputs = []
    for seed in (1, 1, 2):
        evaluator = evaluator_of(network, generator=torch.Generator().manual_seed(seed))
        evaluator.run()
        outputs.append(evaluator.state.output)
    first, again, other = (output[Keys.LATENT] for output in outputs)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, outputs[0][Keys.MU])
