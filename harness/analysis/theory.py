"""Curves that theory predicts over a map of two numeric axes, by experiment.

A function here takes one trial of each arm of a map, with its config as JSON in the column ``config``, and returns the
lines that the report draws over that map. It computes with numpy alone, because nothing in this package imports torch.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import nan

import numpy as np
import pandas as pd

from harness.analysis.mean_field import NONLINEARITIES, correlation_depth, gradient_depth


@dataclass(frozen=True)
class Line:
    """One curve that theory predicts.

    Attributes:
        label: what it is, as the legend says it, such as ``6 x depth scale``.
        source: paper and formula.
        x_axis: name of the numeric axis that ``x`` is on: a column of trials such as ``depth``, or the path of a
            setting in the config such as ``init.options.std``.
        y_axis: the same for ``y``.
        x: (p,) values, in the units of ``x_axis``.
        y: (p,) values, in the units of ``y_axis``; NaN interrupts the line.
    """

    label: str
    source: str
    x_axis: str
    y_axis: str
    x: Sequence[float]
    y: Sequence[float]


Theory = Callable[[pd.DataFrame], list[Line]]
"""From the trials of one experiment, with the choices as columns, to its lines; [] where theory does not apply."""

_TRAINABLE_DEPTHS = 6
_POINTS = 80
_SCALES = {"correlation depth": ("xi_c", correlation_depth), "gradient depth": ("xi_grad", gradient_depth)}
# sigma_w^2 of a gain of 1: variance times fan_in
_UNIT_VARIANCES = {"lecun_normal": 1.0, "lecun_uniform": 1.0, "he_normal": 2.0, "he_uniform": 2.0}


def trainable_depths(trials: pd.DataFrame) -> list[Line]:
    """Return six times the depth scales of mean-field theory over ``init_gain``, for each activation with a theory.

    Schoenholz et al. 2017 find that networks train up to about six times the depth xi_c at which the correlation of
    two inputs is forgotten. The gradient's depth xi_grad is the same in the ordered phase and another one in the
    chaotic phase; of relu above its critical variance it is the finite one. See :mod:`harness.analysis.mean_field`.

    Args:
        trials: of dense networks with one layer width, swept over ``init.gain`` and ``model.depth``; the weights'
            variance must go by fan_in and the biases be zero or normal, else there is no line.
    """
    lines: list[Line] = []
    for (activation, weight), group in trials.groupby(["activation", "init_weight"]):
        spread = _bias_variance(group)
        if activation in NONLINEARITIES and weight in _UNIT_VARIANCES and spread is not None:
            lines += _lines_of_scales(activation, group, _UNIT_VARIANCES[weight], spread)
    return lines


def _bias_variance(trials: pd.DataFrame) -> float | None:
    """sigma_b^2 of trials that share one; None: they do not, or their biases are not normal."""
    inits = [json.loads(config)["init"] for config in trials["config"]]
    variances = set()
    for init in inits:
        if init["bias"] == "zeros":
            variances.add(0.0)
        elif init["bias"] == "normal" and "std" in init["bias_options"]:
            variances.add(float(init["bias_options"]["std"]) ** 2)
        else:
            return None
    return variances.pop() if len(variances) == 1 else None


def _lines_of_scales(activation: str, trials: pd.DataFrame, unit: float, bias_variance: float) -> Iterator[Line]:
    integrals = NONLINEARITIES[activation]
    gains = np.linspace(trials["init_gain"].min(), trials["init_gain"].max(), _POINTS)
    deepest = trials["depth"].max()
    for name, (symbol, scale) in _SCALES.items():
        depths = [_TRAINABLE_DEPTHS * scale(integrals, unit * gain**2, bias_variance) for gain in gains]
        # above the map there is nothing to compare with, and at the critical point the line has no end
        inside = [depth if depth <= deepest else nan for depth in depths]
        label = f"{activation}: {_TRAINABLE_DEPTHS} x {name}"
        source = f"Schoenholz et al. 2017, {_TRAINABLE_DEPTHS} {symbol}, sigma_b^2 = {bias_variance:.3g}"
        yield Line(label, source, "init_gain", "depth", gains.tolist(), inside)


THEORY: dict[str, Theory] = {"trainability": trainable_depths}
"""Choice of ``experiment=`` -> its theory."""


def lines_of(trials: pd.DataFrame) -> list[Line]:
    """Return what theory predicts for these trials: the lines of every experiment among them that has a theory.

    Args:
        trials: table; the column ``experiment`` chooses the theory.
    """
    names = [name for name in trials["experiment"].dropna().unique() if name in THEORY]
    return [line for name in names for line in THEORY[name](trials[trials["experiment"] == name])]


def has_theory(trials: pd.DataFrame) -> bool:
    """Whether theory predicts something for one of the experiments among these trials."""
    return bool(trials["experiment"].isin(list(THEORY)).any())
