"""The scripts as a user runs them, what they refuse, and the workflows of CI."""

import dataclasses
import importlib
import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from harness import data, results

if TYPE_CHECKING:
    # found there only once the tests have put the folder on the path
    from overhead_arms import TrainingArm, TrainingRun, TrainingTask

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def run_script(name: str, *arguments: str, cwd: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(ROOT / "scripts" / name), *arguments]
    # threads that wait by spinning slow each other down twentyfold where another process computes too
    variables = {**os.environ, "OMP_WAIT_POLICY": "passive", **environment}
    return subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, timeout=540, check=False)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """``script(name)``: a script as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module


@pytest.mark.parametrize("name", ["bench_overhead.py", "gpu_acceptance.py"])
def test_help_names_the_exit_codes(name: str, tmp_path: Path) -> None:
    done = run_script(name, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "xit code" in done.stdout


@pytest.mark.slow
def test_overhead_prints_a_line_for_every_requirement(tmp_path: Path) -> None:
    """The figures themselves mean nothing here: the machine runs other tests."""
    done = run_script("bench_overhead.py", "--quick", cwd=tmp_path)
    assert done.returncode in (0, 1), done.stderr
    assert "NOT FOR QUOTING" in done.stdout
    assert re.search(r"torch \S+, \d+ threads\n.*n = 2 interleaved rounds", done.stdout)
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines() if line[:1] == "|"
    ]
    names, required = [line[0] for line in lines], {line[0]: line[2] for line in lines}
    for batch in (50, 256):
        for arm in ("plain", "tuned"):
            assert required[f"batch {batch}: harness / {arm}"] == "at least 0.98"
        assert f"batch {batch}: harness, share of matmul rate" in names
    for words in ("sum without evaluation", "sum with evaluation", "--help: s", "--cfg job: s", "peak memory"):
        assert any(words in name for name in names)
    met = {line[3] for line in lines[2:] if line[2]}
    assert met <= {"yes", "NO"}
    assert (done.returncode == 1) == ("NO" in met)
    assert list(tmp_path.iterdir()) == []


def other_rate(task: "TrainingTask") -> "TrainingTask":
    """A learning rate off by one percent."""
    config = task.config
    optimizer = dataclasses.replace(config.optimizer, lr=1.01 * config.optimizer.lr)
    return dataclasses.replace(task, config=dataclasses.replace(config, optimizer=optimizer))


def other_labels(task: "TrainingTask") -> "TrainingTask":
    return dataclasses.replace(task, labels=task.labels.roll(1))


def other_weights(task: "TrainingTask") -> "TrainingTask":
    return dataclasses.replace(task, initial=[*task.initial[:-1], task.initial[-1] + 1e-3 * torch.arange(10)])


@pytest.mark.parametrize("wrong", [other_rate, other_labels, other_weights], ids=lambda wrong: wrong.__name__)
def test_a_wrong_loop_is_refused(
    script: Callable[[str], ModuleType], wrong: "Callable[[TrainingTask], TrainingTask]"
) -> None:
    arms = script("overhead_arms")

    def wrong_arm(task: "TrainingTask") -> "TrainingRun":
        return arms.plain_arm(wrong(task))

    with pytest.raises(arms.GateError, match="the arm 'plain' differs at step"):
        arms.gate({"harness": arms.harness_arm, "plain": wrong_arm}, 50)


def test_no_speed_is_printed_of_a_wrong_loop(
    script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench, arms = script("bench_overhead"), script("overhead_arms")
    plain: TrainingArm = arms.plain_arm
    monkeypatch.setitem(arms.ARMS, "plain", lambda task: plain(other_rate(task)))
    assert bench.main(["--quick"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: batch 50: the arm 'plain' differs at step")


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory: pytest.TempPathFactory) -> "tuple[subprocess.CompletedProcess[str], Path]":
    """Its output, and the folder of its Parquet files."""
    folder = tmp_path_factory.mktemp("acceptance")
    done = run_script("gpu_acceptance.py", "--device", "cpu", "--steps", "10", "--results", "kept", cwd=folder)
    return done, folder / "kept"


def test_acceptance_dry_run_passes_and_says_that_it_is_one(
    dry_run: "tuple[subprocess.CompletedProcess[str], Path]",
) -> None:
    done, folder = dry_run
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("DRY RUN on the processor")
    assert "\nby torch alone: a processor runs the Triton kernels only with TRITON_INTERPRET=1\n" in done.stdout
    assert "FAIL" not in done.stdout
    count = re.search(r"^(\d+) of (\d+) checks passed$", done.stdout, flags=re.MULTILINE)
    assert count is not None
    assert count[1] == count[2]
    assert len(re.findall(r"^\| (?:zero|glorot) +\| torch +\| cpu +\| [\d,]+ \(", done.stdout, flags=re.MULTILINE)) == 4
    assert done.stdout.endswith("python scripts/bench_conv2d.py\n")
    assert results.problems_in(folder) == []
    assert len(pd.read_parquet(folder / "trials")) == 4


def all_pass(acceptance: ModuleType, outcome: object) -> bool:
    checks = [acceptance.check_zero_run, acceptance.check_glorot_learns, acceptance.check_kernels]
    checked = [*acceptance.check_same_start(outcome, "cpu"), *(one for check in checks for one in check(outcome))]
    return all(check.passed for check in checked)


@pytest.mark.parametrize(
    ("trial", "column", "change"),
    [
        (("zero", "torch", 0), "initial_weights_sha256", lambda _: "0" * 64),
        (("glorot", "torch", 1), "initial_weights_sha256", lambda _: "0" * 64),
        (("zero", "torch", 0), "device", lambda _: "cuda"),
        (("zero", "torch", 0), "unmoved", lambda names: names[1:]),
        (("zero", "torch", 1), "unmoved", lambda names: [*names[1:], "fc2.bias"]),
        (("zero", "torch", 0), "train_loss_last", lambda loss: loss * (1 + 3e-6)),
        (("zero", "torch", 0), "last_bias_difference", lambda bias: [bias[0] + 3e-7, *bias[1:]]),
        (("glorot", "torch", 0), "train_loss_first", lambda loss: loss * (1 + 3e-4)),
        (("glorot", "torch", 0), "train_loss_last", lambda _: 99.0),
        (("glorot", "torch", 0), "unmoved", lambda _: ["fc2.bias"]),
        (("zero", "triton_fused", 0), "initial_weights_sha256", lambda _: "0" * 64),
        (("zero", "triton", 0), "device", lambda _: "cuda"),
        (("zero", "triton_fused", 0), "unmoved", lambda names: names[1:]),
        (("zero", "triton", 0), "train_loss_last", lambda loss: loss * (1 + 3e-6)),
        (("glorot", "triton", 0), "unmoved", lambda _: ["conv1.weight"]),
        (("glorot", "triton_fused", 0), "train_loss_first", lambda loss: loss * (1 + 3e-4)),
        (("glorot", "triton_fused", 0), "train_loss_last", lambda loss: loss * (1 + 2e-2)),
        (("glorot", "triton", 0), "kernel_error", lambda _: 1e-3),
        (("zero", "triton_fused", 0), "kernel_error", lambda _: float("nan")),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_acceptance_fails_on_a_wrong_result(
    dry_run: "tuple[subprocess.CompletedProcess[str], Path]",
    script: Callable[[str], ModuleType],
    trial: tuple[str, str, int],
    column: str,
    change: Callable[[object], object],
) -> None:
    """Of the kernels' trials the rows are torch's, renamed: there is no GPU to train them."""
    acceptance = script("gpu_acceptance")
    outcome = acceptance.read(dry_run[1], acceptance.AcceptancePlan("cpu", (), 10, 50))
    for init, kernel in itertools.product(acceptance.INITS, acceptance.TRITON):
        columns = {"kernel": kernel, "kernel_error": 1e-7, "kernel_precision": "ieee"}
        outcome.rows[init, kernel, 0] = pd.Series({**outcome.rows[init, "torch", 0], **columns})
    assert all_pass(acceptance, outcome)
    row = outcome.rows[trial].astype(object).copy()
    row[column] = change(row[column])
    outcome.rows[trial] = row
    assert not all_pass(acceptance, outcome)


def test_acceptance_wants_every_trial_of_every_kernel(
    dry_run: "tuple[subprocess.CompletedProcess[str], Path]", script: Callable[[str], ModuleType]
) -> None:
    acceptance = script("gpu_acceptance")
    assert acceptance.plan_of("cuda", None) == acceptance.AcceptancePlan("cuda", ("triton", "triton_fused"), 1000, 50)
    assert sum(acceptance.plan_of("cuda", None).expected.values()) == 8
    assert acceptance.read(dry_run[1], acceptance.AcceptancePlan("cpu", ("triton",), 10, 50)) is None


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Triton is there for Linux only")
def test_acceptance_dry_run_trains_by_the_kernels_through_the_interpreter(tmp_path: Path) -> None:
    done = run_script("gpu_acceptance.py", "--device", "cpu", cwd=tmp_path, TRITON_INTERPRET="1", OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "by torch alone" not in done.stdout
    assert re.search(r"^\| sweep of 8 trials +\| exit code 0, 0 +\| pass +\|$", done.stdout, flags=re.MULTILINE)
    for kernel in ("triton", "triton_fused"):
        for line in (f"zero by {kernel} on cpu: tensors bit-equal", f"glorot by {kernel}: last loss, to torch's"):
            assert re.search(rf"^\| {re.escape(line)}.*\| pass +\|$", done.stdout, flags=re.MULTILINE), line


def test_acceptance_of_no_steps_is_refused(tmp_path: Path) -> None:
    done = run_script("gpu_acceptance.py", "--device", "cpu", "--steps", "0", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        "error: argument --steps: 0: give a whole number of at least 1; "
        "python scripts/gpu_acceptance.py --help shows the options\n"
    )


def test_acceptance_without_a_gpu_says_so_in_one_line(tmp_path: Path) -> None:
    done = run_script("gpu_acceptance.py", cwd=tmp_path, CUDA_VISIBLE_DEVICES="")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == ["error: no CUDA GPU that torch can use; --device cpu is a dry run without one"]


def test_acceptance_writes_into_no_folder_that_exists(tmp_path: Path) -> None:
    done = run_script("gpu_acceptance.py", "--device", "cpu", "--results", ".", cwd=tmp_path)
    assert done.returncode == 2
    assert "exists already" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_embedded_images_are_made_by_the_script(
    script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = os.environ.get("INITBENCH_MNIST_ROOT")
    if root is None:
        pytest.skip("INITBENCH_MNIST_ROOT names no folder with MNIST/raw in it")
    maker = script("make_mnist5k")
    monkeypatch.setattr(maker, "_TARGET", tmp_path / "made.parquet")
    assert maker.main([root]) == 0
    made, embedded = (pq.ParquetFile(path).read() for path in (tmp_path / "made.parquet", data._EMBEDDED))
    assert made.equals(embedded, check_metadata=True)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflow_is_pinned_and_may_do_no_more_than_it_must(path: Path) -> None:
    text = path.read_text()
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 90
        for step in job["steps"]:
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False
    used = re.findall(r"uses:(.*)", text)
    assert used
    for action in used:
        assert re.fullmatch(r" [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), "a commit, and the version it is"


def test_ci_runs_both_commands_on_every_python_the_package_takes() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    assert jobs["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert commands == [".ci/run", "make run PYTHON=python"]


def test_page_of_initializers_is_what_its_script_writes(tmp_path: Path) -> None:
    """From the committed Parquet and the files in conf/init: nobody typed a number into it."""
    copy = tmp_path / "checkout"
    shutil.copytree(ROOT / "docs", copy / "docs")
    shutil.copytree(ROOT / "scripts", copy / "scripts")
    written = copy / "docs/initializers.md"
    committed = written.read_text()
    written.unlink()
    script = copy / "scripts/initializer_page.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert written.read_text() == committed
    for path in (ROOT / "conf/init").glob("*.yaml"):
        assert f"| `{path.stem}` |" in committed


@pytest.mark.slow
def test_every_initializer_is_timed() -> None:
    script = ROOT / "scripts/bench_init.py"
    done = subprocess.run(
        [sys.executable, script, "--rounds", "1", "--drawn"], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stderr == ""
    listed = set(re.findall(r"^  (\w+) +[\d.]+ ms", done.stdout, flags=re.MULTILINE))
    assert {"zero", "orthogonal", "sparse", "fixup"} <= listed
    assert "lsuv" not in listed
    assert done.returncode == (1 if "MISSED" in done.stdout else 0)
