"""Fits a pipeline to a store: its network takes size and channels of the slices, and categories of
the patients, or is refused."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

from ..data.categories import categories_of, one_hot
from ..data.store import SliceDataset
from ..models.networks import KINDS, kind_of, network_class
from ..models.vae import NAMES
from ..runtime.validation import require
from ..schema import DataError
from .config import Pipeline
from .objectives import ClassifierObjective


def fitted(pipeline: Pipeline, store: SliceDataset) -> Pipeline:
    """A pipeline whose network is of the size and channels of a store's slices, and is told the
    categories of its patients if it has a condition.

    Args:
        pipeline: It need not name them; where it does, they must be those of the store.
        store: Slices to train on.

    Raises:
        ValueError: If the pipeline names other ones, there is no such network, or it is not one for
            the objective or for these slices.
        DataError: If the store does not hold the categories of the condition.
    """
    name, arguments = pipeline.network.name, dict(pipeline.network.arguments)
    _check_kind(pipeline, store)
    for key, found in (("image_size", store.image_size), ("channels", store.channels)):
        if arguments.get(key, found) != found:
            raise ValueError(
                f"network.arguments.{key} is {arguments[key]}, but {store.folder} has {found}; "
                f"leave {key} out of the pipeline, the store says it"
            )
        parameter = inspect.signature(network_class(name)).parameters.get(key)
        # one channel, which networks expect unless told otherwise, is not written down
        if parameter is not None and (key == "image_size" or parameter.default != found):
            arguments[key] = found
    arguments |= _categories(arguments, store) | _classifier(pipeline, store)
    return replace(pipeline, network=replace(pipeline.network, arguments=arguments))


def _categories(arguments: dict[str, Any], store: SliceDataset) -> dict[str, Any]:
    """The categories of a condition: those that are given, else all that the patients have."""
    column, given = (arguments.get(key) for key in ("condition", "categories"))
    if column in (None, ""):
        return {}
    require("network.arguments.condition", [column], NAMES)
    key = "network.arguments.condition"
    known = [*categories_of(store.cases, column, key)] if given is None else given
    require("network.arguments.categories", known, NAMES)
    if not one_hot(store.cases, column, known).any():
        raise DataError(
            f"no training patient of {store.folder} has a {column} of {', '.join(known)}, as "
            "network.arguments.categories asks; leave them out, the store says them"
        )
    return {"categories": known}


def _classifier(pipeline: Pipeline, store: SliceDataset) -> dict[str, Any]:
    """What the network's classifier tells apart, and how many dimensions it reads."""
    objective, given = pipeline.objective, pipeline.network.arguments.get("classifier")
    wanted: dict[str, Any] | None = None
    if isinstance(objective, ClassifierObjective):
        if objective.column == pipeline.network.arguments.get("condition"):
            raise ValueError(
                f"objective.column and network.arguments.condition are both {objective.column!r}: "
                "the network would be told what its classifier shall find; leave one out"
            )
        found = categories_of(store.cases, objective.column, "objective.column")
        wanted = {"classes": [*found]}
        if objective.reads == "attributes":
            wanted["inputs"] = len(pipeline.attributes)
    if given not in (None, wanted):
        raise ValueError(
            f"network.arguments.classifier is {given}, which does not fit {store.folder} and "
            f"objective {objective.name}; leave it out, training fills it in"
        )
    return {} if wanted is None else {"classifier": wanted}


def _check_kind(pipeline: Pipeline, store: SliceDataset) -> None:
    """Refuses crops for what needs whole pictures, and the other way round; and a network that does
    something else than what the objective trains."""
    objective, whole = pipeline.objective, pipeline.objective.whole
    if (store.info.get("recipe", {}).get("slice") == "whole") != whole:
        wanted = "--slice whole" if whole else "another --slice"
        raise ValueError(
            f"{store.folder} holds {'crops' if whole else 'whole pictures'}, of which "
            f"{objective.name} cannot learn; write a store with preprocess {wanted}"
        )
    if kind_of(pipeline.network.name) != objective.kind:
        known = f"one of {', '.join(KINDS[objective.kind])}"
        accepted = "a network with codes" if objective.has_codes else known
        raise ValueError(
            f"network.name is {pipeline.network.name!r}; expected {accepted} for {objective.name}"
        )
