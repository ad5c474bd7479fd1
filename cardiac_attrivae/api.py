"""The Python interface: a trained model as an object, in a script or in a notebook.

The commands write folders; here the same results are arrays and tables, and show themselves in a
notebook.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from html import escape
from pathlib import Path
from reprlib import repr as short
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from .attributes import ATTRIBUTES
from .data.masks import CANONICAL, label_numbers
from .data.store import SliceDataset
from .evaluation.encoding import Encoded, encode_scan, population_of
from .evaluation.grids import Grid, between, surface
from .evaluation.score import Scored, check_fit, score_model
from .evaluation.studio import Heart, Studio, Turned
from .evaluation.turns import STEPS, TURN
from .metrics.calibration import read_lines
from .metrics.population import Population
from .report.style import picture
from .runtime.device import find_device
from .schema import DataError
from .segmentation.guide import train_guide
from .segmentation.scans import load_segmenter
from .training.config import load_pipeline
from .training.pictures import draw_traversals
from .training.progress import show_progress
from .training.run import Run, decode, encode, load_run
from .training.workflow import train as run_training

__all__ = ["Model", "load_model", "open_store", "train"]


def load_model(
    folder: str | Path,
    store: str | Path | None = None,
    device: str = "auto",
    tell: Callable[[str], None] = print,
    plain: bool | None = None,
) -> Model:
    """Opens a run that ``train`` wrote, or the model that comes with the package.

    Args:
        folder: The run; ``acdc`` is the shipped model.
        store: Folder that ``preprocess`` wrote, with the slices that it was trained on; None is
            where that folder was during training. Needed by ``traverse`` and ``generate``.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        tell: Called with a message before something takes minutes.
        plain: Whether the refiner of the run is left out, see `load_run`.

    Raises:
        DataError: If the folder holds no finished run, or a damaged one.
    """
    run = load_run(folder, device, plain=plain)
    return Model(run, None if store is None else Path(store), device, tell)


def open_store(folder: str | Path) -> SliceDataset:
    """Opens a store that ``preprocess`` wrote; errors as `SliceDataset.open`."""
    return SliceDataset.open(folder)


def train(
    pipeline: str | Path,
    store: SliceDataset | str | Path,
    output: str | Path,
    changes: Sequence[str] = (),
    *,
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
) -> Model:
    """Trains one model, as the command ``train`` does, and opens it. Shows its progress.

    Args:
        pipeline: Name of a shipped pipeline, or the path of a YAML file.
        store: A store or its folder; trained on its train split, validated on its val split.
        output: Folder of the run.
        changes: Values to change, ``["schedule.epochs=10"]``.
        seed, device, resume: See `training.workflow.train`.
    """
    configuration = load_pipeline(pipeline, changes)
    store = open_store(store) if isinstance(store, (str, Path)) else store
    shown = show_progress()
    run_training(
        configuration, store, output,
        seed=seed, device=device, resume=resume, tell=shown, handlers=[shown],
        guide=partial(train_guide, tell=print),
    )  # fmt: skip
    return load_model(output, store.folder, device)


@dataclass(frozen=True)
class Model:
    """A trained model. `load_model` opens one.

    Attributes:
        run: Network, pipeline, and what is known about the training.
        store: Folder of the slices that it was trained on; None is where it was during training.
        device: Where it runs.
        tell: Called with a message before something takes minutes.
    """

    run: Run
    store: Path | None = None
    device: str = "auto"
    tell: Callable[[str], None] = print

    @property
    def attributes(self) -> tuple[str, ...]:
        """Attributes on the first latent dimensions."""
        return tuple(self.run.pipeline.attributes)

    @cached_property
    def studio(self) -> Studio:
        """What draws and measures. Trains two segmenters once per store: minutes on a CPU."""
        plain = self.run.refiner is None
        return Studio.open(self.run.folder, self.store, self.device, self.tell, plain)

    def encode(
        self, slices: SliceDataset | str | Path | np.ndarray | Tensor, condition: str | None = None
    ) -> np.ndarray:
        """Returns codes (N, D), the posterior means, of slices.

        Args:
            slices: A store, its folder, or an array (N, H, W) or (N, C, H, W) that holds what a
                store does: values in [0, 1], 0 outside the heart, cropped and aligned as
                preprocessing does.
            condition: What a conditional network is told, ``"pathology=DCM"``; None is nothing.

        Raises:
            ValueError: If an array has another shape, or values outside [0, 1], or there is no such
                condition.
            DataError: If the slices of the store were cropped in another way than the training's.
        """
        slices = open_store(slices) if isinstance(slices, (str, Path)) else slices
        if isinstance(slices, SliceDataset):
            check_fit(self.run, slices)
            images = slices.images
        else:
            images = self._checked(slices)
        return encode(self._telling(condition).network, images.to(find_device(self.device)))[0]

    def _telling(self, condition: str | None) -> Run:
        return self.run if condition is None else self.run.telling(condition)

    @cached_property
    def _population(self) -> Population | None:
        return population_of(self.run)

    def encode_scan(
        self,
        path: str | Path,
        mask: str | Path | None = None,
        segmenter: str | Path | Sequence[str | Path] = "acdc",
        labels: Mapping[str, int] | None = None,
        mirror: bool = False,
        condition: str | None = None,
    ) -> Encoded:
        """Encodes a scan as the scanner's files hold it, with its mask or without one.

        Args:
            path: NIfTI file (3-D or 4-D), .nrrd, .mha, or a folder of DICOM files.
            mask: Its mask; None segments the scan.
            segmenter: ``acdc``, a run of ``segment_scans``, or ``onnx:FILE``; several vote.
            labels: Structure -> its number in the mask; None is ``{"LV": 1, "MYO": 2, "RV": 3}``.
            mirror: Whether the scan is stored as a mirror image, and is turned round.
            condition: As in `encode`.

        Raises:
            ValueError: If there is no such condition.
            DataError: If it cannot be read or segmented, or shows no usable slice.
        """
        return encode_scan(
            self._telling(condition), path, mask, segmenter=lambda: load_segmenter(segmenter),
            labels=label_numbers(labels) if labels else CANONICAL, known=self._population,
            mirror=mirror,
        )  # fmt: skip

    def decode(self, codes: np.ndarray, condition: str | None = None) -> np.ndarray:
        """Returns slices in [0, 1], (N, H, W), of codes (N, D); (N, C, H, W) of several channels.

        Args:
            codes: Codes, (N, D).
            condition: As in `encode`.

        Raises:
            ValueError: If the codes have another shape, or are not finite, or there is no such
                condition.
        """
        codes = _numbers(codes, "codes", "an array of numbers").astype(np.float32)
        size = len(self.run.about["code_mean"])
        if codes.shape == (size,):
            raise ValueError(
                f"codes has shape ({size},): one code; give a table of codes, (N, {size}), such as "
                "codes[None] or codes[:1]"
            )
        if codes.ndim != 2 or codes.shape[1] != size:
            raise ValueError(f"codes has shape {codes.shape}; expected (N, {size})")
        if not np.isfinite(codes).all():
            raise ValueError("codes hold NaN or infinite values; expected numbers")
        slices = decode(self._telling(condition).painter, codes).numpy()
        return slices[:, 0] if slices.shape[1] == 1 else slices

    def read(
        self, slices: SliceDataset | str | Path | np.ndarray | Tensor, level: float = 0.95
    ) -> pd.DataFrame:
        """Reads the attributes of slices from their codes, in the attributes' units.

        A line per attribute was fitted on the training patients and saved with the run. The slices
        are already cut out by a mask of the heart: this tells what the codes hold, and replaces no
        segmentation.

        Args:
            slices: See `encode`.
            level: Probability that an interval contains the value of a patient like those of the
                training.

        Returns:
            A row per slice and attribute: ``case`` (or row number of an array), ``attribute``,
            ``value``, ``unit``, ``low``, ``high``, and whether the value is ``outside`` of the
            range of the training patients.

        Raises:
            DataError: If the run holds no lines: it has no attributes, fewer than 5 training
                patients, or was written by an earlier version.
        """
        given: Any = level
        if not (isinstance(given, (int, float, np.number)) and 0 < given < 1):
            raise ValueError(f"level is {level!r}; expected a number between 0 and 1")
        lines = self.run.about.get("calibration")
        if not lines:
            raise DataError(
                f"{self.run.folder} holds no lines from codes to attributes: it has no attributes, "
                "too few training patients, or was written by an earlier version; train it again"
            )
        slices = open_store(slices) if isinstance(slices, (str, Path)) else slices
        codes = self.encode(slices)
        store = slices if isinstance(slices, SliceDataset) else None
        cases = range(len(codes)) if store is None else store.cases["case"]
        values = read_lines(codes, lines, level)
        return pd.DataFrame(
            {
                "case": case, "attribute": name, "value": value, "unit": ATTRIBUTES[name].unit,
                "low": low, "high": high, "outside": not line["low"] <= value <= line["high"],
            }
            for case, row in zip(cases, values.tolist(), strict=True)
            for (name, line), (value, low, high) in zip(lines.items(), row, strict=True)
        )  # fmt: skip

    def _checked(self, slices: np.ndarray | Tensor) -> Tensor:
        """Returns an array of slices as images (N, C, H, W)."""
        what = "a store, its folder or an array of numbers"
        images = torch.as_tensor(_numbers(slices, "slices", what), dtype=torch.float32)
        images = images[:, None] if images.ndim == 3 else images
        shape = self._shape
        if images.ndim != 4 or tuple(images.shape[1:]) != shape:
            flat = f"(N, {shape[1]}, {shape[2]}) or " if shape[0] == 1 else ""
            raise ValueError(
                f"slices has shape {tuple(np.shape(slices))}; expected {flat}(N, {shape[0]}, "
                f"{shape[1]}, {shape[2]}), as a store holds them"
            )
        low, high = (float(end) for end in images.aminmax()) if images.numel() else (0.0, 0.0)
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"slices have values from {low:g} to {high:g}; expected 0 to 1 with 0 outside the "
                "heart: raw images go through preprocess first"
            )
        return images

    @cached_property
    def _shape(self) -> tuple[int, ...]:
        """Channels, height and width of a slice."""
        mean = np.asarray(self.run.about["code_mean"])[None]
        return tuple(decode(self.run.network, mean).shape[1:])

    def traverse(
        self,
        case: str | None = None,
        reach: float = TURN,
        steps: int = STEPS,
        condition: str | None = None,
    ) -> Turned:
        """Turns every attribute of one heart by ``reach`` deviations each way, and measures it.

        Args:
            case: Patient to start from; None is the mean of the training patients.
            reach: Standard deviations of the training codes.
            steps: Pictures per attribute.
            condition: What a conditional network is told, ``"pathology=DCM"``; None is what is
                known of the patient.
        """
        return self.studio.telling(condition, case).turned(case, reach, steps)

    def between(
        self, start: str, end: str, steps: int = STEPS, condition: str | None = None
    ) -> Grid:
        """Draws and measures hearts between two patients, along a line and along the sphere.

        Args:
            start, end: Patients of the store.
            steps: Pictures per path, both patients among them.
            condition: As in `encode`.
        """
        return between(self.studio.telling(condition), start, end, steps)

    def surface(
        self,
        names: Sequence[str],
        case: str | None = None,
        reach: float = TURN,
        steps: int = STEPS,
        condition: str | None = None,
    ) -> Grid:
        """Turns two attributes of one heart at once, and measures every heart of the grid.

        Args:
            names: Two attributes, ``["LVEDA", "RVEDA"]``: from row to row, and column to column.
            case: Patient to start from; None is the mean of the training patients.
            reach: Standard deviations of the training codes.
            steps: Rows, and columns.
            condition: As in `traverse`.
        """
        return surface(self.studio.telling(condition, case), names, case, reach, steps)

    def generate(
        self, request: Mapping[str, float], case: str | None = None, condition: str | None = None
    ) -> Heart:
        """Draws a heart with requested values, and measures it with a segmenter.

        Args:
            request: Attribute -> value in its unit, ``{"LVEDA": 28}``.
            case: Patient to start from; None is the mean of the training patients.
            condition: As in `traverse`.
        """
        return self.studio.telling(condition, case).heart(request, case)

    def evaluate(
        self, store: SliceDataset | str | Path, split: str = "test", rounds: int = 1000
    ) -> Scored:
        """Scores one split of a store, one slice per patient, with 95 % intervals.

        Scores reconstructions, and how well one dimension carries one attribute.
        ``cross-domain-eval`` does more: attributes predicted on other data sets, measured control,
        several models compared.

        Args:
            store: A store or its folder, of the training data set or of another one.
            split: ``train``, ``val`` or ``test``.
            rounds: Draws behind every interval and null distribution.
        """
        store = open_store(store) if isinstance(store, (str, Path)) else store
        target = store.split(split).basal().complete(self.attributes)
        if not len(target):
            raise DataError(f"{store.folder} has no {split} patients; choose another split")
        where = find_device(self.device)
        return score_model(self.run, None, target, self.attributes, None, where, rounds)

    def __repr__(self) -> str:
        about = self.run.about
        return (
            f"<Model {self.run.pipeline.method}, trained on {about['train_dataset']}, seed "
            f"{about['seed']}: {', '.join(self.attributes)} and "
            f"{len(about['code_mean']) - len(self.attributes)} free dimensions>"
        )

    def _repr_html_(self) -> str:
        statistics = {k: np.asarray(self.run.about[k]) for k in ("code_mean", "code_deviation")}

        def draw(path: Path) -> None:
            draw_traversals(self.run.painter, self.attributes, statistics, path)

        return f"<p>{escape(repr(self)[1:-1])}</p>" + (picture(draw) if self.attributes else "")


def _numbers(values: Any, what: str, expected: str) -> np.ndarray:
    """Returns an array, or what becomes one; refuses all else in a sentence."""
    if isinstance(values, Tensor):
        return values.detach().cpu().numpy()
    try:
        array = np.asarray(values)
    except ValueError:  # rows of several lengths
        array = np.empty(0, object)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{what} are {short(values)}; expected {expected}")
    return array
