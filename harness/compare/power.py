"""What a paired comparison can show: the smallest difference it would find, and the pairs that a difference needs.

Shapes: n pairs, k comparisons in the family that Holm corrects for. The formulas are those of the paired t test, whose
power the sign-flip test shares but for its coarse p values, of which the smallest is 2 to the power 1 - n.
"""

import math
from collections.abc import Callable

import numpy as np
from scipy import optimize, stats

from harness.analysis.comparison import can_be_significant_paired, smallest_p_paired

MOST_PAIRS = 10_000
"""No search goes beyond it."""

_FEW_PATTERNS = 4


def detectable(deviation: float, n: int, *, comparisons: int, alpha: float, power: float) -> float:
    """The smallest true mean difference that is separated from zero with this power, after Bonferroni's correction.

    Holm's first step is Bonferroni's, and the others are easier, so this is never too small.

    Args:
        deviation: standard deviation of the differences.
        n: pairs.
        comparisons: in the family.
        alpha: level of the family, two-sided.
        power: wanted.

    Returns:
        in the unit of ``deviation``; infinity if n pairs can never be separated, whatever the difference.
    """
    if not can_be_significant_paired(n, 1 - alpha, comparisons):
        return math.inf
    level = alpha / (2 * comparisons)
    by_size = (stats.t.isf(level, n - 1) + stats.t.ppf(power, n - 1)) / math.sqrt(n)
    patterns = alpha / comparisons / smallest_p_paired(n)
    # with few patterns of signs in the tail all the differences must have the same sign
    by_sign = stats.norm.ppf(power ** (1 / n)) if patterns < _FEW_PATTERNS else 0.0
    return float(max(by_size, by_sign) * deviation)


def reported(deviation: float, n: int, *, threshold: float, comparisons: int, alpha: float, power: float) -> float:
    """A true difference that is called a regression with at least this power: the mean must exceed the threshold too.

    Args:
        deviation: standard deviation of the differences.
        n: pairs.
        threshold: in the unit of ``deviation``.
        comparisons: in the family.
        alpha: level of the family, two-sided.
        power: wanted.
    """
    separated = detectable(deviation, n, comparisons=comparisons, alpha=alpha, power=power)
    error = deviation / math.sqrt(n)
    if math.isinf(separated) or error <= 1e-9 * threshold:
        # no noise, or that of rounding
        return max(separated, threshold)
    margin = float(stats.t.ppf(power, n - 1)) * error
    bars = np.array([separated - margin, threshold])

    def too_often_missed(difference: float) -> float:
        # a difference is missed at either bar; the two events overlap, so their sum is never too small
        return float(stats.t.cdf((bars - difference) / error, n - 1).sum()) - (1 - power)

    # a little more than the two must hold between, for rounding
    low = float(bars.max()) + margin - 1e-6 * error
    high = float(bars.max()) + (float(stats.t.ppf((1 + power) / 2, n - 1)) + 1e-6) * error
    return float(optimize.brentq(too_often_missed, low, high))


def fewest_pairs(comparisons: int, alpha: float) -> int:
    """How many pairs it takes that anything at all can be separated; ``MOST_PAIRS`` + 1 if no number does."""
    fits = (n for n in range(2, MOST_PAIRS + 1) if can_be_significant_paired(n, 1 - alpha, comparisons))
    return next(fits, MOST_PAIRS + 1)


def pairs_needed(
    deviation: float, effect: float, *, threshold: float, comparisons: int, alpha: float, power: float
) -> int | None:
    """How many pairs it takes that a true difference of ``effect`` is called a regression with this power.

    Returns:
        the number of pairs; None if none up to ``MOST_PAIRS`` does, as for an effect not above the threshold.
    """
    if effect < threshold or (effect == threshold and deviation > 0):
        return None

    def seen(pairs: int) -> bool:
        least = reported(
            deviation, pairs, threshold=threshold, comparisons=comparisons, alpha=alpha, power=power
        )  # fmt: skip
        return least <= effect

    return _smallest(seen, fewest_pairs(comparisons, alpha))


def _smallest(fits: Callable[[int], bool], low: int) -> int | None:
    """The smallest number from ``low`` to ``MOST_PAIRS`` that fits, where all above one that fits do; None: none."""
    high = MOST_PAIRS
    if high < low or not fits(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle + 1, high)
    return low


def repetitions_needed(
    deviation: float, effect: float, n: int, *, threshold: float, comparisons: int, alpha: float, power: float
) -> int | None:
    """How often every trial must be repeated, on both sides, that n pairs show a true difference of ``effect``.

    The deviation of a pair's difference falls with the root of the repetitions, which are averaged.

    Returns:
        the number of repetitions; None if none up to ``MOST_PAIRS`` does, as where n pairs can never separate anything.
    """
    if n < 2 or effect < threshold or (effect == threshold and deviation > 0):
        return None

    def seen(repetitions: int) -> bool:
        noise = deviation / math.sqrt(repetitions)
        return reported(noise, n, threshold=threshold, comparisons=comparisons, alpha=alpha, power=power) <= effect

    return _smallest(seen, 1)
