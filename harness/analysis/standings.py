"""Arms ranked by their time to a target, with what can and what cannot be said of each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np
import pandas as pd

from harness.analysis.comparison import can_be_significant, holm, smallest_p, wins
from harness.analysis.grouping import Arm, Unit, arm_columns, arms, budget_of, planned_steps, within
from harness.analysis.intervals import mean_intervals, newcombe, wilson
from harness.analysis.survival import median_time, restricted
from harness.errors import UsageError
from harness.results import COUNTED, Frames
from harness.wording import counted


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
            neither of the two ever reaches the target: nothing to compare), unfinished, verdict.
        notes: what a reader has to know beside the table, a sentence each.
    """

    target: float
    unit: str
    budget: float
    reference: str
    picked: bool
    table: pd.DataFrame
    notes: list[str]


def ranking(
    frames: Frames,
    *,
    target: float,
    unit: Unit = "steps",
    by: Sequence[str] | None = None,
    reference: str | None = None,
    level: float = 0.95,
) -> Ranking:
    """Rank the arms by their restricted mean time to a target.

    Each arm is tested against the reference alone. Where the data chose the reference, Holm's family is all pairs of
    arms, see :func:`harness.analysis.holm`, because the choice has looked at them.

    Verdicts: ``better`` or ``worse`` than the reference by the two-sided exact Mann-Whitney test with Holm's
    adjustment; ``not separated``; ``n too small to tell`` where no outcome at all could have been significant;
    ``one run in effect``; ``never in N of N within BUDGET``; ``no finished run``; ``planned for fewer steps`` than are
    compared; ``reference``; ``only arm``.

    Args:
        frames: results.
        target: test accuracy.
        unit: steps, or seconds of training.
        by: the columns that tell arms apart; None: those that vary.
        reference: label of the arm to compare with; None: the best.
        level: of the intervals; the tests' level is 1 - level.

    Raises:
        UsageError: an unknown column, unit or reference.
    """
    names = arm_columns(frames.trials, by)
    found = arms(frames, target=target, unit=unit, by=by)
    budget = budget_of(frames, unit)
    table = _times(found, budget, level)
    for name in names:
        table.insert(1 + names.index(name), name, pd.Series([arm.choices[name] for arm in found], dtype=object))
    order = table.assign(lost=-table["success_share"]).sort_values(["rmst", "lost", "arm"], na_position="last").index
    table, found = table.loc[order].reset_index(drop=True), [found[index] for index in order]
    position = _reference(found, reference)
    notes = [*_budget_notes(frames.trials, budget, unit)]
    if position is None:
        table = table.assign(**dict.fromkeys(_COMPARED, np.nan), verdict="no finished run")
        return Ranking(target, unit, budget, "", reference is None, table, [*notes, *_notes(found, table, 0)])
    count = len([arm for arm in found if len(arm.times)])
    comparisons = comb(count, 2) if reference is None else count - 1
    table = pd.concat([table, _compared(found, position, comparisons, level)], axis=1)
    verdicts = _verdicts(found, table, position, comparisons, level, picked=reference is None)
    # a verdict about a target is one about a time as well
    table["verdict"] = [
        f"{verdict} within {within(budget, unit)}" if verdict.startswith("never") else verdict for verdict in verdicts
    ]
    if not table["successes"].any():
        notes.append(f"No run reaches {target:g} within {within(budget, unit)}: there is nothing to compare.")
    notes += _notes(found, table, comparisons)
    return Ranking(target, unit, budget, found[position].label, reference is None, table, notes)


_ALONE = [
    *("arm", "n", "n_effective", "successes", "success_share", "success_low", "success_high"),
    *("rmst", "rmst_low", "rmst_high", "median", "unfinished"),
]
_COMPARED = ("improvement", "improvement_low", "improvement_high", "p", "p_holm")


def _times(found: Sequence[Arm], budget: float, level: float) -> pd.DataFrame:
    """What can be said of each arm by itself; the intervals rest on the runs that differ."""
    rows = []
    for arm in found:
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
    low, high = _intervals(found, budget, level)
    return pd.DataFrame(rows, columns=_ALONE).assign(rmst_low=low, rmst_high=high)


def _intervals(found: Sequence[Arm], budget: float, level: float) -> tuple[Any, Any]:
    """Compute the intervals of the restricted means, of all arms with equally many runs in one go."""
    low, high = np.full(len(found), np.nan), np.full(len(found), np.nan)
    for which in _by_size(found).values():
        values = np.stack([found[index].times_effective for index in which])
        low[which], high[which] = mean_intervals(restricted(values, budget), level, (0, budget))
    return low, high


def _by_size(found: Sequence[Arm]) -> dict[int, Any]:
    """Number of runs that differ, if any -> the arms that have so many: what is done to them is done in one go."""
    sizes = np.array([arm.n_effective for arm in found], dtype=np.int64)
    return {int(size): np.flatnonzero(sizes == size) for size in np.unique(sizes[sizes > 0])}


def _reference(found: Sequence[Arm], reference: str | None) -> int | None:
    """Where the reference stands; None where there is no finished run."""
    labels = [arm.label for arm in found]
    if reference is not None:
        if reference not in labels:
            raise UsageError(f"reference={reference}: no such arm; choose one of: {', '.join(labels)}")
        position = labels.index(reference)
        if not len(found[position].times):
            raise UsageError(f"reference={reference}: it has no finished run to compare with; choose another arm")
        return position
    return next((index for index, arm in enumerate(found) if len(arm.times)), None)


def _compared(found: Sequence[Arm], position: int, comparisons: int, level: float) -> pd.DataFrame:
    """Each arm against the reference."""
    base, table = found[position].times_effective, np.full((len(found), len(_COMPARED)), np.nan)
    for size, which in _by_size(found).items():
        others = which[which != position]
        if len(others):
            times = np.stack([found[index].times_effective for index in others])
            shares, p_values = wins(times, base)
            ends = newcombe(shares, size, len(base), level)
            table[others, :4] = np.column_stack([shares, *ends, p_values])
            # a tie of never with never is no measured half
            table[others[~np.isfinite(times).any(axis=1) & ~np.isfinite(base).any()], :4] = np.nan
    table[:, 4] = holm(table[:, 3], family=comparisons)
    return pd.DataFrame(table, columns=list(_COMPARED))


def _verdicts(
    found: Sequence[Arm], table: pd.DataFrame, position: int, comparisons: int, level: float, *, picked: bool
) -> list[str]:
    """The word for each arm."""
    base, p_holm, share = found[position].n_effective, table["p_holm"].to_numpy(), table["improvement"].to_numpy()
    testable = [can_be_significant(arm.n_effective, base, level, comparisons) for arm in found]
    separated = p_holm <= 1 - level
    verdicts = [
        _verdict(arm, testable=can, separated=apart, better=part > 0.5)
        for arm, can, apart, part in zip(found, testable, separated.tolist(), share.tolist(), strict=True)
    ]
    if not verdicts[position].startswith("never"):
        others = [index for index, arm in enumerate(found) if index != position and len(arm.times)]
        verdicts[position] = _reference_verdict(
            found[position], [bool(separated[i]) for i in others], [testable[i] for i in others], picked=picked
        )
    return verdicts


def _verdict(arm: Arm, *, testable: bool, separated: bool, better: bool) -> str:
    if not len(arm.times):
        return "planned for fewer steps" if arm.shorter else "no finished run"
    if not np.isfinite(arm.times).any():
        return f"never in {len(arm.times)} of {len(arm.times)}"
    if arm.n_effective == 1:
        return "one run in effect"
    if not testable:
        return "n too small to tell"
    if not separated:
        return "not separated"
    return "better" if better else "worse"


def _reference_verdict(arm: Arm, separated: list[bool], testable: list[bool], *, picked: bool) -> str:
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


def _budget_notes(trials: pd.DataFrame, budget: float, unit: str) -> Iterator[str]:
    """How long runs were followed, and for which that is not their plan."""
    yield f"Budget of every run: {within(budget, unit)}; a run that does not get there in it counts as never."
    steps, planned = trials.loc[trials["status"].isin(COUNTED), "steps"], planned_steps(trials)
    fewer, more = int((steps < planned).sum()), int((steps > planned).sum())
    if fewer:
        yield f"Left out: {fewer} planned for fewer than the {within(planned, 'steps')} of most."
    if more:
        yield f"Followed up to step {planned:,.0f} only: {more} planned for more."


def _tested(tests: int, comparisons: int) -> Iterator[str]:
    """Say which comparisons were made, where Holm's family is larger than those."""
    if 0 < tests < comparisons:
        yield (
            f"Tested: {counted(tests, 'comparison')} with the best arm. Because the data chose the best, Holm's "
            f"adjustment counts all {comparisons} pairs of arms."
        )


def _notes(found: Sequence[Arm], table: pd.DataFrame, comparisons: int) -> list[str]:
    notes: list[str] = []
    if comparisons:
        fewest = min(arm.n_effective for arm in found if len(arm.times))
        least = smallest_p(fewest, fewest)
        among = f" ({min(1.0, least * comparisons):.2g} as one of {comparisons} comparisons)" if comparisons > 1 else ""
        notes.append(f"Fewest runs of an arm: {fewest}, which can show p = {least:.2g} at best{among}.")
        notes += _tested(int(table["p"].notna().sum()), comparisons)
    one = [arm.label for arm in found if arm.n_effective == 1 and len(arm.times) > 1]
    if one:
        notes.append(f"Every seed gives the same run, so n = 1 in effect: {', '.join(one)}.")
    unfinished = int(table["unfinished"].sum())
    if unfinished:
        notes.append(f"Left out: {unfinished} that ended as error, oom, timeout or killed.")
    lost = sum(arm.lost for arm in found)
    if lost:
        notes.append(
            f"Left out: {lost} whose curves are missing or cannot be read, so that nothing is known of their times."
        )
    repeated = sum(arm.repeated for arm in found)
    if repeated:
        notes.append(f"Left out: {repeated} that repeat an arm's seed; the last measured counts.")
    mixed = [arm.label for arm in found if arm.mixed]
    if mixed:
        notes.append(f"Trials of one seed have different configs (see config), so the last counts: {', '.join(mixed)}.")
    return notes
