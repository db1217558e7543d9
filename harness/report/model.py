"""What a report is made of: the page, Markdown and JSON are three views of :class:`Report`, and know these names only.

Numbers are rounded, and None where there is none. An arm is its number (:class:`ArmView`), a JSON key its text.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from harness.analysis import TimeUnit, Tone
from harness.report.axes_model import AxesView
from harness.report.numbers import Number

Quartiles = list[Number]
"""Lower quartile, median, upper quartile."""


@dataclass(frozen=True)
class Estimate:
    """A number with the ends of its interval; None where it has no interval."""

    estimate: Number
    low: Number
    high: Number


@dataclass(frozen=True)
class ArmView:
    """An arm.

    Attributes:
        id: its number.
        name: its label.
        values: column -> text of its value, of the columns that tell arms apart.
        planned: its trials.
        statuses: status -> how many of them.
        diagnosis: the commonest reason why it does not learn; "" if none.
    """

    id: int
    name: str
    values: dict[str, str]
    planned: int
    statuses: dict[str, int]
    diagnosis: str


@dataclass(frozen=True)
class Filter:
    """A column by which the page can choose arms, and its values."""

    column: str
    values: list[str]


@dataclass(frozen=True)
class RankingRow:
    """An arm in the ranking of one target; what has a default may be missing in the page's data.

    Attributes:
        arm: its number.
        verdict: in words.
        kind: how the page colours it.
        reached: runs that reach the target.
        n: finished runs.
        n_effective: those of them that differ.
        rank: arms with the same time share a place; None: no finished run.
        share_low: end of the interval of the share that reaches, as is ``share_high``.
        time: restricted mean.
        median: time at which half of the runs are there; None: never.
        better: how often it is sooner than the best.
        p: adjusted, of the exact test against the best.
        difference: how much later than the best it gets there.
        p_logrank: adjusted, of the log-rank test; None where ``few`` runs can show nothing.
        few: whether they cannot.
        why: diagnosis and failures.
    """

    arm: int
    verdict: str
    kind: Tone
    reached: int
    n: int
    n_effective: int
    rank: int | None = None
    share_low: Number = None
    share_high: Number = None
    time: Estimate | None = None
    median: Number = None
    better: Number = None
    p: Number = None
    difference: Estimate | None = None
    p_logrank: Number = None
    few: bool = False
    why: str = ""


@dataclass(frozen=True)
class RankingView:
    """The ranking of one target by one clock.

    Attributes:
        value: the target.
        label: the target in words.
        caption: above the table.
        notes: below it.
        conclusion: one paragraph.
        budget: how long runs were followed.
        unit: of all times.
        reference: name of the arm compared with; "" if none.
        rows: the best first.
    """

    value: float
    label: str
    caption: str
    notes: list[str]
    conclusion: str
    budget: Number
    unit: TimeUnit
    reference: str
    rows: list[RankingRow]


@dataclass(frozen=True)
class StepCurve:
    """Corners of a step function."""

    x: list[Number]
    y: list[Number]


@dataclass(frozen=True)
class ProfileView:
    """Performance profiles: arm -> share of its tasks done within each factor of the soonest arm's time."""

    factors: list[Number]
    shares: dict[int, list[Number]]


@dataclass(frozen=True)
class ClockView:
    """A measure of time: steps, or the seconds of one machine and kernel.

    Attributes:
        label: for the reader.
        unit: steps or seconds.
        where: machine and kernel; "" for steps.
        ranking: one for each target, rising.
        survival: for each target, arm -> its Kaplan-Meier curve.
        profile: performance profiles.
        seconds: arm -> median training seconds at each step of its curve; {} for steps.
    """

    label: str
    unit: TimeUnit
    where: str
    ranking: list[RankingView]
    survival: list[dict[int, StepCurve]]
    profile: ProfileView
    seconds: dict[int, list[Number]]


@dataclass(frozen=True)
class CurveView:
    """An arm's curves: steps, runs there, and metric -> its three quartiles, each a list over the steps."""

    step: list[int]
    n: list[Number]
    bands: dict[str, list[list[Number]]]


@dataclass(frozen=True)
class HeatMap:
    """How far each tensor of an arm is from its initial value.

    Attributes:
        parameters: names of the tensors.
        steps: recorded steps.
        n: trials.
        strength: parameters x steps, powers of ten; None: it moved in no trial.
        equal: parameters x steps, trials in which it is bit-equal.
    """

    parameters: list[str]
    steps: list[int]
    n: int
    strength: list[list[Number]]
    equal: list[list[int]]


@dataclass(frozen=True)
class LayerSignals:
    """Medians over an arm's trials, by layer: measured, and by theory."""

    layers: list[str]
    moment: list[Number]
    moment_theory: list[Number]
    gain: list[Number]
    gain_theory: list[Number]


@dataclass(frozen=True)
class SignalView:
    """Signals at the first and the last recorded step."""

    first: LayerSignals
    last: LayerSignals


@dataclass(frozen=True)
class SpeedGroup:
    """Trials whose speeds may be pooled; ``images`` (a second) and ``share`` (of the matmul rate) are quartiles."""

    id: int
    label: str
    n: int
    arms: list[int]
    images: Quartiles | None
    share: Quartiles | None


@dataclass(frozen=True)
class ArmSpeed:
    """The same of one arm's trials in a group."""

    arm: int
    group: int
    n: int
    images: Quartiles | None
    share: Quartiles | None


@dataclass(frozen=True)
class SpeedRow:
    """A group in the table, in words."""

    label: str
    hardware: str
    n: int
    arms: list[int]
    images: str
    share: str
    matmul: str
    memory: str


@dataclass(frozen=True)
class ThroughputView:
    """Speed by conditions: for the figure ``groups`` and the ``arms`` in them, for the reader a ``table``."""

    groups: list[SpeedGroup]
    arms: list[ArmSpeed]
    table: list[SpeedRow]


@dataclass(frozen=True)
class SweepRow:
    """What one command planned and what became of it; ``sweep_id`` None: run from Python."""

    sweep_id: str | None
    planned: int
    recorded: int
    ok: int
    failed: int
    missing: int


@dataclass(frozen=True)
class FailureRow:
    """Trials of one arm that ended the same way other than ok."""

    arm: int
    name: str
    status: str
    n: int
    seeds: str
    why: str


@dataclass(frozen=True)
class CompletenessView:
    """What was planned, what is there, what could not be read, and what failed."""

    notes: list[str]
    statuses: dict[str, int]
    sweeps: list[SweepRow]
    problems: list[str]
    failures: list[FailureRow]
    failures_caption: str


@dataclass(frozen=True)
class EnvironmentRow:
    """A combination of hardware, settings and versions that ran ``n`` trials."""

    n: int
    arms: list[int]
    device: str
    cpu: str
    threads: str
    settings: str
    torch: str
    platform: str
    commit: str


@dataclass(frozen=True)
class Heading:
    """What stands above and below everything: version of this program, when, name of the folder, how much there is."""

    version: str
    made_at: str
    title: str
    facts: str


@dataclass(frozen=True)
class Methods:
    """What mean, verdict and p are; the same of the log-rank test, and of performance profiles."""

    method: str
    method_logrank: str
    method_profile: str


@dataclass(frozen=True)
class Pictures:
    """What figures are made of, by arm; ``metrics``: column of the curves -> its title; ``heat_range``: powers of ten.

    ``thinned`` is a remark if evaluated steps are thinned.
    """

    metrics: dict[str, str]
    curves: dict[int, CurveView]
    thinned: str
    heat: dict[int, HeatMap]
    heat_range: tuple[int, int]
    signals: dict[int, SignalView]


@dataclass(frozen=True)
class Report:
    """Everything that a report says.

    Attributes:
        heading: title and facts.
        by: the columns that tell arms apart.
        arms: by their numbers.
        filters: of the page.
        statuses: all that there can be, in the order of tables.
        default_target: place of the target shown at first.
        top: how many arms the figures draw at first.
        clocks: steps, then the seconds of each machine.
        methods: how to read the numbers.
        left_out: what is not shown of so many arms.
        pictures: what figures are made of.
        axes: numeric settings that were swept.
        throughput: speed.
        completeness: what is there.
        environments: the commonest first.
        environment_note: a warning if there are several.
        packages: name and versions.
        constants: choices that are the same in every trial, and their values.
    """

    heading: Heading
    by: list[str]
    arms: list[ArmView]
    filters: list[Filter]
    statuses: list[str]
    default_target: int
    top: int
    clocks: list[ClockView]
    methods: Methods
    left_out: list[str]
    pictures: Pictures
    axes: AxesView
    throughput: ThroughputView
    completeness: CompletenessView
    environments: list[EnvironmentRow]
    environment_note: str
    packages: list[tuple[str, str]]
    constants: list[tuple[str, str]]

    @property
    def ranking(self) -> list[RankingView]:
        """The rankings in steps."""
        return self.clocks[0].ranking

    @property
    def shown(self) -> RankingView:
        """The ranking that is shown at first."""
        return self.ranking[self.default_target]


def as_dict(view: Any, without: Sequence[str] = ()) -> dict[str, Any]:  # noqa: ANN401 - any dataclass of this module
    """Return the fields of a view by their names; what they hold stays as it is, so that nothing large is copied."""
    return {field.name: getattr(view, field.name) for field in fields(view) if field.name not in without}
