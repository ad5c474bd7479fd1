"""Models are compared on the same patients: a better one is told from a worse one."""

from dataclasses import replace

import numpy as np
import pytest

from cardiac_attrivae.metrics.comparison import compare_paired, differences, spread
from cardiac_attrivae.metrics.uncertainty import bootstrap
from metrics.test_uncertainty import by_name, scores, table


def drawn_scores(tables, rounds):
    """Names, values and draws of models on the same patients."""
    found = [scores(table) for table in tables]
    names = [(row.metric, row.attribute) for row in found[0]]
    values = np.array([[row.value for row in rows] for rows in found])
    return names, values, np.array([bootstrap(table, rounds) for table in tables])


def compare(first, second, rounds):
    names, values, drawn = drawn_scores([first, second], rounds)
    patients = len(set(first.cases))
    return differences(names, values[:1], drawn[:1], values[1:], drawn[1:], patients)


def test_spread_over_seeds_is_apart_from_spread_over_patients():
    t = table(60, 3, 1, noise=0.5)
    same = by_name(spread(*drawn_scores([t, t, t], rounds=30)))["Interpretability_fixed", "a0"]
    assert same.sd == pytest.approx(0, abs=1e-12)
    assert same.sd_patients > 0.01
    worse = replace(t, codes=t.codes + 2 * np.random.default_rng(5).normal(size=t.codes.shape))
    rows = by_name(spread(*drawn_scores([t, worse], rounds=30)))
    row = rows["Interpretability_fixed", "a0"]
    values = [by_name(scores(x))["Interpretability_fixed", "a0"].value for x in (t, worse)]
    assert row.sd == pytest.approx(np.std(values, ddof=1))
    assert row.value == pytest.approx(np.mean(values))
    assert row.low < row.value < row.high
    with pytest.raises(ValueError, match="values are of 1 models; expected at least 2"):
        spread(*drawn_scores([t], rounds=1))


def test_a_better_model_is_told_from_a_worse_one_and_a_model_from_itself_is_not():
    t = table(60, 4, noise=0.3)
    worse = replace(t, codes=t.codes + 1.5 * np.random.default_rng(5).normal(size=t.codes.shape))
    row = by_name(row.difference for row in compare(t, worse, rounds=60))[
        "Interpretability_fixed", "mean"
    ]
    assert row.low > 0
    assert row.p < 0.05
    back = by_name(row.difference for row in compare(worse, t, rounds=60))[
        "Interpretability_fixed", "mean"
    ]
    assert (back.value, back.p) == (pytest.approx(-row.value), pytest.approx(row.p))
    for row in (found.difference for found in compare(t, t, rounds=10)):
        assert row.value == row.low == row.high == 0
        assert row.p == 1


def test_paired_draws_are_narrower_than_the_two_intervals():
    t = table(50, 1, 1, noise=0.5)
    near = replace(t, codes=t.codes + 0.1 * np.random.default_rng(5).normal(size=t.codes.shape))
    j = [row.metric for row in scores(t)].index("Interpretability_fixed")
    a, b = (bootstrap(x, 50)[:, j] for x in (t, near))
    assert (a - b).std() < 0.5 * a.std()


def test_a_method_is_the_mean_of_its_models():
    t = table(30, 3, noise=0.5)
    models = [
        replace(t, codes=t.codes + s * np.random.default_rng(5).normal(size=t.codes.shape))
        for s in (0.5, 1.0, 2.0)
    ]
    names, values, drawn = drawn_scores(models, rounds=10)
    rows = differences(names, values[:2], drawn[:2], values[2:], drawn[2:], 30)
    single = [compare(model, models[2], rounds=10) for model in models[:2]]
    for row, *pair in zip(rows, *single, strict=True):
        assert row.difference.value == pytest.approx(np.mean([p.difference.value for p in pair]))
        assert row.second == pair[0].second


def test_the_paired_permutation_test_is_that_of_all_sign_flips():
    difference = np.array([0.3, -0.1, 0.5, 0.2, 0.4, -0.2, 0.6, 0.1])
    flips = 1 - 2 * ((np.arange(256)[:, None] >> np.arange(8)) & 1)
    exact = np.mean(np.abs(flips @ difference) >= difference.sum() - 1e-12)
    row = compare_paired(
        difference, 0 * difference, list("abcdefgh"), "MAE", rounds=20_000
    ).difference
    assert row.p == pytest.approx(exact, abs=0.01)
    assert row.value == pytest.approx(difference.mean())
    assert (row.metric, row.patients) == ("MAE", 8)


def test_a_patient_counts_once_however_many_rows_it_has():
    cases = list("aaaaaaaaaabcdefgh")
    first = np.array([1.0] * 10 + [0] * 7)
    assert compare_paired(first, first * 0, cases).difference.value == pytest.approx(1 / 8)
    for second in (first[1:], first * np.nan):
        with pytest.raises(ValueError, match="second is .* one finite number per row"):
            compare_paired(first, second, cases)
