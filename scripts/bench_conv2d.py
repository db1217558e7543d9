"""How fast the Triton convolutions are on a GPU, against cuDNN, torch.compile, vmap and loops.

Usage: python scripts/bench_conv2d.py [--quick] [--output FILE] [--minutes M]
       python scripts/bench_conv2d.py --compare-clocks                 (its clocks against those of triton.testing)
       TRITON_INTERPRET=1 python scripts/bench_conv2d.py --dry-run     (without a GPU: all but the clocks)

Each layer of the article's network x batch 50, 256, 1024, 8192 x ieee, tf32, bf16 x forward, both gradients, the whole
block forward and backward, and 8 and 64 stacked models; none is begun after --minutes. No speed is given for results
that are wrong (bench_conv2d_gate.py). Two clocks, both the device's (bench_conv2d_clock.py): ``cold``, after the L2
cache was overwritten, and ``graph``, a replayed CUDA graph. Floors are of the copy and matmul rates measured in the
same run.
Exit code: 0 all right and no aim missed, 1 a result is wrong or an aim is missed, 2 no GPU, or a wrong command.
"""

import argparse
import dataclasses
import gc
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from harness.arguments import file_to_write, one_line_errors, script_parser
from harness.errors import UsageError

if TYPE_CHECKING:
    # they import Triton, which is there for Linux only: looked for once it is known that there is a GPU
    from bench_conv2d_arms import ConvolutionArm
    from bench_conv2d_cells import BenchmarkCell, MeasuredCeilings
    from bench_conv2d_clock import GpuClock, NoClock
    from bench_conv2d_report import CellResult

BATCHES, STACKS, PRECISIONS = (50, 256, 1024, 8192), (8, 64), ("ieee", "tf32", "bf16")
_LEAST_ROUNDS = 3
_NO_ROOM, _FAILED = "would not fit into the memory", "the device failed"


@dataclass(frozen=True)
class BenchmarkPlan:
    """What to measure, and how long for.

    Attributes:
        rounds: at most, of each cell.
        cell_s: after so many seconds of rounds a cell begins no further one.
        backend: of torch.compile.
    """

    batches: Sequence[int]
    stacks: Sequence[int]
    precisions: Sequence[str]
    rounds: int
    cell_s: float
    backend: str = "inductor"


FULL = BenchmarkPlan(BATCHES, STACKS, PRECISIONS, rounds=25, cell_s=1.0)
QUICK = BenchmarkPlan((50, 1024), (8,), ("tf32",), rounds=5, cell_s=0.5)
# compiling for the processor would take minutes, and its speed is not asked for
DRY = BenchmarkPlan((2,), (2,), PRECISIONS, rounds=0, cell_s=0.0, backend="aot_eager")
PLANS = {
    (False, False): FULL,
    (False, True): QUICK,
    (True, False): DRY,
    (True, True): dataclasses.replace(DRY, precisions=QUICK.precisions),
}
"""(whether a dry run, whether quick) -> what is measured."""


@dataclass(frozen=True)
class BenchmarkRun:
    """What all cells share."""

    device: torch.device
    clock: "GpuClock | NoClock"
    plan: BenchmarkPlan


def measure(run: BenchmarkRun, cell: "BenchmarkCell") -> "CellResult":
    """Gate, then clocks, of one cell."""
    from bench_conv2d_clock import products
    from bench_conv2d_report import CellResult

    with products(cell.precision, benchmark=True):
        arms, faults = gated(cell, run)
        plan, works = run.plan, {name: arm.work for name, arm in arms.items()}
        times = run.clock.times(works, rounds=plan.rounds, least=_LEAST_ROUNDS, limit_s=plan.cell_s)
    return CellResult(cell, times, faults)


def gated(cell: "BenchmarkCell", run: BenchmarkRun) -> "tuple[dict[str, ConvolutionArm], dict[str, str]]":
    """The arms that are right, and what is wrong with the others."""
    import bench_conv2d_arms as ways
    import bench_conv2d_gate as gate

    tensors = gate.random_inputs(cell, run.device, whole_numbers=True)
    taken, wanted = gate.exact(cell, tensors)
    wrong = {
        name: gate.fault(partial(gate.exactness_fault, cell, arm, taken, wanted))
        for name, arm in ways.ours(cell, tensors).items()
    }
    tensors = gate.random_inputs(cell, run.device, whole_numbers=False)
    taken, wanted = gate.exact(cell, tensors)
    ours, others = ways.ours(cell, tensors), ways.others(cell, tensors, backend=run.plan.backend)
    arms = ours | others
    for name, arm in arms.items():
        check = partial(gate.rounding_fault, cell, arm, taken, wanted, is_ours=name in ours)
        wrong[name] = wrong.get(name) or gate.fault(check)
    faults = {name: fault for name, fault in wrong.items() if fault is not None}
    return {name: arm for name, arm in arms.items() if name not in faults}, faults


def compare_clocks(run: BenchmarkRun, wanted: "Sequence[BenchmarkCell]") -> str:
    """Time the right arms of these cells by our clocks and by Triton's; the table."""
    import bench_conv2d_triton
    from bench_conv2d_clock import products

    rows = []
    for cell in wanted:
        with products(cell.precision, benchmark=True):
            works = {name: arm.work for name, arm in gated(cell, run)[0].items()}
            times = run.clock.times(works, rounds=FULL.rounds, least=_LEAST_ROUNDS, limit_s=FULL.cell_s)
            rows += bench_conv2d_triton.compared(str(cell), works, times)
        release(run.device)
    return bench_conv2d_triton.summary(rows)


def measure_all(
    wanted: "Sequence[BenchmarkCell]",
    run: BenchmarkRun,
    *,
    until_s: float,
    memory_bytes: float,
    now: Callable[[], float],
) -> "tuple[list[CellResult], dict[str, list[BenchmarkCell]]]":
    """Every cell that fits into the memory, until time is up or the device fails; and what was left out, by reason."""
    from bench_conv2d_cells import fits

    results, left_out = [], dict[str, "list[BenchmarkCell]"]()
    for index, cell in enumerate(wanted, start=1):
        if now() > until_s:
            left_out.setdefault("no time left", []).append(cell)
        elif not fits(cell, memory_bytes):
            left_out.setdefault(_NO_ROOM, []).append(cell)
        else:
            if sys.stderr.isatty():
                print(f"\033[K{index} of {len(wanted)}: {cell}", end="\r", file=sys.stderr, flush=True)
            try:
                results.append(measure(run, cell))
            except torch.OutOfMemoryError:
                left_out.setdefault("did not fit into the memory", []).append(cell)
            except torch.AcceleratorError as error:
                left_out[f"{_FAILED}: {str(error).splitlines()[0]}"] = list(wanted[index - 1 :])
                break
            release(run.device)
    return results, left_out


def release(device: torch.device) -> None:
    """Drop what the last cell compiled and allocated: torch.compile allows a function few versions."""
    torch.compiler.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def about(run: BenchmarkRun, ceilings: "MeasuredCeilings | None") -> dict[str, str]:
    """Card, versions and ceilings: the header, and the Parquet file's footer."""
    import triton

    from harness.provenance import environment as environment_of

    environment = environment_of(run.device)
    lines = {
        "device": str(environment["device_model"] or "unknown"),
        "driver": str(environment["gpu_driver"] or "none"),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cuda": torch.version.cuda or "none",
        "cudnn": str(torch.backends.cudnn.version() or "none"),  # type: ignore[no-untyped-call]
        "commit": str(environment["git_commit"] or "unknown") + (" and changes" if environment["git_dirty"] else ""),
    }
    if ceilings is not None:
        lines["n"] = f"{_LEAST_ROUNDS} to {run.plan.rounds} interleaved rounds, in the table; medians (quartiles)"
        rates = ", ".join(f"{name} {rate / 1e12:.1f}" for name, rate in ceilings.flops_per_s.items())
        lines["ceilings"] = f"copy {ceilings.bytes_per_s / 1e12:.2f} TB/s; matmul TFLOP/s: {rates}"
    return lines


def tell(
    results: "Sequence[CellResult]",
    left_out: "Mapping[str, Sequence[BenchmarkCell]]",
    ceilings: "MeasuredCeilings | None",
) -> bool:
    """Print the summary, what is wrong, what was left out, and the aims; whether all is well."""
    from bench_conv2d_cells import cells, has_aim
    from bench_conv2d_report import aims, summary

    print(summary(results, ceilings))
    for reason, missing in left_out.items():
        print(f"\nleft out, {reason}: " + "; ".join(map(str, missing)))
    for result in results:
        for arm, times in result.times.items():
            for clock, reason in times.without.items():
                print(f"\nleft out, no {clock} time: {result.cell}, {arm}: {reason}")
    print("\ntorch.compile: in blocks only, NCHW; of one convolution or gradient it calls cuDNN as torch does\n")
    # the largest stacks fit into no memory, and no aim is about them alone
    no_room = [cell for cell in left_out.get(_NO_ROOM, ()) if not has_aim(cell)]
    expected = [cell for cell in cells(BATCHES, STACKS, PRECISIONS) if cell not in no_room]
    reached = aims(results, ceilings, expected)
    for aim in reached:
        print(f"aim: {aim.name}: {aim.outcome}: { {True: 'met', False: 'NOT MET', None: 'not measured'}[aim.met] }")
    faults = [f"{result.cell}, {arm}: {fault}" for result in results for arm, fault in result.faults.items()]
    for fault in faults:
        print(f"wrong result, no speed: {fault}", file=sys.stderr)
    has_failed = any(reason.startswith(_FAILED) for reason in left_out)
    return not (faults or has_failed) and all(aim.met is not False for aim in reached)


def refusal(options: argparse.Namespace) -> str | None:
    """Why this cannot run here, or None."""
    import importlib.util

    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed; it is there for Linux only: pip install triton"
    from kernels import triton_kernels

    if options.dry_run and options.compare_clocks:
        return "--compare-clocks: --dry-run has no clocks; leave one of the two out"
    if options.dry_run and not triton_kernels.INTERPRETED:
        return "--dry-run runs the kernels on the processor: set TRITON_INTERPRET=1 before Python starts"
    if not options.dry_run and triton_kernels.INTERPRETED:
        return "TRITON_INTERPRET is set, and an interpreted kernel has no speed; unset it, or add --dry-run"
    if not options.dry_run and not torch.cuda.is_available():
        return "no GPU that torch can use; TRITON_INTERPRET=1 with --dry-run runs all but the clocks without one"
    return None


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = script_parser("bench_conv2d", __doc__)
    parser.add_argument("--quick", action="store_true", help="batch 50 and 1024, tf32, 8 models, 5 rounds: a minute")
    parser.add_argument("--compare-clocks", action="store_true", help="the cells of --quick by our clocks and Triton's")
    parser.add_argument("--dry-run", action="store_true", help="gates on the processor at batch 2, no times")
    parser.add_argument("--output", type=file_to_write, metavar="FILE", help="a row for each arm and clock, as Parquet")
    parser.add_argument("--minutes", type=float, default=7.0, help="begin no cell after so long (default: 7)")
    options = parser.parse_args(arguments)
    if not options.minutes > 0:
        parser.error(f"--minutes {options.minutes:g}: give a number above 0")
    return options


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write, tell; returns the exit code."""
    begun_s = time.perf_counter()
    options = parse(arguments)
    if (reason := refusal(options)) is not None:
        raise UsageError(reason)
    from bench_conv2d_cells import cells
    from bench_conv2d_clock import GpuClock, NoClock
    from bench_conv2d_report import write

    plan = PLANS[options.dry_run, options.quick]
    device = torch.device("cpu" if options.dry_run else "cuda")
    run = BenchmarkRun(device, NoClock() if options.dry_run else GpuClock(device), plan)
    memory_bytes = float("inf") if options.dry_run else torch.cuda.mem_get_info(device)[0]
    ceilings = run.clock.ceilings()
    if options.dry_run:
        print("DRY RUN on the processor: it shows that every arm is right and this script works, and nothing of speed")
    lines = about(run, ceilings)
    print("\n".join(f"{name}: {value}" for name, value in lines.items()) + "\n", flush=True)
    if options.compare_clocks:
        print(compare_clocks(run, cells(QUICK.batches, QUICK.stacks, QUICK.precisions)))
        return 0
    wanted = cells(plan.batches, plan.stacks, plan.precisions)
    until_s = begun_s + 60 * options.minutes
    results, left_out = measure_all(wanted, run, until_s=until_s, memory_bytes=memory_bytes, now=time.perf_counter)
    is_well = tell(results, left_out, ceilings)
    if options.output is not None:
        write(options.output, results, ceilings, lines)
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())
