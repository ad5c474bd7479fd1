"""What `cross-domain-eval` spends its time on: processor seconds of each step, and their shares.

Writes into a fresh folder, so nothing is taken from an earlier call, except the segmenters that lie
in the stores. Processor time is what to compare on a machine that does other work too; the
profiler itself adds about a third to it.

    python benchmarks/evaluation.py --model RUN [--model RUN] --data STORE [--data STORE]
                                    [--rounds 1000]
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import tempfile
import time
from pathlib import Path

from cardiac_attrivae.evaluation.cross_domain import cross_domain_eval

STEPS = {
    "segmenters": ("judge.py", "segmenters_for"),
    "reconstructions": ("passes.py", "look"),
    "draws of patients": ("uncertainty.py", "bootstrap"),
    "null distribution": ("uncertainty.py", "permutation_null"),
    "held out": ("prediction.py", "held_out"),
    "leakage": ("regression.py", "leakage"),
    "DCI": ("regression.py", "dci"),
    "drawing for control": ("control.py", "measure_control"),
    "scores of control": ("control.py", "control_scores"),
    "baselines": ("baselines.py", "compute"),
    "figures": ("gallery.py", "draw_gallery"),
    "tables": ("tables.py", "gather"),
}
"""What is told -> file and function; none of them calls another one."""


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, action="append", required=True)
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--rounds", type=int, default=1000)
    options = parser.parse_args()

    profile, start = cProfile.Profile(time.process_time), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        profile.runcall(
            cross_domain_eval, options.model, options.data, Path(folder) / "e",
            rounds=options.rounds,
        )  # fmt: skip
    clock = time.perf_counter() - start
    found = pstats.Stats(profile).stats  # type: ignore[attr-defined]  # not in its stub
    spent = {name: 0.0 for name in STEPS}
    for (file, _, function), (_, _, _, seconds, _) in found.items():
        for name, step in STEPS.items():
            if (Path(file).name, function) == step and "cardiac_attrivae" in file:
                spent[name] += seconds
    total = sum(row[2] for row in found.values())
    spent["everything else"] = total - sum(spent.values())
    print(f"{'step':<22}{'processor (s)':>14}{'share':>8}")
    for name, seconds in spent.items():
        print(f"{name:<22}{seconds:>14.1f}{seconds / total:>8.0%}")
    print(f"{'all':<22}{total:>14.1f}    clock {clock:.1f} s, imports not counted")


if __name__ == "__main__":
    main()
