"""A classifier of patients that a network has beside its decoder, and its cross-entropy."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from ..runtime.validation import number, require

WIDTH = number(1, 4096, whole=True)


class ClassifierHead(nn.Module):
    """Predicts the class of a patient from the code of a slice: linear layers with ReLU between.

    Args:
        classes: Names of the M classes.
        inputs: Number of dimensions that it reads: the first ones.
        hidden: Widths of the hidden layers; those of Attri-VAE.

    References:
        | Attri-VAE (Cetin et al., 2023), https://arxiv.org/abs/2203.10417

    Example:
        >>> import torch
        >>> head = ClassifierHead(["DCM", "HCM", "NOR"], inputs=4)
        >>> head(torch.zeros(2, 32)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self, classes: Sequence[str], inputs: int, hidden: Sequence[int] = (32, 16)
    ) -> None:
        super().__init__()
        widths = (inputs, *hidden, len(classes))
        for width in widths:
            require("width of the classifier", width, WIDTH)
        self.classes, self.inputs = tuple(classes), inputs
        layers = [nn.Linear(*pair) for pair in pairwise(widths)]
        between = [part for layer in layers for part in (layer, nn.ReLU())]
        self.layers = nn.Sequential(*between[:-1])

    def forward(self, codes: Tensor) -> Tensor:
        """Computes the log odds of the classes, up to a constant, (N, M), of codes (N, D)."""
        return self.layers(codes[:, : self.inputs])


def cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
    r"""Computes the cross-entropy of the rows whose class is known.

    .. math:: -\frac{1}{|K|} \sum_{n \in K} \log \operatorname{softmax}(l_n)_{c_n}

    Args:
        logits: Log odds, (N, M).
        classes: 1 in the column of the class of a row, 0 elsewhere; rows of zeros are not known,
            (N, M).

    Returns:
        A scalar; 0 where no class is known.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[2.0, 2.0], [0.0, 9.0]])
        >>> round(float(cross_entropy(logits, torch.tensor([[1.0, 0.0], [0.0, 0.0]]))), 4)  # log 2
        0.6931
    """
    return -(classes * logits.log_softmax(dim=1)).sum() / classes.sum().clamp_min(1)
