"""Facts about drawn training: every value is there, and every run can be told apart."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from cardiac_attrivae.report import curves
from cardiac_attrivae.report.style import DPI
from report.test_charts import legend, seen_looks
from report.test_slices import blank, keep_figures, pixels

SCORES = ("Interpretability", "SCC", "Modularity", "SAP", "MIG", "SSIM", "SSIM_in_mask")


@pytest.fixture
def drawn(monkeypatch):
    return keep_figures(monkeypatch, curves)


def history(epochs):
    t = np.arange(1, epochs + 1)
    columns = {"epoch": t, "seconds": 0.1, "loss": 1000 / t**2, "kl": t * 1.0, "note": "x"}
    for k, score in enumerate((*SCORES, "PSNR")):
        columns[f"val_{score}"] = np.where(t % 5 == 1, k / 8, np.nan)
    return pd.DataFrame(columns)


@pytest.mark.parametrize(("epochs", "panels"), [(1, 4), (40, 3)])  # losses 1000 and 1; 2 and 20
def test_training_curves(tmp_path, epochs, panels):
    path = tmp_path / "c.png"
    curves.training_curves(history(epochs), path)
    assert blank(path)
    assert pixels(path).shape[:2] == (int((2.8 * panels + 0.3) * DPI), 8 * DPI)


def test_training_curves_bridge_empty_cells(drawn):
    curves.training_curves(history(40), "c.png")
    losses, scores, decibels = drawn[0].axes
    assert losses.get_yscale() == "log"
    assert scores.get_yscale() == "linear"
    (line,) = decibels.lines
    assert line.get_xdata().tolist() == list(range(1, 41, 5))
    assert np.isfinite(line.get_ydata()).all()


def test_training_curves_need_a_curve(tmp_path):
    with pytest.raises(ValueError, match="no curve among the columns epoch, seconds"):
        curves.training_curves(history(3)[["epoch", "seconds"]], tmp_path / "c.png")


@pytest.mark.parametrize(
    ("column", "metric"),
    [
        ("val_SSIM", "SSIM"),
        ("val/SSIM_in_mask", "SSIM_in_mask"),
        ("val SCC LVEDA", "SCC"),
        ("PSNR", "PSNR"),
        ("attribute", ""),
        ("val_MSE", "MSE"),
    ],
)
def test_a_column_knows_its_metric(column, metric):
    assert curves._metric(column) == metric


def test_every_run_can_be_told_from_the_others(drawn):
    names = ("beta_vae · acdc", "attri_vae · acdc", "beta_vae · mnms")
    runs = dict(zip(names, (history(5), history(8)[["epoch", "loss"]], history(7)), strict=True))
    curves.compare_curves(runs, ("loss", "val_SSIM", "nowhere"), "c.png")
    loss, ssim = drawn[0].axes
    assert [axis.get_ylabel() for axis in (loss, ssim)] == ["loss", "SSIM, validation"]
    assert [len(line.get_xdata()) for line in loss.lines] == [5, 8, 7]
    assert [line.get_label() for line in loss.lines] == list(names)
    assert [line.get_label() for line in ssim.lines] == [names[0], names[2]]  # one has no SSIM
    looks = [(line.get_color(), line.get_marker(), line.get_linestyle()) for line in loss.lines]
    assert len(set(looks)) == 3
    assert looks[0][:2] == looks[2][:2] != looks[1][:2]  # of one method
    assert legend(drawn[0]) == ["Attri-VAE, ACDC", "β-VAE, ACDC", "β-VAE, M&Ms"]


def test_losses_of_different_size_have_axes_of_their_own(drawn):
    runs = {"a · x": history(5)[["loss"]], "b · x": history(5)[["loss"]] / 1e4}
    curves.compare_curves(runs, ("loss",), "c.png")
    assert [[line.get_label() for line in axis.lines] for axis in drawn[0].axes] == [
        ["a · x"], ["b · x"],
    ]  # fmt: skip
    terms = pd.DataFrame({"train_reconstruction": [900.0, 700], "train_kl": [30.0, 40],
                          "train_attribute": [0.2, 0.1]})  # fmt: skip
    curves.training_curves(terms, "c.png")
    assert [[line.get_label() for line in axis.lines] for axis in drawn[1].axes] == [
        ["train_reconstruction", "train_kl"], ["train_attribute"],
    ]  # fmt: skip


def test_no_score_is_among_the_loss_terms(drawn):
    columns = {"train_loss": [3.0, 2], "val_Sharpness": [0.1, 0.2], "val_MSE": [0.02, 0.01],
               "val_PSNR": [20.0, 21], "val_SSIM": [0.5, 0.6]}  # fmt: skip
    curves.training_curves(pd.DataFrame(columns), "c.png")
    assert {axis.get_ylabel(): [line.get_label() for line in axis.lines]
            for axis in drawn[0].axes} == {
        "loss terms": ["train_loss"], "scores": ["val_SSIM"], "Sharpness": ["val_Sharpness"],
        "MSE": ["val_MSE"], "PSNR (dB)": ["val_PSNR"],
    }  # fmt: skip


def test_compared_curves_are_not_clipped(tmp_path):
    curves.compare_curves(
        {f"m{k} · x": history(4) for k in range(9)}, ("loss",), tmp_path / "c.png"
    )
    assert blank(tmp_path / "c.png")


def test_compared_curves_need_a_column():
    with pytest.raises(ValueError, match="none of the 1 runs has a curve lost, found"):
        curves.compare_curves({"a": history(3)}, ("lost", "found"), "c.png")


def test_methods_look_the_same_in_whatever_order_their_runs_come(drawn):
    for names in (("beta_vae", "attri_vae"), ("attri_vae", "beta_vae")):
        curves.compare_curves({name: history(4) for name in names}, ("loss",), "c.png")
    assert seen_looks(drawn[0]) == seen_looks(drawn[1])
    colours = [{line.get_label(): line.get_color() for line in f.axes[0].lines} for f in drawn]
    assert colours[0] == colours[1]


def test_no_letter_is_smaller_than_seven_points(drawn):
    curves.training_curves(history(4), "x.png")
    curves.compare_curves({"a": history(4)}, ("loss",), "x.png")
    sizes = [text.get_fontsize() for figure in drawn for text in figure.findobj(Text)]
    assert min(sizes) >= 7
