"""The demo: the whole way once, on synthetic hearts of two domains."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from .data.manifest import load_manifest
from .data.phantom import write_phantoms
from .data.preprocess import preprocess
from .data.store import SliceDataset
from .data.transforms import Recipe
from .evaluation.cross_domain import cross_domain_eval
from .report.page import write_report
from .runtime.folders import is_empty, locked
from .schema import DataError
from .segmentation.judge import Training
from .training.config import load_pipeline

DATASETS = ("acdc", "mnms")

SHORT = ("schedule.epochs=8", "schedule.steps_per_epoch=50")
"""Phantoms are simpler than hearts: a third of the steps of the real recipe do."""

SHORT_SIVAE = ("schedule.epochs=7", "schedule.steps_per_epoch=40", "objective.vae_epochs=5")

QUICK = Training(steps=120)
"""Segmenters learn phantoms in a quarter of the steps, too."""


def run_demo(
    output: Path,
    cases: int,
    device: str,
    progress: Callable[[str], Callable[[Iterable, int], Iterable]],
    train: Callable[..., Any],
    tell: Callable[[str], None],
) -> Path:
    """Phantoms, stores, models and scores, each in a folder of its own below ``output``.

    Attri-VAE is trained on each domain, and on the first one Attri-SIVAE and, as a floor, Attri-VAE
    without the attribute term; all are scored on the unseen patients of both.

    Args:
        output: Folder to write.
        cases: Patients of each data set.
        device: See `find_device`.
        progress: Label -> wrapper of an iterable and its length.
        train: Called with pipeline, store, folder, and the keywords seed and device.
        tell: Called with a message before something takes long.

    Returns:
        The page of the report.

    Raises:
        DataError: If the folder is not empty, or another run writes into it.
    """
    with locked(output):
        if not is_empty(output):
            raise DataError(f"{output} is not empty; choose another folder with --output")
        stores, runs = [], []
        for name in progress("phantoms")(DATASETS, len(DATASETS)):
            write_phantoms(name, output / "phantoms" / name, cases, cine=False)
        for name in DATASETS:
            stores.append(output / "stores" / name)
            preprocess(
                load_manifest(name),
                output / "phantoms" / name,
                stores[-1],
                Recipe(slice="all"),
                progress=progress(f"preprocess {name}"),
            )
        first, second = stores
        plans = {
            f"attri_vae_{DATASETS[0]}": (first, "attri_vae_fast", SHORT),
            f"attri_vae_{DATASETS[1]}": (second, "attri_vae_fast", SHORT),
            f"attri_sivae_{DATASETS[0]}": (first, "attri_sivae_fast", SHORT_SIVAE),
            f"beta_vae_{DATASETS[0]}": (first, "beta_vae_fast", SHORT),
        }
        for name, (store, pipeline, changes) in plans.items():
            runs.append(output / "runs" / name)
            configuration = load_pipeline(pipeline, changes)
            train(configuration, SliceDataset.open(store), runs[-1], seed=0, device=device)
        cross_domain_eval(
            runs, stores, output / "evaluation", device=device, rounds=200, teaching=QUICK,
            tell=tell, progress=progress("evaluate"),
        )  # fmt: skip
        return write_report([output / "evaluation"], output / "report")
