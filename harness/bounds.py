"""Bounds and choices that stand beside the field they bound, and the check that reads them.

    @dataclass(frozen=True)
    class Oven:
        degrees: float = at_least(0, default=180.0)
        mode: str = one_of("fan", "grill", default="fan")

    check(Oven(degrees=-1))    # UsageError: degrees=-1: out of range; give a finite number of at least 0

Nothing here knows of any config: ``harness.config`` uses it, and OmegaConf accepts the fields as they are.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Any, NamedTuple, Protocol, runtime_checkable

from harness.errors import UsageError

LARGEST_WHOLE = 2**31 - 1
"""Largest whole number of a field without an upper bound of its own: neither Parquet's columns nor torch hold more."""

_KEY, _LATER = "bound", "later"


class Bound(NamedTuple):
    """What one field may hold, beyond its type.

    Attributes:
        holds: whether a value is allowed.
        problem: what is wrong with one that is not.
        fix: what to do about it.
        has_upper: whether the bound itself limits how large a whole number is.
        choices: all allowed values, where these are a few names.
    """

    holds: Callable[[Any], bool]
    problem: str
    fix: str
    has_upper: bool = False
    choices: tuple[str, ...] = ()


class Conflict(NamedTuple):
    """One value that does not fit the others.

    Attributes:
        name: the field, dotted, relative to the dataclass whose rule it is.
        problem: what it does not fit.
        fix: what to do about it.
    """

    name: str
    problem: str
    fix: str


@runtime_checkable
class HasRules(Protocol):
    """A dataclass with rules over several of its fields."""

    def conflicts(self) -> Iterator[Conflict]:
        """Yield each value that does not fit the others; every field is within its own bound by then."""


def bound(holds: Callable[[Any], bool], problem: str, fix: str, **more: Any) -> dict[str, Bound]:  # noqa: ANN401
    """Return the metadata of a field with a bound: ``x: str = field(default="a", metadata=bound(...))``.

    Args:
        holds: whether a value is allowed.
        problem: what is wrong with one that is not.
        fix: what to do about it.
        more: the other attributes of :class:`Bound`.
    """
    return {_KEY: Bound(holds, problem, fix, **more)}


def one_of(*choices: str, default: str) -> Any:  # noqa: ANN401 - a dataclass field passes for its default
    """Return a field that holds one of some names."""
    metadata = bound(choices.__contains__, "no such choice", f"give one of: {', '.join(choices)}", choices=choices)
    return dataclasses.field(default=default, metadata=metadata)


def at_least(least: float, *, default: float | None) -> Any:  # noqa: ANN401 - see one_of
    """Return a field for a finite number from ``least`` upwards, or also null where that is the default."""
    kind = "a finite number" if isinstance(default, float) else "a whole number"
    return _number(lambda given: given >= least, f"{kind} of at least {least}", default)


def above(limit: float, *, default: float | None) -> Any:  # noqa: ANN401 - see one_of
    """Return a field for a finite number greater than ``limit``, or also null where that is the default."""
    return _number(lambda given: given > limit, f"a finite number above {limit}", default)


def between(least: int, most: int, *, default: int) -> Any:  # noqa: ANN401 - see one_of
    """Return a field for a whole number from ``least`` to ``most``, both included."""
    allowed = f"a whole number from {least:,} to {most:,}"
    return _number(lambda given: least <= given <= most, allowed, default, has_upper=True)


def finite(*, default: float) -> Any:  # noqa: ANN401 - see one_of
    """Return a field for a number that is neither infinite nor NaN."""
    return _number(lambda _: True, "a finite number", default)


def _number(holds: Callable[[Any], bool], allowed: str, default: float | None, *, has_upper: bool = False) -> Any:  # noqa: ANN401 - see one_of
    def holds_or_null(given: object) -> bool:
        return (given is None and default is None) or (is_finite(given) and holds(given))

    fix = f"give {'null or ' if default is None else ''}{allowed}"
    return dataclasses.field(default=default, metadata=bound(holds_or_null, "out of range", fix, has_upper=has_upper))


def later(default: Any) -> Any:  # noqa: ANN401 - see one_of
    """Return a field that came after the first keys were recorded: while it is at its default, no key contains it.

    So a config that does not use the field has the key that it always had.

    Args:
        default: the default value, or a field with a bound that has one.
    """
    made = default if isinstance(default, dataclasses.Field) else dataclasses.field(default=default)
    return dataclasses.field(default=made.default, metadata={**made.metadata, _LATER: True})


def without_unused(value: Any) -> Any:  # noqa: ANN401 - any value of a config
    """Return a dataclass as nested dictionaries, without the :func:`later` fields that are at their default."""
    if dataclasses.is_dataclass(value):
        return {
            field.name: without_unused(inner)
            for field in dataclasses.fields(value)
            if not ((inner := getattr(value, field.name)) == field.default and field.metadata.get(_LATER))
        }
    if isinstance(value, dict):
        return {key: without_unused(inner) for key, inner in value.items()}
    return [without_unused(inner) for inner in value] if isinstance(value, list) else value


def is_finite(given: object) -> bool:
    """Return whether a value is a finite number; a truth value is none, though Python counts with it."""
    if isinstance(given, bool):
        return False
    # math.isfinite would turn a whole number into a float, which overflows from 309 digits on
    return isinstance(given, int) or (isinstance(given, float) and math.isfinite(given))


def choices_of(config: type, name: str) -> tuple[str, ...]:
    """Return the names that a field of a dataclass may hold, if it was made by :func:`one_of`."""
    (limit,) = [field.metadata[_KEY] for field in dataclasses.fields(config) if field.name == name]
    return tuple(limit.choices)


def check(config: Any) -> None:  # noqa: ANN401 - any dataclass
    """Check every bounded field of a dataclass and of those nested in it, then the rules over several fields.

    Raises:
        UsageError: naming the value by its dotted path, what was given, what is wrong with it and what to do.
    """
    _check_fields(config, "", has_upper=False)
    _check_rules(config, "")


def _check_fields(value: Any, path: str, *, has_upper: bool) -> None:  # noqa: ANN401 - any value of a config
    if isinstance(value, int) and not has_upper and abs(value) > LARGEST_WHOLE:
        raise refusal(path, value, "too large", f"give a number up to {LARGEST_WHOLE:,}")
    for below, inner, limit in _children(value, path):
        if limit is not None and not limit.holds(inner):
            raise refusal(below, inner, limit.problem, limit.fix)
        _check_fields(inner, below, has_upper=limit is not None and limit.has_upper)


def _children(value: Any, path: str) -> Iterator[tuple[str, Any, Bound | None]]:  # noqa: ANN401 - any value of a config
    """Yield path, value and bound of everything directly inside a value."""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield _joined(path, field.name), getattr(value, field.name), field.metadata.get(_KEY)
    elif isinstance(value, dict):
        yield from ((_joined(path, str(key)), inner, None) for key, inner in value.items())
    elif isinstance(value, list):
        yield from ((f"{path}[{index}]", inner, None) for index, inner in enumerate(value))


def _check_rules(config: Any, path: str) -> None:  # noqa: ANN401 - any dataclass
    """Rules of the nested dataclasses come first, because those of the outer ones build on them."""
    for field in dataclasses.fields(config):
        if dataclasses.is_dataclass(inner := getattr(config, field.name)):
            _check_rules(inner, _joined(path, field.name))
    for name, problem, fix in config.conflicts() if isinstance(config, HasRules) else ():
        raise refusal(_joined(path, name), attrgetter(name)(config), problem, fix)


def refusal(path: str, given: object, problem: str, fix: str) -> UsageError:
    """Return the error that every refused value of a config becomes: ``KEY=VALUE: problem; fix``."""
    return UsageError(f"{path}={given}: {problem}; {fix}")


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
