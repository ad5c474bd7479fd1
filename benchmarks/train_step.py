"""Times our training step against a plain eager float32 step of the same formulas, in one run.

    python benchmarks/train_step.py --model attri_vae --batch-size 16
    python benchmarks/train_step.py --model attri_sivae --batch-size 4

The reference below is written from the formulas alone: contiguous tensors, float32, Adam as it
comes, each pass where the published algorithm has it. Both start from the same weights, images and
noise; before anything is timed their losses are compared in float32. Then rounds of both alternate.
Prints ratios (median over rounds, smallest, largest), what each option is worth when it alone is
turned off, images per second, arithmetic per second against a matrix product measured here, the
share of each kind of operation, and peak memory.
"""

from __future__ import annotations

import copy
import json
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import click
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from cardiac_attrivae.models.networks import build_network
from cardiac_attrivae.training.config import Pipeline, Speed, load_pipeline
from cardiac_attrivae.training.engines import NetworkTrainer, SoftIntroTrainer, VAETrainer
from cardiac_attrivae.training.optimisation import compile_passes, split_parameters
from cardiac_attrivae.training.run import memory_format

KINDS = {
    "convolution": "conv", "batch norm": "batch_norm", "optimiser": "adam", "matrix": "mm",
    "interpolation": "upsample", "activation": "relu", "copy and cast": "copy_",
}  # fmt: skip
"""What the name of an operation contains, in the order in which they are looked for."""


@dataclass(frozen=True)
class Batch:
    """One batch with all the noise that a step may need."""

    image: Tensor
    attributes: Tensor
    noise: Tensor


# -- the reference ---------------------------------------------------------------------------------


def sse(x: Tensor, y: Tensor) -> Tensor:
    return ((x - y) ** 2).flatten(1).sum(1)


def kl(mu: Tensor, logvar: Tensor) -> Tensor:
    return -0.5 * (1 + logvar - mu**2 - logvar.exp()).sum(1)


def attribute_loss(z: Tensor, attributes: Tensor, delta: float) -> Tensor:
    total = 0
    for k in range(attributes.shape[1]):
        found = torch.tanh(delta * (z[:, k, None] - z[None, :, k]))
        wanted = torch.sign(attributes[:, k, None] - attributes[None, :, k])
        total = total + (found - wanted).abs().mean()
    return total


def sampled(network: nn.Module, image: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    mu, logvar = network.encode(image)
    return mu, logvar, mu + torch.exp(0.5 * logvar) * noise


def reference_vae(network: nn.Module, weights: dict) -> Callable[[Batch], list[float]]:
    optimiser = torch.optim.Adam(network.parameters(), weights["lr"])

    def step(batch: Batch) -> list[float]:
        mu, logvar, z = sampled(network, batch.image, batch.noise[0])
        loss = sse(network.decode(z), batch.image).mean() + weights["beta"] * kl(mu, logvar).mean()
        loss = loss + weights["gamma"] * attribute_loss(z, batch.attributes, weights["delta"])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return [loss.item()]

    return step


def reference_soft_intro(network: nn.Module, weights: dict) -> Callable[[Batch], list[float]]:
    encoder, decoder = split_parameters(network)
    encoder_optimiser = torch.optim.Adam(encoder, weights["lr"])
    decoder_optimiser = torch.optim.Adam(decoder, weights["lr"])
    beta_rec, beta_kl, beta_neg = (weights[k] for k in ("beta_rec", "beta_kl", "beta_neg"))

    def train_only(part: list[nn.Parameter], other: list[nn.Parameter]) -> None:
        for parameter in part:
            parameter.requires_grad_(True)
        for parameter in other:
            parameter.requires_grad_(False)

    def step(batch: Batch) -> list[float]:
        image, noise = batch.image, batch.noise
        scale = 1 / image[0].numel()

        train_only(encoder, decoder)
        fake = network.decode(noise[0])
        mu, logvar, z = sampled(network, image, noise[1])
        rec = network.decode(z)
        exp_elbos = 0
        for made, target, eps in ((rec.detach(), rec, noise[2]), (fake.detach(), fake, noise[3])):
            mu_made, logvar_made, z_made = sampled(network, made, eps)
            elbo = beta_rec * sse(network.decode(z_made), target)
            elbo = elbo + beta_neg * kl(mu_made, logvar_made)
            exp_elbos = exp_elbos + torch.exp(-2 * scale * elbo).mean()
        loss = scale * (beta_rec * sse(rec, image).mean() + beta_kl * kl(mu, logvar).mean())
        loss = loss + 0.25 * exp_elbos
        loss = loss + weights["gamma"] * attribute_loss(z, batch.attributes, weights["delta"])
        encoder_optimiser.zero_grad()
        loss.backward()
        encoder_optimiser.step()

        train_only(decoder, encoder)
        fake, rec = network.decode(noise[0]), network.decode(z.detach())
        total = sse(rec, image).mean() * beta_rec
        for made, eps in ((rec, noise[4]), (fake, noise[5])):
            mu_made, logvar_made, z_made = sampled(network, made, eps)
            total = total + 0.5 * beta_kl * kl(mu_made, logvar_made).mean()
            again = sse(network.decode(z_made.detach()), made.detach()).mean()
            total = total + 0.5 * weights["gamma_r"] * beta_rec * again
        decoder_loss = scale * total
        decoder_optimiser.zero_grad()
        decoder_loss.backward()
        decoder_optimiser.step()
        return [loss.item(), decoder_loss.item()]

    return step


# -- ours ------------------------------------------------------------------------------------------


def our_trainer(
    pipeline: Pipeline, network: nn.Module, device: torch.device, mode: str = "default"
) -> NetworkTrainer:
    """The trainer of a run, without its data; ``mode`` is the one of torch.compile."""
    order, loss = memory_format(pipeline), pipeline.objective.make_loss()
    network.to(memory_format=order)
    if pipeline.speed.compile:
        compile_passes(network, mode=mode)

    def adam(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        lr, fused = pipeline.optimiser.lr, pipeline.speed.fused
        return torch.optim.AdamW(parameters, lr, weight_decay=0, fused=fused)

    common = {
        "device": device, "max_epochs": 1, "train_data_loader": [None], "epoch_length": 1,
        "network": network, "generator": torch.Generator(device),
        "precision": getattr(torch, pipeline.precision), "memory_format": order,
    }  # fmt: skip
    if pipeline.objective.name == "AttriVAE":
        optimiser = adam(list(network.parameters()))
        trainer = VAETrainer(optimizer=optimiser, loss_function=loss, **common)
    else:
        encoder, decoder = split_parameters(network)
        trainer = SoftIntroTrainer(
            optimizer=adam(encoder), decoder_optimizer=adam(decoder),
            loss_function=loss,
            shared_passes=pipeline.speed.shared_passes, **common,
        )  # fmt: skip
    trainer.state.epoch = 1
    network.train()
    return trainer


def our_step(trainer: NetworkTrainer) -> Callable[[Batch], dict[str, Tensor]]:
    """A step that leaves its losses on the device."""

    def step(batch: Batch) -> dict[str, Tensor]:
        image = batch.image.contiguous(memory_format=trainer.memory_format)
        return trainer.step(image, batch.attributes, batch.noise)[1]

    return step


def losses(terms: dict[str, Tensor]) -> list[float]:
    """Of the encoder (or of everything) and of the decoder."""
    sums = {True: 0.0, False: 0.0}
    for name, term in terms.items():
        sums[name.startswith("decoder")] += term.item()
    return [sums[False], sums[True]] if sums[True] else [sums[False]]


# -- measuring -------------------------------------------------------------------------------------


def seconds(step: Callable[[Batch], object], batch: Batch, steps: int) -> float:
    """Of one step, the mean of several."""
    synchronise(batch.image.device)
    start = time.perf_counter()
    for _ in range(steps):
        step(batch)
    synchronise(batch.image.device)
    return (time.perf_counter() - start) / steps


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a matrix product, the best of five."""
    n = 8192 if device.type == "cuda" else 2048
    a = torch.randn(n, n, device=device, dtype=dtype)
    best = 0.0
    for _ in range(5):
        synchronise(device)
        start = time.perf_counter()
        a @ a
        synchronise(device)
        best = max(best, 2 * n**3 / (time.perf_counter() - start))
    return best


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def peak_memory(step: Callable[[Batch], object], batch: Batch) -> float | None:
    """Memory (MiB) that one step holds beyond what lies on the GPU before it; None on a CPU."""
    if batch.image.device.type != "cuda":
        return None
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step(batch)
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def counted_flops(step: Callable[[Batch], object], batch: Batch) -> int:
    with FlopCounterMode(display=False) as counter:
        step(batch)
    return counter.get_total_flops()


def shares(step: Callable[[Batch], object], batch: Batch) -> dict[str, float]:
    """Share of a step's time by kind of operation."""
    cuda = batch.image.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * cuda]
    with profile(activities=activities) as profiler:
        step(batch)
    sums = dict.fromkeys((*KINDS, "other"), 0.0)
    for event in profiler.key_averages():
        spent = event.self_device_time_total if cuda else event.self_cpu_time_total
        kind = next((k for k, part in KINDS.items() if part in event.key.lower()), "other")
        sums[kind] += spent
    whole = sum(sums.values())
    return {kind: spent / whole for kind, spent in sums.items() if spent > 0.005 * whole}


@click.command()
@click.option("--model", type=click.Choice(["attri_vae", "attri_sivae"]), default="attri_vae")
@click.option("--filters", help="Of the Soft-Intro network: 8,16,32,64,64; default: the paper's.")
@click.option("--batch-size", default=16, show_default=True)
@click.option("--steps", default=1, show_default=True, help="Of a round.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--precision", default="bfloat16", show_default=True)
@click.option("--compile", "compiled", is_flag=True, help="Also with torch.compile.")
@click.option("--json", "file", type=Path, help="Write the numbers to this file too.")
def main(
    model: str, filters: str | None, batch_size: int, steps: int, rounds: int, device: str,
    precision: str, compiled: bool, file: Path | None,
) -> None:  # fmt: skip
    name = "attri_vae" if model == "attri_vae" else "attri_sivae_acdc"
    changes = [f"precision={precision}"]
    if model == "attri_sivae":
        changes += ["objective.w_perceptual=0", "objective.perceptual=none"]
        changes += [f"network.arguments.filters=[{filters}]"] if filters else []
    pipeline = load_pipeline(name, changes)
    place = torch.device(device)
    torch.manual_seed(0)
    network = build_network(pipeline.network.name, **pipeline.network.arguments).to(place)
    batch = Batch(
        torch.rand(batch_size, 1, 128, 128, device=place),
        torch.randn(batch_size, 3, device=place),
        torch.randn(6, batch_size, network.latent_size, device=place),
    )
    weights = vars(pipeline.objective) | {"lr": pipeline.optimiser.lr}
    make = reference_vae if model == "attri_vae" else reference_soft_intro

    def ours(variant: Pipeline, mode: str = "default") -> Callable[[Batch], dict[str, Tensor]]:
        return our_step(our_trainer(variant, copy.deepcopy(network), place, mode))

    exact = replace(pipeline, precision="float32")
    reference = make(copy.deepcopy(network).train(), weights)
    expected, found = reference(batch), losses(ours(exact)(batch))
    apart = max(abs(a - b) / abs(a) for a, b in zip(expected, found, strict=True))
    click.echo(f"{model}, {sum(p.numel() for p in network.parameters()):,} parameters, batch "
               f"{batch_size}, {device}, {torch.get_num_threads()} threads")  # fmt: skip
    click.echo(f"first losses in float32 differ from the reference by {apart:.1e}")

    variants = {"ours": pipeline, "ours, float32": exact}
    for option in ("channels_last", "fused", "shared_passes"):
        if option != "shared_passes" or model == "attri_sivae":
            speed = replace(pipeline.speed, **{option: False})
            variants[f"ours, no {option}"] = replace(pipeline, speed=speed)
    steppers = {"reference": reference} | {label: ours(v) for label, v in variants.items()}
    if compiled:
        variant = replace(pipeline, speed=replace(Speed(), compile=True))
        steppers["ours, compiled"] = ours(variant)
        steppers["ours, CUDA graphs"] = ours(variant, "reduce-overhead")
    errors = {}
    for label, step in list(steppers.items()):  # warm up, compile, record graphs
        try:
            for _ in range(3 if compiled else 1):
                step(batch)
        except Exception as error:  # a compiler that is missing must not cost the other rows
            errors[label] = f"{type(error).__name__}: {error}".splitlines()[0]
            click.echo(f"{label}: {errors[label]}")
            del steppers[label]
    times: dict[str, list[float]] = {label: [] for label in steppers}
    for _ in range(rounds):
        for label, step in steppers.items():
            times[label].append(seconds(step, batch, steps))

    click.echo(f"{'':28s}  ms/step  images/s  times as fast (smallest, largest)")
    record = {"errors": errors, "parameters": sum(p.numel() for p in network.parameters()),
              "batch_size": batch_size, "device": device_name(place), "rows": {}}  # fmt: skip
    for label, spent in times.items():
        middle = statistics.median(spent)
        ratios = sorted(a / b for a, b in zip(times["reference"], spent, strict=True))
        click.echo(
            f"{label:28s}{1000 * middle:9.1f}{batch_size / middle:10.1f}"
            f"{statistics.median(ratios):9.2f} ({ratios[0]:.2f}, {ratios[-1]:.2f})"
        )
        record["rows"][label] = {
            "ms": 1000 * middle, "images_per_second": batch_size / middle,
            "ratio": statistics.median(ratios), "peak_mib": peak_memory(steppers[label], batch),
        }  # fmt: skip
    write_record(record, file)  # what follows takes long on a GPU and may be cut off
    for label in ("reference", "ours"):
        flops = counted_flops(steppers[label], batch)
        dtype = torch.float32 if label == "reference" else getattr(torch, precision)
        rate, best = flops / statistics.median(times[label]), matrix_rate(place, dtype)
        click.echo(
            f"{label}: {flops / 1e9:.1f} GFLOP a step, {rate / 1e9:.0f} GFLOP/s, "
            f"{rate / best:.0%} of a {dtype} matrix product ({best / 1e9:.0f} GFLOP/s)"
        )
        record["rows"][label] |= {"gflop": flops / 1e9, "rate": rate, "matrix_rate": best}
        parts = sorted(shares(steppers[label], batch).items(), key=lambda item: -item[1])
        click.echo("  " + ", ".join(f"{kind} {share:.0%}" for kind, share in parts))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if place.type == "cuda":
        peak = torch.cuda.max_memory_allocated(place) / 2**20
    click.echo(f"peak memory of the whole benchmark: {peak:.0f} MiB")
    write_record(record, file)


def write_record(record: dict[str, object], file: Path | None) -> None:
    if file:
        file.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
