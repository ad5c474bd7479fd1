"""Realism of a model: a network that tells slices apart, floor and ceilings, and the tables."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import trained

from cardiac_attrivae.data.store import SliceDataset
from cardiac_attrivae.evaluation import realism
from cardiac_attrivae.evaluation.realism import cross_validated, measure_realism
from cardiac_attrivae.metrics.realism import REALISM, told_apart
from cardiac_attrivae.report.page import write_report
from cardiac_attrivae.segmentation.judge import Segmenter
from cardiac_attrivae.segmentation.judge_training import build
from cardiac_attrivae.training.run import load_run


@pytest.mark.slow
def test_a_texture_that_differs_is_told_apart_and_the_same_one_is_not():
    random = torch.Generator().manual_seed(0)
    real, same, other = torch.rand(3, 20, 32, 32, generator=random)
    smooth = torch.nn.functional.avg_pool2d(other, 3, 1, 1)
    assert told_apart(*cross_validated(real, smooth)) > 0.95
    assert 0.2 < told_apart(*cross_validated(real, same)) < 0.8


def test_no_slice_is_scored_by_a_network_that_was_trained_on_it(monkeypatch):
    """Nor on the reconstruction of it: both lie in one fold."""
    seen = []

    def spy(real, drawn, seed):
        seen.append((set(real[:, 0, 0].tolist()), set(drawn[:, 0, 0].tolist())))
        return lambda images: images[:, :, 0, 0]

    monkeypatch.setattr(realism, "_trained", spy)
    slices = torch.arange(10.0)[:, None, None].expand(10, 4, 4)
    scores = cross_validated(slices, slices)
    assert all(np.array_equal(score, np.arange(10.0)) for score in scores)
    assert all(real == drawn and len(real) == 8 for real, drawn in seen)


@pytest.fixture(scope="module")
def table(acdc_store_all, tmp_path_factory):
    run = load_run(trained(acdc_store_all, tmp_path_factory.mktemp("runs") / "run"))
    data = SliceDataset.open(acdc_store_all).take(range(32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(realism, "STEPS", 2)
        known, target = (data.take(rows) for rows in np.arange(len(data)).reshape(2, -1))
        return measure_realism(run, known, target, Segmenter(build(0), {}, 0))


@pytest.mark.slow
def test_every_score_is_there_beside_floor_and_ceilings(table):
    assert set(table["metric"]) == REALISM.keys()
    assert {"reconstructions", "real", "blur", "noise"} <= set(table["drawn"])
    assert np.isfinite(table["value"]).all()
    told = table[table["metric"] == "Told_apart"]
    assert ((told["low"] <= told["value"]) & (told["value"] <= told["high"])).all()
    assert table["features"].nunique() == 1


@pytest.mark.slow
def test_the_table_of_a_report_shows_what_was_measured(table, tmp_path):
    about = {"model": "run", "method": "mine", "seed": 0, "train_dataset": "acdc"}
    about |= {"test_dataset": "acdc", "split": "test"}
    whole = pd.DataFrame(about, index=table.index).join(table)
    row = about | {"metric": "SCC", "attribute": "mean", "value": 0.9, "n": 8}
    pd.DataFrame([row]).to_csv(tmp_path / "metrics.csv", index=False)
    whole.to_csv(tmp_path / "realism.csv", index=False)
    (tmp_path / "evaluation.json").write_text("{}")
    page = write_report([tmp_path], tmp_path / "report").read_text(encoding="utf-8")
    assert "Are drawn hearts told from real ones?" in page
    for metric in REALISM.values():
        assert metric.label in page
        assert metric.meaning in page
