"""Numeric axes in the report: a curve over one, a map over two, the best value of each family and how sure that is."""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from harness import analysis
from harness.analysis import ArmLabels, Frames, axes, own_best, sensitivity, settings, theory
from harness.analysis.axes import Axis
from harness.analysis.sensitivity import MEASURES, Measure
from harness.report import axes_words
from harness.report.axes_maps import maps
from harness.report.axes_model import AxesView, AxisView, BestRow, FamilyCurve, OwnBestRow
from harness.report.numbers import kept, one
from harness.results import Place

MOST_AXES = 6
MOST_FAMILIES = 60
"""Families of an axis in the report; those with the best medians."""


def view(frames: Frames, folder: Place, labels: ArmLabels, target: float) -> AxesView:
    """Find the axes of these trials and say what they show.

    Args:
        frames: trials, perhaps without their configs, and curves.
        folder: where they are from; configs are read from there if the columns do not tell all settings.
        labels: of the arms of these trials.
        target: test accuracy, for the number of runs that reach it.
    """
    trials = frames.trials
    wanted = settings.needs_configs(trials, labels) or theory.has_theory(trials)
    configs = settings.read_configs(folder, trials) if wanted else None
    known = settings.settings_of(trials, configs)
    found, planes = axes.find_axes(known), axes.find_planes(known)
    shown = found[:MOST_AXES]
    runs = sensitivity.runs_of(frames, target) if found or planes else pd.DataFrame()
    drawn, notes = maps(settings.one_of_each_arm(trials, configs), runs, planes) if planes else ([], [])
    return AxesView(
        measures={measure.column: measure.title for measure in MEASURES},
        larger_is_better={measure.column: measure.sign > 0 for measure in MEASURES},
        margins={measure.column: measure.margin for measure in MEASURES},
        target=target,
        axes=[_axis(runs, known.table.index, axis) for axis in shown],
        maps=drawn,
        notes=[*axes_words.axes_left_out([axis.name for axis in found[MOST_AXES:]]), *notes],
        method=axes_words.METHOD,
        method_own_best=axes_words.METHOD_OWN_BEST,
    )


def _axis(runs: pd.DataFrame, arm_keys: "pd.Index[Any]", axis: Axis) -> AxisView:
    table = sensitivity.sensitivity(runs, arm_keys, axis)
    parts = {int(str(number)): own for number, own in table.groupby("family", sort=True)}
    order = sorted(parts, key=lambda number: _by_best(parts[number], axis.families[number]))
    shown = order[:MOST_FAMILIES]
    ranking, notes = _own_best(runs, arm_keys, axis)
    return AxisView(
        name=axis.name,
        spacing=axis.spacing,
        families=[_curve(parts[number], axis.families[number]) for number in shown],
        rows={
            measure.column: [_row(parts[number], axis, axis.families[number], measure) for number in shown]
            for measure in MEASURES
        },
        own_best=ranking,
        notes=[*axes_words.families_left_out(len(order), len(shown)), *notes],
    )


def _by_best(own: pd.DataFrame, name: str) -> tuple[float, str]:
    """The family with the best median first."""
    best = own[f"{MEASURES[0].column}_median"].max()
    return (float("inf") if pd.isna(best) else -float(best), name)


def _curve(own: pd.DataFrame, name: str) -> FamilyCurve:
    counts = {column: own[column].astype(int).tolist() for column in ("n", "diverged", "reached", "unfinished")}
    bands = {
        measure.column: [kept(own[f"{measure.column}_{part}"]) for part in ("q25", "median", "q75")]
        for measure in MEASURES
    }
    return FamilyCurve(name=name, x=kept(own["value"], 6), bands=bands, **counts)


def _row(own: pd.DataFrame, axis: Axis, name: str, measure: Measure) -> BestRow:
    good = sensitivity.good_range(own, axis, measure)
    at_best = own[own["value"] == good.best] if good else own[:0]
    return BestRow(
        name=name,
        best=axes_words.value(good.best) if good else "-",
        median=one(at_best[f"{measure.column}_median"].iloc[0]) if good else None,
        good=axes_words.good(good, axis.spacing) if good else "-",
        tried=len(good.tried) if good else 0,
        runs=int(own["n"].sum()),
        diverged=int(own["diverged"].sum()),
        warning=axes_words.warning(axis.name, good, int(own["unfinished"].sum())),
    )


def _own_best(runs: pd.DataFrame, arm_keys: "pd.Index[Any]", axis: Axis) -> tuple[list[OwnBestRow], list[str]]:
    """The ranking, or why there is none."""
    if len(axis.families) < 2:
        return [], []
    counted = runs[runs["counted"]]
    seeds = np.unique(counted["seed"].to_numpy(dtype=np.int64))
    if len(seeds) < 2:
        return [], [axes_words.ONE_SEED]
    table = own_best.at_own_best(own_best.families_of(counted, arm_keys, axis, seeds))
    count = int(table["mean"].notna().sum())
    few = axes_words.too_few(len(seeds), count, own_best.needed_seeds(count))
    rows = [_own_best_row(place, row, ranked=not few) for place, row in enumerate(table.to_dict("records"))]
    return rows[:MOST_FAMILIES], [*few, *axes_words.untested(count, own_best.MOST_TESTED)]


def _own_best_row(place: int, row: Mapping[Hashable, Any], *, ranked: bool) -> OwnBestRow:
    """One line of the table, without a rank where the order of the families may be chance alone."""
    wording = analysis.VERDICTS[row["verdict"]]
    return OwnBestRow(
        rank=place + 1 if ranked and pd.notna(row["mean"]) else None,
        name=row["label"],
        chosen=axes_words.chosen(row["chosen"]),
        mean=one(row["mean"]),
        same=one(row["same"]),
        n=int(row["n"]),
        verdict=wording.text if place else wording.of_first,
        kind=wording.tone,
        p=one(row["p"], 6),
    )
