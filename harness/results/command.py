"""The command ``python -m harness.results``: check a results folder, or copy it into few large files."""

import sys
from collections.abc import Sequence

from harness.arguments import Parser, one_line_errors
from harness.results import merging
from harness.results.checking import check
from harness.results.places import Place, place_of
from harness.results.progress import FEW, described, progress
from harness.wording import counted, error_text, one_line

_ABOUT = (
    "Check a results folder, say what its sweeps lack, or copy it into few large files, which load quickly. A folder "
    "may be an address: s3://BUCKET/FOLDER, gs://BUCKET/FOLDER or file:///FOLDER."
)
_CODES = "Exit codes: 0 all is sound, 1 something is not (a line says what), 2 a wrong command, 130 Ctrl-C."
_VALIDATE = "check the results folder DIR and print a line for each fault; nothing is changed"
_COMPACT = (
    "copy the results folder SRC into the new folder DST, with few large files instead of many small ones; SRC is not "
    "changed, and DST appears when it is complete (in an object store: its table trials does)"
)
_STATUS = (
    "say of each sweep whose plan is stored in the results folder DIR how many of its trials ended how, which are "
    "missing, and which command runs them; exit code 1 if any is missing or failed"
)


def _parser() -> Parser:
    parser = Parser(prog="python -m harness.results", description=_ABOUT, epilog=_CODES)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    validate = commands.add_parser("validate", help=_VALIDATE, description=_VALIDATE, epilog=_CODES)
    validate.add_argument("folder", metavar="DIR", type=place_of)
    status = commands.add_parser("status", help=_STATUS, description=_STATUS, epilog=_CODES)
    status.add_argument("folder", metavar="DIR", type=place_of)
    status.add_argument("--all", action="store_true", help="name every missing trial, not only the first ten")
    copy = commands.add_parser("compact", help=_COMPACT, description=_COMPACT, epilog=_CODES)
    copy.add_argument("source", metavar="SRC", type=place_of)
    copy.add_argument("target", metavar="DST", type=place_of)
    return parser


@one_line_errors
def main(arguments: Sequence[str]) -> int:
    """Run the command: return 0 if all is sound, 1 with a line for each problem, 2 if the command is wrong."""
    options = _parser().parse_args(arguments)
    if options.command == "validate":
        return _validate(options.folder)
    if options.command == "status":
        return _status(options.folder, None if options.all else FEW)
    return _compact(options.source, options.target)


def _validate(folder: Place) -> int:
    checked = check(folder)
    for line in checked.problems:
        print(line)
    for line in checked.notes:
        print(f"note: {line}")
    faults = len(checked.problems)
    found = f"problems: {faults}" if faults else "all sound"
    print(one_line(f"{folder}: trials: {checked.trials:,}, {found}"))
    return 1 if faults else 0


def _status(folder: Place, most: int | None) -> int:
    of_plans = progress(folder)
    for line in of_plans.problems:
        print(f"note: {line}")
    if not of_plans.plans:
        print(one_line(f"{folder}: no plan of a sweep is stored there"))
    for own in of_plans.plans:
        for line in described(own, most):
            print(line)
    return 0 if all(own.is_complete for own in of_plans.plans) else 1


def _compact(source: Place, target: Place) -> int:
    try:
        done = merging.compact(source, target)
    except merging.UnsoundError as error:
        for line in error.problems:
            print(line)
        print(f"error: {error_text(error)}", file=sys.stderr)
        return 1
    for merged in done.tables:
        read, parts = counted(merged.files, "file"), counted(merged.parts, "file")
        rows, place = counted(merged.rows, "row"), one_line(str(target / merged.table))
        print(f"{merged.table}: {read}, {rows} -> {place} ({parts})")
    for merged in done.tables:
        for line in merged.remarks:
            print(line)
    if done.left_out:
        print(f"left out: {counted(done.left_out, 'trial')} without a row in trials yet (running, or killed)")
    return 0
