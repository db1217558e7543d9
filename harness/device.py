"""The machine: which device, its flags, its peak memory, and a fingerprint of the environment."""

import contextlib
import functools
import importlib.metadata
import os
import platform
import re
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from harness import __version__
from harness.config import DeviceConfig
from harness.errors import UsageError

_PACKAGES = ("torch", "torchvision", "triton", "numpy", "pandas", "pyarrow", "hydra-core")
_KIB = 1024
_POWERCAP = Path("/sys/class/powercap")

# cuBLAS is deterministic only with a workspace of fixed size, read when CUDA starts
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


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


def apply_flags(config: DeviceConfig) -> None:
    """Set threads, TF32 and determinism; each is stated, none inherited from what ran before."""
    torch.set_num_threads(threads(config))
    torch.backends.cuda.matmul.allow_tf32 = config.tf32
    torch.backends.cudnn.allow_tf32 = config.tf32
    torch.backends.cudnn.benchmark = not config.deterministic
    torch.backends.cudnn.deterministic = config.deterministic
    torch.use_deterministic_algorithms(config.deterministic, warn_only=True)
    # else deterministic mode fills each new tensor with NaN first, which would be timed as training
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


@functools.cache
def _default_threads() -> int:
    """Torch's own number of threads, asked before this program first changes it."""
    return torch.get_num_threads()


def threads(config: DeviceConfig) -> int:
    """How many CPU threads a trial gets: those of ``device.threads``, or as many as torch takes by itself."""
    return config.threads or _default_threads()


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


def environment(device: torch.device) -> dict[str, Any]:
    """What a result's numbers depend on besides its config: code, packages, processor, GPU.

    Returns:
        the provenance columns of the ``trials`` table.
    """
    commit, dirty = _git_state()
    is_cuda = device.type == "cuda"
    return {
        "device_model": torch.cuda.get_device_name(device) if is_cuda else cpu_model(),
        "gpu_driver": _gpu_driver() if is_cuda else None,
        "cpu_model": cpu_model(),
        "platform": platform.platform(),
        "python_version": platform.python_version(),
        "package_versions": _package_versions(),
        "git_commit": commit,
        "git_dirty": dirty,
    }


@functools.cache
def _package_versions() -> tuple[tuple[str, str], ...]:
    # an editable install keeps the metadata of the day it was made, so our own version is the running code's
    versions = [("initbench", __version__)]
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append((name, importlib.metadata.version(name)))
    return (*versions, ("cuda", torch.version.cuda or "none"))


@functools.cache
def cpu_model() -> str:
    """The processor's name as its maker gives it."""
    with contextlib.suppress(OSError):
        model_name = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
        if model_name:
            return model_name[1].strip()
    return platform.processor() or platform.machine()


def _command_output(*command: str) -> str | None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=20, check=True, cwd=Path(__file__).parent
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@functools.cache
def _gpu_driver() -> str | None:
    driver_lines = _command_output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return driver_lines.splitlines()[0] if driver_lines else None


@functools.cache
def _git_state() -> tuple[str | None, bool | None]:
    """Commit of the checkout this code runs from and whether it is changed; (None, None) for an installed package."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None, None
    status = _command_output("git", "status", "--porcelain")
    return _command_output("git", "rev-parse", "HEAD"), None if status is None else bool(status)
