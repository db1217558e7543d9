"""Comparisons of two arms: how often one beats the other, what chance alone would show, and what n cannot show.

Shapes: m and n runs of two arms a and b, k comparisons.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import comb

import numpy as np
from scipy import stats

from harness.analysis.intervals import Array, Estimate, Interval, Numbers, mean_estimate, newcombe

EXACT_RUNS = 60
"""Up to so many runs in both arms the distribution of U is enumerated, ties included; above it is approximated."""

EXACT_DIFFERENCES = 20
"""Up to so many differences all signs are tried; above, ``SIGN_FLIPS`` random ones."""

SIGN_FLIPS = 99_999


@dataclass(frozen=True)
class Improvement:
    """How often a run of a beats one of b.

    Attributes:
        probability: P(a < b) + P(a = b)/2; NaN for no run.
        interval: Newcombe's score interval; None for no run.
        p: two-sided, that chance separates a and b so far.
        m: runs of a.
        n: runs of b.
    """

    probability: float
    interval: Interval | None
    p: float
    m: int
    n: int


def probability_of_improvement(a: Numbers, b: Numbers, level: float = 0.95) -> Improvement:
    """Probability that a run of a is smaller than one of b, Mann and Whitney's U/(mn); a tie counts half.

    The p value is exact up to ``EXACT_RUNS`` runs, ties included: all ways to deal the runs to the two arms.

    Args:
        a: (m,) e.g. times; inf: never, and two of these tie.
        b: (n,).
        level: of the interval.
    """
    m, n = np.size(a), np.size(b)
    if m == 0 or n == 0:
        return Improvement(float("nan"), None, 1.0, m, n)
    shares, p_values = wins(np.asarray(a, dtype=float)[None], b)
    low, high = newcombe(shares, m, n, level)
    return Improvement(float(shares[0]), Interval(float(low[0]), float(high[0])), float(p_values[0]), m, n)


def wins(a: Array, b: Numbers) -> tuple[Array, Array]:
    """Share of pairs in which a run of an arm is smaller than one of b, ties half, and its p value, for many arms.

    Args:
        a: (A, m), m at least 1.
        b: (n,), n at least 1.

    Returns:
        shares and p values, each (A,).
    """
    right = np.asarray(b, dtype=float)
    (arms, m), n = a.shape, len(right)
    ranks = stats.rankdata(np.concatenate([a, np.broadcast_to(right, (arms, n))], axis=1), axis=1)
    # U counts the pairs in which a run of b is larger
    u = m * n + m * (m + 1) / 2 - ranks[:, :m].sum(axis=1)
    return u / (m * n), np.array([_mann_whitney_p(row, m) for row in ranks])


def _mann_whitney_p(ranks: Array, m: int) -> float:
    """Two-sided: twice the smaller tail, at most 1."""
    n = len(ranks) - m
    if m + n <= EXACT_RUNS:
        # midranks are halves, so that twice a midrank is whole
        doubled = (2 * ranks).astype(np.int64)
        # the smaller arm has the shorter table
        observed = int(doubled[:m].sum() if m <= n else doubled[m:].sum())
        doubled.sort()
        shares = _rank_sum_distribution(tuple(doubled.tolist()), min(m, n))
        tails = shares[: observed + 1].sum(), shares[observed:].sum()
        return float(min(1.0, 2 * min(tails)))
    p = stats.mannwhitneyu(ranks[:m], ranks[m:], method="asymptotic").pvalue
    return 1.0 if np.isnan(p) else max(float(p), smallest_p(m, n))


@lru_cache(maxsize=4096)
def _rank_sum_distribution(doubled: tuple[int, ...], m: int) -> Array:
    """Share of all choices of m of these numbers with each sum; index: the sum."""
    ways = np.zeros((m + 1, sum(doubled[len(doubled) - m :]) + 1))
    ways[0, 0] = 1
    for number in doubled:
        # from larger choices to smaller ones, so that no number is taken twice
        ways[1:, number:] += ways[:-1, : ways.shape[1] - number].copy()
    return np.asarray(ways[m] / comb(len(doubled), m))


@dataclass(frozen=True)
class Paired:
    """The mean of differences between pairs.

    Attributes:
        n: number of pairs.
        mean: of the differences; NaN for none.
        interval: that of :func:`harness.analysis.intervals.mean_intervals`; None where the differences are all equal or
            fewer than two.
        p: two-sided, that the signs of the differences are chance.
    """

    n: int
    mean: float
    interval: Interval | None
    p: float


def paired(differences: Numbers, level: float = 0.95, *, seed: int = 0) -> Paired:
    """Estimate the mean of (n,) differences between pairs (same seed), and test it by flipping their signs.

    Args:
        differences: (n,).
        level: of the interval.
        seed: of the sign flips, where there are too many patterns to try them all.

    Raises:
        ValueError: a difference is not finite.
    """
    given = np.asarray(differences, dtype=float)
    if not np.isfinite(given).all():
        raise ValueError("a difference is not finite; restrict times to the budget first")
    estimate: Estimate = mean_estimate(given, level)
    return Paired(len(given), estimate.value, estimate.interval, _sign_flip_p(given, seed))


def _sign_flip_p(differences: Array, seed: int) -> float:
    """Share of sign patterns with a sum as far from 0 as the one that was seen; the seen one counts among them."""
    if len(differences) == 0:
        return 1.0
    observed = abs(differences.sum()) - 1e-12 * np.abs(differences).sum()
    if len(differences) <= EXACT_DIFFERENCES:
        sums = differences[:1]
        for difference in differences[1:]:
            # turning every sign keeps the distance from 0, so the first difference keeps its own
            sums = np.concatenate([sums + difference, sums - difference])
        return float((np.abs(sums) >= observed).mean())
    generator = np.random.default_rng(seed)
    as_far = 0
    for start in range(0, SIGN_FLIPS, 10_000):
        signs = generator.integers(0, 2, size=(min(10_000, SIGN_FLIPS - start), len(differences)), dtype=np.int8)
        as_far += int((np.abs((2 * signs - 1) @ differences) >= observed).sum())
    return (1 + as_far) / (1 + SIGN_FLIPS)


def holm(p_values: Numbers, family: int | None = None) -> Array:
    """Adjust p values by Holm's step-down procedure: multiply the i-th smallest by (family - i + 1), in rising order.

    The family may be larger than the number of p values. If the data chose which comparisons are made, for example
    those with the best arm, the family is every comparison that could have been chosen. Each adjusted p is then at
    least as large as if the whole family had been tested, because the comparisons that are left out could only have
    moved it to a later step, with a smaller factor. So the chance of any false claim stays at or below alpha.

    Args:
        p_values: (k,); NaN where nothing was compared, which stays NaN.
        family: number of comparisons that could have been chosen; None: k, those that were made.

    Returns:
        (k,) adjusted p values, to be compared with alpha.

    Raises:
        ValueError: the family is smaller than the number of p values.
    """
    p = np.asarray(p_values, dtype=float)
    there = np.flatnonzero(~np.isnan(p))
    count = len(there) if family is None else family
    if count < len(there):
        raise ValueError(f"family={family}; {len(there)} comparisons are given")
    order = there[np.argsort(p[there], kind="stable")]
    adjusted = np.full(len(p), np.nan)
    steps = (count - np.arange(len(order))) * p[order]
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps)) if len(order) else steps
    return adjusted


def smallest_p(m: int, n: int) -> float:
    """The smallest two-sided p that m and n runs can show, when the arms are fully separated; 1 for no run."""
    return 1.0 if min(m, n) < 1 else min(1.0, 2 / comb(m + n, m))


def smallest_p_paired(n: int) -> float:
    """The same for n differences, when all have the same sign."""
    if n > EXACT_DIFFERENCES:
        return 1 / (1 + SIGN_FLIPS)
    return min(1.0, 2.0 ** (1 - n))


def can_be_significant(m: int, n: int, level: float = 0.95, comparisons: int = 1) -> bool:
    """Whether m and n runs can show anything at all at this level, as one of so many comparisons."""
    return smallest_p(m, n) * comparisons <= 1 - level + 1e-12


def can_be_significant_paired(n: int, level: float = 0.95, comparisons: int = 1) -> bool:
    """Whether n pairs can show anything at all at this level, as one of so many comparisons."""
    return smallest_p_paired(n) * comparisons <= 1 - level + 1e-12


def performance_profile(scores: Numbers, factors: Numbers) -> Array:
    """Dolan and More's performance profiles.

    Args:
        scores: (arms, tasks) times; inf: never; NaN: not run, and left out of that arm's share.
        factors: (f,), at least 1.

    Returns:
        (arms, f): share of an arm's tasks done within the factor of the best arm's time for the task; a task that
        nobody does counts as not done.
    """
    times, within = np.asarray(scores, dtype=float), np.asarray(factors, dtype=float)
    best = np.fmin.reduce(times, axis=0)
    # 0 <= 0 x factor and inf <= inf x factor: the first is done, the second is not
    done = np.isfinite(times)[..., None] & (times[..., None] <= best[None, :, None] * within)
    run = ~np.isnan(times)
    return np.asarray((done & run[..., None]).sum(axis=1) / np.maximum(run.sum(axis=1), 1)[:, None])
