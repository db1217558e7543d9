"""What users call: convolutions with the signature of ``torch.nn.functional.conv2d``, plain, fused and stacked.

All end in one operator on 5-D tensors (see ``kernels.operators``), which knows gradients, vmap and compilers.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

# importing transforms tells torch of them
from . import geometry, operators, transforms
from .geometry import ConvolutionError, ConvolutionWindow
from .launch import EPILOGUES

__all__ = ["ConvolutionError", "conv2d", "conv2d_pool_relu", "conv2d_relu", "conv2d_stacked", "transforms"]


def conv2d(
    input: Tensor,  # noqa: A002 - torch's name
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    precision: str = "ieee",
) -> Tensor:
    """``torch.nn.functional.conv2d`` by Triton kernels, its gradients too; deterministic bit for bit.

    A weight that is not finite makes the input's gradient so in all of its channel, for a tap that does not land is
    counted as 0 times the weight; torch's is so only where the tap lands.

    Args:
        input: (N, C, H, W) or (C, H, W), any strides; float32, float16 or bfloat16, added up in float32.
        weight: (K, C / groups, R, S).
        bias: (K,) or None.
        stride: one number or a pair.
        padding: zeros at each side: one number, a pair, ``"valid"`` or ``"same"``.
        dilation: one number or a pair.
        groups: number of independent parts of the channels.
        precision: of float32 products: ``ieee`` (exact but for rounding), ``tf32`` or ``tf32x3``.

    Returns:
        (N, K, P, Q) or (K, P, Q), in the layout that torch would give.

    Raises:
        ConvolutionError: what cannot be computed, and what can: not with float64 or complex numbers, with dimensions
            of 0 but the batch, in forward mode, or twice backward.
    """
    return _plain(input, weight, bias, (stride, padding, dilation, groups), precision, "none")


def conv2d_relu(
    input: Tensor,  # noqa: A002 - torch's name
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    precision: str = "ieee",
) -> Tensor:
    """``relu(conv2d(...))`` in one pass; relu'(0) = 0. Arguments, result and errors as :func:`conv2d`."""
    return _plain(input, weight, bias, (stride, padding, dilation, groups), precision, "relu")


def conv2d_pool_relu(
    input: Tensor,  # noqa: A002 - torch's name
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    precision: str = "ieee",
) -> Tensor:
    """``relu(max_pool2d(conv2d(...), 2))`` in one pass, the same function as pooling after relu; ties as in torch.

    Arguments and errors as :func:`conv2d`; the result is (N, K, P // 2, Q // 2).
    """
    return _plain(input, weight, bias, (stride, padding, dilation, groups), precision, "pool_relu")


def conv2d_stacked(
    input: Tensor,  # noqa: A002 - torch's name
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    precision: str = "ieee",
    epilogue: str = "none",
) -> Tensor:
    """M independent models in one launch: model m convolves its own images, or all the same ones.

    Equal to M calls of :func:`conv2d` but for rounding: the gradients of weight and bias are summed in fewer parts, the
    more models there are.

    Args:
        input: (M, N, C, H, W), or (N, C, H, W) shared by all models.
        weight: (M, K, C / groups, R, S).
        bias: (M, K) or None.
        stride: as for :func:`conv2d`, like the next three.
        padding: see there.
        dilation: see there.
        groups: see there.
        precision: see there.
        epilogue: ``none``, ``relu`` or ``pool_relu``: what follows each convolution.

    Returns:
        (M, N, K, P, Q), halved by pooling.

    Raises:
        ConvolutionError: what cannot be computed, and what can.
    """
    geometry.require_tensors(input, weight, bias)
    if weight.dim() != 5 or input.dim() not in (4, 5):
        raise ConvolutionError(
            f"input {tuple(input.shape)}, weight {tuple(weight.shape)}: give input (models, N, C, H, W) or "
            "(N, C, H, W), weight (models, K, C / groups, R, S)"
        )
    x = input if input.dim() == 5 else input.unsqueeze(0)
    return _checked(x, weight, bias, (stride, padding, dilation, groups), precision, epilogue)


def _plain(
    x: Tensor, weight: Tensor, bias: Tensor | None, arguments: tuple[Any, ...], precision: str, epilogue: str
) -> Tensor:
    """One model."""
    geometry.require_tensors(x, weight, bias)
    if x.dim() not in (3, 4) or weight.dim() != 4 or (bias is not None and bias.dim() != 1):
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (x, weight, bias) if tensor is not None)
        raise ConvolutionError(
            f"shapes {shapes}: give input (N, C, H, W) or (C, H, W), weight (K, C / groups, R, S), bias (K,)"
        )
    batch = x if x.dim() == 4 else x.unsqueeze(0)
    biases = None if bias is None else bias.unsqueeze(0)
    y = _checked(batch.unsqueeze(0), weight.unsqueeze(0), biases, arguments, precision, epilogue).squeeze(0)
    return y if x.dim() == 4 else y.squeeze(0)


def _checked(
    x: Tensor, weight: Tensor, bias: Tensor | None, arguments: tuple[Any, ...], precision: str, epilogue: str
) -> Tensor:
    for name, value, allowed in (
        ("precision", precision, geometry.PRECISIONS),
        ("epilogue", epilogue, tuple(EPILOGUES)),
    ):
        if value not in allowed:
            raise ConvolutionError(f"{name}={value!r}: choose one of {', '.join(allowed)}")
    window = geometry.window(weight.shape[3:], *arguments)
    # before the gradient's function, which else would keep what was not cast
    tensors = [_autocast(tensor) for tensor in (x, weight, bias)]
    # the compiler knows the operator's own gradients, and nothing of a function around it
    convolve = operators.convolution if torch.compiler.is_compiling() else operators.differentiable_convolution
    y, _ = convolve(*tensors, *_flat(window), precision, EPILOGUES[epilogue])
    return cast("Tensor", y)


def _autocast(tensor: Tensor | None) -> Tensor | None:
    """In the type that ``torch.autocast`` sets, as torch's own convolution; float64 and what is not real stay."""
    if tensor is None or tensor.dtype == torch.float64 or not tensor.is_floating_point():
        return tensor
    device_type = tensor.device.type
    on = device_type in ("cpu", "cuda") and torch.is_autocast_enabled(device_type)
    return tensor.to(torch.get_autocast_dtype(device_type)) if on else tensor


def _flat(window: ConvolutionWindow) -> tuple[list[int], list[int], list[int], int]:
    """As the operators take it."""
    return list(window.stride), list(window.padding), list(window.dilation), window.groups
