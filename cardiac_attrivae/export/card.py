"""Describes a model to those who receive it: metadata.json and the facts of its model card."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ..attributes import ATTRIBUTES
from ..data.manifest import load_manifest, shipped_manifests
from ..data.recipe import STACK_MM, full_recipe
from ..metrics.pooling import summarise
from ..report.evaluations import read_evaluations
from ..report.render import escape_markdown
from ..report.text_tables import markdown
from ..runtime.provenance import __version__, versions
from ..schema import DataError
from ..training.run import Run

SCHEMA = "https://project-monai.github.io/schema/meta_schema_20240725.json"
"""Schema of metadata.json: the newest that MONAI publishes for models of no special kind."""

PACKAGES = ("nibabel", "pandas", "pytorch-ignite", "safetensors")
"""Packages needed besides this one, MONAI, PyTorch and NumPy; pip installs them with this one."""

PAPERS = (
    "Di Folco, Bercea, Schnabel: Attribute Regularized Soft Introspective VAE: Towards Cardiac "
    "Attribute Regularization Through MRI Domains, 2023. arXiv:2307.12618",
    "Cetin, Stephens, Camara, González Ballester: Attri-VAE: Attribute-based interpretable "
    "representations of medical images with variational autoencoders, 2023. arXiv:2203.10417",
    "Pati, Lerch: Attribute-based Regularization of Latent Spaces for Variational Auto-Encoders, "
    "2021. arXiv:2004.05485",
)

PLAIN = {"%": "percent"}
"""How a unit is written where MONAI would read a sign as code."""

USE = (
    "Research on latent representations of cardiac MRI: codes of short-axis slices, and slices of "
    "codes. Not a medical device; not for diagnosis or treatment."
)


@dataclass(frozen=True)
class Source:
    """The data that a model was trained on, as far as the run and the manifests describe it."""

    name: str
    title: str
    citation: str = ""
    licence: str = ""
    url: str = ""
    synthetic: bool = False

    @classmethod
    def of(cls, run: Run) -> Source:
        about, name = run.about, run.about["train_dataset"]
        known = load_manifest(name) if name in shipped_manifests() else None
        title = about.get("title") or (known.title if known else name)
        if about.get("synthetic"):
            return cls(name, f"Synthetic hearts in the files of {title}", synthetic=True)
        if known is None:
            return cls(name, title, about.get("citation") or "")
        return cls(name, title, about.get("citation") or known.citation, known.licence, known.url)

    @property
    def terms(self) -> str:
        """The terms of the data for those who pass the weights on."""
        if self.synthetic:
            return "Trained on synthetic hearts alone; no terms of a data set apply to the weights."
        if not self.licence:
            return (
                f"The licence of {self.title} is not known to this program. Ask those who gave you "
                "the data before you pass the weights on."
            )
        return (
            f"Trained on {self.title}, which is licensed {self.licence}. Treat the weights as "
            "under the same terms."
        )


@dataclass(frozen=True)
class Scores:
    """Scores of one run that ``cross-domain-eval`` wrote: its rows of metrics.csv, and notes."""

    metrics: pd.DataFrame
    notes: list[str]
    synthetic: tuple[str, ...] = ()

    @classmethod
    def read(cls, folder: str | Path, run: Run) -> Scores:
        """Reads the scores of exactly this training, which its summary identifies; refuses a folder
        without."""
        found = read_evaluations([Path(folder)])
        own = {key: value for key, value in run.summary.items() if key != "store"}
        names = [model["name"] for model in found.models if model.get("summary") == own]
        mine = found.metrics
        mine = mine[mine["model"].isin(names[:1])] if "model" in mine else mine[:0]
        if mine.empty:
            raise DataError(f"{folder} has no scores of {run.folder}; evaluate it first")
        return cls(mine, found.notes, tuple(sorted(found.synthetic)))

    @property
    def tables(self) -> str:
        """Tables in Markdown, to stand below a heading."""
        text = markdown(self.metrics, self.notes, self.synthetic).partition("\n")[2]
        return text.strip().replace("\n## ", "\n### ")

    @property
    def numbers(self) -> dict[str, dict[str, Any]]:
        """``test set/split/metric/attribute`` -> value, unit and 95 % interval where they exist."""
        found = {}
        for (_, place, metric, attribute), score in summarise(self.metrics).items():
            entry = {key: getattr(score, key) for key in ("value", "unit", "low", "high")}
            known = {k: v for k, v in entry.items() if isinstance(v, str) or math.isfinite(v)}
            known = {k: PLAIN.get(v, v) for k, v in known.items() if v != ""}
            found["/".join((place.tested, place.split, metric, attribute))] = known
        return found


def calibration_of(run: Run) -> dict[str, dict[str, Any]]:
    """Returns the line from a code to each attribute; empty for a run that saved none.

    ``attribute = intercept + slope * z[dimension]`` in its ``unit``, fitted on ``n`` training
    patients, who lie about it with the standard deviation ``residual_sd``.
    """
    lines = run.about.get("calibration") or {}
    keys = ("dimension", "intercept", "slope", "residual_sd", "n")
    return {
        name: {"unit": PLAIN.get(ATTRIBUTES[name].unit, ATTRIBUTES[name].unit)}
        | {key: lines[name][key] for key in keys}
        for name in run.pipeline.attributes
        if name in lines
    }


def phases_of(run: Run) -> list[str]:
    """Returns the phases that the channels of a run show; earlier versions knew ED alone."""
    return list(full_recipe(run.about["recipe"])["phases"])


def _condition(run: Run) -> str:
    if not run.condition:
        return ""
    column, *known = map(escape_markdown, (run.condition, *run.network.categories))
    told = f"the {column} of patients ({', '.join(known)})"
    return f" In training it was told {told}; here it is told none."


def describe(run: Run, scores: Scores | None) -> dict[str, Any]:
    """Returns the content of metadata.json."""
    size, spacing = (run.about["recipe"][key] for key in ("size", "spacing"))
    phases, stack = phases_of(run), full_recipe(run.about["recipe"])["stack"]
    one, at = "short-axis slice, 0 outside the heart", {"ED": "end-diastole", "ES": "end-systole"}
    named = [one if len(phases) == 1 else f"{one}, at {at[phase]}" for phase in phases]
    if stack > 1:
        named = [f"{name}, {k + 1} of {stack} from base to apex"
                 for name in named for k in range(stack)]  # fmt: skip
    channels = {str(k): name for k, name in enumerate(named)}
    count = f"{len(named)} channels, {' and '.join(phases)}" if named[1:] else "one channel"
    count += f" from base to apex, {STACK_MM / stack:g} mm apart" if stack > 1 else ""
    dimensions, data = len(run.about["code_mean"]), Source.of(run)
    attributes = run.pipeline.attributes
    image = {
        "type": "image", "format": "magnitude", "modality": "MR", "num_channels": len(named),
        "spatial_shape": [size, size], "dtype": "float32", "value_range": [0, 1],
        "is_patch_data": False, "channel_def": channels,
    }  # fmt: skip
    trained = run.pipeline.dimensions(attributes)
    meaning = {
        str(dimension): f"{name} ({ATTRIBUTES[name].unit})"
        for name, dimension in zip(attributes, trained, strict=True)
        if dimension is not None
    }
    latent = {
        "type": "tuples", "format": "latent", "modality": "n/a", "num_channels": dimensions,
        "spatial_shape": [], "dtype": "float32", "value_range": [], "is_patch_data": False,
        "channel_def": meaning,
    }  # fmt: skip
    used = versions(("monai", "numpy", "torch", *PACKAGES))
    return {
        "schema": SCHEMA,
        "version": "1.0.0",
        "changelog": {"1.0.0": f"written by cardiac-attrivae {__version__}"},
        "monai_version": used["monai"],
        "pytorch_version": used["torch"].partition("+")[0],
        "numpy_version": used["numpy"],
        "required_packages_version": {k: used[k] for k in ("cardiac-attrivae", *PACKAGES)},
        "name": f"{run.pipeline.method} of {data.name}",
        "task": "Attribute-regularised latent codes of cardiac MRI, and slices of codes",
        "description": (
            f"{type(run.network).__name__} with {dimensions} latent dimensions, of short-axis "
            f"slices of {size} x {size} pixels of {spacing} mm at "
            f"{' and '.join(at[phase] for phase in phases)}. "
            + (f"Trained so that {', '.join(meaning.values())} each turn one dimension."
               if meaning else "No dimension was trained on an attribute.")
            + _condition(run)
        ),
        "authors": "The cardiac-attrivae developers (software); whoever trained it (weights)",
        "copyright": "Copyright (c) The cardiac-attrivae developers (software)",
        "data_source": "; ".join(filter(None, (data.title, data.url, data.terms))),
        "data_type": "nibabel",
        "image_classes": f"{count}, intensity in [0, 1], 0 outside the heart",
        "label_classes": "none",
        "pred_classes": f"{count}: the slice, decoded from its posterior mean",
        "eval_metrics": scores.numbers if scores else {},
        "calibration": calibration_of(run),
        "intended_use": USE,
        "references": [*filter(None, [data.citation]), *PAPERS],
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": image}},
        "encoder_data_format": {
            "inputs": {"image": image}, "outputs": {"mu": latent, "logvar": latent}
        },
        "decoder_data_format": {"inputs": {"z": latent}, "outputs": {"reconstruction": image}},
    }  # fmt: skip
