"""The step of the optimisers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cardiac_attrivae.training.optimisation import descend


class AsCuDNN(torch.autograd.Function):
    """Hands out a gradient in another memory layout than that of the weights, as GPUs do."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        return weight.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient.contiguous()


@pytest.mark.parametrize("shape", [(4, 3, 2, 2), (4, 1, 2, 2), (4, 3, 1, 1)])
def test_a_gradient_of_another_layout_moves_each_weight_by_its_own(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    start, slope = torch.randn(shape), torch.randn(shape)

    def stepped(weight: nn.Parameter, seen: Tensor, fused: bool) -> Tensor:
        descend({"loss": (seen * slope).sum()}, torch.optim.AdamW([weight], 0.1, fused=fused))
        assert weight.grad is not None
        assert weight.grad.stride() == weight.stride()
        return weight.detach()

    plain = nn.Parameter(start.clone())
    expected = stepped(plain, plain, fused=False)
    weight = nn.Parameter(start.clone(memory_format=torch.channels_last))
    found = stepped(weight, AsCuDNN.apply(weight), fused=True)
    torch.testing.assert_close(found, expected)
