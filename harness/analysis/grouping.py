"""Which trials make one arm, when each trial first reached a target, and how long runs are followed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from harness.analysis.intervals import Array
from harness.errors import UsageError
from harness.results import BULK, CHOICES, COLUMNS, COUNTED, MISSING, Frames, arm_names, label_of, load, text_of
from harness.results import arm_columns as arm_columns_of

TimeUnit = Literal["steps", "seconds"]
"""What a time to a target is measured in: updates, or seconds of training."""

_NAMES = [column.name for column in COLUMNS["trials"]]
_LEFT_OUT = (*BULK, "diagnosis_reason")


def read(folder: str | Path) -> Frames:
    """Read what the functions of this package need: less memory and time than :func:`harness.load`.

    Args:
        folder: the ``results.dir`` of one or more runs.

    Returns:
        ``trials`` without its bulky columns, the test accuracies of ``curves``, no ``layers``.

    Raises:
        UsageError: the folder holds no results.
    """
    columns = {
        "trials": [name for name in _NAMES if name not in _LEFT_OUT],
        "curves": ["trial_id", "step", "train_time_s", "test_accuracy"],
    }
    return load(folder, columns=columns, categories=True)


@dataclass(frozen=True)
class ArmLabels:
    """Which arm each trial belongs to.

    Attributes:
        columns: what tells the arms apart.
        of_trials: (trials,) the name of each trial's arm, with the index of the trials; equal names are equal arms.
    """

    columns: list[str]
    of_trials: "pd.Series[str]"


By = Sequence[str] | ArmLabels | None
"""What tells arms apart: columns; labels made before, of these trials and perhaps others; None: whatever varies."""


def label_arms(trials: pd.DataFrame, by: By = None) -> ArmLabels:
    """Name the arm of each trial, e.g. ``init=zero lr=0.1``.

    Args:
        trials: table.
        by: columns, of which equal values make one arm; or labels; None: trials with the same ``arm_key`` are one arm,
            whose name :func:`harness.results.arm_names` gives.

    Raises:
        UsageError: a column that is asked for is not there.
    """
    if isinstance(by, ArmLabels):
        return ArmLabels(by.columns, by.of_trials.loc[trials.index])
    if by is not None:
        return ArmLabels(list(by), _joined(trials, by))
    one_each = trials.drop_duplicates("arm_key")
    columns = {name: one_each[name].tolist() for name in CHOICES if name in one_each}
    keys = one_each["arm_key"].tolist()
    names = pd.Series(arm_names(columns, keys), dtype=object)
    return ArmLabels(arm_columns_of(columns, keys), trials["arm_key"].map(names).astype(object))


def arm_columns(trials: pd.DataFrame, by: By = None) -> list[str]:
    """Return the columns that tell arms apart; see :func:`label_arms`."""
    return label_arms(trials, by).columns


def arm_labels(trials: pd.DataFrame, by: By = None) -> "pd.Series[str]":
    """Return the name of each trial's arm; see :func:`label_arms`."""
    return label_arms(trials, by).of_trials


def _joined(trials: pd.DataFrame, names: Sequence[str]) -> "pd.Series[str]":
    """Names and values of the columns in one text, row by row."""
    for name in names:
        if name not in trials:
            raise UsageError(f"by={name}: no column of trials; choose from: {', '.join(CHOICES)}")
    texts = zip(*(_texts(trials[name]) for name in names), strict=True)
    labels = [label_of(dict(zip(names, row, strict=True))) for row in texts]
    return pd.Series(labels, index=trials.index, dtype=object)


def _texts(column: "pd.Series[Any]") -> list[str]:
    """Each value as a user would type it; every distinct one is formatted once."""
    codes, values = pd.factorize(column)
    texts = [text_of(value) for value in values] + [MISSING]
    # a missing value has the code -1, the last
    return [texts[code] for code in codes]


def targets_of(trials: pd.DataFrame) -> list[float]:
    """The test accuracies that were set as targets beforehand, rising."""
    return sorted({float(target) for targets in trials["targets"] for target in targets})


def times_to_targets(frames: Frames, targets: Sequence[float] | None = None) -> pd.DataFrame:
    """When each trial first reached each target at an evaluated step.

    Args:
        frames: results.
        targets: test accuracies; None: those set beforehand.

    Returns:
        columns trial_id, target, steps, seconds; one row per trial and target, inf: never.
    """
    ids = frames.trials["trial_id"]
    wanted = targets_of(frames.trials) if targets is None else list(targets)
    rows = trial_rows(frames)
    parts = [_times_of(frames, rows, target) for target in wanted]
    empty = pd.DataFrame({"trial_id": ids[:0], "target": [], "steps": [], "seconds": []})
    return pd.concat(parts, ignore_index=True) if parts else empty


def _times_of(frames: Frames, rows: "np.ndarray[Any, np.dtype[np.intp]]", target: float) -> pd.DataFrame:
    times = first_times(frames, rows, target)
    columns = {"trial_id": frames.trials["trial_id"], "target": target}
    return pd.DataFrame({**columns, "steps": times["steps"], "seconds": times["seconds"]})


def trial_rows(frames: Frames) -> "np.ndarray[Any, np.dtype[np.intp]]":
    """Return the row of its trial for each row of the curves, (curve rows,); -1: that trial is not there."""
    return row_numbers(frames.curves["trial_id"], frames.trials["trial_id"])


def first_times(frames: Frames, rows: "np.ndarray[Any, np.dtype[np.intp]]", target: float) -> dict[TimeUnit, Array]:
    """Return the step and the training seconds at which each trial first is at the target, both (trials,); inf: never.

    Args:
        frames: results.
        rows: of :func:`trial_rows`.
        target: test accuracy.
    """
    at_target = np.flatnonzero((floats(frames.curves["test_accuracy"]) >= target) & (rows >= 0))
    times: dict[TimeUnit, Array] = {}
    columns: dict[TimeUnit, str] = {"steps": "step", "seconds": "train_time_s"}
    for unit, column in columns.items():
        times[unit] = np.full(len(frames.trials), np.inf)
        # training seconds rise with the steps, so that both are smallest at the same evaluation
        np.minimum.at(times[unit], rows[at_target], floats(frames.curves[column])[at_target])
    return times


def floats(column: "pd.Series[Any]") -> Array:
    """Return a column as numbers; NaN where it has none."""
    return column.to_numpy(dtype=float, na_value=np.nan)


def row_numbers(ids: "pd.Series[Any]", known: "pd.Series[Any]") -> "np.ndarray[Any, np.dtype[np.intp]]":
    """The row of each id in the known ones, -1: none; a repeated known id stands for its last row."""
    positions = pd.Series(np.arange(len(known)), index=known.to_numpy())
    positions = positions[~positions.index.duplicated(keep="last")]
    if isinstance(ids.dtype, pd.CategoricalDtype):
        rows = positions.index.get_indexer(pd.Index(ids.cat.categories))
        rows = np.where(rows >= 0, positions.to_numpy()[rows] if len(positions) else -1, -1)
        return np.asarray(rows[ids.cat.codes.to_numpy()] if len(rows) else np.empty(0, dtype=np.intp), dtype=np.intp)
    rows = positions.index.get_indexer(pd.Index(ids.to_numpy()))
    return np.asarray(np.where(rows >= 0, positions.to_numpy()[rows] if len(positions) else -1, -1), dtype=np.intp)


def planned_steps(trials: pd.DataFrame) -> float:
    """The number of steps that most of the scored runs were planned for; NaN for no run.

    Of plans with equally many runs it is the shortest, as in a sweep over two experiments, so that none is left out.
    """
    planned = trials.loc[trials["status"].isin(COUNTED), "steps"].value_counts()
    return float(planned.index[planned == planned.max()].min()) if len(planned) else float("nan")


def budget_of(frames: Frames, unit: TimeUnit = "steps") -> float:
    """How long the runs that are compared are followed: the same for all, and chosen by the plan, not by outcomes.

    In steps it is :func:`planned_steps`. Runs planned for more are followed up to there, where they are what a shorter
    run would have been. Runs planned for fewer are left out, whatever they reached: what they would have done later is
    not known, and to keep those of them that arrived would favour their arms. So a short run costs the others nothing.

    In seconds it is the shortest time that a run among those, trained to the end, took: no run is known for longer than
    it lasted. A run that diverged stopped early, which takes nothing from the others.

    Returns:
        steps or seconds; NaN where no run was given its chance.
    """
    trials, planned = frames.trials, planned_steps(frames.trials)
    if unit == "steps":
        return planned
    whole = (trials["status"] == "ok") & (trials["steps"] >= planned)
    trained = trials.loc[whole, "train_time_s"].dropna()
    return float(trained.min()) if len(trained) else float("nan")


def within(budget: float, unit: TimeUnit) -> str:
    """The budget in words, e.g. ``3,000 steps``."""
    return f"{budget:,.0f} {unit}" if unit == "steps" else f"{budget:.4g} {unit}"
