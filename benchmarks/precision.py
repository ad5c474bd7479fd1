"""Tries whether ``precision: auto`` chooses the faster number format, on each set of instructions.

    python benchmarks/precision.py --output docs/evidence/precision.md

Each set is the processor's own, limited by the variables of oneDNN and torch in a process of its
own; sets that it lacks are left out. Steps of both formats alternate, on one thread; the least
processor time counts, which other programs change little.
"""

from __future__ import annotations

import copy
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import click
import torch
from train_step import Batch, our_step, our_trainer

from cardiac_attrivae.models.networks import build_network
from cardiac_attrivae.training.config import PRECISIONS, load_pipeline
from cardiac_attrivae.training.precision import known_precision

SETS = {
    "AVX2": ("avx2", "avx2"), "AVX512_CORE": ("avx512", "avx512_f"),
    "AVX512_CORE_BF16": ("avx512", "avx512_bf16"), "AVX512_CORE_AMX": ("avx512", "amx_tile"),
}  # fmt: skip
"""oneDNN's name -> torch's name, and what the processor must report."""
PIPELINES = ("attri_vae", "attri_vae_unguided", "attri_sivae_unguided")
CPU = torch.device("cpu")


def step_seconds(name: str, rounds: int) -> dict[str, float]:
    """Least processor time of a step in each format, s."""
    pipeline = load_pipeline(name)
    n, steppers = pipeline.data.batch_size, {}
    torch.manual_seed(0)
    network = build_network(pipeline.network.name, **pipeline.network.arguments)
    batch = Batch(
        torch.rand(n, 1, 128, 128), torch.randn(n, 3), torch.randn(6, n, network.latent_size)
    )
    for precision in PRECISIONS:
        changed = load_pipeline(name, [f"precision={precision}"])
        trainer = our_trainer(changed, copy.deepcopy(network), CPU)
        trainer.state.epoch = pipeline.schedule.epochs  # with all terms
        steppers[precision] = our_step(trainer)
        steppers[precision](batch)
    spent = dict.fromkeys(PRECISIONS, float("inf"))
    for _ in range(rounds):
        for precision, step in steppers.items():
            start = time.process_time()
            step(batch)
            spent[precision] = min(spent[precision], time.process_time() - start)
    return spent


def table(rounds: int) -> str:
    """All sets and pipelines, as Markdown."""
    lines = [
        "| instructions | pipeline | float32 (ms) | bfloat16 (ms) | chosen | over the better |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for onednn, (aten, needed) in SETS.items():
        if not torch.cpu.get_capabilities().get(needed):
            lines.append(f"| {onednn} | not had by this processor | | | | |")
            continue
        limits = {"ONEDNN_MAX_CPU_ISA": onednn, "ATEN_CPU_CAPABILITY": aten}
        command = [sys.executable, __file__, "--rounds", str(rounds), "--single"]
        environment = os.environ | limits | {"OMP_NUM_THREADS": "1"}
        answer = json.loads(subprocess.check_output(command, env=environment, text=True))
        for name, spent in answer["seconds"].items():
            times = " | ".join(f"{1000 * spent[precision]:.0f}" for precision in PRECISIONS)
            chosen = answer["chosen"]
            ratio = spent[chosen] / min(spent.values())
            lines.append(f"| {onednn} | {name} | {times} | {chosen} | {ratio:.2f} |")
    return "\n".join(lines)


@click.command()
@click.option("--rounds", default=3, show_default=True)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--single", is_flag=True, help="Only with the instructions of this process, as JSON.")
def main(rounds: int, output: Path | None, single: bool) -> None:
    if single:
        seconds = {name: step_seconds(name, rounds) for name in PIPELINES}
        click.echo(json.dumps({"chosen": known_precision(CPU), "seconds": seconds}))
        return
    found = table(rounds)
    click.echo(found)
    if output is not None:
        processor = torch.cpu.get_capabilities().get("cpu_name") or platform.machine()
        before, mark, _ = output.read_text().partition("<!-- measured -->\n")
        output.write_text(f"{before}{mark}{processor}, torch {torch.__version__}:\n\n{found}\n")


if __name__ == "__main__":
    main()
