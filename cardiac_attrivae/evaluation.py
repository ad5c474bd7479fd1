"""Models x data sets -> scores, at home and across domains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from ignite.engine import State
from torch import device

from .attributes import check_names
from .fidelity import FIDELITY
from .figures import scatter
from .inference import (
    Run,
    draw_reconstructions,
    draw_traversals,
    find_device,
    load_run,
    make_evaluator,
)
from .metrics import LEAST, determination
from .report import markdown
from .schema import SPLITS, DataError
from .slices import SliceDataset

FLOOR = "black image"
"""The row that says what an image of zeros scores: slices are zero outside the heart, so much."""

COLUMNS = ("model", "method", "seed", "train_dataset", "test_dataset", "split", "metric")
COLUMNS += ("attribute", "value", "n")


def cross_domain_eval(
    runs: Sequence[str | Path],
    stores: Sequence[str | Path],
    output: str | Path,
    *,
    split: str = "test",
    attributes: Sequence[str] | None = None,
    device: str = "auto",
) -> pd.DataFrame:
    """Scores every model on every data set, one slice per patient: the most basal one.

    Writes metrics.csv, codes_MODEL_DATASET.csv, table.md and figures/ into ``output``.

    Args:
        runs: Folders that ``train`` wrote.
        stores: Folders that ``preprocess`` wrote.
        output: Folder to write into.
        split: Which patients are scored.
        attributes: What codes are scored against; None is what each model was trained with.
        device: See `find_device`.

    Returns:
        metrics.csv: one row per model, data set, metric and attribute (or ``mean``).

    Raises:
        DataError: If a run or store cannot be read, they do not fit, or a split is empty.
    """
    output, where = Path(output), find_device(device)
    models = {name: load_run(run, device) for name, run in _names(runs).items()}
    datasets = {}
    for name, store in _names(stores).items():
        opened = SliceDataset.open(store)
        datasets[name] = opened.split(split).basal()
        if not len(datasets[name]):
            there = ", ".join(f"{s} {n}" for s, n in opened.info["splits"].items() if n)
            raise DataError(
                f"{store} has no {split} patients (it has {there}); "
                f"choose another split with --split {'|'.join(SPLITS)}"
            )
    output.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, run in models.items():
        names = check_names(attributes or run.pipeline.attributes)
        figures = output / "figures"
        trained, turned = run.pipeline.attributes, figures / f"{name}_traversals.png"
        draw_traversals(run.network, trained, run.about, turned, where)
        for dataset in datasets.values():
            check_fit(run, dataset)
            stem = f"{name}_{dataset.name}"
            state = evaluate(run, dataset, names, where)
            about = (name, run.pipeline.method, run.about["seed"], run.about["train_dataset"])
            about += (dataset.name, split)
            for key, value in state.metrics.items():
                metric, _, attribute = key.partition("/")
                rows.append((*about, metric, attribute or "mean", value, len(dataset)))
            _codes(state, dataset).to_csv(output / f"codes_{stem}.csv", index=False)
            few = dataset.take(range(min(8, len(dataset))))
            drawn = figures / f"{stem}_reconstructions.png"
            draw_reconstructions(run.network, few, drawn, where)
            if len(few) >= LEAST:
                _scatter(state, dataset.units(names), figures / f"{stem}_scatter.png")
    for dataset in datasets.values():
        images = dataset.images.numpy()
        about = (FLOOR, FLOOR, "", "", dataset.name, split)
        for metric, measure in FIDELITY.items():
            value = measure(images, np.zeros_like(images), dataset.labels.numpy() > 0).mean()
            rows.append((*about, metric, "mean", float(value), len(dataset)))
    metrics = pd.DataFrame(rows, columns=list(COLUMNS))
    metrics.to_csv(output / "metrics.csv", index=False)
    (output / "table.md").write_text(markdown(metrics))
    return metrics


def evaluate(run: Run, dataset: SliceDataset, names: Sequence[str], device: device) -> State:
    """Scores a model on the slices given: ``metrics``, ``table`` and ``fidelity`` of the state."""
    evaluator = make_evaluator(
        run.network,
        dataset,
        names,
        dimensions=run.pipeline.dimensions(names),
        device=device,
        codes=run.pipeline.codes,
    )
    evaluator.run()
    return evaluator.state


def check_fit(run: Run, dataset: SliceDataset) -> None:
    """Raises a DataError if slices were cropped otherwise than those the model was trained on."""
    for key in ("size", "spacing", "percentiles"):
        trained, given = run.about["recipe"][key], dataset.info["recipe"][key]
        if trained != given:
            raise DataError(
                f"{run.folder} was trained on slices with {key} {trained} and {dataset.folder} has "
                f"{given}; preprocess it with the same {key}"
            )


def _names(folders: Sequence[str | Path]) -> dict[str, Path]:
    """Folder names, told apart by a number where two are the same."""
    named: dict[str, Path] = {}
    for folder in map(Path, folders):
        stem = name = folder.resolve().name
        count = 1
        while name in named:
            count += 1
            name = f"{stem}-{count}"
        named[name] = folder
    return named


def _codes(state: State, dataset: SliceDataset) -> pd.DataFrame:
    table = state.table
    codes = {f"z{d}": table.codes[:, d] for d in range(table.codes.shape[1])}
    values = {name: table.attributes[:, k] for k, name in enumerate(table.names)}
    facts = dataset.cases[["dataset", "split", "domain", "pathology"]].to_dict("list")
    return pd.DataFrame({"case": table.cases, **facts, **values, **codes})


def _scatter(state: State, units: Sequence[str], path: Path) -> None:
    """Each attribute against the dimension it was trained on, or against the best one."""
    table = state.table
    best = determination(table.codes, table.attributes)
    chosen = [int(best[:, k].argmax()) if d is None else d for k, d in enumerate(table.dimensions)]
    scores = [best[dimension, k] for k, dimension in enumerate(chosen)]
    codes = table.codes[:, chosen]
    scatter(codes, table.attributes, table.names, units, path, scores=scores, dimensions=chosen)
