"""Everything a report says, as plain dicts and lists: the page, Markdown and JSON are three views of it."""

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harness import analysis
from harness.analysis import Frames
from harness.errors import UsageError
from harness.report import machine, series, standing, words
from harness.report.arms import constants, described, failures, filters, number
from harness.report.numbers import counted
from harness.schema import STATUSES

SHOWN_ARMS = 8
"""How many arms the figures draw at first."""


def content(frames: Frames, folder: Path, problems: Sequence[str]) -> dict[str, Any]:
    """The whole report.

    Args:
        frames: trials (all but config), curves and layers.
        folder: where they are from; its name is the title.
        problems: files left out and other lines on reading.

    Raises:
        UsageError: no trial has a target.
    """
    by = analysis.swept(frames.trials) or ["init"]
    found = standing.rankings(frames, by)
    if not found:
        raise UsageError(f"{folder}: no trial has a target to rank by; run with train.targets=[0.5,0.9], say")
    default = standing.chosen(found)
    arms = number(frames.trials, by, found[default].table["arm"].tolist())
    rows = described(arms)
    heat, heat_range = series.heat(frames, arms)
    environments = machine.environments(arms)
    return {
        "version": version("initbench"),
        "made_at": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "title": folder.resolve().name or str(folder),
        "facts": words.facts(frames.trials, len(arms.names), by),
        "by": list(by),
        "arms": rows,
        "filters": filters(arms, rows),
        "statuses": list(STATUSES),
        "default_target": default,
        "top": SHOWN_ARMS,
        "ranking": standing.entries(frames, found, arms, rows),
        "method": words.METHOD,
        "curves": series.curves(frames, arms),
        "thinned": "Evaluated steps are thinned for this page." if series.is_thinned(frames, arms) else "",
        "survival": [series.survival(frames, arms, entry.target) for entry in found],
        "heat": heat,
        "heat_range": list(heat_range),
        "signals": series.signals(frames, arms),
        "throughput": machine.throughput(arms),
        "completeness": _completeness(frames, problems, failures(arms)),
        "environments": environments,
        "environment_note": machine.environment_note(environments),
        "packages": machine.packages(arms),
        "constants": constants(arms),
    }


def _completeness(frames: Frames, problems: Sequence[str], bad: list[dict[str, Any]]) -> dict[str, Any]:
    found = analysis.completeness(frames.trials)
    failed = sum(row["n"] for row in bad)
    return {
        "notes": words.planned(found),
        "statuses": found.statuses,
        "sweeps": [
            {
                name: (None if name == "sweep_id" and not isinstance(value, str) else value)
                for name, value in row.items()
            }
            for row in found.sweeps.astype(object).to_dict("records")
        ],
        "problems": list(problems),
        "failures": bad,
        "failures_caption": f"{counted(failed, 'trial')} did not end ok: which, and why.",
    }
