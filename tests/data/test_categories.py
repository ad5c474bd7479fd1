"""Categories of cases.csv reach the batches with the rows that they belong to."""

import numpy as np
import pandas as pd
import pytest
import torch

from cardiac_attrivae.data.categories import MOST, categories_of, one_hot
from cardiac_attrivae.data.loader import DeviceLoader
from cardiac_attrivae.data.store import SliceDataset
from cardiac_attrivae.schema import DataError, Keys

CASES = pd.DataFrame({"case": list("abcdef"), "pathology": ["NOR", "DCM", "", " DCM", None, "HCM"]})


def test_a_row_has_one_category_and_unknown_ones_have_none():
    known = categories_of(CASES, "pathology")
    assert known == ("DCM", "HCM", "NOR")
    assert one_hot(CASES, "pathology", known).argmax(1)[[0, 1, 3, 5]].tolist() == [2, 0, 0, 1]
    assert one_hot(CASES, "pathology", known).sum(1).tolist() == [1, 1, 0, 1, 0, 1]
    assert not one_hot(CASES, "pathology", ["ARV"]).any(), "a category that nobody has"
    assert not one_hot(CASES, "vendor", known).any(), "a store without the column"


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        ("vendor", "no column 'vendor'; expected one of case, pathology, with --set"),
        ("patholgy", "no column 'patholgy', did you mean 'pathology'"),
        ("same", r"has 1 category among the training patients \(x\); expected 2 to 32: give anoth"),
        ("number", "40 categories"),
        ("blank", "all are blank"),
    ],
)
def test_a_column_that_holds_no_categories_is_refused(column, reason):
    cases = pd.DataFrame({"case": range(MOST + 8), "pathology": "NOR"})
    wide = cases.assign(same="x", number=cases["case"] / 7, blank="")
    with pytest.raises(DataError, match=reason):
        categories_of(wide if column in wide else cases, column)


@pytest.mark.parametrize("resident", [True, False])
def test_batches_hold_the_category_of_each_row(resident):
    fields = np.zeros((len(CASES), 1, 4, 4), np.float32)
    dataset = SliceDataset(fields, fields.astype(np.uint8), CASES, {}, None)
    told = one_hot(CASES, "pathology", categories_of(CASES, "pathology"))
    loader = DeviceLoader(
        dataset, np.zeros((len(CASES), 1)), 2, generator=torch.Generator().manual_seed(0),
        resident=resident, more={Keys.CONDITION: told},
    )  # fmt: skip
    for batch in loader:
        assert torch.equal(batch[Keys.CONDITION], torch.from_numpy(told)[batch[Keys.ROW]])
