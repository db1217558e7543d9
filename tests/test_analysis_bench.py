"""The measurement of what analysis costs runs, holds its requirements at a small size, and says when one is missed."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "scripts"))
    return importlib.import_module("bench_analysis")


def test_quick_bench_meets_what_it_requires(bench: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--quick"]) == 0
    printed = capsys.readouterr().out
    assert "NOT FOR QUOTING" in printed
    assert "| trials " in printed
    assert printed.endswith("every requirement is met\n")


def test_missed_requirement_is_named_and_fails(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "MOST_MEMORY_GB", 0.01)
    monkeypatch.setattr(bench, "_single", lambda _effort, _folder: iter(()))
    assert bench.main(["--quick"]) == 1
    assert capsys.readouterr().out.endswith("missed: its peak memory, GB\n")


def test_memory_is_that_of_the_analysis_and_not_of_what_started_it(bench: ModuleType, tmp_path: Path) -> None:
    bench.make(tmp_path, 20, 3, part=20)
    held = bytearray(b"x") * 600_000_000
    assert bench._apart("analyse", tmp_path)["peak_gb"] < len(held) / 1e9
