"""The network, from a declarative list of layers. It knows neither initializers nor devices.

Shapes: images x_NCHW (N batch, C channels, H height, W width), logits (N, classes).
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn

from harness.activations import ACTIVATIONS, Function
from harness.config import LayerConfig, ModelConfig
from harness.errors import UsageError
from harness.model_registry import register  # noqa: F401 - users import it from here

CLASSES = 10
IMAGE_SHAPE = (1, 28, 28)
BRANCH_CONVS = 2
"""Convolutions in a residual branch that does not say."""


class Parametrised(nn.Module):
    """A layer with a weight of ``shape`` and one bias per output or none, unset until an initializer fills them."""

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, shape: tuple[int, ...], *, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))
        self.register_parameter("bias", nn.Parameter(torch.empty(shape[0])) if bias else None)


class Conv(Parametrised):
    """SAME convolution: (N, C, H, W) -> (N, K, ceil(H / stride), ceil(W / stride))."""

    def __init__(self, layout: "Layout", config: ModelConfig) -> None:
        shape = layout.weight_shape
        super().__init__(shape, bias=config.bias)
        self.stride = layout.config.stride or 1
        self.padding = shape[-1] // 2
        self.circular = config.padding_mode == "circular"

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        return self.by(F.conv2d, x_NCHW)

    def by(self, conv2d: Callable[..., torch.Tensor], x_NCHW: torch.Tensor) -> torch.Tensor:
        """The same by another function with the signature of ``torch.nn.functional.conv2d``."""
        if not self.circular:
            return conv2d(x_NCHW, self.weight, self.bias, stride=self.stride, padding=self.padding)
        around = F.pad(x_NCHW, (self.padding,) * 4, mode="circular")
        return conv2d(around, self.weight, self.bias, stride=self.stride)


class Dense(Parametrised):
    """Fully connected layer; flattens what it is given: (N, ...) -> (N, out)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x.flatten(1), self.weight, self.bias)


POOLINGS: dict[str, Callable[[torch.Tensor, int], torch.Tensor]] = {"max": F.max_pool2d, "avg": F.avg_pool2d}
"""Name of ``model.pooling`` -> pooling over windows of a size, the same stride."""


class Pool(nn.Module):
    """Maximum or average over ``size`` x ``size`` windows, the same stride."""

    def __init__(self, size: int, kind: str) -> None:
        super().__init__()
        self.size, self.kind = size, kind

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        return POOLINGS[self.kind](x_NCHW, self.size)


class Activation(nn.Module):
    """An elementwise function."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


class Residual(nn.Module):
    """x + scale * branch(x), the scale one learned number: (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, branch: nn.Sequential) -> None:
        super().__init__()
        self.branch = branch
        self.scale = nn.Parameter(torch.empty(()))

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        added: torch.Tensor = self.branch(x_NCHW)
        return x_NCHW + self.scale * added


class Network(nn.Sequential):
    """The layers in order; parameters go by the names of their layers in the config, e.g. ``conv1.weight``."""

    def parametrised(self) -> dict[str, Parametrised]:
        """Layer name -> layer, in order, for each layer that has a weight; those inside branches too."""
        return {
            name.rpartition(".")[2]: layer for name, layer in self.named_modules() if isinstance(layer, Parametrised)
        }

    def branches(self) -> dict[str, Residual]:
        """Name -> residual layer, in order."""
        return {name: layer for name, layer in self.named_children() if isinstance(layer, Residual)}

    def tensors(self) -> dict[str, nn.Parameter]:
        """Name -> parameter, in the order of the layers; a branch's scale comes after the branch."""
        parameters: dict[str, nn.Parameter] = {}
        for name, child in self.named_children():
            inner = child.branch.named_children() if isinstance(child, Residual) else [(name, child)]
            for layer_name, layer in inner:
                parameters |= {f"{layer_name}.{kind}": value for kind, value in layer.named_parameters(recurse=False)}
            if isinstance(child, Residual):
                parameters[f"{name}.scale"] = child.scale
        return parameters


@dataclass(frozen=True)
class Layout:
    """One layer with its sizes: what :func:`build` makes and :func:`flops_per_image` counts.

    Attributes:
        name: unique in the network.
        config: what it was made from.
        out_shape: of one image's output.
        weight_shape: empty for a layer without a weight.
        branch: of a residual layer, the layers it adds to its input.
    """

    name: str
    config: LayerConfig
    out_shape: tuple[int, ...]
    weight_shape: tuple[int, ...] = ()
    branch: list["Layout"] = field(default_factory=list)


def plan(config: ModelConfig) -> list[Layout]:
    """Every layer's name and sizes.

    Raises:
        UsageError: a layer that cannot be: unknown type, missing or superfluous size, image used up, wrong outputs.
    """
    if config.activation not in ACTIVATIONS:
        raise UsageError(f"model.activation={config.activation}; choose one of: {', '.join(ACTIVATIONS)}")
    _check_shared_sizes(config)
    layers = list(_layouts(config))
    names = [layer.name for layer in _flat(layers)]
    if len(set(names)) != len(names):
        raise UsageError(f"model.layers: names must differ, given: {', '.join(names)}")
    last = layers[-1] if layers else None
    if last is None or last.out_shape != (CLASSES,) or not last.weight_shape:
        shape = last.out_shape if last else ()
        raise UsageError(f"model.layers: the last layer gives {shape}, it must be a dense layer with out={CLASSES}")
    return layers


def weight_layers(config: ModelConfig) -> list[str]:
    """Names of the layers that have a weight, in order, those inside branches too."""
    return [layer.name for layer in _flat(plan(config)) if layer.weight_shape]


def _flat(layers: list[Layout]) -> Iterator[Layout]:
    for layer in layers:
        yield from layer.branch
        yield layer


def _check_shared_sizes(config: ModelConfig) -> None:
    """A size that no layer refers to would change nothing."""
    for size, keys in {"depth": ("repeat",), "width": ("out",), "stride": ("stride",)}.items():
        chosen = getattr(config, size)
        if chosen is not None and all(getattr(layer, key) != chosen for layer in config.layers for key in keys):
            raise UsageError(f"model.{size}={chosen}: no layer of this model refers to it; see model=deep")


_REQUIRED = {
    "conv": {"name", "out", "kernel"},
    "dense": {"name", "out"},
    "pool": {"size"},
    "activation": set[str](),
    "residual": {"name", "kernel"},
}
_OPTIONAL = {"conv": {"stride", "repeat"}, "dense": {"repeat"}, "residual": {"convs", "repeat"}}


def _layouts(config: ModelConfig) -> Iterator[Layout]:
    shape: tuple[int, ...] = IMAGE_SHAPE
    for position, (where, layer) in enumerate(_unrolled(config.layers)):
        _check_sizes(layer, where, shape, config)
        layout = _layout(layer, layer.name or f"{layer.type}_{position}", shape)
        shape = layout.out_shape
        yield layout


def _unrolled(layers: list[LayerConfig]) -> Iterator[tuple[str, LayerConfig]]:
    """Each layer with its place in the config, repeated ones written out."""
    for index, layer in enumerate(layers):
        where = f"model.layers[{index}]"
        _check_keys(layer, where)
        if layer.repeat is None:
            yield where, layer
        for number in range(1, (layer.repeat or 0) + 1):
            yield where, dataclasses.replace(layer, name=f"{layer.name}{number}", repeat=None)
            yield where, LayerConfig(type="activation")


def _check_keys(layer: LayerConfig, where: str) -> None:
    if layer.type not in _REQUIRED:
        raise UsageError(f"{where}: type '{layer.type}' is unknown; choose one of: {', '.join(_REQUIRED)}")
    sizes = {key: value for key, value in dataclasses.asdict(layer).items() if key != "type" and value is not None}
    required, optional = _REQUIRED[layer.type], _OPTIONAL.get(layer.type, set())
    if not required <= sizes.keys() <= required | optional:
        needs = ", ".join(sorted(required)) or "nothing"
        may = f" and may have {', '.join(sorted(optional))}" if optional else ""
        raise UsageError(f"{where}: {layer.type} takes {needs}{may}; given {', '.join(sorted(sizes)) or 'nothing'}")
    if any(value < 1 for key, value in sizes.items() if key != "name"):
        raise UsageError(f"{where}: sizes must be at least 1, given {sizes}")
    if layer.kernel is not None and layer.kernel % 2 == 0:
        raise UsageError(f"{where}: kernel={layer.kernel}; SAME padding needs an odd kernel")
    if layer.name is not None and (not layer.name.isidentifier() or hasattr(nn.Sequential(), layer.name)):
        raise UsageError(
            f"{where}: name={layer.name}; give letters, digits and underscores, and no name of torch's own modules"
        )


def _check_sizes(layer: LayerConfig, where: str, shape: tuple[int, ...], config: ModelConfig) -> None:
    if layer.type not in ("conv", "pool", "residual"):
        return
    least = layer.size or 1
    if config.padding_mode == "circular":
        least = max(least, (layer.kernel or 1) // 2)
    if len(shape) != len(IMAGE_SHAPE) or least > shape[-1]:
        raise UsageError(f"{where}: {layer.type} needs an image that is large enough, and gets shape {shape}")


def _layout(layer: LayerConfig, name: str, shape: tuple[int, ...]) -> Layout:
    """One checked layer behind an output of ``shape``."""
    if layer.type == "conv":
        return _conv_layout(layer, name, shape)
    if layer.type == "dense":
        assert layer.out is not None
        return Layout(name, layer, (layer.out,), (layer.out, math.prod(shape)))
    if layer.type == "pool":
        assert layer.size is not None
        return Layout(name, layer, (shape[0], shape[1] // layer.size, shape[2] // layer.size))
    if layer.type == "residual":
        return Layout(name, layer, shape, branch=_branch(layer, name, shape))
    return Layout(name, layer, shape)


def _conv_layout(layer: LayerConfig, name: str, shape: tuple[int, ...]) -> Layout:
    assert layer.out is not None
    assert layer.kernel is not None
    stride = layer.stride or 1
    out = (layer.out, -(-shape[1] // stride), -(-shape[2] // stride))
    return Layout(name, layer, out, (layer.out, shape[0], layer.kernel, layer.kernel))


def _branch(layer: LayerConfig, name: str, shape: tuple[int, ...]) -> list[Layout]:
    """Convolutions that keep the shape, an activation between each two."""
    layers: list[Layout] = []
    for number in range(1, (layer.convs or BRANCH_CONVS) + 1):
        if layers:
            between = LayerConfig(type="activation")
            layers.append(Layout(f"{name}_activation{number - 1}", between, shape))
        conv = LayerConfig(type="conv", out=shape[0], kernel=layer.kernel)
        layers.append(_conv_layout(conv, f"{name}_conv{number}", shape))
    return layers


def build(config: ModelConfig) -> Network:
    """The network with unset parameters, on the CPU.

    Args:
        config: its layers.

    Raises:
        UsageError: see :func:`plan`.
    """
    network = Network()
    for layer in _pool_before_relu(plan(config), config):
        network.add_module(layer.name, _module(layer, config))
    return network


def _pool_before_relu(layers: list[Layout], config: ModelConfig) -> list[Layout]:
    """Swap each relu with the max-pooling that follows: bit for bit the same values and gradients, on fewer numbers.

    Of a window whose largest number is positive both orders pass that number and send its gradient to the same place;
    of any other window both give zero and send nothing. Other activations round or tie differently and stay where they
    are.
    """
    order = list(layers)
    if (config.activation, config.pooling) != ("relu", "max"):
        return order
    for here in range(len(order) - 1):
        first, second = order[here], order[here + 1]
        if (first.config.type, second.config.type) == ("activation", "pool"):
            order[here], order[here + 1] = second, first
    return order


def _module(layer: Layout, config: ModelConfig) -> nn.Module:
    if layer.config.type == "pool":
        assert layer.config.size is not None
        return Pool(layer.config.size, config.pooling)
    if layer.config.type == "conv":
        return Conv(layer, config)
    if layer.config.type == "dense":
        return Dense(layer.weight_shape, bias=config.bias)
    if layer.config.type == "residual":
        branch = nn.Sequential()
        for inner in layer.branch:
            branch.add_module(inner.name, _module(inner, config))
        return Residual(branch)
    return Activation(ACTIVATIONS[config.activation])


def flops_per_image(config: ModelConfig) -> tuple[int, int]:
    """(forward, training step) floating-point operations per image in convolutions and dense layers.

    A multiplication and an addition count 2. A training step is the forward pass, the weight gradient and, but for the
    first layer, the input gradient: each the same count. Activations, pooling, biases and the update are left out.
    """
    counts = []
    for layer in _flat(plan(config)):
        if layer.weight_shape:
            pixels = math.prod(layer.out_shape[1:])
            counts.append(2 * math.prod(layer.weight_shape) * pixels)
    return sum(counts), 3 * sum(counts) - counts[0]
