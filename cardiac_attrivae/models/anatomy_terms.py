"""Terms on what is drawn: a segmenter looks at decoded slices, and its areas can be differentiated.

They are pure functions of the segmenter's logits or areas; no segmenter is known here.
"""

from __future__ import annotations

import torch.nn.functional as F
from monai.losses import DiceLoss
from torch import Tensor

from .precision import at_least_float32

BETA = 0.3
"""Deviations up to which an error of a drawn area counts by its square, beyond by its size."""


def soft_areas(logits: Tensor) -> Tensor:
    """Counts the pixels of LV, myocardium and RV, (N, 3), each by its probability.

    Logits are those of background, LV, myocardium and RV, (N, 4, H, W).

    Example:
        >>> import torch
        >>> logits = torch.zeros(1, 4, 2, 2)
        >>> logits[0, 1, 0] = 100  # the upper row is sure to be LV, the lower one can be anything
        >>> soft_areas(logits)
        tensor([[2.5000, 0.5000, 0.5000]])
    """
    return at_least_float32(logits).softmax(dim=1)[:, 1:].sum(dim=(2, 3))


def mask_distance(logits: Tensor, label: Tensor) -> Tensor:
    r"""Computes one minus the soft Dice of each slice, averaged over LV, myocardium and RV, (N,).

    .. math:: 1 - \frac13 \sum_s \frac{2 \sum p_s m_s + 1}{\sum p_s + \sum m_s + 1}

    of what a segmenter makes of reconstructions, (N, 4, H, W), and the canonical labels of the
    original slices, (N, 1, H, W); in [0, 1].

    References:
        | V-Net (Milletari, Navab & Ahmadi, 2016), https://arxiv.org/abs/1606.04797

    Example:
        >>> import torch
        >>> label = torch.tensor([[[[0, 1], [2, 3]]]])
        >>> logits = 100.0 * F.one_hot(label[:, 0], 4).permute(0, 3, 1, 2)
        >>> mask_distance(logits, label)
        tensor([0.])
    """
    dice = DiceLoss(
        include_background=False, to_onehot_y=True, softmax=True, reduction="none",
        smooth_nr=1, smooth_dr=1,
    )  # fmt: skip
    return dice(at_least_float32(logits), label).flatten(1).mean(dim=1)


def turned(z: Tensor, dimension: Tensor, amount: Tensor, along: Tensor | None = None) -> Tensor:
    """Adds an amount (N,) to one dimension (N,) of each code (N, D).

    ``along`` says what moves with the unit of each dimension, (D, D): its columns; None: nothing.

    Example:
        >>> import torch
        >>> turned(torch.zeros(2, 3), torch.tensor([0, 2]), torch.tensor([1.0, -2.0]))
        tensor([[ 1.,  0.,  0.],
                [ 0.,  0., -2.]])
    """
    step = F.one_hot(dimension, z.shape[1]).to(z) * amount[:, None]
    return z + step if along is None else z + step + step @ along.T


def control_distance(before: Tensor, after: Tensor, structure: Tensor, amount: Tensor) -> Tensor:
    r"""Penalises a drawing that does not change as its code was turned, (N,), 0 where it obeys.

    The area of one structure, (N,), should change by the amount in deviations, (N,), the others
    should stay: smooth L1 with `BETA` between the change of the areas and the request, averaged
    over the structures. Areas are those of LV, myocardium and RV, at each phase, in standard
    deviations over patients, (N, 3 C), before and after one dimension was turned.

    Example:
        >>> import torch
        >>> before, after = torch.zeros(2, 3), torch.tensor([[1.5, 0, 0], [1.5, 0.3, 0]])
        >>> control_distance(before, after, torch.tensor([0, 0]), torch.tensor([1.5, 1.5]))
        tensor([0.0000, 0.0500])
    """
    wanted = F.one_hot(structure, before.shape[1]).to(before) * amount[:, None]
    return F.smooth_l1_loss(after - before, wanted, reduction="none", beta=BETA).mean(dim=1)
