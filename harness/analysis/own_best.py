"""Families compared at the best value of each: one half of the seeds chooses the value, the other half judges.

To choose each family's best value and to compare on the same runs flatters the family with more values, because the
best of many is partly luck. Here each value is judged on runs that had no say in choosing it. Both halves choose and
both judge, so that every run counts.

Shapes: v values of a family, s seeds, the same for all families.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np
import pandas as pd

from harness.analysis.axes import Axis
from harness.analysis.comparison import (
    EXACT_DIFFERENCES,
    can_be_significant_paired,
    holm,
    paired,
    smallest_p,
    smallest_p_paired,
    wins,
)
from harness.analysis.intervals import Array
from harness.analysis.sensitivity import MEASURES, best_place
from harness.analysis.verdicts import Verdict

HALVES = 2
MOST_TESTED = 100
"""Families after so many, by their mean at their own best, are listed and not tested."""

Mask = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Family:
    """The runs of one family.

    Attributes:
        label: its name.
        points: (v,) values of the axis, rising; NaN: the family has no such setting.
        scores: (v, s), larger is better; NaN: no run of this seed.
        runs: (v, s) ids of runs, equal for what is one run in effect.
    """

    label: str
    points: Array
    scores: Array
    runs: "np.ndarray[Any, np.dtype[np.object_]]"


@dataclass(frozen=True)
class Judged:
    """A family at the values that each half chose, scored on the other half.

    Attributes:
        chosen: the value that each half of the seeds chose; None: it had no run.
        scores: (s,) of each seed at the value that the other half chose; NaN: no run.
        runs: (s,) their ids.
    """

    chosen: tuple[float | None, ...]
    scores: Array
    runs: "np.ndarray[Any, np.dtype[np.object_]]"


def families_of(
    runs: pd.DataFrame, arm_keys: "pd.Index[Any]", axis: Axis, seeds: "np.ndarray[Any, np.dtype[np.int64]]"
) -> list[Family]:
    """Arrange runs by family, value and seed.

    Args:
        runs: those of :func:`harness.analysis.sensitivity.runs_of` that are counted.
        arm_keys: (arms,).
        axis: groups the arms into families.
        seeds: (s,) rising, all that occur.
    """
    of_arm = pd.DataFrame({"family": axis.family, "point": axis.points}, index=arm_keys)
    rows = runs.join(of_arm, on="arm_key").sort_values("family", kind="stable")
    starts = np.searchsorted(rows["family"].to_numpy(), np.arange(len(axis.families) + 1))
    columns = {name: rows[name].to_numpy() for name in ("point", MEASURES[0].column, "run")}
    at_seed = np.searchsorted(seeds, rows["seed"].to_numpy(dtype=np.int64))
    parts = []
    for label, start, end in zip(axis.families, starts[:-1], starts[1:], strict=True):
        points, row = np.unique(columns["point"][start:end], return_inverse=True)
        scores = np.full((len(points), len(seeds)), np.nan)
        ids = np.full(scores.shape, None, dtype=object)
        scores[row, at_seed[start:end]] = columns[MEASURES[0].column][start:end]
        ids[row, at_seed[start:end]] = columns["run"][start:end]
        parts.append(Family(label, points, scores, ids))
    return parts


def halves(seeds: int) -> list[Mask]:
    """Return two masks (s,): seeds at even and at odd places of their rising order."""
    places = np.arange(seeds) % HALVES
    return [places == half for half in range(HALVES)]


def judged(family: Family) -> Judged:
    """Choose on each half of the seeds and score on the other."""
    seeds = family.scores.shape[1]
    scores, runs = np.full(seeds, np.nan), np.full(seeds, None, dtype=object)
    chosen: list[float | None] = []
    for own in halves(seeds):
        place = _choice(family.scores[:, own])
        chosen.append(None if place is None else float(family.points[place]))
        if place is not None:
            scores[~own], runs[~own] = family.scores[place, ~own], family.runs[place, ~own]
    return Judged(tuple(chosen), scores, runs)


def _choice(scores: Array) -> int | None:
    """The place of the value with the best median among these seeds."""
    there = np.flatnonzero(np.isfinite(scores).any(axis=1))
    if not len(there):
        return None
    own = scores[there]
    return int(there[best_place(_medians(own), np.nanmean(own, axis=1))])


def _medians(scores: Array) -> Array:
    """(v,) medians without NaN, several times as fast as numpy's for few seeds."""
    ordered, count = np.sort(scores, axis=1), np.isfinite(scores).sum(axis=1)
    rows = np.arange(len(scores))
    return np.asarray((ordered[rows, (count - 1) // 2] + ordered[rows, count // 2]) / 2)


@dataclass(frozen=True)
class Comparison:
    """What both halves say of two families.

    Attributes:
        p: two-sided, for both halves together; NaN: a half cannot be judged.
        smallest: the smallest p that so many runs can show.
        sign: 1: the first is better; -1: worse; 0: neither, or the halves contradict each other.
    """

    p: float
    smallest: float
    sign: int


def compared(first: Judged, second: Judged, comparisons: int = 1) -> Comparison:
    """Test two families on each half and combine by Bonferroni: twice the smaller p, or 1 where the halves disagree.

    Each half's test holds its level given what the other half chose, so that the smaller p of the two, doubled, holds
    it too. On a half, the test is the sign-flip test of the pairs with the same seed where so many pairs can be
    significant, and else the exact Mann-Whitney test; which one depends on the number of runs alone.

    Args:
        first: one family.
        second: the other.
        comparisons: how many Holm's steps will count.
    """
    parts = [_on_half(first, second, half, HALVES * comparisons) for half in halves(len(first.scores))]
    if any(np.isnan(part.p) for part in parts):
        return Comparison(float("nan"), 1.0, 0)
    smallest = min(1.0, HALVES * min(part.smallest for part in parts))
    signs = {part.sign for part in parts if part.sign}
    if len(signs) != 1:
        return Comparison(1.0, smallest, 0)
    return Comparison(min(1.0, HALVES * min(part.p for part in parts)), smallest, signs.pop())


def _on_half(first: Judged, second: Judged, half: Mask, comparisons: int) -> Comparison:
    one, other = first.scores[half], second.scores[half]
    both = np.isfinite(one) & np.isfinite(other)
    # pairs that are one and the same two runs count once
    pairs = list(zip(first.runs[half][both], second.runs[half][both], strict=True))
    distinct = sorted({pair: place for place, pair in reversed(list(enumerate(pairs)))}.values())
    count = len(distinct)
    if count <= EXACT_DIFFERENCES and can_be_significant_paired(count, comparisons=comparisons):
        test = paired((one[both] - other[both])[distinct])
        return Comparison(test.p, smallest_p_paired(count), int(np.sign(test.mean)))
    return _unpaired(_distinct_scores(first, half), _distinct_scores(second, half))


def _distinct_scores(own: Judged, half: Mask) -> Array:
    scores, runs = own.scores[half], own.runs[half]
    there = np.isfinite(scores)
    _, first = np.unique(runs[there].astype(str), return_index=True)
    return np.asarray(scores[there][np.sort(first)])


def _unpaired(one: Array, other: Array) -> Comparison:
    if not len(one) or not len(other):
        return Comparison(float("nan"), 1.0, 0)
    # the test counts who is smaller, and here larger is better
    (share,), (p,) = wins(-one[None], -other)
    return Comparison(float(p), smallest_p(len(one), len(other)), int(np.sign(round(float(share) - 0.5, 12))))


def at_own_best(families: Sequence[Family], level: float = 0.95) -> pd.DataFrame:
    """Rank families, each at its own best value, on runs that did not choose the value.

    The family with the best mean is the one that the others are tested against. Because the data chose it, Holm's
    steps count all pairs of families.

    Args:
        families: with the same seeds.
        level: 1 - the chance of any false verdict.

    Returns:
        one row for each family, best first: family (its place in ``families``), label, chosen (the values that the
        two halves chose, a tuple), n (runs judged), mean (on the judging halves; NaN: no run), same (the mean of the
        value that all runs together choose, on those same runs: what choosing and judging on one set would say), p
        (Holm; NaN: nothing was tested), verdict (see :data:`harness.analysis.VERDICTS`).
    """
    every = [judged(family) for family in families]
    rows = [_row(place, family, own) for place, (family, own) in enumerate(zip(families, every, strict=True))]
    table = pd.DataFrame(rows).sort_values(["mean", "label"], ascending=[False, True], na_position="last")
    table = table.reset_index(drop=True)
    order = [every[place] for place in table["family"]]
    with_runs = int(table["mean"].notna().sum())
    tested = order[1 : min(with_runs, MOST_TESTED)]
    comparisons = max(1, comb(with_runs, 2))
    results = [compared(own, order[0], comparisons) for own in tested]
    p = np.full(len(table), np.nan)
    if tested:
        p[1 : 1 + len(tested)] = holm([result.p for result in results], family=comparisons)
    verdicts = _verdicts(results, p[1:], comparisons, level)
    first: Verdict = "only arm" if with_runs < 2 else _of_first(verdicts)
    rest: list[Verdict] = ["not separated" if place < with_runs else "no finished run" for place in range(len(table))]
    table["p"], table["verdict"] = p, [first, *verdicts, *rest[1 + len(tested) :]] if with_runs else rest
    return table


def needed_seeds(families: int, level: float = 0.95) -> int:
    """Return how many seeds of each value it takes until some outcome would be significant among so many families."""
    tests = HALVES * max(1, comb(families, 2))
    half = 1
    while min(smallest_p(half, half), smallest_p_paired(half)) * tests > 1 - level + 1e-12:
        half += 1
    # the larger half of the seeds is enough
    return HALVES * half - 1


def _row(place: int, family: Family, own: Judged) -> dict[str, Any]:
    there = np.isfinite(own.scores)
    best = _choice(family.scores)
    return {
        "family": place,
        "label": family.label,
        "chosen": own.chosen,
        "n": int(there.sum()),
        "mean": float(own.scores[there].mean()) if there.any() else np.nan,
        "same": np.nan if best is None else float(np.nanmean(family.scores[best])),
    }


def _verdicts(results: Sequence[Comparison], p: Array, comparisons: int, level: float) -> list[Verdict]:
    verdicts: list[Verdict] = []
    for result, adjusted in zip(results, p, strict=False):
        if result.smallest * comparisons > 1 - level + 1e-12:
            verdicts.append("n too small to tell")
        elif adjusted <= 1 - level and result.sign:
            verdicts.append("worse" if result.sign < 0 else "better")
        else:
            verdicts.append("not separated")
    return verdicts


def _of_first(verdicts: Sequence[Verdict]) -> Verdict:
    """The first is better if every other is worse; else it shares the verdict of those it is not separated from."""
    if all(verdict == "worse" for verdict in verdicts):
        return "better"
    return "not separated" if "not separated" in verdicts or "worse" in verdicts else "n too small to tell"
