"""How well the class of patients is predicted: accuracy, ranking, calibration, and chance.

Predictions are of patients that the classifier was not fitted on, see `classifiers.py`. Each score
has an interval over patients and, where predictions of permuted classes are given, a null
distribution.

References:
    | The balanced accuracy and its posterior distribution (Brodersen et al., 2010)
    | A simple generalisation of the area under the ROC curve (Hand & Till, 2001)
    | Verification of forecasts expressed in terms of probability (Brier, 1950)
    | On calibration of modern neural networks (Guo et al., 2017), expected calibration error
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata

from .intervals import LEVEL, interval, share_above
from .metric import MEAN, Good, Metric, Score, Section, find, table_of
from .patients import FEWEST, draw_patients, drawn_rows
from .scales import POSITIVE, SHARE

BINS = 10
"""Bins of equal width in which confidence and accuracy are compared."""


def recall(truth: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Computes the share of each class that is recognised, (K,); nan where nobody is of a class.

    The predicted class is the one with the largest probability. The mean over classes is the
    balanced accuracy; chance is 1 / K.

    Args:
        truth: Number of the class of each patient, (N,).
        probability: Probability of each class, (N, K).

    Example:
        >>> recall(np.array([0, 0, 1]), np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]]))
        array([0.5, 1. ])
    """
    right = probability.argmax(axis=1) == truth
    return _share(truth, right, probability.shape[1])


def ranking(truth: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Computes the AUROC of each class against all others, (K,); arguments as for `recall`.

    It is the share of pairs of a patient of the class and another one in which the first has the
    larger probability; a tie counts half. nan where nobody, or everybody, is of a class.

    Example:
        >>> ranking(np.array([0, 0, 1]), np.array([[0.9, 0.1], [0.1, 0.9], [0.2, 0.8]]))
        array([0.5, 0.5])
    """
    own = _one_hot(truth, probability.shape[1])
    inside = own.sum(axis=0)
    pairs = inside * (len(truth) - inside)
    above = (rankdata(probability, axis=0) * own).sum(axis=0) - inside * (inside + 1) / 2
    return np.divide(above, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


def brier(truth: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Computes the Brier score, (1,): squared distance of the probabilities from the truth, 0 to 2.

    Example:
        >>> brier(np.array([0, 1]), np.array([[1.0, 0.0], [0.5, 0.5]]))
        array([0.25])
    """
    error = probability - _one_hot(truth, probability.shape[1])
    return (error**2).sum(axis=1).mean(keepdims=True)


def calibration_error(truth: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Computes the expected calibration error, (1,), see `reliability`.

    It is never quite 0 with few patients, however well probabilities are meant.

    Example:
        >>> calibration_error(np.array([0, 1]), np.array([[0.75, 0.25], [0.75, 0.25]]))
        array([0.25])
    """
    count, confidence, accuracy = reliability(truth, probability)
    gaps = np.abs(accuracy - confidence) * count
    return np.nansum(gaps, keepdims=True) / len(truth)


def reliability(truth: np.ndarray, probability: np.ndarray) -> tuple[np.ndarray, ...]:
    """Compares confidence with accuracy, in `BINS` bins of the largest probability.

    Returns:
        Patients, mean confidence and share that is right of each bin, (BINS,) each; nan where
        nobody is in a bin.

    Example:
        >>> count, confidence, accuracy = reliability(np.array([0, 1]), np.full((2, 2), 0.5))
        >>> int(count[5]), float(confidence[5]), float(accuracy[5])
        (2, 0.5, 0.5)
    """
    confidence, right = probability.max(axis=1), probability.argmax(axis=1) == truth
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    count = np.bincount(place, minlength=BINS)
    return count, _share(place, confidence, BINS), _share(place, right, BINS)


def confusion(truth: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Counts patients by true and predicted class, (K, K).

    Example:
        >>> confusion(np.array([0, 0, 1]), np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]])).tolist()
        [[1, 1], [0, 1]]
    """
    k = probability.shape[1]
    return np.bincount(truth * k + probability.argmax(axis=1), minlength=k * k).reshape(k, k)


DIAGNOSIS = table_of(
    Metric(
        "Balanced_accuracy", "Balanced accuracy",
        "Share of each class that is recognised; their mean is 1 / K by chance.",
        Section.DIAGNOSIS, recall,
    ),
    Metric(
        "AUROC", "AUROC",
        "How often a patient of a class has a larger probability of it than another one; .5 is "
        "chance.",
        Section.DIAGNOSIS, ranking,
    ),
    Metric(
        "Brier", "Brier score",
        "Squared distance of the probabilities from the truth, 0 at best and 2 at worst.",
        Section.DIAGNOSIS, brier, good=Good.LOW, scale=POSITIVE,
    ),
    Metric(
        "Calibration_error", "Calibration error",
        "Mean difference of confidence and accuracy (expected calibration error, ten bins).",
        Section.DIAGNOSIS, calibration_error, good=Good.LOW, scale=SHARE,
    ),
)  # fmt: skip
"""Scores of probabilities (N, K) of classes (N,): a value per class (K,), or one for all, (1,)."""


def diagnosis_scores(
    truth: np.ndarray,
    probability: np.ndarray,
    cases: Sequence[str],
    classes: Sequence[str],
    null: Sequence[tuple[np.ndarray, np.ndarray]] = (),
    rounds: int = 1000,
    seed: int = 0,
) -> list[Score]:
    """Scores predictions, with intervals over patients and the null distribution.

    Args:
        truth: Number of the class of each patient, (N,).
        probability: Probability of each class, (N, K).
        cases: Patient of each row, each once, length N.
        classes: Names of the classes, length K; they stand where other scores name attributes.
        null: ``truth`` and ``probability`` of each permutation.
        rounds: Draws of patients.
        seed: Seed of the draws.

    Returns:
        A score for each entry of `DIAGNOSIS` and class, and their mean. With fewer than 8 patients
        there are no intervals. ``null_95`` is the 95th centile of the null distribution, or the
        5th where low values are good, and ``p`` the share that is as good.

    Example:
        >>> truth, cases = np.array([0, 1] * 10), [f"p{n:02d}" for n in range(20)]
        >>> found = diagnosis_scores(truth, np.eye(2)[truth], cases, ["A", "B"], rounds=20)
        >>> [(score.metric, score.attribute, score.value) for score in found[:3]]
        [('Balanced_accuracy', 'A', 1.0), ('Balanced_accuracy', 'B', 1.0),
         ('Balanced_accuracy', 'mean', 1.0)]
    """
    names, values = _values(truth, probability, classes)
    chance = np.array([_values(*one, classes)[1] for one in null])
    drawn = np.empty((0, len(names)))
    if len(cases) >= FEWEST:
        draws = drawn_rows(draw_patients(cases, rounds, seed))
        drawn = np.array([_values(truth[r], probability[r], classes)[1] for r in draws])
    found = []
    for s, (metric, name) in enumerate(names):
        score = Score(metric, name, float(values[s]), n=len(cases), patients=len(cases))
        spread = drawn[np.isfinite(drawn[:, s]), s] if len(drawn) else drawn
        if len(spread) and np.isfinite(values[s]):
            low, high = interval(values[s], spread, find(metric).scale)
            score = score._replace(low=low, high=high)
        if len(chance) and np.isfinite(chance[:, s]).all():
            score = _with_null(score, chance[:, s])
        found.append(score)
    return found


def _values(
    truth: np.ndarray, probability: np.ndarray, classes: Sequence[str]
) -> tuple[list[tuple[str, str]], np.ndarray]:
    """Metric and class of each score, and its value; the mean is that of classes that are there."""
    names, values = [], []
    for metric in DIAGNOSIS.values():
        each = metric(truth, probability)
        if len(each) > 1:
            names += [(metric.name, name) for name in classes]
            values += each.tolist()
        names.append((metric.name, MEAN))
        known = each[np.isfinite(each)]
        values.append(float(known.mean()) if len(known) else float("nan"))
    return names, np.array(values)


def _with_null(score: Score, chance: np.ndarray) -> Score:
    """Adds the null distribution, on the side where values are good."""
    side = -1 if find(score.metric).good is Good.LOW else 1
    return score._replace(
        null=float(chance.mean()),
        null_95=float(side * np.quantile(side * chance, LEVEL)),
        p=share_above(side * chance, side * score.value),
    )


def _one_hot(truth: np.ndarray, classes: int) -> np.ndarray:
    return truth[:, None] == np.arange(classes)


def _share(group: np.ndarray, values: np.ndarray, groups: int) -> np.ndarray:
    """Mean of values (N,) in each group, (groups,); nan where a group is empty."""
    count = np.bincount(group, minlength=groups)
    total = np.bincount(group, weights=values, minlength=groups)
    return np.divide(total, count, out=np.full(groups, np.nan), where=count > 0)
