"""Writes a run as a MONAI bundle: what MONAI's tools expect of a model, where they look for it.

https://docs.monai.io/en/stable/mb_specification.html. A bundle needs this package installed: its
configurations, ``templates/bundle_*.json``, name what `export/__init__.py` keeps stable. Values of
a run are filled in under keys of their own, and may not become code there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from reprlib import repr as short
from typing import Any

import torch

from ..data.recipe import full_recipe
from ..report.render import render
from ..runtime.files import atomic_file, atomic_folder, write
from ..runtime.outputs import added, require_free, require_new
from ..schema import DataError
from ..training.facts import CROP
from ..training.run import Run, load_run
from .bundle_inference import FORMAT
from .card import Scores, Source, describe, phases_of
from .formats import FILES, FORMATS, Autoencoder, pipeline_of, plain, write_torchscript

CODE = ("$", "@", "%")
"""How MONAI's expressions, references and macros begin in a configuration."""
KEYS = (*CODE, "_", "+")
"""How keys begin that MONAI obeys: what to build, and what to merge."""
INSIDE = ("@", "::", "#")
"""What stands anywhere in a key if MONAI reads it as a place in the configuration."""


def export(
    run: str | Path,
    form: str,
    output: str | Path,
    evaluation: str | Path | None = None,
    tell: Callable[[str], None] = lambda message: None,
    plain: bool | None = None,
) -> None:
    """Writes a run in another form.

    Args:
        run: Folder that ``train`` wrote.
        form: ``bundle``, or a name in `FORMATS`.
        output: Folder to write; a bundle is a new one.
        evaluation: Folder that ``cross-domain-eval`` wrote, whose scores a bundle's card shows.
        tell: Called with the outcome of each check.
        plain: Whether the refiner of the run is left out, see `load_run`; a bundle has no place for
            it.

    Raises:
        DataError: If the run cannot be read, the output is there already, or a check fails.
        ValueError: If there is no such form, or it has no place for scores.
    """
    if form != "bundle" and form not in FORMATS:
        raise ValueError(f"format is {form!r}; expected one of bundle, {', '.join(FORMATS)}")
    if form != "bundle" and evaluation is not None:
        raise ValueError(f"format {form} has no place for scores; only a bundle has a model card")
    require_free(Path(output), "export")
    model = load_run(run, plain=plain)
    if model.condition and form == "onnx":
        columns = ", ".join(model.network.categories)
        tell(f"condition has a column for each {model.condition}: {columns}; zeros tell nothing")
    elif model.condition and form != "safetensors":
        tell(f"the exported network is told no {model.condition}")
    if form == "bundle":
        if model.refiner is not None:
            model = replace(model, refiner=None)
            tell("left out: the refiner, for which a bundle has no place")
        write_bundle(model, output, evaluation, tell)
        return
    with added(Path(output), "export", FILES[form]):
        FORMATS[form](model, output, tell)


def write_bundle(
    run: Run,
    output: str | Path,
    evaluation: str | Path | None = None,
    tell: Callable[[str], None] = lambda message: None,
) -> Path:
    """Writes a bundle, atomically, into a folder that does not exist yet, or is empty; see
    `export`.

    It holds weights, configurations and texts: nothing of single patients, no path, no name of a
    machine or a user.
    """
    output = Path(output)
    require_new(output)
    scores = Scores.read(evaluation, run) if evaluation else None
    about = describe(run, scores) | {"bundle_format": FORMAT}
    configs = {
        "metadata": filled("metadata", about, run.folder),
        "inference": filled("inference", inference_values(run), run.folder),
        "train": filled("train", train_values(run), run.folder),
    }
    texts = {name: json.dumps(config, indent=4) + "\n" for name, config in configs.items()}
    facts = {"run": run, "about": about, "data": Source.of(run), "scores": scores}
    with atomic_folder(output) as folder:
        for name, text in texts.items():
            write(folder / "configs" / f"{name}.json", text)
        write(folder / "configs" / "logging.conf", render("bundle_logging.conf", __package__))
        write(folder / "docs" / "README.md", render("bundle_card.md", __package__, **facts))
        write(folder / "LICENSE", render("bundle_licence.txt", __package__, **facts))
        with atomic_file(folder / "models" / "model.pt") as beside:
            torch.save(Autoencoder(plain(run.network)).state_dict(), beside)
        extra = {f"{name}.json": texts[name] for name in ("metadata", "inference")}
        write_torchscript(run, folder / "models", tell, extra)
    return output


def filled(name: str, values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Fills values of a run into the template of a configuration, ``metadata``, ``inference`` or
    ``train``. Refuses what MONAI would run in the result and is not in the template: the run may be
    crafted."""
    template = json.loads(render(f"bundle_{name}.json", __package__)) if name != "metadata" else {}
    finished = template | values
    for key, text in code_in(finished):
        if (key, text) not in code_in(template):
            raise DataError(
                f"{folder} holds {short(text)} in {key}, which MONAI would run as code; expected "
                f"no text that begins with one of {' '.join(CODE)}"
            )
    return finished


def code_in(config: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Finds every text in a configuration that MONAI may run or look up, with its dotted key.

    Example:
        >>> list(code_in({"a": ["plain", "$1 + 1"], "b": {"_target_": "x"}}))
        [('a.1', '$1 + 1'), ('b._target_', '_target_'), ('b._target_', 'x')]
    """
    if isinstance(config, Mapping):
        for name, item in config.items():
            inner = f"{key}.{name}".lstrip(".")
            if name.strip().startswith(KEYS) or any(sign in name for sign in INSIDE):
                yield inner, name
                if isinstance(item, str):  # what to build, for one
                    yield inner, item
                    continue
            yield from code_in(item, inner)
    elif isinstance(config, (list, tuple)):
        for index, item in enumerate(config):
            yield from code_in(item, f"{key}.{index}")
    elif isinstance(config, str) and config.strip().startswith(CODE):
        yield key, config


def inference_values(run: Run) -> dict[str, Any]:
    """Returns what inference.json, slices to codes and reconstructions, holds of a run."""
    return {
        "format": FORMAT,
        "network_name": run.pipeline.network.name,
        "network_arguments": dict(run.pipeline.network.arguments),
        "recipe": {key: run.about["recipe"][key] for key in CROP} | _phases(run),
    }


def _phases(run: Run) -> dict[str, Any]:
    """What a bundle must know of a model of two phases or of stacks besides the crop."""
    phases, stack = phases_of(run), full_recipe(run.about["recipe"])["stack"]
    return ({"phases": phases} if phases[1:] else {}) | ({"stack": stack} if stack > 1 else {})


def train_values(run: Run) -> dict[str, Any]:
    """Returns what train.json, the same training on any store, holds of a run."""
    return {"seed": run.about["seed"], "pipeline": pipeline_of(run)}
