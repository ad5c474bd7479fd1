"""Free latent dimensions that say nothing, in a straight line, about the trained ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from .shapes import shape_model_of
from .vae import VAE


def predicting(
    codes: np.ndarray, trained: Sequence[int], fixed: Sequence[int] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Fits each free dimension by least squares on the trained ones.

    Args:
        codes: Posterior means, (N, D).
        trained: The K trained dimensions.
        fixed: Dimensions that are no free ones either.

    Returns:
        Mean of the trained dimensions, (K,), and slopes, (D, D): how much of the dimension of a row
        goes along with the unit of that of a column. 0 but for free rows and trained columns.

    Example:
        >>> codes = np.array([[0.0, 1.0], [1.0, 3.0], [2.0, 5.0]])
        >>> mean, slopes = predicting(codes, [0])
        >>> mean, slopes.round(6).tolist()
        (array([1.]), [[0.0, 0.0], [2.0, 0.0]])
    """
    codes, trained = np.asarray(codes, dtype=np.float64), list(trained)
    mean = codes[:, trained].mean(axis=0)
    centred = codes - codes.mean(axis=0)
    slopes = np.zeros((codes.shape[1], codes.shape[1]))
    slopes[:, trained] = np.linalg.lstsq(centred[:, trained], centred, rcond=None)[0].T
    slopes[[*trained, *fixed]] = 0
    return mean, slopes


def decorrelate(network: VAE, codes: np.ndarray, trained: Sequence[int]) -> None:
    r"""Takes what a line on the trained dimensions says out of the free ones, in place.

    With the mean m of the trained codes z_t and the slopes B of `predicting`, the encoder gives

    .. math:: z_f' = z_f - B (z_t - m)

    and the decoder adds it again: reconstructions stay as they are, up to rounding. On the patients
    that the codes are of, free and trained dimensions are then uncorrelated, and to turn a trained
    one also moves what goes along with it among patients. Both maps go into the linear layers next
    to the code: the network has the same parameters as before. Variances stay as they are,
    and so do dimensions that are shapes or brightness, which were fitted so that they say nothing
    of attributes.

    Args:
        network: Network with the layers that `VAE.code_layers` returns.
        codes: Posterior means of training patients, (N, D).
        trained: Dimensions that attributes were trained on; none changes nothing.

    Raises:
        ValueError: If the network has no linear layers next to its code.

    Example:
        >>> from .beta_vae import BetaVAE
        >>> network, images = BetaVAE(latent_size=4, image_size=16), torch.rand(9, 1, 16, 16)
        >>> with torch.no_grad():
        ...     before = network(images)
        ...     decorrelate(network, before.mu.numpy(), [0])
        ...     after = network(images)
        >>> bool((after.reconstruction - before.reconstruction).abs().max() < 1e-5)
        True
        >>> bool(np.abs(np.corrcoef(after.mu.T)[0, 1:]).max() < 1e-3)
        True
    """
    if not trained:
        return
    last, first = code_layers(network)
    mean, slopes = predicting(codes, trained, fixed_of(network))
    d = len(slopes)
    shift = torch.from_numpy(slopes[:, list(trained)] @ mean)
    change, unit = torch.from_numpy(slopes), torch.eye(d, dtype=torch.float64)
    with torch.no_grad():  # in float64, rounded once; GPUs of Apple know none
        weight, bias = last.weight[:d].cpu().double(), last.bias[:d].cpu().double()
        last.weight[:d] = ((unit - change) @ weight).to(last.weight)
        last.bias[:d] = ((unit - change) @ bias + shift).to(last.bias)
        if (model := shape_model_of(network)) is not None:
            read, free = model.read, len(model.read)
            read -= torch.tensordot(change[:free, :free], read.cpu().double(), dims=1).to(read)
        weight = first.weight[:, :d].cpu().double()  # behind them is what the network is told
        first.bias.copy_(first.bias.cpu() - weight @ shift)
        first.weight[:, :d] = (weight @ (unit + change)).to(first.weight)


def fixed_of(network: nn.Module) -> list[int]:
    """Lists the dimensions that are shapes or brightness alone, which no encoder changes; see
    `ShapeModel` and `BrightnessModel`.

    Example:
        >>> from .beta_vae import BetaVAE
        >>> fixed_of(BetaVAE(latent_size=4, image_size=32))
        []
    """
    latent_size, fixed = (getattr(network, name, 0) for name in ("latent_size", "fixed"))
    return [*range(latent_size - fixed, latent_size)]


def code_layers(network: nn.Module) -> tuple[nn.Linear, nn.Linear]:
    """Returns the last layer of the encoder, which makes mean and log variance, and the first one
    of the decoder.

    Raises:
        ValueError: If the network does not say which they are.

    Example:
        >>> from .beta_vae import BetaVAE
        >>> code_layers(BetaVAE(latent_size=4, image_size=16))
        (Linear(in_features=256, out_features=8, ...), Linear(in_features=4, out_features=256, ...))
    """
    match getattr(network, "code_layers", ()):
        case (nn.Linear() as last, nn.Linear() as first):
            return last, first
    raise ValueError(
        f"network {type(network).__name__} has no code_layers: the linear layer that makes the "
        "posterior, and the one that takes the code. Without them set decorrelate to false"
    )
