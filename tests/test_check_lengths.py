"""The linter's rule that functions stay short counts as it says, and is enforced."""

import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("check_lengths")


def function(body_lines: int, docstring: str = "") -> str:
    return f"@decorated\ndef long(\n    x: int,\n) -> None:\n{docstring}" + "    x += 1\n" * body_lines


@pytest.mark.parametrize("docstring", ["", '    """One.\n\n    Two.\n    """\n'], ids=["plain", "docstring"])
def test_lines_are_counted_from_def_without_the_docstring(script: ModuleType, tmp_path: Path, docstring: str) -> None:
    path = tmp_path / "module.py"
    path.write_text(function(27, docstring))
    assert list(script.too_long(path)) == []
    path.write_text(function(28, docstring))
    (line,) = script.too_long(path)
    assert line == f"{path}:2: long has 31 lines, at most 30 are allowed; split it"


def test_methods_and_inner_functions_count(script: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    indented = function(40).replace("@decorated\n", "").replace("\n", "\n    ")
    path.write_text(f"class A:\n    {indented}\ndef outer() -> None:\n    {indented}")
    assert [re.search(r": (\w+) has", line)[1] for line in script.too_long(path)] == ["outer", "long", "long"]


def test_a_long_function_fails_the_command(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "module.py").write_text(function(40))
    assert script.main([str(tmp_path)]) == 1
    assert "long has 43 lines" in capsys.readouterr().out


def test_every_exempt_file_is_there_and_needs_it(script: ModuleType) -> None:
    for path in script.EXEMPT:
        assert list(script.too_long(ROOT / path)), f"{path} is exempt and has no long function"


def test_make_lint_runs_it() -> None:
    assert "scripts/check_lengths.py" in (ROOT / "Makefile").read_text().partition("\nlint:")[2].partition("\n\n")[0]
