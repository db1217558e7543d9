"""How often the gate is wrong, by simulation through the code of the command, and wrong gates that this must catch.

The bounds are the stated rates themselves, with nothing added for chance: the draws are seeded, so that the counts are
always the same. Of 200 draws the gate may claim falsely in 10 and must see a stated effect in 160.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from made_trials import Row, frame, trial
from scipy import stats

from harness.analysis.intervals import Array
from harness.compare import GateResult, Rules, compare_trials, gate, measures
from harness.compare.calibration import calibrate
from harness.compare.measures import KINDS, Kind, for_people
from harness.compare.power import reported

DRAWS, ALPHA, POWER = 200, 0.05, 0.8
MOST_CLAIMS = int(DRAWS * ALPHA)
FEWEST_SEEN = int(DRAWS * POWER)
SEEDS, INITS = 10, ("init=glorot", "init=he", "init=lecun")
SEED_SPREAD, NOISE = 0.3, 0.06
NOTHING = dict.fromkeys(KINDS, 1e-9)


def draw(generator: np.random.Generator, *, arms: Sequence[str] = INITS, shift: float = 0.0) -> tuple[Any, Any]:
    """Base and candidate: seeds differ far more than their runs; every measure has noise of its own.

    Args:
        generator: of the noise.
        arms: their initializers.
        shift: by how much, in the log, the candidate is worse in the first arm.
    """
    made: tuple[list[Row], list[Row]] = ([], [])
    for arm in arms:
        of_seed = generator.normal(0, SEED_SPREAD, size=(SEEDS, 1, 1))
        log = of_seed + generator.normal(0, NOISE / np.sqrt(2), size=(SEEDS, 2, len(KINDS)))
        log[:, 1] += shift if arm == arms[0] else 0.0
        for side in (0, 1):
            made[side].extend(_trial(seed, arm, log[seed, side]) for seed in range(SEEDS))
    return frame(made[0]), frame(made[1])


def _trial(seed: int, arm: str, log: Array) -> Row:
    """Every measure is worse where its ``log`` is larger."""
    steps, loss, accuracy, speed = log
    return trial(
        seed,
        arm,
        steps_to_target=[int(300 * np.exp(steps)), None, None, None],
        test_loss_last=0.5 * np.exp(loss),
        test_accuracy_last=0.8 - 0.2 * accuracy,
        images_per_s_median=5000 * np.exp(-speed),
    )


def claims(outcome: GateResult) -> bool:
    return any(one.verdict in ("regression", "improvement") for one in outcome.comparisons)


def no_false_alarm(rules: Rules, seed: int, draws: int = DRAWS) -> None:
    generator, false = np.random.default_rng(seed), 0
    for number in range(draws):
        false += claims(compare_trials(*draw(generator), rules))
        assert false <= MOST_CLAIMS, f"{false} false claims in {number + 1} draws"


def test_false_alarms_are_at_or_under_the_level() -> None:
    """A against A, 3 arms by 4 kinds of measure, with thresholds that let everything pass: the level alone holds."""
    no_false_alarm(Rules(thresholds=NOTHING, alpha=ALPHA), 11)


def test_false_alarms_with_the_usual_thresholds() -> None:
    """A threshold can only take claims away, so that the level holds with any."""
    no_false_alarm(Rules(alpha=ALPHA), 12)


SPEED = Rules(judged=("images_per_s",), alpha=ALPHA, power=POWER)
EFFECT = reported(NOISE, SEEDS, threshold=np.log1p(0.05), comparisons=2, alpha=ALPHA, power=POWER)


def verdicts_at(effect: float, seed: int, draws: int = DRAWS) -> Iterator[str]:
    """Of the arm that became slower; the other one did not."""
    generator = np.random.default_rng(seed)
    for _ in range(draws):
        outcome = compare_trials(*draw(generator, arms=INITS[:2], shift=effect), SPEED)
        yield from (one.verdict for one in outcome.comparisons if (one.arm, one.measure) == (INITS[0], "images/s"))


def test_power_at_the_stated_effect() -> None:
    """The smallest effect that ``power.reported`` states is called a regression in 80% of the draws."""
    missed = 0
    for verdict in verdicts_at(EFFECT, 13):
        missed += verdict != "regression"
        assert missed <= DRAWS - FEWEST_SEEN


def test_a_regression_of_the_threshold_is_seldom_passed() -> None:
    """One of 0.9 standard errors above it, which is Student's 80% point, as the rule in the package's text says."""
    verdicts = list(verdicts_at(np.log1p(0.05) + 0.9 * NOISE / np.sqrt(SEEDS), 14, draws=100))
    assert verdicts.count("ok") <= (1 - POWER) * len(verdicts)


def test_calibration_measures_the_noise_that_is_there() -> None:
    sides = draw(np.random.default_rng(15), arms=INITS[:2])
    calibration = calibrate(sides, ["A1", "A2"], SPEED, {"images_per_s": 0.2})
    assert calibration.family == 2
    for noise in calibration.noise:
        # a sample deviation of 10 pairs lies within these of the true one but for 1 in 1,000
        low, high = (np.sqrt(stats.chi2.ppf(q, SEEDS - 1) / (SEEDS - 1)) for q in (0.0005, 0.9995))
        assert low * NOISE <= noise.deviation <= high * NOISE
        assert noise.pairs is not None
        assert calibration.thresholds["images_per_s"] >= noise.floor
        common = {"comparisons": 2, "alpha": ALPHA, "power": POWER}
        threshold = np.log1p(calibration.thresholds["images_per_s"])
        kind = KINDS["images_per_s"]
        assert noise.detectable == for_people(kind, reported(noise.deviation, SEEDS, threshold=threshold, **common))


def test_thresholds_of_a_calibration_pass_the_runs_it_measured() -> None:
    generator = np.random.default_rng(16)
    sides = draw(generator)
    calibration = calibrate(sides, ["A1", "A2"], Rules(), {})
    rules = Rules(thresholds=calibration.thresholds)
    assert compare_trials(*sides, rules).exit_code == 0


def test_what_a_calibration_did_not_measure_keeps_its_threshold() -> None:
    sides = draw(np.random.default_rng(20))
    thresholds = calibrate(sides, ["A1", "A2"], Rules(judged=("steps",)), {}).thresholds
    assert (thresholds["images_per_s"], thresholds["test_loss"]) == (0.05, 0.05)


def test_small_and_separated_is_ok() -> None:
    base, _ = draw(np.random.default_rng(17))
    candidate = base.assign(test_loss_last=base["test_loss_last"] * (1.01 + 0.001 * (base["seed"] % 3)))
    outcome = compare_trials(base, candidate, Rules(judged=("test_loss",)))
    assert outcome.exit_code == 0


def test_larger_loss_is_worse() -> None:
    base, _ = draw(np.random.default_rng(18))
    candidate = base.assign(test_loss_last=base["test_loss_last"] * (1.5 + 0.01 * (base["seed"] % 3)))
    assert compare_trials(base, candidate, Rules(judged=("test_loss",))).exit_code == 1
    assert compare_trials(candidate, base, Rules(judged=("test_loss",))).exit_code == 0


def _unpaired(base: Array, candidate: Array) -> Array:
    """The candidate's values against the base's of other seeds."""
    return np.asarray(np.log(np.roll(candidate, 1) / base))


@dataclass(frozen=True)
class Wrong:
    """A wrong gate: what it replaces, and the test above that passes without it and must fail with it."""

    owner: Any
    name: str
    wrong: Any
    oracle: Callable[[], None]


_loss = KINDS["test_loss"]
MUTANTS = {
    "threshold only": Wrong(gate, "separated", lambda *_: True, test_false_alarms_are_at_or_under_the_level),
    "significance only": Wrong(gate, "exceeds", lambda change, _: change > 0, test_small_and_separated_is_ok),
    "unpaired": Wrong(measures.SCALES, "log", _unpaired, test_power_at_the_stated_effect),
    "wrong direction": Wrong(
        KINDS,
        "test_loss",
        Kind("test_loss", -1, _loss.scale, _loss.threshold, _loss.floor, learning=True),
        test_larger_loss_is_worse,
    ),
    "Holm left out": Wrong(gate, "adjusted", np.asarray, test_false_alarms_are_at_or_under_the_level),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_gate_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant = MUTANTS[name]
    if isinstance(mutant.owner, dict):
        monkeypatch.setitem(mutant.owner, mutant.name, mutant.wrong)
    else:
        monkeypatch.setattr(mutant.owner, mutant.name, mutant.wrong)
    with pytest.raises(AssertionError):
        mutant.oracle()
