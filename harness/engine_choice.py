"""What ``engine=`` and ``train.autocast`` mean for a trial, and what they need."""

import importlib.util
import os
import shutil
import sys

import torch

from harness.bounds import refusal
from harness.config import EngineConfig, TrialConfig

_DTYPES = {"none": None, "bfloat16": torch.bfloat16}


def resolved(config: EngineConfig, target: torch.device) -> EngineConfig:
    """Return what the choice stands for on a device: ``auto`` is graph with a fallback, and that is eager on a CPU."""
    planned = EngineConfig("graph", fallback=True) if config.name == "auto" else config
    return EngineConfig("eager") if planned.fallback and target.type == "cpu" else planned


def autocast(config: TrialConfig) -> torch.dtype | None:
    """Return the type that training steps compute in; None: float32."""
    return _DTYPES[config.train.autocast]


def check(config: TrialConfig, target: torch.device) -> None:
    """Check that the device can run the engine and compute in the type of ``train.autocast``.

    Raises:
        UsageError: what was given, what is wrong with it and what to do.
    """
    if config.train.autocast == "bfloat16" and target.type == "cuda" and not torch.cuda.is_bf16_supported():
        name = torch.cuda.get_device_name(target)
        raise refusal("train.autocast", "bfloat16", f"{name} does not compute in it", "set train.autocast=none")
    engine = config.engine.name
    if engine == "graph" and target.type == "cpu" and not config.engine.fallback:
        problem = "it captures CUDA graphs, and this is device=cpu"
        raise refusal("engine", engine, problem, "use engine=auto, engine=eager or engine=compiled, or device=cuda")
    if engine == "compiled" and target.type == "cpu" and (compiler := _missing_compiler()):
        problem = f"torch.compile needs a C++ compiler, and {compiler} is not there"
        raise refusal("engine", engine, problem, "install one (such as g++), set CXX to yours, or use engine=eager")
    if engine == "compiled" and target.type == "cuda" and importlib.util.find_spec("triton") is None:
        problem = "torch.compile needs the package triton on a GPU"
        raise refusal("engine", engine, problem, "install triton (Linux only) or use engine=graph or engine=eager")


def _missing_compiler() -> str | None:
    """The C++ compiler that torch.compile would call, if it is not there."""
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    return None if shutil.which(compiler) else compiler
