"""The network as it is trained: the same layers, computed by the kernel that was chosen, fused where it can.

Probes, evaluation and initializers that look at data go through the network itself, layer by layer with torch's own
convolution: they are off the clock, and what they measure must not depend on the kernel that is measured.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from harness.activations import ACTIVATIONS
from harness.backends import Conv2d, Kernel
from harness.models import Activation, Conv, Network, Pool, Residual

Block = tuple[nn.Module, Conv2d | None, int]
"""A module, what computes it and the modules fused with it (None: itself), and how many modules these are."""


class Trained(nn.Module):
    """A network whose convolutions are computed by a kernel; it holds the network's own parameters.

    Args:
        network: the layers.
        kernel: what computes its convolutions.
    """

    def __init__(self, network: Network, kernel: Kernel) -> None:
        super().__init__()
        self.network, self.kernel = network, kernel

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Images (N, 1, 28, 28) -> logits (N, 10)."""
        return _run(list(self.network), x_NCHW, self.kernel)


def _run(modules: Sequence[nn.Module], x: torch.Tensor, kernel: Kernel) -> torch.Tensor:
    for module, conv2d, _ in blocks(modules, kernel):
        if isinstance(module, Conv) and conv2d is not None:
            x = module.by(conv2d, x)
        elif isinstance(module, Residual):
            x = module.joined(x, _run(list(module.branch), x, kernel))
        else:
            x = module(x)
    return x


def blocks(modules: Sequence[nn.Module], kernel: Kernel) -> Iterator[Block]:
    """Cut a sequence of modules into what is computed at once."""
    position = 0
    while position < len(modules):
        block = _block(modules[position : position + 3], kernel)
        yield block
        position += block[2]


def _block(ahead: Sequence[nn.Module], kernel: Kernel) -> Block:
    """The block that begins with the first of up to three modules."""
    first, *rest = ahead
    if not isinstance(first, Conv):
        return first, None, 1
    if rest and _is_relu(rest[0]) and kernel.conv2d_relu is not None:
        return first, kernel.conv2d_relu, 2
    if len(rest) == 2 and _is_pool(rest[0]) and _is_relu(rest[1]) and kernel.conv2d_pool_relu is not None:
        return first, kernel.conv2d_pool_relu, 3
    return first, kernel.conv2d, 1


def _is_relu(module: nn.Module) -> bool:
    return isinstance(module, Activation) and module.function is ACTIVATIONS["relu"]


def _is_pool(module: nn.Module) -> bool:
    return isinstance(module, Pool) and (module.size, module.kind) == (2, "max")
