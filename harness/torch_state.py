"""PyTorch's settings that hold for a whole process or thread, set for a trial and put back as they were.

A trial may run inside another program, a notebook say, with settings of its own. None of them may change what the trial
computes, and the trial may change none of them.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import backends

from harness import device
from harness.config import DeviceConfig
from harness.looking import own_randomness

Setting = tuple[Callable[[], Any], Callable[[Any], Any], Any]
"""How a setting is read, how it is set, and its value for a trial."""

ONE_AT_A_TIME = threading.RLock()
"""Held by whoever measures: settings are those of the process, and so is its speed."""

# cuBLAS is deterministic only with a workspace of fixed size, read when it starts
_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@contextmanager
def set_for(config: DeviceConfig) -> Iterator[None]:
    """Set threads, precision and determinism for the block, as the config and nothing of the program around says.

    The settings are those of the process, so one block runs at a time: a second thread waits for the first. Code within
    the block must not wait for another thread's block.
    """
    with ONE_AT_A_TIME, ExitStack() as after:
        if _WORKSPACE not in os.environ:
            os.environ[_WORKSPACE] = ":4096:8"
            after.callback(os.environ.pop, _WORKSPACE, None)
        settings = [*_precisions(config), *_of_process(config), *_of_thread()]
        after.callback(_put, [(put, _read(read)) for read, put, _ in settings])
        # training seeds the generators that dropout draws from
        after.enter_context(own_randomness())
        _put([(put, value) for _, put, value in settings])
        after.enter_context(torch.inference_mode(mode=False))
        after.enter_context(torch.enable_grad())
        if config.name == "cuda" and torch.cuda.is_available():
            # streams and graphs are made on the current device
            after.enter_context(torch.cuda.device(config.index))
        if torch.get_default_device().type != "cpu":
            # a default device works through the mode that this disables; entered only then, because it takes time
            after.enter_context(torch._C.DisableTorchFunction())  # noqa: SLF001 - documented in torch's notes
        yield


def _read(read: Callable[[], Any]) -> Any:  # noqa: ANN401 - settings are of many types
    """The value of a setting; None where a program has set it by both of PyTorch's ways, which it then cannot say."""
    with suppress(RuntimeError):
        return read()
    return None


def _put(values: list[tuple[Callable[[Any], Any], Any]]) -> None:
    for put, value in values:
        if value is not None:
            put(value)


def _precisions(config: DeviceConfig) -> Iterator[Setting]:
    """How float32 products may be rounded. PyTorch has an old and a new way to say it, and either may be asked later.

    The old ones come first, because they also set some of the new ones.
    """
    yield (
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
        "high" if config.tf32 else "highest",
    )
    yield _attribute(backends.cudnn, "allow_tf32", value=config.tf32)
    for place in (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn):  # type: ignore[attr-defined]
        yield _precision(place, "tf32" if config.tf32 else "ieee")
    for place in (backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn):  # type: ignore[attr-defined]
        yield _precision(place, "ieee")


def _precision(place: Any, value: str) -> Setting:  # noqa: ANN401 - PyTorch's modules of settings
    """A precision in PyTorch's new way, in which a place without one of its own inherits it.

    What is read is the inherited one. So a place that has it is taken to inherit it, and is put back to do so.
    """

    def own() -> Any:  # noqa: ANN401 - text
        inherited = backends.fp32_precision  # type: ignore[attr-defined]
        return "none" if place.fp32_precision == inherited else place.fp32_precision

    return own, partial(setattr, place, "fp32_precision"), value


def _of_process(config: DeviceConfig) -> Iterator[Setting]:
    yield torch.get_num_threads, torch.set_num_threads, device.threads(config)
    yield torch.get_default_dtype, torch.set_default_dtype, torch.float32
    yield _attribute(backends.cudnn, "enabled", value=True)
    yield _attribute(backends.cudnn, "benchmark", value=not config.deterministic)
    yield _attribute(backends.cudnn, "deterministic", value=config.deterministic)
    yield torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode, 1 if config.deterministic else 0
    # else deterministic mode fills each new tensor with NaN first, which would be timed as training
    yield _attribute(torch.utils.deterministic, "fill_uninitialized_memory", value=False)


def _of_thread() -> Iterator[Setting]:
    for kind in ("cpu", "cuda"):
        yield partial(torch.is_autocast_enabled, kind), partial(torch.set_autocast_enabled, kind), False
    # it looks for NaN behind every operation, which would be timed as training
    yield torch.is_anomaly_enabled, partial(torch.autograd.set_detect_anomaly, check_nan=True), False


def _attribute(place: Any, name: str, value: Any) -> Setting:  # noqa: ANN401 - PyTorch's modules of settings
    return partial(getattr, place, name), partial(setattr, place, name), value
