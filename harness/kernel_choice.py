"""What ``kernel=`` means for a trial: the functions, their precision, where they run, how tensors lie for them."""

import torch

from harness import device
from harness.config import TrialConfig
from harness.errors import UsageError
from kernels import KERNELS, Kernel, kernel


def check(config: TrialConfig, target: torch.device) -> None:
    """Whether the kernel is there and runs on the device.

    Raises:
        UsageError: what was given and what to do.
    """
    name = config.kernel.name
    if name not in KERNELS:
        raise UsageError(f"kernel.name={name}; choose one of: {', '.join(KERNELS)}")
    if name == "torch":
        return
    try:
        from kernels import launch
    except ImportError as error:
        raise UsageError(
            f"kernel={name}: Triton is not installed ({error}); install triton (Linux), or choose kernel=torch"
        ) from error
    try:
        launch.require_device(target, precision(config))
    except RuntimeError as error:
        raise UsageError(f"kernel={name} device={target.type}: {error}; or choose kernel=torch") from error


def kernel_of(config: TrialConfig) -> Kernel:
    """What computes the convolutions while training."""
    return kernel(config.kernel.name, precision=precision(config))


def precision(config: TrialConfig) -> str:
    """Of the Triton kernels' float32 products: ieee, tf32 or tf32x3."""
    if config.kernel.precision != "auto":
        return config.kernel.precision
    return "tf32" if config.device.tf32 else "ieee"


def memory_format(config: TrialConfig, target: torch.device) -> torch.memory_format:
    """How images and filters lie in memory.

    Where the config leaves it open, channels last for the Triton kernels: neighbouring threads then read neighbouring
    channels, 16 bytes each. That is a prediction from the compiled code, not yet a measurement.
    """
    if config.device.memory_format == "auto" and config.kernel.name != "torch":
        return torch.channels_last
    return device.memory_format(config.device, target)
