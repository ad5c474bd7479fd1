"""YAML as one writes it by hand, and the YAML files that the package ships."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError


def shipped(folder: str) -> dict[str, Any]:
    """Name -> YAML file, of those in ``data_manifests`` or ``pipelines`` that come along."""
    try:
        place = resources.files(f"cardiac_attrivae.{folder}")
    except ModuleNotFoundError:  # a checkout: only the wheel maps these folders into the package
        place = Path(__file__).parents[2] / folder
    files = sorted(place.iterdir(), key=lambda file: file.name)
    return {Path(file.name).stem: file for file in files if file.name.endswith(".yaml")}


class _PlainLoader(yaml.SafeLoader):
    """YAML as one writes it by hand. What a few lines could explode with, or hide, is refused."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            told = "aliases (*name) are not accepted; write the value out"
            raise ComposerError(None, None, told, event.start_mark)
        if getattr(event, "tag", None) not in (None, "!"):
            told = f"tags ({event.tag}) are not accepted; write plain values"
            raise ComposerError(None, None, told, event.start_mark)
        return super().compose_node(parent, index)

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node, seen = super().compose_mapping_node(anchor), set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                told = f"key {key.value!r} stands here a second time; expected each key once"
                raise ComposerError(None, None, told, key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
        return node


_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
_PlainLoader.add_implicit_resolver(  # YAML 1.1 reads 1e-4 as text
    "tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789")
)


def read_yaml(text: str | bytes) -> Any:
    """What plain YAML says: no tags, aliases or keys given twice; of bytes, UTF-8 or UTF-16.

    Raises:
        ValueError: If it is none; says where.
    """
    try:
        return yaml.load(text, _PlainLoader)
    except RecursionError:
        raise ValueError("lists or keys lie too deep in one another") from None
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def nearest(word: Any, known: Iterable[str]) -> str:
    match = get_close_matches(str(word), list(known), n=1)
    return f", did you mean {match[0]!r}?" if match else ""
