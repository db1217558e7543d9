"""The operators, and what torch is told of them: fake kernels, gradients (vmap: ``kernels.transforms``).

Three operators of ``torch.library``, all on 5-D tensors with an axis of models in front (see ``kernels.geometry``): a
plain convolution is one model.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._library.autograd import Info, make_autograd_impl
from torch.autograd.forward_ad import unpack_dual

from . import geometry, launch
from .geometry import ConvolutionError, ConvolutionWindow
from .launch import EPILOGUES

# torch has one operator of a name in a process: a copy of this package under another name must not replace ours
NAMESPACE = "initbench" if __package__ == "kernels" else "initbench_" + str(__package__).replace(".", "_")
"""The namespace of the operators in ``torch.ops``."""


def _window(stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int) -> ConvolutionWindow:
    return ConvolutionWindow(tuple(stride), tuple(padding), tuple(dilation), groups)  # type: ignore[arg-type]


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
    return _both(*launch.forward(x, weight, bias, window, precision=precision, epilogue=epilogue))


convolution = torch.library.custom_op(f"{NAMESPACE}::convolution", _convolution, mutates_args=())


def _both(y: Tensor, winner: Tensor | None) -> tuple[Tensor, Tensor]:
    """An operator returns tensors: where there are no winners, an empty one."""
    return y, y.new_empty(0, dtype=torch.uint8) if winner is None else winner


@convolution.register_fake
def _(x, weight, bias, stride, padding, dilation, groups, precision, epilogue):  # type: ignore[no-untyped-def]
    del precision
    window = _window(stride, padding, dilation, groups)
    geometry.check(x, weight, bias, window)
    return _both(*launch.outputs(x, weight, window, epilogue))


def _input_gradient(
    dy: Tensor,
    gate: Tensor | None,
    weight: Tensor,
    image: Sequence[int],
    shared: bool,
    channels_last: bool,
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


input_gradient = torch.library.custom_op(f"{NAMESPACE}::convolution_input_gradient", _input_gradient, mutates_args=())


@input_gradient.register_fake
def _(dy, gate, weight, image, shared, channels_last, stride, padding, dilation, groups, precision, epilogue):  # type: ignore[no-untyped-def]
    del gate, stride, padding, dilation, precision, epilogue
    models = 1 if shared else max(dy.shape[0], weight.shape[0])
    return launch.allocate((models, dy.shape[1], weight.shape[2] * groups, *image), dy, channels_last=channels_last)


def _weight_gradient(
    x: Tensor,
    dy: Tensor,
    gate: Tensor | None,
    filters: Sequence[int],
    channels_last: bool,
    needs_weight: bool,
    needs_bias: bool,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    precision: str,
    epilogue: int,
) -> tuple[Tensor, Tensor]:
    """See :func:`kernels.launch.weight_gradient`; what is not needed is empty."""
    gradients = launch.weight_gradient(
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
    weight, bias = (dy.new_empty(0) if gradient is None else gradient for gradient in gradients)
    return weight, bias


weight_gradient = torch.library.custom_op(
    f"{NAMESPACE}::convolution_weight_gradient", _weight_gradient, mutates_args=()
)


@weight_gradient.register_fake
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
    # where no gradient of these gradients is asked for, the functions that refuse it would only cost time
    twice = torch.is_grad_enabled()
    input_gradient_of = _differentiable_input_gradient if twice else _direct_input_gradient
    weight_gradient_of = _differentiable_weight_gradient if twice else _direct_weight_gradient
    if needs_x:
        shared = ctx.models[0] == 1 and ctx.models[1] > 1
        dx = input_gradient_of(dy, gate, weight, ctx.image, shared, ctx.x_channels_last, *ctx.settings)
    if needs_weight or needs_bias:
        # the bias's gradient asks nothing of x but its shape
        source = x if needs_weight else dy.new_empty(()).expand(1, dy.shape[1], 1, *ctx.image)
        dweight, dbias = weight_gradient_of(
            source, dy, gate, ctx.filters, ctx.weight_channels_last, needs_weight, needs_bias, *ctx.settings
        )
    return dx, dweight if needs_weight else None, dbias if needs_bias else None, *nothing


def _remember_nothing(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ANN401 - torch's context
    del ctx, inputs, output


def _no_second_derivative(ctx: Any, *_: Tensor | None) -> None:  # noqa: ANN401 - torch's context
    del ctx
    raise ConvolutionError(
        "the Triton convolution has first derivatives only; for second ones use torch.nn.functional.conv2d"
    )


def _no_forward_mode(ctx: Any, *_: Tensor | None) -> None:  # noqa: ANN401 - torch's context
    del ctx
    raise ConvolutionError(
        "the Triton convolution has no forward-mode derivative (jvp, hessian); use torch.nn.functional.conv2d"
    )


def _is_plain(arguments: Sequence[Any]) -> bool:
    """Whether torch would do nothing around an operator but call it: no transform, tracer, mode or subclass sees it."""
    return not (
        torch._C._are_functorch_transforms_active()  # noqa: SLF001 - see tests/test_private_apis.py
        or torch._C._len_torch_dispatch_stack()  # noqa: SLF001
        or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        or torch.compiler.is_compiling()
        # tensors come first in every operator's arguments, three at most
        or any(isinstance(value, Tensor) and type(value) not in _PLAIN for value in arguments[:3])
    )


def _directly(operator: Any, compute: Any) -> Any:  # noqa: ANN401 - an operator, and the function it was made of
    """The operator, without the 50 us that torch takes on the host to come from it to its function where it may."""

    def call(*arguments: Any) -> Any:  # noqa: ANN401 - those of the operator
        return (compute if _is_plain(arguments) else operator)(*arguments)

    return call


def _function(operator: Any, compute: Any, setup: Any, backward: Any) -> Any:  # noqa: ANN401 - as _directly
    """The operator with gradients that torch.func can transform; those registered with an operator it cannot."""

    class Plain(torch.autograd.Function):
        # with a setup_context of its own torch would work out and bind the signature in every call, for 15 us
        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> Any:  # noqa: ANN401 - those of the operator
            output = compute(*arguments)
            setup(ctx, arguments, output)
            return output

    class Function(torch.autograd.Function):
        generate_vmap_rule = True
        setup_context = staticmethod(setup)

        @staticmethod
        def forward(*arguments: Any) -> Any:  # noqa: ANN401 - those of the operator
            return operator(*arguments)

    for function in (Plain, Function):
        function.backward = staticmethod(backward)  # type: ignore[method-assign]
        function.jvp = staticmethod(_no_forward_mode)  # type: ignore[method-assign]
    return lambda *arguments: (Plain if _is_plain(arguments) else Function).apply(*arguments)


def _register_gradient(name: str, backward: Any, setup: Any = None) -> None:  # noqa: ANN401 - torch's callbacks
    """As ``register_autograd``, which makes every forward-mode derivative 0; here they are an error."""
    operator = getattr(getattr(torch.ops, NAMESPACE), name).default
    differentiate = make_autograd_impl(operator, Info(backward, setup))

    def refuse_tangents(keyset: Any, *arguments: Any) -> Any:  # noqa: ANN401 - those of the operator
        tensors = [value for value in arguments if isinstance(value, Tensor)]
        if any(unpack_dual(tensor).tangent is not None for tensor in tensors):  # type: ignore[no-untyped-call]
            _no_forward_mode(None)
        return differentiate(keyset, *arguments)

    # torch registers an Autograd kernel with every custom_op: torch 2.11 refuses to replace it unless asked, and warns
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Warning only once for all operators")
        LIBRARY.impl(name, refuse_tangents, "Autograd", with_keyset=True, allow_override=True)  # type: ignore[no-untyped-call]


LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")  # type: ignore[no-untyped-call]
_register_gradient("convolution", _backward, _remember)
_register_gradient("convolution_input_gradient", _no_second_derivative)
_register_gradient("convolution_weight_gradient", _no_second_derivative)
_PLAIN = (Tensor, torch.nn.Parameter)
_direct_input_gradient = _directly(input_gradient, _input_gradient)
_direct_weight_gradient = _directly(weight_gradient, _weight_gradient)
differentiable_convolution = _function(convolution, _convolution, _remember, _backward)
_differentiable_input_gradient = _function(input_gradient, _input_gradient, _remember_nothing, _no_second_derivative)
_differentiable_weight_gradient = _function(weight_gradient, _weight_gradient, _remember_nothing, _no_second_derivative)
