"""The ranking of every target as the page shows it: rows of numbers, a verdict and its reason."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harness import analysis
from harness.analysis import Frames, Ranking
from harness.report.arms import Arms
from harness.report.numbers import one
from harness.report.words import caption, conclusion

_KINDS = {"better": "best", "worse": "worse", "no finished run": "bad"}
COMPARED_ARMS = 1000
"""Arms beyond so many, in the order of the ranking, get no interval of their distance from the best."""


def rankings(frames: Frames, by: Sequence[str]) -> list[Ranking]:
    """One for each pre-set target, rising."""
    return [analysis.ranking(frames, target=target, by=by) for target in analysis.targets_of(frames.trials)]


def chosen(found: Sequence[Ranking]) -> int:
    """The target shown at first: the highest that the best arm reaches in more than half of its runs, or the lowest."""
    reached = [index for index, entry in enumerate(found) if (entry.table["success_share"] > 0.5).any()]
    return max(reached, default=0)


def entries(frames: Frames, found: Sequence[Ranking], arms: Arms, described: Sequence[dict[str, Any]]) -> list[Any]:
    """What the page needs of each target: label, caption, conclusion and rows."""
    return [
        {
            "value": entry.target,
            "label": f"test accuracy {entry.target:g}",
            "caption": caption(entry),
            "notes": entry.notes,
            "conclusion": conclusion(entry, found),
            "budget": one(entry.budget),
            "rows": _rows(frames, entry, arms, described),
        }
        for entry in found
    ]


def _rows(frames: Frames, entry: Ranking, arms: Arms, described: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    differences = _differences(frames, entry, arms.by)
    times = entry.table["rmst"].to_numpy(float)
    rows = []
    for place, row in enumerate(entry.table.to_dict("records")):
        own = described[arms.numbers[row["arm"]]]
        finished = not np.isnan(row["rmst"])
        verdict = _verdict(row, entry)
        rows.append(
            {
                "arm": own["id"],
                # arms with the same time share a place
                "rank": 1 + int((times[:place] < row["rmst"]).sum()) if finished else None,
                "verdict": verdict,
                "kind": _kind(row["verdict"]),
                "reached": int(row["successes"]),
                "n": int(row["n"]),
                "n_effective": int(row["n_effective"]),
                "share_low": one(row["success_low"]) if finished else None,
                "share_high": one(row["success_high"]) if finished else None,
                "time": _estimate(row["rmst"], row["rmst_low"], row["rmst_high"]) if finished else None,
                "median": one(row["median"]),
                "difference": differences.get(row["arm"]),
                "better": one(row["improvement"]),
                "p": one(row["p_holm"]),
                "why": _why(row, own),
            }
        )
    return rows


def _estimate(value: float, low: float | None, high: float | None) -> dict[str, Any]:
    return {"estimate": one(value), "low": one(low), "high": one(high)}


def _differences(frames: Frames, entry: Ranking, by: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Arm -> how much later than the reference it gets there, with its interval."""
    found = {arm.label: arm for arm in analysis.arms(frames, target=entry.target, by=by) if arm.n_effective}
    if entry.reference not in found:
        return {}
    base = found[entry.reference].times_effective
    differences = {}
    for label in entry.table["arm"].iloc[:COMPARED_ARMS]:
        if label in found and label != entry.reference:
            value = analysis.rmst_difference(found[label].times_effective, base, entry.budget)
            ends = (value.interval.low, value.interval.high) if value.interval else (None, None)
            differences[label] = _estimate(value.value, *ends)
    return differences


def _verdict(row: Mapping[Any, Any], entry: Ranking) -> str:
    """The analysis' verdict; that of the best says that it is the best."""
    verdict = str(row["verdict"])
    if row["arm"] != entry.reference or verdict in ("only arm", "reference") or not row["successes"]:
        return verdict
    return "better than every other" if verdict == "better" else f"first; {verdict}"


def _kind(verdict: str) -> str:
    return "never" if verdict.startswith("never") else _KINDS.get(verdict, "unclear")


def _why(row: Mapping[Any, Any], own: dict[str, Any]) -> str:
    """The diagnosis, and how runs ended that did not end well."""
    bad = [f"{count} {status}" for status, count in own["statuses"].items() if status != "ok"]
    one_run = ["every seed gives the same run"] if row["n_effective"] == 1 < row["n"] else []
    return "; ".join([*filter(None, [own["diagnosis"]]), *bad, *one_run])
