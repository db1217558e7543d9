"""Is the kernel right on this trial's own shapes? Asked before anything is timed.

Each block that training will run, forward and with the gradients that training uses, is set against torch in float64
on the same device, in two ways:

- on whole numbers of at most 2, which every precision multiplies and adds up without rounding, so that the two must be
  equal bit for bit, ties and zeros included (but for storing bfloat16, under train.autocast);
- on normal numbers, where the error is that of rounding: the convolution alone with its gradients, and the block's
  output, for relu and the maximum stretch no difference. The block's gradients are not, for where rounding turns a
  relu or a winner they differ wholly.

The second may err by what :mod:`kernels.rounding` allows, relative to the largest value: the largest error of many
numbers and the largest number are the same few standard deviations from 0, so their ratio is that of any one number.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from harness import own_kernels
from harness.backends import Conv2d, Kernel
from harness.fusion import Block, blocks
from harness.looking import evaluating, undisturbed
from harness.models import Conv, Network
from harness.own_layers import applied
from harness.own_models import AnyNetwork, OwnNetwork
from harness.random_streams import generator

_LARGEST_WHOLE = 2
_TENSORS = ("output", "input gradient", "weight gradient", "bias gradient")

Tensors = dict[str, torch.Tensor]


class WrongKernelError(Exception):
    """The kernel's numbers are not torch's: the layer, the tensor, the error and what is allowed."""


@dataclass(frozen=True)
class _Case:
    """One block of the network on the shape it gets in training."""

    name: str
    layer: Conv | nn.Conv2d
    function: Conv2d
    reference: Conv2d
    shape: torch.Size
    needs_input_gradient: bool
    autocast: torch.dtype | None


def largest_error(
    network: AnyNetwork,
    kernel: Kernel,
    images_NCHW: torch.Tensor,
    *,
    precision: str,
    seed: int,
    autocast: torch.dtype | None = None,
) -> float:
    """Check every block of a network.

    Args:
        network: filled or not; only its shapes and memory format count.
        kernel: what will train it.
        images_NCHW: a batch as training has it.
        precision: of the kernel's float32 products.
        seed: of the random numbers.
        autocast: the type that ``torch.autocast`` computes in; None: float32.

    Returns:
        the largest error found, relative to the largest value of its reference.

    Raises:
        WrongKernelError: an error is larger than rounding allows.
    """
    random, worst = generator(seed, "kernel_check"), 0.0
    if autocast is not None:
        # the factors are bfloat16 numbers already, whose products float32 holds
        precision = "bf16"
    for case in _cases(network, kernel, images_NCHW, autocast):
        whole = _check(case, case.function, case.reference, _whole_numbers(random), lambda _name, _depth: 0.0)
        rounded = _check(case, kernel.conv2d, F.conv2d, _normal_numbers(random), _allowance(precision))
        worst = max(worst, whole, rounded)
        if case.function is not kernel.conv2d:
            numbers, allowed = _normal_numbers(random), _allowance(precision)
            worst = max(worst, _check(case, case.function, case.reference, numbers, allowed, tensors=("output",)))
    return worst


def _cases(
    network: AnyNetwork, kernel: Kernel, images_NCHW: torch.Tensor, autocast: torch.dtype | None
) -> Iterator[_Case]:
    if isinstance(network, OwnNetwork):
        return _own_cases(network, kernel, images_NCHW, autocast)
    return _declared_cases(network, kernel, images_NCHW, autocast)


def _declared_cases(
    network: Network, kernel: Kernel, images_NCHW: torch.Tensor, autocast: torch.dtype | None
) -> Iterator[_Case]:
    shapes = _input_shapes(network, images_NCHW)
    names = {layer: name for name, layer in network.parametrised().items()}
    first = True
    for sequence in (module for module in network.modules() if isinstance(module, nn.Sequential)):
        for block in blocks(list(sequence), kernel):
            layer, function, _ = block
            if isinstance(layer, Conv) and function is not None:
                reference = _reference(block)
                yield _Case(names[layer], layer, function, reference, shapes[layer], not first, autocast)
            first = False


def _own_cases(
    network: OwnNetwork, kernel: Kernel, images_NCHW: torch.Tensor, autocast: torch.dtype | None
) -> Iterator[_Case]:
    """Each convolution of a network of the user's own on each shape that it gets."""
    seen: dict[tuple[str, torch.Size, bool], nn.Conv2d] = {}

    def note(path: str, layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if inputs and isinstance(layer, nn.Conv2d):
            seen[path, inputs[0].shape, inputs[0].requires_grad] = layer

    layers = network.by_kernel().items()
    hooks = [layer.register_forward_pre_hook(functools.partial(note, path)) for path, layer in layers]
    try:
        # all images, because code of the user's own may cut them into parts
        with undisturbed(network), evaluating(network), torch.enable_grad():
            network(images_NCHW)
    finally:
        for hook in hooks:
            hook.remove()
    for (path, shape, needs_gradient), layer in seen.items():
        yield _Case(path, layer, kernel.conv2d, F.conv2d, shape, needs_gradient, autocast)


def _reference(block: Block) -> Conv2d:
    """What torch makes of a block of so many modules."""
    conv2d: Conv2d = F.conv2d
    if block[2] == 1:
        return conv2d
    if block[2] == 2:
        return lambda *arguments, **settings: F.relu(conv2d(*arguments, **settings))
    return lambda *arguments, **settings: F.relu(F.max_pool2d(conv2d(*arguments, **settings), 2))


@torch.no_grad()
def _input_shapes(network: Network, images_NCHW: torch.Tensor) -> dict[nn.Module, torch.Size]:
    """Convolution -> shape of its input, for a batch of so many images."""
    shapes: dict[nn.Module, torch.Size] = {}

    def note(layer: nn.Module, inputs: tuple[torch.Tensor], _output: torch.Tensor) -> None:
        shapes[layer] = torch.Size((len(images_NCHW), *inputs[0].shape[1:]))

    hooks = [layer.register_forward_hook(note) for layer in network.modules() if isinstance(layer, Conv)]
    try:
        # one image tells the shapes of all, but is too few for the statistics of batch normalisation in training mode
        with evaluating(network):
            network(images_NCHW[:1])
    finally:
        for hook in hooks:
            hook.remove()
    return shapes


Draw = Callable[[Sequence[int]], torch.Tensor]


def _whole_numbers(random: torch.Generator) -> Draw:
    return lambda shape: torch.randint(-_LARGEST_WHOLE, _LARGEST_WHOLE + 1, tuple(shape), generator=random).float()


def _normal_numbers(random: torch.Generator) -> Draw:
    return lambda shape: torch.randn(tuple(shape), generator=random)


def _allowance(precision: str) -> Callable[[str, int], float]:
    """(tensor, length of its sums) -> allowed relative error."""
    rounding = own_kernels.module("rounding")

    def allowed(name: str, depth: int) -> float:
        # the bias's gradient is a sum without products
        factor_rounding = 0.0 if name == "bias gradient" else rounding.FACTOR_ROUNDING[precision]
        return float(rounding.allowed_error(depth, factor_rounding))

    return allowed


def _check(
    case: _Case,
    function: Conv2d,
    reference: Conv2d,
    draw: Draw,
    allowed: Callable[[str, int], float],
    *,
    tensors: tuple[str, ...] = _TENSORS,
) -> float:
    """Largest relative error of these tensors: the block's output and gradients.

    Raises:
        WrongKernelError: it is more than allowed.
    """
    inputs, seeds = _drawn(case, reference, draw)
    x, weight = inputs[:2]
    with torch.autocast(x.device.type, case.autocast, enabled=case.autocast is not None, cache_enabled=False):
        computed = _outputs(case, function, inputs, seeds)
    exact = _outputs(case, reference, [tensor.double() for tensor in inputs], seeds.double())
    pixels = seeds.numel() // len(case.layer.weight)
    worst, sum_length = 0.0, own_kernels.module("rounding").sum_length
    for name, value in ((name, value) for name, value in exact.items() if name in tensors):
        error = float((computed[name].double() - value).abs().max() / value.abs().max().clamp(min=1.0))
        limit = allowed(name, sum_length(name, weight.shape, pixels)) + _storing(case)
        # not error > limit, which no NaN is
        if not error <= limit:
            raise WrongKernelError(
                f"kernel check: the {name} of {case.name} {tuple(case.shape)} differs from torch's by {error:.3g} of "
                f"the largest value, {limit:.3g} is allowed; train with kernel=torch and report this"
            )
        worst = max(worst, error)
    return worst


def _drawn(case: _Case, reference: Conv2d, draw: Draw) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The block's inputs, and a gradient of its output."""
    x, weight = _like_images(case, draw(case.shape)), _like(case.layer.weight, draw(case.layer.weight.shape))
    bias = None if case.layer.bias is None else _like(case.layer.bias, draw(case.layer.bias.shape))
    inputs = [tensor for tensor in (x, weight, bias) if tensor is not None]
    shape = _apply(case, reference, [tensor.to("meta") for tensor in inputs]).shape
    seeds = draw(shape).to(x)
    if case.autocast is not None:
        # what is drawn is rounded at once, so that the reference computes from the same numbers
        inputs, seeds = [tensor.to(case.autocast).float() for tensor in inputs], seeds.to(case.autocast)
    return inputs, seeds


def _storing(case: _Case) -> float:
    """The rounding of a number that is stored in another type than float32, in which all is added up."""
    if case.autocast is None:
        return 0.0
    interpreted = own_kernels.module("triton_kernels").INTERPRETED
    return float(own_kernels.module("rounding").store_rounding(case.autocast, interpreted=interpreted))


def _like(parameter: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """The values where and as the parameter lies."""
    return torch.empty_like(parameter).copy_(values)


def _like_images(case: _Case, values: torch.Tensor) -> torch.Tensor:
    weight = case.layer.weight
    is_last = values.ndim == 4 and weight.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if is_last else torch.contiguous_format
    return values.to(weight.device).contiguous(memory_format=layout)


def _apply(case: _Case, function: Conv2d, inputs: list[torch.Tensor]) -> torch.Tensor:
    """The function with the layer's stride and padding."""
    x, *parameters = inputs
    if isinstance(case.layer, nn.Conv2d):
        weight, bias = parameters[0], parameters[1] if len(parameters) > 1 else None
        return applied(case.layer, x, weight, bias, function)
    padding = case.layer.padding
    if case.layer.circular:
        x, padding = F.pad(x, (padding,) * 4, mode="circular"), 0
    return function(x, *parameters, stride=case.layer.stride, padding=padding)


def _outputs(case: _Case, function: Conv2d, inputs: list[torch.Tensor], seeds: torch.Tensor) -> Tensors:
    """The block's output and, for this gradient of it, the gradients of its inputs that training uses."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    leaves[0].requires_grad_(case.needs_input_gradient)
    output = _apply(case, function, leaves)
    wanted = {name: leaf for name, leaf in zip(_TENSORS[1:], leaves, strict=False) if leaf.requires_grad}
    gradients = torch.autograd.grad(output, list(wanted.values()), seeds)
    return {"output": output.detach(), **dict(zip(wanted, gradients, strict=True))}
