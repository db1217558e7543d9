"""The machine: throughput by device and kernel, and the environments that ran the trials."""

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd

from harness import analysis
from harness.report.arms import Arms
from harness.report.conditions import condition
from harness.report.model import ArmSpeed, EnvironmentRow, Quartiles, SpeedGroup, SpeedRow, ThroughputView
from harness.report.numbers import Number, kept, shown, spread
from harness.results import ENVIRONMENT, EXECUTION, MISSING, SPEED, WORK, is_missing, text_of
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
    """Device and kernel, and the other conditions by their names."""
    named = zip(columns, values, strict=True)
    return " ".join(text_of(value) if name in _ALWAYS else condition(name, value) for name, value in named)


def _quartiles(table: pd.DataFrame, column: str) -> list[Quartiles | None]:
    """For each row its three quartiles; None where it was not measured."""
    parts = [kept(table[f"{column}_{part}"]) for part in _QUARTILES]
    return [None if row[1] is None else list(row) for row in zip(*parts, strict=True)]


def _keys(table: pd.DataFrame, columns: Sequence[str]) -> "pd.Series[str]":
    """One text a row of what it is grouped by."""
    # joined outside of pandas, which would build a Series for each of a hundred thousand rows
    texts = [table[name].astype(object).map(text_of) for name in columns]
    return pd.Series(["\t".join(row) for row in zip(*texts, strict=True)], index=table.index, dtype=object)


def throughput(arms: Arms) -> ThroughputView:
    """Quartiles of images/s and of the share of the matmul rate, by conditions of speed, and within each by arm."""
    timed = _timed(arms)
    if timed.empty:
        return ThroughputView([], [], [])
    columns = _group_columns(timed)
    pooled = analysis.throughput(timed, by=columns)
    keys = _keys(timed, columns)
    members = [timed[keys == key] for key in _keys(pooled, columns)]
    groups = _groups(pooled, members, columns)
    by_arm = analysis.throughput(timed, by=[*columns, "arm"])
    numbers = {key: place for place, key in enumerate(_keys(pooled, columns))}
    points = _points(by_arm, _keys(by_arm, columns).map(numbers).tolist())
    return ThroughputView(groups, points, [_table_row(group, own) for group, own in zip(groups, members, strict=True)])


def _groups(pooled: pd.DataFrame, members: Sequence[pd.DataFrame], columns: Sequence[str]) -> list[SpeedGroup]:
    images, share = _quartiles(pooled, "images_per_s"), _quartiles(pooled, "matmul_share")
    rows = zip(*(pooled[name] for name in columns), strict=True)
    return [
        SpeedGroup(
            id=place,
            label=_label(row, columns),
            n=len(own),
            arms=sorted({int(arm) for arm in own["arm"]}),
            images=images[place],
            share=share[place],
        )
        for place, (row, own) in enumerate(zip(rows, members, strict=True))
    ]


def _points(by_arm: pd.DataFrame, groups: Sequence[int]) -> list[ArmSpeed]:
    images, share = _quartiles(by_arm, "images_per_s"), _quartiles(by_arm, "matmul_share")
    rows = zip(by_arm["arm"].tolist(), groups, by_arm["n"].tolist(), images, share, strict=True)
    return [ArmSpeed(int(arm), int(group), int(n), rate, part) for arm, group, n, rate, part in rows]


def _table_row(group: SpeedGroup, members: pd.DataFrame) -> SpeedRow:
    return SpeedRow(
        label=group.label,
        hardware=", ".join(sorted(members["device_model"].dropna().unique())) or "-",
        n=group.n,
        arms=group.arms,
        images=spread(group.images) if group.images else "-",
        share=f"{spread([_percent(value) for value in group.share])} %" if group.share else "-",
        matmul=shown(members["matmul_flops_per_s"].median() / _GIGA),
        memory=shown(members["peak_memory_bytes"].max() / _GIGA),
    )


def _percent(share: Number) -> Number:
    return None if share is None else 100 * share


_ENVIRONMENT = (*SPEED, *ENVIRONMENT)
_SHOWN_APART = ("device", "threads")
"""Conditions of execution that the table of environments has in columns of their own."""


def environments(arms: Arms) -> list[EnvironmentRow]:
    """Every combination of hardware, settings and versions, the commonest first; trials that never got there apart."""
    # a processor may have no name, but Python always has a version
    known = arms.trials[arms.trials[["cpu_model", "python_version"]].notna().any(axis=1)]
    rows = [
        _environment(dict(zip(_ENVIRONMENT, values, strict=True)), group)
        for values, group in known.groupby(list(_ENVIRONMENT), dropna=False)
    ]
    return sorted(rows, key=lambda row: -row.n)


def _environment(values: dict[str, Any], group: pd.DataFrame) -> EnvironmentRow:
    texts = {name: text_of(value) for name, value in values.items()}
    settings = [
        condition(name, values[name]) for name in EXECUTION if name not in _SHOWN_APART and not is_missing(values[name])
    ]
    driver = "" if is_missing(values["gpu_driver"]) else f", driver {texts['gpu_driver']}"
    changes = {"True": ", with changes", MISSING: ", changes not known"}.get(texts["git_dirty"], "")
    commit = "not known" if is_missing(values["git_commit"]) else texts["git_commit"][:10] + changes
    return EnvironmentRow(
        n=len(group),
        arms=sorted({int(arm) for arm in group["arm"]}),
        device=texts["device_model"] + driver,
        cpu=texts["cpu_model"],
        threads=texts["threads"],
        settings=", ".join(settings),
        torch=texts["torch_version"],
        platform=f"{texts['python_version']}, {texts['platform']}",
        commit=commit,
    )


def packages(arms: Arms) -> list[tuple[str, str]]:
    """Package -> its versions over all trials."""
    versions: dict[str, set[str]] = {}
    for text in arms.trials["package_versions"].dropna().unique():
        for name, version in json.loads(text).items():
            versions.setdefault(name, set()).add(str(version))
    return [(name, ", ".join(sorted(own))) for name, own in sorted(versions.items())]


def environment_note(rows: Sequence[EnvironmentRow]) -> str:
    """A warning where seconds and rates of unlike environments stand side by side; "" where there is one."""
    if len(rows) < 2:
        return ""
    return f"{counted(len(rows), 'environment')}: steps compare across them, seconds and images/s do not."
