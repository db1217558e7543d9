"""What follows from the roles of the columns: choices, hardware, conditions of speed, counted statuses, texts.

Analysis, report, compare and console take these names from here, so that a new column or status is known to all of
them by its line in :mod:`harness.results.schema`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from harness.results.column import Role
from harness.results.schema import COLUMNS, STATUSES

MISSING = "none"
"""The text of a value that is not there."""


def names_of(role: Role) -> tuple[str, ...]:
    """The columns of ``trials`` with a role, in the order of the schema."""
    return tuple(column.name for column in COLUMNS["trials"] if column.role == role)


CHOICES = names_of("choice")
"""Settings that make another arm; the seed, which makes another run of the same arm, is none of them."""

HARDWARE = names_of("hardware")
"""What names the machine."""

ENVIRONMENT = names_of("environment")
"""Versions of software that a result may depend on."""

BULK = names_of("bulk")
"""Text and lists that only few readers want."""

EXECUTION = tuple(column.name for column in COLUMNS["trials"] if column.speed == "condition")
"""Choices of how the same work is executed."""

SPEED = (*HARDWARE, *EXECUTION)
"""Conditions of speed: images/s and seconds measured under different ones are never pooled, ranked or compared."""

WORK = tuple(column.name for column in COLUMNS["trials"] if column.speed == "work")
"""Choices that decide how much work a training step is."""

COUNTED = tuple(name for name, status in STATUSES.items() if status.counted)
"""Statuses of trials that were given their chance; all others say nothing about an initializer."""

_SOURCES = {column.name: column.source for column in COLUMNS["trials"] if column.role == "choice"}
_SET_BY_EXPERIMENTS = ("data.", "optimizer.", "train.")


def _decided_by(choice: str) -> tuple[str, ...]:
    """The other choices that belong to a config group, or that experiments set."""
    prefixes = _SET_BY_EXPERIMENTS if choice == "experiment" else (f"{choice}.",)
    return tuple(name for name, source in _SOURCES.items() if name != choice and source.startswith(prefixes))


DECIDES: dict[str, tuple[str, ...]] = {choice: _decided_by(choice) for choice in CHOICES}
"""Choice -> the choices that it decides unless they are chosen as well: ``init`` decides ``init_weight``."""


def is_missing(value: Any) -> bool:  # noqa: ANN401 - whatever a column holds
    """Whether a value is not there: None, NaN, or pandas' NA or NaT."""
    # pandas is not imported for it: NA compares to NA, and NaN and NaT differ from themselves
    return value is None or type(value).__name__ == "NAType" or (not hasattr(value, "__len__") and value != value)  # noqa: PLR0124


def text_of(value: Any) -> str:  # noqa: ANN401 - whatever a column holds
    """A value as a reader sees it and as a user may type it: numbers in up to 12 digits, a missing one as ``none``."""
    if is_missing(value):
        return MISSING
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def varying(columns: Mapping[str, Sequence[Any]]) -> list[str]:
    """The choices that vary, without those that follow from another one that does.

    A missing value is no value: a model without ``depth`` does not make depth vary.

    Args:
        columns: choice -> its values, one for each trial or arm; all of the same length.
    """
    several = [name for name in CHOICES if name in columns and _differ(columns[name])]
    return [name for name in several if not any(_follows(columns, name, other) for other in several)]


def _differ(values: Sequence[Any]) -> bool:
    return len({value for value in values if not is_missing(value)}) > 1


def _follows(columns: Mapping[str, Sequence[Any]], name: str, other: str) -> bool:
    """Whether the other choice is one that decides this one, and did: each of its values has one value of this."""
    if name not in DECIDES[other]:
        return False
    decided: dict[Any, Any] = {}
    pairs = zip(columns[other], columns[name], strict=True)
    return all(decided.setdefault(value, own) == own for value, own in pairs if not is_missing(own))


def arm_columns(columns: Mapping[str, Sequence[Any]], arm_keys: Sequence[str]) -> list[str]:
    """Return the columns that tell arms apart: the choices that vary among them, or ``init`` if none does.

    ``arm_key`` is added where these do not tell all arms apart, because options without a column of their own may not.

    Args:
        columns: choice -> its values, one for each trial or arm.
        arm_keys: the ``arm_key`` of each, in the same order.
    """
    own = _one_each(columns, arm_keys)
    names = varying(own) or ["init"]
    texts = _labels({name: own[name] for name in names})
    return names if len(set(texts)) == len(texts) else [*names, "arm_key"]


def arm_names(columns: Mapping[str, Sequence[Any]], arm_keys: Sequence[str]) -> dict[str, str]:
    """Return the name of each ``arm_key``, such as ``init=zero lr=0.1``; no two arms have the same name.

    The values are those of the first trial with the key. The arguments are those of :func:`arm_columns`.
    """
    own = {**_one_each(columns, arm_keys), "arm_key": list(dict.fromkeys(arm_keys))}
    texts = _labels({name: own[name] for name in arm_columns(columns, arm_keys)})
    return dict(zip(own["arm_key"], texts, strict=True))


def label_of(values: Mapping[str, str]) -> str:
    """Return names and texts of an arm's values as one label."""
    return " ".join(f"{name}={text}" for name, text in values.items())


def _one_each(columns: Mapping[str, Sequence[Any]], arm_keys: Sequence[str]) -> dict[str, list[Any]]:
    """The values of the first trial of each arm."""
    first: dict[str, int] = {}
    for place, key in enumerate(arm_keys):
        first.setdefault(key, place)
    return {name: [values[place] for place in first.values()] for name, values in columns.items()}


def _labels(columns: Mapping[str, Sequence[Any]]) -> list[str]:
    return [label_of(dict(zip(columns, map(text_of, row), strict=True))) for row in zip(*columns.values(), strict=True)]
