"""Hearts on request: the slice with the attributes asked for, and what was measured on it.

What a dimension stands for is a line fitted on the training patients of the store (`Calibration`).
A decoder draws hearts nearer to the middle than that line says, so dimensions are then corrected
until one segmenter finds what was asked for. What is reported is measured by another segmenter,
taught by other patients: it did not take part in the aiming.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ..attributes import ATTRIBUTES, check_names, is_area
from ..data.store import SliceDataset
from ..metrics.calibration import Calibration
from ..report.slices import requested_slice, traversal_gif, traversals
from ..report.style import SYMBOLS, picture
from ..runtime.device import find_device
from ..runtime.files import atomic_file, write
from ..runtime.folders import locked
from ..schema import HEART, STRUCTURES, DataError, LatentTable
from ..segmentation.judge import Segmenter, areas, cache_of, segmenters_for
from ..training.run import Run, decode, encode, load_run
from .control import segmented, traversed
from .score import check_fit, evaluate

FRAMES = 21
"""Of the animation, one way."""
REACH = 4.0
"""Standard deviations of the training codes that a dimension may be set to."""


def open_trained(
    run: str | Path, store: str | Path | None = None, device: str = "auto"
) -> tuple[Run, SliceDataset, LatentTable]:
    """A run, the slices that it was trained on, and its training patients, one slice each.

    Args and errors as `Studio.open`.
    """
    model = load_run(run, device)
    store = store or model.summary.get("store")
    if store is None or not Path(store).is_dir():
        raise DataError(f"the store that {run} was trained on is gone; give it with --data")
    opened = SliceDataset.open(store)
    if opened.name != model.about["train_dataset"]:
        raise DataError(
            f"{run} was trained on {model.about['train_dataset']} and {store} holds "
            f"{opened.name}; give the store that it was trained on"
        )
    check_fit(model, opened)
    known, names = opened.split("train").basal(), model.pipeline.attributes
    return model, opened, evaluate(model, known, names, find_device(device)).table


@dataclass(frozen=True)
class Studio:
    """A model with all that is needed to draw with it.

    Attributes:
        run: The model.
        store: Slices of the data set that it was trained on.
        calibration: What its dimensions stand for.
        aim: Corrects dimensions until what is drawn is what was asked for.
        judge: Measures what is drawn in the end; taught by other patients than ``aim``.
    """

    run: Run
    store: SliceDataset
    calibration: Calibration
    aim: Segmenter
    judge: Segmenter

    @classmethod
    def open(
        cls,
        run: str | Path,
        store: str | Path | None = None,
        device: str = "auto",
        tell: Callable[[str], None] = lambda message: None,
    ) -> Studio:
        """Reads run and store, fits the calibration, and trains segmenters or finds them trained.

        Args:
            run: Folder that ``train`` wrote.
            store: Folder that ``preprocess`` wrote; None is the one that the run was trained on.
            device: See `find_device`.
            tell: Called with a message before something takes minutes.

        Raises:
            DataError: If the store is gone, of another data set, or does not fit the model.
        """
        model, opened, known = open_trained(run, store, device)
        calibration, where = Calibration.fit(known), find_device(device)
        cache = cache_of(opened, model.folder)
        aim, judge = segmenters_for(opened, cache, (0, 1), device=where, tell=tell)
        return cls(model, opened, calibration, aim, judge)

    def start(self, case: str | None) -> tuple[np.ndarray, Tensor]:
        """Code (1, D) to start from and its slice (1, 1, H, W): a patient's, or the mean one.

        Raises:
            DataError: If the store has no such patient.
        """
        if case is None:
            code = np.asarray(self.run.about["code_mean"])[None]
            return code, decode(self.run.network, code)
        patients = self.store.basal()
        rows = np.flatnonzero(patients.cases["case"] == case)
        if not len(rows):
            some = ", ".join(patients.cases["case"][:3])
            raise DataError(
                f"{self.store.folder} has no case {case!r}; expected one of {some}, ..."
            )
        slices = patients.take(rows).images
        device = next(self.run.network.parameters()).device
        return encode(self.run.network, slices.to(device))[0], slices

    def heart(self, request: Mapping[str, float], case: str | None = None) -> Heart:
        """One heart with the requested attributes, of a patient or of the mean code.

        Args:
            request: Attribute -> value in its unit.
            case: Patient to start from; None is the mean code of the training patients.
        """
        code, original = self.start(case)
        before, after = self.generate(code, {}), self.generate(code, request)
        return Heart(
            case or "mean of the training patients",
            dict(request),
            original[0, 0].numpy(),
            before,
            after,
            self.measured(after.areas[0], request),
            self.calibration.outside(request),
        )

    def turned(self, case: str | None = None, reach: float = 3.0, steps: int = 7) -> Turned:
        """One heart, every attribute turned by ``reach`` deviations of the codes to either side."""
        code, original = self.start(case)
        places = np.linspace(-reach, reach, steps)
        slices, requested = traversed(self.run.network, code[0], self.calibration, places)
        labels, measured = segmented(self.judge, slices, self.store.pixel_cm2)
        return Turned(
            self.calibration, original[0, 0].numpy(), places, slices, labels, measured, requested
        )

    def generate(self, codes: np.ndarray, request: Mapping[str, float]) -> Generated:
        """Slices of codes (N, D) with the requested attributes, and what is measured on them."""
        codes = aimed(
            self.run.network, self.aim, self.calibration, codes, request, self.store.pixel_cm2
        )
        slices = decode(self.run.network, codes)
        labels = self.judge(slices)
        return Generated(slices, labels, areas(labels, self.store.pixel_cm2))

    def measured(self, found: np.ndarray, request: Mapping[str, float]) -> pd.DataFrame:
        """Requested beside measured: a row per attribute that a slice can show, or was requested.

        Args:
            found: Measured areas of LV, MYO and RV, (3,).
            request: Attribute -> value.
        """
        rows = []
        for name in dict.fromkeys([*request, *self.calibration.names]):
            attribute = ATTRIBUTES[name]
            area = float(found[HEART.index(attribute.structure)])
            rows.append(
                {
                    "attribute": name,
                    "requested": request.get(name, np.nan),
                    "unit": attribute.unit,
                    "structure": attribute.structure.name,
                    "measured_cm2": area,
                    "error_cm2": area - request[name]
                    if name in request and is_area(name)
                    else np.nan,
                }
            )
        return pd.DataFrame(rows)


@dataclass(frozen=True)
class Generated:
    """Decoded slices and labels, (N, 1, H, W), and areas of LV, MYO and RV in cm^2, (N, 3)."""

    slices: Tensor
    labels: Tensor
    areas: np.ndarray


@dataclass(frozen=True)
class Heart:
    """One heart as asked for.

    Attributes:
        title: Of which patient it is made.
        request: Attribute -> value asked for.
        original: Slice that it starts from, (H, W).
        before, after: As the model draws it unchanged, and with the request; one slice each.
        table: See `Studio.measured`.
        warnings: A sentence for each value that no training patient had.
    """

    title: str
    request: Mapping[str, float]
    original: np.ndarray
    before: Generated
    after: Generated
    table: pd.DataFrame
    warnings: list[str]

    @property
    def slice(self) -> np.ndarray:
        """The slice as asked for, (H, W) in [0, 1]."""
        return self.after.slices[0, 0].numpy()

    def draw(self, path: Path) -> None:
        """Before, after and their difference, as PNG."""
        both = (self.before, self.after)
        requested_slice(
            self.original,
            [part.slices[0, 0].numpy() for part in both],
            [part.labels[0, 0].numpy() for part in both],
            [part.areas[0] for part in both],
            self.request,
            path,
            title=self.title,
        )

    def _repr_html_(self) -> str:
        return picture(self.draw) + self.table.to_html(index=False, float_format="{:.1f}".format)


@dataclass(frozen=True)
class Turned:
    """One heart, every attribute turned.

    Attributes:
        calibration: Its ``names`` are the K attributes.
        original: Slice that it starts from, (H, W).
        places: Deviations of the training codes, (S,).
        slices, labels: What is drawn, and what the judge sees there, (K, S, H, W).
        measured: Areas of LV, MYO and RV in cm^2, (K, S, 3).
        requested: What the places stand for, in the unit of each attribute, (K, S).
    """

    calibration: Calibration
    original: np.ndarray
    places: np.ndarray
    slices: Tensor
    labels: np.ndarray
    measured: np.ndarray
    requested: np.ndarray

    @property
    def units(self) -> list[str]:
        return [ATTRIBUTES[name].unit for name in self.calibration.names]

    @property
    def table(self) -> pd.DataFrame:
        """A row per attribute and place: requested in its unit, LV, MYO and RV in cm^2."""
        about = zip(self.calibration.names, self.calibration.dimensions, self.units, strict=True)
        return pd.DataFrame(
            {"attribute": name, "dimension": dimension, "step": float(place),
             "requested": self.requested[k, s], "unit": unit,
             **dict(zip(STRUCTURES, self.measured[k, s], strict=True))}
            for k, (name, dimension, unit) in enumerate(about)
            for s, place in enumerate(self.places)
        )  # fmt: skip

    def draw(self, path: Path) -> None:
        """A row of pictures per attribute, measured areas below each, as PNG."""
        traversals(
            self.slices.numpy(),
            self.calibration.names,
            self.places,
            path,
            original=self.original,
            dimensions=self.calibration.dimensions,
            labels=self.labels,
            areas=self.measured,
            requested=self.requested,
            units=self.units,
        )

    def _repr_html_(self) -> str:
        return picture(self.draw)


def aimed(
    network: nn.Module,
    segmenter: Segmenter,
    calibration: Calibration,
    codes: np.ndarray,
    request: Mapping[str, float | np.ndarray],
    pixel_cm2: float,
    rounds: int = 12,
) -> np.ndarray:
    """Codes (N, D) with the dimensions of the requested attributes set so that they are drawn.

    Starts from the lines of the calibration, then moves each dimension by what is still missing
    over its slope, up to four standard deviations of the training codes from their mean; of all
    rounds the nearest one is kept. Volumes, which a slice does not hold, stay on their line.

    Args:
        network: Decodes.
        segmenter: Measures what is drawn in each round.
        calibration: Lines of the network.
        codes: What to start from.
        request: Attribute -> one value, or one for each code, (N,).
        pixel_cm2: Area of a pixel.
        rounds: How often the dimensions are moved.

    Raises:
        ValueError: As `Calibration.set`.
    """
    codes = calibration.set(codes, request)
    shown = [k for k, name in enumerate(calibration.names)
             if name in request and is_area(name)]  # fmt: skip
    if not shown:
        return codes
    columns = [calibration.dimensions[k] for k in shown]
    own = [HEART.index(ATTRIBUTES[calibration.names[k]].structure) for k in shown]
    values = [request[calibration.names[k]] for k in shown]
    wanted = np.stack([np.broadcast_to(value, len(codes)) for value in values], axis=1)
    reach = REACH * calibration.code_deviation[shown]
    low, high = calibration.code_mean[shown] - reach, calibration.code_mean[shown] + reach
    codes[:, columns] = codes[:, columns].clip(low, high)
    best, least = codes.copy(), np.full(len(codes), np.inf)
    for _ in range(rounds):
        missing = wanted - areas(segmenter(decode(network, codes)), pixel_cm2)[:, own]
        error = np.abs(missing).max(axis=1)
        best[error < least] = codes[error < least]
        least = np.minimum(error, least)
        codes[:, columns] = (codes[:, columns] + missing / calibration.slope[shown]).clip(low, high)
    return best


def generate(
    run: str | Path,
    request: Mapping[str, float],
    output: str | Path,
    *,
    store: str | Path | None = None,
    case: str | None = None,
    device: str = "auto",
    tell: Callable[[str], None] = lambda message: None,
) -> tuple[pd.DataFrame, list[str]]:
    """Draws one heart as asked for.

    Writes slice.nii.gz, labels.nii.gz, slice.png (before, after, difference) and measured.csv.

    Args:
        run: Folder that ``train`` wrote.
        request: Attribute -> value in its unit.
        output: Folder to write into.
        store: See `Studio.open`.
        case: Patient to start from; None is the mean code of the training patients.
        device, tell: See `Studio.open`.

    Returns:
        See `Studio.measured`; and a warning for each value that no training patient had.
    """
    check_names(request)  # before minutes are spent on a segmenter
    output = Path(output)
    with locked(output):
        studio = Studio.open(run, store, device, tell)
        heart, spacing = studio.heart(request, case), studio.store.info["recipe"]["spacing"]
        write(output / "measured.csv", heart.table.to_csv(index=False))
        save_nifti(heart.after.slices[0, 0, None], output / "slice.nii.gz", spacing)
        save_nifti(heart.after.labels[0, 0, None], output / "labels.nii.gz", spacing)
        heart.draw(output / "slice.png")
    return heart.table, heart.warnings


def traverse(
    run: str | Path,
    output: str | Path,
    *,
    store: str | Path | None = None,
    case: str | None = None,
    reach: float = 3.0,
    steps: int = 7,
    device: str = "auto",
    tell: Callable[[str], None] = lambda message: None,
) -> pd.DataFrame:
    """Turns every attribute of one heart.

    Writes traversal.png (measured areas below each picture), traversal.gif, a stack NAME.nii.gz per
    attribute with the steps as slices, and traversal.csv.

    Args:
        run, output, store, case, device, tell: As in `generate`.
        reach: Standard deviations of the training codes to either side.
        steps: Pictures per attribute.

    Returns:
        traversal.csv: attribute, dimension, step, requested, unit, and measured LV, MYO, RV (cm^2).
    """
    if steps < 2 or not 0 < reach < np.inf:
        raise ValueError(f"steps is {steps} and range {reach}; expected 2 or more, and above 0")
    output = Path(output)
    with locked(output):
        studio = Studio.open(run, store, device, tell)
        turned = studio.turned(case, reach, steps)
        turned.draw(output / "traversal.png")
        code, names = studio.start(case)[0], turned.calibration.names
        smooth, asked = traversed(
            studio.run.network, code[0], turned.calibration, np.linspace(-reach, reach, FRAMES)
        )
        captions = [
            [f"{value:.0f} {SYMBOLS.get(unit, unit)}" for value in values]
            for values, unit in zip(asked, turned.units, strict=True)
        ]
        traversal_gif(smooth.numpy(), names, output / "traversal.gif", captions)
        for name, slices in zip(names, turned.slices, strict=True):
            save_nifti(slices, output / f"{name}.nii.gz", studio.store.info["recipe"]["spacing"])
        write(output / "traversal.csv", turned.table.to_csv(index=False))
    return turned.table


def save_nifti(slices: Tensor, path: Path, spacing: float) -> None:
    """Slices (S, H, W) as a stack of voxels in mm; viewers show it upright, RV on the left."""
    # columns run to the patient's left and rows to the back, both negative in RAS coordinates
    affine = np.diag([-spacing, -spacing, 1.0, 1.0])
    voxels = torch.permute(slices, (2, 1, 0)).numpy()
    image = nib.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units("mm")
    with atomic_file(path) as beside:
        nib.save(image, beside)
