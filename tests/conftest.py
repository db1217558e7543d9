"""What the tests share: configs that write below the test's own folder, and the command as a user types it."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from command_server import forked
from hypothesis import settings

import harness
from harness import TrialConfig
from harness.results import schema, table_files

# run by test_kernels.py, in processes of their own
collect_ignore = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["interpreted"]

# a virtual machine's page faults make single examples slow now and then; the same examples each time: CI is no lottery
settings.register_profile("initbench", deadline=None, derandomize=True)
settings.load_profile("initbench")

QUICK = ("device=cpu", "train.steps=6", "train.eval_every=3", "train.window_steps=2", "train.warmup_steps=1")

Configure = Callable[..., TrialConfig]
Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def configure(tmp_path: Path) -> Configure:
    """``configure(*overrides)``: a config of six steps on the CPU, with results below the test's folder."""
    return lambda *overrides: harness.load_config([*QUICK, f"results.dir={tmp_path / 'results'}", *overrides])


LONGEST = ("test_kernels", "test_cli", "test_failures", "test_mutants", "test_truth_table", "test_sweep")
"""Files that begin first, so that no process is left alone with one of them at the end."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests of a file in one process, but for those that are a process each."""
    if config.getoption("dist", "no") != "loadgroup":
        return
    for item in items:
        alone = getattr(item, "originalname", "") == "test_passes_under_the_interpreter"
        item.add_marker(pytest.mark.xdist_group(item.name if alone else item.path.stem))
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


def run_command(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """``python -m harness.run ARGUMENTS`` in a folder that is not the checkout, without the seconds of its imports."""
    return forked("harness.run", *arguments, cwd=cwd)


def run_python(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """``python -m harness.run ARGUMENTS`` by an interpreter of its own."""
    command = [sys.executable, "-m", "harness.run", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=540, check=False)


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """``command(*arguments)``: the command line, in the test's own folder."""
    return lambda *arguments: run_command(*arguments, cwd=tmp_path)


@pytest.fixture
def evolve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """``evolve()``: from now on the program is one of the next schema version, with one column more in trials."""
    caches = (schema._arrow_schema, table_files._stored)

    def now() -> int:
        following = schema.SCHEMA_VERSION + 1
        like = next(column for column in schema.COLUMNS["trials"] if column.name == "error_message")
        later = replace(like, name="later", since=following)
        monkeypatch.setitem(schema.COLUMNS, "trials", [*schema.COLUMNS["trials"], later])
        monkeypatch.setattr(schema, "SCHEMA_VERSION", following)
        return following

    yield now
    for cache in caches:
        cache.cache_clear()
