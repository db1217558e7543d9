"""Curves that theory predicts over a map of two numeric axes, by experiment.

A function here takes one trial of each arm of a map, with its config as JSON in the column ``config``, and returns the
lines that the report draws over that map. It computes with numpy alone, because nothing in this package imports torch.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from typing import Any

import numpy as np
import pandas as pd

from harness.analysis.mean_field import NONLINEARITIES, correlation_depth, gradient_depth
from harness.analysis.settings import parsed


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
        trials: swept over ``init.gain`` and ``model.depth``. There is a line only if all are of dense layers without
            norm or dropout, with one initializer whose variance goes by fan_in, and biases that are zero or normal.
    """
    lines: list[Line] = []
    for (activation, weight), group in trials.groupby(["activation", "init_weight"]):
        spread = _bias_variance(group)
        if activation in NONLINEARITIES and weight in _UNIT_VARIANCES and spread is not None:
            lines += _lines_of_scales(activation, group, _UNIT_VARIANCES[weight], spread)
    return lines


def _bias_variance(trials: pd.DataFrame) -> float | None:
    """sigma_b^2 of trials that share one; None: they do not, or the theory holds for some of them only."""
    variances = {_bias_variance_of(parsed(config)) for config in trials["config"]}
    return variances.pop() if len(variances) == 1 else None


def _bias_variance_of(config: Mapping[str, Any]) -> float | None:
    """sigma_b^2 of one trial; None: the theory does not hold for it."""
    init, model = config.get("init", {}), config.get("model", {})
    if not _is_plain(init, model):
        return None
    if not model["bias"] or init.get("bias") == "zeros":
        return 0.0
    std = (init.get("bias_options") or {}).get("std")
    if init.get("bias") != "normal" or not isinstance(std, int | float) or not isfinite(std):
        return None
    return float(std) * float(std)


def _is_plain(init: Mapping[str, Any], model: Mapping[str, Any]) -> bool:
    """Whether a network has dense layers alone, all of one initializer that nothing changes afterwards."""
    changed = [init.get("layers"), init.get("bias_layers"), init.get("options"), model.get("function")]
    layers = model.get("layers") or []
    # null stands for what the model has, from which a layer may differ
    own = {layer.get(name) for layer in layers for name in ("bias", "norm", "activation")}
    dense = all(layer.get("type") in ("dense", "activation") for layer in layers) and own <= {None}
    plain = not any(changed) and init.get("adapt") == "none" and model.get("norm") == "none" and "bias" in model
    return bool(layers) and dense and plain


def _lines_of_scales(activation: str, trials: pd.DataFrame, unit: float, bias_variance: float) -> Iterator[Line]:
    integrals = NONLINEARITIES[activation]
    gains = np.linspace(trials["init_gain"].min(), trials["init_gain"].max(), _POINTS).tolist()
    deepest = trials["depth"].max()
    for name, (symbol, scale) in _SCALES.items():
        depths = [_TRAINABLE_DEPTHS * scale(integrals, unit * gain * gain, bias_variance) for gain in gains]
        # above the map there is nothing to compare with, and at the critical point the line has no end
        inside = [depth if depth <= deepest else nan for depth in depths]
        label = f"{activation}: {_TRAINABLE_DEPTHS} x {name}"
        source = f"Schoenholz et al. 2017, {_TRAINABLE_DEPTHS} {symbol}, sigma_b^2 = {bias_variance:.3g}"
        yield Line(label, source, "init_gain", "depth", gains, inside)


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
