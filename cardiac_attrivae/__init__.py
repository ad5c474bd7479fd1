"""Generative models of the heart whose latent dimensions mean something.

    import cardiac_attrivae as ca

    model = ca.load_model("runs/acdc")
    heart = model.generate({"LVEDA": 28}, case="patient012")

The names below are loaded when they are first used: ``import cardiac_attrivae`` takes no time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import load_pipeline as load_pipeline
    from .cross_domain import cross_domain_eval as cross_domain_eval
    from .manifest import load_manifest as load_manifest
    from .model import Model as Model
    from .model import load_model as load_model
    from .model import open_store as open_store
    from .model import train as train
    from .report import write_report as write_report

__version__ = "0.1.0"

_ROOMS = {
    "Model": "model",
    "cross_domain_eval": "cross_domain",
    "load_manifest": "manifest",
    "load_model": "model",
    "load_pipeline": "config",
    "open_store": "model",
    "train": "model",
    "write_report": "report",
}
"""Public name -> the room it lives in."""

__all__ = ["__version__", *_ROOMS]


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_ROOMS[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
