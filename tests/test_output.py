"""What commands print: into terminals, pipes, files and full disks, in any encoding, of folders from anywhere."""

import contextlib
import io
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import pytest

import harness
from harness import results
from harness.compare.command import main as compare_main
from harness.explain import main as explain_main
from harness.report.command import main as report_main
from harness.wording import error_text, one_line, printable

Done = subprocess.CompletedProcess[str]
Folders = tuple[Path, Path]

CHOICES = ("device=cpu", "device.threads=1", "model=mlp", "init=glorot", "train.steps=4", "train.eval_every=2")
CONTROL = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u202e]")
HOSTILE = "\x1b]0;owned\x07\x1b[2J\x1b[31mred\x9b5n\u202e\rover\x00"
MAINS: dict[str, Callable[[list[str]], int]] = {
    "compare": compare_main,
    "report": report_main,
    "results": results.main,
    "explain": explain_main,
}
COMMANDS = {
    "compare": "compare BASE CANDIDATE",
    "report": "report BASE --format md",
    "validate": "results validate BASE",
    "status": "results status BASE",
    "explain": " ".join(["explain", *CHOICES]),
}
each_command = pytest.mark.parametrize("typed", COMMANDS.values(), ids=COMMANDS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Two results folders of two trials each, side by side, which no test may change."""
    place = tmp_path_factory.mktemp("measured")
    for name in ("base", "candidate"):
        for seed in (0, 1):
            config = harness.load_config([*CHOICES, f"seed={seed}", f"results.dir={place / name}"])
            assert harness.run_trial(config).ok
    return place / "base", place / "candidate"


def run(arguments: list[str], cwd: Path, **environment: str) -> Done:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        env={**os.environ, "OMP_WAIT_POLICY": "passive", **environment},
        timeout=120,
        check=False,
    )


def called(typed: str, folders: Folders) -> int:
    """Run a command in this process."""
    command, *arguments = typed.split()
    names = {"BASE": str(folders[0]), "CANDIDATE": str(folders[1])}
    return MAINS[command]([names.get(argument, argument) for argument in arguments])


@each_command
def test_a_terminal_without_the_characters_gets_ascii(
    folders: Folders, typed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = called(typed, folders)
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert called(typed, folders) == expected
    assert written.getvalue().isascii()
    assert written.getvalue().strip()


@pytest.fixture
def sink(request: pytest.FixtureRequest) -> Iterator[TextIO | None]:
    """Standard output that breaks."""
    if request.param == "closed":
        yield None
        return
    if request.param == "a full disk":
        stream = Path("/dev/full").open("w")  # noqa: SIM115 - closed below
    else:
        reader, writer = os.pipe()
        os.close(reader)
        stream = os.fdopen(writer, "w")
    yield stream
    with contextlib.suppress(OSError):
        stream.close()


@each_command
@pytest.mark.parametrize("sink", ["a reader that has left", "a full disk", "closed"], indirect=True)
def test_output_that_breaks_is_no_traceback(
    folders: Folders,
    typed: str,
    sink: TextIO | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A reader that has left is no error; output that is lost is one line and exit code 2."""
    expected = called(typed, folders)
    capsys.readouterr()
    monkeypatch.setattr(sys, "stdout", sink)
    code = called(typed, folders)
    is_lost = sink is not None and sink.name == "/dev/full"
    lost = "error: the output is not complete (No space left on device)\n"
    assert (code, capsys.readouterr().err) == ((2, lost) if is_lost else (expected, ""))


@pytest.mark.parametrize(
    ("typed", "end", "code"),
    [
        ("results validate base", "| true; exit ${PIPESTATUS[0]}", 0),
        ("results validate base", "> /dev/full", 2),
        ("results validate base", ">&-", 0),
        ("report --help", "> /dev/full", 2),
        ("run --help", "> /dev/full", 2),
        ("run --cfg job", "> /dev/full", 2),
    ],
)
def test_a_process_ends_quietly_too(folders: Folders, typed: str, end: str, code: int) -> None:
    """Python flushes once more when it ends."""
    module, *arguments = typed.split()
    command = [sys.executable, "-m", f"harness.{module}", *arguments]
    done = subprocess.run(
        ["bash", "-c", f'"$@" {end}', "bash", *command],
        cwd=folders[0].parent, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, len(done.stderr.splitlines())) == (code, 1 if code else 0)


def test_a_forced_terminal_gets_colour_at_most(tmp_path: Path) -> None:
    """Codes that move the cursor turn a log of a CI job into noise."""
    done = run(["harness.run", "-m", *CHOICES, "seed=0,1"], tmp_path, FORCE_COLOR="1", TTY_COMPATIBLE="1")
    assert done.returncode == 0, done.stderr
    assert set(re.findall(r"\x1b\[[0-9;?]*([A-Za-z])", done.stdout)) <= {"m"}
    assert len(done.stdout) < 8_000


def make_hostile(folder: Path) -> None:
    """Let the texts of a folder be those of somebody who wants the reader's terminal."""
    texts = ("init", "device_model", "cpu_model", "error_message", "diagnosis_reason", "platform", "git_commit")
    rows = results.read(folder, "trials").rows.to_pylist()
    shutil.rmtree(folder / "trials")
    results.prepare(folder)
    changed = [row | {name: f"{row[name]}{HOSTILE}" for name in texts} for row in rows]
    changed[-1]["status"] = HOSTILE
    results.write_table(folder, "trials", "hostile", changed)


@pytest.mark.parametrize(
    "typed",
    [
        "compare BASE CANDIDATE --markdown MARKDOWN",
        "compare BASE CANDIDATE --format md --allow-different-hardware --markdown MARKDOWN",
        "compare CANDIDATE BASE --allow-different-hardware --allow-missing --junit MARKDOWN",
        "report CANDIDATE --format md",
        "report CANDIDATE --format json",
        "report CANDIDATE --where init=nothing",
        "results validate CANDIDATE",
        "results status SWEPT",
    ],
)
def test_control_characters_of_a_foreign_folder_are_shown_and_not_sent(
    folders: Folders, tmp_path: Path, typed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile, more = Path(shutil.copytree(folders[1], tmp_path / "hostile")), tmp_path / "more.md"
    make_hostile(hostile)
    swept = tmp_path / "swept"
    if "SWEPT" in typed:
        done = run(["harness.run", "-m", *CHOICES, "seed=0,1", "results.dir=swept"], tmp_path)
        assert done.returncode == 0, done.stderr
        make_hostile(swept)
    called(typed.replace("MARKDOWN", str(more)).replace("SWEPT", str(swept)), (folders[0], hostile))
    printed = capsys.readouterr()
    texts = [printed.out, printed.err, more.read_text() if more.exists() else ""]
    assert not [found for text in texts for found in CONTROL.findall(text)]
    assert "owned" in "".join(texts)


def test_folder_whose_name_is_no_text(tmp_path: Path) -> None:
    """File names are bytes; one that is no UTF-8 is written and read, and printed as escapes."""
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/b\xff")
    done = run(["harness.run", *CHOICES, f"results.dir='{folder}'"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert run(["harness.results", "validate", folder], tmp_path).returncode == 0
    assert run(["harness.report", folder], tmp_path).returncode == 0
    assert len(harness.load(Path(folder)).trials) == 1


def test_a_terminal_still_gets_its_table_and_bar(tmp_path: Path) -> None:
    """What is escaped is what others wrote, and not the program's own colours."""
    own, other = pty.openpty()
    command = [sys.executable, "-m", "harness.run", "-m", *CHOICES, "seed=0,1"]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    with subprocess.Popen(command, cwd=tmp_path, stdout=other, stderr=other, env=environment) as process:
        os.close(other)
        seen = b""
        while True:
            try:
                seen += os.read(own, 65_536)
            except OSError:
                # the other end is closed
                break
    os.close(own)
    assert process.returncode == 0
    assert b"\x1b[1m" in seen
    assert b"\\x1b" not in seen


TEXTS: list[tuple[Callable[[str], str], str, str]] = [
    (one_line, "a\nb\tc", r"a\nb\tc"),
    (printable, "a\nb\tc", "a\nb\tc"),
    (printable, "\x1b[2J\r\x85\u2028\u202e\udcff", r"\x1b[2J\r\x85\u2028\u202e\udcff"),
    (printable, "Größe 大きさ \N{NO-BREAK SPACE}µ│", "Größe 大きさ \N{NO-BREAK SPACE}µ│"),
]


@pytest.mark.parametrize(("shown", "text", "expected"), TEXTS)
def test_text_is_escaped_where_it_could_do_something(shown: Callable[[str], str], text: str, expected: str) -> None:
    assert shown(text) == expected


def test_an_error_says_something_in_one_line() -> None:
    assert error_text(ValueError("two\n  lines\n")) == "two lines"
    assert error_text(ValueError()) == "no message"
