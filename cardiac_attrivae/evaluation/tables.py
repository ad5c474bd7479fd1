"""The tables of an evaluation: those of its parts joined, seeds spread, methods compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..data.store import SliceDataset
from ..metrics.codes import SCORES
from ..metrics.comparison import Comparison, compare_paired, differences, spread
from ..metrics.images import FIDELITY
from ..metrics.intervals import holm
from ..metrics.metric import MEAN
from ..schema import Keys, Phase, structures_at
from .baselines import Baselines
from .parts import Job, Part

FLOOR = "black image"
"""Name of the row of an image of zeros: slices are zero outside the heart, so it scores."""

PLACE = ("train_dataset", "test_dataset", "split")
ABOUT = ("model", "method", "seed", *PLACE)
COLUMNS = (
    *ABOUT, "metric", "attribute", "value", "n", "unit", "low", "high", "null", "null_95", "p",
    "corrected", "corrected_low", "corrected_high", "patients", "dimension",
)  # fmt: skip
"""Columns of metrics.csv."""
SPREAD = (
    "method", *PLACE, "metric", "attribute", "value", "seeds", "patients", "low", "high", "models",
)  # fmt: skip
COMPARISONS = (
    *PLACE, "metric", "attribute", "first", "second", "first_value", "second_value", "difference",
    "low", "high", "p", "p_holm", "patients",
)  # fmt: skip

IMAGES = (*FIDELITY, *(f"Dice_{name}" for name in structures_at(Phase)))
"""Columns of patients.csv by which methods are compared patient by patient."""

Tables = dict[str, pd.DataFrame]


def gather(
    parts: Sequence[Part],
    baselines: Sequence[Baselines],
    datasets: Mapping[str, SliceDataset],
    splits: Mapping[str, str],
    rounds: int,
) -> Tables:
    """Joins the tables of all parts; returns the CSV files of an evaluation, by name."""
    floors = pd.DataFrame(
        [row for name, store in datasets.items() for row in _floor(store, splits[name])]
    )
    trivial = joined(baselines, "metrics.csv")
    metrics = pd.concat([joined(parts, "metrics.csv"), trivial, floors], ignore_index=True)
    patients, groups = joined(parts, "patients.csv"), _groups(parts)
    return {
        "metrics": metrics.reindex(columns=list(COLUMNS)),
        "patients": patients,
        "control": joined(parts, "control.csv"),
        "spread": _spread(groups),
        "comparisons": _comparisons(groups, patients, rounds),
    }


def joined(parts: Sequence[Job], name: str) -> pd.DataFrame:
    """Joins a table of several parts, by the name of its file."""
    tables = [table for part in parts if len(table := part.read(name))]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(ABOUT))


def _floor(dataset: SliceDataset, split: str) -> Iterator[dict[str, Any]]:
    """Scores an image of zeros, slice by slice."""
    patients = dataset.split(split).basal()
    scores: dict[str, list[float]] = {metric: [] for metric in FIDELITY}
    for row in range(len(patients)):
        slices = patients.read([row])
        image, label = slices[Keys.IMAGE].numpy(), slices[Keys.LABEL].numpy()
        for metric, measure in FIDELITY.items():
            scores[metric] += [*measure(image, np.zeros_like(image), label > 0)]
    about = dict.fromkeys(("model", "method"), FLOOR)
    about |= dict(zip(PLACE, ("", dataset.name, split), strict=True))
    for metric, values in scores.items():
        found = {"metric": metric, "attribute": "mean", "value": float(np.mean(values))}
        yield about | found | {"n": len(patients)}


class Scores(NamedTuple):
    """Scores of the models of one method, all on the same patients."""

    names: list[tuple[str, str]]  # metric and attribute of each score, (S)
    values: np.ndarray  # scores of each model, (M, S)
    draws: np.ndarray  # scores of the same draws of patients, (M, rounds, S)

    def of(self, names: Sequence[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
        """Returns values and draws of some scores."""
        columns = [self.names.index(name) for name in names]
        return self.values[:, columns], self.draws[:, :, columns]


Place = tuple[str, ...]
Groups = dict[Place, dict[str, Scores]]
"""(train_dataset, test_dataset, split) -> method -> scores of its parts with intervals."""


def _groups(parts: Sequence[Part]) -> Groups:
    groups: dict[Place, dict[str, list[Part]]] = {}
    for part in parts:
        if part.draws.size:
            place = tuple(part.about[key] for key in PLACE)
            groups.setdefault(place, {}).setdefault(part.about["method"], []).append(part)
    return {
        place: {method: _scores(group) for method, group in methods.items()}
        for place, methods in groups.items()
    }


def _scores(parts: Sequence[Part]) -> Scores:
    tables = [part.read("metrics.csv") for part in parts]
    tables = [table[table["metric"].isin(SCORES)] for table in tables]
    names = list(zip(tables[0]["metric"], tables[0]["attribute"], strict=True))
    values = np.array([table["value"].to_numpy(float) for table in tables])
    return Scores(names, values, np.array([part.draws for part in parts]))


def _spread(groups: Groups) -> pd.DataFrame:
    """Separates the spread over the seeds of a method from that over patients: spread.csv."""
    rows = []
    for place, methods in groups.items():
        for method, scores in methods.items():
            if len(scores.values) > 1:
                about = {"method": method} | dict(zip(PLACE, place, strict=True))
                rows += [
                    about | row._asdict() | {"seeds": row.sd, "patients": row.sd_patients}
                    for row in spread(*scores)
                ]
    return pd.DataFrame(rows, columns=list(SPREAD))


def _comparisons(groups: Groups, patients: pd.DataFrame, rounds: int) -> pd.DataFrame:
    """Compares every two methods, each the mean of its seeds, on the same patients.

    p_holm is adjusted over all pairs of methods, for one score on the same patients.
    """
    rows = []
    for place, methods in groups.items():
        about = dict(zip(PLACE, place, strict=True))
        here = patients[(patients[list(PLACE)] == list(place)).all(axis=1)]
        for one, other in combinations(methods, 2):
            for row in _differences(methods[one], methods[other], here, (one, other), rounds):
                values = {"first": one, "second": other, "difference": row.difference.value}
                values |= {"first_value": row.first, "second_value": row.second}
                rows.append(about | row.difference._asdict() | values)
    table = pd.DataFrame(rows, columns=list(COMPARISONS))
    families = table.groupby([*PLACE, "metric", "attribute"])["p"]
    return table.assign(p_holm=families.transform(lambda p: holm(p.to_numpy())))


def _differences(
    first: Scores, second: Scores, patients: pd.DataFrame, methods: Sequence[str], rounds: int
) -> Iterator[Comparison]:
    """Yields differences in every score, and, patient by patient, in every image score."""
    names = [name for name in first.names if name in second.names]
    if first.names != second.names:  # means over other attributes are no comparison
        names = [name for name in names if name[1] != MEAN]
    (values, drawn), (others, others_drawn) = first.of(names), second.of(names)
    count = patients["case"].nunique()
    yield from differences(names, values, drawn, others, others_drawn, count)
    images = [column for column in IMAGES if column in patients]
    means = patients.groupby(["method", "case"])[images].mean()
    cases = means.loc[methods[0]].index.tolist()
    first_means, second_means = (means.loc[method].loc[cases] for method in methods)
    for metric in images:
        yield compare_paired(first_means[metric], second_means[metric], cases, metric, rounds)
