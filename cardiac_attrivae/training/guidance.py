"""Guidance: terms of the objective that look, through a frozen segmenter, at what is drawn.

The segmenter, the *guide*, is made by `segmentation.guide` from the training patients and is handed
to the training. It measures nothing afterwards: what was optimised for it would look perfect to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

from ..attributes import ATTRIBUTES, Kind, areas_at, column_of, drawn, drawn_by
from ..data.store import SliceDataset, over_slices
from ..models.anatomy_terms import control_distance, mask_distance, soft_areas, turned
from ..models.independence import predicting
from ..runtime.distributed import batch_mean, share
from ..runtime.weights import weights_digest
from ..schema import DataError, Keys, VAEOutput
from .augmentation import AttributeTargets, each_phase
from .objectives import AttributeObjective

REACH = 2.0
"""Largest turn of a dimension, in standard deviations of its attribute over patients."""

Look = Callable[[VAEOutput, Callable[[Tensor], Tensor]], dict[str, Tensor]]
"""Computes terms of what the network returned for a batch, given its decoder."""


class OtherGuide(DataError):
    """The guide of a resumed run is not the one that it began with."""


@dataclass(frozen=True)
class Guide:
    """A trained segmenter and what is recorded of it in a run."""

    network: nn.Module  # (N, 1, H, W) to logits of background, LV, myocardium and RV, (N, 4, H, W)
    kind: str  # name of its architecture
    cases: Mapping[str, str]  # patients that it was trained on -> fingerprint of their slices

    def facts(self) -> dict[str, Any]:
        """What the model file says of it; the patients are left out of exported models."""
        about = {"network": self.kind, "sha256": weights_digest(self.network.state_dict())}
        return {"guide": about, "guide_cases": dict(self.cases)}

    def state_dict(self) -> dict[str, str]:
        """Makes its fingerprint part of a checkpoint."""
        return {"sha256": self.facts()["guide"]["sha256"]}

    def load_state_dict(self, state: Mapping[str, str]) -> None:
        """Checks that a resumed run sees through the guide that it began with.

        Raises:
            OtherGuide: If it is another one.
        """
        if state != self.state_dict():
            raise OtherGuide(
                f"the run began with guide {state['sha256'][:16]}, and that of the store is now "
                f"{self.state_dict()['sha256'][:16]}: its file was exchanged, or its patients or "
                "versions differ. Put back the file, or train into another folder"
            )


MakeGuide = Callable[[SliceDataset, Path, torch.device], Guide]
"""Trains a guide on slices, or reads it from the cache; the folder is for stores that cannot be
written. `segmentation.guide.train_guide` is one."""


class Guidance:
    """The terms ``control`` and ``anatomy`` of an objective, see `AttributeObjective`.

    Args:
        guide: The segmenter; its weights are frozen here.
        objective: Weights of the terms.
        names: Attributes of the first latent dimensions. Those that are areas are turned: one slice
            shows no volume. In stacks, those that are volumes. Of an ejection fraction, or another
            ratio, what the areas say of it is turned, by the last of these areas; where that is an
            attribute, too, the one that is named first is turned: it says what the other does.
        train: Training slices, whose spread of areas or volumes is the unit.
        device: Where to train.
    """

    def __init__(
        self,
        guide: Guide,
        objective: AttributeObjective,
        names: Sequence[str],
        train: SliceDataset,
        device: torch.device,
    ) -> None:
        self.guide, self.anatomy = guide, objective.anatomy
        self.network = guide.network.to(device).eval().requires_grad_(False)
        self.scale, unit = train.scale, train.scale.unit
        first = drawn_by(names, unit)
        ratios = {k: names[k] for k in first.values() if ATTRIBUTES[names[k]].kind is Kind.RATIO}
        found = {k: column for column, k in first.items() if k not in ratios}
        found |= {k: column_of(name) for k, name in ratios.items()}
        self.dimensions = torch.tensor([*found], dtype=torch.long, device=device)
        self.structures = torch.tensor([*found.values()], dtype=torch.long, device=device)
        self.control = objective.control if found else 0.0
        if self.scale.slices == 1:
            spread = AttributeTargets(train, areas_at(train.phases)).deviation
        else:
            spread = train.areas.std(axis=0)
        deviation = spread / self.scale.pixel
        self.deviation = torch.tensor(deviation, dtype=torch.float32, device=device)
        self.ratios = {
            [*found].index(k): (name, float(drawn(name, train.areas).std()))
            for k, name in ratios.items()
        }
        self.along: Tensor | None = None  # set where `decorrelate` will move codes together

    def follow(self, codes: np.ndarray, trained: Sequence[int], fixed: Sequence[int] = ()) -> None:
        """Lets turned codes move as `decorrelate` would make them: the drawing learns that turn.

        Args:
            codes: Posterior means of the training patients as they are now, (N, D).
            trained: Dimensions that attributes are trained on.
            fixed: Dimensions that it leaves as they are.
        """
        slopes = predicting(codes, trained, fixed)[1]
        self.along = torch.tensor(slopes, dtype=torch.float32, device=self.deviation.device)

    def look(self, batch: Mapping[Any, Tensor], generator: Generator) -> Look:
        """Draws the turns of a whole batch; what it returns computes the terms of this process's
        share of it.

        Args:
            batch: The whole batch, with LABEL if ``anatomy`` is above 0.
            generator: Draws the turns.
        """
        n = len(batch[Keys.IMAGE])
        device, mine = self.deviation.device, share(n)
        which = amount = torch.zeros(0)
        if self.control:
            which = torch.randint(len(self.dimensions), (n,), generator=generator, device=device)
            amount = (torch.rand(n, generator=generator, device=device) * 2 - 1) * REACH
        label = batch[Keys.LABEL][mine] if self.anatomy else None
        which, amount = which[mine], amount[mine]

        def terms(output: VAEOutput, decode: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
            found = {}
            logits = self.network(each_phase(output.reconstruction))
            if label is not None:
                distance = mask_distance(logits, each_phase(label)).unflatten(0, (len(label), -1))
                found["anatomy"] = self.anatomy * batch_mean(distance.mean(dim=1))
            if self.control:
                turn = decode(turned(output.z, self.dimensions[which], amount, self.along))
                before, after = (
                    self.sizes(soft_areas(seen).view(len(turn), -1), which)
                    for seen in (logits, self.network(each_phase(turn)))
                )
                distance = control_distance(before, after, self.structures[which], amount)
                found["control"] = self.control * batch_mean(distance)
            return found

        return terms

    def sizes(self, pixels: Tensor, which: Tensor) -> Tensor:
        """Expresses what is seen in deviations over patients.

        Args:
            pixels: Of LV, myocardium and RV in each channel, (n, 3 C).
            which: Which of the turned dimensions is turned, (n,).

        Returns:
            Sizes at each phase, (n, 3 P). Where a ratio is turned it stands in the place of the
            size that changes with it.
        """
        areas = over_slices(pixels, self.scale)
        found = areas / self.deviation
        for number, (name, deviation) in self.ratios.items():
            place = column_of(name)
            ratio = torch.where(which == number, drawn(name, areas) / deviation, found[:, place])
            found = torch.cat([found[:, :place], ratio[:, None], found[:, place + 1 :]], dim=1)
        return found


def no_guidance(output: VAEOutput, decode: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Adds no terms."""
    return {}
