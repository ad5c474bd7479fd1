"""Encodes a scan from outside: mask, end-diastole, crop, code, attributes, and whether to trust it.

The crop is cut by the very transforms that made the training slices, by the recipe of the run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..attributes import ATTRIBUTES
from ..data.anatomy import (
    APART,
    GAP,
    ISLAND,
    MISPLACED,
    SURE,
    exchanged_labels,
    handedness,
    is_flipped,
    oddities,
    unlikely_size,
)
from ..data.anatomy import CUT as CUT_OFF
from ..data.masks import CANONICAL, noted_phases
from ..data.nifti import NEAR, Volume
from ..data.reading import ToCanonicalLabelsd
from ..data.recipe import Recipe
from ..data.scan import Scan, read_scan
from ..data.store import SliceDataset
from ..data.transforms import crop_heart
from ..heart import pixel_counts
from ..metrics.calibration import read_lines
from ..metrics.cardiac_function import find_phases
from ..metrics.population import FEWEST, Population
from ..report.encodings import Shown, draw_patient
from ..report.style import picture, stacked
from ..runtime.contents import store_of
from ..runtime.messages import counted
from ..runtime.validation import build
from ..schema import MANUAL, STRUCTURES, DataError, Keys, Structure
from ..segmentation.scans import STILL, ScanSegmenter, Segmentation
from ..training.run import Run, decode, encode

MIRROR_IMAGE = "the pictures show a mirror image of a heart: --mirror (mirror=True) turns it round"
ANOTHER_ORDER = (
    "mask and scan are stored in different orders by their affines: voxels are matched as they are "
    "stored; save the mask in the order of its scan"
)
DOUBTFUL = (APART, CUT_OFF, GAP, ISLAND, MISPLACED)
"""What is said of a given mask in the words of ``check``."""
CUT = 0.02
"""Share of the heart outside the crop above which it is reported."""


@dataclass(frozen=True)
class Encoded:
    """What a model says of one scan.

    Attributes:
        name: Name of the scan.
        frame: End-diastole, from 0; ``frames`` is their number.
        slice_index: The encoded slice, from 0 in the order of the file.
        mask_source: ``manual``, or the name of the segmenter.
        code: Posterior mean, (D,).
        attributes: A row per attribute of the model: ``attribute``, ``unit``, ``measured`` on the
            mask, ``read`` from the code with ``low`` and ``high``, the 95 % interval, and whether
            it is ``outside`` the range of the training patients.
        crop, label, reconstruction: The slice as it is encoded, its canonical mask, and what the
            model draws of it, (H, W); of two phases ED above ES, (2 H, W).
        distance: Mahalanobis distance from the training codes; NaN where these are not known.
        percentile: Per cent of the training patients that are nearer.
        place: Place on the map of the training patients, (2,).
        predicted_dice: Structure -> expected Dice of a predicted mask; empty for a given one.
        warnings: Why the result should not be trusted, in words.
    """

    name: str
    frame: int
    frames: int
    slice_index: int
    mask_source: str
    code: np.ndarray
    attributes: pd.DataFrame
    crop: np.ndarray
    label: np.ndarray
    reconstruction: np.ndarray
    distance: float
    percentile: float
    place: np.ndarray
    predicted_dice: Mapping[Structure, float]
    warnings: tuple[str, ...]

    @property
    def trust(self) -> str:
        """Says where the code lies among those of the training patients."""
        if not np.isfinite(self.distance):
            return "unknown: the run does not say where its training codes lie"
        return Population.words(self.percentile)

    @property
    def row(self) -> dict[str, Any]:
        """The row of codes.csv."""
        row: dict[str, Any] = {"scan": self.name, "frame": self.frame, "frames": self.frames}
        row |= {"slice_index": self.slice_index, "mask_source": self.mask_source}
        row |= {f"Dice_{name}": self.predicted_dice.get(Structure[name]) for name in STRUCTURES}
        for values in self.attributes.to_dict("records"):
            name = values["attribute"]
            row[f"{name}_measured"] = values["measured"]
            row |= {f"{name}_{key}": values[key] for key in ("read", "low", "high")}
        row |= {"distance": self.distance, "percentile": self.percentile, "trust": self.trust}
        row["warnings"] = "; ".join(self.warnings)
        return row | {f"z{d}": value for d, value in enumerate(self.code.tolist())}

    @property
    def shown(self) -> Shown:
        """What a picture and the page show of it."""
        return Shown(
            self.name, self.crop, self.label, self.reconstruction, tuple(self.place.tolist()),
            self.percentile, self.trust, self.attributes.to_dict("records"), self.mask_source,
            f"frame {self.frame} of {self.frames}, slice {self.slice_index} (from 0)",
            {structure.name: dice for structure, dice in self.predicted_dice.items()},
            list(self.warnings),
        )  # fmt: skip

    def __repr__(self) -> str:
        doubts = counted(len(self.warnings), "warning")
        return (
            f"<Encoded {self.name}, {self.shown.where}, {self.trust}, {doubts}: see code, "
            "attributes>"
        )

    def _repr_html_(self) -> str:
        table = self.attributes.to_html(index=False, float_format="{:.1f}".format)
        said = "".join(f"<p>{text}</p>" for text in (self.trust, *self.warnings))
        return picture(lambda path: draw_patient(self.shown, path)) + table + said


def encode_scan(
    run: Run,
    path: str | Path,
    mask: str | Path | None = None,
    *,
    segmenter: Callable[[], ScanSegmenter] | None = None,
    labels: Mapping[int, Structure] = CANONICAL,
    known: Population | None = None,
    mirror: bool = False,
    name: str = "",
) -> Encoded:
    """Encodes one scan; see the class for what comes out.

    Args:
        run: The model.
        path: What `read_scan` reads.
        mask: Its mask, in the same order of voxels, a frame for each of the scan; None segments it.
        segmenter: Opens what outlines hearts; needed without a mask.
        labels: Raw label number -> structure in the mask.
        known: Where the training codes lie, see `population_of`.
        mirror: Whether the scan is stored as a mirror image, and is turned round.
        name: What to call the scan; empty takes the name of its file.

    Raises:
        DataError: If scan or mask cannot be read, do not fit, or show no usable slice.
    """
    scan, recipe = read_scan(path), recipe_of(run)
    count = len(recipe.phases)
    if scan.frames.shape[3] < count:
        raise DataError(
            f"{scan.name} holds a single frame, and the model was trained on ED and ES; give a cine"
        )
    if mask is None:
        if segmenter is None:
            raise DataError(f"{scan.name} has no mask, and no segmenter was given; give one")
        outlines = segmenter()
        scan = _turned(scan, mirror)
        frames, found = _outlined(scan, outlines, count)
        outlined = np.stack([one.labels for one in found])
        if not outlined[0].any():
            raise DataError(f"no heart was found in {scan.name}; look at it, or give its mask")
        source, dice = outlines.name, found[0].predicted_dice
        where = ("at ED: ", "at ES: ") if count > 1 else ("",)
        texts = [
            f"{at}{text}" for at, one in zip(where, found, strict=True) for text in one.warnings
        ]
        said = [*texts, *dict.fromkeys(one.familiar for one in found if one.familiar)]
    else:
        given = read_scan(mask)
        frames, outlined = _given(scan, given, labels, noted_phases(Path(mask)), recipe.phases)
        volumes = _volume(scan, frames[0]), _volume(given, frames[0])
        odd = (oddity.what for oddity in oddities(*volumes, outlined[0], matched=False))
        said = [ANOTHER_ORDER] * is_flipped(*volumes) + [what for what in odd if what in DOUBTFUL]
        scan, source, dice = _turned(scan, mirror), MANUAL, {}
        outlined = outlined[:, :, ::-1] if mirror else outlined
        if exchanged := exchanged_labels(outlined[0]):
            said.append(
                f"labels look exchanged: {exchanged}; give their numbers: --mask-labels (labels=)"
            )
        if size := unlikely_size(pixel_counts(outlined[0]), scan.spacing_mm):
            said.append(f"{size}: is the spacing that of the scan?")
    if handedness(outlined[0], scan.spacing_mm) < -SURE:
        said.append(MIRROR_IMAGE)
    if scan.frames.shape[3] == 1:
        said.append("a single frame came: it is taken for end-diastole")
    if run.condition and run.network.told is None:
        said.append(untold(run))
    images = np.stack([scan.frames[..., frame] for frame in frames])
    crop = crop_heart(images, outlined, scan.spacing_mm, recipe, predicted=mask is None)
    if crop["cut"] > CUT:
        said.append(f"{crop['cut']:.0%} of the heart leaves the crop")
    slices = torch.as_tensor(np.asarray(crop[Keys.IMAGE]), dtype=torch.float32)[None]
    device = next(run.network.parameters()).device
    code = encode(run.network, slices.to(device))[0]
    table = attributes_of(run, code, crop["attributes"])
    said += [
        f"{row['attribute']} {row['measured']:.3g} {row['unit']} on the mask is outside of the "
        "range of the training patients: look at the mask"
        for row in table.to_dict("records")
        if row["outside"]
    ]
    distance, percentile, place = np.nan, np.nan, np.full(2, np.nan)
    if known is not None:
        distance, place = float(known.distance(code)[0]), known.place(code)[0]
        percentile = float(known.percentile(np.array([distance]))[0])
    return Encoded(
        name or scan.name, frames[0], scan.frames.shape[3], int(crop["slice_index"]), source,
        code[0], table, stacked(slices[0].numpy()),
        stacked(np.asarray(crop[Keys.LABEL])).astype(np.uint8),
        stacked(decode(run.network, code)[0].numpy()), distance, percentile, place, dice,
        tuple(said),
    )  # fmt: skip


def attributes_of(run: Run, code: np.ndarray, measured: Mapping[str, float]) -> pd.DataFrame:
    """Puts what was measured on the mask beside what the code (1, D) says, a row per attribute of
    the model; without saved lines nothing is read from the code."""
    lines = run.about.get("calibration") or {}
    values = dict(zip(lines, read_lines(code, lines)[0].tolist(), strict=True)) if lines else {}
    rows = []
    for name in run.pipeline.attributes:
        read, low, high = values.get(name, [np.nan] * 3)
        line = {"low": -np.inf, "high": np.inf} | dict(lines.get(name, {}))
        rows.append(
            {"attribute": name, "unit": ATTRIBUTES[name].unit, "measured": measured[name],
             "read": read, "low": low, "high": high,
             "outside": not line["low"] <= measured[name] <= line["high"]}
        )  # fmt: skip
    columns = ["attribute", "unit", "measured", "read", "low", "high", "outside"]
    return pd.DataFrame(rows, columns=columns)


def untold(run: Run) -> str:
    """Says that a conditional network was told nothing of a patient."""
    return (
        f"the network is told no {run.condition}, but was told that of its training patients: "
        f"--condition {run.condition}={run.network.categories[0]} (condition=...) tells it"
    )


def recipe_of(run: Run) -> Recipe:
    """Returns how a slice of a new patient is cropped: as in training, and the most basal one of a
    model that was trained on all slices, since that is the one by which patients are scored."""
    known = {k: v for k, v in run.about["recipe"].items() if k in Recipe.__dataclass_fields__}
    recipe = build(Recipe, known, "recipe")
    return replace(recipe, slice="basal") if recipe.slice == "all" else recipe


def population_of(run: Run) -> Population | None:
    """Returns where the training codes of a run lie.

    Runs of earlier versions did not keep it: it is then computed of the store, if that is there.
    """
    if known := Population.of_facts(run.about):
        return known
    try:
        train = SliceDataset.open(store_of(run.folder, None)).split("train").basal()
    except (DataError, ValueError):
        return None
    if len(train) < FEWEST:
        return None
    device = next(run.network.parameters()).device
    return Population.fit(encode(run.network, train.images.to(device))[0])


def _volume(scan: Scan, frame: int) -> Volume:
    return Volume(scan.frames[..., frame], scan.spacing_mm, scan.affine)


def _turned(scan: Scan, mirror: bool) -> Scan:
    return replace(scan, frames=scan.frames[:, ::-1]) if mirror else scan


def _outlined(
    scan: Scan, segmenter: ScanSegmenter, count: int
) -> tuple[list[int], list[Segmentation]]:
    """Segments a scan; returns end-diastole, and as second end-systole, with their masks."""
    cine = segmenter.segment_cine(scan.frames, scan.spacing_mm)
    frames = [cine.ed, cine.es][:count]
    if len({*frames}) < count:
        raise DataError(f"{scan.name}: {STILL}; the model was trained on ED and ES")
    return frames, [cine.frames[frame] for frame in frames]


def _given(
    scan: Scan,
    mask: Scan,
    labels: Mapping[int, Structure],
    noted: Mapping[str, int],
    phases: Sequence[str],
) -> tuple[list[int], np.ndarray]:
    """Returns the frame of each phase, ED and perhaps ES, as noted or else as the LV of the mask
    says; and the canonical labels there, (P, I, J, S)."""
    if mask.frames.shape != scan.frames.shape:
        raise DataError(
            f"the mask of {scan.name} has shape {mask.frames.shape} and the scan "
            f"{scan.frames.shape}; expected equal, with a frame of the mask for each of the scan"
        )
    raw = mask.frames
    if raw.dtype.kind == "f":
        raw = np.where(np.abs(raw - np.rint(raw)) <= NEAR, np.rint(raw), raw)
    cavity = np.isin(raw, [n for n, structure in labels.items() if structure == Structure.LV])
    found = dict(zip(("ED", "ES"), find_phases(cavity.sum(axis=(0, 1, 2))), strict=True))
    frames = [noted.get(phase, found[phase]) for phase in phases]
    if len({*frames}) < len(phases):
        raise DataError(
            f"the mask of {scan.name} outlines one frame, and the model was trained on ED and ES"
        )
    renumber = ToCanonicalLabelsd("mask", labels)
    canonical = [renumber({"mask": raw[..., frame]})["mask"] for frame in frames]
    return frames, np.stack(canonical)
