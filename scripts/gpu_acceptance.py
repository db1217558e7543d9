"""Acceptance on whatever NVIDIA GPU is there: the GPU tests, a small sweep on GPU and CPU, one summary.

Usage: python scripts/gpu_acceptance.py [--device cpu] [--steps N] [--results DIR]

Under ten minutes. Exit code 0: every check passed, 1: some failed, 2: no GPU, or a wrong command. ``--device cpu`` is a
dry run of this script on the processor; it accepts no GPU.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import torch

import harness
from harness import article, data
from harness.device import cpu_model
from harness.train import batch_source

if TYPE_CHECKING:
    import pandas as pd

ROOT = Path(__file__).parent.parent
TESTS_LIMIT_S, SWEEP_LIMIT_S = 270, 270
INITS = ("zero", "glorot")
# of the zero run, whose loss is known in closed form; of the others' first loss, where only summation order differs
LOSS_RTOL, BIAS_ATOL, FIRST_LOSS_RTOL = 1e-6, 1e-7, 1e-4


@dataclass(frozen=True)
class Check:
    """A line of the summary."""

    name: str
    value: str
    passed: bool


@dataclass(frozen=True)
class Outcome:
    """The four trials, (init, 0: device under test, 1: CPU) -> row of ``trials``."""

    rows: "dict[tuple[str, int], pd.Series[Any]]"

    def pair(self, init: str) -> "tuple[pd.Series[Any], pd.Series[Any]]":
        """The rows of one init on both devices."""
        return self.rows[init, 0], self.rows[init, 1]


def python(*arguments: str, folder: Path, limit_s: int) -> "subprocess.CompletedProcess[str]":
    """Python with these arguments; exit code 124 if it does not end in time."""
    line = [sys.executable, *arguments]
    try:
        return subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(line, 124, "", f"not finished after {limit_s} s")


def show_output(done: "subprocess.CompletedProcess[str]") -> None:
    """The end of what a failed command said."""
    print("\n".join((done.stdout + done.stderr).splitlines()[-40:]), file=sys.stderr)


def run_tests(scratch: Path, *, dry: bool) -> Check:
    """``pytest -m gpu``: on a GPU all pass and none is skipped; in a dry run none fails."""
    report = scratch / "tests.xml"
    done = python(
        "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", f"--junitxml={report}",
        folder=ROOT, limit_s=TESTS_LIMIT_S,
    )  # fmt: skip
    counts = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    if report.exists():
        # written by the pytest that has just run
        for suite in ET.parse(report).getroot().iter("testsuite"):  # noqa: S314
            counts = {key: counts[key] + int(suite.get(key, 0)) for key in counts}
    failed = counts["failures"] + counts["errors"]
    passed = counts["tests"] - failed - counts["skipped"]
    fine = done.returncode == 0 and failed == 0 and (dry or (passed > 0 and counts["skipped"] == 0))
    if not fine:
        show_output(done)
    value = f"{passed} passed, {failed} failed, {counts['skipped']} skipped, exit code {done.returncode}"
    return Check("pytest -m gpu", value, fine)


def run_sweep(device: str, steps: int, folder: Path) -> Iterator[Check]:
    """The article's experiment, zero and glorot, on the device and on the CPU; then ``validate``."""
    line = ["init=" + ",".join(INITS), f"device={device},cpu", f"train.steps={steps}", "results.dir=."]
    done = python("-m", "harness.run", "-m", "experiment=article", *line, folder=folder, limit_s=SWEEP_LIMIT_S)
    if done.returncode:
        show_output(done)
    yield Check("sweep of 4 trials", f"exit code {done.returncode}", done.returncode == 0)
    done = python("-m", "harness.results", "validate", ".", folder=folder, limit_s=60)
    last = (done.stdout + done.stderr).strip().splitlines()[-1:]
    yield Check("harness.results validate", " ".join(last).removeprefix(".: "), done.returncode == 0)


def read(folder: Path) -> Outcome | None:
    """The trials in the order they ran in; None unless there are exactly four that are ok."""
    trials = harness.load(folder).trials.sort_values("measured_at")
    trials = trials[trials["status"] == "ok"]
    of = {init: [row for _, row in trials[trials["init"] == init].iterrows()] for init in INITS}
    if any(len(rows) != 2 for rows in of.values()):
        return None
    return Outcome({(init, place): row for init, rows in of.items() for place, row in enumerate(rows)})


def close(name: str, found: float, expected: float, rtol: float) -> Check:
    """A relative difference and its bound."""
    error = abs(found - expected) / abs(expected)
    return Check(name, f"{error:.1e} (at most {rtol:g})", error <= rtol)


def check_same_start(outcome: Outcome, device: str) -> Iterator[Check]:
    """Both devices begin with the same weights and see the same batches."""
    ran = [outcome.rows[init, 0]["device"] for init in INITS]
    yield Check("trials ran on", ", ".join(sorted(set(ran))), set(ran) == {device})
    for init in INITS:
        hashes = [row["initial_weights_sha256"] for row in outcome.pair(init)]
        yield Check(f"{init}: initial weights, sha256", " ".join(h[:8] for h in hashes), hashes[0] == hashes[1])
    config = harness.load_config(["data.batches=random", "data.scaling=standardised", "train.steps=20"])
    found = []
    for target in (torch.device(device), torch.device("cpu")):
        digits = data.to_device(data.load(config.data), config.data.scaling, target)
        drawn = data.batch_indices(config.data, steps=20, batch_size=50, seed=0)
        assert drawn is not None
        batch = batch_source(digits.train_images, digits.train_labels, drawn.to(target), 50)
        found.append([tensor.cpu() for step in range(20) for tensor in batch(step)])
    same = sum(torch.equal(ours, theirs) for ours, theirs in zip(*found, strict=True))
    yield Check("random batches, bit-equal tensors", f"{same} of {len(found[0])}", same == len(found[0]))
    first = [row["train_loss_first"] for row in outcome.pair("glorot")]
    yield close("glorot: first loss, device to CPU, relative", first[0], first[1], FIRST_LOSS_RTOL)


def check_zero_run(outcome: Outcome, device: str) -> Iterator[Check]:
    """The zero kernel leaves all but the last bias as it was, and that follows the closed form, on both devices."""
    pair = outcome.pair("zero")
    for place, row in zip((device, "cpu"), pair, strict=True):
        exact = article.trajectory(article.CLASS_COUNTS, lr=row["lr"], steps=row["steps"])
        unmoved = list(row["unmoved"])
        yield Check(
            f"zero on {place}: tensors bit-equal", str(len(unmoved)), len(unmoved) == 11 and "fc2.bias" not in unmoved
        )
        last = row["train_loss_last"]
        yield close(f"zero on {place}: last loss to closed form, relative", last, exact.losses[-1], LOSS_RTOL)
        worst = max(abs(-found - bias) for found, bias in zip(row["last_bias_difference"], exact.bias, strict=True))
        value = f"{worst:.1e} (at most {BIAS_ATOL:g})"
        yield Check(f"zero on {place}: fc2.bias to closed form, absolute", value, worst <= BIAS_ATOL)
    last_losses = [row["train_loss_last"] for row in pair]
    yield close("zero: last loss, device to CPU, relative", last_losses[0], last_losses[1], 2 * LOSS_RTOL)


def check_glorot_learns(outcome: Outcome, device: str) -> Iterator[Check]:
    """Glorot moves every tensor and lowers the loss on both devices."""
    for place, row in zip((device, "cpu"), outcome.pair("glorot"), strict=True):
        first, last = row["train_loss_first"], row["train_loss_last"]
        yield Check(
            f"glorot on {place}: train loss", f"{first:.4f} to {last:.4f}", last < first and not len(row["unmoved"])
        )


def header(outcome: Outcome | None, device: str) -> str:
    """What the summary holds for."""
    row = None if outcome is None else outcome.rows["zero", 0]
    name = torch.cuda.get_device_name() if device == "cuda" else cpu_model()
    driver = "none" if row is None or device == "cpu" else row["gpu_driver"]
    cuda = torch.version.cuda or "none"
    return f"device: {name} | driver: {driver} | torch {torch.__version__} | CUDA {cuda} | processor: {cpu_model()}"


def table(lines: Sequence[tuple[str, ...]]) -> None:
    """Markdown; the first line is the head."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    ruler = tuple("-" * width for width in widths)
    for line in (lines[0], ruler, *lines[1:]):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |")


def measured(outcome: Outcome) -> list[tuple[str, ...]]:
    """Speed, memory and energy of each trial."""
    lines: list[tuple[str, ...]] = [
        ("init", "device", "images/s: median (quartiles)", "windows", "matmul share", "peak memory, MB", "energy, J")
    ]
    for (init, _), row in outcome.rows.items():
        rate = "{images_per_s_median:,.0f} ({images_per_s_q25:,.0f} to {images_per_s_q75:,.0f})".format(**row)
        energy = row["energy_j"]
        no_energy = energy is None or energy != energy  # noqa: PLR0124 - NaN alone differs from itself
        share, memory = f"{row['matmul_share']:.3f}", f"{row['peak_memory_bytes'] / 1e6:,.0f}"
        shown = "no counter" if no_energy else f"{energy:,.1f}"
        lines.append((init, row["device"], rate, str(row["timing_windows"]), share, memory, shown))
    return lines


def accept(device: str, steps: int, folder: Path, scratch: Path) -> int:
    """Run everything and print the summary; the exit code."""
    checks = [run_tests(scratch, dry=device == "cpu"), *run_sweep(device, steps, folder)]
    outcome = read(folder) if checks[1].passed else None
    checks.append(Check("trials that are ok", "4" if outcome else "not 4", outcome is not None))
    if outcome is not None:
        checks += [*check_same_start(outcome, device), *check_zero_run(outcome, device)]
        checks += check_glorot_learns(outcome, device)
    print(header(outcome, device) + "\n")
    table([("check", "value", "result"), *((c.name, c.value, "pass" if c.passed else "FAIL") for c in checks)])
    if outcome is not None:
        print()
        table(measured(outcome))
    failed = sum(not check.passed for check in checks)
    print(f"\n{len(checks) - failed} of {len(checks)} checks passed")
    return 1 if failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command and run; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a dry run without a GPU")
    parser.add_argument("--steps", type=int, default=1000, help="steps of each trial (default: 1000)")
    parser.add_argument("--results", type=Path, metavar="DIR", help="keep the Parquet files in this new folder")
    chosen = parser.parse_args(arguments)
    if chosen.device == "cuda" and not torch.cuda.is_available():
        print("error: no CUDA GPU that torch can use; --device cpu is a dry run without one", file=sys.stderr)
        return 2
    if chosen.results is not None and chosen.results.exists():
        parser.error(f"--results {chosen.results}: exists already; name a new folder")
    if chosen.device == "cpu":
        print("DRY RUN on the processor: it shows that this script works, and accepts no GPU\n")
    with tempfile.TemporaryDirectory(prefix="initbench-") as scratch:
        folder = (chosen.results or Path(scratch) / "results").resolve()
        folder.mkdir(parents=True)
        return accept(chosen.device, chosen.steps, folder, Path(scratch))


if __name__ == "__main__":
    sys.exit(main())
