"""The oracle: ``F.conv2d`` and its gradients in float64, and how far exact rounding may be from it.

A sum of n products in float32 differs from the exact one by at most (n + 2) 2^-24 times the sum of the products'
sizes, in whatever order (Higham, Accuracy and Stability of Numerical Algorithms, 3.1). Of products of either sign that
is far more than happens where n is large, and would hide a part kept in 16 bits: partial sums are then about the root
of the sum of squares, s, and n independent roundings of at most 2^-24 s add up to sqrt(n) of them; six times that is
allowed, if it is less. Storing the sum adds the rounding of the output's type. The sizes and squares are what the same
convolution makes of absolute values and of squares.

The interpreter on the CPU multiplies exactly. A GPU's matrix units do not: tf32 cuts each factor to 10 bits, which
takes up to 2^-9 off a product, and tf32x3 drops parts of 2^-20 three times. These parts have their product's sign: of
the sum, their share of the result and, as above, six times half their share of s. What matrix units add up is cut off,
not rounded: four times the rounding of a sum is allowed.
"""

import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from kernels import rounding

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
"""Where the kernels run."""

SMALLEST = {torch.float32: 2.0**-149, torch.float16: 2.0**-24, torch.bfloat16: 2.0**-133}
"""Smallest number of a type, within which small results are rounded."""

CUT = {"ieee": 0.0, "tf32": 2.0**-9, "tf32x3": 2.0**-18}
"""Largest share that a GPU cuts off a product of float32 numbers."""

Function = Callable[..., torch.Tensor]


def random_inputs(
    x: Sequence[int], weight: Sequence[int], *, bias: bool = True, dtype: torch.dtype = torch.float32, seed: int = 0
) -> list[torch.Tensor]:
    """Normal numbers of these shapes, and a bias for each filter."""
    random = torch.Generator().manual_seed(seed)
    shapes = [x, weight, *([weight[:-3]] if bias else [])]
    return [torch.randn(tuple(shape), generator=random).to(DEVICE, dtype) for shape in shapes]


def whole_inputs(x: Sequence[int], weight: Sequence[int], *, seed: int = 0) -> list[torch.Tensor]:
    """Whole numbers from -2 to 2: every sum is exact, ties and zeros abound."""
    random = torch.Generator().manual_seed(seed)
    shapes = x, weight, weight[:-3]
    return [torch.randint(-2, 3, tuple(shape), generator=random).float().to(DEVICE) for shape in shapes]


def whole(shape: Sequence[int]) -> torch.Tensor:
    """One tensor of such numbers, for a gradient."""
    return whole_inputs(shape, (1, 1, 1, 1), seed=1)[0]


def torchs(*tensors: torch.Tensor, **settings: Any) -> torch.Tensor:
    """``F.conv2d`` on the CPU, wherever the tensors are: on a GPU it may choose tf32, or an inexact algorithm."""
    return F.conv2d(*(tensor.cpu() for tensor in tensors), **settings)


def gradients(function: Function, inputs: Sequence[torch.Tensor], dy: torch.Tensor | None, **settings: Any) -> list:
    """[output, gradient of each input] for this gradient of the output; ones if it is None."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    y = function(*leaves, **settings)
    seeds = torch.ones_like(y) if dy is None else dy.to(y.device)
    return [y.detach(), *torch.autograd.grad(y, leaves, seeds)]


def assert_right(
    function: Function, inputs: Sequence[torch.Tensor], *, precision: str = "ieee", **settings: Any
) -> None:
    """Output and all gradients of a function are those of ``F.conv2d``, but for rounding."""
    dtype, plain = inputs[0].dtype, [tensor.cpu().double() for tensor in inputs]
    with torch.no_grad():
        shape = F.conv2d(*plain, **settings).shape
    dy = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    ours = gradients(function, inputs, dy, precision=precision, **settings)
    exact = gradients(F.conv2d, plain, dy.double(), **settings)
    sizes = gradients(F.conv2d, [tensor.abs() for tensor in plain], dy.double().abs(), **settings)
    squares = gradients(F.conv2d, [tensor**2 for tensor in plain], dy.double() ** 2, **settings)
    pixels = math.prod(shape) // inputs[1].shape[0]
    names = ["output", "input gradient", "weight gradient", "bias gradient"]
    # the bias is one more number in the output's sums
    lengths = [rounding.sum_length(name, inputs[1].shape, pixels) + (name == "output") for name in names]
    cut = 0.0 if INTERPRETED or dtype != torch.float32 else CUT[precision]
    stored = 1.01 * rounding.store_rounding(dtype, interpreted=INTERPRETED)
    sum_rounding = rounding.SUM_ROUNDING * (1 if INTERPRETED or (dtype, precision) == (torch.float32, "ieee") else 4)
    for name, value, wanted, size, square, length in zip(names, ours, exact, sizes, squares, lengths, strict=False):
        assert value.dtype == dtype, name
        assert value.shape == wanted.shape, name
        root = square.sqrt()
        adding = torch.minimum((length + 2) * size, 6 * (length + 2) ** 0.5 * root) * sum_rounding
        # the bias's gradient is a sum without products
        products = torch.minimum(size, wanted.abs() + 3 * root) * (0.0 if name == "bias gradient" else cut)
        allowed = products + adding + stored * wanted.abs() + SMALLEST[dtype]
        wrong = ~((value.cpu().double() - wanted).abs() <= allowed)
        assert not wrong.any(), f"{name}: {int(wrong.sum())} of {wrong.numel()} differ by more than rounding"


def assert_equal(ours: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> None:
    """Bit for bit the same numbers, a zero's sign aside; NaN equals NaN."""
    for mine, theirs in zip(ours, wanted, strict=True):
        torch.testing.assert_close(mine.cpu().double(), theirs.cpu().double(), rtol=0, atol=0, equal_nan=True)
