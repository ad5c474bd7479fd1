"""Formats what a check of a data set found, for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..attributes import ATTRIBUTES
from ..runtime.messages import counted
from ..schema import SPLITS, Phase
from .manifest import Manifest


@dataclass(frozen=True)
class Finding:
    """One kind of fact, and the cases that show it: (id, detail) pairs."""

    what: str
    cases: tuple[tuple[str, str], ...] = ()

    def lines(self, width: int, most: int = 5) -> list[str]:
        """Formats the statement, then the details of the first cases."""
        count = f": {counted(len(self.cases), 'case')}" if self.cases else ""
        out = _wrap(f"- {self.what}{count}", width)
        if any(detail for _, detail in self.cases):
            for case, detail in self.cases[:most]:
                out += textwrap.wrap(
                    f"{case}  {detail}", width, initial_indent="    ", subsequent_indent="      "
                )
        elif self.cases:
            ids = ", ".join(case for case, _ in self.cases[:most])
            out += textwrap.wrap(ids, width, initial_indent="    ", subsequent_indent="    ")
        if len(self.cases) > most:
            out.append(f"    and {len(self.cases) - most} more")
        return out


@dataclass(frozen=True)
class Report:
    """Result of a check."""

    manifest: Manifest  # expected content
    root: Path  # folder that holds the data set's folders
    found: Mapping[str, int]  # folder -> number of cases in it, usable or not
    usable: Mapping[tuple[str, str], int]  # (domain, split) -> number of usable cases
    at_es: int  # number of usable cases that have a usable mask at ES, too
    # (name, lowest, median, highest) over the usable cases at ED
    geometry: tuple[tuple[str, float, float, float], ...]
    # facts that make cases unusable or wrong; with any, the command ends with 2
    problems: tuple[Finding, ...]
    notes: tuple[Finding, ...]  # other facts that a reader should know

    def render(self, width: int = 80) -> str:
        """Formats the report for a terminal or a pipe, in ``width`` columns."""
        known, expected = self.manifest, self.manifest.expected
        splits = [s for s in SPLITS if any(split == s for _, split in self.usable)]
        rows = []
        for domain in sorted({domain for domain, _ in self.usable}):
            counts = [self.usable.get((domain, split), 0) for split in splits]
            rows.append((domain, *counts, sum(counts)))
        total = sum(self.usable.values())
        later = [name for name, a in ATTRIBUTES.items() if Phase.ES in a.phases]
        blocks = [
            _wrap(f"{known.name}: {known.title}", width) + [str(self.root)],
            _wrap(f"Licence: {known.licence}", width) + _wrap(f"Cite: {known.citation}", width),
            _table([("folder", "expected", "found")]
                   + [(f, expected.get(f, "-"), n) for f, n in self.found.items()]),
        ]  # fmt: skip
        if total:
            blocks += [
                _table([("usable cases", *splits, "all"), *rows]),
                _table([("at ED", "lowest", "median", "highest"), *self.geometry]),
                _wrap(f"{self.at_es} of {total} usable cases have a mask at ES, too, and with it, "
                      f"by preprocess --phases ED,ES: {', '.join(later)}", width),
            ]  # fmt: skip
        if known.oddities:
            lines = [line for text in known.oddities for line in _wrap(f"- {text}", width)]
            blocks.append(["Known of this data set", *lines])
        for heading, findings in (("Notes", self.notes), ("Problems", self.problems)):
            if findings:
                lines = [line for finding in findings for line in finding.lines(width)]
                blocks.append([heading, *lines])
        verdict = counted(len(self.problems), "problem") if self.problems else "no problems"
        blocks.append([f"{counted(total, 'usable case')}, {verdict}"])
        return "\n\n".join("\n".join(block) for block in blocks)


def _wrap(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, subsequent_indent="  ", break_long_words=False)


def _table(rows: list[tuple]) -> list[str]:
    """Formats a header and rows: names to the left, numbers to the right."""
    cells = [[f"{c:.4g}" if isinstance(c, float) else str(c) for c in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    signs = ["<", *">" * (len(widths) - 1)]
    line = "  ".join(f"{{:{sign}{width}}}" for sign, width in zip(signs, widths, strict=True))
    return [line.format(*row) for row in cells]


class Findings(dict[tuple[bool, str], dict[str, list[str]]]):
    """Problem or note, and statement -> case -> details, in the order in which they are found."""

    def problem(self, what: str, case: str = "", detail: str = "") -> None:
        self._add((True, what), case, detail)

    def note(self, what: str, case: str = "", detail: str = "") -> None:
        self._add((False, what), case, detail)

    def _add(self, key: tuple[bool, str], case: str, detail: str) -> None:
        cases = self.setdefault(key, {})
        if case:
            cases.setdefault(case, []).append(detail)

    def all(self, *, problem: bool) -> tuple[Finding, ...]:
        return tuple(
            Finding(what, tuple((case, "; ".join(dict.fromkeys(d))) for case, d in cases.items()))
            for (kind, what), cases in self.items()
            if kind is problem
        )
