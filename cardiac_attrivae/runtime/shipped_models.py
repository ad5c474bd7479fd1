"""Models that come with the package, by name: ``acdc``, or ``acdc/attri_vae_fast``.

A shipped model is a folder in ``pretrained/NAME`` in the layout of a MONAI bundle: its card in
``docs/README.md``, its weights in ``models/``. It holds no slice and no code of a patient, so what
other runs take from their store comes from the model: lines, the training codes' mean and spread.
"""

from __future__ import annotations

from pathlib import Path

PRETRAINED = Path(__file__).parents[1] / "pretrained"
"""Folder of the data sets whose models are shipped."""
DEFAULT = "attri_sivae_fast"
"""The model that the name of a data set alone stands for, or its first one if this is not there."""
MODELS = "models"
"""Folder of the weights in a bundle."""
JUDGES = "judges"
"""Folder beside the models of a data set, with the networks that measure what they draw."""
GUIDE = "guide.safetensors"
"""File beside them, with the weights of the guide that is a part of each: they share one."""

OTHERS = "give patients of another data set, such as M&Ms or your own, or a run of your own"
"""What to do where a shipped model has seen the patients."""


def shipped_models() -> list[str]:
    """Lists the names of shipped models.

    Example:
        >>> all(name.count("/") <= 1 for name in shipped_models())
        True
    """
    bundles = sorted(PRETRAINED.glob(f"*/*/{MODELS}/model.safetensors"))
    names = [f"{file.parts[-4]}/{file.parts[-3]}" for file in bundles]
    return [*_defaults(names), *names]


def _defaults(names: list[str]) -> dict[str, str]:
    """Data set -> the model that its name stands for."""
    first = {name.partition("/")[0]: name for name in reversed(names)}
    return dict(sorted(first.items())) | {
        name.partition("/")[0]: name for name in names if name.endswith(f"/{DEFAULT}")
    }


def model_folder(name: str | Path) -> Path:
    """Returns the folder that holds a model's weights: a shipped one by its name in
    `shipped_models`. A folder of the user's comes first."""
    folder, known = Path(name), shipped_models()
    model = folder.as_posix()  # Windows turns the slash
    if folder.exists() or model not in known:
        return folder
    chosen = _defaults([one for one in known if "/" in one]).get(model, model)
    return PRETRAINED / chosen / MODELS


def judges_of(folder: Path) -> list[Path]:
    """Returns the files of the networks that measure what a shipped model draws, by its
    `model_folder`; none of other models."""
    return sorted((folder.parents[1] / JUDGES).glob("*.safetensors")) if is_shipped(folder) else []


def guide_of(folder: Path) -> Path | None:
    """Returns the file of the guide that a shipped model shares with others, by its `model_folder`;
    None of other models."""
    file = folder.parents[1] / GUIDE if is_shipped(folder) else folder
    return file if file.is_file() else None


def is_shipped(folder: Path) -> bool:
    """Tells whether a folder of weights comes with the package."""
    return PRETRAINED in folder.parents


def trained_on(folder: Path) -> str:
    """Returns the name of the data set that a shipped model was trained on, by its `model_folder`:
    on all of its patients but those of the split test; empty of other models.

    Example:
        >>> trained_on(model_folder("acdc"))
        'acdc'
    """
    return folder.parents[1].name if is_shipped(folder) else ""
