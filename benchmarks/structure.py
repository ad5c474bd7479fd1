"""Draws the folders of the package and the imports between them: docs/evidence/structure.md.

    python benchmarks/structure.py

Reads source code only. Writes docs/images/structure.png and the table of the page.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

ROOT = Path(__file__).resolve().parent.parent
PACKAGE, PAGE = ROOT / "cardiac_attrivae", ROOT / "docs" / "evidence" / "structure.md"
PICTURE = ROOT / "docs" / "images" / "structure.png"
TABLE = re.compile(r"(?<=<!-- table -->\n).*(?=<!-- end of table -->)", re.DOTALL)

Arrows = set[tuple[str, str]]


def module_name(file: Path) -> str:
    """Dotted name of a file below the package, such as ``data.store`` or ``data``."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def imports_between(files: list[Path]) -> Arrows:
    """Pairs (module, module that it imports) inside the package, imports in functions included.

    Imports for annotations alone are read too: they are arrows for whoever reads the code.
    """
    names = {module_name(file) for file in files}
    arrows = set()
    for file in files:
        here = module_name(file)
        parts = file.relative_to(PACKAGE).parent.parts
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or not node.level:
                continue
            base = ".".join((*parts[: len(parts) + 1 - node.level], *filter(None, [node.module])))
            for alias in node.names:
                inside = ".".join(filter(None, (base, alias.name)))
                target = inside if inside in names else base
                if target and target != here:
                    arrows.add((here, target))
    return arrows


def folder_of(module: str) -> str:
    return module.partition(".")[0]


def floors_of(arrows: Arrows) -> dict[str, int]:
    """Floor of each folder: one above the highest that it imports.

    Raises:
        ValueError: If folders import one another in a circle.
    """
    below: dict[str, set[str]] = {}
    for one, other in arrows:
        below.setdefault(one, set()).add(other)
        below.setdefault(other, set())
    floors: dict[str, int] = {}
    while len(floors) < len(below):
        ready = [name for name in below if name not in floors and below[name] <= floors.keys()]
        if not ready:
            raise ValueError(f"folders import one another: {sorted(below.keys() - floors.keys())}")
        for name in ready:
            floors[name] = 1 + max((floors[other] for other in below[name]), default=-1)
    return floors


def draw(floors: dict[str, int], sizes: dict[str, str], arrows: Counter[tuple[str, str]]) -> None:
    """Draws a box per folder and an arrow per pair; the width of an arrow is its imports."""
    rows: dict[int, list[str]] = {}
    for name, floor in sorted(floors.items()):
        rows.setdefault(floor, []).append(name)
    place = {
        name: (2.6 * (i - (len(row) - 1) / 2) + 0.35 * (-1) ** floor, 1.1 * floor)
        for floor, row in rows.items()
        for i, name in enumerate(row)
    }
    figure = Figure(figsize=(8, 1.0 * len(rows) + 0.6), layout="constrained")
    axis = figure.add_subplot()
    for (one, other), count in arrows.items():
        (x, y), (u, v) = place[one], place[other]
        axis.add_patch(
            FancyArrowPatch(
                (x, y - 0.24),
                (u, v + 0.24),
                arrowstyle="-|>",
                mutation_scale=7,
                linewidth=min(2.5, 0.35 + 0.06 * count),
                color="#5b7083",
                alpha=0.55,
                connectionstyle=f"arc3,rad={0.12 if y - v > 1.2 else 0}",
            )  # fmt: skip
        )
    for name, (x, y) in place.items():
        box = FancyBboxPatch(
            (x - 1, y - 0.22), 2, 0.44, boxstyle="round,pad=0.02", facecolor="white",
            edgecolor="#26323c", zorder=3,
        )  # fmt: skip
        axis.add_patch(box)
        axis.text(x, y + 0.07, name, ha="center", va="center", weight="bold", size=9, zorder=4)
        axis.text(x, y - 0.1, sizes[name], ha="center", va="center", size=6.5, zorder=4)
    xs = [x for x, _ in place.values()]
    axis.set(xlim=(min(xs) - 1.3, max(xs) + 1.3), ylim=(-0.5, 1.1 * (len(rows) - 1) + 0.5))
    axis.axis("off")
    figure.savefig(PICTURE, dpi=130)


def main() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    arrows = imports_between(files)
    entrances = ("__init__", "__main__")
    lines = {module_name(f): len(f.read_text(encoding="utf-8").splitlines()) for f in files}
    between = Counter(
        (folder_of(one), folder_of(other))
        for one, other in arrows
        if folder_of(one) != folder_of(other) and folder_of(one) not in entrances
    )
    floors = floors_of(set(between))
    modules, size = Counter(map(folder_of, lines)), Counter[str]()
    for name, count in lines.items():
        size[folder_of(name)] += count
    draw(
        floors,
        {n: f"{modules[n]} file{'s' * (modules[n] > 1)}, {size[n]:,} lines" for n in floors},
        between,
    )
    longest = max(lines, key=lines.__getitem__)
    rows = [
        ("modules", "62", len(files)),
        ("folders", "1", len({f.parent for f in files})),
        ("floors", "15", max(floors.values()) + 1),
        ("imports from module to module", "323", len(arrows)),
        ("imports from folder to folder", "", len(between)),
        ("circles between folders", "", 0),
        ("lines", "17,054", f"{sum(lines.values()):,}"),
        ("longest file, lines", "607", f"{lines[longest]} ({longest})"),
    ]
    table = "| | before | now |\n| --- | --- | --- |\n"
    table += "".join(f"| {what} | {before} | {now} |\n" for what, before, now in rows)
    PAGE.write_text(TABLE.sub(lambda _: table, PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
