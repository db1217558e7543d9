"""Wrong versions of the statistics, each with the test that has to notice it; see ``mutants.py``."""

import shutil
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import own_best_simulation
import pandas as pd
import pytest
import test_analysis_coverage as on_coverage
import test_analysis_frames as on_frames
import test_analysis_statistics as on_arrays
import test_mean_field as on_theory
import test_merging
import test_sensitivity as on_axes
from mutants import Mutant, Tools
from scipy import stats

from harness.analysis import (
    arm_times,
    comparison,
    grouping,
    intervals,
    mean_field,
    own_best,
    sensitivity,
    standings,
    survival,
)
from harness.analysis.intervals import Interval
from harness.results import TABLES, duplicates, merging, publishing, reading

first_times, _runs, _mann_whitney_p, _sign_flip_p, _holm = (
    grouping.first_times,
    arm_times._runs,
    comparison._mann_whitney_p,
    comparison._sign_flip_p,
    comparison.holm,
)
_ends, _moments = intervals._ends, intervals._moments


def _censored_at_its_last_step(frames: reading.Frames, rows: Any, target: float) -> dict[str, Any]:
    """A run that never reaches the target is given the time at which it was last seen."""
    last = frames.curves.groupby("trial_id", observed=True)["step"].max()
    seen = frames.trials["trial_id"].map(last).to_numpy(dtype=float, na_value=np.inf)
    return {
        name: np.where(np.isinf(values), seen, values) for name, values in first_times(frames, rows, target).items()
    }


def _chi_of_the_slope(activation: Any, weight_variance: float, bias_variance: float) -> float:
    q = activation.fixed_variance(weight_variance, bias_variance)
    return float(weight_variance * activation.slope_square(q) ** 0.5)


def _planned(how: str) -> Any:
    return lambda trials: float(getattr(trials.loc[trials["status"].isin(grouping.COUNTED), "steps"], how)())


def _holm_in_the_order_given(p_values: Any, family: int | None = None) -> Any:
    p = np.asarray(p_values, dtype=float)
    return np.minimum(1, np.maximum.accumulate((family or len(p)) * p - np.arange(len(p)) * p))


def _holm_without_running_maximum(p_values: Any, family: int | None = None) -> Any:
    p = np.asarray(p_values, dtype=float)
    rank = stats.rankdata(p, method="ordinal") - 1
    return np.minimum(1, ((family or len(p)) - rank) * p)


def _unadjusted(p_values: Any, family: int | None = None) -> Any:  # noqa: ARG001
    return np.asarray(p_values, dtype=float)


def _ties_in_full(a: Any, b: Any) -> tuple[Any, Any]:
    left, right = np.asarray(a), np.asarray(b)
    share = (left[:, :, None] <= right).mean(axis=(1, 2))
    return share, np.ones(len(left))


def _of_the_tested_alone(p_values: Any, family: int | None = None) -> Any:  # noqa: ARG001
    return _holm(p_values)


def _no_skewness(moments: Any, level: float, bounds: Any) -> Any:
    return _ends(moments._replace(third_cumulant=0 * moments.third_cumulant), level, bounds)


def _skewness_turned(moments: Any, level: float, bounds: Any) -> Any:
    return _ends(moments._replace(third_cumulant=-moments.third_cumulant), level, bounds)


def _normal_quantiles(moments: Any, level: float, bounds: Any) -> Any:
    return _ends(moments._replace(freedom=1e9 + moments.freedom), level, bounds)


def _divided_by_n(values: Any) -> Any:
    moments = _moments(values)
    return moments._replace(variance=moments.variance * (1 - 1 / values.shape[1]))


def _one_arm_is_exact(a: Any, b: Any, level: float = 0.95, bounds: Any = intervals.UNBOUNDED) -> Any:
    """The mean of b counts as known."""
    centre = b.mean(axis=1)
    low, high = intervals.mean_intervals(a, level)
    return np.clip(low - centre, *bounds), np.clip(high - centre, *bounds)


def _wald(successes: int, n: int, level: float = 0.95) -> Interval:
    share = successes / n
    half = stats.norm.ppf((1 + level) / 2) * np.sqrt(share * (1 - share) / n)
    return Interval(share - half, share + half)


def _average_of_the_middle_two(times: Any) -> float | None:
    median = float(np.median(times))
    return median if np.isfinite(median) else None


def _median_of_those_that_reach(times: Any) -> float | None:
    reached = np.asarray(times)[np.isfinite(times)]
    return float(np.median(reached)) if len(reached) else None


def _normal_p(ranks: Any, m: int) -> float:
    """The approximation where the exact p is small enough to matter."""
    return float(stats.mannwhitneyu(ranks[:m], ranks[m:], method="asymptotic").pvalue)


def _first_of_a_seed(frames: reading.Frames, rows: Any, labels: grouping.ArmLabels) -> pd.DataFrame:
    turned = frames.trials.assign(measured_at=frames.trials["measured_at"].iloc[::-1].to_numpy())
    return _runs(frames._replace(trials=turned), rows, labels)


def _every_trial_a_run(trials: pd.DataFrame) -> Any:
    return trials["trial_id"].to_numpy(dtype=object)


@contextmanager
def _built_in_place(target: Path, *, replace: bool = False) -> Iterator[Path]:  # noqa: ARG001
    """A copy that has its name before it is whole."""
    target.mkdir(parents=True)
    yield target


def _not_put_back(target: Path) -> None:
    """What a killed process left is removed, a target that it was replacing too."""
    for what in ("draft", "old"):
        for path in publishing._left_over(target, what):
            publishing.remove(path)


def _holm_oracle(_tools: Tools) -> None:
    on_arrays.test_holm_by_hand()


def _diverged(_tools: Tools) -> None:
    on_frames.test_diverged_run_is_never_and_stays_at_risk_to_the_budget()


def _separated(_tools: Tools) -> None:
    on_frames.test_separated_arms_are_better_and_worse()


def _full_separation(_tools: Tools) -> None:
    for n, p in ((3, 0.10), (5, 0.0079)):
        on_arrays.test_smallest_p_is_that_of_full_separation(n, p)


def _coverage(shape: str) -> Any:
    return lambda _: on_coverage.test_intervals_of_means_cover_as_is_stated(shape)


def _folder(tools: Tools) -> Path:
    return test_merging.fill(Path(tools["configure"]().results.dir) / uuid.uuid4().hex / "results")


def _kill(tools: Tools) -> None:
    folder = _folder(tools)
    test_merging.kill_everywhere(folder, folder.parent / "copies" / "one")


def _kill_replacement(tools: Tools) -> None:
    folder = _folder(tools)
    test_merging.test_kill_at_any_moment_of_a_replacement_leaves_the_old_or_the_new(
        folder, folder.parent / "copies" / "one"
    )


def _left_out(tools: Tools) -> None:
    folder = _folder(tools)
    with pytest.MonkeyPatch.context() as patch:
        test_merging.test_a_trial_that_ends_during_the_copy_is_left_out_whole(
            folder, folder.parent / "copies" / "one", patch
        )


def _copied(tools: Tools) -> None:
    """A file of each table copied under another name takes part once."""
    folder = _folder(tools)
    expected = [len(frame) for frame in reading.load(folder)]
    for table in TABLES:
        file = min((folder / table).iterdir())
        shutil.copy(file, file.with_stem("copy"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lengths = [len(frame) for frame in reading.load(folder)]
    assert lengths == expected


ANALYSIS_MUTANTS = {
    "mean field: chi from the slope instead of its square": Mutant(
        mean_field, "chi", _chi_of_the_slope, lambda _: on_theory.test_critical_points()
    ),
    "mean field: the depth at correlation 1 in the chaotic phase": Mutant(
        mean_field,
        "fixed_correlation",
        lambda *_: 1.0,
        lambda _: on_theory.test_depth_is_the_rate_at_which_the_maps_forget("tanh", 2.56, 0.05),
    ),
    "a run that diverged is censored at its last step": Mutant(
        arm_times, "first_times", _censored_at_its_last_step, _diverged
    ),
    "runs that diverged are left out": Mutant(arm_times, "COUNTED", ("ok",), _diverged),
    **{
        f"budget: the {how} of all": Mutant(
            arm_times,
            "planned_steps",
            _planned(how),
            lambda _: on_frames.test_one_short_run_takes_nothing_from_the_budget_of_the_others(),
        )
        for how in ("min", "max")
    },
    "the first trial of a seed counts": Mutant(
        arm_times,
        "_runs",
        _first_of_a_seed,
        lambda _: on_frames.test_last_trial_of_a_seed_counts_and_a_failed_one_takes_nothing_from_it(),
    ),
    "seeds that change nothing count as runs": Mutant(
        arm_times, "run_ids", _every_trial_a_run, lambda _: on_frames.test_deterministic_arm_is_one_run_in_effect()
    ),
    "holm: in the order given": Mutant(comparison, "holm", _holm_in_the_order_given, _holm_oracle),
    "holm: an adjusted p may fall": Mutant(comparison, "holm", _holm_without_running_maximum, _holm_oracle),
    "holm: no adjustment at all": Mutant(
        standings, "holm", _unadjusted, lambda _: on_frames.test_equal_arms_are_seldom_told_apart()
    ),
    "mann-whitney: one-sided": Mutant(
        comparison, "_mann_whitney_p", lambda ranks, m: _mann_whitney_p(ranks, m) / 2, _full_separation
    ),
    "mann-whitney: normal approximation of few runs": Mutant(
        comparison, "_mann_whitney_p", _normal_p, _full_separation
    ),
    "sign flips: one-sided": Mutant(
        comparison,
        "_sign_flip_p",
        lambda differences, seed: _sign_flip_p(differences, seed) / 2,
        lambda _: on_arrays.test_paired_by_hand(),
    ),
    "ties counted in full": Mutant(comparison, "wins", _ties_in_full, lambda _: on_arrays.test_improvement_by_hand()),
    "holm: the family is what was tested": Mutant(
        comparison,
        "holm",
        _of_the_tested_alone,
        lambda _: on_coverage.test_false_claims_against_a_picked_best_are_at_or_under_the_level(8),
    ),
    "interval: past the budget": Mutant(
        survival,
        "mean_estimate",
        lambda values, level, _: intervals.mean_estimate(values, level),
        lambda _: on_arrays.test_interval_of_a_restricted_mean_stays_within_the_budget(),
    ),
    "interval: Student's alone": Mutant(intervals, "_ends", _no_skewness, _coverage("exponential")),
    "interval: corrected for skewness the wrong way": Mutant(
        intervals, "_ends", _skewness_turned, _coverage("exponential")
    ),
    "interval: normal quantiles": Mutant(intervals, "_ends", _normal_quantiles, _coverage("normal")),
    "interval: variance divided by n": Mutant(intervals, "_moments", _divided_by_n, _coverage("steps")),
    "interval: a difference varies with one arm alone": Mutant(
        intervals,
        "difference_intervals",
        _one_arm_is_exact,
        lambda _: on_coverage.test_intervals_of_differences_cover_near_their_level(("exponential", "normal"), 10, 10),
    ),
    "wilson: wald": Mutant(
        intervals, "wilson", _wald, lambda _: on_arrays.test_wilson_is_that_of_statsmodels(7, 10, 0.95)
    ),
    **{
        f"median: {name}": Mutant(
            survival,
            "median_time",
            wrong,
            lambda _: on_arrays.test_median_is_the_first_time_by_which_half_of_the_runs_got_there(
                [10, 20, np.inf, np.inf], 20
            ),
        )
        for name, wrong in (
            ("of the runs that reach", _median_of_those_that_reach),
            ("average of the middle two", _average_of_the_middle_two),
        )
    },
    "verdict whatever n can show": Mutant(
        standings, "can_be_significant", lambda *_: True, lambda _: on_frames.test_three_seeds_never_rank()
    ),
    "own best: each half judges what it chose itself": Mutant(
        own_best,
        "judged",
        own_best_simulation.judged_by_the_half_that_chose,
        lambda _: on_axes.test_own_best_holds_its_level_and_the_same_runs_do_not(),
    ),
    "sensitivity: runs that diverged are left out": Mutant(
        sensitivity, "COUNTED", ("ok",), lambda _: on_axes.test_diverged_run_counts_with_the_worst_value()
    ),
    "copies of files count": Mutant(duplicates.Repeats, "new", lambda _self, _path, content: content, _copied),
    "a copy has its name before it is whole": Mutant(merging, "published", _built_in_place, _kill),
    "a folder that was being replaced is not put back": Mutant(publishing, "_clear", _not_put_back, _kill_replacement),
    "details of trials without a row are copied": Mutant(
        merging, "_of_trials", lambda content, _ids, _left_out: content, _left_out
    ),
}
