"""Maps of the report: the result over two numeric axes, with theory's lines where the experiment has some."""

from typing import Any

import numpy as np
import pandas as pd

from harness.analysis import sensitivity, theory
from harness.analysis.axes import Axis, Plane
from harness.analysis.sensitivity import MEASURES
from harness.report import axes_words
from harness.report.axes_model import LineView, MapView
from harness.report.numbers import kept

MOST_MAPS = 40
MOST_CELLS = 40_000
"""All maps together show at most so many, because a browser has to hold the page."""

_COUNTS = ("n", "diverged", "reached", "unfinished")
Points = np.ndarray[Any, np.dtype[np.float64]]


def maps(arms: pd.DataFrame, runs: pd.DataFrame, planes: list[Plane]) -> tuple[list[MapView], list[str]]:
    """Return the maps of all planes, and what is left out of them.

    Args:
        arms: one trial of each arm, by ``arm_key``, in the order of the planes' arms; for theory.
        runs: of :func:`harness.analysis.sensitivity.runs_of`.
        planes: with the same arms.
    """
    views: list[MapView] = []
    count, cells = sum(len(plane.mapped) for plane in planes), 0
    for plane in planes:
        table = sensitivity.grid(runs, arms.index, plane)
        for number in plane.mapped:
            own = table[table["family"] == number]
            cells += own["x"].nunique() * own["y"].nunique()
            if len(views) < MOST_MAPS and cells <= MOST_CELLS:
                # theory may differ between families, as between two activations
                lines = theory.lines_of(arms[plane.family == number])
                views.append(_map(own, plane, plane.families[number], lines))
    return views, axes_words.maps_left_out(count, len(views))


def _map(own: pd.DataFrame, plane: Plane, name: str, lines: list[theory.Line]) -> MapView:
    x, y = (np.unique(own[axis].to_numpy(dtype=float)) for axis in ("x", "y"))
    full = own.set_index(["y", "x"]).reindex(pd.MultiIndex.from_product([y, x]))
    shape = (len(y), len(x))
    counts = {column: full[column].fillna(0).to_numpy(int).reshape(shape).tolist() for column in _COUNTS}
    medians = {
        measure.column: [kept(row) for row in full[f"{measure.column}_median"].to_numpy(float).reshape(shape)]
        for measure in MEASURES
    }
    return MapView(
        name=name,
        x_axis=plane.x.name,
        y_axis=plane.y.name,
        x=kept(x, 6),
        y=kept(y, 6),
        medians=medians,
        lines=[view for line in lines if (view := _line(line, plane, x, y))],
        **counts,
    )


def _line(line: theory.Line, plane: Plane, x: Points, y: Points) -> LineView | None:
    """The line on the cells of the map, whichever way round; None if it is on other axes or misses the map."""
    given = {line.x_axis: np.asarray(line.x, dtype=float), line.y_axis: np.asarray(line.y, dtype=float)}
    if set(given) != {plane.x.name, plane.y.name}:
        return None
    across, along = places(given[plane.x.name], x, plane.x), places(given[plane.y.name], y, plane.y)
    inside = (np.abs(across - (len(x) - 1) / 2) <= len(x) / 2) & (np.abs(along - (len(y) - 1) / 2) <= len(y) / 2)
    if not inside.any():
        return None
    return LineView(
        line.label, line.source, kept(np.where(inside, across, np.nan)), kept(np.where(inside, along, np.nan))
    )


def places(values: Points, points: Points, axis: Axis) -> Points:
    """Return where values lie among the points of a map, whose cells are equally wide, (p,).

    The place of a point is its number, counted from 0; between two points it goes evenly, by factors where the axis is
    spaced so, and beyond the first and the last point as between the last two.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        at, known = (np.log(part) if axis.spacing == "log" else part for part in (values, points))
    left = np.clip(np.searchsorted(known, at) - 1, 0, len(known) - 2)
    return np.asarray(left + (at - known[left]) / (known[left + 1] - known[left]))
