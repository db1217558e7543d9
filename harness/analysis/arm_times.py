"""The times of each arm's runs to a target: one per seed, and one in all where seeds change nothing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from harness.analysis.grouping import (
    ArmLabels,
    By,
    TimeUnit,
    budget_of,
    first_times,
    floats,
    label_arms,
    planned_steps,
    trial_rows,
)
from harness.analysis.intervals import Array
from harness.errors import UsageError
from harness.results import COUNTED, SPEED, Frames

Rows = np.ndarray[Any, np.dtype[np.intp]]


@dataclass(frozen=True)
class Arm:
    """One arm's runs.

    Attributes:
        label: its name.
        choices: column -> value of what tells it from the others.
        seeds: (n,) rising.
        times: (n,) of each seed; inf: not within the budget.
        times_effective: (n_effective,): seeds that start from the same weights and get the same batches, or end with
            the same weights, are one run.
        unfinished: trials with a status that is not counted, and whose seed has no other.
        shorter: trials planned for fewer steps than are compared.
        lost: trials that were given their chance and whose curve is not there, so that nothing is known of their times.
        repeated: trials of a seed that has a later one.
        mixed: whether some seed has trials of different configs, which only an unlisted choice can make.
    """

    label: str
    choices: dict[str, Any]
    seeds: "np.ndarray[Any, np.dtype[np.int64]]"
    times: Array
    times_effective: Array
    unfinished: int
    shorter: int
    lost: int
    repeated: int
    mixed: bool

    @property
    def n_effective(self) -> int:
        """Number of runs that differ."""
        return len(self.times_effective)


@dataclass(frozen=True)
class TimedArms:
    """All arms with their times to one target: what rankings, survival curves and profiles are made of.

    Attributes:
        target: test accuracy to reach.
        unit: of the times.
        budget: how long every run is followed, in that unit; see :func:`harness.analysis.budget_of`.
        columns: what tells the arms apart.
        arms: in the order of their labels.
        planned: the number of steps that the runs compared were planned for, or followed up to.
        fewer: counted trials planned for fewer steps, which are left out.
        more: counted trials planned for more.
    """

    target: float
    unit: TimeUnit
    budget: float
    columns: list[str]
    arms: list[Arm]
    planned: float
    fewer: int
    more: int


def timed_arms(frames: Frames, *, target: float, unit: TimeUnit = "steps", by: By = None) -> TimedArms:
    """Time every arm to one target; see :func:`timed_arms_of_targets`."""
    (timed,) = timed_arms_of_targets(frames, [target], unit=unit, by=by)
    return timed


def timed_arms_of_targets(
    frames: Frames, targets: Sequence[float], *, unit: TimeUnit = "steps", by: By = None
) -> list[TimedArms]:
    """Time every arm to each target.

    All runs are followed for :func:`harness.analysis.budget_of`. Of several trials of one seed the last measured
    counts. Runs that diverged count; those that an error, a limit or a signal ended say nothing about their arm and
    are ``unfinished``.

    Args:
        frames: results.
        targets: test accuracies.
        unit: steps, or seconds of training.
        by: what tells arms apart; None: what varies.

    Returns:
        one for each target, in their order.

    Raises:
        UsageError: an unknown column or unit, or seconds that were measured under different conditions of speed.
    """
    if unit not in ("steps", "seconds"):
        raise UsageError(f"unit={unit}; choose steps or seconds")
    if unit == "seconds":
        _require_one_clock(frames.trials)
    labels, rows = label_arms(frames.trials, by), trial_rows(frames)
    untimed = list(_untimed(_runs(frames, rows, labels), labels.columns))
    budget, planned = budget_of(frames, unit), planned_steps(frames.trials)
    steps = frames.trials.loc[frames.trials["status"].isin(COUNTED), "steps"]
    fewer, more = int((steps < planned).sum()), int((steps > planned).sum())
    return [
        TimedArms(target, unit, budget, labels.columns, _timed(untimed, times, budget), planned, fewer, more)
        for target, times in ((target, first_times(frames, rows, target)[unit]) for target in targets)
    ]


def _require_one_clock(trials: pd.DataFrame) -> None:
    """Seconds of two machines, or of one thread and of two, say nothing of the arms."""
    counted = trials[trials["status"].isin(COUNTED)]
    differ = [name for name in SPEED if name in counted and len(counted[name].unique()) > 1]
    if differ:
        raise UsageError(
            f"unit=seconds: the trials were measured under different conditions ({', '.join(differ)}); give those of "
            "one condition, or unit=steps"
        )


@dataclass(frozen=True)
class _Untimed:
    """An arm without its times, and the rows of the trials that they are of."""

    arm: Arm
    rows: Rows
    rows_effective: Rows


def _timed(untimed: Sequence[_Untimed], times: Array, budget: float) -> list[Arm]:
    followed = np.where(times <= budget, times, np.inf)
    return [replace(one.arm, times=followed[one.rows], times_effective=followed[one.rows_effective]) for one in untimed]


def _runs(frames: Frames, rows: Rows, labels: ArmLabels) -> pd.DataFrame:
    """The trials in order of arm and seed, and what each counts as: the same for every target and unit."""
    trials = frames.trials
    # without its curve, which begins at step 0, a run that arrived looks like one that never did
    evaluated = np.zeros(len(trials), dtype=bool)
    evaluated[rows[rows >= 0]] = True
    ended = trials["status"].isin(COUNTED).to_numpy(dtype=bool)
    shorter = ended & (floats(trials["steps"]) < planned_steps(trials))
    keep = ["seed", "trial_key", "measured_at", "trial_id"]
    runs = trials[[*dict.fromkeys([*labels.columns, *keep])]].assign(
        arm=labels.of_trials.to_numpy(),
        row=np.arange(len(trials), dtype=np.intp),
        scored=ended & evaluated & ~shorter,
        ended=ended,
        shorter=shorter,
        run=run_ids(trials),
    )
    # unfinished ones first, so that the last of a seed is a scored one if there is any
    runs = runs.sort_values(["arm", "seed", "scored", "measured_at", "trial_id"], kind="stable", ignore_index=True)
    last = ~runs.duplicated(["arm", "seed"], keep="last")
    keys = runs.groupby(["arm", "seed"], observed=True, sort=False)["trial_key"].transform("nunique")
    return runs.assign(
        counted=last & runs["scored"],
        unfinished=last & ~runs["ended"],
        lost=last & runs["ended"] & ~runs["shorter"] & ~runs["scored"],
        repeated=~last & runs["scored"],
        mixed=keys > 1,
        seed=runs["seed"].to_numpy(dtype=np.int64),
    )


def run_ids(trials: pd.DataFrame) -> "np.ndarray[Any, np.dtype[np.object_]]":
    """Return ids (trials,) that are equal for trials that are one run in effect.

    Those are runs from the same initial weights on a fixed batch, and runs with the same weights at both ends.
    """
    start = trials["initial_weights_sha256"].astype(object)
    end = trials["final_weights_sha256"].astype(object)
    # rounding on a GPU may tell the ends of such runs apart, but no random draw does
    end = end.where((trials["batches"] != "fixed").to_numpy(), "fixed")
    unknown = (start.isna() | end.isna()).to_numpy()
    ids = start.fillna("") + ":" + end.fillna("")
    return ids.where(~unknown, trials["trial_id"].astype(object)).to_numpy()


_OF_RUNS = ("arm", "seed", "row", "run", "counted", "unfinished", "shorter", "lost", "repeated", "mixed")


def _untimed(runs: pd.DataFrame, names: Sequence[str]) -> Iterator[_Untimed]:
    """Each arm of the trials that :func:`_runs` has put in order."""
    starts = np.flatnonzero(~runs["arm"].duplicated().to_numpy())
    ends = np.append(starts, len(runs))[1:]
    # one array a column, sliced by arm: a frame for each of many arms would take most of the time
    columns = {name: runs[name].to_numpy() for name in _OF_RUNS}
    first = runs.iloc[starts]
    choices = [first[name].astype(object).tolist() for name in names]
    for start, end, *values in zip(starts, ends, *choices, strict=True):
        own = {name: column[start:end] for name, column in columns.items()}
        yield _untimed_arm(own, dict(zip(names, values, strict=True)))


def _untimed_arm(runs: dict[str, Any], choices: dict[str, Any]) -> _Untimed:
    """From the columns of one arm's trials."""
    counted = runs["counted"]
    rows, none = runs["row"][counted], np.empty(0)
    _, distinct = np.unique(runs["run"][counted].astype(str), return_index=True)
    arm = Arm(
        label=str(runs["arm"][0]),
        choices=choices,
        seeds=runs["seed"][counted],
        times=none,
        times_effective=none,
        unfinished=int(runs["unfinished"].sum()),
        shorter=int(runs["shorter"].sum()),
        lost=int(runs["lost"].sum()),
        repeated=int(runs["repeated"].sum()),
        mixed=bool(runs["mixed"].any()),
    )
    return _Untimed(arm, rows, rows[np.sort(distinct)])
