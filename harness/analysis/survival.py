"""Time to a target: what runs that never get there do to means, medians and comparisons.

A time is infinite where the run does not reach the target within the budget, whatever kept it from it: it was at
risk up to the budget. A run that turned to NaN is such a run, and not one that was lost from sight at that step.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from harness.analysis.intervals import Array, Estimate, Numbers, Sampling, difference_estimate, mean_estimate


@dataclass(frozen=True)
class Curve:
    """A step function: from ``times[i]`` on, ``shares[i]`` of the runs have not reached the target.

    Attributes:
        times: (k + 1,), rising, from 0.
        shares: (k + 1,), falling, from 1.
    """

    times: Array
    shares: Array


def kaplan_meier(times: Numbers, reached: npt.ArrayLike) -> Curve:
    """Kaplan and Meier's estimate of the share that has not reached the target.

    Args:
        times: (n,) when each run reached the target, or was last seen.
        reached: (n,) which of these it was.
    """
    when, done = np.asarray(times, dtype=float), np.asarray(reached, dtype=bool)
    if len(when) == 0 or not done.any():
        return Curve(np.zeros(1), np.ones(1))
    found = stats.ecdf(stats.CensoredData(uncensored=when[done], right=when[~done])).sf
    at = np.isin(found.quantiles, when[done])
    return Curve(
        np.concatenate([[0.0], found.quantiles[at]]), np.concatenate([[1.0], np.asarray(found.probabilities)[at]])
    )


def median_time(times: Numbers) -> float | None:
    """The median of (n,) times; None unless more than half of the runs reach the target."""
    when = np.asarray(times, dtype=float)
    if 2 * np.isfinite(when).sum() <= len(when):
        return None
    return float(np.median(when))


def restricted(times: Numbers, budget: float) -> Array:
    """min(T, budget), (n,).

    Raises:
        ValueError: the budget is not a positive number, or a time is NaN or negative.
    """
    when = np.asarray(times, dtype=float)
    if not 0 < budget < np.inf:
        raise ValueError(f"budget={budget}; must be a positive number")
    if not (when >= 0).all():
        raise ValueError("a time is NaN or negative; a run that never reaches the target has the time inf")
    return np.asarray(np.minimum(when, budget))


def rmst(times: Numbers, budget: float, sampling: Sampling = Sampling()) -> Estimate:  # noqa: B008 - frozen
    """Restricted mean time to target, mean(min(T, budget)), with its BCa bootstrap interval.

    Args:
        times: (n,); inf: never.
        budget: in the unit of the times.
        sampling: level, resamples, seed.
    """
    return mean_estimate(restricted(times, budget), sampling)


def rmst_difference(a: Numbers, b: Numbers, budget: float, sampling: Sampling = Sampling()) -> Estimate:  # noqa: B008
    """Restricted mean time of a (m,) minus that of b (n,), with the BCa interval of two independent samples."""
    return difference_estimate(restricted(a, budget), restricted(b, budget), sampling)


def logrank(a: Numbers, b: Numbers, budget: float) -> float:
    """Two-sided p of the log-rank test that a (m,) and b (n,) have the same survival curve; 1 if nobody reaches.

    It rests on a normal approximation: with few runs it says less than :func:`smallest_p` allows to claim.
    """
    samples = []
    for times in (a, b):
        when = restricted(times, budget)
        reached = np.asarray(times, dtype=float) <= budget
        samples.append(stats.CensoredData(uncensored=when[reached], right=when[~reached]))
    if all(sample.num_censored() == len(sample) for sample in samples):
        return 1.0
    with np.errstate(invalid="ignore", divide="ignore"):
        found = stats.logrank(*samples).pvalue
    # everyone reaches it at one and the same time: no variance, no difference
    return 1.0 if np.isnan(found) else float(found)
