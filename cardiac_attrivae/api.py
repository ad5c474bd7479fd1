"""The Python interface: a trained model as an object, in a script or in a notebook.

The commands write folders; here the same results are arrays and tables, and show themselves in a
notebook.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .data.store import SliceDataset
from .evaluation.score import Scored, check_fit, score_model
from .evaluation.studio import Heart, Studio, Turned
from .report.style import picture
from .runtime.device import find_device
from .schema import DataError
from .training.config import load_pipeline
from .training.pictures import draw_traversals
from .training.run import Run, decode, encode, load_run
from .training.workflow import train as run_training

__all__ = ["Model", "load_model", "open_store", "train"]


def load_model(
    folder: str | Path,
    store: str | Path | None = None,
    device: str = "auto",
    tell: Callable[[str], None] = print,
) -> Model:
    """Opens a run that ``train`` wrote.

    Args:
        folder: The run.
        store: Folder that ``preprocess`` wrote, with the slices that it was trained on; None is
            where that folder was during training. Needed by ``traverse`` and ``generate``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        tell: Called with a message before something takes minutes.

    Raises:
        DataError: If the folder holds no finished run, or a damaged one.
    """
    return Model(load_run(folder, device), None if store is None else Path(store), device, tell)


def open_store(folder: str | Path) -> SliceDataset:
    """Opens a store that ``preprocess`` wrote; errors as `SliceDataset.open`."""
    return SliceDataset.open(folder)


def train(
    pipeline: str | Path,
    store: SliceDataset,
    output: str | Path,
    changes: Sequence[str] = (),
    *,
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
) -> Model:
    """Trains one model, as the command ``train`` does, and opens it.

    Args:
        pipeline: Name of a shipped pipeline, or the path of a YAML file.
        store: Slices; trained on its train split, validated on its val split.
        output: Folder of the run.
        changes: Values to change, ``["schedule.epochs=10"]``.
        seed, device, resume: See `training.workflow.train`.
    """
    configuration = load_pipeline(pipeline, changes)
    run_training(configuration, store, output, seed=seed, device=device, resume=resume)
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
        return Studio.open(self.run.folder, self.store, self.device, self.tell)

    def encode(self, slices: SliceDataset | np.ndarray | Tensor) -> np.ndarray:
        """Returns codes (N, D), the posterior means, of a store's slices or of an array (N, H, W).

        An array holds what a store does: values in [0, 1], 0 outside the heart, cropped and aligned
        as preprocessing does.
        """
        if isinstance(slices, SliceDataset):
            check_fit(self.run, slices)
            images = slices.images
        else:
            images = torch.as_tensor(slices, dtype=torch.float32)
            if images.ndim != 3:
                raise ValueError(f"slices has shape {tuple(images.shape)}; expected (N, H, W)")
            images = images[:, None]
        return encode(self.run.network, images.to(find_device(self.device)))[0]

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Returns slices (N, H, W) in [0, 1] of codes (N, D)."""
        return decode(self.run.network, np.asarray(codes))[:, 0].numpy()

    def traverse(self, case: str | None = None, reach: float = 3.0, steps: int = 7) -> Turned:
        """Turns every attribute of one heart by ``reach`` deviations each way, and measures it.

        Args:
            case: Patient to start from; None is the mean of the training patients.
            reach: Standard deviations of the training codes.
            steps: Pictures per attribute.
        """
        return self.studio.turned(case, reach, steps)

    def generate(self, request: Mapping[str, float], case: str | None = None) -> Heart:
        """Draws a heart with requested values, and measures it with a segmenter.

        Args:
            request: Attribute -> value in its unit, ``{"LVEDA": 28}``.
            case: Patient to start from; None is the mean of the training patients.
        """
        return self.studio.heart(request, case)

    def evaluate(self, store: SliceDataset, split: str = "test", rounds: int = 1000) -> Scored:
        """Scores one split of a store, one slice per patient, with 95 % intervals.

        Scores reconstructions, and how well one dimension carries one attribute.
        ``cross-domain-eval`` does more: attributes predicted on other data sets, measured control,
        several models compared.

        Args:
            store: Slices of the training data set or of another one.
            split: ``train``, ``val`` or ``test``.
            rounds: Draws behind every interval and null distribution.
        """
        target = store.split(split).basal()
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
            draw_traversals(self.run.network, self.attributes, statistics, path)

        return f"<p>{escape(repr(self)[1:-1])}</p>" + (picture(draw) if self.attributes else "")
