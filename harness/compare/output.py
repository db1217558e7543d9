"""What a comparison or a calibration found, as text for a terminal, Markdown and JSON."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from io import StringIO
from typing import Any

from harness.compare.calibration import Calibration, finite
from harness.compare.judgement import GRAVITY, Comparison, GateResult
from harness.compare.measures import KINDS
from harness.markdown import escape
from harness.markdown import table as markdown_table
from harness.wording import counted, one_line

WIDTH = 120

_HEAD = (
    "arm",
    "measure",
    "n",
    "base",
    "candidate",
    "change",
    "interval",
    "p, Holm",
    "threshold",
    "detectable",
    "verdict",
)
_NOISE_HEAD = (
    "arm",
    "measure",
    "n",
    "noise floor",
    "threshold",
    "detectable",
    "effect",
    "pairs needed",
    "or repetitions",
)
_EXPLAINED = (
    "detectable: the smallest true change separated from zero with {power:.0%} probability; "
    "interval: {level:.0%}, Student's t or Hall's corrected for skewness, the wider at each end; p: sign flips of "
    "paired differences, adjusted by Holm; steps: a run that never gets there counts with its whole budget."
)
_NOISE_EXPLAINED = (
    "detectable: the smallest true change that the gate calls a regression with {power:.0%} probability at the level "
    "{alpha:g}, counted as one of {family} comparisons; pairs needed (seeds), or repetitions of every trial with "
    "these n: for the effect. Between bit-equal runs there is no noise; how the seeds' answers to a changed program "
    "differ is not in it."
)

Table = tuple[Sequence[str], list[list[str]]]


def text(outcome: GateResult) -> str:
    """For a terminal: the table, what is not as it was and why, what is on one side only, notes, and the verdict."""
    if outcome.errors:
        return "".join(f"error: {one_line(line)}\n" for line in outcome.errors)
    return _rich(table(outcome)) + "\n".join([*_lines(outcome), _last_line(outcome), ""])


def _rich(shown: Table) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    head, rows = shown
    drawn = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for position, title in enumerate(head):
        drawn.add_column(title, justify="left" if position < 2 else "right", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(one_line(cell)) for cell in row))
    printed = StringIO()
    Console(file=printed, width=WIDTH, highlight=False, color_system=None).print(drawn)
    return printed.getvalue()


def table(outcome: GateResult) -> Table:
    """Head and rows, one per arm and measure."""
    return _HEAD, [_row(one) for one in outcome.comparisons]


def _row(one: Comparison) -> list[str]:
    pairs = str(one.n) if one.effective == one.n else f"{one.n} ({one.effective})"
    ends = (
        "-"
        if one.interval is None
        else f"{change(one.kind, one.interval.low)} to {change(one.kind, one.interval.high)}"
    )
    return [
        one.arm, one.measure, pairs, number(one.base), number(one.candidate), change(one.kind, one.change), ends,
        "-" if math.isnan(one.p_holm) else f"{one.p_holm:.2g}", size(one.kind, one.threshold),
        size(one.kind, one.detectable), one.verdict,
    ]  # fmt: skip


def number(value: float) -> str:
    """Four digits."""
    if math.isnan(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def change(kind: str, value: float) -> str:
    """With its sign; in percent, of accuracy as a difference."""
    if math.isnan(value):
        return "-"
    return f"{value:+.4f}" if KINDS[kind].scale == "absolute" else f"{value:+.1%}"


def size(kind: str, value: float) -> str:
    """The same without a sign; infinite: none."""
    if math.isinf(value):
        return "none"
    return change(kind, value).removeprefix("+")


def _lines(outcome: GateResult) -> Iterator[str]:
    yield _EXPLAINED.format(power=outcome.rules.power, level=1 - outcome.rules.alpha)
    judged = Counter(one.measure for one in outcome.comparisons if one.verdict != "not judged")
    parts = [f"{name} ({counted(arms, 'arm')})" for name, arms in judged.items()]
    yield f"judged: {', '.join(parts) or 'nothing'}"
    for failure in outcome.failures:
        yield f"failed in {outcome.names[1]} alone: {failure.arm} seed={failure.seed}: {failure.message}"
    for one in sorted(outcome.comparisons, key=lambda one: GRAVITY[one.verdict]):
        if one.verdict != "ok":
            yield f"{one.verdict}: {one.arm}, {one.measure}: {one.why}"
    for name, listed in zip(outcome.names, (outcome.only_base, outcome.only_candidate), strict=True):
        yield from (f"only in {name}: {trial}" for trial in listed)
    yield from (f"note: {note}" for note in outcome.notes)


def _last_line(outcome: GateResult) -> str:
    counts = Counter(one.verdict for one in outcome.comparisons)
    parts = [f"{counts[verdict]} {verdict}" for verdict in GRAVITY if counts[verdict]]
    failed = [f"{len(outcome.failures)} failed trials"] if outcome.failures else []
    base, candidate = outcome.names
    return f"{outcome.verdict}: {candidate} against {base}: {', '.join([*failed, *parts]) or 'nothing to compare'}"


def markdown(outcome: GateResult) -> str:
    """For a job's summary: the verdict first."""
    if outcome.errors:
        return "\n".join(["## Comparison: error", "", *(f"- {escape(line)}" for line in outcome.errors), ""])
    lines = [f"## Comparison: {outcome.verdict}", "", escape(_last_line(outcome)), ""]
    items = [f"- {escape(line)}" for line in _lines(outcome)]
    return "\n".join([*lines, _markdown_table(table(outcome)), "", *items, ""])


def _markdown_table(shown: Table) -> str:
    """Arm and measure flush left, numbers flush right."""
    head, rows = shown
    return markdown_table(head, rows, right_from=2)


def as_json(outcome: GateResult) -> dict[str, Any]:
    """Everything, with null for what is not a finite number."""
    return {
        "verdict": outcome.verdict,
        "exit_code": outcome.exit_code,
        "base": outcome.names[0],
        "candidate": outcome.names[1],
        "errors": list(outcome.errors),
        "unknown_hardware": list(outcome.unknown_hardware),
        "alpha": outcome.rules.alpha,
        "power": outcome.rules.power,
        "thresholds": dict(outcome.rules.thresholds),
        "comparisons": [_plain(asdict(one)) for one in outcome.comparisons],
        "failures": [asdict(failure) for failure in outcome.failures],
        "only_base": list(outcome.only_base),
        "only_candidate": list(outcome.only_candidate),
        "notes": list(outcome.notes),
    }


def _plain(content: dict[str, Any]) -> dict[str, Any]:
    return {key: _plain(value) if isinstance(value, dict) else finite(value) for key, value in content.items()}


def calibration_text(calibration: Calibration) -> str:
    """The noise of every arm and measure, and the thresholds, for a terminal."""
    if calibration.errors:
        return "".join(f"error: {line}\n" for line in calibration.errors)
    return _rich(calibration_table(calibration)) + "\n".join([*_calibration_lines(calibration), ""])


def calibration_table(calibration: Calibration) -> Table:
    """Head and rows."""
    rows = [
        [
            one.arm, one.measure, str(one.n), size(one.kind, one.floor),
            size(one.kind, calibration.thresholds[one.kind]), size(one.kind, one.detectable),
            size(one.kind, one.effect), _needed(one.pairs), _needed(one.repetitions),
        ]
        for one in calibration.noise
    ]  # fmt: skip
    return _NOISE_HEAD, rows


def _needed(count: int | None) -> str:
    return "none will do" if count is None else f"{count:,}"


def _calibration_lines(calibration: Calibration) -> Iterable[str]:
    rules = calibration.rules
    yield _NOISE_EXPLAINED.format(power=rules.power, alpha=rules.alpha, family=calibration.family)
    shown = (f"{name} {size(name, value)}" for name, value in calibration.thresholds.items())
    yield f"thresholds: {', '.join(shown)}"


def calibration_markdown(calibration: Calibration) -> str:
    """The same for a job's summary."""
    if calibration.errors:
        return "\n".join(["## Calibration: error", "", *(f"- {escape(line)}" for line in calibration.errors), ""])
    lines = [f"- {escape(line)}" for line in _calibration_lines(calibration)]
    return "\n".join(["## Calibration", "", _markdown_table(calibration_table(calibration)), "", *lines, ""])
