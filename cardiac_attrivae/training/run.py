"""Finished runs: opened, and their networks asked for codes and slices."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..models.networks import KNOWN, build_network, kind_of
from ..models.refiner import Painted, Refiner
from ..models.vae import VAE
from ..runtime.contents import require_run
from ..runtime.device import find_device
from ..runtime.files import read_json
from ..runtime.outputs import REFINER
from ..runtime.shipped_models import guide_of, is_shipped, model_folder
from ..runtime.weights import read_weights, weights_digest
from ..schema import DataError, Keys
from .batches import conditions
from .config import Pipeline, parse_pipeline
from .facts import check_facts, check_pipeline

TRAVERSAL = np.linspace(-3, 3, 7)
"""Steps of a traversal in standard deviations of the training codes, as in the paper's Fig. 3."""

DRAWN = 16
"""Codes that are decoded at a time: on a CPU their layers stay in its cache, 64 take up to twice as
long."""

TRUSTED = "CARDIAC_ATTRIVAE_NETWORKS"
"""Environment variable: classes that a run may name, or their modules, separated by commas."""


NO_CODES = {
    "outlines": "it outlines hearts and has no codes; give it to segment --model",
    "paints": "it is a refiner and has no codes; give the run that it was trained for",
}
"""What a run does that is no model with codes -> what to do with it."""


@dataclass(frozen=True)
class Run:
    """A trained run, as model.safetensors holds it."""

    folder: Path  # the folder of the run
    network: VAE  # the trained network in eval mode
    pipeline: Pipeline  # what it was trained with
    about: dict[str, Any]  # everything else: seed, data set, mean and deviation of training codes
    # paints over what the network draws; None if the run has no refiner, or it is left out
    refiner: Refiner | None = None
    given: str = ""  # the folder, or the name of a shipped model, as the user gave it

    @property
    def name(self) -> str:
        """What notes call it, which say nothing of the folders above it."""
        return self.given if is_shipped(self.folder) else self.folder.name

    @property
    def painter(self) -> VAE:
        """What draws codes: the network, and over its pictures the refiner, if there is one."""
        return self.network if self.refiner is None else self.painted(self.refiner)

    def painted(self, refiner: Refiner) -> Painted:
        """Puts a refiner over the network; free dimensions choose the noise of a heart."""
        middle, deviation = (torch.tensor(self.about[f"code_{x}"]) for x in ("mean", "deviation"))
        scale = torch.where(deviation > 0, 1 / deviation, 0)
        for dimension in self.pipeline.dimensions(self.pipeline.attributes):
            if dimension is not None:
                scale[dimension] = 0
        return Painted(self.network, refiner, middle, scale)

    @property
    def condition(self) -> str:
        """Column of cases.csv that the network is told; empty if it has none."""
        return getattr(self.network, "condition", "")  # that of another package may lack it

    def telling(self, condition: str) -> Run:
        """The same run, whose network is told one category with all that it encodes and decodes.

        Args:
            condition: ``COLUMN=CATEGORY``, as in ``pathology=DCM``; without a category it is told
                nothing, like this run.

        Raises:
            ValueError: If the network has no condition, another one, or no such category.
        """
        condition = condition.strip()
        category = condition.partition("=")[2]
        if not self.condition:
            raise ValueError(
                f"condition is {condition!r}, but the network of {self.folder} is told nothing; "
                "leave it out"
            )
        accepted = [f"{self.condition}={name}" for name in ("", *self.network.categories)]
        if condition not in accepted:
            raise ValueError(
                f"condition is {condition!r}; expected one of {', '.join(accepted[1:])}, or "
                f"{accepted[0]} to tell nothing"
            )
        return self._told(np.array([name == category for name in self.network.categories]))

    def by_condition(self, cases: pd.DataFrame) -> Iterator[tuple[Run, np.ndarray]]:
        """Groups patients by what the network is told of them.

        Args:
            cases: N rows of cases.csv.

        Yields:
            The run that tells it, and the rows of the patients; one group without a condition.
        """
        known = conditions(self.network, cases).get(Keys.CONDITION)
        if known is None:
            yield self, np.arange(len(cases))
            return
        for told in np.unique(known, axis=0):
            yield self._told(told), np.flatnonzero((known == told).all(axis=1))

    def _told(self, category: np.ndarray) -> Run:
        network = copy.copy(self.network)  # with the same weights
        network.told = torch.tensor(category, dtype=torch.float32)[None]
        return replace(self, network=network)

    @property
    def summary(self) -> dict[str, Any]:
        """Reads summary.json: how the training went.

        Raises:
            DataError: If it is missing or damaged.
        """
        return read_json(self.folder / "summary.json")


def load_run(folder: str | Path, device: str = "cpu", *, plain: bool | None = None) -> Run:
    """Reads a finished run. Its file holds weights and plain values; no code of it is executed.

    A network that the run names by a dotted path is code of another package. It is imported only
    if the environment variable `TRUSTED` names that class, or its module.

    Args:
        folder: The folder that ``train`` wrote, or the name of a shipped model.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        plain: Whether its refiner is left out, if it has one, see `read_refiner`; None leaves out
            those of shipped models alone.

    Raises:
        DataError: If the folder holds no finished run, or one that is damaged or names a network
            that is not trusted, or its refiner is missing, damaged or that of another run.
    """
    given, folder = folder, model_folder(folder)
    require_run(folder)
    file = folder / "model.safetensors"
    weights, about = read_weights(file)
    weights |= shared_weights(folder)
    try:
        pipeline = parse_pipeline(about.pop("pipeline", None))
        for kind in (pipeline.objective.kind, kind_of(pipeline.network.name)):
            if kind in NO_CODES:
                raise ValueError(NO_CODES[kind])
        network = restored(pipeline, weights)
        check_facts(about, network.latent_size)
    except (ValueError, RuntimeError, MemoryError) as error:  # Runtime: other shapes
        reason = str(error).partition("size mismatch for")[0].strip()
        raise DataError(f"{file} cannot be used: {reason}") from error
    where = find_device(device)
    place(network, where, pipeline)
    painting = folder / REFINER / file.name
    about.pop("refiner", None)  # what its own file says counts
    refiner = None
    if plain is False and not painting.is_file():
        raise DataError(
            f"{given} has no refiner to draw with: leave out --refined (plain=False), or train one "
            "with train --pipeline refiner --on RUN"
        )
    plain = is_shipped(folder) if plain is None else plain
    if painting.is_file() and not plain:
        refiner, about["refiner"] = read_refiner(painting, weights, where)
    return Run(folder, network.eval(), pipeline, about, refiner, str(given))


def read_refiner(
    file: Path, weights: Mapping[str, Tensor], device: torch.device
) -> tuple[Refiner, dict[str, Any]]:
    """Reads the refiner of a run.

    Args:
        file: Its weights, in the folder `REFINER` of the run.
        weights: Those of the run, which it must belong to.
        device: Where it is wanted.

    Returns:
        The refiner; its pipeline, and the hashes of its weights and of those of its guide.

    Raises:
        DataError: If it is damaged, or belongs to another run.
    """
    own, about = read_weights(file)
    own |= shared_weights(file.parents[1])
    base = about.get("base")
    if not isinstance(base, Mapping) or base.get("sha256") != weights_digest(weights):
        raise DataError(
            f"{file} was trained for other weights than those of {file.parents[1]}; remove the "
            f"folder {file.parent}, or train its refiner again with train --on {file.parents[1]}"
        )
    try:
        pipeline = parse_pipeline(about.get("pipeline"))
        if kind_of(pipeline.network.name) != "paints":
            raise ValueError(f"its network is {pipeline.network.name}, which is no refiner")
        refiner: Any = restored(pipeline, own)
    except (ValueError, RuntimeError, MemoryError) as error:
        reason = str(error).partition("size mismatch for")[0].strip()
        raise DataError(f"{file} cannot be used: {reason}") from error
    place(refiner, device, pipeline)
    hashes = {"sha256": weights_digest(own)}
    hashes["guide_sha256"] = weights_digest(refiner.guide.state_dict())
    return refiner.eval(), {"pipeline": pipeline.to_dict(), **hashes}


def shared_weights(folder: Path) -> dict[str, Tensor]:
    """Reads the weights that are part of a shipped model, and that its own file leaves out."""
    file = guide_of(folder)
    weights = read_weights(file)[0] if file else {}
    return {f"guide.{name}": values for name, values in weights.items()}


def restored(pipeline: Pipeline, weights: Mapping[str, Tensor]) -> VAE:
    """Builds the network that a run names, with its weights.

    Raises:
        ValueError: If it is not trusted, or of other sizes than its weights, see `check_pipeline`.
        RuntimeError: If there are weights that it lacks.
    """
    check_pipeline(pipeline, weights)
    network = trusted_network(pipeline)
    network.load_state_dict(weights)
    return network


def trusted_network(pipeline: Pipeline) -> VAE:
    """Builds the network that a run names, without its weights.

    Raises:
        ValueError: If it is code of another package that `TRUSTED` does not name, or cannot be
            built.
    """
    name = pipeline.network.name
    trusted = {path.strip() for path in os.environ.get(TRUSTED, "").split(",")} - {""}
    module = name.rpartition(".")[0] or name
    if name not in KNOWN and not {name, module} & trusted:
        raise ValueError(
            f"its network {name!r} is none of {', '.join(KNOWN)} but code of another package, "
            f"which a run may not load by itself. If you trust it: export {TRUSTED}={module}"
        )
    return build_network(name, **pipeline.network.arguments)


def memory_format(pipeline: Pipeline) -> torch.memory_format:
    """Order of images and weights in memory that a pipeline asks for."""
    return torch.channels_last if pipeline.speed.channels_last else torch.contiguous_format


def place(network: VAE, device: torch.device, pipeline: Pipeline) -> None:
    """Moves a network to a device, its weights in the memory order that the pipeline asks for."""
    network.to(device, memory_format=memory_format(pipeline))  # type: ignore[call-overload]  # torch's stub lacks it


def encode(network: VAE, images: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Encodes slices.

    Args:
        network: The network.
        images: Slices on its device, (N, C, H, W).

    Returns:
        Posterior means and log variances, (N, D) each.
    """
    network.eval()
    with torch.no_grad():
        parts = [network.encode(chunk) for chunk in images.split(64)]
    mu, logvar = (torch.cat(part).float().cpu().numpy() for part in zip(*parts, strict=True))
    return mu, logvar


def reconstruct(network: VAE, images: Tensor) -> Tensor:
    """Decodes the posterior means of slices.

    Args:
        network: The network.
        images: Slices on any device, (N, C, H, W).

    Returns:
        Reconstructions, (N, C, H, W) float32 on the CPU.
    """
    network.eval()
    device = next(network.parameters()).device
    with torch.no_grad():
        parts = [network(chunk.to(device)).reconstruction for chunk in images.split(64)]
    return torch.cat(parts).float().cpu()


def decode(network: VAE, codes: np.ndarray) -> Tensor:
    """Decodes codes (N, D) into slices (N, C, H, W), float32 on the CPU."""
    network.eval()
    device = next(network.parameters()).device
    z = torch.as_tensor(np.ascontiguousarray(codes), dtype=torch.float32, device=device)
    with torch.no_grad():
        return torch.cat([network.decode(chunk).float().cpu() for chunk in z.split(DRAWN)])


def traverse(network: VAE, dimensions: int, statistics: Mapping[str, np.ndarray]) -> np.ndarray:
    """Decodes slices along the first dimensions.

    Starts from the mean code of the training patients and changes one dimension at a time, by
    `TRAVERSAL` standard deviations of their codes.

    Args:
        network: The network.
        dimensions: Number K of dimensions.
        statistics: ``code_mean`` and ``code_deviation`` of the training patients, (D,).

    Returns:
        Slices, (K, S, C, H, W).
    """
    mean, deviation = (np.asarray(statistics[k]) for k in ("code_mean", "code_deviation"))
    codes = np.tile(mean, (dimensions, len(TRAVERSAL), 1))
    for k in range(dimensions):
        codes[k, :, k] += TRAVERSAL * deviation[k]
    images = decode(network, codes.reshape(-1, len(mean))).numpy()
    return images.reshape(dimensions, len(TRAVERSAL), *images.shape[1:])
