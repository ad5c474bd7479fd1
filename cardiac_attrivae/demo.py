"""The demo: everything from images to the report once, on synthetic hearts of two data sets."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from .data.manifest import load_manifest
from .data.phantom import write_phantoms
from .data.preprocess import preprocess
from .data.recipe import Recipe
from .data.store import SliceDataset
from .evaluation.cross_domain import cross_domain_eval
from .report.page import write_report
from .runtime.folders import locked
from .runtime.outputs import require_free
from .runtime.pool import Failure, processes, run_each
from .runtime.progress import Progress
from .schema import DataError
from .segmentation.judge import Training
from .training.config import load_pipeline

HOME, ABROAD = "acdc", "mnms"
"""Layouts of the two data sets: models are trained on the first and scored on both."""

QUICK = (
    "precision=float32",
    "data.batch_size=16",
    "schedule.steps_per_epoch=50",
    "optimiser.average=0.98",
)
"""Phantoms are simpler than hearts: a third of the steps, on half as many slices, is enough.
Processors without instructions for bfloat16 need ten times as long for it."""

MODELS = {
    "attri_vae": ("attri_vae_unguided", (*QUICK, "schedule.epochs=8")),
    "beta_vae": ("beta_vae_fast", (*QUICK, "schedule.epochs=8")),
    "attri_sivae": (
        "attri_sivae_unguided",
        (*QUICK, "schedule.epochs=4", "objective.vae_epochs=3", "schedule.steps_per_epoch=40"),
    ),
}
"""Model -> pipeline and what is changed in it. The second lacks the attribute term."""

SEGMENTER = Training(steps=60)
"""Segmenters of phantoms need an eighth of the steps, too."""

STAGES = (
    "Draw {cases} + {cases} synthetic patients, as two hospitals would store them.",
    "Cut one aligned short-axis slice per level out of each image.",
    "Train three small models on the first data set; the second of them without attributes.",
    "Score them on unseen patients of both data sets: codes, pictures, measured control.",
    "Write the report.",
)


def run_demo(
    output: Path,
    cases: int,
    device: str,
    progress: Callable[[str], Progress],
    train: Callable[..., Any],
    tell: Callable[[str], None],
) -> Path:
    """Writes phantoms, stores, models and scores, each into a folder of its own below ``output``;
    returns the page of the report.

    Attri-VAE, Attri-SIVAE and, for comparison, Attri-VAE without the attribute term are trained on
    one data set and scored on the unseen patients of both.

    Args:
        cases: Patients of each data set.
        progress: Label -> wrapper of an iterable and its length.
        train: Called with pipeline, store, folder, and the keyword device.
        tell: Called with a message before each stage.

    Raises:
        DataError: If the folder is not empty, or another process writes into it.
    """

    def announce(stage: int) -> None:
        tell(f"\n[{stage}/{len(STAGES)}] {STAGES[stage - 1].format(cases=cases)}")

    with locked(output):
        require_free(output, "demo")
        names = (HOME, ABROAD)
        images = {name: output / "phantoms" / name for name in names}
        stores = {name: output / "stores" / name for name in names}
        runs = {name: output / "runs" / f"{name}_{HOME}" for name in MODELS}

        announce(1)
        with processes(len(names)) as pool:
            drawn = run_each(pool, partial(_draw, cases), images.items())
            for (name, _), result in progress("phantoms")(drawn, len(names)):
                if isinstance(result, Failure):
                    raise DataError(f"the phantoms of {name} were not written: {result.value}")

        announce(2)
        for name in names:
            preprocess(
                load_manifest(name), images[name], stores[name], Recipe(slice="all"),
                progress=progress(f"preprocess {name}"),
            )  # fmt: skip

        announce(3)
        home = SliceDataset.open(stores[HOME])
        for name, (pipeline, changes) in MODELS.items():
            tell(f"{name}:")
            train(load_pipeline(pipeline, changes), home, runs[name], device=device)

        announce(4)
        cross_domain_eval(
            list(runs.values()), list(stores.values()), output / "evaluation", device=device,
            rounds=200, training=SEGMENTER, tell=tell, progress=progress("evaluate"),
        )  # fmt: skip

        announce(5)
        return write_report(output / "evaluation", output / "report")


def _draw(cases: int, named: tuple[str, Path]) -> None:
    write_phantoms(*named, cases, cine=False)
