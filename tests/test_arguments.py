"""A wrong command is refused in one line that says where its help is, by every command of the project."""

import argparse
import importlib
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import arguments
from harness.arguments import Parser, one_line_errors
from harness.compare.command import main as compare
from harness.errors import UsageError
from harness.explain import main as explain
from harness.report.command import main as report

ROOT = Path(__file__).parent.parent
STARTED_BY_SCRIPTS = {"peer_process"}
"""What bench_peers starts, in an environment that may lack the harness; nobody types its options."""
SCRIPTS = sorted(
    {path.stem for path in (ROOT / "scripts").glob("*.py") if "__main__" in path.read_text()} - STARTED_BY_SCRIPTS
)
COMMANDS = {
    "python -m harness.compare": compare,
    "python -m harness.compare promote": lambda typed: compare(["promote", *typed]),
    "python -m harness.explain": explain,
    "python -m harness.report": report,
}


def assert_refused(main: Callable[[list[str]], int], prog: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["results", "more", "and more", "--no-such-option"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.endswith(f"; {prog} --help shows the options\n")
    assert err.count("\n") == 1


@pytest.mark.parametrize("prog", COMMANDS)
def test_wrong_command_is_one_line(prog: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert_refused(COMMANDS[prog], prog, capsys)


@pytest.mark.parametrize("name", SCRIPTS)
def test_wrong_option_of_a_script_is_one_line(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == "compile_kernels":
        pytest.importorskip("triton", reason="Triton is there for Linux only")
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    assert_refused(importlib.import_module(name).main, f"python scripts/{name}.py", capsys)


def test_usage_errors_become_one_line_and_others_do_not(capsys: pytest.CaptureFixture[str]) -> None:
    @one_line_errors
    def command(error: Exception | None) -> int:
        if error is not None:
            raise error
        return 7

    assert command(None) == 7
    assert command(UsageError("lr=-1 is not allowed;\ngive more")) == 2
    assert capsys.readouterr() == ("", "error: lr=-1 is not allowed; give more\n")
    with pytest.raises(ZeroDivisionError):
        command(ZeroDivisionError())


@pytest.mark.parametrize(
    ("kind", "text", "problem"),
    [
        (arguments.positive, "0", "0: give a whole number of at least 1"),
        (arguments.positive, "1.5", "1.5: give a whole number of at least 1"),
        (arguments.existing_folder, "nowhere", "nowhere: no such folder"),
        (arguments.existing_folder, "", "an empty name: no such folder"),
        (arguments.file_to_write, "nowhere/a.md", "nowhere/a.md: there is no folder "),
        (arguments.file_to_write, ".", ".: is no file name"),
        (arguments.file_to_write, "", "an empty name: is no file name"),
    ],
)
def test_values_are_refused_with_what_to_give(
    kind: Callable[[str], object], text: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    parser = Parser(prog="python x.py")
    parser.add_argument("--value", type=kind)
    with pytest.raises(UsageError, match=r"; python x\.py --help shows the options$") as refused:
        parser.parse_args(["--value", text])
    assert str(refused.value).startswith(f"argument --value: {problem}")


def test_values_that_are_right_are_taken(tmp_path: Path) -> None:
    parser = Parser(prog="python x.py")
    parser.add_argument("count", type=arguments.positive)
    parser.add_argument("folder", type=arguments.existing_folder)
    parser.add_argument("file", type=arguments.file_to_write)
    typed = parser.parse_args(["3", str(tmp_path), str(tmp_path / "new.md")])
    assert typed == argparse.Namespace(count=3, folder=tmp_path, file=tmp_path / "new.md")
