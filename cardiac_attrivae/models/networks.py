"""The networks by name. They turn images into a `VAEOutput` and know no loss and no data set.

To add one, subclass `VAE` and enter it in `NETWORKS`. A class in your own package needs no entry:
write its dotted path into the YAML.
"""

from __future__ import annotations

import importlib
import inspect
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from ..runtime.yaml_files import nearest
from .beta_vae import BetaVAE
from .refiner import Refiner
from .scan_unet import ScanUNet
from .soft_intro_vae import SoftIntroVAE
from .vae import VAE

NETWORKS: dict[str, type[VAE]] = {"BetaVAE": BetaVAE, "SoftIntroVAE": SoftIntroVAE}
"""Networks that a pipeline names by one word."""

SEGMENTERS: dict[str, type[nn.Module]] = {"ScanUNet": ScanUNet}
"""The same for networks that outline hearts: they have no codes."""

REFINERS: dict[str, type[nn.Module]] = {"Refiner": Refiner}
"""The same for networks that paint over what a network with codes has drawn."""

KINDS: dict[str, dict[str, Any]] = {
    "codes": NETWORKS, "outlines": SEGMENTERS, "paints": REFINERS,
}  # fmt: skip
"""What networks do -> those that do it."""

KNOWN = ChainMap[str, Any](*KINDS.values())

MOST_PARAMETERS = 10**9
"""A configuration that asks for more (4 GB) is a mistake or an attack."""


def build_network(name: str, /, **arguments: Any) -> VAE:
    """Builds the network that a pipeline asks for, see `network_class`, from arguments of its
    constructor.

    Raises:
        ValueError: If there is no such network, or it does not take these arguments.

    Example:
        >>> build_network("BetaVAE", latent_size=8).latent_size
        8
        >>> build_network("BetVAE")
        Traceback (most recent call last):
        ValueError: unknown network 'BetVAE', did you mean 'BetaVAE'?; expected one of BetaVAE, ...
    """
    network = network_class(name)
    try:
        inspect.signature(network).bind(**arguments)
    except TypeError as error:
        accepted = ", ".join(inspect.signature(network).parameters)
        raise ValueError(f"network {name!r}: {error}; it takes {accepted}") from None
    try:
        if name in KNOWN:
            count = parameter_count(name, **arguments)
            if count > MOST_PARAMETERS:
                raise ValueError(
                    f"network {name!r} with {arguments} would hold {count:.1e} values; expected "
                    f"at most {MOST_PARAMETERS:.0e}"
                )
        return network(**arguments)
    except TypeError as error:  # a list where a number belongs, for example
        raise ValueError(f"network {name!r} does not take {arguments}: {error}") from error


def parameter_count(name: str, /, **arguments: Any) -> int:
    """Counts the values that a network of `NETWORKS` would hold, without allocating them.

    Example:
        >>> parameter_count("BetaVAE", latent_size=32, image_size=128)
        419713
    """
    with sizes_only():
        network = KNOWN[name](**arguments)
    return sum(values.numel() for values in network.state_dict().values())


class _Undrawn(TorchFunctionMode):
    """Draws no values."""

    def __torch_function__(
        self, function: Callable[..., Any], _types: Any, args: Any = (), named: Any = None
    ) -> Any:
        return args[0] if function is Tensor.normal_ else function(*args, **(named or {}))


@contextmanager
def sizes_only() -> Iterator[None]:
    """Builds networks that have sizes and no values, within it: they take no memory.

    On the device meta, PyTorch would load its compiler, which takes .7 s, to draw values that
    nobody sees.

    Example:
        >>> with sizes_only():
        ...     next(BetaVAE(latent_size=8).parameters()).device
        device(type='meta')
    """
    with torch.device("meta"), _Undrawn():
        yield


def network_class(name: str) -> type[VAE]:
    """Finds the class of a network.

    It goes by its name in `NETWORKS`, or by a dotted path, ``package.module.Class``, and then has
    ``latent_size``, ``encode`` and ``decode`` as `VAE` has them.

    Raises:
        ValueError: If there is no such class, or it is no network.

    Example:
        >>> network_class("BetaVAE") is BetaVAE
        True
    """
    if name in KNOWN:
        return cast(type[VAE], KNOWN[name])
    module, _, word = name.rpartition(".")
    accepted = (
        f"expected one of {', '.join(NETWORKS)}, or the path of a class: package.module.Class"
    )
    if not module:
        raise ValueError(f"unknown network {name!r}{nearest(name, NETWORKS)}; {accepted}")
    try:
        found = getattr(importlib.import_module(module), word)
    except (ImportError, AttributeError) as error:
        where = ""
        if isinstance(error, ModuleNotFoundError):
            where = " (installed, or in a folder of PYTHONPATH?)"
        raise ValueError(
            f"network {name!r} cannot be imported: {error}{where}; {accepted}"
        ) from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ValueError(f"network {name!r} is {found!r}, no subclass of torch.nn.Module")
    return cast(type[VAE], found)


def kind_of(name: str) -> str:
    """Says what a network does, as `KINDS` calls it; one of another package has codes.

    Example:
        >>> kind_of("ScanUNet"), kind_of("my_package.MyVAE")
        ('outlines', 'codes')
    """
    return next((kind for kind, table in KINDS.items() if name in table), "codes")


def recalibrate(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Estimates the running statistics of batch norm again, on the given images (N, C, H, W) alone.

    Introspective training averages them over real and generated images. Every batch counts the
    same. A network without batch norm, or with frozen batch norm, is not changed; it stays in train
    or in eval mode, whichever it was in.

    Example:
        >>> network = nn.BatchNorm2d(1)
        >>> recalibrate(network, [torch.full((4, 1, 2, 2), 3.0)])
        >>> network.running_mean
        tensor([3.])
    """
    was_training = network.training
    network.train()
    momenta = {
        layer: layer.momentum
        for layer in network.modules()
        if isinstance(layer, _BatchNorm) and layer.training
    }
    for layer in momenta:  # torch's update_bn would also forget those of frozen layers
        layer.reset_running_stats()
        layer.momentum = None  # the plain mean of all batches
    with torch.no_grad():
        for images in batches if momenta else ():
            network(images)
    for layer, momentum in momenta.items():
        layer.momentum = momentum
    network.train(was_training)
