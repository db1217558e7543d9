"""The ways to do a cell's work that bench_conv2d.py compares; shapes as in bench_conv2d_cells.py.

    triton          ours, from and to NCHW or channels-last tensors
    cudnn           torch's own convolution, likewise (MIOpen on AMD); a block pools before relu, the quicker order
    compiled        torch.compile of the block; its backward pass is compiled too
    vmap            torch.func.vmap of the block over models
    grouped         all models as the groups of one convolution, which is what vmap makes of it, without its moving
    loop            one model after another

What is laid out for an arm is laid out before its clock starts. torch.compile is compared in blocks only: of a single
convolution or gradient it makes the same call of cuDNN.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from bench_conv2d_cells import PADDING, STACKED, TAPS, BenchmarkCell, Work
from torch import Tensor

import kernels
from kernels import launch, operators

OURS, CUDNN = ("triton NCHW", "triton channels-last"), ("cudnn NCHW", "cudnn channels-last")
"""Arms of cells with one model."""

COMPILED, VMAP, LOOP = "compiled", "vmap", "loop"
GROUPED = ("grouped NCHW", "grouped channels-last")

_WINDOW = ([1, 1], [PADDING] * 4, [1, 1], 1)
"""Stride, padding, dilation, groups, as our operators take them."""


@dataclass(frozen=True)
class ConvolutionInputs:
    """Tensors of a cell: x (M, N, C, H, W), weight (M, K, C, R, S), bias (M, K), dy (M, N, K, P, P) of the output."""

    x: Tensor
    weight: Tensor
    bias: Tensor
    dy: Tensor


@dataclass(frozen=True)
class ConvolutionArm:
    """A way to do the work.

    Attributes:
        work: does it once.
        common: its results as the tensors that every arm must give, models first.
    """

    work: Work
    common: Callable[[Sequence[Tensor]], list[Tensor]]


Draw = Callable[[Sequence[int]], Tensor]
"""Shape -> float32 numbers on the device."""


def inputs(cell: BenchmarkCell, draw: Draw) -> ConvolutionInputs:
    """Drawn tensors in the cell's type."""
    layer, m, n = cell.layer, cell.models, cell.images
    shapes = (
        (m, n, layer.c, layer.size, layer.size),
        (m, layer.k, layer.c, TAPS, TAPS),
        (m, layer.k),
        (m, n, layer.k, cell.output_size, cell.output_size),
    )
    return ConvolutionInputs(*(draw(shape).to(cell.dtype) for shape in shapes))


def block(layer_pools: bool) -> Callable[[Tensor, Tensor, Tensor], Tensor]:  # noqa: FBT001 - which of two functions
    """Torch's block: convolution, bias, pooling if there is any, relu."""

    def pooled(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.relu(F.max_pool2d(F.conv2d(x, weight, bias, padding=PADDING), 2))

    def plain(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.relu(F.conv2d(x, weight, bias, padding=PADDING))

    return pooled if layer_pools else plain


def ours(cell: BenchmarkCell, tensors: ConvolutionInputs) -> dict[str, ConvolutionArm]:
    """Our arms: what the gate holds to exactness."""
    stacked = cell.operation == STACKED
    return {
        name: _our_block(cell, tensors, last=last) if cell.is_block else _our_pass(cell, tensors, last=last)
        for name, last in zip(OURS, (False, True), strict=True)
        # a stack is one launch whatever the layout; channels last is what its kernels read in one piece
        if last or not stacked
    }


def others(cell: BenchmarkCell, tensors: ConvolutionInputs, *, backend: str) -> dict[str, ConvolutionArm]:
    """Torch's arms.

    Args:
        cell: what to do.
        tensors: the inputs and the gradient of the output that every arm works on.
        backend: of torch.compile.
    """
    function = block(cell.layer.pools)
    if cell.operation == STACKED:
        arms = {name: _grouped(cell, tensors, last=last) for name, last in zip(GROUPED, (False, True), strict=True)}
        return {VMAP: _trained(cell, torch.func.vmap(function), tensors), LOOP: _loop(cell, tensors)} | arms
    arms = {
        name: _torch_block(cell, function, tensors, last=last)
        if cell.is_block
        else _torch_pass(cell, tensors, last=last)
        for name, last in zip(CUDNN, (False, True), strict=True)
    }
    if cell.is_block:
        compiled = torch.compile(function, fullgraph=True, dynamic=False, backend=backend)
        arms[COMPILED] = _torch_block(cell, compiled, tensors, last=False)
    return arms


def _laid_out(tensor: Tensor, *, last: bool) -> Tensor:
    """A 4-D or 5-D tensor in memory of its own."""
    if tensor.dim() == 5:
        out = launch.allocate(tensor.shape, tensor, channels_last=last)
        return out.copy_(tensor)
    layout = torch.channels_last if last else torch.contiguous_format
    return tensor.clone(memory_format=layout)


def _as_one_model(results: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.unsqueeze(0) for tensor in results]


def _leaves(cell: BenchmarkCell, *tensors: Tensor) -> list[Tensor]:
    """(x, weight, bias) that ask for gradients, but images, which nobody trains."""
    return [tensor.detach().requires_grad_(index > 0 or not cell.layer.first) for index, tensor in enumerate(tensors)]


def _training(function: Callable[..., Tensor], leaves: Sequence[Tensor], dy: Tensor) -> Work:
    """Forward and backward: (y, gradient of each leaf that asks for one)."""
    wanted = [leaf for leaf in leaves if leaf.requires_grad]

    def work() -> list[Tensor]:
        y = function(*leaves)
        return [y.detach(), *torch.autograd.grad(y, wanted, dy)]

    return work


def _trained(
    cell: BenchmarkCell, function: Callable[..., Tensor], tensors: ConvolutionInputs, *, last: bool = False
) -> ConvolutionArm:
    """A function of stacked tensors, trained."""
    x, weight, dy = (_laid_out(tensor, last=last) for tensor in (tensors.x, tensors.weight, tensors.dy))
    return ConvolutionArm(_training(function, _leaves(cell, x, weight, tensors.bias), dy), list)


def _our_block(cell: BenchmarkCell, tensors: ConvolutionInputs, *, last: bool) -> ConvolutionArm:
    precision, epilogue = _products(cell), cell.epilogue

    def stacked(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return kernels.conv2d_stacked(x, weight, bias, padding=PADDING, precision=precision, epilogue=epilogue)

    if cell.operation == STACKED:
        return _trained(cell, stacked, tensors, last=last)
    fused = {"relu": kernels.conv2d_relu, "pool_relu": kernels.conv2d_pool_relu}[epilogue]

    def single(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return fused(x, weight, bias, padding=PADDING, precision=precision)

    return _torch_block(cell, single, tensors, last=last)


def _torch_block(
    cell: BenchmarkCell, function: Callable[..., Tensor], tensors: ConvolutionInputs, *, last: bool
) -> ConvolutionArm:
    """A function of one model's tensors, trained."""
    x, weight, dy = (_laid_out(tensor[0], last=last) for tensor in (tensors.x, tensors.weight, tensors.dy))
    return ConvolutionArm(_training(function, _leaves(cell, x, weight, tensors.bias[0]), dy), _as_one_model)


def _our_pass(cell: BenchmarkCell, tensors: ConvolutionInputs, *, last: bool) -> ConvolutionArm:
    """Forward, or one gradient."""
    precision, image, filters = _products(cell), list(tensors.x.shape[3:]), list(tensors.weight.shape[1:])
    if cell.operation == "forward":
        return _forward(tensors, functools.partial(kernels.conv2d, precision=precision), last=last)
    x, weight, dy = (_laid_out(tensor, last=last) for tensor in (tensors.x, tensors.weight, tensors.dy))
    settings = (*_WINDOW, precision, launch.EPILOGUES["none"])
    works: dict[str, Work] = {
        "input gradient": lambda: [operators.input_gradient(dy, None, weight, image, False, last, *settings)],
        "weight gradient": lambda: operators.weight_gradient(x, dy, None, filters, last, True, True, *settings),
    }
    return ConvolutionArm(works[cell.operation], list)


def _forward(tensors: ConvolutionInputs, function: Callable[..., Tensor], *, last: bool) -> ConvolutionArm:
    x, weight = (_laid_out(tensor[0], last=last) for tensor in (tensors.x, tensors.weight))
    return ConvolutionArm(lambda: [function(x, weight, tensors.bias[0], padding=PADDING)], _as_one_model)


def _torch_pass(cell: BenchmarkCell, tensors: ConvolutionInputs, *, last: bool) -> ConvolutionArm:
    if cell.operation == "forward":
        return _forward(tensors, F.conv2d, last=last)
    x, weight, dy = (_laid_out(tensor[0], last=last) for tensor in (tensors.x, tensors.weight, tensors.dy))

    def backward(*, of_input: bool) -> list[Tensor]:
        settings = ([1, 1], [PADDING] * 2, [1, 1], False, [0, 0], 1, [of_input, not of_input, not of_input])
        gradients = torch.ops.aten.convolution_backward(dy, x, weight, [cell.layer.k], *settings)
        return [tensor for tensor in gradients if tensor is not None]

    works: dict[str, Work] = {
        "input gradient": lambda: backward(of_input=True),
        "weight gradient": lambda: backward(of_input=False),
    }
    return ConvolutionArm(works[cell.operation], _as_one_model)


def _grouped(cell: BenchmarkCell, tensors: ConvolutionInputs, *, last: bool) -> ConvolutionArm:
    """Models side by side as channels: x (N, M*C, H, W), weight (M*K, C, R, S), dy (N, M*K, P, P)."""
    models = cell.models
    x, dy = (_laid_out(tensor.transpose(0, 1).flatten(1, 2), last=last) for tensor in (tensors.x, tensors.dy))
    weight = _laid_out(tensors.weight.flatten(0, 1), last=last)

    def function(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y = F.conv2d(x, weight, bias, padding=PADDING, groups=models)
        return F.relu(F.max_pool2d(y, 2) if cell.layer.pools else y)

    def common(results: Sequence[Tensor]) -> list[Tensor]:
        # images come second in y and x's gradient, models are the outer part of the first axis of the others
        images = len(results) - 2
        apart = [_split(tensor, 1, models).transpose(0, 1) for tensor in results[:images]]
        return [*apart, *(_split(tensor, 0, models) for tensor in results[images:])]

    return ConvolutionArm(_training(function, _leaves(cell, x, weight, tensors.bias.flatten()), dy), common)


def _split(tensor: Tensor, axis: int, models: int) -> Tensor:
    """An axis -> (models, the rest of it)."""
    return tensor.reshape(*tensor.shape[:axis], models, -1, *tensor.shape[axis + 1 :])


def _loop(cell: BenchmarkCell, tensors: ConvolutionInputs) -> ConvolutionArm:
    """Channels last, as cuDNN's matrix units read."""
    one = BenchmarkCell(cell.operation, cell.layer, cell.images, cell.precision)
    parts = [
        _torch_block(
            one, block(cell.layer.pools), ConvolutionInputs(*(t[m : m + 1] for t in vars(tensors).values())), last=True
        )
        for m in range(cell.models)
    ]

    def work() -> list[Tensor]:
        return [tensor for part in parts for tensor in part.work()]

    def common(results: Sequence[Tensor]) -> list[Tensor]:
        each = len(results) // cell.models
        return [torch.stack(list(results[kind::each])) for kind in range(each)]

    return ConvolutionArm(work, common)


def _products(cell: BenchmarkCell) -> str:
    """``precision=`` of our functions."""
    return "ieee" if cell.precision == "bf16" else cell.precision
