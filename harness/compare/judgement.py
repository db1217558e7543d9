"""By which rules a comparison judges, what its verdicts mean, and what came out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from harness.analysis.intervals import Interval
from harness.compare.measures import KINDS, thresholds_with

OK, REGRESSION, ERROR, INCONCLUSIVE = 0, 1, 2, 3
"""The exit codes."""

Verdict = Literal["regression", "inconclusive", "improvement", "ok", "not judged"]
"""What is said of one arm and measure."""


@dataclass(frozen=True)
class Meaning:
    """What follows from a verdict.

    Attributes:
        exit_code: of a comparison in which no verdict is graver.
        junit: the element that its test case gets; "" for one that passes.
    """

    exit_code: int
    junit: Literal["failure", "skipped", ""]


VERDICTS: dict[Verdict, Meaning] = {
    "regression": Meaning(REGRESSION, "failure"),
    "inconclusive": Meaning(INCONCLUSIVE, "skipped"),
    "improvement": Meaning(OK, ""),
    "ok": Meaning(OK, ""),
    "not judged": Meaning(INCONCLUSIVE, "skipped"),
}
"""Verdict -> what follows from it, the gravest first; if nothing was judged the whole is inconclusive."""

GRAVITY = {verdict: place for place, verdict in enumerate(VERDICTS)}
"""Verdict -> its place in that order."""


@dataclass(frozen=True)
class Rules:
    """How to judge.

    Attributes:
        thresholds: kind -> smallest change that matters.
        alpha: chance of any false claim among all comparisons, two-sided; the level of an interval is 1 - alpha.
        power: with which ``detectable`` is stated.
        judged: kinds that are judged; the others are shown.
    """

    thresholds: Mapping[str, float] = field(default_factory=lambda: thresholds_with({}))
    alpha: float = 0.05
    power: float = 0.8
    judged: tuple[str, ...] = tuple(KINDS)


@dataclass(frozen=True)
class Comparison:
    """One arm and measure.

    Attributes:
        arm: its label.
        measure: name.
        kind: of the measure.
        n: pairs.
        effective: independent ones among them: pairs that ended with the same two sets of weights count once.
        base: mean of the base's values; NaN without a pair.
        candidate: mean of the candidate's.
        change: mean difference, candidate against base: a share, of accuracy a difference.
        interval: of the change; None where the differences do not vary or are fewer than two, or the change is exact.
        p: of the sign flips, not adjusted; NaN where nothing was tested.
        p_holm: adjusted.
        threshold: the change that matters.
        detectable: the smallest true change that would be separated from zero with the power of the rules; infinity if
            none would, NaN where nothing was tested.
        verdict: regression, improvement, ok, inconclusive or not judged.
        why: in words.
    """

    arm: str
    measure: str
    kind: str
    n: int
    effective: int
    base: float
    candidate: float
    change: float
    interval: Interval | None
    p: float
    p_holm: float
    threshold: float
    detectable: float
    verdict: Verdict
    why: str


@dataclass(frozen=True)
class Failure:
    """A trial that ended in base and fails in the candidate."""

    arm: str
    seed: int
    message: str


@dataclass(frozen=True)
class GateResult:
    """All that a comparison found.

    Attributes:
        names: what base and candidate are called.
        rules: by which it was judged.
        comparisons: one per arm and measure.
        failures: trials that fail in the candidate alone.
        only_base: trials without a counterpart, in words.
        only_candidate: the same of the candidate.
        notes: sentences for the reader.
        errors: why nothing was judged; then all else is empty.
        unknown_hardware: why throughput was not judged although asked for; so the whole is inconclusive at best.
    """

    names: tuple[str, str]
    rules: Rules
    comparisons: tuple[Comparison, ...] = ()
    failures: tuple[Failure, ...] = ()
    only_base: tuple[str, ...] = ()
    only_candidate: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    unknown_hardware: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 ok, 1 regression, 2 error, 3 inconclusive (also if nothing was judged); a regression outweighs."""
        if self.errors:
            return ERROR
        if self.failures:
            return REGRESSION
        verdicts = [comparison.verdict for comparison in self.comparisons]
        code = VERDICTS[min(verdicts, key=GRAVITY.__getitem__, default="not judged")].exit_code
        return INCONCLUSIVE if code == OK and self.unknown_hardware else code

    @property
    def verdict(self) -> str:
        """In a word."""
        return {OK: "ok", REGRESSION: "regression", ERROR: "error", INCONCLUSIVE: "inconclusive"}[self.exit_code]
