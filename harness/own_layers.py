"""Torch's own layers in a network of the user's own: which have weights to fill, and what they compute.

Shapes: input x (N, C, ...) of a convolution, (N, ..., in) of a dense layer; output (N, K, ...) or (N, ..., out).
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

Weighted = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers whose weights initializers fill: weight (K, C / groups, ...) or (out, in), and one bias per output or none."""

CONVOLUTIONS = (*WEIGHTED[1:], nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

Convolution = Callable[..., torch.Tensor]
"""A function with the signature of ``torch.nn.functional.conv2d``, or of its namesake for other dimensions."""

_BY_TORCH: dict[int, Convolution] = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}


def is_plain(layer: nn.Module) -> bool:
    """Return whether :func:`applied` computes what the layer does: torch's class itself, padded on equal sides."""
    if type(layer) not in WEIGHTED or "forward" in vars(layer):
        return False
    return isinstance(layer, nn.Linear) or layer.padding_mode == "zeros" or not isinstance(layer.padding, str)


def applied(
    layer: Weighted,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    convolution: Convolution | None = None,
) -> torch.Tensor:
    """Compute what a plain layer does, with other tensors in the place of its own.

    Args:
        layer: see :func:`is_plain`.
        x: its input.
        weight: of the shape of its weight.
        bias: of the shape of its bias, or None.
        convolution: what convolves; None: torch's own function.
    """
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight, bias)
    convolve = convolution or _BY_TORCH[weight.ndim]
    padding: str | int | tuple[int, ...] = layer.padding
    if layer.padding_mode != "zeros" and isinstance(padding, tuple):
        # the last dimension comes first, each with its two sides
        sides = [side for size in reversed(padding) for side in (size, size)]
        x, padding = F.pad(x, sides, mode=layer.padding_mode), 0
    settings: tuple[Any, ...] = (layer.stride, padding, layer.dilation, layer.groups)
    return convolve(x, weight, bias, *settings)


def own_parameter(module: nn.Module, name: str) -> nn.Parameter | None:
    """Return a module's own parameter; None if it has none, or computes the tensor of this name from others."""
    return dict(module.named_parameters(recurse=False, remove_duplicate=False)).get(name)


def trainable_parameter(module: nn.Module, name: str) -> nn.Parameter | None:
    """Return a module's own parameter if it is trained; initializers fill no frozen one."""
    parameter = own_parameter(module, name)
    return parameter if parameter is not None and parameter.requires_grad else None
