"""Plain YAML as people write it by hand, and the YAML files that the package ships."""

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
    """Lists the shipped YAML files of ``data_manifests`` or ``pipelines`` by name."""
    try:
        place = resources.files(f"cardiac_attrivae.{folder}")
    except ModuleNotFoundError:  # a checkout: only the wheel maps these folders into the package
        place = Path(__file__).parents[2] / folder
    files = sorted(place.iterdir(), key=lambda file: file.name)
    return {Path(file.name).stem: file for file in files if file.name.endswith(".yaml")}


class _PlainLoader(yaml.SafeLoader):
    """Reads plain YAML. Refuses what could blow up a few lines, or hide a value."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise _refused("aliases (*name) are not accepted; write the value out", event)
        if getattr(event, "tag", None) not in (None, "!"):
            raise _refused(f"tags ({event.tag}) are not accepted; write plain values", event)
        return super().compose_node(parent, index)

    # types-PyYAML takes the anchor for a dict; it is a name
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node, seen = super().compose_mapping_node(anchor), set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                why = f"key {key.value!r} stands here a second time; expected each key once"
                raise _refused(why, key)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
        return node


_EXPONENT = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$")
_PlainLoader.add_implicit_resolver(  # YAML 1.1 reads 1e-4 as text
    "tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789")
)


def _refused(why: str, place: Any) -> ComposerError:
    return ComposerError(None, None, why, place.start_mark)


def read_yaml(text: str | bytes) -> Any:
    """Reads plain YAML, without tags, aliases and repeated keys. Bytes are UTF-8 or UTF-16.

    Raises:
        ValueError: If the text is no plain YAML; says where.

    Example:
        >>> read_yaml("beta_kl: 2\\nattributes: [LVEDA, MEDA]")
        {'beta_kl': 2, 'attributes': ['LVEDA', 'MEDA']}
    """
    try:
        return yaml.load(text, _PlainLoader)
    except RecursionError:
        raise ValueError("lists or keys lie too deep in one another") from None
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def nearest(word: Any, known: Iterable[str]) -> str:
    """Returns a question after the most similar known word, in upper or lower case; or nothing.

    Example:
        >>> nearest("ACDC", ["acdc", "mnms"])
        ", did you mean 'acdc'?"
    """
    names = {name.lower(): name for name in known}
    match = get_close_matches(str(word).lower(), names, n=1)
    return f", did you mean {names[match[0]]!r}?" if match else ""
