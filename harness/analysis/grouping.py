"""Which trials make one arm, and the times of its runs: one per seed, and one in all where seeds change nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from harness.analysis.intervals import Array
from harness.errors import UsageError
from harness.results import BULK, CHOICES, COLUMNS, COUNTED, MISSING, Frames, load, text_of, varying

Unit = Literal["steps", "seconds"]

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


def arm_columns(trials: pd.DataFrame, by: Sequence[str] | None = None) -> list[str]:
    """The columns that tell arms apart.

    Args:
        trials: table.
        by: the columns wanted; None: the choices that vary among the arms (``init`` if none does), and ``arm_key``
            where these do not tell all arms apart, as options that have no column of their own may not.

    Raises:
        UsageError: a column that is asked for is not there.
    """
    if by is not None:
        for name in by:
            if name not in trials:
                raise UsageError(f"by={name}: no column of trials; choose from: {', '.join(CHOICES)}")
        return list(by)
    one_each = trials.drop_duplicates("arm_key")
    names = varying({name: one_each[name].tolist() for name in CHOICES if name in one_each}) or ["init"]
    return names if _joined(one_each, names).is_unique else [*names, "arm_key"]


def arm_labels(trials: pd.DataFrame, by: Sequence[str] | None = None) -> "pd.Series[str]":
    """The name of each trial's arm, e.g. ``init=zero lr=0.1``; equal names are equal arms.

    Args:
        trials: table.
        by: the columns that tell arms apart; None: see :func:`arm_columns`. Trials with the same ``arm_key`` are then
            one arm whatever they are called, by the name of the first.
    """
    names = arm_columns(trials, by)
    if by is not None:
        return _joined(trials, names)
    one_each = trials.drop_duplicates("arm_key")
    of_arm = pd.Series(_joined(one_each, names).to_numpy(), index=one_each["arm_key"].to_numpy(), dtype=object)
    return trials["arm_key"].map(of_arm).astype(object)


def _joined(trials: pd.DataFrame, names: Sequence[str]) -> "pd.Series[str]":
    """Names and values of the columns in one text, row by row."""
    parts = [f"{name}=" + _texts(trials[name]) for name in names]
    labels = parts[0]
    for part in parts[1:]:
        labels = labels + " " + part
    return labels.astype(object)


def _texts(column: "pd.Series[Any]") -> "pd.Series[Any]":
    """Each value as a user would type it; every distinct one is formatted once."""
    codes, values = pd.factorize(column)
    texts = np.array([text_of(value) for value in values] + [MISSING], dtype=object)
    # a missing value has the code -1, the last
    return pd.Series(texts[codes], index=column.index, dtype=object)


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
    parts = [pd.DataFrame({"trial_id": ids, "target": target, **_first(frames, target)}) for target in wanted]
    empty = pd.DataFrame({"trial_id": ids[:0], "target": [], "steps": [], "seconds": []})
    return pd.concat(parts, ignore_index=True) if parts else empty


def _first(frames: Frames, target: float) -> dict[str, Array]:
    """Of each trial the step and the training seconds at which it first is at the target; both (trials,)."""
    curves, found = frames.curves, {}
    at_target = np.flatnonzero(_floats(curves["test_accuracy"]) >= target)
    trial = row_numbers(curves["trial_id"].iloc[at_target], frames.trials["trial_id"])
    for name, column in (("steps", "step"), ("seconds", "train_time_s")):
        first = np.full(len(frames.trials), np.inf)
        values = _floats(curves[column].iloc[at_target])
        # training seconds rise with the steps, so that both are smallest at the same evaluation
        np.minimum.at(first, trial[trial >= 0], values[trial >= 0])
        found[name] = first
    return found


def _floats(column: "pd.Series[Any]") -> Array:
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


def budget_of(frames: Frames, unit: Unit = "steps") -> float:
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


def within(budget: float, unit: str) -> str:
    """The budget in words, e.g. ``3,000 steps``."""
    return f"{budget:,.0f} {unit}" if unit == "steps" else f"{budget:.4g} {unit}"


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
        unfinished: trials that ended as error, oom, timeout or killed, and whose seed has no other.
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


def arms(frames: Frames, *, target: float, unit: Unit = "steps", by: Sequence[str] | None = None) -> list[Arm]:
    """The arms with their times to a target, in the order of their labels.

    All are followed for :func:`budget_of`. Of several trials of one seed the last measured counts. Runs that diverged
    count; those that an error, a limit or a signal ended say nothing about their arm and are ``unfinished``.

    Args:
        frames: results.
        target: test accuracy.
        unit: steps, or seconds of training.
        by: the columns that tell arms apart; None: those that vary.

    Raises:
        UsageError: an unknown column or unit.
    """
    if unit not in ("steps", "seconds"):
        raise UsageError(f"unit={unit}; choose steps or seconds")
    names = arm_columns(frames.trials, by)
    runs = _runs(frames, target, unit, names, arm_labels(frames.trials, by))
    starts = np.flatnonzero(~runs["arm"].duplicated().to_numpy())
    ends = np.append(starts, len(runs))[1:]
    # one array a column, sliced by arm: a frame for each of many arms would take most of the time
    columns = {name: runs[name].to_numpy() for name in ("arm", "seed", "time", "run", "counted", "unfinished")}
    columns |= {name: runs[name].to_numpy() for name in ("shorter", "lost", "repeated", "mixed")}
    first = runs.iloc[starts]
    choices = [first[name].astype(object).tolist() for name in names]
    return [
        _arm({name: column[start:end] for name, column in columns.items()}, dict(zip(names, values, strict=True)))
        for start, end, *values in zip(starts, ends, *choices, strict=True)
    ]


def _runs(frames: Frames, target: float, unit: Unit, names: Sequence[str], labels: "pd.Series[str]") -> pd.DataFrame:
    """The trials in order of arm and seed, with the time of each and what it counts as."""
    trials = frames.trials
    times = _first(frames, target)[unit]
    budget = budget_of(frames, unit)
    # without its curve, which begins at step 0, a run that arrived looks like one that never did
    evaluated = np.zeros(len(trials), dtype=bool)
    rows = row_numbers(frames.curves["trial_id"], trials["trial_id"])
    evaluated[rows[rows >= 0]] = True
    ended = trials["status"].isin(COUNTED).to_numpy(dtype=bool)
    shorter = ended & (_floats(trials["steps"]) < planned_steps(trials))
    keep = ["seed", "trial_key", "batches", "initial_weights_sha256", "final_weights_sha256", "measured_at", "trial_id"]
    runs = trials[[*dict.fromkeys([*names, *keep])]].assign(
        arm=labels.to_numpy(),
        time=np.where(times <= budget, times, np.inf),
        scored=ended & evaluated & ~shorter,
        ended=ended,
        shorter=shorter,
        run=_run_ids(trials),
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


def _run_ids(trials: pd.DataFrame) -> "np.ndarray[Any, np.dtype[np.object_]]":
    """Equal for trials that are one run in effect: same initial weights on a fixed batch, or the same at both ends."""
    start = trials["initial_weights_sha256"].astype(object)
    end = trials["final_weights_sha256"].astype(object)
    # rounding on a GPU may tell the ends of such runs apart, but no random draw does
    end = end.where((trials["batches"] != "fixed").to_numpy(), "fixed")
    unknown = (start.isna() | end.isna()).to_numpy()
    ids = start.fillna("") + ":" + end.fillna("")
    return ids.where(~unknown, trials["trial_id"].astype(object)).to_numpy()


def _arm(runs: Mapping[str, Any], choices: dict[str, Any]) -> Arm:
    """From the columns of one arm's trials."""
    counted = runs["counted"]
    times, ids = runs["time"][counted], runs["run"][counted]
    _, distinct = np.unique(ids.astype(str), return_index=True)
    return Arm(
        label=str(runs["arm"][0]),
        choices=choices,
        seeds=runs["seed"][counted],
        times=times,
        times_effective=times[np.sort(distinct)],
        unfinished=int(runs["unfinished"].sum()),
        shorter=int(runs["shorter"].sum()),
        lost=int(runs["lost"].sum()),
        repeated=int(runs["repeated"].sum()),
        mixed=bool(runs["mixed"].any()),
    )
