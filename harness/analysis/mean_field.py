"""Mean-field theory of wide dense networks with random weights: over how many layers a signal survives.

Layer l has weights of variance sigma_w^2 / fan_in and biases of variance sigma_b^2. In a wide layer the pre-activations
of one input are Gaussian with a variance q, those of two inputs have a correlation c, and each layer maps (q, c) to new
values. The formulas are those of Poole et al. 2016 and Schoenholz et al. 2017; relu's integrals are in closed form (Cho
& Saul 2009), those of tanh are computed by Gauss-Hermite quadrature. Only numpy is used.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import acos, inf, isinf, log, nan, pi, sqrt

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_HALVINGS = 36
_RELU_CRITICAL = 2
_X, _COEFFICIENTS = np.polynomial.hermite_e.hermegauss(100)
_WEIGHTS: Array = _COEFFICIENTS / _COEFFICIENTS.sum()
_AT_ONE = 1e-9
"""A correlation that is closer to 1 counts as 1, and so does a slope."""
_WIDEST = 9.0
"""A larger variance of pre-activations makes tanh's slope too narrow a peak for the nodes (1.5 % too small at 9)."""


@dataclass(frozen=True)
class Nonlinearity:
    """Gaussian integrals of an activation function f: x and y are standard normal with correlation c.

    Attributes:
        square: q -> E f(sqrt(q) x)^2.
        slope_square: q -> E f'(sqrt(q) x)^2; NaN, as for slope_product: the quadrature is too coarse for this q.
        product: (q, c) -> E f(sqrt(q) x) f(sqrt(q) y).
        slope_product: (q, c) -> E f'(sqrt(q) x) f'(sqrt(q) y).
        fixed_variance: (sigma_w^2, sigma_b^2) -> the variance q that a layer maps to itself; infinite where q grows
            from layer to layer.
    """

    square: Callable[[float], float]
    slope_square: Callable[[float], float]
    product: Callable[[float, float], float]
    slope_product: Callable[[float, float], float]
    fixed_variance: Callable[[float, float], float]


def _relu_product(q: float, c: float) -> float:
    return q * (sqrt(1 - c * c) + c * (pi - acos(c))) / (2 * pi)


def _relu_fixed_variance(weight_variance: float, bias_variance: float) -> float:
    return bias_variance / (1 - weight_variance / 2) if weight_variance < _RELU_CRITICAL else inf


def _tanh_square(q: float) -> float:
    return float(_WEIGHTS @ np.tanh(sqrt(q) * _X) ** 2)


def _tanh_slope_square(q: float) -> float:
    if q > _WIDEST:
        return nan
    return float(_WEIGHTS @ np.cosh(sqrt(q) * _X) ** -4.0)


def _tanh_product(q: float, c: float) -> float:
    first, second = _pairs(q, c)
    return float(_WEIGHTS @ (np.tanh(first) * np.tanh(second)) @ _WEIGHTS)


def _tanh_slope_product(q: float, c: float) -> float:
    if q > _WIDEST:
        return nan
    first, second = _pairs(q, c)
    return float(_WEIGHTS @ ((np.cosh(first) * np.cosh(second)) ** -2.0) @ _WEIGHTS)


def _pairs(q: float, c: float) -> tuple[Array, Array]:
    """Both pre-activations at every pair of nodes, each (nodes, nodes)."""
    x, other = np.meshgrid(_X, _X, indexing="ij")
    return sqrt(q) * x, sqrt(q) * (c * x + sqrt(1 - c * c) * other)


def _tanh_fixed_variance(weight_variance: float, bias_variance: float) -> float:
    if bias_variance == 0 and weight_variance <= 1:
        return 0.0

    # the map is concave and bounded: above its diagonal left of the fixed point and below it right of that
    def grows(q: float) -> bool:
        return weight_variance * _tanh_square(q) + bias_variance > q

    return _crossing(grows, weight_variance + bias_variance)


def _crossing(grows: Callable[[float], bool], high: float) -> float:
    """Bisect 0 to ``high`` for the place where ``grows`` turns from true to false."""
    low = 0.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if grows(middle) else (low, middle)
    return (low + high) / 2


NONLINEARITIES: dict[str, Nonlinearity] = {
    "relu": Nonlinearity(
        square=lambda q: q / 2,
        slope_square=lambda _: 0.5,
        product=_relu_product,
        slope_product=lambda _, c: (pi - acos(c)) / (2 * pi),
        fixed_variance=_relu_fixed_variance,
    ),
    "tanh": Nonlinearity(
        _tanh_square, _tanh_slope_square, _tanh_product, _tanh_slope_product, fixed_variance=_tanh_fixed_variance
    ),
}
"""Name of ``model.activation`` -> its Gaussian integrals; other activations have none here."""


def chi(activation: Nonlinearity, weight_variance: float, bias_variance: float) -> float:
    """chi_1 = sigma_w^2 E f'(z)^2 at the fixed variance (Schoenholz et al. 2017, section 3).

    A gradient's mean square is multiplied by it at each layer. Below 1 (order) two inputs become alike and gradients
    vanish, above 1 (chaos) gradients explode.
    """
    q = activation.fixed_variance(weight_variance, bias_variance)
    return weight_variance * activation.slope_square(q)


def gradient_depth(activation: Nonlinearity, weight_variance: float, bias_variance: float) -> float:
    """xi_grad = 1 / |log chi_1|: over so many layers a gradient's mean square changes by a factor of e.

    Source: Schoenholz et al. 2017, section 4.

    Returns:
        layers; infinite at the critical point, 0 where no gradient passes a layer, NaN where chi_1 is not known.
    """
    rate = chi(activation, weight_variance, bias_variance)
    if rate == 0:
        return 0.0
    return inf if abs(rate - 1) < _AT_ONE else 1 / abs(log(rate))


def correlation_depth(activation: Nonlinearity, weight_variance: float, bias_variance: float) -> float:
    """xi_c = -1 / log(slope of the correlation map at its stable fixed point), Schoenholz et al. 2017, section 3.

    Over so many layers the difference of two inputs' correlation from that point shrinks by a factor of e.

    Returns:
        layers; infinite at the critical point, and for relu above it, where the map tends to one with slope 1; 0 where
        all inputs have one correlation after a single layer; NaN where the slope is not known.
    """
    q = activation.fixed_variance(weight_variance, bias_variance)
    if isinf(q):
        return inf
    c = fixed_correlation(activation, weight_variance, bias_variance)
    slope = weight_variance * activation.slope_product(q, c)
    if slope == 0:
        return 0.0
    return inf if abs(slope - 1) < _AT_ONE else -1 / log(slope)


def fixed_correlation(activation: Nonlinearity, weight_variance: float, bias_variance: float) -> float:
    """The correlation c* that two inputs tend to with depth: 1 in the ordered phase, less in the chaotic one."""
    if chi(activation, weight_variance, bias_variance) <= 1 + _AT_ONE:
        return 1.0
    q = activation.fixed_variance(weight_variance, bias_variance)
    # the map is convex and steeper than 1 at 1: above its diagonal left of c*, and below it from there to 1

    def grows(c: float) -> bool:
        return (weight_variance * activation.product(q, c) + bias_variance) / q > c

    return _crossing(grows, 1.0 - _AT_ONE)
