"""The clocks of bench_conv2d.py, all on the GPU, and what the GPU can do at best.

cold     one call, launched as a program launches it, after the L2 cache was overwritten. The overwriting is
         queued until it outlasts the launching, so that the time is the device's: from event to event. What the
         call writes may stay in the cache: of small results a share above 100% of the memory floor is possible
graph    a CUDA graph of several calls, replayed: no launching, inputs in the L2 cache where they fit
host     what the processor takes to launch one call; where this is longer than the device's time, it is the time
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from bench_conv2d_cells import MeasuredCeilings, Work

CLOCKS = ("cold", "graph")
_WARM_UPS = 2
_LEAST_GRAPH_US, _MOST_REPEATS = 200.0, 20
_HOST_CALLS, _LEAST_HOST_CALLS, _HOST_LIMIT_S = 10, 3, 0.1
_COPY_BYTES = 2**30
_MATMUL_SIZE = {"ieee": 4096, "tf32": 8192, "bf16": 8192}
_CEILING_ROUNDS = 10

Sample = Callable[[], float]
"""Microseconds of one call."""


@dataclass
class ArmTimes:
    """How long the calls of one arm took.

    Attributes:
        us: clock -> microseconds of each round.
        host_us: to launch a call, the median of several; None: not measured.
        without: clock -> why it is not there.
    """

    us: dict[str, list[float]] = field(default_factory=dict)
    host_us: float | None = None
    without: dict[str, str] = field(default_factory=dict)


def interleaved(
    samples: Mapping[tuple[str, str], Sample], *, rounds: int, least: int, limit_s: float, now: Callable[[], float]
) -> dict[tuple[str, str], list[float]]:
    """Sample all in turn, again and again; the order turns from round to round.

    Args:
        samples: (arm, clock) -> its sample.
        rounds: how often.
        least: rounds that are made even if time is up.
        limit_s: no further round is begun after so many seconds.
        now: the clock that this goes by.
    """
    taken: dict[tuple[str, str], list[float]] = {name: [] for name in samples}
    names, begun_s = list(samples), now()
    for index in range(rounds):
        if index >= least and now() - begun_s > limit_s:
            break
        turn = index % max(1, len(names))
        for name in names[turn:] + names[:turn]:
            taken[name].append(samples[name]())
    return taken


@contextlib.contextmanager
def products(precision: str, *, benchmark: bool) -> Iterator[None]:
    """Within, torch multiplies float32 numbers so.

    Args:
        precision: tf32, or another for none of it.
        benchmark: whether cuDNN tries its algorithms on each new shape and takes the fastest.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    matmul.allow_tf32 = cudnn.allow_tf32 = precision == "tf32"
    cudnn.benchmark = benchmark
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before


class GpuClock:
    """The clocks of a GPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        cache_bytes = torch.cuda.get_device_properties(device).L2_cache_size
        self._flush = torch.empty(max(4 * cache_bytes, 2**28), dtype=torch.uint8, device=device)
        # the first ones load the kernel: taken for slow, too few would be queued to outlast a launch
        self._flush_us = self._fastest_us(self._flush.zero_)

    def times(self, works: Mapping[str, Work], *, rounds: int, least: int, limit_s: float) -> dict[str, ArmTimes]:
        """Both clocks of each work, interleaved. A work that a graph cannot hold is timed cold alone."""
        arm_times = {name: ArmTimes() for name in works}
        samples: dict[tuple[str, str], Sample] = {}
        # one pool for all graphs: results are dropped, so the next may write over them
        pool = torch.cuda.graph_pool_handle()
        for name, work in works.items():
            self._warm_up(work)
            arm_times[name].host_us = self._host_us(work)
            samples[name, "cold"] = self._cold(work, arm_times[name].host_us or 0.0)
            try:
                samples[name, "graph"] = self._graph(work, samples[name, "cold"](), pool)
            except RuntimeError as error:
                arm_times[name].without["graph"] = _first_cause(error)
                # raises if it was the device that failed, not the capture
                torch.cuda.synchronize(self.device)
                # what a failed capture leaves of its pool takes no further one
                pool = torch.cuda.graph_pool_handle()
        # capturing gave unused memory back: ask for it again before the clock starts
        for sample in samples.values():
            sample()
        taken = interleaved(samples, rounds=rounds, least=least, limit_s=limit_s, now=time.perf_counter)
        for (name, clock), us in taken.items():
            arm_times[name].us[clock] = us
        return arm_times

    def _elapsed_us(self, call: Callable[[], object]) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        call()
        end.record()
        end.synchronize()
        return 1e3 * float(start.elapsed_time(end))

    def _warm_up(self, work: Work) -> None:
        """On a stream of its own, as capturing wants it: compiles, chooses algorithms, allocates."""
        stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                work()
        torch.cuda.current_stream(self.device).wait_stream(stream)
        # on its own stream it has memory of its own, as each stream has
        work()
        torch.cuda.synchronize(self.device)

    def _host_us(self, work: Work) -> float:
        """The median of a few calls, each begun with an idle device, so that no full queue holds it up."""
        calls_us: list[float] = []
        until_s = time.perf_counter() + _HOST_LIMIT_S
        while len(calls_us) < _HOST_CALLS and (len(calls_us) < _LEAST_HOST_CALLS or time.perf_counter() < until_s):
            torch.cuda.synchronize(self.device)
            begun_s = time.perf_counter()
            work()
            calls_us.append(1e6 * (time.perf_counter() - begun_s))
        torch.cuda.synchronize(self.device)
        return sorted(calls_us)[len(calls_us) // 2]

    def _cold(self, work: Work, host_us: float) -> Sample:
        flushes = max(1, math.ceil(2 * host_us / self._flush_us))

        def sample() -> float:
            for _ in range(flushes):
                self._flush.zero_()
            return self._elapsed_us(work)

        return sample

    def _graph(self, work: Work, about_us: float, pool: Any) -> Sample:  # noqa: ANN401 - opaque
        repeats = min(_MOST_REPEATS, max(1, math.ceil(_LEAST_GRAPH_US / about_us)))
        graph = torch.cuda.CUDAGraph()
        # the outer context: torch's own leaves its stream current where ending the capture raises
        with torch.cuda.stream(torch.cuda.current_stream(self.device)), torch.cuda.graph(graph, pool=pool):
            for _ in range(repeats):
                work()
        graph.replay()
        torch.cuda.synchronize(self.device)
        return lambda: self._elapsed_us(graph.replay) / repeats

    def ceilings(self) -> MeasuredCeilings:
        """The fastest of several large copies and matrix products."""
        source = torch.ones(_COPY_BYTES, dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        copy_us = self._fastest_us(lambda: target.copy_(source))
        return MeasuredCeilings(2e6 * _COPY_BYTES / copy_us, {name: self._matmul_rate(name) for name in _MATMUL_SIZE})

    def _matmul_rate(self, precision: str) -> float:
        size = _MATMUL_SIZE[precision]
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        # random numbers, for a GPU multiplies constants faster than data
        left = torch.randn(size, size, device=self.device).to(dtype)
        product = torch.empty_like(left)
        with products(precision, benchmark=False):
            return 2e6 * size**3 / self._fastest_us(lambda: torch.mm(left, left, out=product))

    def _fastest_us(self, call: Callable[[], object]) -> float:
        return min(self._elapsed_us(call) for _ in range(_CEILING_ROUNDS))


def _first_cause(error: BaseException) -> str:
    """In a line. Ending a capture that was broken raises an error of its own, on top of the one that broke it."""
    while isinstance(error.__context__, RuntimeError):
        error = error.__context__
    return (str(error).splitlines() or [type(error).__name__])[0]


class NoClock:
    """The clock of a dry run, which measures nothing."""

    def times(self, works: Mapping[str, Work], *, rounds: int, least: int, limit_s: float) -> dict[str, ArmTimes]:
        """Nothing, for each; the gate has run them."""
        del rounds, least, limit_s
        return {name: ArmTimes() for name in works}

    def ceilings(self) -> MeasuredCeilings | None:
        """Unknown."""
        return None
