"""Losses in the place of beta times KL: equal to the formulas of their papers, written out."""

import math

import numpy as np
import pytest
import torch

from cardiac_attrivae.models.kl_losses import BetaTCVAELoss, CapacityLoss
from cardiac_attrivae.models.loss_terms import attribute_distance, kl_parts, squared_error
from cardiac_attrivae.models.losses import AttriVAELoss
from cardiac_attrivae.schema import VAEOutput

EXACT = 1e-10


def output_of(n=6, d=4, seed=0):
    draw = np.random.default_rng(seed)
    mu, logvar, noise = draw.normal(size=(3, n, d))
    rebuilt = draw.random((n, 1, 5, 5))
    codes = mu + np.exp(logvar / 2) * noise
    return VAEOutput(*map(torch.from_numpy, (rebuilt, mu, logvar, codes)))


def image_of(output, seed=1):
    return torch.from_numpy(np.random.default_rng(seed).random(output.reconstruction.shape))


def density(x, mean, logvar):
    """Of a normal distribution, in numbers and not in logarithms."""
    return math.exp(-((x - mean) ** 2) / (2 * math.exp(logvar))) / math.sqrt(
        2 * math.pi * math.exp(logvar)
    )


def by_hand(output, samples):
    """The three parts by loops over codes, posteriors and dimensions."""
    z, mu, logvar = (part.numpy() for part in (output.z, output.mu, output.logvar))
    m, d = z.shape
    information = correlation = dimensions = 0.0
    for i in range(m):
        table = np.array(
            [[density(z[i, k], mu[j, k], logvar[j, k]) for k in range(d)] for j in range(m)]
        )
        own = math.log(table[i].prod())
        joint = math.log(table.prod(axis=1).sum() / (samples * m))
        single = sum(math.log(table[:, k].sum() / (samples * m)) for k in range(d))
        prior = sum(math.log(density(z[i, k], 0, 0)) for k in range(d))
        information += (own - joint) / m
        correlation += (joint - single) / m
        dimensions += (single - prior) / m
    return information, correlation, dimensions


@pytest.mark.parametrize("samples", [1, 6, 64])
@pytest.mark.parametrize("shape", [(6, 4), (1, 3), (5, 1)])
def test_the_parts_of_the_kl_equal_the_formulas_in_loops(samples, shape):
    output = output_of(*shape)
    found = [float(part) for part in kl_parts(output.z, output.mu, output.logvar, samples)]
    assert found == pytest.approx(by_hand(output, samples), rel=EXACT, abs=EXACT)


def test_the_parts_add_up_to_the_kl_at_the_drawn_codes():
    output = output_of()
    z, mu, logvar = (part.numpy() for part in (output.z, output.mu, output.logvar))
    gaps = (z - mu) ** 2 / np.exp(logvar) + logvar - z**2
    parts = kl_parts(output.z, output.mu, output.logvar, 64)
    assert float(sum(parts)) == pytest.approx(-0.5 * gaps.sum() / len(z), rel=EXACT)


def test_one_dimension_has_no_total_correlation_and_a_copied_one_has():
    one = output_of(40, 1)
    posterior = one.z, one.mu, one.logvar
    assert abs(float(kl_parts(*posterior, 40)[1])) < EXACT
    alone = kl_parts(*(torch.cat([part, part.flip(0)], dim=1) for part in posterior), 40)[1]
    copied = kl_parts(*(part.repeat(1, 2) for part in posterior), 40)[1]
    assert copied > alone + 0.1


def test_the_number_of_samples_moves_no_gradient():
    gradients = []
    for samples in (6, 600):
        output = output_of()
        leaves = [part.requires_grad_() for part in (output.z, output.mu, output.logvar)]
        information, correlation, dimensions = kl_parts(*leaves, samples)
        gradients.append(
            torch.autograd.grad(information + 6 * correlation + 2 * dimensions, leaves)
        )
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=EXACT, atol=EXACT)


def test_the_mutual_information_of_posteriors_that_do_not_overlap_is_its_largest_without_gradient():
    codes = torch.arange(5.0, dtype=torch.float64)[:, None].repeat(1, 3).requires_grad_()
    information = kl_parts(codes, codes.detach(), torch.full_like(codes, -8.0), 64)[0]
    assert float(information.detach()) == pytest.approx(math.log(64 * 5), rel=EXACT)
    assert torch.autograd.grad(information, codes)[0].abs().max() < EXACT
    assert kl_parts(*output_of()[3:], *output_of()[1:3], 64)[0] < math.log(64 * 6)


def test_densities_that_underflow_still_have_a_logarithm():
    codes = 100 * torch.arange(4.0)[:, None].repeat(1, 32)
    parts = kl_parts(codes, codes, torch.full_like(codes, -6.0), 4)
    assert all(part.isfinite() for part in parts)


def test_beta_tcvae_weights_each_part_and_keeps_the_other_terms():
    output, attributes = output_of(), torch.from_numpy(np.random.default_rng(2).normal(size=(6, 2)))
    image = image_of(output)
    loss = BetaTCVAELoss(64, alpha=0.5, beta=6.0, beta_kl=2.0, gamma=3.0, delta=2.0)
    terms = loss(output, image, attributes)
    information, correlation, dimensions = by_hand(output, 64)
    expected = {
        "reconstruction": float(squared_error(output.reconstruction, image).mean()),
        "mutual_information": 0.5 * information,
        "total_correlation": 6 * correlation,
        "dimension_kl": 2 * dimensions,
        "attribute": 3 * float(attribute_distance(output.z, attributes, 2.0).sum()),
    }
    assert list(terms) == list(expected)
    found = {name: float(term) for name, term in terms.items()}
    assert found == pytest.approx(expected, rel=EXACT)
    assert "attribute" not in BetaTCVAELoss(64)(output, image)


@pytest.mark.parametrize("done", [0, 1, 500, 1000, 5000])
def test_the_capacity_objective_equals_its_formula(done):
    output = output_of()
    mu, logvar = output.mu.numpy(), output.logvar.numpy()
    kl = (0.5 * (mu**2 + np.exp(logvar) - logvar - 1)).sum(axis=1).mean()
    loss = CapacityLoss(beta=30, capacity=20, capacity_steps=1000)
    loss.steps_done = done
    terms = loss(output, image_of(output))
    assert list(terms) == ["reconstruction", "capacity_gap"]
    expected = 30 * abs(kl - 20 * min(done, 1000) / 1000)
    assert float(terms["capacity_gap"]) == pytest.approx(expected, rel=EXACT)


def test_without_capacity_the_objective_is_beta_vae():
    output = output_of()
    image = image_of(output)
    terms = CapacityLoss(beta=2, capacity=0)(output, image)
    plain = AttriVAELoss(beta=2)(output, image)
    assert float(terms["capacity_gap"]) == pytest.approx(float(plain["kl"]), rel=EXACT)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BetaTCVAELoss(0), "samples is 0; expected a whole number, 1 or more"),
        (lambda: BetaTCVAELoss(5, alpha=-1), "alpha is -1; expected a weight of at least 0"),
        (lambda: BetaTCVAELoss(5, beta_kl=-1), "beta_kl is -1"),
        (lambda: BetaTCVAELoss(5, gamma=-1), "gamma is -1"),
        (lambda: CapacityLoss(capacity=-1), "capacity is -1; expected a weight of at least 0"),
        (lambda: CapacityLoss(capacity_steps=0), "capacity_steps is 0; expected a whole number"),
    ],
)
def test_wrong_options_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()
