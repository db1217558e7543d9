"""The operators: what users call, and what torch is told of it (fake kernels, gradients, autocast, vmap).

Three operators of ``torch.library``, all on 5-D tensors with an axis of models in front (see ``kernels.geometry``): a
plain convolution is one model, and ``torch.func.vmap`` of it is as many models as it maps over, in one launch.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from kernels import geometry, launch
from kernels.geometry import ConvolutionError, Window
from kernels.launch import EPILOGUES

_NAMESPACE = "initbench"


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

    Args:
        input: (N, C, H, W) or (C, H, W), any strides; float32, float16 or bfloat16, added up in float32.
        weight: (K, C / groups, R, S).
        bias: (K,) or None.
        stride: one number or a pair.
        padding: zeros at each side: one number, a pair, ``"valid"`` or ``"same"``.
        dilation: one number or a pair.
        groups: number of independent parts of the channels.
        precision: of float32 products: ``ieee`` (exact but for rounding), ``tf32``, ``tf32x3``; says nothing of other types.

    Returns:
        (N, K, P, Q) or (K, P, Q), in the layout that torch would give.

    Raises:
        ConvolutionError: what cannot be computed, and what can.
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
    if weight.dim() != 5 or input.dim() not in (4, 5):
        raise ConvolutionError(
            f"input {tuple(input.shape)}, weight {tuple(weight.shape)}: give input (models, N, C, H, W) or (N, C, H, W), "
            "weight (models, K, C / groups, R, S)"
        )
    x = input if input.dim() == 5 else input.unsqueeze(0)
    return _checked(x, weight, bias, (stride, padding, dilation, groups), precision, epilogue)


def _plain(
    x: Tensor, weight: Tensor, bias: Tensor | None, arguments: tuple[Any, ...], precision: str, epilogue: str
) -> Tensor:
    """One model."""
    if x.dim() not in (3, 4) or weight.dim() != 4 or (bias is not None and bias.dim() != 1):
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (x, weight, bias) if tensor is not None)
        raise ConvolutionError(f"shapes {shapes}: give input (N, C, H, W) or (C, H, W), weight (K, C / groups, R, S), bias (K,)")
    batch = x if x.dim() == 4 else x.unsqueeze(0)
    biases = None if bias is None else bias.unsqueeze(0)
    y = _checked(batch.unsqueeze(0), weight.unsqueeze(0), biases, arguments, precision, epilogue).squeeze(0)
    return y if x.dim() == 4 else y.squeeze(0)


def _checked(
    x: Tensor, weight: Tensor, bias: Tensor | None, arguments: tuple[Any, ...], precision: str, epilogue: str
) -> Tensor:
    for name, value, allowed in (("precision", precision, geometry.PRECISIONS), ("epilogue", epilogue, tuple(EPILOGUES))):
        if value not in allowed:
            raise ConvolutionError(f"{name}={value!r}: choose one of {', '.join(allowed)}")
    window = geometry.window(weight.shape[3:], *arguments)
    # the compiler knows the operator's own gradients, and nothing of a function around it
    convolve = _convolution if torch.compiler.is_compiling() else _differentiable_convolution
    y, _ = convolve(x, weight, bias, *_flat(window), precision, EPILOGUES[epilogue])
    return cast("Tensor", y)


def _flat(window: Window) -> tuple[list[int], list[int], list[int], int]:
    """As the operators take it."""
    return list(window.stride), list(window.padding), list(window.dilation), window.groups


def _window(stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int) -> Window:
    return Window(tuple(stride), tuple(padding), tuple(dilation), groups)  # type: ignore[arg-type]


@torch.library.custom_op(f"{_NAMESPACE}::convolution", mutates_args=())
def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    precision: str,
    epilogue: int,
) -> tuple[Tensor, Tensor]:
    """(y, winners); the winners are empty without pooling."""
    window = _window(stride, padding, dilation, groups)
    geometry.check(x, weight, bias, window)
    y, winner = launch.forward(x, weight, bias, window, precision=precision, epilogue=epilogue)
    return y, x.new_empty(0, dtype=torch.uint8) if winner is None else winner


@_convolution.register_fake
def _(x, weight, bias, stride, padding, dilation, groups, precision, epilogue):  # type: ignore[no-untyped-def]
    window = _window(stride, padding, dilation, groups)
    geometry.check(x, weight, bias, window)
    shape = launch.output_shape(x, weight, window, epilogue)
    channels_last = launch.output_channels_last(x, weight)
    pools = epilogue == EPILOGUES["pool_relu"]
    winner = launch.allocate(shape, x, channels_last=channels_last, dtype=torch.uint8) if pools else None
    y = launch.allocate(shape, x, channels_last=channels_last)
    return y, x.new_empty(0, dtype=torch.uint8) if winner is None else winner


@torch.library.custom_op(f"{_NAMESPACE}::convolution_input_gradient", mutates_args=())
def _input_gradient(
    dy: Tensor,
    gate: Tensor | None,
    weight: Tensor,
    image: Sequence[int],
    shared: bool,  # noqa: FBT001 - operators take no keywords here
    channels_last: bool,  # noqa: FBT001
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    precision: str,
    epilogue: int,
) -> Tensor:
    """See :func:`kernels.launch.input_gradient`."""
    return launch.input_gradient(
        dy,
        gate,
        weight,
        (image[0], image[1]),
        _window(stride, padding, dilation, groups),
        shared=shared,
        channels_last=channels_last,
        precision=precision,
        epilogue=epilogue,
    )


@_input_gradient.register_fake
def _(dy, gate, weight, image, shared, channels_last, stride, padding, dilation, groups, precision, epilogue):  # type: ignore[no-untyped-def] # noqa: E501
    del gate, stride, padding, dilation, precision, epilogue
    models = 1 if shared else max(dy.shape[0], weight.shape[0])
    return launch.allocate((models, dy.shape[1], weight.shape[2] * groups, *image), dy, channels_last=channels_last)


@torch.library.custom_op(f"{_NAMESPACE}::convolution_weight_gradient", mutates_args=())
def _weight_gradient(
    x: Tensor,
    dy: Tensor,
    gate: Tensor | None,
    filters: Sequence[int],
    channels_last: bool,  # noqa: FBT001 - operators take no keywords here
    needs_weight: bool,  # noqa: FBT001
    needs_bias: bool,  # noqa: FBT001
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    precision: str,
    epilogue: int,
) -> tuple[Tensor, Tensor]:
    """See :func:`kernels.launch.weight_gradient`; what is not needed is empty."""
    found = launch.weight_gradient(
        x,
        dy,
        gate,
        (filters[0], filters[1], filters[2], filters[3]),
        _window(stride, padding, dilation, groups),
        channels_last=channels_last,
        needs=(needs_weight, needs_bias),
        precision=precision,
        epilogue=epilogue,
    )
    weight, bias = (dy.new_empty(0) if gradient is None else gradient for gradient in found)
    return weight, bias


@_weight_gradient.register_fake
def _(x, dy, gate, filters, channels_last, needs_weight, needs_bias, *settings):  # type: ignore[no-untyped-def]
    del gate, settings
    models = max(x.shape[0], dy.shape[0])
    weight = launch.allocate((models, *filters), dy, channels_last=channels_last) if needs_weight else dy.new_empty(0)
    return weight, dy.new_empty((models, filters[0]) if needs_bias else 0)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:  # noqa: ANN401 - torch's context
    x, weight, _, *ctx.settings = inputs
    y, winner = output
    ctx.mark_non_differentiable(winner)
    ctx.set_materialize_grads(False)
    needs_x, needs_weight, _ = ctx.needs_input_grad[:3]
    gate = {EPILOGUES["relu"]: y, EPILOGUES["pool_relu"]: winner}.get(ctx.settings[-1])
    # a gradient that is not needed keeps nothing alive
    ctx.save_for_backward(x if needs_weight else None, weight if needs_x else None, gate)
    ctx.image, ctx.filters, ctx.models = list(x.shape[3:]), list(weight.shape[1:]), (x.shape[0], weight.shape[0])
    ctx.x_channels_last = launch.output_channels_last(x, weight)
    ctx.weight_channels_last = geometry.is_channels_last(weight)


def _backward(ctx: Any, dy: Tensor | None, _: Tensor | None) -> tuple[Any, ...]:  # noqa: ANN401 - torch's context
    nothing = (None,) * len(ctx.settings)
    if dy is None:
        return None, None, None, *nothing
    x, weight, gate = ctx.saved_tensors
    needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
    dx = dweight = dbias = None
    if needs_x:
        shared = ctx.models[0] == 1 and ctx.models[1] > 1
        dx = _differentiable_input_gradient(
            dy, gate, weight, ctx.image, shared, ctx.x_channels_last, *ctx.settings
        )
    if needs_weight or needs_bias:
        # the bias's gradient asks nothing of x but its shape
        source = x if needs_weight else dy.new_empty(()).expand(1, dy.shape[1], 1, *ctx.image)
        dweight, dbias = _differentiable_weight_gradient(
            source, dy, gate, ctx.filters, ctx.weight_channels_last, needs_weight, needs_bias, *ctx.settings
        )
    return dx, dweight if needs_weight else None, dbias if needs_bias else None, *nothing


def _remember_nothing(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ANN401 - torch's context
    del ctx, inputs, output


def _no_second_derivative(ctx: Any, *_: Tensor | None) -> None:  # noqa: ANN401 - torch's context
    del ctx
    raise ConvolutionError(
        "the Triton convolution has first derivatives only; for second ones use torch.nn.functional.conv2d (kernel=torch)"
    )


def _function(operator: Any, setup: Any, backward: Any) -> Any:  # noqa: ANN401 - an operator -> an autograd function
    """The operator with its gradients as torch.func can transform them; those registered with an operator, it cannot."""

    class Function(torch.autograd.Function):
        generate_vmap_rule = True
        setup_context = staticmethod(setup)

        @staticmethod
        def forward(*arguments: Any) -> Any:  # noqa: ANN401 - those of the operator
            return operator(*arguments)

    Function.backward = staticmethod(backward)  # type: ignore[method-assign]
    return Function.apply


_convolution.register_autograd(_backward, setup_context=_remember)
_input_gradient.register_autograd(_no_second_derivative)
_weight_gradient.register_autograd(_no_second_derivative)
_differentiable_convolution = _function(_convolution, _remember, _backward)
_differentiable_input_gradient = _function(_input_gradient, _remember_nothing, _no_second_derivative)
_differentiable_weight_gradient = _function(_weight_gradient, _remember_nothing, _no_second_derivative)


def _autocast(device_type: str) -> Any:  # noqa: ANN401 - a function of the operator's signature
    """The operator under ``torch.autocast``: in the type that is set there, as torch's own convolution."""

    def rule(x: Tensor, weight: Tensor, bias: Tensor | None, *settings: Any) -> Any:  # noqa: ANN401
        dtype = torch.get_autocast_dtype(device_type)
        cast_ = [t if t is None or t.dtype == torch.float64 else t.to(dtype) for t in (x, weight, bias)]
        with torch.autocast(device_type, enabled=False):
            return _convolution(*cast_, *settings)

    return rule


_library = torch.library.Library(_NAMESPACE, "FRAGMENT")
_library.impl("convolution", _autocast("cuda"), "AutocastCUDA")
_library.impl("convolution", _autocast("cpu"), "AutocastCPU")


def _stack(tensor: Tensor | None, dim: int | None, batch: int, models: int) -> Tensor | None:
    """An argument (models or 1, ...) that vmap maps over ``dim`` -> (batch * models, ...)."""
    if tensor is None:
        return None
    mapped = tensor.unsqueeze(0) if dim is None else tensor.movedim(dim, 0)
    return mapped.expand(batch, models, *mapped.shape[2:]).flatten(0, 1)


def _stack_or_share(tensor: Tensor, dim: int | None, batch: int, models: int) -> Tensor | None:
    """The same, but what all models share stays (1, ...)."""
    return tensor if dim is None and tensor.shape[0] == 1 else _stack(tensor, dim, batch, models)


def _as_images(tensor: Tensor | None, dim: int | None, batch: int) -> Tensor | None:
    """An argument (1, N, ...) of one model -> (1, batch * N, ...): images that it is mapped over are more images."""
    if tensor is None:
        return None
    mapped = tensor.unsqueeze(0).expand(batch, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    return mapped.transpose(0, 1).flatten(1, 2)


def _models(tensor: Tensor, dim: int | None) -> int:
    """Length of the axis of models, the mapped one aside."""
    return tensor.shape[0 if dim is None or dim > 0 else 1]


def _unmapped(outputs: Sequence[Tensor], axis: int, batch: int) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
    """Take the mapped axis out of each output, as vmap wants it; what is empty was not mapped."""
    mapped = tuple(out if out.dim() == 1 else out.unflatten(axis, (batch, -1)) for out in outputs)
    return mapped, tuple(None if out.dim() == 1 else axis for out in outputs)


@_convolution.register_vmap
def _(info, in_dims, x, weight, bias, *settings):  # type: ignore[no-untyped-def]
    batch, (x_dim, weight_dim, bias_dim) = info.batch_size, in_dims[:3]
    models = max(_models(x, x_dim), _models(weight, weight_dim))
    if models == 1 and weight_dim is None and bias_dim is None:
        return _unmapped(_convolution(_as_images(x, x_dim, batch), weight, bias, *settings), 1, batch)
    biases = _stack(bias, bias_dim, batch, models)
    stacked = _stack_or_share(x, x_dim, batch, models), _stack(weight, weight_dim, batch, models), biases
    return _unmapped(_convolution(*stacked, *settings), 0, batch)


@_input_gradient.register_vmap
def _(info, in_dims, dy, gate, weight, image, shared, *settings):  # type: ignore[no-untyped-def]
    batch, (dy_dim, gate_dim, weight_dim) = info.batch_size, in_dims[:3]
    models = max(_models(dy, dy_dim), _models(weight, weight_dim))
    if models == 1 and weight_dim is None:
        found = _input_gradient(
            _as_images(dy, dy_dim, batch), _as_images(gate, gate_dim, batch), weight, image, shared, *settings
        )
        return found.unflatten(1, (batch, -1)), 1
    stacked = [_stack(t, dim, batch, models) for t, dim in ((dy, dy_dim), (gate, gate_dim), (weight, weight_dim))]
    found = _input_gradient(*stacked, image, False, *settings).unflatten(0, (batch, models))
    return found.sum(1, keepdim=True) if shared else found, 0


@_weight_gradient.register_vmap
def _(info, in_dims, x, dy, gate, *settings):  # type: ignore[no-untyped-def]
    batch, (x_dim, dy_dim, gate_dim) = info.batch_size, in_dims[:3]
    models = max(_models(x, x_dim), _models(dy, dy_dim))
    stacked = _stack(dy, dy_dim, batch, models), _stack(gate, gate_dim, batch, models)
    return _unmapped(_weight_gradient(_stack_or_share(x, x_dim, batch, models), *stacked, *settings), 0, batch)
