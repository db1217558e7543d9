"""R networks of one architecture as one network, whose parameters have the models as their first axis.

Shapes: R models, N batch, C channels in, K channels out, H height, W width, F features. What passes between layers is
(R, N, ...); only the images, before the first layer with a weight, may be (N, C, H, W), shared by all models. Features
of a model are (R, N, F), so the number of axes tells the two apart: four means shared.
"""

import copy
import functools
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, vmap

from harness.backends import Conv2d, Kernel
from harness.fusion import blocks
from harness.models import NORM_MODULES, Conv, Dense, Network, Pool, Residual

_SHARED_AXES = 4


class StackedNetwork(nn.Module):
    """R networks, computed and trained as one: images (N, C, H, W) or (R, N, C, H, W) -> logits (R, N, classes).

    From now on the parameters and buffers of each given network are views of this network's, so that each of them
    always shows what was trained. A layer is computed for all models at once, and no number of one model enters what
    is computed of another.

    Args:
        networks: R networks of the same architecture, filled, of one dtype, on one device.
        kernel: what computes the convolutions of one model.
    """

    def __init__(self, networks: Sequence[Network], kernel: Kernel) -> None:
        super().__init__()
        self.layers = copy.deepcopy(networks[0]).train()
        self.kernel = stacked_kernel(kernel)
        self.models = len(networks)
        for name, module in self.layers.named_modules():
            _stack_tensors(module, [network.get_submodule(name) for network in networks])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (N, C, H, W) shared by the models, or (R, N, C, H, W) -> logits (R, N, classes)."""
        return self._run(list(self.layers), x)

    def _run(self, modules: Sequence[nn.Module], x: torch.Tensor) -> torch.Tensor:
        for module, conv2d, _ in blocks(modules, self.kernel):
            x = self._computed(module, conv2d, x)
        return x

    def _computed(self, module: nn.Module, conv2d: Conv2d | None, x: torch.Tensor) -> torch.Tensor:
        if isinstance(module, Conv) and conv2d is not None:
            return module.by(conv2d, x)
        if isinstance(module, Residual):
            added = self._run(list(module.branch), x)
            return x + added if module.scale is None else x + module.scale.view(-1, 1, 1, 1, 1) * added
        if isinstance(module, Dense):
            return _dense(module, x)
        if isinstance(module, Pool):
            pooled: torch.Tensor = module(x.flatten(0, -4))
            return pooled.view(*x.shape[:-3], *pooled.shape[1:])
        if isinstance(module, NORM_MODULES):
            return _normalised(module, x, self.models)
        y: torch.Tensor = module(x)
        return y


def stacked_kernel(kernel: Kernel) -> Kernel:
    """The functions of a kernel for R models at once: images (R, N, C, H, W) or (N, C, H, W), weight (R, K, C, r, s).

    A kernel that has no such functions of its own is mapped over the models by ``torch.func.vmap``, which makes of
    torch's convolution one with R groups of channels.
    """
    return kernel.stacked or Kernel(functools.partial(_mapped, kernel.conv2d))


def _mapped(
    conv2d: Conv2d, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, **settings: int
) -> torch.Tensor:
    images = None if x.dim() == _SHARED_AXES else 0
    mapped: Callable[..., torch.Tensor] = vmap(
        functools.partial(conv2d, **settings), in_dims=(images, 0, None if bias is None else 0)
    )
    return mapped(x, weight, bias)


def _dense(layer: Dense, x: torch.Tensor) -> torch.Tensor:
    weight, bias = layer.weight, layer.bias
    if x.dim() == _SHARED_AXES:
        # one product for all models instead of R with the same factor
        flat = F.linear(x.flatten(1), weight.flatten(0, 1), None if bias is None else bias.flatten())
        return flat.view(-1, *weight.shape[:2]).transpose(0, 1)
    features = x.flatten(2)
    if bias is None:
        return torch.bmm(features, weight.transpose(1, 2))
    return torch.baddbmm(bias.unsqueeze(1), features, weight.transpose(1, 2))


def _normalised(norm: nn.Module, x: torch.Tensor, models: int) -> torch.Tensor:
    """By each model's own scale and shift; in-place updates of running statistics reach the stacked buffers."""
    tensors = {**dict(norm.named_parameters()), **dict(norm.named_buffers())}
    each = x.expand(models, *x.shape) if x.dim() == _SHARED_AXES else x
    if isinstance(norm, nn.GroupNorm):
        # torch 2.11 cannot map it over the models where images lie channels last
        flat = F.group_norm(each.flatten(0, 1), norm.num_groups, eps=norm.eps).view(each.shape)
        scale, shift = (value.view(models, 1, -1, *[1] * (each.dim() - 3)) for value in (norm.weight, norm.bias))
        return flat * scale + shift
    y: torch.Tensor = vmap(functools.partial(functional_call, norm))(tensors, each)
    return y


def _stack_tensors(module: nn.Module, of_models: Sequence[nn.Module]) -> None:
    """Give a module the stacked tensors of the models' own, and make those views of them."""
    for name, values in _own_tensors(of_models):
        stacked = _stacked(values)
        is_parameter = isinstance(values[0], nn.Parameter)
        setattr(module, name, nn.Parameter(stacked) if is_parameter else stacked)
        for value, view in zip(values, stacked, strict=True):
            value.data = view


def _own_tensors(modules: Sequence[nn.Module]) -> Iterator[tuple[str, list[torch.Tensor]]]:
    own = (
        {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
        for module in modules
    )
    first, *others = own
    for name, value in first.items():
        yield name, [value, *(other[name] for other in others)]


def _stacked(values: Sequence[torch.Tensor]) -> torch.Tensor:
    """(R, ...), each model as it lies in memory: a channels-last filter stays one."""
    first = values[0]
    stacked = torch.empty_strided(
        (len(values), *first.shape), (first.numel(), *first.stride()), dtype=first.dtype, device=first.device
    )
    for view, value in zip(stacked, values, strict=True):
        view.copy_(value.detach())
    return stacked
