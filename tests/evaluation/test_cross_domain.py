"""Models x data sets: what the tables and pictures hold, what is done again, what is refused."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import store_of, trained
from torch.nn.modules.module import register_module_forward_hook

from cardiac_attrivae.data.phantom import write_phantoms
from cardiac_attrivae.data.store import SliceDataset
from cardiac_attrivae.evaluation import cross_domain, parts
from cardiac_attrivae.evaluation.baselines import PIXELS, RIDGE, SEGMENTED
from cardiac_attrivae.evaluation.cross_domain import cross_domain_eval
from cardiac_attrivae.evaluation.tables import COLUMNS, FLOOR
from cardiac_attrivae.metrics.codes import METRICS, SCORES, score
from cardiac_attrivae.metrics.control import CONTROL, STEPS
from cardiac_attrivae.metrics.images import FIDELITY
from cardiac_attrivae.metrics.prediction import AGREEMENT
from cardiac_attrivae.report.methods import BASELINE
from cardiac_attrivae.report.page import write_report
from cardiac_attrivae.runtime.folders import MARKER
from cardiac_attrivae.schema import DataError, LatentTable, VAEOutput
from cardiac_attrivae.training.run import encode, load_run

pytestmark = pytest.mark.usefixtures("hasty_segmenters")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """27 ACDC phantoms, nine of them in the test split."""
    tree, folder = (tmp_path_factory.mktemp(name) / "acdc" for name in ("trees", "stores"))
    write_phantoms("acdc", tree, cases=27, cine=False)
    return store_of("acdc", tree, folder, "basal")


@pytest.fixture(scope="module")
def run(store, tmp_path_factory):
    return trained(store, tmp_path_factory.mktemp("runs") / "mine")


@pytest.fixture(scope="module")
def others(store, tmp_path_factory):
    """The same with another seed, and without the attribute term."""
    folder = tmp_path_factory.mktemp("runs")
    other = ("objective.gamma=0", "method=beta_vae_fast")
    return trained(store, folder / "again", seed=1), trained(store, folder / "beta", *other)


@pytest.fixture(scope="module")
def passed():
    """Number of slices of each batch that a model encoded and decoded during the evaluation."""
    return []


@pytest.fixture(scope="module")
def evaluation(run, others, store, mnms_store_all, passed, tmp_path_factory):
    def count(module, inputs, output):
        if isinstance(output, VAEOutput):
            passed.append(len(inputs[0]))

    output = tmp_path_factory.mktemp("evaluation") / "out"
    with register_module_forward_hook(count):
        metrics = cross_domain_eval(
            [run, *others], [store, mnms_store_all], output, device="cpu", rounds=20
        )
    return output, metrics


def test_an_attribute_that_is_the_same_in_all_patients_is_noted(run, store, monkeypatch):
    opened = cross_domain.open_all([run], [store], "test")
    assert not any("is the same" in note for note in cross_domain._notes(opened, ["LVEDA"]))
    measured = SliceDataset.attributes

    def constant(slices, names):
        return np.where(np.array(names) == "RVEDA", 17.0, measured(slices, names))

    monkeypatch.setattr(SliceDataset, "attributes", constant)
    (note,) = [n for n in cross_domain._notes(opened, ["LVEDA", "RVEDA"]) if "is the same" in n]
    assert note.startswith("RVEDA is the same in all test patients of acdc: it scores 0")


def test_every_slice_passes_through_a_network_once(evaluation, passed, store, mnms_store_all):
    train, home, across = (
        len(SliceDataset.open(folder).split(split).basal())
        for folder, split in ((store, "train"), (store, "test"), (mnms_store_all, "test"))
    )
    assert sum(passed) == 3 * (train + home + across)


def of(metrics, model="mine", test="acdc"):
    """Rows of a model on a data set by metric and attribute."""
    rows = metrics[(metrics["model"] == model) & (metrics["test_dataset"] == test)]
    return rows.set_index(["metric", "attribute"])


def test_metrics_csv_is_tidy_and_names_every_score_of_every_attribute(evaluation):
    output, metrics = evaluation
    assert tuple(metrics.columns) == COLUMNS
    assert tuple(pd.read_csv(output / "metrics.csv")) == COLUMNS
    assert len(pd.read_csv(output / "metrics.csv")) == len(metrics)
    written = pd.read_csv(output / "metrics.csv", dtype=str)
    for name in ("seed", "patients", "dimension"):  # whole numbers, beside blanks too
        assert written[name].dropna().str.fullmatch(r"\d+").all()
    home = of(metrics)
    expected = {*SCORES, *FIDELITY, *CONTROL, "Dice", "Leakage"}
    expected |= {"Disentanglement", "Completeness", "Informativeness"}
    expected |= {metric + suffix for metric in AGREEMENT for suffix in ("", "_fixed")}
    assert set(home.index.get_level_values("metric")) == expected
    assert home.index.is_unique
    for metric in ("Interpretability", "SAP_fixed", "R2", "Control", "Leakage"):
        rows = home.loc[metric, "value"]
        assert set(rows.index) == {"LVEDA", "MEDA", "RVEDA", "mean"}
        assert rows["mean"] == pytest.approx(rows.drop("mean").mean())
    assert set(home.loc["Dice"].index) == {"LV", "MYO", "RV", "mean"}
    assert set(home["train_dataset"]) == {"acdc"}
    assert set(home["method"]) == {"attri_vae_unguided"}
    assert set(home.loc[["bias", "MAE_fixed"], "unit"]) == {"cm2"}


def test_every_value_lies_in_its_interval_and_every_score_has_a_floor(evaluation):
    home = of(evaluation[1])
    bounded = home[home["value"].notna()]
    outside = bounded[(bounded["low"] > bounded["value"]) | (bounded["value"] > bounded["high"])]
    assert outside.empty, outside[["value", "low", "high"]].to_string()
    scored = home.loc[[name for name in SCORES if name != "Modularity"]]
    assert scored[["null", "null_95", "p", "corrected"]].notna().all(axis=None)
    assert (scored["patients"] == 9).all()


def test_too_few_patients_have_no_intervals_and_it_is_said(evaluation):
    output, metrics = evaluation
    across = of(metrics, test="mnms")
    n = across["n"].iloc[0]
    assert n < 8
    assert across["low"].isna().all()
    assert across["value"].notna().any()
    about = json.loads((output / "evaluation.json").read_text())
    assert any(f"mnms has {n} test patients" in note for note in about["notes"])


def test_patients_and_control_hold_what_the_scores_are_means_of(evaluation):
    output, metrics = evaluation
    patients = pd.read_csv(output / "patients.csv")
    mine = patients[(patients["model"] == "mine") & (patients["test_dataset"] == "acdc")]
    home = of(metrics)["value"]
    assert len(mine) == 9
    assert mine["SSIM"].mean() == pytest.approx(home["SSIM", "mean"])
    assert mine["Dice_RV"].mean() == pytest.approx(home["Dice", "RV"])
    control = pd.read_csv(output / "control.csv")
    turned = control[(control["model"] == "mine") & (control["test_dataset"] == "acdc")]
    assert len(turned) == 9 * 3 * len(STEPS)
    own = turned[turned["attribute"] == "RVEDA"]
    error = (own["RV"] - own["requested"]).abs().mean()
    assert error == pytest.approx(home["Control_error", "RVEDA"])


def test_seeds_are_spread_and_methods_compared_on_the_same_patients(evaluation):
    output, metrics = evaluation
    spread = pd.read_csv(output / "spread.csv").set_index(["method", "metric", "attribute"])
    both = [of(metrics, name)["value"]["SAP", "mean"] for name in ("mine", "again")]
    row = spread.loc["attri_vae_unguided", "SAP", "mean"]
    assert row["value"] == pytest.approx(np.mean(both))
    assert row["seeds"] == pytest.approx(np.std(both, ddof=1))
    assert "beta_vae_fast" not in spread.index  # it has one seed
    comparisons = pd.read_csv(output / "comparisons.csv")
    means = comparisons.set_index(["metric", "attribute"])
    row = means.loc["SAP", "mean"]
    assert (row["first"], row["second"]) == ("attri_vae_unguided", "beta_vae_fast")
    assert row["first_value"] == pytest.approx(np.mean(both))
    other = of(metrics, "beta")["value"]["SAP", "mean"]
    assert row["difference"] == pytest.approx(np.mean(both) - other)
    assert (comparisons["p_holm"].dropna() >= comparisons["p"][comparisons["p"].notna()]).all()


@pytest.mark.usefixtures("no_pictures")
def test_nothing_is_computed_twice_and_a_changed_model_is(
    evaluation, run, others, store, mnms_store_all, monkeypatch, tmp_path
):
    output, metrics = evaluation
    computed = []
    real = parts.score_model

    def counted(model, *rest, **options):
        computed.append(model.folder.name)
        return real(model, *rest, **options)

    monkeypatch.setattr(parts, "score_model", counted)
    output = shutil.copytree(output, tmp_path / "out")
    call = ([run, *others], [store, mnms_store_all], output)
    again = cross_domain_eval(*call, device="cpu", rounds=20)
    assert computed == []
    pd.testing.assert_frame_equal(again, metrics)
    abouts = [json.loads(file.read_text()) for file in output.glob("parts/*/about.json")]
    folders = {
        (about["model"], about["test_dataset"]): file.parent
        for about, file in zip(abouts, output.glob("parts/*/about.json"), strict=True)
    }
    shutil.rmtree(folders["beta", "acdc"])  # as if it had been interrupted before this part
    cross_domain_eval(*call, device="cpu", rounds=20)
    assert computed == ["beta"]
    changed = trained(store, tmp_path / "mine", "objective.gamma=3")
    cross_domain_eval([changed, *others], *call[1:], device="cpu", rounds=20)
    assert computed == ["beta", "mine", "mine"]
    assert not list((output / "parts").glob(".*"))


@pytest.mark.usefixtures("no_pictures")
def test_an_evaluation_that_is_broken_off_between_its_tables_is_unfinished_until_it_is_whole(
    evaluation, run, store, mnms_store_all, monkeypatch, tmp_path
):
    output = shutil.copytree(evaluation[0], tmp_path / "out")
    of_three = (output / "metrics.csv").read_bytes()
    call = ([run], [store, mnms_store_all], output)
    real = cross_domain.write
    for last in ("metrics.csv", "spread.csv", "codes_mine_acdc.csv", "table.md", "evaluation.json"):

        def broken_off(path, content, last=last):
            if path.name == last:
                raise KeyboardInterrupt
            real(path, content)

        monkeypatch.setattr(cross_domain, "write", broken_off)
        with pytest.raises(KeyboardInterrupt):
            cross_domain_eval(*call, device="cpu", rounds=20)
        with pytest.raises(
            DataError,
            match="no finished evaluation in .*: (evaluation.json|metrics.csv) is missing",
        ):
            write_report([output], tmp_path / "report")
    monkeypatch.setattr(cross_domain, "write", real)
    assert (output / "metrics.csv").read_bytes() != of_three
    cross_domain_eval(*call, device="cpu", rounds=20)
    fresh = tmp_path / "fresh"
    shutil.copytree(output / "parts", fresh / "parts")
    shutil.copyfile(output / MARKER, fresh / MARKER)
    cross_domain_eval(*call[:2], fresh, device="cpu", rounds=20)
    names = {file.name for file in fresh.iterdir() if file.is_file()}
    assert names == {file.name for file in output.iterdir() if file.is_file()}
    for name in names - {"evaluation.json"}:  # it says how many seconds it took
        assert (output / name).read_bytes() == (fresh / name).read_bytes()
    write_report([output], tmp_path / "report")


def test_a_folder_of_somebody_is_refused_and_stays(run, store, tmp_path):
    """Though its files are called as those of an evaluation."""
    mine = ("figures/fig1.svg", "codes_mine.csv", "metrics.csv", "table.md", "evaluation.json")
    for name in mine:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    with pytest.raises(DataError, match="was not written by cardiac-attrivae cross-domain-eval"):
        cross_domain_eval([run], [store], tmp_path, device="cpu", rounds=5)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert left == {*mine, "figures"}
    assert {(tmp_path / name).read_text() for name in mine} == {"{}"}


def test_scores_are_those_of_codes_and_masks(evaluation, run, store):
    _, metrics = evaluation
    patients = SliceDataset.open(store).split("test").basal()
    names = ("LVEDA", "MEDA", "RVEDA")
    codes = encode(load_run(run).network, patients.images)[0]
    table = LatentTable(
        tuple(patients.cases["case"]), codes, patients.measured(names), names, (0, 1, 2)
    )
    mine = of(metrics)
    for row in score(table):
        assert mine["value"][row.metric, row.attribute] == pytest.approx(row.value, abs=1e-5)
    assert set(mine.loc[list(METRICS), "n"]) == {len(patients)}


def test_codes_hold_a_row_per_patient_with_names(evaluation, store):
    codes = pd.read_csv(evaluation[0] / "codes_mine_acdc.csv", dtype={"case": str})
    patients = SliceDataset.open(store).split("test").basal()
    assert codes["case"].tolist() == patients.cases["case"].tolist()
    assert {"LVEDA", "MEDA", "RVEDA", "z0", "z31", "domain"} <= set(codes)
    assert codes["LVEDA"].to_numpy() == pytest.approx(patients.attributes(["LVEDA"])[:, 0])


def test_trivial_baselines_stand_beside_the_models_and_the_caveat_too(evaluation, tmp_path):
    output, metrics = evaluation
    trivial = metrics[metrics["model"].str.startswith("baseline: ")]
    assert set(trivial["model"]) == {PIXELS, RIDGE, SEGMENTED}
    assert set(trivial["metric"]) == set(AGREEMENT)
    home = trivial[trivial["test_dataset"] == "acdc"].set_index(["model", "metric", "attribute"])
    assert set(home["train_dataset"]) == {"acdc"}
    assert home.loc[(PIXELS, "R2", "LVEDA"), "low"] < 1
    assert home.loc[(PIXELS, "MAE", "LVEDA"), "unit"] == "cm2"
    page = write_report([output], tmp_path / "report").read_text(encoding="utf-8")
    reading = page.partition("Reading an attribute in new patients")[2]
    assert "cut out by the masks" in reading[:1000]
    assert reading.index("pixel count") < reading.index("</table>")
    assert "baseline: pixel count" not in page.partition("Findings")[2].partition("Table 1")[0]
    assert "cut out by the masks" in (output / "table.md").read_text()


def test_a_black_image_stands_beside_the_models(evaluation):
    _, metrics = evaluation
    floor = metrics[metrics["model"] == FLOOR].set_index(["test_dataset", "metric"])["value"]
    for dataset in ("acdc", "mnms"):
        assert floor[dataset, "SSIM"] > 0.3  # the background alone
        assert floor[dataset, "SSIM_in_mask"] < 0.1


def test_every_picture_is_written_and_listed(evaluation):
    output, _ = evaluation
    about = json.loads((output / "evaluation.json").read_text())
    listed = {figure["file"] for figure in about["figures"]}
    assert listed == {f"figures/{file.name}" for file in (output / "figures").iterdir()}
    kinds = {figure["kind"] for figure in about["figures"]}
    assert {"reconstructions", "traversals", "scatter", "correlations", "control"} <= kinds
    assert {"figures/traversals_mine_acdc.png", "figures/traversals_beta_mnms.png"} <= listed
    assert not any("again" in file for file in listed)  # of two seeds the first is shown


def test_what_was_evaluated_is_told(evaluation, store):
    about = json.loads((evaluation[0] / "evaluation.json").read_text())
    assert set(about["models"]) == {"mine", "again", "beta"}
    assert about["models"]["again"]["seed"] == 1
    assert "store" not in about["models"]["mine"]["summary"]  # no path of this machine
    assert about["datasets"]["acdc"]["patients"] == 9
    assert set(about["datasets"]["acdc"]["segmenter"]["Dice"]) == {"LV", "MYO", "RV"}
    assert str(store.parent) not in json.dumps(about)
    assert about["datasets"]["acdc"]["synthetic"]
    table = (evaluation[0] / "table.md").read_text()
    assert "acdc holds synthetic hearts" in table.partition("## Table 1")[0]


def test_a_shipped_model_is_scored_and_reported_without_the_history_of_its_training(
    mnms_store_all, tmp_path
):
    cross_domain_eval(["acdc"], [mnms_store_all], tmp_path / "e", device="cpu", rounds=5)
    about = json.loads((tmp_path / "e" / "evaluation.json").read_text())
    assert about["models"]["acdc"]["summary"] == {}
    assert "curves" not in {figure["kind"] for figure in about["figures"]}
    page = write_report([tmp_path / "e"], tmp_path / "report").read_text(encoding="utf-8")
    assert "<code>attri_sivae_fast</code>" in page


@pytest.mark.usefixtures("no_pictures")
def test_the_order_of_attributes_changes_no_score(run, acdc_store_all, tmp_path):
    def scores(names, folder):
        metrics = cross_domain_eval(
            [run], [acdc_store_all], folder, split="train", attributes=names, device="cpu", rounds=5
        )
        return metrics.set_index(["model", "metric", "attribute"])["value"].sort_index()

    one = scores(["LVEDA", "MEDA", "RVEDA"], tmp_path / "one")
    other = scores(["RVEDA", "LVEDA", "MEDA"], tmp_path / "other")
    pd.testing.assert_series_equal(one, other)


@pytest.mark.usefixtures("no_pictures")
def test_attributes_that_were_not_trained_have_no_fixed_score(run, acdc_store_all, tmp_path):
    metrics = cross_domain_eval(
        [run],
        [acdc_store_all],
        tmp_path,
        split="train",
        attributes=["LVEDV"],
        device="cpu",
        rounds=5,
    )
    values = metrics.set_index(["metric", "attribute"])["value"]
    assert np.isnan(values["Interpretability_fixed", "LVEDV"])
    assert np.isfinite(values["Interpretability", "LVEDV"])


@pytest.mark.usefixtures("no_pictures")
def test_two_runs_of_one_name_are_told_apart(run, acdc_store_all, tmp_path):
    twin = tmp_path / "elsewhere" / "mine"
    trained(acdc_store_all, twin, seed=1)
    metrics = cross_domain_eval(
        [run, twin], [acdc_store_all], tmp_path / "out", split="train", device="cpu", rounds=5
    )
    models = {name for name in metrics["model"] if not name.startswith(BASELINE)}
    assert models == {"mine", "mine-2", FLOOR}


def test_an_empty_split_is_refused_with_those_there_are(run, mnms_store_all, tmp_path):
    info = json.loads((mnms_store_all / "dataset.json").read_text())
    empty = [split for split, count in info["splits"].items() if not count]
    if not empty:
        empty, store = ["val"], tmp_path / "store"
        shutil.copytree(mnms_store_all, store)
        cases = pd.read_csv(store / "cases.csv")
        cases["split"] = "train"
        cases.to_csv(store / "cases.csv", index=False)
        from cardiac_attrivae.data.store import content_hash
        from cardiac_attrivae.runtime.provenance import seal

        info |= {"content_hash": content_hash(store), "splits": {"train": 7, "val": 0, "test": 0}}
        (store / "dataset.json").write_text(json.dumps(info | {"sha256": seal(info)}))
        mnms_store_all = store
    with pytest.raises(DataError, match=rf"no {empty[0]} patients .*split='train'"):
        cross_domain_eval([run], [mnms_store_all], tmp_path / "o", split=empty[0], device="cpu")
    assert not (tmp_path / "o").exists()


def test_slices_cropped_otherwise_are_refused(run, acdc_tree, tmp_path):
    from cardiac_attrivae.data.manifest import load_manifest
    from cardiac_attrivae.data.preprocess import preprocess
    from cardiac_attrivae.data.recipe import Recipe

    preprocess(load_manifest("acdc"), acdc_tree, tmp_path / "coarse", Recipe(spacing=1.5))
    with pytest.raises(DataError, match=r"spacing 1\.3 and .* has 1\.5"):
        cross_domain_eval([run], [tmp_path / "coarse"], tmp_path / "o", split="train", device="cpu")


def test_one_data_set_given_twice_is_refused(run, store, acdc_store_all, tmp_path):
    with pytest.raises(DataError, match="both hold acdc"):
        cross_domain_eval([run], [store, acdc_store_all], tmp_path / "o", device="cpu")


def test_a_folder_without_a_model_is_refused(acdc_store_all, tmp_path):
    with pytest.raises(DataError, match="no trained model"):
        cross_domain_eval([tmp_path], [acdc_store_all], tmp_path / "o", device="cpu")
