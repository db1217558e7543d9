"""Convolutions in Triton, as drop-ins for ``torch.nn.functional.conv2d``. Knows nothing of the harness.

    from kernels import conv2d, conv2d_relu, conv2d_pool_relu, conv2d_stacked

Triton is loaded when one of these functions is first asked for, so that ``kernel=torch`` needs none.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from kernels.geometry import ConvolutionError

if TYPE_CHECKING:
    from kernels.functional import conv2d, conv2d_pool_relu, conv2d_relu, conv2d_stacked

__all__ = [
    "KERNELS",
    "Conv2d",
    "ConvolutionError",
    "Kernel",
    "conv2d",
    "conv2d_pool_relu",
    "conv2d_relu",
    "conv2d_stacked",
    "kernel",
]

Conv2d = Callable[..., torch.Tensor]
"""A function with the signature of ``torch.nn.functional.conv2d``."""

KERNELS = ("torch", "triton", "triton_fused")
"""The choices of ``kernel=``."""


@dataclass(frozen=True)
class Kernel:
    """What a network's convolutions are computed by.

    Attributes:
        conv2d: the convolution.
        conv2d_relu: with the relu that follows; None: the two are separate.
        conv2d_pool_relu: with 2 x 2 max-pooling and relu; None: they are separate.
    """

    conv2d: Conv2d
    conv2d_relu: Conv2d | None = None
    conv2d_pool_relu: Conv2d | None = None


def kernel(name: str, *, precision: str) -> Kernel:
    """The functions behind a choice of ``kernel=``.

    Args:
        name: one of ``KERNELS``.
        precision: of the Triton kernels' float32 products: ieee, tf32 or tf32x3; torch's follow its own flags.

    Raises:
        ImportError: Triton is not installed.
        KeyError: no such name.
    """
    if name == "torch":
        return Kernel(F.conv2d)
    from kernels import functional

    functions = {
        "triton": (functional.conv2d,),
        "triton_fused": (functional.conv2d, functional.conv2d_relu, functional.conv2d_pool_relu),
    }
    return Kernel(*(functools.partial(function, precision=precision) for function in functions[name]))


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any of the public names
    if name not in __all__:
        raise AttributeError(f"module 'kernels' has no attribute '{name}'")
    from kernels import functional

    return getattr(functional, name)
