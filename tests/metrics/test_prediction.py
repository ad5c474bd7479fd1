"""Predictions of patients left out: held-out lines, leakage, DCI, all with a known answer."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import Lasso, LassoCV, LinearRegression
from sklearn.metrics import r2_score
from sklearn.model_selection import PredefinedSplit

from cardiac_attrivae.metrics import regression
from cardiac_attrivae.metrics.disentanglement import completeness, disentanglement
from cardiac_attrivae.metrics.prediction import agreement, held_out
from cardiac_attrivae.metrics.regression import dci, leakage
from metrics.test_uncertainty import INTERVAL, by_name, numbers, scores, table

# Held out ----------------------------------------------------------------------------------------


def test_held_out_is_a_regression_of_one_dimension_on_other_patients():
    train, test = table(60, 5, noise=0.5), table(40, 5, noise=0.5, seed=1)
    found = by_name(held_out(train, test, rounds=20))
    for j in range(2):
        line = LinearRegression().fit(train.codes[:, [j]], train.attributes[:, j])
        predicted, true = line.predict(test.codes[:, [j]]), test.attributes[:, j]
        for suffix in ("", "_fixed"):
            row = found["R2" + suffix, f"a{j}"]
            assert row.value == pytest.approx(r2_score(true, predicted))
            assert row.low < row.value < row.high
            assert row.dimension == j
            assert found["MAE" + suffix, f"a{j}"].value == pytest.approx(
                np.abs(predicted - true).mean()
            )
    mean = (found["R2", "a0"].value + found["R2", "a1"].value) / 2
    assert found["R2", "mean"].value == pytest.approx(mean)
    assert ("bias", "mean") not in found  # attributes have units of their own


def test_held_out_noise_is_worse_than_the_mean():
    train, test = table(20, 32, seed=1), table(40, 32, seed=2)
    found = by_name(held_out(train, test, rounds=20))
    assert found["R2", "mean"].value < 0
    assert by_name(scores(train))["Interpretability", "mean"].value > 0.05


def test_a_shift_between_domains_is_the_bias():
    source = table(40, 3, noise=0.0)
    target = replace(source, attributes=source.attributes - np.array([5.0, -2.0]))
    found = by_name(held_out(source, target, rounds=20))
    for attribute, shift in (("a0", 5.0), ("a1", -2.0)):
        for metric in ("bias", "lower_limit", "upper_limit"):
            assert found[metric, attribute].value == pytest.approx(shift)
        assert found["MAE", attribute].value == pytest.approx(abs(shift))
        assert found["R2", attribute].value < 0


def test_limits_of_agreement_are_1_96_deviations_about_the_bias():
    error = np.random.default_rng(0).normal(3, 2, size=(50_000, 1))
    measured = np.random.default_rng(1).normal(size=error.shape)
    _, bias, _, lower, upper = agreement(measured + error, measured)[:, 0]
    np.testing.assert_allclose([bias, lower, upper], [3, 3 - 3.92, 3 + 3.92], atol=0.05)
    errors = np.array([[1.0], [2.0], [3.0]])
    np.testing.assert_allclose(  # deviation 1 on paper
        agreement(errors, errors * 0)[:, 0], [np.nan, 2, 2, 0.04, 3.96]
    )


def test_held_out_without_trained_dimensions_has_no_fixed_numbers():
    t = table(20, 3, noise=0.5, dimensions=None)
    found = by_name(held_out(t, t, rounds=5))
    assert np.isnan(found["R2_fixed", "a0"].value)
    assert np.isfinite(found["R2", "a0"].low)


def test_tables_that_do_not_match_are_an_error_that_says_in_what():
    t = table(20, 3)
    for other, message in (
        (replace(t, names=("x", "y")), r"names .*'a0', 'a1'.* and .*'x', 'y'"),
        (replace(t, dimensions=(1, 0)), "dimensions"),
        (table(20, 4), "latent dimensions differ: 3 and 4"),
    ):
        with pytest.raises(ValueError, match=message):
            held_out(t, other, rounds=1)


# Leakage -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dimensions", ["fixed", None])
def test_leakage_is_0_without_and_1_with_a_copy(dimensions):
    t = table(60, 80, noise=0.0, dimensions=dimensions)  # D > N
    found = by_name(leakage(t))
    for attribute in ("a0", "a1", "mean"):
        row = found["Leakage", attribute]
        assert row.low <= 0.05
        assert -0.2 < row.value < 0.1
    few = table(60, 4, noise=0.0, dimensions=dimensions)
    few.codes[:, 2] = 1 - 3 * few.attributes[:, 0]
    found = by_name(leakage(few))
    assert found["Leakage", "a0"].value == pytest.approx(1, abs=1e-3)
    assert found["Leakage", "a1"].value < 0.2


def test_leakage_of_a_constant_is_nan_and_of_one_dimension_an_error():
    t = table(20, 3)
    t.attributes[:, 1] = 4
    found = by_name(leakage(t))
    assert np.isnan(found["Leakage", "a1"].value)
    assert np.isfinite(found["Leakage", "a0"].value)
    with pytest.raises(ValueError, match="D = 1 .* expected D >= 2"):
        leakage(table(20, 1, 1))


def test_a_patient_is_in_one_fold_and_every_row_is_held_out_once():
    cases = [f"p{i % 11}" for i in range(40)]
    fold = regression._folds(cases, 4, seed=0)
    assert {*fold} == {0, 1, 2, 3}
    assert len({(case, f) for case, f in zip(cases, fold, strict=True)}) == 11
    for folds in (1, 12):
        with pytest.raises(ValueError, match=f"folds is {folds}; expected 2 to 11"):
            regression._folds(cases, folds, seed=0)


# Disentanglement, completeness, informativeness --------------------------------------------------


@pytest.mark.parametrize(
    ("importance", "d", "c"),
    [
        (np.eye(3)[[2, 0, 1]], 1, [1, 1, 1]),  # a permutation
        (np.vstack([np.eye(2), np.eye(2)]), 1, [0.5, 0.5]),  # two of four for each: ln 2 / ln 4
        (np.ones((4, 2)), 0, [0, 0]),
        (np.zeros((4, 2)), 0, [0, 0]),
        (np.array([[1.0, 1], [0, 0], [0, 0]]), 0, [1, 1]),  # one for two
        (np.array([[3.0, 0], [1, 1]]), 0.6, None),  # weights 3/5 and 2/5, of 1 and 0
        (np.array([[1.0], [0]]), np.nan, [1]),
        (np.array([[1.0, 1]]), 0, [np.nan, np.nan]),
    ],
)
def test_dci_of_importances_with_a_known_score(importance, d, c):
    assert disentanglement(importance) == pytest.approx(d, nan_ok=True)
    if c is not None:
        np.testing.assert_allclose(completeness(importance), c, atol=1e-12)


@pytest.fixture
def few_groups(monkeypatch):
    """Two groups for each interval, which take a fifth of the time of ten."""
    monkeypatch.setattr(regression, "GROUPS", 2)


def test_intervals_fit_again_without_groups_of_patients():
    t = table(24, 3, noise=0.5)
    t = replace(t, cases=tuple(f"p{i // 2:02d}" for i in range(24)))
    groups = regression._without_groups(t.cases)
    assert len(groups) == 10
    left_out = [{*range(24)} - {*rows} for rows in groups]
    assert sorted(row for rows in left_out for row in rows) == [*range(24)]
    assert all({row ^ 1 for row in rows} == rows for rows in left_out)  # both rows of a patient
    (leak,) = [row for row in leakage(t) if row.attribute == "mean"]
    assert leak.low < leak.value < leak.high <= 1


def test_dci_of_a_perfect_permuted_code_is_1(few_groups):
    t = table(60, 8, 3, noise=0.0)
    order = [5, 2, 7, 0, 1, 3, 4, 6]
    found = by_name(dci(replace(t, codes=-4 * t.codes[:, order]), rounds=20))
    assert found["Disentanglement", "mean"].value == pytest.approx(1, abs=1e-9)
    for k in range(3):
        row = found["Completeness", f"a{k}"]
        assert row.value == pytest.approx(1, abs=1e-9)
        assert row.low == pytest.approx(1, abs=1e-9)
        assert row.dimension == order.index(k)
        # the smallest penalty, 0.01, takes 0.01^2 off
        assert found["Informativeness", f"a{k}"].value == pytest.approx(1, abs=1e-3)


def test_dci_of_noise_informs_of_nothing_and_is_no_better_than_chance(few_groups):
    noise = [by_name(dci(table(30, 8, seed=seed), rounds=20)) for seed in range(6)]
    informed = [found["Informativeness", "mean"].value for found in noise]
    assert abs(np.mean(informed)) < 0.3
    for metric in ("Disentanglement", "Completeness"):
        rows = [found[metric, "mean"] for found in noise]
        assert np.mean([row.p for row in rows]) > 0.2  # uniform: .5 +- .12
        assert all(row.low <= row.high for row in rows)


def test_chance_looks_disentangled_and_a_perfect_code_is_corrected_to_1(few_groups):
    found = by_name(dci(table(60, 32, 3, noise=0.3), rounds=40))
    for metric in ("Disentanglement", "Completeness"):
        row = found[metric, "mean"]
        assert 0.2 < row.null < row.null_95 < 1
    perfect = by_name(dci(table(60, 32, 3, noise=0.0), rounds=40))["Completeness", "mean"]
    assert perfect.corrected == pytest.approx(1, abs=1e-9)
    assert perfect.p == pytest.approx(1 / 41)


def test_importances_of_a_draw_are_those_of_scikit_learns_lasso():
    t = table(40, 10, noise=0.5)
    t.codes[:, 4] = 7
    ours = regression._importance(
        regression._standardised(3 + 2 * t.codes), t.attributes, [0.1, 0.02]
    )
    x = (t.codes - t.codes.mean(axis=0)) / np.where(np.arange(10) == 4, 1, t.codes.std(axis=0))
    for j, penalty in enumerate((0.1, 0.02)):
        y = t.attributes[:, j]
        theirs = Lasso(alpha=penalty, max_iter=10_000).fit(x, (y - y.mean()) / y.std()).coef_
        np.testing.assert_allclose(ours[:, j], np.abs(theirs), atol=1e-12)


@pytest.mark.parametrize("d", [4, 32])  # fewer and more dimensions than rows to fit on
def test_penalties_are_those_that_scikit_learns_cross_validation_chooses(d):
    t = table(40, d, 3, noise=0.5)
    x, y = (regression._standardised(values) for values in (t.codes, t.attributes))
    fold = np.arange(40) % 5
    lasso = LassoCV(alphas=regression.PENALTIES, cv=PredefinedSplit(fold), max_iter=10_000)
    theirs = [lasso.fit(x, column).alpha_ for column in y.T]
    assert regression._chosen_penalties(x, y, fold) == theirs
    assert len(set(theirs)) > 1


# Degenerate input --------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [leakage, dci], ids=lambda f: f.__name__)
def test_few_patients_are_an_error_however_many_rows_there_are(function):
    t = table(28, 3, cases=[f"p{i % 7}" for i in range(28)])
    with pytest.raises(ValueError, match="7 patients in 28 rows; expected at least 8"):
        function(t)


@pytest.mark.parametrize("function", [leakage, dci, lambda t: held_out(table(20, 3), t)])
def test_a_number_that_is_missing_is_an_error_that_names_it(function):
    t = table(20, 3)
    t.attributes[4, 1] = np.nan
    with pytest.raises(ValueError, match="attribute column a1 is NaN or infinite in 1 of 20 rows"):
        function(t)


@pytest.mark.parametrize("function", [leakage, lambda t: held_out(t, t)])
def test_a_trained_dimension_that_is_not_there_is_an_error(function):
    with pytest.raises(ValueError, match=r"dimensions are \[0, 3\]; expected .* 0 to 2"):
        function(replace(table(20, 3), dimensions=(0, 3)))


def test_eight_patients_are_enough():
    t = table(8, 3, noise=0.5)
    for rows in (leakage(t, folds=8), dci(t, rounds=5), held_out(t, t, rounds=5)):
        for row in rows:
            assert np.isfinite(numbers([row], INTERVAL)).all(), row
