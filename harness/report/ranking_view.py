"""The ranking of every target as the page shows it, in steps and in seconds: rows of numbers, a verdict, its reason."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np

from harness import analysis
from harness.analysis import VERDICTS, ArmLabels, Frames, Ranking, TimedArms, TimeUnit, said, within
from harness.report.arms import Arms, kept_places
from harness.report.conditions import condition
from harness.report.model import ArmView, Estimate, RankingRow, RankingView
from harness.report.numbers import Number, one
from harness.report.words import caption, conclusion, speed_note
from harness.results import MISSING, SPEED, text_of

_LEVEL = 0.95
_NAMED = ("device", "device_model", "kernel")


@dataclass(frozen=True)
class Clock:
    """A measure of time and the trials that can be compared by it.

    Attributes:
        label: for the reader.
        unit: steps or seconds.
        where: in seconds the machine, the kernel and the other conditions of speed that vary, "" in steps.
        frames: the trials under these conditions; in steps all.
        timed: the arms with their times, one for each pre-set target, rising.
        rankings: of these.
    """

    label: str
    unit: TimeUnit
    where: str
    frames: Frames
    timed: list[TimedArms]
    rankings: list[Ranking]


def clocks(frames: Frames, labels: ArmLabels) -> list[Clock]:
    """Steps, over all trials; then training seconds, for each set of conditions of speed by itself."""
    trials = frames.trials
    targets = analysis.targets_of(trials)
    conditions = analysis.splitting(trials, _NAMED, SPEED)
    places = list(trials.groupby(conditions, dropna=False, observed=True, sort=True).indices.items())
    machines = [(values, _only(frames, own)) for values, own in places]
    timed = [(values, own) for values, own in machines if analysis.budget_of(own, "seconds") > 0]
    every = [_clock(frames, targets, labels, unit="steps", label="steps")]
    for values, own in timed:
        where = _where(dict(zip(conditions, _parts(values), strict=True)))
        label = "training seconds" if len(timed) == 1 else f"training seconds, {where}"
        every.append(_clock(own, targets, labels, unit="seconds", label=label, where=where))
    return every


def _clock(
    frames: Frames, targets: Sequence[float], labels: ArmLabels, *, unit: TimeUnit, label: str, where: str = ""
) -> Clock:
    timed = analysis.timed_arms_of_targets(frames, targets, unit=unit, by=labels)
    return Clock(label, unit, where, frames, timed, [analysis.rank(arms) for arms in timed])


def _only(frames: Frames, places: Any) -> Frames:  # noqa: ANN401 - pandas says array or list
    """The trials at these places, with their curves; no layers."""
    if len(places) == len(frames.trials):
        return frames
    trials = frames.trials.iloc[places]
    curves = frames.curves[frames.curves["trial_id"].isin(trials["trial_id"])]
    return Frames(trials, curves, frames.layers.iloc[:0])


def _parts(key: Any) -> list[Any]:  # noqa: ANN401 - a group's key has the columns' types
    return list(key)


def _where(values: Mapping[str, Any]) -> str:
    """Machine and kernel, and the other conditions by their names."""
    texts = {name: text_of(value) for name, value in values.items()}
    machine = texts["device"] if texts["device_model"] == MISSING else texts["device_model"]
    others = [condition(name, value) for name, value in values.items() if name not in _NAMED]
    return ", ".join([machine, f"kernel {texts['kernel']}", *others])


def chosen(rankings: Sequence[Ranking]) -> int:
    """The target shown at first: the highest that the best arm reaches in more than half of its runs, or the lowest."""
    reached = [index for index, entry in enumerate(rankings) if (entry.table["success_share"] > 0.5).any()]
    return max(reached, default=0)


def finished(ranking: Ranking) -> list[str]:
    """The labels of the arms with finished runs, the best first."""
    return [str(label) for label in ranking.table.loc[ranking.table["n"] > 0, "arm"]]


def entries(clock: Clock, arms: Arms, views: Sequence[ArmView]) -> list[RankingView]:
    """What the page needs of each target: label, caption, conclusion and rows."""
    trials = clock.frames.trials
    caution = speed_note(trials, arms.labels.of_trials.loc[trials.index]) if clock.where else ""
    return [
        RankingView(
            value=entry.target,
            label=f"test accuracy {entry.target:g}",
            caption=caption(entry, clock.where),
            notes=[*entry.notes, *filter(None, [caution])],
            conclusion=" ".join(filter(None, [conclusion(entry, clock.rankings, clock.where), caution])),
            budget=one(entry.budget),
            unit=entry.unit,
            reference=entry.reference,
            rows=_rows(entry, _against(entry, timed), arms, views),
        )
        for entry, timed in zip(clock.rankings, clock.timed, strict=True)
    ]


def _rows(entry: Ranking, against: Mapping[str, "_Against"], arms: Arms, views: Sequence[ArmView]) -> list[RankingRow]:
    times = entry.table["rmst"].to_numpy(float)
    rows = []
    for place, row in enumerate(entry.table.to_dict("records")):
        # arms with the same time share a place
        rank = None if np.isnan(row["rmst"]) else 1 + int((times[:place] < row["rmst"]).sum())
        view = views[arms.numbers[row["arm"]]]
        rows.append(_row(row, rank, view, _verdict(row, entry), against.get(row["arm"], _NOT_COMPARED)))
    return rows


def _row(row: Mapping[Any, Any], rank: int | None, view: ArmView, verdict: str, against: "_Against") -> RankingRow:
    finished = rank is not None
    return RankingRow(
        arm=view.id,
        verdict=verdict,
        kind=VERDICTS[row["verdict"]].tone,
        reached=int(row["successes"]),
        n=int(row["n"]),
        n_effective=int(row["n_effective"]),
        rank=rank,
        share_low=one(row["success_low"]) if finished else None,
        share_high=one(row["success_high"]) if finished else None,
        time=_estimate(row["rmst"], row["rmst_low"], row["rmst_high"]) if finished else None,
        median=one(row["median"]),
        better=one(row["improvement"]),
        p=one(row["p_holm"]),
        difference=against.difference,
        p_logrank=against.p_logrank,
        few=against.few,
        why=_why(row, view),
    )


def _estimate(value: float, low: float | None, high: float | None) -> Estimate:
    return Estimate(one(value), one(low), one(high))


@dataclass(frozen=True)
class _Against:
    """How an arm differs from the reference.

    Attributes:
        difference: how much later it gets there.
        p_logrank: of the log-rank test, adjusted by Holm's steps in a family of all pairs of arms; None where the
            runs are too few.
        few: whether no outcome of so few runs could show anything.
    """

    difference: Estimate | None
    p_logrank: Number
    few: bool


_NOT_COMPARED = _Against(None, None, few=False)


def _against(entry: Ranking, timed: TimedArms) -> dict[str, _Against]:
    """Arm -> how it differs from the reference."""
    finished = {arm.label: arm for arm in timed.arms if arm.n_effective}
    if entry.reference not in finished:
        return {}
    base, pairs = finished[entry.reference].times_effective, comb(len(finished), 2)
    labels = [label for label in entry.table["arm"] if label in finished]
    labels = [labels[place] for place in kept_places(len(labels)) if labels[place] != entry.reference]
    times = [finished[label].times_effective for label in labels]
    few = [not analysis.can_be_significant(len(own), len(base), _LEVEL, pairs) for own in times]
    # the test's normal approximation may say less than so few runs can show; an exact one would not
    tests = [
        max(analysis.logrank(own, base, entry.budget), analysis.smallest_p(len(own), len(base)))
        if np.isfinite([*own, *base]).any()
        else np.nan
        for own in times
    ]
    adjusted = analysis.holm(tests, family=pairs)
    return {
        label: _Against(_difference(own, base, entry.budget), None if too_few else one(p), too_few)
        for label, own, p, too_few in zip(labels, times, adjusted, few, strict=True)
    }


def _difference(times: Any, base: Any, budget: float) -> Estimate:  # noqa: ANN401 - arrays
    value = analysis.rmst_difference(times, base, budget)
    ends = (value.interval.low, value.interval.high) if value.interval else (None, None)
    return _estimate(value.value, *ends)


def _verdict(row: Mapping[Any, Any], entry: Ranking) -> str:
    """The verdict in words; that of the best says from how many others it is separated."""
    budget = within(entry.budget, entry.unit)
    if row["arm"] != entry.reference:
        return said(row, budget)
    rivals = entry.table[(entry.table["arm"] != entry.reference) & (entry.table["n"] > 0)]
    separated = int((rivals["p_holm"] <= 1 - _LEVEL + 1e-12).sum())
    if 0 < separated < len(rivals):
        return f"first; separated from {separated} of {len(rivals)}"
    return said(row, budget, first=True)


def _why(row: Mapping[Any, Any], view: ArmView) -> str:
    """The diagnosis, and how runs ended that did not end well."""
    bad = [f"{count} {status}" for status, count in view.statuses.items() if status != "ok"]
    one_run = ["every seed gives the same run"] if row["n_effective"] == 1 < row["n"] else []
    return "; ".join([*filter(None, [view.diagnosis]), *bad, *one_run])
