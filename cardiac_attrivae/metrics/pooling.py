"""Scores of models that differ in their seed alone, pooled."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

from .metric import Score

PLACE = ["train_dataset", "test_dataset", "split"]
KEY = ["method", *PLACE, "metric", "attribute"]
NUMBERS = ["value", "low", "high", "null", "null_95", "corrected", "n"]


class Place(NamedTuple):
    """Where a score was taken.

    Example:
        >>> Place("acdc", "mnms", "test").at_home
        False
    """

    trained: str
    tested: str
    split: str

    @property
    def at_home(self) -> bool:
        """Whether training and test patients come from the same data set."""
        return self.trained == self.tested


Scores = dict[tuple[str, Place, str, str], Score]  # method, place, metric, attribute


def summarise(metrics: pd.DataFrame, spread: pd.DataFrame | None = None) -> Scores:
    """Averages every score over models of the same method, training set and test set.

    Args:
        metrics: metrics.csv; columns that say how sure a value is may be missing.
        spread: spread.csv, whose intervals replace the means of those of single models.

    Example:
        >>> about = {"method": "attri_vae", "train_dataset": "acdc", "test_dataset": "acdc",
        ...          "split": "test", "metric": "SCC", "attribute": "mean", "n": 50}
        >>> table = pd.DataFrame([{**about, "value": 0.7}, {**about, "value": 0.9}])
        >>> (score,) = summarise(table).values()
        >>> round(score.value, 2), round(score.sd, 2), score.models
        (0.8, 0.14, 2)
    """
    metrics = variants(metrics, "method")
    metrics["unit"] = metrics["unit"].astype(object).fillna("") if "unit" in metrics else ""
    if "patients" in metrics:
        metrics["n"] = metrics["patients"].fillna(metrics["n"])
    metrics = metrics.reindex(columns=[*KEY, "unit", *NUMBERS]).dropna(subset="value")
    groups = metrics.groupby(KEY, sort=False)
    table = groups[NUMBERS].mean()
    table["unit"] = groups["unit"].first()
    table["sd"] = groups["value"].std(ddof=1)
    table["models"] = groups["value"].count()
    if spread is not None and len(spread):
        known = variants(spread, "method").drop_duplicates(KEY).set_index(KEY)
        same = known["models"] == table["models"].reindex(known.index)  # not of some of them
        table.update(known.loc[same, ["low", "high"]])
    return {
        (key[0], Place(*key[1:4]), *key[4:]): Score(
            *key[4:], **{str(name): number for name, number in numbers.items()}
        )
        for key, numbers in zip(table.index, table.to_dict("records"), strict=True)
    }


def variants(frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Gives methods one name: ``attri_sivae_acdc`` trained on acdc is ``attri_sivae``.

    Example:
        >>> table = pd.DataFrame({"method": ["attri_sivae_acdc"], "train_dataset": ["acdc"]})
        >>> variants(table, "method")["method"].tolist()
        ['attri_sivae']
    """
    frame = frame.assign(train_dataset=frame["train_dataset"].fillna(""))
    for column in columns:
        pairs = zip(frame[column], frame["train_dataset"], strict=True)
        frame[column] = [name.removesuffix(f"_{trained}") for name, trained in pairs]
    return frame


def places(scores: Scores) -> list[Place]:
    """Lists where models were tested: at home first, then across domains.

    Example:
        >>> away, home = Place("acdc", "mnms", "test"), Place("acdc", "acdc", "test")
        >>> [place.tested for place in places({("a", p, "SCC", "mean"): 0 for p in (away, home)})]
        ['acdc', 'mnms']
    """
    found = dict.fromkeys(place for _, place, *_ in scores if place.trained)
    return sorted(found, key=lambda place: not place.at_home)
