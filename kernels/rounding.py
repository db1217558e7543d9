"""How far the kernels' numbers may be from exact ones because of rounding, and because of nothing else.

With u_p the rounding of a factor and u = 2^-24 that of a float32 sum: a product errs by 2 u_p, and a sum of d products
whose signs are random errs by about u sqrt(d / 2), both relative to the size of the result. ``SLACK`` times their sum
is allowed. Storing a result adds the rounding of its type. A lost tap of a 3 x 3 convolution errs by about 0.3.
"""

import math
from collections.abc import Sequence

import torch

FACTOR_ROUNDING = {"ieee": 2.0**-24, "tf32": 2.0**-11, "tf32x3": 2.0**-22, "bf16": 0.0}
"""Precision -> largest relative error of a factor when it is multiplied; float32 holds the product of two bfloat16."""

SUM_ROUNDING = 2.0**-24
"""Largest relative error of one addition in float32, in which every kernel sums."""

SLACK = 4.0
"""How many times the expected error is allowed: the largest of many errors is a few standard deviations."""


def store_rounding(dtype: torch.dtype, *, interpreted: bool) -> float:
    """Return the largest relative error of storing a number.

    Args:
        dtype: of the stored number.
        interpreted: whether Triton's interpreter stores it; it cuts a bfloat16 off where a GPU rounds.
    """
    unit = torch.finfo(dtype).eps / 2
    return 2 * unit if interpreted and dtype == torch.bfloat16 else unit


def sum_length(tensor: str, weight: Sequence[int], pixels: int) -> int:
    """Return how many products each number of a convolution's result adds up.

    Args:
        tensor: ``output``, ``input gradient``, ``weight gradient`` or ``bias gradient``.
        weight: shape (K, C, R, S) of the weight.
        pixels: of all images of the output together.
    """
    filters, channels, *taps = weight
    return {"output": channels * math.prod(taps), "input gradient": filters * math.prod(taps)}.get(tensor, pixels)


def allowed_error(length: int, factor_rounding: float) -> float:
    """Return the relative error that is allowed in float32 sums of so many products, before they are stored.

    Args:
        length: see :func:`sum_length`.
        factor_rounding: an entry of ``FACTOR_ROUNDING``; 0 for a sum without products.
    """
    return SLACK * (2 * factor_rounding + SUM_ROUNDING * math.sqrt(length / 2))
