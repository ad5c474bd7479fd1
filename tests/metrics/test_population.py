"""A new code is as far from the training codes as a training code that was left out."""

import numpy as np
import pytest

from cardiac_attrivae.metrics.population import FEWEST, Population, population_facts
from cardiac_attrivae.training.facts import check_facts

RECIPE = {"size": 64, "spacing": 1.3, "percentiles": [1, 99]}
FACTS = {"seed": 0, "train_dataset": "acdc", "recipe": RECIPE}


def drawn(count, dimensions=32, seed=0):
    """Correlated codes of different scales."""
    random = np.random.default_rng(seed)
    mixed = np.random.default_rng(9).normal(size=(dimensions, dimensions)) / 4
    return random.normal(size=(count, dimensions)) @ mixed * np.logspace(-2, 2, dimensions) + 3


def test_percentiles_hold_for_new_patients_where_codes_are_many_and_patients_few():
    """100 patients in 32 dimensions: distances of the fitted patients themselves would be short."""
    known = Population.fit(drawn(100))
    new = known.percentile(known.distance(drawn(3000, seed=1)))
    assert 0.42 < np.mean(new) / 100 < 0.58
    assert np.mean(new > 95) < 0.12
    own = known.percentile(known.distance(drawn(100)))
    assert np.mean(own) < np.mean(new)


def test_distances_do_not_depend_on_units():
    codes, scale = drawn(60), np.logspace(2, -2, 32)
    one, other = Population.fit(codes), Population.fit(codes * scale)
    np.testing.assert_allclose(one.distance(codes), other.distance(codes * scale), rtol=1e-6)
    assert one.distance(codes.mean(axis=0)[None])[0] == pytest.approx(0, abs=1e-9)


def test_a_dimension_that_never_changes_harms_nothing():
    codes = drawn(40, 4)
    codes[:, 2] = 1.5
    assert np.isfinite(Population.fit(codes).distance(codes)).all()


def test_facts_give_the_population_back_and_tell_of_nobody():
    codes = drawn(50, 5)
    facts = population_facts(codes)
    told = {"code_mean": codes.mean(0).tolist(), "code_deviation": codes.std(0).tolist()}
    check_facts(
        {
            **FACTS,
            **told,
            "population": facts,
            "recipe": {**FACTS["recipe"], "percentiles": [1, 99]},
        },
        5,
    )
    known = Population.of_facts({**told, "population": facts})
    np.testing.assert_allclose(known.distance(codes), Population.fit(codes).distance(codes), 1e-3)
    assert facts["points"] == sorted(facts["points"])  # not in the order of the patients
    mixed = np.random.default_rng(0).permutation(codes)
    np.testing.assert_allclose(population_facts(mixed)["points"], facts["points"], atol=2e-3)
    assert Population.of_facts(told) is None
    assert population_facts(codes[: FEWEST - 1]) == {}


@pytest.mark.parametrize(
    "change",
    [{"distances": [0.0]}, {"axes": [[1.0] * 5]}, {"precision": [["$x"] * 5] * 5}, {"more": 1}],
)
def test_a_crafted_population_is_refused(change):
    codes = drawn(50, 5)
    told = {"code_mean": codes.mean(0).tolist(), "code_deviation": codes.std(0).tolist()}
    with pytest.raises(ValueError, match="population is"):
        check_facts({**FACTS, **told, "population": population_facts(codes) | change}, 5)


def test_words_follow_the_percentile():
    assert [Population.words(p).partition(":")[0] for p in (50, 97, 100)] == [
        "among the training patients", "unusual", "unlike every training patient",
    ]  # fmt: skip
