"""What the figures show, per arm: convergence, movement of tensors, signals by layer; thinned to keep a page small."""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from harness import analysis
from harness.analysis import Frames, TimedArms
from harness.report.arms import Arms
from harness.report.model import CurveView, HeatMap, LayerSignals, ProfileView, SignalView, StepCurve
from harness.report.numbers import Number, kept

METRICS = {
    "test_accuracy": "test accuracy (share of images)",
    "train_accuracy": "train accuracy (share of images)",
    "test_loss": "test loss (nats)",
    "train_loss": "train loss (nats)",
}
"""Columns of the curves that the page draws, and their titles; the first is shown at first."""

_CURVE_POINTS, _HEAT_CELLS = 60_000, 400_000
_SIGNALS = {"moment": "output_moment", "gain": "gradient_gain"}
_LOWEST_POWER, _HIGHEST_POWER = -10, 3
_FACTORS = [2 ** (tenth / 10) for tenth in range(41)]


def thinned(steps: Sequence[int], most: int) -> list[int]:
    """At most ``most`` of the steps, evenly by position; first and last always."""
    if len(steps) <= most:
        return list(steps)
    places = np.unique(np.linspace(0, len(steps) - 1, max(most, 2)).round().astype(int))
    return [steps[place] for place in places]


def curve_points(arms: int) -> int:
    """How many points a curve may have where there are so many arms."""
    return min(240, max(24, _CURVE_POINTS // max(arms, 1)))


def curves(frames: Frames, arms: Arms) -> dict[int, CurveView]:
    """Arm -> the quartiles of every metric at its evaluated steps."""
    wide = pd.concat({name: _bands(frames, arms, name) for name in METRICS}, axis=1).sort_index()
    most = curve_points(len(arms.detailed))
    columns = {name: wide[name].to_numpy(float) for name in wide}
    steps = wide.index.get_level_values("step").to_numpy()
    views = {}
    for arm, places in wide.groupby(level="arm", sort=True).indices.items():
        at = places[np.array(thinned(range(len(places)), most))]
        views[int(str(arm))] = CurveView(
            step=steps[at].tolist(),
            n=kept(np.nan_to_num(columns["test_accuracy", "n"][at])),
            bands={name: [kept(columns[name, part][at]) for part in ("q25", "median", "q75")] for name in METRICS},
        )
    return views


def seconds(frames: Frames, arms: Arms, drawn: dict[int, CurveView]) -> dict[int, list[Number]]:
    """Arm -> the median training seconds of its trials in ``frames`` at each step of its curve."""
    medians = _bands(frames, arms, "train_time_s")["median"]
    return {
        int(str(arm)): kept(own.droplevel("arm").reindex(drawn[int(str(arm))].step))
        for arm, own in medians.groupby(level="arm", sort=True)
        if int(str(arm)) in drawn
    }


def _bands(frames: Frames, arms: Arms, metric: str) -> pd.DataFrame:
    """Quartiles and n by (arm, step); where a metric is not finite it has no row."""
    table = analysis.curve_bands(frames, metric, by=arms.labels)
    table = table.assign(arm=table["arm"].astype(str).map(arms.numbers).astype(int))
    return table[table["arm"].isin(arms.detailed)].set_index(["arm", "step"])[["n", "q25", "median", "q75"]]


def is_thinned(frames: Frames, arms: Arms) -> bool:
    """Whether some curve has more evaluated steps than the page shows."""
    return int(frames.curves["step"].nunique()) > curve_points(len(arms.detailed))


def survival(timed: TimedArms, arms: Arms) -> dict[int, StepCurve]:
    """Arm -> the corners of its Kaplan-Meier curve."""
    table = analysis.survival_of(timed, {arms.names[arm] for arm in arms.detailed})
    times, shares = kept(table["time"]), kept(table["share"])
    return {
        arms.numbers[label]: StepCurve(times[start:stop], shares[start:stop])
        for label, start, stop in _runs(table["arm"].tolist())
    }


def profile(timed: Sequence[TimedArms], arms: Arms) -> ProfileView:
    """Performance profiles over all targets."""
    table = analysis.profiles_of(timed, _FACTORS)
    shares = table["share"].to_numpy(float).reshape(-1, len(_FACTORS))
    numbers = [arms.numbers[label] for label in table["arm"].iloc[:: len(_FACTORS)]]
    drawn = {arm: kept(own, 3) for arm, own in zip(numbers, shares, strict=True) if arm in arms.detailed}
    return ProfileView(kept(_FACTORS), drawn)


def _runs(labels: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """Each stretch of one label: the label, its first place, the place after its last."""
    starts = [place for place, label in enumerate(labels) if place == 0 or labels[place - 1] != label]
    for start, stop in itertools.pairwise([*starts, len(labels)]):
        yield labels[start], start, stop


def _layers_of(frames: Frames, arms: Arms) -> pd.DataFrame:
    """The layers table with the arm of each row and the place of its parameter in the network."""
    layers = frames.layers
    arm = layers["trial_id"].map(arms.of_trial).astype("Int64")
    inside = arm.isin(arms.detailed)
    # texts only of the arms that are shown, because a large folder has millions of rows
    shown = layers[inside]
    return shown.assign(arm=arm[inside], parameter=shown["parameter"].astype(str))


def heat(frames: Frames, arms: Arms) -> tuple[dict[int, HeatMap], tuple[int, int]]:
    """How far each tensor is from its initial value.

    Returns:
        arm -> its map, of the median of update_norm / weight_norm over the trials where a tensor moved; and the range
        of the powers of ten.
    """
    layers = _layers_of(frames, arms)
    layers = layers[layers["step"] > 0]
    most = min(40, max(8, _HEAT_CELLS // max(1, len(arms.detailed) * max(1, layers["parameter"].nunique()))))
    layers = layers[layers["step"].isin(thinned(sorted(layers["step"].unique()), most))]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = layers["update_norm"].to_numpy() / layers["weight_norm"].to_numpy()
    equal = layers["bit_equal"].to_numpy(bool)
    layers = layers.assign(ratio=np.where(equal, math.nan, ratio), equal=equal)
    cells = layers.groupby(["arm", "parameter", "step"], sort=False).agg(
        ratio=("ratio", "median"), equal=("equal", "sum"), n=("equal", "size")
    )
    with np.errstate(divide="ignore"):
        powers = np.log10(cells["ratio"].to_numpy()).clip(_LOWEST_POWER, _HIGHEST_POWER)
    cells = cells.assign(power=powers)
    return {arm: _heat_of(rows) for arm, rows in _by_arm(cells)}, _span(powers[np.isfinite(powers)])


def _span(powers: "np.ndarray[Any, np.dtype[np.float64]]") -> tuple[int, int]:
    """Whole powers of ten around all of these; two different ones in any case."""
    if not len(powers):
        return -1, 0
    low = math.floor(powers.min())
    return low, max(math.ceil(powers.max()), low + 1)


def _by_arm(cells: pd.DataFrame) -> Iterator[tuple[int, pd.DataFrame]]:
    for arm, rows in cells.groupby(level="arm", sort=True):
        yield int(str(arm)), rows.droplevel("arm")


def _heat_of(rows: pd.DataFrame) -> HeatMap:
    parameters = list(dict.fromkeys(rows.index.get_level_values("parameter")))
    steps = sorted(set(rows.index.get_level_values("step")))
    grid = pd.MultiIndex.from_product([parameters, steps])
    full, shape = rows.reindex(grid), (len(parameters), len(steps))
    equal = full["equal"].fillna(0).to_numpy(int).reshape(shape)
    return HeatMap(
        parameters=parameters,
        steps=[int(step) for step in steps],
        n=int(rows["n"].max()),
        strength=[kept(row, 3) for row in full["power"].to_numpy().reshape(shape)],
        equal=equal.tolist(),
    )


def signals(frames: Frames, arms: Arms) -> dict[int, SignalView]:
    """Arm -> its signals at the first and the last recorded step."""
    layers = _layers_of(frames, arms)
    if layers.empty:
        return {}
    layers = layers.assign(layer=layers["parameter"].str.rpartition(".")[0])
    # a layer's signals stand in the rows of all of its parameters
    layers = layers[~layers.duplicated(["trial_id", "step", "layer"])]
    ends = layers.groupby("arm")["step"].agg(["min", "max"])
    first, last = (
        {arm: _signals_of(rows) for arm, rows in _by_arm(_medians(layers[layers["step"] == layers["arm"].map(at)]))}
        for at in (ends["min"], ends["max"])
    )
    return {arm: SignalView(first[arm], last[arm]) for arm in first}


def _medians(layers: pd.DataFrame) -> pd.DataFrame:
    columns = [f"{column}{kind}" for column in _SIGNALS.values() for kind in ("", "_theory")]
    return layers.groupby(["arm", "layer"], sort=False)[columns].median()


def _signals_of(rows: pd.DataFrame) -> LayerSignals:
    values = {
        f"{name}{kind}": kept(rows[f"{column}{kind}"]) for name, column in _SIGNALS.items() for kind in ("", "_theory")
    }
    return LayerSignals(layers=list(rows.index), **values)
