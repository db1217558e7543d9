"""What ``kernel=`` means for a trial: the functions, their precision, where they run, how tensors lie for them.

Everything here follows from the choice's entry in ``harness.backends.KERNELS``.
"""

import torch

from harness import device, own_kernels, own_models
from harness.backends import KERNELS, Backend, Kernel
from harness.bounds import refusal
from harness.config import TrialConfig
from harness.errors import UsageError


def check(config: TrialConfig, target: torch.device) -> None:
    """Check that the kernel exists, offers the precision and runs on the device.

    Raises:
        UsageError: what was given, what is wrong with it and what to do.
    """
    name = config.kernel.name
    if name not in KERNELS:
        raise refusal("kernel.name", name, "no such choice", f"give one of: {', '.join(KERNELS)}")
    _check_precision(config)
    backend, other = backend_of(config), f"use {_any_of(torchs_own=True)}"
    if not backend.is_torch:
        own_kernels.require(name, other)
    try:
        backend.require(target, precision(config))
    except ImportError as error:
        raise UsageError(
            f"kernel={name}: a package that it needs cannot be imported ({error}); install {backend.package} or {other}"
        ) from error
    except RuntimeError as error:
        raise UsageError(f"kernel={name} device={target.type}: {error}; or {other}") from error


def check_model(config: TrialConfig) -> None:
    """Check that a network of the user's own has something for the kernel to compute.

    Raises:
        UsageError: it has no such convolution.
    """
    if config.model.function is None or config.kernel.name not in KERNELS or backend_of(config).is_torch:
        return
    if not own_models.inspected(config.model).by_kernel:
        problem = f"model={config.model.function} calls no nn.Conv2d, which is all that it computes"
        raise refusal("kernel", config.kernel.name, problem, f"use {_any_of(torchs_own=True)}")


def _check_precision(config: TrialConfig) -> None:
    """The precision must be one that the kernel offers, also where it follows ``device.tf32``."""
    name, given, offered = config.kernel.name, config.kernel.precision, backend_of(config).precisions
    if backend_of(config).is_torch and given != "auto":
        problem = f"has no effect with kernel={name}, which follows device.tf32"
        fix = f"set kernel.precision=auto or use {_any_of(torchs_own=False)}"
        raise refusal("kernel.precision", given, problem, fix)
    if offered and config.train.autocast != "none" and given not in ("auto", "ieee"):
        problem = f"has no effect with train.autocast={config.train.autocast}, under which no float32 is multiplied"
        raise refusal("kernel.precision", given, problem, "set kernel.precision=auto or train.autocast=none")
    if offered and precision(config) not in offered:
        path, value = ("device.tf32", config.device.tf32) if given == "auto" else ("kernel.precision", given)
        problem = f"kernel={name} does not multiply in {precision(config)}"
        raise refusal(path, value, problem, f"set kernel.precision to one of: {', '.join(offered)}")


def _any_of(*, torchs_own: bool) -> str:
    return " or ".join(f"kernel={name}" for name, backend in KERNELS.items() if backend.is_torch == torchs_own)


def backend_of(config: TrialConfig) -> Backend:
    """Return the entry of ``harness.backends.KERNELS`` that the config names."""
    return KERNELS[config.kernel.name]


def kernel_of(config: TrialConfig) -> Kernel:
    """Return what computes the convolutions while training."""
    return backend_of(config).build(precision(config))


def precision(config: TrialConfig) -> str:
    """Return the precision of float32 products, ``auto`` resolved; torch's own functions ignore it."""
    if config.kernel.precision != "auto":
        return config.kernel.precision
    # under autocast the kernels multiply no float32 numbers
    return "tf32" if config.device.tf32 and config.train.autocast == "none" else "ieee"


def memory_format(config: TrialConfig, target: torch.device) -> torch.memory_format:
    """Return how images and filters lie in memory.

    Where the config leaves it open, it is as the kernel prefers; for a network of the user's own it is contiguous,
    because code such as ``x.view(len(x), -1)`` fails on other strides.
    """
    if config.device.memory_format == "auto" and config.model.function is not None:
        return torch.contiguous_format
    if config.device.memory_format == "auto" and backend_of(config).channels_last:
        return torch.channels_last
    return device.memory_format(config.device, target)
