"""How the result depends on a numeric setting: the best value, how wide the range of good values is, and where it ends.

Runs that diverged count with the worst value of the measure. Trials that an error, a limit or a signal ended say
nothing about their arm; they are counted beside the runs and never shown as a value.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from harness.analysis.arm_times import run_ids
from harness.analysis.axes import Axis, Plane, Whole
from harness.analysis.grouping import first_times, floats, trial_rows
from harness.analysis.intervals import Array
from harness.results import COUNTED, Frames

CHANCE = 0.1
"""Accuracy of guessing among ten classes: what a run that diverged counts with, whatever it had reached before."""


@dataclass(frozen=True)
class Measure:
    """What is judged at the end of training.

    Attributes:
        column: of trials.
        title: with its unit.
        sign: 1: larger is better; -1: smaller is better.
        diverged: the value that a run which diverged counts with.
        margin: what counts as good, in words.
        threshold: from the best median to the worst one that still is good.
    """

    column: str
    title: str
    sign: int
    diverged: float
    margin: str
    threshold: Callable[[float], float]


MEASURES = (
    Measure(
        "test_accuracy_last",
        "final test accuracy (share of images)",
        1,
        CHANCE,
        "within 0.02 of the best median",
        lambda best: best - 0.02,
    ),
    Measure(
        "test_loss_last",
        "final test loss (nats)",
        -1,
        float("inf"),
        "at most 1.1 times the best median",
        lambda best: best * 1.1,
    ),
)
"""The measures of the report; the first is the one that values are chosen by."""


@dataclass(frozen=True)
class Good:
    """The best value of one family and the values around it that are nearly as good.

    Attributes:
        best: the value with the best median; of equal ones that with the best mean, then the one in the middle.
        low: smallest value of the unbroken row of good values around it.
        high: largest.
        tried: (v,) all values with finished runs, rising.
        edge: ``low`` or ``high`` where the best is the smallest or largest tried, "" inside.
        open_low: whether the smallest value tried is good, so that the range may go on below it.
        open_high: whether the largest is.
    """

    best: float
    low: float
    high: float
    tried: Array
    edge: str
    open_low: bool
    open_high: bool


def runs_of(frames: Frames, target: float) -> pd.DataFrame:
    """Return one row for each arm and seed that was given its chance, and what it counts with.

    Of several trials of one seed the last measured counts.

    Args:
        frames: results; curves for ``target``.
        target: test accuracy.

    Returns:
        columns arm_key, seed, run (equal ids are one run in effect), counted (False: an error, a limit or a signal
        ended every trial of this seed, so that it has no value), diverged, reached (whether the target was), and one
        for each of ``MEASURES``.
    """
    trials = frames.trials
    counted = trials["status"].isin(COUNTED).to_numpy(dtype=bool)
    diverged = (trials["status"] == "diverged").to_numpy(dtype=bool)
    reached = np.isfinite(first_times(frames, trial_rows(frames), target)["steps"])
    columns = {name: trials[name] for name in ("arm_key", "seed", "measured_at", "trial_id")}
    runs = pd.DataFrame({**columns, "run": run_ids(trials), "counted": counted, "diverged": diverged})
    runs["reached"] = reached & counted
    for measure in MEASURES:
        values = np.where(diverged, measure.diverged, floats(trials[measure.column]))
        runs[measure.column] = np.where(counted, values, np.nan)
    runs["counted"] &= runs[MEASURES[0].column].notna()
    runs = runs.sort_values(["counted", "measured_at", "trial_id"], kind="stable")
    return runs.drop_duplicates(["arm_key", "seed"], keep="last").drop(columns=["measured_at", "trial_id"])


_COUNTS = ("n", "diverged", "reached", "unfinished")


def summarised(runs: pd.DataFrame, arm_keys: "pd.Index[Any]", groups: Sequence[Array | Whole]) -> pd.DataFrame:
    """Summarise runs by groups of arms.

    Args:
        runs: of :func:`runs_of`.
        arm_keys: (arms,).
        groups: for each level of the result the value of every arm, (arms,); arms with NaN are left out.

    Returns:
        one row for each group that has trials: level_0, level_1, ... (the groups), n (runs that count), diverged,
        reached, unfinished (seeds without a run that counts), and for each measure COLUMN_q25, _median, _q75, _mean.
    """
    levels = [f"level_{place}" for place in range(len(groups))]
    of_arm = pd.DataFrame(dict(zip(levels, groups, strict=True)), index=arm_keys)
    rows = runs.join(of_arm, on="arm_key").dropna(subset=levels)
    grouped = rows.groupby(levels, sort=True)
    table = pd.DataFrame({"n": grouped["counted"].sum(), "diverged": grouped["diverged"].sum()})
    table["reached"], table["unfinished"] = grouped["reached"].sum(), grouped.size() - table["n"]
    table = table.astype(dict.fromkeys(_COUNTS, "int64"))
    for measure in MEASURES:
        for part, values in _quartiles(rows, levels, measure.column).items():
            table[f"{measure.column}_{part}"] = values.reindex(table.index)
    return table.reset_index()


def _quartiles(rows: pd.DataFrame, levels: list[str], column: str) -> dict[str, "pd.Series[float]"]:
    """Quartiles by the lower and upper neighbour's mean, in which an infinite loss stays infinite; and the mean."""
    there = rows[rows[column].notna()].sort_values([*levels, column])
    grouped = there.groupby(levels, sort=True)[column]
    size, values = grouped.size(), there[column].to_numpy(dtype=float)
    start = (size.cumsum() - size).to_numpy()
    parts = {}
    for name, share in (("q25", 0.25), ("median", 0.5), ("q75", 0.75)):
        at = share * (size.to_numpy() - 1)
        below, above = values[start + np.floor(at).astype(int)], values[start + np.ceil(at).astype(int)]
        weight = at - np.floor(at)
        # infinity times 0 would be NaN
        part = np.multiply(weight, above, out=np.zeros_like(above), where=weight > 0)
        mixed = (1 - weight) * below + part
        parts[name] = pd.Series(mixed, size.index)
    return parts | {"mean": grouped.mean()}


def sensitivity(runs: pd.DataFrame, arm_keys: "pd.Index[Any]", axis: Axis) -> pd.DataFrame:
    """Summarise the runs of each family at each value of an axis; see :func:`summarised`.

    Returns:
        with the columns family (its number) and value in place of the levels.
    """
    table = summarised(runs, arm_keys, [axis.family, axis.points])
    return table.rename(columns={"level_0": "family", "level_1": "value"})


def grid(runs: pd.DataFrame, arm_keys: "pd.Index[Any]", plane: Plane) -> pd.DataFrame:
    """Summarise the runs of each family at each point of a plane; see :func:`summarised`.

    Returns:
        with the columns family, y and x in place of the levels; a point that was not tried has no row.
    """
    table = summarised(runs, arm_keys, [plane.family, plane.y.points, plane.x.points])
    return table.rename(columns={"level_0": "family", "level_1": "y", "level_2": "x"})


def good_range(own: pd.DataFrame, axis: Axis, measure: Measure = MEASURES[0]) -> Good | None:
    """Find the best value of one family and the range of good ones.

    Args:
        own: rows of :func:`sensitivity` of one family.
        axis: the axis.
        measure: what is judged.

    Returns:
        None where no run counts.
    """
    own = own[own["n"] > 0].sort_values("value")
    if own.empty:
        return None
    values, medians = own["value"].to_numpy(dtype=float), own[f"{measure.column}_median"].to_numpy(dtype=float)
    best = best_place(measure.sign * medians, measure.sign * own[f"{measure.column}_mean"].to_numpy(dtype=float))
    if not np.isfinite(medians[best]):
        return Good(values[best], values[best], values[best], values, "", open_low=False, open_high=False)
    good = measure.sign * medians >= measure.sign * measure.threshold(medians[best])
    low, high = _row_around(good, best)
    ends = _ends(values, axis)
    return Good(
        best=values[best],
        low=values[low],
        high=values[high],
        tried=values,
        edge="" if len(values) < 2 else "low" if best == 0 and ends[0] else "high" if best == len(values) - 1 else "",
        open_low=bool(low == 0 and ends[0]),
        open_high=bool(high == len(values) - 1),
    )


def best_place(medians: Array, means: Array) -> int:
    """Return the place of the largest median; among equal ones of the largest mean, then the one in the middle."""
    places = np.flatnonzero(medians == medians.max())
    places = places[means[places] == means[places].max()]
    return int(places[(len(places) - 1) // 2])


def _row_around(good: "np.ndarray[Any, np.dtype[np.bool_]]", place: int) -> tuple[int, int]:
    """First and last place of the unbroken row of good ones around a place."""
    low = high = place
    while low > 0 and good[low - 1]:
        low -= 1
    while high + 1 < len(good) and good[high + 1]:
        high += 1
    return low, high


def _ends(values: Array, axis: Axis) -> tuple[bool, bool]:
    """Whether there can be smaller and larger values than those tried: 0 is the least of what is never negative."""
    least = 1 if axis.whole and values[0] >= 1 else 0
    return bool(values[0] != least), True
