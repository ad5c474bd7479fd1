"""A trained model with all that drawing hearts needs: lines, segmenters, patients to start from.

What a dimension stands for is a line fitted on the training patients of the store (`Calibration`).
A decoder draws hearts nearer to the mean than that line says, so dimensions are then corrected
until one segmenter finds the requested areas (`aimed`). The reported areas are measured by another
segmenter, trained on other patients, which took no part in the correction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypedDict

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..attributes import ATTRIBUTES
from ..data.recipe import scale_of
from ..data.store import SliceDataset, areas
from ..metrics.calibration import Calibration
from ..report.slices import requested_slice, traversals
from ..report.style import picture, stacked
from ..runtime.device import find_device
from ..runtime.messages import counted
from ..runtime.shipped_models import judges_of, model_folder
from ..schema import SIZES, DataError, Phase, Scale, structures_at
from ..segmentation.guide import refuse_guide
from ..segmentation.judge import (
    Segmenter,
    cache_of,
    read_judge,
    segmenters_for,
)
from ..training.run import Run, decode, encode, load_run
from .aiming import aimed, check_request
from .control import segmented, traversed
from .opening import open_trained
from .requests import compared, not_reached
from .turns import STEPS, TURN, check_steps

MEAN_HEART = "mean of the training patients"
"""What a heart that starts from no patient starts from."""


class Opening(TypedDict, total=False):
    """What `Studio.open` is told besides the run."""

    store: str | Path | None
    device: str
    tell: Callable[[str], None]
    plain: bool | None


@dataclass(frozen=True)
class Studio:
    """A model with all that is needed to draw with it."""

    run: Run  # the model
    # slices of the data set that it was trained on; None of a shipped model, which draws without
    # any patient
    store: SliceDataset | None
    calibration: Calibration  # what its dimensions stand for
    device: torch.device  # where segmenters are trained and used
    tell: Callable[[str], None]  # called with a message before something takes minutes

    @classmethod
    def open(
        cls,
        run: str | Path,
        store: str | Path | None = None,
        device: str = "auto",
        tell: Callable[[str], None] = lambda message: None,
        plain: bool | None = None,
    ) -> Studio:
        """Reads run and store, and fits the calibration.

        Args:
            run: Folder that ``train`` wrote.
            store: Folder that ``preprocess`` wrote; None is the one that the run was trained on.
            device: See `find_device`.
            tell: Called with a message before something takes minutes.
            plain: Whether the refiner of the run is left out, see `load_run`.

        Raises:
            DataError: If the store is gone, of another data set, or does not fit the model.
        """
        if store is None and judges_of(model_folder(run)):
            shipped = load_run(run, device, plain=plain)
            lines = Calibration.of_lines(shipped.about["calibration"])
            return cls(shipped, None, lines, find_device(device), tell)
        model, opened, known = open_trained(run, store, device, plain)
        return cls(model, opened, Calibration.fit(known), find_device(device), tell)

    def telling(self, condition: str | None, case: str | None = None) -> Studio:
        """The same studio, whose network is told a category with all that it draws.

        Args:
            condition: See `Run.telling`; None is that of the patient.
            case: Patient to start from; None is the mean code, of which nothing is told.

        Raises:
            ValueError: See `Run.telling`.
            DataError: If the store has no such patient.
        """
        run = self.run
        if condition is not None:
            run = run.telling(condition)
        elif run.condition and case is not None:
            ((run, _),) = run.by_condition(self._patient(case).cases)
        return replace(self, run=run)

    @property
    def spacing_mm(self) -> float:
        """Side of a pixel."""
        return float(self.run.about["recipe"]["spacing"])

    @property
    def scale(self) -> Scale:
        """What a pixel counts for, and the slices of a stack."""
        return scale_of(self.run.about["recipe"])

    @property
    def field_cm2(self) -> float:
        """Area of a slice."""
        return (self.run.about["recipe"]["size"] * self.spacing_mm) ** 2 / 100

    @cached_property
    def segmenters(self) -> list[Segmenter]:
        """Two segmenters, each of other patients; what a store lacks is trained, for minutes."""
        if self.store is None:
            found = [read_judge(file, self.device) for file in judges_of(self.run.folder)]
        else:
            cache = cache_of(self.store, self.run.folder)
            found = segmenters_for(self.store, cache, (0, 1), device=self.device, tell=self.tell)
        for segmenter in found:
            refuse_guide(self.run.about, segmenter)
        return found

    @property
    def aim(self) -> Segmenter:
        """Measures while dimensions are corrected until the requested areas are drawn."""
        return self.segmenters[0]

    @property
    def judge(self) -> Segmenter:
        """Measures the final slice; trained on other patients than ``aim``."""
        return self.segmenters[1]

    def start(self, case: str | None) -> tuple[np.ndarray, Tensor]:
        """Returns the code of a patient, or the mean code, (1, D), and its slice, (1, C, H, W)."""
        if case is None:
            code = np.asarray(self.run.about["code_mean"])[None]
            return code, decode(self.run.painter, code)
        slices = self._patient(case).images
        device = next(self.run.network.parameters()).device
        return encode(self.run.network, slices.to(device))[0], slices

    def _patient(self, case: str) -> SliceDataset:
        """The most basal slice of a patient."""
        if self.store is None:
            raise DataError(
                f"no case {case!r}: a shipped model has no patients; give a store: --data (store=)"
            )
        patients = self.store.basal()
        rows = np.flatnonzero(patients.cases["case"] == case)
        if not len(rows):
            some = ", ".join(patients.cases["case"][:3])
            raise DataError(
                f"{self.store.folder} has no case {case!r}; expected one of {some}, ..."
            )
        return patients.take(rows)

    def heart(self, request: Mapping[str, float], case: str | None = None) -> Heart:
        """Draws one heart with requested attributes, in their units, from a patient or from the
        mean code of the training patients; refuses what `check_request` does."""
        check_request(request, self.field_cm2)
        code, original = self.start(case)
        self.calibration.set(code, request)  # refused before minutes are spent on segmenters
        before, after = self.generate(code, {}), self.generate(code, request)
        table = compared(after.areas[0], request, self.calibration.names, self.scale)
        return Heart(
            case or MEAN_HEART,
            dict(request),
            original[0].numpy(),
            before,
            after,
            table,
            self.calibration.outside(request) + not_reached(table),
            self.scale.unit,
        )

    def turned(self, case: str | None = None, reach: float = TURN, steps: int = STEPS) -> Turned:
        """Draws one heart with every attribute turned by ``reach`` deviations to either side."""
        check_steps(steps, reach)
        code, original = self.start(case)
        places = np.linspace(-reach, reach, steps)
        slices, requested = traversed(self.run.painter, code[0], self.calibration, places)
        labels, measured = segmented(self.judge, slices, self.scale)
        return Turned(
            self.calibration,
            original[0].numpy(),
            places,
            slices,
            labels,
            measured,
            requested,
            self.scale.unit,
            case or MEAN_HEART,
        )

    def generate(self, codes: np.ndarray, request: Mapping[str, float | np.ndarray]) -> Generated:
        """Draws codes (N, D) with the requested attributes, and measures the slices."""
        painter = self.run.painter
        codes = aimed(painter, self.aim, self.calibration, codes, request, self.scale)
        slices = decode(painter, codes)
        labels = self.judge(slices)
        return Generated(slices, labels, areas(labels, self.scale))


@dataclass(frozen=True)
class Generated:
    """Decoded slices and labels, (N, C, H, W), and areas of LV, MYO and RV in cm^2, (N, 3 C)."""

    slices: Tensor
    labels: Tensor
    areas: np.ndarray


@dataclass(frozen=True)
class Heart:
    """One heart with requested attributes.

    Attributes:
        title: Patient that it starts from.
        request: Attribute -> requested value.
        original: Slice that it starts from, (C, H, W).
        before, after: What the model draws from the unchanged code, and with the request; one
            slice each.
        table: See `compared`.
        warnings: A sentence for each value that no training patient had, and for each that was not
            reached.
        unit: Of the measured areas, mL of stacks.
    """

    title: str
    request: Mapping[str, float]
    original: np.ndarray
    before: Generated
    after: Generated
    table: pd.DataFrame
    warnings: list[str]
    unit: str

    @property
    def slice(self) -> np.ndarray:
        """The requested slice, (H, W) in [0, 1]; (C, H, W) of several phases."""
        drawn = self.after.slices[0].numpy()
        return drawn[0] if len(drawn) == 1 else drawn

    def draw(self, path: Path) -> None:
        """Draws before, after and their difference, as PNG."""
        both = (self.before, self.after)
        requested_slice(
            stacked(self.original),
            [stacked(part.slices[0].numpy()) for part in both],
            [stacked(part.labels[0].numpy()) for part in both],
            [part.areas[0] for part in both],
            self.request,
            path,
            title=self.title,
            measured_in=self.unit,
            missed=self.table.loc[self.table["reached"].eq(False), "attribute"].tolist(),
        )

    def __repr__(self) -> str:
        wanted = ", ".join(f"{k} {v:g} {ATTRIBUTES[k].unit}" for k, v in self.request.items())
        return f"<Heart of {wanted}, from {self.title}: see table, slice, warnings>"

    def _repr_html_(self) -> str:
        return picture(self.draw) + self.table.to_html(index=False, float_format="{:.1f}".format)


@dataclass(frozen=True)
class Turned:
    """One heart, every attribute turned.

    Attributes:
        calibration: Its ``names`` are the K attributes.
        original: Slice that it starts from, (C, H, W).
        places: Deviations of the training codes, (S,).
        slices, labels: Drawn slices, and how the judge labels them, (K, S, C, H, W).
        measured: Areas of LV, MYO and RV in cm^2, at each phase, (K, S, 3 C). It and ``labels`` are
            None where no judge looked.
        requested: Values that the places stand for, in the unit of each attribute, (K, S).
        unit: Of the measured areas, mL of stacks.
        title: What is written above the slice that it starts from.
    """

    calibration: Calibration
    original: np.ndarray
    places: np.ndarray
    slices: Tensor
    labels: np.ndarray | None
    measured: np.ndarray | None
    requested: np.ndarray
    unit: str = SIZES[0]
    title: str = "original"

    @property
    def units(self) -> list[str]:
        return [ATTRIBUTES[name].unit for name in self.calibration.names]

    @property
    def table(self) -> pd.DataFrame:
        """A row per attribute and place: requested in its unit, LV, MYO and RV in cm^2."""
        assert self.measured is not None
        columns = structures_at(Phase)[: self.measured.shape[-1]]
        about = zip(self.calibration.names, self.calibration.dimensions, self.units, strict=True)
        return pd.DataFrame(
            {"attribute": name, "dimension": dimension, "step": float(place),
             "requested": self.requested[k, s], "unit": unit,
             **dict(zip(columns, self.measured[k, s], strict=True))}
            for k, (name, dimension, unit) in enumerate(about)
            for s, place in enumerate(self.places)
        )  # fmt: skip

    def draw(self, path: Path) -> None:
        """Draws a row of slices per attribute, with measured areas below each, as PNG."""
        traversals(
            stacked(self.slices.numpy()),
            self.calibration.names,
            self.places.tolist(),
            path,
            original=stacked(self.original),
            dimensions=self.calibration.dimensions,
            labels=None if self.labels is None else stacked(self.labels),
            areas=self.measured,
            requested=self.requested,
            units=self.units,
            measured_in=self.unit,
            title=self.title,
        )

    def __repr__(self) -> str:
        names = ", ".join(self.calibration.names)
        return f"<Turned {names}, {counted(len(self.places), 'picture')} each: see table, slices>"

    def _repr_html_(self) -> str:
        return picture(self.draw)
