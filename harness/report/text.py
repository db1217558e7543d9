"""The report as text: Markdown for the summary of a CI job, JSON for programs."""

import json
from collections.abc import Sequence
from typing import Any

from harness.markdown import escape, table
from harness.report.axes_text import axes_sections
from harness.report.model import RankingRow, RankingView, Report, as_dict
from harness.report.numbers import percent, probability, shown, to

_MOST_ROWS, _LAST_ROWS = 20, 5
_NOT_AS_THEY_ARE = ("heading", "statuses", "top", "filters", "clocks", "methods", "pictures")


def as_json(report: Report) -> str:
    """Return all numbers but those of the pictures as JSON; targets by value, arms by name."""
    names = [arm.name for arm in report.arms]
    by_time = [{"where": clock.where, "ranking": _named(clock.ranking, names)} for clock in report.clocks[1:]]
    rankings = {"ranking": _named(report.ranking, names), "ranking_by_time": by_time}
    texts = as_dict(report.heading) | as_dict(report.methods) | {"thinned": report.pictures.thinned}
    every = texts | as_dict(report, without=_NOT_AS_THEY_ARE) | rankings
    return json.dumps(every, default=as_dict, indent=1, allow_nan=False) + "\n"


def _named(entries: Sequence[RankingView], names: Sequence[str]) -> list[dict[str, Any]]:
    return [
        as_dict(entry) | {"rows": [{"name": names[row.arm], **as_dict(row)} for row in entry.rows]} for entry in entries
    ]


def markdown(report: Report) -> str:
    """Return conclusion, a ranking per target in steps and one in seconds per machine, throughput and completeness."""
    default = report.shown
    parts = [f"# {escape(report.heading.title)}", escape(report.heading.facts), escape(default.conclusion)]
    parts += map(escape, report.left_out)
    for entry in report.ranking:
        parts += [f"## Time to {entry.label}", *_ranking(report, entry)]
    for clock in report.clocks[1:]:
        parts += [f"## Seconds to {default.label}: {escape(clock.where)}"]
        parts += _ranking(report, clock.ranking[report.default_target])
    parts += axes_sections(report.axes)
    parts += ["## Throughput", _throughput(report), "## Completeness", *_completeness(report), "## Environment"]
    parts += [
        _environments(report),
        escape(report.methods.method),
        escape(f"Log-rank: {report.methods.method_logrank}"),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _ranking(report: Report, entry: RankingView) -> list[str]:
    shown_rows, out = _ends(entry.rows)
    rows = [_row(report.arms[row.arm].name, row) for row in shown_rows]
    head = [
        "rank",
        "arm",
        "verdict",
        "reached",
        "share (95 %)",
        f"mean {entry.unit} (95 %)",
        "sooner than best",
        "p (Holm)",
        "log-rank p",
        "why",
    ]
    return [table(head, rows), out, *map(escape, entry.notes)]


def _ends(rows: list[RankingRow]) -> tuple[list[RankingRow], str]:
    """The best rows and the last ones of those with finished runs, and what is between them."""
    if len(rows) <= _MOST_ROWS:
        return rows, ""
    finished = sum(row.rank is not None for row in rows)
    best = min(_MOST_ROWS - _LAST_ROWS, finished)
    last = rows[max(best, finished - _LAST_ROWS) : finished]
    kept = [*rows[:best], *last]
    out = f"{len(rows):,} arms: the best {best} and the last {len(last)} with finished runs are shown, "
    return kept, (
        f"{out}{len(rows) - len(kept):,} are not. `--format json` and the page have all; `--where COLUMN=VALUE,VALUE` "
        "reports on fewer."
    )


def _row(name: str, row: RankingRow) -> list[str]:
    share = "" if row.share_low is None else f"{percent(row.share_low)} to {percent(row.share_high)}"
    time = row.time
    interval = to(time.low, time.high) if time else ""
    bound = "" if row.reached else "> "
    mean = "-" if time is None else bound + shown(time.estimate) + (f" ({interval})" if interval else "")
    reached = f"{row.reached} of {row.n}"
    logrank = "n too small" if row.few else probability(row.p_logrank)
    last = [percent(row.better), probability(row.p), logrank, row.why]
    return [shown(row.rank), name, row.verdict, reached, share, mean, *last]


def _throughput(report: Report) -> str:
    rows = [[row.label, row.hardware, str(row.n), row.images, row.share] for row in report.throughput.table]
    head = ["device, kernel", "hardware", "trials", "images/s: median (quartiles)", "share of matmul rate"]
    return table(head, rows) if rows else "No trial was timed."


def _completeness(report: Report) -> list[str]:
    view = report.completeness
    counts = ", ".join(f"{count} {status}" for status, count in view.statuses.items())
    rows = [[row.name, row.status, str(row.n), row.seeds, row.why] for row in view.failures]
    left_out = "\n".join(f"- {escape(line)}" for line in view.problems)
    bad = table(["arm", "status", "trials", "seeds", "why"], rows[:_MOST_ROWS]) if rows else ""
    out = len(rows) - _MOST_ROWS
    more = f"and {out:,} more lines, which `--format json` and the page have" if out > 0 else ""
    return [escape(f"Trials: {counts}."), *map(escape, view.notes), left_out, bad, more]


def _environments(report: Report) -> str:
    rows = [
        [str(row.n), row.device, row.cpu, row.threads, row.settings, row.torch, row.platform, row.commit]
        for row in report.environments
    ]
    head = ["trials", "device", "processor", "threads", "settings", "torch", "Python, platform", "commit"]
    note = report.environment_note
    return table(head, rows) + (f"\n\n{escape(note)}" if note else "")
