"""The ranking of every target as the page shows it, in steps and in seconds: rows of numbers, a verdict, its reason."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np

from harness import analysis
from harness.analysis import Frames, Ranking
from harness.analysis.grouping import Unit
from harness.report.arms import Arms, kept_places
from harness.report.numbers import one
from harness.report.words import caption, conclusion, speed_note
from harness.results import MISSING, SPEED, text_of

_KINDS = {"better": "best", "worse": "worse", "no finished run": "bad", "planned for fewer steps": "bad"}
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
        rankings: one for each pre-set target, rising.
    """

    label: str
    unit: Unit
    where: str
    frames: Frames
    rankings: list[Ranking]


def clocks(frames: Frames, by: Sequence[str]) -> list[Clock]:
    """Steps, over all trials; then training seconds, for each set of conditions of speed by itself."""
    targets = analysis.targets_of(frames.trials)
    found = [Clock("steps", "steps", "", frames, _rankings(frames, targets, by, "steps"))]
    trials = frames.trials
    conditions = analysis.splitting(trials, _NAMED, SPEED)
    places = list(trials.groupby(conditions, dropna=False, observed=True, sort=True).indices.items())
    machines = [(values, _only(frames, own)) for values, own in places]
    timed = [(values, own) for values, own in machines if analysis.budget_of(own, "seconds") > 0]
    for values, own in timed:
        where = _where(dict(zip(conditions, _parts(values), strict=True)))
        label = "training seconds" if len(timed) == 1 else f"training seconds, {where}"
        found.append(Clock(label, "seconds", where, own, _rankings(own, targets, by, "seconds")))
    return found


def _rankings(frames: Frames, targets: Sequence[float], by: Sequence[str], unit: Unit) -> list[Ranking]:
    return [analysis.ranking(frames, target=target, unit=unit, by=by) for target in targets]


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
    others = [f"{name} {text}" for name, text in texts.items() if name not in _NAMED]
    return ", ".join([machine, f"kernel {texts['kernel']}", *others])


def chosen(found: Sequence[Ranking]) -> int:
    """The target shown at first: the highest that the best arm reaches in more than half of its runs, or the lowest."""
    reached = [index for index, entry in enumerate(found) if (entry.table["success_share"] > 0.5).any()]
    return max(reached, default=0)


def entries(clock: Clock, arms: Arms, described: Sequence[dict[str, Any]]) -> list[Any]:
    """What the page needs of each target: label, caption, conclusion and rows."""
    trials = clock.frames.trials
    caution = speed_note(trials, analysis.arm_labels(trials, arms.by)) if clock.where else ""
    return [
        {
            "value": entry.target,
            "label": f"test accuracy {entry.target:g}",
            "caption": caption(entry, clock.where),
            "notes": [*entry.notes, *filter(None, [caution])],
            "conclusion": " ".join(filter(None, [conclusion(entry, clock.rankings, clock.where), caution])),
            "budget": one(entry.budget),
            "unit": entry.unit,
            "reference": entry.reference,
            "rows": _rows(clock, entry, arms, described),
        }
        for entry in clock.rankings
    ]


def _rows(clock: Clock, entry: Ranking, arms: Arms, described: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    against = _against(clock, entry, arms.by)
    times = entry.table["rmst"].to_numpy(float)
    rows = []
    for place, row in enumerate(entry.table.to_dict("records")):
        own = described[arms.numbers[row["arm"]]]
        finished = not np.isnan(row["rmst"])
        rows.append(
            {
                "arm": own["id"],
                # arms with the same time share a place
                "rank": 1 + int((times[:place] < row["rmst"]).sum()) if finished else None,
                "verdict": _verdict(row, entry),
                "kind": _kind(row["verdict"]),
                "reached": int(row["successes"]),
                "n": int(row["n"]),
                "n_effective": int(row["n_effective"]),
                "share_low": one(row["success_low"]) if finished else None,
                "share_high": one(row["success_high"]) if finished else None,
                "time": _estimate(row["rmst"], row["rmst_low"], row["rmst_high"]) if finished else None,
                "median": one(row["median"]),
                "better": one(row["improvement"]),
                "p": one(row["p_holm"]),
                **against.get(row["arm"], _NOT_COMPARED),
                "why": _why(row, own),
            }
        )
    return rows


def _estimate(value: float, low: float | None, high: float | None) -> dict[str, Any]:
    return {"estimate": one(value), "low": one(low), "high": one(high)}


_NOT_COMPARED: dict[str, Any] = {"difference": None, "p_logrank": None, "few": False}


def _against(clock: Clock, entry: Ranking, by: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Arm -> how it differs from the reference.

    Returns:
        ``difference``: how much later it gets there, with its interval; ``p_logrank``: of the log-rank test, adjusted
        by Holm's steps in a family of all pairs of arms; None where the runs are too ``few`` to show anything.
    """
    found = {
        arm.label: arm
        for arm in analysis.arms(clock.frames, target=entry.target, unit=clock.unit, by=by)
        if arm.n_effective
    }
    if entry.reference not in found:
        return {}
    base, pairs = found[entry.reference].times_effective, comb(len(found), 2)
    labels = [label for label in entry.table["arm"] if label in found]
    labels = [labels[place] for place in kept_places(len(labels)) if labels[place] != entry.reference]
    times = [found[label].times_effective for label in labels]
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
        label: {
            "difference": _difference(own, base, entry.budget),
            "p_logrank": None if too_few else one(p),
            "few": too_few,
        }
        for label, own, p, too_few in zip(labels, times, adjusted, few, strict=True)
    }


def _difference(times: Any, base: Any, budget: float) -> dict[str, Any]:  # noqa: ANN401 - arrays
    value = analysis.rmst_difference(times, base, budget)
    ends = (value.interval.low, value.interval.high) if value.interval else (None, None)
    return _estimate(value.value, *ends)


def _verdict(row: Mapping[Any, Any], entry: Ranking) -> str:
    """The analysis' verdict; that of the best says from how many others it is separated."""
    verdict = str(row["verdict"])
    if row["arm"] != entry.reference or verdict in ("only arm", "reference") or not row["successes"]:
        return verdict
    if verdict == "better":
        return "better than every other"
    rivals = entry.table[(entry.table["arm"] != entry.reference) & (entry.table["n"] > 0)]
    separated = int((rivals["p_holm"] <= 1 - _LEVEL + 1e-12).sum())
    return f"first; separated from {separated} of {len(rivals)}" if separated else f"first; {verdict}"


def _kind(verdict: str) -> str:
    return "never" if verdict.startswith("never") else _KINDS.get(verdict, "unclear")


def _why(row: Mapping[Any, Any], own: dict[str, Any]) -> str:
    """The diagnosis, and how runs ended that did not end well."""
    bad = [f"{count} {status}" for status, count in own["statuses"].items() if status != "ok"]
    one_run = ["every seed gives the same run"] if row["n_effective"] == 1 < row["n"] else []
    return "; ".join([*filter(None, [own["diagnosis"]]), *bad, *one_run])
