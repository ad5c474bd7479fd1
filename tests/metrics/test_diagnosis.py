"""Scores of predicted classes against scikit-learn, and at their limits."""

import numpy as np
import pytest
from sklearn import metrics

from cardiac_attrivae.metrics.diagnosis import (
    DIAGNOSIS,
    brier,
    calibration_error,
    confusion,
    diagnosis_scores,
    ranking,
    recall,
    reliability,
)

RANDOM = np.random.default_rng(0)
TRUTH = RANDOM.integers(3, size=40)
PROBABILITY = RANDOM.dirichlet([1, 1, 1], size=40).round(2)  # rounded, so that there are ties
PROBABILITY /= PROBABILITY.sum(axis=1, keepdims=True)
CASES = [f"p{n:02d}" for n in range(40)]


def test_scores_are_those_of_scikit_learn():
    predicted = PROBABILITY.argmax(axis=1)
    assert recall(TRUTH, PROBABILITY).mean() == pytest.approx(
        metrics.balanced_accuracy_score(TRUTH, predicted)
    )
    expected = [metrics.roc_auc_score(k == TRUTH, PROBABILITY[:, k]) for k in range(3)]
    assert ranking(TRUTH, PROBABILITY) == pytest.approx(expected)
    parts = [metrics.brier_score_loss(k == TRUTH, PROBABILITY[:, k]) for k in range(3)]
    assert brier(TRUTH, PROBABILITY)[0] == pytest.approx(sum(parts))
    assert (confusion(TRUTH, PROBABILITY) == metrics.confusion_matrix(TRUTH, predicted)).all()


def test_calibration_error_is_the_loop_of_its_definition():
    confidence, right = PROBABILITY.max(axis=1), PROBABILITY.argmax(axis=1) == TRUTH
    error = 0.0
    for low in np.arange(10) / 10:
        inside = (confidence >= low) & (confidence < low + 0.1)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert calibration_error(TRUTH, PROBABILITY)[0] == pytest.approx(error)
    assert reliability(TRUTH, PROBABILITY)[0].sum() == 40


def test_a_sure_and_right_prediction_is_perfect():
    found = diagnosis_scores(TRUTH, np.eye(3)[TRUTH], CASES, [*"ABC"], rounds=20)
    best = {"Balanced_accuracy": 1, "AUROC": 1, "Brier": 0, "Calibration_error": 0}
    assert [score.value for score in found] == [best[score.metric] for score in found]
    assert [score.low for score in found] == [best[score.metric] for score in found]


def test_every_entry_is_scored_with_an_interval_that_holds_its_value():
    found = diagnosis_scores(TRUTH, PROBABILITY, CASES, [*"ABC"], rounds=50)
    assert {score.metric for score in found} == set(DIAGNOSIS)
    assert {score.attribute for score in found if score.metric == "AUROC"} == {*"ABC", "mean"}
    for score in found:
        assert score.low <= score.value <= score.high
        assert score.patients == 40


def test_the_order_of_patients_changes_nothing():
    order = np.random.default_rng(1).permutation(40)
    first = diagnosis_scores(TRUTH, PROBABILITY, CASES, [*"ABC"], rounds=30)
    mixed = [CASES[row] for row in order]
    second = diagnosis_scores(TRUTH[order], PROBABILITY[order], mixed, [*"ABC"], rounds=30)
    for one, other in zip(first, second, strict=True):
        numbers = one.value, one.low, one.high
        assert numbers == pytest.approx((other.value, other.low, other.high), abs=1e-12)


def test_a_class_that_is_not_there_has_no_score_and_does_not_count_in_the_mean():
    truth = TRUTH % 2
    found = diagnosis_scores(truth, PROBABILITY, CASES, [*"ABC"], rounds=20)
    values = {(score.metric, score.attribute): score.value for score in found}
    for metric in ("Balanced_accuracy", "AUROC"):
        assert np.isnan(values[metric, "C"])
        mean = (values[metric, "A"] + values[metric, "B"]) / 2
        assert values[metric, "mean"] == pytest.approx(mean)


def test_p_counts_what_is_as_good_on_the_side_where_values_are_good():
    perfect, poor = np.eye(3)[TRUTH], np.eye(3)[(TRUTH + 1) % 3]
    null = [(TRUTH, PROBABILITY)] * 19
    for score in diagnosis_scores(TRUTH, perfect, CASES, [*"ABC"], null, rounds=5):
        assert score.p == pytest.approx(1 / 20)
    for score in diagnosis_scores(TRUTH, poor, CASES, [*"ABC"], null, rounds=5):
        assert score.p == 1
