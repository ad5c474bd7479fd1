"""Networks that are told a category of the patient, such as diagnosis or vendor.

Encoder and decoder take it beside each slice and each code, as one-hot entries (see `VAE`). Nothing
told is zeros, which such a network learns too, because now and then training tells it nothing.

References:
    | Learning structured output representation using deep conditional generative models
    | (Sohn et al., 2015), https://papers.nips.cc/paper/5775
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Generator, Tensor, nn

from .vae import VAE

WITHHELD = 0.1
"""Share of slices of which training tells nothing."""


@contextmanager
def told(network: nn.Module, categories: Tensor | None) -> Iterator[None]:
    """Tells a network the categories of the slices and codes that pass through it meanwhile.

    Args:
        network: The network; whatever lies in it is told, too. One without a condition is not
            changed.
        categories: One-hot, (N, M) for N slices or codes, or (1, M) for any number; rows of zeros
            tell nothing. None changes nothing.

    Example:
        >>> from .beta_vae import BetaVAE
        >>> network = BetaVAE(4, 16, condition="vendor", categories=["GE", "Siemens"])
        >>> code, weight = torch.zeros(1, 4), network.decoder[0].weight
        >>> _ = nn.init.ones_(weight)  # a new network ignores what it is told
        >>> with told(network, torch.tensor([[1.0, 0.0]])):
        ...     slice_of_ge = network.decode(code)
        >>> torch.equal(network.decode(code), slice_of_ge)
        False
    """
    parts = network.modules() if categories is not None else ()
    listening = [part for part in parts if isinstance(part, VAE) and part.categories]
    before = [part.told for part in listening]
    for part in listening:
        part.told = categories
    try:
        yield
    finally:
        for part, known in zip(listening, before, strict=True):
            part.told = known


def withheld(categories: Tensor, generator: Generator) -> Tensor:
    """Sets categories (N, M) of some rows to zeros, see `WITHHELD`.

    Example:
        >>> kept = withheld(torch.ones(1000, 2), torch.Generator().manual_seed(0))
        >>> bool(kept[:, 0].equal(kept[:, 1])), round(float(kept.mean()), 1)
        (True, 0.9)
    """
    shape, device = (len(categories), 1), categories.device
    return categories * (torch.rand(shape, generator=generator, device=device) >= WITHHELD)
