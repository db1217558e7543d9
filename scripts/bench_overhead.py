"""What the harness costs: its training loop against plain PyTorch loops, its own work per trial, start-up, memory.

Usage: python scripts/bench_overhead.py [--quick]     (about five minutes on two cores; exit code 0: all met, 1: not)

The loops are those of overhead_arms.py, run interleaved in one process, in an order that turns from round to round.
Speeds are printed only if all compute the same losses. Their clock is the wall clock around the whole loop.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import torch
from figures import BenchmarkFigure, report
from overhead_arms import ARMS, CPU, GATE_RTOL, GATE_STEPS, GateError, TrainingArm, TrainingTask, gate, task

import harness
from harness import models
from harness.arguments import one_line_errors, script_parser
from harness.processor import cpu_model
from harness.timing import matmul_flops_per_s, quartiles

LEAST_RATIO, MOST_OUTSIDE_S, MOST_START_S, MOST_MEMORY_GB = 0.98, 1.5, 1.5, 1.5


@dataclass(frozen=True)
class OverheadWorkload:
    """Rounds, batch size -> steps of an arm in a round, and what the other figures are taken from."""

    rounds: int
    steps: dict[int, int]
    trials: int
    trial_steps: int
    starts: int
    memory_steps: int


FULL = OverheadWorkload(rounds=30, steps={50: 50, 256: 25}, trials=3, trial_steps=100, starts=5, memory_steps=200)
QUICK = OverheadWorkload(rounds=2, steps={50: 3, 256: 1}, trials=2, trial_steps=2, starts=1, memory_steps=2)


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock seconds of a call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def spread(values: Sequence[float], *, digits: int) -> str:
    """Median and quartiles."""
    summary = quartiles(values)
    assert summary is not None
    return f"{summary.median:,.{digits}f} ({summary.q25:,.{digits}f} to {summary.q75:,.{digits}f})"


def throughput(arms: dict[str, TrainingArm], task: TrainingTask, rounds: int) -> Iterator[BenchmarkFigure]:
    """Ratios to the harness round by round, images/s, and the harness's share of the matmul rate."""
    batch_size, images = len(task.labels), len(task.labels) * task.config.train.steps
    rates: dict[str, list[float]] = {name: [] for name in arms}
    shares = []
    for index in range(rounds):
        if sys.stderr.isatty():
            print(f"batch {batch_size}: round {index + 1} of {rounds}", end="\r", file=sys.stderr, flush=True)
        order = list(arms)[:: 1 if index % 2 else -1]
        matmul = matmul_flops_per_s(CPU)
        for name in order[index % 3 :] + order[: index % 3]:
            rates[name].append(images / seconds(arms[name](task)))
        shares.append(models.flops_per_image(task.config.model)[1] * rates["harness"][-1] / matmul)
    for name in [name for name in arms if name != "harness"]:
        ratios = [ours / theirs for ours, theirs in zip(rates["harness"], rates[name], strict=True)]
        met = median(ratios) >= LEAST_RATIO
        yield BenchmarkFigure(
            f"batch {batch_size}: harness / {name}", spread(ratios, digits=3), f"at least {LEAST_RATIO}", met
        )
    for name in arms:
        yield BenchmarkFigure(f"batch {batch_size}: {name}, images/s", spread(rates[name], digits=0))
    yield BenchmarkFigure(f"batch {batch_size}: harness, share of matmul rate", spread(shares, digits=3))


def _seconds_outside_training(config: harness.TrialConfig) -> dict[str, float]:
    """Run a trial: seconds of each part that is not training, and their sums without and with evaluation."""
    start = time.perf_counter()
    row = harness.run_trial(config).trial
    outside_s = time.perf_counter() - start - row["train_time_s"]
    parts = {name: row[f"{name}_time_s"] for name in ("setup", "init", "warmup", "eval")}
    rest_s = outside_s - sum(parts.values())
    return {**parts, "rest": rest_s, "without": outside_s - parts["eval"], "with": outside_s}


def outside_training(effort: OverheadWorkload, folder: Path) -> Iterator[BenchmarkFigure]:
    """Seconds per trial that are not training, of each trial after the first of the process."""
    steps = effort.trial_steps
    config = harness.load_config(
        ["device=cpu", f"train.steps={steps}", f"train.eval_every={max(1, steps // 10)}", f"results.dir={folder}"]
    )
    harness.run_trial(config)
    measured = [_seconds_outside_training(config) for _ in range(effort.trials - 1)]
    seconds_of = {name: [trial[name] for trial in measured] for name in measured[0]}
    evaluations = len(range(0, steps, config.train.eval_every)) + 1
    what = {
        "setup": "set-up (data, network, matmul rate)",
        "init": "initial weights",
        "warmup": "warm-up",
        "rest": "the rest (rows, files)",
        "eval": f"diagnosis, then evaluation and probes at {evaluations} steps",
    }
    for name, text in what.items():
        yield BenchmarkFigure(f"outside training: {text}, s", f"{median(seconds_of[name]):.3f}")
    most = {name: max(seconds_of[name]) for name in ("without", "with")}
    text = f"s, largest of {effort.trials - 1}"
    met = most["without"] < MOST_OUTSIDE_S
    yield BenchmarkFigure(
        f"outside training: sum without evaluation, {text}", f"{most['without']:.3f}", f"under {MOST_OUTSIDE_S}", met
    )
    # how often to evaluate is the user's choice, so the harness is held to the sum without it
    yield BenchmarkFigure(f"outside training: sum with evaluation, {text}", f"{most['with']:.3f}")


def command(*arguments: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Python with these arguments, in a folder that is not the checkout."""
    return subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=True)


def start_up(effort: OverheadWorkload, folder: Path) -> Iterator[BenchmarkFigure]:
    """Seconds until --help and --cfg job have answered, and whether they load torch."""
    for arguments in (["--help"], ["--cfg", "job"]):
        line = ["-m", "harness.run", *arguments]
        times_s = [seconds(partial(command, *line, folder=folder)) for _ in range(effort.starts)]
        name = f"{' '.join(arguments)}: s, median of {effort.starts}"
        yield BenchmarkFigure(name, f"{median(times_s):.2f}", f"under {MOST_START_S}", median(times_s) < MOST_START_S)
        imports = command("-X", "importtime", *line, folder=folder).stderr.splitlines()
        loaded = any(text.rpartition("|")[2].strip() == "torch" for text in imports)
        yield BenchmarkFigure(f"{' '.join(arguments)}: loads torch", "yes" if loaded else "no", "no", not loaded)


def peak_memory(effort: OverheadWorkload, folder: Path) -> BenchmarkFigure:
    """Measure a default trial, shortened, because more steps need no more memory."""
    command(
        "-m", "harness.run", "device=cpu", f"train.steps={effort.memory_steps}", "results.dir=memory", folder=folder
    )
    peak_gb = int(harness.load(folder / "memory").trials["peak_memory_bytes"].iloc[0]) / 1e9
    name = f"peak memory of a default trial of {effort.memory_steps} steps, GB"
    return BenchmarkFigure(name, f"{peak_gb:.2f}", f"under {MOST_MEMORY_GB}", peak_gb < MOST_MEMORY_GB)


def header(effort: OverheadWorkload) -> str:
    """What the numbers hold for."""
    return (
        f"{cpu_model() or 'an unknown processor'}, torch {torch.__version__}, {torch.get_num_threads()} threads\n"
        f"ratios, rates, shares: median (quartiles) of n = {effort.rounds} interleaved rounds\n"
        f"same losses over {GATE_STEPS} steps: yes, within {GATE_RTOL:g} relative"
    )


def measure(effort: OverheadWorkload) -> Iterator[BenchmarkFigure]:
    """Everything, once the gate is passed."""
    for batch_size, steps in effort.steps.items():
        yield from throughput(ARMS, task(batch_size, steps), effort.rounds)
    with tempfile.TemporaryDirectory(prefix="initbench-") as scratch:
        folder = Path(scratch)
        yield from outside_training(effort, folder / "outside")
        yield from start_up(effort, folder)
        yield peak_memory(effort, folder)


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Gate, measure, print; 0 if every requirement is met, else 1."""
    parser = script_parser("bench_overhead", __doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke test of seconds; its numbers mean nothing")
    effort = QUICK if parser.parse_args(arguments).quick else FULL
    try:
        for batch_size in effort.steps:
            gate(ARMS, batch_size)
    except GateError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return report(list(measure(effort)), header=header(effort), quick=effort is QUICK)


if __name__ == "__main__":
    sys.exit(main())
