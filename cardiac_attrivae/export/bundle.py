"""A run as a MONAI bundle: what MONAI's tools expect of a model, in the places they look in.

https://docs.monai.io/en/stable/mb_specification.html. A bundle needs this package installed: its
configurations name networks and workflows of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from reprlib import repr as short
from typing import Any

import torch

from ..evaluation.score import CROP
from ..report.render import render
from ..runtime.files import atomic_file, atomic_folder, write
from ..schema import DataError
from ..training.run import Run, load_run
from .card import Scores, Source, describe
from .formats import FORMATS, Autoencoder, plain, recipe_of, write_torchscript

CODE = ("$", "@", "%", "_")
"""How MONAI's expressions, references, macros and keys as ``_target_`` begin in a configuration."""


def export(
    run: str | Path,
    form: str,
    output: str | Path,
    evaluation: str | Path | None = None,
    tell: Callable[[str], None] = lambda message: None,
) -> None:
    """Writes a run in another form.

    Args:
        run: Folder that ``train`` wrote.
        form: ``bundle``, or a name in `exchange.FORMATS`.
        output: Folder to write; a bundle is a new one.
        evaluation: Folder that ``cross-domain-eval`` wrote, whose scores a bundle's card shows.
        tell: Called with the outcome of each check.

    Raises:
        DataError: If the run cannot be read, the output is there already, or a check fails.
        ValueError: If there is no such form, or it has no place for scores.
    """
    if form != "bundle" and form not in FORMATS:
        raise ValueError(f"format is {form!r}; expected one of bundle, {', '.join(FORMATS)}")
    if form != "bundle" and evaluation is not None:
        raise ValueError(f"format {form} has no place for scores; only a bundle has a model card")
    model = load_run(run)
    if form == "bundle":
        write_bundle(model, output, evaluation, tell)
    else:
        FORMATS[form](model, output, tell)


def write_bundle(
    run: Run,
    output: str | Path,
    evaluation: str | Path | None = None,
    tell: Callable[[str], None] = lambda message: None,
) -> Path:
    """Writes a bundle, whole or not at all.

    It holds weights, configurations and texts: nothing of single patients, no path, no name of a
    machine or a user.

    Args:
        run: What to write.
        output: Folder; must not be there yet, or be empty.
        evaluation: See `export`.
        tell: Called with the outcome of each check.

    Raises:
        DataError: See `export`.
    """
    output = Path(output)
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise DataError(f"{output} is there already; choose another folder for the bundle")
    scores = Scores.read(evaluation, run) if evaluation else None
    about = describe(run, scores)
    for given in (recipe_of(run), about):
        _refuse_code(given, run.folder)
    configs = {"metadata": about, "inference": inference_config(run), "train": train_config(run)}
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


def _refuse_code(value: Any, folder: Path) -> None:
    """Raises a DataError where MONAI would run what a run says: it may be crafted."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            _refuse_code(f"{key}", folder)
            _refuse_code(item, folder)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _refuse_code(item, folder)
    elif isinstance(value, str) and value.strip().startswith(CODE):
        raise DataError(
            f"{folder} holds {short(value)}, which MONAI would run as code; expected no text that "
            f"begins with one of {' '.join(CODE)}"
        )


def inference_config(run: Run) -> dict[str, Any]:
    """Content of inference.json: slices to codes and reconstructions."""
    kind = type(run.network)
    recipe = {key: run.about["recipe"][key] for key in CROP}
    return {
        "imports": ["$import torch"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/data'",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "network_def": {
            "_target_": "cardiac_attrivae.export.formats.Autoencoder",
            "network": {
                "_target_": f"{kind.__module__}.{kind.__qualname__}",
                **run.pipeline.network.arguments,
            },
        },
        "network": "$@network_def.to(@device)",
        "dataset": {
            "_target_": "cardiac_attrivae.export.bundle_inference.read_slices",
            "folder": "@dataset_dir",
            "recipe": recipe,
        },
        "dataloader": {
            "_target_": "monai.data.DataLoader",
            "dataset": "@dataset",
            "batch_size": 64,
            "shuffle": False,
        },
        "inferer": {"_target_": "monai.inferers.SimpleInferer"},
        "handlers": [
            {
                "_target_": "monai.handlers.CheckpointLoader",
                "load_path": "$@bundle_root + '/models/model.pt'",
                "load_dict": {"model": "@network"},
                "map_location": "@device",
                "strict": True,
            },
            {
                "_target_": "cardiac_attrivae.export.bundle_inference.Codes",
                "folder": "@output_dir",
                "spacing": recipe["spacing"],
            },
        ],
        "evaluator": {
            "_target_": "monai.engines.SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "val_handlers": "@handlers",
            "decollate": False,
        },
        "run": ["$@evaluator.run()"],
    }


def train_config(run: Run) -> dict[str, Any]:
    """Content of train.json: the same training, of any store."""
    return {
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/data'",
        "output_dir": "$@bundle_root + '/run'",
        "device": "auto",
        "seed": run.about["seed"],
        "pipeline": recipe_of(run),
        "workflow": {
            "_target_": "cardiac_attrivae.training.workflow.TrainingWorkflow.from_store",
            "pipeline": "@pipeline",
            "data": "@dataset_dir",
            "output": "@output_dir",
            "device": "@device",
            "seed": "@seed",
        },
        "train": {
            "trainer": "$@workflow.get_trainer()",
            "dataset": "$@workflow.get_train_dataset()",
            "inferer": "$@workflow.get_train_inferer()",
        },
        "max_epochs": "@pipeline#schedule#epochs",
        "initialize": ["$@workflow.initialize()"],
        "run": ["$@workflow.run()"],
        "finalize": ["$@workflow.finalize()"],
    }
