"""Sentences of the report on numeric axes: best values, good ranges, warnings, and how they are to be read."""

from collections.abc import Sequence

import numpy as np

from harness.analysis.axes import LEAST_VALUES
from harness.analysis.sensitivity import CHANCE, Good
from harness.report.numbers import listed, one
from harness.results import MISSING, text_of
from harness.wording import counted

METHOD = (
    "Line: median over seeds; band: quartiles. A run that diverged counts with the worst value: accuracy "
    f"{CHANCE:g}, which is guessing, or an infinite loss. Trials that an error, a limit or a signal ended have no "
    "value; they are counted. Best: the value with the best median of those tried, so its median is a little too good "
    "to be true. Good range: the unbroken row of tried values around it that are still good; values between those "
    "tried were not run."
)
METHOD_OWN_BEST = (
    "Each family at its own best value. The seeds in rising order are dealt in turn to two halves. One half chooses "
    "each family's value by its median, the other half judges it, and both ways, because choosing and judging on the "
    "same runs flatters the family with more values. P: on each half the sign-flip test of pairs with the same seed, "
    "where there are enough of them and at most 20, else the exact Mann-Whitney test; twice the smaller p of the two "
    "halves, or 1 where they contradict each other; against the first family, with Holm's steps over all pairs of "
    "families. The chance of any false verdict is at most 0.05. Not separated does not mean equal."
)
ONE_SEED = "There is one seed, so no half of the seeds can judge what the other chose; run more seeds."


def value(number: float) -> str:
    """A value of an axis as a user may type it."""
    return text_of(one(number, 6))


def good(found: Good, spacing: str) -> str:
    """The range of good values, and how wide it is."""
    if len(found.tried) < LEAST_VALUES:
        return "-"
    if found.low == found.high:
        return f"{value(found.best)} alone"
    open_ended = found.open_low or found.open_high
    bound = "at least " if open_ended else ""
    ratio = found.high / found.low if spacing == "log" else 0.0
    wide = f"a factor of {_short(ratio)}" if spacing == "log" else f"{_short(found.high - found.low)} wide"
    return f"{value(found.low)} to {value(found.high)} ({bound}{wide})"


def _short(number: float) -> str:
    """Two digits are enough for how wide a range is."""
    return f"{float(f'{number:.2g}'):,.10g}"


def warning(axis: str, found: Good | None, unfinished: int) -> str:
    """What a reader must know before believing the best value, "" if nothing."""
    parts = [_of_range(axis, found)] if found else ["no run counts"]
    if unfinished:
        parts.append(f"{counted(unfinished, 'run')} ended by an error, a limit or a signal")
    return "; ".join(filter(None, parts))


def _of_range(axis: str, found: Good) -> str:
    tried = len(found.tried)
    if tried < LEAST_VALUES:
        return f"only {counted(tried, 'value')} tried"
    if (found.low, found.high) == (found.tried[0], found.tried[-1]):
        return f"all values tried are within the margin: between them {axis} hardly matters"
    if not found.edge:
        return ""
    which, more = ("smallest", "smaller") if found.edge == "low" else ("largest", "larger")
    return (
        f"the best value lies at the edge of what was tried ({axis}={value(found.best)}, the {which} of {tried}); "
        f"try {more} ones"
    )


def chosen(points: Sequence[float | None]) -> str:
    """The values that the two halves chose."""
    texts = ["no run" if point is None else MISSING if np.isnan(point) else value(point) for point in points]
    return " and ".join(dict.fromkeys(texts))


def axes_left_out(names: Sequence[str]) -> list[str]:
    """Which axes are not shown."""
    return [f"More numeric settings were varied than are shown: {listed(names, 8)}."] if names else []


def families_left_out(count: int, shown: int) -> list[str]:
    """How many families are not shown."""
    if count <= shown:
        return []
    return [f"Of {count:,} families the {shown:,} with the best medians are shown; --where reports on fewer."]


def maps_left_out(count: int, shown: int) -> list[str]:
    """How many maps are not shown."""
    return [f"Of {count:,} maps {shown:,} are shown; --where reports on fewer."] if count > shown else []


def too_few(seeds: int, families: int, needed: int) -> list[str]:
    """Why no family can be told from another."""
    if seeds >= needed:
        return []
    line = f"At their own best: with {counted(seeds, 'seed')} no difference among {families:,} families can be shown"
    return [f"{line}; at least {needed} seeds of each are needed."]


def untested(count: int, most: int) -> list[str]:
    """Which families are ranked at their own best and not tested."""
    return [f"The best {most:,} of {count:,} families are tested at their own best."] if count > most else []
