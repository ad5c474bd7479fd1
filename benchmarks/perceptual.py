"""How strongly each perceptual network pulls at a blurred reconstruction, beside the squared error.

Prints `gradient_ratio` for every network that can be built, on slices of a store and their Gaussian
blurs: what a VAE gives back is blurred. To pull as VGG19 does, a network needs VGG19's weight times
the factor in the last column (printed where VGG19's weights are there: file, variable or download).

    python benchmarks/perceptual.py --data STORE [--weights FILE] [--slices 64] [--sigmas 1 2 4]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from cardiac_attrivae.data.store import SliceDataset
from cardiac_attrivae.models.perceptual import PERCEPTUAL, PerceptualLoss, perceptual_loss
from cardiac_attrivae.schema import DataError


def gradient_ratio(loss: PerceptualLoss, image: Tensor, reconstruction: Tensor) -> float:
    """Compares the gradient of the perceptual term with that of the squared error.

    Both have weight 1; the quotient of the norms of their gradients is averaged over the samples.
    Two networks have the same effect if weight times ratio is the same. For blurred slices it
    is 8 for ``efficientnet_lite0`` and 3e-4 for ``random_vgg19`` (ACDC,
    blur of 2 pixels); so a weight of 100 is large for one and tiny for the other.

    Args:
        loss: Perceptual term.
        image: Images, (N, C, H, W).
        reconstruction: Reconstructions, (N, C, H, W), each different from its image.

    Raises:
        ValueError: If a reconstruction equals its image, where both gradients are 0.
    """
    reconstruction = reconstruction.detach().requires_grad_()
    (pull,) = torch.autograd.grad(loss(reconstruction, image).sum(), reconstruction)
    pull, error = (g.flatten(1).norm(dim=1) for g in (pull, 2 * (reconstruction - image)))
    if not error.all():
        raise ValueError("a reconstruction equals its image; expected each to differ")
    return (pull / error).mean().item()


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, help="of vgg19")
    parser.add_argument("--slices", type=int, default=64, help="spread over the whole store")
    parser.add_argument("--sigmas", type=float, nargs="+", default=[1, 2, 4], help="in pixels")
    parser.add_argument("--networks", nargs="+", default=[n for n in PERCEPTUAL if n != "none"])
    options = parser.parse_args()

    store = SliceDataset.open(options.data)
    rows = np.unique(np.linspace(0, len(store) - 1, options.slices).round().astype(int))
    image = store.images[rows]
    blurs = [
        torch.from_numpy(gaussian_filter(image.numpy(), (0, 0, sigma, sigma)))
        for sigma in options.sigmas
    ]
    print(f"{options.data.name}: {len(rows)} of {len(store)} slices")
    titles = [f"sigma {sigma:g} px" for sigma in options.sigmas]
    print(f"{'':<20}" + "".join(f"{title:>14}" for title in titles) + f"{'factor':>10}")
    reference = None
    for name in options.networks:
        try:
            loss = perceptual_loss(name, options.weights if name == "vgg19" else None)
        except DataError as error:
            print(f"{name:<20} {str(error).splitlines()[0]}")
            continue
        ratios = []
        for blur in blurs:
            batches = zip(image.split(8), blur.split(8), strict=True)
            parts = [gradient_ratio(loss, x, y) * len(x) for x, y in batches]
            ratios.append(sum(parts) / len(image))
        mean = np.exp(np.mean(np.log(ratios)))  # geometric: a factor for all sigmas
        reference = mean if name == "vgg19" else reference
        factor = f"{reference / mean:10.3g}" if reference else f"{'-':>10}"
        print(f"{name:<20}" + "".join(f"{ratio:14.3e}" for ratio in ratios) + factor)


if __name__ == "__main__":
    main()
