"""The paper's numbers as they are printed, and the names they go by."""

import pytest

from cardiac_attrivae.report.published import PUBLISHED, dataset_label, method_label, method_of


def find(*key):
    return PUBLISHED[key[:3]][key[3:]].value


def test_every_number_of_the_paper_is_there():
    count = sum(map(len, PUBLISHED.values()))
    assert count == 4 * 4 * 2 + 4 * 3 + 2 * 4 + 2  # Table 1, section 4.3, SSIM


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (("beta_vae", "acdc", "acdc", "Interpretability", "mean"), 0.28),
        (("soft_intro_vae", "mnms", "mnms", "Modularity", "mean"), 0.77),
        (("attri_vae", "mnms", "mnms", "SAP", "mean"), 0.10),
        (("attri_sivae", "acdc", "acdc", "SCC", "mean"), 0.78),
        (("attri_sivae", "mnms", "acdc", "Interpretability", "MYO"), 0.33),
        (("attri_vae", "mnms", "acdc", "Interpretability", "mean"), 0.42),
    ],
)
def test_numbers_are_those_of_the_paper(key, value):
    assert find(*key) == value


@pytest.mark.parametrize("place", [("acdc", "acdc"), ("mnms", "mnms"), ("mnms", "acdc")])
@pytest.mark.parametrize("method", ["attri_vae", "attri_sivae"])
def test_means_are_those_of_their_parts(method, place):
    parts = [find(method, *place, "Interpretability", name) for name in ("LV", "MYO", "RV")]
    mean = find(method, *place, "Interpretability", "mean")
    assert sum(parts) / 3 == pytest.approx(mean, abs=0.015)  # the paper's rounding


@pytest.mark.parametrize(
    ("name", "method", "label"),
    [
        ("attri_vae_fast", "attri_vae", "Attri-VAE fast"),
        ("attri_sivae_acdc", "attri_sivae", "Attri-SIVAE acdc"),
        ("beta_vae", "beta_vae", "β-VAE"),
        ("attri_vaes", None, "attri_vaes"),
        ("mine", None, "mine"),
    ],
)
def test_a_pipeline_belongs_to_the_method_its_name_starts_with(name, method, label):
    assert method_of(name) == method
    assert method_label(name) == label


def test_data_sets_have_their_printed_names():
    assert [dataset_label(name) for name in ("acdc", "mnms", "own")] == ["ACDC", "M&Ms", "own"]
