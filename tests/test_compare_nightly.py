"""The nightly job: what its exit code says, the workflow that starts it, and what keeps both from rotting."""

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from made_trials import Row, folder, trial

import harness
from harness.compare.folders import names
from harness.compare.measures import measures
from harness.compare.power import fewest_pairs

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
NIGHTLY = ROOT / ".github/workflows/nightly-gpu.yml"


@pytest.fixture
def nightly(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("nightly")


Night = Callable[..., int]


@pytest.fixture
def night(nightly: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Night:
    """``night(trials, acceptance=0, sweep=0, report=0)``: the job with these trials, its comparison real."""
    numbers, real = count(), nightly.call

    def run(made: Sequence[Row], **codes: int) -> int:
        def call(*arguments: Any) -> int:
            line = " ".join(map(str, arguments))
            for words, step in (
                ("gpu_acceptance", "acceptance"),
                ("harness.run", "sweep"),
                ("harness.report", "report"),
            ):
                if words in line:
                    if step == "sweep":
                        folder(current.results, made)
                    return codes.get(step, 0)
            return int(real(*arguments))

        path = tmp_path / f"night{next(numbers)}"
        path.mkdir()
        current = nightly.NightlyJob("cuda", "full", path, tmp_path / "baselines", "nightly")
        monkeypatch.setattr(nightly, "call", call)
        return int(nightly.run(current))

    return run


def speeds(factor: float, spread: float = 0.01, **columns: Any) -> list[Row]:
    """Twelve seeds whose weights are always the same, and whose speed is not."""
    return [
        trial(
            seed,
            final_weights_sha256=str(seed),
            images_per_s_median=5000 * factor * (1 + spread * ((7 * seed) % 12 - 5.5) / 12),
            **columns,
        )
        for seed in range(12)
    ]


def test_nights_are_green_until_something_is_worse(
    night: Night, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    job = tmp_path / "job.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(job))
    assert night(speeds(1.0)) == 0
    assert names(tmp_path / "baselines") == ["nightly"]
    assert "The first night: these results are now the baseline nightly" in job.read_text()
    assert "::warning::no baseline nightly was there" in capfd.readouterr().out
    assert night(speeds(1.01)) == 0
    assert "::warning" not in capfd.readouterr().out
    assert "## Comparison: ok" in job.read_text()
    assert (tmp_path / "night1" / "junit.xml").exists()
    assert (tmp_path / "night1" / "comparison.json").exists()
    assert night(speeds(0.5)) == 1
    assert "## Comparison: regression" in job.read_text()
    assert night(speeds(1.0, spread=1.5)) == 0
    assert "::warning title=Nightly comparison::inconclusive" in capfd.readouterr().out
    assert night(speeds(1.0, device_model="Chip 10")) == 2
    assert (tmp_path / "night4" / "summary.md").read_text().count("different hardware for device=cpu") == 1


def test_thresholds_beside_the_baseline_are_used(night: Night, tmp_path: Path) -> None:
    assert night(speeds(1.0)) == 0
    kept = '{"format": "initbench thresholds 1", "thresholds": {"images_per_s": 3.0}}'
    (tmp_path / "baselines" / "nightly.thresholds.json").write_text(kept)
    assert night(speeds(0.5)) == 0


@pytest.mark.parametrize(("step", "code", "expected"), [
    ("acceptance", 1, 1), ("acceptance", 2, 2), ("sweep", 1, 1), ("sweep", 2, 2), ("report", 2, 2), ("report", 1, 2),
])  # fmt: skip
def test_a_failing_step_is_red(night: Night, tmp_path: Path, step: str, code: int, expected: int) -> None:
    assert night(speeds(1.0), **{step: code}) == expected
    # bad results of a first night are no baseline
    assert names(tmp_path / "baselines") == (["nightly"] if step == "report" else [])
    assert f"- {step}: exit code" in (tmp_path / "night0" / "summary.md").read_text()


def test_on_a_cpu_acceptance_is_skipped_loudly(nightly: ModuleType, tmp_path: Path, capsys: Any) -> None:
    assert nightly.accept(nightly.NightlyJob("cpu", "small", tmp_path, tmp_path, "x")) == 0
    assert capsys.readouterr().out == "SKIPPED gpu_acceptance: --device cpu, no GPU is accepted tonight\n"


def test_without_a_gpu_the_night_ends_with_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    command = [sys.executable, ROOT / "scripts/nightly.py", "--folder", "nights"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "error: no CUDA GPU that torch can use" in done.stderr
    assert "exit code 2" in done.stdout.splitlines()[-1]


@pytest.mark.parametrize(("device", "size"), [("cuda", "full"), ("cpu", "full"), ("cpu", "small")])
def test_the_sweep_has_seeds_enough_to_be_judged(nightly: ModuleType, device: str, size: str) -> None:
    """Convergence repeats bit by bit until the program changes; then all of it counts."""
    line = [*nightly.SWEEPS[size], nightly.KERNELS[device]]
    choices = dict(part.split("=", 1) for part in line)
    seeds = len(eval(choices["seed"]))  # noqa: S307 - range(a, b), of the file beside this one
    arms = len(choices["init"].split(",")) * len(choices["kernel"].split(","))
    one = [part for part in line if part.startswith(("train.", "model="))]
    targets = harness.load_config(["experiment=nightly", *one]).train.targets
    assert seeds >= fewest_pairs(arms * len(measures(targets)), 0.05)


WORSE = """
import sys
import torch
plain = torch.optim.SGD
torch.optim.SGD = lambda parameters, lr, **more: plain(parameters, lr=lr / 2, **more)
from harness.run import main
if __name__ == "__main__":
    main()
"""
"""A program of its own; the workers of a sweep import it again and take its optimizer over."""


@pytest.mark.slow
def test_the_small_night_judges_convergence_and_a_worse_program_is_red(
    nightly: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """One initializer, first as it is, then repeated bit by bit, then at half the learning rate it is told to take."""
    real = nightly.call

    def night(number: int, sweep: Callable[..., int]) -> int:
        def call(*arguments: Any) -> int:
            if "harness.report" in arguments:
                return 0
            return sweep(*arguments) if "harness.run" in arguments else int(real(*arguments))

        path = tmp_path / f"night{number}"
        path.mkdir()
        monkeypatch.setattr(nightly, "call", call)
        return int(nightly.run(nightly.NightlyJob("cpu", "small", path, tmp_path / "baselines", "small")))

    def repeat(*_: Any) -> int:
        files = (tmp_path / "night0/results/trials").iterdir()
        rows = [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]
        folder(tmp_path / "night1/results", [row | {"trial_id": f"again-{row['trial_id']}"} for row in rows])
        return 0

    alone = [part for part in nightly.SWEEPS["small"] if not part.startswith(("init=", "seed="))]
    monkeypatch.setitem(nightly.SWEEPS, "small", ["init=glorot", "seed=range(0,8)", "device.threads=1", *alone])
    assert night(0, real) == 0
    capfd.readouterr()
    assert night(1, repeat) == 0
    steps = ", ".join(f"steps to {target} (1 arm)" for target in (0.5, 0.7, 0.8))
    assert f"judged: {steps}, test loss (1 arm), test accuracy (1 arm), images/s (1 arm)\n" in capfd.readouterr().out
    (tmp_path / "worse.py").write_text(WORSE)
    assert night(2, lambda *arguments: int(real(tmp_path / "worse.py", *arguments[2:]))) == 1
    comparisons = json.loads((tmp_path / "night2/comparison.json").read_text())["comparisons"]
    worse = {one["measure"] for one in comparisons if one["verdict"] == "regression"}
    assert {"steps to 0.7", "steps to 0.8", "test loss", "test accuracy"} <= worse


def lint(path: Path) -> "tuple[subprocess.CompletedProcess[str], subprocess.CompletedProcess[str]]":
    """By the schema of GitHub's workflows, and for security."""
    bin_ = Path(sys.executable).parent
    schema = [bin_ / "check-jsonschema", "--builtin-schema", "vendor.github-workflows", path]
    security = [bin_ / "zizmor", "--offline", "--persona=regular", "--no-progress", path]
    first, second = (
        subprocess.run(line, capture_output=True, text=True, timeout=60, check=False) for line in (schema, security)
    )
    return first, second


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_pass_the_linters(path: Path) -> None:
    for done in lint(path):
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("find", "replace", "linter"), [
    ("runs-on:", "runs-in:", 0),
    ("make nightly", "echo ${{ github.event.head_commit.message }}; make nightly", 1),
    ("persist-credentials: false", "fetch-depth: 1", 1),
    (r"upload-artifact@[0-9a-f]{40} # v[\d.]+", "upload-artifact@v7", 1),
])  # fmt: skip
def test_the_linters_notice_a_bad_workflow(tmp_path: Path, find: str, replace: str, linter: int) -> None:
    (tmp_path / ".github/workflows").mkdir(parents=True)
    bad = tmp_path / ".github/workflows/nightly-gpu.yml"
    text, changed = re.subn(find, lambda _: replace, NIGHTLY.read_text(), count=1)
    assert changed == 1
    bad.write_text(text)
    assert lint(bad)[linter].returncode != 0


def test_the_workflow_is_one_make_on_the_gpu_machine() -> None:
    workflow = yaml.safe_load(NIGHTLY.read_text())
    # YAML 1.1 reads the key "on" as true
    assert set(workflow[True]) == {"schedule", "workflow_dispatch"}
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["cancel-in-progress"] is False
    (job,) = workflow["jobs"].values()
    assert job["runs-on"] == ["self-hosted", "gpu"]
    (command,) = [step["run"] for step in job["steps"] if "run" in step]
    assert command.startswith("make nightly ")
    assert "NIGHTLY_DEVICE=cuda" in command
    assert "$HOME" in command, "baselines in the checkout would be cleaned away"
    (upload,) = [step for step in job["steps"] if "upload-artifact" in step.get("uses", "")]
    assert upload["if"] == "${{ always() }}"
    assert upload["with"]["path"] == "outputs/nightly"


def test_ci_runs_the_same_job_small(tmp_path: Path) -> None:
    """What make would do, without doing it."""
    script = (ROOT / ".ci/run").read_text()
    assert subprocess.run(["bash", "-n", ROOT / ".ci/run"], check=False).returncode == 0
    assert script.index("make test") < script.index("make nightly NIGHTLY_DEVICE=cpu NIGHTLY_SIZE=small")
    variables = ["NIGHTLY_DEVICE=cpu", "NIGHTLY_SIZE=small", f"NIGHTLY_FOLDER={tmp_path}"]
    line = ["make", "-n", "-C", ROOT, "nightly", *variables]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=True)
    assert 'scripts/nightly.py --device "cpu" --size "small"' in done.stdout
    assert f'--folder "{tmp_path}" --baselines "outputs/baselines"' in done.stdout.replace("\\\n", "").replace("\t", "")
