"""Tables and page show what metrics.csv holds, are whole in themselves, and leave no gap."""

import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cardiac_attrivae.metrics.catalogue import EVERY
from cardiac_attrivae.metrics.pooling import summarise
from cardiac_attrivae.report.page import write_report
from cardiac_attrivae.report.render import escape_tex
from cardiac_attrivae.report.scores import number
from cardiac_attrivae.report.tables import grid, means, table_1
from cardiac_attrivae.report.text_tables import latex, markdown, table
from cardiac_attrivae.schema import DataError

METHODS = ("attri_vae_unguided", "attri_sivae_unguided")
NAMES = ("LVEDA", "MEDA", "RVEDA")
HOSTILE = "<script>alert('&')</script>"
LEVELS = {
    "Interpretability": 0.9, "SCC": 0.93, "Modularity": 0.82, "SAP": 0.45,
    "Interpretability_fixed": 0.88, "R2_fixed": 0.8, "bias_fixed": 0.4, "MAE_fixed": 1.3,
    "lower_limit_fixed": -2.9, "upper_limit_fixed": 3.8, "Control": 0.95, "Control_slope": 0.83,
    "Control_monotone": 0.97, "Control_error": 1.9, "Control_leak": 0.21, "Leakage": 0.6,
    "SSIM": 0.74, "SSIM_in_mask": 0.44, "Sharpness": 0.14, "PSNR": 21.2, "MSE": 0.0081,
    "Dice": 0.86,
}  # fmt: skip
IMAGES = ("SSIM", "SSIM_in_mask", "Sharpness", "PSNR", "MSE")
IN_UNITS = ("bias_fixed", "MAE_fixed", "lower_limit_fixed", "upper_limit_fixed", "Control_error")


def rows_of(method, seed, trained, tested, random, metrics, sure):
    about = {
        "model": f"{method}_{trained}_{seed}", "method": method, "seed": seed,
        "train_dataset": trained, "test_dataset": tested, "split": "test",
    }  # fmt: skip
    for metric in metrics:
        names = () if metric in (*IMAGES, "Modularity") else NAMES
        names = ("LV", "MYO", "RV") if metric == "Dice" else names
        for name in (*names, "mean"):
            value = LEVELS[metric] * random.uniform(0.7, 1.05)
            chance = metric in ("Interpretability", "SCC", "Modularity", "SAP")
            yield about | {
                "metric": metric, "attribute": name, "value": value, "n": 50, "patients": 50,
                "unit": "cm2" if metric in IN_UNITS and name != "mean" else "",
                "low": value - 0.06 if sure else np.nan, "high": value + 0.05 if sure else np.nan,
                "null": 0.1 if sure and chance else np.nan,
                "null_95": 0.2 if sure and chance else np.nan,
                "corrected": (value - 0.1) / 0.9 if sure and chance else np.nan,
            }  # fmt: skip


def write_evaluation(
    folder,
    methods=METHODS,
    datasets=("acdc", "mnms"),
    seeds=2,
    metrics=tuple(LEVELS),
    sure=True,
    notes=("mnms has 2 test patients: no scores",),
):
    """A small evaluation with random but plausible numbers, as cross-domain-eval writes them."""
    random = np.random.default_rng(0)
    (folder / "figures").mkdir(parents=True)
    rows = [
        row
        for method in methods
        for trained in datasets
        for seed in range(seeds)
        for tested in datasets
        for row in rows_of(method, seed, trained, tested, random, metrics, sure)
    ]
    floor = {"SSIM": 0.64, "SSIM_in_mask": 0.0, "Sharpness": 0.0, "PSNR": 12.3, "MSE": 0.061}
    rows += [
        {"model": "black image", "method": "black image", "train_dataset": "", "split": "test",
         "test_dataset": dataset, "metric": metric, "attribute": "mean", "value": value, "n": 50}
        for dataset in datasets for metric, value in floor.items() if metric in metrics
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    table.to_csv(folder / "metrics.csv", index=False)

    place = [(a, b) for a in datasets for b in datasets]
    if len(methods) > 1:
        pd.DataFrame(
            {"train_dataset": a, "test_dataset": b, "split": "test", "metric": metric,
             "attribute": "mean", "first": methods[0], "second": methods[1], "first_value": 0.81,
             "second_value": 0.85, "difference": -0.04, "low": -0.07, "high": -0.01, "p": 0.004,
             "p_holm": 0.012, "patients": 50}
            for a, b in place for metric in ("Interpretability", "SSIM_in_mask")
        ).to_csv(folder / "comparisons.csv", index=False)  # fmt: skip
    if seeds > 1:
        pd.DataFrame(
            {"method": method, "train_dataset": a, "test_dataset": b, "split": "test",
             "metric": "Interpretability", "attribute": "mean", "value": 0.83, "seeds": 0.011,
             "patients": 0.034, "low": 0.7654, "high": 0.8765, "models": seeds}
            for method in methods for a, b in place
        ).to_csv(folder / "spread.csv", index=False)  # fmt: skip

    models = {
        f"{method}_{dataset}_{seed}": {
            "method": method, "seed": seed, "train_dataset": dataset,
            "pipeline": {"method": method, "schedule": {"epochs": 24}},
            "summary": {"train_cases": 85, "wall_time_s": 150 + 10 * seed, "parameters": 419713,
                        "device": "cpu, 1 threads", "epochs": 24},
        }
        for method in methods for dataset in datasets for seed in range(seeds)
    }  # fmt: skip
    figures = []
    random = np.random.default_rng(1)
    for kind in ("reconstructions", "traversals"):
        picture = random.integers(0, 255, (60, 160), dtype=np.uint8)
        Image.fromarray(picture).save(folder / "figures" / f"{kind}.png")
        figures.append(
            {"file": f"figures/{kind}.png", "kind": kind, "train_dataset": datasets[0],
             "model": next(iter(models)) if kind == "traversals" else "", "test_dataset": ""}
        )  # fmt: skip
    about = {
        "models": models,
        "datasets": {
            dataset: {
                "title": f"The {dataset} challenge", "citation": "A. Author, 2018.",
                "split": "test", "patients": 50, "content_hash": 8 * dataset,
                "splits": {"train": 85, "val": 15, "test": 50}, "skipped": 3,
                "segmenter": {"Dice": {"LV": 0.95, "MYO": 0.88, "RV": 0.9}, "patients": 15},
            }
            for dataset in datasets
        },
        "rounds": 1000, "versions": {"torch": "2.13.0"}, "seconds": 123.4, "notes": list(notes),
        "figures": figures,
    }  # fmt: skip
    (folder / "evaluation.json").write_text(json.dumps(about))
    return folder


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


class Page(HTMLParser):
    """The tree of a page: what is open, every tag with its attributes, and the text."""

    EMPTY = ("meta", "br", "img")

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.words = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def page_of(evaluations, output, **options):
    return Page(write_report(evaluations, output, **options).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    return write_evaluation(tmp_path_factory.mktemp("reported") / "evaluation")


@pytest.fixture(scope="module")
def page(evaluation, tmp_path_factory):
    output = tmp_path_factory.mktemp("reported") / "report"
    return page_of([evaluation], output), output


# Page --------------------------------------------------------------------------------------------


def test_the_page_is_whole_in_itself(page):
    found, _ = page
    assert not found.open  # every tag is closed, in order
    assert not found.all("script")
    assert not found.all("link")
    sources = [image["src"] for image in found.all("img")]
    assert len(sources) == 2
    assert all(source.startswith("data:image/webp;base64,") for source in sources)
    inside = {attrs["id"] for _, attrs in found.tags if "id" in attrs}
    links = [attrs["href"] for attrs in found.all("a")]
    assert links
    assert {link.removeprefix("#") for link in links} <= inside
    assert all("url(" not in data for data in found.words)


def test_headings_are_in_order_and_pictures_are_told_of(page):
    found, _ = page
    levels = [int(tag[1]) for tag, _ in found.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(levels, levels[1:], strict=False))
    assert all(image["alt"] for image in found.all("img"))
    regions = [attrs for _, attrs in found.tags if attrs.get("role") == "region"]
    assert all(attrs["aria-label"] and attrs["tabindex"] == "0" for attrs in regions)


def test_every_score_on_the_page_is_the_mean_of_metrics_csv(evaluation, page):
    found, _ = page
    metrics = pd.read_csv(evaluation / "metrics.csv")
    text = found.text
    for metric, attribute in (("Interpretability", "mean"), ("SCC", "mean"), ("SAP", "mean"),
                              ("Interpretability", "LVEDA"), ("Interpretability_fixed", "MEDA"),
                              ("Control", "RVEDA"), ("Dice", "MYO"), ("SSIM_in_mask", "mean"),
                              ("R2_fixed", "LVEDA")):  # fmt: skip
        rows = metrics[(metrics["metric"] == metric) & (metrics["attribute"] == attribute)]
        rows = rows[rows["model"] != "black image"]
        for _, group in rows.groupby(["method", "train_dataset", "test_dataset"]):
            value, spread = group["value"].mean(), group["value"].std(ddof=1)
            assert f"{number(value)} ± {number(spread)}" in text
    in_units = metrics[(metrics["metric"] == "MAE_fixed") & (metrics["attribute"] == "RVEDA")]
    for _, group in in_units.groupby(["method", "train_dataset", "test_dataset"]):
        assert f"{group['value'].mean():.2f} ± " in text
    assert "[.77, .88]" in text  # of spread.csv: the interval of the mean over seeds
    assert "p = .012" in text.replace("\xa0", " ")


def test_the_page_shows_what_it_was_made_of(page):
    text = page[0].text
    for word in ("Attri-VAE unguided", "Attri-SIVAE unguided", "419,713", "cpu, 1 threads", "2.6",
                 "mnmsmnmsmnms", "torch", "2.13.0", "2 test patients", "epochs: 24",
                 "The acdc challenge", "LV .95", "arXiv 2307.12618"):  # fmt: skip
        assert word in text.replace("\xa0", " ")
    assert "black image .64 .00 .00 12.3 .0610" in text


def test_hostile_names_stay_text(tmp_path):
    random = write_evaluation(tmp_path / "x", (HOSTILE, "b_&_c"), (HOSTILE,), notes=[HOSTILE])
    page = page_of([random], tmp_path / "out", title=HOSTILE)
    assert not page.open
    assert not page.all("script")
    assert HOSTILE in page.text
    raw = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "<script" not in raw
    assert html.escape(HOSTILE, quote=False).split("(")[0] in raw
    tex = (tmp_path / "out" / "table.tex").read_text(encoding="utf-8")
    assert r"b\_\&\_c" in tex


def test_synthetic_hearts_are_called_so_before_any_number(tmp_path):
    folder = write_evaluation(tmp_path / "x", ("attri_vae",), ("acdc",))
    assert "synthetic" not in page_of([folder], tmp_path / "real").text
    about = json.loads((folder / "evaluation.json").read_text())
    about["datasets"]["acdc"]["synthetic"] = True
    (folder / "evaluation.json").write_text(json.dumps(about))
    text = page_of([folder], tmp_path / "phantoms").text
    assert text.index("ACDC here are synthetic hearts.") < text.index("Findings")


def test_published_numbers_are_never_beside_phantoms(tmp_path):
    folder = write_evaluation(tmp_path / "x", ("attri_vae",), ("acdc", "mnms"))
    about = json.loads((folder / "evaluation.json").read_text())
    about["datasets"]["mnms"]["synthetic"] = True
    (folder / "evaluation.json").write_text(json.dumps(about))
    page = page_of([folder], tmp_path / "out")
    rows = [attrs for attrs in page.all("tr") if attrs.get("class") == "published"]
    assert 0 < len(rows) < 5  # of ACDC alone
    scores = pd.read_csv(tmp_path / "out" / "scores.csv")
    printed = scores[scores["source"] != "ours"]
    assert set(printed["train_dataset"]) == set(printed["test_dataset"]) == {"acdc"}
    about["datasets"]["acdc"]["synthetic"] = True
    (folder / "evaluation.json").write_text(json.dumps(about))
    text = page_of([folder], tmp_path / "again").text
    assert "Published numbers are in arXiv 2307.12618, Table 1 and section 4.3." in text
    for file in ("index.html", "table.md", "table.tex", "scores.csv"):
        written = (tmp_path / "again" / file).read_text(encoding="utf-8")
        assert "↳ published" not in written
        assert "- published" not in written
        assert ", published" not in written.split("tabular")[-1]
        assert ".57 / .20" not in written


@pytest.mark.parametrize(
    ("p", "verdict"),
    [
        (0.443, "Attri-SIVAE unguided and Attri-VAE unguided, which has"),
        (0.012, "is best; next is"),
        (None, "whether they differ was not tested"),
    ],
)
def test_a_method_is_best_only_where_it_is_told_apart(tmp_path, p, verdict):
    folder = write_evaluation(tmp_path / "x", datasets=("acdc",), seeds=1)
    table = pd.read_csv(folder / "comparisons.csv").assign(p_holm=p)
    (table if p else table.head(0)).to_csv(folder / "comparisons.csv", index=False)
    text = page_of([folder], tmp_path / "out").text.replace("\xa0", " ")
    card = text.split("Does the code carry")[1].split("Does the drawn heart")[0]
    other = verdict.replace("SIVAE", "VAE").replace("Attri-VAE unguided,", "Attri-SIVAE unguided,")
    assert verdict in card or other in card
    assert ("are not told apart (p = .443)" in card) == (p == 0.443)
    assert ("is best" in card) == (p == 0.012)


def test_attributes_are_spelled_out(page):
    text = page[0].text
    for name, label in zip(NAMES, ("LV area at ED", "Myocardial area at ED"), strict=False):
        assert f"{label} {name}" in text


def test_the_moving_heart_is_the_first_thing_on_the_page(page):
    html = (page[1] / "index.html").read_text(encoding="utf-8")
    assert html.index('<figure class="lead">') < html.index("<nav")
    assert page[0].all("img")[0]["alt"].startswith("Hearts drawn while one attribute")
    assert html.count("data:image/webp") == 2  # it is not shown twice


def test_a_method_without_trained_dimensions_says_that_its_best_one_was_read(tmp_path):
    folder = write_evaluation(tmp_path / "x", ("attri_vae", "beta_vae"), ("acdc",), seeds=1)
    table = pd.read_csv(folder / "metrics.csv")
    beta = table["method"] == "beta_vae"
    table["metric"] = table["metric"].where(~beta, table["metric"].str.removesuffix("_fixed"))
    table = table.drop_duplicates(["model", "test_dataset", "metric", "attribute"])
    table.to_csv(folder / "metrics.csv", index=False)
    html = (write_report([folder], tmp_path / "out")).read_text(encoding="utf-8")
    assert "β-VAE<br><small>best of all dimensions</small>" in html
    assert "Attri-VAE<br><small>best of all dimensions" not in html
    text = (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
    assert "| beta_vae * " in text
    assert "| attri_vae * " not in text


def test_each_interval_says_what_was_drawn(page):
    text = page[0].text
    assert "with the best dimension chosen again in each draw of patients" in text
    assert "with the dimension held" in text
    assert "the same as in the tables above" in text


# What is missing ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "gone"),
    [
        ({"metrics": tuple(m for m in LEVELS if "Control" not in m and m != "Dice")}, "control"),
        ({"metrics": IMAGES}, "table-1"),
        ({"metrics": IMAGES}, "attributes"),
        ({"metrics": ("SCC", "Interpretability")}, "pictures"),
        ({"methods": ("mine",), "seeds": 1}, "differences"),
    ],
)
def test_what_was_not_measured_leaves_no_section(tmp_path, options, gone):
    folder = write_evaluation(tmp_path / "x", **options)
    page = page_of([folder], tmp_path / "out")
    assert not page.open
    sections = [attrs["id"] for attrs in page.all("section")]
    assert gone not in sections
    assert [link["href"] for link in page.all("a")] == [f"#{name}" for name in sections]
    for word in ("None", "nan", "Undefined"):
        assert word not in page.text
    for lone in re.findall(r"<tbody>\s*</tbody>", (tmp_path / "out/index.html").read_text()):
        raise AssertionError(lone)


def test_scores_without_intervals_or_chance_stand_alone(tmp_path):
    folder = write_evaluation(tmp_path / "x", ("mine",), ("here",), seeds=1, sure=False)
    page = page_of([folder], tmp_path / "out")
    assert "[" not in page.text.replace("[0, 1]", "")
    assert "published" not in [attrs.get("class") for attrs in page.all("tr")]
    assert "±" not in page.text


def test_metrics_alone_are_enough(evaluation, tmp_path):
    old = ["model", "method", "seed", "train_dataset", "test_dataset", "split", "metric"]
    old += ["attribute", "value", "n"]
    (tmp_path / "x").mkdir()
    pd.read_csv(evaluation / "metrics.csv")[old].to_csv(tmp_path / "x/metrics.csv", index=False)
    (tmp_path / "x/evaluation.json").write_text("{}")
    page = page_of([tmp_path / "x"], tmp_path / "out")
    assert [attrs["id"] for attrs in page.all("section")] == [
        "findings", "table-1", "attributes", "control", "pictures", "reading",
    ]  # fmt: skip


def test_what_two_evaluations_share_counts_once(evaluation, tmp_path):
    one = write_report([evaluation], tmp_path / "one").read_text(encoding="utf-8")
    two = Page(write_report([evaluation, evaluation], tmp_path / "two").read_text(encoding="utf-8"))
    assert len(two.all("img")) == 2
    assert Page(one).text == two.text
    for file in ("table.md", "table.tex", "scores.csv"):
        assert (tmp_path / "one" / file).read_text() == (tmp_path / "two" / file).read_text()


def test_seeds_of_two_evaluations_are_one_method(evaluation, tmp_path):
    more = write_evaluation(tmp_path / "more")
    table = pd.read_csv(more / "metrics.csv")
    models = table["train_dataset"].notna()
    table.loc[models, "model"] += "_again"
    table.loc[models, "value"] += 0.001
    table.to_csv(more / "metrics.csv", index=False)
    assert not page_of([evaluation, more], tmp_path / "out").open
    scores = pd.read_csv(tmp_path / "out" / "scores.csv").query("source == 'ours'")
    assert set(scores["models"]) == {4}
    assert 0.7654 not in set(scores["low"])  # the interval in spread.csv is of two of them


def test_models_of_two_evaluations_that_differ_in_more_than_the_seed_are_two_methods(
    evaluation, tmp_path
):
    more = write_evaluation(tmp_path / "more")
    file = more / "evaluation.json"
    about = json.loads(file.read_text())
    for model in about["models"].values():
        model["pipeline"]["schedule"]["epochs"] = 99
    file.write_text(json.dumps(about))
    assert not page_of([evaluation, more], tmp_path / "out").open
    scores = pd.read_csv(tmp_path / "out" / "scores.csv").query("source == 'ours'")
    assert set(scores["models"]) == {2}
    assert {"attri_vae_unguided (epochs=24)", "attri_vae_unguided (epochs=99)"} <= set(
        scores["method"]
    )
    assert 0.7654 in set(scores["low"])  # each keeps its own spread


def test_a_folder_without_scores_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no finished evaluation in .*: metrics\.csv is missing"):
        write_report([tmp_path], tmp_path / "out")
    with pytest.raises(DataError, match="no evaluation"):
        write_report([], tmp_path / "out")


def test_an_evaluation_that_was_broken_off_is_refused(tmp_path):
    folder = write_evaluation(tmp_path / "x")
    (folder / "evaluation.json").unlink()
    with pytest.raises(
        DataError,
        match=r"no finished evaluation in .*x: .* Write one with cardiac-attrivae cross-dom",
    ):
        write_report([folder], tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Tables ------------------------------------------------------------------------------------------


def test_table_tex_holds_a_row_per_model_with_as_many_cells_as_columns(page):
    tex = (page[1] / "table.tex").read_text(encoding="utf-8")
    body = tex.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    assert len(body) == 4  # two methods, ours and published
    assert all(len(re.findall(r"(?<!\\)&", line)) == 4 and line.endswith(r"\\") for line in body)
    assert tex.count("{") == tex.count("}")
    assert r".57 / .20 & .76 / .51 & .83 / .73 & .35 / .10" in tex
    assert r"$\pm$" in tex


def test_what_latex_would_take_for_commands_is_escaped():
    assert escape_tex(r"a_b 5% & #1 $x$ {y} ~ ^ \z") == (
        r"a\_b 5\% \& \#1 \$x\$ \{y\} \textasciitilde{} \textasciicircum{} \textbackslash{}z"
    )


def test_scores_csv_is_tidy_and_tells_ours_from_published(evaluation, page):
    scores = pd.read_csv(page[1] / "scores.csv")
    key = ["source", "method", "train_dataset", "test_dataset", "split", "metric"]
    assert not scores.duplicated(key).any()
    published = scores[scores["source"] != "ours"].set_index(key[1:4] + ["metric"])["value"]
    assert published["attri_sivae", "acdc", "acdc", "SAP"] == 0.27
    assert published["attri_sivae", "mnms", "acdc", "Interpretability"] == 0.54
    metrics = pd.read_csv(evaluation / "metrics.csv").query("attribute == 'mean'")
    ours = scores[scores["source"] == "ours"].set_index(key[1:])["value"]
    means_of = metrics.groupby(key[1:])["value"].mean()
    pd.testing.assert_series_equal(ours.sort_index(), means_of.reindex(ours.sort_index().index))


@pytest.mark.parametrize(("seeds", "sure"), [(1, True), (2, True), (1, False)])
def test_table_md_fits_a_page(tmp_path, seeds, sure):
    four = ("beta_vae_fast", "soft_intro_vae_fast", "attri_vae_unguided", "attri_sivae_unguided")
    write_evaluation(tmp_path / "x", four, seeds=seeds, sure=sure)
    text = markdown(pd.read_csv(tmp_path / "x" / "metrics.csv"))
    assert max(map(len, text.splitlines())) <= 100
    assert text.count("## ") == 5
    assert "LVEDA is LV area at ED" in text
    cell = r"\| \.\d\d \[\.\d\d, 1?\.\d\d\] " if sure and seeds == 1 else r"\| \.\d\d \+- \.\d\d "
    assert bool(re.search(cell, text)) == (seeds > 1 or sure)


def test_a_cell_is_the_mean_and_spread_over_seeds_at_home_and_away():
    text = markdown(metrics(Interpretability=(0.5, 0.7, 0.2), SAP=(0.3, 0.3, 0.1)))
    rows = [line for line in text.splitlines() if line.startswith("| attri_vae")]
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows]
    assert cells[0] == ["attri_vae", ".60 +- .14", ".30 +- .00"]
    assert cells[1] == ["attri_vae", ".20 +- .00", ".10 +- .00"]
    assert "Tested on: acdc (50 test patients), mnms (50 test patients)." in text


def test_the_best_is_marked_by_what_it_prints_and_modularity_has_none():
    scores = summarise(
        pd.concat(
            metrics(Interpretability=values, Modularity=values, MSE=values).assign(method=name)
            for name, values in (("a", (0.5, 0.5, 0.2)), ("b", (0.6, 0.6, 0.101)),
                                 ("c", (0.601, 0.601, 0.1)))
        )
    )  # fmt: skip
    home, away = grid(scores, means(("Interpretability", "Modularity", "MSE"))).groups
    assert [line.best for line in home.lines] == [{2}, {0}, {0}]
    assert [line.best for line in away.lines] == [{0}, set(), {2}]


def test_nothing_is_best_where_all_print_the_same_and_patients_count_not_rows():
    one = metrics(Control=(0.5, 0.5, 0.2)).assign(patients=7)
    scores = summarise(pd.concat([one.assign(method="a"), one.assign(method="b")]))
    home = grid(scores, means(("Control",))).groups[0]
    assert not any(line.best for line in home.lines)
    assert home.patients == 7


def test_a_pipeline_named_after_its_data_set_is_one_method_of_table_1():
    home = metrics(SAP=(0.3, 0.3, 0.1)).query("test_dataset == 'acdc'")
    there = home.assign(train_dataset="mnms", test_dataset="mnms", method="attri_vae_mnms")
    both = table_1(summarise(pd.concat([home.assign(method="attri_vae_acdc"), there])))
    assert [(method, kind) for method, kind, _ in both.lines] == [
        ("attri_vae", "ours"), ("attri_vae", "published"),
    ]  # fmt: skip
    assert "Attri-VAE & -- / -- & -- / -- & -- / -- & .30" in latex(
        pd.concat([home.assign(method="attri_vae_acdc"), there])
    )


def test_numbers_are_printed_as_the_paper_prints_them():
    values = (0.944, -0.1, 1.0, -0.004, 12.34, float("nan"))
    assert [number(value) for value in values] == [".94", "-.10", "1.00", ".00", "12.34", ""]
    assert number(0.944, 1, zero=True) == "0.9"


def test_too_few_patients_are_told_of():
    few = metrics(Interpretability=(0.5, 0.7, 0.2)).assign(n=2.0)  # as pandas reads blanks beside
    assert "Too few patients for scores, which need 5: acdc (2), mnms (2)." in markdown(few)


def test_columns_of_a_table_are_aligned():
    lines = table(["a", "long head"], [["long cell", "b"]]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1] == "| --------- | --------- |"


def test_the_table_of_metrics_in_the_docs_is_that_of_the_entries():
    page = Path(__file__).parents[2] / "docs" / "metrics.md"
    rows = [
        [entry.name, entry.meaning, "{:g} to {:g}".format(*entry.scale.limits), entry.good.value]
        for entry in EVERY.values()
    ]
    expected = table(["score", "what it is", "range", "good"], rows)
    assert expected in page.read_text("utf-8"), f"paste this:\n{expected}"
