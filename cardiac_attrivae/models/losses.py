r"""Pure terms, one number per sample or per attribute, and the objectives made of them.

What the weights mean follows from the reductions, which are the published ones: squared errors are
**summed** over pixels and channels, KL over latent dimensions, the attribute term over attributes;
then everything is averaged over the batch (over all pairs of it). Hence

* a Gaussian decoder with standard deviation s per pixel gives SSE / (2 s^2) + KL, so
  beta = 2 s^2: beta 2 takes s = 1 on intensities in [0, 1], beta 1 takes s = .71;
* with errors averaged over the pixels, the same trade-off would be beta / (C H W): beta 2 at
  128 x 128 is 1.2e-4 there, and beta 2 with a pixel mean is 32768 here;
* each attribute adds at most 2 gamma, whatever the size of the image. Soft-IntroVAE divides
  reconstruction and KL by C H W but not the attribute term: its gamma .1 is 1638 here.

Terms are computed in float32 also where autocast hands in half precision; float64 stays float64.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..runtime.distributed import batch_mean, gather_rows
from ..schema import VAEOutput

TARGETS = ("sign", "graded")
"""What `attribute_distance` compares the codes with."""


def kl_divergence(
    mu: Tensor, logvar: Tensor, prior_mu: Tensor | float = 0.0, prior_logvar: Tensor | float = 0.0
) -> Tensor:
    r"""KL divergence of a diagonal Gaussian from a diagonal Gaussian prior.

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
    """
    mu, logvar = _at_least_float32(mu), _at_least_float32(logvar)
    gap = logvar - prior_logvar
    precision = (
        torch.exp(-prior_logvar) if isinstance(prior_logvar, Tensor) else math.exp(-prior_logvar)
    )
    # expm1: e^g - 1 loses every digit of float32 where a dimension sits at the prior
    return 0.5 * (torch.expm1(gap) - gap + precision * (mu - prior_mu) ** 2).sum(dim=1)


def squared_error(reconstruction: Tensor, image: Tensor) -> Tensor:
    """Squared error of each image, summed over channels and pixels.

    Args:
        reconstruction: (N, C, H, W).
        image: (N, C, H, W).

    Returns:
        Sums, not means, (N,).

    Raises:
        ValueError: If the shapes differ.
    """
    if reconstruction.shape != image.shape:
        raise ValueError(
            f"reconstruction is {tuple(reconstruction.shape)} but image {tuple(image.shape)}; "
            "expected the same (N, C, H, W)"
        )
    difference = _at_least_float32(reconstruction) - _at_least_float32(image)
    return (difference**2).flatten(1).sum(dim=1)


def attribute_distance(
    z: Tensor, attributes: Tensor, delta: float = 1.0, target: str = "sign"
) -> Tensor:
    r"""Penalises latent dimension k for not following attribute k.

    .. math:: L_k = \frac{1}{N^2} \sum_{ij} |\tanh(\delta (z_{ik} - z_{jk})) - T(a_{ik} - a_{jk})|

    * ``sign``, published: T is the sign, so only the order of the attribute counts. z_k is pushed
      apart without end, for the tanh never reaches 1, and two patients that differ by a hair
      pull as hard as two that differ by half the heart.
    * ``graded``, ours: T(d) = tanh(delta d), so L_k = 0 exactly where z_k = a_k + const. The code
      is then linear in the attribute, which is what Interpretability measures, and near-ties weigh
      little. Attributes must come standardised: their unit becomes that of z.

    All N^2 ordered pairs count, the diagonal with 0; hence a batch of one gives 0.

    Args:
        z: Latent codes, the first K dimensions regularised in order, (N, D) with D >= K.
        attributes: Attribute values, (N, K); nan makes its attribute nan.
        delta: Sharpness of the comparison, the ``factor`` of the published code.
        target: ``sign`` or ``graded``.

    Returns:
        One penalty per attribute, (K,), each in [0, 2].

    Raises:
        ValueError: If D < K, the batches differ in length, or the target is unknown.

    References:
        | Attribute-based regularization of latent spaces (Pati & Lerch, 2021)
        | https://arxiv.org/abs/2004.05485
    """
    _check_target(target)
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
    wanted = _differences(_at_least_float32(attributes))
    wanted = torch.sign(wanted) if target == "sign" else torch.tanh(delta * wanted)
    found = torch.tanh(delta * _differences(_at_least_float32(z[:, :k])))
    return (found - wanted.to(found.dtype)).abs().mean(dim=(0, 1))


def capacity_gap(
    kl: Tensor, step: int, capacity: float = 25.0, capacity_steps: int = 100_000
) -> Tensor:
    """|mean KL - C| with a capacity C that grows linearly from 0 to its final value.

    Times its weight (1000 in the source) it replaces beta times KL.

    Args:
        kl: `kl_divergence`, (N,).
        step: Optimiser steps done.
        capacity: Final C in nats.
        capacity_steps: Steps until then.

    References:
        | Understanding disentangling in beta-VAE (Burgess et al., 2018)
        | https://arxiv.org/abs/1804.03599
    """
    return (kl.mean() - capacity * min(step / capacity_steps, 1.0)).abs()


class AttributeLoss(nn.Module):
    """The attribute term, which the objectives below have in common.

    Args:
        gamma: Weight of the attribute term; 0 leaves it out.
        delta: Sharpness of its comparison.
        attribute_target: ``sign`` (published) or ``graded``, see `attribute_distance`.
        attribute_codes: What the attribute term sees: ``sampled`` z (published) or the ``mean``.

    Raises:
        ValueError: If a weight is negative, delta is not positive, or a choice is unknown.
    """

    def __init__(
        self, gamma: float, delta: float, attribute_target: str, attribute_codes: str
    ) -> None:
        super().__init__()
        _check_weights(gamma=gamma)
        if not delta > 0:
            raise ValueError(f"delta is {delta}; expected a positive number")
        _check_target(attribute_target)
        if attribute_codes not in ("sampled", "mean"):
            raise ValueError(
                f"unknown attribute_codes {attribute_codes!r}; expected one of sampled, mean"
            )
        self.gamma, self.delta = gamma, delta
        self.attribute_target, self.attribute_codes = attribute_target, attribute_codes

    def attribute_term(self, output: VAEOutput, attributes: Tensor | None) -> dict[str, Tensor]:
        """``attribute``, weighted; nothing if gamma is 0.

        Args:
            output: What the network returned.
            attributes: (N, K) with K <= D; standardised for ``graded``. In a run of several
                processes those of the whole batch.

        Raises:
            ValueError: If the attributes are missing, or shapes do not fit.
        """
        if not self.gamma:
            return {}
        if attributes is None:
            raise ValueError(f"gamma is {self.gamma}, but no attributes came with the images")
        codes = output.z if self.attribute_codes == "sampled" else output.mu
        codes = gather_rows(codes, len(attributes))
        distance = attribute_distance(codes, attributes, self.delta, self.attribute_target)
        return {"attribute": self.gamma * distance.sum()}

    def extra_repr(self) -> str:
        values = {k: v for k, v in vars(self).items() if isinstance(v, (float, int, str))}
        return ", ".join(f"{k}={v!r}" for k, v in values.items() if k != "training")


class AttriVAELoss(AttributeLoss):
    r"""Objective of beta-VAE and, with attributes, of Attri-VAE.

    .. math:: \frac1N \sum_n \mathrm{SSE}_n + \beta \frac1N \sum_n \mathrm{KL}_n
        + \gamma \sum_k L_k

    with `squared_error`, `kl_divergence` and `attribute_distance`. What these weights mean is in
    the docstring of this module. gamma = 0 is beta-VAE.

    Args:
        beta: Weight of the KL term.
        gamma, delta, attribute_target, attribute_codes: See `AttributeLoss`.

    Raises:
        ValueError: If a weight is negative, delta is not positive, or a choice is unknown.

    References:
        | Attri-VAE (Cetin et al., 2023), https://arxiv.org/abs/2203.10417
        | Attribute Regularized Soft Introspective VAE (Di Folco et al., 2023), Table 2
        | https://arxiv.org/abs/2307.12618
    """

    def __init__(
        self,
        beta: float,
        gamma: float = 0.0,
        delta: float = 10.0,
        attribute_target: str = "sign",
        attribute_codes: str = "sampled",
    ) -> None:
        super().__init__(gamma, delta, attribute_target, attribute_codes)
        _check_weights(beta=beta)
        self.beta = beta

    def forward(
        self, output: VAEOutput, image: Tensor, attributes: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Weighted terms; their sum is the objective.

        Args:
            output: What the network returned.
            image: What it should have reconstructed, (N, C, H, W).
            attributes: See `attribute_term`.

        Returns:
            Scalars ``reconstruction``, ``kl`` and, unless gamma is 0, ``attribute``.

        Raises:
            ValueError: If shapes do not fit, or the attributes are missing.
        """
        return {
            "reconstruction": batch_mean(squared_error(output.reconstruction, image)),
            "kl": self.beta * batch_mean(kl_divergence(output.mu, output.logvar)),
            **self.attribute_term(output, attributes),
        }


class SoftIntroLoss(AttributeLoss):
    r"""Objectives of encoder and decoder of Soft-Intro VAE and, with attributes, of Attri-SIVAE.

    With R the reconstruction error, S = 1 / (C H W), x the image, x' its reconstruction, x'' a
    decoded draw from the prior, and E(.) the same terms for what is encoded and decoded once more:

    .. math::
        L_\mathrm{enc} &= S (\beta_\mathrm{rec} R(x) + \beta_\mathrm{kl} \mathrm{KL}(x))
            + \gamma \sum_k L_k + \tfrac14 (E(x') + E(x'')) \\
        E(v) &= \frac1N \sum_n \exp(-2 S (\beta_\mathrm{rec} R(v_n)
            + \beta_\mathrm{neg} \mathrm{KL}(v_n))) \\
        L_\mathrm{dec} &= S (\beta_\mathrm{rec} R(x)
            + \tfrac12 \beta_\mathrm{kl} (\mathrm{KL}(x') + \mathrm{KL}(x''))
            + \tfrac12 \gamma_r \beta_\mathrm{rec} (R(x') + R(x'')))

    R is w_mse times the squared error summed over pixels, plus w_perceptual times the perceptual
    loss of the batch. The attribute term is not scaled by S: see the docstring of this module.
    gamma = 0 is Soft-Intro VAE. Samples need not be images: C H W is however many values one has.

    Args:
        beta_rec: Weight of R.
        beta_kl: Weight of KL of images (encoder) and of what was generated (decoder).
        beta_neg: Weight of KL inside the exponential.
        gamma_r: Weight of R of what was generated, in the decoder's objective.
        w_mse: Weight of the squared error in R.
        w_perceptual: Weight of the perceptual loss in R.
        perceptual: (reconstruction, image) -> (N,), see `PerceptualLoss`; None is none.
        gamma, delta, attribute_target, attribute_codes: See `AttributeLoss`.
        attribute_scaled: Whether the attribute term is multiplied by S too.
        scale: S; None is one over the number of values of a sample.

    Raises:
        ValueError: If a weight is negative, delta is not positive, or a choice is unknown.

    References:
        | Soft-IntroVAE (Daniel & Tamar, 2021), equation 4, https://arxiv.org/abs/2012.13253
        | Attribute Regularized Soft Introspective VAE (Di Folco et al., 2023), equation 5
        | https://arxiv.org/abs/2307.12618
    """

    def __init__(
        self,
        beta_rec: float = 1.0,
        beta_kl: float = 1.0,
        beta_neg: float = 256.0,
        gamma_r: float = 1e-8,
        w_mse: float = 1.0,
        w_perceptual: float = 0.0,
        perceptual: nn.Module | None = None,
        gamma: float = 0.0,
        delta: float = 10.0,
        attribute_target: str = "sign",
        attribute_codes: str = "sampled",
        attribute_scaled: bool = False,
        scale: float | None = None,
    ) -> None:
        super().__init__(gamma, delta, attribute_target, attribute_codes)
        weights = {"beta_rec": beta_rec, "beta_kl": beta_kl, "beta_neg": beta_neg}
        weights |= {"gamma_r": gamma_r, "w_mse": w_mse, "w_perceptual": w_perceptual}
        _check_weights(**weights, scale=scale or 0)
        self.beta_rec, self.beta_kl, self.beta_neg = beta_rec, beta_kl, beta_neg
        self.gamma_r, self.w_mse, self.w_perceptual = gamma_r, w_mse, w_perceptual
        self.perceptual = perceptual
        self.attribute_scaled, self.scale = attribute_scaled, scale

    def scale_of(self, image: Tensor) -> float:
        """S."""
        return 1 / image[0].numel() if self.scale is None else self.scale

    def error(self, reconstruction: Tensor, image: Tensor) -> Tensor:
        """R of each sample, (N,). The perceptual part is that of the batch, as published."""
        error = self.w_mse * squared_error(reconstruction, image)
        if self.perceptual is not None and self.w_perceptual:
            error = error + self.w_perceptual * batch_mean(self.perceptual(reconstruction, image))
        return error

    def forward(
        self, output: VAEOutput, image: Tensor, attributes: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Weighted terms of a VAE, named as those of `AttriVAELoss`.

        They are what the encoder minimises besides `exp_elbo`.
        """
        scale = self.scale_of(image)
        error = batch_mean(self.error(output.reconstruction, image))
        kl = batch_mean(kl_divergence(output.mu, output.logvar))
        attribute = self.attribute_term(output, attributes)
        if self.attribute_scaled:
            attribute = {name: scale * term for name, term in attribute.items()}
        return {
            "reconstruction": scale * self.beta_rec * error,
            "kl": scale * self.beta_kl * kl,
            **attribute,
        }

    def exp_elbo(self, again: VAEOutput, image: Tensor) -> Tensor:
        """A quarter of E, a scalar.

        Args:
            again: What the network made of a generated image.
            image: That image.
        """
        elbo = self.beta_rec * self.error(again.reconstruction, image)
        elbo = elbo + self.beta_neg * kl_divergence(again.mu, again.logvar)
        return 0.25 * batch_mean(torch.exp(-2 * self.scale_of(image) * elbo))

    def decoder_kl(self, mu: Tensor, logvar: Tensor, image: Tensor) -> Tensor:
        """Its part of the decoder's objective, a scalar, for one kind of generated image."""
        weight = 0.5 * self.scale_of(image) * self.beta_kl
        return weight * batch_mean(kl_divergence(mu, logvar))

    def decoder_error(
        self, reconstruction: Tensor, image: Tensor, generated: bool = False
    ) -> Tensor:
        """Its part of the decoder's objective, a scalar; that of generated images with gamma_r."""
        weight = 0.5 * self.gamma_r if generated else 1.0
        weight *= self.scale_of(image) * self.beta_rec
        return weight * batch_mean(self.error(reconstruction, image))


def _check_weights(**weights: float) -> None:
    for name, weight in weights.items():
        if not weight >= 0:
            raise ValueError(f"{name} is {weight}; expected a weight of at least 0")


def _check_target(target: str) -> None:
    if target not in TARGETS:
        raise ValueError(
            f"unknown attribute target {target!r}; expected one of {', '.join(TARGETS)}"
        )


def _differences(values: Tensor) -> Tensor:
    """All ordered pairs, (N, K) -> (N, N, K)."""
    return values[:, None] - values[None]


def _at_least_float32(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()
