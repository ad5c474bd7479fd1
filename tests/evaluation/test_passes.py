"""What one pass of a network over slices keeps."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import trained

from cardiac_attrivae.data.store import SliceDataset
from cardiac_attrivae.evaluation.passes import codes_of, look
from cardiac_attrivae.metrics.images import FIDELITY
from cardiac_attrivae.training.run import encode, load_run, reconstruct

NAMES = ("LVEDA", "RVEDV")


@pytest.fixture(scope="module")
def run(acdc_store_all, tmp_path_factory):
    return load_run(trained(acdc_store_all, tmp_path_factory.mktemp("runs") / "mine"))


@pytest.fixture(scope="module")
def slices(acdc_store_all):
    return SliceDataset.open(acdc_store_all)


def test_a_pass_keeps_codes_attributes_and_scores_of_every_slice(run, slices):
    kept = look(run, slices, NAMES, torch.device("cpu"))
    assert kept.table.cases == tuple(slices.cases["case"])
    assert kept.table.dimensions == (0, None)
    np.testing.assert_array_equal(kept.table.codes, encode(run.network, slices.images)[0])
    np.testing.assert_array_equal(kept.table.attributes, slices.measured(NAMES))
    assert {name: len(values) for name, values in kept.fidelity.items()} == dict.fromkeys(
        FIDELITY, len(slices)
    )
    decoded, inside = reconstruct(run.network, slices.images).numpy(), slices.labels.numpy() > 0
    ssim = FIDELITY["SSIM_in_mask"](slices.images.numpy(), decoded, inside)
    np.testing.assert_array_equal(kept.fidelity["SSIM_in_mask"], ssim)


def test_reconstructions_are_kept_in_the_order_asked_for(run, slices):
    assert len(slices) > 66  # rows of several batches
    rows = [65, 3, 40, 0]
    kept = look(run, slices, NAMES, torch.device("cpu"), shown=rows)
    decoded = reconstruct(run.network, slices.images).numpy()
    np.testing.assert_allclose(kept.shown, decoded[rows], atol=1e-6)
    assert look(run, slices, NAMES, torch.device("cpu")).shown.shape[0] == 0


def test_codes_alone_are_those_of_the_whole_pass(run, slices):
    whole, alone = (f(run, slices, NAMES, torch.device("cpu")) for f in (look, codes_of))
    np.testing.assert_array_equal(whole.table.codes, alone.codes)
    assert whole.table.cases == alone.cases


def test_sampled_codes_lie_around_the_means_and_are_the_same_each_time(run, slices):
    sampled = replace(run, pipeline=replace(run.pipeline, codes="sampled"))
    runs = (run, sampled, sampled)
    mean, first, again = (codes_of(r, slices, NAMES, torch.device("cpu")).codes for r in runs)
    _, logvar = encode(run.network, slices.images)
    np.testing.assert_array_equal(first, again)
    noise = (first - mean) / np.exp(logvar / 2)
    assert abs(noise.mean()) < 0.1
    assert noise.std() == pytest.approx(1, abs=0.1)


def test_a_table_with_some_attributes_keeps_their_columns(run, slices):
    table = codes_of(run, slices, NAMES, torch.device("cpu"))
    other = table.select(["RVEDV"])
    assert (other.names, other.dimensions) == (("RVEDV",), (None,))
    np.testing.assert_array_equal(other.attributes[:, 0], table.attributes[:, 1])
