"""What a paired comparison can show: the smallest difference it would find, and the pairs that a difference needs.

Shapes: n pairs, k comparisons in the family that Holm corrects for. The formulas are those of the paired t test, whose
power the sign-flip test shares but for its coarse p values, of which the smallest is 2 to the power 1 - n.
"""

import math
from collections.abc import Callable

from scipy import stats

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
    """The smallest true difference that is called a regression with this power: it must exceed the threshold as well.

    Args:
        deviation: standard deviation of the differences.
        n: pairs.
        threshold: in the unit of ``deviation``.
        comparisons: in the family.
        alpha: level of the family, two-sided.
        power: wanted.
    """
    separated = detectable(deviation, n, comparisons=comparisons, alpha=alpha, power=power)
    if math.isinf(separated):
        return separated
    return max(separated, threshold + float(stats.t.ppf(power, n - 1)) * deviation / math.sqrt(n))


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
