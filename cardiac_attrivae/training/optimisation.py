"""How weights are updated: optimisers, their steps and rates, running average, compiled passes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from ..models.vae import VAE
from ..runtime.distributed import average_gradients
from .config import Pipeline


def adam(parameters: Iterable[nn.Parameter], pipeline: Pipeline) -> AdamW:
    """The optimiser of some parameters, frozen ones left out, as a pipeline describes it."""
    options = pipeline.optimiser
    return AdamW(
        [parameter for parameter in parameters if parameter.requires_grad],
        options.lr,
        betas=options.betas,
        weight_decay=options.weight_decay,
        fused=pipeline.speed.fused,
    )


def scheduler_of(optimiser: Optimizer, epoch_length: int, pipeline: Pipeline) -> LambdaLR:
    """The schedule of an optimiser's learning rate, one `rate` for each step."""
    return LambdaLR(optimiser, lambda step: rate(step, epoch_length, pipeline))


def rate(step: int, epoch_length: int, pipeline: Pipeline) -> float:
    """Factor of the learning rate in a step: warm-up, milestones, half a cosine.

    torch's LinearLR and CosineAnnealingLR in a SequentialLR follow the same curve, but compute each
    rate from the one before: 1169 of the 1200 rates of attri_vae_unguided differ in their last
    digits, and a run would no longer be the one that earlier versions trained.
    """
    optimiser, steps = pipeline.optimiser, epoch_length * pipeline.schedule.epochs
    warmup = optimiser.warmup * steps
    if step < warmup:
        return min(1.0, (step + 1) / warmup)  # the warm-up may end within a step
    factor = 0.1 ** sum(step >= epoch * epoch_length for epoch in optimiser.milestones)
    if optimiser.schedule == "constant":
        return factor
    return factor * 0.5 * (1 + math.cos(math.pi * min(1, (step - warmup) / max(1, steps - warmup))))


def descend(terms: Mapping[str, Tensor], *optimizers: Optimizer, keep_graph: bool = False) -> None:
    """Does a step of the optimisers on the sum of the terms; no other parameter gets a gradient."""
    loss = torch.stack(list(terms.values())).sum()
    parameters = [p for optimizer in optimizers for p in parameters_of(optimizer)]
    gradients = torch.autograd.grad(loss, parameters, retain_graph=keep_graph, allow_unused=True)
    average_gradients([gradient for gradient in gradients if gradient is not None])
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = laid_out_like(parameter, gradient)
    for optimizer in optimizers:
        optimizer.step()


def laid_out_like(parameter: Tensor, gradient: Tensor | None) -> Tensor | None:
    """Gives a gradient the memory layout of its parameter, which fused optimisers need.

    cuDNN hands out others for some layers; `backward` would change them, `torch.autograd.grad`
    does not.
    """
    if gradient is None or gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


def parameters_of(optimizer: Optimizer) -> list[nn.Parameter]:
    """All parameters that an optimiser changes."""
    return [p for group in optimizer.param_groups for p in group["params"]]


@contextmanager
def frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Keeps gradients of what is computed inside from these parameters; they still pass through."""
    parameters = [p for p in parameters if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def split_parameters(network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Splits parameters into those of the encoder, and of the decoder, which are those of
    ``network.decoder``; refuses a network without."""
    decoder = getattr(network, "decoder", None)
    if not isinstance(decoder, nn.Module):
        raise ValueError(
            f"network {type(network).__name__} has no module called decoder; Soft-Intro training "
            "must know which parameters are the decoder's"
        )
    of_decoder = list(decoder.parameters())
    known = {id(parameter) for parameter in of_decoder}
    return [p for p in network.parameters() if id(p) not in known], of_decoder


def average_of(network: VAE, decay: float) -> AveragedModel | None:
    """An exponential running average of the weights, which forgets the first steps sooner.

    Args:
        network: The network whose weights are averaged.
        decay: Share of the old average that a step keeps in the end; 0 gives no average.
    """

    def update(averaged: Any, current: Any, count: Tensor | int) -> None:
        now = min(decay, (1 + int(count)) / (10 + int(count)))
        torch._foreach_lerp_(averaged, current, 1 - now)

    return AveragedModel(network, multi_avg_fn=update) if decay else None


def compile_passes(network: VAE, **options: Any) -> None:
    """Compiles encode and decode with torch.compile and these options, in place."""
    # with it, a graph could be traversed only once, and shared passes are traversed twice
    torch._functorch.config.donated_buffer = False
    for name in ("encode", "decode"):
        setattr(network, name, torch.compile(getattr(network, name), **options))
