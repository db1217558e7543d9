"""Clocks that wait for the device at both ends, warm-up on a copy, quartiles, throughput, the machine's matmul rate."""

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from harness.device import synchronise
from harness.looking import own_randomness
from harness.random_streams import generator

_MATMUL_SIZE = {"cpu": 1024, "cuda": 4096}
_MATMUL_REPEATS = 5


@dataclass
class Stopwatch:
    """Adds up the wall-clock seconds spent inside ``with`` blocks; waits for the device at both ends of each.

    Attributes:
        laps_s: seconds of each block.
    """

    device: torch.device
    laps_s: list[float] = field(default_factory=list)
    _started_s: float = 0.0

    @property
    def total_s(self) -> float:
        """Seconds of all blocks so far."""
        return sum(self.laps_s)

    def __enter__(self) -> Self:
        synchronise(self.device)
        self._started_s = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # after an error the device may not answer any more, and waiting for it would hide the first error
        if error is None:
            synchronise(self.device)
        self.laps_s.append(time.perf_counter() - self._started_s)


@dataclass(frozen=True)
class Quartiles:
    """25%, 50% and 75% points."""

    q25: float
    median: float
    q75: float


def quartiles(values: Sequence[float]) -> Quartiles | None:
    """Quartiles with linear interpolation (numpy's default); None without values."""
    if not values:
        return None
    if len(values) == 1:
        return Quartiles(values[0], values[0], values[0])
    q25, median, q75 = statistics.quantiles(values, n=4, method="inclusive")
    return Quartiles(q25, median, q75)


def throughput(
    images_per_s: Sequence[float], *, batch_size: int, train_flops_per_image: int, matmul_flops_per_s: float
) -> dict[str, Any]:
    """Return the columns of ``trials`` that say how fast training was.

    Args:
        images_per_s: the rate of each timing window; without any only their number is known.
        batch_size: images of a step.
        train_flops_per_image: of a training step.
        matmul_flops_per_s: what the same machine reaches in :func:`matmul_flops_per_s`.
    """
    rates = quartiles(images_per_s)
    if rates is None:
        return {"timing_windows": 0}
    achieved = train_flops_per_image * rates.median
    return {
        "images_per_s_median": rates.median,
        "images_per_s_q25": rates.q25,
        "images_per_s_q75": rates.q75,
        "step_ms_median": 1000 * batch_size / rates.median,
        "timing_windows": len(images_per_s),
        "achieved_flops_per_s": achieved,
        "matmul_share": achieved / matmul_flops_per_s,
    }


def warm_up(network: nn.Module, run: Callable[[nn.Module], None]) -> None:
    """Let ``run`` train a copy of the network, then drop it.

    The network, its gradients, its buffers and the shared random generators stay untouched.

    What a first step does besides its work (compiling, choosing algorithms, allocating) then happens off the training
    clock.
    """
    with own_randomness():
        run(copy.deepcopy(network))


def matmul_flops_per_s(device: torch.device) -> float:
    """Measured float32 matmul rate: the fastest of 5 products of square matrices (1,024 on a CPU, 4,096 on CUDA).

    Threads and TF32 are as set for the trial, so a trial's own rate can be set against it.
    """
    size = _MATMUL_SIZE[device.type]
    # random numbers, for a GPU multiplies constants faster than data
    left = torch.rand(size, size, generator=generator(0, "matmul")).to(device)
    product = left @ left
    watch = Stopwatch(device)
    for _ in range(_MATMUL_REPEATS):
        with watch:
            torch.mm(left, left, out=product)
    return float(2 * size**3 / min(watch.laps_s))
