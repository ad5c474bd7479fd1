"""The numbers that the paper prints, and the names of its methods and data sets.

Source: Di Folco, Bercea & Schnabel (2023), arXiv 2307.12618, Table 1 and section 4.3. They are
scores of the test patients of ACDC (50) and M&Ms (136) and of sampled codes. Over five seeds their
standard deviation is below .01, that of Modularity .03.
"""

from __future__ import annotations

from itertools import product

from ..metrics.metric import MEAN, Score

SOURCE = "arXiv 2307.12618"
METHODS = {
    "beta_vae": "β-VAE",
    "soft_intro_vae": "Soft-IntroVAE",
    "attri_vae": "Attri-VAE",
    "attri_sivae": "Attri-SIVAE",
}
"""Methods by the name that pipelines give them."""
DATASETS = {"acdc": "ACDC", "mnms": "M&Ms"}
TABLE_1 = ("Interpretability", "SCC", "Modularity", "SAP")
"""Columns of Table 1."""


# Rows: method; columns: scores of ACDC, then of M&Ms, each trained and tested on its own.
_AT_HOME = {
    "beta_vae": (0.28, 0.54, 0.76, 0.12, 0.14, 0.49, 0.81, 0.07),
    "soft_intro_vae": (0.36, 0.65, 0.76, 0.04, 0.14, 0.54, 0.77, 0.01),
    "attri_vae": (0.57, 0.76, 0.83, 0.35, 0.20, 0.51, 0.73, 0.10),
    "attri_sivae": (0.53, 0.78, 0.80, 0.27, 0.27, 0.78, 0.79, 0.27),
}
# Interpretability of LV, MYO, RV. Means across domains are printed too, those at home in Table 1.
_SECTION_4_3 = {
    ("attri_vae", "acdc", "acdc"): (0.67, 0.31, 0.69),
    ("attri_sivae", "acdc", "acdc"): (0.68, 0.24, 0.69),
    ("attri_vae", "mnms", "mnms"): (0.17, 0.21, 0.22),
    ("attri_sivae", "mnms", "mnms"): (0.29, 0.20, 0.32),
    ("attri_vae", "mnms", "acdc"): (0.55, 0.10, 0.60, 0.42),
    ("attri_sivae", "mnms", "acdc"): (0.64, 0.33, 0.65, 0.54),
}

PUBLISHED: dict[tuple[str | None, str, str], dict[tuple[str, str], Score]] = {}
"""Method, training and test data set -> scores by metric and attribute: ``mean``, LV, MYO or RV."""


def _print(method: str, train: str, test: str, metric: str, attribute: str, value: float) -> None:
    here = PUBLISHED.setdefault((method, train, test), {})
    here[metric, attribute] = Score(metric, attribute, value)


_values: tuple[float, ...]
for _method, _values in _AT_HOME.items():
    for (_dataset, _metric), _value in zip(product(DATASETS, TABLE_1), _values, strict=True):
        _print(_method, _dataset, _dataset, _metric, MEAN, _value)
for _place, _values in _SECTION_4_3.items():
    for _attribute, _value in zip(("LV", "MYO", "RV", MEAN), _values, strict=False):
        _print(*_place, "Interpretability", _attribute, _value)
_print("attri_vae", "mnms", "acdc", "SSIM", MEAN, 0.79)
_print("attri_sivae", "mnms", "acdc", "SSIM", MEAN, 0.80)


def method_of(name: str) -> str | None:
    """Finds the paper's method that a pipeline's name starts with; None if there is none.

    Example:
        >>> method_of("attri_vae_fast"), method_of("mine")
        ('attri_vae', None)
    """
    return next((m for m in METHODS if name == m or name.startswith(f"{m}_")), None)


def method_label(name: str) -> str:
    """Names a method for people; names that are not of the paper stay as they are.

    Example:
        >>> method_label("attri_vae_fast"), method_label("mine")
        ('Attri-VAE fast', 'mine')
    """
    method = method_of(name)
    return name if method is None else METHODS[method] + name[len(method) :].replace("_", " ")


def dataset_label(name: str) -> str:
    """Names a data set for people; names of other data sets stay as they are.

    Example:
        >>> dataset_label("mnms"), dataset_label("mine")
        ('M&Ms', 'mine')
    """
    return DATASETS.get(name, name)
