"""A step with a target decoder equals its formula, written in numpy for linear networks."""

import numpy as np
import pytest
import torch
from torch import nn

from cardiac_attrivae.models.losses import SoftIntroLoss
from cardiac_attrivae.schema import Keys
from cardiac_attrivae.training.bootstrap_engine import BootstrapTrainer

EXACT = 1e-10
WEIGHTS = {"beta_rec": 0.7, "beta_kl": 0.9, "beta_neg": 3.0, "gamma_r": 0.8, "gamma": 0.4}
POINTS, NOISE = 5, 6


class Points(nn.Module):
    """A linear autoencoder of points with three coordinates."""

    latent_size = 2

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(3, 4).double(), nn.Linear(2, 3).double()

    def encode(self, x):
        return self.encoder(x).chunk(2, dim=1)

    def decode(self, z):
        return self.decoder(z)


@pytest.fixture
def case():
    """Builds a trainer whose target differs from its decoder, and what one step takes."""

    def build(shared=True):
        torch.manual_seed(0)
        network = Points()
        optimisers = [torch.optim.SGD(part.parameters(), 0.05) for part in network.children()]
        trainer = BootstrapTrainer(
            device="cpu", max_epochs=3, train_data_loader=[None], epoch_length=1,
            network=network, optimizer=optimisers[0], decoder_optimizer=optimisers[1],
            loss_function=SoftIntroLoss(**WEIGHTS, delta=2.0), shared_passes=shared,
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        with torch.no_grad():
            for parameter in trainer.target.parameters():
                parameter.add_(0.3)
        trainer.state.epoch = 1
        draw = np.random.default_rng(1)
        arrays = draw.normal(size=(POINTS, 3)), draw.normal(size=(NOISE, POINTS, 2))
        return trainer, *arrays

    return build


class ByHand:
    """The same networks and objectives in numpy, with weights of any moment."""

    scale = 1 / 3  # one over the number of coordinates

    def __init__(self, trainer):
        parts = trainer.network.encoder, trainer.network.decoder, trainer.target
        copies = [[p.detach().numpy().copy() for p in part.parameters()] for part in parts]
        self.encoder, self.decoder, self.target = copies

    @staticmethod
    def linear(x, layer):
        return x @ layer[0].T + layer[1]

    def encode(self, x, noise):
        mu, logvar = np.split(self.linear(x, self.encoder), 2, axis=1)
        kl = 0.5 * (np.exp(logvar) + mu**2 - logvar - 1).sum(axis=1)
        return kl, mu + np.exp(logvar / 2) * noise

    def error(self, x, other):
        return ((x - other) ** 2).sum(axis=1)

    def of_encoder(self, x, noise, attributes):
        """Its loss; the code that it drew, for the decoder's step."""
        w, kl, code = WEIGHTS, *self.encode(x, noise[1])
        rebuilt, prior = self.linear(code, self.decoder), self.linear(noise[0], self.decoder)
        loss = self.scale * (
            w["beta_rec"] * self.error(rebuilt, x).mean() + w["beta_kl"] * kl.mean()
        )
        for image, draw in ((rebuilt, noise[2]), (prior, noise[3])):
            again_kl, again = self.encode(image, draw)
            r = self.error(self.linear(again, self.target), image)
            elbo = w["beta_rec"] * r + w["beta_neg"] * again_kl
            loss += 0.25 * np.exp(-2 * self.scale * elbo).mean()
        signs = np.sign(attributes[:, None, 0] - attributes[None, :, 0])
        gaps = np.tanh(2.0 * (code[:, None, 0] - code[None, :, 0])) - signs
        return loss + w["gamma"] * abs(gaps).mean(), code

    def of_decoder(self, x, noise, code):
        """Its loss; the target decodes what was encoded of generated points."""
        w = WEIGHTS
        rebuilt, prior = self.linear(code, self.decoder), self.linear(noise[0], self.decoder)
        loss = w["beta_rec"] * self.error(rebuilt, x).mean()
        for image, draw in ((rebuilt, noise[4]), (prior, noise[5])):
            kl, again = self.encode(image, draw)
            r = self.error(self.linear(again, self.target), image).mean()
            loss += 0.5 * (w["beta_kl"] * kl.mean() + w["gamma_r"] * w["beta_rec"] * r)
        return self.scale * loss


@pytest.mark.parametrize("shared", [True, False])
def test_a_step_equals_the_formulas_in_numpy(case, shared):
    trainer, x, noise = case(shared)
    before = ByHand(trainer)
    _, terms, _ = trainer.step(*map(torch.from_numpy, (x, x[:, :1], noise)))
    of_encoder, code = before.of_encoder(x, noise, x[:, :1])
    after = ByHand(trainer)
    after.decoder = before.decoder  # the encoder has moved before the decoder's step
    of_decoder = after.of_decoder(x, noise, code)
    found = [
        sum(term.item() for name, term in terms.items() if name.startswith("decoder_") == part)
        for part in (False, True)
    ]
    assert found == pytest.approx([of_encoder, of_decoder], rel=EXACT)


def test_the_gradient_of_the_decoder_comes_through_target_and_encoder(case):
    trainer, x, noise = case()
    before = ByHand(trainer)
    trainer.step(*map(torch.from_numpy, (x, x[:, :1], noise)))
    code, after = before.of_encoder(x, noise, x[:, :1])[1], ByHand(trainer)
    after.decoder = before.decoder
    small = 1e-6
    for layer, parameter in zip(after.decoder, trainer.network.decoder.parameters(), strict=True):
        for index in np.ndindex(layer.shape):
            ends = []
            for move in (small, -small):
                layer[index] += move
                ends.append(after.of_decoder(x, noise, code))
                layer[index] -= move
            slope = (ends[0] - ends[1]) / (2 * small)
            assert float(parameter.grad[index]) == pytest.approx(slope, abs=1e-8)


def test_a_step_trains_encoder_and_decoder_and_leaves_the_target(case):
    trainer, x, noise = case()
    parts = trainer.network.encoder, trainer.network.decoder, trainer.target
    before = [[p.detach().clone() for p in part.parameters()] for part in parts]
    trainer.step(*map(torch.from_numpy, (x, x[:, :1], noise)))
    same = [
        all(torch.equal(a, b) for a, b in zip(old, part.parameters(), strict=True))
        for old, part in zip(before, parts, strict=True)
    ]
    assert same == [False, False, True]
    assert all(p.grad is None for p in trainer.target.parameters())
    assert trainer.network.decoder is parts[1]


@pytest.mark.parametrize("every", [1, 2])
def test_the_target_is_the_decoder_of_the_end_of_an_epoch(every):
    torch.manual_seed(0)
    network, points = Points(), torch.randn(6, 3, dtype=torch.float64)
    batch = {Keys.IMAGE: points, Keys.ATTRIBUTES: points[:, :1], Keys.ROW: torch.arange(6)}
    adams = [torch.optim.Adam(part.parameters(), 1e-2) for part in network.children()]
    trainer = BootstrapTrainer(
        device="cpu", max_epochs=3, train_data_loader=[batch], epoch_length=1, network=network,
        optimizer=adams[0], decoder_optimizer=adams[1], target_epochs=every,
        loss_function=SoftIntroLoss(**WEIGHTS), generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    trainer.run()
    same = torch.equal(trainer.target.weight, network.decoder.weight)
    assert same == (every == 1)
