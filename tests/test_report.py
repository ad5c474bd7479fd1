"""The tables are means over seeds of what metrics.csv holds, in the layout of the paper."""

import pandas as pd

from cardiac_attrivae.report import markdown, table


def metrics(**scores):
    """Two seeds on two data sets; each score is (home of seed 0, home of seed 1, away)."""
    rows = []
    for metric, (first, second, away) in scores.items():
        for seed, home in enumerate((first, second)):
            for dataset, value in (("acdc", home), ("mnms", away)):
                for attribute in ("LVEDA", "mean"):
                    rows.append(
                        (f"run{seed}", "attri_vae", seed, "acdc", dataset, "test", metric,
                         attribute, value, 50)
                    )  # fmt: skip
    columns = ["model", "method", "seed", "train_dataset", "test_dataset", "split", "metric"]
    return pd.DataFrame(rows, columns=[*columns, "attribute", "value", "n"])


def test_a_cell_is_the_mean_and_spread_over_seeds_at_home_and_away():
    text = markdown(metrics(Interpretability=(0.5, 0.7, 0.2), SAP=(0.3, 0.3, 0.1)))
    row = next(line for line in text.splitlines() if line.startswith("| attri_vae"))
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert cells[:3] == ["attri_vae", "acdc", "0.60 +- 0.14 / 0.20 +- 0.00"]
    assert cells[3:5] == ["- / -", "- / -"]  # no SCC, no Modularity was measured
    assert "acdc (50 test patients), mnms (50 test patients)" in text


def test_too_few_patients_are_told_of():
    few = metrics(Interpretability=(0.5, 0.7, 0.2)).assign(n=2)
    assert "Too few patients for scores, which need 5: acdc (2), mnms (2)." in markdown(few)


def test_columns_of_a_table_are_aligned():
    lines = table(["a", "long head"], [["long cell", "b"]]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1] == "| --------- | --------- |"
