"""What is measured while slices pass through a network: codes, reconstructions, terms of the loss.

Each class is a handler of an engine. Scores go to ``engine.state.metrics`` by their names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn

from ..data.loader import DeviceLoader
from ..data.store import SliceDataset
from ..metrics.codes import score
from ..metrics.images import FIDELITY
from ..metrics.patients import LEAST
from ..models.vae import VAE
from ..schema import Keys, LatentTable
from .engines import VAEEvaluator


class RegularisationMetrics:
    """Scores how well the codes represent the attributes, see `metrics.codes.score`.

    The attributes are measured from the native masks, never read from cases.csv, which somebody may
    have edited. Leaves ``engine.state.table``, a `LatentTable`, and in ``engine.state.metrics``
    each score as ``Metric`` (the mean) and ``Metric/attribute``.

    Args:
        dataset: What the engine evaluates.
        names: Attributes.
        dimensions: Latent dimension that each attribute was trained on; None for those without.
    """

    def __init__(
        self, dataset: SliceDataset, names: Sequence[str], dimensions: Sequence[int | None]
    ) -> None:
        self.dataset, self.names = dataset, tuple(names)
        self.dimensions = tuple(dimensions)
        self._attributes: np.ndarray | None = None
        self._codes: list[np.ndarray] = []
        self._rows: list[np.ndarray] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.update)
        engine.add_event_handler(Events.COMPLETED, self.compute)

    def reset(self, engine: Engine) -> None:
        if self._attributes is None:  # masks do not change while a run reads them
            self._attributes = self.dataset.measured(self.names)
        self._codes, self._rows = [], []

    def update(self, engine: Engine) -> None:
        output = output_of(engine)
        self._codes.append(output[Keys.LATENT].float().cpu().numpy())
        self._rows.append(output[Keys.ROW].cpu().numpy())

    def compute(self, engine: Engine) -> None:
        rows, state = np.concatenate(self._rows), _state(engine)
        assert self._attributes is not None
        state.table = LatentTable(
            tuple(self.dataset.cases["case"].iloc[rows]),
            np.concatenate(self._codes),
            self._attributes[rows],
            self.names,
            self.dimensions,
        )
        if len(rows) < LEAST:
            return
        for entry in score(state.table):
            suffix = "" if entry.attribute == "mean" else f"/{entry.attribute}"
            state.metrics[entry.metric + suffix] = entry.value


class ImageFidelity:
    """How well slices are reconstructed, see `FIDELITY`.

    Leaves ``engine.state.fidelity``, name -> one value per slice, and the means in
    ``engine.state.metrics``.
    """

    def __init__(self) -> None:
        self._values: dict[str, list[np.ndarray]] = {}

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.update)
        engine.add_event_handler(Events.COMPLETED, self.compute)

    def reset(self, engine: Engine) -> None:
        self._values = {name: [] for name in FIDELITY}

    def update(self, engine: Engine) -> None:
        output = output_of(engine)
        image, reconstruction, label = (
            output[key].float().cpu().numpy()
            for key in (Keys.IMAGE, Keys.RECONSTRUCTION, Keys.LABEL)
        )
        for name, measure in FIDELITY.items():
            self._values[name].append(measure(image, reconstruction, label > 0))

    def compute(self, engine: Engine) -> None:
        state = _state(engine)
        state.fidelity = {name: np.concatenate(parts) for name, parts in self._values.items()}
        for name, values in state.fidelity.items():
            state.metrics[name] = float(np.mean(values))


class LossTerms:
    """Averages the terms of the loss, and signs of health, over an epoch; all slices count equally.

    Sums stay on the device in the dtype of the terms, so that no step waits for the host.
    `ignite.metrics.Average` would sum in float64 and change the last digits of history.csv.

    Raises:
        FloatingPointError: At the end of an epoch in which a term was not finite, with its name.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._parts: set[str] = set()
        self._count = 0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self.reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.update)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.compute)

    def reset(self, engine: Engine) -> None:
        self._sums, self._parts, self._count = {}, set(), 0

    def update(self, engine: Engine) -> None:
        output = output_of(engine)
        n = len(output[Keys.ROW])
        for name, term in (output[Keys.TERMS] | output.get(Keys.HEALTH, {})).items():
            self._sums[name] = self._sums.get(name, 0) + term * n
        self._parts |= output[Keys.TERMS].keys()
        self._count += n

    def compute(self, engine: Engine) -> None:
        means = {name: float(total) / self._count for name, total in self._sums.items()}
        for name, value in means.items():
            if not np.isfinite(value):
                raise FloatingPointError(
                    f"the {name} term is {value} in epoch {engine.state.epoch}"
                )
        if means:
            loss = sum(value for name, value in means.items() if name in self._parts)
            engine.state.metrics |= means | {"loss": loss}


def make_evaluator(
    network: VAE,
    dataset: SliceDataset,
    names: Sequence[str],
    *,
    dimensions: Sequence[int | None],
    device: torch.device,
    standardised: np.ndarray | None = None,
    loss_function: nn.Module | None = None,
    more: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> VAEEvaluator:
    """Builds an evaluator that measures codes, reconstructions and, with a loss, its terms.

    Args:
        network: The network to evaluate.
        dataset: The slices that it is evaluated on.
        names: Attributes to score.
        dimensions: See `RegularisationMetrics`.
        device: Where the network is.
        standardised: Attributes as the loss expects them, (N, K); needed only with a loss.
        loss_function: See `VAEEvaluator`.
        more: See `DeviceLoader`.
    """
    values = np.zeros((len(dataset), len(names))) if standardised is None else standardised
    return VAEEvaluator(
        device=device,
        val_data_loader=DeviceLoader(dataset, values, 64, device, more=more),
        epoch_length=math.ceil(len(dataset) / 64),
        network=network,
        loss_function=loss_function,
        val_handlers=[
            LossTerms(),
            ImageFidelity(),
            RegularisationMetrics(dataset, names, dimensions),
        ],
    )


def output_of(engine: Engine) -> dict[str, Any]:
    """What the last iteration of an engine left, see the engines' ``_iteration``."""
    return _state(engine).output


def _state(engine: Engine) -> Any:
    """Ignite's State takes any attribute, but its type names only a few, and those too narrowly."""
    return engine.state
