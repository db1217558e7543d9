"""Convolutions in Triton, as drop-ins for ``torch.nn.functional.conv2d``. Knows nothing of the harness.

    from kernels import conv2d, conv2d_relu, conv2d_pool_relu, conv2d_stacked

Triton is loaded when one of these functions is first asked for. Modules import each other by relative imports, because
PyPI's distribution ``kernels`` has a package of the same name: where that one is imported, ours needs another name.
"""

from typing import TYPE_CHECKING, Any

from .geometry import ConvolutionError

if TYPE_CHECKING:
    from .functional import conv2d, conv2d_pool_relu, conv2d_relu, conv2d_stacked

__all__ = ["ConvolutionError", "conv2d", "conv2d_pool_relu", "conv2d_relu", "conv2d_stacked"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any of the public names
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from . import functional

    return getattr(functional, name)
