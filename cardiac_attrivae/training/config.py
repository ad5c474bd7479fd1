"""Pipelines: YAML files, without any code in them, that are read into checked, frozen dataclasses.

Every key is a field below. Names are those of the paper's hyper-parameters: ``beta``, ``gamma``
(weight of the attribute term), ``delta`` (sharpness of its tanh).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from reprlib import repr as short
from typing import Any, NamedTuple

from ..attributes import check_names
from ..runtime.validation import (
    Rule,
    build,
    check,
    check_mapping,
    number,
    one_of,
    option,
    refuse,
)
from ..runtime.yaml_files import nearest, read_yaml, shipped
from .objectives import DEFAULT, OBJECTIVES, Objective

AUTO, PRECISIONS = "auto", ("float32", "bfloat16")
EPOCHS = number(1, 10**7, whole=True)
DECAY = number(0, 0.999999)
LINE = Rule(
    "a line of 1 to 64 printable characters",
    lambda value: isinstance(value, str) and 1 <= len(value.strip()) <= 64 and value.isprintable(),
)


def _arguments(values: Any, key: str) -> dict[str, Any]:
    """Arguments of a network: text as keys and, however deep, no number that is not finite."""
    check_mapping(values, key)
    for name, value in values.items():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict):
                _arguments(item, f"{key}.{name}")
            elif isinstance(item, float) and not isfinite(item):
                refuse(f"{key}.{name}", item, "a finite number")
    return values


@dataclass(frozen=True)
class Network:
    """The network to train."""

    name: str = "BetaVAE"  # name in `NETWORKS`, or the dotted path of a class
    # arguments of its constructor
    arguments: dict[str, Any] = option(factory=dict, read=_arguments)


@dataclass(frozen=True)
class Data:
    """Which slices are trained on and how they are drawn."""

    # ``basal``: the most basal slice of each patient; ``all``: every slice of the store
    slices: str = option("basal", one_of("basal", "all"))
    # how often a basal slice is drawn, compared with 1 for any other; 0 shuffles the slices, so
    # that each is drawn once an epoch
    basal_weight: float = 0.0
    batch_size: int = option(16, number(2, 65536, whole=True))  # number of slices in a batch
    # share of a volume that the areas of the slice do not explain and that is trained on
    # nevertheless; see `AttributeTargets`
    residual: float = option(1.0, number(0, 1))


@dataclass(frozen=True)
class Augmentation:
    """How far random changes of the slices may go; 0 leaves a change out.

    Unless it is said otherwise, values are uniform between minus and plus the number given.
    """

    rotation: float = 0.0  # angle in degrees
    shift: float = 0.0  # displacement in pixels
    zoom: float = 0.0  # log of the zoom, the same in both directions
    stretch: float = 0.0  # log of a zoom along, and of its inverse across, a random direction
    cavity: float = 0.0  # log of a zoom of the LV cavity alone, about its centre
    # log of a zoom of the thickness of the myocardium; what is outside moves with it
    wall: float = 0.0
    elastic: float = 0.0  # standard deviation in pixels of smooth random displacements
    # log of a further zoom of the LV cavity at ES, which changes the ejection fraction
    beat: float = 0.0
    # the same of the last slice of a stack, less of those before: the LV becomes pointed
    taper: float = 0.0
    right: float = 0.0  # log of a zoom of what lies outside of the LV, away from it: the RV
    # log of a zoom along a stack; each slice is the nearest of those that there are
    length: float = 0.0
    blood: float = 0.0  # relative change of the brightness of both cavities
    muscle: float = 0.0  # brightness added to the myocardium
    contrast: float = 0.0  # log of the gamma exponent
    bias: float = 0.0  # standard deviation of the log of a smooth bias field
    blur: float = 0.0  # largest share of a 3 x 3 mean, uniform from 0
    noise: float = 0.0  # largest standard deviation of Gaussian noise, uniform from 0
    style: float = 0.0  # largest share of another slice's mean and deviation, uniform from 0

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Optimiser:
    """Adam, its learning rate, and the average of the weights."""

    # learning rate; its largest value if there is a schedule
    lr: float = option(1e-4, number(1e-9, 10), searched=True)
    betas: tuple[float, float] = option((0.9, 0.999), DECAY)  # decay rates of Adam's two averages
    weight_decay: float = option(0.0, searched=True)  # decoupled weight decay (AdamW); 0 gives Adam
    warmup: float = option(0.0, number(0, 1))  # share of all steps in which the rate rises linearly
    # ``constant``, or ``cosine``, which falls from the end of the warm-up down to 0
    schedule: str = option("constant", one_of("constant", "cosine"))
    milestones: tuple[int, ...] = option((), EPOCHS)  # epochs after which the rate falls to a tenth
    # decay of a running average of the weights, which is then evaluated and saved; 0 for none
    average: float = option(0.0, DECAY)


@dataclass(frozen=True)
class Schedule:
    """How long to train, and what to keep."""

    epochs: int = option(100, EPOCHS)  # largest number of epochs
    steps_per_epoch: int = 0  # number of batches; 0: as many as it takes to draw each slice once
    # number of epochs without a better validation loss after which training stops; 0: it never
    # stops early
    patience: int = 0
    # number of epochs between validations; checkpoints are written then
    evaluate_every: int = option(1, EPOCHS)
    # weights to save: those of the ``best`` validation loss, or of the ``last`` epoch
    keep: str = option("best", one_of("best", "last"))
    pictures_every: int = 0  # number of epochs between pictures; 0: at the end alone


@dataclass(frozen=True)
class Speed:
    """What makes a step faster; apart from rounding, results stay the same."""

    channels_last: bool = True  # whether channels come last in the memory of images and weights
    fused: bool = True  # whether the optimiser changes all parameters in one pass
    shared_passes: bool = True  # whether passes of the network are shared, see `SoftIntroTrainer`
    # whether torch.compile is used for encoder and decoder; it needs a C++ compiler, or a GPU with
    # Triton
    compile: bool = False


def _objective(values: Any, key: str) -> Objective:
    """The objective that ``name`` says, with its own options."""
    name = values.get("name", DEFAULT.name) if isinstance(values, Mapping) else DEFAULT.name
    if not isinstance(name, str) or name not in OBJECTIVES:
        refuse(f"{key}.name", name, f"one of {', '.join(OBJECTIVES)}")
    return build(OBJECTIVES[name], values, key)


@dataclass(frozen=True)
class Pipeline:
    """Everything that a training run depends on, apart from the data and the seed."""

    method: str = option(rule=LINE)  # name of the method in tables and pictures
    # attributes that the first latent dimensions are trained on, in this order; none for an
    # objective without codes
    attributes: tuple[str, ...] = option()
    network: Network = Network()
    objective: Objective = option(DEFAULT, read=_objective)
    data: Data = Data()
    augmentation: Augmentation = Augmentation()
    optimiser: Optimiser = Optimiser()
    schedule: Schedule = Schedule()
    speed: Speed = Speed()
    # number format of the networks while they are trained; losses are in float32. ``auto`` is the
    # faster one on the device at hand, see `known_precision`. A run says which one it was, and
    # keeps it when it is resumed.
    precision: str = option(AUTO, one_of(AUTO, *PRECISIONS))
    # codes that are scored: the posterior ``mean``, or ``sampled`` ones
    codes: str = option("mean", one_of("mean", "sampled"))
    # whether the running statistics of batch norm are estimated again on training slices before
    # each evaluation, see `recalibrate`
    bn_recalibrate: bool = True
    # whether what a line on the trained dimensions says is taken out of the free ones, once, at the
    # end of training, see `models.independence`
    decorrelate: bool = False
    # whether operations that sum in a varying order on a GPU are replaced by slower ones, or
    # refused. One seed then gives the same bits on the same kind of GPU with the same versions. A
    # CPU does not need it: with the same number of threads, runs are equal to the bit anyway.
    deterministic: bool = False

    def __post_init__(self) -> None:
        if not self.attributes and self.objective.has_codes:
            raise ValueError("attributes is []; expected one name or more")
        if self.attributes and not self.objective.has_codes:
            raise ValueError(
                f"attributes is {list(self.attributes)}; expected none, because the objective "
                f"{self.objective.name} has no codes"
            )
        if self.attributes:
            check_names(self.attributes)

    @property
    def is_guided(self) -> bool:
        """Whether training needs a guide: it looks at what is drawn, or shows its outlines to the
        encoder."""
        return self.objective.is_guided or self.network.arguments.get("outlines") is True

    def dimensions(self, names: Iterable[str]) -> tuple[int | None, ...]:
        """Returns the latent dimension that each attribute is trained on, or None."""
        trained = self.attributes if self.objective.gamma > 0 else ()
        return tuple(trained.index(name) if name in trained else None for name in names)

    def to_dict(self) -> dict[str, Any]:
        """Returns every value in a form that plain YAML and JSON can hold."""
        return _plain(asdict(self))


MOST_BASES = 16
"""Longest chain of pipelines of which each is the base of the next."""


class Layer(NamedTuple):
    """One file of a pipeline: its name, its text, and its values without those of its base."""

    name: str
    text: bytes
    values: dict[str, Any]


def shipped_pipelines() -> dict[str, Any]:
    """Returns name -> YAML file of the pipelines that the package knows."""
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
    """Applies ``key=value`` to the plain values of a pipeline, see `load_pipeline`.

    Raises:
        ValueError: If an override is not of this form.

    Example:
        >>> overridden({"method": "mine"}, ["optimiser.lr=0.001"])
        {'method': 'mine', 'optimiser': {'lr': 0.001}}
    """
    if isinstance(overrides, str):  # whose letters would be taken one by one
        raise ValueError(f"changes are {overrides!r}; expected a list: [{overrides!r}]")
    for override in overrides:
        key, equals, text = override.partition("=")
        if not (key and equals):
            raise ValueError(
                f"a change (--set) is {override!r}; expected KEY=VALUE, such as optimiser.lr=1e-4"
            )
        try:
            value = read_yaml(text)
        except ValueError as error:
            raise ValueError(f"the change (--set) {override!r} is no YAML: {error}") from None
        for part in reversed(key.split(".")):
            value = {part: value}
        values = laid_over(values, value)
    return values


def parse_pipeline(values: Any) -> Pipeline:
    """Checks plain values and makes a pipeline of them, see `load_pipeline`."""
    return build(Pipeline, values)


def read_pipeline(name_or_path: str | Path) -> dict[str, Any]:
    """Reads the values that a pipeline and its bases give, as plain YAML and not checked yet."""
    values: dict[str, Any] = {}
    for layer in layers(name_or_path):
        values = laid_over(values, layer.values)
    return values


def layers(name_or_path: str | Path) -> list[Layer]:
    """Reads a pipeline, its base, the base of that and so on; the last base comes first. Refuses
    one that is missing, is no YAML, or is its own base."""
    found: list[Layer] = []
    known, folder = shipped_pipelines(), Path()
    place: Any = name_or_path
    while place is not None:
        if not isinstance(place, (str, Path)):
            raise ValueError(f"base is {short(place)}; expected the name of a pipeline or file")
        name = str(place if place in known else folder / place)
        file = known.get(name, Path(name))
        if not file.is_file():
            accepted = f"expected one of {', '.join(known)}, or a YAML file"
            raise ValueError(f"no pipeline {str(place)!r}{nearest(place, known)}; {accepted}")
        names = [layer.name for layer in found]
        if name in names or len(names) > MOST_BASES:  # a path may name one file in endless ways
            raise ValueError(f"pipeline {name!r} is its own base: {' -> '.join((*names, name))}")
        text = file.read_bytes()
        try:
            values = read_yaml(text)
        except ValueError as error:
            raise ValueError(f"pipeline {name!r} is no YAML: {error}") from None
        if not isinstance(values, dict):
            raise ValueError(f"pipeline {name!r} holds {short(values)}; expected keys and values")
        place, folder = values.pop("base", None), Path(name).parent
        found.append(Layer(name, text, values))
    return found[::-1]


def laid_over(below: Any, above: Any, key: str = "") -> Any:
    """Returns ``above`` where it gives a value, else ``below``; mappings are joined key by key.

    A mapping that names another network or objective than the one below replaces it completely.

    Example:
        >>> laid_over({"optimiser": {"lr": 1, "warmup": 0}}, {"optimiser": {"lr": 2}})
        {'optimiser': {'lr': 2, 'warmup': 0}}
    """
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    default = {"network": Network.name, "objective": DEFAULT.name}.get(key)
    if "name" in above and above["name"] != below.get("name", default):
        return above
    return below | {key: laid_over(below.get(key), value, key) for key, value in above.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
