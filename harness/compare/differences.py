"""The values of an arm's pairs for each measure, and their independent differences: what is judged."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.analysis.intervals import Array
from harness.compare.judgement import Rules
from harness.compare.measures import SCALES, Measure, measures
from harness.compare.pairs import Pair
from harness.compare.preparation import Prepared, sides_of


@dataclass(frozen=True)
class MeasureDifferences:
    """One arm and measure before it is judged.

    Attributes:
        arm: label.
        measure: what.
        base: (n,) values.
        candidate: (n,) values.
        differences: (effective,) on the measure's scale, positive where the candidate's is larger.
        identical: pairs whose final weights and values are the same on both sides.
        lacking: pairs of which the base has this measure and the candidate does not.
        exact: whether the arm's weights do not depend on the seed, on neither side.
        skip: why it is not judged; empty if it is.
    """

    arm: str
    measure: Measure
    base: Array
    candidate: Array
    differences: Array
    identical: int
    lacking: int
    exact: bool
    skip: str

    @property
    def tested(self) -> bool:
        """Whether it can reject and so belongs to the family."""
        return not self.skip and not self.exact and bool(self.differences.any())


def measure_differences(prepared: Prepared, rules: Rules) -> list[MeasureDifferences]:
    """Return one per arm and measure, in the order of the arms' names.

    Args:
        prepared: the two sides.
        rules: what is judged.
    """
    arms: dict[str, list[Pair]] = defaultdict(list)
    for pair in prepared.measured:
        arms[pair.base.arm].append(pair)
    every = []
    for arm, pairs in sorted(arms.items(), key=lambda item: prepared.arms[item[0]]):
        targets = frozenset.union(*(result.targets for pair in pairs for result in (pair.base, pair.candidate)))
        for measure in measures(sorted(targets)):
            skip = _why_not(measure, pairs, rules, prepared)
            every.append(_differences(prepared.arms[arm], measure, pairs, skip))
    return every


def _why_not(measure: Measure, pairs: Sequence[Pair], rules: Rules, prepared: Prepared) -> str:
    if measure.kind.name not in rules.judged:
        return "not asked for"
    device = pairs[0].base.device
    if not measure.kind.learning and device in prepared.hardware:
        return "different hardware"
    if not measure.kind.learning and device in prepared.unknown:
        return "; ".join(prepared.unknown[device])
    every = [result for pair in pairs for result in (pair.base, pair.candidate)]
    if measure.target is None:
        return ""
    if not all(measure.target in result.targets for result in every):
        return "not a target of every trial on both sides"
    return "" if any(measure.target in result.reached for result in every) else "no run of either side reaches it"


def _differences(arm: str, measure: Measure, pairs: Sequence[Pair], skip: str) -> MeasureDifferences:
    """The values of the pairs that have this measure on both sides, and their independent differences."""
    both = [p for p in pairs if measure.name in p.base.values and measure.name in p.candidate.values]
    lacking = sum(_lacks(pair, measure) for pair in pairs)
    base, candidate = (np.array([result.values[measure.name] for result in side]) for side in sides_of(both))
    if both and not skip and measure.kind.scale != "absolute" and not (base.mean() > 0 and (candidate >= 0).all()):
        skip = "the base's mean is 0: no relative change"
    with np.errstate(divide="ignore", invalid="ignore"):
        differences = SCALES[measure.kind.scale](base, candidate) if both else base
    same = sum(_identical(pair, measure.name) for pair in both)
    if measure.kind.learning:
        kept = _independent(both)
        exact = len(kept) == 1 and len(both) > 1
        return MeasureDifferences(arm, measure, base, candidate, differences[kept], same, lacking, exact, skip)
    return MeasureDifferences(arm, measure, base, candidate, differences, 0, lacking, exact=False, skip=skip)


def _lacks(pair: Pair, measure: Measure) -> bool:
    """A run that diverged has no speed either, which says nothing of the speed."""
    there = measure.kind.learning or pair.candidate.status == "ok"
    return there and measure.name in pair.base.values and measure.name not in pair.candidate.values


def _identical(pair: Pair, measure: str) -> bool:
    weights = pair.base.weights
    return bool(weights) and weights == pair.candidate.weights and _equal(pair, measure)


def _equal(pair: Pair, measure: str) -> bool:
    return pair.base.values[measure] == pair.candidate.values[measure]


def _independent(pairs: Sequence[Pair]) -> list[int]:
    """Positions of one pair for each two sets of final weights; unknown weights are always others."""
    seen: dict[object, int] = {}
    for position, pair in enumerate(pairs):
        known = bool(pair.base.weights) and bool(pair.candidate.weights)
        seen.setdefault((pair.base.weights, pair.candidate.weights) if known else position, position)
    return list(seen.values())
