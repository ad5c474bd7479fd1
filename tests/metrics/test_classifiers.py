"""Classifiers fitted, chosen and explained on patients whose classes are known."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from cardiac_attrivae.metrics.classifiers import (
    CLASSIFIERS,
    Sample,
    cross_validated,
    fit,
    folds_of,
    linear_shap,
    transferred,
)
from cardiac_attrivae.metrics.diagnosis import diagnosis_scores

LINEAR = CLASSIFIERS["logistic regression"]
LEARNING = [n for n in CLASSIFIERS if n not in ("majority class", "trained with the model")]
PUBLISHED = Path(__file__).parents[1] / "reference" / "acdc_published_attributes_training.csv"


def sample(classes=3, patients=30, dimensions=4, distance=0.0, rows=1, seed=0):
    """Patients whose first column lies ``distance`` apart from class to class."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(patients) % classes, rows)
    features = random.normal(size=(patients * rows, dimensions))
    features[:, 0] += distance * labels
    cases = np.repeat([f"p{n:03d}" for n in range(patients)], rows)
    return Sample(features, labels, cases)


def test_what_a_model_says_is_scored_as_it_is():
    """Nothing is fitted, and no scale of what it says matters."""
    said = np.random.default_rng(0).uniform(0.1, 1, (12, 3))
    one = Sample(said, np.arange(12) % 3, np.array([f"p{n:02d}" for n in range(12)]))
    found = cross_validated(CLASSIFIERS["trained with the model"], one, folds=2)
    np.testing.assert_allclose(found.probability, said / said.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("name", LEARNING)
def test_classes_that_are_apart_are_told_apart(name):
    found = cross_validated(CLASSIFIERS[name], sample(distance=50))
    assert (found.probability.argmax(axis=1) == found.truth).all()
    assert found.probability.sum(axis=1) == pytest.approx(1)


def test_the_majority_class_is_a_floor():
    one = sample(classes=2, patients=20)
    one = Sample(one.features, np.r_[np.zeros(14, int), np.ones(6, int)], one.cases)
    found = cross_validated(CLASSIFIERS["majority class"], one)
    assert (found.probability.argmax(axis=1) == 0).all()
    assert found.probability[:, 1] == pytest.approx(0.3, abs=0.06)  # 4 or 5 of 16


def test_noise_is_at_chance():
    known, new = (sample(classes=2, patients=40, seed=seed) for seed in (0, 1))
    new = Sample(new.features, new.labels, np.char.add("new ", new.cases))
    found = transferred(LINEAR, known, {"": new})[""]
    null = [transferred(LINEAR, known.permuted(draw), {"": new})[""] for draw in range(19)]
    scores = diagnosis_scores(
        found.truth, found.probability, found.cases, ["A", "B"],
        [(drawn.truth, drawn.probability) for drawn in null], rounds=200,
    )  # fmt: skip
    means = {score.metric: score for score in scores if score.attribute == "mean"}
    for name in ("Balanced_accuracy", "AUROC"):
        assert means[name].low <= 0.5 <= means[name].high
        assert means[name].p > 0.05
        assert means[name].null == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("name", LEARNING)
def test_the_order_of_rows_changes_nothing(name):
    one = sample(distance=1.5, rows=2, patients=16, classes=2)
    mixed = one.take(np.random.default_rng(5).permutation(len(one.labels)))
    first, second = (cross_validated(CLASSIFIERS[name], s, folds=2) for s in (one, mixed))
    assert first.cases == second.cases
    assert (first.probability == second.probability).all()
    assert first.chosen == second.chosen


def test_a_patient_is_in_one_fold_and_classes_have_equal_shares():
    one = sample(rows=3)
    tested = []
    for fitted, left_out in folds_of(one, folds=5):
        assert not set(one.cases[fitted]) & set(one.cases[left_out])
        assert np.bincount(one.labels[left_out]).tolist() == [6, 6, 6]
        tested += one.cases[left_out].tolist()
    assert sorted(tested) == sorted(one.cases.tolist())


def test_patients_that_are_scored_do_not_change_what_is_fitted():
    known, one = sample(distance=1), sample(distance=1, seed=1)
    new = Sample(one.features, one.labels, np.char.add("new ", one.cases))
    far = Sample(one.features * 100, one.labels[::-1].copy(), np.char.add("far ", one.cases))
    alone = transferred(LINEAR, known, {"new": new})["new"]
    beside = transferred(LINEAR, known, {"new": new, "far": far})["new"]
    assert (alone.probability == beside.probability).all()


def test_a_patient_that_was_fitted_on_is_refused():
    known = sample()
    with pytest.raises(ValueError, match="p000 of new is among the patients that are fitted on"):
        transferred(LINEAR, known, {"new": known.take(np.arange(3))})


def test_a_patient_of_two_classes_is_refused():
    with pytest.raises(ValueError, match="rows of a have several classes"):
        Sample(np.zeros((2, 1)), np.array([0, 1]), np.array(["a", "a"]))


def test_a_permutation_keeps_patients_whole_and_classes_as_frequent():
    one = sample(rows=2)
    mixed = one.permuted(seed=1)
    assert (mixed.labels != one.labels).any()
    assert (mixed.labels[::2] == mixed.labels[1::2]).all()
    assert (np.bincount(mixed.labels) == np.bincount(one.labels)).all()


@pytest.mark.parametrize("classes", [2, 4])
def test_shap_values_sum_to_the_logit_less_the_mean_logit(classes):
    one = sample(classes=classes, distance=1)
    estimator, _ = fit(LINEAR, one)
    shap = linear_shap(estimator, one.features[:7], one.features)

    logits = np.log(estimator.predict_proba(np.r_[one.features[:7], one.features]))
    logits -= logits.mean(axis=1, keepdims=True)
    expected = logits[:7] - logits[7:].mean(axis=0)
    assert shap.shape == (7, classes, 4)
    assert shap.sum(axis=2) == pytest.approx(expected, abs=1e-9)


def test_the_penalty_is_chosen_by_the_log_loss_of_inner_folds():
    """The same written out, with estimators of scikit-learn alone."""
    one = sample(distance=0.7, classes=2)
    losses = {}
    for strength in LINEAR.choices["logisticregression__C"]:
        parts = []
        for fitted, left_out in folds_of(one):
            scaler = StandardScaler().fit(one.features[fitted])
            model = LogisticRegression(C=strength, max_iter=2000)
            model.fit(scaler.transform(one.features[fitted]), one.labels[fitted])
            probability = model.predict_proba(scaler.transform(one.features[left_out]))
            own = probability[np.arange(len(left_out)), one.labels[left_out]]
            parts.append(-np.log(own).mean())
        losses[strength] = np.mean(parts)
    assert fit(LINEAR, one)[1] == {"logisticregression__C": min(losses, key=losses.get)}


def test_the_column_that_tells_classes_apart_matters_most():
    for name in LEARNING:
        found = cross_validated(CLASSIFIERS[name], sample(distance=20), folds=2, explained=True)
        assert found.importance.sum(axis=0).argmax() == 0


def test_five_groups_of_acdc_are_read_from_published_attributes():
    table = pd.read_csv(PUBLISHED)
    values = table.filter(like="published_").to_numpy()
    one = Sample(values, table["label"].to_numpy(int), table["pid"].to_numpy(str))
    found = cross_validated(LINEAR, one, folds=2)
    drawn = cross_validated(LINEAR, one.permuted(3), folds=2)
    scores = diagnosis_scores(
        found.truth, found.probability, found.cases, [*"01234"],
        [(drawn.truth, drawn.probability)], rounds=50,
    )  # fmt: skip
    means = {score.metric: score for score in scores if score.attribute == "mean"}
    assert means["Balanced_accuracy"].low > 0.4  # chance is .2
    assert means["AUROC"].value > 0.8 > means["AUROC"].null
