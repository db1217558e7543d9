"""The registry of initializers, and what each of them is told.

Shapes: a convolution's weight is (K, C, R, S), a dense one's (out, in), a bias's (out,).
"""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

Initializer = Callable[..., torch.Tensor]
"""``(shape, *, generator, ...) -> values``: a new CPU tensor of ``shape``. See :func:`register`."""

REGISTRY: dict[str, Initializer] = {}
"""Name -> initializer: what ``init.weight``, ``init.bias``, ``init.layers.*`` can name."""

_SUPPLIED = ("gain", "generator", "fan_shape", "site")


@dataclass(frozen=True)
class Branch:
    """A layer's place in a residual network: ``position`` of ``layers`` in its branch, of ``blocks`` branches."""

    position: int
    layers: int
    blocks: int


@dataclass(frozen=True)
class Site:
    """Which tensor of which layer is being filled.

    Attributes:
        layer: name of the layer.
        tensor: ``weight`` or ``bias``.
        position: place of the layer among those with weights, from 0.
        layers: how many of those the network has.
        fan_shape: shape of the layer's weight, also where its bias is filled.
        branch: the layer's place in a residual branch; None outside one.
    """

    layer: str
    tensor: str
    position: int
    layers: int
    fan_shape: torch.Size
    branch: Branch | None = None

    @property
    def is_last(self) -> bool:
        """Whether the layer gives the logits."""
        return self.position == self.layers - 1


def register(name: str) -> Callable[[Initializer], Initializer]:
    """Register a function as the initializer ``name``.

    The function takes the tensor's shape and, by name, what it asks for of ``gain`` (factor), ``generator`` (a CPU
    ``torch.Generator``; the only allowed source of randomness), ``fan_shape`` (shape of the layer's weight) and
    ``site`` (:class:`Site`). Every other keyword parameter must have a default; it becomes an option that
    ``init.options`` can set.

    Raises:
        ValueError: the name is taken, or a parameter can be neither supplied nor left out.
    """

    def add(function: Initializer) -> Initializer:
        if name in REGISTRY and REGISTRY[name].__module__ != function.__module__:
            raise ValueError(f"the initializer '{name}' exists already, in {REGISTRY[name].__module__}")
        for parameter in _keywords(function):
            if parameter.name not in _SUPPLIED and parameter.default is inspect.Parameter.empty:
                raise ValueError(
                    f"initializer '{name}': parameter '{parameter.name}' needs a default; "
                    f"the harness supplies {', '.join(_SUPPLIED)}"
                )
        REGISTRY[name] = function
        return function

    return add


def _keywords(function: Initializer) -> list[inspect.Parameter]:
    """Every parameter but the first, the shape."""
    return list(inspect.signature(function).parameters.values())[1:]


def options_of(name: str) -> dict[str, Any]:
    """The options of a registered initializer with their defaults."""
    return {p.name: p.default for p in _keywords(REGISTRY[name]) if p.name not in _SUPPLIED}


def values(
    name: str, shape: torch.Size, *, gain: float, generator: torch.Generator, site: Site, options: Mapping[str, Any]
) -> torch.Tensor:
    """Draw one tensor; of ``options`` those that the initializer has are handed on.

    Raises:
        TypeError: the initializer returned no tensor.
        ValueError: it returned a wrong shape.
    """
    function = REGISTRY[name]
    supplied = {"gain": gain, "generator": generator, "fan_shape": site.fan_shape, "site": site, **options}
    tensor = function(shape, **{p.name: supplied[p.name] for p in _keywords(function) if p.name in supplied})
    if not isinstance(tensor, torch.Tensor):
        kind = type(tensor).__name__
        raise TypeError(f"initializer '{name}' returned {kind} for {site.layer}.{site.tensor}; it must be a tensor")
    if tensor.shape != shape:
        drawn, needed = tuple(tensor.shape), tuple(shape)
        raise ValueError(
            f"initializer '{name}' returned shape {drawn} for {site.layer}.{site.tensor}, which has {needed}"
        )
    return tensor


def fans(weight_shape: torch.Size) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight: C*R*S and K*R*S for a convolution, in and out features for a dense layer."""
    taps = math.prod(weight_shape[2:])
    return weight_shape[1] * taps, weight_shape[0] * taps


def standard_normal(shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    """The one draw behind every family: common random numbers make comparisons between initializers far tighter."""
    return torch.randn(shape, generator=generator)
