"""Scores of codes: equal to the published implementation, and to what paper and pencil say."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import digamma
from scipy.stats import spearmanr
from sklearn.feature_selection import mutual_info_regression
from sklearn.linear_model import LinearRegression

from cardiac_attrivae.metrics import dependence, disentanglement, information
from cardiac_attrivae.metrics.codes import METRICS, score
from cardiac_attrivae.metrics.dependence import Dependence
from cardiac_attrivae.metrics.information import mutual_information, self_information
from cardiac_attrivae.metrics.metric import Score
from cardiac_attrivae.metrics.regression import dci, leakage
from cardiac_attrivae.metrics.uncertainty import estimate
from cardiac_attrivae.schema import LatentTable

REFERENCE = Path(__file__).parents[1] / "reference"
EXACT = 1e-10  # sums of at most a few hundred float64 terms of size one


def draw(n: int, d: int, k: int, seed: int = 0, signal: float = 1.0) -> tuple:
    """Codes (N, D) whose first dimensions carry the attributes (N, K), up to noise."""
    rng = np.random.default_rng(seed)
    codes, attributes = rng.normal(size=(n, d)), rng.normal(size=(n, k))
    shared = min(d, k)
    codes[:, :shared] += signal * attributes[:, :shared]
    return codes, attributes


def table(codes, attributes, dimensions=None) -> LatentTable:
    n, k = attributes.shape
    names = tuple(f"a{j}" for j in range(k))
    cases = tuple(f"patient{i:03d}" for i in range(n))
    return LatentTable(cases, codes, attributes, names, tuple(dimensions or [None] * k))


def values(codes, attributes, dimensions=None) -> dict[tuple[str, str], float]:
    rows = score(table(codes, attributes, dimensions))
    return {(row.metric, row.attribute): row.value for row in rows}


def golden(case: str) -> tuple[dict, dict]:
    arrays = dict(np.load(REFERENCE / f"metrics_{case}.npz"))
    return arrays, json.loads((REFERENCE / f"metrics_{case}.json").read_text())


# Published numbers -----------------------------------------------------------------------------


def test_every_score_of_the_reference_without_ties():
    arrays, expected = golden("A")
    codes, attributes = arrays["z"], arrays["y"]
    measured = Dependence.between(codes, attributes)
    for ours, theirs in (
        (measured.information, "mi_matrix_seed0"),
        (measured.entropy, "entropy_seed0"),
        (measured.correlation, "scc_matrix"),
        (measured.separable, "sap_matrix"),
    ):
        np.testing.assert_allclose(ours, arrays[theirs], rtol=0, atol=EXACT)
    ours = values(codes, attributes)
    for metric, key in (
        ("SCC", "scc"),
        ("SAP", "sap"),
        ("MIG", "mig"),
        ("Modularity", "modularity"),
    ):
        assert ours[metric, "mean"] == pytest.approx(expected[key], abs=EXACT), metric
    for j in range(3):
        of_attribute = f"a{j}"
        assert ours["SCC", of_attribute] == pytest.approx(expected["per_attr_scc"][j], abs=EXACT)
        assert ours["SAP", of_attribute] == pytest.approx(expected["per_attr_sap"][j], abs=EXACT)
    found = {(row.metric, row.attribute): row for row in score(table(codes, attributes))}
    for attribute, (dimension, value) in expected["interpretability"].items():
        row = found["Interpretability", attribute]
        assert row.value == pytest.approx(value, abs=EXACT)
        assert row.dimension == (None if attribute == "mean" else dimension)
    assert [found["SCC", f"a{j}"].dimension for j in range(3)] == expected["argmax_scc"]


def test_every_score_of_the_reference_with_ties_and_constant_dimensions():
    arrays, expected = golden("C")
    codes, attributes = arrays["z"], arrays["y"]
    measured = Dependence.between(codes, attributes)
    np.testing.assert_allclose(measured.correlation, arrays["scc_matrix"], rtol=0, atol=EXACT)
    np.testing.assert_allclose(measured.separable, arrays["sap_matrix"], rtol=0, atol=EXACT)
    rows = {(row.metric, row.attribute): row for row in score(table(codes, attributes))}
    for metric, key in (("SCC", "scc"), ("SAP", "sap")):
        assert rows[metric, "mean"].value == pytest.approx(expected[key], abs=EXACT)
    for attribute, (dimension, value) in expected["interpretability"].items():
        assert rows["Interpretability", attribute].value == pytest.approx(value, abs=EXACT)
        if attribute != "mean":
            assert rows["Interpretability", attribute].dimension == dimension
    # the reference's own spread over jitter seeds, see the golden README
    assert rows["MIG", "mean"].value == pytest.approx(expected["mig"], abs=0.06)
    assert rows["Modularity", "mean"].value == pytest.approx(expected["modularity"], abs=0.12)


@pytest.mark.parametrize(
    ("n", "d"),
    # N = 5 to 7: scikit-learn switches to brute force; 300: many leaves
    [(5, 3), (6, 3), (7, 3), (20, 8), (51, 4), (136, 8), (300, 3)],
)
@pytest.mark.parametrize("decimals", [15, 1, 0])
def test_information_is_scikit_learns_pair_by_pair(n, d, decimals):
    codes, attributes = (v.round(decimals) for v in draw(n, d, 2, seed=n))
    codes[:, -1] = 4 if decimals == 0 else codes[:, -1]  # 4: scikit-learn sees it is constant
    ours = mutual_information(codes, attributes, seed=3)
    for j in range(2):
        theirs = mutual_info_regression(codes, attributes[:, j], n_neighbors=3, random_state=3)
        np.testing.assert_allclose(ours[:, j], theirs, rtol=0, atol=EXACT)
        if decimals == 15:  # without ties the jitter says nothing, so pairs can be asked one by one
            for i in range(d):
                pair = mutual_info_regression(codes[:, [i]], attributes[:, j], random_state=9)
                assert ours[i, j] == pytest.approx(pair[0], abs=EXACT)


@pytest.mark.parametrize("neighbours", [1, 2, 5])
def test_information_is_scikit_learns_for_any_number_of_neighbours(neighbours):
    codes, attributes = draw(40, 4, 1)
    theirs = mutual_info_regression(codes, attributes[:, 0], n_neighbors=neighbours, random_state=0)
    ours = mutual_information(codes, attributes, neighbours)[:, 0]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=EXACT)


def test_information_of_gaussians_is_the_closed_form():
    rho = 0.8
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(2, 4000, 1))
    y = rho * x + np.sqrt(1 - rho**2) * noise
    # -ln(1 - rho^2)/2 = .511; the spread of this estimator at N = 4000 is about .015
    ours = mutual_information(x, y)[0, 0]
    assert ours == pytest.approx(-0.5 * np.log(1 - rho**2), abs=0.05)


def test_determination_is_the_score_of_a_linear_regression():
    codes, attributes = draw(30, 3, 2)
    ours = dependence.determination(codes, attributes)
    for i, j in np.ndindex(3, 2):
        x, y = codes[:, [i]], attributes[:, j]
        assert ours[i, j] == pytest.approx(LinearRegression().fit(x, y).score(x, y), abs=EXACT)


@pytest.mark.parametrize("decimals", [15, 0])
def test_rank_correlation_is_scipys_where_significant(decimals):
    codes, attributes = (v.round(decimals) for v in draw(25, 20, 2))
    ours = dependence.rank_correlation(codes, attributes)
    zeroed = 0
    for i, j in np.ndindex(20, 2):
        rho, p = spearmanr(codes[:, i], attributes[:, j])
        assert ours[i, j] == pytest.approx(abs(rho) if p <= 0.05 else 0, abs=EXACT)
        zeroed += p > 0.05
    assert 0 < zeroed < 40  # both branches were seen


# On paper --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("information", "expected"),
    [
        (np.eye(3), 1),
        (np.vstack([np.eye(3), np.eye(3)]), 1),  # two codes for each attribute
        (np.diag([1.0, 1.0, 0.0]), 2 / 3),  # an empty code scores 0
        (np.zeros((3, 3)), 0),
        (np.ones((2, 3)), 0),
        (np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1.0, 1]]), 1 - 1 / 9),  # one for two
        (np.array([[2.0, 1, 0]]), 1 - 1 / 8),
    ],
)
def test_modularity_of_matrices_with_a_known_score(information, expected):
    assert disentanglement.modularity(information) == pytest.approx(expected, abs=1e-12)


def test_gaps_of_matrices_with_a_known_score():
    matrix = np.array([[0.9, 0.2], [0.1, 0.2], [0.4, 0.0]])
    np.testing.assert_allclose(disentanglement.sap(matrix), [0.5, 0.0])
    np.testing.assert_allclose(disentanglement.mig(matrix, np.array([2.0, 1.0])), [0.25, 0.0])


def test_the_dimension_is_chosen_by_information_and_read_by_determination():
    information = np.array([[0.1, 0.9], [0.5, 0.2]])
    fit = np.array([[0.8, 0.3], [0.6, 0.7]])
    np.testing.assert_array_equal(disentanglement.interpretability(information, fit), [0.6, 0.3])
    np.testing.assert_array_equal(
        disentanglement.interpretability(information, fit, (0, 1)), [0.8, 0.7]
    )


def test_a_perfect_code_has_every_ceiling():
    _, attributes = draw(60, 3, 3)
    ours = values(attributes, attributes, dimensions=(0, 1, 2))
    for metric in ("Interpretability", "SCC", "Interpretability_fixed", "SCC_fixed"):
        assert ours[metric, "mean"] == pytest.approx(1, abs=1e-12)
    # the other dimensions are independent, so the gaps and the rows are clean up to chance
    assert ours["SAP", "mean"] > 0.9
    assert ours["MIG", "mean"] > 0.9
    assert ours["Modularity", "mean"] > 0.98
    np.testing.assert_allclose(self_information(attributes), digamma(60) - digamma(4), atol=1e-12)


def test_a_duplicated_code_has_no_gap_and_keeps_the_rest():
    _, attributes = draw(60, 3, 3)
    twice = np.hstack([attributes, -2 * attributes])
    ours, once = values(twice, attributes), values(attributes, attributes)
    assert ours["SAP", "mean"] == pytest.approx(0, abs=1e-12)
    assert ours["MIG", "mean"] == pytest.approx(0, abs=1e-8)
    for metric in ("Interpretability", "SCC", "Modularity"):
        assert ours[metric, "mean"] == pytest.approx(once[metric, "mean"], abs=1e-9)


def test_a_rotated_code_loses_every_score():
    _, attributes = draw(400, 2, 2)
    turned = attributes @ np.array([[1, -1], [1, 1]]) / np.sqrt(2)
    ours, straight = values(turned, attributes), values(attributes, attributes)
    assert ours["Interpretability", "mean"] == pytest.approx(0.5, abs=0.1)  # cos^2 of 45 degrees
    for metric in ("SCC", "Modularity", "SAP", "MIG"):
        assert ours[metric, "mean"] < straight[metric, "mean"] - 0.2, metric
    assert ours["SAP", "mean"] < 0.15
    assert ours["Modularity", "mean"] < 0.25


def test_one_code_for_two_attributes_costs_modularity_and_nothing_else():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(100, 3))
    attributes = np.column_stack([a[:, 0], a[:, 1], 3 - 2 * a[:, 1]])
    ours, clean = values(a[:, :2], attributes), values(a, a)
    assert ours["SCC", "mean"] == pytest.approx(1, abs=1e-12)
    assert ours["Interpretability", "mean"] == pytest.approx(1, abs=1e-12)
    # rows of 1 and of 1 - 1/2, up to what the two independent columns share by chance
    assert ours["Modularity", "mean"] == pytest.approx(0.75, abs=0.02)
    assert clean["Modularity", "mean"] > 0.95


def test_a_monotone_curve_keeps_the_ranks_and_loses_the_line():
    _, attributes = draw(80, 1, 1)
    ours = values(np.hstack([np.exp(3 * attributes), attributes * 0]), attributes)
    assert ours["SCC", "a0"] == pytest.approx(1, abs=1e-12)
    assert ours["Interpretability", "a0"] < 0.6


def test_each_score_says_the_dimension_it_looked_at():
    _, attributes = draw(100, 1, 1)
    noise = np.random.default_rng(1).normal(size=(100, 1))
    # the first tells all but not by a line, the second is a noisy line
    codes = np.hstack([np.abs(attributes) ** 3 + np.sign(attributes), attributes + 0.3 * noise])
    codes[:, 0] = np.where(attributes[:, 0] > 0, codes[:, 0], -5 * codes[:, 0])
    found = {r.metric: r.dimension for r in score(table(codes, attributes)) if r.attribute == "a0"}
    assert found["Interpretability"] == found["MIG"] == 0
    assert found["SCC"] == found["SAP"] == 1


def test_fixed_dimensions_are_scored_where_they_were_trained():
    _, attributes = draw(50, 2, 2)
    swapped = attributes[:, ::-1]
    rows = {(r.metric, r.attribute): r for r in score(table(swapped, attributes, (0, 1)))}
    assert rows["Interpretability", "a0"].value == pytest.approx(1)
    assert rows["Interpretability", "a0"].dimension == 1
    assert rows["Interpretability_fixed", "a0"].value < 0.2
    assert rows["Interpretability_fixed", "a0"].dimension == 0
    assert rows["SCC_fixed", "mean"].value < rows["SCC", "mean"].value


# Chance ----------------------------------------------------------------------------------------


def test_noise_lands_where_the_published_floor_says():
    floor = [values(*draw(50, 32, 3, seed=seed, signal=0)) for seed in range(20)]
    # FORMULAS D, n 50 and D 32: mean over many draws; tolerance about three standard errors of 20
    for metric, expected, tolerance in (
        ("Interpretability", 0.029, 0.015),
        ("SCC", 0.277, 0.05),
        ("SAP", 0.028, 0.011),
        ("Modularity", 0.775, 0.035),
    ):
        found = np.mean([v[metric, "mean"] for v in floor])
        assert found == pytest.approx(expected, abs=tolerance), metric
    # 95 % are said to lie in this band: 19 of 20, and fewer than 16 once in 400 such tests
    assert sum(0.67 <= v["Modularity", "mean"] <= 0.87 for v in floor) >= 16


def test_modularity_can_not_tell_a_perfect_code_from_noise():
    codes, attributes = draw(50, 32, 3, signal=0)
    noise = values(codes, attributes)["Modularity", "mean"]
    codes[:, :3] = attributes
    assert abs(values(codes, attributes)["Modularity", "mean"] - noise) < 0.1


# Invariances -----------------------------------------------------------------------------------

seeds = st.integers(0, 2**16)
quick = settings(max_examples=10, deadline=None, derandomize=True)


def same(ours: dict, expected: dict, tolerance: float = 1e-8) -> None:
    """1e-8: rescaling moves the jitter and the roundings, not the ranks of distances."""
    assert ours.keys() == expected.keys()
    for key in expected:
        assert ours[key] == pytest.approx(expected[key], abs=tolerance, nan_ok=True), key


@quick
@given(seeds, st.integers(30, 60), st.integers(3, 6), st.integers(1, 3))
def test_the_order_of_samples_changes_no_score(seed, n, d, k):
    codes, attributes = draw(n, d, k, seed, signal=3)
    order = np.random.default_rng(seed).permutation(n)
    same(values(codes[order], attributes[order]), values(codes, attributes))


@quick
@given(seeds, st.integers(30, 60), st.integers(3, 6), st.integers(1, 3))
def test_units_and_signs_change_no_score(seed, n, d, k):
    codes, attributes = draw(n, d, k, seed, signal=3)
    rng = np.random.default_rng(seed)
    scales = rng.choice([-3.0, 0.05, 7.0], size=d)
    same(values(codes * scales + rng.normal(size=d), 25 * attributes), values(codes, attributes))


@quick
@given(seeds, st.integers(30, 60), st.integers(3, 6), st.integers(1, 3))
def test_the_order_of_dimensions_changes_no_score(seed, n, d, k):
    # enough signal that no two dimensions tie for the best, where the first one would be taken
    codes, attributes = draw(n, d, k, seed, signal=3)
    order = np.random.default_rng(seed).permutation(d)
    moved = tuple(int(np.flatnonzero(order == j)[0]) for j in range(k))
    same(values(codes[:, order], attributes, moved), values(codes, attributes, range(k)))


@pytest.mark.parametrize("decimals", [15, 0])  # with ties as well: each attribute has one jitter
def test_the_order_of_attributes_changes_no_number(decimals):
    codes, attributes = (v.round(decimals) for v in draw(40, 8, 3))
    plain, order = table(codes, attributes, (0, 1, 2)), [2, 0, 1]
    shuffled = LatentTable(plain.cases, codes, attributes[:, order], ("a2", "a0", "a1"), (2, 0, 1))
    expected = {(r.metric, r.attribute): r for r in score(plain)}
    for row in score(shuffled):
        was = expected.pop((row.metric, row.attribute))
        if row.attribute == "mean":
            assert row.value == pytest.approx(was.value, abs=1e-14)
        else:
            assert row == was
    assert not expected


@quick
@given(seeds, st.integers(5, 40), st.integers(2, 6), st.integers(1, 4))
def test_every_score_stays_in_its_range(seed, n, d, k):
    codes, attributes = draw(n, d, k, seed)
    for (metric, _), value in values(codes, attributes, (0,) * k).items():
        if metric == "Modularity" and k == 1:
            assert np.isnan(value)
        else:
            assert -1e-12 <= value <= (1.5 if metric == "MIG" else 1 + 1e-12), metric


def test_scores_are_reproducible_and_leave_the_global_generator_alone():
    codes, attributes = (v.round() for v in draw(30, 5, 2))
    before = np.random.get_state()[1].copy()  # noqa: NPY002 - the point of the test
    assert values(codes, attributes) == pytest.approx(values(codes, attributes), nan_ok=True)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


# Degenerate input ------------------------------------------------------------------------------


def test_a_constant_code_scores_nothing():
    _, attributes = draw(50, 4, 3)
    ours = values(np.full((50, 4), 0.1), attributes, (0, 1, 2))
    for metric in ("Interpretability", "SCC", "SAP", "Interpretability_fixed", "SCC_fixed"):
        assert ours[metric, "mean"] == 0
    assert ours["MIG", "mean"] < 0.1  # what the jitter has by chance, of an entropy of 2.6 nats


def test_a_collapsed_dimension_counts_for_sap_only_above_its_variance():
    _, attributes = draw(50, 1, 1)
    measured = Dependence.between(1e-7 * attributes, attributes)  # variance about 1e-14
    assert measured.fit[0, 0] == pytest.approx(1)
    assert measured.separable[0, 0] == 0


def test_a_constant_attribute_scores_nothing_and_disturbs_no_other():
    codes, attributes = draw(50, 4, 3)
    alone = values(codes, attributes[:, :2])
    attributes[:, 2] = 0.1
    ours = values(codes, attributes, (0, 1, 2))
    for metric in METRICS:
        if metric != "Modularity":
            assert ours[metric, "a2"] == 0, metric
    for metric in ("Interpretability", "SCC", "SAP", "MIG"):
        assert ours[metric, "a0"] == alone[metric, "a0"]
    for seed in range(5):  # no chance information of two jitters to divide by
        assert self_information(attributes, seed)[2] == 0


@pytest.mark.parametrize("n", [0, 1, 4])
def test_too_few_samples_are_an_error_that_says_how_many(n):
    codes, attributes = draw(n, 3, 2)
    with pytest.raises(ValueError, match=f"N = {n} samples .* expected N >= 5"):
        score(table(codes, attributes))


def test_five_samples_are_enough():
    rows = score(table(*draw(5, 3, 2), (0, 1)))
    assert all(np.isfinite(row.value) and row.n == 5 for row in rows)


def test_one_dimension_has_no_gap():
    codes, attributes = draw(20, 1, 2)
    ours = values(codes, attributes)
    assert all(np.isnan(ours[metric, "a0"]) for metric in ("SAP", "MIG"))
    assert all(np.isfinite(ours[m, "mean"]) for m in ("Interpretability", "SCC", "Modularity"))


def test_one_attribute_has_no_modularity():
    ours = values(*draw(20, 4, 1))
    assert np.isnan(ours["Modularity", "mean"])
    assert all(np.isfinite(ours[m, "mean"]) for m in ("Interpretability", "SCC", "SAP", "MIG"))


def test_an_attribute_without_a_dimension_has_no_fixed_score():
    codes, attributes = draw(20, 4, 2)
    ours = values(codes, attributes, (0, None))
    assert np.isfinite(ours["SCC_fixed", "a0"])
    assert np.isnan(ours["SCC_fixed", "a1"])
    assert np.isnan(ours["SCC_fixed", "mean"])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_an_error_that_names_its_column(bad):
    codes, attributes = draw(20, 4, 2)
    codes[3, 2] = bad
    with pytest.raises(ValueError, match="code column 2 is NaN or infinite in 1 of 20 rows"):
        score(table(codes, attributes))
    codes, attributes = draw(20, 4, 2)
    attributes[5:7, 1] = bad
    with pytest.raises(ValueError, match="attribute column a1 is NaN or infinite in 2 of 20 rows"):
        score(table(codes, attributes))


@pytest.mark.parametrize("dimension", [-1, 4])
def test_a_trained_dimension_outside_the_code_is_an_error(dimension):
    with pytest.raises(ValueError, match=rf"\[0, {dimension}\].* None or 0 to 3"):
        score(table(*draw(20, 4, 2), (0, dimension)))


def test_shapes_and_neighbours_that_do_not_fit_are_errors():
    codes, attributes = draw(20, 4, 2)
    for wrong in (codes[:10], codes[:, 0], codes[:, :0]):
        with pytest.raises(ValueError, match=r"expected \(N, D\) and \(N, K\)"):
            mutual_information(wrong, attributes)
    for neighbours in (0, 20):
        with pytest.raises(ValueError, match="expected 1 to N - 1 = 19"):
            mutual_information(codes, attributes, neighbours)


def test_single_precision_codes_score_like_double():
    codes, attributes = draw(40, 6, 2)
    codes, attributes = codes.astype(np.float32), attributes.astype(np.float32)
    same(values(codes, attributes), values(codes.astype(float), attributes.astype(float)), 0)


# The table -------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_tells_signal_from_noise(metric):
    """Every entry, also one added tomorrow, is finite, orders codes, and has its rows."""
    _, attributes = draw(60, 3, 3)
    noise, _ = draw(60, 3, 3, seed=7, signal=0)
    good = [r for r in score(table(attributes, attributes, (0, 1, 2))) if r.metric == metric]
    poor = [r for r in score(table(noise, attributes, (0, 1, 2))) if r.metric == metric]
    names = [row.attribute for row in good]
    assert names in (["a0", "a1", "a2", "mean"], ["mean"])
    assert good[-1].value > poor[-1].value
    if len(good) > 1:
        assert good[-1].value == pytest.approx(np.mean([row.value for row in good[:-1]]))
        assert [row.dimension for row in good] == [0, 1, 2, None]
    assert all(isinstance(row, Score) and row.n == 60 for row in good)


def test_information_is_computed_once_for_all_metrics(monkeypatch):
    shapes, compute = [], mutual_information

    def counted(codes, attributes, *args, **kwargs):
        shapes.append(np.shape(codes))
        return compute(codes, attributes, *args, **kwargs)

    monkeypatch.setattr(dependence, "mutual_information", counted)
    monkeypatch.setattr(information, "mutual_information", counted)
    score(table(*draw(20, 6, 2)))
    assert sorted(shapes) == [(20, 1), (20, 1), (20, 6)]  # the entropies, and the one matrix


# Arrays ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [score, estimate, leakage, dci], ids=lambda f: f.__name__)
def test_arrays_are_scored_as_a_table_is(function):
    codes, attributes = draw(20, 4, 2)
    options = {score: {}, leakage: {}, estimate: {"rounds": 3}, dci: {"rounds": 3}}[function]
    ours = function(codes, attributes, **options)
    named = pd.DataFrame(attributes, columns=["LVEDA", "RVEDA"])
    cases = tuple(f"row {n:02d}" for n in range(20))
    expected = function(
        LatentTable(cases, codes, attributes, ("LVEDA", "RVEDA"), (None, None)), **options
    )
    assert [row.value for row in ours] == pytest.approx([r.value for r in expected], nan_ok=True)
    found = function(torch.tensor(codes), named, **options)
    assert [row[:3] for row in found] == [
        (r.metric, r.attribute, pytest.approx(r.value, nan_ok=True)) for r in expected
    ]
    one = function(codes.tolist(), attributes[:, 0].tolist(), **options)
    assert {row.attribute for row in one} == {"attribute 0", "mean"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((9, 2)),), "attributes are missing; pass codes"),
        ((np.zeros((9, 2)), np.zeros(8)), r"codes \(9, 2\) and attributes \(8, 1\) do not fit"),
        ((np.zeros(9), np.zeros(9)), r"codes \(9,\) .* expected \(N, D\)"),
        (("codes.csv", "attributes.csv"), r"codes \(\) and attributes \(\) do not fit"),
        ((np.zeros((3, 2)), np.zeros(3)), "N = 3 samples are too few"),
        ((table(*draw(9, 2, 1)), np.zeros(9)), "a LatentTable has attributes already"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_in_words(arguments, message):
    with pytest.raises(ValueError, match=message):
        score(*arguments)


def test_trained_dimensions_of_arrays_are_scored():
    codes, attributes = draw(30, 3, 2)
    rows = {(r.metric, r.attribute): r for r in score(codes, attributes, dimensions=[0, 1])}
    assert rows["SCC_fixed", "attribute 1"].dimension == 1
