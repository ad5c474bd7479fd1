r"""Losses: the objectives of the methods, each a module that returns its weighted terms.

What the weights mean follows from the reductions, which are the published ones: squared errors are
**summed** over pixels and channels, KL over latent dimensions, the attribute term over attributes;
then everything is averaged over the batch (over all pairs of it). Hence

* a Gaussian decoder with standard deviation s per pixel gives SSE / (2 s^2) + KL, so
  beta = 2 s^2: beta 2 takes s = 1 on intensities in [0, 1], beta 1 takes s = .71;
* with errors averaged over the pixels, the same trade-off would be beta / (C H W): beta 2 at
  128 x 128 is 1.2e-4 there, and beta 2 with a pixel mean is 32768 here;
* each attribute adds at most 2 gamma, whatever the size of the image. Soft-IntroVAE divides
  reconstruction and KL by C H W but not the attribute term: its gamma .1 is 1638 here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..runtime.distributed import batch_mean, gather_rows
from ..runtime.validation import Rule, number, one_of, require
from ..schema import VAEOutput
from .loss_terms import TARGET, attribute_distance, kl_divergence, squared_error

WEIGHT = Rule("a weight of at least 0", number().fits)
POSITIVE = Rule("a positive number", number(5e-324).fits)
CODES = one_of("sampled", "mean")


class AttributeLoss(nn.Module):
    """Adds the attribute term, which all objectives below have.

    Args:
        gamma: Weight of the attribute term; 0 leaves it out.
        delta: Sharpness of its comparison.
        attribute_target: ``sign`` (published), ``graded`` or ``value``, see `attribute_distance`.
        attribute_codes: What the attribute term sees: ``sampled`` z (published) or the ``mean``.

    Raises:
        ValueError: If a weight is negative, delta is not positive, or a choice is unknown.
    """

    def __init__(
        self, gamma: float, delta: float, attribute_target: str, attribute_codes: str
    ) -> None:
        super().__init__()
        require("gamma", gamma, WEIGHT)
        require("delta", delta, POSITIVE)
        require("attribute_target", attribute_target, TARGET)
        require("attribute_codes", attribute_codes, CODES)
        self.gamma, self.delta = gamma, delta
        self.attribute_target, self.attribute_codes = attribute_target, attribute_codes

    def attribute_term(self, output: VAEOutput, attributes: Tensor | None) -> dict[str, Tensor]:
        """Computes the weighted term ``attribute``; none if gamma is 0.

        Attributes are (N, K) with K <= D, standardised for all but ``sign``. When several processes
        train together, they are those of the whole batch.

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
    r"""Computes the objective of beta-VAE and, with attributes, of Attri-VAE.

    .. math:: \frac1N \sum_n \mathrm{SSE}_n + \beta \frac1N \sum_n \mathrm{KL}_n
        + \gamma \sum_k L_k

    with `squared_error`, `kl_divergence` and `attribute_distance`. The docstring of this module
    says what the weights mean. With gamma = 0 it is beta-VAE.

    Args:
        beta: Weight of the KL term.
        gamma, delta, attribute_target, attribute_codes: See `AttributeLoss`.

    Raises:
        ValueError: If a weight is negative, delta is not positive, or a choice is unknown.

    References:
        | Attri-VAE (Cetin et al., 2023), https://arxiv.org/abs/2203.10417
        | Attribute Regularized Soft Introspective VAE (Di Folco et al., 2023), Table 2
        | https://arxiv.org/abs/2307.12618

    Example:
        >>> image, code = torch.ones(2, 1, 4, 4), torch.tensor([[-1.0], [1.0]])
        >>> output = VAEOutput(image / 2, mu=code, logvar=torch.zeros(2, 1), z=code)
        >>> AttriVAELoss(beta=2.0, gamma=10.0)(output, image, attributes=code)
        {'reconstruction': tensor(4.), 'kl': tensor(1.), 'attribute': tensor(0.)}
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
        require("beta", beta, WEIGHT)
        self.beta = beta

    def forward(
        self, output: VAEOutput, image: Tensor, attributes: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Computes the weighted terms, scalars ``reconstruction``, ``kl`` and, unless gamma is 0,
        ``attribute``; their sum is the objective.

        The image (N, C, H, W) is the input of the network; attributes are those of
        `attribute_term`.

        Raises:
            ValueError: If shapes do not fit, or the attributes are missing.
        """
        rows = len(image) if attributes is None else len(attributes)
        return {
            "reconstruction": batch_mean(squared_error(output.reconstruction, image)),
            **self.kl_terms(output, rows),
            **self.attribute_term(output, attributes),
        }

    def kl_terms(self, output: VAEOutput, rows: int) -> dict[str, Tensor]:
        """Computes the weighted terms of the codes' distribution; ``rows`` are those of the whole
        batch, of all processes."""
        return {"kl": self.beta * batch_mean(kl_divergence(output.mu, output.logvar))}


class SoftIntroLoss(AttributeLoss):
    r"""Computes the objectives of the encoder and of the decoder of Soft-Intro VAE and Attri-SIVAE.

    R is the reconstruction error, S = 1 / (C H W), x the image, x' its reconstruction, x'' a
    decoded draw from the prior. Generated images v (x' and x'') are encoded and decoded again:

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
    With gamma = 0 it is Soft-Intro VAE. Samples need not be images: C H W is the number of values
    of a sample.

    Args:
        beta_rec: Weight of R.
        beta_kl: Weight of the KL of images (encoder) and of generated images (decoder).
        beta_neg: Weight of the KL inside the exponential.
        gamma_r: Weight of R of generated images in the decoder's objective.
        w_mse: Weight of the squared error in R.
        w_perceptual: Weight of the perceptual loss in R.
        perceptual: Module (reconstruction, image) -> (N,), see `PerceptualLoss`; None for none.
        gamma, delta, attribute_target, attribute_codes: See `AttributeLoss`.
        attribute_scaled: Whether the attribute term, too, is multiplied by S.
        scale: S; None stands for one over the number of values of a sample.

    Raises:
        ValueError: If a weight is negative, delta is not positive, or a choice is unknown.

    References:
        | Soft-IntroVAE (Daniel & Tamar, 2021), equation 4, https://arxiv.org/abs/2012.13253
        | Attribute Regularized Soft Introspective VAE (Di Folco et al., 2023), equation 5
        | https://arxiv.org/abs/2307.12618

    Example:
        >>> image, code = torch.ones(2, 1, 4, 4), torch.tensor([[-1.0], [1.0]])
        >>> output = VAEOutput(image / 2, mu=code, logvar=torch.zeros(2, 1), z=code)
        >>> loss = SoftIntroLoss(beta_kl=0.5)
        >>> loss(output, image)  # as AttriVAELoss, but divided by the 16 pixels
        {'reconstruction': tensor(0.2500), 'kl': tensor(0.0156)}
        >>> loss.exp_elbo(output, image) < 1e-7  # the encoder recognises them as generated
        tensor(True)
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
        for name, weight in (weights | {"scale": scale or 0}).items():
            require(name, weight, WEIGHT)
        self.beta_rec, self.beta_kl, self.beta_neg = beta_rec, beta_kl, beta_neg
        self.gamma_r, self.w_mse, self.w_perceptual = gamma_r, w_mse, w_perceptual
        self.perceptual = perceptual
        self.attribute_scaled, self.scale = attribute_scaled, scale

    def scale_of(self, image: Tensor) -> float:
        """Returns S for such images."""
        return 1 / image[0].numel() if self.scale is None else self.scale

    def error(self, reconstruction: Tensor, image: Tensor) -> Tensor:
        """Computes R of each sample, (N,); its perceptual part is the batch mean, as published."""
        error = self.w_mse * squared_error(reconstruction, image)
        if self.perceptual is not None and self.w_perceptual:
            error = error + self.w_perceptual * batch_mean(self.perceptual(reconstruction, image))
        return error

    def forward(
        self, output: VAEOutput, image: Tensor, attributes: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Computes the weighted terms of a VAE, named as those of `AttriVAELoss`.

        The encoder minimises them and `exp_elbo`.
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
        """Computes a quarter of E, a scalar, of generated images and of the network's output for
        them."""
        elbo = self.beta_rec * self.error(again.reconstruction, image)
        elbo = elbo + self.beta_neg * kl_divergence(again.mu, again.logvar)
        return 0.25 * batch_mean(torch.exp(-2 * self.scale_of(image) * elbo))

    def decoder_kl(self, mu: Tensor, logvar: Tensor, image: Tensor) -> Tensor:
        """Computes the KL term of the decoder's objective for x' or for x'', a scalar."""
        weight = 0.5 * self.scale_of(image) * self.beta_kl
        return weight * batch_mean(kl_divergence(mu, logvar))

    def decoder_error(
        self, reconstruction: Tensor, image: Tensor, generated: bool = False
    ) -> Tensor:
        """Computes an R term of the decoder's objective, a scalar; ``generated``: times gamma_r."""
        weight = 0.5 * self.gamma_r if generated else 1.0
        weight *= self.scale_of(image) * self.beta_rec
        return weight * batch_mean(self.error(reconstruction, image))
