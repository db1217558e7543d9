"""Analysis of result frames: arms, times, ranking with its verdicts, tables, and what happens where something lacks."""

import json
import subprocess
import sys
from math import inf, nan
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_results import Row, arms_reaching, curve, frames, reaching, trial, write

import harness
from harness import analysis
from harness.analysis import VERDICTS, Tone, Verdict, said, standings, timed_arms
from harness.errors import UsageError

FAST, SLOW = [10, 10, 20, 10, 20, 10, 20, 10, 20, 10], [50, 60, 70, 80, 50, 60, 70, 80, 90, 50]


def ranked(arms: dict[str, list[int | None]], reference: str | None = None, **fields: object) -> analysis.Ranking:
    reference = reference and f"init={reference}"
    return standings.ranking(frames(*arms_reaching(arms, **fields)), target=0.9, reference=reference)


def verdicts(ranking: analysis.Ranking) -> dict[str, str]:
    return dict(zip(ranking.table["init"], ranking.table["verdict"], strict=True))


def row(ranking: analysis.Ranking, init: str) -> "pd.Series[object]":
    return ranking.table.set_index("init").loc[init]


# arms


def test_arms_are_told_apart_by_the_choices_that_vary_without_what_follows_from_them() -> None:
    rows = [
        trial(0, init="zero", init_weight="a", lr=0.1, seed=0, device=None, status="error"),
        trial(1, init="he", init_weight="b", lr=0.1, seed=1, device="cpu"),
        trial(2, init="he", init_weight="b", lr=0.5, seed=2, device="cpu", data="mnist"),
    ]
    trials = frames(rows).trials
    assert analysis.arm_columns(trials) == ["init", "data", "lr"]
    assert analysis.arm_labels(trials, ["init", "lr"]).tolist() == [
        "init=zero lr=0.1",
        "init=he lr=0.1",
        "init=he lr=0.5",
    ]
    assert analysis.arm_labels(trials, ["depth"]).tolist() == ["depth=none"] * 3
    assert analysis.arm_columns(trials[:1]) == ["init"]
    assert analysis.arm_labels(trials[:1]).tolist() == ["init=zero"]


def test_learning_rate_that_goes_with_an_experiment_is_no_arm_of_its_own_unless_it_varies() -> None:
    rows = [trial(i, experiment=e, lr=lr) for i, (e, lr) in enumerate([("a", 0.1), ("b", 0.5)])]
    assert analysis.arm_columns(frames(rows).trials) == ["experiment"]
    assert analysis.arm_columns(frames([*rows, trial(2, experiment="a", lr=0.7)]).trials) == ["lr", "experiment"]


def test_first_step_at_a_target_counts_and_missing_values_do_not() -> None:
    accuracies = [0.1, None, nan, 0.5, 0.4, 0.9]
    tables = frames([trial(0), trial(1)], [*curve("trial00000", accuracies)[::-1], *curve("trial00001", [0.1, nan])])
    times = analysis.times_to_targets(tables)
    assert times.to_dict("list") == {
        "trial_id": ["trial00000", "trial00001"] * 2,
        "target": [0.5, 0.5, 0.9, 0.9],
        "steps": [30, inf, 50, inf],
        "seconds": [3, inf, 5, inf],
    }


def test_times_are_those_that_the_trial_recorded(tmp_path: Path) -> None:
    """From a real trial, which found them by another way; read with and without categories."""
    choices = ["experiment=learn", "init=he", "train.steps=12", "train.eval_every=3", "optimizer.lr=0.05"]
    choices += ["train.targets=[0.12,0.2,0.3,1.0]", "device=cpu", "device.threads=1", f"results.dir={tmp_path}"]
    recorded = harness.run_trial(harness.load_config(choices)).trial
    assert recorded["status"] == "ok"
    for tables in (analysis.read(tmp_path), harness.load(tmp_path)):
        times = analysis.times_to_targets(tables).replace(inf, nan)
        for column in ("steps", "seconds"):
            expected = [nan if value is None else value for value in recorded[f"{column}_to_target"]]
            assert times[column].tolist() == pytest.approx(expected, nan_ok=True)
        assert np.isfinite(times["steps"][0])


def test_diverged_run_is_never_and_stays_at_risk_to_the_budget() -> None:
    """It is not censored at its last step, nor left out."""
    trials, curves = arms_reaching({"a": [10, 30]})
    trials.append(trial(2, init="a", seed=2, status="diverged", diverged_step=7))
    curves += curve("trial00002", [0.1, nan])
    arm = standings.ranking(frames(trials, curves), target=0.9).table.iloc[0]
    assert (arm["n"], arm["successes"], arm["median"]) == (3, 2, 30)
    assert arm["rmst"] == pytest.approx((10 + 30 + 100) / 3)


def test_diverged_run_that_was_there_before_has_its_time() -> None:
    (arm,) = timed_arms(frames([trial(0, status="diverged")], curve("trial00000", [0.1, 0.95, nan])), target=0.9).arms
    assert arm.times.tolist() == [10]


@pytest.mark.parametrize("status", ["error", "oom", "timeout", "killed"])
def test_run_that_was_ended_from_outside_says_nothing(status: str) -> None:
    trials, curves = arms_reaching({"a": [10, 30]})
    trials += [trial(7, init="a", seed=7, status=status), trial(8, init="b", seed=0, status=status)]
    ranking = standings.ranking(frames(trials, curves), target=0.9)
    assert (row(ranking, "a")["n"], row(ranking, "a")["unfinished"]) == (2, 1)
    assert (row(ranking, "b")["n"], row(ranking, "b")["verdict"]) == (0, "no finished run")
    assert "Left out: 2 that ended as error, oom, timeout, crashed or killed." in ranking.notes
    assert ranking.reference == "init=a"


def test_last_trial_of_a_seed_counts_and_a_failed_one_takes_nothing_from_it() -> None:
    trials = [trial(0, init="a", seed=0), trial(1, init="a", seed=0, trial_key="key0")]
    trials += [trial(2, init="a", seed=0, status="killed")]
    tables = frames(trials, [*curve("trial00000", reaching(10)), *curve("trial00001", reaching(30))])
    (arm,) = timed_arms(tables, target=0.9).arms
    assert (arm.times.tolist(), arm.repeated, arm.unfinished) == ([30], 1, 0)
    notes = standings.ranking(tables, target=0.9).notes
    assert any(note.startswith("Left out: 1 that repeat") for note in notes)
    assert any(note.startswith("Trials of one seed have different configs") for note in notes), "key0 is not key2"


def test_one_short_run_takes_nothing_from_the_budget_of_the_others() -> None:
    """It is left out though it got there, and a longer one counts up to the budget of most."""
    trials, curves = arms_reaching({"a": [80, 90, 30], "b": [70, None, 60]})
    trials += [trial(6, init="a", seed=3, steps=20, train_time_s=1.0), trial(7, init="b", seed=3, steps=500)]
    trials += [trial(8, init="b", seed=4, steps=20), trial(9, init="b", seed=5, steps=5, status="error")]
    curves += [*curve("trial00006", reaching(10, 20)), *curve("trial00007", reaching(110, 500))]
    curves += curve("trial00008", reaching(None, 20))
    tables = frames(trials, curves)
    assert (analysis.budget_of(tables), analysis.budget_of(tables, "seconds")) == (100, 10)
    assert [arm.times.tolist() for arm in timed_arms(tables, target=0.9, by=["init"]).arms] == [
        [80, 90, 30],
        [70, inf, 60, inf],
    ]
    ranking = standings.ranking(tables, target=0.9, by=["init"])
    assert ranking.notes[:3] == [
        "Budget of every run: 100 steps; a run that does not get there in it counts as never.",
        "Left out: 2 planned for fewer than the 100 steps of most.",
        "Followed up to step 100 only: 1 planned for more.",
    ]
    apart = standings.ranking(tables, target=0.9)
    words = dict(zip(apart.table["arm"], apart.table["verdict"], strict=True))
    assert words["init=a steps=20"] == words["init=b steps=20"] == "planned for fewer steps"
    assert words["init=b steps=500"] == "never"


def test_short_trial_of_a_seed_does_not_hide_the_whole_one() -> None:
    trials = [trial(0, init="a", seed=0), trial(1, init="a", seed=0, steps=20), trial(2, init="a", seed=1)]
    curves = [*curve("trial00000", reaching(40)), *curve("trial00001", reaching(None, 20))]
    tables = frames(trials, [*curves, *curve("trial00002", reaching(50))])
    (arm,) = timed_arms(tables, target=0.9, by=["init"]).arms
    assert (arm.times.tolist(), arm.shorter, arm.lost, arm.repeated) == ([40, 50], 1, 0, 0)


def test_of_two_plans_that_are_as_frequent_the_shorter_is_the_budget_and_nobody_is_left_out() -> None:
    """As of two experiments swept over the same seeds."""
    trials = [trial(i, init="ab"[i % 2], steps=(3000, 5000)[i % 2], seed=i // 2) for i in range(8)]
    trials += [trial(9, steps=5000, status="oom")]
    curves = [point for row_ in trials[:8] for point in curve(row_["trial_id"], reaching(2000, 5000))]
    ranking = standings.ranking(frames(trials, curves), target=0.9, by=["init"])
    assert ranking.notes[:2] == [
        "Budget of every run: 3,000 steps; a run that does not get there in it counts as never.",
        "Followed up to step 3,000 only: 4 planned for more.",
    ]
    assert ranking.table["n"].tolist()[:2] == [4, 4]
    assert np.isnan(analysis.budget_of(frames([trial(0, status="error")])))


def test_budget_in_seconds_is_the_shortest_whole_run() -> None:
    """A run that diverged early, or was planned for fewer steps, is none."""
    trials = [trial(0, train_time_s=8.0), trial(1, train_time_s=9.0), trial(2, status="diverged", train_time_s=0.5)]
    assert analysis.budget_of(frames([*trials, trial(3, steps=9, train_time_s=1.0)]), "seconds") == 8


def test_deterministic_arm_is_one_run_in_effect() -> None:
    """The same weights at both ends, or the same at first on a fixed batch."""
    same = {"initial_weights_sha256": "w"}
    trials, curves = arms_reaching({"draws": SLOW})
    for batches, end, init in (("epochs", "e", "same ends"), ("fixed", None, "same start")):
        for seed in range(10):
            weights = same | {"batches": batches, "final_weights_sha256": end or f"rounding{seed}"}
            trials.append(trial(len(trials), init=init, seed=seed, **weights))
            curves += curve(trials[-1]["trial_id"], reaching(10 if end else 20))
    for seed in range(10):
        # the same start, but batches drawn from the seed: these are ten runs
        trials.append(trial(len(trials), init="batches differ", seed=seed, **same))
        curves += curve(trials[-1]["trial_id"], reaching(30))
    ranking = standings.ranking(frames(trials, curves), target=0.9, by=["init"], reference="init=draws")
    counts = ranking.table.set_index("init")[["n", "n_effective"]].to_numpy().tolist()
    assert dict(zip(ranking.table["init"], counts, strict=True)) == {
        "same ends": [10, 1],
        "same start": [10, 1],
        "batches differ": [10, 10],
        "draws": [10, 10],
    }
    assert [verdicts(ranking)[name] for name in ("same ends", "same start")] == ["one run in effect"] * 2
    assert verdicts(ranking)["batches differ"] == "better"
    assert np.isnan(row(ranking, "same ends")["rmst_low"]), "no interval of width 0"
    assert row(ranking, "same ends")["success_low"] < 0.25, "one success of one, not ten of ten"
    assert any("n = 1 in effect: init=same ends, init=same start" in note for note in ranking.notes)


# ranking


def test_separated_arms_are_better_and_worse() -> None:
    ranking = ranked({"slow": SLOW, "fast": FAST})
    assert ranking.table["init"].tolist() == ["fast", "slow"]
    assert verdicts(ranking) == {"fast": "better", "slow": "worse"}
    assert (ranking.reference, ranking.picked, ranking.budget) == ("init=fast", True, 100)
    assert (row(ranking, "slow")["improvement"], row(ranking, "slow")["p"]) == (0, pytest.approx(2 / 184756))
    assert row(ranking, "fast")["rmst_low"] < 14 < row(ranking, "fast")["rmst_high"]
    assert verdicts(ranked({"slow": SLOW, "fast": FAST}, reference="slow")) == {"fast": "better", "slow": "reference"}


def test_three_seeds_never_rank() -> None:
    ranking = ranked({"slow": SLOW[:3], "fast": FAST[:3]})
    assert set(verdicts(ranking).values()) == {"n too small to tell"}
    assert ranking.notes[1].startswith("Fewest runs of an arm: 3, which can show p = 0.1 at best")


def test_many_arms_need_more_runs() -> None:
    """Nineteen comparisons with a reference, or 190 pairs if the data chose it."""
    arms = {f"init{index:02d}": SLOW[:5] for index in range(19)} | {"fast": FAST[:5]}
    assert set(verdicts(ranked(arms)).values()) == {"n too small to tell"}
    assert verdicts(ranked(arms, reference="fast"))["init00"] == "n too small to tell"
    six = {name: [*times, times[0]] for name, times in arms.items()}
    assert verdicts(ranked(six, reference="fast"))["init00"] == "worse"
    assert verdicts(ranked(six))["init00"] == "n too small to tell", "190 pairs need seven"


def test_overlapping_arms_are_not_separated() -> None:
    ranking = ranked({"a": SLOW, "b": [*SLOW[1:], 40]})
    assert set(verdicts(ranking).values()) == {"not separated"}


def test_arm_that_never_reaches_says_so() -> None:
    ranking = ranked({"zero": [None] * 10, "fast": FAST})
    assert verdicts(ranking) == {"fast": "better", "zero": "never"}
    zero = row(ranking, "zero")
    assert said(zero, "100 steps") == "never in 10 of 10 within 100 steps"
    assert (zero["successes"], zero["success_share"], zero["rmst"]) == (0, 0, 100)
    assert np.isnan(zero["median"])
    assert np.isnan(zero["rmst_low"])
    assert 0.2 < zero["success_high"] < 0.35


def test_only_arms_that_never_reach() -> None:
    ranking = ranked({"zero": [None] * 10, "one": [None] * 10})
    assert set(verdicts(ranking).values()) == {"never"}
    assert ranking.table[["improvement", "improvement_low", "improvement_high", "p", "p_holm"]].isna().all(axis=None)
    assert "No run reaches 0.9 within 100 steps: there is nothing to compare." in ranking.notes


def test_never_against_a_chosen_arm_that_never_reaches_is_nothing_to_compare() -> None:
    ranking = ranked({"zero": [None] * 10, "one": [None] * 10, "fast": FAST}, reference="zero")
    assert np.isnan(row(ranking, "one")["improvement"])
    assert row(ranking, "fast")["improvement"] == 1
    assert verdicts(ranking)["fast"] == "better"
    assert not any("nothing to compare" in note for note in ranking.notes)


def test_single_arm_and_no_finished_run_and_nothing_at_all() -> None:
    assert verdicts(ranked({"a": FAST})) == {"a": "only arm"}
    failed = standings.ranking(frames([trial(0, status="error", init="a")]), target=0.9)
    assert (verdicts(failed), failed.reference) == ({"a": "no finished run"}, "")
    nothing = standings.ranking(frames([]), target=0.9)
    assert len(nothing.table) == 0
    assert list(nothing.table) == list(failed.table)


def test_wrong_names_are_refused_in_one_line() -> None:
    tables = frames(*arms_reaching({"a": [10]}))
    for arguments, words in (
        ({"reference": "init=x"}, "reference=init=x: no such arm; choose one of: init=a"),
        ({"by": ["inti"]}, "by=inti: no column of trials"),
        ({"unit": "hours"}, "unit=hours; choose steps or seconds"),
    ):
        with pytest.raises(UsageError, match=words):
            standings.ranking(tables, target=0.9, **arguments)  # type: ignore[arg-type]


def test_every_verdict_has_its_words_and_its_tone() -> None:
    assert set(VERDICTS) == set(get_args(Verdict))
    assert {wording.tone for wording in VERDICTS.values()} == set(get_args(Tone))


def test_ranking_of_arms_timed_before_is_that_of_the_frames() -> None:
    """Whatever is made of arms is the same from frames, and from arms and labels that were made once."""
    tables = frames(*arms_reaching({"a": FAST, "b": SLOW, "zero": [None] * 10}))
    labels = analysis.label_arms(tables.trials)
    every = analysis.timed_arms_of_targets(tables, [0.5, 0.9], by=labels)
    for timed in every:
        one_by_one = standings.ranking(tables, target=timed.target)
        pd.testing.assert_frame_equal(standings.rank(timed).table, one_by_one.table, check_exact=True)
        assert standings.rank(timed).notes == one_by_one.notes
        survival = analysis.survival_curves(tables, target=timed.target)
        pd.testing.assert_frame_equal(analysis.survival_of(timed), survival, check_exact=True)
    pd.testing.assert_frame_equal(analysis.profiles_of(every), analysis.profiles(tables), check_exact=True)


def test_labels_of_a_part_are_those_of_the_whole() -> None:
    """Some arms alone would be told apart by less."""
    trials, curves = arms_reaching({"a": [10, 30], "b": [20, 60]}, lr=0.1)
    trials[3] |= {"lr": 0.5, "arm_key": "another"}
    labels = analysis.label_arms(frames(trials, curves).trials)
    part = frames(trials, curves)._replace(trials=frames(trials, curves).trials.iloc[:2])
    assert [arm.label for arm in timed_arms(part, target=0.9, by=labels).arms] == ["init=a lr=0.1"]
    assert [arm.label for arm in timed_arms(part, target=0.9).arms] == ["init=a"]


@given(data=st.data())
@settings(max_examples=15)
def test_ranking_does_not_depend_on_the_order_of_rows(data: st.DataObject) -> None:
    trials, curves = arms_reaching({"a": FAST, "b": SLOW, "c": [None] * 4})
    shuffled = frames(data.draw(st.permutations(trials)), data.draw(st.permutations(curves)))
    expected = standings.ranking(frames(trials, curves), target=0.9)
    ranking = standings.ranking(shuffled, target=0.9)
    pd.testing.assert_frame_equal(ranking.table, expected.table)
    assert ranking.notes == expected.notes


def test_equal_arms_are_seldom_told_apart() -> None:
    """80 folders of eight arms that are all the same: any claim in at most 5% of them, also of the picked best."""
    draw, claims = np.random.default_rng(5), 0
    trials, curves = arms_reaching({f"init{index}": [None] * 10 for index in range(8)})
    blank = frames(trials, curves)
    for _ in range(80):
        steps = np.repeat(draw.integers(1, 11, size=80) * 10, 11)
        reached = blank.curves.assign(test_accuracy=np.where(blank.curves["step"] >= steps, 0.95, 0.1))
        table = standings.ranking(blank._replace(curves=reached), target=0.9).table
        claims += bool(table["verdict"].isin(["better", "worse"]).any())
    assert claims / 80 <= 0.05 + 4 * np.sqrt(0.05 * 0.95 / 80)


def test_two_rankings_are_the_same_bit_for_bit() -> None:
    arms = {"a": FAST, "b": SLOW}
    pd.testing.assert_frame_equal(ranked(arms).table, ranked(arms).table, check_exact=True)


# tables


def test_survival_curves_run_from_all_to_the_budget() -> None:
    survival = analysis.survival_curves(frames(*arms_reaching({"a": [10, 30], "zero": [None]})), target=0.9)
    assert survival.to_numpy().tolist() == [
        ["init=a", 0, 1, 2],
        ["init=a", 10, 0.5, 2],
        ["init=a", 30, 0, 2],
        ["init=a", 100, 0, 2],
        ["init=zero", 0, 1, 1],
        ["init=zero", 100, 1, 1],
    ]


def test_bands_are_quantiles_over_runs() -> None:
    trials = [trial(i, init="a") for i in range(5)] + [trial(9, init="a", status="error")]
    rows = [point for i in range(5) for point in curve(f"trial{i:05d}", [0.1 * i, nan if i else 0.5])]
    bands = analysis.curve_bands(frames(trials, [*rows, *curve("trial00009", [9.0])]))
    assert bands.to_dict("records") == [
        pytest.approx(
            {"arm": "init=a", "step": 0, "n": 5, "median": 0.2, "q25": 0.1, "q75": 0.3, "low": 0, "high": 0.4}
        ),
        pytest.approx(
            {"arm": "init=a", "step": 10, "n": 1, "median": 0.5, "q25": 0.5, "q75": 0.5, "low": 0.5, "high": 0.5}
        ),
    ]


def test_profiles_over_targets_and_seeds() -> None:
    profiles = analysis.profiles(frames(*arms_reaching({"a": [10, None], "b": [20, 20]})), factors=(1, 2))
    assert profiles.to_numpy().tolist() == [
        ["init=a", 1, 0.5],
        ["init=a", 2, 0.5],
        ["init=b", 1, 0.5],
        ["init=b", 2, 1],
    ]


def test_throughput_is_quartiles_over_trials() -> None:
    rows = [
        trial(i, device_model="cpu", images_per_s_median=100.0 * i, matmul_share=0.1 * i, step_ms_median=1.0)
        for i in (1, 2, 3, 4, 5)
    ]
    speeds = analysis.throughput(frames([*rows, trial(9, device_model="cpu")]).trials, by=["device_model", "depth"])
    assert len(speeds) == 1
    assert speeds.iloc[0]["n"] == 5
    assert speeds.iloc[0][["images_per_s_q25", "images_per_s_median", "images_per_s_q75"]].tolist() == [200, 300, 400]
    assert speeds.iloc[0]["matmul_share_median"] == pytest.approx(0.3)


def test_throughput_of_other_threads_is_not_pooled() -> None:
    rows = [trial(i, threads=1 + i % 2, images_per_s_median=100.0 * (1 + i % 2), device_model="cpu") for i in range(6)]
    speeds = analysis.throughput(frames(rows).trials)
    assert speeds[["threads", "n", "images_per_s_q25", "images_per_s_median"]].to_numpy().tolist() == [
        [1, 3, 100, 100],
        [2, 3, 200, 200],
    ]
    assert "threads" not in analysis.throughput(frames(rows[::2]).trials)


def test_completeness_counts_planned_failed_and_missing() -> None:
    oom = {"status": "oom", "error_type": "MemoryError", "error_message": "no memory"}
    rows = [trial(i, sweep_id="s1", sweep_size=5) for i in range(2)]
    rows += [trial(i, sweep_id="s1", sweep_size=5, **oom) for i in (2, 3)]
    rows += [trial(4, status="killed", error_type="Killed"), trial(5)]
    completeness = analysis.completeness(frames(rows).trials)
    names = ["planned", "recorded", "ok", "failed", "missing"]
    assert completeness.sweeps[names].to_numpy().tolist() == [[5, 4, 2, 2, 1], [2, 2, 1, 1, 0]]
    assert completeness.statuses == {"ok": 3, "oom": 2, "killed": 1}
    # resumed: one of the five had been done before
    resumed = analysis.completeness(frames(rows).trials, {"s1": 1}).sweeps
    assert resumed[names].to_numpy().tolist() == [[4, 4, 2, 2, 0], [2, 2, 1, 1, 0]]
    assert completeness.failures[["status", "error_type", "trials", "example"]].to_numpy().tolist() == [
        ["oom", "MemoryError", 2, "trial00002"],
        ["killed", "Killed", 1, "trial00004"],
    ]


def test_empty_results_give_empty_tables(tmp_path: Path) -> None:
    (tmp_path / "trials").mkdir()
    for tables in (analysis.read(tmp_path), frames([])):
        assert analysis.arm_columns(tables.trials) == ["init"]
        assert len(analysis.survival_curves(tables, target=0.9)) == 0
        assert len(analysis.curve_bands(tables)) == 0
        assert len(analysis.profiles(tables)) == 0
        assert len(analysis.throughput(tables.trials)) == 0
        assert len(analysis.times_to_targets(tables)) == 0
        assert len(analysis.ranking(tables, target=0.9).table) == 0
        assert len(analysis.completeness(tables.trials).sweeps) == 0


def test_analysis_of_a_folder_loads_neither_torch_nor_the_program_that_trains(tmp_path: Path) -> None:
    write(tmp_path, *arms_reaching({"a": [10, 30], "b": [20, None]}))
    code = (
        "import sys, json; from harness import analysis; f = analysis.read(sys.argv[1]);"
        "analysis.survival_curves(f, target=0.9); analysis.curve_bands(f); analysis.profiles(f);"
        "analysis.throughput(f.trials); analysis.completeness(f.trials);"
        "assert not {'torch', 'triton', 'harness.trial'} & set(sys.modules);"
        "print(json.dumps(analysis.ranking(f, target=0.9).table['n'].tolist()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True, text=True, timeout=60
    )
    assert json.loads(done.stdout) == [2, 2]


def test_read_gives_what_load_gives(tmp_path: Path) -> None:
    rows: tuple[list[Row], list[Row]] = arms_reaching({"a": FAST, "b": SLOW})
    write(tmp_path, *rows)
    for tables in (analysis.read(tmp_path), harness.load(tmp_path)):
        pd.testing.assert_frame_equal(
            analysis.ranking(tables, target=0.9).table, analysis.ranking(frames(*rows), target=0.9).table
        )


def test_ranking_by_seconds_uses_the_time_trained() -> None:
    """A second between evaluations; the run that stops after four seconds sets the budget of all."""
    trials, curves = arms_reaching({"a": [10, 30], "b": [20, 60]})
    trials[3]["train_time_s"] = 4.0
    ranking = standings.ranking(frames(trials, curves), target=0.9, unit="seconds")
    assert (ranking.budget, ranking.unit) == (4, "seconds")
    assert ranking.table[["init", "successes", "rmst"]].to_numpy().tolist() == [["a", 2, 2.0], ["b", 1, 3.0]]
    assert ranking.notes[0].startswith("Budget of every run: 4 seconds")


# curves that are not there


def test_a_run_whose_curve_is_lost_is_left_out_and_is_not_never() -> None:
    """Lost files must not make the winner one that never arrives."""
    rows, curves = arms_reaching({"quick": FAST, "late": SLOW})
    lost = {row_["trial_id"] for row_ in rows if row_["init"] == "quick" and row_["seed"] < 4}
    ranking = standings.ranking(frames(rows, [c for c in curves if c["trial_id"] not in lost]), target=0.9)
    assert (row(ranking, "quick")["n"], row(ranking, "quick")["successes"]) == (6, 6)
    assert ranking.table["init"].iloc[0] == "quick"
    assert any("Left out: 4 whose curves are missing" in note for note in ranking.notes)


def test_without_any_curve_nothing_is_said_of_anybody() -> None:
    rows, _ = arms_reaching({"quick": FAST, "late": SLOW})
    ranking = standings.ranking(frames(rows), target=0.9)
    assert set(verdicts(ranking).values()) == {"no finished run"}
    assert any("Left out: 20 whose curves are missing" in note for note in ranking.notes)
