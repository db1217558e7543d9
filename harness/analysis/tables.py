"""Tables for figures and summaries: survival and convergence curves, profiles, throughput, completeness."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from harness.analysis.arm_times import Arm, TimedArms, timed_arms, timed_arms_of_targets
from harness.analysis.comparison import performance_profile
from harness.analysis.grouping import By, TimeUnit, arm_labels, row_numbers, targets_of
from harness.analysis.survival import Curve, kaplan_meier
from harness.results import COUNTED, SPEED, WORK, Frames

FACTORS = (1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0)


def survival_curves(frames: Frames, *, target: float, unit: TimeUnit = "steps", by: By = None) -> pd.DataFrame:
    """Return the share of each arm's runs that has not reached the target; see :func:`survival_of`.

    Args:
        frames: results.
        target: test accuracy.
        unit: steps, or seconds of training.
        by: what tells arms apart; None: what varies.
    """
    return survival_of(timed_arms(frames, target=target, unit=unit, by=by))


def survival_of(timed: TimedArms, labels: Container[str] | None = None) -> pd.DataFrame:
    """Return the share of each arm's runs that has not reached the target, as steps from 0 to the budget.

    Args:
        timed: the arms.
        labels: the arms wanted; None: all.

    Returns:
        columns arm, time, share, n; arms without a finished run are left out.
    """
    arms = [arm for arm in timed.arms if len(arm.times) and (labels is None or arm.label in labels)]
    curves = [_survival(arm, timed.budget) for arm in arms]
    corners = [len(curve.times) for curve in curves]
    # one table of all arms: a frame for each would take most of the time
    return pd.DataFrame(
        {
            "arm": np.repeat(np.array([arm.label for arm in arms], dtype=object), corners),
            "time": np.concatenate([np.empty(0), *(curve.times for curve in curves)]),
            "share": np.concatenate([np.empty(0), *(curve.shares for curve in curves)]),
            "n": np.repeat(np.array([len(arm.times) for arm in arms], dtype=np.int64), corners),
        }
    )


def _survival(arm: Arm, budget: float) -> Curve:
    """The curve of one arm, drawn on to the budget."""
    reached = np.isfinite(arm.times)
    curve = kaplan_meier(np.where(reached, arm.times, budget), reached)
    return Curve(np.append(curve.times, budget), np.append(curve.shares, curve.shares[-1]))


def curve_bands(frames: Frames, metric: str = "test_accuracy", by: By = None) -> pd.DataFrame:
    """A metric of the curves over the finished and the diverged runs of each arm, at each evaluated step.

    Returns:
        columns arm, step, n (runs with a value there), median, q25, q75, low and high (the extremes).
    """
    trials = frames.trials
    labels = pd.Categorical(arm_labels(trials, by))
    counted = np.where(trials["status"].isin(COUNTED), labels.codes, -1)
    rows = row_numbers(frames.curves["trial_id"], trials["trial_id"])
    codes = np.where(rows >= 0, counted[rows] if len(counted) else -1, -1)
    values = pd.DataFrame(
        {
            "arm": pd.Categorical.from_codes(codes, dtype=labels.dtype),
            "step": frames.curves["step"].to_numpy(dtype=np.int64),
            "value": frames.curves[metric].to_numpy(dtype=float, na_value=np.nan),
        }
    ).dropna()
    groups = values.groupby(["arm", "step"], observed=True, sort=True)["value"]
    bands = groups.agg(n="count", low="min", high="max")
    for share, name in ((0.25, "q25"), (0.5, "median"), (0.75, "q75")):
        bands[name] = groups.quantile(share)
    table = bands.reset_index()[["arm", "step", "n", "median", "q25", "q75", "low", "high"]]
    return table.assign(arm=table["arm"].astype(object))


def profiles(
    frames: Frames,
    *,
    unit: TimeUnit = "steps",
    by: By = None,
    targets: Sequence[float] | None = None,
    factors: Sequence[float] = FACTORS,
) -> pd.DataFrame:
    """Return performance profiles over the tasks (target, seed); see :func:`profiles_of`."""
    wanted = targets_of(frames.trials) if targets is None else targets
    return profiles_of(timed_arms_of_targets(frames, wanted, unit=unit, by=by), factors)


def profiles_of(timed: Sequence[TimedArms], factors: Sequence[float] = FACTORS) -> pd.DataFrame:
    """Return performance profiles over the tasks (target, seed).

    Args:
        timed: the arms with their times, one for each target.
        factors: at least 1.

    Returns:
        columns arm, factor, share: of the arm's tasks, those done within the factor of the best arm's time.
    """
    scores: dict[str, dict[tuple[float, int], float]] = {}
    for one in timed:
        for arm in one.arms:
            own = scores.setdefault(arm.label, {})
            own |= {(one.target, int(seed)): float(time) for seed, time in zip(arm.seeds, arm.times, strict=True)}
    # an arm that lacks a task has NaN there, which is not the infinite time of one that failed it
    table = pd.DataFrame.from_dict(scores, orient="index")
    if table.size == 0:
        return pd.DataFrame(columns=["arm", "factor", "share"])
    shares = performance_profile(table.to_numpy(dtype=float), np.asarray(factors, dtype=float))
    return pd.DataFrame(
        {
            "arm": np.repeat(table.index.to_numpy(dtype=object), len(factors)),
            "factor": np.tile(np.asarray(factors, dtype=float), len(table)),
            "share": shares.ravel(),
        }
    )


def speed_columns(trials: pd.DataFrame) -> list[str]:
    """What tells trials apart whose images/s must not be pooled: conditions of speed, and the work of a step.

    Device model, kernel, model and batch size are always among them; of the others those that split the trials further.
    """
    return splitting(trials, ("device_model", "kernel", "model", "batch_size"), (*SPEED, *WORK))


def splitting(trials: pd.DataFrame, always: Sequence[str], candidates: Sequence[str]) -> list[str]:
    """The columns of ``always``, and those candidates that split the trials further than the columns before them."""
    names = list(always)
    groups = len(trials.drop_duplicates(names))
    for name in candidates:
        if name in names or name not in trials:
            continue
        finer = len(trials.drop_duplicates([*names, name]))
        names, groups = ([*names, name], finer) if finer > groups else (names, groups)
    return names


def throughput(trials: pd.DataFrame, by: Sequence[str] | None = None) -> pd.DataFrame:
    """Training speed by machine and kernel: quartiles over the trials' own medians.

    Args:
        trials: table.
        by: the columns whose values get rows of their own; None: see :func:`speed_columns`.

    Returns:
        the columns of ``by``, n (trials that were timed), images_per_s_q25, _median, _q75, matmul_share_q25, _median,
        _q75 and step_ms_median.
    """
    timed = trials[trials["images_per_s_median"].notna()]
    groups = timed.groupby(list(speed_columns(timed) if by is None else by), observed=True, dropna=False, sort=True)
    summary = {"n": groups.size()}
    for column, name in (("images_per_s_median", "images_per_s"), ("matmul_share", "matmul_share")):
        for share, part in ((0.25, "q25"), (0.5, "median"), (0.75, "q75")):
            summary[f"{name}_{part}"] = groups[column].quantile(share)
    summary["step_ms_median"] = groups["step_ms_median"].median()
    return pd.DataFrame(summary).reset_index()


@dataclass(frozen=True)
class Completeness:
    """What was planned and what became of it.

    Attributes:
        sweeps: columns sweep_id (null: run from Python, where planned is what there is), planned, recorded, ok,
            failed, missing.
        statuses: status -> trials.
        failures: columns status, error_type, error_message, trials, example (a trial_id); most frequent first.
    """

    sweeps: pd.DataFrame
    statuses: dict[str, int]
    failures: pd.DataFrame


def completeness(trials: pd.DataFrame, done_before: Mapping[str, int] | None = None) -> Completeness:
    """Count the planned, recorded, failed and missing trials of each command, and say why those that failed did.

    Args:
        trials: the table.
        done_before: ``sweep_id`` -> how many of its trials an earlier command had done, which it did not run again.
    """
    ok = trials["status"] == "ok"
    marked = trials[["sweep_id", "sweep_size"]].assign(ok=ok.to_numpy(dtype=bool))
    groups = marked.groupby("sweep_id", dropna=False, sort=True)
    sweeps = groups.agg(planned=("sweep_size", "max"), recorded=("ok", "size"), ok=("ok", "sum")).reset_index()
    planned = sweeps["planned"].fillna(sweeps["recorded"]).astype("int64")
    planned -= sweeps["sweep_id"].map(done_before or {}).fillna(0).astype("int64")
    sweeps = sweeps.assign(
        planned=np.maximum(planned, sweeps["recorded"]),
        failed=sweeps["recorded"] - sweeps["ok"],
        missing=np.maximum(planned - sweeps["recorded"], 0),
    )
    failed = trials.loc[~ok, ["status", "error_type", "error_message", "trial_id"]]
    reasons = failed.groupby(["status", "error_type", "error_message"], dropna=False, sort=True)["trial_id"]
    failures = reasons.agg(trials="size", example="first").reset_index()
    failures = failures.sort_values("trials", ascending=False, kind="stable", ignore_index=True)
    return Completeness(sweeps, {str(k): int(v) for k, v in trials["status"].value_counts().items()}, failures)
