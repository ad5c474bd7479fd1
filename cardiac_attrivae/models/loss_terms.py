"""Terms that objectives are made of: pure functions, one number per sample or per attribute.

Terms are computed in float32 also where autocast hands in half precision; float64 stays float64.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..runtime.validation import one_of, require
from .precision import at_least_float32

TARGET = one_of("sign", "graded", "value")
"""What `attribute_distance` compares the codes with."""


def kl_divergence(
    mu: Tensor, logvar: Tensor, prior_mu: Tensor | float = 0.0, prior_logvar: Tensor | float = 0.0
) -> Tensor:
    r"""Computes the KL divergence of a diagonal Gaussian from a diagonal Gaussian prior.

    .. math:: \mathrm{KL}_n = \tfrac12 \sum_d e^{g} - 1 - g + e^{-\lambda_d} (\mu_{nd} - m_d)^2,
        \quad g = \log\sigma^2_{nd} - \lambda_d

    Args:
        mu: Posterior means, (N, D).
        logvar: Logs of the posterior variances, (N, D).
        prior_mu: m, broadcast to (N, D).
        prior_logvar: lambda, broadcast to (N, D).

    Returns:
        Sum over the latent dimensions in nats, (N,).

    References:
        | Auto-encoding variational Bayes (Kingma & Welling, 2014), appendix B
        | https://arxiv.org/abs/1312.6114

    Example:
        >>> mu, logvar = torch.tensor([[0.0, 0.0], [1.0, 2.0]]), torch.zeros(2, 2)
        >>> kl_divergence(mu, logvar)  # 0 at the prior, else half the squared distance
        tensor([0.0000, 2.5000])
    """
    mu, logvar = at_least_float32(mu), at_least_float32(logvar)
    gap = logvar - prior_logvar
    precision = (
        torch.exp(-prior_logvar) if isinstance(prior_logvar, Tensor) else math.exp(-prior_logvar)
    )
    # expm1: e^g - 1 loses every digit of float32 where a dimension sits at the prior
    return 0.5 * (torch.expm1(gap) - gap + precision * (mu - prior_mu) ** 2).sum(dim=1)


def squared_error(reconstruction: Tensor, image: Tensor) -> Tensor:
    """Sums the squared error of each image (N, C, H, W) over channels and pixels, (N,).

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> squared_error(torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 4, 4))
        tensor([16., 16.])
    """
    if reconstruction.shape != image.shape:
        raise ValueError(
            f"reconstruction is {tuple(reconstruction.shape)} but image {tuple(image.shape)}; "
            "expected the same (N, C, H, W)"
        )
    difference = at_least_float32(reconstruction) - at_least_float32(image)
    return (difference**2).flatten(1).sum(dim=1)


def attribute_distance(
    z: Tensor, attributes: Tensor, delta: float = 1.0, target: str = "sign"
) -> Tensor:
    r"""Penalises latent dimension k for not following attribute k.

    .. math:: L_k = \frac{1}{N^2} \sum_{ij} |\tanh(\delta (z_{ik} - z_{jk})) - T(a_{ik} - a_{jk})|

    * ``sign``, published: T is the sign, so only the order of the attribute counts. The codes are
      pushed apart without limit, because the tanh never reaches 1, and a pair of patients counts
      as much if they differ by 1 mL as if they differ by 100 mL.
    * ``graded``, ours: T(d) = tanh(delta d), so L_k = 0 exactly where z_k = a_k + const. The code
      is then linear in the attribute, which is what Interpretability measures, and pairs that
      hardly differ count little. Give standardised attributes: z takes their unit.
    * ``value``, ours: L_k is the mean of |z_ik - a_ik|. No pairs are compared, so that the zero of
      the code is that of the attribute, too: a `ShapeModel` draws a size for each value.

    All N^2 ordered pairs are averaged, also those of a sample with itself, which give 0.

    Args:
        z: Latent codes, the first K dimensions regularised in order, (N, D) with D >= K.
        attributes: Attribute values, (N, K); nan makes its attribute nan.
        delta: Sharpness of the comparison; ``factor`` in the published code.
        target: ``sign``, ``graded`` or ``value``.

    Returns:
        One penalty per attribute, (K,), each in [0, 2]; those of values have no upper end.

    Raises:
        ValueError: If D < K, the batches differ in length, or the target is unknown.

    References:
        | Attribute-based regularization of latent spaces (Pati & Lerch, 2021)
        | https://arxiv.org/abs/2004.05485

    Example:
        >>> volume = torch.tensor([[-1.0], [0.0], [1.0]])  # mL, standardised
        >>> attribute_distance(volume, volume, target="graded")  # the code is the attribute
        tensor([0.])
        >>> attribute_distance(-volume, volume, delta=100.0)  # the order is reversed
        tensor([1.3333])
    """
    require("target", target, TARGET)
    if z.ndim != 2 or attributes.ndim != 2 or len(z) != len(attributes):
        raise ValueError(
            f"z is {tuple(z.shape)} and attributes {tuple(attributes.shape)}; "
            "expected (N, D) and (N, K) with the same N"
        )
    k = attributes.shape[1]
    if z.shape[1] < k:
        raise ValueError(
            f"{k} attributes for {z.shape[1]} latent dimensions; expected at least one for each"
        )
    if target == "value":
        return (at_least_float32(z[:, :k]) - attributes).abs().mean(dim=0)
    wanted = _differences(at_least_float32(attributes))
    wanted = torch.sign(wanted) if target == "sign" else torch.tanh(delta * wanted)
    found = torch.tanh(delta * _differences(at_least_float32(z[:, :k])))
    return (found - wanted.to(found.dtype)).abs().mean(dim=(0, 1))


def capacity_gap(
    kl: Tensor, step: int, capacity: float = 25.0, capacity_steps: int = 100_000
) -> Tensor:
    """Computes |mean KL - C|, a scalar, with a capacity C in nats that grows linearly from 0 to its
    final value in the given number of steps.

    ``kl`` is the `kl_divergence` of each sample, (N,). Multiplied by its weight (1000 in the
    source), the gap replaces beta times KL.

    References:
        | Understanding disentangling in beta-VAE (Burgess et al., 2018)
        | https://arxiv.org/abs/1804.03599

    Example:
        >>> capacity_gap(torch.tensor([10.0, 20.0]), step=500, capacity=20, capacity_steps=1000)
        tensor(5.)
    """
    return (kl.mean() - capacity * min(step / capacity_steps, 1.0)).abs()


def kl_parts(z: Tensor, mu: Tensor, logvar: Tensor, samples: int) -> tuple[Tensor, Tensor, Tensor]:
    r"""Splits the KL divergence into mutual information, total correlation and dimension-wise KL.

    The density of codes over all N samples is estimated from the M of a batch, each weighted by
    1 / (N M) (minibatch-weighted sampling), that of each dimension likewise:

    .. math::
        q(z_i) &= \frac{1}{N M} \sum_j q(z_i | x_j), \quad
        q_d(z_{id}) = \frac{1}{N M} \sum_j q(z_{id} | x_j) \\
        \mathrm{MI} &= \frac1M \sum_i \log q(z_i | x_i) - \log q(z_i) \\
        \mathrm{TC} &= \frac1M \sum_i \log q(z_i) - \sum_d \log q_d(z_{id}) \\
        \mathrm{DKL} &= \frac1M \sum_i \sum_d \log q_d(z_{id}) - \log p(z_{id})

    Their sum is the KL divergence at the drawn codes. The estimate is biased: with few samples in a
    batch, TC comes out too high. MI is at most log(N M), where posteriors do not overlap and it has
    no gradient. N moves the values and no gradient.

    Args:
        z: Codes drawn from the posteriors, (M, D).
        mu: Posterior means, (M, D).
        logvar: Logs of the posterior variances, (M, D).
        samples: N, the number of samples that are trained on.

    Returns:
        Index-code mutual information, total correlation and dimension-wise KL, scalars in nats.

    References:
        | Isolating sources of disentanglement in VAEs (Chen et al., 2018)
        | https://arxiv.org/abs/1802.04942

    Example:
        >>> codes, logvar = torch.tensor([[-1.0], [1.0]]), torch.zeros(2, 1)
        >>> [round(float(part), 4) for part in kl_parts(codes, codes, logvar, samples=2)]
        [1.2594, 0.0, -0.7594]
    """
    z, mu, logvar = (at_least_float32(values) for values in (z, mu, logvar))
    gaps = (z[:, None] - mu[None]) ** 2 * torch.exp(-logvar)  # of code i from posterior j
    each = -0.5 * (gaps + logvar + math.log(2 * math.pi))  # (M, M, D)
    weight = math.log(samples * len(z))
    of_code = each.diagonal().sum()  # the sum over i and d
    joint = (torch.logsumexp(each.sum(dim=2), dim=1) - weight).sum()
    single = (torch.logsumexp(each, dim=1) - weight).sum()
    prior = -0.5 * (z**2 + math.log(2 * math.pi)).sum()
    information, correlation, dimensions = of_code - joint, joint - single, single - prior
    return information / len(z), correlation / len(z), dimensions / len(z)


def _differences(values: Tensor) -> Tensor:
    """All ordered pairs, (N, K) -> (N, N, K)."""
    return values[:, None] - values[None]
