"""Starting the kernels: where results are allocated, in which layout, how many programs, which tile.

Everything here is asynchronous, allocates through torch alone and never waits for the device, so that it can be
captured in a CUDA graph. Tensors are 5-D as in ``kernels.geometry``; what is ``None`` is not there.
"""

import contextlib
import functools
import math
import operator
from collections.abc import Sequence
from typing import Any

import torch

from . import tiles
from . import triton_kernels as tk
from .geometry import LARGEST, ConvolutionError, ConvolutionWindow, dense_strides, is_channels_last

EPILOGUES = {"none": 0, "relu": 1, "pool_relu": 2}
"""Name of what follows the convolution -> its number in the kernels."""


def require_device(device: torch.device, precision: str) -> None:
    """Refuse a device that the kernels do not run on.

    Raises:
        ConvolutionError: no GPU and no interpreter; the interpreter and a GPU; or a precision that the GPU has not.
    """
    if device.type == "cuda" and torch.version.hip and precision == "tf32x3":
        raise ConvolutionError("precision=tf32x3 is not there on AMD GPUs; choose ieee or tf32")
    if device.type == "cuda" and tk.INTERPRETED:
        raise ConvolutionError("TRITON_INTERPRET is set, so nothing would run on the GPU; unset it, or use device=cpu")
    if device.type == ("cpu" if tk.INTERPRETED else "cuda"):
        return
    raise ConvolutionError(
        f"the Triton kernels need a GPU, and this is {device.type}; to run them slowly on a CPU, set "
        "TRITON_INTERPRET=1 before Python starts"
    )


def output_channels_last(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Torch's rule: the output is channels last if one of the two is, but for an empty batch."""
    return x.shape[1] > 0 and (is_channels_last(x) or is_channels_last(weight))


def output_shape(x: torch.Tensor, weight: torch.Tensor, window: ConvolutionWindow, epilogue: int) -> tuple[int, ...]:
    """(M, N, K, P, Q), halved by pooling."""
    height, width = window.output(x.shape[3:], weight.shape[3:])
    if epilogue == EPILOGUES["pool_relu"]:
        if min(height, width) < 2:
            raise ConvolutionError(f"an output of {(height, width)} is too small to pool 2 x 2")
        height, width = height // 2, width // 2
    return max(x.shape[0], weight.shape[0]), x.shape[1], weight.shape[1], height, width


def allocate(shape: Sequence[int], like: torch.Tensor, *, channels_last: bool, **options: Any) -> torch.Tensor:  # noqa: ANN401
    """An unset dense 5-D tensor on the device, and unless said otherwise of the type, of another."""
    strides = dense_strides(shape, channels_last=channels_last)
    return torch.empty_strided(shape, strides, **{"dtype": like.dtype, "device": like.device, **options})


def outputs(
    x: torch.Tensor, weight: torch.Tensor, window: ConvolutionWindow, epilogue: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What the forward pass fills: y, and the winners if there is pooling."""
    shape, channels_last = output_shape(x, weight, window, epilogue), output_channels_last(x, weight)
    y = allocate(shape, x, channels_last=channels_last)
    pools = epilogue == EPILOGUES["pool_relu"]
    return y, allocate(shape, x, channels_last=channels_last, dtype=torch.uint8) if pools else None


def forward(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    window: ConvolutionWindow,
    *,
    precision: str,
    epilogue: int,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The convolution and what follows it.

    Returns:
        y (M, N, K, P, Q), halved by pooling, and the winners uint8 of the same shape if there is pooling.
    """
    require_device(x.device, precision)
    y, winner = outputs(x, weight, window, epilogue)
    models, images, _, height, width = y.shape
    geometry, x, packed = _geometry(x.shape, weight.shape, window), _addressable(x), _packed(weight)
    bias = None if bias is None else bias.contiguous()
    rows = images * height * width
    depth, pools = _depth(geometry.C, geometry), winner is not None
    sizes = {"channels": geometry.C, "depth": depth, "rows": rows, "columns": geometry.K}
    choice = _choose(tiles.FORWARD, x, precision, **sizes, pools=pools)
    grid = _programs(rows, geometry.K, choice.tile) * models * geometry.GROUPS
    if grid:
        _start(
            tk.forward_kernel, grid, choice, x, packed, bias, y, winner, images, depth,
            _model_stride(x), _model_stride(packed), G=geometry, X=_image_strides(x), Y=_image_strides(y),
            TILE=choice.tile, EPILOGUE=epilogue, PRECISION=precision,
        )  # fmt: skip
    return y, winner


def input_gradient(
    dy: torch.Tensor,
    gate: torch.Tensor | None,
    weight: torch.Tensor,
    image: tuple[int, int],
    window: ConvolutionWindow,
    *,
    shared: bool,
    channels_last: bool,
    precision: str,
    epilogue: int,
) -> torch.Tensor:
    """Gradient with respect to x.

    Args:
        dy: gradient of the epilogue's output.
        gate: y after relu, the winners after pooling.
        weight: as in the forward pass.
        image: (H, W) of x.
        window: as in the forward pass.
        shared: whether all models had the same x, so that their gradients add up.
        channels_last: layout of the result.
        precision: of float32 products.
        epilogue: its number.

    Returns:
        dx (M, N, C, H, W), or (1, N, C, H, W) if shared.
    """
    require_device(dy.device, precision)
    models, images, channels = max(dy.shape[0], weight.shape[0]), dy.shape[1], weight.shape[2] * window.groups
    add_up = shared and models > 1
    shape = (models, images, channels, *image)
    dx = allocate(shape, dy, channels_last=channels_last, dtype=torch.float32 if add_up else dy.dtype)
    geometry, packed = _geometry(shape, weight.shape, window), _packed(weight)
    dy, gate = _addressable(dy), None if gate is None else _addressable(gate)
    depth, rows = _depth(geometry.K, geometry), images * image[0] * image[1]
    sizes = {"channels": geometry.K, "depth": depth, "rows": rows, "columns": geometry.C}
    choice = _choose(tiles.INPUT_GRADIENT, dy, precision, **sizes, pools=epilogue == EPILOGUES["pool_relu"])
    grid = _programs(rows, geometry.C, choice.tile) * models * geometry.GROUPS
    if grid:
        _start(
            tk.input_gradient_kernel, grid, choice, dy, gate, packed, dx, images, depth, _model_stride(dy),
            _model_stride(gate), _model_stride(packed), G=geometry, DY=_image_strides(dy),
            GATE=_image_strides(gate), DX=_image_strides(dx), TILE=choice.tile, EPILOGUE=epilogue, PRECISION=precision,
        )  # fmt: skip
    return _summed_over_models(dx, dy, channels_last=channels_last) if add_up else dx


def _summed_over_models(dx: torch.Tensor, like: torch.Tensor, *, channels_last: bool) -> torch.Tensor:
    """Return (1, N, C, H, W) in the type of ``like``, the sum over the models of the float32 ``dx``."""
    added = allocate((1, *dx.shape[1:]), like, channels_last=channels_last)
    _add_parts(dx, added, None, parts=dx.shape[0])
    return added


def weight_gradient(
    x: torch.Tensor,
    dy: torch.Tensor,
    gate: torch.Tensor | None,
    filters: tuple[int, int, int, int],
    window: ConvolutionWindow,
    *,
    channels_last: bool,
    needs: tuple[bool, bool],
    precision: str,
    epilogue: int,
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Gradients with respect to weight and bias, each None where ``needs`` says so.

    Args:
        x: as in the forward pass.
        dy: gradient of the epilogue's output.
        gate: y after relu, the winners after pooling.
        filters: (K, C / groups, R, S) of the weight.
        window: as in the forward pass.
        channels_last: layout of the weight's gradient.
        needs: whether the weight's and whether the bias's are wanted.
        precision: of float32 products.
        epilogue: its number.

    Returns:
        (M, K, C / groups, R, S) and (M, K).
    """
    require_device(x.device, precision)
    shape = (max(x.shape[0], dy.shape[0]), *filters)
    weight_out = allocate(shape, dy, channels_last=channels_last) if needs[0] else None
    bias_out = dy.new_empty(shape[:2]) if needs[1] else None
    parts = _weight_gradient_parts(
        x, dy, gate, shape, window, channels_last=channels_last, needs=needs, precision=precision, epilogue=epilogue
    )
    if parts is not None:
        _add_parts(parts, weight_out, bias_out, parts=parts.shape[1])
    return weight_out, bias_out


def _weight_gradient_parts(
    x: torch.Tensor,
    dy: torch.Tensor,
    gate: torch.Tensor | None,
    shape: tuple[int, int, int, int, int],
    window: ConvolutionWindow,
    *,
    channels_last: bool,
    needs: tuple[bool, bool],
    precision: str,
    epilogue: int,
) -> torch.Tensor | None:
    """First stage: (models, splits, numbers of weight and bias) float32; None if there is nothing to compute.

    ``shape`` is (M, K, C / groups, R, S), the other arguments are those of :func:`weight_gradient`.
    """
    models, filters, geometry = shape[0], shape[1:], _geometry(x.shape, shape, window)
    x, dy, gate = _addressable(x), _addressable(dy), None if gate is None else _addressable(gate)
    columns = geometry.C * geometry.R * geometry.S if needs[0] else 1
    choice = _choose(tiles.WEIGHT_GRADIENT, dy, precision, channels=0, depth=0, rows=geometry.K, columns=columns)
    programs = _programs(geometry.K, columns, choice.tile) * models * geometry.GROUPS
    if not programs:
        return None
    splits = tiles.splits(x.shape[1] * geometry.P * geometry.Q, programs, choice.tile.K)
    numbers = (math.prod(filters) if needs[0] else 0) + (filters[0] if needs[1] else 0)
    parts = torch.empty((models, splits, numbers), dtype=torch.float32, device=x.device)
    _start(
        tk.weight_gradient_kernel, programs * splits, choice, x, dy, gate, parts, x.shape[1], splits, columns,
        _model_stride(x), _model_stride(dy), _model_stride(gate), G=geometry, X=_image_strides(x),
        DY=_image_strides(dy), GATE=_image_strides(gate),
        F=tk.FilterStrides(*dense_strides(shape, channels_last=channels_last)[1:]),
        TILE=choice.tile, EPILOGUE=epilogue, PRECISION=precision, WEIGHT=needs[0], BIAS=needs[1],
    )  # fmt: skip
    return parts


def _add_parts(partial: torch.Tensor, first: torch.Tensor | None, second: torch.Tensor | None, *, parts: int) -> None:
    """Second stage of a reduction: ``partial`` is (models, parts, numbers), the results (models, their numbers)."""
    models = next(out.shape[0] for out in (first, second) if out is not None)
    sizes = [0 if out is None else out.numel() // models for out in (first, second)]
    if sum(sizes) > LARGEST:
        raise ConvolutionError(
            f"{sum(sizes)} numbers to add up, of each of several models; at most {LARGEST} are possible"
        )
    blocks = -(-sum(sizes) // tiles.SUM_BLOCK)
    if blocks:
        choice = tiles.TileChoice(tiles.Tile(1, tiles.SUM_BLOCK, 1), 4, 1)
        arguments = partial, first, second, parts, *sizes
        _start(tk.add_parts_kernel, blocks * models, choice, *arguments, BLOCK=tiles.SUM_BLOCK)


@functools.lru_cache(maxsize=1024)
def _geometry(x: tuple[int, ...], weight: tuple[int, ...], window: ConvolutionWindow) -> tk.Geometry:
    """From 5-D shapes."""
    taps, (top, _, left, _) = weight[3:], window.padding
    (height, width), (p, q) = x[3:], window.output(x[3:], taps)
    channels = weight[2], weight[1] // window.groups, window.groups
    return tk.Geometry(*channels, height, width, p, q, taps[0], taps[1], *window.stride, top, left, *window.dilation)


def _choose(
    operation: str, tensor: torch.Tensor, precision: str, *, depth: int, columns: int, pools: bool = False, **sizes: int
) -> tiles.TileChoice:
    """The tile for operands such as ``tensor``; ``sizes`` are the others of :func:`kernels.tiles.choose`."""
    size = tensor.element_size()
    kind = tiles.arithmetic(operation, depth=depth, columns=columns, element_bytes=size, precision=precision)
    choice = tiles.choose(operation, kind, depth=depth, columns=columns, pools=pools, **sizes)
    return tiles.for_interpreter(operation, choice) if tk.INTERPRETED else choice


def _depth(channels: int, geometry: tk.Geometry) -> int:
    return channels * geometry.R * geometry.S


def _packed(weight: torch.Tensor) -> torch.Tensor:
    """Each filter in the order the depth is gone through: (M, K, R, S, C); no copy if it was channels last."""
    return weight.permute(0, 1, 3, 4, 2).contiguous()


def _addressable(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor as it lies, if offsets within one image fit into 32 bits; else a dense copy."""
    (_, _, *sizes), (_, _, *strides) = tensor.shape, tensor.stride()
    span = sum(map(operator.mul, sizes, strides)) - sum(strides)
    return tensor if span <= LARGEST else tensor.contiguous()


def _model_stride(tensor: torch.Tensor | None) -> int:
    """Distance between models; 0 where all share one."""
    return 0 if tensor is None or tensor.shape[0] == 1 else tensor.stride(0)


def _image_strides(tensor: torch.Tensor | None) -> tk.ImageStrides:
    return tk.ImageStrides(0, 0, 0, 0) if tensor is None else tk.ImageStrides(*tensor.stride()[1:])


def _programs(rows: int, columns: int, tile: tiles.Tile) -> int:
    return -(-rows // tile.M) * -(-columns // tile.N)


def _start(kernel: Any, programs: int, choice: tiles.TileChoice, *arguments: Any, **constants: Any) -> None:  # noqa: ANN401
    """Launch on the tensors' own GPU, with every option that could be inherited stated."""
    if programs > LARGEST:
        raise ConvolutionError(f"{programs} programs are more than a launch can have; split the batch or the models")
    tensor = next(argument for argument in arguments if isinstance(argument, torch.Tensor))
    # entering a device that is current already takes 5 us
    elsewhere = tensor.is_cuda and tensor.device.index != torch.cuda.current_device()
    with torch.cuda.device(tensor.device) if elsewhere else contextlib.nullcontext():
        kernel[(programs,)](*arguments, **constants, **compile_options(choice, hip=bool(torch.version.hip)))


def compile_options(choice: tiles.TileChoice, *, hip: bool) -> dict[str, Any]:
    """What the compiler is told beside the kernel; AMD's takes no limit of registers."""
    options = {"num_warps": choice.warps, "num_stages": choice.stages, "enable_fp_fusion": True}
    return options if hip else {**options, "maxnreg": choice.registers}
