"""What a trained network is asked: codes, decoded slices, scores. Finished runs are opened here."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as short
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..data.loader import DeviceLoader
from ..data.store import SliceDataset
from ..models.networks import NETWORKS, build_network
from ..report.slices import methods_side_by_side, traversals
from ..runtime.device import find_device
from ..runtime.files import read_json
from ..runtime.weights import read_weights
from ..schema import DataError
from .config import Pipeline, parse_pipeline
from .engines import VAEEvaluator
from .handlers import ImageFidelity, LossTerms, RegularisationMetrics, VolumeAttributes

TRAVERSAL = np.linspace(-3, 3, 7)
"""Steps of a traversal in standard deviations of the training codes, as in the paper's Fig. 3."""


TRUSTED = "CARDIAC_ATTRIVAE_NETWORKS"
"""Environment variable: dotted paths, with commas between, whose classes runs may name."""


@dataclass(frozen=True)
class Run:
    """A trained run, as model.safetensors holds it.

    Attributes:
        network: In eval mode, on the device asked for.
        pipeline: What it was trained with.
        about: Everything else: seed, data set, mean and deviation of training codes.
    """

    folder: Path
    network: nn.Module
    pipeline: Pipeline
    about: dict[str, Any]

    @property
    def summary(self) -> dict[str, Any]:
        """How training went: summary.json.

        Raises:
            DataError: If it is missing or damaged.
        """
        return read_json(self.folder / "summary.json")


def load_run(folder: str | Path, device: str = "cpu") -> Run:
    """Reads a finished run. Its file holds weights and plain values, and no code is run from it.

    A network that the run names by a dotted path is code of another package. It is imported only
    if the environment variable `TRUSTED` names that class, or a module above it.

    Raises:
        DataError: If the folder holds none, or one that is damaged, or that asks for such code.
    """
    folder = Path(folder)
    file = folder / "model.safetensors"
    if not file.is_file():
        unfinished = (folder / "last.pt").is_file()
        hint = "it is unfinished: train again with --resume" if unfinished else "train one first"
        raise DataError(f"no trained model in {folder}: model.safetensors is missing; {hint}")
    weights, about = read_weights(file)
    kinds = {"seed": int, "train_dataset": str, "recipe": dict}
    kinds |= {"code_mean": list, "code_deviation": list}
    for name, kind in kinds.items():
        if not isinstance(about.get(name), kind):
            raise DataError(f"{file}: {name} is {short(about.get(name))}; expected {kind.__name__}")
    try:
        pipeline = parse_pipeline(about.pop("pipeline", None))
        network = trusted_network(pipeline)
        network.load_state_dict(weights)
    except (ValueError, RuntimeError, MemoryError) as error:  # RuntimeError: of other shapes, say
        told = str(error).partition("size mismatch for")[0].strip()
        raise DataError(f"{file} cannot be used: {told}") from error
    network.to(find_device(device), memory_format=memory_format(pipeline))  # as it was trained
    return Run(folder, network.eval(), pipeline, about)


def trusted_network(pipeline: Pipeline) -> nn.Module:
    """The network of a pipeline that a run names, without its weights.

    Raises:
        ValueError: If it is code of another package that `TRUSTED` does not name, or cannot be
            built.
    """
    name = pipeline.network.name
    trusted = [path.strip() for path in os.environ.get(TRUSTED, "").split(",")]
    if name not in NETWORKS and not any(f"{name}.".startswith(f"{path}.") for path in trusted):
        module = name.rpartition(".")[0] or name
        raise ValueError(
            f"its network {name!r} is none of {', '.join(NETWORKS)} but code of another package, "
            f"which a run may not load by itself. If you trust it: export {TRUSTED}={module}"
        )
    return build_network(name, **pipeline.network.arguments)


def memory_format(pipeline: Pipeline) -> torch.memory_format:
    """Order of images and weights in memory that a pipeline asks for."""
    return torch.channels_last if pipeline.speed.channels_last else torch.contiguous_format


def make_evaluator(
    network: nn.Module,
    dataset: SliceDataset,
    names: Sequence[str],
    *,
    dimensions: Sequence[int | None],
    device: torch.device,
    codes: str = "mean",
    standardised: np.ndarray | None = None,
    loss_function: nn.Module | None = None,
) -> VAEEvaluator:
    """An evaluator with all that is measured on slices: attributes, scores, fidelity, loss.

    Args:
        network: What to evaluate.
        dataset: On which slices.
        names: Attributes to score.
        dimensions: See `RegularisationMetrics`.
        device: Where.
        codes: Posterior ``mean``, or ``sampled``, always with the same noise.
        standardised: Attributes as the loss expects them, (N, K); needed with a loss alone.
        loss_function: See `VAEEvaluator`.
    """
    values = np.zeros((len(dataset), len(names))) if standardised is None else standardised
    return VAEEvaluator(
        device=device,
        val_data_loader=DeviceLoader(dataset, values, 64, device),
        epoch_length=math.ceil(len(dataset) / 64),
        network=network,
        loss_function=loss_function,
        generator=torch.Generator(device).manual_seed(0) if codes == "sampled" else None,
        val_handlers=[
            VolumeAttributes(dataset, names),
            LossTerms(),
            ImageFidelity(),
            RegularisationMetrics(dataset, names, dimensions),
        ],
    )


def encode(network: nn.Module, images: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Posterior means and log variances, (N, D) each, of slices (N, C, H, W)."""
    network.eval()
    with torch.no_grad():
        parts = [network.encode(chunk) for chunk in images.split(64)]
    mu, logvar = (torch.cat(part).float().cpu().numpy() for part in zip(*parts, strict=True))
    return mu, logvar


def reconstruct(network: nn.Module, images: Tensor) -> Tensor:
    """What a network makes of slices (N, C, H, W): decoded posterior means, float32 on the CPU."""
    network.eval()
    device = next(network.parameters()).device
    with torch.no_grad():
        parts = [network(chunk.to(device)).reconstruction for chunk in images.split(64)]
    return torch.cat(parts).float().cpu()


def decode(network: nn.Module, codes: np.ndarray) -> Tensor:
    """Slices (N, C, H, W) of codes (N, D), float32 on the CPU."""
    network.eval()
    device = next(network.parameters()).device
    z = torch.as_tensor(np.ascontiguousarray(codes), dtype=torch.float32, device=device)
    with torch.no_grad():
        return torch.cat([network.decode(chunk).float().cpu() for chunk in z.split(64)])


def traverse(network: nn.Module, dimensions: int, statistics: dict[str, np.ndarray]) -> np.ndarray:
    """Slices decoded along the first dimensions, (K, S, H, W).

    Starts from the mean code of the training patients and turns one dimension at a time, by
    `TRAVERSAL` standard deviations of their codes.
    """
    mean, deviation = (np.asarray(statistics[k]) for k in ("code_mean", "code_deviation"))
    codes = np.tile(mean, (dimensions, len(TRAVERSAL), 1))
    for k in range(dimensions):
        codes[k, :, k] += TRAVERSAL * deviation[k]
    images = decode(network, codes.reshape(-1, len(mean)))[:, 0].numpy()
    return images.reshape(dimensions, len(TRAVERSAL), *images.shape[1:])


def draw_traversals(
    network: nn.Module,
    names: tuple[str, ...],
    statistics: dict[str, np.ndarray],
    path: Path,
) -> None:
    traversals(traverse(network, len(names), statistics), names, TRAVERSAL, path)


def draw_reconstructions(network: nn.Module, dataset: SliceDataset, path: Path) -> None:
    originals = dataset.images[:, 0].numpy()
    decoded = reconstruct(network, dataset.images)[:, 0].numpy()
    captions = dataset.cases["case"].tolist()
    methods_side_by_side(originals, {"reconstruction": decoded}, captions, path)
