"""The comparison itself: tests, and the verdict on each arm and measure."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.analysis.comparison import can_be_significant_paired, holm, paired
from harness.analysis.intervals import Array, Interval
from harness.compare import checks
from harness.compare.differences import MeasureDifferences, measure_differences
from harness.compare.judgement import Comparison, Failure, GateResult, Rules, Verdict
from harness.compare.measures import for_people, on_scale
from harness.compare.pairs import seed_results
from harness.compare.power import detectable, fewest_pairs
from harness.compare.preparation import Prepared, prepare

if TYPE_CHECKING:
    import pandas as pd


def compare_trials(
    base: "pd.DataFrame",
    candidate: "pd.DataFrame",
    rules: Rules = Rules(),  # noqa: B008 - frozen
    *,
    names: tuple[str, str] = ("BASE", "CANDIDATE"),
    allow_missing: bool = False,
    allow_different_hardware: bool = False,
) -> GateResult:
    """Compare two tables of trials; this is what the command does once it has read its folders.

    Args:
        base: rows of ``trials``.
        candidate: the same.
        rules: thresholds, level, what is judged.
        names: what to call the two.
        allow_missing: judge what is there although the candidate lacks trials of base.
        allow_different_hardware: judge convergence across machines, known or not; throughput is then shown only.
    """
    prepared = prepare(seed_results(base), seed_results(candidate), names)
    errors = checks.incomparable(prepared, allow_missing=allow_missing, allow_hardware=allow_different_hardware)
    if errors:
        return GateResult(names, rules, errors=tuple(errors))
    unknown = [] if allow_different_hardware else checks.unknown_hardware(prepared, rules.judged)
    return GateResult(
        names,
        rules,
        comparisons=tuple(judge(measure_differences(prepared, rules), rules)),
        failures=tuple(_failures(prepared)),
        only_base=tuple(checks.in_words(prepared.pairing.only_base, prepared.arms)),
        only_candidate=tuple(checks.in_words(prepared.pairing.only_candidate, prepared.arms)),
        notes=tuple(checks.notes(prepared)),
        unknown_hardware=tuple(unknown),
    )


def _failures(prepared: Prepared) -> Iterable[Failure]:
    for pair in prepared.pairing.pairs:
        if pair.base.measured and not pair.candidate.measured:
            yield Failure(prepared.arms[pair.base.arm], pair.base.seed, pair.candidate.message)


def adjusted(p_values: Sequence[float]) -> Array:
    """Over the whole family."""
    return holm(p_values)


def judge(differences: Sequence[MeasureDifferences], rules: Rules) -> list[Comparison]:
    """The verdicts; the family is all that can reject."""
    family = max(1, sum(one.tested for one in differences))
    tests = [paired(one.differences, 1 - rules.alpha) if one.tested else None for one in differences]
    p_holm = adjusted([math.nan if test is None else test.p for test in tests])
    judged = []
    for one, test, p in zip(differences, tests, p_holm, strict=True):
        tested = _Tested(one, rules, family, None if test is None else test.interval, float(p))
        verdict, why = tested.verdict()
        judged.append(tested.comparison(math.nan if test is None else test.p, verdict, why))
    return judged


def exceeds(change: float, threshold: float) -> bool:
    """Whether a change matters: half of the rule."""
    return change > threshold


def separated(p_holm: float, alpha: float) -> bool:
    """Whether a change is more than noise: the other half."""
    return p_holm <= alpha


@dataclass(frozen=True)
class _Tested:
    """Differences with their test; what the verdict needs, with signs turned so that positive is worse."""

    of: MeasureDifferences
    rules: Rules
    family: int
    interval: Interval | None
    p_holm: float

    @property
    def threshold(self) -> float:
        return on_scale(self.of.measure.kind, self.rules.thresholds[self.of.measure.kind.name])

    @property
    def mean(self) -> float:
        return float(self.of.differences.mean()) if len(self.of.differences) else math.nan

    @property
    def worse(self) -> float:
        return self.of.measure.kind.worse * self.mean

    @property
    def worst(self) -> float:
        """The worse end of the interval, or the mean itself where there is no interval."""
        if self.interval is None:
            return self.worse
        return self.interval.high if self.of.measure.kind.worse > 0 else -self.interval.low

    @property
    def detectable(self) -> float:
        differences = self.of.differences
        if not self.of.tested:
            return math.nan
        deviation = float(differences.std(ddof=1)) if len(differences) > 1 else math.inf
        rules = self.rules
        return detectable(
            deviation, len(differences), comparisons=self.family, alpha=rules.alpha, power=rules.power
        )  # fmt: skip

    def verdict(self) -> tuple[Verdict, str]:
        """The verdict, and why."""
        one, n = self.of, len(self.of.base)
        if one.skip:
            return "not judged", one.skip
        if n == 0:
            return "not judged", "no pair has this measure on both sides"
        verdict, why = self._of_values()
        if one.lacking and verdict in ("ok", "improvement"):
            # those that are left would be judged for those that are not
            return (
                "inconclusive",
                f"{one.lacking} of {n + one.lacking} candidates have no value, as where they diverged",
            )
        return verdict, why

    def _of_values(self) -> tuple[Verdict, str]:
        """From the pairs that have the measure on both sides."""
        one, n = self.of, len(self.of.base)
        if one.identical == n:
            return "ok", f"the same bits in all {n} pairs"
        return self._exact() if one.exact else self._by_test()

    def _exact(self) -> tuple[Verdict, str]:
        same = f"exact: the same in all {len(self.of.base)} seeds, n = 1 in effect"
        if exceeds(self.worse, self.threshold):
            return "regression", same
        return ("improvement", same) if exceeds(-self.worse, self.threshold) else ("ok", same)

    def _by_test(self) -> tuple[Verdict, str]:
        one, alpha = self.of, self.rules.alpha
        if not can_be_significant_paired(len(one.differences), 1 - alpha, self.family):
            needed = fewest_pairs(self.family, alpha)
            of = f"one of {self.family} comparisons" if self.family > 1 else "a comparison"
            return "inconclusive", f"{len(one.differences)} pairs can never separate {of}; {needed} can"
        if separated(self.p_holm, alpha):
            if exceeds(self.worse, self.threshold):
                return "regression", "worse by more than the threshold, and separated"
            if exceeds(-self.worse, self.threshold):
                return "improvement", "better by more than the threshold, and separated"
        return self._not_worse()

    def _not_worse(self) -> tuple[Verdict, str]:
        """Whether it is shown to be no regression."""
        if not self.of.differences.any():
            return "ok", "no difference in any pair"
        if not exceeds(self.worst, self.threshold):
            return "ok", "a regression above the threshold is excluded"
        if exceeds(self.worse, self.threshold):
            return "inconclusive", "worse by more than the threshold, but not separated from noise"
        if not exceeds(self.detectable, self.threshold):
            return "ok", "within the threshold, and a regression of its size would have been seen"
        return "inconclusive", "a regression above the threshold is neither seen nor excluded: more pairs are needed"

    def comparison(self, p: float, verdict: Verdict, why: str) -> Comparison:
        """With changes as people read them."""
        one, kind = self.of, self.of.measure.kind
        there = len(one.base) > 0
        ends = None if self.interval is None else (self.interval.low, self.interval.high)
        return Comparison(
            arm=one.arm,
            measure=one.measure.name,
            kind=kind.name,
            n=len(one.base),
            effective=len(one.differences),
            base=float(one.base.mean()) if there else math.nan,
            candidate=float(one.candidate.mean()) if there else math.nan,
            change=for_people(kind, self.mean),
            interval=None if ends is None else Interval(*(for_people(kind, end) for end in ends)),
            p=p,
            p_holm=self.p_holm,
            threshold=self.rules.thresholds[kind.name],
            detectable=for_people(kind, self.detectable),
            verdict=verdict,
            why=why,
        )
