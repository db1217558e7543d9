"""The device: which one, its flags, its threads, its peak memory and its energy."""

import contextlib
import platform
import re
import resource
from collections.abc import Iterator
from pathlib import Path

import torch

from harness import allocator
from harness.config import DeviceConfig
from harness.cores import granted_cores
from harness.errors import UsageError

_KIB = 1024
_POWERCAP = Path("/sys/class/powercap")


def resolve(config: DeviceConfig) -> torch.device:
    """The torch device that ``device=`` means on this machine.

    Raises:
        UsageError: a CUDA device was asked for that is not there.
    """
    if config.name == "cpu" or (config.name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if config.index < count:
        return torch.device("cuda", config.index)
    raise UsageError(
        f"device=cuda device.index={config.index}: this machine has {count} usable CUDA devices; "
        "use device=cpu (or device=auto), or install an NVIDIA driver and a CUDA build of torch"
    )


def threads(config: DeviceConfig) -> int:
    """How many CPU threads a trial gets: those of ``device.threads``, or torch's, if a container grants as many."""
    threads = torch.get_num_threads()
    return config.threads or min(threads, granted_cores() or threads)


@contextlib.contextmanager
def single_thread() -> Iterator[None]:
    """Let the block compute with one CPU thread, so that its rounding does not depend on how many there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def memory_format(config: DeviceConfig, device: torch.device) -> torch.memory_format:
    """How images and convolution weights lie in memory: the strides, never the shape."""
    on_cpu = config.memory_format == "auto" and device.type == "cpu"
    return torch.channels_last if on_cpu or config.memory_format == "channels_last" else torch.contiguous_format


def is_to_keep_memory(config: DeviceConfig) -> bool:
    """Return whether ``device.keep_memory`` has an effect: it is set, the trial runs on a CPU, and glibc allocates.

    Raises:
        UsageError: a CUDA device was asked for that is not there.
    """
    return config.keep_memory and resolve(config).type == "cpu" and allocator.can_keep()


def settle_process(config: DeviceConfig) -> None:
    """Do what ``device.keep_memory`` says for the rest of a process that exists for trials.

    Raises:
        UsageError: a CUDA device was asked for that is not there.
    """
    if is_to_keep_memory(config):
        allocator.keep_memory()


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak_memory(device: torch.device) -> None:
    """Start counting the peak anew: torch's allocator on CUDA, the process on a CPU (where Linux can)."""
    if device.type == "cuda":
        # torch's allocator knows no device before CUDA has started, which the first tensor does otherwise
        torch.cuda.init()  # type: ignore[no-untyped-call]
        torch.cuda.reset_peak_memory_stats(device)
        return
    allocator.give_back()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory held since the last reset: bytes in torch's allocator on CUDA, of the whole process on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    with contextlib.suppress(OSError):
        high_water_mark = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        if high_water_mark:
            return int(high_water_mark[1]) * _KIB
    return _ru_maxrss_bytes()


def _ru_maxrss_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * _KIB


def energy_j(device: torch.device) -> float | None:
    """Counter of the energy used so far, in joules: NVML's of the GPU, or Linux's RAPL of the processor packages.

    Returns:
        None where there is no counter or it may not be read (RAPL often needs root).
    """
    if device.type == "cuda":
        return _nvml_energy_j(device)
    counters = sorted(_POWERCAP.glob("intel-rapl:?/energy_uj"))
    try:
        return sum(int(counter.read_text()) for counter in counters) / 1e6 if counters else None
    except OSError:
        return None


def _nvml_energy_j(device: torch.device) -> float | None:
    import pynvml

    try:
        pynvml.nvmlInit()
        # by its UUID, for CUDA_VISIBLE_DEVICES renumbers torch's devices and not NVML's
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3
    except pynvml.NVMLError:
        return None


def energy_since(before_j: float | None, device: torch.device) -> float | None:
    """Joules used since an earlier :func:`energy_j`; None without a counter, or if it has wrapped around."""
    after_j = energy_j(device)
    if before_j is None or after_j is None or after_j < before_j:
        return None
    return after_j - before_j
