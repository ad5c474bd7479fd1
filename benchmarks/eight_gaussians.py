"""Soft-Intro VAE and plain VAEs on eight Gaussians in the plane: do they generate all of them, and
nothing between them?

Trains the package's own `SoftIntroTrainer` on points, with small networks defined here, in the
setting of the published 2-D code of Soft-IntroVAE: of its 30,000 steps --steps makes the first. The
VAEs are trained by the same trainer, which then never leaves its first phase. Prints a row per seed
and the means, and draws the points of the first seed. "real" is what another 5,000 points of the
data score. KL and JSD are those of the published code; beside them, in nats, the KL of the same
histograms and the textbook's JSD. On one core Soft-Intro VAE makes some 15 steps a second, with
--quick some 150:

    python benchmarks/eight_gaussians.py [--quick] [--steps 30000] [--seeds 3]
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Generator, Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import MultiStepLR

from cardiac_attrivae.models.losses import SoftIntroLoss
from cardiac_attrivae.training.engines import SoftIntroTrainer

ANGLES = torch.arange(8) * math.pi / 4
CENTRES = 2 / 1.414 * torch.stack([ANGLES.cos(), ANGLES.sin()], dim=1)
SD = 0.02 / 1.414
LIMIT, BINS, SAMPLES = 2.0, 100, 5_000
EPOCH = 100  # steps; fresh points have no epochs of their own
ALWAYS = 10**9
QUICK = {
    "vae_steps": 500, "milestones": (2_000, 2_500), "lr": 1e-3, "width": 64, "batch_size": 256,
}  # fmt: skip

MODELS: dict[str, dict[str, float] | None] = {
    "real": None,
    "VAE, published weights": {"vae_steps": ALWAYS},
    "VAE, beta_kl .01": {"vae_steps": ALWAYS, "beta_kl": 0.01},
    "Soft-Intro VAE, published weights": {},
    "Soft-Intro VAE, beta_kl .1": {"beta_kl": 0.1},
}


def real_points(n: int, generator: Generator) -> Tensor:
    """Points of the eight Gaussians, (n, 2)."""
    centre = torch.randint(8, (n,), generator=generator)
    return CENTRES[centre] + SD * torch.randn(n, 2, generator=generator)


class FreshPoints:
    """Batches without end, as the trainers take them."""

    def __init__(self, batch_size: int, generator: Generator) -> None:
        self.batch_size, self.generator = batch_size, generator

    def __iter__(self) -> Iterator[tuple[Tensor]]:
        n = self.batch_size
        while True:
            yield (real_points(n, self.generator),)


class PointVAE(nn.Module):
    """What the trainer needs of a network, made of linear layers: four hidden ones on each side."""

    def __init__(self, width: int = 256, latent_size: int = 2) -> None:
        super().__init__()
        self.latent_size = latent_size
        self.encoder = _perceptron(2, width, 2 * latent_size)
        self.decoder = _perceptron(latent_size, width, 2)

    def encode(self, points: Tensor) -> tuple[Tensor, Tensor]:
        mu, logvar = self.encoder(points).chunk(2, dim=1)
        return mu, logvar

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(z)

    @torch.no_grad()
    def sample(self, n: int, generator: Generator) -> Tensor:
        return self.decode(torch.randn(n, self.latent_size, generator=generator))


def _perceptron(inputs: int, width: int, outputs: int) -> nn.Sequential:
    sizes = (inputs, width, width, width, width)
    hidden = [nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False)]
    layers = [part for layer in hidden for part in (layer, nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def train(
    steps: int,
    seed: int,
    vae_steps: int = 2_000,
    milestones: tuple[int, ...] = (10_000, 15_000),
    lr: float = 2e-4,
    width: int = 256,
    batch_size: int = 512,
    **weights: float,
) -> PointVAE:
    """Trains a network; what is not said is as published.

    Args:
        steps: A multiple of 100.
        vae_steps: In how many at the beginning it is a plain VAE, a multiple of 100.
        milestones: Steps after which the learning rates become a tenth of what they were.
        lr: Of both Adams.
        weights: Of `SoftIntroLoss`.
    """
    torch.manual_seed(seed)
    network = PointVAE(width)
    adams = [Adam(p.parameters(), lr, fused=True) for p in (network.encoder, network.decoder)]
    published = {"beta_rec": 0.2, "beta_kl": 0.3, "beta_neg": 0.9, "gamma_r": 1e-8}
    trainer = SoftIntroTrainer(
        device="cpu",
        max_epochs=steps // EPOCH,
        epoch_length=EPOCH,
        train_data_loader=FreshPoints(batch_size, Generator().manual_seed(seed)),
        network=network,
        optimizer=adams[0],
        decoder_optimizer=adams[1],
        vae_epochs=vae_steps // EPOCH,
        schedulers=[MultiStepLR(adam, list(milestones)) for adam in adams],
        loss_function=SoftIntroLoss(**published | weights),
        generator=Generator().manual_seed(seed + 1_000_000),
    )
    trainer.run()
    return network


def on_modes(points: Tensor) -> tuple[float, int]:
    """Share of points within 4 standard deviations of a centre, and the number of centres that
    have at least 2 % of the points.
    """
    near = torch.cdist(points, CENTRES) < 4 * SD
    return float(near.any(1).float().mean()), int((near.float().mean(0) >= 0.02).sum())


def histogram(points: np.ndarray) -> np.ndarray:
    """Share of the points inside [-2, 2]^2 that fall into each of its 100 x 100 bins."""
    axis = (-LIMIT, LIMIT)
    counts, _, _ = np.histogram2d(*np.asarray(points, float).T, BINS, (axis, axis))
    return counts / counts.sum()


def published_scores(real: np.ndarray, fake: np.ndarray) -> tuple[float, float]:
    """KL(real || fake) and "JSD" as the published code has them.

    They are made of densities and divided by the rows of the histogram: 6.25 times the sum over
    bins. An empty bin counts as a density of 1e-14. The JSD has its arguments the other way round
    and no upper bound near ln 2.

    Args:
        real: `histogram` of the data.
        fake: `histogram` of what was generated.
    """
    area = (2 * LIMIT / BINS) ** 2
    real, fake = real / area, fake / area
    middle = (real + fake) / 2

    def divergence(p: np.ndarray, q: np.ndarray) -> float:
        some = p > 0
        return (p[some] * np.log(p[some] / (q[some] + 1e-14))).sum() / BINS

    jsd = (divergence(middle, real) + divergence(middle, fake)) / 2
    return divergence(real, fake), jsd


def jensen_shannon(real: np.ndarray, fake: np.ndarray) -> float:
    """Jensen-Shannon divergence of two histograms in nats, between 0 and ln 2."""
    middle = (real + fake) / 2
    parts = [p[p > 0] * np.log(p[p > 0] / middle[p > 0]) for p in (real, fake)]
    return sum(float(part.sum()) for part in parts) / 2


def scores(points: Tensor, real: Tensor) -> dict[str, float]:
    """A row of the table."""
    share, modes = on_modes(points)
    kl, jsd = published_scores(histogram(real.numpy()), histogram(points.numpy()))
    textbook = jensen_shannon(histogram(real.numpy()), histogram(points.numpy()))
    row = {"on a mode": share, "modes": modes, "KL": kl, "JSD": jsd}
    return row | {"KL nats": kl * (2 * LIMIT) ** 2 / BINS, "JSD nats": textbook}


def draw(panels: dict[str, Tensor], path: Path) -> None:
    """Points of each panel beside each other."""
    figure = Figure((2.2 * len(panels), 2.6), layout="constrained")
    for axis, (title, points) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        axis.scatter(*points.T, s=2, color="#0072b2", alpha=0.4, linewidths=0)
        axis.set(xlim=(-2, 2), ylim=(-2, 2), xticks=[], yticks=[], aspect="equal")
        axis.set_title(title.replace(", ", "\n"), size=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, format="png")


COLUMNS = {
    "on a mode": ".3f", "modes": "g", "KL": ".2f", "KL nats": ".3f", "JSD": ".2f",
    "JSD nats": ".3f", "steps/s": ".0f",
}  # fmt: skip


def line(model: str, seed: str, values: Mapping[str, float]) -> str:
    """A row of a markdown table."""
    cells = [f"{values[key]:{form}}" if key in values else "" for key, form in COLUMNS.items()]
    return f"| {' | '.join([model, seed, *cells])} |"


@click.command()
@click.option("--steps", type=int, help="A multiple of 100.  [default: 30000; 3000 if quick]")
@click.option("--seeds", default=3, show_default=True)
@click.option("--quick", is_flag=True, help="Smaller networks and batches, larger rates.")
@click.option("--output", type=Path, default="eight_gaussians.png", show_default=True)
def main(steps: int | None, seeds: int, quick: bool, output: Path) -> None:
    """Soft-Intro VAE and plain VAEs on eight Gaussians in the plane."""
    steps = (3_000 if quick else 30_000) if steps is None else steps
    if steps < EPOCH or steps % EPOCH or seeds < 1:
        raise click.UsageError(f"--steps must be a multiple of {EPOCH}, --seeds at least 1")
    torch.set_num_threads(1)  # the networks are too small for more
    click.echo(f"| model | seed | {' | '.join(COLUMNS)} |\n" + "| --- " * (len(COLUMNS) + 2) + "|")
    rows, panels = defaultdict(list), {}
    for seed in range(seeds):
        generator = Generator().manual_seed(seed + 2_000_000)
        real = real_points(SAMPLES, generator)
        for name, options in MODELS.items():
            start, speed = time.perf_counter(), {}
            if options is None:
                points = real_points(SAMPLES, generator)
            else:
                network = train(steps, seed, **((QUICK if quick else {}) | options))
                speed = {"steps/s": steps / (time.perf_counter() - start)}
                points = network.sample(SAMPLES, generator)
            panels.setdefault(name, points)
            rows[name].append(scores(points, real) | speed)
            click.echo(line(name, str(seed), rows[name][-1]))
        draw(panels, output)
    for name, of_seeds in rows.items():
        means = {key: float(np.mean([row[key] for row in of_seeds])) for key in of_seeds[0]}
        click.echo(line(name, "mean", means))


if __name__ == "__main__":
    main()
