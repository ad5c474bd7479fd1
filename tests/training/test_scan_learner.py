"""Training a segmenter of whole pictures goes through the same workflow as every other training."""

import numpy as np
import pandas as pd
import pytest
import torch

from cardiac_attrivae.data.cases import find_cases
from cardiac_attrivae.data.images import read_image
from cardiac_attrivae.data.manifest import load_manifest
from cardiac_attrivae.data.phantom import write_phantoms
from cardiac_attrivae.data.preprocess import preprocess
from cardiac_attrivae.data.recipe import Recipe
from cardiac_attrivae.data.store import SliceDataset
from cardiac_attrivae.schema import DataError, Keys
from cardiac_attrivae.segmentation.scans import load_segmenter
from cardiac_attrivae.training.config import load_pipeline
from cardiac_attrivae.training.run import load_run
from cardiac_attrivae.training.scan_learner import WithNeighbours
from cardiac_attrivae.training.workflow import train

TINY = load_pipeline(
    "segment_scans",
    ["network.arguments.filters=[4, 8, 8]", "objective.window=32", "data.batch_size=4",
     "schedule.epochs=2", "schedule.steps_per_epoch=2", "schedule.evaluate_every=1",
     "precision=float32"],
)  # fmt: skip


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A store of whole pictures of phantoms at ED and ES."""
    folder = tmp_path_factory.mktemp("whole")
    write_phantoms("acdc", folder / "raw", cases=8, cine=False)
    preprocess("acdc", folder / "raw", folder / "store", Recipe("whole", 4.5, 64))
    return SliceDataset.open(folder / "store")


@pytest.fixture(scope="module")
def run(pictures, tmp_path_factory):
    return train(TINY, pictures, tmp_path_factory.mktemp("runs") / "run", device="cpu")


def test_a_store_of_whole_pictures_holds_every_slice_of_both_phases(pictures):
    frames = pictures.cases.groupby(["case", "phase"])["slice_index"]
    assert (frames.min() == 0).all()
    assert (frames.max() == frames.size() - 1).all()
    assert set(pictures.cases["phase"]) == {"ED", "ES"}
    assert pictures.info["cases"] == pictures.cases["case"].nunique() == 8
    blood = pictures.cases.groupby(["case", "phase"])["LVEDV"].first().unstack()
    assert (blood["ES"] < blood["ED"]).all()
    outside = pictures.images[pictures.labels == 0]
    assert (outside > 0.05).float().mean() > 0.3  # nothing is masked


def test_the_neighbours_of_a_slice_are_those_of_its_frame(pictures):
    seen = WithNeighbours(pictures, 3)
    frames = pictures.cases.groupby(["case", "phase"]).indices
    for rows in list(frames.values())[:4]:
        read, own = seen.read(rows), pictures.read(rows)
        assert torch.equal(read[Keys.IMAGE][:, 1], own[Keys.IMAGE][:, 0])
        assert torch.equal(read[Keys.LABEL], own[Keys.LABEL])
        assert torch.equal(read[Keys.IMAGE][1:, 0], own[Keys.IMAGE][:-1, 0])
        assert torch.equal(read[Keys.IMAGE][-1, 2], own[Keys.IMAGE][-1, 0])


def test_a_segmenter_is_trained_by_the_workflow_of_all_trainings(run):
    history = pd.read_csv(run.output / "history.csv")
    assert history["epoch"].tolist() == [1, 2]
    assert {"train_dice_ce", "val_loss", "val_Dice_LV", "val_Dice_RV/ES"} <= {*history}
    assert np.isfinite(history[["train_dice_ce", "val_Dice_MYO"]]).all(axis=None)
    names = {file.name for file in run.output.iterdir()}
    assert {"config.yaml", "last.pt", "model.safetensors", "summary.json", "figures"} <= names


def test_a_trained_segmenter_outlines_a_scan(run):
    segmenter = load_segmenter(run.output)
    assert (segmenter.grid_mm, segmenter.window, segmenter.context) == (4.5, 32, 3)
    found = segmenter.segment(np.random.default_rng(0).random((70, 60, 4)), (4.0, 4.0, 9.0))
    assert found.labels.shape == (70, 60, 4)


def test_a_trained_segmenter_remembers_its_pictures(run, pictures):
    segmenter, raw = load_segmenter(run.output), pictures.folder.parent / "raw"
    splits = pictures.cases.drop_duplicates("case").set_index("case")["split"]
    for phase in ("ED", "ES"):
        records = find_cases(load_manifest("acdc"), raw, phase).records
        of_each = {splits[record.case] == "train": record for record in records}  # one patient each
        assert of_each.keys() == {True, False}
        for seen, record in of_each.items():
            image = read_image(record.image, record.frame)
            found = segmenter.segment(np.float32(image.voxels), image.spacing_mm)
            assert found.trained_by == (("run",) if seen else ())


def test_an_interrupted_training_ends_with_the_same_weights(run, pictures, tmp_path):
    class Interruption(Exception):
        pass

    def stop(row):
        raise Interruption

    with pytest.raises(Interruption):
        train(TINY, pictures, tmp_path / "run", device="cpu", tell=stop)
    resumed = train(TINY, pictures, tmp_path / "run", device="cpu", resume=True)
    expected, found = run.learner.model.state_dict(), resumed.learner.model.state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_segmenter_is_no_model_with_codes(run):
    with pytest.raises(DataError, match="it outlines hearts and has no codes"):
        load_run(run.output)


def test_crops_and_whole_pictures_are_not_mixed_up(pictures, drawn_slices, tmp_path):
    with pytest.raises(ValueError, match="holds crops, of which Segmentation cannot learn"):
        train(TINY, drawn_slices, tmp_path / "one", device="cpu")
    with pytest.raises(ValueError, match="holds whole pictures, of which AttriVAE cannot learn"):
        train(load_pipeline("attri_vae_unguided"), pictures, tmp_path / "two", device="cpu")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["network.name=BetaVAE", "network.arguments={}"], "expected one of ScanUNet"),
        (["attributes=[LVEDA]"], "expected none, because the objective Segmentation"),
    ],
)
def test_a_network_or_attributes_that_do_not_fit_are_refused(changes, said, pictures, tmp_path):
    with pytest.raises(ValueError, match=said):
        train(load_pipeline("segment_scans", changes), pictures, tmp_path / "run", device="cpu")
