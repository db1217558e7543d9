"""Acceptance on whatever NVIDIA GPU is there: the GPU tests, a small sweep on GPU and CPU, one summary.

Usage: python scripts/gpu_acceptance.py [--device cpu] [--steps N] [--results DIR]

It begins with the tests, the Triton kernels' among them, and then trains by torch on both devices and by each choice of
Triton kernels on the GPU, from the same weights for as many steps. Then by each engine and in stacks of 1, 16 and 64
trials: their speeds are shown only if they train the same. At most ten minutes.
Exit code 0: every check passed, 1: some failed, 2: no GPU, or a wrong command.

``--device cpu`` is a dry run of this script on the processor; it accepts no GPU. It trains by torch alone, or with
TRITON_INTERPRET=1 by the kernels too, a few steps of two images, for their interpreter takes seconds for each.
"""

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import acceptance_engines
import torch

import harness
from harness import article, data
from harness.arguments import file_to_write, one_line_errors, positive, script_parser
from harness.backends import KERNELS
from harness.errors import UsageError
from harness.markdown import aligned_table
from harness.processor import cpu_model
from harness.train import batch_source

if TYPE_CHECKING:
    import pandas as pd

ROOT = Path(__file__).parent.parent
TOTAL_LIMIT_S, TESTS_LIMIT_S, SWEEP_LIMIT_S, VALIDATE_LIMIT_S, ENGINES_LIMIT_S = 600, 300, 75, 30, 75
INITS = ("zero", "glorot")
TRITON = tuple(name for name, backend in KERNELS.items() if not backend.is_torch)
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
# of the zero run, whose loss is known in closed form; of the others' first loss, where only summation order differs
LOSS_RTOL, BIAS_ATOL, FIRST_LOSS_RTOL = 1e-6, 1e-7, 1e-4
# of glorot's last loss by another kernel, where the summation order differs at every step: see docs/kernels.md
LAST_LOSS_RTOL = 1e-2


@dataclass(frozen=True)
class AcceptanceCheck:
    """A line of the summary."""

    name: str
    value: str
    passed: bool


@dataclass(frozen=True)
class AcceptancePlan:
    """What to run.

    Attributes:
        device: under test.
        kernels: of Triton, that train there.
        steps: of each trial.
        batch_size: images of a step.
        until_s: when all must have ended, by ``time.monotonic``.
    """

    device: str
    kernels: tuple[str, ...]
    steps: int
    batch_size: int
    until_s: float = field(default=math.inf, compare=False)

    def within(self, limit_s: float) -> float:
        """Return how long a command may take: its own limit, or what is left of the ten minutes."""
        return min(limit_s, max(1.0, self.until_s - time.monotonic()))

    @property
    def is_dry(self) -> bool:
        """Whether no GPU is accepted."""
        return self.device == "cpu"

    @property
    def sweep_limit_s(self) -> float:
        """How long each of the two sweeps may take."""
        return 600 if self.is_dry and self.kernels else self.within(SWEEP_LIMIT_S)

    @property
    def engines_limit_s(self) -> float:
        """Each command of engines and stacks may take so long; a dry run has no ten minutes to keep."""
        return 600 if self.is_dry else self.within(ENGINES_LIMIT_S)

    @property
    def expected(self) -> dict[tuple[str, str], int]:
        """(init, kernel) -> trials: by torch on the device and on the CPU, by the others on the device."""
        return {(init, kernel): 2 if kernel == "torch" else 1 for init in INITS for kernel in ("torch", *self.kernels)}


@dataclass(frozen=True)
class AcceptanceTrials:
    """The trials, (init, kernel, 0: device under test, 1: CPU) -> row of ``trials``."""

    rows: "dict[tuple[str, str, int], pd.Series[Any]]"

    def pair(self, init: str) -> "tuple[pd.Series[Any], pd.Series[Any]]":
        """The rows of one init by torch on both devices."""
        return self.rows[init, "torch", 0], self.rows[init, "torch", 1]

    def of(self, init: str) -> "Iterator[tuple[str, pd.Series[Any]]]":
        """Every row of one init, with its name for a line of the summary."""
        for (its_init, kernel, place), row in self.rows.items():
            if its_init == init:
                yield f"{init} by {kernel} on {'cpu' if place else row['device']}", row


def python(*arguments: str, folder: Path, limit_s: float, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Python with these arguments and further environment variables; exit code 124 if it does not end in time."""
    line, environment = [sys.executable, *arguments], {**os.environ, **variables}
    try:
        return subprocess.run(
            line, cwd=folder, env=environment, capture_output=True, text=True, timeout=limit_s, check=False
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(line, 124, "", f"not finished after {limit_s:.0f} s")


def show_output(done: "subprocess.CompletedProcess[str]") -> None:
    """The end of what a failed command said."""
    print("\n".join((done.stdout + done.stderr).splitlines()[-40:]), file=sys.stderr)


def run_tests(scratch: Path, *, dry: bool) -> AcceptanceCheck:
    """``pytest -m gpu``, not interpreted: on a GPU all pass and none is skipped; in a dry run none fails."""
    report = scratch / "tests.xml"
    # these files alone, and no plugin: what the other tests need is not there, and a plugin that is may warn
    files = [str(path) for path in sorted((ROOT / "tests").glob("test_*.py")) if "mark.gpu" in path.read_text("utf-8")]
    done = python(
        "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *files,
        folder=ROOT, limit_s=TESTS_LIMIT_S, TRITON_INTERPRET="0", PYTEST_DISABLE_PLUGIN_AUTOLOAD="1",
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
    return AcceptanceCheck("pytest -m gpu", value, fine)


def run_sweep(plan: AcceptancePlan, folder: Path) -> Iterator[AcceptanceCheck]:
    """The article's experiment, zero and glorot: on the device and on the CPU, by each kernel; then ``validate``."""
    sizes = [f"train.steps={plan.steps}", f"train.batch_size={plan.batch_size}", "results.dir=."]
    by_torch = ["kernel=torch", f"device={plan.device},cpu"]
    by_triton = ["kernel=" + ",".join(plan.kernels), f"device={plan.device}"]
    codes = []
    for choices in (by_torch, by_triton) if plan.kernels else (by_torch,):
        line = ["experiment=article", "init=" + ",".join(INITS), *choices, *sizes]
        done = python("-m", "harness.run", "-m", *line, folder=folder, limit_s=plan.sweep_limit_s)
        if done.returncode:
            show_output(done)
        codes.append(done.returncode)
    value = "exit code " + ", ".join(map(str, codes))
    yield AcceptanceCheck(f"sweep of {sum(plan.expected.values())} trials", value, not any(codes))
    done = python("-m", "harness.results", "validate", ".", folder=folder, limit_s=VALIDATE_LIMIT_S)
    last = (done.stdout + done.stderr).strip().splitlines()[-1:]
    yield AcceptanceCheck("harness.results validate", " ".join(last).removeprefix(".: "), done.returncode == 0)


def read(folder: Path, plan: AcceptancePlan) -> AcceptanceTrials | None:
    """The trials in the order they ran in; None unless they are as many as expected and all ok."""
    trials = harness.load(folder).trials.sort_values("measured_at")
    trials = trials[trials["status"] == "ok"]
    rows = {
        (init, kernel, place): row
        for init, kernel in plan.expected
        for place, (_, row) in enumerate(trials[(trials["init"] == init) & (trials["kernel"] == kernel)].iterrows())
    }
    expected = {(*key, place) for key, count in plan.expected.items() for place in range(count)}
    return AcceptanceTrials(rows) if set(rows) == expected else None


def close(name: str, value: float, expected: float, rtol: float) -> AcceptanceCheck:
    """A relative difference and its bound."""
    error = abs(value - expected) / abs(expected)
    return AcceptanceCheck(name, f"{error:.1e} (at most {rtol:g})", error <= rtol)


def check_same_start(outcome: AcceptanceTrials, device: str) -> Iterator[AcceptanceCheck]:
    """Both devices and all kernels begin with the same weights, and both devices see the same batches."""
    ran = [row["device"] for (_, _, place), row in outcome.rows.items() if place == 0]
    yield AcceptanceCheck("trials ran on", ", ".join(sorted(set(ran))), set(ran) == {device})
    for init in INITS:
        hashes = [row["initial_weights_sha256"] for _, row in outcome.of(init)]
        yield AcceptanceCheck(
            f"{init}: initial weights, sha256", " ".join(h[:8] for h in hashes), len(set(hashes)) == 1
        )
    config = harness.load_config(["data.batches=random", "data.scaling=standardised", "train.steps=20"])
    batches = []
    for target in (torch.device(device), torch.device("cpu")):
        digits = data.to_device(data.load(config.data), config.data, target)
        drawn = data.batch_indices(config.data, steps=20, batch_size=50, seed=0)
        assert drawn is not None
        batch = batch_source(digits.train_images, digits.train_labels, drawn.to(target), 50)
        batches.append([tensor.cpu() for step in range(20) for tensor in batch(step)])
    same = sum(torch.equal(ours, theirs) for ours, theirs in zip(*batches, strict=True))
    yield AcceptanceCheck("random batches, bit-equal tensors", f"{same} of {len(batches[0])}", same == len(batches[0]))
    first = [row["train_loss_first"] for row in outcome.pair("glorot")]
    yield close("glorot: first loss, device to CPU, relative", first[0], first[1], FIRST_LOSS_RTOL)


def check_zero_run(outcome: AcceptanceTrials) -> Iterator[AcceptanceCheck]:
    """The zero kernel leaves all but the last bias as it was, and that follows the closed form, in every trial."""
    labels = data.load(harness.load_config([]).data).train_labels
    for name, row in outcome.of("zero"):
        counts = torch.bincount(labels[: row["batch_size"]], minlength=len(article.CLASS_COUNTS)).tolist()
        exact = article.trajectory(counts, lr=row["lr"], steps=row["steps"])
        unmoved = list(row["unmoved"])
        yield AcceptanceCheck(
            f"{name}: tensors bit-equal", str(len(unmoved)), len(unmoved) == 11 and "fc2.bias" not in unmoved
        )
        last = row["train_loss_last"]
        yield close(f"{name}: last loss to closed form, relative", last, exact.losses[-1], LOSS_RTOL)
        worst = max(
            abs(-difference - bias) for difference, bias in zip(row["last_bias_difference"], exact.bias, strict=True)
        )
        value = f"{worst:.1e} (at most {BIAS_ATOL:g})"
        yield AcceptanceCheck(f"{name}: fc2.bias to closed form, absolute", value, worst <= BIAS_ATOL)
    last_losses = [row["train_loss_last"] for row in outcome.pair("zero")]
    yield close("zero: last loss, device to CPU, relative", last_losses[0], last_losses[1], 2 * LOSS_RTOL)


def check_glorot_learns(outcome: AcceptanceTrials) -> Iterator[AcceptanceCheck]:
    """Glorot moves every tensor and lowers the loss, in every trial."""
    for name, row in outcome.of("glorot"):
        first, last = row["train_loss_first"], row["train_loss_last"]
        yield AcceptanceCheck(
            f"{name}: train loss", f"{first:.4f} to {last:.4f}", last < first and not len(row["unmoved"])
        )


def check_kernels(outcome: AcceptanceTrials) -> Iterator[AcceptanceCheck]:
    """Triton's kernels passed their own check and train as torch on the same device: first loss and last."""
    for (init, kernel, _), row in outcome.rows.items():
        if kernel == "torch":
            continue
        error, precision = row["kernel_error"], row["kernel_precision"]
        yield AcceptanceCheck(
            f"{init} by {kernel}: error on its own shapes", f"{error:.1e} ({precision})", 0 <= error < FIRST_LOSS_RTOL
        )
        if init == "glorot":
            theirs = outcome.rows[init, "torch", 0]
            for which, rtol in (("first", FIRST_LOSS_RTOL), ("last", LAST_LOSS_RTOL)):
                losses = row[f"train_loss_{which}"], theirs[f"train_loss_{which}"]
                yield close(f"{init} by {kernel}: {which} loss, to torch's, relative", *losses, rtol)


def check_engines(plan: AcceptancePlan, folder: Path) -> tuple[list[AcceptanceCheck], str]:
    """Engines and stacks train the same; the table of their speeds, empty unless they do."""

    def command(*choices: str) -> int:
        done = python("-m", "harness.run", "-m", *choices, folder=folder, limit_s=plan.engines_limit_s)
        if done.returncode:
            show_output(done)
        return done.returncode

    engines = acceptance_engines.plan_of(plan.device, plan.steps)
    outcome = acceptance_engines.run(engines, folder, command)
    checks = [AcceptanceCheck("engines and stacks: trials", "not ok" if outcome is None else "ok", outcome is not None)]
    if outcome is None:
        return checks, ""
    checks += [AcceptanceCheck(*found) for found in acceptance_engines.checks(engines, outcome)]
    fine = all(check.passed for check in checks)
    return checks, aligned_table(*acceptance_engines.speeds(outcome)) if fine else ""


def header(outcome: AcceptanceTrials | None, device: str) -> str:
    """What the summary holds for."""
    row = None if outcome is None else outcome.rows["zero", "torch", 0]
    cpu = cpu_model() or "unknown"
    name = torch.cuda.get_device_name() if device == "cuda" else cpu
    driver = "none" if row is None or device == "cpu" else row["gpu_driver"]
    cuda = torch.version.cuda or "none"
    return f"device: {name} | driver: {driver} | torch {torch.__version__} | CUDA {cuda} | processor: {cpu}"


def measured(outcome: AcceptanceTrials) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and lines: speed, memory and energy of each trial."""
    head = ("init", "kernel", "device", "images/s: median (quartiles)", "windows", "matmul share", "peak memory, MB",
            "energy, J")  # fmt: skip
    lines: list[tuple[str, ...]] = []
    for (init, kernel, _), row in outcome.rows.items():
        rate = "{images_per_s_median:,.0f} ({images_per_s_q25:,.0f} to {images_per_s_q75:,.0f})".format(**row)
        energy = row["energy_j"]
        no_energy = energy is None or energy != energy  # noqa: PLR0124 - NaN alone differs from itself
        share, memory = f"{row['matmul_share']:.3f}", f"{row['peak_memory_bytes'] / 1e6:,.0f}"
        energy_text = "no counter" if no_energy else f"{energy:,.1f}"
        lines.append((init, kernel, row["device"], rate, str(row["timing_windows"]), share, memory, energy_text))
    return head, lines


def accept(plan: AcceptancePlan, folder: Path, scratch: Path) -> int:
    """Run everything and print the summary; the exit code."""
    checks = [run_tests(scratch, dry=plan.is_dry), *run_sweep(plan, folder)]
    outcome = read(folder, plan) if checks[1].passed else None
    count = sum(plan.expected.values())
    checks.append(AcceptanceCheck("trials that are ok", str(count) if outcome else f"not {count}", outcome is not None))
    if outcome is not None:
        checks += [*check_same_start(outcome, plan.device), *check_zero_run(outcome)]
        checks += [*check_glorot_learns(outcome), *check_kernels(outcome)]
    found, engine_speeds = check_engines(plan, scratch)
    checks += found
    print(header(outcome, plan.device) + "\n")
    lines = [(check.name, check.value, "pass" if check.passed else "FAIL") for check in checks]
    print(aligned_table(("check", "value", "result"), lines))
    if outcome is not None:
        print()
        print(aligned_table(*measured(outcome)))
    print(f"\n{engine_speeds or 'engines and stacks do not train the same: no speed is shown'}")
    failed = sum(not check.passed for check in checks)
    print(f"\n{len(checks) - failed} of {len(checks)} checks passed")
    print("speed of the Triton kernels, against cuDNN: python scripts/bench_conv2d.py")
    return 1 if failed else 0


def refusal(device: str) -> str | None:
    """Why this cannot run here, or None."""
    if device == "cpu":
        return None
    if not torch.cuda.is_available():
        return "no CUDA GPU that torch can use; --device cpu is a dry run without one"
    if INTERPRETED:
        return "TRITON_INTERPRET is set, and would keep the kernels from the GPU; unset it"
    return None


def plan_of(device: str, steps: int | None) -> AcceptancePlan:
    """By the device; of the interpreter two images and two steps are enough to show that all runs."""
    if device == "cpu" and INTERPRETED:
        return AcceptancePlan(device, TRITON, steps or 2, batch_size=2)
    until_s = time.monotonic() + TOTAL_LIMIT_S if device == "cuda" else math.inf
    return AcceptancePlan(device, TRITON if device == "cuda" else (), steps or 1000, batch_size=50, until_s=until_s)


def _new_folder(text: str) -> Path:
    """The folder that an argument names, which must not be there yet."""
    if Path(text).exists():
        raise argparse.ArgumentTypeError(f"{text}: exists already; name a new folder")
    return file_to_write(text)


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command and run; the exit code."""
    parser = script_parser("gpu_acceptance", __doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a dry run without a GPU")
    parser.add_argument("--steps", type=positive, help="of each trial (default: 1000; 2 with TRITON_INTERPRET=1)")
    parser.add_argument("--results", type=_new_folder, metavar="DIR", help="keep the Parquet files in this new folder")
    chosen = parser.parse_args(arguments)
    if (reason := refusal(chosen.device)) is not None:
        raise UsageError(reason)
    plan = plan_of(chosen.device, chosen.steps)
    if plan.is_dry:
        print("DRY RUN on the processor: it shows that this script works, and accepts no GPU")
        if not plan.kernels:
            print("by torch alone: a processor runs the Triton kernels only with TRITON_INTERPRET=1")
        print(flush=True)
    with tempfile.TemporaryDirectory(prefix="initbench-") as scratch:
        folder = (chosen.results or Path(scratch) / "results").resolve()
        folder.mkdir(parents=True)
        return accept(plan, folder, Path(scratch))


if __name__ == "__main__":
    sys.exit(main())
