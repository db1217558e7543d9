"""What analysis costs: seconds and memory for 100,000 trials, and for 10,000 that still lie in files of their own.

Usage: python scripts/bench_analysis.py [--quick]     (about five minutes on two cores; exit code 0: all met, 1: not)

The results are made up, in a temporary folder, by the schema and the writer of the project. Reading and analysis run
in a process of their own, whose peak memory is measured; the analysis is that of the report's ranking: every target
set beforehand, times to it, restricted means with intervals, exact tests with Holm's adjustment.
"""

import argparse
import json
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from figures import BenchmarkFigure, report

from harness import analysis, results
from harness.arguments import one_line_errors, script_parser
from harness.results import COLUMNS

MOST_ANALYSIS_S, MOST_MEMORY_GB, MOST_SINGLE_S = 30.0, 4.0, 60.0
TARGETS = (0.5, 0.8, 0.9, 0.95)
SEEDS = 10


@dataclass(frozen=True)
class AnalysisWorkload:
    """How much is made up: trials in merged files, evaluated steps of each, trials in files of their own."""

    trials: int
    evaluations: int
    single_trials: int
    single_evaluations: int


FULL = AnalysisWorkload(trials=100_000, evaluations=100, single_trials=10_000, single_evaluations=11)
QUICK = AnalysisWorkload(trials=200, evaluations=5, single_trials=20, single_evaluations=3)
_PART = 2_000


def _trial(index: int, steps: int) -> dict[str, Any]:
    """A row of trials with every required column; ten seeds an arm."""
    blank = {pa.string(): "x", pa.int64(): 1, pa.float64(): 1.0, pa.bool_(): True}
    row = {column.name: blank.get(column.type) if column.required else None for column in COLUMNS["trials"]}
    arm = index // SEEDS
    values = {
        "trial_id": f"20260101T000000-{index:08x}",
        "trial_key": f"{index:016x}",
        "arm_key": f"{arm:016x}",
        "status": "ok",
        "measured_at": datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=index),
        "init": f"init{arm % 100}",
        "lr": float(f"{0.001 * (1 + arm // 100):.4g}"),
        "seed": index % SEEDS,
        "device": "cpu",
        "batches": "epochs",
        "steps": steps,
        "targets": list(TARGETS),
        "train_time_s": float(steps),
        "config": json.dumps({"made": "up" * 800}),
        "initial_weights_sha256": f"{index:064x}",
        "final_weights_sha256": f"{index:064x}",
        "images_per_s_median": 5000.0 + index % 97,
        "matmul_share": 0.5,
        "step_ms_median": 10.0,
        "device_model": "made up",
    }
    return row | values


def _curve(index: int, evaluations: int) -> list[dict[str, Any]]:
    """Accuracy that rises at a pace of its own, with every tenth arm never leaving the ground."""
    generator = np.random.default_rng(index)
    step = np.arange(evaluations) * 10
    pace = 0 if (index // SEEDS) % 10 == 0 else generator.lognormal(0, 0.5) * (1 + (index // SEEDS) % 7 / 7)
    accuracy = 0.1 + 0.88 * (1 - np.exp(-3 * pace * step / max(1, step[-1])))
    return [
        {
            "trial_id": f"20260101T000000-{index:08x}",
            "step": int(at),
            "train_time_s": float(at),
            "train_loss": 1.0,
            "train_accuracy": float(value),
            "test_loss": 1.0,
            "test_accuracy": float(value),
        }
        for at, value in zip(step, accuracy, strict=True)
    ]


def _make(folder: Path, indices: Sequence[int], evaluations: int) -> None:
    """One file a table with these trials."""
    name, steps = f"part-{indices[0]:08x}", 10 * (evaluations - 1)
    curves = [row for index in indices for row in _curve(index, evaluations)]
    rows = {"curves": curves, "layers": [], "trials": [_trial(index, steps) for index in indices]}
    for table, table_rows in rows.items():
        results.write_table(folder, table, name, table_rows)


def make(folder: Path, trials: int, evaluations: int, *, part: int) -> None:
    """A results folder with so many trials, ``part`` of them in a file."""
    results.prepare(folder)
    parts = [range(start, min(start + part, trials)) for start in range(0, trials, part)]
    # the disk's flush is waited for, which several can do at once
    with ThreadPoolExecutor(1 if part > 1 else 8) as pool:
        list(pool.map(lambda indices: _make(folder, indices, evaluations), parts))


def analyse(folder: Path) -> dict[str, float]:
    """Seconds of each part of the analysis and the peak memory of this process; run in a process of its own."""
    seconds = {}
    start = time.perf_counter()

    def lap(name: str, work: Callable[[], Any]) -> Any:  # noqa: ANN401 - whatever it returns
        before = time.perf_counter()
        done = work()
        seconds[name] = time.perf_counter() - before
        return done

    frames = lap("read", lambda: analysis.read(folder))
    lap("times", lambda: analysis.times_to_targets(frames))
    rankings = lap("rank", lambda: [analysis.ranking(frames, target=target) for target in TARGETS])
    lap("tables", lambda: (analysis.throughput(frames.trials), analysis.completeness(frames.trials)))
    assert "torch" not in sys.modules
    seconds["whole"] = time.perf_counter() - start
    sizes = {"trials": len(frames.trials), "curve_rows": len(frames.curves), "arms": len(rankings[0].table)}
    return {**seconds, "peak_gb": _peak_bytes() / 1e9, **sizes}


def _peak_bytes() -> int:
    """The most memory that this process held since it became this program.

    ``ru_maxrss`` would not do on Linux: a process takes over that of the one which started it, here the maker of the
    results.
    """
    if platform.system() == "Linux":
        match = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        assert match is not None
        return int(match[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def load_all(folder: Path) -> dict[str, float]:
    """Seconds until all three tables are there as frames."""
    start = time.perf_counter()
    frames = results.load(folder, categories=True)
    return {"load": time.perf_counter() - start, "trials": len(frames.trials), "curve_rows": len(frames.curves)}


def _apart(work: str, folder: Path) -> dict[str, float]:
    """One of the above in a process of its own."""
    command = [sys.executable, __file__, "--inside", work, str(folder)]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    measured: dict[str, float] = json.loads(done.stdout)
    return {**measured, "process": time.perf_counter() - start}


def measure(effort: AnalysisWorkload, folder: Path) -> Iterator[BenchmarkFigure]:
    """Everything; the requirements are on the whole."""
    parts, merged, single = folder / "parts", folder / "merged", folder / "single"
    make(parts, effort.trials, effort.evaluations, part=_PART)
    results.compact(parts, merged)
    measured = _apart("analyse", merged)
    assert measured["trials"] == effort.trials
    yield BenchmarkFigure("trials", f"{measured['trials']:,.0f}")
    yield BenchmarkFigure("curve rows", f"{measured['curve_rows']:,.0f}")
    yield BenchmarkFigure("arms", f"{measured['arms']:,.0f}")
    yield BenchmarkFigure("read, s", f"{measured['read']:.1f}")
    yield BenchmarkFigure(f"times to {len(TARGETS)} targets, s", f"{measured['times']:.1f}")
    yield BenchmarkFigure(f"{len(TARGETS)} rankings with intervals, s", f"{measured['rank']:.1f}")
    yield BenchmarkFigure("throughput and completeness, s", f"{measured['tables']:.1f}")
    yield BenchmarkFigure("analysis in all, s", f"{measured['whole']:.1f}")
    whole, peak = measured["process"], measured["peak_gb"]
    name = "its process, from start to end, s"
    yield BenchmarkFigure(name, f"{whole:.1f}", f"under {MOST_ANALYSIS_S:g}", whole < MOST_ANALYSIS_S)
    yield BenchmarkFigure("its peak memory, GB", f"{peak:.2f}", f"under {MOST_MEMORY_GB:g}", peak < MOST_MEMORY_GB)
    make(single, effort.single_trials, effort.single_evaluations, part=1)
    yield from _single(effort, single)


def _single(effort: AnalysisWorkload, folder: Path) -> Iterator[BenchmarkFigure]:
    """Trials as they are written, before and after merging."""
    loaded = _apart("load_all", folder)
    assert loaded["trials"] == effort.single_trials
    name = f"harness.load of {effort.single_trials:,} trials, a file each, s"
    met = loaded["load"] < MOST_SINGLE_S
    yield BenchmarkFigure(name, f"{loaded['load']:.1f}", f"under {MOST_SINGLE_S:g}", met)
    start = time.perf_counter()
    merged = folder.with_name("single-merged")
    results.compact(folder, merged)
    yield BenchmarkFigure("merging them, s", f"{time.perf_counter() - start:.1f}")
    again = _apart("load_all", merged)
    assert again["curve_rows"] == loaded["curve_rows"]
    yield BenchmarkFigure("harness.load after merging, s", f"{again['load']:.1f}")


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Make up, measure, print; 0 if every requirement is met, else 1."""
    parser = script_parser("bench_analysis", __doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke test of seconds; its numbers mean nothing")
    parser.add_argument("--inside", nargs=2, metavar=("WORK", "DIR"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.inside:
        work, folder = options.inside
        print(json.dumps({"analyse": analyse, "load_all": load_all}[work](Path(folder))))
        return 0
    with tempfile.TemporaryDirectory(prefix="initbench-") as scratch:
        figures = list(measure(QUICK if options.quick else FULL, Path(scratch)))
    header = (
        f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, pandas {pd.__version__},\n"
        f"pyarrow {pa.__version__}; n = 1 each; results made up, {SEEDS} seeds an arm"
    )
    return report(figures, header=header, quick=options.quick)


if __name__ == "__main__":
    sys.exit(main())
