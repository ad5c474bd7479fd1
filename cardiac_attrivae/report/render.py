"""Templates filled with scores, and text escaped for HTML, LaTeX and Markdown."""

from __future__ import annotations

import re

from jinja2 import Environment, PackageLoader, StrictUndefined

from ..attributes import ATTRIBUTES, label_of
from ..metrics.catalogue import label
from ..metrics.metric import find
from .published import dataset_label, method_label
from .scores import above_chance, interval_of, number, spread_of, text

TEX = {
    "\\": r"\textbackslash{}",
    "β": r"$\beta$",
    "±": r"$\pm$",
    "−": "$-$",
    "~": r"\textasciitilde{}",
}
TEX |= {"^": r"\textasciicircum{}"} | {sign: f"\\{sign}" for sign in "&%$#_{}"}


def escape_tex(text: str) -> str:
    r"""Escapes what LaTeX would take for commands: ``_ % & # $ { } ~ ^ \``.

    Example:
        >>> print(escape_tex("a_b 5%"))
        a\_b 5\%
    """
    return "".join(TEX.get(sign, sign) for sign in text)


def escape_markdown(text: str) -> str:
    r"""Escapes what Markdown would take for a cell, tag, link or emphasis, on one line.

    Example:
        >>> print(escape_markdown("a|b"))
        a\|b
    """
    return re.sub(r"([\\`*\[|<])", r"\\\1", " ".join(text.split()))


def _typeset(text: str) -> str:
    """Sets minus, plus-minus and unit as a printer does."""
    return text.replace("+-", "±").replace("-", "−").replace("cm2", "cm²")


def render(template: str, package: str = "cardiac_attrivae.report", **values: object) -> str:
    """Fills a template; values in HTML are escaped, LaTeX escapes by its own filter."""
    environment = Environment(
        loader=PackageLoader(package),
        autoescape=template.endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "tex": escape_tex, "typeset": _typeset, "number": number, "method": method_label,
        "dataset": dataset_label, "label": label, "text": text, "spread": spread_of,
        "spelled": lambda name: label_of(name) if name in ATTRIBUTES else "",
        "interval": interval_of, "above_chance": above_chance, "meaning": lambda m: find(m).meaning,
    }  # fmt: skip
    return environment.get_template(template).render(**values)
