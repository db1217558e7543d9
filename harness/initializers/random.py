"""Initializers whose entries are independent draws (or all the same number).

Each maps the same standard normal numbers into its own distribution, so two initializers at one seed differ by their
distribution alone. "std" is that of the tensor as drawn, after any truncation, unless said otherwise.
"""

import math

import torch

from harness.initializers.registry import Site, fans, register, standard_normal

TRUNCATED_STD = 0.87962566103423978
"""Standard deviation of a standard normal cut at +-2."""

_FANS = {"fan_in": 0, "fan_out": 1}


def _uniform(shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    """U(-1, 1): the standard normal through its own distribution function."""
    return torch.erf(standard_normal(shape, generator) / math.sqrt(2))


def _truncated(shape: torch.Size, generator: torch.Generator, *, low: float = -2, high: float = 2) -> torch.Tensor:
    """Standard normal cut to [low, high] (std .8796 at +-2), by the inverse distribution function of the uniform."""
    edges = [math.erf(edge / math.sqrt(2)) for edge in (low, high)]
    # float64, for in float32 erf rounds to 1 beyond 5.5, where erfinv is infinite
    part = (1 + torch.erf(standard_normal(shape, generator).double() / math.sqrt(2))) / 2
    cut = torch.erfinv(edges[0] + part * (edges[1] - edges[0])) * math.sqrt(2)
    return cut.clamp(low, high).float()


@register("zeros")
def zeros(shape: torch.Size) -> torch.Tensor:
    """All 0. A hidden layer of zeros never learns behind relu, and starts a step late behind tanh."""
    return torch.zeros(shape)


@register("ones")
def ones(shape: torch.Size, *, gain: float) -> torch.Tensor:
    """All ``gain``."""
    return torch.full(shape, float(gain))


@register("constant")
def constant(shape: torch.Size, *, gain: float, value: float = 0.1) -> torch.Tensor:
    """All ``value`` * gain. Units of a layer stay identical for ever: gradients have rank 1."""
    return torch.full(shape, value * gain)


@register("uniform")
def uniform(shape: torch.Size, *, gain: float, generator: torch.Generator, bound: float = 0.05) -> torch.Tensor:
    """U(-bound, bound) * gain; the default bound is Keras's. Std bound/sqrt(3)."""
    return _uniform(shape, generator) * (bound * gain)


@register("normal")
def normal(shape: torch.Size, *, gain: float, generator: torch.Generator, std: float = 0.05) -> torch.Tensor:
    """N(0, std^2) * gain; the default std is Keras's."""
    return standard_normal(shape, generator) * (std * gain)


@register("truncated_normal")
def truncated_normal(shape: torch.Size, *, gain: float, generator: torch.Generator, std: float = 0.05) -> torch.Tensor:
    """N(0, std^2) cut at 2 std, times gain, as TensorFlow, Keras and JAX: the bounds are RELATIVE to std.

    The std of what is drawn is .8796 std: nothing corrects for the cut.
    """
    return _truncated(shape, generator) * (std * gain)


@register("truncated_normal_absolute")
def truncated_normal_absolute(
    shape: torch.Size,
    *,
    gain: float,
    generator: torch.Generator,
    std: float = 0.05,
    low: float = -2.0,
    high: float = 2.0,
) -> torch.Tensor:
    """N(0, std^2) cut to [low, high], times gain, as ``torch.nn.init.trunc_normal_``: the bounds are ABSOLUTE.

    The trap: with torch's default bounds of +-2 a std of 0.05 is not cut at all.

    Raises:
        ValueError: std is not above 0, low is not below high, or both lie more than 5 std to one side of 0.
    """
    if std <= 0 or low >= high:
        raise ValueError(f"truncated_normal_absolute: std={std}, low={low}, high={high}; needs std > 0 and low < high")
    if low > 5 * std or high < -5 * std:
        raise ValueError(
            f"truncated_normal_absolute: std={std}, low={low}, high={high}; bounds are absolute, and between these "
            "there is no normal number to speak of: give bounds within 5 std of 0"
        )
    return _truncated(shape, generator, low=low / std, high=high / std) * (std * gain)


def _fan(fan_shape: torch.Size, mode: str) -> float:
    if mode == "fan_avg":
        return sum(fans(fan_shape)) / 2
    if mode not in _FANS:
        raise ValueError(f"variance_scaling: mode={mode}; give one of: fan_in, fan_out, fan_avg")
    return fans(fan_shape)[_FANS[mode]]


@register("variance_scaling")
def variance_scaling(
    shape: torch.Size,
    *,
    gain: float,
    generator: torch.Generator,
    fan_shape: torch.Size,
    scale: float = 1.0,
    mode: str = "fan_in",
    distribution: str = "truncated",
) -> torch.Tensor:
    """Variance gain^2 * scale / fan, after any cut.

    Args:
        shape: of the tensor.
        gain: factor.
        generator: of the draws.
        fan_shape: shape of the layer's weight, which decides the fans.
        scale: see above.
        mode: the fan: ``fan_in``, ``fan_out`` or ``fan_avg``.
        distribution: ``truncated`` (normal, cut at 2 of its own std, then divided by .8796: TensorFlow >= 1.10,
            Keras, JAX; the largest weight is 2.2737 std), ``normal`` (torch) or ``uniform`` (limit sqrt(3) std).

    Raises:
        ValueError: an unknown mode or distribution, or a negative scale.
    """
    if scale < 0:
        raise ValueError(f"variance_scaling: scale={scale}; give a number of at least 0")
    std = gain * math.sqrt(scale / _fan(fan_shape, mode))
    if distribution == "truncated":
        return _truncated(shape, generator) * (std / TRUNCATED_STD)
    if distribution == "normal":
        return standard_normal(shape, generator) * std
    if distribution == "uniform":
        return _uniform(shape, generator) * (std * math.sqrt(3))
    raise ValueError(f"variance_scaling: distribution={distribution}; give one of: truncated, normal, uniform")


_PAPERS = {
    "glorot": (1.0, "fan_avg", "2/(fan_in + fan_out)", "Glorot & Bengio 2010, eq. 16"),
    "he": (2.0, "fan_in", "2/fan_in", "He et al. 2015, eq. 10"),
    "lecun": (1.0, "fan_in", "1/fan_in", "LeCun et al. 1998, sec. 4.6"),
}
_DISTRIBUTIONS = {
    "truncated": "normal cut at 2 sigma with the std corrected for the cut, as TensorFlow >= 1.10, Keras and JAX",
    "normal": "untruncated normal, as torch",
    "uniform": "uniform, limit sqrt(3) std",
}


def _family(paper: str, distribution: str) -> None:
    scale, mode, variance, source = _PAPERS[paper]

    @register(f"{paper}_{distribution}")
    def family(shape: torch.Size, *, gain: float, generator: torch.Generator, fan_shape: torch.Size) -> torch.Tensor:
        return variance_scaling(
            shape,
            gain=gain,
            generator=generator,
            fan_shape=fan_shape,
            scale=scale,
            mode=mode,
            distribution=distribution,
        )

    family.__doc__ = f"Variance gain^2 * {variance}; {_DISTRIBUTIONS[distribution]}. {source}."


for _paper in _PAPERS:
    for _distribution in _DISTRIBUTIONS:
        _family(_paper, _distribution)


@register("glorot_truncated_tf19")
def glorot_truncated_tf19(
    shape: torch.Size, *, gain: float, generator: torch.Generator, fan_shape: torch.Size
) -> torch.Tensor:
    """As ``glorot_truncated`` without the correction for the cut (std x .8796): what TensorFlow <= 1.9 drew."""
    std = gain / math.sqrt(_fan(fan_shape, "fan_avg"))
    return _truncated(shape, generator) * std


@register("torch_default")
def torch_default(shape: torch.Size, *, gain: float, generator: torch.Generator, fan_shape: torch.Size) -> torch.Tensor:
    """U(+-gain/sqrt(fan_in)), weights (kaiming_uniform with a = sqrt 5) and biases alike, as torch.nn layers do."""
    bound = gain / math.sqrt(fans(fan_shape)[0])
    return _uniform(shape, generator) * bound


@register("random_walk")
def random_walk(
    shape: torch.Size, *, gain: float, generator: torch.Generator, site: Site, activation: str = "relu"
) -> torch.Tensor:
    """N(0, g^2/fan_in) * gain, g chosen so that the gradient's log norm does not drift. Sussillo & Abbott 2014.

    Args:
        shape: of the tensor.
        gain: factor.
        generator: of the draws.
        site: where it is; the width N is the layer's fan_in.
        activation: ``relu``: g = sqrt(2) exp(1.2/(max(N, 6) - 2.4)); ``linear``: g = exp(1/(2N)), their eqs. 14, 17.

    Raises:
        ValueError: another activation.
    """
    width = fans(site.fan_shape)[0]
    growth = {"relu": math.sqrt(2) * math.exp(1.2 / (max(width, 6) - 2.4)), "linear": math.exp(1 / (2 * width))}
    if activation not in growth:
        raise ValueError(f"random_walk: activation={activation}; give one of: {', '.join(growth)}")
    return standard_normal(shape, generator) * (gain * growth[activation] / math.sqrt(width))
