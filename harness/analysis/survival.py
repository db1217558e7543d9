"""Time to a target: what runs that never get there do to means, medians and comparisons.

A time is infinite where the run does not reach the target within the budget, whatever kept it from it: it was at
risk up to the budget. A run that turned to NaN is such a run, and not one that was lost from sight at that step.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from harness.analysis.intervals import Array, Estimate, Numbers, difference_estimate, mean_estimate


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
    survival = stats.ecdf(stats.CensoredData(uncensored=when[done], right=when[~done])).sf
    at = np.isin(survival.quantiles, when[done])
    return Curve(
        np.concatenate([[0.0], survival.quantiles[at]]), np.concatenate([[1.0], np.asarray(survival.probabilities)[at]])
    )


def median_time(times: Numbers) -> float | None:
    """Return Kaplan and Meier's median of (n,) times: the first one by which at least half of the runs got there.

    It is the smallest time at which their curve is at or below 0.5, so it is always the time of a run and never the
    average of two. Every run is followed to the budget, therefore the curve falls by 1/n at each run that reaches the
    target. Sources: E. L. Kaplan and P. Meier, JASA 53 (1958) 457-481; the smallest time at or below 0.5 is the
    definition of lifelines (R's survfit averages two times where the curve is exactly 0.5 in between).

    Args:
        times: (n,); inf: never.

    Returns:
        None if the curve stays above 0.5.
    """
    in_order = np.sort(np.asarray(times, dtype=float))
    if len(in_order) == 0:
        return None
    median = float(in_order[(len(in_order) - 1) // 2])
    return median if np.isfinite(median) else None


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


def rmst(times: Numbers, budget: float, level: float = 0.95) -> Estimate:
    """Estimate the restricted mean time to target, mean(min(T, budget)), with an interval from 0 to the budget at most.

    Args:
        times: (n,); inf: never.
        budget: in the unit of the times.
        level: share of intervals that shall hold the true mean; see :func:`harness.analysis.intervals.mean_intervals`.
    """
    return mean_estimate(restricted(times, budget), level, (0, budget))


def rmst_difference(a: Numbers, b: Numbers, budget: float, level: float = 0.95) -> Estimate:
    """Estimate the restricted mean time of a (m,) minus that of b (n,), two independent samples, with an interval."""
    return difference_estimate(restricted(a, budget), restricted(b, budget), level, (-budget, budget))


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
        p = stats.logrank(*samples).pvalue
    # everyone reaches it at one and the same time: no variance, no difference
    return 1.0 if np.isnan(p) else float(p)
