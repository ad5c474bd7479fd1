"""Writes the explorer: a page whose sliders move the dimensions of a model and redraw the heart.

It is a folder of plain files for any web server: the page, the decoder and a segmenter as ONNX,
onnxruntime-web to run them in the browser, and facts about the model and its patients. It holds
slices of patients, so that it is as private as the store; that of a shipped model holds generated
hearts instead.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..attributes import ATTRIBUTES, Kind, areas_at, column, column_of
from ..data.recipe import scale_of
from ..data.store import SliceDataset, areas
from ..evaluation.aiming import REACH
from ..evaluation.opening import open_trained
from ..heart import MUSCLE_G_PER_ML
from ..metrics.calibration import Calibration
from ..metrics.population import Population
from ..report.style import COLOURS, SYMBOLS, grey
from ..runtime.device import find_device
from ..runtime.files import atomic_folder, write
from ..runtime.folders import is_empty
from ..runtime.outputs import AN_EXPLORER, check_own, require_free
from ..runtime.progress import Progress
from ..runtime.shipped_models import judges_of, model_folder
from ..schema import HEART, DataError, LatentTable, Phase, Structure
from ..segmentation.judge import (
    Segmenter,
    bar,
    cache_of,
    read_judge,
    segmenters_for,
)
from ..training.run import Run, decode, encode, load_run
from .formats import Part, examples, write_module

PAGE = Path(__file__).parent / "templates" / "explorer"
"""Files that are copied: the page, and onnxruntime-web as its npm package has it."""
MADE = ("decoder.onnx", "segmenter.onnx", "cases.bin", "data.json")
"""Files of an explorer beside those of the page."""

IMAGINED = 24
"""Generated hearts on the page of a shipped model."""
MOST_CASES = 400
"""Patients on the page; if there are more, `spread` takes some of each group."""

TITLES = {
    Structure.LV: "Left ventricle",
    Structure.MYO: "Myocardium",
    Structure.RV: "Right ventricle",
}


class Explorer(NamedTuple):
    """What was written."""

    folder: Path  # folder of the explorer
    cases: int  # patients whose slices are in it, or generated hearts
    size: int  # size of its files in bytes
    generated: bool = False  # whether the hearts were drawn by the model, and no patient is in it


def explore(
    run: str | Path,
    output: str | Path,
    *,
    store: str | Path | None = None,
    device: str = "auto",
    tell: Callable[[str], None] = lambda message: None,
    progress: Progress = bar,
) -> Explorer:
    """Writes the explorer of a model atomically; an explorer that is there already is replaced.

    Args:
        run: Folder that ``train`` wrote.
        output: Folder to write.
        store: Folder that ``preprocess`` wrote; None is the one that the run was trained on.
        device: See `find_device`.
        tell: Called with a message before something takes minutes.
        progress: See `Progress`.

    Raises:
        DataError: If the output holds something else, the store is gone or does not fit the model,
            or the packages that write ONNX are missing.
    """
    output = Path(output)
    check_replaceable(output)
    where = find_device(device)
    if store is None and (judges := judges_of(model_folder(run))):
        shipped = load_run(run, device)
        judge = read_judge(judges[-1], where)
        return write_explorer(output, shipped, imagined(shipped, judge), None, judge)
    model, slices, known = open_trained(run, store, device, telling=False)
    if model.condition:
        tell(f"the explorer draws and encodes without telling the network the {model.condition}")
    if model.refiner is not None:
        tell("the explorer draws without the refiner of the run")
    cache = cache_of(slices, model.folder)
    (segmenter,) = segmenters_for(slices, cache, device=where, tell=tell, progress=progress)
    patients = slices.basal().complete(known.names)
    return write_explorer(output, model, patients, known, segmenter)


def write_explorer(
    output: Path, run: Run, patients: SliceDataset, known: LatentTable | None, segmenter: Segmenter
) -> Explorer:
    """Writes the folder, see `explore`.

    Args:
        output: Folder to write.
        run: The model.
        patients: Slices, one per patient, to start from.
        known: Codes and attributes of the training patients, through which the lines are fitted;
            None takes the lines that the model saved.
        segmenter: Measures what is drawn.
    """
    shown = patients.take(spread(patients.cases, MOST_CASES))
    device = next(run.network.parameters()).device
    codes = encode(run.network, shown.images.to(device))[0]
    data = described(run, known, segmenter, shown, codes) | {"patients": len(patients)}
    image, z = examples(run)
    with atomic_folder(output) as folder:
        for file in filter(Path.is_file, PAGE.rglob("*")):
            write(folder / file.relative_to(PAGE), file.read_bytes())
        write_module(
            Part(run.network, "decode"), {"z": z}, ["reconstruction"], folder / "decoder.onnx"
        )
        write_module(
            segmenter.network, {"image": image[:, :1]}, ["logits"], folder / "segmenter.onnx"
        )
        write(folder / "cases.bin", packed(shown))
        write(folder / "data.json", json.dumps(data, allow_nan=False))
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return Explorer(output, len(shown), size, known is None)


def check_replaceable(folder: Path) -> None:
    """Refuses a folder that holds anything but an explorer: it would be removed."""
    require_free(folder, "explore")
    above = next(place for place in folder.absolute().parents if place.exists())
    if not os.access(above, os.W_OK):  # known only after minutes otherwise
        raise DataError(f"{above} may not be written; choose another folder")
    if folder.is_dir() and not is_empty(folder):
        if not AN_EXPLORER.is_at(folder):
            raise DataError(f"{folder} holds no explorer, so it is not replaced; choose another")
        page = (file.relative_to(PAGE).as_posix() for file in PAGE.rglob("*"))
        check_own(folder, [*page, *MADE], "an explorer")


def spread(cases: pd.DataFrame, most: int) -> np.ndarray:
    """Chooses patients, at most so many: in turn one of each domain, diagnosis and split. Returns
    the numbers of their rows, rising.

    Example:
        >>> cases = pd.DataFrame({"pathology": ["NOR", "NOR", "NOR", "DCM"]})
        >>> spread(cases.assign(domain="acdc", split="train"), 3).tolist()
        [0, 1, 3]
    """
    turn = cases.groupby(["domain", "pathology", "split"], dropna=False).cumcount().to_numpy()
    return np.sort(np.argsort(turn, kind="stable")[:most])


def packed(slices: SliceDataset) -> bytes:
    """Packs slices as 8-bit greys, then their labels, (N, C, H, W) each, deflated."""
    images, labels = grey(slices.images.numpy()), slices.labels.numpy()
    return zlib.compress(images.tobytes() + labels.tobytes(), 9)


def described(
    run: Run,
    known: LatentTable | None,
    segmenter: Segmenter,
    shown: SliceDataset,
    codes: np.ndarray,
) -> dict[str, Any]:
    """Returns the content of data.json, in plain values: no path, no date, nothing of a header.
    Shown are slices of one patient each, with their codes, (N, D)."""
    if known is None:
        calibration, usual = Calibration.of_lines(run.about["calibration"]), _usual(run)
    else:
        calibration = Calibration.fit(known)
        usual = np.percentile(known.attributes, (1, 99), axis=0).T
    mean, deviation = (np.asarray(run.about[key]) for key in ("code_mean", "code_deviation"))
    attributes = [
        {
            "name": name,
            "long": about.label,
            "kind": about.kind,
            "unit": SYMBOLS.get(about.unit, about.unit),
            "structure": HEART.index(about.structure),
            "column": column_of(name),
            "ejected": _ejected(name),
            "density": MUSCLE_G_PER_ML if about.kind is Kind.MASS else None,
            "dimension": calibration.dimensions[k],
            "intercept": float(calibration.intercept[k]),
            "slope": float(calibration.slope[k]),
            "low": float(calibration.low[k]),
            "high": float(calibration.high[k]),
            "usual": usual[k].tolist(),
        }
        for k, (name, about) in enumerate((n, ATTRIBUTES[n]) for n in calibration.names)
    ]
    widest = [int(d) for d in np.argsort(-deviation) if d not in calibration.dimensions]
    distance = (((codes - mean) / np.where(deviation > 0, deviation, 1)) ** 2).sum(axis=1)
    facts = shown.cases[["case", "split", "domain", "vendor", "pathology"]].astype(str)
    measured = areas(shown.labels, shown.scale)
    return {
        "method": run.pipeline.method,
        "dataset": run.about["train_dataset"],
        "seed": run.about["seed"],
        "synthetic": bool(shown.info.get("synthetic", False)),
        "generated": known is None,
        "channels": _channels(shown),
        "slices": shown.scale.slices,
        "size": int(shown.images.shape[-1]),
        "pixel": shown.scale.pixel,
        "unit": SYMBOLS.get(shown.scale.unit, shown.scale.unit),
        "reach": REACH,
        "code": {"mean": mean.tolist(), "deviation": deviation.tolist()},
        "attributes": attributes,
        "free": widest,
        "structures": [
            {"name": s.name, "long": TITLES[s], "colour": "#{:02x}{:02x}{:02x}".format(*COLOURS[s])}
            for s in HEART
        ],
        "segmenter": {"dice": segmenter.dice, "patients": segmenter.patients},
        "start": int(distance.argmin()),
        "cases": [
            fact | {"code": rounded(code), "values": rounded(values), "areas": rounded(found)}
            for fact, code, values, found in zip(
                facts.to_dict("records"),
                codes,
                shown.attributes(calibration.names),
                measured,
                strict=True,
            )
        ],
    }


def _ejected(name: str) -> list[int] | None:
    """Says of what sizes at ED and ES an attribute is the fraction ejected; None of another."""
    about = ATTRIBUTES[name]
    if about.kind is not Kind.RATIO or about.structure is Structure.MYO:  # which thickens
        return None
    return [column(phase, about.structure) for phase in about.phases]


def _channels(shown: SliceDataset) -> list[str]:
    """Names channels: the phase, and which of the slices of a stack."""
    count = shown.scale.slices
    if count == 1:
        return list(shown.phases)
    return [f"{phase} {k} of {count}" for phase in shown.phases for k in range(1, count + 1)]


def _usual(run: Run) -> np.ndarray:
    """Estimates where 98 of 100 training patients lie in each attribute, (K, 2), without them."""
    lines = run.about["calibration"].values()
    middle, deviation = (np.array(run.about[f"attribute_{key}"]) for key in ("mean", "deviation"))
    ends = [(line["low"], line["high"]) for line in lines]
    return np.clip(
        middle[:, None] + deviation[:, None] * [-2.326, 2.326], *np.array(ends).T[..., None]
    )


def imagined(run: Run, judge: Segmenter, count: int = IMAGINED) -> SliceDataset:
    """Draws hearts to start from, where no patient's slice may be shown, and labels them by the
    judge.

    Codes are drawn from a normal distribution with the mean and the covariance of the training
    codes; attributes are read from them by the saved lines.
    """
    population, lines = Population.of_facts(run.about), run.about["calibration"]
    if population is None:
        raise DataError(
            f"{run.folder} does not say where its training codes lie; give its store: --data "
            "(store=)"
        )
    codes = population.draw(count, np.random.default_rng(0))
    slices = decode(run.network, codes).clamp(0, 1)
    labels = judge(slices)
    slices = slices * (labels > 0)
    values = Calibration.of_lines(lines).read(codes)
    facts: dict[str, Any] = {"case": [f"generated {n:02d}" for n in range(1, count + 1)]}
    facts |= dict.fromkeys(("split", "vendor", "pathology"), "")
    facts |= {"domain": "generated", "slice_index": 0}
    facts |= {name: values[:, k] for k, name in enumerate(lines)}
    found = areas(labels, scale_of(run.about["recipe"]))
    for name, sizes in zip(areas_at(Phase), found.T, strict=False):
        facts.setdefault(name, sizes)
    info = {"dataset": run.about["train_dataset"], "recipe": run.about["recipe"]}
    info["synthetic"] = bool(run.about.get("synthetic"))
    return SliceDataset(slices, labels, pd.DataFrame(facts), info, run.folder)


def rounded(values: np.ndarray) -> list[float]:
    """Rounds to four decimals: a code is of the order of 1, an area is known to .02 cm^2."""
    return np.asarray(values, dtype=float).round(4).tolist()
