"""Everything that a report says, from the frames of a results folder."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

import harness
from harness import analysis, results
from harness.analysis import Frames
from harness.errors import UsageError
from harness.report import axes_view, machine, ranking_view, series, words
from harness.report.arms import Arms, constants, described, failures, filters, number
from harness.report.model import (
    ArmView,
    ClockView,
    CompletenessView,
    CurveView,
    FailureRow,
    Heading,
    Methods,
    Pictures,
    Report,
    SweepRow,
)
from harness.report.selection import narrowed
from harness.results import STATUSES, Place
from harness.wording import counted

SHOWN_ARMS = 12
"""How many arms the figures draw at first."""


def content(frames: Frames, folder: Place, problems: Sequence[str], where: Sequence[str] = ()) -> Report:
    """Build the whole report.

    Args:
        frames: trials (all but config), curves and layers.
        folder: where they are from; its name is the title.
        problems: files left out and other lines on reading.
        where: ``COLUMN=VALUE,VALUE``, to which the trials are narrowed.

    Raises:
        UsageError: no trial has a target, or there is no such column or value.
    """
    whole, frames = frames, narrowed(frames, where)
    labels = analysis.label_arms(frames.trials)
    clocks = ranking_view.clocks(frames, labels)
    in_steps = clocks[0].rankings
    if not in_steps:
        raise UsageError(f"{folder}: no trial has a target to rank by; run with train.targets=[0.5,0.9], say")
    default = ranking_view.chosen(in_steps)
    arms = number(frames.trials, labels, ranking_view.finished(in_steps[default]))
    views, pictures, environments = described(arms), _pictures(frames, arms), machine.environments(arms)
    return Report(
        heading=_heading(folder, words.facts(frames.trials, len(arms.names), arms.by), where),
        by=arms.by,
        arms=views,
        filters=filters(arms, views),
        statuses=list(STATUSES),
        default_target=default,
        top=SHOWN_ARMS,
        clocks=[_clock(clock, arms, views, pictures.curves) for clock in clocks],
        methods=Methods(words.METHOD, words.METHOD_LOGRANK, words.METHOD_PROFILE),
        left_out=words.left_out(arms, in_steps[default].target),
        pictures=pictures,
        axes=axes_view.view(frames, folder, labels, in_steps[default].target),
        throughput=machine.throughput(arms),
        completeness=_completeness(folder, frames, whole, problems, failures(arms)),
        environments=environments,
        environment_note=machine.environment_note(environments),
        packages=machine.packages(arms),
        constants=constants(arms),
    )


def _heading(folder: Place, facts: str, where: Sequence[str]) -> Heading:
    return Heading(
        version=harness.__version__,
        made_at=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        title=(folder.resolve().name if isinstance(folder, Path) else folder.name) or str(folder),
        facts="; ".join([facts, *(f"only {part}" for part in where)]),
    )


def _pictures(frames: Frames, arms: Arms) -> Pictures:
    heat, heat_range = series.heat(frames, arms)
    return Pictures(
        metrics=series.METRICS,
        curves=series.curves(frames, arms),
        thinned="Evaluated steps are thinned for this page." if series.is_thinned(frames, arms) else "",
        heat=heat,
        heat_range=heat_range,
        signals=series.signals(frames, arms),
    )


def _clock(clock: ranking_view.Clock, arms: Arms, views: Sequence[ArmView], curves: dict[int, CurveView]) -> ClockView:
    """Ranking, survival curves and profiles by one measure of time."""
    return ClockView(
        label=clock.label,
        unit=clock.unit,
        where=clock.where,
        ranking=ranking_view.entries(clock, arms, views),
        survival=[series.survival(timed, arms) for timed in clock.timed],
        profile=series.profile(clock.timed, arms),
        seconds=series.seconds(clock.frames, arms, curves) if clock.unit == "seconds" else {},
    )


def _completeness(
    folder: Place, frames: Frames, whole: Frames, problems: Sequence[str], bad: list[FailureRow]
) -> CompletenessView:
    stored = results.progress(folder)
    done_before = {plan.sweep_id: len(plan.done_by) - plan.done_by.count(None) for plan in results.plans(folder).plans}
    planned = analysis.completeness(whole.trials, done_before)
    failed = sum(row.n for row in bad)
    return CompletenessView(
        notes=[*words.planned(planned, whole=frames is whole), *filter(None, map(results.named, stored.plans))],
        statuses=analysis.completeness(frames.trials).statuses,
        sweeps=_sweeps(planned.sweeps),
        problems=[*problems, *stored.problems],
        failures=bad,
        failures_caption=f"{counted(failed, 'trial')} did not end ok: which, and why.",
    )


def _sweeps(sweeps: pd.DataFrame) -> list[SweepRow]:
    return [
        SweepRow(
            sweep_id=row["sweep_id"] if isinstance(row["sweep_id"], str) else None,
            **{name: int(row[name]) for name in ("planned", "recorded", "ok", "failed", "missing")},
        )
        for row in sweeps.astype(object).to_dict("records")
    ]
