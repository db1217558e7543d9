"""The report as it is typed: a folder in, one file or standard output."""

import sys
from collections.abc import Sequence
from pathlib import Path

from harness.arguments import Parser, one_line_errors
from harness.errors import UsageError
from harness.paths import typed_path
from harness.report.content import content
from harness.report.page import html
from harness.report.selection import read
from harness.report.text import as_json, markdown
from harness.results import Place, RemotePlace, place_of
from harness.wording import one_line, printable

_CODES = "Exit codes: 0 ok, 2 nothing to report or a wrong command, 130 Ctrl-C. What cannot be read is named on stderr."
_FORMS = {"html": html, "md": markdown, "json": as_json}


def _parser() -> Parser:
    parser = Parser(
        prog="python -m harness.report",
        description="Report what a results folder shows: ranking, curves, speed, causes, completeness.",
        epilog=_CODES,
    )
    parser.add_argument(
        "folder",
        nargs="?",
        default="outputs/results",
        metavar="DIR",
        help="results.dir of a run (outputs/results), or an address such as s3://BUCKET/FOLDER",
    )
    parser.add_argument(
        "--format", choices=list(_FORMS), default="html", help="html: one self-contained page (default)"
    )
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="COLUMN=VALUE,VALUE",
        help="only trials with one of these values, ranked and tested by themselves; may be repeated",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="default: DIR/report.html (DIR is an address: report.html here); md and json: standard output",
    )
    return parser


@one_line_errors
def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    options = _parser().parse_args(arguments)
    _run(place_of(options.folder), options.format, options.output, options.where)
    return 0


def _run(folder: Place, form: str, output: str | None, where: Sequence[str]) -> None:
    frames, problems = read(folder)
    for line in problems:
        print(f"warning: {one_line(line)}", file=sys.stderr)
    text = _FORMS[form](content(frames, folder, problems, where))
    if form == "md":
        text = printable(text)
    if output is None and form != "html":
        print(text, end="")
        return
    # a store may be readable only
    beside = Path() if isinstance(folder, RemotePlace) else folder
    path = typed_path(output, "--output ") if output is not None else beside / "report.html"
    _write(path, text)
    print(one_line(str(path)))


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(
            f"--output {path}: cannot be written ({reason}); name a file in a folder that exists"
        ) from error
