"""Intervals: Wilson's for a share, Newcombe's for a probability of improvement, the bootstrap's for means.

Shapes: A arms, R resamples, m and n runs.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

Array = npt.NDArray[np.float64]
Numbers = npt.ArrayLike
"""What becomes an array of float64."""

_BLOCK = 1 << 22
"""Resampled means held at once: 32 MB."""


@dataclass(frozen=True)
class Interval:
    """Two-sided interval, ends included."""

    low: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """A mean over runs.

    Attributes:
        value: the mean; NaN for no run.
        interval: None where the runs do not differ or there are fewer than two, so that nothing can be resampled.
        n: number of runs (the smaller of two arms).
    """

    value: float
    interval: Interval | None
    n: int


@dataclass(frozen=True)
class Sampling:
    """How intervals are drawn; the same values give the same bits.

    Attributes:
        level: share of intervals that shall hold the true value.
        resamples: bootstrap resamples.
        seed: of the sampler.
    """

    level: float = 0.95
    resamples: int = 2000
    seed: int = 0


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Wilson's score interval of a share: never empty, never outside 0 to 1, also for 0 or n successes.

    Args:
        successes: how many of the runs did.
        n: number of runs; for 0 nothing is known: 0 to 1.
        level: share of intervals that shall hold the true value.

    Raises:
        ValueError: successes not in 0 to n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"successes={successes} of n={n}; must be 0 to n")
    if n == 0:
        return Interval(0.0, 1.0)
    z = _z(level)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # rounding must not put the ends past the share where they meet it
    return Interval(
        0.0 if successes == 0 else min(float(centre - half), share),
        1.0 if successes == n else max(float(centre + half), share),
    )


def _z(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"level={level}; must lie between 0 and 1")
    return float(ndtri((1 + level) / 2))


def newcombe(probability: Numbers, m: Numbers, n: Numbers, level: float = 0.95) -> tuple[Array, Array]:
    """Newcombe's score interval (method 5) of P(a < b) + P(a = b)/2 from m and n runs.

    Unlike a bootstrap or DeLong's it keeps a width where the runs are fully separated. Source: R. G. Newcombe,
    Statistics in Medicine 25 (2006) 559-573.

    Args:
        probability: (k,) estimates, U/(mn).
        m: (k,) or one number of runs of a.
        n: the same of b.
        level: share of intervals that shall hold the true value.

    Returns:
        the lower and the upper ends, each (k,).
    """
    theta = np.asarray(probability, dtype=float)
    runs_a, runs_b = np.asarray(m, dtype=float), np.asarray(n, dtype=float)
    low = _score_end(theta, runs_a, runs_b, _z(level))
    return low, 1 - _score_end(1 - theta, runs_a, runs_b, _z(level))


def _score_end(theta: Array, m: Array, n: Array, z: float) -> Array:
    """The smallest value that lies z standard errors, of its own, below theta; by bisection."""
    # a fully separated estimate solves the equation itself, and so must not be the upper end of the search
    low, high = np.zeros_like(theta), np.where(theta == 1, 1 - 1e-12, theta)
    for _ in range(60):
        middle = (low + high) / 2
        pairs = 1 + ((m + n) / 2 - 1) * ((1 - middle) / (2 - middle) + middle / (1 + middle))
        variance = middle * (1 - middle) * pairs / (m * n)
        outside = (theta - middle) ** 2 > z * z * variance
        low, high = np.where(outside, middle, low), np.where(outside, high, middle)
    return np.asarray(np.where(theta == 0, 0.0, low))


@lru_cache(maxsize=4)
def resampling_weights(n: int, sampling: Sampling, stream: int = 0) -> Array:
    """How often each run is in each resample, over n: (R, n), so that ``values @ weights.T`` are resampled means.

    Args:
        n: number of runs.
        sampling: seed and number of resamples.
        stream: arms that are resampled independently of each other need different ones.
    """
    generator = np.random.default_rng([sampling.seed, stream])
    weights = np.asarray(generator.multinomial(n, np.full(n, 1 / n), size=sampling.resamples) / n)
    # kept for the next arm of that size, and so nobody's to change
    weights.flags.writeable = False
    return weights


def mean_intervals(values: Array, sampling: Sampling) -> tuple[Array, Array]:
    """BCa bootstrap intervals of the means of many arms with equally many runs.

    Every arm is resampled by the same weights, as it would be alone. Source: B. Efron, JASA 82 (1987) 171-185.

    Args:
        values: (A, n).
        sampling: level, resamples, seed.

    Returns:
        lower and upper ends, each (A,); NaN where the values of an arm are all equal, or n < 2.
    """
    arms, n = values.shape
    if n < 2 or arms == 0:
        return np.full(arms, np.nan), np.full(arms, np.nan)
    weights = resampling_weights(n, sampling)
    rows = max(1, _BLOCK // sampling.resamples)
    blocks = [values[start : start + rows] for start in range(0, arms, rows)]
    ends = [bca(block @ weights.T, block.mean(axis=1), _acceleration(_deviations(block)), sampling) for block in blocks]
    low, high = (np.concatenate(parts) for parts in zip(*ends, strict=True))
    return low, high


def _deviations(values: Array) -> Array:
    return np.asarray(values - values.mean(axis=1, keepdims=True))


def _acceleration(influences: Array) -> Array:
    """Of the influence of each run on the statistic, (A, n): a sixth of their skewness over the root of n."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((influences**3).sum(axis=1) / (6 * (influences**2).sum(axis=1) ** 1.5))


def bca(resampled: Array, estimate: Array, acceleration: Array, sampling: Sampling) -> tuple[Array, Array]:
    """Bias-corrected and accelerated ends, from resampled statistics.

    Args:
        resampled: (A, R).
        estimate: (A,).
        acceleration: (A,).
        sampling: level.

    Returns:
        lower and upper ends, each (A,), around the estimate; NaN where the resampled statistics are all equal.
    """
    ordered = np.sort(resampled, axis=1)
    # equal means differ by rounding alone, and must count as equal
    close = 1e-12 * np.maximum(np.abs(ordered[:, 0]), np.abs(ordered[:, -1]))
    flat = ordered[:, -1] - ordered[:, 0] <= 2 * close
    below = (ordered < (estimate - close)[:, None]).mean(axis=1)
    up_to = (ordered <= (estimate + close)[:, None]).mean(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        bias = ndtri((below + up_to) / 2)
        low, high = (
            _quantile(ordered, ndtr(bias + (bias + side) / (1 - acceleration * (bias + side))))
            for side in (-_z(sampling.level), _z(sampling.level))
        )
    low, high = np.fmin(low, estimate), np.fmax(high, estimate)
    return np.where(flat, np.nan, low), np.where(flat, np.nan, high)


def _quantile(ordered: Array, share: Array) -> Array:
    """Of each row (R,) of sorted values, the quantile at its own share; (A,)."""
    last = ordered.shape[1] - 1
    position = np.nan_to_num(share, nan=0.5) * last
    lower = np.floor(position).astype(np.int64)
    upper = np.minimum(lower + 1, last)
    rows = np.arange(len(ordered))
    part = position - lower
    return np.asarray(ordered[rows, lower] * (1 - part) + ordered[rows, upper] * part)


def mean_estimate(values: Array, sampling: Sampling) -> Estimate:
    """The mean of (n,) values with its BCa interval."""
    if len(values) == 0:
        return Estimate(float("nan"), None, 0)
    low, high = mean_intervals(values[None], sampling)
    return Estimate(float(values.mean()), interval(low[0], high[0]), len(values))


def difference_estimate(a: Array, b: Array, sampling: Sampling) -> Estimate:
    """Mean of a (m,) minus mean of b (n,), each resampled by itself, with its BCa interval."""
    runs = min(len(a), len(b))
    if runs == 0:
        return Estimate(float("nan"), None, 0)
    value = float(a.mean() - b.mean())
    if runs < 2:
        return Estimate(value, None, runs)
    resampled = resampling_weights(len(a), sampling, 0) @ a - resampling_weights(len(b), sampling, 1) @ b
    influences = np.concatenate([(a - a.mean()) / len(a), (b.mean() - b) / len(b)])
    low, high = bca(resampled[None], np.array([value]), _acceleration(influences[None]), sampling)
    return Estimate(value, interval(low[0], high[0]), runs)


def interval(low: float, high: float) -> Interval | None:
    """The interval between two ends; None where they are NaN."""
    return None if np.isnan(low) else Interval(float(low), float(high))
