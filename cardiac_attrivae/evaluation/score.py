"""One model on one data set: every score with its uncertainty, held out, and measured control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from ignite.engine import State
from torch import device

from ..attributes import AREAS
from ..data.store import SliceDataset
from ..metrics.calibration import Calibration
from ..metrics.catalogue import unit_of
from ..metrics.codes import score
from ..metrics.control import control_scores
from ..metrics.images import dice
from ..metrics.intervals import patient_means
from ..metrics.metric import MEAN, Score
from ..metrics.patients import FEWEST, LEAST
from ..metrics.prediction import held_out
from ..metrics.regression import dci, leakage
from ..metrics.uncertainty import bootstrap, estimate
from ..report.tables import wide
from ..schema import HEART, DataError, LatentTable
from ..segmentation.judge import Segmenter
from ..training.run import Run, make_evaluator, reconstruct
from .control import measure_control

CROP = ("size", "spacing", "percentiles")
"""What slices must share with those that a model was trained on."""


class Scored(NamedTuple):
    """What one model shows on one data set.

    Attributes:
        metrics: A row per score and attribute: metric, attribute, value, n, unit, and where they
            exist the interval and the null distribution, named as in `Score`.
        patients: A row per patient: fidelity of its slice, Dice of its reconstruction.
        control: Of `measure_control`; empty without a segmenter.
        table: Codes and attributes, a row per patient.
        draws: Of `bootstrap`, (rounds, S); (0, 0) with fewer than 8 patients.
    """

    metrics: pd.DataFrame
    patients: pd.DataFrame
    control: pd.DataFrame
    table: LatentTable
    draws: np.ndarray

    def _repr_html_(self) -> str:
        return wide(self.metrics).to_html()


def score_model(
    run: Run,
    source: SliceDataset | None,
    target: SliceDataset,
    names: Sequence[str],
    segmenter: Segmenter | None,
    where: device,
    rounds: int = 1000,
) -> Scored:
    """Everything that is measured of a model on one data set.

    With fewer than 8 patients there are no intervals, with fewer than 5 no scores of codes.

    Args:
        run: The model.
        source: Slices it was trained on, one per patient: what lines are fitted on. None leaves
            held-out scores out, and calibrates on the target.
        target: Slices to score, one per patient.
        names: Attributes.
        segmenter: Measures decoded slices; None leaves control and Dice out.
        where: Device.
        rounds: Draws of patients, and permutations.

    Raises:
        DataError: If the model was trained on slices that were cropped otherwise.
    """
    check_fit(run, target)
    state = evaluate(run, target, names, where)
    table: LatentTable = state.table
    known = evaluate(run, source, names, where).table if source is not None else None
    rows, draws = [], np.empty((0, 0))
    if len(target) >= FEWEST:
        draws = bootstrap(table, rounds)
        rows += estimate(table, rounds=rounds, drawn=draws)
        rows += leakage(table, rounds=rounds) + dci(table, rounds=rounds)
        rows += held_out(known, table, rounds) if known is not None else []
    elif len(target) >= LEAST:
        rows += score(table)

    fidelity, control = dict(state.fidelity), pd.DataFrame()
    if segmenter is not None:
        decoded = reconstruct(run.network, target.images)
        found = dice(segmenter(decoded).cpu(), target.labels.cpu())
        fidelity |= {f"Dice_{s.name}": found[:, k] for k, s in enumerate(HEART)}
        fitted = table if known is None else known
        if len(fitted.cases) >= LEAST:
            control = measure_control(
                run.network,
                segmenter,
                Calibration.fit(fitted),
                table.codes,
                table.cases,
                target.pixel_cm2,
            )
            if len(target) >= FEWEST:
                spread = (target if source is None else source).attributes(AREAS).std(axis=0)
                rows += control_scores(control, spread, rounds)
    rows += fidelity_scores(fidelity, table.cases, rounds)

    metrics = pd.DataFrame([row._asdict() for row in rows])
    metrics["unit"] = [unit_of(row.metric, row.attribute) for row in rows]
    facts = target.cases[["domain", "pathology"]].to_dict("list")
    patients = pd.DataFrame({"case": table.cases, **facts, **fidelity})
    return Scored(metrics, patients, control, table, draws)


def evaluate(run: Run, dataset: SliceDataset, names: Sequence[str], where: device) -> State:
    """A pass of a model over slices: ``metrics``, ``table`` and ``fidelity`` of the state."""
    evaluator = make_evaluator(
        run.network,
        dataset,
        names,
        dimensions=run.pipeline.dimensions(names),
        device=where,
        codes=run.pipeline.codes,
    )
    evaluator.run()
    return evaluator.state


def fidelity_scores(
    fidelity: Mapping[str, np.ndarray], cases: Sequence[str], rounds: int
) -> list[Score]:
    """Averages over patients, with intervals if there are 8; ``Dice_LV`` is Dice of attribute LV.

    Args:
        fidelity: Name -> one value per slice, (N,).
        cases: Patient of each slice, length N.
        rounds: Draws of patients.
    """
    values: dict[tuple[str, str], np.ndarray] = {}
    for name, value in fidelity.items():
        metric, _, structure = name.partition("_") if name.startswith("Dice_") else (name, "", MEAN)
        values[metric, structure] = value
    parts = [value for (metric, _), value in values.items() if metric == "Dice"]
    if parts:
        values["Dice", MEAN] = np.nanmean(parts, axis=0)
    return patient_means(values, cases, rounds)


def check_fit(run: Run, dataset: SliceDataset) -> None:
    """Raises a DataError if slices were cropped otherwise than those the model was trained on."""
    check_crop(run.about["recipe"], dataset, str(run.folder))


def check_crop(recipe: Mapping[str, Any], dataset: SliceDataset, model: str) -> None:
    """As `check_fit`, of a model of which the recipe alone is known, and what it is called."""
    for key in CROP:
        trained, given = recipe.get(key), dataset.info["recipe"].get(key)
        if trained is None or trained != given:
            raise DataError(
                f"{model} was trained on slices with {key} {trained} and {dataset.folder} has "
                f"{given}; preprocess it with the same {key}"
            )
