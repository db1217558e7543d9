"""Everything a report says, as plain dicts and lists: the page, Markdown and JSON are three views of it."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import harness
from harness import analysis
from harness.analysis import Frames
from harness.errors import UsageError
from harness.report import machine, series, standing, words
from harness.report.arms import Arms, constants, described, failures, filters, number
from harness.report.folder import narrowed
from harness.results import STATUSES
from harness.wording import counted

SHOWN_ARMS = 12
"""How many arms the figures draw at first."""


def content(frames: Frames, folder: Path, problems: Sequence[str], where: Sequence[str] = ()) -> dict[str, Any]:
    """The whole report.

    Args:
        frames: trials (all but config), curves and layers.
        folder: where they are from; its name is the title.
        problems: files left out and other lines on reading.
        where: ``COLUMN=VALUE,VALUE``, to which the trials are narrowed.

    Raises:
        UsageError: no trial has a target, or there is no such column or value.
    """
    whole, frames = frames, narrowed(frames, where)
    by = analysis.arm_columns(frames.trials)
    clocks = standing.clocks(frames, by)
    found = clocks[0].rankings
    if not found:
        raise UsageError(f"{folder}: no trial has a target to rank by; run with train.targets=[0.5,0.9], say")
    default = standing.chosen(found)
    best = found[default].table
    arms = number(frames.trials, by, best.loc[best["n"] > 0, "arm"].tolist())
    rows = described(arms)
    curves = series.curves(frames, arms)
    shown_clocks = [_clock(clock, arms, rows, curves) for clock in clocks]
    heat, heat_range = series.heat(frames, arms)
    environments = machine.environments(arms)
    return {
        "version": harness.__version__,
        "made_at": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "title": folder.resolve().name or str(folder),
        "facts": "; ".join([words.facts(frames.trials, len(arms.names), by), *(f"only {part}" for part in where)]),
        "by": list(by),
        "arms": rows,
        "filters": filters(arms, rows),
        "statuses": list(STATUSES),
        "default_target": default,
        "top": SHOWN_ARMS,
        "ranking": shown_clocks[0]["ranking"],
        "clocks": shown_clocks,
        "method": words.METHOD,
        "method_logrank": words.METHOD_LOGRANK,
        "method_profile": words.METHOD_PROFILE,
        "left_out": words.left_out(arms, found[default].target),
        "curves": curves,
        "thinned": "Evaluated steps are thinned for this page." if series.is_thinned(frames, arms) else "",
        "heat": heat,
        "heat_range": list(heat_range),
        "signals": series.signals(frames, arms),
        "throughput": machine.throughput(arms),
        "completeness": _completeness(frames, whole, problems, failures(arms)),
        "environments": environments,
        "environment_note": machine.environment_note(environments),
        "packages": machine.packages(arms),
        "constants": constants(arms),
    }


def _clock(
    clock: standing.Clock, arms: Arms, described_arms: Sequence[dict[str, Any]], curves: dict[int, dict[str, Any]]
) -> dict[str, Any]:
    """Ranking, survival curves and profiles by one measure of time."""
    return {
        "label": clock.label,
        "unit": clock.unit,
        "where": clock.where,
        "ranking": standing.entries(clock, arms, described_arms),
        "survival": [series.survival(clock.frames, arms, entry.target, clock.unit) for entry in clock.rankings],
        "profile": series.profile(clock.frames, arms, clock.unit),
        "seconds": series.seconds(clock.frames, arms, curves) if clock.unit == "seconds" else {},
    }


def _completeness(frames: Frames, whole: Frames, problems: Sequence[str], bad: list[dict[str, Any]]) -> dict[str, Any]:
    found, planned = analysis.completeness(frames.trials), analysis.completeness(whole.trials)
    failed = sum(row["n"] for row in bad)
    return {
        "notes": words.planned(planned, whole=frames is whole),
        "statuses": found.statuses,
        "sweeps": [
            {
                name: (None if name == "sweep_id" and not isinstance(value, str) else value)
                for name, value in row.items()
            }
            for row in planned.sweeps.astype(object).to_dict("records")
        ],
        "problems": list(problems),
        "failures": bad,
        "failures_caption": f"{counted(failed, 'trial')} did not end ok: which, and why.",
    }
