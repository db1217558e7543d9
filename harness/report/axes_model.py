"""What the report says of numeric axes; numbers and names as in :mod:`harness.report.model`."""

from dataclasses import dataclass

from harness.analysis import Tone
from harness.report.numbers import Number


@dataclass(frozen=True)
class FamilyCurve:
    """One family of arms along an axis, by its values: runs, and quartiles (q25, median, q75) of every measure."""

    name: str
    x: list[Number]
    n: list[int]
    diverged: list[int]
    reached: list[int]
    unfinished: list[int]
    bands: dict[str, list[list[Number]]]


@dataclass(frozen=True)
class BestRow:
    """What can be said of one family: its best value, the median there, the range of good values, warnings."""

    name: str
    best: str
    median: Number
    good: str
    tried: int
    runs: int
    diverged: int
    warning: str


@dataclass(frozen=True)
class OwnBestRow:
    """A family in the ranking of families at their own best.

    Attributes:
        rank: 1 is best; None: no run, or too few seeds to show any difference.
        name: of the family.
        chosen: the value that each half chose.
        mean: accuracy on the half that did not choose.
        same: accuracy where all runs choose and judge.
        n: runs judged.
        verdict: in words.
        kind: how a page colours it.
        p: adjusted.
    """

    rank: int | None
    name: str
    chosen: str
    mean: Number
    same: Number
    n: int
    verdict: str
    kind: Tone
    p: Number


@dataclass(frozen=True)
class AxisView:
    """One numeric axis.

    Attributes:
        name: of the setting.
        spacing: log or linear.
        families: best first, at most as many as the page holds.
        rows: measure -> what can be said of each of these families.
        own_best: ranking at each family's own best value; [] where there is one family or one seed.
        notes: what is left out or cannot be said.
    """

    name: str
    spacing: str
    families: list[FamilyCurve]
    rows: dict[str, list[BestRow]]
    own_best: list[OwnBestRow]
    notes: list[str]


@dataclass(frozen=True)
class LineView:
    """A curve of theory over a map; x and y are places among the map's columns and rows, None interrupts the line."""

    label: str
    source: str
    x: list[Number]
    y: list[Number]


@dataclass(frozen=True)
class MapView:
    """One family over two axes.

    Attributes:
        name: of the family, "" if there is one.
        x_axis: name of the setting of the columns.
        y_axis: of the rows.
        x: values of the columns, rising.
        y: values of the rows, rising.
        n: rows of runs; 0: not tried, or no run counts.
        diverged: those of them that diverged.
        reached: those of them that reached the target.
        unfinished: seeds without a run that counts.
        medians: measure -> rows; None: no run, or infinite.
        lines: theory.
    """

    name: str
    x_axis: str
    y_axis: str
    x: list[Number]
    y: list[Number]
    n: list[list[int]]
    diverged: list[list[int]]
    reached: list[list[int]]
    unfinished: list[list[int]]
    medians: dict[str, list[list[Number]]]
    lines: list[LineView]


@dataclass(frozen=True)
class AxesView:
    """All axes and maps; without any, the report says nothing of them.

    Attributes:
        measures: column -> title with its unit; the first is shown at first.
        larger_is_better: column -> whether it is.
        margins: column -> what counts as good, in words.
        target: the accuracy that ``reached`` counts.
        axes: as the schema has them.
        maps: of all pairs of axes.
        notes: what is left out.
        method: how to read it.
        method_own_best: how families are compared at their own best.
    """

    measures: dict[str, str]
    larger_is_better: dict[str, bool]
    margins: dict[str, str]
    target: float
    axes: list[AxisView]
    maps: list[MapView]
    notes: list[str]
    method: str
    method_own_best: str
