"""The gate on tables of trials: its rule, its pairs, and what it says of machines, failures and what is missing."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, get_args

import numpy as np
import pytest
from made_trials import Row, frame, trial

from harness.analysis.comparison import paired
from harness.compare import VERDICTS, Comparison, GateResult, Rules, Verdict, compare_trials, preparation
from harness.compare.measures import KINDS, for_people, on_scale, parse_values, thresholds_with
from harness.compare.pairs import seed_results
from harness.compare.power import detectable, fewest_pairs, pairs_needed, repetitions_needed, reported
from harness.errors import UsageError
from harness.results import SPEED as SPEED_CONDITIONS

LOSS = Rules(judged=("test_loss",))
SPEED = Rules(judged=("images_per_s",))
NOISE = (-0.011, 0.007, 0.002, -0.005, 0.013, -0.008, 0.004, 0.001, -0.003, 0.006)


def sides(n: int, column: str, change: Callable[[int], float], base: float = 0.5) -> tuple[list[Row], list[Row]]:
    """Base and candidate with n seeds; the candidate's column is the base's times 1 + change(seed)."""
    ours = [trial(seed, **{column: base * (1 + 0.3 * seed)}) for seed in range(n)]
    theirs = [trial(seed, **{column: base * (1 + 0.3 * seed) * (1 + change(seed))}) for seed in range(n)]
    return ours, theirs


def compared(base: Sequence[Row], candidate: Sequence[Row], rules: Rules = LOSS, **options: Any) -> GateResult:
    return compare_trials(frame(base), frame(candidate), rules, **options)


def only(outcome: GateResult, measure: str = "test loss") -> Comparison:
    (comparison,) = [one for one in outcome.comparisons if one.measure == measure]
    return comparison


def test_worse_by_more_than_the_threshold_and_separated_is_a_regression() -> None:
    outcome = compared(*sides(10, "test_loss_last", lambda seed: 0.2 + NOISE[seed]))
    assert (only(outcome).verdict, outcome.exit_code, outcome.verdict) == ("regression", 1, "regression")
    assert only(outcome).change == pytest.approx(0.2, abs=0.01)
    assert only(outcome).p_holm == 2**-9


def test_a_small_separated_change_is_none() -> None:
    outcome = compared(*sides(10, "test_loss_last", lambda seed: 0.02 + NOISE[seed] / 10))
    assert (only(outcome).verdict, outcome.exit_code) == ("ok", 0)
    assert only(outcome).p_holm < 0.05


def test_a_large_change_that_is_not_separated_is_inconclusive() -> None:
    outcome = compared(*sides(10, "test_loss_last", lambda seed: 0.2 + 100 * NOISE[seed]))
    assert (only(outcome).verdict, outcome.exit_code, outcome.verdict) == ("inconclusive", 3, "inconclusive")
    assert only(outcome).change > only(outcome).threshold
    assert "not separated" in only(outcome).why


def test_ok_needs_that_a_regression_is_excluded_or_would_have_been_seen() -> None:
    """Equal on average, with noise far above the threshold: nothing is known."""
    noisy = only(compared(*sides(10, "test_loss_last", lambda seed: 50 * (NOISE[seed] - 0.0006))))
    assert noisy.interval is not None
    assert abs(noisy.change) < noisy.threshold < min(noisy.interval.high, noisy.detectable)
    assert noisy.verdict == "inconclusive"
    quiet = only(compared(*sides(10, "test_loss_last", lambda seed: NOISE[seed])))
    assert quiet.verdict == "ok"


@pytest.mark.parametrize(("kind", "column", "base"), [
    ("test_loss", "test_loss_last", 0.5), ("images_per_s", "images_per_s_median", 5000.0),
])  # fmt: skip
@pytest.mark.parametrize("factor", [-0.4, 0.4])
def test_direction_of_each_measure(kind: str, column: str, base: float, factor: float) -> None:
    outcome = compared(*sides(8, column, lambda seed: factor + NOISE[seed], base), Rules(judged=(kind,)))
    worse = (factor > 0) == (kind == "test_loss")
    names = {"test_loss": "test loss", "images_per_s": "images/s"}
    assert only(outcome, names[kind]).verdict == ("regression" if worse else "improvement")
    assert outcome.exit_code == (1 if worse else 0)


@pytest.mark.parametrize("change", [-0.05, 0.05])
def test_accuracy_is_better_when_larger(change: float) -> None:
    ours = [trial(seed, test_accuracy_last=0.8) for seed in range(8)]
    theirs = [trial(seed, test_accuracy_last=0.8 + change + NOISE[seed] / 10) for seed in range(8)]
    comparison = only(compared(ours, theirs, Rules(judged=("test_accuracy",))), "test accuracy")
    assert comparison.verdict == ("improvement" if change > 0 else "regression")
    assert comparison.change == pytest.approx(change, abs=0.002)


@pytest.mark.parametrize("later", [-100, 100])
def test_steps_to_a_target_are_better_when_fewer_and_never_is_the_budget(later: int) -> None:
    ours = [trial(seed, steps_to_target=[300, 500, 800, None]) for seed in range(8)]
    theirs = [trial(seed, steps_to_target=[300, 500, 800 + later, None]) for seed in range(8)]
    outcome = compared(ours, theirs, Rules(judged=("steps",)))
    assert only(outcome, "steps to 0.9").verdict == ("regression" if later > 0 else "improvement")
    never = only(outcome, "steps to 0.95")
    assert (never.verdict, never.why) == ("not judged", "no run of either side reaches it")


def test_targets_that_nobody_reaches_are_never_ok() -> None:
    """Not even of runs that are the same bit by bit."""
    ours = [trial(seed, final_weights_sha256=str(seed), steps_to_target=[None] * 4) for seed in range(8)]
    outcome = compared(ours, ours, Rules(judged=("steps",)))
    assert {one.verdict for one in outcome.comparisons} == {"not judged"}
    assert outcome.exit_code == 3
    theirs = [{**row, "steps_to_target": [300, None, None, None]} for row in ours]
    assert only(compared(ours, theirs, Rules(judged=("steps",))), "steps to 0.5").verdict != "not judged"


def test_a_target_that_one_side_lacks_is_shown_as_not_judged() -> None:
    ours = [trial(seed) for seed in range(8)]
    theirs = [{**row, "targets": [0.5], "steps_to_target": [300]} for row in ours]
    comparison = only(compared(ours, theirs, Rules()), "steps to 0.8")
    assert (comparison.verdict, comparison.why) == ("not judged", "not a target of every trial on both sides")


@pytest.mark.parametrize("loss", [0.5, 0.2])
def test_survivors_are_not_judged_for_those_that_diverged(loss: float) -> None:
    """Their loss may be as good as it likes."""
    ours = [trial(seed, test_loss_last=0.5) for seed in range(12)]
    theirs = [trial(seed, test_loss_last=loss + NOISE[seed % 10] / 100) for seed in range(9)]
    theirs += [trial(seed, status="diverged", test_loss_last=math.nan) for seed in (9, 10, 11)]
    outcome = compared(ours, theirs)
    assert (only(outcome).verdict, outcome.exit_code) == ("inconclusive", 3)
    assert only(outcome).why.startswith("3 of 12 candidates have no value")
    assert only(compared(theirs, ours)).verdict != "inconclusive"


def test_repetitions_on_another_machine_are_noticed() -> None:
    """Not only in the last one of a config."""
    ours, theirs = sides(8, "images_per_s_median", lambda _: 0.0, 5000.0)
    elsewhere = [{**row, "device_model": "Chip 10", "measured_at": row["measured_at"] - timedelta(1)} for row in theirs]
    elsewhere = [{**row, "trial_id": f"other-{row['trial_id']}"} for row in elsewhere]
    refused = compared(ours, [*elsewhere, *theirs], SPEED)
    assert refused.exit_code == 2
    assert "BASE has Chip 9, CANDIDATE Chip 10 and Chip 9" in refused.errors[0]


def test_another_processor_keeps_no_gpu_from_being_judged() -> None:
    ours = [trial(seed, device=device) for seed in range(8) for device in ("cpu", "cuda")]
    theirs = [
        {**row, "images_per_s_median": 2500.0 + row["seed"]} | ({"cpu_model": "Y"} if row["device"] == "cpu" else {})
        for row in ours
    ]
    outcome = compared(ours, theirs, SPEED, allow_different_hardware=True)
    verdicts = {one.arm.rpartition("=")[2]: one.verdict for one in outcome.comparisons if one.measure == "images/s"}
    assert verdicts == {"cpu": "not judged", "cuda": "regression"}
    assert outcome.exit_code == 1


@pytest.mark.parametrize("n", range(1, 6))
def test_pairs_that_can_never_be_separated_are_inconclusive(n: int) -> None:
    outcome = compared(*sides(n, "test_loss_last", lambda seed: NOISE[seed] / 100))
    assert (only(outcome).verdict, outcome.exit_code) == ("inconclusive", 3)
    assert f"{n} pairs can never separate" in only(outcome).why


def test_holm_counts_every_comparison_that_could_reject() -> None:
    """Two arms with 6 pairs: the smallest p is 1/32 each, 1/16 adjusted; one arm alone is separated."""
    both: list[list[Row]] = [[], []]
    for init in ("init=glorot", "init=he"):
        for side, factor in zip(both, (1.0, 1.5), strict=True):
            side += [trial(seed, init, test_loss_last=(1 + seed) * (factor + NOISE[seed])) for seed in range(6)]
    together = compared(*both)
    assert {one.p_holm for one in together.comparisons if one.measure == "test loss"} == {1 / 16}
    assert together.exit_code == 3
    assert compared(*(side[:6] for side in both)).exit_code == 1


def test_seeds_are_paired_by_key_and_not_by_position() -> None:
    ours, theirs = sides(8, "test_loss_last", lambda seed: 0.2 + NOISE[seed])
    shuffled = [theirs[place] for place in (3, 1, 7, 0, 6, 2, 5, 4)]
    assert only(compared(ours, shuffled)) == only(compared(ours, theirs))


@pytest.mark.parametrize(
    ("theirs", "difference"),
    [
        ([trial(seed, device="cuda") for seed in range(8)], "of device, BASE has cpu, CANDIDATE cuda"),
        ([trial(seed, "device.threads=3") for seed in range(8)], "of threads, BASE has 2, CANDIDATE 3"),
    ],
)
def test_the_same_settings_on_another_device_or_with_other_threads_are_no_partners(
    theirs: list[Row], difference: str
) -> None:
    outcome = compared([trial(seed) for seed in range(8)], theirs)
    assert outcome.exit_code == 2
    assert "no trial in common" in outcome.errors[0]
    assert difference in outcome.errors[0]


def test_repetitions_are_averaged_within_the_pair_and_add_no_pairs() -> None:
    ours = [trial(seed, test_loss_last=loss) for seed in range(8) for loss in (0.4, 0.8)]
    theirs = [trial(seed, test_loss_last=0.6) for seed in range(8)]
    comparison = only(compared(ours, theirs))
    assert (comparison.n, comparison.base) == (8, pytest.approx(0.6))
    assert comparison.change == pytest.approx(0, abs=1e-12)


def test_throughput_of_repetitions_is_their_median() -> None:
    (result,) = seed_results(frame([trial(0, images_per_s_median=rate) for rate in (10.0, 4000.0, 4100.0)]))
    assert result.values["images/s"] == 4000


def test_throughput_is_a_ratio() -> None:
    ours, theirs = sides(8, "images_per_s_median", lambda _: -0.5, base=1000.0)
    comparison = only(compared(ours, theirs, SPEED), "images/s")
    assert comparison.change == pytest.approx(-0.5)


def test_the_same_bits_are_ok_with_any_number_of_seeds() -> None:
    ours = [trial(seed, final_weights_sha256=str(seed)) for seed in range(2)]
    outcome = compared(ours, ours)
    assert only(outcome).why == "the same bits in all 2 pairs"
    assert outcome.exit_code == 0


def test_a_change_of_a_deterministic_program_is_said_to_be_real() -> None:
    ours = [trial(seed, final_weights_sha256=f"a{seed}") for seed in range(8) for _ in range(2)]
    theirs = [trial(seed, final_weights_sha256=f"b{seed}") for seed in range(8) for _ in range(2)]
    (note,) = [note for note in compared(ours, theirs).notes if "other weights" in note]
    assert "8 of 8 trials" in note
    assert "repetitions give the same bits, so the program changed and this is no noise" in note
    assert "other seeds" in note
    newer = [{**row, "torch_version": "2.16.0"} for row in theirs]
    notes = compared(ours, newer).notes
    assert not any("other weights" in note for note in notes)
    assert "torch_version: BASE 2.15.0, CANDIDATE 2.16.0." in notes


def test_what_differs_between_repetitions_is_not_deterministic() -> None:
    ours = [trial(seed) for seed in range(8) for _ in range(2)]
    notes = compared(ours, [trial(seed) for seed in range(8)]).notes
    assert any("not deterministic" in note for note in notes)
    assert not any("program changed" in note for note in notes)


def test_weights_that_no_seed_changes_are_one_run_in_effect() -> None:
    ours = [trial(seed, final_weights_sha256="a", test_loss_last=0.5) for seed in range(10)]
    theirs = [trial(seed, final_weights_sha256="b", test_loss_last=0.8) for seed in range(10)]
    comparison = only(compared(ours, theirs))
    assert (comparison.n, comparison.effective, comparison.interval, comparison.verdict) == (10, 1, None, "regression")
    assert math.isnan(comparison.p)
    assert "n = 1 in effect" in comparison.why
    nearly = [{**row, "test_loss_last": 0.51} for row in theirs]
    assert only(compared(ours, nearly)).verdict == "ok"


def test_a_constant_change_over_seeds_gets_no_interval() -> None:
    ours = [trial(seed, test_loss_last=0.5) for seed in range(8)]
    theirs = [trial(seed, test_loss_last=0.6) for seed in range(8)]
    assert only(compared(ours, theirs)).interval is None


@pytest.mark.parametrize("column", ["device_model", "cpu_model", "threads"])
def test_different_hardware_is_an_error_unless_allowed(column: str) -> None:
    ours, theirs = sides(8, "images_per_s_median", lambda seed: -0.5 + NOISE[seed], 5000.0)
    other = [{**row, column: 7 if column == "threads" else "Chip 10"} for row in theirs]
    refused = compared(ours, other, SPEED)
    assert refused.exit_code == 2
    (line,) = refused.errors
    assert column in line
    assert "--allow-different-hardware" in line
    allowed = compared(ours, other, SPEED, allow_different_hardware=True)
    assert (only(allowed, "images/s").verdict, allowed.exit_code) == ("not judged", 3)
    assert only(allowed, "images/s").why == "different hardware"
    assert any("Throughput is not judged there" in note for note in allowed.notes)
    assert compared(ours, theirs, SPEED).exit_code == 1


NOISY = [[trial(seed, images_per_s_median=5000 * (1 + sign * NOISE[seed])) for seed in range(8)] for sign in (1, -1)]
"""Two sides that are equally fast."""
XEON = "Intel(R) Xeon(R) Processor (family 6 model 167 stepping 1, cache 491520 KB, amx_tile)"


@pytest.mark.parametrize(("base", "candidate"), [
    (None, None), (None, "Chip 9"), ("Chip 9", None), ("aarch64", "aarch64"), ("x86_64", "x86_64"),
    ("QEMU Virtual CPU version 2.5+", "QEMU Virtual CPU version 2.5+"),
    ("Intel(R) Xeon(R) Processor", "Intel(R) Xeon(R) Processor"),
])  # fmt: skip
@pytest.mark.parametrize("columns", [("cpu_model",), ("device_model",), ("cpu_model", "device_model")], ids=str)
def test_speed_is_never_ok_where_nothing_names_the_machine(
    base: str | None, candidate: str | None, columns: tuple[str, ...]
) -> None:
    """Without a name two machines are equal to a program, as are all that share one."""
    names = zip(NOISY, (base, candidate), strict=True)
    ours, theirs = ([{**row, **dict.fromkeys(columns, name)} for row in side] for side, name in names)
    for rules in (SPEED, Rules(judged=("images_per_s", "test_accuracy"))):
        outcome = compared(ours, theirs, rules)
        assert (only(outcome, "images/s").verdict, outcome.errors, outcome.exit_code) == ("not judged", (), 3)
        assert f"of {columns[0]}, BASE has {base or 'none'}, CANDIDATE {candidate or 'none'}" in str(outcome.notes)
        assert outcome.unknown_hardware
        assert outcome.unknown_hardware[0] in only(outcome, "images/s").why
    alone = compared(ours, theirs, Rules(judged=("test_accuracy",)))
    assert (only(alone, "test accuracy").verdict, alone.exit_code) == ("ok", 0), "nobody asked for speed"
    allowed = compared(ours, theirs, Rules(judged=("images_per_s", "test_accuracy")), allow_different_hardware=True)
    assert (only(allowed, "images/s").verdict, allowed.exit_code) == ("not judged", 0)


@pytest.mark.parametrize("name", ["Chip 9", XEON, "AMD EPYC 7B13", "ARM part 0xd0c r3p1 (243.75 BogoMIPS)"])
def test_speed_is_judged_where_one_name_stands_for_one_machine(name: str) -> None:
    ours, theirs = ([{**row, "cpu_model": name, "device_model": name} for row in side] for side in NOISY)
    outcome = compared(ours, theirs, SPEED)
    assert (only(outcome, "images/s").verdict, outcome.exit_code, outcome.unknown_hardware) == ("ok", 0, ())


def test_an_older_name_of_the_same_processor_is_another_one() -> None:
    """A baseline of before names had numbers is refused with a line that shows both."""
    ours, theirs = (
        [{**row, "cpu_model": name, "device_model": name} for row in side]
        for side, name in zip(NOISY, ("Intel(R) Xeon(R) Processor", XEON), strict=True)
    )
    refused = compared(ours, theirs, SPEED)
    assert refused.exit_code == 2
    assert f"of cpu_model, BASE has Intel(R) Xeon(R) Processor, CANDIDATE {XEON}; run both" in str(refused.errors)


def test_some_runs_without_a_name_are_enough_to_leave_speed_alone() -> None:
    """And names that differ are still an error."""
    ours, theirs = ([dict(row) for row in side] for side in NOISY)
    theirs[3]["cpu_model"] = None
    outcome = compared(ours, theirs, SPEED)
    assert (only(outcome, "images/s").verdict, outcome.exit_code) == ("not judged", 3)
    assert "CANDIDATE Chip 9 and none" in only(outcome, "images/s").why
    theirs[4]["cpu_model"] = "Chip 10"
    assert compared(ours, theirs, SPEED).exit_code == 2


def test_a_regression_of_convergence_outweighs_an_unknown_machine() -> None:
    worse = sides(8, "test_loss_last", lambda seed: 0.2 + NOISE[seed])
    ours, theirs = ([{**row, "cpu_model": None} for row in side] for side in worse)
    assert compared(ours, theirs, Rules(judged=("test_loss", "images_per_s"))).exit_code == 1


def test_a_machine_that_nobody_knows_is_not_said_to_be_the_same() -> None:
    """Other weights may then come from it and not from the program."""
    ours, theirs = (
        [trial(seed, final_weights_sha256=f"{side}{seed}", cpu_model="aarch64") for seed in range(8) for _ in range(2)]
        for side in "ab"
    )
    assert not any("other weights" in note for note in compared(ours, theirs).notes)


def test_missing_arms_and_seeds_are_an_error_unless_allowed() -> None:
    glorot, he = ([trial(seed, f"init={init}") for seed in range(8)] for init in ("glorot", "he"))
    refused = compared([*glorot, *he], glorot[:7])
    assert refused.exit_code == 2
    assert [line.partition(";")[0] for line in refused.errors] == [
        "CANDIDATE lacks 1 arm of BASE: init=he",
        "CANDIDATE lacks 1 trial of BASE: init=glorot seed=7",
    ]
    allowed = compared([*glorot, *he], glorot[:7], allow_missing=True)
    assert allowed.exit_code == 0
    assert "init=he seed=3" in allowed.only_base


def test_what_only_the_candidate_has_is_listed_and_no_error() -> None:
    glorot, he = ([trial(seed, f"init={init}") for seed in range(8)] for init in ("glorot", "he"))
    outcome = compared(glorot, [*glorot, *he])
    assert (outcome.exit_code, len(outcome.only_candidate)) == (0, 8)
    assert outcome.only_base == ()


@pytest.mark.parametrize("status", ["error", "oom", "timeout"])
def test_a_trial_that_fails_in_the_candidate_alone_is_a_regression(status: str) -> None:
    ours = [trial(seed) for seed in range(8)]
    theirs = [*ours[:7], trial(7, status=status, error_type="Trouble", error_message="of a kind")]
    outcome = compared(ours, theirs)
    assert outcome.exit_code == 1
    (failure,) = outcome.failures
    assert (failure.seed, failure.message) == (7, f"{status}: Trouble: of a kind")
    assert compared(theirs, ours).exit_code == 0


def test_a_candidate_of_failures_alone_is_a_regression() -> None:
    ours = [trial(seed) for seed in range(8)]
    outcome = compared(ours, [{**row, "status": "error"} for row in ours])
    assert (outcome.exit_code, len(outcome.failures), outcome.comparisons) == (1, 8, ())


def test_a_candidate_that_was_killed_is_missing() -> None:
    ours = [trial(seed) for seed in range(8)]
    outcome = compared(ours, [*ours[:7], {**ours[7], "status": "killed"}])
    assert outcome.exit_code == 2
    assert "lacks 1 trial of BASE: init=glorot seed=7" in outcome.errors[0]


def test_a_trial_that_diverges_counts_as_never_and_as_chance() -> None:
    ours = [trial(seed, test_accuracy_last=0.8) for seed in range(8)]
    theirs = [trial(seed, status="diverged", steps_to_target=[None] * 4, test_loss_last=math.nan) for seed in range(8)]
    outcome = compared(ours, theirs, Rules())
    assert only(outcome, "test accuracy").candidate == pytest.approx(0.1)
    assert only(outcome, "steps to 0.5").verdict == "regression"
    assert only(outcome, "test loss").why == "no pair has this measure on both sides"
    assert any("8 trials diverged in the candidate alone" in note for note in outcome.notes)
    assert outcome.exit_code == 1


def test_arms_that_no_column_tells_apart_have_labels_of_their_own() -> None:
    ours = [
        trial(seed, f"+init.options.std={std}", "init=normal", init="normal") for seed in range(8) for std in (1, 2)
    ]
    assert len({one.arm for one in compared(ours, ours).comparisons}) == 2


def test_a_measure_that_is_not_judged_is_shown() -> None:
    outcome = compared(*sides(8, "images_per_s_median", lambda _: -0.5, 5000.0), LOSS)
    assert (only(outcome, "images/s").verdict, outcome.exit_code) == ("not judged", 0)


def test_values_are_read_with_and_without_percent() -> None:
    assert parse_values(["steps=5%", "test_loss=0.2"], "--threshold") == {"steps": 0.05, "test_loss": 0.2}
    assert set(thresholds_with({})) == set(KINDS)


@pytest.mark.parametrize("text", ["speed=1", "steps", "steps=", "steps=-1", "steps=0", "steps=nan", "steps=inf", "=1"])
def test_values_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=f"--threshold {text}"):
        parse_values([text], "--threshold")


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_scales_and_their_reverse(kind: Any) -> None:
    assert for_people(kind, on_scale(kind, 0.07)) == pytest.approx(0.07)


def test_more_comparisons_need_more_pairs() -> None:
    assert [fewest_pairs(k, 0.05) for k in (1, 2, 20)] == [6, 7, 10]
    assert detectable(1.0, 5, comparisons=1, alpha=0.05, power=0.8) == math.inf


def test_detectable_is_what_the_test_separates_four_times_in_five() -> None:
    """Against the test itself, not the formula: 400 draws, and five standard errors below."""
    generator, n = np.random.default_rng(5), 12
    smallest = detectable(1.0, n, comparisons=1, alpha=0.05, power=0.8)
    drawn = generator.normal(smallest, 1.0, size=(400, n))
    power = np.mean([paired(differences).p <= 0.05 for differences in drawn])
    assert 0.7 < power < 0.9


def test_pairs_and_repetitions_needed_are_the_fewest() -> None:
    common = {"threshold": 0.05, "comparisons": 4, "alpha": 0.05, "power": 0.8}
    n = pairs_needed(0.1, 0.12, **common)
    assert n is not None
    assert reported(0.1, n, **common) <= 0.12 < reported(0.1, n - 1, **common)
    times = repetitions_needed(0.1, 0.12, 10, **common)
    assert times is not None
    assert reported(0.1 / math.sqrt(times), 10, **common) <= 0.12 < reported(0.1 / math.sqrt(times - 1), 10, **common)
    assert pairs_needed(0.1, 0.05, **common) is None
    assert repetitions_needed(0.1, 0.12, 5, **common) is None


def test_what_cannot_reject_is_not_in_the_family() -> None:
    ours = [trial(seed) for seed in range(8)]
    outcome = compared(ours, [{**row, "test_loss_last": 0.6 + NOISE[row["seed"]]} for row in ours], Rules())
    tested = [one for one in outcome.comparisons if not math.isnan(one.p)]
    assert [one.measure for one in tested] == ["test loss"]
    assert tested[0].p_holm == tested[0].p


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        (["ok", "not judged"], 0),
        (["improvement", "ok"], 0),
        (["inconclusive", "improvement"], 3),
        (["inconclusive", "regression", "ok"], 1),
        (["not judged"], 3),
        ([], 3),
    ],
    ids=str,
)
def test_the_gravest_verdict_decides(verdicts: list[Verdict], code: int) -> None:
    one = only(compared(*sides(8, "test_loss_last", lambda _: 0.0)))
    comparisons = tuple(replace(one, verdict=verdict) for verdict in verdicts)
    assert GateResult(("a", "b"), LOSS, comparisons).exit_code == code
    assert set(VERDICTS) == set(get_args(Verdict))


def test_names_and_machines_are_worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("arm_names", "_hardware_differences"):
        real = getattr(preparation, name)

        def counting(*given: object, _real: Any = real, _name: str = name) -> object:
            calls.append(_name)
            return _real(*given)

        monkeypatch.setattr(preparation, name, counting)
    glorot, he = ([trial(seed, f"init={init}") for seed in range(8)] for init in ("glorot", "he"))
    compared([*glorot, *he], [*glorot[:7], *he], allow_missing=True, allow_different_hardware=True)
    assert sorted(calls) == ["_hardware_differences", "arm_names"]


@pytest.mark.parametrize("column", SPEED_CONDITIONS)
def test_speeds_under_other_conditions_are_never_compared(column: str) -> None:
    """Whichever condition of speed it is in which the sides differ."""
    ours, theirs = sides(8, "images_per_s_median", lambda seed: -0.5 + NOISE[seed], 5000.0)
    value = theirs[0][column]
    other = not value if isinstance(value, bool) else 77 if isinstance(value, int) else "other"
    # as if the keys did not tell: then the values of the columns have to
    moved = [row if column == "device" else {**row, column: other} for row in theirs]
    if column == "device":
        moved = [trial(seed, device="cuda") for seed in range(8)]
    assert compared(ours, moved, SPEED).exit_code == 2
    allowed = compared(ours, moved, SPEED, allow_different_hardware=True)
    assert not [one for one in allowed.comparisons if one.kind == "images_per_s" and one.verdict != "not judged"]
