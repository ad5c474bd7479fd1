"""A kill between two files leaves no folder in which those of two calls stand beside each other."""

from functools import partial

import pytest
from conftest import check_one_call_at_a_time, trained

from cardiac_attrivae.evaluation.cross_domain import cross_domain_eval
from cardiac_attrivae.evaluation.generation import (
    generate,
    traverse,
    traverse_between,
    traverse_surface,
)
from cardiac_attrivae.report.page import write_report

pytestmark = pytest.mark.xdist_group("interrupted")  # one run for all


@pytest.fixture(scope="module")
def place(hasty_segmenters, acdc_store_all, tmp_path_factory):
    folder = tmp_path_factory.mktemp("interrupted")
    trained(acdc_store_all, folder / "run")
    evaluate = partial(cross_domain_eval, folder / "run", acdc_store_all, device="cpu")
    evaluate(folder / "once", rounds=4)
    evaluate(folder / "again", rounds=5)
    return folder


def calls(place, store):
    """Command -> two calls that differ in what they write."""
    run, at = f"{place}/run", {"store": store, "device": "cpu"}
    return {
        "cross-domain-eval": [
            partial(cross_domain_eval, run, store, rounds=rounds, device="cpu")
            for rounds in (4, 5)
        ],
        "report": [
            partial(write_report, f"{place}/{of}", title=of) for of in ("once", "again")
        ],
        "generate": [partial(generate, run, {"LVEDA": area}, **at) for area in (12, 14)],
        "traverse": [partial(traverse, run, steps=steps, **at) for steps in (2, 3)],
        "traverse --surface": [
            partial(traverse, run, steps=2, **at),
            partial(traverse_surface, run, names=["LVEDA", "RVEDA"], steps=2, **at),
        ],
        "traverse --from": [
            partial(traverse_surface, run, names=["LVEDA", "RVEDA"], steps=2, **at),
            partial(traverse_between, run, start="patient001", end="patient003", **at),
        ],
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("command", calls("", ""))
def test_before_each_file_there_are_those_of_one_call(
    place, acdc_store_all, tmp_path, monkeypatch, command
):
    check_one_call_at_a_time(*calls(place, acdc_store_all)[command], tmp_path / "out", monkeypatch)
