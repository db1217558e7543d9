"""Runs the tests in ``tests/interpreted``, which need Triton's interpreter, each file in a process of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is there for Linux only")

INTERPRETED = Path(__file__).parent / "interpreted"
FILES = sorted(path.name for path in INTERPRETED.glob("test_*.py"))


def run_interpreted(*arguments: str) -> "subprocess.CompletedProcess[str]":
    variables = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", *arguments]
    return subprocess.run(
        command, cwd=INTERPRETED.parent.parent, env=variables, capture_output=True, text=True, timeout=900, check=False
    )


@pytest.mark.parametrize("name", FILES)
def test_passes_under_the_interpreter(name: str) -> None:
    """Every test in the file, none skipped."""
    done = run_interpreted(str(INTERPRETED / name))
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    summary = done.stdout.strip().splitlines()[-1]
    assert re.fullmatch(r"\d{2,} passed in .*", summary), summary


def test_no_file_is_forgotten() -> None:
    assert len(FILES) == 8


def test_without_a_gpu_and_the_interpreter_they_refuse_to_run() -> None:
    """Else they would fail for a reason that says nothing."""
    variables = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    variables |= {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "pytest", "-q", str(INTERPRETED)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 4
    assert "need a CUDA GPU, or TRITON_INTERPRET=1" in done.stderr
