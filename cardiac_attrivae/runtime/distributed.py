"""Several processes that train one network, with the loss and the gradients of the whole batch.

Each process runs the network on its `share` of the rows and computes the loss of the **global**
batch, through collectives that gradients pass. Its backward pass then gives the derivative of the
sum of all processes' losses, that is, of W times the loss, by its own use of the weights;
`average_gradients` turns these into the gradient that one process would have found. The network has
no wrapper, so that any number of optimisers and forward passes is possible. But every process must
build the same graph, with the same seed, or the collectives do not match.

Without torchrun, or with one process, every function here returns its argument.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ignite.distributed as idist
import torch
import torch.distributed as dist
from ignite.distributed import barrier as barrier
from ignite.distributed import get_rank as rank
from ignite.distributed import get_world_size as world_size
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.functional import batch_norm, pad
from torch.nn.modules.batchnorm import _BatchNorm

LAUNCHED = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun tells each of several processes, beside WORLD_SIZE, their number."""


@contextmanager
def processes(device: torch.device | str) -> Iterator[torch.device]:
    """Joins the processes that torchrun started, and leaves them at the end.

    Args:
        device: ``cpu`` (over gloo) or ``cuda`` (over nccl), which becomes the GPU LOCAL_RANK.

    Yields:
        The device of this process; without torchrun the one given.

    Raises:
        ValueError: If several processes would share a GPU, or the device is another; if torchrun
            did not say how many there are.
    """
    device = torch.device(device)
    if (size := os.environ.get("WORLD_SIZE", "1")) == "1":
        yield device
        return
    if not size.isdecimal() or not {*LAUNCHED} <= {*os.environ}:
        raise ValueError(
            f"WORLD_SIZE is {size!r} in the environment without {', '.join(LAUNCHED)}: torchrun "
            "sets all of them for several processes; for one: unset WORLD_SIZE"
        )
    if device.type not in ("cpu", "cuda") or str(device) != device.type:
        raise ValueError(f"device is '{device}' under torchrun; expected auto, cpu or cuda")
    cuda = device.type == "cuda"
    if cuda:
        local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= gpus:
            raise ValueError(f"LOCAL_RANK is {local}; expected at most a process per GPU of {gpus}")
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    # not idist.initialize: it would want a GPU for each process on the CPU, too
    dist.init_process_group("nccl" if cuda else "gloo", device_id=device if cuda else None)
    try:
        idist.sync()
        yield device
    except BaseException:
        if cuda:  # destroying waits for the others, who wait for this one
            dist.distributed_c10d._abort_process_group()
        raise
    finally:
        if dist.is_initialized():
            idist.finalize()


def is_first() -> bool:
    """Returns whether this is the process that writes and prints."""
    return rank() == 0


def from_first(value: float, device: torch.device) -> float:
    """Returns the first process's value in every process, for what all must decide alike."""
    if world_size() == 1:
        return value
    # a tensor, since ignite broadcasts a number in float32
    shared = torch.tensor(value, dtype=torch.float64, device=device)
    return float(idist.broadcast(shared))  # type: ignore[arg-type]  # of a tensor it is a tensor


def split(n: int, rank: int, world: int) -> slice:
    """Returns part ``rank`` of n rows in ``world`` contiguous parts, the first ones a row longer.

    Example:
        >>> [split(7, rank, 3) for rank in range(3)]
        [slice(0, 3, None), slice(3, 5, None), slice(5, 7, None)]
    """
    size, longer = divmod(n, world)
    start = rank * size + min(rank, longer)
    return slice(start, start + size + (rank < longer))


def share(n: int) -> slice:
    """Returns the rows of this process among n; none if there are more processes than rows."""
    return split(n, rank(), world_size())


def batch_mean(values: Tensor) -> Tensor:
    """Computes the mean over the rows of all processes: (n, ...) in this one to (...), the same in
    every process; every row counts the same."""
    if world_size() == 1:
        return values.mean(dim=0)
    wide = _at_least_float32(values)  # counts above 256 are not exact in bfloat16
    # new_full, for a tensor made on the host would make it wait for the device
    own = torch.cat([wide.sum(dim=0).flatten(), wide.new_full((1,), len(values))])
    total = _AllReduce.apply(own)
    return (total[:-1] / total[-1]).view(values.shape[1:]).to(values.dtype)


def gather_rows(values: Tensor, n: int) -> Tensor:
    """Gathers the rows of all processes.

    Args:
        values: The rows of this process, `share` of n; or all n, which are returned as they are.
        n: Rows of the global batch.

    Returns:
        (n, ...) in the order of the ranks, with gradients, the same in every process.

    Raises:
        ValueError: If the number of rows is neither.
    """
    own = share(n)
    if world_size() == 1 or len(values) == n:  # one row of one is whole: no batch is that small
        return values
    if len(values) != own.stop - own.start:
        raise ValueError(
            f"{len(values)} rows of n = {n} in process {rank()} of {world_size()}; "
            f"expected {own.stop - own.start} or all"
        )
    around = (0, 0) * (values.ndim - 1) + (own.start, n - own.stop)
    return _AllReduce.apply(pad(values, around))


def average_gradients(gradients: Sequence[Tensor]) -> None:
    """Replaces each gradient by its mean over the processes, in place; they must come in the same
    order, with the same shapes, in every process."""
    if world_size() == 1:
        return
    for dtype in dict.fromkeys(gradient.dtype for gradient in gradients):
        some = [gradient for gradient in gradients if gradient.dtype == dtype]
        # reshape, not the memory: strides may differ between processes
        flat = torch.cat([gradient.detach().reshape(-1) for gradient in some])
        dist.all_reduce(flat)
        flat /= world_size()
        for gradient, mean in zip(some, flat.split([g.numel() for g in some]), strict=True):
            gradient.detach().copy_(mean.view(gradient.shape))


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """Normalises over the rows of all processes; in eval mode, or in one process, as its parent.

    Unlike `torch.nn.SyncBatchNorm`, it also takes CPU tensors. The processes may hold different
    numbers of rows, also none.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape and dtype; computes in float32 or float64."""
        if not self.training or world_size() == 1:
            return super().forward(x)
        self._check_input_dim(x)
        out, mean, var, count = _GlobalNorm.apply(x, self.weight, self.bias, self.eps)
        batches, means, variances = self.num_batches_tracked, self.running_mean, self.running_var
        if batches is not None and means is not None and variances is not None:
            with torch.no_grad():
                batches.add_(1)
                rate: Tensor | float | None = self.momentum
                if rate is None:  # on the device; double: 1/3 in float32 would show in float64
                    rate = 1 / batches.double()
                means.add_((mean - means) * rate)
                variances.add_((var * count / (count - 1) - variances) * rate)
        return out


def synchronise(network: nn.Module) -> nn.Module:
    """Turns every `nn.BatchNorm2d` of a network into a `GlobalBatchNorm2d`, in place; refuses other
    kinds of batch norm, which would see their own rows only.

    Only the class changes: parameters, buffers, their names and the mode stay.
    """
    if world_size() == 1:
        return network
    for name, layer in network.named_modules():
        if type(layer) is nn.BatchNorm2d:
            layer.__class__ = GlobalBatchNorm2d
        elif isinstance(layer, _BatchNorm) and not isinstance(layer, GlobalBatchNorm2d):
            raise ValueError(f"layer {name} is {type(layer).__name__}; expected BatchNorm2d")
    return network


class _AllReduce(Function):
    """Sum over the processes; the one in torch.distributed.nn is deprecated."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        values = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(values)
        return values

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _AllReduce.apply(grad)


class _GlobalNorm(Function):
    """Batch norm that keeps nothing but its input, as the fused one does, with one collective in
    each direction. Means and variances of the processes merge as in Chan et al. (1983): a sum of
    squares would lose the variance beside a large mean.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        wide, channels = _at_least_float32(x), x.shape[1]
        mean = var = wide.new_zeros(channels)
        if x.numel():
            var, mean = torch.var_mean(wide, dim=(0, 2, 3), correction=0)
        own = torch.cat([mean, var, wide.new_full((1,), x.numel() // channels)])
        rows = gather_rows(own[None], world_size())
        means, variances, counts = rows.split([channels, channels, 1], dim=1)
        count = counts.sum()
        parts = counts / count
        mean = (parts * means).sum(dim=0)
        var = (parts * (variances + (means - mean) ** 2)).sum(dim=0)
        ctx.save_for_backward(x, weight, mean, torch.rsqrt(var + eps), count)
        ctx.mark_non_differentiable(mean, var, count)
        return batch_norm(x, mean, var, weight, bias, eps=eps), mean, var, count

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse, count = ctx.saved_tensors
        grad = _at_least_float32(grad)
        normal = (_at_least_float32(x) - mean[:, None, None]) * inverse[:, None, None]
        of_bias, of_weight = grad.sum(dim=(0, 2, 3)), (grad * normal).sum(dim=(0, 2, 3))
        total = _AllReduce.apply(torch.stack([of_bias, of_weight])[..., None, None])
        shift, slope = total / count
        factor = inverse if weight is None else inverse * weight
        inner = ((grad - shift - normal * slope) * factor[:, None, None]).to(x.dtype)
        _, needs_weight, needs_bias, _ = ctx.needs_input_grad
        return inner, of_weight if needs_weight else None, of_bias if needs_bias else None, None


def _at_least_float32(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()
