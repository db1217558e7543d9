"""Arms ranked by their time to a target, with what can and what cannot be said of each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np
import pandas as pd

from harness.analysis.arm_times import Arm, TimedArms, timed_arms
from harness.analysis.comparison import can_be_significant, holm, smallest_p, wins
from harness.analysis.grouping import By, TimeUnit, within
from harness.analysis.intervals import mean_intervals, newcombe, wilson
from harness.analysis.survival import median_time, restricted
from harness.analysis.verdicts import Verdict
from harness.errors import UsageError
from harness.results import COUNTED, STATUSES, Frames
from harness.wording import counted

_OTHER_STATUSES = [status for status in STATUSES if status not in COUNTED]
_NOT_COUNTED = " or ".join([", ".join(_OTHER_STATUSES[:-1]), _OTHER_STATUSES[-1]])


@dataclass(frozen=True)
class Ranking:
    """Arms, best first.

    Attributes:
        target: test accuracy to reach.
        unit: steps or seconds.
        budget: how long every run was followed, in that unit; see :func:`harness.analysis.budget_of`.
        reference: label of the arm that the others are compared with; empty where no run was finished.
        picked: whether the data chose the reference. Only the comparisons with it are tested, but Holm's family is then
            every pair of arms; otherwise it is the comparisons that are tested.
        table: one row per arm; NaN: there is none. Columns: arm, the columns that tell arms apart, n (seeds),
            n_effective, successes, success_share, success_low, success_high, rmst, rmst_low, rmst_high, median,
            improvement, improvement_low, improvement_high (how often it beats the reference), p, p_holm (all NaN where
            neither of the two ever reaches the target: nothing to compare), unfinished, verdict (see
            :data:`harness.analysis.VERDICTS`, and :func:`harness.analysis.said` for the same in words).
        notes: what a reader has to know beside the table, a sentence each.
    """

    target: float
    unit: TimeUnit
    budget: float
    reference: str
    picked: bool
    table: pd.DataFrame
    notes: list[str]


def ranking(
    frames: Frames,
    *,
    target: float,
    unit: TimeUnit = "steps",
    by: By = None,
    reference: str | None = None,
    level: float = 0.95,
) -> Ranking:
    """Rank the arms by their restricted mean time to a target.

    Each arm is tested against the reference alone. Where the data chose the reference, Holm's family is all pairs of
    arms, see :func:`harness.analysis.holm`, because the choice has looked at them.

    Args:
        frames: results.
        target: test accuracy.
        unit: steps, or seconds of training.
        by: what tells arms apart; None: what varies.
        reference: label of the arm to compare with; None: the best.
        level: of the intervals; the tests' level is 1 - level.

    Raises:
        UsageError: an unknown column, unit or reference.
    """
    return rank(timed_arms(frames, target=target, unit=unit, by=by), reference=reference, level=level)


def rank(timed: TimedArms, *, reference: str | None = None, level: float = 0.95) -> Ranking:
    """Rank arms whose times are known already.

    Verdicts: ``better`` or ``worse`` than the reference by the two-sided exact Mann-Whitney test with Holm's
    adjustment; ``not separated``; ``n too small to tell`` where no outcome at all could have been significant;
    ``one run in effect``; ``never`` within the budget; ``no finished run``; ``planned for fewer steps`` than are
    compared; ``reference``; ``only arm``.

    Args:
        timed: the arms.
        reference: label of the arm to compare with; None: the best.
        level: of the intervals; the tests' level is 1 - level.

    Raises:
        UsageError: an unknown reference.
    """
    table, arms = _in_order(timed, level)
    position = _reference(arms, reference)
    notes = [*_budget_notes(timed)]
    if position is None:
        table = table.assign(**dict.fromkeys(_COMPARED, np.nan), verdict="no finished run")
        return Ranking(
            timed.target, timed.unit, timed.budget, "", reference is None, table, [*notes, *_notes(arms, table, 0)]
        )
    count = len([arm for arm in arms if len(arm.times)])
    comparisons = comb(count, 2) if reference is None else count - 1
    table = pd.concat([table, _compared(arms, position, comparisons, level)], axis=1)
    table["verdict"] = _verdicts(arms, table, position, comparisons, level, picked=reference is None)
    if not table["successes"].any():
        followed = within(timed.budget, timed.unit)
        notes.append(f"No run reaches {timed.target:g} within {followed}: there is nothing to compare.")
    notes += _notes(arms, table, comparisons)
    return Ranking(timed.target, timed.unit, timed.budget, arms[position].label, reference is None, table, notes)


def _in_order(timed: TimedArms, level: float) -> tuple[pd.DataFrame, list[Arm]]:
    """What can be said of each arm by itself, and the arms: the soonest first."""
    table = _times(timed.arms, timed.budget, level)
    for place, name in enumerate(timed.columns):
        table.insert(1 + place, name, pd.Series([arm.choices[name] for arm in timed.arms], dtype=object))
    order = table.assign(lost=-table["success_share"]).sort_values(["rmst", "lost", "arm"], na_position="last").index
    return table.loc[order].reset_index(drop=True), [timed.arms[index] for index in order]


_ALONE = [
    *("arm", "n", "n_effective", "successes", "success_share", "success_low", "success_high"),
    *("rmst", "rmst_low", "rmst_high", "median", "unfinished"),
]
_COMPARED = ("improvement", "improvement_low", "improvement_high", "p", "p_holm")


def _times(arms: Sequence[Arm], budget: float, level: float) -> pd.DataFrame:
    """What can be said of each arm by itself; the intervals rest on the runs that differ."""
    rows = []
    for arm in arms:
        successes = int(np.isfinite(arm.times_effective).sum())
        share = wilson(successes, arm.n_effective, level)
        median = median_time(arm.times)
        rows.append(
            {
                "arm": arm.label,
                "n": len(arm.times),
                "n_effective": arm.n_effective,
                "successes": int(np.isfinite(arm.times).sum()),
                "success_share": np.isfinite(arm.times).mean() if len(arm.times) else np.nan,
                "success_low": share.low,
                "success_high": share.high,
                "rmst": restricted(arm.times_effective, budget).mean() if len(arm.times) else np.nan,
                "median": np.nan if median is None else median,
                "unfinished": arm.unfinished,
            }
        )
    low, high = _intervals(arms, budget, level)
    return pd.DataFrame(rows, columns=_ALONE).assign(rmst_low=low, rmst_high=high)


def _intervals(arms: Sequence[Arm], budget: float, level: float) -> tuple[Any, Any]:
    """Compute the intervals of the restricted means, of all arms with equally many runs in one go."""
    low, high = np.full(len(arms), np.nan), np.full(len(arms), np.nan)
    for which in _by_size(arms).values():
        values = np.stack([arms[index].times_effective for index in which])
        low[which], high[which] = mean_intervals(restricted(values, budget), level, (0, budget))
    return low, high


def _by_size(arms: Sequence[Arm]) -> dict[int, Any]:
    """Number of runs that differ, if any -> the arms that have so many: what is done to them is done in one go."""
    sizes = np.array([arm.n_effective for arm in arms], dtype=np.int64)
    return {int(size): np.flatnonzero(sizes == size) for size in np.unique(sizes[sizes > 0])}


def _reference(arms: Sequence[Arm], reference: str | None) -> int | None:
    """Where the reference stands; None where there is no finished run."""
    labels = [arm.label for arm in arms]
    if reference is not None:
        if reference not in labels:
            raise UsageError(f"reference={reference}: no such arm; choose one of: {', '.join(labels)}")
        position = labels.index(reference)
        if not len(arms[position].times):
            raise UsageError(f"reference={reference}: it has no finished run to compare with; choose another arm")
        return position
    return next((index for index, arm in enumerate(arms) if len(arm.times)), None)


def _compared(arms: Sequence[Arm], position: int, comparisons: int, level: float) -> pd.DataFrame:
    """Each arm against the reference."""
    base, table = arms[position].times_effective, np.full((len(arms), len(_COMPARED)), np.nan)
    for size, which in _by_size(arms).items():
        others = which[which != position]
        if len(others):
            times = np.stack([arms[index].times_effective for index in others])
            shares, p_values = wins(times, base)
            ends = newcombe(shares, size, len(base), level)
            table[others, :4] = np.column_stack([shares, *ends, p_values])
            # a tie of never with never is no measured half
            table[others[~np.isfinite(times).any(axis=1) & ~np.isfinite(base).any()], :4] = np.nan
    table[:, 4] = holm(table[:, 3], family=comparisons)
    return pd.DataFrame(table, columns=list(_COMPARED))


def _verdicts(
    arms: Sequence[Arm], table: pd.DataFrame, position: int, comparisons: int, level: float, *, picked: bool
) -> list[Verdict]:
    """The verdict on each arm."""
    base, p_holm, share = arms[position].n_effective, table["p_holm"].to_numpy(), table["improvement"].to_numpy()
    testable = [can_be_significant(arm.n_effective, base, level, comparisons) for arm in arms]
    separated = p_holm <= 1 - level
    verdicts = [
        _verdict(arm, testable=can, separated=apart, better=part > 0.5)
        for arm, can, apart, part in zip(arms, testable, separated.tolist(), share.tolist(), strict=True)
    ]
    if verdicts[position] != "never":
        others = [index for index, arm in enumerate(arms) if index != position and len(arm.times)]
        verdicts[position] = _reference_verdict(
            arms[position], [bool(separated[i]) for i in others], [testable[i] for i in others], picked=picked
        )
    return verdicts


def _verdict(arm: Arm, *, testable: bool, separated: bool, better: bool) -> Verdict:
    if not len(arm.times):
        return "planned for fewer steps" if arm.shorter else "no finished run"
    if not np.isfinite(arm.times).any():
        return "never"
    if arm.n_effective == 1:
        return "one run in effect"
    if not testable:
        return "n too small to tell"
    if not separated:
        return "not separated"
    return "better" if better else "worse"


def _reference_verdict(arm: Arm, separated: list[bool], testable: list[bool], *, picked: bool) -> Verdict:
    """Call the best arm of the sample better only if it is separated from every other arm."""
    if not separated:
        return "only arm"
    if not picked:
        return "reference"
    if all(separated):
        return "better"
    if arm.n_effective == 1:
        return "one run in effect"
    return "not separated" if any(testable) else "n too small to tell"


def _budget_notes(timed: TimedArms) -> Iterator[str]:
    """How long runs were followed, and for which that is not their plan."""
    yield (
        f"Budget of every run: {within(timed.budget, timed.unit)}; a run that does not get there in it counts as never."
    )
    if timed.fewer:
        yield f"Left out: {timed.fewer} planned for fewer than the {within(timed.planned, 'steps')} of most."
    if timed.more:
        yield f"Followed up to step {timed.planned:,.0f} only: {timed.more} planned for more."


def _tested(tests: int, comparisons: int) -> Iterator[str]:
    """Say which comparisons were made, where Holm's family is larger than those."""
    if 0 < tests < comparisons:
        yield (
            f"Tested: {counted(tests, 'comparison')} with the best arm. Because the data chose the best, Holm's "
            f"adjustment counts all {comparisons} pairs of arms."
        )


def _notes(arms: Sequence[Arm], table: pd.DataFrame, comparisons: int) -> list[str]:
    notes: list[str] = []
    if comparisons:
        fewest = min(arm.n_effective for arm in arms if len(arm.times))
        least = smallest_p(fewest, fewest)
        among = f" ({min(1.0, least * comparisons):.2g} as one of {comparisons} comparisons)" if comparisons > 1 else ""
        notes.append(f"Fewest runs of an arm: {fewest}, which can show p = {least:.2g} at best{among}.")
        notes += _tested(int(table["p"].notna().sum()), comparisons)
    one = [arm.label for arm in arms if arm.n_effective == 1 and len(arm.times) > 1]
    if one:
        notes.append(f"Every seed gives the same run, so n = 1 in effect: {', '.join(one)}.")
    unfinished = int(table["unfinished"].sum())
    if unfinished:
        notes.append(f"Left out: {unfinished} that ended as {_NOT_COUNTED}.")
    lost = sum(arm.lost for arm in arms)
    if lost:
        notes.append(
            f"Left out: {lost} whose curves are missing or cannot be read, so that nothing is known of their times."
        )
    repeated = sum(arm.repeated for arm in arms)
    if repeated:
        notes.append(f"Left out: {repeated} that repeat an arm's seed; the last measured counts.")
    mixed = [arm.label for arm in arms if arm.mixed]
    if mixed:
        notes.append(f"Trials of one seed have different configs (see config), so the last counts: {', '.join(mixed)}.")
    return notes
