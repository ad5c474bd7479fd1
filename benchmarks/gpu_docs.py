"""Prints what `gpu.sh` measured as the tables of docs/evidence/gpu.md.

    python benchmarks/gpu_docs.py OUTPUT/gpu.json

Refuses a rehearsal: its numbers are of a CPU and of tiny networks.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

SCORES = (
    "SSIM", "SSIM_in_mask", "Interpretability", "Interpretability_fixed", "SCC", "SAP",
    "Modularity",
)  # fmt: skip


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Returns a Markdown table."""
    head = tuple(head)
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def step_tables(steps: dict[str, Any]) -> str:
    parts = []
    for model, record in steps.items():
        if model == "wall_seconds":
            continue
        if "error" in record:
            parts.append(f"`{model}`: {record['error']}")
            continue
        rows = [
            (label, f"{row['ms']:.2f}", f"{row['images_per_second']:.0f}", f"{row['ratio']:.2f}",
             f"{row['rate'] / 1e12:.1f} ({row['rate'] / row['matrix_rate']:.0%})"
             if "rate" in row else "",
             f"{row['peak_mib']:.0f}" if row["peak_mib"] is not None else "")
            for label, row in record["rows"].items()
        ]  # fmt: skip
        head = (f"`{model}`, {record['parameters']:,} parameters, batch {record['batch_size']}",
                "ms a step", "images/s", "times as fast", "TFLOP/s (of a matrix product)",
                "memory (MiB)")  # fmt: skip
        failed = [f"\n{label} did not run: {why}" for label, why in record["errors"].items()]
        parts.append("\n".join([table(head, rows), *failed]))
    return "\n\n".join(parts)


def training_table(trainings: dict[str, Any]) -> str:
    rows = [
        (f"`{name}`", row["epochs"], f"{row['seconds'] / 60:.1f}" if "seconds" in row else "",
         row.get("reason", "finished"))
        for name, row in trainings.items()
        if isinstance(row, dict)
    ]  # fmt: skip
    return table(("pipeline", "epochs", "minutes, all at once", "end"), rows)


def score_table(evaluation: dict[str, Any]) -> str:
    """Means over the attributes, one column per model."""
    found = {
        (row["metric"], row["model"]): row["value"]
        for row in evaluation["metrics"]
        if row["metric"] in SCORES
        and row["attribute"] in (None, "mean")
        and row["value"] is not None
    }
    models = sorted({model for _, model in found})
    rows = [
        (score, *(f"{found[score, m]:.3f}" if (score, m) in found else "" for m in models))
        for score in SCORES
    ]
    return table(("score", *(f"`{model}`" for model in models)), rows)


def tables(found: dict[str, Any]) -> str:
    """Writes a table per part; a part that failed says so in its place."""

    def part(name: str, write: Any) -> str:
        record = found.get(name, {"error": "was not reached"})
        return f"Not measured: {record['error']}" if "error" in record else write(record)

    return "\n\n".join(
        [
            part("steps", step_tables),
            part("compiled", step_tables),
            part("trainings", training_table),
            part("evaluation", score_table),
            "Segmenter of scans: "
            + part("segmenter", lambda r: f"{r['batches'] / r['seconds']:.0f} batches a second"),
            "Refiner: " + part("refiner", lambda r: f"{r['seconds']:.0f} s"),
            "Two deterministic runs have equal weights: "
            + part("repeats", lambda r: str(r["equal"]).lower()),
            "A killed and resumed run has those of an undisturbed one: "
            + part("resume", lambda r: str(r["equal"]).lower()),
        ]
    )


@click.command()
@click.argument("file", type=Path)
def main(file: Path) -> None:
    found = json.loads(file.read_text())
    if found["rehearsal"]:
        raise click.ClickException(f"{file} is a rehearsal: its numbers are not those of a GPU")
    click.echo(tables(found))


if __name__ == "__main__":
    main()
