"""One pass of a network over slices, and what is kept of it for everything that follows.

Slices and reconstructions are measured batch by batch and then forgotten. What stays is a code and
a few numbers per slice, and the reconstructions that a picture will show.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from ..data.loader import DeviceLoader
from ..data.store import SliceDataset, Slices
from ..metrics.images import FIDELITY, dice
from ..models.conditional import told
from ..models.vae import VAE
from ..schema import Keys, LatentTable, VAEOutput, structures_at
from ..segmentation.judge import Segmenter
from ..training.batches import conditions, draw_noise
from ..training.run import Run

BATCH = 64
"""Slices that pass through the network at a time."""


@dataclass(frozen=True)
class Pass:
    """What is kept of one pass of a network over N slices."""

    table: LatentTable  # codes and attributes
    # name -> one number per slice, (N,): every entry of `FIDELITY`, and with a segmenter
    # ``Dice_LV``, ``Dice_MYO`` and ``Dice_RV`` of the reconstructions, of a second phase
    # ``Dice_LV_ES`` and so on
    fidelity: dict[str, np.ndarray]
    shown: np.ndarray  # reconstructions of the chosen rows, (n, C, H, W)


def look(
    run: Run,
    dataset: SliceDataset,
    names: Sequence[str],
    device: torch.device,
    segmenter: Segmenter | None = None,
    shown: Sequence[int] | np.ndarray = (),
) -> Pass:
    """Passes slices through a network and measures its codes and reconstructions.

    Args:
        run: The model.
        dataset: N slices.
        names: Attributes of the table, measured on the native masks.
        device: Where to compute.
        segmenter: Labels the reconstructions; None leaves Dice out.
        shown: Rows whose reconstructions are kept, in this order.
    """
    codes, pictures, fidelity = [], [], defaultdict(list)
    chosen = np.asarray(shown, dtype=int)
    for batch, output in _outputs(run, run.painter, dataset, device):
        codes.append(output.z.float().cpu().numpy())
        decoded, label = output.reconstruction.float().cpu(), batch[Keys.LABEL].cpu()
        image, inside = batch[Keys.IMAGE].float().cpu().numpy(), label.numpy() > 0
        for name, measure in FIDELITY.items():
            fidelity[name].append(measure(image, decoded.numpy(), inside))
        if segmenter is not None:
            stacks = (_phases(seen, dataset) for seen in (segmenter(decoded), label))
            found = zip(*stacks, strict=True)
            scores = np.concatenate([dice(*both) for both in found], axis=1)
            for name, column in zip(structures_at(dataset.phases), scores.T, strict=True):
                fidelity[f"Dice_{name}"].append(column)
        rows = batch[Keys.ROW].cpu().numpy()
        pictures.append(decoded.numpy()[np.isin(rows, chosen)])
    measured = {name: np.concatenate(parts) for name, parts in fidelity.items()}
    as_asked = chosen.argsort().argsort()  # the batches had them in the order of the rows
    kept = np.concatenate(pictures)[as_asked]
    return Pass(_table(run, dataset, names, np.concatenate(codes)), measured, kept)


def _phases(labels: Tensor, dataset: SliceDataset) -> tuple[Tensor, ...]:
    """Splits labels (N, C, H, W) into phases; the slices of a stack become one picture."""
    return labels.unflatten(1, (-1, dataset.scale.slices)).flatten(2, 3).unbind(1)


def codes_of(
    run: Run,
    dataset: SliceDataset,
    names: Sequence[str],
    device: torch.device,
    telling: bool = True,
) -> LatentTable:
    """Passes slices through a network for their codes alone.

    Args:
        run, dataset, names, device: As in `look`.
        telling: Whether a conditional network is told the categories of the patients.
    """
    outputs = _outputs(run, run.network, dataset, device, telling)
    codes = [output.z.float().cpu().numpy() for _, output in outputs]
    return _table(run, dataset, names, np.concatenate(codes))


def _outputs(
    run: Run, network: VAE, dataset: SliceDataset, device: torch.device, telling: bool = True
) -> Iterator[tuple[Slices, VAEOutput]]:
    """Yields batches in the order of the rows, and what the network makes of each.

    Codes are the posterior means; a pipeline may ask for sampled ones, always with the same noise.
    """
    network.eval()
    sampled = run.pipeline.codes == "sampled"
    generator = Generator(device).manual_seed(0) if sampled else None
    nothing = np.zeros((len(dataset), 1))  # attributes are measured afterwards, from the masks
    more = conditions(run.network, dataset.cases) if telling else {}
    for batch in DeviceLoader(dataset, nothing, BATCH, device, resident=False, more=more):
        image = batch[Keys.IMAGE]
        noise = draw_noise(network, image, generator)[0] if generator is not None else None
        with torch.no_grad(), told(network, batch.get(Keys.CONDITION)):
            output = network(image, noise)
        yield batch, output


def _table(run: Run, dataset: SliceDataset, names: Sequence[str], codes: np.ndarray) -> LatentTable:
    cases, dimensions = tuple(dataset.cases["case"]), run.pipeline.dimensions(names)
    return LatentTable(cases, codes, dataset.measured(names), tuple(names), tuple(dimensions))
