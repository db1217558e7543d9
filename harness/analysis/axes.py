"""The numeric axes of a set of trials: settings with many values within a family of otherwise equal arms."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pandas as pd

from harness.analysis.derived import derived
from harness.analysis.grouping import floats
from harness.analysis.intervals import Array
from harness.analysis.settings import Settings
from harness.results import label_of, text_of, varying

LEAST_VALUES = 3
"""An axis has so many different values in some family; two values make a comparison and no curve."""

LEAST_SECOND_VALUES = 2
"""The second axis of a map has at least so many."""

Spacing = Literal["log", "linear"]
Whole = np.ndarray[Any, np.dtype[np.intp]]


@dataclass(frozen=True)
class Axis:
    """One numeric setting, and the arms grouped into families that are equal in everything else.

    Attributes:
        name: column of trials, or path in the config.
        points: (arms,) value of the setting; NaN: the arm has none.
        family: (arms,) number of each arm's family.
        families: name of each family, such as ``init=he``; "" if there is one.
        spacing: how the values are spaced.
        whole: whether all values are whole numbers.
    """

    name: str
    points: Array
    family: Whole
    families: list[str]
    spacing: Spacing
    whole: bool


@dataclass(frozen=True)
class Plane:
    """Two numeric settings that were varied together, and the arms grouped by everything else.

    Attributes:
        x: the axis with more values.
        y: the other one.
        family: (arms,) number of each arm's family, equal in everything but x and y.
        families: names.
        mapped: the families that were tried on a grid of both.
    """

    x: Axis
    y: Axis
    family: Whole
    families: list[str]
    mapped: list[int]


def spacing_of(values: Iterable[float]) -> Spacing:
    """Say whether values are spaced evenly by factors (log) or by differences (linear), whichever fits better."""
    points = np.unique([value for value in values if np.isfinite(value)])
    if len(points) < LEAST_VALUES or points[0] <= 0:
        return "linear"
    uneven = [np.std(gaps) / np.mean(gaps) for gaps in (np.diff(np.log(points)), np.diff(points))]
    return "log" if uneven[0] < uneven[1] else "linear"


def find_axes(settings: Settings) -> list[Axis]:
    """Return the settings of which some family was tried at ``LEAST_VALUES`` values, in the order of the schema."""
    axes = (_axis(settings, name) for name in settings.numeric)
    return [axis for axis in axes if max(_distinct(axis.family, axis.points), default=0) >= LEAST_VALUES]


def find_planes(settings: Settings) -> list[Plane]:
    """Return the pairs of settings of which some family was tried on a grid.

    The grid has ``LEAST_VALUES`` values of one setting, ``LEAST_SECOND_VALUES`` of the other, and more cells than a
    line through it: where each value of one goes with a single value of the other, there is no map.
    """
    axes = [_axis(settings, name) for name in settings.numeric]
    planes = (_plane(settings, one, other) for one, other in combinations(axes, 2))
    return [plane for plane in planes if plane.mapped]


def _axis(settings: Settings, name: str) -> Axis:
    values = floats(settings.table[name])
    family, families = _families(settings.table, {name})
    there = values[np.isfinite(values)]
    return Axis(name, values, family, families, spacing_of(there), bool((there == there.round()).all()))


def _plane(settings: Settings, one: Axis, other: Axis) -> Plane:
    x, y = (one, other) if len(_finite(one.points)) >= len(_finite(other.points)) else (other, one)
    family, families = _families(settings.table, {x.name, y.name})
    across, along = _distinct(family, x.points), _distinct(family, y.points)
    cells = _distinct(family, x.points + 1j * y.points)
    mapped = [
        number
        for number, (few, many, filled) in enumerate(
            zip(np.minimum(across, along), np.maximum(across, along), cells, strict=True)
        )
        if few >= LEAST_SECOND_VALUES and many >= LEAST_VALUES and filled > many
    ]
    return Plane(x, y, family, families, mapped)


def _finite(values: Array) -> Array:
    return np.unique(values[np.isfinite(values)])


def _distinct(family: Whole, values: "np.ndarray[Any, Any]") -> Whole:
    """(families,) how many different values each family has."""
    there = np.isfinite(values)
    pairs = pd.DataFrame({"family": family[there], "value": values[there]}).drop_duplicates()
    return np.bincount(pairs["family"].to_numpy(dtype=np.intp), minlength=int(family.max(initial=-1)) + 1)


def _families(table: pd.DataFrame, without: set[str]) -> tuple[Whole, list[str]]:
    """The family of each arm, and the families' names, made of what varies among them."""
    without = without | derived(table, without)
    columns = [str(name) for name in table if name not in without]
    if not columns:
        return np.zeros(len(table), dtype=np.intp), [""]
    codes = [_codes(table[name]) for name in columns]
    numbers = codes[0]
    for code in codes[1:]:
        _, numbers = np.unique(numbers * (code.max() + 1) + code, return_inverse=True)
    _, first, family = np.unique(numbers, return_index=True, return_inverse=True)
    texts = _names(table.iloc[first], columns)
    return np.asarray(family, dtype=np.intp), texts


def _codes(column: "pd.Series[Any]") -> Whole:
    codes, _ = pd.factorize(column.astype(object), use_na_sentinel=False)
    return np.asarray(codes, dtype=np.intp)


def _names(one_each: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    """Without the choices that follow from others, unless the names would not tell the families apart."""
    values = {name: one_each[name].astype(object).tolist() for name in columns}
    beside = [name for name in columns if "." in name and len({*map(text_of, values[name])}) > 1]
    short = [*varying(values), *beside]
    texts = _labels(values, short)
    return texts if len({*texts}) == len(texts) else _labels(values, columns)


def _labels(values: dict[str, list[Any]], names: Sequence[str]) -> list[str]:
    rows = zip(*(values[name] for name in names), strict=True) if names else [()] * len(next(iter(values.values())))
    return [label_of(dict(zip(names, map(text_of, row), strict=True))) for row in rows]
