"""The network as it is trained: the same layers, computed by the kernel that was chosen, fused where it can.

Probes, evaluation and initializers that look at data go through the network itself, layer by layer with torch's own
convolution: they are off the clock, and what they measure must not depend on the kernel that is measured.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from harness.activations import ACTIVATIONS
from harness.backends import Conv2d, Kernel
from harness.models import Activation, Conv, Pool, Residual
from harness.own_models import AnyNetwork, OwnNetwork

Block = tuple[nn.Module, Conv2d | None, int]
"""A module, what computes it and the modules fused with it (None: itself), and how many modules these are."""


class Trained(nn.Module):
    """A network whose convolutions are computed by a kernel; it holds the network's own parameters.

    Args:
        network: the layers.
        kernel: what computes its convolutions.
        autocast: the type that ``torch.autocast`` computes in; None: as the tensors are.
    """

    def __init__(self, network: AnyNetwork, kernel: Kernel, autocast: torch.dtype | None = None) -> None:
        super().__init__()
        self.network, self.kernel, self.autocast = network, kernel, autocast

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Images (N, 1, 28, 28) -> logits (N, 10), float32 whatever computed them, so that the loss is too."""
        if self.autocast is None:
            return self._logits(x_NCHW)
        # without the cache of cast weights, which a captured graph must not share with what runs outside of it
        with torch.autocast(x_NCHW.device.type, self.autocast, cache_enabled=False):
            logits = self._logits(x_NCHW)
        return logits.float()

    def _logits(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        if isinstance(self.network, OwnNetwork):
            return _run_own(self.network, x_NCHW, self.kernel)
        return _run(list(self.network), x_NCHW, self.kernel)


def _run_own(network: OwnNetwork, x_NCHW: torch.Tensor, kernel: Kernel) -> torch.Tensor:
    """Nothing is fused in a network of the user's own, because only its code knows what follows a convolution."""
    logits: torch.Tensor
    if kernel.conv2d is F.conv2d:
        logits = network(x_NCHW)
        return logits
    with network.convolved_by(kernel.conv2d):
        logits = network(x_NCHW)
    return logits


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
