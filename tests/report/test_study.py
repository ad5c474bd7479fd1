"""Pictures of a search show its trials where they were, and the range that was searched."""

import pandas as pd
import pytest

from cardiac_attrivae.report import study
from cardiac_attrivae.report.study import draw_history, draw_values

SPACE = {
    "optimiser.lr": (1e-4, 1e-2, True),
    "network.arguments.latent_size": (8, 64, False),
    "network.arguments.init": ["he", "published"],
    "objective.beta": (1.0, 3.0, True),
}
TRIALS = pd.DataFrame(
    {
        "number": [0, 2, 3],
        "score": [0.7, 0.8, 0.75],
        "optimiser.lr": [2e-4, 3e-4, 4e-4],
        "network.arguments.latent_size": [8, 20, 64],
        "network.arguments.init": ["published", "he", "he"],
        "objective.beta": [1.5, 2.0, 2.5],
    }
)


@pytest.fixture
def drawn(monkeypatch):
    """Figures instead of files."""
    figures = []
    monkeypatch.setattr(study, "save", lambda figure, path: figures.append(figure))
    return figures


def test_a_panel_spans_what_was_searched_and_marks_the_best(drawn):
    draw_values(TRIALS, SPACE, "SCC", "study.png")
    panels = {axis.get_xlabel(): axis for axis in drawn[0].axes if axis.get_visible()}
    assert list(panels) == list(SPACE)
    low, high = panels["optimiser.lr"].get_xlim()
    assert 5e-5 < low < 1e-4
    assert 1e-2 < high < 2e-2
    for key, axis in panels.items():
        dots, best = axis.lines
        assert best.get_ydata() == [0.8]
        expected = [SPACE[key].index(v) for v in TRIALS[key]] if key.endswith("init") else [
            *TRIALS[key]
        ]  # fmt: skip
        assert list(dots.get_xdata()) == expected


def test_labels_of_ticks_do_not_lie_on_each_other(drawn):
    draw_values(TRIALS, SPACE, "SCC", "study.png")
    figure = drawn[0]
    figure.draw_without_rendering()
    for axis in (axis for axis in figure.axes if axis.get_visible()):
        low, high = axis.get_xlim()
        boxes = [
            label.get_window_extent()
            for tick, label in zip(axis.get_xticks(), axis.get_xticklabels(), strict=True)
            if low <= tick <= high and label.get_text()
        ]
        assert len(boxes) >= 2, axis.get_xlabel()
        assert all(a.x1 < b.x0 for a, b in zip(boxes, boxes[1:], strict=False)), axis.get_xlabel()


def test_the_history_holds_the_best_until_each_trial_by_number(drawn):
    draw_history(TRIALS, "SCC", "history.png")
    line, dots, _ = drawn[0].axes[0].lines
    assert list(line.get_xdata()) == list(dots.get_xdata()) == [0, 2, 3]
    assert list(line.get_ydata()) == [0.7, 0.8, 0.8]
