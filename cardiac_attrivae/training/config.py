"""Pipeline YAML -> checked, frozen configuration. No code in YAML; every key is a field below.

Names are those of the paper's hyper-parameters: ``beta``, ``gamma`` (weight of the attribute term),
``delta`` (spread of its tanh).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from reprlib import repr as short
from typing import Any, get_args, get_origin, get_type_hints

from ..attributes import check_names
from ..runtime.yaml_files import nearest, read_yaml, shipped
from .augmentation import Augmentation


@dataclass(frozen=True)
class Network:
    """``name`` in `NETWORKS` or the dotted path of a class, and what its constructor takes."""

    name: str = "BetaVAE"
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Objective:
    """The attribute term, which all objectives have; see `AttributeLoss`."""

    gamma: float = 0.0
    delta: float = 10.0
    attribute_target: str = "sign"
    attribute_codes: str = "sampled"


@dataclass(frozen=True)
class AttriVAEObjective(Objective):
    """beta-VAE and Attri-VAE; see `AttriVAELoss`."""

    name: str = "AttriVAE"
    beta: float = 1.0


@dataclass(frozen=True)
class SoftIntroObjective(Objective):
    """Soft-Intro VAE and Attri-SIVAE; see `SoftIntroLoss`.

    Attributes:
        vae_epochs: Epochs as a plain VAE before introspection begins.
        perceptual: Feature network of the perceptual loss, see `perceptual_loss`.
        perceptual_weights: File of its weights; empty looks in the usual places.
    """

    name: str = "SoftIntro"
    beta_rec: float = 1.0
    beta_kl: float = 1.0
    beta_neg: float = 256.0
    gamma_r: float = 1e-8
    w_mse: float = 1.0
    w_perceptual: float = 0.0
    perceptual: str = "none"
    perceptual_weights: str = ""
    attribute_scaled: bool = False
    vae_epochs: int = 0


OBJECTIVES = {"AttriVAE": AttriVAEObjective, "SoftIntro": SoftIntroObjective}
"""What ``objective.name`` may be; it decides which keys ``objective`` has, and who trains."""


@dataclass(frozen=True)
class Data:
    """Which slices are trained on and how they are drawn.

    Attributes:
        slices: ``basal``: the most basal of each patient; ``all``: whatever the store holds.
        basal_weight: How often a basal slice is drawn, against 1 for any other; 0 shuffles, with
            each slice once an epoch.
        batch_size: Slices of a batch.
        residual: See `AttributeTargets`.
    """

    slices: str = "basal"
    basal_weight: float = 0.0
    batch_size: int = 16
    residual: float = 1.0


@dataclass(frozen=True)
class Optimiser:
    """Adam, its learning rate, and the average of the weights.

    Attributes:
        lr: Learning rate, its peak if there is a schedule.
        betas: Of Adam.
        weight_decay: Decoupled (AdamW); 0 is Adam.
        warmup: Share of all steps in which the rate rises linearly.
        schedule: ``constant``, or ``cosine`` from the end of the warm-up down to 0.
        milestones: Epochs after which the rate falls to a tenth.
        average: Decay of a running average of the weights, 0 for none. What is evaluated and
            saved is the average.
    """

    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    warmup: float = 0.0
    schedule: str = "constant"
    milestones: tuple[int, ...] = ()
    average: float = 0.0


@dataclass(frozen=True)
class Schedule:
    """How long to train, and what to keep.

    Attributes:
        epochs: At most.
        steps_per_epoch: 0 is as many as it takes to see each slice once.
        patience: Stop after this many epochs without a better validation loss; 0 is never.
        evaluate_every: Epochs between validations; checkpoints are written then.
        keep: Weights of the ``best`` validation loss, or of the ``last`` epoch.
        pictures_every: Epochs between pictures; 0 is at the end alone.
    """

    epochs: int = 100
    steps_per_epoch: int = 0
    patience: int = 0
    evaluate_every: int = 1
    keep: str = "best"
    pictures_every: int = 0


@dataclass(frozen=True)
class Speed:
    """What makes a step faster without changing what it computes, but for rounding.

    Attributes:
        channels_last: Memory order of images and weights.
        fused: All parameters in one pass of the optimiser.
        shared_passes: See `SoftIntroTrainer`.
        compile: torch.compile for encoder and decoder; needs a C++ compiler, or a GPU with Triton.
    """

    channels_last: bool = True
    fused: bool = True
    shared_passes: bool = True
    compile: bool = False


@dataclass(frozen=True)
class Pipeline:
    """Everything that a training run depends on but the data and the seed.

    Attributes:
        precision: What networks compute in while they are trained; losses are in float32.
        codes: What is scored: posterior ``mean``, or ``sampled`` codes.
        bn_recalibrate: Whether the running statistics of batch norm are estimated anew on training
            slices before each evaluation, see `recalibrate`.
        deterministic: Whether operations that add up in an order of their own on a GPU are replaced
            by slower ones, or refused: one seed then fixes every bit on one kind of GPU with the
            same versions. Costs part of the speed there, how much depends on network and GPU. Not
            needed on a CPU: with the same number of threads, runs are equal to the bit anyway.
    """

    method: str
    attributes: tuple[str, ...]
    network: Network = Network()
    objective: Objective = AttriVAEObjective()
    data: Data = Data()
    augmentation: Augmentation = Augmentation()
    optimiser: Optimiser = Optimiser()
    schedule: Schedule = Schedule()
    speed: Speed = Speed()
    precision: str = "float32"
    codes: str = "mean"
    bn_recalibrate: bool = True
    deterministic: bool = False

    def __post_init__(self) -> None:
        if not self.attributes:
            raise ValueError("attributes is []; expected one name or more")
        check_names(self.attributes)

    def dimensions(self, names: Iterable[str]) -> tuple[int | None, ...]:
        """Latent dimension that each attribute is trained on; None for those that are not."""
        trained = self.attributes if self.objective.gamma > 0 else ()
        return tuple(trained.index(name) if name in trained else None for name in names)

    def to_dict(self) -> dict[str, Any]:
        """Every value, as plain YAML and JSON can hold it."""
        return _plain(asdict(self))


CHOICES = {
    "data.slices": ("basal", "all"),
    "objective.attribute_target": ("sign", "graded"),
    "objective.attribute_codes": ("sampled", "mean"),
    "optimiser.schedule": ("constant", "cosine"),
    "schedule.keep": ("best", "last"),
    "precision": ("float32", "bfloat16"),
    "codes": ("mean", "sampled"),
}

# Smallest and largest accepted value. Numbers that are not listed may be anything from 0 up.
LIMITS = {
    "data.batch_size": (2, 65536),
    "data.residual": (0, 1),
    "objective.delta": (1e-6, 1e6),
    "optimiser.lr": (1e-9, 10),
    "optimiser.betas": (0, 0.999999),
    "optimiser.warmup": (0, 1),
    "optimiser.average": (0, 0.999999),
    "optimiser.milestones": (1, 10**7),
    "schedule.epochs": (1, 10**7),
    "schedule.evaluate_every": (1, 10**7),
}

DEEPEST = 16
"""Pipelines that may lie over one another by their ``base``."""


def shipped_pipelines() -> dict[str, Any]:
    """Name -> YAML file of the pipelines that the package knows."""
    return shipped("pipelines")


def load_pipeline(name_or_path: str | Path, overrides: Iterable[str] = ()) -> Pipeline:
    """Reads a pipeline.

    Args:
        name_or_path: A shipped name, or a YAML file. Its key ``base`` names another one, or a file
            beside it, that it is laid over.
        overrides: ``key=value`` with a dotted key and a value in YAML, laid over the file.

    Raises:
        ValueError: If there is no such pipeline, or a key or value is not accepted; the message
            names the key, the value and what is accepted.
    """
    values = _read(name_or_path, ())
    for override in overrides:
        key, equals, text = override.partition("=")
        if not (key and equals):
            raise ValueError(f"--set {override!r}; expected KEY=VALUE, such as optimiser.lr=1e-4")
        try:
            value = read_yaml(text)
        except ValueError as error:
            raise ValueError(f"--set {override!r} is no YAML: {error}") from None
        for part in reversed(key.split(".")):
            value = {part: value}
        values = _laid_over(values, value)
    return parse_pipeline(values)


def parse_pipeline(values: Any) -> Pipeline:
    """A pipeline from plain values, see `load_pipeline`."""
    return _build(Pipeline, values, "")


def _read(name_or_path: str | Path, seen: tuple[str, ...], folder: Path = Path()) -> dict[str, Any]:
    """Keys and values, with those of the base below them; files are looked for in ``folder``."""
    known = shipped_pipelines()
    if not isinstance(name_or_path, (str, Path)):
        raise ValueError(f"base is {short(name_or_path)}; expected the name of a pipeline or file")
    name = str(name_or_path if name_or_path in known else folder / name_or_path)
    file = known.get(name, Path(name))
    if not file.is_file():
        accepted = f"expected one of {', '.join(known)}, or a YAML file"
        hint = nearest(name_or_path, known)
        raise ValueError(f"no pipeline {str(name_or_path)!r}{hint}; {accepted}")
    if name in seen or len(seen) > DEEPEST:  # a path may name one file in endless ways
        raise ValueError(f"pipeline {name!r} is its own base: {' -> '.join((*seen, name))}")
    try:
        values = read_yaml(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"pipeline {name!r} is no YAML: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"pipeline {name!r} holds {short(values)}; expected keys and values")
    base = values.pop("base", None)
    if base is None:
        return values
    return _laid_over(_read(base, (*seen, name), Path(name).parent), values)


def _laid_over(below: Any, above: Any, key: str = "") -> Any:
    """``above`` where it says something, else ``below``; mappings key by key.

    A mapping that names another network or objective than the one below starts anew.
    """
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    default = {"network": Network.name, "objective": AttriVAEObjective.name}.get(key)
    if "name" in above and above["name"] != below.get("name", default):
        return above
    return below | {key: _laid_over(below.get(key), value, key) for key, value in above.items()}


def _build(kind: type, values: Any, where: str) -> Any:
    """An instance of a dataclass from plain values; ``where`` is its dotted path."""
    if not isinstance(values, Mapping):
        place = where.rstrip(".") or "the pipeline"
        raise ValueError(f"{place} is {short(values)}; expected keys and values")
    hints, known = get_type_hints(kind), {f.name: f for f in fields(kind)}
    for key in values:
        if key not in known:
            accepted = f"expected one of {', '.join(known)}"
            raise ValueError(f"unknown key {where}{key}{nearest(key, known)}; {accepted}")
    for name, f in known.items():
        if f.default is MISSING and f.default_factory is MISSING and name not in values:
            raise ValueError(f"{where}{name} is missing")
    built = {key: _value(hints[key], value, where + key) for key, value in values.items()}
    return kind(**built)


def _value(hint: Any, value: Any, key: str) -> Any:
    if hint is Objective:
        hint = _objective(value)
    if is_dataclass(hint):
        return _build(hint, value, key + ".")
    if get_origin(hint) is tuple:
        kinds = get_args(hint)
        fits = isinstance(value, (list, tuple)) and (kinds[1] is ... or len(value) == len(kinds))
        if not fits:
            length = "" if kinds[1] is ... else f" of {len(kinds)} values"
            raise ValueError(f"{key} is {short(value)}; expected a list{length}")
        return tuple(_value(kinds[0], item, key) for item in value)
    if get_origin(hint) is dict:
        if not isinstance(value, dict):
            raise ValueError(f"{key} is {short(value)}; expected keys and values")
        return value
    if hint is float and isinstance(value, str):  # YAML 1.1 reads 1e-4 as text
        value = _number(value)
    fits = isinstance(value, (int, float) if hint is float else hint)
    if not fits or isinstance(value, bool) != (hint is bool):
        kinds = {float: "a number", int: "a whole number", str: "text", bool: "true or false"}
        expected = kinds[hint]
        raise ValueError(f"{key} is {short(value)}; expected {expected}")
    if hint in (int, float):
        low, high = LIMITS.get(key, (0, float("inf")))
        if not low <= value <= min(high, sys.float_info.max):
            raise ValueError(f"{key} is {short(value)}; expected {low} to {high}")
        return hint(value)
    if key in CHOICES and value not in CHOICES[key]:
        raise ValueError(f"{key} is {value!r}; expected one of {', '.join(CHOICES[key])}")
    return value


def _objective(values: Any) -> type[Objective]:
    name = values.get("name", "AttriVAE") if isinstance(values, Mapping) else "AttriVAE"
    if not isinstance(name, str) or name not in OBJECTIVES:
        raise ValueError(f"objective.name is {name!r}; expected one of {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name]


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
