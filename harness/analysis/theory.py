"""Curves that theory predicts over a map of two numeric axes, by experiment.

A function here takes one trial of each arm of a map, with its config as JSON in the column ``config``, and returns the
lines that the report draws over that map. It computes with numpy alone, because nothing in this package imports torch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Line:
    """One curve that theory predicts.

    Attributes:
        label: what it is, as the legend says it, such as ``6 x depth scale``.
        source: paper and formula.
        x_axis: name of the numeric axis that ``x`` is on: a column of trials such as ``depth``, or the path of a
            setting in the config such as ``init.options.std``.
        y_axis: the same for ``y``.
        x: (p,) values, in the units of ``x_axis``.
        y: (p,) values, in the units of ``y_axis``; NaN interrupts the line.
    """

    label: str
    source: str
    x_axis: str
    y_axis: str
    x: Sequence[float]
    y: Sequence[float]


Theory = Callable[[pd.DataFrame], list[Line]]
"""From the trials of one experiment, with the choices as columns, to its lines; [] where theory does not apply."""

THEORY: dict[str, Theory] = {}
"""Choice of ``experiment=`` -> its theory."""


def lines_of(trials: pd.DataFrame) -> list[Line]:
    """Return what theory predicts for these trials: the lines of every experiment among them that has a theory.

    Args:
        trials: table; the column ``experiment`` chooses the theory.
    """
    names = [name for name in trials["experiment"].dropna().unique() if name in THEORY]
    return [line for name in names for line in THEORY[name](trials[trials["experiment"] == name])]


def has_theory(trials: pd.DataFrame) -> bool:
    """Whether theory predicts something for one of the experiments among these trials."""
    return bool(trials["experiment"].isin(list(THEORY)).any())
