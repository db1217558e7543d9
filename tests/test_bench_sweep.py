"""The measurement of what sweeps cost runs, measures what it says, and fails where a requirement is missed."""

import importlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import harness
from harness.cores import usable_cores
from harness.results import problems_in

SCRIPTS = Path(__file__).parent.parent / "scripts"

needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="counts by /proc")


@pytest.fixture(autouse=True)
def _scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))


@pytest.fixture
def bench() -> ModuleType:
    return importlib.import_module("bench_sweep")


@pytest.mark.slow
@needs_proc
def test_quick_bench_prints_every_figure(bench: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    """What it requires is met by the full size alone."""
    assert bench.main(["--quick"]) in (0, 1)
    printed = capsys.readouterr().out
    assert "NOT FOR QUOTING" in printed
    cores = len(usable_cores())
    for name in (
        "CPU s a trial of the harness itself", "the later to the earlier", "memory of the parent",
        f"{cores} trials of one thread to {cores} times",
        "CPU s to the first trial of 10,000", "files a table", "harness.load of", "validate of", "report of",
    ):  # fmt: skip
        lines = [line for line in printed.splitlines() if line.startswith(f"| {name}") and "EXTRA" not in line]
        assert lines, name
        assert all(re.search(r"\| (at most|at least|under) [\d,.]+ +\| (yes|NO) +\|$", line) for line in lines)
    assert re.search(r"^\| stacks of 2 to trials alone +\| [\d.]+ \(", printed, flags=re.MULTILINE)
    assert "| planned: 10,000 trials, one at a time, into large | what is planned | yes |" in printed


@pytest.mark.parametrize(("seconds", "missed"), [(29.0, False), (31.0, True)], ids=["met", "missed"])
def test_a_missed_requirement_is_named_and_fails(
    bench: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    seconds: float,
    missed: bool,  # noqa: FBT001 - a parametrised flag
) -> None:
    def measure(_effort: object, _parts: object, _folder: Path) -> Iterator[object]:
        yield bench.BenchmarkFigure("one", f"{seconds}", "under 30", seconds < bench.MOST_READ_S)

    monkeypatch.setattr(bench, "measure", measure)
    assert bench.main(["--quick"]) == int(missed)
    assert capsys.readouterr().out.endswith("missed: one\n" if missed else "every requirement is met\n")


def test_a_million_lies_on_the_line_through_both_sizes(bench: ModuleType) -> None:
    one, ten = bench.Cost(3.0, 1_000_000_000, ""), bench.Cost(12.0, 2_000_000_000, "")
    # 2 s and 0.9 GB to begin with, 1 s and 0.11 GB each 10,000 trials
    assert bench._million(one, ten, bench.FULL) == "102 s, 12 GB"


def test_the_parts_of_the_made_folder_are_few_and_hold_every_trial() -> None:
    sizes = list(importlib.import_module("sweep_folder").part_sizes(100_000))
    assert sum(sizes) == 100_000
    assert sizes[:21] == [1] * 20 + [2], "the first trials one by one"
    assert len(sizes) <= 1_000


def test_the_made_folder_is_sound(tmp_path: Path) -> None:
    files = importlib.import_module("sweep_folder").make(tmp_path / "made", 30)
    assert files == len(list((tmp_path / "made/layers").glob("*.parquet"))) == 25
    assert problems_in(tmp_path / "made") == []
    frames = harness.load(tmp_path / "made")
    assert (len(frames.trials), frames.trials["arm_key"].nunique()) == (30, 3)
    assert frames.trials["trial_id"].is_unique
    assert len(frames.curves) == 30 * 11
    assert len(frames.layers) == 30 * 11 * 6


BUSY = "import time\nend = time.process_time() + 0.5\nwhile time.process_time() < end: pass\n"
PARENT = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BUSY!r}])\nprint('x', flush=True)\ninput()"


@needs_proc
def test_cpu_seconds_are_those_of_a_process_and_of_what_it_started() -> None:
    """Of children that have ended, too; a process that sleeps takes none."""
    costs = importlib.import_module("process_costs")
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "x\n"
        taken_s = costs.cpu_s_of_all(process.pid)
        time.sleep(0.3)
        assert costs.cpu_s_of_all(process.pid) == pytest.approx(taken_s, abs=0.02)
        process.communicate("\n")
    assert 0.5 <= taken_s < 1.0


@needs_proc
def test_memory_is_that_of_the_command_and_not_of_what_started_it(tmp_path: Path) -> None:
    costs = importlib.import_module("process_costs")
    held = bytearray(b"x") * 600_000_000
    hold = "import time; held = bytearray(b'x') * 200_000_000; time.sleep(0.2); print('done')"
    cost = costs.cost_of("-c", hold, folder=tmp_path)
    assert 200_000_000 < cost.peak_bytes < len(held) / 2
    assert (cost.printed, cost.seconds > 0.2) == ("done\n", True)
    with pytest.raises(RuntimeError, match=r"exit code 3: oh\n$"):
        costs.cost_of("-c", "print('oh'); raise SystemExit(3)", folder=tmp_path)
