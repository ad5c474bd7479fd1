"""Writes trained networks for other programs: safetensors, TorchScript and ONNX.

Networks are written in eval mode and float32; the code of an image is its posterior mean. The
number of images is free. Every file is opened again, and its output compared with PyTorch's, before
it takes its place. No file names a module of this package.
"""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from zipfile import ZipFile

import torch
from torch import Tensor, nn

from ..models.conditional import told
from ..models.vae import VAE
from ..runtime.files import atomic_file
from ..runtime.outputs import REFINER
from ..runtime.provenance import ONNX, require_packages
from ..runtime.weights import read_weights, write_weights
from ..schema import DataError
from ..training.facts import SHARED
from ..training.refiner_learner import about_base
from ..training.run import Run

OPSET = 18
"""Version of ONNX's operators: the oldest that PyTorch writes without conversion, and one that
onnxruntime-web reads."""

TOLERANCE = 1e-4
"""Largest difference from PyTorch's output, in units of the largest value of that output, or of 1
if that is smaller. Other programs add in another order; float32 leaves about 1e-6 of that."""

BATCHES = (1, 3)
"""Numbers of rows that every file is tried with."""

Tell = Callable[[str], None]
Function = Callable[..., Tensor | Sequence[Tensor]]


class Part(nn.Module):
    """One method of a network as a module of its own, which is what ONNX can hold.

    Args:
        network: A network as in `models.networks`.
        method: ``encode``, slices (N, C, H, W) to mean and log of the variance of their codes,
            (N, D) each; or ``decode``, codes to slices. What a conditional network is told comes
            second, see `told`; nothing by default.
    """

    def __init__(self, network: nn.Module, method: str) -> None:
        super().__init__()
        self.network, self.method = network, method

    def forward(
        self, values: Tensor, condition: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        with told(self.network, condition):
            return getattr(self.network, self.method)(values)


class Autoencoder(nn.Module):
    """Slices (N, C, H, W) to their reconstructions: the decoded means. What a bundle runs."""

    network: VAE

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.add_module("network", network)

    def forward(self, image: Tensor) -> Tensor:
        return self.decode(self.encode(image)[0])

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the posterior mean and the log of the variance, (N, D) each."""
        mu, logvar = self.network.encode(image)
        return mu, logvar

    def decode(self, z: Tensor) -> Tensor:
        """Returns the slices of codes (N, D)."""
        return self.network.decode(z)


def plain(network: nn.Module) -> nn.Module:
    """Copies a network: in eval mode, float32, on the CPU, weights in the usual memory order."""
    network = copy.deepcopy(network).to("cpu", torch.float32).eval()
    # torch's stub of this overload lacks memory_format
    return network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def pipeline_of(run: Run) -> dict[str, Any]:
    """Returns the pipeline as plain values, without the path of a file on its author's machine."""
    pipeline = run.pipeline.to_dict()
    if "perceptual_weights" in pipeline["objective"]:
        pipeline["objective"]["perceptual_weights"] = ""
    return pipeline


def examples(run: Run) -> tuple[Tensor, Tensor]:
    """Draws slices (3, C, H, W) and codes (3, D) to try a file with; none is a patient's.

    The codes have the mean and the deviation of the training codes; the slices are decoded from
    them.
    """
    mean, deviation = (torch.tensor(run.about[k]) for k in ("code_mean", "code_deviation"))
    noise = torch.randn(max(BATCHES), len(mean), generator=torch.Generator().manual_seed(0))
    z = mean + deviation * noise
    with torch.no_grad():
        return Autoencoder(plain(run.network)).decode(z).clamp(0, 1), z


def write_onnx(run: Run, folder: str | Path, tell: Tell = lambda message: None) -> dict[str, Path]:
    """Writes encoder.onnx (image to mu, logvar) and decoder.onnx (z to reconstruction).

    Those of a conditional network take ``condition`` (N, M), too: a 1 for the category of each
    patient, or zeros to tell nothing. Refuses a file that gives another output than PyTorch.
    ``tell`` is called with the largest difference of each.

    Returns:
        The files, by ``encoder`` and ``decoder``.
    """
    network, (image, z) = plain(run.painter), examples(run)
    count = len(run.network.categories) if run.condition else 0
    told = {"condition": torch.eye(max(BATCHES), count)} if count else {}
    parts = {
        "encoder": (Part(network, "encode"), {"image": image} | told, ("mu", "logvar")),
        "decoder": (Part(network, "decode"), {"z": z} | told, ("reconstruction",)),
    }
    files = {name: Path(folder) / f"{name}.onnx" for name in parts}
    for name, part in parts.items():
        tell(outcome(files[name].name, write_module(*part, files[name])))
    return files


def outcome(name: str, difference: float) -> str:
    """Describes a file, or a method in it, that was compared."""
    return f"{name}: largest difference from PyTorch {difference:.1e}"


def write_module(
    network: nn.Module, inputs: dict[str, Tensor], outputs: Sequence[str], file: str | Path
) -> float:
    """Writes any network as ONNX, with a free number of rows, and compares its output.

    PyTorch notes names of modules, lines of source code and paths beside every operation; they are
    left out.

    Args:
        network: Its forward takes the inputs in their order.
        inputs: Names and examples, as many rows as the largest of `BATCHES`.
        outputs: Names of what it returns, a tensor or a tuple.
        file: File to write.

    Returns:
        Largest difference from PyTorch's output over all outputs and `BATCHES`; one of more than
        `TOLERANCE` is refused.
    """
    require_packages(*ONNX)
    import onnxruntime
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    rows = torch.export.Dim("batch")
    with _quiet():
        program = torch.onnx.export(
            plain(network),
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=list(outputs),
            opset_version=OPSET,
            dynamic_shapes=tuple({0: rows} for _ in inputs),
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # None is for a model that is written to a file at once
    ClearMetadataAndDocStringPass()(program.model)
    with atomic_file(file) as beside:
        program.save(beside, external_data=False)
        session = onnxruntime.InferenceSession(beside, providers=["CPUExecutionProvider"])

        def answer(*values: Tensor) -> list[Tensor]:
            fed = {name: value.numpy() for name, value in zip(inputs, values, strict=True)}
            return [torch.from_numpy(part) for part in session.run(list(outputs), fed)]

        return compare(network, answer, [*inputs.values()], Path(file))


def write_torchscript(
    run: Run,
    folder: str | Path,
    tell: Tell = lambda message: None,
    extra: Mapping[str, str] | None = None,
) -> dict[str, Path]:
    """Writes model.ts: forward (slices to reconstructions), encode and decode of `Autoencoder`; see
    `write_onnx`.

    The network is traced, not compiled; `compare` tries it with other numbers of rows. Positions in
    the source code, with paths, and names of modules of this package are left out. ``extra`` are
    texts to put into the file, by name, as ``_extra_files`` of `torch.jit.load` reads.
    """
    network, (image, z) = Autoencoder(plain(run.painter)).eval(), examples(run)
    network.requires_grad_(False)  # what it returns has a numpy()
    inputs, stream = {"forward": image, "encode": image, "decode": z}, io.BytesIO()
    with _quiet(), torch.no_grad():
        script = torch.jit.trace_module(_without_modules(network), inputs, check_trace=False)
        torch.jit.save(script, stream, _extra_files=dict(extra or {}))
    file = Path(folder) / "model.ts"
    with atomic_file(file) as beside:
        with ZipFile(stream) as archive, ZipFile(beside, "w") as kept:
            for entry in archive.infolist():
                if not entry.filename.endswith(".debug_pkl"):
                    kept.writestr(entry, archive.read(entry))
        with _quiet():
            written = torch.jit.load(beside)
        for name, value in inputs.items():
            difference = compare(getattr(network, name), getattr(written, name), [value], file)
            tell(outcome(f"{file.name} {name}", difference))
    return {"model": file}


def _without_modules(network: nn.Module) -> nn.Module:
    """Copies a network, with classes that have the same names but belong to no module.

    TorchScript names the classes of what it traces; a module path would bind the file to one
    version of this package.
    """
    network = copy.deepcopy(network)
    for layer in network.modules():
        kind = type(layer)
        if kind.__module__.partition(".")[0] == __name__.partition(".")[0]:
            layer.__class__ = type(kind.__name__, (kind,), {"__module__": "__main__"})
    return network


def write_safetensors(
    run: Run, folder: str | Path, tell: Tell = lambda message: None
) -> dict[str, Path]:
    """Writes model.safetensors: float32 weights, and in its metadata all that is known of the run.

    A refiner is written into the folder ``refiner``. `load_run` opens the folder; any other program
    reads the weights by their names. See `write_onnx`.
    """
    file = Path(folder) / "model.safetensors"
    network, (image, _) = plain(run.network), examples(run)
    with atomic_file(file) as beside:
        facts = {key: run.about[key] for key in SHARED if key in run.about}
        write_weights(beside, network.state_dict(), {"pipeline": pipeline_of(run)} | facts)
        again = copy.deepcopy(network)
        for parameter in again.parameters():
            nn.init.zeros_(parameter)
        again.load_state_dict(read_weights(beside)[0])
        difference = compare(Part(network, "encode"), Part(again, "encode"), [image], file)
        tell(outcome(file.name, difference))
    if run.refiner is None:
        return {"model": file}
    facts = {
        "pipeline": run.about["refiner"]["pipeline"],
        "base": about_base(replace(run, network=cast(VAE, network))),
    }
    painting = Path(folder) / REFINER / file.name
    write_weights(painting, plain(run.refiner).state_dict(), facts)
    return {"model": file, "refiner": painting}


def compare(network: Function, written: Function, inputs: Sequence[Tensor], file: Path) -> float:
    """Returns the largest difference between two functions that should be the same.

    They are tried with ``inputs`` of each number of rows in `BATCHES`. A difference of more than
    `TOLERANCE`, or in the shape of an output, is refused, naming the file.

    Example:
        >>> three = [torch.zeros(3, 2)]
        >>> round(compare(lambda x: x, lambda x: x + 1e-5, three, Path("model.ts")), 6)
        1e-05
    """
    largest = 0.0
    for rows in BATCHES:
        values = [value[:rows] for value in inputs]
        with torch.no_grad():
            expected, found = (_tensors(function(*values)) for function in (network, written))
        for one, other in zip(expected, found, strict=True):
            if one.shape != other.shape:
                raise DataError(
                    f"{file}: output {tuple(other.shape)}; PyTorch's {tuple(one.shape)}"
                )
            difference = float((one - other).abs().max())
            if not difference <= TOLERANCE * max(1.0, float(one.abs().max())):  # nan too
                raise DataError(
                    f"{file.name}: largest difference from PyTorch {difference:.1e} with {rows} "
                    f"rows; accepted is {TOLERANCE:g} of the largest value; nothing was written"
                )
            largest = max(largest, difference)
    return largest


def _tensors(output: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    return (output,) if isinstance(output, Tensor) else output


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the notes of PyTorch's exporters; the output is compared anyway."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


FORMATS: dict[str, Callable[..., dict[str, Path]]] = {
    "safetensors": write_safetensors,
    "torchscript": write_torchscript,
    "onnx": write_onnx,
}
"""Name of each format -> function that writes a run in it."""
FILES = {
    "safetensors": ("model.safetensors", f"{REFINER}/model.safetensors"),
    "torchscript": ("model.ts",),
    "onnx": ("encoder.onnx", "decoder.onnx"),
}
"""Name of each format -> files that it may write."""
