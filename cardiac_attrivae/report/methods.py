"""Names of methods: models are pooled as seeds of one method only if nothing else differs."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple, TypeVar

Name = TypeVar("Name", bound=Hashable)

BASELINE = "baseline: "
"""How the names of trivial baselines begin: they are shown beside methods, and not ranked."""


def is_baseline(method: str) -> bool:
    """Tells whether a method is a trivial baseline.

    Example:
        >>> is_baseline("baseline: pixel count"), is_baseline("attri_vae")
        (True, False)
    """
    return method.startswith(BASELINE)


LONGEST = 60
"""Characters of a name that lists what differs."""


class Configuration(NamedTuple):
    """What a model is, but for its seed."""

    method: str  # name in its pipeline
    train_dataset: str  # name of the data set that it was trained on
    content: str | None  # content hash of that store; None if unknown
    pipeline: Mapping[str, Any]  # every value of the pipeline, by section


def method_names(models: Mapping[Name, Configuration]) -> dict[Name, str]:
    """Names the method of each model, so that equal names mean equal configurations.

    Models that differ in more than the seed get names that say in what.

    Example:
        >>> small, large = ({"network": {"latent_size": size}} for size in (8, 32))
        >>> models = {1: Configuration("vae", "acdc", None, small),
        ...           2: Configuration("vae", "acdc", None, large)}
        >>> method_names(models)
        {1: 'vae (latent_size=8)', 2: 'vae (latent_size=32)'}
    """
    named: dict[Name, str] = {}
    for key, model in models.items():
        rivals = [m for m in models.values() if m[:2] == model[:2]]
        variants = list({repr(facts): facts for facts in map(_facts, rivals)}.values())
        own = _facts(model)
        differing = [name for name in own if any(v.get(name) != own[name] for v in variants)]
        differing += [name for v in variants for name in v if name not in own]
        named[key] = model.method + _suffix(own, list(dict.fromkeys(differing)), variants)
    return named


def _suffix(own: Mapping[str, Any], differing: list[str], variants: list[dict[str, Any]]) -> str:
    if not differing:
        return ""
    told = ", ".join(f"{name.rpartition('.')[2]}={_short(own.get(name))}" for name in differing)
    if len(told) > LONGEST:
        told = f"configuration {1 + variants.index(dict(own))}"
    return f" ({told})"


def _facts(model: Configuration) -> dict[str, Any]:
    """Lists all values by their dotted names, and which slices the model was trained on."""
    found: dict[str, Any] = {}

    def collect(values: Mapping[str, Any], prefix: str) -> None:
        for name, value in values.items():
            if isinstance(value, Mapping):
                collect(value, f"{prefix}{name}.")
            else:
                found[prefix + name] = list(value) if isinstance(value, tuple) else value

    collect(model.pipeline, "")
    return found | ({"data": model.content[:8]} if model.content else {})


def _short(value: object) -> str:
    if isinstance(value, list):
        return "+".join(map(str, value))
    return "default" if value is None else str(value)
