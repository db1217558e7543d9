"""What a convolution is asked for: arguments as ``torch.nn.functional.conv2d`` takes them, checked and made uniform.

Shapes: models M (independent convolutions; 1 for a plain one), N images, C channels in, K out, H x W input, P x Q
output, R x S taps. Tensors are 5-D from here on: x (M or 1, N, C, H, W), weight (M, K, C / groups, R, S), bias (M, K).
"""

import math
import operator
from collections.abc import Sequence
from typing import NamedTuple, SupportsIndex, cast

import torch

PRECISIONS = ("ieee", "tf32", "tf32x3")
"""How float32 products are computed.

ieee: full float32. tf32: 10-bit mantissas. tf32x3: three tf32 products that recover nearly full precision.
"""

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
LARGEST = 2**31 - 2**14
"""What the kernels count in 32 bits stays below; the rest is for tiles and parts that reach beyond the last number."""


class ConvolutionError(RuntimeError):
    """What was asked for cannot be computed: one line that says what was given and what is allowed."""


class ConvolutionWindow(NamedTuple):
    """How the filter moves over the image: pairs are (vertical, horizontal).

    Attributes:
        stride: step between outputs.
        padding: zeros (top, bottom, left, right).
        dilation: distance between taps.
        groups: independent parts of the channels.
    """

    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int

    def output(self, image: Sequence[int], taps: Sequence[int]) -> tuple[int, int]:
        """Height and width (P, Q) of what comes out of an image (H, W)."""
        top, bottom, left, right = self.padding
        padded = (image[0] + top + bottom, image[1] + left + right)
        return (
            (padded[0] - self.dilation[0] * (taps[0] - 1) - 1) // self.stride[0] + 1,
            (padded[1] - self.dilation[1] * (taps[1] - 1) - 1) // self.stride[1] + 1,
        )


def window(
    taps: Sequence[int],
    stride: int | Sequence[int],
    padding: int | Sequence[int] | str,
    dilation: int | Sequence[int],
    groups: int,
) -> ConvolutionWindow:
    """Make the arguments uniform.

    Args:
        taps: (R, S).
        stride: one number or a pair, at least 1 and below 2^31, like the next two.
        padding: one number or a pair, at least 0, or ``"valid"`` or ``"same"`` (stride 1 only; of an odd total the
            larger half is at the bottom and right).
        dilation: one number or a pair, at least 1.
        groups: at least 1.

    Raises:
        ConvolutionError: a value out of its range.
    """
    strides = _pair("stride", stride, least=1)
    dilations = _pair("dilation", dilation, least=1)
    parts = _whole(groups)
    if parts is None or not 1 <= parts < 2**31:
        raise ConvolutionError(f"groups={groups!r}: give a whole number of at least 1 and below 2**31")
    return ConvolutionWindow(strides, _padding(padding, taps, strides, dilations), dilations, parts)


def _whole(value: object) -> int | None:
    """The number as torch takes it, of NumPy too but no truth value; None if it is not whole."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex | torch.SymInt):
        return None
    try:
        # a size that the compiler leaves open stays open
        return cast("int", value) if isinstance(value, torch.SymInt) else operator.index(value)
    except TypeError:
        return None


def _pair(name: str, value: int | Sequence[int], *, least: int) -> tuple[int, int]:
    # most calls; the general way takes 4 us more
    if type(value) is int and least <= value < 2**31:
        return value, value
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    numbers = [_whole(number) for number in (values * 2 if len(values) == 1 else values)]
    allowed = [number for number in numbers if number is not None and least <= number < 2**31]
    if len(numbers) != 2 or len(allowed) != 2:
        raise ConvolutionError(
            f"{name}={value!r}: give a whole number or a pair of them, each at least {least} and below 2**31"
        )
    return allowed[0], allowed[1]


def _padding(
    padding: int | Sequence[int] | str, taps: Sequence[int], stride: tuple[int, int], dilation: tuple[int, int]
) -> tuple[int, int, int, int]:
    if not isinstance(padding, str):
        down, right = _pair("padding", padding, least=0)
        return down, down, right, right
    if padding == "valid":
        return 0, 0, 0, 0
    if padding != "same":
        raise ConvolutionError(f"padding={padding!r}: give a whole number, a pair of them, 'valid' or 'same'")
    if stride != (1, 1):
        raise ConvolutionError(f"padding='same' with stride={stride}: it is defined for a stride of 1")
    total = [space * (count - 1) for space, count in zip(dilation, taps, strict=True)]
    return total[0] // 2, total[0] - total[0] // 2, total[1] // 2, total[1] - total[1] // 2


def require_tensors(x: object, weight: object, bias: object) -> None:
    """Refuse what has no shape and strides.

    Raises:
        ConvolutionError: no tensor (but the bias may be None), or no dense one.
    """
    for name, value in (("input", x), ("weight", weight), ("bias", bias)):
        if value is None and name == "bias":
            continue
        if not isinstance(value, torch.Tensor):
            raise ConvolutionError(f"{name} is of type {type(value).__name__}; give a tensor")
        if value.layout != torch.strided:
            raise ConvolutionError(f"{name} is {value.layout}; only dense tensors are allowed")


def check(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, window: ConvolutionWindow) -> None:
    """Refuse what the kernels do not compute.

    Args:
        x: (M or 1, N, C, H, W).
        weight: (M, K, C / groups, R, S).
        bias: (M, K) or None.
        window: how the filter moves.

    Raises:
        ConvolutionError: types, devices or shapes that do not fit.
    """
    _check_tensors(x, weight, bias)
    channels, filters, groups = x.shape[2], weight.shape[1], window.groups
    if 0 in x.shape[2:] or 0 in weight.shape:
        raise ConvolutionError(f"images of {tuple(x.shape[2:])}, weight {_shape(weight)}: only the batch may be empty")
    if channels != weight.shape[2] * groups or filters % groups:
        raise ConvolutionError(
            f"weight {_shape(weight)} with groups={groups} takes {weight.shape[2] * groups} channels in and a multiple "
            f"of {groups} out; given {channels} in and {filters} out"
        )
    if bias is not None and bias.shape != weight.shape[:2]:
        each = "" if weight.shape[0] == 1 else f" of each of {weight.shape[0]} models"
        raise ConvolutionError(f"bias {_shape(bias)}: give one number for each of {filters} output channels{each}")
    if x.shape[0] not in (1, weight.shape[0]):
        raise ConvolutionError(
            f"input for {x.shape[0]} models and weight for {weight.shape[0]}: give as many, or share one input"
        )
    _check_sizes(x, weight, window)


def _check_tensors(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    named = {"input": x, "weight": weight} | ({} if bias is None else {"bias": bias})
    for name, tensor in named.items():
        if tensor.dtype not in DTYPES:
            allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
            raise ConvolutionError(f"{name} is {str(tensor.dtype).removeprefix('torch.')}; allowed are {allowed}")
    if len({tensor.dtype for tensor in named.values()}) > 1 or len({tensor.device for tensor in named.values()}) > 1:
        given = ", ".join(f"{name} {str(t.dtype).removeprefix('torch.')} on {t.device}" for name, t in named.items())
        raise ConvolutionError(f"{given}: give all of one type and on one device")


def _shape(tensor: torch.Tensor) -> tuple[int, ...]:
    """Without the axis of models where there is one model, as the user knows it."""
    return tuple(tensor.shape[1:] if tensor.shape[0] == 1 else tensor.shape)


def _check_sizes(x: torch.Tensor, weight: torch.Tensor, window: ConvolutionWindow) -> None:
    image, taps, (top, bottom, left, right) = x.shape[3:], weight.shape[3:], window.padding
    out = window.output(image, taps)
    if min(out) < 1:
        reach = tuple(space * (count - 1) + 1 for space, count in zip(window.dilation, taps, strict=True))
        padding = (top, left) if (top, left) == (bottom, right) else window.padding
        raise ConvolutionError(
            f"a filter that spans {reach} does not fit into an image of {tuple(image)} with padding {padding}"
        )
    counts = {
        "rows with padding": image[0] + top + bottom,
        "columns with padding": image[1] + left + right,
        "pixels in a batch": x.shape[1] * max(image[0] * image[1], out[0] * out[1]),
        "numbers in an image": x.shape[2] * image[0] * image[1],
        "numbers in an output": weight.shape[1] * out[0] * out[1],
        "numbers in a model": weight.shape[1] * (math.prod(weight.shape[2:]) + 1),
    }
    for what, count in counts.items():
        if count > LARGEST:
            raise ConvolutionError(
                f"{x.shape[1]} images of {tuple(x.shape[2:])} with weight {_shape(weight)}: {count} {what}; at most "
                f"{LARGEST} are possible"
            )


def is_channels_last(tensor: torch.Tensor) -> bool:
    """Whether torch would call the last four dimensions channels last, by its own rule for ambiguous sizes."""
    sizes, strides = tensor.shape[-4:], tensor.stride()[-4:]
    least = 0
    if strides[1] == 0:
        return False
    for dimension in (1, 3, 2, 0):
        if sizes[dimension] == 0 or strides[dimension] < least:
            return False
        if dimension == 0 and least == strides[1]:
            return False
        least = strides[dimension] * max(sizes[dimension], 1)
    return True


def dense_strides(shape: Sequence[int], *, channels_last: bool) -> tuple[int, ...]:
    """Strides of a dense 5-D tensor, each model's part contiguous or channels last."""
    _, second, third, height, width = shape
    inner = (1, width * third, third) if channels_last else (height * width, width, 1)
    return second * third * height * width, third * height * width, *inner
