"""Writes all values of a pipeline as YAML, each with the file and the comment it comes from."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from .config import laid_over, layers, load_pipeline


class Note(str):
    """A value as text, which is compared, and where it comes from."""

    source: str


def render_pipeline(name_or_path: str | Path, overrides: Iterable[str] = ()) -> str:
    """Writes every value of a pipeline as YAML that `load_pipeline`, whose arguments it takes,
    reads again.

    Example:
        >>> text = render_pipeline("attri_vae", ["objective.gamma=3"])
        >>> print(text[text.index("objective") :])
        objective:
          gamma: 3.0  # --set
          delta: 10.0  # attri_vae: seed, appendix A
        ...
    """
    overrides = tuple(overrides)
    values = load_pipeline(name_or_path, overrides).to_dict()
    notes: Any = {}
    for layer in layers(name_or_path):
        wide = layer.text.startswith((b"\xff\xfe", b"\xfe\xff"))
        lines = layer.text.decode("utf-16" if wide else "utf-8-sig").splitlines()
        notes = laid_over(notes, _notes(yaml.compose(layer.text), lines, layer.name))
    for override in overrides:
        key, _, text = override.partition("=")
        node: yaml.Node | None = yaml.compose(text or "null")
        for part in reversed(key.split(".")):
            node = yaml.MappingNode("", [(yaml.ScalarNode("", part), node)])
        notes = laid_over(notes, _notes(node, [], "--set"))
    return "\n".join(_lines(values, notes, "")) + "\n"


def _notes(node: yaml.Node | None, lines: list[str], source: str) -> Any:
    """Replaces each value of a tree by the name of its file and its comment."""
    if isinstance(node, yaml.MappingNode):
        return {key.value: _notes(value, lines, source) for key, value in node.value}
    note = Note(node.value if isinstance(node, yaml.ScalarNode) else "")
    comment = ""
    if node and lines:
        comment = lines[node.end_mark.line][node.end_mark.column :].partition("#")[2].strip()
    note.source = f"{source}: {comment}" if comment else source
    return note


def _lines(values: dict[str, Any], notes: Any, indent: str) -> Iterable[str]:
    for key, value in values.items():
        note = notes.get(key) if isinstance(notes, dict) else notes
        if isinstance(value, dict) and value:
            yield f"{indent}{key}:"
            yield from _lines(value, note, indent + "  ")
        else:
            text = yaml.safe_dump([value], default_flow_style=True, width=float("inf"))[1:-2]
            yield f"{indent}{key}: {text}  # {getattr(note, 'source', 'default')}"
