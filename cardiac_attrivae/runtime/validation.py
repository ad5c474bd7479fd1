"""Plain values, as YAML holds them, checked and turned into frozen dataclasses.

The type of a dataclass's field says what its value must be; `option` narrows it. Every error names
the key, the value, what is accepted and, for a misspelt key, the nearest one. Pipelines and
manifests of data sets are both read with `build`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from reprlib import repr as short
from types import NoneType
from typing import Any, NoReturn, TypeVar, get_args, get_origin, get_type_hints

from .yaml_files import nearest

T = TypeVar("T")


@dataclass(frozen=True)
class Rule:
    """What a value may be."""

    expected: str  # in words that follow "expected"
    fits: Callable[[Any], bool]  # whether a value is accepted
    # accepted values next to refused ones: all choices, or smallest and largest number
    ends: tuple[Any, ...] = ()


def number(low: float = 0, high: float = float("inf"), *, whole: bool = False) -> Rule:
    """Finite numbers from ``low`` to ``high``; true and false are none.

    >>> number(0, 1).expected, number(whole=True).expected
    ('a number from 0 to 1', 'a whole number, 0 or more')
    >>> [number(0, 1).fits(value) for value in (0.5, 1, 2, True, float("nan"), "1")]
    [True, True, False, False, False, False]
    """
    limits = f", {low} or more" if high == float("inf") else f" from {low} to {high}"
    kinds = (int,) if whole else (int, float)
    return Rule(
        f"a {'whole ' if whole else ''}number{limits}",
        lambda value: type(value) in kinds and low <= value <= min(high, sys.float_info.max),
        (low,) if high == float("inf") else (low, high),
    )


def one_of(*choices: str) -> Rule:
    """One of some words.

    >>> one_of("best", "last").expected
    'one of best, last'
    """
    fits = frozenset(choices)
    return Rule(f"one of {', '.join(choices)}", lambda v: isinstance(v, str) and v in fits, choices)


TEXT = Rule("text", lambda value: isinstance(value, str) and bool(value.strip()))
FLAG = Rule("true or false", lambda value: isinstance(value, bool))
_RULES = {
    str: Rule("text", lambda value: isinstance(value, str)),
    bool: FLAG,
    int: number(whole=True),
    float: number(),
}
"""What is accepted if a field says no more than its type."""


def option(
    default: Any = MISSING,
    rule: Rule | Mapping[str, Rule] | None = None,
    *,
    factory: Any = MISSING,
    read: Callable[[Any, str], Any] | None = None,
    hash: bool = True,
    **more: Any,
) -> Any:
    """A field of a dataclass that `build` makes.

    Args:
        default: Its value where none is given; without one, the key is required.
        rule: What the value may be; for a list or a mapping, what each of its values may be. A
            mapping of rules says which keys a mapping may have, too.
        factory: Called for a default that can be changed, such as ``dict``.
        read: Turns the plain value, given with its key, into the field's; checks it, too.
        hash: Whether it counts in the hash of the record; a mapping cannot.
        more: Further metadata of the field.

    Raises:
        ValueError: If the default is not accepted.
    """
    if (
        isinstance(rule, Rule)
        and default
        and isinstance(default, (str, int, float))
        and not rule.fits(default)
    ):
        raise ValueError(f"the default is {default!r}; expected {rule.expected}")
    metadata = {"rule": rule, "read": read, **more}
    made: Any = field
    return made(default=default, default_factory=factory, hash=hash, metadata=metadata)


def build(kind: type[T], values: Any, key: str = "") -> T:
    """Makes a dataclass of plain values.

    Args:
        kind: The dataclass; its fields may be dataclasses, tuples and mappings.
        values: Key -> value, as read from YAML.
        key: Where the values stand, in dots; empty at the top.

    Raises:
        ValueError: If a key is unknown or missing, or a value is not accepted.

    Example:
        >>> @dataclass(frozen=True)
        ... class Adam:
        ...     lr: float = option(1e-4, number(1e-9, 10))
        >>> build(Adam, {"lr": 1e-3})
        Adam(lr=0.001)
        >>> build(Adam, {"lrr": 1})
        Traceback (most recent call last):
        ValueError: unknown key lrr, did you mean 'lr'?; expected one of lr
        >>> build(Adam, {"lr": 100}, "optimiser")
        Traceback (most recent call last):
        ValueError: optimiser.lr is 100; expected a number from 1e-09 to 10
    """
    check_mapping(values, key or f"the {kind.__name__.lower()}")
    hints, known = get_type_hints(kind), {f.name: f for f in fields(kind)}  # type: ignore[arg-type]  # a dataclass
    before = f"{key}." if key else ""
    for name in values:
        if name not in known:
            _unknown(before + name, _below(name, hints, known) or nearest(name, known), known)
    for name, f in known.items():
        if name not in values and f.default is MISSING and f.default_factory is MISSING:
            rule = None if get_args(hints[name]) else f.metadata.get("rule")
            expected = f"; expected {rule.expected}" if rule else ""
            raise ValueError(f"{before}{name} is missing{expected}")
    built = {
        name: _value(hints[name], value, before + name, known[name].metadata)
        for name, value in values.items()
    }
    return kind(**built)


def check(record: Any) -> None:
    """Refuses a dataclass, made in Python, of which a value is not accepted; names the field."""
    hints = get_type_hints(type(record))
    for f in fields(record):
        _value(hints[f.name], getattr(record, f.name), f.name, f.metadata)


def check_mapping(values: Any, key: str) -> None:
    """Refuses what is no mapping from text, and names the key that it stands at."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{key} is {short(values)}; expected keys and values")
    for name in values:
        if not isinstance(name, str):
            raise ValueError(
                f"{key} has the key {short(name)}, which is no text; write it in quotes, as it "
                "stands in the file"
            )


def require(key: str, value: Any, rule: Rule) -> None:
    """Refuses a value that a rule does not accept; names the key and what is accepted."""
    if not rule.fits(value):
        refuse(key, value, rule.expected)


def refuse(key: str, value: Any, expected: str) -> NoReturn:
    """Raises the ValueError of a value that is not accepted."""
    raise ValueError(f"{key} is {short(value)}; expected {expected}")


def _below(name: str, hints: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    """A question after a key of that name one level down; empty if there is none."""
    for outer, hint in hints.items():
        default = known[outer].default if outer in known else None
        inner = default if is_dataclass(default) else hint
        if is_dataclass(inner) and name in (f.name for f in fields(inner)):
            return f", did you mean '{outer}.{name}'?"
    return ""


def _unknown(key: str, hint: str, known: Iterable[str]) -> NoReturn:
    raise ValueError(f"unknown key {key}{hint}; expected one of {', '.join(known)}")


def _value(hint: Any, value: Any, key: str, metadata: Mapping[str, Any]) -> Any:
    """The value of a field of type ``hint``."""
    if metadata.get("read"):
        return metadata["read"](value, key)
    rule, inner = metadata.get("rule"), [kind for kind in get_args(hint) if kind is not NoneType]
    origin = get_origin(hint)
    if origin is tuple:
        some = inner[1] is ...
        if not isinstance(value, (list, tuple)) or not (some or len(value) == len(inner)):
            example = f", such as [{value}]" if isinstance(value, (str, int, float)) else ""
            refuse(key, value, f"a list{'' if some else f' of {len(inner)} values'}{example}")
        return tuple(_value(inner[0], item, key, metadata) for item in value)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        check_mapping(value, key)
        for name in value:
            if isinstance(rule, Mapping) and name not in rule:
                _unknown(f"{key}.{name}", nearest(name, rule), rule)
        return {
            name: _value(
                inner[1],
                item,
                f"{key}.{name}" if name.isidentifier() else f"{key}[{name!r}]",
                {"rule": rule[name] if isinstance(rule, Mapping) else rule},
            )
            for name, item in value.items()
        }
    if len(inner) == 1:  # a type or None
        hint = inner[0]
    if is_dataclass(hint):
        return build(hint, value, key)  # type: ignore[arg-type]  # a class
    if hint is Any:
        return value
    rule = rule or _RULES[hint]
    require(key, value, rule)
    return float(value) if hint is float else value
