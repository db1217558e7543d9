"""Numeric axes as Markdown: a table of best values for each axis, the ranking at their own best, and the maps."""

from harness.markdown import escape, table
from harness.report.axes_model import AxesView, AxisView, MapView
from harness.report.numbers import probability, shown
from harness.wording import counted

_MOST_ROWS = 20
_MOST_COLUMNS, _MOST_MAPS = 12, 4
_ALL = "all arms"


def axes_sections(view: AxesView) -> list[str]:
    """Return the sections; [] where no numeric setting was swept."""
    measure = next(iter(view.measures))
    parts = []
    for axis in view.axes:
        parts += [f"## Sensitivity to {escape(axis.name)}", *_sensitivity(view, axis, measure)]
    if view.axes:
        parts.append(escape(view.method))
    if any(axis.own_best for axis in view.axes):
        parts.append(escape(f"At its own best: {view.method_own_best}"))
    for map_ in view.maps[:_MOST_MAPS]:
        parts += [f"## Map: {escape(_title(map_))}", _map(map_, measure)]
        parts += [escape(f"Theory: {line.label} ({line.source}) is drawn on the page.") for line in map_.lines]
    return [*parts, *_out(len(view.maps), _MOST_MAPS, "map"), *map(escape, view.notes)]


def _sensitivity(view: AxesView, axis: AxisView, measure: str) -> list[str]:
    rows = axis.rows[measure]
    head = ["arms", "best value", "median there", "good range", "values tried", "runs", "diverged", "warning"]
    cells = [
        [row.name or _ALL, row.best, shown(row.median), row.good, row.tried, row.runs, row.diverged, row.warning]
        for row in rows[:_MOST_ROWS]
    ]
    lead = escape(f"By {view.measures[measure]}. Good: {view.margins[measure]}.")
    parts = [lead, table(head, cells), *_out(len(rows), _MOST_ROWS, "row"), *map(escape, axis.notes)]
    return parts + (_own_best(axis) if axis.own_best else [])


def _own_best(axis: AxisView) -> list[str]:
    head = [
        *("rank", "arms, each at its own best", "verdict", "best by each half", "mean (judging half)"),
        *("mean (all runs, optimistic)", "runs", "p (Holm)"),
    ]
    cells = [
        [
            *(shown(row.rank), row.name, row.verdict, row.chosen, shown(row.mean)),
            *(shown(row.same), row.n, probability(row.p)),
        ]
        for row in axis.own_best[:_MOST_ROWS]
    ]
    return [table(head, cells), *_out(len(axis.own_best), _MOST_ROWS, "row")]


def _title(map_: MapView) -> str:
    return f"{map_.y_axis} by {map_.x_axis}" + (f", {map_.name}" if map_.name else "")


def _map(map_: MapView, measure: str) -> str:
    """Median (runs) in each cell; a map that is too wide for text says so."""
    if len(map_.x) > _MOST_COLUMNS or len(map_.y) > _MOST_ROWS:
        return f"{len(map_.y)} x {len(map_.x)} cells; the page and `--format json` have them."
    head = [f"{map_.y_axis} \\ {map_.x_axis}", *(f"{value:g}" for value in map_.x if value is not None)]
    cells = [
        [f"{value:g}", *(_cell(median, n) for median, n in zip(medians, runs, strict=True))]
        for value, medians, runs in zip(map_.y, map_.medians[measure], map_.n, strict=True)
        if value is not None
    ]
    return table(head, cells)


def _cell(median: float | None, n: int) -> str:
    return f"{shown(median)} (n={n})" if n else ""


def _out(count: int, most: int, noun: str) -> list[str]:
    out = count - most
    return [f"and {counted(out, f'more {noun}')}, which `--format json` and the page have"] if out > 0 else []
