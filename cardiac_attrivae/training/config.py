"""Pipeline YAML -> checked, frozen configuration. No code in YAML; every key is a field below.

Names are those of the paper's hyper-parameters: ``beta``, ``gamma`` (weight of the attribute term),
``delta`` (spread of its tanh).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from reprlib import repr as short
from typing import Any

from ..attributes import check_names
from ..runtime.validation import build, check, number, one_of, option, refuse
from ..runtime.yaml_files import nearest, read_yaml, shipped
from .objectives import DEFAULT, OBJECTIVES, Objective

EPOCHS = number(1, 10**7, whole=True)
DECAY = number(0, 0.999999)


@dataclass(frozen=True)
class Network:
    """``name`` in `NETWORKS` or the dotted path of a class, and what its constructor takes."""

    name: str = "BetaVAE"
    arguments: dict[str, Any] = option(factory=dict)


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

    slices: str = option("basal", one_of("basal", "all"))
    basal_weight: float = 0.0
    batch_size: int = option(16, number(2, 65536, whole=True))
    residual: float = option(1.0, number(0, 1))


@dataclass(frozen=True)
class Augmentation:
    """How far each change may go. Uniform within +-range unless it says otherwise; 0 is none.

    Attributes:
        rotation: Degrees.
        shift: Pixels.
        zoom: Log of the zoom, the same in both directions.
        stretch: Log of a zoom along, and of its inverse across, a random direction.
        cavity: Log of a zoom of the LV cavity alone, about its centre.
        wall: Log of a zoom of the thickness of the myocardium alone; what is outside moves along.
        elastic: Standard deviation in pixels of smooth random displacements.
        blood: Relative brightness of both cavities.
        muscle: Brightness added to the myocardium.
        contrast: Log of the gamma exponent.
        bias: Standard deviation of the log of a smooth bias field.
        blur: Largest share of a 3 x 3 mean, uniform from 0.
        noise: Largest standard deviation of Gaussian noise, uniform from 0.
    """

    rotation: float = 0.0
    shift: float = 0.0
    zoom: float = 0.0
    stretch: float = 0.0
    cavity: float = 0.0
    wall: float = 0.0
    elastic: float = 0.0
    blood: float = 0.0
    muscle: float = 0.0
    contrast: float = 0.0
    bias: float = 0.0
    blur: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        check(self)


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

    lr: float = option(1e-4, number(1e-9, 10), searched=True)
    betas: tuple[float, float] = option((0.9, 0.999), DECAY)
    weight_decay: float = option(0.0, searched=True)
    warmup: float = option(0.0, number(0, 1))
    schedule: str = option("constant", one_of("constant", "cosine"))
    milestones: tuple[int, ...] = option((), EPOCHS)
    average: float = option(0.0, DECAY)


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

    epochs: int = option(100, EPOCHS)
    steps_per_epoch: int = 0
    patience: int = 0
    evaluate_every: int = option(1, EPOCHS)
    keep: str = option("best", one_of("best", "last"))
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


def _objective(values: Any, key: str) -> Objective:
    """The objective that ``name`` says, of its own options."""
    name = values.get("name", DEFAULT.name) if isinstance(values, Mapping) else DEFAULT.name
    if not isinstance(name, str) or name not in OBJECTIVES:
        refuse(f"{key}.name", name, f"one of {', '.join(OBJECTIVES)}")
    return build(OBJECTIVES[name], values, key)


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
    objective: Objective = option(DEFAULT, read=_objective)
    data: Data = Data()
    augmentation: Augmentation = Augmentation()
    optimiser: Optimiser = Optimiser()
    schedule: Schedule = Schedule()
    speed: Speed = Speed()
    precision: str = option("float32", one_of("float32", "bfloat16"))
    codes: str = option("mean", one_of("mean", "sampled"))
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


DEEPEST = 16
"""Pipelines that may lie over one another by their ``base``."""


def shipped_pipelines() -> dict[str, Any]:
    """Name -> YAML file of the pipelines that the package knows."""
    return shipped("pipelines")


def load_pipeline(name_or_path: str | Path, overrides: Iterable[str] = ()) -> Pipeline:
    """Reads a pipeline.

    Args:
        name_or_path: A shipped name, or a YAML file. Its key ``base`` names another pipeline, or a
            file beside it, whose values apply where it gives none.
        overrides: ``key=value`` with a dotted key and a value in YAML, applied last.

    Raises:
        ValueError: If there is no such pipeline, or a key or value is not accepted; the message
            names the key, the value and what is accepted.

    Example:
        >>> load_pipeline("attri_vae", ["objective.gamma=3"]).objective.gamma
        3.0
        >>> load_pipeline("attri_vae", ["objective.betta=3"])
        Traceback (most recent call last):
        ValueError: unknown key objective.betta, did you mean 'beta'?; expected one of gamma, ...
    """
    return parse_pipeline(overridden(read_pipeline(name_or_path), overrides))


def overridden(values: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Plain values of a pipeline with ``key=value`` laid over them, see `load_pipeline`.

    Raises:
        ValueError: If an override is not of this form.

    Example:
        >>> overridden({"method": "mine"}, ["optimiser.lr=0.001"])
        {'method': 'mine', 'optimiser': {'lr': 0.001}}
    """
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
    return values


def parse_pipeline(values: Any) -> Pipeline:
    """Checks plain values and makes a pipeline of them, see `load_pipeline`."""
    return build(Pipeline, values)


def read_pipeline(
    name_or_path: str | Path, seen: tuple[str, ...] = (), folder: Path = Path()
) -> dict[str, Any]:
    """Reads the values that a pipeline and its bases give, as plain YAML and not checked yet.

    Args:
        name_or_path: See `load_pipeline`.
        seen: Pipelines that have this one as their base.
        folder: Where a file is looked for.

    Raises:
        ValueError: If there is no such pipeline, or it is no YAML.
    """
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
    return _laid_over(read_pipeline(base, (*seen, name), Path(name).parent), values)


def _laid_over(below: Any, above: Any, key: str = "") -> Any:
    """``above`` where it says something, else ``below``; mappings key by key.

    A mapping that names another network or objective than the one below starts anew.
    """
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    default = {"network": Network.name, "objective": DEFAULT.name}.get(key)
    if "name" in above and above["name"] != below.get("name", default):
        return above
    return below | {key: _laid_over(below.get(key), value, key) for key, value in above.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
