"""Simulated sweeps: how often families at their own best are declared different, where the truth is known.

Every value of a family's axis is equally good. A run is normal around the family's mean, with standard deviation 1.
"""

from collections.abc import Callable

import numpy as np

from harness.analysis import own_best, paired
from harness.analysis.own_best import Family, Judged

LEVEL = 0.05
# as it is before a mutant takes its place
_judged = own_best.judged
MANY, ONE = 8, 1
"""How many values the two families that are compared have."""


def family(generator: np.random.Generator, values: int, seeds: int, mean: float = 0.0) -> Family:
    """A family whose values are all equally good."""
    scores = mean + generator.normal(size=(values, seeds))
    runs = np.array([[f"{values} {value} {seed}" for seed in range(seeds)] for value in range(values)], dtype=object)
    return Family(f"{values} values", np.arange(values, dtype=float), scores, runs)


def by_halves(many: Family, one: Family) -> float:
    """The p value of the program."""
    return own_best.compared(own_best.judged(many), own_best.judged(one)).p


def on_the_same_runs(many: Family, one: Family) -> float:
    """The p value of a careless reader: all runs choose the best value, and all runs at that value are tested."""
    best = many.scores[many.scores.mean(axis=1).argmax()]
    return paired(best - one.scores[0]).p


def rejections(test: Callable[[Family, Family], float], seeds: int, repeats: int, *, advantage: float = 0.0) -> float:
    """Share of sweeps in which a family with many values and one with a single value are declared different.

    Args:
        test: from two families to a p value.
        seeds: of each value.
        repeats: number of sweeps.
        advantage: of the family with many values, in standard deviations of a run.
    """
    generator = np.random.default_rng(seeds)
    pairs = [(family(generator, MANY, seeds, advantage), family(generator, ONE, seeds)) for _ in range(repeats)]
    return sum(test(many, one) <= LEVEL for many, one in pairs) / repeats


def judged_by_the_half_that_chose(family: Family) -> Judged:
    """A wrong version: each half judges the value that it has chosen itself."""
    honest = _judged(family)
    scores, runs = honest.scores.copy(), honest.runs.copy()
    for half, point in zip(own_best.halves(len(scores)), honest.chosen, strict=True):
        place = int(np.flatnonzero(family.points == point)[0])
        scores[half], runs[half] = family.scores[place, half], family.runs[place, half]
    return Judged(honest.chosen, scores, runs)
