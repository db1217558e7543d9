"""What a result's numbers depend on besides its config: code, packages, processor, GPU, system.

Each is the truth or None. No source of it can make a trial fail or wait for long.
"""

import functools
import importlib.metadata
import platform
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from harness import __version__
from harness.checkout import git_state
from harness.errors import TimeBudgetError
from harness.processor import cpu_model

_MODULES = {
    "torchvision": "torchvision",
    "triton": "triton",
    "numpy": "numpy",
    "pandas": "pandas",
    "pyarrow": "pyarrow",
    "hydra-core": "hydra",
}
"""Package -> the module that it installs."""

_NVIDIA = Path("/proc/driver/nvidia/version")
T = TypeVar("T")


def environment(device: torch.device) -> dict[str, Any]:
    """Return the provenance columns of the ``trials`` table, but for those that follow from these.

    Args:
        device: the device that a trial runs on.
    """
    commit, dirty = _told(git_state) or (None, None)
    is_cuda, cpu = device.type == "cuda", _told(cpu_model)
    return {
        "device_model": _told(functools.partial(gpu_model, device)) if is_cuda else cpu,
        "gpu_driver": _told(gpu_driver) if is_cuda else None,
        "cpu_model": cpu,
        "platform": _told(platform.platform),
        "python_version": _told(platform.python_version),
        "package_versions": package_versions(),
        "git_commit": commit,
        "git_dirty": dirty,
    }


def _told(ask: Callable[[], T]) -> T | None:
    """Return what a source says; None if it fails, because no trial is to fail for want of its provenance."""
    try:
        return ask()
    except TimeBudgetError:
        raise
    except Exception:  # noqa: BLE001 - files, drivers and other packages' metadata may be broken in any way
        return None


@functools.cache
def package_versions() -> tuple[tuple[str, str], ...]:
    """Return each package that matters with its version, as far as it is known; torch's is always there."""
    # an editable install keeps the metadata of the day it was made, so our own version is the running code's
    versions = {"initbench": __version__, "torch": str(torch.__version__)}
    for package, module in _MODULES.items():
        if version := _version(package, module):
            versions[package] = version
    versions["cuda"] = torch.version.cuda or "none"
    if torch.version.hip:
        versions["hip"] = torch.version.hip
    return tuple(versions.items())


def _version(package: str, module: str) -> str | None:
    """The version by the package's metadata, unless the module that is imported says another one.

    The metadata may be another copy's, for it is the first of that name on the path. A local part such as ``+cu128``
    makes no other version: whether the module is imported yet depends on the command.
    """
    imported = getattr(sys.modules.get(module), "__version__", None)
    listed = _told(functools.partial(importlib.metadata.version, package))
    if not isinstance(imported, str):
        return listed
    return listed if listed and listed.partition("+")[0] == imported.partition("+")[0] else imported


def gpu_model(device: torch.device) -> str | None:
    """The GPU's name, with the slice if it is one; on an AMD GPU with its architecture, as the name may be blank."""
    name = torch.cuda.get_device_name(device)
    if torch.version.hip:
        name = f"{name} {torch.cuda.get_device_properties(device).gcnArchName.partition(':')[0]}"
    return name.strip() or None


@functools.cache
def gpu_driver() -> str | None:
    """Version of the NVIDIA driver: by its library, or by its kernel module where a container lacks the library."""
    if torch.version.hip:
        return None
    version = _told(_driver_by_nvml)
    if version is None and _NVIDIA.exists():
        found = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)\s", _NVIDIA.read_text(encoding="utf-8", errors="replace"))
        version = found[1] if found else None
    return version


def _driver_by_nvml() -> str:
    import pynvml

    pynvml.nvmlInit()
    version = pynvml.nvmlSystemGetDriverVersion()
    # releases before 12 give bytes
    return version.decode() if isinstance(version, bytes) else str(version)
