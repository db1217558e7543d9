"""The activation functions by name: torch's elementwise ones, and relu by the derivative it takes at 0.

Whether a zero layer can learn hangs on f(0) and f'(0), and relu'(0) on how relu is spelled.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

Function = Callable[[torch.Tensor], torch.Tensor]


def relu_half(x: torch.Tensor) -> torch.Tensor:
    """relu'(0) = 1/2: ``torch.maximum`` splits the gradient of a tie."""
    return torch.maximum(x, torch.zeros_like(x))


def relu_one(x: torch.Tensor) -> torch.Tensor:
    """relu'(0) = 1: 0 counts as positive."""
    return torch.where(x < 0, 0.0, x)


def relu_squared(x: torch.Tensor) -> torch.Tensor:
    """relu(x)^2."""
    return F.relu(x).square()


ACTIVATIONS: dict[str, Function] = {
    "relu": F.relu,
    "relu_half": relu_half,
    "relu_one": relu_one,
    "relu_squared": relu_squared,
    "relu6": F.relu6,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "celu": F.celu,
    "selu": F.selu,
    "gelu": F.gelu,
    "silu": F.silu,
    "mish": F.mish,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "logsigmoid": F.logsigmoid,
    "softplus": F.softplus,
    "softsign": F.softsign,
    "hardtanh": F.hardtanh,
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "hardshrink": F.hardshrink,
    "softshrink": F.softshrink,
    "tanhshrink": F.tanhshrink,
    "identity": lambda x: x,
}
"""Name of ``model.activation`` -> function. ``relu`` has relu'(0) = 0."""
