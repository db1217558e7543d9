"""What sweeps cost: CPU and memory a trial, a large sweep's start, workers, stacks, a folder of 100,000 trials.

Usage: python scripts/bench_sweep.py [--quick] [--only PART] [--trials N]     (half an hour on two cores)

Everything is run by the command line, on one CPU thread a trial unless said. Linux counts CPU seconds and memory. The
harness's own CPU seconds of a trial are those of the sweep's parent and worker over many trials, less the seconds that
training, evaluation and diagnosis of such a trial take by the row's own clocks. Those clocks count wall seconds, so
for this figure a process of its own runs the same trial with CPU seconds on them.
Exit code 0: every requirement is met, 1: not.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import sweep_folder
from figures import BenchmarkFigure, report
from process_costs import Cost, cost_of, cpu_s_of_all, memory_bytes, running_sweep

import harness
from harness.arguments import one_line_errors, positive, script_parser
from harness.cores import usable_cores
from harness.processor import cpu_model

MOST_OWN_CPU_S, MOST_GROWTH, MOST_PARENT_BYTES, MOST_START_CPU_S = 0.3, 1.2, 20_000, 5.0
LEAST_SHARE, MOST_FILES, MOST_READ_S, MOST_READ_GB = 0.9, 1_000, 30.0, 3.0
LARGE_SWEEP = 10_000
MILLION = 1_000_000
_ONE_THREAD = ("device=cpu", "device.threads=1")
TINY = (*_ONE_THREAD, "model=mlp", "train.steps=2")


@dataclass(frozen=True)
class SweepWorkload:
    """How much is run and made.

    Attributes:
        trials: of the sweep whose cost a trial is measured.
        window: trials over which the cost is averaged, at its begin and at its end.
        clocked: trials by which training, evaluation and diagnosis are measured.
        rounds: of the comparisons of workers and of stacks.
        steps: of their trials.
        stack: trials that share a launch in the comparison of stacks.
        made: trials in the made folder.
    """

    trials: int
    window: int
    clocked: int
    rounds: int
    steps: int
    stack: int
    made: int


FULL = SweepWorkload(trials=2_000, window=100, clocked=20, rounds=4, steps=200, stack=16, made=100_000)
QUICK = SweepWorkload(trials=8, window=2, clocked=2, rounds=1, steps=4, stack=2, made=100)


def spread(values: Sequence[float], *, digits: int) -> str:
    """Median and range."""
    return f"{median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def clocked_cpu_s(trials: int) -> float:
    """CPU seconds of training, evaluation and diagnosis, median of such trials after the first of this process."""
    time.perf_counter = time.process_time
    taken_s: list[float] = []
    with tempfile.TemporaryDirectory(prefix="initbench-") as folder:
        config = harness.load_config([*TINY, f"results.dir={folder}"])
        for _ in range(trials + 1):
            row = harness.run_trial(config).trial
            taken_s.append(row["train_time_s"] + row["eval_time_s"])
    return float(median(taken_s[1:]))


def trial_costs(effort: SweepWorkload, folder: Path) -> Iterator[BenchmarkFigure]:
    """CPU seconds a trial at the begin and at the end of a sweep, and how the parent grows."""
    inside = cost_of(__file__, "--inside", str(effort.clocked), folder=folder)
    clocked_s = float(json.loads(inside.printed.splitlines()[-1]))
    points: dict[int, tuple[float, int]] = {}
    at = [1, 1 + effort.window, effort.trials - effort.window, effort.trials - 1]
    with running_sweep(*TINY, f"seed=range(0,{effort.trials})", "results.dir=costs", folder=folder) as sweep:
        for count in at:
            sweep.wait_until(lambda count=count: sweep.ended >= count)  # type: ignore[misc]
            points[sweep.ended] = cpu_s_of_all(sweep.process.pid), memory_bytes(sweep.process.pid)
    counts = sorted(points)
    name = "CPU s a trial in training, evaluation and diagnosis"
    yield BenchmarkFigure(f"{name}, median of {effort.clocked}", f"{clocked_s:.3f}")
    own_s = []
    for first, last in ((counts[0], counts[1]), (counts[-2], counts[-1])):
        own_s.append((points[last][0] - points[first][0]) / (last - first) - clocked_s)
        met = own_s[-1] <= MOST_OWN_CPU_S
        name = f"CPU s a trial of the harness itself, trials {first + 1:,} to {last:,}"
        yield BenchmarkFigure(name, f"{own_s[-1]:.3f}", f"at most {MOST_OWN_CPU_S}", met)
    ratio = own_s[1] / own_s[0]
    yield BenchmarkFigure("the later to the earlier", f"{ratio:.2f}", f"at most {MOST_GROWTH}", ratio <= MOST_GROWTH)
    grown = (points[counts[-1]][1] - points[counts[1]][1]) / (counts[-1] - counts[1])
    name = f"memory of the parent, kB more a trial, trials {counts[1] + 1:,} to {counts[-1]:,}"
    most = f"under {MOST_PARENT_BYTES / 1000:g}"
    yield BenchmarkFigure(name, f"{grown / 1000:.1f}", most, grown < MOST_PARENT_BYTES)


def large_start(_effort: SweepWorkload, folder: Path) -> Iterator[BenchmarkFigure]:
    """CPU seconds until the first trial of a large sweep begins, and what was said until then."""
    before_s = sum(os.times()[2:4])
    cost_of("-c", "import torch", folder=folder)
    torch_s = sum(os.times()[2:4]) - before_s
    notes = folder / "large/.running"
    with running_sweep(*TINY, f"seed=range(0,{LARGE_SWEEP})", "results.dir=large", folder=folder) as sweep:
        sweep.wait_until(lambda: any(notes.glob("*.json")))
        taken_s = cpu_s_of_all(sweep.process.pid)
        said = [line.strip() for line in sweep.lines]
    own_s = taken_s - torch_s
    name = f"CPU s to the first trial of {LARGE_SWEEP:,}, beyond importing torch ({torch_s:.1f})"
    yield BenchmarkFigure(name, f"{own_s:.1f}", f"at most {MOST_START_CPU_S:g}", own_s <= MOST_START_CPU_S)
    tells = any(line.startswith(f"planned: {LARGE_SWEEP:,} trials") for line in said)
    yield BenchmarkFigure("what is printed before it", " / ".join(said) or "nothing", "what is planned", tells)


def images_per_s(folder: Path, name: str, workers: int, threads: int, steps: int) -> float:
    """Images/s in all of so many trials side by side, of so many threads each: the sum of their medians."""
    choices = ("device=cpu", f"device.threads={threads}", f"train.steps={steps}", f"train.eval_every={steps}")
    seeds = ",".join(str(seed) for seed in range(workers))
    command = ("-m", "harness.run", "-m", f"seed={seeds}", f"sweep.workers={workers}", *choices)
    cost_of(*command, f"results.dir={name}", folder=folder)
    trials = harness.load(folder / name).trials
    assert set(trials["simultaneous_trials"]) == {workers}
    return float(trials["images_per_s_median"].sum())


def workers_speed(effort: SweepWorkload, folder: Path) -> Iterator[BenchmarkFigure]:
    """One trial on all cores and one on a single core against a trial on each core, in rounds that turn."""
    cores = len(usable_cores())
    if cores == 1:
        yield BenchmarkFigure("workers side by side", "not measured: one core")
        return
    whole, alone, each = (1, cores), (1, 1), (cores, 1)
    rates: dict[tuple[int, int], list[float]] = {whole: [], alone: [], each: []}
    for number in range(effort.rounds):
        for workers, threads in list(rates)[:: 1 if number % 2 else -1]:
            name = f"round-{number}-{workers}-{threads}"
            rates[workers, threads].append(images_per_s(folder, name, workers, threads, effort.steps))
    what = f"images/s of the article's network, batch 50, n = {effort.rounds} rounds"
    for (workers, threads), own in rates.items():
        yield BenchmarkFigure(f"{what}: {workers} at a time, threads of each: {threads}", spread(own, digits=0))
    gains = [many / one for one, many in zip(rates[whole], rates[each], strict=True)]
    # how well one trial uses several threads is the processor's affair
    yield BenchmarkFigure(f"{cores} trials of one thread to one of {cores} threads", spread(gains, digits=2))
    shares = [many / (cores * one) for one, many in zip(rates[alone], rates[each], strict=True)]
    met = median(shares) >= LEAST_SHARE
    name = f"{cores} trials of one thread to {cores} times one alone"
    yield BenchmarkFigure(name, spread(shares, digits=2), f"at least {LEAST_SHARE}", met)


def trials_per_h(folder: Path, name: str, effort: SweepWorkload, stack: str) -> float:
    """Trials an hour of a whole command that trains as many trials as a stack holds."""
    sizes = (f"train.steps={effort.steps}", f"train.eval_every={effort.steps}")
    seeds = f"seed=range(0,{effort.stack})"
    command = ("-m", "harness.run", "-m", *_ONE_THREAD, "model=mlp", *sizes, seeds, f"sweep.stack={stack}")
    cost = cost_of(*command, f"results.dir={name}", folder=folder)
    trials = harness.load(folder / name).trials
    assert set(trials["stacked_trials"]) == {1 if stack == "off" else effort.stack}
    return 3600 * len(trials) / cost.seconds


def stacked_speed(effort: SweepWorkload, folder: Path) -> Iterator[BenchmarkFigure]:
    """Trials alone against trials that share a launch, in rounds that turn; on a CPU none is required to be quicker."""
    rates: dict[str, list[float]] = {"off": [], str(effort.stack): []}
    for number in range(effort.rounds):
        for stack in list(rates)[:: 1 if number % 2 else -1]:
            rates[stack].append(trials_per_h(folder, f"stacks-{number}-{stack}", effort, stack))
    for stack, own in rates.items():
        name = f"trials an hour of the mlp, {effort.steps} steps, n = {effort.rounds} rounds: sweep.stack={stack}"
        yield BenchmarkFigure(name, spread(own, digits=0))
    gains = [many / one for one, many in zip(*rates.values(), strict=True)]
    yield BenchmarkFigure(f"stacks of {effort.stack} to trials alone", spread(gains, digits=2))


COMMANDS = {
    "harness.load": ("-c", "import sys, harness; harness.load(sys.argv[1])"),
    "validate": ("-m", "harness.results", "validate"),
    "report": ("-m", "harness.report"),
}


def stored(effort: SweepWorkload, folder: Path) -> Iterator[BenchmarkFigure]:
    """Files of a sweep of many trials, and what reading them takes; a million by a line through two sizes."""
    small, large = effort.made // 10, effort.made
    sweep_folder.make(folder / "small", small)
    files = sweep_folder.make(folder / "large", large)
    name = f"files a table of {large:,} trials, {sweep_folder.EVALUATIONS} evaluations each"
    yield BenchmarkFigure(name, f"{files:,}", f"at most {MOST_FILES:,}", files <= MOST_FILES)
    for name, command in COMMANDS.items():
        one, ten = (cost_of(*command, size, folder=folder) for size in ("small", "large"))
        met = ten.seconds < MOST_READ_S
        what = f"{name} of {large:,} trials: "
        yield BenchmarkFigure(f"{what}its process, s", f"{ten.seconds:.1f}", f"under {MOST_READ_S:g}", met)
        peak_gb = ten.peak_bytes / 1e9
        met = peak_gb < MOST_READ_GB
        yield BenchmarkFigure(f"{what}peak memory, GB", f"{peak_gb:.2f}", f"under {MOST_READ_GB:g}", met)
        yield BenchmarkFigure(f"{name} of a million, EXTRAPOLATED from these and {small:,}", _million(one, ten, effort))


def _million(one: Cost, ten: Cost, effort: SweepWorkload) -> str:
    """Seconds and memory of a million trials, if they grow on as they did from the smaller size to ten times it."""
    times = (MILLION - effort.made) / (effort.made - effort.made // 10)
    seconds = ten.seconds + (ten.seconds - one.seconds) * times
    return f"{seconds:,.0f} s, {(ten.peak_bytes + (ten.peak_bytes - one.peak_bytes) * times) / 1e9:,.0f} GB"


Part = Callable[[SweepWorkload, Path], Iterator[BenchmarkFigure]]
PARTS: dict[str, Part] = {
    "trials": trial_costs,
    "start": large_start,
    "workers": workers_speed,
    "stacks": stacked_speed,
    "folder": stored,
}


def measure(effort: SweepWorkload, parts: Sequence[str], folder: Path) -> Iterator[BenchmarkFigure]:
    """The parts, in their order."""
    for name, part in PARTS.items():
        if name in parts:
            print(f"measuring: {name}", file=sys.stderr, flush=True)
            yield from part(effort, folder)


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print; 0 if every requirement is met, else 1."""
    parser = script_parser("bench_sweep", __doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke test; its numbers mean nothing")
    parser.add_argument("--trials", type=positive, metavar="N", help="of the sweep whose cost a trial is measured")
    parser.add_argument("--only", choices=PARTS, action="append", help="measure this part; may be repeated")
    parser.add_argument("--inside", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.inside:
        print(json.dumps(clocked_cpu_s(options.inside)))
        return 0
    effort = QUICK if options.quick else FULL
    if options.trials:
        effort = replace(effort, trials=options.trials, window=min(effort.window, options.trials // 4))
    with tempfile.TemporaryDirectory(prefix="initbench-") as scratch:
        figures = list(measure(effort, options.only or list(PARTS), Path(scratch)))
    cores = len(usable_cores())
    header = f"{cpu_model() or 'an unknown processor'}, {cores} cores, Python {platform.python_version()}"
    return report(figures, header=f"{header}; a sweep of {effort.trials:,} trials", quick=options.quick)


if __name__ == "__main__":
    sys.exit(main())
