"""Sentences of the report: what the numbers say, how sure, and what so few runs cannot say."""

from collections.abc import Sequence
from math import comb
from typing import Any

import pandas as pd

from harness import analysis
from harness.analysis import Ranking
from harness.report.arms import DETAILED_BEST, DETAILED_LAST, Arms
from harness.report.numbers import listed, probability, shown, to
from harness.wording import counted

METHOD = (
    "Mean: the restricted mean time to the target, in which a run that never gets there counts with the whole budget. "
    "Its 95 % interval is the wider of Student's t and Hall's corrected for skewness, at each end. In simulations it "
    "holds the true mean in at least 93 % of samples of 5, 10 or 30 runs; in fewer where long times are too rare to be "
    "in every sample: 83 to 89 % with 5 runs and 92 % with 10, if times are very skewed (lognormal, sigma 1) or one "
    "run in five never gets there and the budget is long. "
    "Verdicts and p: two-sided exact Mann-Whitney tests of every other arm against the best. Because the data chose "
    "the best, Holm's steps count all pairs of arms and not only those tested, so the chance of any false better or "
    "worse is at most 0.05. Not separated does not mean equal. Sooner than best: share of pairs of runs, one of each "
    "arm, in which this arm is sooner; ties count half."
)
METHOD_LOGRANK = (
    "Two-sided, against the best arm; Holm's steps count all pairs of arms, as above. The verdicts above do not rest "
    "on it: it is a normal approximation, so p is never given as smaller than an exact test of so few runs could show. "
    "N too small: even that, adjusted, is above 0.05."
)
METHOD_PROFILE = (
    "A task is one target with one seed. The curve shows the share of an arm's tasks that it does within so many times "
    "the time of the arm that is soonest at the same task; at 1 it is the soonest itself, alone or with others. A "
    "target that is never reached is a task not done. All targets and all arms count, whatever is filtered. It "
    "describes these runs; no test goes with it."
)
SAME_SPEED = 1.1
"""Seconds of arms whose images/s differ by more than this factor may compare the machine, and not the arms."""


def caption(entry: Ranking, where: str) -> str:
    """Above the ranking of a target; ``where``: machine and kernel of times in seconds, "" for steps."""
    start = f"Time to test accuracy {entry.target:g} in {entry.unit}"
    if not where:
        return f"{start}, soonest first."
    return (
        f"{start} of training on {where}, soonest first. Evaluations are not counted. Runs are followed for "
        f"{shown(entry.budget)} {entry.unit}, the shortest time that one of them took to its last step."
    )


def speed_note(trials: pd.DataFrame, labels: "pd.Series[str]") -> str:
    """In seconds: a warning where arms do not run equally fast, for most choices do not change the work of a step."""
    speeds = trials["images_per_s_median"].groupby(labels).median().dropna()
    if len(speeds) < 2 or speeds.max() <= SAME_SPEED * speeds.min():
        return ""
    slow, fast = (
        f"{shown(float(value))} ({name})"
        for value, name in ((speeds.min(), speeds.idxmin()), (speeds.max(), speeds.idxmax()))
    )
    return (
        f"Caution: the median images/s of the arms go from {slow} to {fast}. Initializers do the same work in a step, "
        "so where only they differ that is the machine's doing, and so may be differences in seconds: then compare "
        "steps."
    )


def left_out(arms: Arms, target: float) -> list[str]:
    """What is not shown of so many arms, and how to see it; [] where everything is."""
    if len(arms.detailed) == len(arms.names):
        return []
    line = (
        f"Of {len(arms.names):,} arms {len(arms.detailed):,} have curves, maps, profiles, signals and the distance "
        f"from the best: the best {DETAILED_BEST:,} and the last {DETAILED_LAST:,} with finished runs, by the ranking "
        f"at test accuracy {target:g} in steps. Those in between have their row in the ranking only. To see more of "
        f"them, report on fewer: python -m harness.report DIR --where {arms.by[0]}=VALUE,VALUE"
    )
    return [line]


def conclusion(entry: Ranking, every: Sequence[Ranking], where: str = "") -> str:
    """One paragraph: who wins at this target, how sure that is, who never gets there, and the other targets."""
    parts = [_winner(entry, where), _sureness(entry), _never(entry), _others(entry, every)]
    return " ".join(filter(None, parts))


def _winner(entry: Ranking, where: str) -> str:
    within = f"within {shown(entry.budget)} {entry.unit}" + (f" of training on {where}" if where else "")
    if not entry.reference:
        return f"No run was finished, so nothing can be said of test accuracy {entry.target:g}."
    best = _row(entry, entry.reference)
    if not best["successes"]:
        return f"No arm reaches test accuracy {entry.target:g} {within}."
    interval = to(best["rmst_low"], best["rmst_high"])
    runs = f"{best['successes']} of {counted(int(best['n']), 'run')}"
    sure = f" (95\u00a0% interval {interval})" if interval else " (no interval: its runs are all alike or only one)"
    return (
        f"{entry.reference} is first to test accuracy {entry.target:g}: {runs} get there {within}, "
        f"after {shown(best['rmst'])} {entry.unit} on average{sure}.{_shared(entry, best)}"
    )


def _shared(entry: Ranking, best: "pd.Series[Any]") -> str:
    """The arms that are as soon to the last digit: which of them is named first is the alphabet's choice."""
    table = entry.table
    # a run that gets there in the last step has the mean of one that never does
    same = (table["rmst"] == best["rmst"]) & (table["success_share"] == best["success_share"])
    others = table.loc[same & (table["arm"] != entry.reference), "arm"]
    return f" {listed(others.tolist())} {'is' if len(others) == 1 else 'are'} as soon." if len(others) else ""


def _row(entry: Ranking, label: str) -> "pd.Series[Any]":
    return entry.table[entry.table["arm"] == label].iloc[0]


def _sureness(entry: Ranking) -> str:
    """How many arms it is separated from, and which of the others so few runs could not have separated."""
    rivals = _rivals(entry)
    if rivals.empty or not _row(entry, entry.reference)["successes"]:
        return ""
    own, comparisons = int(_row(entry, entry.reference)["n_effective"]), comb(len(rivals) + 1, 2)
    sizes = rivals["n_effective"].astype(int).tolist()
    testable = pd.Series(
        [analysis.can_be_significant(own, size, comparisons=comparisons) for size in sizes], index=rivals.index
    )
    if not testable.any():
        return _limit(own, max(sizes), comparisons)
    separated = rivals["p_holm"] <= 0.05
    left, few = rivals.loc[testable & ~separated, "arm"].tolist(), rivals.loc[~testable, "arm"].tolist()
    many = f"{int(separated.sum()) or 'none'} of the {len(rivals)} other arms"
    others = many if len(rivals) > 1 else "the other arm"
    parts = [
        f"It is separated from {others} (adjusted p at most 0.05)" if len(rivals) > 1 or separated.any() else "",
        f"it is not separated from {listed(left)}, which does not mean equal" if left else "",
        f"too few runs differ to tell it from {listed(few)}" if few else "",
    ]
    said = "; ".join(filter(None, parts))
    return f"{said[0].upper()}{said[1:]}."


def _limit(own: int, most: int, comparisons: int) -> str:
    """Where no test could have shown anything."""
    least = min(1.0, analysis.smallest_p(own, most) * comparisons)
    return (
        f"With {counted(own, 'distinct run')} of it, at most {most} of another arm and "
        f"{counted(comparisons, 'comparison')}, the smallest possible adjusted p is {probability(least)}: the order is "
        "a hint to follow up, and no difference can be claimed; run more seeds."
    )


def _rivals(entry: Ranking) -> pd.DataFrame:
    """The other arms that had a finished run."""
    table = entry.table
    return table[(table["arm"] != entry.reference) & (table["n"] > 0)]


def _never(entry: Ranking) -> str:
    table = entry.table
    never = table.loc[(table["n"] > 0) & (table["successes"] == 0), "arm"].tolist()
    if not never or len(never) == int((table["n"] > 0).sum()):
        return ""
    return f"Never there: {listed(never)}."


def _others(entry: Ranking, every: Sequence[Ranking]) -> str:
    """Who is first at the other targets."""
    firsts: dict[str, list[str]] = {}
    for other in every:
        if other.target != entry.target and other.reference:
            won = _row(other, other.reference)["successes"] > 0
            firsts.setdefault(other.reference if won else "no arm", []).append(f"{other.target:g}")
    said = [f"{name} at {listed(targets)}" for name, targets in firsts.items()]
    return f"First at the other targets: {'; '.join(said)}." if said else ""


def facts(trials: pd.DataFrame, arms: int, by: Sequence[str]) -> str:
    """Under the title: how much there is, and when it was measured."""
    ended = trials["measured_at"]
    days = sorted({f"{ended.min():%Y-%m-%d}", f"{ended.max():%Y-%m-%d}"})
    seeds = int(trials["seed"].nunique())
    varied = listed(list(by), 8)
    return (
        f"{counted(len(trials), 'trial')}, {counted(arms, 'arm')} ({varied}), {counted(seeds, 'seed')}; "
        f"measured {' to '.join(days)}"
    )


def planned(completeness: analysis.Completeness, *, whole: bool) -> list[str]:
    """Planned, recorded, failed and missing trials of the folder; ``whole``: whether the report is on all of it."""
    sweeps = completeness.sweeps
    named = sweeps[sweeps["sweep_id"].notna()]
    lines = []
    of_folder = "" if whole else "In the whole folder: "
    if len(named):
        total = {name: int(named[name].sum()) for name in ("planned", "recorded", "ok", "missing")}
        lines.append(
            f"{of_folder}{counted(len(named), 'command')} planned {counted(total['planned'], 'trial')}: "
            f"{total['recorded']:,} recorded, {total['ok']:,} ok, {total['missing']:,} missing."
        )
    loose = int(sweeps.loc[sweeps["sweep_id"].isna(), "recorded"].sum())
    if loose:
        lines.append(f"{of_folder}{counted(loose, 'trial')} without a recorded plan (run from Python).")
    return lines
