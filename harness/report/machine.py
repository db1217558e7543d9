"""The machine: throughput by device and kernel, and the environments that ran the trials."""

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd

from harness import analysis
from harness.report.arms import Arms
from harness.report.numbers import kept, shown, spread
from harness.results import ENVIRONMENT, SPEED, WORK, text_of
from harness.wording import counted

_ALWAYS = ("device", "kernel")
_QUARTILES = ("q25", "median", "q75")
_GIGA = 1e9


def _timed(arms: Arms) -> pd.DataFrame:
    return arms.trials[arms.trials["images_per_s_median"].notna()]


def _group_columns(trials: pd.DataFrame) -> list[str]:
    """Device and kernel, and of the others those that split the trials further."""
    return analysis.splitting(trials, _ALWAYS, (*SPEED, *WORK))


def _label(values: Sequence[Any], columns: Sequence[str]) -> str:
    named = {"batch_size": "batch {}", "threads": "{} threads", "tf32": "tf32 {}", "deterministic": "deterministic {}"}
    return " ".join(named.get(name, "{}").format(text_of(value)) for name, value in zip(columns, values, strict=True))


def _rates(table: pd.DataFrame) -> list[dict[str, Any]]:
    """For each row ``images`` and ``share``: (q25, median, q75), None where it was not measured."""
    kinds = {}
    for name, column in (("images", "images_per_s"), ("share", "matmul_share")):
        parts = [kept(table[f"{column}_{part}"]) for part in _QUARTILES]
        kinds[name] = [None if row[1] is None else list(row) for row in zip(*parts, strict=True)]
    return [{"images": images, "share": share} for images, share in zip(kinds["images"], kinds["share"], strict=True)]


def throughput(arms: Arms) -> dict[str, Any]:
    """Quartiles of images/s and of the share of the matmul rate, by device and kernel, and within each by arm.

    Returns:
        ``groups`` and ``arms`` for the figure, ``table`` for the reader.
    """
    timed = _timed(arms)
    if timed.empty:
        return {"groups": [], "arms": [], "table": []}
    columns = _group_columns(timed)
    groups = analysis.throughput(timed, by=columns)
    keys = timed[columns].map(text_of).agg("\t".join, axis=1)
    by_arm = analysis.throughput(timed.assign(arm=timed["arm"]), by=[*columns, "arm"])
    numbers = {key: index for index, key in enumerate(groups[columns].map(text_of).agg("\t".join, axis=1))}
    found, table = [], []
    for key, (_, row), rates in zip(numbers, groups.iterrows(), _rates(groups), strict=True):
        members = timed[keys == key]
        group = _group(numbers[key], row, columns, members) | rates
        found.append(group)
        table.append(_table_row(group, members))
    by_arm = by_arm.assign(group=by_arm[columns].map(text_of).agg("\t".join, axis=1).map(numbers))
    places = by_arm[["arm", "group", "n"]].astype(int).to_dict("records")
    points = [place | rates for place, rates in zip(places, _rates(by_arm), strict=True)]
    return {"groups": found, "arms": points, "table": table}


def _group(index: int, row: pd.Series, columns: Sequence[str], members: pd.DataFrame) -> dict[str, Any]:
    return {
        "id": index,
        "label": _label([row[name] for name in columns], columns),
        "n": int(row["n"]),
        "arms": sorted({int(arm) for arm in members["arm"]}),
    }


def _table_row(group: dict[str, Any], members: pd.DataFrame) -> dict[str, Any]:
    share = group["share"]
    return {
        "label": group["label"],
        "hardware": ", ".join(sorted(members["device_model"].dropna().unique())) or "-",
        "n": group["n"],
        "arms": group["arms"],
        "images": spread(group["images"]) if group["images"] else "-",
        "share": f"{spread([100 * value for value in share])} %" if share else "-",
        "matmul": shown(members["matmul_flops_per_s"].median() / _GIGA),
        "memory": shown(members["peak_memory_bytes"].max() / _GIGA),
    }


_ENVIRONMENT = (*SPEED, *ENVIRONMENT)


def environments(arms: Arms) -> list[dict[str, Any]]:
    """Every combination of hardware, settings and versions, the commonest first; trials that never got there apart."""
    known = arms.trials[arms.trials["cpu_model"].notna()]
    rows = [
        _environment(dict(zip(_ENVIRONMENT, values, strict=True)), group)
        for values, group in known.groupby(list(_ENVIRONMENT), dropna=False)
    ]
    return sorted(rows, key=lambda row: -row["n"])


def _environment(values: dict[str, Any], group: pd.DataFrame) -> dict[str, Any]:
    said = {name: text_of(value) for name, value in values.items()}
    driver = "" if said["gpu_driver"] == "none" else f", driver {said['gpu_driver']}"
    settings = [said["memory_format"], f"tf32 {'on' if said['tf32'] == 'True' else 'off'}"]
    if said["deterministic"] == "True":
        settings.append("deterministic")
    if said["kernel"] != "torch":
        settings.append(f"kernel {said['kernel']} {said['kernel_precision']}")
    commit = "an installed package" if said["git_commit"] == "none" else said["git_commit"][:10]
    return {
        "n": len(group),
        "arms": sorted({int(arm) for arm in group["arm"]}),
        "device": said["device_model"] + driver,
        "cpu": said["cpu_model"],
        "threads": said["threads"],
        "settings": ", ".join(settings),
        "torch": said["torch_version"],
        "platform": f"{said['python_version']}, {said['platform']}",
        "commit": commit + (", with changes" if said["git_dirty"] == "True" else ""),
    }


def packages(arms: Arms) -> list[tuple[str, str]]:
    """Package -> its versions over all trials."""
    versions: dict[str, set[str]] = {}
    for text in arms.trials["package_versions"].dropna().unique():
        for name, version in json.loads(text).items():
            versions.setdefault(name, set()).add(str(version))
    return [(name, ", ".join(sorted(found))) for name, found in sorted(versions.items())]


def environment_note(rows: Sequence[dict[str, Any]]) -> str:
    """A warning where seconds and rates of unlike environments stand side by side; "" where there is one."""
    if len(rows) < 2:
        return ""
    return f"{counted(len(rows), 'environment')}: steps compare across them, seconds and images/s do not."
