"""The report as text: Markdown for the summary of a CI job, JSON for programs."""

import json
from typing import Any

from harness.report.numbers import percent, probability, shown, to

_MOST_ROWS = 20
_LEFT_OUT = ("curves", "heat", "heat_range", "signals", "statuses", "top", "filters")


def as_json(report: dict[str, Any]) -> str:
    """All numbers but those of the pictures; targets by value, arms by name."""
    names = [arm["name"] for arm in report["arms"]]
    kept = {name: value for name, value in report.items() if name not in _LEFT_OUT}
    kept["ranking"] = [
        entry | {"rows": [{"name": names[row["arm"]], **row} for row in entry["rows"]]} for entry in report["ranking"]
    ]
    return json.dumps(kept, indent=1, allow_nan=False) + "\n"


def markdown(report: dict[str, Any]) -> str:
    """Conclusion, a ranking per target, throughput and completeness."""
    default = report["ranking"][report["default_target"]]
    parts = [f"# {_plain(report['title'])}", _plain(report["facts"]), _plain(default["conclusion"])]
    for entry in report["ranking"]:
        parts += [f"## Time to {entry['label']}", *_ranking(report, entry)]
    parts += ["## Throughput", _throughput(report), "## Completeness", *_completeness(report), "## Environment"]
    parts += [_environments(report), _plain(report["method"])]
    return "\n\n".join(filter(None, parts)) + "\n"


def _plain(value: object) -> str:
    """Text that Markdown leaves as it is, in one line."""
    text = " ".join(str(value).split()).replace("\\", "\\\\")
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for character in "|*_`[]#~":
        text = text.replace(character, f"\\{character}")
    return text


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *([_plain(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _ranking(report: dict[str, Any], entry: dict[str, Any]) -> list[str]:
    rows = [_row(report["arms"][row["arm"]]["name"], row) for row in entry["rows"][:_MOST_ROWS]]
    head = [
        "rank",
        "arm",
        "verdict",
        "reached",
        "share (95 %)",
        "mean steps (95 %)",
        "sooner than best",
        "p (Holm)",
        "why",
    ]
    more = len(entry["rows"]) - _MOST_ROWS
    return [_table(head, rows), f"and {more} more arms" if more > 0 else "", *map(_plain, entry["notes"])]


def _row(name: str, row: dict[str, Any]) -> list[str]:
    share = "" if row["share_low"] is None else f"{percent(row['share_low'])} to {percent(row['share_high'])}"
    time = row["time"]
    interval = to(time["low"], time["high"]) if time else ""
    mean = "-" if time is None else shown(time["estimate"]) + (f" ({interval})" if interval else "")
    reached = f"{row['reached']} of {row['n']}"
    last = [percent(row["better"]), probability(row["p"]), row["why"]]
    return [shown(row["rank"]), name, row["verdict"], reached, share, mean, *last]


def _throughput(report: dict[str, Any]) -> str:
    rows = [
        [group["label"], group["hardware"], str(group["n"]), group["images"], group["share"]]
        for group in report["throughput"]["table"]
    ]
    head = ["device, kernel", "hardware", "trials", "images/s: median (quartiles)", "share of matmul rate"]
    return _table(head, rows) if rows else "No trial was timed."


def _completeness(report: dict[str, Any]) -> list[str]:
    found = report["completeness"]
    counts = ", ".join(f"{count} {status}" for status, count in found["statuses"].items())
    rows = [[row["name"], row["status"], str(row["n"]), row["seeds"], row["why"]] for row in found["failures"]]
    left_out = "\n".join(f"- {_plain(line)}" for line in found["problems"])
    bad = _table(["arm", "status", "trials", "seeds", "why"], rows[:_MOST_ROWS]) if rows else ""
    more = f"and {len(rows) - _MOST_ROWS} more lines" if len(rows) > _MOST_ROWS else ""
    return [_plain(f"Trials: {counts}."), *map(_plain, found["notes"]), left_out, bad, more]


def _environments(report: dict[str, Any]) -> str:
    names = ("n", "device", "cpu", "threads", "settings", "torch", "platform", "commit")
    rows = [[str(row[name]) for name in names] for row in report["environments"]]
    head = ["trials", "device", "processor", "threads", "settings", "torch", "Python, platform", "commit"]
    note = report["environment_note"]
    return _table(head, rows) + (f"\n\n{_plain(note)}" if note else "")
