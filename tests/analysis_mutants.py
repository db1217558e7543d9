"""Wrong versions of the statistics, each with the test that has to notice it; see ``mutants.py``."""

import json
import shutil
import uuid
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import test_analysis_frames as on_frames
import test_analysis_statistics as on_arrays
import test_compaction
from mutants import Mutant, Tools
from scipy import stats

from harness.analysis import arm_times, comparison, grouping, intervals, standings, survival
from harness.analysis.intervals import Interval, Sampling
from harness.results import TABLES, duplicates, merging, reading

first_times, _runs, _mann_whitney_p, _sign_flip_p = (
    grouping.first_times,
    arm_times._runs,
    comparison._mann_whitney_p,
    comparison._sign_flip_p,
)


def _censored_at_its_last_step(frames: reading.Frames, rows: Any, target: float) -> dict[str, Any]:
    """A run that never reaches the target is given the time at which it was last seen."""
    last = frames.curves.groupby("trial_id", observed=True)["step"].max()
    seen = frames.trials["trial_id"].map(last).to_numpy(dtype=float, na_value=np.inf)
    return {
        name: np.where(np.isinf(values), seen, values) for name, values in first_times(frames, rows, target).items()
    }


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


def _without_the_seed(n: int, sampling: Sampling, stream: int = 0) -> Any:
    return np.random.default_rng(stream).multinomial(n, np.full(n, 1 / n), size=sampling.resamples) / n


def _fresh_entropy(n: int, sampling: Sampling, stream: int = 0) -> Any:  # noqa: ARG001
    return np.random.default_rng().multinomial(n, np.full(n, 1 / n), size=sampling.resamples) / n


def _one_sample_for_both(n: int, sampling: Sampling, stream: int = 0) -> Any:  # noqa: ARG001
    """Two arms with equally many runs are resampled together."""
    return np.random.default_rng([sampling.seed, 0]).multinomial(n, np.full(n, 1 / n), size=sampling.resamples) / n


def _percentiles(resampled: Any, estimate: Any, acceleration: Any, sampling: Sampling) -> Any:  # noqa: ARG001
    tail = (1 - sampling.level) / 2
    return np.quantile(resampled, tail, axis=1), np.quantile(resampled, 1 - tail, axis=1)


def _wald(successes: int, n: int, level: float = 0.95) -> Interval:
    share = successes / n
    half = stats.norm.ppf((1 + level) / 2) * np.sqrt(share * (1 - share) / n)
    return Interval(share - half, share + half)


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


def _all_files(folder: Any, table: str) -> Any:
    return sorted((folder / table).glob("*.parquet"))


def _remove_without_looking(folder: Any) -> None:
    """Finish a merging that was cut short, whether or not the merged file is there."""
    for table in merging.unfinished(folder):
        path = reading.journal_path(folder, table)
        merging._remove(folder, table, json.loads(path.read_text())["replaces"])
        path.unlink()


def _holm_oracle(_tools: Tools) -> None:
    on_arrays.test_holm_by_hand()


def _diverged(_tools: Tools) -> None:
    on_frames.test_diverged_run_is_never_and_stays_at_risk_to_the_budget()


def _separated(_tools: Tools) -> None:
    on_frames.test_separated_arms_are_better_and_worse()


def _full_separation(_tools: Tools) -> None:
    for n, p in ((3, 0.10), (5, 0.0079)):
        on_arrays.test_smallest_p_is_that_of_full_separation(n, p)


def _seed(_tools: Tools) -> None:
    on_arrays.test_seed_reaches_the_sampler("mean")


def _kill(tools: Tools, after: int) -> None:
    folder = Path(tools["configure"]().results.dir) / uuid.uuid4().hex
    test_compaction.fill(folder)
    test_compaction.kill_and_recover(folder, after)


def _copied(tools: Tools) -> None:
    """A file of each table copied under another name takes part once."""
    folder = Path(tools["configure"]().results.dir) / uuid.uuid4().hex
    test_compaction.fill(folder)
    expected = [len(frame) for frame in reading.load(folder)]
    for table in TABLES:
        file = min((folder / table).iterdir())
        shutil.copy(file, file.with_stem("copy"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [len(frame) for frame in reading.load(folder)]
    assert found == expected


ANALYSIS_MUTANTS = {
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
        arm_times, "_run_ids", _every_trial_a_run, lambda _: on_frames.test_deterministic_arm_is_one_run_in_effect()
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
    "bootstrap: seed ignored": Mutant(intervals, "resampling_weights", _without_the_seed, _seed),
    "bootstrap: not reproducible": Mutant(intervals, "resampling_weights", _fresh_entropy, _seed),
    "bootstrap: two arms resampled as one": Mutant(
        intervals,
        "resampling_weights",
        _one_sample_for_both,
        lambda _: on_arrays.test_interval_of_a_difference_resamples_each_arm_by_itself(),
    ),
    "bootstrap: plain percentiles": Mutant(
        intervals,
        "bca",
        _percentiles,
        lambda _: on_arrays.test_interval_of_a_mean_is_scipys(on_arrays.SAMPLES[1]),
    ),
    "wilson: wald": Mutant(
        intervals, "wilson", _wald, lambda _: on_arrays.test_wilson_is_that_of_statsmodels(7, 10, 0.95)
    ),
    "median of the runs that reach": Mutant(
        survival,
        "median_time",
        _median_of_those_that_reach,
        lambda _: on_arrays.test_median_needs_more_than_half([10, 20, np.inf, np.inf], None),
    ),
    "verdict whatever n can show": Mutant(
        standings, "can_be_significant", lambda *_: True, lambda _: on_frames.test_three_seeds_never_rank()
    ),
    "copies of files count": Mutant(duplicates.Repeats, "new", lambda _self, _path, content: content, _copied),
    "files that are merged already are read again": Mutant(reading, "files", _all_files, lambda tools: _kill(tools, 5)),
    "a merging that was cut short removes what it had not merged": Mutant(
        merging, "_finish", _remove_without_looking, lambda tools: _kill(tools, 4)
    ),
}
