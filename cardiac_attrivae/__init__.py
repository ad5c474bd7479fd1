"""Generative models of the heart whose latent dimensions mean something.

    import cardiac_attrivae as ca

    model = ca.load_model("runs/acdc")
    heart = model.generate({"LVEDA": 28}, case="patient012")

Each name below is loaded when it is first used, so ``import cardiac_attrivae`` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .runtime import environment
from .runtime.provenance import __version__ as __version__

if TYPE_CHECKING:
    from .api import Model as Model
    from .api import load_model as load_model
    from .api import open_store as open_store
    from .api import train as train
    from .data.manifest import load_manifest as load_manifest
    from .data.preprocess import preprocess as preprocess
    from .data.recipe import Recipe as Recipe
    from .evaluation.cross_domain import cross_domain_eval as cross_domain_eval
    from .report.page import write_report as write_report
    from .segmentation.patients import segment as segment
    from .training.config import load_pipeline as load_pipeline

environment.prepare()

_MODULES = {
    "Model": "api",
    "Recipe": "data.recipe",
    "cross_domain_eval": "evaluation.cross_domain",
    "load_manifest": "data.manifest",
    "load_model": "api",
    "load_pipeline": "training.config",
    "open_store": "api",
    "preprocess": "data.preprocess",
    "segment": "segmentation.patients",
    "train": "api",
    "write_report": "report.page",
}
"""Public name -> module that defines it."""

_FORMER = ("codes", "exchange", "networks", "workflow")
"""Modules of earlier versions that the MONAI bundles of those versions name."""

__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _FORMER:
        raise ImportError(
            f"{__name__}.{name} belongs to an earlier version of cardiac-attrivae. A MONAI bundle "
            "that names it must be exported again: cardiac-attrivae export --format bundle; or use "
            "the version that its configs/metadata.json names"
        )
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
