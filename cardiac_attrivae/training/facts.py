"""Checks what the file of a run says beside its weights: a run of somebody else may be crafted.

The values stand on pages, in model cards and in configurations that other programs run, so that
each has a checked type. Facts of later versions, which are not listed here, are not used.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any

import torch

from ..data.manifest import NAME
from ..data.recipe import Recipe
from ..models.networks import KNOWN, build_network, sizes_only
from ..runtime.validation import Rule, build, check_mapping, number, refuse
from .config import Pipeline

LONGEST = 2000
"""Most characters of a title or a citation."""
CROP = ("size", "spacing", "percentiles")
"""What must be known of how slices were cropped: others must be cropped in the same way."""
LINE = {
    "dimension", "slope", "intercept", "code_mean", "code_deviation", "residual_sd", "n",
}  # fmt: skip
POPULATION = {"precision", "distances", "axes", "points"}
_LEAST = -sys.float_info.max


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable() and len(value) <= LONGEST


def _are_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value.values()))


def _are_numbers(value: Any, low: float = _LEAST) -> bool:
    """Whether a value is a list of finite numbers, none below ``low``."""
    fits = number(low).fits
    return isinstance(value, list) and all(fits(item) for item in value)


def _are_lines(value: Any) -> bool:
    """Whether a value holds the numbers of a line for each attribute, see `calibration_lines`."""
    return isinstance(value, dict) and all(
        isinstance(line, dict) and line.keys() >= LINE and _are_numbers([*line.values()])
        for line in value.values()
    )


def _is_population(value: Any) -> bool:
    """Whether a value holds the tables of numbers of a population, see `Population`."""
    if not isinstance(value, dict) or value and value.keys() != POPULATION:
        return False
    if not value:
        return True
    tables = [value["precision"], value["axes"], value["points"]]
    return _are_numbers(value["distances"]) and all(
        isinstance(table, list) and all(map(_are_numbers, table)) and len({*map(len, table)}) <= 1
        for table in tables
    )


NUMBERS = Rule("a list of numbers", _are_numbers)
DEVIATIONS = Rule("a list of numbers, 0 or more", lambda value: _are_numbers(value, 0))
TEXT = Rule(f"one line of text, up to {LONGEST} characters, or nothing",
            lambda value: value is None or _is_text(value))  # fmt: skip
REQUIRED = {
    "seed": number(-(2**63), 2**64 - 1, whole=True),
    "train_dataset": Rule(
        "letters, digits, '_' and '-'",
        lambda value: isinstance(value, str) and re.fullmatch(NAME, value) is not None,
    ),
    "code_mean": NUMBERS,
    "code_deviation": DEVIATIONS,
}
OPTIONAL = {
    "title": TEXT,
    "citation": TEXT,
    "synthetic": Rule("true or false", lambda value: value is None or isinstance(value, bool)),
    "content_hash": TEXT,
    "attribute_mean": NUMBERS,
    "attribute_deviation": DEVIATIONS,
    "calibration": Rule("attributes with the numbers of their lines", _are_lines),
    "population": Rule("tables of numbers, as a run writes them", _is_population),
    "perceptual": Rule("names with texts", _are_texts),
    "guide": Rule(
        "network and sha256, both texts",
        lambda value: _are_texts(value) and (not value or {"network", "sha256"} <= value.keys()),
    ),
    "train_sources": Rule(
        "a list of names", lambda value: isinstance(value, list) and all(map(_is_text, value))
    ),
}
PRIVATE = {
    key: Rule("patients with fingerprints", _are_texts) for key in ("train_cases", "guide_cases")
}
"""Facts about single patients, which an exported model leaves out."""
SHARED = (*REQUIRED, *OPTIONAL, "recipe")
"""Facts that an exported model keeps."""


def check_facts(facts: Mapping[str, Any], latent_size: int) -> None:
    """Refuses facts with a value that is not what it must be.

    Args:
        facts: Facts of model.safetensors but for the pipeline.
        latent_size: Latent dimensions of the network.

    Raises:
        ValueError: Names the key, the value and what is accepted.

    Example:
        >>> check_facts({"seed": "$print(1)"}, 32)
        Traceback (most recent call last):
        ValueError: seed is '$print(1)'; expected a whole number from ...
    """
    for key, rule in REQUIRED.items():
        if not rule.fits(facts.get(key)):
            refuse(key, facts.get(key), rule.expected)
    for key, rule in (OPTIONAL | PRIVATE).items():
        if key in facts and not rule.fits(facts[key]):
            refuse(key, facts[key], rule.expected)
    for key in ("code_mean", "code_deviation"):
        if len(facts[key]) != latent_size:
            refuse(key, facts[key], f"{latent_size} numbers, one for each latent dimension")
    for name, line in facts.get("calibration", {}).items():
        if line["dimension"] not in range(latent_size) or line["n"] < 3:
            refuse(
                f"calibration.{name}", line, "a dimension of the network, and 3 patients or more"
            )
    if told := facts.get("population"):
        shapes = [(len(told[key]), len(told[key][0]) if told[key] else 0)
                  for key in ("precision", "axes", "points")]  # fmt: skip
        wanted = [(latent_size, latent_size), (2, latent_size), (len(told["points"]), 2)]
        if shapes != wanted or len(told["distances"]) != 101:
            refuse("population", f"tables of {shapes}", f"{wanted}, and 101 distances")
    recipe: Any = facts.get("recipe")
    check_mapping(recipe, "recipe")
    for key in CROP:
        if key not in recipe:
            raise ValueError(f"recipe.{key} is missing: how slices were cropped is not known")
    low, high = build(Recipe, recipe, "recipe").percentiles
    if not low < high <= 100:
        refuse("recipe.percentiles", recipe["percentiles"], "two numbers from 0 to 100, rising")


def check_pipeline(pipeline: Pipeline, weights: Mapping[str, torch.Tensor]) -> None:
    """Refuses a network of other sizes than its weights, before memory is taken for it; and a name
    of the method that is not one line."""
    if not _is_text(pipeline.method):  # it is the heading of a model card
        refuse("method", pipeline.method, "one line of text")
    if pipeline.network.name not in KNOWN:  # other code may need real values to be built
        return
    with sizes_only():
        network = build_network(pipeline.network.name, **pipeline.network.arguments)
    for name, values in network.state_dict().items():
        found = f"has shape {tuple(weights[name].shape)}" if name in weights else "is missing"
        if found != f"has shape {tuple(values.shape)}":
            raise ValueError(f"{name} {found}; network.arguments ask for {tuple(values.shape)}")
