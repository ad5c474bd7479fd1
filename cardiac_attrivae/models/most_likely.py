"""Which class is most likely, quickly."""

from __future__ import annotations

from torch import Tensor


def most_likely(scores: Tensor, dim: int = 1) -> Tensor:
    """Tells which class has the highest score, as `torch.argmax` does, which takes several times
    as long on a CPU.

    Args:
        scores: Logits or probabilities of K classes along ``dim``.
        dim: That dimension, which stays, with a size of 1.

    Example:
        >>> import torch
        >>> most_likely(torch.tensor([[0.1, 0.7, 0.2]]))
        tensor([[1]])
    """
    return scores.max(dim, keepdim=True).indices
