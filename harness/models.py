"""The network, from a declarative list of layers. It knows neither initializers nor devices.

Shapes: images x_NCHW (N batch, C channels, H height, W width), logits (N, classes).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from harness.activations import ACTIVATIONS, Function
from harness.config import ModelConfig
from harness.layouts import Layout, flops_per_image, groups_of, plan, weight_layers
from harness.model_registry import register

__all__ = [
    "ACTIVATIONS",
    "NORM_MODULES",
    "POOLINGS",
    "Activation",
    "Conv",
    "Dense",
    "Network",
    "Parametrised",
    "Pool",
    "Residual",
    "build",
    "flops_per_image",
    "plan",
    "register",
    "weight_layers",
]

NORM_MODULES = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)
"""What a layer of type norm is; its scale starts at 1 and its shift at 0, and no initializer touches them."""


class Parametrised(nn.Module):
    """A layer with a weight of ``shape`` and one bias per output or none, unset until an initializer fills them."""

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, shape: tuple[int, ...], *, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))
        self.register_parameter("bias", nn.Parameter(torch.empty(shape[0])) if bias else None)


class Conv(Parametrised):
    """SAME convolution: (N, C, H, W) -> (N, K, ceil(H / stride), ceil(W / stride)); or VALID, without padding."""

    def __init__(self, layout: Layout) -> None:
        shape, config = layout.weight_shape, layout.config
        super().__init__(shape, bias=bool(config.bias))
        self.stride = config.stride or 1
        is_valid = config.padding == "valid"
        self.padding = 0 if is_valid else shape[-1] // 2
        self.circular = config.padding_mode == "circular" and not is_valid

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        return self.by(F.conv2d, x_NCHW)

    def by(self, conv2d: Callable[..., torch.Tensor], x_NCHW: torch.Tensor) -> torch.Tensor:
        """The same by another function with the signature of ``torch.nn.functional.conv2d``."""
        if not self.circular:
            return conv2d(x_NCHW, self.weight, self.bias, stride=self.stride, padding=self.padding)
        # images of several models have an axis more, which is not padded
        edges = (self.padding,) * 4 + (0, 0) * (x_NCHW.dim() - 4)
        around = F.pad(x_NCHW, edges, mode="circular")
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
    """x + scale * branch(x), the scale one learned number or none: (N, C, H, W) -> (N, C, H, W)."""

    scale: nn.Parameter | None

    def __init__(self, branch: nn.Sequential, *, learned_scale: bool = True) -> None:
        super().__init__()
        self.branch = branch
        self.register_parameter("scale", nn.Parameter(torch.empty(())) if learned_scale else None)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        return self.joined(x_NCHW, self.branch(x_NCHW))

    def joined(self, x_NCHW: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
        """The sum of the input and what the branch made of it."""
        return x_NCHW + added if self.scale is None else x_NCHW + self.scale * added


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
            if isinstance(child, Residual) and child.scale is not None:
                parameters[f"{name}.scale"] = child.scale
        return parameters


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
    if config.pooling != "max":
        return order
    for here in range(len(order) - 1):
        first, second = order[here], order[here + 1]
        if first.config.activation == "relu" and (first.config.type, second.config.type) == ("activation", "pool"):
            order[here], order[here + 1] = second, first
    return order


def _module(layer: Layout, config: ModelConfig) -> nn.Module:
    kind = layer.config.type
    if kind == "residual":
        branch = nn.Sequential()
        for inner in layer.branch:
            branch.add_module(inner.name, _module(inner, config))
        return Residual(branch, learned_scale=bool(layer.config.learned_scale))
    makers: dict[str, Callable[[], nn.Module]] = {
        "pool": lambda: Pool(layer.config.size or 1, config.pooling),
        "conv": lambda: Conv(layer),
        "dense": lambda: Dense(layer.weight_shape, bias=bool(layer.config.bias)),
        "norm": lambda: _norm(layer),
        "dropout": lambda: nn.Dropout(layer.config.p or 0.0),
        "activation": lambda: Activation(ACTIVATIONS[str(layer.config.activation)]),
    }
    return makers[kind]()


def _norm(layer: Layout) -> nn.Module:
    """Statistics of the batch for each channel, or those of one image over all of it or over groups of channels.

    A layer norm has a scale and a shift for each number of an image, the others for each channel.
    """
    shape = layer.out_shape
    if layer.config.kind == "batch":
        return nn.BatchNorm2d(shape[0]) if len(shape) > 1 else nn.BatchNorm1d(shape[0])
    if layer.config.kind == "layer":
        return nn.LayerNorm(shape)
    return nn.GroupNorm(groups_of(layer.config, shape), shape[0])
