"""Mean-field theory agrees with known critical points, with integrals of another kind, and with random networks."""

import json
from math import inf, isnan, log, sqrt

import numpy as np
import pandas as pd
import pytest

from harness.analysis import mean_field, theory
from harness.analysis.mean_field import NONLINEARITIES

RELU, TANH = NONLINEARITIES["relu"], NONLINEARITIES["tanh"]
FUNCTIONS = {"relu": lambda z: np.maximum(z, 0), "tanh": np.tanh}
_GRID = np.linspace(-8, 8, 161)
_DENSITY = np.exp(-(_GRID**2) / 2) / np.exp(-(_GRID**2) / 2).sum()


def mapped(name: str, q: float, c: float, weight_variance: float, bias_variance: float) -> tuple[float, float]:
    """One layer's (q, c), by sums over a fine grid: no quadrature and no closed form."""
    first = FUNCTIONS[name](sqrt(q) * _GRID)
    x, y = np.meshgrid(_GRID, _GRID, indexing="ij")
    second = FUNCTIONS[name](sqrt(q) * (c * x + sqrt(1 - c * c) * y))
    new_q = weight_variance * float(_DENSITY @ first**2) + bias_variance
    product = weight_variance * float((_DENSITY * first) @ second @ _DENSITY) + bias_variance
    return new_q, product / new_q


def test_critical_points() -> None:
    assert mean_field.chi(TANH, 1.0, 0.0) == 1
    assert mean_field.correlation_depth(TANH, 1.0, 0.0) == inf
    assert mean_field.chi(RELU, 2.0, 0.3) == 1
    assert mean_field.correlation_depth(RELU, 2.0, 0.3) == mean_field.gradient_depth(RELU, 2.0, 0.0) == inf
    # the critical point of tanh with biases of variance 0.05 that the literature gives as 1.76
    assert mean_field.chi(TANH, 1.755, 0.05) < 1 < mean_field.chi(TANH, 1.765, 0.05)


@pytest.mark.parametrize(
    ("name", "weight_variance", "bias_variance"),
    [("tanh", 0.49, 0.05), ("tanh", 2.56, 0.05), ("tanh", 4.0, 0.0), ("relu", 1.44, 0.05)],
)
def test_depth_is_the_rate_at_which_the_maps_forget(name: str, weight_variance: float, bias_variance: float) -> None:
    """The maps are iterated layer by layer; what is left of the correlation's distance shrinks by exp(-1 / xi)."""
    activation = NONLINEARITIES[name]
    q, c = 1.0, 0.6
    for _ in range(60):
        q, _ = mapped(name, q, c, weight_variance, bias_variance)
    assert q == pytest.approx(activation.fixed_variance(weight_variance, bias_variance), rel=1e-6)
    goal = mean_field.fixed_correlation(activation, weight_variance, bias_variance)
    distances = []
    for _ in range(20):
        _, c = mapped(name, q, c, weight_variance, bias_variance)
        distances.append(abs(c - goal))
        if distances[-1] < 1e-3:
            break
    measured = -1 / log(distances[-1] / distances[-2])
    assert measured == pytest.approx(mean_field.correlation_depth(activation, weight_variance, bias_variance), rel=0.1)


def test_gradients_of_a_wide_random_network_change_by_chi() -> None:
    draws, width, layers = np.random.default_rng(0), 1000, 12
    for weight_variance in (0.7, 3.0):
        h, jacobian = draws.standard_normal(width), np.eye(width, 8)
        for layer in range(layers):
            weight = draws.standard_normal((width, width)) * sqrt(weight_variance / width)
            z = weight @ h + draws.standard_normal(width) * sqrt(0.05)
            h, jacobian = np.tanh(z), (1 - np.tanh(z) ** 2)[:, None] * (weight @ jacobian)
            if layer == layers - 7:
                before = (jacobian**2).sum()
        grown = ((jacobian**2).sum() / before) ** (1 / 6)
        assert grown == pytest.approx(mean_field.chi(TANH, weight_variance, 0.05), rel=0.05)


PLAIN = {
    "init": {"bias": "normal", "bias_options": {"std": sqrt(0.05)}, "adapt": "none"},
    "model": {"bias": True, "norm": "none", "layers": [{"type": "dense"}, {"type": "activation"}]},
}


def made_trials(*gains: float, **changed: dict[str, object]) -> pd.DataFrame:
    config = json.dumps({section: own | changed.get(section, {}) for section, own in PLAIN.items()})
    common = {"experiment": "trainability", "init_weight": "lecun_normal", "config": config}
    low, *_, high = gains or (0.7, 2.0)
    choices = [("tanh", low, 4), ("tanh", high, 32), ("gelu", 0.7, 4)]
    return pd.DataFrame([common | {"activation": a, "init_gain": g, "depth": d} for a, g, d in choices])


def test_lines_over_the_map_are_six_depths() -> None:
    lines = theory.lines_of(made_trials())
    assert [line.label for line in lines] == ["tanh: 6 x correlation depth", "tanh: 6 x gradient depth"]
    line = lines[0]
    assert (line.x_axis, line.y_axis, line.x[0], line.x[-1]) == ("init_gain", "depth", 0.7, 2.0)
    assert line.y[0] == pytest.approx(6 * mean_field.correlation_depth(TANH, 0.49, 0.05))
    # near the critical gain, 1.327, all depths of the map train
    assert isnan(line.y[int(np.argmin(np.abs(np.asarray(line.x) - 1.327)))])


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("bias", [{}, {"bias": "zeros"}, {"bias_options": {"std": 1e200}}], ids=str)
def test_line_survives_every_gain(activation: str, bias: dict[str, object]) -> None:
    """No gradient passes where the gain is 0; where the gain is huge there is nothing to draw."""
    for low, high in ((0.0, 2.0), (-1.0, 1.0), (0.0, 1e300), (1e-300, 1e-200), (float("nan"), float("nan"))):
        trials = made_trials(low, high, init=bias).replace({"activation": {"tanh": activation}})
        assert len(theory.lines_of(trials)) == 2
    assert mean_field.gradient_depth(NONLINEARITIES[activation], 0.0, 0.05) == 0
    assert mean_field.correlation_depth(NONLINEARITIES[activation], 0.0, 0.05) == 0
    assert isnan(mean_field.gradient_depth(TANH, 400.0, 0.05))


@pytest.mark.parametrize(
    "changed",
    [
        {"init": {"bias": "torch_default"}},
        {"init": {"bias_options": {}}},
        {"init": {"adapt": "lsuv"}},
        {"init": {"layers": {"fc1": "zeros"}}},
        {"init": {"bias_layers": {"fc1": "zeros"}}},
        {"model": {"norm": "batch"}},
        {"model": {"layers": [{"type": "dense"}, {"type": "dropout"}]}},
        {"model": {"layers": [{"type": "conv"}, {"type": "dense"}]}},
        {"model": {"layers": [{"type": "dense"}, {"type": "activation", "activation": "sine"}]}},
        {"model": {"layers": [], "function": "own"}},
    ],
    ids=str,
)
def test_no_line_where_the_theory_does_not_apply(changed: dict[str, dict[str, object]]) -> None:
    assert theory.lines_of(made_trials(**changed)) == []


def test_no_line_without_a_config() -> None:
    assert theory.lines_of(made_trials().assign(config=None)) == []
