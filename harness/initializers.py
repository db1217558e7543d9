"""Initializers: a registry of functions, and applying a spec to a model.

To add one, write a function and register it; ``init.weight=NAME init.modules=[your_module]`` then uses it::

    from harness.initializers import register

    @register("small_normal")
    def small_normal(shape, *, gain, generator):
        return torch.randn(shape, generator=generator) * 0.01 * gain

Weights are drawn on the CPU in float32 from one generator per (seed, tensor) and copied, so they are the same on every
device and one tensor's weights do not depend on how another was filled.
Shapes: a convolution's weight is (K, C, R, S), a dense one's (out, in), a bias's (out,).
"""

import importlib
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch

from harness.config import InitConfig
from harness.device import generator as random_stream
from harness.errors import UsageError

TRUNCATED_STD = 0.87962566103423978
"""Standard deviation of a standard normal cut at +-2."""


class Initializer(Protocol):
    """Returns a new CPU float32 tensor of ``shape``; ``fan_shape`` is the shape of the layer's weight."""

    def __call__(  # noqa: D102 - the class says it
        self, shape: torch.Size, *, gain: float, generator: torch.Generator, fan_shape: torch.Size
    ) -> torch.Tensor: ...


REGISTRY: dict[str, Initializer] = {}
"""Name -> initializer: what ``init.weight``, ``init.bias``, ``init.layers.*`` can name."""


def register(name: str) -> Callable[[Callable[..., torch.Tensor]], Callable[..., torch.Tensor]]:
    """Register a function ``(shape, *, gain, generator[, fan_shape]) -> tensor`` as the initializer ``name``."""

    def add(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        takes_fans = "fan_shape" in function.__code__.co_varnames[: _parameter_count(function)]

        def initialize(
            shape: torch.Size, *, gain: float, generator: torch.Generator, fan_shape: torch.Size
        ) -> torch.Tensor:
            extra = {"fan_shape": fan_shape} if takes_fans else {}
            return function(shape, gain=gain, generator=generator, **extra)

        REGISTRY[name] = initialize
        return function

    return add


def _parameter_count(function: Callable[..., torch.Tensor]) -> int:
    code = function.__code__
    return code.co_argcount + code.co_kwonlyargcount


def fans(weight_shape: torch.Size) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight: C*R*S and K*R*S for a convolution, in and out features for a dense layer."""
    taps = math.prod(weight_shape[2:])
    return weight_shape[1] * taps, weight_shape[0] * taps


def standard_normal(shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    """The one draw behind every family: common random numbers make comparisons between initializers far tighter."""
    return torch.randn(shape, generator=generator)


def _uniform(shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    """U(-1, 1): the standard normal through its own distribution function."""
    return torch.erf(standard_normal(shape, generator) / math.sqrt(2))


def _truncated_normal(shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    """Standard normal cut at +-2, uncorrected (std .8796): the inverse distribution function of the uniform."""
    edge = math.erf(2 / math.sqrt(2))
    return torch.erfinv(_uniform(shape, generator) * edge) * math.sqrt(2)


def _variance_scaled(
    shape: torch.Size, *, scale: float, fan: float, gain: float, generator: torch.Generator
) -> torch.Tensor:
    """Truncated normal whose std AFTER the cut is gain * sqrt(scale / fan)."""
    return _truncated_normal(shape, generator) * (gain * math.sqrt(scale / fan) / TRUNCATED_STD)


@register("zeros")
def zeros(shape: torch.Size, *, gain: float, generator: torch.Generator) -> torch.Tensor:  # noqa: ARG001
    """All zero."""
    return torch.zeros(shape)


@register("glorot_normal")
def glorot_normal(shape: torch.Size, *, gain: float, generator: torch.Generator, fan_shape: torch.Size) -> torch.Tensor:
    """Truncated at 2 sigma, var = 2/(fan_in + fan_out) after the cut. Glorot & Bengio 2010; as TensorFlow >= 1.10."""
    fan = sum(fans(fan_shape)) / 2
    return _variance_scaled(shape, scale=1, fan=fan, gain=gain, generator=generator)


@register("glorot_normal_tf19")
def glorot_normal_tf19(
    shape: torch.Size, *, gain: float, generator: torch.Generator, fan_shape: torch.Size
) -> torch.Tensor:
    """As ``glorot_normal`` without the correction for the cut (std x .8796): what TensorFlow <= 1.9 drew."""
    return glorot_normal(shape, gain=gain * TRUNCATED_STD, generator=generator, fan_shape=fan_shape)


@register("he_normal")
def he_normal(shape: torch.Size, *, gain: float, generator: torch.Generator, fan_shape: torch.Size) -> torch.Tensor:
    """Truncated at 2 sigma, var = 2/fan_in after the cut. He et al. 2015; as Keras."""
    return _variance_scaled(shape, scale=2, fan=fans(fan_shape)[0], gain=gain, generator=generator)


@register("lecun_normal")
def lecun_normal(shape: torch.Size, *, gain: float, generator: torch.Generator, fan_shape: torch.Size) -> torch.Tensor:
    """Truncated at 2 sigma, var = 1/fan_in after the cut. LeCun et al. 1998; as Keras."""
    return _variance_scaled(shape, scale=1, fan=fans(fan_shape)[0], gain=gain, generator=generator)


@register("torch_default")
def torch_default(shape: torch.Size, *, gain: float, generator: torch.Generator, fan_shape: torch.Size) -> torch.Tensor:
    """U(+-gain/sqrt(fan_in)), weights (kaiming_uniform with a = sqrt 5) and biases alike, as torch.nn layers do."""
    bound = gain / math.sqrt(fans(fan_shape)[0])
    return _uniform(shape, generator) * bound


def import_modules(names: list[str]) -> None:
    """Import the user's modules, from the current folder too, so that they register their initializers.

    Raises:
        UsageError: a module cannot be imported.
    """
    here = str(Path.cwd())
    if names and here not in sys.path:
        sys.path.insert(0, here)
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise UsageError(
                f"init.modules: cannot import '{name}' ({reason}); name a module on the Python path or in {here}"
            ) from error


def check(config: InitConfig, layer_names: list[str]) -> None:
    """Check every layer and initializer that a spec names.

    Raises:
        UsageError: an unknown layer or initializer, with the choices.
    """
    import_modules(config.modules)
    for layer in [*config.layers, *config.bias_layers]:
        if layer not in layer_names:
            raise UsageError(f"init names the layer '{layer}'; this model's layers are: {', '.join(layer_names)}")
    for name in [config.weight, config.bias, *config.layers.values(), *config.bias_layers.values()]:
        if name not in REGISTRY:
            raise UsageError(f"unknown initializer '{name}'; registered are: {', '.join(sorted(REGISTRY))}")


def apply(
    config: InitConfig, parameters: dict[str, tuple[torch.nn.Parameter, torch.nn.Parameter]], *, seed: int
) -> None:
    """Fill a model's parameters in place.

    Args:
        config: the spec; :func:`check` it first.
        parameters: layer name -> (weight, bias).
        seed: the trial's seed.

    Raises:
        ValueError: an initializer returned a wrong shape.
    """
    for layer, (weight, bias) in parameters.items():
        chosen = {
            "weight": (weight, config.layers.get(layer, config.weight), config.gain),
            "bias": (bias, config.bias_layers.get(layer, config.bias), 1.0),
        }
        for kind, (tensor, name, gain) in chosen.items():
            draws = random_stream(seed, f"init/{layer}.{kind}")
            values = REGISTRY[name](tensor.shape, gain=gain, generator=draws, fan_shape=weight.shape)
            if values.shape != tensor.shape:
                given, needed = tuple(values.shape), tuple(tensor.shape)
                raise ValueError(f"initializer '{name}' returned shape {given} for {layer}.{kind}, which has {needed}")
            with torch.no_grad():
                tensor.copy_(values)
