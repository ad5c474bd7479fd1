"""Classifiers of patients: fitted with chosen options, scored on other patients, explained.

Whatever is chosen is chosen inside the patients that a classifier is fitted on, by an inner
cross-validation; so the patients that it is scored on have no part in it. All rows of a patient
stay together, and the order of rows changes nothing.

References:
    | On over-fitting in model selection and subsequent selection bias (Cawley & Talbot, 2010)
    | A unified approach to interpreting model predictions (Lundberg & Lee, 2017), corollary 1
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from .patients import rows_of_patients

FOLDS = 5
"""Folds of the inner cross-validation, and of the outer one unless another number is asked for."""
SHUFFLES = 20
"""How often a column is shuffled for its permutation importance."""


@dataclass(frozen=True)
class Classifier:
    """An entry of `CLASSIFIERS`."""

    name: str  # as in tables and files
    make: Callable[[int], Any]  # builds an estimator of scikit-learn from a seed
    # option of the estimator -> values, of which inner cross-validation takes the one with the
    # least log loss
    choices: Mapping[str, Sequence[float]] = field(default_factory=dict)
    is_linear: bool = False  # whether its SHAP values are known exactly, see `linear_shap`


def _network(seed: int) -> Any:
    # lbfgs: with some hundred rows it is faster than Adam, and needs no learning rate
    inner = MLPClassifier((16,), solver="lbfgs", max_iter=200, random_state=seed)
    return make_pipeline(StandardScaler(), inner)


class _AsGiven(ClassifierMixin, BaseEstimator):
    """Takes the features as probabilities of the classes; nothing is fitted."""

    def fit(self, features: np.ndarray, labels: np.ndarray) -> _AsGiven:
        self.classes_ = np.arange(features.shape[1])
        return self

    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        return features / features.sum(axis=1, keepdims=True)


CLASSIFIERS = {
    entry.name: entry
    for entry in (
        Classifier(
            "logistic regression",
            lambda seed: make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)),
            {"logisticregression__C": (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)},
            is_linear=True,
        ),
        Classifier("MLP", _network, {"mlpclassifier__alpha": (0.1, 1.0, 10.0)}),
        Classifier("random forest", lambda seed: RandomForestClassifier(200, random_state=seed)),
        Classifier("majority class", lambda seed: DummyClassifier(strategy="prior")),
        Classifier("trained with the model", lambda seed: _AsGiven()),
    )
}
"""Classifiers by name. That of the majority class knows no more than how frequent each class is;
the last one was fitted before, and its features are what it says."""


@dataclass(frozen=True)
class Sample:
    """Patients whose class is known."""

    features: np.ndarray  # what classes are read from, (N, D)
    labels: np.ndarray  # number of the class of each row, 0 to K - 1, (N,)
    cases: np.ndarray  # patient of each row, (N,). A patient has one class.

    def __post_init__(self) -> None:
        shapes = self.features.shape[:1], self.labels.shape, self.cases.shape
        if self.features.ndim != 2 or len(set(shapes)) > 1:
            raise ValueError(
                f"features {self.features.shape}, labels {self.labels.shape} and cases "
                f"{self.cases.shape} do not fit; expected (N, D), (N,) and (N,)"
            )
        for case, rows in zip(*self.patients(), strict=True):
            if len(set(self.labels[rows])) > 1:
                raise ValueError(f"rows of {case} have several classes; expected one per patient")

    def patients(self) -> tuple[list[str], list[np.ndarray]]:
        """Returns the names of the patients, sorted, and the rows of each."""
        rows = rows_of_patients(self.cases.tolist(), fewest=1)
        return [str(self.cases[one[0]]) for one in rows], rows

    def ordered(self) -> Sample:
        """Sorts rows by patient and features, so that nothing depends on their order."""
        return self.take(np.lexsort((*self.features.T, self.cases)))

    def take(self, rows: np.ndarray) -> Sample:
        """Takes some rows."""
        return Sample(self.features[rows], self.labels[rows], self.cases[rows])

    def permuted(self, seed: int) -> Sample:
        """Gives each patient the class of another one: a draw of the null distribution."""
        _, rows = self.patients()
        found = np.array([self.labels[one[0]] for one in rows])
        labels = self.labels.copy()
        for one, label in zip(rows, np.random.default_rng(seed).permutation(found), strict=True):
            labels[one] = label
        return replace(self, labels=labels)


class Predicted(NamedTuple):
    """What a classifier says about patients that it was not fitted on."""

    cases: tuple[str, ...]  # names of the P patients, sorted
    truth: np.ndarray  # number of the class of each, (P,)
    probability: np.ndarray  # probability of each class, mean over the rows of a patient, (P, K)
    # option -> value that inner cross-validation took, one for each fit
    chosen: tuple[dict[str, float], ...] = ()
    # how much each column matters, (1 or K, D), see `importance_of`
    importance: np.ndarray | None = None


def folds_of(sample: Sample, folds: int = FOLDS, seed: int = 0) -> Iterator[tuple[Any, Any]]:
    """Splits patients into folds with the same share of each class; yields rows inside and outside.

    There are at most as many folds as patients of the smallest class. The split does not depend on
    the order of the rows.

    Raises:
        ValueError: If a class has a single patient.

    Example:
        >>> sample = Sample(np.zeros((6, 1)), np.array([0, 0, 0, 1, 1, 1]), np.array([*"abcdee"]))
        >>> [(len(fitted), len(left_out)) for fitted, left_out in folds_of(sample, folds=2)]
        [(3, 3), (3, 3)]
    """
    _, rows = sample.patients()
    labels = np.array([sample.labels[one[0]] for one in rows])
    fewest = int(np.unique(labels, return_counts=True)[1].min())
    if fewest < 2:
        raise ValueError("a class has a single patient; expected at least 2 to split them")
    split = StratifiedKFold(min(folds, fewest), shuffle=True, random_state=seed)
    for fitted, left_out in split.split(labels, labels):
        inside, outside = (np.concatenate([rows[i] for i in part]) for part in (fitted, left_out))
        yield inside, outside


def fit(classifier: Classifier, sample: Sample, seed: int = 0) -> tuple[Any, dict[str, float]]:
    """Fits a classifier, its options chosen by inner cross-validation; returns the options, too.

    Example:
        >>> x, y = np.array([[-1.0], [1.0]] * 10), np.array([0, 1] * 10)
        >>> sample = Sample(x, y, np.array([f"p{n:02d}" for n in range(20)]))
        >>> fit(CLASSIFIERS["logistic regression"], sample)[0].predict([[-3.0], [3.0]]).tolist()
        [0, 1]
    """
    sample, estimator = sample.ordered(), classifier.make(seed)
    with warnings.catch_warnings():
        # a value at which an estimator does not converge loses the choice, or is good enough
        warnings.simplefilter("ignore", ConvergenceWarning)
        if not classifier.choices:
            return estimator.fit(sample.features, sample.labels), {}
        inner = [*folds_of(sample, seed=seed)]
        choices = {key: list(values) for key, values in classifier.choices.items()}
        search = GridSearchCV(estimator, choices, scoring="neg_log_loss", cv=inner)
        search.fit(sample.features, sample.labels)
    return search.best_estimator_, dict(search.best_params_)


def transferred(
    classifier: Classifier,
    known: Sample,
    new: Mapping[str, Sample],
    seed: int = 0,
    explained: bool = False,
) -> dict[str, Predicted]:
    """Fits a classifier on known patients and predicts new ones: data set -> patients, with the
    same columns.

    Importances are computed if it shall be ``explained``.

    Raises:
        ValueError: If a patient is among both.

    Example:
        >>> x, y = np.array([[-1.0], [1.0]] * 10), np.array([0, 1] * 10)
        >>> known = Sample(x, y, np.array([f"p{n:02d}" for n in range(20)]))
        >>> new = Sample(np.array([[2.0]]), np.array([1]), np.array(["q"]))
        >>> found = transferred(CLASSIFIERS["logistic regression"], known, {"other": new})
        >>> bool(found["other"].probability[0, 1] > 0.9)
        True
    """
    for name, sample in new.items():
        if both := sorted(set(known.cases) & set(sample.cases)):
            raise ValueError(f"{both[0]} of {name} is among the patients that are fitted on")
    estimator, chosen = fit(classifier, known, seed)
    found = {}
    for name, sample in new.items():
        sample = sample.ordered()
        matters = importance_of(classifier, estimator, sample, known, seed) if explained else None
        probability = estimator.predict_proba(sample.features)
        found[name] = _per_patient(sample, probability)._replace(
            chosen=(chosen,), importance=matters
        )
    return found


def cross_validated(
    classifier: Classifier,
    sample: Sample,
    folds: int = FOLDS,
    seed: int = 0,
    explained: bool = False,
) -> Predicted:
    """Predicts every patient by a classifier fitted on the other folds: nested cross-validation.

    Importances, if it shall be ``explained``, are means over folds.

    Raises:
        ValueError: If a class has a single patient.

    Example:
        >>> x, y = np.array([[-1.0], [1.0]] * 10), np.array([0, 1] * 10)
        >>> sample = Sample(x, y, np.array([f"p{n:02d}" for n in range(20)]))
        >>> found = cross_validated(CLASSIFIERS["logistic regression"], sample)
        >>> bool((found.probability.argmax(axis=1) == found.truth).all())
        True
    """
    sample = sample.ordered()
    parts = [
        transferred(
            classifier, sample.take(fitted), {"": sample.take(left_out)}, seed, explained
        )[""]
        for fitted, left_out in folds_of(sample, folds, seed)
    ]  # fmt: skip
    order = np.argsort(np.concatenate([part.cases for part in parts]))
    matters = [part.importance for part in parts if part.importance is not None]
    return Predicted(
        tuple(np.concatenate([part.cases for part in parts])[order].tolist()),
        np.concatenate([part.truth for part in parts])[order],
        np.concatenate([part.probability for part in parts])[order],
        tuple(chosen for part in parts for chosen in part.chosen),
        np.mean(matters, axis=0) if matters else None,
    )


def linear_shap(estimator: Any, features: np.ndarray, background: np.ndarray) -> np.ndarray:
    r"""Computes the SHAP values of a scaler with a logistic regression, exactly.

    .. math:: \phi_{nkd} = w_{kd} (x_{nd} - \bar x_d)

    with the mean over the background, features taken as independent. Their sum over the columns is
    the logit less the logit at the mean. Logits are those of softmax with mean 0 over the classes,
    also where there are two.

    Args:
        estimator: Fitted ``StandardScaler`` and ``LogisticRegression``.
        features: Rows to explain, (N, D).
        background: Rows that stand for what is usual, (M, D).

    Returns:
        (N, K, D).

    Example:
        >>> x, y = np.array([[-1.0, 0.0], [1.0, 0.0]] * 10), np.array([0, 1] * 10)
        >>> sample = Sample(x, y, np.array([f"p{n:02d}" for n in range(20)]))
        >>> estimator, _ = fit(CLASSIFIERS["logistic regression"], sample)
        >>> shap = linear_shap(estimator, x[:1], x)
        >>> shap.shape, bool(shap[0, 0, 0] > 0 > shap[0, 1, 0]), bool(abs(shap[0, 0, 1]) < 1e-9)
        ((1, 2, 2), True, True)
    """
    scaler, regression = (step for _, step in estimator.steps)
    weights = regression.coef_
    if len(weights) == 1:  # two classes: one row, the logit of the second over the first
        weights = np.concatenate([-weights, weights]) / 2
    weights = weights - weights.mean(axis=0)
    steps = (features - background.mean(axis=0)) / scaler.scale_
    return weights[None] * steps[:, None]


def importance_of(
    classifier: Classifier, estimator: Any, sample: Sample, background: Sample, seed: int = 0
) -> np.ndarray:
    """Computes how much each column matters to a fitted classifier.

    ``sample`` are patients that it was not fitted on, ``background`` those that it was.

    Returns:
        Of a linear classifier, the mean of absolute SHAP values for each class, in units of the
        logit, (K, D); of others, by how much the balanced accuracy falls when the column is
        shuffled over patients, (1, D).

    Example:
        >>> x, y = np.array([[-1.0, 0.0], [1.0, 0.0]] * 10), np.array([0, 1] * 10)
        >>> sample = Sample(x, y, np.array([f"p{n:02d}" for n in range(20)]))
        >>> forest = CLASSIFIERS["random forest"]
        >>> importance_of(forest, fit(forest, sample)[0], sample, sample).argmax(axis=1).tolist()
        [0]
    """
    if classifier.is_linear:
        shap = linear_shap(estimator, sample.features, background.features)
        return np.abs(shap).mean(axis=0)
    with warnings.catch_warnings():
        # one fold may lack a class, of which there is then no recall
        warnings.filterwarnings("ignore", "y_pred contains classes not in y_true")
        found = permutation_importance(
            estimator, sample.features, sample.labels, scoring="balanced_accuracy",
            n_repeats=SHUFFLES, random_state=seed,
        )  # fmt: skip
    return np.asarray(found.importances_mean)[None]


def _per_patient(sample: Sample, probability: np.ndarray) -> Predicted:
    """Averages the probabilities of the rows of each patient."""
    cases, rows = sample.patients()
    return Predicted(
        tuple(cases),
        np.array([sample.labels[one[0]] for one in rows]),
        np.array([probability[one].mean(axis=0) for one in rows]),
    )
