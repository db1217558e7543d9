"""Sentences of the report: what the numbers say, how sure, and what so few runs cannot say."""

from collections.abc import Sequence
from math import comb
from typing import Any

import pandas as pd

from harness import analysis
from harness.analysis import Ranking
from harness.report.numbers import counted, listed, probability, shown, to

METHOD = (
    "Mean steps to target: restricted mean, in which a run that never gets there counts with the whole budget. "
    "Verdicts: two-sided exact Mann-Whitney tests against the best arm, adjusted by Holm for all pairs of arms, for "
    "the data chose the best; level 0.05. Sooner than best: share of pairs of runs in which this arm is first, ties "
    "half."
)


def caption(entry: Ranking) -> str:
    """Above the ranking of a target."""
    return f"Time to test accuracy {entry.target:g} in {entry.unit}, soonest first."


def conclusion(entry: Ranking, every: Sequence[Ranking]) -> str:
    """One paragraph: who wins at this target, how sure that is, who never gets there, and the other targets."""
    parts = [_winner(entry), _sureness(entry), _never(entry), _others(entry, every)]
    return " ".join(filter(None, parts))


def _winner(entry: Ranking) -> str:
    within = f"within {shown(entry.budget)} {entry.unit}"
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
    others = entry.table.loc[(entry.table["rmst"] == best["rmst"]) & (entry.table["arm"] != entry.reference), "arm"]
    return f" {listed(others.tolist())} {'is' if len(others) == 1 else 'are'} as soon." if len(others) else ""


def _row(entry: Ranking, label: str) -> "pd.Series[Any]":
    return entry.table[entry.table["arm"] == label].iloc[0]


def _sureness(entry: Ranking) -> str:
    """How many arms it is separated from, and what is possible at all with so many runs."""
    rivals = _rivals(entry)
    if rivals.empty or not _row(entry, entry.reference)["successes"]:
        return ""
    separated = int((rivals["p_holm"] <= 0.05).sum())
    fewest = int(entry.table.loc[entry.table["n"] > 0, "n_effective"].min())
    comparisons = comb(len(rivals) + 1, 2)
    possible = analysis.can_be_significant(fewest, fewest, comparisons=comparisons)
    least = min(1.0, analysis.smallest_p(fewest, fewest) * comparisons)
    limit = (
        f"With as few as {counted(fewest, 'distinct run')} in an arm and {counted(comparisons, 'comparison')}, "
        f"the smallest possible adjusted p is {probability(least)}"
    )
    if not separated:
        return f"{limit}: {_cannot(possible=possible)}."
    left = rivals.loc[~(rivals["p_holm"] <= 0.05), "arm"].tolist()
    rest = f"; it is not separated from {listed(left)}" if left else ""
    more = "" if possible or not left else f" {limit}: arms of that size cannot be told apart."
    return f"It is separated from {separated} of the {counted(len(rivals), 'other arm')} (p at most 0.05){rest}.{more}"


def _cannot(*, possible: bool) -> str:
    if possible:
        return "the test could have told the arms apart, and did not"
    return "the order is a hint to follow up, and no difference can be claimed; run more seeds"


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


def planned(found: analysis.Completeness) -> list[str]:
    """Planned, recorded, failed and missing trials, and the note on trials without a plan."""
    sweeps = found.sweeps
    named = sweeps[sweeps["sweep_id"].notna()]
    lines = []
    if len(named):
        total = {name: int(named[name].sum()) for name in ("planned", "recorded", "ok", "missing")}
        lines.append(
            f"{counted(len(named), 'command')} planned {counted(total['planned'], 'trial')}: "
            f"{total['recorded']:,} recorded, {total['ok']:,} ok, {total['missing']:,} missing."
        )
    loose = int(sweeps.loc[sweeps["sweep_id"].isna(), "recorded"].sum())
    if loose:
        lines.append(f"{counted(loose, 'trial')} without a recorded plan (run from Python, or by schema version 1).")
    return lines
