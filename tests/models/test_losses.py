"""Losses: equal to the published implementations, to a double loop, and to paper and pencil."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributions import Normal
from torch.distributions import kl_divergence as torch_kl

from cardiac_attrivae.models.loss_terms import (
    TARGET,
    attribute_distance,
    capacity_gap,
    kl_divergence,
    squared_error,
)
from cardiac_attrivae.models.losses import AttriVAELoss, SoftIntroLoss
from cardiac_attrivae.schema import VAEOutput

REFERENCE = Path(__file__).parents[1] / "reference"
EXACT = 1e-10  # sums of at most a few hundred float64 terms of size one


def golden(name):
    numbers = json.loads((REFERENCE / f"{name}.json").read_text())
    with np.load(REFERENCE / f"{name}.npz") as arrays:
        return numbers, {key: torch.from_numpy(arrays[key]) for key in arrays}


def close(found, expected):
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(found.detach(), expected, rtol=EXACT, atol=EXACT)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def random_output(n=6, d=8, size=12, seed=0, dtype=torch.float64):
    mu, logvar, noise = (normal(n, d, seed=seed + i, dtype=dtype) for i in range(3))
    picture = normal(n, 1, size, size, seed=seed + 3, dtype=dtype).sigmoid()
    return VAEOutput(picture, mu, logvar, mu + torch.exp(logvar / 2) * noise)


# -- golden numbers of the public implementations ----------------------------------------------


@pytest.mark.parametrize("case", ["c1", "c2_ties", "c3_const"])
def test_attribute_distance_equals_the_published_one(case):
    numbers, arrays = golden("attribute_loss")
    expected = numbers[case]
    z = arrays[f"{case}_z"].requires_grad_()
    distance = attribute_distance(z, arrays[f"{case}_y"], expected["delta"])
    close(distance, expected["per_attribute_unweighted"])
    close(distance.sum(), expected["authors_unweighted_sum"])
    total = expected["gamma"] * distance.sum()
    for source in ("arvae_total", "cetin_total", "miccai24_total"):
        close(total, expected[source])
    total.backward()
    recorded = arrays[f"{case}_grad"]
    close(z.grad, recorded)
    close(z.grad.abs().sum(), expected["grad_abs_sum"])


@pytest.mark.parametrize("source", ["taldatech", "authors", "miccai24"])
def test_kl_and_reconstruction_equal_the_published_ones(source):
    numbers, arrays = golden("kl_and_rec")
    expected = numbers[source]
    kl = kl_divergence(arrays["mu"], arrays["logvar"])
    close(kl, expected["none"])
    close(kl.mean(), expected["mean"])
    close(kl.sum(), expected["sum"])
    shifted = kl_divergence(arrays["mu"], arrays["logvar"], 1.0, 0.5)
    close(shifted.mean(), expected["mean_mu_o_1_logvar_o_0p5"])
    error = squared_error(arrays["rec"], arrays["x"])
    close(error, expected["rec_mse"]["none"])
    close(error.sum(), expected["rec_mse"]["sum"])
    if source == "miccai24":  # divides by the number of pixels as well: FORMULAS A7, line 20
        error = error / arrays["x"][0].numel()
    close(error.mean(), expected["rec_mse"]["mean"])


def test_a_head_read_as_log_of_the_standard_deviation_is_half_the_logvar():
    numbers, arrays = golden("kl_and_rec")  # ar-vae and Attri-VAE read their second head so
    kl = kl_divergence(arrays["mu"], 2 * arrays["logvar"]).mean()
    close(4 * kl, numbers["arvae_normal_scale_exp_head"]["beta4_c0"])
    close(4 * (kl - 5).abs(), numbers["arvae_normal_scale_exp_head"]["beta4_c5"])
    close(2 * kl, numbers["attrivae_KL_loss"]["KLD_2_beta2_used"])


def test_beta_vae_objective_equals_the_published_one():
    numbers, arrays = golden("beta_vae_loss")
    expected = numbers["1Konny"]
    picture = arrays["logits"].sigmoid()
    output = VAEOutput(picture, arrays["mu"], arrays["logvar"], arrays["z"])
    for beta in (1, 2, 4):
        terms = AttriVAELoss(beta=beta)(output, arrays["x"])
        close(terms["reconstruction"], expected["rec_gaussian_sigmoid_inside"])
        close(terms["kl"], beta * expected["total_kld"])
        close(sum(terms.values()), expected[f"loss_H_gaussian_beta{beta}"])


@pytest.mark.parametrize("step", [1000, 50_000, 200_000])
def test_capacity_objective_equals_the_published_one(step):
    numbers, arrays = golden("beta_vae_loss")
    error = squared_error(arrays["logits"].sigmoid(), arrays["x"]).mean()
    gap = capacity_gap(kl_divergence(arrays["mu"], arrays["logvar"]), step, 25.0, 100_000)
    expected = numbers["1Konny"][f"loss_B_gaussian_gamma1000_Cmax25_iter{step}"]
    close(error + 1000 * gap, expected)


@pytest.mark.parametrize(("gamma", "delta"), [(0, 1), (10, 10), (30, 10), (100, 100)])
def test_attri_vae_objective_equals_the_published_one(gamma, delta):
    numbers, arrays = golden("beta_vae_loss")
    output = VAEOutput(arrays["rec"], arrays["mu"], arrays["logvar"], arrays["z"])
    terms = AttriVAELoss(beta=2, gamma=gamma, delta=delta)(output, arrays["x"], arrays["attr"])
    close(terms["reconstruction"], numbers["attrivae"]["rec_gaussian"])
    recorded = f"miccai24_VAE_loss_beta2_gamma{gamma}_factor{delta if gamma else 0}"
    close(sum(terms.values()), numbers[recorded])


# -- KL ----------------------------------------------------------------------------------------


def test_kl_is_zero_at_the_prior():
    mu, logvar = normal(4, 7), normal(4, 7, seed=1)
    assert torch.equal(kl_divergence(torch.zeros(4, 7), torch.zeros(4, 7)), torch.zeros(4))
    assert not kl_divergence(mu, logvar, mu, logvar).any()
    assert not kl_divergence(mu, torch.full_like(mu, 0.5), mu, 0.5).any()


@pytest.mark.parametrize("shifted", [False, True])
def test_kl_equals_torch_distributions(shifted):
    mu, logvar = normal(5, 6), normal(5, 6, seed=1)
    prior_mu, prior_logvar = normal(6, seed=2) * shifted, normal(6, seed=3) * shifted
    posterior = Normal(mu, torch.exp(logvar / 2))
    expected = torch_kl(posterior, Normal(prior_mu, torch.exp(prior_logvar / 2))).sum(dim=1)
    close(kl_divergence(mu, logvar, prior_mu, prior_logvar), expected)


def test_kl_keeps_its_digits_near_the_prior_in_float32():
    # logvar = 1e-3: KL = (e^g - 1 - g) / 2 = 2.5e-7, where 1 + g - e^g has an error of 1e-7
    kl = kl_divergence(torch.zeros(1, 1), torch.full((1, 1), 1e-3))
    g = float(torch.tensor(1e-3))
    assert kl.item() == pytest.approx((math.expm1(g) - g) / 2, rel=1e-3)
    gaps = torch.linspace(-0.01, 0.01, 2001)[:, None]
    assert kl_divergence(torch.zeros_like(gaps), gaps).min() >= 0


# -- reconstruction ----------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "size"), [(1, 16), (2, 16), (1, 32)])
def test_squared_error_is_a_sum_over_pixels_and_channels(channels, size):
    image = torch.zeros(3, channels, size, size)
    error = squared_error(image + 0.5, image)
    assert torch.equal(error, torch.full((3,), 0.25 * channels * size * size))


def test_squared_error_never_broadcasts():
    with pytest.raises(ValueError, match=r"reconstruction is \(2, 1, 8, 8\) but image \(2, 8, 8\)"):
        squared_error(torch.zeros(2, 1, 8, 8), torch.zeros(2, 8, 8))


# -- attribute term ----------------------------------------------------------------------------

PAIRED = [target for target in TARGET.ends if target != "value"]
"""Targets that compare pairs of patients."""


def test_values_are_compared_patient_by_patient():
    z, a = normal(7, 5), normal(7, 3, seed=1)
    found = attribute_distance(z, a, target="value")
    close(found, np.abs(z[:, :3].numpy() - a.numpy()).mean(axis=0))
    shifted = attribute_distance(torch.cat([a + 2, z], dim=1), a, target="value")
    close(shifted, [2.0, 2.0, 2.0])  # unlike pairs, which a constant does not change


@pytest.mark.parametrize("target", PAIRED)
def test_attribute_distance_equals_a_double_loop(target):
    n, k, delta = 7, 3, 1.7
    z, a = normal(n, 5), normal(n, k, seed=1)
    a[3] = a[2]  # ties
    expected = []
    for c in range(k):
        total = 0.0
        for i in range(n):
            for j in range(n):
                d = float(a[i, c] - a[j, c])
                wanted = float(np.sign(d)) if target == "sign" else math.tanh(delta * d)
                total += abs(math.tanh(delta * float(z[i, c] - z[j, c])) - wanted)
        expected.append(total / n**2)
    close(attribute_distance(z, a, delta, target), expected)


@pytest.mark.parametrize("delta", [1.0, 10.0])
def test_sign_sees_only_the_order_of_the_attribute(delta):
    z, a = normal(9, 4), normal(9, 3, seed=1)
    expected = attribute_distance(z, a, delta)
    for monotone in (torch.exp, lambda v: 250 * v - 3, lambda v: v**3):
        assert torch.equal(attribute_distance(z, monotone(a), delta), expected)
    assert not torch.allclose(attribute_distance(z, -a, delta), expected)


def test_sign_vanishes_for_monotone_codes_as_delta_grows():
    a = normal(9, 2)
    z = a.exp()
    assert (attribute_distance(z, a, 1.0) > 0.1).all()
    # the nearest pair is some 1e-2 apart: tanh(1e6 * 1e-2) is 1 to the last digit
    assert attribute_distance(z, a, 1e6).max() < EXACT


def test_graded_is_zero_where_z_is_the_attribute_and_a_constant():
    a = normal(9, 3)
    z = torch.cat([a + torch.tensor([5.0, -3.0, 0.0]), normal(9, 2, seed=1)], dim=1)
    for delta in (0.5, 1.0, 3.0):
        # tanh'(0) = 1: rounding of z in the 16th digit, times delta
        assert attribute_distance(z, a, delta, "graded").max() < 1e-14


@pytest.mark.parametrize(
    "change", [lambda a: 1.01 * a, lambda a: -a, torch.sinh, lambda a: a + (a == a.amax(0)) * 1e-3]
)
def test_graded_is_positive_for_every_other_code(change):
    a = normal(9, 3)
    assert (attribute_distance(change(a), a, 1.0, "graded") > 1e-6).all()


def test_graded_descent_finds_the_attribute_and_sign_descent_does_not():
    a = normal(24, 1)
    correlation = {}
    for target in TARGET.ends:
        z = normal(24, 1, seed=1).requires_grad_()
        optimiser = torch.optim.Adam([z], lr=0.05)
        for _ in range(300):
            optimiser.zero_grad()
            attribute_distance(z, a, 1.0, target).sum().backward()
            optimiser.step()
        correlation[target] = np.corrcoef(z.detach()[:, 0], a[:, 0])[0, 1]
    assert correlation["graded"] > 0.999
    assert correlation["sign"] < correlation["graded"]


@pytest.mark.parametrize("target", PAIRED)
def test_attribute_distance_is_bounded_and_blind_to_order_of_patients(target):
    z, a = 100 * normal(8, 4), normal(8, 4, seed=1)
    distance = attribute_distance(z, a, 10.0, target)
    assert ((distance >= 0) & (distance <= 2)).all()
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    close(attribute_distance(z[order], a[order], 10.0, target), distance)


@pytest.mark.parametrize("target", PAIRED)
def test_a_batch_of_one_gives_zero_and_no_gradient(target):
    z = normal(1, 4).requires_grad_()
    distance = attribute_distance(z, normal(1, 3, seed=1), 10.0, target)
    assert torch.equal(distance, torch.zeros(3, dtype=torch.float64))
    distance.sum().backward()
    assert not z.grad.any()


def test_only_the_first_dimensions_are_regularised_in_order():
    z = normal(6, 5).requires_grad_()
    attribute_distance(z, normal(6, 2, seed=1))[1].backward()
    assert z.grad.any(dim=0).tolist() == [False, True, False, False, False]


def test_attribute_distance_takes_whole_numbers_and_other_precisions():
    z, a = normal(6, 3), torch.tensor([[0], [200], [3], [7], [255], [7]])
    expected = attribute_distance(z, a.double())
    for dtype in (torch.uint8, torch.int64, torch.float32):  # uint8: 0 - 200 must not wrap to 56
        found = attribute_distance(z, a.to(dtype))
        assert found.dtype == torch.float64
        close(found, expected)


@pytest.mark.parametrize(
    ("z", "a", "target", "message"),
    [
        ((4, 2), (4, 3), "sign", "3 attributes for 2 latent dimensions"),
        ((4, 5), (3, 3), "sign", "with the same N"),
        ((4, 5), (4,), "sign", "with the same N"),
        ((4, 5), (4, 3), "rank", "target is 'rank'; expected one of sign, graded"),
    ],
)
def test_attribute_distance_refuses_what_does_not_fit(z, a, target, message):
    with pytest.raises(ValueError, match=message):
        attribute_distance(torch.zeros(z), torch.zeros(a), target=target)


# -- gradients ---------------------------------------------------------------------------------


def test_gradients_equal_finite_differences():
    mu, logvar, a = normal(4, 5), normal(4, 5, seed=1), normal(4, 3, seed=2)
    picture, image = normal(2, 1, 3, 3), normal(2, 1, 3, 3, seed=1)
    for tensor in (mu, logvar, picture):
        tensor.requires_grad_()
    check = torch.autograd.gradcheck
    assert check(kl_divergence, (mu, logvar))
    assert check(lambda m, v: kl_divergence(m, v, 1.0, 0.5), (mu, logvar))
    assert check(squared_error, (picture, image))
    for target in TARGET.ends:
        assert check(lambda z, t=target: attribute_distance(z, a, 1.3, t), (mu,))


# -- the objective -----------------------------------------------------------------------------


def test_terms_are_weighted_means_over_the_batch():
    output, image, a = random_output(), normal(6, 1, 12, 12), normal(6, 3, seed=9)
    terms = AttriVAELoss(3.0, 7.0, 2.0)(output, image, a)
    assert list(terms) == ["reconstruction", "kl", "attribute"]
    close(terms["reconstruction"], squared_error(output.reconstruction, image).sum() / 6)
    close(terms["kl"], 3 * kl_divergence(output.mu, output.logvar).sum() / 6)
    close(terms["attribute"], 7 * attribute_distance(output.z, a, 2.0).sum())
    assert all(term.shape == () for term in terms.values())


def test_a_batch_twice_has_the_loss_of_a_batch_once():
    output, image, a = random_output(), normal(6, 1, 12, 12), normal(6, 3, seed=9)
    loss = AttriVAELoss(2.0, 10.0)
    once = loss(output, image, a)
    twice = loss(
        VAEOutput(*(torch.cat([part, part]) for part in output)),
        torch.cat([image, image]),
        torch.cat([a, a]),
    )
    for name in ("reconstruction", "kl"):
        close(twice[name], once[name])
    # each patient meets itself: a tie, and no difference in z
    close(twice["attribute"], once["attribute"])


@pytest.mark.parametrize("attributes", [None, torch.zeros(6, 3)])
def test_without_gamma_it_is_beta_vae(attributes):
    terms = AttriVAELoss(2.0)(random_output(), normal(6, 1, 12, 12), attributes)
    assert list(terms) == ["reconstruction", "kl"]


def test_attribute_codes_are_the_sample_or_the_mean():
    output, image, a = random_output(), normal(6, 1, 12, 12), normal(6, 3, seed=9)
    for choice, codes in (("sampled", output.z), ("mean", output.mu)):
        for target in TARGET.ends:
            loss = AttriVAELoss(1.0, 5.0, 2.0, target, choice)
            expected = 5 * attribute_distance(codes, a, 2.0, target).sum()
            close(loss(output, image, a)["attribute"], expected)


def test_half_precision_is_computed_in_float32():
    output, image, a = random_output(dtype=torch.float32), torch.rand(6, 1, 12, 12), normal(6, 3)
    low = VAEOutput(*(part.bfloat16() for part in output))
    loss = AttriVAELoss(2.0, 10.0)
    with torch.autocast("cpu", torch.bfloat16):
        terms = loss(low, image.bfloat16(), a.bfloat16())
    expected = loss(
        VAEOutput(*(part.float() for part in low)), image.bfloat16().float(), a.bfloat16().float()
    )
    for name, term in terms.items():
        assert term.dtype == torch.float32
        assert torch.equal(term, expected[name])


def test_float64_stays_float64():
    terms = AttriVAELoss(2.0, 10.0)(random_output(), normal(6, 1, 12, 12), normal(6, 3))
    assert {term.dtype for term in terms.values()} == {torch.float64}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beta": -1.0}, "beta is -1.0; expected a weight of at least 0"),
        ({"beta": float("nan")}, "beta is nan"),
        ({"beta": 1.0, "gamma": -2.0}, "gamma is -2.0"),
        ({"beta": 1.0, "delta": 0.0}, "delta is 0.0; expected a positive number"),
        ({"beta": 1.0, "attribute_target": "rank"}, "expected one of sign, graded"),
        ({"beta": 1.0, "attribute_codes": "mu"}, "'mu'; expected one of sampled, mean"),
    ],
)
def test_a_wrong_argument_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        AttriVAELoss(**arguments)


def test_missing_attributes_are_refused():
    with pytest.raises(ValueError, match="no attributes came with the images"):
        AttriVAELoss(2.0, 10.0)(random_output(), normal(6, 1, 12, 12))


# -- Soft-Intro VAE ------------------------------------------------------------------------------


def by_numpy(output, image):
    """Squared errors and KL of each sample, in loops and arrays of numpy."""
    parts = (output.reconstruction, image, output.mu, output.logvar)
    reconstruction, image, mu, logvar = (part.numpy() for part in parts)
    errors = [np.sum((r - x) ** 2) for r, x in zip(reconstruction, image, strict=True)]
    kl = [0.5 * np.sum(np.exp(v) + m**2 - 1 - v) for m, v in zip(mu, logvar, strict=True)]
    return np.array(errors), np.array(kl)


class Darkness(torch.nn.Module):
    """Stands for a perceptual network: one number per sample, of another kind than the error."""

    def forward(self, reconstruction, image):
        return (reconstruction.flatten(1).mean(dim=1) - image.flatten(1).mean(dim=1)).abs()


def case(n=5, d=6, size=12):
    output = random_output(n, d, size)
    return output, normal(n, 1, size, size, seed=9).sigmoid(), normal(n, 3, seed=10)


SOFT = {"beta_rec": 0.8, "beta_kl": 1.5, "beta_neg": 64.0}


@pytest.mark.parametrize("w_mse", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("scale", [None, 0.01])
def test_soft_intro_terms_equal_those_of_numpy(scale, w_mse):
    output, image, attributes = case()
    loss = SoftIntroLoss(**SOFT, w_mse=w_mse, gamma=0.1, delta=2.0, scale=scale)
    errors, kl = by_numpy(output, image)
    s = scale or 1 / 144
    terms = loss(output, image, attributes)
    assert set(terms) == {"reconstruction", "kl", "attribute"}
    close(terms["reconstruction"], s * 0.8 * w_mse * errors.mean())
    close(terms["kl"], s * 1.5 * kl.mean())
    close(terms["attribute"], 0.1 * attribute_distance(output.z, attributes, 2.0).sum())
    elbo = np.exp(-2 * s * (0.8 * w_mse * errors + 64 * kl))
    assert elbo.max() > 1e-9  # else 0 would do
    close(loss.exp_elbo(output, image), elbo.mean() / 4)


@pytest.mark.parametrize("gamma_r", [0.0, 1e-8, 0.3])
def test_the_decoders_terms_equal_those_of_numpy(gamma_r):
    output, image, _ = case()
    loss = SoftIntroLoss(**SOFT, gamma_r=gamma_r, w_mse=0.5)
    errors, kl = (values.mean() / 144 for values in by_numpy(output, image))
    close(loss.decoder_kl(output.mu, output.logvar, image), 0.5 * 1.5 * kl)
    close(loss.decoder_error(output.reconstruction, image), 0.8 * 0.5 * errors)
    generated = loss.decoder_error(output.reconstruction, image, generated=True)
    torch.testing.assert_close(
        generated, torch.tensor(0.5 * gamma_r * 0.8 * 0.5 * errors), rtol=1e-12, atol=0
    )


def test_the_perceptual_loss_counts_as_the_scalar_of_the_batch():
    """As published: in the exponential too, each sample gets the mean of all."""
    output, image, _ = case()
    loss = SoftIntroLoss(**SOFT, w_mse=0.5, w_perceptual=100, perceptual=Darkness())
    errors, kl = by_numpy(output, image)
    distances = Darkness()(output.reconstruction, image).numpy()
    assert distances.std() > 0.01
    errors = 0.5 * errors + 100 * distances.mean()
    close(loss.error(output.reconstruction, image), errors)
    close(loss(output, image)["reconstruction"], 0.8 * errors.mean() / 144)
    elbo = np.exp(-2 / 144 * (0.8 * errors + 64 * kl))
    close(loss.exp_elbo(output, image), elbo.mean() / 4)
    close(loss.decoder_error(output.reconstruction, image), 0.8 * errors.mean() / 144)


def test_without_a_weight_the_perceptual_network_is_not_asked():
    def never(*images):
        raise AssertionError("asked")

    network = torch.nn.Identity()
    network.forward = never
    output, image, _ = case()
    loss = SoftIntroLoss(**SOFT, w_perceptual=0, perceptual=network)
    expected = SoftIntroLoss(**SOFT)(output, image)
    close(loss(output, image)["reconstruction"], expected["reconstruction"])


def test_the_attribute_term_is_scaled_only_if_asked_to():
    output, image, attributes = case()
    terms = {
        scaled: SoftIntroLoss(gamma=0.1, attribute_scaled=scaled)(output, image, attributes)
        for scaled in (False, True)
    }
    plain = AttriVAELoss(beta=1, gamma=0.1)(output, image, attributes)
    close(terms[False]["attribute"], plain["attribute"])
    close(terms[True]["attribute"], plain["attribute"] / 144)
    close(terms[True]["kl"], terms[False]["kl"])


def test_the_scale_is_one_over_the_number_of_values_whatever_a_sample_is():
    loss = SoftIntroLoss()
    assert loss.scale_of(torch.zeros(7, 1, 128, 128)) == 1 / 16384
    assert loss.scale_of(torch.zeros(7, 2, 16, 16)) == 1 / 512
    assert loss.scale_of(torch.zeros(7, 2)) == 1 / 2
    assert SoftIntroLoss(scale=0.25).scale_of(torch.zeros(7, 2)) == 0.25


def test_points_in_the_plane_will_do_for_images():
    mu, logvar, points, target = (normal(5, 2, seed=seed) for seed in range(4))
    output, loss = VAEOutput(points, mu, logvar, mu), SoftIntroLoss(beta_neg=1.0, gamma=2.0)
    errors, kl = by_numpy(output, target)
    terms = loss(output, target, target[:, :1])
    close(terms["reconstruction"], errors.mean() / 2)
    close(terms["kl"], kl.mean() / 2)
    close(terms["attribute"], 2 * attribute_distance(mu, target[:, :1], 10.0).sum())
    close(loss.exp_elbo(output, target), np.exp(-errors - kl).mean() / 4)
    close(loss.decoder_error(points, target), errors.mean() / 2)


def test_the_exponential_of_the_elbo_lies_between_0_and_a_quarter_and_falls_with_kl():
    output, image, _ = case()
    same = output._replace(reconstruction=image)
    at_prior = same._replace(mu=torch.zeros_like(same.mu), logvar=torch.zeros_like(same.mu))
    close(SoftIntroLoss().exp_elbo(at_prior, image), 0.25)  # nothing lost: ELBO 0
    values = [SoftIntroLoss(beta_neg=b).exp_elbo(same, image).item() for b in (0, 1, 64, 1e9)]
    assert values == sorted(values, reverse=True)
    assert values[0] == 0.25
    assert values[-1] == 0


def test_soft_intro_terms_are_float32_of_half_precision_and_float64_of_float64():
    for dtype, expected in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        output = VAEOutput(*(part.to(dtype) for part in random_output()))
        image, loss = output.reconstruction.flip(0), SoftIntroLoss(gamma=0.1)
        terms = loss(output, image, output.mu[:, :2])
        terms["exp_elbo"] = loss.exp_elbo(output, image)
        assert {term.dtype for term in terms.values()} == {expected}


WEIGHTS = ("beta_rec", "beta_kl", "beta_neg", "gamma_r", "w_mse", "w_perceptual", "gamma")


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("value", [-1.0, float("nan")])
def test_no_weight_of_soft_intro_may_be_negative(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}; expected a weight of at least 0"):
        SoftIntroLoss(**{name: value})


def test_soft_intro_checks_its_attribute_term_like_attri_vae():
    output, image, _ = case()
    with pytest.raises(ValueError, match="delta is 0; expected a positive number"):
        SoftIntroLoss(delta=0)
    with pytest.raises(ValueError, match="attribute_target is 'rank'"):
        SoftIntroLoss(attribute_target="rank")
    with pytest.raises(ValueError, match="gamma is 1.0, but no attributes came"):
        SoftIntroLoss(gamma=1.0)(output, image)
    assert "attribute" not in SoftIntroLoss()(output, image)
