"""What a replication is, and how a published claim is judged by measured values alone.

A claim is a sentence of a paper, in our words, with the place where it stands. It is judged by the values that single
runs gave, one value a seed: an order counts only if the values of the two arms do not overlap.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

BORNE_OUT, NOT_BORNE_OUT, UNCLEAR = "borne out", "not borne out", "cannot be told"
FEWEST_RUNS = 3
"""Fewer runs of an arm tell no order."""


@dataclass(frozen=True)
class Tables:
    """The rows of one experiment, reduced to what its page needs.

    Attributes:
        trials: one row a trial.
        layers: one row a trial, evaluated step and weight.
    """

    trials: pd.DataFrame
    layers: pd.DataFrame


@dataclass(frozen=True)
class Verdict:
    """What became of a claim: one of the three words, and the numbers behind it."""

    word: str
    numbers: str


@dataclass(frozen=True)
class Claim:
    """One sentence of a paper.

    Attributes:
        text: in our words.
        place: where it stands, such as ``abstract``.
        judge: computes the verdict.
    """

    text: str
    place: str
    judge: Callable[[Tables], Verdict]


@dataclass(frozen=True)
class Replication:
    """One experiment of ``conf/experiment`` with the paper that it repeats.

    Attributes:
        experiment: choice of ``experiment=``.
        title: heading of its section.
        paper: authors, year, title.
        read: what of it was at hand when the page was written.
        settings: (what, in the paper, here) for each setting that differs, ``-`` where we do not know the paper's;
            ``here`` is filled in from the last trial's columns, such as ``{width} units``.
        claims: in the order of the page.
        results: the tables of the section, as Markdown.
        layer_columns: columns of ``layers`` that are kept, for weights alone.
    """

    experiment: str
    title: str
    paper: str
    read: str
    settings: Sequence[tuple[str, str, str]]
    claims: Sequence[Claim]
    results: Callable[[Tables], str]
    layer_columns: Sequence[str]


def spread(values: npt.ArrayLike, form: str = ".3f") -> str:
    """Return the median with the smallest and the largest value, and how many there are."""
    known = np.asarray(values, dtype=float)
    low, middle, high = np.min(known), np.median(known), np.max(known)
    return f"{middle:{form}} ({low:{form}} to {high:{form}}; n = {known.size})"


def order(low: npt.ArrayLike, high: npt.ArrayLike, names: tuple[str, str], form: str = ".3f") -> Verdict:
    """Judge whether the values of one arm lie below those of another.

    Args:
        low: one value a run of the arm that the paper puts lower; NaN for a run that gave none.
        high: the same of the other arm.
        names: of the two arms, for the numbers.
        form: of one value.
    """
    below, above = np.asarray(low, dtype=float), np.asarray(high, dtype=float)
    if np.isnan(below).any() or np.isnan(above).any() or min(below.size, above.size) < FEWEST_RUNS:
        return Verdict(UNCLEAR, f"{names[0]}: n = {below.size}, {names[1]}: n = {above.size}, some without a value")
    numbers = f"{names[0]} {spread(below, form)}, {names[1]} {spread(above, form)}"
    if below.max() < above.min():
        return Verdict(BORNE_OUT, numbers)
    return Verdict(NOT_BORNE_OUT if above.max() < below.min() else UNCLEAR, numbers)


def within(values: npt.ArrayLike, low: float, high: float, name: str, form: str = ".3f") -> Verdict:
    """Judge whether each run's value lies from ``low`` to ``high``: all do, none does, or only some do."""
    known = np.asarray(values, dtype=float)
    inside = (known >= low) & (known <= high)
    bounds = f"at least {low:.3g}" if np.isinf(high) else f"from {low:.3g} to {high:.3g}"
    numbers = f"{name} {spread(known, form)}; {inside.sum()} of {known.size} {bounds}"
    return by_share(int(inside.sum()), known.size, numbers)


def reach(trials: pd.DataFrame, target: float, name: str, *, shall: bool) -> Verdict:
    """Judge whether the runs reach a test accuracy within their steps (``shall``) or do not."""
    reached = int(sum(steps_to(trials, target).notna()))
    numbers = f"{name}: {reached} of {len(trials)} runs reach test accuracy {target:g}"
    return by_share(reached if shall else len(trials) - reached, len(trials), numbers)


def by_share(holding: int, runs: int, numbers: str) -> Verdict:
    """Judge a claim about single runs that ``holding`` of them bear out: all do, none does, or only some do."""
    if runs >= FEWEST_RUNS and holding in (0, runs):
        return Verdict(BORNE_OUT if holding else NOT_BORNE_OUT, numbers)
    return Verdict(UNCLEAR, numbers)


def steps_to(trials: pd.DataFrame, target: float) -> "pd.Series[float]":
    """Return the first evaluated step at or above a test accuracy, for each trial; NaN: not within its steps."""
    places = [list(targets).index(target) for targets in trials["targets"]]
    steps = trials["steps_to_target"]
    # a run that ended early has no list
    known = [np.nan if each is None else each[place] for each, place in zip(steps, places, strict=True)]
    return pd.Series([np.nan if step is None else step for step in known], index=trials.index, dtype=float)


def rows(table: pd.DataFrame, **chosen: object) -> pd.DataFrame:
    """Return the rows of a table where each named column has the given value."""
    for column, value in chosen.items():
        table = table[table[column] == value]
    return table


def layer_values(tables: Tables, step: int, **chosen: object) -> pd.DataFrame:
    """Return the rows of ``layers`` at one step, of the trials with the given choices, with the trials' columns."""
    named = rows(tables.trials, **chosen)
    return rows(tables.layers, step=step).merge(named, on="trial_id")
