"""One model on one data set: every score with its uncertainty, held out, and measured control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from torch import device

from ..data.recipe import full_recipe
from ..data.store import SliceDataset
from ..metrics.calibration import Calibration
from ..metrics.catalogue import unit_of
from ..metrics.codes import score
from ..metrics.control import control_scores
from ..metrics.intervals import patient_means
from ..metrics.metric import MEAN, Score
from ..metrics.patients import FEWEST, LEAST
from ..metrics.prediction import held_out
from ..metrics.regression import dci, leakage
from ..metrics.uncertainty import bootstrap, estimate
from ..report.tables import wide
from ..runtime.messages import counted
from ..schema import DataError, LatentTable
from ..segmentation.guide import refuse_guide
from ..segmentation.judge import Segmenter
from ..training.facts import CROP
from ..training.run import Run
from .control import measure_control
from .passes import look

NO_DRAWS = np.empty((0, 0))


class Scored(NamedTuple):
    """What one model shows on one data set.

    Attributes:
        metrics: A row per score and attribute: metric, attribute, value, n, unit, and where they
            exist the interval and the null distribution, named as in `Score`.
        patients: A row per patient: fidelity of its slice, Dice of its reconstruction.
        control: Table of `measure_control`; empty without a segmenter.
        table: Codes and attributes, a row per patient.
        draws: Draws of `bootstrap`, (rounds, S); (0, 0) with fewer than 8 patients.
        shown: Reconstructions of the chosen patients, (n, C, H, W).
    """

    metrics: pd.DataFrame
    patients: pd.DataFrame
    control: pd.DataFrame
    table: LatentTable
    draws: np.ndarray
    shown: np.ndarray

    def __repr__(self) -> str:
        return f"<Scored on {counted(len(self.patients), 'patient')}: see metrics, patients, table>"

    def _repr_html_(self) -> str:
        return wide(self.metrics).to_html()


class Known(NamedTuple):
    """Training patients: what lines are fitted on."""

    table: LatentTable  # their codes and attributes
    areas: np.ndarray  # their areas of LV, MYO and RV at each phase, (N, 3 C)


def score_model(
    run: Run,
    known: Known | None,
    target: SliceDataset,
    names: Sequence[str],
    segmenter: Segmenter | None,
    where: device,
    rounds: int = 1000,
    *,
    shown: Sequence[int] | np.ndarray = (),
) -> Scored:
    """Measures everything about a model on one data set.

    With fewer than 8 patients there are no intervals, with fewer than 5 no scores of codes. Refuses
    a model that was trained on slices that were cropped otherwise, or through this segmenter.

    Args:
        run: The model.
        known: Its training patients, one slice each. None leaves held-out scores out, and
            calibrates on the target.
        target: Slices to score, one per patient.
        names: Attributes.
        segmenter: Measures decoded slices; None leaves control and Dice out.
        where: Device.
        rounds: Draws of patients, and permutations.
        shown: Rows of the target whose reconstructions are kept.
    """
    check_fit(run, target)
    if segmenter is not None:
        refuse_guide(run.about, segmenter)
    trained = dict.fromkeys([*names, *run.pipeline.attributes])
    seen = look(run, target, list(trained), where, segmenter, shown)
    table = seen.table.select(names)
    lines = known.table.select(names) if known is not None else None
    draws = bootstrap(table, rounds) if len(target) >= FEWEST else NO_DRAWS
    rows = _code_scores(table, lines, draws, rounds)

    control, fitted = pd.DataFrame(), table if lines is None else lines
    if segmenter is not None and len(fitted.cases) >= LEAST:
        fit, cases = Calibration.fit(fitted), np.asarray(table.cases, dtype=object)
        parts = [
            measure_control(
                one.painter, segmenter, fit, table.codes[rows], cases[rows], target.scale
            )
            for one, rows in run.by_condition(target.cases)
        ]
        control = pd.concat(parts, ignore_index=True)
        if len(target) >= FEWEST:
            areas = target.areas if known is None else known.areas
            rows += control_scores(control, areas.std(axis=0), rounds, unit=target.scale.unit)
    rows += fidelity_scores(seen.fidelity, table.cases, rounds)
    columns: dict[Any, Any] = {"case": table.cases}
    columns |= target.cases[["domain", "pathology"]].to_dict("list")
    patients = pd.DataFrame(columns | seen.fidelity)
    return Scored(_tidy(rows), patients, control, seen.table, draws, seen.shown)


def _code_scores(
    table: LatentTable, known: LatentTable | None, draws: np.ndarray, rounds: int
) -> list[Score]:
    """Scores codes, with all that the number of patients allows."""
    if len(table.cases) < LEAST:
        return []
    if not draws.size:
        return score(table)
    rows = estimate(table, rounds=rounds, drawn=draws)
    rows += leakage(table) + dci(table, rounds=rounds)
    return rows + (held_out(known, table, rounds) if known is not None else [])


def _tidy(rows: Sequence[Score]) -> pd.DataFrame:
    """Puts scores into a table, with the unit of each."""
    metrics = pd.DataFrame([row._asdict() for row in rows])
    metrics["unit"] = [unit_of(row.metric, row.attribute) for row in rows]
    return metrics


def fidelity_scores(
    fidelity: Mapping[str, np.ndarray], cases: Sequence[str], rounds: int
) -> list[Score]:
    """Averages values per slice, name -> (N,), over patients, with intervals if there are 8;
    ``Dice_LV`` is Dice of attribute LV."""
    values: dict[tuple[str, str], np.ndarray] = {}
    for name, value in fidelity.items():
        metric, _, structure = name.partition("_") if name.startswith("Dice_") else (name, "", MEAN)
        values[metric, structure] = value
    parts = [value for (metric, _), value in values.items() if metric == "Dice"]
    if parts:
        values["Dice", MEAN] = np.nanmean(parts, axis=0)
    return patient_means(values, cases, rounds)


def check_fit(run: Run, dataset: SliceDataset) -> None:
    """Refuses slices that were not cropped like those that the model was trained on."""
    check_crop(run.about["recipe"], dataset, str(run.folder))


def check_crop(recipe: Mapping[str, Any], dataset: SliceDataset, model: str) -> None:
    """Does what `check_fit` does, for a model of which only the recipe and a name are known."""
    recipes = [full_recipe(of) for of in (recipe, dataset.info["recipe"])]
    stacks = [of["stack"] for of in recipes]
    if stacks[0] != stacks[1]:
        raise DataError(
            f"{model} was trained on {_slices(stacks[0])} and {dataset.folder} holds "
            f"{_slices(stacks[1])}; preprocess it with --stack {stacks[0]} (stack={stacks[0]})"
        )
    phases = [list(of["phases"]) for of in recipes]
    if phases[0] != phases[1]:
        own, other = (",".join(of) for of in phases)
        raise DataError(
            f"{model} was trained on slices at {own} and {dataset.folder} holds {other}; "
            f"preprocess it with --phases {own} (phases={tuple(phases[0])})"
        )
    for key in CROP:
        trained, given = recipe.get(key), dataset.info["recipe"].get(key)
        if trained is None or trained != given:
            raise DataError(
                f"{model} was trained on slices with {key} {trained} and {dataset.folder} has "
                f"{given}; preprocess it with the same {key}"
            )


def _slices(stack: int) -> str:
    return "single slices" if stack == 1 else f"stacks of {stack} slices"
