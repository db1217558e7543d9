"""The choices of ``kernel=``: what computes the convolutions, and what it needs.

    KERNELS["triton"].require(device, "ieee")
    kernel = KERNELS["triton"].build("ieee")

The entry of ``kernel=torch`` is torch's own function; only the others load our package ``kernels``, when they are used.
"""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from harness import own_kernels

Conv2d = Callable[..., torch.Tensor]
"""A function with the signature of ``torch.nn.functional.conv2d``."""


@dataclass(frozen=True)
class Kernel:
    """The functions that compute a network's convolutions.

    Attributes:
        conv2d: the convolution.
        conv2d_relu: with the relu that follows; None: the two are separate.
        conv2d_pool_relu: with 2 x 2 max-pooling and relu; None: they are separate.
        stacked: the same functions for R models in one launch: images (R, N, C, H, W), or (N, C, H, W) shared by the
            models, weight (R, K, C, r, s), bias (R, K); None: this kernel has none.
    """

    conv2d: Conv2d
    conv2d_relu: Conv2d | None = None
    conv2d_pool_relu: Conv2d | None = None
    stacked: "Kernel | None" = field(default=None, kw_only=True)


@dataclass(frozen=True)
class Backend:
    """One choice of ``kernel=``: how its functions are made, and what they need.

    Attributes:
        build: precision -> the functions; what they need is imported by this call.
        require: refuses a device, or a precision on it, that the functions do not run with. It raises ImportError if a
            package is missing, else RuntimeError saying what to do.
        package: what to install if ``require`` raises ImportError, for people.
        precisions: of float32 products, from which a trial may choose. Empty: torch's own functions, which follow
            torch's flags; a trial checks all others against them before it times anything.
        channels_last: whether the functions are faster on tensors that lie channels last.
    """

    build: Callable[[str], Kernel]
    require: Callable[[torch.device, str], None] = lambda _device, _precision: None
    package: str = "torch"
    precisions: tuple[str, ...] = ()
    channels_last: bool = False

    @property
    def is_torch(self) -> bool:
        """Return whether these are torch's own functions."""
        return not self.precisions


def _of_triton(*epilogues: str) -> Callable[[str], Kernel]:
    """Return what makes a kernel of ``kernels.functional``: its convolution, alone and with what may follow it."""

    def build(precision: str) -> Kernel:
        functional = own_kernels.module("functional")
        alone = [getattr(functional, f"conv2d_{epilogue}") for epilogue in epilogues]
        stacked = [functools.partial(functional.conv2d_stacked, epilogue=name) for name in ("none", *epilogues)]
        one, many = (
            Kernel(*(functools.partial(function, precision=precision) for function in functions))
            for functions in ([functional.conv2d, *alone], stacked)
        )
        return dataclasses.replace(one, stacked=many)

    return build


def _require_triton(device: torch.device, precision: str) -> None:
    own_kernels.module("launch").require_device(device, precision)


# those of kernels.geometry.PRECISIONS, written out because kernel=torch must not load our package
_PRECISIONS = ("ieee", "tf32", "tf32x3")

# channels last, because neighbouring threads then read neighbouring channels, 16 bytes each: on an H200 a block at
# batch 50 took 31 to 41 us so and 46 to 66 us in NCHW (tf32, docs/kernels.md)
_triton = functools.partial(
    Backend, require=_require_triton, package="triton (Linux only)", precisions=_PRECISIONS, channels_last=True
)

KERNELS = {
    "torch": Backend(lambda _: Kernel(F.conv2d)),
    "triton": _triton(_of_triton()),
    "triton_fused": _triton(_of_triton("relu", "pool_relu")),
}
"""Name of ``kernel=`` -> what computes the convolutions.

To add one, add an entry here, its functions to ``kernels`` and a file ``conf/kernel/NAME.yaml``: its checks, its
precisions, its memory format and every message follow from the entry.
"""
