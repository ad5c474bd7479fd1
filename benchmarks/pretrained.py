"""Makes the shipped models of ACDC anew: all training patients, store, trainings, judges, cards.

    python benchmarks/pretrained.py --source ACDC --work WORK [--output DIR]

WORK keeps store, runs and judges; the same command goes on where it was interrupted. What is
written holds no slice, no mask and no code of a patient: weights in float16, lines, the training
codes' mean and spread, and cards with their hash. The segmenter of whole pictures is not made here.
"""

from __future__ import annotations

import copy
import json
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: one process, one core

from dataclasses import replace
from functools import partial
from pathlib import Path

import click
import torch

from cardiac_attrivae.data.manifest import load_manifest
from cardiac_attrivae.data.preprocess import preprocess
from cardiac_attrivae.data.recipe import Recipe
from cardiac_attrivae.data.store import SliceDataset
from cardiac_attrivae.export.bundle_inference import FORMAT
from cardiac_attrivae.export.card import Source, describe
from cardiac_attrivae.export.formats import pipeline_of, plain
from cardiac_attrivae.report.render import render
from cardiac_attrivae.runtime.files import write
from cardiac_attrivae.runtime.provenance import digest
from cardiac_attrivae.runtime.shipped_models import GUIDE, JUDGES, MODELS, PRETRAINED
from cardiac_attrivae.runtime.weights import read_weights, weights_digest, write_weights
from cardiac_attrivae.segmentation.guide import train_guide
from cardiac_attrivae.segmentation.judge import segmenters_for
from cardiac_attrivae.training.config import load_pipeline
from cardiac_attrivae.training.facts import SHARED
from cardiac_attrivae.training.folder import REFINER
from cardiac_attrivae.training.refiner_learner import about_base
from cardiac_attrivae.training.run import Run, encode, load_run
from cardiac_attrivae.training.workflow import train

PIPELINES = ("attri_vae_fast", "attri_sivae_fast")
REFINED = "attri_sivae_fast"
"""The one whose pictures a refiner paints over."""
SMALL = 1024
"""Tensors with fewer numbers (biases, statistics of batch norm) stay in float32."""

USE = """\
## Use

It comes with cardiac-attrivae:

```
cardiac-attrivae encode   --model {name} --source SCAN --output codes
cardiac-attrivae generate --model {name} --set LVEDA=28 --output heart
cardiac-attrivae traverse --model {name} --output turned
cardiac-attrivae explore  --model {name} --output explorer --serve
cardiac-attrivae export   --model {name} --format bundle --output bundle
```

The last writes a complete MONAI bundle; this folder has its layout, with weights in float16 and
without configurations.

SHA-256 of models/model.safetensors: `{sha256}`
{refiner}
Trained on all 100 training patients of ACDC, none held out: no score of it on them, or on
patient118 (the scan of patient055), means anything. It holds no slice, no mask and no code of a
patient; its shapes and its brightness are means and principal components over all. Its map of
training codes shows {points} points in two of {dimensions} dimensions, sorted, without ids. Whether
weights derived from ACDC may be used as you intend is for the terms of its licence to say; if in
doubt, ask its authors.

"""


PAINTED = """
With `--refined`, `generate`, `traverse` and `export` draw with a refiner, trained on the same
patients: hearts that look like MRI. SHA-256 of models/refiner/model.safetensors:
`{sha256}`
"""


def halved(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Stores large tensors in float16."""
    return {
        name: value.half() if value.is_floating_point() and value.numel() >= SMALL else value
        for name, value in weights.items()
    }


def write_shipped(run: Run, folder: Path, name: str) -> float:
    """Writes a model with its card; returns the largest change of a code by the rounding, in
    deviations of the training codes."""
    file = folder / MODELS / "model.safetensors"
    facts = {key: run.about[key] for key in SHARED if key in run.about}
    network = plain(run.network)
    weights = halved(network.state_dict())
    own = write_guide(weights, folder.parent)
    write_weights(file, own, {"pipeline": pipeline_of(run)} | facts)
    sha256, data, refiner = digest(file), Source.of(run), ""
    painting = run.folder / REFINER / file.name
    if painting.is_file():
        refiner = PAINTED.format(sha256=write_refiner(painting, run, file.parent / REFINER))
    about = describe(run, None) | {"bundle_format": FORMAT, "weights_sha256": sha256}
    write(folder / "configs" / "metadata.json", json.dumps(about, indent=4) + "\n")
    text = {"run": run, "about": about, "data": data, "scores": None}
    card = render("bundle_card.md", "cardiac_attrivae.export", **text)
    before, _, rest = card.partition("## Use")
    use = USE.format(
        name=name, sha256=sha256, points=len(run.about["population"]["points"]),
        dimensions=len(run.about["code_mean"]), refiner=refiner,
    )  # fmt: skip
    write(folder / "docs" / "README.md", before + use + rest[rest.index("## Dimensions") :])
    write(folder / "LICENSE", render("bundle_licence.txt", "cardiac_attrivae.export", **text))
    again = copy.deepcopy(network)
    again.load_state_dict(weights)
    images = torch.rand(8, *_shape(run), generator=torch.Generator().manual_seed(0))
    one, other = (encode(net, images)[0] for net in (network, again))
    return float((abs(one - other) / run.about["code_deviation"]).max())


def write_guide(weights: dict[str, torch.Tensor], folder: Path) -> dict[str, torch.Tensor]:
    """Writes the guide that is a part of the network, once for all; returns the other weights."""
    part = "guide."
    own = {name: value for name, value in weights.items() if not name.startswith(part)}
    guide = {name.removeprefix(part): weights[name] for name in weights.keys() - own.keys()}
    file = folder / GUIDE
    if file.is_file() and weights_digest(read_weights(file)[0]) != weights_digest(guide):
        raise click.ClickException(f"{file} is another guide; remove it and write all models anew")
    write_weights(file, guide, {})
    return own


def write_refiner(file: Path, run: Run, folder: Path) -> str:
    """Writes the refiner of a run, for the run's weights as they are shipped; returns its hash."""
    weights, about = read_weights(file)
    base = about_base(run) | {"sha256": weights_digest(halved(plain(run.network).state_dict()))}
    own = write_guide(halved(weights), folder.parents[2])
    write_weights(folder / file.name, own, {"pipeline": about["pipeline"], "base": base})
    return digest(folder / file.name)


def _shape(run: Run) -> tuple[int, int, int]:
    size = run.about["recipe"]["size"]
    return 1, size, size


def write_judges(store: SliceDataset, work: Path, folder: Path) -> dict[str, str]:
    """Writes the two networks that measure what the models draw; returns the hash of each."""
    found = {}
    for k, judge in enumerate(segmenters_for(store, work / "segmenters", (0, 1), tell=click.echo)):
        file = folder / f"judge_{k}.safetensors"
        facts = {"dice": judge.dice, "patients": judge.patients}
        write_weights(file, halved(judge.network.state_dict()), facts)
        found[file.name] = digest(file)
        click.echo(f"{file.name}: Dice {judge.dice} on {judge.patients} patients not trained on")
    return found


@click.command()
@click.option("--source", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--work", required=True, type=click.Path(path_type=Path))
@click.option("--output", default=PRETRAINED / "acdc", type=click.Path(path_type=Path))
@click.option("--set", "changes", multiple=True, help="Change one value of both pipelines.")
@click.option("--set-refiner", "refiner_changes", multiple=True, help="The same for the refiner.")
def main(
    source: Path,
    work: Path,
    output: Path,
    changes: tuple[str, ...],
    refiner_changes: tuple[str, ...],
) -> None:
    folder = work / "store"
    if not folder.exists():
        manifest = replace(load_manifest("acdc"), hold_out=None)
        preprocess(manifest, source, folder, Recipe(slice="all"))
    store = SliceDataset.open(folder)
    known = store.split("train").cases["case"].nunique()
    click.echo(f"{known} training patients, {len(store)} slices")
    for name in PIPELINES:
        place = work / name
        if not (place / "model.safetensors").is_file():
            guide = partial(train_guide, tell=click.echo)
            train(
                load_pipeline(name, changes), store, place, device="cpu", resume=True, guide=guide
            )
        if name == REFINED:
            where, guide = place / REFINER, partial(train_guide, tell=click.echo)
            refiner = load_pipeline("refiner", refiner_changes)
            train(refiner, store, where, device="cpu", resume=True, guide=guide, on=place)
        change = write_shipped(load_run(place, plain=True), output / name, f"acdc/{name}")
        click.echo(f"{name}: float16 changes codes by up to {change:.4f} deviations")
    hashes = write_judges(store, work, output / JUDGES)
    write(output / JUDGES / "sha256.json", json.dumps(hashes, indent=2) + "\n")
    size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    click.echo(f"{output}: {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
