"""The network, from a declarative list of layers. It knows neither initializers nor devices.

Shapes: images x_NCHW (N batch, C channels, H height, W width), logits (N, classes).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from harness.config import LayerConfig, ModelConfig
from harness.errors import UsageError
from kernels import Conv2d

CLASSES = 10
IMAGE_SHAPE = (1, 28, 28)

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "selu": F.selu,
    "gelu": F.gelu,
    "silu": F.silu,
    "mish": F.mish,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
    "softsign": F.softsign,
    "identity": lambda x: x,
}


class _Parametrised(nn.Module):
    """A layer with a weight of ``shape`` and one bias per output, both unset until an initializer fills them."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.empty(shape[0]))


class Conv(_Parametrised):
    """SAME convolution of stride 1: (N, C, H, W) -> (N, K, H, W)."""

    def __init__(self, shape: tuple[int, ...], conv2d: Conv2d) -> None:
        super().__init__(shape)
        self._conv2d = conv2d
        self._padding = shape[-1] // 2

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        return self._conv2d(x_NCHW, self.weight, self.bias, padding=self._padding)


class Dense(_Parametrised):
    """Fully connected layer; flattens what it is given: (N, ...) -> (N, out)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x.flatten(1), self.weight, self.bias)


class Pool(nn.Module):
    """Maximum over ``size`` x ``size`` windows, the same stride."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        return F.max_pool2d(x_NCHW, self._size)


class Activation(nn.Module):
    """An elementwise function."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


class Network(nn.Sequential):
    """The layers in order; those with parameters go by the names of their config."""

    def parametrised(self) -> dict[str, _Parametrised]:
        """Layer name -> layer, in order, for each layer that has parameters."""
        return {name: layer for name, layer in self.named_children() if isinstance(layer, _Parametrised)}


@dataclass(frozen=True)
class Layout:
    """One layer with its sizes: what :func:`build` makes and :func:`flops_per_image` counts."""

    name: str
    config: LayerConfig
    weight_shape: tuple[int, ...] | None
    out_shape: tuple[int, ...]


def plan(config: ModelConfig) -> list[Layout]:
    """Every layer's name and sizes.

    Raises:
        UsageError: a layer that cannot be: unknown type, missing or superfluous size, image used up, wrong outputs.
    """
    if config.activation not in ACTIVATIONS:
        raise UsageError(f"model.activation={config.activation}; choose one of: {', '.join(ACTIVATIONS)}")
    layers = list(_layouts(config))
    names = [layer.name for layer in layers]
    if len(set(names)) != len(names):
        raise UsageError(f"model.layers: names must differ, given: {', '.join(names)}")
    last = layers[-1].out_shape if layers else ()
    if last != (CLASSES,):
        raise UsageError(f"model.layers: the last layer gives {last}, it must be a dense layer with out={CLASSES}")
    return layers


_NEEDS = {"conv": {"name", "out", "kernel"}, "dense": {"name", "out"}, "pool": {"size"}, "activation": set[str]()}


def _layouts(config: ModelConfig) -> Iterator[Layout]:
    shape: tuple[int, ...] = IMAGE_SHAPE
    for position, layer in enumerate(config.layers):
        _check_layer(layer, position, shape)
        name = layer.name or f"{layer.type}_{position}"
        weight_shape, shape = _shapes(layer, shape)
        yield Layout(name, layer, weight_shape, shape)


def _check_layer(layer: LayerConfig, position: int, shape: tuple[int, ...]) -> None:
    where = f"model.layers[{position}]"
    if layer.type not in _NEEDS:
        raise UsageError(f"{where}: type '{layer.type}' is unknown; choose one of: {', '.join(_NEEDS)}")
    sizes = {"name": layer.name, "out": layer.out, "kernel": layer.kernel, "size": layer.size}
    given = {key for key, value in sizes.items() if value is not None}
    if given != _NEEDS[layer.type]:
        needs = ", ".join(sorted(_NEEDS[layer.type])) or "nothing"
        raise UsageError(f"{where}: {layer.type} takes {needs}; given {', '.join(sorted(given)) or 'nothing'}")
    if any(value is not None and value < 1 for value in (layer.out, layer.kernel, layer.size)):
        raise UsageError(f"{where}: out, kernel and size must be at least 1")
    if layer.kernel is not None and layer.kernel % 2 == 0:
        raise UsageError(f"{where}: kernel={layer.kernel}; SAME padding needs an odd kernel")
    if layer.type in ("conv", "pool") and (len(shape) != len(IMAGE_SHAPE) or (layer.size or 1) > shape[-1]):
        raise UsageError(f"{where}: {layer.type} needs an image that is large enough, and gets shape {shape}")


def _shapes(layer: LayerConfig, shape: tuple[int, ...]) -> tuple[tuple[int, ...] | None, tuple[int, ...]]:
    """(weight shape or None, output shape) of a checked layer."""
    if layer.type == "conv":
        assert layer.out is not None
        assert layer.kernel is not None
        return (layer.out, shape[0], layer.kernel, layer.kernel), (layer.out, *shape[1:])
    if layer.type == "dense":
        assert layer.out is not None
        return (layer.out, math.prod(shape)), (layer.out,)
    if layer.type == "pool":
        assert layer.size is not None
        return None, (shape[0], shape[1] // layer.size, shape[2] // layer.size)
    return None, shape


def build(config: ModelConfig, *, conv2d: Conv2d) -> Network:
    """The network with unset parameters, on the CPU.

    Args:
        config: its layers.
        conv2d: a function with the signature of ``torch.nn.functional.conv2d``.

    Raises:
        UsageError: see :func:`plan`.
    """
    network = Network()
    for layer in _pool_before_relu(plan(config), config.activation):
        network.add_module(layer.name, _module(layer, config.activation, conv2d))
    return network


def _pool_before_relu(layers: list[Layout], activation: str) -> list[Layout]:
    """Swap each relu with the pooling that follows: bit for bit the same values and gradients, on fewer numbers.

    Of a window whose largest number is positive both orders pass that number and send its gradient to the same place;
    of any other window both give zero and send nothing. Other activations round or tie differently and stay where they
    are.
    """
    order = list(layers)
    for here in range(len(order) - 1):
        first, second = order[here], order[here + 1]
        if activation == "relu" and (first.config.type, second.config.type) == ("activation", "pool"):
            order[here], order[here + 1] = second, first
    return order


def _module(layer: Layout, activation: str, conv2d: Conv2d) -> nn.Module:
    if layer.config.type == "pool":
        assert layer.config.size is not None
        return Pool(layer.config.size)
    if layer.weight_shape is None:
        return Activation(ACTIVATIONS[activation])
    return Conv(layer.weight_shape, conv2d) if layer.config.type == "conv" else Dense(layer.weight_shape)


def flops_per_image(config: ModelConfig) -> tuple[int, int]:
    """(forward, training step) floating-point operations per image in convolutions and dense layers.

    A multiplication and an addition count 2. A training step is the forward pass, the weight gradient and, but for the
    first layer, the input gradient: each the same count. Activations, pooling, biases and the update are left out.
    """
    counts = []
    for layer in plan(config):
        if layer.weight_shape is not None:
            pixels = math.prod(layer.out_shape[1:])
            counts.append(2 * math.prod(layer.weight_shape) * pixels)
    return sum(counts), 3 * sum(counts) - counts[0]
